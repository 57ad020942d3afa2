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
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import astuple

from internal_dns.core.names import printable
from internal_dns.store.rows import Values, shown
from internal_dns.store.sqlite import TABLES
from internal_dns.store.writer import KEYS

VERSION: Final[Literal[1]] = 1
FLOOR: Final = "floor"  # the one key that is no row
# Parents first: the order in which rows are published.
ORDER: Final = (
    "organizations regions region_latency hosts networks apps machines peers flycasts meta"
).split()  # fmt: skip

Key = tuple[str, tuple[str, ...]]  # table, key columns as text

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,63}$")]
Region = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,63}$")]
Address = Annotated[
    str, Meta(description="an IPv6 address of the network's /48, as RFC 5952 writes it")
]
NetworkId = Annotated[int, Meta(ge=1, le=0xFFFF_FFFF)]
Time = Annotated[int, Meta(ge=0, le=(1 << 53), description="Unix seconds")]


class Malformed(Exception):
    """A key or a value that is none; the text says why."""


class _Value(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: Literal[1]


class Organization(_Value, frozen=True, kw_only=True):
    slug: str
    name: str = ""


class Network(_Value, frozen=True, kw_only=True):
    id: NetworkId
    name: Name
    organization: str = ""


class App(_Value, frozen=True, kw_only=True):
    network_id: NetworkId
    name: Name


class Service(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,62}$")]
    protocol: Literal["tcp", "udp"] = "tcp"
    port: Annotated[int, Meta(ge=1, le=65_535)]


class Machine(_Value, frozen=True, kw_only=True):
    id: Name
    network_id: NetworkId
    app: Name
    address: Address
    region: Name
    process_group: Name = "app"
    state: str = "created"
    skip_registration: bool = False
    updated_at: Time = 0
    metadata: dict[str, str] = {}
    services: tuple[Service, ...] = ()


class Peer(_Value, frozen=True, kw_only=True):
    network_id: NetworkId
    name: Name
    address: Address
    region: Region = ""


class Flycast(_Value, frozen=True, kw_only=True):
    network_id: NetworkId
    app: Name
    address: Address


class Place(_Value, frozen=True, kw_only=True):
    code: Name
    name: str = ""
    latitude: Annotated[float, Meta(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Meta(ge=-180, le=180)] | None = None
    gateway: bool = False


class Latency(_Value, frozen=True, kw_only=True):
    from_region: Name
    to_region: Name
    milliseconds: Annotated[float, Meta(ge=0, lt=1e9)]


class Host(_Value, frozen=True, kw_only=True):
    id: Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
    name: str = ""
    region: Name


class Entry(_Value, frozen=True, kw_only=True):
    key: str
    value: str = ""


class Floor(_Value, frozen=True, kw_only=True):
    """Deletes up to this revision are no longer told. That there is one says: the bucket is
    whole."""

    floor: Annotated[int, Meta(ge=0)]


FORMS: Final[Mapping[str, type[_Value]]] = {
    "organizations": Organization, "networks": Network, "apps": App, "machines": Machine, "peers": Peer,
    "flycasts": Flycast, "regions": Place, "region_latency": Latency, "hosts": Host, "meta": Entry,
}  # fmt: skip
_DECODERS: Final = {table: msgspec.json.Decoder(form) for table, form in FORMS.items()}
_FLOOR: Final = msgspec.json.Decoder(Floor)
_ENCODER: Final = msgspec.json.Encoder()
_PART: Final = re.compile(r"-|[0-9a-v]{1,2048}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}")
# Key columns that are whole numbers.
NUMBERS: Final[Mapping[str, tuple[bool, ...]]] = {
    table: tuple(
        c == "network_id" or (c == "id" and table in ("networks", "hosts")) for c in KEYS[table]
    )
    for table in FORMS
}
# What JSON that is none raises; the last is of brackets in brackets in brackets.
_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Stored(NamedTuple):
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


def read_key(key: str) -> Key:
    """Return table and key columns of *key*. Raises Malformed; a key that is not the row's only one
    is malformed."""
    table, *parts = key.split(".")
    if table not in FORMS:
        raise Malformed(f"{shown(table)} is no table")
    if len(parts) != len(KEYS[table]):
        raise Malformed(
            f"a key of {table} has {len(KEYS[table])} parts after the table: "
            f"{', '.join(KEYS[table])}"
        )
    found = tuple(map(_text, parts))
    for text, number in zip(found, NUMBERS[table], strict=True):
        # SQLite finds row 24 by 024 and by 2.4e1, too: a tombstone there would delete a row of
        # another key.
        if number and not _NUMBER.fullmatch(text):
            raise Malformed(f"{shown(text)} is not how a key writes a whole number")
    return table, found


# Hot path: int() with base 32 knows exactly this alphabet, and takes a tenth of the time
# base64.b32hexdecode does.
def _text(part: str) -> str:
    if not _PART.fullmatch(part):
        raise Malformed(f"{shown(part)} is not base32hex in lower case without padding")
    if part == "-":
        return ""
    octets, spare = divmod(len(part) * 5, 8)
    number = int(part, 32)
    if spare >= 5 or number & ((1 << spare) - 1):
        raise Malformed(f"{shown(part)} is not how base32hex writes any octets")
    try:
        text = (number >> spare).to_bytes(octets, "big").decode()
    except UnicodeDecodeError:
        raise Malformed(f"{shown(part)} is no UTF-8 in base32hex") from None
    if "\0" in text:  # where SQLite's JSON functions take a text to end
        raise Malformed(f"{shown(part)} has a NUL")
    return text


# ── values ────────────────────────────────────────────────────────────────────────────────────────


def read_value(key: Key, value: bytes, values: Values) -> Stored:
    """Return the rows that *value* at *key* means. Raises Malformed for all that the server could
    not answer from."""
    table, parts = key
    try:
        made: Any = _DECODERS[table].decode(value)
    except _BROKEN as error:
        raise Malformed(_version(value) or _words(error)) from None
    own = tuple(str(getattr(made, column)) for column in KEYS[table])
    if own != parts:
        raise Malformed(f"the key says {shown('/'.join(parts))}, the value {shown('/'.join(own))}")
    row = astuple(made)[1:]
    if table == "machines":
        return _machine(made, row, values)
    _check(table, row, values)
    if table == "regions":
        return Stored((*row[:4], int(made.gateway)))
    return Stored(row)


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


def _machine(made: Machine, row: tuple[Any, ...], values: Values) -> Stored:
    ident = made.id.encode()
    cells = (
        ident,
        made.network_id,
        made.app.encode(),
        made.address.encode(),
        made.region.encode(),
        made.process_group.encode(),
        made.state.encode(),
        made.skip_registration,
    )
    if values.machine(cells, {}, {}) is None:
        raise Malformed(_why(values))
    values.capitals.clear()
    taken: list[Any] = []
    for service in made.services:
        found = values.service(
            (ident, service.name.encode(), service.protocol.encode(), service.port), taken
        )
        if isinstance(found, str):
            raise Malformed(f"service {shown(service.name)}: {found}")
        taken.append(found)
    return Stored(
        (*row[:7], int(made.skip_registration), made.updated_at),
        tuple((made.id, name, text) for name, text in made.metadata.items()),
        tuple((made.id, s.name, s.protocol, s.port) for s in made.services),
    )


def _check(table: str, row: tuple[Any, ...], values: Values) -> None:
    """Let the reader of the file judge: what it would leave out is refused here. Raises
    Malformed."""
    cells = tuple(cell.encode() if isinstance(cell, str) else cell for cell in row)
    match table:
        case "networks":
            if values.network(cells[0]) is None or values.name(cells[1]) is None:
                raise Malformed("no valid id or name")
        case "apps":
            if values.network(cells[0]) is None or values.name(cells[1]) is None:
                raise Malformed("no valid network_id or name")
        case "peers":
            made: object = values.peer(cells, {})
        case "flycasts":
            made = values.flycast(cells)
        case "regions":
            made = values.region(cells)
            if values.faults.total:
                raise Malformed(_why(values))
        case "region_latency":
            made = values.latency(cells)
        case "hosts":
            made = values.host(cells)
    if table in ("peers", "flycasts", "region_latency", "hosts") and made is None:
        raise Malformed(_why(values))


def _why(values: Values) -> str:
    """Return what the reader said of the row just judged, and forget it."""
    faults = values.faults.all()
    for scope in list(values.faults.counts):
        values.faults.forget(scope)
    return faults[-1].reason if faults else "cannot be served"


def read_floor(value: bytes) -> int:
    """Return the revision of a floor. Raises Malformed."""
    try:
        return _FLOOR.decode(value).floor
    except _BROKEN as error:
        raise Malformed(_version(value) or _words(error)) from None


def write_floor(revision: int) -> bytes:
    return _ENCODER.encode(Floor(version=VERSION, floor=revision))


def same(table: str, one: bytes, other: bytes) -> bool:
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
    for machine, name, text in connection.execute(
        "SELECT machine_id, key, value FROM machine_metadata ORDER BY 1, 2"
    ):
        metadata.setdefault(machine, {})[_decoded(name)] = _decoded(text)
    services: dict[object, list[dict[str, Any]]] = {}
    columns = TABLES["machine_services"]
    for row in connection.execute(
        f"SELECT {', '.join(columns)} FROM machine_services ORDER BY 1, 2, 3"
    ):
        services.setdefault(row[0], []).append(
            dict(zip(columns[1:], map(_decoded, row[1:]), strict=True))
        )
    for table in ORDER:
        keys, columns = KEYS[table], TABLES[table]
        flags = [column for column in columns if column in ("skip_registration", "gateway")]
        for row in connection.execute(
            f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(keys)}"
        ):
            cells = dict(zip(columns, row, strict=True))
            key = bucket_key(table, tuple(cells[column] for column in keys))
            value = {"version": VERSION, **{c: _decoded(v) for c, v in cells.items()}}
            value |= {flag: bool(cells[flag]) for flag in flags}
            if table == "machines":
                value |= {
                    "metadata": metadata.get(row[0], {}),
                    "services": services.get(row[0], []),
                }
            yield table, key, _ENCODER.encode(value)


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
