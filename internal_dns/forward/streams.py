"""Connections to upstreams that are kept: DNS over TCP and TLS, and over HTTPS.

One connection per upstream with many questions on it at once, each under an id of its own (RFC 7766
section 6.2.1.1). A lost connection costs a new one, never the question:

    ended after replies to others  ─► what was not answered was not read: it is sent again, on
                                      connections with no more questions than that one answered
    ended without any reply        ─► once more on a new one, if the question may cost that message
    silent                         ─► a second try, and what is asked later, opens a new one
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

from internal_dns.core.wire import MAX_MESSAGE, is_bare_refusal, is_reply_to
from internal_dns.forward.upstreams import Upstream

IDLE: Final = 10  # seconds without a question after which a connection is closed
SILENT: Final = 1.2  # seconds that nothing comes after a question until a connection is given up
# seconds of silence after which a second try opens a connection of its own (policy.HEDGE)
SECOND: Final = 0.4
# seconds for a connection, TLS included: SYNs at 0, 1 and 3 s; the next question starts anew
CONNECT: Final = 4.0
LEAVE: Final = 0.5  # seconds for the end of a TLS connection
MOST: Final = 4_096  # questions on one connection
CONNECTIONS: Final = 16  # to one upstream that takes only a few questions on each
UNREAD: Final = 3  # times that a question is sent again because it was not read
BUSY: Final = 1.0  # seconds after a reply in which no connection is idle
FEW: Final = 60  # seconds that an upstream is taken to end connections after a few questions
MAX_AGE: Final = (1 << 31) - 1  # seconds; a TTL has no more


class NoReply(ConnectionError):
    """The upstream was reached, and did not answer: it ended the connection, or said something
    else."""


class NotSent(NoReply):
    """The connection had ended before the question was written to it."""


class Channel(Protocol):
    """A way to ask one upstream, other than by single UDP messages."""

    async def ask(
        self, question: bytes, again: Callable[[], bool], *, second: bool = False
    ) -> tuple[bytes, int]:
        """Return the reply to *question*, a query without its id, with the id 0, and its age in
        seconds. Raises OSError; NoReply when the upstream was reached.

        *again* is asked before the question, which the upstream may have read, is sent once more,
        on another connection. *second*: it was asked before, and got nothing.
        """

    async def close(self) -> None:
        """Close all connections."""


def channel(upstream: Upstream, ca: Path | None) -> Channel:
    """Return the way to ask *upstream*. Raises OSError or ssl.SSLError when *ca* cannot be used."""
    if upstream.scheme == "https":
        return HttpsChannel(upstream, ca)
    return StreamChannel(upstream, context(ca) if upstream.scheme == "tls" else None)


def context(ca: Path | None) -> ssl.SSLContext:
    """Return how certificates are verified: by the system's authorities, or by those in *ca*
    (PEM)."""
    made = ssl.create_default_context(cafile=str(ca) if ca else None)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    # The names of a certificate are its subjectAltName: the common name is only words (RFC 8310
    # section 8.1, RFC 9525).
    made.hostname_checks_common_name = False
    return made


class StreamChannel:
    """DNS over TCP or TLS: the kept connection to an upstream, or several if it takes only a few
    questions on each."""

    def __init__(self, upstream: Upstream, tls: ssl.SSLContext | None) -> None:
        self.upstream, self.tls = upstream, tls
        self.opened = 0  # connections so far
        self._open: list[Connection] = []
        self._most = MOST  # questions on one connection
        self._few_until = 0.0
        self.closed = False
        self._room = asyncio.Event()  # set whenever another connection may be opened

    async def ask(
        self, question: bytes, again: Callable[[], bool], *, second: bool = False
    ) -> tuple[bytes, int]:
        loop, unread = asyncio.get_running_loop(), UNREAD
        while True:
            connection = await self._connection(loop.time(), second)
            try:
                return await connection.ask(question), 0
            except NoReply as error:
                self._learn(connection, loop.time())
                if connection.answered or isinstance(error, NotSent):
                    unread -= 1
                    if unread >= 0:
                        continue
                if not again():
                    raise
                # It may have been read: once more, and the next time it is the upstream's fault.
                again = _never

    async def close(self) -> None:
        self.closed = True
        self._room.set()
        await asyncio.gather(*(connection.end() for connection in tuple(self._open)))

    def _learn(self, connection: Connection, now: float) -> None:
        """Remember that *connection* was ended while questions were on it, and after how many
        replies: with none at all, the second question may have been too many."""
        if (connection.busy and connection.unread) or connection.unread > 1 > connection.answered:
            self._most = max(1, min(self._most, connection.answered))
            self._few_until = now + FEW

    async def _connection(self, now: float, second: bool) -> Connection:
        """Return a connection with room for one more question, which is taken. Raises OSError."""
        if self._most != MOST and now >= self._few_until:
            self._most = MOST
        while not self.closed:
            for connection in self._open:
                if connection.usable and connection.places and not connection.ending:
                    # Nobody may be there any more, and TCP does not know yet.
                    if connection.silence.longer(now, SECOND if second else SILENT):
                        connection.leave()
                        continue
                    break
            else:
                if sum(not connection.left for connection in self._open) >= CONNECTIONS:
                    self._room.clear()
                    await self._room.wait()
                    continue
                connection = Connection(self._most, self._closed)
                self._open.append(connection)
                self.opened += 1
                connection.opening = asyncio.create_task(self._connect(connection))
            connection.places -= 1
            try:
                await asyncio.shield(connection.opening)
            except BaseException:
                connection.give_back()
                raise
            return connection
        raise ConnectionError("the channel is closed")

    async def _connect(self, connection: Connection) -> None:
        endpoint, tls = self.upstream.endpoint, self.tls
        host = str(endpoint.host)
        name = (self.upstream.name or host) if tls else None
        try:
            async with asyncio.timeout(CONNECT):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, host, endpoint.port, ssl=tls, server_hostname=name
                )
        except BaseException:
            connection.usable = False
            self._closed(connection)
            raise

    def _closed(self, connection: Connection) -> None:
        if connection in self._open:
            self._open.remove(connection)
        self._room.set()


def _never() -> bool:
    return False


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

    def longer(self, now: float, seconds: float) -> bool:
        return self.since is not None and now - self.since >= seconds


class Connection(asyncio.Protocol):
    """One connection, and the questions on it; at most *places* in all if those are few."""

    opening: asyncio.Task[None]

    def __init__(self, places: int, closed: Callable[[Connection], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.places, self.kept = places, places == MOST
        self.answered = 0  # replies so far
        self.unread = 0  # questions on it when the upstream ended it
        self.busy = False  # it was ended soon after a reply, not because it was idle
        self.replied_at = 0.0
        self.usable = True
        self.left = False  # nothing more is asked on it; replies are still awaited
        self.lost = asyncio.Event()
        self.silence = Silence()
        self._closed = closed
        self._buffer = bytearray()
        self._waiting: dict[bytes, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._idle = self.loop.call_later(IDLE, self.close)  # those it was made for may have gone
        transport.set_write_buffer_limits(high=1 << 20)

    async def ask(self, question: bytes) -> bytes:
        """Return the reply, for one of the places. Raises NoReply when the connection ends
        before."""
        if self.ending:
            self.give_back()
            raise NotSent("the upstream closed the connection")
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
            self.give_back()
            if arrived.cancelled() and self.silence.longer(self.loop.time(), SILENT):
                self.usable = False
                self.transport.abort()  # nobody is there any more, and TCP does not know yet
            elif not self._waiting and not self.lost.is_set():
                if self.left or (not self.places and not self.kept):
                    self.close()
                else:
                    self._idle = self.loop.call_later(IDLE, self.close)

    @property
    def ending(self) -> bool:
        """Whether nothing can be written anymore.

        A write that fails closes the transport at once, but `connection_lost` is called only in the
        next round of the event loop. What is asked until then must go elsewhere.
        """
        return self.transport is not None and self.transport.is_closing()

    def give_back(self) -> None:
        if self.kept:
            self.places += 1

    def leave(self) -> None:
        """Ask nothing more; close when the last question on it is over."""
        self.usable, self.left = False, True
        if not self._waiting and self.transport is not None:
            self.close()

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
                and (
                    is_reply_to(reply, reply[:2], _question_of(question))
                    or is_bare_refusal(reply, reply[:2])
                )
            ):
                self.answered += 1
                self.replied_at = self.loop.time()
                arrived.set_result(b"\0\0" + reply[2:])

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self.lost.set()
        if self._idle:
            self._idle.cancel()
        why = NoReply(str(error or "the upstream closed the connection"))
        waiting = [arrived for _, arrived in self._waiting.values() if not arrived.done()]
        self.unread = len(waiting)
        self.busy = self.loop.time() - self.replied_at < BUSY
        for arrived in waiting:
            arrived.set_exception(why)
        self._closed(self)

    def eof_received(self) -> bool:
        self.usable = False
        return False

    def close(self) -> None:
        self.usable = False
        self.transport.close()

    async def end(self) -> None:
        """Close, and see that it is closed: TLS takes its leave first, which the other side may not
        answer."""
        self.usable = False
        self.opening.cancel()
        await asyncio.gather(self.opening, return_exceptions=True)
        if self.transport is None:
            return
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


class HttpsChannel:
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
        self.refused: tuple[type[Exception], ...] = (httpx2.ConnectError, httpx2.ConnectTimeout)
        self.line = self._line()
        self.closed = False
        self._closing: set[asyncio.Task[None]] = set()

    def _line(self) -> HttpClient:
        import httpx2

        # RFC 8484 section 8.2.3: cookies would tell questions' askers apart.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        timeout = httpx2.Timeout(None, connect=CONNECT)
        return HttpClient(
            httpx2.AsyncClient(
                http2=True, verify=self.tls, trust_env=False, timeout=timeout, cookies=no_cookies
            )
        )

    async def ask(
        self, question: bytes, again: Callable[[], bool], *, second: bool = False
    ) -> tuple[bytes, int]:
        loop = asyncio.get_running_loop()
        while True:
            if self.closed:
                raise ConnectionError("the channel is closed")
            silence = self.line.silence
            if silence.longer(loop.time(), SECOND if second else SILENT):
                # Nobody may be there any more, and TCP does not know yet.
                self._start_anew(at_once=silence.longer(loop.time(), SILENT))
            line = self.line
            line.silence.asked(loop.time())
            line.requests += 1
            try:
                return await self._post(line, question)
            except asyncio.CancelledError:
                if line is self.line and line.silence.longer(loop.time(), SILENT):
                    self._start_anew(at_once=True)
                raise
            except self.refused as error:
                raise ConnectionError(f"{type(error).__name__}: {error}") from error
            except self.failures as error:
                # The connection is lost; one of those that were kept with it may be, too.
                if line is self.line:
                    self._start_anew(at_once=False)
                if not again():
                    raise NoReply(f"{type(error).__name__}: {error}") from error
                again = _never
            finally:
                line.requests -= 1
                if not line.requests:
                    line.idle.set()

    async def _post(self, line: HttpClient, question: bytes) -> tuple[bytes, int]:
        # RFC 8484 section 4.1: the id 0, so that HTTP caches see equal questions.
        asked = line.client.stream(
            "POST",
            self.url,
            content=b"\0\0" + question,
            headers=self.headers,
            extensions=self.extensions,
        )
        async with asked as reply:
            line.silence.ended()
            kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
            if reply.status_code != 200 or kind != "application/dns-message":
                raise NoReply(f"HTTP status {reply.status_code}, {kind or 'no type'}")
            octets = b""
            async for chunk in reply.aiter_raw():
                octets += chunk
                if len(octets) > MAX_MESSAGE:
                    raise NoReply("more octets than a message may have")
        return octets, _age(reply.headers.get("age", ""))

    def _start_anew(self, *, at_once: bool) -> None:
        """Ask over other connections from now on. Replies over the ones before are still awaited,
        unless they end *at_once*: then what is asked over them is asked again over the new ones."""
        gone, self.line = self.line, self._line()
        over = gone.client.aclose() if at_once else gone.close()
        task = asyncio.get_running_loop().create_task(over)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        self.closed = True
        await asyncio.gather(self.line.client.aclose(), return_exceptions=True)
        for task in tuple(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)


class HttpClient:
    """An HTTP client with its connections, and what is asked over them."""

    def __init__(self, client: Any) -> None:
        self.client, self.silence = client, Silence()
        self.requests = 0
        self.idle = asyncio.Event()

    async def close(self) -> None:
        """Close when nothing is asked over it any more, or at once when this is cancelled."""
        try:
            while self.requests:
                self.idle.clear()
                await self.idle.wait()
        finally:
            await self.client.aclose()


def _age(text: str) -> int:
    """Read an Freshness header (RFC 9111 section 5.1); what is no number says nothing."""
    return min(int(text), MAX_AGE) if text.isascii() and text.isdigit() and len(text) < 20 else 0
