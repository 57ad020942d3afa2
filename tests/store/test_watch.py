"""The watcher follows a catalog file: commits are seen, what did not change stays, harm to the file
harms no answer."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import sqlite3
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

import pytest

from internal_dns.admin.api import Api
from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.core.journey import Rules
from internal_dns.lock import SWITCH
from internal_dns.metrics import Metrics
from internal_dns.store import watch
from internal_dns.store.generate import create_catalog, demo_rows, sized_rows
from internal_dns.store.sqlite import (
    PIECE,
    Loaded,
    Reader,
    UnusableCatalog,
    discarded_parts,
    free_pieces,
    load,
)
from internal_dns.store.upgrade import needs_upgrade
from internal_dns.store.watch import Watcher
from internal_dns.store.writer import Writer
from internal_dns.transport.answer import Exchange
from tests.core.messages import insert

ACME, GLOBEX, INITECH = NetworkId(0x18), NetworkId(0x19), NetworkId(0x1A)
KINDS = (
    "owned",
    "wal",
    "delete",
)  # with our journal; made by others, in either of SQLite's journal modes
STOP = "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'"


def make(path: Path, kind: str) -> Path:
    """A demo catalog of that kind."""
    if kind == "owned":
        create_catalog(path, demo_rows())
        return path
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {kind}")
        connection.executescript(resources.files("internal_dns").joinpath("schema.sql").read_text())
        connection.execute("BEGIN")
        for table, rows in demo_rows().items():
            insert(connection, table, rows)
        connection.execute("COMMIT")
    return path


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at a file that cannot be read ten times as often, to save the test's time."""
    monkeypatch.setattr(watch, "RETRY", watch.RETRY / 10)


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make(tmp_path / "catalog.db", request.param)


def commit(path: Path, *statements: str) -> None:
    """One transaction by another connection."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        for statement in statements:
            connection.execute(statement)
        connection.execute("COMMIT")


class Following:
    """A running watcher, and what it has applied."""

    def __init__(self, path: Path) -> None:
        self.applied: list[Loaded] = []
        self.watcher = Watcher(path, self.applied.append)
        self.task = asyncio.create_task(self.watcher.run())

    @property
    def catalog(self) -> Catalog:
        assert self.watcher.loaded is not None
        return self.watcher.loaded.catalog

    async def until(self, condition: Callable[[], Any], seconds: float = 20) -> None:
        """Wait until *condition* holds; fails when the watcher ends or it takes too long."""
        async with asyncio.timeout(seconds):
            while not condition():
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.002)

    async def after(self, change: Callable[[], None]) -> Catalog:
        """Make *change*, and wait for another catalog."""
        before = self.catalog
        change()
        await self.until(lambda: self.catalog is not before)
        return self.catalog

    def state(self, ident: bytes = b"3d8d9930b03989") -> bytes:
        return self.catalog.networks[ACME].apps[b"web"].by_id[ident].state


@asynccontextmanager
async def following(path: Path) -> AsyncIterator[Following]:
    """Follow *path* from its first load on."""
    found = Following(path)
    try:
        await found.until(lambda: found.watcher.loaded or found.watcher.problem)
        yield found
    finally:
        found.task.cancel()
        await asyncio.gather(found.task, return_exceptions=True)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


# ── commits ───────────────────────────────────────────────────────────────────────────────────────


def test_the_file_is_loaded_at_the_start(path: Path) -> None:
    async def story() -> None:
        async with following(path) as found:
            assert len(found.applied) == 1
            assert found.applied[0] is found.watcher.loaded
            assert found.catalog.networks.keys() == {ACME, GLOBEX, INITECH}
            assert (found.watcher.problem, found.watcher.faults()) == ("", 0)
            assert 0 <= found.watcher.age() < 3

    run(story())


def test_a_commit_is_served_within_a_second(path: Path) -> None:
    async def story() -> None:
        async with following(path) as found:
            commit(path, STOP)
            await found.until(lambda: found.state() == b"stopped", 1)
            commit(path, "UPDATE machines SET state = 'started' WHERE id = '3d8d9930b03989'")
            await found.until(lambda: found.state() == b"started", 1)

    run(story())


def test_what_a_commit_does_not_touch_stays_the_same_object(path: Path) -> None:
    async def story() -> None:
        async with following(path) as found:
            before = found.catalog
            index = before.networks[ACME].apps[b"db"].by_id
            after = await found.after(lambda: commit(path, STOP))
            assert after.networks[GLOBEX] is before.networks[GLOBEX]
            assert after.networks[INITECH] is before.networks[INITECH]
            assert after.networks[ACME] is not before.networks[ACME]
            for name, app in before.networks[ACME].apps.items():
                assert (after.networks[ACME].apps[name] is app) == (name != b"web")
            assert after.networks[ACME].apps[b"db"].by_id is index

    run(story())


def test_the_revision_moves_for_the_changed_network_only(path: Path) -> None:
    async def story() -> None:
        async with following(path) as found:
            for number, statement in (
                (ACME, STOP),
                (GLOBEX, "DELETE FROM peers WHERE name = 'carol-laptop'"),
            ):
                before = found.catalog
                after = await found.after(lambda statement=statement: commit(path, statement))  # type: ignore[misc]
                assert after.revision > before.revision
                for other in before.networks:
                    moved = after.networks[other].revision > before.networks[other].revision
                    assert moved == (other == number)
                    assert after.networks[other].revision <= after.revision

    run(story())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE machines SET updated_at = 5",
        "UPDATE meta SET value = 'x'",
        "UPDATE organizations SET name = 'x'",
    ],
)
@pytest.mark.slow
def test_a_commit_that_changes_no_answer_leaves_every_network_unchanged(
    path: Path, statement: str
) -> None:
    async def story() -> None:
        async with following(path) as found:
            before, loads = found.catalog, found.watcher.loads
            commit(path, statement)
            await found.until(lambda: found.watcher.loads > loads)
            assert found.catalog.networks == before.networks
            assert all(
                found.catalog.networks[n] is network for n, network in before.networks.items()
            )

    run(story())


@pytest.mark.slow
def test_a_change_that_is_rolled_back_is_never_seen(path: Path) -> None:
    async def story() -> None:
        async with following(path) as found:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("BEGIN")
                connection.execute(STOP)
                await asyncio.sleep(0.05)
                connection.execute("ROLLBACK")
            await asyncio.sleep(0.05)
            assert found.state() == b"started"
            assert len(found.applied) == 1

    run(story())


def test_one_commit_is_seen_whole(path: Path) -> None:
    async def story() -> None:
        async with following(path) as found:
            commit(
                path,
                STOP,
                "UPDATE machines SET state = 'stopped' WHERE id = '148e306c77e789'",
                "DELETE FROM flycasts",
            )
            await found.until(lambda: found.state() == b"stopped")
            for loaded in found.applied:
                acme = loaded.catalog.networks[ACME]
                seen = (
                    acme.apps[b"web"].by_id[b"3d8d9930b03989"].state,
                    acme.apps[b"db"].by_id[b"148e306c77e789"].state,
                )
                assert seen in ((b"started", b"started"), (b"stopped", b"stopped"))
                assert bool(acme.flycasts) == (seen[0] == b"started")

    run(story())


ROW = "id, network_id, app, address, region, state"
SERVICE = "machine_id, name, protocol, port"
PEER = "network_id, name, address, region"
CHANGES = f"""
INSERT INTO networks VALUES (99, 'new', '')
UPDATE networks SET name = 'renamed' WHERE id = 24
DELETE FROM networks WHERE id = 25
INSERT INTO apps VALUES (24, 'fresh')
DELETE FROM apps WHERE name = 'blog'
INSERT INTO apps VALUES (24, 'WEB')
INSERT INTO apps VALUES (24, 'not a name')
INSERT INTO machines ({ROW}) VALUES ('ffff', 24, 'fresh', 'fdaa:0:18:1:1:1:1:2', 'ams', 'started')
INSERT INTO machines ({ROW}) VALUES ('FFFF', 24, 'fresh', 'fdaa:0:18:1:1:1:2:2', 'ams', 'started')
INSERT INTO machines ({ROW}) VALUES ('bad', 24, 'fresh', 'fdaa:0:19:1:1:1:2:2', 'ams', 'started')
UPDATE machines SET app = 'db' WHERE id = '4d89696a2e7508'
UPDATE machines SET app = 'DB' WHERE id = '5683d474b40d8e'
UPDATE machines SET network_id = 25, address = 'fdaa:0:19:1:1:1:7:2' WHERE id = '7811e63fd4de08'
UPDATE machines SET region = 'nrt' WHERE network_id = 26
UPDATE machines SET skip_registration = 1 WHERE id = '080e325c719e87'
UPDATE machines SET ready = 0 WHERE region = 'iad'
UPDATE machines SET ready = 1, name = 'blue' WHERE id = '3d8d9930b03989'
UPDATE machines SET name = 'not a name' WHERE id = '148e306c77e789'
UPDATE machines SET id = 'moved' WHERE id = '91857500c46483'
DELETE FROM machines WHERE network_id = 26 AND region = 'nrt'
DELETE FROM machines WHERE app = 'batch'
INSERT INTO machine_metadata VALUES ('4d89696a2e7508', 'role', 'x')
UPDATE machine_metadata SET value = 'y'
DELETE FROM machine_metadata WHERE machine_id = '148e306c77e789'
INSERT INTO machine_services ({SERVICE}) VALUES ('4d89696a2e7508', 'grpc', 'tcp', 9000)
UPDATE machine_services SET port = 9 WHERE name = 'dns'
UPDATE machine_services SET priority = 7, weight = 70 WHERE name = 'http'
DELETE FROM machine_services WHERE name = 'http'
INSERT INTO peers ({PEER}) VALUES (24, 'dave', 'fdaa:0:18:1:1:9:9:102', 'ams')
UPDATE peers SET network_id = 25, address = 'fdaa:0:19:1:1:9:8:102' WHERE name = 'bob-desktop'
DELETE FROM peers WHERE name = 'carol-laptop'
INSERT INTO flycasts VALUES (25, 'web', 'fdaa:0:19:0:1::9')
UPDATE flycasts SET app = 'webby' WHERE app = 'batch'
DELETE FROM flycasts WHERE app = 'db'
INSERT INTO regions VALUES ('lax', '', 34.0, -118.0, 0)
UPDATE regions SET latitude = NULL WHERE code = 'ams'
DELETE FROM region_latency
INSERT INTO region_latency VALUES ('ams', 'iad', 80)
UPDATE hosts SET region = 'ams'
DELETE FROM hosts
REPLACE INTO machines ({ROW}) VALUES ('ffff', 24, 'web', 'fdaa:0:18:1:1:1:1:2', 'iad', 'started')
REPLACE INTO peers ({PEER}) VALUES (24, 'dave', 'fdaa:0:18:1:1:9:9:302', '')
DELETE FROM machines WHERE network_id = 25
DELETE FROM apps WHERE network_id = 25
""".strip().splitlines()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow
def test_what_is_followed_is_what_a_fresh_load_would_read(path: Path, seed: int) -> None:
    rng = Random(seed)
    changes = CHANGES if seed == 0 else rng.sample(CHANGES, len(CHANGES))

    async def story() -> None:
        async with following(path) as found:
            while changes:
                batch = [changes.pop(0) for _ in range(min(len(changes), rng.randint(1, 3)))]
                loads = found.watcher.loads
                commit(
                    path,
                    *(re.sub(r"^(INSERT|UPDATE) (?!OR )", r"\1 OR IGNORE ", sql) for sql in batch),
                )
                await found.until(lambda loads=loads: found.watcher.loads > loads)  # type: ignore[misc]
                fresh = load(path)
                assert comparable(found.catalog) == comparable(fresh.catalog), batch
                now = found.watcher.loaded
                assert now is not None
                counts = now.fault_count, now.machines, now.started, now.peers
                assert counts == (fresh.fault_count, fresh.machines, fresh.started, fresh.peers), (
                    batch
                )

    changes = list(changes)
    run(story())


def comparable(catalog: Catalog) -> object:
    """Everything but revisions, which count what this process has seen."""
    networks = {
        n: (w.name, dict(w.apps), dict(w.peers), dict(w.flycasts))
        for n, w in catalog.networks.items()
    }
    return networks, dict(catalog.regions), dict(catalog.latency), dict(catalog.hosts)


# ── another file in its place ─────────────────────────────────────────────────────────────────────


def sidecars(path: Path) -> list[Path]:
    return [
        found
        for suffix in ("-wal", "-shm", "-journal")
        if (found := Path(f"{path}{suffix}")).exists()
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_file_renamed_over_the_catalog_is_served_within_a_second(
    path: Path, kind: str, tmp_path: Path
) -> None:
    other = make(tmp_path / "other.db", kind)
    commit(other, STOP)

    async def story() -> None:
        async with following(path) as found:
            before = found.catalog
            for left in sidecars(path):
                left.unlink()
            os.replace(other, path)
            await found.until(lambda: found.state() == b"stopped", 1)
            assert found.catalog.networks[GLOBEX] is before.networks[GLOBEX]
            assert found.catalog.networks[ACME].apps[b"db"] is before.networks[ACME].apps[b"db"]
            commit(path, "DELETE FROM machines WHERE id = '3d8d9930b03989'")
            await found.until(
                lambda: b"3d8d9930b03989" not in found.catalog.networks[ACME].apps[b"web"].by_id, 1
            )
            assert found.watcher.problem == ""

    run(story())


def test_a_catalog_recreated_in_place_is_served(tmp_path: Path) -> None:
    path = make(tmp_path / "catalog.db", "owned")

    async def story() -> None:
        async with following(path) as found:
            create_catalog(path, {"networks": [(7, "seven", "")]}, replace=True)
            await found.until(lambda: found.catalog.networks.keys() == {7}, 1)

    run(story())


# ── harm ──────────────────────────────────────────────────────────────────────────────────────────


def delete(path: Path) -> None:
    for file in (path, *sidecars(path)):
        file.unlink()


def garbage(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(Random(1).randbytes(size))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def replaced_by_text(path: Path) -> None:
    other = path.with_name("text")
    other.write_text("no catalog\n" * 100)
    for left in sidecars(path):
        left.unlink()
    os.replace(other, path)


def without_a_table(path: Path) -> None:
    commit(path, "ALTER TABLE peers RENAME TO nobody")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("harm", [delete, garbage, cut, empty, replaced_by_text, without_a_table])
@pytest.mark.slow
def test_the_last_good_catalog_stays_while_the_file_is_harmed_and_repair_is_noticed(
    harm: Callable[[Path], None], path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = tmp_path / "good.db"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(good)) as target:
        source.backup(target)
    commit(good, STOP)

    async def story() -> None:
        async with following(path) as found:
            before = found.catalog
            with caplog.at_level(logging.INFO, "internal_dns"):
                harm(path)
                await found.until(lambda: found.watcher.problem, 1)
                await asyncio.sleep(0.1)  # several attempts
            assert found.catalog is before
            assert len(found.applied) == 1
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert "the last good catalog answers" in caplog.text
            caplog.clear()

            for left in sidecars(path):
                left.unlink()
            shutil.copy(good, tmp_path / "new")
            with caplog.at_level(logging.INFO, "internal_dns"):
                os.replace(tmp_path / "new", path)
                await found.until(lambda: found.watcher.problem == "", 1)
            assert found.state() == b"stopped"
            assert found.catalog.networks[GLOBEX] is before.networks[GLOBEX]
            assert "readable again" in caplog.text
            commit(path, "UPDATE machines SET state = 'started' WHERE id = '3d8d9930b03989'")
            await found.until(lambda: found.state() == b"started", 1)

    run(story())


@pytest.mark.slow
def test_a_schema_repaired_by_a_commit_is_served_again(path: Path) -> None:
    async def story() -> None:
        async with following(path) as found:
            commit(path, "ALTER TABLE peers RENAME TO nobody")
            await found.until(lambda: "peers" in found.watcher.problem, 1)
            commit(path, "ALTER TABLE nobody RENAME TO peers", STOP)
            await found.until(lambda: found.state() == b"stopped", 1)
            assert found.watcher.problem == ""

    run(story())


@pytest.mark.slow
def test_a_locked_file_is_waited_for_without_holding_up_anything_else(path: Path) -> None:
    async def story() -> None:
        async with following(path) as found:
            before, loop, longest = found.catalog, asyncio.get_running_loop(), 0.0
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("BEGIN EXCLUSIVE")
                connection.execute(STOP)
                last = loop.time()
                for _ in range(100):
                    await asyncio.sleep(0.002)
                    longest, last = max(longest, loop.time() - last), loop.time()
                assert found.catalog is before
                connection.execute("COMMIT")
            assert longest < 0.15
            await found.until(lambda: found.state() == b"stopped", 1)
            assert found.watcher.problem == ""

    run(story())


def test_faults_are_counted_as_they_come_and_go(path: Path) -> None:
    async def story() -> None:
        async with following(path) as found:
            await found.after(
                lambda: commit(path, STOP, "INSERT INTO apps VALUES (24, 'a b'), (24, 'c d')")
            )
            assert found.watcher.faults() == 2
            commit(path, "DELETE FROM apps WHERE name = 'a b'")
            await found.until(lambda: found.watcher.faults() == 1, 1)

    run(story())


# ── the start ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_file_that_is_missing_at_first_is_served_once_it_exists(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "catalog.db"

    async def story() -> None:
        async with following(path) as found:
            assert found.watcher.loaded is None
            assert found.watcher.problem
            assert found.watcher.faults() == 0
            assert not found.applied
            await asyncio.sleep(0.15)
            assert len(caplog.records) == 1
            assert "SERVFAIL" in caplog.text
            make(tmp_path / "other.db", kind)
            os.replace(tmp_path / "other.db", path)
            await found.until(lambda: found.watcher.loaded, 1)
            assert found.watcher.problem == ""
            assert len(found.applied) == 1

    run(story())


@pytest.mark.usefixtures("impatient")
@pytest.mark.slow
def test_a_file_that_is_being_created_does_not_stop_a_waiting_server(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"

    async def story() -> None:
        async with following(path) as found:
            path.touch()
            await asyncio.sleep(0.1)
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute(
                    "CREATE TABLE meta (key TEXT NOT NULL DEFAULT '' PRIMARY KEY, value TEXT)"
                )
                await asyncio.sleep(0.1)
                assert found.watcher.problem
                assert not found.task.done()
            path.unlink()
            make(path, "delete")
            await found.until(lambda: found.watcher.loaded, 1)

    run(story())


@pytest.mark.parametrize("what", ["garbage", "empty", "text", "schema", "column", "directory"])
def test_a_file_that_cannot_be_used_at_the_start_raises(what: str, tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    match what:
        case "garbage":
            path.write_bytes(Random(2).randbytes(50_000))
        case "empty":
            path.touch()
        case "text":
            path.write_text("a catalog, honestly\n" * 50)
        case "directory":
            path.mkdir()
        case "schema":
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("CREATE TABLE t (x)")
        case "column":
            make(path, "delete")
            commit(path, "ALTER TABLE peers DROP COLUMN address")

    async def story() -> None:
        watcher = Watcher(path, lambda loaded: None)
        async with asyncio.timeout(20):
            with pytest.raises(UnusableCatalog) as error:
                await watcher.run()
        assert len(str(error.value)) > 20
        assert watcher.loaded is None

    run(story())


def test_options_reach_the_reader(tmp_path: Path) -> None:
    path = make(tmp_path / "catalog.db", "wal")

    async def story() -> None:
        applied: list[Loaded] = []
        task = asyncio.create_task(
            Watcher(path, applied.append, rules=CatalogRules(b"\xfd\xab", ("alice",))).run()
        )
        async with asyncio.timeout(20):
            while not applied:
                await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert applied[0].machines == 0  # none has an address of this prefix
        assert applied[0].fault_count > 80

    run(story())


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO machines SELECT id, 25, 'web', 'fdaa:0:19:5:5:5:5:2', region, "
        "'app', state, 0, 0, 1, '', '' "
        "FROM machines WHERE id = '148e306c77e789'",
        "INSERT OR REPLACE INTO machines SELECT id, 24, 'web', address, region, process_group, "
        "state, 0, 0, 1, '', '' "
        "FROM machines WHERE id = '148e306c77e789'",
        "REPLACE INTO machine_metadata VALUES ('148e306c77e789', 'role', 'other')",
        "UPDATE machine_metadata SET machine_id = '3d8d9930b03989' WHERE machine_id = "
        "'148e306c77e789'",
        "UPDATE machine_services SET machine_id = '4d89696a2e7508' WHERE machine_id = "
        "'148e306c77e789'",
        "UPDATE OR REPLACE machines SET id = '3d8d9930b03989' WHERE id = '148e306c77e789'",
        "DELETE FROM machines WHERE app = 'web'",
        "UPDATE flycasts SET network_id = 25, address = 'fdaa:0:19:0:1::77' WHERE app = 'web'",
        "UPDATE peers SET name = 'renamed' WHERE name = 'alice-laptop'",
        "UPDATE networks SET id = 98 WHERE id = 25",
        "UPDATE apps SET network_id = 25 WHERE name = 'blog'",
        "UPDATE apps SET name = 'blag' WHERE name = 'blog'",
    ],
)
@pytest.mark.slow
def test_a_row_that_moves_leaves_where_it_was(path: Path, statement: str) -> None:
    async def story() -> None:
        async with following(path) as found:
            loads = found.watcher.loads
            commit(path, statement)
            await found.until(lambda: found.watcher.loads > loads)
            assert comparable(found.catalog) == comparable(load(path).catalog)

    run(story())


def test_a_long_read_is_reported_and_does_not_delay_the_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "catalog.db", "wal")
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    )

    def read_all(reader: Reader, previous: Catalog) -> Loaded:
        assert reader.connection is not None
        reader.connection.execute(endless).fetchone()
        raise AssertionError("it ended by itself")

    monkeypatch.setattr(Reader, "_read_all", read_all)

    async def story() -> None:
        watcher = Watcher(path, lambda loaded: None, slow=0.01)
        task = asyncio.create_task(watcher.run())
        async with asyncio.timeout(10):
            while not watcher.problem:
                await asyncio.sleep(0.001)
            assert watcher.problem == "reading it has taken more than 0.01 s so far"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(story())


def test_a_server_that_starts_upgrades_a_file_of_ours_before_it_is_read(tmp_path: Path) -> None:
    path = make(tmp_path / "catalog.db", "owned")
    commit(path, "ALTER TABLE peers DROP COLUMN region")
    assert needs_upgrade(path)

    async def story() -> None:
        api = Api(path, Exchange(Rules(), Metrics()), CatalogRules())
        await api.start()
        try:
            assert not needs_upgrade(path)
            with Writer(path):  # another writer can take the lock
                pass
        finally:
            await api.close()

    run(story())


def test_what_a_read_replaced_is_freed_piece_by_piece(tmp_path: Path) -> None:
    """Never more than a thousand machines at a time: freeing holds the interpreter."""
    path = tmp_path / "catalog.db"
    create_catalog(path, sized_rows(5_000, 1))
    before = load(path)
    one = min(before.catalog.networks)
    commit(path, f"UPDATE machines SET region = 'elsewhere' WHERE network_id = {one}")
    after = Reader(path).read_after(before)
    pieces = discarded_parts(before.catalog, after.catalog)
    changed = {
        n for n, net in before.catalog.networks.items() if after.catalog.networks[n] is not net
    }
    freed: list[weakref.ref[Any]] = [weakref.ref(before.catalog.networks[n]) for n in changed]
    freed += [weakref.ref(app) for n in changed for app in before.catalog.networks[n].apps.values()]
    assert changed
    kept = [net for n, net in before.catalog.networks.items() if n not in changed]
    assert all(net not in pieces for net in kept)
    del before
    assert all(ref() is not None for ref in freed)
    assert max(len(piece) for piece in pieces if isinstance(piece, tuple)) <= PIECE
    free_pieces(pieces)
    kept_apps = [
        app for network in after.catalog.networks.values() for app in network.apps.values()
    ]
    assert all(any(ref() is app for app in kept_apps) for ref in freed if ref() is not None)


def test_the_loop_gets_the_interpreter_sooner_while_a_file_is_read(tmp_path: Path) -> None:
    path = make(tmp_path / "catalog.db", "owned")
    before, during = sys.getswitchinterval(), list[float]()

    async def story() -> None:
        def apply(loaded: Loaded) -> None:
            during.append(sys.getswitchinterval())

        task = asyncio.create_task(Watcher(path, apply).run())
        async with asyncio.timeout(20):
            while not during:
                await asyncio.sleep(0.001)
            while sys.getswitchinterval() != before:
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(story())
    assert during == [pytest.approx(SWITCH)]
    assert sys.getswitchinterval() == before
