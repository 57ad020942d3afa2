"""Rows of a real PostgreSQL, followed by the real command into a catalog that a real server
answers from."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from internal_dns.live.postgres import Postgres
from internal_dns.live.source import SourceAway, machine_key
from internal_dns.sources import Options
from internal_dns.store.generate import create_catalog
from tests.following.databases import PASSWORD, Database, database, requires_postgres
from tests.live.hosts import Served, addresses, ask, until

psycopg = pytest.importorskip("psycopg")

pytestmark = [pytest.mark.live, pytest.mark.slow, requires_postgres]

SOON = 20.0
QUERY = "SELECT id, 'web' AS app, address, 'iad' AS region, ready FROM machines"


def address(number: int) -> str:
    return f"fdaa:0:18:a7b:7d:1:{number:x}:2"


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    with database() as made:
        with psycopg.connect(made.address().replace("/app", "/postgres"), autocommit=True) as conn:
            conn.execute("CREATE DATABASE app")
        yield made


@pytest.fixture
def table(db: Database) -> Database:
    """A table with one machine, `a`, that notifies of each change."""
    do(
        db,
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public",
        "CREATE TABLE machines (id text PRIMARY KEY, address inet, ready boolean DEFAULT true)",
        "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NOTIFY machines; RETURN NULL; END $$",
        "CREATE TRIGGER told AFTER INSERT OR UPDATE OR DELETE ON machines "
        "FOR EACH STATEMENT EXECUTE FUNCTION told()",
        f"INSERT INTO machines VALUES ('a', '{address(1)}')",
    )
    return db


def do(db: Database, *statements: str) -> None:
    with psycopg.connect(db.address(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def source(db: Database, query: str = QUERY, **more: Any) -> Postgres:
    return Postgres(db.address(), query, Options(), **more)


def look(live: Postgres) -> set[str]:
    found = asyncio.run(live.snapshot())
    return {str(key[1]) for key in found.objects}


# ── the edge ──────────────────────────────────────────────────────────────────────────────────────


def test_the_types_of_a_database_are_read(table: Database) -> None:
    do(table, f"INSERT INTO machines VALUES ('b', '{address(2)}', false)")
    query = "SELECT *, 'web' AS app, '{\"k\": 1, \"n\": null}'::jsonb AS metadata FROM machines"
    found = asyncio.run(source(table, query).snapshot())
    b = found.objects[machine_key("b")]
    assert (b["address"], b["ready"], b["metadata"]) == (address(2), 0, {"k": "1"})


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT nonsense FROM machines", "does not exist"),
        ("SELEC", "syntax error"),
        ("DELETE FROM machines RETURNING id, address", "read-only"),
        ("SELECT 1; SELECT 2", "multiple commands"),
        ("SELECT 1/0 AS id", "division by zero"),
        ("SET TRANSACTION READ WRITE", "no table"),
        ("SELECT id FROM machines", "lacks"),
        ("SELECT * FROM private", "permission denied"),
    ],
)
def test_a_query_that_errs_is_no_snapshot_and_says_why(
    table: Database, query: str, why: str
) -> None:
    do(
        table,
        "DROP ROLE IF EXISTS reader",
        f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'",
        "GRANT USAGE ON SCHEMA public TO reader",
        "GRANT SELECT, DELETE ON machines TO reader",
        "CREATE TABLE private (id text)",
    )
    try:
        with pytest.raises(SourceAway, match=why):
            asyncio.run(Postgres(table.address("reader"), query, Options()).snapshot())
        assert look(source(table)) == {"a"}
    finally:
        do(table, "DROP TABLE private", "DROP OWNED BY reader", "DROP ROLE reader")


def test_a_wrong_password_is_told_and_not_repeated(table: Database) -> None:
    live = Postgres(table.address(password="hunter2"), QUERY, Options())
    with pytest.raises(SourceAway, match="password authentication failed") as raised:
        asyncio.run(live.snapshot())
    assert "hunter2" not in str(raised.value)


def test_a_lock_of_another_transaction_is_a_failure_and_no_endless_wait(
    table: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("internal_dns.live.postgres.QUERY_TIMEOUT", 200)
    with psycopg.connect(table.address()) as other:
        other.execute("LOCK TABLE machines IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SourceAway, match="statement timeout"):
            asyncio.run(source(table).snapshot())
    assert look(source(table)) == {"a"}


def test_what_is_not_committed_is_not_there(table: Database) -> None:
    with psycopg.connect(table.address()) as other:
        other.execute(f"INSERT INTO machines VALUES ('b', '{address(2)}')")
        other.execute("DELETE FROM machines WHERE id = 'a'")
        assert look(source(table)) == {"a"}
        other.rollback()
    assert look(source(table)) == {"a"}


def test_notifications_are_hints_and_end_with_the_server(table: Database) -> None:
    async def session() -> int:
        hints = source(table, channel="machines").changes()
        await anext(hints)  # once it listens
        for number in range(3):
            do(table, f"INSERT INTO machines VALUES ('n{number}', '{address(number + 9)}')")
            await asyncio.wait_for(anext(hints), SOON)
        await asyncio.to_thread(table.kill)
        return len([1 async for _ in hints])

    try:
        asyncio.run(asyncio.wait_for(session(), 3 * SOON))
    finally:
        table.stop("immediate")
        table.start()


def test_a_channel_is_a_name_and_no_sql(table: Database) -> None:
    async def session() -> None:
        hints = source(table, channel='a"; DROP TABLE machines; --').changes()
        await anext(hints)
        await hints.aclose()

    asyncio.run(asyncio.wait_for(session(), SOON))
    assert look(source(table)) == {"a"}


# ── the command ───────────────────────────────────────────────────────────────────────────────────


@contextmanager
def following(db: Database, folder: Path, *flags: str) -> Iterator[tuple[Served, Path]]:
    """A server and a follower of the table; yields the server and the follower's log."""
    catalog, query, log = folder / "catalog.db", folder / "query.sql", folder / "log"
    create_catalog(catalog, {"networks": [(24, "acme", "")]})
    query.write_text(QUERY)
    server = Served(
        "--catalog", str(catalog), "--listen", "[::1]:0", "--map-source", "::1/128=fdaa:0:18::/48",
        "--upstream", "none", "--admin", "none",
    )  # fmt: skip
    with log.open("wb") as out:
        follower = subprocess.Popen(
            [sys.executable, "-m", "internal_dns", "follow", db.address(), "--query", str(query),
             "--catalog", str(catalog), "--name", "table", *flags],
            stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield server, log
    finally:
        follower.send_signal(signal.SIGTERM)
        try:
            assert follower.wait(60) == 0, log.read_text()
        finally:
            follower.kill()
            server.kill()


def shows(server: Served, *numbers: int) -> bool:
    return addresses(ask(server, "web.internal")) == sorted(map(address, numbers))


def test_a_commit_is_answered_a_restart_is_survived_and_a_lost_notify_is_made_up_for(
    table: Database, tmp_path: Path
) -> None:
    with following(table, tmp_path, "--channel", "machines") as (server, log):
        until(lambda: shows(server, 1), SOON)
        do(table, f"INSERT INTO machines VALUES ('b', '{address(2)}')")
        until(lambda: shows(server, 1, 2), SOON)
        # A long transaction changes nothing until it commits.
        with psycopg.connect(table.address()) as other:
            other.execute("DELETE FROM machines WHERE id = 'b'")
            do(table, f"INSERT INTO machines VALUES ('c', '{address(3)}')")
            until(lambda: shows(server, 1, 2, 3), SOON)
        until(lambda: shows(server, 1, 3), SOON)
        table.stop()
        until(lambda: "source: postgresql://" in log.read_text(), 90)
        assert shows(server, 1, 3), "the rows stay while the source is away"
        table.start()
        # Nobody is notified of this: it happens while nobody listens.
        do(table, "ALTER TABLE machines DISABLE TRIGGER told")
        do(table, f"UPDATE machines SET address = '{address(4)}' WHERE id = 'c'")
        until(lambda: shows(server, 1, 4), 90)
        assert PASSWORD not in log.read_text()
