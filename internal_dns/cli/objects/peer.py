"""WireGuard peers, named NETWORK/PEER."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address
from typing import Any

import click

from internal_dns.cli import suggest
from internal_dns.cli.backend import read_rows
from internal_dns.cli.columns import column_options, list_columns, pop_columns
from internal_dns.cli.common import FINDING, print_json, settings
from internal_dns.cli.objects.lookup import (
    find_in_network,
    find_network,
    network_names,
    require_row,
    slash_48,
)
from internal_dns.cli.objects.rows import change, command, show_one, show_table
from internal_dns.errors import OperatorError
from internal_dns.store.schema import PEERS

peer = click.Group("peer", help="Show and change WireGuard peers, named NETWORK/PEER.")


@command(peer, "list")
@click.option(
    "--network", "network_name", shell_complete=suggest.networks, help="Only this network."
)
def peer_list(catalog: str, as_json: bool, network_name: str | None) -> None:
    """List peers, including hidden ones."""
    own = {"network_id": find_network(catalog, network_name)["id"]} if network_name else {}
    names = network_names(catalog)
    rows = [
        r | {"network": names.get(r["network_id"], str(r["network_id"]))}
        for r in read_rows(catalog, "peers", own)
    ]
    show_table(
        rows, list_columns(PEERS, "network", "name", "address", omit=("network_id",)), as_json
    )


@command(peer, "show")
@click.argument("name", metavar="NETWORK/PEER", shell_complete=suggest.within_network("peers"))
@click.option(
    "--wireguard",
    is_flag=True,
    help="Print a WireGuard configuration that sends only queries for internal names here.",
)
def peer_show(catalog: str, as_json: bool, name: str, wireguard: bool) -> None:
    """Show a peer."""
    number, label = find_in_network(catalog, name, "PEER")
    row = require_row(catalog, "peers", {"network_id": number, "name": label}, f"peer {name}")
    if not wireguard:
        show_one(row, as_json)
        return
    from internal_dns.cli.wireguard import is_plain_zone, split_dns

    prefix = settings().prefix
    if not slash_48(number, prefix) or not _is_address(row["address"]):
        what = f"peer {name} cannot be configured"
        why = f"address {row['address']} in network {number} is not served"
        raise OperatorError(
            what, why, "See what is wrong with the row: internal-dns check", FINDING
        )
    rows = read_rows(catalog, "zones", {"network_id": number})
    zones = tuple(row["name"] for row in rows if is_plain_zone(row["name"], prefix))
    configuration = split_dns(row["address"], number, prefix, zones)
    if as_json:
        print_json(configuration.value())
    else:
        click.echo("\n".join(configuration.lines()))


def _is_address(text: object) -> bool:
    """Return whether *text* is an IPv6 address and nothing else.

    It goes into a configuration file, and another engine may have written it.
    """
    try:
        return isinstance(text, str) and IPv6Address(text).scope_id is None
    except AddressValueError:
        return False


@command(peer, "add", writes=True)
@click.argument("name", metavar="NETWORK/PEER", shell_complete=suggest.within_network("peers"))
@column_options(PEERS, required=True)
def peer_add(name: str, catalog: str, **to: Any) -> None:
    """Add a peer."""
    number, label = find_in_network(catalog, name, "PEER")
    key = {"network_id": number, "name": label}
    change(
        catalog,
        [("peers", key | pop_columns(PEERS, to))],
        new=[("peers", key)],
        **to,
    )


@command(peer, "set", writes=True)
@click.argument("name", metavar="NETWORK/PEER", shell_complete=suggest.within_network("peers"))
@column_options(PEERS, required=False)
def peer_set(name: str, catalog: str, **to: Any) -> None:
    """Change a peer."""
    number, label = find_in_network(catalog, name, "PEER")
    key = {"network_id": number, "name": label}
    row = require_row(catalog, "peers", key, f"peer {name}") | pop_columns(PEERS, to)
    change(catalog, [("peers", row)], **to)


@command(peer, "rm", writes=True)
@click.argument("name", metavar="NETWORK/PEER", shell_complete=suggest.within_network("peers"))
def peer_rm(name: str, catalog: str, **to: Any) -> None:
    """Remove a peer."""
    number, label = find_in_network(catalog, name, "PEER")
    key = {"network_id": number, "name": label}
    require_row(catalog, "peers", key, f"peer {name}")
    change(catalog, [], [("peers", key)], **to)
