"""The peers, which are other servers with equal records, measured on the same core with the same
queries, in turn in one run.

Their configurations are bench/peers/*.conf, templates with $port, $directory, $zone and further
values per peer. A peer that is not available or does not start is skipped with its reason.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Final

from bench import servers, zones
from bench.servers import Server
from bench.tools import Missing, Skipped, program
from bench.zones import Zone

CONFIGURATIONS: Final = Path(__file__).with_name("peers")
PDNS_SCHEMA: Final = Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql")
SOA: Final = "_dns.internal. hostmaster.internal. 1 5 5 5 1"
TTL: Final = 5
LONG_TTL: Final = 3_600  # of the zone behind a cache, so that only the cache is measured

Prepare = Callable[[Path, Zone, int], Path]
"""Writes the records with a TTL; returns the value of $zone."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server: its package, its start command, and how its records are written."""

    name: str
    program: str
    packages: tuple[str, ...]
    configuration: str  # name of the template in bench/peers, copied into the peer's directory
    words: tuple[str, ...]
    prepare: Prepare
    values: Mapping[str, str] = field(default_factory=dict)
    behind: str = ""  # the peer whose port is $backend
    short: bool = False  # measured in a short run, too


def authoritative(
    directory: Path, zone: Zone, stack: ExitStack, skipped: Skipped, *, short: bool
) -> list[Server]:
    """Start the installed peers; record the others as skipped."""
    wanted = [peer for peer in PEERS if peer.short or not short]
    return _all_started(wanted, directory, zone, {}, stack, skipped)


def forwarders(directory: Path, upstream: int, stack: ExitStack, skipped: Skipped) -> list[Server]:
    """Start the installed forwarders with the upstream on port *upstream*; record the others."""
    return _all_started(FORWARDERS, directory, {}, {"upstream": str(upstream)}, stack, skipped)


def named(
    name: str, directory: Path, zone: Zone, stack: ExitStack, skipped: Skipped
) -> list[Server]:
    """Start one peer, if it is installed."""
    return _all_started(
        [peer for peer in PEERS if peer.name == name], directory, zone, {}, stack, skipped
    )


def _all_started(
    wanted: Iterable[Peer],
    directory: Path,
    zone: Zone,
    values: Mapping[str, str],
    stack: ExitStack,
    skipped: Skipped,
) -> list[Server]:
    found = []
    for peer in wanted:
        try:
            found.append(stack.enter_context(_started(peer, directory, zone, values, stack)))
        except Missing as reason:
            skipped.add(f"peer {peer.name}", reason)
    return found


def _started(
    peer: Peer,
    parent: Path,
    zone: Zone,
    values: Mapping[str, str],
    stack: ExitStack,
    ttl: int = TTL,
) -> Server:
    """Start *peer* on a high port of ::1 and wait until it answers. Raises Missing."""
    path = program(peer.program, *peer.packages)
    parent.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{peer.program}-", dir=parent))
    directory.chmod(0o755)  # some drop root
    filled = dict(values)
    if peer.behind:
        backend = next(other for other in PEERS if other.name == peer.behind)
        server = stack.enter_context(_started(backend, directory, zone, {}, stack, LONG_TTL))
        filled["backend"] = str(server.port)
    port = servers.free_port()
    place = {
        "port": str(port),
        "directory": str(directory),
        "zone": str(peer.prepare(directory, zone, ttl)),
    }
    filled |= place | dict(peer.values)
    template = Template((CONFIGURATIONS / peer.configuration).read_text())
    written = directory / _configuration_name(peer)
    written.write_text(template.substitute(filled))
    words = (path, *(Template(word).substitute(filled) for word in peer.words))
    server = Server(peer.name, words, directory, port=port)
    name, count = ("app-1.internal", zones.MACHINES_PER_APP) if zone else ("name.example", 1)
    server.wait_for_answer(name, count)
    return server


def _configuration_name(peer: Peer) -> str:
    """Return the name of the configuration file, which two programs fix themselves."""
    return {"gdnsd": "config", "pdns_server": "pdns.conf"}.get(peer.program, peer.configuration)


def _nothing(directory: Path, zone: Zone, ttl: int) -> Path:
    return directory


def _zone_file(directory: Path, zone: Zone, ttl: int, name: str = "internal.zone") -> Path:
    """Write the records as a master file (RFC 1035)."""
    path = directory / name
    with path.open("w") as file:
        file.write(
            f"$TTL {ttl}\n$ORIGIN internal.\n@ SOA {SOA}\n@ NS _dns.internal.\n_dns AAAA fdaa::3\n"
        )
        file.writelines(f"{owner} {qtype} {rdata}\n" for owner, qtype, rdata in _records(zone))
    return path


def _gdnsd_zones(directory: Path, zone: Zone, ttl: int) -> Path:
    for name in ("zones", "run", "state"):
        (directory / name).mkdir()
    return _zone_file(directory / "zones", zone, ttl, "internal")


def _local_data(directory: Path, zone: Zone, ttl: int) -> Path:
    """Write the records as Unbound's local data."""
    path = directory / "local-data"
    with path.open("w") as file:
        file.write(f"local-data: 'internal. {ttl} SOA {SOA}'\n")
        file.writelines(
            f"local-data: '{owner}.internal. {ttl} {t} {rdata}'\n"
            for owner, t, rdata in _records(zone)
        )
    return path


def _hosts(directory: Path, zone: Zone, ttl: int) -> Path:
    """Write the addresses as a hosts file; return the TXT records as settings of dnsmasq."""
    path, texts = directory / "texts", []
    with (directory / "hosts").open("w") as file:
        for owner, qtype, rdata in _records(zone):
            if qtype == "AAAA":
                file.write(f"{rdata} {owner}.internal\n")
            else:
                texts.append(f"txt-record={owner}.internal,{rdata}\n")
    path.write_text("".join(texts))
    return path


def _pdns_database(directory: Path, zone: Zone, ttl: int) -> Path:
    """Fill PowerDNS's own schema with the records."""
    if not PDNS_SCHEMA.exists():
        raise Missing(f"{PDNS_SCHEMA} is not there")
    path = directory / "pdns.db"
    connection = sqlite3.connect(path)
    try:
        connection.executescript(PDNS_SCHEMA.read_text())
        connection.execute("INSERT INTO domains (id, name, type) VALUES (1, 'internal', 'NATIVE')")
        apex = [("internal", "SOA", SOA.replace(". ", " ")), ("internal", "NS", "_dns.internal")]
        below = ((f"{owner}.internal", qtype, rdata) for owner, qtype, rdata in _records(zone))
        columns = "domain_id, name, type, content, ttl, auth"
        insert = f"INSERT INTO records ({columns}) VALUES (1, ?, ?, ?, {ttl}, 1)"
        connection.executemany(insert, (*apex, ("_dns.internal", "AAAA", "fdaa::3"), *below))
        connection.commit()
    finally:
        connection.close()
    return path


def _records(zone: Zone) -> list[tuple[str, str, str]]:
    return sorted(set(zones.records(zone)))


_PDNS: Final = ("pdns-server", "pdns-backend-sqlite3")
_NO_CACHES: Final = (
    "cache-ttl=0\nquery-cache-ttl=0\nnegquery-cache-ttl=0\nzone-cache-refresh-interval=0"
)
PEERS: Final = (
    Peer(
        "NSD",
        "nsd",
        ("nsd",),
        "nsd.conf",
        ("-d", "-c", "$directory/nsd.conf"),
        _zone_file,
        short=True,
    ),
    Peer(
        "Knot",
        "knotd",
        ("knot",),
        "knot.conf",
        ("-c", "$directory/knot.conf"),
        _zone_file,
        short=True,
    ),
    Peer(
        "gdnsd",
        "gdnsd",
        ("gdnsd",),
        "gdnsd.conf",
        ("-c", "$directory", "start"),
        _gdnsd_zones,
        short=True,
    ),
    Peer(
        "PowerDNS",
        "pdns_server",
        _PDNS,
        "pdns.conf",
        ("--config-dir=$directory",),
        _pdns_database,
        {"caches": ""},
        short=True,
    ),
    Peer(
        "PowerDNS, all caches off",
        "pdns_server",
        _PDNS,
        "pdns.conf",
        ("--config-dir=$directory",),
        _pdns_database,
        {"caches": _NO_CACHES},
    ),
    Peer(
        "Unbound",
        "unbound",
        ("unbound",),
        "unbound.conf",
        ("-d", "-c", "$directory/unbound.conf"),
        _local_data,
    ),
    Peer(
        "BIND",
        "named",
        ("bind9",),
        "named.conf",
        ("-g", "-n", "1", "-c", "$directory/named.conf"),
        _zone_file,
    ),
    Peer(
        "dnsmasq",
        "dnsmasq",
        ("dnsmasq-base",),
        "dnsmasq.conf",
        ("--keep-in-foreground", "--conf-file=$directory/dnsmasq.conf"),
        _hosts,
    ),
    Peer(
        "dnsdist, packet cache",
        "dnsdist",
        ("dnsdist",),
        "dnsdist.conf",
        ("--supervised", "--disable-syslog", "--config", "$directory/dnsdist.conf"),
        _zone_file,
        behind="NSD",
    ),
)
FORWARDERS: Final = (
    Peer(
        "Unbound",
        "unbound",
        ("unbound",),
        "forward-unbound.conf",
        ("-d", "-c", "$directory/forward-unbound.conf"),
        _nothing,
    ),
    Peer(
        "dnsmasq",
        "dnsmasq",
        ("dnsmasq-base",),
        "forward-dnsmasq.conf",
        ("--keep-in-foreground", "--conf-file=$directory/forward-dnsmasq.conf"),
        _nothing,
    ),
    Peer(
        "dnsdist",
        "dnsdist",
        ("dnsdist",),
        "forward-dnsdist.conf",
        ("--supervised", "--disable-syslog", "--config", "$directory/forward-dnsdist.conf"),
        _nothing,
    ),
)
