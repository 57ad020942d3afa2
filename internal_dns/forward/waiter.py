"""A client that waits for an outstanding query."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from internal_dns.core.journey import Forward
from internal_dns.forward.accounts import Accounts
from internal_dns.forward.cache import CacheEntry
from internal_dns.forward.outcome import BUSY, Outcome
from internal_dns.forward.outstanding import OutstandingQuery
from internal_dns.forward.times import Times
from internal_dns.late import Late


class Concluder(Protocol):
    """The forwarder, which makes the reply."""

    accounts: Accounts
    times: Times

    def relay_in_turn(self, waiter: Waiter, outcome: Outcome) -> None:
        """Have `waiter.take` called with *outcome* in the turn of its network."""

    def conclude(self, waiter: Waiter, outcome: Outcome) -> bytes | Late:
        """Return the reply, or what will hold it. Never raises."""


class Waiter(Late):
    """The reply to one client, when it is there. *stale*: the reply to use if none comes soon."""

    def __init__(
        self,
        forwarder: Concluder,
        forward: Forward,
        query: OutstandingQuery,
        stale: CacheEntry | None,
    ) -> None:
        super().__init__(loop=query.loop)
        self.forwarder, self.forward, self.query, self.stale = forwarder, forward, query, stale
        self.timer: asyncio.TimerHandle | None = None
        self.next: Late | None = None  # what it waits for after the query
        if stale is not None:
            self._wait(forwarder.times.stale_after)

    def deliver(self, outcome: Outcome, *, at_once: bool = False) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if at_once:
            self.take(outcome)
        else:
            self.forwarder.relay_in_turn(self, outcome)

    def take(self, outcome: Outcome) -> None:
        """Make the reply, unless the client has left."""
        if self.done():
            return
        self.forwarder.accounts.remove_client(self.forward.network)
        reply = self.forwarder.conclude(self, outcome)
        if isinstance(reply, bytes):
            self.have(reply)
        else:
            self.next = reply
            reply.when_there(self._have_next)

    def _have_next(self, reply: bytes) -> None:
        if not self.done():  # the client may have left meanwhile
            self.have(reply)

    def _wait(self, seconds: float) -> None:
        self.timer = self.query.loop.call_later(seconds, self._lose_patience)

    def _lose_patience(self) -> None:
        """Take the stale reply; the query goes on. A reply that awaits its check comes sooner."""
        if self.query.unchecked:
            self._wait(self.forwarder.times.hedge)
            return
        self.query.waiters.pop(self, None)
        self.deliver(BUSY)

    def cancel(self, msg: Any | None = None) -> bool:
        """Leave; the query goes on for the others."""
        if not self.done():
            if self.timer is not None:
                self.timer.cancel()
            if self.next is not None:
                self.next.cancel(msg)
            else:
                self.query.waiters.pop(self, None)
                self.forwarder.accounts.remove_client(self.forward.network)
        return super().cancel(msg)
