"""What outstanding queries share, and what they serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from internal_dns.core.catalog import NetworkId
from internal_dns.forward.accounts import Accounts
from internal_dns.forward.outcome import Outcome
from internal_dns.forward.simple import SimpleReplies
from internal_dns.forward.times import Times
from internal_dns.forward.upstream_state import UpstreamState

NOBODY: Final = NetworkId(0)


class Context(Protocol):
    """What all outstanding queries share."""

    accounts: Accounts
    times: Times
    clock: Callable[[], float]
    zones: frozenset[bytes]
    prefix: bytes
    simple: SimpleReplies
    check: Callable[[Iterable[NetworkId], Callable[[], None]], None]

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that runs."""

    def count_timeout(self, state: UpstreamState, name: bytes) -> None:
        """Take note that an upstream did not answer for *name* in time."""

    def log_fault(self) -> None:
        """Log the exception that is being handled."""


class Client(Protocol):
    """A client that waits for the outcome."""

    def deliver(self, outcome: Outcome, *, at_once: bool = False) -> None:
        """Take the outcome, in the turn of the client's network: *at_once*, if that is now. Never
        raises."""
