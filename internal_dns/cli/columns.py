"""Options of the commands that write rows, one per column, from the declaration of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from internal_dns.cli import suggest
from internal_dns.store.schema import FLAG, Column, Table

Command = Callable[..., Any]

# How a shell completes the value of a column's option.
COMPLETIONS: Final[Mapping[str, suggest.Complete]] = {
    "app": suggest.apps,
    "region": suggest.regions,
    "state": suggest.states,
}


def column_options(
    table: Table, *, required: bool, omit: tuple[str, ...] = ()
) -> Callable[[Command], Command]:
    """Add an option per column of *table* that documents have, except the key and *omit*.

    With *required*, columns without a default must be given. `pop_columns` turns the options into
    a row; a column without an option keeps its value, or gets its default.
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
    """Remove the columns of *table* from *options*; return those that were given, as a row."""
    row = {}
    for column in table.columns:
        value = options.pop(column.name, None)
        if value is not None:
            row[column.name] = int(value) if column.domain is FLAG else value
    return row


def list_columns(table: Table, *before: str, omit: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the columns that a list of *table* shows: *before* first, the address last."""
    rest = [
        column
        for column in table.columns
        if column.document is not None and column.name not in (*before, *omit)
    ]
    rest.sort(key=lambda column: column.name == "address")
    return (*before, *(column.name for column in rest))
