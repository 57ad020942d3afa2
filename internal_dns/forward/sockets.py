"""UDP sockets to an upstream that many questions share: a pool, for upstreams on this host.

    udp://127.0.0.53   on this host: packets that claim its address and come by a network card never
                       reach a socket that is bound to the loopback device, so nobody can forge it
    udp://192.0.2.1    anywhere else: each try has a socket and a port of its own (outstanding.py)

A socket serves 256 questions or two seconds, then another port takes its place. Id and letter case
are drawn for each question as ever.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from internal_dns.core.wire import MAX_MESSAGE

SOCKETS: Final = 64  # of one upstream
QUESTIONS: Final = 256  # that one socket serves
LIFETIME: Final = 2.0  # seconds that it serves them; as long, an upstream is taken to be elsewhere
AT_ONCE: Final = 32  # messages read from one socket before others have their turn


class Expecting(Protocol):
    """What waits for a reply on a shared socket."""

    def take(self, octets: bytes) -> None:
        """Take a message under the id that it was sent with."""

    def concerns(self, octets: bytes) -> bool:
        """Whether a message under another id has the question of this one."""

    def missed(self) -> None:
        """Somebody guesses."""

    def unreachable(self) -> None:
        """The upstream's host says that nobody is there."""


class SharedSocket:
    """One connected socket and what is expected on it, by id."""

    def __init__(self, sock: socket.socket, until: float, on_stray: Callable[[], None]) -> None:
        self.sock, self.until, self.on_stray = sock, until, on_stray
        self.asked = 0
        self.leaving = False  # nothing more is asked on it
        self.expected: dict[bytes, Expecting] = {}
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(sock, self._readable)

    def send(self, ident: bytes, query: bytes, waiting: Expecting) -> None:
        """Send a query under *ident*, which is free. Raises OSError."""
        self.sock.send(ident + query)
        self.asked += 1
        self.expected[ident] = waiting

    def free_ident(self) -> bytes:
        ident = secrets.token_bytes(2)
        while ident in self.expected:
            ident = secrets.token_bytes(2)
        return ident

    def retired(self, now: float) -> bool:
        return self.asked >= QUESTIONS or now >= self.until

    def over(self, ident: bytes) -> None:
        """Expect nothing more under *ident*."""
        del self.expected[ident]
        if self.leaving and not self.expected:
            self._close()

    def leave(self) -> None:
        """Take no more questions, and close with the last of those on it."""
        self.leaving = True
        if not self.expected:
            self._close()

    def _close(self) -> None:
        self.loop.remove_reader(self.sock)
        self.sock.close()

    def _readable(self) -> None:
        for _ in range(AT_ONCE):
            if self.sock.fileno() < 0:
                return  # what was taken has ended the last question on it
            try:
                octets = self.sock.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                for waiting in tuple(self.expected.values()):
                    waiting.unreachable()
                return
            expected = self.expected.get(octets[:2])
            if expected is not None:
                expected.take(octets)
                continue
            # Too late, or a guess: those whose question it has must not be at stake any longer.
            aimed_at = [each for each in self.expected.values() if each.concerns(octets)]
            for each in aimed_at:
                each.missed()
            if not aimed_at:
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
        anywhere: bool,
    ) -> None:
        self.family, self.sockaddr, self.size, self.anywhere = family, sockaddr, size, anywhere
        self.on_stray = on_stray
        self._sockets: list[SharedSocket | None] = [None] * size
        self._elsewhere_until = 0.0

    def take(self, now: float) -> SharedSocket | None:
        """Return a socket for one question; None when the upstream is not on this host. Raises
        OSError."""
        if now < self._elsewhere_until:
            return None
        at = secrets.randbelow(self.size)
        found = self._sockets[at]
        if found is not None:
            if not found.retired(now):
                return found
            self._sockets[at] = None
            found.leave()
        sock = self._connected()
        if sock is None:
            self._elsewhere_until = now + LIFETIME
            return None
        made = self._sockets[at] = SharedSocket(sock, now + LIFETIME, self.on_stray)
        # An upstream that is asked no more must not hold descriptors.
        made.loop.call_later(LIFETIME, self._retire, at, made)
        return made

    def close(self) -> None:
        """Take no more questions."""
        for shared in self._sockets:
            if shared is not None:
                shared.leave()
        self._sockets = [None] * self.size

    def _retire(self, at: int, expired: SharedSocket) -> None:
        """Give up *expired*, which is at *at* unless another socket took its place."""
        if self._sockets[at] is expired:
            self._sockets[at] = None
            expired.leave()

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
                # To speak to itself, a host uses the address that it speaks to; 127/8 is all its.
                here = host == sock.getsockname()[0] or host.startswith("127.")
            except OSError:  # not ours to bind so, or no way there by the loopback device
                here = False
            if not here:
                sock.close()
                return None
        except BaseException:
            sock.close()
            raise
        return sock
