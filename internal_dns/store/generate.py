"""Make catalogs: the demo, and catalogs of any size for benches.

The fields of an address:

    fdaa   : 0:18    : a7b:7d : f066:b83b : 2       the machine in the docs, on acme's network 0x18
    prefix   network   host     machine     free
    16       32        32       32          16      bits
    |--- /48: network -|
    |--- /112: the machine --------------|          its peer is the /120 of ...:f066:b83b:102

The machine bits of every other machine of the demo are `<number of the app>:<number of the
machine>`: `fdaa:0:18:a7b:91:1:3:2` is on network acme and host ams-1, first app, third machine.

    network       app       what it shows
    0x18 acme     web       groups web and worker, every state, one machine that skips registration
                  db        a leader and two replicas, told apart by metadata
                  batch     stopped machines only, and a flycast that still answers
                  blog      a row in apps and no machine
    0x19 globex   web       another tenant's app of the same name, in part on the same hosts
                  resolver  one service over both udp and tcp
    0x1a initech  render    60 machines: more than fits in a small message

Flycast `db` answers on globex too, where `db.internal` does not exist.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from random import Random
from socket import AF_INET6, inet_ntop
from struct import pack
from typing import Final

from internal_dns.store.schema import TABLES

_HERE: Final = Path(__file__).parent

Value = int | float | str | None
Row = tuple[Value, ...]
Rows = dict[str, Iterable[Row]]
"""Rows by table, in the column order of schema.sql; columns that a short row omits have their
default."""

Progress = Callable[[str, int], None]
"""Called as progress(table, rows of it so far)."""


def create_catalog(
    path: str | Path,
    rows: Mapping[str, Iterable[Row]],
    progress: Progress | None = None,
    *,
    replace: bool = False,
) -> dict[str, int]:
    """Write *rows* as a new catalog at *path*; return the number of rows of each table.

    The file appears complete or not at all. Raises FileExistsError if *path* exists and *replace*
    is not set, OSError if its directory cannot be used, ValueError for an unknown table,
    sqlite3.Error for rows that SQLite rejects, and whatever iterating over *rows* raises. With
    *replace*, the caller must know that no other process owns the file.
    """
    path = Path(path)
    _refuse_existing(path, replace)
    path.parent.stat()  # SQLite would only report "unable to open database file"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        counts = _write(temporary, rows, progress)
        _refuse_existing(path, replace)
        put_in_place(temporary, path)
    finally:
        for file in (temporary, *_companions(temporary)):
            file.unlink(missing_ok=True)
    return counts


def _write(
    path: Path, rows: Mapping[str, Iterable[Row]], progress: Progress | None
) -> dict[str, int]:
    # Readable by its owner only, whatever the umask; SQLite gives -wal and -shm the same mode.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # No other process sees this file yet, and a failed one is deleted: a rollback journal would
        # only write everything twice.
        connection.execute("PRAGMA journal_mode = OFF")
        # Machine ids come in random order; 64 MiB keep the index of a million of them off the disk.
        connection.execute("PRAGMA cache_size = -65536")
        schema = (_HERE.parent / "schema.sql").read_text("utf-8")
        connection.executescript(f"BEGIN; {schema}")
        counts = {
            table: _insert(connection, table, of_table, progress)
            for table, of_table in rows.items()
        }
        # After the rows: the initial rows are not a change. The first revision is 1.
        journal = (_HERE / "journal.sql").read_text("utf-8")
        connection.execute("COMMIT")
        connection.executescript(
            f"BEGIN; {journal}; INSERT INTO journal (kind) VALUES ('places'); COMMIT;"
        )
        connection.execute("PRAGMA journal_mode = WAL")  # stays in the file's header
    finally:
        connection.close()
    return counts


def _insert(
    connection: sqlite3.Connection, table: str, rows: Iterable[Row], progress: Progress | None
) -> int:
    if table not in TABLES:
        raise ValueError(f"schema.sql has no table {table!r}")
    batch = 10_000  # about 50 ms of work: smooth for a progress bar
    remaining, count, added = iter(rows), 0, batch
    some = [*islice(remaining, 1)]
    # Columns that a short row omits have their default.
    columns = TABLES[table][: len(some[0])] if some else TABLES[table]
    places = ", ".join("?" * max(map(len, (columns, *some))))
    insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
    remaining = chain(some, remaining)
    while added == batch:
        added = connection.executemany(insert, islice(remaining, batch)).rowcount
        count += added
        if progress is not None:
            progress(table, count)
    return count


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename *temporary*, which no process has open, to *path*."""
    left = [file for file in _companions(path) if file.exists()]
    if left:
        # SQLite would replay the old file's -wal into the new one. The old file goes first, because
        # it must not be opened without its -wal either. For that moment the catalog is missing,
        # which every reader must tolerate.
        path.unlink(missing_ok=True)
        for file in left:
            file.unlink(missing_ok=True)
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _companions(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal")]


def _refuse_existing(path: Path, replace: bool) -> None:
    if os.path.lexists(path) and not replace:
        raise FileExistsError(f"{path} already exists")


def _address(network: int, host: int, machine: int, free: int = 2) -> str:
    return inet_ntop(AF_INET6, pack("!HIIIH", 0xFDAA, network, host, machine, free))


def _flycast(network: int, number: int) -> str:
    # Fly.io's form: fdaa:0:18:0:1::2; no host has id 1.
    return _address(network, 1, 0, number)


def _machine_id(start: int, number: int) -> str:
    # An odd step modulo 2**56 does not repeat within 2**56 numbers; the golden ratio makes the ids
    # look random.
    return f"{(start + number * 0x9E3779B97F4A7D) % 2**56:014x}"


# ── regions and latency, in both kinds of catalog ─────────────────────────────────────────────────

# code, name, latitude, longitude, gateway
_REGIONS: tuple[Row, ...] = (
    ("ams", "Amsterdam, Netherlands", 52.31, 4.76, 1),
    ("gru", "Sao Paulo, Brazil", -23.43, -46.47, 1),
    ("iad", "Ashburn, Virginia (US)", 38.94, -77.46, 1),
    ("lhr", "London, United Kingdom", 51.47, -0.45, 0),  # no machine of the demo is here
    ("nrt", "Tokyo, Japan", 35.76, 140.39, 1),
    ("ord", "Chicago, Illinois (US)", 41.98, -87.9, 0),
    ("syd", "Sydney, Australia", -33.95, 151.18, 0),
)

# Some pairs, one direction each: the other direction and the great circle stand in for the rest.
# From Tokyo, Amsterdam is nearer than Ashburn on the globe, and farther by cable.
_LATENCIES: tuple[Row, ...] = (
    ("iad", "ord", 17.5),
    ("iad", "ams", 82.0),
    ("iad", "gru", 115.0),
    ("iad", "nrt", 160.0),
    ("ams", "nrt", 235.0),
    ("ams", "gru", 190.0),
    ("nrt", "syd", 105.0),
)

_TIME = 1_767_225_600  # 2026-01-01 UTC: a fixed time, so that the same call makes the same rows


# ── the demo ──────────────────────────────────────────────────────────────────────────────────────

_ACME, _GLOBEX, _INITECH = 0x18, 0x19, 0x1A  # acme is lowest: dev mode maps loopback to it

_HOSTS = {
    "iad-1": (0x0A7B_007D, "iad"),
    "iad-2": (0x0A7B_007E, "iad"),
    "ord-1": (0x0A7B_0081, "ord"),
    "ams-1": (0x0A7B_0091, "ams"),
    "nrt-1": (0x0A7B_00A1, "nrt"),
    "syd-1": (0x0A7B_00B1, "syd"),
    "gru-1": (0x0A7B_00C1, "gru"),
}

_DOCUMENTS_MACHINE = 0xF066_B83B


def demo_rows() -> Rows:
    """Return the rows of the demo: three networks, seven apps, 80 machines, five peers."""
    return {
        "organizations": [
            ("acme", "Acme Corporation"),
            ("globex", "Globex Corporation"),
            ("initech", "Initech"),
        ],
        "networks": [
            (_ACME, "acme", "acme"),
            (_GLOBEX, "globex", "globex"),
            (_INITECH, "initech", "initech"),
        ],
        "apps": [
            (_ACME, "web"),
            (_ACME, "db"),
            (_ACME, "batch"),
            (_ACME, "blog"),
            (_GLOBEX, "web"),
            (_GLOBEX, "resolver"),
            (_INITECH, "render"),
        ],
        "machines": _demo_machines(),
        "machine_metadata": [
            ("3d8d9930b03989", "version", "1.2.3"),
            ("5683d474b40d8e", "version", "1.2.3"),
            ("7811e63fd4de08", "version", "1.3.0-rc.1"),
            ("e2865013bd7d86", "version", "1.2.3"),
            ("148e306c77e789", "role", "Leader"),
            ("32874445f04218", "role", "Replica"),
            ("d891256b604e78", "role", "Replica"),
        ],
        "machine_services": [
            ("3d8d9930b03989", "http", "tcp", 8080),
            ("5683d474b40d8e", "http", "tcp", 8080),
            ("7811e63fd4de08", "http", "tcp", 8080),
            ("e2865013bd7d86", "http", "tcp", 8080),
            ("148e306c77e789", "postgres", "tcp", 5432),
            ("32874445f04218", "postgres", "tcp", 5432),
            ("d891256b604e78", "postgres", "tcp", 5432),
            ("080e325c719e87", "dns", "udp", 53),
            ("080e325c719e87", "dns", "tcp", 53),
            ("91857500c46483", "dns", "udp", 53),
            ("91857500c46483", "dns", "tcp", 53),
        ],
        "peers": [
            (
                _ACME,
                "alice-laptop",
                _address(_ACME, _HOSTS["iad-1"][0], _DOCUMENTS_MACHINE, 0x102),
                "",
            ),
            (_ACME, "bob-desktop", _address(_ACME, _HOSTS["ams-1"][0], 0x9_0001, 0x102), "ams"),
            (
                _ACME,
                "interactive-alice-7f3a",
                _address(_ACME, _HOSTS["iad-1"][0], 0x9_0002, 0x102),
                "iad",
            ),
            (
                _GLOBEX,
                "carol-laptop",
                _address(_GLOBEX, _HOSTS["gru-1"][0], 0x9_0001, 0x102),
                "gru",
            ),
            (
                _GLOBEX,
                "interactive-carol-02c9",
                _address(_GLOBEX, _HOSTS["gru-1"][0], 0x9_0002, 0x102),
                "",
            ),
        ],
        "flycasts": [
            (_ACME, "web", _flycast(_ACME, 2)),
            (_ACME, "db", _flycast(_ACME, 3)),
            (_ACME, "batch", _flycast(_ACME, 4)),
            (_GLOBEX, "db", _flycast(_GLOBEX, 2)),
        ],
        "regions": _REGIONS,
        "region_latency": _LATENCIES,
        "hosts": [(number, name, region) for name, (number, region) in _HOSTS.items()],
        "meta": [("name", "demo")],
    }


def _demo_machines() -> list[Row]:
    return [
        _demo_machine("3d8d9930b03989", _ACME, "web", "iad-1", _DOCUMENTS_MACHINE, "web"),
        _demo_machine("5683d474b40d8e", _ACME, "web", "iad-2", 0x1_0002, "web"),
        _demo_machine("7811e63fd4de08", _ACME, "web", "ams-1", 0x1_0003, "web"),
        _demo_machine("e2865013bd7d86", _ACME, "web", "nrt-1", 0x1_0004, "web"),
        _demo_machine("4d89696a2e7508", _ACME, "web", "iad-1", 0x1_0005, "worker"),
        _demo_machine("287444ec026748", _ACME, "web", "syd-1", 0x1_0006, "worker", "stopped"),
        _demo_machine("683d920b195638", _ACME, "web", "ams-1", 0x1_0007, "worker", "suspended"),
        _demo_machine("9080524f610e87", _ACME, "web", "ord-1", 0x1_0008, "web", "created"),
        _demo_machine("1857705c2ee4e8", _ACME, "web", "iad-2", 0x1_0009, "web", "destroyed"),
        _demo_machine(
            "6e82dd75b4e987", _ACME, "web", "iad-2", 0x1_000A, "release", skip_registration=1
        ),
        _demo_machine("148e306c77e789", _ACME, "db", "iad-1", 0x2_0001),
        _demo_machine("32874445f04218", _ACME, "db", "ord-1", 0x2_0002),
        _demo_machine("d891256b604e78", _ACME, "db", "ams-1", 0x2_0003),
        _demo_machine("17811953f92389", _ACME, "batch", "iad-2", 0x3_0001, state="stopped"),
        _demo_machine("2866e97a774508", _ACME, "batch", "iad-2", 0x3_0002, state="stopped"),
        _demo_machine("784e469c461d38", _GLOBEX, "web", "iad-1", 0x1_0001),
        _demo_machine("90801679a10038", _GLOBEX, "web", "gru-1", 0x1_0002),
        _demo_machine("568320eb7d968e", _GLOBEX, "web", "gru-1", 0x1_0003, state="stopped"),
        _demo_machine("080e325c719e87", _GLOBEX, "resolver", "ams-1", 0x2_0001),
        _demo_machine("91857500c46483", _GLOBEX, "resolver", "nrt-1", 0x2_0002),
        *(
            _demo_machine(
                _machine_id(0, n), _INITECH, "render", list(_HOSTS)[n % len(_HOSTS)], 0x1_0000 + n
            )
            for n in range(1, 61)
        ),
    ]


def _demo_machine(
    machine_id: str,
    network: int,
    app: str,
    host: str,
    machine: int,
    group: str = "app",
    state: str = "started",
    skip_registration: int = 0,
) -> Row:
    bits, region = _HOSTS[host]
    address = _address(network, bits, machine)
    return (machine_id, network, app, address, region, group, state, skip_registration, _TIME)


# ── any size ──────────────────────────────────────────────────────────────────────────────────────


def sized_rows(
    machines: int,
    seed: int = 1,
    apps_per_network: int = 100,
    *,
    machines_per_app: int = 3,
    started: float = 0.9,
) -> Rows:
    """Return the rows of a catalog of *machines* machines, the same for the same arguments.

    Apps are `app-0`, `app-1`, ... in every network; network ids count from 0x18. Each app has
    *machines_per_app* machines (the last one the remainder), and *started* is the share of visible
    ones. `sized_rows(30_000, apps_per_network=10_000, started=1)` makes one network of 10,000 apps
    with three addresses each. Large tables are generators: constant memory, and each can be
    iterated over once.
    """
    if machines < 0 or apps_per_network < 1 or machines_per_app < 1:
        raise ValueError(
            "machines must be at least 0, apps_per_network and machines_per_app at least 1"
        )
    shape = _Shape(machines, seed, apps_per_network, machines_per_app, started)
    return {
        "organizations": shape.organizations(),
        "networks": shape.networks(),
        "apps": shape.apps(),
        "machines": shape.all_machines(),
        "machine_metadata": shape.metadata(),
        "machine_services": shape.services(),
        "peers": shape.peers(),
        "flycasts": shape.flycasts(),
        "regions": _REGIONS,
        "region_latency": _LATENCIES,
        "hosts": shape.hosts(),
        "meta": [("name", f"{machines} machines, seed {seed}")],
    }


_FIRST_NETWORK = _ACME
_FIRST_HOST = 0x0A7B_0001
_GROUPS = ("app", "app", "web", "worker")
# state, skip_registration; "stopped" is twice as frequent as any other row.
_INVISIBLE = (
    ("stopped", 0),
    ("stopped", 0),
    ("suspended", 0),
    ("created", 0),
    ("destroyed", 0),
    ("started", 1),
)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Every table as a generator of its own; none depends on another having been consumed."""

    machines: int
    seed: int
    apps_per_network: int
    machines_per_app: int
    started: float

    @property
    def app_count(self) -> int:
        return -(-self.machines // self.machines_per_app)

    @property
    def network_count(self) -> int:
        return -(-self.app_count // self.apps_per_network)

    @property
    def host_count(self) -> int:
        return max(len(_REGIONS), self.machines // 64)  # a host holds some dozens of machines

    def organizations(self) -> Iterator[Row]:
        for n in range(self.network_count):
            yield f"organization-{n}", f"Organization {n}"

    def networks(self) -> Iterator[Row]:
        for n in range(self.network_count):
            yield _FIRST_NETWORK + n, f"network-{n}", f"organization-{n}"

    def apps(self) -> Iterator[Row]:
        for app in range(self.app_count):
            yield self.app_key(app)

    def app_key(self, app: int) -> tuple[int, str]:
        network, number = divmod(app, self.apps_per_network)
        return _FIRST_NETWORK + network, f"app-{number}"

    def all_machines(self) -> Iterator[Row]:
        random, first_id, hosts = Random(f"machines {self.seed}"), self.first_id(), self.host_count
        for n in range(self.machines):
            network, app = self.app_key(n // self.machines_per_app)
            host = int(random.random() * hosts)  # randrange would take three times as long
            state, skip = (
                ("started", 0) if random.random() < self.started else random.choice(_INVISIBLE)
            )
            yield (
                _machine_id(first_id, n),
                network,
                app,
                _address(network, _FIRST_HOST + host, n + 1),
                _region_of(host),
                _GROUPS[random.getrandbits(2)],
                state,
                skip,
                _TIME + random.getrandbits(20),  # within 12 days
            )

    def first_id(self) -> int:
        return Random(f"ids {self.seed}").getrandbits(56)

    def metadata(self) -> Iterator[Row]:
        """Yield role = leader for the first machine of every app."""
        first_id = self.first_id()
        for n in range(0, self.machines, self.machines_per_app):
            yield _machine_id(first_id, n), "role", "leader"

    def services(self) -> Iterator[Row]:
        """Yield one service for every tenth app, on all of its machines."""
        first_id = self.first_id()
        for app in range(0, self.app_count, 10):
            first = app * self.machines_per_app
            for n in range(first, min(first + self.machines_per_app, self.machines)):
                yield _machine_id(first_id, n), "http", "tcp", 8080

    def peers(self) -> Iterator[Row]:
        """Yield one per network, with machine numbers above those of all machines."""
        for n in range(self.network_count):
            network = _FIRST_NETWORK + n
            host = n % self.host_count
            address = _address(network, _FIRST_HOST + host, self.machines + 1 + n, 0x102)
            yield network, "laptop", address, _region_of(host)

    def flycasts(self) -> Iterator[Row]:
        """Yield one for every tenth app, on its own network."""
        for app in range(0, self.app_count, 10):
            network, name = self.app_key(app)
            yield network, name, _address(network, 1, app + 1, 2)

    def hosts(self) -> Iterator[Row]:
        for n in range(self.host_count):
            yield _FIRST_HOST + n, f"{_region_of(n)}-{n}", _region_of(n)


def _region_of(host: int) -> Value:
    return _REGIONS[host % len(_REGIONS)][0]
