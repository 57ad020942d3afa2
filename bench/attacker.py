"""The attacks of bench/attack.py, and its upstream.

    python -m bench.attacker KIND SOURCE NETWORK HOST PORT CATALOG SECONDS
    python -m bench.attacker upstream PORT

Each attack has a time limit and ends by itself.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from struct import pack, unpack_from
from typing import Any, Final, NamedTuple, cast

from bench.zones import query

PIPELINED: Final = 1_000
PER_SECOND: Final = 400
NEW_PER_SECOND: Final = 20_000
STREAMS: Final = 8
STREAM_OCTETS: Final = 1_000_000  # per second, in total
COOKIE: Final = pack("!HH", 10, 8) + b"attacker"
LARGE: Final = "large.attack.test"
TICK: Final = 0.005


class Target(NamedTuple):
    """The source and target of an attack, and its end (time.monotonic)."""

    source: str
    network: int
    host: str
    port: int
    catalog: Path
    until: float

    def connected(self, kind: socket.SocketKind) -> socket.socket:
        sock = socket.socket(socket.AF_INET6, kind)
        sock.bind((self.source, 0))
        sock.connect((self.host, self.port))
        return sock


def with_options(octets: bytes, size: int, options: bytes) -> bytes:
    """Return the query with an OPT record."""
    opt = b"\0" + pack("!HHIH", 41, size, 0, len(options)) + options
    return octets[:10] + b"\0\1" + octets[12:] + opt


def framed(octets: bytes) -> bytes:
    return len(octets).to_bytes(2, "big") + octets


# ── attacks ───────────────────────────────────────────────────────────────────────────────────────


def pages(target: Target) -> None:
    """Send 1,000 queries for a page past the end at once; repeat when all are answered."""
    asked = b"".join(
        framed(query(f"{PIPELINED}._page._instances.internal", "TXT", number))
        for number in range(PIPELINED)
    )
    while time.monotonic() < target.until:
        with target.connected(socket.SOCK_STREAM) as sock, suppress(OSError):
            sock.sendall(asked)
            left = PIPELINED
            buffer = b""
            while left and (rest := target.until - time.monotonic()) > 0:
                sock.settimeout(rest)
                octets = sock.recv(1 << 16)
                if not octets:
                    break
                buffer += octets
                while len(buffer) >= 2 and len(buffer) >= 2 + unpack_from("!H", buffer)[0]:
                    buffer = buffer[2 + unpack_from("!H", buffer)[0] :]
                    left -= 1


def cookie(target: Target) -> None:
    """Query the list of all machines, with an EDNS option."""
    asked = with_options(query("_instances.internal", "TXT"), 1_232, COOKIE)
    _at_rate(target, PER_SECOND, lambda number: pack("!H", number & 0xFFFF) + asked[2:])


def new(target: Target) -> None:
    """Query names that were never queried before."""
    _at_rate(
        target,
        NEW_PER_SECOND,
        lambda number: query(f"m{number}.vm.app-1.internal", "AAAA", number & 0xFFFF),
    )


def large(target: Target) -> None:
    """Query an external name with a reply too large for UDP: fetched once over TCP, then cached."""
    with target.connected(socket.SOCK_STREAM) as sock, suppress(OSError):
        sock.settimeout(3)
        sock.sendall(framed(query(LARGE, "TXT", 7)))
        sock.recv(1 << 16)
    asked = query(LARGE, "TXT")
    _at_rate(target, PER_SECOND, lambda number: pack("!H", number & 0xFFFF) + asked[2:])


def streams(target: Target) -> None:
    """Query new names over several connections and read the replies."""
    asyncio.run(_streams(target))


async def _streams(target: Target) -> None:
    async def one(stream: int) -> None:
        loop = asyncio.get_running_loop()
        sock = target.connected(socket.SOCK_STREAM)
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock)

        async def read() -> None:
            while await reader.read(1 << 16):
                pass

        reading, number, begin, sent = loop.create_task(read()), 0, time.monotonic(), 0
        while (now := time.monotonic()) < target.until:
            while sent < (now - begin) * STREAM_OCTETS / STREAMS:
                number += 1
                octets = framed(
                    query(f"s{stream}n{number}.app-1.internal", "AAAA", number & 0xFFFF)
                )
                writer.write(octets)
                sent += len(octets)
            with suppress(TimeoutError):
                await asyncio.wait_for(writer.drain(), max(0.01, target.until - now))
            await asyncio.sleep(TICK)
        reading.cancel()
        writer.close()

    await asyncio.gather(*(one(stream) for stream in range(STREAMS)), return_exceptions=True)


def reverse(target: Target) -> None:
    """Change one machine, then query a PTR record: the change invalidates the index."""
    network, number = target.network, 0
    with sqlite3.connect(target.catalog, isolation_level=None, timeout=5) as catalog:
        machine = catalog.execute(
            "SELECT id FROM machines WHERE network_id = ? LIMIT 1", (network,)
        ).fetchone()[0]
        with target.connected(socket.SOCK_DGRAM) as sock:
            while time.monotonic() < target.until:
                number += 1
                catalog.execute(
                    "UPDATE machines SET region = ? WHERE id = ?",
                    (("ams", "iad")[number % 2], machine),
                )
                time.sleep(0.1)
                for host in range(5):
                    name = ".".join(f"{number:04x}{host:04x}"[::-1]) + "." + "0." * 12
                    network_part = ".".join(f"{network:08x}"[::-1])
                    sock.send(query(f"{name}{network_part}.a.a.d.f.ip6.arpa", "PTR", number))
                time.sleep(0.4)


def commit(target: Target) -> None:
    """Change all machines of the attacker's network in one commit, repeatedly."""
    network, number = target.network, 0
    with sqlite3.connect(target.catalog, isolation_level=None, timeout=20) as catalog:
        while time.monotonic() < target.until:
            number += 1
            catalog.execute(
                "UPDATE machines SET region = ? WHERE network_id = ?",
                (("ams", "iad")[number % 2], network),
            )
            time.sleep(1)


def _at_rate(target: Target, rate: int, octets: Callable[[int], bytes]) -> None:
    """Send *rate* datagrams per second and ignore the replies."""
    sent, begin = 0, time.monotonic()
    with target.connected(socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        while (now := time.monotonic()) < target.until:
            while sent < (now - begin) * rate:
                with suppress(OSError):
                    sock.send(octets(sent))
                sent += 1
            time.sleep(TICK)


ATTACKS: Final = {
    attack.__name__: attack for attack in (pages, cookie, new, large, streams, reverse, commit)
}


# ── the upstream ──────────────────────────────────────────────────────────────────────────────────


def reply_to(octets: bytes, *, stream: bool) -> bytes:
    """Answers every name with one A or AAAA record, and LARGE with 64 KB of TXT over TCP."""
    at = 12
    while octets[at]:
        at += 1 + octets[at]
    qtype, question = int.from_bytes(octets[at + 1 : at + 3], "big"), octets[12 : at + 5]
    if qtype == 16:
        if not stream:
            return octets[:2] + b"\x83\x80\0\1\0\0\0\0\0\0" + question
        text = b"".join(bytes([200]) + b"%0200d" % number for number in range(3))
        count = (65_000 - len(question)) // (12 + len(text))
        record = b"\xc0\x0c" + pack("!HHIH", 16, 1, 300, len(text))
        records = b"".join(record + text[:-8] + b"%08d" % number for number in range(count))
        return octets[:2] + b"\x81\x80\0\1" + pack("!3H", count, 0, 0) + question + records
    address = bytes(15) + b"\1" if qtype == 28 else b"\xc0\0\2\1"
    record = b"\xc0\x0c" + pack("!HHIH", qtype, 1, 300, len(address)) + address
    return octets[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question + record


class _Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str | Any, int]) -> None:
        self.transport.sendto(reply_to(data, stream=False), address)


async def _serve_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, OSError):
        while True:
            length = int.from_bytes(await reader.readexactly(2), "big")
            writer.write(framed(reply_to(await reader.readexactly(length), stream=True)))
            await writer.drain()
    writer.close()


async def _upstream(port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(_Datagrams, local_addr=("::1", port))
    server = await asyncio.start_server(_serve_stream, "::1", port)
    await server.serve_forever()


def main() -> None:
    kind, *words = sys.argv[1:]
    if kind == "upstream":
        asyncio.run(_upstream(int(words[0])))
        return
    source, network, host, port, catalog, seconds = words
    until = time.monotonic() + float(seconds)
    ATTACKS[kind](Target(source, int(network), host, int(port), Path(catalog), until))


if __name__ == "__main__":
    main()
