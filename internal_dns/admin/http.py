"""The admin port: GET /metrics, /healthz and /readyz only, in bounded time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

MAX_HEAD: Final = 8_192  # octets of request line and headers
TIMEOUT: Final = 5  # seconds for the whole exchange
MAX_CONNECTIONS: Final = 32

_PLAIN: Final = "text/plain; charset=utf-8"


class AdminPort:
    """Serves the metrics of *registry* at one address. *ready* returns whether the program is
    ready, and a text that says why."""

    def __init__(self, registry: CollectorRegistry, ready: Callable[[], tuple[bool, str]]) -> None:
        self.registry = registry
        self.ready = ready
        self.slots = asyncio.Semaphore(MAX_CONNECTIONS)

    async def start(self, host: str, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT), self.slots:
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = self._answer(head)
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    def _answer(self, head: bytes) -> tuple[str, str, bytes]:
        """Return status, content type and body for a request."""
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path not in (b"/metrics", b"/healthz", b"/readyz"):
            return "404 Not Found", _PLAIN, b"this port serves /metrics, /healthz and /readyz\n"
        if method != b"GET":
            return "405 Method Not Allowed", _PLAIN, b"this port accepts only GET\n"
        if path == b"/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, generate_latest(self.registry)
        if path == b"/healthz":
            return "200 OK", _PLAIN, b"ok\n"
        ready, text = self.ready()
        return "200 OK" if ready else "503 Service Unavailable", _PLAIN, text.encode() + b"\n"
