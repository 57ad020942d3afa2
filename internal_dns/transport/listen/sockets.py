"""Make listening sockets. An address that is not on the host yet may be listened on (FREEBIND)."""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from internal_dns.net import Endpoint

# linux/in6.h and linux/in.h; the socket module has no names for them.
IPV6_FREEBIND: Final = 78
IP_FREEBIND: Final = 15
SO_MEMINFO: Final = 55
SO_RCVBUFFORCE: Final = 33
SO_TIMESTAMP: Final = 29  # to 0: none of any precision
# Small datagrams cost 832 octets of buffer each: the default 212,992 hold 256 queries.
RECEIVE_BUFFER: Final = 4 << 20
QUEUE_BUFFER: Final = 1 << 20  # of each of several queues: some 2,500 queries
SEND_BUFFER: Final = 1 << 20  # a batch of 64 replies of 8 KiB, and its overhead
BACKLOG: Final = 1_024
PORT_TRIES: Final = 16


@dataclass(slots=True)
class Bound:
    """The sockets of one address: one of each kind when we bind them, perhaps several when they are
    inherited."""

    endpoint: Endpoint
    udp: list[socket.socket] = field(default_factory=list)
    tcp: list[socket.socket] = field(default_factory=list)


def bind(endpoint: Endpoint, kind: socket.SocketKind, *, queue: bool = False) -> socket.socket:
    """Return a bound, non-blocking socket (TCP: listening), one of several if *queue*. Raises
    OSError."""
    made = socket.socket(endpoint.family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            widen(made, QUEUE_BUFFER if queue else RECEIVE_BUFFER)
        if queue:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if endpoint.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(
                socket.IPPROTO_IPV6, IPV6_FREEBIND, 1
            )  # also lets replies leave from <network>::3
            if endpoint.wildcard:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        made.bind((str(endpoint.host), endpoint.port))
        if kind == socket.SOCK_STREAM:
            made.listen(BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def bind_pair(endpoint: Endpoint) -> tuple[socket.socket, socket.socket]:
    """Return the UDP and the TCP socket of *endpoint*. Port 0: a port that is free for both. Raises
    OSError."""
    (udp,), tcp = bind_queues(endpoint, 1)
    return udp, tcp


def bind_queues(endpoint: Endpoint, queues: int) -> tuple[list[socket.socket], socket.socket]:
    """Return the UDP sockets of *endpoint*, a SO_REUSEPORT group if several, and the TCP socket.
    Raises OSError."""
    for left in reversed(range(PORT_TRIES)):
        udp = [bind(endpoint, socket.SOCK_DGRAM, queue=queues > 1)]
        there = Endpoint(endpoint.host, udp[0].getsockname()[1])
        try:
            tcp = bind(
                there, socket.SOCK_STREAM
            )  # before the other queues: what TCP cannot have is given back soon
            udp += [bind(there, socket.SOCK_DGRAM, queue=True) for _ in range(queues - 1)]
            return udp, tcp
        except OSError as error:
            for sock in udp:
                sock.close()
            # The system chose a port for UDP that something has for TCP: let it choose again.
            if endpoint.port or error.errno != errno.EADDRINUSE or not left:
                raise
    raise AssertionError("unreachable")


def widen(made: socket.socket, octets: int = RECEIVE_BUFFER) -> None:
    """Ask for a large receive buffer: with CAP_NET_ADMIN past the system's limit, else up to it."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    with suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, octets)
        return
    # Who passed us a socket may have had the right to widen it: SO_RCVBUF could then only make it
    # smaller.
    with socket.socket(made.family, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)
        allowed = probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if allowed > made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)


def kernel_drops(sock: socket.socket) -> int:
    """How many datagrams the kernel dropped because *sock*'s receive buffer was full; 0 once it is
    closed."""
    if sock.fileno() < 0:
        return 0
    # SO_MEMINFO, linux/sock_diag.h: nine 32-bit numbers, the last is SK_MEMINFO_DROPS.
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)[32:36], sys.byteorder)
