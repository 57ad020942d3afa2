"""changes: what changed last in the catalog, from the file's journal."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from internal_dns.cli import suggest
from internal_dns.cli.backend import opened
from internal_dns.cli.common import CONFIGURATION, USAGE, catalog_option, json_option
from internal_dns.cli.objects.lookup import find_network
from internal_dns.cli.objects.rows import show_table
from internal_dns.errors import OperatorError

MAX_LISTED: Final = 1_000


@click.command()
@click.option(
    "--network",
    metavar="NETWORK",
    shell_complete=suggest.networks,
    help="Show the changes of this network only.",
)
@click.option(
    "--limit",
    default=20,
    show_default=True,
    type=click.IntRange(1, MAX_LISTED),
    help="Show at most this many changes.",
)
@catalog_option
@json_option
def changes(network: str | None, limit: int, catalog: str, as_json: bool) -> None:
    """Show what changed last in the catalog, the latest change first.

    The journal of the file holds the last changes, whoever made them: this program, a follower, or
    a person with sqlite3. It names the part that changed, not the old and new values. Adjacent
    changes of one part are one line.
    """
    from internal_dns.admin.reading import NoJournal, read_changes
    from internal_dns.store.sqlite import UnusableCatalog

    with opened(catalog):  # the usual errors for a file that is missing or no catalog
        number = find_network(catalog, network)["id"] if network is not None else None
    try:
        found = asyncio.run(read_changes(Path(catalog), limit, number))
    except NoJournal as error:
        raise OperatorError(
            f"cannot show the changes of {catalog}",
            str(error),
            "Ask that engine for its history, or compare with a document: internal-dns diff FILE",
            USAGE,
        ) from error
    except (UnusableCatalog, FileNotFoundError) as error:
        raise OperatorError(
            f"cannot use catalog {catalog}", str(error), "Try again", CONFIGURATION
        ) from error
    rows = [
        {
            "time": _timestamp(change.at),
            "revision": change.revision,
            "network": change.network,
            "changed": change.subject,
            "rows": change.rows,
        }
        for change in found
    ]
    if not rows and not as_json:
        click.echo("no changes are recorded")
        return
    show_table(rows, ("time", "revision", "network", "changed", "rows"), as_json)


def _timestamp(at: float | None) -> str | None:
    """Return Unix seconds as UTC in RFC 3339 form; None for no time of this era."""
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%FT%TZ")
    except (ValueError, OverflowError, OSError):
        return None
