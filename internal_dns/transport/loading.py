"""Queries for our names that arrive before the first catalog is loaded: they wait for it.

Every network has a line of its own. When the room is full, the longest line loses its newest query,
which gets SERVFAIL at once. So does a query that has waited for WAIT seconds. `WaitingRoom` is
pure: `now` is an argument.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from internal_dns.transport.fairness import Lines
from internal_dns.transport.schedule import Scheduler

WAIT: Final = 4.0  # seconds from when it came: resolvers ask again after 5
MOST: Final = 20_000  # queries that wait
RELEASED_AT_ONCE: Final = 256  # waiting queries released in one turn of the event loop

Again = Callable[[], object]  # decides the query once more, with what is known by then


class FirstLoad:
    """Lets queries wait for the first catalog, and gives them back to the fair queue."""

    def __init__(self, work: Scheduler) -> None:
        self.work, self.room = work, WaitingRoom()
        self.expecting = True  # the first catalog may come any moment
        self._timer: asyncio.TimerHandle | None = None

    def park(self, payer: bytes, again: Again) -> bool:
        """Let a query wait; return whether there was room. *again* is called in its turn."""
        displaced = self.room.put(payer, again, self.work.clock())
        if displaced is False:
            return False
        if displaced is not True:
            self.work.must(displaced.payer, displaced.again)
        self._set_timer()
        return True

    def expire(self) -> None:
        """Give back the queries that have waited long enough, a part at a time."""
        self._timer = None
        for waiting in self.room.take(RELEASED_AT_ONCE, self.work.clock() - WAIT):
            self.work.must(waiting.payer, waiting.again)
        self._set_timer()

    def release(self) -> None:
        """Give back all queries, a part at a time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiting in self.room.take(RELEASED_AT_ONCE):
            self.work.must(waiting.payer, waiting.again)
        if self.room:
            asyncio.get_running_loop().call_soon(self.release)

    def expect_none(self) -> None:
        """Let nothing wait any more: there is no catalog file, or the server stops."""
        self.expecting = False
        self.release()

    def _set_timer(self) -> None:
        """Wake up for the query that has waited longest."""
        came = self.room.first_came()
        if self._timer is None and came is not None:
            delay = came + WAIT - self.work.clock()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, delay), self.expire)


class Waiting(NamedTuple):
    """A query that waits."""

    payer: bytes
    number: int
    came: float
    again: Again


class WaitingRoom:
    """The queries that wait for the first catalog."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.lines: Lines[Waiting] = Lines()
        self.overflows = 0  # queries that found no room, or lost theirs
        self._in_order: OrderedDict[int, Waiting] = OrderedDict()
        self._number = 0

    def __len__(self) -> int:
        return len(self._in_order)

    def put(self, payer: bytes, again: Again, came: float) -> Waiting | bool:
        """Let a query wait. False: there is no room for it; a `Waiting`: it has displaced that one,
        which is to be answered."""
        displaced: Waiting | bool = True
        if len(self) >= self.most:
            self.overflows += 1
            longest = self.lines.longest()
            if self.lines.length(longest) <= self.lines.length(payer) + 1:
                return False
            displaced = self.lines.pop_newest(longest)
            del self._in_order[displaced.number]
        self._number += 1
        waiting = Waiting(payer, self._number, came, again)
        self.lines.put(payer, waiting)
        self._in_order[waiting.number] = waiting
        return displaced

    def check_books(self) -> None:
        """Check that the lines and the order hold the same queries. Raises AssertionError."""
        self.lines.check_books()
        held = {waiting.number for line in self.lines.of.values() for waiting in line}
        assert held == self._in_order.keys(), "a query is in a line and not in order, or vice versa"
        assert len(self) <= self.most, f"{len(self)} wait where {self.most} may"
        came = [waiting.came for waiting in self._in_order.values()]
        assert came == sorted(came), "the queries are not in the order in which they came"

    def first_came(self) -> float | None:
        """Return when the query that has waited longest came, or None when none waits."""
        first = next(iter(self._in_order.values()), None)
        return first.came if first is not None else None

    def take(self, most: int, came_before: float = float("inf")) -> Iterator[Waiting]:
        """Yield at most *most* queries that came by then, oldest first."""
        for _ in range(most):
            first = next(iter(self._in_order.values()), None)
            if first is None or first.came > came_before:
                return
            del self._in_order[first.number]
            self.lines.pop(first.payer)
            yield first
