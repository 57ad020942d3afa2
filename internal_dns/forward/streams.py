"""Connections to upstreams that are kept: DNS over TCP and TLS, and over HTTPS.

One connection an upstream with many questions on it at once, each under an id of its own (RFC 7766
section 6.2.1.1). A kept connection that turns out to be closed costs one new one, not the question.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Callable
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final, Protocol

from internal_dns.core.wire import MAX_MESSAGE, is_reply_to
from internal_dns.forward.upstreams import Upstream

IDLE: Final = 10  # seconds without a question after which a connection is closed
SILENT: Final = 1.2  # seconds that nothing comes after a question until a connection is given up
# seconds for a connection, TLS included: SYNs at 0, 1 and 3 s; the next question starts anew
CONNECT: Final = 4.0
LEAVE: Final = 0.5  # seconds for the end of a TLS connection
MOST: Final = 4_096  # questions on one connection


class Channel(Protocol):
    """A way to ask one upstream, other than by single UDP messages."""

    async def ask(self, question: bytes, again: Callable[[], bool]) -> bytes:
        """Return the reply to *question*, a query without its id, with the id 0. Raises OSError.

        *again* is asked before the question is sent once more, on another connection.
        """

    async def close(self) -> None:
        """Close all connections."""


def channel(upstream: Upstream, ca: Path | None) -> Channel:
    """Return the way to ask *upstream*. Raises OSError or ssl.SSLError when *ca* cannot be used."""
    if upstream.scheme == "https":
        return Https(upstream, ca)
    return Streams(upstream, context(ca) if upstream.scheme == "tls" else None)


def context(ca: Path | None) -> ssl.SSLContext:
    """Return how certificates are verified: by the system's authorities, or by those in *ca*
    (PEM)."""
    made = ssl.create_default_context(cafile=str(ca) if ca else None)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    # The names of a certificate are its subjectAltName: the common name is only words (RFC 8310
    # section 8.1, RFC 9525).
    made.hostname_checks_common_name = False
    return made


class Streams:
    """DNS over TCP or TLS: the one kept connection to an upstream."""

    def __init__(self, upstream: Upstream, tls: ssl.SSLContext | None) -> None:
        self.upstream, self.tls = upstream, tls
        self.opened = 0  # connections so far
        self._open: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None

    async def ask(self, question: bytes, again: Callable[[], bool]) -> bytes:
        while True:
            connection = await self._connection()
            fresh = connection.fresh
            try:
                return await connection.ask(question)
            except ConnectionError:
                # Only when the upstream has closed a kept connection: not a new one, nor when this
                # one is merely full.
                if fresh or connection.usable or not again():
                    raise

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
        name = (self.upstream.name or host) if tls else None
        async with asyncio.timeout(CONNECT):
            _, made = await asyncio.get_running_loop().create_connection(
                Connection, host, endpoint.port, ssl=tls, server_hostname=name
            )
        return made


class Silence:
    """How long nothing came after a question, the first of perhaps many that were given up sooner.

    One question does not wait long enough: another upstream's reply ends it, and a probe is short.
    """

    def __init__(self) -> None:
        self.since: float | None = None

    def asked(self, now: float) -> None:
        if self.since is None:
            self.since = now

    def ended(self) -> None:
        self.since = None

    def too_long(self, now: float) -> bool:
        return self.since is not None and now - self.since >= SILENT


class Connection(asyncio.Protocol):
    """One connection, and the questions on it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.fresh, self.usable = True, True
        self.lost = asyncio.Event()
        self.silence = Silence()
        self._buffer = bytearray()
        self._waiting: dict[bytes, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._idle = self.loop.call_later(IDLE, self.close)  # those it was made for may have gone
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
        self.silence.asked(self.loop.time())
        self.transport.write((len(question) + 2).to_bytes(2, "big") + ident + question)
        try:
            return await arrived
        finally:
            self._waiting.pop(ident, None)
            if arrived.cancelled() and self.silence.too_long(self.loop.time()):
                self.usable = False
                self.transport.abort()  # nobody is there any more, and TCP does not know yet
            elif not self._waiting and self.usable:
                self._idle = self.loop.call_later(IDLE, self.close)

    def data_received(self, data: bytes) -> None:
        self.silence.ended()
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 2 and len(buffer) >= (end := 2 + int.from_bytes(buffer[:2], "big")):
            reply = bytes(buffer[2:end])
            del buffer[:end]
            question, arrived = self._waiting.get(reply[:2], (b"", None))
            # 10 octets of header, then the question without the 11 octets of the OPT, which may
            # have grown by padding.
            if (
                arrived
                and not arrived.done()
                and is_reply_to(reply, reply[:2], _question_of(question))
            ):
                arrived.set_result(b"\0\0" + reply[2:])

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self.lost.set()
        if self._idle:
            self._idle.cancel()
        for _, arrived in self._waiting.values():
            if not arrived.done():
                arrived.set_exception(
                    ConnectionResetError(str(error or "the upstream closed the connection"))
                )

    def eof_received(self) -> bool:
        self.usable = False
        return False

    def close(self) -> None:
        self.usable = False
        self.transport.close()

    async def end(self) -> None:
        """Close, and see that it is closed: TLS takes its leave first, which the other side may not
        answer."""
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
    """DNS over HTTPS, by the HTTP library that dnspython's extra `doh` brings; HTTP/2 where the
    server has it."""

    def __init__(self, upstream: Upstream, ca: Path | None) -> None:
        import httpx2  # late: it costs a tenth of a second, and few ask by HTTPS

        self.upstream = upstream
        self.url = f"https://{upstream.endpoint}{upstream.path}"
        host = upstream.name or upstream.endpoint.host
        self.headers = {
            "accept": "application/dns-message",
            "accept-encoding": "identity",  # what is unpacked could be a thousand times as long
            "content-type": "application/dns-message",
            "host": str(host) if upstream.name else str(upstream.endpoint),
            "user-agent": "internal-dns",
        }
        self.extensions = {"sni_hostname": str(host)}  # what the certificate is verified for, too
        self.tls = context(ca)
        # RuntimeError: the client was closed.
        self.failures: tuple[type[Exception], ...] = (
            httpx2.HTTPError,
            httpx2.InvalidURL,
            RuntimeError,
        )
        self.client, self.silence = self._client(), Silence()
        self._closing: set[asyncio.Task[None]] = set()

    def _client(self) -> Any:
        import httpx2

        # RFC 8484 section 8.2.3: cookies would tell questions' askers apart.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        return httpx2.AsyncClient(
            http2=True, verify=self.tls, trust_env=False, timeout=None, cookies=no_cookies
        )

    async def ask(self, question: bytes, again: Callable[[], bool]) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            client = self.client
            self.silence.asked(loop.time())
            try:
                return await self._post(client, question)
            except asyncio.CancelledError:
                if client is self.client and self.silence.too_long(loop.time()):
                    self._start_anew()  # nobody is there any more, and TCP does not know yet
                raise
            except self.failures as error:
                if client is self.client or not again():
                    raise ConnectionError(f"{type(error).__name__}: {error}") from error

    async def _post(self, client: Any, question: bytes) -> bytes:
        # RFC 8484 section 4.1: the id 0, so that HTTP caches see equal questions.
        asked = client.stream(
            "POST",
            self.url,
            content=b"\0\0" + question,
            headers=self.headers,
            extensions=self.extensions,
        )
        async with asked as reply:
            self.silence.ended()
            kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
            if reply.status_code != 200 or kind != "application/dns-message":
                raise ConnectionError(f"HTTP status {reply.status_code}, {kind or 'no type'}")
            octets = b""
            async for chunk in reply.aiter_raw():
                octets += chunk
                if len(octets) > MAX_MESSAGE:
                    raise ConnectionError("more octets than a message may have")
        return octets

    def _start_anew(self) -> None:
        """Leave all connections; what is asked over them is asked again over others."""
        gone, self.client = self.client, self._client()
        self.silence.ended()
        task = asyncio.get_running_loop().create_task(gone.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        await asyncio.gather(self.client.aclose(), *self._closing, return_exceptions=True)
