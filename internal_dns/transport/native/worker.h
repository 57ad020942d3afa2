/* One worker of the native UDP path: read datagrams, repeat answers, hand the rest up to Python.
 *
 *     its sockets ─► recvmmsg ─► repeat.h ─► sendmmsg          one thread, without Python's lock
 *                                    └─► ring ─► Python ─► sendmmsg from there (send_reply, flush)
 *
 * Sockets are polled fairly: at most BATCH messages of one, then the next. The ring has one
 * producer, the worker, and one consumer, the event loop, which an eventfd wakes once per batch.
 * The worker ends by its stop eventfd and has then dealt with all it has read; the sockets are
 * untouched (shutdown() would end them for a process that inherits them).
 */
#ifndef INTERNAL_DNS_WORKER_H
#define INTERNAL_DNS_WORKER_H

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "table.h"

enum {
    BATCH = 64,
    QUEUES = 8,
    /* Strides that are no multiple of 4,096: buffers that are would all share a few sets of the
     * first-level cache. */
    IN_STRIDE = MAX_QUERY + 64,
    /* the largest reply that is repeated here: the default of the setting udp_limit */
    OUT_SIZE = 8192,
    RING = 4 << 20,
    /* as much may wait when something is put behind it only to be shown */
    SHOWN = RING / 16,
    CELLS = 1024,             /* counters of replies by (kind, RCODE, QTYPE) */
    CONTROL = 64,             /* of one control message */
    OWN_PORTS = 8,                  /* ports from which this process asks itself */
};
_Static_assert(CONTROL >= CMSG_SPACE(sizeof(struct in6_pktinfo)), "packet info has room");

/* A token bucket for each network, so that none fills the ring: the fair queue behind the ring
 * divides Python's time. 20,000 per second are about what Python can decide, and a burst of 16,384
 * fits into the ring. The bucket is the time until which all that was sent up is paid for. There is
 * none before the first catalog: then all networks are unknown, and would share one. */
static const uint64_t TOKEN = 1000000000 / 20000, BURST = 16384 * TOKEN; /* nanoseconds */

struct listening {
    int fd;
    bool ipv6, wildcard;
    /* of a socket that is no wildcard: the destination of all it receives */
    uint8_t address[16];
};

/* Why a message is in the ring: to be answered, or only to be shown to a watcher. */
enum { ASKED, REPEATED, DROPPED };
/* Where a message came from and went to: all that a reply needs. In the ring the octets follow it;
 * when it was REPEATED, the reply's header follows them. */
struct handed {
    uint32_t size;            /* octets; WRAP: the next one is at the ring's start */
    uint16_t port;            /* as on the wire */
    uint16_t socket;          /* which of the worker's */
    uint32_t scope, interface;
    uint64_t what;
    uint8_t source[16], destination[16];
};
static const uint32_t WRAP = UINT32_MAX;

struct counts {               /* written by the worker alone, except `send` */
    _Atomic uint64_t received[2]; /* IPv4, IPv6 */
    _Atomic uint64_t dropped[NOWHERE + 1]; /* by verdict */
    _Atomic uint64_t flood, full, send, hits;
    _Atomic uint64_t unseen;  /* what there was no room to show */
    _Atomic uint64_t cells[CELLS];
};

struct batch {                /* messages with their addresses, for recvmmsg or sendmmsg */
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    struct sockaddr_in6 addresses[BATCH]; /* or sockaddr_in, which is smaller */
    _Alignas(8) uint8_t controls[BATCH][CONTROL];
};

struct worker {
    struct table *table;
    struct reader *reader;
    struct listening *sockets;
    int socket_count, epoll, stop, up; /* stop and up: eventfds */
    uint64_t random;
    struct counts counts;
    _Atomic bool bounded;              /* the buckets count: a catalog is loaded */
    /* ports, as on the wire: their questions pass a full bucket */
    _Atomic uint16_t own[OWN_PORTS];
    /* the bucket of all networks that the catalog does not have */
    _Atomic uint64_t strangers_due;
    _Alignas(64) _Atomic uint64_t head; /* octets the worker ever put into the ring */
    _Alignas(64) _Atomic uint64_t tail; /* octets Python ever took out */
    uint8_t *ring, *in, *out;
    struct batch received, replies, from_python;
    struct query queries[BATCH];
    int python_socket, python_count;   /* what waits in from_python */
};

static inline void count(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
        memory_order_relaxed);
}

static inline uint64_t nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t); /* some 4 ms; read once per batch */
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* The clocks as replies need them; *now* is `nanoseconds`. */
static inline struct moment moment_of(uint64_t now)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME_COARSE, &t); /* nothing but cookies has it */
    return (struct moment){.monotonic = now / 1000000, .unix_time = (uint32_t)t.tv_sec};
}

static inline uint32_t next_rotation(struct worker *w)
{
    /* xorshift64 */
    w->random ^= w->random << 13, w->random ^= w->random >> 7, w->random ^= w->random << 17;
    return (uint32_t)(w->random >> 32);
}

/* ── up to Python ────────────────────────────────────────────────────────────────────────────── */

static inline bool may_go_up(struct worker *w, uint32_t number, uint64_t now)
{
    if (!atomic_load_explicit(&w->bounded, memory_order_relaxed))
        return true;
    struct network *network = number ? find_network(w->table, number) : NULL;
    _Atomic uint64_t *due = network ? &network->due : &w->strangers_due;
    uint64_t paid = atomic_load_explicit(due, memory_order_relaxed);
    if (paid < now)
        paid = now;
    if (paid - now > BURST)
        return false;
    atomic_store_explicit(due, paid + TOKEN, memory_order_relaxed);
    return true;
}

/* Whether a question comes from a port of this process: whose it is really, Python sees by the
 * address too. */
static inline bool is_own(struct worker *w, uint16_t port)
{
    for (int k = 0; k < OWN_PORTS; k++)
        if (port && atomic_load_explicit(&w->own[k], memory_order_relaxed) == port)
            return true;
    return false;
}

static inline bool put_into_ring(struct worker *w, const struct handed *handed,
    const uint8_t *octets)
{
    uint64_t head = atomic_load_explicit(&w->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&w->tail, memory_order_acquire);
    uint64_t need = (sizeof *handed + handed->size + 7) & ~(uint64_t)7, left = RING - head % RING;
    uint64_t skip = left < need ? left : 0;
    if (head + skip + need - tail > RING)
        return false;
    if (skip)
        /* everything is a multiple of 8: there is room */
        memcpy(w->ring + head % RING, &WRAP, sizeof WRAP);
    uint8_t *at = w->ring + (head + skip) % RING;
    memcpy(at, handed, sizeof *handed);
    memcpy(at + sizeof *handed, octets, handed->size);
    atomic_store_explicit(&w->head, head + skip + need, memory_order_release);
    return true;
}

/* Python's end: the next record, NULL when there is none. It stays until `done_with`. */
static inline const struct handed *next_handed(struct worker *w)
{
    uint64_t tail = atomic_load_explicit(&w->tail, memory_order_relaxed);
    if (tail == atomic_load_explicit(&w->head, memory_order_acquire))
        return NULL;
    const struct handed *found = (const struct handed *)(w->ring + tail % RING);
    if (found->size != WRAP)
        return found;
    atomic_store_explicit(&w->tail, tail + RING - tail % RING, memory_order_release);
    return (const struct handed *)w->ring;
}

static inline void done_with(struct worker *w, const struct handed *handed)
{
    uint64_t size = (sizeof *handed + handed->size + 7) & ~(uint64_t)7;
    atomic_store_explicit(&w->tail, atomic_load_explicit(&w->tail, memory_order_relaxed) + size,
        memory_order_release);
}

/* Show Python, if somebody watches and it is this one's turn, a reply that was repeated, or a
 * message that was dropped (*reply* is NULL). *octets* have room for the header of a reply behind
 * its query. Nobody pays for it: what must go up has the ring first, and no bucket is asked. Return
 * whether it is in the ring. */
static inline bool show(struct worker *w, const struct handed *handed, uint8_t *octets,
    const uint8_t *reply)
{
    uint32_t watched = atomic_load_explicit(&w->table->watched, memory_order_relaxed);
    if (!watched || next_rotation(w) % watched)
        return false;
    struct handed shown = *handed;
    shown.what = reply ? REPEATED : DROPPED;
    if (reply) {
        put(octets + shown.size, reply, HEADER);
        shown.size += HEADER;
    }
    uint64_t waiting = atomic_load_explicit(&w->head, memory_order_relaxed)
        - atomic_load_explicit(&w->tail, memory_order_relaxed);
    if (waiting <= SHOWN && put_into_ring(w, &shown, octets))
        return true;
    count(&w->counts.unseen);
    return false;
}

/* ── sending ─────────────────────────────────────────────────────────────────────────────────── */

static inline void send_all(struct worker *w, int fd, struct batch *batch, int size)
{
    for (int at = 0; at < size;) {
        int done = sendmmsg(fd, batch->messages + at, (unsigned)(size - at), 0);
        if (done > 0)
            at += done;
        else if (errno != EINTR) { /* the first of them cannot be sent; the others may be */
            atomic_fetch_add(&w->counts.send, 1);
            at++;
        }
    }
}

static inline void flush_python(struct worker *w)
{
    send_all(w, w->sockets[w->python_socket].fd, &w->from_python, w->python_count);
    w->python_count = 0;
}

/* Add a reply of Python's to those that leave together. *octets* must stay until flush_python. */
static inline void send_reply(struct worker *w, const struct handed *to, const uint8_t *octets,
    size_t size)
{
    if (w->python_count == BATCH || (w->python_count && w->python_socket != to->socket))
        flush_python(w);
    const struct listening *l = &w->sockets[w->python_socket = to->socket];
    struct batch *b = &w->from_python;
    int k = w->python_count++;
    struct msghdr *m = &b->messages[k].msg_hdr;
    memset(m, 0, sizeof *m);
    b->parts[k] = (struct iovec){(void *)(uintptr_t)octets, size};
    m->msg_iov = &b->parts[k], m->msg_iovlen = 1;
    m->msg_name = &b->addresses[k];
    if (!l->ipv6) {
        struct sockaddr_in *a = m->msg_name;
        *a = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = to->port};
        memcpy(&a->sin_addr, to->source + 12, 4);
        m->msg_namelen = sizeof *a;
        return;
    }
    struct sockaddr_in6 *a = m->msg_name;
    *a = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = to->port,
        .sin6_scope_id = to->scope};
    memcpy(&a->sin6_addr, to->source, 16);
    m->msg_namelen = sizeof *a;
    if (!l->wildcard)
        return;
    /* From the address that was asked, over the way it came. */
    struct cmsghdr *c = (struct cmsghdr *)b->controls[k];
    struct in6_pktinfo info = {.ipi6_ifindex = to->interface};
    memcpy(&info.ipi6_addr, to->destination, 16);
    c->cmsg_level = IPPROTO_IPV6, c->cmsg_type = IPV6_PKTINFO, c->cmsg_len = CMSG_LEN(sizeof info);
    memcpy(CMSG_DATA(c), &info, sizeof info);
    m->msg_control = c, m->msg_controllen = CMSG_SPACE(sizeof info);
}

/* ── a batch ─────────────────────────────────────────────────────────────────────────────────── */

/* Fill *from* with the addresses of received message *k*; false when packet info is missing. */
static inline bool addresses_of(struct worker *w, int socket, int k, struct handed *from)
{
    const struct listening *l = &w->sockets[socket];
    struct msghdr *m = &w->received.messages[k].msg_hdr;
    from->socket = (uint16_t)socket;
    from->interface = from->scope = 0, from->what = ASKED;
    memcpy(from->destination, l->address, 16);
    if (!l->ipv6) {
        const struct sockaddr_in *a = m->msg_name;
        memset(from->source, 0, 10);
        memset(from->source + 10, 0xff, 2);
        memcpy(from->source + 12, &a->sin_addr, 4);
        from->port = a->sin_port;
        return true;
    }
    const struct sockaddr_in6 *a = m->msg_name;
    memcpy(from->source, &a->sin6_addr, 16);
    from->port = a->sin6_port, from->scope = a->sin6_scope_id;
    if (!l->wildcard)
        return true;
    struct cmsghdr *c = CMSG_FIRSTHDR(m);
    if (!c || c->cmsg_level != IPPROTO_IPV6 || c->cmsg_type != IPV6_PKTINFO)
        return false;
    struct in6_pktinfo info;
    memcpy(&info, CMSG_DATA(c), sizeof info);
    memcpy(from->destination, &info.ipi6_addr, 16);
    from->interface = info.ipi6_ifindex;
    return true;
}

/* Receive at most BATCH messages of a socket; return how many. */
static inline int receive(struct worker *w, int socket)
{
    struct batch *b = &w->received;
    for (int k = 0; k < BATCH; k++) { /* what the last batch has overwritten */
        b->messages[k].msg_hdr.msg_namelen = sizeof b->addresses[k];
        b->messages[k].msg_hdr.msg_controllen = w->sockets[socket].wildcard ? CONTROL : 0;
        b->messages[k].msg_hdr.msg_flags = 0;
    }
    return recvmmsg(w->sockets[socket].fd, b->messages, BATCH, MSG_DONTWAIT, NULL);
}

/* Let the reply to message *k*, whose octets are at *out*, leave with the others: its packet info
 * goes back with it. */
static inline void reply_to(struct worker *w, int k, int n, uint8_t *out, size_t size)
{
    struct msghdr *to = &w->replies.messages[n].msg_hdr;
    *to = w->received.messages[k].msg_hdr;
    w->replies.parts[n] = (struct iovec){out, size};
    to->msg_iov = &w->replies.parts[n];
}

static inline void count_reply(struct worker *w, struct answer *answer, const struct query *query)
{
    uint16_t type = query->qtype < BY_TYPE ? query->qtype : BY_TYPE;
    count(&w->counts.cells[answer->names_zone ? w->table->unknown_cells[type] : answer->cell]);
    count(&w->counts.hits);
    count(&answer->hits);
}

/* Hot path: all of a batch is read before any is looked up, so that the memory each one needs is
 * under way meanwhile. */
static inline void serve_batch(struct worker *w, int socket)
{
    struct handed from[BATCH];
    enum verdict verdicts[BATCH];
    int size = receive(w, socket), replies = 0;
    if (size <= 0)
        return;
    struct table *table = w->table;
    uint64_t now = nanoseconds();
    struct moment moment = moment_of(now);
    bool handed_up = false;
    uint8_t *out = w->out;
    begin_reading(table, w->reader);
    /* what the old one has comes a little later */
    const struct chains *chains = atomic_load(&table->answers.now);
    for (int k = 0; k < size; k++) {
        uint8_t *octets = w->in + (size_t)k * IN_STRIDE;
        struct mmsghdr *m = &w->received.messages[k];
        bool known = addresses_of(w, socket, k, &from[k]);
        /* One octet more than any query has room: what is longer is seen to be. */
        from[k].size = m->msg_len > MAX_QUERY ? HEADER : m->msg_len;
        verdicts[k] = read_query(table, octets, m->msg_len, from[k].source, from[k].destination,
            ntohs(from[k].port),
                                 &w->queries[k]);
        if (!known)
            verdicts[k] = NOWHERE;
        if (verdicts[k] == PLAIN)
            __builtin_prefetch(&chains->first[w->queries[k].hash & chains->mask]);
        else if (verdicts[k] != HAND_UP) {
            count(&w->counts.dropped[verdicts[k]]);
            handed_up |= show(w, &from[k], octets, NULL);
        }
    }
    for (int k = 0; k < size; k++)
        if (verdicts[k] == PLAIN)
            __builtin_prefetch(atomic_load(&chains->first[w->queries[k].hash & chains->mask]));
    for (int k = 0; k < size; k++) {
        struct query *query = &w->queries[k];
        uint8_t *octets = w->in + (size_t)k * IN_STRIDE;
        struct answer *answer =
            verdicts[k] == PLAIN ? find_answer(table, query, moment.monotonic) : NULL;
        size_t length = answer
            ? build_reply(table, answer, query, next_rotation(w), &moment, out, OUT_SIZE) : 0;
        if (length) {
            count_reply(w, answer, query);
            reply_to(w, k, replies++, out, length);
            handed_up |= show(w, &from[k], octets, out);
            out += length;
        } else if (verdicts[k] == PLAIN || verdicts[k] == HAND_UP) {
            if (!may_go_up(w, query->network, now) && !is_own(w, from[k].port)) {
                count(&w->counts.flood);
                handed_up |= show(w, &from[k], octets, NULL);
            } else if (put_into_ring(w, &from[k], octets))
                handed_up = true;
            else
                count(&w->counts.full);
        }
    }
    end_reading(w->reader);
    atomic_fetch_add_explicit(&w->counts.received[w->sockets[socket].ipv6], (uint64_t)size,
        memory_order_relaxed);
    if (handed_up)
        eventfd_write(w->up, 1);
    send_all(w, w->sockets[socket].fd, &w->replies, replies);
}

/* ── beginning and end ───────────────────────────────────────────────────────────────────────── */

static inline bool watch(struct worker *w, int fd, int number)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)number};
    return !epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &event);
}

/* Prepare a zeroed worker whose table, reader, sockets and random are set; false with errno. */
static inline bool make_worker(struct worker *w)
{
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->up = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->ring = malloc(RING);
    w->in = malloc((size_t)BATCH * IN_STRIDE);
    w->out = malloc((size_t)BATCH * OUT_SIZE);
    if (w->epoll < 0 || w->stop < 0 || w->up < 0 || !w->ring || !w->in || !w->out)
        return false;
    for (int k = 0; k < BATCH; k++) {
        struct msghdr *m = &w->received.messages[k].msg_hdr;
        w->received.parts[k] = (struct iovec){w->in + (size_t)k * IN_STRIDE, MAX_QUERY + 1};
        m->msg_iov = &w->received.parts[k], m->msg_iovlen = 1;
        m->msg_name = &w->received.addresses[k];
        m->msg_control = w->received.controls[k];
    }
    for (int k = 0; k < w->socket_count; k++)
        if (!watch(w, w->sockets[k].fd, k))
            return false;
    return watch(w, w->stop, w->socket_count);
}

static inline void free_worker(struct worker *w)
{
    int fds[3] = {w->epoll, w->stop, w->up};
    for (int k = 0; k < 3; k++)
        if (fds[k] > 0)
            close(fds[k]);
    free(w->ring), free(w->in), free(w->out), free(w->sockets);
}

/* Serve until `stop` is written. Signals are left to the main thread. */
static inline void run_worker(struct worker *w)
{
    struct epoll_event events[16];
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (bool stopped = false; !stopped;) {
        int ready = epoll_wait(w->epoll, events, 16, -1);
        for (int k = 0; k < ready; k++)
            if (events[k].data.u32 == (uint32_t)w->socket_count)
                stopped = true;
            else
                serve_batch(w, (int)events[k].data.u32);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Let the source choose the socket of a SO_REUSEPORT group of QUEUES * flows: its network chooses
 * one of QUEUES classes, so that one network's flood fills the queues of one class, and its port
 * one of the class's *flows*, so that one network has as many workers. The network is the 32 bits
 * behind the prefix of an IPv6 source; IPv4 has the address itself. Ports are mixed first: some
 * systems use even ones only. The program sees the packet from the network header on (SKF_NET_OFF);
 * an IPv6 extension header would be taken for ports, which is as good. */
static inline int attach_fair_queues(int fd, uint32_t flows, bool ipv6)
{
    const uint32_t net = (uint32_t)SKF_NET_OFF;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, net + (ipv6 ? 10 : 12)),
        BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, QUEUES),
        BPF_STMT(BPF_ALU | BPF_MUL | BPF_K, flows),
        BPF_STMT(BPF_ST, 0),
        /* X: octets of the network header. */
        ipv6 ? (struct sock_filter)BPF_STMT(BPF_LDX | BPF_W | BPF_IMM, 40)
             : (struct sock_filter)BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, net),
        BPF_STMT(BPF_LD | BPF_H | BPF_IND, net),
        BPF_STMT(BPF_ALU | BPF_MUL | BPF_K, 0x9e3779b1),
        BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 16),
        BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, flows),
        BPF_STMT(BPF_LDX | BPF_W | BPF_MEM, 0),
        BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
        BPF_STMT(BPF_RET | BPF_A, 0),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program);
}

#endif
