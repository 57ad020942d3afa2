"""Follow a bucket in a thread of its own, beside the server that answers.

Nothing here is between a question and its answer: the thread writes the file, and the server
notices commits as it would notice anyone's. A bucket that is down, frozen or wiped leaves the file
as it is.
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
from internal_dns.replicate.codec import bucket_key
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

SERVER_TIMEOUT: Final = (
    10.0  # seconds that a silent bucket is asked again before another server is tried
)
COUNT_INTERVAL: Final = 60.0  # seconds between looks whether file and bucket have the same keys
REPORT_INTERVAL: Final = 5.0  # seconds between reports to the fleet
NOT_YET: Final = "not connected yet"
MAX_LOOKUPS: Final = 1_000  # keys that are looked up one by one before their rows are removed
MAX_CACHED_NAMES: Final = (
    200_000  # names that are known to be valid; a follower lives for months, names may not
)

_log = logging.getLogger("internal_dns")

Connect = Callable[[Source], AbstractAsyncContextManager[Bucket]]
Pause = Callable[[float], Awaitable[None]]


class NewConsumerNeeded(Exception):
    """Make a new consumer on the same connection; the text says why."""


class ResyncNeeded(Exception):
    """Take everything again; the text says why."""


@dataclass(slots=True)
class Status:
    """What the thread has to say; read by others, one value at a time."""

    lag: Lag
    problem: str = NOT_YET  # empty while connected and following
    revision: int = 0
    synced: bool = False  # the file holds a whole bucket, now or from an earlier run
    quarantined: int = 0
    messages: int = 0
    rows: int = 0
    connections: int = 0
    resyncs: int = 0
    consumers: int = 0

    def describe_problem(self, now: float) -> str:
        """Say what is wrong, empty when the file is as the bucket is."""
        late = self.lag.seconds(now)
        if self.problem:
            return f"{self.problem}; the file is as of {late:.0f} s ago, revision {self.revision}"
        return (
            f"{self.lag.revisions} revisions behind for {late:.0f} s"
            if late > SILENCE_TIMEOUT
            else ""
        )


class Follower:
    """Keeps *path* as the bucket at *source* is."""

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
        self.thread: threading.Thread | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.task: asyncio.Task[None] | None = None

    # ── the thread ────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Follow from now on."""
        self.thread = threading.Thread(
            target=lambda: asyncio.run(self._main()), name="follower", daemon=True
        )
        self.thread.start()

    def stop(self, timeout: float = 5) -> None:
        """Stop; what is not committed is taken back."""
        if self.thread is None:
            return
        if self.loop is not None and self.task is not None:
            with suppress(RuntimeError):  # it has ended already
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
        """Give up the file."""
        if self.replica is not None:
            self.replica.writer.close()
            self.replica = None

    # ── connections ───────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Follow for ever: connect, follow until the connection is lost, wait, again."""
        while True:
            try:
                await self._session()
            except (Unavailable, NotOurs, UnusableCatalog, OSError, sqlite3.Error) as error:
                self._report_problem(str(error))
                self.close()
            except Exception as error:
                # Whatever comes of a message or a library must not end the following, nor go
                # unseen.
                _log.exception("replication: unexpected")
                self._report_problem(f"{type(error).__name__}: {error}")
                self.close()
            self.attempt += 1
            await self.pause(backoff(self.attempt, self.chance.random()))

    def _report_problem(self, problem: str) -> None:
        if self.status.problem in (
            "",
            NOT_YET,
        ):  # one line for the trouble, however its words change
            _log.warning("replication: %s; the file stays as it is, and answers go on", problem)
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
        """Make consumer after consumer; a bucket that does not answer is asked again for
        SERVER_TIMEOUT."""
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
                await self.pause(
                    HEARTBEAT / 2
                )  # a fault that comes again and again must not be a storm of consumers
            except ResyncNeeded as error:
                force = str(error)
            except Replaced as error:
                _log.warning("replication: %s; going on from where it stands", error)
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
        """Follow one consumer. Raises NewConsumerNeeded, ResyncNeeded, Replaced, Unavailable; never returns."""
        after = decided.revision if isinstance(decided, Resume) else None
        replay = Replay(after or 0, decided.bound)
        replay.heard = after is not None
        self.status.consumers += 1
        if isinstance(decided, Resume):
            self.last_count = -COUNT_INTERVAL  # while we were away anything may have been purged
        async with bucket.follow(after) as deliveries:
            if isinstance(decided, FullResync):
                await self._resync(bucket, deliveries, replay, stream, decided.why)
            self._mark_connected(stream)
            while True:
                messages = await self._next(bucket, deliveries, replay)
                if messages:
                    with self._replica.transaction():
                        self._apply(messages)
                        self._replica.set_position(Position(stream, replay.revision), time.time())
                    self._applied(replay.revision)
                elif replay.complete:
                    await self._compare_key_counts(bucket, replay)

    def _mark_connected(self, stream: str) -> None:
        if self.status.problem:
            _log.info("replication: following %s, stream of %s", self.source, stream)
        self.status.problem = ""
        position = self._replica.position()
        self._applied(position.revision if position else 0)

    async def _next(self, bucket: Bucket, deliveries: Deliveries, replay: Replay) -> list[Message]:
        """Return the next messages; none when the bucket is idle. Raises NewConsumerNeeded when any was lost,
        or none comes."""
        # The first of all takes longer: the server looks for the last message of every key.
        patience = SILENCE_TIMEOUT if replay.heard else SERVER_TIMEOUT
        items = await deliveries.next(patience)
        if not items:
            self.status.lag.lost()
            raise NewConsumerNeeded(f"{self.source}: nothing heard for {patience:.0f} s")
        replay.heard = True
        messages = [self._check_delivery(item, replay) for item in items]
        pending = [item.pending for item in items[-2:] if isinstance(item, Delivery)]
        self.status.lag.pending(pending[-1] if pending else 0, self.now())
        if isinstance(items[-1], Heartbeat):
            if not replay.complete and not await bucket.any_after(replay.revision):
                replay.finish()
            if replay.complete:
                self.status.lag.applied(self.now())
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
        """Inside a transaction: apply *messages*."""
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

    # ── everything again ──────────────────────────────────────────────────────────────────────────

    async def _resync(
        self, bucket: Bucket, deliveries: Deliveries, replay: Replay, stream: str, why: str
    ) -> None:
        """Take every row and remove what was not told, in one transaction: until then the file
        stays as it is."""
        _log.info("replication: taking all of %s: %s", self.source, why)
        began, self.status.resyncs = self.now(), self.status.resyncs + 1
        replica = self._replica
        beside = replica.writer.path != self.path
        with replica.transaction(), replica.without_triggers() if beside else nullcontext():
            replica.clear_state()
            await self._replay(bucket, deliveries, replay)
            # Meanwhile written keys were skipped where they stood and come at their new place: wait
            # for that, too.
            replay.bound = (await self._check_stream(bucket, stream)).last
            replay.complete = replay.revision >= replay.bound
            await self._replay(bucket, deliveries, replay)
            spared = await self._find_in_flight(bucket)
            await self._check_stream(
                bucket, stream
            )  # whatever was asked since was asked of the same stream
            swept = replica.delete_extra_rows(spared)
            replica.set_position(Position(stream, replay.revision), time.time())
        if beside:
            self._install_first_catalog()
        took = self.now() - began
        _log.info(
            "replication: %d keys, %d rows removed, %.1f s", self._replica.count_keys(), swept, took
        )

    async def _check_stream(self, bucket: Bucket, stream: str) -> Facts:
        """Return what the bucket says. Raises NewConsumerNeeded when it is another by now, or nobody says that
        it is whole.

        One that was made anew in the middle of a replay has nothing behind our revision: that is no
        end.
        """
        facts = await bucket.facts()
        if facts.stream != stream or facts.floor is None:
            raise NewConsumerNeeded(f"{self.source}: the bucket was made anew while all was taken")
        return facts

    async def _replay(self, bucket: Bucket, deliveries: Deliveries, replay: Replay) -> None:
        while not replay.complete:
            if messages := await self._next(bucket, deliveries, replay):
                self._apply(messages)

    async def _find_in_flight(self, bucket: Bucket) -> list[str]:
        """Return which of the keys that were not told the bucket has all the same: just written, on
        their way."""
        untold = self._replica.find_extra_rows(MAX_LOOKUPS + 1)
        if len(untold) > MAX_LOOKUPS:
            return []  # so many are not on their way: this file was another's
        found = await asyncio.gather(*(bucket.get(key) for key in untold))
        return [
            message.key for message in found if message is not None and message.value is not None
        ]

    async def _compare_key_counts(self, bucket: Bucket, replay: Replay) -> None:
        """When idle: look whether file and bucket have the same keys. Raises ResyncNeeded.

        A tombstone that was purged while we were away, and no floor key told of it, shows only
        here: whatever the bucket has we have seen, so equal numbers mean equal keys.
        """
        if self.now() - self.last_count < COUNT_INTERVAL:
            return
        facts = await bucket.facts()
        if facts.last > replay.revision:
            if await bucket.any_after(replay.revision):
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
                f"the bucket has {facts.keys} keys and we know {known}: something was purged"
            )

    async def _forget_tombstones(self, bucket: Bucket, floor: int, missing: int) -> int:
        """Forget the deletes up to *floor* that the bucket tells no longer; return how many.

        The floor says that they may be purged, not that they are: whoever purges takes a while, or
        purges some only.
        """
        gone = self._replica.tombstones(floor)
        if len(gone) != missing or missing <= MAX_LOOKUPS:
            gone = self.chance.sample(gone, min(MAX_LOOKUPS, len(gone)))
            there = await asyncio.gather(*(bucket.get(key) for key in gone))
            gone = [key for key, message in zip(gone, there, strict=True) if message is None]
            # As of another moment than `missing`: count again, at once if all were asked.
            self.last_count = -COUNT_INTERVAL if len(there) < MAX_LOOKUPS else self.now()
        with self._replica.transaction():
            self._replica.forget_tombstones(gone)
        return len(gone)

    # ── the file ──────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> Replica:
        """Open the file, or one beside it to be put in its place once it is whole."""
        path = self.path
        if not path.exists():
            path = path.with_name(f".{path.name}.first")
            self._refuse_second_follower(path)
            create_catalog(path, {}, replace=True)
        writer = Writer(path, self.rules, following=True)
        try:
            replica = Replica(writer, str(self.source))
        except BaseException:
            writer.close()  # else we would keep its lock, and refuse ourselves from now on
            raise
        self.status.synced = replica.position() is not None
        return replica

    def _refuse_second_follower(self, path: Path) -> None:
        """Raise NotOurs where another process is about to fill the same file; what a killed one
        left is made anew."""
        with suppress(FileNotFoundError, UnusableCatalog, sqlite3.Error):
            Writer(path, self.rules, following=True).close()

    def _install_first_catalog(self) -> None:
        """The first whole catalog becomes the file."""
        beside = self._replica.writer.path
        if self._replica.writer.replaced():
            raise NotOurs(f"{beside} was made anew by somebody else meanwhile")
        self.close()
        if self.path.exists():
            raise NotOurs(f"{self.path} was made by somebody else meanwhile")
        put_in_place(beside, self.path)
        with suppress(OSError):
            os.unlink(f"{beside}.lock")
        self.replica = self._open()

    # ── the fleet ─────────────────────────────────────────────────────────────────────────────────

    async def _report_to_fleet(self, bucket: Bucket) -> None:
        """Tell the fleet how this host is, again and again."""
        host = bucket_key("", (self.host,)).removeprefix(".")
        while True:
            with suppress(Unavailable):
                await bucket.report(host, self.report())
            await self.pause(
                HEARTBEAT if self.status.problem else REPORT_INTERVAL
            )  # that a trouble is over is told soon

    def report(self) -> bytes:
        """What this host says of itself."""
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
            }
        )


def _nats() -> Connect:
    from internal_dns.replicate.nats import connected, consumer_name

    return partial(connected, consumer=consumer_name())
