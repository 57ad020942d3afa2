"""Replication from a NATS bucket: fill rate, delay from a put to the answer, cost of faults."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from bench.asker import Asker
from bench.results import Case
from bench.servers import Server
from bench.tools import Missing, program, say
from bench.zones import query
from internal_dns.replicate.codec import FLOOR, file_values, write_floor
from internal_dns.replicate.nats import NatsBucket, connected
from internal_dns.replicate.source import Source
from internal_dns.store.generate import create_catalog, sized_rows
from internal_dns.store.sqlite import connect
from tests.nats_servers import (
    NatsServer,
    asked,
    create,
    nats_cluster,
    nats_server,
    put,
    source,
    using,
)
from tests.replicate.values import machine

MACHINES: Final = 100_000
MISSED: Final = 2_000
FROZEN: Final = 8.0  # seconds
WITHIN: Final = 60.0
FIXED: Final = machine("fixed", 0xFFFF, app="fixed")
MOVING: Final = machine("moving", 0xFFFE, app="moving")
ROWS: Final = "SELECT " + " + ".join(
    f"(SELECT count(*) FROM {table})"
    for table in (
        "machines",
        "apps",
        "networks",
        "machine_metadata",
        "machine_services",
        "peers",
        "flycasts",
        "organizations",
        "hosts",
        "regions",
        "region_latency",
        "meta",
    )
)


def run(directory: Path, *, repetitions: int, short: bool) -> list[Case]:
    """Measure everything."""
    program("nats-server", "nats-server")
    catalog, folder = directory / "replicate.db", directory / "nats"
    say(f"  replicate: creating a catalog of {MACHINES:,} machines")
    create_catalog(catalog, sized_rows(MACHINES))
    values = [(key, value, None) for _, key, value in file_values(connect(catalog))]
    cases = []
    with nats_server(folder) as nats:
        where = source(nats)
        create(where)
        cases.append(_publish(where, [*values, (*FIXED, None), (*MOVING, None)]))
        cases.append(_fill(where, directory, repetitions))
        path = directory / "host-0" / "catalog.db"
        cases.append(_visible(where, path, 100 if short else 500, repetitions))
        cases.append(_missed(where, path, repetitions))
        cases += [
            _fault(nats, where, path, words, fault, repetitions)
            for words, fault in (
                ("server restarted", _restart),
                (f"server frozen for {FROZEN:.0f} s", _freeze),
            )
        ]
    return [*cases, _leader(directory, 1 if short else repetitions)]


def _publish(where: Source, values: Sequence[tuple[str, bytes | None, int | None]]) -> Case:
    began = time.perf_counter()
    using(where, lambda bucket: bucket.write(values))
    took = time.perf_counter() - began
    put(where, (FLOOR, write_floor(0)))
    keys = {"wall_s": took, "rows_s": len(values) / took, "keys": len(values)}
    return Case("replicate", f"publish, {MACHINES:,} machines · keys per second", [keys])


@contextmanager
def _host(path: Path, where: Source) -> Iterator[Server]:
    """Run a server that follows *where*; it shares both cores with the bucket."""
    path.parent.mkdir(exist_ok=True)
    words = (
        sys.executable,
        "-m",
        "internal_dns",
        "serve",
        "--catalog",
        str(path),
        "--listen",
        "[::1]:0",
        "--map-source",
        "::1/128=fdaa:0:18::/48",
        "--upstream",
        "none",
        "--admin",
        "none",
        "--source",
        str(where),
    )
    with Server(f"host {path.parent.name}", words, path.parent) as server:
        server.port = int(server.wait_for_line(r"udp\+tcp \[::1\]:(\d+)")[1])
        yield server


def _fill(where: Source, directory: Path, repetitions: int) -> Case:
    """Measure the time from no file to the first answer from the whole catalog, and rows per
    second."""
    case = Case("replicate", f"empty → complete, {MACHINES:,} machines")
    for number in range(repetitions):
        path = directory / f"host-{number}" / "catalog.db"
        with _host(path, where) as server, Asker(server.port) as asker:
            began = time.perf_counter()
            at = asker.until(query("fixed.internal", "AAAA"), 1, WITHIN)
            following = server.wait_for_line(
                r"replication: full resync done: (\d+) keys, \d+ rows deleted, ([0-9.]+) s"
            )
            connection = sqlite3.connect(path)
            (rows,) = connection.execute(ROWS).fetchone()
            connection.close()
            case.repetitions.append({
                "wall_s": (at or time.perf_counter()) - began,
                "rows_s": rows / float(following[2]), "rows": rows,
                "cpu_s": server.cpu_seconds(), "rss_mib": server.status_mib("VmRSS"),
                "peak_mib": server.status_mib("VmHWM"), "void": "" if at else "not complete in "
                                                                              "time",
            })  # fmt: skip
    return case


def _visible(where: Source, path: Path, changes: int, repetitions: int) -> Case:
    """Measure the delay from a put until another host's answer reflects it."""
    case = Case("replicate", f"put → visible in another host's answer, {MACHINES:,} machines")
    octets = query("moving.internal", "AAAA")
    with _host(path, where) as server, Asker(server.port) as asker:
        asker.until(octets, 1, WITHIN)

        async def session() -> None:
            async with connected(where) as bucket:
                for _ in range(repetitions):
                    case.repetitions.append(await _changes(bucket, asker, octets, changes))

        asyncio.run(session())
    return case


async def _changes(bucket: NatsBucket, asker: Asker, octets: bytes, changes: int) -> dict[str, Any]:
    seen, late = list[float](), 0
    for n in range(changes):
        count = n % 2
        value = machine(
            "moving",
            0xFFFE,
            app="moving",
            state="started" if count else "stopped",
            updated_at=int(time.time()),
        )
        began = time.perf_counter()
        await bucket.write([(*value, None)])
        at = await asyncio.to_thread(asker.until, octets, count, 5.0)
        late += at is None
        seen.append((at or time.perf_counter()) - began)
        await asyncio.sleep(0.005 * (n % 5))
    cuts = quantiles(seen, n=100)
    figures = {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3, "max_ms": max(seen) * 1e3}
    return {
        **figures,
        "changes": changes,
        "void": f"{late} were not visible within 5 s" if late else "",
    }


def _missed(where: Source, path: Path, repetitions: int) -> Case:
    """After kill -9 and 2,000 changes, measure from exec until the last change is visible."""
    case = Case("replicate", f"{MISSED:,} changes missed after kill -9, from exec")
    octets, here = query("moving.internal", "AAAA"), 0
    for _ in range(repetitions):
        with _host(path, where) as server, Asker(server.port) as asker:
            asker.until(query("fixed.internal", "AAAA"), 1, WITHIN)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
        here = 1 - here
        changes = [
            machine(f"missed{n % 1000}", n % 1000 + 1, app="missed", updated_at=n)
            for n in range(MISSED - 1)
        ]
        moved = machine("moving", 0xFFFE, app="moving", state="started" if here else "stopped")
        put(where, *changes, moved)
        began = time.perf_counter()
        with _host(path, where) as server, Asker(server.port) as asker:
            at = asker.until(octets, here, WITHIN)
            took = (at or time.perf_counter()) - began
        case.repetitions.append({"wall_s": took, "void": "" if at else "not visible in time"})
    return case


def _restart(nats: NatsServer) -> None:
    nats.stop()
    nats.start()


def _freeze(nats: NatsServer) -> None:
    nats.send(signal.SIGSTOP)
    time.sleep(FROZEN)
    nats.send(signal.SIGCONT)


@contextmanager
def _reading(port: int) -> Iterator[dict[str, Any]]:
    """Query an unchanged name constantly; no reply may be lost or wrong."""
    found: dict[str, Any] = {"reads": 0, "bad": 0, "slowest_ms": 0.0}
    end, octets = threading.Event(), query("fixed.internal", "AAAA")

    def read() -> None:
        with Asker(port) as asker:
            while not end.is_set():
                began = time.perf_counter()
                answer = asker.ask(octets, 2.0)
                found["reads"] += 1
                found["bad"] += answer is None or answer.records != 1
                found["slowest_ms"] = max(found["slowest_ms"], (time.perf_counter() - began) * 1e3)
                time.sleep(0.002)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield found
    finally:
        end.set()
        thread.join()
        found["loss"] = 100 * found["bad"] / max(1, found["reads"])


def _fault(
    nats: NatsServer,
    where: Source,
    path: Path,
    words: str,
    fault: Callable[[NatsServer], None],
    repetitions: int,
) -> Case:
    """Measure from the return of the NATS server until the next change is visible."""
    case = Case("replicate", f"{words} · from its return to the next change answered")
    octets = query("moving.internal", "AAAA")
    with _host(path, where) as server, Asker(server.port) as asker:
        asker.until(query("fixed.internal", "AAAA"), 1, WITHIN)
        for n in range(repetitions):
            put(where, MOVING)
            asker.until(octets, 1, WITHIN)
            with _reading(server.port) as read:
                fault(nats)
                case.repetitions.append(_next_change(where, asker, octets) | {"round": n})
            case.repetitions[-1] |= read
    return case


def _next_change(where: Source, asker: Asker, octets: bytes) -> dict[str, Any]:
    began = time.perf_counter()
    stopped = machine("moving", 0xFFFE, app="moving", state="stopped")
    while True:
        try:
            put(where, stopped)
            break
        except Exception as error:  # until the cluster has elected a leader
            if time.perf_counter() - began > WITHIN:
                return {"wall_s": WITHIN, "void": f"never written: {error}"}
    written = time.perf_counter() - began
    at = asker.until(octets, 0, WITHIN)
    took = (at or time.perf_counter()) - began
    return {"wall_s": took, "written_s": written, "void": "" if at else "not visible in time"}


def _leader(directory: Path, repetitions: int) -> Case:
    """kill -9 of the stream's leader in a cluster of three."""
    case = Case("replicate", "leader of three killed · from the kill to the next change answered")
    octets = query("moving.internal", "AAAA")
    for number in range(repetitions):
        folder = directory / f"cluster-{number}"
        with nats_cluster(folder) as servers:
            where = source(servers)
            create(where, replicas=3)
            put(where, FIXED, MOVING, (FLOOR, write_floor(0)))
            with _host(folder / "catalog.db", where) as server, Asker(server.port) as asker:
                if asker.until(octets, 1, WITHIN) is None:
                    raise Missing("the host did not follow the cluster")
                leader = asked(where, f"STREAM.INFO.KV_{where.bucket}")["cluster"]["leader"]
                with _reading(server.port) as read:
                    next(s for s in servers if s.name == leader).stop(signal.SIGKILL)
                    left = source([s for s in servers if s.name != leader])
                    found = _next_change(left, asker, octets)
                case.repetitions.append(found | read)
        shutil.rmtree(folder)
    return case
