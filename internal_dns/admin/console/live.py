"""The live page: the busiest names since the last refresh, and queries as they are answered.

The server samples its queries (transport/tap.py) only while a page is open, until LEFT_ALONE
seconds after its last request. It samples about WANTED queries per second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from internal_dns.admin.live import busiest, describe_sample
from internal_dns.admin.rates import SNAPSHOT_NAMES, Snapshot, rates
from internal_dns.transport.answer import Exchange
from internal_dns.transport.tap import Tap

SHOWN: Final = 30  # names, and queries
WANTED: Final = 20  # queries per second; if there are more, a random sample
LEFT_ALONE: Final = 10.0  # seconds after the last request until sampling ends


@dataclass(slots=True, eq=False)
class Live:
    """The state that all open live pages share: the previous snapshot, and one tap."""

    exchange: Exchange
    before: Snapshot | None = None
    shown: Snapshot = field(default_factory=dict)
    tap: Tap | None = None
    queries: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=SHOWN))
    ending: asyncio.TimerHandle | None = None

    async def look(self, queries_per_second: float) -> dict[str, Any]:
        """Return the values of the page: rates since the previous snapshot, and recent queries."""
        now = await busiest(self.exchange, SNAPSHOT_NAMES)
        # With two open pages, the snapshots could be only milliseconds apart.
        if self.before is None or now["at"] - self.before["at"] >= 1:
            self.shown = rates(self.before or now, now)
            self.before = now
        self._watch(max(1, round(queries_per_second / WANTED)))
        return {
            "top": self.shown["names"][:SHOWN],
            "repeated": self.shown["repeated"],
            "entries": self.shown["entries"],
            "queries": list(reversed(self.queries)),
            "every": self.tap.every if self.tap else 1,
            "skipped": self.tap.skipped if self.tap else 0,
        }

    def _watch(self, every: int) -> None:
        """Sample queries for some more seconds, and collect those sampled so far."""
        loop = asyncio.get_running_loop()
        if self.ending is not None:
            self.ending.cancel()
        self.ending = loop.call_later(LEFT_ALONE, self.end)
        if self.tap is None:
            self.tap = Tap(every)
            self.exchange.taps.add(self.tap)
        while not self.tap.queue.empty():
            sample = self.tap.queue.get_nowait()
            self.queries.append(describe_sample(sample, self.exchange.catalog, self.exchange.rules))
        if self.tap.every != every:
            self.exchange.taps.remove(self.tap)
            self.tap = Tap(every)
            self.exchange.taps.add(self.tap)

    def end(self) -> None:
        """Stop sampling, and discard the queries."""
        if self.ending is not None:
            self.ending.cancel()
        if self.tap is not None:
            self.exchange.taps.remove(self.tap)
        self.tap, self.ending, self.before = None, None, None
        self.queries.clear()
