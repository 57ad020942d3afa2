"""An upstream's reply is accepted whole or rejected whole."""

from __future__ import annotations

from struct import pack, unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.wire import BadReply, CheckedReply, check_reply
from tests.core.messages import (
    AA,
    AAAA,
    CNAME,
    DNAME,
    HTTPS,
    IN,
    MX,
    NS,
    OPT,
    PTR,
    QR,
    RA,
    RD,
    SOA,
    SRV,
    SVCB,
    TC,
    TSIG,
    TXT,
    A,
    Name,
    ip,
    opt,
    option,
    question,
    rr,
    wire,
)
from tests.fuzz.targets import check_reply as judge

ASKED = question("ExAmple.com", A)
IDENT = b"\x12\x34"
ZONES = frozenset((wire("internal"), wire("flycast"), wire("a.a.d.f.ip6.arpa")))
PREFIX = b"\xfd\xaa"
QNAME = b"\xc0\x0c"
ADDRESS = rr(QNAME, A, b"\1\2\3\4")


def message(
    *records: bytes,
    an: int = -1,
    ns: int = 0,
    ar: int = 0,
    flags: int = QR | RD | RA,
    asked: bytes = ASKED,
) -> bytes:
    """Return a reply; every record is in the answer section unless the counts say otherwise."""
    answers = len(records) - ns - ar if an < 0 else an
    return IDENT + pack("!5H", flags, 1, answers, ns, ar) + asked + b"".join(records)


def checked(octets: bytes, asked: bytes = ASKED) -> CheckedReply:
    return check_reply(octets, IDENT, asked, ZONES, PREFIX)


def refused(octets: bytes, asked: bytes = ASKED) -> BadReply:
    with pytest.raises(BadReply) as caught:
        checked(octets, asked)
    return caught.value


def record_start(*before: bytes) -> int:
    """Return where the record after *before* starts in a `message`."""
    return 12 + len(ASKED) + sum(map(len, before))


# ── good replies ──────────────────────────────────────────────────────────────────────────────────

CHAIN = rr(QNAME, CNAME, b"\3www\xc0\x14")  # ExAmple.com CNAME www.com
GOOD = {
    "no records": (message(), (0, 0, 0)),
    "an address": (message(ADDRESS), (1, 0, 0)),
    "an owner written out": (message(rr(wire("example.COM"), A, b"\1\2\3\4")), (1, 0, 0)),
    "a CNAME chain": (message(CHAIN, rr(b"\3www\xc0\x14", A, b"\1\2\3\4")), (2, 0, 0)),
    "a pointer to a pointer": (message(CHAIN, rr(b"\xc0\x1d", A, b"\1\2\3\4")), (2, 0, 0)),
    "a negative reply": (
        message(rr(b"\xc0\x14", SOA, wire("a") + wire("b") + bytes(20)), ns=1, flags=QR | 3),
        (0, 1, 0),
    ),
    "a referral with glue": (
        message(rr(QNAME, NS, b"\1n\xc0\x0c"), rr(b"\1n\xc0\x0c", A, bytes(4)), ns=1, ar=1),
        (0, 1, 1),
    ),
    "an OPT, left out": (message(ADDRESS, opt(), ar=1), (1, 0, 0)),
    "an OPT with options, left out": (
        message(ADDRESS, opt(option(10, bytes(24)), option(15, b"\0\3")), ar=1),
        (1, 0, 0),
    ),
    "an additional record, then OPT": (message(ADDRESS, ADDRESS, opt(), ar=2), (1, 0, 1)),
    "what follows OPT, left out":
        (message(ADDRESS, opt(), rr(b"\0", TSIG, bytes(9)), ar=2), (1, 0, 0)),
    "an unknown type and class": (message(rr(QNAME, 65_280, bytes(300), rclass=7)), (1, 0, 0)),
    "a name that is the root": (message(rr(b"\0", NS, b"\0")), (1, 0, 0)),
    "an address beside our prefix": (message(rr(QNAME, AAAA, ip("fdab::1"))), (1, 0, 0)),
    "our prefix at the end of an address":
        (message(rr(QNAME, AAAA, ip("2001:db8::fdaa"))), (1, 0, 0)),
    "our prefix in a TXT": (message(rr(QNAME, TXT, b"\4\xfd\xaa\0\0")), (1, 0, 0)),
    "our names in a TXT": (message(rr(QNAME, TXT, b"\x0c" + b"web.internal")), (1, 0, 0)),
    "a service with hints": (
        message(rr(QNAME, HTTPS, b"\0\1\0" + option(6, ip("2001:db8::1") + ip("2001:db8::fdaa")))),
        (1, 0, 0),
    ),
    "a truncated reply, TC": (message(ADDRESS, flags=QR | TC), (1, 0, 0)),
    "the longest label and name":
        (message(rr(wire((b"x" * 63,) * 3 + (b"y" * 61,)), A, bytes(4))), (1, 0, 0)),
    "SERVFAIL": (message(flags=QR | 2), (0, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize(("octets", "counts"), GOOD.values(), ids=GOOD.keys())
def test_a_good_reply_is_accepted_without_its_opt(
    octets: bytes, counts: tuple[int, int, int]
) -> None:
    found = checked(octets)
    assert found.counts == counts
    (flags,) = unpack("!H", octets[2:4])
    assert found.flags == flags
    assert found.rcode == flags & 15
    assert octets[12 + len(ASKED) :].startswith(found.records)
    relayed = IDENT + pack("!5H", found.flags, 1, *found.counts) + ASKED + found.records
    assert checked(relayed) == found


def test_the_rcode_is_read_with_its_extended_bits() -> None:
    badvers = rr(b"\0", OPT, rclass=1232, ttl=1 << 24)
    assert checked(message(badvers, ar=1)).rcode == 16
    badcookie = rr(b"\0", OPT, rclass=1232, ttl=1 << 24)
    assert checked(message(badcookie, ar=1, flags=QR | 7)).rcode == 23
    assert checked(message(opt(version=1), ar=1)).rcode == 0


def test_a_reply_of_64_kib_is_read_whole() -> None:
    count = (65_535 - record_start()) // len(ADDRESS)
    octets = message(*[ADDRESS] * count)
    assert 65_519 < len(octets) <= 65_535
    assert checked(octets).counts == (count, 0, 0)
    hosts = [
        rr(b"\xc0\x0c", SRV, bytes(6) + b"\x07h%06d" % number + b"\xc0\x0c", ttl=60)
        for number in range(2_300)
    ]
    assert 63_000 < len(message(*hosts)) <= 65_535
    assert checked(message(*hosts)).counts == (2_300, 0, 0)
    injected = rr(QNAME, AAAA, ip("fdaa:0:18::1"))
    assert refused(message(*[ADDRESS] * (count - 1), injected)).injected


# ── not the reply to this query ───────────────────────────────────────────────────────────────────

OTHER = {
    "another id": b"\x12\x35" + message(ADDRESS)[2:],
    "another letter case": message(ADDRESS, asked=question("example.com", A)),
    "another name": message(ADDRESS, asked=question("ExAmple.org", A)),
    "another type": message(ADDRESS, asked=question("ExAmple.com", AAAA)),
    "another class": message(ADDRESS, asked=question("ExAmple.com", A, 3)),
    "a query": message(ADDRESS, flags=RD),
    "a response to NOTIFY": message(ADDRESS, flags=QR | 4 << 11),
    "no question": IDENT + pack("!5H", QR, 0, 1, 0, 0) + ADDRESS,
    "no question counted": IDENT + pack("!5H", QR, 0, 0, 0, 0) + ASKED,
    "two questions": IDENT + pack("!5H", QR, 2, 0, 0, 0) + ASKED + ASKED,
    "nothing": b"",
    "a header": message()[:12],
    "half a header": message()[:7],
    "half the question": message()[:20],
}


@pytest.mark.parametrize("octets", OTHER.values(), ids=OTHER.keys())
def test_a_reply_to_anything_else_is_rejected(octets: bytes) -> None:
    assert not refused(octets).injected


# ── broken ────────────────────────────────────────────────────────────────────────────────────────

HERE = record_start()
BROKEN = {
    "an answer counted and none there": message(an=1),
    "65,535 counted": message(ADDRESS, an=65_535),
    "an authority record counted and none there": message(ADDRESS, an=1, ns=1),
    "an additional record counted and none there": message(ADDRESS, an=1, ar=1),
    "more records than an honest reply has room for": message(*[rr(b"\0", 65_400)] * 4_097),
    "more records than leave room for their names": message(
        *[rr(QNAME, MX, b"\0\1\1%c\0" % (n & 127), ttl=0) for n in range(1_520)],
        *[rr(b"\xc0\x0c", A, bytes(4))] * 2_500,
    ),
    "more names than an honest reply leads to": message(
        *(rr(b"\2" + pack("!H", number) + b"\xc0\x0c", 65_400) for number in range(3_000))
    ),
    "rdata past the end": message(rr(QNAME, A, b"\1\2\3", rdlen=4)),
    "half a record head": message(rr(QNAME, A)[:-1]),
    "an owner without its root": message(b"\3www", an=1),
    "a label past the end": message(b"\x3fwww", an=1),
    "half a pointer": message(b"\xc0", an=1),
    "a pointer to itself": message(rr(pack("!H", 0xC000 | HERE), A, bytes(4))),
    "a pointer to the label before itself": message(
        rr(b"\1x" + pack("!H", 0xC000 | HERE), A, bytes(4))
    ),
    "two pointers at each other": message(
        rr(QNAME, 1_000, pack("!HH", 0xC000 | HERE + 14, 0xC000 | HERE + 12)),
        rr(pack("!H", 0xC000 | HERE + 12), A),
    ),
    "a forward pointer": message(
        rr(pack("!H", 0xC000 | HERE + 16), A, bytes(4)), rr(wire("x"), A, bytes(4))
    ),
    # CNAME a.<pointer>; its target's length octet, seen as a label of four, ends in a pointer that
    # leads behind it: before the pointer itself, and after where the name was entered.
    "a pointer to behind where it was entered": message(
        rr(QNAME, CNAME, b"\1a\xc0\x0c"),
        rr(pack("!H", 0xC000 | HERE + 12), CNAME, b"\1b\xc0\x0c"),
        rr(pack("!H", 0xC000 | HERE + 11), A, bytes(4)),
    ),
    "a pointer past the end": message(rr(b"\xff\xff", A, bytes(4))),
    "a pointer into the header": message(rr(b"\xc0\x04", A, bytes(4))),
    "a pointer to the id": message(rr(b"\xc0\x00", A, bytes(4))),
    "a label type 0x40": message(rr(b"\x41x\0", A, bytes(4))),
    "a label type 0x80": message(rr(b"\x80\0", A, bytes(4))),
    "a pointer to a label type 0x80": message(
        rr(QNAME, 1_000, b"\x80\0"), rr(pack("!H", 0xC000 | HERE + 12), A)
    ),
    "a name of 256 octets": message(rr(wire((b"x" * 63,) * 3 + (b"y" * 62,)), A, bytes(4))),
    "a name of 266 octets by a pointer": message(
        rr(wire((b"x" * 63,) * 4)[:-1] + QNAME, A, bytes(4))
    ),
    "a name of 128 labels": message(rr(wire((b"x",) * 128), A, bytes(4))),
    "a CNAME without target": message(rr(QNAME, CNAME)),
    "a CNAME that ends after its rdata": message(rr(QNAME, CNAME, b"\3foo\0", rdlen=4)),
    "a CNAME that ends before its rdata": message(rr(QNAME, CNAME, b"\3foo\0\0")),
    "a CNAME cut off in a pointer": message(rr(QNAME, CNAME, b"\xc0")),
    "an MX without target": message(rr(QNAME, MX, b"\0\1")),
    "an SRV that ends before its rdata": message(rr(QNAME, SRV, b"\0\1\0\1\0\1\0x")),
    "an NS that ends after its rdata": message(rr(QNAME, NS, b"\3ns"), ADDRESS),
    "an A of 3 octets": message(rr(QNAME, A, b"\1\2\3")),
    "an AAAA of 1 octet": message(rr(QNAME, AAAA, b"\xfd")),
    "an AAAA of 17 octets": message(rr(QNAME, AAAA, bytes(17))),
    "OPT in the answer section": message(opt()),
    "OPT in the answer section before others": message(opt(), ADDRESS),
    "OPT in the authority section": message(ADDRESS, opt(), ns=1),
    "OPT owned by a pointer": message(opt(owner=QNAME), ar=1),
    "OPT owned by a name": message(opt(owner=wire("x")), ar=1),
    "octets behind the last record": message(ADDRESS) + b"x",
    "a service parameter past its rdata": message(
        rr(QNAME, SVCB, b"\0\1\0" + option(6, b"", length=16))
    ),
    "a service parameter cut off": message(rr(QNAME, SVCB, b"\0\1\0\0\6\0")),
}


@pytest.mark.parametrize("octets", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_reply_is_rejected(octets: bytes) -> None:
    assert not refused(octets).injected


def test_a_reply_that_is_cut_short_is_rejected() -> None:
    for octets, counts in GOOD.values():
        if "OPT" in repr(counts) or not sum(unpack("!3H", octets[6:12])):
            continue
        has_opt = unpack("!H", octets[10:12])[0] > counts[2]
        for cut in range(len(octets)):
            if not (has_opt and cut >= len(ASKED) + 12 + len(checked(octets).records) + 11):
                refused(octets[:cut])


# ── injected ──────────────────────────────────────────────────────────────────────────────────────

OURS = [
    "internal",
    "INTERNAL",
    "web.internal",
    "wEb.InTerNal",
    "top1.nearest.of.web.internal",
    "flycast",
    "db.FLYCAST",
    "a.a.d.f.ip6.arpa",
    "0.0.A.A.d.F.IP6.arpa",
    (b"x" * 63, b"x" * 63, b"x" * 63, b"x" * 52, b"internal"),
    (b"a.b", b"internal"),
    (b"\0\xff", b"flycast"),
]
NOT_OURS: list[Name] = [
    "notinternal",
    "web.notinternal",
    "internal.example",
    "xinternal",
    "flycast.com",
    "a.d.f.ip6.arpa",
    "b.a.d.f.ip6.arpa",
    "a.a.d.f.ip6.example",
    (b"web.internal",),
    (b"x\x08internal",),
    (b"\x08internal\0",),
    (b"a", b"b\x07flycast"),
    (b"internal\0",),
    (b"internal", b"0"),
]
# Types whose rdata leads a client to another name, and what stands before that name.
LEADING = [
    (NS, 0),
    (CNAME, 0),
    (PTR, 0),
    (DNAME, 0),
    (MX, 2),
    (SRV, 6),
    (HTTPS, 2),
    (SVCB, 2),
    (18, 2),
    (21, 2),
    (36, 2),
]


def carriers(name: Name) -> dict[str, list[bytes]]:
    """Return records that hold *name*, written out and as compression pointers."""
    whole = wire(name)
    found = {
        "as owner": [rr(whole, A, bytes(4))],
        "as owner of an unknown type": [rr(whole, 65_280)],
    }
    if len(whole) + 12 < 250:
        at = record_start() + 12
        hoard = rr(QNAME, 65_280, whole)  # an unknown type's rdata hides the name
        found["as owner, by a pointer"] = [hoard, rr(pack("!H", 0xC000 | at), A, bytes(4))]
        hop = rr(QNAME, 65_280, whole + pack("!H", 0xC000 | at))
        pointed = pack("!H", 0xC000 | at + len(whole))
        found["as owner, by two pointers"] = [hop, rr(pointed, A, bytes(4))]
        for rtype, skip in LEADING:
            found[f"as target of {rtype}, by a pointer"] = [
                hoard,
                rr(QNAME, rtype, bytes(skip) + pack("!H", 0xC000 | at)),
            ]
    for rtype, skip in LEADING:
        found[f"as target of {rtype}"] = [rr(QNAME, rtype, bytes(skip) + whole)]
        if len(labels_of := whole) > 10 and len(whole) < 200:
            tail = record_start() + 12 + 1 + whole[0]
            found[f"as target of {rtype}, its tail by a pointer"] = [
                rr(QNAME, 65_280, labels_of),
                rr(QNAME, rtype, bytes(skip) + whole[: 1 + whole[0]] + pack("!H", 0xC000 | tail)),
            ]
    return found


@pytest.mark.parametrize("name", OURS, ids=repr)
def test_a_reply_with_data_for_a_name_of_ours_is_an_injection(name: Name) -> None:
    for where, records in carriers(name).items():
        for ns, ar in ((len(records), 0), (0, len(records))):
            assert refused(message(*records, ns=ns, ar=ar)).injected, where
        for more in ((), (ADDRESS, ADDRESS)):
            octets = message(*records, *more)
            if "target of 5" in where:  # a CNAME: only the chain says whether it was asked for
                (alias,) = checked(octets).aliases
                assert alias[1] == CNAME
            else:
                assert refused(octets).injected, where


@pytest.mark.parametrize("name", NOT_OURS, ids=repr)
def test_a_name_that_only_resembles_ours_is_accepted(name: Name) -> None:
    for where, records in carriers(name).items():
        assert checked(message(*records)).counts == (len(records), 0, 0), where


def test_a_letter_case_trick_by_pointer_into_the_question_is_an_injection() -> None:
    """The question ends in `.com`; a label and a pointer to a hidden `INTERNAL` is still ours."""
    hidden = rr(QNAME, 65_280, wire("INTERNAL"))
    assert refused(
        message(hidden, rr(b"\3web" + pack("!H", 0xC000 | HERE + 12), A, bytes(4)))
    ).injected


@pytest.mark.parametrize(
    "address", ["fdaa::3", "fdaa:0:18::1", "fdaa:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
)
def test_an_address_of_our_prefix_is_an_injection(address: str) -> None:
    packed = ip(address)
    for record in (
        rr(QNAME, AAAA, packed),
        rr(wire("other.example"), AAAA, packed, rclass=IN),
        rr(QNAME, HTTPS, b"\0\1\0" + option(6, packed)),
        rr(QNAME, SVCB, b"\0\1\0" + option(1, b"\2h2") + option(6, ip("2001:db8::1") + packed)),
    ):
        for ns, ar in ((0, 0), (1, 0), (0, 1)):
            assert refused(message(record, ns=ns, ar=ar)).injected


def test_the_prefix_is_a_setting() -> None:
    octets = message(rr(QNAME, AAAA, ip("fd12::1")))
    assert checked(octets).counts == (1, 0, 0)
    with pytest.raises(BadReply):
        check_reply(octets, IDENT, ASKED, ZONES, b"\xfd\x12")


# ── any octets ────────────────────────────────────────────────────────────────────────────────────


@given(st.binary(max_size=200))
def test_any_octets_are_a_reply_or_a_bad_reply(tail: bytes) -> None:
    judge(tail)
    judge(message() + tail)
    for counts in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 3, 3)):
        judge(IDENT + pack("!5H", QR, 1, *counts) + ASKED + tail)


PIECES = st.sampled_from(
    [
        *(
            wire(name)
            for name in ("internal", "web.InternaL", "flycast", "example.com", "a.a.d.f.ip6.arpa")
        ),
        b"\x08internal",
        b"\3web",
        b"\xc0\x0c",
        b"\xc0\x14",
        b"\xc0\x1d",
        b"\xc0\x29",
        b"\0",
        ip("fdaa::3"),
        pack("!HHIH", A, 1, 60, 4),
        pack("!HHIH", AAAA, 1, 60, 16),
        pack("!HHIH", CNAME, 1, 60, 2),
        pack("!HHIH", SRV, 1, 60, 8),
        pack("!HHIH", 65_280, 1, 60, 12),
        pack("!HHIH", MX, 1, 60, 4),
        opt(),
    ]
)


@given(st.lists(PIECES | st.binary(max_size=3), max_size=12), st.tuples(*[st.integers(0, 3)] * 3))
def test_pieces_of_replies_are_a_reply_or_a_bad_reply(
    pieces: list[bytes], counts: tuple[int, int, int]
) -> None:
    judge(IDENT + pack("!5H", QR | AA, 1, *counts) + ASKED + b"".join(pieces))


@given(st.sampled_from([octets for octets, _ in GOOD.values()]), st.data())
def test_a_damaged_reply_is_a_reply_or_a_bad_reply(octets: bytes, data: st.DataObject) -> None:
    damaged = bytearray(octets)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    judge(bytes(damaged))
