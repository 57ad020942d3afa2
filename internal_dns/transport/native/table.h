/* The writer's side of the table of repeat.h: put, remove, free. One writer at a time; readers go on meanwhile. */
#ifndef INTERNAL_DNS_TABLE_H
#define INTERNAL_DNS_TABLE_H

#include <stdlib.h>

#include "repeat.h"

/* What an answer is made of; the caller keeps its octets. */
struct answer_spec {
    uint32_t network;
    uint16_t qtype;
    uint8_t variant, length;  /* of the name */
    const uint8_t *name;      /* lower-cased wire form */
    uint16_t flags, counts[3], cell;
    uint8_t extended;
    bool names_zone;
    uint32_t lead, unit, turns, records, options, ttl_count, shown, authority, whole, chain;
    bool indivisible;
    const uint8_t *record_octets, *option_octets;
    const uint16_t *ttls;
    uint64_t stored, refresh, expires;
};

static inline bool make_map(struct map *map, uint64_t chains)
{
    uint64_t count = 64;
    while (count < chains)
        count *= 2;
    map->mask = count - 1;
    map->chains = calloc(count, sizeof *map->chains);
    return map->chains != NULL;
}

static inline void free_map(struct map *map)
{
    for (uint64_t chain = 0; map->chains && chain <= map->mask; chain++)
        for (struct node *node = map->chains[chain], *next; node; node = next) {
            next = node->next;
            free(node);
        }
    free(map->chains);
}

/* Prepare a zeroed table; false without memory. */
static inline bool make_table(struct table *table, uint64_t answers, uint64_t networks)
{
    table->generation = 1;
    return make_map(&table->answers, answers) && make_map(&table->networks, networks);
}

/* Free all; no reader may be left. */
static inline void free_table(struct table *table)
{
    for (struct node *node = table->limbo, *next; node; node = next) {
        next = node->unlinked;
        free(node);
    }
    free_map(&table->answers);
    free_map(&table->networks);
    for (int depth = 0; depth < DEPTHS; depth++)
        free(table->unknown[depth]);
    free(table->maps);
}

/* A reader's look at the table begins and ends. */
static inline void begin_reading(struct table *table, struct reader *reader)
{
    atomic_store(&reader->began_in, atomic_load(&table->generation));
}

static inline void end_reading(struct reader *reader)
{
    atomic_store_explicit(&reader->began_in, 0, memory_order_release);
}

/* Free what no reader can still see. */
static inline void free_unseen(struct table *table)
{
    uint64_t oldest = UINT64_MAX;
    for (int k = 0; k < READERS; k++) {
        uint64_t began_in = atomic_load(&table->readers[k].began_in);
        if (began_in && began_in < oldest)
            oldest = began_in;
    }
    for (struct node **link = &table->limbo; *link;) {
        struct node *node = *link;
        if (node->unlinked_in < oldest) {
            *link = node->unlinked;
            table->waiting--;
            free(node);
        } else
            link = &node->unlinked;
    }
}

static inline void retire(struct table *table, struct node *node)
{
    node->unlinked_in = atomic_fetch_add(&table->generation, 1);
    node->unlinked = table->limbo;
    table->limbo = node;
    table->octets -= node->size;
    table->entries--;
    /* A reader that was put to sleep in the middle holds all back: then do not look through the list each time. */
    if (++table->waiting < 64 || table->waiting % 64 == 0)
        free_unseen(table);
}

/* The link that leads to the node of this key; it leads to NULL when there is none. */
static inline _Atomic(struct node *) *link_to(struct map *map, uint64_t hash, const uint64_t *key, uint32_t words)
{
    _Atomic(struct node *) *link = &map->chains[hash & map->mask];
    for (struct node *node; (node = *link); link = &node->next)
        if (node->hash == hash && node->key_words == words && !memcmp(node->key, key, words * 8))
            break;
    return link;
}

/* Publish *node*, in place of the one with its key if there is one. */
static inline void put_node(struct table *table, struct map *map, struct node *node)
{
    _Atomic(struct node *) *link = link_to(map, node->hash, node->key, node->key_words);
    struct node *old = *link;
    atomic_init(&node->next, old ? atomic_load(&old->next) : NULL);
    table->octets += node->size;
    table->entries++;
    atomic_store(link, node);
    if (old)
        retire(table, old);
}

static inline bool remove_node(struct table *table, struct map *map, const uint64_t *key, uint32_t words)
{
    _Atomic(struct node *) *link = link_to(map, keyed_hash(table->secret, key, words), key, words);
    struct node *old = *link;
    if (!old)
        return false;
    atomic_store(link, atomic_load(&old->next));
    retire(table, old);
    return true;
}

/* Whether *octets* are *count* RRs and nothing else, so that `fitting` may step from one to the next. */
static inline bool is_section(const uint8_t *octets, uint32_t size, uint32_t count)
{
    uint32_t at = 0;
    for (; count && at < size; count--) {
        while (at < size && octets[at] && octets[at] < 0xc0)
            at += 1 + (uint32_t)octets[at];
        if (at >= size)
            return false;
        at += octets[at] ? 2 : 1;
        if (at > size || size - at < 10 || size - at - 10 < two(octets + at + 8))
            return false;
        at += 10 + two(octets + at + 8);
    }
    return !count && at == size;
}

/* Make an entry in one piece: the struct, its key, TTL offsets, octets. NULL without memory. */
static inline struct answer *make_answer(const struct table *table, const struct answer_spec *spec)
{
    uint64_t key[KEY_WORDS];
    uint32_t words = make_key(key, key_head(spec->network, spec->qtype, spec->variant, spec->length), spec->name,
                              spec->length);
    size_t key_size = words * 8, ttl_size = spec->ttl_count * 2;
    size_t size = sizeof(struct answer) + key_size + ttl_size + spec->records + spec->options;
    struct answer *made = calloc(1, size);
    if (!made)
        return NULL;
    uint8_t *at = (uint8_t *)(made + 1);
    made->node.key = memcpy(at, key, key_size);
    made->node.key_words = words;
    made->node.hash = keyed_hash(table->secret, key, words);
    made->node.size = (uint32_t)size;
    made->ttls = (uint16_t *)(at += key_size);
    if (ttl_size)
        memcpy(at, spec->ttls, ttl_size);
    made->octets = at += ttl_size;
    put(put(at, spec->record_octets, spec->records), spec->option_octets, spec->options);
    made->lead = spec->lead, made->unit = spec->unit, made->turns = spec->turns;
    made->records = spec->records, made->options = spec->options, made->ttl_count = spec->ttl_count;
    made->flags = spec->flags, made->cell = spec->cell, made->extended = spec->extended;
    memcpy(made->counts, spec->counts, sizeof made->counts);
    made->shown = spec->shown, made->authority = spec->authority, made->whole = spec->whole;
    made->chain = spec->chain, made->indivisible = spec->indivisible, made->names_zone = spec->names_zone;
    made->stored = spec->stored, made->refresh = spec->refresh, made->expires = spec->expires;
    return made;
}

/* Keep an answer; return the octets it takes, 0 without memory. */
static inline uint32_t put_answer(struct table *table, const struct answer_spec *spec)
{
    struct answer *made = make_answer(table, spec);
    if (!made)
        return 0;
    put_node(table, &table->answers, &made->node);
    return made->node.size;
}

static inline bool remove_answer(struct table *table, uint32_t network, uint16_t qtype, uint8_t variant,
                                 const uint8_t *name, uint8_t length)
{
    uint64_t key[KEY_WORDS];
    return remove_node(table, &table->answers, key, make_key(key, key_head(network, qtype, variant, length), name, length));
}

static inline struct answer *find_kept(const struct table *table, uint32_t network, uint16_t qtype, uint8_t variant,
                                       const uint8_t *name, uint8_t length)
{
    uint64_t key[KEY_WORDS];
    uint32_t words = make_key(key, key_head(network, qtype, variant, length), name, length);
    return (struct answer *)find_node(&table->answers, keyed_hash(table->secret, key, words), key, words);
}

/* Add a label (its length octet before it) to a set. */
static inline void add_label(const struct table *table, _Atomic uint64_t *bits, uint64_t mask, const uint8_t *label)
{
    uint64_t hash = label_hash(table, label), one = hash & mask, other = hash >> 32 & mask;
    atomic_fetch_or(&bits[one / 64], (uint64_t)1 << one % 64);
    atomic_fetch_or(&bits[other / 64], (uint64_t)1 << other % 64);
}

/* Add a name, lower-cased, to the zones of a network that has some. */
static inline void add_zone(const struct table *table, struct network *network, const uint8_t *name, uint32_t length)
{
    uint64_t hash = name_hash(table, name, length), one = hash & network->zones_mask;
    uint64_t other = hash >> 32 & network->zones_mask;
    atomic_fetch_or(&network->zones[one / 64], (uint64_t)1 << one % 64);
    atomic_fetch_or(&network->zones[other / 64], (uint64_t)1 << other % 64);
}

/* Let all names below `internal` go up, and with *outside*, in a network that has zones, all others. */
static inline void add_everything(struct network *network, bool outside)
{
    for (uint64_t at = 0; at <= network->mask / 64; at++)
        atomic_store(&network->bits[at], UINT64_MAX);
    for (uint64_t at = 0; outside && network->zones && at <= network->zones_mask / 64; at++)
        atomic_store(&network->zones[at], UINT64_MAX);
}

static inline uint64_t bits_for(uint64_t members, uint64_t least)
{
    uint64_t bits = least;
    while (bits < members * 16)
        bits *= 2;
    return bits;
}

/* Make the record of a network with room for *labels* and *zones* in its sets, not published yet: 16 bits a member make
 * one other in seventy go up without need. NULL without memory. */
static inline struct network *make_network(const struct table *table, uint32_t number, uint64_t labels, uint64_t zones)
{
    uint64_t bits = bits_for(labels, 1024), zone_bits = zones ? bits_for(zones, 64) : 0;
    size_t size = sizeof(struct network) + 8 + bits / 8 + zone_bits / 8;
    struct network *made = calloc(1, size);
    if (!made)
        return NULL;
    uint64_t *key = (uint64_t *)(made + 1);
    key[0] = key_head(number, 0, 0, 0);
    made->node.key = key;
    made->node.key_words = 1;
    made->node.hash = keyed_hash(table->secret, key, 1);
    made->node.size = (uint32_t)size;
    made->mask = bits - 1;
    made->bits = (_Atomic uint64_t *)(key + 1);
    made->zones_mask = zones ? zone_bits - 1 : 0;
    made->zones = zones ? made->bits + bits / 64 : NULL;
    return made;
}

/* Publish a network that was made, in place of the one of its number, which pays on for what it sent up. */
static inline void publish_network(struct table *table, struct network *made)
{
    const struct network *before = (const struct network *)find_node(&table->networks, made->node.hash, made->node.key, 1);
    if (before)
        atomic_store_explicit(&made->due, atomic_load_explicit(&before->due, memory_order_relaxed), memory_order_relaxed);
    put_node(table, &table->networks, &made->node);
}

#endif
