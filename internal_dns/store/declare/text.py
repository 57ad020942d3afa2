"""Write the plain value of a document as TOML or JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from internal_dns.text import printable_json

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SHORT: Final = {
    '"': '\\"',
    "\\": "\\\\",
    "\n": "\\n",
    "\t": "\\t",
    "\r": "\\r",
    "\b": "\\b",
    "\f": "\\f",
}


def to_json(value: Mapping[str, Any]) -> str:
    """Return an exported document as indented JSON."""
    return printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()) + "\n"


def to_toml(value: Mapping[str, Any]) -> str:
    """Return an exported document as TOML: tables under headers, tables inside array elements
    inline."""
    return "\n".join(_toml_tables((), value))


def _toml_tables(path: tuple[str, ...], value: Mapping[str, Any]) -> Iterator[str]:
    """Yield one paragraph per table. Its own values come first: after a header they would belong to
    that."""
    tables = {key: of_key for key, of_key in value.items() if _has_headers(of_key)}
    pairs = {key: of_key for key, of_key in value.items() if key not in tables}
    if pairs or (path and not tables):
        header = f"[{'.'.join(map(toml_key, path))}]\n" if path else ""
        yield header + _toml_pairs(pairs)
    for key, of_key in tables.items():
        if isinstance(of_key, Mapping):
            yield from _toml_tables((*path, key), of_key)
            continue
        header = ".".join(map(toml_key, (*path, key)))
        for member in of_key:
            yield f"[[{header}]]\n" + _toml_pairs(member)


def _has_headers(value: object) -> bool:
    """Whether *value* is written under headers: a table, or an array of tables only."""
    array = (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(member, Mapping) for member in value)
    )
    return array or isinstance(value, Mapping)


def _toml_pairs(value: Mapping[str, Any]) -> str:
    return "".join(f"{toml_key(key)} = {_toml_inline(of_key)}\n" for key, of_key in value.items())


def _toml_inline(value: Any) -> str:
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = ", ".join(
            f"{toml_key(key)} = {_toml_inline(of_key)}" for key, of_key in value.items()
        )
        return f"{{ {pairs} }}" if pairs else "{}"
    return f"[{', '.join(map(_toml_inline, value))}]"


def toml_key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _toml_string(key)


def _toml_string(text: str) -> str:
    return (
        f'"{"".join(_SHORT.get(c) or (c if c.isprintable() else _escaped(ord(c))) for c in text)}"'
    )


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
