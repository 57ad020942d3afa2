"""The page of the catalog's last changes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from internal_dns.store.generate import create_catalog, demo_rows
from tests.admin.console.looking import console, get

ACME = 0x18


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.db"
    create_catalog(path, demo_rows())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM journal")
        connection.execute(f"UPDATE apps SET name = name WHERE network_id = {ACME} AND name = 'db'")
        connection.execute("UPDATE regions SET name = '' WHERE code = 'iad'")
        connection.execute(
            "INSERT INTO journal (kind, network_id, label) VALUES ('app', 25, '<b>&\x1b')"
        )
    return path


def test_changes_are_listed_the_latest_first(file: Path) -> None:
    with console(file=file) as client:
        page = get(client, "/changes")
        assert [row[:2] for row in page.rows()] == [
            ["app <b>&\\x1b", "globex"],
            ["regions, hosts or latencies", "–"],
            ["app db", "acme"],
        ]
        assert f"/changes?network={ACME}" in page.links


def test_a_network_has_its_changes_alone(file: Path) -> None:
    with console(file=file) as client:
        page = get(client, f"/changes?network={ACME}")
        assert [row[0] for row in page.rows()] == ["app db"]
        assert "/changes" in page.links
        assert "No changes are recorded." in get(client, "/changes?network=77").all("main")[0][1]
        assert len(get(client, "/changes?network=x").rows()) == 3


def test_a_file_that_cannot_be_read_costs_the_list_only() -> None:
    with console() as client:
        (_, text), *_ = get(client, "/changes").all("main")
        assert "The changes cannot be read: " in text


def test_the_status_page_leads_to_the_changes(file: Path) -> None:
    with console(file=file) as client:
        assert "/changes" in get(client, "/status").links
