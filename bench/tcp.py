"""TCP on connections that are kept: one question at a time on many, and many in flight on a few."""

from __future__ import annotations

from pathlib import Path

from bench import servers, zones
from bench.loads import Loads
from bench.results import Case
from bench.udp import alternate


def run(directory: Path, *, seconds: float, repetitions: int) -> list[Case]:
    """Measure ours. Raises Missing without dnsperf."""
    apps = zones.apps(zones.first_zone())
    loads = Loads(directory, seconds)
    # dnsperf counts what is outstanding over all connections together.
    one = loads.dnsperf(apps, tcp=True, connections=100, window=100)
    many = loads.dnsperf(apps, tcp=True, connections=20, window=1_000)
    steps = [
        ("100 connections, about 1 in flight on each", one, apps, 0),
        ("20 connections, about 50 in flight on each", many, apps, 0),
    ]
    catalog = directory / "tcp.db"
    zones.make_catalog(catalog, zones.APPS * zones.MACHINES_PER_APP)
    with servers.ours(catalog, directory) as server:
        loads.warm_up(apps, server, tcp=True)
        return alternate("tcp", [server], steps, repetitions)
