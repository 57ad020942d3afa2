"""What one network loses while another floods, in a network namespace, three times.

The flood is as fast as one core can send, up to ten times the server's capacity. With only two
cores, flood and victim share one; there the victim has priority, and sleeps between its queries.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench import peers, servers, zones
from bench.loads import Loads, measure
from bench.network import SERVER, kernel_drops, own_network, source
from bench.results import Case
from bench.servers import Server
from bench.tools import Missing, Skipped, say
from bench.zones import Questions, Zone

FLOODER: Final = 0x18
# A queue is chosen by the network modulo 8.
VICTIMS: Final = (("another queue", 0x19), ("the same queue", 0x20))
RATE: Final = 1_000  # questions per second of the victim
TIMES: Final = 10  # rate of the flood relative to the server's capacity, if the generator can
APPS: Final = 1_000  # per network
PEERS: Final = ("NSD", "Knot")  # each has one queue for all networks


def run(directory: Path, *, seconds: float, repetitions: int, skipped: Skipped) -> list[Case]:
    """Measure internal-dns on both paths, and two peers. Raises Missing without root."""
    catalog = directory / "flood.db"
    networks = [FLOODER, *(network for _, network in VICTIMS)]
    every = range(FLOODER, max(networks) + 1)
    zones.make_catalog(catalog, len(every) * APPS * zones.MACHINES_PER_APP, APPS)
    zone = zones.first_zone(APPS)
    loads = Loads(directory, max(seconds, 2.0))
    cases: list[Case] = []
    with own_network(networks):
        for path in servers.PATHS:
            name = f"internal-dns, {path} path"
            try:
                made = servers.ours(
                    catalog,
                    directory,
                    path=path,
                    name=name,
                    host=SERVER,
                    source=source(FLOODER),
                    upstreams=["none"],
                )
            except Missing as reason:
                skipped.add(f"flood of {name}", reason)
                continue
            with made as server:
                cases += _flood(server, zone, loads, repetitions)
        for name in PEERS:
            with ExitStack() as stack:
                for server in peers.named(name, directory, zone, stack, skipped):
                    cases += _flood(server, zone, loads, repetitions)
    return cases


def _flood(server: Server, zone: Zone, loads: Loads, repetitions: int) -> list[Case]:
    """Measure known and new names, with the victim in another queue and in the same one."""
    known, new = zones.apps(zone), zones.internal_new()
    cases = []
    kinds: tuple[tuple[str, Questions, bool], ...] = (
        ("known names", known, False),
        ("random names", new, True),
    )
    for kind, questions, unique in kinds:
        saturate = loads.sendmmsg(questions, unique=unique, sources=[source(FLOODER)])
        # Computed from the CPU per query, so that other programs do not shrink the flood.
        capacity = 1e6 / measure(server, saturate, questions)["cpu_us"]
        # The peers have one queue, so the network does not matter.
        for words, network in VICTIMS if server.host == SERVER else VICTIMS[1:]:
            case = Case(
                "flood",
                f"{server.name} · flood of {kind}, victim in {words}",
                [],
                server.name,
                f"{kind}, {words}",
            )
            cases.append(case)
            ask = loads.sendmmsg(known, RATE, asleep=True, sources=[source(network)])
            measure(server, ask, known, RATE)  # fills the answer table
            for _ in range(repetitions):
                generator = loads.generator(deaf=True, unique=unique, sources=[source(FLOODER)])
                with loads.beside(
                    generator, questions, server, round(TIMES * capacity), loads.seconds + 1.5
                ) as told:
                    time.sleep(0.5)
                    before = kernel_drops()
                    result = measure(server, ask, known, RATE, max_loss=100)
                    drops = {name: count - before[name] for name, count in kernel_drops().items()}
                case.repetitions.append(_told(result, told, capacity) | drops)
                said = case.repetitions[-1]
                say(
                    f"  {case.name}: lost {said['loss']:.2f} %, p99 {said['p99_us']:,.0f} µs, "
                    f"flood {said['flood_qps']:,.0f} per second = {said['flood_times']:.1f} × "
                    f"{capacity:,.0f}"
                )
    return cases


def _told(result: dict[str, Any], flood: dict[str, Any], capacity: float) -> dict[str, Any]:
    sent = flood["sent"] / flood["seconds"]
    times = sent / capacity
    note = "" if times > 0.9 * TIMES else f"this core sends no more: not {TIMES} ×"
    return result | {
        "cpu_us": None,  # mostly spent on the flood
        "qps": None,
        "capacity": capacity,
        "flood_qps": sent,
        "flood_times": times,
        "note": note,
    }
