"""Names from a catalog, for shell completion and for "Did you mean …?".

Both are conveniences: fast, bounded, and silent when the catalog cannot be read.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

MAX_NAMES: Final = 2_000  # names read per lookup
MAX_COMPLETIONS: Final = 200  # names offered to a shell
BUSY_TIMEOUT: Final = 0.2  # seconds to wait while another process writes the catalog

Complete = Callable[[click.Context, click.Parameter, str], list[str]]

# The states of machines, frequent ones first.
STATES: Final = (
    "started stopped created starting stopping suspending suspended restarting updating replacing "
    "replaced failed launch_failed destroying destroyed"
).split()


def list_names(
    catalog: str, table: str, column: str, start: str = "", where: Mapping[str, Any] | None = None
) -> list[str]:
    """Return up to MAX_NAMES distinct texts of a column that begin with *start*, ignoring case.

    The list is empty when the file cannot be read.
    """
    conditions = [f"{column} LIKE ? ESCAPE '\\'", *(f"{key} = ?" for key in where or {})]
    bound = [_like_pattern(start), *(where or {}).values()]
    sql = (
        f"SELECT DISTINCT {column} FROM {table} WHERE {' AND '.join(conditions)} LIMIT {MAX_NAMES}"
    )
    with suppress(sqlite3.Error, OSError, UnicodeError, OverflowError):
        address = f"file:{quote(os.path.abspath(catalog))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT)) as connection:
            connection.text_factory = lambda octets: octets.decode("utf-8", "replace")
            found = [row[0] for row in connection.execute(sql, bound)]
            return sorted(text for text in found if isinstance(text, str) and text.isprintable())
    return []


def _like_pattern(start: str) -> str:
    return "".join(f"\\{c}" if c in "\\%_" else c for c in start) + "%"


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """Return "Did you mean …?" for the known text most similar to *text*, or an empty text."""
    from difflib import get_close_matches

    by_fold = {word.lower(): word for word in known}
    found = get_close_matches(text.lower(), by_fold, 1, 0.6)
    return f"Did you mean {by_fold[found[0]]}?" if found else ""


def did_you_mean_in(
    catalog: str, table: str, column: str, text: str, where: Mapping[str, Any] | None = None
) -> str:
    """Apply `did_you_mean` to a column of the catalog; to a large one, only to similar starts."""
    known = list_names(catalog, table, column, "", where)
    if len(known) == MAX_NAMES:
        known += list_names(catalog, table, column, text[:2], where)
    return did_you_mean(text, known)


# ── shell completion ──────────────────────────────────────────────────────────────────────────────


def networks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return list_names(_find_catalog(ctx), "networks", "name", incomplete)[:MAX_COMPLETIONS]


def regions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    catalog = _find_catalog(ctx)
    of_machines = list_names(catalog, "machines", "region", incomplete)
    return sorted({*list_names(catalog, "regions", "code", incomplete), *of_machines})[
        :MAX_COMPLETIONS
    ]


def states(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [state for state in STATES if state.startswith(incomplete)]


def record_types(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from internal_dns.store.schema import RECORD_TYPE

    return [rtype for rtype in RECORD_TYPE.choices if rtype.startswith(incomplete.upper())]


def machines(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    given = set(ctx.params.get("idents") or ())
    found = list_names(_find_catalog(ctx), "machines", "id", incomplete)
    return [ident for ident in found if ident not in given][:MAX_COMPLETIONS]


def apps(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete app names, of --network if it is given."""
    catalog = _find_catalog(ctx)
    where = _network_condition(catalog, ctx.params.get("network_name"))
    return _list_apps(catalog, incomplete, where)[:MAX_COMPLETIONS]


def within_network(kind: str) -> Complete:
    """Return a function that completes NETWORK/NAME for apps, peers, flycasts,
    records or zones."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        catalog = _find_catalog(ctx)
        network, slash, name = incomplete.partition("/")
        if not slash:
            return [f"{network}/" for network in list_names(catalog, "networks", "name", network)]
        where = _network_condition(catalog, network)
        if where is None:
            return []
        if kind == "apps":
            found = _list_apps(catalog, name, where)
        else:
            found = list_names(catalog, kind, "app" if kind == "flycasts" else "name", name, where)
        return [f"{network}/{one}" for one in found][:MAX_COMPLETIONS]

    return complete


def _list_apps(catalog: str, start: str, where: Mapping[str, Any] | None) -> list[str]:
    declared = list_names(catalog, "apps", "name", start, where)
    return sorted({*declared, *list_names(catalog, "machines", "app", start, where)})


def _network_condition(catalog: str, name: str | None) -> dict[str, int] | None:
    """Return the condition for rows of a network; None for no name or an unknown one."""
    if not name:
        return None
    with suppress(sqlite3.Error, OSError, UnicodeError):
        address = f"file:{quote(os.path.abspath(catalog))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT)) as connection:
            sql = "SELECT id FROM networks WHERE lower(name) = ? OR CAST(id AS TEXT) = ?"
            for row in connection.execute(sql, (name.lower(), name)):
                return {"network_id": row[0]}
    return None


def _find_catalog(ctx: click.Context) -> str:
    """Return the catalog that the command line names so far; empty if that cannot be determined."""
    given = ctx.params.get("catalog") or os.environ.get("INTERNAL_DNS_CATALOG")
    if given:
        return str(Path(given).expanduser())
    from internal_dns.cli.common import default_catalog
    from internal_dns.errors import OperatorError

    try:
        return default_catalog()
    except (OperatorError, OSError):
        return ""
