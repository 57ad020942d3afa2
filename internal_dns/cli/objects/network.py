"""Networks, named by name, id or /48."""

from __future__ import annotations

from typing import Any

import click

from internal_dns.cli import suggest
from internal_dns.cli.backend import read_rows
from internal_dns.cli.columns import column_options, list_columns, pop_columns
from internal_dns.cli.common import FINDING, print_json, settings
from internal_dns.cli.objects.lookup import find_network, parse_network, slash_48
from internal_dns.cli.objects.rows import change, command, show_one, show_table, without_none
from internal_dns.errors import OperatorError
from internal_dns.store.schema import NETWORKS

network = click.Group("network", help="Show and change networks.")


@command(network, "list")
@click.option(
    "--routes", is_flag=True, help="Print commands that make each <network>::3 local to this host."
)
def network_list(catalog: str, as_json: bool, routes: bool) -> None:
    """List all networks."""
    prefix = settings().prefix
    rows = [row | {"prefix": slash_48(row["id"], prefix)} for row in read_rows(catalog, "networks")]
    if routes:
        lines = [
            f"ip -6 route add local {row['prefix'].removesuffix('::/48')}::3/128 dev lo"
            for row in rows
            if row["prefix"]
        ]
        print_json(lines) if as_json else click.echo("\n".join(lines))
    else:
        show_table(rows, list_columns(NETWORKS, "name", "prefix", "id"), as_json)


@command(network, "show")
@click.argument("name", shell_complete=suggest.networks)
def network_show(catalog: str, as_json: bool, name: str) -> None:
    """Show a network with its apps, peers, zones and the number of its records."""
    row = find_network(catalog, name)
    own = {"network_id": row["id"]}
    apps = {r["name"] for r in read_rows(catalog, "apps", own)} | {
        r["app"] for r in read_rows(catalog, "machines", own)
    }
    peers = [r["name"] for r in read_rows(catalog, "peers", own)]
    prefix = slash_48(row["id"], settings().prefix)
    zones = [r["name"] for r in read_rows(catalog, "zones", own)]
    records = len(read_rows(catalog, "records", own))
    shown = {"apps": sorted(apps), "peers": peers, "zones": zones, "records": records}
    show_one(row | {"prefix": prefix, **shown}, as_json)


@command(network, "add", writes=True)
@click.argument("name")
@click.option("--id", "number", required=True, help="The id, or the /48 such as fdaa:0:18::/48.")
@column_options(NETWORKS, required=True, omit=("name",))
def network_add(name: str, number: str, **to: Any) -> None:
    """Add a network."""
    prefix = settings().prefix
    ident = parse_network(number, prefix)
    if ident is None or not 0 < ident < 1 << 32:
        raise click.UsageError(
            f"--id {number!r} is neither a number from 1 to 4294967295 nor a /48 of "
            f"{prefix.hex()}::/16"
        )
    row = {"id": ident, "name": name, **pop_columns(NETWORKS, to)}
    change(to.pop("catalog"), [("networks", row)], new=[("networks", {"id": ident})], **to)


@command(network, "set", writes=True)
@click.argument("name", shell_complete=suggest.networks)
@click.option("--name", "new_name", help="The new name.")
@column_options(NETWORKS, required=False, omit=("name",))
def network_set(name: str, new_name: str | None, catalog: str, **to: Any) -> None:
    """Change a network."""
    row = (
        {"id": find_network(catalog, name)["id"]}
        | without_none(name=new_name)
        | pop_columns(NETWORKS, to)
    )
    change(catalog, [("networks", row)], **to)


@command(network, "rm", writes=True)
@click.argument("name", shell_complete=suggest.networks)
@click.option(
    "--cascade",
    is_flag=True,
    help="Also remove its apps, machines, peers, flycast addresses, zones and records.",
)
def network_rm(name: str, cascade: bool, catalog: str, **to: Any) -> None:
    """Remove a network."""
    number = find_network(catalog, name)["id"]
    tables = ("machines", "apps", "peers", "flycasts", "records", "zones")
    inside = sum(len(read_rows(catalog, table, {"network_id": number})) for table in tables)
    if inside and not cascade:
        raise OperatorError(
            f"network {name} is not empty",
            f"{inside} rows belong to it",
            "Remove them too with --cascade",
            FINDING,
        )
    deletes = [*((table, {"network_id": number}) for table in tables), ("networks", {"id": number})]
    change(catalog, [], deletes, **to)
