"""DNS over TCP and TLS: persistent connections to an upstream.

ended after replies to others  ─► unanswered queries were not read: they are sent again, on
                                  connections with no more queries than that one answered
ended without any reply        ─► once more on a new connection, if the query may cost a message
ended before a query was sent  ─► on another connection, at no cost
silent                         ─► a second attempt, and later queries, open a new one
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from internal_dns.forward.channel import NoReply, NotSent, never
from internal_dns.forward.connection import Connection
from internal_dns.forward.times import TIMES, Times
from internal_dns.forward.upstreams import Upstream

AT_ONCE: Final = 4_096  # queries on one connection
CONNECTIONS: Final = 16  # to one upstream that takes few queries on each
UNREAD: Final = 3  # times that a query is sent again because it was not read


class StreamChannel:
    """The persistent connection to an upstream, or several if it limits the queries on each."""

    def __init__(
        self,
        upstream: Upstream,
        tls: ssl.SSLContext | None,
        times: Times = TIMES,
        *,
        at_once: int = AT_ONCE,
    ) -> None:
        self.upstream, self.tls, self.times = upstream, tls, times
        self.opened = 0  # connections so far
        self.connections: list[Connection] = []
        self.closed = False
        self._at_once = at_once
        self._limit: int | None = None  # queries that one connection takes in all, if limited
        self._limited_until = 0.0
        self._room = asyncio.Event()  # set whenever another connection may be opened

    async def ask(
        self, query: bytes, may_resend: Callable[[], bool], *, retry: bool = False
    ) -> tuple[bytes, int]:
        loop, unread = asyncio.get_running_loop(), UNREAD
        while True:
            connection = await self._connection(loop.time(), retry)
            try:
                return await connection.ask(query), 0
            except NoReply as error:
                self._learn(connection, loop.time())
                if connection.answered or isinstance(error, NotSent):
                    unread -= 1
                    if unread >= 0:
                        continue
                if not may_resend():
                    raise
                # It may have been read: once more, then it is the upstream's fault.
                may_resend = never

    def check_books(self) -> None:
        """Raise AssertionError unless the connections are bounded and account for all queries."""
        assert sum(not connection.draining for connection in self.connections) <= CONNECTIONS
        for connection in self.connections:
            connection.check_books()

    async def close(self) -> None:
        self.closed = True
        self._room.set()
        await asyncio.gather(*(connection.end() for connection in tuple(self.connections)))

    def _learn(self, connection: Connection, now: float) -> None:
        """Learn the limit from a *connection* that ended while queries were on it: the replies
        until then. Without any reply, the second query may have been too many."""
        if (connection.busy and connection.unread) or connection.unread > 1 > connection.answered:
            known = connection.answered if self._limit is None else self._limit
            self._limit = max(1, min(known, connection.answered))
            self._limited_until = now + self.times.limited

    async def _connection(self, now: float, retry: bool) -> Connection:
        """Return an open connection, with room taken for one query. Raises OSError."""
        if now >= self._limited_until:
            self._limit = None
        while not self.closed:
            connection = self._with_room(now, retry)
            if connection is None:
                if sum(not each.draining for each in self.connections) >= CONNECTIONS:
                    self._room.clear()
                    await self._room.wait()
                    continue
                connection = self._open()
            connection.room -= 1
            try:
                await asyncio.shield(connection.opening)
            except BaseException:
                connection.give_back()
                raise
            return connection
        raise ConnectionError("the channel is closed")

    def _with_room(self, now: float, retry: bool) -> Connection | None:
        """Return a connection with room for one more query, and leave those that are silent."""
        patience = self.times.hedge if retry else self.times.silent
        for connection in tuple(self.connections):
            if connection.has_room():
                if not connection.silence.lasts(now, patience):
                    return connection
                connection.drain()  # the peer may be gone, and TCP does not know yet
        return None

    def _open(self) -> Connection:
        connection = Connection(
            self._limit or self._at_once, self.times, self._closed, limited=self._limit is not None
        )
        self.connections.append(connection)
        self.opened += 1
        connection.opening = asyncio.create_task(self._connect(connection))
        return connection

    async def _connect(self, connection: Connection) -> None:
        endpoint, tls = self.upstream.endpoint, self.tls
        host = str(endpoint.host)
        name = (self.upstream.name or host) if tls else None
        try:
            async with asyncio.timeout(self.times.connect):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, host, endpoint.port, ssl=tls, server_hostname=name
                )
        except BaseException:
            connection.usable = False
            self._closed(connection)
            raise

    def _closed(self, connection: Connection) -> None:
        if connection in self.connections:
            self.connections.remove(connection)
        self._room.set()
