"""Records and zones in the console: listed, bounded, found, and explained through their aliases."""

from __future__ import annotations

from typing import Any

import pytest

from internal_dns.admin.console import pages
from internal_dns.core.catalog import Catalog
from tests.admin.console.looking import console, get
from tests.core.messages import ACME, ROWS, loaded

RECORDS = [
    ("db.internal", "CNAME", "pg.provider.example."),
    ("www.internal", "CNAME", "web.internal."),
    ("*.apps.internal", "A", "192.0.2.1"),
    ("*.apps.internal", "A", "192.0.2.2"),
    ("a.corp.example", "TXT", '"<b>&"'),
    ("long.corp.example", "ALIAS", "web.internal."),
]


def catalog(
    records: list[tuple[str, str, str]] = RECORDS, zones: Any = ("corp.example",)
) -> Catalog:
    rows: dict[str, list[tuple[Any, ...]]] = {
        **ROWS,
        "zones": [(ACME, zone) for zone in zones],
        "records": [(ACME, *record, 60) for record in records],
    }
    found = loaded(rows=rows)
    assert not found.faults
    return found.catalog


def test_a_network_lists_its_zones_and_records() -> None:
    with console(catalog()) as client:
        page = get(client, f"/networks/{ACME}/records")
        assert page.rows() == [
            ["*.apps.internal", "A", "60", "192.0.2.1192.0.2.2"],
            ["a.corp.example", "TXT", "60", '"<b>&"'],
            ["db.internal", "CNAME", "60", "pg.provider.example."],
            ["long.corp.example", "ALIAS", "60", "web.internal."],
            ["www.internal", "CNAME", "60", "web.internal."],
        ]
        assert "/ask?name=corp.example&as=acme" in page.links
        assert "/ask?name=%2A.apps.internal&as=acme" in page.links
        filtered = get(client, f"/networks/{ACME}/records?filter=Corp.ex")
        assert [row[0] for row in filtered.rows()] == ["a.corp.example", "long.corp.example"]


def test_a_network_without_records_says_how_to_add_one() -> None:
    with console() as client:
        assert "record add" in client.get(f"/networks/{ACME}/records").text
        assert client.get("/networks/9/records").status_code == 404


def test_records_and_zones_are_found() -> None:
    with console(catalog()) as client:
        page = client.get("/search?q=corp.example").text
        for name in "corp.example", "a.corp.example", "long.corp.example":
            assert f">{name}</a>" in page
        assert "db.internal" not in page


def test_a_dot_of_a_filter_is_a_dot() -> None:
    own = [("axb.internal", "A", "192.0.2.1"), ("a1b.internal", "A", "192.0.2.1"),
           ("a.b.internal", "A", "192.0.2.1")]  # fmt: skip
    found = pages.records(catalog(own, ()), ACME, pages.Choice("A.b"))
    assert [row.name for row in found["records"]] == ["a.b.internal"]
    assert pages.search(catalog(own, ()), "a.b").records[0][1] == "a.b.internal"


def test_a_question_tells_through_which_alias() -> None:
    with console(catalog()) as client:
        text = client.get("/ask?name=www.internal&type=AAAA&as=acme").text
        assert "record of this network" in text
        assert "An alias to web.internal" in text
        assert "its zone" in client.get("/ask?name=a.corp.example&type=TXT&as=acme").text


def test_a_misspelled_record_is_suggested() -> None:
    with console(catalog()) as client:
        page = get(client, "/ask?name=a.crp.example&as=acme")
        assert not any("a.corp.example" in link for link in page.links)  # no zone: it is forwarded
        page = get(client, "/ask?name=lon.corp.example&as=acme")
        assert any("name=long.corp.example" in link for link in page.links)


def test_values_are_bounded() -> None:
    many = [("m.internal", "TXT", f'"{n:0250}"') for n in range(30)]
    (row,) = pages.records(catalog(many, ()), ACME)["records"]
    assert (len(row.values), row.more) == (pages.VALUES, 20)
    assert all(len(value) == pages.CUT + 1 for value in row.values)


@pytest.mark.slow
def test_a_hundred_thousand_records_are_shown_a_page_at_a_time() -> None:
    many = [(f"n{n:06}.corp.example", "A", "192.0.2.1") for n in range(100_000)]
    big = catalog(many)
    found = pages.records(big, ACME)
    assert (len(found["records"]), found["listing"].part.total) == (pages.PAGE, 100_000)
    narrowed = pages.records(big, ACME, pages.Choice("n049999"))
    assert [row.name for row in narrowed["records"]] == ["n049999.corp.example"]
    assert (narrowed["listing"].looked_at, narrowed["listing"].of) == (pages.FILTERED, 100_000)
