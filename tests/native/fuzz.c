/* Invariant: any octets from anyone are dropped, handed up, or get a reply that is within the
 * client's limit and begins with the query's id, QR, its opcode, and its question. The first octet
 * of an input chooses who asks and when.
 *
 * With clang: -fsanitize=fuzzer,address,undefined. With gcc: -DDRIVER and `fuzz SECONDS SEED
 * FILE.hex…`, which mutates the files' octets by itself; no coverage feedback, only volume. */
#include <time.h>

#include "state.h"

static const struct { uint8_t source[16], destination[16]; uint64_t now; } CASES[] = {
    {{0xfd, 0xaa, 0, 0, 0, 0x18}, {0xfd, 0xaa, [15] = 3}, 2000},
    {{[15] = 1}, {0xfd, 0xaa, 0, 0, 0, 0x18, [15] = 3}, 8999},
    {{0xfd, 0xaa, 0, 0, 0, 0x19}, {0xfd, 0xaa, [15] = 3}, 4000},
    {{0xfd, 0xaa, 0, 0, 0, 0x18}, {0xfd, 0xaa, 0, 0, 0, 0x19, [15] = 3}, 0},
    {{0x20, 1}, {0xfd, 0xaa, [15] = 3}, UINT64_MAX},
    {{0xfd, 0xaa}, {[15] = 1}, 2000},
};
static struct table *table;
static unsigned long verdicts[NOWHERE + 1], replies, truncated, cookies;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!table)
        table = make_state();
    if (!size)
        return 0;
    unsigned which = data[0] % (sizeof CASES / sizeof *CASES), turn = data[0] * 7u;
    struct query query;
    /* of just this size: the sanitizer sees one octet too many */
    uint8_t *octets = malloc(size - 1 ? size - 1 : 1);
    memcpy(octets, data + 1, --size);
    enum verdict verdict = read_query(table, octets, size, CASES[which].source,
        CASES[which].destination, 5353, &query);
    verdicts[verdict]++;
    struct answer *answer = verdict == PLAIN ? find_answer(table, &query, CASES[which].now) : NULL;
    if (answer) {
        size_t room = data[0] % 3 ? 8192 : 600;
        uint8_t *out = malloc(room);
        struct moment now = {.monotonic = CASES[which].now, .unix_time = 1700000000};
        size_t length = build_reply(table, answer, &query, turn, &now, out, room);
        assert(length <= room && length <= query.limit);
        if (length) {
            replies++;
            truncated += (out[2] & 2) != 0;
            cookies += query.cookie != NULL;
            assert(length >= query.end && !memcmp(out, octets, 2) && (out[2] & 0xf8) == 0x80);
            assert(!memcmp(out + HEADER, octets + HEADER, query.end - HEADER));
            assert(CASES[which].destination[5] == 0 || CASES[which].destination[5] == 0x18 || which
                == 5);
        }
        free(out);
    }
    free(octets);
    return 0;
}

#ifdef DRIVER
enum { MOST = 5000, FILES = 256 };
static uint64_t state;

static unsigned below(unsigned limit)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (unsigned)(state >> 33) % limit;
}

static size_t mutate(uint8_t *o, size_t size)
{
    static const uint8_t telling[] = {0, 1, 2, 3, 12, 28, 41, 63, 64, 65, 127, 128, 192, 255};
    for (unsigned left = below(4); left; left--) {
        size_t at = below((unsigned)size + 1);
        switch (below(6)) {
        case 0: if (at < size) o[at] ^= (uint8_t)(1 << below(8)); break;
        case 1: if (at < size) o[at] = telling[below(sizeof telling)]; break;
        case 2: if (at < size) o[at] = (uint8_t)below(256); break;
        case 3: size = below(8) ? size : at; break;
        case 4: if (at < size) memmove(o + at, o + at + 1, size - at - 1), size--; break;
        case 5: if (size < MOST) memmove(o + at + 1, o + at, size - at),
            o[at] = telling[below(sizeof telling)], size++; break;
        }
    }
    return size;
}

/* Read hexadecimal digits; `#` starts a comment. */
static size_t from_hex(const char *path, uint8_t *out)
{
    FILE *file = fopen(path, "r");
    assert(file);
    size_t digits = 0;
    for (int c, comment = 0; (c = getc(file)) != EOF && digits < 2 * MOST;) {
        comment = c == '#' || (comment && c != '\n');
        int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (!comment && value >= 0) {
            out[digits / 2] = (uint8_t)(digits % 2 ? out[digits / 2] | value : value << 4);
            digits++;
        }
    }
    fclose(file);
    return digits / 2;
}

int main(int count, char **words)
{
    static uint8_t corpus[FILES][MOST], input[MOST + 8];
    static size_t sizes[FILES];
    unsigned files = 0;
    if (count < 4)
        return fprintf(stderr, "usage: fuzz SECONDS SEED FILE.hex…\n"), 2;
    state = strtoull(words[2], NULL, 10) * 2 + 1;
    for (int k = 3; k < count && files < FILES; k++, files++)
        sizes[files] = from_hex(words[k], corpus[files]);
    unsigned long inputs = 0;
    for (time_t end = time(NULL) + atoi(words[1]); time(NULL) < end;)
        for (int k = 0; k < 1000; k++, inputs++) {
            unsigned file = below(files);
            input[0] = (uint8_t)below(256);
            memcpy(input + 1, corpus[file], sizes[file]);
            LLVMFuzzerTestOneInput(input, 1 + mutate(input + 1, sizes[file]));
        }
    printf("%lu inputs: %lu handed up, %lu plain, %lu runts, %lu responses, %lu replies, "
           "%lu truncated, %lu with a cookie\n",
           inputs, verdicts[HAND_UP], verdicts[PLAIN], verdicts[RUNT], verdicts[RESPONSE], replies,
           truncated, cookies);
    free_table(table), free(table);
    return replies && truncated && cookies && verdicts[HAND_UP] && verdicts[RUNT]
        && verdicts[RESPONSE] ? 0 : 1;
}
#endif
