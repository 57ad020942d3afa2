/* Resolve each argument as most programs do: any family. Compiled against musl, whose resolver asks A and AAAA at once. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = 0;
        int error = getaddrinfo(argv[i], 0, &hints, &found);
        printf("%s", argv[i]);
        if (error)
            printf(" %s", error == EAI_NONAME ? "EAI_NONAME" : error == EAI_AGAIN ? "EAI_AGAIN"
                        : error == EAI_FAIL ? "EAI_FAIL" : gai_strerror(error));
        for (struct addrinfo *at = found; at; at = at->ai_next) {
            char text[INET6_ADDRSTRLEN];
            void *address = at->ai_family == AF_INET6
                ? (void *)&((struct sockaddr_in6 *)at->ai_addr)->sin6_addr
                : (void *)&((struct sockaddr_in *)at->ai_addr)->sin_addr;
            printf(" %s", inet_ntop(at->ai_family, address, text, sizeof text));
        }
        printf("\n");
        if (found)
            freeaddrinfo(found);
    }
    return 0;
}
