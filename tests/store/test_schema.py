"""schema.sql is a contract with other programs, within the profile that a gossiping SQLite accepts.

`faults_of` is the checker; a broken schema exists for each of its rules.
"""

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from internal_dns.store.rows import READ
from internal_dns.store.schema import CATALOG, MACHINES, PEERS, REGIONS, TABLES, Table, literal
from tests import commands

ROOT = Path(__file__).resolve().parents[2]

SCHEMA = resources.files("internal_dns").joinpath("schema.sql").read_text("utf-8")

MACHINE_DEFAULTS = {
    "process_group": "app",
    "state": "created",
    "skip_registration": 0,
    "updated_at": 0,
    "ready": 1,
    "name": "",
    "source": "",
}


def faults_of(schema: str) -> list[str]:
    """Return what *schema* does outside the profile; every sentence names the table or the
    statement."""
    connection = sqlite3.connect(":memory:")
    try:
        faults = [
            f"only CREATE TABLE and CREATE INDEX: {statement}"
            for statement in statements(schema)
            if not re.match(
                r"CREATE\s+(TABLE|INDEX)\s(?!.*\sAS\s+SELECT\s)", statement, re.IGNORECASE
            )
        ]
        connection.executescript(schema)
        for table, sql in connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'table'"
        ):
            faults += [f"{table}: {fault}" for fault in faults_of_table(connection, table, sql)]
        return faults
    finally:
        connection.close()


def faults_of_table(connection: sqlite3.Connection, table: str, sql: str) -> Iterator[str]:
    if re.search(r"\bCHECK\b", without_text(sql), re.IGNORECASE):
        yield "CHECK"
    if connection.execute("SELECT 1 FROM pragma_foreign_key_list(?)", (table,)).fetchone():
        yield "FOREIGN KEY"
    # origin is pk for the index that SQLite makes for a primary key, u for UNIQUE, c for CREATE
    # INDEX.
    indexes = "SELECT name FROM pragma_index_list(?) WHERE \"unique\" AND origin <> 'pk'"
    for (index,) in connection.execute(indexes, (table,)):
        yield f"UNIQUE index {index}"
    # xinfo, because plain table_info leaves generated columns out.
    columns = 'SELECT name, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)'
    keys = 0
    for name, not_null, default, pk, hidden in connection.execute(columns, (table,)):
        keys += pk > 0
        if hidden:
            yield f"{name} is a generated column"
        if pk and not not_null:
            yield f"{name} is in the primary key and not NOT NULL"
        if not_null and (default is None or default.upper() == "NULL"):
            yield f"{name} is NOT NULL without a DEFAULT"
    if not keys:
        yield "no primary key"


def statements(script: str) -> Iterator[str]:
    """Yield each statement on one line without its comments (no string of a schema holds '--' or
    '/*')."""
    statement = ""
    for piece in re.sub(r"--[^\n]*|/\*.*?\*/", " ", script, flags=re.DOTALL).split(";"):
        statement += piece + ";"
        if sqlite3.complete_statement(statement):
            if one_line := " ".join(statement.rstrip(";").split()):
                yield one_line
            statement = ""


def without_text(sql: str) -> str:
    """Return *sql* without comments, strings and quoted names: a column may be called "check"."""
    text = r"""--[^\n]*|/\*.*?\*/|'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]"""
    return re.sub(text, " ", sql, flags=re.DOTALL)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    yield connection
    connection.close()


def test_the_schema_stays_inside_the_profile() -> None:
    assert faults_of(SCHEMA) == []


GOOD = "CREATE TABLE t (k TEXT NOT NULL DEFAULT '' PRIMARY KEY, v TEXT);\n"


@pytest.mark.parametrize(
    "schema",
    [
        GOOD,
        "create table IF NOT EXISTS t (k TEXT NOT NULL DEFAULT '' PRIMARY KEY); CREATE INDEX i ON "
        "t (k);",
        """-- CHECK; VIEW
        CREATE TABLE t ("check" TEXT NOT NULL DEFAULT 'CHECK;' PRIMARY KEY /* CHECK */);""",
        "CREATE TABLE t (a INTEGER NOT NULL DEFAULT 0, b REAL, PRIMARY KEY (a));",
    ],
)
def test_a_schema_inside_the_profile_has_no_faults(schema: str) -> None:
    assert faults_of(schema) == []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW w AS SELECT k FROM t",
        "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; SELECT 1; END",
        "CREATE TEMP TABLE x (k)",
        "CREATE VIRTUAL TABLE x USING fts5(y)",
        "CREATE TABLE x AS SELECT k FROM t",
        "CREATE UNIQUE INDEX u ON t (v)",
        "INSERT INTO t VALUES ('a', 'b')",
        "PRAGMA user_version = 7",
        "ALTER TABLE t ADD COLUMN x TEXT",
        "DROP TABLE t",
    ],
)
def test_a_statement_outside_the_profile_is_a_fault(statement: str) -> None:
    assert f"only CREATE TABLE and CREATE INDEX: {statement}" in faults_of(
        f"{GOOD} -- and:\n{statement};"
    )


def test_a_unique_index_is_a_fault_of_its_table_too() -> None:
    assert "t: UNIQUE index u" in faults_of(f"{GOOD} CREATE UNIQUE INDEX u ON t (v);")


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        (
            "k TEXT NOT NULL DEFAULT '' PRIMARY KEY, v TEXT UNIQUE",
            "UNIQUE index sqlite_autoindex_x_2",
        ),
        (
            "k TEXT NOT NULL DEFAULT '' PRIMARY KEY, v TEXT, UNIQUE (k, v)",
            "UNIQUE index sqlite_autoindex_x_2",
        ),
        ("k TEXT NOT NULL DEFAULT '' PRIMARY KEY REFERENCES t (k)", "FOREIGN KEY"),
        ("k TEXT NOT NULL DEFAULT '' PRIMARY KEY, FOREIGN KEY (k) REFERENCES t (k)", "FOREIGN KEY"),
        ("k TEXT NOT NULL DEFAULT '' PRIMARY KEY check(k <> '')", "CHECK"),
        ("k TEXT NOT NULL DEFAULT '' PRIMARY KEY, CONSTRAINT c CHECK (k <> '')", "CHECK"),
        ("k TEXT NOT NULL DEFAULT '' PRIMARY KEY, v AS (k || 'x')", "v is a generated column"),
        (
            "k TEXT NOT NULL DEFAULT '' PRIMARY KEY, v GENERATED ALWAYS AS (k) STORED",
            "v is a generated column",
        ),
        ("k TEXT PRIMARY KEY", "k is in the primary key and not NOT NULL"),
        ("k INTEGER PRIMARY KEY", "k is in the primary key and not NOT NULL"),
        (
            "k TEXT NOT NULL DEFAULT '', l TEXT DEFAULT '', PRIMARY KEY (k, l)",
            "l is in the primary key and not NOT NULL",
        ),
        ("k TEXT NOT NULL PRIMARY KEY", "k is NOT NULL without a DEFAULT"),
        (
            "k TEXT NOT NULL DEFAULT '' PRIMARY KEY, v TEXT NOT NULL",
            "v is NOT NULL without a DEFAULT",
        ),
        (
            "k TEXT NOT NULL DEFAULT '' PRIMARY KEY, v TEXT NOT NULL DEFAULT NULL",
            "v is NOT NULL without a DEFAULT",
        ),
        ("k TEXT NOT NULL DEFAULT ''", "no primary key"),
    ],
)
def test_a_table_outside_the_profile_has_exactly_that_fault(columns: str, fault: str) -> None:
    assert faults_of(f"{GOOD} CREATE TABLE x ({columns});") == [f"x: {fault}"]


def test_the_tables_are_those_that_the_code_declares(connection: sqlite3.Connection) -> None:
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    assert sorted(name for (name,) in tables) == sorted(TABLES)


@pytest.mark.parametrize("table", CATALOG, ids=TABLES)
def test_a_table_has_the_columns_that_the_code_declares(
    connection: sqlite3.Connection, table: Table
) -> None:
    found = connection.execute(
        'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info(?)', (table.name,)
    ).fetchall()
    keys = [column.name for column in table.keys]
    assert found == [
        (
            column.name,
            column.domain.sql,
            int(not column.domain.optional),
            None if column.domain.optional else literal(column.sql_default),
            keys.index(column.name) + 1 if column.key else 0,
        )
        for column in table.columns
    ]


def test_a_column_added_as_declared_is_as_schema_sql_has_it(
    connection: sqlite3.Connection,
) -> None:
    other = sqlite3.connect(":memory:")
    for table in CATALOG:
        first, *rest = table.columns
        other.execute(f"CREATE TABLE {table.name} ({first.declaration})")
        for column in rest:
            other.execute(f"ALTER TABLE {table.name} ADD COLUMN {column.declaration}")
        query = f"SELECT name, type, \"notnull\", dflt_value FROM pragma_table_info('{table.name}')"
        assert other.execute(query).fetchall() == connection.execute(query).fetchall()
    other.close()


def test_whatever_the_loader_reads_is_declared() -> None:
    for table, columns in READ.items():
        assert set(columns) <= set(TABLES[table])


# What version 1 of the bucket's form, and documents, have always demanded. Neither list may grow:
# older values and documents do not have a new column, so it has a default.
DEMANDED = {
    "organizations": ["slug"],
    "networks": ["id", "name"],
    "apps": ["network_id", "name"],
    "machines": ["id", "network_id", "app", "address", "region"],
    "machine_metadata": ["machine_id", "key"],
    "machine_services": ["machine_id", "name", "port"],
    "peers": ["network_id", "name", "address"],
    "flycasts": ["network_id", "app", "address"],
    "regions": ["code"],
    "region_latency": ["from_region", "to_region", "milliseconds"],
    "hosts": ["id", "region"],
    "meta": ["key"],
}


def test_a_new_column_has_a_default() -> None:
    demanded = {
        table.name: [column.name for column in table.columns if column.required]
        for table in CATALOG
        if table.name in DEMANDED
    }
    assert demanded == DEMANDED


def test_a_machine_that_only_has_an_id_takes_the_defaults(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO machines (id) VALUES ('d8d99')")
    found = connection.execute(f"SELECT {', '.join(MACHINE_DEFAULTS)} FROM machines").fetchone()
    assert dict(zip(MACHINE_DEFAULTS, found, strict=True)) == MACHINE_DEFAULTS


def test_machines_of_one_app_are_found_by_an_index(connection: sqlite3.Connection) -> None:
    plan = connection.execute(
        "EXPLAIN QUERY PLAN SELECT * FROM machines WHERE network_id = 24 AND app = 'web'"
    )
    assert "USING INDEX machines_by_app" in plan.fetchone()[3]


def test_the_columns_in_the_documents_are_those_declared() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "tools/catalog-doc"], capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs/catalog.md").read_text() == made.stdout, "make docs"


def test_every_column_has_an_option() -> None:
    """What documents call a column, the command line calls it too."""
    for group, table in (("machine", MACHINES), ("peer", PEERS), ("region", REGIONS)):
        for verb in ("add", "set"):
            told = commands.run(group, verb, "--help").out
            for column in table.columns:
                if column.document is not None and not column.key and column.name != "network_id":
                    assert f"--{column.document_name.replace('_', '-')} " in told, (
                        group,
                        verb,
                        column.name,
                    )
