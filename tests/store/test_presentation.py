"""Presentation form to octets: what is read, and what is refused and why."""

from __future__ import annotations

import dns.name
import dns.rdata
import dns.rdataclass
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.own import RECORD_TYPES, pack_sets, unpack_sets
from internal_dns.store.presentation import (
    MAX_SET,
    Place,
    Record,
    Zone,
    _plain,
    is_public_tld,
    losers,
    read_record,
    read_zone,
    sets_of,
)

CORP = b"\4corp\7example\0"
PLACE = Place(bytes.fromhex("fdaa00000018"), frozenset({CORP}))
PREFIX = b"\xfd\xaa"


def record(name: str, rtype: str, value: str, ttl: int = 5) -> Record:
    made = read_record(name, rtype, value, ttl, PLACE)
    assert isinstance(made, Record), made
    return made


@pytest.mark.parametrize(
    ("rtype", "value", "rdata"),
    [
        ("A", "10.0.0.1", b"\x0a\0\0\1"),
        ("AAAA", "FDAA:0:18::5", bytes.fromhex("fdaa0000001800000000000000000005")),
        ("CNAME", "Db.Example", b"\2db\7example\0"),
        ("CNAME", "db.example.", b"\2db\7example\0"),
        ("ALIAS", "web.internal", b"\3web\x08internal\0"),
        ("TXT", '"a;b" "c"', b"\3a;b\1c"),
        ("TXT", "a\\059b", b"\3a;b"),
        ("MX", "10 MX.example", b"\0\x0a\2mx\7example\0"),
        ("SRV", "1 2 80 Web.internal", b"\0\1\0\2\0\x50\3web\x08internal\0"),
        ("CAA", '0 issue "ca.example"', b"\0\5issueca.example"),
        ("HTTPS", "1 . alpn=h2", b"\0\1\0\0\1\0\3\2h2"),
        ("SVCB", "0 Svc.example", b"\0\0\3svc\7example\0"),
        ("A", "\\# 4 0A000001", b"\x0a\0\0\1"),
    ],
)
def test_a_value_is_read(rtype: str, value: str, rdata: bytes) -> None:
    assert record("db.internal", rtype, value).rdata == rdata


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (("db.internal", "NS", "a.b"), "the type is one of"),
        (("db.internal", "a", "10.0.0.1"), "the type is written A"),
        (("db.internal", None, "10.0.0.1"), "the type must be text"),
        (("db.internal", "A", None), "the value must be text"),
        (("db.internal", "A", b"\xff"), "the value must be text"),
        (("db.internal", "A", "10.0.0.01"), "no valid A"),
        (("db.internal", "A", "10.0.0.1\n10.0.0.2"), "one line"),
        (("db.internal", "TXT", "v=DKIM1; p=abc"), "begins a comment"),
        (("db.internal", "TXT", f'"{"a" * 256}"'), "string too long"),
        (("db.internal", "CNAME", "@"), "@ has no meaning here"),
        (("db.internal", "CNAME", "a..b"), "no valid CNAME"),
        (("db.internal", "SRV", "0 0 65536 a"), "no valid SRV"),
        (("db.internal", "PTR", "a.b"), "PTR is for zones only"),
        (("db.flycast", "A", "10.0.0.1"), "neither in .internal nor in a zone"),
        (("a.a.d.f.ip6.arpa", "PTR", "a.b"), "neither in .internal nor in a zone"),
        (("xinternal", "A", "10.0.0.1"), "neither in .internal nor in a zone"),
        (("", "A", "10.0.0.1"), "no valid name"),
        (("a b.internal", "A", "10.0.0.1"), "no valid name"),
        (("é.internal", "A", "10.0.0.1"), "a name is ASCII"),
        (("a" * 64 + ".internal", "A", "10.0.0.1"), "no valid name"),
        (("corp.example", "CNAME", "a.b"), "the apex of a zone takes no CNAME"),
        (("db.internal", "ALIAS", "example.com"), "an ALIAS leads to a name in"),
        (("db.internal", "AAAA", "fdaa:0:19::1"), "belongs to another network"),
        (("db.internal", "HTTPS", "1 . ipv6hint=fdaa:0:19::1"), "belongs to another network"),
    ],
)
def test_a_record_is_refused_with_its_reason(
    cells: tuple[object, object, object], words: str
) -> None:
    made = read_record(*cells, 5, PLACE)
    assert isinstance(made, str)
    assert words in made


@pytest.mark.parametrize("ttl", [-1, 86_401, "5", None, 1.5])
def test_a_ttl_out_of_bounds_is_refused(ttl: object) -> None:
    assert read_record("db.internal", "A", "10.0.0.1", ttl, PLACE) == "the TTL is 0 to 86400"


def test_a_ttl_of_a_day_is_the_longest() -> None:
    assert record("db.internal", "A", "10.0.0.1", 86_400).ttl == 86_400


LABEL = st.text("abcXYZ019-_*", min_size=1, max_size=63)
ADDRESS = st.ip_addresses(v=6).map(str) | st.ip_addresses(v=4).map(str)
HEXES = st.text("0123456789abcdefF:.", max_size=20)


@given(
    st.sampled_from(["A", "AAAA", "CNAME", "ALIAS", "PTR"]),
    ADDRESS | HEXES | st.lists(LABEL, min_size=1, max_size=5).map(".".join),
)
def test_what_is_read_without_dnspython_is_what_dnspython_reads(rtype: str, text: str) -> None:
    plain = _plain(rtype, text)
    if plain is None:
        return
    kind = "CNAME" if rtype == "ALIAS" else rtype
    judge = dns.rdata.from_text(
        dns.rdataclass.IN, kind, text, origin=dns.name.root, relativize=False
    )
    assert judge.to_digestable(dns.name.root) == plain[1]
    assert judge.to_text().lower() == plain[0]


@given(st.text(max_size=40), st.sampled_from([*RECORD_TYPES]), st.text(max_size=60))
def test_no_text_raises(name: str, rtype: str, value: str) -> None:
    for owner in (name, f"{name}.internal", "db.internal"):
        made = read_record(owner, rtype, value, 5, PLACE)
        assert isinstance(made, Record | str)


@given(st.sampled_from([*RECORD_TYPES]), st.text('10 .:;()"\\@#a=h\x00\t', max_size=60))
def test_a_canonical_value_reads_as_itself(rtype: str, value: str) -> None:
    made = read_record("db.internal", rtype, value, 5, PLACE)
    if isinstance(made, Record):
        again = read_record(made.name, made.type, made.value, 5, PLACE)
        assert again == made


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        (".", "the root"),
        ("local", "is reserved"),
        ("localhost", "is reserved"),
        ("test", "is reserved"),
        ("invalid", "is reserved"),
        ("onion", "is reserved"),
        ("internal", "is answered here already"),
        ("a.internal", "is answered here already"),
        ("web.flycast", "is answered here already"),
        ("0.a.a.d.f.ip6.arpa", "is answered here already"),
        ("ip6.arpa", "lies in it"),
        ("arpa", "lies in it"),
        ("resolver.arpa", "which resolver to use"),
        ("_dns.resolver.arpa", "which resolver to use"),
        ("use-application-dns.net", "which resolver to use"),
        ("*.corp", "no wildcard"),
        ("a..b", "no valid name"),
        (b"\xff", "ASCII"),
    ],
)
def test_a_zone_is_refused_with_its_reason(zone: object, words: str) -> None:
    made = read_zone(zone, PREFIX)
    assert isinstance(made, str)
    assert words in made


@pytest.mark.parametrize(
    ("zone", "public"),
    [
        ("lan", False),
        ("corp.example", False),
        ("net", True),
        ("de", True),
        ("10.in-addr.arpa", False),
    ],
)
def test_a_zone_may_be_public(zone: str, public: bool) -> None:
    made = read_zone(zone, PREFIX)
    assert isinstance(made, Zone)
    assert is_public_tld(made.apex) is public


def lost(*records: Record) -> list[tuple[str, str]]:
    return [(record.value, why) for record, why in losers(records)]


def test_beside_other_data_a_cname_loses() -> None:
    cname, text = record("a.internal", "CNAME", "b.c"), record("a.internal", "TXT", "x")
    assert lost(cname, text) == [("b.c.", "a CNAME cannot stand beside other records")]


def test_of_two_cnames_the_lower_value_stays() -> None:
    high, low = record("a.internal", "CNAME", "c.d"), record("a.internal", "CNAME", "b.z")
    assert lost(high, low) == [("c.d.", "a name has one CNAME")]


def test_equal_values_are_one() -> None:
    one, other = record("a.internal", "CNAME", "B.c"), record("a.internal", "CNAME", "b.c.", 3)
    assert lost(one, other) == []
    (made,) = sets_of([one, other])
    assert made == (RECORD_TYPES["CNAME"], 3, (b"\1b\1c\0",))


def test_of_a_set_too_large_the_lowest_values_stay() -> None:
    records = [
        record("a.internal", "TXT", " ".join([f'"{number:03}{"x" * 252}"'] * 50))
        for number in range(6)
    ]
    gone = losers(records[::-1])
    assert [r.value[1:4] for r, _ in gone] == ["005"]
    assert gone[0][1] == f"its set is larger than {MAX_SET:,} octets"


def test_a_text_of_65_000_octets_is_refused() -> None:
    made = read_record("a.internal", "TXT", " ".join([f'"{"x" * 255}"'] * 255), 5, PLACE)
    assert made == "the value is larger than 65,000 octets"


def test_sets_come_back_as_they_were_packed_in_the_order_of_any() -> None:
    records = [
        record("a.internal", "TXT", "x", 9),
        record("a.internal", "A", "10.0.0.2"),
        record("a.internal", "A", "10.0.0.1"),
        record("a.internal", "AAAA", "fdaa:0:18::1"),
        record("a.internal", "ALIAS", "web.internal", 2),
    ]
    found = unpack_sets(pack_sets(sets_of(records)))
    assert [one.type for one in found] == [28, 1, 16, 0]
    assert found[1] == (1, 5, (b"\x0a\0\0\1", b"\x0a\0\0\2"))
    assert found[3].ttl == 2
