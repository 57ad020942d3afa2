"""UDP sockets to an upstream that many queries share: a pool, for upstreams on this host.

    udp://127.0.0.53   on this host: packets that claim its address and come by a network card never
                       reach a socket that is bound to the loopback device, so nobody can forge it
    udp://192.0.2.1    anywhere else: each attempt has a socket and a port of its own (attempts.py)

A socket serves 256 queries or two seconds, then another port takes its place. Each query still has
a random id and random letter case.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from internal_dns.core.wire import MAX_MESSAGE
from internal_dns.forward.times import TIMES, Times

SOCKETS: Final = 64  # of one upstream
QUERIES: Final = 256  # that one socket serves
AT_ONCE: Final = 32  # messages read from one socket before others have their turn


class Recipient(Protocol):
    """What awaits a reply on a shared socket."""

    def take(self, octets: bytes) -> None:
        """Take a message under the id that it was sent with."""

    def concerns(self, octets: bytes) -> bool:
        """Return whether a message under another id has the question of this one."""

    def count_near_miss(self) -> None:
        """Take note that somebody may be guessing ids."""

    def unreachable(self) -> None:
        """Take note that the upstream's host says that nobody listens."""


class SharedSocket:
    """One connected socket, and the recipients of its replies by id."""

    def __init__(self, sock: socket.socket, until: float, on_stray: Callable[[], None]) -> None:
        self.sock, self.until, self.on_stray = sock, until, on_stray
        self.sent = 0  # queries so far
        self.retired = False  # it takes no more queries
        self.recipients: dict[bytes, Recipient] = {}
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(sock, self._readable)

    def send(self, ident: bytes, query: bytes, recipient: Recipient) -> None:
        """Send a query under *ident*, which is free. Raises OSError."""
        self.sock.send(ident + query)
        self.sent += 1
        self.recipients[ident] = recipient

    def free_ident(self) -> bytes:
        """Return a random id that no other query on this socket has."""
        ident = secrets.token_bytes(2)
        while ident in self.recipients:
            ident = secrets.token_bytes(2)
        return ident

    def has_expired(self, now: float) -> bool:
        return self.sent >= QUERIES or now >= self.until

    def release(self, ident: bytes) -> None:
        """Expect nothing more under *ident*."""
        del self.recipients[ident]
        if self.retired and not self.recipients:
            self._close()

    def retire(self) -> None:
        """Take no more queries, and close after the last reply."""
        self.retired = True
        if not self.recipients:
            self._close()

    def _close(self) -> None:
        self.loop.remove_reader(self.sock)
        self.sock.close()

    def _readable(self) -> None:
        # Hot path: most sockets await one reply. Trying to read a second takes 2 µs; if there is
        # one, the event loop calls again.
        for _ in range(min(AT_ONCE, len(self.recipients) or 1)):
            if self.sock.fileno() < 0:
                return  # the message before ended the last query on it
            try:
                octets = self.sock.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                for recipient in tuple(self.recipients.values()):
                    recipient.unreachable()
                return
            if (of_id := self.recipients.get(octets[:2])) is not None:
                of_id.take(octets)
                continue
            # Too late, or a guess: queries with its question must not be at stake any longer.
            targets = [each for each in self.recipients.values() if each.concerns(octets)]
            for each in targets:
                each.count_near_miss()
            if not targets:
                self.on_stray()


class SocketPool:
    """The shared sockets of one upstream.

    *anywhere*: wherever the upstream is; else only while its address is one of this host.
    """

    def __init__(
        self,
        family: int,
        sockaddr: Callable[[], Any],
        size: int,
        on_stray: Callable[[], None],
        *,
        anywhere: bool,
        times: Times = TIMES,
    ) -> None:
        self.family, self.sockaddr, self.size, self.anywhere = family, sockaddr, size, anywhere
        self.on_stray, self.times = on_stray, times
        self._sockets: list[SharedSocket | None] = [None] * size
        self._elsewhere_until = 0.0

    def take(self, now: float) -> SharedSocket | None:
        """Return a random socket of the pool; None when the upstream is not on this host. Raises
        OSError."""
        if now < self._elsewhere_until:
            return None
        # Hot path: secrets.randbelow takes three times as long. Some sockets are likelier by less
        # than 0.1 %.
        at = int.from_bytes(secrets.token_bytes(2), "big") % self.size
        shared = self._sockets[at]
        if shared is not None:
            if not shared.has_expired(now):
                return shared
            self._sockets[at] = None
            shared.retire()
        sock = self._connected()
        if sock is None:
            self._elsewhere_until = now + self.times.socket
            return None
        shared = self._sockets[at] = SharedSocket(sock, now + self.times.socket, self.on_stray)
        # An upstream that gets no more queries must not hold descriptors.
        shared.loop.call_later(self.times.socket, self._retire, at, shared)
        return shared

    def close(self) -> None:
        """Take no more queries."""
        for shared in self._sockets:
            if shared is not None:
                shared.retire()
        self._sockets = [None] * self.size

    def check_books(self) -> None:
        """Raise AssertionError unless each socket of the pool is open and takes queries."""
        assert len(self._sockets) == self.size
        for shared in self._sockets:
            if shared is not None:
                assert shared.sock.fileno() >= 0
                assert not shared.retired
                assert len(shared.recipients) <= shared.sent <= QUERIES

    def _retire(self, at: int, expired: SharedSocket) -> None:
        """Retire *expired*, the socket number *at* unless another took its place."""
        if self._sockets[at] is expired:
            self._sockets[at] = None
            expired.retire()

    def _connected(self) -> socket.socket | None:
        """Return a connected socket, or None when the upstream is elsewhere."""
        sock = socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if self.anywhere:
                sock.connect(self.sockaddr())
                return sock
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
                sock.connect(self.sockaddr())
                host = sock.getpeername()[0]
                # To reach itself, a host sends from the address that it sends to; 127/8 is all its.
                here = host == sock.getsockname()[0] or host.startswith("127.")
            except OSError:  # not allowed to bind, or no route by the loopback device
                here = False
            if not here:
                sock.close()
                return None
        except BaseException:
            sock.close()
            raise
        return sock
