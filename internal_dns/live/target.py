"""Where the rows of a source go: the server of a catalog, a catalog file, a bucket.

    Target          rows()                    the rows of the source that the catalog has
                    apply(puts, deletes)      write; return why an object was not written, by key
                    report(status)            publish the status

One follower per name: a lock file beside the catalog (or, for a bucket, a lease: `bucket.py`).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.live.source import Key, Objects
from internal_dns.live.status import Status, as_json
from internal_dns.net import socket_path
from internal_dns.store.json_rows import BadRequest
from internal_dns.store.operations import perform
from internal_dns.store.sqlite import UnusableCatalog
from internal_dns.store.writer import NotOurs, RejectedChange, Writer

TIMEOUT: Final = 60.0  # seconds for one reply of the server
PART: Final = 5_000  # objects in one request
MAX_REPLY: Final = 256 << 20  # octets: the rows of a source


class TargetAway(Exception):
    """The catalog cannot be read or written now; the text says why."""


class OtherFollower(Exception):
    """Another follower has this name; the text says where."""


class Lost(Exception):
    """This follower must end: another one has taken its place."""


class Target(Protocol):
    """A catalog that holds the rows of one source. Every method raises TargetAway."""

    async def rows(self) -> Objects: ...

    async def apply(self, puts: Objects, deletes: frozenset[Key]) -> dict[Key, str]: ...

    async def report(self, status: Status) -> None: ...


@contextmanager
def only_follower(catalog: Path, source: str) -> Iterator[None]:
    """Hold the lock of *source* on a catalog. Raises OtherFollower, OSError."""
    path = lock_path(catalog, source)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OtherFollower(f"another process follows {source} for {catalog}") from None
    try:
        # The file stays: removing it could take the lock of a follower that opened it meanwhile.
        yield
    finally:
        os.close(descriptor)


def lock_path(catalog: Path, source: str) -> Path:
    return catalog.with_name(f"{catalog.name}.{source}.follow")


def request_of(source: str, puts: Objects, deletes: frozenset[Key]) -> dict[str, Any]:
    return {
        "op": "source apply",
        "source": source,
        "puts": [[list(key), dict(object_)] for key, object_ in puts.items()],
        "deletes": [list(key) for key in sorted(deletes, key=str)],
    }


def objects_of(reply: dict[str, Any]) -> Objects:
    return {tuple(key): object_ for key, object_ in reply["rows"]}


def faults_of(reply: dict[str, Any]) -> dict[Key, str]:
    return {tuple(key): why for key, why in reply["faults"]}


class ServerTarget:
    """The running server of a catalog, over its socket."""

    def __init__(self, catalog: Path, source: str) -> None:
        self.path, self.source = socket_path(catalog), source

    async def rows(self) -> Objects:
        return objects_of(await self._ask({"op": "source rows", "source": self.source}))

    async def apply(self, puts: Objects, deletes: frozenset[Key]) -> dict[Key, str]:
        """Write in parts: a request has a greatest size, and others write in between."""
        faults: dict[Key, str] = {}
        keys = list(puts)
        for start in range(0, max(len(keys), 1), PART):
            part = {key: puts[key] for key in keys[start : start + PART]}
            gone = frozenset() if start else deletes
            faults |= faults_of(await self._ask(request_of(self.source, part, gone)))
        return faults

    async def report(self, status: Status) -> None:
        await self._ask({"op": "source status", "source": self.source, "status": as_json(status)})

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(str(self.path), limit=MAX_REPLY)
                try:
                    writer.write(json.dumps(request).encode() + b"\n")
                    await writer.drain()
                    line = await reader.readline()
                finally:
                    writer.close()
        except TimeoutError:
            raise TargetAway(f"{self.path}: no reply within {TIMEOUT:.0f} s") from None
        except (OSError, ValueError) as error:
            words = getattr(error, "strerror", None) or str(error)
            raise TargetAway(f"no server at {self.path}: {words}") from error
        if not line:
            raise TargetAway(f"{self.path}: the server closed the connection")
        reply: dict[str, Any] = json.loads(line)
        if refusal := reply.get("error"):
            raise TargetAway(f"the server said {refusal}: {', '.join(reply.get('faults', ()))}")
        return reply


class FileTarget:
    """A catalog file without a server, written under its lock."""

    def __init__(self, writer: Writer, source: str) -> None:
        self.writer, self.source = writer, source

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, catalog: Path, rules: CatalogRules, source: str
    ) -> AsyncIterator[FileTarget]:
        """Open *catalog*, and hold its lock meanwhile. Raises NotOurs, OSError, sqlite3.Error,
        UnusableCatalog."""
        writer = await asyncio.to_thread(Writer, catalog, rules)
        try:
            yield cls(writer, source)
        finally:
            await asyncio.to_thread(writer.close)

    async def rows(self) -> Objects:
        return objects_of(await self._perform({"op": "source rows", "source": self.source}))

    async def apply(self, puts: Objects, deletes: frozenset[Key]) -> dict[Key, str]:
        return faults_of(await self._perform(request_of(self.source, puts, deletes)))

    async def report(self, status: Status) -> None:
        """Without a server, nobody shows the status."""

    async def _perform(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return await asyncio.to_thread(perform, request, self.writer)
        except (
            NotOurs,
            RejectedChange,
            BadRequest,
            UnusableCatalog,
            sqlite3.Error,
            OSError,
        ) as error:
            raise TargetAway(f"{self.writer.path}: {error}") from error
