"""Find the row that an argument names: NETWORK, NETWORK/APP, an id or a /48."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Network
from typing import Any

import click

from internal_dns.cli import suggest
from internal_dns.cli.backend import read_rows
from internal_dns.cli.common import FINDING, settings
from internal_dns.errors import OperatorError


def network_names(catalog: str) -> dict[int, str]:
    """Return what each network is called: its name, or its id without one."""
    return {row["id"]: row["name"] or str(row["id"]) for row in read_rows(catalog, "networks")}


def find_network(catalog: str, text: str) -> dict[str, Any]:
    """Return the network that *text* names by name, id or /48. Raises OperatorError."""
    number = parse_network(text, settings().prefix)
    rows = read_rows(catalog, "networks")
    matches = [
        row
        for row in rows
        if row["id"] == number or (number is None and row["name"].lower() == text.lower())
    ]
    if not matches:
        known = ", ".join(row["name"] or str(row["id"]) for row in rows[:10]) or "no network yet"
        near = suggest.did_you_mean(text, (row["name"] for row in rows))
        raise OperatorError(
            f"there is no network {text}",
            f"the catalog has: {known}{' and more' if len(rows) > 10 else ''}",
            near or "Add it: internal-dns network add NAME --id fdaa:…::/48",
            FINDING,
        )
    if len(matches) > 1:
        ids = " and ".join(str(row["id"]) for row in matches)
        raise OperatorError(
            f"more than one network has the name {text}",
            f"their ids are {ids}",
            "Use the id instead of the name",
            FINDING,
        )
    return matches[0]


def parse_network(text: str, prefix: bytes) -> int | None:
    """Return the id that *text* spells as a number or as a /48 of *prefix*; None for a name."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        network = IPv6Network(text if "/" in text else f"{text}/48")
    except (AddressValueError, ValueError):
        return None
    packed = network.network_address.packed
    return (
        int.from_bytes(packed[2:6], "big")
        if packed.startswith(prefix) and network.prefixlen == 48
        else None
    )


def slash_48(number: object, prefix: bytes) -> str:
    """Return the /48 of a network; empty for an invalid id, which a foreign file may hold."""
    if not isinstance(number, int) or not 0 < number < 1 << 32:
        return ""
    return str(IPv6Network((prefix + number.to_bytes(4, "big") + bytes(10), 48)))


def split_name(text: str, what: str) -> tuple[str, str]:
    """Split NETWORK/NAME. Raises UsageError."""
    network, slash, name = text.partition("/")
    if not slash or not network or not name:
        raise click.UsageError(f"{text!r} does not name a network: write NETWORK/{what}")
    return network, name


def find_in_network(catalog: str, text: str, what: str) -> tuple[int, str]:
    """Return the id of the network in NETWORK/NAME, and NAME. Raises UsageError, OperatorError."""
    network, name = split_name(text, what)
    return find_network(catalog, network)["id"], name


def require_row(catalog: str, table: str, key: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the one row with *key*. Raises OperatorError."""
    rows = read_rows(catalog, table, key)
    if not rows:
        *within, (column, text) = key.items()
        near = suggest.did_you_mean_in(catalog, table, column, str(text), dict(within))
        raise OperatorError(
            f"there is no {what}",
            f"catalog {catalog} does not have it",
            near or f"List what there is: internal-dns {what.split(maxsplit=1)[0]} list",
            FINDING,
        )
    return rows[0]
