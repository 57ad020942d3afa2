/* Send questions to upstreams over UDP, and match what comes back.
 *
 *     ask ─► a connected socket ─► upstream ─► take_message ─► SIMPLE: the reply; relay it
 *                                                  │           OTHER: something for this question; Python looks at it
 *                                                  └─► LATE (dropped), STRAY (for no question), GONE (nobody listens)
 *
 * Nothing is decided here: Python (forward/outstanding.py) says what is asked of whom, and when it has waited enough. A
 * reply must come to the port, with the id, and repeat the question in its random letter case; these come from the
 * kernel's generator. The sockets of all upstreams are in one epoll set, so the event loop watches one descriptor.
 *
 * Sockets are shared (a pool) where nobody can forge the upstream's address, else each question has one of its own: the
 * rules and figures of forward/sockets.py, which does the same in Python. One thread, no locks. The time is an argument,
 * in seconds. Functions that fail return -1 or NULL, and errno says why.
 */
#ifndef INTERNAL_DNS_UPSTREAM_H
#define INTERNAL_DNS_UPSTREAM_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "reply.h"

enum {
    POOL = 64,           /* sockets of one upstream, at most */
    PER_SOCKET = 256,    /* questions that a shared socket serves */
    READ_AT_ONCE = 32,   /* messages read from one socket before others have their turn */
    EVENTS = 64,         /* sockets with something to read, in one turn of the event loop */
    RANDOM = 4096,
    OUR_SIZE = 1232,     /* as forward/question.py */
};
/* What a question asks for besides name and type. RAW: its reply is Python's, whatever it is. */
enum { ASK_DO = 1, ASK_CD = 2, ASK_EDNS = 4, ASK_RAW = 8 };
enum sharing { FRESH, ON_THIS_HOST, POOLED }; /* as the setting upstream_sockets: fresh, auto, pool */
enum message_kind { NOTHING, SIMPLE, OTHER, LATE, STRAY, GONE };

struct question {
    struct socket_of *on;        /* NULL: nothing is expected */
    struct question *next;       /* on the same socket */
    void *owner;
    uint16_t id, qtype;
    uint8_t bits;
    bool unchecked;              /* its reply has come, and awaits its check */
    struct wire_name name;       /* in the letter case that was sent: the one exception */
};

struct socket_of {
    int fd;
    unsigned sent, waiting;
    bool shared, retired;
    double until;
    struct upstream *upstream;
    struct question *questions;
};

struct upstream {
    struct sockaddr_storage address;
    socklen_t address_size;
    enum sharing mode;
    unsigned size;               /* of its pool */
    double elsewhere_until;      /* it was not on this host a moment ago */
    void *owner;
    struct socket_of *pool[POOL];
};

struct hub {
    int epoll;
    double life;                 /* of a shared socket, in seconds */
    struct guarded ours;
    size_t random_left;
    uint8_t random[RANDOM];
    uint8_t message[65536];
};

/* Return `count` unpredictable octets, which nothing else gets. NULL when the kernel has none. */
static inline uint8_t *draw(struct hub *hub, size_t count)
{
    if (hub->random_left < count) {
        for (size_t at = 0; at < RANDOM;) {
            ssize_t got = getrandom(hub->random + at, RANDOM - at, 0);
            if (got < 0 && errno != EINTR)
                return NULL;
            at += got > 0 ? (size_t)got : 0;
        }
        hub->random_left = RANDOM;
    }
    hub->random_left -= count;
    return hub->random + hub->random_left;
}

static inline int open_hub(struct hub *hub, double life)
{
    hub->life = life, hub->random_left = 0;
    return hub->epoll = epoll_create1(EPOLL_CLOEXEC);
}

static inline void close_socket(struct socket_of *of)
{
    close(of->fd); /* which takes it out of the epoll set */
    free(of);
}

/* Take no more questions, and close after the last reply. */
static inline void retire(struct socket_of *of)
{
    of->retired = true;
    if (!of->waiting)
        close_socket(of);
}

static inline int watch_socket(struct hub *hub, struct socket_of *of, int what)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = of};
    return epoll_ctl(hub->epoll, what, of->fd, &event);
}

/* Take the address to send to: of 4 or 16 octets, by its family. */
static inline void set_address(struct upstream *upstream, const uint8_t *octets, bool is_ipv6, uint16_t port)
{
    memset(&upstream->address, 0, sizeof upstream->address);
    if (is_ipv6) {
        struct sockaddr_in6 *to = (struct sockaddr_in6 *)&upstream->address;
        to->sin6_family = AF_INET6, to->sin6_port = htons(port);
        memcpy(&to->sin6_addr, octets, 16);
        upstream->address_size = sizeof *to;
    } else {
        struct sockaddr_in *to = (struct sockaddr_in *)&upstream->address;
        to->sin_family = AF_INET, to->sin_port = htons(port);
        memcpy(&to->sin_addr, octets, 4);
        upstream->address_size = sizeof *to;
    }
}

/* Whether a connected socket leads to this host: then it sends from the address that it sends to, or to 127/8. */
static inline bool leads_here(int fd, const struct sockaddr_storage *to)
{
    struct sockaddr_storage from;
    socklen_t size = sizeof from;
    if (getsockname(fd, (struct sockaddr *)&from, &size))
        return false;
    if (to->ss_family == AF_INET) {
        uint32_t there = ((const struct sockaddr_in *)to)->sin_addr.s_addr;
        return there == ((struct sockaddr_in *)&from)->sin_addr.s_addr || ntohl(there) >> 24 == 127;
    }
    return !memcmp(&((const struct sockaddr_in6 *)to)->sin6_addr, &((struct sockaddr_in6 *)&from)->sin6_addr, 16);
}

/* Return a new connected socket, NULL with errno 0 when it must be on this host and is not. */
static inline struct socket_of *open_socket(struct hub *hub, struct upstream *upstream, bool shared)
{
    const struct sockaddr *to = (const struct sockaddr *)&upstream->address;
    struct socket_of *of = calloc(1, sizeof *of);
    if (!of)
        return NULL;
    of->upstream = upstream, of->shared = shared;
    of->fd = socket(to->sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (of->fd < 0)
        goto fail;
    if (shared && upstream->mode == ON_THIS_HOST) {
        /* Packets that claim its address and come by a network card do not reach a socket of the loopback device. */
        if (setsockopt(of->fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2) || connect(of->fd, to, upstream->address_size) ||
            !leads_here(of->fd, &upstream->address)) {
            errno = 0;
            goto fail;
        }
    } else if (connect(of->fd, to, upstream->address_size))
        goto fail;
    if (!watch_socket(hub, of, EPOLL_CTL_ADD))
        return of;
fail:;
    int why = errno;
    if (of->fd >= 0)
        close(of->fd);
    free(of);
    errno = why;
    return NULL;
}

/* Return a socket for one more question. */
static inline struct socket_of *choose_socket(struct hub *hub, struct upstream *upstream, double now)
{
    if (upstream->mode == FRESH || now < upstream->elsewhere_until)
        return open_socket(hub, upstream, false);
    uint8_t *random = draw(hub, 2);
    if (!random)
        return NULL;
    /* 64 divides 65,536; with other sizes some sockets are likelier by less than 0.1 %. */
    struct socket_of **place = &upstream->pool[two(random) % upstream->size];
    if (*place && (*place)->sent < PER_SOCKET && now < (*place)->until)
        return *place;
    if (*place)
        retire(*place), *place = NULL;
    struct socket_of *of = open_socket(hub, upstream, true);
    if (!of && !errno) {
        upstream->elsewhere_until = now + hub->life;
        return open_socket(hub, upstream, false);
    }
    if (of)
        of->until = now + hub->life, *place = of;
    return of;
}

static inline struct question *with_id(const struct socket_of *of, unsigned id)
{
    struct question *at = of->questions;
    while (at && at->id != id)
        at = at->next;
    return at;
}

static inline uint8_t *put_two(uint8_t *o, unsigned value)
{
    o[0] = (uint8_t)(value >> 8), o[1] = (uint8_t)value;
    return o + 2;
}

/* Write the query of `asked` to `o`; return its end. As Question.query of forward/question.py. */
static inline uint8_t *write_query(uint8_t *o, const struct question *asked)
{
    o = put_two(o, asked->id);
    o = put_two(o, 0x0120u | (asked->bits & ASK_CD ? 0x10u : 0)); /* RD, AD, CD */
    o = put_two(o, 1), o = put_two(o, 0), o = put_two(o, 0);
    o = put_two(o, asked->bits & ASK_EDNS ? 1 : 0);
    memcpy(o, asked->name.octets, asked->name.size);
    o = put_two(o + asked->name.size, asked->qtype), o = put_two(o, 1);
    if (asked->bits & ASK_EDNS) {
        *o++ = 0;
        o = put_two(o, TYPE_OPT), o = put_two(o, OUR_SIZE), o = put_two(o, 0);
        o = put_two(o, asked->bits & ASK_DO ? 0x8000u : 0), o = put_two(o, 0);
    }
    return o;
}

/* Send a question, whose name is lower-cased and gets random letter case here. -1: nothing has been sent. */
static inline int ask(struct hub *hub, struct upstream *upstream, struct question *asked, double now)
{
    uint8_t query[REPLY_HEADER + NAME_OCTETS + 4 + 11], *random;
    struct socket_of *of = choose_socket(hub, upstream, now);
    if (!of)
        return -1;
    do {
        random = draw(hub, 2);
        if (!random)
            goto fail;
        asked->id = (uint16_t)two(random);
    } while (with_id(of, asked->id));
    random = draw(hub, NAME_OCTETS / 8 + 1);
    if (!random)
        goto fail;
    for (unsigned k = 0; k < asked->name.size; k++) {
        uint8_t octet = asked->name.octets[k]; /* octets of lengths are below 'A' */
        if ((uint8_t)(octet - 'a') < 26 && random[k / 8] >> k % 8 & 1)
            asked->name.octets[k] = octet ^ 0x20;
    }
    if (send(of->fd, query, (size_t)(write_query(query, asked) - query), MSG_NOSIGNAL) < 0)
        goto fail;
    asked->on = of, asked->next = of->questions, of->questions = asked, asked->unchecked = false;
    of->sent++, of->waiting++;
    return 0;
fail:;
    int why = errno;
    if (!of->shared)
        close_socket(of);
    errno = why;
    return -1;
}

/* Expect nothing more for a question. */
static inline void forget(struct question *asked)
{
    struct socket_of *of = asked->on;
    if (!of)
        return;
    struct question **at = &of->questions;
    while (*at != asked)
        at = &(*at)->next;
    *at = asked->next;
    asked->on = NULL, asked->next = NULL;
    if (!--of->waiting && (!of->shared || of->retired))
        close_socket(of);
}

/* Its reply awaits its check. What is behind it on a socket of its own may be the reply after all, and is left there. */
static inline void pause_question(struct hub *hub, struct question *asked)
{
    asked->unchecked = true;
    if (asked->on && !asked->on->shared)
        watch_socket(hub, asked->on, EPOLL_CTL_DEL);
}

static inline int resume_question(struct hub *hub, struct question *asked)
{
    asked->unchecked = false;
    return asked->on && !asked->on->shared ? watch_socket(hub, asked->on, EPOLL_CTL_ADD) : 0;
}

static inline bool has_question(const struct question *asked, const uint8_t *o, size_t size, bool exactly)
{
    size_t end = REPLY_HEADER + asked->name.size + 4u;
    if (size < end || two(o + end - 4) != asked->qtype || two(o + end - 2) != 1)
        return false;
    if (exactly)
        return !memcmp(o + REPLY_HEADER, asked->name.octets, asked->name.size);
    for (unsigned k = 0; k < asked->name.size; k++)
        if (lower(o[REPLY_HEADER + k]) != lower(asked->name.octets[k]))
            return false;
    return true;
}

/* Read one message from a socket into hub->message. *size is its length, *asked whom it is for (SIMPLE, OTHER); *out what
 * is relayed of a SIMPLE one. */
static inline enum message_kind take_message(struct hub *hub, struct socket_of *of, size_t *size, struct question **asked,
                                             struct simple *out)
{
    uint8_t *o = hub->message;
    ssize_t got = recv(of->fd, o, sizeof hub->message, 0);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? NOTHING : GONE;
    *size = (size_t)got;
    *asked = got < 2 ? NULL : with_id(of, two(o));
    if (!*asked)
        return STRAY;
    if ((*asked)->unchecked)
        return LATE;
    if ((*asked)->bits & ASK_RAW || got < REPLY_HEADER || !has_question(*asked, o, *size, true))
        return OTHER;
    struct wire_name name = {.size = (*asked)->name.size};
    for (unsigned k = 0; k < name.size; k++)
        name.octets[k] = lower((*asked)->name.octets[k]);
    return classify_reply(o, *size, &name, (*asked)->qtype, &hub->ours, out) ? SIMPLE : OTHER;
}

/* Retire the shared sockets that have expired; return how many are left. */
static inline unsigned expire(struct upstream *upstream, double now)
{
    unsigned left = 0;
    for (unsigned k = 0; k < POOL; k++)
        if (upstream->pool[k] && now >= upstream->pool[k]->until)
            retire(upstream->pool[k]), upstream->pool[k] = NULL;
        else
            left += upstream->pool[k] != NULL;
    return left;
}
#endif
