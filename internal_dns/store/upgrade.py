"""Add what a file of an older schema lacks: columns and tables, and the journal's tables and
triggers.

The writer upgrades a file with a journal when it opens it. A file of another engine is upgraded by
that engine only.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from internal_dns.store.sqlite import connect, missing_from

_HERE: Final = Path(__file__).parent  # importlib.resources takes long to load
_TABLE: Final = re.compile(r"CREATE (?:TABLE|INDEX) (\w+)(?: ON (\w+))?")


def upgrade(connection: sqlite3.Connection) -> list[str]:
    """Add what a file with a journal lacks, in one transaction; return the statements, none when
    nothing is missing.

    Rows take the defaults, so no answer changes and the journal gets no entry. Readers see a new
    schema_version and read the file again. Raises sqlite3.Error.
    """
    if not upgrade_statements(connection):
        return []
    connection.execute("BEGIN IMMEDIATE")
    try:
        statements = upgrade_statements(connection)  # another process may have upgraded it
        for statement in statements:
            connection.execute(statement)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return statements


def needs_upgrade(path: Path) -> bool:
    """Whether *path* has a journal and an older schema.

    Raises UnusableCatalog, FileNotFoundError, sqlite3.Error.
    """
    connection = connect(path)
    try:
        return is_ours(connection) and bool(upgrade_statements(connection))
    finally:
        connection.close()


def is_ours(connection: sqlite3.Connection) -> bool:
    """Whether a file has a journal: internal-dns owns it."""
    return "journal" in _objects(connection)


def upgrade_statements(connection: sqlite3.Connection) -> list[str]:
    """Return the statements that add what a file with a journal lacks."""
    return [*_upgrade_statements(connection)]


def _upgrade_statements(connection: sqlite3.Connection) -> Iterator[str]:
    added = [*catalog_statements(connection)]
    yield from added
    present = _objects(connection)
    for name, (kind, sql) in _journal().items():
        if present.get(name) == (kind, sql):
            continue
        if kind == "trigger":
            # An older version of the trigger may expect another shape of the table.
            yield f"DROP TRIGGER IF EXISTS {name}"
            yield sql
        elif name not in present:
            yield sql
    if added and "replica" in present:
        # The bucket may already have sent values for the new columns: read all of it again.
        yield "UPDATE replica SET stream = ''"


def catalog_statements(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield the SQL that adds the catalog's missing tables and columns, as schema.sql declares
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
    # A bare ALTER breaks what cr-sqlite (Corrosion) keeps beside each table.
    if not any(name.startswith(("crsql_", "__crsql_")) for name in _objects(connection)):
        return statements
    wrapped = []
    for statement in statements:
        if altered := re.match(r"ALTER TABLE (\w+)", statement):
            table = altered[1]
            wrapped += [
                f"SELECT crsql_begin_alter('{table}')",
                statement,
                f"SELECT crsql_commit_alter('{table}')",
            ]
        else:
            wrapped.append(statement)
            if created := re.match(r"CREATE TABLE (\w+)", statement):
                wrapped.append(f"SELECT crsql_as_crr('{created[1]}')")
    return wrapped


@cache
def _schema() -> dict[str, list[str]]:
    """Return the statements of schema.sql by table."""
    script = (_HERE.parent / "schema.sql").read_text("utf-8")
    statements: dict[str, list[str]] = {}
    for piece in re.sub(r"--[^\n]*", "", script).split(";"):
        statement = " ".join(piece.split())
        if named := _TABLE.match(statement):
            statements.setdefault(named[2] or named[1], []).append(statement)
    return statements


@cache
def _journal() -> dict[str, tuple[str, str]]:
    """Return kind and SQL of the tables and triggers of journal.sql by name, tables first."""
    script = (_HERE / "journal.sql").read_text("utf-8")
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
    """Return type and SQL of every object in a file, by name."""
    factory, connection.text_factory = connection.text_factory, str
    try:
        rows = connection.execute(
            "SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
        ).fetchall()
    finally:
        connection.text_factory = factory
    return {name: (kind, sql) for name, kind, sql in rows}
