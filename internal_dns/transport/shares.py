"""Fair shares of deciding: a network that keeps a busy server from the others is, for moments, not
heard.

A question that is not repeated costs some 30 µs to decide, one that is forwarded 100 and more. One
network's flood of new names could so take the whole processor. Time is cut into slices. Who takes
more than its part of a busy slice runs into debt; a debtor of more than BURST, which no fleet that
starts at once reaches, waits while a slice is busy.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

SLICE: Final = 0.01  # seconds: what a neighbour waits at most, about
BUSY: Final = 0.35  # of a slice; the rest is for receiving, repeating, and upstreams' replies
SEEN: Final = 1.0  # seconds that a network counts as a neighbour: behind a flood it is seldom heard
GREEDY: Final = 1.25  # times the average is everyone's part
BURST: Final = (
    0.15  # seconds of deciding beyond its part: some 5,000 names of ours, or 1,500 of others
)


class Shares:
    """How much of the present slice went into deciding, for whom. Pure: times are seconds of the
    caller's clock."""

    def __init__(self, length: float = SLICE, busy: float = BUSY, burst: float = BURST) -> None:
        self.length, self.budget, self.burst = length, length * busy, burst
        self.debts: dict[bytes, float] = {}
        self._until = 0.0
        self._spent: dict[bytes, float] = {}
        self._seen: OrderedDict[bytes, float] = OrderedDict()  # who asked when, the latest last
        self._total = 0.0

    def may(self, network: bytes, now: float) -> bool:
        """Whether a question of *network* may be decided now."""
        if now >= self._until:
            self._settle(now)
        return self._total < self.budget or self.debts.get(network, 0.0) < self.burst

    def spend(self, network: bytes, seconds: float) -> None:
        """Count *seconds* of deciding for *network*."""
        self._spent[network] = self._spent.get(network, 0.0) + seconds
        self._seen[network] = self._until
        self._seen.move_to_end(network)
        self._total += seconds

    def _settle(self, now: float) -> None:
        """End the slice: what each spent beyond its part is owed, and paid back by what it leaves
        unused."""
        slices = 1 + int((now - self._until) / self.length) if self._until else 1
        while self._seen and now - next(iter(self._seen.values())) >= SEEN:
            self._seen.popitem(last=False)
        # Alone, a network hurts nobody; nor while there is time left; nor do those that all ask as
        # much.
        alone = len(self._seen) < 2
        busy = not alone and self._total >= self.budget
        part = self._total / len(self._seen) * GREEDY if busy else self.budget
        owed = {}
        for network in self.debts.keys() | self._spent.keys():
            spent = 0.0 if alone else self._spent.get(network, 0.0)
            debt = self.debts.get(network, 0.0) + spent - part - (slices - 1) * self.budget
            if debt > 0:
                owed[network] = min(debt, 2 * self.burst)
        self.debts = owed
        self._until = now + self.length
        self._spent, self._total = {}, 0.0
