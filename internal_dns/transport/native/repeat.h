/* Recognize a question that was answered before, and repeat the answer: read, hash, look up, build.
 *
 *     datagram ─► read_query ─► find_answer ─► build_reply ─► datagram       anything else: hand it up to Python
 *
 * Nothing is decided here. Python (core/journey.py) decided once what a question's answer is; this file finds it by
 * the question's octets, and puts the id, RD, CD, letter case, OPT and rotation of the query at hand round it. A reply
 * that exceeds the client's limit loses what core/message.py takes from it, in that order. For a plain query no name
 * is parsed: its length follows from the message's, and lower-cased octets that equal those of a stored name are a
 * well-formed name. Only EDNS options (read_options) and names that are not stored (find_unknown) need a walk over the
 * labels. No Python, no allocation, no I/O: it builds alone for the fuzzer.
 *
 * Readers never wait. The table is an array of chains, while it grows two; a writer (one at a time, table.h)
 * publishes an entry with one store and unlinks one with another. A reader says which generation it began in before
 * it follows a pointer, and says 0 when it follows none; an unlinked entry is freed when no reader is left that began
 * before it was unlinked.
 */
#ifndef INTERNAL_DNS_REPEAT_H
#define INTERNAL_DNS_REPEAT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    HEADER = 12,
    OPT_SIZE = 11,        /* an OPT without options: root, type, size, extended RCODE, version, flags, length */
    MAX_QUERY = 4096,     /* as core/wire.py */
    PLAIN_UDP_SIZE = 512, /* RFC 1035 section 4.2.1 */
    OUR_UDP_SIZE = 4096,  /* as core/message.py */
    MAX_NAME = 255,
    KEY_WORDS = 33,       /* of 8 octets: network, QTYPE, variant and length, then the name, zero to the word's end */
    READERS = 17,         /* 16 workers, and Python */
    DEPTHS = 3,           /* labels below `internal` in a name that is not there; 3 is any more */
    BY_TYPE = 256,        /* QTYPEs with a counter of their own are below */
    MAX_NSID = 255,       /* octets */
    MAX_RECORDS = 1 << 22, /* octets; 149,000 addresses, of which some are first in each reply */
    MAX_MESSAGE = 65535,
    IDLE_TIMEOUT = 100,   /* tenths of a second; as core/journey.py */
    KEEPALIVE_SIZE = 6,   /* the option: code, length, timeout */
    COOKIE_SIZE = 28,     /* the option: code, length, client cookie, server cookie (RFC 9018 section 4) */
};
/* EDNS options that change the reply or go up to Python; as core/wire.py. All others are ignored, padding too. */
enum { NSID = 3, COOKIE = 10, KEEPALIVE = 11, ASK_AS = 65001 };
enum { TC = 0x0200, RD = 0x0100, AD = 0x0020, CD = 0x0010 };
/* What a key's variant says: 0 the network's own answers, else a relayed one for everybody, by the query's DO and CD. */
enum { OWN = 0, RELAYED = 1, WITH_DO = 2, WITH_CD = 4 };
/* What a message is: Python's, perhaps one to repeat, or to be dropped in silence. */
enum verdict { HAND_UP, PLAIN, RUNT, RESPONSE, NOWHERE };

/* A member of a chain. Its key is in the same piece of memory, `key_at` octets from the beginning. */
struct node {
    _Atomic(struct node *) next;
    uint64_t hash;
    uint32_t size;            /* octets that the entry is charged for */
    uint16_t key_words, key_at;
    union {                   /* the writer's */
        struct { struct node *older, *newer; };  /* while it is in the table: answers of the same network, by age */
        struct { struct node *unlinked; uint64_t unlinked_in; }; /* what waits to be freed, and since which generation */
    };
};

/* An array of chains. It is retired like a node when all its nodes are in a larger one. */
struct chains {
    struct node node;
    uint64_t mask;
    _Atomic(struct node *) first[];
};

/* While it grows there are two arrays, and each change moves a few chains from the old one. A node in motion may be
 * missed by a reader that passes it: its query goes up to Python once. */
struct map {
    _Atomic(struct chains *) now;
    _Atomic(struct chains *) old;
    uint64_t count, moved;    /* the writer's: nodes; chains of the old array that are empty */
};

/* What the answers of a network take, and which of them is the oldest. Only the writer has it. */
struct account {
    struct account *next;     /* with the same hash */
    struct account *after, *before; /* those with answers, in a ring */
    struct node *oldest, *newest;
    struct dependency *whole; /* of those that depend on the whole network */
    uint64_t octets, entries;
    uint64_t gone;            /* hits of answers that are gone */
    uint32_t number;
};

/* That an answer depends on a part of its network: it is in the list of all answers that do. The writer's. */
struct dependency {
    struct dependency *next, **link;
    struct answer *answer;
    uint64_t hash;            /* of the part (table.h); 0: it depends on the whole network */
};

/* One reply without what depends on the query. Behind the struct: what only a relayed one has, what it depends on, the
 * key, the offsets of the TTLs, and the octets of the records and then of the EDNS options. */
struct answer {
    struct node node;
    struct account *account;  /* the writer's, like the next one */
    uint32_t spared;          /* hits when it was about to be evicted and was not */
    uint32_t turns;           /* the records behind `lead`, of `unit` octets each, take turns in being first */
    _Atomic uint64_t hits;    /* about: two workers may count at once */
    uint32_t records;         /* octets, like all sizes here */
    uint32_t shown;           /* of the answer section, which `records` begins with */
    uint32_t whole;           /* of all three sections: more than `records` when of the answer section only its size is
                               * kept, or of a relayed one only its beginning */
    uint16_t unit, options;
    uint16_t authority;       /* of that section, which follows the answer section */
    uint16_t lead, leading;   /* not relayed: aliases that lead to what was queried, first of the records; how many */
    uint16_t dependency_count;
    uint16_t flags, counts[3];
    uint16_t cell;            /* which counter it counts into */
    bool indivisible;         /* one RR of a list: part of it would look like the whole list */
    bool names_zone;          /* the first record's owner is a pointer to `internal`, wherever the question has that */
    bool relayed;
};

/* What an upstream's answer has besides. Times are milliseconds of the coarse monotonic clock. */
struct relayed {
    uint64_t stored, refresh, expires;
    uint32_t chain;           /* RRs that lead to the set that was queried */
    uint16_t ttl_count;
    uint8_t extended;         /* the upper bits of the RCODE, for OPT */
    bool decided_again;       /* Python's: it has had the answer refreshed */
    _Atomic bool asked_again; /* a query was sent up to have it refreshed */
};

/* What the table must know of a network: which first labels below `internal` Python must see, and which zones are its
 * own. A set is two bits per member in a bit array: a member whose bits are not both set is certainly not in it, which is
 * all that is needed. */
struct network {
    struct node node;
    _Atomic uint64_t due;     /* nanoseconds: until when what it sent up is paid for (worker.h) */
    uint64_t mask, zones_mask;
    _Atomic uint64_t *bits, *zones; /* the second is NULL for a network without zones */
};

struct source_map {
    uint8_t address[16];
    uint32_t length, network;
};

struct reader {
    _Alignas(64) _Atomic uint64_t began_in; /* a cache line each: 0, or the generation */
};

struct table {
    uint64_t secret[2];       /* tenants choose names: chains must not be theirs to lengthen */
    uint8_t prefix[2];
    uint32_t udp_limit;
    uint64_t cookie_secret[2];
    uint8_t nsid[MAX_NSID];
    uint8_t nsid_size;
    struct map answers, networks;
    struct by_part *parts;  /* the writer's (table.h), like what follows */
    struct account **accounts, *hand; /* by number; whose turn it is to be looked at when room is needed */
    uint64_t bound, answer_octets, evictions;
    uint32_t account_count;   /* those with answers */
    struct source_map *maps;  /* the longest prefix first */
    uint32_t map_count;
    _Atomic uint64_t words[16]; /* labels that mean something left of an app; a set like a network's */
    struct answer *unknown[DEPTHS]; /* what a name without such labels gets, by how many labels it has below the zone */
    uint16_t unknown_cells[BY_TYPE + 1];
    _Atomic uint32_t watched;   /* one in so many messages that end here is shown to Python; 0: none */
    _Atomic uint64_t generation;
    struct reader readers[READERS];
    struct node *limbo;       /* unlinked, not yet freed */
    uint64_t octets, entries, waiting;
};

/* A query as far as it is understood here. */
struct query {
    const uint8_t *octets;
    uint32_t network;         /* 0: nobody's */
    uint32_t end;             /* of the question */
    uint32_t limit;
    uint16_t qtype;
    bool edns, dnssec_ok;
    bool stream;              /* it came over TCP */
    bool options;             /* there are some; else the last four are not set */
    uint32_t own_options;     /* octets of the options that it is answered with */
    bool nsid, keepalive;     /* the option is answered; KEEPALIVE over TCP only */
    const uint8_t *cookie;    /* the client's, 8 octets; NULL for none */
    const uint8_t *source;    /* 16 octets */
    uint32_t key_words;
    uint64_t hash;
    /* With room for a label behind: the walk of find_unknown then stays inside whatever its octets (tests/native/proof). */
    uint64_t key[KEY_WORDS + 8];
};

/* One reading of the clocks, for a whole batch. */
struct moment {
    uint64_t monotonic;       /* milliseconds */
    uint32_t unix_time;       /* seconds; for cookies only */
};

/* ── hashing ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static inline uint64_t rotated(uint64_t x, int by) { return x << by | x >> (64 - by); }

struct sip { uint64_t a, b, c, d; };

static inline void sip_round(struct sip *v)
{
    v->a += v->b, v->b = rotated(v->b, 13) ^ v->a, v->a = rotated(v->a, 32);
    v->c += v->d, v->d = rotated(v->d, 16) ^ v->c;
    v->a += v->d, v->d = rotated(v->d, 21) ^ v->a;
    v->c += v->b, v->b = rotated(v->b, 17) ^ v->c, v->c = rotated(v->c, 32);
}

/* SipHash-2-4 over *size* octets; as core/cookies.py. */
static inline uint64_t siphash24(const uint64_t key[2], const uint8_t *octets, size_t size)
{
    struct sip v = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                    key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
    for (size_t at = 0; at <= size; at += 8) {
        uint64_t word = 0;
        for (size_t k = 0; k < 8 && at + k < size; k++)
            word |= (uint64_t)octets[at + k] << 8 * k;
        if (at + 8 > size) /* the last one: what is left, and the length */
            word |= (uint64_t)size << 56;
        v.d ^= word;
        sip_round(&v), sip_round(&v);
        v.a ^= word;
    }
    v.c ^= 0xff;
    sip_round(&v), sip_round(&v), sip_round(&v), sip_round(&v);
    return v.a ^ v.b ^ v.c ^ v.d;
}

/* SipHash-1-3 over whole words, as hash tables of several languages use it. */
static inline uint64_t keyed_hash(const uint64_t secret[2], const uint64_t *words, uint32_t count)
{
    uint64_t a = secret[0] ^ 0x736f6d6570736575, b = secret[1] ^ 0x646f72616e646f6d;
    uint64_t c = secret[0] ^ 0x6c7967656e657261, d = secret[1] ^ 0x7465646279746573;
    for (uint32_t at = 0; at < count + 4; at++) {
        uint64_t word = at < count ? words[at] : at == count ? (uint64_t)count << 56 : 0;
        c ^= at == count + 1 ? 0xff : 0;
        d ^= word;
        a += b, b = rotated(b, 13) ^ a, a = rotated(a, 32);
        c += d, d = rotated(d, 16) ^ c;
        a += d, d = rotated(d, 21) ^ a;
        c += b, b = rotated(b, 17) ^ c, c = rotated(c, 32);
        a ^= word;
    }
    return a ^ b ^ c ^ d;
}

/* Eight octets with their letters lower-cased: add 0x20 where the octet is from 'A' to 'Z'. */
static inline uint64_t lowered(uint64_t word)
{
    const uint64_t ones = 0x0101010101010101;
    uint64_t low = word & 0x7f * ones;
    uint64_t from_a = low + (0x80 - 'A') * ones, past_z = low + (0x7f - 'Z') * ones;
    return word | ((from_a ^ past_z) & ~word & 0x80 * ones) >> 2;
}

static inline uint64_t key_head(uint32_t network, uint16_t qtype, uint8_t variant, uint8_t length)
{
    return (uint64_t)network << 32 | (uint64_t)qtype << 16 | (uint64_t)variant << 8 | length;
}

/* Make the key of a name of at most MAX_NAME octets; return how many words it has. A length octet is below 'A', so
 * lower-casing whole words touches letters only. */
static inline uint32_t make_key(uint64_t key[KEY_WORDS], uint64_t head, const uint8_t *name, size_t length)
{
    uint32_t words = 1 + (uint32_t)((length + 7) / 8);
    key[0] = head;
    key[words - 1] = 0;
    memcpy(key + 1, name, length);
    for (uint32_t at = 1; at < words; at++)
        key[at] = lowered(key[at]);
    return words;
}

/* ── the parts of an entry ───────────────────────────────────────────────────────────────────────────────────── */

static inline const uint64_t *key_of(const struct node *node)
{
    return (const uint64_t *)((const uint8_t *)node + node->key_at);
}

static inline struct relayed *relayed_of(const struct answer *answer)
{
    return (struct relayed *)(uintptr_t)(answer + 1);
}

static inline uint32_t ttl_count(const struct answer *answer)
{
    return answer->relayed ? relayed_of(answer)->ttl_count : 0;
}

static inline const uint16_t *ttls_of(const struct answer *answer)
{
    return (const uint16_t *)(key_of(&answer->node) + answer->node.key_words);
}

static inline const uint8_t *octets_of(const struct answer *answer)
{
    return (const uint8_t *)(ttls_of(answer) + ttl_count(answer));
}

/* ── looking up ──────────────────────────────────────────────────────────────────────────────────────────────── */

static inline bool has_key(const struct node *node, uint64_t hash, const uint64_t *key, uint32_t words)
{
    return node->hash == hash && node->key_words == words && !memcmp(key_of(node), key, words * 8);
}

static inline struct node *find_in(const struct chains *chains, uint64_t hash, const uint64_t *key, uint32_t words)
{
    /* Sequentially consistent like the reader's own began_in: the writer must see that, or we its unlinking. */
    struct node *node = atomic_load(&chains->first[hash & chains->mask]);
    while (node && !has_key(node, hash, key, words))
        node = atomic_load(&node->next);
    return node;
}

static inline struct node *find_node(const struct map *map, uint64_t hash, const uint64_t *key, uint32_t words)
{
    /* In this order: the old array is known before the larger one is there, and until it is empty. */
    const struct chains *now = atomic_load(&map->now), *old = atomic_load(&map->old);
    struct node *node = old ? find_in(old, hash, key, words) : NULL;
    return node ? node : find_in(now, hash, key, words);
}

static inline struct network *find_network(const struct table *table, uint32_t network)
{
    uint64_t key = key_head(network, 0, 0, 0);
    return (struct network *)find_node(&table->networks, keyed_hash(table->secret, &key, 1), &key, 1);
}

/* The hash of a label of *size* octets, at most 63 and lower-cased, its length octet before it. */
static inline uint64_t label_hash(const struct table *table, const uint8_t *label, uint32_t size)
{
    uint64_t words[8] = {0};
    memcpy(words, label, 1 + (size_t)size);
    return keyed_hash(table->secret, words, 1 + size / 8);
}

static inline bool in_set(const _Atomic uint64_t *bits, uint64_t mask, uint64_t hash)
{
    uint64_t one = hash & mask, other = hash >> 32 & mask;
    return atomic_load_explicit(&bits[one / 64], memory_order_acquire) >> one % 64 & 1
        && atomic_load_explicit(&bits[other / 64], memory_order_acquire) >> other % 64 & 1;
}

/* The hash of a whole name, lower-cased; an end of a key's name is not aligned, so it is copied. */
static inline uint64_t name_hash(const struct table *table, const uint8_t *name, uint32_t length)
{
    uint64_t words[KEY_WORDS] = {0};
    words[0] = length;
    memcpy(words + 1, name, length);
    return keyed_hash(table->secret, words, 1 + (length + 7) / 8);
}

/* Whether a well-formed name may be in a zone of the network's own. At most 127 labels. */
static inline bool in_own_zone(const struct table *table, const struct network *network, const uint8_t *name,
                               uint32_t length)
{
    for (uint32_t at = 0; at < length && name[at] && name[at] < 64; at += 1 + (uint32_t)name[at])
        if (in_set(network->zones, network->zones_mask, name_hash(table, name + at, length - at)))
            return true;
    return false;
}

static const uint8_t INTERNAL[10] = "\x08internal"; /* with its root label */

static inline bool is_internal(const uint8_t *name, uint32_t length)
{
    return length >= sizeof INTERNAL && !memcmp(name + length - sizeof INTERNAL, INTERNAL, sizeof INTERNAL);
}

/* Return the reply for a name of `.internal` that is certainly not there, or NULL when Python must see it. Only here
 * a name is parsed, as it equals no stored one: at most 127 labels. */
static inline struct answer *find_unknown(const struct table *table, const struct query *query, uint32_t length)
{
    const uint8_t *name = (const uint8_t *)(query->key + 1);
    uint32_t at = 0, size, depth = 0, zone = length - (uint32_t)sizeof INTERNAL;
    uint64_t hash = 0;
    const struct network *network = find_network(table, query->network);
    if (!network || query->qtype == 251 || query->qtype == 252) /* IXFR and AXFR are refused */
        return NULL;
    for (; at < zone; depth++) {
        size = name[at];
        if (!size || size > 63 || at + 1 + size > zone)
            return NULL;
        hash = label_hash(table, name + at, size);
        if (in_set(table->words, sizeof table->words * 8 - 1, hash))
            return NULL;
        at += 1 + size;
    }
    if (!depth || in_set(network->bits, network->mask, hash)) /* of the label next to the zone */
        return NULL;
    return table->unknown[(depth < DEPTHS ? depth : DEPTHS) - 1];
}

/* Return a relayed answer that has not expired, NULL for none. */
static inline struct answer *find_relayed(const struct table *table, struct query *query, uint32_t length, uint64_t now)
{
    uint8_t variant = RELAYED | (query->dnssec_ok ? WITH_DO : 0) | (query->octets[3] & CD ? WITH_CD : 0);
    query->key[0] = key_head(0, query->qtype, variant, (uint8_t)length);
    uint64_t hash = keyed_hash(table->secret, query->key, query->key_words);
    struct answer *found = (struct answer *)find_node(&table->answers, hash, query->key, query->key_words);
    if (!found || now >= relayed_of(found)->expires)
        return NULL;
    const struct network *network = find_network(table, query->network);
    if (network && network->zones
        && (relayed_of(found)->chain || in_own_zone(table, network, (const uint8_t *)(query->key + 1), length)))
        return NULL; /* an alias may lead into a zone too: Python looks */
    return found;
}

/* Return the answer to a plain query, NULL when there is none. *now* is in milliseconds. */
static inline struct answer *find_any(const struct table *table, struct query *query, uint64_t now)
{
    struct node *own = find_node(&table->answers, query->hash, query->key, query->key_words);
    if (own)
        return (struct answer *)own;
    uint32_t length = query->end - HEADER - 4;
    if (is_internal((const uint8_t *)(query->key + 1), length))
        return find_unknown(table, query, length);
    return query->octets[2] & RD >> 8 ? find_relayed(table, query, length, now) : NULL;
}

/* The same for a worker, which sends the first query up that finds a relayed answer past its refresh time. */
static inline struct answer *find_answer(const struct table *table, struct query *query, uint64_t now)
{
    struct answer *found = find_any(table, query, now);
    if (found && found->relayed && now >= relayed_of(found)->refresh
            && !atomic_exchange(&relayed_of(found)->asked_again, true))
        return NULL;
    return found;
}

/* ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static inline uint32_t four(const uint8_t *o)
{
    return (uint32_t)o[0] << 24 | (uint32_t)o[1] << 16 | (uint32_t)o[2] << 8 | o[3];
}

/* Whether the first *length* bits are the same. */
static inline bool covers(const uint8_t *prefix, uint32_t length, const uint8_t *address)
{
    uint32_t whole = length / 8;
    return !memcmp(prefix, address, whole) && (length % 8 == 0 || !((prefix[whole] ^ address[whole]) >> (8 - length % 8)));
}

static inline uint32_t two(const uint8_t *o) { return (uint32_t)o[0] << 8 | o[1]; }

/* Return the network that *source* (16 octets) asks as, 0 for none. */
static inline uint32_t network_of(const struct table *table, const uint8_t *source)
{
    if (!memcmp(source, table->prefix, 2))
        return four(source + 2);
    for (uint32_t at = 0; at < table->map_count; at++)
        if (covers(table->maps[at].address, table->maps[at].length, source))
            return table->maps[at].network;
    return 0;
}

/* Read the question and the OPT of a query that has nothing else, as core/wire.read_edns: note what the options ask
 * for, and return where the question ends. 0 for what Python must see: anything malformed, or ASK_AS. */
static inline size_t read_options(const struct table *table, const uint8_t *octets, size_t size,
                                  const uint8_t *source, struct query *query)
{
    size_t at = HEADER;
    query->nsid = query->keepalive = false;
    query->cookie = NULL;
    query->source = source;
    while (at < size && octets[at]) {
        if (octets[at] > 63)
            return 0;
        at += 1 + (size_t)octets[at];
    }
    size_t end = at + 5; /* the root label, QTYPE, QCLASS */
    if (end + OPT_SIZE > size)
        return 0;
    const uint8_t *opt = octets + end;
    if (opt[0] || opt[1] || opt[2] != 41 || opt[6] || end + OPT_SIZE + two(opt + 9) != size)
        return 0;
    for (at = end + OPT_SIZE; at < size;) {
        if (at + 4 > size)
            return 0;
        uint32_t code = two(octets + at), length = two(octets + at + 2);
        const uint8_t *value = octets + at + 4;
        at += 4 + (size_t)length;
        if (at > size || code == ASK_AS)
            return 0;
        if (code == NSID)
            query->nsid = table->nsid_size != 0;
        else if (code == KEEPALIVE)
            query->keepalive = true;
        else if (code == COOKIE && !query->cookie) { /* the first one counts */
            if (length != 8 && (length < 16 || length > 40))
                return 0;
            query->cookie = value;
        }
    }
    query->options = true;
    query->own_options = (query->cookie ? COOKIE_SIZE : 0) + (query->nsid ? 4u + table->nsid_size : 0);
    return end;
}

/* Read a message as far as a plain query goes: QUERY, one question of class IN, at most an OPT.
 * query->network is right whatever is returned. */
static inline enum verdict read_query(const struct table *table, const uint8_t *octets, size_t size,
                                      const uint8_t *source, const uint8_t *destination, uint16_t port,
                                      struct query *query)
{
    static const uint8_t bare[8] = {0, 1}, with_opt[8] = {0, 1, 0, 0, 0, 0, 0, 1};
    query->network = network_of(table, source);
    if (port == 0 || port == 7 || port == 13 || port == 19 || port == 37) /* SILENT_PORTS of core/wire.py */
        return HAND_UP;
    if (size < HEADER)
        return RUNT;
    if (octets[2] & 0x80)
        return RESPONSE;
    if (octets[2] & ~(RD >> 8) || size > MAX_QUERY || !query->network)
        return HAND_UP;
    size_t end = size;
    query->edns = query->dnssec_ok = false;
    query->own_options = 0;
    query->options = query->stream = false;
    query->limit = PLAIN_UDP_SIZE;
    if (!memcmp(octets + 4, with_opt, 8)) {
        if (size < HEADER + 5 + OPT_SIZE)
            return HAND_UP;
        end -= OPT_SIZE;
        const uint8_t *opt = octets + end;
        if (opt[0] || opt[1] || opt[2] != 41 || opt[6] || opt[9] || opt[10]) { /* not version 0 without options */
            if (!(end = read_options(table, octets, size, source, query)))
                return HAND_UP;
            opt = octets + end;
        }
        uint32_t limit = (uint32_t)opt[3] << 8 | opt[4];
        limit = limit < PLAIN_UDP_SIZE ? PLAIN_UDP_SIZE : limit;
        query->limit = limit < table->udp_limit ? limit : table->udp_limit;
        query->edns = true;
        query->dnssec_ok = opt[7] >> 7;
    } else if (memcmp(octets + 4, bare, 8) || size < HEADER + 5)
        return HAND_UP;
    size_t length = end - HEADER - 4;
    if (length > MAX_NAME || octets[end - 2] || octets[end - 1] != 1)
        return HAND_UP;
    if (!memcmp(destination, table->prefix, 2)) { /* <network>::3 is its network's alone */
        uint32_t at = four(destination + 2);
        if (at && at != query->network)
            return HAND_UP;
    }
    query->octets = octets;
    query->end = (uint32_t)end;
    query->qtype = (uint16_t)(octets[end - 4] << 8 | octets[end - 3]);
    uint64_t head = key_head(query->network, query->qtype, OWN, (uint8_t)length);
    query->key_words = make_key(query->key, head, octets + HEADER, length);
    query->hash = keyed_hash(table->secret, query->key, query->key_words);
    return PLAIN;
}

/* Let *query*, which came over TCP, be answered as there: no limit but a message's, and KEEPALIVE (RFC 7828). */
static inline void over_tcp(struct query *query)
{
    query->stream = true;
    query->limit = MAX_MESSAGE;
    if (query->options && query->keepalive)
        query->own_options += KEEPALIVE_SIZE;
}

/* ── building ────────────────────────────────────────────────────────────────────────────────────────────────── */

static inline uint8_t *put_two(uint8_t *out, uint32_t value)
{
    out[0] = (uint8_t)(value >> 8), out[1] = (uint8_t)value;
    return out + 2;
}

static inline uint8_t *put(uint8_t *out, const uint8_t *octets, size_t size)
{
    memcpy(out, octets, size);
    return out + size;
}

/* Reduce the first *count* TTLs by the whole seconds since the answer was stored. */
static inline void age(const struct answer *answer, uint32_t count, uint64_t now, uint8_t *records)
{
    if (!count)
        return;
    const struct relayed *relayed = relayed_of(answer);
    uint64_t seconds = now > relayed->stored ? (now - relayed->stored) / 1000 : 0;
    const uint16_t *ttls = ttls_of(answer);
    for (uint32_t k = 0; k < count; k++) {
        uint8_t *at = records + ttls[k];
        uint32_t ttl = four(at), left = ttl > seconds ? ttl - (uint32_t)seconds : 0;
        put_two(put_two(at, left >> 16), left & 0xffff);
    }
}

/* Write the COOKIE option: the client's cookie and a fresh one of ours, as core/cookies.full_cookie. */
static inline uint8_t *put_cookie(const struct table *table, const struct query *query, uint32_t unix_time, uint8_t *out)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    uint8_t hashed[32] = {0};
    memcpy(hashed, query->cookie, 8);
    hashed[8] = 1; /* the version, and three reserved octets */
    put_two(put_two(hashed + 12, unix_time >> 16), unix_time & 0xffff);
    bool ipv4 = !memcmp(query->source, mapped, sizeof mapped);
    memcpy(hashed + 16, query->source + (ipv4 ? 12 : 0), ipv4 ? 4 : 16);
    uint64_t hash = siphash24(table->cookie_secret, hashed, ipv4 ? 20 : 32);
    out = put(put_two(put_two(out, COOKIE), COOKIE_SIZE - 4), hashed, 16);
    for (int k = 0; k < 8; k++)
        *out++ = (uint8_t)(hash >> 8 * k);
    return out;
}

/* Write OPT with *options* octets of the answer's own options. */
static inline void put_opt(const struct table *table, const struct answer *answer, const struct query *query,
                           uint32_t options, uint32_t unix_time, uint8_t *at)
{
    const uint8_t head[5] = {0, 0, 41, OUR_UDP_SIZE >> 8, OUR_UDP_SIZE & 0xff};
    const uint8_t extended = answer->relayed ? relayed_of(answer)->extended : 0;
    const uint8_t ttl[4] = {extended, 0, (uint8_t)(query->dnssec_ok << 7), 0};
    at = put_two(put(put(at, head, 5), ttl, 4), options + query->own_options);
    at = put(at, octets_of(answer) + answer->records, options);
    if (!query->own_options)
        return;
    if (query->cookie)
        at = put_cookie(table, query, unix_time, at);
    if (query->nsid)
        at = put(put_two(put_two(at, NSID), table->nsid_size), table->nsid, table->nsid_size);
    if (query->keepalive && query->stream)
        put_two(put_two(put_two(at, KEEPALIVE), KEEPALIVE_SIZE - 4), IDLE_TIMEOUT);
}

/* Write header and question; return where the records go. */
static inline uint8_t *put_head(const struct query *query, uint32_t flags, uint32_t answers, uint32_t authorities,
                                uint32_t additionals, uint8_t *out)
{
    flags |= (query->octets[2] << 8 & RD) | (query->octets[3] & CD);
    if (!query->dnssec_ok && !(query->octets[3] & AD)) /* RFC 6840 section 5.8: AD is set only if the query wants it */
        flags &= ~(uint32_t)AD;
    uint8_t *at = put_two(put_two(put(out, query->octets, 2), flags), 1);
    at = put_two(put_two(put_two(at, answers), authorities), additionals + (uint32_t)query->edns);
    return put(at, query->octets + HEADER, query->end - HEADER);
}

/* Return the octets of the RR at *rr*, one that is_section knows: a name, ten octets, rdata. */
static inline uint32_t rr_size(const uint8_t *rr)
{
    uint32_t at = 0;
    while (rr[at] && rr[at] < 0xc0)
        at += 1 + (uint32_t)rr[at];
    at += rr[at] ? 2 : 1;
    return at + 10 + two(rr + at + 8);
}

/* Return the octets of as many of the *count* RRs at *rr* as fit into *room*; *count* becomes how many. */
static inline uint32_t fitting(const uint8_t *rr, uint32_t room, uint32_t *count)
{
    uint32_t size = 0, fit = 0;
    for (uint32_t next; fit < *count && (next = rr_size(rr + size)) <= room - size; fit++)
        size += next;
    *count = fit;
    return size;
}

/* Return the octets of the chain and of as many RRs behind it as fit into *room*, as core/relayed.Relayed.first does;
 * *count* becomes how many. Each RR ends six octets and its rdata after its TTL begins. */
static inline uint32_t first_of(const struct answer *answer, uint32_t room, uint32_t *count)
{
    const struct relayed *relayed = relayed_of(answer);
    const uint16_t *ttls = ttls_of(answer);
    const uint8_t *octets = octets_of(answer);
    uint32_t size = 0, fit = 0;
    for (; fit < *count && fit < relayed->ttl_count; fit++) {
        uint32_t end = ttls[fit] + 6U;
        if (end > room || end > answer->records)
            break;
        end += two(octets + end - 2);
        if (end > room || end > answer->records)
            break;
        size = end;
    }
    *count = fit > relayed->chain ? fit : 0;
    return *count ? size : 0;
}

/* Write what of the reply fits, as core/message.message does: EDE goes first, then additional records, then whole RRs
 * from the end, and TC says so. Of what an upstream said the first RRs are told. Return the size, or 0 for what Python must
 * see. */
static inline size_t build_part(const struct table *table, const struct answer *answer, const struct query *query,
                                uint32_t rotation, const struct moment *now, uint8_t *out, size_t room)
{
    if (query->stream)
        return 0; /* TC means nothing there: Python says how to get the rest */
    bool relayed = answer->relayed;
    const uint8_t *octets = octets_of(answer);
    uint32_t opt = query->edns ? OPT_SIZE + query->own_options : 0;
    uint32_t fixed = query->end + opt + (relayed ? 0 : answer->authority);
    if (fixed > query->limit)
        return 0;
    uint32_t left = query->limit - fixed, shown = answer->whole - (answer->records - answer->shown), first = 0;
    uint32_t flags = answer->flags, answers = answer->counts[0], additionals = answer->counts[2], additional = 0;
    uint32_t lead = answer->lead, leading = answer->leading;
    const uint8_t *ring = octets + lead;
    if (lead > left)
        return 0;
    left -= lead, shown -= lead, answers -= leading;
    if (relayed) {
        shown = first_of(answer, left, &answers);
        additionals = 0;
        flags = (flags & ~(uint32_t)AD) | TC;
    } else if (shown > left) {
        flags |= TC;
        additionals = 0;
        if (answer->indivisible)
            shown = answers = 0;
        else if (answer->turns > 1) {
            answers = left / answer->unit;
            shown = answers * answer->unit;
            first = rotation % answer->turns * answer->unit;
        } else
            shown = fitting(ring, left, &answers);
        if (!answers) /* aliases alone look like NODATA to who does not look at TC */
            left += lead, lead = leading = 0;
    } else if (lead + shown != answer->shown)
        return 0; /* it fits, and is not here */
    else
        first = answer->turns > 1 ? rotation % answer->turns * answer->unit : 0;
    left -= shown;
    uint32_t options = query->edns && !relayed && answer->options <= left ? answer->options : 0;
    left -= options;
    if (additionals)
        additional = fitting(octets + answer->shown + answer->authority, left, &additionals);
    size_t size = query->limit - (left - additional);
    if (size > room)
        return 0;
    uint8_t *at = put_head(query, flags, leading + answers, relayed ? 0 : answer->counts[1], additionals, out);
    /* The aliases; from the first in turn to the end, and then from the beginning. */
    uint32_t all = answer->shown - (uint32_t)(ring - octets);
    uint32_t until_end = all - first < shown ? all - first : shown;
    at = put(put(put(at, octets, lead), ring + first, until_end), ring, shown - until_end);
    uint8_t *authority = at;
    if (relayed)
        age(answer, answers, now->monotonic, at - shown);
    else
        at = put(at, octets + answer->shown, answer->authority + additional);
    if (answer->names_zone)
        put_two(authority, 0xc000 | (query->end - 4 - (uint32_t)sizeof INTERNAL));
    if (query->edns)
        put_opt(table, answer, query, options, now->unix_time, at);
    return size;
}

/* Write the reply into *out*; return its size, 0 when Python must see the query or there is no *room*. */
static inline size_t build_reply(const struct table *table, const struct answer *answer, const struct query *query,
                                 uint32_t rotation, const struct moment *now, uint8_t *out, size_t room)
{
    size_t opt = query->edns ? OPT_SIZE + (size_t)answer->options + query->own_options : 0;
    size_t size = query->end + answer->whole + opt;
    if (size > query->limit) /* decided by its size, before any TTL is touched */
        return build_part(table, answer, query, rotation, now, out, room);
    if (size > room || answer->whole != answer->records)
        return 0;
    uint8_t *at = put_head(query, answer->flags, answer->counts[0], answer->counts[1], answer->counts[2], out);
    uint8_t *records = at;
    const uint8_t *octets = octets_of(answer);
    uint32_t ring = answer->unit * answer->turns, first = answer->turns > 1 ? rotation % answer->turns * answer->unit : 0;
    const uint8_t *in_turn = octets + answer->lead;
    at = put(at, octets, answer->lead);
    at = put(at, in_turn + first, ring - first);
    at = put(at, in_turn, first);
    at = put(at, in_turn + ring, answer->records - answer->lead - ring);
    if (answer->names_zone)
        put_two(records, 0xc000 | (query->end - 4 - (uint32_t)sizeof INTERNAL));
    age(answer, ttl_count(answer), now->monotonic, records);
    if (query->edns)
        put_opt(table, answer, query, answer->options, now->unix_time, at);
    return size;
}

#endif
