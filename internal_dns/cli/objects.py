"""network, app, machine, peer, region, flycast: look at them and change them, one at a time."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import AddressValueError, IPv6Address, IPv6Network
from typing import Any

import click

from internal_dns.cli import known as names_known
from internal_dns.cli.backend import perform, read_rows, visibility, write_options
from internal_dns.cli.columns import column_options, listed, taken
from internal_dns.cli.words import FINDING, catalog_option, json_option, paint, print_json, settings
from internal_dns.errors import OperatorError
from internal_dns.store.schema import MACHINES, NETWORKS, PEERS, REGIONS
from internal_dns.text import printable_text

Rows = list[dict[str, Any]]


def command(
    group: click.Group, name: str, *, writes: bool = False
) -> Callable[[Callable[..., Any]], click.Command]:
    """Add a command with the options all of its kind have."""

    def add(function: Callable[..., Any]) -> click.Command:
        made = force_option(write_options(function)) if writes else function
        return group.command(name)(catalog_option(json_option(made)))

    return add


force_option = click.option(
    "--force", is_flag=True, help="Write rows of a live source too; its follower may undo it."
)


def show_table(rows: Rows, columns: Sequence[str], as_json: bool) -> None:
    """Print rows as JSON or as a table."""
    if as_json:
        print_json(rows)
        return
    cells = [
        [printable_text(str("" if row.get(column) is None else row[column])) for column in columns]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in (list(columns), *cells):
        click.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def show_one(value: dict[str, Any], as_json: bool) -> None:
    """Print one object."""
    if as_json:
        print_json(value)
        return
    for key, said in value.items():
        if isinstance(said, list):
            for item in said:
                words = " ".join(map(str, item.values())) if isinstance(item, dict) else str(item)
                click.echo(f"{key:18} {printable_text(words)}")
        else:
            click.echo(f"{key:18} {'' if said is None else printable_text(str(said))}")


def change(
    catalog: str,
    puts: Iterable[Any],
    deletes: Iterable[Any] = (),
    *,
    offline: bool,
    wait: bool,
    as_json: bool,
    new: Iterable[Any] = (),
    old: Iterable[Any] = (),
    force: bool = False,
) -> None:
    """Make a change and say what became of it."""
    request: dict[str, Any] = {
        "op": "write",
        "puts": [*puts],
        "deletes": [*deletes],
        "new": [*new],
        "old": [*old],
        "force": force,
    }
    try:
        json.dumps(request, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise click.UsageError(
            f"an argument is not UTF-8: {error.object[error.start - 20 : error.end]!r}"
        ) from error
    reply = perform(catalog, request, offline=offline, wait=wait)
    if as_json:
        print_json(reply)
        return
    rows = reply["rows"]
    told = f"{rows} row{'s' * (rows != 1)} changed, revision {reply['revision']}{visibility(reply)}"
    click.echo(told if rows else "as it was")


def network_names(catalog: str) -> dict[int, str]:
    """What each network is called: its name, else its id."""
    return {row["id"]: row["name"] or str(row["id"]) for row in read_rows(catalog, "networks")}


def network_of(catalog: str, text: str) -> dict[str, Any]:
    """Return the network that *text* names: a name, an id, or a /48. Raises OperatorError."""
    number = network_number(text, settings().prefix)
    rows = read_rows(catalog, "networks")
    found = [
        row
        for row in rows
        if row["id"] == number or (number is None and row["name"].lower() == text.lower())
    ]
    if not found:
        known = ", ".join(row["name"] or str(row["id"]) for row in rows[:10]) or "none yet"
        near = names_known.near(text, (row["name"] for row in rows))
        raise OperatorError(
            f"there is no network {text}",
            f"known are: {known}{' and more' if len(rows) > 10 else ''}",
            near or "Add it: internal-dns network add NAME --id fdaa:…::/48",
            FINDING,
        )
    if len(found) > 1:
        ids = " and ".join(str(row["id"]) for row in found)
        raise OperatorError(
            f"more than one network is called {text}",
            f"their ids are {ids}",
            "Name it by its id",
            FINDING,
        )
    return found[0]


def network_number(text: str, prefix: bytes) -> int | None:
    """Return the id that *text* writes, as a number or a /48 of *prefix*; None when it is a name,
    or another's /48."""
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
    """Return the /48 of a network; empty for what is no network id, which a foreign file may hold."""
    if not isinstance(number, int) or not 0 < number < 1 << 32:
        return ""
    return str(IPv6Network((prefix + number.to_bytes(4, "big") + bytes(10), 48)))


def split(text: str, what: str) -> tuple[str, str]:
    """Split NETWORK/NAME. Raises a usage error."""
    network, slash, name = text.partition("/")
    if not slash or not network or not name:
        raise click.UsageError(f"{text!r} does not say of which network: write NETWORK/{what}")
    return network, name


def known(catalog: str, table: str, key: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the one row with *key*. Raises OperatorError."""
    rows = read_rows(catalog, table, key)
    if not rows:
        *within, (column, text) = key.items()
        near = names_known.near_in(catalog, table, column, str(text), dict(within))
        raise OperatorError(
            f"there is no {what}",
            f"{catalog} has none",
            near or f"See `internal-dns {what.split(maxsplit=1)[0]} list`",
            FINDING,
        )
    return rows[0]


def warn(words: str) -> None:
    """Say on standard error what deserves a look."""
    click.echo(f"{paint('warning', 'yellow', err=True)}  {printable_text(words)}", err=True)


def _is_region(catalog: str, code: str) -> bool:
    found = names_known.names(catalog, "regions", "code", code)
    return code.lower() in map(str.lower, found)


def warn_of_unknown(catalog: str, machine: Mapping[str, Any]) -> None:
    """Warn of a state or region that is probably a slip."""
    state, region = machine.get("state"), machine.get("region")
    if state is not None and state.lower() not in names_known.STATES:
        near = names_known.near(state, names_known.STATES)
        warn(f"state {state} is none of the known ones. {near or 'Only started ones are answered'}")
    if region is not None and not _is_region(catalog, region):
        near = names_known.near_in(catalog, "regions", "code", region)
        add = f"Add it with its coordinates: internal-dns region add {shlex.quote(region)}"
        warn(f"region {region} is not in the catalog: it is far from everywhere. {near or add}")


def given(**values: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in values.items() if value is not None}


# ── network ───────────────────────────────────────────────────────────────────────────────────────

network = click.Group("network", help="The tenants' networks.")


@command(network, "list")
@click.option(
    "--routes", is_flag=True, help="Print the routes that make <network>::3 local to this host."
)
def network_list(catalog: str, as_json: bool, routes: bool) -> None:
    """List all networks."""
    ours = settings().prefix
    rows = [row | {"prefix": slash_48(row["id"], ours)} for row in read_rows(catalog, "networks")]
    if routes:
        lines = [
            f"ip -6 route add local {row['prefix'].removesuffix('::/48')}::3/128 dev lo"
            for row in rows
            if row["prefix"]
        ]
        print_json(lines) if as_json else click.echo("\n".join(lines))
    else:
        show_table(rows, listed(NETWORKS, "name", "prefix", "id"), as_json)


@command(network, "show")
@click.argument("name", shell_complete=names_known.networks)
def network_show(catalog: str, as_json: bool, name: str) -> None:
    """Show a network with its apps and peers."""
    row = network_of(catalog, name)
    own = {"network_id": row["id"]}
    apps = {r["name"] for r in read_rows(catalog, "apps", own)} | {
        r["app"] for r in read_rows(catalog, "machines", own)
    }
    peers = [r["name"] for r in read_rows(catalog, "peers", own)]
    prefix = slash_48(row["id"], settings().prefix)
    show_one(row | {"prefix": prefix, "apps": sorted(apps), "peers": peers}, as_json)


@command(network, "add", writes=True)
@click.argument("name")
@click.option("--id", "number", required=True, help="Its id, or its /48 such as fdaa:0:18::/48.")
@column_options(NETWORKS, required=True, omit=("name",))
def network_add(name: str, number: str, **to: Any) -> None:
    """Add a network."""
    prefix = settings().prefix
    found = network_number(number, prefix)
    if found is None or not 0 < found < 1 << 32:
        raise click.UsageError(
            f"--id {number!r} is neither 1 to 4294967295 nor a /48 of {prefix.hex()}::/16"
        )
    row = {"id": found, "name": name, **taken(NETWORKS, to)}
    change(to.pop("catalog"), [("networks", row)], new=[("networks", {"id": found})], **to)


@command(network, "set", writes=True)
@click.argument("name", shell_complete=names_known.networks)
@click.option("--name", "new_name", help="Another name.")
@column_options(NETWORKS, required=False, omit=("name",))
def network_set(name: str, new_name: str | None, catalog: str, **to: Any) -> None:
    """Change a network."""
    row = {"id": network_of(catalog, name)["id"]} | given(name=new_name) | taken(NETWORKS, to)
    change(catalog, [("networks", row)], **to)


@command(network, "rm", writes=True)
@click.argument("name", shell_complete=names_known.networks)
@click.option(
    "--cascade", is_flag=True, help="With its apps, machines, peers and flycast addresses."
)
def network_rm(name: str, cascade: bool, catalog: str, **to: Any) -> None:
    """Remove a network."""
    number = network_of(catalog, name)["id"]
    tables = ("machines", "apps", "peers", "flycasts")
    inside = sum(len(read_rows(catalog, table, {"network_id": number})) for table in tables)
    if inside and not cascade:
        raise OperatorError(
            f"network {name} is not empty",
            f"{inside} rows belong to it",
            "Remove them too: --cascade",
            FINDING,
        )
    deletes = [*((table, {"network_id": number}) for table in tables), ("networks", {"id": number})]
    change(catalog, [], deletes, **to)


# ── app ───────────────────────────────────────────────────────────────────────────────────────────

app = click.Group("app", help="Apps; named NETWORK/APP.")


@command(app, "list")
@click.option(
    "--network", "network_name", shell_complete=names_known.networks, help="Of one network."
)
def app_list(catalog: str, as_json: bool, network_name: str | None) -> None:
    """List apps with how many machines they have."""
    own = {"network_id": network_of(catalog, network_name)["id"]} if network_name else {}
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
@click.argument("name", metavar="NETWORK/APP", shell_complete=names_known.within_network("apps"))
def app_show(catalog: str, as_json: bool, name: str) -> None:
    """Show an app with its machines."""
    network_name, label = split(name, "APP")
    number = network_of(catalog, network_name)["id"]
    rows = [
        row
        for row in read_rows(catalog, "machines", {"network_id": number})
        if row["app"].lower() == label.lower()
    ]
    if not rows:
        known(catalog, "apps", {"network_id": number, "name": label}, f"app {name}")
    machines = [
        f"{m['id']} {m['region']} {m['process_group']} {m['state']} {m['address']}" for m in rows
    ]
    show_one({"network": network_name, "app": label, "machines": machines}, as_json)


@command(app, "add", writes=True)
@click.argument("name", metavar="NETWORK/APP", shell_complete=names_known.within_network("apps"))
def app_add(name: str, catalog: str, **to: Any) -> None:
    """Add an app; machines bring theirs along by themselves."""
    network_name, label = split(name, "APP")
    row = {"network_id": network_of(catalog, network_name)["id"], "name": label}
    change(catalog, [("apps", row)], new=[("apps", row)], **to)


@command(app, "rm", writes=True)
@click.argument("name", metavar="NETWORK/APP", shell_complete=names_known.within_network("apps"))
@click.option("--cascade", is_flag=True, help="With its machines.")
def app_rm(name: str, cascade: bool, catalog: str, **to: Any) -> None:
    """Remove an app."""
    network_name, label = split(name, "APP")
    number = network_of(catalog, network_name)["id"]
    machines = read_rows(catalog, "machines", {"network_id": number, "app": label})
    if machines and not cascade:
        why = f"it has {len(machines)} machines"
        raise OperatorError(f"app {name} is not empty", why, "Remove them too: --cascade", FINDING)
    if not machines:
        known(catalog, "apps", {"network_id": number, "name": label}, f"app {name}")
    deletes = [
        ("machines", {"network_id": number, "app": label}),
        ("apps", {"network_id": number, "name": label}),
    ]
    change(catalog, [], deletes, **to)


# ── machine ───────────────────────────────────────────────────────────────────────────────────────

machine = click.Group("machine", help="Machines; named by their id.")
_MACHINE = listed(
    MACHINES, "id", "network", "app", "region", omit=("network_id", "skip_registration")
)


@command(machine, "list")
@click.option(
    "--network", "network_name", shell_complete=names_known.networks, help="Of one network."
)
@click.option("--app", "label", shell_complete=names_known.apps, help="Of one app.")
@click.option("--state", shell_complete=names_known.states, help="In this state.")
@click.option("--region", shell_complete=names_known.regions, help="In this region.")
def machine_list(
    catalog: str,
    as_json: bool,
    network_name: str | None,
    label: str | None,
    state: str | None,
    region: str | None,
) -> None:
    """List machines."""
    own = given(app=label, state=state, region=region)
    if network_name:
        own["network_id"] = network_of(catalog, network_name)["id"]
    names = network_names(catalog)
    rows = read_rows(catalog, "machines", own)
    if not rows:
        _hint(catalog, label, state, region)
    show_table(
        [r | {"network": names.get(r["network_id"], str(r["network_id"]))} for r in rows],
        _MACHINE,
        as_json,
    )


def _hint(catalog: str, label: str | None, state: str | None, region: str | None) -> None:
    """Tell which condition of an empty list is probably a slip."""
    for column, text in ("app", label), ("state", state), ("region", region):
        if text and text not in (found := names_known.names(catalog, "machines", column, text)):
            near = names_known.near(text, found or names_known.names(catalog, "machines", column))
            warn(f"no machine has the {column} {text}. {near}".rstrip())


@command(machine, "show")
@click.argument("ident", metavar="ID", shell_complete=names_known.machines)
def machine_show(catalog: str, as_json: bool, ident: str) -> None:
    """Show a machine with its metadata and services."""
    row = known(catalog, "machines", {"id": ident}, f"machine {ident}")
    own = {"machine_id": ident}
    metadata = {r["key"]: r["value"] for r in read_rows(catalog, "machine_metadata", own)}
    services = [_service(row) for row in read_rows(catalog, "machine_services", own)]
    shown = metadata if as_json else [f"{key}={value}" for key, value in metadata.items()]
    show_one(row | {"metadata": shown, "services": services}, as_json)


def _service(row: dict[str, Any]) -> str:
    """Write a service as --service takes it."""
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
            help="A port it publishes, such as http/tcp:8080 or http/tcp:8080/10/5.",
        ),
        click.option(
            "--metadata", multiple=True, metavar="KEY=VALUE", help="An entry of its metadata."
        ),
    ):
        function = option(function)
    return function


_SERVICE = re.compile(
    r"([^/]+)/([^:]+):(?P<port>[0-9]{1,9})(?:/(?P<priority>[0-9]{1,9})/(?P<weight>[0-9]{1,9}))?"
)


def _belonging(ident: str, metadata: Iterable[str], services: Iterable[str]) -> list[Any]:
    """Return the rows that belong to a machine. Raises a usage error."""
    puts: list[Any] = []
    for text in metadata:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--metadata {text!r} is not KEY=VALUE")
        puts.append(("machine_metadata", {"machine_id": ident, "key": key, "value": value}))
    for text in services:
        if (found := _SERVICE.fullmatch(text)) is None:
            raise click.UsageError(
                f"--service {text!r} is not NAME/PROTOCOL:PORT[/PRIORITY/WEIGHT], such as "
                f"http/tcp:8080 or http/tcp:8080/10/5"
            )
        numbers = {key: int(n) for key, n in found.groupdict().items() if n is not None}
        row = {"machine_id": ident, "name": found[1], "protocol": found[2], **numbers}
        puts.append(("machine_services", row))
    return puts


@command(machine, "add", writes=True)
@click.argument("ident", metavar="ID")
@click.option(
    "--network",
    "network_name",
    required=True,
    shell_complete=names_known.networks,
    help="The network it is on.",
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
    """Add a machine; its state is `created` unless --state says otherwise."""
    number = network_of(catalog, network_name)["id"]
    row = {"id": ident, "network_id": number, **taken(MACHINES, to)}
    warn_of_unknown(catalog, row)
    change(
        catalog,
        [("machines", row), *_belonging(ident, metadata, services)],
        new=[("machines", {"id": ident})],
        **to,
    )
    if row.get("state", "created").lower() == "created":
        warn(
            f"it is created, so no name leads to it yet. Start it: internal-dns machine start "
            f"{shlex.quote(ident)}"
        )


@command(machine, "set", writes=True)
@click.argument("ident", metavar="ID", shell_complete=names_known.machines)
@column_options(MACHINES, required=False, omit=("network_id",))
@machine_options
def machine_set(
    ident: str,
    metadata: tuple[str, ...],
    services: tuple[str, ...],
    catalog: str,
    **to: Any,
) -> None:
    """Change a machine; what is not named stays. `--metadata KEY=` empties a value."""
    row = known(catalog, "machines", {"id": ident}, f"machine {ident}")
    changes = taken(MACHINES, to)
    warn_of_unknown(catalog, changes)
    puts = (
        [("machines", {c: v for c, v in (row | changes).items() if c != "updated_at"})]
        if changes
        else []
    )
    change(
        catalog,
        [*puts, *_belonging(ident, metadata, services)],
        old=[("machines", {"id": ident})],
        **to,
    )


def _set_state(state: str, idents: tuple[str, ...], catalog: str, **to: Any) -> None:
    rows = [known(catalog, "machines", {"id": ident}, f"machine {ident}") for ident in idents]
    puts = [
        ("machines", {c: v for c, v in row.items() if c != "updated_at"} | {"state": state})
        for row in rows
    ]
    change(catalog, puts, old=[("machines", {"id": ident}) for ident in idents], **to)


@command(machine, "start", writes=True)
@click.argument(
    "idents", metavar="ID...", nargs=-1, required=True, shell_complete=names_known.machines
)
def machine_start(idents: tuple[str, ...], **to: Any) -> None:
    """Set machines started: they are answered."""
    _set_state("started", idents, **to)


@command(machine, "stop", writes=True)
@click.argument(
    "idents", metavar="ID...", nargs=-1, required=True, shell_complete=names_known.machines
)
def machine_stop(idents: tuple[str, ...], **to: Any) -> None:
    """Set machines stopped: they leave the answers."""
    _set_state("stopped", idents, **to)


@command(machine, "rm", writes=True)
@click.argument(
    "idents", metavar="ID...", nargs=-1, required=True, shell_complete=names_known.machines
)
def machine_rm(idents: tuple[str, ...], catalog: str, **to: Any) -> None:
    """Remove machines with their metadata and services."""
    for ident in idents:
        known(catalog, "machines", {"id": ident}, f"machine {ident}")
    change(catalog, [], [("machines", {"id": ident}) for ident in idents], **to)


# ── peer ──────────────────────────────────────────────────────────────────────────────────────────

peer = click.Group("peer", help="WireGuard peers; named NETWORK/PEER.")


@command(peer, "list")
@click.option(
    "--network", "network_name", shell_complete=names_known.networks, help="Of one network."
)
def peer_list(catalog: str, as_json: bool, network_name: str | None) -> None:
    """List peers, hidden ones too."""
    own = {"network_id": network_of(catalog, network_name)["id"]} if network_name else {}
    names = network_names(catalog)
    rows = [
        r | {"network": names.get(r["network_id"], str(r["network_id"]))}
        for r in read_rows(catalog, "peers", own)
    ]
    show_table(rows, listed(PEERS, "network", "name", "address", omit=("network_id",)), as_json)


@command(peer, "show")
@click.argument("name", metavar="NETWORK/PEER", shell_complete=names_known.within_network("peers"))
@click.option(
    "--wireguard",
    is_flag=True,
    help="Print its WireGuard configuration, with which only our names are asked here.",
)
def peer_show(catalog: str, as_json: bool, name: str, wireguard: bool) -> None:
    """Show a peer."""
    network_name, label = split(name, "PEER")
    number = network_of(catalog, network_name)["id"]
    row = known(catalog, "peers", {"network_id": number, "name": label}, f"peer {name}")
    if not wireguard:
        show_one(row, as_json)
        return
    from internal_dns.cli.wireguard import split as split_dns

    prefix = settings().prefix
    if not slash_48(number, prefix) or not _is_address(row["address"]):
        what, why = f"peer {name}", f"{row['address']} in network {number} is not served"
        raise OperatorError(
            what, why, "`internal-dns check` says what is wrong with the row", FINDING
        )
    found = split_dns(row["address"], number, prefix)
    if as_json:
        print_json(found.value())
    else:
        click.echo("\n".join(found.lines()))


def _is_address(text: object) -> bool:
    """Whether *text*, of a file that another engine may write, is an IPv6 address and nothing
    else: it goes into a configuration file."""
    try:
        return isinstance(text, str) and IPv6Address(text).scope_id is None
    except AddressValueError:
        return False


@command(peer, "add", writes=True)
@click.argument("name", metavar="NETWORK/PEER", shell_complete=names_known.within_network("peers"))
@column_options(PEERS, required=True)
def peer_add(name: str, catalog: str, **to: Any) -> None:
    """Add a peer."""
    network_name, label = split(name, "PEER")
    key = {"network_id": network_of(catalog, network_name)["id"], "name": label}
    change(
        catalog,
        [("peers", key | taken(PEERS, to))],
        new=[("peers", key)],
        **to,
    )


@command(peer, "set", writes=True)
@click.argument("name", metavar="NETWORK/PEER", shell_complete=names_known.within_network("peers"))
@column_options(PEERS, required=False)
def peer_set(name: str, catalog: str, **to: Any) -> None:
    """Change a peer."""
    network_name, label = split(name, "PEER")
    key = {"network_id": network_of(catalog, network_name)["id"], "name": label}
    row = known(catalog, "peers", key, f"peer {name}") | taken(PEERS, to)
    change(catalog, [("peers", row)], **to)


@command(peer, "rm", writes=True)
@click.argument("name", metavar="NETWORK/PEER", shell_complete=names_known.within_network("peers"))
def peer_rm(name: str, catalog: str, **to: Any) -> None:
    """Remove a peer."""
    network_name, label = split(name, "PEER")
    key = {"network_id": network_of(catalog, network_name)["id"], "name": label}
    known(catalog, "peers", key, f"peer {name}")
    change(catalog, [], [("peers", key)], **to)


# ── region ────────────────────────────────────────────────────────────────────────────────────────

region = click.Group("region", help="Regions and where they are.")


@command(region, "list")
def region_list(catalog: str, as_json: bool) -> None:
    """List all regions."""
    show_table(read_rows(catalog, "regions"), listed(REGIONS), as_json)


@command(region, "show")
@click.argument("code", shell_complete=names_known.regions)
def region_show(catalog: str, as_json: bool, code: str) -> None:
    """Show a region."""
    show_one(known(catalog, "regions", {"code": code}, f"region {code}"), as_json)


@command(region, "add", writes=True)
@click.argument("code", shell_complete=names_known.regions)
@column_options(REGIONS, required=True)
def region_add(code: str, catalog: str, **to: Any) -> None:
    """Add a region."""
    row = {"code": code, **taken(REGIONS, to)}
    change(catalog, [("regions", row)], new=[("regions", {"code": code})], **to)


@command(region, "set", writes=True)
@click.argument("code", shell_complete=names_known.regions)
@column_options(REGIONS, required=False)
def region_set(code: str, catalog: str, **to: Any) -> None:
    """Change a region."""
    row = known(catalog, "regions", {"code": code}, f"region {code}") | taken(REGIONS, to)
    change(catalog, [("regions", row)], **to)


@command(region, "rm", writes=True)
@click.argument("code", shell_complete=names_known.regions)
def region_rm(code: str, catalog: str, **to: Any) -> None:
    """Remove a region; machines in it stay, far from everywhere."""
    known(catalog, "regions", {"code": code}, f"region {code}")
    change(catalog, [], [("regions", {"code": code})], **to)


# ── flycast ───────────────────────────────────────────────────────────────────────────────────────

flycast = click.Group(
    "flycast", help="Flycast addresses: of an app name, on the network where it answers."
)


@command(flycast, "list")
@click.option(
    "--network",
    "network_name",
    shell_complete=names_known.networks,
    help="Answering on one network.",
)
def flycast_list(catalog: str, as_json: bool, network_name: str | None) -> None:
    """List flycast addresses."""
    own = {"network_id": network_of(catalog, network_name)["id"]} if network_name else {}
    names = network_names(catalog)
    rows = read_rows(catalog, "flycasts", own)
    rows = [r | {"network": names.get(r["network_id"], str(r["network_id"]))} for r in rows]
    show_table(rows, ("network", "app", "address"), as_json)


@command(flycast, "show")
@click.argument(
    "name", metavar="NETWORK/APP", shell_complete=names_known.within_network("flycasts")
)
def flycast_show(catalog: str, as_json: bool, name: str) -> None:
    """Show the addresses of an app on a network."""
    network_name, label = split(name, "APP")
    own = {"network_id": network_of(catalog, network_name)["id"], "app": label}
    known(catalog, "flycasts", own, f"flycast {name}")
    found = [row["address"] for row in read_rows(catalog, "flycasts", own)]
    show_one({"network": network_name, "app": label, "addresses": found}, as_json)


@command(flycast, "add", writes=True)
@click.argument("name", metavar="NETWORK/APP", shell_complete=names_known.within_network("apps"))
@click.argument("address")
def flycast_add(name: str, address: str, catalog: str, **to: Any) -> None:
    """Allocate ADDRESS on the network to the app name."""
    network_name, label = split(name, "APP")
    row = {"network_id": network_of(catalog, network_name)["id"], "app": label, "address": address}
    change(catalog, [("flycasts", row)], new=[("flycasts", row)], **to)


@command(flycast, "rm", writes=True)
@click.argument(
    "name", metavar="NETWORK/APP", shell_complete=names_known.within_network("flycasts")
)
@click.argument("address", required=False)
def flycast_rm(name: str, address: str | None, catalog: str, **to: Any) -> None:
    """Give ADDRESS back, or all of the app's on that network."""
    network_name, label = split(name, "APP")
    key = {"network_id": network_of(catalog, network_name)["id"], "app": label} | given(
        address=address
    )
    known(catalog, "flycasts", key, f"flycast {name}")
    change(catalog, [], [("flycasts", key)], **to)


GROUPS = (network, app, machine, peer, region, flycast)
