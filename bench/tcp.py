"""TCP on persistent connections: one query at a time on many, and many in flight on a few."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import peers, servers, zones
from bench.loads import Loads
from bench.results import Case
from bench.tools import Skipped
from bench.udp import alternate

PEERS: Final = ("Knot", "NSD", "gdnsd")


def run(
    directory: Path, *, seconds: float, repetitions: int, short: bool, skipped: Skipped
) -> list[Case]:
    """Measure internal-dns and, unless *short*, the peers. Raises Missing without dnsperf."""
    zone = zones.first_zone()
    apps = zones.apps(zone)
    loads = Loads(directory, seconds)
    # dnsperf limits the outstanding queries over all connections together.
    one = loads.dnsperf(apps, tcp=True, connections=100, window=100)
    many = loads.dnsperf(apps, tcp=True, connections=20, window=1_000)
    steps = [
        ("100 connections, about 1 in flight on each", one, apps, 0),
        ("20 connections, about 50 in flight on each", many, apps, 0),
    ]
    catalog = directory / "tcp.db"
    zones.make_catalog(catalog, zones.APPS * zones.MACHINES_PER_APP)
    with ExitStack() as stack:
        subjects = [stack.enter_context(servers.ours(catalog, directory, name="internal-dns"))]
        for name in () if short else PEERS:
            subjects += peers.named(name, directory, zone, stack, skipped)
        for server in subjects:
            loads.warm_up(apps, server, tcp=True)
        return alternate("tcp", subjects, steps, repetitions)
