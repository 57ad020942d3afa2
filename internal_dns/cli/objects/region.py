"""Regions, named by code."""

from __future__ import annotations

from typing import Any

import click

from internal_dns.cli import suggest
from internal_dns.cli.backend import read_rows
from internal_dns.cli.columns import column_options, list_columns, pop_columns
from internal_dns.cli.objects.lookup import require_row
from internal_dns.cli.objects.rows import change, command, show_one, show_table
from internal_dns.store.schema import REGIONS

region = click.Group("region", help="Show and change regions and their coordinates.")


@command(region, "list")
def region_list(catalog: str, as_json: bool) -> None:
    """List all regions."""
    show_table(read_rows(catalog, "regions"), list_columns(REGIONS), as_json)


@command(region, "show")
@click.argument("code", shell_complete=suggest.regions)
def region_show(catalog: str, as_json: bool, code: str) -> None:
    """Show a region."""
    show_one(require_row(catalog, "regions", {"code": code}, f"region {code}"), as_json)


@command(region, "add", writes=True)
@click.argument("code", shell_complete=suggest.regions)
@column_options(REGIONS, required=True)
def region_add(code: str, catalog: str, **to: Any) -> None:
    """Add a region."""
    row = {"code": code, **pop_columns(REGIONS, to)}
    change(catalog, [("regions", row)], new=[("regions", {"code": code})], **to)


@command(region, "set", writes=True)
@click.argument("code", shell_complete=suggest.regions)
@column_options(REGIONS, required=False)
def region_set(code: str, catalog: str, **to: Any) -> None:
    """Change a region."""
    row = require_row(catalog, "regions", {"code": code}, f"region {code}") | pop_columns(
        REGIONS, to
    )
    change(catalog, [("regions", row)], **to)


@command(region, "rm", writes=True)
@click.argument("code", shell_complete=suggest.regions)
def region_rm(code: str, catalog: str, **to: Any) -> None:
    """Remove a region. Its machines stay, at an unknown distance."""
    require_row(catalog, "regions", {"code": code}, f"region {code}")
    change(catalog, [], [("regions", {"code": code})], **to)
