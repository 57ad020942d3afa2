"""Read a catalog file into frozen values. All SQL that reads the catalog into memory is here.

The file is opened read-only. It is never mapped into memory, because a truncated mapping raises
SIGBUS, and never opened as `immutable`, which silently serves stale pages. A row that breaks a rule
of docs/names.md is not loaded and becomes a Fault (rows.py); the rest of the catalog is loaded.
"""

from __future__ import annotations

import gc
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import inf
from operator import itemgetter
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from internal_dns.core.catalog import (
    STARTED,
    App,
    Catalog,
    Machine,
    Network,
    NetworkId,
    Peer,
    Region,
    Service,
    amended,
    prepare,
)
from internal_dns.core.catalog_rules import DEFAULT_RULES, CatalogRules
from internal_dns.core.own import pack_sets
from internal_dns.store.presentation import canonical, losers, read_name, sets_of, wire_of
from internal_dns.store.rows import READ, Fault, Row, Values
from internal_dns.store.schema import BY_NAME, CATALOG, Column, Table, literal

Progress = Callable[[str, int], None]  # (what is being read, rows so far)

_PROGRESS_ROWS: Final = 50_000
# Seconds that a read may take, and octets of the file that add one second each: the slowest disk
# reads a large catalog in that time, and every statement ends.
PATIENCE: Final = 60
SLOWEST: Final = 1 << 20
_STEPS: Final = 100_000  # SQLite VM instructions between clock checks: about a millisecond
PIECE: Final = 1_000  # machines freed at a time: well under a millisecond
# Values that the cycle collector walks in about a millisecond.
MANY: Final = 10_000
# Above this many changed parts, reading the whole file is faster than reading part by part.
MANY_CHANGES: Final = 20_000


class UnusableCatalog(Exception):
    """The file exists and cannot be served; the text says what is wrong with it and what to do.

    `passing` means that waiting may help, because another program holds the file.
    """

    def __init__(self, words: str, *, passing: bool = False) -> None:
        super().__init__(words)
        self.passing = passing


@dataclass(frozen=True, slots=True)
class Loaded:
    """A catalog as read, its size, and the rows that were not loaded."""

    catalog: Catalog = field(default_factory=Catalog)
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0
    machines: int = 0
    started: int = 0
    peers: int = 0
    owned: bool = False  # the file has a journal
    parts: int = 0  # parts that were read again; 0: the whole file
    missing: tuple[str, ...] = ()  # tables and columns that an older schema lacks: "peers.region"
    written_at: float | None = None  # Unix seconds of its oldest change, from the journal

    @property
    def apps(self) -> int:
        return sum(len(network.apps) for network in self.catalog.networks.values())


def connect(path: str | Path, *, patience: float = 5.0) -> sqlite3.Connection:
    """Open *path* read-only; wait *patience* seconds for whoever locks it.

    Raises UnusableCatalog, or FileNotFoundError when there is no file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=ro",
            uri=True,
            timeout=patience,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.text_factory = bytes
        for pragma in ("query_only = 1", "mmap_size = 0", "trusted_schema = 0"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        _reject_truncated(connection, path)
    except sqlite3.Error as error:
        raise UnusableCatalog(explain_error(path, error), passing=_is_passing(error)) from error
    return connection


def _reject_truncated(connection: sqlite3.Connection, path: Path) -> None:
    """Reject a file that ends early: the missing part may be one that no query happens to read."""
    (pages,), (size,) = (
        connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
    )
    wal = path.with_name(path.name + "-wal")
    if path.stat().st_size < pages * size and not (wal.exists() and wal.stat().st_size):
        error = sqlite3.DatabaseError("database disk image is malformed: the file ends early")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def _is_passing(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, 0 for an error that is not SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def explain_error(path: Path, error: sqlite3.Error) -> str:
    """Return what SQLite's *error* means for the operator, and what to do."""
    words = str(error)
    if _code(error) == sqlite3.SQLITE_CANTOPEN and path.exists():
        return (
            f"{path}: {words}. A catalog in WAL mode needs its -wal and -shm files, and SQLite "
            "must create them beside it: make the directory writable, or keep a writer connected"
        )
    if _code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return (
            f"{path}: {words}. Restore it from a backup, or make a new one with `internal-dns init`"
        )
    return f"{path}: {words}"


def load(path: str | Path, *, previous: Catalog | None = None, **options: Any) -> Loaded:
    """Open, read and close *path*. Raises UnusableCatalog, or FileNotFoundError when there is no
    file."""
    with Reader(path, **options) as reader:
        return reader.read(previous)


def read(
    connection: sqlite3.Connection, *, previous: Catalog | None = None, **options: Any
) -> Loaded:
    """Read the whole catalog over an open connection; see Reader.read."""
    reader = Reader("", **options)
    reader.connection = connection
    return reader.read(previous)


def check_schema(connection: sqlite3.Connection) -> None:
    """Raise UnusableCatalog for the first required table or column that the file lacks."""
    shapes = ordinary_tables(connection)
    for table in CATALOG:
        if table.name not in shapes:
            if table.optional:
                continue
            raise UnusableCatalog(
                f"table {table.name} is missing: is this a catalog? schema.sql declares its tables"
            )
        present = columns_of(connection, table.name)
        for column in table.columns:
            if column.needed and column.name not in present:
                raise UnusableCatalog(
                    f"table {table.name} lacks column {column.name}: add it as schema.sql "
                    f"declares it"
                )


def ordinary_tables(connection: sqlite3.Connection) -> set[str]:
    """Return the names of the catalog tables in a file. Raises UnusableCatalog for a view or a
    virtual table.

    Reading those would run code of whoever made the file, for as long as it takes. Triggers are
    allowed: a read fires none, and other engines have their own.
    """
    tables = set()
    for raw, kind, root in connection.execute(
        "SELECT lower(name), type, rootpage FROM sqlite_master WHERE type IN ('table', 'view')"
    ):
        if (name := _text(raw)) not in BY_NAME:
            continue
        if _text(kind) != "table" or not root:
            what = "a view" if _text(kind) == "view" else "a virtual table"
            raise UnusableCatalog(
                f"{name} is {what}: make it an ordinary table, as schema.sql declares it"
            )
        tables.add(name)
    return tables


def columns_of(connection: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of the columns of *table* in a file; empty when the table is missing."""
    return {_text(row[1]).lower() for row in connection.execute(f"PRAGMA table_info({table})")}


def source(connection: sqlite3.Connection, table: str) -> str:
    """Return what to SELECT the columns of *table* FROM; columns that an older schema lacks have
    their default."""
    present = columns_of(connection, table)
    missing = [column for column in BY_NAME[table].columns if column.name not in present]
    if not missing:
        return table
    cells = [f"{literal(column.sql_default)} AS {column.name}" for column in missing]
    if not present:
        return f"(SELECT {', '.join(cells)} WHERE 0) AS {table}"
    return f"(SELECT *, {', '.join(cells)} FROM {table}) AS {table}"


def missing_from(connection: sqlite3.Connection) -> list[tuple[Table, tuple[Column, ...]]]:
    """Return each table that a file lacks, wholly or in part, with its missing columns."""
    missing = []
    for table in CATALOG:
        present = columns_of(connection, table.name)
        if lacking := tuple(c for c in table.columns if c.name not in present):
            missing.append((table, lacking))
    return missing


def _text(value: object) -> str:
    """Return a text cell as str, whatever text_factory the connection has."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def discarded_parts(before: Catalog, after: Catalog) -> list[object]:
    """Return the parts of *before* that *after* does not share, in pieces of at most a thousand
    machines.

    Freeing a hundred thousand values at once takes tens of milliseconds and holds the interpreter,
    in whichever thread it happens. Hold these pieces while *before* is released, then free them one
    by one.
    """
    pieces: list[object] = []
    for number, network in before.networks.items():
        other = after.networks.get(number)
        if other is network:
            continue
        names: Iterable[bytes] = network.apps
        if other is not None and other.since == network.revision:
            names = (
                network.apps.keys() & other.touched
            )  # found without a walk over apps that are the same
        for name in names:
            app = network.apps[name]
            if other is None or other.apps.get(name) is not app:
                machines = app.machines
                pieces += (machines[at : at + PIECE] for at in range(0, len(machines), PIECE))
                pieces.append(app)
        pieces.append(network)
    return pieces


def free_pieces(pieces: list[object]) -> None:
    """Free what `discarded_parts` returned; other threads run in between."""
    while pieces:
        # From the end: a network before its apps, an app before its machines, each then empty.
        pieces.pop()


@contextmanager
def without_cycles() -> Iterator[None]:
    """Read without the cycle collector.

    It would walk a million values that hold no cycles, again and again, and hold the event loop
    each time. What is many when it is read is never walked.
    """
    if not gc.isenabled():  # inside another reading
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > MANY:
            gc.freeze()
        gc.enable()


class Reader:
    """Reads one catalog file: first whole, then what each commit changed.

    A file with a journal names the changed parts (journal.sql). Any other file is read whole again.
    Either way, values equal to those before are the same objects, so their indexes and the cached
    answers stay valid.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        rules: CatalogRules = DEFAULT_RULES,
        progress: Progress | None = None,
        counting: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        """*counting*: count the changes of each network that are seen, when the file does not count
        them."""
        self.path, self.rules, self.progress = Path(path), rules, progress
        self.counting, self.patience = counting, patience
        self.deadline = inf  # time.monotonic() at which the current read is interrupted
        self.connection: sqlite3.Connection | None = None
        self.values = Values(rules)
        self.sources: dict[str, str] = {}  # by table: what to SELECT FROM in this file
        self.named: dict[NetworkId, bytes] = {}  # networks that have a row of their own
        # App names written with capitals, by network and lower-cased name.
        self.spellings: dict[tuple[int, bytes], set[bytes]] = defaultdict(set)
        # The last revision read, and when its change was made: in a restored file the two differ.
        self.seen = 0
        self.mark: object = None
        self.counted = False  # the file counts each network's changes

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """Interrupt the current read and any later one. Called from another thread."""
        self.deadline = self.patience = -inf

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def read(self, previous: Catalog | None = None) -> Loaded:
        """Read everything, as of one commit. Raises UnusableCatalog, or FileNotFoundError."""
        return self._in_transaction(lambda: self._read_all(previous or Catalog()))

    def read_after(self, before: Loaded) -> Loaded:
        """Read everything; parts equal to those of *before* are the same objects."""
        return self.read(before.catalog)

    def read_inside(self, previous: Catalog) -> Loaded:
        """Read everything inside the open transaction of the connection, uncommitted changes
        included."""
        return self._read_all(previous)

    def update(self, before: Loaded) -> Loaded:
        """Read what changed since *before*, as of one commit.

        Returns *before* itself when nothing changed. Raises the same exceptions as `read`.
        """
        with without_cycles():
            return self._in_transaction(lambda: self._read_changes(before))

    def _in_transaction(self, work: Callable[[], Loaded]) -> Loaded:
        if self.connection is None:
            self.connection = connect(self.path)
            # Every statement ends, whatever the file contains.
            self.connection.set_progress_handler(self._overdue, _STEPS)
        octets = self.path.stat().st_size if self.path.exists() else 0
        self.deadline = time.monotonic() + self.patience + octets / SLOWEST
        try:
            self.connection.execute("BEGIN")
            return work()
        except sqlite3.Error as error:
            if self._overdue():
                raise UnusableCatalog(
                    f"{self.path}: reading it took too long and was interrupted", passing=True
                ) from error
            raise UnusableCatalog(
                explain_error(self.path, error), passing=_is_passing(error)
            ) from error
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def _overdue(self) -> bool:
        return time.monotonic() > self.deadline

    def _select(self, table: str, rest: str = "", bound: Row = ()) -> Iterator[Row]:
        """Yield rows of *table* in the order of READ; report progress while the whole table is
        read."""
        assert self.connection is not None
        cursor = self.connection.execute(
            f"SELECT {', '.join(READ[table])} FROM {self.sources[table]} {rest}", bound
        )
        if self.progress is None or bound:
            return iter(cursor)
        return self._report_progress(table, cursor, self.progress)

    @staticmethod
    def _report_progress(table: str, rows: Iterable[Row], progress: Progress) -> Iterator[Row]:
        for count, row in enumerate(rows, 1):
            if not count % _PROGRESS_ROWS:
                progress(table, count)
            yield row

    # ── the whole file ────────────────────────────────────────────────────────────────────────────

    def _read_all(self, previous: Catalog) -> Loaded:
        with without_cycles():
            return self._read_rows(previous)

    def _read_rows(self, previous: Catalog) -> Loaded:
        assert self.connection is not None
        check_schema(self.connection)
        self.sources = {table: source(self.connection, table) for table in READ}
        owned = self._owned()
        self.values = Values(self.rules)
        self.spellings.clear()
        self.seen = self._journal_revision() if owned else 0
        self.mark = self._mark() if owned else None
        self.counted = owned and self._has("network_revisions")
        counts = self._changes() if self.counted else {}
        revision = self.seen if owned else previous.revision + 1
        self.named = self._networks()
        machines = self._machines()
        for number, raw in self._select("apps"):
            if (name := self._app_name(number, raw)) is not None:
                machines.setdefault(number, {}).setdefault(name, [])
        peers, flycasts = self._peers(), self._flycasts()
        zones = self._zones()
        records = self._records(zones)
        networks: dict[NetworkId, Network] = {}
        started = 0
        for number in sorted({*self.named, *machines, *peers, *flycasts, *zones, *records}):
            old = previous.networks.get(number)
            apps: dict[bytes, App] = {}
            for name, members in machines.pop(number, {}).items():
                app = App(name, self.values.distinct(members, ("app", number, name)))
                before = old.apps.get(name) if old else None
                apps[name] = before if before is not None and before == app else app
                started += sum(m[5] == STARTED for m in app.machines)
            count = self._revision_of(number, old, counts)
            start = self.rules.prefix + number.to_bytes(4, "big")
            network = Network(
                number,
                start,
                self.named.get(number, b""),
                apps,
                peers.get(number, {}),
                flycasts.get(number, {}),
                zones=zones.get(number, frozenset()),
                records=records.pop(number, {}),
            )
            networks[number] = self._prepared(old, network, count)
        catalog = Catalog(networks, *self._places(), revision)
        if catalog == replace(previous, revision=revision):
            catalog = replace(previous, revision=revision) if owned else previous
        return self._loaded(catalog, started, owned)

    def _loaded(self, catalog: Catalog, started: int, owned: bool) -> Loaded:
        networks = catalog.networks.values()
        return Loaded(
            catalog=catalog,
            faults=self.values.faults.all(),
            fault_count=self.values.faults.total,
            machines=sum(
                len(app.machines) for network in networks for app in network.apps.values()
            ),
            started=started,
            peers=sum(len(network.peers) for network in networks),
            owned=owned,
            missing=self._missing(),
        )

    def _missing(self) -> tuple[str, ...]:
        assert self.connection is not None
        return tuple(
            name
            for table, columns in missing_from(self.connection)
            for name in (
                (table.name,)
                if columns == table.columns
                else [f"{table.name}.{column.name}" for column in columns]
            )
        )

    def _prepared(self, old: Network | None, network: Network, revision: int) -> Network:
        """Return the network with its indexes; the old value when nothing differs."""
        if old is not None and network == replace(old, revision=0):
            return old
        return prepare(replace(network, revision=revision))

    def _networks(self, rest: str = "", bound: Row = ()) -> dict[NetworkId, bytes]:
        names = {}
        for number, raw in self._select("networks", rest, bound):
            if self.values.network(number) is None:
                self.values.faults.add(
                    ("network", number), "networks", number, "the id must be 1 to 4294967295"
                )
                continue
            if self.values.name(raw) is None:
                why = "loaded, but without its name: letters, digits, - and _ only"
                self.values.faults.add(("network", number), "networks", number, why, "warning")
                raw = b""  # noqa: PLW2901
            names[NetworkId(number)] = raw  # shown as written, compared in lower case
        return names

    def _app_name(self, number: object, raw: object) -> bytes | None:
        """Return the name in a row of `apps`, or None and add a fault."""
        name = self.values.name(raw)
        if name is None or self.values.network(number) is None:
            why = "no valid name" if name is None else "no valid network_id"
            self.values.faults.add(self.values.scope("app", number, raw), "apps", raw, why)
            return None
        self._spelled(number, name, raw)
        return name

    def _spelled(self, number: object, name: bytes, raw: object) -> None:
        if raw != name and isinstance(number, int) and isinstance(raw, bytes):
            self.spellings[number, name].add(raw)

    def _machines(
        self, rest: str = "", bound: Row = ()
    ) -> dict[NetworkId, dict[bytes, list[Machine]]]:
        """Read machines with their metadata and services, by network and app. *rest* is a WHERE
        clause."""
        values = self.values
        inner = f"WHERE machine_id IN (SELECT id FROM machines {rest})" if rest else ""
        # Faults of metadata and services, by machine.
        wrong: dict[object, list[tuple[str, object, str]]] = defaultdict(list)
        metadata: dict[object, list[tuple[bytes, bytes]]] = defaultdict(list)
        for row in self._select("machine_metadata", inner, bound):
            if isinstance(pair := values.pair(row), str):
                wrong[row[0]].append(("machine_metadata", row[0], pair))
            else:
                metadata[row[0]].append(pair)
        for pairs in metadata.values():
            pairs.sort()
        services: dict[object, list[Service]] = defaultdict(list)
        for row in self._select(
            "machine_services", f"{inner} ORDER BY machine_id, name, protocol", bound
        ):
            if isinstance(service := values.service(row, services[row[0]]), str):
                wrong[row[0]].append(("machine_services", row[1], service))
            else:
                services[row[0]].append(service)
        for published in services.values():
            published.sort()
        networks: dict[NetworkId, dict[bytes, list[Machine]]] = {}
        make = values.machine
        for row in self._select("machines", rest, bound):
            machine = make(row, metadata, services)
            if wrong and row[0] in wrong:
                for fault in wrong.pop(row[0]):
                    values.faults.add(values.scope("app", row[1], row[2]), *fault)
            if machine is None:
                if (label := values.name(row[2])) is not None:
                    self._spelled(row[1], label, row[2])
                continue
            number, name = row[1], machine[1]
            if row[2] is not name and row[2] != name:
                self._spelled(number, name, row[2])
            apps = networks.get(number)
            if apps is None:
                apps = networks[number] = {}
            members = apps.get(name)
            if members is None:
                apps[name] = [machine]
            else:
                members.append(machine)
        if not rest:  # rows whose machine_id is NULL
            for fault in wrong.pop(None, ()):
                values.faults.add(("machines",), *fault)
        return networks

    def _peers(self, rest: str = "", bound: Row = ()) -> dict[NetworkId, dict[bytes, Peer]]:
        networks: dict[NetworkId, dict[bytes, Peer]] = {}
        for row in self._select("peers", f"{rest} ORDER BY network_id, name", bound):
            of_network = networks.get(row[0], {})
            if (peer := self.values.peer(row, of_network)) is not None:
                networks.setdefault(row[0], of_network)[peer.name] = peer
        return networks

    def _flycasts(
        self, rest: str = "", bound: Row = ()
    ) -> dict[NetworkId, dict[bytes, tuple[bytes, ...]]]:
        networks: dict[NetworkId, dict[bytes, set[bytes]]] = {}
        for row in self._select("flycasts", rest, bound):
            if (flycast := self.values.flycast(row)) is not None:
                networks.setdefault(row[0], {}).setdefault(flycast[0], set()).add(flycast[1])
        return {
            number: {app: tuple(sorted(a)) for app, a in apps.items()}
            for number, apps in networks.items()
        }

    def _zones(self, rest: str = "", bound: Row = ()) -> dict[NetworkId, frozenset[bytes]]:
        networks: dict[NetworkId, set[bytes]] = {}
        for row in self._select("zones", rest, bound):
            if (zone := self.values.zone(row)) is not None:
                networks.setdefault(row[0], set()).add(zone.apex)
        return {number: frozenset(zones) for number, zones in networks.items()}

    def _records(
        self,
        zones: Mapping[NetworkId, frozenset[bytes]],
        rest: str = "",
        bound: Row = (),
    ) -> dict[NetworkId, dict[bytes, bytes]]:
        """Read records by network and owner. *zones* are those of the networks."""
        networks: dict[NetworkId, dict[bytes, bytes]] = {}
        rows = self._select("records", f"{rest} ORDER BY network_id, name, type, value", bound)
        # One owner has one spelling, so its rows come one after the other.
        for (number, _), of_owner in groupby(rows, itemgetter(0, 1)):
            own = zones.get(number, frozenset())
            known = [(row, r) for row in of_owner if (r := self.values.record(row, own))]
            if len(known) > 1:
                lost = dict(losers([record for _, record in known]))
                for row, record in known:
                    if record in lost:
                        self.values.no_record(row, lost[record])
                known = [(row, record) for row, record in known if record not in lost]
            if known:
                owner = known[0][1].owner
                packed = pack_sets(sets_of(record for _, record in known))
                networks.setdefault(number, {})[owner] = packed
        return networks

    def _places(
        self,
    ) -> tuple[dict[bytes, Region], dict[tuple[bytes, bytes], float], dict[int, bytes]]:
        """Read regions, latency and hosts."""
        values = self.values
        # In reverse order: of codes that differ only in letter case, the first one stays.
        return (
            dict(filter(None, map(values.region, self._select("regions", "ORDER BY code DESC")))),
            dict(
                filter(
                    None,
                    map(
                        values.latency,
                        self._select("region_latency", "ORDER BY 1 DESC, 2 DESC"),
                    ),
                )
            ),
            dict(filter(None, map(values.host, self._select("hosts")))),
        )

    # ── what a commit changed ─────────────────────────────────────────────────────────────────────

    def _owned(self) -> bool:
        return self._has("journal")

    def _has(self, table: str) -> bool:
        assert self.connection is not None
        row = self.connection.execute(
            "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
        )
        return row.fetchone() is not None

    def _changes(self, rest: str = "", bound: Row = ()) -> dict[int, int]:
        """Return the number of changes of each network since the file was made, as the file counts
        them."""
        assert self.connection is not None
        rows = f"SELECT network_id, changes FROM network_revisions {rest}"
        return dict(self.connection.execute(rows, bound))

    def _revision_of(self, number: NetworkId, old: Network | None, counts: dict[int, int]) -> int:
        """Return the revision of a network that changed: 1 at first, plus 1 per change; 0 when
        nobody counts."""
        if self.counted:
            return 1 + counts.get(number, 0)
        return (old.revision if old else 0) + self.counting

    def _journal_revision(self) -> int:
        """Return the revision of the last change in the journal; trimming keeps it."""
        assert self.connection is not None
        row = self.connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'journal'"
        ).fetchone()
        return int(row[0]) if row else 0

    def _mark(self) -> object:
        """Return when the last change read was made, as the journal records it now."""
        assert self.connection is not None
        row = self.connection.execute(
            "SELECT written_at FROM journal WHERE revision = ?", (self.seen,)
        ).fetchone()
        return row and row[0]

    def _read_changes(self, before: Loaded) -> Loaded:
        assert self.connection is not None
        if not before.owned or not self._owned():
            return self._read_all(before.catalog)
        revision, since = self._journal_revision(), self.seen
        if self._mark() != self.mark:
            return self._read_all(before.catalog)
        if revision == since:
            return before
        execute = self.connection.execute
        # Two statements, because SQLite answers each from one end of the index; one for both would
        # walk the whole journal.
        (oldest,) = execute("SELECT min(revision) FROM journal").fetchone()
        (written_at,) = execute(
            "SELECT min(written_at) FROM journal WHERE revision > ?", (since,)
        ).fetchone()
        changes = execute(
            "SELECT DISTINCT kind, network_id, label FROM journal WHERE revision > ? LIMIT ?",
            (since, MANY_CHANGES + 1),
        ).fetchall()
        if oldest is None or oldest > since + 1 or revision < since or len(changes) > MANY_CHANGES:
            return self._read_all(before.catalog)
        self.seen = revision
        self.mark = self._mark()
        return replace(self._apply(before, changes, revision), written_at=written_at)

    def _apply(self, before: Loaded, changes: list[Row], revision: int) -> Loaded:
        """Return *before* with the parts named in *changes* (kind, network, label) read again."""
        networks = dict(before.catalog.networks)
        parts: dict[NetworkId, dict[bytes, set[bytes | None]]] = defaultdict(
            lambda: defaultdict(set)
        )
        for kind, number, raw in changes:
            if kind == b"places":
                continue
            if kind in (b"record", b"zone") and self.values.network(number) is not None:
                parts[number][kind].add(raw)
                continue
            label = self.values.name(raw)
            if self.values.network(number) is None or (label is None and raw is not None):
                self._read_faults(kind, number, raw)
                continue
            if label is not None and kind == b"app":
                self._spelled(number, label, raw)
            parts[number][kind].add(label)
        machines, started, peers = before.machines, before.started, before.peers
        for number, kinds in parts.items():
            old = networks.get(number)
            apps = {
                name: self._app(number, name, old)
                for name in kinds.get(b"app", ())
                if name is not None
            }
            for name, app in apps.items():
                was = old.apps.get(name) if old else None
                machines += len(app.machines if app else ()) - len(was.machines if was else ())
                started += sum(m.state == STARTED for m in (app.machines if app else ()))
                started -= sum(m.state == STARTED for m in (was.machines if was else ()))
            own_peers = self._own_peers(number) if b"peers" in kinds else None
            if own_peers is not None:
                peers += len(own_peers) - len(old.peers if old else ())
            flycasts = {
                a: self._own_flycasts(number, a) for a in kinds.get(b"flycast", ()) if a is not None
            }
            if b"network" in kinds:
                self.values.faults.forget(("network", number))
                self.named.pop(number, None)
                self.named.update(self._networks("WHERE id = ?", (number,)))
            empty = Network(number, self.rules.prefix + number.to_bytes(4, "big"), known=False)
            zones, records = self._own(number, kinds, old or empty)
            counts = self._changes("WHERE network_id = ?", (number,)) if self.counted else {}
            count = self._revision_of(number, old, counts)
            network = amended(
                old or empty,
                self.named.get(number, b""),
                apps,
                own_peers,
                flycasts,
                count,
                zones,
                records,
            )
            if (
                number in self.named or network.apps or network.peers or network.flycasts
                or network.zones or network.records
            ):  # fmt: skip
                networks[number] = network
            else:
                networks.pop(number, None)
        catalog = before.catalog
        places = (catalog.regions, catalog.latency, catalog.hosts)
        if any(kind == b"places" for kind, _, _ in changes):
            self.values.faults.forget(("places",))
            places = self._places()
        return Loaded(
            catalog=Catalog(networks, *places, revision),
            faults=self.values.faults.all(),
            fault_count=self.values.faults.total,
            machines=machines,
            started=started,
            peers=peers,
            owned=True,
            missing=before.missing,
            parts=len(changes),
        )

    def _read_faults(self, kind: bytes, number: object, raw: object) -> None:
        """Read rows with an invalid network or name, only for their faults."""
        faults, label = self.values.faults, self.values.name(raw)
        # All spellings of a valid name share a scope. The file may hold octets as text or as a
        # blob.
        bound = (number, raw, raw) if label is None else (number, label, label)
        named = "WHERE network_id IS ? AND ({0} IS ? OR {0} IS CAST(? AS TEXT))"
        if label is not None:
            named = "WHERE network_id IS ? AND (lower({0}) IS ? OR lower({0}) IS CAST(? AS TEXT))"
        match kind:
            case b"app":
                faults.forget(self.values.scope("app", number, raw))
                self._machines(named.format("app"), bound)
                for row in self._select("apps", named.format("name"), bound):
                    self._app_name(*row)
            case b"flycast":
                faults.forget(self.values.scope("flycast", number, raw))
                self._flycasts(named.format("app"), bound)
            case b"peers":
                faults.forget(("peers", number))
                self._peers("WHERE network_id IS ?", (number,))
            case b"zone":
                faults.forget(("zones", number))
                self._zones("WHERE network_id IS ?", (number,))
            case b"record":
                faults.forget(("record", number, raw))
                bound = (number, raw, raw)
                named = "WHERE network_id IS ? AND (name IS ? OR name IS CAST(? AS TEXT))"
                self._records({}, named, bound)
            case b"network":
                faults.forget(("network", number))
                self._networks("WHERE id IS ?", (number,))

    def _app(self, number: NetworkId, name: bytes, old: Network | None) -> App | None:
        """Read one app again: None when it no longer exists, the old value when it is equal."""
        self.values.faults.forget(("app", number, name))
        self.values.capitals.clear()
        spellings = [
            spelling.decode() for spelling in {name, *self.spellings.get((number, name), ())}
        ]
        placeholders = ", ".join("?" * len(spellings))
        bound = (number, *spellings)
        networks = self._machines(f"WHERE network_id = ? AND app IN ({placeholders})", bound)
        members = networks.get(number, {}).get(name, [])
        if not members and not any(
            self._select("apps", f"WHERE network_id = ? AND name IN ({placeholders})", bound)
        ):
            return None
        app = App(name, self.values.distinct(members, ("app", number, name)))
        before = old.apps.get(name) if old else None
        return before if before is not None and before == app else app

    def _own_peers(self, number: NetworkId) -> dict[bytes, Peer]:
        self.values.faults.forget(("peers", number))
        return self._peers("WHERE network_id = ?", (number,)).get(number, {})

    def _own(
        self, number: NetworkId, kinds: Mapping[bytes, set[bytes | None]], old: Network
    ) -> tuple[frozenset[bytes] | None, dict[bytes, bytes] | None]:
        """Return zones and records that changed, as `amended` takes them. A change of zones may
        concern every record of the network."""
        faults = self.values.faults
        if b"zone" in kinds:
            faults.forget(("zones", number))
            zones = self._zones("WHERE network_id = ?", (number,)).get(number, frozenset())
            if zones != old.zones:
                faults.forget_all("record", number)
                of_network = self._records({number: zones}, "WHERE network_id = ?", (number,))
                return zones, of_network.get(number, {})
        if b"record" not in kinds:
            return None, None
        records: dict[bytes, bytes] = {}
        for raw in kinds[b"record"]:
            faults.forget(("record", number, raw))
            name = read_name(raw)
            # Rows that write a name in another way have faults, but no records.
            if not isinstance(name, str) and canonical(name).encode() == raw:
                records.setdefault(wire_of(name), b"")
            named = "WHERE network_id = ? AND name IN (?, CAST(? AS TEXT))"
            found = self._records({number: old.zones}, named, (number, raw, raw))
            records |= found.get(number, {})
        return None, records

    def _own_flycasts(self, number: NetworkId, app: bytes) -> tuple[bytes, ...]:
        self.values.faults.forget(("flycast", number, app))
        # lower() cannot use the primary key, but a network has few flycasts.
        rest = "WHERE network_id = ? AND lower(app) = ?"
        return self._flycasts(rest, (number, app.decode())).get(number, {}).get(app, ())
