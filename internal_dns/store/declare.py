"""The declarative catalog: a TOML or JSON document, the rows it means, and what would have to change for them.

    text ─ parse ─► Document ─ plan ─► Plan(puts, deletes) ─► the writer
                                 ▲
    file ─ export ─► plain value │ ─ to_toml, to_json ─► text

docs/declarative.md describes the format; the tables of fields below are what parser and JSON Schema derive from.
What a document names it names whole: a network becomes exactly as written, with all its apps, machines, peers and
flycasts; regions, hosts, organizations and latency pairs one by one. What it does not name stays, unless pruned.
Names keep their letter case: the reader of the catalog lower-cases them.
"""

from __future__ import annotations

import re
import sqlite3
import tomllib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from itertools import count, islice
from math import isfinite
from operator import itemgetter
from socket import AF_INET6, inet_ntop, inet_pton
from typing import Any, Final, Literal, NamedTuple

import msgspec

from internal_dns.core.names import APEX_WORDS, RESERVED
from internal_dns.store import writer
from internal_dns.store.rows import shown
from internal_dns.store.sqlite import HIDDEN_PEERS, TABLES

PREFIX: Final = b"\xfd\xaa"
# Parents first: the order of puts. Deletes take it backwards. `meta` is no part of a document.
ORDER: Final = (
    "organizations regions region_latency hosts networks apps machines machine_metadata machine_services peers flycasts"
).split()
KEYS: Final = {table: writer.KEYS[table] for table in ORDER}
# When a machine's row changed is for the writer to say.
COLUMNS: Final = {table: tuple(c for c in TABLES[table] if c != "updated_at") for table in KEYS}
# The original's states. Any other text is taken, with a warning: it may be a slip of the pen.
STATES: Final = (
    "created starting started stopping stopped suspending suspended restarting updating "
    "replacing replaced failed launch_failed destroying destroyed"
).split()

Row = dict[str, Any]
Path = tuple[str | int, ...]  # ("networks", "acme", "apps", "web", "machines", 0, "address")


@dataclass(frozen=True, slots=True)
class DocumentFault:
    """What is wrong where, and what to do. Lines count from 1."""

    file: str
    line: int
    where: str
    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.where + ': ' if self.where else ''}{self.what}. {self.do}"


class Faulty(Exception):
    """A document that cannot be used; `faults` has all that is wrong with it, by line."""

    def __init__(self, faults: list[DocumentFault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Document:
    """A document without faults. `unknown_regions`: the warnings that a catalog's own regions may settle."""

    name: str
    tables: Mapping[str, Sequence[Row]]
    warnings: tuple[DocumentFault, ...] = ()
    unknown_regions: Mapping[str, DocumentFault] = field(default_factory=dict)

    def rows(self) -> dict[str, list[Row]]:
        """Return the rows of every table in schema.sql's columns without `updated_at`, sorted by primary key."""
        found = {}
        for table, key in KEYS.items():
            made = [{column: row[column] for column in COLUMNS[table]} for row in self.tables.get(table, ())]
            found[table] = sorted(made, key=itemgetter(*key))
        return found


def parse(
    text: str,
    *,
    name: str,
    kind: Literal["toml", "json"] | None = None,
    prefix: bytes = PREFIX,
    hidden: tuple[str, ...] = HIDDEN_PEERS,
) -> Document:
    """Return the document in *text*, or raise Faulty with every fault of it.

    *name* is the file's, for faults; without *kind* its suffix says what it is, else the first character. A syntax
    error is the only fault told, since nothing after it can be trusted. Every other fault has the line of the very key
    or array element it is about; a key that is missing has the line of the table that lacks it.
    """
    text = text.removeprefix("\ufeff")
    if kind is None:
        suffix = name.lower().rpartition(".")[2]
        kind = "json" if suffix == "json" or (suffix != "toml" and text.lstrip()[:1] == "{") else "toml"
    lines = _Lines(text, kind)
    try:
        value = lines.value()
        reading = _Reading(name, prefix, hidden, lines)
        reading.document(value)
    except _Syntax as error:
        raise Faulty([DocumentFault(name, error.line, "", error.what, f"Correct the {kind.upper()}")]) from error
    except RecursionError as error:
        what = "tables or arrays are nested too deeply"
        raise Faulty([DocumentFault(name, 1, "", what, "Write it as docs/declarative.md says")]) from error
    return reading.result()


# ── what a value may be ─────────────────────────────────────────────────────────────────────────────────────


class _Wrong(Exception):
    """A value that cannot be used: what is wrong with it, and what to do."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Reads a value of a document into one for a row, or raises _Wrong; and what JSON Schema calls it."""

    read: Callable[[Any], Any]
    schema: Mapping[str, Any]


_REQUIRED: Final = object()


@dataclass(frozen=True, slots=True)
class _Field:
    """One key of a table of the document, and its column."""

    column: str
    kind: _Kind
    words: str
    default: Any = _REQUIRED


def _typed(value: object) -> str:
    """Name the type of *value* as both TOML and JSON would."""
    names = {dict: "table", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    name = names.get(type(value), "date or time")
    return "null" if value is None else f"{'an' if name[0] in 'ai' else 'a'} {name}"


def _quoted(text: str) -> str:
    return f"'{shown(text)}'" + (f" … ({len(text)} characters)" if len(text) > 80 else "")


def _misplaced(value: object, wanted: str, do: str) -> _Wrong:
    return _Wrong(f"{_typed(value)} stands where {wanted} belongs", do)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _misplaced(value, "a string", "Write it in quotes")
    return value


def _some_text(value: Any) -> str:
    if not _text(value):
        raise _Wrong("the name is empty", "Give it one")
    return _text(value)


def _named(longest: int) -> _Kind:
    pattern = re.compile(f"[A-Za-z0-9_-]{{1,{longest}}}")

    def read(value: Any) -> str:
        if not pattern.fullmatch(_text(value)):
            what = f"{_quoted(value)} is no name" if value else "the name is empty"
            raise _Wrong(what, f"Use 1 to {longest} of letters, digits, - and _")
        return _text(value)

    return _Kind(read, {"type": "string", "pattern": f"^{pattern.pattern}$"})


def _region_or_none(value: Any) -> str:
    return _text(value) and str(_NAME.read(value))


def _flag(value: Any) -> int:
    if not isinstance(value, bool):
        raise _misplaced(value, "a boolean", "Write true or false")
    return int(value)


def _ranged(wanted: str, low: float, high: float) -> _Kind:
    """A number of that range, as a float."""

    def read(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _misplaced(value, "a number", f"Write {wanted}, {low:,} to {high:,}")
        if not low <= value <= high:
            raise _Wrong(f"{shown(value)} is out of range", f"Write {wanted}, {low:,} to {high:,}")
        return float(value)

    return _Kind(read, {"type": "number", "minimum": low, "maximum": high})


def _port(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _misplaced(value, "an integer", "Write a port, 1 to 65535, without quotes")
    if not 0 < value < 65_536:
        raise _Wrong(f"{shown(value)} is no port", "Write one from 1 to 65535")
    return value


def _protocol(value: Any) -> str:
    if _text(value) not in ("tcp", "udp"):
        raise _Wrong(f"{_quoted(value)} is no protocol", "Write tcp or udp")
    return _text(value)


def _packed(text: object) -> bytes | None:
    """The 16 octets of an address, or None."""
    try:
        return inet_pton(AF_INET6, text) if isinstance(text, str) else None
    except (OSError, ValueError):
        return None


def _address(value: Any) -> str:
    packed = _packed(_text(value))
    if packed is None:
        raise _Wrong(f"{_quoted(value)} is no IPv6 address", "Write one, such as fdaa:0:18:a7b:7d:f066:b83b:2")
    return inet_ntop(AF_INET6, packed)


def _network_id(value: Any) -> int | bytes:
    """Return the integer, or the first six octets of the /48."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 < value < 1 << 32:
            raise _Wrong(f"{shown(value)} is no network id", "Use 1 to 4294967295: the 32 bits after the prefix")
        return value
    if not isinstance(value, str):
        raise _misplaced(value, "a network id", "Write its /48 in quotes, or the integer")
    start, _, length = value.partition("/")
    packed = _packed(start)
    if packed is None or length != "48" or any(packed[6:]):
        raise _Wrong(f"{_quoted(value)} is no network", "Write its /48, such as fdaa:0:18::/48, or the integer")
    if not any(packed[2:6]):
        raise _Wrong(f"{_quoted(value)} is network 0, which is refused", "Use another")
    return packed[:6]


_HOST_BITS: Final = re.compile(r"([0-9A-Fa-f]{1,4}):([0-9A-Fa-f]{1,4})|([0-9]{1,10})")


def _host_id(value: Any) -> int:
    if (found := _HOST_BITS.fullmatch(_text(value))) is not None:
        high, low, decimal = found.groups()
        number = int(decimal) if decimal else int(high, 16) << 16 | int(low, 16)
        if number < 1 << 32:
            return number
    raise _Wrong(f"{_quoted(value)} is no host", "Write its 32 bits as in an address, such as a7b:7d, or the integer")


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _misplaced(value, "a table", "Write it as docs/declarative.md says")
    return value


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _misplaced(value, "an array", "Put it in [ ]")
    return value


_TEXT: Final = _Kind(_text, {"type": "string"})
_SOME_TEXT: Final = _Kind(_some_text, {"type": "string", "minLength": 1})
_NAME: Final = _named(63)
_SERVICE_NAME: Final = _named(62)  # a `_` is put before it
_PEER_REGION: Final = _Kind(_region_or_none, {"type": "string", "pattern": "^[A-Za-z0-9_-]{0,63}$"})
_FLAG: Final = _Kind(_flag, {"type": "boolean"})
_PORT: Final = _Kind(_port, {"type": "integer", "minimum": 1, "maximum": 65_535})
_PROTOCOL: Final = _Kind(_protocol, {"enum": ["tcp", "udp"]})
_ADDRESS: Final = _Kind(_address, {"type": "string", "format": "ipv6"})
_MILLISECONDS: Final = _ranged("milliseconds", 0, 999_999_999)
_NETWORK_ID: Final = _Kind(
    _network_id,
    {"anyOf": [
        {"type": "string", "pattern": "^[0-9A-Fa-f:]+/48$"},
        {"type": "integer", "minimum": 1, "maximum": 4_294_967_295},
    ]},
)  # fmt: skip
_HOST_ID: Final = _Kind(_host_id, {"pattern": f"^({_HOST_BITS.pattern})$"})


def _table_of(items: Mapping[str, Any], names: _Kind) -> _Kind:
    return _Kind(_table, {"type": "object", "propertyNames": dict(names.schema), "additionalProperties": dict(items)})


def _array_of(items: Mapping[str, Any]) -> _Kind:
    return _Kind(_array, {"type": "array", "items": dict(items)})


def _object(known: Mapping[str, _Field]) -> dict[str, Any]:
    """The JSON Schema of a table with these keys."""
    properties = {}
    for key, known_field in known.items():
        properties[key] = {**known_field.kind.schema, "description": known_field.words}
        default = known_field.default
        if default is not _REQUIRED and default not in (None, {}, []):
            properties[key]["default"] = bool(default) if known_field.kind is _FLAG else default
    required = [key for key, known_field in known.items() if known_field.default is _REQUIRED]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": required} if required else {})


# ── the format: every table of a document ───────────────────────────────────────────────────────────────────

_SERVICE: Final = {
    "name": _Field("name", _SERVICE_NAME, "Its name, without the underscore: http is asked for as _http._tcp."),
    "protocol": _Field("protocol", _PROTOCOL, "tcp or udp.", "tcp"),
    "port": _Field("port", _PORT, "Where it listens."),
}
_MACHINE: Final = {
    "id": _Field("id", _NAME, "Its id, one of its kind in the catalog."),
    "address": _Field("address", _ADDRESS, "Its address, of this network."),
    "region": _Field("region", _NAME, "The code of its region."),
    "group": _Field("process_group", _NAME, "Its process group.", "app"),
    "state": _Field("state", _TEXT, "It is answered while started.", "created"),
    "skip_registration": _Field("skip_registration", _FLAG, "Keep it out of all names and lists.", 0),
    "metadata": _Field("metadata", _Kind(_table, {"type": "object", "additionalProperties": {"type": "string"}}),
                       "Texts by key.", {}),
    "services": _Field("services", _array_of(_object(_SERVICE)), "What it publishes as SRV.", []),
}  # fmt: skip
_APP: Final = {"machines": _Field("machines", _array_of(_object(_MACHINE)), "Its machines; an app may have none.", [])}
_PEER: Final = {
    "address": _Field("address", _ADDRESS, "Its address, of this network."),
    "region": _Field("region", _PEER_REGION, "The code of its region; empty: that of its host.", ""),
}
_FLYCASTS: Final = _table_of({"type": "array", "items": dict(_ADDRESS.schema)}, _NAME)
_NETWORK: Final = {
    "id": _Field("id", _NETWORK_ID, "Its /48, or the 32 bits after the prefix as an integer."),
    "organization": _Field("organization", _TEXT, "The slug of the organization that owns it.", ""),
    "apps": _Field("apps", _table_of(_object(_APP), _NAME), "Apps by name.", {}),
    "peers": _Field("peers", _table_of(_object(_PEER), _NAME), "WireGuard peers by name.", {}),
    "flycasts": _Field("flycasts", _FLYCASTS, "Addresses on this network, by the app they lead to.", {}),
}
_ORGANIZATION: Final = {"name": _Field("name", _TEXT, "What it is called.", "")}
_REGION: Final = {
    "name": _Field("name", _TEXT, "What it is called.", ""),
    "latitude": _Field("latitude", _ranged("degrees", -90, 90), "Degrees north; with longitude, or unknown.", None),
    "longitude": _Field("longitude", _ranged("degrees", -180, 180), "Degrees east; with latitude, or unknown.", None),
    "gateway": _Field("gateway", _FLAG, "WireGuard peers may end there.", 0),
}
_LATENCY: Final = {
    "from": _Field("from_region", _NAME, "The code of one region."),
    "to": _Field("to_region", _NAME, "The code of the other."),
    "milliseconds": _Field("milliseconds", _MILLISECONDS, "A measured round trip."),
}
_HOST: Final = {
    "name": _Field("name", _TEXT, "What it is called.", ""),
    "region": _Field("region", _NAME, "The code of its region."),
}
_DOCUMENT: Final = {
    "networks": _Field("networks", _table_of(_object(_NETWORK), _NAME),
                       "Networks by name. Each becomes exactly as written.", {}),
    "organizations": _Field("organizations", _table_of(_object(_ORGANIZATION), _SOME_TEXT),
                            "Organizations by slug.", {}),
    "regions": _Field("regions", _table_of(_object(_REGION), _NAME), "Regions by code.", {}),
    "latency": _Field("latency", _array_of(_object(_LATENCY)), "Round trips between regions.", []),
    "hosts": _Field("hosts", _table_of(_object(_HOST), _HOST_ID),
                    "Hosts by their 32 bits as in an address (a7b:7d), or as an integer in quotes.", {}),
}  # fmt: skip


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a document. What spans several keys only `parse` can say."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "internal-dns catalog",
        "description": "A declarative catalog for `internal-dns apply`; see docs/declarative.md.",
        **_object(_DOCUMENT),
    }


# ── reading a document ──────────────────────────────────────────────────────────────────────────────────────


class _Reading:
    """Turns a document's plain value into rows, collecting faults and warnings on the way."""

    def __init__(self, name: str, prefix: bytes, hidden: tuple[str, ...], lines: _Lines) -> None:
        self.name, self.prefix, self.lines = name, prefix, lines
        self.hidden = tuple(start.lower() for start in hidden)
        self.faults: list[DocumentFault] = []
        self.warnings: list[DocumentFault] = []
        self.unknown_regions: dict[str, DocumentFault] = {}
        self.rows: dict[str, list[Row]] = {table: [] for table in KEYS}
        self.taken: dict[tuple[Any, ...], Path] = {}  # what there may be only one of, and where it stands
        self.regions: dict[str, Path] = {}  # every region by its first mention

    def result(self) -> Document:
        """Return the document. Raises Faulty."""
        if self.faults:
            raise Faulty(sorted(self.faults, key=lambda fault: fault.line))
        warnings = tuple(sorted(self.warnings, key=lambda warning: warning.line))
        return Document(self.name, self.rows, warnings, self.unknown_regions)

    def document(self, value: Any) -> None:
        for path, what in self.lines.twice:
            self.fault(path, what, "Keep one of them")
        found = self.fields((), value, _DOCUMENT)
        for slug, item, path in self.keyed(found, (), "organizations", _SOME_TEXT):
            self.row("organizations", self.fields(path, item, _ORGANIZATION), slug=slug)
        for code, item, path in self.keyed(found, (), "regions", _NAME):
            self.region(code, item, path)
        for item, path in self.listed(found, (), "latency"):
            row = self.row("region_latency", self.fields(path, item, _LATENCY))
            self.once(path, "latency", (row.get("from_region"), row.get("to_region")), "this pair of regions")
            for key, column in ("from", "from_region"), ("to", "to_region"):
                self.mention(row.get(column), (*path, key))
        for text, item, path in self.keyed(found, (), "hosts", _HOST_ID):
            row = self.row("hosts", self.fields(path, item, _HOST), id=_HOST_ID.read(text) if _is_host(text) else None)
            self.once(path, "host", (row["id"],), "this host")
            self.mention(row.get("region"), (*path, "region"))
        for name, item, path in self.keyed(found, (), "networks", _NAME):
            self.network(name, item, path)
        self.judge_regions()

    def region(self, code: str, item: Any, path: Path) -> None:
        row = self.row("regions", self.fields(path, item, _REGION), code=code)
        if isinstance(item, dict) and ("latitude" in item) != ("longitude" in item):
            self.fault(path, "one coordinate alone says nothing", "Write latitude and longitude, or neither")
        self.same_but_for_case(path, ("region",), str(row["code"]))
        self.regions[code.lower()] = path

    def network(self, name: str, item: Any, path: Path) -> None:
        found = self.fields(path, item, _NETWORK)
        number = self.number(found.get("id"), (*path, "id"))
        self.row("networks", found, id=number, name=name)
        self.same_but_for_case(path, ("network",), name)
        if number is not None:
            server = self.prefix + number.to_bytes(4, "big") + bytes(9) + b"\3"
            self.taken["address", server] = ()
        for app, of_app, at in self.keyed(found, path, "apps", _NAME):
            self.app(number, name, app, of_app, at)
        for peer, of_peer, at in self.keyed(found, path, "peers", _NAME):
            self.peer(number, name, peer, of_peer, at)
        for app, addresses, at in self.keyed(found, path, "flycasts", _NAME):
            for position, text in enumerate(self.read(_array_of({}), addresses, at) or ()):
                here = (*at, position)
                address = self.read(_ADDRESS, text, here)
                self.inside(address, number, here)
                self.once(here, "flycast", (name, app, address), "this address")
                self.row("flycasts", {}, network_id=number, app=app, address=address)

    def number(self, found: int | bytes | None, path: Path) -> int | None:
        """Return the network's id, when it is one and the only one."""
        if isinstance(found, bytes):
            if not found.startswith(self.prefix):
                start = f"{self.prefix.hex()}::/16"
                self.fault(path, f"the network is not in {start}", f"Write a /48 of {start}, or the integer")
                return None
            found = int.from_bytes(found[2:], "big")
        self.once(path, "network", (found,), "this id")
        return found

    def app(self, number: int | None, network: str, name: str, item: Any, path: Path) -> None:
        self.row("apps", {}, network_id=number, name=name)
        self.same_but_for_case(path, ("app", network), name)
        if name.lower().encode() in APEX_WORDS:
            do = "Rename the app; its machines stay reachable by <id>.vm and in lists"
            self.warn(path, f"{name.lower()}.internal is a name of the grammar, not this app", do)
        found = self.fields(path, item, _APP)
        for machine, at in self.listed(found, path, "machines"):
            self.machine(number, name, machine, at)

    def machine(self, number: int | None, app: str, item: Any, path: Path) -> None:
        found = self.fields(path, item, _MACHINE)
        row = self.row("machines", found, network_id=number, app=app)
        ident, address, state = found.get("id"), found.get("address"), found.get("state")
        if self.once((*path, "id"), "machine", (ident,), "this machine id"):
            what = "this machine id, but for letter case, of the same app"
            self.once((*path, "id"), "machine of", (number, app.lower(), ident and ident.lower()), what)
        self.inside(address, number, (*path, "address"))
        if state == "started" and not row.get("skip_registration"):
            self.alone(address, (*path, "address"))
        if state is not None and state not in STATES:
            near = get_close_matches(state, STATES, 1)
            do = f"Did you mean {near[0]}?" if near else "Only started machines are answered"
            self.warn((*path, "state"), f"{_quoted(state)} is no known state", do)
        self.mention(found.get("region"), (*path, "region"))
        for key, value in found.get("metadata", {}).items():
            text = self.read(_TEXT, value, (*path, "metadata", key))
            self.row("machine_metadata", {}, machine_id=ident, key=key, value=text)
        for service, at in self.listed(found, path, "services"):
            of_service = self.fields(at, service, _SERVICE)
            self.row("machine_services", of_service, machine_id=ident)
            name, protocol = of_service.get("name"), of_service.get("protocol")
            named = (path, name and name.lower(), protocol)
            self.once(at, "service", named, "this service of the machine, whatever its letter case,")

    def peer(self, number: int | None, network: str, name: str, item: Any, path: Path) -> None:
        row = self.row("peers", self.fields(path, item, _PEER), network_id=number, name=name)
        self.once(path, "peer", (network, name.lower()), "this peer, but for letter case,")
        self.inside(row.get("address"), number, (*path, "address"))
        if not name.lower().startswith(self.hidden):
            self.alone(row.get("address"), (*path, "address"))
        if name.lower() == "_page":
            self.warn(path, "the grammar reads _page as a page, not as this peer", "Rename it")
        self.mention(row.get("region") or None, (*path, "region"))

    # What several of them need.

    def fields(self, path: Path, value: Any, known: Mapping[str, _Field]) -> Row:
        """Return what stands in the table *value*, by column; what is at fault is left out."""
        found: Row = {}
        if self.read(_Kind(_table, {}), value, path) is None:
            return found
        for key in value:
            if key not in known:
                near = get_close_matches(key, known, 1)
                do = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}"
                self.fault((*path, key), "unknown key", do)
        for key, known_field in known.items():
            if key in value:
                made = self.read(known_field.kind, value[key], (*path, key))
                if made is not None:
                    found[known_field.column] = made
            elif known_field.default is _REQUIRED:
                self.fault(path, f"{key} is missing", f"Add it: {known_field.words}")
            else:
                found[known_field.column] = known_field.default
        return found

    def read(self, kind: _Kind, value: Any, path: Path) -> Any:
        """Return what *kind* makes of *value*, or None and a fault."""
        try:
            return kind.read(value)
        except _Wrong as wrong:
            self.fault(path, *wrong.args)
            return None

    def keyed(self, found: Row, path: Path, key: str, names: _Kind) -> Iterator[tuple[str, Any, Path]]:
        """Yield name, value and path of each member of a table of tables."""
        for name, value in found.get(key, {}).items():
            at = (*path, key, name)
            self.read(names, name, at)
            yield name, value, at

    @staticmethod
    def listed(found: Row, path: Path, key: str) -> Iterator[tuple[Any, Path]]:
        return ((value, (*path, key, position)) for position, value in enumerate(found.get(key, ())))

    def row(self, table: str, found: Row, **given: Any) -> Row:
        made = {**found, **given}
        self.rows[table].append(made)
        return made

    def once(self, path: Path, kind: str, key: tuple[Any, ...], what: str) -> bool:
        """Say whether nothing before has this key; a key with a part at fault is no key."""
        if None in key:
            return True
        first = self.taken.setdefault((kind, *key), path)
        if first != path:
            self.fault(path, f"{what} stands in line {self.lines.line(first)} already", "Remove or change one")
        return first == path

    def alone(self, address: str | None, path: Path) -> None:
        """A visible machine or peer has this address, so no other has."""
        packed = _packed(address)
        if packed is not None and (first := self.taken.setdefault(("address", packed), path)) != path:
            owner = f"{_pointed(first[:-1])} in line {self.lines.line(first)} too" if first else "the server itself"
            self.fault(path, f"{address} is that of {owner}", "Give each an address of its own")

    def inside(self, address: str | None, number: int | None, path: Path) -> None:
        """An address must be of its network."""
        packed = _packed(address)
        if packed is None or number is None:
            return
        network = self.prefix + number.to_bytes(4, "big")
        if not packed.startswith(network):
            do = f"Write an address that starts like {inet_ntop(AF_INET6, network + bytes(10))}"
            self.fault(path, f"{address} is not in {_slash_48(number, self.prefix)}, the network's own", do)

    def mention(self, region: str | None, path: Path) -> None:
        if region is not None:
            self.regions.setdefault(region.lower(), path)

    def judge_regions(self) -> None:
        known = {str(row["code"]).lower() for row in self.rows["regions"]}
        for region, path in self.regions.items():
            if region.encode("utf-8", "replace") in RESERVED:
                self.warn(path, f"{region} is a word of the grammar: no name asks for this region", "Rename it")
            if region not in known:
                what = f"region {_quoted(region)} is not in this document"
                do = "Add it with its coordinates, unless the catalog has it: else it is far from everywhere"
                self.warn(path, what, do)
                self.unknown_regions[region] = self.warnings[-1]

    def same_but_for_case(self, path: Path, kind: tuple[str, ...], name: str) -> None:
        first = self.taken.setdefault(("case", *kind, name.lower()), path)
        if first != path:
            what = f"{name} and {first[-1]} in line {self.lines.line(first)} are one name: letter case is ignored"
            self.warn(path, what, "Spell it one way")

    def fault(self, path: Path, what: str, do: str) -> None:
        self.faults.append(DocumentFault(self.name, self.lines.line(path), _pointed(path), what, do))

    def warn(self, path: Path, what: str, do: str) -> None:
        self.warnings.append(DocumentFault(self.name, self.lines.line(path), _pointed(path), what, do))


def _is_host(text: str) -> bool:
    try:
        return _host_id(text) >= 0
    except _Wrong:
        return False


def _pointed(path: Path) -> str:
    """Write a path for people: networks.acme.apps.web.machines[0].id."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{_toml_key(_cut(part))}" for part in path)
    return "".join(parts).removeprefix(".")


def _cut(text: str) -> str:
    return text if len(text) <= 63 else text[:60] + "…"


def _slash_48(number: int, prefix: bytes) -> str:
    return inet_ntop(AF_INET6, prefix + number.to_bytes(4, "big") + bytes(10)) + "/48"


# ── lines ───────────────────────────────────────────────────────────────────────────────────────────────────


class _Syntax(Exception):
    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line, self.what = line, what


class _Lines:
    """Decodes a text, and knows in which line each key and array element of it stands.

    The decoders do not tell, so the text is walked once more, when the first fault asks. It is known to be well-formed
    by then, so the walk judges nothing.
    """

    def __init__(self, text: str, kind: str) -> None:
        self.text, self.kind = text, kind

    def value(self) -> Any:
        """Return the decoded text. Raises _Syntax or RecursionError."""
        try:
            octets = self.text.encode()
        except UnicodeEncodeError as error:
            raise _Syntax(self.text.count("\n", 0, error.start) + 1, "an octet that is not UTF-8") from error
        try:
            return tomllib.loads(self.text) if self.kind == "toml" else msgspec.json.decode(octets)
        except msgspec.DecodeError as error:
            byte = re.search(r" \(byte (\d+)\)", str(error))
            before = octets[: int(byte[1])] if byte else octets.rstrip()
            what = re.sub(r" \(byte \d+\)", "", str(error)).removeprefix("JSON is malformed: ")
            raise _Syntax(before.count(b"\n") + 1, what) from error
        except ValueError as error:  # TOMLDecodeError, or an integer of more digits than Python reads
            line = re.search(r" \(at line (\d+), column \d+\)", str(error))
            last = self.text.rstrip().count("\n") + 1 if "end of document" in str(error) else 1
            what = re.sub(r" \(at [^()]*\)$", "", str(error))
            raise _Syntax(int(line[1]) if line else last, shown(what)) from error

    @cached_property
    def walk(self) -> _Walk:
        return _TomlWalk(self.text) if self.kind == "toml" else _JsonWalk(self.text)

    @cached_property
    def breaks(self) -> list[int]:
        return [found.start() for found in re.finditer("\n", self.text)]

    @property
    def twice(self) -> list[tuple[Path, str]]:
        """Keys that stand twice in one table: tomllib refuses them, msgspec takes the last."""
        return self.walk.twice if self.kind == "json" else []

    def line(self, path: Path) -> int:
        """Return the line of *path*, or of the nearest table around it."""
        while path and path not in self.walk.places:
            path = path[:-1]
        return bisect_right(self.breaks, self.walk.places.get(path, 0) - 1) + 1


class _Walk:
    """Walks a well-formed text and notes where each path begins."""

    blank: re.Pattern[str]
    token: re.Pattern[str]  # a string or any other value that is neither array nor table

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.places: dict[Path, int] = {}
        self.twice: list[tuple[Path, str]] = []

    def peek(self) -> str:
        """Skip blanks and comments; return the character there, or nothing at the end."""
        self.take(self.blank)
        return self.text[self.at : self.at + 1]

    def take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        assert found is not None, f"the decoder took what we cannot walk at {self.at}"
        self.at = found.end()
        return found[0]

    def item(self, path: Path) -> None:
        """Walk one value, and note what is in it."""
        match self.peek():
            case "[":
                for position, _ in enumerate(self.members("]")):
                    self.places[*path, position] = self.at
                    self.item((*path, position))
            case "{":
                start = self.at
                for _ in self.members("}"):
                    self.pair(path, start)
            case _:
                self.take(self.token)

    def members(self, end: str) -> Iterator[None]:
        """Stop at each member of an array or table."""
        self.at += 1
        while self.peek() != end:
            yield
            self.at += self.peek() == ","
        self.at += 1

    def pair(self, path: Path, table: int) -> None:
        """Walk a key and its value in the table that begins at *table*."""
        raise NotImplementedError


class _JsonWalk(_Walk):
    blank = re.compile(r"[ \t\r\n]*")
    token = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s,\]}]+')

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.seen: dict[tuple[int, str], int] = {}
        self.item(())

    def pair(self, path: Path, table: int) -> None:
        start = self.at
        key = msgspec.json.decode(self.take(self.token))
        path = (*path, key)
        if (first := self.seen.setdefault((table, key), start)) != start:
            self.twice.append((path, f"the key stands twice, first in line {self.line(first)}"))
        self.places[path] = start
        self.peek()
        self.at += 1
        self.item(path)

    def line(self, offset: int) -> int:
        return self.text.count("\n", 0, offset) + 1


class _TomlWalk(_Walk):
    blank = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
    key = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[A-Za-z0-9_-]+')
    token = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\]|\\.)*"|\'[^\']*\'|[^,\]}#\n]+', re.DOTALL)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.counts: dict[Path, int] = {}  # members of each array of tables so far
        table: Path = ()
        while character := self.peek():
            if character == "[":
                table = self.header()
            else:
                self.pair(table, 0)

    def header(self) -> Path:
        """Walk [a.b] or [[a.b]]; return the path it opens: every array on the way means its last member."""
        start, width = self.at, 2 if self.text.startswith("[[", self.at) else 1
        self.at += width
        keys = self.keys()
        self.at += width
        path: Path = ()
        for position, key in enumerate(keys, 1):
            path = (*path, key)
            self.places.setdefault(path, start)
            if position == len(keys) and width == 2:
                self.counts[path] = self.counts.get(path, 0) + 1
            if path in self.counts:
                path = (*path, self.counts[path] - 1)
        self.places[path] = start
        return path

    def keys(self) -> list[str]:
        """Walk a dotted key."""
        found: list[str] = []
        while not found or self.peek() == ".":
            self.at += bool(found)
            self.peek()
            raw = self.take(self.key)
            found.append(next(iter(tomllib.loads(f"{raw} = 0"))) if raw[0] in "\"'" else raw)
        return found

    def pair(self, path: Path, _: int) -> None:
        start = self.at
        for key in self.keys():
            path = (*path, key)
            self.places.setdefault(path, start)
        self.at += 1  # the = that `keys` stopped at
        self.item(path)


# ── writing a document ──────────────────────────────────────────────────────────────────────────────────────

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


def to_json(value: Mapping[str, Any]) -> str:
    """Return an exported document as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def to_toml(value: Mapping[str, Any]) -> str:
    """Return an exported document as TOML: tables under headers, what is inside an array's tables in one line each."""
    return "\n".join(_toml_tables((), value))


def _toml_tables(path: tuple[str, ...], value: Mapping[str, Any]) -> Iterator[str]:
    """Yield one paragraph for each table. A table's own values come first: after a header they would be that one's."""
    tables = {key: of_key for key, of_key in value.items() if _has_headers(of_key)}
    pairs = {key: of_key for key, of_key in value.items() if key not in tables}
    if pairs or (path and not tables):
        header = f"[{'.'.join(map(_toml_key, path))}]\n" if path else ""
        yield header + _toml_pairs(pairs)
    for key, of_key in tables.items():
        if isinstance(of_key, Mapping):
            yield from _toml_tables((*path, key), of_key)
            continue
        header = ".".join(map(_toml_key, (*path, key)))
        for member in of_key:
            yield f"[[{header}]]\n" + _toml_pairs(member)


def _has_headers(value: object) -> bool:
    """Tables and arrays of tables have; an array with anything else in it stands in one line."""
    array = isinstance(value, list) and bool(value) and all(isinstance(member, Mapping) for member in value)
    return array or isinstance(value, Mapping)


def _toml_pairs(value: Mapping[str, Any]) -> str:
    return "".join(f"{_toml_key(key)} = {_toml_inline(of_key)}\n" for key, of_key in value.items())


def _toml_inline(value: Any) -> str:
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_toml_key(key)} = {_toml_inline(of_key)}" for key, of_key in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return f"[{', '.join(map(_toml_inline, value))}]"


def _toml_key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _toml_string(key)


def _toml_string(text: str) -> str:
    return f'"{"".join(_SHORT.get(c) or (c if c.isprintable() else _escaped(ord(c))) for c in text)}"'


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# ── out of the file ─────────────────────────────────────────────────────────────────────────────────────────


class Exported(NamedTuple):
    """A document's plain value, and what of the file it cannot say."""

    document: dict[str, Any]
    notes: list[str]


def export(
    connection: sqlite3.Connection, networks: Iterable[int] | None = None, *, prefix: bytes = PREFIX
) -> Exported:
    """Return the file as a document: all of it, or only some *networks* with their organizations.

    Rows are told as they are, also those that `parse` refuses; flags as the reader takes them (anything but 0 is true).
    What no document can hold is left out and noted: octets that are not UTF-8, blobs, infinities, what belongs to a
    machine that does not exist. A network without a name, or with one that is taken, goes by its number, with a note.
    Raises sqlite3.Error.
    """
    only = None if networks is None else sorted(set(networks))
    with _snapshot(connection):
        if only is None:
            rows = {table: _select(connection, table) for table in KEYS}
        else:
            rows = _of_networks(connection, only)
    return _Export(rows, only, prefix).exported()


class _Export:
    def __init__(self, rows: Mapping[str, list[Row]], only: Sequence[int] | None, prefix: bytes) -> None:
        self.notes: list[str] = []
        self.only, self.prefix = only, prefix
        self.rows = {table: self.sayable(table, rows[table]) for table in KEYS}

    def sayable(self, table: str, rows: list[Row]) -> list[Row]:
        """Return the rows of *table* that a document can hold, sorted."""
        found = []
        for row in rows:
            why = next((f"{c} {why}" for c in COLUMNS[table] if (why := _unsayable(table, c, row[c]))), None)
            if why is None:
                found.append(row)
            else:
                self.notes.append(f"{table} {_told_key(table, row)}: left out: {why}")
        return sorted(found, key=lambda row: [(isinstance(row[c], str), row[c]) for c in KEYS[table]])

    def exported(self) -> Exported:
        names = self.network_names()
        self.notes += [f"networks {number}: nothing is there" for number in self.only or () if number not in names]
        document = {
            "networks": {names[number]: value for number, value in self.networks(names).items()},
            "organizations": {row["slug"]: _said(row, _ORGANIZATION) for row in self.rows["organizations"]},
            "regions": {row["code"]: _said(row, _REGION) for row in self.rows["regions"]},
            "latency": [_said(row, _LATENCY) for row in self.rows["region_latency"]],
            "hosts": {_host_text(row["id"]): _said(row, _HOST) for row in self.rows["hosts"]},
        }
        return Exported({key: value for key, value in document.items() if value}, self.notes)

    def network_names(self) -> dict[int, str]:
        """Return a name for every network that any row is of."""
        named = {row["id"]: row["name"] for row in self.rows["networks"]}
        numbers = {row["network_id"] for table in _OF_NETWORK for row in self.rows[table]}
        names: dict[int, str] = {}
        taken = set(named.values())
        used: set[str] = set()
        for number in sorted({*named, *numbers}):
            name = named.get(number)
            if not name or name in used:
                why = "has no row in networks" if name is None else "has the name of another" if name else "has no name"
                name = next(n for n in _stand_ins(number) if n not in taken)
                self.notes.append(f"networks {number}: {why}, so it goes by {name}")
                taken.add(name)
            used.add(name)
            names[number] = name
        return names

    def networks(self, names: Mapping[int, str]) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {number: {"id": self.network_id(number)} for number in names}
        for row in self.rows["networks"]:
            found[row["id"]] |= {"organization": row["organization"]} if row["organization"] else {}
        machines = self.machines()
        apps = {(row["network_id"], row["name"]) for row in self.rows["apps"]} | machines.keys()
        for number, app in sorted(apps):
            of_app = {"machines": machines[number, app]} if (number, app) in machines else {}
            found[number].setdefault("apps", {})[app] = of_app
        for row in self.rows["peers"]:
            found[row["network_id"]].setdefault("peers", {})[row["name"]] = _said(row, _PEER)
        for row in self.rows["flycasts"]:
            flycasts = found[row["network_id"]].setdefault("flycasts", {})
            flycasts.setdefault(row["app"], []).append(row["address"])
        return found

    def network_id(self, number: int) -> int | str:
        return _slash_48(number, self.prefix) if 0 < number < 1 << 32 else number

    def machines(self) -> dict[tuple[int, str], list[dict[str, Any]]]:
        """Return machines by network and app, with what belongs to them."""
        metadata: dict[str, dict[str, str]] = defaultdict(dict)
        for row in self.rows["machine_metadata"]:
            metadata[row["machine_id"]][row["key"]] = row["value"]
        services: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows["machine_services"]:
            services[row["machine_id"]].append(_said(row, _SERVICE))
        found: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows["machines"]:
            of_machine = {"metadata": metadata.pop(row["id"], {}), "services": services.pop(row["id"], [])}
            found[row["network_id"], row["app"]].append(_said({**row, **of_machine}, _MACHINE))
        if self.only is None:
            for machine in sorted({*metadata, *services}):
                what = f"metadata and services of machine {shown(machine)}"
                self.notes.append(f"{what}: left out: the document has no such machine")
        return found


def _said(row: Row, known: Mapping[str, _Field]) -> dict[str, Any]:
    """Return a row as a table of the document: what equals its default is left out."""
    found = {}
    for key, known_field in known.items():
        value = row[known_field.column]
        if known_field.kind is _FLAG:
            value = bool(value)
        if known_field.default is _REQUIRED or value != known_field.default:
            found[key] = value
    return found


def _unsayable(table: str, column: str, value: object) -> str | None:
    """Say why no document can hold this cell, or None."""
    match value:
        case str() if not _is_unicode(value):
            return "is not UTF-8"
        case str() | float() if column == "network_id" or (column == "id" and table != "machines"):
            return "is no integer"
        case int() | float() if column in _KEY_TEXTS.get(table, ()):
            return "is no text"
        case float() if not isfinite(value):
            return "is infinite"
        case bytes():
            return "is a blob"
        case None if column not in ("latitude", "longitude", *_FLAG_COLUMNS):
            return "is NULL"
    return None


# Columns that become keys of the document, or their whole value: nothing but text will do.
_KEY_TEXTS: Final[Mapping[str, tuple[str, ...]]] = {
    "organizations": ("slug",),
    "regions": ("code",),
    "networks": ("name",),
    "apps": ("name",),
    "machines": ("id", "app"),
    "machine_metadata": ("machine_id", "key"),
    "machine_services": ("machine_id", "name", "protocol"),
    "peers": ("name",),
    "flycasts": ("app", "address"),
}
_FLAG_COLUMNS: Final = ("skip_registration", "gateway")
_OF_NETWORK: Final = ("apps", "machines", "peers", "flycasts")
_OF_MACHINE: Final = ("machine_metadata", "machine_services")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _stand_ins(number: int) -> Iterator[str]:
    """Names for a network that has none: 24, network-24, network-24-2, ..."""
    yield f"{number}"
    yield f"network-{number}"
    yield from (f"network-{number}-{n}" for n in count(2))


def _host_text(number: int) -> str:
    return f"{number >> 16:x}:{number & 0xFFFF:x}" if 0 <= number < 1 << 32 else str(number)


def _told_key(table: str, row: Row) -> str:
    return " ".join(_told(row[column]) for column in KEYS[table])


def _told(value: object) -> str:
    """Write a cell for an operator's eyes."""
    if isinstance(value, str) and not _is_unicode(value):
        value = value.encode("utf-8", "surrogateescape")
    return "NULL" if value is None else shown(value)


# Reading rows. Unlike store/sqlite.py this keeps texts and blobs apart.


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Read as of one commit; text that is not UTF-8 comes with surrogates, blobs as octets."""
    before = connection.text_factory, connection.row_factory, connection.in_transaction
    connection.text_factory = lambda octets: octets.decode("utf-8", "surrogateescape")
    connection.row_factory = None
    try:
        if not before[2]:
            connection.execute("BEGIN")
        yield
    finally:
        connection.text_factory, connection.row_factory = before[:2]
        if not before[2] and connection.in_transaction:
            connection.execute("ROLLBACK")


def _select(connection: sqlite3.Connection, table: str, rest: str = "", bound: Sequence[Any] = ()) -> list[Row]:
    columns = COLUMNS[table]
    cursor = connection.execute(f"SELECT {', '.join(columns)} FROM {table} {rest}", tuple(bound))
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def _select_in(connection: sqlite3.Connection, table: str, column: str, values: Iterable[Any]) -> list[Row]:
    """Return the rows whose *column* is one of *values*."""
    remaining, found = iter(values), []
    while some := tuple(islice(remaining, 500)):  # SQLite before 3.32 binds 999 at most
        found += _select(connection, table, f"WHERE {column} IN ({', '.join('?' * len(some))})", some)
    return found


def _of_networks(connection: sqlite3.Connection, numbers: Sequence[int]) -> dict[str, list[Row]]:
    """Return what belongs to some networks, and their organizations; no places."""
    rows = {table: _select_in(connection, table, "network_id", numbers) for table in _OF_NETWORK}
    rows["networks"] = _select_in(connection, "networks", "id", numbers)
    machines = [row["id"] for row in rows["machines"] if _bindable(row["id"])]
    for table in _OF_MACHINE:
        rows[table] = _select_in(connection, table, "machine_id", machines)
    slugs = {row["organization"] for row in rows["networks"] if _bindable(row["organization"])}
    rows["organizations"] = _select_in(connection, "organizations", "slug", sorted(slugs, key=str))
    return {table: rows.get(table, []) for table in KEYS}


def _bindable(value: object) -> bool:
    """Say whether `= ?` finds the cell again."""
    return value is not None and not (isinstance(value, str) and not _is_unicode(value))


# ── into the file ───────────────────────────────────────────────────────────────────────────────────────────

Sign = Literal["+", "~", "-"]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is added, changed or removed, in words."""

    sign: Sign
    kind: str
    words: str

    def __str__(self) -> str:
        return f"{self.sign} {self.kind} {self.words}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write so that the file is as the document wants it.

    A row is never both put and deleted, so either may come first; parents come first in `puts`, last in `deletes`. A
    put is a whole row without `updated_at`, to be inserted or to replace the row with its key. `warnings` are those of
    the document that the file does not settle, and what else deserves a look; `notes` say what cannot be written.
    """

    puts: list[tuple[str, Row]]
    deletes: list[tuple[str, Row]]
    changes: list[Change]
    warnings: list[str]
    notes: list[str]

    @property
    def empty(self) -> bool:
        return not self.puts and not self.deletes

    @property
    def lines(self) -> list[str]:
        return list(map(str, self.changes))

    def summary(self) -> str:
        """Say how much changes: 2 machines added, 1 changed, 1 app removed."""
        counts = Counter((change.kind, str(change.sign)) for change in self.changes)
        said = []
        for kind, (one, many) in _KINDS.items():
            noun = True
            for sign, verb in ("+", "added"), ("~", "changed"), ("-", "removed"):
                if found := counts[kind, sign]:
                    said.append(f"{found:,} {(one if found == 1 else many) + ' ' if noun else ''}{verb}")
                    noun = False
        return ", ".join(said) or "nothing to change"


_KINDS: Final = {
    "network": ("network", "networks"),
    "app": ("app", "apps"),
    "machine": ("machine", "machines"),
    "peer": ("peer", "peers"),
    "flycast": ("flycast address", "flycast addresses"),
    "organization": ("organization", "organizations"),
    "region": ("region", "regions"),
    "latency": ("latency pair", "latency pairs"),
    "host": ("host", "hosts"),
    "metadata": ("stray metadata row", "stray metadata rows"),
    "service": ("stray service row", "stray service rows"),
}


def plan(connection: sqlite3.Connection, document: Document, *, prune: bool = False) -> Plan:
    """Return the difference between the file and what *document* wants of it. Raises sqlite3.Error.

    *prune*: what the document does not name goes too, `meta` excepted. Addresses are compared by value and flags by
    truth; an app that both sides have by its machines needs no row of its own. Idempotent: once applied, the next plan
    is empty.
    """
    wanted = document.rows()
    with _snapshot(connection):
        present = {table: _select(connection, table) for table in KEYS} if prune else _touched(connection, wanted)
    difference = _Difference(wanted, present, prune=prune)
    difference.work_out()
    known = set() if prune else {str(row["code"]).lower() for row in present["regions"]}
    settled = [warning for region, warning in document.unknown_regions.items() if region in known]
    warnings = [str(warning) for warning in document.warnings if warning not in settled]
    return Plan(
        difference.puts, difference.deletes[::-1], difference.changes(), warnings + difference.warnings(),
        difference.notes,
    )  # fmt: skip


def _touched(connection: sqlite3.Connection, wanted: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Return the rows a document can change when nothing is pruned; of networks and places all."""
    rows = _of_networks(connection, [row["id"] for row in wanted["networks"]])
    for table in "networks", "organizations", "regions", "region_latency", "hosts":
        rows[table] = _select(connection, table)
    here = {row["id"] for row in rows["machines"]}
    elsewhere = [row["id"] for row in wanted["machines"] if row["id"] not in here]
    rows["machines"] += _select_in(connection, "machines", "id", elsewhere)
    for table in _OF_MACHINE:
        rows[table] += _select_in(connection, table, "machine_id", elsewhere)
    return rows


class _Difference:
    """Compares wanted with present rows, table by table."""

    def __init__(self, wanted: Mapping[str, list[Row]], present: Mapping[str, list[Row]], *, prune: bool) -> None:
        self.prune, self.present = prune, present
        self.puts: list[tuple[str, Row]] = []
        self.deletes: list[tuple[str, Row]] = []
        self.notes: list[str] = []
        self.wanted = {table: {_key(table, row): row for row in rows} for table, rows in wanted.items()}
        self.before: dict[str, dict[tuple[Any, ...], Row]] = {}  # present rows by key, those in doubt left out
        self.named = {row["id"] for row in wanted["networks"]}
        self.old_apps = {(row["network_id"], row["app"]) for row in present["machines"]}
        self.new_apps = {(row["network_id"], row["app"]) for row in wanted["machines"]}

    def work_out(self) -> None:
        for table in KEYS:
            # Of addresses that are written two ways the one as we write it is kept.
            rows = sorted(self.present[table], key=lambda row: row.get("address") != _canonical(row.get("address")))
            before = self.before[table] = {}
            for row in rows:
                if not all(_bindable(row[column]) for column in KEYS[table]):
                    self.notes.append(f"{table} {_told_key(table, row)}: left as it is: no statement finds its key")
                elif (key := _key(table, row)) in before:
                    self.delete(table, row)
                else:
                    before[key] = row
                    if key not in self.wanted[table] and self.is_ours(table, row):
                        self.delete(table, row)
            for key, row in self.wanted[table].items():
                old = before.get(key)
                if old is None and table == "apps" and key in self.old_apps & self.new_apps:
                    continue
                if old is None or _compared(old) != _compared(row):
                    self.puts.append((table, row))
        self.deletes.sort(key=lambda found: (ORDER.index(found[0]), _in_order(found[1].values())))

    def delete(self, table: str, row: Row) -> None:
        self.deletes.append((table, {column: row[column] for column in KEYS[table]}))

    def is_ours(self, table: str, row: Row) -> bool:
        """Say whether a row that is not wanted is to go."""
        if self.prune or table in _OF_MACHINE:  # only those of machines that we look at were read
            return True
        return table in _OF_NETWORK and row["network_id"] in self.named

    # In words.

    def changes(self) -> list[Change]:
        found = [
            *self.told("networks", "network", lambda row: self.network(row["id"])),
            *self.apps(),
            *self.machines(),
            *self.told("peers", "peer", lambda row: f"{self.network(row['network_id'])}/{_told(row['name'])}"),
            *self.told("flycasts", "flycast", lambda row: f"{self.of_app(row)} {_told(row['address'])}"),
            *self.told("organizations", "organization", lambda row: _told(row["slug"])),
            *self.told("regions", "region", lambda row: _told(row["code"])),
            *self.told("region_latency", "latency", lambda r: f"{_told(r['from_region'])} to {_told(r['to_region'])}"),
            *self.told("hosts", "host", lambda row: _host_text(row["id"])),
        ]
        strays = [(table, key) for table, key in self.deletes if table in _OF_MACHINE and not self.is_known(key)]
        for table, key in strays:
            kind, name = ("metadata", "key") if table == "machine_metadata" else ("service", "name")
            words = f"{_told(key[name])} of machine {_told(key['machine_id'])}, which is not there"
            found.append(Change("-", kind, words))
        return found

    def is_known(self, key: Row) -> bool:
        return any((key["machine_id"],) in machines for machines in (self.before["machines"], self.wanted["machines"]))

    def told(self, table: str, kind: str, name: Callable[[Row], str]) -> Iterator[Change]:
        for _, row in sorted(self.of(table, self.deletes), key=lambda found: _in_order(found[0])):
            yield Change("-", kind, name(row))
        for key, row in sorted(self.of(table, self.puts), key=lambda found: _in_order(found[0])):
            old = self.before[table].get(key)
            if old is None:
                yield Change("+", kind, name(row))
            else:
                yield Change("~", kind, f"{name(row)}: {', '.join(_fields_changed(old, row))}")

    @staticmethod
    def of(table: str, found: list[tuple[str, Row]]) -> Iterator[tuple[tuple[Any, ...], Row]]:
        return ((_key(table, row), row) for of_table, row in found if of_table == table)

    def apps(self) -> Iterator[Change]:
        """An app is there by its row or by its machines."""
        old = {key for key in {*self.before["apps"], *self.old_apps} if self.prune or key[0] in self.named}
        new = {*self.wanted["apps"], *self.new_apps}
        for sign, found in ("-", old - new), ("+", new - old):
            for number, app in sorted(found, key=_in_order):
                yield Change(sign, "app", f"{self.network(number)}/{_told(app)}")  # type: ignore[arg-type]

    def machines(self) -> Iterator[Change]:
        """Metadata and services are told with their machine."""
        parts: dict[object, list[str]] = defaultdict(list)
        for table, kind in ("machine_metadata", "metadata"), ("machine_services", "service"):
            for _, row in self.of(table, self.deletes):
                parts[row["machine_id"]].append(f"{kind} {_part(row)} removed")
            for key, row in self.of(table, self.puts):
                old, value = self.before[table].get(key), "value" if kind == "metadata" else "port"
                how = f"{_told(old[value])} -> {_told(row[value])}" if old else "added"
                parts[row["machine_id"]].append(f"{kind} {_part(row)} {how}")
        old_rows, new_rows = self.before["machines"], self.wanted["machines"]
        for key, row in sorted(self.of("machines", self.deletes), key=lambda found: _in_order(found[0])):
            yield Change("-", "machine", f"{_told(row['id'])} of {self.of_app(old_rows[key])}")
        for key, row in new_rows.items():
            words = f"{_told(row['id'])} of {self.of_app(row)}"
            if (was := old_rows.get(key)) is None:
                yield Change("+", "machine", words)
                continue
            moved = [f"network {self.network(was['network_id'])} -> {self.network(row['network_id'])}"]
            changed = moved if was["network_id"] != row["network_id"] else []
            changed = changed + _fields_changed(was, row) + parts.get(row["id"], [])
            if changed:
                yield Change("~", "machine", f"{words}: {', '.join(changed)}")

    def of_app(self, row: Row) -> str:
        return f"{self.network(row['network_id'])}/{_told(row['app'])}"

    def network(self, number: object) -> str:
        """Name a network as the document does, else as the file does, else by its number."""
        row = self.wanted["networks"].get((number,)) or self.before["networks"].get((number,)) or {}
        return _told(row.get("name") or number)

    def warnings(self) -> list[str]:
        found = []
        kept = [] if self.prune else [row for row in self.present["networks"] if row["id"] not in self.named]
        names = {str(row["name"]).lower(): row for row in self.wanted["networks"].values()}
        for row in kept:
            if (new := names.get(str(row["name"]).lower())) is not None:
                found.append(f"network {row['id']} of the catalog is called {_told(new['name'])} too, like {new['id']}")
        for key, new in self.wanted["machines"].items():
            old = self.before["machines"].get(key)
            if old is not None and old["network_id"] not in self.named:
                whence = f"network {self.network(old['network_id'])}, which the document does not name"
                found.append(f"machine {_told(new['id'])} moves away from {whence}")
        return found


def _key(table: str, row: Row) -> tuple[Any, ...]:
    return tuple(_canonical(row[c]) if c == "address" else row[c] for c in KEYS[table])


def _canonical(address: Any) -> Any:
    packed = _packed(address)
    return address if packed is None else inet_ntop(AF_INET6, packed)


def _compared(row: Row) -> Row:
    """Return a row's cells as the reader takes them."""
    return {column: _meant(column, value) for column, value in row.items()}


def _meant(column: str, value: Any) -> Any:
    if column in _FLAG_COLUMNS:
        return bool(value)
    return _canonical(value) if column == "address" else value


def _fields_changed(old: Row, new: Row) -> list[str]:
    return [
        f"{column.removeprefix('process_')} {_meaning(column, old[column])} -> {_meaning(column, value)}"
        for column, value in new.items()
        if column != "network_id" and _meant(column, old[column]) != _meant(column, value)
    ]


def _meaning(column: str, value: Any) -> str:
    if column in _FLAG_COLUMNS:
        return str(bool(value)).lower()
    return "unknown" if value is None else _told(value)


def _part(row: Row) -> str:
    return _told(row["key"]) if "key" in row else f"{_told(row['name'])}/{_told(row['protocol'])}"


def _in_order(cells: Iterable[Any]) -> list[tuple[str, Any]]:
    """A key to sort by, whatever types a laxer writer mixed."""
    return [(type(cell).__name__, cell) for cell in cells]
