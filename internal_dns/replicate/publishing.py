"""Write a catalog file or a document to a bucket. Only differences are written.

A bucket has no transactions. Rows are written one after the other, parents first, deletes last,
each only if no other writer has changed it since it was read. Hosts see them in this order.

What a later version wrote is never touched without force: neither a value that this version cannot
read, nor a member of a value that it does not know.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.replicate.bucket import NoBucket
from internal_dns.replicate.codec import (
    FLOOR,
    FORMS,
    ORDER,
    DecodedValue,
    InvalidEntry,
    bucket_key,
    file_values,
    is_newer,
    network_name,
    network_of,
    read_floor,
    read_key,
    read_value,
    same_value,
    with_unknown_members,
    write_floor,
)
from internal_dns.replicate.fleet import older_hosts
from internal_dns.replicate.logic import Message
from internal_dns.replicate.nats import NatsBucket, connected
from internal_dns.replicate.reading import read_all
from internal_dns.replicate.source import Source
from internal_dns.store.generate import create_catalog
from internal_dns.store.rows import Values, shown
from internal_dns.store.writer import RejectedChange, Writer

# Keys that a client can write. A publisher may have used any octets; such a key stays.
_WRITABLE: Final = re.compile(r"[A-Za-z0-9_=/-]+(\.[A-Za-z0-9_=/-]+)*")


class NeedsForce(Exception):
    """Nothing was written, because it would harm what a later version wrote. `lines` say what."""

    def __init__(self, lines: list[str], do: str) -> None:
        super().__init__("; ".join(lines))
        self.lines, self.do = lines, do


@dataclass(frozen=True, slots=True)
class Changes:
    """What to write: key, value (None deletes), and the revision that the key must have."""

    puts: list[tuple[str, bytes | None, int | None]]
    deletes: list[tuple[str, bytes | None, int | None]]

    @property
    def empty(self) -> bool:
        return not self.puts and not self.deletes


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
            kept = old.value if old is not None else None
            merged = with_unknown_members(key.partition(".")[0], kept, value) if kept else value
            puts.append((key, merged, old.revision if old else 0))
    gone = [
        key
        for key, old in present.items()
        if old.value is not None and key != FLOOR and key not in wanted and _WRITABLE.fullmatch(key)
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
    if _floor(present) is None and not _is_newer_floor(present):
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


def _is_newer_floor(present: Mapping[str, Message]) -> bool:
    message = present.get(FLOOR)
    return message is not None and message.value is not None and is_newer(FLOOR, message.value)


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
    force: bool = False,
) -> dict[str, Any]:
    """Make the bucket equal to *wanted*.

    Raises RejectedChange, NeedsForce unless *force*, Conflict, Unavailable.
    """
    async with connected(source) as bucket:
        try:
            present = await read_all(bucket)
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
        if not force:
            touched = {key for key, _, _ in (*changes.puts, *changes.deletes)}
            _refuse_newer(present, touched)
            if not dry_run:
                await _refuse_older_hosts(bucket)
        reply: dict[str, Any] = {"puts": len(changes.puts), "deletes": len(changes.deletes)}
        reply["unwritable"] = sum(not _WRITABLE.fullmatch(key) for key in present)
        if dry_run:
            return reply
        reply["revision"] = await write(bucket, present, changes)
        if forget:
            reply["forgotten"] = await compact(bucket, await read_all(bucket))
        return reply


async def apply(
    source: Source, request: dict[str, Any], rules: CatalogRules, *, force: bool = False
) -> dict[str, Any]:
    """Perform `apply` on the catalog in a bucket.

    Reads the bucket into a temporary file, applies the document there under all rules of a file,
    and writes the differences to the bucket. The reply's `unreadable` counts the entries that no
    file can hold and that stay in the bucket, by network.

    Raises RejectedChange, InvalidDocument, NeedsForce unless *force*, Conflict, Unavailable.
    """
    from internal_dns.store.operations import perform

    async with connected(source) as bucket:
        present = await read_all(bucket)
        rows, unreadable = decode_rows(present, rules)
        if not force:
            _refuse_newer(present, unreadable)
            if not request.get("dry_run"):
                await _refuse_older_hosts(bucket)
        with tempfile.TemporaryDirectory(prefix="internal-dns-") as directory:
            path = Path(directory, "catalog.db")
            create_catalog(path, rows)
            with closing(Writer(path, rules)) as writer:
                before = {key for _, key, _ in file_values(writer.connection)}
                reply = perform(request, writer)
                after = {key: value for _, key, value in file_values(writer.connection)}
        changes = find_changes(present, after, only=before)
        left = _count_by_network(present, unreadable - {key for key, _, _ in changes.puts})
        for network, count in left.items():
            reply["warnings"].append(
                f"{network}: {_keys(count)} cannot be read and stay as they are; on each host "
                f"their "
                "rows keep the last valid value. `internal-dns publish` writes or removes them"
            )
        reply["unreadable"] = left
        if request.get("dry_run"):
            return reply
        return reply | {"revision": await write(bucket, present, changes)}


def decode_rows(
    present: Mapping[str, Message],
    rules: CatalogRules,
) -> tuple[dict[str, list[tuple[Any, ...]]], set[str]]:
    """Return *present* as rows by table, and the keys that a follower would quarantine."""
    values, found = Values(rules), defaultdict[str, list[tuple[Any, ...]]](list)
    unreadable: set[str] = set()
    for message in present.values():
        try:
            if message.key == FLOOR or message.value is None:
                continue
            key = read_key(message.key)
            stored: DecodedValue = read_value(key, message.value, values)
        except InvalidEntry:
            unreadable.add(message.key)
            continue
        found[key[0]].append(stored.row)
        found["machine_metadata"] += stored.metadata
        found["machine_services"] += stored.services
    return dict(found), unreadable


# ── what later versions wrote ─────────────────────────────────────────────────────────────────────


def _refuse_newer(present: Mapping[str, Message], keys: Iterable[str]) -> None:
    """Raise NeedsForce when a later version wrote the value of one of *keys*, or the floor."""
    newer = {
        key
        for key in {*keys, FLOOR} & present.keys()
        if (value := present[key].value) is not None and is_newer(key, value)
    }
    if newer:
        counts = _count_by_network(present, newer)
        raise NeedsForce(
            [
                f"{network}: {_keys(count)} of a later version, which this one cannot read"
                for network, count in counts.items()
            ],
            "Upgrade internal-dns here, or lose what they hold with --force",
        )


async def _refuse_older_hosts(bucket: NatsBucket) -> None:
    """Raise NeedsForce while a host follows that would ignore a column of this version."""
    if older := await older_hosts(bucket):
        raise NeedsForce(
            [f"host {host.name} runs internal-dns {host.software}: it would ignore new columns"
             for host in older],
            "Upgrade it first; if it is gone: internal-dns fleet forget HOST; or publish with "
            "--force",
        )  # fmt: skip


def _keys(count: int) -> str:
    return "1 key" if count == 1 else f"{count:,} keys"


def _count_by_network(present: Mapping[str, Message], keys: Iterable[str]) -> dict[str, int]:
    """Return how many of *keys* each network has, by its name where the bucket tells it."""
    counts = Counter(network_of(key, present[key].value or b"") for key in keys)
    named = {None: "no network"} | {n: f"network {n}" for n in counts if n is not None}
    for number in counts.keys() - {None}:
        message = present.get(bucket_key("networks", (number,)))
        name = network_name(message.value) if message is not None and message.value else ""
        if name:
            named[number] = f"network {shown(name)}"
    ordered = sorted(counts.items(), key=lambda item: (item[0] is None, item[0] or 0))
    return {named[number]: count for number, count in ordered}
