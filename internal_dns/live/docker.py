"""Containers of a Docker or Podman engine, from the HTTP API on its UNIX socket.

    GET /containers/json?all=true        which containers there are
    GET /containers/<id>/json            each of them; 404: it is gone meanwhile
    GET /events                          hints

Both engines speak this API. Events differ between them, get lost and have other names, so an event
says nothing but that it is time to look. `sources/docker.py` reads what the API returns.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from internal_dns.live.http import ApiAway, error_words, parse_json
from internal_dns.live.source import Key, Snapshot, SourceAway, machine_key, snapshot_of
from internal_dns.sources import Options
from internal_dns.sources.docker import ID_LENGTH, read_each

TIMEOUT: Final = 10.0  # seconds without an octet from the engine
MAX_REPLY: Final = 64 << 20  # octets
MAX_EVENT: Final = 1 << 20  # octets of one event; labels of a container are part of it
_FILTERS: Final = quote('{"type":["container","network"]}')
# Health checks run commands in the container every few seconds: that changes nothing by itself.
_NOISE: Final = ("exec", "top", "attach", "resize", "copy", "archive-path", "export")


class _Connection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self.path)


class Docker:
    """One engine. *path*: its socket."""

    def __init__(self, path: str, options: Options) -> None:
        self.path, self.options = path, options
        # The machines of each container when it was last read: those of one that can no longer be
        # read, or has lost its addresses, keep their rows.
        self.idents: dict[str, list[str]] = {}

    async def snapshot(self) -> Snapshot:
        """Return every container as machines. Raises SourceAway."""
        try:
            values = await asyncio.to_thread(self._inspect_all)
        except (OSError, http.client.HTTPException) as error:
            raise SourceAway(f"{self.path}: {error_words(error)}") from error
        found = read_each(values.items(), self.options)
        for ident, idents in found.idents.items():
            if idents:
                self.idents[ident] = idents
        if unknown := found.malformed - self.idents.keys():
            # Which rows are those of this container is not known, so none may be deleted.
            raise SourceAway(f"{self.path}: container {min(unknown)} cannot be read")
        self.idents = {
            ident: idents
            for ident, idents in self.idents.items()
            if ident in found.idents or ident in found.malformed
        }
        return snapshot_of(
            found.imported,
            stopped=self._keys(found.stopped),
            unreadable=self._keys(found.malformed),
            figures={"skipped": found.skipped},
        )

    def _keys(self, containers: frozenset[str]) -> frozenset[Key]:
        return frozenset(
            machine_key(ident) for one in containers for ident in self.idents.get(one, [one])
        )

    def _inspect_all(self) -> Mapping[str, object]:
        """Return what the engine says of each container, by id. Raises OSError, HTTPException,
        SourceAway."""
        connection = _Connection(self.path)
        try:
            listed = self._get(connection, "/containers/json?all=true")
            if not isinstance(listed, list):
                raise SourceAway(f"{self.path}: the list of containers is no list")
            found: dict[str, object] = {}
            for one in listed:
                ident = one.get("Id") if isinstance(one, dict) else None
                if not isinstance(ident, str) or len(ident) < ID_LENGTH:
                    raise SourceAway(f"{self.path}: the list has a container without an id")
                value = self._get(
                    connection, f"/containers/{quote(ident, safe='')}/json", gone=True
                )
                if value is not None:
                    found[ident] = value
            return found
        finally:
            connection.close()

    def _get(self, connection: _Connection, path: str, *, gone: bool = False) -> Any:
        """Return parsed JSON, and with *gone* None for 404. Raises OSError, HTTPException,
        SourceAway."""
        connection.request("GET", path)
        with connection.getresponse() as response:
            body = response.read(MAX_REPLY + 1)
            if gone and response.status == 404:
                return None
            if response.status != 200:
                raise SourceAway(f"{self.path}: {path.partition('?')[0]}: HTTP {response.status}")
        if len(body) > MAX_REPLY:
            raise SourceAway(
                f"{self.path}: {path.partition('?')[0]}: more than {MAX_REPLY:,} octets"
            )
        try:
            return parse_json(body)
        except ApiAway as error:
            raise SourceAway(f"{self.path}: {path.partition('?')[0]}: {error}") from error

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yield once when subscribed, then for each event."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.path, limit=MAX_EVENT)
        except OSError:
            return
        try:
            head = f"GET /events?filters={_FILTERS} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            writer.write(head.encode())
            async with asyncio.timeout(TIMEOUT):
                status = await reader.readline()
            if status.split()[1:2] != [b"200"]:
                return
            yield
            # Chunk sizes and headers are lines of their own: only those that are events count.
            while line := await reader.readline():
                if line.startswith(b"{") and _is_news(line):
                    yield
        except (OSError, ValueError, TimeoutError):  # ValueError: a line past the limit
            return
        finally:
            writer.close()


def _is_news(line: bytes) -> bool:
    """Whether an event may have changed a container. What cannot be read may have."""
    try:
        event = msgspec.json.decode(line)
        action = event.get("Action") or event.get("status")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
        return True
    return not isinstance(action, str) or not action.startswith(_NOISE)
