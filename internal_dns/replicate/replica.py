"""A catalog file that follows a bucket: applies batches, rows and position in one transaction.

Only the follower writes this file. store/writer.py refuses other writers and names the bucket to
publish to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec

from internal_dns.replicate.codec import FORMS, NUMBERS, DecodedValue, bucket_key, digest
from internal_dns.replicate.logic import Batch, Position, Quarantined
from internal_dns.store.schema import BY_NAME, KEYS, OF_MACHINE, TABLES
from internal_dns.store.sqlite import connect
from internal_dns.store.writer import Writer

MAX_TOMBSTONES: Final = 100_000


class Replaced(Exception):
    """Another file has replaced the open one; its position must be read."""


class Replica:
    """Applies batches to the file of *writer*."""

    def __init__(self, writer: Writer, source: str) -> None:
        self.writer, self.source = writer, source
        self.connection = writer.connection
        # Rows and position share a transaction, so a commit that a power failure loses is
        # followed again.
        self.connection.execute("PRAGMA synchronous = NORMAL")
        # A long transaction must not lock out readers.
        self.connection.execute("PRAGMA journal_mode = WAL")
        # A container with a read-only root may have no place for a temporary file.
        self.connection.execute("PRAGMA temp_store = MEMORY")
        self.connection.create_function("bucket_key", -1, _key, deterministic=True)
        self.connection.create_function("digest", 1, digest, deterministic=True)
        script = (
            resources.files("internal_dns.replicate").joinpath("replica.sql").read_text("utf-8")
        )
        self.connection.executescript(f"BEGIN IMMEDIATE; {script}; COMMIT;")

    def position(self) -> Position | None:
        """Return the position of the file; None before its first full resync."""
        row = self.connection.execute("SELECT stream, revision FROM replica").fetchone()
        return Position(row[0].decode(), row[1]) if row else None

    def count_keys(self) -> int:
        """Return how many keys of the bucket the file has received, including tombstones."""
        return int(self.connection.execute("SELECT count(*) FROM replica_rows").fetchone()[0])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything done inside, or nothing. Raises Replaced."""
        if self.writer.is_replaced():
            raise Replaced(f"{self.writer.path} was replaced by another file")
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.writer.trim()
            self.connection.execute("COMMIT")
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    # ── inside a transaction ──────────────────────────────────────────────────────────────────────

    def applied_revisions(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the applied revision of each of *keys* that has one."""
        rows = self.connection.execute(
            "SELECT key, revision FROM replica_rows WHERE key IN (SELECT value FROM json_each(?))",
            (_json(keys),),
        )
        return {key.decode(): revision for key, revision in rows}

    def apply(self, batch: Batch) -> None:
        """Write the rows of *batch* and the state of its keys."""
        many = self.connection.executemany
        for table, keys in batch.deletes.items():
            bound = [_bound(table, key) for key in keys]
            many(f"DELETE FROM {table} WHERE {_where(table)}", bound)
            if table == "machines":
                self._clear_parts(key[0] for key in keys)
        for table, stored in batch.puts.items():
            many(_UPSERT[table], [s.row for s in stored])
            if table == "machines":
                self._replace_parts(stored)
        many("INSERT OR REPLACE INTO replica_rows VALUES (?, ?, ?)", batch.revisions)
        self._quarantine(batch.revisions, batch.quarantined)
        if batch.floor is not None:
            # The follower forgets purged tombstones when it is idle; a busy bucket never is.
            (gone,) = self.connection.execute(
                "SELECT count(*) FROM replica_rows WHERE state = 'gone'"
            ).fetchone()
            if gone > MAX_TOMBSTONES:
                self.forget_tombstones(self.tombstones(batch.floor))

    def _replace_parts(self, machines: Sequence[DecodedValue]) -> None:
        """Replace the metadata and services of *machines* by those of their values."""
        self._clear_parts(s.row[0] for s in machines)
        many = self.connection.executemany
        many(_insert("machine_metadata"), [m for s in machines for m in s.metadata])
        many(_insert("machine_services"), [v for s in machines for v in s.services])

    def _clear_parts(self, machines: Iterable[str]) -> None:
        bound = (_json(machines),)
        for table in OF_MACHINE:
            those = "machine_id IN (SELECT value FROM json_each(?))"
            self.connection.execute(f"DELETE FROM {table} WHERE {those}", bound)

    def _quarantine(
        self, revisions: Sequence[tuple[str, int, str]], bad: Sequence[Quarantined]
    ) -> None:
        many = self.connection.executemany
        if self.count_quarantined():
            good = [(key,) for key, _, state in revisions if state != "bad"]
            many("DELETE FROM replica_quarantine WHERE key = ?", good)
        many(
            "INSERT OR REPLACE INTO replica_quarantine VALUES (?, ?, ?)",
            [(q.key, q.revision, q.why) for q in bad],
        )

    @contextmanager
    def without_triggers(self) -> Iterator[None]:
        """Drop the journal's triggers for a while, in a transaction on a file without readers."""
        triggers = self.connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            self.connection.execute(f"DROP TRIGGER {name.decode()}")
        yield
        for _, sql in triggers:
            self.connection.execute(sql.decode())

    def clear_state(self) -> None:
        """Forget the state of all keys before a full resync."""
        self.connection.execute("DELETE FROM replica_rows")
        self.connection.execute("DELETE FROM replica_quarantine")

    def tombstones(self, floor: int) -> list[str]:
        """Return the keys deleted up to revision *floor*."""
        rows = "SELECT key FROM replica_rows WHERE state = 'gone' AND revision <= ?"
        return [key.decode() for (key,) in self.connection.execute(rows, (floor,))]

    def forget_tombstones(self, keys: Iterable[str]) -> None:
        """Forget keys whose tombstone the bucket no longer has."""
        self.connection.executemany(
            "DELETE FROM replica_rows WHERE key = ? AND state = 'gone'", [(k,) for k in keys]
        )

    def find_extra_rows(self, limit: int) -> list[str]:
        """Find the rows that were not delivered; return the keys of at most *limit*.

        A quarantined key protects its row.
        """
        execute = self.connection.execute
        execute("DROP TABLE IF EXISTS temp.extra_rows")
        execute("CREATE TEMP TABLE extra_rows (name TEXT, row INTEGER, key TEXT)")
        for table in FORMS:
            (rows,) = execute(f"SELECT count(*) FROM {table}").fetchone()
            delivered = (
                "SELECT count(*) FROM replica_rows WHERE state = 'row' AND key > ? AND key < ?"
            )
            # Every delivered row is in the table, so equal numbers mean no extra row.
            if execute(delivered, (f"{table}.", f"{table}/")).fetchone()[0] < rows:
                key = _sql_key(table)
                execute(
                    f"INSERT INTO extra_rows SELECT ?, rowid, {key} FROM {table} WHERE NOT EXISTS "
                    f"(SELECT 1 FROM replica_rows r "
                    f"WHERE r.state IN ('row', 'bad') AND r.key = {key})",
                    (table,),
                )
        return [key.decode() for (key,) in execute("SELECT key FROM extra_rows LIMIT ?", (limit,))]

    def delete_extra_rows(self, spared: Iterable[str]) -> int:
        """Delete the rows that `find_extra_rows` found, except those with a key in *spared*.

        Returns how many.
        """
        execute = self.connection.execute
        self.connection.executemany(
            "DELETE FROM extra_rows WHERE key = ?", [(key,) for key in spared]
        )
        deleted = 0
        for table in FORMS:
            rows = "SELECT row FROM extra_rows WHERE name = ?"
            deleted += execute(f"DELETE FROM {table} WHERE rowid IN ({rows})", (table,)).rowcount
        for table in OF_MACHINE:
            deleted += execute(
                f"DELETE FROM {table} WHERE machine_id NOT IN (SELECT id FROM machines)"
            ).rowcount
        return deleted

    def set_position(self, position: Position, now: float) -> None:
        """Store the position of the file."""
        execute = self.connection.execute
        bound = (self.source, position.stream, position.revision, now)
        if not execute(
            "UPDATE replica SET source = ?, stream = ?, revision = ?, at = ?", bound
        ).rowcount:
            execute("INSERT INTO replica VALUES (?, ?, ?, ?)", bound)

    def count_quarantined(self) -> int:
        """Return how many keys are quarantined."""
        return int(self.connection.execute("SELECT count(*) FROM replica_quarantine").fetchone()[0])


def _insert(table: str) -> str:
    """Return the SQL that inserts a row; the file may have further columns."""
    columns = TABLES[table]
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _upsert(table: str) -> str:
    columns, keys = TABLES[table], KEYS[table]
    rest = [column for column in columns if column not in keys]
    into = _insert(table)
    if not rest:
        return f"{into} ON CONFLICT ({', '.join(keys)}) DO NOTHING"
    # An unchanged row is not written: no entry in the journal, nothing for the server to reload.
    sets = ", ".join(f"{column} = excluded.{column}" for column in rest)
    differs = " OR ".join(f"{table}.{column} IS NOT excluded.{column}" for column in rest)
    return f"{into} ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sets} WHERE {differs}"


_UPSERT: Final = {table: _upsert(table) for table in FORMS}


def _where(table: str) -> str:
    """Return the condition that finds a row by the parts of its key."""
    return " AND ".join(
        f"digest(CAST({column.name} AS BLOB)) = ?" if column.hashed else f"{column.name} = ?"
        for column in BY_NAME[table].keys
    )


def _bound(table: str, key: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the key columns with the types that the file has."""
    return tuple(
        int(part) if number else part for part, number in zip(key, NUMBERS[table], strict=True)
    )


def _sql_key(table: str) -> str:
    """Return SQL for the bucket key of a row.

    The columns are cast to BLOB, because text that is not UTF-8 would fail the statement.
    """
    columns = ", ".join(f"CAST({table}.{column} AS BLOB)" for column in KEYS[table])
    return f"bucket_key('{table}', {columns})"


def _json(texts: Iterable[str]) -> str:
    """Return *texts* as one bound value, so that one statement takes thousands of them."""
    return msgspec.json.encode(list(texts)).decode()


def _key(table: str, *parts: object) -> str:
    return bucket_key(table, parts)


# ── of any file ───────────────────────────────────────────────────────────────────────────────────


def followed(path: Path) -> dict[str, Any] | None:
    """Return source, stream, revision and time of a replica; None for any other file.

    Raises what `connect` raises.
    """
    connection = connect(path)
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'replica'").fetchone():
            return None
        row = connection.execute("SELECT source, stream, revision, at FROM replica").fetchone()
        return row and {
            "source": row[0].decode(),
            "stream": row[1].decode(),
            "revision": row[2],
            "at": row[3],
        }
    finally:
        connection.close()


def quarantine(path: Path, limit: int) -> tuple[int, list[tuple[str, int, str]]]:
    """Return the number of quarantined keys, and key, revision and reason of the first *limit*."""
    connection = connect(path)
    try:
        if not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'replica_quarantine'"
        ).fetchone():
            return 0, []
        (count,) = connection.execute("SELECT count(*) FROM replica_quarantine").fetchone()
        rows = connection.execute(
            "SELECT key, revision, why FROM replica_quarantine ORDER BY key LIMIT ?", (limit,)
        )
        return count, [(key.decode(), revision, why.decode()) for key, revision, why in rows]
    finally:
        connection.close()
