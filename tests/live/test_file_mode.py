"""Any engine that maintains the SQLite file will do: what Corrosion, LiteFS and Litestream do to
it, done under load.

Those programs are not started here (docs/replication.md says so): what is tested is what each of
them does to a file.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path

import pytest

from tests.live.hosts import Served, addresses, ask, meanwhile, outcome, serving, until

pytestmark = [pytest.mark.live, pytest.mark.slow]

SCHEMA = resources.files("internal_dns").joinpath("schema.sql").read_text("utf-8")
SEEN = 10.0  # seconds; what is promised is 1, which a busy machine may miss
CHANGES = 40


def address(number: int) -> str:
    return f"fdaa:0:18:a7b:7d:1:{number:x}:2"


def make(path: Path, number: int, *, mode: str = "WAL", more: str = "") -> None:
    """A file as another engine makes it: schema.sql, no journal of ours, web at address
    *number*."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.executescript(f"BEGIN; {SCHEMA}; {more}; COMMIT")
        connection.execute("INSERT INTO networks (id, name) VALUES (24, 'acme')")
        connection.execute(
            "INSERT INTO machines (id, network_id, app, region, state, address) "
            "VALUES ('a', 24, 'web', 'iad', 'started', ?)",
            (address(number),),
        )


def write(path: Path, number: int) -> None:
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        connection.execute("UPDATE machines SET address = ? WHERE id = 'a'", (address(number),))


@contextmanager
def asked(server: Served) -> Iterator[Counter[str]]:
    """Ask all the time; whatever is done to the file, each answer is one address."""
    seen = Counter[str]()

    def ask_once() -> None:
        try:
            reply = ask(server, "web.internal")
            seen[outcome(reply) if len(addresses(reply)) == 1 else "empty"] += 1
        except TimeoutError:
            seen["lost"] += 1

    with meanwhile(ask_once, 0.002):
        yield seen


def shows(server: Served, number: int) -> None:
    until(
        lambda: addresses(ask(server, "web.internal")) == [address(number)],
        SEEN,
        f"address {number} did not show",
    )


def put_in_place(new: Path, path: Path) -> None:
    """Rename *new* over *path* as docs/operating.md says: without the old one's -wal and -shm."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    new.rename(path)


def test_a_file_is_written_restored_and_replaced_under_load(tmp_path: Path) -> None:
    path, backup, new = (tmp_path / name for name in ("catalog.db", "backup.db", "new.db"))
    make(path, 1)
    with serving(path) as server, asked(server) as seen:
        for number in range(2, CHANGES, 4):
            write(path, number)
            shows(server, number)
            with closing(sqlite3.connect(path)) as here, closing(sqlite3.connect(backup)) as there:
                here.backup(there)
            write(path, number + 1)
            shows(server, number + 1)
            with closing(sqlite3.connect(backup)) as here, closing(sqlite3.connect(path)) as there:
                here.backup(there)  # as `.restore` does: into the file that is open
            shows(server, number)
            make(new, number + 3)
            put_in_place(new, path)
            shows(server, number + 3)
    assert seen.keys() == {"NOERROR"}


@pytest.mark.parametrize("mode", ["WAL", "DELETE", "TRUNCATE", "PERSIST"])
def test_another_process_writes_in_each_journal_mode(tmp_path: Path, mode: str) -> None:
    """LiteFS takes files in WAL mode and with a rollback journal."""
    path = tmp_path / "catalog.db"
    make(path, 1, mode=mode)
    with serving(path) as server, asked(server) as seen:
        for number in range(2, 12):
            script = (
                "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=10)\n"
                "c.execute(\"UPDATE machines SET address = ? WHERE id = 'a'\", (sys.argv[2],)); "
                "c.commit()"
            )
            subprocess.run(
                [sys.executable, "-c", script, str(path), address(number)], check=True, timeout=20
            )
            shows(server, number)
    assert seen.keys() == {"NOERROR"}


def test_another_process_holds_a_snapshot_and_checkpoints(tmp_path: Path) -> None:
    """Litestream keeps a read transaction open, copies the WAL and checkpoints it by itself."""
    path = tmp_path / "catalog.db"
    make(path, 1)
    with serving(path) as server, asked(server) as seen:
        for number in range(2, 12):
            with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as holder:
                holder.execute("BEGIN")
                holder.execute("SELECT count(*) FROM machines").fetchone()
                write(path, number)
                shows(server, number)
                holder.execute("ROLLBACK")
                for kind in ("PASSIVE", "TRUNCATE"):
                    holder.execute(f"PRAGMA wal_checkpoint({kind})")
            write(path, number + 100)
            shows(server, number + 100)
    assert seen.keys() == {"NOERROR"}


CRDT = """
    CREATE TABLE machines__crsql_clock (key INTEGER NOT NULL, col_name TEXT NOT NULL,
        col_version INTEGER NOT NULL, PRIMARY KEY (key, col_name)) WITHOUT ROWID;
    CREATE TABLE __corro_bookkeeping (actor_id BLOB NOT NULL, version INTEGER NOT NULL,
        PRIMARY KEY (actor_id, version));
    CREATE TRIGGER machines__crsql_utrig AFTER UPDATE ON machines BEGIN
        INSERT OR REPLACE INTO machines__crsql_clock VALUES (OLD.rowid, 'address', 1);
    END;
    ALTER TABLE machines ADD COLUMN note TEXT NOT NULL DEFAULT ''
"""


def test_tables_triggers_and_columns_of_another_engine_are_no_hindrance(tmp_path: Path) -> None:
    """A gossiping SQLite keeps its clocks in tables and triggers beside ours."""
    path = tmp_path / "catalog.db"
    make(path, 1, more=CRDT)
    with serving(path) as server, asked(server) as seen:
        for number in range(2, 12):
            write(path, number)
            shows(server, number)
    assert seen.keys() == {"NOERROR"}
