"""A file follows an in-memory bucket and ends equal to it, whatever is lost or purged."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from random import Random

import pytest

from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.replicate.bucket import Item
from internal_dns.replicate.codec import FLOOR, bucket_key, file_values
from internal_dns.replicate.follower import COUNT_INTERVAL, SERVER_TIMEOUT, Follower
from internal_dns.replicate.publishing import find_changes
from internal_dns.replicate.replica import Replica, followed, quarantine
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import connect, load
from internal_dns.store.writer import NotOurs, Writer
from tests.replicate.fake import SOURCE, FakeBucket, FakeDeliveries, Stream
from tests.replicate.values import machine, network


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0
        self.pauses: list[float] = []

    def now(self) -> float:
        return self.time

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


class Host:
    """One follower and its file."""

    def __init__(self, path: Path, stream: Stream) -> None:
        self.path, self.stream, self.clock = path, stream, Clock()
        self.follower = Follower(
            path,
            SOURCE,
            "iad-1",
            rules=CatalogRules(),
            connect=stream.connect,
            now=self.clock.now,
            pause=self.clock.pause,
            chance=Random(1),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.follower.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.follower.close()

    async def until(self, what: Callable[[], object]) -> None:
        for _ in range(20_000):
            if what():
                return
            await asyncio.sleep(0)
        raise AssertionError(f"never: {self.follower.status}")

    async def caught_up(self) -> None:
        """Wait until the file is up to date."""
        status = self.follower.status
        await self.until(lambda: not status.problem and status.revision >= self.stream.last)

    async def follow(self) -> None:
        """Run until the file is up to date."""
        async with self.running():
            await self.caught_up()

    def values(self) -> dict[str, bytes]:
        with closing(connect(self.path)) as connection:
            return {key: value for _, key, value in file_values(connection)}

    def is_up_to_date(self) -> bool:
        return find_changes(self.stream.messages, self.values()).empty


@pytest.fixture
def stream() -> Stream:
    made = Stream()
    made.put(*network())
    for number, ident in enumerate("abcdefghij", 1):
        made.put(*machine(ident, number, metadata={"n": str(number)}))
    made.floor()
    return made


@pytest.fixture
def host(tmp_path: Path, stream: Stream) -> Host:
    return Host(tmp_path / "catalog.db", stream)


def machines(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT id FROM machines")}


def has_only(path: Path, idents: set[str]) -> bool:
    return machines(path) == idents


def change(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(sql)


def test_a_new_host_gets_the_whole_catalog_in_one_commit(host: Host) -> None:
    asyncio.run(host.follow())
    assert host.is_up_to_date()
    assert load(host.path).machines == 10
    assert load(host.path).owned
    assert not [path.name for path in host.path.parent.iterdir() if ".first" in path.name]
    assert followed(host.path) == {
        "source": str(SOURCE), "stream": "first", "revision": 12, "at": followed(host.path)["at"],  # type: ignore[index]
    }  # fmt: skip


def test_a_change_is_applied_without_a_full_resync(host: Host, stream: Stream) -> None:
    async def session() -> None:
        async with host.running():
            await host.caught_up()
            stream.put(*machine("a", state="stopped"))
            stream.put(machine("b")[0], None)
            await host.caught_up()

    asyncio.run(session())
    assert host.is_up_to_date()
    assert (host.follower.status.resyncs, stream.consumers) == (1, 1)


def test_missed_changes_are_applied_without_a_full_resync(host: Host, stream: Stream) -> None:
    asyncio.run(host.follow())
    for number in range(2000):
        stream.put(*machine("abcde"[number % 5], number % 5 + 1, updated_at=number))
    stream.put(machine("j")[0], None)
    again = Host(host.path, stream)
    asyncio.run(again.follow())
    assert again.is_up_to_date()
    assert again.follower.status.resyncs == 0


def test_a_follower_below_the_floor_resyncs_and_deletes_purged_rows(
    host: Host, stream: Stream
) -> None:
    asyncio.run(host.follow())
    gone = stream.put(machine("c")[0], None)
    stream.floor(gone)
    stream.purge(machine("c")[0])
    again = Host(host.path, stream)
    asyncio.run(again.follow())
    assert again.is_up_to_date()
    assert "c" not in machines(host.path)
    assert again.follower.status.resyncs == 1


def test_a_follower_that_saw_the_deletes_resumes_above_the_floor(
    host: Host, stream: Stream
) -> None:
    async def session() -> None:
        async with host.running():
            await host.caught_up()
            gone = stream.put(machine("c")[0], None)
            await host.caught_up()
            stream.floor(gone)
            stream.purge(machine("c")[0])
            await host.caught_up()
            host.clock.time += COUNT_INTERVAL
            await host.until(lambda: host.follower.last_count == host.clock.time)

    asyncio.run(session())
    assert host.follower.status.resyncs == 1
    assert host.is_up_to_date()


def test_a_purged_tombstone_is_detected_by_the_number_of_keys(host: Host, stream: Stream) -> None:
    asyncio.run(host.follow())
    stream.put(machine("c")[0], None)
    stream.purge(machine("c")[0])  # without raising the floor
    again = Host(host.path, stream)

    async def session() -> None:
        async with again.running():
            await again.until(lambda: "c" not in machines(host.path))

    asyncio.run(session())
    assert again.follower.status.resyncs == 1
    assert again.is_up_to_date()


def test_a_row_purged_during_an_outage_is_deleted_every_time(host: Host, stream: Stream) -> None:
    async def session() -> None:
        async with host.running():
            await host.caught_up()
            for ident in "cde":
                await host.until(lambda: not host.follower.status.problem)
                stream.down = True
                await host.until(lambda: host.follower.status.problem)
                stream.purge(machine(ident)[0])
                stream.down = False
                left = set("abcdefghij".partition(ident)[2]) | {"a", "b"}
                await host.until(partial(has_only, host.path, left))

    asyncio.run(session())
    assert host.is_up_to_date()


def test_a_recreated_stream_is_followed_once_it_is_complete(host: Host, stream: Stream) -> None:
    asyncio.run(host.follow())
    stream.recreate("second")
    stream.put(*network())
    stream.put(*machine("z"))
    again = Host(host.path, stream)

    async def session() -> None:
        async with again.running():
            await again.until(lambda: "floor key" in again.follower.status.problem)
            assert len(machines(host.path)) == 10, "an incomplete bucket must not empty a host"
            stream.floor()
            await again.caught_up()

    asyncio.run(session())
    assert machines(host.path) == {"z"}
    assert again.is_up_to_date()


def test_a_bucket_restored_to_an_earlier_state_causes_a_full_resync(
    host: Host, stream: Stream
) -> None:
    asyncio.run(host.follow())
    stream.purge(machine("j")[0])
    stream.last = 9
    again = Host(host.path, stream)
    asyncio.run(again.follow())
    assert machines(host.path) == set("abcdefghi")


def test_a_lost_delivery_is_delivered_again(host: Host, stream: Stream) -> None:
    stream.lose = {4, 12}
    asyncio.run(host.follow())
    assert host.is_up_to_date()
    assert stream.consumers == 2


def test_a_premature_pending_count_of_zero_is_ignored(host: Host, stream: Stream) -> None:
    stream.early = True
    asyncio.run(host.follow())
    assert host.is_up_to_date()


def test_a_row_written_during_a_full_resync_is_not_deleted(
    host: Host, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old revision is gone when the replay gets there, and the new one is past the bound."""
    asyncio.run(host.follow())
    stream.floor(stream.last)
    stream.floor(stream.last)  # above the host's position: it resyncs
    again, real, seen = Host(host.path, stream), FakeBucket.facts, []

    async def facts(self: FakeBucket) -> object:
        found = await real(self)
        seen.append(found)
        if len(seen) == 2:  # the bound is set: now the row moves past it
            stream.put(*machine("a", 1, state="stopped"))
        return found

    monkeypatch.setattr(FakeBucket, "facts", facts)
    deleted: list[str] = []
    asyncio.run(again.follow())
    with closing(sqlite3.connect(host.path)) as connection:
        deleted += [
            row[0] for row in connection.execute("SELECT id FROM machines WHERE state = 'stopped'")
        ]
    assert deleted == ["a"]
    assert again.is_up_to_date()


def test_a_full_resync_deletes_and_repairs_rows_of_other_writers(
    tmp_path: Path, stream: Stream
) -> None:
    create_catalog(tmp_path / "catalog.db", demo_rows())
    host = Host(tmp_path / "catalog.db", stream)
    asyncio.run(host.follow())
    assert host.is_up_to_date()
    change(host.path, "UPDATE machines SET app = 'drifted'")
    change(host.path, "INSERT INTO machines (id, app) VALUES (CAST(x'ff' AS TEXT), 'x')")
    change(host.path, "UPDATE replica SET stream = 'another'")
    asyncio.run(Host(host.path, stream).follow())
    assert host.is_up_to_date()


def test_invalid_messages_are_quarantined_counted_and_listed_and_their_rows_stay(
    host: Host, stream: Stream
) -> None:
    async def session() -> None:
        async with host.running():
            await host.caught_up()
            stream.put("nonsense", b"{}")
            stream.put(machine("a")[0], b'{"version": 7}')
            stream.put(*machine("new", 99))
            await host.caught_up()
            assert host.follower.status.quarantined == 2
            stream.floor(stream.last)
            stream.floor(stream.last)

    asyncio.run(session())
    assert {"a", "new"} <= machines(host.path)
    count, some = quarantine(host.path, 10)
    assert (count, [key for key, _, _ in some]) == (2, [machine("a")[0], "nonsense"])
    again = Host(host.path, stream)
    change(host.path, "UPDATE replica SET stream = 'another'")
    asyncio.run(again.follow())
    assert "a" in machines(host.path), "a resync keeps the row of a quarantined key"
    stream.put(*machine("a", state="stopped"))
    asyncio.run(Host(host.path, stream).follow())
    assert quarantine(host.path, 10)[0] == 1


def test_an_outage_of_the_bucket_leaves_the_file_unchanged_and_is_retried(
    host: Host, stream: Stream
) -> None:
    asyncio.run(host.follow())
    again = Host(host.path, stream)

    async def session() -> None:
        async with again.running():
            await again.caught_up()
            stream.down = True
            await again.until(lambda: len(again.clock.pauses) > 60)
            assert "down" in again.follower.status.describe_problem(again.clock.now())
            assert again.follower.status.lag.seconds(again.clock.now()) > SERVER_TIMEOUT
            assert len(machines(host.path)) == 10
            stream.down = False
            stream.put(machine("b")[0], None)
            await again.caught_up()

    asyncio.run(session())
    assert again.is_up_to_date()
    waits = [pause for pause in again.clock.pauses if pause not in (0.5, 5.0)]
    assert all(1 <= wait <= 30 for wait in waits)
    assert len(set(waits)) > 5


def test_an_interrupted_full_resync_changes_nothing(
    host: Host, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(host.follow())
    stream.recreate("second")
    for number in range(1, 40):
        stream.put(*machine(f"n{number}", number))
    stream.floor()
    again, batches = Host(host.path, stream), []
    real = again.follower._apply

    def apply(messages: list[object]) -> None:
        real(messages)  # type: ignore[arg-type]
        batches.append(messages)
        if len(batches) == 3:
            stream.down = True

    monkeypatch.setattr(again.follower, "_apply", apply)

    async def session() -> None:
        async with again.running():
            await again.until(lambda: stream.down and again.follower.status.problem)

    asyncio.run(session())
    assert machines(host.path) == set("abcdefghij")
    position = followed(host.path)
    assert position is not None
    assert position["stream"] == "first"


def test_a_file_restored_from_a_backup_resumes_from_its_own_position(
    host: Host, stream: Stream
) -> None:
    asyncio.run(host.follow())
    backup = host.path.with_name("backup.db")
    with closing(sqlite3.connect(host.path)) as here, closing(sqlite3.connect(backup)) as there:
        here.backup(there)

    async def session() -> None:
        async with host.running():
            await host.caught_up()
            stream.put(*machine("new", 99))
            await host.caught_up()
            for suffix in ("-wal", "-shm"):
                host.path.with_name(host.path.name + suffix).unlink(missing_ok=True)
            backup.rename(host.path)
            stream.put(*machine("newer", 98))
            await host.caught_up()

    asyncio.run(session())
    assert host.is_up_to_date()
    assert {"new", "newer"} <= machines(host.path)


@pytest.mark.slow
def test_a_large_resync_needs_no_temporary_file(host: Host, stream: Stream) -> None:
    """A container may have a read-only root and no /tmp: the rows to delete are held in memory."""
    asyncio.run(host.follow())
    with closing(sqlite3.connect(host.path, isolation_level=None)) as connection:
        # More than SQLite's cache of 2 MB.
        idents = ((f"stale-{n:050}",) for n in range(60_000))
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO machines (id, network_id, app, address, region) VALUES "
                               "(?, 24, '', '', '')",
                               idents)  # fmt: skip
        connection.execute("UPDATE replica SET stream = 'another'")
        connection.execute("COMMIT")
    again, opened = Host(host.path, stream), set[str]()
    real = Replica.delete_extra_rows

    def delete_extra_rows(self: Replica, spared: Iterable[str]) -> int:
        opened.update(
            os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)
        )
        return real(self, spared)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replica, "delete_extra_rows", delete_extra_rows)
        asyncio.run(again.follow())
    assert again.is_up_to_date()
    assert str(host.path) in opened
    assert not [path for path in opened if "etilqs" in path]  # SQLite's temporary files


def _is_open(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


def test_a_replica_is_written_by_its_follower_only(host: Host) -> None:
    asyncio.run(host.follow())
    with pytest.raises(NotOurs, match=r"follows nats://nats.example:4222/catalog") as refused:
        Writer(host.path)
    assert "--to nats://" in refused.value.do


def test_two_followers_of_one_file_do_not_fight(host: Host, stream: Stream) -> None:
    async def session() -> None:
        async with host.running():
            await host.caught_up()
            second = Host(host.path, stream)
            async with second.running():
                await second.until(
                    lambda: (
                        "follows" in second.follower.status.problem or len(second.clock.pauses) > 3
                    )
                )
                assert "another internal-dns process" in second.follower.status.problem

    asyncio.run(session())


def test_a_host_reports_its_status_to_the_fleet(host: Host, stream: Stream) -> None:
    asyncio.run(host.follow())
    report = json.loads(host.follower.report())
    assert stream.reports
    assert (report["host"], report["revision"], report["lag_revisions"], report["problem"]) == (
        "iad-1",
        12,
        0,
        "",
    )


def test_an_invalid_floor_is_quarantined_and_stops_nothing(host: Host, stream: Stream) -> None:
    async def session() -> None:
        async with host.running():
            await host.caught_up()
            stream.put(FLOOR, b"{}")
            stream.put(*machine("new", 99))
            await host.caught_up()

    asyncio.run(session())
    assert "new" in machines(host.path)
    assert [key for key, _, _ in quarantine(host.path, 5)[1]] == [FLOOR]


def test_a_floor_above_unpurged_tombstones_causes_no_full_resync(
    host: Host, stream: Stream
) -> None:
    """A publisher raises the floor first; the purge takes a while and may never finish."""

    async def counts(what: Callable[[], object]) -> None:
        what()
        await host.caught_up()
        host.clock.time += COUNT_INTERVAL
        await host.until(lambda: host.follower.last_count == host.clock.time)

    async def session() -> None:
        async with host.running():
            await host.caught_up()
            for ident in "bcd":
                stream.put(machine(ident)[0], None)
            await counts(lambda: stream.floor(stream.last))
            await counts(lambda: stream.purge(machine("b")[0]))
            await counts(lambda: stream.floor(stream.last))
            assert host.follower.status.resyncs == 1
            for ident in "cd":
                stream.purge(machine(ident)[0])
            host.clock.time += COUNT_INTERVAL
            await host.until(lambda: host.follower._replica.count_keys() == len(stream.messages))
            assert host.follower.status.resyncs == 1
            stream.purge(machine("e")[0])  # without raising the floor
            host.clock.time += COUNT_INTERVAL
            await host.until(lambda: "e" not in machines(host.path))

    asyncio.run(session())
    assert host.is_up_to_date()


@pytest.mark.parametrize("floor", [True, False])
def test_a_bucket_recreated_during_a_full_resync_empties_no_host(
    host: Host, stream: Stream, monkeypatch: pytest.MonkeyPatch, floor: bool
) -> None:
    """It has nothing after the reached revision, which does not complete the replay."""
    asyncio.run(host.follow())
    change(host.path, "UPDATE replica SET stream = 'another'")
    again, real = Host(host.path, stream), FakeDeliveries.next
    calls, seen = iter(range(10_000)), set()

    async def next_(self: FakeDeliveries, timeout: float) -> list[Item]:
        if next(calls) == 1:
            stream.recreate("second")
            stream.put(*network())
            if floor:
                stream.floor()
        seen.add(frozenset(machines(host.path)))
        return await real(self, timeout)

    monkeypatch.setattr(FakeDeliveries, "next", next_)

    async def session() -> None:
        async with again.running():
            await again.until(lambda: again.follower.status.problem and stream.identity == "second")
            if floor:
                await again.caught_up()
            else:
                await again.until(lambda: "floor key" in again.follower.status.problem)

    asyncio.run(session())
    position = followed(host.path)
    assert position is not None
    assert (machines(host.path), position["stream"]) == (
        (set(), "second") if floor else (set("abcdefghij"), "another")
    )


def test_a_locked_file_is_opened_later(
    host: Host, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed attempt must not leave a lock that excludes the follower itself."""
    asyncio.run(host.follow())
    monkeypatch.setattr("internal_dns.store.writer.BUSY_TIMEOUT", 0)
    again = Host(host.path, stream)

    async def session() -> None:
        with closing(sqlite3.connect(host.path, isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            async with again.running():
                await again.until(lambda: len(again.clock.pauses) > 2)
                assert "locked" in again.follower.status.problem
                shell.execute("ROLLBACK")
                stream.put(*machine("new", 99))
                await again.caught_up()

    asyncio.run(session())
    assert "new" in machines(host.path)


def test_a_tombstone_at_a_noncanonical_key_deletes_nothing(host: Host, stream: Stream) -> None:
    async def session() -> None:
        async with host.running():
            await host.caught_up()
            for key in (("networks", "024"), ("networks", "2.4e1"), ("machines", "a\0")):
                stream.put(bucket_key(key[0], (key[1],)), None)
            await host.caught_up()

    asyncio.run(session())
    assert set(host.values()) == {
        key for key, m in stream.messages.items() if m.value is not None and key != FLOOR
    }
    assert load(host.path).machines == 10


def test_a_host_stopped_during_its_first_replay_starts_it_again(host: Host, stream: Stream) -> None:
    """It leaves neither a partial catalog nor a lock."""

    async def interrupted() -> None:
        async with host.running():
            await host.until(lambda: host.follower.status.messages)
            assert host.follower.replica is not None
            assert host.follower.replica.connection.in_transaction

    asyncio.run(interrupted())
    assert not host.path.exists()
    again = Host(host.path, stream)
    asyncio.run(again.follow())
    assert again.is_up_to_date()
    assert not [path.name for path in host.path.parent.iterdir() if ".first" in path.name]


def test_a_recurring_fault_does_not_create_consumers_without_pause(
    host: Host, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FakeDeliveries.next

    async def lossy(self: FakeDeliveries, timeout: float) -> list[Item]:
        self.number += 1
        return await real(self, timeout)

    monkeypatch.setattr(FakeDeliveries, "next", lossy)

    async def session() -> None:
        began = host.clock.time
        async with host.running():
            await host.until(lambda: stream.consumers > 20)
        assert "a delivery was lost" in host.follower.status.problem
        assert host.clock.pauses.count(0.5) >= 20
        assert host.clock.time - began > 9

    asyncio.run(session())


# ── a server that delivers no more, a file that takes no more ─────────────────────────────────────


def test_a_full_resync_without_progress_is_a_problem_that_names_the_refusal(
    host: Host, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    """Heartbeats go on when the server refuses the answers to its flow control."""
    stream.most = 7
    stream.refused = 'Permissions Violation for Publish to "$JS.FC.KV_catalog.x"'

    async def session() -> None:
        async with host.running():
            await host.until(lambda: stream.consumers > 20)
            problem = host.follower.status.problem
            assert "delivers nothing more after 7 messages" in problem
            assert stream.refused in problem
            stream.most = 1_000
            await host.caught_up()

    with caplog.at_level("INFO", "internal_dns"):
        asyncio.run(session())
    assert host.is_up_to_date()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("delivers nothing more" in line for line in lines) == 1
    assert sum("starting a full resync" in line for line in lines) == 1
    # The first attempts come soon, the later ones do not read a large bucket every few seconds.
    assert max(host.clock.pauses) > 10


def test_a_delivery_that_stops_later_is_a_problem_too(host: Host, stream: Stream) -> None:
    asyncio.run(host.follow())
    again = Host(host.path, stream)

    async def session() -> None:
        async with again.running():
            await again.caught_up()
            stream.most = 0
            stream.put(*machine("new", 99))
            again.clock.time += COUNT_INTERVAL
            await again.until(lambda: "delivers nothing more" in again.follower.status.problem)
            stream.most = 1_000
            await again.caught_up()

    asyncio.run(session())
    assert again.is_up_to_date()


def test_a_host_that_may_not_report_says_so_once_and_follows(
    host: Host, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    stream.refused = 'Permissions Violation for Publish to "$KV.catalog-fleet.x"'

    async def session() -> None:
        async with host.running():
            await host.caught_up()
            await host.until(lambda: host.clock.pauses.count(5.0) > 3)

    asyncio.run(session())
    told = [r.getMessage() for r in caplog.records if "fleet status" in r.getMessage()]
    assert len(told) == 1
    assert stream.refused in told[0]


@pytest.mark.parametrize("resync", [False, True])
def test_a_full_disk_is_one_line_until_it_has_space_again(
    host: Host,
    stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    resync: bool,
) -> None:
    asyncio.run(host.follow())
    real, full = Replica.__init__, [True]

    def opened(self: Replica, writer: Writer, source: str) -> None:
        real(self, writer, source)
        if full[0]:
            (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
            self.connection.execute(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr(Replica, "__init__", opened)
    if resync:
        change(host.path, "UPDATE replica SET stream = 'another'")
    for number in range(200):
        stream.put(*machine(f"n{number}", number + 1, metadata={"n": "x" * 200}))
    again = Host(host.path, stream)

    async def session() -> None:
        async with again.running():
            await again.until(
                lambda: again.follower.attempt > 5 or again.follower.status.connections > 5
            )
            assert "full" in again.follower.status.problem
            assert not [r for r in caplog.records if "following" in r.getMessage()]
            full[0] = False
            await again.caught_up()

    with caplog.at_level("INFO", "internal_dns"):
        asyncio.run(session())
    assert again.is_up_to_date()
    told = [record.getMessage() for record in caplog.records]
    assert sum("is full" in line for line in told) == 1
    assert sum("starting a full resync" in line for line in told) == int(resync)
    assert sum("replication: following" in line for line in told) == 1


def test_a_file_that_lacks_a_column_is_followed(host: Host, stream: Stream) -> None:
    """As after an upgrade of internal-dns: "table machines has no column named …" stopped it."""
    asyncio.run(host.follow())
    change(host.path, "ALTER TABLE machines DROP COLUMN ready")
    stream.put(*machine("a", ready=False))
    stream.put(*machine("new", 99))
    again = Host(host.path, stream)
    asyncio.run(again.follow())
    assert again.is_up_to_date()
    with closing(sqlite3.connect(host.path)) as connection:
        query = "SELECT id FROM machines WHERE NOT ready"
        assert connection.execute(query).fetchall() == [("a",)]
