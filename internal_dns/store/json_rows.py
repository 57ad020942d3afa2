"""Read rows of a catalog file as JSON objects."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from internal_dns.store.schema import KEYS, TABLES
from internal_dns.store.sqlite import source


class BadRequest(Exception):
    """The request does not have the form of an operation."""


def read_rows(
    connection: sqlite3.Connection, table: str, where: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows of *table* whose columns equal *where*, sorted by primary key."""
    columns = TABLES[table]
    if unknown := [column for column in where if column not in columns]:
        raise BadRequest(f"{table} has no column {unknown[0]!r}")
    condition = " AND ".join(f"{column} = ?" for column in where) or "1"
    order = ", ".join(KEYS[table])
    rows = connection.execute(
        f"SELECT {', '.join(columns)} FROM {source(connection, table)} WHERE {condition} "
        f"ORDER BY {order}",
        tuple(where.values()),
    )
    return convert_rows(table, rows)


def convert_rows(table: str, rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Return rows of *table* as dictionaries, text as str."""
    columns = TABLES[table]
    return [
        {
            c: v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v
            for c, v in zip(columns, row, strict=True)
        }
        for row in rows
    ]
