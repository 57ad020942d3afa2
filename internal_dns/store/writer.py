"""The only writer of a catalog with a journal: whole transactions, checked before they commit.

It holds an exclusive lock on FILE.lock for as long as it lives, so no other internal-dns process
writes. A file without a journal belongs to another engine (a gossiping SQLite, for example) and is
not written. A change is rejected as a whole when any of its rows could not be served afterwards.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Final, assert_never
from urllib.parse import quote

from internal_dns.core.catalog import Machine, Peer, Service
from internal_dns.core.catalog_rules import DEFAULT_RULES, CatalogRules
from internal_dns.store.presentation import losers
from internal_dns.store.rows import READ, Values, shown
from internal_dns.store.schema import BY_NAME, KEYS, OF_MACHINE, TABLES, Column
from internal_dns.store.sqlite import check_schema, connect
from internal_dns.store.upgrade import upgrade

# Entries that the journal keeps: a reader that missed more reads the whole file.
JOURNAL_LIMIT: Final = 100_000
# Seconds to wait for another program, such as a shell, to end its transaction.
BUSY_TIMEOUT: Final = 5

Row = Mapping[str, Any]
# Table, and the columns to write; the others keep their value, or get their default.
Put = tuple[str, Row]
Delete = tuple[str, Row]  # table, key columns


class NotOurs(Exception):
    """The file is written by another engine or process; the text names it, `do` says what to do
    instead."""

    def __init__(self, words: str, do: str = "") -> None:
        super().__init__(words)
        self.do = do


def follows(path: Path, source: str) -> NotOurs:
    """Return the error for writing a file that follows a bucket."""
    do = f"Publish to the bucket instead: internal-dns apply FILE --to {source}"
    return NotOurs(f"{path} follows {source}, and only the server that follows writes it", do)


class RejectedChange(Exception):
    """The change breaks a rule; `faults` has one line per broken rule."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Written:
    """A committed change: the journal's revision after it, and how many rows changed."""

    revision: int
    rows: int


class Writer:
    """Writes *path*; *following* is for the follower of a bucket only. Raises NotOurs,
    FileNotFoundError, sqlite3.Error."""

    def __init__(
        self,
        path: str | Path,
        rules: CatalogRules = DEFAULT_RULES,
        *,
        following: bool = False,
    ) -> None:
        self.path, self.rules, self.following = Path(path), rules, following
        if not self.path.exists():
            raise FileNotFoundError(self.path)
        self.lock = _open_lock(f"{self.path}.lock")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.connection = self._connect()
        except BlockingIOError:
            os.close(self.lock)
            self._refuse_followed()
            raise NotOurs(f"another internal-dns process is writing {self.path}") from None
        except BaseException:
            os.close(self.lock)
            raise

    def _connect(self) -> sqlite3.Connection:
        opened = self._identity()
        connection = sqlite3.connect(
            f"file:{quote(str(self.path.absolute()))}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=BUSY_TIMEOUT,
            check_same_thread=False,
        )
        try:
            connection.text_factory = bytes
            connection.execute("PRAGMA trusted_schema = 1")  # the journal's triggers are ours
            check_schema(connection)
            if not connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'journal'"
            ).fetchone():
                raise NotOurs(f"{self.path} has no journal: another engine maintains and writes it")
            self._refuse_replica(connection)
            upgrade(connection)
        except BaseException:
            connection.close()
            raise
        self.opened = opened
        return connection

    def _refuse_followed(self) -> None:
        """Another process holds the lock: raise NotOurs when it is a follower."""
        connection = connect(self.path)
        try:
            self._refuse_replica(connection)
        finally:
            connection.close()

    def _refuse_replica(self, connection: sqlite3.Connection) -> None:
        """Raise NotOurs when the file follows a bucket: the follower would undo the change, or this
        host would differ from the others."""
        if (
            self.following
            or not connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'replica'"
            ).fetchone()
        ):
            return
        row = connection.execute("SELECT source FROM replica").fetchone()
        if row is not None:
            raise follows(self.path, row[0].decode())

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and release its lock."""
        self.connection.close()
        os.close(self.lock)

    def write(
        self, puts: Sequence[Put], deletes: Sequence[Delete] = (), *, keep: bool = True
    ) -> Written:
        """Make a change in one transaction, all or nothing. With *keep* False it is rolled back.

        Deletes come first. Raises RejectedChange with every fault, sqlite3.Error.
        """
        self.reopen_if_replaced()
        with self.uncommitted(puts, deletes) as written:
            if keep:
                self.trim()
                self.connection.execute("COMMIT")
        return written

    def trim(self) -> None:
        """Delete the journal's oldest entries, inside a transaction."""
        self.connection.execute(
            "DELETE FROM journal WHERE revision <= ?", (self.revision() - JOURNAL_LIMIT,)
        )

    @contextmanager
    def uncommitted(self, puts: Sequence[Put], deletes: Sequence[Delete] = ()) -> Iterator[Written]:
        """Make and check a change for the duration of the `with` block; it is rolled back at the
        end unless the block commits it."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            changed = sum(self._delete(table, key) for table, key in deletes)
            changed += sum(self._put(table, row) for table, row in puts)
            if faults := self.faults(puts):
                raise RejectedChange(faults)
            yield Written(self.revision(), changed)
        finally:
            if self.connection.in_transaction:
                execute("ROLLBACK")

    def reopen_if_replaced(self) -> None:
        """Open the file again when another one has taken its place: write what is served."""
        if self.is_replaced():
            passed, self.connection = self.connection, self._connect()
            passed.close()

    def is_replaced(self) -> bool:
        """Whether another file has taken the place of the open one."""
        return self._identity() != self.opened

    def _identity(self) -> tuple[int, int]:
        status = os.stat(self.path)
        return status.st_dev, status.st_ino

    def revision(self) -> int:
        """Return the current revision of the journal."""
        row = self.connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'journal'"
        ).fetchone()
        return int(row[0]) if row else 0

    def _put(self, table: str, row: Row) -> int:
        """Insert *row*, or update the columns it names in the row with its key; return how many
        rows changed."""
        columns, keys = _columns(table, row), KEYS[table]
        if missing := [key for key in keys if key not in row]:
            raise RejectedChange([f"{table}: {missing[0]} is missing"])
        where, key = (
            " AND ".join(f"{column} = ?" for column in keys),
            tuple(row[column] for column in keys),
        )
        execute, rest = (
            self.connection.execute,
            [column for column in columns if column not in keys],
        )
        now = {"updated_at": int(time.time())} if "updated_at" in TABLES[table] else {}
        if not execute(f"SELECT 1 FROM {table} WHERE {where}", key).fetchone():
            inserted = {**row, **now}
            placeholders = ", ".join("?" * len(inserted))
            return execute(
                f"INSERT INTO {table} ({', '.join(inserted)}) VALUES ({placeholders})",
                tuple(inserted.values()),
            ).rowcount
        if not rest:
            return 0
        # An unchanged row is not updated: no journal entry, no new updated_at.
        values = tuple(row[column] for column in rest)
        differs = " OR ".join(f"{column} IS NOT ?" for column in rest)
        sets = ", ".join(f"{column} = ?" for column in [*rest, *now])
        bound = (*values, *now.values(), *key, *values)
        return execute(f"UPDATE {table} SET {sets} WHERE {where} AND ({differs})", bound).rowcount

    def _delete(self, table: str, key: Row) -> int:
        """Delete the rows with these columns, and metadata and services of deleted machines; return
        how many."""
        columns = _columns(table, key)
        if not columns:
            raise RejectedChange([f"{table}: the request does not say which row to delete"])
        where, values = (
            " AND ".join(f"{column} = ?" for column in columns),
            tuple(key[column] for column in columns),
        )
        if table == "machines":
            for belonging in OF_MACHINE:
                self.connection.execute(
                    f"DELETE FROM {belonging} WHERE machine_id IN (SELECT id FROM machines WHERE "
                    f"{where})",
                    values,
                )
        return self.connection.execute(f"DELETE FROM {table} WHERE {where}", values).rowcount

    # ── validation ────────────────────────────────────────────────────────────────────────────────

    def faults(self, puts: Iterable[Put]) -> list[str]:
        """Return the faults of the rows just put: those a reader would find, and collisions."""
        values, faults = Values(self.rules), list[str]()
        neighbors: dict[int, _Neighbors] = {}
        owners = _Owners()
        for table, row in puts:
            faults += self._row_faults(values, table, row, neighbors, owners)
        faults += [str(fault) for fault in values.faults.all()]
        return list(dict.fromkeys(faults))

    def _row_faults(
        self,
        values: Values,
        table: str,
        row: Row,
        neighbors: dict[int, _Neighbors],
        owners: _Owners,
    ) -> list[str]:
        where, key = (
            " AND ".join(f"{c} = ?" for c in KEYS[table]),
            tuple(row[c] for c in KEYS[table]),
        )
        if table not in READ:  # no answer depends on it
            return []
        stored = self.connection.execute(
            f"SELECT {', '.join(READ[table])} FROM {table} WHERE {where}", key
        ).fetchone()
        if stored is None:
            return []
        match table:
            case "machines":
                machine = values.machine(stored, {}, {})
                return (
                    self._neighbors_on(values, stored[1], neighbors).faults(machine, stored[0])
                    if machine
                    else []
                )
            case "peers":
                peer = values.peer(stored, {})
                return (
                    self._neighbors_on(values, stored[0], neighbors).faults(peer, stored[1])
                    if peer
                    else []
                )
            case "networks":
                if values.network(stored[0]) is None:
                    return [f"networks {stored[0]}: the id must be 1 to 4294967295"]
                if not values.name(stored[1]):
                    return [f"networks {stored[0]}: no valid name"]
                same = "SELECT id FROM networks WHERE lower(name) = ? AND id != ?"
                name = stored[1].decode()
                return [
                    f"networks {stored[0]}: network {other} already has the name {name}"
                    for (other,) in self.connection.execute(same, (name.lower(), stored[0]))
                ]
            case "apps":
                if values.name(stored[1]) is None or values.network(stored[0]) is None:
                    return [f"apps {shown(stored[1])}: no valid name or network_id"]
            case _ if table in OF_MACHINE:
                return self._machine_part_faults(values, table, stored)
            case "flycasts":
                values.flycast(stored)
            case "zones":
                values.zone(stored)
            case "records":
                self._check_record(values, stored, owners)
            case "regions":
                values.region(stored)
            case "region_latency":
                values.latency(stored)
            case "hosts":
                values.host(stored)
        return []

    def _machine_part_faults(
        self, values: Values, table: str, stored: tuple[Any, ...]
    ) -> list[str]:
        """Return the faults of a row of metadata or services."""
        execute, machine = self.connection.execute, stored[0]
        ident = machine.decode("utf-8", "replace") if isinstance(machine, bytes) else machine
        if not execute("SELECT 1 FROM machines WHERE id = ?", (ident,)).fetchone():
            return [f"{table} {shown(stored[1])}: there is no machine {shown(machine)}"]
        if table == "machine_metadata":
            wrong: object = values.pair(stored)
        else:
            others = execute(
                f"SELECT {', '.join(READ[table])} FROM {table} WHERE machine_id = ?", (ident,)
            ).fetchall()
            taken = (values.service(other, ()) for other in others if other[:3] != stored[:3])
            wrong = values.service(
                stored, [service for service in taken if isinstance(service, Service)]
            )
        return [f"{table} {shown(stored[1])}: {wrong}"] if isinstance(wrong, str) else []

    def _check_record(self, values: Values, stored: tuple[Any, ...], owners: _Owners) -> None:
        """Add to *values* the faults of a record: its own, and that it cannot stand beside the
        others of its owner. Zones of a network and records of an owner are read once per change."""
        number, name = stored[:2]
        execute, own = self.connection.execute, Values(self.rules)
        if number not in owners.zones:
            rows = execute("SELECT network_id, name FROM zones WHERE network_id = ?", (number,))
            found = (own.zone(row) for row in rows)
            owners.zones[number] = {zone.apex for zone in found if zone is not None}
        zones = owners.zones[number]
        if values.record(stored, zones) is None or (number, name) in owners.seen:
            return
        owners.seen.add((number, name))
        of_owner = (
            f"SELECT {', '.join(READ['records'])} FROM records "
            "WHERE network_id = ? AND name = CAST(? AS TEXT)"
        )
        records = execute(of_owner, (number, name)).fetchall()
        others = [own.record(row, zones) for row in records] if len(records) > 1 else []
        for _, why in losers([other for other in others if other is not None])[:1]:
            values.no_record(stored, why)

    def _neighbors_on(
        self, values: Values, number: int, neighbors: dict[int, _Neighbors]
    ) -> _Neighbors:
        """Return the members of network *number*; read once per change, however many of its rows
        are put."""
        if number not in neighbors:
            own = Values(self.rules)  # faults of other rows do not count against this change
            execute = self.connection.execute
            machines = f"SELECT {', '.join(READ['machines'])} FROM machines WHERE network_id = ?"
            peers = f"SELECT {', '.join(READ['peers'])} FROM peers WHERE network_id = ?"
            near = neighbors[number] = _Neighbors()
            for row in execute(machines, (number,)):
                near.add(own.machine(row, {}, {}), row[0])
            for row in execute(peers, (number,)):
                near.add(own.peer(row, {}), row[1])
        return neighbors[number]


def _open_lock(path: str) -> int:
    """Open a lock file; a new one is readable by its owner only, whatever the umask."""
    try:
        created = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.fchmod(created, 0o600)
    return created


class _Owners:
    """What one change has read: zones by network, and the owners whose records were compared."""

    def __init__(self) -> None:
        self.zones: dict[object, set[bytes]] = {}
        self.seen: set[tuple[object, object]] = set()


class _Neighbors:
    """The members of a network: visible ones by address, and all by name in every spelling."""

    def __init__(self) -> None:
        self.addresses: dict[bytes, list[str]] = {}
        self.spellings: dict[tuple[bytes, ...], list[object]] = {}

    def add(self, member: Machine | Peer | None, written: object) -> None:
        if member is None:
            return
        self.spellings.setdefault(_identity(member), []).append(written)
        if member.visible:
            self.addresses.setdefault(member.address, []).append(_called(member))

    def faults(self, member: Machine | Peer, written: object) -> list[str]:
        """Return what *member* collides with."""
        faults, name = [], _called(member)
        others = [other for other in self.spellings[_identity(member)] if other != written]
        if others:
            faults.append(f"{name}: {shown(others[0])} differs from it only in letter case")
        living = [other for other in self.addresses.get(member.address, ()) if other != name]
        if member.visible and living:
            at = str(IPv6Address(member.address))
            faults.append(f"{name}: {' and '.join(living)} already has address {at}")
        return faults


def _identity(member: Machine | Peer) -> tuple[bytes, ...]:
    return (member.app, member.id) if isinstance(member, Machine) else (member.name,)


def _called(member: Machine | Peer) -> str:
    return (
        f"machine {member.id.decode()}"
        if isinstance(member, Machine)
        else f"peer {member.name.decode()}"
    )


def _columns(table: str, row: Row) -> list[str]:
    """Return the columns of *row*. Raises RejectedChange for an unknown one, or a value of another
    type."""
    if table not in KEYS:
        raise RejectedChange([f"{table!r} is not a table of a catalog"])
    if unknown := [column for column in row if column not in TABLES[table]]:
        raise RejectedChange([f"{table}: '{shown(unknown[0])}' is not a column"])
    if faults := [
        f"{table}.{c}: {shown(v)} is not a {_WANTED[of.domain.sql]}"
        for c, v in row.items()
        if not _fits(of := BY_NAME[table].column(c), v)
    ]:
        raise RejectedChange(faults)
    return list(row)


_WANTED: Final = {"TEXT": "text", "INTEGER": "whole number", "REAL": "number"}


def _fits(column: Column, value: object) -> bool:
    """Whether *value* has the type of *column*: SQLite itself would turn a number into text."""
    match column.domain.sql:
        case "INTEGER":
            return isinstance(value, int) and -(1 << 63) <= value < 1 << 63
        case "REAL":
            return value is None or (isinstance(value, int | float) and abs(value) < 1e300)
        case "TEXT":
            return isinstance(value, str) and _encodes(value)
        case never:
            assert_never(never)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
