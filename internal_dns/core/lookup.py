"""Look a name up in the catalog: (asked, requester, catalog) → its RRsets, or NXDOMAIN.

Whether a name exists does not depend on the query type. A lookup therefore returns a Node with
every RRset, and the type selects from it afterwards. Each negative result has a reason, which the
client gets as an EDE: it states facts of the requester's own network and never quotes the name.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from operator import itemgetter
from typing import Final, TypeVar, assert_never

from internal_dns.core import names
from internal_dns.core.catalog import (
    NO_MACHINES,
    App,
    Catalog,
    Machine,
    MachineSet,
    Network,
    PublishedService,
)
from internal_dns.core.nearest import Distances, distances
from internal_dns.core.records import (
    ADDRESS_FORMAT,
    ADDRESS_RR,
    MAX_ADDRESSES,
    NS,
    PAGE,
    SOA,
    SRV_RR,
    TWO_ZEROS,
    Extra,
    RRset,
    TextList,
    address_groups,
    address_text,
    addresses,
    srv,
)
from internal_dns.core.requester import NOWHERE, Place, Requester
from internal_dns.core.text import Text, encoded
from internal_dns.core.wire import MAX_MESSAGE, Type


@dataclass(frozen=True, slots=True)
class NoSuchName:
    """NXDOMAIN, with the reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Node:
    """An existing name and its RRsets.

    `reason` says why an RRset is missing, `note` what is unusual about one that is present.
    """

    sets: tuple[RRset | TextList, ...]
    reason: str = ""
    note: str = ""

    def of_type(self, qtype: int) -> RRset | TextList | None:
        """Return the set that answers *qtype*, None for NODATA. ANY gets the first (RFC 8482)."""
        for rrset in self.sets:
            if qtype in (rrset.type, Type.ANY):
                return rrset
        return None

    @property
    def lack(self) -> str:
        """Why this name does not have the queried type."""
        types = " and ".join(rrset.type.name for rrset in self.sets)
        only = (
            f"this name has {types} records only"
            if types
            else "this name has no records, only names below it"
        )
        return self.reason or only


LookupResult = Node | NoSuchName


@dataclass(frozen=True, slots=True)
class View:
    """Who looks a name up, and which part of the result the reply can use.

    Nothing is built for a type other than `qtype`, nor a list that no message of `limit` octets can
    hold. `here` is set only for the names that depend on it.
    """

    who: Requester
    catalog: Catalog
    here: Place = NOWHERE
    server_region: bytes | None = None
    rotation: int = 0
    qtype: int = Type.ANY
    limit: int = MAX_MESSAGE  # a TCP reply's: then the part that fits is built


# Forms that a network outside the catalog may look up too.
_OF_EVERY_NETWORK: Final = (
    names.NoSuchForm,
    names.Apex,
    names.ServerAddress,
    names.ApiAddress,
    names.WhoAmI,
)


def find(asked: names.Asked, view: View) -> LookupResult:
    """Return the records of the name that *asked* stands for."""
    network = view.who.network
    if not network.known and not isinstance(asked, _OF_EVERY_NETWORK):
        return NoSuchName("this network is not in the catalog")
    match asked:
        case names.NoSuchForm(reason=reason):
            return NoSuchName(reason)
        case names.Apex():
            dns = Extra(b"_dns", (b"internal",), server_address(network))
            return Node((RRset(Type.SOA, ((SOA,),)), RRset(Type.NS, ((NS,),), extra=(dns,))))
        case names.ServerAddress():
            return Node((addresses((server_address(network),)),))
        case names.ApiAddress():
            return Node((addresses((network.server_address,)),))
        case names.WhoAmI():
            return Node((_whoami(view),))
        case names.EmptyNonTerminal(of=of):
            base = exists(of, view)
            return base if isinstance(base, NoSuchName) else Node(())
        case names.Page(of=of, number=number):
            return _page(of, number, view)
        case names.Apps():
            return Node((_labels("apps", network.app_index.names, view),))
        case names.Peers():
            return Node((_labels("peers", network.peer_names, view),))
        case names.PeerAddress(peer=name):
            peer = network.peers.get(name)
            return (
                Node((addresses((peer.address,)),))
                if peer and peer.visible
                else NoSuchName("no such peer")
            )
        case names.Instances(app=None, every=every):
            return Node((_all_instances(network, every, view),))
        case names.Flycast(app=name):
            flycasts = network.flycasts.get(name)
            return _flycast(flycasts, view) if flycasts else NoSuchName(_NO_FLYCAST)
        case names.Reverse(nibbles=nibbles):
            return _reverse(network, nibbles)
        case (
            names.Addresses()
            | names.Nearest()
            | names.MachineAddress()
            | names.Metadata()
            | names.Regions()
            | names.Machines()
            | names.Instances()
            | names.Services()
        ):
            app = network.apps.get(asked.app or b"")
            return _of_app(asked, app, view) if app else NoSuchName("no such app in this network")
        case _:
            assert_never(asked)


_NO_FLYCAST: Final = "no such flycast address in this network"

T = TypeVar("T")
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


def exists(asked: names.Pageable, view: View) -> NoSuchName | App | None:
    """Return why there is no such name, else the app that the name belongs to, if any.

    Builds no records.
    """
    network = view.who.network
    match asked:
        case names.Apps() | names.Peers() | names.Instances(app=None):
            return None
        case names.Flycast(app=name):
            return None if name in network.flycasts else NoSuchName(_NO_FLYCAST)
        case (
            names.Addresses()
            | names.Metadata()
            | names.Regions()
            | names.Machines()
            | names.Instances()
        ):
            app = network.apps.get(asked.app or b"")
            if app is None:
                return NoSuchName("no such app in this network")
            return _lacking(asked, app, view) or app
        case _:
            assert_never(asked)


def is_there(asked: names.Asked, view: View) -> bool:
    """Whether the grammar has such a name, below `internal`; found without building anything."""
    network = view.who.network
    match asked:
        case names.NoSuchForm():
            return False
        case names.Apex() | names.ServerAddress() | names.ApiAddress() | names.WhoAmI():
            return True
        case names.EmptyNonTerminal(of=of) | names.Page(of=of):
            return not isinstance(exists(of, view), NoSuchName)
        case names.Apps() | names.Peers() | names.Instances(app=None):
            return True
        case names.PeerAddress(peer=name):
            peer = network.peers.get(name)
            return peer is not None and peer.visible
        case names.Flycast() | names.Reverse():
            return not isinstance(find(asked, view), NoSuchName)
        case (
            names.Addresses()
            | names.Nearest()
            | names.MachineAddress()
            | names.Metadata()
            | names.Regions()
            | names.Machines()
            | names.Instances()
            | names.Services()
        ):
            app = network.apps.get(asked.app or b"")
            return app is not None and _lacking(asked, app, view) is None
        case _:
            assert_never(asked)


def _lacking(asked: OfApp, app: App, view: View) -> NoSuchName | None:
    """Return why *app*, which exists, has no such name."""
    match asked:
        case names.Addresses():
            _, region, group = asked
            return _no_region(region, app, view) or _no_group(group, app)
        case names.Nearest(group=group) | names.Regions(group=group) | names.Machines(group=group):
            return _no_group(group, app)
        case names.MachineAddress(id=ident):
            known = ident in app.by_id or ident in app.by_name
            return None if known else NoSuchName("no such machine")
        case names.Services(service=service, protocol=protocol, region=region, group=group):
            if lacking := _no_region(region, app, view) or _no_group(group, app):
                return lacking
            if (service, protocol) in app.by_service:
                return None
            return NoSuchName("no machine of the app publishes this service")
        case names.Metadata() | names.Instances():
            return None
        case _:
            assert_never(asked)


def _no_region(region: bytes | None, app: App, view: View) -> NoSuchName | None:
    if region is None or region in app.by_region or region in view.catalog.regions:
        return None
    return NoSuchName("no such region")


def _no_group(group: bytes | None, app: App) -> NoSuchName | None:
    return None if group is None or group in app.by_group else NoSuchName("no such process group")


def _of_app(asked: OfApp, app: App, view: View) -> LookupResult:
    """Return the records of a name of *app*, which exists."""
    if lacking := _lacking(asked, app, view):
        return lacking
    match asked:
        case names.Addresses() | names.Metadata():
            chosen = selected(asked, app)
            return _set(chosen, view, pageable=True, note=unready(chosen))
        case names.MachineAddress(id=ident):
            machine = app.by_id.get(ident)
            if machine is None:
                return _set(app.by_name[ident], view)
            return (
                Node((addresses((machine.address,)),))
                if machine.visible
                else Node((), "the machine is not started")
            )
        case names.Nearest():
            return _nearest(asked, app, view)
        case names.Regions() | names.Machines() | names.Instances():
            return Node((_list(asked, app, view),))
        case names.Services():
            return _services(asked, app, view)
        case _:
            assert_never(asked)


# ── sets of addresses ─────────────────────────────────────────────────────────────────────────────


def selected(asked: names.Addresses | names.Metadata, app: App) -> MachineSet:
    """Return the machines in the answer, from the indexes.

    `mismatch` and `readiness` apply the same rules to one machine and put them into words.
    """
    match asked:
        case names.Addresses():
            _, region, group = asked
            return app.selection(region, group)
        case names.Metadata(key=key, value=value):
            if key is None:
                return NO_MACHINES
            if value is None:
                return app.by_key.get(key, NO_MACHINES)
            return app.by_key_value.get((key, value), NO_MACHINES)
        case _:
            assert_never(asked)


def mismatch(machine: Machine, asked: names.Asked, app: App) -> str:
    """Say why *asked* does not select *machine* of *app*; an empty text when it does.

    The machine's state is not considered.
    """
    match asked:
        case names.Page(of=of) | names.EmptyNonTerminal(of=of):
            return mismatch(machine, of, app)
        case names.Addresses():
            _, region, group = asked
            return _elsewhere(machine, region, group)
        case names.Nearest(group=group) | names.Regions(group=group) | names.Machines(group=group):
            return _elsewhere(machine, None, group)
        case names.MachineAddress(id=ident):
            if ident in app.by_id or machine.name != ident:
                return "" if machine.id == ident else "has a different id"
            return ""
        case names.Metadata(key=key, value=value):
            values = [v.lower() for k, v in machine.metadata if k.lower() == key]
            if not values:
                return "metadata lacks the key"
            return "" if value is None or value in values else "metadata has a different value"
        case names.Services(service=service, protocol=protocol, region=region, group=group):
            if not any((s.name, s.protocol) == (service, protocol) for s in machine.services):
                return "does not publish the service"
            return _elsewhere(machine, region, group)
        case (
            names.Apex() | names.Apps() | names.Instances() | names.Peers() | names.PeerAddress()
            | names.ServerAddress() | names.ApiAddress() | names.WhoAmI() | names.Flycast()
            | names.Reverse() | names.NoSuchForm()
        ):  # fmt: skip
            return ""
        case _:
            assert_never(asked)


def _elsewhere(machine: Machine, region: bytes | None, group: bytes | None) -> str:
    if region is not None and machine.region != region:
        return f"region is {machine.region.decode()}"
    if group is not None and machine.group != group:
        return f"process group is {machine.group.decode()}"
    return ""


def readiness(asked: names.Asked, app: App) -> tuple[bool, str]:
    """Return whether *asked* leaves out unready machines, and the note of the reply if not.

    When no machine is ready, all are shown and the note says so. Lists and `<id>.vm` ignore
    readiness.
    """
    match asked:
        case names.Page(of=of):
            return readiness(of, app)
        case names.Addresses() | names.Metadata():
            note = unready(selected(asked, app))
        case names.Nearest(group=group):
            note = unready(app.selection(None, group))
        case names.Services(service=service, protocol=protocol, region=region, group=group):
            note = _unready_services(app.published((service, protocol), region, group))
        case (
            names.Apex() | names.Apps() | names.Instances() | names.Peers() | names.PeerAddress()
            | names.ServerAddress() | names.ApiAddress() | names.WhoAmI() | names.MachineAddress()
            | names.Regions() | names.Machines() | names.Flycast() | names.Reverse()
            | names.EmptyNonTerminal() | names.NoSuchForm()
        ):  # fmt: skip
            return False, ""
        case _:
            assert_never(asked)
    return not note, note


def unready(chosen: MachineSet) -> str:
    """Return the note for an answer of unready machines, empty when they are ready."""
    return _none_ready(len(chosen.machines)) if chosen.none_ready else ""


def _unready_services(published: Sequence[PublishedService]) -> str:
    return "" if not published or published[0][0].ready else _none_ready(len(published))


def _none_ready(visible: int) -> str:
    return f"none of {visible} is ready; all are shown"


def _set(chosen: MachineSet, view: View, *, pageable: bool = False, note: str = "") -> Node:
    """Return the AAAA RRset of *chosen*, or the reason why it is empty."""
    machines = chosen.spread
    if not machines:
        return Node((), none_started(chosen.total))
    if len(machines) <= MAX_ADDRESSES:
        return Node((addresses(tuple(m[2] for m in machines), pageable=pageable),), note=note)
    shown = _rotated_part(machines, view.limit // ADDRESS_RR, view.rotation)
    all_rdata = partial(map, itemgetter(2), machines)
    part = _part_of([m[2] for m in shown], len(machines), all_rdata, pageable=pageable)
    return Node((part,), note=note)


def _rotated_part(members: Sequence[T], count: int, rotation: int) -> list[T]:
    """Return the *count* members, or all, that *rotation* puts first."""
    at, count = rotation % len(members), min(count, len(members))
    shown = members[at : at + count]
    return [*shown, *members[: count - len(shown)]]


def _part_of(
    shown: Sequence[bytes],
    total: int,
    all_rdata: Callable[[], Iterable[bytes]] | None = None,
    *,
    pageable: bool = False,
) -> RRset:
    """Return a set of *total* addresses, of which no message can hold more than *shown*.

    The answer table may store it when *all_rdata* returns all addresses.
    """
    return RRset(
        Type.AAAA,
        (tuple(shown),),
        pageable=pageable,
        stored=all_rdata is not None,
        total=total,
        all_rdata=all_rdata,
    )


def none_started(matching: int) -> str:
    """Say why there is no address although *matching* machines match."""
    return (
        f"{matching} machine{'s' * (matching != 1)}, none started"
        if matching
        else "no machine matches"
    )


def _flycast(flycasts: tuple[bytes, ...], view: View) -> Node:
    """Return the flycast addresses; the catalog has them in canonical order."""
    if len(flycasts) <= MAX_ADDRESSES:
        return Node((addresses(flycasts, pageable=True),))
    shown = _rotated_part(flycasts, view.limit // ADDRESS_RR, view.rotation)
    return Node((_part_of(shown, len(flycasts), partial(iter, flycasts), pageable=True),))


def _nearest(asked: names.Nearest, app: App, view: View) -> Node:
    """Return `top<N>`: the addresses and, for a whole app, a TXT list with the cost of each."""
    nearest = distances(app, asked.group, view.here, view.catalog)
    chosen = app.selection(None, asked.group)
    if not nearest.size:
        texts = () if asked.group is not None else (TextList.of((), stored=False),)
        return Node(texts, none_started(chosen.total))
    sets: list[RRset | TextList] = [_nearest_addresses(nearest, asked.count, view)]
    if asked.group is None:
        # For any other query type an empty list stands in: only its type is looked at.
        wanted = view.qtype == Type.TXT
        sets.append(_costs(nearest, asked.count, view) if wanted else TextList(Text(), 0))
    return Node(tuple(sets), note=unready(chosen))


def _nearest_addresses(nearest: Distances, count: int, view: View) -> RRset:
    if nearest.size <= MAX_ADDRESSES:
        return RRset(Type.AAAA, nearest.groups(count), count)
    total = min(count, nearest.distinct)
    return _part_of(nearest.first(min(total, view.limit // ADDRESS_RR), view.rotation), total)


def _costs(nearest: Distances, count: int, view: View) -> TextList:
    ends: dict[bytes, bytes] = {}  # by region: the text after the machine's id

    def encode(machines: Sequence[Machine]) -> Text:
        for region in {machine.region for machine in machines}.difference(ends):
            cost = view.catalog.cost(view.here.region, region)
            ends[region] = b" %s %s" % (region, b"-" if cost is None else b"%d" % int(cost + 0.5))
        return Text.of([machine.id + ends[machine.region] for machine in machines])

    total = min(count, nearest.size)
    # An item has at least six octets, so no message holds more of them than this.
    machines = nearest.machines(min(total, MAX_MESSAGE // 6), view.rotation)
    return TextList(encoded(machines, encode), total, stored=False)


def _services(asked: names.Services, app: App, view: View) -> Node:
    """Return the SRV RRset of a service, one RR per machine, and the machines' addresses."""
    key = asked.service, asked.protocol
    published: Sequence[PublishedService] = app.published(key, asked.region, asked.group)
    note = _unready_services(published)
    if not published:
        narrowed = asked.region is not None or asked.group is not None
        return Node(
            (),
            "no started machine publishes this service" + " here" * narrowed,
        )
    rest = (b"vm", app.name, b"internal")
    end = names.wire(rest)
    octets = len(published) * (SRV_RR + 1 + len(end))
    if octets <= MAX_MESSAGE:
        octets += sum(len(machine[0]) - 1 for machine, _ in published)
    total = len(published) if octets > MAX_MESSAGE else 0
    if total:
        published = _rotated_part(published, view.limit // (SRV_RR + 1 + len(end)), view.rotation)
        sizes = accumulate(SRV_RR + len(end) + len(machine.id) for machine, _ in published)
        published = published[: bisect_right([*sizes], view.limit)]
    starts = {service[2:]: srv(*service[2:]) for service in {service for _, service in published}}
    rdata = dict.fromkeys(
        [b"%b%c%b%b" % (starts[s[2:]], len(m[0]), m[0], end) for m, s in published]
    )
    extra = dict.fromkeys(
        () if total else (Extra(machine.id, rest, machine.address) for machine, _ in published)
    )
    rrset = RRset(Type.SRV, (tuple(rdata),), extra=tuple(extra), stored=not total, total=total)
    return Node((rrset,), note=note)


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────

# The fewest octets that an item and its separator can have. The item count alone then shows that a
# list is too long for its message.
_LEAST_LABEL: Final = 2
_LEAST_MACHINE: Final = 4
_LEAST_INSTANCE: Final = len(b"instance=a,app=a,ip=::,region=a;")

OneAppsList = names.Regions | names.Machines | names.Instances


def _too_long(count: int, least: int, view: View) -> TextList | None:
    """Return the list unbuilt when *count* items of *least* octets do not fit the message."""
    octets = count * least
    if view.limit >= MAX_MESSAGE or octets <= view.limit:
        return None
    return TextList(Text(), count, pageable=True, least=octets)


def _labels(kind: str, labels: Sequence[bytes], view: View) -> TextList:
    """Return a list of names of the whole network: apps or peers."""
    if too_long := _too_long(len(labels), _LEAST_LABEL, view):
        return too_long
    lists = view.who.network.lists
    if kind not in lists:
        lists[kind] = encoded(labels, Text.of)
    return TextList(lists[kind], len(labels), pageable=True)


def _all_instances(network: Network, every: bool, view: View) -> TextList:
    """Return the machines of all apps, joined from the text that each app caches."""
    before = network.app_index.before(every=every)
    if too_long := _too_long(before[-1], _LEAST_INSTANCE, view):
        return too_long
    parts = (
        _text_of(names.Instances(name, every), network.apps[name])
        for number, name in enumerate(network.app_index.names)
        if before[number + 1] > before[number]
    )
    return TextList(Text.joined(parts), before[-1], pageable=True)


def _list(asked: OneAppsList, app: App, view: View) -> TextList:
    """Return a list of one app."""
    match asked:
        case names.Regions():
            count = None
        case names.Machines() | names.Instances():
            count = len(_shown(asked, app))
            least = _LEAST_INSTANCE if isinstance(asked, names.Instances) else _LEAST_MACHINE
            if too_long := _too_long(count, least, view):
                return too_long
        case _:
            assert_never(asked)
    text = _text_of(asked, app)
    return TextList(text, len(text.sizes) if count is None else count, pageable=True)


def _text_of(asked: OneAppsList, app: App) -> Text:
    """Return the text of a list of one app, which caches it."""
    match asked:
        case names.Regions(group=group, every=every):
            key = ("regions", group, every)
        case names.Machines(group=group, every=every):
            key = ("vms", group, every)
        case names.Instances(every=every):
            key = ("_instances", None, every)
        case _:
            assert_never(asked)
    if key not in app.lists:
        app.lists[key] = _encoded(asked, app, _shown(asked, app))
    return app.lists[key]


def _shown(asked: OneAppsList, app: App) -> Sequence[Machine]:
    """Return the machines that a list of *app* shows, in order of id."""
    shown = app.listed if asked.every else app.started
    group = None if isinstance(asked, names.Instances) else asked.group
    if group is None or len(app.by_group) == 1:
        return shown
    return app.shown_by_group(every=asked.every).get(group, ())


def _encoded(asked: OneAppsList, app: App, machines: Sequence[Machine]) -> Text:
    """Encode *machines* as the list that *asked* stands for."""
    match asked:
        case names.Regions():
            return encoded(_regions(machines), Text.of)
        case names.Machines():
            return encoded(machines, _machines)
        case names.Instances():
            return encoded(machines, _instances)
        case _:
            assert_never(asked)


def _regions(machines: Sequence[Machine]) -> list[bytes]:
    return sorted(set(map(itemgetter(3), machines)))


def _machines(machines: Sequence[Machine]) -> Text:
    return Text.of([b"%b %b" % (m[0], m[3]) for m in machines])


def _instances(machines: Sequence[Machine]) -> Text:
    """Encode `instance=,app=,ip=,region=` of each machine.

    The fields keep this order: known clients split by position.
    """
    # Hot path: one format per item takes half as long as formatting the address separately.
    return Text.of(
        [
            _INSTANCE % (m[0], m[1], *address_groups(m[2]), m[3])
            if TWO_ZEROS not in m[2]
            else b"instance=%b,app=%b,ip=%b,region=%b" % (m[0], m[1], address_text(m[2]), m[3])
            for m in machines
        ],
        b";",
    )


_INSTANCE: Final = b"instance=%b,app=%b,ip=" + ADDRESS_FORMAT + b",region=%b"


def _whoami(view: View) -> TextList:
    fields = {
        b"network": view.who.network.label,
        b"region": view.here.region or b"",
        b"address": address_text(view.who.source),
        b"server": view.server_region or b"",
        b"revision": b"%d" % view.who.network.revision,
    }
    return TextList.of([b"%s=%s" % field for field in fields.items()], stored=False)


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────


def _page(of: names.Pageable, number: int, view: View) -> LookupResult:
    """Return page *number* of a set or list in canonical order.

    Addresses are in ascending order; lists keep their order.
    """
    app = exists(of, view)
    if isinstance(app, NoSuchName):
        return app
    network, start = view.who.network, (number - 1) * PAGE
    match of:
        case names.Addresses() | names.Metadata():
            assert app is not None
            chosen = selected(of, app)
            if not chosen.machines:
                return Node((), none_started(chosen.total))
            part = tuple(m[2] for m in chosen.canonical[start : start + PAGE])
            if not part:
                return Node((), "past the last page")
            return Node((addresses(part),), note=unready(chosen))
        case names.Flycast(app=name):
            part = network.flycasts[name][start : start + PAGE]
            return Node((addresses(part),)) if part else Node((), "past the last page")
        case names.Apps():
            return _page_of(Text.of(network.app_index.names[start : start + PAGE]))
        case names.Peers():
            return _page_of(Text.of(network.peer_names[start : start + PAGE]))
        case names.Instances(app=None, every=every):
            return _page_of(_instances([*_from(network, start, every)]))
        case names.Regions():
            assert app is not None
            if start >= len(app.by_region):
                return _page_of(Text())
            return _page_of(Text.of(_regions(_shown(of, app))[start : start + PAGE]))
        case names.Machines() | names.Instances():
            assert app is not None
            return _page_of(_encoded(of, app, _shown(of, app)[start : start + PAGE]))
        case _:
            assert_never(of)


def _page_of(text: Text) -> Node:
    return Node((TextList(text, len(text.sizes)),))


def _from(network: Network, start: int, every: bool) -> Iterator[Machine]:
    """Yield the machines of one page of `_instances`, the first at index *start*."""
    names, before = network.app_index.names, network.app_index.before(every=every)
    if start >= before[-1]:
        return
    number, left = bisect_right(before, start) - 1, PAGE
    while left > 0 and number < len(names):
        app = network.apps[names[number]]
        machines = app.listed if every else app.started
        at = max(0, start - before[number])
        yield from machines[at : at + left]
        left -= len(machines[at : at + left])
        number += 1


# ── reverse names ─────────────────────────────────────────────────────────────────────────────────


def _reverse(network: Network, nibbles: bytes) -> LookupResult:
    """Return the PTR RRs of an address, or an empty node for an ancestor of an answerable one."""
    low, high = (bytes.fromhex(nibbles.ljust(32, fill).decode()) for fill in (b"0", b"f"))
    shared = server_address(network)
    if low == high:
        owners = network.owners.get(low) or (((b"_dns", b"internal"),) if low == shared else ())
        if not owners:
            return NoSuchName("no name in this network has this address")
        return Node((RRset(Type.PTR, tuple((names.wire(owner),) for owner in owners)),))
    if low <= shared <= high or network.owns_between(low, high):
        return Node(())
    return NoSuchName("no address of this network is below this name")


def server_address(network: Network) -> bytes:
    """`fdaa::3`, the server address that every network may query."""
    return network.prefix[:2] + bytes(13) + b"\x03"
