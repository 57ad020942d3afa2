"""Find the answers that a change would alter, before it is made.

This covers every name whose answer differs, whoever queries it: apps, lists, metadata, services,
peers, flycasts, reverse names, records, wildcards (as `*.apps.internal`), zones, and the aliases of
any of these. It omits names that repeat another one (`global.`, pages, empty non-terminals of the
grammar), `nearest`, whose answer depends on where the client is, and the names of an app in regions
where it has no machine before or after. Of an alias that leads to a name outside only the alias is
known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from socket import AF_INET6, inet_ntop
from struct import unpack
from typing import Any, Final

import dns.name

from internal_dns.core import names
from internal_dns.core.catalog import App, Catalog, Network, NetworkId, changed
from internal_dns.core.lookup import Node, NoSuchName, View, find
from internal_dns.core.names import Labels, printable
from internal_dns.core.own import ALIAS, RECORD_TYPES, unpack_sets
from internal_dns.core.records import PAGE, TTL, RRset, TextList, srv
from internal_dns.core.requester import Requester, network_of
from internal_dns.core.resolve import Outside, TooLong, labels_of, walk, zone_for
from internal_dns.core.text import Text
from internal_dns.core.wire import Type
from internal_dns.store.presentation import rdata_text
from internal_dns.store.sqlite import Reader
from internal_dns.store.writer import Delete, Put, Writer

EMPTY: Final = "(empty)"
NO_RECORDS: Final = "-"  # in place of the type: the name has no records of any type
NO_DATA: Final = "no data"
OUTSIDE: Final = "a name outside"
# Members of a set or list that are shown; of larger ones only those that differ.
MAX_SHOWN: Final = 20

_PLAIN: Final = re.compile(rb"[A-Za-z0-9_-]+")
_SPECIAL: Final = frozenset(b'"().;\\@$')

_ANY_TYPE: Final = tuple(Type(number) for number in RECORD_TYPES.values() if number != ALIAS)
_THROUGH_ALIAS: Final = (Type.AAAA, Type.A, Type.SRV)
_ALIASES: Final = (int(Type.CNAME), ALIAS)
_APEX_TYPES: Final = frozenset({int(Type.SOA), int(Type.NS)})


@dataclass(frozen=True, slots=True)
class OwnName:
    """A name that the network's records may answer."""

    labels: Labels


Query = names.Asked | OwnName
Named = Iterator[tuple[Query, str]]


@dataclass(frozen=True, slots=True)
class Members:
    """The records of a set in any order, or the items of a list in its order."""

    type: Type
    members: frozenset[bytes] | tuple[bytes, ...]
    separator: str = ""
    ttl: int = TTL


Contents = Members | str


@dataclass(frozen=True, slots=True)
class Shown:
    """The records of one type at a name, in presentation form, or why there are none."""

    members: tuple[str, ...]
    separator: str = ", "
    ttl: int = 0  # 0: there are none

    def text(self, other: Shown) -> str:
        """Return one line; of many members, those that *other* lacks, and counts."""
        end = f" (TTL {self.ttl})" if self.ttl != other.ttl and self.ttl and other.ttl else ""
        return self._words(other) + end

    def _words(self, other: Shown) -> str:
        if len(self.members) <= MAX_SHOWN:
            return self.separator.join(self.members) or EMPTY
        others = frozenset(other.members)
        differing = [member for member in self.members if member not in others]
        parts = [self.separator.join(differing[:MAX_SHOWN])] if differing else []
        if (more := len(differing) - MAX_SHOWN) > 0:
            parts.append(f"{more:,} more")
        if same := len(self.members) - len(differing):
            parts.append(f"{same:,} unchanged")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Preview:
    """The first answers that would change, their total count, and other effects as notes."""

    answers: list[dict[str, Any]]
    count: int
    notes: list[str]


def find_changed_answers(
    writer: Writer, puts: Sequence[Put], deletes: Sequence[Delete], limit: int
) -> Preview:
    """Return network, name, type, and answer before and after, for each answer that the change
    would alter; at most *limit* of them.

    The change is made, read, and rolled back inside one transaction. Raises RejectedChange as the
    change itself would.
    """
    before = _read(writer, Catalog())
    with writer.uncommitted(puts, deletes):
        after = _read(writer, before)
    changed_answers: list[dict[str, Any]] = []
    count = 0
    for number, labels in sorted(changed(before, after), key=lambda change: change[0]):
        views = [_view(catalog, number, writer.rules.prefix) for catalog in (before, after)]
        network = after.networks.get(number) or before.networks[number]
        name_of_network = printable(network.label)
        prefix = writer.rules.prefix
        queries = chain(
            _names(number, labels, before, after), _own_names(labels, views[0], views[1], prefix)
        )
        for query, name in queries:
            old, new = (_contents(query, name, view, prefix) for view in views)
            for qtype in sorted((old.keys() | new.keys()) - {NO_RECORDS}) or [NO_RECORDS]:
                old_answer, new_answer = (
                    one.get(qtype) or one.get(NO_RECORDS, NO_DATA) for one in (old, new)
                )
                if old_answer == new_answer:
                    continue
                count += 1
                if len(changed_answers) < limit:
                    old_shown, new_shown = _shown(old_answer), _shown(new_answer)
                    changed_answers.append(
                        {
                            "network": name_of_network,
                            "name": name,
                            "type": qtype,
                            "before": old_shown.text(new_shown),
                            "after": new_shown.text(old_shown),
                        }
                    )
    return Preview(changed_answers, count, _notes(before, after))


def _notes(before: Catalog, after: Catalog) -> list[str]:
    places = "regions", "latency", "hosts"
    if all(getattr(before, part) == getattr(after, part) for part in places):
        return []
    return ["regions, latency or hosts change: `nearest` names may order their answers differently"]


def _read(writer: Writer, previous: Catalog) -> Catalog:
    """Read the catalog as the writer's connection sees it, uncommitted changes included."""
    reader = Reader(writer.path, rules=writer.rules)
    reader.connection = writer.connection
    return reader.read_inside(previous).catalog


# ── the names that a change may concern ───────────────────────────────────────────────────────────


def _names(
    number: NetworkId, labels: frozenset[bytes] | None, before: Catalog, after: Catalog
) -> Named:
    """Yield the names that a change of these apps and flycasts may affect; None means all of
    them."""
    old, new = (catalog.networks.get(number) for catalog in (before, after))
    networks = [network for network in (old, new) if network]
    if labels is None:
        labels = frozenset(label for n in networks for label in (*n.apps, *n.flycasts))
    yield names.Apps(), "_apps.internal"
    yield names.Peers(), "_peer.internal"
    yield names.Instances(None), "_instances.internal"
    yield names.Instances(None, every=True), "all._instances.internal"
    for peer in sorted({peer for n in networks for peer in n.peers}):
        if not _same(old and old.peers.get(peer), new and new.peers.get(peer)):
            yield names.PeerAddress(peer), f"{_label(peer)}._peer.internal"
    yield from _of_addresses(old, new)
    for label in sorted(labels):
        old_app, new_app = (n.apps.get(label) if n else None for n in (old, new))
        # A region that is added or removed makes names of every app exist, or not.
        if not _same(old_app, new_app) or before.regions.keys() != after.regions.keys():
            yield from _of_app(
                label, old_app, new_app, before.regions.keys() ^ after.regions.keys()
            )
        yield names.Flycast(label), f"{_label(label)}.flycast"


def _same(before: object, after: object) -> bool:
    """Whether two parts of a catalog are equal; None stands for an absent part."""
    return before is after or before == after


def _of_app(
    label: bytes, old_app: App | None, new_app: App | None, regions: frozenset[bytes] | set[bytes]
) -> Named:
    app, apps = _label(label), [one for one in (old_app, new_app) if one is not None]
    groups = sorted({group for one in apps for group in one.groups})
    regions = {region for one in apps for region in one.regions} | regions
    yield names.Addresses(label), f"{app}.internal"
    for group in (None, *groups):
        below = f"{_label(group)}.process.{app}.internal" if group else f"{app}.internal"
        if group:
            yield names.Addresses(label, group=group), below
        for every, words in (False, ""), (True, "all."):
            yield names.Regions(label, group, every=every), f"{words}regions.{below}"
            yield names.Machines(label, group, every=every), f"{words}vms.{below}"
        for region in sorted(regions):
            yield names.Addresses(label, region, group), f"{_label(region)}.{below}"
    for every, words in (False, ""), (True, "all."):
        yield names.Instances(label, every=every), f"{words}_instances.{app}.internal"
    for service, protocol in sorted({published for one in apps for published in one.services}):
        start = f"_{_label(service)}._{_label(protocol)}"
        for group in (None, *groups):
            below = f"{_label(group)}.process.{app}.internal" if group else f"{app}.internal"
            yield names.Services(label, service, protocol, None, group), f"{start}.{below}"
            for region in sorted(regions):
                name = f"{start}.{_label(region)}.{below}"
                yield names.Services(label, service, protocol, region, group), name
    yield from _of_metadata(label, apps)
    for ident in sorted({machine.id for one in apps for machine in one.machines}):
        if not _same(old_app and old_app.by_id.get(ident), new_app and new_app.by_id.get(ident)):
            yield names.MachineAddress(label, ident), f"{_label(ident)}.vm.{app}.internal"
    for called in sorted({name for one in apps for name in one.by_name}):
        yield names.MachineAddress(label, called), f"{_label(called)}.vm.{app}.internal"


def _of_metadata(label: bytes, apps: list[App]) -> Named:
    """Yield the metadata names that can be queried: keys without a dot, and values without an empty
    part."""
    below = f"kv._metadata.{_label(label)}.internal"
    pairs = {
        (key.lower(), value.lower())
        for one in apps
        for machine in one.machines
        for key, value in machine.metadata
        if _is_label(key) and b"." not in key
    }
    for key in sorted({key for key, _ in pairs}):
        yield names.Metadata(label, key, None), f"{_label(key)}.{below}"
    for key, value in sorted(pairs):
        if all(map(_is_label, value.split(b"."))):
            name = f"{'.'.join(map(_label, value.split(b'.')))}.{_label(key)}.{below}"
            yield names.Metadata(label, key, value), name


def _is_label(text: bytes) -> bool:
    return 0 < len(text) <= 63


def _of_addresses(old: Network | None, new: Network | None) -> Named:
    """Yield the reverse name of each address whose owners change."""
    old_owners, new_owners = (network.owners if network else {} for network in (old, new))
    for address in sorted(old_owners.keys() | new_owners.keys()):
        if old_owners.get(address) != new_owners.get(address):
            nibbles = address.hex()
            yield names.Reverse(nibbles.encode()), f"{'.'.join(reversed(nibbles))}.ip6.arpa"


# ── records and zones ─────────────────────────────────────────────────────────────────────────────


def _own_names(labels: frozenset[bytes] | None, old: View, new: View, prefix: bytes) -> Named:
    """Yield the names of records and zones that a change may affect: those that change themselves,
    those that exist or not through others, and the aliases whose way passes what changes."""
    before, after = old.who.network, new.who.network
    owners = _differing(before.records, after.records) | (before.zones ^ after.zones)
    owners |= before.below.keys() ^ after.below.keys()
    for network, view in (before, old), (after, new):
        # What is asked for ANY passes every name that any type passes.
        owners |= {
            owner
            for owner, packed in network.records.items()
            if owner not in owners
            and any(one.type in _ALIASES for one in unpack_sets(packed))
            and (labels is None or _passes(labels_of(owner), view, labels, prefix))
        }
    for owner in sorted(owners, key=_canonical_order):
        name = labels_of(owner)
        if name and any(zone_for(name, network, prefix) for network in (before, after)):
            yield OwnName(name), _name_text(owner).removesuffix(".")


def _differing(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]) -> set[bytes]:
    if before is after:
        return set()
    return {
        owner for owner in before.keys() | after.keys() if before.get(owner) != after.get(owner)
    }


def _canonical_order(name: bytes) -> Labels:
    return labels_of(name)[::-1]


def _passes(name: Labels, view: View, labels: frozenset[bytes], prefix: bytes) -> bool:
    """Whether the way from an alias passes one of the parts *labels*."""
    if not zone_for(name, view.who.network, prefix):
        return False
    return any(
        (way := walk(name, replace(view, qtype=qtype), prefix)).parts is None
        or not labels.isdisjoint(way.parts)
        for qtype in _THROUGH_ALIAS
    )


def _own_contents(name: Labels, view: View, prefix: bytes) -> dict[str, Contents]:
    """Return the records of a name that records may answer, by type, through its aliases."""
    zone = zone_for(name, view.who.network, prefix)
    if not zone:
        return {NO_RECORDS: OUTSIDE}
    contents: dict[str, Contents] = {}
    why = NO_DATA
    for qtype in _ANY_TYPE:
        way = walk(name, replace(view, qtype=qtype), prefix)
        match way.found:
            case Outside():
                why = f"an alias of {_name_text(names.wire(way.labels))}"
            case TooLong():
                return {NO_RECORDS: "SERVFAIL (a chain of more than 8 aliases)"}
            case NoSuchName(reason=reason):
                why = f"NXDOMAIN ({reason})"
            case found:
                one = found.of_type(qtype)
                if one is not None:
                    contents[qtype.name] = _all_members(one, names.NoSuchForm(""), view)
                elif not contents and (lack := _lack(found)):
                    why = f"{NO_DATA} ({lack})"
    return contents or {NO_RECORDS: why}


def _lack(found: Node) -> str:
    """Return why a name has no data; empty: an apex, which always has SOA and NS."""
    return "" if any(one.type in _APEX_TYPES for one in found.sets) else found.lack


# ── an answer in presentation form ────────────────────────────────────────────────────────────────


def _view(catalog: Catalog, number: NetworkId, prefix: bytes) -> View:
    return View(Requester(network_of(catalog, number, prefix), bytes(16), mapped=True), catalog)


def _contents(query: Query, name: str, view: View, prefix: bytes) -> dict[str, Contents]:
    """Return the records of a name by type; under NO_RECORDS why it has none."""
    if isinstance(query, OwnName):
        return _own_contents(query.labels, view, prefix)
    result = find(query, view)
    if isinstance(result, NoSuchName) and view.who.network.records:  # which may have it
        labels = dns.name.from_text(name).canonicalize().labels[:-1]
        if zone_for(labels, view.who.network, prefix) == names.INTERNAL:
            return _own_contents(labels, view, prefix)
    if isinstance(result, NoSuchName):
        return {NO_RECORDS: f"NXDOMAIN ({result.reason})"}
    return {one.type.name: _all_members(one, query, view) for one in result.sets} or {
        NO_RECORDS: f"{NO_DATA} ({result.lack})"
    }


def _all_members(result: RRset | TextList, query: names.Asked, view: View) -> Members:
    """Return all members, even those that one message has no room for."""
    if isinstance(result, TextList):
        parts = [result.text]
        if isinstance(query, names.Pageable) and len(result.text.sizes) < result.count:
            pages = _pages(query, result.count, view)
            parts = [one.text for one in pages if isinstance(one, TextList)]
        return Members(
            result.type,
            tuple(item for part in parts for item in _items(part)),
            parts[0].octets[-1:].decode() or ",",
        )
    members = {rdata for tied in result.groups for rdata in tied}
    if len(members) < result.total and result.all_rdata is not None:
        members = set(result.all_rdata())
    if len(members) < result.total and isinstance(query, names.Services):
        app = view.who.network.apps[query.app]
        published = app.published((query.service, query.protocol), query.region, query.group)
        members = {
            srv(service.port, service.priority, service.weight)
            + names.wire((machine.id, b"vm", app.name, b"internal"))
            for machine, service in published
        }
    elif len(members) < result.total and isinstance(query, names.Pageable):
        pages = _pages(query, result.total, view)
        sets = (one for one in pages if isinstance(one, RRset))
        members = {rdata for one in sets for tied in one.groups for rdata in tied}
    return Members(result.type, frozenset(members), ttl=result.ttl)


def _pages(of: names.Pageable, total: int, view: View) -> Iterator[RRset | TextList]:
    """Yield each page of a list or set of *total* members."""
    for number in range(1, -(-total // PAGE) + 1):
        result = find(names.Page(of, number), view)
        if not isinstance(result, NoSuchName):
            yield from result.sets


def _items(text: Text) -> Iterator[bytes]:
    start = 0
    for size in text.sizes:
        yield text.octets[start : start + size - 1]
        start += size


def _shown(contents: Contents) -> Shown:
    match contents:
        case Members(members=tuple(items), separator=separator):
            return Shown(tuple(map(printable, items)), separator, contents.ttl)
        case Members(type=qtype, members=rdata):
            shown = tuple(_rdata_text(qtype, one) for one in sorted(rdata))
            return Shown(shown, ttl=contents.ttl)
        case reason:
            return Shown((reason,))


def _rdata_text(qtype: Type, rdata: bytes) -> str:
    """Return rdata in presentation form."""
    match qtype:
        case Type.AAAA:
            return inet_ntop(AF_INET6, rdata)
        case Type.SRV:
            return " ".join((*map(str, unpack("!3H", rdata[:6])), _name_text(rdata[6:])))
        case _:
            return rdata_text(qtype, rdata)


def _name_text(wire: bytes) -> str:
    """Return an uncompressed name in presentation form."""
    labels, at = [], 0
    while size := wire[at]:
        labels.append(_label(wire[at + 1 : at + 1 + size]))
        at += 1 + size
    return ".".join(labels) + "."


def _label(octets: bytes) -> str:
    """Return a label in presentation form (RFC 1035 section 5.1)."""
    if _PLAIN.fullmatch(octets):
        return octets.decode()
    return "".join(map(_octet, octets))


def _octet(octet: int) -> str:
    if octet in _SPECIAL:
        return f"\\{octet:c}"
    return f"{octet:c}" if 0x20 < octet < 0x7F else f"\\{octet:03d}"
