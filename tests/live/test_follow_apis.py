"""The real `follow` between a scripted API and a real server: what runs is answered, what is gone
is not, and an API that is away takes nothing away."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from internal_dns.store.generate import create_catalog
from tests import commands
from tests.following.agents import agent
from tests.following.scripted import Answer, Asked, scripted
from tests.live.hosts import Served, addresses, ask, until

pytestmark = [pytest.mark.live, pytest.mark.slow]

SOON = 30.0
SCHEMA = Path(__file__).parents[2] / "schema.sql"


def address(number: int) -> str:
    return f"fdaa:0:18:a7b:7d:1:{number:x}:2"


class Runs:
    """What an orchestrator runs: instances by number. `away`: it answers 500."""

    def __init__(self) -> None:
        self.numbers, self.index, self.away = {1, 2, 3}, 1, False

    def set(self, *numbers: int) -> None:
        self.numbers, self.index = set(numbers), self.index + 1

    def __call__(self, asked: Asked) -> Answer:
        if self.away:
            return Answer("no leader", 500)
        value = self.value(asked.path)
        index = {"X-Consul-Index": str(self.index), "X-Nomad-Index": str(self.index)}
        return Answer("no such thing", 404) if value is None else Answer(value, headers=index)

    def value(self, path: str) -> Any:
        listed = sorted(self.numbers)
        match path.split("/")[2:]:
            case ["catalog", "services"]:
                return {"web": []}
            case ["health", "state", "any"]:
                return []
            case ["health", "service", "web"]:
                return [
                    {"Node": {"Node": f"n{n}", "Address": "10.0.0.1", "Datacenter": "iad"},
                     "Service": {"ID": "web", "Service": "web", "Address": address(n)},
                     "Checks": [{"Status": "passing"}]}
                    for n in listed
                ]  # fmt: skip
            case ["allocations"]:
                return [
                    {"ID": f"a{n}", "ClientStatus": "running", "ModifyIndex": 1} for n in listed
                ]
            case ["allocation", ident] if int(ident[1:]) in self.numbers:
                return {
                    "ID": ident, "JobID": "web", "ClientStatus": "running",
                    "NetworkStatus": {"AddressIPv6": address(int(ident[1:]))},
                }  # fmt: skip
            case ["orgs", "mine", "machines"]:
                machines = [
                    {"id": f"m{n}", "app_name": "web", "state": "started", "region": "iad",
                     "private_ip": address(n)}
                    for n in listed
                ]  # fmt: skip
                return {"machines": machines, "next_cursor": None}
        return None


@contextmanager
def running(*words: str) -> Iterator[None]:
    """Run `follow` with these words."""
    command = [sys.executable, "-m", "internal_dns", "follow", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()
    finally:
        process.kill()
        process.communicate()


def serving(path: Path) -> Served:
    return Served(
        "--catalog", str(path), "--listen", "[::1]:0", "--map-source", "::1/128=fdaa:0:18::/48",
        "--upstream", "none", "--admin", "none",
    )  # fmt: skip


def shows(server: Served, *numbers: int) -> bool:
    return addresses(ask(server, "web.internal")) == sorted(map(address, numbers))


@pytest.mark.parametrize(
    "words", [("consul",), ("nomad",), ("fly", "--org", "mine")], ids=lambda words: words[0]
)
def test_what_an_orchestrator_runs_is_answered(words: tuple[str, ...], tmp_path: Path) -> None:
    path, runs = tmp_path / "catalog.db", Runs()
    create_catalog(path, {"networks": [(24, "acme", "")]})
    server = serving(path)
    try:
        with scripted(runs) as api:
            kind, *more = words
            with running(kind, api.url, *more, "--catalog", str(path), "--region", "iad"):
                until(lambda: shows(server, 1, 2, 3), SOON)
                runs.set(2, 3, 4)
                until(lambda: shows(server, 2, 3, 4), SOON)
                runs.away = True
                until(lambda: _status(path)["problem"] != "", 90)
                assert shows(server, 2, 3, 4)
                runs.away = False
                runs.set(3, 4, 5)
                until(lambda: shows(server, 3, 4, 5), 90)
    finally:
        server.kill()


def _status(path: Path) -> dict[str, Any]:
    (row,) = commands.run("source", "list", "--catalog", path, "--json").json or [{"problem": ""}]
    found: dict[str, Any] = row
    return found


def test_rows_are_written_through_an_agent_and_answered_from_its_file(tmp_path: Path) -> None:
    path, documents = tmp_path / "corrosion.db", tmp_path / "documents"
    documents.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA.read_text())
        connection.execute("INSERT INTO networks (id, name) VALUES (24, 'acme')")

    def write(*numbers: int) -> None:
        machines = [
            {"id": f"d{n}", "address": address(n), "region": "iad", "state": "started",
             "metadata": {"n": str(n)}}
            for n in numbers
        ]  # fmt: skip
        acme = {"id": 24, "apps": {"web": {"machines": machines}}}
        (documents / ".new").write_text(json.dumps({"networks": {"acme": acme}}))
        (documents / ".new").replace(documents / "a.json")

    write(1, 2)
    server = serving(path)
    try:
        with agent(path) as (made, api):
            to = api.url.replace("http://", "corrosion://")
            with running("directory", str(documents), "--name", "git", "--to", f"{to}/"):
                until(lambda: shows(server, 1, 2), SOON)
                write(2, 3)
                until(lambda: shows(server, 2, 3), SOON)
            assert made.writes
            # One that is restarted adopts its own rows, and writes nothing that is there.
            count = len(made.writes)
            with running("directory", str(documents), "--name", "git", "--to", f"{to}/"):
                write(2, 3, 4)
                until(lambda: shows(server, 2, 3, 4), SOON)
            assert len(made.writes) == count + 1
    finally:
        server.kill()
