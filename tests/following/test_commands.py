"""follow, source, address, and what other commands say of rows that a source owns."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.admin.api import Api
from internal_dns.cli.doctor.sources import check_sources
from internal_dns.core.catalog_rules import DEFAULT_RULES
from internal_dns.core.journey import Rules
from internal_dns.live.address import choose, spelled
from internal_dns.live.target import only_follower
from internal_dns.metrics import Metrics
from internal_dns.store.check import findings
from internal_dns.store.generate import create_catalog
from internal_dns.store.operations import perform
from internal_dns.store.sqlite import load
from internal_dns.store.writer import Writer
from internal_dns.transport.answer import Exchange
from tests.commands import Said, run
from tests.following.test_owned import machine, peer

PROGRAM = (sys.executable, "-W", "error", "-m", "internal_dns")


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.db"
    networks = [(24, "acme", ""), (25, "globex", "")]
    create_catalog(path, {"networks": networks, "regions": [("iad", "", 1.0, 1.0, 0)]})
    return path


def put(path: Path, *objects: list[Any], source: str = "podman") -> None:
    with Writer(path) as writer:
        request = {"op": "source apply", "source": source, "puts": list(objects), "deletes": []}
        assert perform(request, writer)["faults"] == []


def at(catalog: Path, *words: object) -> Said:
    return run(*words, "--catalog", catalog)


@contextmanager
def served(path: Path, *reports: dict[str, Any]) -> Iterator[None]:
    """The socket of a server of *path*, in a thread; it has heard *reports* of sources."""
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        exchange = Exchange(Rules(), Metrics())
        exchange.use(load(path).catalog)
        api = Api(path, exchange, DEFAULT_RULES)
        for report in reports:
            api.sources.report({"status": report})
        await api.start()
        ready.set()
        await asyncio.to_thread(done.wait)
        await api.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        done.set()
        thread.join()


# ── source ────────────────────────────────────────────────────────────────────────────────────────


def test_list_counts_rows_and_knows_nothing_of_a_follower_without_a_server(catalog: Path) -> None:
    put(catalog, machine("c1"), machine("c2", 8), peer("alice", 7))
    put(catalog, machine("g1", 3), source="git")
    said = at(catalog, "source", "list", "--json").json
    assert [(s["source"], s["machines"], s["peers"], s["up"]) for s in said] == [
        ("git", 1, 0, "unknown"),
        ("podman", 2, 1, "unknown"),
    ]
    assert at(catalog, "source", "list").out.splitlines()[2].split() == [
        "podman", "2", "1", "unknown",
    ]  # fmt: skip


def test_list_shows_what_followers_say(catalog: Path) -> None:
    put(catalog, machine("c1"))
    told = {"source": "podman", "kind": "podman", "up": True, "age_seconds": 3.0, "faults": 2}
    with served(catalog, told, {"source": "git", "kind": "directory", "problem": "no such"}):
        said = {s["source"]: s for s in at(catalog, "source", "list", "--json").json}
    assert (said["podman"]["up"], said["podman"]["faults"]) == ("yes", 2)
    assert (said["git"]["up"], said["git"]["problem"], said["git"]["machines"]) == (
        "no",
        "no such",
        0,
    )
    assert said["git"]["status"]["kind"] == "directory"


def test_an_empty_list_is_one(catalog: Path) -> None:
    assert at(catalog, "source", "list", "--json").json == []
    assert at(catalog, "source", "list").out.split()[0] == "source"


def test_rm_is_refused_while_a_follower_runs(catalog: Path) -> None:
    put(catalog, machine("c1"), peer("alice", 7))
    with only_follower(catalog, "podman"):
        said = at(catalog, "source", "rm", "podman", "--offline")
    assert said.code == 1
    assert "another process follows podman" in said.err
    said = at(catalog, "source", "rm", "podman", "--offline")
    assert (said.code, said.out) == (0, "2 rows of podman removed\n")
    assert at(catalog, "source", "list", "--json").json == []


@pytest.mark.parametrize("name", ["a b", "", "x" * 64, "ünï"])
def test_a_name_that_is_none_is_refused(catalog: Path, name: str) -> None:
    assert at(catalog, "source", "rm", name, "--offline").code == 2
    assert at(catalog, "follow", "podman", "--name", name).code == 2


# ── follow ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("follow", "kubernetes"), "kubernetes"),
        (("follow", "directory"), "needs the PATH"),
        (("follow", "wireguard", "/etc"), "takes no ADDRESS"),
        (("follow", "docker", "tcp://192.0.2.1:2375"), "only the UNIX socket"),
        (("follow", "podman", "--offline", "--to", "nats://127.0.0.1/x"), "choose one"),
        (("follow", "podman", "--metrics", "nowhere"), "nowhere"),
        (("follow", "podman", "--app", "a b"), "1 to 63 letters"),
    ],
)
def test_what_cannot_be_followed_is_a_usage_error(
    catalog: Path, words: tuple[str, ...], why: str
) -> None:
    said = at(catalog, *words)
    assert said.code == 2
    assert why in said.err


def test_a_catalog_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    said = at(tmp_path / "none.db", "follow", "podman")
    assert (said.code, "there is no such file" in said.err) == (78, True)


@pytest.mark.slow
def test_a_directory_is_followed_until_sigterm(catalog: Path, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    document = {"networks": {"acme": {"id": 24, "apps": {"web": {"machines": [
        {"id": "d1", "address": "fdaa:0:18:1:1:0:1:2", "region": "iad", "state": "started"},
    ]}}}}}  # fmt: skip
    (folder / "a.json").write_text(json.dumps(document))
    words = ("follow", "directory", str(folder), "--name", "git", "--offline")
    with subprocess.Popen(
        (*PROGRAM, *words, "--catalog", str(catalog)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == f"following  git (directory) for {catalog}\n"
        assert process.stderr.readline() == "INFO git: 1 written, 0 deleted, 0 at fault\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    rows = at(catalog, "machine", "list", "--json").json
    assert [(row["id"], row["source"]) for row in rows] == [("d1", "git")]


# ── people and sources ────────────────────────────────────────────────────────────────────────────


def test_a_row_of_a_source_is_changed_with_force_only(catalog: Path) -> None:
    put(catalog, machine("c1"))
    said = at(catalog, "machine", "stop", "c1", "--offline")
    assert said.code == 1
    assert "belongs to the live source podman" in said.err
    assert at(catalog, "machine", "stop", "c1", "--offline", "--force").code == 0
    assert at(catalog, "network", "rm", "acme", "--cascade", "--offline").code == 1


def test_diff_and_export_leave_rows_of_sources_out(catalog: Path, tmp_path: Path) -> None:
    put(catalog, machine("c1"))
    said = at(catalog, "export")
    assert "c1" not in said.out
    assert "1 row not exported" in said.err
    assert 'source = "podman"' in at(catalog, "export", "--all").out
    document = tmp_path / "d.toml"
    document.write_text(said.out)
    assert at(catalog, "diff", document).code == 0
    everything = at(catalog, "diff", document, "--all")
    assert (everything.code, "c1 of acme/web (source podman)" in everything.out) == (1, True)
    claiming = at(catalog, "export", "--all").out.replace('source = "podman"\n', "")
    document.write_text(claiming)
    claimed = at(catalog, "diff", document)
    assert claimed.code == 1
    assert "machine c1 belongs to the live source podman" in claimed.err


@pytest.mark.parametrize(
    ("status", "level", "says"),
    [
        ({"up": True, "age_seconds": 3.0, "rows": 7}, "ok", "podman, 7 rows, read 3 s ago"),
        ({"up": True, "age_seconds": 3.0, "held": 2}, "ok", "2 held as not ready"),
        ({"problem": "the engine is away"}, "warn", "never read"),
        ({"up": True, "age_seconds": 1.0, "faults": 1, "fault_lines": ["m1: taken"]}, "warn",
         "1 at fault"),
        ({"up": True, "age_seconds": 1.0, "problem": "no server"}, "warn", "read 1 s ago"),
    ],
)  # fmt: skip
def test_doctor_judges_sources(
    catalog: Path, status: dict[str, Any], level: str, says: str
) -> None:
    with served(catalog, {"source": "podman", "kind": "podman", **status}):
        (found,) = check_sources(str(catalog))
    assert (found.level, found.what) == (level, "source podman")
    assert says in found.says
    if level == "warn":
        assert found.why
        assert found.do


# ── address ───────────────────────────────────────────────────────────────────────────────────────


def address(catalog: Path, name: str, host: str = "a7b:13", network: str = "acme") -> str:
    said = at(catalog, "address", network, "--host", host, "--for", name)
    assert said.code == 0, said.err
    return said.out.strip()


def test_a_name_has_one_address_on_a_host_and_network(catalog: Path) -> None:
    first = address(catalog, "web-1")
    assert first.startswith("fdaa:0:18:a7b:13:")
    assert first.endswith(":2")
    assert address(catalog, "web-1") == address(catalog, "WEB-1") == first
    assert address(catalog, "web-2") != first
    assert address(catalog, "web-1", host="a7b:14") == first.replace(":13:", ":14:")
    assert address(catalog, "web-1", network="globex") == first.replace(":18:", ":19:")
    assert at(catalog, "address", "acme", "--host", "1", "--for", "x", "--json").json["address"]


def test_the_address_of_another_name_is_passed_over(catalog: Path) -> None:
    first = address(catalog, "web-1")
    put(catalog, machine("c1", address=first, name="web-1"))
    assert address(catalog, "web-1") == first  # its own row
    put(catalog, machine("c1", address=first, name="other"))
    block = int(IPv6Address(first)) >> 16
    assert int(IPv6Address(address(catalog, "web-1"))) == (block + 1 << 16) + 2


@pytest.mark.parametrize(
    "words",
    [
        ("acme", "--host", "none", "--for", "x"),
        ("acme", "--host", "a7b:13", "--for", ""),
        ("acme", "--host", "fffff:0", "--for", "x"),
        ("nowhere", "--host", "a7b:13", "--for", "x"),
        ("acme", "--for", "x"),
    ],
)
def test_an_address_of_nothing_is_refused(catalog: Path, words: tuple[str, ...]) -> None:
    assert at(catalog, "address", *words).code in (1, 2)


NAMES = st.text(min_size=1, max_size=70)
NETWORK = bytes.fromhex("fdaa00000018")


@given(NAMES, st.sets(st.integers(0, 3)), st.integers(0, 0xFFFF_FFFF))
def test_a_chosen_address_is_free_and_the_names_own(name: str, taken: set[int], host: int) -> None:
    """Never the /112 of 0, where engines put gateways; probing ends at the first free one."""
    first = choose(NETWORK, host, name, {})
    assert first[:10] == NETWORK + host.to_bytes(4, "big")
    assert first[10:14] != bytes(4)
    assert first[14:] == b"\0\2"
    start = int.from_bytes(first[10:14], "big")
    blocks = {
        first[:10] + ((start + n) & 0xFFFF_FFFF or 1).to_bytes(4, "big"): {"another name"}
        for n in taken
    }
    other = choose(NETWORK, host, name, blocks)
    assert other[:14] not in blocks
    own = {other[:14]: {spelled(name)}}
    assert choose(NETWORK, host, name, blocks | own) == other


def test_check_reports_two_machines_in_one_block(catalog: Path) -> None:
    put(
        catalog,
        machine("c1", address="fdaa:0:18:a7b:13:0:5:2"),
        machine("c2", address="fdaa:0:18:a7b:13:0:5:3"),
        machine("c3", address="fdaa:0:18:a7b:13:0:6:2"),
        machine("c4", address="fdaa:0:18:a7b:13:0:6:3", state="stopped"),
    )
    found = [f for f in findings(load(catalog)) if "/112" in f.what]
    assert [f.what for f in found] == [
        "machines c1 and c2 share fdaa:0:18:a7b:13:0:5:0/112, which belongs to one"
    ]
