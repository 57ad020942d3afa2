"""The cache of upstreams' replies: whole replies by question, while they are fresh and for a day
as stale replies.

Pure: *now* is in seconds of any clock that only goes forward.

    first query ─► probation ── queried again ─► protected        each in order of last use

Every network has both of its own, and pays for the entries in them. When the cache is full, the
network that queries loses its oldest entry, or, if it has less than its share, another network
that has more. An entry that several networks query is paid by one that has little. So a network
that queries random names evicts its own entries, however often it queries. A reply that the answer
table repeats counts as queried.
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
from internal_dns.forward.times import TIMES

MAX_ENTRIES: Final = 100_000
MAX_OCTETS: Final = 64 << 20
# Seconds after its expiry for which a reply may replace one that cannot be had (RFC 8767).
MAX_STALE: Final = 86_400
PROTECTED: Final = 0.8  # of a network's room, for entries that were queried again
REFRESH: Final = 0.9  # of an entry's life, after which it is refreshed before anyone has to wait
MAX_FAILED: Final = 10_000
_CHANCES: Final = 8  # entries that are spared per eviction because the answer table repeated them
_OVERHEAD: Final = 650  # octets of an entry beside its records, measured with tracemalloc

NOBODY: Final = NetworkId(0)
_DEFINITIVE: Final = frozenset({Rcode.NOERROR, Rcode.NXDOMAIN})

# QNAME (wire form, lower-cased), QTYPE and, in one octet, DO and CD: nothing else in a query
# changes the reply.
Key = bytes
Reason = tuple[Ede, str]  # why there was no answer


class Freshness(Enum):
    """How good an entry still is."""

    FRESH = "fresh"
    DUE = "fresh, and due for a refresh"
    STALE = "expired"


@dataclass(slots=True)
class CacheEntry:
    """One reply, when it came, and from which upstream."""

    reply: Relayed
    since: float
    upstream: str  # its URL
    network: NetworkId = NOBODY  # that pays for it
    repeats: int = 0  # by the answer table, when this was last looked at
    due: bool = True  # its refresh has not begun yet

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
    """The entries that one network pays for, in order of last use, and their octets."""

    __slots__ = ("octets", "probation", "protected", "protected_octets")

    def __init__(self) -> None:
        self.probation: OrderedDict[Key, CacheEntry] = OrderedDict()
        self.protected: OrderedDict[Key, CacheEntry] = OrderedDict()
        self.octets = self.protected_octets = 0


class Cache:
    """Replies by question, bounded by entries and octets; and failures, for *failure* seconds."""

    def __init__(
        self,
        max_entries: int = MAX_ENTRIES,
        max_octets: int = MAX_OCTETS,
        *,
        failure: float = TIMES.failure,
    ) -> None:
        self.max_entries, self.max_octets, self.failure_life = max_entries, max_octets, failure
        self.octets = self.evictions = self.misses = 0
        self.hits = dict.fromkeys(Freshness, 0)
        # How often the answer table has repeated the reply to a question.
        self.repeats: Callable[[Key], int] = lambda key: 0
        self._entries: dict[Key, CacheEntry] = {}
        self._rooms: OrderedDict[NetworkId, Room] = OrderedDict()
        self._greedy = NOBODY  # the network that had too much when one was looked for
        self._failed: OrderedDict[Key, tuple[float, Reason]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(
        self, key: Key, now: float, network: NetworkId = NOBODY
    ) -> tuple[CacheEntry, Freshness] | None:
        """Return the entry of *key*, which *network* queries, and how good it is. DUE is returned
        once in an entry's life."""
        entry = self.peek(key)
        if entry is None or now >= entry.until + MAX_STALE:
            self.misses += 1
            return None
        self._used(key, entry, network)
        age = (
            Freshness.FRESH
            if now < entry.refresh_at
            else Freshness.DUE
            if now < entry.until
            else Freshness.STALE
        )
        if age is Freshness.DUE:
            age = Freshness.DUE if entry.due else Freshness.FRESH
            entry.due = False
        self.hits[age] += 1
        return entry, age

    def peek(self, key: Key) -> CacheEntry | None:
        """Return the entry of *key*, whatever its age, and count nothing."""
        return self._entries.get(key)

    def store(
        self, key: Key, reply: Relayed, now: float, upstream: str = "", network: NetworkId = NOBODY
    ) -> None:
        """Replace the entry of *key* with *reply*, which *network* queried, if it may be cached."""
        self._failed.pop(key, None)
        if not reply.lifetime:
            if reply.rcode in _DEFINITIVE and key in self._entries:
                self._take(key)  # it is known to hold no more, RFC 8767 section 4
            return
        protected = False
        if key in self._entries:
            network = self._entries[key].network  # a refresh changes nobody's account
            protected = self._take(key)[1]
        entry = CacheEntry(reply, now, upstream, network)
        self._put(key, entry, protected=protected)
        while len(self) > self.max_entries or self.octets > self.max_octets:
            self._evict(network)

    def store_failure(self, key: Key, why: Reason, now: float) -> None:
        """Cache that *key* could not be resolved."""
        self._failed.pop(key, None)
        self._failed[key] = now + self.failure_life, why
        if len(self._failed) > MAX_FAILED:
            self._failed.popitem(last=False)

    def failure(self, key: Key, now: float) -> Reason | None:
        """Return why *key* could not be resolved a moment ago, or None."""
        failed = self._failed.get(key)
        return failed[1] if failed and now < failed[0] else None

    def clear(self) -> None:
        """Drop all entries: other upstreams may answer otherwise."""
        self._entries.clear()
        self._rooms.clear()
        self._failed.clear()
        self.octets = 0

    def _take(self, key: Key) -> tuple[CacheEntry, bool]:
        """Remove the entry of *key*; return it, and whether it was protected."""
        entry = self._entries.pop(key)
        room = self._rooms[entry.network]
        protected = key in room.protected
        del (room.protected if protected else room.probation)[key]
        self._account(room, -entry.octets, protected=protected)
        if not room.octets:
            del self._rooms[entry.network]
        return entry, protected

    def _put(self, key: Key, entry: CacheEntry, *, protected: bool) -> None:
        """Add an entry as the one used last."""
        room = self._rooms.get(entry.network)
        if room is None:
            room = self._rooms[entry.network] = Room()
        self._entries[key] = entry
        (room.protected if protected else room.probation)[key] = entry
        self._account(room, entry.octets, protected=protected)

    def _account(self, room: Room, octets: int, *, protected: bool) -> None:
        self.octets += octets
        room.octets += octets
        room.protected_octets += octets * protected

    def _used(self, key: Key, entry: CacheEntry, network: NetworkId) -> None:
        room = self._rooms[entry.network]
        other = self._rooms.get(network)
        if network != entry.network and (other.octets if other else 0) + entry.octets < room.octets:
            # The network with less pays: queries of the other one must not evict the entry.
            self._take(key)
            entry.network = network
            self._put(key, entry, protected=True)
        elif key in room.protected:
            room.protected.move_to_end(key)
            return
        else:
            self._take(key)
            self._put(key, entry, protected=True)

    def _room_with_too_much(self, network: NetworkId) -> Room:
        """Return the room of *network*, if it has more than its share, else that of another network
        that has more. A hand goes round to find it: comparing all for each reply would take
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
        """Evict the entry that was not used for longest: of *network*, if it has more than its
        share, else of another network that has."""
        for chance in range(_CHANCES + 1):
            room = self._room_with_too_much(network)
            full = room.protected_octets > PROTECTED * room.octets
            key = next(iter(room.protected if full else room.probation or room.protected))
            entry, _ = self._take(key)
            repeats = self.repeats(key)
            if repeats in (0, entry.repeats) or chance == _CHANCES:
                break
            entry.repeats = repeats
            self._put(key, entry, protected=True)
        self.evictions += 1

    def check_books(self) -> None:
        """Raise AssertionError unless all counts agree with the entries."""
        entries: dict[Key, CacheEntry] = {}
        for network, room in self._rooms.items():
            assert all(
                entry.network == network
                for part in (room.probation, room.protected)
                for entry in part.values()
            )
            assert not room.probation.keys() & room.protected.keys()
            protected = sum(entry.octets for entry in room.protected.values())
            octets = protected + sum(entry.octets for entry in room.probation.values())
            assert (room.octets, room.protected_octets) == (octets, protected)
            assert octets, f"an empty room of network {network}"
            entries |= room.probation
            entries |= room.protected
        assert entries == self._entries
        assert self.octets == sum(entry.octets for entry in entries.values())
        assert len(entries) <= self.max_entries
        assert self.octets <= self.max_octets
        assert len(self._failed) <= MAX_FAILED
