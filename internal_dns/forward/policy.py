"""Which upstream is asked, when, and how often: for one question (Plan), and over many (Health).

Pure: the edge says what happened and when, and is told what to do.

    0 s        0.4 s       1.2 s        2.4 s              4.4 s
    │ first ───┼───────────┼────────────┼──────────────────┤ nothing came: SERVFAIL
    │          │ second, if there is one; it is asked at once when the first says no
    │                      │ again, or the third           each try is listened to until the end
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

TRY_TIMEOUT: Final = 1.2  # seconds after which an upstream that said nothing is asked again
HEDGE: Final = 0.4  # seconds after which the next upstream is asked too
# glibc gives up, or asks again, after 5 s: an answer must be there before.
PATIENCE: Final = 4.4
TRIES: Final = 3
PACKETS: Final = (
    4  # UDP messages, and questions by TCP, that one question may cost: the tries and one by TCP
)


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask this upstream now."""

    upstream: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until then, unless something arrives."""

    until: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No upstream will answer. `reached` when one did, and would not."""

    reached: bool


class Plan:
    """The tries of one question. *order* holds upstreams by preference; times are seconds of the
    caller's clock."""

    def __init__(
        self, order: Sequence[int], now: float, patience: float = PATIENCE, tries: int = TRIES
    ) -> None:
        self.order, self.end, self.most = tuple(order), now + patience, tries
        self.packets = self.tries = 0
        self.reached = False
        self._sent: dict[int, float] = {}  # when an upstream was last asked
        self._open: dict[int, int] = {}  # upstream → tries that may still be answered
        self._out: set[int] = set()  # those that said no, or are not there

    def step(self, now: float) -> Ask | Wait | GiveUp:
        """Say what to do now. After Ask, call again; the try counts as made."""
        if now >= self.end:
            return GiveUp(self.reached)
        # Hot path: most questions are asked once, of the first upstream, and answered.
        if not self._out and self.most > 1:
            if not self.tries:
                if self.order:
                    return self._ask(self.order[0], now)
            elif self.tries == 1:
                (sent,) = self._sent.values()
                due = sent + (HEDGE if len(self.order) > 1 else TRY_TIMEOUT)
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
        """Return whom to ask next and when: at once if nothing is awaited."""
        left = [upstream for upstream in self.order if upstream not in self._out]
        if self.tries >= self.most or self.packets >= PACKETS or not left:
            return None, now
        latest = max(self._sent.values(), default=now)
        for upstream in left:
            if upstream not in self._sent:
                return upstream, latest + HEDGE if self._open else now
        upstream = min(left, key=self._sent.__getitem__)
        return upstream, self._sent[upstream] + TRY_TIMEOUT

    def may_send(self) -> bool:
        """Whether one more message may be sent for a try: over TCP, because TC was set or something
        came that was not the reply; on another connection; or without EDNS. It counts."""
        if self.packets >= PACKETS:
            return False
        self.packets += 1
        return True

    def unsent(self, upstream: int) -> None:
        """Take back the try that Ask counted: nothing has left this host."""
        self.tries -= 1
        self.packets -= 1
        self._sent.pop(upstream, None)
        self.rule_out(upstream, reached=False)

    def rule_out(self, upstream: int, *, reached: bool) -> None:
        """Count *upstream* out: it said no, nonsense, or (not *reached*) cannot be spoken to."""
        self.reached |= reached
        self._out.add(upstream)
        self._open.pop(upstream, None)


# ── over many questions ───────────────────────────────────────────────────────────────────────────

WINDOW: Final = 64  # names
SUSPECT: Final = 8  # names in a row that an upstream did not answer before it is probed
AVOID: Final = 5.0  # seconds that another upstream is asked before one that was silent
PROBE_TIMEOUT: Final = 1.0
PROBES_DOWN: Final = 2  # probes in a row without a reply: it is down
PROBE_AGAIN: Final = (0.5, 1.0, 2.0, 5.0)  # seconds between probes


@dataclass(slots=True)
class Health:
    """Whether an upstream is there. One name's failures say nothing: each name counts once, and a
    probe decides."""

    up: bool = True
    latency: float = 0.0  # seconds, smoothed as TCP does (RFC 6298)
    probing: bool = False
    probe_at: float = 0.0
    missed: int = 0  # probes in a row
    silent_until: float = 0.0  # it was silent a moment ago: another one is asked first
    _names: OrderedDict[bytes, bool] = field(
        default_factory=OrderedDict
    )  # the latest names, whether answered
    _in_a_row: set[bytes] = field(default_factory=set)

    @property
    def success_ratio(self) -> float:
        """Of the latest names, how many were answered; 1 before any was asked."""
        return sum(self._names.values()) / len(self._names) if self._names else 1.0

    def answered(self, name: bytes, seconds: float) -> None:
        """Count a reply."""
        self.latency += (seconds - self.latency) / 8 if self.latency else seconds
        self._count(name, good=True)
        self._is_there()

    def silent(self, name: bytes, now: float) -> None:
        """Count a name that got no reply in time. A few different ones, and nothing between:
        probe."""
        self._count(name, good=False)
        self.silent_until = now + AVOID
        if len(self._in_a_row) < SUSPECT:
            self._in_a_row.add(name)
        if len(self._in_a_row) >= SUSPECT and not self.probing:
            self.probing, self.probe_at, self.missed = True, now, 0

    def refused(self, name: bytes) -> None:
        """Count a reply that is no answer, such as SERVFAIL: the upstream is there, the name may be
        at fault."""
        self._count(name, good=False)
        self._is_there()

    def probe_missed(self, now: float) -> None:
        """Count a probe without a reply."""
        self.missed += 1
        self.up = self.up and self.missed < PROBES_DOWN
        self.probe_at = now + PROBE_AGAIN[min(self.missed, len(PROBE_AGAIN)) - 1]

    def probe_answered(self) -> None:
        """Count a probe that got any reply."""
        self._is_there()

    def _is_there(self) -> None:
        self._in_a_row.clear()
        self.up, self.probing, self.missed, self.silent_until = True, False, 0, 0.0

    def _count(self, name: bytes, *, good: bool) -> None:
        self._names[name] = good
        self._names.move_to_end(name)
        if len(self._names) > WINDOW:
            self._names.popitem(last=False)


def preferred(health: Sequence[Health], now: float) -> tuple[int, ...]:
    """Return the upstreams in the order to ask them: as configured, those silent a moment ago
    later, the down last."""
    for each in health:
        if not each.up or now < each.silent_until:
            break
    else:
        return tuple(range(len(health)))
    return tuple(
        sorted(
            range(len(health)), key=lambda at: (not health[at].up, now < health[at].silent_until)
        )
    )
