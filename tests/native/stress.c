/* Readers look up and build replies while one writer puts, replaces and removes: `stress THREADS CHANGES`.
 *
 * Every answer holds one number, many times, and the number says to which name it belongs: a reply that mixes two
 * answers, or one that was freed, shows. To be built with -fsanitize=thread, and with address. */
#include <pthread.h>

#include "state.h"

enum { NAMES = 6000, LABELS = 50, MOST_RECORDS = 40 };

static struct table *table;
static atomic_bool ended;
static atomic_ulong lookups, found, unknown;

static uint8_t name_of(unsigned number, uint8_t *name)
{
    uint8_t length = (uint8_t)sprintf((char *)name, "\10app-%04u\10internal", number);
    return (uint8_t)(length + 1);
}

static void check(const uint8_t *records, size_t size, unsigned number)
{
    uint32_t first, next;
    memcpy(&first, records, 4);
    assert(first % NAMES == number);
    for (size_t at = 4; at + 4 <= size; at += 4) {
        memcpy(&next, records + at, 4);
        assert(next == first);
    }
}

static void look_up(struct reader *reader, uint64_t *random)
{
    uint8_t octets[300] = {1, 2, 1, 0, 0, 1}, out[4096];
    struct query query;
    const struct moment now = {0};
    begin_reading(table, reader);
    for (int k = 0; k < 16; k++) {
        *random ^= *random << 13, *random ^= *random >> 7, *random ^= *random << 17;
        unsigned number = (unsigned)(*random >> 33) % NAMES;
        size_t end = HEADER + name_of(number, octets + HEADER);
        memcpy(octets + end, "\0\34\0\1", 4);
        assert(read_query(table, octets, end + 4, SOURCE, SERVER, 5353, &query) == PLAIN);
        struct answer *answer = find_answer(table, &query, 0);
        if (answer && answer->names_zone)
            atomic_fetch_add(&unknown, 1);
        else if (answer) {
            query.limit = sizeof out;
            size_t size = build_reply(table, answer, &query, (uint32_t)*random, &now, out, sizeof out);
            assert(size);
            check(out + end + 4, size - end - 4, number);
            atomic_fetch_add(&found, 1);
        }
    }
    end_reading(reader);
    atomic_fetch_add(&lookups, 16);
}

static void *read_on(void *reader)
{
    uint64_t random = (uint64_t)(uintptr_t)reader | 1;
    while (!ended)
        look_up(reader, &random);
    return NULL;
}

static uint64_t label_of(unsigned number)
{
    uint8_t label[16];
    label[0] = (uint8_t)sprintf((char *)label + 1, "label-%u", number % LABELS);
    return hash_part(table, 0x18, label, 1U + label[0]);
}

static void forget(uint64_t hash)
{
    for (struct answer *one; (one = hash ? find_of_part(table->parts, hash) : find_dependent(table, 0x18, NULL, 0));)
        forget_answer(table, one);
}

static void change(uint64_t random, uint32_t version)
{
    uint32_t records[MOST_RECORDS];
    uint8_t name[64];
    unsigned number = (unsigned)(random >> 33) % NAMES, count = 4 * (1 + (unsigned)(random >> 20) % (MOST_RECORDS / 4));
    uint8_t length = name_of(number, name);
    if (version % 4096 == 0)
        put_network(table, 0x18, version % 8192 ? 10 : 5000);
    if (version % 20000 == 0)
        forget(version % 40000 ? label_of(number) : 0);
    if (random % 8 == 0) {
        remove_answer(table, 0x18, 28, OWN, name, length);
        return;
    }
    for (unsigned k = 0; k < count; k++)
        records[k] = version % (UINT32_MAX / NAMES) * NAMES + number;
    struct answer_spec spec = spec_of(name, length);
    uint64_t parts[3] = {label_of(number), label_of(number + 1), label_of(number + 7)};
    spec.parts = parts, spec.part_count = number % 4;
    spec.record_octets = (uint8_t *)records, spec.records = spec.shown = spec.whole = count * 4, spec.unit = 16, spec.turns = count / 4;
    assert(put_answer(table, &spec));
}

/* Fail unless the lists of parts and of ages have all answers, and the sums are right. */
static void check_lists(const struct table *at)
{
    uint64_t octets = 0, entries = 0, dependent = 0, dependencies = 0, accounts = 0;
    for (unsigned chain = 0; chain < ACCOUNTS; chain++)
        for (const struct account *a = at->accounts[chain]; a; a = a->next) {
            uint64_t own = 0, count = 0;
            for (const struct node *n = a->oldest, *older = NULL; n; older = n, n = n->newer, count++) {
                assert(n->older == older && ((const struct answer *)n)->account == a);
                own += n->size, dependencies += ((const struct answer *)n)->dependency_count;
            }
            for (const struct dependency *one = a->whole; one; one = one->next)
                assert(!one->hash && *one->link == one && one->answer->account == a), dependent++;
            assert(own == a->octets && count == a->entries);
            octets += own, entries += count, accounts += count != 0;
        }
    for (int old = 0; old < 2; old++)
        for (uint64_t chain = 0; (old ? at->parts->old : at->parts->now) && chain <= (old ? at->parts->old_mask : at->parts->mask); chain++)
            for (const struct dependency *one = (old ? at->parts->old : at->parts->now)[chain]; one; one = one->next)
                assert(one->hash && *one->link == one && one->answer->account), dependent++;
    assert(octets == at->answer_octets && entries == at->answers.count && dependent == dependencies);
    assert(accounts == at->account_count);
}

int main(int count, char **words)
{
    pthread_t threads[READERS];
    int readers = count == 3 ? atoi(words[1]) : 0;
    unsigned long changes = count == 3 ? strtoul(words[2], NULL, 10) : 0;
    if (readers < 1 || readers >= READERS || !changes)
        return fprintf(stderr, "usage: stress THREADS CHANGES\n"), 2;
    table = make_state();
    uint64_t before = table->entries, chains = table->answers.now->mask + 1;
    uint64_t most_waiting = 0, random = 88172645463325252u;
    for (int k = 0; k < readers; k++)
        assert(!pthread_create(&threads[k], NULL, read_on, &table->readers[k]));
    for (unsigned long k = 1; k <= changes; k++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        change(random, (uint32_t)(k % 10000000));
        most_waiting = table->waiting > most_waiting ? table->waiting : most_waiting;
    }
    ended = true;
    for (int k = 0; k < readers; k++)
        pthread_join(threads[k], NULL);
    free_unseen(table);
    assert(!table->waiting && table->entries <= before + NAMES);
    assert(table->answers.now->mask + 1 >= 4 * chains && table->answers.count <= 2 * table->answers.now->mask);
    uint64_t most = table->answer_octets / 2, evicted = table->evictions;
    table->bound = most;
    change(2, 7);
    assert(table->answer_octets <= most && table->evictions > evicted);
    check_lists(table);
    printf("%lu changes, %lu lookups, %lu found, %lu unknown, at most %lu waiting to be freed\n", changes,
           (unsigned long)lookups, (unsigned long)found, (unsigned long)unknown, (unsigned long)most_waiting);
    free_table(table), free(table);
    return found && unknown ? 0 : 1;
}
