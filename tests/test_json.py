"""docs/json.md lists the keys that commands print, and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.schema import TABLES
from tests.commands import run

PAGE = (Path(__file__).parents[1] / "docs" / "json.md").read_text()
ROWS = dict(re.findall(r"^\| `([^`]+)` \| (.+)$", PAGE, re.MULTILINE))
COLUMNS = {column for columns in TABLES.values() for column in columns}
GIVEN = {
    "NAME": "acme", "NETWORK/APP": "acme/db", "NETWORK/PEER": "acme/alice-laptop",
    "ID": "3d8d9930b03989",
    "CODE": "iad", "NETWORK/RECORD": "acme/db-1.internal",
}  # fmt: skip
READ = [
    words
    for words in ROWS
    if re.match(r"(network|app|machine|peer|region|flycast|record|zone) ", words)
]


def documented(words: str) -> set[str]:
    """The keys of a command's own value: those in parentheses are of what is inside."""
    keys = ROWS[words].partition(" | ")[2]
    while (flat := re.sub(r"\([^()]*\)", "", keys)) != keys:
        keys = flat
    return set(re.findall(r"`([^`]+)`", keys))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("json") / "demo.db"
    own: dict[str, list[tuple[int | str, ...]]] = {
        "zones": [(24, "corp.example")],
        "records": [(24, "db-1.internal", "A", "192.0.2.1", 5)],
    }
    create_catalog(path, {**demo_rows(), **own})
    return path


def compared(words: str, printed: Any, *, row: bool = False) -> None:
    assert printed
    for value in printed if isinstance(printed, list) else [printed]:
        assert documented(words) <= value.keys()
        # A column that the catalog gains is among a row's keys before the page has it.
        assert value.keys() - documented(words) <= (COLUMNS if row else set())


@pytest.mark.parametrize("words", READ)
def test_what_is_looked_up_has_the_keys_of_the_page(words: str, demo: Path) -> None:
    given = [GIVEN.get(word, word) for word in words.split()]
    printed = run(*given, "--json", "--catalog", demo).json
    if words == "network list --routes":
        assert all(isinstance(line, str) for line in printed)
        return
    compared(words, printed, row="row" in ROWS[words].partition(" | ")[0])


DOCUMENT = "[networks.acme]\nid = 24\n"


def test_changes_and_comparisons_have_the_keys_of_the_page(tmp_path: Path) -> None:
    file = tmp_path / "demo.db"
    made = run("init", "--demo", file, "--json").json
    compared("init FILE", made)
    at = ("--catalog", file, "--json")
    compared("diff FILE", run("diff", "-", *at, stdin=DOCUMENT).json)
    tried = run("apply", "-", "--dry-run", "--offline", *at, stdin=DOCUMENT).json
    compared("apply FILE --dry-run", tried)
    answer = re.search(r"`answers` \(\[…\] of ([^;]+);", ROWS["apply FILE --dry-run"])
    assert answer
    assert tried["answers"][0].keys() == set(re.findall(r"`([^`]+)`", answer[1]))
    applied = run("apply", "-", "--offline", *at, stdin=DOCUMENT).json
    assert applied.keys() == documented("apply FILE") - {"visible", "--wait", "--to", "unreadable"}
    changed = run("app", "add", "acme/new", "--offline", *at).json
    assert changed.keys() == {"revision", "rows"}
    error = json.loads(run("network", "show", "acm", *at).err)
    assert error.keys() == {"error"}
    assert error["error"].keys() == {"what", "why", "do"}


@pytest.mark.parametrize("words", ["version", "config check", "check", "explain NAME"])
def test_other_commands_have_the_keys_of_the_page(words: str, tmp_path: Path) -> None:
    create_catalog(tmp_path / "demo.db", {"apps": [(1, "all")], "networks": [(1, "n", "")]})
    given = ["web.internal" if word == "NAME" else word for word in words.split()]
    at = ("--catalog", tmp_path / "demo.db") if words in ("check", "explain NAME") else ()
    compared(words, run(*given, "--json", *at).json)
