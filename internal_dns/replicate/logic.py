"""What a follower does with what it is told. No socket, no file, no clock: messages and `now` in,
what to do out.

    start     where to go on: after the last revision, from the beginning, or not yet
    sort      messages to rows: what to put, what to delete, what to keep out
    Replay    whether a delivery was lost, and when a replay is complete
    Lag       how late we are
    backoff   when to try again

A bucket tells each row's last value in the order of its revisions. Two things it cannot tell: a
delete whose tombstone was purged, and anything of a stream that was made anew. For both there is
the full resync: all rows are told again, and what was not among them is removed, in one
transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from internal_dns.replicate.codec import (
    FLOOR,
    DecodedValue,
    InvalidEntry,
    RowKey,
    read_floor,
    read_key,
    read_value,
)
from internal_dns.store.rows import Values

HEARTBEAT: Final = 1.0  # seconds between signs of life of an idle bucket
SILENCE_TIMEOUT: Final = 3.0  # without any, the bucket may be gone: ask
RETRY_MIN: Final = 1.0
RETRY_MAX: Final = 30.0

Revision = int


# Hot path: there are hundreds of thousands of these at a time, and a named tuple is made in a third
# of the time.
class Message(NamedTuple):
    """A key's value as of a revision; None says that it was deleted."""

    key: str
    revision: Revision
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Position:
    """What a file holds: everything of this stream up to this revision."""

    stream: str
    revision: Revision


@dataclass(frozen=True, slots=True)
class Facts:
    """What a bucket says of itself. `stream` is another when it was made anew; `keys` counts
    tombstones too."""

    stream: str
    last: Revision
    keys: int
    floor: Revision | None


@dataclass(frozen=True, slots=True)
class FullResync:
    """Take everything again, at least up to *bound*, and remove what is not told."""

    bound: Revision
    why: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on behind this revision; what is up to *bound* was missed."""

    revision: Revision
    bound: Revision


@dataclass(frozen=True, slots=True)
class NotPublished:
    """Not yet: the file stays as it is."""

    why: str


def choose_start(position: Position | None, facts: Facts) -> FullResync | Resume | NotPublished:
    """Decide where to start.

    Without a floor key nobody has said that the bucket is whole: removing what it lacks could empty
    every host.
    """
    if facts.floor is None:
        return NotPublished("the bucket has no floor key: nothing was published whole yet")
    if position is None:
        return FullResync(facts.last, "the file has not followed a bucket yet")
    if position.stream != facts.stream:
        return FullResync(facts.last, "the bucket is another than was followed, or was made anew")
    if position.revision > facts.last:
        return FullResync(
            facts.last, f"the bucket ends at {facts.last}, before what was applied: it was restored"
        )
    if position.revision < facts.floor:
        return FullResync(
            facts.last,
            f"deletes up to {facts.floor} are no longer told, and we know {position.revision}",
        )
    return Resume(position.revision, facts.last)


# ── messages ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A message that is kept out; the row it speaks of stays as it was."""

    key: str
    revision: Revision
    why: str


@dataclass(slots=True)
class Batch:
    """What to apply in one transaction. Each row is in it once."""

    puts: dict[str, list[DecodedValue]] = field(default_factory=dict)
    deletes: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    revisions: list[tuple[str, Revision, str]] = field(
        default_factory=list
    )  # key, revision; row, gone or bad
    quarantined: list[Quarantined] = field(default_factory=list)
    floor: Revision | None = None
    stale: int = 0  # messages that were older than what is known

    @property
    def rows(self) -> int:
        """How many rows of the file it puts or deletes."""
        puts = sum(
            1 + len(s.metadata) + len(s.services) for some in self.puts.values() for s in some
        )
        return puts + sum(map(len, self.deletes.values()))


def make_batch(messages: Iterable[Message], known: Mapping[str, Revision], values: Values) -> Batch:
    """Return what *messages* come to, in whatever order they are; *known* has the revisions that
    were applied."""
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
            state = _sort(message, batch, values)
        except InvalidEntry as error:
            batch.quarantined.append(Quarantined(message.key, message.revision, str(error)))
            state = "bad"
        batch.revisions.append((message.key, message.revision, state))
    return batch


def _sort(message: Message, batch: Batch, values: Values) -> str:
    if message.key == FLOOR:
        batch.floor = read_floor(message.value) if message.value is not None else None
        return "floor" if message.value is not None else "gone"
    if message.value is None:
        try:
            table, parts = read_key(message.key)
        except InvalidEntry:
            return "gone"  # of something that never was a row
        batch.deletes.setdefault(table, []).append(parts)
        return "gone"
    key: RowKey = read_key(message.key)
    stored = read_value(key, message.value, values)
    batch.puts.setdefault(key[0], []).append(stored)
    return "row"


# ── deliveries ────────────────────────────────────────────────────────────────────────────────────


class Replay:
    """Follows one consumer's deliveries, which are numbered: one that is missing is noticed.

    It is complete when a revision at or past the bound has come. That nothing is pending is no
    sign: a consumer that was just made, or that has lost its leader, says so before it has looked.
    """

    def __init__(self, after: Revision, bound: Revision) -> None:
        self.bound, self.revision, self.delivered = bound, after, 0
        self.complete, self.heard = after >= bound, False

    def message(self, delivery: int, revision: Revision) -> bool:
        """Note a delivery; False when one before it was lost, or it is another consumer's."""
        if delivery != self.delivered + 1:
            return False
        self.delivered = delivery
        self.revision = max(self.revision, revision)
        self.complete = self.complete or self.revision >= self.bound
        return True

    def heartbeat(self, delivered: int) -> bool:
        """Whether all that the consumer has delivered has come."""
        return delivered == self.delivered

    def finish(self) -> None:
        """The bucket says that it holds nothing behind our revision: what was at the bound was
        purged."""
        self.revision = max(self.revision, self.bound)
        self.complete = True


@dataclass(slots=True)
class Lag:
    """How late a file is. `revisions` as the bucket last said; `seconds` since we last knew to be
    up to date."""

    since: float  # of `now`: when we were last up to date, or started
    revisions: int = 0
    current: bool = False
    heard: float = 0.0

    def pending(self, revisions: int, now: float) -> None:
        """The bucket was heard of: *revisions* follow what it has told."""
        self.heard, self.revisions = now, revisions

    def applied(self, now: float) -> None:
        """What was told is in the file."""
        self.current = self.revisions == 0
        if self.current:
            self.since = self.heard = now

    def lost(self) -> None:
        """There is no bucket to ask: what we miss is unknown."""
        self.current = False

    def seconds(self, now: float) -> float:
        """Return 0 while nothing is missing and the bucket is heard of."""
        return (
            0.0
            if self.current and now - self.heard < SILENCE_TIMEOUT
            else max(0.0, now - self.since)
        )


def backoff(attempt: int, chance: float) -> float:
    """Return seconds to wait before *attempt* (from 1): full jitter, so that a thousand hosts do
    not come at once."""
    most = min(RETRY_MAX, RETRY_MIN * float(1 << min(attempt, 8)))
    return RETRY_MIN + (most - RETRY_MIN) * chance
