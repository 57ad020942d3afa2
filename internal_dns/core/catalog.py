"""The catalog as the server knows it: frozen values, and the indexes that answer a question.

A Catalog is never changed; a commit makes a new one that shares every App and Network it did not
touch. Indexes are built when first asked for. Names are lower-cased octets, as on the wire;
addresses are 16 octets.

    Catalog ── networks ─► Network ── apps ─► App ── machines ─► Machine
       │ regions, latency, hosts  └─ peers, flycasts
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain, pairwise
from math import asin, cos, radians, sin, sqrt
from operator import itemgetter
from typing import Final, NamedTuple, NewType, TypeVar

from internal_dns.core.names import Labels, wire
from internal_dns.core.own import changed_parts, counted_below, names_above
from internal_dns.core.text import Text

NetworkId = NewType("NetworkId", int)

K = TypeVar("K")

STARTED: Final = b"started"
DESTROYED: Final = b"destroyed"
_EARTH_KM: Final = 6371.0


class Service(NamedTuple):
    """A port that a machine publishes; `protocol` is b"tcp" or b"udp"."""

    name: bytes
    protocol: bytes
    port: int
    priority: int = 0
    weight: int = 1


class Marks(NamedTuple):
    """What few machines have other than by default: one object for all others, so that a million
    machines take no octet more for it."""

    skip_registration: bool = False
    ready: bool = True
    name: bytes = b""  # empty: none


# Those without a name, by (skip_registration, ready).
MARKS: Final = {
    (skip, ready): Marks(skip, ready) for skip in (False, True) for ready in (False, True)
}
NO_MARKS: Final = MARKS[False, True]


class Machine(NamedTuple):
    """One machine. A tuple, not a dataclass: there may be a million, and a tuple is made four times
    as fast."""

    id: bytes
    app: bytes
    address: bytes
    region: bytes
    group: bytes
    state: bytes
    marks: Marks = NO_MARKS
    metadata: tuple[tuple[bytes, bytes], ...] = ()
    services: tuple[Service, ...] = ()

    @property
    def skip_registration(self) -> bool:
        return self.marks.skip_registration

    @property
    def ready(self) -> bool:
        """Whether it should get traffic. Only sets that have a ready machine look at it."""
        return self.marks.ready

    @property
    def name(self) -> bytes:
        return self.marks.name

    @property
    def visible(self) -> bool:
        return self.state == STARTED and not self.skip_registration

    @property
    def listed(self) -> bool:
        """Whether the `all.` lists show it."""
        return self.state != DESTROYED and not self.skip_registration


ServiceKey = tuple[bytes, bytes]  # name, protocol
Published = tuple[Machine, Service]


class Peer(NamedTuple):
    """A WireGuard peer; `region` is empty when it is that of its host."""

    name: bytes
    address: bytes
    region: bytes
    visible: bool


# Indexes of an app this small may be built when first asked for: that takes 0.2 ms at most. Those of
# larger apps are built by `prepare`. Most apps have few machines, and a dictionary for each of
# 300,000 apps would take more memory than the machines themselves.
SMALL: Final = 200
_MOST_ORDERS: Final = 8  # see App.orders

_ID: Final = itemgetter(0)
_APP: Final = itemgetter(1)
_ADDRESS: Final = itemgetter(2)
_REGION: Final = itemgetter(3)
_GROUP: Final = itemgetter(4)
_REGION_AND_GROUP: Final = itemgetter(3, 4)
_ADDRESS_AND_ID: Final = itemgetter(2, 0)


def _scattered(machine: Machine) -> int:
    """A sort key under which neighbors are far apart: Fibonacci hashing, the golden ratio as 128
    bits."""
    return int.from_bytes(machine[2], "big") * 0x9E3779B97F4A7C15F39CC0605CEDC835 & _128_BITS


_128_BITS: Final = (1 << 128) - 1


def _visible(machines: Iterable[Machine]) -> list[Machine]:
    """Filter by `Machine.visible`, by position: twice as fast, and there may be a million."""
    return [m for m in machines if m[5] == STARTED and not m[6][0]]


def _listed(machines: Iterable[Machine]) -> list[Machine]:
    return [m for m in machines if m[5] != DESTROYED and not m[6][0]]


def _ready(machines: tuple[Machine, ...]) -> tuple[Machine, ...]:
    """Return the ready ones of some visible machines, all when none is: *machines* itself when
    nothing is left out."""
    found = tuple([m for m in machines if m[6][1]])
    return machines if len(found) in (0, len(machines)) else found


class MachineSet:
    """The machines that an address name answers, in the two orders that answers need: the visible
    ones that are ready, or all visible ones when none is ready (checks must not empty a name).

    `machines` are shuffled the same way every time, so that rotation spreads a truncated reply.
    `total` counts the machines that match in any state. `in_order` is by address, then id.
    """

    __slots__ = ("_canonical", "_in_order", "_spread", "machines", "total", "visible")

    def __init__(
        self,
        visible: tuple[Machine, ...],
        total: int,
        in_order: tuple[Machine, ...] | None = None,
        *,
        choosing: bool = False,
    ) -> None:
        """*choosing*: some of *visible* may be left out as not ready."""
        self.visible, self.total = visible, total
        self.machines = _ready(visible) if choosing else visible
        mixed = self.machines is not visible
        self._in_order = _ready(in_order) if mixed and in_order is not None else in_order
        self._spread: tuple[Machine, ...] | None = None
        self._canonical: tuple[Machine, ...] | None = None

    @property
    def none_ready(self) -> bool:
        """Whether unready machines are answered, as no other is there."""
        return bool(self.machines) and not self.machines[0][6][1]

    @property
    def in_order(self) -> tuple[Machine, ...]:
        """All machines, by address, then id."""
        if self._in_order is None:
            self._in_order = tuple(sorted(self.machines, key=_ADDRESS_AND_ID))
        return self._in_order

    @property
    def canonical(self) -> tuple[Machine, ...]:
        """By address, one machine per address."""
        if self._canonical is None:
            self._canonical = _one_per_address(self.in_order)
        return self._canonical

    @property
    def spread(self) -> tuple[Machine, ...]:
        """Shuffled, one machine per address."""
        if self._spread is None and self._canonical is not None:
            shared = len(self._canonical) < len(self.machines)
            self._spread = _one_per_address(self.machines) if shared else self.machines
        elif self._spread is None:
            self._spread = _one_per_address(self.machines)
        return self._spread

    def take_as_distinct(self) -> None:
        """Do not look for machines that share an address: it is known that there are none."""
        self._spread, self._canonical = self.machines, self.in_order

    @property
    def distinct(self) -> bool:
        """Whether no two machines share an address."""
        return len(self.spread) == len(self.machines)


def _one_per_address(machines: tuple[Machine, ...]) -> tuple[Machine, ...]:
    """Drop machines that have the address of one before; usually there are none."""
    if len(set(map(_ADDRESS, machines))) == len(machines):
        return machines
    found: dict[bytes, Machine] = {}
    for machine in machines:
        found.setdefault(machine[2], machine)
    return tuple(found.values())


NO_MACHINES: Final = MachineSet((), 0, ())
NO_NAMES: Final[Mapping[bytes, MachineSet]] = {}  # one for all apps: few have names


class ById(Mapping[bytes, Machine]):
    """Machines by id, found by bisection: they are in order of id, so that no index is needed."""

    __slots__ = ("_machines",)

    def __init__(self, machines: tuple[Machine, ...]) -> None:
        self._machines = machines

    def __getitem__(self, ident: bytes) -> Machine:
        at = bisect_left(self._machines, ident, key=_ID)
        if at < len(self._machines) and self._machines[at][0] == ident:
            return self._machines[at]
        raise KeyError(ident)

    def __iter__(self) -> Iterator[bytes]:
        return map(_ID, self._machines)

    def __len__(self) -> int:
        return len(self._machines)


@dataclass(frozen=True)
class App:
    """An app of one network with its machines in order of id. Each index is built once per value:
    by `prepare`, or on first use while the app is SMALL."""

    name: bytes
    machines: tuple[Machine, ...] = ()

    @cached_property
    def started(self) -> tuple[Machine, ...]:
        """The visible machines in order of id; `machines` itself when all are."""
        found = _visible(self.machines)
        return self.machines if len(found) == len(self.machines) else tuple(found)

    @cached_property
    def listed(self) -> tuple[Machine, ...]:
        """The machines of the `all.` lists in order of id."""
        if self.started is self.machines:
            return self.machines
        found = _listed(self.machines)
        return self.machines if len(found) == len(self.machines) else tuple(found)

    @cached_property
    def whole(self) -> MachineSet:
        """All visible machines, or the ready ones of them."""
        # The sort is stable: of one address the lowest id comes first.
        shuffled = tuple(sorted(self.started, key=_scattered))
        large = len(self.machines) > SMALL
        in_order = tuple(sorted(self.started, key=_ADDRESS)) if large else None
        return MachineSet(shuffled, len(self.machines), in_order, choosing=True)

    @property
    def visible(self) -> tuple[Machine, ...]:
        """The visible machines, shuffled."""
        return self.whole.visible

    @cached_property
    def _visible_in_order(self) -> tuple[Machine, ...]:
        if not self.mixed:
            return self.whole.in_order
        return tuple(sorted(self.started, key=_ADDRESS))

    @property
    def mixed(self) -> bool:
        """Whether some visible machines are ready and some are not: then each set chooses."""
        return self.whole.machines is not self.whole.visible

    @cached_property
    def by_id(self) -> Mapping[bytes, Machine]:
        return ById(self.machines)

    def shown_by_group(self, *, every: bool) -> Mapping[bytes, tuple[Machine, ...]]:
        """The machines of `listed` or `started` by process group, in order of id."""
        return self._listed_by_group if every else self._started_by_group

    @cached_property
    def _started_by_group(self) -> Mapping[bytes, tuple[Machine, ...]]:
        return _gather((m[4], m) for m in self.started)

    @cached_property
    def _listed_by_group(self) -> Mapping[bytes, tuple[Machine, ...]]:
        if self.listed is self.started:
            return self._started_by_group
        return _gather((m[4], m) for m in self.listed)

    @cached_property
    def by_region(self) -> Mapping[bytes, MachineSet]:
        """Sets of every region that any machine has, whatever its state."""
        return self._split(_REGION)

    @cached_property
    def by_group(self) -> Mapping[bytes, MachineSet]:
        """Sets of every process group that any machine has, whatever its state."""
        return self._split(_GROUP)

    @cached_property
    def by_region_and_group(self) -> Mapping[tuple[bytes, bytes], MachineSet]:
        return self._split(_REGION_AND_GROUP)

    @property
    def regions(self) -> AbstractSet[bytes]:
        """Regions of all machines, whatever their state."""
        return self.by_region.keys()

    @property
    def groups(self) -> AbstractSet[bytes]:
        """Process groups of all machines, whatever their state."""
        return self.by_group.keys()

    def selection(self, region: bytes | None, group: bytes | None) -> MachineSet:
        """The set of one region, one group, both, or all."""
        if region is None:
            return self.whole if group is None else self.by_group.get(group, NO_MACHINES)
        if group is None or (len(self.by_group) == 1 and group in self.by_group):
            return self.by_region.get(region, NO_MACHINES)
        return self.by_region_and_group.get((region, group), NO_MACHINES)

    def _split(self, key: Callable[[Machine], K]) -> dict[K, MachineSet]:
        """Partition the machines by *key*; all of one kind are the whole set, not a copy of it."""
        totals = Counter(map(key, self.machines))
        if len(totals) == 1:
            return dict.fromkeys(totals, self.whole)
        return self._sets(totals, lambda machines: zip(map(key, machines), machines, strict=True))

    def _sets(
        self,
        totals: Mapping[K, int],
        pairs: Callable[[tuple[Machine, ...]], Iterable[tuple[K, Machine]]],
    ) -> dict[K, MachineSet]:
        """Make a set of each key. Of a large app both orders are split: nothing is sorted later."""
        shuffled = _gather(pairs(self.visible))
        large = len(self.machines) > SMALL
        in_order = _gather(pairs(self._visible_in_order)) if large else {}
        found = {
            key: MachineSet(
                shuffled.get(key, ()),
                total,
                in_order.get(key, () if large else None),
                choosing=self.mixed,
            )
            for key, total in totals.items()
        }
        # A mixed app's whole set does not know the addresses that it leaves out.
        if large and not self.mixed and self.whole.distinct:
            for one in found.values():
                one.take_as_distinct()
        return found

    @cached_property
    def by_key(self) -> Mapping[bytes, MachineSet]:
        """Sets by metadata key, lower-cased."""
        return self._sets(_totals(_keys(self.machines)), _keys)

    @cached_property
    def by_key_value(self) -> Mapping[tuple[bytes, bytes], MachineSet]:
        """Sets by metadata key and value, both lower-cased."""
        return self._sets(_totals(_keys_and_values(self.machines)), _keys_and_values)

    def regions_of(self, group: bytes | None) -> Mapping[bytes, tuple[Machine, ...]]:
        """The machines of the whole set, or of a group's, by region, each in order of address and
        id: what `nearest` orders. The sets of regions choose for themselves who is ready."""
        if self.mixed:
            return self._parts.get(group, {})
        sets = {region: self.selection(region, group) for region in self.by_region}
        return {region: found.in_order for region, found in sets.items() if found.machines}

    @cached_property
    def _parts(self) -> Mapping[bytes | None, Mapping[bytes, tuple[Machine, ...]]]:
        sets: dict[bytes | None, MachineSet] = {None: self.whole}
        sets.update(self.by_group.items())
        whole = _gather((m[3], m) for m in self.whole.in_order)
        return {
            group: whole if found is self.whole else _gather((m[3], m) for m in found.in_order)
            for group, found in sets.items()
        }

    @cached_property
    def by_name(self) -> Mapping[bytes, MachineSet]:
        """Sets by the machines' names: of all visible ones, as `<id>.vm` does not look at readiness
        either."""
        named = [m for m in self.machines if m[6][2]]
        if not named:
            return NO_NAMES
        visible = _gather((m[6][2], m) for m in self.visible if m[6][2])
        totals = Counter(m[6][2] for m in named)
        return {name: MachineSet(visible.get(name, ()), total) for name, total in totals.items()}

    @cached_property
    def by_service(self) -> Mapping[ServiceKey, tuple[Published, ...]]:
        """(name, protocol) of every service that any machine publishes, whatever its state → the
        visible machines that do, or the ready ones of them, shuffled, each with the service."""
        found: dict[ServiceKey, list[Published]] = {
            (service.name, service.protocol): [] for m in self.machines for service in m[8]
        }
        for machine in self.visible if found else ():
            for service in machine[8]:
                found[service.name, service.protocol].append((machine, service))
        return {key: self._published(some) for key, some in found.items()}

    def _published(self, some: list[Published]) -> tuple[Published, ...]:
        ready = [one for one in some if one[0][6][1]] if self.mixed else some
        return tuple(ready or some)

    def published(
        self, service: ServiceKey, region: bytes | None, group: bytes | None
    ) -> tuple[Published, ...]:
        """Return who publishes a service in one region, one group, both, or anywhere; empty also
        when there is no such service."""
        if region is None and group is None:
            return self.by_service.get(service, ())
        return self._by_narrowed_service.get((service, region, group), ())

    @cached_property
    def _by_narrowed_service(
        self,
    ) -> Mapping[tuple[ServiceKey, bytes | None, bytes | None], tuple[Published, ...]]:
        found: dict[tuple[ServiceKey, bytes | None, bytes | None], list[Published]] = {}
        for machine in self.visible:
            region, group = machine[3], machine[4]
            for service in machine[8]:
                one, key = (machine, service), (service.name, service.protocol)
                for narrowed in (key, region, None), (key, None, group), (key, region, group):
                    found.setdefault(narrowed, []).append(one)
        return {key: self._published(some) for key, some in found.items()}

    @property
    def services(self) -> AbstractSet[tuple[bytes, bytes]]:
        return self.by_service.keys()

    @cached_property
    def lists(self) -> dict[tuple[str, bytes | None, bool], Text]:
        """Text of lists of this app, each kept once it was asked for (lookup.py). No Text is longer
        than a message, so that an app keeps 64 KiB per list at most."""
        return {}

    @cached_property
    def orders(self) -> OrderedDict[tuple[bytes | None, bytes | None], Order]:
        """What `nearest` has computed: by asker's region and process group (nearest.py). At most 8
        are kept: an app is mostly asked from where it runs, and regions are few."""
        return OrderedDict()

    def keep_order(self, key: tuple[bytes | None, bytes | None], order: Order) -> None:
        """Keep what `nearest` computed; the oldest goes when there are too many."""
        self.orders[key] = order
        if len(self.orders) > _MOST_ORDERS:
            self.orders.popitem(last=False)

    def prepare(self) -> None:
        """Build the indexes, unless the app is SMALL."""
        if len(self.machines) > SMALL:
            _ = self.listed, self.by_region, self.by_group, self.by_key, self.by_key_value
            if len(self.by_group) > 1:
                _ = self.by_region_and_group, self._started_by_group, self._listed_by_group
            _ = self.by_service, self._by_narrowed_service, self.by_name
            if self.mixed:
                _ = self._parts
            for sets in (
                (self.whole,), self.by_region.values(), self.by_group.values(),
                self.by_key.values(), self.by_key_value.values(), self.by_name.values(),
                self.by_region_and_group.values() if len(self.by_group) > 1 else (),
            ):  # fmt: skip
                for one in sets:
                    if len(one.machines) > SMALL:
                        _ = one.canonical, one.spread


class Order(NamedTuple):
    """The regions of an app by distance: tie classes of machines, nearest first, each in order of
    address and id. It holds for the *latency* and *regions* that it was computed from."""

    latency: Mapping[tuple[bytes, bytes], float]
    regions: Mapping[bytes, Region]
    classes: tuple[tuple[Machine, ...], ...]


def _keys(machines: Iterable[Machine]) -> Iterator[tuple[bytes, Machine]]:
    for machine in machines:
        if machine[7]:
            for key in {key.lower() for key, _ in machine[7]}:
                yield key, machine


def _keys_and_values(machines: Iterable[Machine]) -> Iterator[tuple[tuple[bytes, bytes], Machine]]:
    for machine in machines:
        if machine[7]:
            for pair in {(key.lower(), value.lower()) for key, value in machine[7]}:
                yield pair, machine


def _totals(pairs: Iterable[tuple[K, Machine]]) -> Counter[K]:
    return Counter(key for key, _ in pairs)


def _gather(pairs: Iterable[tuple[K, Machine]]) -> dict[K, tuple[Machine, ...]]:
    """Split machines by key, order kept."""
    found: dict[K, list[Machine]] = {}
    for key, machine in pairs:
        members = found.get(key)
        if members is None:
            found[key] = [machine]
        else:
            members.append(machine)
    return {key: tuple(machines) for key, machines in found.items()}


@dataclass(frozen=True)
class Network:
    """One tenant's network. `revision` counts its own changes, not the catalog's: one tenant learns
    nothing of another by it. 0: nobody counts."""

    id: NetworkId
    prefix: bytes  # the first six octets of its addresses
    name: bytes = b""
    apps: Mapping[bytes, App] = field(default_factory=dict)
    peers: Mapping[bytes, Peer] = field(default_factory=dict)
    flycasts: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    revision: int = 0
    known: bool = True  # False: a source claims it, the catalog does not have it
    zones: frozenset[bytes] = frozenset()  # apexes of private zones, in wire form
    records: Mapping[bytes, bytes] = field(default_factory=dict)  # by owner (own.py)
    # What `amended` knows of the value before: its revision, and the parts that are others now:
    # labels of apps and flycasts, and what own.py calls parts.
    since: int = field(default=-1, compare=False)
    touched: frozenset[bytes] = field(default=frozenset(), compare=False)

    @property
    def server_address(self) -> bytes:
        """`<network>::3`."""
        return self.prefix + bytes(9) + b"\x03"

    @property
    def label(self) -> bytes:
        """What to call it: its name, else its id in decimal."""
        return self.name or (b"%d" % self.id if self.known else b"")

    @cached_property
    def peer_by_120(self) -> Mapping[bytes, Peer]:
        """Peers, hidden ones too, by the first 15 octets of their address."""
        return {peer.address[:15]: peer for _, peer in sorted(self.peers.items(), reverse=True)}

    @cached_property
    def by_address(self) -> list[Machine]:
        """All machines, whatever their state, by address. One sorted list takes 8 octets per
        machine and finds an address, a /112 and any range; a dictionary takes twelve times that."""
        return sorted(chain.from_iterable(a.machines for a in self.apps.values()), key=_ADDRESS)

    @cached_property
    def visible_by_address(self) -> list[Machine]:
        """The visible machines by address; `by_address` itself when all are."""
        found = _visible(self.by_address)
        return self.by_address if len(found) == len(self.by_address) else found

    @cached_property
    def machine_by_112(self) -> Mapping[bytes, Machine]:
        """Machines, stopped ones too, by the first 14 octets; of several a started one, then the
        lowest id."""
        return By112(self.by_address)

    @cached_property
    def others(self) -> Mapping[bytes, tuple[Labels, ...]]:
        """Answerable addresses that are not machines': visible peers', flycast addresses, and the
        server's; each with the names that own it."""
        names: dict[bytes, list[Labels]] = {self.server_address: [(b"_api", b"internal")]}
        for peer in self.peers.values():
            if peer.visible:
                names.setdefault(peer.address, []).append((peer.name, b"_peer", b"internal"))
        for label, addresses in self.flycasts.items():
            for address in addresses:
                names.setdefault(address, []).append((label, b"flycast"))
        return {address: _sorted_names(owners) for address, owners in names.items()}

    @cached_property
    def other_addresses(self) -> list[bytes]:
        """The addresses of `others`, ascending."""
        return sorted(self.others)

    @cached_property
    def owners(self) -> Mapping[bytes, tuple[Labels, ...]]:
        """Reverse mapping: each answerable address to the names that own it, in canonical order."""
        return Owners(self.visible_by_address, self.others)

    def owns_between(self, low: bytes, high: bytes) -> bool:
        """Whether an answerable address lies in low..high."""
        machines, others = self.visible_by_address, self.other_addresses
        at = bisect_left(machines, low, key=_ADDRESS)
        if at < len(machines) and machines[at][2] <= high:
            return True
        at = bisect_left(others, low)
        return at < len(others) and others[at] <= high

    @cached_property
    def below(self) -> Mapping[bytes, int]:
        """How many owners of records and apexes of zones are below each name that is above one:
        names that exist for what is below them."""
        return counted_below((*self.records, *self.zones))

    @cached_property
    def peer_names(self) -> tuple[bytes, ...]:
        """The visible peers, in order."""
        return tuple(sorted(peer.name for peer in self.peers.values() if peer.visible))

    @cached_property
    def roll(self) -> Roll:
        """The apps in order, with how many machines each adds to the lists."""
        shown = len(self.visible_by_address)
        names = sorted(self.apps)
        sizes = [len(self.apps[name].machines) for name in names]
        started = listed = sizes
        if shown < len(self.by_address):
            lacking = Counter(m[1] for m in self.by_address if m[5] != STARTED or m[6][0])
            started = [size - lacking[name] for name, size in zip(names, sizes, strict=True)]
            lacking = Counter(m[1] for m in self.by_address if m[5] == DESTROYED or m[6][0])
            listed = [size - lacking[name] for name, size in zip(names, sizes, strict=True)]
        return Roll.of(names, started, listed)

    @cached_property
    def lists(self) -> dict[str, Text]:
        """Text of the lists of apps and peers, kept once asked for (lookup.py)."""
        return {}


class Roll(NamedTuple):
    """The apps of a network in order, and how many machines of the lists stand before each: of
    `_instances` (`started`) and of `all._instances` (`listed`). Both end with the total."""

    names: list[bytes]
    started: array[int]
    listed: array[int]

    @classmethod
    def of(cls, names: list[bytes], started: Iterable[int], listed: Iterable[int]) -> Roll:
        before = (array("L", accumulate(counts, initial=0)) for counts in (started, listed))
        return cls(names, *before)

    def before(self, *, every: bool) -> array[int]:
        return self.listed if every else self.started


class By112(Mapping[bytes, Machine]):
    """Machines by the first 14 octets of their address, found by bisection."""

    __slots__ = ("_machines",)

    def __init__(self, machines: list[Machine]) -> None:
        self._machines = machines

    def __getitem__(self, start: bytes) -> Machine:
        at = bisect_left(self._machines, start, key=_ADDRESS)
        end = at
        # Mostly one: a machine owns its /112, and shares it only by mistake.
        while end < len(self._machines) and self._machines[end][2].startswith(start):
            end += 1
        if at == end:
            raise KeyError(start)
        return min(self._machines[at:end], key=_rank)

    def __iter__(self) -> Iterator[bytes]:
        return iter(dict.fromkeys(machine.address[:14] for machine in self._machines))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Owners(Mapping[bytes, tuple[Labels, ...]]):
    """The names that own each answerable address, from machines in order of address and a
    dictionary of the rest."""

    __slots__ = ("_machines", "_others")

    def __init__(self, machines: list[Machine], others: Mapping[bytes, tuple[Labels, ...]]) -> None:
        self._machines, self._others = machines, others

    def __getitem__(self, address: bytes) -> tuple[Labels, ...]:
        found: list[Labels] = []
        at = bisect_left(self._machines, address, key=_ADDRESS)
        while at < len(self._machines) and self._machines[at][2] == address:
            found.append((self._machines[at][0], b"vm", self._machines[at][1], b"internal"))
            at += 1
        others = self._others.get(address, ())
        if not found and not others:
            raise KeyError(address)
        return _sorted_names((*found, *others)) if found else others

    def __iter__(self) -> Iterator[bytes]:
        return iter(dict.fromkeys((*map(_ADDRESS, self._machines), *self._others)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def prepare(network: Network, since: Network | None = None) -> Network:
    """Build the indexes of *network* and return it: called by the thread that loads, so that no
    question waits for one. Apps that *since* has too are prepared already."""
    _ = network.machine_by_112, network.owners, network.other_addresses, network.peer_by_120
    _ = network.roll, network.peer_names, network.below
    for label in network.apps if since is None else network.touched & network.apps.keys():
        app = network.apps[label]
        if len(app.machines) > SMALL:
            app.prepare()
    return network


def _sorted_names(owners: Iterable[Labels]) -> tuple[Labels, ...]:
    return tuple(sorted(set(owners), key=wire))  # canonical order, RFC 4034 section 6.3


def amended(
    old: Network,
    name: bytes,
    apps: Mapping[bytes, App | None],
    peers: Mapping[bytes, Peer] | None,
    flycasts: Mapping[bytes, tuple[bytes, ...]],
    revision: int,
    zones: frozenset[bytes] | None = None,
    records: Mapping[bytes, bytes] | None = None,
) -> Network:
    """Return *old* with some parts replaced: None, an empty tuple or an empty string is gone, None
    for all peers or zones is as they were. With *zones*, *records* are all there are.

    Indexes that *old* has built are carried over and amended: a change costs what changed, not what
    is there.
    """
    same = (
        name == old.name
        and all(old.apps.get(label) is app for label, app in apps.items())
        and peers in (None, old.peers)
        and all(old.flycasts.get(label, ()) == found for label, found in flycasts.items())
        and zones in (None, old.zones)
        and all(old.records.get(owner, b"") == sets for owner, sets in (records or {}).items())
        and (zones is None or old.records == records)
    )
    if same and old.known:
        return old
    apps = {label: app and _sharing(app, old.apps.get(label)) for label, app in apps.items()}
    kept_apps = dict(
        old.apps
    )  # a copy in C: a network may have ten thousand apps, and a hundred commits a second
    for label, app in apps.items():
        if app is None:
            kept_apps.pop(label, None)
        else:
            kept_apps[label] = app
    kept_flycasts = {label: found for label, found in {**old.flycasts, **flycasts}.items() if found}
    own = old.records
    if records is not None:
        own = records if zones is not None else _amended_records(old.records, records)
    owners = frozenset(records or ()) | (frozenset() if zones is None else old.records.keys())
    own_zones = old.zones if zones is None else zones
    parts = changed_parts((old.records, old.zones), (own, own_zones), owners)
    made = Network(
        old.id,
        old.prefix,
        name,
        kept_apps,
        old.peers if peers is None else peers,
        kept_flycasts,
        revision,
        zones=own_zones,
        records=own,
        since=old.revision if old.known else -1,
        touched=frozenset(apps) | frozenset(flycasts) | frozenset(parts),
    )
    _carry(old, made, apps)
    if zones is None and "below" in old.__dict__:
        made.__dict__["below"] = _amended_below(old, made, owners)
    if peers is None:
        _share(old, made, "peer_by_120", "peer_names")
        if not flycasts:
            _share(old, made, "others", "other_addresses")
    return prepare(made, since=old) if "roll" in old.__dict__ else made


def _amended_records(
    old: Mapping[bytes, bytes], records: Mapping[bytes, bytes]
) -> Mapping[bytes, bytes]:
    kept = dict(old)
    for owner, sets in records.items():
        if sets:
            kept[owner] = sets
        else:
            kept.pop(owner, None)
    return kept


def _amended_below(old: Network, made: Network, owners: Iterable[bytes]) -> Mapping[bytes, int]:
    """Return `below` of *made*, which has the zones of *old*, and other records of *owners* only."""
    come = [owner for owner in owners if owner in made.records and owner not in old.records]
    gone = [owner for owner in owners if owner in old.records and owner not in made.records]
    if not come and not gone:
        return old.below
    below = dict(old.below)
    for owner in come:
        names_above(owner, below, 1)
    for owner in gone:
        names_above(owner, below, -1)
    return below


def _sharing(app: App, old: App | None) -> App:
    """Return *app* with the machines of *old* that equal its own: one value is kept of each."""
    if old is None or old is app:
        return app
    known = {machine: machine for machine in old.machines}
    return App(app.name, tuple([known.get(machine, machine) for machine in app.machines]))


def _share(old: Network, made: Network, *indexes: str) -> None:
    """Take over indexes that *old* has built."""
    for index in indexes:
        if index in old.__dict__:
            made.__dict__[index] = old.__dict__[index]


_FEW: Final = 64  # changed machines that are put into a sorted list one by one


def _carry(old: Network, made: Network, apps: Mapping[bytes, App | None]) -> None:
    """Amend the lists by address and the roll of *old*, if it has them."""
    if "roll" not in old.__dict__:
        return
    before = {m for label in apps if label in old.apps for m in old.apps[label].machines}
    after = {m for app in apps.values() if app is not None for m in app.machines}
    gone, come = [*before - after], [*after - before]
    index = _amended(old.by_address, gone, come)
    made.__dict__["by_address"] = index
    if old.visible_by_address is old.by_address and len(_visible(come)) == len(come):
        made.__dict__["visible_by_address"] = index
    else:
        made.__dict__["visible_by_address"] = _amended(
            old.visible_by_address, _visible(gone), _visible(come)
        )
    made.__dict__["roll"] = _amended_roll(old.roll, apps)


def _amended(index: list[Machine], gone: list[Machine], come: list[Machine]) -> list[Machine]:
    """Return *index*, sorted by address, without the machines *gone* and with those that have
    *come*."""
    if len(gone) + len(come) > _FEW:
        left = Counter(gone)
        kept = []
        for machine in index:
            if left and left.get(machine):
                left[machine] -= 1
            else:
                kept.append(machine)
        kept += come
        kept.sort(key=_ADDRESS)  # two runs: the sort only merges
        return kept
    found = index.copy()
    for machine in gone:
        at = bisect_left(found, machine[2], key=_ADDRESS)
        while found[at] != machine:
            at += 1
        del found[at]
    for machine in come:
        insort(found, machine, key=_ADDRESS)
    return found


def _amended_roll(roll: Roll, apps: Mapping[bytes, App | None]) -> Roll:
    names = roll.names
    started, listed = (
        [after - before for before, after in pairwise(counts)]
        for counts in (roll.started, roll.listed)
    )
    for label, app in apps.items():
        at = bisect_left(names, label)
        there = at < len(names) and names[at] == label
        if there != (app is not None):
            if names is roll.names:
                names = names.copy()
            if there:
                del names[at], started[at], listed[at]
            else:
                names.insert(at, label)
                started.insert(at, 0)
                listed.insert(at, 0)
        if app is not None:
            started[at], listed[at] = len(_visible(app.machines)), len(_listed(app.machines))
    return Roll.of(names, started, listed)


def _rank(machine: Machine) -> tuple[bool, bytes, bytes]:
    return machine.state != STARTED, machine.id, machine.app


class Region(NamedTuple):
    """Coordinates in degrees, None when unknown."""

    latitude: float | None
    longitude: float | None


@dataclass(frozen=True)
class Catalog:
    """Everything the server answers from, as of one commit."""

    networks: Mapping[NetworkId, Network] = field(default_factory=dict)
    regions: Mapping[bytes, Region] = field(default_factory=dict)
    latency: Mapping[tuple[bytes, bytes], float] = field(default_factory=dict)
    hosts: Mapping[int, bytes] = field(default_factory=dict)
    revision: int = 0

    def cost(self, here: bytes | None, there: bytes) -> float | None:
        """How far region *there* is from *here*, in ms: measured, else great-circle km / 100, None
        if unknown."""
        if here is None:
            return None
        measured = self.latency.get((here, there), self.latency.get((there, here)))
        if measured is not None:
            return measured
        if here == there:
            return 0.0
        kilometres = _great_circle(self.regions.get(here), self.regions.get(there))
        return None if kilometres is None else kilometres / 100


def _great_circle(a: Region | None, b: Region | None) -> float | None:
    """The haversine distance in km, None unless both ends have coordinates."""
    if a is None or b is None or None in a or None in b:
        return None
    assert a.latitude is not None and a.longitude is not None  # noqa: PT018 - for the type checker
    assert b.latitude is not None and b.longitude is not None  # noqa: PT018
    north = sin(radians(b.latitude - a.latitude) / 2) ** 2
    east = sin(radians(b.longitude - a.longitude) / 2) ** 2
    h = north + cos(radians(a.latitude)) * cos(radians(b.latitude)) * east
    return 2 * _EARTH_KM * asin(min(1.0, sqrt(h)))


def changed(old: Catalog, new: Catalog) -> Iterator[tuple[NetworkId, frozenset[bytes] | None]]:
    """Yield each network that differs, with the app and flycast labels that do; None: all of them.

    Equal parts of two catalogs are the same objects (store/sqlite.py), so this compares identities.
    A change of places (regions, latency, hosts) may concern every name of every network.
    """
    places = (old.regions, old.latency, old.hosts) != (new.regions, new.latency, new.hosts)
    for number in old.networks.keys() | new.networks.keys():
        before, after = old.networks.get(number), new.networks.get(number)
        if places or before is None or after is None:
            yield number, None
        elif before is not after and after.since == before.revision:
            yield (
                number,
                after.touched,
            )  # found without a walk over ten thousand apps that are the same
        elif before is not after:
            apps = {
                a
                for a in before.apps.keys() | after.apps.keys()
                if before.apps.get(a) is not after.apps.get(a)
            }
            flycasts = {a for a, _ in before.flycasts.items() ^ after.flycasts.items()}
            yield number, frozenset(apps | flycasts).union(changed_own(before, after))


def changed_own(before: Network, after: Network) -> Iterator[bytes]:
    """Yield the parts of records and zones that differ."""
    return changed_parts(
        (before.records, before.zones),
        (after.records, after.zones),
        chain(before.records, after.records),
    )
