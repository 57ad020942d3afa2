"""Shared by the commands of every table: their options, printing rows, making a change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from internal_dns.cli.backend import perform, visibility, write_options
from internal_dns.cli.common import catalog_option, json_option, paint, print_json
from internal_dns.text import printable_text

Rows = list[dict[str, Any]]


def command(
    group: click.Group, name: str, *, writes: bool = False
) -> Callable[[Callable[..., Any]], click.Command]:
    """Add a command to *group*, with the options that every command of its kind has."""

    def add(function: Callable[..., Any]) -> click.Command:
        with_options = force_option(write_options(function)) if writes else function
        return group.command(name)(catalog_option(json_option(with_options)))

    return add


force_option = click.option(
    "--force", is_flag=True, help="Write rows of a live source too. Its follower may undo it."
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
    """Print one object as JSON, or as one line per key and list item."""
    if as_json:
        print_json(value)
        return
    for key, member in value.items():
        if isinstance(member, list):
            for item in member:
                text = " ".join(map(str, item.values())) if isinstance(item, dict) else str(item)
                click.echo(f"{key:18} {printable_text(text)}")
        else:
            click.echo(f"{key:18} {'' if member is None else printable_text(str(member))}")


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
    """Make a change and print its result.

    *new* are keys that must not exist yet, *old* keys that must exist.
    """
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
    text = f"{rows} row{'s' * (rows != 1)} changed, revision {reply['revision']}{visibility(reply)}"
    click.echo(text if rows else "no change")


def warn(words: str) -> None:
    """Print a warning on standard error."""
    click.echo(f"{paint('warning', 'yellow', err=True)}  {printable_text(words)}", err=True)


def without_none(**values: Any) -> dict[str, Any]:
    """Return *values* without those that are None: the options that were given."""
    return {name: value for name, value in values.items() if value is not None}
