"""Apps, named NETWORK/APP."""

from __future__ import annotations

from typing import Any

import click

from internal_dns.cli import suggest
from internal_dns.cli.backend import read_rows
from internal_dns.cli.common import FINDING
from internal_dns.cli.objects.lookup import (
    find_in_network,
    find_network,
    network_names,
    require_row,
    split_name,
)
from internal_dns.cli.objects.rows import change, command, show_one, show_table
from internal_dns.errors import OperatorError

app = click.Group("app", help="Show and change apps, named NETWORK/APP.")


@command(app, "list")
@click.option(
    "--network", "network_name", shell_complete=suggest.networks, help="Only this network."
)
def app_list(catalog: str, as_json: bool, network_name: str | None) -> None:
    """List apps and their numbers of machines."""
    own = {"network_id": find_network(catalog, network_name)["id"]} if network_name else {}
    names = network_names(catalog)
    counts: dict[tuple[int, str], list[int]] = {}
    for row in read_rows(catalog, "apps", own):
        counts.setdefault((row["network_id"], row["name"].lower()), [0, 0])
    for row in read_rows(catalog, "machines", own):
        count = counts.setdefault((row["network_id"], row["app"].lower()), [0, 0])
        count[0] += 1
        count[1] += row["state"] == "started"
    rows = [
        {
            "network": names.get(number, str(number)),
            "app": name,
            "machines": machines,
            "started": started,
        }
        for (number, name), (machines, started) in sorted(counts.items())
    ]
    show_table(rows, ("network", "app", "machines", "started"), as_json)


@command(app, "show")
@click.argument("name", metavar="NETWORK/APP", shell_complete=suggest.within_network("apps"))
def app_show(catalog: str, as_json: bool, name: str) -> None:
    """Show an app and its machines."""
    network_name, label = split_name(name, "APP")
    number = find_network(catalog, network_name)["id"]
    rows = [
        row
        for row in read_rows(catalog, "machines", {"network_id": number})
        if row["app"].lower() == label.lower()
    ]
    if not rows:
        require_row(catalog, "apps", {"network_id": number, "name": label}, f"app {name}")
    machines = [
        f"{m['id']} {m['region']} {m['process_group']} {m['state']} {m['address']}" for m in rows
    ]
    show_one({"network": network_name, "app": label, "machines": machines}, as_json)


@command(app, "add", writes=True)
@click.argument("name", metavar="NETWORK/APP", shell_complete=suggest.within_network("apps"))
def app_add(name: str, catalog: str, **to: Any) -> None:
    """Add an app without machines. Adding a machine adds its app by itself."""
    number, label = find_in_network(catalog, name, "APP")
    row = {"network_id": number, "name": label}
    change(catalog, [("apps", row)], new=[("apps", row)], **to)


@command(app, "rm", writes=True)
@click.argument("name", metavar="NETWORK/APP", shell_complete=suggest.within_network("apps"))
@click.option("--cascade", is_flag=True, help="Also remove its machines.")
def app_rm(name: str, cascade: bool, catalog: str, **to: Any) -> None:
    """Remove an app."""
    number, label = find_in_network(catalog, name, "APP")
    machines = read_rows(catalog, "machines", {"network_id": number, "app": label})
    if machines and not cascade:
        why = f"it has {len(machines)} machines"
        raise OperatorError(
            f"app {name} is not empty", why, "Remove them too with --cascade", FINDING
        )
    if not machines:
        require_row(catalog, "apps", {"network_id": number, "name": label}, f"app {name}")
    deletes = [
        ("machines", {"network_id": number, "app": label}),
        ("apps", {"network_id": number, "name": label}),
    ]
    change(catalog, [], deletes, **to)
