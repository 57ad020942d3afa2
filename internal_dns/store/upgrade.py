"""Give a file of an older schema what it lacks: columns and tables of the catalog, and the journal's
tables and triggers.

Files of ours are upgraded when their writer opens them; another engine's only by that engine.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

from internal_dns.store.sqlite import connect, missing_from

_TABLE: Final = re.compile(r"CREATE (?:TABLE|INDEX) (\w+)(?: ON (\w+))?")


def upgrade(connection: sqlite3.Connection) -> list[str]:
    """Add to a file of ours what it lacks, in one transaction; return the statements, none when it
    is whole.

    Rows take the defaults, so no answer changes and the journal has nothing to say; readers see
    another schema_version and read the file again. Raises sqlite3.Error.
    """
    if not upgrade_statements(connection):
        return []
    connection.execute("BEGIN IMMEDIATE")
    try:
        statements = upgrade_statements(connection)  # another process may have been quicker
        for statement in statements:
            connection.execute(statement)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return statements


def needs_upgrade(path: Path) -> bool:
    """Whether *path* is a file of ours of an older schema. Raises UnusableCatalog,
    FileNotFoundError, sqlite3.Error."""
    connection = connect(path)
    try:
        return is_ours(connection) and bool(upgrade_statements(connection))
    finally:
        connection.close()


def is_ours(connection: sqlite3.Connection) -> bool:
    """Whether a file has our journal."""
    return "journal" in _objects(connection)


def upgrade_statements(connection: sqlite3.Connection) -> list[str]:
    """Return the statements that make a file of ours whole."""
    return [*_upgrade_statements(connection)]


def _upgrade_statements(connection: sqlite3.Connection) -> Iterator[str]:
    added = [*catalog_statements(connection)]
    yield from added
    present = _objects(connection)
    for name, (kind, sql) in _journal().items():
        if present.get(name) == (kind, sql):
            continue
        if kind == "trigger":
            # One of an older version, whose table may have another shape now.
            yield f"DROP TRIGGER IF EXISTS {name}"
            yield sql
        elif name not in present:
            yield sql
    if added and "replica" in present:
        # What it followed may have told the new columns already: everything is taken again.
        yield "UPDATE replica SET stream = ''"


def catalog_statements(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield the SQL that adds the catalog's tables and columns a file lacks, as schema.sql has
    them."""
    for table, columns in missing_from(connection):
        if columns == table.columns:
            yield from _schema()[table.name]
        else:
            for column in columns:
                yield f"ALTER TABLE {table.name} ADD COLUMN {column.declaration}"


def foreign_statements(connection: sqlite3.Connection) -> list[str]:
    """Return the SQL that another engine's file needs, as that engine must run it."""
    statements = [*catalog_statements(connection)]
    # A bare ALTER breaks what cr-sqlite (Corrosion, say) keeps beside each table.
    if not any(name.startswith(("crsql_", "__crsql_")) for name in _objects(connection)):
        return statements
    found = []
    for statement in statements:
        if altered := re.match(r"ALTER TABLE (\w+)", statement):
            table = altered[1]
            found += [
                f"SELECT crsql_begin_alter('{table}')",
                statement,
                f"SELECT crsql_commit_alter('{table}')",
            ]
        else:
            found.append(statement)
            if made := re.match(r"CREATE TABLE (\w+)", statement):
                found.append(f"SELECT crsql_as_crr('{made[1]}')")
    return found


@cache
def _schema() -> dict[str, list[str]]:
    """The statements of schema.sql by the table they are of."""
    script = resources.files("internal_dns").joinpath("schema.sql").read_text("utf-8")
    statements: dict[str, list[str]] = {}
    for piece in re.sub(r"--[^\n]*", "", script).split(";"):
        statement = " ".join(piece.split())
        if named := _TABLE.match(statement):
            statements.setdefault(named[2] or named[1], []).append(statement)
    return statements


@cache
def _journal() -> dict[str, tuple[str, str]]:
    """The tables and triggers of journal.sql, tables first: kind and SQL by name."""
    script = resources.files("internal_dns.store").joinpath("journal.sql").read_text("utf-8")
    connection = sqlite3.connect(":memory:")
    try:
        for statements in _schema().values():
            for statement in statements:
                connection.execute(statement)
        before = set(_objects(connection))
        connection.executescript(script)
        return {name: entry for name, entry in _objects(connection).items() if name not in before}
    finally:
        connection.close()


def _objects(connection: sqlite3.Connection) -> dict[str, tuple[str, str]]:
    """Return type and SQL of what a file has, by name."""
    factory, connection.text_factory = connection.text_factory, str
    try:
        rows = connection.execute(
            "SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
        ).fetchall()
    finally:
        connection.text_factory = factory
    return {name: (kind, sql) for name, kind, sql in rows}
