"""Flycast addresses of an app, on the network where they answer."""

from __future__ import annotations

from typing import Any

import click

from internal_dns.cli import suggest
from internal_dns.cli.backend import read_rows
from internal_dns.cli.objects.lookup import (
    find_in_network,
    find_network,
    network_names,
    require_row,
    split_name,
)
from internal_dns.cli.objects.rows import change, command, show_one, show_table, without_none

flycast = click.Group(
    "flycast", help="Show and change the flycast addresses of an app on a network."
)


@command(flycast, "list")
@click.option(
    "--network",
    "network_name",
    shell_complete=suggest.networks,
    help="Only this network.",
)
def flycast_list(catalog: str, as_json: bool, network_name: str | None) -> None:
    """List flycast addresses."""
    own = {"network_id": find_network(catalog, network_name)["id"]} if network_name else {}
    names = network_names(catalog)
    rows = read_rows(catalog, "flycasts", own)
    rows = [r | {"network": names.get(r["network_id"], str(r["network_id"]))} for r in rows]
    show_table(rows, ("network", "app", "address"), as_json)


@command(flycast, "show")
@click.argument("name", metavar="NETWORK/APP", shell_complete=suggest.within_network("flycasts"))
def flycast_show(catalog: str, as_json: bool, name: str) -> None:
    """Show the flycast addresses of an app on a network."""
    network_name, label = split_name(name, "APP")
    own = {"network_id": find_network(catalog, network_name)["id"], "app": label}
    require_row(catalog, "flycasts", own, f"flycast {name}")
    addresses = [row["address"] for row in read_rows(catalog, "flycasts", own)]
    show_one({"network": network_name, "app": label, "addresses": addresses}, as_json)


@command(flycast, "add", writes=True)
@click.argument("name", metavar="NETWORK/APP", shell_complete=suggest.within_network("apps"))
@click.argument("address")
def flycast_add(name: str, address: str, catalog: str, **to: Any) -> None:
    """Allocate ADDRESS to an app on a network."""
    number, label = find_in_network(catalog, name, "APP")
    row = {"network_id": number, "app": label, "address": address}
    change(catalog, [("flycasts", row)], new=[("flycasts", row)], **to)


@command(flycast, "rm", writes=True)
@click.argument("name", metavar="NETWORK/APP", shell_complete=suggest.within_network("flycasts"))
@click.argument("address", required=False)
def flycast_rm(name: str, address: str | None, catalog: str, **to: Any) -> None:
    """Release ADDRESS, or without it all addresses of the app on the network."""
    number, label = find_in_network(catalog, name, "APP")
    key = {"network_id": number, "app": label} | without_none(address=address)
    require_row(catalog, "flycasts", key, f"flycast {name}")
    change(catalog, [], [("flycasts", key)], **to)
