"""Fair shares of deciding: while the server is busy, a network that takes more than its share waits for the next slice.

A question that is not repeated costs some 30 µs to decide, one that is forwarded 100 and more. One network's flood of
new names could so take the whole processor. Time is cut into slices; once much of a slice went into deciding, the
networks that took half as much again as the average are not heard until it ends. One network alone is always heard.
"""

from __future__ import annotations

from typing import Final

SLICE: Final = 0.01  # seconds: what a neighbour waits at most, about
BUSY: Final = 0.4  # of a slice; the rest is for receiving, repeating, and upstreams' replies
GREEDY: Final = 1.5  # times the average: networks that ask about as much as each other share what overload there is


class Shares:
    """How much of the present slice went into deciding, for whom. Pure: times are seconds of the caller's clock."""

    def __init__(self, length: float = SLICE, busy: float = BUSY) -> None:
        self.length, self.budget = length, length * busy
        self._until = 0.0
        self._spent: dict[bytes, float] = {}
        self._total = 0.0
        self._before: frozenset[bytes] = frozenset()  # who asked in the slice before

    def may(self, network: bytes, now: float) -> bool:
        """Whether a question of *network* may be decided now."""
        if now >= self._until:
            self._next(now)
        spent = self._spent.setdefault(network, 0.0)
        if self._total < self.budget:
            return True
        asking = len(self._spent) + len(self._before - self._spent.keys())
        return asking == 1 or spent * asking < self._total * GREEDY

    def spend(self, network: bytes, seconds: float) -> None:
        """Count *seconds* of deciding for *network*."""
        self._spent[network] = self._spent.get(network, 0.0) + seconds
        self._total += seconds

    def _next(self, now: float) -> None:
        late = now - self._until >= self.length
        self._before = frozenset() if late else frozenset(self._spent)
        self._until = now + self.length
        self._spent, self._total = {}, 0.0
