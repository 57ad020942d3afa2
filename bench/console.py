"""How long the web console takes for its pages, and how long the event loop waits meanwhile:
`python -m bench.console [MACHINES]`; a million machines by default.

This is the worst case of a page: one network, in which one app has nearly all machines and another
as many as the console explains, or a tenth.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Final

from internal_dns.admin.console.app import Sources
from internal_dns.admin.console.guard import cookie_name, cookie_value
from internal_dns.admin.console.samples import Sampler
from internal_dns.admin.console.serve import Console
from internal_dns.admin.console.steps import MAX_MACHINES
from internal_dns.core.catalog import App, Catalog, Machine, Network, NetworkId, Region, prepare
from internal_dns.core.journey import Rules
from internal_dns.metrics import Metrics
from internal_dns.net import Endpoint
from internal_dns.service.loop import loop_name
from internal_dns.store.sqlite import without_cycles
from internal_dns.transport.answer import Exchange

MACHINES: Final = 1_000_000
TOKEN: Final = "bench-bench-bench"
PREFIX: Final = bytes.fromhex("fdaa00000018")
PATHS: Final = (
    "/",
    "/networks/24",
    "/networks/24/apps/big?page=9999",
    "/networks/24/apps/big?filter=ams",
    "/networks/24/apps/big?filter=a7b:1",
    "/networks/24/apps/big?sort=-region",
    "/search?q=0000000000abc",
    "/search?q=bgi",
    "/search?q=fdaa:0:18:a7b:1:0:1:2",
    "/search?q=fdaa:0:18:a7b:2:0:2:2",
    "/live",
    "/status",
    "/ask?name=big.internal&as=acme",
    "/ask?name=some.internal&as=acme",
    "/ask?name=some.internal&as=acme",
    "/ask?name=some.internal&as=acme&by=tcp",
    "/ask?name=top3.nearest.of.some.internal&as=acme/iad",
)


def catalog(count: int) -> Catalog:
    """Return a catalog as the loading thread would: with its indexes, and not walked by the cycle
    collector."""
    with without_cycles():
        return _catalog(count)


def _catalog(count: int) -> Catalog:
    some = min(MAX_MACHINES, count // 10)
    apps = {name: App(name, machines(name, start, number)) for name, start, number in (
        (b"big", 0, count - some), (b"some", count - some, some))}  # fmt: skip
    network = Network(NetworkId(0x18), PREFIX, b"acme", apps)
    regions = {b"iad": Region(39.0, -77.5), b"ams": Region(52.3, 4.9), b"nrt": Region(35.7, 140.0)}
    return Catalog({network.id: prepare(network)}, regions)


def machines(app: bytes, start: int, count: int) -> tuple[Machine, ...]:
    return tuple(
        Machine(
            b"%014x" % number,
            app,
            PREFIX + (0x0A7B_0000 + number % 5_000).to_bytes(4) + number.to_bytes(4) + b"\0\2",
            (b"iad", b"ams", b"nrt")[number % 3],
            b"app",
            b"started" if number % 10 else b"stopped",
        )
        for number in range(start, start + count)
    )


async def measure(served: Catalog, count: int) -> None:
    exchange = Exchange(Rules(), Metrics())
    exchange.use(served)
    sources = Sources(
        lambda: served, lambda: None, lambda: (True, "ready"), Rules, Path("/nosuch"), tuple,
        exchange=exchange,
    )  # fmt: skip
    console = Console(Endpoint.parse("127.0.0.1:0"), TOKEN, sources, Sampler(Metrics()))
    console.start()
    waits: list[float] = []
    ticking = asyncio.create_task(tick(waits))
    print(f"{count:,} machines, {loop_name()}\n{'page':60}{'took':>10}{'loop waited at most':>22}")
    for path in PATHS:
        await asyncio.sleep(0.2)
        waits.clear()
        begin = time.perf_counter()
        status = await get(console, path)
        took = time.perf_counter() - begin
        assert status == 200, (path, status)
        print(f"{path:60}{took * 1000:7.0f} ms{max(waits, default=0.0) * 1000:19.1f} ms")
    ticking.cancel()
    await console.close()


async def tick(waits: list[float]) -> None:
    """Record the delay of the event loop every millisecond."""
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        waits.append(time.perf_counter() - begin - 0.001)


async def get(console: Console, path: str) -> int:
    """Read a page completely; return its status."""
    reader, writer = await asyncio.open_connection(*console.address[:2])
    cookie = f"{cookie_name('localhost')}={cookie_value(TOKEN)}"
    head = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n"
    )
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    return int(answer[9:12])


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        number = int(sys.argv[1]) if sys.argv[1:] else MACHINES
        runner.run(measure(catalog(number), number))
