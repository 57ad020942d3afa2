"""Live sources with real parts: WireGuard interfaces in a namespace, and buckets in a real
nats-server that three hosts follow."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from internal_dns.store.generate import create_catalog
from tests import commands, nats_servers
from tests.container.engine import Follower
from tests.live.hosts import PROGRAM, Host, serving, shows, until
from tests.nats_servers import NatsServer, nats_server
from tests.tools import requires_root, requires_tool

pytestmark = [pytest.mark.live, pytest.mark.slow]

SOON = 20.0  # seconds, on a busy machine
NETWORKS = [(24, "acme", ""), (25, "globex", "")]


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.db"
    create_catalog(path, {"networks": NETWORKS, "regions": [("iad", "", 1.0, 1.0, 0)]})
    return path


@contextmanager
def following(*words: object) -> Iterator[Follower]:
    follower = Follower(*map(str, words))
    try:
        yield follower
    finally:
        follower.close()


def rows(catalog: Path, table: str = "machine") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = commands.run(table, "list", "--catalog", catalog, "--json").json
    return found


# ── WireGuard ─────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def interface(host: Host) -> Iterator[None]:
    """A WireGuard interface in user space."""
    with subprocess.Popen(
        host.within("wireguard-go", "--foreground", "wg0"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            until(lambda: "wg0" in host.run("wg", "show", "interfaces", fails=True), SOON)
            yield
        finally:
            process.terminate()


@requires_root()
@requires_tool("wg", "wireguard-go")
def test_peers_come_and_go(catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host("gateway")
    try:
        with interface(host):
            keys = [
                subprocess.run(
                    ("wg", "pubkey"), input=host.run("wg", "genkey"), capture_output=True,
                    text=True, check=True,
                ).stdout.strip()
                for _ in range(2)
            ]  # fmt: skip
            for number, key in enumerate(keys):
                address = f"fdaa:0:18:a7b:7d:0:{number + 1}:102/128"
                host.run("wg", "set", "wg0", "peer", key, "allowed-ips", address)
            monkeypatch.setattr("tests.container.engine.PROGRAM", host.within(*PROGRAM))
            with following(
                "wireguard", "--name", "gw", "--offline", "--catalog", catalog
            ) as follower:
                until(lambda: len(rows(catalog, "peer")) == 2, SOON)
                assert {row["source"] for row in rows(catalog, "peer")} == {"gw"}
                host.run("wg", "set", "wg0", "peer", keys[0], "remove")
                until(lambda: len(rows(catalog, "peer")) == 1, SOON)
                assert follower.process.poll() is None
                assert not [key for key in keys if key in follower.stderr()]
    finally:
        host.close()


# ── buckets ───────────────────────────────────────────────────────────────────────────────────────


def document(*numbers: int) -> str:
    machines = [
        {"id": f"d{n}", "address": f"fdaa:0:18:1:1:0:{n:x}:2", "region": "iad", "state": "started"}
        for n in numbers
    ]
    return json.dumps({"networks": {"acme": {"id": 24, "apps": {"web": {"machines": machines}}}}})


class Hub:
    """A bucket, and a directory to follow."""

    def __init__(self, nats: NatsServer, folder: Path, catalog: Path) -> None:
        self.nats, self.url = nats, f"nats://127.0.0.1:{nats.port}/catalog"
        self.source = nats_servers.source(nats)
        self.folder = folder / "documents"
        self.folder.mkdir()
        said = commands.run("publish", "--to", self.url, "--catalog", catalog)
        assert said.code == 0, said.err

    def write(self, *numbers: int) -> None:
        (self.folder / ".new").write_text(document(*numbers))
        (self.folder / ".new").replace(self.folder / "a.json")

    def words(self, name: str = "git") -> tuple[object, ...]:
        return "directory", self.folder, "--name", name, "--to", self.url

    def fleet(self) -> dict[str, Any]:
        said = commands.run("fleet", "status", "--source", self.url, "--json")
        return {one["source"]: one for one in said.json["sources"]}


@pytest.fixture
def hub(tmp_path: Path, catalog: Path) -> Iterator[Hub]:
    with nats_server(tmp_path / "nats") as nats:
        yield Hub(nats, tmp_path, catalog)


@requires_tool("nats-server")
def test_three_hosts_see_what_one_follower_writes(hub: Hub, tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = []
        for number in range(3):
            path = tmp_path / f"host-{number}" / "catalog.db"
            path.parent.mkdir()
            servers.append(stack.enter_context(serving(path, "--source", hub.url)))
        hub.write(1, 2, 3)
        follower = stack.enter_context(following(*hub.words()))
        for server in servers:
            until(lambda s=server: shows(s, "web.internal", 3), SOON)  # type: ignore[misc]
        hub.write(2, 3, 4, 5)
        for server in servers:
            until(lambda s=server: shows(s, "web.internal", 4), SOON)  # type: ignore[misc]
        until(lambda: hub.fleet()["git"]["applies"] == 2, SOON)
        told = hub.fleet()["git"]
        assert (told["up"], told["rows"], told["ok"], told["kind"]) == (True, 4, True, "directory")
        # `apply` to the bucket leaves the rows of the source alone, and is refused when it names
        # one.
        (tmp_path / "own.json").write_text(document())
        assert commands.run("apply", tmp_path / "own.json", "--to", hub.url).code == 0
        (tmp_path / "own.json").write_text(document(2))
        said = commands.run("apply", tmp_path / "own.json", "--to", hub.url)
        assert (said.code, "belongs to the live source git" in said.err) == (1, True)
        refused = commands.run("source", "rm", "git", "--to", hub.url)
        assert (refused.code, "another process follows git" in refused.err) == (1, True)
        follower.stop()
        until(lambda: hub.fleet()["git"]["stopped"], SOON)
        assert all(shows(server, "web.internal", 4) for server in servers)
        assert commands.run("source", "rm", "git", "--to", hub.url, "--json").json == {"rows": 4}
        for server in servers:
            until(lambda s=server: shows(s, "web.internal", 0), SOON)  # type: ignore[misc]
        assert hub.fleet() == {}


@requires_tool("nats-server")
def test_a_second_follower_of_a_bucket_is_refused_and_takes_over_from_a_dead_one(
    hub: Hub,
) -> None:
    hub.write(1)
    with following(*hub.words()) as first:
        until(lambda: hub.fleet().get("git", {}).get("applies") == 1, SOON)
        with following(*hub.words()) as second:
            assert second.process.wait(60) == 1
            assert "another process follows git" in second.stderr()
        first.signal(signal.SIGKILL)
        first.process.wait(10)
    with following(*hub.words()) as third:
        hub.write(1, 2)
        until(lambda: hub.fleet()["git"]["rows"] == 2, 60)
        assert third.process.poll() is None


@requires_tool("nats-server")
def test_rows_expire_on_request_only(hub: Hub) -> None:
    hub.write(1, 2)
    with following(*hub.words()) as follower:
        until(lambda: hub.fleet().get("git", {}).get("applies") == 1, SOON)
        follower.stop()
    expire = ("fleet", "expire", "git", "--source", hub.url, "--json", "--after")
    kept = commands.run(*expire, "1h")
    assert (kept.code, kept.json["rows"]) == (1, 0)
    assert "it was read" in kept.json["kept"]
    gone = commands.run(*expire, "0")
    assert (gone.code, gone.json["rows"]) == (0, 2)
    unknown = commands.run(*expire, "0")
    assert (unknown.code, "no source git has reported" in unknown.json["kept"]) == (1, True)


@requires_tool("nats-server")
def test_a_bucket_that_is_away_keeps_its_rows_and_is_written_when_it_is_back(hub: Hub) -> None:
    hub.write(1, 2)
    with following(*hub.words()) as follower:
        until(lambda: hub.fleet().get("git", {}).get("applies") == 1, SOON)
        hub.nats.stop(signal.SIGKILL)
        hub.write(1, 2, 3)
        until(lambda: "git: catalog: " in follower.stderr(), 60)
        hub.nats.start()
        until(lambda: hub.fleet().get("git", {}).get("rows") == 3, 90)
        assert follower.process.poll() is None
