"""apply, diff, export, import: the catalog as a document."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from internal_dns.cli.backend import opened, perform, read_rows, visibility, write_options
from internal_dns.cli.bucket import URL, apply_to
from internal_dns.cli.objects import network_number, network_of, slash_48
from internal_dns.cli.words import (
    CONFIGURATION,
    FINDING,
    USAGE,
    Told,
    catalog_option,
    json_option,
    paint,
    print_json,
    settings,
)
from internal_dns.replicate.source import Source
from internal_dns.text import printable_text


def _text(file: str) -> str:
    """Return what FILE, or standard input for `-`, holds. Raises Told."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Told(
            f"cannot read {file}",
            why,
            "Name a file that can be read, or - for standard input",
            USAGE,
        ) from error


def _say(reply: dict[str, Any]) -> None:
    for line in reply["lines"]:
        click.echo(paint(printable_text(line), {"+": "green", "-": "red"}.get(line[:1], "yellow")))
    for line in reply["warnings"]:
        click.echo(f"{paint('warning', 'yellow', err=True)}  {printable_text(line)}", err=True)
    click.echo(reply["summary"])


@click.command()
@click.argument("file")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Change nothing; tell which rows and which answers would change.",
)
@click.option(
    "--prune", is_flag=True, help="Remove what the document does not name: whole networks too."
)
@click.option(
    "--to",
    "source",
    type=URL,
    help="Apply it to the catalog in this bucket, for all hosts that follow it.",
)
@write_options
@catalog_option
@json_option
def apply(
    file: str,
    dry_run: bool,
    prune: bool,
    source: Source | None,
    offline: bool,
    wait: bool,
    catalog: str,
    as_json: bool,
) -> None:
    """Make the catalog what FILE (TOML or JSON, - for standard input) says, all of it or
    nothing."""
    request = {"op": "apply", "text": _text(file), "name": file, "dry_run": dry_run, "prune": prune}
    if source is not None:
        if offline or wait:
            raise click.UsageError("--to writes a bucket: --offline and --wait are of a file")
        reply = apply_to(source, request)
    else:
        reply = perform(catalog, request, offline=offline, wait=wait and not dry_run)
    if as_json:
        print_json(reply)
        return
    _say(reply)
    for answer in reply.get("answers", []):
        click.echo(printable_text(f"answer  {answer['network']}  {answer['name']}"))
        click.echo(paint(printable_text(f"  - {answer['before']}"), "red"))
        click.echo(paint(printable_text(f"  + {answer['after']}"), "green"))
    if not dry_run:
        click.echo(f"revision {reply['revision']}{visibility(reply)}")


@click.command()
@click.argument("file")
@click.option(
    "--prune", is_flag=True, help="Count what the document does not name as a difference."
)
@catalog_option
@json_option
def diff(file: str, prune: bool, catalog: str, as_json: bool) -> None:
    """Tell how the catalog differs from FILE. Exit 1 when it does."""
    from internal_dns.store import declare

    as_served = settings()
    try:
        document = declare.parse(_text(file), name=file, rules=as_served.catalog_rules)
    except declare.Faulty as error:
        why = "\n       ".join(map(str, error.faults))
        raise Told(f"{file} is not a catalog", why, "Correct it", FINDING) from error
    with opened(catalog) as connection:
        plan = declare.plan(connection, document, prune=prune)
    reply = {
        "summary": plan.summary(),
        "lines": plan.lines,
        "warnings": [*plan.warnings, *plan.notes],
    }
    if as_json:
        print_json(reply)
    else:
        _say(reply)
    raise SystemExit(0 if plan.empty else FINDING)


@click.command()
@click.option(
    "--network", "networks", multiple=True, metavar="NAME", help="Only this network; repeatable."
)
@click.option(
    "--format", "kind", type=click.Choice(["toml", "json"]), default="toml", show_default=True
)
@catalog_option
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def export(networks: tuple[str, ...], kind: str, catalog: str, as_json: bool) -> None:
    """Print the catalog as a document that `apply` takes."""
    from internal_dns.store import declare

    numbers = [network_of(catalog, name)["id"] for name in networks] or None
    with opened(catalog) as connection:
        document, notes = declare.export(connection, numbers, rules=settings().catalog_rules)
    click.echo(
        declare.to_json(document) if as_json or kind == "json" else declare.to_toml(document),
        nl=False,
    )
    for note in notes:
        click.echo(f"{paint('note', 'yellow', err=True)}  {printable_text(note)}", err=True)


@click.command(name="import")
@click.argument("source", type=click.Choice(["wireguard", "csv", "docker", "consul", "fly"]))
@click.argument("file")
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="ID=NAME",
    help="What a network is called; repeatable.",
)
@click.option("--app", "label", default="", help="The app of machines whose source names none.")
@click.option("--region", default="", help="The region of machines whose source names none.")
@click.option("--peers", is_flag=True, help="csv: the rows are peers, not machines.")
@click.option("--out", metavar="FILE", help="Write there instead of standard output.")
@catalog_option
@click.option("--json", "as_json", is_flag=True, help="A JSON document instead of TOML.")
def import_(
    source: str,
    file: str,
    networks: tuple[str, ...],
    label: str,
    region: str,
    peers: bool,
    out: str | None,
    catalog: str,
    as_json: bool,
) -> None:
    """Turn what another system knows (FILE, - for standard input) into a document for `apply`.
    Writes no catalog."""
    from importlib import import_module

    from internal_dns import sources
    from internal_dns.store import declare

    prefix, names = settings().prefix, {}
    if Path(catalog).exists():
        names = {row["id"]: row["name"] for row in read_rows(catalog, "networks") if row["name"]}
    for text in networks:
        number, equals, name = text.partition("=")
        found = network_number(number, prefix)
        if not equals or found is None:
            raise click.UsageError(
                f"--network {text!r} is not ID=NAME, such as {slash_48(24, prefix)}=acme"
            )
        names[found] = name
    more = {"kind": "peers"} if source == "csv" and peers else {}
    try:
        options = sources.Options(networks=names, app=label, region=region, prefix=prefix)
        imported = import_module(f"internal_dns.sources.{source}").read(
            _text(file), options, **more
        )
    except sources.SourceError as error:
        raise Told(error.what, error.why, error.do, FINDING) from error
    text = declare.to_json(imported.document) if as_json else declare.to_toml(imported.document)
    for note in imported.notes:
        click.echo(f"{paint('note', 'yellow', err=True)}  {printable_text(note)}", err=True)
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        Path(out).write_text(text, "utf-8")
    except OSError as error:
        raise Told(
            f"cannot write {out}", error.strerror or str(error), "Name another file", CONFIGURATION
        ) from error
