"""Ours beside NSD, Knot, gdnsd and PowerDNS: equal records, the same core and questions, in turn in one run.

Their configurations are bench/peers/*.conf, templates for $port, $directory and $zone. A peer that cannot be had or
does not start is named with its reason; the others are measured.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from bench import servers, zones
from bench.loads import Loads, plan
from bench.results import Case
from bench.servers import Server
from bench.tools import Missing, Skipped, program
from bench.udp import alternate
from bench.zones import Zone

CONFIGURATIONS: Final = Path(__file__).with_name("peers")
PDNS_SCHEMA: Final = Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql")
SOA: Final = "_dns.internal. hostmaster.internal. 1 5 5 5 1"
TTL: Final = 5


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server: where it comes from, how it is started, and how its zone gets in place."""

    name: str
    program: str
    packages: tuple[str, ...]
    configuration: str  # the file of that name is read from bench/peers and written into the peer's directory
    words: tuple[str, ...]
    prepare: Callable[[Path, Zone], Path]  # returns what $zone stands for


def run(directory: Path, *, seconds: float, repetitions: int, short: bool, skipped: Skipped) -> list[Case]:
    """Measure ours and the peers that are here; *short* leaves out two loads. Raises Missing without dnsperf."""
    zone = zones.first_zone()
    apps, mixed = zones.apps(zone), zones.mixed(zone)
    loads = Loads(directory, seconds)
    longer = (
        ("saturated by dnsperf", lambda: loads.dnsperf(apps), apps, 0),
        ("20,000 a second", lambda: loads.sendmmsg(apps, 20_000), apps, 20_000),
    )
    steps = plan(
        (
            ("saturated by sendmmsg", lambda: loads.sendmmsg(apps), apps, 0),
            ("60,000 a second", lambda: loads.sendmmsg(apps, 60_000), apps, 60_000),
            ("mixed, saturated by sendmmsg", lambda: loads.sendmmsg(mixed), mixed, 0),
            *(() if short else longer),
        ),
        skipped,
    )
    catalog = directory / "peers.db"
    zones.make_catalog(catalog, zones.APPS * zones.MACHINES_PER_APP)
    with ExitStack() as stack:
        subjects = [stack.enter_context(servers.ours(catalog, directory))]
        for peer in PEERS:
            try:
                subjects.append(stack.enter_context(_started(peer, directory, zone)))
            except Missing as reason:
                skipped.add(f"peer {peer.name}", reason)
        for server in subjects:
            loads.warm_up(apps, server)
            loads.warm_up(mixed, server)
        return alternate("peers", subjects, steps, repetitions)


def _started(peer: Peer, parent: Path, zone: Zone) -> Server:
    """Start *peer* on a high port of ::1 and wait until it answers."""
    path = program(peer.program, *peer.packages)
    directory = parent / peer.program
    directory.mkdir()
    port, zone_file = servers.free_port(), peer.prepare(directory, zone)
    values = {"port": str(port), "directory": str(directory), "zone": str(zone_file)}
    template = Template((CONFIGURATIONS / peer.configuration).read_text())
    written = directory / ("config" if peer.program == "gdnsd" else peer.configuration)
    written.write_text(template.substitute(values))
    words = (path, *(Template(word).substitute(values) for word in peer.words))
    server = Server(peer.name, words, directory, port=port)
    server.wait_for_answer("app-1.internal", zones.MACHINES_PER_APP)
    return server


def _zone_file(directory: Path, zone: Zone, name: str = "internal.zone") -> Path:
    """Write the records as a master file (RFC 1035)."""
    path = directory / name
    with path.open("w") as file:
        file.write(f"$TTL {TTL}\n$ORIGIN internal.\n@ SOA {SOA}\n@ NS _dns.internal.\n_dns AAAA fdaa::3\n")
        file.writelines(f"{owner} {qtype} {rdata}\n" for owner, qtype, rdata in sorted(set(zones.records(zone))))
    return path


def _gdnsd_zones(directory: Path, zone: Zone) -> Path:
    for name in ("zones", "run", "state"):
        (directory / name).mkdir()
    return _zone_file(directory / "zones", zone, "internal")


def _pdns_database(directory: Path, zone: Zone) -> Path:
    """Fill PowerDNS's own schema with the records."""
    if not PDNS_SCHEMA.exists():
        raise Missing(f"{PDNS_SCHEMA} is not there")
    path = directory / "pdns.db"
    connection = sqlite3.connect(path)
    try:
        connection.executescript(PDNS_SCHEMA.read_text())
        connection.execute("INSERT INTO domains (id, name, type) VALUES (1, 'internal', 'NATIVE')")
        apex = [("internal", "SOA", SOA.replace(". ", " ")), ("internal", "NS", "_dns.internal")]
        below = ((f"{owner}.internal", qtype, rdata) for owner, qtype, rdata in sorted(set(zones.records(zone))))
        insert = f"INSERT INTO records (domain_id, name, type, content, ttl, auth) VALUES (1, ?, ?, ?, {TTL}, 1)"
        connection.executemany(insert, (*apex, ("_dns.internal", "AAAA", "fdaa::3"), *below))
        connection.commit()
    finally:
        connection.close()
    return path


PEERS: Final = (
    Peer("NSD", "nsd", ("nsd",), "nsd.conf", ("-d", "-c", "$directory/nsd.conf"), _zone_file),
    Peer("Knot", "knotd", ("knot",), "knot.conf", ("-c", "$directory/knot.conf"), _zone_file),
    Peer("gdnsd", "gdnsd", ("gdnsd",), "gdnsd.conf", ("-c", "$directory", "start"), _gdnsd_zones),
    Peer(
        "PowerDNS", "pdns_server", ("pdns-server", "pdns-backend-sqlite3"), "pdns.conf",
        ("--config-dir=$directory",), _pdns_database,
    ),
)  # fmt: skip
