"""Notice commits: load the catalog when the file changes, and keep the last good one when it cannot be read.

A commit by anyone (our writer, a shell, another engine) changes SQLite's `data_version`; a file renamed over ours
changes device or inode, which an open connection never sees. Both are looked at twenty times a second.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiosqlite

from internal_dns.core.catalog import Catalog
from internal_dns.store.sqlite import Loaded, UnusableCatalog, load

INTERVAL: Final = 0.05  # seconds: a commit is noticed within this, plus the time to load
RETRY: Final = 0.5  # while the file cannot be read; repair must show within a second

_log = logging.getLogger("internal_dns")


class Watcher:
    """Keeps one catalog file loaded. `problem` says why the file cannot be read at present, empty when it can."""

    def __init__(self, path: Path, apply: Callable[[Loaded], None], **options: Any) -> None:
        self.path, self.apply, self.options = path, apply, options
        self.loaded: Loaded | None = None
        self.problem = ""
        self.loaded_at = time.monotonic()
        self.load_seconds = 0.0

    def age(self) -> float:
        """Seconds since the catalog was last loaded, or since the start."""
        return time.monotonic() - self.loaded_at

    def faults(self) -> int:
        """Rows that were left out of the catalog."""
        return self.loaded.fault_count if self.loaded else 0

    async def run(self) -> None:
        """Load, then follow the file until cancelled. Raises UnusableCatalog when the first load meets a bad file."""
        while True:
            try:
                await self._follow()
            except FileNotFoundError:
                self._trouble("the file is not there")
            except UnusableCatalog as error:
                if self.loaded is None:
                    raise
                self._trouble(str(error))
            except (sqlite3.Error, OSError) as error:
                self._trouble(str(error))
            await asyncio.sleep(RETRY)

    async def _follow(self) -> None:
        """Load the file now and after each commit; return when another file has taken its place."""
        identity = self._identity()
        uri = f"file:{quote(str(self.path.absolute()))}?mode=ro"
        async with aiosqlite.connect(uri, uri=True, isolation_level=None) as connection:
            for pragma in ("query_only = 1", "mmap_size = 0", "trusted_schema = 0"):
                await connection.execute(f"PRAGMA {pragma}")
            seen = -1
            while identity == self._identity():
                # Read before loading: a commit in between is then seen as a change, never missed.
                version = await _data_version(connection)
                if version != seen:
                    await self._load()
                    seen = version
                await asyncio.sleep(INTERVAL)

    def _identity(self) -> tuple[int, int]:
        # stat only: opening the file outside SQLite and closing it would drop SQLite's locks.
        found = os.stat(self.path)
        return found.st_dev, found.st_ino

    async def _load(self) -> None:
        started = time.monotonic()
        previous = self.loaded.catalog if self.loaded else Catalog()
        loaded = await asyncio.to_thread(load, self.path, previous=previous, **self.options)
        self.load_seconds = time.monotonic() - started
        if self.problem:
            _log.info("catalog %s: readable again", self.path)
            self.problem = ""
        self.loaded, self.loaded_at = loaded, time.monotonic()
        self.apply(loaded)

    def _trouble(self, problem: str) -> None:
        """Go on with the last good catalog; one log line for each new problem."""
        if problem != self.problem:
            _log.warning(
                "catalog %s: %s; %s", self.path, problem,
                "the last good catalog answers" if self.loaded else "our names get SERVFAIL until it can be read",
            )  # fmt: skip
        self.problem = problem


async def _data_version(connection: aiosqlite.Connection) -> int:
    async with connection.execute("PRAGMA data_version") as cursor:
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])
