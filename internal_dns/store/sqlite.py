"""Read a catalog file into frozen values. All reading SQL is here.

The file is opened read-only and never mapped into memory (a truncated mapping is a SIGBUS), and never as
`immutable`, which serves stale pages silently. Text is read as octets: a row with broken UTF-8 must not stop the load.
A row that breaks a rule of docs/names.md is left out and becomes a Fault; the rest of the catalog is loaded.
"""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from socket import AF_INET6, inet_pton
from typing import Any, Final
from urllib.parse import quote

from internal_dns.core.catalog import STARTED, App, Catalog, Machine, Network, NetworkId, Peer, Region, Service

Progress = Callable[[str, int], None]  # (what is being read, rows so far)

# Only what is read; more columns are welcome (the schema only ever grows).
TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "organizations": ("slug", "name"),
    "networks": ("id", "name", "organization"),
    "apps": ("network_id", "name"),
    "machines": (
        "id", "network_id", "app", "address", "region", "process_group", "state", "skip_registration", "updated_at",
    ),
    "machine_metadata": ("machine_id", "key", "value"),
    "machine_services": ("machine_id", "name", "protocol", "port"),
    "peers": ("network_id", "name", "address", "region"),
    "flycasts": ("network_id", "app", "address"),
    "regions": ("code", "name", "latitude", "longitude", "gateway"),
    "region_latency": ("from_region", "to_region", "milliseconds"),
    "hosts": ("id", "name", "region"),
    "meta": ("key", "value"),
}  # fmt: skip
HIDDEN_PEERS: Final = ("interactive-",)
# Faults are counted in full; this many are kept in words.
KEPT_FAULTS: Final = 1_000
_NAME: Final = re.compile(rb"[A-Za-z0-9_-]{1,63}\Z")
_PROGRESS_ROWS: Final = 50_000


class UnusableCatalog(Exception):
    """The file is there and cannot be served from; the text says what is wrong with it, and what to do."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that was not loaded."""

    table: str
    row: str
    reason: str

    def __str__(self) -> str:
        return f"{self.table} {self.row}: {self.reason}"


@dataclass(slots=True)
class Loaded:
    """A catalog as read, and what was left out."""

    catalog: Catalog = field(default_factory=Catalog)
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0
    machines: int = 0
    started: int = 0
    peers: int = 0

    @property
    def apps(self) -> int:
        return sum(len(network.apps) for network in self.catalog.networks.values())


def connect(path: str | Path) -> sqlite3.Connection:
    """Open *path* read-only. Raises UnusableCatalog, or FileNotFoundError when there is no file."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = bytes
        for pragma in ("query_only = 1", "mmap_size = 0", "trusted_schema = 0"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise UnusableCatalog(explained(path, error)) from error
    return connection


def explained(path: Path, error: sqlite3.Error) -> str:
    """Say what SQLite's *error* means for the operator."""
    words = str(error)
    if "unable to open" in words and path.exists():
        return (
            f"{path}: {words}. A catalog in WAL mode needs its -wal and -shm files, which SQLite must create beside "
            "it: make the directory writable, or keep a writer connected"
        )
    if "not a database" in words or "malformed" in words:
        return f"{path}: {words}. Restore it from a backup, or make a new one with `internal-dns init`"
    return f"{path}: {words}"


def read(
    connection: sqlite3.Connection,
    *,
    prefix: bytes = b"\xfd\xaa",
    hidden: tuple[str, ...] = HIDDEN_PEERS,
    previous: Catalog | None = None,
    progress: Progress | None = None,
) -> Loaded:
    """Read the whole catalog as of one commit.

    Values that equal those of *previous* are the same objects, so that their indexes and what was remembered of them
    stay. Raises UnusableCatalog when a table or column is missing, sqlite3.Error when the file cannot be read.
    """
    connection.execute("BEGIN")
    try:
        check_schema(connection)
        return _Reader(connection, prefix, hidden, progress).read(previous or Catalog())
    finally:
        connection.execute("ROLLBACK")


def load(path: str | Path, **options: Any) -> Loaded:
    """Open, read and close *path*."""
    connection = connect(path)
    try:
        return read(connection, **options)
    except sqlite3.Error as error:
        raise UnusableCatalog(explained(Path(path), error)) from error
    finally:
        connection.close()


def check_schema(connection: sqlite3.Connection) -> None:
    """Raise UnusableCatalog naming the first table or column that is missing."""
    for table, columns in TABLES.items():
        present = {row[1].decode() for row in connection.execute(f"PRAGMA table_info({table})")}
        missing = [column for column in columns if column not in present]
        if not present:
            raise UnusableCatalog(f"table {table} is missing: is this a catalog? schema.sql says what one has")
        if missing:
            raise UnusableCatalog(f"table {table} lacks column {missing[0]}: add it as schema.sql declares it")


Row = tuple[Any, ...]


class _Reader:
    """One pass over the tables; collects faults beside values."""

    def __init__(
        self, connection: sqlite3.Connection, prefix: bytes, hidden: tuple[str, ...], progress: Progress | None
    ) -> None:
        self.connection, self.prefix, self.progress = connection, prefix, progress
        self.hidden = tuple(start.lower().encode() for start in hidden)
        self.loaded = Loaded()
        self.shared: dict[bytes, bytes] = {}  # valid names by how they are written: one object for each
        self.states: dict[bytes, bytes] = {}

    def read(self, previous: Catalog) -> Loaded:
        networks = self.networks()
        metadata, services = self.metadata(), self.services()
        machines = self.machines(metadata, services)
        apps: dict[NetworkId, dict[bytes, list[Machine]]] = defaultdict(dict)
        for number, name in self.apps():
            apps[number][name] = []
        for number, machine in machines:
            apps[number].setdefault(machine.app, []).append(machine)
        peers, flycasts = self.peers(), self.flycasts()
        found = {
            number: self.network(previous, number, networks.get(number, b""), apps, peers, flycasts)
            for number in sorted({*networks, *apps, *peers, *flycasts})
        }
        catalog = Catalog(found, self.regions(), self.latency(), self.hosts(), previous.revision + 1)
        if catalog == replace(previous, revision=catalog.revision):
            catalog = previous
        self.loaded.catalog = catalog
        return self.loaded

    def network(
        self,
        previous: Catalog,
        number: NetworkId,
        name: bytes,
        apps: Mapping[NetworkId, Mapping[bytes, list[Machine]]],
        peers: Mapping[NetworkId, Mapping[bytes, Peer]],
        flycasts: Mapping[NetworkId, Mapping[bytes, tuple[bytes, ...]]],
    ) -> Network:
        """Return the network's value, made of the previous one's parts where they are equal."""
        old = previous.networks.get(number)
        values: dict[bytes, App] = {}
        for app_name, machines in apps.get(number, {}).items():
            app = App(app_name, self.distinct(machines))
            before = old.apps.get(app_name) if old else None
            values[app_name] = before if before == app and before is not None else app
        prefix = self.prefix + number.to_bytes(4, "big")
        made = Network(number, prefix, name, values, peers.get(number, {}), flycasts.get(number, {}))
        if old is not None and made == replace(old, revision=0):
            return old
        return replace(made, revision=previous.revision + 1)

    def distinct(self, machines: list[Machine]) -> tuple[Machine, ...]:
        """Return an app's machines by id; of ids that differ in letter case only the first is kept."""
        machines.sort(key=lambda m: m.id)  # stable: rows come in order of the id as written
        kept: list[Machine] = []
        for machine in machines:
            if kept and kept[-1].id == machine.id:
                self.fault("machines", machine.id, "another machine of the app has this id but for letter case")
                continue
            kept.append(machine)
            self.loaded.machines += 1
            self.loaded.started += machine.state == STARTED
        return tuple(kept)

    # ── tables ──────────────────────────────────────────────────────────────────────────────────────────────

    def rows(self, table: str, columns: tuple[str, ...] = (), order: str = "") -> Iterator[Row]:
        names = ", ".join(columns or TABLES[table])
        for count, row in enumerate(self.connection.execute(f"SELECT {names} FROM {table} {order}"), 1):
            if self.progress and not count % _PROGRESS_ROWS:
                self.progress(table, count)
            yield row

    def fault(self, table: str, row: object, reason: str) -> None:
        self.loaded.fault_count += 1
        if len(self.loaded.faults) < KEPT_FAULTS:
            self.loaded.faults.append(Fault(table, shown(row), reason))

    def networks(self) -> dict[NetworkId, bytes]:
        found = {}
        for number, name, _ in self.rows("networks"):
            if not self.is_network(number):
                self.fault("networks", number, "the id must be 1 to 4294967295")
                continue
            found[NetworkId(number)] = self.name(name) or b""
            if not found[number]:
                self.fault("networks", number, "loaded, but without its name: letters, digits, - and _ only")
        return found

    def apps(self) -> Iterator[tuple[NetworkId, bytes]]:
        for number, raw in self.rows("apps"):
            name = self.name(raw)
            if name is None or not self.is_network(number):
                self.fault("apps", raw, "no valid name" if name is None else "no valid network_id")
                continue
            yield NetworkId(number), name

    def metadata(self) -> dict[bytes, list[tuple[bytes, bytes]]]:
        found: dict[bytes, list[tuple[bytes, bytes]]] = defaultdict(list)
        for machine, key, value in self.rows("machine_metadata", order="ORDER BY machine_id, key"):
            if isinstance(machine, bytes) and isinstance(key, bytes):
                found[machine].append((key, octets(value)))
        return found

    def services(self) -> dict[bytes, list[Service]]:
        found: dict[bytes, list[Service]] = defaultdict(list)
        for row in self.rows("machine_services", order="ORDER BY machine_id, name, protocol"):
            machine, raw, protocol, port = row
            name = self.name(raw)
            if name is None or len(name) > 62:
                self.fault("machine_services", raw, "no valid name: 1 to 62 of letters, digits, - and _")
            elif protocol not in (b"tcp", b"udp"):
                self.fault("machine_services", raw, "the protocol is tcp or udp")
            elif not isinstance(port, int) or not 0 < port < 65_536:
                self.fault("machine_services", raw, "the port is 1 to 65535")
            else:
                found[machine].append(Service(name, protocol, port))
        return found

    def machines(
        self, metadata: Mapping[bytes, list[tuple[bytes, bytes]]], services: Mapping[bytes, list[Service]]
    ) -> Iterator[tuple[NetworkId, Machine]]:
        columns = TABLES["machines"][:8]
        for row in self.rows("machines", columns, "ORDER BY id"):
            raw, number, raw_app, text, raw_region, raw_group, state, skip = row
            ident, app = self.name(raw), self.name(raw_app)
            region, group = self.name(raw_region), self.name(raw_group)
            address = self.address(text, number)
            reason = (
                "no valid id" if ident is None
                else "no valid app" if app is None
                else "no valid region" if region is None
                else "no valid process_group" if group is None
                else "" if address is not None
                else self.why_not(text, number)
            )  # fmt: skip
            if reason or ident is None or app is None or region is None or group is None or address is None:
                self.fault("machines", raw, reason)
                continue
            state = self.states.setdefault(state, state) if isinstance(state, bytes) else b""
            machine = Machine(
                ident, app, address, region, group, state, bool(skip),
                tuple(metadata.get(raw, ())), tuple(services.get(raw, ())),
            )  # fmt: skip
            yield NetworkId(number), machine

    def peers(self) -> dict[NetworkId, dict[bytes, Peer]]:
        found: dict[NetworkId, dict[bytes, Peer]] = defaultdict(dict)
        for number, raw, text, raw_region in self.rows("peers", order="ORDER BY network_id, name"):
            name, address = self.name(raw), self.address(text, number)
            region = b"" if raw_region == b"" else self.name(raw_region)
            if name is None or region is None:
                self.fault("peers", raw, "no valid name" if name is None else "no valid region")
            elif address is None:
                self.fault("peers", raw, self.why_not(text, number))
            elif name in found[NetworkId(number)]:
                self.fault("peers", raw, "another peer of the network has this name but for letter case")
            else:
                visible = not name.startswith(self.hidden)
                found[NetworkId(number)][name] = Peer(name, address, region, visible)
                self.loaded.peers += 1
        return dict(found)

    def flycasts(self) -> dict[NetworkId, dict[bytes, tuple[bytes, ...]]]:
        found: dict[NetworkId, dict[bytes, set[bytes]]] = defaultdict(lambda: defaultdict(set))
        for number, raw, text in self.rows("flycasts"):
            name, address = self.name(raw), self.address(text, number)
            if name is None or address is None:
                self.fault("flycasts", raw, "no valid app" if name is None else self.why_not(text, number))
            else:
                found[NetworkId(number)][name].add(address)
        return {number: {app: tuple(sorted(a)) for app, a in apps.items()} for number, apps in found.items()}

    def regions(self) -> dict[bytes, Region]:
        found = {}
        for raw, _, latitude, longitude, _ in self.rows("regions"):
            code = self.name(raw)
            if code is None:
                self.fault("regions", raw, "no valid code")
                continue
            placed = degrees(latitude, 90) and degrees(longitude, 180)
            if not placed and (latitude, longitude) != (None, None):
                self.fault("regions", raw, "loaded, but without coordinates: degrees, or both NULL")
            found[code] = Region(float(latitude), float(longitude)) if placed else Region(None, None)
        return found

    def latency(self) -> dict[tuple[bytes, bytes], float]:
        found = {}
        for raw_from, raw_to, milliseconds in self.rows("region_latency"):
            here, there = self.name(raw_from), self.name(raw_to)
            if here is None or there is None:
                self.fault("region_latency", raw_from, "no valid region")
            elif not isinstance(milliseconds, int | float) or not 0 <= milliseconds < 1e9:
                self.fault("region_latency", raw_from, "milliseconds must be 0 or more")
            else:
                found[here, there] = float(milliseconds)
        return found

    def hosts(self) -> dict[int, bytes]:
        found = {}
        for number, _, raw in self.rows("hosts"):
            region = self.name(raw)
            if region is None or not isinstance(number, int) or not 0 <= number < 1 << 32:
                self.fault("hosts", number, "no valid region" if region is None else "the id must fit 32 bits")
                continue
            found[number] = region
        return found

    # ── values ──────────────────────────────────────────────────────────────────────────────────────────────

    def name(self, raw: object) -> bytes | None:
        """Return *raw* as a lower-cased label, the same object each time, or None."""
        if not isinstance(raw, bytes):
            return None
        known = self.shared.get(raw)
        if known is None and _NAME.match(raw):
            lower = raw.lower()
            known = self.shared[raw] = self.shared.setdefault(lower, lower)
        return known

    def is_network(self, number: object) -> bool:
        return isinstance(number, int) and 0 < number < 1 << 32

    def address(self, text: object, number: object) -> bytes | None:
        """Return the 16 octets of *text* when they are an address of network *number*."""
        if not isinstance(text, bytes) or not isinstance(number, int) or not 0 < number < 1 << 32:
            return None
        try:
            packed = inet_pton(AF_INET6, text.decode("ascii"))
        except (OSError, ValueError):
            return None
        return packed if packed.startswith(self.prefix + number.to_bytes(4, "big")) else None

    def why_not(self, text: object, number: object) -> str:
        if not self.is_network(number):
            return "network_id must be 1 to 4294967295"
        network = f"{self.prefix.hex()}:{int(str(number)) >> 16:x}:{int(str(number)) & 0xFFFF:x}::/48"
        return f"the address {shown(text)} is not one of {network}"


def degrees(value: object, limit: int) -> bool:
    return isinstance(value, int | float) and -limit <= value <= limit


def octets(value: object) -> bytes:
    """Return a cell as octets; numbers and NULL as SQLite would write them."""
    return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()


def shown(value: object) -> str:
    """Return a cell for an operator's eyes: at most 80 printable characters."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:80]) or "''"
