"""Notice commits, read what changed, and keep the last good catalog while the file cannot be read.

A commit by any process (our writer, a shell, another engine) changes SQLite's `data_version`. A
file renamed over ours changes device or inode, which an open connection never sees. Both are
checked every few milliseconds, at some five microseconds per check. Reading happens in a thread of
its own, so the event loop keeps answering.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from internal_dns.core.catalog_rules import DEFAULT_RULES, CatalogRules
from internal_dns.lock import short_turns
from internal_dns.store.sqlite import (
    Loaded,
    Progress,
    Reader,
    UnusableCatalog,
    check_schema,
    connect,
    discarded_parts,
    free_pieces,
)

INTERVAL: Final = 0.005  # seconds between checks
SLOW: Final = 60  # seconds of reading after which a warning is logged
RETRY: Final = 0.25  # seconds between attempts; a repaired file must be served within a second

Read = Callable[[Reader, Loaded], Loaded]

_log = logging.getLogger("internal_dns")


class Watcher:
    """Keeps one catalog file loaded. `problem` says why the file cannot be read now, and is empty
    when it can.

    What *apply* returns is awaited before the previous catalog is freed and the next one is read.
    """

    def __init__(
        self,
        path: Path,
        apply: Callable[[Loaded], Awaitable[None] | None],
        *,
        rules: CatalogRules = DEFAULT_RULES,
        progress: Progress | None = None,
        slow: float = SLOW,
    ) -> None:
        self.path, self.apply, self.rules, self.progress = path, apply, rules, progress
        self.slow = slow
        self.loaded: Loaded | None = None
        self.problem = ""
        self.loaded_at = time.monotonic()
        self.load_seconds = 0.0
        self.loads = 0
        self._reload_whole = False  # read the whole file again, with other rules
        self.noticed_at = 0.0  # time.monotonic() of the commit being read

    def age(self) -> float:
        """Return the seconds since the catalog was last loaded, or since the start."""
        return time.monotonic() - self.loaded_at

    def faults(self) -> int:
        """Return how many rows were not loaded."""
        return self.loaded.fault_count if self.loaded else 0

    def use(self, rules: CatalogRules) -> None:
        """Read the file by *rules* from now on; read it again when they differ from the current
        ones."""
        if rules != self.rules:
            self.rules, self._reload_whole = rules, True

    async def run(self) -> None:
        """Load the file, then watch it until cancelled. Raises UnusableCatalog when the first load
        meets a bad file."""
        with ThreadPoolExecutor(1, "catalog") as thread:
            while True:
                try:
                    await self._follow(thread)
                    continue
                except FileNotFoundError:
                    self._report_problem("the file does not exist")
                except UnusableCatalog as error:
                    # At the start a bad file is the operator's mistake. Later it is being written,
                    # or was damaged.
                    if not (self.loaded or self.problem or error.passing):
                        raise
                    self._report_problem(str(error))
                except (sqlite3.Error, OSError) as error:
                    self._report_problem(str(error))
                await asyncio.sleep(RETRY)

    async def _follow(self, thread: ThreadPoolExecutor) -> None:
        """Load the file now and after each commit.

        Return when another file has taken its place, or when the whole file must be read again.
        """
        identity = self._identity()
        connection = connect(self.path)
        connection.execute("PRAGMA busy_timeout = 0")  # a check must not wait
        reader = Reader(self.path, rules=self.rules, progress=self.progress, counting=True)
        self._reload_whole = False
        try:
            seen, schema, stamped = -1, -1, self._stamp()
            while identity == self._identity() and not self._reload_whole:
                # Read the version before loading: a commit in between then counts as a change and
                # is never missed.
                version = _pragma(connection, "data_version", seen)
                if version != seen:
                    shape = _pragma(connection, "schema_version", schema)
                    await self._load(thread, reader, whole=seen == -1 or shape != schema)
                    seen, schema = version, shape
                elif stamped != (stamp := self._stamp()):
                    # The file was written without a commit that SQLite reports: a checkpoint, or a
                    # program that is not SQLite.
                    await asyncio.get_running_loop().run_in_executor(thread, _check_file, self.path)
                    stamped = stamp
                await asyncio.sleep(INTERVAL)
        finally:
            reader.stop()  # when cancelled: a read in progress must not delay the shutdown
            connection.close()
            await asyncio.get_running_loop().run_in_executor(thread, reader.close)

    def _identity(self) -> tuple[int, int]:
        # stat only: opening the file outside SQLite and closing it would drop SQLite's locks.
        status = os.stat(self.path)
        return status.st_dev, status.st_ino

    def _stamp(self) -> tuple[int, int]:
        status = os.stat(self.path)
        return status.st_mtime_ns, status.st_size

    async def _load(self, thread: ThreadPoolExecutor, reader: Reader, *, whole: bool) -> None:
        """Read in the thread, apply in the event loop."""
        with short_turns():
            await self._read(thread, reader, whole=whole)

    async def _read(self, thread: ThreadPoolExecutor, reader: Reader, *, whole: bool) -> None:
        self.noticed_at = time.monotonic()
        before = self.loaded
        work = Reader.read_after if whole or before is None else Reader.update
        reading = asyncio.get_running_loop().run_in_executor(
            thread, _read, work, reader, before or Loaded()
        )
        await asyncio.wait({reading}, timeout=self.slow)
        if not reading.done():
            self._report_problem(f"reading it has taken more than {self.slow:g} s so far")
        loaded, pieces = await reading
        del reading
        self.load_seconds = time.monotonic() - self.noticed_at
        if self.problem:
            _log.info("catalog %s: the file is readable again", self.path)
            self.problem = ""
        changed = loaded is not before
        self.loaded, self.loaded_at = loaded, time.monotonic()
        self.loads += 1
        if changed and (applied := self.apply(loaded)) is not None:
            await applied
        del before
        if pieces:  # nothing else references them now
            await asyncio.get_running_loop().run_in_executor(thread, free_pieces, pieces)
        if not loaded.owned:
            # A file without a journal is read whole: leave at least half of the time to answers.
            await asyncio.sleep(self.load_seconds)

    def _report_problem(self, problem: str) -> None:
        """Keep the last good catalog; log once per outage, however the problem changes."""
        problem = problem.removeprefix(f"{self.path}: ")
        if not self.problem:
            _log.warning(
                "catalog %s: %s; %s",
                self.path,
                problem,
                "the last good catalog answers"
                if self.loaded
                else "our names get SERVFAIL until it can be read",
            )
        self.problem = problem


def _read(work: Read, reader: Reader, before: Loaded) -> tuple[Loaded, list[object]]:
    """Read, and list what can be freed afterwards."""
    loaded = work(reader, before)
    return loaded, discarded_parts(before.catalog, loaded.catalog)


def _pragma(connection: sqlite3.Connection, name: str, seen: int) -> int:
    """Return data_version, which changes with every commit, or schema_version; *seen* while a
    writer holds the file."""
    with suppress(sqlite3.OperationalError):
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
    return seen


def _check_file(path: Path) -> None:
    """Open the file again and check that it is a catalog. Raises UnusableCatalog."""
    with closing(connect(path)) as connection:
        try:
            check_schema(connection)
        except sqlite3.Error as error:
            raise UnusableCatalog(str(error)) from error
