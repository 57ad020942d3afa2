"""UDP on one core: internal-dns on both paths, the floor and the peers, in turn in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from bench import peers, servers, zones
from bench.loads import Loads, Step, Wanted, measure, plan
from bench.machine import CORES
from bench.results import Case
from bench.servers import Server
from bench.tools import Missing, Skipped, say

RATES = (20_000, 60_000)


def run(
    directory: Path, *, seconds: float, repetitions: int, short: bool, skipped: Skipped
) -> list[Case]:
    """Measure all of them; *short* skips peers and loads. Raises Missing without any generator."""
    zone = zones.first_zone()
    apps, mixed = zones.apps(zone), zones.mixed(zone)
    loads = Loads(directory, seconds)
    longer: tuple[Wanted, ...] = (
        ("saturated by dnsperf", lambda: loads.dnsperf(apps), apps, 0),
        ("mixed, saturated by sendmmsg", lambda: loads.sendmmsg(mixed), mixed, 0),
        *(
            (f"mixed, {rate:,} per second", partial(loads.sendmmsg, mixed, rate), mixed, rate)
            for rate in RATES
        ),
    )
    steps = plan(
        (
            ("saturated by sendmmsg", lambda: loads.sendmmsg(apps), apps, 0),
            *(
                (f"{rate:,} per second", partial(loads.sendmmsg, apps, rate), apps, rate)
                for rate in RATES
            ),
            *(() if short else longer),
        ),
        skipped,
    )
    catalog = directory / "apps.db"
    zones.make_catalog(catalog, zones.APPS * zones.MACHINES_PER_APP)
    with ExitStack() as stack:
        subjects = _ours(catalog, directory, stack, skipped, short=short)
        subjects += [
            stack.enter_context(servers.floor(directory, pktinfo=pktinfo))
            for pktinfo in (False, True)
        ]
        subjects += peers.authoritative(directory, zone, stack, skipped, short=short)
        for server in subjects:
            loads.warm_up(apps, server)
            if not short:
                loads.warm_up(mixed, server)
        return alternate("udp", subjects, steps, repetitions)


def _ours(
    catalog: Path, directory: Path, stack: ExitStack, skipped: Skipped, *, short: bool
) -> list[Server]:
    """Start both paths, each on one address (pure Python not if *short*) and on the wildcard, where
    packet info gives the destination."""
    found = []
    for path in servers.PATHS:
        for wildcard in (True,) if short and path == "python" else (False, True):
            try:
                made = servers.ours(catalog, directory, wildcard=wildcard, path=path)
            except Missing as reason:
                skipped.add(f"internal-dns, {path} path, {'[::]' if wildcard else '[::1]'}", reason)
                continue
            found.append(stack.enter_context(made))
    return found


def workers(directory: Path, *, seconds: float, repetitions: int, skipped: Skipped) -> list[Case]:
    """Measure one worker and two, if there is a third core for the generator."""
    if not servers.option("--workers"):
        raise Missing("not built: serve has no --workers")
    if len(CORES) < 3:
        raise Missing(
            f"not measurable here: {len(CORES)} cores, and two workers and the generator need three"
        )
    apps = zones.apps(zones.first_zone())
    loads = Loads(directory, seconds)
    steps = plan((("saturated by sendmmsg", lambda: loads.sendmmsg(apps), apps, 0),), skipped)
    catalog = directory / "workers.db"
    zones.make_catalog(catalog, zones.APPS * zones.MACHINES_PER_APP)
    with ExitStack() as stack:
        subjects = []
        for count in (1, 2):
            name = f"internal-dns, {count} worker{'s' if count > 1 else ''}"
            server = stack.enter_context(servers.ours(catalog, directory, name=name, workers=count))
            server.pin(CORES[:count])
            loads.warm_up(apps, server)
            subjects.append(server)
        return alternate("workers", subjects, steps, repetitions)


def alternate(
    part: str,
    subjects: Sequence[Server],
    steps: Sequence[Step],
    repetitions: int,
    around: Callable[[], AbstractContextManager[dict[str, Any]]] = lambda: nullcontext({}),
) -> list[Case]:
    """Run every load on every subject in turn, then repeat (A B A B), so that a slow minute
    hits all alike.

    What *around* tells of a run is added to it.
    """
    cases = {
        (s.name, words): Case(part, f"{s.name} · {words}", [], s.name, words)
        for s in subjects
        for words, *_ in steps
    }
    limits: dict[tuple[str, str], float] = {}  # capacity of each saturated server, by queries
    for repetition in range(1, repetitions + 1):
        for words, load, questions, rate in steps:
            for server in subjects:
                limit = limits.get((server.name, questions.name), rate)
                with around() as more:
                    result = (
                        measure(server, load, questions, rate)
                        if limit >= rate
                        else _beyond(limit, rate)
                    )
                result |= more
                if not rate and result["cpu_us"]:
                    limits[server.name, questions.name] = max(result["qps"], 1e6 / result["cpu_us"])
                cases[server.name, words].repetitions.append(result)
                say(f"  {part} {repetition}/{repetitions} {server.name} · {words}: {told(result)}")
    return list(cases.values())


def _beyond(limit: float, rate: int) -> dict[str, Any]:
    """Return a skipped repetition, for a rate beyond a server's capacity, which would only measure
    queues."""
    void = f"skipped: the capacity of this core is {limit:,.0f} per second"
    return {"rate": rate, "cpu_us": None, "qps": 0.0, "saturated": "", "void": void}


def told(result: dict[str, Any]) -> str:
    """Return a repetition as one line."""
    cpu = f"{result['cpu_us']:.1f} µs, " if result["cpu_us"] else ""
    return f"{cpu}{result['qps']:,.0f} per second" + (
        f" VOID: {result['void']}" if result["void"] else ""
    )
