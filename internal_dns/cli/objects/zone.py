"""Private zones of a network, named NETWORK/ZONE."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final

import click

from internal_dns.cli import suggest
from internal_dns.cli.backend import read_rows
from internal_dns.cli.common import FINDING, settings
from internal_dns.cli.objects.lookup import (
    find_in_network,
    find_network,
    network_names,
    require_row,
)
from internal_dns.cli.objects.record import read_owner
from internal_dns.cli.objects.rows import change, command, show_table, warn
from internal_dns.errors import OperatorError

_LABEL: Final = re.compile(r"(?:[^.\\]|\\.)*", re.DOTALL)  # a dot after a backslash ends none

zone = click.Group("zone", help="Show and change the private zones of a network.")


@command(zone, "list")
@click.option(
    "--network", "network_name", shell_complete=suggest.networks, help="Only this network."
)
def zone_list(catalog: str, as_json: bool, network_name: str | None) -> None:
    """List private zones, each with the number of its records."""
    own = {"network_id": find_network(catalog, network_name)["id"]} if network_name else {}
    names, rows = network_names(catalog), read_rows(catalog, "zones", own)
    apexes: dict[int, set[str]] = {}
    for row in rows:
        apexes.setdefault(row["network_id"], set()).add(row["name"])
    counts = Counter(
        (row["network_id"], zone_of_text(row["name"], apexes[row["network_id"]]))
        for row in read_rows(catalog, "records", own)
        if row["network_id"] in apexes
    )
    shown = [
        row
        | {"network": names.get(row["network_id"], str(row["network_id"]))}
        | {"records": counts[row["network_id"], row["name"]]}
        for row in rows
    ]
    show_table(shown, ("network", "name", "records"), as_json)


@command(zone, "add", writes=True)
@click.argument("name", metavar="NETWORK/ZONE", shell_complete=suggest.within_network("zones"))
def zone_add(name: str, catalog: str, **to: Any) -> None:
    """Add a private zone: for its network, all names in it are answered from its records."""
    from internal_dns.store.presentation import Zone, is_public_tld, read_zone

    row = _find_zone(catalog, name)
    made = read_zone(row["name"], settings().prefix)
    if isinstance(made, Zone) and is_public_tld(made.apex):
        warn(
            f"{made.name} is a top-level domain of the Internet: its names there are out of reach "
            "for this network"
        )
    change(catalog, [("zones", row)], new=[("zones", row)], **to)


@command(zone, "rm", writes=True)
@click.argument("name", metavar="NETWORK/ZONE", shell_complete=suggest.within_network("zones"))
@click.option("--cascade", is_flag=True, help="Also remove its records.")
def zone_rm(name: str, cascade: bool, catalog: str, **to: Any) -> None:
    """Remove a private zone: its names are forwarded again."""
    key = _find_zone(catalog, name)
    require_row(catalog, "zones", key, f"zone {name}")
    own = {"network_id": key["network_id"]}
    apexes = {row["name"] for row in read_rows(catalog, "zones", own)}
    inside = [
        row
        for row in read_rows(catalog, "records", own)
        if zone_of_text(row["name"], apexes) == key["name"]
    ]
    if inside and not cascade:
        raise OperatorError(
            f"zone {name} is not empty",
            f"it has {len(inside):,} record{'s' * (len(inside) != 1)}",
            "Remove them too with --cascade",
            FINDING,
        )
    owners = dict.fromkeys(row["name"] for row in inside)
    deletes = [("records", own | {"name": owner}) for owner in owners]
    change(catalog, [], [*deletes, ("zones", key)], **to)


def _find_zone(catalog: str, name: str) -> dict[str, Any]:
    number, text = find_in_network(catalog, name, "ZONE")
    return {"network_id": number, "name": read_owner(text)}


def zone_of_text(name: str, apexes: set[str]) -> str:
    """Return the longest of the zones *apexes* that a name in presentation form is in, or an empty
    text."""
    rest = name
    while rest and rest not in apexes:
        first = _LABEL.match(rest)
        assert first is not None  # it matches the empty text
        rest = rest[first.end() + 1 :]
    return rest
