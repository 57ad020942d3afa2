"""What a catalog knows by name: completion by shells, and "did you mean"."""

from __future__ import annotations

import sqlite3
import sys
import threading
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest

from internal_dns.cli import cli, document, suggest
from internal_dns.cli.columns import COMPLETIONS
from internal_dns.store.declare.fields import STATES
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.schema import TABLES
from tests.commands import run


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("known") / "demo.db"
    create_catalog(path, demo_rows())
    return path


def completed(*words: object) -> list[str]:
    """What a shell is given for the last of *words*."""
    from click.shell_completion import ShellComplete

    *before, last = map(str, words)
    shell = ShellComplete(cli, {}, "internal-dns", "_INTERNAL_DNS_COMPLETE")
    return [item.value for item in shell.get_completions(before, last)]


def test_commands_are_completed() -> None:
    assert completed("d") == ["dev", "dig", "diff", "doctor"]
    assert completed("machine", "s") == ["set", "show", "start", "stop"]
    assert "--version" in completed("--")


def test_records_zones_and_types_are_completed(tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    rows: dict[str, list[tuple[int | str, ...]]] = {
        "networks": [(24, "acme", "")],
        "zones": [(24, "corp.example")],
        "records": [
            (24, "db.internal", "A", "192.0.2.1", 5),
            (24, "dc.internal", "A", "192.0.2.1", 5),
        ],
    }
    create_catalog(path, rows)
    at = ("--catalog", path)
    assert completed("record", "show", *at, "acme/d") == ["acme/db.internal", "acme/dc.internal"]
    assert completed("zone", "rm", *at, "acme/") == ["acme/corp.example"]
    assert completed("record", "add", *at, "acme/x", "CN") == ["CNAME"]


def test_networks_regions_states_apps_and_ids_are_completed_from_the_catalog(demo: Path) -> None:
    at = ("--catalog", demo)
    assert completed("machine", "list", *at, "--network", "") == ["acme", "globex", "initech"]
    assert completed("network", "show", *at, "GLO") == ["globex"]
    assert completed("machine", "list", *at, "--region", "ia") == ["iad"]
    assert completed("machine", "list", *at, "--state", "stop") == ["stopped", "stopping"]
    assert completed("app", "show", *at, "ac") == ["acme/"]
    assert completed("app", "show", *at, "acme/w") == ["acme/web"]
    assert completed("peer", "show", *at, "acme/al") == ["acme/alice-laptop"]
    assert completed("peer", "show", *at, "nowhere/al") == []
    assert completed("machine", "list", *at, "--network", "acme", "--app", "we") == ["web"]
    assert completed("machine", "show", *at, "3d8d99") == ["3d8d9930b03989"]
    assert completed("machine", "stop", *at, "3d8d9930b03989", "3d8d99") == []


@pytest.mark.parametrize("words", [("machine", "add", "zz"), ("machine", "set", "zz")])
def test_the_options_of_columns_are_completed(demo: Path, words: tuple[str, ...]) -> None:
    at = (*words, "--catalog", demo)
    assert completed(*at, "--region", "ia") == ["iad"]
    assert completed(*at, "--state", "stop") == ["stopped", "stopping"]
    assert completed(*at, "--app", "we") == ["web"]
    assert completed("peer", "set", "acme/alice-laptop", "--catalog", demo, "--region", "ia") == [
        "iad"
    ]


def test_what_completes_columns_is_for_columns_that_tables_have() -> None:
    assert COMPLETIONS.keys() <= {column for columns in TABLES.values() for column in columns}


def test_a_catalog_that_cannot_be_read_completes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("no catalog")
    monkeypatch.chdir(tmp_path)
    for path in ("absent", "text", "", "."):
        for words in (["machine", "list", "--network", ""], ["app", "show", "acme/"]):
            assert completed(*words[:2], "--catalog", tmp_path / path, *words[2:]) == []
    assert completed("machine", "list", "--network", "") == []
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_typed_is_not_offered(tmp_path: Path) -> None:
    create_catalog(tmp_path / "odd.db", {})
    with closing(sqlite3.connect(tmp_path / "odd.db")) as connection:
        connection.execute("INSERT INTO networks (id, name) VALUES (1, 'a%b'), (2, 'axb')")
        connection.execute("INSERT INTO networks (id, name) VALUES (3, 'a' || char(27) || '[31m')")
        connection.execute("INSERT INTO networks (id, name) VALUES (4, CAST(x'61ff' AS TEXT))")
        connection.commit()
    assert suggest.list_names(str(tmp_path / "odd.db"), "networks", "name", "a%") == ["a%b"]
    assert "axb" in suggest.list_names(str(tmp_path / "odd.db"), "networks", "name", "a")
    assert not [
        n for n in suggest.list_names(str(tmp_path / "odd.db"), "networks", "name") if "\x1b" in n
    ]


def test_the_states_are_those_of_documents() -> None:
    assert sorted(suggest.STATES) == sorted(STATES)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("network", "show", "acmee"), "acme"),
        (("machine", "list", "--network", "glbex"), "globex"),
        (("machine", "show", "3d8d9930b0398"), "3d8d9930b03989"),
        (("peer", "show", "acme/alice-labtop"), "acme/alice-laptop"),
        (("region", "show", "idd"), "iad"),
        (("machine", "list", "--state", "startd"), "started"),
        (("machine", "list", "--region", "iat"), "iad"),
        (("machine", "list", "--app", "wbe"), "web"),
    ],
)
def test_a_slip_is_met_with_what_was_probably_meant(
    demo: Path, words: tuple[str, ...], meant: str
) -> None:
    said = run(*words, "--catalog", demo)
    assert f"Did you mean {meant.rpartition('/')[2]}?" in said.err


@pytest.mark.parametrize(
    ("more", "warning"),
    [
        (("--state", "startd"), "state startd is unknown. Did you mean started?"),
        (("--region", "idd"), "region idd is not in the catalog"),
        (("--state", "started", "--region", "iad"), ""),
        (("--group", "web"), ""),
    ],
)
def test_a_machine_that_is_changed_is_looked_at(
    tmp_path: Path, more: tuple[str, ...], warning: str
) -> None:
    create_catalog(tmp_path / "demo.db", demo_rows())
    said = run("machine", "set", "3d8d9930b03989", *more, "--offline", "--catalog",
               tmp_path / "demo.db")  # fmt: skip
    assert said.code == 0
    assert warning in said.err
    assert bool(warning) == bool(said.err)


def test_a_list_that_is_empty_for_another_reason_hints_at_nothing(demo: Path) -> None:
    said = run("machine", "list", "--network", "initech", "--state", "started", "--region", "gru",
               "--catalog", demo)  # fmt: skip
    assert said.err == ""


ADD = ("machine", "add", "zz", "--network", "acme", "--app", "web", "--offline")


@pytest.mark.parametrize(
    ("more", "warnings"),
    [
        (("--state", "started", "--region", "iad"), []),
        (("--state", "started", "--region", "IAD"), []),
        (("--region", "iad"), ["the machine is created but not started"]),
        (("--state", "created", "--region", "iad"), ["the machine is created"]),
        (("--state", "startd", "--region", "iad"),
        ["state startd is unknown. Did you mean started?"]),
        (("--state", "started", "--region", "ia"), ["region ia is not in the catalog"]),
        (("--state", "started", "--region", "xyz"), ["internal-dns region add xyz"]),
    ],
)  # fmt: skip
def test_a_machine_that_is_added_is_looked_at(
    tmp_path: Path, more: tuple[str, ...], warnings: list[str]
) -> None:
    create_catalog(tmp_path / "demo.db", demo_rows())
    address = ("--address", "fdaa:0:18:9:9:9:9:2", "--catalog", tmp_path / "demo.db")
    said = run(*ADD, *more, *address)
    assert said.code == 0
    found = [line for line in said.err.splitlines() if line.startswith("warning")]
    assert len(found) == len(warnings)
    for line, words in zip(found, warnings, strict=True):
        assert words in line


class Terminal(StringIO):
    """Standard error of somebody who looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


def test_long_work_tells_a_terminal_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "PROGRESS_AFTER", 0.01)
    monkeypatch.setattr(sys, "stderr", seen := Terminal())
    with document._show_progress("applying"):
        assert seen.written.wait(10)
    assert seen.getvalue().startswith("\rapplying … 0 s")
    assert seen.getvalue().endswith("\r\x1b[K")  # the line is gone when the work is done


def test_nothing_is_told_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    monkeypatch.setattr(sys, "stderr", seen := StringIO())
    with document._show_progress("applying"):
        assert threading.active_count() == before
    assert seen.getvalue() == ""
