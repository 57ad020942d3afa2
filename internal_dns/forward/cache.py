"""What upstreams said, whole replies under their question, for as long as it holds and a little
longer.

Pure: it takes `now`, in seconds of any clock that only goes forward, and says what it has.

    asked for the first time ─► probation ── asked again ─► protected        each in order of last use

Every network has both for itself, and pays for what is in there: when there is no more room, the
network that asks loses its oldest, or if it has less than its share, one that has more. What
several networks ask for is paid by one that has little. So what a network asks for, random names
say, pushes out its own, however often it asks. What the answer table repeats is asked for, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from internal_dns.core.catalog import NetworkId
from internal_dns.core.relayed import PER_TTL, Relayed
from internal_dns.core.wire import Ede, Rcode

MAX_ENTRIES: Final = 100_000
MAX_OCTETS: Final = 64 << 20
MAX_STALE: Final = (
    86_400  # seconds after its end that a reply may stand in for one that cannot be had (RFC 8767)
)
PROTECTED: Final = 0.8  # of a network's room, for what was asked for more than once
REFRESH: Final = 0.9  # of its life after which it is asked for again, before anyone has to wait
FAILED: Final = 2  # seconds a failure is remembered (RFC 9520 section 3.2)
MAX_FAILED: Final = 10_000
_CHANCES: Final = 8  # entries that are spared for one that has to go, since they were repeated
_OVERHEAD: Final = 650  # octets an entry takes beside its records, measured with tracemalloc

NOBODY: Final = NetworkId(0)
_DEFINITIVE: Final = frozenset({Rcode.NOERROR, Rcode.NXDOMAIN})

# QNAME (wire form, lower-cased), QTYPE and, in one octet, DO and CD: what else is in a question
# changes no reply.
Key = bytes
Reason = tuple[Ede, str]  # why there was no answer


class Freshness(Enum):
    """How good what is kept still is."""

    FRESH = "fresh"
    DUE = "fresh, and due for asking again"
    STALE = "past its time"


@dataclass(slots=True)
class CacheEntry:
    """One reply, since when it is here, and from whom."""

    reply: Relayed
    since: float
    to: str  # the upstream's name in words
    network: NetworkId = NOBODY  # who pays for it
    asked: int = 0
    repeats: int = 0  # by the answer table, as far as they were looked at
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


class Room:
    """What one network pays for: its keys in order of last use, and their octets."""

    __slots__ = ("octets", "probation", "protected", "protected_octets")

    def __init__(self) -> None:
        self.probation: OrderedDict[Key, CacheEntry] = OrderedDict()
        self.protected: OrderedDict[Key, CacheEntry] = OrderedDict()
        self.octets = self.protected_octets = 0


class Cache:
    """Replies by question, bounded by entries and octets; and for two seconds, what failed."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_octets: int = MAX_OCTETS) -> None:
        self.max_entries, self.max_octets = max_entries, max_octets
        self.octets = self.evictions = self.misses = 0
        self.hits = dict.fromkeys(Freshness, 0)
        # How often the answer table has repeated a reply that is kept here.
        self.repeats: Callable[[Key], int] = lambda key: 0
        self._kept: dict[Key, CacheEntry] = {}
        self._rooms: OrderedDict[NetworkId, Room] = OrderedDict()
        self._greedy = NOBODY  # the network that had too much when one was looked for
        self._failed: OrderedDict[Key, tuple[float, Reason]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(
        self, key: Key, now: float, network: NetworkId = NOBODY
    ) -> tuple[CacheEntry, Freshness] | None:
        """Return what is kept for *key*, which *network* asks for, and how good it is. DUE is said
        once in a reply's life."""
        kept = self.peek(key)
        if kept is None or now >= kept.until + MAX_STALE:
            self.misses += 1
            return None
        self._used(key, kept, network)
        age = (
            Freshness.FRESH
            if now < kept.refresh_at
            else Freshness.DUE
            if now < kept.until
            else Freshness.STALE
        )
        if age is Freshness.DUE:
            age = Freshness.DUE if kept.due else Freshness.FRESH
            kept.due = False
        self.hits[age] += 1
        return kept, age

    def peek(self, key: Key) -> CacheEntry | None:
        """Return what is kept for *key*, whatever its age, and leave no trace."""
        return self._kept.get(key)

    def keep(
        self, key: Key, reply: Relayed, now: float, to: str = "", network: NetworkId = NOBODY
    ) -> None:
        """Keep *reply*, if it may be, in the place of what was there. *network* asked for it."""
        self._failed.pop(key, None)
        if not reply.lifetime:
            if reply.rcode in _DEFINITIVE and key in self._kept:
                self._take(key)  # what was there is known to hold no more, RFC 8767 section 4
            return
        protected = False
        if key in self._kept:
            network = self._kept[key].network  # a refresh changes nobody's account
            protected = self._take(key)[1]
        kept = CacheEntry(reply, now, to, network)
        self._put(key, kept, protected=protected)
        while len(self) > self.max_entries or self.octets > self.max_octets:
            self._evict(network)

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
        self._kept.clear()
        self._rooms.clear()
        self._failed.clear()
        self.octets = 0

    def _take(self, key: Key) -> tuple[CacheEntry, bool]:
        """Remove what is kept for *key*; return it, and whether it was protected."""
        kept = self._kept.pop(key)
        room = self._rooms[kept.network]
        protected = key in room.protected
        del (room.protected if protected else room.probation)[key]
        self._account(room, -kept.octets, protected=protected)
        if not room.octets:
            del self._rooms[kept.network]
        return kept, protected

    def _put(self, key: Key, kept: CacheEntry, *, protected: bool) -> None:
        """Keep it as what was used last."""
        room = self._rooms.get(kept.network)
        if room is None:
            room = self._rooms[kept.network] = Room()
        self._kept[key] = kept
        (room.protected if protected else room.probation)[key] = kept
        self._account(room, kept.octets, protected=protected)

    def _account(self, room: Room, octets: int, *, protected: bool) -> None:
        self.octets += octets
        room.octets += octets
        room.protected_octets += octets * protected

    def _used(self, key: Key, kept: CacheEntry, network: NetworkId) -> None:
        kept.asked += 1
        room = self._rooms[kept.network]
        other = self._rooms.get(network)
        if network != kept.network and (other.octets if other else 0) + kept.octets < room.octets:
            # Who has little keeps it from being pushed out by what the other one asks for.
            self._take(key)
            kept.network = network
            self._put(key, kept, protected=True)
        elif key in room.protected:
            room.protected.move_to_end(key)
            return
        else:
            self._take(key)
            self._put(key, kept, protected=True)

    def _room_with_too_much(self, network: NetworkId) -> Room:
        """Return the room of *network*, if it has more than its share, else that of another which
        has: found by a hand that goes round, since to compare all for each reply would cost
        milliseconds where there are many."""
        rooms = self._rooms
        for number in (network, self._greedy):
            room = rooms.get(number)
            if room is not None and room.octets * len(rooms) > self.octets:
                return room
        while True:
            self._greedy = next(iter(rooms))
            rooms.move_to_end(self._greedy)
            room = rooms[self._greedy]
            if room.octets * len(rooms) >= self.octets:  # true of one at least
                return room

    def _evict(self, network: NetworkId) -> None:
        """Drop what was not used for longest: of *network*, if it has more than its share, else of
        another that has."""
        for chance in range(_CHANCES + 1):
            room = self._room_with_too_much(network)
            full = room.protected_octets > PROTECTED * room.octets
            key = next(iter(room.protected if full else room.probation or room.protected))
            kept, _ = self._take(key)
            repeats = self.repeats(key)
            if repeats in (0, kept.repeats) or chance == _CHANCES:
                break
            kept.repeats = repeats
            self._put(key, kept, protected=True)
        self.evictions += 1
