"""init and check: create a catalog file, and find the faults of one."""

from __future__ import annotations

import shlex
import sqlite3
import sys
from pathlib import Path

import click

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


@click.command()
@click.argument("file", default="catalog.db", type=click.Path(path_type=Path))
@click.option("--demo", is_flag=True, help="Write the demo catalog.")
@click.option(
    "--machines",
    metavar="N",
    type=click.IntRange(1, 10_000_000),
    help="Write N generated machines.",
)
@click.option("--seed", default=1, show_default=True, help="The random seed of --machines.")
@click.option("--if-missing", is_flag=True, help="If FILE exists, leave it unchanged and exit 0.")
@click.option("--upgrade", is_flag=True, help="Add whatever FILE lacks of the current schema.")
@json_option
def init(
    file: Path,
    demo: bool,
    machines: int | None,
    seed: int,
    if_missing: bool,
    upgrade: bool,
    as_json: bool,
) -> None:
    """Create a catalog FILE: empty, with the demo, or with N generated machines."""
    from internal_dns.store.generate import create_catalog, demo_rows, sized_rows

    if upgrade:
        if demo or machines or if_missing:
            raise click.UsageError("--upgrade can be combined with --json only")
        _upgrade(file, as_json)
        return

    if demo and machines:
        raise click.UsageError("--demo and --machines exclude each other")
    rows = demo_rows() if demo else sized_rows(machines, seed) if machines else {}

    def progress(table: str, count: int) -> None:
        if machines and machines > 10_000 and sys.stderr.isatty():
            click.echo(f"\r{table:20} {count:>10,}", nl=False, err=True)

    try:
        written = create_catalog(file, rows, progress)
    except FileExistsError as error:
        if if_missing:
            _print_made(file, None, as_json)
            return
        raise OperatorError(
            f"{file} already exists",
            "init never overwrites a file",
            "Remove it, name another file, or accept it with --if-missing",
            CONFIGURATION,
        ) from error
    except (OSError, sqlite3.Error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise OperatorError(
            f"cannot write {file}", why, "Name a file in a writable directory", CONFIGURATION
        ) from error
    if machines and machines > 10_000 and sys.stderr.isatty():
        click.echo(err=True)
    _print_made(file, written, as_json)


def _upgrade(file: Path, as_json: bool) -> None:
    """Upgrade an owned file; for a foreign one print the SQL to run, and exit 2."""
    from contextlib import closing

    from internal_dns.store.sqlite import UnusableCatalog, connect
    from internal_dns.store.upgrade import foreign_statements, is_ours, upgrade_statements
    from internal_dns.store.writer import NotOurs, Writer

    try:
        with closing(connect(file)) as connection:
            ours = is_ours(connection)
            statements = upgrade_statements(connection) if ours else foreign_statements(connection)
        if ours:
            with Writer(file, following=True):  # A writer upgrades the file when it opens it.
                pass
    except FileNotFoundError as error:
        raise OperatorError(
            f"cannot upgrade {file}",
            "there is no such file",
            f"Create it: internal-dns init {file}",
            CONFIGURATION,
        ) from error
    except NotOurs as error:
        do = "Restart that server: it upgrades the file when it starts"
        raise OperatorError(f"cannot write {file}", str(error), do, USAGE) from error
    except (UnusableCatalog, sqlite3.Error, OSError) as error:
        raise OperatorError(
            f"cannot upgrade {file}",
            str(error),
            "Nothing was changed; correct the cause and try again",
            CONFIGURATION,
        ) from error
    if as_json:
        print_json({"file": str(file), "ours": ours, "statements": statements})
    elif not statements:
        click.echo(f"{file}: up to date")
    else:
        click.echo("".join(f"{statement};\n" for statement in statements), nl=False)
    if statements and not ours:
        raise OperatorError(
            f"{file} has no journal",
            "another engine maintains it, and only that engine may alter it",
            "Run the SQL above with that engine; until then, missing columns have their defaults",
            USAGE,
        )


def _print_made(file: Path, written: dict[str, int] | None, as_json: bool) -> None:
    """Print how many rows were *written* per table; None means that the file already existed."""
    if as_json:
        print_json({"file": str(file), "made": written is not None, "rows": written or {}})
    elif written is None:
        click.echo(f"kept  {file}, which already exists")
    else:
        parts = ", ".join(f"{count:,} {table}" for table, count in written.items() if count)
        click.echo(f"made  {file}: {parts or 'no rows'}")
        click.echo(f"try   internal-dns dev --catalog {shlex.quote(str(file))}")


@click.command()
@catalog_option
@json_option
def check(catalog: str, as_json: bool) -> None:
    """Find rows that cannot be served, names that cannot be queried, and answers that do not fit.

    Exit 1 if there are any.
    """
    from internal_dns.store.check import findings
    from internal_dns.store.sqlite import UnusableCatalog, load

    as_served = settings()
    try:
        loaded = load(catalog, rules=as_served.catalog_rules)
    except (FileNotFoundError, UnusableCatalog) as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise OperatorError(
            f"cannot use catalog {catalog}",
            why,
            "Name another file with --catalog",
            CONFIGURATION,
        ) from error
    found = findings(loaded)
    if as_json:
        print_json(
            [{"level": f.level, "where": f.where, "what": f.what, "do": f.do} for f in found]
        )
    else:
        for f in found:
            level = paint(f.level, "red" if f.level == "error" else "yellow")
            click.echo(f"{level:8} {printable_text(f'{f.where}: {f.what}')}")
            click.echo(f"         {f.do}")
        errors = sum(f.level == "error" for f in found)
        click.echo(
            f"{catalog}: {errors} errors, {len(found) - errors} warnings"
            if found
            else f"{catalog}: no findings"
        )
    raise SystemExit(FINDING if found else 0)
