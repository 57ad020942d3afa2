/* Ask real sockets on loopback, as Python does: pooled and fresh ones, replies right and wrong, and upstreams that are not
 * there; in an order of chance, under a sanitizer. `upstream ROUNDS SEED`.
 *
 * Invariants: a question is simple only by its own reply; every socket is closed at the end; ids on one socket differ. */
#include <assert.h>
#include <dirent.h>
#include <stdio.h>

#include "../../internal_dns/forward/native/upstream.h"

enum { AT_ONCE = 300 };
static uint64_t state;
static struct question questions[AT_ONCE];
static unsigned long sent, simple_ones, others, strays, late, gone;

static unsigned below(unsigned limit)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (unsigned)(state >> 33) % limit;
}

static unsigned descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    unsigned count = 0;
    assert(folder);
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

/* Answer all that has come, mostly as it should be. */
static void answer(int fd)
{
    uint8_t o[600];
    struct sockaddr_storage from;
    socklen_t size = sizeof from;
    for (ssize_t got; (got = recvfrom(fd, o, 512, MSG_DONTWAIT, (struct sockaddr *)&from, &size)) > 0;) {
        static const uint8_t record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1};
        o[2] |= 0x80, o[7] = 1, o[11] = 0;
        got -= 11; /* OPT, which all have here */
        memcpy(o + got, record, sizeof record);
        got += (ssize_t)sizeof record;
        switch (below(12)) {
        case 0: o[0] ^= 1; break;
        case 1: o[13] ^= 0x20; break;
        case 2: got = (ssize_t)below((unsigned)got + 1); break;
        case 3: o[3] = 2; break;
        case 4: continue;
        case 5: sendto(fd, o, (size_t)got, 0, (struct sockaddr *)&from, size); break; /* twice */
        }
        sendto(fd, o, (size_t)got, 0, (struct sockaddr *)&from, size);
    }
}

int main(int count, char **words)
{
    static struct hub hub = {.ours = {.prefix_size = 2, .prefix = {0xfd, 0xaa}}};
    static struct upstream upstreams[4];
    if (count != 3)
        return fprintf(stderr, "usage: upstream ROUNDS SEED\n"), 2;
    state = strtoull(words[2], NULL, 10) * 2 + 1;
    unsigned open_before = descriptors();
    assert(open_hub(&hub, 2.0) >= 0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, nowhere;
    socklen_t size = sizeof here;
    int fd = socket(AF_INET, SOCK_DGRAM, 0), closed = socket(AF_INET, SOCK_DGRAM, 0);
    assert(!bind(closed, (struct sockaddr *)&here, size) && !getsockname(closed, (struct sockaddr *)&nowhere, &size));
    assert(!bind(fd, (struct sockaddr *)&here, size) && !getsockname(fd, (struct sockaddr *)&here, &size));
    close(closed);
    for (unsigned k = 0; k < 4; k++) {
        struct sockaddr_in *to = k == 3 ? &nowhere : &here;
        set_address(&upstreams[k], (const uint8_t *)&to->sin_addr, false, ntohs(to->sin_port));
        upstreams[k].mode = k % 3, upstreams[k].size = k == 1 ? 64 : 4;
    }
    double now = 0;
    for (long round = atol(words[1]); round; round--) {
        for (unsigned left = below(AT_ONCE); left; left--) {
            struct question *asked = &questions[below(AT_ONCE)];
            if (asked->on)
                continue;
            static const uint8_t NAME[] = "\3www\7example\3com";
            memset(asked, 0, sizeof *asked);
            asked->qtype = 1, asked->bits = ASK_EDNS | (below(8) ? 0 : ASK_RAW), asked->name.size = 17;
            memcpy(asked->name.octets, NAME, 17);
            struct upstream *upstream = &upstreams[below(4)];
            if (!ask(&hub, upstream, asked, now)) {
                sent++;
                for (struct question *other = asked->next; other; other = other->next)
                    assert(other->id != asked->id);
            } else
                assert(errno == ECONNREFUSED); /* of an earlier message */
        }
        answer(fd);
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(hub.epoll, events, EVENTS, 0);
        for (int k = 0; k < ready; k++) {
            struct socket_of *of = events[k].data.ptr;
            struct question *asked = NULL;
            struct simple out;
            size_t length = 0;
            switch (take_message(&hub, of, &length, &asked, &out)) {
            case SIMPLE:
                assert(!(asked->bits & ASK_RAW) && out.answers == 1 && asked->on == of);
                simple_ones++;
                forget(asked);
                break;
            case OTHER:
                others++;
                if (below(2))
                    forget(asked);
                else {
                    pause_question(&hub, asked);
                    if (below(2))
                        assert(!resume_question(&hub, asked));
                }
                break;
            case STRAY: strays++; break;
            case LATE: late++; break;
            case GONE: /* as Python: all of them have failed */
                for (gone++; of && of->questions;) {
                    bool last = of->waiting == 1 && (!of->shared || of->retired);
                    forget(of->questions);
                    if (last)
                        of = NULL;
                }
                break;
            case NOTHING: break;
            }
        }
        for (unsigned left = below(8); left; left--)
            forget(&questions[below(AT_ONCE)]);
        now += below(100) / 1e3;
        for (unsigned k = 0; k < 4; k++)
            if (!below(8))
                expire(&upstreams[k], now);
    }
    for (unsigned k = 0; k < AT_ONCE; k++)
        forget(&questions[k]);
    for (unsigned k = 0; k < 4; k++)
        assert(!expire(&upstreams[k], now + 10));
    close(hub.epoll), close(fd);
    assert(descriptors() == open_before);
    printf("%lu questions: %lu simple replies, %lu others, %lu strays, %lu late, %lu gone\n", sent, simple_ones, others,
           strays, late, gone);
    return sent && simple_ones && others && strays && late && gone ? 0 : 1;
}
