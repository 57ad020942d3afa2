/* An upstream for forwarder benchmarks: answers every query with one record (A or AAAA; else none) after a fixed delay.

       upstream PORT DELAY COUNT   on [::1]; DELAY in ms; COUNT: a file with the number of queries (eight octets, little endian)

   It sleeps while idle, so that it can share a core with a generator. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, HELD = 1 << 16, REPLY = 320, NAME = 255, OPT = 11, BUFFER = 4 << 20 };

struct held {
    uint64_t due;
    struct sockaddr_in6 to;
    uint16_t length;
    uint8_t octets[REPLY];
};

static struct held ring[HELD]; /* in the order of arrival, which is that of what is due: all wait equally long */
static uint64_t first, next;   /* ring[first % HELD] is the oldest */

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "upstream: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Make the query in `m` the reply to it; 0: it is no query, or too large. The record of OPT comes back if there was one. */
static uint16_t answer(uint8_t *m, size_t length)
{
    static const uint8_t a[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 192, 0, 2, 1};
    static const uint8_t aaaa[] = {0xc0, 12, 0, 28, 0, 1, 0, 0, 14, 16, 0, 16, 0x20, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    static const uint8_t opt[OPT] = {0, 0, 41, 4, 208};
    size_t at = 12;
    if (length < 17 || m[2] & 0x80 || m[4] || m[5] != 1)
        return 0;
    while (at < length && m[at])
        at += 1 + (size_t)m[at];
    if ((at += 5) > length || at > 12 + NAME + 4)
        return 0;
    int type = m[at - 4] << 8 | m[at - 3], edns = m[11];
    const uint8_t *record = type == 1 ? a : aaaa;
    size_t size = type == 1 ? sizeof a : type == 28 ? sizeof aaaa : 0;
    m[2] = 0x80 | (m[2] & 1);
    m[3] = 0x80;
    memcpy(m + 6, (uint8_t[]){0, size > 0, 0, 0, 0, edns > 0}, 6);
    memcpy(m + at, record, size);
    at += size;
    if (edns) {
        memcpy(m + at, opt, OPT);
        at += OPT;
    }
    return (uint16_t)at;
}

static void receive(int fd, uint64_t delay, volatile uint64_t *counted)
{
    static uint8_t buffers[BATCH][2048];
    static struct sockaddr_in6 from[BATCH];
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH];
    memset(messages, 0, sizeof messages);
    for (int k = 0; k < BATCH; k++) {
        parts[k] = (struct iovec){buffers[k], sizeof buffers[k] - REPLY};
        messages[k].msg_hdr = (struct msghdr){
            .msg_name = &from[k], .msg_namelen = sizeof from[k], .msg_iov = &parts[k], .msg_iovlen = 1};
    }
    int got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    uint64_t due = now() + delay;
    for (int k = 0; k < got; k++) {
        uint16_t length = answer(buffers[k], messages[k].msg_len);
        struct held *slot = &ring[next % HELD];
        ++*counted;
        if (!length || length > REPLY || next - first >= HELD)
            continue;
        slot->due = due;
        slot->to = from[k];
        slot->length = length;
        memcpy(slot->octets, buffers[k], length);
        next++;
    }
}

static void send_due(int fd)
{
    uint64_t t = now();
    while (first < next && ring[first % HELD].due <= t) {
        struct iovec parts[BATCH];
        struct mmsghdr messages[BATCH];
        unsigned count = 0;
        memset(messages, 0, sizeof messages);
        for (; count < BATCH && first + count < next; count++) {
            struct held *slot = &ring[(first + count) % HELD];
            if (slot->due > t)
                break;
            parts[count] = (struct iovec){slot->octets, slot->length};
            messages[count].msg_hdr = (struct msghdr){
                .msg_name = &slot->to, .msg_namelen = sizeof slot->to, .msg_iov = &parts[count], .msg_iovlen = 1};
        }
        int sent = sendmmsg(fd, messages, count, 0);
        first += sent > 0 ? (unsigned)sent : 1; /* to a socket that is closed by now: go on */
    }
}

int main(int count, char **words)
{
    if (count != 4)
        return fprintf(stderr, "usage: upstream PORT DELAY COUNT\n"), 2;
    uint64_t delay = strtoull(words[2], NULL, 10) * 1000000u;
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(words[1]))};
    at.sin6_addr = in6addr_loopback;
    int buffer = BUFFER, file = open(words[3], O_RDWR | O_CREAT, 0600), fd = socket(AF_INET6, SOCK_DGRAM, 0);
    if (file < 0 || ftruncate(file, 8))
        die(words[3]);
    volatile uint64_t *counted = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (counted == MAP_FAILED || bind(fd, (struct sockaddr *)&at, sizeof at))
        die("bind");
    prctl(PR_SET_TIMERSLACK, 1000UL); /* or the delay would be 50 µs longer by chance */
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        uint64_t t = now(), due = first < next ? ring[first % HELD].due : 0, left = due > t ? due - t : 0;
        struct timespec wait = {.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
        if (ppoll(&ready, 1, first < next ? &wait : NULL, NULL) > 0)
            receive(fd, delay, counted);
        send_due(fd);
    }
}
