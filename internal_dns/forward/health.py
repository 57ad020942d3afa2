"""Whether an upstream is there, seen over many queries.

Pure. The failures of one name say nothing about the upstream: each name counts once, and a probe
(probing.py) decides.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from internal_dns.forward.times import TIMES, Times

WINDOW: Final = 64  # names
SUSPECT: Final = 8  # names in a row without a reply, after which an upstream is probed
PROBES_DOWN: Final = 2  # probes in a row without a reply, after which an upstream is down


@dataclass(slots=True)
class Health:
    """The health of one upstream."""

    times: Times = TIMES
    up: bool = True
    latency: float = 0.0  # seconds, smoothed as TCP does (RFC 6298)
    probing: bool = False
    probe_at: float = 0.0
    missed: int = 0  # probes in a row
    silent_until: float = 0.0  # it was silent a moment ago: another upstream goes first
    _names: OrderedDict[bytes, bool] = field(default_factory=OrderedDict)  # latest: answered?
    _in_a_row: set[bytes] = field(default_factory=set)  # names without a reply

    @property
    def success_ratio(self) -> float:
        """The share of the latest names that were answered; 1 before the first query."""
        return sum(self._names.values()) / len(self._names) if self._names else 1.0

    def answered(self, name: bytes, seconds: float) -> None:
        """Count a reply."""
        self.latency += (seconds - self.latency) / 8 if self.latency else seconds
        self._count(name, good=True)
        self._is_there()

    def silent(self, name: bytes, now: float) -> None:
        """Count a name without a reply in time. Several different ones in a row start a probe."""
        self._count(name, good=False)
        self.silent_until = now + self.times.avoid
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
        waits = self.times.probe_again
        self.probe_at = now + waits[min(self.missed, len(waits)) - 1]

    def probe_answered(self) -> None:
        """Count a probe with any reply."""
        self._is_there()

    def _is_there(self) -> None:
        self._in_a_row.clear()
        self.up, self.probing, self.missed, self.silent_until = True, False, 0, 0.0

    def _count(self, name: bytes, *, good: bool) -> None:
        self._names[name] = good
        self._names.move_to_end(name)
        if len(self._names) > WINDOW:
            self._names.popitem(last=False)


def preferred(health: Sequence[Health], now: float) -> Sequence[int]:
    """Return the upstreams in the order to query them: as configured, but those that were silent a
    moment ago later, and those that are down last."""
    for each in health:
        if not each.up or now < each.silent_until:
            break
    else:
        return range(len(health))

    def rank(at: int) -> tuple[bool, bool]:
        return not health[at].up, now < health[at].silent_until

    return sorted(range(len(health)), key=rank)
