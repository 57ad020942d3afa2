"""Which upstream is queried when, and how often, for one outstanding query.

Pure: the caller says what happened and when; the plan says what to do.

    0 s        0.4 s       1.2 s        2.4 s              4.4 s
    │ first ───┼───────────┼────────────┼──────────────────┤ silence: SERVFAIL
    │          │ the second, if there is one; at once when the first says no
    │                      │ again, or the third           an attempt may be answered until the end
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from internal_dns.forward.times import TIMES, Times

TRIES: Final = 3
# Messages that one outstanding query may cost: the attempts, and one more over TCP.
PACKETS: Final = 4


@dataclass(slots=True)  # not frozen: one is made per query
class Ask:
    """Query this upstream now."""

    upstream: int


@dataclass(slots=True)  # the same
class Wait:
    """Do nothing until then, unless something arrives."""

    until: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No upstream will answer. *reached*: at least one refused to."""

    reached: bool


class Plan:
    """The attempts of one outstanding query. *order* lists upstreams by preference; *now* is in
    seconds of the caller's clock."""

    __slots__ = ("_open", "_out", "_sent", "end", "most", "order", "packets", "reached", "times",
                 "tries")  # fmt: skip

    def __init__(
        self,
        order: Sequence[int],
        now: float,
        times: Times = TIMES,
        *,
        patience: float | None = None,
        tries: int = TRIES,
    ) -> None:
        self.order, self.times, self.most = order, times, tries
        self.end = now + (times.patience if patience is None else patience)
        self.packets = self.tries = 0
        self.reached = False
        self._sent: dict[int, float] = {}  # when an upstream was last queried
        self._open: dict[int, int] = {}  # upstream → attempts that may still be answered
        self._out: set[int] = set()  # upstreams that said no, or cannot be reached

    def step(self, now: float) -> Ask | Wait | GiveUp:
        """Return what to do now. After Ask, call again; the attempt counts as made."""
        if now >= self.end:
            return GiveUp(self.reached)
        # Hot path: most queries go once, to the first upstream, and are answered.
        if not self._out and self.most > 1:
            if not self.tries:
                if self.order:
                    return self._ask(self.order[0], now)
            elif self.tries == 1:
                (sent,) = self._sent.values()
                due = sent + (self.times.hedge if len(self.order) > 1 else self.times.retry)
                if now < due and self.packets < PACKETS:
                    return Wait(min(due, self.end))
        upstream, due = self._next(now)
        if upstream is None:
            return Wait(self.end) if self._open else GiveUp(self.reached)
        if now < due:
            return Wait(min(due, self.end))
        return self._ask(upstream, now)

    def _ask(self, upstream: int, now: float) -> Ask:
        self.tries += 1
        self.packets += 1
        self._sent[upstream] = now
        self._open[upstream] = self._open.get(upstream, 0) + 1
        return Ask(upstream)

    def _next(self, now: float) -> tuple[int | None, float]:
        """Return which upstream to query next and when: at once if no reply is awaited."""
        left = [upstream for upstream in self.order if upstream not in self._out]
        if self.tries >= self.most or self.packets >= PACKETS or not left:
            return None, now
        latest = max(self._sent.values(), default=now)
        for upstream in left:
            if upstream not in self._sent:
                return upstream, latest + self.times.hedge if self._open else now
        upstream = min(left, key=self._sent.__getitem__)
        return upstream, self._sent[upstream] + self.times.retry

    def may_send(self) -> bool:
        """Return whether one more message may be sent for an attempt, and count it: over TCP, since
        TC was set or something else than the reply came; on another connection; or without EDNS."""
        if self.packets >= PACKETS:
            return False
        self.packets += 1
        return True

    def unsent(self, upstream: int) -> None:
        """Take back the attempt that Ask counted: nothing has left this host."""
        self.tries -= 1
        self.packets -= 1
        self._sent.pop(upstream, None)
        self.rule_out(upstream, reached=False)

    def rule_out(self, upstream: int, *, reached: bool) -> None:
        """Do not query *upstream* again: it said no, or nonsense, or (not *reached*) is not
        there."""
        self.reached |= reached
        self._out.add(upstream)
        self._open.pop(upstream, None)
