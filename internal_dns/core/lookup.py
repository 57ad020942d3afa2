"""(asked, who, catalog) → the RRsets at that name, or that there is no such name; each with its
reason.

A name exists or not whatever the type; so the answer is a Node, and the type picks from it
afterwards. Reasons go to the asker in an EDE: they tell this network's own facts and never quote
the name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from internal_dns.core import names
from internal_dns.core.catalog import App, Catalog, Machine, Network
from internal_dns.core.nearest import tie_groups
from internal_dns.core.records import (
    NS,
    PAGE,
    SOA,
    Extra,
    RRset,
    TextList,
    address_text,
    addresses,
    rotated,
    srv,
)
from internal_dns.core.requester import NOWHERE, Place, Requester
from internal_dns.core.wire import Type


@dataclass(frozen=True, slots=True)
class NoSuchName:
    """NXDOMAIN."""

    reason: str


@dataclass(frozen=True, slots=True)
class Node:
    """An existing name with what it holds; `reason` says why a set is not there."""

    sets: tuple[RRset | TextList, ...]
    reason: str = ""

    def of_type(self, qtype: int) -> RRset | TextList | None:
        """The set that answers *qtype*, or None for NODATA. ANY: the first there is (RFC 8482)."""
        for found in self.sets:
            if qtype in (found.type, Type.ANY):
                return found
        return None

    @property
    def lack(self) -> str:
        """Why a type is not there."""
        types = " and ".join(found.type.name for found in self.sets)
        only = (
            f"this name has {types} records only"
            if types
            else "nothing is at this name itself, only below it"
        )
        return self.reason or only


Found = Node | NoSuchName


@dataclass(frozen=True, slots=True)
class View:
    """Through whose eyes a name is seen. `here` is looked up for the names that depend on it
    only."""

    who: Requester
    catalog: Catalog
    here: Place = NOWHERE
    server_region: bytes | None = None
    turn: int = 0


def find(asked: names.Asked, view: View) -> Found:
    """Return what is at the name that *asked* stands for."""
    who = view.who
    network = who.network
    match asked:
        case names.Unheard(reason):
            return NoSuchName(reason)
        case names.Apex():
            dns = Extra((b"_dns", b"internal"), server_address(network))
            return Node((RRset(Type.SOA, ((SOA,),)), RRset(Type.NS, ((NS,),), extra=(dns,))))
        case names.ServerAddress():
            return Node((addresses((server_address(network),)),))
        case names.ApiAddress():
            return Node((addresses((network.server_address,)),))
        case names.WhoAmI():
            return Node((_whoami(view),))
    if not network.known:
        return NoSuchName("this network is not in the catalog")
    match asked:
        case names.EmptyNonTerminal(of):
            base = find(of, view)
            return base if isinstance(base, NoSuchName) else Node(())
        case names.Page(of, number):
            return _page(find(of, view), number)
        case names.Apps():
            return Node((TextList(tuple(sorted(network.apps)), pageable=True),))
        case names.Peers():
            visible = (peer.name for peer in network.peers.values() if peer.visible)
            return Node((TextList(tuple(sorted(visible)), pageable=True),))
        case names.PeerAddress(name):
            peer = network.peers.get(name)
            return (
                Node((addresses((peer.address,)),))
                if peer and peer.visible
                else NoSuchName("no such peer")
            )
        case names.Instances(None, every):
            apps = [network.apps[name] for name in sorted(network.apps)]
            return Node((_instances(apps, every),))
        case names.Flycast(name):
            found = network.flycasts.get(name)
            return (
                Node((addresses(found, pageable=True),))
                if found
                else NoSuchName("no flycast address here")
            )
        case names.Reverse(nibbles):
            return _reverse(network, nibbles)
    assert isinstance(asked, OfApp)
    app = network.apps.get(asked.app or b"")
    return _of_app(asked, app, view) if app else NoSuchName("no such app in this network")


OfApp = (
    names.Addresses
    | names.Nearest
    | names.MachineAddress
    | names.Metadata
    | names.Regions
    | names.Machines
    | names.Instances
    | names.Services
)


def _of_app(asked: OfApp, app: App, view: View) -> Found:
    """Return what is at a name of *app*, which exists."""
    match asked:
        case names.Addresses(_, region, group):
            if (
                region is not None
                and region not in app.regions
                and region not in view.catalog.regions
            ):
                return NoSuchName("no such region")
            if group is not None and group not in app.groups:
                return NoSuchName("no such process group")
            return _set(asked, app)
        case names.Metadata():
            return _set(asked, app)
        case names.MachineAddress(_, ident):
            machine = app.by_id.get(ident)
            if machine is None:
                return NoSuchName("no such machine")
            return (
                Node((addresses((machine.address,)),))
                if machine.visible
                else Node((), "the machine is not started")
            )
        case names.Nearest(_, _, group):
            if group is not None and group not in app.groups:
                return NoSuchName("no such process group")
            return _nearest(asked, app, view)
        case names.Regions(_, group, every) | names.Machines(_, group, every):
            if group is not None and group not in app.groups:
                return NoSuchName("no such process group")
            shown = [
                m
                for m in app.machines
                if (m.listed if every else m.visible) and group in (None, m.group)
            ]
            if isinstance(asked, names.Regions):
                return Node((TextList(tuple(sorted({m.region for m in shown})), pageable=True),))
            return Node((TextList(tuple(m.id + b" " + m.region for m in shown), pageable=True),))
        case names.Instances(_, every):
            return Node((_instances([app], every),))
        case names.Services(_, service, protocol):
            return _services(app, service, protocol)
    raise AssertionError(asked)


def selected(asked: names.Addresses | names.Metadata, app: App) -> tuple[Machine, ...]:
    """Return the visible machines that match, by index. `mismatch` says the same of one machine, in
    words."""
    match asked:
        case names.Addresses(_, None, None):
            return app.visible
        case names.Addresses(_, None, group):
            return app.by_group.get(group or b"", ())
        case names.Addresses(_, region, group):
            here = app.by_region.get(region or b"", ())
            return here if group is None else tuple(m for m in here if m.group == group)
        case names.Metadata(_, None, _):
            return ()
        case names.Metadata(_, key, None):
            return app.by_key.get(key or b"", ())
        case names.Metadata(_, key, value):
            return app.by_key_value.get((key or b"", value or b""), ())
    raise AssertionError(asked)


def mismatch(machine: Machine, asked: names.Asked) -> str:
    """Say why *machine*, whatever its state, is not meant by *asked*; empty when it is."""
    match asked:
        case names.Page(of, _) | names.EmptyNonTerminal(of):
            return mismatch(machine, of)
        case names.Addresses(_, region, group):
            if region is not None and machine.region != region:
                return f"region is {machine.region.decode()}"
            if group is not None and machine.group != group:
                return f"process group is {machine.group.decode()}"
        case names.Nearest(_, _, group) | names.Regions(_, group, _) | names.Machines(_, group, _):
            if group is not None and machine.group != group:
                return f"process group is {machine.group.decode()}"
        case names.MachineAddress(_, ident):
            if machine.id != ident:
                return "another id"
        case names.Metadata(_, key, value):
            values = [v.lower() for k, v in machine.metadata if k.lower() == key]
            if not values:
                return "metadata lacks the key"
            if value is not None and value not in values:
                return "metadata has another value"
        case names.Services(_, service, protocol):
            if not any((s.name, s.protocol) == (service, protocol) for s in machine.services):
                return "does not publish the service"
    return ""


def _set(asked: names.Addresses | names.Metadata, app: App) -> Node:
    """Return the AAAA RRset of the machines meant, or the reason why it is empty."""
    machines = selected(asked, app)
    if not machines:
        return Node((), _none_started(asked, app))
    return Node((addresses(tuple(m.address for m in machines), pageable=True),))


def _none_started(asked: names.Asked, app: App) -> str:
    matching = sum(not mismatch(machine, asked) for machine in app.machines)
    return (
        f"{matching} machine{'s' * (matching != 1)}, none started"
        if matching
        else "no machine matches"
    )


def _nearest(asked: names.Nearest, app: App, view: View) -> Node:
    """Return `top<N>`: the addresses, and of the whole app as TXT what each costs."""
    members = app.visible if asked.group is None else app.by_group.get(asked.group, ())
    groups = tie_groups(members, asked.count, view.here, view.catalog)
    priced = tuple(
        _priced(machine, view) for tied in groups for machine in rotated(tied, view.turn)
    )
    sets: list[RRset | TextList] = []
    if groups:
        sets.append(RRset(Type.AAAA, _distinct(groups), asked.count))
    if asked.group is None:
        sets.append(TextList(priced[: asked.count], stored=False))
    return Node(tuple(sets), "" if groups else _none_started(asked, app))


def _distinct(groups: tuple[tuple[Machine, ...], ...]) -> tuple[tuple[bytes, ...], ...]:
    """Return the addresses of *groups*, each only where it first stands: RRsets have no duplicates
    (RFC 2181)."""
    seen: dict[bytes, int] = {}
    for number, tied in enumerate(groups):
        for machine in tied:
            seen.setdefault(machine.address, number)
    return tuple(
        tuple(a for a, at in seen.items() if at == number) for number in range(len(groups))
    )


def _priced(machine: Machine, view: View) -> bytes:
    cost = view.catalog.cost(view.here.region, machine.region)
    return b"%s %s %s" % (
        machine.id,
        machine.region,
        b"-" if cost is None else b"%d" % int(cost + 0.5),
    )


def _services(app: App, service: bytes, protocol: bytes) -> Found:
    """Return the SRV RRset of a service: one a visible machine and port, with the machines'
    addresses beside it."""
    if (service, protocol) not in app.services:
        return NoSuchName("no machine of the app publishes this service")
    published = [
        (machine, s.port, (machine.id, b"vm", app.name, b"internal"))
        for machine in app.visible
        for s in machine.services
        if (s.name, s.protocol) == (service, protocol)
    ]
    if not published:
        return Node((), "the service is published, but by no started machine")
    rdata = tuple(dict.fromkeys(srv(port, target) for _, port, target in published))
    extra = tuple(dict.fromkeys(Extra(target, machine.address) for machine, _, target in published))
    return Node((RRset(Type.SRV, (rdata,), extra=extra),))


def _instances(apps: Iterable[App], every: bool) -> TextList:
    """`instance=,app=,ip=,region=` of each machine: four fields in this order, which known clients
    split blindly."""
    shown = (m for app in apps for m in app.machines if (m.listed if every else m.visible))
    return TextList(tuple(map(_instance, shown)), b";", pageable=True)


def _instance(m: Machine) -> bytes:
    return b"instance=%s,app=%s,ip=%s,region=%s" % (m.id, m.app, address_text(m.address), m.region)


def _whoami(view: View) -> TextList:
    fields = {
        b"network": view.who.network.label,
        b"region": view.here.region or b"",
        b"address": address_text(view.who.source),
        b"server": view.server_region or b"",
        b"revision": b"%d" % view.who.network.revision,
    }
    return TextList(tuple(b"%s=%s" % field for field in fields.items()), stored=False)


def _reverse(network: Network, nibbles: bytes) -> Found:
    """Return the owners of an address as PTR, or whether *nibbles* leads to an answerable one."""
    low, high = (bytes.fromhex(nibbles.ljust(32, fill).decode()) for fill in (b"0", b"f"))
    everyones = server_address(network)
    if low == high:
        owners = network.owners.get(low) or (((b"_dns", b"internal"),) if low == everyones else ())
        if not owners:
            return NoSuchName("nothing you may see has this address")
        return Node((RRset(Type.PTR, tuple((names.wire(owner),) for owner in owners)),))
    if low <= everyones <= high or network.owns_between(low, high):
        return Node(())
    return NoSuchName("no address you may see is below this name")


def _page(found: Found, number: int) -> Found:
    """Cut page *number* out of a set or list, by canonical order: addresses ascending, lists as
    they are."""
    if isinstance(found, NoSuchName) or not found.sets:
        return found
    whole, start = found.sets[0], (number - 1) * PAGE
    if isinstance(whole, TextList):
        return Node((TextList(whole.items[start : start + PAGE], whole.separator),))
    part = tuple(sorted(whole.groups[0]))[start : start + PAGE]
    return Node((RRset(whole.type, (part,)),)) if part else Node((), "past the last page")


def server_address(network: Network) -> bytes:
    """`fdaa::3`, the address every network may ask at."""
    return network.prefix[:2] + bytes(13) + b"\x03"
