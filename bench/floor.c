/* The floor: the least work of a DNS server with one socket. One thread reads up to 64 datagrams with one recvmmsg,
   appends three fixed AAAA records to each, and sends the replies with one sendmmsg. It parses nothing, so the cost of a
   real server beyond this is its own.

       floor PORT           on [::1]
       floor PORT pktinfo   on [::]: packet info gives the destination address, from which the reply is sent */

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, QUERY = 512, RECORD = 28, RECORDS = 3, BUFFER = 4 << 20 };

static uint8_t answers[RECORDS * RECORD];
static uint8_t buffers[BATCH][QUERY + sizeof answers];
static char infos[BATCH][CMSG_SPACE(sizeof(struct in6_pktinfo))];
static struct sockaddr_in6 addresses[BATCH];
static struct iovec parts[BATCH];
static struct mmsghdr messages[BATCH];

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int listener(int port, int pktinfo)
{
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int on = 1, buffer = BUFFER, fd = socket(AF_INET6, SOCK_DGRAM, 0);
    at.sin6_addr = pktinfo ? in6addr_any : in6addr_loopback;
    if (fd < 0 || (pktinfo && setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on)))
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (bind(fd, (struct sockaddr *)&at, sizeof at))
        die("bind");
    return fd;
}

/* The length of the reply that the query in `m` becomes; 0: it is no query. */
static size_t answer(uint8_t *m, size_t length)
{
    if (length < 17 || length > QUERY || m[2] & 0x80)
        return 0;
    m[2] = 0x84 | (m[2] & 1); /* QR, AA, and RD as it came */
    m[3] = 0;
    memcpy(m + 6, (uint8_t[]){0, RECORDS, 0, 0, 0, 0}, 6);
    memcpy(m + length, answers, sizeof answers);
    return length + sizeof answers;
}

int main(int count, char **words)
{
    if (count < 2)
        return fprintf(stderr, "usage: floor PORT [pktinfo]\n"), 2;
    int pktinfo = count > 2, fd = listener(atoi(words[1]), pktinfo);
    /* A pointer to the name of the question, AAAA, IN, TTL 5, 16 octets. */
    static const uint8_t head[] = {0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 5, 0, 16, 0xfd, 0xaa};
    for (int r = 0; r < RECORDS; r++) {
        memcpy(answers + r * RECORD, head, sizeof head);
        answers[r * RECORD + RECORD - 1] = (uint8_t)(r + 1);
    }
    for (;;) {
        for (int k = 0; k < BATCH; k++) {
            parts[k] = (struct iovec){buffers[k], QUERY};
            messages[k].msg_hdr = (struct msghdr){
                .msg_name = &addresses[k], .msg_namelen = sizeof addresses[k], .msg_iov = &parts[k], .msg_iovlen = 1};
            if (pktinfo) {
                messages[k].msg_hdr.msg_control = infos[k];
                messages[k].msg_hdr.msg_controllen = sizeof infos[k];
            }
        }
        int got = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        int wanted = 0;
        for (int k = 0; k < got; k++) {
            size_t length = answer(buffers[k], messages[k].msg_len);
            if (!length)
                continue;
            parts[k].iov_len = length;
            messages[wanted++].msg_hdr = messages[k].msg_hdr;
        }
        for (int done = 0, sent; done < wanted; done += sent)
            if ((sent = sendmmsg(fd, messages + done, (unsigned)(wanted - done), 0)) <= 0)
                sent = 1; /* that one cannot be sent */
    }
}
