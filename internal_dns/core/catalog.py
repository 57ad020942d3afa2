"""The catalog as the server knows it: frozen values, and the indexes that answer a question.

A Catalog is never changed; a commit makes a new one that shares every App and Network it did not
touch. Indexes are built when first asked for. Names are lower-cased octets, as on the wire;
addresses are 16 octets.

    Catalog ── networks ─► Network ── apps ─► App ── machines ─► Machine
       │ regions, latency, hosts  └─ peers, flycasts
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import asin, cos, radians, sin, sqrt
from typing import Final, NamedTuple, NewType, TypeVar

from internal_dns.core.names import Labels, wire

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


class Machine(NamedTuple):
    """One machine. A tuple, not a dataclass: there may be a million, and a tuple is made four times
    as fast."""

    id: bytes
    app: bytes
    address: bytes
    region: bytes
    group: bytes
    state: bytes
    skip_registration: bool
    metadata: tuple[tuple[bytes, bytes], ...] = ()
    services: tuple[Service, ...] = ()

    @property
    def visible(self) -> bool:
        return self.state == STARTED and not self.skip_registration

    @property
    def listed(self) -> bool:
        """Whether the `all.` lists show it."""
        return self.state != DESTROYED and not self.skip_registration


class Peer(NamedTuple):
    """A WireGuard peer; `region` is empty when it is that of its host."""

    name: bytes
    address: bytes
    region: bytes
    visible: bool


def _scattered(address: bytes) -> int:
    """A sort key under which neighbours are far apart: Fibonacci hashing, the golden ratio as 128
    bits."""
    return int.from_bytes(address, "big") * 0x9E3779B97F4A7C15F39CC0605CEDC835 & (1 << 128) - 1


@dataclass(frozen=True)
class App:
    """An app of one network with its machines in order of id; each index is built on first use."""

    name: bytes
    machines: tuple[Machine, ...] = ()

    @cached_property
    def visible(self) -> tuple[Machine, ...]:
        """The visible machines, shuffled the same way every time, so that rotation spreads a
        truncated reply."""
        return tuple(
            sorted(
                (m for m in self.machines if m.visible), key=lambda m: (_scattered(m.address), m.id)
            )
        )

    @cached_property
    def by_id(self) -> Mapping[bytes, Machine]:
        return {machine.id: machine for machine in self.machines}

    @cached_property
    def regions(self) -> frozenset[bytes]:
        """Regions of all machines, whatever their state."""
        return frozenset(machine.region for machine in self.machines)

    @cached_property
    def groups(self) -> frozenset[bytes]:
        """Process groups of all machines, whatever their state."""
        return frozenset(machine.group for machine in self.machines)

    @cached_property
    def services(self) -> frozenset[tuple[bytes, bytes]]:
        """(name, protocol) of every service that any machine publishes, whatever its state."""
        return frozenset(
            (s.name, s.protocol) for machine in self.machines for s in machine.services
        )

    @cached_property
    def by_region(self) -> Mapping[bytes, tuple[Machine, ...]]:
        return group_by(self.visible, lambda machine: machine.region)

    @cached_property
    def by_group(self) -> Mapping[bytes, tuple[Machine, ...]]:
        return group_by(self.visible, lambda machine: machine.group)

    @cached_property
    def by_key(self) -> Mapping[bytes, tuple[Machine, ...]]:
        """Visible machines by metadata key, lower-cased."""
        return _gather((key.lower(), m) for m in self.visible for key, _ in m.metadata)

    @cached_property
    def by_key_value(self) -> Mapping[tuple[bytes, bytes], tuple[Machine, ...]]:
        """Visible machines by metadata key and value, both lower-cased."""
        return _gather(
            ((key.lower(), value.lower()), m) for m in self.visible for key, value in m.metadata
        )


def group_by(
    machines: Iterable[Machine], key: Callable[[Machine], K]
) -> dict[K, tuple[Machine, ...]]:
    """Split *machines* by *key*, order kept."""
    return _gather((key(machine), machine) for machine in machines)


def _gather(pairs: Iterable[tuple[K, Machine]]) -> dict[K, tuple[Machine, ...]]:
    found: dict[K, dict[Machine, None]] = {}
    for key, machine in pairs:
        found.setdefault(key, {})[machine] = None
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
    # What `amended` knows of the value before: its revision, and the apps and flycasts that are
    # others now.
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
    def machine_by_112(self) -> Mapping[bytes, Machine]:
        """Machines, stopped ones too, by the first 14 octets; of several a started one, then the
        lowest id."""
        found: dict[bytes, Machine] = {}
        for app in self.apps.values():
            for machine in app.machines:
                other = found.setdefault(machine.address[:14], machine)
                if other is not machine and _rank(machine) < _rank(other):
                    found[machine.address[:14]] = machine
        return found

    @cached_property
    def owners(self) -> Mapping[bytes, tuple[Labels, ...]]:
        """Reverse mapping: each answerable address to the names that own it, in canonical order."""
        names: dict[bytes, list[Labels]] = {}
        for address, owner in self._owning(self.apps.values(), self.peers.values(), self.flycasts):
            names.setdefault(address, []).append(owner)
        names.setdefault(self.server_address, []).append((b"_api", b"internal"))
        return {address: _sorted_names(owners) for address, owners in names.items()}

    @staticmethod
    def _owning(
        apps: Iterable[App], peers: Iterable[Peer], flycasts: Mapping[bytes, tuple[bytes, ...]]
    ) -> Iterator[tuple[bytes, Labels]]:
        """Yield the addresses that these parts answer for, with the name that owns each."""
        for app in apps:
            for m in app.visible:
                yield m.address, (m.id, b"vm", app.name, b"internal")
        for peer in peers:
            if peer.visible:
                yield peer.address, (peer.name, b"_peer", b"internal")
        for label, addresses in flycasts.items():
            for address in addresses:
                yield address, (label, b"flycast")

    @cached_property
    def _sorted_owners(self) -> list[bytes]:
        return sorted(self.owners)

    def owns_between(self, low: bytes, high: bytes) -> bool:
        """Whether an answerable address lies in low..high."""
        at = bisect_left(self._sorted_owners, low)
        return at < len(self._sorted_owners) and self._sorted_owners[at] <= high


def _sorted_names(owners: Iterable[Labels]) -> tuple[Labels, ...]:
    return tuple(sorted(set(owners), key=wire))  # canonical order, RFC 4034 section 6.3


def amended(
    old: Network,
    name: bytes,
    apps: Mapping[bytes, App | None],
    peers: Mapping[bytes, Peer] | None,
    flycasts: Mapping[bytes, tuple[bytes, ...]],
    revision: int,
) -> Network:
    """Return *old* with some parts replaced: None or an empty tuple is gone, None for all peers is
    as they were.

    Indexes that *old* has built are carried over and amended: a change costs what changed, not what
    is there.
    """
    same = (
        name == old.name
        and all(old.apps.get(label) is app for label, app in apps.items())
        and peers in (None, old.peers)
        and all(old.flycasts.get(label, ()) == found for label, found in flycasts.items())
    )
    if same and old.known:
        return old
    kept_apps = dict(
        old.apps
    )  # a copy in C: a network may have ten thousand apps, and a hundred commits a second
    for label, app in apps.items():
        if app is None:
            kept_apps.pop(label, None)
        else:
            kept_apps[label] = app
    kept_flycasts = {label: found for label, found in {**old.flycasts, **flycasts}.items() if found}
    made = Network(
        old.id,
        old.prefix,
        name,
        kept_apps,
        old.peers if peers is None else peers,
        kept_flycasts,
        revision,
        since=old.revision if old.known else -1,
        touched=frozenset(apps) | frozenset(flycasts),
    )
    gone = [old.apps[label] for label in apps if label in old.apps]
    come = [app for app in apps.values() if app is not None]
    if "machine_by_112" in old.__dict__:
        _carry_machines(old, made, gone, come)
    if "owners" in old.__dict__:
        lost = Network._owning(gone, () if peers is None else old.peers.values(),
                               {label: old.flycasts.get(label, ()) for label in flycasts})  # fmt: skip
        won = Network._owning(come, () if peers is None else peers.values(), flycasts)
        _carry_owners(old, made, lost, won)
    return made


def _carry_machines(old: Network, made: Network, gone: list[App], come: list[App]) -> None:
    """Amend the index by /112, unless machines share one: then who is behind whom is worked out
    anew."""
    index = dict(old.machine_by_112)
    if len(index) < sum(len(app.machines) for app in old.apps.values()):
        return
    for app in gone:
        for machine in app.machines:
            del index[machine.address[:14]]
    for app in come:
        for machine in app.machines:
            if index.setdefault(machine.address[:14], machine) is not machine:
                return
    made.__dict__["machine_by_112"] = index


def _carry_owners(
    old: Network,
    made: Network,
    lost: Iterable[tuple[bytes, Labels]],
    won: Iterable[tuple[bytes, Labels]],
) -> None:
    """Amend the reverse index."""
    index = dict(old.owners)
    for address, owner in lost:
        left = tuple(name for name in index.get(address, ()) if name != owner)
        index[address] = left
    for address, owner in won:
        index[address] = _sorted_names((*index.get(address, ()), owner))
    made.__dict__["owners"] = {address: owners for address, owners in index.items() if owners}


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
            yield number, frozenset(apps | flycasts)
