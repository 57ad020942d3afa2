"""The rows of a catalog file that a document describes. Unlike store/sqlite.py, this keeps text and
blobs apart."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from internal_dns.store import schema
from internal_dns.store.rows import shown
from internal_dns.store.schema import CATALOG, FLAG, META, SOURCE
from internal_dns.store.sqlite import source

# Parents first: the order of puts, and in reverse that of deletes. `meta` is not part of a
# document.
TABLES: Final = tuple(table for table in CATALOG if table is not META)
ORDER: Final = [table.name for table in TABLES]
KEYS: Final = {table: schema.KEYS[table] for table in ORDER}
# The writer alone sets updated_at.
COLUMNS: Final = {
    table.name: tuple(c.name for c in table.columns if c.document is not None) for table in TABLES
}
# Whose row it is: not in documents, but what a document may change depends on it.
_SELECTED: Final = {
    table.name: (
        (*COLUMNS[table.name], SOURCE.name) if SOURCE in table.columns else COLUMNS[table.name]
    )
    for table in TABLES
}
# No two tables have a flag of one name that means different things.
FLAGS: Final = {c.name: c for table in TABLES for c in table.columns if c.domain is FLAG}
OF_MACHINE: Final = schema.OF_MACHINE
OF_NETWORK: Final = tuple(name for name, columns in COLUMNS.items() if "network_id" in columns)

# Tables whose rows a live source may own, and what a row of each is called.
SOURCED: Final = {table.name: table.noun for table in TABLES if SOURCE in table.columns}

Row = dict[str, Any]


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Read as of one commit; text that is not UTF-8 becomes surrogates, a blob stays octets."""
    before = connection.text_factory, connection.row_factory, connection.in_transaction
    connection.text_factory = lambda octets: octets.decode("utf-8", "surrogateescape")
    connection.row_factory = None
    try:
        if not before[2]:
            connection.execute("BEGIN")
        yield
    finally:
        connection.text_factory, connection.row_factory = before[:2]
        if not before[2] and connection.in_transaction:
            connection.execute("ROLLBACK")


def select(
    connection: sqlite3.Connection, table: str, rest: str = "", bound: Sequence[Any] = ()
) -> list[Row]:
    """Return rows with the columns of a document, and `source` where the table has it."""
    columns = _SELECTED[table]
    cursor = connection.execute(
        f"SELECT {', '.join(columns)} FROM {source(connection, table)} {rest}", tuple(bound)
    )
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def select_in(
    connection: sqlite3.Connection, table: str, column: str, values: Iterable[Any]
) -> list[Row]:
    """Return the rows whose *column* is one of *values*."""
    remaining, rows = iter(values), []
    while some := tuple(islice(remaining, 500)):  # SQLite before 3.32 binds 999 at most
        rows += select(connection, table, f"WHERE {column} IN ({', '.join('?' * len(some))})", some)
    return rows


def of_networks(connection: sqlite3.Connection, numbers: Sequence[int]) -> dict[str, list[Row]]:
    """Return the rows of some networks and their organizations; no regions, latency or hosts."""
    rows = {table: select_in(connection, table, "network_id", numbers) for table in OF_NETWORK}
    rows["networks"] = select_in(connection, "networks", "id", numbers)
    machines = [row["id"] for row in rows["machines"] if bindable(row["id"])]
    for table in OF_MACHINE:
        rows[table] = select_in(connection, table, "machine_id", machines)
    slugs = {row["organization"] for row in rows["networks"] if bindable(row["organization"])}
    rows["organizations"] = select_in(connection, "organizations", "slug", sorted(slugs, key=str))
    return {table: rows.get(table, []) for table in KEYS}


def set_aside(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Take the rows of live sources out of *rows*, with what belongs to them; return those of
    machines and peers, by table. The rows that stay lose the cell `source`."""
    sourced: dict[str, list[Row]] = {}
    for table in SOURCED:
        sourced[table] = [row for row in rows[table] if row["source"]]
        rows[table] = [row for row in rows[table] if not row["source"]]
        for row in rows[table]:
            del row["source"]
    machines = {row["id"] for row in sourced["machines"]}
    if machines:
        for table in OF_MACHINE:
            rows[table] = [row for row in rows[table] if row["machine_id"] not in machines]
    return sourced


def bindable(value: object) -> bool:
    """Whether `= ?` finds the cell again."""
    return value is not None and not (isinstance(value, str) and not is_unicode(value))


def is_unicode(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def host_text(number: int) -> str:
    return f"{number >> 16:x}:{number & 0xFFFF:x}" if 0 <= number < 1 << 32 else str(number)


def key_text(table: str, row: Row) -> str:
    return " ".join(cell_text(row[column]) for column in KEYS[table])


def cell_text(value: object) -> str:
    """Return a cell in printable form, for messages to the operator."""
    if isinstance(value, str) and not is_unicode(value):
        value = value.encode("utf-8", "surrogateescape")
    return "NULL" if value is None else shown(value)
