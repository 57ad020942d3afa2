"""The native sockets of one forwarder: read when the event loop says so, closed when unused."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from internal_dns.core.relayed import Relayed
from internal_dns.forward.native import MISSING
from internal_dns.forward.times import Times

if TYPE_CHECKING or not MISSING:
    from internal_dns.forward.native.upstream import Asked, Hub, Target


class Recipient(Protocol):
    """What awaits a reply."""

    def take(self, octets: bytes) -> None:
        """Take a message under the id that it was sent with."""

    def take_simple(self, relayed: Relayed) -> None:
        """Take the part of a simple reply to relay."""

    def count_near_miss(self) -> None:
        """Take note that somebody may be guessing ids."""

    def unreachable(self) -> None:
        """Take note that the upstream's host says that nobody listens."""


class NativeSockets:
    """The sockets to all upstreams, behind one descriptor. *after* is called when all that can be
    read has been given to its recipients."""

    def __init__(
        self, zones: Iterable[bytes], prefix: bytes, times: Times, after: Callable[[], None]
    ) -> None:
        self.times, self.after = times, after
        self.hub = Hub(tuple(zones), prefix, Relayed, times.socket)
        self.targets: set[NativeTarget] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def target(
        self, sockaddr: Any, mode: str, size: int, on_stray: Callable[[], None]
    ) -> NativeTarget:
        """Return the sockets to the upstream at *sockaddr*; *mode* is the setting
        `upstream_sockets`, *size* bounds the pool."""
        host, port = sockaddr[:2]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = NativeTarget(self, Target(self.hub, family, host, port, mode, size, on_stray))
        self.targets.add(made)
        return made

    def watch(self) -> None:
        """Begin to read, and to retire sockets, in the event loop that runs."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            loop.add_reader(self.hub.fileno(), self._readable)
        if self._timer is None:
            self._timer = loop.call_later(self.times.socket, self._expire)

    def close(self) -> None:
        """Read nothing any more. All questions must have ended."""
        for target in tuple(self.targets):
            target.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._loop is not None:
            self._loop.remove_reader(self.hub.fileno())
            self._loop = None
        self.hub.close()

    def _expire(self) -> None:
        """Retire sockets: an upstream that gets no more queries must not hold descriptors."""
        assert self._loop is not None
        now, self._timer = self._loop.time(), None
        if sum([target.expire(now) for target in self.targets]):
            self._timer = self._loop.call_later(self.times.socket, self._expire)

    def _readable(self) -> None:
        try:
            for asked, what in self.hub.read():
                recipient: Recipient | None = asked.recipient
                if recipient is None:
                    continue  # a message before has ended it
                if isinstance(what, Relayed):
                    recipient.take_simple(what)
                elif isinstance(what, bytes):
                    recipient.take(what)
                elif what is None:
                    recipient.unreachable()
                else:
                    recipient.count_near_miss()
        finally:
            self.after()


class NativeTarget:
    """The native sockets to one upstream."""

    __slots__ = ("expire", "of", "sockets")

    def __init__(self, sockets: NativeSockets, of: Target) -> None:
        self.sockets, self.of = sockets, of
        self.expire = of.expire

    def ask(
        self,
        name: bytes,
        qtype: int,
        variant: int,
        *,
        edns: bool,
        now: float,
        probe: bool,
    ) -> Asked:
        """Send a query; *variant*: DO + 2 CD. Raises OSError."""
        if self.sockets._timer is None:
            self.sockets.watch()
        return self.of.ask(name, qtype, bool(variant & 1), variant > 1, edns, now, probe)

    def close(self) -> None:
        """Send no more; those that were sent may still be answered."""
        self.of.close()
        self.sockets.targets.discard(self)
