"""The interface of a bucket, as followers and publishers use it; nats.py implements it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from internal_dns.replicate.logic import Facts, Message


class Unavailable(Exception):
    """The bucket cannot be used now. The text says why and never contains a secret."""


class NoBucket(Unavailable):
    """The engine answers, but has no such bucket."""


class ConnectionLost(Unavailable):
    """The connection is closed; only a new one can help."""


class Conflict(Exception):
    """A key does not have the expected revision: another writer has changed it."""


class Delivery(NamedTuple):
    """A delivered message, its number in the consumer's sequence, and how many are pending.

    `at` is when the engine stored it, in Unix seconds of the engine's clock.
    """

    message: Message
    number: int
    pending: int
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat of an idle consumer, with the number of messages it has delivered."""

    delivered: int


Item = Delivery | Heartbeat


class Deliveries(Protocol):
    """A consumer of a bucket's messages, in order. `began`: when it was created, in Unix seconds of
    the engine's clock."""

    began: float

    async def next(self, timeout: float) -> list[Item]:
        """Return the items that have arrived, waiting for the first; none after *timeout*.

        The next call acknowledges these items.

        Raises Unavailable when the connection is lost.
        """


class Bucket(Protocol):
    """An open connection to one bucket. Every method raises Unavailable."""

    def refusal(self) -> str:
        """Return what the server last refused to do for this connection; empty: nothing."""

    async def facts(self) -> Facts: ...

    def follow(self, after: int | None) -> AbstractAsyncContextManager[Deliveries]:
        """Deliver the messages after revision *after*; None: the last per key, then new ones."""

    async def get(self, key: str) -> Message | None:
        """Return the last message of *key*, which may be a tombstone."""

    async def any_after(self, revision: int) -> bool:
        """Whether the bucket holds a message after *revision*."""

    async def report(self, host: str, value: bytes) -> None:
        """Publish the status of *host* to the fleet."""
