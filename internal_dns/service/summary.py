"""The server in words, for its start lines."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from internal_dns.store.sqlite import Loaded

PROGRESS_ROWS: Final = 250_000

_log = logging.getLogger("internal_dns")


def counted(loaded: Loaded) -> str:
    """The size of a catalog in words."""
    return (
        f"{len(loaded.catalog.networks)} networks, {loaded.apps} apps, {loaded.machines} machines "
        f"({loaded.started} started), {loaded.peers} peers"
    )


def loop_name() -> str:
    """The event loop that runs."""
    module = type(asyncio.get_running_loop()).__module__
    return "uvloop" if "uvloop" in module else "asyncio (uvloop is missing)"


def path_in_words(native: bool, workers: int) -> str:
    """The UDP path that runs."""
    return f"native ({workers} worker{'s' * (workers > 1)})" if native else "python"


def log_progress(table: str, rows: int) -> None:
    """Log how far a big file is read: a line per second or so, none for files that take less."""
    if not rows % PROGRESS_ROWS:
        _log.info("catalog: %s, %s rows read", table, f"{rows:,}")
