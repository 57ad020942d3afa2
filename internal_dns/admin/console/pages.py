"""Pages on the catalog: functions from a catalog to the values of a template.

They run in the console's thread. A page shows at most PAGE rows and examines a bounded number, so
that browsing a catalog with a million machines does not delay answers.
"""

from __future__ import annotations

import re
import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from difflib import get_close_matches
from ipaddress import AddressValueError, IPv6Address
from itertools import islice
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from internal_dns.core.catalog import App, Catalog, Machine, Network, NetworkId, Peer, Service
from internal_dns.core.own import RECORD_TYPES, unpack_sets
from internal_dns.core.records import address_text
from internal_dns.core.requester import hex48
from internal_dns.store.presentation import name_text, rdata_text
from internal_dns.store.sqlite import UnusableCatalog, connect

PAGE: Final = 50
COUNTED: Final = 10_000  # machines per app whose state is counted for a list
FOUND: Final = 25  # results per kind of a search
FILTERED: Final = 50_000  # rows per list that a filter examines; by address a fifth of that
SORTED: Final = 10_000  # rows of the longest list that is sorted
ALIKE: Final = 5_000  # app names compared with a misspelled one
EXAMINED: Final = 200_000  # apps, peers and networks that a search examines

VALUES: Final = 10  # of one set of records
CUT: Final = 200  # characters of a value

TYPES: Final = {number: name for name, number in RECORD_TYPES.items()}
T = TypeVar("T")
Values = dict[str, Any]


class NotFound(LookupError):
    """The catalog does not have what a path names."""


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """One page of a list."""

    items: Sequence[T]
    number: int
    pages: int
    total: int

    @property
    def first(self) -> int:
        return (self.number - 1) * PAGE + 1 if self.total else 0

    @property
    def last(self) -> int:
        return self.first + len(self.items) - 1 if self.total else 0


def part(of: Sequence[T], number: int) -> Part[T]:
    """Cut page *number* out of *of*; a number past the end is the last page."""
    pages = max(1, -(-len(of) // PAGE))
    number = min(max(1, number), pages)
    return Part(of[(number - 1) * PAGE : number * PAGE], number, pages, len(of))


@dataclass(frozen=True, slots=True)
class Choice:
    """The filter text, the order ("-" before it means descending) and the page of a list."""

    text: str = ""
    sort: str = ""
    page: int = 1


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A filtered and sorted page of a list.

    `sorts` are the available orders. `looked_at` is less than `of` if the filter stopped early.
    """

    part: Part[T]
    choice: Choice
    sorts: tuple[str, ...]
    looked_at: int
    of: int


def listing(
    of: Sequence[T],
    choice: Choice,
    words: Callable[[T], bytes],
    orders: Mapping[str, Callable[[T], Any]] = {},
) -> Listing[T]:
    """Filter by *words*, sort by one of *orders*, and cut a page.

    To bound the work, only the start of a long list is filtered, and a long list is not sorted.
    """
    found, looked_at = of, len(of)
    if wanted := choice.text.lower().encode():
        looked_at = min(len(of), FILTERED // 5 if b":" in wanted else FILTERED)
        found = [each for each in islice(of, looked_at) if wanted in words(each)]
    sorts = tuple(orders) if len(found) <= SORTED else ()
    order = choice.sort.removeprefix("-")
    if order in sorts:
        found = sorted(found, key=orders[order], reverse=choice.sort.startswith("-"))
    return Listing(part(found, choice.page), choice, sorts, looked_at, len(of))


@dataclass(frozen=True, slots=True)
class AppCount:
    """An app and its numbers of machines. `visible` is None if there are too many to count."""

    name: bytes
    machines: int
    visible: int | None


def count_app(app: App) -> AppCount:
    few = len(app.machines) <= COUNTED
    return AppCount(
        app.name, len(app.machines), sum(m.visible for m in app.machines) if few else None
    )


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────


def networks(catalog: Catalog, choice: Choice = Choice()) -> Values:
    def words(number: NetworkId) -> bytes:
        net = catalog.networks[number]
        return net.name.lower() + b" " + hex48(net.prefix).encode()

    orders: dict[str, Callable[[NetworkId], Any]] = {
        "addresses": lambda number: number,
        "network": lambda number: catalog.networks[number].label.lower(),
    }
    found = listing(sorted(catalog.networks), choice, words, orders)
    rows = [catalog.networks[each] for each in found.part.items]
    machines = {
        network.id: sum(len(app.machines) for app in network.apps.values()) for network in rows
    }
    return {"listing": found, "networks": rows, "machines": machines}


def network(catalog: Catalog, number: int, choice: Choice = Choice()) -> Values:
    net = network_of(catalog, number)
    orders: dict[str, Callable[[bytes], Any]] = {
        "app": lambda name: name,
        "machines": lambda name: len(net.apps[name].machines),
    }
    found = listing(sorted(net.apps), choice, lambda name: name, orders)
    rows = [count_app(net.apps[name]) for name in found.part.items]
    return {"network": net, "listing": found, "apps": rows}


def peers(catalog: Catalog, number: int, choice: Choice = Choice()) -> Values:
    net = network_of(catalog, number)
    orders: dict[str, Callable[[bytes], Any]] = {
        "address": lambda name: net.peers[name].address,
        "peer": lambda name: name,
    }
    found = listing(
        sorted(net.peers), choice, lambda name: name + _address_if(choice, net.peers[name]), orders
    )
    rows = [
        (peer := net.peers[name], region_of(catalog, peer.region, peer.address))
        for name in found.part.items
    ]
    return {"network": net, "listing": found, "peers": rows}


def flycasts(catalog: Catalog, number: int, choice: Choice = Choice()) -> Values:
    net = network_of(catalog, number)
    found = listing(sorted(net.flycasts), choice, lambda name: name, {"app": lambda name: name})
    rows = [(name, net.flycasts[name]) for name in found.part.items]
    return {"network": net, "listing": found, "flycasts": rows}


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one type at a name."""

    name: str
    type: str
    ttl: int
    values: Sequence[str]
    more: int  # values that are not shown


def records(catalog: Catalog, number: int, choice: Choice = Choice()) -> Values:
    """Return the zones of a network, and its records by owner."""
    net = network_of(catalog, number)
    owners, looked_at = list(net.records), len(net.records)
    if wanted := choice.text.lower():
        looked_at = min(len(owners), FILTERED // 2 if "." in wanted else FILTERED)
        owners = _holding(owners[:looked_at], wanted)
    if len(owners) <= SORTED:
        owners.sort(key=_dotted)
    shown = Listing(part(owners, choice.page), choice, (), looked_at, len(net.records))
    rows = [row for owner in shown.part.items for row in _sets(owner, net.records[owner])]
    zones = [name_text(apex) for apex in islice(net.zones, SORTED)]
    return {
        "network": net,
        "listing": shown,
        "records": rows,
        "zones": sorted(zones)[:PAGE],
        "zone_count": len(net.zones),
    }


def _holding(owners: Sequence[bytes], wanted: str) -> list[bytes]:
    """Return the names in wire form that hold a text. Hot path: they are compared as octets, and put
    into words only where a dot of the text may be another octet."""
    parts = wanted.encode().split(b".")
    found = list(filter(re.compile(b"[\x01-\x3f]".join(map(re.escape, parts))).search, owners))
    if len(parts) > 1:
        octets = wanted.encode()
        found = [each for each in found if octets in _dotted(each)]
    return found


def _dotted(name: bytes) -> bytes:
    labels, at = [], 0
    while size := name[at]:
        labels.append(name[at + 1 : at + 1 + size])
        at += 1 + size
    return b".".join(labels)


def _sets(owner: bytes, packed: bytes) -> Iterator[Records]:
    for one in unpack_sets(packed):
        texts = [_cut(rdata_text(one.type, rdata)) for rdata in one.rdata[:VALUES]]
        yield Records(
            name_text(owner), TYPES[one.type], one.ttl, texts, len(one.rdata) - len(texts)
        )


def _cut(text: str) -> str:
    return text if len(text) <= CUT else f"{text[:CUT]}…"


def app(
    catalog: Catalog,
    number: int,
    name: str,
    file: Path,
    choice: Choice = Choice(),
) -> Values:
    net = network_of(catalog, number)
    found = app_of(net, name)

    def words(m: Machine) -> bytes:
        return b" ".join((m.id, m.state, m.region, m.group)) + _address_if(choice, m)

    orders: dict[str, Callable[[Machine], Any]] = {
        "address": lambda m: m.address,
        "machine": lambda m: m.id,
        "state": lambda m: (not m.visible, m.state, m.id),
        "region": lambda m: (m.region, m.id),
        "group": lambda m: (m.group, m.id),
    }
    shown = listing(found.machines, choice, words, orders)
    ages = updated(file, [machine.id for machine in shown.part.items])
    own = net.flycasts.get(found.name, ())
    return {"network": net, "app": count_app(found), "listing": shown, "updated": ages,
            "flycasts": own}  # fmt: skip


def _address_if(choice: Choice, row: Machine | Peer) -> bytes:
    """Return the address of a row if the filter text can be part of one; formatting it is slow."""
    return b" " + address_text(row.address) if ":" in choice.text else b""


def machine(catalog: Catalog, number: int, name: str, ident: str, file: Path) -> Values:
    net = network_of(catalog, number)
    found = machine_of(app_of(net, name), ident)
    return {
        "network": net,
        "machine": found,
        "updated": updated(file, [found.id]),
        "host": int.from_bytes(found.address[6:10], "big"),
        "host_region": catalog.hosts.get(int.from_bytes(found.address[6:10], "big")),
        "peers": peers_inside(net, found),
        "names": names_of(found),
    }


def network_of(catalog: Catalog, number: int) -> Network:
    found = catalog.networks.get(NetworkId(number))
    if found is None:
        raise NotFound(f"network {number}")
    return found


def app_of(net: Network, name: str) -> App:
    found = net.apps.get(name.lower().encode())
    if found is None:
        raise NotFound(f"app {name} in network {net.label.decode()}")
    return found


def machine_of(of: App, ident: str) -> Machine:
    """Find a machine by id. Machines are sorted by id, so no index is needed."""
    wanted = ident.lower().encode()
    at = bisect_left(of.machines, wanted, key=lambda each: each.id)
    if at == len(of.machines) or of.machines[at].id != wanted:
        raise NotFound(f"machine {ident} of app {of.name.decode()}")
    return of.machines[at]


def peers_inside(net: Network, found: Machine) -> list[Peer]:
    """Return the peers whose /120 lies in the machine's /112, at most 256."""
    peers = (net.peer_by_120.get(found.address[:14] + bytes((octet,))) for octet in range(256))
    return [peer for peer in peers if peer is not None]


def region_of(catalog: Catalog, own: bytes, address: bytes) -> bytes:
    """Return the region of a peer, or that of its host; empty if neither is known."""
    return own or catalog.hosts.get(int.from_bytes(address[6:10], "big"), b"")


def names_of(found: Machine) -> list[tuple[str, str]]:
    """Return the names that lead to a machine, each with a description; none if it is invisible."""
    if not found.visible:
        return []
    named, ident, region, group = (
        each.decode() for each in (found.app, found.id, found.region, found.group)
    )
    names = [
        (f"{ident}.vm.{named}.internal", "this machine alone"),
        (f"{named}.internal", "all visible machines of the app"),
        *([(f"{region}.{named}.internal", f"its machines in {region}")] if region else []),
        *(
            [(f"{group}.process.{named}.internal", f"its machines in process group {group}")]
            if group
            else []
        ),
        (f"top3.nearest.of.{named}.internal", "its three machines nearest to the client"),
    ]
    if found.name:
        names.insert(
            1, (f"{found.name.decode()}.vm.{named}.internal", "the machines with this name")
        )
    names += [
        (f"_{s.name.decode()}._{s.protocol.decode()}.{named}.internal", _service(s))
        for s in found.services
    ]
    return [*names, (address_text(found.address).decode(), "the reverse name")]


def _service(found: Service) -> str:
    order = found.priority, found.weight
    more = "" if order == (0, 1) else f", priority {order[0]}, weight {order[1]}"
    return f"port {found.port}{more}"


def asks_as(net: Network) -> str:
    """Return how to query as a network: its name, or its first address without one."""
    return net.name.decode() or address_text(net.prefix + bytes(10)).decode()


def updated(file: Path, idents: Iterable[bytes]) -> Mapping[bytes, int]:
    """Return when the rows of these machines were last written, from the file.

    The catalog in memory does not hold this. The result is empty while the file cannot be read, and
    lacks ids that the file spells with capitals.
    """
    wanted = [ident.decode() for ident in idents]
    try:
        with closing(connect(file)) as connection:
            connection.execute("PRAGMA busy_timeout = 100")
            marks = ",".join("?" * len(wanted))
            rows = connection.execute(
                f"SELECT id, updated_at FROM machines WHERE id IN ({marks})", wanted
            )
            return {ident: at for ident, at in rows if isinstance(at, int) and at > 0}
    except (OSError, UnusableCatalog, sqlite3.Error):
        return {}


# ── search ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Results:
    """The results of a search. `stopped` means that there may be more."""

    networks: list[Network] = field(default_factory=list)
    apps: list[tuple[Network, App]] = field(default_factory=list)
    machines: list[tuple[Network, Machine]] = field(default_factory=list)
    peers: list[tuple[Network, Peer]] = field(default_factory=list)
    owners: list[tuple[Network, str]] = field(default_factory=list)
    records: list[tuple[Network, str]] = field(default_factory=list)
    stopped: bool = False

    @property
    def total(self) -> int:
        kinds: tuple[Sequence[object], ...] = (
            self.networks,
            self.apps,
            self.machines,
            self.peers,
            self.owners,
            self.records,
        )
        return sum(len(kind) for kind in kinds)


def search(catalog: Catalog, text: str) -> Results:
    """Find networks, apps and peers whose name contains *text*, and machines whose id starts with
    it. If *text* is an address, find its network, machine, peer and names."""
    found = Results()
    try:
        address = IPv6Address(text.strip()).packed
    except AddressValueError:
        pass
    else:
        _by_address(catalog, address, found)
        return found
    wanted, left = text.strip().lower().encode(), EXAMINED
    if not wanted:
        return found
    for number in sorted(catalog.networks):
        net = catalog.networks[number]
        left -= 1 + len(net.apps) + len(net.peers) + len(net.records)
        if left < 0:
            found.stopped = True
            break
        if wanted in net.name.lower():
            _add(found.networks, [net], found)
        _add(
            found.apps,
            ((net, net.apps[name]) for name in sorted(net.apps) if wanted in name),
            found,
        )
        _add(
            found.peers,
            ((net, net.peers[name]) for name in sorted(net.peers) if wanted in name),
            found,
        )
        owners = _holding([*net.zones, *net.records], wanted.decode())
        _add(found.records, ((net, name_text(owner)) for owner in owners), found)
        for each in net.apps.values():
            _add(found.machines, ((net, m) for m in _starting(each, wanted)), found)
    return found


def find_similar(catalog: Catalog, text: str) -> list[tuple[Network, App]]:
    """Return the apps with the names most similar to *text*, for a search without results."""
    wanted, left, found = text.strip().lower(), ALIKE, list[tuple[Network, App]]()
    for number in sorted(catalog.networks):
        net = catalog.networks[number]
        names = [
            name.decode() for name in islice(net.apps, left) if abs(len(name) - len(wanted)) <= 2
        ]
        left -= len(net.apps)
        found += [(net, net.apps[name.encode()]) for name in get_close_matches(wanted, names, 3)]
        if left <= 0 or len(found) >= 5:
            break
    return found[:5]


def _starting(of: App, wanted: bytes) -> Iterator[Machine]:
    at = bisect_left(of.machines, wanted, key=lambda each: each.id)
    while at < len(of.machines) and of.machines[at].id.startswith(wanted):
        yield of.machines[at]
        at += 1


def _add(to: list[T], new: Iterable[T], found: Results) -> None:
    for each in new:
        if len(to) == FOUND:
            found.stopped = True
            return
        to.append(each)


def _by_address(catalog: Catalog, address: bytes, found: Results) -> None:
    """Find the network, machine, peer and names of an address."""
    net = catalog.networks.get(NetworkId(int.from_bytes(address[2:6], "big")))
    if net is None or net.prefix != address[:6]:
        return
    found.networks.append(net)
    if (peer := net.peer_by_120.get(address[:15])) is not None:
        found.peers.append((net, peer))
    if (owner := net.machine_by_112.get(address[:14])) is not None:
        found.machines.append((net, owner))
    found.owners = [(net, name) for name in _names_at(net, address, owner, peer)]


def _names_at(net: Network, address: bytes, owner: Machine | None, peer: Peer | None) -> list[str]:
    """Return the names of an address, without the reverse index: building that takes seconds."""
    names = []
    if owner is not None and owner.visible and owner.address == address:
        names.append(f"{owner.id.decode()}.vm.{owner.app.decode()}.internal")
    if peer is not None and peer.visible and peer.address == address:
        names.append(f"{peer.name.decode()}._peer.internal")
    flycasts = (
        name for name, addresses in islice(net.flycasts.items(), EXAMINED) if address in addresses
    )
    return [*names, *(f"{name.decode()}.flycast" for name in islice(flycasts, FOUND))]
