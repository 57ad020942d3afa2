"""The edge of Docker and Podman: a server of our own speaks their API, well or badly."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from internal_dns.live import docker as module
from internal_dns.live.docker import Docker
from internal_dns.live.source import Snapshot, SourceAway, machine_key
from internal_dns.sources import Options


def container(number: int, **parts: Any) -> dict[str, Any]:
    return {
        "Id": f"{number:02x}" * 32,
        "Name": f"/c{number}",
        "State": {"Running": True},
        "Config": {"Labels": {}},
        "NetworkSettings": {
            "Networks": {"acme": {"GlobalIPv6Address": f"fdaa:0:18:1:1:0:{number:x}:2"}}
        },
    } | parts


class Engine(ThreadingUnixStreamServer):
    """Answers from `replies`, by path: status and body. `/events` sends the lines of `events`."""

    daemon_threads = True
    replies: dict[str, tuple[int, bytes]]
    events: list[bytes]
    events_status = 200

    def serve(self, *containers: dict[str, Any]) -> None:
        self.replies = {
            f"/containers/{one['Id']}/json": (200, json.dumps(one).encode()) for one in containers
        }
        listed = [{"Id": one["Id"]} for one in containers]
        self.replies["/containers/json?all=true"] = (200, json.dumps(listed).encode())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def do_GET(self) -> None:
        if self.path.startswith("/events"):
            self.send_response(self.server.events_status)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in self.server.events:
                self.wfile.write(f"{len(line) + 1:x}\r\n".encode() + line + b"\n\r\n")
            self.close_connection = True
            return
        status, body = self.server.replies.get(self.path, (404, b"{}"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with serving(tmp_path / "docker.sock") as made:
        yield made


@contextmanager
def serving(path: Path) -> Iterator[Engine]:
    with Engine(str(path), Handler) as server:
        server.serve()
        server.events = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def of(engine: Engine) -> Docker:
    return Docker(str(engine.server_address), Options(region="iad"))


def look(source: Docker) -> Snapshot:
    return asyncio.run(source.snapshot())


def test_every_container_is_inspected(engine: Engine) -> None:
    engine.serve(container(1), container(2))
    found = look(of(engine))
    assert set(found.objects) == {machine_key("010101010101"), machine_key("020202020202")}
    assert found.objects[machine_key("010101010101")]["name"] == "c1"
    assert found.notes == ()


def test_no_container_is_an_empty_snapshot(engine: Engine) -> None:
    assert look(of(engine)).objects == {}


def test_a_container_that_is_gone_meanwhile_is_gone(engine: Engine) -> None:
    engine.serve(container(1), container(2))
    del engine.replies[f"/containers/{'02' * 32}/json"]
    assert set(look(of(engine)).objects) == {machine_key("010101010101")}


LIST, ONE = "/containers/json?all=true", f"/containers/{'01' * 32}/json"


@pytest.mark.parametrize(
    ("path", "reply", "why"),
    [
        (LIST, (500, b"{}"), "HTTP 500"),
        (LIST, (200, b'[{"Id": "'), "not JSON"),
        (LIST, (200, b"{}"), "is no list"),
        (LIST, (200, b'[{"Name": "x"}]'), "without an id"),
        (LIST, (200, b'[{"Id": "ab"}]'), "without an id"),
        (LIST, (200, b"[7]"), "without an id"),
        (LIST, (200, b"[" * 100_000), "not JSON"),
        (ONE, (500, b"{}"), "HTTP 500"),
        (ONE, (200, b'{"Id": "01'), "not JSON"),
    ],
)
def test_a_snapshot_is_whole_or_none(
    engine: Engine, path: str, reply: tuple[int, bytes], why: str
) -> None:
    engine.serve(container(1), container(2))
    engine.replies[path] = reply
    with pytest.raises(SourceAway) as caught:
        look(of(engine))
    assert why in str(caught.value)


def test_a_reply_without_end_is_cut_off(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REPLY", 100)
    engine.replies[LIST] = (200, b"[" + b" " * 1000 + b"]")
    with pytest.raises(SourceAway, match="more than 100 octets"):
        look(of(engine))


def test_an_engine_that_is_not_there_is_away(tmp_path: Path) -> None:
    with pytest.raises(SourceAway, match="No such file"):
        look(Docker(str(tmp_path / "none"), Options()))


def test_an_engine_that_hangs_is_away(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    hang = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda _: hang.wait(10))
    try:
        with pytest.raises(SourceAway, match="timed out"):
            look(of(engine))
    finally:
        hang.set()


def test_a_malformed_container_keeps_the_rows_it_had(engine: Engine) -> None:
    networks = {"a": {"GlobalIPv6Address": "fdaa:0:18:1:1:0:1:2"},
                "b": {"GlobalIPv6Address": "fdaa:0:19:1:1:0:1:2"}}  # fmt: skip
    both = container(1, NetworkSettings={"Networks": networks})
    engine.serve(both, container(2))
    source = of(engine)
    assert len(look(source).objects) == 3
    engine.replies[ONE] = (200, b'{"Id": 7}')
    found = look(source)
    assert set(found.objects) == {machine_key("020202020202")}
    assert found.unreadable == {machine_key("010101010101"), machine_key("010101010101-19")}
    assert "its row stays as it is" in found.notes[0]
    with pytest.raises(SourceAway, match="container 010101010101 cannot be read"):
        look(of(engine))  # one that starts now does not know which rows are its


def test_a_container_that_exits_keeps_its_rows_as_stopped(engine: Engine) -> None:
    engine.serve(container(1))
    source = of(engine)
    look(source)
    gone = {"Networks": {"acme": {"GlobalIPv6Address": ""}}}
    engine.serve(container(1, State={"Running": False}, NetworkSettings=gone))
    found = look(source)
    assert found.objects == {}
    assert found.stopped == {machine_key("010101010101")}


def test_a_socket_is_closed_after_each_look(engine: Engine) -> None:
    engine.serve(container(1))
    source = of(engine)
    look(source)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        look(source)
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # the engine's side may still close


# ── hints ─────────────────────────────────────────────────────────────────────────────────────────


def hints(source: Docker) -> int:
    async def count() -> int:
        found = 0
        async with aclosing(source.changes()) as changes, asyncio.timeout(10):
            async for _ in changes:
                found += 1
        return found

    return asyncio.run(count())


def test_there_is_a_hint_when_subscribed_and_for_each_event(engine: Engine) -> None:
    engine.events = [b'{"Action": "start"}', b'{"status": "died"}', b'{"Action": "no one knows"}']
    assert hints(of(engine)) == 4


def test_commands_of_health_checks_are_no_hints(engine: Engine) -> None:
    engine.events = [b'{"Action": "exec_create: /check"}', b'{"status": "exec_die"}']
    assert hints(of(engine)) == 1


def test_a_label_cannot_hide_an_event(engine: Engine) -> None:
    event = {"Action": "die", "Actor": {"Attributes": {"Action": "exec_die", "x": '"exec'}}}
    engine.events = [json.dumps(event).encode()]
    assert hints(of(engine)) == 2


def test_an_event_that_cannot_be_read_is_a_hint(engine: Engine) -> None:
    engine.events = [b'{"Action": 7}', b"{not json", b'{"Action": "\xff"}']
    assert hints(of(engine)) == 4


def test_an_event_past_every_limit_ends_the_stream(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_EVENT", 1024)
    engine.events = [b'{"Action": "' + b"x" * 5000 + b'"}', b'{"Action": "start"}']
    assert hints(of(engine)) == 1


def test_without_events_there_are_no_hints(engine: Engine, tmp_path: Path) -> None:
    engine.events_status = 404
    assert hints(of(engine)) == 0
    assert hints(Docker(str(tmp_path / "none"), Options())) == 0
