"""The data and the queries: one catalog for internal-dns, the same records as a zone for others,
and seeded queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from struct import pack
from typing import Final

from internal_dns.store.generate import create_catalog, sized_rows

APPS: Final = 10_000
MACHINES_PER_APP: Final = 3
NETWORK: Final = "fdaa:0:18::/48"  # of all apps, if there are at most APPS
QUESTIONS: Final = 100_000
SEED: Final = 1
# Wire format, written here so that nothing is shared with the measured server.
TYPES: Final = {"A": 1, "PTR": 12, "TXT": 16, "AAAA": 28, "SRV": 33}


@dataclass(frozen=True, slots=True)
class Machine:
    """A started machine, with the fields that its names need."""

    id: str
    address: str
    region: str


Zone = dict[str, list[Machine]]  # by app


def make_catalog(path: Path, machines: int, apps: int = APPS) -> None:
    """Write a catalog of *machines* started machines, 3 per app, *apps* apps per network."""
    create_catalog(
        path,
        sized_rows(machines, SEED, apps, machines_per_app=MACHINES_PER_APP, started=1),
        replace=True,
    )


def first_zone(apps: int = APPS) -> Zone:
    """Return the records of the first network of such a catalog."""
    zone: Zone = defaultdict(list)
    rows = sized_rows(
        apps * MACHINES_PER_APP, SEED, apps, machines_per_app=MACHINES_PER_APP, started=1
    )
    for identifier, _, app, address, region, *_ in rows["machines"]:
        zone[str(app)].append(Machine(str(identifier), str(address), str(region)))
    return zone


def records(zone: Zone) -> Iterator[tuple[str, str, str]]:
    """Yield the queried records as (owner below internal, type, rdata as text)."""
    for app, machines in zone.items():
        for machine in machines:
            yield app, "AAAA", machine.address
            yield f"{machine.region}.{app}", "AAAA", machine.address
        yield f"regions.{app}", "TXT", f'"{",".join(sorted({m.region for m in machines}))}"'
        listed = sorted(machines, key=lambda m: m.id)
        yield f"vms.{app}", "TXT", f'"{",".join(f"{m.id} {m.region}" for m in listed)}"'


@dataclass(frozen=True, slots=True)
class Questions:
    """Queries in order, and the share of them that must return NXDOMAIN."""

    name: str
    asked: tuple[tuple[str, str], ...]
    nxdomain: float = 0.0

    def as_text(self, directory: Path) -> Path:
        """Write the query file of dnsperf."""
        path = directory / f"{self.name}.txt"
        if not path.exists():
            path.write_text("".join(f"{name} {qtype}\n" for name, qtype in self.asked))
        return path

    def as_octets(self, directory: Path) -> Path:
        """Write the query file of sendmmsg.c."""
        path = directory / f"{self.name}.octets"
        if not path.exists():
            queries = (query(name, qtype) for name, qtype in self.asked)
            path.write_bytes(b"".join(pack("!H", len(octets)) + octets for octets in queries))
        return path


def apps(zone: Zone) -> Questions:
    """Return random existing apps."""
    random, names = Random(SEED), list(zone)
    return Questions(
        "apps", tuple((f"{random.choice(names)}.internal", "AAAA") for _ in range(QUESTIONS))
    )


def mixed(zone: Zone) -> Questions:
    """Return 70 % app, 15 % region of an app, 10 % NXDOMAIN, 5 % TXT."""
    random, names = Random(SEED), list(zone)
    asked, missing = [], 0
    for _ in range(QUESTIONS):
        app, draw = random.choice(names), random.random()
        if draw < 0.70:
            asked.append((f"{app}.internal", "AAAA"))
        elif draw < 0.85:
            asked.append((f"{random.choice(zone[app]).region}.{app}.internal", "AAAA"))
        elif draw < 0.95:
            asked.append((f"no-{random.randrange(APPS)}.internal", "AAAA"))
            missing += 1
        else:
            asked.append((f"{random.choice(('regions', 'vms'))}.{app}.internal", "TXT"))
    return Questions("mixed", tuple(asked), missing / len(asked))


def external(count: int) -> Questions:
    """Return *count* external names, in turn."""
    return Questions(
        f"external-{count}", tuple((f"name-{n}.example.com", "AAAA") for n in range(count))
    )


def external_new() -> Questions:
    """Return an external name. The generator rewrites its first ten letters each time."""
    return Questions("external-new", (("0123456789.example.com", "AAAA"),))


def internal_new() -> Questions:
    """Return an internal name that no network has, rewritten by the generator as above."""
    return Questions("internal-new", (("0123456789.internal", "AAAA"),), 1.0)


def query(name: str, qtype: str, identifier: int = 0) -> bytes:
    """Return a plain query: RD, one question, no EDNS."""
    labels = (label.encode() for label in name.rstrip(".").split("."))
    qname = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return pack("!6H", identifier, 0x0100, 1, 0, 0, 0) + qname + pack("!2H", TYPES[qtype], 1)
