"""The rows of a query: read as `import csv` reads a table, whole or not at all, and no password is
told."""

from __future__ import annotations

import asyncio
import sys
from collections import namedtuple
from ipaddress import IPv6Address
from typing import Any

import pytest

from internal_dns.live.postgres import Postgres, as_csv, check_address
from internal_dns.live.source import Snapshot, SourceAway, machine_key, peer_key
from internal_dns.sources import Options
from tests.commands import run

Column = namedtuple("Column", "name")
ADDRESS = "fdaa:0:18:a7b:7d:1:1:2"


def snapshot(
    names: str, *rows: tuple[Any, ...], live: Postgres | None = None, **more: Any
) -> Snapshot:
    """What a query with this result gives."""
    made = live or Postgres("postgres://h/d", "SELECT 1", Options(app="web", **more))

    async def select() -> Any:
        return [Column(name) for name in names.split()], rows

    made._select = select  # type: ignore[method-assign]
    return asyncio.run(made.snapshot())


def test_rows_are_read_as_a_table_and_values_of_any_type_as_text() -> None:
    found = snapshot(
        "id app address region state ready metadata",
        ("a", "shop", IPv6Address(ADDRESS), "iad", "started", True, {"role": "leader", "n": 1}),
        ("b", "shop", "fdaa:0:18:a7b:7d:1:2:2", None, None, False, None),
    )
    assert found.unreadable == frozenset()
    a, b = found.objects[machine_key("a")], found.objects[machine_key("b")]
    assert (a["address"], a["app"], a["region"], a["ready"]) == (ADDRESS, "shop", "iad", 1)
    assert a["metadata"] == {"role": "leader", "n": "1"}
    assert (b["region"], b["state"], b["ready"], b["metadata"]) == ("local", "started", 0, {})


def test_a_row_that_cannot_be_read_keeps_its_own_and_stops_no_other() -> None:
    found = snapshot("id address", ("a", ADDRESS), ("b", "10.0.0.1"), ("C", None))
    assert found.objects.keys() == {machine_key("a")}
    assert found.unreadable == {machine_key("b"), machine_key("c")}
    assert any("10.0.0.1" in note for note in found.notes)


def test_a_peer_that_cannot_be_read_keeps_its_row() -> None:
    live = Postgres("postgres://h/d", "SELECT 1", Options())
    assert snapshot("name address", ("ann", ADDRESS), live=live).unreadable == frozenset()
    found = snapshot("name address", ("ann", "nonsense"), live=live)
    assert not found.objects
    assert found.unreadable == {peer_key(24, "ann")}
    again = snapshot("name address", ("ann", "nonsense"), live=live)
    assert again.unreadable == {peer_key(24, "ann")}
    assert snapshot("name address", live=live).unreadable == frozenset()


def test_no_rows_are_a_snapshot_and_no_table_is_none() -> None:
    assert snapshot("id address").objects == {}
    with pytest.raises(SourceAway, match="no table"):
        snapshot("")
    with pytest.raises(SourceAway, match="lacks address"):
        snapshot("id", ("a",))
    with pytest.raises(SourceAway, match="id twice"):
        snapshot("id id address", ("a", "b", ADDRESS))


@pytest.mark.parametrize(
    "cell", ['quo"ted', "line\nbreak", "semi;colon", "comma, and space", " ", "\u2028", "\x1b[2J"]
)
def test_a_cell_is_one_cell_whatever_it_holds(cell: str) -> None:
    names = ["id", "app", "address", "metadata"]
    text = as_csv(names, [("a", "web", ADDRESS, {"k": cell})])
    found = snapshot(" ".join(names), ("a", "web", ADDRESS, {"k": cell}))
    assert text.count('"web"') == 1
    assert found.objects[machine_key("a")]["metadata"] == (
        {"k": cell.strip()} if cell.strip() else {}
    )


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgres://u:hunter2@h:5433/db?sslmode=require", "postgres://h:5433/db"),
        ("postgresql:///db", "postgresql:///db"),
        ("postgres://h1,h2/db", "postgres://h1,h2/db"),
    ],
)
def test_an_address_is_shown_without_secrets(address: str, shown: str) -> None:
    assert check_address(address) == shown
    assert str(Postgres(address, "SELECT 1", Options())) == shown


@pytest.mark.parametrize(
    "address", ["", "h", "mysql://u:hunter2@h", "postgres://u:hunter2@x@h/d", "postgres://[hunter2"]
)
def test_what_is_no_address_is_rejected_and_not_repeated(address: str) -> None:
    with pytest.raises(ValueError, match=r"address|%40") as raised:
        check_address(address)
    assert "hunter2" not in str(raised.value)


def test_an_empty_query_is_rejected() -> None:
    with pytest.raises(ValueError, match="empty"):
        Postgres("postgres://h/d", " \n", Options())


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SourceAway, match="pip install"):
        asyncio.run(Postgres("postgres://h/d", "SELECT 1", Options()).snapshot())


# ── the command ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["postgres"], "needs the ADDRESS"),
        (["postgres", "postgres://h/d"], "needs --query"),
        (["postgres://h/d", "postgres://h/d"], "twice"),
        (["postgres://u:hunter2@x@h/d", "--query", "Q"], "%40"),
        (["postgres://h/d", "--query", "absent"], "cannot read absent"),
        (["postgres://h/d", "--query", "Q", "--service", "x"], "--service is of consul"),
        (["docker", "--query", "Q"], "--query is of postgres"),
        (["fly"], "--org NAME or --of-app"),
        (["fly", "--org", "a", "--of-app", "b"], "one of the two"),
        (["consul", "http://u:hunter2@h"], "no user, password"),
        (["nomad", "x"], "an address is"),
        (["nomad", "--token-file", "absent"], "No such file"),
        (["docker", "--to", "corrosion://h/x"], "corrosion://127"),
        (["docker", "--to", "corrosion://h/?token_file=absent"], "No such file"),
        (["etcd"], "not one of"),
    ],
)
def test_a_mistake_is_told_before_anything_is_followed(
    words: list[str], why: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Q").write_text("SELECT 1")
    said = run("follow", *words)
    assert said.code == 2
    assert why in said.err
    assert "hunter2" not in said.err
