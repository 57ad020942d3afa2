"""A row of the catalog as key and value of a bucket. docs/replication.md and
docs/bucket.schema.json are for others.

    key     machines.cpj64e35ehp62ob3c8     table, then the row's key columns, each in base32hex; an empty one is `-`
    value   {"version": 1, "id": "3d8d99…", "network_id": 24, …, "metadata": {"role": "leader"}, "services": […]}

What belongs to a machine is inside its value: a machine changes whole. A row has exactly one key.
"""

from __future__ import annotations

import re
import sqlite3
from base64 import b32hexencode
from collections.abc import Iterator, Mapping
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from internal_dns.core.names import printable
from internal_dns.store.rows import READ, Values, shown
from internal_dns.store.schema import (
    ADDRESS,
    CATALOG,
    FLAG,
    KEYS,
    MACHINE_METADATA,
    MACHINE_SERVICES,
    MACHINES,
    OF_MACHINE,
    TABLES,
    TIME,
    Domain,
    Table,
)
from internal_dns.store.sqlite import source

VERSION: Final[Literal[1]] = 1
FLOOR: Final = "floor"  # the one key that is no row
# What belongs to a machine is in its value.
PUBLISHED: Final = tuple(table for table in CATALOG if table.name not in OF_MACHINE)
# Parents first: the order in which rows are published.
ORDER: Final = [table.name for table in PUBLISHED]

RowKey = tuple[str, tuple[str, ...]]  # table, key columns as text


class InvalidEntry(Exception):
    """A key or a value that is none; the text says why."""


class _Value(Struct, frozen=True, kw_only=True):
    """Members that are not known here are ignored: a newer publisher of the same version may write
    them."""

    version: Literal[1]


def _member(domain: Domain) -> Any:
    """Return what JSON has for the values of *domain*, as msgspec says it."""
    if domain is FLAG:
        return bool
    if domain.choices:
        return Literal[domain.choices]
    plain: Any = {"TEXT": str, "INTEGER": int, "REAL": float}[domain.sql]
    meta: dict[str, Any] = {}
    if domain.pattern:
        meta["pattern"] = f"^{domain.pattern}$"
    if domain.low is not None:
        meta |= {"ge": domain.low, "le": domain.high}
    if domain in (ADDRESS, TIME):
        meta["description"] = domain.words
    made = Annotated[plain, Meta(**meta)] if meta else plain
    return made | None if domain.optional else made


def _members(table: Table, *given: str) -> list[tuple[str, Any] | tuple[str, Any, Any]]:
    """Return name, type and default of each column of *table* but those *given* elsewhere."""
    found: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for column in table.columns:
        member = _member(column.domain)
        if column.name in given:
            continue
        if column.required:
            found.append((column.name, member))
        else:
            default = bool(column.default) if column.domain is FLAG else column.default
            found.append((column.name, member, default))
    return found


_Service: Final = msgspec.defstruct(
    "Service", _members(MACHINE_SERVICES, "machine_id"), frozen=True, kw_only=True
)
# Members of a machine's value that are no columns of its row.
_BELONGINGS: Final[list[tuple[str, Any, Any]]] = [
    ("metadata", dict[str, str], msgspec.field(default_factory=dict)),
    ("services", tuple[_Service, ...], ()),  # type: ignore[valid-type]
]


class Floor(_Value, frozen=True, kw_only=True):
    """Deletes up to this revision are no longer told. That there is one says: the bucket is
    whole."""

    floor: Annotated[int, Meta(ge=0)]


FORMS: Final[Mapping[str, type[Struct]]] = {
    table.name: msgspec.defstruct(
        table.noun.title(),
        [*_members(table), *(_BELONGINGS if table is MACHINES else [])],
        bases=(_Value,),
        frozen=True,
        kw_only=True,
    )
    for table in PUBLISHED
}
_DECODERS: Final = {table: msgspec.json.Decoder(form) for table, form in FORMS.items()}
_FLOOR: Final = msgspec.json.Decoder(Floor)
_ENCODER: Final = msgspec.json.Encoder()
_PART: Final = re.compile(r"-|[0-9a-v]{1,2048}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}")
# Key columns that are whole numbers.
NUMBERS: Final[Mapping[str, tuple[bool, ...]]] = {
    table.name: tuple(column.domain.sql == "INTEGER" for column in table.keys)
    for table in PUBLISHED
}
# Hot path: a follower that begins reads a million values. The row of a value, and of a row the
# cells that Values takes apart.
_ROW: Final = {table: attrgetter(*TABLES[table]) for table in ORDER}
_SERVICE: Final = attrgetter(*TABLES["machine_services"][1:])
_READ_OF: Final = {
    table: itemgetter(*map(TABLES[table].index, columns)) for table, columns in READ.items()
}
# What JSON that is none raises; the last is of brackets in brackets in brackets.
_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class DecodedValue(NamedTuple):
    """A value as rows of the file: its own, in the order of TABLES, and what belongs to it."""

    row: tuple[Any, ...]
    metadata: tuple[tuple[str, str, str], ...] = ()
    services: tuple[tuple[str, str, str, int], ...] = ()


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────


def bucket_key(table: str, parts: tuple[object, ...]) -> str:
    """Return the key of the row of *table* with these key columns."""
    return ".".join((table, *map(_part, parts)))


def _part(value: object) -> str:
    octets = value if isinstance(value, bytes) else str(value).encode()
    return b32hexencode(octets).decode().rstrip("=").lower() or "-"


def read_key(key: str) -> RowKey:
    """Return table and key columns of *key*. Raises InvalidEntry; a key that is not the row's only one
    is malformed."""
    table, *parts = key.split(".")
    if table not in FORMS:
        raise InvalidEntry(f"{shown(table)} is no table")
    if len(parts) != len(KEYS[table]):
        raise InvalidEntry(
            f"a key of {table} has {len(KEYS[table])} parts after the table: "
            f"{', '.join(KEYS[table])}"
        )
    found = tuple(map(_text, parts))
    for text, number in zip(found, NUMBERS[table], strict=True):
        # SQLite finds row 24 by 024 and by 2.4e1, too: a tombstone there would delete a row of
        # another key.
        if number and not _NUMBER.fullmatch(text):
            raise InvalidEntry(f"{shown(text)} is not how a key writes a whole number")
    return table, found


# Hot path: int() with base 32 knows exactly this alphabet, and takes a tenth of the time
# base64.b32hexdecode does.
def _text(part: str) -> str:
    if not _PART.fullmatch(part):
        raise InvalidEntry(f"{shown(part)} is not base32hex in lower case without padding")
    if part == "-":
        return ""
    octets, spare = divmod(len(part) * 5, 8)
    number = int(part, 32)
    if spare >= 5 or number & ((1 << spare) - 1):
        raise InvalidEntry(f"{shown(part)} is not how base32hex writes any octets")
    try:
        text = (number >> spare).to_bytes(octets, "big").decode()
    except UnicodeDecodeError:
        raise InvalidEntry(f"{shown(part)} is no UTF-8 in base32hex") from None
    if "\0" in text:  # where SQLite's JSON functions take a text to end
        raise InvalidEntry(f"{shown(part)} has a NUL")
    return text


# ── values ────────────────────────────────────────────────────────────────────────────────────────


def read_value(key: RowKey, value: bytes, values: Values) -> DecodedValue:
    """Return the rows that *value* at *key* means. Raises InvalidEntry for all that the server could
    not answer from."""
    table, parts = key
    try:
        made: Any = _DECODERS[table].decode(value)
    except _BROKEN as error:
        raise InvalidEntry(_version(value) or _words(error)) from None
    own = tuple(str(getattr(made, column)) for column in KEYS[table])
    if own != parts:
        raise InvalidEntry(
            f"the key says {shown('/'.join(parts))}, the value {shown('/'.join(own))}"
        )
    row = tuple([int(cell) if isinstance(cell, bool) else cell for cell in _ROW[table](made)])
    if table == "machines":
        return _machine(made, row, values)
    if table in READ:
        _check(table, _cells(table, row), values)
    return DecodedValue(row)


def _cells(table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return *row* as the reader of a file takes it apart."""
    return tuple([c.encode() if isinstance(c, str) else c for c in _READ_OF[table](row)])


def _words(error: Exception) -> str:
    # They repeat what the value calls its members: for an operator's eyes, and not without end.
    return printable(str(error).encode("utf-8", "backslashreplace"))[:300]


def _version(value: bytes) -> str:
    """Say so when a value is of a version that is not known here."""
    try:
        found = msgspec.json.decode(value)
    except _BROKEN:
        return ""
    version = found.get("version") if isinstance(found, dict) else None
    return (
        ""
        if version in (None, VERSION)
        else f"version {shown(version)} is not known here: update internal-dns"
    )


def _machine(made: Any, row: tuple[Any, ...], values: Values) -> DecodedValue:
    if values.machine(_cells("machines", row), {}, {}) is None:
        raise InvalidEntry(_why(values))
    values.capitals.clear()
    taken: list[Any] = []
    services = []
    for service in made.services:
        of_service = (made.id, *_SERVICE(service))
        found = values.service(_cells("machine_services", of_service), taken)
        if isinstance(found, str):
            raise InvalidEntry(f"service {shown(service.name)}: {found}")
        taken.append(found)
        services.append(of_service)
    return DecodedValue(
        row,
        tuple((made.id, name, text) for name, text in made.metadata.items()),
        tuple(services),
    )


def _check(table: str, cells: tuple[Any, ...], values: Values) -> None:
    """Let the reader of the file judge: what it would leave out is refused here. Raises
    InvalidEntry."""
    match table:
        case "networks":
            if values.network(cells[0]) is None or values.name(cells[1]) is None:
                raise InvalidEntry("no valid id or name")
        case "apps":
            if values.network(cells[0]) is None or values.name(cells[1]) is None:
                raise InvalidEntry("no valid network_id or name")
        case "peers":
            made: object = values.peer(cells, {})
        case "flycasts":
            made = values.flycast(cells)
        case "regions":
            made = values.region(cells)
            if values.faults.total:
                raise InvalidEntry(_why(values))
        case "region_latency":
            made = values.latency(cells)
        case "hosts":
            made = values.host(cells)
    if table in ("peers", "flycasts", "region_latency", "hosts") and made is None:
        raise InvalidEntry(_why(values))


def _why(values: Values) -> str:
    """Return what the reader said of the row just judged, and forget it."""
    faults = values.faults.all()
    for scope in list(values.faults.counts):
        values.faults.forget(scope)
    return faults[-1].reason if faults else "cannot be served"


def read_floor(value: bytes) -> int:
    """Return the revision of a floor. Raises InvalidEntry."""
    try:
        return _FLOOR.decode(value).floor
    except _BROKEN as error:
        raise InvalidEntry(_version(value) or _words(error)) from None


def write_floor(revision: int) -> bytes:
    return _ENCODER.encode(Floor(version=VERSION, floor=revision))


def same_value(table: str, one: bytes, other: bytes) -> bool:
    """Whether two values mean the same, however they are written."""
    if one == other:
        return True
    try:
        return bool(_DECODERS[table].decode(one) == _DECODERS[table].decode(other))
    except _BROKEN:
        return False


# ── from a file ───────────────────────────────────────────────────────────────────────────────────


def file_values(connection: sqlite3.Connection) -> Iterator[tuple[str, str, bytes]]:
    """Yield table, key and value of every row of a file, parents first. The connection reads text
    as octets.

    Rows are told as they are: what no value can hold (not UTF-8, of another type) is for
    `read_value` to refuse.
    """
    metadata: dict[object, dict[str, Any]] = {}
    for machine, name, text in _rows(connection, MACHINE_METADATA):
        metadata.setdefault(machine, {})[_decoded(name)] = _decoded(text)
    services: dict[object, list[dict[str, Any]]] = {}
    columns = TABLES["machine_services"]
    for row in _rows(connection, MACHINE_SERVICES):
        services.setdefault(row[0], []).append(
            dict(zip(columns[1:], map(_decoded, row[1:]), strict=True))
        )
    for table in PUBLISHED:
        columns = TABLES[table.name]
        flags = [column.name for column in table.columns if column.domain is FLAG]
        for row in _rows(connection, table):
            cells = dict(zip(columns, row, strict=True))
            key = bucket_key(table.name, tuple(cells[column] for column in KEYS[table.name]))
            value = {"version": VERSION, **{c: _decoded(v) for c, v in cells.items()}}
            value |= {flag: bool(cells[flag]) for flag in flags}
            if table is MACHINES:
                value |= {
                    "metadata": metadata.get(row[0], {}),
                    "services": services.get(row[0], []),
                }
            yield table.name, key, _ENCODER.encode(value)


def _rows(connection: sqlite3.Connection, table: Table) -> Iterator[tuple[Any, ...]]:
    """Return the rows of *table* by key."""
    columns, keys = ", ".join(TABLES[table.name]), ", ".join(KEYS[table.name])
    return connection.execute(
        f"SELECT {columns} FROM {source(connection, table.name)} ORDER BY {keys}"
    )


def _decoded(cell: object) -> Any:
    return cell.decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else cell


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of every value, by table: docs/bucket.schema.json."""
    named = {**FORMS, FLOOR: Floor}
    refs, components = msgspec.json.schema_components(
        list(named.values()), ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of an internal-dns bucket, version 1: the member of `properties` is the "
        "first part of the key",
        "type": "object",
        "properties": dict(zip(named, refs, strict=True)),
        "$defs": components,
    }


if __name__ == "__main__":
    print(msgspec.json.format(msgspec.json.encode(json_schema()), indent=1).decode())
