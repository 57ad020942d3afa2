/* What runs in the containers of tests/container/test_follow.py, linked statically: the image holds nothing else.
 *
 *   machine serve PORT     listen, and answer every connection with "hello"
 *   machine get HOST PORT  resolve HOST, connect, print what comes
 *   machine exists FILE    a health check: exit 0 while FILE is there
 */
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int serve(const char *port) {
    struct addrinfo wanted = {.ai_family = AF_INET6, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
    static const char reply[] = "HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";
    int one = 1, listener;
    char request[512];

    if (getaddrinfo(NULL, port, &wanted, &found))
        return 2;
    listener = socket(found->ai_family, found->ai_socktype, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, found->ai_addr, found->ai_addrlen) || listen(listener, 64))
        return 2;
    for (;;) {
        int client = accept(listener, NULL, NULL);
        if (client < 0)
            continue;
        if (read(client, request, sizeof request) > 0 && write(client, reply, sizeof reply - 1) < 0)
            _exit(3);
        close(client);
    }
}

static int get(const char *host, const char *port) {
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM}, *found;
    static const char request[] = "GET / HTTP/1.0\r\n\r\n";
    char reply[512];
    ssize_t count;
    int server;

    if (getaddrinfo(host, port, &wanted, &found))
        return 1;
    server = socket(found->ai_family, found->ai_socktype, 0);
    if (connect(server, found->ai_addr, found->ai_addrlen) || write(server, request, sizeof request - 1) < 0)
        return 2;
    while ((count = read(server, reply, sizeof reply)) > 0)
        if (write(1, reply, count) < 0)
            return 3;
    return 0;
}

int main(int argc, char **argv) {
    signal(SIGTERM, _exit); /* as init: without a handler it would be ignored */
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && !strcmp(argv[1], "serve"))
        return serve(argv[2]);
    if (argc == 4 && !strcmp(argv[1], "get"))
        return get(argv[2], argv[3]);
    if (argc == 3 && !strcmp(argv[1], "exists"))
        return access(argv[2], F_OK) != 0;
    return 64;
}
