"""A bucket as the target of a source: every host that follows it answers from the rows.

The bucket is read whole into a temporary catalog file, where a change is checked under all rules of
a catalog; then its keys are written, each only if nobody else has changed it meanwhile. It is read
again at every full look, and after a conflict.

The status goes to the key `source.<name>` of the fleet's bucket, and is the lease as well: only its
holder may write it. A follower that finds it held waits as long as a report may take; if no other
comes, the holder is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.live.fleet import PREFIX, reported
from internal_dns.live.source import Key, Objects
from internal_dns.live.status import SILENT, Status, as_json
from internal_dns.live.target import (
    Lost,
    OtherFollower,
    TargetAway,
    faults_of,
    objects_of,
    request_of,
)
from internal_dns.replicate.bucket import Conflict, NoBucket, Unavailable
from internal_dns.replicate.codec import file_values
from internal_dns.replicate.logic import Message
from internal_dns.replicate.nats import NatsBucket, connected
from internal_dns.replicate.publishing import decode_rows, find_changes, write
from internal_dns.replicate.reading import read_all
from internal_dns.replicate.source import Source
from internal_dns.store.generate import create_catalog
from internal_dns.store.operations import perform
from internal_dns.store.writer import RejectedChange, Writer


class BucketTarget:
    """The rows of *source* in a bucket. Use it as a context manager."""

    def __init__(self, bucket: Source, rules: CatalogRules, source: str) -> None:
        self.address, self.rules, self.source = bucket, rules, source
        self.holder = secrets.token_hex(8)
        self.lease: int | None = None  # the revision of our last report
        self.stack = AsyncExitStack()
        self.bucket: NatsBucket | None = None
        self.present: dict[str, Message] = {}
        self.unreadable: set[str] = set()  # keys that a later version wrote, or nobody can read
        self.writer: Writer | None = None
        self.place: tempfile.TemporaryDirectory[str] | None = None
        self.lock = asyncio.Lock()  # reports and changes share the connection

    @asynccontextmanager
    async def held(self, first: Status) -> AsyncIterator[None]:
        """Hold the lease. Raises OtherFollower, Unavailable."""
        await self._take_lease(first)
        try:
            yield
        finally:
            await self._close()

    # ── rows ──────────────────────────────────────────────────────────────────────────────────────

    async def rows(self) -> Objects:
        async with self.lock:
            try:
                bucket = await self._connected()
                self.present = await read_all(bucket)
                await asyncio.to_thread(self._open)
                reply = await asyncio.to_thread(
                    self._perform, {"op": "source rows", "source": self.source}
                )
            except (Unavailable, OSError, sqlite3.Error) as error:
                await self._disconnect()
                raise TargetAway(str(error)) from error
            return objects_of(reply)

    async def apply(self, puts: Objects, deletes: frozenset[Key]) -> dict[Key, str]:
        async with self.lock:
            try:
                bucket = await self._connected()
                assert self.writer is not None, "rows() comes first"
                before = await asyncio.to_thread(self._values)
                request = request_of(self.source, puts, deletes)
                reply = await asyncio.to_thread(self._perform, request)
                after = await asyncio.to_thread(self._values)
                # What no file can hold stays in the bucket.
                wanted = {key: value for key, value in after.items() if before.get(key) != value}
                gone = before.keys() - after.keys()
                if later := self.unreadable & wanted.keys():
                    raise TargetAway(
                        f"{self.address}: {len(later):,} keys have values that this version cannot "
                        "read: upgrade internal-dns here"
                    )
                changes = find_changes(
                    {k: m for k, m in self.present.items() if k in wanted or k in gone},
                    wanted,
                    only=set(gone),
                )
                await write(bucket, self.present, changes)
                await self._remember(bucket, wanted.keys() | gone)
            except Conflict as error:
                raise TargetAway(f"{self.address}: {error}") from error
            except (Unavailable, RejectedChange, OSError, sqlite3.Error) as error:
                await self._disconnect()
                raise TargetAway(str(error)) from error
            return faults_of(reply)

    async def _remember(self, bucket: NatsBucket, keys: Any) -> None:
        """Note the new revisions of *keys*: the next change expects them."""
        for key in keys:
            message = await bucket.get(key)
            if message is not None:
                self.present[key] = message

    def _open(self) -> None:
        """Make the temporary catalog anew from what was read."""
        self._forget()
        self.place = tempfile.TemporaryDirectory(prefix="internal-dns-")
        path = Path(self.place.name, "catalog.db")
        rows, self.unreadable = decode_rows(self.present, self.rules)
        create_catalog(path, rows)
        self.writer = Writer(path, self.rules)

    def _forget(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None
        if self.place is not None:
            self.place.cleanup()
            self.place = None

    def _values(self) -> dict[str, bytes]:
        assert self.writer is not None
        return {key: value for _, key, value in file_values(self.writer.connection)}

    def _perform(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self.writer is not None
        return perform(request, self.writer)

    # ── the connection ────────────────────────────────────────────────────────────────────────────

    async def _connected(self) -> NatsBucket:
        """Return the open bucket; connect again when the connection was lost. Raises
        Unavailable."""
        if self.bucket is not None and self.bucket.lost.is_set():
            await self._disconnect()
        if self.bucket is None:
            self.bucket = await self.stack.enter_async_context(connected(self.address))
        return self.bucket

    async def _disconnect(self) -> None:
        self.bucket = None
        with contextlib.suppress(Exception):
            await self.stack.aclose()

    async def _close(self) -> None:
        async with self.lock:
            await self._disconnect()
            await asyncio.to_thread(self._forget)

    # ── status and lease ──────────────────────────────────────────────────────────────────────────

    async def report(self, status: Status) -> None:
        """Write the status, which renews the lease. Raises Lost, TargetAway."""
        async with self.lock:
            try:
                await self._renew(self._value(status))
            except (Unavailable, OSError) as error:
                await self._disconnect()
                raise TargetAway(str(error)) from error

    async def _renew(self, value: bytes) -> None:
        """Write *value* as the holder of the lease. Raises Lost, Unavailable."""
        fleet = (await self._connected()).fleet_bucket()
        try:
            self.lease = await fleet.write([(self._key, value, self.lease or 0)])
        except NoBucket:
            await self._make_fleet(value)  # it is in memory, and the engine was started again
        except Conflict:
            message = await self._current()
            if message is None or message.value is None:
                self.lease = message.revision if message else 0  # it was forgotten
            elif self._is_ours(message):
                self.lease = message.revision  # the acknowledgment was lost
            else:
                raise Lost(f"another follower of {self.source} holds the lease") from None

    async def _make_fleet(self, value: bytes) -> None:
        """Make the bucket of the fleet with the first report."""
        await (await self._connected()).report(self._key, value)
        message = await self._current()
        self.lease = message.revision if message else None

    async def _take_lease(self, first: Status) -> None:
        """Take the lease: at once when nobody holds it, else when its holder says nothing."""
        fleet = (await self._connected()).fleet_bucket()
        try:
            message = await self._current()
        except NoBucket:
            await self._make_fleet(self._value(first))
            return
        if message is not None and message.value is not None and not _is_released(message.value):
            await asyncio.sleep(SILENT)
            later = await self._current()
            if later is not None and later.revision != message.revision:
                raise OtherFollower(f"another process follows {self.source} for {self.address}")
            message = later
        try:
            expected = message.revision if message is not None else 0
            self.lease = await fleet.write([(self._key, self._value(first), expected)])
        except Conflict:
            raise OtherFollower(
                f"another process follows {self.source} for {self.address}"
            ) from None

    async def _current(self) -> Message | None:
        return await (await self._connected()).fleet_bucket().get(self._key)

    @property
    def _key(self) -> str:
        return status_key(self.source)

    def _value(self, status: Status) -> bytes:
        return msgspec.json.encode(as_json(status) | {"holder": self.holder})

    def _is_ours(self, message: Message) -> bool:
        try:
            found = msgspec.json.decode(message.value or b"{}")
        except msgspec.DecodeError:
            return False
        return isinstance(found, dict) and found.get("holder") == self.holder


def status_key(source: str) -> str:
    """Return the key of the status of a source in the bucket of the fleet."""
    return f"{PREFIX}{source}"


def _is_released(value: bytes) -> bool:
    try:
        return msgspec.json.decode(value, type=Status).stopped
    except msgspec.DecodeError:
        return True  # nothing that a follower has written


async def remove(bucket: Source, rules: CatalogRules, source: str, *, followed: bool) -> int:
    """Delete all rows of *source* from a bucket, and its status; return how many.

    *followed*: even while a follower reports, which writes them again when it can read its source.
    Raises OtherFollower, Conflict, Unavailable, TargetAway.
    """
    if not followed:
        async with connected(bucket) as opened:
            for one in await reported(opened):
                if one.status.source == source and not one.status.stopped and one.ago < SILENT:
                    raise OtherFollower(f"another process follows {source} for {bucket}")
    target = BucketTarget(bucket, rules, source)
    try:
        rows = await target.rows()
        await target.apply({}, frozenset(rows))
        with contextlib.suppress(NoBucket):
            fleet = (await target._connected()).fleet_bucket()
            await fleet.write([(status_key(source), None, None)])
        return len(rows)
    finally:
        await target._close()
