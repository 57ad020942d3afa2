"""Questions for our names that came before the first catalog was loaded: they wait for it.

Every network has a line of its own. When as many wait as may, the longest line loses its latest
question, which is answered SERVFAIL at once. A question that has waited for WAIT seconds is too.
Pure: `now` is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from internal_dns.transport.fairness import Lines

WAIT: Final = 4.0  # seconds from when it came: resolvers ask again after 5
MOST: Final = 20_000  # questions that wait

Again = Callable[[], object]  # decides the question once more, with what is known by then


class Waiting(NamedTuple):
    """A question that waits."""

    payer: bytes
    number: int
    came: float
    again: Again


class WaitingRoom:
    """The questions that wait for the first catalog."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.lines: Lines[Waiting] = Lines()
        self.overflows = 0  # questions that found no place, or lost theirs
        self._in_order: OrderedDict[int, Waiting] = OrderedDict()
        self._number = 0

    def __len__(self) -> int:
        return len(self._in_order)

    def put(self, payer: bytes, again: Again, came: float) -> Waiting | bool:
        """Let a question wait. False: there is no place for it; a `Waiting`: that one has lost its
        place, and is to be answered."""
        lost: Waiting | bool = True
        if len(self) >= self.most:
            self.overflows += 1
            longest = self.lines.longest()
            if self.lines.length(longest) <= self.lines.length(payer) + 1:
                return False
            lost = self.lines.pop_newest(longest)
            del self._in_order[lost.number]
        self._number += 1
        waiting = Waiting(payer, self._number, came, again)
        self.lines.put(payer, waiting)
        self._in_order[waiting.number] = waiting
        return lost

    def first_came(self) -> float | None:
        """Return when the one that waits longest came, or None when none waits."""
        first = next(iter(self._in_order.values()), None)
        return first.came if first is not None else None

    def take(self, most: int, came_before: float = float("inf")) -> Iterator[Waiting]:
        """Yield at most *most* that came before then, in the order in which they came."""
        for _ in range(most):
            first = next(iter(self._in_order.values()), None)
            if first is None or first.came > came_before:
                return
            del self._in_order[first.number]
            self.lines.pop(first.payer)
            yield first
