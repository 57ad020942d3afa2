"""What changed last, read from the journal in the file."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from internal_dns.admin.reading import NoJournal, PartChange, read_changes
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import UnusableCatalog

ACME, GLOBEX = 0x18, 0x19


@pytest.fixture
def file(tmp_path: Path) -> Path:
    create_catalog(tmp_path / "c.db", demo_rows())
    write(tmp_path / "c.db", "DELETE FROM journal")
    return tmp_path / "c.db"


def write(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def read(file: Path, limit: int = 10, network_id: int | None = None) -> tuple[PartChange, ...]:
    return asyncio.run(read_changes(file, limit, network_id))


def test_the_last_change_comes_first_with_its_network_by_name(file: Path) -> None:
    write(file, f"UPDATE machines SET ready = 0 WHERE app = 'web' AND network_id = {ACME}")
    write(file, "UPDATE regions SET name = 'Elsewhere' WHERE code = 'iad'")
    places, app = read(file)
    assert (places.subject, places.network, places.network_id) == (
        "regions, hosts or latencies",
        "",
        None,
    )
    assert (app.subject, app.network, app.network_id) == ("app web", "acme", ACME)
    assert app.revision < places.revision
    assert app.at is not None
    assert abs(app.at - time.time()) < 3_600  # it is a time of day, not one of this boot


def test_adjacent_changes_of_one_part_are_one_with_their_number(file: Path) -> None:
    write(file, f"UPDATE apps SET name = name WHERE network_id = {GLOBEX} AND name = 'web'")
    write(file, f"UPDATE apps SET name = name WHERE network_id = {GLOBEX} AND name = 'web'")
    (app,) = read(file)
    assert (app.subject, app.network, app.rows) == ("app web", "globex", 4)


def test_one_network_is_read_alone_and_no_more_than_asked_for(file: Path) -> None:
    for name in ("web", "db", "batch"):
        write(file, f"UPDATE apps SET name = name WHERE network_id = {ACME} AND name = '{name}'")
        write(file, f"UPDATE networks SET name = name WHERE id = {GLOBEX}")
    assert [change.label for change in read(file, network_id=ACME)] == ["batch", "db", "web"]
    assert len(read(file, 4)) == 4
    assert read(file, network_id=0x99) == ()


def test_a_network_that_is_gone_has_its_number(file: Path) -> None:
    write(file, f"DELETE FROM networks WHERE id = {GLOBEX}")
    assert [change.network for change in read(file)] == [str(GLOBEX)]


def test_whatever_a_shell_wrote_into_the_journal_is_shown(file: Path) -> None:
    write(
        file,
        "INSERT INTO journal (kind, network_id, label, written_at) VALUES (x'ff', 'x', x'fe', 'y')",
    )
    (change,) = read(file)
    assert (change.kind, change.label, change.at, change.network_id) == (
        "\\xff",
        "\\xfe",
        None,
        None,
    )


def test_a_file_of_another_engine_is_named_as_such(file: Path) -> None:
    write(file, "DROP TABLE journal")
    with pytest.raises(NoJournal, match="another engine"):
        read(file)


def test_a_file_that_cannot_be_read_says_why(file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing.db")
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at" * 100)
    with pytest.raises(UnusableCatalog):
        read(tmp_path / "text.db")
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("PRAGMA journal_mode = DELETE")
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnusableCatalog, match="locked"):
            read(file)
