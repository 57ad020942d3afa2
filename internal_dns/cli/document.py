"""apply, diff, export, import: read and write the catalog as a document."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from internal_dns.cli.backend import opened, perform, read_rows, visibility, write_options
from internal_dns.cli.common import (
    CONFIGURATION,
    FINDING,
    USAGE,
    catalog_option,
    json_option,
    paint,
    print_json,
    settings,
)
from internal_dns.errors import OperatorError
from internal_dns.text import printable_text

if TYPE_CHECKING:
    from internal_dns.replicate.source import Source

MAX_PRINTED: Final = 1_000  # changes and answers printed by default
PROGRESS_AFTER: Final = 1.0  # seconds of work before its progress is shown


def _read_octets(file: str) -> bytes:
    """Return the octets of *file*, or of standard input for `-`. Raises OperatorError."""
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        why = error.strerror or str(error)
        raise OperatorError(
            f"cannot read {file}",
            why,
            "Name a readable file, or - for standard input",
            USAGE,
        ) from error


def _read_text(file: str) -> str:
    """Return the text of *file*: UTF-8, or the encoding that its byte order mark names.

    Raises OperatorError.
    """
    from internal_dns.sources import SourceError, decode_text

    try:
        return decode_text(_read_octets(file), "text")
    except SourceError as error:
        raise OperatorError(f"cannot read {file}", error.why, error.do, USAGE) from error


def _print_reply(reply: dict[str, Any]) -> None:
    for line in reply["lines"]:
        click.echo(paint(printable_text(line), {"+": "green", "-": "red"}.get(line[:1], "yellow")))
    _print_more(reply.get("changes", 0) - len(reply["lines"]), "changes")
    for line in reply["warnings"]:
        click.echo(f"{paint('warning', 'yellow', err=True)}  {printable_text(line)}", err=True)
    click.echo(reply["summary"])


def _print_more(count: int, what: str) -> None:
    if count > 0:
        click.echo(f"… and {count:,} more {what} (--limit N shows more)")


@contextmanager
def _show_progress(what: str) -> Iterator[None]:
    """Show on a terminal, once per second, that work is in progress."""
    if not sys.stderr.isatty():
        yield
        return
    done, start = threading.Event(), time.monotonic()

    def print_seconds() -> None:
        while not done.wait(PROGRESS_AFTER):
            seconds = time.monotonic() - start
            click.echo(f"\r{what} … {seconds:.0f} s", nl=False, err=True)

    printer = threading.Thread(target=print_seconds, daemon=True)
    printer.start()
    try:
        yield
    finally:
        done.set()
        printer.join()
        if time.monotonic() - start >= PROGRESS_AFTER:
            click.echo("\r\x1b[K", nl=False, err=True)


class _Bucket(click.ParamType["Source"]):
    """The address of a bucket. Its parser is loaded only when an address is given."""

    name = "URL"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Source:
        from internal_dns.cli.bucket import URL

        return URL.convert(value, param, ctx)


limit_option = click.option(
    "--limit",
    type=click.IntRange(0),
    default=MAX_PRINTED,
    show_default=True,
    metavar="N",
    help="Print at most N changes and N answers, and count the rest.",
)


@click.command()
@click.argument("file")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Change nothing; print which rows and answers would change.",
)
@click.option(
    "--prune", is_flag=True, help="Remove everything that the document omits, also whole networks."
)
@click.option(
    "--to",
    "source",
    type=_Bucket(),
    help="Change the catalog in this bucket, for every host that follows it.",
)
@click.option(
    "--move",
    is_flag=True,
    help="Allow a machine to move here from another network; otherwise its id is rejected.",
)
@click.option(
    "--force",
    is_flag=True,
    help="With --to: overwrite values of a later version, and write although a host runs an older "
    "one.",
)
@limit_option
@write_options
@catalog_option
@json_option
def apply(
    file: str,
    dry_run: bool,
    prune: bool,
    move: bool,
    force: bool,
    limit: int,
    source: Source | None,
    offline: bool,
    wait: bool,
    catalog: str,
    as_json: bool,
) -> None:
    """Make the catalog match FILE (TOML or JSON; - is standard input), completely or not at all."""
    request = {
        "op": "apply",
        "text": _read_text(file),
        "name": file,
        "dry_run": dry_run,
        "prune": prune,
        "move": move,
        "limit": limit,
    }
    if source is not None:
        if offline or wait:
            raise click.UsageError("--offline and --wait apply to files, not to a bucket (--to)")
        from internal_dns.cli.bucket import apply_to_bucket

        with _show_progress("writing the bucket"):
            reply = apply_to_bucket(source, request, force=force)
    else:
        if force:
            raise click.UsageError("--force applies to a bucket (--to) only")
        with _show_progress("comparing" if dry_run else "applying"):
            reply = perform(catalog, request, offline=offline, wait=wait and not dry_run)
    _tell_applied(reply, dry_run=dry_run, as_json=as_json)
    # What cannot be read was not compared with the document.
    if reply.get("unreadable"):
        raise SystemExit(FINDING)


def _tell_applied(reply: dict[str, Any], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(reply)
        return
    _print_reply(reply)
    for answer in reply.get("answers", []):
        click.echo(printable_text(f"answer  {answer['network']}  {answer['name']}"))
        click.echo(paint(printable_text(f"  - {answer['before']}"), "red"))
        click.echo(paint(printable_text(f"  + {answer['after']}"), "green"))
    _print_more(reply.get("answers_changed", 0) - len(reply.get("answers", [])), "answers")
    if not dry_run:
        click.echo(f"revision {reply['revision']}{visibility(reply)}")


@click.command()
@click.argument("file")
@click.option(
    "--prune", is_flag=True, help="Count everything that the document omits as a difference."
)
@click.option("--all", "every_source", is_flag=True, help="Compare rows of live sources too.")
@limit_option
@catalog_option
@json_option
def diff(
    file: str, prune: bool, every_source: bool, limit: int, catalog: str, as_json: bool
) -> None:
    """Show how the catalog differs from FILE. Exit 1 if it does."""
    from internal_dns.store import declare

    as_served = settings()
    try:
        document = declare.parse(_read_text(file), name=file, rules=as_served.catalog_rules)
    except declare.InvalidDocument as error:
        why = "\n       ".join(map(str, error.faults))
        raise OperatorError(f"{file} is not a valid catalog", why, "Correct it", FINDING) from error
    with _show_progress("comparing"), opened(catalog) as connection:
        plan = declare.plan(connection, document, prune=prune, every_source=every_source)
    reply = {
        "summary": plan.summary(),
        "lines": [str(change) for change in plan.changes[:limit]],
        "changes": len(plan.changes),
        "warnings": [*plan.claims, *plan.warnings, *plan.notes],
    }
    if as_json:
        print_json(reply)
    else:
        _print_reply(reply)
    raise SystemExit(0 if plan.empty and not plan.claims else FINDING)


@click.command()
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="NAME",
    help="Export only this network; repeatable.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["toml", "json"]),
    default="toml",
    show_default=True,
    help="The format of the document.",
)
@click.option(
    "--all",
    "every_source",
    is_flag=True,
    help="With the rows of live sources, which `apply` rejects.",
)
@catalog_option
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
def export(
    networks: tuple[str, ...], kind: str, every_source: bool, catalog: str, as_json: bool
) -> None:
    """Print the catalog as a document that `apply` accepts."""
    from internal_dns.cli.objects.lookup import find_network
    from internal_dns.store import declare

    numbers = [find_network(catalog, name)["id"] for name in networks] or None
    with opened(catalog) as connection:
        document, notes = declare.export(
            connection, numbers, rules=settings().catalog_rules, every_source=every_source
        )
    click.echo(
        declare.to_json(document) if as_json or kind == "json" else declare.to_toml(document),
        nl=False,
    )
    for note in notes:
        click.echo(f"{paint('note', 'yellow', err=True)}  {printable_text(note)}", err=True)


SOURCES: Final = ("wireguard", "csv", "docker", "consul", "nomad", "fly", "hosts", "zone")
# Sources of records: their options, and that --network says which network the records are for.
_OF_RECORDS: Final = ("hosts", "zone")


@click.command(name="import")
@click.argument("source", type=click.Choice(SOURCES))
@click.argument("file")
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="ID=NAME",
    help="The name of a network; repeatable. hosts, zone: the network of the records, also by NAME "
    "alone if the catalog has it.",
)
@click.option("--app", "label", default="", help="The app of machines without one in the source.")
@click.option("--region", default="", help="The region of machines without one in the source.")
@click.option(
    "--peers", is_flag=True, help="csv: treat the rows as peers, whatever the header says."
)
@click.option(
    "--zone",
    "zones",
    multiple=True,
    metavar="NAME",
    help="hosts: a private zone for the names in it; repeatable.",
)
@click.option("--origin", metavar="NAME", help="zone: what its relative names are relative to.")
@click.option("--out", metavar="FILE", help="Write to FILE instead of standard output.")
@catalog_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of TOML.")
def import_(
    source: str,
    file: str,
    networks: tuple[str, ...],
    label: str,
    region: str,
    peers: bool,
    zones: tuple[str, ...],
    origin: str | None,
    out: str | None,
    catalog: str,
    as_json: bool,
) -> None:
    """Convert the data of another system (FILE; - is standard input) to a document for `apply`.

    No catalog is changed.
    """
    from importlib import import_module

    from internal_dns import sources
    from internal_dns.cli.objects.lookup import parse_network, slash_48
    from internal_dns.store import declare

    prefix, names = settings().prefix, {}
    if Path(catalog).exists():
        names = {row["id"]: row["name"] for row in read_rows(catalog, "networks") if row["name"]}
    by_name = {name.lower(): number for number, name in names.items()}
    given: list[int] = []
    for text in networks:
        number, equals, name = text.partition("=")
        ident = parse_network(number, prefix)
        if source in _OF_RECORDS and not equals and text.lower() in by_name:
            given.append(by_name[text.lower()])
            continue
        if not equals or ident is None:
            raise click.UsageError(
                f"--network {text!r} is not ID=NAME, such as {slash_48(24, prefix)}=acme"
            )
        names[ident] = name
        given.append(ident)
    more: dict[str, Any] = {"kind": "peers"} if source == "csv" and peers else {}
    for option, of_option, value in (("zone", "hosts", zones), ("origin", "zone", origin)):
        if value and source != of_option:
            raise click.UsageError(f"--{option} is for {of_option}, not for {source}")
        if value:
            more["zones" if option == "zone" else option] = value
    try:
        options = sources.Options(networks=names, app=label, region=region, prefix=prefix,
                                  file="" if file == "-" else Path(file).stem,
                                  network=given[0] if len(given) == 1 else None)  # fmt: skip
        imported = import_module(f"internal_dns.sources.{source}").read(
            _read_octets(file), options, **more
        )
    except sources.SourceError as error:
        raise OperatorError(error.what, error.why, error.do, FINDING) from error
    text = declare.to_json(imported.document) if as_json else declare.to_toml(imported.document)
    for note in imported.notes:
        click.echo(f"{paint('note', 'yellow', err=True)}  {printable_text(note)}", err=True)
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        Path(out).write_text(text, "utf-8")
    except OSError as error:
        raise OperatorError(
            f"cannot write {out}", error.strerror or str(error), "Name another file", CONFIGURATION
        ) from error
