"""JSON over HTTP, for sources and targets that speak it: one request, one connection, a limit on
everything.

The requests run in threads. A cancelled one closes its socket, so that a blocking query of minutes
never holds up the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlencode, urlsplit

import msgspec

from internal_dns.core.names import printable
from internal_dns.store.rows import shown

TIMEOUT: Final = 10.0  # seconds without an octet
MAX_REPLY: Final = 64 << 20  # octets
MAX_SAID: Final = 200  # characters of a server's error that are repeated


Query = Mapping[str, str | int]


class ApiAway(Exception):
    """The API gave no usable reply. The text says why; it holds no token and no password."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Status 200: the octets of the body, and the headers."""

    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        """Return the body, parsed. Raises ApiAway."""
        return parse_json(self.body)


@dataclass(frozen=True, slots=True)
class Api:
    """An HTTP API. *url* has no path of its own that matters but a prefix; *headers* may hold a
    token."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca: str | None = None  # a file with certificates to trust, instead of the system's

    def __post_init__(self) -> None:
        """Raise ValueError, whose text holds no secret, for what is not an address."""
        parts = self._parts()
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise ValueError("an address is http://HOST[:PORT] or https://HOST[:PORT]")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("an address has no user, password or query: give a token in a file")

    def _parts(self) -> SplitResult:
        try:
            return urlsplit(self.url)
        except ValueError:
            return SplitResult("", "", "", "", "")

    def __str__(self) -> str:
        return self.url

    async def get(
        self, path: str, query: Query | None = None, *, timeout: float = TIMEOUT, gone: bool = False
    ) -> Reply | None:
        """Return the reply to GET *path*; with *gone*, None for 404. Raises ApiAway."""
        target = f"{path}?{urlencode(query)}" if query else path
        return await self._ask("GET", target, None, timeout, gone=gone)

    async def fetch(
        self, path: str, query: Query | None = None, *, timeout: float = TIMEOUT
    ) -> Reply:
        """Return the reply to GET *path*. Raises ApiAway."""
        reply = await self.get(path, query, timeout=timeout)
        assert reply is not None, "None is for `gone` only"
        return reply

    async def post(self, path: str, value: object, *, timeout: float = TIMEOUT) -> Reply:
        """Return the reply to POST *path* with *value* as JSON. Raises ApiAway."""
        reply = await self._ask("POST", path, msgspec.json.encode(value), timeout)
        assert reply is not None, "None is for `gone` only"
        return reply

    async def _ask(
        self, method: str, target: str, body: bytes | None, timeout: float, *, gone: bool = False
    ) -> Reply | None:
        connection = self._connection(timeout)
        work = asyncio.to_thread(self._exchange, connection, method, target, body, gone=gone)
        try:
            return await work
        except asyncio.CancelledError:
            # Wakes the thread, which would wait for the reply otherwise.
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ApiAway(f"{self.url}: {error_words(error)}") from error
        except ApiAway as error:
            raise ApiAway(f"{self.url}{target.partition('?')[0]}: {error}") from None

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        parts = self._parts()
        assert parts.hostname is not None
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ApiAway(f"{self.ca}: {error_words(error)}") from error
        return http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout, context=context
        )

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        body: bytes | None,
        *,
        gone: bool,
    ) -> Reply | None:
        headers = {"Accept": "application/json", **self.headers}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, self._parts().path.rstrip("/") + target, body, headers)
            with connection.getresponse() as response:
                octets = response.read(MAX_REPLY + 1)
                if gone and response.status == http.client.NOT_FOUND:
                    return None
                if response.status != http.client.OK:
                    raise ApiAway(f"HTTP {response.status}{_said(octets)}")
                if len(octets) > MAX_REPLY:
                    raise ApiAway(f"more than {MAX_REPLY:,} octets")
                if response.length:  # read() with a limit does not tell
                    raise ApiAway("the reply ends early")
                return Reply(octets, {name.lower(): text for name, text in response.getheaders()})
        finally:
            connection.close()


def parse_json(octets: bytes) -> Any:
    """Return the body of a reply, parsed. Raises ApiAway."""
    try:
        return msgspec.json.decode(octets)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiAway(f"not JSON: {shown(str(error))}") from error


def _said(octets: bytes) -> str:
    """Return what a server says of its error, one line of it."""
    line = octets[: 4 * MAX_SAID].decode("utf-8", "replace").strip().partition("\n")[0]
    return f": {printable(line[:MAX_SAID].encode())}" if line else ""


def error_words(error: Exception) -> str:
    """Return what went wrong with a socket or file, without its number and path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def token_of(file: str | None, variable: str) -> str:
    """Return a token from *file*, else from the environment *variable*; empty: none.

    Raises OSError, ValueError for a file without one.
    """
    if file is None:
        return os.environ.get(variable, "").strip()
    text = Path(file).read_text("utf-8").strip()
    if not text or not text.isprintable() or not text.isascii():
        raise ValueError(f"{file} has no token")
    return text
