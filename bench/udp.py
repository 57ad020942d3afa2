"""UDP on one core: saturated, at fixed rates, and with mixed questions; a listener of one address and the wildcard."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from bench import servers, zones
from bench.loads import Loads, Step, measure, plan
from bench.results import Case
from bench.servers import Server
from bench.tools import Skipped, say

RATES = (20_000, 60_000)


def run(directory: Path, *, seconds: float, repetitions: int, skipped: Skipped) -> list[Case]:
    """Measure ours. Raises Missing without dnsperf."""
    zone = zones.first_zone()
    apps, mixed = zones.apps(zone), zones.mixed(zone)
    loads = Loads(directory, seconds)
    steps = plan(
        (
            ("saturated by dnsperf", lambda: loads.dnsperf(apps), apps, 0),
            ("saturated by sendmmsg", lambda: loads.sendmmsg(apps), apps, 0),
            *((f"{rate:,} a second", partial(loads.sendmmsg, apps, rate), apps, rate) for rate in RATES),
            ("mixed, saturated by sendmmsg", lambda: loads.sendmmsg(mixed), mixed, 0),
            ("mixed, 60,000 a second", lambda: loads.sendmmsg(mixed, RATES[-1]), mixed, RATES[-1]),
        ),
        skipped,
    )
    catalog = directory / "apps.db"
    zones.make_catalog(catalog, zones.APPS * zones.MACHINES_PER_APP)
    with ExitStack() as stack:
        subjects = [stack.enter_context(servers.ours(catalog, directory, wildcard=w)) for w in (False, True)]
        for server in subjects:
            loads.warm_up(apps, server)
            loads.warm_up(mixed, server)
        return alternate("udp", subjects, steps, repetitions)


def alternate(part: str, subjects: Sequence[Server], steps: Sequence[Step], repetitions: int) -> list[Case]:
    """Run every load on every subject in turn, and all that again: A B A B, so that a slow minute hits all alike."""
    cases = {(s.name, words): Case(part, f"{s.name} · {words}") for s in subjects for words, *_ in steps}
    for repetition in range(1, repetitions + 1):
        for words, load, questions, rate in steps:
            for server in subjects:
                result = measure(server, load, questions, rate)
                cases[server.name, words].repetitions.append(result)
                say(f"  {part} {repetition}/{repetitions} {server.name} · {words}: {_told(result)}")
    return list(cases.values())


def _told(result: dict[str, Any]) -> str:
    cpu = f"{result['cpu_us']:.1f} µs, " if result["cpu_us"] else ""
    return f"{cpu}{result['qps']:,.0f} qps" + (f" VOID: {result['void']}" if result["void"] else "")
