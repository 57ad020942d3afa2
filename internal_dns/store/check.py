"""Lint a catalog: rows that were not loaded, names that cannot be queried, answers that do not fit
into a message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from internal_dns.core import names
from internal_dns.core.catalog import App, Catalog, Machine, Network
from internal_dns.core.explain import describe
from internal_dns.core.lookup import LookupResult, Node, NoSuchName, View, find, is_there
from internal_dns.core.names import APEX_WORDS, RESERVED, Labels, printable
from internal_dns.core.own import ALIAS, RecordSet, unpack_sets
from internal_dns.core.records import TextList, address_text
from internal_dns.core.requester import Requester
from internal_dns.core.resolve import MAX_ALIASES, Outside, TooLong, asked_in, labels_of, walk
from internal_dns.core.wire import Type
from internal_dns.store.declare import fields
from internal_dns.store.presentation import is_public_tld, name_text
from internal_dns.store.sqlite import Loaded

STATES: Final = frozenset(state.encode() for state in fields.STATES)
# AAAA records of 28 octets that fit into 65,535 octets with header, question and OPT.
MAX_AAAA: Final = 2_339
# Octets of TXT rdata that fit into a message with header, question and OPT.
MAX_TEXT: Final = 65_400
NEAR: Final = 0.8  # of a limit: from here on a warning
MAX_NAME: Final = 253  # characters of a name as text
MAX_RECORDS: Final = 100  # findings on records of one network, of each kind


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem. `level` is error (not served as written) or warning."""

    level: str
    where: str
    what: str
    do: str


def findings(loaded: Loaded) -> list[Finding]:
    """Return all problems: first the rows that were not loaded, then network by network."""
    problems = [
        Finding("warning", f"{fault.table} {fault.row}", fault.reason, "Correct the row")
        if fault.level == "warning"
        else Finding(
            "error",
            f"{fault.table} {fault.row}",
            f"not loaded: {fault.reason}",
            "Correct or delete the row",
        )
        for fault in loaded.faults
    ]
    if loaded.fault_count > len(loaded.faults):
        more = loaded.fault_count - len(loaded.faults)
        problems.append(
            Finding(
                "error",
                "catalog",
                f"{more:,} more rows were not loaded",
                "Correct those above first",
            )
        )
    do = "Add it: internal-dns init --upgrade FILE" + (
        "" if loaded.owned else " prints the SQL for the engine that maintains the file"
    )
    problems += [
        Finding("warning", name, "missing from the file; its default is served", do)
        for name in loaded.missing
    ]
    for _, network in sorted(loaded.catalog.networks.items()):
        problems += _network(network, loaded.catalog)
    return problems


def _network(network: Network, catalog: Catalog) -> Iterator[Finding]:
    where = f"network {network.label.decode()}"
    yield from _shared_addresses(network, where)
    yield from _shared_blocks(network, where)
    for name, app in sorted(network.apps.items()):
        yield from _app(app, f"{where} app {name.decode()}", catalog)
    requester = Requester(network, bytes(16), mapped=True)
    lists: list[tuple[str, names.Asked]] = [
        ("_apps.internal", names.Apps()),
        ("_peer.internal", names.Peers()),
        ("_instances.internal", names.Instances(None)),
        *((f"vms.{app.decode()}.internal", names.Machines(app, None, every=False))
          for app in network.apps),
        *((f"_instances.{app.decode()}.internal", names.Instances(app)) for app in network.apps),
    ]  # fmt: skip
    for title, query in lists:
        yield from _list(title, find(query, View(requester, catalog)), where)
    yield from _own(network, catalog, where)
    for name, peer in network.peers.items():
        if name == b"_page":
            yield Finding(
                "warning",
                f"{where} peer {name.decode()}",
                "_page is reserved for pages of lists",
                "Rename it",
            )
        if peer.region and peer.region not in catalog.regions:
            yield _unknown_region(f"{where} peer {name.decode()}", peer.region)


def _list(name: str, result: LookupResult, where: str) -> Iterator[Finding]:
    """Report a list that does not fit into a TCP message, or nearly does not."""
    if (
        isinstance(result, NoSuchName)
        or not result.sets
        or not isinstance(result.sets[0], TextList)
    ):
        return
    count = result.sets[0].count
    rdata, fits = result.sets[0].text.strings(MAX_TEXT)
    if fits < count:
        what = f"{name} has {count:,} items, and a message holds {fits:,} of them"
    elif len(rdata) >= NEAR * MAX_TEXT:
        what = f"{name} takes {len(rdata) / MAX_TEXT:.0%} of the largest message"
    else:
        return
    yield Finding("warning", where, what, f"Query pages: 1._page.{name} and so on")


def _own(network: Network, catalog: Catalog, where: str) -> Iterator[Finding]:
    """Report zones that hide public names, and records that are never answered or lead nowhere."""
    for apex in sorted(network.zones, key=name_text):
        if is_public_tld(apex):
            yield Finding(
                "warning",
                f"{where} zone {name_text(apex)}",
                "it is a top-level domain of the Internet: its names there are out of reach",
                "Make zones of the names that you need",
            )
    requester = Requester(network, bytes(16), mapped=True)
    shadowed, aliases = list[Finding](), list[Finding]()
    for owner in sorted(network.records):
        labels = labels_of(owner)
        if by := _shadow(labels, network, View(requester, catalog)):
            shadowed.append(
                Finding(
                    "warning",
                    f"{where} record {name_text(owner)}",
                    f"never answered: the name is taken by {by}",
                    "Give the record another name",
                )
            )
        else:
            for one in unpack_sets(network.records[owner]):
                if one.type in (ALIAS, Type.CNAME):
                    view = View(requester, catalog, qtype=Type.AAAA)
                    aliases += _alias(labels, one, view, f"{where} record ")
    for found in shadowed, aliases:
        yield from found[:MAX_RECORDS]
        if (more := len(found) - MAX_RECORDS) > 0:
            yield Finding(
                "warning", where, f"{more:,} more records like these", "Correct those above first"
            )


def _shadow(labels: Labels, network: Network, view: View) -> str:
    """Return what of the grammar has the name of a record; empty: nothing."""
    if labels[-1:] != names.INTERNAL:
        return ""
    asked = asked_in(names.INTERNAL, labels, network.prefix[:2])
    return describe(asked) if is_there(asked, view) else ""


def _alias(labels: Labels, alias: RecordSet, view: View, where: str) -> Iterator[Finding]:
    """Report an alias that leads nowhere."""
    prefix = view.who.network.prefix[:2]
    start = labels if alias.type == Type.CNAME else labels_of(alias.rdata[0])
    end = walk(start, view, prefix, 0 if alias.type == Type.CNAME else 1)
    if isinstance(end.found, Node):
        return
    where, last = where + name_text(names.wire(labels)), name_text(names.wire(end.labels))
    match end.found:
        case TooLong():
            what = f"a loop, or more than {MAX_ALIASES} aliases one after the other: SERVFAIL"
            yield Finding("error", where, what, "Let it lead to the last name itself")
        case NoSuchName(reason=reason):
            what = f"it leads to {last}, which does not exist: {reason}"
            yield Finding("warning", where, what, "Correct its target, or delete it")
        case Outside() if alias.type == ALIAS:
            what = f"it leads to {last}, a name outside, so it has no data"
            yield Finding("warning", where, what, "Use a CNAME, which may lead outside")


def _shared_addresses(network: Network, where: str) -> Iterator[Finding]:
    owners: dict[bytes, list[str]] = defaultdict(list)
    for app in network.apps.values():
        for machine in app.visible:
            owners[machine.address].append(f"machine {machine.id.decode()}")
    for peer in network.peers.values():
        owners[peer.address].append(f"peer {peer.name.decode()}")
    owners[network.server_address].insert(0, "the server itself")
    for address, owner_names in sorted(owners.items()):
        if len(owner_names) > 1:
            text = address_text(address).decode()
            yield Finding(
                "error",
                where,
                f"{text} belongs to {' and '.join(owner_names)}",
                "Give each an address of its own",
            )


def _shared_blocks(network: Network, where: str) -> Iterator[Finding]:
    """Report machines in the /112 of another: who asks from there is one machine to the server."""
    blocks: dict[bytes, dict[bytes, str]] = defaultdict(dict)
    for app in network.apps.values():
        for machine in app.visible:
            blocks[machine.address[:14]].setdefault(machine.address, machine.id.decode())
    for block, owners in sorted(blocks.items()):
        if len(owners) > 1:
            text = address_text(block + bytes(2)).decode()
            names = sorted(owners.values())
            more = f" and {len(names) - 2:,} more" if len(names) > 2 else ""
            yield Finding(
                "warning",
                where,
                f"machines {names[0]} and {names[1]}{more} share {text}/112, which belongs to one",
                "Give each a /112 of its own: internal-dns address NETWORK --host HOST --for NAME",
            )


def _app(app: App, where: str, catalog: Catalog) -> Iterator[Finding]:
    if app.name in APEX_WORDS:
        yield Finding(
            "warning",
            where,
            f"{app.name.decode()}.internal is a reserved name, not the app",
            "Rename the app; its machines stay reachable by <id>.vm and in lists",
        )
    if (count := len(app.whole.spread)) >= NEAR * MAX_AAAA:
        yield Finding(
            "warning",
            where,
            f"{count:,} addresses are more than any message holds ({MAX_AAAA:,})"
            if count > MAX_AAAA
            else f"{count:,} addresses are {count / MAX_AAAA:.0%} of what a message holds",
            "Query pages: 1._page.<app>.internal and so on",
        )
    for region in sorted(app.regions):
        if region in RESERVED:
            yield Finding(
                "warning",
                where,
                f"region {region.decode()} is a reserved word",
                "Rename the region",
            )
        if region not in catalog.regions:
            yield _unknown_region(where, region)
    for state in sorted({machine.state for machine in app.machines} - STATES):
        yield Finding(
            "warning",
            where,
            f"{printable(state)} is not a known state; only started machines are answered",
            "Correct the state of these machines if it is a typing error",
        )
    yield from _unready(app, where)
    for machine in app.machines:
        if machine.name and machine.name in app.by_id:
            yield Finding(
                "warning",
                f"{where} machine {machine.id.decode()}",
                f"its name {machine.name.decode()} is the id of a machine, which is answered",
                "Give it another name",
            )
        yield from _metadata(machine, f"{where} machine {machine.id.decode()}")


def _unready(app: App, where: str) -> Iterator[Finding]:
    """Look for sets of which no machine is ready, so that all are answered: the app, else its
    regions, groups and services."""
    sets: list[tuple[str, Sequence[Machine]]] = [("", app.whole.machines)]
    if not app.whole.none_ready:
        sets = [
            *((f"region {region.decode()}: ", some.machines) for region,
              some in app.by_region.items()),
            *((f"process group {group.decode()}: ", some.machines) for group,
              some in app.by_group.items()),
            *(
                (f"service {name.decode()}/{protocol.decode()}: ", [machine for machine, _ in some])
                for (name, protocol), some in app.by_service.items()
            ),
        ]  # fmt: skip
    for title, machines in sorted(sets, key=itemgetter(0)):
        if machines and not machines[0].ready:
            what = f"{title}none of {len(machines):,} is ready; all are answered"
            yield Finding("warning", where, what, "See why their checks fail")


def _unknown_region(where: str, region: bytes) -> Finding:
    return Finding(
        "warning",
        where,
        f"region {region.decode()} is not in table regions, so `nearest` sorts it last",
        "Add it with its coordinates",
    )


def _metadata(machine: Machine, where: str) -> Iterator[Finding]:
    for key, value in machine.metadata:
        shown = key.decode("utf-8", "backslashreplace")
        if not 0 < len(key) <= 63 or b"." in key:
            yield Finding(
                "warning",
                where,
                f"metadata key {shown!r} cannot be queried: it is not a single label",
                "Use 1 to 63 octets without a dot",
            )
            continue
        parts = value.split(b".")
        name = len(value) + len(key) + len(machine.app) + len("...kv._metadata..internal")
        if not value or not all(0 < len(part) <= 63 for part in parts):
            yield Finding(
                "warning",
                where,
                f"the value of metadata {shown!r} cannot be queried, only the key",
                "Use parts of 1 to 63 octets between dots",
            )
        elif name > MAX_NAME:
            yield Finding(
                "warning",
                where,
                f"the name for metadata {shown!r} would have {name} octets, more than {MAX_NAME}",
                "Use a shorter value",
            )
