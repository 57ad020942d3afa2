"""`internal-dns changes`: what changed last."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from internal_dns.store.generate import create_catalog, demo_rows
from tests.commands import run


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "c.db"
    create_catalog(path, demo_rows())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM journal")
        connection.execute("UPDATE apps SET name = name WHERE network_id = 24 AND name = 'db'")
        connection.execute("UPDATE networks SET name = name WHERE id = 25")
    return path


def test_the_latest_change_is_first(catalog: Path) -> None:
    head, first, second = run("changes", "--catalog", catalog).out.splitlines()
    assert head.split() == ["time", "revision", "network", "changed", "rows"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ +\d+ +globex +network +\d", first)
    assert re.search(r" acme +app db +2$", second)


def test_as_json_each_change_is_an_object(catalog: Path) -> None:
    listed = run("changes", "--catalog", catalog, "--json", "--network", "acme").json
    assert [(row["network"], row["changed"], row["rows"]) for row in listed] == [
        ("acme", "app db", 2)
    ]
    assert run("changes", "--catalog", catalog, "--json", "--network", "initech").json == []
    assert run("changes", "--catalog", catalog, "--limit", "1", "--json").json[0]["rows"] == 1


def test_nothing_recorded_is_said(catalog: Path) -> None:
    assert run("changes", "--catalog", catalog, "--network", "initech").out == (
        "no changes are recorded\n"
    )


def test_a_time_that_is_none_is_empty(catalog: Path) -> None:
    with closing(sqlite3.connect(catalog)) as connection, connection:
        connection.execute("UPDATE journal SET written_at = 9e99")
    assert run("changes", "--catalog", catalog, "--json").json[0]["time"] is None


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--network", "acmee"], 1, "there is no network acmee"),
        (["--limit", "0"], 2, "0 is not in the range"),
        (["--catalog", "nothing.db"], 78, "there is no such file"),
    ],
)
def test_what_cannot_be_shown_is_an_error(
    catalog: Path, words: list[str], code: int, why: str
) -> None:
    shown = run("changes", "--catalog", catalog, *words)
    assert shown.code == code
    assert why in shown.err


def test_a_file_without_a_journal_says_whom_to_ask(catalog: Path) -> None:
    with closing(sqlite3.connect(catalog)) as connection, connection:
        connection.execute("DROP TABLE journal")
    shown = run("changes", "--catalog", catalog)
    assert shown.code == 2
    assert "another engine maintains it" in shown.err
