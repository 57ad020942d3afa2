"""The benchmark programs, tested against each other."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench import servers, zones
from bench.machine import ROOT
from bench.programs import built
from bench.servers import Server
from tests.tools import requires_tool

pytestmark = [pytest.mark.live, requires_tool("gcc", "taskset", "chrt")]

Generate = Callable[..., dict[str, Any]]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def generate(tmp_path: Path) -> Generate:
    """Send queries for 0.3 s and return the generator's result."""

    def run(server: Server, questions: zones.Questions, rate: int, *flags: str) -> dict[str, Any]:
        words = [
            built("sendmmsg", tmp_path),
            *flags,
            "::1",
            str(server.port),
            str(questions.as_octets(tmp_path)),
        ]
        done = subprocess.run(
            [*words, "0.3", str(rate), "20"], capture_output=True, text=True, check=True, timeout=30
        )
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    return run


@pytest.mark.parametrize("pktinfo", [False, True])
def test_the_floor_answers_every_question_with_three_records(
    pktinfo: bool, tmp_path: Path, stack: ExitStack, generate: Generate
) -> None:
    server = stack.enter_context(
        servers.floor(tmp_path, pktinfo=pktinfo)
    )  # it waits for three records
    said = generate(server, zones.external(10), 0, "-s")
    assert said["answered"] == said["sent"] > 0
    assert said["stray"] == said["empty"] == 0


def test_the_upstream_answers_after_its_delay_and_counts(
    tmp_path: Path, stack: ExitStack, generate: Generate
) -> None:
    server = stack.enter_context(servers.upstream(tmp_path, 20))
    before = servers.asked(tmp_path, 20)
    said = generate(server, zones.external_new(), 100, "-s", "-u")
    assert said["answered"] == said["sent"] == servers.asked(tmp_path, 20) - before > 0
    assert said["p50"] >= 20_000  # µs: it may be late and never early


def test_unique_names_never_repeat(tmp_path: Path, stack: ExitStack, generate: Generate) -> None:
    """A socket of the test reads what the generator sends and answers nothing."""
    from socket import AF_INET6, SOCK_DGRAM, socket

    sock = stack.enter_context(socket(AF_INET6, SOCK_DGRAM))
    sock.bind(("::1", 0))
    sock.setblocking(False)
    server = Server.__new__(Server)
    server.port = sock.getsockname()[1]
    said = [generate(server, zones.external_new(), 200, "-n", "-u") for _ in range(2)]
    names = [sock.recv(512)[12:] for _ in range(sum(s["sent"] for s in said))]
    assert len(set(names)) == len(names) > 0
    assert all(name.endswith(b"\x07example\x03com\0\0\x1c\0\1") for name in names)


def test_the_tables_are_printed_from_the_json(tmp_path: Path) -> None:
    machine = dict.fromkeys(
        ("cpu", "cores", "virtual", "system", "kernel", "python", "commit", "dirty", "date"), "x"
    )
    (tmp_path / "run.json").write_text(
        json.dumps({"machine": machine, "skipped": [], "results": []})
    )
    words = [sys.executable, "-m", "bench", "table", str(tmp_path / "run.json")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("**Targets**")
