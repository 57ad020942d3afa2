"""Tell which answers a change would alter, before it is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from internal_dns.core import names
from internal_dns.core.catalog import Catalog, Network, NetworkId, changed
from internal_dns.core.lookup import NoSuchName, View, find
from internal_dns.core.records import RRset, TextList, address_text
from internal_dns.core.requester import Requester, network_of
from internal_dns.store.sqlite import Reader
from internal_dns.store.writer import Delete, Put, Writer


def answers_that_change(
    writer: Writer, puts: Sequence[Put], deletes: Sequence[Delete]
) -> list[dict[str, Any]]:
    """Return name, network, answer before and after, for each common name whose answer the change
    would alter.

    The change is made, read, and taken back, inside one transaction. Raises Refused as making it
    would.
    """
    before = _read(writer, Catalog())
    with writer.trying(puts, deletes):
        after = _read(writer, before)
    found = []
    for number, labels in sorted(changed(before, after), key=lambda change: change[0]):
        for asked, name in _names(number, labels, before, after):
            old, new = (
                _shown(asked, number, catalog, writer.rules.prefix) for catalog in (before, after)
            )
            if old != new:
                network = after.networks.get(number) or before.networks[number]
                found.append(
                    {"network": network.label.decode(), "name": name, "before": old, "after": new}
                )
    return found


def _read(writer: Writer, previous: Catalog) -> Catalog:
    """Read the catalog as the writer's connection sees it, uncommitted changes included."""
    reader = Reader(writer.path, rules=writer.rules)
    reader.connection = writer.connection
    return reader.read_inside(previous).catalog


def _names(
    number: NetworkId, labels: frozenset[bytes] | None, before: Catalog, after: Catalog
) -> Iterator[tuple[names.Asked, str]]:
    """Yield the names that a change of these apps and flycasts may concern."""
    networks = [n for n in (before.networks.get(number), after.networks.get(number)) if n]
    if labels is None:
        labels = frozenset(label for n in networks for label in (*n.apps, *n.flycasts))
    yield names.Apps(), "_apps.internal"
    yield names.Peers(), "_peer.internal"
    yield names.Instances(None), "_instances.internal"
    for peer in sorted({peer for n in networks for peer in n.peers}):
        yield names.PeerAddress(peer), f"{peer.decode()}._peer.internal"
    for label in sorted(labels):
        app = label.decode()
        yield names.Addresses(label), f"{app}.internal"
        yield names.Regions(label, None, every=False), f"regions.{app}.internal"
        yield names.Machines(label, None, every=False), f"vms.{app}.internal"
        yield from _of_machines(label, networks)
        yield names.Flycast(label), f"{app}.flycast"


def _of_machines(label: bytes, networks: list[Network]) -> Iterator[tuple[names.Asked, str]]:
    app, apps = label.decode(), [n.apps[label] for n in networks if label in n.apps]
    for region in sorted({region for a in apps for region in a.regions}):
        yield names.Addresses(label, region), f"{region.decode()}.{app}.internal"
    for group in sorted({group for a in apps for group in a.groups}):
        yield names.Addresses(label, group=group), f"{group.decode()}.process.{app}.internal"
    for service, protocol in sorted({published for a in apps for published in a.services}):
        yield (
            names.Services(label, service, protocol),
            f"_{service.decode()}._{protocol.decode()}.{app}.internal",
        )
    for ident in sorted({i for a in apps for m in a.machines for i in (m.id, m.name) if i}):
        yield names.MachineAddress(label, ident), f"{ident.decode()}.vm.{app}.internal"


def _shown(asked: names.Asked, number: NetworkId, catalog: Catalog, prefix: bytes) -> str:
    """Return an answer in words: addresses, a list, or why there is none."""
    who = Requester(network_of(catalog, number, prefix), bytes(16), mapped=True)
    found = find(asked, View(who, catalog))
    if isinstance(found, NoSuchName):
        return f"NXDOMAIN ({found.reason})"
    if not found.sets:
        return f"no data ({found.lack})"
    match found.sets[0]:
        case TextList(text=text):
            return names.printable(text.octets[:-1])
        case RRset(groups=groups):
            rdata = sorted(rdata for tied in groups for rdata in tied)
            return ", ".join(address_text(r).decode() if len(r) == 16 else r.hex() for r in rdata)
