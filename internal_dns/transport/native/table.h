/* The writer's side of the table of repeat.h: put, forget, evict, grow, free. One writer at a time; readers go on
 * meanwhile.
 *
 * An answer is in several lists: the chain of its key, where readers find it; for each part of its network that it
 * depends on, the answers that do, which go when that part changes; and the answers of its network by age, the oldest of
 * which makes room. */
#ifndef INTERNAL_DNS_TABLE_H
#define INTERNAL_DNS_TABLE_H

#include <stdlib.h>

#include "repeat.h"

/* What an answer is made of; the caller keeps its octets. */
struct answer_spec {
    uint32_t network;
    uint16_t qtype;
    uint8_t variant, length;  /* of the name */
    uint32_t part_count;      /* parts of the network that the answer depends on; 0: it depends on the whole network */
    const uint64_t *parts;    /* their hashes (hash_part) */
    const uint8_t *name;      /* lower-cased wire form */
    uint16_t flags, counts[3], cell;
    uint8_t extended;
    bool names_zone;
    uint32_t lead, unit, turns, records, options, ttl_count, shown, authority, whole, chain;
    bool indivisible;
    const uint8_t *record_octets, *option_octets;
    const uint16_t *ttls;
    uint64_t stored, refresh, expires; /* `expires` is 0 unless the answer is relayed */
};

/* What depends on parts, by their hashes. While it grows there are two arrays. */
struct by_part {
    struct dependency **now, **old;
    uint64_t mask, old_mask, count, moved; /* dependencies in both; chains of the old array that are empty */
};

enum {
    FIRST_CHAINS = 1024,      /* of a map */
    MOVED_AT_ONCE = 8,        /* chains: a change takes a microsecond longer while the table grows */
    ACCOUNTS = 16384,         /* chains of accounts; more networks make them longer */
    MAX_PARTS = 64,           /* that an answer may depend on */
    CHANCES = 8,              /* answers that are spared for one that is evicted, since they were repeated */
    /* What an answer takes beside its own memory: its share of the chains, and what malloc adds. */
    PER_ANSWER = 32,
};

/* Return an array of so many chains, a power of two; NULL without memory. */
static inline struct chains *make_chains(uint64_t count)
{
    struct chains *made = calloc(1, sizeof *made + count * sizeof *made->first);
    if (made)
        made->mask = count - 1;
    return made;
}

static inline void free_chains(struct chains *chains)
{
    for (uint64_t chain = 0; chains && chain <= chains->mask; chain++)
        for (struct node *node = chains->first[chain], *next; node; node = next) {
            next = node->next;
            free(node);
        }
    free(chains);
}

static inline void free_map(struct map *map)
{
    free_chains(map->old);
    free_chains(map->now);
}

/* Prepare a zeroed table; false without memory. */
static inline bool make_table(struct table *table, uint64_t bound)
{
    table->generation = 1;
    table->bound = bound;
    table->answers.now = make_chains(FIRST_CHAINS);
    table->networks.now = make_chains(FIRST_CHAINS);
    table->accounts = calloc(ACCOUNTS, sizeof(struct account *));
    table->parts = calloc(1, sizeof *table->parts);
    if (!table->answers.now || !table->networks.now || !table->accounts || !table->parts)
        return false;
    table->parts->now = calloc(FIRST_CHAINS, sizeof(struct dependency *));
    table->parts->mask = FIRST_CHAINS - 1;
    return table->parts->now != NULL;
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
    for (uint32_t chain = 0; table->accounts && chain < ACCOUNTS; chain++)
        for (struct account *account = table->accounts[chain], *next; account; account = next) {
            next = account->next;
            free(account);
        }
    free(table->accounts);
    if (table->parts)
        free(table->parts->now), free(table->parts->old);
    free(table->parts);
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

/* Free *node*, which no new reader can find, when no old one is left. */
static inline void free_later(struct table *table, struct node *node)
{
    node->unlinked_in = atomic_fetch_add(&table->generation, 1);
    node->unlinked = table->limbo;
    table->limbo = node;
    /* A reader that was put to sleep in the middle holds all back: then do not look through the list each time. */
    if (++table->waiting < 64 || table->waiting % 64 == 0)
        free_unseen(table);
}

static inline void retire(struct table *table, struct node *node)
{
    table->octets -= node->size;
    table->entries--;
    free_later(table, node);
}

/* ── chains ──────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Begin to grow, or move some chains of the old array. Without memory chains just become longer. */
static inline void grow(struct table *table, struct map *map)
{
    struct chains *now = map->now, *old = map->old;
    if (!old) {
        struct chains *larger = map->count > now->mask ? make_chains(2 * (now->mask + 1)) : NULL;
        if (!larger)
            return;
        map->moved = 0;
        atomic_store(&map->old, now); /* first: who sees the larger one must see where the nodes are */
        atomic_store(&map->now, larger);
        return;
    }
    for (uint64_t end = map->moved + MOVED_AT_ONCE; map->moved < end && map->moved <= old->mask; map->moved++)
        for (struct node *node; (node = old->first[map->moved]);) {
            _Atomic(struct node *) *first = &now->first[node->hash & now->mask];
            atomic_store(&old->first[map->moved], atomic_load(&node->next));
            atomic_store(&node->next, atomic_load(first));
            atomic_store(first, node);
        }
    if (map->moved > old->mask) {
        atomic_store(&map->old, NULL);
        free_later(table, &old->node);
    }
}

/* The link that leads to the node of this key; it leads to NULL when there is none. */
static inline _Atomic(struct node *) *link_in(struct chains *chains, uint64_t hash, const uint64_t *key, uint32_t words)
{
    _Atomic(struct node *) *link = &chains->first[hash & chains->mask];
    for (struct node *node; (node = *link); link = &node->next)
        if (has_key(node, hash, key, words))
            break;
    return link;
}

static inline _Atomic(struct node *) *link_to(struct map *map, uint64_t hash, const uint64_t *key, uint32_t words)
{
    struct chains *old = map->old;
    _Atomic(struct node *) *link = old ? link_in(old, hash, key, words) : NULL;
    return link && *link ? link : link_in(map->now, hash, key, words);
}

/* Publish *node*, in place of the one with its key if there is one, which is returned and is to be retired. */
static inline struct node *publish(struct table *table, struct map *map, struct node *node)
{
    grow(table, map);
    _Atomic(struct node *) *link = link_to(map, node->hash, key_of(node), node->key_words);
    struct node *old = *link;
    map->count += !old;
    atomic_init(&node->next, old ? atomic_load(&old->next) : NULL);
    table->octets += node->size;
    table->entries++;
    atomic_store(link, node);
    return old;
}

/* Let readers find the node of this key no more; return it, NULL when there is none. It is to be retired. */
static inline struct node *unpublish(struct map *map, uint64_t hash, const uint64_t *key, uint32_t words)
{
    _Atomic(struct node *) *link = link_to(map, hash, key, words);
    struct node *old = *link;
    if (old) {
        atomic_store(link, atomic_load(&old->next));
        map->count--;
    }
    return old;
}

/* Return where a walk over all chains goes on after *cursor*, 0 at its end. It counts with the bits in reverse order, so
 * that what was in chains that were passed stays passed when the array is doubled meanwhile. */
static inline uint64_t next_cursor(uint64_t cursor, uint64_t mask)
{
    uint64_t bit = (mask + 1) >> 1;
    for (cursor &= mask; bit && cursor & bit; bit >>= 1)
        cursor &= ~bit;
    return cursor | bit;
}

/* ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────── */

/* The hash of a part of a network, at most 255 octets that say what it is; never 0. */
static inline uint64_t hash_part(const struct table *table, uint32_t network, const uint8_t *part, uint32_t length)
{
    uint64_t words[1 + 32] = {(uint64_t)length << 32 | network};
    memcpy(words + 1, part, length);
    uint64_t hash = keyed_hash(table->secret, words, 1 + (length + 7) / 8);
    return hash ? hash : 1;
}

static inline struct dependency *dependencies_of(const struct answer *answer)
{
    return (struct dependency *)((uint8_t *)answer + sizeof *answer + (answer->relayed ? sizeof(struct relayed) : 0));
}

static inline void link_dependency(struct dependency **first, struct dependency *one)
{
    one->link = first;
    one->next = *first;
    if (*first)
        (*first)->link = &one->next;
    *first = one;
}

static inline void unlink_dependency(struct dependency *one)
{
    *one->link = one->next;
    if (one->next)
        one->next->link = one->link;
}

/* As `grow`. A step is a dependency moved or a chain passed: on one part may depend any number of answers. */
static inline void grow_parts(struct by_part *parts)
{
    if (!parts->old) {
        uint64_t count = 2 * (parts->mask + 1);
        struct dependency **larger = parts->count > parts->mask ? calloc(count, sizeof *larger) : NULL;
        if (!larger)
            return;
        parts->old = parts->now, parts->old_mask = parts->mask, parts->moved = 0;
        parts->now = larger, parts->mask = count - 1;
        return;
    }
    for (int steps = 2 * MOVED_AT_ONCE; steps && parts->moved <= parts->old_mask; steps--) {
        struct dependency *one = parts->old[parts->moved];
        if (one) {
            unlink_dependency(one);
            link_dependency(&parts->now[one->hash & parts->mask], one);
        } else
            parts->moved++;
    }
    if (parts->moved > parts->old_mask) {
        free(parts->old);
        parts->old = NULL;
    }
}

/* Return an answer that depends on the part of this hash, NULL for none. */
static inline struct answer *find_of_part(const struct by_part *parts, uint64_t hash)
{
    struct dependency *one = parts->old ? parts->old[hash & parts->old_mask] : NULL;
    while (one && one->hash != hash)
        one = one->next;
    if (!one)
        for (one = parts->now[hash & parts->mask]; one && one->hash != hash;)
            one = one->next;
    return one ? one->answer : NULL;
}

/* ── accounts ────────────────────────────────────────────────────────────────────────────────────────────────── */

static inline struct account **account_link(const struct table *table, uint32_t number)
{
    struct account **link = &table->accounts[number * UINT32_C(0x9e3779b1) >> 18];
    while (*link && (*link)->number != number)
        link = &(*link)->next;
    return link;
}
_Static_assert(ACCOUNTS == 1 << (32 - 18), "the upper bits of the product choose the chain");

/* Return the account of a network, which is made if there is none; NULL without memory. */
static inline struct account *account_of(struct table *table, uint32_t number)
{
    struct account **link = account_link(table, number);
    if (!*link && (*link = calloc(1, sizeof **link)))
        (*link)->number = number;
    return *link;
}

/* Forget an account that has no answers, and how many hits it had. */
static inline void drop_account(struct table *table, uint32_t number)
{
    struct account **link = account_link(table, number), *account = *link;
    if (account && !account->entries) {
        *link = account->next;
        free(account);
    }
}

static inline void append(struct account *account, struct node *node)
{
    node->newer = NULL, node->older = account->newest;
    *(account->newest ? &account->newest->newer : &account->oldest) = node;
    account->newest = node;
}

static inline void take_out(struct account *account, struct node *node)
{
    *(node->older ? &node->older->newer : &account->oldest) = node->newer;
    *(node->newer ? &node->newer->older : &account->newest) = node->older;
}

/* Enter an answer that was published into the lists of its parts and of its network. */
static inline void enter(struct table *table, struct account *account, struct answer *answer)
{
    answer->account = account;
    append(account, &answer->node);
    struct dependency *one = dependencies_of(answer), *end = one + answer->dependency_count;
    for (; one < end; one++)
        if (one->hash) {
            grow_parts(table->parts);
            link_dependency(&table->parts->now[one->hash & table->parts->mask], one);
            table->parts->count++;
        } else
            link_dependency(&account->whole, one);
    if (!account->entries++) {
        struct account *hand = table->hand;
        account->after = hand ? hand : account, account->before = hand ? hand->before : account;
        account->before->after = account->after->before = account;
        table->hand = hand ? hand : account;
        table->account_count++;
    }
    account->octets += answer->node.size;
    table->answer_octets += answer->node.size;
}

/* Take an answer that readers find no more out of these lists, and retire it. */
static inline void leave(struct table *table, struct answer *answer)
{
    struct account *account = answer->account;
    take_out(account, &answer->node);
    struct dependency *one = dependencies_of(answer), *end = one + answer->dependency_count;
    for (; one < end; one++) {
        unlink_dependency(one);
        table->parts->count -= one->hash != 0;
    }
    account->octets -= answer->node.size;
    table->answer_octets -= answer->node.size;
    account->gone += atomic_load_explicit(&answer->hits, memory_order_relaxed);
    if (!--account->entries) {
        table->hand = account->after == account ? NULL : table->hand == account ? account->after : table->hand;
        account->before->after = account->after, account->after->before = account->before;
        table->account_count--;
    }
    retire(table, &answer->node);
}

/* Remove an answer that is in the table. */
static inline void forget_answer(struct table *table, struct answer *answer)
{
    unpublish(&table->answers, answer->node.hash, key_of(&answer->node), answer->node.key_words);
    leave(table, answer);
}

/* Return *account* if it has more than its share, else another that has. A hand goes round, since to compare all for
 * each answer would take milliseconds where there are many. */
static inline struct account *with_too_much(struct table *table, struct account *account)
{
    uint64_t count = table->account_count;
    if (account->octets * count > table->answer_octets)
        return account;
    if (table->hand->octets * count > table->answer_octets)
        return table->hand;
    do
        table->hand = table->hand->after;
    while (table->hand->octets * count < table->answer_octets); /* of one at least it is not true */
    return table->hand;
}

/* Remove an oldest answer that was not repeated of late: of the network that needs room if it has more than its share,
 * else of another that has. */
static inline void evict(struct table *table, struct account *account)
{
    account = with_too_much(table, account);
    for (int chance = 0; chance < CHANCES; chance++) {
        struct answer *oldest = (struct answer *)account->oldest;
        uint32_t hits = (uint32_t)atomic_load_explicit(&oldest->hits, memory_order_relaxed);
        if (hits == oldest->spared)
            break;
        oldest->spared = hits;
        take_out(account, &oldest->node);
        append(account, &oldest->node);
    }
    forget_answer(table, (struct answer *)account->oldest);
    table->evictions++;
}

/* ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────── */

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

/* Make an entry in one piece. NULL without memory. */
static inline struct answer *make_answer(const struct table *table, const struct answer_spec *spec)
{
    uint64_t key[KEY_WORDS];
    uint32_t words = make_key(key, key_head(spec->network, spec->qtype, spec->variant, spec->length), spec->name,
                              spec->length);
    size_t key_size = words * 8, ttl_size = spec->ttl_count * 2;
    uint32_t dependencies = spec->part_count ? spec->part_count : 1;
    size_t key_at = sizeof(struct answer) + (spec->expires ? sizeof(struct relayed) : 0)
        + dependencies * sizeof(struct dependency);
    size_t size = key_at + key_size + ttl_size + spec->records + spec->options;
    struct answer *made = calloc(1, size);
    if (!made)
        return NULL;
    made->node.key_at = (uint16_t)key_at;
    made->node.key_words = (uint16_t)words;
    made->node.hash = keyed_hash(table->secret, key, words);
    made->node.size = (uint32_t)size + PER_ANSWER;
    if (spec->expires) {
        made->relayed = true;
        *relayed_of(made) = (struct relayed){.stored = spec->stored, .refresh = spec->refresh, .expires = spec->expires,
            .chain = spec->chain, .ttl_count = (uint16_t)spec->ttl_count, .extended = spec->extended};
    }
    made->dependency_count = (uint16_t)dependencies;
    for (uint32_t k = 0; k < dependencies; k++) {
        dependencies_of(made)[k].answer = made;
        dependencies_of(made)[k].hash = spec->part_count ? spec->parts[k] : 0;
    }
    uint8_t *at = (uint8_t *)made + key_at;
    memcpy(at, key, key_size);
    at += key_size;
    if (ttl_size)
        memcpy(at, spec->ttls, ttl_size);
    put(put(at + ttl_size, spec->record_octets, spec->records), spec->option_octets, spec->options);
    made->lead = (uint16_t)spec->lead, made->leading = spec->expires ? 0 : (uint16_t)spec->chain;
    made->unit = (uint16_t)spec->unit, made->turns = spec->turns;
    made->records = spec->records, made->options = (uint16_t)spec->options;
    made->flags = spec->flags, made->cell = spec->cell;
    memcpy(made->counts, spec->counts, sizeof made->counts);
    made->shown = spec->shown, made->authority = (uint16_t)spec->authority, made->whole = spec->whole;
    made->indivisible = spec->indivisible, made->names_zone = spec->names_zone;
    return made;
}

/* Store an answer, and remove others until all are within the bound; return the octets it takes, 0 without memory. */
static inline uint32_t put_answer(struct table *table, const struct answer_spec *spec)
{
    struct account *account = account_of(table, spec->network);
    struct answer *made = account ? make_answer(table, spec) : NULL;
    if (!made)
        return 0;
    uint32_t size = made->node.size;
    struct node *old = publish(table, &table->answers, &made->node);
    enter(table, account, made);
    if (old)
        leave(table, (struct answer *)old);
    while (table->answer_octets > table->bound)
        evict(table, account->entries ? account : table->hand);
    return size;
}

static inline bool remove_answer(struct table *table, uint32_t network, uint16_t qtype, uint8_t variant,
                                 const uint8_t *name, uint8_t length)
{
    uint64_t key[KEY_WORDS];
    uint32_t words = make_key(key, key_head(network, qtype, variant, length), name, length);
    struct node *old = unpublish(&table->answers, keyed_hash(table->secret, key, words), key, words);
    if (old)
        leave(table, (struct answer *)old);
    return old != NULL;
}

/* Return an answer that depends on *part* of a network, or with NULL on the whole network; NULL for none. */
static inline struct answer *find_dependent(const struct table *table, uint32_t network, const uint8_t *part,
                                            uint32_t length)
{
    if (part)
        return find_of_part(table->parts, hash_part(table, network, part, length));
    struct account *account = *account_link(table, network);
    return account && account->whole ? account->whole->answer : NULL;
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
    uint64_t hash = label_hash(table, label, label[0]), one = hash & mask, other = hash >> 32 & mask;
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

/* Make the record of a network with room for *labels* and *zones* in its sets, not published yet: 16 bits per member
 * make one other in seventy go up without need. NULL without memory. */
static inline struct network *make_network(const struct table *table, uint32_t number, uint64_t labels, uint64_t zones)
{
    uint64_t bits = bits_for(labels, 1024), zone_bits = zones ? bits_for(zones, 64) : 0;
    size_t size = sizeof(struct network) + 8 + bits / 8 + zone_bits / 8;
    struct network *made = calloc(1, size);
    if (!made)
        return NULL;
    uint64_t *key = (uint64_t *)(made + 1);
    key[0] = key_head(number, 0, 0, 0);
    made->node.key_at = sizeof(struct network);
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
    const struct network *before = find_network(table, (uint32_t)(key_of(&made->node)[0] >> 32));
    if (before)
        atomic_store_explicit(&made->due, atomic_load_explicit(&before->due, memory_order_relaxed), memory_order_relaxed);
    struct node *old = publish(table, &table->networks, &made->node);
    if (old)
        retire(table, old);
}

static inline bool remove_network(struct table *table, uint32_t number)
{
    uint64_t key = key_head(number, 0, 0, 0);
    struct node *old = unpublish(&table->networks, keyed_hash(table->secret, &key, 1), &key, 1);
    if (old)
        retire(table, old);
    return old != NULL;
}

#endif
