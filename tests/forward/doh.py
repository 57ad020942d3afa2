"""A server of DNS over HTTPS, HTTP/2, on loopback, that does as it is told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

from tests.forward.scripted import reply


@dataclass
class Doh:
    """What it says, and what it was asked."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/dns-message"
    body: bytes | None = None
    ends: bool = False  # hang up instead of answering
    deaf: int = 0  # connections, the oldest ones, on which nothing is answered any more
    port: int = 0
    connections: int = 0
    asked: list[dict[str, str]] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    open: list[tuple[h2.connection.H2Connection, asyncio.StreamWriter]] = field(
        default_factory=list
    )

    def hang_up(self, *, goaway: bool) -> None:
        """End all connections, as one that restarts does."""
        for connection, writer in self.open:
            if goaway:
                connection.close_connection()
                writer.write(connection.data_to_send())
            writer.close()
        self.open.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        number = self.connections
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        self.open.append((connection, writer))
        writer.write(connection.data_to_send())
        bodies: dict[int, bytes] = {}
        with suppress(OSError, asyncio.CancelledError):
            while octets := await reader.read(65_535):
                if number <= self.deaf:
                    continue
                if self.ends:
                    break
                for event in connection.receive_data(octets):
                    if isinstance(event, h2.events.RequestReceived):
                        self.asked.append({k.decode(): v.decode() for k, v in event.headers or ()})
                    elif isinstance(event, h2.events.DataReceived):
                        bodies[event.stream_id] = bodies.get(event.stream_id, b"") + (
                            event.data or b""
                        )
                    elif isinstance(event, h2.events.StreamEnded):
                        self._answer(connection, event.stream_id, bodies.pop(event.stream_id, b""))
                writer.write(connection.data_to_send())
        writer.close()

    def _answer(self, connection: h2.connection.H2Connection, stream: int, query: bytes) -> None:
        body = reply(query) if self.body is None else self.body
        head = ((":status", str(self.status)), ("content-type", self.content_type), *self.headers)
        connection.send_headers(stream, list(head))
        connection.send_data(stream, body, end_stream=True)


@asynccontextmanager
async def doh(context: ssl.SSLContext) -> AsyncIterator[Doh]:
    """A server with the certificate of *context*."""
    made = Doh()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    for writer in made.writers:
        writer.transport.abort()
    for _ in range(3):
        await asyncio.sleep(0)
