"""Decide answers before they are queried, in time that nobody else wants.

    a commit has dropped answers that were repeated ─┐ a slice while
    the list of the process before this one ─────────┴─ nothing waits ─► Exchange.decide_ahead

So the first query after a change, or after a restart, is a repeat. An answer is decided ahead at
most once per INTERVAL: commits that follow each other closely cost no more than that.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from internal_dns.core.catalog import NetworkId
from internal_dns.transport.schedule import Scheduler

INTERVAL: Final = 0.1  # seconds between two decisions of the same answer
MAX_WAITING: Final = 100_000
SLICE: Final = 0.001  # seconds of CPU time after which no further answer is begun
PAUSE: Final = 0.001  # seconds between two slices: at most half of a core is used

Key = tuple[NetworkId, bytes, int]  # network, QNAME in lower case, QTYPE


class Loop(Protocol):
    """The part of an event loop that is used."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> object: ...


class Ahead:
    """The answers that wait to be decided ahead."""

    def __init__(
        self,
        decide: Callable[[NetworkId, bytes, int], bool],
        work: Scheduler,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        loop: Callable[[], Loop] = asyncio.get_running_loop,
    ) -> None:
        """*decide* returns whether it has stored an answer, and does not raise."""
        self.decide, self.work, self.clock, self.cpu, self.loop = decide, work, clock, cpu, loop
        self.waiting: dict[Key, None] = {}
        self.decided = 0
        self._last: OrderedDict[Key, float] = OrderedDict()
        self._begun = False

    def add(self, network: NetworkId, names: Iterable[tuple[bytes, int]]) -> None:
        """Let (QNAME, QTYPE) of *network* wait; what exceeds MAX_WAITING is left to queries."""
        waiting = self.waiting
        for name, qtype in names:
            if len(waiting) >= MAX_WAITING:
                break
            waiting[network, name, qtype] = None
        if waiting and not self._begun:
            self._begun = True
            self.loop().call_later(PAUSE, self.run)

    def run(self) -> None:
        """Decide for one slice, unless a query waits."""
        try:
            if not self.work.busy:
                self._decide_some()
        finally:
            self._begun = bool(self.waiting)
            if self._begun:
                self.loop().call_later(PAUSE, self.run)

    def _decide_some(self) -> None:
        waiting, last, now = self.waiting, self._last, self.clock()
        while last and next(iter(last.values())) <= now - INTERVAL:
            last.popitem(last=False)
        end = self.cpu() + SLICE
        for _ in range(len(waiting)):
            key = next(iter(waiting))
            del waiting[key]
            if key in last:
                waiting[key] = None  # behind the others
            elif self.decide(*key):
                last[key] = now
                self.decided += 1
            if self.cpu() >= end:
                break
