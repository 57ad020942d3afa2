"""How long a commit takes to become visible, and how long it holds the event loop:
`python -m bench.commits owned|foreign [MACHINES]`.

The whole path: the file is watched and read, the commit is applied to the answer table, which holds
the answers to earlier queries, and to the native table, and the previous values are freed.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from struct import pack
from typing import Final

from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.metrics import Metrics
from internal_dns.service.applying import Applying
from internal_dns.service.loop import loop_factory
from internal_dns.store.generate import create_catalog, sized_rows
from internal_dns.store.sqlite import Loaded
from internal_dns.store.watch import Watcher
from internal_dns.transport import native
from internal_dns.transport.answer import Exchange
from internal_dns.transport.native.mirror import Mirror

ONE: Final = (
    "UPDATE machines SET state = 'stopped' "
    "WHERE id = (SELECT id FROM machines WHERE state = 'started' LIMIT 1)"
)
ALL: Final = "UPDATE machines SET region = CASE region WHEN 'ams' THEN 'iad' ELSE 'ams' END"
WRITE: Final = """
import sqlite3, sys, time
sys.stdin.readline()
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN"); connection.execute(sys.argv[2]); connection.execute("COMMIT")
print(time.time())
"""
FILLED: Final = 20_000  # apps per network that are queried before each commit
# Seconds before each commit, so that a foreign file is read at most half of the time.
CALM: Final = 1.5


def fill(exchange: Exchange) -> None:
    """Have the addresses and the absence of A of apps remembered."""
    catalog = exchange.catalog
    assert catalog is not None
    for network in catalog.networks.values():
        source = network.prefix + bytes(9) + b"\2"
        for name in list(network.apps)[:FILLED]:
            for qtype in (28, 1):
                question = bytes((len(name),)) + name + b"\x08internal\0" + pack("!HH", qtype, 1)
                octets = b"\0\1\1\0\0\1\0\0\0\0\0\0" + question
                said = respond(octets, source, network.server_address, catalog, exchange.rules)
                assert isinstance(said, Reply)
                exchange.answers.remember(said)


async def measure(path: Path) -> None:
    """Print one line per commit, which another process makes."""
    applied: list[float] = []
    rules, metrics, loop = Rules(), Metrics(), asyncio.get_running_loop()
    mirror = None if native.MISSING else Mirror(rules, metrics)
    exchange = Exchange(rules, metrics, mirror=mirror)
    applying = Applying(exchange.steps, loop.call_soon)

    def apply(loaded: Loaded) -> asyncio.Future[None]:
        done = loop.create_future()

        def finish() -> None:
            done.set_result(None)
            applied.append(time.time())

        applying.apply(loaded.catalog, finish)
        return done

    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            gaps.append(time.perf_counter() - last)
            last += gaps[-1]

    watching, ticking = asyncio.create_task(Watcher(path, apply).run()), asyncio.create_task(tick())
    while not applied:
        await asyncio.sleep(0.01)
    for what, statement in (("one row", ONE), ("all rows", ALL)) * 3:
        await asyncio.sleep(CALM)
        fill(exchange)
        # Started before anything is measured: to fork a process of this size takes 12 ms.
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITE, str(path), statement,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await asyncio.sleep(CALM)
        gaps.clear()
        seen = len(applied)
        committed = float((await writer.communicate(b"\n"))[0])
        while len(applied) == seen:
            await asyncio.sleep(0.001)
        await asyncio.sleep(CALM / 3)  # what was is freed
        visible, held = applied[-1] - committed, sorted(gaps)
        print(
            f"{what:8}  visible after {visible * 1000:5.0f} ms; the loop waited "
            f"p99 {held[int(len(held) * 0.99)] * 1000:5.1f} ms, at most {held[-1] * 1000:5.1f} ms"
        )
    for task in (watching, ticking):
        task.cancel()
    await asyncio.wait({watching, ticking})


def main() -> None:
    kind, machines = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "catalog.db"
        create_catalog(path, sized_rows(machines, 1))
        if kind == "foreign":
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                for (name,) in connection.execute(triggers).fetchall():
                    connection.execute(f"DROP TRIGGER {name}")
                connection.execute("DROP TABLE journal")
        print(f"{kind}, {machines:,} machines")
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(measure(path))


if __name__ == "__main__":
    main()
