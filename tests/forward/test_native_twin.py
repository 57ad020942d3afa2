"""The native check of replies against the Python one: for each reply that native code calls simple,
both relay the same octets, TTLs and lifetime; and it calls those simple that should be.

Messages are built octet by octet, as an attacker would: names written out, compressed to anywhere,
or broken; then some octets are changed.
"""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from internal_dns.core import names
from internal_dns.core.relayed import Relayed, scrub
from internal_dns.core.wire import BadReply, check_reply
from internal_dns.forward.native import MISSING
from internal_dns.forward.question import Question
from internal_dns.forward.verdict import Sent, judge

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

PREFIX = b"\xfd\xaa"
ZONES = frozenset(map(names.wire, (names.INTERNAL, names.FLYCAST, names.reverse_zone(PREFIX))))
IDENT = b"\x12\x34"
A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, NAPTR = 1, 2, 5, 6, 12, 15, 16, 28, 33, 35
OPT, RRSIG, SVCB, HTTPS, ANY = 41, 46, 64, 65, 255
POINTER = b"\xc0\x0c"


def wire(text: str) -> bytes:
    labels = [label.encode() for label in text.split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def section(name: bytes, qtype: int) -> bytes:
    return name + pack("!HH", qtype, 1)


def rr(owner: bytes, rtype: int, ttl: int, rdata: bytes, rclass: int = 1) -> bytes:
    return owner + pack("!HHIH", rtype, rclass, ttl, len(rdata)) + rdata


def message(
    asked: bytes,
    answer: tuple[bytes, ...] = (),
    authority: tuple[bytes, ...] = (),
    additional: tuple[bytes, ...] = (),
    flags: int = 0x8180,
) -> bytes:
    counts = pack("!4H", 1, len(answer), len(authority), len(additional))
    return IDENT + pack("!H", flags) + counts + asked + b"".join(answer + authority + additional)


def soa(owner: bytes, ttl: int = 600, minimum: int = 300) -> bytes:
    rdata = wire("ns.example.com") + wire("admin.example.com") + pack("!5I", 1, 2, 3, 4, minimum)
    return rr(owner, SOA, ttl, rdata)


OPT_RR = b"\0" + pack("!HHIH", OPT, 1232, 0, 0)


@pytest.fixture(scope="module")
def hub() -> Any:
    return make_hub()


def make_hub() -> Any:
    from internal_dns.forward.native.upstream import Hub

    return Hub(tuple(ZONES), PREFIX, Relayed, 2.0)


HUB = None if MISSING else make_hub()


def python(octets: bytes, asked: bytes, dnssec_ok: bool = False) -> Relayed | str:
    """What Python relays, or why it relays nothing."""
    question = Question(asked[:-4].lower(), int.from_bytes(asked[-4:-2], "big"), dnssec_ok, False)
    rcode, verdict = judge(octets, Sent(IDENT, asked, True, True, False), question, ZONES, PREFIX)
    if isinstance(verdict, Relayed):
        assert rcode == verdict.rcode
        return verdict
    return verdict.name


def check(octets: bytes, asked: bytes) -> bool:
    """Compare the two; return whether the reply is simple."""
    assert HUB is not None
    native = HUB.classify(octets, asked)
    if native is None:
        return False
    for dnssec_ok in (False, True):
        assert python(octets, asked, dnssec_ok) == native
    return True


WWW = section(wire("wWw.exAmple.com"), A)
SIX = section(wire("www.example.com"), AAAA)
ONE = rr(POINTER, A, 60, bytes((192, 0, 2, 1)))
ALIAS = rr(POINTER, CNAME, 300, wire("web.example.net"))
AT_ALIAS = rr(wire("web.example.net"), A, 30, bytes(4))
SIMPLE = {
    "one address": message(WWW, (ONE,)),
    "with AD, AA and OPT": message(WWW, (ONE,), (), (OPT_RR,), 0x85A0),
    "several addresses": message(WWW, (ONE, ONE, rr(POINTER, A, 5, bytes(4)))),
    "a chain": message(WWW, (ALIAS, AT_ALIAS), (), (OPT_RR,)),
    "a compressed chain": message(
        WWW,
        (rr(POINTER, CNAME, 9, b"\3web\xc0\x10"), rr(b"\xc0\x2d", A, 7, bytes(4))),
    ),
    "NXDOMAIN": message(WWW, (), (soa(b"\xc0\x10"),), (OPT_RR,), 0x8183),
    "NODATA": message(WWW, (), (soa(b"\xc0\x10", 60, 86_400),)),
    "NODATA, its SOA at the name": message(WWW, (), (soa(POINTER, 60),)),
    "NODATA, its SOA written out": message(WWW, (), (soa(wire("EXAMPLE.com")),)),
    "NODATA of the root": message(WWW, (), (soa(b"\0", 86_400, 86_400),)),
    "an alias to nothing": message(WWW, (ALIAS,), (soa(wire("example.net")),), (), 0x8183),
    "a large minimum": message(WWW, (), (soa(b"\xc0\x10", 2**31 - 1, 2**32 - 1),)),
    "NODATA without SOA": message(WWW),
    "NXDOMAIN without SOA": message(WWW, (), (), (), 0x8183),
    "an alias without its target": message(WWW, (ALIAS,)),
    "an alias to no name": message(WWW, (ALIAS,), (), (), 0x8183),
    "TTL 0": message(WWW, (rr(POINTER, A, 0, bytes(4)),)),
    "a day": message(WWW, (rr(POINTER, A, 86_400, bytes(4)),)),
}
OTHER_TYPES = {
    AAAA: rr(POINTER, AAAA, 60, bytes(15) + b"\1"),
    NS: rr(POINTER, NS, 60, b"\2ns\xc0\x10"),
    CNAME: rr(POINTER, CNAME, 60, wire("elsewhere.example.org")),
    PTR: rr(POINTER, PTR, 60, wire("host.example.org")),
    MX: rr(POINTER, MX, 60, b"\0\x0a\4mail\xc0\x10"),
    TXT: rr(POINTER, TXT, 60, b"\5hello"),
    SRV: rr(POINTER, SRV, 60, bytes(6) + wire("host.example.org")),
    SOA: soa(POINTER),
    HTTPS: rr(POINTER, HTTPS, 60, b"\0\1\0\0\1\0\3\2h2\0\6\0\x10" + bytes(16)),
    SVCB: rr(POINTER, SVCB, 60, b"\0\1" + wire("host.example.org")),
}
# What Python has to look at: some of it is relayed in part, most of it is rejected.
HARD = {
    "TC": message(WWW, (ONE,), (), (), 0x8380),
    "SERVFAIL": message(WWW, (), (), (), 0x8182),
    "REFUSED": message(WWW, (), (), (), 0x8185),
    "a query": message(WWW, (), (), (), 0x0100),
    "another opcode": message(WWW, (ONE,), (), (), 0x8980),
    "another letter case": message(section(wire("www.example.com"), A), (ONE,)),
    "another type": message(SIX, (ONE,)),
    "an owner written out": message(WWW, (rr(wire("www.example.com"), A, 60, bytes(4)),)),
    "another owner": message(WWW, (rr(wire("ww.example.com"), A, 60, bytes(4)),)),
    "another record beside it": message(WWW, (ONE, rr(POINTER, TXT, 60, b"\1a"))),
    "another record behind it": message(WWW, (ONE, rr(wire("x.example"), A, 60, bytes(4)))),
    "a chain in the wrong order": message(WWW, (AT_ALIAS, ALIAS)),
    "a loop": message(WWW, (rr(POINTER, CNAME, 60, wire("www.example.com")),)),
    "a longer loop": message(WWW, (ALIAS, rr(wire("web.example.net"), CNAME, 60, POINTER))),
    "an alias beside an address": message(WWW, (ONE, ALIAS)),
    "a referral": message(WWW, (), (rr(b"\xc0\x10", NS, 60, wire("ns.example.org")),)),
    "an SOA beside an answer": message(WWW, (ONE,), (soa(b"\xc0\x10"),)),
    "an SOA of another zone": message(WWW, (), (soa(wire("example.org")),)),
    "an SOA that ends alike": message(
        section(wire("aexample.com"), A), (), (soa(b"\7example\3com\0"),)
    ),
    "two SOAs": message(WWW, (), (soa(b"\xc0\x10"), soa(b"\xc0\x10"))),
    "glue": message(WWW, (ONE,), (), (rr(wire("ns.example"), A, 60, bytes(4)),)),
    "octets behind it": message(WWW, (ONE,)) + b"\0",
    "octets behind OPT": message(WWW, (ONE,), (), (OPT_RR,)) + b"\0",
    "cut off": message(WWW, (ONE,))[:-1],
    "OPT in the answer": message(WWW, (OPT_RR,)),
    "OPT with an owner": message(WWW, (ONE,), (), (POINTER + OPT_RR[1:],)),
    "BADVERS": message(WWW, (ONE,), (), (b"\0" + pack("!HHIH", OPT, 1232, 1 << 24, 0),)),
    "another class": message(WWW, (rr(POINTER, A, 60, bytes(4), 3),)),
    "a TTL with its top bit": message(WWW, (rr(POINTER, A, 2**31, bytes(4)),)),
    "an address of five octets": message(WWW, (rr(POINTER, A, 60, bytes(5)),)),
    "our address": message(SIX, (rr(POINTER, AAAA, 60, PREFIX + bytes(14)),)),
    "an alias to a name of ours": message(WWW, (rr(POINTER, CNAME, 60, wire("web.internal")),)),
    "an alias to an apex of ours": message(WWW, (rr(POINTER, CNAME, 60, wire("INTERNAL")),)),
    "a record of ours": message(WWW, (ONE, rr(wire("web.flycast"), A, 60, bytes(4)))),
    "our SOA": message(WWW, (), (soa(wire("internal")),)),
    "a question of ours": message(
        section(wire("www.internal"), A), (rr(POINTER, A, 60, bytes(4)),)
    ),
    "a name server of ours": message(
        section(wire("example.com"), NS), (rr(POINTER, NS, 60, wire("ns.internal")),)
    ),
    "an SOA that names us": message(
        WWW,
        (),
        (rr(b"\xc0\x10", SOA, 60, wire("ns.internal") + wire("a.example") + bytes(20)),),
    ),
    "an address of ours as a hint": message(
        section(wire("www.example.com"), HTTPS),
        (rr(POINTER, HTTPS, 60, b"\0\1\0\0\6\0\x10" + PREFIX + bytes(14)),),
    ),
    "the second hint is ours": message(
        section(wire("www.example.com"), HTTPS),
        (rr(POINTER, HTTPS, 60, b"\0\1\0\0\6\0\x20" + bytes(16) + PREFIX + bytes(14)),),
    ),
    "a hint cut off": message(
        section(wire("www.example.com"), HTTPS),
        (rr(POINTER, HTTPS, 60, b"\0\1\0\0\6\0\x10" + bytes(12)),),
    ),
    "signed": message(WWW, (ONE, rr(POINTER, RRSIG, 60, b"\0\1" + bytes(16) + b"\0sig"))),
    "a pointer forward": message(WWW, (rr(b"\xc0\x40", A, 60, bytes(4)),)),
    "a pointer to itself": message(WWW, (rr(b"\xc0\x21", A, 60, bytes(4)),)),
    "a pointer into the header": message(WWW, (rr(b"\xc0\x04", A, 60, bytes(4)),)),
    "an unknown label": message(WWW, (rr(b"\x80\x0c", A, 60, bytes(4)),)),
    "too many records": message(WWW, (ONE,) * 65),
    "more records than there are": IDENT + b"\x81\x80\0\1\xff\xff\0\0\0\0" + WWW + ONE,
    "NXDOMAIN with an address": message(WWW, (ONE,), (), (), 0x8183),
    "ANY": message(section(wire("www.example.com"), ANY), (ONE,)),
    "two questions": IDENT + b"\x81\x80\0\2\0\0\0\0\0\0" + WWW + WWW,
    "a header": IDENT + b"\x81\x80" + bytes(8),
    "nothing": b"",
}


@pytest.mark.parametrize("title", SIMPLE)
def test_a_simple_reply_is_relayed_alike(title: str) -> None:
    octets = SIMPLE[title]
    asked = octets[12 : octets.index(b"\0", 12) + 5]
    assert check(octets, asked), title


@pytest.mark.parametrize("qtype", OTHER_TYPES)
def test_a_simple_reply_of_another_type_is_relayed_alike(qtype: int) -> None:
    asked = section(wire("www.example.com"), qtype)
    octets = message(asked, (OTHER_TYPES[qtype],) * 2, (), (OPT_RR,))
    assert check(octets, asked)


@pytest.mark.parametrize("title", HARD)
def test_python_looks_at_what_is_not_simple(title: str) -> None:
    octets = HARD[title]
    asked = WWW if len(octets) < 17 else octets[12 : octets.index(b"\0", 12) + 5]
    if title in ("another letter case", "another type"):
        asked = WWW
    assert HUB is not None
    assert HUB.classify(octets, asked) is None
    python(octets, asked)  # and never fails on it


def test_a_chain_of_eight_is_simple_and_one_of_nine_is_pythons() -> None:
    for count in (8, 9):
        links = [wire("www.example.com"), *(wire(f"a{n}.example") for n in range(count))]
        chain = [
            rr(POINTER if at == 0 else links[at], CNAME, 60, links[at + 1]) for at in range(count)
        ]
        octets = message(WWW, (*chain, rr(links[-1], A, 60, bytes(4))))
        assert check(octets, WWW) == (count == 8)
        assert isinstance(python(octets, WWW), Relayed)


LABELS = st.sampled_from(["www", "wWw", "example", "com", "internal", "flycast", "a", "web", "0"])
PLAIN = st.lists(LABELS, max_size=4).map(lambda labels: wire(".".join(labels)))
POINTERS = st.integers(0, 80).map(lambda at: pack("!H", 0xC000 | at))
NAMES = st.one_of(
    st.just(POINTER),
    st.just(b"\xc0\x10"),
    PLAIN,
    st.tuples(PLAIN, POINTERS).map(lambda parts: parts[0][:-1] + parts[1]),
)
TTLS = st.one_of(st.sampled_from([0, 1, 5, 60, 900, 3_600, 86_400]), st.integers(0, 2**32 - 1))
TYPES = st.sampled_from([A, AAAA, NS, CNAME, SOA, PTR, MX, TXT, SRV, NAPTR, OPT, RRSIG, HTTPS, 39])


@st.composite
def rdatas(draw: st.DrawFn, rtype: int) -> bytes:
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=40))
    match rtype:
        case 1:
            return bytes((192, 0, 2, draw(st.integers(0, 255))))
        case 28:
            return draw(st.sampled_from([bytes(16), PREFIX + bytes(14), b"\xfd" + bytes(15)]))
        case 6:
            return draw(NAMES) + draw(NAMES) + bytes(16) + draw(TTLS).to_bytes(4, "big")
        case 15 | 65:
            tail = b"" if rtype == MX else draw(st.sampled_from([b"", b"\0\6\0\x10" + bytes(16)]))
            return b"\0\1" + draw(NAMES) + tail
        case 33:
            return bytes(6) + draw(NAMES)
        case 2 | 5 | 12 | 39:
            return draw(NAMES)
    return draw(st.binary(max_size=20))


@st.composite
def rrs(draw: st.DrawFn, types: st.SearchStrategy[int]) -> bytes:
    rtype = draw(types)
    return rr(
        draw(NAMES), rtype, draw(TTLS), draw(rdatas(rtype)), draw(st.sampled_from([1] * 9 + [3]))
    )


@st.composite
def replies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A reply, and the question that it has."""
    qtype = draw(TYPES)
    asked = section(
        draw(st.sampled_from([wire("wWw.exAmple.com"), wire("a.internal"), b"\0"])), qtype
    )
    kind = st.sampled_from([qtype, qtype, CNAME])
    answer = draw(st.lists(rrs(st.one_of(kind, kind, kind, TYPES)), max_size=4))
    authority = draw(st.lists(rrs(st.sampled_from([SOA, SOA, SOA, NS])), max_size=2))
    additional = draw(st.sampled_from([(), (), (OPT_RR,), (ONE,)]))
    flags = draw(st.sampled_from([0x8180, 0x8180, 0x8580, 0x81A0, 0x8183, 0x8183, 0x8380, 0x8182]))
    octets = bytearray(message(asked, tuple(answer), tuple(authority), additional, flags))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        octets[draw(st.integers(2, len(octets) - 1))] = draw(st.integers(0, 255))
    return bytes(octets), asked


@settings(max_examples=2_000, deadline=None)
@given(replies())
@example((SIMPLE["NXDOMAIN"], WWW))
def test_whatever_is_called_simple_is_relayed_alike(reply: tuple[bytes, bytes]) -> None:
    check(*reply)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(SIMPLE)), st.data())
def test_a_simple_reply_with_changed_octets_is_relayed_alike(
    title: str, data: st.DataObject
) -> None:
    octets = bytearray(SIMPLE[title])
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(2, len(octets) - 1))] = data.draw(
            st.sampled_from([0, 1, 5, 12, 28, 41, 63, 64, 192, 255])
        )
    check(bytes(octets), WWW)


def test_what_python_relays_and_native_does_not_is_checked_too() -> None:
    """The oracle is what the forwarder uses: `judge` is `check_reply` and `scrub`."""
    octets = SIMPLE["a chain"]
    checked = check_reply(octets, IDENT, WWW, ZONES, PREFIX)
    assert python(octets, WWW) == scrub(checked, WWW[:-4].lower(), A, dnssec_ok=False)
    with pytest.raises(BadReply):
        check_reply(HARD["our address"], IDENT, SIX, ZONES, PREFIX)
