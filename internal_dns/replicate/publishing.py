"""Write a catalog file or a document to a bucket. Only differences are written.

A bucket has no transactions. Rows are written one after the other, parents first, deletes last,
each only if no other writer has changed it since it was read. Hosts see them in this order.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.replicate.bucket import (
    Bucket,
    Deliveries,
    Delivery,
    Heartbeat,
    NoBucket,
    Unavailable,
)
from internal_dns.replicate.codec import (
    FLOOR,
    FORMS,
    ORDER,
    DecodedValue,
    InvalidEntry,
    file_values,
    read_floor,
    read_key,
    read_value,
    same_value,
    write_floor,
)
from internal_dns.replicate.logic import SILENCE_TIMEOUT, Message, Replay
from internal_dns.replicate.nats import NatsBucket, connected
from internal_dns.replicate.source import Source
from internal_dns.store.generate import create_catalog
from internal_dns.store.rows import Values
from internal_dns.store.writer import RejectedChange, Writer

# Seconds to wait for the first message: the server looks up the last one of every key.
FIRST_MESSAGE_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Changes:
    """What to write: key, value (None deletes), and the revision that the key must have."""

    puts: list[tuple[str, bytes | None, int | None]]
    deletes: list[tuple[str, bytes | None, int | None]]

    @property
    def empty(self) -> bool:
        return not self.puts and not self.deletes


async def read(bucket: Bucket) -> dict[str, Message]:
    """Return the last message of every key, including tombstones. Raises Unavailable."""
    facts, found = await bucket.facts(), dict[str, Message]()
    if facts.last:
        async with bucket.follow(None) as deliveries:
            await _read(bucket, deliveries, Replay(0, facts.last), found)
    return found


async def _read(
    bucket: Bucket, deliveries: Deliveries, replay: Replay, found: dict[str, Message]
) -> None:
    while not replay.complete:
        items = await deliveries.next(SILENCE_TIMEOUT if replay.heard else FIRST_MESSAGE_TIMEOUT)
        if not items:
            raise Unavailable("the bucket went silent while it was read")
        replay.heard = True
        for item in items:
            await _take(item, replay, found, bucket)


async def _take(
    item: Heartbeat | Delivery, replay: Replay, found: dict[str, Message], bucket: Bucket
) -> None:
    if isinstance(item, Delivery):
        if not replay.message(item.number, item.message.revision):
            raise Unavailable("a message was lost while the bucket was read; try again")
        found[item.message.key] = item.message
    elif not replay.heartbeat(item.delivered):
        raise Unavailable("a message was lost while the bucket was read; try again")
    elif not await bucket.any_after(replay.revision):
        replay.finish()


def read_file_values(connection: sqlite3.Connection, rules: CatalogRules) -> dict[str, bytes]:
    """Return key and value of every row of a file, parents first.

    Raises RejectedChange for rows that a server could not serve.
    """
    values, found, faults = Values(rules), dict[str, bytes](), list[str]()
    for table, key, value in file_values(connection):
        try:
            read_value(read_key(key), value, values)
        except InvalidEntry as error:
            faults.append(f"{table} {key}: {error}")
        found[key] = value
    if faults:
        more = [f"and {len(faults) - 20:,} more"] if len(faults) > 20 else []
        raise RejectedChange([*faults[:20], *more])
    return found


def find_changes(
    present: Mapping[str, Message], wanted: Mapping[str, bytes], *, only: set[str] | None = None
) -> Changes:
    """Return the writes that turn a bucket of *present* into *wanted*.

    With *only*, other keys are never deleted.
    """
    puts: list[tuple[str, bytes | None, int | None]] = []
    for key, value in wanted.items():
        old = present.get(key)
        if (
            old is None
            or old.value is None
            or not same_value(key.partition(".")[0], old.value, value)
        ):
            puts.append((key, value, old.revision if old else 0))
    gone = [
        key
        for key, old in present.items()
        if old.value is not None and key != FLOOR and key not in wanted
    ]
    deletes: list[tuple[str, bytes | None, int | None]] = [
        (key, None, present[key].revision)
        for key in sorted(gone, key=_children_first)
        if only is None or key in only
    ]
    return Changes(puts, deletes)


def _children_first(key: str) -> tuple[int, str]:
    table = key.partition(".")[0]
    return -ORDER.index(table) if table in FORMS else 1, key


async def write(bucket: NatsBucket, present: Mapping[str, Message], changes: Changes) -> int:
    """Write *changes*, then the floor if there is none, which marks the bucket as complete.

    Returns the last revision.
    """
    last = await bucket.write(changes.puts)
    last = max(last, await bucket.write(changes.deletes))
    if _floor(present) is None:
        # A lost floor hides what was purged below it. A floor at the bucket's end makes every
        # follower resync.
        least = max((message.revision for message in present.values()), default=0)
        last = await bucket.write([_floor_at(least, present)])
    return last


def _floor(present: Mapping[str, Message]) -> int | None:
    """Return the floor; None when it is missing or invalid, and then every host waits for one."""
    message = present.get(FLOOR)
    try:
        return (
            read_floor(message.value) if message is not None and message.value is not None else None
        )
    except InvalidEntry:
        return None


def _floor_at(revision: int, present: Mapping[str, Message]) -> tuple[str, bytes, int]:
    return FLOOR, write_floor(revision), present[FLOOR].revision if FLOOR in present else 0


async def compact(bucket: NatsBucket, present: Mapping[str, Message]) -> int:
    """Purge the tombstones; return how many.

    The floor is raised first, so that a host that missed a tombstone resyncs.
    """
    gone = [message for message in present.values() if message.value is None]
    if gone:
        # Never lower the floor: an earlier purge may have removed later revisions.
        highest = max(_floor(present) or 0, *(message.revision for message in gone))
        await bucket.write([_floor_at(highest, present)])
        for message in gone:
            await bucket.purge(message.key, message.revision + 1)
    return len(gone)


async def publish(
    source: Source,
    wanted: Mapping[str, bytes],
    *,
    dry_run: bool = False,
    replicas: int = 1,
    forget: bool = False,
) -> dict[str, Any]:
    """Make the bucket equal to *wanted*. Raises RejectedChange, Conflict, Unavailable."""
    async with connected(source) as bucket:
        try:
            present = await read(bucket)
        except NoBucket:
            present = {}
            if not dry_run:
                await bucket.create(replicas)
        changes = find_changes(present, wanted)
        if changes.deletes and not any(key.startswith("networks.") for key in wanted):
            raise RejectedChange(
                [
                    f"the file has no network: publishing it would delete all "
                    f"{len(changes.deletes):,} rows of the bucket"
                ]
            )
        reply: dict[str, Any] = {"puts": len(changes.puts), "deletes": len(changes.deletes)}
        if dry_run:
            return reply
        reply["revision"] = await write(bucket, present, changes)
        if forget:
            reply["forgotten"] = await compact(bucket, await read(bucket))
        return reply


async def apply(source: Source, request: dict[str, Any], rules: CatalogRules) -> dict[str, Any]:
    """Perform `apply` on the catalog in a bucket.

    Reads the bucket into a temporary file, applies the document there under all rules of a file,
    and writes the differences to the bucket.

    Raises RejectedChange, InvalidDocument, Conflict, Unavailable.
    """
    from internal_dns.store.operations import perform

    async with connected(source) as bucket:
        present = await read(bucket)
        with tempfile.TemporaryDirectory(prefix="internal-dns-") as directory:
            path = Path(directory, "catalog.db")
            create_catalog(path, decode_rows(present, rules))
            with closing(Writer(path, rules)) as writer:
                before = {key for _, key, _ in file_values(writer.connection)}
                reply = perform(request, writer)
                after = {key: value for _, key, value in file_values(writer.connection)}
        if request.get("dry_run"):
            return reply
        # Entries that no file can hold stay in the bucket.
        changes = find_changes(present, after, only=before)
        return reply | {"revision": await write(bucket, present, changes)}


def decode_rows(
    present: Mapping[str, Message],
    rules: CatalogRules,
) -> dict[str, list[tuple[Any, ...]]]:
    """Return *present* as rows by table, without the entries that a follower would quarantine."""
    values, found = Values(rules), defaultdict[str, list[tuple[Any, ...]]](list)
    for message in present.values():
        try:
            if message.key == FLOOR or message.value is None:
                continue
            key = read_key(message.key)
            stored: DecodedValue = read_value(key, message.value, values)
        except InvalidEntry:
            continue
        found[key[0]].append(stored.row)
        found["machine_metadata"] += stored.metadata
        found["machine_services"] += stored.services
    return dict(found)
