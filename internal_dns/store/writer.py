"""The one writer of an owned catalog: whole transactions, checked before they are committed.

It holds an exclusive lock on FILE.lock for as long as it lives, so no second internal-dns process writes. A file
without our journal belongs to another engine (a gossiping SQLite, say) and is refused. A change is refused whole when
any row of it could not be served afterwards.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from internal_dns.core.catalog import NetworkId
from internal_dns.store.rows import Values, shown
from internal_dns.store.sqlite import HIDDEN_PEERS, TABLES, check_schema

# Rows of the journal that are kept: a reader that was away for more reads the whole file.
KEPT_CHANGES: Final = 100_000
BUSY_TIMEOUT: Final = 5  # seconds to wait for a human's shell to end its transaction

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "organizations": ("slug",),
    "networks": ("id",),
    "apps": ("network_id", "name"),
    "machines": ("id",),
    "machine_metadata": ("machine_id", "key"),
    "machine_services": ("machine_id", "name", "protocol"),
    "peers": ("network_id", "name"),
    "flycasts": ("network_id", "app", "address"),
    "regions": ("code",),
    "region_latency": ("from_region", "to_region"),
    "hosts": ("id",),
    "meta": ("key",),
}

Row = Mapping[str, Any]
Put = tuple[str, Row]  # table, columns to write; those not named keep what they are, or their default
Delete = tuple[str, Row]  # table, key columns


class NotOurs(Exception):
    """The file is written by another engine, or by another process; the text says which."""


class Refused(Exception):
    """The change breaks a rule; `faults` has a line for each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Written:
    """A committed change: the journal's revision after it, and how many rows differ."""

    revision: int
    rows: int


class Writer:
    """Opens *path* for writing. Raises NotOurs, FileNotFoundError, sqlite3.Error."""

    def __init__(self, path: str | Path, prefix: bytes = b"\xfd\xaa", hidden: tuple[str, ...] = HIDDEN_PEERS) -> None:
        self.path, self.prefix, self.hidden = Path(path), prefix, hidden
        if not self.path.exists():
            raise FileNotFoundError(self.path)
        self.lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.connection = self._connect()
        except BlockingIOError:
            os.close(self.lock)
            raise NotOurs(f"another internal-dns process writes {self.path}") from None
        except BaseException:
            os.close(self.lock)
            raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self.path.absolute()))}?mode=rw", uri=True, isolation_level=None,
            timeout=BUSY_TIMEOUT, check_same_thread=False,
        )  # fmt: skip
        try:
            connection.text_factory = bytes
            connection.execute("PRAGMA trusted_schema = 1")  # the journal's triggers are ours
            check_schema(connection)
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchone():
                raise NotOurs(f"{self.path} has no journal: another engine maintains it, and writes it")
        except BaseException:
            connection.close()
            raise
        return connection

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the file and its lock."""
        self.connection.close()
        os.close(self.lock)

    def write(self, puts: Sequence[Put], deletes: Sequence[Delete] = (), *, keep: bool = True) -> Written:
        """Make a change in one transaction: all of it or nothing. *keep* False tries it and takes it back.

        Deletes come first. Raises Refused with every fault, sqlite3.Error.
        """
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            changed = sum(self._delete(table, key) for table, key in deletes)
            changed += sum(self._put(table, row) for table, row in puts)
            if faults := self.faults(puts):
                raise Refused(faults)
            revision = self.revision()
            execute("DELETE FROM journal WHERE revision <= ?", (revision - KEPT_CHANGES,))
            if keep:
                execute("COMMIT")
            return Written(revision, changed)
        finally:
            if self.connection.in_transaction:
                execute("ROLLBACK")

    def revision(self) -> int:
        """The journal's revision now."""
        row = self.connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").fetchone()
        return int(row[0]) if row else 0

    def _put(self, table: str, row: Row) -> int:
        """Insert *row*, or change the columns it names of the row with its key; return how many rows that changed."""
        columns, keys = _columns(table, row), KEYS[table]
        if missing := [key for key in keys if key not in row]:
            raise Refused([f"{table}: {missing[0]} is missing"])
        where, key = " AND ".join(f"{column} = ?" for column in keys), tuple(row[column] for column in keys)
        execute, rest = self.connection.execute, [column for column in columns if column not in keys]
        now = {"updated_at": int(time.time())} if table == "machines" else {}
        if not execute(f"SELECT 1 FROM {table} WHERE {where}", key).fetchone():
            made = {**row, **now}
            places = ", ".join("?" * len(made))
            return execute(f"INSERT INTO {table} ({', '.join(made)}) VALUES ({places})", tuple(made.values())).rowcount
        if not rest:
            return 0
        # A row that is as it was is left alone: no entry in the journal, no new updated_at.
        values = tuple(row[column] for column in rest)
        differs = " OR ".join(f"{column} IS NOT ?" for column in rest)
        sets = ", ".join(f"{column} = ?" for column in [*rest, *now])
        bound = (*values, *now.values(), *key, *values)
        return execute(f"UPDATE {table} SET {sets} WHERE {where} AND ({differs})", bound).rowcount

    def _delete(self, table: str, key: Row) -> int:
        """Delete the rows with these columns, a machine with what belongs to it; return how many that were."""
        columns = _columns(table, key)
        if not columns:
            raise Refused([f"{table}: which row to delete is not said"])
        where, values = " AND ".join(f"{column} = ?" for column in columns), tuple(key[column] for column in columns)
        if table == "machines":
            for belonging in ("machine_metadata", "machine_services"):
                self.connection.execute(
                    f"DELETE FROM {belonging} WHERE machine_id IN (SELECT id FROM machines WHERE {where})", values
                )
        return self.connection.execute(f"DELETE FROM {table} WHERE {where}", values).rowcount

    # ── validation ──────────────────────────────────────────────────────────────────────────────────────────

    def faults(self, puts: Iterable[Put]) -> list[str]:
        """Say what of the rows just put could not be served: the rules of reading, and addresses that collide."""
        values, found = Values(self.prefix, self.hidden), list[str]()
        for table, row in puts:
            found += self._row_faults(values, table, row)
        found += [str(fault) for fault in values.faults.all()]
        return list(dict.fromkeys(found))

    def _row_faults(self, values: Values, table: str, row: Row) -> list[str]:
        where, key = " AND ".join(f"{c} = ?" for c in KEYS[table]), tuple(row[c] for c in KEYS[table])
        columns = TABLES[table][:8] if table == "machines" else TABLES[table]
        stored = self.connection.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE {where}", key).fetchone()
        if stored is None:
            return []
        match table:
            case "machines":
                machine = values.machine(stored, {}, {})
                return self._collisions(stored[1], stored[3], f"machine {shown(stored[0])}") if machine else []
            case "peers":
                peer = values.peer(stored, {})
                return self._collisions(stored[0], stored[2], f"peer {shown(stored[1])}") if peer else []
            case "networks":
                if values.network(stored[0]) is None:
                    return [f"networks {stored[0]}: the id must be 1 to 4294967295"]
                return [] if values.name(stored[1]) else [f"networks {stored[0]}: no valid name"]
            case "apps":
                if values.name(stored[1]) is None or values.network(stored[0]) is None:
                    return [f"apps {shown(stored[1])}: no valid name or network_id"]
            case "flycasts":
                values.flycast(stored)
            case "machine_services":
                wrong = values.service(stored, ())
                return [f"{table} {shown(stored[1])}: {wrong}"] if isinstance(wrong, str) else []
            case "machine_metadata":
                pair = values.pair(stored)
                return [f"{table} {shown(stored[0])}: {pair}"] if isinstance(pair, str) else []
            case "regions":
                values.region(stored)
            case "region_latency":
                values.latency(stored)
            case "hosts":
                values.host(stored)
        return []

    def _collisions(self, number: int, text: bytes, name: str) -> list[str]:
        """Say which other live machine or peer of the network has the address, however it is written."""
        address = text.decode().lower()
        execute, found = self.connection.execute, []
        machines = execute(
            "SELECT id FROM machines WHERE network_id = ? AND lower(address) = ? AND state = 'started'",
            (number, address),
        )
        peers = execute("SELECT name FROM peers WHERE network_id = ? AND lower(address) = ?", (number, address))
        others = [f"machine {shown(ident)}" for (ident,) in machines] + [f"peer {shown(peer)}" for (peer,) in peers]
        if name in others and len(others) > 1:
            found.append(f"{name}: {' and '.join(o for o in others if o != name)} has address {address} already")
        return found


def _columns(table: str, row: Row) -> list[str]:
    """Return the columns of *row*, none of them made up."""
    if table not in KEYS:
        raise Refused([f"{table!r} is no table of a catalog"])
    if unknown := [column for column in row if column not in TABLES[table]]:
        raise Refused([f"{table}: {unknown[0]!r} is no column"])
    return list(row)


def network_text(number: NetworkId | int, prefix: bytes = b"\xfd\xaa") -> str:
    """A network's /48 as text."""
    return f"{prefix.hex()}:{number >> 16:x}:{number & 0xFFFF:x}::/48"
