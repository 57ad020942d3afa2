"""The answer table: replies that may be repeated, and the repeating.

Python decides once (core/journey.py), afterwards the same question gets the same octets with its
own id, RD, CD, letter case, OPT with the options it asks for, and rotation. What exceeds a UDP
client's limit loses what core/message.py takes from it. Anything unusual in a query is a miss, and
the journey decides again.

    network ─► lower-cased QNAME + QTYPE + QCLASS ─► Entry        (nearest: ─► place of the asker)
    everyone ─► the same + DO, CD ─► RelayedEntry                 (an upstream's: its TTLs fall)

An entry goes when what it was computed from goes: one app, or for lists, reverse names and peers
the whole network. The table is bounded in octets; a network that asks for many names pushes out its
own entries first.

With a native table (transport/native/mirror.py) the entries are there, and here are only those that
it cannot repeat in every case.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest
from itertools import chain
from operator import attrgetter
from struct import pack
from typing import Any, Final, NamedTuple, Protocol

from internal_dns.core.catalog import App, Catalog, Network, NetworkId
from internal_dns.core.journey import Cacheable, Reply, Rules, edns_options
from internal_dns.core.message import PLAIN_UDP_SIZE
from internal_dns.core.relayed import Relayed
from internal_dns.core.requester import Outsider, place, requester
from internal_dns.core.wire import (
    HEADER,
    Edns,
    read_edns,
)
from internal_dns.transport.table.changes import differences, parts
from internal_dns.transport.table.entries import OPT_HEAD, OPT_SIZE, Cell, Entry, cut, with_options
from internal_dns.transport.table.relayed import (
    EVERYONE,
    VARIANTS,
    RelayedEntry,
    relayed_entry,
    split,
)

PlaceKey = tuple[bytes | None, bytes | None, bytes | None]
Tables = dict[bytes, OrderedDict[bytes, Entry | RelayedEntry | dict[PlaceKey | None, Entry]]]
Key = tuple[bytes, PlaceKey | None]  # QNAME with QTYPE and QCLASS; the place for `nearest`
Hot = list[tuple[bytes, int]]  # QNAMEs, lower-cased, and QTYPEs of entries that were repeated

_ONE_QUESTION: Final = pack("!4H", 1, 0, 0, 0)
_AND_ADDITIONAL: Final = pack("!4H", 1, 0, 0, 1)
MAX_OCTETS: Final = 256 << 20  # by default
_PYTHONS: Final = 4  # beside a native table, a part of its size is for what only Python can repeat
_KNOWN_SOURCES: Final = 4_096
EVERYTHING: Final = (None,)  # the one part of what depends on the whole network
_NONE: Final[OrderedDict[bytes, Any]] = OrderedDict()
_PART: Final = 1_024  # entries looked at in one go, about a millisecond
_CHANCES: Final = 8  # entries that are spared for one that has to go, since they were repeated
_FREED: Final = 256  # networks or apps freed in one step
_DROPPED: Final = 64  # entries dropped in one step, a fraction of a millisecond
_DROPPED_NATIVELY: Final = 512
MAX_HOT: Final = 100_000  # names of a commit that are decided again


class Busy(NamedTuple):
    """How often one name was repeated to one network since its answer was decided; network 0: an
    upstream's answer."""

    network: NetworkId
    name: bytes  # wire form, lower-cased
    qtype: int
    hits: int


hits_of: Final = attrgetter("hits")


class NativeTable(Protocol):
    """What `scan` and the figures of the native table look like (native/fast.pyi)."""

    @property
    def answer_octets(self) -> int: ...
    @property
    def answers(self) -> int: ...
    @property
    def evictions(self) -> int: ...

    bound: int

    def scan(
        self, cursor: int, most: int, repeated: bool = False
    ) -> tuple[int, list[tuple[int, bytes, int, int, int]]]: ...
    def has(self, network: int, name: bytes, qtype: int) -> bool: ...
    def gone(self) -> dict[int, int]: ...
    def clear(self, most: int) -> int: ...


class Mirror(Protocol):
    """The native table as this one fills it (transport/native/mirror.py). Keys are as here, without
    a place."""

    @property
    def table(self) -> NativeTable: ...

    def put(self, network: bytes, key: bytes, entry: Entry) -> bool:
        """Store *entry*; return whether it can be repeated there in every case."""

    def put_reply(self, network: bytes, reply: Cacheable, rules: Rules, counter: Cell) -> bool:
        """Store a *reply* that can be repeated there in every case; False, and nothing is done,
        when `put` must decide what becomes of it."""

    def put_relayed(self, key: bytes, entry: RelayedEntry) -> bool:
        """Store *entry* for everyone; return whether it can be repeated there in every case."""

    def repeat(
        self, octets: bytes, source: bytes, destination: bytes, rotation: int, stream: bool,
        now: float, wall: float,
    ) -> bytes | None:  # fmt: skip
        """Return the reply to *octets* and count it; None when Python must see them."""

    def forget_part(self, network: bytes, part: bytes | None, most: int, hot: Hot | None) -> int:
        """Forget at most *most* entries that depend on *part*; return how many."""

    def forget_all(self, network: bytes, most: int, hot: Hot | None) -> int:
        """Forget at most *most* entries of *network*; return how many."""

    def hits(self, network: bytes, key: bytes) -> int:
        """How often the entry of *key* was repeated there."""

    def forget(self, number: NetworkId) -> None:
        """Free what is known of network *number*."""

    def send_up(self, number: NetworkId) -> None:
        """Let all names of network *number* go up, until `steps` tells of it again."""

    def watch(self, every: int) -> None:
        """Show one in *every* of what is repeated or dropped there, 0 for nothing
        (transport/tap.py)."""

    def steps(
        self,
        number: NetworkId,
        before: Network | None,
        after: Network | None,
        labels: frozenset[bytes] | None,
    ) -> Iterator[None]:
        """Let network *number* be *after* from the last step on; *labels* are those that `changed`
        yields. Nothing is wrong between the steps as long as *before* is what is answered from."""


class AnswerTable:
    """All entries of all networks; see the module's docstring."""

    def __init__(
        self,
        rules: Rules,
        count_into: Callable[[Reply, int], Cell] | None = None,
        *,
        count_relayed: Callable[[int, int], Cell] | None = None,
        count_partial: Cell | None = None,
        max_octets: int = MAX_OCTETS,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        mirror: Mirror | None = None,
    ) -> None:
        self.rules, self.prefix = rules, rules.prefix
        self.catalog: Catalog | None = None
        self.hits = self.misses = 0
        self._octets = self._entries = self._evictions = 0  # without those of the native table
        self.clock, self.wall, self.mirror = clock, wall, mirror  # `wall`: for cookies only
        self.set_bound(max_octets)
        self._count_into = count_into or (lambda reply, qtype: [0])
        self.count_partial = [0] if count_partial is None else count_partial
        self._count_relayed = count_relayed or (lambda rcode, qtype: [0])
        self._tables: Tables = {}
        self._by_part: dict[bytes, dict[bytes | None, set[Key]]] = {}
        self._sizes: OrderedDict[bytes, int] = OrderedDict()
        self._greedy = b""  # the network that had too much when one was looked for
        self._sources: dict[bytes, bytes | None] = {}
        self._zones: dict[bytes, frozenset[bytes]] = {}  # of the networks that have some
        # While a commit is applied: the next catalog, the networks that use it already, and which
        # one is about to.
        self._next: Catalog | None = None
        self._swapped: set[bytes | None] = set()
        self._leaving: bytes | None = None
        self._steps: Iterator[None] | None = None
        self._filled: Mirror | None = None  # the mirror that is being filled
        # Hits of entries that are gone, so that a network's sum never falls.
        self._gone: dict[NetworkId, int] = {}
        # Called with a network whose commit is applied, and what was repeated of its entries that
        # the commit has dropped.
        self.was_hot: Callable[[NetworkId, Hot], None] | None = None

    def set_bound(self, octets: int) -> None:
        """Take no more than so many octets from the next entry on."""
        self.max_octets = octets
        if self.mirror:
            self.mirror.table.bound = octets - min(octets, self._octets)

    @property
    def octets(self) -> int:
        return self._octets + (self.mirror.table.answer_octets if self.mirror else 0)

    @property
    def entries(self) -> int:
        return self._entries + (self.mirror.table.answers if self.mirror else 0)

    @property
    def evictions(self) -> int:
        return self._evictions + (self.mirror.table.evictions if self.mirror else 0)

    @property
    def forgotten_hits(self) -> dict[NetworkId, int]:
        """How often entries were repeated that are gone, by network."""
        gone = Counter(self._gone)
        if self.mirror:
            gone.update({NetworkId(number): n for number, n in self.mirror.table.gone().items()})
        return dict(gone)

    # Hot path: every octet string here is built by slices of the query and of the entry, nothing is
    # parsed.
    def repeat(
        self, octets: bytes, source: bytes, destination: bytes, rotation: int, limit: int = 0
    ) -> bytes | None:
        """Return the reply to *octets* when it is known, else None. *limit* 0 is UDP's, by the
        query's OPT."""
        if self.mirror is not None:
            known = self.mirror.repeat(
                octets, source, destination, rotation, limit > 0, self.clock(), self.wall()
            )
            if known is not None:
                self.hits += 1
                return known
        counts, flags = octets[4:12], octets[2:3]
        if flags != b"\1" and flags != b"\0":  # noqa: PLR1714 - twice as fast as `in`
            return None
        asked = None
        if counts == _ONE_QUESTION:
            end, edns = len(octets), 0
            size = PLAIN_UDP_SIZE
        elif counts == _AND_ADDITIONAL:
            end, edns = len(octets) - OPT_SIZE, 4
            opt = octets[end:]
            if (
                opt[:3] != OPT_HEAD or opt[6:7] != b"\0" or opt[9:] != b"\0\0"
            ):  # not version 0 without options
                found = read_edns(octets)
                if found is None or (asked := found[1]).version or asked.ask_as is not None:
                    return None
                end = found[0]
                opt = octets[end:]
            size = min(max(opt[3] << 8 | opt[4], PLAIN_UDP_SIZE), self.rules.udp_limit)
        else:
            return None
        network = source[2:6] if source[:2] == self.prefix else self.mapped(source)
        if destination[:2] == self.prefix and destination[2:6] not in (b"\0\0\0\0", network):
            return None
        table = self._tables.get(network)  # type: ignore[arg-type]  # None is nobody's key
        # QTYPE must not be lower-cased: its octets may look like letters.
        key = octets[HEADER : end - 4].lower() + octets[end - 4 : end]
        entry = table.get(key) if table is not None else None
        if entry.__class__ is dict:
            entry = entry.get(self._place(source, destination))
        if entry is None:
            if octets[2] & 1 and network is not None and network != EVERYONE:
                options = self._options(asked, source, limit) if asked else b""
                zones = self._zones.get(network) if self._zones else None
                return self._repeat_relayed(octets, key, end, limit or size, options, zones)
            self.misses += 1
            return None
        assert isinstance(entry, Entry)
        at = rotation % entry.count * entry.unit if entry.count > 1 else 0
        opt = entry.opts[opt[7] >> 7] if edns else b""
        options = self._options(asked, source, limit) if asked else b""
        if entry.whole > entry.shown or entry.whole > (limit or size):
            return self._part(entry, octets, end, rotation, opt, options, limit, size)
        reply = b"".join((
            octets[:2],
            entry.heads[octets[2] & 1 | octets[3] >> 3 & 2 | edns],
            octets[HEADER:end],
            entry.lead,
            entry.ring[at : at + entry.shown] if not entry.rings else entry.by_groups(rotation),
            entry.tail,
            opt if not options else with_options(opt, options),
        ))  # fmt: skip
        if len(reply) > (limit or size):
            return self._part(entry, octets, end, rotation, opt, options, limit, size)
        entry.hits += 1
        entry.counter[0] += 1
        self.hits += 1
        return reply

    def _part(
        self,
        entry: Entry,
        octets: bytes,
        end: int,
        rotation: int,
        opt: bytes,
        options: bytes,
        limit: int,
        size: int,
    ) -> bytes | None:
        """Return what of the reply fits."""
        said = entry.part(octets, end, rotation, opt, options, limit or size, stream=limit > 0)
        if said is None:
            self.misses += 1
            return None
        self.count_partial[0] += said[1]
        entry.hits += 1
        entry.counter[0] += 1
        self.hits += 1
        return said[0]

    def _options(self, asked: Edns, source: bytes, limit: int) -> bytes:
        """Return the options of a reply; *limit* 0 is UDP."""
        now = int(self.wall()) if asked.client_cookie is not None else 0
        return edns_options(asked, source, self.rules, stream=bool(limit), now=now)

    def _repeat_relayed(
        self,
        octets: bytes,
        key: bytes,
        end: int,
        limit: int,
        options: bytes,
        zones: frozenset[bytes] | None,
    ) -> bytes | None:
        """Return a cached reply of an upstream with its TTLs aged.

        None also where QNAME or an alias on the way is in one of the client's own *zones*.
        """
        dnssec_ok = octets[end + 7] >> 7 if end < len(octets) else 0
        entry = self._tables.get(EVERYONE, _NONE).get(
            key + VARIANTS[dnssec_ok | octets[3] >> 3 & 2]
        )
        if entry is None:
            self.misses += 1
            return None
        assert isinstance(entry, RelayedEntry)
        if zones and entry.reply.leads_into(key[:-4], zones):
            self.misses += 1
            return None
        now = self.clock()
        if now >= entry.refresh_at:
            # One question goes the whole way, where the reply is asked for again; the others do
            # until it has run out.
            entry.refresh_at = entry.until
            self.misses += 1
            return None
        entry.hits += 1
        entry.counter[0] += 1
        self.hits += 1
        return entry.repeat(octets, end, limit, options, now)

    def mapped(self, source: bytes) -> bytes | None:
        """Return the network octets of a source outside the prefix by the configured maps, or
        None."""
        if source not in self._sources:
            if len(self._sources) >= _KNOWN_SOURCES:
                self._sources.clear()
            who = requester(
                source, bytes(16), self.catalog or Catalog(), self.prefix, self.rules.maps
            )
            self._sources[source] = None if isinstance(who, Outsider) else who.network.prefix[2:]
        return self._sources[source]

    def _place(self, source: bytes, destination: bytes) -> PlaceKey | None:
        """Return the place of the asker, for names that depend on it."""
        if (catalog := self.catalog_for(source)) is None:
            return None
        who = requester(source, destination, catalog, self.prefix, self.rules.maps)
        return None if isinstance(who, Outsider) else place(who, catalog, self.rules.region).key

    # ── filling and emptying ──────────────────────────────────────────────────────────────────────

    def remember(self, reply: Reply) -> None:
        """Store *reply* when it may be repeated, its sets fit the scheme, and what it was computed
        from is current. Its pair, which no query has had yet, does not replace what is here."""
        said = reply.cacheable
        if said is None:
            return
        network = said.network.prefix[2:]
        catalog = self._catalog_of(network)
        if (
            catalog is None
            or catalog.networks.get(said.network.id) is not said.network
            or network == self._leaving
        ):
            return
        self._store(network, said, self._count_into(reply, said.qtype))
        if (pair := reply.pair) is not None and not self.has(network, pair.name, pair.qtype):
            self._store(network, pair, self._count_into(reply, pair.qtype))

    def has(self, network: bytes, name: bytes, qtype: int) -> bool:
        """Whether an entry that does not depend on the place is here."""
        if self.mirror is not None and self.mirror.table.has(
            int.from_bytes(network, "big"), name, qtype
        ):
            return True
        table = self._tables.get(network)
        return table is not None and name + pack("!2H", qtype, 1) in table

    def _store(self, network: bytes, said: Cacheable, counter: Cell) -> None:
        key, where = said.name + pack("!2H", said.qtype, 1), said.place.key if said.place else None
        if (
            self.mirror is not None
            and where is None
            and self.mirror.put_reply(network, said, self.rules, counter)
        ):
            self._drop(network, (key, None))
            return
        entry = cut(said, self.rules, counter)
        if entry is None:
            return
        self._drop(network, (key, where))
        if self.mirror and not said.place and self.mirror.put(network, key, entry):
            return
        table = self._tables.setdefault(network, OrderedDict())
        if said.place:
            places = table.setdefault(key, {})
            assert isinstance(places, dict)
            places[where] = entry
        else:
            table[key] = entry
        of_network = self._by_part.setdefault(network, {})
        for one in EVERYTHING if said.parts is None else said.parts:
            of_network.setdefault(one, set()).add((key, where))
        self._account(network, entry.size, 1)
        self._make_room(network)

    def _make_room(self, network: bytes) -> None:
        """Drop entries until all are within the bound."""
        bound = self.max_octets // _PYTHONS if self.mirror else self.max_octets
        while self._octets > bound:
            self._evict(network)
        self.set_bound(self.max_octets)

    def remember_relayed(
        self,
        name: bytes,
        qtype: int,
        variant: int,
        reply: Relayed,
        since: float,
        refresh_at: float,
        until: float,
    ) -> None:
        """Keep what an upstream said, for all networks. *variant* is DO + 2 CD; times are those of
        `clock`."""
        key = name + pack("!2HB", qtype, 1, variant)
        self._drop(EVERYONE, (key, None))
        counter = self._count_relayed(reply.rcode, qtype)
        entry = relayed_entry(reply, variant, since, refresh_at, until, counter)
        if self.mirror and self.mirror.put_relayed(key, entry):
            # Natively an alias goes up where there are zones, whether or not it leads into one.
            if not (reply.aliases and self._zones):
                return
        self._tables.setdefault(EVERYONE, OrderedDict())[key] = entry
        self._by_part.setdefault(EVERYONE, {}).setdefault(None, set()).add((key, None))
        self._account(EVERYONE, entry.size, 1)
        self._make_room(EVERYONE)

    def forget_relayed(self) -> None:
        """Drop all that upstreams said."""
        self.forget(NetworkId(0), None)

    def change(self, catalog: Catalog) -> None:
        """Answer from *catalog* from now on; forget exactly what it changes."""
        for _ in self.steps(catalog):
            pass

    def steps(self, catalog: Catalog) -> Iterator[None]:
        """Answer from *catalog*, one network after the other.

        Each step takes a fraction of a millisecond, and queries may be answered between any two. A
        network's questions are decided from what `catalog_for` returns, and nothing is repeated
        that was decided from another value of the network than is in there. The next commit waits
        until these steps are done.
        """
        if self._steps is not None or (self._filled and self._filled is self.mirror):
            raise RuntimeError("another catalog is being applied")
        self._steps = self._swap(catalog)
        return self._steps

    def _swap(self, new: Catalog) -> Iterator[None]:
        self._next = new
        # What the old catalog alone holds. Freed at once, it could hold the loop for longer than
        # all that comes before.
        networks: list[Network] = []
        apps: list[App] = []
        swapped = self._swapped
        try:
            yield from self._swap_networks(self.catalog or Catalog(), new, networks, apps)
        except BaseException:
            self._forget_all()
            self._zones = {
                number.to_bytes(4, "big"): network.zones
                for number, network in new.networks.items()
                if network.zones
            }
            raise
        finally:
            # Also when a step failed, or nobody goes on with the steps: the next commit must find
            # the table whole.
            self.catalog, self._next, self._steps = new, None, None
            self._leaving, self._swapped = None, set()
        yield
        while swapped:
            for _ in range(min(len(swapped), _PART)):
                swapped.pop()
            yield
        for gone in (networks, apps):  # the networks first: they hold the apps
            while gone:
                del gone[-_FREED:]
                yield

    def _forget_all(self) -> None:
        """Forget every answer, and natively every network: what is asked then is decided anew."""
        for octets in tuple(self._by_part):
            self.forget(NetworkId(int.from_bytes(octets, "big")), None)
        if self.mirror:
            while self.mirror.table.clear(_DROPPED_NATIVELY):
                pass
            for catalog in (self.catalog, self._next):
                for number in catalog.networks if catalog else ():
                    self.mirror.send_up(number)

    def _swap_networks(
        self, old: Catalog, new: Catalog, networks: list[Network], apps: list[App]
    ) -> Iterator[None]:
        """Do it, and put what is no longer needed into *networks* and *apps*."""
        for change in differences(old, new):
            if change is not None:
                number, labels = change
                before, after = old.networks.get(number), new.networks.get(number)
                if before is not None:
                    networks.append(before)
                    for part in parts(before.apps if labels is None else labels):
                        apps += [before.apps[label] for label in part if label in before.apps]
                        yield
                # What is decided from the old value meanwhile is not remembered.
                self._leaving = network = number.to_bytes(4, "big")
                hot: Hot = []
                yield from self._forget(network, labels, hot)
                told = self.mirror
                if told:
                    yield from told.steps(number, before, after, labels)
                self._leaving = None
                self._swapped.add(network)
                if after is not None and after.zones:
                    self._zones[network] = after.zones
                    if self.mirror and self.mirror is not told:  # there are other rules by now
                        self.mirror.send_up(number)
                else:
                    self._zones.pop(network, None)
                if after is None:
                    self._gone.pop(number, None)
                elif hot and self.was_hot:
                    self.was_hot(number, hot)
            yield

    def catalog_for(self, source: bytes) -> Catalog | None:
        """Return the catalog that answers queries of *source*; None before the first."""
        if self._next is None:
            return self.catalog
        return self._catalog_of(self.network_of(source))

    def _catalog_of(self, network: bytes | None) -> Catalog | None:
        return self._next if network in self._swapped else self.catalog

    def network_of(self, source: bytes) -> bytes | None:
        """Return the network octets of *source*, by its address or by the configured maps, or
        None."""
        return source[2:6] if source[:2] == self.prefix else self.mapped(source)

    def use_rules(self, rules: Rules, mirror: Mirror | None = None) -> Iterator[None]:
        """Forget everything: by *rules* the requester, the limit and the reply may change.
        *mirror* is a new one.

        That is so at once. The steps returned free what was and fill *mirror*, which has Python
        answer until then; the next commit waits until they are done, and they until the commit is
        that is being applied.
        """
        tables, before = self._tables, self.mirror
        self._tables, self._by_part, self._sizes = {}, {}, OrderedDict()
        self._octets = self._entries = 0
        self._sources.clear()
        self._evictions += before.table.evictions if before else 0
        self.rules, self.mirror = rules, mirror
        self.set_bound(self.max_octets)
        if mirror:
            # It must know which networks have zones before it has a reply of an upstream.
            for octets in self._zones:
                mirror.send_up(NetworkId(int.from_bytes(octets, "big")))
        return self._begin_anew(tables, before, mirror)

    def _begin_anew(
        self, tables: Tables, before: Mirror | None, mirror: Mirror | None
    ) -> Iterator[None]:
        for _ in self._steps or ():
            yield
        self._filled = mirror
        try:
            # First, as the sums of hits lack them meanwhile.
            for freed in self._free(tables):
                if freed % _DROPPED == 0:
                    yield
            if before:
                while before.table.clear(_DROPPED_NATIVELY):
                    yield
                for number, hits in before.table.gone().items():
                    self._add_gone(NetworkId(number), hits)
            networks = self.catalog.networks if self.catalog else {}
            for numbers in parts(networks):
                for number in numbers:
                    if before:
                        before.forget(number)
                    # Yet another one may have taken its place.
                    if mirror and self.mirror is mirror:
                        yield from mirror.steps(number, None, networks[number], None)
                yield
        finally:
            if self._filled is mirror:
                self._filled = None

    def _free(self, tables: Tables) -> Iterator[int]:
        """Free *tables*, an entry at a time; yield how many were freed."""
        freed = 0
        while tables:
            network, table = tables.popitem()
            number = NetworkId(int.from_bytes(network, "big"))
            while table:
                _, entry = table.popitem()
                if isinstance(entry, dict):
                    self._add_gone(number, sum(map(hits_of, entry.values())))
                else:
                    self._add_gone(number, entry.hits)
                freed += 1
                yield freed

    def forget(self, number: NetworkId, labels: frozenset[bytes] | None) -> None:
        """Drop what depends on these app labels of network *number* and on the whole network; None:
        all it has."""
        for _ in self._forget(number.to_bytes(4, "big"), labels):
            pass

    def _forget(
        self, network: bytes, labels: frozenset[bytes] | None, hot: Hot | None = None
    ) -> Iterator[None]:
        """Do so in steps. What was repeated of it is appended to *hot*, but for answers that depend
        on the place."""
        known = self._by_part.get(network, {})
        dropped = 0
        wanted: Iterable[bytes | None] = ()
        if known:
            wanted = tuple(known) if labels is None else chain(labels, (None,))
        for part in parts(wanted):
            for label in part:
                for key in tuple(known.get(label, ())):
                    entry = self._drop(network, key)
                    if hot is not None and entry and entry.hits and not key[1]:
                        hot.append(split(network, key[0])[:2])
                    dropped += 1
                    if dropped % _DROPPED == 0:
                        yield
            yield
        if self.mirror is not None:
            yield from self._forget_natively(self.mirror, network, labels, hot)

    def _forget_natively(
        self, mirror: Mirror, network: bytes, labels: frozenset[bytes] | None, hot: Hot | None
    ) -> Iterator[None]:
        def room() -> Hot | None:
            return hot if hot is not None and len(hot) < MAX_HOT else None

        if labels is None:
            while mirror.forget_all(network, _DROPPED_NATIVELY, room()):
                yield
            return
        dropped = 0
        wanted: Iterable[bytes | None] = chain(labels, (None,))
        for part in parts(wanted):
            for label in part:
                while more := mirror.forget_part(network, label, _DROPPED_NATIVELY, room()):
                    dropped += more
                    if dropped >= _DROPPED_NATIVELY:
                        dropped = 0
                        yield
            yield

    def _drop(self, network: bytes, key: Key) -> Entry | RelayedEntry | None:
        """Drop what is here of *key*; return it."""
        table = self._tables.get(network)
        entry = table.get(key[0]) if table else None
        if table is None or entry is None:
            return None
        if isinstance(entry, dict):
            places, entry = entry, entry.pop(key[1], None)
            if not places:
                del table[key[0]]
            if entry is None:
                return None
        else:
            del table[key[0]]
        of_network = self._by_part[network]
        for one in EVERYTHING if entry.parts is None else entry.parts:
            of_network[one].discard(key)
            if not of_network[one]:
                del of_network[one]
        self._account(network, -entry.size, -1)
        self._add_gone(NetworkId(int.from_bytes(network, "big")), entry.hits)
        if not table:
            del self._tables[network], self._sizes[network], self._by_part[network]
        return entry

    def _add_gone(self, number: NetworkId, hits: int) -> None:
        if hits:
            self._gone[number] = self._gone.get(number, 0) + hits

    # ── the books ─────────────────────────────────────────────────────────────────────────────────

    def held(self) -> Iterator[tuple[bytes, Key, Entry | RelayedEntry]]:
        """Yield every entry with its network and key, except those of the native table."""
        for network, table in self._tables.items():
            for name, found in table.items():
                if isinstance(found, dict):
                    for where, entry in found.items():
                        yield network, (name, where), entry
                else:
                    yield network, (name, None), found

    @property
    def octets_by_network(self) -> dict[bytes, int]:
        """What the entries of each network take, except in the native table."""
        return dict(self._sizes)

    @property
    def leaving(self) -> bytes | None:
        """The network to which a commit is being applied: nothing is remembered for it."""
        return self._leaving

    def check_books(self) -> None:
        """Check that all accounts agree with the entries. Raises AssertionError."""
        sizes: dict[bytes, int] = {}
        depend: set[tuple[bytes, bytes | None, Key]] = set()
        count = 0
        for network, key, entry in self.held():
            sizes[network] = sizes.get(network, 0) + entry.size
            on = EVERYTHING if entry.parts is None else entry.parts
            depend.update((network, part, key) for part in on)
            count += 1
        assert self._entries == count, f"{self._entries} entries counted, {count} held"
        octets = sum(sizes.values())
        assert self._octets == octets, f"{self._octets} octets counted, {octets} held"
        assert dict(self._sizes) == sizes, "the octets of a network are not those of its entries"
        indexed = {
            (network, part, key)
            for network, by_part in self._by_part.items()
            for part, keys in by_part.items()
            for key in keys
        }
        assert indexed == depend, (
            "an entry is not indexed by what it depends on, or one too many is"
        )
        assert all(self._tables.values()), "a network without entries has a table"
        assert all(all(of.values()) for of in self._by_part.values()), "a part has no entries"
        assert self._by_part.keys() == self._tables.keys(), "a network has an index and no entries"
        assert len(self._sources) <= _KNOWN_SOURCES, "more sources are remembered than may be"

    # ── busy names ───────────────────────────────────────────────────────────────────────────────

    def busiest(self, count: int) -> list[Busy]:
        """Return the *count* names repeated most since each was decided, busiest first."""
        return nlargest(count, chain.from_iterable(self.parts()), key=hits_of)

    def parts(self) -> Iterator[list[Busy]]:
        """Yield all that is kept, a bounded part at a time: the table may change in between."""
        for network in tuple(self._tables):
            number, table = (
                NetworkId(int.from_bytes(network, "big")),
                self._tables.get(network, OrderedDict()),
            )
            # References only, and not in order, which dict copies ten times as fast as OrderedDict.
            keys = tuple(dict.keys(table))
            for at in range(0, len(keys), _PART):
                part = []
                for key in keys[at : at + _PART]:
                    entry = table.get(key)
                    if entry is not None:
                        hits = (
                            sum(map(hits_of, entry.values()))
                            if isinstance(entry, dict)
                            else entry.hits
                        )
                        hits += self.mirror.hits(network, key) if self.mirror else 0
                        part.append(Busy(number, *split(network, key)[:2], hits))
                yield part
        if self.mirror:
            yield from self._native_parts(self.mirror)

    def repeated(self) -> Iterator[list[Busy]]:
        """Yield the entries of ours that were repeated since they were stored, except those that
        depend on the place; a bounded part at a time, between which the table may change."""
        for network in tuple(self._tables):
            table = self._tables.get(network, OrderedDict())
            number = NetworkId(int.from_bytes(network, "big"))
            for keys in parts(tuple(dict.keys(table)) if network != EVERYONE else ()):
                part = [(key, entry) for key in keys if isinstance(entry := table.get(key), Entry)]
                yield [Busy(number, *split(network, k)[:2], e.hits) for k, e in part if e.hits]
        cursor, ended = 0, self.mirror is None
        while not ended and self.mirror is not None:
            cursor, found = self.mirror.table.scan(cursor, _PART, True)
            yield [Busy(NetworkId(number), name, qtype, n) for number, name, qtype, _, n in found]
            ended = not cursor

    def _native_parts(self, mirror: Mirror) -> Iterator[list[Busy]]:
        """Yield what the native table alone has."""
        cursor, ended = 0, False
        while not ended:
            cursor, found = mirror.table.scan(cursor, _PART)
            yield [
                Busy(NetworkId(number), name, qtype, hits)
                for number, name, qtype, variant, hits in found
                if not self._has(number, name, qtype, variant)
            ]
            ended = not cursor

    def _has(self, number: int, name: bytes, qtype: int, variant: int) -> bool:
        table = self._tables.get(number.to_bytes(4, "big"))
        if table is None:
            return False
        key = name + pack("!2H", qtype, 1)
        return (key if number else key + bytes((variant,))) in table

    def _with_too_much(self, network: bytes) -> bytes:
        """Return *network*, if it has more than its share, else another that has: found by a hand
        that goes round, since to compare all for each answer would cost milliseconds where there
        are many."""
        sizes = self._sizes
        for one in (network, self._greedy):
            if sizes.get(one, 0) * len(sizes) > self._octets:
                return one
        while True:
            self._greedy = next(iter(sizes))
            sizes.move_to_end(self._greedy)
            if sizes[self._greedy] * len(sizes) >= self._octets:  # true of one at least
                return self._greedy

    def _hits(self, network: bytes, key: bytes, entry: Entry | RelayedEntry) -> int:
        return entry.hits + (self.mirror.hits(network, key) if self.mirror else 0)

    def relayed_hits(self, key: bytes) -> int:
        """How often an upstream's answer was repeated that the forwarder's cache has under *key*
        (QNAME, QTYPE, variant), since it is here."""
        key = key[:-1] + b"\0\1" + key[-1:]
        entry = self._tables.get(EVERYONE, _NONE).get(key)
        here = entry.hits if isinstance(entry, RelayedEntry) else 0
        return here + (self.mirror.hits(EVERYONE, key) if self.mirror else 0)

    def _account(self, network: bytes, octets: int, entries: int) -> None:
        self._octets += octets
        self._entries += entries
        self._sizes[network] = self._sizes.get(network, 0) + octets

    def _evict(self, network: bytes) -> None:
        """Drop an oldest entry that was not repeated lately: the inserting network's if it has more
        than its share, else another's that has."""
        network = self._with_too_much(network)
        table = self._tables[network]
        for _ in range(_CHANCES):
            key, entry = next(iter(table.items()))
            if isinstance(entry, dict) or (hits := self._hits(network, key, entry)) == entry.seen:
                break
            entry.seen = hits  # it was repeated since it was looked at last
            table.move_to_end(key)
        key, entry = next(iter(table.items()))
        self._drop(network, (key, next(iter(entry)) if isinstance(entry, dict) else None))
        self._evictions += 1
