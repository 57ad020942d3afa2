"""A file that another engine maintains may hold anything: every command reads it, and prints it
without a character that a terminal would obey."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run
from tests.core.messages import SCHEMA, insert

EVIL = "\x1b]0;x\x07\x9b31m\u202eevil\x7f"
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "organizations": [(EVIL, EVIL), ("acme", EVIL)],
    "networks": [
        (24, "acme", "acme"),
        (25, EVIL, EVIL),
        (0, "zero", ""),
        (-1, "negative", ""),
        (1 << 32, "past", ""),
        ((1 << 63) - 1, "largest", ""),
    ],
    "apps": [(24, "web"), (24, EVIL), (25, EVIL)],
    "machines": [
        ("m1", 24, "web", "fdaa:0:18::1", EVIL, EVIL, EVIL, 0, 0),
        ("m2", 24, "web", "fdaa:0:18::2", "iad", "app", "started", 0, 0),
        (EVIL, 24, EVIL, EVIL, EVIL, EVIL, EVIL, 0, 0),
    ],
    "machine_metadata": [("m2", EVIL, EVIL), ("m2", "key", EVIL)],
    "machine_services": [("m2", EVIL, EVIL, 1)],
    "peers": [
        (24, EVIL, EVIL, EVIL),
        (24, "peer", "fdaa:0:18::100", EVIL),
        (1 << 32, "peer", "fdaa::1", ""),
    ],
    "flycasts": [(24, EVIL, EVIL)],
    "regions": [(EVIL, EVIL, None, None, 0), ("iad", EVIL, 1.0, 2.0, 0)],
}
COMMANDS = [
    ["network", "list"],
    ["network", "list", "--routes"],
    ["network", "show", "acme"],
    ["network", "show", "nosuch"],
    ["network", "show", str((1 << 63) - 1)],
    ["network", "show", "0"],
    ["app", "list"],
    ["app", "show", "acme/web"],
    ["machine", "list"],
    ["machine", "list", "--app", EVIL[:-1]],
    ["machine", "list", "--state", EVIL, "--region", "iad"],
    ["machine", "show", "m1"],
    ["machine", "show", "m2"],
    ["machine", "show", EVIL],
    ["peer", "list"],
    ["peer", "show", "acme/peer"],
    ["peer", "show", f"acme/{EVIL}"],
    ["peer", "show", "acme/peer", "--wireguard"],
    ["peer", "show", f"acme/{EVIL}", "--wireguard"],
    ["peer", "show", "past/peer", "--wireguard"],
    ["region", "list"],
    ["region", "show", "iad"],
    ["region", "show", EVIL],
    ["flycast", "list"],
    ["flycast", "show", f"acme/{EVIL}"],
    ["check"],
    ["export"],
    ["diff", "DOCUMENT"],
    ["diff", "DOCUMENT", "--prune"],
    ["explain", "web.internal", "--as", "fdaa:0:18::2"],
    ["explain", "m2.vm.web.internal", "--as", "fdaa:0:18::2"],
    ["explain", "value.key.kv._metadata.web.internal", "--as", "fdaa:0:18::2"],
    ["explain", "regions.web.internal", "TXT", "--as", "fdaa:0:18::2"],
    ["explain", f"{EVIL}.internal", "--as", "fdaa:0:18::2"],
]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "foreign.db"
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA)
    for table, rows in ROWS.items():
        insert(connection, table, rows)
    connection.commit()
    connection.close()
    path.with_name("DOCUMENT").write_text("[networks.acme]\nid = 24\n")
    return path


@pytest.mark.parametrize("as_json", [False, True], ids=["people", "programs"])
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words).encode().hex()[:40])
def test_no_command_prints_what_a_terminal_obeys(
    words: list[str], as_json: bool, foreign: Path
) -> None:
    told = [str(foreign.with_name(w)) if w == "DOCUMENT" else w for w in words]
    said = run(*told, "--catalog", foreign, *["--json"] * as_json)
    assert said.out or said.err
    for char in said.out + said.err:
        assert char == "\n" or char.isprintable(), (char, said)


def test_the_json_of_an_export_still_says_what_the_file_holds(foreign: Path) -> None:
    def strings(value: Any) -> set[str]:
        match value:
            case dict():
                return set(value) | {text for part in value.values() for text in strings(part)}
            case list():
                return {text for part in value for text in strings(part)}
        return {value} if isinstance(value, str) else set()

    said = run("export", "--json", "--catalog", foreign)
    assert EVIL in strings(json.loads(said.out))


@pytest.mark.parametrize("peer", [f"acme/{EVIL}", "past/peer"])
def test_no_configuration_is_made_of_what_is_no_address(peer: str, foreign: Path) -> None:
    said = run("peer", "show", peer, "--wireguard", "--catalog", foreign)
    assert (said.code, said.out) == (1, "")
    assert "is not served" in said.err


def test_a_network_of_any_integer_is_listed(foreign: Path) -> None:
    said = run("network", "list", "--json", "--catalog", foreign)
    assert said.code == 0
    prefixes = {row["id"]: row["prefix"] for row in said.json}
    assert prefixes == {
        24: "fdaa:0:18::/48", 25: "fdaa:0:19::/48", 0: "", -1: "", 1 << 32: "", (1 << 63) - 1: "",
    }  # fmt: skip
    routes = run("network", "list", "--routes", "--catalog", foreign).out
    assert routes.splitlines() == [
        f"ip -6 route add local fdaa:0:{n}::3/128 dev lo" for n in (18, 19)
    ]
