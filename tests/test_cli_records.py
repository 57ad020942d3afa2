"""`record` and `zone`: what they write, list and refuse; imports of records; split DNS."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import dns.message
import pytest

from internal_dns.cli import ask
from internal_dns.cli.objects.zone import zone_of_text
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import load
from tests.commands import Said, run


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    create_catalog(tmp_path / "demo.db", demo_rows())
    return tmp_path / "demo.db"


def changed(demo: Path, *words: str, code: int = 0) -> Said:
    said = run(*words, "--catalog", str(demo), "--offline")
    assert said.code == code, said
    return said


def listed(demo: Path, *words: str) -> Any:
    said = run(*words, "--catalog", str(demo), "--json")
    assert said.code == 0, said
    return json.loads(said.out)


def rows(demo: Path) -> set[tuple[str, str, str, int]]:
    with closing(sqlite3.connect(demo)) as connection:
        found = connection.execute("SELECT name, type, value, ttl FROM records").fetchall()
    assert not load(demo).faults
    return set(found)


def test_a_record_is_written_in_its_one_spelling(demo: Path) -> None:
    changed(demo, "record", "add", "acme/DB.internal.", "cname", "PG.Provider.example")
    changed(demo, "record", "add", "24/x.internal", "MX", "10", "mail.example", "--ttl", "60")
    changed(demo, "record", "add", "acme/v6.internal", "AAAA", "FDAA:0:18:0::5")
    assert rows(demo) == {
        ("db.internal", "CNAME", "pg.provider.example.", 5),
        ("x.internal", "MX", "10 mail.example.", 60),
        ("v6.internal", "AAAA", "fdaa:0:18::5", 5),
    }


def test_each_argument_of_txt_is_a_string(demo: Path) -> None:
    key = "k" * 300
    changed(demo, "record", "add", "acme/a.internal", "TXT", "v=spf1 -all; x", 'b"\\')
    changed(demo, "record", "add", "acme/b.internal", "TXT", '"in" "form"')
    changed(demo, "record", "add", "acme/c.internal", "TXT", key)
    changed(demo, "record", "add", "acme/d.internal", "TXT", "ü", "")
    assert {value for _, _, value, _ in rows(demo)} == {
        '"v=spf1 -all; x" "b\\"\\\\"',
        '"in" "form"',
        f'"{key[:255]}" "{key[255:]}"',
        '"\\195\\188" ""',
    }


def test_a_record_of_an_apps_name_is_warned_of(demo: Path) -> None:
    for name in "web", "db":
        said = changed(demo, "record", "add", f"acme/{name}.internal", "A", "192.0.2.1")
        assert f"{name}.internal is the name of the app {name}" in said.err
    assert not changed(demo, "record", "add", "globex/db.internal", "A", "192.0.2.1").err


def test_what_an_upstream_is_asked_for_an_alias_is_its_target(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(demo, "record", "add", "acme/pg.internal", "CNAME", "pg-1.provider.example")
    asked: list[bytes] = []

    def forwarded(catalog: str, octets: bytes) -> tuple[tuple[str, str], ...]:
        asked.append(octets)
        return (("cache", "nothing"),)

    monkeypatch.setattr(ask, "_forwarded", forwarded)
    said = run("explain", "--as", "acme", "pg.internal", "A", "--catalog", str(demo))
    assert "to pg-1.provider.example: a name outside" in said.out
    (question,) = dns.message.from_wire(asked[0]).question
    assert question.to_text() == "pg-1.provider.example. IN A"


def test_a_record_that_is_there_is_not_added_again(demo: Path) -> None:
    words = ("record", "add", "acme/a.internal", "A", "192.0.2.1")
    changed(demo, *words)
    assert "already exists" in changed(demo, *words, code=1).err


def test_set_replaces_the_set_of_one_type_and_keeps_its_ttl(demo: Path) -> None:
    for address in "192.0.2.1", "192.0.2.2":
        changed(demo, "record", "add", "acme/a.internal", "A", address, "--ttl", "60")
    changed(demo, "record", "add", "acme/a.internal", "TXT", "x")
    changed(demo, "record", "set", "acme/a.internal", "A", "192.0.2.3")
    assert rows(demo) == {("a.internal", "A", "192.0.2.3", 60), ("a.internal", "TXT", '"x"', 5)}
    changed(demo, "record", "set", "acme/a.internal", "A", "--ttl", "9")
    changed(demo, "record", "set", "acme/b.internal", "A", "192.0.2.9")
    assert {("a.internal", "A", "192.0.2.3", 9), ("b.internal", "A", "192.0.2.9", 5)} < rows(demo)
    assert changed(demo, "record", "set", "acme/a.internal", "A", code=2).err
    assert (
        "no record"
        in changed(demo, "record", "set", "acme/no.internal", "A", "--ttl", "9", code=1).err
    )


def test_a_cname_is_set_to_another_target_in_one_change(demo: Path) -> None:
    changed(demo, "record", "add", "acme/a.internal", "CNAME", "x.example")
    changed(demo, "record", "set", "acme/a.internal", "CNAME", "y.example")
    assert rows(demo) == {("a.internal", "CNAME", "y.example.", 5)}


def test_rm_takes_a_name_a_type_or_a_value(demo: Path) -> None:
    for rtype, value in ("A", "192.0.2.1"), ("A", "192.0.2.2"), ("TXT", "x"), ("MX", "1 m.example"):
        changed(demo, "record", "add", "acme/a.internal", rtype, value)
    changed(demo, "record", "rm", "acme/a.internal", "TXT", "x")
    changed(demo, "record", "rm", "acme/a.internal", "A", "192.0.2.2")
    assert {row[1:3] for row in rows(demo)} == {("A", "192.0.2.1"), ("MX", "1 m.example.")}
    why = changed(demo, "record", "rm", "acme/a.internal", "A", "192.0.2.9", code=1).err
    assert "it has A 192.0.2.1, MX 1 m.example." in why
    changed(demo, "record", "rm", "acme/a.internal")
    assert not rows(demo)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("acme/a.internal", "A", "192.0.2"), "no valid A"),
        (("acme/a.example", "A", "192.0.2.1"), "neither in .internal nor in a zone"),
        (("acme/a.internal", "AAAA", "fdaa:0:19::1"), "belongs to another network"),
        (("acme/a..b", "A", "192.0.2.1"), "a DNS label is empty"),
        (("nowhere/a.internal", "A", "192.0.2.1"), "there is no network nowhere"),
        (("acm/a.internal", "A", "192.0.2.1"), "Did you mean acme?"),
    ],
)
def test_what_cannot_be_a_record_is_refused(demo: Path, words: tuple[str, ...], why: str) -> None:
    assert why in changed(demo, "record", "add", *words, code=1).err
    assert not rows(demo)


def test_a_misspelled_name_is_told(demo: Path) -> None:
    changed(demo, "record", "add", "acme/database.internal", "A", "192.0.2.1")
    for words in ("show", "acme/databse.internal"), ("rm", "acme/databse.internal", "--offline"):
        said = run("record", *words, "--catalog", str(demo))
        assert said.code == 1
        assert "Did you mean database.internal?" in said.err


def test_lists_are_narrowed_and_cut_and_json_is_whole(demo: Path) -> None:
    long = "t" * 200
    changed(demo, "record", "add", "acme/a.internal", "TXT", long)
    changed(demo, "record", "add", "globex/a.internal", "A", "192.0.2.1")
    assert [row["network"] for row in listed(demo, "record", "list")] == ["acme", "globex"]
    assert [row["type"] for row in listed(demo, "record", "list", "--type", "a")] == ["A"]
    (row,) = listed(demo, "record", "list", "--network", "acme")
    assert (row["value"], row["ttl"], row["network_id"]) == (f'"{long}"', 5, 24)
    table = run("record", "list", "--catalog", str(demo)).out
    assert "… (202 characters)" in table
    assert long not in table
    assert long in run("record", "show", "acme/a.internal", "--catalog", str(demo)).out


def test_zones_are_added_listed_and_removed_with_their_records(demo: Path) -> None:
    changed(demo, "zone", "add", "acme/Corp.Example.")
    changed(demo, "zone", "add", "acme/sub.corp.example")
    changed(demo, "record", "add", "acme/a.corp.example", "A", "192.0.2.1")
    changed(demo, "record", "add", "acme/a.sub.corp.example", "A", "192.0.2.1")
    assert [(row["name"], row["records"]) for row in listed(demo, "zone", "list")] == [
        ("corp.example", 1),
        ("sub.corp.example", 1),
    ]
    assert "it has 1 record" in changed(demo, "zone", "rm", "acme/corp.example", code=1).err
    changed(demo, "zone", "rm", "acme/corp.example", "--cascade")
    assert {name for name, *_ in rows(demo)} == {"a.sub.corp.example"}


def test_a_dot_inside_a_label_ends_no_zone() -> None:
    apexes = {"corp.example", "example"}
    assert zone_of_text("a.corp.example", apexes) == "corp.example"
    assert zone_of_text(r"x\.corp.example", apexes) == "example"
    assert zone_of_text(r"x\\.corp.example", apexes) == "corp.example"
    assert zone_of_text("x.lan", apexes) == ""


def test_a_zone_that_cannot_be_is_refused_and_a_public_one_warned_of(demo: Path) -> None:
    for name in "internal", "x.flycast", "localhost", ".":
        changed(demo, "zone", "add", f"acme/{name}", code=1)
    said = changed(demo, "zone", "add", "acme/com")
    assert "com is a top-level domain of the Internet" in said.err
    assert not changed(demo, "zone", "add", "acme/lan").err


def test_a_network_shows_its_zones_and_takes_all_with_it(demo: Path) -> None:
    changed(demo, "zone", "add", "acme/lan")
    changed(demo, "record", "add", "acme/a.lan", "A", "192.0.2.1")
    shown = listed(demo, "network", "show", "acme")
    assert (shown["zones"], shown["records"]) == (["lan"], 1)
    changed(demo, "network", "rm", "acme", "--cascade")
    assert not rows(demo)
    assert not listed(demo, "zone", "list")


def test_split_dns_has_the_zones_of_the_peers_network(demo: Path) -> None:
    changed(demo, "zone", "add", "acme/corp.example")
    changed(demo, "zone", "add", "globex/other.example")
    with closing(sqlite3.connect(demo, isolation_level=None)) as connection:
        connection.execute("INSERT INTO zones VALUES (24, 'x; reboot'), (24, 'a\\059b.example')")
    found = listed(demo, "peer", "show", "acme/alice-laptop", "--wireguard")
    assert found["domains"][:2] == ["internal", "flycast"]
    assert found["domains"][3:] == ["corp.example"]
    text = run("peer", "show", "acme/alice-laptop", "--wireguard", "--catalog", str(demo)).out
    assert "'~corp.example'" in text
    assert "reboot" not in text


def imported(*words: str) -> Said:
    return run("import", *words)


def test_hosts_and_master_files_become_a_document_that_apply_takes(
    demo: Path, tmp_path: Path
) -> None:
    hosts, zone = tmp_path / "hosts", tmp_path / "corp.zone"
    hosts.write_text("10.0.0.5 nas nas.lan\n")
    zone.write_text("$TTL 300\n@ MX 10 mail\nmail A 192.0.2.1\n")
    for words, expected in (
        (("hosts", str(hosts), "--zone", "lan"), {"nas.internal", "nas.lan"}),
        (("zone", str(zone), "--origin", "corp.example"), {"corp.example", "mail.corp.example"}),
    ):
        out = tmp_path / "out.toml"
        said = imported(*words, "--network", "30=new", "--out", str(out), "--catalog", str(demo))
        assert said.code == 0, said
        changed(demo, "apply", str(out))
        assert {name for name, *_ in rows(demo)} == expected


def test_the_network_of_records_is_also_named_by_name(demo: Path, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("10.0.0.5 nas\n")
    said = imported("hosts", str(hosts), "--network", "acme", "--catalog", str(demo), "--json")
    assert json.loads(said.out)["networks"]["acme"]["id"] == "fdaa:0:18::/48"
    assert imported("hosts", str(hosts), "--network", "nowhere", "--catalog", str(demo)).code == 2
    said = imported("hosts", str(hosts), "--catalog", str(demo))
    assert "Say which: --network 24=acme" in said.err


@pytest.mark.parametrize(
    "words",
    [("hosts", "-", "--origin", "a"), ("zone", "-", "--zone", "a"), ("csv", "-", "--zone", "a")],
)
def test_options_of_another_source_are_wrong_usage(words: tuple[str, ...]) -> None:
    assert imported(*words).code == 2
