"""The thread that follows a bucket and writes the catalog file, beside the server.

No query waits for this thread: it writes the file, and the server notices its commits like those
of any other writer. A bucket that is down, frozen or wiped leaves the file unchanged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from internal_dns import __version__
from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.replicate.bucket import (
    Bucket,
    ConnectionLost,
    Deliveries,
    Delivery,
    Heartbeat,
    Item,
    Unavailable,
)
from internal_dns.replicate.codec import COLUMNS, host_key
from internal_dns.replicate.logic import (
    HEARTBEAT,
    SILENCE_TIMEOUT,
    Facts,
    FullResync,
    Lag,
    Message,
    NotPublished,
    Position,
    Replay,
    Resume,
    backoff,
    choose_start,
    make_batch,
)
from internal_dns.replicate.replica import Replaced, Replica
from internal_dns.replicate.source import Source
from internal_dns.store.generate import create_catalog, put_in_place
from internal_dns.store.rows import Values
from internal_dns.store.sqlite import UnusableCatalog
from internal_dns.store.writer import NotOurs, Writer

SERVER_TIMEOUT: Final = 10.0  # seconds of silence before the follower tries another server
COUNT_INTERVAL: Final = 60.0  # seconds between comparisons of the number of keys
REPORT_INTERVAL: Final = 5.0  # seconds between reports to the fleet
NOT_YET: Final = "not connected yet"
MAX_LOOKUPS: Final = 1_000  # keys looked up one by one before their rows are deleted
MAX_CACHED_NAMES: Final = 200_000  # valid names remembered; a follower runs for months

_log = logging.getLogger("internal_dns")

Connect = Callable[[Source], AbstractAsyncContextManager[Bucket]]
Pause = Callable[[float], Awaitable[None]]


class NewConsumerNeeded(Exception):
    """The connection needs a new consumer; the text says why."""


class ResyncNeeded(Exception):
    """The file needs a full resync; the text says why."""


@dataclass(slots=True)
class Status:
    """The state of the follower. Other threads read it, one value at a time."""

    lag: Lag
    problem: str = NOT_YET  # empty while connected and following
    revision: int = 0
    synced: bool = False  # the file holds a complete catalog, perhaps from an earlier run
    quarantined: int = 0
    messages: int = 0
    rows: int = 0
    connections: int = 0
    resyncs: int = 0
    consumers: int = 0

    def describe_problem(self, now: float) -> str:
        """Return what is wrong; empty while the file is up to date."""
        late = self.lag.seconds(now)
        if self.problem:
            return f"{self.problem}; the file is {late:.0f} s old, at revision {self.revision}"
        return (
            f"{self.lag.revisions} revisions behind for {late:.0f} s"
            if late > SILENCE_TIMEOUT
            else ""
        )


class Follower:
    """Keeps the catalog file *path* up to date with the bucket at *source*."""

    def __init__(
        self,
        path: Path,
        source: Source,
        host: str,
        *,
        rules: CatalogRules,
        connect: Connect | None = None,
        now: Callable[[], float] = time.monotonic,
        pause: Pause = asyncio.sleep,
        chance: Random | None = None,
    ) -> None:
        self.path, self.source, self.host, self.rules = path, source, host, rules
        self.connect, self.now, self.pause, self.chance = (
            connect or _nats(),
            now,
            pause,
            chance or Random(),
        )
        self.status = Status(Lag(now()))
        self.values = Values(rules)
        self.replica: Replica | None = None
        self.last_count = -COUNT_INTERVAL
        self.attempt = 0
        self.stalls = 0  # consumers in a row that the server stopped delivering to
        self.announced = ""  # why the current full resync was started; logged once, however often
        self.thread: threading.Thread | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.task: asyncio.Task[None] | None = None

    # ── the thread ────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the thread."""
        self.thread = threading.Thread(
            target=lambda: asyncio.run(self._main()), name="follower", daemon=True
        )
        self.thread.start()

    def stop(self, timeout: float = 5) -> None:
        """Stop the thread and roll back what it has not committed."""
        if self.thread is None:
            return
        if self.loop is not None and self.task is not None:
            with suppress(RuntimeError):  # the loop has ended
                self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join(timeout)

    async def _main(self) -> None:
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            with suppress(asyncio.CancelledError):
                await self.run()
        finally:
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self.replica is not None:
            self.replica.writer.close()
            self.replica = None

    # ── connections ───────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Connect, follow until the connection is lost, wait, and repeat until cancelled."""
        while True:
            try:
                await self._session()
            except (Unavailable, NotOurs, UnusableCatalog, OSError, sqlite3.Error) as error:
                self._report_problem(str(error))
                self.close()
            except Exception as error:
                # No message and no fault of the library may end replication, or go unnoticed.
                _log.exception("replication: unexpected error")
                self._report_problem(f"{type(error).__name__}: {error}")
                self.close()
            self.attempt += 1
            await self.pause(backoff(self.attempt, self.chance.random()))

    def _report_problem(self, problem: str) -> None:
        if self.status.problem in ("", NOT_YET):  # one line per outage, whatever its causes
            _log.warning(
                "replication: %s; the server keeps answering from its last catalog", problem
            )
        self.status.problem = problem
        self.status.lag.lost()

    async def _session(self) -> None:
        """Follow over one connection until it is lost."""
        if self.replica is None:
            self.replica = self._open()
        async with self.connect(self.source) as bucket:
            self.status.connections += 1
            reporting = asyncio.ensure_future(self._report_to_fleet(bucket))
            try:
                await self._follow(bucket)
            finally:
                reporting.cancel()

    async def _follow(self, bucket: Bucket) -> None:
        """Create one consumer after another. Retries a silent bucket for SERVER_TIMEOUT."""
        heard, force = self.now(), ""
        while True:
            try:
                facts = await bucket.facts()
                heard, self.attempt = self.now(), 0
                position = self._replica.position()
                decided = (
                    FullResync(facts.last, force)
                    if force and facts.floor is not None
                    else choose_start(position, facts)
                )
                if isinstance(decided, NotPublished):
                    self._report_problem(decided.why)
                    await self.pause(HEARTBEAT)
                    continue
                force = ""
                await self._consume(bucket, facts.stream, decided)
            except NewConsumerNeeded as error:
                heard = self.now()
                self._report_problem(str(error))
                # A recurring fault must not create consumers without pause, nor make every host
                # read a large bucket again and again.
                await self.pause(
                    backoff(self.stalls, self.chance.random()) if self.stalls else HEARTBEAT / 2
                )
            except ResyncNeeded as error:
                force = str(error)
            except Replaced as error:
                _log.warning("replication: %s; continuing from the position in that file", error)
                self.close()
                self.replica = self._open()
            except ConnectionLost:
                raise
            except Unavailable:
                if self.now() - heard > SERVER_TIMEOUT:
                    raise
                await self.pause(HEARTBEAT / 2)

    @property
    def _replica(self) -> Replica:
        assert self.replica is not None
        return self.replica

    # ── messages ──────────────────────────────────────────────────────────────────────────────────

    async def _consume(self, bucket: Bucket, stream: str, decided: FullResync | Resume) -> None:
        """Follow one consumer; never returns.

        Raises NewConsumerNeeded, ResyncNeeded, Replaced, Unavailable.
        """
        after = decided.revision if isinstance(decided, Resume) else None
        replay = Replay(after or 0, decided.bound)
        replay.heard = after is not None
        self.status.consumers += 1
        if isinstance(decided, Resume):
            self.last_count = -COUNT_INTERVAL  # compare at once: keys may have been purged
        async with bucket.follow(after) as deliveries:
            if isinstance(decided, FullResync):
                await self._resync(bucket, deliveries, replay, stream, decided.why)
            while True:
                # Not before all that was missed is in the file: else a full disk would lose and
                # regain the bucket with every attempt.
                if replay.complete:
                    self._mark_connected(stream)
                messages = await self._next(bucket, deliveries, replay)
                if messages:
                    with self._replica.transaction():
                        self._apply(messages)
                        self._replica.set_position(Position(stream, replay.revision), time.time())
                    self._applied(replay.revision)
                elif replay.complete:
                    await self._compare_key_counts(bucket, replay)

    def _mark_connected(self, stream: str) -> None:
        self.stalls, self.announced = 0, ""
        if not self.status.problem:
            return
        _log.info("replication: following %s, stream created %s", self.source, stream)
        self.status.problem = ""
        position = self._replica.position()
        self._applied(position.revision if position else 0)

    async def _next(self, bucket: Bucket, deliveries: Deliveries, replay: Replay) -> list[Message]:
        """Return the next messages; none while the bucket is idle.

        Raises NewConsumerNeeded when a delivery was lost, or the consumer is silent or stalled.
        """
        # The first delivery takes longer: the server looks up the last message of every key.
        patience = SILENCE_TIMEOUT if replay.heard else SERVER_TIMEOUT
        items = await deliveries.next(patience)
        if not items:
            self.status.lag.lost()
            raise NewConsumerNeeded(f"{self.source}: no message or heartbeat for {patience:.0f} s")
        replay.heard = True
        messages = [self._check_delivery(item, replay) for item in items]
        pending = [item.pending for item in items[-2:] if isinstance(item, Delivery)]
        self.status.lag.pending(pending[-1] if pending else 0, self.now())
        if isinstance(items[-1], Heartbeat):
            if not replay.complete and not await bucket.any_after(replay.revision):
                replay.finish()
            if replay.complete:
                self.status.lag.applied(self.now())
            elif replay.stalled:
                self.stalls += 1
                self.status.lag.lost()
                why = bucket.refusal() or "is the connection too slow?"
                raise NewConsumerNeeded(
                    f"{self.source}: the server delivers nothing more after {replay.delivered:,} "
                    f"messages, and the bucket has more: {why}"
                )
        return [message for message in messages if message is not None]

    def _check_delivery(self, item: Item, replay: Replay) -> Message | None:
        if isinstance(item, Heartbeat):
            if not replay.heartbeat(item.delivered):
                raise NewConsumerNeeded(
                    f"{self.source}: {item.delivered - replay.delivered} deliveries were lost"
                )
            return None
        if not replay.message(item.number, item.message.revision):
            raise NewConsumerNeeded(f"{self.source}: a delivery was lost")
        return item.message

    def _apply(self, messages: list[Message]) -> None:
        """Apply *messages*, inside a transaction."""
        replica = self._replica
        if len(self.values.names) > MAX_CACHED_NAMES:
            self.values = Values(self.rules)
        batch = make_batch(
            messages, replica.applied_revisions(message.key for message in messages), self.values
        )
        replica.apply(batch)
        self.status.messages += len(messages)
        self.status.rows += batch.rows

    def _applied(self, revision: int) -> None:
        status = self.status
        status.revision, status.synced = revision, True
        status.quarantined = self._replica.count_quarantined()
        status.lag.applied(self.now())

    # ── full resync ──────────────────────────────────────────────────────────────────────────

    async def _resync(
        self, bucket: Bucket, deliveries: Deliveries, replay: Replay, stream: str, why: str
    ) -> None:
        """Read every row and delete the file's other rows, in one transaction.

        Until its commit, readers see the old catalog.
        """
        if why != self.announced:
            _log.info("replication: starting a full resync from %s: %s", self.source, why)
            self.announced = why
        began, self.status.resyncs = self.now(), self.status.resyncs + 1
        replica = self._replica
        first = replica.writer.path != self.path  # a new file, not yet in place
        with replica.transaction(), replica.without_triggers() if first else nullcontext():
            replica.clear_state()
            await self._replay(bucket, deliveries, replay)
            # A key written during the replay was skipped at its old revision and is delivered at
            # its new one: replay up to the bucket's present end, too.
            replay.bound = (await self._check_stream(bucket, stream)).last
            replay.complete = replay.revision >= replay.bound
            await self._replay(bucket, deliveries, replay)
            spared = await self._find_in_flight(bucket)
            # The lookups since then were of the same stream.
            await self._check_stream(bucket, stream)
            deleted = replica.delete_extra_rows(spared)
            replica.set_position(Position(stream, replay.revision), time.time())
        if first:
            self._install_first_catalog()
        took = self.now() - began
        _log.info(
            "replication: full resync done: %d keys, %d rows deleted, %.1f s",
            self._replica.count_keys(),
            deleted,
            took,
        )

    async def _check_stream(self, bucket: Bucket, stream: str) -> Facts:
        """Return the state of the bucket, checked to be still the complete *stream*.

        Raises NewConsumerNeeded otherwise. A bucket recreated during a replay has no message after
        our revision, which does not mean that the replay is complete.
        """
        facts = await bucket.facts()
        if facts.stream != stream or facts.floor is None:
            raise NewConsumerNeeded(f"{self.source}: the bucket was recreated during a full resync")
        return facts

    async def _replay(self, bucket: Bucket, deliveries: Deliveries, replay: Replay) -> None:
        while not replay.complete:
            if messages := await self._next(bucket, deliveries, replay):
                self._apply(messages)

    async def _find_in_flight(self, bucket: Bucket) -> list[str]:
        """Return the keys of rows that were not delivered although the bucket has them.

        They were written a moment ago, and their messages are on the way.
        """
        extra = self._replica.find_extra_rows(MAX_LOOKUPS + 1)
        if len(extra) > MAX_LOOKUPS:
            return []  # too many to be in flight: the file held another catalog
        found = await asyncio.gather(*(bucket.get(key) for key in extra))
        return [
            message.key for message in found if message is not None and message.value is not None
        ]

    async def _compare_key_counts(self, bucket: Bucket, replay: Replay) -> None:
        """When idle, compare the number of keys in file and bucket. Raises ResyncNeeded.

        Only this finds a tombstone that was purged during an outage without a floor key. The file
        has received every key that the bucket has, so equal numbers mean equal keys.
        """
        if self.now() - self.last_count < COUNT_INTERVAL:
            return
        facts = await bucket.facts()
        if facts.last > replay.revision:
            if await bucket.any_after(replay.revision):
                # On its way, or the server has stopped delivering: then the replay is stalled.
                replay.bound, replay.complete = facts.last, False
                return
            replay.bound = facts.last
            replay.finish()
        self.last_count = self.now()
        if facts.keys == (known := self._replica.count_keys()):
            return
        if facts.floor is None or not await self._forget_tombstones(
            bucket, facts.floor, known - facts.keys
        ):
            raise ResyncNeeded(
                f"the bucket has {facts.keys} keys and the file {known}: keys were purged"
            )

    async def _forget_tombstones(self, bucket: Bucket, floor: int, missing: int) -> int:
        """Forget the tombstones up to *floor* that the bucket no longer has; return how many.

        The floor permits a purge and does not prove it: purging takes a while, or covers only some
        tombstones.
        """
        gone = self._replica.tombstones(floor)
        if len(gone) != missing or missing <= MAX_LOOKUPS:
            gone = self.chance.sample(gone, min(MAX_LOOKUPS, len(gone)))
            there = await asyncio.gather(*(bucket.get(key) for key in gone))
            gone = [key for key, message in zip(gone, there, strict=True) if message is None]
            # The lookups are later than the count of `missing`: compare again, at once unless all
            # were looked up.
            self.last_count = -COUNT_INTERVAL if len(there) < MAX_LOOKUPS else self.now()
        with self._replica.transaction():
            self._replica.forget_tombstones(gone)
        return len(gone)

    # ── the file ──────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> Replica:
        """Open the file; if it is missing, a temporary one that takes its place once complete."""
        path = self.path
        if not path.exists():
            path = path.with_name(f".{path.name}.first")
            self._refuse_second_follower(path)
            create_catalog(path, {}, replace=True)
        writer = Writer(path, self.rules, following=True)
        try:
            replica = Replica(writer, str(self.source))
        except BaseException:
            writer.close()  # else its lock would exclude this very follower
            raise
        self.status.synced = replica.position() is not None
        return replica

    def _refuse_second_follower(self, path: Path) -> None:
        """Raise NotOurs while another process fills the same file."""
        with suppress(FileNotFoundError, UnusableCatalog, sqlite3.Error):
            Writer(path, self.rules, following=True).close()

    def _install_first_catalog(self) -> None:
        """Move the first complete catalog to its place."""
        first = self._replica.writer.path
        if self._replica.writer.is_replaced():
            raise NotOurs(f"another process has replaced {first}")
        self.close()
        if self.path.exists():
            raise NotOurs(f"another process has created {self.path}")
        put_in_place(first, self.path)
        with suppress(OSError):
            os.unlink(f"{first}.lock")
        self.replica = self._open()

    # ── the fleet ─────────────────────────────────────────────────────────────────────────────────

    async def _report_to_fleet(self, bucket: Bucket) -> None:
        """Publish the status of this host to the fleet, periodically."""
        key, refused = host_key(self.host), False
        while True:
            try:
                await bucket.report(key, self.report())
                refused = False
            except Unavailable as error:
                if bucket.refusal() and not refused:
                    _log.warning("replication: this host is not in `fleet status`: %s", error)
                    refused = True
            # The end of a problem is published soon.
            await self.pause(HEARTBEAT if self.status.problem else REPORT_INTERVAL)

    def report(self) -> bytes:
        """Return the status of this host as JSON."""
        status, now = self.status, self.now()
        return msgspec.json.encode(
            {
                "version": 1,
                "host": self.host,
                "revision": status.revision,
                "lag_revisions": status.lag.revisions,
                "lag_seconds": round(status.lag.seconds(now), 1),
                "quarantined": status.quarantined,
                "problem": status.problem,
                "at": round(time.time(), 1),
                "software": __version__,
                "columns": COLUMNS,
            }
        )


def _nats() -> Connect:
    from internal_dns.replicate.nats import connected, consumer_name

    return partial(connected, consumer=consumer_name())
