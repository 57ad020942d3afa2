"""DNS over HTTPS, with the HTTP library that dnspython's extra `doh` brings; HTTP/2 where the
server has it.

A lost connection costs a new one, and a silent client is replaced by another, as in `streams.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final

from internal_dns.core.wire import MAX_MESSAGE
from internal_dns.forward.channel import NoReply, Silence, never, tls_context
from internal_dns.forward.times import TIMES, Times
from internal_dns.forward.upstreams import Upstream

MAX_AGE: Final = (1 << 31) - 1  # seconds: the largest TTL


class HttpsChannel:
    """The HTTP client of an upstream."""

    def __init__(self, upstream: Upstream, ca: Path | None, times: Times = TIMES) -> None:
        import httpx2  # late: it takes 0.1 s, and few upstreams are queried over HTTPS

        self.upstream, self.times = upstream, times
        self.url = f"https://{upstream.endpoint}{upstream.path}"
        host = upstream.name or upstream.endpoint.host
        self.headers = {
            "accept": "application/dns-message",
            "accept-encoding": "identity",  # unpacked, a body could be a thousand times as long
            "content-type": "application/dns-message",
            "host": str(host) if upstream.name else str(upstream.endpoint),
            "user-agent": "internal-dns",
        }
        self.extensions = {"sni_hostname": str(host)}  # the certificate is verified for it, too
        self.tls = tls_context(ca)
        # RuntimeError: the client was closed.
        self.failures: tuple[type[Exception], ...] = (
            httpx2.HTTPError,
            httpx2.InvalidURL,
            RuntimeError,
        )
        self.refused: tuple[type[Exception], ...] = (httpx2.ConnectError, httpx2.ConnectTimeout)
        self.client = self._new_client()
        self.closed = False
        self._closing: set[asyncio.Task[None]] = set()

    def _new_client(self) -> HttpClient:
        import httpx2

        # RFC 8484 section 8.2.3: cookies would let the upstream tell clients apart.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        timeout = httpx2.Timeout(None, connect=self.times.connect)
        return HttpClient(
            httpx2.AsyncClient(
                http2=True, verify=self.tls, trust_env=False, timeout=timeout, cookies=no_cookies
            )
        )

    async def ask(
        self, query: bytes, may_resend: Callable[[], bool], *, retry: bool = False
    ) -> tuple[bytes, int]:
        loop, silent = asyncio.get_running_loop(), self.times.silent
        while True:
            if self.closed:
                raise ConnectionError("the channel is closed")
            silence = self.client.silence
            if silence.lasts(loop.time(), self.times.hedge if retry else silent):
                # The peer may be gone, and TCP does not know yet.
                self._replace_client(at_once=silence.lasts(loop.time(), silent))
            client = self.client
            client.silence.start(loop.time())
            client.requests += 1
            try:
                return await self._post(client, query)
            except asyncio.CancelledError:
                if client is self.client and client.silence.lasts(loop.time(), silent):
                    self._replace_client(at_once=True)
                raise
            except self.refused as error:
                raise ConnectionError(f"{type(error).__name__}: {error}") from error
            except self.failures as error:
                # The connection is lost; others of this client may be, too.
                if client is self.client:
                    self._replace_client(at_once=False)
                if not may_resend():
                    raise NoReply(f"{type(error).__name__}: {error}") from error
                may_resend = never
            finally:
                client.requests -= 1
                if not client.requests:
                    client.idle.set()

    async def _post(self, client: HttpClient, query: bytes) -> tuple[bytes, int]:
        # RFC 8484 section 4.1: the id 0, so that HTTP caches see equal requests.
        request = client.http.stream(
            "POST",
            self.url,
            content=b"\0\0" + query,
            headers=self.headers,
            extensions=self.extensions,
        )
        async with request as response:
            client.silence.end()
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code != 200 or kind != "application/dns-message":
                raise NoReply(f"HTTP status {response.status_code}, {kind or 'no type'}")
            octets = b""
            async for chunk in response.aiter_raw():
                octets += chunk
                if len(octets) > MAX_MESSAGE:
                    raise NoReply("the body is longer than a DNS message may be")
        return octets, _age(response.headers.get("age", ""))

    def _replace_client(self, *, at_once: bool) -> None:
        """Send requests with a new client from now on. The old one still awaits its replies, unless
        it ends *at_once*: then its requests are sent again with the new one."""
        old, self.client = self.client, self._new_client()
        closing = old.http.aclose() if at_once else old.close()
        task = asyncio.get_running_loop().create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        self.closed = True
        await asyncio.gather(self.client.http.aclose(), return_exceptions=True)
        for task in tuple(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)


class HttpClient:
    """An HTTP client with its connections, and the number of its open requests."""

    def __init__(self, http: Any) -> None:
        self.http, self.silence = http, Silence()
        self.requests = 0
        self.idle = asyncio.Event()

    async def close(self) -> None:
        """Close after the last reply, or at once when this is cancelled."""
        try:
            while self.requests:
                self.idle.clear()
                await self.idle.wait()
        finally:
            await self.http.aclose()


def _age(text: str) -> int:
    """Read an Age header (RFC 9111 section 5.1); 0 if it is no number."""
    return min(int(text), MAX_AGE) if text.isascii() and text.isdigit() and len(text) < 20 else 0
