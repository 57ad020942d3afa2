"""The neighbor of bench/attack.py, and the program that polls `/readyz` meanwhile.

    python -m bench.neighbor SOURCE HOST PORT SECONDS
    python -m bench.neighbor readyz ADMIN SECONDS

The neighbor asks new names over UDP and over one TCP connection, and new external names, each at
its rate, whatever comes back. Latency counts from the moment a question was due, whoever was late.
`/readyz` is asked ten times per second. Both print their figures as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from bench.zones import query

RATES: Final = {"udp": 200, "tcp": 100, "external": 50}  # per second
PATIENCE: Final = 2.0  # seconds after which a reply counts as lost
READY_EVERY: Final = 0.1


class Asked:
    """The queries of one kind: when each was due, and the latency of its reply."""

    def __init__(self) -> None:
        self.due: dict[int, float] = {}
        self.sent = 0
        self.latencies: list[float] = []
        self.rcodes: dict[int, int] = {}

    def came(self, octets: bytes) -> None:
        due = self.due.pop(int.from_bytes(octets[:2], "big"), None)
        if due is not None:
            self.latencies.append(time.perf_counter() - due)
            self.rcodes[octets[3] & 15] = self.rcodes.get(octets[3] & 15, 0) + 1

    def figures(self) -> dict[str, Any]:
        in_time = sorted(latency for latency in self.latencies if latency <= PATIENCE)
        failed = self.rcodes.get(2, 0)  # SERVFAIL
        return {
            "sent": self.sent,
            "lost": self.sent - len(in_time) + failed,
            "servfail": failed,
            "p50_ms": 1000 * _part(in_time, 0.5),
            "p99_ms": 1000 * _part(in_time, 0.99),
            "max_ms": 1000 * max(self.latencies, default=PATIENCE),
        }


def _part(values: list[float], part: float) -> float:
    return values[min(len(values) - 1, int(part * len(values)))] if values else PATIENCE


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    def datagram_received(self, data: bytes, address: object) -> None:
        self.asked.came(data)


async def _ask(
    asked: Asked, rate: int, until: float, name: str, send: Callable[[bytes], None]
) -> None:
    """Send at *rate*, sleeping in between."""
    begin = time.perf_counter()
    while (now := time.perf_counter()) < until:
        while begin + asked.sent / rate <= now:
            number = asked.sent & 0xFFFF
            asked.due[number] = begin + asked.sent / rate
            send(query(name.format(n=asked.sent, run=os.getpid()), "AAAA", number))
            asked.sent += 1
        await asyncio.sleep(max(0.0, begin + asked.sent / rate - time.perf_counter()))


async def _by_udp(asked: Asked, source: str, to: tuple[str, int], name: str, until: float) -> None:
    kind = "external" if "external" in name else "udp"
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Datagrams(asked), local_addr=(source, 0), remote_addr=to
    )
    await _ask(asked, RATES[kind], until, name, transport.sendto)
    await asyncio.sleep(PATIENCE)
    transport.close()


async def _by_tcp(asked: Asked, source: str, to: tuple[str, int], name: str, until: float) -> None:
    reader, writer = await asyncio.open_connection(*to, local_addr=(source, 0))

    async def read() -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                length = int.from_bytes(await reader.readexactly(2), "big")
                asked.came(await reader.readexactly(length))

    def send(octets: bytes) -> None:
        writer.write(len(octets).to_bytes(2, "big") + octets)

    reading = asyncio.get_running_loop().create_task(read())
    await _ask(asked, RATES["tcp"], until, name, send)
    await asyncio.sleep(PATIENCE)
    reading.cancel()
    writer.close()


async def _ready(admin: str, until: float, took: list[float]) -> None:
    """Poll `/readyz`; a slow answer counts in full."""
    host, _, port = admin.removeprefix("http://").rpartition(":")
    while time.perf_counter() < until:
        begin = time.perf_counter()
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.read()
        writer.close()
        took.append(time.perf_counter() - begin)
        await asyncio.sleep(max(0.0, begin + READY_EVERY - time.perf_counter()))


async def _poll(admin: str, seconds: float) -> dict[str, Any]:
    took = list[float]()
    await _ready(admin, time.perf_counter() + seconds, took)
    return {"readyz_ms": 1000 * max(took)}


async def _run(source: str, host: str, port: int, seconds: float) -> dict[str, Any]:
    until, to = time.perf_counter() + seconds, (host, port)
    kinds = {kind: Asked() for kind in RATES}
    names = {
        "udp": "u{n}x{run}.internal",
        "tcp": "t{n}x{run}.internal",
        "external": "e{n}x{run}.external.test",
    }
    await asyncio.gather(
        _by_udp(kinds["udp"], source, to, names["udp"], until),
        _by_tcp(kinds["tcp"], source, to, names["tcp"], until),
        _by_udp(kinds["external"], source, to, names["external"], until),
    )
    return {"kinds": {kind: asked.figures() for kind, asked in kinds.items()}}


def main() -> None:
    if sys.argv[1] == "readyz":
        _, admin, seconds = sys.argv[1:]
        print(json.dumps(asyncio.run(_poll(admin, float(seconds)))))
        return
    source, host, port, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(_run(source, host, int(port), float(seconds)))))


if __name__ == "__main__":
    main()
