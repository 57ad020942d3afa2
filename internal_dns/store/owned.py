"""The rows of live sources: read those of one, change them, delete them all.

A row belongs to the source that its column `source` names. A source changes its own rows only and
adopts nothing: an object whose key or address another row has is a fault of that object, and the
others are written. `follow` is who asks for this (live/).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from internal_dns.store.json_rows import BadRequest
from internal_dns.store.schema import (
    KEYS,
    MACHINE_METADATA,
    MACHINE_SERVICES,
    MACHINES,
    OF_MACHINE,
    PEERS,
    SOURCE,
    TABLES,
)
from internal_dns.store.sqlite import source as columns_from
from internal_dns.store.writer import Delete, Put, RejectedChange, Writer, Written

Cells = dict[str, Any]
_OWNED: Final = {table.name: table for table in (MACHINES, PEERS)}
# An object is a row without these, which only the writer sets.
_SET_HERE: Final = ("source", "updated_at")


def rows(connection: sqlite3.Connection, source: str) -> list[list[Any]]:
    """Return [key, object] of every row of *source*: the row, and of a machine its metadata and
    services."""
    found: list[list[Any]] = []
    for table in _OWNED:
        for row in _select(connection, table, "source = ?", (source,)):
            for column in _SET_HERE:
                row.pop(column, None)
            found.append([[table, *(row[c] for c in KEYS[table])], row])
    machines = {key[1]: row for key, row in found if key[0] == MACHINES.name}
    for row in machines.values():
        row |= {"metadata": {}, "services": []}
    mine = "machine_id IN (SELECT id FROM machines WHERE source = ?)"
    if machines:
        for row in _select(connection, MACHINE_METADATA.name, mine, (source,)):
            machines[row["machine_id"]]["metadata"][row["key"]] = row["value"]
        for row in _select(connection, MACHINE_SERVICES.name, mine, (source,)):
            machines[row.pop("machine_id")]["services"].append(row)
    return found


def sources(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """Return how many rows of each table every source has."""
    found: dict[str, dict[str, int]] = {}
    for table in _OWNED:
        counted = connection.execute(
            f"SELECT source, count(*) FROM {columns_from(connection, table)} "
            "WHERE source <> '' GROUP BY source ORDER BY source"
        )
        for name, count in counted:
            found.setdefault(_text(name), dict.fromkeys(_OWNED, 0))[table] = count
    return found


def owners(
    connection: sqlite3.Connection, changes: Iterable[tuple[str, Cells]]
) -> Iterator[tuple[str, tuple[Any, ...], str]]:
    """Yield noun, key and source of the rows of live sources that *changes* touch.

    A change names columns of the rows: all of a key, or fewer for several rows.
    """
    seen = set()
    for named, changed in changes:
        belongs = named in OF_MACHINE
        table = MACHINES.name if belongs else named
        cells = {"id": changed.get("machine_id")} if belongs else changed
        if table not in _OWNED:
            continue
        key = {c: cells[c] for c in KEYS[table] if c in cells} or cells
        where = " AND ".join(f"{c} = ?" for c in key if c in TABLES[table]) or "0"
        bound = tuple(value for c, value in key.items() if c in TABLES[table])
        for row in _select(connection, table, f"{where} AND source <> ''", bound):
            found = tuple(row[c] for c in KEYS[table])
            if (table, found) not in seen:
                seen.add((table, found))
                yield _OWNED[table].noun, found, row["source"]


def remove(writer: Writer, source: str) -> Written:
    """Delete all rows of *source*. Raises sqlite3.Error."""
    deletes: list[Delete] = [(table, {"source": source}) for table in _OWNED]
    return writer.write([], deletes)


def apply(
    writer: Writer, source: str, puts: Sequence[Any], deletes: Sequence[Any]
) -> dict[str, Any]:
    """Write [key, object] pairs and delete keys; return revision, rows and faults.

    Rows that are as wanted are not written. Raises BadRequest, sqlite3.Error.
    """
    change = _Change(writer, source)
    wanted = [change.read(pair) for pair in puts]
    gone = [change.delete(_key(key)) for key in deletes]
    change.write([one for one in wanted if one is not None], [one for one in gone if one])
    faults = [[list(key), why] for key, why in change.faults.items()]
    return {"revision": writer.revision(), "rows": change.rows, "faults": faults}


class _Change:
    """One change of one source. `faults` has why an object was not written, by key."""

    def __init__(self, writer: Writer, source: str) -> None:
        self.writer, self.source = writer, source
        self.networks = {n for (n,) in writer.connection.execute("SELECT id FROM networks")}
        self.faults: dict[tuple[Any, ...], str] = {}
        self.rows = 0

    def read(self, pair: Any) -> tuple[tuple[Any, ...], list[Put], list[Delete]] | None:
        """Return the writes of one object, or None and record a fault."""
        try:
            raw, cells = pair
            key, object_ = _key(raw), dict(cells)
        except (TypeError, ValueError):
            raise BadRequest("`puts` must hold pairs of key and object") from None
        table, *values = key
        if [object_.get(c) for c in KEYS[table]] != values:
            raise BadRequest(f"the object of {key} has another key")
        metadata, services = object_.pop("metadata", {}), object_.pop("services", [])
        owner = self.owner(key)
        if owner is not None and owner != self.source:
            whose = f"belongs to the live source {owner}" if owner else "belongs to no live source"
            self.faults[key] = f"the row is there and {whose}"
            return None
        if object_.get("network_id") not in self.networks:
            self.faults[key] = (
                f"network {object_.get('network_id')} is not in the catalog: "
                "internal-dns network add"
            )
            return None
        puts: list[Put] = [(table, object_ | {"source": self.source})]
        gone: list[Delete] = []
        if table == MACHINES.name:
            parts = [
                (MACHINE_METADATA.name, {"machine_id": values[0], "key": name, "value": text})
                for name, text in dict(metadata).items()
            ]
            parts += [
                (MACHINE_SERVICES.name, {**service, "machine_id": values[0]})
                for service in services
            ]
            puts += parts
            gone = self.obsolete(values[0], parts)
        return key, puts, gone

    def delete(self, key: tuple[Any, ...]) -> Delete | None:
        """Return the deletion of a row, None when it is gone or another's."""
        owner = self.owner(key)
        if owner == self.source:
            return key[0], dict(zip(KEYS[key[0]], key[1:], strict=True))
        if owner is not None:
            self.faults[key] = "the row belongs to another now"
        return None

    def owner(self, key: tuple[Any, ...]) -> str | None:
        """Return whose a row is, '' for a row of no source; None when there is none."""
        table, *values = key
        where = " AND ".join(f"{c} = ?" for c in KEYS[table])
        row = self.writer.connection.execute(
            f"SELECT {SOURCE.name} FROM {table} WHERE {where}", values
        ).fetchone()
        return None if row is None else _text(row[0] or "")

    def obsolete(self, machine: str, parts: list[tuple[str, Cells]]) -> list[Delete]:
        """Return the deletions of metadata and services that *machine* no longer has."""
        wanted = {(table, *(cells.get(c) for c in KEYS[table])) for table, cells in parts}
        return [
            (table, {c: row[c] for c in KEYS[table]})
            for table in OF_MACHINE
            for row in _select(self.writer.connection, table, "machine_id = ?", (machine,))
            if (table, *(row[c] for c in KEYS[table])) not in wanted
        ]

    def write(
        self,
        objects: list[tuple[tuple[Any, ...], list[Put], list[Delete]]],
        deletes: list[Delete],
    ) -> None:
        """Write in one transaction; when a rule rejects it, halve it until the objects at fault are
        found: one tenant's object must not keep those of others out."""
        puts = [put for _, of_object, _ in objects for put in of_object]
        gone = [*deletes, *(one for _, _, of_object in objects for one in of_object)]
        if not puts and not gone:
            return
        try:
            self.rows += self.writer.write(puts, gone).rows
        except RejectedChange as error:
            if deletes and objects:
                self.write([], deletes)
                self.write(objects, [])
            elif len(objects) > 1:
                half = len(objects) // 2
                self.write(objects[:half], [])
                self.write(objects[half:], [])
            elif objects:
                self.faults[objects[0][0]] = "; ".join(error.faults)[:300]
            else:
                raise


def _key(raw: Any) -> tuple[Any, ...]:
    """Return the key of an object. Raises BadRequest."""
    if not isinstance(raw, list | tuple) or not raw or raw[0] not in _OWNED:
        raise BadRequest("a key is a list: machines and its id, or peers, network id and name")
    kinds = {"TEXT": str, "INTEGER": int}
    columns = _OWNED[raw[0]].keys
    if len(raw) != len(columns) + 1 or not all(
        isinstance(value, kinds[column.domain.sql])
        for column, value in zip(columns, raw[1:], strict=True)
    ):
        raise BadRequest(f"a key of {raw[0]} is its name and {', '.join(KEYS[raw[0]])}")
    return tuple(raw)


def _select(
    connection: sqlite3.Connection, table: str, where: str, bound: Sequence[Any]
) -> list[Cells]:
    columns = TABLES[table]
    found = connection.execute(
        f"SELECT {', '.join(columns)} FROM {columns_from(connection, table)} WHERE {where} "
        f"ORDER BY {', '.join(KEYS[table])}",
        tuple(bound),
    )
    return [
        {
            c: _text(cell) if isinstance(cell, bytes) else cell
            for c, cell in zip(columns, row, strict=True)
        }
        for row in found
    ]


def _text(cell: Any) -> str:
    return cell.decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else str(cell)
