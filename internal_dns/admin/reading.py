"""Reads of the catalog file beside the event loop, with aiosqlite.

The catalog in memory has no use for when a part changed; the journal in the file knows. A read
opens the file anew, so it needs no care when the file is replaced.
"""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import aiosqlite

from internal_dns.core.names import printable
from internal_dns.store.sqlite import UnusableCatalog, connect

# A machine with its metadata and services is several entries of one part.
_ENTRIES_PER_CHANGE: Final = 20
_PATIENCE: Final = 0.5  # seconds for a writer that holds the file

_SUBJECTS: Final = {
    "app": "app",
    "peers": "peers",
    "flycast": "flycast of",
    "network": "network",
    "places": "regions, hosts or latencies",
    "record": "records under",
    "zone": "zone",
}


class NoJournal(Exception):
    """Another engine maintains the file, and keeps no journal in it."""


@dataclass(frozen=True, slots=True)
class PartChange:
    """A part of the catalog that changed.

    *revision* and *at* (Unix seconds; None where the clock was no number) are those of the last of
    *rows* adjacent changes. *network* is empty for what all networks share.
    """

    revision: int
    at: float | None
    network_id: int | None
    network: str
    kind: str
    label: str
    rows: int

    @property
    def subject(self) -> str:
        """What changed, in words: `app web`."""
        return f"{_SUBJECTS.get(self.kind, self.kind)} {self.label}".rstrip()


async def read_changes(
    file: Path, limit: int, network_id: int | None = None
) -> tuple[PartChange, ...]:
    """Return what changed last, the latest first, at most *limit* parts.

    Raises NoJournal, FileNotFoundError, UnusableCatalog; also when a writer holds the file.
    """
    try:
        # Opened before aiosqlite has a thread: a failure in its thread would outlive the event loop
        # of a command.
        opened = await asyncio.to_thread(connect, file, patience=_PATIENCE)
        async with aiosqlite.Connection(lambda: opened, iter_chunk_size=64) as connection:
            if not await connection.execute_fetchall(
                "SELECT 1 FROM sqlite_master WHERE name = 'journal'"
            ):
                raise NoJournal(f"{file} has no journal: another engine maintains it")
            entries = await connection.execute_fetchall(
                "SELECT revision, written_at, network_id, networks.name, kind, label FROM journal "
                "LEFT JOIN networks ON networks.id = network_id "
                "WHERE ?1 IS NULL OR network_id = ?1 ORDER BY revision DESC LIMIT ?2",
                (network_id, limit * _ENTRIES_PER_CHANGE),
            )
    except sqlite3.Error as error:
        raise UnusableCatalog(f"{file}: {error}") from error
    changes = []
    for (number, name, kind, label), group in groupby(entries, lambda row: tuple(row[2:])):
        rows = list(group)
        changes.append(
            PartChange(
                revision=rows[0][0],
                at=rows[0][1] if isinstance(rows[0][1], float | int) else None,
                network_id=number if isinstance(number, int) else None,
                network=_text(name) or (str(number) if number is not None else ""),
                kind=_text(kind),
                label=_text(label),
                rows=len(rows),
            )
        )
    return tuple(changes[:limit])


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return printable(value)
    return "" if value is None else str(value)
