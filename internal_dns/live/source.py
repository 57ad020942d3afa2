"""What a live source gives: whole snapshots, and hints that something changed.

An edge implements `Live`. The readers of `sources/` stay pure: an edge fetches octets, a reader
turns them into a document, `snapshot_of` turns the document into objects.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from internal_dns.sources import Imported
from internal_dns.store.declare import Document
from internal_dns.store.schema import FLAG, MACHINE_SERVICES, MACHINES, PEERS, Table

# ("machines", id) or ("peers", network id, name)
Key = tuple[str | int, ...]
# The cells of a row by column, without `source` and `updated_at`; a machine has `metadata`, a
# mapping, and `services`, a list of rows without `machine_id`.
Object = Mapping[str, Any]
Objects = Mapping[Key, Object]


class SourceAway(Exception):
    """The source gives no whole snapshot now; the text says why, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a source knows at one moment.

    *stopped*: machines that the source knows, but whose address it no longer reports, as that of a
    container that has exited. Their rows stay, as stopped ones. *unreadable*: objects that are
    there and that nobody can read. Their rows stay as they are. *notes*: what was left out or
    guessed, for people.
    """

    objects: Objects
    notes: tuple[str, ...] = ()
    stopped: frozenset[Key] = frozenset()
    unreadable: frozenset[Key] = frozenset()
    figures: Mapping[str, int | float] = field(default_factory=dict)  # for the status only


class Live(Protocol):
    """A source that can be looked at again and again."""

    async def snapshot(self) -> Snapshot:
        """Return everything, or raise SourceAway: half of it would delete the other half."""

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield a hint when something may have changed.

        A hint is never a fact: it may be lost, late, or about nothing. The iterator ends when the
        source is away; the caller asks for a new one after a while. A source without hints returns
        an iterator that ends at once.
        """


def machine_key(ident: str) -> Key:
    return (MACHINES.name, ident)


def peer_key(network: int, name: str) -> Key:
    return (PEERS.name, network, name)


def snapshot_of(imported: Imported, **more: Any) -> Snapshot:
    """Return what a reader of `sources/` has made as a snapshot."""
    return Snapshot(dict(_objects(imported.document)), tuple(imported.notes), **more)


def _objects(document: Mapping[str, Any]) -> Iterable[tuple[Key, Object]]:
    """Yield the machines and peers of a reader's document, which has only valid values."""
    for network in document.get("networks", {}).values():
        number = _number(network["id"])
        for app, of_app in network.get("apps", {}).items():
            for machine in of_app.get("machines", ()):
                row = _row(MACHINES, machine, network_id=number, app=app)
                services = [_row(MACHINE_SERVICES, one) for one in machine.get("services", ())]
                row |= {"metadata": dict(machine.get("metadata", {})), "services": services}
                yield machine_key(row["id"]), row
        for name, peer in network.get("peers", {}).items():
            yield peer_key(number, name), _row(PEERS, peer, network_id=number, name=name)


def _number(network: str | int) -> int:
    """Return the number of a network that is written as a /48 or as a number."""
    if isinstance(network, int):
        return network
    from ipaddress import IPv6Address

    packed = IPv6Address(network.removesuffix("/48")).packed
    return int.from_bytes(packed[2:6], "big")


def _row(table: Table, values: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    row = dict[str, Any](given)
    for column in table.columns:
        if column.document is None or column.name in row or column.name == "machine_id":
            continue
        value = values.get(column.document_name, column.default)
        row[column.name] = int(value) if column.domain is FLAG else value
    return row


def objects_of(document: Document) -> dict[Key, Object]:
    """Return the machines and peers of a parsed document."""
    rows = document.rows()
    found: dict[Key, Object] = {}
    metadata: dict[str, dict[str, str]] = {}
    for row in rows["machine_metadata"]:
        metadata.setdefault(row["machine_id"], {})[row["key"]] = row["value"]
    services: dict[str, list[Object]] = {}
    for row in rows["machine_services"]:
        service = {column: cell for column, cell in row.items() if column != "machine_id"}
        services.setdefault(row["machine_id"], []).append(service)
    for row in rows["machines"]:
        belongings = {
            "metadata": metadata.get(row["id"], {}),
            "services": services.get(row["id"], []),
        }
        found[machine_key(row["id"])] = row | belongings
    for row in rows["peers"]:
        found[peer_key(row["network_id"], row["name"])] = row
    return found


STOPPED: Final = "stopped"
