"""Records of a network's own, named NETWORK/NAME, and their types and values."""

from __future__ import annotations

from typing import Any, Final

import click

from internal_dns.cli import suggest
from internal_dns.cli.backend import read_rows
from internal_dns.cli.common import FINDING
from internal_dns.cli.objects.lookup import (
    find_in_network,
    find_network,
    network_names,
    require_row,
)
from internal_dns.cli.objects.rows import change, command, show_table, warn, without_none
from internal_dns.errors import OperatorError
from internal_dns.store.schema import RECORD_TYPE, RECORDS, TTL

record = click.Group(
    "record", help="Show and change the records of a network's own, named NETWORK/NAME."
)

_TYPE: Final = click.Choice(RECORD_TYPE.choices, case_sensitive=False)
_SHOWN: Final = 80  # characters of a value in a table
_STRING: Final = 255  # octets of a character-string
_COLUMNS: Final = ("network", "name", "type", "ttl", "value")
_NAME: Final = click.argument(
    "name", metavar="NETWORK/NAME", shell_complete=suggest.within_network("records")
)
_TTL_OPTION: Final = click.option(
    "--ttl", type=click.IntRange(0, int(TTL.high or 0)), help=RECORDS.column("ttl").words
)


@command(record, "list")
@click.option(
    "--network", "network_name", shell_complete=suggest.networks, help="Only this network."
)
@click.option(
    "--type", "rtype", type=_TYPE, shell_complete=suggest.record_types, help="Only this type."
)
def record_list(catalog: str, as_json: bool, network_name: str | None, rtype: str | None) -> None:
    """List records."""
    own: dict[str, Any] = without_none(type=rtype)
    if network_name:
        own["network_id"] = find_network(catalog, network_name)["id"]
    _print(catalog, read_rows(catalog, "records", own), as_json)


@command(record, "show")
@_NAME
def record_show(catalog: str, as_json: bool, name: str) -> None:
    """Show the records of one name, with their whole values."""
    own = _find_owner(catalog, name)
    require_row(catalog, "records", own, f"record {name}")
    rows = read_rows(catalog, "records", own)
    _print(catalog, rows, as_json, whole=True)


@command(record, "add", writes=True)
@_NAME
@click.argument("rtype", metavar="TYPE", type=_TYPE, shell_complete=suggest.record_types)
@click.argument("value", metavar="VALUE...", nargs=-1, required=True)
@_TTL_OPTION
def record_add(
    name: str, rtype: str, value: tuple[str, ...], ttl: int | None, catalog: str, **to: Any
) -> None:
    """Add a record.

    VALUE is in presentation form (RFC 1035); names in it are absolute, with or without the last
    dot. Of TXT each VALUE is one string.
    """
    row = _find_owner(catalog, name) | {"type": rtype, "value": _read_value(rtype, value)}
    _warn_of_app(catalog, row)
    change(catalog, [("records", row | without_none(ttl=ttl))], new=[("records", row)], **to)


@command(record, "set", writes=True)
@_NAME
@click.argument("rtype", metavar="TYPE", type=_TYPE, shell_complete=suggest.record_types)
@click.argument("value", metavar="[VALUE...]", nargs=-1)
@_TTL_OPTION
def record_set(
    name: str, rtype: str, value: tuple[str, ...], ttl: int | None, catalog: str, **to: Any
) -> None:
    """Make VALUE the only record of this type at a name; without VALUE, change the TTL of all of
    them."""
    own = _find_owner(catalog, name) | {"type": rtype}
    rows = read_rows(catalog, "records", own)
    if not value:
        if ttl is None:
            raise click.UsageError("give a VALUE, or --ttl")
        require_row(catalog, "records", own, f"record {name}")
        change(catalog, [("records", row | {"ttl": ttl}) for row in rows], **to)
        return
    row = own | {"value": _read_value(rtype, value)} | without_none(ttl=ttl)
    _warn_of_app(catalog, row)
    others = [("records", _key_of(other)) for other in rows if other["value"] != row["value"]]
    if ttl is None and others:  # the set keeps its TTL
        row["ttl"] = min(other["ttl"] for other in rows)
    change(catalog, [("records", row)], others, **to)


@command(record, "rm", writes=True)
@_NAME
@click.argument(
    "rtype", metavar="[TYPE]", type=_TYPE, required=False, shell_complete=suggest.record_types
)
@click.argument("value", metavar="[VALUE...]", nargs=-1)
def record_rm(
    name: str, rtype: str | None, value: tuple[str, ...], catalog: str, **to: Any
) -> None:
    """Remove the records of a name: all, those of TYPE, or the one with VALUE."""
    own = _find_owner(catalog, name)
    require_row(catalog, "records", own, f"record {name}")
    key = own | without_none(type=rtype)
    if rtype and value:
        key["value"] = _read_value(rtype, value)
    if not read_rows(catalog, "records", key):
        there = sorted(
            f"{row['type']} {row['value']}" for row in read_rows(catalog, "records", own)
        )
        raise OperatorError(
            f"there is no such record at {name}",
            f"it has {', '.join(there[:5])}{' and more' if len(there) > 5 else ''}",
            "Name one of these, or none to remove all",
            FINDING,
        )
    change(catalog, [], [("records", key)], **to)


# ── parts ─────────────────────────────────────────────────────────────────────────────────────────


def _print(catalog: str, rows: list[Any], as_json: bool, *, whole: bool = False) -> None:
    names = network_names(catalog)
    shown = [
        row | {"network": names.get(row["network_id"], str(row["network_id"]))} for row in rows
    ]
    if not as_json and not whole:
        shown = [row | {"value": _cut(row["value"])} for row in shown]
    show_table(shown, _COLUMNS, as_json)


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"


def _warn_of_app(catalog: str, row: dict[str, Any]) -> None:
    """Warn of a record whose name is that of an app, which is answered instead."""
    label, _, rest = row["name"].partition(".")
    own = {"network_id": row["network_id"]}
    if rest == "internal" and (
        read_rows(catalog, "apps", own | {"name": label})
        or read_rows(catalog, "machines", own | {"app": label})
    ):
        warn(f"{row['name']} is the name of the app {label}, which is answered instead")


def _find_owner(catalog: str, name: str) -> dict[str, Any]:
    """Return the key columns of the owner NETWORK/NAME. Raises OperatorError."""
    number, text = find_in_network(catalog, name, "NAME")
    return {"network_id": number, "name": read_owner(text)}


def read_owner(text: str) -> str:
    """Return a domain name as rows have it. Raises OperatorError."""
    from internal_dns.store.presentation import canonical, read_name

    name = read_name(text)
    if isinstance(name, str):
        raise OperatorError(
            f"{text!r} is not a domain name", name, "Write one, such as db.internal", FINDING
        )
    return canonical(name)


def _read_value(rtype: str, words: tuple[str, ...]) -> str:
    """Return the value that *words* are as rows have it; the writer says what is wrong with one."""
    from internal_dns.store.presentation import canonical_value

    if rtype == "TXT":
        words = tuple(_quote(word) for word in words)
    return canonical_value(rtype, " ".join(words))


def _quote(word: str) -> str:
    """Return a word of the shell as character-strings, of 255 octets at most; what begins with a
    quote is in presentation form already."""
    if word.startswith('"'):
        return word
    octets = word.encode("utf-8", "surrogateescape")
    strings = [octets[at : at + _STRING] for at in range(0, len(octets), _STRING)] or [b""]
    return " ".join(f'"{"".join(map(_octet, string))}"' for string in strings)


def _octet(octet: int) -> str:
    if octet in b'"\\':
        return f"\\{octet:c}"
    return f"{octet:c}" if 0x20 <= octet < 0x7F else f"\\{octet:03d}"


def _key_of(row: dict[str, Any]) -> dict[str, Any]:
    return {column.name: row[column.name] for column in RECORDS.keys}
