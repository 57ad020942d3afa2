"""Records and zones of a network in documents: read, exported, planned, and what is refused."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from internal_dns.store.declare import InvalidDocument, export, json_schema, parse, to_json, to_toml
from internal_dns.store.generate import create_catalog
from internal_dns.store.operations import perform
from internal_dns.store.writer import RejectedChange, Writer

HEAD = '[networks.acme]\nid = "fdaa:0:18::/48"\n'
RECORDS: list[dict[str, Any]] = [
    {"name": "db.internal", "type": "CNAME", "value": "pg.provider.example."},
    {"name": "*.apps.internal", "type": "ALIAS", "value": "web.internal."},
    {"name": "corp.example", "type": "TXT", "value": '"v=spf1 -all"', "ttl": 60},
    {"name": "a.corp.example", "type": "A", "value": "192.0.2.1"},
    {"name": "a.corp.example", "type": "AAAA", "value": "fdaa:0:18:1:1:0:1:2", "ttl": 300},
    {"name": "1.corp.example", "type": "PTR", "value": "a.corp.example."},
]


def document(records: list[dict[str, Any]], zones: list[str] | None = None) -> str:
    network = {"id": 24, "zones": zones or ["corp.example"], "records": records}
    return json.dumps({"networks": {"acme": network}})


def faults(text: str) -> list[str]:
    with pytest.raises(InvalidDocument) as raised:
        parse(text, name="c.json")
    return [f"{fault.what}. {fault.do}" for fault in raised.value.faults]


def fault_of(name: str, rtype: str, value: str, **more: Any) -> str:
    (fault,) = faults(document([{"name": name, "type": rtype, "value": value, **more}]))
    return fault


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    create_catalog(tmp_path / "catalog.db", {})
    with Writer(tmp_path / "catalog.db") as opened:
        yield opened


def applied(writer: Writer, text: str, **more: Any) -> dict[str, Any]:
    return perform({"op": "apply", "text": text, **more}, writer)


def test_an_export_parses_back_as_toml_and_json(writer: Writer) -> None:
    applied(writer, document(RECORDS, ["corp.example", "lan"]))
    exported = export(writer.connection)
    assert not exported.notes
    network = exported.document["networks"]["acme"]
    assert network["zones"] == ["corp.example", "lan"]
    by_key = lambda record: (record["name"], record["type"])  # noqa: E731
    assert sorted(network["records"], key=by_key) == sorted(RECORDS, key=by_key)
    for text in to_toml(exported.document), to_json(exported.document):
        reply = applied(writer, text)
        assert (reply["summary"], reply["warnings"]) == ("nothing to change", [])


def test_values_and_names_are_stored_in_one_spelling(writer: Writer) -> None:
    record = {"name": "DB.Internal.", "type": "CNAME", "value": "PG.Provider.example"}
    applied(writer, document([record]))
    (stored,) = export(writer.connection).document["networks"]["acme"]["records"]
    assert stored == {"name": "db.internal", "type": "CNAME", "value": "pg.provider.example."}
    assert applied(writer, document([record]))["summary"] == "nothing to change"


def test_a_value_that_changes_is_removed_and_added_and_a_ttl_is_changed(writer: Writer) -> None:
    applied(writer, document(RECORDS))
    other = [dict(record) for record in RECORDS]
    other[0]["value"] = "pg2.provider.example."
    other[2]["ttl"] = 120
    reply = applied(writer, document(other), dry_run=True)
    assert reply["lines"] == [
        "- record acme/db.internal CNAME pg.provider.example.",
        '~ record acme/corp.example TXT "v=spf1 -all": ttl 60 -> 120',
        "+ record acme/db.internal CNAME pg2.provider.example.",
    ]
    assert reply["summary"] == "1 record added, 1 changed, 1 removed"


def test_what_a_document_omits_of_its_networks_is_deleted(writer: Writer) -> None:
    applied(writer, document(RECORDS))
    other = '{"networks": {"beta": {"id": 25, "zones": ["corp.example"]}}}'
    assert applied(writer, other)["summary"] == "1 network added, 1 zone added"
    reply = applied(writer, '{"networks": {"acme": {"id": 24}}}', dry_run=True)
    assert reply["summary"] == "1 zone removed, 6 records removed"
    pruned = applied(writer, '{"networks": {"beta": {"id": 25}}}', prune=True)
    assert pruned["summary"] == "1 network removed, 2 zones removed, 6 records removed"
    with closing(sqlite3.connect(writer.path)) as connection:
        for table in "records", "zones":
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


@pytest.mark.parametrize(
    ("name", "rtype", "value", "why"),
    [
        ("db.internal", "A", "192.0.2", "no valid A"),
        ("db.internal", "AAAA", "fdaa:0:19::1", "belongs to another network"),
        ("db.internal", "HTTPS", "1 . ipv6hint=fdaa:0:19::1", "belongs to another network"),
        ("db.internal", "PTR", "x.internal", "PTR is for zones only"),
        ("db.example", "A", "192.0.2.1", "neither in .internal nor in a zone"),
        ("web.flycast", "A", "192.0.2.1", "neither in .internal nor in a zone"),
        ("corp.example", "CNAME", "x.internal", "the apex of a zone takes no CNAME"),
        ("db.internal", "ALIAS", "x.example", "an ALIAS leads to a name in .internal"),
        ("d b.internal", "A", "192.0.2.1", "no valid name"),
        ("db.internal", "TXT", "a ; b", "a ; outside quotes"),
        ("db.internal", "NS", "x.internal", "'NS' is not a type of record. Use A, AAAA"),
        ("db.internal", "cname", "x.internal", "'cname' is not a type of record. Write CNAME"),
    ],
)
def test_a_record_without_a_place_is_refused(name: str, rtype: str, value: str, why: str) -> None:
    assert why in fault_of(name, rtype, value)


def test_a_ttl_is_at_most_a_day() -> None:
    assert "86401 is not seconds" in fault_of("db.internal", "A", "192.0.2.1", ttl=86_401)


def test_a_cname_stands_alone_and_a_set_fits_a_message() -> None:
    beside = [
        {"name": "db.internal", "type": "CNAME", "value": "x.internal"},
        {"name": "DB.internal", "type": "TXT", "value": "x"},
    ]
    assert faults(document(beside)) == [
        "'db.internal' CNAME: a CNAME cannot stand beside other records. Remove one"
    ]
    two = [{"name": "db.internal", "type": "CNAME", "value": f"{n}.internal"} for n in "ab"]
    assert faults(document(two)) == ["'db.internal' CNAME: a name has one CNAME. Remove one"]
    long = [{"name": "db.internal", "type": "TXT", "value": f'"{n:0255}"'} for n in range(300)]
    assert len(faults(document(long))) > 40
    assert all("its set is larger than 65,000 octets" in fault for fault in faults(document(long)))


def test_one_record_twice_is_refused_in_any_spelling() -> None:
    twice = [
        {"name": "db.internal", "type": "AAAA", "value": "fdaa:0:18::a"},
        {"name": "DB.internal.", "type": "AAAA", "value": "FDAA:0:18:0::A"},
    ]
    (fault,) = faults(document(twice))
    assert fault.startswith("this record already stands in line 1")


@pytest.mark.parametrize(
    ("zone", "why"),
    [
        (".", "the root cannot be a private zone"),
        ("internal", "internal is answered here already"),
        ("x.flycast", "flycast is answered here already"),
        ("arpa", "which is answered here, lies in it"),
        ("localhost", "localhost is reserved"),
        ("resolver.arpa", "tells clients which resolver to use"),
        ("", "the name is empty"),
        ("a..b", "no valid name"),
    ],
)
def test_a_zone_that_cannot_be_is_refused(zone: str, why: str) -> None:
    assert why in faults(document([], [zone]))[0]


def test_a_zone_named_twice_is_refused() -> None:
    assert "this zone already stands" in faults(document([], ["lan", "LAN."]))[0]


def test_a_public_top_level_domain_is_a_warning() -> None:
    parsed = parse(document([], ["com", "de", "lan", "corp.com"]), name="c.json")
    assert [warning.what for warning in parsed.warnings] == [
        "com is a top-level domain of the Internet",
        "de is a top-level domain of the Internet",
    ]


def test_faults_carry_the_line_of_their_record() -> None:
    text = HEAD + "".join(
        f'[[networks.acme.records]]\nname = "db.internal"\ntype = "A"\nvalue = "{value}"\n\n'
        for value in ("192.0.2.1", "bad")
    )
    with pytest.raises(InvalidDocument) as raised:
        parse(text, name="c.toml")
    (fault,) = raised.value.faults
    assert (fault.line, fault.where) == (8, "networks.acme.records[1]")


def test_missing_and_unknown_keys_are_told_and_nothing_else_of_that_record() -> None:
    (missing, unknown) = faults(document([{"name": "db.internal", "typ": "A", "type": "A"}]))
    assert missing == "unknown key. Did you mean type?"
    assert unknown.startswith("value is missing. Add it")


def test_a_foreign_file_is_exported_as_it_is(writer: Writer) -> None:
    applied(writer, document([]))
    writer.connection.execute(
        "INSERT INTO records VALUES (24, 'X.internal', 'A', '192.0.2.1', 5), "
        "(24, 'y.internal', 'TXT', CAST(x'ff' AS TEXT), 5)"
    )
    exported = export(writer.connection)
    assert exported.document["networks"]["acme"]["records"] == [
        {"name": "X.internal", "type": "A", "value": "192.0.2.1"}
    ]
    assert ["is not UTF-8" in note for note in exported.notes] == [True]
    reply = applied(writer, to_json(exported.document))  # put into its one spelling
    assert reply["summary"] == "1 record added, 1 removed"


def test_a_value_in_another_spelling_is_the_same_value(writer: Writer) -> None:
    applied(writer, document([]))
    writer.connection.execute("INSERT INTO records VALUES (24, 'x.internal', 'TXT', 'a \\032', 5)")
    same = {"name": "x.internal", "type": "TXT", "value": '"a" " "'}
    assert applied(writer, document([same]), dry_run=True)["summary"] == "nothing to change"
    reply = applied(writer, document([same | {"ttl": 60}]))
    assert reply["summary"] == "1 record changed, 1 removed"
    rows = writer.connection.execute("SELECT name, type, value, ttl FROM records").fetchall()
    assert rows == [(b"x.internal", b"TXT", b'"a" " "', 60)]
    assert applied(writer, document([]))["summary"] == "1 record removed"


def test_the_schema_takes_what_the_parser_takes() -> None:
    network = json_schema()["properties"]["networks"]["additionalProperties"]["properties"]
    record = network["records"]["items"]
    assert record["required"] == ["name", "type", "value"]
    assert "ALIAS" in record["properties"]["type"]["enum"]
    assert network["zones"]["items"]["type"] == "string"
    assert msgspec.json.encode(json_schema())


def test_a_change_by_rows_is_refused_as_a_document_is(writer: Writer) -> None:
    applied(writer, document(RECORDS))
    row = {"network_id": 24, "name": "db.internal", "type": "A", "value": "192.0.2.1"}
    with pytest.raises(RejectedChange, match="a CNAME cannot stand beside other records"):
        writer.write([("records", row)])
