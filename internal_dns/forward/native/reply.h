/* Recognize a simple reply of an upstream, and say what is relayed of it.
 *
 *     header     QR, QUERY, no TC; NOERROR or NXDOMAIN; one question, which the caller has matched
 *     answer     CNAMEs in order, each owned by the target of the one before, then the queried RRset; nothing else
 *     authority  nothing; or, when there is no such RRset, one SOA at or above the last name of the chain
 *     additional nothing, or one OPT
 *
 * Python decides what a reply is worth (core/wire.py checks it, core/relayed.py selects what is relayed). This file only
 * saves that work for replies of which nothing has to be cut: for each one that it calls simple, Python would come to the
 * same octets, TTLs and lifetime; tests/forward/test_native_twin.py holds the two together. Whatever is unusual, wrong,
 * ours or large is not simple, so this file may be stricter than Python, and never less strict.
 *
 * No Python, no allocation, no I/O: it builds alone for the fuzzer. All loops are bounded by the records and by STEPS.
 */
#ifndef INTERNAL_DNS_REPLY_H
#define INTERNAL_DNS_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    REPLY_HEADER = 12,
    NAME_OCTETS = 255,
    LARGEST_SIMPLE = 4096, /* octets of a message: a larger one costs Python little in comparison */
    SIMPLE_RRS = 64,
    SIMPLE_CHAIN = 8,      /* CNAMEs; Python follows 16 */
    STEPS = 1024,          /* labels, pointers and names of one reply; below MAX_LABELS of core/wire.py */
    SIMPLE_HOPS = 16,      /* pointers of one name, as MAX_HOPS of core/wire.py */
    MOST_ZONES = 8,
    POSITIVE_LIFE = 3600, NEGATIVE_LIFE = 900, NO_SOA_LIFE = 5, /* seconds, as core/relayed.py */
};
enum {
    TYPE_A = 1, TYPE_NS = 2, TYPE_CNAME = 5, TYPE_SOA = 6, TYPE_PTR = 12, TYPE_MX = 15, TYPE_TXT = 16, TYPE_AAAA = 28,
    TYPE_SRV = 33, TYPE_OPT = 41, TYPE_DS = 43, TYPE_SSHFP = 44, TYPE_DNSKEY = 48, TYPE_TLSA = 52, TYPE_SVCB = 64,
    TYPE_HTTPS = 65, TYPE_CAA = 257, IPV6HINT = 6,
};

struct wire_name {
    uint16_t size;
    uint8_t octets[NAME_OCTETS]; /* lower-cased */
};

/* What is never taken from an upstream: names at and below our apexes, and addresses with our prefix. */
struct guarded {
    unsigned zones, prefix_size;
    struct wire_name zone[MOST_ZONES];
    uint8_t prefix[16];
};

/* What is relayed: the octets from `start` to `end`, as class Relayed of core/relayed.py. */
struct simple {
    uint8_t rcode;
    bool ad;
    uint16_t answers, authorities, chain;
    uint32_t start, end, lifetime;
    uint32_t ttls[SIMPLE_RRS]; /* offsets from `start` */
    struct wire_name targets[SIMPLE_CHAIN]; /* where each CNAME of the chain leads */
};

static inline unsigned two(const uint8_t *o)
{
    return (unsigned)o[0] << 8 | o[1];
}

static inline uint32_t four(const uint8_t *o)
{
    return (uint32_t)two(o) << 16 | two(o + 2);
}

static inline uint8_t lower(uint8_t octet)
{
    return (uint8_t)(octet - 'A') < 26 ? octet | 0x20 : octet;
}

/* Whether a name ends in the octets of one of our apexes. Python decides whether they begin with a label. */
static inline bool is_guarded(const struct guarded *ours, const struct wire_name *name)
{
    for (unsigned k = 0; k < ours->zones; k++) {
        const struct wire_name *zone = &ours->zone[k];
        if (name->size >= zone->size && !memcmp(name->octets + name->size - zone->size, zone->octets, zone->size))
            return true;
    }
    return false;
}

/* Read the name at `at`, compressed or not; return its end, or 0 where it is not simple. */
static inline size_t read_name(const uint8_t *o, size_t size, size_t at, const struct guarded *ours, unsigned *left,
                               struct wire_name *name)
{
    /* A pointer must lead to before the labels that it ends, so `limit` falls and the loop ends. */
    size_t end = 0, start = at, limit = size;
    unsigned hops = 0, used = 0;
    for (;;) {
        if (at >= limit || !*left)
            return 0;
        --*left;
        unsigned length = o[at];
        if (length >= 0xc0) {
            if (at + 2 > limit || ++hops > SIMPLE_HOPS)
                return 0;
            size_t target = (length & 0x3f) << 8 | o[at + 1];
            if (target >= start || target < REPLY_HEADER)
                return 0;
            if (!end)
                end = at + 2;
            limit = start, start = at = target;
            continue;
        }
        if (length > 63 || at + 1 + length > limit || used + 1 + length > NAME_OCTETS)
            return 0;
        name->octets[used++] = (uint8_t)length;
        at++;
        if (!length)
            break;
        for (unsigned k = 0; k < length; k++)
            name->octets[used++] = lower(o[at++]);
    }
    name->size = (uint16_t)used;
    return is_guarded(ours, name) ? 0 : end ? end : at;
}

static inline bool same_name(const struct wire_name *one, const struct wire_name *other)
{
    return one->size == other->size && !memcmp(one->octets, other->octets, one->size);
}

/* Whether the service parameters from `at` to `end` are well-formed and have no address of ours. */
static inline bool are_simple_parameters(const uint8_t *o, size_t at, size_t end, const struct guarded *ours)
{
    while (at < end) {
        if (at + 4 > end)
            return false;
        unsigned key = two(o + at), length = two(o + at + 2);
        at += 4;
        if (at + length > end)
            return false;
        if (key == IPV6HINT) {
            if (length % 16)
                return false;
            for (size_t hint = at; hint < at + length; hint += 16)
                if (!memcmp(o + hint, ours->prefix, ours->prefix_size))
                    return false;
        }
        at += length;
    }
    return true;
}

/* Whether rdata is that of a known type, well-formed as far as Python checks it, and not ours. A CNAME's target goes to
 * `target`. */
static inline bool is_simple_rdata(const uint8_t *o, size_t size, unsigned type, size_t at, size_t end,
                                   const struct guarded *ours, unsigned *left, struct wire_name *target)
{
    struct wire_name other;
    size_t after;
    switch (type) {
    case TYPE_A:
        return end - at == 4;
    case TYPE_AAAA:
        return end - at == 16 && memcmp(o + at, ours->prefix, ours->prefix_size);
    case TYPE_TXT: case TYPE_DS: case TYPE_SSHFP: case TYPE_DNSKEY: case TYPE_TLSA: case TYPE_CAA:
        return true; /* no name and no address that Python would look at */
    case TYPE_CNAME:
        return at < end && read_name(o, size, at, ours, left, target) == end;
    case TYPE_NS: case TYPE_PTR:
        return at < end && read_name(o, size, at, ours, left, &other) == end;
    case TYPE_MX:
        return at + 2 < end && read_name(o, size, at + 2, ours, left, &other) == end;
    case TYPE_SRV:
        return at + 6 < end && read_name(o, size, at + 6, ours, left, &other) == end;
    case TYPE_SOA:
        after = at < end ? read_name(o, size, at, ours, left, &other) : 0;
        if (!after || after >= end)
            return false;
        after = read_name(o, size, after, ours, left, &other);
        return after && after + 20 == end;
    case TYPE_SVCB: case TYPE_HTTPS:
        after = at + 2 < end ? read_name(o, size, at + 2, ours, left, &other) : 0;
        return after && after <= end && are_simple_parameters(o, after, end, ours);
    }
    return false;
}

/* Say whether `o` is a simple reply to the question of `question` (QNAME in any case) and `qtype`, and what of it is
 * relayed. The caller has matched id and question. The TTL of an SOA is lowered in place to that of the negative reply;
 * the octets are left alone when the reply is not simple. */
static inline bool classify_reply(uint8_t *o, size_t size, const struct wire_name *qname, unsigned qtype,
                                  const struct guarded *ours, struct simple *out)
{
    size_t at = REPLY_HEADER + qname->size + 4u;
    if (size < at || size > LARGEST_SIMPLE || (o[2] & 0xfa) != 0x80 || two(o + 4) != 1)
        return false;
    unsigned answers = two(o + 6), authorities = two(o + 8), left = STEPS;
    out->rcode = o[3] & 15, out->ad = o[3] & 0x20;
    if ((out->rcode != 0 && out->rcode != 3) || answers + authorities > SIMPLE_RRS || authorities > 1 || two(o + 10) > 1)
        return false;
    struct wire_name owners[SIMPLE_CHAIN + 1], owner;
    unsigned chain = 0;
    bool exists = false;
    uint32_t shortest = POSITIVE_LIFE, soa_ttl = 0;
    size_t soa_at = 0;
    owners[0] = *qname;
    out->start = (uint32_t)at;
    for (unsigned k = 0; k < answers + authorities; k++) {
        const struct wire_name *last = &owners[chain];
        bool of_qname = at + 2 <= size && o[at] == 0xc0 && o[at + 1] == REPLY_HEADER; /* as nearly all */
        const struct wire_name *named = of_qname ? qname : &owner;
        at = of_qname ? at + 2 : read_name(o, size, at, ours, &left, &owner);
        if (!at || at + 10 > size || (of_qname && is_guarded(ours, qname)))
            return false;
        if (!of_qname && same_name(&owner, qname))
            return false; /* written out, in the letter case of our query: Python gives it the client's */
        unsigned type = two(o + at), length = two(o + at + 8);
        uint32_t ttl = four(o + at + 4);
        size_t end = at + 10 + length;
        if (two(o + at + 2) != 1 || ttl >> 31 || end > size)
            return false;
        out->ttls[k] = (uint32_t)at + 4 - out->start;
        shortest = ttl < shortest ? ttl : shortest;
        if (k >= answers) {
            if (type != TYPE_SOA || exists || named->size > last->size ||
                memcmp(last->octets + last->size - named->size, named->octets, named->size))
                return false;
            /* The octets of a name may end like another name's without being below it. */
            size_t label = 0;
            while (label + named->size < last->size)
                label += 1u + last->octets[label];
            if (label + named->size != last->size || !is_simple_rdata(o, size, type, at + 10, end, ours, &left, NULL))
                return false;
            uint32_t minimum = four(o + end - 4);
            soa_at = at + 4, soa_ttl = ttl < minimum ? ttl : minimum;
        } else if (type == qtype && same_name(named, last)) {
            struct wire_name target;
            if (out->rcode || !is_simple_rdata(o, size, type, at + 10, end, ours, &left, &target))
                return false;
            exists = true;
        } else if (type == TYPE_CNAME && qtype != 255 && !exists && same_name(named, last)) {
            if (chain == SIMPLE_CHAIN || !is_simple_rdata(o, size, type, at + 10, end, ours, &left, &owners[chain + 1]))
                return false;
            chain++;
            for (unsigned before = 0; before < chain; before++)
                if (same_name(&owners[before], &owners[chain]))
                    return false; /* a loop */
        } else
            return false;
        at = end;
    }
    out->end = (uint32_t)at;
    if (two(o + 10)) { /* OPT: the root, its type, size, the upper bits of the RCODE */
        if (at + 11 > size || o[at] || two(o + at + 1) != TYPE_OPT || o[at + 5])
            return false;
        at += 11u + two(o + at + 9);
    }
    if (at != size)
        return false;
    out->answers = (uint16_t)answers, out->authorities = (uint16_t)authorities, out->chain = (uint16_t)chain;
    for (unsigned k = 0; k < chain; k++)
        out->targets[k] = owners[k + 1];
    if (exists)
        out->lifetime = shortest;
    else if (soa_at) {
        shortest = soa_ttl < shortest ? soa_ttl : shortest;
        out->lifetime = shortest < NEGATIVE_LIFE ? shortest : NEGATIVE_LIFE;
        for (unsigned k = 0; k < 4; k++)
            o[soa_at + k] = (uint8_t)(soa_ttl >> (24 - 8 * k));
    } else if (chain && !out->rcode)
        out->lifetime = 0; /* a CNAME is never cached without its target */
    else
        out->lifetime = shortest < NO_SOA_LIFE ? shortest : NO_SOA_LIFE;
    return true;
}
#endif
