"""What a follower and a publisher ask of a bucket, whatever engine keeps it; nats.py is one."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from internal_dns.replicate.logic import Facts, Message


class Unavailable(Exception):
    """The bucket cannot be used now; the text says why. Never has a secret in it."""


class NoBucket(Unavailable):
    """The engine answers, and there is no such bucket."""


class ConnectionLost(Unavailable):
    """The connection is gone: there is nothing to wait for on it."""


class Conflict(Exception):
    """A key has another revision than was expected: somebody else has written it."""


class Delivery(NamedTuple):
    """A message as it came: the consumer's how many-eth, and how many it said to follow."""

    message: Message
    number: int
    pending: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life of an idle consumer that has delivered so many."""

    delivered: int


Item = Delivery | Heartbeat


class Deliveries(Protocol):
    """A consumer of a bucket's messages, in order."""

    async def next(self, timeout: float) -> list[Item]:
        """Return what has come, at least one item; none after *timeout*. The next call says that
        these were dealt with.

        Raises Unavailable when the connection is lost.
        """


class Bucket(Protocol):
    """An open connection to one bucket. Every method raises Unavailable."""

    async def facts(self) -> Facts: ...

    def follow(self, after: int | None) -> AbstractAsyncContextManager[Deliveries]:
        """Have the messages behind revision *after* delivered; None: each key's last, then what
        comes."""

    async def get(self, key: str) -> Message | None:
        """Return the last message of *key*, a tombstone too."""

    async def any_after(self, revision: int) -> bool:
        """Whether any message is behind *revision*."""

    async def report(self, host: str, value: bytes) -> None:
        """Say to the fleet how *host* is."""
