"""Connections to upstreams that are kept: DNS over TCP and TLS, and over HTTPS.

One connection an upstream with many questions on it at once, each under an id of its own (RFC 7766 section 6.2.1.1).
A kept connection that turns out to be closed costs one new one, not the question.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from internal_dns.core.wire import MAX_MESSAGE, is_reply_to
from internal_dns.forward.upstreams import Upstream

IDLE: Final = 10  # seconds without a question after which a connection is closed
SILENT: Final = 1.2  # seconds a question waits in vain, and nothing else comes, until the connection is given up
LEAVE: Final = 0.5  # seconds for the end of a TLS connection
MOST: Final = 4_096  # questions on one connection


class Channel(Protocol):
    """A way to ask one upstream, other than by single UDP messages."""

    async def ask(self, question: bytes) -> bytes:
        """Return the reply to *question*, a query without its id, with the id 0. Raises OSError."""

    async def close(self) -> None:
        """Close all connections."""


def channel(upstream: Upstream, ca: Path | None) -> Channel:
    """Return the way to ask *upstream*. Raises OSError or ssl.SSLError when *ca* cannot be used."""
    if upstream.scheme == "https":
        return Https(upstream, ca)
    return Streams(upstream, context(ca) if upstream.scheme == "tls" else None)


def context(ca: Path | None) -> ssl.SSLContext:
    """Return how certificates are verified: by the system's authorities, or by those in *ca* (PEM)."""
    made = ssl.create_default_context(cafile=str(ca) if ca else None)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


class Streams:
    """DNS over TCP or TLS: the one kept connection to an upstream."""

    def __init__(self, upstream: Upstream, tls: ssl.SSLContext | None) -> None:
        self.upstream, self.tls = upstream, tls
        self.opened = 0  # connections so far
        self._open: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None

    async def ask(self, question: bytes) -> bytes:
        while True:
            connection = await self._connection()
            fresh = connection.fresh
            try:
                return await connection.ask(question)
            except ConnectionError:
                if fresh:
                    raise  # it is not that the upstream had closed it while it was idle

    async def close(self) -> None:
        if self._opening:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._open:
            await self._open.end()

    async def _connection(self) -> Connection:
        if self._open and self._open.usable:
            return self._open
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Task[Connection]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._open = opening.result()

    async def _connect(self) -> Connection:
        endpoint, tls = self.upstream.endpoint, self.tls
        host = str(endpoint.host)
        self.opened += 1
        _, made = await asyncio.get_running_loop().create_connection(
            Connection, host, endpoint.port, ssl=tls, server_hostname=(self.upstream.name or host) if tls else None
        )
        return made


class Connection(asyncio.Protocol):
    """One connection, and the questions on it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.fresh, self.usable = True, True
        self.lost = asyncio.Event()
        self.received_at = self.loop.time()
        self._buffer = bytearray()
        self._waiting: dict[bytes, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=1 << 20)

    async def ask(self, question: bytes) -> bytes:
        """Return the reply. Raises ConnectionError when the connection ends before."""
        if not self.usable or len(self._waiting) >= MOST:
            raise ConnectionError("the connection is closed, or full")
        self.fresh = False
        ident = secrets.token_bytes(2)
        while ident in self._waiting:
            ident = secrets.token_bytes(2)
        arrived: asyncio.Future[bytes] = self.loop.create_future()
        self._waiting[ident] = question, arrived
        if self._idle:
            self._idle.cancel()
            self._idle = None
        asked_at = self.loop.time()
        self.transport.write((len(question) + 2).to_bytes(2, "big") + ident + question)
        try:
            return await arrived
        finally:
            self._waiting.pop(ident, None)
            if arrived.cancelled() and self.received_at < asked_at and self.loop.time() - asked_at >= SILENT:
                self.close()  # nobody is there any more, and TCP does not know yet
            elif not self._waiting and self.usable:
                self._idle = self.loop.call_later(IDLE, self.close)

    def data_received(self, data: bytes) -> None:
        self.received_at = self.loop.time()
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 2 and len(buffer) >= (end := 2 + int.from_bytes(buffer[:2], "big")):
            reply = bytes(buffer[2:end])
            del buffer[:end]
            question, arrived = self._waiting.get(reply[:2], (b"", None))
            # 10 octets of header, then the question without the 11 octets of the OPT, which may have grown by padding.
            if arrived and not arrived.done() and is_reply_to(reply, reply[:2], _question_of(question)):
                arrived.set_result(b"\0\0" + reply[2:])

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self.lost.set()
        if self._idle:
            self._idle.cancel()
        for _, arrived in self._waiting.values():
            if not arrived.done():
                arrived.set_exception(ConnectionResetError(str(error or "the upstream closed the connection")))

    def eof_received(self) -> bool:
        self.usable = False
        return False

    def close(self) -> None:
        self.usable = False
        self.transport.close()

    async def end(self) -> None:
        """Close, and see that it is closed: TLS takes its leave first, which the other side may not answer."""
        self.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.lost.wait(), LEAVE)
        self.transport.abort()
        await asyncio.sleep(0)


def _question_of(query: bytes) -> bytes:
    """Return the question of a query without its id."""
    at = 10
    while query[at]:
        at += 1 + query[at]
    return query[10 : at + 5]


class Https:
    """DNS over HTTPS, by the HTTP library that dnspython's extra `doh` brings; HTTP/2 where the server has it."""

    def __init__(self, upstream: Upstream, ca: Path | None) -> None:
        import httpx2  # late: it costs a tenth of a second, and few ask by HTTPS

        self.upstream = upstream
        self.url = f"https://{upstream.endpoint}{upstream.path}"
        host = upstream.name or upstream.endpoint.host
        self.headers = {
            "accept": "application/dns-message",
            "content-type": "application/dns-message",
            "host": str(host) if upstream.name else str(upstream.endpoint),
            "user-agent": "internal-dns",
        }
        self.extensions = {"sni_hostname": str(host)}  # what the certificate is verified for, too
        self.client = httpx2.AsyncClient(http2=True, verify=context(ca), trust_env=False, timeout=None)
        self.failures: tuple[type[Exception], ...] = (httpx2.HTTPError, httpx2.InvalidURL)

    async def ask(self, question: bytes) -> bytes:
        # RFC 8484 section 4.1: the id 0, so that HTTP caches see equal questions.
        asked = self.client.stream(
            "POST", self.url, content=b"\0\0" + question, headers=self.headers, extensions=self.extensions
        )
        try:
            async with asked as reply:
                if reply.status_code != 200 or reply.headers.get("content-type") != "application/dns-message":
                    raise ConnectionError(f"HTTP status {reply.status_code}")
                octets = b""
                async for chunk in reply.aiter_bytes():
                    octets += chunk
                    if len(octets) > MAX_MESSAGE:
                        raise ConnectionError("more octets than a message may have")
        except self.failures as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        return octets

    async def close(self) -> None:
        await self.client.aclose()
