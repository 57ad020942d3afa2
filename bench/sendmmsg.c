/* A load generator: one thread, batches of sendmmsg and recvmmsg. bench/loads.py builds and runs it.

       sendmmsg [-n] [-s] [-u] [-c COUNT] [-f SOURCE,…] ADDRESS PORT FILE SECONDS RATE WINDOW

   FILE holds encoded queries, each after its length in two octets; the program sets their IDs. It sends them in order,
   repeatedly. RATE 0: as fast as replies arrive, with WINDOW outstanding. RATE n: n per second, regardless of replies; the
   latency of a query then counts from its due time, so that a stall shows in every query that it delays. The program
   prints one JSON object. A query without a reply half a second after the end is lost.

   -c  end when so many queries are sent, or after SECONDS
   -f  send from these addresses in turn
   -n  read no replies: flood, and count only the sent queries
   -s  sleep until a query is due or a reply arrives, instead of polling: for low rates
   -u  write ten unique hexadecimal digits into the start of the first label, so that no name repeats in this run or
       (they depend on the clock) in another */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    SOCKETS = 4,      /* source ports; each has 65536 ids */
    MOST = 64,        /* of them, when there are many sources */
    DIGITS = 10,      /* of a name that is never asked twice */
    IDS = 65536,
    BATCH = 32,
    REPLY = 4096,     /* octets kept of a reply: only its header is read */
    TICK = 1000,      /* ns, resolution of the histogram */
    TICKS = 1000000,  /* the last bin is "a second or more" */
    STALL = 100000000, /* ns without any reply after which a full window is opened again */
    PATIENCE = 50     /* stalls before that with COUNT, where each query counts: a server without a turn is no loss */
};

static uint64_t due_at[MOST][IDS]; /* 0: nothing outstanding under this id */
static uint16_t next_id[MOST];
static uint32_t histogram[TICKS];
static uint64_t opened; /* when the window was last opened again: what was sent before counts no longer */
static uint64_t sent, answered, lost, outstanding, rcodes[16], truncated, empty, stray;
static int sockets[MOST], socket_count = SOCKETS, deaf, asleep, unique;
static uint64_t serial, most, limit = UINT64_MAX;
static uint8_t *queries;
static size_t *offsets, query_count;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "sendmmsg: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void read_queries(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        die(path);
    size_t size = (size_t)ftell(file);
    rewind(file);
    queries = malloc(size + 1);
    offsets = malloc((size / 14 + 2) * sizeof *offsets); /* two octets of length, 12 of header */
    if (!queries || !offsets || fread(queries, 1, size, file) != size)
        die(path);
    fclose(file);
    for (size_t at = 0; at + 14 <= size; at += 2 + (size_t)(queries[at] << 8 | queries[at + 1]))
        offsets[query_count++] = at;
    if (!query_count)
        die("no queries");
}

/* Bind each socket to the next of `sources`, if there are any, and connect it. */
static void connect_to(const char *address, int port, char *sources)
{
    struct sockaddr_in6 from[MOST] = {{0}};
    int given = 0;
    for (char *word = sources ? strtok(sources, ",") : NULL; word && given < MOST; word = strtok(NULL, ",")) {
        from[given].sin6_family = AF_INET6;
        if (inet_pton(AF_INET6, word, &from[given++].sin6_addr) != 1)
            die(word);
    }
    socket_count = given > SOCKETS ? given : SOCKETS;
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET6, address, &to.sin6_addr) != 1)
        die(address);
    for (int s = 0; s < socket_count; s++) {
        int buffer = 4 << 20;
        sockets[s] = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (sockets[s] < 0)
            die("socket");
        if (given && bind(sockets[s], (struct sockaddr *)&from[s % given], sizeof *from))
            die("bind");
        if (connect(sockets[s], (struct sockaddr *)&to, sizeof to))
            die("connect");
        setsockopt(sockets[s], SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    }
}

/* Write the digits of `number`, mixed so that names which follow each other have nothing in common (an odd factor loses
   nothing modulo a power of two). */
static void write_digits(uint8_t *label, size_t length, uint64_t number)
{
    if (length < 12 + 1 + DIGITS || label[-1] < DIGITS)
        die("the first label is shorter than its number");
    number *= 0x9e3779b97f4a7c15u;
    for (int d = 0; d < DIGITS; d++, number >>= 4)
        label[d] = (uint8_t)"0123456789abcdef"[number & 15];
}

/* Send up to `wanted` (at most BATCH) queries on socket s; the k-th is due at first + k * interval. */
static void send_some(int s, int wanted, uint64_t first, double interval)
{
    static uint8_t buffers[BATCH][512];
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH];
    memset(messages, 0, sizeof messages);
    for (int k = 0; k < wanted; k++) {
        uint8_t *from = queries + offsets[(sent + (uint64_t)k) % query_count];
        size_t length = (size_t)(from[0] << 8 | from[1]);
        uint16_t id = (uint16_t)(next_id[s] + k);
        if (length > sizeof buffers[k])
            die("a query of more than 512 octets");
        memcpy(buffers[k], from + 2, length);
        buffers[k][0] = (uint8_t)(id >> 8);
        buffers[k][1] = (uint8_t)id;
        if (unique)
            write_digits(buffers[k] + 13, length, serial + (uint64_t)k);
        parts[k] = (struct iovec){buffers[k], length};
        messages[k].msg_hdr.msg_iov = &parts[k];
        messages[k].msg_hdr.msg_iovlen = 1;
    }
    int done = sendmmsg(sockets[s], messages, (unsigned)wanted, 0);
    for (int k = 0; k < done && !deaf; k++) {
        uint64_t *slot = &due_at[s][next_id[s]++];
        if (*slot && *slot >= opened && outstanding)
            outstanding--; /* the id comes round again: that one is lost */
        *slot = first + (uint64_t)(k * interval);
        outstanding++;
    }
    if (done > 0)
        sent += (uint64_t)done, serial += (uint64_t)done;
    if (deaf)
        next_id[s] += (uint16_t)wanted;
    if (outstanding > most)
        most = outstanding;
}

static uint64_t last_reply;

static void receive_some(int s)
{
    static uint8_t buffers[BATCH][REPLY];
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH];
    memset(messages, 0, sizeof messages);
    for (int k = 0; k < BATCH; k++) {
        parts[k] = (struct iovec){buffers[k], REPLY};
        messages[k].msg_hdr.msg_iov = &parts[k];
        messages[k].msg_hdr.msg_iovlen = 1;
    }
    int count = recvmmsg(sockets[s], messages, BATCH, MSG_DONTWAIT, NULL);
    if (count <= 0)
        return;
    uint64_t at = last_reply = now();
    for (int k = 0; k < count; k++) {
        uint8_t *m = buffers[k];
        uint64_t *slot = &due_at[s][m[0] << 8 | m[1]];
        if (messages[k].msg_len < 12 || !(m[2] & 0x80) || !*slot) {
            stray++;
            continue;
        }
        uint64_t bin = at > *slot ? (at - *slot) / TICK : 0;
        histogram[bin < TICKS ? bin : TICKS - 1]++;
        if (*slot >= opened)
            outstanding -= outstanding > 0;
        *slot = 0;
        answered++;
        rcodes[m[3] & 15]++;
        truncated += (m[2] & 2) != 0;
        empty += !(m[3] & 15) && !(m[6] | m[7]);
    }
}

/* The latency that `share` of the answered queries do not exceed, in µs. */
static double quantile(double share)
{
    uint64_t below = 0;
    for (int bin = 0; bin < TICKS; bin++)
        if ((below += histogram[bin]) >= share * (double)answered && below)
            return (bin + 1) * TICK / 1000.0;
    return 0;
}

/* Sleep until a reply has come, or `due` (0: there is nothing to send before a reply). */
static void sleep_until(uint64_t due, uint64_t end)
{
    static struct pollfd ready[MOST];
    uint64_t t = now(), until = due && due < end ? due : end, left = until > t ? until - t : 0;
    if (left > STALL)
        left = STALL; /* to see that one */
    struct timespec wait = {.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
    for (int s = 0; s < socket_count; s++)
        ready[s] = (struct pollfd){.fd = sockets[s], .events = POLLIN};
    ppoll(ready, (nfds_t)socket_count, &wait, NULL);
}

int main(int all, char **given)
{
    char *sources = NULL;
    for (int option; (option = getopt(all, given, "c:f:nsu")) != -1;)
        switch (option) {
        case 'c': limit = strtoull(optarg, NULL, 10); break;
        case 'f': sources = optarg; break;
        case 'n': deaf = 1; break;
        case 's': asleep = 1; break;
        case 'u': unique = 1; break;
        default: return 2;
        }
    if (all - optind != 6)
        return fprintf(stderr, "usage: sendmmsg [-n] [-s] [-u] [-c COUNT] [-f SOURCE,…] ADDRESS PORT FILE SECONDS RATE WINDOW\n"), 2;
    char **words = given + optind - 1;
    struct timespec clock;
    clock_gettime(CLOCK_REALTIME, &clock);
    serial = (uint64_t)clock.tv_sec * 1000000u + (uint64_t)clock.tv_nsec / 1000u; /* nobody sends a million per second */
    prctl(PR_SET_TIMERSLACK, 1000UL);
    double rate = atof(words[5]), interval = rate > 0 ? 1e9 / rate : 0;
    uint64_t window = strtoull(words[6], NULL, 10);
    connect_to(words[1], atoi(words[2]), sources);
    read_queries(words[3]);
    uint64_t start = now(), end = start + (uint64_t)(atof(words[4]) * 1e9), t;
    uint64_t stall = limit == UINT64_MAX ? STALL : (uint64_t)STALL * PATIENCE;
    last_reply = start;
    for (int s = 0; (t = now()) < end && sent < limit; s = (s + 1) % socket_count) {
        uint64_t wanted, first = t;
        if (rate > 0) {
            uint64_t due = (uint64_t)((double)(t - start) / interval) + 1;
            wanted = due > sent ? due - sent : 0;
            first = start + (uint64_t)((double)sent * interval);
        } else {
            wanted = window > outstanding ? window - outstanding : 0;
            if (!wanted && t - last_reply > stall) {
                /* What comes later still is counted as answered, but opens the window no further: each stall would
                 * leave more queries under way, until they fill the socket or are dropped as too late. */
                outstanding = 0;
                opened = last_reply = t;
            }
        }
        if (wanted > limit - sent)
            wanted = limit - sent;
        if (wanted)
            send_some(s, wanted < BATCH ? (int)wanted : BATCH, first, interval);
        for (int r = 0; r < socket_count && !deaf; r++)
            receive_some(r);
        if (asleep)
            sleep_until(rate > 0 ? start + (uint64_t)((double)sent * interval) : window > outstanding ? t : 0, end);
    }
    double seconds = (double)(now() - start) / 1e9;
    for (t = now() + 500000000; now() < t && answered < sent && !deaf; usleep(200))
        for (int r = 0; r < socket_count; r++)
            receive_some(r);
    lost = deaf ? 0 : sent - answered;
    printf("{\"seconds\": %.6f, \"sent\": %llu, \"answered\": %llu, \"lost\": %llu, \"stray\": %llu, \"truncated\": %llu, "
           "\"empty\": %llu, \"most\": %llu, \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"rcodes\": [",
           seconds, (unsigned long long)sent, (unsigned long long)answered, (unsigned long long)lost,
           (unsigned long long)stray, (unsigned long long)truncated, (unsigned long long)empty, (unsigned long long)most,
           quantile(.5), quantile(.99), quantile(.999));
    for (int r = 0; r < 16; r++)
        printf("%s%llu", r ? ", " : "", (unsigned long long)rcodes[r]);
    puts("]}");
    return 0;
}
