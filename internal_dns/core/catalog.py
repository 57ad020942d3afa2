"""The catalog in memory: immutable values, and the indexes that answer queries.

A Catalog never changes. Each commit makes a new one that shares every unchanged App and Network
with the old. Indexes are built on first use or by `prepare`. Names are lower-cased octets, as on
the wire; addresses have 16 octets.

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
    """Attributes that few machines set.

    All machines with the defaults share one object, so a million of them take no extra memory.
    """

    skip_registration: bool = False
    ready: bool = True
    name: bytes = b""  # empty: none


# The marks without a name, by (skip_registration, ready).
MARKS: Final = {
    (skip, ready): Marks(skip, ready) for skip in (False, True) for ready in (False, True)
}
NO_MARKS: Final = MARKS[False, True]


class Machine(NamedTuple):
    """One machine.

    A tuple, not a dataclass: there may be a million, and a tuple is made four times as fast.
    """

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
        """Whether the machine should get traffic; ignored in sets without a ready machine."""
        return self.marks.ready

    @property
    def name(self) -> bytes:
        return self.marks.name

    @property
    def visible(self) -> bool:
        return self.state == STARTED and not self.skip_registration

    @property
    def listed(self) -> bool:
        """Whether the `all.` lists show the machine."""
        return self.state != DESTROYED and not self.skip_registration


ServiceKey = tuple[bytes, bytes]  # name, protocol
PublishedService = tuple[Machine, Service]


class Peer(NamedTuple):
    """A WireGuard peer; an empty `region` means that of its host."""

    name: bytes
    address: bytes
    region: bytes
    visible: bool


# The indexes of an app this small are built on first use, in 0.2 ms at most; those of larger apps
# by `prepare`. Most apps have few machines, and a dictionary for each of 300,000 apps would take
# more memory than the machines themselves.
SMALL: Final = 200
_MOST_ORDERS: Final = 8  # see App.orders

_ID: Final = itemgetter(0)
_ADDRESS: Final = itemgetter(2)
_REGION: Final = itemgetter(3)
_GROUP: Final = itemgetter(4)
_REGION_AND_GROUP: Final = itemgetter(3, 4)
_ADDRESS_AND_ID: Final = itemgetter(2, 0)


def _scattered(machine: Machine) -> int:
    """A sort key that moves neighbors apart: Fibonacci hashing, the golden ratio as 128 bits."""
    return int.from_bytes(machine[2], "big") * 0x9E3779B97F4A7C15F39CC0605CEDC835 & _128_BITS


_128_BITS: Final = (1 << 128) - 1


def _visible(machines: Iterable[Machine]) -> list[Machine]:
    """Filter by `Machine.visible`; fields by position, which is twice as fast."""
    return [m for m in machines if m[5] == STARTED and not m[6][0]]


def _listed(machines: Iterable[Machine]) -> list[Machine]:
    return [m for m in machines if m[5] != DESTROYED and not m[6][0]]


def _ready(machines: tuple[Machine, ...]) -> tuple[Machine, ...]:
    """Return the ready machines, or all when none is ready: then *machines* itself."""
    ready = tuple([m for m in machines if m[6][1]])
    return machines if len(ready) in (0, len(machines)) else ready


class MachineSet:
    """The machines in the answer at an address name, in the two orders that answers need.

    These are the ready machines among the visible ones, or all visible ones when none is ready: a
    failed check must not empty a name. The shuffle of `machines` is always the same, so that
    rotation spreads truncated replies. `total` counts the matching machines in any state.
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
        """*choosing*: leave out the machines of *visible* that are not ready."""
        self.visible, self.total = visible, total
        self.machines = _ready(visible) if choosing else visible
        mixed = self.machines is not visible
        self._in_order = _ready(in_order) if mixed and in_order is not None else in_order
        self._spread: tuple[Machine, ...] | None = None
        self._canonical: tuple[Machine, ...] | None = None

    @property
    def none_ready(self) -> bool:
        """Whether no machine is ready, so that the answer has unready ones."""
        return bool(self.machines) and not self.machines[0][6][1]

    @property
    def in_order(self) -> tuple[Machine, ...]:
        """All machines, by address, then id."""
        if self._in_order is None:
            self._in_order = tuple(sorted(self.machines, key=_ADDRESS_AND_ID))
        return self._in_order

    @property
    def canonical(self) -> tuple[Machine, ...]:
        """One machine per address, by address."""
        if self._canonical is None:
            self._canonical = _one_per_address(self.in_order)
        return self._canonical

    @property
    def spread(self) -> tuple[Machine, ...]:
        """One machine per address, shuffled."""
        if self._spread is None and self._canonical is not None:
            shared = len(self._canonical) < len(self.machines)
            self._spread = _one_per_address(self.machines) if shared else self.machines
        elif self._spread is None:
            self._spread = _one_per_address(self.machines)
        return self._spread

    def mark_distinct(self) -> None:
        """Record that no two machines share an address, which saves the check."""
        self._spread, self._canonical = self.machines, self.in_order

    @property
    def distinct(self) -> bool:
        """Whether no two machines share an address."""
        return len(self.spread) == len(self.machines)


def _one_per_address(machines: tuple[Machine, ...]) -> tuple[Machine, ...]:
    """Drop machines that share the address of an earlier one; usually there are none."""
    if len(set(map(_ADDRESS, machines))) == len(machines):
        return machines
    first: dict[bytes, Machine] = {}
    for machine in machines:
        first.setdefault(machine[2], machine)
    return tuple(first.values())


NO_MACHINES: Final = MachineSet((), 0, ())
NO_NAMES: Final[Mapping[bytes, MachineSet]] = {}  # shared: few apps have named machines


class ById(Mapping[bytes, Machine]):
    """Machines by id. They are sorted by id, so bisection replaces an index."""

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
    """An app of one network, with its machines in order of id.

    Each index is built once per value: on first use if the app is SMALL, else by `prepare`.
    """

    name: bytes
    machines: tuple[Machine, ...] = ()

    @cached_property
    def started(self) -> tuple[Machine, ...]:
        """The visible machines in order of id; `machines` itself when all are."""
        visible = _visible(self.machines)
        return self.machines if len(visible) == len(self.machines) else tuple(visible)

    @cached_property
    def listed(self) -> tuple[Machine, ...]:
        """The machines of the `all.` lists in order of id."""
        if self.started is self.machines:
            return self.machines
        listed = _listed(self.machines)
        return self.machines if len(listed) == len(self.machines) else tuple(listed)

    @cached_property
    def whole(self) -> MachineSet:
        """The ready machines among the visible ones, or all visible ones when none is ready."""
        # The sort is stable: among machines of one address the lowest id comes first.
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
        """Whether some visible machines are ready and some are not."""
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
        """The set of each region that a machine in any state is in."""
        return self._split(_REGION)

    @cached_property
    def by_group(self) -> Mapping[bytes, MachineSet]:
        """The set of each process group that a machine in any state is in."""
        return self._split(_GROUP)

    @cached_property
    def by_region_and_group(self) -> Mapping[tuple[bytes, bytes], MachineSet]:
        return self._split(_REGION_AND_GROUP)

    @property
    def regions(self) -> AbstractSet[bytes]:
        """The regions of all machines in any state."""
        return self.by_region.keys()

    @property
    def groups(self) -> AbstractSet[bytes]:
        """The process groups of all machines in any state."""
        return self.by_group.keys()

    def selection(self, region: bytes | None, group: bytes | None) -> MachineSet:
        """Return the set of a region, of a process group, of both, or of the whole app."""
        if region is None:
            return self.whole if group is None else self.by_group.get(group, NO_MACHINES)
        if group is None or (len(self.by_group) == 1 and group in self.by_group):
            return self.by_region.get(region, NO_MACHINES)
        return self.by_region_and_group.get((region, group), NO_MACHINES)

    def _split(self, key: Callable[[Machine], K]) -> dict[K, MachineSet]:
        """Partition the machines by *key*; a single part is the whole set, not a copy of it."""
        totals = Counter(map(key, self.machines))
        if len(totals) == 1:
            return dict.fromkeys(totals, self.whole)
        return self._sets(totals, lambda machines: zip(map(key, machines), machines, strict=True))

    def _sets(
        self,
        totals: Mapping[K, int],
        pairs: Callable[[tuple[Machine, ...]], Iterable[tuple[K, Machine]]],
    ) -> dict[K, MachineSet]:
        """Make the set of each key. In a large app both orders are split, so no set sorts later."""
        shuffled = _gather(pairs(self.visible))
        large = len(self.machines) > SMALL
        in_order = _gather(pairs(self._visible_in_order)) if large else {}
        sets = {
            key: MachineSet(
                shuffled.get(key, ()),
                total,
                in_order.get(key, () if large else None),
                choosing=self.mixed,
            )
            for key, total in totals.items()
        }
        # The whole set of a mixed app leaves out unready machines: their addresses are unchecked.
        if large and not self.mixed and self.whole.distinct:
            for one in sets.values():
                one.mark_distinct()
        return sets

    @cached_property
    def by_key(self) -> Mapping[bytes, MachineSet]:
        """The set of each metadata key, lower-cased."""
        return self._sets(_totals(_keys(self.machines)), _keys)

    @cached_property
    def by_key_value(self) -> Mapping[tuple[bytes, bytes], MachineSet]:
        """The set of each pair of metadata key and value, both lower-cased."""
        return self._sets(_totals(_keys_and_values(self.machines)), _keys_and_values)

    def regions_of(self, group: bytes | None) -> Mapping[bytes, tuple[Machine, ...]]:
        """Return the machines of the app or of a process group by region, for `nearest`.

        Each region's are in order of address and id. A mixed app cannot use the sets of regions:
        each of those decides on its own whether to leave out unready machines.
        """
        if self.mixed:
            return self._parts.get(group, {})
        sets = {region: self.selection(region, group) for region in self.by_region}
        return {region: one.in_order for region, one in sets.items() if one.machines}

    @cached_property
    def _parts(self) -> Mapping[bytes | None, Mapping[bytes, tuple[Machine, ...]]]:
        sets: dict[bytes | None, MachineSet] = {None: self.whole}
        sets.update(self.by_group.items())
        whole = _gather((m[3], m) for m in self.whole.in_order)
        return {
            group: whole if one is self.whole else _gather((m[3], m) for m in one.in_order)
            for group, one in sets.items()
        }

    @cached_property
    def by_name(self) -> Mapping[bytes, MachineSet]:
        """The set of each machine name: all visible machines, ready or not, as at `<id>.vm`."""
        named = [m for m in self.machines if m[6][2]]
        if not named:
            return NO_NAMES
        visible = _gather((m[6][2], m) for m in self.visible if m[6][2])
        totals = Counter(m[6][2] for m in named)
        return {name: MachineSet(visible.get(name, ()), total) for name, total in totals.items()}

    @cached_property
    def by_service(self) -> Mapping[ServiceKey, tuple[PublishedService, ...]]:
        """The machines that publish each (name, protocol), shuffled, each with its service.

        These are the ready machines, or all visible ones when none is ready. A service that only
        stopped machines publish has an empty entry.
        """
        by_key: dict[ServiceKey, list[PublishedService]] = {
            (service.name, service.protocol): [] for m in self.machines for service in m[8]
        }
        for machine in self.visible if by_key else ():
            for service in machine[8]:
                by_key[service.name, service.protocol].append((machine, service))
        return {key: self._published(visible) for key, visible in by_key.items()}

    def _published(self, visible: list[PublishedService]) -> tuple[PublishedService, ...]:
        ready = [one for one in visible if one[0][6][1]] if self.mixed else visible
        return tuple(ready or visible)

    def published(
        self, service: ServiceKey, region: bytes | None, group: bytes | None
    ) -> tuple[PublishedService, ...]:
        """Return who publishes *service* in a region, a process group, both, or the whole app.

        Empty also when there is no such service.
        """
        if region is None and group is None:
            return self.by_service.get(service, ())
        return self._by_narrowed_service.get((service, region, group), ())

    @cached_property
    def _by_narrowed_service(
        self,
    ) -> Mapping[tuple[ServiceKey, bytes | None, bytes | None], tuple[PublishedService, ...]]:
        by_key: dict[tuple[ServiceKey, bytes | None, bytes | None], list[PublishedService]] = {}
        for machine in self.visible:
            region, group = machine[3], machine[4]
            for service in machine[8]:
                one, key = (machine, service), (service.name, service.protocol)
                for narrowed in (key, region, None), (key, None, group), (key, region, group):
                    by_key.setdefault(narrowed, []).append(one)
        return {key: self._published(visible) for key, visible in by_key.items()}

    @property
    def services(self) -> AbstractSet[tuple[bytes, bytes]]:
        return self.by_service.keys()

    @cached_property
    def lists(self) -> dict[tuple[str, bytes | None, bool], Text]:
        """The encoded lists of this app, each from its first query on (lookup.py).

        A Text is little longer than the largest message, so a list takes some 64 KiB.
        """
        return {}

    @cached_property
    def orders(self) -> OrderedDict[tuple[bytes | None, bytes | None], Order]:
        """The orders by distance, by the requester's region and process group (nearest.py).

        At most 8 are stored: most queries come from the few regions where the app runs.
        """
        return OrderedDict()

    def store_order(self, key: tuple[bytes | None, bytes | None], order: Order) -> None:
        """Store what `nearest` computed, and evict the oldest order when there are too many."""
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
    """The machines of an app by distance of their regions: tie classes, nearest first.

    Each class is in order of address and id. Valid for the `latency` and `regions` given here.
    """

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
    """Group machines by key and preserve their order."""
    groups: dict[K, list[Machine]] = {}
    for key, machine in pairs:
        members = groups.get(key)
        if members is None:
            groups[key] = [machine]
        else:
            members.append(machine)
    return {key: tuple(machines) for key, machines in groups.items()}


@dataclass(frozen=True)
class Network:
    """One tenant's network.

    `revision` counts the changes of this network, not of the catalog: it reveals nothing about
    other tenants. 0: changes are not counted.
    """

    id: NetworkId
    prefix: bytes  # the first six octets of its addresses
    name: bytes = b""
    apps: Mapping[bytes, App] = field(default_factory=dict)
    peers: Mapping[bytes, Peer] = field(default_factory=dict)
    flycasts: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    revision: int = 0
    known: bool = True  # False: a source address belongs to it, but the catalog does not have it
    zones: frozenset[bytes] = frozenset()  # apexes of private zones, in wire form
    records: Mapping[bytes, bytes] = field(default_factory=dict)  # by owner (own.py)
    # Set by `amended`: the revision of the old value, and the parts that differ from it: labels of
    # apps and flycasts, and what own.py calls parts.
    since: int = field(default=-1, compare=False)
    touched: frozenset[bytes] = field(default=frozenset(), compare=False)

    @property
    def server_address(self) -> bytes:
        """`<network>::3`."""
        return self.prefix + bytes(9) + b"\x03"

    @property
    def label(self) -> bytes:
        """The name of the network, else its id in decimal."""
        return self.name or (b"%d" % self.id if self.known else b"")

    @cached_property
    def peer_by_120(self) -> Mapping[bytes, Peer]:
        """All peers, including hidden ones, by the first 15 octets of their address."""
        return {peer.address[:15]: peer for _, peer in sorted(self.peers.items(), reverse=True)}

    @cached_property
    def by_address(self) -> list[Machine]:
        """All machines in any state, by address.

        A sorted list takes 8 octets per machine and finds an address, a /112 and any range; a
        dictionary takes twelve times as much.
        """
        return sorted(chain.from_iterable(a.machines for a in self.apps.values()), key=_ADDRESS)

    @cached_property
    def visible_by_address(self) -> list[Machine]:
        """The visible machines by address; `by_address` itself when all are."""
        visible = _visible(self.by_address)
        return self.by_address if len(visible) == len(self.by_address) else visible

    @cached_property
    def machine_by_112(self) -> Mapping[bytes, Machine]:
        """The machine of each /112, in any state: a started one first, then the lowest id."""
        return By112(self.by_address)

    @cached_property
    def others(self) -> Mapping[bytes, tuple[Labels, ...]]:
        """The addresses of visible peers, flycasts and the server, each with the owner names."""
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
        """The owner names of each answerable address, in canonical order, for reverse lookups."""
        return Owners(self.visible_by_address, self.others)

    def owns_between(self, low: bytes, high: bytes) -> bool:
        """Whether an answerable address lies between *low* and *high*, inclusive."""
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
        """The names of the visible peers, sorted."""
        return tuple(sorted(peer.name for peer in self.peers.values() if peer.visible))

    @cached_property
    def app_index(self) -> AppIndex:
        """The apps in order, with the position of each in the lists of machines."""
        shown = len(self.visible_by_address)
        names = sorted(self.apps)
        sizes = [len(self.apps[name].machines) for name in names]
        started = listed = sizes
        if shown < len(self.by_address):
            lacking = Counter(m[1] for m in self.by_address if m[5] != STARTED or m[6][0])
            started = [size - lacking[name] for name, size in zip(names, sizes, strict=True)]
            lacking = Counter(m[1] for m in self.by_address if m[5] == DESTROYED or m[6][0])
            listed = [size - lacking[name] for name, size in zip(names, sizes, strict=True)]
        return AppIndex.of(names, started, listed)

    @cached_property
    def lists(self) -> dict[str, Text]:
        """The encoded lists of apps and peers, each from its first query on (lookup.py)."""
        return {}


class AppIndex(NamedTuple):
    """The apps of a network in order, and how many listed machines precede each.

    `started` counts those of `_instances`, `listed` those of `all._instances`. Both end with the
    total.
    """

    names: list[bytes]
    started: array[int]
    listed: array[int]

    @classmethod
    def of(cls, names: list[bytes], started: Iterable[int], listed: Iterable[int]) -> AppIndex:
        before = (array("L", accumulate(counts, initial=0)) for counts in (started, listed))
        return cls(names, *before)

    def before(self, *, every: bool) -> array[int]:
        return self.listed if every else self.started


class By112(Mapping[bytes, Machine]):
    """Machines by the first 14 octets of their address; bisection replaces an index."""

    __slots__ = ("_machines",)

    def __init__(self, machines: list[Machine]) -> None:
        self._machines = machines

    def __getitem__(self, start: bytes) -> Machine:
        at = bisect_left(self._machines, start, key=_ADDRESS)
        end = at
        # Usually one: a machine owns its /112 and shares it only by mistake.
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
    """The owner names of each answerable address.

    Machines are found in a list sorted by address, all other owners in a dictionary.
    """

    __slots__ = ("_machines", "_others")

    def __init__(self, machines: list[Machine], others: Mapping[bytes, tuple[Labels, ...]]) -> None:
        self._machines, self._others = machines, others

    def __getitem__(self, address: bytes) -> tuple[Labels, ...]:
        owners: list[Labels] = []
        at = bisect_left(self._machines, address, key=_ADDRESS)
        while at < len(self._machines) and self._machines[at][2] == address:
            owners.append((self._machines[at][0], b"vm", self._machines[at][1], b"internal"))
            at += 1
        others = self._others.get(address, ())
        if not owners and not others:
            raise KeyError(address)
        return _sorted_names((*owners, *others)) if owners else others

    def __iter__(self) -> Iterator[bytes]:
        return iter(dict.fromkeys((*map(_ADDRESS, self._machines), *self._others)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def prepare(network: Network, since: Network | None = None) -> Network:
    """Build the indexes of *network* and return it.

    The loading thread calls this, so that no query waits for an index. Apps that *since* has too
    are already prepared.
    """
    _ = network.machine_by_112, network.owners, network.other_addresses, network.peer_by_120
    _ = network.app_index, network.peer_names, network.below
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
    """Return *old* with some parts replaced.

    An app of None, a flycast without addresses and an owner without records are deleted; *peers* of
    None leaves the peers unchanged, *zones* of None the zones. With *zones*, *records* are all that
    there are. Indexes that *old* has built are carried over and amended, so the cost depends on the
    size of the change, not of the network.
    """
    same = (
        name == old.name
        and all(old.apps.get(label) is app for label, app in apps.items())
        and peers in (None, old.peers)
        and all(old.flycasts.get(label, ()) == given for label, given in flycasts.items())
        and zones in (None, old.zones)
        and all(old.records.get(owner, b"") == sets for owner, sets in (records or {}).items())
        and (zones is None or old.records == records)
    )
    if same and old.known:
        return old
    apps = {label: app and _sharing(app, old.apps.get(label)) for label, app in apps.items()}
    # dict() copies in C: a network may have ten thousand apps and a hundred commits per second.
    new_apps = dict(old.apps)
    for label, app in apps.items():
        if app is None:
            new_apps.pop(label, None)
        else:
            new_apps[label] = app
    all_flycasts = {**old.flycasts, **flycasts}
    own = old.records
    if records is not None:
        own = records if zones is not None else _amended_records(old.records, records)
    owners = frozenset(records or ()) | (frozenset() if zones is None else old.records.keys())
    own_zones = old.zones if zones is None else zones
    parts = changed_parts((old.records, old.zones), (own, own_zones), owners)
    new = Network(
        old.id,
        old.prefix,
        name,
        new_apps,
        old.peers if peers is None else peers,
        {label: given for label, given in all_flycasts.items() if given},
        revision,
        zones=own_zones,
        records=own,
        since=old.revision if old.known else -1,
        touched=frozenset(apps) | frozenset(flycasts) | frozenset(parts),
    )
    _carry(old, new, apps)
    if zones is None and "below" in old.__dict__:
        new.__dict__["below"] = _amended_below(old, new, owners)
    if peers is None:
        _share(old, new, "peer_by_120", "peer_names")
        if not flycasts:
            _share(old, new, "others", "other_addresses")
    return prepare(new, since=old) if "app_index" in old.__dict__ else new


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
    """Return `below` of *made*, which has the zones of *old*, and other records of *owners*
    only."""
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
    """Return *app* with each machine that equals one of *old* replaced by that same object."""
    if old is None or old is app:
        return app
    known = {machine: machine for machine in old.machines}
    return App(app.name, tuple([known.get(machine, machine) for machine in app.machines]))


def _share(old: Network, new: Network, *indexes: str) -> None:
    """Give *new* the indexes that *old* has built."""
    for index in indexes:
        if index in old.__dict__:
            new.__dict__[index] = old.__dict__[index]


_FEW: Final = 64  # up to so many changes a sorted list is amended one machine at a time


def _carry(old: Network, new: Network, apps: Mapping[bytes, App | None]) -> None:
    """Give *new* the lists by address and the app index of *old*, amended, if *old* has them."""
    if "app_index" not in old.__dict__:
        return
    before = {m for label in apps if label in old.apps for m in old.apps[label].machines}
    after = {m for app in apps.values() if app is not None for m in app.machines}
    removed, added = [*before - after], [*after - before]
    index = _amended(old.by_address, removed, added)
    new.__dict__["by_address"] = index
    if old.visible_by_address is old.by_address and len(_visible(added)) == len(added):
        new.__dict__["visible_by_address"] = index
    else:
        new.__dict__["visible_by_address"] = _amended(
            old.visible_by_address, _visible(removed), _visible(added)
        )
    new.__dict__["app_index"] = _amended_app_index(old.app_index, apps)


def _amended(index: list[Machine], removed: list[Machine], added: list[Machine]) -> list[Machine]:
    """Return a copy of *index*, sorted by address, without *removed* and with *added*."""
    if len(removed) + len(added) > _FEW:
        left = Counter(removed)
        amended = []
        for machine in index:
            if left and left.get(machine):
                left[machine] -= 1
            else:
                amended.append(machine)
        amended += added
        amended.sort(key=_ADDRESS)  # nearly sorted: the sort only merges runs
        return amended
    amended = index.copy()
    for machine in removed:
        at = bisect_left(amended, machine[2], key=_ADDRESS)
        while amended[at] != machine:
            at += 1
        del amended[at]
    for machine in added:
        insort(amended, machine, key=_ADDRESS)
    return amended


def _amended_app_index(app_index: AppIndex, apps: Mapping[bytes, App | None]) -> AppIndex:
    names = app_index.names
    started, listed = (
        [after - before for before, after in pairwise(counts)]
        for counts in (app_index.started, app_index.listed)
    )
    for label, app in apps.items():
        at = bisect_left(names, label)
        there = at < len(names) and names[at] == label
        if there != (app is not None):
            if names is app_index.names:
                names = names.copy()
            if there:
                del names[at], started[at], listed[at]
            else:
                names.insert(at, label)
                started.insert(at, 0)
                listed.insert(at, 0)
        if app is not None:
            started[at], listed[at] = len(_visible(app.machines)), len(_listed(app.machines))
    return AppIndex.of(names, started, listed)


def _rank(machine: Machine) -> tuple[bool, bytes, bytes]:
    return machine.state != STARTED, machine.id, machine.app


class Region(NamedTuple):
    """The coordinates of a region in degrees, None when unknown."""

    latitude: float | None
    longitude: float | None


@dataclass(frozen=True)
class Catalog:
    """All data that the server answers from, as of one commit."""

    networks: Mapping[NetworkId, Network] = field(default_factory=dict)
    regions: Mapping[bytes, Region] = field(default_factory=dict)
    latency: Mapping[tuple[bytes, bytes], float] = field(default_factory=dict)
    hosts: Mapping[int, bytes] = field(default_factory=dict)
    revision: int = 0

    def cost(self, here: bytes | None, there: bytes) -> float | None:
        """Return the distance of two regions in ms: as measured, else great-circle km / 100.

        None if unknown.
        """
        if here is None:
            return None
        measured = self.latency.get((here, there), self.latency.get((there, here)))
        if measured is not None:
            return measured
        if here == there:
            return 0.0
        kilometers = _great_circle(self.regions.get(here), self.regions.get(there))
        return None if kilometers is None else kilometers / 100


def _great_circle(a: Region | None, b: Region | None) -> float | None:
    """Return the haversine distance in km, None unless both ends have coordinates."""
    if a is None or b is None or None in a or None in b:
        return None
    assert a.latitude is not None and a.longitude is not None  # noqa: PT018 - for the type checker
    assert b.latitude is not None and b.longitude is not None  # noqa: PT018
    north = sin(radians(b.latitude - a.latitude) / 2) ** 2
    east = sin(radians(b.longitude - a.longitude) / 2) ** 2
    h = north + cos(radians(a.latitude)) * cos(radians(b.latitude)) * east
    return 2 * _EARTH_KM * asin(min(1.0, sqrt(h)))


def changed(old: Catalog, new: Catalog) -> Iterator[tuple[NetworkId, frozenset[bytes] | None]]:
    """Yield each network that differs, with the labels of its changed apps and flycasts.

    None in place of the labels means all of them. Equal parts of two catalogs are the same objects
    (store/sqlite.py), so this compares identities. A change of regions, latency or hosts may
    concern every name of every network.
    """
    moved = (old.regions, old.latency, old.hosts) != (new.regions, new.latency, new.hosts)
    for number in old.networks.keys() | new.networks.keys():
        before, after = old.networks.get(number), new.networks.get(number)
        if moved or before is None or after is None:
            yield number, None
        elif before is not after and after.since == before.revision:
            # Known without a walk over ten thousand unchanged apps.
            yield number, after.touched
        elif before is not after:
            labels = before.apps.keys() | after.apps.keys()
            apps = {a for a in labels if before.apps.get(a) is not after.apps.get(a)}
            flycasts = {a for a, _ in before.flycasts.items() ^ after.flycasts.items()}
            yield number, frozenset(apps | flycasts).union(changed_own(before, after))


def changed_own(before: Network, after: Network) -> Iterator[bytes]:
    """Yield the parts of records and zones that differ."""
    return changed_parts(
        (before.records, before.zones),
        (after.records, after.zones),
        chain(before.records, after.records),
    )
