"""The UNIX socket of the command line, mode 0600: one JSON object per line, request and reply.

    {"op": "write", "puts": [["machines", {"id": "…", "state": "stopped"}]], "wait": true}
    {"revision": 17, "rows": 1}

    {"op": "forward", "query": "…"}          what the forwarder would do with an external name
    {"steps": [["rule", "…"], ["cache", "…"], …]}

    {"op": "where"}                          where the server listens, for `dig` and `doctor`
    {"listen": ["[::1]:1053", …], "admin": "127.0.0.1:9153", "console": null}

    {"op": "source status", "status": {…}}   a follower of a live source, every few seconds
    {"op": "sources"}                        {"sources": [{"source": "podman", "up": true, …}]}

    {"op": "busiest", "names": 100}          the hit counts of the answer table, for `top`

`watch` and `queries` send one line per change of an answer, or per sampled query, until either side
closes the connection. An error is {"error": what, "faults": [...]}.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from internal_dns.admin.live import MAX_NAMES, busiest, describe_sample, parse_count, reply_now
from internal_dns.admin.sources import Sources
from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.core.wire import Query, read_query
from internal_dns.net import socket_path
from internal_dns.replicate.source import Source
from internal_dns.store.json_rows import BadRequest
from internal_dns.store.operations import perform
from internal_dns.store.sqlite import UnusableCatalog
from internal_dns.store.upgrade import needs_upgrade
from internal_dns.store.writer import NotOurs, RejectedChange, Writer, follows
from internal_dns.transport.answer import Exchange
from internal_dns.transport.tap import Tap

MAX_REQUEST: Final = 64 << 20  # a declarative document of a large platform
RETRY: Final = 1  # seconds between attempts to take over the socket
WAIT: Final = 10  # seconds to wait until a change is visible

_log = logging.getLogger("internal_dns")

Perform = Callable[[dict[str, Any]], dict[str, Any]]


class Api:
    """Serves the socket of one server. The first write opens the writer, which stays open."""

    def __init__(
        self,
        catalog: Path,
        exchange: Exchange,
        rules: CatalogRules,
        source: Source | None = None,
    ) -> None:
        self.catalog, self.exchange, self.rules, self.source = catalog, exchange, rules, source
        self.thread = ThreadPoolExecutor(1, "writer")
        self.writer: Writer | None = None
        # Set and replaced each time another catalog comes into use.
        self.changed = asyncio.Event()
        self.server: asyncio.Server | None = None
        self.path = socket_path(catalog)
        self.clients: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self.sources = Sources()
        # The server sets it to a function that returns where it listens.
        self.where: Callable[[], dict[str, Any]] = dict

    async def start(self) -> None:
        """Listen, and replace a socket that a killed server left behind. Raises OSError."""
        with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                if not stat.S_ISSOCK(self.path.stat().st_mode):
                    raise OSError(f"{self.path} exists and is not a socket") from None
                self.path.unlink()
            else:
                raise OSError(f"another server listens on {self.path}")
        await asyncio.get_running_loop().run_in_executor(self.thread, self._upgrade)
        mask = os.umask(0o177)
        try:
            self.server = await asyncio.start_unix_server(
                self._serve, str(self.path), limit=MAX_REQUEST
            )
        finally:
            os.umask(mask)

    async def take_over(self) -> None:
        """Listen as soon as the other server of the same catalog stops."""
        while self.server is None:
            await asyncio.sleep(RETRY)
            with contextlib.suppress(OSError):
                await self.start()
        _log.info("write commands are accepted at %s", self.path)

    def _upgrade(self) -> None:
        """Upgrade an owned file to the current schema before it is loaded.

        A follower of a bucket upgrades its file itself. Errors are ignored here: the load or the
        first write reports them.
        """
        with contextlib.suppress(OSError, NotOurs, UnusableCatalog, sqlite3.Error):
            if self.source is None and needs_upgrade(self.catalog):
                with Writer(self.catalog, self.rules):
                    _log.info("catalog %s: upgraded to the current schema", self.catalog)

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
            with contextlib.suppress(OSError):
                self.path.unlink()
        for writer in self.clients.values():
            writer.close()  # ends `watch` and `queries`
        if self.clients:
            await asyncio.wait(self.clients, timeout=1)
        await asyncio.get_running_loop().run_in_executor(self.thread, self._close_writer)
        self.thread.shutdown()

    def _close_writer(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def use(self, rules: CatalogRules) -> None:
        """Check changes by *rules* from now on."""
        self.rules = rules
        if self.writer is not None:
            self.writer.rules = rules

    def notify(self) -> None:
        """Wake everyone who waits for another catalog to come into use."""
        previous, self.changed = self.changed, asyncio.Event()
        previous.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.clients[task] = writer
        try:
            while line := await reader.readline():
                await self._reply(line, reader, writer)
        except (OSError, ValueError):
            pass  # the client has disconnected, or its line exceeds the limit
        finally:
            del self.clients[task]
            writer.close()

    async def _reply(
        self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
            streams = {"watch": self._watch, "queries": self._queries}
            if stream := streams.get(str(request.get("op"))):
                await stream(request, reader, writer)
                return
            if request.get("op") == "forward":
                reply = self._explain_forward(request)
            elif request.get("op") == "where":
                reply = self.where()
            elif request.get("op") == "source status":
                reply = self.sources.report(request)
            elif request.get("op") == "sources":
                reply = self.sources.listed()
            elif request.get("op") == "busiest":
                reply = await busiest(
                    self.exchange, parse_count(request, "names", 1_000, MAX_NAMES)
                )
            else:
                reply = await asyncio.get_running_loop().run_in_executor(
                    self.thread, self._perform, request
                )
                if request.get("op") == "source rm":
                    self.sources.forget(str(request.get("source")))
            if request.get("wait") and "revision" in reply:
                reply["visible"] = await self._visible(reply["revision"])
        except RejectedChange as error:
            reply = {"error": "refused", "faults": error.faults}
        except NotOurs as error:
            reply = {"error": "not ours", "faults": [str(error)]} | (
                {"do": error.do} if error.do else {}
            )
        except (BadRequest, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            reply = {"error": "bad request", "faults": [str(error) or type(error).__name__]}
        except OSError as error:
            reply = {"error": "failed", "faults": [str(error)]}
        except Exception as error:  # No request may prevent the next one.
            reply = {"error": "failed", "faults": [f"{type(error).__name__}: {error}"]}
        await _send(writer, reply)

    def _perform(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.source is not None:
            raise follows(self.catalog, str(self.source))
        if self.writer is None:
            self.writer = Writer(self.catalog, self.rules)
        return perform(request, self.writer)

    async def _visible(self, revision: int) -> bool:
        """Wait until answers reflect *revision* or a later one; return whether they do."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT):
                while self._revision() < revision:
                    await self.changed.wait()
        return self._revision() >= revision

    def _explain_forward(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what the forwarder would do with `query` (hexadecimal), for an external name."""
        query = read_query(bytes.fromhex(str(request["query"])))
        if not isinstance(query, Query) or not query.labels or self.exchange.forwarder is None:
            raise BadRequest("`query` is not a DNS query that could be forwarded")
        return {"steps": self.exchange.forwarder.describe(query)}

    def _revision(self) -> int:
        return self.exchange.catalog.revision if self.exchange.catalog else 0

    async def _watch(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send the answer to `query` (hexadecimal) from `source`, now and after each change."""
        query, source = bytes.fromhex(str(request["query"])), bytes.fromhex(str(request["source"]))
        if not isinstance(read_query(query), Query):
            raise BadRequest("`query` is not a DNS query")
        if not reply_now(self.exchange, query, source):
            raise BadRequest(
                "only internal names can be watched: this query is forwarded or dropped"
            )
        disconnected = asyncio.ensure_future(reader.read(1))
        last = b""
        try:
            while not disconnected.done():
                # Read before the answer, so that a change during sending is not missed.
                changed = self.changed
                octets = reply_now(self.exchange, query, source)
                if octets != last:
                    await _send(writer, {"reply": octets.hex(), "revision": self._revision()})
                    last = octets
                waiting = asyncio.ensure_future(changed.wait())
                try:
                    await asyncio.wait({waiting, disconnected}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
        finally:
            disconnected.cancel()

    async def _queries(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send one in `sample` queries as they are answered.

        `skipped` counts the queries that arrived faster than they could be sent.
        """
        tap = Tap(parse_count(request, "sample", 1, 1_000_000_000))
        self.exchange.taps.add(tap)
        disconnected = asyncio.ensure_future(reader.read(1))
        try:
            while not disconnected.done():
                sample = asyncio.ensure_future(tap.queue.get())
                try:
                    await asyncio.wait({sample, disconnected}, return_when=asyncio.FIRST_COMPLETED)
                    if sample.done():
                        value = describe_sample(
                            sample.result(), self.exchange.catalog, self.exchange.rules
                        )
                        await _send(writer, {**value, "skipped": tap.skipped})
                finally:
                    sample.cancel()
        finally:
            disconnected.cancel()
            self.exchange.taps.remove(tap)


async def _send(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    """Write one line. Raises ConnectionError when the client has disconnected."""
    if writer.is_closing():  # uvloop would raise RuntimeError
        raise ConnectionResetError("the client has disconnected")
    writer.write(msgspec.json.encode(value) + b"\n")
    await writer.drain()
