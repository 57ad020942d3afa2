"""The kinds of values in a document: each Kind reads a value, or raises InvalidValue."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from socket import AF_INET6, inet_ntop, inet_pton
from typing import Any, Final

from internal_dns.store import schema
from internal_dns.store.rows import shown
from internal_dns.store.schema import Domain


class InvalidValue(Exception):
    """The value cannot be used; the arguments are what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Reads a value of a document into a cell, or raises InvalidValue; `schema` is its JSON
    Schema."""

    read: Callable[[Any], Any]
    schema: Mapping[str, Any]


def _typed(value: object) -> str:
    """Return the name of the type of *value* in TOML and JSON, with its article."""
    names = {
        dict: "table",
        list: "array",
        str: "string",
        bool: "boolean",
        int: "integer",
        float: "number",
    }
    name = names.get(type(value), "date or time")
    return "null" if value is None else f"{'an' if name[0] in 'ai' else 'a'} {name}"


def quoted(text: str) -> str:
    return f"'{shown(text)}'" + (f" … ({len(text)} characters)" if len(text) > 80 else "")


def _misplaced(value: object, wanted: str, do: str) -> InvalidValue:
    return InvalidValue(f"{_typed(value)} stands where {wanted} belongs", do)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _misplaced(value, "a string", "Write it in quotes")
    return value


def _some_text(value: Any) -> str:
    if not _text(value):
        raise InvalidValue("the name is empty", "Give it one")
    return _text(value)


def _named(domain: Domain) -> Kind:
    pattern = re.compile(domain.pattern)
    longest = pattern.pattern.rpartition(",")[2].rstrip("}")

    def read(value: Any) -> str:
        if not pattern.fullmatch(_text(value)):
            what = f"{quoted(value)} is not a valid name" if value else "the name is empty"
            raise InvalidValue(what, f"Use 1 to {longest} of letters, digits, - and _")
        return _text(value)

    return Kind(read, {"type": "string", "pattern": f"^{pattern.pattern}$"})


def _name_or_none(value: Any) -> str:
    return _text(value) and str(NAME.read(value))


def _flag(value: Any) -> int:
    if not isinstance(value, bool):
        raise _misplaced(value, "a boolean", "Write true or false")
    return int(value)


def _ranged(domain: Domain) -> Kind:
    """A number within the domain's bounds, as a float."""
    wanted, low, high = domain.words, domain.low or 0, domain.high or 0

    def read(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _misplaced(value, "a number", f"Write {wanted}, {low:,} to {high:,}")
        if not low <= value <= high:
            raise InvalidValue(
                f"{shown(value)} is out of range", f"Write {wanted}, {low:,} to {high:,}"
            )
        return float(value)

    return Kind(read, {"type": "number", "minimum": low, "maximum": high})


def _whole(domain: Domain) -> Kind:
    """A whole number within the domain's bounds."""
    low, high = int(domain.low or 0), int(domain.high or 0)

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            do = f"Write {domain.words}, {low} to {high}, without quotes"
            raise _misplaced(value, "an integer", do)
        if not domain.holds(value):
            raise InvalidValue(
                f"{shown(value)} is not {domain.words}", f"Write one from {low} to {high}"
            )
        return value

    return Kind(read, {"type": "integer", "minimum": low, "maximum": high})


def _one_of(domain: Domain) -> Kind:
    def read(value: Any) -> str:
        if _text(value) not in domain.choices:
            raise InvalidValue(f"{quoted(value)} is not {domain.words}", f"Write {domain.words}")
        return _text(value)

    return Kind(read, {"enum": list(domain.choices)})


def _record_type(value: Any) -> str:
    text, choices = _text(value), schema.RECORD_TYPE.choices
    if text in choices:
        return text
    do = f"Write {text.upper()}" if text.upper() in choices else f"Use {', '.join(choices)}"
    raise InvalidValue(f"{quoted(value)} is not a type of record", do)


def octets(text: object) -> bytes | None:
    """Return the 16 octets of an address, or None."""
    try:
        return inet_pton(AF_INET6, text) if isinstance(text, str) else None
    except (OSError, ValueError):
        return None


def _address(value: Any) -> str:
    packed = octets(_text(value))
    if packed is None:
        raise InvalidValue(
            f"{quoted(value)} is not an IPv6 address",
            "Write one, such as fdaa:0:18:a7b:7d:f066:b83b:2",
        )
    return inet_ntop(AF_INET6, packed)


def _network_id(value: Any) -> int | bytes:
    """Return the integer, or the first six octets of the /48."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not schema.NETWORK_ID.holds(value):
            raise InvalidValue(
                f"{shown(value)} is not a network id",
                "Use 1 to 4294967295: the 32 bits after the prefix",
            )
        return value
    if not isinstance(value, str):
        raise _misplaced(value, "a network id", "Write its /48 in quotes, or the integer")
    start, _, length = value.partition("/")
    packed = octets(start)
    if packed is None or length != "48" or any(packed[6:]):
        raise InvalidValue(
            f"{quoted(value)} is not a network",
            "Write its /48, such as fdaa:0:18::/48, or the integer",
        )
    if not any(packed[2:6]):
        raise InvalidValue(f"{quoted(value)} is network 0, which is reserved", "Use another")
    return packed[:6]


_HOST_BITS: Final = re.compile(r"([0-9A-Fa-f]{1,4}):([0-9A-Fa-f]{1,4})|([0-9]{1,10})")


def host_id(value: Any) -> int:
    if (match := _HOST_BITS.fullmatch(_text(value))) is not None:
        high, low, decimal = match.groups()
        number = int(decimal) if decimal else int(high, 16) << 16 | int(low, 16)
        if schema.HOST_ID.holds(number):
            return number
    raise InvalidValue(
        f"{quoted(value)} is not a host",
        "Write its 32 bits as in an address, such as a7b:7d, or the integer",
    )


def read_table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _misplaced(value, "a table", "Write it as docs/declarative.md says")
    return value


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _misplaced(value, "an array", "Put it in [ ]")
    return value


TEXT: Final = Kind(_text, {"type": "string"})
SOME_TEXT: Final = Kind(_some_text, {"type": "string", "minLength": 1})
NAME: Final = _named(schema.NAME)
FLAG: Final = Kind(_flag, {"type": "boolean"})
ADDRESS: Final = Kind(_address, {"type": "string", "format": "ipv6"})
NETWORK_ID: Final = Kind(
    _network_id,
    {
        "anyOf": [
            {"type": "string", "pattern": "^[0-9A-Fa-f:]+/48$"},
            {"type": "integer", "minimum": 1, "maximum": schema.NETWORK_ID.high},
        ]
    },
)
# store/presentation.py reads them: whether a name has a place depends on its network.
DOMAIN_NAME: Final = SOME_TEXT
HOST_ID: Final = Kind(host_id, {"pattern": f"^({_HOST_BITS.pattern})$"})

# Domains that documents write in their own way; any other follows from its declaration.
_OWN: Final[Mapping[Domain, Kind]] = {
    schema.TEXT: TEXT,
    schema.NAME: NAME,
    schema.NAME_OR_NONE: Kind(
        _name_or_none, {"type": "string", "pattern": f"^{schema.NAME_OR_NONE.pattern}$"}
    ),
    schema.ADDRESS: ADDRESS,
    schema.DOMAIN_NAME: DOMAIN_NAME,
    schema.RECORD_TYPE: Kind(_record_type, {"enum": list(schema.RECORD_TYPE.choices)}),
    schema.NETWORK_ID: NETWORK_ID,
    schema.HOST_ID: HOST_ID,
    schema.FLAG: FLAG,
}


def kind_of(domain: Domain) -> Kind:
    """Return the kind of the values of *domain* in documents."""
    if domain in _OWN:
        return _OWN[domain]
    if domain.choices:
        return _one_of(domain)
    if domain.pattern:
        return _named(domain)
    return _ranged(domain) if domain.sql == "REAL" else _whole(domain)


def table_of(items: Mapping[str, Any], names: Kind) -> Kind:
    return Kind(
        read_table,
        {
            "type": "object",
            "propertyNames": dict(names.schema),
            "additionalProperties": dict(items),
        },
    )


def array_of(items: Mapping[str, Any]) -> Kind:
    return Kind(_array, {"type": "array", "items": dict(items)})


def slash_48(number: int, prefix: bytes) -> str:
    return inet_ntop(AF_INET6, prefix + number.to_bytes(4, "big") + bytes(10)) + "/48"
