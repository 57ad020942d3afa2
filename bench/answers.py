"""What the answer table does for names that are asked for the first time, and for many names.

    many names      distinct names, each asked once, then each once more: how many are repeated
    first           CPU of a name's first query over the socket, relative to the same query again
    after a commit  the same for names that were asked before, when one commit has changed them all
    after a start   the same for names that the previous process was asked for
    networks        the same saturated load from eight networks, relative to one network

The peers get the same passes. They have every name ready, so their first query is like any other.
"""

from __future__ import annotations

import re
import sqlite3
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench import peers, servers, zones
from bench.loads import Load, Loads, measure
from bench.network import SERVER, own_network, source
from bench.results import Case
from bench.servers import Server
from bench.tools import Missing, Skipped, say
from bench.zones import Questions, Zone

PEERS: Final = ("NSD", "Knot", "gdnsd")
FIRST_NETWORK: Final = 0x18
TABLE: Final = "internal_dns_answer_table"
NETWORKS: Final = 8
APPS_EACH: Final = 1_000  # per network, where there are several
HOT: Final = 10_000  # names that a commit changes, or that a process is asked for again
QUIET: Final = 1.0  # seconds in which the server notices a commit, or reads the list of its names
SETTLED: Final = 0.02  # of a core: the server does nothing of its own accord any more
PATIENCE: Final = 60  # seconds until then, at most


def run(directory: Path, *, seconds: float, short: bool, skipped: Skipped) -> list[Case]:
    """Measure all five. *short* asks fewer names, and no peer."""
    cases = _many_names(directory, 11_000 if short else 110_000)
    cases += _changes(directory)
    if not short:
        cases += _peers(directory, skipped)
    try:
        cases += _networks(directory, seconds)
    except Missing as reason:
        skipped.add("several networks", reason)
    return cases


def distinct(zone: Zone) -> Questions:
    """Return three different queries per app: its addresses, A, and one region's addresses."""
    asked = []
    for app, machines in zone.items():
        asked += [(f"{app}.internal", "AAAA"), (f"{app}.internal", "A")]
        asked.append((f"{machines[0].region}.{app}.internal", "AAAA"))
    return Questions(f"distinct-{len(asked)}", tuple(asked))


def addresses(zone: Zone, count: int) -> Questions:
    """Return the AAAA queries of the first *count* apps."""
    names = list(zone)[:count]
    return Questions(f"first-{count}", tuple((f"{app}.internal", "AAAA") for app in names))


def once(server: Server, load: Load) -> tuple[float, dict[str, Any]]:
    """Run *load*; return the server's CPU per answered query in µs, and what the generator tells.

    What the server does on its own in between is not counted: only the time of the load.
    """
    before = server.exact_cpu_seconds()
    told = load(server)
    used = server.exact_cpu_seconds() - before
    return used / max(told["answered"], 1) * 1e6, told


def settle(server: Server) -> None:
    """Wait until the server has noticed what has happened, and has done what follows from it."""
    time.sleep(QUIET)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        before = server.exact_cpu_seconds()
        time.sleep(0.25)
        if server.exact_cpu_seconds() - before < 0.25 * SETTLED:
            return


def void(told: dict[str, Any]) -> str:
    """Return why a pass is void; empty if it is not."""
    return f"{told['lost']} of {told['sent']} lost" if told["lost"] > told["sent"] / 200 else ""


def _many_names(directory: Path, apps: int) -> list[Case]:
    catalog = directory / f"many-{apps}.db"
    zones.make_catalog(catalog, apps * zones.MACHINES_PER_APP, apps)
    every = distinct(zones.first_zone(apps))
    loads, port = Loads(directory, 1.0), servers.free_port()
    count = len(every.asked)
    case = Case("answers", f"{count:,} names, each once and once more", [], "internal-dns", "many")
    with servers.ours(catalog, directory, admin=f"[::1]:{port}") as server:
        first, told = once(server, loads.sendmmsg(every, count=count))
        before = counters(port)
        again, more = once(server, loads.sendmmsg(every, count=count))
        after = counters(port)
        hits = (
            after["internal_dns_answer_table_hits_total"]
            - before["internal_dns_answer_table_hits_total"]
        )
        case.repetitions.append({
            "first_us": first,
            "repeat_us": again,
            "first_times": first / again,
            "repeated": 100 * hits / more["sent"],
            "entry_octets": after[f"{TABLE}_octets"] / after[f"{TABLE}_entries"],
            "rss_mib": server.status_mib("VmRSS"),
            "void": void(told) or void(more),
        })  # fmt: skip
    _say(case)
    return [case]


def counters(port: int) -> dict[str, float]:
    """Return the metrics that have no labels."""
    with urllib.request.urlopen(f"http://[::1]:{port}/metrics") as reply:
        text = reply.read().decode()
    return {name: float(n) for name, n in re.findall(r"(?m)^(\w+) ([\d.e+]+)$", text)}


def _changes(directory: Path) -> list[Case]:
    """Measure the first query of hot names after a commit, and after a restart."""
    catalog, state = directory / "hot.db", directory / "state"
    state.mkdir(exist_ok=True)
    zones.make_catalog(catalog, HOT * zones.MACHINES_PER_APP, HOT)
    hot = addresses(zones.first_zone(HOT), HOT)
    loads = Loads(directory, 1.0)
    ask = loads.sendmmsg(hot, count=HOT)
    environment = {"STATE_DIRECTORY": str(state)}
    commit = Case("answers", "hot names, first query after a commit", [], "internal-dns", "commit")
    start = Case("answers", "hot names, first query after a start", [], "internal-dns", "start")
    port = servers.free_port()
    for _ in range(3):
        with servers.ours(catalog, directory, port=port, environment=environment) as server:
            once(server, ask)
            again, told = once(server, ask)
            _commit_to_all(catalog)
            settle(server)
            first, more = once(server, ask)
            commit.repetitions.append(_ratio(first, again, told, more))
            once(server, ask)
        with servers.ours(catalog, directory, port=port, environment=environment) as server:
            settle(server)
            first, told = once(server, ask)
            again, more = once(server, ask)
            start.repetitions.append(_ratio(first, again, told, more))
    _say(commit)
    _say(start)
    return [commit, start]


def _ratio(
    first: float, again: float, told: dict[str, Any], more: dict[str, Any]
) -> dict[str, Any]:
    return {
        "first_us": first,
        "repeat_us": again,
        "first_times": first / again,
        "void": void(told) or void(more),
    }


def _commit_to_all(catalog: Path) -> None:
    """Change a machine of every app in one commit."""
    with sqlite3.connect(catalog) as connection:
        connection.execute(
            "UPDATE machines SET process_group = CASE process_group WHEN 'app' THEN 'web' "
            "ELSE 'app' END WHERE id IN (SELECT min(id) FROM machines GROUP BY network_id, app)"
        )


def _peers(directory: Path, skipped: Skipped) -> list[Case]:
    """Give the peers the same two passes over names that they have not been asked for."""
    cases = []
    zone = zones.first_zone(HOT)
    hot = addresses(zone, HOT)
    ask = Loads(directory, 1.0).sendmmsg(hot, count=HOT)
    for name in PEERS:
        with ExitStack() as stack:
            for server in peers.named(name, directory, zone, stack, skipped):
                first, told = once(server, ask)
                again, more = once(server, ask)
                case = Case("answers", f"{server.name}, first query", [], server.name, "first")
                case.repetitions.append(_ratio(first, again, told, more))
                cases.append(case)
                _say(case)
    return cases


def _networks(directory: Path, seconds: float) -> list[Case]:
    """Saturate from one network and from eight, in turn. Raises Missing without root."""
    networks = list(range(FIRST_NETWORK, FIRST_NETWORK + NETWORKS))
    catalog = directory / "networks.db"
    zones.make_catalog(catalog, NETWORKS * APPS_EACH * zones.MACHINES_PER_APP, APPS_EACH)
    asked = zones.apps(zones.first_zone(APPS_EACH))
    loads = Loads(directory, seconds)
    case = Case(
        "answers", f"{NETWORKS} networks at once, saturated", [], "internal-dns", "networks"
    )
    with (
        own_network(networks),
        servers.ours(
            catalog, directory, host=SERVER, source=source(FIRST_NETWORK), upstreams=["none"]
        ) as server,
    ):
        one = _alternating(loads, asked, [FIRST_NETWORK])
        eight = _alternating(loads, asked, networks)
        for network in networks:
            loads.sendmmsg(asked, sources=[source(network)], count=len(asked.asked))(server)
        for _ in range(3):
            alone, together = (measure(server, load, asked) for load in (one, eight))
            times = together["cpu_us"] / alone["cpu_us"]
            case.repetitions.append(together | {"networks_times": times, "one": alone})
    _say(case)
    return [case]


def _alternating(loads: Loads, asked: Questions, networks: Sequence[int]) -> Load:
    """Return the saturating load from so many networks, with as many sockets in either case."""
    sources = [source(network) for network in networks] * (NETWORKS // len(networks))
    return loads.sendmmsg(asked, sources=sources)


def _say(case: Case) -> None:
    if case.remark:
        say(f"  {case.name}: {case.remark}")
    for figure in ("first_us", "repeat_us", "first_times", "repeated", "entry_octets", "rss_mib",
                   "networks_times"):  # fmt: skip
        if spread := case.spread(figure):
            say(f"  {case.name}: {figure} {spread[0]:,.2f} ({spread[1]:,.2f} to {spread[2]:,.2f})")
