"""How the server treats a client's octets: the table "Queries" of docs/protocol.md, row by row."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from struct import pack, unpack

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.cookies import full_cookie, siphash
from internal_dns.core.journey import Drop, Forward, Reply, Rules
from internal_dns.core.requester import SourceMap
from internal_dns.core.wire import SILENT_PORTS, Rcode
from tests.core.messages import (
    AA,
    AAAA,
    AD,
    ANY,
    ANY_CLASS,
    AXFR,
    CD,
    CH,
    COOKIE,
    EDE,
    IN_GLOBEX,
    IXFR,
    KEEPALIVE,
    MANY,
    MX,
    NONE,
    NOTIFY,
    NSID,
    OUTSIDER,
    PTR,
    QR,
    RA,
    RD,
    SOA,
    SVCB,
    TC,
    TSIG,
    TXT,
    UPDATE,
    A,
    Name,
    Z,
    counts,
    dig,
    header,
    ip,
    labels,
    opt,
    option,
    options,
    outcome,
    query,
    question,
    rcode,
    records,
    reply,
    rr,
    wire,
)

WEB = question("web.internal")
SOA_RR = rr(wire("internal"), SOA, wire("a") + wire("b") + bytes(20))
A_RR = rr(wire("web.internal"), A, b"\1\2\3\4")
COOKIE_8 = bytes.fromhex("2464c4abcf10c957")

transports = pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])


def has_no_records(octets: bytes) -> bool:
    """Whether a reply has no answer, no authority and no additional record but OPT."""
    message = dns.message.from_wire(octets)
    return counts(octets)[1:3] == (0, 0) and not message.additional


# ── silence ───────────────────────────────────────────────────────────────────────────────────────


@transports
@pytest.mark.parametrize("source", [None, OUTSIDER], ids=["tenant", "outsider"])
@pytest.mark.parametrize("size", range(12))
def test_a_message_shorter_than_a_header_gets_no_reply(
    size: int, source: bytes | None, stream: bool
) -> None:
    found = outcome(
        query("web.internal")[:size], source=source or ip("fdaa:0:18::1"), stream=stream
    )
    assert found == Drop("runt")


@transports
@pytest.mark.parametrize("source", [None, OUTSIDER], ids=["tenant", "outsider"])
@pytest.mark.parametrize("opcode", range(16))
def test_a_response_of_any_opcode_gets_no_reply(
    opcode: int, source: bytes | None, stream: bool
) -> None:
    octets = query("web.internal", flags=QR | RD, opcode=opcode)
    for cut in (octets, octets[:12], octets + b"x", octets[:20]):
        assert outcome(cut, source=source or ip("fdaa:0:18::1"), stream=stream) == Drop("qr")


def test_the_ports_of_services_that_answer_anything_are_never_answered() -> None:
    assert frozenset({0, 7, 13, 19, 37}) == SILENT_PORTS


# ── outsiders come before everything but silence ──────────────────────────────────────────────────

ODD_QUERIES = {
    "a plain query": query("web.internal"),
    "a query with OPT": query("web.internal", AAAA, opt()),
    "an outside name": query("example.com"),
    "NOTIFY": query("internal", SOA, opcode=NOTIFY),
    "UPDATE": query("internal", SOA, opcode=UPDATE),
    "a header": header(qd=0),
    "half a question": header() + WEB[:-1],
    "two questions": header(qd=2) + WEB + WEB,
    "BADVERS": query("web.internal", AAAA, opt(version=1)),
    "class CH": query("version.bind", TXT, qclass=CH),
    "AXFR": query("internal", AXFR),
    "RD = 0": query("example.com", flags=0),
    "a cookie and no question": header(qd=0, ar=1) + opt(option(COOKIE, COOKIE_8)),
    "a malformed cookie": query("web.internal", AAAA, opt(option(COOKIE, b"x"))),
    "NSID, cookie and keepalive": query(
        "web.internal", AAAA, opt(option(NSID), option(COOKIE, COOKIE_8), option(KEEPALIVE))
    ),
    "a name of 255 octets": query((b"x" * 63,) * 3 + (b"x" * 61,), AAAA, opt()),
    "more than 4,096 octets": query("web.internal", AAAA, opt(option(65_100, bytes(5_000)))),
}
odd_queries = pytest.mark.parametrize("octets", ODD_QUERIES.values(), ids=ODD_QUERIES.keys())


@transports
@odd_queries
def test_an_outsider_is_refused_before_anything_else_is_looked_at(
    octets: bytes, stream: bool
) -> None:
    refused = reply(octets, source=OUTSIDER, stream=stream, rules=Rules(nsid=b"here"))
    assert rcode(refused) == dns.rcode.REFUSED
    assert has_no_records(refused)
    assert not unpack("!H", refused[2:4])[0] & AA


@transports
@odd_queries
def test_an_outsider_never_gets_more_octets_than_it_sent(octets: bytes, stream: bool) -> None:
    assert len(reply(octets, source=OUTSIDER, stream=stream)) <= len(octets)


def test_an_outsider_gets_opt_if_it_sent_one_and_ede_18_if_it_sent_as_many_octets() -> None:
    for padding, expected in (
        ((), {}),
        ((option(12, b""),), {}),
        ((option(12, bytes(2)),), {EDE: b"\0\x12"}),
        ((option(12, bytes(9)),), {EDE: b"\0\x12"}),
    ):
        refused = dig(query("web.internal", AAAA, opt(*padding)), source=OUTSIDER)
        assert refused.edns == 0
        assert options(refused) == expected
    assert dig(query("web.internal"), source=OUTSIDER).edns == -1


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("2001:db8::1", "fdaa::3"),
        ("192.0.2.1", "fdaa::3"),
        ("::1", "::1"),
        ("fdab:0:18::1", "fdaa::3"),
        ("fdaa::1", "fdaa::3"),  # network 0 is reserved
        ("fdaa:0:18::1", "fdaa:0:19::3"),  # another network's server address
    ],
)
def test_a_source_that_no_rule_maps_is_an_outsider(source: str, destination: str) -> None:
    found = dig(query("web.internal"), source=ip(source), destination=ip(destination))
    assert found.rcode() == dns.rcode.REFUSED


# ── opcodes ───────────────────────────────────────────────────────────────────────────────────────


@transports
@pytest.mark.parametrize("opcode", range(1, 16))
def test_an_opcode_other_than_query_is_not_implemented(opcode: int, stream: bool) -> None:
    for octets in (
        query("web.internal", SOA, opcode=opcode),
        query("web.internal", SOA, opt(), opcode=opcode),
        header(qd=0, opcode=opcode),
        header(qd=1, opcode=opcode),  # a count without its question
        header(an=1, opcode=opcode) + WEB + A_RR,
        header(ns=2, opcode=opcode) + WEB + SOA_RR + A_RR,
        header(opcode=opcode) + WEB + b"trailing",
    ):
        found = reply(octets, stream=stream)
        assert found[3] & 15 == dns.rcode.NOTIMP
        assert found[2] >> 3 & 15 == opcode
        assert counts(found)[1:3] == (0, 0)


# ── structure ─────────────────────────────────────────────────────────────────────────────────────

MALFORMED = {
    # name: (message, the question that the reply must echo)
    "no question": (header(qd=0), b""),
    "no question and an OPT without cookie": (header(qd=0, ar=1) + opt(option(NSID)), b""),
    "no question and a cookie of 3 octets": (header(qd=0, ar=1) + opt(option(COOKIE, b"abc")), b""),
    "two questions": (header(qd=2) + WEB + WEB, b""),
    "65535 questions": (header(qd=65_535) + WEB, b""),
    "a question without class": (header() + WEB[:-2], b""),
    "a question without type": (header() + WEB[:-4], b""),
    "a name without its root": (header() + WEB[:-5], b""),
    "a label past the end": (header() + b"\x3fweb", b""),
    "one question counted and none there": (header(), b""),
    "an answer record": (header(an=1) + WEB + A_RR, WEB),
    "an answer counted and none there": (header(an=1) + WEB, WEB),
    "an authority record": (header(ns=1) + WEB + SOA_RR, WEB),
    "an authority record counted and none there": (header(ns=1) + WEB, WEB),
    "IXFR with two SOA records": (
        header(ns=2) + question("internal", IXFR) + SOA_RR + SOA_RR,
        question("internal", IXFR),
    ),
    "IXFR with an A record":
        (header(ns=1) + question("internal", IXFR) + A_RR, question("internal", IXFR)),
    "an additional record counted and none there": (header(ar=1) + WEB, WEB),
    "two additional records counted and one there": (header(ar=2) + WEB + opt(), WEB),
    "65535 additional records counted": (header(ar=65_535) + WEB + opt(), WEB),
    "more additional records than anything legal has": (
        header(ar=200) + WEB + rr(b"\0", TSIG) * 200,
        WEB,
    ),
    "OPT twice": (header(ar=2) + WEB + opt() + opt(), WEB),
    "OPT twice with a TSIG between": (header(ar=3) + WEB + opt() + rr(b"\0", TSIG) + opt(), WEB),
    "OPT owned by a name": (header(ar=1) + WEB + opt(owner=wire("x")), WEB),
    "OPT owned by a pointer": (header(ar=1) + WEB + opt(owner=b"\xc0\x0c"), WEB),
    "OPT in the answer section": (header(an=1) + WEB + opt(), WEB),
    "OPT in the authority section": (header(ns=1) + WEB + opt(), WEB),
    "OPT as the SOA of an IXFR":
        (header(ns=1) + question("internal", IXFR) + opt(), question("internal", IXFR)),
    "an option cut off": (header(ar=1) + WEB + opt(b"\0\x03\0"), WEB),
    "an option past the end of OPT": (header(ar=1) + WEB + opt(option(NSID, b"", length=1)), WEB),
    "an option past the end of OPT, inside the message": (
        header(ar=2) + WEB + opt(option(12, b"", length=11)) + rr(b"\0", TSIG),
        WEB,
    ),
    "an option past the end of OPT, after 100 good ones": (
        header(ar=1) + WEB + opt(*[option(12)] * 100, option(12, b"", length=65_535)),
        WEB,
    ),
    "the rdata of OPT past the end": (header(ar=1) + WEB + opt(rdlen=1), WEB),
    "OPT cut off": (header(ar=1) + WEB + opt()[:-1], WEB),
    "the rdata of TSIG past the end": (header(ar=2) + WEB + opt() + rr(b"\0", TSIG, rdlen=1), WEB),
    "an owner in additional with a label type 0x40":
        (header(ar=1) + WEB + rr(b"\x40\0", TSIG), WEB),
    "an owner in additional cut off": (header(ar=1) + WEB + b"\x20abc", WEB),
    "a compression pointer as QNAME": (header() + b"\xc0\x0c\0\x1c\0\1", b""),
    "a compression pointer in QNAME": (header() + b"\3web\xc0\x0c\0\x1c\0\1", b""),
    "a label type 0x40 in QNAME": (header() + b"\x41\1x\0\0\x1c\0\1", b""),
    "a label type 0x80 in QNAME": (header() + b"\x80\0\0\x1c\0\1", b""),
    "a QNAME of 256 octets": (query((b"x" * 63,) * 3 + (b"x" * 62,)), b""),
    "a QNAME of 128 labels": (query((b"x",) * 128), b""),
    "a QNAME of 4,000 octets": (query((b"x" * 63,) * 62), b""),
    "an octet behind the question": (header() + WEB + b"\0", WEB),
    "an octet behind OPT": (query("web.internal", AAAA, opt()) + b"x", WEB),
    "an OPT that is not counted": (header() + WEB + opt(), WEB),
    "more than 4,096 octets in an option":
        (query("web.internal", AAAA, opt(option(65_100, bytes(4_096)))), None),
    "more than 4,096 octets behind the question": (header() + WEB + bytes(5_000), None),
    "a malformed cookie": (query("web.internal", AAAA, opt(option(COOKIE, bytes(7)))), WEB),
}  # fmt: skip
malformed = pytest.mark.parametrize(("octets", "echoed"), MALFORMED.values(), ids=MALFORMED.keys())


@transports
@malformed
def test_a_malformed_query_gets_formerr_and_nothing_malformed_gets_data(
    octets: bytes, echoed: bytes | None, stream: bool
) -> None:
    found = reply(octets, stream=stream)
    assert rcode(found) == dns.rcode.FORMERR
    assert has_no_records(found)
    assert not unpack("!H", found[2:4])[0] & (AA | TC)


@transports
@malformed
def test_formerr_echoes_the_question_only_if_it_parsed_whole(
    octets: bytes, echoed: bytes | None, stream: bool
) -> None:
    found = reply(octets, stream=stream)
    end = (
        len(found) - 11 * (counts(found)[3] == 1)
        if COOKIE not in options(dns.message.from_wire(found))
        else None
    )
    if counts(found)[0] == 0:
        assert not echoed
        assert found[12:13] in (b"", b"\0")  # nothing, or the owner of OPT
    else:
        assert echoed is None or found[12:end].startswith(echoed)
        assert echoed != b""
    if not counts(found)[3]:
        assert len(found) == 12 + len(
            echoed if counts(found)[0] and echoed is not None else found[12:]
        )


@pytest.mark.parametrize("length", range(0, 60))
def test_a_cookie_is_8_or_16_to_40_octets_long(length: int) -> None:
    found = dig(query("web.internal", AAAA, opt(option(COOKIE, bytes(length)))))
    good = length == 8 or 16 <= length <= 40
    assert found.rcode() == (dns.rcode.NOERROR if good else dns.rcode.FORMERR)
    assert bool(found.answer) == good


WELL_FORMED = {
    "a TSIG record beside OPT":
        query("web.internal", AAAA, opt(), rr(wire("key"), TSIG, bytes(40), rclass=255)),
    "a TSIG record before OPT":
        query("web.internal", AAAA, rr(wire("key"), TSIG, bytes(40), rclass=255), opt()),
    "a TSIG record alone":
        query("web.internal", AAAA, rr(wire("key"), TSIG, bytes(40), rclass=255)),
    "an additional record owned by a pointer":
        query("web.internal", AAAA, rr(b"\xc0\x0c", A, b"\1\2\3\4")),
    "OPT with garbage as UDP size": query("web.internal", AAAA, opt(size=0)),
    "unknown EDNS flags": query("web.internal", AAAA, rr(b"\0", 41, rclass=1232, ttl=0x7FFF)),
    "an extended RCODE in a query":
        query("web.internal", AAAA, rr(b"\0", 41, rclass=1232, ttl=0xFF00_0000)),
    "unknown options":
        query("web.internal", AAAA,
              opt(option(65_300, b"hello"), option(0), option(65_535, b"\xff"))),
    "an ECS option, malformed": query("web.internal", AAAA, opt(option(8, b"\xff"))),
    "400 options":
        query("web.internal", AAAA, opt(*(option(20_000 + i, b"1234") for i in range(400)))),
    "1,000 empty options": query("web.internal", AAAA, opt(*[option(12)] * 1_000)),
    "400 NSID options": query("web.internal", AAAA, opt(*[option(NSID)] * 400)),
    "4,096 octets":
        query("web.internal", AAAA, opt(option(65_100, bytes(4_096 - 12 - len(WEB) - 15)))),
}  # fmt: skip


@transports
@pytest.mark.parametrize("octets", WELL_FORMED.values(), ids=WELL_FORMED.keys())
def test_unknown_records_and_options_change_nothing(octets: bytes, stream: bool) -> None:
    found = dig(octets, stream=stream)
    assert found.rcode() == dns.rcode.NOERROR
    assert sorted(records(found, AAAA)) == sorted(records(dig(query("web.internal")), AAAA)) != []


@transports
def test_a_name_of_255_octets_is_answered(stream: bool) -> None:
    name = (b"x" * 63, b"x" * 63, b"x" * 63, b"x" * 52, b"internal")
    assert len(wire(name)) == 255
    assert dig(query(name), stream=stream).rcode() == dns.rcode.NXDOMAIN
    many = (b"x",) * 122 + (b"internal",)
    assert len(wire(many)) == 254
    assert dig(query(many), stream=stream).rcode() == dns.rcode.NXDOMAIN


# ── the order of the questions the server asks itself ─────────────────────────────────────────────


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (header(an=1, opcode=NOTIFY) + WEB, dns.rcode.NOTIMP),
        (query("web.internal", AAAA, opt(version=1), opcode=UPDATE), dns.rcode.NOTIMP),
        (query("web.internal", AAAA, opt(version=1), qclass=CH) + b"x", dns.rcode.FORMERR),
        (query("web.internal", AAAA, opt(version=1), qclass=CH), dns.rcode.BADVERS),
        (query("web.internal", AXFR, opt(version=1)), dns.rcode.BADVERS),
        (query("nosuch.internal", qclass=CH), dns.rcode.REFUSED),
        (query("nosuch.internal", AXFR), dns.rcode.REFUSED),
        (query("nosuch.internal", flags=0), dns.rcode.NXDOMAIN),
        (query("example.com", flags=0), dns.rcode.REFUSED),
    ],
)
def test_the_first_matching_rule_wins(octets: bytes, expected: int) -> None:
    assert rcode(reply(octets)) == expected


@transports
@pytest.mark.parametrize("version", [1, 2, 255])
@pytest.mark.parametrize(
    "rdata", [b"", option(COOKIE, b"x"), b"\xff\xff\xff"], ids=["plain", "cookie", "garbage"]
)
def test_a_later_version_of_edns_gets_badvers_and_version_0(
    version: int, rdata: bytes, stream: bool
) -> None:
    for name in ("web.internal", "example.com"):
        found = reply(query(name, AAAA, opt(rdata, version=version, do=True)), stream=stream)
        message = dns.message.from_wire(found)
        assert message.rcode() == dns.rcode.BADVERS
        assert message.edns == 0
        assert has_no_records(found)
        assert counts(found)[0] == 1


@transports
@pytest.mark.parametrize("name", ["web.internal", "example.com", "version.bind", "localhost", "."])
@pytest.mark.parametrize("qclass", [0, CH, 4, NONE, ANY_CLASS, 65_535])
def test_a_class_other_than_in_is_refused_and_discloses_nothing(
    qclass: int, name: str, stream: bool
) -> None:
    found = reply(query(name, TXT, qclass=qclass), stream=stream)
    assert rcode(found) == dns.rcode.REFUSED
    assert has_no_records(found)


@transports
@pytest.mark.parametrize(
    "name", ["web.internal", "internal", "web.flycast", "example.com", ".", "localhost"]
)
@pytest.mark.parametrize("qtype", [AXFR, IXFR])
def test_a_zone_transfer_is_refused(qtype: int, name: str, stream: bool) -> None:
    found = reply(query(name, qtype), stream=stream)
    assert rcode(found) == dns.rcode.REFUSED
    assert has_no_records(found)


@transports
def test_ixfr_may_carry_the_soa_it_has(stream: bool) -> None:
    found = reply(header(ns=1) + question("internal", IXFR) + SOA_RR, stream=stream)
    assert rcode(found) == dns.rcode.REFUSED


@transports
def test_without_rd_only_names_of_ours_are_answered(stream: bool) -> None:
    assert rcode(reply(query("example.com", flags=0), stream=stream)) == dns.rcode.REFUSED
    assert records(dig(query("web.internal", flags=0), stream=stream), AAAA)
    assert records(dig(query("localhost", flags=0), stream=stream), AAAA) == ["::1"]
    assert isinstance(outcome(query("example.com"), stream=stream), Forward)


def test_with_forwarding_off_an_outside_name_is_refused_with_ede_20() -> None:
    found = dig(query("example.com", AAAA, opt()), rules=Rules(forwarding=False))
    assert found.rcode() == dns.rcode.REFUSED
    assert options(found)[EDE][:2] == b"\0\x14"
    assert not found.flags & dns.flags.RA


# ── header bits ───────────────────────────────────────────────────────────────────────────────────


@transports
@pytest.mark.parametrize("flags", range(0, 0x800, 0x10))
def test_rd_and_cd_are_copied_and_no_other_bit_of_a_query_is(flags: int, stream: bool) -> None:
    """All 128 combinations of AA TC RD RA Z AD CD."""
    octets = query("web.internal", flags=flags)
    (word,) = unpack("!H", reply(octets, stream=stream)[2:4])
    assert word == QR | AA | RA | flags & (RD | CD)
    (word,) = unpack("!H", reply(query("example.com", AAAA, flags=flags & ~RD), stream=stream)[2:4])
    assert word == QR | RA | flags & CD | dns.rcode.REFUSED


@pytest.mark.parametrize("bits", range(16))
def test_the_rcode_bits_of_a_query_are_ignored(bits: int) -> None:
    assert dig(query("web.internal", flags=RD | bits)).rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize("ident", [0, 1, 0xFF, 0xFF00, 0xFFFF])
def test_the_id_is_copied(ident: int) -> None:
    assert dig(query("web.internal", ident=ident)).id == ident


# ── types ─────────────────────────────────────────────────────────────────────────────────────────


@transports
@pytest.mark.parametrize(
    "qtype",
    [0, A, 2, 5, SOA, PTR, MX, TXT, 33, 41, 43, 46, SVCB, 65, TSIG, 254, 256, 65_280, 65_535],
)
def test_another_type_at_an_existing_name_gets_nodata_with_the_soa(
    qtype: int, stream: bool
) -> None:
    found = dig(query("web.internal", qtype), stream=stream)
    assert (found.rcode(), found.answer) == (dns.rcode.NOERROR, [])
    assert [rrset.to_text() for rrset in found.authority] == [
        "internal. 1 IN SOA _dns.internal. hostmaster.internal. 1 5 5 5 1"
    ]
    assert found.flags & dns.flags.AA


@pytest.mark.parametrize(
    ("name", "rtype"),
    [("web.internal", AAAA), ("vms.web.internal", TXT), ("top1.nearest.of.web.internal", AAAA)],
)
def test_any_gets_one_rrset(name: str, rtype: int) -> None:
    found = dig(query(name, ANY))
    assert [rrset.rdtype for rrset in found.answer] == [rtype]
    assert records(found, rtype) == records(dig(query(name, rtype)), rtype)


# ── names ─────────────────────────────────────────────────────────────────────────────────────────

ODD_LABELS: list[tuple[bytes, ...]] = [
    (b"my-app.internal",),
    (b"web.internal", b"internal"),
    (b"we\0b", b"internal"),
    (b"\0", b"internal"),
    (b'"web"', b"internal"),
    (b"'; DROP TABLE machines; --", b"internal"),
    (b"\xff" * 63, b"internal"),
    (b"web\\", b"internal"),
    (b"web ", b"internal"),
    (b" web", b"internal"),
    ("wéb".encode(), b"internal"),
    (b"\xc0\x0c", b"internal"),
    (bytes(range(63)), b"internal"),
    (b"web", b"internal\0"),
    (b"web", b"internal."),
]


@transports
@pytest.mark.parametrize("name", ODD_LABELS, ids=repr)
def test_a_label_is_octets_and_is_echoed_byte_for_byte(
    name: tuple[bytes, ...], stream: bool
) -> None:
    found = outcome(query(name), stream=stream)
    if name[-1] == b"internal":
        assert isinstance(found, Reply)
        assert found.rcode == Rcode.NXDOMAIN
    if isinstance(found, Reply):
        assert found.octets[12:].startswith(question(name))
        assert counts(found.octets)[:2] == (1, 0)
    else:
        assert isinstance(found, Forward)
        assert found.query.question == question(name)
        assert found.query.labels == tuple(label.lower() for label in name)


def test_a_dot_inside_a_label_makes_no_name_of_ours() -> None:
    found = outcome(query((b"x", b"web.internal")))
    assert isinstance(found, Forward)
    assert found.query.labels == (b"x", b"web.internal")


@transports
@pytest.mark.parametrize(
    "name", ["wEb.InTeRnAl", "VMS.WEB.INTERNAL", "nOsUcH.iNtErNaL", "LOCALhost", "x.TEST"]
)
def test_letter_case_is_ignored_and_kept(name: str, stream: bool) -> None:
    for qtype in (AAAA, TXT):
        found = reply(query(name, qtype), stream=stream)
        small = reply(query(name.lower(), qtype), stream=stream)
        assert found[12:].startswith(question(name, qtype))
        assert found.lower() == small.lower()
        for rrset in dns.message.from_wire(found).answer:
            assert rrset.name.to_text() == f"{name}."


def test_letters_are_ascii_letters_only() -> None:
    assert dig(query((b"\xc4", b"internal"))).rcode() == dns.rcode.NXDOMAIN
    found = outcome(query(("ÄÖ".encode(), b"Example")))
    assert isinstance(found, Forward)
    assert found.query.labels == ("ÄÖ".encode(), b"example")


# ── EDNS ──────────────────────────────────────────────────────────────────────────────────────────


@transports
@pytest.mark.parametrize("name", ["web.internal", "nosuch.internal", "localhost", "x.test"])
@pytest.mark.parametrize("do", [False, True])
def test_opt_is_in_the_reply_iff_in_the_query_and_do_is_copied(
    name: str, do: bool, stream: bool
) -> None:
    assert dig(query(name), stream=stream).edns == -1
    found = dig(query(name, AAAA, opt(do=do)), stream=stream)
    assert found.edns == 0
    assert found.ednsflags == (0x8000 if do else 0)
    assert found.payload == 4_096


@transports
def test_edns_flags_other_than_do_are_not_copied(stream: bool) -> None:
    octets = query("web.internal", AAAA, rr(b"\0", 41, rclass=1232, ttl=0x7FFF))
    assert dig(octets, stream=stream).ednsflags == 0


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1_000, 1_232, 4_096, 8_192, 65_535])
def test_a_udp_reply_keeps_to_the_clients_size_and_ours(size: int) -> None:
    found = reply(query("many.internal", AAAA, opt(size=size)))
    limit = max(512, min(size, 8_192))
    shown = counts(found)[1]
    assert len(found) <= limit
    assert len(found) + 28 > limit or shown == MANY
    assert bool(unpack("!H", found[2:4])[0] & TC) == (shown < MANY)
    short = reply(query("many.internal", AAAA, opt(size=size)), rules=Rules(udp_limit=1_232))
    assert len(short) <= min(limit, 1_232)


def test_a_udp_reply_without_opt_has_at_most_512_octets_and_a_tcp_reply_is_whole() -> None:
    assert 484 < len(reply(query("many.internal"))) <= 512
    whole = reply(query("many.internal"), stream=True)
    assert counts(whole)[1] == MANY
    assert not unpack("!H", whole[2:4])[0] & TC


def test_a_txt_record_that_does_not_fit_is_left_out_whole() -> None:
    found = reply(query("vms.many.internal", TXT))
    assert unpack("!H", found[2:4])[0] & TC
    assert counts(found)[1:3] == (0, 0)


@transports
def test_a_keepalive_is_answered_over_tcp_only(stream: bool) -> None:
    found = options(dig(query("web.internal", AAAA, opt(option(KEEPALIVE))), stream=stream))
    assert found == ({KEEPALIVE: pack("!H", 100)} if stream else {})  # RFC 7828: in units of 100 ms


@transports
def test_nsid_is_sent_when_requested_and_configured(stream: bool) -> None:
    named = Rules(nsid=b"ams-1\xff")
    asking = query("web.internal", AAAA, opt(option(NSID)))
    assert options(dig(asking, stream=stream, rules=named)) == {NSID: b"ams-1\xff"}
    assert options(dig(asking, stream=stream)) == {}
    assert options(dig(query("web.internal", AAAA, opt()), stream=stream, rules=named)) == {}


def test_the_options_of_a_query_are_not_echoed() -> None:
    found = dig(
        query(
            "web.internal",
            AAAA,
            opt(option(12, bytes(30)), option(65_300, b"x"), option(EDE, b"\0\1hi")),
        )
    )
    assert options(found) == {}


def test_an_ede_is_dropped_first_when_there_is_no_room() -> None:
    name = (b"x" * 63, b"x" * 63, b"x" * 63, b"x" * 52, b"internal")
    asked = opt(option(NSID), option(COOKIE, COOKIE_8), size=512)
    roomy = options(dig(query(name, AAAA, asked), rules=Rules(nsid=b"n")))
    assert set(roomy) == {NSID, COOKIE, EDE}
    for size in range(2, 128):
        octets = reply(query(name, AAAA, asked), rules=Rules(nsid=b"n" * size))
        found = dns.message.from_wire(octets)
        assert len(octets) <= 512
        assert {NSID, COOKIE} <= set(options(found))
        assert len(found.authority) == 1
        assert not found.flags & dns.flags.TC
    assert EDE not in options(found)


@pytest.mark.parametrize(
    "name", ["nosuch.internal", "batch.internal", "nosuch.flycast", "x.vm.web.internal"]
)
def test_a_negative_reply_says_why_but_never_the_name(name: str) -> None:
    value = options(dig(query(name, AAAA, opt())))[EDE]
    assert value[:2] == b"\0\0"
    assert 0 < len(value[2:].decode()) <= 120
    assert labels(name)[0] not in value.split(b" ")
    assert EDE not in options(dig(query("web.internal", AAAA, opt())))


def test_without_a_catalog_our_zones_servfail_with_ede_14_and_the_rest_works() -> None:
    for name in ("web.internal", "internal", "_dns.internal", "web.flycast", "3.a.a.d.f.ip6.arpa"):
        found = dig(query(name, AAAA, opt()), catalog=None)
        assert found.rcode() == dns.rcode.SERVFAIL
        assert options(found)[EDE][:2] == b"\0\x0e"
    assert isinstance(outcome(query("example.com"), catalog=None), Forward)
    assert records(dig(query("localhost"), catalog=None), AAAA) == ["::1"]


# ── cookies ───────────────────────────────────────────────────────────────────────────────────────

FIRST = "e5e973e5a6b2a43f48e7dc849e37bfcf"
RFC_9018 = [  # Appendix A: secret, client address, client cookie, time stamp, server cookie
    (FIRST, "198.51.100.100", "2464c4abcf10c957", 1_559_731_985,
     "010000005cf79f111f8130c3eee29480"),
    (FIRST, "198.51.100.100", "2464c4abcf10c957", 1_559_734_385,
     "010000005cf7a871d4a564a1442aca77"),
    (FIRST, "203.0.113.203", "fc93fc62807ddb86", 1_559_734_700, "010000005cf7a9acf73a7810aca2381e"),
    (
        "dd3bdf9344b678b185a6f5cb60fca715", "2001:db8:220:1:59de:d0f4:8769:82b8",
        "22681ab97d52c298",
        1_559_741_817, "010000005cf7c57926556bd0934c72f8",
    ),
    (
        "445536bcd2513298075a5d379663c962", "2001:db8:220:1:59de:d0f4:8769:82b8",
        "22681ab97d52c298",
        1_559_741_961, "010000005cf7c609a6bb79d16625507a",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("secret", "address", "client", "now", "expected"), RFC_9018)
@pytest.mark.parametrize(
    "old",
    [b"", bytes(8), bytes(16), bytes(32), bytes.fromhex("01abcdef5cf78f71a314227b6679ebf5")],
    ids=["none", "8", "16", "32", "of another server"],
)
def test_a_server_cookie_is_that_of_rfc_9018_and_a_bad_one_gets_a_fresh_one(
    secret: str, address: str, client: str, now: int, expected: str, old: bytes
) -> None:
    everyone = tuple(
        SourceMap.of(ip_network(text), NetworkId(0x18)) for text in ("0.0.0.0/0", "::/0")
    )
    rules = Rules(maps=everyone, secret=bytes.fromhex(secret))
    octets = query("web.internal", AAAA, opt(option(COOKIE, bytes.fromhex(client) + old)))
    found = dig(octets, source=ip(address), rules=rules, now=now)
    assert found.rcode() == dns.rcode.NOERROR
    assert options(found) == {COOKIE: bytes.fromhex(client + expected)}


def test_siphash_is_that_of_its_authors() -> None:
    """The vectors of the reference implementation: key and message are 00 01 02 …"""
    key = bytes(range(16))
    assert siphash(b"", key).hex() == "310e0edd47db6f72"
    assert siphash(bytes(range(8)), key).hex() == "6224939a79f5f593"
    assert siphash(bytes(range(15)), key).hex() == "e545be4961ca29a1"
    assert siphash(bytes(range(63)), key).hex() == "724506eb4c328a95"


def test_a_time_past_2106_wraps_and_does_not_fail() -> None:
    assert len(full_cookie(COOKIE_8, bytes(16), bytes(16), 1 << 40)) == 24


@transports
@pytest.mark.parametrize("name", ["web.internal", "nosuch.internal", "localhost", "batch.internal"])
def test_every_reply_to_a_cookie_carries_one(name: str, stream: bool) -> None:
    found = dig(query(name, AAAA, opt(option(COOKIE, COOKIE_8))), stream=stream)
    assert options(found)[COOKIE][:8] == COOKIE_8
    assert len(options(found)[COOKIE]) == 24


@transports
def test_a_query_without_question_but_with_a_cookie_gets_a_cookie(stream: bool) -> None:
    found = reply(header(qd=0, ar=1) + opt(option(COOKIE, COOKIE_8)), stream=stream)
    assert rcode(found) == dns.rcode.NOERROR
    assert counts(found) == (0, 0, 0, 1)
    assert len(options(dns.message.from_wire(found))[COOKIE]) == 24


# ── isolation of the destination, local names ─────────────────────────────────────────────────────


@pytest.mark.parametrize("destination", ["fdaa::3", "fdaa:0:18::3", "::1", "192.0.2.1"])
def test_a_network_may_query_any_server_address_but_another_networks(destination: str) -> None:
    assert records(dig(query("web.internal"), destination=ip(destination)), AAAA)
    refused = dig(query("web.internal"), destination=ip("fdaa:0:19::3"))
    assert refused.rcode() == dns.rcode.REFUSED


def test_each_network_sees_its_own_app_of_a_name() -> None:
    assert records(dig(query("web.internal"), source=IN_GLOBEX), AAAA) == ["fdaa:0:19:a7b:7d:1:1:2"]


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("router.home.arpa", "home.arpa."),
        ("test", "test."),
        ("a.b.invalid", "invalid."),
        ("x.onion", "onion."),
        ("1.0.168.192.in-addr.arpa", "168.192.in-addr.arpa."),
        ("1.0.0.10.in-addr.arpa", "10.in-addr.arpa."),
        ("1.31.172.in-addr.arpa", "31.172.in-addr.arpa."),
        ("b.a.d.f.ip6.arpa", "d.f.ip6.arpa."),
        ("1." + "0." * 31 + "ip6.arpa", "1." + "0." * 31 + "ip6.arpa."),
    ],
)
@pytest.mark.parametrize("flags", [0, RD])
def test_a_special_use_zone_is_answered_here(name: str, zone: str, flags: int) -> None:
    found = dig(query(name, PTR, flags=flags))
    assert found.rcode() == dns.rcode.NXDOMAIN
    assert found.flags & dns.flags.AA
    assert [(rrset.name.to_text(), rrset.ttl) for rrset in found.authority] == [(zone, 1)]


def test_a_bare_host_name_gets_an_empty_reply_at_once() -> None:
    for qtype in (A, AAAA):
        found = reply(query("fly-local-6pn", qtype))
        assert rcode(found) == dns.rcode.NOERROR
        assert counts(found) == (1, 0, 0, 0)
        assert not unpack("!H", found[2:4])[0] & AA
    assert isinstance(outcome(query("com", SOA)), Forward)
    assert isinstance(outcome(query(".", 2)), Forward)


def test_a_suffix_with_an_upstream_of_its_own_is_forwarded_unless_it_is_ours() -> None:
    rules = Rules(
        forwarded=(
            labels("test"),
            labels("10.in-addr.arpa"),
            labels("internal"),
            labels("localhost"),
        )
    )
    assert isinstance(outcome(query("x.test"), rules=rules), Forward)
    assert isinstance(outcome(query("1.10.in-addr.arpa", PTR), rules=rules), Forward)
    assert records(dig(query("web.internal"), rules=rules), AAAA)
    assert records(dig(query("localhost"), rules=rules), AAAA)
    assert rcode(reply(query("x.invalid"), rules=rules)) == dns.rcode.NXDOMAIN


def test_a_forwarded_query_keeps_its_octets_and_reply_options() -> None:
    found = outcome(query("ExAmPle.com", MX, opt(do=True, size=1_400), flags=RD | CD | AD | Z))
    assert isinstance(found, Forward)
    assert found.query.question == question("ExAmPle.com", MX)
    assert found.query.name == wire("example.com")
    assert found.query.edns is not None
    assert found.query.edns.dnssec_ok
    assert found.query.flags & (CD | AD) == CD | AD
    assert found.reply_options.limit == 1_400
    assert found.network == 0x18


@pytest.mark.parametrize("name", ["web.internal", "localhost", "example.com"])
def test_the_server_answers_alike_for_equal_arguments(name: Name) -> None:
    octets = query(name, AAAA, opt(option(COOKIE, COOKIE_8)))
    assert outcome(octets, rotation=5, now=7) == outcome(octets, rotation=5, now=7)


def test_another_prefix_works_as_well() -> None:
    rules = replace(Rules(), prefix=b"\xfd\x12")
    found = dig(
        query("_api.internal"),
        source=ip("fd12:0:18::5"),
        destination=ip("fd12::3"),
        rules=rules,
        catalog=Catalog(),
    )
    assert records(found, AAAA) == ["fd12:0:18::3"]
    assert rcode(reply(query("_api.internal"), rules=rules)) == dns.rcode.REFUSED
