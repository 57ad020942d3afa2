"""The lines that the server logs at start, while it loads, and after a commit."""

from __future__ import annotations

import logging
from typing import Final

from internal_dns.store.sqlite import Loaded

PROGRESS_ROWS: Final = 250_000

_log = logging.getLogger("internal_dns")


def counted(loaded: Loaded) -> str:
    """Return the size of a catalog as text."""
    return (
        f"{len(loaded.catalog.networks)} networks, {loaded.apps} apps, {loaded.machines} machines "
        f"({loaded.started} started), {loaded.peers} peers"
    )


def duration(seconds: float) -> str:
    """A time span in its two largest units."""
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min" if minutes else f"{int(seconds)} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def path_in_words(native: bool, workers: int) -> str:
    """Return the UDP path in use as text."""
    return f"native ({workers} worker{'s' * (workers > 1)})" if native else "python"


def log_progress(table: str, rows: int) -> None:
    """Log the progress of loading a large file, about once per second."""
    if not rows % PROGRESS_ROWS:
        _log.info("catalog: %s, %s rows read", table, f"{rows:,}")


def log_loaded(loaded: Loaded, seconds: float, *, first: bool, changed: bool) -> None:
    """Log a changed catalog; for the *first* one, the number of skipped rows."""
    if changed and not first:
        # There may be a hundred small commits per second. A full reload is worth a line.
        _log.log(
            logging.DEBUG if loaded.parts else logging.INFO,
            "catalog revision %d, %d parts, %.0f ms",
            loaded.catalog.revision,
            loaded.parts,
            seconds * 1000,
        )
    if loaded.fault_count and first:
        _log.warning(
            "%d invalid rows are not served; `internal-dns check` lists them", loaded.fault_count
        )
