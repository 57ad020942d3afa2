"""A file of an older schema is served with defaults, and a file with a journal gets what it
lacks."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from internal_dns.replicate.logic import Position
from internal_dns.replicate.replica import Replica
from internal_dns.store import upgrade as upgrading
from internal_dns.store.check import findings
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import Loaded, Reader, UnusableCatalog, load
from internal_dns.store.upgrade import catalog_statements, foreign_statements, needs_upgrade
from internal_dns.store.writer import Writer
from tests import commands

STOPPED = "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'"


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def objects(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return sorted(
            connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        )


def columns(path: Path, table: str) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_catalog(tmp_path / "catalog.db", demo_rows())
    return tmp_path / "catalog.db"


def aged(path: Path) -> None:
    """Take from a file what an older version would not have made."""
    run(
        path,
        "DROP TRIGGER journal_counted",
        "DROP TABLE network_revisions",
        "DROP TABLE organizations",
        "ALTER TABLE peers DROP COLUMN region",
        "DROP TRIGGER peers_updated",
        "CREATE TRIGGER peers_updated AFTER UPDATE ON peers BEGIN "
        "INSERT INTO journal (kind, network_id) VALUES ('peers', OLD.network_id); END",
        "CREATE TRIGGER theirs AFTER UPDATE ON peers BEGIN SELECT 1; END",
    )


def foreign(path: Path) -> None:
    """Make the file another engine's: one without our journal."""
    with closing(sqlite3.connect(path)) as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        names = [name for (name,) in triggers]
    run(path, *(f"DROP TRIGGER {name}" for name in names), "DROP TABLE journal")


def test_the_writer_gives_a_file_of_ours_all_that_it_lacks(path: Path) -> None:
    whole = objects(path)
    aged(path)
    assert needs_upgrade(path)
    with Writer(path):
        assert not needs_upgrade(path)
        made = {name for name, _ in objects(path)}
        assert made == {name for name, _ in whole} | {"theirs"}  # whose triggers stay as they are
        triggers = {n: sql for n, sql in objects(path) if sql.startswith("CREATE TRIGGER")}
        assert all(triggers[n] == sql for n, sql in whole if sql.startswith("CREATE TRIGGER"))
    assert columns(path, "peers") == {"network_id", "name", "address", "region", "source"}


def test_a_complete_file_is_not_written(path: Path) -> None:
    before = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        assert upgrading.upgrade(connection) == []
    assert path.read_bytes() == before


def test_an_upgrade_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    aged(path)
    before = objects(path)

    class Broken(sqlite3.Connection):
        def execute(self, sql: str, *rest: object) -> sqlite3.Cursor:
            if sql.startswith("CREATE TRIGGER journal_counted"):
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *rest)  # type: ignore[arg-type]

    with (
        closing(sqlite3.connect(path, isolation_level=None, factory=Broken)) as connection,
        pytest.raises(sqlite3.OperationalError),
    ):
        upgrading.upgrade(connection)
    assert objects(path) == before


def test_two_that_upgrade_at_once_both_go_on(path: Path) -> None:
    aged(path)
    ended: list[object] = []

    def work() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
            ended.append(upgrading.upgrade(connection))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 4
    assert not needs_upgrade(path)


def test_an_older_file_answers_as_before_until_and_after_it_is_upgraded(path: Path) -> None:
    aged(path)
    with Reader(path, counting=True) as reader:
        older = reader.read()
        assert older.missing == ("organizations", "peers.region")
        with Writer(path):
            after = reader.read_after(older)
        assert after.missing == ()
        assert after.catalog.networks == older.catalog.networks


def test_what_a_file_lacks_is_a_finding(path: Path) -> None:
    aged(path)
    found = {f.where: f for f in findings(load(path))}
    assert found["peers.region"].do == "Add it: internal-dns init --upgrade FILE"
    foreign(path)
    assert "prints the SQL" in {f.where: f for f in findings(load(path))}["peers.region"].do


def test_a_replica_that_gains_a_column_takes_everything_again(path: Path) -> None:
    with Writer(path, following=True) as writer:
        replica = Replica(writer, "nats://example/catalog")
        with replica.transaction():
            replica.set_position(Position("one", 17), 0.0)
    run(path, "ALTER TABLE peers DROP COLUMN region")
    with Writer(path, following=True) as writer:
        position = Replica(writer, "nats://example/catalog").position()
    assert position is not None
    assert position.stream != "one"
    run(path, "DROP TRIGGER journal_counted")
    with Writer(path, following=True) as writer:  # the journal alone is no reason to
        replica = Replica(writer, "nats://example/catalog")
        with replica.transaction():
            replica.set_position(Position("one", 17), 0.0)
    with Writer(path, following=True) as writer:
        position = Replica(writer, "nats://example/catalog").position()
    assert position == Position("one", 17)


def test_init_upgrade_alters_a_file_of_ours(path: Path) -> None:
    aged(path)
    told = commands.run("init", path, "--upgrade")
    assert told.code == 0, told
    assert "ALTER TABLE peers ADD COLUMN region TEXT NOT NULL DEFAULT '';" in told.out
    assert not needs_upgrade(path)
    again = commands.run("init", path, "--upgrade")
    assert again.out == f"{path}: up to date\n"


def test_init_upgrade_prints_what_another_engine_must_run(path: Path) -> None:
    aged(path)
    foreign(path)
    before = path.read_bytes()
    told = commands.run("init", path, "--upgrade")
    assert told.code == 2
    assert "ALTER TABLE peers ADD COLUMN region TEXT NOT NULL DEFAULT '';" in told.out
    assert path.read_bytes() == before
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in foreign_statements(connection):
            connection.execute(statement)
        assert [*catalog_statements(connection)] == []


def test_init_upgrade_has_nothing_to_do_for_a_complete_foreign_file(path: Path) -> None:
    foreign(path)
    told = commands.run("init", path, "--upgrade")
    assert (told.code, told.out) == (0, f"{path}: up to date\n")


def test_cr_sqlite_gets_a_statement_around_each_change(path: Path) -> None:
    aged(path)
    foreign(path)
    run(path, "CREATE TABLE crsql_site_id (site_id BLOB)")
    with closing(sqlite3.connect(path)) as connection:
        statements = foreign_statements(connection)
    assert statements[0].startswith("CREATE TABLE organizations")
    assert statements[1] == "SELECT crsql_as_crr('organizations')"
    assert statements[-3:] == [
        "SELECT crsql_begin_alter('peers')",
        "ALTER TABLE peers ADD COLUMN region TEXT NOT NULL DEFAULT ''",
        "SELECT crsql_commit_alter('peers')",
    ]


# ── whose change it was ───────────────────────────────────────────────────────────────────────────


def revisions(reader: Reader, path: Path) -> Iterator[dict[int, int]]:
    found = reader.read()
    while True:
        yield {number: n.revision for number, n in found.catalog.networks.items()}
        found = reader.update(found)


@pytest.mark.parametrize("ours", [True, False])
def test_the_revision_of_a_network_counts_only_its_own_changes(path: Path, ours: bool) -> None:
    if not ours:
        foreign(path)
        run(path, "DROP TABLE network_revisions")
    with Reader(path, counting=True) as reader:
        found = revisions(reader, path)
        assert next(found) == {24: 1, 25: 1, 26: 1}
        run(path, STOPPED)
        assert next(found) == {24: 2, 25: 1, 26: 1}
        run(path, "UPDATE machines SET state = 'stopped' WHERE network_id = 26")
        after = next(found)
        assert after[24] == 2
        assert after[25] == 1
        assert after[26] > 1
        run(path, "UPDATE regions SET latitude = 1.0 WHERE code = 'ams'")
        assert next(found) == after
    # A file with a journal still has it after a restart; another file counts nothing.
    expected = after if ours else {24: 0, 25: 0, 26: 0}
    assert {n.id: n.revision for n in load(path).catalog.networks.values()} == expected


@pytest.mark.parametrize("statement", ["INSERT OR REPLACE", "INSERT OR IGNORE", "INSERT OR FAIL"])
def test_a_change_is_counted_whatever_its_conflict_clause(path: Path, statement: str) -> None:
    peer = "INTO peers (network_id, name, address) VALUES (24, '{}', 'fdaa:0:18:1:1:1:1:2')"
    with Reader(path) as reader:
        found = revisions(reader, path)
        next(found)
        for count in range(2, 5):
            run(path, f"{statement} {peer.format(f'p{count}')}")
            assert next(found)[24] == count


def test_a_network_id_that_is_not_a_number_does_not_stop_a_commit(path: Path) -> None:
    run(
        path,
        "INSERT INTO apps VALUES ('not a number', 'x')",
        "INSERT INTO apps VALUES (2.5, 'y')",
    )
    assert load(path).fault_count == 2


# ── what a file may make a reader do ──────────────────────────────────────────────────────────────

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


@pytest.mark.parametrize("table", ["peers", "PEERS", "organizations"])
def test_a_view_is_not_a_table_of_a_catalog(path: Path, table: str) -> None:
    columns = "i, i, i, i" if table.lower() == "peers" else "i, i"
    run(
        path,
        f"ALTER TABLE {table} RENAME TO other",
        f"CREATE VIEW {table} AS {ENDLESS} SELECT {columns} FROM n",
    )
    with pytest.raises(UnusableCatalog, match="is a view"):
        load(path)


def test_a_virtual_table_is_not_a_table_of_a_catalog(path: Path) -> None:
    run(
        path,
        "DROP TABLE peers",
        "CREATE VIRTUAL TABLE peers USING fts5(network_id, name, address, region)",
    )
    with pytest.raises(UnusableCatalog, match="peers is a virtual table"):
        load(path)


def test_triggers_of_another_engine_do_not_disturb_a_reader(path: Path) -> None:
    foreign(path)
    run(path, "CREATE TRIGGER t AFTER INSERT ON peers BEGIN SELECT no_such_function(1); END")
    assert load(path).machines == 80


def test_a_read_that_goes_on_too_long_is_ended(path: Path) -> None:
    with Reader(path, patience=-1e9) as reader:
        with pytest.raises(UnusableCatalog, match="too long") as error:
            reader._in_transaction(lambda: endless(reader))
        assert error.value.passing  # the server tries again


def test_a_read_is_ended_from_another_thread(path: Path) -> None:
    with Reader(path) as reader:
        threading.Timer(0.05, reader.stop).start()
        with pytest.raises(UnusableCatalog, match="too long"):
            reader._in_transaction(lambda: endless(reader))


def endless(reader: Reader) -> Loaded:
    assert reader.connection is not None
    reader.connection.execute(f"{ENDLESS} SELECT count(*) FROM n").fetchone()
    raise AssertionError("it ended by itself")
