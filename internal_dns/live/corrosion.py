"""Rows in Corrosion, over its HTTP API: a gossiping SQLite, which every host may write.

    POST /v1/queries         one SELECT; the reply is a line per row
    POST /v1/transactions    statements in one transaction, all or nothing

Corrosion has no compare-and-set. Each statement names the owner of the row it changes, so a source
never touches what the agent knows as another's; but when two hosts write one row at the same time,
the last writer wins, column by column. So there is no lease: two followers of one name are refused
only on the same host.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from internal_dns.live.http import Api, ApiAway
from internal_dns.live.source import Key, Object, Objects
from internal_dns.live.status import Status
from internal_dns.live.target import OtherFollower, TargetAway
from internal_dns.store.rows import shown
from internal_dns.store.schema import (
    BY_NAME,
    KEYS,
    MACHINE_METADATA,
    MACHINE_SERVICES,
    MACHINES,
    PEERS,
    TABLES,
)

TIMEOUT: Final = 60.0  # seconds for one reply
LAST_WRITER: Final = "Corrosion: of two writers of one row, the last one wins, column by column"
_OWNED: Final = (MACHINES, PEERS)
_PARTS: Final = {"metadata": MACHINE_METADATA.name, "services": MACHINE_SERVICES.name}
# An object is a row without these.
_SET_HERE: Final = ("source", "updated_at")

Statement = list[Any]  # SQL, and the values of its parameters


class CorrosionTarget:
    """The catalog of one agent, for one source. *now* returns Unix seconds."""

    def __init__(self, api: Api, source: str, now: Callable[[], float] = time.time) -> None:
        self.api, self.source, self.now = api, source, now

    @contextmanager
    def only_here(self) -> Iterator[None]:
        """Exclude another follower of this name on this host. Raises OtherFollower.

        The abstract socket is a lock that ends with its process.
        """
        with socket.socket(socket.AF_UNIX) as lock:
            try:
                lock.bind(f"\0internal-dns/follow/{self.api}/{self.source}")
            except OSError:
                raise OtherFollower(
                    f"another process on this host follows {self.source} for {self.api}"
                ) from None
            yield

    async def rows(self) -> Objects:
        """Return the rows of this source. Raises TargetAway."""
        found: dict[Key, dict[str, Any]] = {}
        for table in _OWNED:
            columns = [c for c in TABLES[table.name] if c not in _SET_HERE]
            query = f"SELECT {', '.join(columns)} FROM {table.name} WHERE source = ?"
            for cells in await self._select([query, [self.source]]):
                row = dict(zip(columns, cells, strict=True))
                found[table.name, *(row[c] for c in KEYS[table.name])] = row
        machines = {key[1]: row for key, row in found.items() if key[0] == MACHINES.name}
        for row in machines.values():
            row |= {"metadata": {}, "services": []}
        mine = "machine_id IN (SELECT id FROM machines WHERE source = ?)"
        for member, table_name in _PARTS.items():
            columns = list(TABLES[table_name])
            query = f"SELECT {', '.join(columns)} FROM {table_name} WHERE {mine}"
            for cells in await self._select([query, [self.source]]):
                part = dict(zip(columns, cells, strict=True))
                row = machines.get(part.pop("machine_id"), {})
                if member == "metadata" and row:
                    row[member][part["key"]] = part["value"]
                elif row:
                    row[member].append(part)
        return found

    async def apply(self, puts: Objects, deletes: frozenset[Key]) -> dict[Key, str]:
        """Write in one transaction; return why an object was not written. Raises TargetAway."""
        faults = await self._faults(puts)
        statements = [
            statement for key in sorted(deletes, key=str) for statement in self._delete(key)
        ]
        for key, object_ in puts.items():
            if key not in faults:
                statements += self._put(key, object_)
        if statements:
            await self._write(statements)
        return faults

    async def report(self, status: Status) -> None:
        """Corrosion has no place for it: the metrics of `follow` tell it."""

    # ── statements ────────────────────────────────────────────────────────────────────────────────

    async def _faults(self, puts: Objects) -> dict[Key, str]:
        """Return which of *puts* the catalog has no place for. Raises TargetAway."""
        networks = {number for (number,) in await self._select(["SELECT id FROM networks", []])}
        owners: dict[Key, str] = {}
        for table in _OWNED:
            keys = KEYS[table.name]
            query = (
                f"SELECT source, {', '.join(keys)} FROM {table.name} WHERE source <> ? "
                f"AND {keys[-1]} IN (SELECT value FROM json_each(?))"
            )
            wanted = [key[-1] for key in puts if key[0] == table.name]
            for owner, *values in await self._select([query, [self.source, _json(wanted)]]):
                owners[table.name, *values] = owner
        faults = {}
        for key, object_ in puts.items():
            if (owner := owners.get(key)) is not None:
                whose = f"the live source {owner}" if owner else "no live source"
                faults[key] = f"the row is there and belongs to {whose}"
            elif object_["network_id"] not in networks:
                faults[key] = f"network {object_['network_id']} is not in the catalog"
        return faults

    def _put(self, key: Key, object_: Object) -> Iterator[Statement]:
        table = BY_NAME[str(key[0])]
        cells = {c: value for c, value in object_.items() if c not in _PARTS}
        cells |= {"source": self.source}
        if "updated_at" in TABLES[table.name]:
            cells |= {"updated_at": int(self.now())}
        rest = [c for c in cells if c not in KEYS[table.name]]
        sets = ", ".join(f"{c} = excluded.{c}" for c in rest)
        yield [
            f"INSERT INTO {table.name} ({', '.join(cells)}) VALUES ({_marks(cells)}) "
            f"ON CONFLICT ({', '.join(KEYS[table.name])}) DO UPDATE SET {sets} "
            f"WHERE {table.name}.source = excluded.source",
            list(cells.values()),
        ]
        if table is MACHINES:
            yield from self._parts(str(key[1]), object_)

    def _parts(self, machine: str, object_: Object) -> Iterator[Statement]:
        """Yield the statements that make metadata and services of *machine* those of *object_*.

        Only rows that differ are written: an equal one would be gossiped to every host.
        """
        metadata = [{"key": k, "value": v} for k, v in object_.get("metadata", {}).items()]
        for table, parts in (
            (MACHINE_METADATA.name, metadata),
            (MACHINE_SERVICES.name, list(object_.get("services", ()))),
        ):
            keys = KEYS[table][1:]
            # json_each has a column `key`, too.
            present = " AND ".join(
                f"json_extract(json_each.value, '$.{c}') = {table}.{c}" for c in keys
            )
            yield [
                f"DELETE FROM {table} WHERE machine_id = ? AND {_MINE} "
                f"AND NOT EXISTS (SELECT 1 FROM json_each(?) WHERE {present})",
                [machine, machine, self.source, _json(parts)],
            ]
            for part in parts:
                cells = {"machine_id": machine, **part}
                rest = [c for c in cells if c not in KEYS[table]]
                sets = ", ".join(f"{c} = excluded.{c}" for c in rest)
                differs = " OR ".join(f"{table}.{c} IS NOT excluded.{c}" for c in rest)
                yield [
                    f"INSERT INTO {table} ({', '.join(cells)}) SELECT {_marks(cells)} "
                    f"WHERE {_MINE} ON CONFLICT ({', '.join(KEYS[table])}) "
                    f"DO UPDATE SET {sets} WHERE {differs}",
                    [*cells.values(), machine, self.source],
                ]

    def _delete(self, key: Key) -> Iterator[Statement]:
        table, *values = key
        if table == MACHINES.name:
            for parts in _PARTS.values():
                yield [
                    f"DELETE FROM {parts} WHERE machine_id = ? AND {_MINE}",
                    [values[0], values[0], self.source],
                ]
        where = " AND ".join(f"{c} = ?" for c in KEYS[str(table)])
        yield [f"DELETE FROM {table} WHERE {where} AND source = ?", [*values, self.source]]

    # ── the API ───────────────────────────────────────────────────────────────────────────────────

    async def _select(self, statement: Statement) -> list[list[Any]]:
        """Return the rows of a SELECT. Raises TargetAway."""
        rows: list[list[Any]] = []
        try:
            reply = await self.api.post("/v1/queries", statement, timeout=TIMEOUT)
        except ApiAway as error:
            raise TargetAway(str(error)) from error
        for line in reply.body.splitlines():
            event = self._object(line)
            if "row" in event:
                rows.append(event["row"][1])
            elif "error" in event:
                raise TargetAway(f"{self.api}: {shown(str(event['error']))}")
            elif "eoq" in event:
                return rows
        raise TargetAway(f"{self.api}: the reply to a query ends early")

    async def _write(self, statements: list[Statement]) -> None:
        """Execute *statements* in one transaction. Raises TargetAway: nothing was written, or it is
        not known; the rows are read again then."""
        try:
            reply = await self.api.post("/v1/transactions", statements, timeout=TIMEOUT)
        except ApiAway as error:
            raise TargetAway(str(error)) from error
        results = self._object(reply.body).get("results")
        if not isinstance(results, list) or len(results) != len(statements):
            raise TargetAway(f"{self.api}: the reply to a transaction has not a result for each")
        for result in results:
            if not isinstance(result, Mapping) or "error" in result:
                said = result.get("error") if isinstance(result, Mapping) else result
                raise TargetAway(f"{self.api}: {shown(str(said))}")

    def _object(self, octets: bytes) -> dict[str, Any]:
        try:
            found = msgspec.json.decode(octets)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise TargetAway(f"{self.api}: not JSON: {shown(str(error))}") from error
        if not isinstance(found, dict):
            raise TargetAway(f"{self.api}: not an object")
        return found


# The machine of a part is this source's: its id and the source are bound.
_MINE: Final = "EXISTS (SELECT 1 FROM machines m WHERE m.id = ? AND m.source = ?)"


def _marks(cells: Mapping[str, Any]) -> str:
    return ", ".join("?" * len(cells))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
