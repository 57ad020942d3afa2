"""What upstreams said, whole replies under their question, for as long as it holds and a little
longer.

Pure: it takes `now`, in seconds of any clock that only goes forward, and says what it has.

    asked for the first time ─► probation ── asked again ─► protected        each in order of last use

What a network asks for only once, such as random names, pushes out what others asked for only once.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Final

from internal_dns.core.relayed import PER_TTL, Relayed
from internal_dns.core.wire import Ede, Rcode

MAX_ENTRIES: Final = 100_000
MAX_OCTETS: Final = 64 << 20
MAX_STALE: Final = (
    86_400  # seconds after its end that a reply may stand in for one that cannot be had (RFC 8767)
)
PROTECTED: Final = 0.8  # of the room, for what was asked for more than once
REFRESH: Final = 0.9  # of its life after which it is asked for again, before anyone has to wait
FAILED: Final = 2  # seconds a failure is remembered (RFC 9520 section 3.2)
MAX_FAILED: Final = 10_000
_OVERHEAD: Final = 550  # octets an entry takes beside its records, measured with tracemalloc

_DEFINITIVE: Final = frozenset({Rcode.NOERROR, Rcode.NXDOMAIN})

# QNAME (wire form, lower-cased), QTYPE and, in one octet, DO and CD: what else is in a question
# changes no reply.
Key = bytes
Reason = tuple[Ede, str]  # why there was no answer


class Age(Enum):
    """How good what is kept still is."""

    FRESH = "fresh"
    DUE = "fresh, and due for asking again"
    STALE = "past its time"


@dataclass(slots=True)
class Kept:
    """One reply, since when it is here, and from whom."""

    reply: Relayed
    since: float
    to: str  # the upstream's name in words
    asked: int = 0
    due: bool = True  # nobody has been told yet that it is time to ask again

    @property
    def until(self) -> float:
        return self.since + self.reply.lifetime

    @property
    def refresh_at(self) -> float:
        return self.since + self.reply.lifetime * REFRESH

    @property
    def octets(self) -> int:
        return len(self.reply.records) + PER_TTL * len(self.reply.ttls) + _OVERHEAD


class Cache:
    """Replies by question, bounded by entries and octets; and for two seconds, what failed."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_octets: int = MAX_OCTETS) -> None:
        self.max_entries, self.max_octets = max_entries, max_octets
        self.octets = self.evictions = self.misses = 0
        self.hits = dict.fromkeys(Age, 0)
        self._probation: OrderedDict[Key, Kept] = OrderedDict()
        self._protected: OrderedDict[Key, Kept] = OrderedDict()
        self._protected_octets = 0
        self._failed: OrderedDict[Key, tuple[float, Reason]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def find(self, key: Key, now: float) -> tuple[Kept, Age] | None:
        """Return what is kept for *key*, and how good it is. DUE is said once in a reply's life."""
        kept = self.peek(key)
        if kept is None or now >= kept.until + MAX_STALE:
            self.misses += 1
            return None
        self._used(key, kept)
        age = Age.FRESH if now < kept.refresh_at else Age.DUE if now < kept.until else Age.STALE
        if age is Age.DUE:
            age = Age.DUE if kept.due else Age.FRESH
            kept.due = False
        self.hits[age] += 1
        return kept, age

    def peek(self, key: Key) -> Kept | None:
        """Return what is kept for *key*, whatever its age, and leave no trace."""
        return self._protected.get(key) or self._probation.get(key)

    def keep(self, key: Key, reply: Relayed, now: float, to: str = "") -> None:
        """Keep *reply*, if it may be, in the place of what was there."""
        self._failed.pop(key, None)
        if not reply.lifetime:
            if reply.rcode in _DEFINITIVE:
                self._forget(key)  # what was there is known to hold no more, RFC 8767 section 4
            return
        kept = Kept(reply, now, to)
        if key in self._protected:
            self._account(kept.octets - self._protected[key].octets, protected=True)
            self._protected[key] = kept
        else:
            before = self._probation.pop(key, None)
            self._account(kept.octets - (before.octets if before else 0))
            self._probation[key] = kept
        while len(self) > self.max_entries or self.octets > self.max_octets:
            self._evict()

    def failed(self, key: Key, why: Reason, now: float) -> None:
        """Remember that *key* could not be had."""
        self._failed.pop(key, None)
        self._failed[key] = now + FAILED, why
        if len(self._failed) > MAX_FAILED:
            self._failed.popitem(last=False)

    def failure(self, key: Key, now: float) -> Reason | None:
        """Return why *key* could not be had just now, or None."""
        found = self._failed.get(key)
        return found[1] if found and now < found[0] else None

    def clear(self) -> None:
        """Forget all: other upstreams may say otherwise."""
        for part in (self._probation, self._protected, self._failed):
            part.clear()
        self.octets = self._protected_octets = 0

    def _forget(self, key: Key) -> None:
        protected = key in self._protected
        if (gone := (self._protected if protected else self._probation).pop(key, None)) is not None:
            self._account(-gone.octets, protected=protected)

    def _used(self, key: Key, kept: Kept) -> None:
        kept.asked += 1
        if key in self._protected:
            self._protected.move_to_end(key)
            return
        del self._probation[key]
        self._protected[key] = kept
        self._protected_octets += kept.octets
        while (
            self._protected_octets > PROTECTED * self.max_octets
            or len(self._protected) > PROTECTED * self.max_entries
        ):
            old, out = self._protected.popitem(last=False)
            self._protected_octets -= out.octets
            self._probation[old] = out

    def _evict(self) -> None:
        protected = not self._probation
        _, out = (self._protected if protected else self._probation).popitem(last=False)
        self._account(-out.octets, protected=protected)
        self.evictions += 1

    def _account(self, octets: int, *, protected: bool = False) -> None:
        self.octets += octets
        self._protected_octets += octets * protected
