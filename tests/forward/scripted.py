"""Upstreams on loopback that do as they are told, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from struct import pack
from typing import Any, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from internal_dns.forward.upstreams import Upstream

Script = Callable[
    [bytes, bool], Iterable[bytes]
]  # (query, whether by TCP) → what is sent back, in order


def good(text: str = "192.0.2.80", **how: Any) -> Script:
    return lambda octets, _: [reply(octets, text, **how)]


def reply(
    octets: bytes,
    text: str = "192.0.2.80",
    *,
    rcode: int = 0,
    flags: int = 0,
    owner: str = "",
    rdtype: str = "",
) -> bytes:
    """A reply to *octets* with one record, an address unless *rdtype* says otherwise."""
    message = dns.message.from_wire(octets)
    made = dns.message.make_response(message, recursion_available=True)
    made.flags |= dns.flags.Flag(flags)
    made.set_rcode(dns.rcode.Rcode(rcode))
    if text:
        kind = rdtype or ("AAAA" if ":" in text else "A")
        made.answer.append(
            dns.rrset.from_text(owner or str(message.question[0].name), 60, "IN", kind, text)
        )
    return made.to_wire(max_size=65_535)


@dataclass
class Scripted:
    """An upstream on loopback, UDP and TCP."""

    script: Script
    port: int = 0
    asked: list[tuple[bytes, bool]] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)  # the askers'
    connections: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    close_after_each: bool = False
    takes: int = 0  # questions on one connection; the rest is not read. 0: any number
    by_connection: list[int] = field(default_factory=list)  # of each question over TCP

    @property
    def udp(self) -> Upstream:
        return Upstream.parse(f"udp://127.0.0.1:{self.port}")

    @property
    def tcp(self) -> Upstream:
        return Upstream.parse(f"tcp://127.0.0.1:{self.port}")

    def answers(self, octets: bytes, stream: bool) -> list[bytes]:
        self.asked.append((octets, stream))
        return list(self.script(octets, stream))

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number, taken = self.connections, 0
        self.writers.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                octets = await reader.readexactly(
                    int.from_bytes(await reader.readexactly(2), "big")
                )
                self.by_connection.append(number)
                for answer in self.answers(octets, True):
                    writer.write(pack("!H", len(answer)) + answer)
                await writer.drain()
                taken += 1
                if self.close_after_each or taken == self.takes:
                    break
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, owner: Scripted) -> None:
        self.owner = owner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.owner.ports.add(addr[1])
        for answer in self.owner.answers(data, False):
            self.transport.sendto(answer, addr)


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[list[Scripted]]:
    """Upstreams that follow *scripts*."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        found = []
        for script in scripts:
            made = Scripted(script)
            server = await asyncio.start_server(made.serve_tcp, "127.0.0.1", 0)
            made.port = server.sockets[0].getsockname()[1]
            transport, _ = await loop.create_datagram_endpoint(
                lambda made=made: _Datagrams(made),  # type: ignore[misc]
                local_addr=("127.0.0.1", made.port),
            )
            stack.callback(server.close)
            stack.callback(transport.close)
            found.append(made)
        yield found
        for made in found:
            for writer in made.writers:
                writer.close()
        for _ in range(3):
            await asyncio.sleep(0)
