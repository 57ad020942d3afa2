"""Find the answers that a change would alter, before it is made.

This covers every name whose answer differs, whoever queries it: apps, lists, metadata, services,
peers, flycasts and reverse names. It omits names that repeat another one (`global.`, pages, empty
non-terminals), `nearest`, whose answer depends on where the client is, and the names of an app in
regions where it has no machine before or after.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from socket import AF_INET6, inet_ntop
from struct import unpack
from typing import Any, Final

from internal_dns.core import names
from internal_dns.core.catalog import App, Catalog, Network, NetworkId, changed
from internal_dns.core.lookup import NoSuchName, View, find
from internal_dns.core.names import printable
from internal_dns.core.records import PAGE, RRset, TextList, srv
from internal_dns.core.requester import Requester, network_of
from internal_dns.core.text import Text
from internal_dns.core.wire import Type
from internal_dns.store.sqlite import Reader
from internal_dns.store.writer import Delete, Put, Writer

EMPTY: Final = "(empty)"
NO_RECORDS: Final = "-"  # in place of the type: the name has no records of any type
NO_DATA: Final = "no data"
# Members of a set or list that are shown; of larger ones only those that differ.
MAX_SHOWN: Final = 20

_PLAIN: Final = re.compile(rb"[A-Za-z0-9_-]+")
_SPECIAL: Final = frozenset(b'"().;\\@$')

Named = Iterator[tuple[names.Asked, str]]


@dataclass(frozen=True, slots=True)
class Members:
    """The records of a set in any order, or the items of a list in its order."""

    type: Type
    members: frozenset[bytes] | tuple[bytes, ...]
    separator: str = ""


Contents = Members | str


@dataclass(frozen=True, slots=True)
class Shown:
    """The records of one type at a name, in presentation form, or why there are none."""

    members: tuple[str, ...]
    separator: str = ", "

    def text(self, other: Shown) -> str:
        """Return one line; of many members, those that *other* lacks, and counts."""
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
        for query, name in _names(number, labels, before, after):
            old, new = (_contents(query, view) for view in views)
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
        below = f"_{_label(protocol)}.{app}.internal"
        yield names.Services(label, service, protocol), f"_{_label(service)}.{below}"
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


# ── an answer in presentation form ────────────────────────────────────────────────────────────────


def _view(catalog: Catalog, number: NetworkId, prefix: bytes) -> View:
    return View(Requester(network_of(catalog, number, prefix), bytes(16), mapped=True), catalog)


def _contents(query: names.Asked, view: View) -> dict[str, Contents]:
    """Return the records of a name by type; under NO_RECORDS why it has none."""
    result = find(query, view)
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
    return Members(result.type, frozenset(members))


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
            return Shown(tuple(map(printable, items)), separator)
        case Members(type=qtype, members=rdata):
            return Shown(tuple(_rdata_text(qtype, r) for r in sorted(rdata)))
        case reason:
            return Shown((reason,))


def _rdata_text(qtype: Type, rdata: bytes) -> str:
    """Return rdata of the types a catalog holds: addresses, services, reverse names."""
    match qtype:
        case Type.AAAA:
            return inet_ntop(AF_INET6, rdata)
        case Type.SRV:
            return " ".join((*map(str, unpack("!3H", rdata[:6])), _name_text(rdata[6:])))
        case Type.PTR:
            return _name_text(rdata)
        case _:
            raise ValueError(f"no name of a catalog holds records of type {qtype}")


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
