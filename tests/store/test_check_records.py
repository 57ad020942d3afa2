"""`check` tells what of a network's records is never answered, and why."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from internal_dns.store.check import Finding, findings
from internal_dns.store.generate import create_catalog
from internal_dns.store.sqlite import load

WEB = "fdaa:0:18:1:1:0:1:2"
Row = tuple[str, str, str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    machine = ("m1", 24, "web", WEB, "iad", "app", "started", 0, 0, 1, "")
    rows = {
        "networks": [(24, "acme", "")],
        "regions": [("iad", "", None, None, 0)],
        "machines": [machine],
    }
    create_catalog(tmp_path / "catalog.db", rows)  # type: ignore[arg-type]
    return tmp_path / "catalog.db"


def found(path: Path, *records: Row, zones: tuple[str, ...] = ()) -> list[Finding]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executemany("INSERT INTO zones VALUES (24, ?)", [(zone,) for zone in zones])
        connection.executemany("INSERT INTO records VALUES (24, ?, ?, ?, 5)", records)
    return findings(load(path))


def texts(path: Path, *records: Row, zones: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    return [
        (one.where.removeprefix("network acme "), one.what)
        for one in found(path, *records, zones=zones)
    ]


def test_records_that_are_answered_are_no_findings(path: Path) -> None:
    records = [
        ("db.internal", "CNAME", "pg.provider.example."),
        ("*.apps.internal", "ALIAS", "web.internal."),
        ("*.web.internal", "A", "192.0.2.1"),
        ("www.corp.example", "CNAME", "web.internal."),
        ("corp.example", "ALIAS", "x.apps.internal."),
    ]
    assert texts(path, *records, zones=("corp.example",)) == []


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("web.internal", "web"),
        ("iad.web.internal", "region"),
        ("vm.web.internal", "an empty non-terminal"),
        ("_apps.internal", "every app"),
        ("m1.vm.web.internal", "m1"),
        ("internal", "apex"),
    ],
)
def test_a_record_that_the_grammar_hides_is_told_with_what_hides_it(
    path: Path, name: str, by: str
) -> None:
    ((where, what),) = texts(path, (name, "A", "192.0.2.1"))
    assert where == f"record {name}"
    assert what.startswith("never answered: the name is taken by ")
    assert by in what


def test_loops_and_long_chains_are_errors(path: Path) -> None:
    loop: list[Row] = [
        ("a.internal", "CNAME", "b.internal."),
        ("b.internal", "CNAME", "a.internal."),
        ("c.internal", "ALIAS", "c.internal."),
    ]
    chain: list[Row] = [(f"n{n}.internal", "CNAME", f"n{n + 1}.internal.") for n in range(9)]
    end = ("n9.internal", "A", "192.0.2.1")
    problems = found(path, *loop, *chain, end)
    assert {one.where.rpartition(" ")[2] for one in problems} == {
        "a.internal", "b.internal", "c.internal", "n0.internal",
    }  # fmt: skip
    assert {one.level for one in problems} == {"error"}
    assert all("SERVFAIL" in one.what for one in problems)


def test_aliases_to_nothing_are_told(path: Path) -> None:
    assert texts(
        path,
        ("a.internal", "CNAME", "no.internal."),
        ("b.internal", "ALIAS", "no.corp.example."),
        ("c.internal", "ALIAS", "d.internal."),
        ("d.internal", "CNAME", "pg.example."),
        zones=("corp.example",),
    ) == [
        (
            "record a.internal",
            "it leads to no.internal, which does not exist: no such app in this network",
        ),
        (
            "record b.internal",
            "it leads to no.corp.example, which does not exist: the zone has no such name",
        ),
        ("record c.internal", "it leads to pg.example, a name outside, so it has no data"),
    ]


def test_an_alias_of_an_app_whose_machines_are_stopped_is_no_finding(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE machines SET state = 'stopped'")
    assert texts(path, ("a.internal", "ALIAS", "web.internal.")) == []


def test_rows_that_are_left_out_have_their_reason(path: Path) -> None:
    long = " ".join(f'"{"x" * 250}"' for _ in range(200))
    records = [
        ("bad.internal", "A", "192.0.2"),
        ("both.internal", "CNAME", "x.example."),
        ("both.internal", "TXT", '"x"'),
        ("big.internal", "TXT", f'"a" {long}'),
        ("big.internal", "TXT", f'"b" {long}'),
        ("out.example", "A", "192.0.2.1"),
    ]
    whats = [one.what for one in found(path, *records)]
    for why in (
        "no valid A",
        "a CNAME cannot stand beside other records",
        "its set is larger than 65,000 octets",
        "neither in .internal nor in a zone",
    ):
        assert [what for what in whats if why in what], why
    assert len(whats) == 4
    assert all(what.startswith("not loaded: ") for what in whats)


def test_a_zone_that_hides_a_top_level_domain_is_a_warning(path: Path) -> None:
    assert texts(path, zones=("com", "lan", "de", "example.com")) == [
        ("zone com", "it is a top-level domain of the Internet: its names there are out of reach"),
        ("zone de", "it is a top-level domain of the Internet: its names there are out of reach"),
    ]


def test_many_findings_of_one_kind_are_counted(path: Path) -> None:
    records: list[Row] = [(f"n{n}.internal", "CNAME", "no.internal.") for n in range(130)]
    problems = found(path, *records)
    assert len(problems) == 101
    assert problems[-1].what == "30 more records like these"
