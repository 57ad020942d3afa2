/* Invariant: of a reply that is called simple, what is relayed is inside the message, begins behind the question, has a TTL
 * per record, and holds no address of ours; any other octets are left alone. A socket is never written to.
 *
 * With clang: -fsanitize=fuzzer,address,undefined. With gcc: -DDRIVER and `replies SECONDS SEED`, which mutates the
 * replies below by itself. tests/forward/test_native_twin.py compares what is relayed with what Python relays. */
#include <assert.h>
#include <stdio.h>
#include <time.h>

#include "../../internal_dns/forward/native/upstream.h"

#define HEAD(flags, an, ns, ar) "\x12\x34" flags "\0\1\0" an "\0" ns "\0" ar
#define WWW "\3www\7example\3com\0\0\1\0\1"
#define ONE "\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"
#define OPT "\0\0\x29\4\xd0\0\0\0\0\0\0"
#define SOA "\xc0\x10\0\6\0\1\0\0\2\x58\0\x1d\2ns\xc0\x10\1a\xc0\x10\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0\5"
#define SEED(text) {sizeof(text) - 1, text}
static const struct { size_t size; const char *octets; } SEEDS[] = {
    SEED(HEAD("\x81\x80", "\1", "\0", "\0") WWW ONE),
    SEED(HEAD("\x81\x80", "\2", "\0", "\1") WWW ONE ONE OPT),
    SEED(HEAD("\x81\x83", "\0", "\1", "\1") WWW SOA OPT),
    SEED(HEAD("\x81\x80", "\2", "\0", "\1") WWW "\xc0\x0c\0\5\0\1\0\0\0\x3c\0\6\3web\xc0\x10"
         "\xc0\x2d\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1" OPT),
    SEED(HEAD("\x81\x80", "\1", "\0", "\0") "\3www\7example\3com\0\0\x41\0\1"
         "\xc0\x0c\0\x41\0\1\0\0\0\x3c\0\x1e\0\1\0\0\1\0\3\2h2\0\6\0\x10\x20\1\0\0\0\0\0\0\0\0\0\0\0\0\0\1"),
    SEED(HEAD("\x81\x80", "\1", "\0", "\0") "\3www\7example\3com\0\0\x1c\0\1"
         "\xc0\x0c\0\x1c\0\1\0\0\0\x3c\0\x10\xfd\xab\0\0\0\0\0\0\0\0\0\0\0\0\0\1"),
};
static const struct guarded OURS = {
    .zones = 1, .prefix_size = 2, .zone = {{10, "\10internal"}}, .prefix = {0xfd, 0xaa},
};
static unsigned long simple_ones, others, negative, chained;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_name name = {.size = 17, .octets = "\3www\7example\3com"};
    struct simple out;
    memset(&out, 0xa5, sizeof out);
    if (size < REPLY_HEADER + 4)
        return 0;
    uint8_t *octets = malloc(size); /* of just this size: the sanitizer sees one octet too many */
    memcpy(octets, data, size);
    unsigned qtype = size > 32 ? two(data + 29) : 1;
    if (!classify_reply(octets, size, &name, qtype, &OURS, &out)) {
        others++;
        assert(!memcmp(octets, data, size));
        free(octets);
        return 0;
    }
    simple_ones++, negative += out.authorities, chained += out.chain > 0;
    assert(out.start == 33 && out.start <= out.end && out.end <= size && out.lifetime <= POSITIVE_LIFE);
    assert(out.answers + out.authorities <= SIMPLE_RRS && out.chain <= out.answers && out.chain <= SIMPLE_CHAIN);
    assert(!memcmp(octets, data, out.start));
    unsigned changed = 0;
    for (size_t at = 0; at < size; at++)
        changed += octets[at] != data[at];
    assert(changed <= 4 * out.authorities);
    uint32_t before = 0;
    for (unsigned k = 0; k < (unsigned)out.answers + out.authorities; k++) {
        const uint8_t *ttl = octets + out.start + out.ttls[k];
        assert(out.ttls[k] > before && out.start + out.ttls[k] + 6 <= out.end && !(ttl[0] & 0x80));
        size_t rdata = out.start + out.ttls[k] + 6;
        assert(rdata + two(ttl + 4) <= out.end);
        assert(two(ttl - 4) != TYPE_AAAA || (two(ttl + 4) == 16 && (ttl[6] != 0xfd || ttl[7] != 0xaa)));
        before = out.ttls[k];
    }
    free(octets);
    return 0;
}

#ifdef DRIVER
enum { MOST = 600 };
static uint64_t state;

static unsigned below(unsigned limit)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (unsigned)(state >> 33) % limit;
}

static size_t mutate(uint8_t *o, size_t size)
{
    static const uint8_t telling[] = {0, 1, 2, 3, 5, 6, 12, 16, 28, 41, 63, 64, 65, 127, 128, 192, 255};
    for (unsigned left = below(4); left; left--) {
        size_t at = 2 + below((unsigned)size - 1);
        switch (below(6)) {
        case 0: if (at < size) o[at] ^= (uint8_t)(1 << below(8)); break;
        case 1: if (at < size) o[at] = telling[below(sizeof telling)]; break;
        case 2: if (at < size) o[at] = (uint8_t)below(256); break;
        case 3: size = below(8) ? size : at; break;
        case 4: if (at < size) memmove(o + at, o + at + 1, size - at - 1), size--; break;
        case 5: if (size < MOST) memmove(o + at + 1, o + at, size - at), o[at] = telling[below(sizeof telling)], size++; break;
        }
    }
    return size;
}

int main(int count, char **words)
{
    uint8_t input[MOST + 8];
    if (count != 3)
        return fprintf(stderr, "usage: replies SECONDS SEED\n"), 2;
    state = strtoull(words[2], NULL, 10) * 2 + 1;
    unsigned long inputs = 0;
    for (time_t end = time(NULL) + atoi(words[1]); time(NULL) < end;)
        for (int k = 0; k < 1000; k++, inputs++) {
            unsigned seed = below(sizeof SEEDS / sizeof *SEEDS);
            memcpy(input, SEEDS[seed].octets, SEEDS[seed].size);
            LLVMFuzzerTestOneInput(input, mutate(input, SEEDS[seed].size));
        }
    printf("%lu replies: %lu simple, of which %lu negative and %lu with a chain; %lu others\n", inputs, simple_ones,
           negative, chained, others);
    return simple_ones && negative && chained && others ? 0 : 1;
}
#endif
