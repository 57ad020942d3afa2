"""Export the rows of a file as the plain value of a document."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from math import isfinite
from typing import Any, Final, NamedTuple

from internal_dns.core.catalog_rules import DEFAULT_RULES, CatalogRules
from internal_dns.store.declare import fields
from internal_dns.store.declare.file import (
    COLUMNS,
    KEYS,
    OF_NETWORK,
    TABLES,
    Row,
    cell_text,
    host_text,
    is_unicode,
    key_text,
    of_networks,
    select,
    set_aside,
    snapshot,
)
from internal_dns.store.declare.values import FLAG, slash_48
from internal_dns.store.rows import shown
from internal_dns.store.schema import (
    BY_NAME,
    HOST_ID,
    MACHINES,
    NETWORK_ID,
    NETWORKS,
    REGION_LATENCY,
)
from internal_dns.store.schema import FLAG as FLAG_DOMAIN


class Exported(NamedTuple):
    """A document's plain value, and what of the file it cannot represent."""

    document: dict[str, Any]
    notes: list[str]


def export(
    connection: sqlite3.Connection,
    networks: Iterable[int] | None = None,
    *,
    rules: CatalogRules = DEFAULT_RULES,
    every_source: bool = False,
) -> Exported:
    """Return the file as a document: all of it, or only some *networks* with their organizations.

    Rows of live sources are left out with a note; with *every_source* they are there with a key
    `source`, which `parse` rejects.

    Rows are exported as they are, including those that `parse` rejects; flags as the reader
    interprets them (anything but 0 is true). Omitted with a note is what no document can represent:
    octets that are not UTF-8, blobs, infinities, and metadata or services of a machine that does
    not exist. A network without a name, or with the name of another, is named by its number, with a
    note. Raises sqlite3.Error.
    """
    only = None if networks is None else sorted(set(networks))
    with snapshot(connection):
        if only is None:
            rows = {table: select(connection, table) for table in KEYS}
        else:
            rows = of_networks(connection, only)
    notes = [] if every_source else _left_out(set_aside(rows))
    exported = _Export(rows, only, rules.prefix).exported()
    return Exported(exported.document, [*notes, *exported.notes])


def _left_out(sourced: Mapping[str, list[Row]]) -> list[str]:
    """Return a note for each live source whose rows are not exported."""
    counts = Counter(cell_text(row["source"]) for rows in sourced.values() for row in rows)
    return [
        f"source {source}: {count:,} row{'s' * (count != 1)} not exported, `follow` writes them"
        for source, count in sorted(counts.items())
    ]


class _Export:
    def __init__(
        self, rows: Mapping[str, list[Row]], only: Sequence[int] | None, prefix: bytes
    ) -> None:
        self.notes: list[str] = []
        self.only, self.prefix = only, prefix
        self.rows = {table: self.representable(table, rows[table]) for table in KEYS}

    def representable(self, table: str, rows: list[Row]) -> list[Row]:
        """Return the rows of *table* that a document can represent, sorted."""
        kept_rows = []
        for row in rows:
            why = next(
                (
                    f"{c} {why}"
                    for c in COLUMNS[table]
                    if (why := _why_unrepresentable(table, c, row[c]))
                ),
                None,
            )
            if why is None:
                kept_rows.append(row)
            else:
                self.notes.append(f"{table} {key_text(table, row)}: not exported: {why}")
        return sorted(
            kept_rows, key=lambda row: [(isinstance(row[c], str), row[c]) for c in KEYS[table]]
        )

    def exported(self) -> Exported:
        names = self.network_names()
        self.notes += [
            f"networks {number}: no such network"
            for number in self.only or ()
            if number not in names
        ]
        document = {
            "networks": {names[number]: value for number, value in self.networks(names).items()},
            "organizations": {
                row["slug"]: _document_table(row, fields.ORGANIZATION)
                for row in self.rows["organizations"]
            },
            "regions": {
                row["code"]: _document_table(row, fields.REGION) for row in self.rows["regions"]
            },
            "latency": [
                _document_table(row, fields.LATENCY) for row in self.rows["region_latency"]
            ],
            "hosts": {
                host_text(row["id"]): _document_table(row, fields.HOST)
                for row in self.rows["hosts"]
            },
        }
        return Exported({key: value for key, value in document.items() if value}, self.notes)

    def network_names(self) -> dict[int, str]:
        """Return a name for every network that has rows."""
        named = {row["id"]: row["name"] for row in self.rows["networks"]}
        numbers = {row["network_id"] for table in OF_NETWORK for row in self.rows[table]}
        names: dict[int, str] = {}
        taken = set(named.values())
        used: set[str] = set()
        for number in sorted({*named, *numbers}):
            name = named.get(number)
            if not name or name in used:
                why = (
                    "has no row in networks"
                    if name is None
                    else "has the name of another"
                    if name
                    else "has no name"
                )
                name = next(n for n in _substitute_names(number) if n not in taken)
                self.notes.append(f"networks {number}: {why}, so it is exported as {name}")
                taken.add(name)
            used.add(name)
            names[number] = name
        return names

    def networks(self, names: Mapping[int, str]) -> dict[int, dict[str, Any]]:
        networks: dict[int, dict[str, Any]] = {
            number: {"id": self.network_id(number)} for number in names
        }
        for row in self.rows["networks"]:
            networks[row["id"]] |= (
                {"organization": row["organization"]} if row["organization"] else {}
            )
        machines = self.machines()
        apps = {(row["network_id"], row["name"]) for row in self.rows["apps"]} | machines.keys()
        for number, app in sorted(apps):
            of_app = {"machines": machines[number, app]} if (number, app) in machines else {}
            networks[number].setdefault("apps", {})[app] = of_app
        for row in self.rows["peers"]:
            networks[row["network_id"]].setdefault("peers", {})[row["name"]] = _document_table(
                row, fields.PEER
            )
        for row in self.rows["flycasts"]:
            flycasts = networks[row["network_id"]].setdefault("flycasts", {})
            flycasts.setdefault(row["app"], []).append(row["address"])
        for row in self.rows["zones"]:
            networks[row["network_id"]].setdefault("zones", []).append(row["name"])
        for row in self.rows["records"]:
            records = networks[row["network_id"]].setdefault("records", [])
            records.append(_document_table(row, fields.RECORD))
        return networks

    def network_id(self, number: int) -> int | str:
        return slash_48(number, self.prefix) if 0 < number < 1 << 32 else number

    def machines(self) -> dict[tuple[int, str], list[dict[str, Any]]]:
        """Return machines by network and app, with metadata and services."""
        metadata: dict[str, dict[str, str]] = defaultdict(dict)
        for row in self.rows["machine_metadata"]:
            metadata[row["machine_id"]][row["key"]] = row["value"]
        services: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows["machine_services"]:
            services[row["machine_id"]].append(_document_table(row, fields.SERVICE))
        machines: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows["machines"]:
            of_machine = {
                "metadata": metadata.pop(row["id"], {}),
                "services": services.pop(row["id"], []),
            }
            machines[row["network_id"], row["app"]].append(
                _document_table({**row, **of_machine}, fields.MACHINE)
            )
        if self.only is None:
            for machine in sorted({*metadata, *services}):
                what = f"metadata and services of machine {shown(machine)}"
                self.notes.append(f"{what}: not exported: the document has no such machine")
        return machines


def _document_table(row: Row, known: Mapping[str, fields.Field]) -> dict[str, Any]:
    """Return a row as a table of the document, without values that equal the default."""
    table = {}
    for key, known_field in known.items():
        value = row[known_field.column]
        if known_field.kind is FLAG:
            value = value != 0 if known_field.default else bool(value)
        elif value is None and known_field.default is not fields.REQUIRED:
            value = known_field.default
        if known_field.default is fields.REQUIRED or value != known_field.default:
            table[key] = value
    return table | ({"source": row["source"]} if row.get("source") else {})


def _why_unrepresentable(table: str, column: str, value: object) -> str | None:
    """Return why no document can represent this cell, or None."""
    of = BY_NAME[table].column(column)
    domain = of.domain
    match value:
        case str() if not is_unicode(value):
            return "is not UTF-8"
        case str() | float() if domain in (NETWORK_ID, HOST_ID):
            return "is not an integer"
        case int() | float() if column in _TEXT_ONLY.get(table, ()):
            return "is not text"
        case float() if not isfinite(value):
            return "is infinite"
        case bytes():
            return "is a blob"
        case None if not domain.optional and domain is not FLAG_DOMAIN and not of.lenient:
            return "is NULL"
    return None


# Columns that become keys of the document, or a whole value: only text is possible.
_TEXT_ONLY: Final[Mapping[str, tuple[str, ...]]] = {
    table.name: tuple(
        c.name
        for c in table.columns
        if c.domain.sql == "TEXT"
        and (c.key or c in (NETWORKS.column("name"), MACHINES.column("app")))
    )
    for table in TABLES
    if table is not REGION_LATENCY
}


def _substitute_names(number: int) -> Iterator[str]:
    """Yield names for a network that has none: 24, network-24, network-24-2, ..."""
    yield f"{number}"
    yield f"network-{number}"
    yield from (f"network-{number}-{n}" for n in count(2))
