/* The datagram side with real sockets: `datagrams QUERIES`. A wildcard socket with packet info, one
 * of ::1 and one of 127.0.0.1; two workers; a writer that changes the table; "Python", which
 * answers what is handed up and looks at what is shown. Every query gets a reply of its own id,
 * from the address that was queried. With -fsanitize=address and thread. */
#include "../../internal_dns/transport/native/worker.h"

#include <arpa/inet.h>
#include <poll.h>

#include "state.h"

enum { SOCKETS = 3, WORKERS = 2, WINDOW = 16 };

static struct table *table;
static struct worker *workers[WORKERS];
static atomic_bool ended;
static unsigned long shown, handed_up;

static int bound(int family, bool wildcard, struct sockaddr_storage *name, socklen_t *size)
{
    int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert(fd >= 0);
    if (family == AF_INET6) {
        assert(!setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on));
        if (wildcard)
            assert(!setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on));
        else
            six.sin6_addr = in6addr_loopback;
        assert(!bind(fd, (struct sockaddr *)&six, sizeof six));
    } else
        assert(!bind(fd, (struct sockaddr *)&four, sizeof four));
    *size = sizeof *name;
    assert(!getsockname(fd, (struct sockaddr *)name, size));
    return fd;
}

static void *work(void *worker)
{
    run_worker(worker);
    return NULL;
}

/* Put, forget and evict answers, let the table grow, show messages, make the network anew. */
static void *write_on(void *unused)
{
    uint8_t name[64], records[28 * 3];
    put_records(records, 28, 3);
    for (unsigned k = 0; !ended; k++) {
        uint8_t length = (uint8_t)(sprintf((char *)name, "\10app-%04u\10internal", k % 5000) + 1);
        struct answer_spec spec = spec_of(name, length);
        spec.records = spec.shown = spec.whole = sizeof records, spec.unit = 28, spec.turns = 3,
            spec.counts[0] = 3;
        spec.record_octets = records;
        assert(put_answer(table, &spec));
        if (k % 3 == 0)
            remove_answer(table, 0x18, 28, OWN, name, length);
        if (k % 1000 == 0)
            put_network(table, 0x18, k % 2000 ? 10 : 5000);
        if (k % 500 == 0)
            table->watched = k % 1000 ? 3 : 0;
    }
    return unused;
}

/* Answer what was handed up: REFUSED, without records. Return how much there was. */
static unsigned answer_handed(struct worker *w)
{
    static uint8_t replies[BATCH][512];
    unsigned count = 0;
    for (const struct handed *at; (at = next_handed(w)); done_with(w, at)) {
        if (at->what != ASKED) {
            shown++;
            continue;
        }
        uint8_t *reply = replies[count++ % BATCH];
        size_t size = at->size < 512 ? at->size : 512;
        memcpy(reply, at + 1, size);
        if (size < HEADER)
            continue;
        reply[2] |= 0x80, reply[3] = 5;
        send_reply(w, at, reply, size);
        if (count % BATCH == 0)
            flush_python(w);
    }
    flush_python(w);
    handed_up += count;
    return count;
}

/* A query of this number, of one of several kinds; return its size. */
static size_t make_query(uint8_t *octets, unsigned number)
{
    static const uint8_t opt[11 + 12] =
        {0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8};
    size_t at = HEADER;
    memcpy(octets, (uint8_t[]){(uint8_t)(number >> 8), (uint8_t)number, 1, 0, 0, 1, 0, 0, 0, 0, 0,
        0}, HEADER);
    if (number % 5 == 0) /* relayed, or to be handed up */
        at += (size_t)sprintf((char *)octets + at,
            number % 2 ? "\7example\3com" : "\7example\3net") + 1;
    else if (number % 5 == 1)
        at += (size_t)sprintf((char *)octets + at, "\3web\10internal") + 1;
    else
        at += (size_t)sprintf((char *)octets + at, "\10app-%04u\10internal", number % 5000) + 1;
    memcpy(octets + at, "\0\34\0\1", 4);
    at += 4;
    if (number % 4 < 2) {
        size_t size = number % 4 ? 11 : sizeof opt;
        memcpy(octets + at, opt, size);
        if (size == 11)
            octets[at + 10] = 0;
        octets[11] = 1;
        at += size;
    }
    return at;
}

int main(int words, char **word)
{
    unsigned long queries = words == 2 ? strtoul(word[1], NULL, 10) : 0, replies = 0, answers = 0;
    if (!queries)
        return fprintf(stderr, "usage: datagrams QUERIES\n"), 2;
    table = make_state();
    table->maps = realloc(table->maps, 2 * sizeof *table->maps);
    table->maps[table->map_count++] = (struct source_map){
        .address = {[10] = 0xff, [11] = 0xff, [12] = 127}, .length = 104, .network = 0x18};
    table->bound = 1 << 20;
    static uint8_t relayed[60];
    static const uint16_t ttls[2] = {6, 34};
    put_records(relayed, 28, 2);
    for (int variant = 0; variant < 4; variant++) { /* of any age: the TTLs are reduced */
        struct answer_spec spec = spec_of((const uint8_t *)"\7example\3com", 13);
        spec.network = 0, spec.variant = (uint8_t)(RELAYED | variant << 1),
            spec.record_octets = relayed;
        spec.records = spec.shown = spec.whole = 56, spec.ttls = ttls, spec.ttl_count = 2,
            spec.counts[0] = 2;
        spec.refresh = spec.expires = UINT64_MAX;
        assert(put_answer(table, &spec));
    }
    struct sockaddr_storage names[SOCKETS];
    socklen_t sizes[SOCKETS];
    int fds[SOCKETS];
    for (int k = 0; k < SOCKETS; k++)
        fds[k] = bound(k == 2 ? AF_INET : AF_INET6, k == 0, &names[k], &sizes[k]);
    pthread_t threads[WORKERS + 1];
    for (int k = 0; k < WORKERS; k++) {
        struct worker *w = workers[k] = calloc(1, sizeof *w);
        w->table = table, w->reader = &table->readers[k],
            w->random = 88172645463325252u + (unsigned)k;
        w->sockets = calloc(SOCKETS, sizeof *w->sockets);
        /* both read all: as when sockets are inherited by a second process */
        for (int s = 0; s < SOCKETS; s++) {
            struct listening *l = &w->sockets[w->socket_count++];
            *l = (struct listening){.fd = fds[s], .ipv6 = s != 2, .wildcard = s == 0};
            if (s == 1)
                l->address[15] = 1;
            if (s == 2)
                memcpy(l->address, (uint8_t[]){0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0,
                    1}, 16);
        }
        assert(make_worker(w));
        assert(!pthread_create(&threads[k], NULL, work, w));
    }
    assert(!pthread_create(&threads[WORKERS], NULL, write_on, NULL));
    /* what clients of the wildcard ask */
    ((struct sockaddr_in6 *)&names[0])->sin6_addr = in6addr_loopback;
    int clients[SOCKETS];
    for (int k = 0; k < SOCKETS; k++) {
        clients[k] = socket(k == 2 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        /* replies of others: dropped */
        assert(clients[k] >= 0 && !connect(clients[k], (struct sockaddr *)&names[k], sizes[k]));
    }
    for (unsigned number = 0; number < queries;) {
        unsigned first = number, waiting = 0;
        bool there[WINDOW] = {false};
        for (; number < queries && number - first < WINDOW; number++, waiting++) {
            uint8_t octets[512];
            size_t size = make_query(octets, number);
            assert(send(clients[number % SOCKETS], octets, size, 0) == (ssize_t)size);
        }
        /* runts and empty ones: dropped in silence */
        send(clients[first % SOCKETS], "x", first % 2, 0);
        for (int idle = 0; waiting && idle < 5000;) {
            unsigned before = waiting;
            for (int k = 0; k < WORKERS; k++) {
                eventfd_t up;
                if (!eventfd_read(workers[k]->up, &up))
                    answer_handed(workers[k]);
            }
            for (int k = 0; k < SOCKETS; k++) {
                uint8_t reply[8192];
                for (ssize_t size; (size = recv(clients[k], reply, sizeof reply, 0)) > 0;) {
                    unsigned which = (((unsigned)reply[0] << 8 | reply[1]) - first) & 0xffff;
                    assert(size >= HEADER && reply[2] & 0x80 && which < WINDOW && !there[which]);
                    there[which] = true;
                    waiting--, replies++;
                    answers += reply[7] != 0;
                }
            }
            if (waiting == before)
                idle++, poll(NULL, 0, 1);
        }
        assert(!waiting);
    }
    ended = true;
    for (int k = 0; k < WORKERS; k++)
        eventfd_write(workers[k]->stop, 1);
    for (int k = 0; k <= WORKERS; k++)
        pthread_join(threads[k], NULL);
    uint64_t runts = 0, sent = 0;
    for (int k = 0; k < WORKERS; k++) {
        answer_handed(workers[k]);
        runts += workers[k]->counts.dropped[RUNT], sent += workers[k]->counts.hits;
        assert(!workers[k]->counts.send && !workers[k]->counts.full
            && !workers[k]->counts.dropped[NOWHERE]);
        free_worker(workers[k]), free(workers[k]);
    }
    free_unseen(table);
    assert(!table->waiting && replies == queries && sent && handed_up && runts && shown && answers);
    printf("%lu queries, %lu replies, %lu with answers, %lu repeated, %lu handed up, "
           "%lu runts, %lu shown\n",
           queries, replies, answers, (unsigned long)sent, handed_up, (unsigned long)runts, shown);
    free_table(table), free(table);
    return 0;
}
