"""The command line: what each command prints, how it fails (what, why, what to do) and with which
exit status."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from shutil import copyfile
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from internal_dns import config
from internal_dns.cli import SECTIONS, cli, servers
from internal_dns.cli.ask import from_elsewhere
from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.core.requester import SourceMap
from internal_dns.net import Endpoint
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import load
from tests.commands import Said, run
from tests.core.messages import ip, loaded

COMMANDS = (
    "serve",
    "dev",
    "dig",
    "explain",
    "watch",
    "top",
    "init",
    "check",
    "config",
    "doctor",
    "health",
    "completion",
    "version",
)
ESCAPE = "\x1b"


@pytest.fixture(autouse=True)
def _a_host_without_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("INTERNAL_DNS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "absent.toml")
    monkeypatch.chdir(tmp_path)


def spawn(*words: str | Path, **environment: str) -> Said:
    """Run a command for real, in a pipe."""
    made = subprocess.run(
        [sys.executable, "-m", "internal_dns", *map(str, words)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return Said(made.returncode, made.stdout, made.stderr)


def told(said: Said) -> dict[str, str]:
    """The lines of an error: what, why and what to do, each present."""
    found = {}
    for line in said.err.splitlines():
        if match := re.match(r"(error| +why| +do) +(\S.*)", line):
            found[match[1].strip()] = match[2]
    assert found.keys() == {"error", "why", "do"}, said.err
    assert "Traceback" not in said.err
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.db"
    create_catalog(path, demo_rows())
    return path


@cache
def demo_catalog() -> Catalog:
    return loaded(rows=demo_rows()).catalog


# ── help, version ─────────────────────────────────────────────────────────────────────────────────


def test_help_lists_every_command_what_runs_comes_first() -> None:
    said = run("--help")
    assert said.code == 0
    listed = re.findall(r"^  ([a-z]+)  +\S", said.out.partition("Run:")[2], re.MULTILINE)
    assert listed[: len(COMMANDS[:4])] == [*COMMANDS[:4]]
    assert set(listed) >= set(COMMANDS)
    assert run("-h").out == said.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    said = run(command, "--help")
    assert said.code == 0
    assert f"Usage: cli {command}" in said.out
    lines = [line for line in said.out.splitlines() if line.strip()]
    assert len(lines[1].strip()) > 20  # a sentence
    assert all(len(line) <= 100 for line in lines)
    for option in re.findall(r"^  (--[a-z-]+)(?: [A-Z:\[\]|/=]+)?$", said.out, re.MULTILINE):
        following = said.out.partition(f"  {option}")[2].splitlines()[1]
        assert following.startswith("      "), f"{option} has no words"


def test_every_setting_is_a_flag_of_serve_and_dev() -> None:
    for command in ("serve", "dev"):
        text = run(command, "--help").out
        for row in config.table():
            assert (f"--{row.name.replace('_', '-')} " in text) == (row.name != "forward")


LIBRARIES = {"uvloop", "dns", "dnslib", "starlette", "nats", "prometheus_client", "aiosqlite"}
SERVER = {
    f"internal_dns.{part}" for part in ("server", "transport", "forward", "replicate", "metrics")
}
LISTENERS = {"internal_dns.server", "internal_dns.transport.answer", "internal_dns.metrics"}
QUESTIONS = {"internal_dns.core.journey", "internal_dns.core.lookup", "internal_dns.core.explain"}
DOCUMENTS = {"internal_dns.store.declare", "internal_dns.sources", "internal_dns.store.operations"}
OTHERS = {"asyncio", "importlib.resources", "internal_dns.cli.objects"}


@pytest.mark.parametrize(
    ("words", "without"),
    [
        (["--help"],
        LIBRARIES | SERVER | QUESTIONS | DOCUMENTS | {"asyncio", "sqlite3", "internal_dns.config"}),
        (["--version"], LIBRARIES | SERVER | QUESTIONS | DOCUMENTS | {"asyncio", "sqlite3"}),
        (["version"],
        LIBRARIES | DOCUMENTS | {"internal_dns.server", "internal_dns.transport.answer"}),
        (["health", "--help"], LIBRARIES | SERVER | QUESTIONS | DOCUMENTS | {"asyncio"}),
        (["completion", "bash"],
        LIBRARIES | SERVER | QUESTIONS | DOCUMENTS | {"asyncio", "sqlite3"}),
        (["top", "--help"], LIBRARIES | SERVER | QUESTIONS | DOCUMENTS | {"asyncio"}),
        (["init", "--if-missing"], LIBRARIES | SERVER | QUESTIONS | DOCUMENTS | {"asyncio"}),
        (["machine", "--help"], LIBRARIES | SERVER | QUESTIONS | DOCUMENTS | {"asyncio"}),
        (["machine", "list"], LIBRARIES | SERVER | QUESTIONS | DOCUMENTS | {"asyncio"}),
        (["changes"], LIBRARIES - {"aiosqlite"} | LISTENERS | QUESTIONS | DOCUMENTS),
        (["network", "list"], LIBRARIES | LISTENERS | QUESTIONS | DOCUMENTS | {"asyncio"}),
        (["check"], LIBRARIES | LISTENERS | {"asyncio", "internal_dns.sources"}),
        (["export"], LIBRARIES | LISTENERS | {"asyncio", "internal_dns.sources"}),
        (["diff"], LIBRARIES | LISTENERS | QUESTIONS | OTHERS),
        (["apply", "--offline"], LIBRARIES | LISTENERS | QUESTIONS | OTHERS),
        # dnspython presents the answers.
        (["apply", "--offline", "--dry-run"], LIBRARIES - {"dns"} | LISTENERS | {"asyncio"}),
        (["config", "show"],
        LIBRARIES | LISTENERS | QUESTIONS | DOCUMENTS | {"asyncio", "sqlite3"}),
        (["serve", "--help"],
        LIBRARIES | LISTENERS | QUESTIONS | DOCUMENTS | {"asyncio", "sqlite3"}),
        (["serve", "--listen", "nowhere"],
        LIBRARIES | LISTENERS | QUESTIONS | DOCUMENTS | {"asyncio", "sqlite3"}),
        (["dev", "--help"], LIBRARIES | LISTENERS | QUESTIONS | DOCUMENTS | {"asyncio", "sqlite3"}),
        (["dig", "--help"], LIBRARIES | LISTENERS | QUESTIONS | DOCUMENTS | {"asyncio", "sqlite3"}),
        (["watch", "--help"], LIBRARIES | LISTENERS | QUESTIONS | DOCUMENTS | {"asyncio"}),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)  # fmt: skip
@pytest.mark.slow
def test_a_command_does_not_load_what_only_others_need(
    words: list[str], without: set[str], demo: Path, tmp_path: Path
) -> None:
    if words[-1] in ("list", "check", "export", "changes"):
        words = [*words, "--catalog", str(demo)]
    if words[0] in ("diff", "apply"):
        copyfile(demo, tmp_path / "demo.db")
        document = tmp_path / "document.toml"
        document.write_text("[networks.more]\nid = 99\napps.web = {}\n")
        words = [*words, str(document), "--catalog", str(tmp_path / "demo.db")]
    if words[0] == "init":
        words = [*words, str(demo)]
    program = (
        "import sys\n"
        f"sys.argv = ['internal-dns', *{words!r}]\n"
        "from internal_dns.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, None, 1, 78)\n"
        f"print('loaded:', *sorted({without!r} & sys.modules.keys()))\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20
    )
    assert made.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.slow
def test_a_server_starts_without_what_it_may_never_need() -> None:
    program = (
        "import sys, internal_dns.server\n"
        "late = {'internal_dns.replicate.follower', 'internal_dns.store.declare', "
        "'nats', 'httpx'}\n"
        "print(*sorted(late & sys.modules.keys()))\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert shown.stdout == b"\n"


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    listed = {name: words for rows in SECTIONS.values() for name, (_, words) in rows.items()}
    assert listed == {
        name: command.get_short_help_str(limit=200) for name, command in cli.commands.items()
    }
    assert [*cli.commands] == [*listed]


def test_version_tells_what_it_runs_on() -> None:
    said = run("version", "--json")
    assert said.code == 0
    assert said.json["sqlite"] == sqlite3.sqlite_version
    assert said.json["python"] == ".".join(map(str, sys.version_info[:3]))
    assert said.json["udp path"] in ("python", "native")
    plain = run("version").out
    assert all(value in plain for value in said.json.values())


@pytest.mark.parametrize(
    "words", [["nosuch"], ["dig"], ["dig", "--nosuch", "x"], ["init", "--machines", "x"], []]
)
@pytest.mark.slow
def test_wrong_usage_exits_2(words: list[str]) -> None:
    said = spawn(*words)
    assert said.code == 2
    assert "Usage:" in said.err
    assert "Traceback" not in said.err


def test_dig_says_how_to_name_a_server_to_who_writes_it_as_other_digs_take_it() -> None:
    said = run("dig", "@fdaa::3", "web.internal")
    assert said.code == 2
    assert "--server fdaa::3" in said.err


# ── init ──────────────────────────────────────────────────────────────────────────────────────────


def test_init_makes_an_empty_catalog(tmp_path: Path) -> None:
    said = run("init", tmp_path / "c.db")
    assert said.code == 0
    assert "no rows" in said.out
    assert load(tmp_path / "c.db").machines == 0
    assert run("check", "--catalog", tmp_path / "c.db").code == 0


def test_init_makes_the_demo_catalog_and_says_how_to_go_on(tmp_path: Path) -> None:
    said = run("init", "--demo", tmp_path / "c.db")
    assert said.code == 0
    assert "80 machines" in said.out
    assert f"internal-dns dev --catalog {tmp_path / 'c.db'}" in said.out
    assert load(tmp_path / "c.db").machines == 80


def test_init_makes_as_many_machines_as_asked_for(tmp_path: Path) -> None:
    said = run("init", "--machines", "123", "--seed", "7", "--json", tmp_path / "c.db")
    assert said.code == 0
    assert said.json["rows"]["machines"] == 123
    assert said.json["file"] == str(tmp_path / "c.db")
    assert load(tmp_path / "c.db").machines == 123
    run("init", "--machines", "123", "--seed", "7", tmp_path / "again.db")
    assert load(tmp_path / "again.db").catalog == load(tmp_path / "c.db").catalog
    run("init", "--machines", "123", "--seed", "8", tmp_path / "other.db")
    assert load(tmp_path / "other.db").catalog != load(tmp_path / "c.db").catalog


@pytest.mark.parametrize("words", [["--demo"], ["--machines", "1"], []])
def test_init_never_overwrites(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    path.write_text("precious")
    said = run("init", *words, path)
    assert said.code == 78
    assert "already exists" in told(said)["error"]
    assert path.read_text() == "precious"
    assert [file.name for file in tmp_path.iterdir()] == ["c.db"]


@pytest.mark.parametrize("words", [["--demo"], []])
def test_init_if_missing_leaves_what_is_there(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    assert run("init", "--if-missing", *words, path).out.startswith(f"made  {path}")
    made = path.read_bytes()
    said = run("init", "--if-missing", *words, path)
    assert (said.code, said.out) == (0, f"kept  {path}, which already exists\n")
    assert run("init", "--if-missing", "--json", path).json == {
        "file": str(path),
        "made": False,
        "rows": {},
    }
    assert path.read_bytes() == made


@pytest.mark.parametrize("where", ["/proc/c.db", "/nosuch/c.db", "/dev/null/c.db"])
def test_init_says_where_it_cannot_write(where: str) -> None:
    said = run("init", where)
    assert said.code == 78
    found = told(said)
    assert where in found["error"]
    assert "writable" in found["do"]


@pytest.mark.parametrize(
    "words",
    [
        ["--demo", "--machines", "3"],
        ["--machines", "0"],
        ["--machines", "-1"],
        ["--machines", "99999999"],
    ],
)
def test_init_refuses_what_makes_no_sense(words: list[str], tmp_path: Path) -> None:
    assert run("init", *words, tmp_path / "c.db").code == 2
    assert not (tmp_path / "c.db").exists()


# ── check ─────────────────────────────────────────────────────────────────────────────────────────


def machine(
    ident: str, number: int, app: str = "web", region: str = "ams", *, address: str = ""
) -> tuple[Any, ...]:
    return (
        ident,
        24,
        app,
        address or f"fdaa:0:18:1:1:1:{number:x}:2",
        region,
        "app",
        "started",
        0,
        0,
    )


BAD: dict[str, list[tuple[Any, ...]]] = {
    "networks": [(24, "acme", ""), (25, "no name", ""), (0, "zero", "")],
    "apps": [(24, "x y"), (0, "web"), *((24, f"bad app {number}") for number in range(1_000))],
    "machines": [
        machine("m1", 1),
        machine("m2", 1),  # shares m1's address
        machine("m3", 3, address="fdaa:0:99::1"),  # not of its network
        machine("m4", 4, address="nonsense"),
        machine("m 5", 5),
        machine("MD", 6),
        machine("md", 13),  # MD but for letter case
        machine("m7", 7, "_apps"),
        machine("m8", 8, "all"),
        machine("m9", 9, region="vms"),
        machine("ma", 10, region="lax"),
        machine("mb", 11, region=""),
        machine("mc", 12, "x" * 63),
        *(machine(f"b{number}", 0x1000 + number, "big") for number in range(2_340)),
        *(machine(f"{number:04}" + "i" * 58, 0x8000 + number, "long") for number in range(1_100)),
    ],
    "machine_metadata": [
        ("m1", "a.b", "x"),
        ("m1", "", "x"),
        ("m1", "empty", ""),
        ("m1", "part", "y" * 64),
        ("m1", "dots", "a..b"),
        ("mc", "k" * 63, ".".join(["v" * 40] * 3)),
    ],
    "machine_services": [
        ("m1", "http", "sctp", 80),
        ("m1", "web", "tcp", 0),
        ("m1", "x y", "tcp", 1),
    ],
    "peers": [
        (24, "_page", "fdaa:0:18:1:1:2:1:102", ""),
        (24, "far", "fdaa:0:18:1:1:2:2:102", "nowhere"),
        (24, "p" * 64, "fdaa:0:18:1:1:2:3:102", ""),
        (24, "outside", "fdaa:0:19:1:1:2:3:102", ""),
        (24, "twin", "fdaa:0:18::3", ""),  # the server's own address
    ],
    "flycasts": [(24, "web", "fdaa:0:19::5"), (24, "a b", "fdaa:0:18::5")],
    "regions": [
        ("ams", "", 52.3, 4.9, 1),
        ("vms", "", 1.0, 1.0, 0),
        ("bad", "", 500.0, 4.9, 1),
        ("a b", "", None, None, 0),
    ],
    "region_latency": [("ams", "iad", -1.0), ("a b", "iad", 1.0)],
    "hosts": [(1, "", "a b"), (1 << 33, "", "ams")],
}
# level, part of where, part of what
FINDINGS = [
    ("error", "machines m3", "not one of fdaa:0:18::/48"),
    ("error", "machines m4", "not one of fdaa:0:18::/48"),
    ("error", "machines m 5", "no valid id"),
    ("error", "machines md", "but for letter case"),
    ("error", "machines mb", "no valid region"),
    ("error", "apps x y", "no valid name"),
    ("error", "apps web", "network_id"),
    ("error", "networks 0", "1 to 4294967295"),
    ("warning", "networks 25", "without its name"),
    ("error", "machine_services http", "tcp or udp"),
    ("error", "machine_services web", "1 to 65535"),
    ("error", "machine_services x y", "no valid name"),
    ("error", "peers " + "p" * 64, "no valid name"),
    ("error", "peers outside", "not one of"),
    ("error", "flycasts web", "not one of"),
    ("error", "flycasts a b", "no valid app"),
    ("warning", "regions bad", "without coordinates"),
    ("error", "regions a b", "no valid code"),
    ("error", "region_latency ams", "0 or more"),
    ("error", "region_latency a b", "no valid region"),
    ("error", "hosts 1", "no valid region"),
    ("error", "hosts 8589934592", "32 bits"),
    ("error", "network acme", "belongs to machine m1 and machine m2"),
    ("error", "network acme", "belongs to the server itself and peer twin"),
    ("warning", "app _apps", "a reserved name"),
    ("warning", "app all", "a reserved name"),
    ("warning", "app web", "vms is a reserved word"),
    ("warning", "app web", "lax is not in table regions"),
    ("warning", "app big", "2,340 addresses"),
    ("warning", "network acme", "_instances.internal has"),
    ("warning", "network acme", "vms.long.internal has"),
    ("warning", "network acme", "_instances.long.internal has"),
    ("warning", "network acme", "_instances.big.internal has"),
    ("warning", "machine m1", "metadata key 'a.b'"),
    ("warning", "machine m1", "metadata key ''"),
    ("warning", "machine m1", "the value of metadata 'empty'"),
    ("warning", "machine m1", "the value of metadata 'part'"),
    ("warning", "machine m1", "the value of metadata 'dots'"),
    ("warning", "machine mc", "more than 253"),
    ("warning", "peer _page", "for pages of lists"),
    ("warning", "peer far", "nowhere is not in table regions"),
]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad") / "bad.db"
    create_catalog(path, BAD)
    return path


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bad catalog with fewer faults than are kept in words."""
    path = tmp_path_factory.mktemp("few") / "few.db"
    create_catalog(path, {**BAD, "apps": BAD["apps"][:2]})
    return path


@pytest.fixture(scope="module")
def checked(few: Path) -> Said:
    return run("check", "--json", "--catalog", few)


@pytest.mark.parametrize(("level", "where", "what"), FINDINGS)
def test_check_finds(level: str, where: str, what: str, checked: Said) -> None:
    assert checked.code == 1
    found = [f for f in checked.json if f["where"].endswith(where) and what in f["what"]]
    assert [f["level"] for f in found] == [level]
    assert found[0]["do"]


def test_check_finds_nothing_that_is_not_expected_here(checked: Said) -> None:
    for finding in checked.json:
        assert finding.keys() == {"level", "where", "what", "do"}
        assert any(
            finding["where"].endswith(where) and what in finding["what"]
            for _, where, what in FINDINGS
        ), finding


def test_check_tells_people_what_it_tells_programs(few: Path, checked: Said) -> None:
    said = run("check", "--catalog", few)
    assert said.code == 1
    assert all(
        f"{f['where']}: {f['what']}" in said.out and f["do"] in said.out for f in checked.json
    )
    errors = sum(f["level"] == "error" for f in checked.json)
    assert (
        said.out.splitlines()[-1]
        == f"{few}: {errors} errors, {len(checked.json) - errors} warnings"
    )


def test_check_counts_the_faults_it_does_not_list(bad: Path) -> None:
    said = run("check", "--json", "--catalog", bad)
    assert said.code == 1
    (more,) = [f for f in said.json if "more rows were not loaded" in f["what"]]
    assert more["level"] == "error"


def test_check_is_content_with_the_demo(demo: Path) -> None:
    said = run("check", "--catalog", demo)
    assert (said.code, said.out) == (0, f"{demo}: no findings\n")
    assert run("check", "--json", "--catalog", demo).json == []


def test_check_reads_the_catalog_of_the_environment(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERNAL_DNS_CATALOG", str(demo))
    assert run("check").out == f"{demo}: no findings\n"


@pytest.mark.parametrize("command", [["check"], ["explain", "web.internal"]])
@pytest.mark.parametrize("kind", ["missing", "garbage", "empty", "directory", "schema"])
def test_a_catalog_that_cannot_be_used_is_a_configuration_error(
    command: list[str], kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.db"
    if kind == "garbage":
        path.write_bytes(b"garbage\n" * 1_000)
    elif kind == "empty":
        path.touch()
    elif kind == "directory":
        path.mkdir()
    elif kind == "schema":
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE machines (id TEXT)")
        connection.close()
    said = run(*command, "--catalog", path)
    assert said.code == 78
    found = told(said)
    assert str(path) in found["error"]
    assert "--catalog" in found["do"]
    if kind == "missing":
        assert "no such file" in found["why"]


# ── explain ───────────────────────────────────────────────────────────────────────────────────────


def test_explain_tells_programs_every_machine_and_why(demo: Path) -> None:
    said = run("explain", "--json", "--as", "acme", "--catalog", demo, "iad.web.internal")
    assert said.code == 0
    assert [step["step"] for step in said.json["steps"]][:3] == ["asks", "place", "name"]
    machines = {m["id"]: m for m in said.json["machines"]}
    assert len(machines) == 10
    assert machines["3d8d9930b03989"]["included"] is True
    assert machines["3d8d9930b03989"]["why_not"] is None
    assert machines["7811e63fd4de08"]["why_not"] == "region is ams"
    assert len(said.json["reply"]["answer"]) == sum(m["included"] for m in machines.values())


def test_explain_answers_as_the_first_network_unless_told(demo: Path) -> None:
    assert "network acme" in run("explain", "--catalog", demo, "web.internal").out


def test_explain_answers_as_the_first_network_even_if_it_has_no_name(tmp_path: Path) -> None:
    create_catalog(tmp_path / "c.db", {"apps": [(24, "web")]})
    said = run("explain", "--catalog", tmp_path / "c.db", "_apps.internal")
    assert said.code == 0
    assert '"web"' in said.out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["web.internal"], 0),
        (["nosuch.internal"], 1),
        (["web.internal", "--as", "nosuch"], 1),
        (["web.internal", "MX"], 0),
        (["fdaa:0:18:a7b:7d:f066:b83b:2"], 0),
        (["fdaa:0:18:a7b:7d:f066:b83b:7"], 1),
        (["_apps.internal", "--tcp"], 0),
        (["web.internal", "NOSUCHTYPE"], 2),
        (["a..b"], 2),
        (["x" * 64 + ".internal"], 2),
        (["web.internal", "--as", ""], 2),
        (["web.internal", "--as", "x" * 128], 2),
        (["web.internal", "--as", "é"], 2),
    ],
)
def test_explain_exits_by_the_answer(words: list[str], code: int, demo: Path) -> None:
    said = run("explain", "--catalog", demo, *words)
    assert said.code == code
    if code == 2:
        told(said)


@pytest.mark.parametrize(
    ("name", "qtype"),
    [
        ("web.internal", "AAAA"),
        ("_apps.internal", "TXT"),
        ("vms.web.internal", "TXT"),
        ("1._page._apps.internal", "TXT"),
        ("_whoami.internal", "TXT"),
        ("_http._tcp.web.internal", "SRV"),
        ("internal", "SOA"),
        ("fdaa::3", "PTR"),
        ("web.flycast", "AAAA"),
    ],
)
def test_a_name_is_asked_for_what_it_usually_has(name: str, qtype: str, demo: Path) -> None:
    said = run("explain", "--json", "--catalog", demo, name)
    assert f" IN {qtype} " in said.json["reply"]["answer"][0]


# ── dig ───────────────────────────────────────────────────────────────────────────────────────────


DEV = Rules(dev=True)


@contextmanager
def answering(rules: Rules = DEV) -> Iterator[str]:
    """A server of the demo catalog on a UDP port of loopback, in dev mode."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)

        def serve() -> None:
            while octets := sock.recvfrom(4_096):
                if octets[0] == b"stop":
                    return
                said = respond(octets[0], ip("127.0.0.1"), ip("127.0.0.1"), demo_catalog(), rules)
                assert isinstance(said, Reply)
                sock.sendto(said.octets, octets[1])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{sock.getsockname()[1]}"
        finally:
            sock.sendto(b"stop", sock.getsockname())
            thread.join()


def test_dig_asks_as_anyone_in_dev_mode() -> None:
    with answering() as server:
        said = run("dig", "--server", server, "--as", "acme/iad", "iad.web.internal")
        assert said.code == 0
        lines = said.out.splitlines()
        assert lines[0] == "; NOERROR qr aa rd ra"
        assert "iad.web.internal. 5 IN AAAA fdaa:0:18:a7b:7d:f066:b83b:2" in lines
        assert re.fullmatch(rf"; {server} · udp · \d+\.\d ms · 141 octets", lines[-1])
        assert "globex" in run("dig", "--server", server, "--as", "globex", "_whoami.internal").out
        as_address = run(
            "dig", "--server", server, "--as", "fdaa:0:18:a7b:91:2:3:2", "_whoami.internal"
        )
        assert "region=ams" in as_address.out


ACME = SourceMap.of(ip_network("127.0.0.0/8"), NetworkId(0x18))


@pytest.mark.parametrize("words", [[], ["--json"]])
@pytest.mark.parametrize("who", ["globex", "acme/nrt", "fdaa:0:19:a7b:c1:1:2:2"])
def test_dig_says_that_its_asker_was_not_honored(who: str, words: list[str]) -> None:
    with answering(Rules(maps=(ACME,))) as server:
        said = run("dig", *words, "--server", server, "--as", who, "web.internal")
    assert (said.code, said.out) == (1, "")
    assert "--as was not honored: this server is not in dev mode" in said.err


def test_dig_bears_an_ignored_option_where_the_answer_is_the_same() -> None:
    with answering(Rules(maps=(ACME,), region=b"iad")) as server:
        for who in ("acme", "ACME", "acme/iad"):
            assert run("dig", "--server", server, "--as", who, "web.internal").code == 0


def test_dig_asks_from_an_address_of_the_host() -> None:
    only = SourceMap.of(ip_network("127.0.0.0/8"), NetworkId(0x18))
    with answering(Rules(maps=(only,))) as server:
        assert run("dig", "--server", server, "-b", "127.0.0.9", "web.internal").code == 0
        elsewhere = run("dig", "--server", server, "-b", "192.0.2.9", "web.internal")
        assert elsewhere.code == 2
        assert "it is not an address of this host" in told(elsewhere)["why"]
        assert run("dig", "--server", server, "-b", "x", "web.internal").code == 2
        assert run("dig", "--server", server, "-b", "127.0.0.9", "--as", "acme", "x").code == 2


@pytest.mark.parametrize(
    ("rules", "name", "advice"),
    [
        (Rules(), "web.internal",
        "127.0.0.1 is in no network of the catalog; query from an address "
         "of a network with -b ADDRESS, or map it: serve --map-source 127.0.0.1/32=NETWORK"),
        (Rules(maps=(ACME,), forwarding=False), "example.com", "this server does not forward; "
         "start it with `serve --upstream ADDRESS`"),
        (Rules(maps=(ACME,)), "nosuch.internal",
        "no such name in this network; internal-dns explain "
         "nosuch.internal"),
        (Rules(maps=(ACME,)), "web", "a name of one label is not forwarded; try web.internal"),
        (Rules(maps=(ACME,)), "web.internal", None),
    ],
)  # fmt: skip
def test_dig_says_why_and_what_next(rules: Rules, name: str, advice: str | None) -> None:
    with answering(rules) as server:
        said = run("dig", "--server", server, name)
        assert run("dig", "--json", "--server", server, name).json["next"] == advice
    last = said.out.splitlines()[-1]
    assert last == f"; next: {advice}" if advice else last.startswith(f"; {server} ·")


@contextmanager
def replying(*replies: Callable[[bytes], bytes]) -> Iterator[str]:
    """A server that sends each of *replies*, made from the query, to everyone over UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)

        def serve() -> None:
            while (received := sock.recvfrom(4_096))[0] != b"stop":
                for make in replies:
                    sock.sendto(make(received[0]), received[1])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{sock.getsockname()[1]}"
        finally:
            sock.sendto(b"stop", sock.getsockname())
            thread.join()


def from_demo(octets: bytes) -> bytes:
    reply = respond(octets, ip("127.0.0.1"), ip("127.0.0.1"), demo_catalog(), Rules(maps=(ACME,)))
    assert isinstance(reply, Reply)
    return reply.octets


def test_dig_takes_no_reply_to_another_query() -> None:
    def with_another_id(octets: bytes) -> bytes:
        return bytes([octets[0] ^ 1]) + from_demo(octets)[1:3] + b"\x85" + from_demo(octets)[4:]

    with replying(with_another_id, from_demo) as server:
        assert run("dig", "--server", server, "web.internal").code == 0


def test_dig_names_a_reply_that_is_no_message() -> None:
    with replying(lambda octets: octets[:2] + b"\x84") as server:
        dug = run("dig", "--server", server, "web.internal")
    assert dug.code == 3
    assert "Traceback" not in dug.err


def test_dig_bears_a_whoami_that_is_no_text() -> None:
    def not_utf8(octets: bytes) -> bytes:
        reply = dns.message.make_response(dns.message.from_wire(octets))
        reply.answer = [dns.rrset.from_text(reply.question[0].name, 5, "IN", "TXT", r'"\255\254"')]
        return reply.to_wire()

    with replying(not_utf8) as server:
        dug = run("dig", "--server", server, "--as", "acme", "_whoami.internal")
    assert dug.code == 1
    assert "--as was not honored" in dug.err


@pytest.mark.parametrize("octets", [b"", b"\0", b"\0\20abc"])
def test_dig_says_that_a_connection_ended_before_the_reply(octets: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4_096)
                connection.sendall(octets)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        server = f"127.0.0.1:{listener.getsockname()[1]}"
        dug = run("dig", "--tcp", "--server", server, "web.internal")
        thread.join()
    assert dug.code == 3
    assert "the server ended the connection without a whole reply" in told(dug)["why"]


@pytest.mark.slow
def test_dig_loads_no_http_client() -> None:
    program = (
        "import sys\n"
        "from internal_dns.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print('loaded:', *sorted({'httpx', 'dns.query', 'asyncio'} & sys.modules.keys()))\n"
    )
    with answering(Rules(maps=(ACME,))) as server:
        dug = subprocess.run(
            [sys.executable, "-c", program, "dig", "--server", server, "web.internal"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    assert dug.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("address", ["10.0.0.1", "192.0.2.7"])
def test_an_ipv4_address_is_asked_for_its_reverse_name(address: str, demo: Path) -> None:
    said = run("explain", "--catalog", demo, address)
    assert "hint     an IPv4 address: machines and peers have IPv6 addresses only" in said.out
    assert "in-addr.arpa. 1 IN SOA" in said.out


def test_dig_falls_back_to_the_other_loopback_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        nothing = Endpoint.parse(f"[::1]:{sock.getsockname()[1]}")
    with answering(Rules(maps=(ACME,))) as server:
        monkeypatch.setattr(servers, "DEV", (nothing, Endpoint.parse(server)))
        assert f"; {server} ·" in run("dig", "web.internal").out


def test_dig_asks_where_the_configuration_listens(tmp_path: Path) -> None:
    with answering(Rules(maps=(ACME,))) as server:
        (tmp_path / "own.toml").write_text(f'listen = ["{server}"]\n')
        said = run("dig", "--config", tmp_path / "own.toml", "web.internal")
    assert f"; {server} ·" in said.out


@pytest.mark.parametrize(
    ("listen", "source", "asked"),
    [
        ("[::]:53", None, "[::1]:53"),
        ("[::]:53", "fdaa:0:18::9", "[fdaa::3]:53"),
        ("[::]:53", "2001:db8::1", "[::1]:53"),
        ("[fdaa::3]:53", "fdaa:0:18::9", "[fdaa::3]:53"),
        ("127.0.0.1:53", None, "127.0.0.1:53"),
    ],
)
def test_a_wildcard_is_asked_at_an_address(listen: str, source: str | None, asked: str) -> None:
    own = IPv6Address(source) if source else None
    assert str(servers.specific(Endpoint.parse(listen), b"\xfd\xaa", own)) == asked


@pytest.mark.parametrize(
    ("name", "aa", "rcode", "forwarded"),
    [
        ("example.com.", False, 0, True),
        ("example.com.", False, 3, True),
        ("example.com.", False, 2, False),  # a failure is nobody's answer
        ("web.internal.", True, 0, False),
        ("localhost.", True, 0, False),
        ("printer.", False, 0, False),  # one label: answered here, empty
    ],
)
def test_dig_says_when_an_answer_is_an_upstreams(
    name: str, aa: bool, rcode: int, forwarded: bool
) -> None:
    reply = dns.message.make_response(
        dns.message.make_query(name, "AAAA"), recursion_available=True
    )
    reply.flags |= dns.flags.AA if aa else 0
    reply.set_rcode(dns.rcode.from_text(str(rcode)))
    assert from_elsewhere(reply) == forwarded


def test_dig_exits_1_for_a_negative_answer_and_tells_the_reason() -> None:
    with answering() as server:
        said = run("dig", "--server", server, "--as", "acme", "nosuch.internal")
        assert said.code == 1
        assert "; NXDOMAIN qr aa rd ra" in said.out
        assert "no such app in this network" in said.out
        assert "internal. 1 IN SOA" in said.out
        assert run("dig", "--server", server, "--as", "nosuch", "web.internal").code == 1
        assert run("dig", "--server", server, "--as", "acme", "web.internal", "MX").code == 0


def test_dig_tells_programs_the_whole_reply() -> None:
    with answering() as server:
        said = run("dig", "--json", "--server", server, "--as", "acme", "batch.internal")
    assert said.code == 0
    value = said.json
    assert value.pop("milliseconds") >= 0
    assert value == {
        "rcode": "NOERROR",
        "flags": ["qr", "aa", "rd", "ra"],
        "answer": [],
        "authority": ["internal. 1 IN SOA _dns.internal. hostmaster.internal. 1 5 5 5 1"],
        "additional": [],
        "reasons": ["EDE 0 (Other): 2 machines, none started"],
        "server": server,
        "transport": "udp",
        "next": None,
    }


@contextmanager
def closed_port() -> Iterator[str]:
    """A port on which nobody answers: bound, and never read."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.parametrize("words", [[], ["--tcp"]])
@pytest.mark.slow
def test_dig_says_what_to_do_when_nobody_answers(words: list[str]) -> None:
    with closed_port() as server:
        said = spawn("dig", *words, "--timeout", "0.2", "--server", server, "web.internal")
    assert said.code == 3
    found = told(said)
    assert server in found["error"]
    if not words:  # over TCP the kernel refuses the connection at once
        assert "within 0.2 s" in found["why"]
        assert "internal-dns doctor" in found["do"]
    assert said.out == ""


@pytest.mark.parametrize("words", [[], ["--tcp"]])
def test_dig_says_at_once_that_nothing_listens(words: list[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{sock.getsockname()[1]}"
    said = run("dig", *words, "--timeout", "3600", "--server", server, "web.internal")
    assert said.code == 3
    assert "nothing listens" in told(said)["why"]


# ── errors for programs ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["check", "--json", "--catalog", "/nosuch.db"], 78),
        (["explain", "--json", "--catalog", "/nosuch.db", "web.internal"], 78),
        (["dig", "--json", "--server", "nowhere", "web.internal"], 2),
        (["health", "--json", "--admin", "127.0.0.1:1"], 3),
        (["machine", "list", "--json", "--catalog", "/nosuch.db"], 78),
        (["app", "add", "acme/x", "--json", "--catalog", "/nosuch.db"], 78),
        (["watch", "web.internal", "--json", "--catalog", "/nosuch.db"], 78),
        (["init", "--json", "--machines", "x"], 2),
        (["machine", "list", "--json", "--nosuch"], 2),
        (["nosuch", "--json"], 2),
    ],
)
def test_with_json_an_error_is_json_too(words: list[str], code: int) -> None:
    said = run(*words)
    assert (said.code, said.out) == (code, "")
    error = json.loads(said.err)["error"]
    assert error.keys() == {"what", "why", "do"}
    assert all(error.values())


@pytest.mark.slow
def test_without_json_or_where_it_is_a_name_an_error_is_for_people() -> None:
    assert "Usage:" in spawn("init", "--machines", "x").err
    told(run("dig", "--server", "nowhere", "--", "--json"))


@pytest.mark.parametrize("who", ["x" * 128, "", "acmé"])
def test_dig_refuses_an_asker_that_does_not_fit_the_option(who: str) -> None:
    said = run("dig", "--as", who, "web.internal")
    assert said.code == 2
    assert "127" in told(said)["why"]


@pytest.mark.parametrize("server", ["localhost", "::1:53", "127.0.0.1:x"])
def test_dig_refuses_a_server_that_is_no_address(server: str) -> None:
    said = run("dig", "--server", server, "web.internal")
    assert said.code == 2
    assert server in told(said)["error"]


# ── health ────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def admin_port(status: int, words: str, path: str = "/readyz") -> Iterator[str]:
    """A port that answers GET *path* so, and 404 otherwise."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == path else 404)
            self.end_headers()
            self.wfile.write(words.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "words", "code"),
    [
        (200, "ready", 0),
        (200, "ready, degraded: the last good catalog answers, file is not a database", 0),
        (503, "not ready: the catalog is being loaded", 1),
        (500, "", 1),
    ],
)
def test_health_exits_by_readiness(status: int, words: str, code: int) -> None:
    with admin_port(status, words + "\n") as admin:
        said = run("health", "--admin", admin)
        assert (said.code, said.out) == (code, words + "\n")
        said = run("health", "--json", "--admin", admin)
        assert (said.code, said.json) == (code, {"ready": code == 0, "says": words})


def test_health_asks_the_port_that_serve_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with admin_port(200, "ready\n") as admin:
        monkeypatch.setenv("INTERNAL_DNS_ADMIN", admin)
        assert run("health").code == 0
        monkeypatch.delenv("INTERNAL_DNS_ADMIN")
        # A fault in another setting does not make a running server ill.
        (tmp_path / "config.toml").write_text(
            f'admin = "{admin}"\nregoin = "iad"\nudp_limit = "lots"\n'
        )
        assert run("health", "--config", tmp_path / "config.toml").code == 0
        # Nor does a file that is not needed to know the port.
        (tmp_path / "broken.toml").write_text("admin = \n")
        monkeypatch.setenv("INTERNAL_DNS_ADMIN", admin)
        assert run("health", "--config", tmp_path / "broken.toml").code == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('admin = "none"', "the setting `admin` is none"),
        ('admin = "nonsense"', "nonsense"),
        ("admin = ", "is not TOML"),
    ],
)
def test_health_that_cannot_know_the_port_is_a_configuration_error(
    text: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("INTERNAL_DNS_ADMIN", raising=False)
    (tmp_path / "config.toml").write_text(text)
    said = run("health", "--config", tmp_path / "config.toml")
    assert said.code == 78
    assert why in told(said)["why"]


def test_health_of_another_program_is_not_ready() -> None:
    with admin_port(200, "hello", path="/") as admin:
        assert run("health", "--admin", admin).code == 1


def test_health_does_not_ask_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://192.0.2.1:9")
    with admin_port(200, "ready\n") as admin:
        assert run("health", "--admin", admin).code == 0


@pytest.mark.parametrize(
    "admin", ["127.0.0.1:1", "localhost:abc", "nonsense", "", "127.0.0.1:99999", "[::1"]
)
def test_health_exits_3_when_it_cannot_be_reached(admin: str) -> None:
    said = run("health", "--admin", admin)
    assert said.code == 3
    told(said)


def test_health_exits_3_when_the_port_speaks_something_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1_000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        said = run("health", "--admin", f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert said.code == 3
    told(said)


# ── doctor ────────────────────────────────────────────────────────────────────────────────────────


def symptoms(*words: str | Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """What doctor finds; it asks no upstream unless told which."""
    said = run(
        "doctor",
        "--json",
        "--admin",
        "none",
        *(() if "--upstream" in words else ("--upstream", "none")),
        *words,
    )
    for symptom in said.json:
        assert symptom.keys() == {"level", "what", "says", "why", "do"}
        assert symptom["level"] in ("ok", "warn", "fail")
        assert symptom["says"]
        assert symptom["level"] == "ok" or (symptom["why"] and symptom["do"])
    assert said.code == any(symptom["level"] == "fail" for symptom in said.json)
    return said.code, {symptom["what"]: symptom for symptom in said.json}


def test_doctor_looks_at_everything_the_server_needs(demo: Path) -> None:
    code, found = symptoms("--listen", "127.0.0.1:0", "--catalog", demo)
    assert code == (found["ipv6"]["level"] == "fail")
    assert found.keys() >= {
        "python",
        "sqlite",
        "event loop",
        "udp path",
        "ipv6",
        "listen 127.0.0.1:0",
        "upstreams",
        "catalog",
    }
    assert "80 machines" in found["catalog"]["says"]
    assert found["sqlite"]["level"] == (
        "ok" if sqlite3.sqlite_version_info >= (3, 51, 3) else "warn"
    )


def test_doctor_finds_a_port_clash_and_says_how_to_see_who_it_is(demo: Path) -> None:
    with closed_port() as taken:
        code, found = symptoms("--listen", taken, "--catalog", demo)
    assert code == 1
    assert found[f"listen {taken}"]["level"] == "fail"
    assert "ss -lunp" in found[f"listen {taken}"]["do"]


def test_doctor_finds_a_missing_a_broken_and_a_faulty_catalog(tmp_path: Path, bad: Path) -> None:
    code, found = symptoms("--listen", "127.0.0.1:0", "--catalog", tmp_path / "nosuch.db")
    assert (code, found["catalog"]["level"]) == (1, "fail")
    assert "internal-dns init" in found["catalog"]["do"]
    (tmp_path / "c.db").write_bytes(b"garbage\n" * 1_000)
    code, found = symptoms("--listen", "127.0.0.1:0", "--catalog", tmp_path / "c.db")
    assert (code, found["catalog"]["level"]) == (1, "fail")
    code, found = symptoms("--listen", "127.0.0.1:0", "--catalog", bad)
    assert found["catalog rows"]["level"] == "warn"
    assert "internal-dns check" in found["catalog rows"]["do"]


def test_doctor_tells_every_fault_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('regoin = "x"\nudp_limit = 1\n')
    said = run("doctor", "--json", "--config", file, "--listen", "nowhere")
    assert said.code == 1
    assert sum(symptom["what"] == "settings" for symptom in said.json) == 3


def test_doctor_lets_two_libraries_read_a_running_servers_answers(demo: Path) -> None:
    with answering(Rules(maps=(ACME,))) as server:
        _, found = symptoms("--listen", "127.0.0.1:0", "--catalog", demo, "--server", server)
    for name in ("internal.", "_dns.internal.", "_apps.internal."):
        assert found[f"answer {name}"]["level"] == "ok"
        assert "agree" in found[f"answer {name}"]["says"]


@pytest.mark.parametrize("server", ["nowhere", "::1"])
def test_doctor_bears_a_server_that_is_no_address(server: str, demo: Path) -> None:
    said = run(
        "doctor",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "none",
        "--catalog",
        demo,
        "--server",
        server,
    )
    assert said.code in (1, 2)
    assert server in said.out + said.err


def test_doctor_tells_people_what_it_tells_programs(demo: Path) -> None:
    words = ("--listen", "127.0.0.1:0", "--upstream", "none", "--catalog", demo)
    plain = re.sub(" +", " ", run("doctor", *words).out)
    for symptom in run("doctor", "--json", *words).json:
        assert f"{symptom['level']} {symptom['what']} {symptom['says']}\n" in plain
        assert all(f" {word} {symptom[word]}\n" in plain for word in ("why", "do") if symptom[word])


# ── serve: the operator's mistakes ────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_serve_tells_every_fault_of_the_settings_at_once() -> None:
    said = spawn("serve", "--listen", "nowhere", "--udp-limit", "1", INTERNAL_DNS_REGION="a b")
    assert said.code == 78
    told(said)
    for part in ("--listen: 'nowhere", "--udp-limit: '1'", "INTERNAL_DNS_REGION: 'a b'"):
        assert part in said.err


@pytest.mark.parametrize("command", ["serve", "dev"])
@pytest.mark.slow
def test_a_server_with_an_unusable_catalog_does_not_start(command: str, tmp_path: Path) -> None:
    (tmp_path / "c.db").write_bytes(b"garbage\n" * 1_000)
    said = spawn(
        command,
        "--catalog",
        tmp_path / "c.db",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "none",
        "--upstream",
        "none",
    )
    assert said.code == 78
    assert "init" in told(said)["do"]


@pytest.mark.slow
def test_a_server_whose_port_is_taken_does_not_start(demo: Path) -> None:
    with closed_port() as taken:
        said = spawn(
            "serve", "--catalog", demo, "--listen", taken, "--admin", "none", "--upstream", "none"
        )
    assert said.code == 78
    found = told(said)
    assert taken in found["error"]
    assert "ss -lunp" in found["do"]


# ── colours ───────────────────────────────────────────────────────────────────────────────────────


def on_a_terminal(*words: str | Path, **environment: str) -> str:
    """What a command prints to a terminal, error output included."""
    primary, secondary = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "internal_dns", *map(str, words)],
            env={**os.environ, "TERM": "xterm", **environment},
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            timeout=20,
            check=False,
        )
        os.close(secondary)
        secondary = -1
        found = b""
        try:
            while part := os.read(primary, 65_536):
                found += part
        except OSError:  # the other end is closed: EIO
            pass
        return found.decode()
    finally:
        os.close(primary)
        if secondary >= 0:
            os.close(secondary)


@pytest.mark.slow
def test_a_terminal_gets_colours_and_no_color_and_pipes_get_plain_text(demo: Path) -> None:
    words = ("explain", "--catalog", demo, "iad.web.internal")
    assert ESCAPE in on_a_terminal(*words)
    plain = on_a_terminal(*words, NO_COLOR="1")
    assert ESCAPE not in plain
    assert plain.replace("\r\n", "\n") == spawn(*words).out


@pytest.mark.slow
def test_errors_are_coloured_on_a_terminal_only() -> None:
    words = ("check", "--catalog", "/nosuch.db")
    assert ESCAPE in on_a_terminal(*words)
    assert ESCAPE not in on_a_terminal(*words, NO_COLOR="1")
    assert ESCAPE not in spawn(*words).err
