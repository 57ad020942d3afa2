"""The UNIX socket that the command line speaks to: one JSON object a line, request and reply. Mode
0600.

    {"op": "write", "puts": [["machines", {"id": "…", "state": "stopped"}]], "wait": true}
    {"revision": 17, "rows": 1}
    {"op": "forward", "query": "…"}          what the forwarder knows of a question that is not ours
    {"steps": [["rule", "…"], ["cache", "…"], …]}

    {"op": "where"}                          for `dig` and `doctor`, which ask the server of a catalog
    {"listen": ["[::1]:1053", …], "admin": "127.0.0.1:9153", "console": null}

An error is {"error": what, "faults": [...]}. `watch` goes on: a line for each change of the answer,
until either ends. So does `queries`: a line for each question sampled. `busiest` tells what the
answer table counts, for `top`.
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

from internal_dns.admin.live import MAX_NAMES, busiest, described, positive
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
RETRY: Final = 1  # seconds until the socket is tried again
WAIT: Final = 10  # seconds until a change must be visible

_log = logging.getLogger("internal_dns")

Perform = Callable[[dict[str, Any]], dict[str, Any]]


class Api:
    """Serves the socket of one server. The writer is opened with the first request, and kept."""

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
        self.changed = (
            asyncio.Event()
        )  # of the catalog that answers now: set when another does, then replaced
        self.server: asyncio.Server | None = None
        self.path = socket_path(catalog)
        self.clients: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self.where: Callable[[], dict[str, Any]] = dict  # set by the server: where it listens

    async def start(self) -> None:
        """Listen. A socket that a killed server left behind is replaced; one that answers is
        not."""
        with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                if not stat.S_ISSOCK(self.path.stat().st_mode):
                    raise OSError(f"{self.path} is there, and is no socket") from None
                self.path.unlink()
            else:
                raise OSError(f"another server has {self.path}")
        await asyncio.get_running_loop().run_in_executor(self.thread, self._upgrade)
        mask = os.umask(0o177)
        try:
            self.server = await asyncio.start_unix_server(
                self._serve, str(self.path), limit=MAX_REQUEST
            )
        finally:
            os.umask(mask)

    async def take_over(self) -> None:
        """Serve write commands as soon as the server that does, on the same catalog, has left."""
        while self.server is None:
            await asyncio.sleep(RETRY)
            with contextlib.suppress(OSError):
                await self.start()
        _log.info("write commands are taken at %s", self.path)

    def _upgrade(self) -> None:
        """Give a file of ours what an older schema lacks, before it is loaded. Whoever follows a
        bucket does that itself.

        What stands in the way is told where it matters: by the load, or the first write.
        """
        with contextlib.suppress(OSError, NotOurs, UnusableCatalog, sqlite3.Error):
            if self.source is None and needs_upgrade(self.catalog):
                with Writer(self.catalog, self.rules):
                    _log.info("catalog %s: upgraded to the present schema", self.catalog)

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
            with contextlib.suppress(OSError):
                self.path.unlink()
        for writer in self.clients.values():
            writer.close()  # watchers see the end and leave
        if self.clients:
            await asyncio.wait(self.clients, timeout=1)
        await asyncio.get_running_loop().run_in_executor(self.thread, self._close_writer)
        self.thread.shutdown()

    def _close_writer(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def use(self, rules: CatalogRules) -> None:
        """Judge changes by *rules* from now on."""
        self.rules = rules
        if self.writer is not None:
            self.writer.rules = rules

    def notify(self) -> None:
        """Another catalog answers now."""
        passed, self.changed = self.changed, asyncio.Event()
        passed.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.clients[task] = writer
        try:
            while line := await reader.readline():
                await self._reply(line, reader, writer)
        except (OSError, ValueError):  # gone, or a line past the limit
            pass
        finally:
            del self.clients[task]
            writer.close()

    async def _reply(
        self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
            if going_on := {"watch": self._watch, "queries": self._queries}.get(
                str(request.get("op"))
            ):
                await going_on(request, reader, writer)
                return
            if request.get("op") == "forward":
                reply = self._told_forward(request)
            elif request.get("op") == "where":
                reply = self.where()
            elif request.get("op") == "busiest":
                reply = await busiest(self.exchange, positive(request, "names", 1_000, MAX_NAMES))
            else:
                reply = await asyncio.get_running_loop().run_in_executor(
                    self.thread, self._perform, request
                )
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
        except Exception as error:  # whatever a request brings about, the next one is answered
            reply = {"error": "failed", "faults": [f"{type(error).__name__}: {error}"]}
        await _send(writer, reply)

    def _perform(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.source is not None:
            raise follows(self.catalog, str(self.source))
        if self.writer is None:
            self.writer = Writer(self.catalog, self.rules)
        return perform(request, self.writer)

    async def _visible(self, revision: int) -> bool:
        """Wait until the server answers from *revision* or later."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT):
                while self._revision() < revision:
                    await self.changed.wait()
        return self._revision() >= revision

    def _told_forward(self, request: dict[str, Any]) -> dict[str, Any]:
        """Say what would become of `query` (hexadecimal), a question that is not ours."""
        query = read_query(bytes.fromhex(str(request["query"])))
        if not isinstance(query, Query) or not query.labels or self.exchange.forwarder is None:
            raise BadRequest("`query` is no DNS query that could be forwarded")
        return {"steps": self.exchange.forwarder.told(query)}

    def _revision(self) -> int:
        return self.exchange.catalog.revision if self.exchange.catalog else 0

    async def _watch(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send the answer to `query` (hexadecimal) from `source`, now and whenever it differs."""
        query, source = bytes.fromhex(str(request["query"])), bytes.fromhex(str(request["source"]))
        if not isinstance(read_query(query), Query):
            raise BadRequest("`query` is no DNS query")
        if not self.exchange.answer_for_watch(query, source):
            raise BadRequest(
                "only names of ours can be watched: this one is asked of an upstream, or dropped"
            )
        gone = asyncio.ensure_future(reader.read(1))
        last = b""
        try:
            while not gone.done():
                changed = self.changed  # before the answer: a change while it is sent is not missed
                octets = self.exchange.answer_for_watch(query, source)
                if octets != last:
                    await _send(writer, {"reply": octets.hex(), "revision": self._revision()})
                    last = octets
                waiting = asyncio.ensure_future(changed.wait())
                try:
                    await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
        finally:
            gone.cancel()

    async def _queries(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send one in `sample` questions as they are answered; `skipped` counts those that came too
        fast to send."""
        tap = Tap(positive(request, "sample", 1, 1_000_000_000))
        self.exchange.tap(tap)
        gone = asyncio.ensure_future(reader.read(1))
        try:
            while not gone.done():
                coming = asyncio.ensure_future(tap.queue.get())
                try:
                    await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
                    if coming.done():
                        told = described(
                            coming.result(), self.exchange.catalog, self.exchange.rules
                        )
                        await _send(writer, {**told, "skipped": tap.skipped})
                finally:
                    coming.cancel()
        finally:
            gone.cancel()
            self.exchange.untap(tap)


async def _send(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    """Write one line. Raises ConnectionError when nobody is there any more."""
    if writer.is_closing():  # uvloop would raise RuntimeError
        raise ConnectionResetError("the client is gone")
    writer.write(msgspec.json.encode(value) + b"\n")
    await writer.drain()
