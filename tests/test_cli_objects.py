"""The commands that look at a catalog and change it: through a server that runs, and without
one."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from internal_dns.store import writer as writing
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import load
from internal_dns.store.writer import Writer
from tests.commands import Said, run
from tests.core.messages import insert
from tests.live.hosts import MAP_LOOPBACK, Served, addresses, ask, serving

FIXTURES = Path(__file__).parent / "sources" / "fixtures"
OK, FINDING, USAGE, UNREACHABLE, CONFIGURATION = 0, 1, 2, 3, 78
# Real files, processes and a real server: with the live tests, so that `make unit` stays below a
# minute.
pytestmark = pytest.mark.live

_numbers = count(0x100)


def told(said: Said, code: int) -> dict[str, str]:
    """The lines of an error: what, why and what to do, each present."""
    assert said.code == code, said
    assert "Traceback" not in said.err
    found = dict(re.findall(r"^(error| +why| +do) +(\S.*)$", said.err, re.MULTILINE))
    found = {key.strip(): words for key, words in found.items()}
    assert found.keys() == {"error", "why", "do"}, said.err
    return found


@dataclass
class At:
    """A catalog, how it is written, and a network of one test's own."""

    catalog: Path
    server: Served | None
    number: int
    name: str

    @property
    def prefix(self) -> str:
        return f"fdaa:0:{self.number:x}"

    def read(self, *words: object, code: int = OK, stdin: str | None = None) -> Said:
        said = run(*words, "--catalog", self.catalog, stdin=stdin)
        assert said.code == code, said
        return said

    def json(self, *words: object) -> Any:
        return self.read(*words, "--json").json

    def write(self, *words: object, code: int = OK, stdin: str | None = None) -> Said:
        how = [] if self.server else ["--offline"]
        return self.read(*words, *how, code=code, stdin=stdin)

    def changed(self, *words: object) -> int:
        """How many rows a command says it has changed; with --json, and waiting for a server."""
        reply = self.write(*words, "--json", *(["--wait"] * bool(self.server))).json
        assert reply.keys() == {"revision", "rows"} | ({"visible"} if self.server else set())
        assert reply.get("visible", True) is True
        return int(reply["rows"])

    def refused(self, *words: object, code: int = FINDING) -> str:
        """Why a change is refused; nothing may have changed."""
        before = content(self.catalog)
        why = told(self.write(*words, code=code), code)
        assert content(self.catalog) == before
        return " ".join(why.values())

    def machine(self, ident: str, last: int = 1, **more: str) -> str:
        """Add a machine; return its address."""
        address = f"{self.prefix}:a7b:7d:1:{last:x}:2"
        options = {
            "network": self.name,
            "app": "web",
            "region": "iad",
            "state": "started",
            "address": address,
            **more,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        assert self.changed("machine", "add", ident, *words) == 1
        return address


def content(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return [*connection.iterdump()]


@pytest.fixture(autouse=True)
def _a_host_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("INTERNAL_DNS_")]:
        monkeypatch.delenv(variable)


@pytest.fixture(scope="module", params=["offline", "server"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Any]]:
    path = tmp_path_factory.mktemp(request.param) / "catalog.db"
    create_catalog(path, demo_rows())
    if request.param == "offline":
        yield path, None
        return
    with serving(path) as server:
        yield path, server


@pytest.fixture
def at(place: tuple[Path, Served | None]) -> At:
    number = next(_numbers)
    made = At(*place, number, f"t{number}")
    assert made.changed("network", "add", made.name, "--id", f"{made.prefix}::/48") == 1
    return made


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    create_catalog(tmp_path / "demo.db", demo_rows())
    return tmp_path / "demo.db"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    create_catalog(tmp_path / "empty.db", {})
    return tmp_path / "empty.db"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A catalog that another engine maintains."""
    path = tmp_path / "foreign.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(resources.files("internal_dns").joinpath("schema.sql").read_text())
        for table, rows in demo_rows().items():
            insert(connection, table, rows)
    return path


# ── network ───────────────────────────────────────────────────────────────────────────────────────


def test_network(at: At) -> None:
    listed = {row["name"]: row for row in at.json("network", "list")}
    assert listed[at.name] == {
        "id": at.number, "name": at.name, "organization": "", "prefix": f"{at.prefix}::/48",
    }  # fmt: skip
    line = next(
        line
        for line in at.read("network", "list").out.splitlines()
        if line.startswith(f"{at.name} ")
    )
    assert line.split() == [at.name, f"{at.prefix}::/48", str(at.number)]
    routes = at.read("network", "list", "--routes").out.splitlines()
    assert f"ip -6 route add local {at.prefix}::3/128 dev lo" in routes
    assert at.json("network", "show", at.name) == listed[at.name] | {
        "apps": [], "peers": [], "zones": [], "records": 0,
    }  # fmt: skip
    for same in (at.number, f"{at.prefix}::/48", f"{at.prefix}::", at.name.upper()):
        assert at.json("network", "show", same)["id"] == at.number
    assert at.changed("network", "set", at.name, "--organization", "acme") == 1
    assert at.changed("network", "set", at.name, "--organization", "acme") == 0
    assert at.write("network", "set", at.name).out == "no change\n"
    assert at.changed("network", "set", at.name, "--name", f"{at.name}-new") == 1
    assert "the catalog has: " in at.refused("network", "set", at.name, "--name", "x")
    assert at.json("network", "show", f"{at.name}-new")["organization"] == "acme"
    assert "already exists" in at.refused("network", "add", "other", "--id", at.number)
    assert "no valid name" in at.refused("network", "set", f"{at.name}-new", "--name", "bad name")
    assert at.changed("network", "rm", f"{at.name}-new") == 1
    assert told(at.read("network", "show", f"{at.name}-new", code=FINDING), FINDING)


def test_a_network_that_is_not_empty_goes_with_all_it_has_when_that_is_said(at: At) -> None:
    at.machine(f"m{at.number}", app="web")
    at.changed("machine", "set", f"m{at.number}", "--metadata", "k=v", "--service", "http/tcp:80")
    at.changed("app", "add", f"{at.name}/blog")
    at.changed("peer", "add", f"{at.name}/p", "--address", f"{at.prefix}:a7b:7d:1:9:102")
    at.changed("flycast", "add", f"{at.name}/web", f"{at.prefix}:0:1::2")
    assert "4 rows belong to it" in at.refused("network", "rm", at.name)
    assert at.json("network", "show", at.name)["apps"] == ["blog", "web"]
    assert at.changed("network", "rm", at.name, "--cascade") == 5
    with closing(sqlite3.connect(at.catalog)) as connection:
        for table in ("machine_metadata", "machine_services"):
            found = connection.execute(
                f"SELECT * FROM {table} WHERE machine_id = 'm{at.number}'"
            ).fetchall()
            assert found == []


@pytest.mark.parametrize(
    "wrong", ["acme", "", "-1", "2001:db8::/48", "fdaa:0:18::/64", "fdaa:0:18::5", "fe80::/48"]
)
def test_a_network_id_that_is_none_is_a_usage_error(at: At, wrong: str) -> None:
    before = content(at.catalog)
    said = at.write("network", "add", "x", f"--id={wrong}", code=USAGE)
    assert "--id" in said.err
    assert content(at.catalog) == before


@pytest.mark.parametrize("wrong", ["0", str(1 << 32), "9" * 30])
def test_a_network_id_out_of_bounds_is_refused(at: At, wrong: str) -> None:
    before = content(at.catalog)
    said = run(
        "network",
        "add",
        "x",
        "--id",
        wrong,
        "--catalog",
        at.catalog,
        *([] if at.server else ["--offline"]),
    )
    assert said.code in (FINDING, USAGE)
    assert content(at.catalog) == before


# ── app ───────────────────────────────────────────────────────────────────────────────────────────


def test_app(at: At) -> None:
    assert at.changed("app", "add", f"{at.name}/blog") == 1
    assert "already exists" in at.refused("app", "add", f"{at.name}/blog")
    at.machine(f"m{at.number}")
    at.machine(f"n{at.number}", 2, state="stopped")
    assert at.json("app", "list", "--network", at.name) == [
        {"network": at.name, "app": "blog", "machines": 0, "started": 0},
        {"network": at.name, "app": "web", "machines": 2, "started": 1},
    ]
    assert at.read("app", "list", "--network", at.name).out.splitlines()[2].split() == [
        at.name,
        "web",
        "2",
        "1",
    ]
    assert len(at.json("app", "list")) >= 9
    assert at.json("app", "show", f"{at.name}/blog") == {
        "network": at.name,
        "app": "blog",
        "machines": [],
    }
    shown = at.json("app", "show", f"{at.name}/WEB")["machines"]
    assert shown == [f"m{at.number} iad app started {at.prefix}:a7b:7d:1:1:2",
                     f"n{at.number} iad app stopped {at.prefix}:a7b:7d:1:2:2"]  # fmt: skip
    assert "has 2 machines" in at.refused("app", "rm", f"{at.name}/web")
    assert at.changed("app", "rm", f"{at.name}/web", "--cascade") == 2
    assert at.changed("app", "rm", f"{at.name}/blog") == 1
    assert at.json("app", "list", "--network", at.name) == []
    assert "there is no app" in at.refused("app", "rm", f"{at.name}/blog")
    assert (
        "there is no app"
        in told(at.read("app", "show", f"{at.name}/blog", code=FINDING), FINDING)["error"]
    )
    assert "bad name" in at.refused("app", "add", f"{at.name}/bad name")


def test_a_name_without_its_network_is_a_usage_error(at: At) -> None:
    for words in (("app", "show", "web"), ("peer", "show", "/x"), ("flycast", "show", "x/")):
        assert "does not name a network" in at.read(*words, code=USAGE).err
    for words in (
        ("app", "add", "web"),
        ("app", "rm", "web"),
        ("peer", "rm", "x"),
        ("flycast", "rm", "x"),
    ):
        assert "does not name a network" in at.write(*words, code=USAGE).err


# ── machine ───────────────────────────────────────────────────────────────────────────────────────


def test_machine(at: At) -> None:
    ident = f"m{at.number}"
    address = f"{at.prefix}:a7b:7d:1:1:2"
    assert at.changed(
        "machine", "add", ident, "--network", at.name, "--app", "web", "--address", address,
        "--region", "iad",
        "--group", "worker", "--metadata", "role=leader", "--metadata", "empty=", "--service",
        "http/tcp:8080",
    ) == 4  # fmt: skip
    shown = at.json("machine", "show", ident)
    assert time.time() - 60 < shown.pop("updated_at") <= time.time()
    assert shown == {
        "id": ident, "network_id": at.number, "app": "web", "address": address, "region": "iad",
        "process_group": "worker", "state": "created", "skip_registration": 0, "ready": 1,
        "name": "", "source": "",
        "metadata": {"role": "leader", "empty": ""}, "services": ["http/tcp:8080"],
    }  # fmt: skip
    text = at.read("machine", "show", ident).out
    assert re.search(r"^metadata +role=leader$", text, re.MULTILINE)
    assert re.search(r"^services +http/tcp:8080$", text, re.MULTILINE)
    listed = at.json("machine", "list", "--network", at.name)
    assert [(row["id"], row["network"], row["state"]) for row in listed] == [
        (ident, at.name, "created")
    ]
    for option, value, found in (("app", "web", 1), ("app", "x", 0), ("state", "created", 1),
    ("state", "started", 0),
                                 ("region", "iad", 1), ("region", "ams", 0)):  # fmt: skip
        assert len(at.json("machine", "list", "--network", at.name, f"--{option}", value)) == found
    assert at.changed("machine", "start", ident) == 1
    assert at.changed("machine", "start", ident) == 0
    assert at.changed("machine", "stop", ident) == 1
    assert (
        at.changed(
            "machine",
            "set",
            ident,
            "--state",
            "suspended",
            "--region",
            "ams",
            "--skip-registration",
        )
        == 1
    )
    assert at.changed("machine", "set", ident, "--register", "--group", "app", "--app", "api") == 1
    assert at.changed("machine", "set", ident, "--ready", "no", "--name", "blue") == 1
    shown = at.json("machine", "show", ident)
    assert (shown["ready"], shown["name"]) == (0, "blue")
    assert at.changed("machine", "set", ident, "--ready", "yes", "--name", "") == 1
    assert at.changed("machine", "set", ident, "--service", "http/tcp:8080/10/5") == 1
    assert at.json("machine", "show", ident)["services"] == ["http/tcp:8080/10/5"]
    assert at.changed("machine", "set", ident, "--service", "http/tcp:8080/0/1") == 1
    assert "0 to 65535" in at.refused("machine", "set", ident, "--service", "x/tcp:1/2/70000")
    assert "without its name" in at.refused("machine", "set", ident, "--name", "a b")
    assert (
        at.changed(
            "machine", "set", ident, "--metadata", "role=replica", "--service", "http/tcp:80"
        )
        == 2
    )
    assert (
        at.changed("machine", "set", ident, "--service", "dns/udp:53", "--service", "dns/tcp:53")
        == 2
    )
    assert at.write("machine", "set", ident).out == "no change\n"
    shown = at.json("machine", "show", ident)
    assert (shown["state"], shown["region"], shown["skip_registration"], shown["app"]) == (
        "suspended",
        "ams",
        0,
        "api",
    )
    assert shown["metadata"]["role"] == "replica"
    assert shown["services"] == ["dns/tcp:53", "dns/udp:53", "http/tcp:80"]
    assert "already exists" in at.refused(
        "machine",
        "add",
        ident,
        "--network",
        at.name,
        "--app",
        "x",
        "--address",
        f"{address}1",
        "--region",
        "iad",
    )
    assert at.changed("machine", "rm", ident) == 1
    for verb in ("start", "stop", "rm", "set"):
        assert "there is no machine" in at.refused("machine", verb, ident)
    assert (
        "there is no machine"
        in told(at.read("machine", "show", ident, code=FINDING), FINDING)["error"]
    )


def test_several_machines_are_started_and_removed_at_once_or_not_at_all(at: At) -> None:
    idents = [f"a{at.number}", f"b{at.number}", f"c{at.number}"]
    for last, ident in enumerate(idents, 1):
        at.machine(ident, last)
    assert at.changed("machine", "stop", *idents) == 3
    assert "nobody" in at.refused("machine", "start", *idents, "nobody")
    assert at.changed("machine", "start", *idents[:2]) == 2
    assert at.changed("machine", "rm", *idents) == 3
    assert at.write("machine", "rm", code=USAGE).err


def test_a_machine_that_cannot_be_is_refused(at: At) -> None:
    ident = f"m{at.number}"
    address = at.machine(ident)
    other = (
        "machine",
        "add",
        "other",
        "--network",
        at.name,
        "--app",
        "web",
        "--region",
        "iad",
        "--state",
        "started",
    )
    assert ident in at.refused(*other, "--address", address)
    assert "is not one of" in at.refused(*other, "--address", "fdaa:0:18::1")
    assert "no valid app" in at.refused("machine", "set", ident, "--app", "a.b")
    assert "no valid region" in at.refused("machine", "set", ident, "--region", "")
    assert "no valid id" in at.refused(
        *("machine", "add", "o'ther; --"), *other[3:], "--address", f"{address}1"
    )
    assert "the port is" in at.refused("machine", "set", ident, "--service", "http/tcp:70000")
    assert "tcp or udp" in at.refused("machine", "set", ident, "--service", "http/sctp:70")
    for option, wrong in (("metadata", "x"), ("metadata", "=x"), ("service", "http"),
    ("service", "http/tcp"),
                          ("service", "http/tcp:x"), ("service", "/tcp:1"),
                          ("service", "http/tcp:-1")):  # fmt: skip
        said = at.write("machine", "set", ident, f"--{option}", wrong, code=USAGE)
        assert f"--{option}" in said.err
    assert (
        "--address"
        in at.write("machine", "add", "x", "--network", at.name, "--app", "x", code=USAGE).err
    )
    assert "the catalog has" in at.refused(*other[:4], "nowhere", *other[5:], "--address", address)


def test_text_that_is_not_ascii_or_not_text_is_shown_and_refused_well(at: At) -> None:
    ident = f"m{at.number}"
    at.machine(ident)
    assert (
        at.changed("machine", "set", ident, "--metadata", "ключ=значение", "--metadata", "a=b=c\n")
        == 2
    )
    assert at.json("machine", "show", ident)["metadata"] == {"ключ": "значение", "a": "b=c\n"}
    assert at.refused("machine", "set", ident, "--group", "ключ")
    how = [] if at.server else ["--offline"]
    said = run("machine", "set", ident, "--group", "\udcff", "--catalog", at.catalog, *how)
    assert said.code in (FINDING, USAGE)
    assert "Traceback" not in said.err


# ── peer, region, flycast ─────────────────────────────────────────────────────────────────────────


def test_peer(at: At) -> None:
    address = f"{at.prefix}:a7b:7d:1:1:102"
    assert at.changed("peer", "add", f"{at.name}/alice", "--address", address) == 1
    assert "already exists" in at.refused("peer", "add", f"{at.name}/alice", "--address", address)
    row = {"network_id": at.number, "name": "alice", "address": address, "region": "", "source": ""}
    assert at.json("peer", "show", f"{at.name}/alice") == row
    assert at.json("peer", "list", "--network", at.name) == [row | {"network": at.name}]
    assert len(at.json("peer", "list")) >= 6
    assert address in at.read("peer", "list").out
    lines = at.read("peer", "show", f"{at.name}/alice", "--wireguard").out.splitlines()
    assert f"Address = {address}/120" in lines
    assert not any(line.startswith("DNS") for line in lines)  # every other name stays away
    value = at.json("peer", "show", f"{at.name}/alice", "--wireguard")
    assert value["DNS"] == f"{at.prefix}::3"
    assert value["AllowedIPs"] == [f"{at.prefix}::/48", "fdaa::3/128"]
    assert value["domains"][:2] == ["internal", "flycast"]
    for line in lines:  # each recipe names the server, and each domain
        if line.startswith(("PostUp", "#   nmcli", "#   Add-Dns")):
            assert value["DNS"] in line
            assert all(domain in line for domain in value["domains"])
    assert at.changed("peer", "set", f"{at.name}/alice", "--region", "ams") == 1
    assert at.changed("peer", "set", f"{at.name}/alice", "--region", "ams") == 0
    assert at.changed("peer", "set", f"{at.name}/alice", "--address", f"{address[:-3]}202") == 1
    assert "is not one of" in at.refused(
        "peer", "set", f"{at.name}/alice", "--address", "fdaa:0:18::1"
    )
    assert "no valid region" in at.refused("peer", "set", f"{at.name}/alice", "--region", "a b")
    assert at.changed("peer", "rm", f"{at.name}/alice") == 1
    for verb in ("set", "rm"):
        assert "there is no peer" in at.refused("peer", verb, f"{at.name}/alice")
    told(at.read("peer", "show", f"{at.name}/alice", code=FINDING), FINDING)


def test_region(at: At) -> None:
    code = f"r{at.number:x}"
    assert (
        at.changed(
            "region", "add", code, "--name", "Somewhere", "--latitude", "1.5", "--longitude", "-2"
        )
        == 1
    )
    assert "already exists" in at.refused("region", "add", code)
    row = {"code": code, "name": "Somewhere", "latitude": 1.5, "longitude": -2.0, "gateway": 0}
    assert at.json("region", "show", code) == row
    assert row in at.json("region", "list")
    assert at.changed("region", "set", code, "--gateway", "--name", "Here") == 1
    assert at.json("region", "show", code)["gateway"] == 1
    assert re.search(rf"^{code} +Here +1.5 +-2.0 +1$", at.read("region", "list").out, re.MULTILINE)
    assert at.refused("region", "set", code, "--latitude", "91")
    assert at.refused("region", "add", "bad code")
    assert at.write("region", "set", code, "--latitude", "north", code=USAGE).err
    assert at.changed("region", "rm", code) == 1
    for verb in ("set", "rm"):
        assert "there is no region" in at.refused("region", verb, code)
    told(at.read("region", "show", code, code=FINDING), FINDING)


def test_flycast(at: At) -> None:
    one, two = f"{at.prefix}:0:1::2", f"{at.prefix}:0:1::3"
    assert at.changed("flycast", "add", f"{at.name}/web", one) == 1
    assert at.changed("flycast", "add", f"{at.name}/web", two) == 1
    assert "already exists" in at.refused("flycast", "add", f"{at.name}/web", one)
    shown = {"network": at.name, "app": "web", "addresses": [one, two]}
    assert at.json("flycast", "show", f"{at.name}/web") == shown
    assert [row["address"] for row in at.json("flycast", "list", "--network", at.name)] == [
        one,
        two,
    ]
    assert one in at.read("flycast", "list").out
    assert "is not one of" in at.refused("flycast", "add", f"{at.name}/web", "fdaa:0:18:0:1::2")
    assert at.changed("flycast", "rm", f"{at.name}/web", one) == 1
    assert "there is no flycast" in at.refused("flycast", "rm", f"{at.name}/web", one)
    assert at.changed("flycast", "rm", f"{at.name}/web") == 1
    told(at.read("flycast", "show", f"{at.name}/web", code=FINDING), FINDING)


def test_words_say_what_a_change_did(at: At) -> None:
    said = at.write("app", "add", f"{at.name}/x").out
    assert re.fullmatch(r"1 row changed, revision \d+\n", said)
    if at.server:
        assert re.fullmatch(
            r"1 row changed, revision \d+, visible\n",
            at.write("app", "rm", f"{at.name}/x", "--wait").out,
        )


@pytest.mark.parametrize("group", ["network", "app", "machine", "peer", "region", "flycast"])
def test_every_command_of_a_group_explains_itself(group: str) -> None:
    verbs = re.findall(
        r"^  ([a-z]+)  +\S", run(group, "--help").out.partition("Commands:")[2], re.MULTILINE
    )
    assert set(verbs) >= {"list", "show", "add", "rm"}
    for verb in verbs:
        said = run(group, verb, "--help")
        assert said.code == OK
        assert ("--offline" in said.out) == ("--wait" in said.out) == (verb not in ("list", "show"))
        assert "--json" in said.out
        assert "--catalog" in said.out


READS: list[tuple[str, ...]] = [
    ("network", "list"), ("network", "show", "acme"), ("app", "list"), ("app", "show", "acme/web"),
    ("machine", "list"), ("machine", "show", "3d8d9930b03989"), ("peer", "list"),
    ("peer", "show", "acme/alice-laptop"),
    ("region", "list"), ("region", "show", "iad"), ("flycast", "list"),
    ("flycast", "show", "acme/db"), ("export",),
    ("check",), ("network", "list", "--routes"),
    ("peer", "show", "acme/alice-laptop", "--wireguard"),
]  # fmt: skip
WRITES: list[tuple[str, ...]] = [
    ("network", "add", "new", "--id", "99"), ("network", "set", "acme", "--name", "x"),
    ("network", "rm", "acme", "--cascade"), ("app", "add", "acme/new"), ("app", "rm", "acme/blog"),
    ("machine", "add", "new", "--network", "acme", "--app", "x", "--address", "fdaa:0:18::9",
    "--region", "iad"),
    ("machine", "set", "3d8d9930b03989", "--state", "x"), ("machine", "start", "3d8d9930b03989"),
    ("machine", "stop", "3d8d9930b03989"), ("machine", "rm", "3d8d9930b03989"),
    ("peer", "add", "acme/x", "--address", "fdaa:0:18::9:102"),
    ("peer", "set", "acme/alice-laptop", "--region", "ams"),
    ("peer", "rm", "acme/alice-laptop"), ("region", "add", "xyz"),
    ("region", "set", "iad", "--name", "x"),
    ("region", "rm", "iad"), ("flycast", "add", "acme/x", "fdaa:0:18:0:1::9"),
    ("flycast", "rm", "acme/db"),
]  # fmt: skip


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_every_read_has_json_and_works_on_a_foreign_file(
    demo: Path, foreign: Path, words: tuple[str, ...]
) -> None:
    ours, theirs = (run(*words, "--catalog", path, "--json") for path in (demo, foreign))
    assert ours.code == theirs.code
    assert ours.code == OK or words == ("check",)
    assert ours.json == theirs.json
    assert run(*words, "--catalog", demo).out == run(*words, "--catalog", foreign).out.replace(
        "foreign.db", "demo.db"
    )


@pytest.mark.parametrize("words", [*READS, *WRITES], ids=" ".join)
def test_without_a_catalog_every_command_says_how_to_make_one(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    absent = tmp_path / "absent.db"
    said = told(run(*words, "--catalog", absent, *["--offline"] * (words in WRITES)), CONFIGURATION)
    assert str(absent) in said["error"]
    assert said["why"] == "there is no such file"
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("words", [*READS, *WRITES], ids=" ".join)
def test_what_is_no_catalog_is_said(tmp_path: Path, words: tuple[str, ...]) -> None:
    (path := tmp_path / "text.db").write_bytes(os.urandom(8_192))
    said = told(run(*words, "--catalog", path, *["--offline"] * (words in WRITES)), CONFIGURATION)
    assert "not a database" in said["why"]


@pytest.mark.parametrize("words", WRITES, ids=" ".join)
def test_without_a_server_a_write_says_how_to_start_one(demo: Path, words: tuple[str, ...]) -> None:
    before = content(demo)
    said = told(run(*words, "--catalog", demo), UNREACHABLE)
    assert "serve --catalog" in said["do"]
    assert "--offline" in said["do"]
    assert content(demo) == before


@pytest.mark.parametrize("words", WRITES, ids=" ".join)
def test_a_foreign_file_is_not_written(foreign: Path, words: tuple[str, ...]) -> None:
    before = foreign.read_bytes()
    said = told(run(*words, "--catalog", foreign, "--offline"), USAGE)
    assert "has no journal: another engine maintains" in said["why"]
    assert foreign.read_bytes() == before


def test_no_second_process_writes_offline(demo: Path) -> None:
    with Writer(demo):
        said = told(run("app", "add", "acme/x", "--catalog", demo, "--offline"), USAGE)
    assert "another internal-dns process is writing" in said["why"]
    assert "--offline" in said["do"]


def test_a_shell_that_holds_the_file_is_said(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BUSY_TIMEOUT", 0.1)
    with closing(sqlite3.connect(demo, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        said = told(run("app", "add", "acme/x", "--catalog", demo, "--offline"), CONFIGURATION)
    assert "locked" in said["why"]


# ── apply, diff, export ───────────────────────────────────────────────────────────────────────────

DOCUMENT = """
[networks.NAME]
id = "PREFIX::/48"

[[networks.NAME.apps.web.machines]]
id = "NAMEa"
address = "PREFIX:a7b:7d:1:1:2"
region = "iad"
state = "started"
metadata = { role = "leader" }
services = [{ name = "http", port = 80 }]

[[networks.NAME.apps.web.machines]]
id = "NAMEb"
address = "PREFIX:a7b:7d:1:2:2"
region = "ams"
state = "started"

[networks.NAME.apps.blog]

[networks.NAME.peers.alice]
address = "PREFIX:a7b:7d:1:1:102"

[networks.NAME.flycasts]
web = ["PREFIX:0:1::2"]
"""


def document(at: At) -> str:
    return DOCUMENT.replace("NAME", at.name).replace("PREFIX", at.prefix)


@pytest.mark.parametrize("kind", ["toml", "json", "stdin toml", "stdin json"])
def test_a_document_is_applied_whole_and_again_changes_nothing(
    at: At, tmp_path: Path, kind: str
) -> None:
    text = document(at)
    if "json" in kind:
        text = json.dumps(tomllib.loads(text), indent=1)
    stdin = text if "stdin" in kind else None
    file = "-" if stdin else str(tmp_path / f"catalog.{kind}")
    if not stdin:
        Path(file).write_text(text)
    assert at.read("diff", file, code=FINDING, stdin=stdin).out
    first = at.write("apply", file, "--json", stdin=stdin).json
    assert first["rows"] == 8
    assert first["summary"].startswith("2 apps added")
    assert {line[0] for line in first["lines"]} == {"+"}
    before = content(at.catalog)
    again = at.write("apply", file, stdin=stdin).out
    assert again.startswith("nothing to change\n")
    assert content(at.catalog) == before
    assert at.read("diff", file, stdin=stdin).out == "nothing to change\n"
    found = load(at.catalog).catalog.networks[at.number]  # type: ignore[index]
    assert {name: len(app.machines) for name, app in found.apps.items()} == {b"web": 2, b"blog": 0}
    # What the document does not name any more goes.
    smaller = text.replace("[networks." + at.name + ".apps.blog]", "") if "toml" in kind else text
    if smaller != text:
        assert at.write("apply", "-", "--json", stdin=smaller).json["lines"] == [
            f"- app {at.name}/blog"
        ]


def test_a_dry_run_tells_rows_and_answers_and_changes_nothing(at: At) -> None:
    at.write("apply", "-", stdin=document(at))
    before = content(at.catalog)
    changed = document(at).replace('state = "started"', 'state = "stopped"', 1)
    reply = at.write("apply", "-", "--dry-run", "--json", stdin=changed).json
    assert reply["lines"] == [f"~ machine {at.name}a of {at.name}/web: state started -> stopped"]
    assert "revision" not in reply
    answers = {answer["name"]: answer for answer in reply["answers"]}
    assert answers["web.internal"] == {
        "network": at.name, "name": "web.internal", "type": "AAAA",
        "before": f"{at.prefix}:a7b:7d:1:1:2, {at.prefix}:a7b:7d:1:2:2",
        "after": f"{at.prefix}:a7b:7d:1:2:2",
    }  # fmt: skip
    assert answers[f"{at.name}a.vm.web.internal"]["after"].startswith("no data")
    assert "web.flycast" not in answers
    text = at.write("apply", "-", "--dry-run", "--wait", stdin=changed).out
    assert f"answer  {at.name}  web.internal\n" in text
    assert f"  + {at.prefix}:a7b:7d:1:2:2\n" in text
    gone = at.write(
        "apply", "-", "--dry-run", "--json", stdin=f"[networks.{at.name}]\nid = {at.number}\n"
    ).json
    assert {a["name"]: a["after"][:8] for a in gone["answers"]}["web.internal"] == "NXDOMAIN"
    some = at.write("apply", "-", "--dry-run", "--limit", "2", "--json", stdin=changed).json
    assert some["answers"] == reply["answers"][:2]
    assert some["answers_changed"] == reply["answers_changed"] == len(reply["answers"])
    text = at.write("apply", "-", "--dry-run", "--limit", "0", stdin=changed).out
    assert "… and 1 more changes (--limit N shows more)\n" in text
    assert f"… and {len(reply['answers'])} more answers (--limit N shows more)\n" in text
    assert content(at.catalog) == before
    assert at.write("apply", "-", "--dry-run", "--json", stdin=document(at)).json["answers"] == []


def test_a_machine_moves_between_networks_only_when_that_is_allowed(at: At) -> None:
    at.write("apply", "-", stdin=document(at))
    other = at.number + 0x1000
    text = (
        f"[networks.other-{at.name}]\nid = {other}\n"
        f'apps.web.machines = [{{ id = "{at.name}a", region = "iad", '
        f'address = "fdaa:0:{other:x}::1:2" }}]\n'
    )
    before = content(at.catalog)
    for flags in ([], ["--dry-run"]):
        said = told(at.write("apply", "-", *flags, code=FINDING, stdin=text), FINDING)
        assert (
            f"machine {at.name}a would move from network {at.name} to other-{at.name}"
            in said["why"]
        )
        assert "--move" in said["why"]
    assert content(at.catalog) == before
    assert at.write("apply", "-", "--move", "--dry-run", "--json", stdin=text).json["changes"] > 0
    assert at.write("apply", "-", "--move", "--json", stdin=text).json["rows"] > 0
    assert at.write("apply", "-", "--json", stdin=text).json["changes"] == 0


def test_a_dry_run_refuses_what_applying_would_refuse(at: At) -> None:
    text = document(at).replace(f"{at.prefix}:a7b:7d:1:2:2", f"{at.prefix}:a7b:7d:1:1:2")
    for flags in ([], ["--dry-run"]):
        said = told(at.write("apply", "-", *flags, code=FINDING, stdin=text), FINDING)
        assert f"{at.prefix}:a7b:7d:1:1:2" in said["why"]


def test_every_fault_of_a_document_is_told_with_its_line(at: At, tmp_path: Path) -> None:
    text = document(at).replace('region = "ams"', 'region = "a b"').replace("port = 80", "port = 0")
    (file := tmp_path / "bad.toml").write_text(text)
    before = content(at.catalog)
    for verb, flags in (("apply", []), ("apply", ["--dry-run"]), ("diff", [])):
        said = (at.write if verb == "apply" else at.read)(verb, file, *flags, code=FINDING)
        told(said, FINDING)
        lines = [int(line) for line in re.findall(r"bad\.toml:(\d+): ", said.err)]
        assert lines == [
            text[: text.index(part)].count("\n") + 1 for part in ("port = 0", '"a b"')
        ], said.err
    assert content(at.catalog) == before
    (file := tmp_path / "broken.json").write_text('{"networks": {')
    assert "broken.json:1" in at.write("apply", file, code=FINDING).err


def test_pruning_removes_what_the_document_does_not_name(demo: Path) -> None:
    only = "[networks.acme]\nid = 24\n[regions.iad]\n"
    kept = run("apply", "-", "--catalog", demo, "--offline", "--json", stdin=only).json
    assert set(row["name"] for row in run("network", "list", "--catalog", demo, "--json").json) == {
        "acme", "globex", "initech",
    }  # fmt: skip
    assert kept["rows"] > 0
    assert run("diff", "-", "--catalog", demo, stdin=only).code == OK
    assert run("diff", "-", "--prune", "--catalog", demo, stdin=only).code == FINDING
    before = content(demo)
    tried = run(
        "apply", "-", "--prune", "--dry-run", "--catalog", demo, "--offline", "--json", stdin=only
    ).json
    assert "- network globex" in tried["lines"]
    assert content(demo) == before
    assert run("apply", "-", "--prune", "--catalog", demo, "--offline", stdin=only).code == OK
    loaded = load(demo).catalog
    assert ({*loaded.networks}, {*loaded.regions}) == ({24}, {b"iad"})
    assert not loaded.latency
    assert not loaded.hosts
    with closing(sqlite3.connect(demo)) as connection:
        assert connection.execute("SELECT * FROM meta").fetchall() == [("name", "demo")]


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_an_export_that_is_applied_elsewhere_is_exported_equal(
    demo: Path, empty: Path, kind: str
) -> None:
    text = run("export", "--format", kind, "--catalog", demo).out
    assert run("diff", "-", "--prune", "--catalog", demo, stdin=text).code == OK
    assert run("apply", "-", "--catalog", empty, "--offline", stdin=text).code == OK
    assert run("export", "--format", kind, "--catalog", empty).out == text
    assert load(empty).catalog.networks.keys() == load(demo).catalog.networks.keys()
    for number, network in load(empty).catalog.networks.items():
        ours = load(demo).catalog.networks[number]
        assert (network.apps, network.peers, network.flycasts) == (
            ours.apps,
            ours.peers,
            ours.flycasts,
        )
    assert (
        run("export", "--json", "--catalog", demo).out
        == run("export", "--format", "json", "--catalog", demo).out
    )


def test_one_network_is_exported(demo: Path) -> None:
    said = run("export", "--network", "acme", "--catalog", demo)
    assert tomllib.loads(said.out)["networks"].keys() == {"acme"}
    assert run("export", "--network", "nowhere", "--catalog", demo).code == FINDING
    assert run("diff", "-", "--catalog", demo, stdin=said.out).code == OK


def test_diff_has_an_exit_status_for_each_end(demo: Path, tmp_path: Path) -> None:
    assert run("diff", "-", "--catalog", demo, stdin="").code == OK
    assert run("diff", "-", "--catalog", demo, stdin="[networks.x]\nid = 99\n").code == FINDING
    assert run("diff", "-", "--catalog", demo, "--json", stdin="[networks.x]\nid = 99\n").json == {
        "summary": "1 network added", "lines": ["+ network x"], "changes": 1, "warnings": [],
    }  # fmt: skip
    told(run("diff", "-", "--catalog", demo, stdin="x = 1"), FINDING)
    told(run("diff", tmp_path / "absent.toml", "--catalog", demo), USAGE)
    told(run("diff", tmp_path, "--catalog", demo), USAGE)
    told(run("diff", "-", "--catalog", tmp_path / "absent.db", stdin=""), CONFIGURATION)
    told(run("apply", tmp_path / "absent.toml", "--catalog", demo, "--offline"), USAGE)
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    said = told(run("apply", tmp_path / "latin.toml", "--catalog", demo, "--offline"), USAGE)
    assert "iconv -f ISO-8859-1" in said["do"]
    (tmp_path / "wide.toml").write_text("[networks.x]\nid = 99\n", "utf-16")  # PowerShell's >
    assert run("diff", tmp_path / "wide.toml", "--catalog", demo).out.endswith("1 network added\n")


def test_a_foreign_file_is_compared_but_not_applied_to(foreign: Path, demo: Path) -> None:
    text = run("export", "--catalog", demo).out
    assert run("export", "--catalog", foreign).out == text
    assert run("diff", "-", "--catalog", foreign, stdin=text).code == OK
    before = foreign.read_bytes()
    said = told(run("apply", "-", "--catalog", foreign, "--offline", stdin=text), USAGE)
    assert "another engine maintains" in said["why"]
    assert foreign.read_bytes() == before


def large(machines: int) -> str:
    """A document of one network with so many machines."""
    members = [
        {
            "id": f"k{n}",
            "address": f"fdaa:0:99:a7b:7d:1:{n + 1:x}:2",
            "region": "iad",
            "state": "started",
        }
        for n in range(machines)
    ]
    return json.dumps({"networks": {"large": {"id": 0x99, "apps": {"web": {"machines": members}}}}})


def test_an_apply_that_is_killed_leaves_all_of_it_or_nothing(demo: Path, tmp_path: Path) -> None:
    (file := tmp_path / "large.json").write_text(large(4_000))
    command = [
        sys.executable,
        "-m",
        "internal_dns",
        "apply",
        str(file),
        "--catalog",
        str(demo),
        "--offline",
    ]
    begin = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    took = time.monotonic() - begin
    full = load(demo).catalog.networks[0x99].apps  # type: ignore[index]
    outcomes = set()
    for part in range(6):
        assert run("network", "rm", "large", "--cascade", "--catalog", demo, "--offline").code == OK
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(took * (0.4 + part * 0.11))
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        found = load(demo).catalog.networks.get(0x99)  # type: ignore[call-overload]
        assert found is None or found.apps == full
        outcomes.add(found is None)
        with closing(sqlite3.connect(demo)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if found is None:
            subprocess.run(command, check=True, capture_output=True, timeout=30)
    assert True in outcomes, "no apply was killed before its commit"


# ── import ────────────────────────────────────────────────────────────────────────────────────────

SOURCES = [
    ("wireguard", "wireguard.conf"), ("wireguard", "wireguard.dump"), ("docker", "docker.json"),
    ("consul", "consul-catalog.json"), ("fly", "fly.json"), ("fly", "fly-apps.json"),
    ("csv", "machines.csv"), ("csv", "peers.csv"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "file"), SOURCES, ids=[file for _, file in SOURCES])
def test_what_is_imported_can_be_applied(
    empty: Path, tmp_path: Path, source: str, file: str
) -> None:
    words = [
        "import",
        source,
        FIXTURES / file,
        "--network",
        "fdaa:0:18::/48=acme",
        "--catalog",
        empty,
    ]
    words += ["--peers"] * (file == "peers.csv")
    said = run(*words)
    assert said.code == OK
    assert tomllib.loads(said.out)["networks"]
    assert json.loads(run(*words, "--json").out) == tomllib.loads(said.out)
    assert run(*words, "--out", tmp_path / "out.toml").out == ""
    assert (tmp_path / "out.toml").read_text() == said.out
    stdin = (FIXTURES / file).read_bytes().decode()
    assert run(*words[:2], "-", *words[3:], stdin=stdin).out == said.out
    assert content(empty) == content(empty)
    applied = run("apply", tmp_path / "out.toml", "--catalog", empty, "--offline")
    assert applied.code == OK, applied
    assert run("diff", tmp_path / "out.toml", "--catalog", empty).code == OK
    loaded = load(empty)
    assert loaded.machines + loaded.peers > 0
    assert loaded.fault_count == 0


def test_an_import_that_makes_no_sense_says_why(tmp_path: Path, demo: Path) -> None:
    (bad := tmp_path / "bad").write_text("{")
    for source in ("docker", "consul", "fly", "csv"):
        told(run("import", source, bad, "--catalog", demo), FINDING)
    told(run("import", "fly", tmp_path / "absent", "--catalog", demo), USAGE)
    assert run("import", "excel", bad).code == USAGE
    assert "no line begins with an address" in told(run("import", "hosts", bad), FINDING)["why"]
    for wrong in ("acme", "=acme", "x=acme"):
        assert "--network" in run("import", "fly", bad, "--network", wrong, "--catalog", demo).err
    own = tmp_path / "erin.conf"
    own.write_text(
        f"[Interface]\nAddress = fdaa:0:18:1:1:0:7:102/120\n[Peer]\nPublicKey = {'A' * 43}=\n"
        "AllowedIPs = fdaa:0:18::/48\nEndpoint = gw.example:51820\n"
    )
    assert "peers.erin]" in run("import", "wireguard", own, "--catalog", demo).out
    piped = run("import", "wireguard", "-", "--catalog", demo, stdin=own.read_text())
    assert "standard input has no name" in told(piped, FINDING)["why"]
    fixture = FIXTURES / "fly-apps.json"
    told(
        run("import", "fly", fixture, "--out", tmp_path / "no" / "out", "--catalog", demo),
        CONFIGURATION,
    )


def test_an_import_calls_networks_as_the_catalog_does(demo: Path) -> None:
    said = run("import", "fly", FIXTURES / "fly-apps.json", "--catalog", demo)
    assert "acme" in tomllib.loads(said.out)["networks"]


# ── with a server ─────────────────────────────────────────────────────────────────────────────────


def test_a_change_that_was_waited_for_is_answered(demo: Path) -> None:
    with serving(demo) as server:
        count_before = len(addresses(ask(server, "web.internal")))
        for number in range(20):
            verb = ("stop", "start")[number % 2]
            said = run("machine", verb, "3d8d9930b03989", "--wait", "--catalog", demo)
            assert said.out.endswith(", visible\n"), said
            assert len(addresses(ask(server, "web.internal"))) == count_before - (number % 2 == 0)


def test_a_server_that_has_written_keeps_others_from_writing(demo: Path) -> None:
    with serving(demo):
        assert run("app", "add", "acme/x", "--catalog", demo).code == OK
        said = told(run("app", "add", "acme/y", "--catalog", demo, "--offline"), USAGE)
        assert "another internal-dns process is writing" in said["why"]
        second = Served("--catalog", str(demo), "--listen", "[::1]:0", "--map-source", MAP_LOOPBACK,
        "--upstream",
                        "none", "--admin", "none")  # fmt: skip
        assert "another server listens on" in second.stop()
        assert run("app", "add", "acme/y", "--catalog", demo).code == OK
    assert not demo.with_name("demo.db.sock").exists()
    assert run("app", "add", "acme/z", "--catalog", demo, "--offline").code == OK


def test_the_server_of_a_foreign_file_answers_and_writes_nothing(foreign: Path) -> None:
    with serving(foreign) as server:
        assert addresses(ask(server, "web.internal"))
        for words in WRITES:
            said = told(run(*words, "--catalog", foreign), USAGE)
            assert "has no journal: another engine maintains" in said["why"]
        assert run("machine", "list", "--catalog", foreign).code == OK
        with closing(sqlite3.connect(foreign)) as connection, connection:
            connection.execute("UPDATE machines SET state = 'stopped' WHERE app = 'web'")
        end = time.monotonic() + 3
        while addresses(ask(server, "web.internal")):
            assert time.monotonic() < end


def test_watch_shows_each_change_and_ends_with_the_server(demo: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "internal_dns",
        "watch",
        "web.internal",
        "--json",
    ]
    with (
        serving(demo) as server,
        subprocess.Popen(
            [*command, "--catalog", str(demo)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as watching,
    ):
        timer = threading.Timer(15, watching.kill)
        timer.start()
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        for number in range(4):
            verb = ("stop", "start")[number % 2]
            revision = run("machine", verb, "3d8d9930b03989", "--json", "--catalog", demo).json[
                "revision"
            ]
            line = json.loads(watching.stdout.readline())
            assert line["revision"] == revision
            assert (line["answer"] == first["answer"]) == (number % 2 == 1)
        server.stop()
        assert watching.wait(10) == UNREACHABLE
        timer.cancel()
        assert watching.stderr is not None
        assert "the server stopped" in watching.stderr.read()
    said = run("watch", "web.internal", "--catalog", demo)
    assert told(said, UNREACHABLE)


def test_watch_ends_after_so_many_answers(demo: Path) -> None:
    with serving(demo):
        said = run("watch", "web.internal", "--changes", "1", "--as", "globex", "--catalog", demo)
        assert said.code == OK
        assert "fdaa:0:19:" in said.out
        assert "fdaa:0:18:" not in said.out


def test_a_client_that_is_killed_during_an_apply_leaves_all_of_it_or_nothing(
    demo: Path, tmp_path: Path
) -> None:
    (file := tmp_path / "large.json").write_text(large(4_000))
    command = [sys.executable, "-m", "internal_dns", "apply", str(file), "--catalog", str(demo)]
    with serving(demo) as server:
        for part in range(4):
            with subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as process:
                time.sleep(0.15 + 0.08 * part)
                process.send_signal(signal.SIGKILL)
                process.wait(10)
            for _ in range(20):
                found = load(demo).catalog.networks.get(0x99)  # type: ignore[call-overload]
                assert found is None or len(found.apps[b"web"].machines) == 4_000
            assert run("apply", file, "--wait", "--catalog", demo).code == OK
            assert run("network", "rm", "large", "--cascade", "--catalog", demo).code == OK
        assert addresses(ask(server, "web.internal"))


def test_the_end_of_a_server_in_the_middle_of_a_request_is_said(demo: Path) -> None:
    """Whoever listens at the socket and hangs up: the change may or may not have been made, and
    that is said."""
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{demo}.sock")
        listener.listen()

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(100_000)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        said = told(run("app", "add", "acme/x", "--catalog", demo), UNREACHABLE)
        thread.join()
    assert "closed the connection" in said["why"]
