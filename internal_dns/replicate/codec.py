"""The encoding of a catalog row as a key and a value of a bucket.

docs/replication.md and docs/bucket.schema.json describe it for other publishers.

    key     machines.cpj64e35ehp62ob3c8
            the table, then the key columns of the row in base32hex; an empty one is `-`. Of the
            value of a record, which may be long, its SHA-256
    value   {"version": 1, "id": "3d8d99…", "network_id": 24, …,
             "metadata": {"role": "leader"}, "services": […]}

The value of a machine includes its metadata and services, so that a machine changes as a whole.
Each row has exactly one key.
"""

from __future__ import annotations

import re
import sqlite3
from base64 import b32hexencode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
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
FLOOR: Final = "floor"  # the only key that is not a row
# How many columns this version knows. Versions only add columns, so a host that knows fewer is an
# older one: it ignores members that a newer publisher writes.
COLUMNS: Final = sum(len(table.columns) for table in CATALOG)
UPGRADE: Final = "upgrade internal-dns"
# The other tables belong to a machine and are part of its value.
PUBLISHED: Final = tuple(table for table in CATALOG if table.name not in OF_MACHINE)
# The order in which rows are published: parents first.
ORDER: Final = [table.name for table in PUBLISHED]

RowKey = tuple[str, tuple[str, ...]]  # table, key columns as text


class InvalidEntry(Exception):
    """A key or value is invalid; the text says why."""


class NewerEntry(InvalidEntry):
    """The key or value was written by a later version of internal-dns, which can read it."""

    def __init__(self, words: str) -> None:
        super().__init__(f"{words}: {UPGRADE}")


class _Value(Struct, frozen=True, kw_only=True):
    """Unknown members are ignored: a newer publisher of the same version may write them."""

    version: Literal[1]


def _member(domain: Domain) -> Any:
    """Return the msgspec type of the JSON values of *domain*."""
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
    """Return name, type and default of each column of *table* except those in *given*."""
    found: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for column in table.columns:
        member = str if column.lenient and column.domain.pattern else _member(column.domain)
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
# Members of a machine's value that are not columns of its row.
_BELONGINGS: Final[list[tuple[str, Any, Any]]] = [
    ("metadata", dict[str, str], msgspec.field(default_factory=dict)),
    ("services", tuple[_Service, ...], ()),  # type: ignore[valid-type]
]


class Floor(_Value, frozen=True, kw_only=True):
    """Deletes up to this revision may have been purged. Its presence marks a complete bucket."""

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
# Which key columns are integers.
NUMBERS: Final[Mapping[str, tuple[bool, ...]]] = {
    table.name: tuple(column.domain.sql == "INTEGER" for column in table.keys)
    for table in PUBLISHED
}
_DIGEST: Final = 32  # octets
# Hot path: a new follower reads a million values. These get the row of a value, and the cells of a
# row that Values checks.
_ROW: Final = {table: attrgetter(*TABLES[table]) for table in ORDER}
_SERVICE: Final = attrgetter(*TABLES["machine_services"][1:])
_READ_OF: Final = {
    table: itemgetter(*map(TABLES[table].index, columns)) for table, columns in READ.items()
}
# What invalid JSON raises; RecursionError comes from deeply nested brackets.
_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class DecodedValue(NamedTuple):
    """A value as rows of the file: its own in the order of TABLES, then a machine's parts."""

    row: tuple[Any, ...]
    metadata: tuple[tuple[str, str, str], ...] = ()
    services: tuple[tuple[str, str, str, int, int, int], ...] = ()


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────


def bucket_key(table: str, parts: tuple[object, ...]) -> str:
    """Return the key of the row of *table* with these key columns."""
    if table == "records":
        parts = (*parts[:-1], bytes.fromhex(digest(parts[-1])))
    return ".".join((table, *map(_part, parts)))


def host_key(host: str) -> str:
    """Return the key of a host's report, in the bucket of the fleet."""
    return _part(host)


def digest(value: object) -> str:
    """Return what a RowKey has of a column that is hashed."""
    return sha256(value if isinstance(value, bytes) else str(value).encode()).hexdigest()


def _part(value: object) -> str:
    octets = value if isinstance(value, bytes) else str(value).encode()
    return b32hexencode(octets).decode().rstrip("=").lower() or "-"


def read_key(key: str) -> RowKey:
    """Return table and key columns of *key*.

    Raises InvalidEntry, also for any other spelling of a row's key.
    """
    table, *parts = key.split(".")
    if table not in FORMS:
        raise InvalidEntry(f"{shown(table)} is not a table")
    if len(parts) != len(KEYS[table]):
        raise InvalidEntry(
            f"a key of {table} has {len(KEYS[table])} parts after the table: "
            f"{', '.join(KEYS[table])}"
        )
    if table == "records":
        found = (*map(_text, parts[:-1]), _digest_in(parts[-1]))
    else:
        found = tuple(map(_text, parts))
    for text, number in zip(found, NUMBERS[table], strict=True):
        # SQLite would match row 24 by 024 and by 2.4e1, so their tombstones would delete the row
        # of another key.
        if number and not _NUMBER.fullmatch(text):
            raise InvalidEntry(f"{shown(text)} is not the canonical form of an integer in a key")
    return table, found


def _digest_in(part: str) -> str:
    octets = _octets(part)
    if len(octets) != _DIGEST:
        raise InvalidEntry(f"{shown(part)} is no SHA-256")
    return octets.hex()


# Hot path: int() with base 32 accepts exactly this alphabet and takes a tenth of the time of
# base64.b32hexdecode.
def _octets(part: str) -> bytes:
    if not _PART.fullmatch(part):
        raise InvalidEntry(f"{shown(part)} is not base32hex in lower case without padding")
    if part == "-":
        return b""
    octets, spare = divmod(len(part) * 5, 8)
    number = int(part, 32)
    if spare >= 5 or number & ((1 << spare) - 1):
        raise InvalidEntry(f"{shown(part)} is not valid base32hex")
    return (number >> spare).to_bytes(octets, "big")


def _text(part: str) -> str:
    try:
        text = _octets(part).decode()
    except UnicodeDecodeError:
        raise InvalidEntry(f"{shown(part)} does not encode UTF-8") from None
    if "\0" in text:  # SQLite's JSON functions would end the text there
        raise InvalidEntry(f"{shown(part)} encodes a NUL")
    return text


# ── values ────────────────────────────────────────────────────────────────────────────────────────


def read_value(key: RowKey, value: bytes, values: Values) -> DecodedValue:
    """Return the rows that *value* at *key* stands for.

    Raises InvalidEntry for every value that the server could not serve, NewerEntry for one of a
    later version.
    """
    table, parts = key
    try:
        made: Any = _DECODERS[table].decode(value)
    except _BROKEN as error:
        raise _refusal(value, error) from None
    own = tuple(str(getattr(made, column)) for column in KEYS[table])
    if table == "records":
        own = (*own[:-1], digest(own[-1]))
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
    """Return the cells of *row* in the form that the reader of a file gets them."""
    return tuple([c.encode() if isinstance(c, str) else c for c in _READ_OF[table](row)])


def _words(error: Exception) -> str:
    # The text repeats member names of the value: make it printable, and limit it.
    return printable(str(error).encode("utf-8", "backslashreplace"))[:300]


def _refusal(value: bytes, error: Exception) -> InvalidEntry:
    """Return why *value*, which has no form of this version, is not read."""
    version = _members_of(value).get("version")
    if version in (None, VERSION):
        return InvalidEntry(_words(error))
    if _is_later(version, VERSION):
        return NewerEntry(f"version {version} is unknown")
    return InvalidEntry(f"version {shown(version)} is unknown")


def _members_of(value: bytes) -> dict[str, Any]:
    """Return the members of any JSON object; none when *value* is something else."""
    try:
        found = msgspec.json.decode(value)
    except _BROKEN:
        return {}
    return found if isinstance(found, dict) else {}


def _is_later(version: object, than: int) -> bool:
    return isinstance(version, int) and not isinstance(version, bool) and version > than


def is_newer(key: str, value: bytes) -> bool:
    """Whether a later version of internal-dns wrote *value*: its version is unknown, or it has one
    and *key* is of an unknown table."""
    known = key == FLOOR or key.partition(".")[0] in FORMS
    return _is_later(_members_of(value).get("version"), VERSION if known else 0)


def with_unknown_members(table: str, old: bytes, new: bytes) -> bytes:
    """Return *new* with those members of *old* that this version does not know.

    A later version with the same version of the form wrote them; an older publisher must not
    remove them.
    """
    known, there = FORMS[table].__struct_fields__, _members_of(old)
    if there.get("version") != VERSION:
        return new
    more = {name: cell for name, cell in there.items() if name not in known}
    return _ENCODER.encode({**msgspec.json.decode(new), **more}) if more else new


def network_name(value: bytes) -> str:
    """Return the name in the value of a network, whatever its version; empty: none."""
    name = _members_of(value).get("name")
    return name if isinstance(name, str) else ""


def network_of(key: str, value: bytes) -> int | None:
    """Return the network of an entry that cannot be read, as far as its key and value say."""
    table, *parts = key.split(".")
    columns = KEYS.get(table, ())
    at = (
        0 if table == "networks" else columns.index("network_id") if "network_id" in columns else -1
    )
    number: object = _members_of(value).get("network_id")
    if 0 <= at < len(parts):
        with suppress(InvalidEntry, ValueError):
            number = int(_text(parts[at]))
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _machine(made: Any, row: tuple[Any, ...], values: Values) -> DecodedValue:
    if values.machine(_cells("machines", row), {}, {}) is None:
        raise InvalidEntry(_why(values))
    if values.faults.total:  # its name is invalid: the machine is served without it
        _why(values)
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
    """Check *cells* as the reader of a file does. Raises InvalidEntry for a row it would skip."""
    match table:
        case "networks":
            if values.network(cells[0]) is None or values.name(cells[1]) is None:
                raise InvalidEntry("invalid id or name")
        case "apps":
            if values.network(cells[0]) is None or values.name(cells[1]) is None:
                raise InvalidEntry("invalid network_id or name")
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
        case "zones":
            made = values.zone(cells)
        case "records":
            # Whether its network has a zone for it another key says: the file's reader looks.
            made = values.record(cells, None)
    if (
        table in ("zones", "records", "peers", "flycasts", "region_latency", "hosts")
        and made is None
    ):
        raise InvalidEntry(_why(values))


def _why(values: Values) -> str:
    """Return the fault that the reader recorded for the row, and clear it."""
    faults = values.faults.all()
    for scope in list(values.faults.counts):
        values.faults.forget(scope)
    return faults[-1].reason if faults else "cannot be served"


def read_floor(value: bytes) -> int:
    """Return the revision of a floor. Raises InvalidEntry."""
    try:
        return _FLOOR.decode(value).floor
    except _BROKEN as error:
        raise _refusal(value, error) from None


def write_floor(revision: int) -> bytes:
    return _ENCODER.encode(Floor(version=VERSION, floor=revision))


def same_value(table: str, one: bytes, other: bytes) -> bool:
    """Whether two encoded values are equal, regardless of formatting."""
    if one == other:
        return True
    try:
        return bool(_DECODERS[table].decode(one) == _DECODERS[table].decode(other))
    except _BROKEN:
        return False


# ── from a file ───────────────────────────────────────────────────────────────────────────────────


def file_values(connection: sqlite3.Connection) -> Iterator[tuple[str, str, bytes]]:
    """Yield table, key and value of every row of a file, parents first.

    The connection must return text as octets. Rows are not checked here: `read_value` rejects a
    cell that no value can hold (not UTF-8, another type).
    """
    metadata: dict[object, dict[str, Any]] = {}
    for machine, name, text in _rows(connection, MACHINE_METADATA):
        metadata.setdefault(machine, {})[_decoded(name)] = _decoded(text)
    services: dict[object, list[dict[str, Any]]] = {}
    for row in _rows(connection, MACHINE_SERVICES):
        value = _value(MACHINE_SERVICES, row)
        services.setdefault(value.pop("machine_id"), []).append(value)
    for table in PUBLISHED:
        for row in _rows(connection, table):
            cells = dict(zip(TABLES[table.name], row, strict=True))
            key = bucket_key(table.name, tuple(cells[column] for column in KEYS[table.name]))
            value = {"version": VERSION, **_value(table, row)}
            if table is MACHINES:
                value |= {
                    "metadata": metadata.get(row[0], {}),
                    "services": services.get(_decoded(row[0]), []),
                }
            yield table.name, key, _ENCODER.encode(value)


def _value(table: Table, row: tuple[Any, ...]) -> dict[str, Any]:
    """Return the members of a row's value, as the reader of a file takes its cells."""
    found = {}
    for column, cell in zip(table.columns, row, strict=True):
        if column.domain is FLAG:
            found[column.name] = column.flag(cell)
        elif cell is None and column.lenient:
            found[column.name] = column.default
        else:
            found[column.name] = _decoded(cell)
    return found


def _rows(connection: sqlite3.Connection, table: Table) -> Iterator[tuple[Any, ...]]:
    """Return the rows of *table* in the order of its key."""
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
