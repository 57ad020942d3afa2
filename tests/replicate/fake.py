"""An in-memory bucket with every fault that a real one has shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field

from internal_dns.replicate.bucket import (
    Conflict,
    ConnectionLost,
    Delivery,
    Heartbeat,
    Item,
    NoBucket,
    Unavailable,
)
from internal_dns.replicate.codec import FLOOR, InvalidEntry, read_floor, write_floor
from internal_dns.replicate.logic import Facts, Message
from internal_dns.replicate.source import Source

SOURCE = Source.parse("nats://nats.example/catalog")


@dataclass
class Stream:
    """The messages that the engine stores: the last one per key."""

    identity: str = "first"
    last: int = 0
    messages: dict[str, Message] = field(default_factory=dict)
    down: bool = False
    consumers: int = 0
    lose: set[int] = field(default_factory=set)  # delivery numbers that the first consumer loses
    reports: list[bytes] = field(default_factory=list)
    early: bool = False  # reports nothing pending although something is
    most: int = 1 << 40  # messages that a consumer gets before the server delivers no more
    refused: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    fleet: Stream | None = None
    times: dict[str, float] = field(default_factory=dict)  # when a key was stored, by its clock
    now: float = 0.0  # its clock

    def put(self, key: str, value: bytes | None) -> int:
        self.last += 1
        self.messages.pop(key, None)
        self.messages[key] = Message(key, self.last, value)
        self.changed.set()
        return self.last

    def floor(self, revision: int = 0) -> int:
        return self.put(FLOOR, write_floor(revision))

    def purge(self, key: str) -> None:
        """Remove a key without a tombstone."""
        self.messages.pop(key, None)

    def recreate(self, identity: str) -> None:
        self.identity, self.last = identity, 0
        self.messages.clear()

    def connect(self, source: Source) -> AbstractAsyncContextManager[FakeBucket]:
        return self._connected()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[FakeBucket]:
        if self.down:
            raise Unavailable("the bucket is down")
        yield FakeBucket(self)


class FakeBucket:
    def __init__(self, stream: Stream | None) -> None:
        self.found = stream

    @property
    def stream(self) -> Stream:
        if self.found is None:
            raise NoBucket("stream not found")
        return self.found

    def _up(self) -> None:
        if self.stream.down:
            raise Unavailable("the bucket is down")

    def refusal(self) -> str:
        return self.stream.refused

    def fleet_bucket(self) -> FakeBucket:
        return FakeBucket(self.stream.fleet)

    async def write(self, changes: Sequence[tuple[str, bytes | None, int | None]]) -> int:
        self._up()
        for key, value, expected in changes:
            there = self.stream.messages.get(key)
            if expected is not None and expected != (there.revision if there else 0):
                raise Conflict("another writer has changed the same rows")
            self.stream.put(key, value)
        return self.stream.last

    async def facts(self) -> Facts:
        self._up()
        stream = self.stream
        floor = stream.messages.get(FLOOR)
        revision = None
        with suppress(InvalidEntry):
            revision = read_floor(floor.value) if floor and floor.value is not None else None
        return Facts(stream.identity, stream.last, len(stream.messages), revision)

    async def get(self, key: str) -> Message | None:
        self._up()
        return self.stream.messages.get(key)

    async def any_after(self, revision: int) -> bool:
        self._up()
        return any(message.revision > revision for message in self.stream.messages.values())

    async def report(self, host: str, value: bytes) -> None:
        self._up()
        if self.stream.refused:
            raise Unavailable(self.stream.refused)
        self.stream.reports.append(value)

    @asynccontextmanager
    async def follow(self, after: int | None) -> AsyncIterator[FakeDeliveries]:
        self._up()
        self.stream.consumers += 1
        yield FakeDeliveries(self.stream, after or 0)


class FakeDeliveries:
    def __init__(self, stream: Stream, after: int) -> None:
        self.stream, self.after, self.number, self.began = stream, after, 0, stream.now

    async def next(self, timeout: float) -> list[Item]:
        await asyncio.sleep(0)
        if self.stream.down:
            raise ConnectionLost("the connection was lost")
        pending = sorted(
            (m for m in self.stream.messages.values() if m.revision > self.after),
            key=lambda m: m.revision,
        )[:7]
        if not pending or self.number >= self.stream.most:
            self.stream.changed.clear()
            return [Heartbeat(self.number)]
        items: list[Item] = []
        for at, message in enumerate(pending, 1):
            self.number += 1
            self.after = message.revision
            if self.number in self.stream.lose and self.stream.consumers == 1:
                continue
            items.append(
                Delivery(
                    message,
                    self.number,
                    0 if self.stream.early else len(pending) - at,
                    self.stream.times.get(message.key, 0.0),
                )
            )
        return items or [Heartbeat(self.number)]
