"""Replication logic: bucket messages in, row changes out. No socket, no file, no clock.

    choose_start  where to start: after the last revision, with a full resync, or not yet
    make_batch    messages to rows: which to put, which to delete, which to quarantine
    Replay        whether a delivery was lost, and when a replay is complete
    Lag           how far the file is behind the bucket
    backoff       how long to wait before the next attempt

A bucket delivers the last value of each row in the order of revisions. Two changes are invisible
to a follower: a delete whose tombstone was purged, and the history of a stream that was recreated.
Both need a full resync: all rows are delivered again, and the file's other rows are deleted in the
same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from internal_dns.replicate.codec import (
    FLOOR,
    DecodedValue,
    InvalidEntry,
    NewerEntry,
    RowKey,
    is_newer,
    read_floor,
    read_key,
    read_value,
)
from internal_dns.store.rows import Values

HEARTBEAT: Final = 1.0  # seconds between the heartbeats of an idle bucket
SILENCE_TIMEOUT: Final = 3.0  # seconds without a message or heartbeat: three heartbeats
# Heartbeats without a message while the bucket has more. Flow control pauses a delivery for much
# less; a server that refuses our answers to it pauses for ever.
MAX_STALLED: Final = 10
RETRY_MIN: Final = 1.0
RETRY_MAX: Final = 30.0

Revision = int


# Hot path: a replay creates hundreds of thousands of these; a named tuple takes a third of the time
# of a dataclass.
class Message(NamedTuple):
    """The value of a key as of a revision; None: deleted."""

    key: str
    revision: Revision
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file has followed: everything in this stream up to this revision."""

    stream: str
    revision: Revision


@dataclass(frozen=True, slots=True)
class Facts:
    """The state of a bucket. A recreated one has another `stream`; `keys` includes tombstones."""

    stream: str
    last: Revision
    keys: int
    floor: Revision | None


@dataclass(frozen=True, slots=True)
class FullResync:
    """Read all rows, at least up to *bound*, and delete the file's other rows."""

    bound: Revision
    why: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Continue after this revision; the messages up to *bound* were missed."""

    revision: Revision
    bound: Revision


@dataclass(frozen=True, slots=True)
class NotPublished:
    """The bucket is not complete yet: leave the file unchanged."""

    why: str


def choose_start(position: Position | None, facts: Facts) -> FullResync | Resume | NotPublished:
    """Decide where to start.

    A bucket without a floor key may be incomplete: deleting the rows that it lacks could empty
    every host.
    """
    if facts.floor is None:
        return NotPublished("the bucket has no floor key: no complete catalog was published yet")
    if position is None:
        return FullResync(facts.last, "the file has not followed a bucket yet")
    if position.stream != facts.stream:
        return FullResync(facts.last, "the bucket is a different one, or was recreated")
    if position.revision > facts.last:
        return FullResync(
            facts.last,
            f"the bucket ends at {facts.last}, before the applied revision: it was restored",
        )
    if position.revision < facts.floor:
        return FullResync(
            facts.last,
            f"deletes up to {facts.floor} may be purged, and the file is at {position.revision}",
        )
    return Resume(position.revision, facts.last)


# ── messages ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A message that is not applied; its row stays unchanged."""

    key: str
    revision: Revision
    why: str


@dataclass(slots=True)
class Batch:
    """The changes of one transaction. Each row appears once."""

    puts: dict[str, list[DecodedValue]] = field(default_factory=dict)
    deletes: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    # Key, revision, and state: row, gone, bad or floor (replica.sql).
    revisions: list[tuple[str, Revision, str]] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    floor: Revision | None = None
    stale: int = 0  # messages older than an applied one of the same key

    @property
    def rows(self) -> int:
        """The number of rows that are put or deleted."""
        puts = sum(
            1 + len(s.metadata) + len(s.services) for some in self.puts.values() for s in some
        )
        return puts + sum(map(len, self.deletes.values()))


def make_batch(messages: Iterable[Message], known: Mapping[str, Revision], values: Values) -> Batch:
    """Return the changes that *messages*, in any order, amount to.

    *known* maps each key to the revision that was applied last.
    """
    batch, newest = Batch(), dict[str, Message]()
    for message in messages:
        before = newest.get(message.key)
        if message.revision <= known.get(message.key, 0) or (
            before and before.revision >= message.revision
        ):
            batch.stale += 1
        else:
            newest[message.key] = message
    for message in newest.values():
        try:
            state = _add_message(message, batch, values)
        except InvalidEntry as error:
            batch.quarantined.append(Quarantined(message.key, message.revision, str(error)))
            state = "bad"
        batch.revisions.append((message.key, message.revision, state))
    return batch


def _add_message(message: Message, batch: Batch, values: Values) -> str:
    if message.key == FLOOR:
        batch.floor = read_floor(message.value) if message.value is not None else None
        return "floor" if message.value is not None else "gone"
    if message.value is None:
        try:
            table, parts = read_key(message.key)
        except InvalidEntry:
            return "gone"  # the key was never a row
        batch.deletes.setdefault(table, []).append(parts)
        return "gone"
    try:
        key: RowKey = read_key(message.key)
    except InvalidEntry as error:
        if is_newer(message.key, message.value):
            raise NewerEntry(str(error)) from None
        raise
    stored = read_value(key, message.value, values)
    batch.puts.setdefault(key[0], []).append(stored)
    return "row"


# ── deliveries ────────────────────────────────────────────────────────────────────────────────────


class Replay:
    """Tracks the numbered deliveries of one consumer, so that a missing one is detected.

    A replay is complete when a revision at or past the bound has arrived. A pending count of zero
    proves nothing: a new consumer, or one that has lost its leader, reports zero before it has
    looked.
    """

    def __init__(self, after: Revision, bound: Revision) -> None:
        self.bound, self.revision, self.delivered = bound, after, 0
        self.complete, self.heard = after >= bound, False
        self.idle = 0  # heartbeats since the last message

    def message(self, delivery: int, revision: Revision) -> bool:
        """Record a delivery; False when an earlier one was lost or it is of another consumer."""
        if delivery != self.delivered + 1:
            return False
        self.delivered, self.idle = delivery, 0
        self.revision = max(self.revision, revision)
        self.complete = self.complete or self.revision >= self.bound
        return True

    def heartbeat(self, delivered: int) -> bool:
        """Whether everything that the consumer has delivered has arrived."""
        self.idle += 1
        return delivered == self.delivered

    @property
    def stalled(self) -> bool:
        """Whether the server stays connected but delivers no more of an incomplete replay."""
        return not self.complete and self.idle >= MAX_STALLED

    def finish(self) -> None:
        """Complete the replay: the bucket holds nothing more, as the message at the bound was
        purged."""
        self.revision = max(self.revision, self.bound)
        self.complete = True


@dataclass(slots=True)
class Lag:
    """How far a file is behind: `revisions` as the bucket last reported, `seconds` since the file
    was last known to be up to date."""

    since: float  # monotonic time at which the file was last up to date, or the follower started
    revisions: int = 0
    current: bool = False
    heard: float = 0.0

    def pending(self, revisions: int, now: float) -> None:
        """Record a message or heartbeat, after which *revisions* are pending."""
        self.heard, self.revisions = now, revisions

    def applied(self, now: float) -> None:
        """Record that everything received is in the file."""
        self.current = self.revisions == 0
        if self.current:
            self.since = self.heard = now

    def lost(self) -> None:
        """Record that the bucket is unreachable: the number of missed revisions is unknown."""
        self.current = False

    def seconds(self, now: float) -> float:
        """Return the lag; 0 while the file is up to date and the bucket sends heartbeats."""
        return (
            0.0
            if self.current and now - self.heard < SILENCE_TIMEOUT
            else max(0.0, now - self.since)
        )


def backoff(attempt: int, chance: float) -> float:
    """Return the seconds to wait before *attempt* (from 1).

    Full jitter keeps a thousand hosts from reconnecting at the same time.
    """
    most = min(RETRY_MAX, RETRY_MIN * float(1 << min(attempt, 8)))
    return RETRY_MIN + (most - RETRY_MIN) * chance
