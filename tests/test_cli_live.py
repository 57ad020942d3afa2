"""top, and watch --queries: what a running server says about itself, for people and programs."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from internal_dns.admin.rates import SNAPSHOT_NAMES, rates
from internal_dns.cli.top import table
from internal_dns.cli.watch import query_line
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.transport import native
from tests.commands import run
from tests.live.hosts import Served, ask, change, client_socket, query, serving

GOLDEN = Path(__file__).parent / "golden"


def look(
    at: float, names: dict[tuple[str, str], int], networks: dict[str, int], **counts: int
) -> dict[str, Any]:
    """What a server tells `top`."""
    return {
        "at": at, "requests": counts.get("requests", 0), "repeated": counts.get("repeated", 0),
        "decided": counts.get("decided", 0), "entries": counts.get("entries", len(names)),
        "networks": [
            {"network": n, "hits": h, "decided": counts.get("decided", 0) if n == "acme" else 0}
            for n, h in sorted(networks.items(), key=lambda item: -item[1])
        ],
        "names": [
            {"network": network, "name": name, "type": "AAAA", "hits": hits}
            for (network, name), hits in sorted(names.items(), key=lambda item: -item[1])
        ],
    }  # fmt: skip


BEFORE = look(
    100.0,
    {
        ("acme", "web.internal"): 90_000,
        ("acme", "db.internal"): 500,
        ("globex", "web.internal"): 9_000,
    },
    {"acme": 91_000, "globex": 9_000},
    requests=102_000,
    repeated=100_000,
    decided=10,
)
NOW = look(
    102.0,
    {
        ("acme", "web.internal"): 90_400,
        ("globex", "web.internal"): 11_468,
        ("acme", "db.internal"): 20,
        ("acme", "new.internal"): 50,
        ("initech", "a-name-that-is-long." * 5 + "internal"): 1,
    },
    {"acme": 91_470, "globex": 11_468, "initech": 1},
    requests=105_000,
    repeated=102_939,
    decided=70,
    entries=1_234,
)


# ── rates and tables ──────────────────────────────────────────────────────────────────────────────


def test_rates_are_what_happened_between_two_looks_busiest_first() -> None:
    shown = rates(BEFORE, NOW)
    assert (shown["seconds"], shown["requests"], shown["repeated"]) == (2.0, 1_500.0, 1_469.5)
    assert shown["decided"] == 30
    assert [(n["network"], n["rate"]) for n in shown["networks"]] == [
        ("globex", 1_234),
        ("acme", 265),
        ("initech", 0.5),
    ]
    assert [(n["network"], n["name"][:3], n["rate"]) for n in shown["names"]] == [
        ("globex", "web", 1_234), ("acme", "web", 200), ("acme", "new", 25), ("acme", "db.", 10),
        ("initech", "a-n", 0.5),
    ]  # fmt: skip


def test_a_name_that_was_not_among_those_looked_at_before_counts_from_the_least_of_them() -> None:
    crowd = {("acme", f"x{number}.internal"): 1_000 + number for number in range(SNAPSHOT_NAMES)}
    shown = rates(look(0, crowd, {}), look(1, {**crowd, ("acme", "late.internal"): 1_500}, {}))
    assert shown["names"][0]["rate"] == 500
    assert [n["rate"] for n in shown["names"][1:3]] == [0, 0]


def test_two_looks_at_the_same_time_divide_by_no_zero() -> None:
    assert rates(NOW, NOW)["repeated"] == 0


def test_a_server_that_does_not_tell_what_it_decided_is_understood() -> None:
    old = json.loads(json.dumps(NOW).replace('"decided"', '"unknown"'))
    assert (rates(old, old)["decided"], rates(old, old)["networks"][0]["rate"]) == (0, 0)


@pytest.mark.parametrize("width", [40, 60, 100])
def test_top_reads_well_at_any_width(width: int) -> None:
    lines = table(rates(BEFORE, NOW), width, 4)
    assert all(len(line) <= width for line in lines)
    if width == 100:
        assert "\n".join(line.rstrip() for line in lines) + "\n" == (GOLDEN / "top.txt").read_text()


def test_top_of_a_server_that_nobody_asks_says_so() -> None:
    text = "\n".join(table(rates(look(0, {}, {}), look(1, {}, {})), 80, 20))
    assert "no queries" in text
    assert "no query was repeated yet" in text


# ── live ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    create_catalog(tmp_path / "demo.db", demo_rows())
    return tmp_path / "demo.db"


class OutstandingQuery:
    """Asks a server web.internal again and again."""

    def __init__(self, server: Served) -> None:
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(server,))

    def _run(self, server: Served) -> None:
        while not self.ended.wait(0.01):
            ask(server, "web.internal")

    def __enter__(self) -> OutstandingQuery:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()


@pytest.mark.live
def test_top_shows_who_is_busy_with_what(demo: Path) -> None:
    with serving(demo) as server, OutstandingQuery(server):
        said = run("top", "--json", "--interval", "0.3", "--catalog", demo)
        assert said.code == 0
        assert said.json["networks"][0]["network"] == "acme"
        busiest = said.json["names"][0]
        assert (busiest["network"], busiest["name"], busiest["type"]) == (
            "acme",
            "web.internal",
            "AAAA",
        )
        assert busiest["rate"] > 0
        plain = run("top", "--once", "--interval", "0.2", "--catalog", demo)
        assert plain.code == 0
        assert "web.internal" in plain.out
        assert "queries/s" in plain.out.splitlines()[0]
    said = run("top", "--json", "--catalog", demo)
    assert said.code == 3
    assert json.loads(said.err)["error"]["what"].startswith("cannot reach a server at")


@pytest.mark.live
def test_top_on_a_terminal_ends_with_q_and_leaves_the_terminal_as_it_was(demo: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "internal_dns",
        "top",
        "--interval",
        "0.1",
        "--catalog",
        str(demo),
    ]
    primary, secondary = pty.openpty()
    import termios

    before = termios.tcgetattr(secondary)
    try:
        with (
            serving(demo) as server,
            OutstandingQuery(server),
            subprocess.Popen(command, stdin=secondary, stdout=secondary, stderr=secondary) as shown,
        ):
            seen = b""
            while seen.count(b"\x1b[H") < 3 or b"web.internal" not in seen:
                assert select.select([primary], [], [], 10)[0], seen
                seen += os.read(primary, 65_536)
            os.write(primary, b"q")
            assert shown.wait(10) == 0
        assert termios.tcgetattr(secondary) == before
    finally:
        os.close(primary)
        os.close(secondary)


def lines_of(*words: str) -> Iterator[str]:
    """The lines of a command that goes on; it is ended with the loop over them."""
    command = [sys.executable, "-W", "error", "-m", "internal_dns", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(20, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            yield from process.stdout
        finally:
            timer.cancel()
            process.kill()


@pytest.mark.live
def test_questions_are_shown_as_they_come_with_who_asked_and_what_they_got(demo: Path) -> None:
    with (
        serving(demo, "--upstream", "udp://127.0.0.1:9", upstream="") as server,
        OutstandingQuery(server),
    ):
        seen: dict[tuple[str, str], dict[str, Any]] = {}
        lines = lines_of("watch", "--queries", "--json", "--catalog", str(demo))
        asked = False
        for line in lines:
            said = json.loads(line)
            seen[said["name"], said["how"]] = said
            if not asked:
                ask(server, "nosuch.internal")
                ask(server, query("_apps.internal", "TXT"))
                ask(server, query("example.com", "A"), timeout=10)
                with client_socket(2) as sock:  # type: ignore[arg-type]
                    sock.sendto(b"x", ("::1", server.port))
                asked = True
            if {"nosuch.internal", "_apps.internal", "example.com", None} <= {
                name for name, _ in seen
            }:
                break
        lines.close()  # type: ignore[attr-defined]
        repeated = seen["web.internal", "repeated"]
        assert (repeated["network"], repeated["source"], repeated["proto"]) == (
            "acme",
            "::1",
            "udp",
        )
        assert (repeated["rcode"], repeated["type"], repeated["answers"] > 1) == (
            "NOERROR",
            "AAAA",
            True,
        )
        # What is not there at all is never decided natively.
        assert (
            seen["nosuch.internal", "decided" if native.MISSING else "repeated"]["rcode"]
            == "NXDOMAIN"
        )
        assert seen["_apps.internal", "decided"]["type"] == "TXT"
        assert seen["example.com", "forwarded"]["rcode"] == "SERVFAIL"
        assert seen[None, "dropped"]["rcode"] is None  # type: ignore[index]
        # Nobody looks any more: the server still answers, and its log holds nothing of it.
        assert (
            run("watch", "--queries", "--sample", "3", "--changes", "2", "--catalog", demo).code
            == 0
        )
        ask(server, "web.internal")
        assert "web" not in server.stderr()


@pytest.fixture
def recorded(demo: Path) -> Path:
    """A catalog with a zone, an alias to a machine's name and one to the outside."""
    for words in (
        ("zone", "add", "acme/corp.example"),
        ("record", "add", "acme/db.corp.example", "A", "192.0.2.1"),
        ("record", "add", "acme/old.internal", "CNAME", "web.internal"),
        ("record", "add", "acme/rds.internal", "CNAME", "db.provider.example"),
    ):
        assert run(*words, "--catalog", demo, "--offline").code == 0
    return demo


@pytest.mark.live
def test_watch_of_a_record_prints_each_change_of_it(recorded: Path) -> None:
    name = "db.corp.example"
    changes: list[tuple[tuple[str, ...], str, list[str]]] = [
        (
            ("record", "add", f"acme/{name}", "A", "192.0.2.2"),
            "NOERROR",
            ["192.0.2.1", "192.0.2.2"],
        ),
        (("record", "set", f"acme/{name}", "A", "192.0.2.3"), "NOERROR", ["192.0.2.3"]),
        (("record", "rm", f"acme/{name}"), "NXDOMAIN", []),
        (("record", "add", "acme/*.corp.example", "A", "192.0.2.4"), "NOERROR", ["192.0.2.4"]),
    ]
    with serving(recorded):
        lines = lines_of("watch", name, "A", "--as", "acme", "--json", "--catalog", str(recorded))
        assert data(next(lines)) == ("NOERROR", ["192.0.2.1"])
        for words, rcode, values in changes:
            assert run(*words, "--catalog", recorded).code == 0
            assert data(next(lines)) == (rcode, values)
        lines.close()  # type: ignore[attr-defined]


@pytest.mark.live
def test_watch_of_an_alias_prints_a_change_of_the_alias_and_of_what_it_leads_to(
    recorded: Path,
) -> None:
    with serving(recorded):
        lines = lines_of(
            "watch", "old.internal", "--as", "acme", "--json", "--catalog", str(recorded)
        )
        rcode, first = data(next(lines))
        assert (rcode, "web.internal." in first, len(first) > 2) == ("NOERROR", True, True)
        assert run("machine", "stop", "3d8d9930b03989", "--catalog", recorded).code == 0
        _, fewer = data(next(lines))
        assert set(fewer) < set(first)
        words = ("record", "set", "acme/old.internal", "CNAME", "nosuch.internal")
        assert run(*words, "--catalog", recorded).code == 0
        assert data(next(lines)) == ("NXDOMAIN", ["nosuch.internal."])
        lines.close()  # type: ignore[attr-defined]


def data(line: str) -> tuple[str, list[str]]:
    """Response code and values of an answer that `watch` printed."""
    said = json.loads(line)
    return said["rcode"], sorted(one.split(maxsplit=4)[4] for one in said["answer"])


@pytest.mark.live
def test_top_shows_names_that_records_answer(recorded: Path) -> None:
    names = {"db.corp.example", "old.internal"}  # of what is forwarded, nothing is repeated
    with serving(recorded) as server:
        for name in (*names, "rds.internal"):
            for _ in range(20):
                ask(server, query(name, "A"))
        told = run("top", "--json", "--interval", "0.2", "--catalog", recorded)
        assert told.code == 0, told.err
        shown = {name["name"]: name["network"] for name in told.json["names"]}
        assert shown.items() >= {name: "acme" for name in names}.items(), shown
        plain = run("top", "--once", "--interval", "0.2", "--catalog", recorded)
        assert plain.code == 0, plain.err
        assert "db.corp.example" in plain.out
        assert "Traceback" not in server.stderr()


@pytest.mark.live
def test_doctor_finds_no_fault_in_a_catalog_of_records(recorded: Path) -> None:
    with serving(recorded) as server:
        words = ("--listen", f"[::1]:{server.port}", "--upstream", "none", "--admin", "none")
        said = run("doctor", "--json", "--catalog", recorded, *words)
        found = {result["what"]: result for result in said.json}
        assert [what for what, result in found.items() if result["level"] == "fail"] == []
        assert found["catalog"]["level"] == "ok", found["catalog"]
        assert "catalog rows" not in found  # none is rejected
    change(recorded, "UPDATE records SET value = '192.0.2' WHERE type = 'A'")
    words = ("--listen", "[::1]:0", "--upstream", "none", "--admin", "none")
    found = {
        one["what"]: one for one in run("doctor", "--json", "--catalog", recorded, *words).json
    }
    assert (found["catalog rows"]["level"], found["catalog rows"]["says"]) == ("warn", "1 rejected")


@pytest.mark.parametrize(
    "words", [[], ["web.internal", "--queries"], ["web.internal", "--sample", "3"]]
)
def test_watch_wants_a_name_or_the_questions(words: list[str]) -> None:
    assert run("watch", *words).code == 2


@pytest.mark.parametrize(
    ("change", "end"),
    [
        ({}, "web.internal AAAA                             NOERROR 3  repeated"),
        ({"rcode": "NXDOMAIN", "answers": 0, "how": "decided"}, "NXDOMAIN  decided"),
        (
            {"name": None, "type": None, "rcode": None, "answers": 0, "how": "dropped"},
            "no reply  dropped",
        ),
        ({"skipped": 1_234}, "repeated  (1,234 not shown)"),
        ({"network": None, "rcode": "REFUSED", "answers": 0}, "REFUSED  repeated"),
    ],
)
def test_a_question_is_one_line(change: dict[str, Any], end: str) -> None:
    said = {
        "time": 0.0, "proto": "udp", "network": "acme", "source": "fdaa:0:18:a7b:7d:f066:b83b:2",
        "name": "web.internal", "type": "AAAA", "rcode": "NOERROR", "answers": 3, "how": "repeated",
        "skipped": 0,
    }  # fmt: skip
    line = query_line({**said, **change})
    assert line.endswith(end)
    assert "\n" not in line
