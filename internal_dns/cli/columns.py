"""The options of commands that write rows: one for each column, from the table's declaration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from internal_dns.cli import suggest
from internal_dns.store.schema import FLAG, Column, Table

Command = Callable[..., Any]

# What a shell completes the value of an option with, by its column.
COMPLETIONS: Final[Mapping[str, suggest.Complete]] = {
    "app": suggest.apps,
    "region": suggest.regions,
    "state": suggest.states,
}


def column_options(
    table: Table, *, required: bool, omit: tuple[str, ...] = ()
) -> Callable[[Command], Command]:
    """Give a command an option for each column of *table* that documents have, but for the key and
    *omit*.

    *required*: columns without a default must be given. `pop_columns` makes a row of what is given; what
    is not stays, or takes its default.
    """
    written = [
        column
        for column in table.columns
        if column.document is not None and not column.key and column.name not in omit
    ]

    def add(function: Command) -> Command:
        for column in reversed(written):
            function = _option(column, required and column.required)(function)
        return function

    return add


def _option(column: Column, required: bool) -> Callable[[Command], Command]:
    name = column.document_name.replace("_", "-")
    if column.domain is FLAG and column.default:
        return click.option(
            f"--{name}", column.name, type=bool, metavar="yes|no", help=column.words
        )
    if column.domain is FLAG:
        off = column.off or f"no-{name}"
        return click.option(f"--{name}/--{off}", column.name, default=None, help=column.words)
    kind = {"TEXT": str, "INTEGER": int, "REAL": float}[column.domain.sql]
    return click.option(
        f"--{name}",
        column.name,
        type=kind,
        required=required,
        shell_complete=COMPLETIONS.get(column.name),
        help=column.words,
    )


def pop_columns(table: Table, options: dict[str, Any]) -> dict[str, Any]:
    """Take the columns of *table* that were given out of a command's *options*, as a row has
    them."""
    found = {}
    for column in table.columns:
        value = options.pop(column.name, None)
        if value is not None:
            found[column.name] = int(value) if column.domain is FLAG else value
    return found


def list_columns(table: Table, *before: str, omit: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the columns that a list of *table* shows: those of *before* first, addresses last."""
    rest = [
        column
        for column in table.columns
        if column.document is not None and column.name not in (*before, *omit)
    ]
    rest.sort(key=lambda column: column.name == "address")
    return (*before, *(column.name for column in rest))
