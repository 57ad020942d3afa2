"""Machines, named by id."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from internal_dns.cli import suggest
from internal_dns.cli.backend import read_rows
from internal_dns.cli.columns import column_options, list_columns, pop_columns
from internal_dns.cli.objects.lookup import find_network, network_names, require_row
from internal_dns.cli.objects.rows import change, command, show_one, show_table, warn, without_none
from internal_dns.store.schema import MACHINES

machine = click.Group("machine", help="Show and change machines, named by ID.")
_LISTED = list_columns(
    MACHINES, "id", "network", "app", "region", omit=("network_id", "skip_registration")
)


@command(machine, "list")
@click.option(
    "--network", "network_name", shell_complete=suggest.networks, help="Only this network."
)
@click.option("--app", "label", shell_complete=suggest.apps, help="Only this app.")
@click.option("--state", shell_complete=suggest.states, help="Only this state.")
@click.option("--region", shell_complete=suggest.regions, help="Only this region.")
def machine_list(
    catalog: str,
    as_json: bool,
    network_name: str | None,
    label: str | None,
    state: str | None,
    region: str | None,
) -> None:
    """List machines."""
    own = without_none(app=label, state=state, region=region)
    if network_name:
        own["network_id"] = find_network(catalog, network_name)["id"]
    names = network_names(catalog)
    rows = read_rows(catalog, "machines", own)
    if not rows:
        _warn_of_misspelling(catalog, label, state, region)
    show_table(
        [r | {"network": names.get(r["network_id"], str(r["network_id"]))} for r in rows],
        _LISTED,
        as_json,
    )


def _warn_of_misspelling(
    catalog: str, label: str | None, state: str | None, region: str | None
) -> None:
    """Warn of the condition that made a list empty and is probably misspelled."""
    for column, text in ("app", label), ("state", state), ("region", region):
        if text and text not in (found := suggest.list_names(catalog, "machines", column, text)):
            near = suggest.did_you_mean(
                text, found or suggest.list_names(catalog, "machines", column)
            )
            warn(f"no machine has the {column} {text}. {near}".rstrip())


@command(machine, "show")
@click.argument("ident", metavar="ID", shell_complete=suggest.machines)
def machine_show(catalog: str, as_json: bool, ident: str) -> None:
    """Show a machine, its metadata and its services."""
    row = require_row(catalog, "machines", {"id": ident}, f"machine {ident}")
    own = {"machine_id": ident}
    metadata = {r["key"]: r["value"] for r in read_rows(catalog, "machine_metadata", own)}
    services = [_service_text(row) for row in read_rows(catalog, "machine_services", own)]
    shown = metadata if as_json else [f"{key}={value}" for key, value in metadata.items()]
    show_one(row | {"metadata": shown, "services": services}, as_json)


def _service_text(row: dict[str, Any]) -> str:
    """Return a service in the form that --service accepts."""
    text = f"{row['name']}/{row['protocol']}:{row['port']}"
    order = row["priority"], row["weight"]
    return text if order == (0, 1) else f"{text}/{order[0]}/{order[1]}"


def machine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--service",
            "services",
            multiple=True,
            metavar="NAME/PROTOCOL:PORT[/PRIORITY/WEIGHT]",
            help="A port to publish, such as http/tcp:8080 or http/tcp:8080/10/5; repeatable.",
        ),
        click.option(
            "--metadata", multiple=True, metavar="KEY=VALUE", help="A metadata entry; repeatable."
        ),
    ):
        function = option(function)
    return function


_SERVICE = re.compile(
    r"([^/]+)/([^:]+):(?P<port>[0-9]{1,9})(?:/(?P<priority>[0-9]{1,9})/(?P<weight>[0-9]{1,9}))?"
)


def _related_rows(ident: str, metadata: Iterable[str], services: Iterable[str]) -> list[Any]:
    """Return the metadata and service rows of a machine. Raises UsageError."""
    puts: list[Any] = []
    for text in metadata:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--metadata {text!r} is not KEY=VALUE")
        puts.append(("machine_metadata", {"machine_id": ident, "key": key, "value": value}))
    for text in services:
        if (match := _SERVICE.fullmatch(text)) is None:
            raise click.UsageError(
                f"--service {text!r} is not NAME/PROTOCOL:PORT[/PRIORITY/WEIGHT], such as "
                f"http/tcp:8080 or http/tcp:8080/10/5"
            )
        numbers = {key: int(n) for key, n in match.groupdict().items() if n is not None}
        row = {"machine_id": ident, "name": match[1], "protocol": match[2], **numbers}
        puts.append(("machine_services", row))
    return puts


@command(machine, "add", writes=True)
@click.argument("ident", metavar="ID")
@click.option(
    "--network",
    "network_name",
    required=True,
    shell_complete=suggest.networks,
    help="The network of the machine.",
)
@column_options(MACHINES, required=True, omit=("network_id",))
@machine_options
def machine_add(
    ident: str,
    network_name: str,
    metadata: tuple[str, ...],
    services: tuple[str, ...],
    catalog: str,
    **to: Any,
) -> None:
    """Add a machine. Its state is `created` unless --state is given."""
    number = find_network(catalog, network_name)["id"]
    row = {"id": ident, "network_id": number, **pop_columns(MACHINES, to)}
    warn_of_unknown(catalog, row)
    change(
        catalog,
        [("machines", row), *_related_rows(ident, metadata, services)],
        new=[("machines", {"id": ident})],
        **to,
    )
    if row.get("state", "created").lower() == "created":
        warn(
            "the machine is created but not started, so answers do not have it yet. Start it: "
            f"internal-dns machine start {shlex.quote(ident)}"
        )


@command(machine, "set", writes=True)
@click.argument("ident", metavar="ID", shell_complete=suggest.machines)
@column_options(MACHINES, required=False, omit=("network_id",))
@machine_options
def machine_set(
    ident: str,
    metadata: tuple[str, ...],
    services: tuple[str, ...],
    catalog: str,
    **to: Any,
) -> None:
    """Change a machine. Columns without an option keep their value; `--metadata KEY=` sets an
    empty value."""
    row = require_row(catalog, "machines", {"id": ident}, f"machine {ident}")
    changes = pop_columns(MACHINES, to)
    warn_of_unknown(catalog, changes)
    puts = (
        [("machines", {c: v for c, v in (row | changes).items() if c != "updated_at"})]
        if changes
        else []
    )
    change(
        catalog,
        [*puts, *_related_rows(ident, metadata, services)],
        old=[("machines", {"id": ident})],
        **to,
    )


def _set_state(state: str, idents: tuple[str, ...], catalog: str, **to: Any) -> None:
    rows = [require_row(catalog, "machines", {"id": ident}, f"machine {ident}") for ident in idents]
    puts = [
        ("machines", {c: v for c, v in row.items() if c != "updated_at"} | {"state": state})
        for row in rows
    ]
    change(catalog, puts, old=[("machines", {"id": ident}) for ident in idents], **to)


@command(machine, "start", writes=True)
@click.argument("idents", metavar="ID...", nargs=-1, required=True, shell_complete=suggest.machines)
def machine_start(idents: tuple[str, ...], **to: Any) -> None:
    """Set the state of machines to started, so that answers include them."""
    _set_state("started", idents, **to)


@command(machine, "stop", writes=True)
@click.argument("idents", metavar="ID...", nargs=-1, required=True, shell_complete=suggest.machines)
def machine_stop(idents: tuple[str, ...], **to: Any) -> None:
    """Set the state of machines to stopped, so that answers omit them."""
    _set_state("stopped", idents, **to)


@command(machine, "rm", writes=True)
@click.argument("idents", metavar="ID...", nargs=-1, required=True, shell_complete=suggest.machines)
def machine_rm(idents: tuple[str, ...], catalog: str, **to: Any) -> None:
    """Remove machines, their metadata and their services."""
    for ident in idents:
        require_row(catalog, "machines", {"id": ident}, f"machine {ident}")
    change(catalog, [], [("machines", {"id": ident}) for ident in idents], **to)


def _is_region(catalog: str, code: str) -> bool:
    codes = suggest.list_names(catalog, "regions", "code", code)
    return code.lower() in map(str.lower, codes)


def warn_of_unknown(catalog: str, machine: Mapping[str, Any]) -> None:
    """Warn of a state or region that is probably misspelled."""
    state, region = machine.get("state"), machine.get("region")
    if state is not None and state.lower() not in suggest.STATES:
        near = suggest.did_you_mean(state, suggest.STATES)
        hint = near or "Only machines with the state started are answered"
        warn(f"state {state} is unknown. {hint}")
    if region is not None and not _is_region(catalog, region):
        near = suggest.did_you_mean_in(catalog, "regions", "code", region)
        add = f"Add it with its coordinates: internal-dns region add {shlex.quote(region)}"
        warn(f"region {region} is not in the catalog, so its distance is unknown. {near or add}")
