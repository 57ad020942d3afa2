"""One upstream as it has been so far: health, connections, counters."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from internal_dns.forward.channel import Channel
from internal_dns.forward.health import Health
from internal_dns.forward.native.sockets import NativeTarget
from internal_dns.forward.sockets import SocketPool
from internal_dns.forward.upstreams import Upstream


@dataclass(slots=True, eq=False)
class UpstreamState:
    """What is kept of an upstream while it is in use."""

    upstream: Upstream
    channel: Channel
    health: Health = field(default_factory=Health)
    queries: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by protocol
    replies: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # by RCODE
    failures: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by reason
    outstanding: int = 0  # attempts
    pool: SocketPool | None = None  # None: each attempt over UDP has a socket of its own
    native: NativeTarget | None = None  # None: the Python path
    without_edns_until: float = 0.0
    name: str = ""  # the URL; str(upstream) takes 6 µs
    probe_timer: asyncio.TimerHandle | None = None
    _sockaddr: Any = None

    def __post_init__(self) -> None:
        self.name = str(self.upstream)

    def count_near_miss(self) -> None:
        """Count a message that is no reply to any outstanding query."""
        self.failures["near miss"] += 1

    def close_sockets(self) -> None:
        """Share no UDP socket any more; those with queries on them close after the last one."""
        if self.pool is not None:
            self.pool.close()
        if self.native is not None:
            self.native.close()
        self.pool = self.native = None

    def sockaddr(self) -> Any:
        """Return the address as sockets take it. Raises OSError while the interface in it does not
        exist."""
        if self._sockaddr is None:
            address = self.upstream.endpoint.sockaddr
            if any(address[3:]):
                return address  # an interface that went away and came back has another number
            self._sockaddr = address
        return self._sockaddr
