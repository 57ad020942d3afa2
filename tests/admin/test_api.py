"""The socket that the command line speaks to: every line gets its reply, whatever the line is."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import socket
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import dns.message
import pytest

from internal_dns.admin import api as api_module
from internal_dns.admin.api import Api
from internal_dns.admin.live import busiest, describe_sample
from internal_dns.core.catalog import Catalog
from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.core.journey import Rules
from internal_dns.core.relayed import Relayed
from internal_dns.metrics import Metrics
from internal_dns.net import socket_path
from internal_dns.store import writer as writing
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import Loaded, load
from internal_dns.store.watch import Watcher
from internal_dns.store.writer import Writer
from internal_dns.transport.answer import Exchange
from internal_dns.transport.tap import Tap
from tests.core.messages import AAAA, A, ip, loaded, opt, query

STOP = {"op": "write", "puts": [["machines", {"id": "3d8d9930b03989", "state": "stopped"}]]}
START = {"op": "write", "puts": [["machines", {"id": "3d8d9930b03989", "state": "started"}]]}
MACHINE = {"network_id": 24, "app": "web", "region": "iad", "state": "started"}
ASKER = ip("fdaa:0:18:a7b:7d:f066:b83b:2")


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, request: object) -> None:
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.writer.write(line + b"\n")
        await self.writer.drain()

    async def line(self, seconds: float = 20) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            line = await self.reader.readline()
        assert line, "the server closed the connection"
        reply = json.loads(line)
        assert isinstance(reply, dict)
        return reply

    async def ask(self, request: object) -> dict[str, Any]:
        await self.send(request)
        return await self.line()

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


class Running:
    """What of a server has to do with the socket: the watcher, what answers, and the socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.exchange = Exchange(Rules(), Metrics())
        self.api = Api(path, self.exchange, CatalogRules())
        self.watcher = Watcher(path, self._apply)
        self.troubles: list[str] = []

    def _apply(self, loaded: Loaded) -> None:
        self.exchange.use(loaded.catalog)
        self.api.notify()

    async def connect(self) -> Client:
        return Client(*await asyncio.open_unix_connection(str(self.api.path), limit=64 << 20))

    async def ask(self, request: object) -> dict[str, Any]:
        client = await self.connect()
        try:
            return await client.ask(request)
        finally:
            await client.close()

    async def until(self, what: Callable[[], bool], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not what():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Running]:
    """Serve the socket of *path*; fails if anything went wrong in the background."""
    found = Running(path)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda _, context: found.troubles.append(
            f"{context['message']}: {context.get('exception')!r}"
        )
    )
    watching = loop.create_task(found.watcher.run())
    try:
        await found.api.start()
        await found.until(lambda: found.exchange.catalog is not None)
        yield found
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await found.api.close()
        await asyncio.sleep(0.01)
        gc.collect()
    assert not found.troubles, found.troubles


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_catalog(tmp_path / "catalog.db", demo_rows())
    return tmp_path / "catalog.db"


def state(path: Path, ident: str = "3d8d9930b03989") -> str:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT state FROM machines WHERE id = ?", (ident,)).fetchone()
    return str(found[0]) if found else "none"


def refused(reply: dict[str, Any], word: str) -> list[str]:
    """The faults of an error reply of that kind."""
    assert reply.keys() == {"error", "faults"}, reply
    assert reply["error"] == word, reply
    assert reply["faults"]
    assert all(isinstance(fault, str) and fault for fault in reply["faults"]), reply
    return list(reply["faults"])


# ── the socket ────────────────────────────────────────────────────────────────────────────────────


def test_only_its_owner_may_open_the_socket(path: Path) -> None:
    async def story() -> None:
        mask = os.umask(0)
        try:
            async with running(path) as server:
                found = os.stat(server.api.path)
                assert stat.S_ISSOCK(found.st_mode)
                assert stat.S_IMODE(found.st_mode) == 0o600
                assert server.api.path == path.with_name("catalog.db.sock")
                assert os.umask(0) == 0  # as it was
        finally:
            os.umask(mask)
        assert not socket_path(path).exists()

    run(story())


def test_a_socket_that_a_killed_server_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(socket_path(path)))

    async def story() -> None:
        async with running(path) as server:
            assert (await server.ask(STOP))["rows"] == 1

    run(story())


def test_the_socket_of_a_living_server_stays_its_own(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            second = Running(path)
            with pytest.raises(OSError, match="another server listens on"):
                await second.api.start()
            await second.api.close()
            assert (await server.ask(STOP))["rows"] == 1

    run(story())


def test_what_is_no_socket_is_not_removed(path: Path) -> None:
    socket_path(path).write_text("someone's file")

    async def story() -> None:
        server = Running(path)
        with pytest.raises(OSError):
            await server.api.start()
        await server.api.close()

    run(story())
    assert socket_path(path).read_text() == "someone's file"


# ── requests that make no sense ───────────────────────────────────────────────────────────────────

NONSENSE: list[Any] = [
    b"", b"{", b"null", b"[]", b"7", b'"write"', b"\xff\xfe", b'{"op": "write"} x', b'{"op": NaN}',
    b"{" * 100_000,
    b"[" * 100_000, b'{"op": "\\ud800"}', b"GET / HTTP/1.1\r", {}, {"op": None}, {"op": []},
    {"op": "drop"},
    {"op": "__class__"}, {"op": "write", "puts": 7}, {"op": "write", "puts": [7]},
    {"op": "write", "puts": ["ab"]},
    {"op": "write", "puts": [["machines"]]}, {"op": "write", "puts": [["machines", 7]]},
    {"op": "write", "puts": [["machines", {}]]},
    {"op": "write", "puts": [["machines", {"id": "x"}, 1]]},
    {"op": "write", "puts": [["journal", {"revision": 1}]]},
    {"op": "write", "puts": [[["machines"], {"id": 1}]]},
    {"op": "write", "puts": {"machines": {"id": "x"}}},
    {"op": "write", "deletes": [["machines", {}]]},
    {"op": "write", "deletes": [["nope", {"id": 1}]]},
    {"op": "write", "deletes": None, "puts": None},
    {"op": "write", "new": [["nope", {}]]}, {"op": "write", "new": [["machines", []]]},
    {"op": "write", "new": [["machines", 7]]}, {"op": "write", "new": 7},
    {"op": "write", "old": [["machines", None]]},
    {"op": "write", "old": [["machines", {"nope": 1}]]},
    {"op": "apply", "text": 7}, {"op": "apply", "text": "networks = 7"},
    {"op": "apply", "text": "[", "kind": "json"},
    {"op": "apply", "text": "{}", "kind": "yaml"}, {"op": "apply", "text": "{}", "kind": 7},
    {"op": "apply", "text": "{" * 50_000, "kind": "json"},
    {"op": "apply", "text": "a=" + "[" * 50_000, "kind": "toml"},
    {"op": "watch"}, {"op": "watch", "query": "00"}, {"op": "watch", "source": "00"},
    {"op": "watch", "query": "zz", "source": "00"}, {"op": "watch", "query": 7, "source": None},
    {"op": "watch", "query": "", "source": "00" * 16},
    {"op": "watch", "query": "ff" * 40, "source": "00" * 16},
    {"op": "queries", "sample": 0}, {"op": "queries", "sample": "1"},
    {"op": "queries", "sample": True},
    {"op": "busiest", "names": 0}, {"op": "busiest", "names": 10_001},
    {"op": "busiest", "names": None},
]  # fmt: skip


@pytest.mark.parametrize("request_", NONSENSE, ids=lambda r: repr(r)[:60])
@pytest.mark.slow
def test_a_request_without_sense_gets_an_error_and_the_next_one_is_served(
    path: Path, request_: Any
) -> None:
    async def story() -> None:
        async with running(path) as server:
            reply = await server.ask(request_)
            assert reply.get("error") in ("bad request", "refused", "failed"), reply
            assert refused(reply, reply["error"])
            assert (await server.ask(STOP))["rows"] == 1

    run(story())
    assert state(path) == "stopped"


VALUES: list[Any] = [
    1 << 40, 1 << 63, 1 << 70, -(1 << 70), 1e400, -1.5, True, None, [], {}, [1], {"a": 1}, "\0",
    "\ud800",
    "x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda v: repr(v)[:20])
@pytest.mark.parametrize(
    "column", ["id", "network_id", "app", "address", "region", "process_group"]
)
@pytest.mark.slow
def test_a_value_of_any_kind_is_refused_in_words(path: Path, column: str, value: Any) -> None:
    row = {"id": "new", "address": "fdaa:0:18:a7b:7d:7:7:2", **MACHINE, column: value}

    async def story() -> None:
        async with running(path) as server:
            for key in ("puts", "deletes", "new", "old"):
                named = row if key == "puts" else {column: value}
                request = json.dumps({"op": "write", key: [["machines", named]]}).replace(
                    "Infinity", "1e400"
                )
                reply = await server.ask(request.encode())
                if "error" in reply:
                    refused(reply, reply["error"])
                else:
                    # There is no such row to delete; and SQLite makes text of a number where text
                    # belongs.
                    assert key in ("deletes", "new") or isinstance(value, int), (key, reply)

    run(story())
    assert state(path) == "started"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM machines").fetchone()[0] in (
            80,
            80 + isinstance(value, int),
        )
    assert load(path).fault_count == 0


def test_several_requests_may_come_at_once_over_one_connection(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            client = await server.connect()
            for request in (STOP, b"{", START, {"op": "nope"}, STOP):
                await client.send(request)
            replies = [await client.line() for _ in range(5)]
            assert [reply.get("rows", reply.get("error")) for reply in replies] == [
                1,
                "bad request",
                1,
                "bad request",
                1,
            ]
            await client.close()

    run(story())


def test_a_client_that_goes_in_the_middle_of_a_line_harms_nobody(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            for part in (b"", b'{"op": "wri', json.dumps(STOP).encode()):
                client = await server.connect()
                client.writer.write(part)
                await client.writer.drain()
                await client.close()
            assert (await server.ask(START))["revision"]

    run(story())


def test_a_line_past_the_limit_ends_the_connection_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "MAX_REQUEST", 10_000)

    async def story() -> None:
        async with running(path) as server:
            client = await server.connect()
            client.writer.write(b"x" * 100_000)
            assert await client.reader.read() == b""
            await client.close()
            assert (await server.ask(STOP))["rows"] == 1

    run(story())


@pytest.mark.slow
def test_a_request_of_five_megabytes_is_served(path: Path) -> None:
    async def story() -> None:
        puts = [
            [
                "machine_metadata",
                {"machine_id": "3d8d9930b03989", "key": f"k{n}", "value": "v" * 1_000},
            ]
            for n in range(5_000)
        ]
        async with running(path) as server:
            reply = await server.ask({"op": "write", "puts": puts, "wait": True})
            assert (reply["rows"], reply["visible"]) == (5_000, True)

    run(story())


# ── writing ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_write_that_waits_returns_when_it_is_visible(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            for number in range(20):
                wanted = ("stopped", "started")[number % 2]
                reply = await server.ask({**(STOP, START)[number % 2], "wait": True})
                assert reply == {"revision": number + 2, "rows": 1, "visible": True}
                assert server.exchange.catalog is not None
                network = server.exchange.catalog.networks[24]  # type: ignore[index]
                assert network.apps[b"web"].by_id[b"3d8d9930b03989"].state == wanted.encode()

    run(story())


@pytest.mark.parametrize(
    ("request_", "rows"),
    [
        (START, 0),
        ({"op": "write"}, 0),
        ({"op": "write", "puts": [["meta", {"key": "a", "value": "b"}]]}, 1),
        ({"op": "write", "puts": [["organizations", {"slug": "acme", "name": "b"}]]}, 1),
        ({"op": "write", "puts": [["apps", {"network_id": 24, "name": "web"}]]}, 0),
        ({"op": "write", "deletes": [["machines", {"id": "nobody"}]]}, 0),
    ],
    ids=str,
)
@pytest.mark.slow
def test_a_write_that_changes_no_answer_is_visible_at_once(
    path: Path, request_: dict[str, Any], rows: int
) -> None:
    async def story() -> None:
        async with running(path) as server:
            async with asyncio.timeout(3):
                reply = await server.ask({**request_, "wait": True})
            assert (reply["rows"], reply["visible"]) == (rows, True)

    run(story())


def test_a_change_that_is_not_visible_in_time_is_said_to_be_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "WAIT", 0.1)

    async def story() -> None:
        async with running(path) as server:
            monkeypatch.setattr(server.exchange, "use", lambda catalog: None)
            reply = await server.ask({**STOP, "wait": True})
            assert (reply["rows"], reply["visible"]) == (1, False)

    run(story())


def test_a_refused_write_names_every_fault(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            bad = {"id": "bad id", "address": "fdaa:0:18::9", **MACHINE}
            far = {"id": "far", "address": "fdaa:0:19::9", **MACHINE}
            reply = await server.ask(
                {"op": "write", "puts": [["machines", bad], ["machines", far]]}
            )
            assert len(refused(reply, "refused")) == 2
            there = {"op": "write", "new": [["machines", {"id": "3d8d9930b03989"}]]}
            assert "already exists" in refused(await server.ask(there), "refused")[0]
            absent = {**STOP, "old": [["machines", {"id": "nobody"}]]}
            assert "does not exist" in refused(await server.ask(absent), "refused")[0]

    run(story())
    assert state(path) == "started"


def test_who_writes_beside_the_server_is_named(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            with Writer(path):
                reply = await server.ask(STOP)
                assert "another internal-dns process is writing" in refused(reply, "not ours")[0]
            assert (await server.ask(STOP))["rows"] == 1  # and when it has gone it is served

    run(story())


def test_a_shell_that_holds_the_file_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BUSY_TIMEOUT", 0.1)

    async def story() -> None:
        async with running(path) as server:
            with closing(sqlite3.connect(path, isolation_level=None)) as shell:
                shell.execute("BEGIN IMMEDIATE")
                assert "locked" in refused(await server.ask(STOP), "failed")[0]
            assert (await server.ask(STOP))["rows"] == 1

    run(story())


def test_a_file_that_is_not_there_yet_is_an_error_until_it_is(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "later.db"
        server = Running(path)
        await server.api.start()
        try:
            assert refused(await server.ask(STOP), "failed")
            path.touch()
            assert refused(await server.ask(STOP), "failed")
            path.unlink()
            create_catalog(path, demo_rows())
            assert (await server.ask(STOP))["rows"] == 1
        finally:
            await server.api.close()

    run(story())


def test_a_write_reaches_the_file_that_has_taken_the_place_of_ours(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "WAIT", 1)

    async def story() -> None:
        async with running(path) as server:
            assert (await server.ask({**STOP, "wait": True}))["visible"]
            catalog = server.exchange.catalog
            create_catalog(path, demo_rows(), replace=True)
            await server.until(lambda: server.exchange.catalog is not catalog)
            reply = await server.ask({**STOP, "wait": True})
            assert (reply["rows"], reply["visible"]) == (1, True)
            assert state(path) == "stopped"

    run(story())


def test_a_restored_backup_does_not_deceive_who_waits(path: Path, tmp_path: Path) -> None:
    """Its revision is lower than what the server has answered from: that is not what was waited
    for."""
    shutil.copy(path, backup := tmp_path / "backup.db")

    async def story() -> None:
        async with running(path) as server:
            for number in range(6):
                await server.ask({**(STOP, START)[number % 2], "wait": True})
            catalog = server.exchange.catalog
            assert catalog is not None
            with (
                closing(sqlite3.connect(backup)) as source,
                closing(sqlite3.connect(path)) as target,
            ):
                source.backup(target)  # what it holds is equal to what is answered now
            loads = server.watcher.loads
            await server.until(lambda: server.watcher.loads > loads)
            for number in range(6):
                wanted = ("stopped", "started")[number % 2]
                reply = await server.ask({**(STOP, START)[number % 2], "wait": True})
                assert (reply["rows"], reply["visible"]) == (1, True)
                assert server.exchange.catalog is not None
                app = server.exchange.catalog.networks[24].apps[b"web"]  # type: ignore[index]
                assert app.by_id[b"3d8d9930b03989"].state == wanted.encode()

    run(story())


def test_a_watcher_that_reads_slowly_gets_the_last_answer(path: Path) -> None:
    """What changes while a line is being sent must not be missed."""

    async def story() -> None:
        async with running(path) as server:
            slow = asyncio.Event()
            send = api_module._send
            held: list[int] = []

            async def _slowly(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
                if "reply" in value and len(held) == 1:
                    held.append(2)
                    await slow.wait()
                elif "reply" in value:
                    held.append(1)
                await send(writer, value)

            patch = pytest.MonkeyPatch()
            patch.setattr(api_module, "_send", _slowly)
            try:
                client = await server.connect()
                count = shown(await client.ask(watch()))
                await server.ask({**STOP, "wait": True})
                await server.until(lambda: len(held) == 2)
                await server.ask({**START, "wait": True})
                slow.set()
                assert shown(await client.line()) == count - 1
                assert shown(await client.line()) == count
                await client.close()
            finally:
                patch.undo()

    run(story())


def test_two_clients_write_at_once(path: Path) -> None:
    async def client(server: Running, number: int) -> int:
        connection = await server.connect()
        rows = 0
        for rotation in range(20):
            row = {
                "id": f"c{number}",
                "address": f"fdaa:0:18:a7b:7d:7:{number + 1}:2",
                **MACHINE,
                "region": f"r{rotation}",
            }
            reply = await connection.ask(
                {"op": "write", "puts": [["machines", row]], "wait": rotation % 5 == 0}
            )
            rows += reply["rows"]
        await connection.close()
        return rows

    async def story() -> None:
        async with running(path) as server:
            assert (
                await asyncio.gather(*(client(server, number) for number in range(4))) == [20] * 4
            )

    run(story())


def test_a_client_that_waits_holds_up_nobody(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            use = server.exchange.use
            server.exchange.use = lambda catalog: None  # type: ignore[method-assign]
            waiting = await server.connect()
            await waiting.send({**STOP, "wait": True})
            await server.until(lambda: state(path) == "stopped")
            assert (await server.ask(START))["rows"] == 1
            server.exchange.use = use  # type: ignore[method-assign]
            assert (await server.ask(STOP))["rows"] == 1
            assert (await waiting.line())["visible"] is True
            await waiting.close()

    run(story())


# ── watching ──────────────────────────────────────────────────────────────────────────────────────


def watch(name: str = "web.internal", rdtype: int = AAAA, source: bytes = ASKER) -> dict[str, str]:
    return {"op": "watch", "query": query(name, rdtype).hex(), "source": source.hex()}


def shown(line: dict[str, Any]) -> int:
    """How many RRs the watched answer has."""
    assert line.keys() == {"reply", "revision"}, line
    message = dns.message.from_wire(bytes.fromhex(line["reply"]))
    return sum(len(rrset) for rrset in message.answer)


def test_a_watched_answer_comes_at_once_and_with_each_change(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            client = await server.connect()
            count = shown(await client.ask(watch()))
            assert count >= 5
            for number in range(10):
                revision = (await server.ask((STOP, START)[number % 2]))["revision"]
                line = await client.line()
                assert (shown(line), line["revision"]) == (count - (number % 2 == 0), revision)
            await client.close()

    run(story())


@pytest.mark.slow
def test_a_watcher_hears_nothing_of_other_changes(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            client = await server.connect()
            await client.ask(watch("db.internal"))
            for number in range(6):
                await server.ask({**(STOP, START)[number % 2], "wait": True})
            with pytest.raises(TimeoutError):
                await client.line(0.1)
            await client.close()

    run(story())


def test_many_watchers_all_hear_of_a_change(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            clients = [await server.connect() for _ in range(50)]
            counts = [shown(await client.ask(watch())) for client in clients]
            await server.ask(STOP)
            assert [shown(await client.line()) for client in clients] == [
                count - 1 for count in counts
            ]
            for client in clients:
                await client.close()

    run(story())


def test_a_watch_ends_when_the_client_goes(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            before = len(asyncio.all_tasks())
            for _ in range(5):
                client = await server.connect()
                await client.ask(watch())
                await client.close()
            await server.until(lambda: len(asyncio.all_tasks()) <= before)
            assert (await server.ask({**STOP, "wait": True}))["visible"]

    run(story())


def test_a_watcher_of_another_network_sees_its_own_answer(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            globex = await server.connect()
            line = await globex.ask(watch(source=ip("fdaa:0:19:a7b:7d:1:1:2")))
            assert "fdaa:0:18:" not in str(dns.message.from_wire(bytes.fromhex(line["reply"])))
            await server.ask({**STOP, "wait": True})
            with pytest.raises(TimeoutError):
                await globex.line(0.1)
            await globex.close()

    run(story())


def test_what_cannot_be_watched_is_said(path: Path) -> None:
    """A name that an upstream would have to be asked for has no answer here."""

    async def story() -> None:
        async with running(path) as server:
            client = await server.connect()
            reply = await client.ask(watch("example.com", A))
            assert "error" in reply or "reply" in reply
            await client.close()

    run(story())


# ── who is busy, and with what ────────────────────────────────────────────────────────────────────


def test_hits_are_counted_by_name_and_by_network_and_a_networks_never_fall(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            for name, times in (("web.internal", 5), ("db.internal", 3)):
                for _ in range(times + 1):
                    server.exchange.handle(query(name), ASKER, ip("fdaa::3"), 4_000)
            told = await server.ask({"op": "busiest", "names": 1})
            assert told["names"] == [
                {"network": "acme", "name": "web.internal", "type": "AAAA", "hits": 5}
            ]
            assert told["networks"] == [{"network": "acme", "hits": 8, "decided": 2}]
            assert (told["repeated"], told["decided"]) == (8, 2)
            await server.ask({**STOP, "wait": True})
            told = await server.ask({"op": "busiest"})
            assert [(n["name"], n["hits"]) for n in told["names"]] == [("db.internal", 3)]
            server.exchange.handle(query("web.internal"), ip("2001:db8::1"), ip("fdaa::3"), 4_000)
            told = await server.ask({"op": "busiest"})
            assert told["networks"] == [
                {"network": "acme", "hits": 8, "decided": 2},
                {"network": "(outside)", "hits": 0, "decided": 1},
            ]

    run(story())


def test_what_was_decided_for_a_network_that_has_gone_is_forgotten() -> None:
    exchange = Exchange(Rules(), Metrics())
    exchange.use(loaded(rows=demo_rows()).catalog)
    exchange.handle(query("web.internal"), ASKER, ip("fdaa::3"), 4_000)
    exchange.handle(query("web.internal"), ip("2001:db8::1"), ip("fdaa::3"), 4_000)
    assert exchange.counting.decided == {ASKER[2:6]: 1, b"": 1}
    exchange.use(Catalog())
    assert exchange.counting.decided == {b"": 1}


def test_questions_are_shown_while_somebody_looks_and_cost_nothing_after(path: Path) -> None:
    async def story() -> None:
        async with running(path) as server:
            client = await server.connect()
            await client.send({"op": "queries"})
            await server.until(lambda: bool(server.exchange.taps))
            server.exchange.handle(query("web.internal"), ASKER, ip("fdaa::3"), 4_000)
            line = await client.line()
            assert (line["network"], line["name"], line["how"], line["skipped"]) == (
                "acme",
                "web.internal",
                "decided",
                0,
            )
            await client.close()
            await server.until(lambda: not server.exchange.taps)
            watched = server.exchange.answers.hits
            server.exchange.handle(query("web.internal"), ASKER, ip("fdaa::3"), 4_000)
            assert server.exchange.answers.hits == watched + 1

    run(story())


@pytest.mark.parametrize(
    ("octets", "source", "expected"),
    [
        (query("web.internal"), ASKER, ("acme", "web.internal", "AAAA", "NOERROR")),
        (
            query("nosuch.internal", 65_280),
            ASKER,
            ("acme", "nosuch.internal", "TYPE65280", "NXDOMAIN"),
        ),
        (
            query("web.internal", AAAA, opt(version=1)),
            ASKER,
            ("acme", "web.internal", "AAAA", "BADVERS"),
        ),
        (query("web.internal")[:-1], ASKER, ("acme", None, None, "FORMERR")),
        (query("web.internal"), ip("2001:db8::1"), (None, "web.internal", "AAAA", "REFUSED")),
        (query("web.internal"), ip("fdaa:0:77::2"), ("119", "web.internal", "AAAA", "NXDOMAIN")),
        (
            query((b"a.b\x1b", b"internal")),
            ASKER,
            ("acme", "a\\x2eb\\x1b.internal", "AAAA", "NXDOMAIN"),
        ),
        (b"x", ASKER, (None, None, None, None)),
    ],
)
def test_a_shown_question_says_who_asked_what_and_got_what(
    octets: bytes, source: bytes, expected: tuple[str | None, ...]
) -> None:
    async def story() -> None:
        exchange, tap = Exchange(Rules(), Metrics()), Tap()
        exchange.use(loaded(rows=demo_rows()).catalog)
        exchange.taps.add(tap)
        exchange.handle(octets, source, ip("fdaa::3"), 4_000)
        sample = tap.queue.get_nowait()
        assert sample.reply is None or len(sample.reply) == 12
        said = describe_sample(sample, exchange.catalog, exchange.rules)
        assert (said["network"], said["name"], said["type"], said["rcode"]) == expected

    run(story())


def test_a_reader_that_is_too_slow_is_told_how_much_it_missed() -> None:
    async def story() -> None:
        exchange, tap = Exchange(Rules(), Metrics()), Tap(size=2)
        exchange.taps.add(tap)
        for _ in range(7):
            exchange.handle(query("web.internal"), ASKER, ip("fdaa::3"), 4_000)
        assert (tap.queue.qsize(), tap.skipped) == (2, 5)
        exchange.taps.remove(tap)

    run(story())


def test_one_in_so_many_is_by_chance() -> None:
    draws = iter([0.0, 0.24, 0.25, 0.26, 0.99])
    tap = Tap(4, draw=lambda: next(draws))
    assert [tap.wants() for _ in range(5)] == [True, True, False, False, False]


def test_of_what_the_native_path_shows_each_tap_takes_its_part() -> None:
    class Watched:
        """Stands for the native table, and hears how many it is to show."""

        every: ClassVar[list[int]] = []
        table = SimpleNamespace(bound=0)

        def watch(self, every: int) -> None:
            self.every.append(every)

    async def story() -> None:
        exchange = Exchange(Rules(), Metrics(), mirror=cast("Any", Watched()))
        half, tenth = (
            Tap(2),
            Tap(10, draw=iter([0.19, 0.2]).__next__),
        )  # one in five of those that `half` takes
        exchange.taps.add(tenth)
        exchange.taps.add(half)
        for _ in range(2):
            exchange.taps.show_native(query("web.internal"), ASKER, ip("fdaa::3"), bytes(12))
        assert (half.queue.qsize(), tenth.queue.qsize()) == (2, 1)
        sample = half.queue.get_nowait()
        assert (sample.octets, sample.how, sample.reply) == (
            query("web.internal"),
            "repeated",
            bytes(12),
        )
        exchange.taps.skip_native(50)
        assert (half.skipped, tenth.skipped) == (50, 10)
        exchange.taps.remove(half)
        exchange.taps.remove(tenth)
        assert Watched.every == [10, 2, 10, 0]

    run(story())


def test_what_upstreams_said_is_one_name_for_all_networks(path: Path) -> None:
    async def story() -> None:
        exchange = Exchange(Rules(), Metrics())
        exchange.use(loaded(rows=demo_rows()).catalog)
        reply = Relayed(0, False, (0, 0), b"", (), 60)
        for variant in (0, 1):
            exchange.answers.remember_relayed(b"\7example\0", A, variant, reply, 0, 1e12, 1e12)
        for octets in (query("example", A), query("example", A), query("example", A, opt(do=True))):
            exchange.handle(octets, ASKER, ip("fdaa::3"), 4_000)
        told = await busiest(exchange, 10)
        assert told["names"] == [
            {"network": "(forwarded)", "name": "example", "type": "A", "hits": 3}
        ]
        assert told["networks"] == [{"network": "(forwarded)", "hits": 3, "decided": 0}]

    run(story())
