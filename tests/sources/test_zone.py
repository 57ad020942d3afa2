"""Master files become a zone and its records; what has no place is told with its line."""

from typing import Any

import pytest

from internal_dns.sources import Imported, Options, SourceError
from internal_dns.sources import zone as source
from internal_dns.sources.zone import read
from internal_dns.store.declare import parse, to_json

HEAD = """\
$ORIGIN corp.example.
$TTL 300
@   IN SOA ns1 hostmaster ( 2024010101 3600
        600 604800 300 )
    IN NS  ns1
"""
ADVICE = "`apply` makes a network exactly as written"


def imported(text: str, *, origin: str = "", network: int | None = 24, **more: Any) -> Imported:
    made = read(text, Options(network=network, **more), origin=origin)
    parse(to_json(made.document), name="zone.json")  # `apply` takes it
    return made


def records(made: Imported) -> dict[tuple[str, str], list[tuple[str, int]]]:
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for network in made.document["networks"].values():
        for row in network.get("records", []):
            key = row["name"], row["type"]
            found.setdefault(key, []).append((row["value"], row.get("ttl", 5)))
    return found


def notes(made: Imported) -> list[str]:
    return [note for note in made.notes if not note.startswith(ADVICE)]


def test_a_zone_is_its_apex_and_its_records() -> None:
    made = imported(
        HEAD
        + """\
@           MX    10 mail
            TXT   "v=spf1 -all" "more; of it"
www     60  CNAME web.internal.
*.apps      A     192.0.2.1
*.apps      A     192.0.2.2
mail        AAAA  fdaa:0:18::5
_sip._tcp   SRV   1 2 5060 mail
a           HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1
@           CAA   0 issue "ca.example"
"""
    )
    assert made.document["networks"]["net-18"]["zones"] == ["corp.example"]
    assert records(made) == {
        ("corp.example", "MX"): [("10 mail.corp.example.", 300)],
        ("corp.example", "TXT"): [('"v=spf1 -all" "more; of it"', 300)],
        ("corp.example", "CAA"): [('0 issue "ca.example"', 300)],
        ("www.corp.example", "CNAME"): [("web.internal.", 60)],
        ("*.apps.corp.example", "A"): [("192.0.2.1", 300), ("192.0.2.2", 300)],
        ("mail.corp.example", "AAAA"): [("fdaa:0:18::5", 300)],
        ("_sip._tcp.corp.example", "SRV"): [("1 2 5060 mail.corp.example.", 300)],
        ("a.corp.example", "HTTPS"): [('1 . alpn="h2" ipv4hint="192.0.2.1"', 300)],
    }
    assert notes(made) == [
        "left out, the server has SOA and NS of its own: "
        "line 3 (corp.example SOA), line 5 (corp.example NS)"
    ]


def test_what_has_no_place_is_told_with_its_line() -> None:
    made = imported(
        HEAD
        + """\
sub         NS     ns1.sub
            DS     1 13 2 0123456789012345678901234567890123456789012345678901234567890123
@           DNSKEY 257 3 13 AAAA
old         DNAME  new
host        SSHFP  1 1 0123456789012345678901234567890123456789
x.example.  A      192.0.2.1
web.internal. A    192.0.2.7
far         AAAA   fdaa:0:19::5
long 604800 A      192.0.2.3
dup         CNAME  a
dup         A      192.0.2.4
odd         TYPE65400 \\# 2 0102
"""
    )
    assert sorted(notes(made)) == [
        "TTL lowered to 86,400 seconds, the most there is: line 14 (long.corp.example A)",
        "left out, DNSSEC: answers of this server are not signed: "
        "line 7 (sub.corp.example DS), line 8 (corp.example DNSKEY)",
        "left out, a CNAME cannot stand beside other records: line 15 (dup.corp.example CNAME)",
        "left out, not in corp.example: line 11 (x.example A)",
        "left out, nothing is delegated from here: line 6 (sub.corp.example NS)",
        "left out, the address fdaa:0:19::5 belongs to another network: "
        "line 13 (far.corp.example AAAA)",
        "left out, the server has SOA and NS of its own: "
        "line 3 (corp.example SOA), line 5 (corp.example NS)",
        "left out, there are no records of type DNAME: line 9 (old.corp.example DNAME)",
        "left out, there are no records of type SSHFP: line 10 (host.corp.example SSHFP)",
        "left out, there are no records of type TYPE65400: line 17 (odd.corp.example TYPE65400)",
    ]
    assert set(records(made)) == {
        ("web.internal", "A"),
        ("long.corp.example", "A"),
        ("dup.corp.example", "A"),
    }


@pytest.mark.parametrize(
    ("text", "why", "do"),
    [
        ("$INCLUDE other.zone\n", "line 1: $INCLUDE is not followed", "Put the other file"),
        ("\nwww A 192.0.2.1\n", "line 2: names may be relative", "Say what to: --origin"),
        ("$ORIGIN a.\n\nwww A 192.0.2.1\n", "line 3: no TTL is given", "Put $TTL 300"),
        ("$ORIGIN a.\n$TTL 5\nwww A 192.0.2\n", "line 3: ", "Correct the line"),
        ("$ORIGIN a.\n$TTL 5\nwww ALIAS b\n", "line 3: unknown rdatatype", "Correct the line"),
        ("$ORIGIN a.\n$TTL 5\nwww CH A 192.0.2.1\n", "line 3: RR class", "Correct the line"),
        ('$ORIGIN a.\n$TTL 5\nwww TXT "open\n', "line ", "Correct the line"),
        ("$ORIGIN a.\n$TTL 5\nwww TXT ( open\n", "line ", "Correct the line"),
        ("www.corp.example. 5 IN A 192.0.2.1\n", "line 1: names may be relative", "Say what to"),
    ],
)
def test_a_file_that_cannot_be_read_is_rejected_with_its_line(text: str, why: str, do: str) -> None:
    with pytest.raises(SourceError) as raised:
        imported(text)
    assert why in raised.value.why
    assert raised.value.do.startswith(do)


def test_the_origin_completes_names_and_is_the_zone() -> None:
    made = imported("$TTL 5\n@ A 192.0.2.1\nwww A 192.0.2.2\n", origin="Lan.")
    assert made.document["networks"]["net-18"]["zones"] == ["lan"]
    assert set(records(made)) == {("lan", "A"), ("www.lan", "A")}


def test_a_zone_of_internal_is_records_of_internal() -> None:
    made = imported("$TTL 5\ndb CNAME pg.example.\n*.apps A 192.0.2.1\n", origin="internal")
    assert "zones" not in made.document["networks"]["net-18"]
    assert set(records(made)) == {("db.internal", "CNAME"), ("*.apps.internal", "A")}


@pytest.mark.parametrize("origin", ["flycast", ".", "localhost", "a.d.f.ip6.arpa"])
def test_a_zone_that_cannot_be_is_rejected(origin: str) -> None:
    with pytest.raises(SourceError):
        imported("$TTL 5\nwww A 192.0.2.1\n", origin=origin)


def test_the_network_is_that_of_its_addresses_or_asked_for() -> None:
    assert "net-18" in imported(HEAD + "a AAAA fdaa:0:18::5\n", network=None).document["networks"]
    with pytest.raises(SourceError, match="Say which: --network"):
        imported(HEAD + "a A 192.0.2.1\n", network=None)


def test_generate_makes_records_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEAD + "$GENERATE 1-{} host-$ A 192.0.2.$\n"
    assert len(records(imported(text.format(9)))) == 9
    monkeypatch.setattr(source, "MAX_RECORDS", 100)
    with pytest.raises(SourceError, match="line 6: it has more than 100 records"):
        imported(text.format(99_999_999).replace("192.0.2.$", "192.0.2.1"))


def test_a_file_without_records_gives_nothing() -> None:
    for text in "", "; only a comment\n", "$TTL 5\n":
        assert read(text).document == {"networks": {}}
