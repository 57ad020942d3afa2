"""Which records of an upstream's reply are relayed, and how they age."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from struct import pack
from typing import Any

import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

from internal_dns.core.message import ReplyOptions
from internal_dns.core.relayed import MAX_LIFETIME, MAX_NEGATIVE_LIFETIME, Relayed, relay, scrub
from internal_dns.core.wire import BadReply, Query, check_reply, read_query
from tests.core.messages import AAAA, ANY, DNAME, A, opt, query

ZONES: frozenset[bytes] = frozenset((b"\x08internal\0",))
GOOD = "192.0.2.80"


def reply(
    qtype: int,
    *answer: str,
    authority: tuple[str, ...] = (),
    additional: tuple[str, ...] = (),
    rcode: int = 0,
    do: bool = False,
) -> tuple[Query, Relayed]:
    """Return the query for www.example and what is relayed of a reply with these records."""
    asked = read_query(query("www.example", qtype, opt(do=do)))
    assert isinstance(asked, Query)
    message = dns.message.make_response(
        dns.message.from_wire(query("www.example", qtype)), recursion_available=True
    )
    message.set_rcode(dns.rcode.Rcode(rcode))
    sections = (
        (message.answer, answer),
        (message.authority, authority),
        (message.additional, additional),
    )
    for section, texts in sections:
        for text in texts:
            owner, ttl, rdtype, rdata = text.split(None, 3)
            section.append(
                dns.rrset.from_text(owner.rstrip(".") + ".", int(ttl), "IN", rdtype, rdata)
            )
    octets = message.to_wire()
    checked = check_reply(octets, octets[:2], asked.question, ZONES, b"\xfd\xaa")
    return asked, scrub(checked, asked.name, qtype, dnssec_ok=do)


def shown(asked: Query, relayed: Relayed, age: int | None = 0) -> list[str]:
    octets = relay(relayed, asked, ReplyOptions(limit=65_535), age)
    message = dns.message.from_wire(octets, one_rr_per_rrset=True)
    assert not message.additional
    return [rrset.to_text() for rrset in (*message.answer, *message.authority)]


SOA = "example 600 SOA ns.example. root.example. 1 2 3 4 60"
CHAIN = ("www.example 60 CNAME a.example.", "a.example 50 CNAME b.other.", f"b.other 40 A {GOOD}")
SIG = "8 2 300 20300101000000 20200101000000 1 example. AAAA"


@pytest.mark.parametrize(
    ("answer", "authority", "kept"),
    [
        ((f"www.example 60 A {GOOD}",), (), 1),
        (CHAIN, (), 3),
        (CHAIN[::-1], (), 3),
        ((CHAIN[1], CHAIN[0], CHAIN[2]), (), 3),
        ((f"other.example 60 A {GOOD}", *CHAIN), (), 3),
        ((*CHAIN, "b.other 60 TXT x", f"c.other 60 A {GOOD}"), (), 3),
        (CHAIN, ("other 60 NS ns.other.",), 3),
        ((), (SOA,), 1),
        ((), ("example 60 NS ns.example.", SOA), 1),
        (CHAIN[:2], ("other 600 SOA ns.other. root.other. 1 2 3 4 60",), 3),
    ],
    ids="plain chain reversed shuffled stray-before strays-after ns-after nodata ns-before-soa "
    "aliased-nodata".split(),
)
def test_the_chain_from_qname_in_order_and_the_soa_of_a_negative_reply_are_kept(
    answer: tuple[str, ...], authority: tuple[str, ...], kept: int
) -> None:
    asked, relayed = reply(A, *answer, authority=authority, additional=(f"ns.example 60 A {GOOD}",))
    found = shown(asked, relayed)
    assert len(found) == kept
    if answer:
        owners = [dns.name.from_text(line.split()[0]).to_text() for line in found]
        assert owners[: len(CHAIN)][:2] == ["www.example.", "a.example."][: len(owners)]
    assert sum(relayed.counts) == kept == len(relayed.ttls)


def test_only_the_soa_of_a_zone_the_name_is_in_is_kept() -> None:
    asked, relayed = reply(A, authority=("other 600 SOA ns.other. root.other. 1 2 3 4 60", SOA))
    assert [line.split()[0] for line in shown(asked, relayed)] == ["example."]
    asked, relayed = reply(A, authority=("xample 600 SOA ns.other. root.other. 1 2 3 4 60",))
    assert shown(asked, relayed) == []


def test_any_takes_all_of_the_name_and_nothing_else() -> None:
    asked, relayed = reply(
        ANY, f"www.example 60 A {GOOD}", "www.example 60 TXT x", f"b.example 60 A {GOOD}"
    )
    assert len(shown(asked, relayed)) == 2


def test_a_dname_and_what_it_makes_are_kept() -> None:
    dname = "example 60 DNAME other."
    asked, relayed = reply(A, dname, "www.example 60 CNAME www.other.", f"www.other 60 A {GOOD}")
    assert [line.split()[3] for line in shown(asked, relayed)] == ["DNAME", "CNAME", "A"]
    asked, relayed = reply(A, "ample 60 DNAME other.", f"www.example 60 A {GOOD}")
    assert [line.split()[3] for line in shown(asked, relayed)] == ["A"]
    asked, relayed = reply(DNAME, "www.example 60 DNAME other.")
    assert len(shown(asked, relayed)) == 1


def test_proofs_are_relayed_to_a_query_with_do() -> None:
    records = (
        f"www.example 60 A {GOOD}",
        f"www.example 60 RRSIG A {SIG}",
        f"www.example 60 RRSIG TXT {SIG}",
    )
    authority = (
        SOA,
        f"example 60 RRSIG SOA {SIG}",
        "example 60 NSEC x.example. A",
        "example 60 NS ns.example.",
        f"example 60 RRSIG NS {SIG}",
    )
    asked, relayed = reply(A, *records, do=True)
    assert relayed.counts == (3, 0)
    asked, relayed = reply(A, *records)
    assert relayed.counts == (1, 0)
    asked, relayed = reply(A, authority=authority, do=True)
    assert [line.split()[3] for line in shown(asked, relayed)] == ["SOA", "RRSIG", "NSEC"]


def aliases(count: int) -> list[str]:
    names = ["www.example", *(f"n{number}.example" for number in range(count))]
    return [f"{one} 60 CNAME {other}." for one, other in pairwise(names)]


def test_a_chain_has_at_most_sixteen_aliases() -> None:
    asked, relayed = reply(A, *aliases(16), f"n15.example 60 A {GOOD}")
    assert len(shown(asked, relayed)) == 17
    with pytest.raises(BadReply, match="more than 16"):
        reply(A, *aliases(17), f"n16.example 60 A {GOOD}")


@pytest.mark.parametrize(
    "answer",
    [
        ["www.example 60 CNAME www.example."],
        ["www.example 60 CNAME a.example.", "a.example 60 CNAME www.example."],
        [
            "www.example 60 CNAME a.example.",
            "a.example 60 CNAME b.example.",
            "b.example 60 CNAME a.example.",
        ],
    ],
)
def test_a_chain_that_loops_is_rejected(answer: list[str]) -> None:
    with pytest.raises(BadReply, match="loops"):
        reply(A, *answer)


def test_a_referral_is_rejected() -> None:
    with pytest.raises(BadReply, match="lame"):
        reply(A, authority=("example 60 NS ns.example.",))
    assert reply(A, authority=("example 60 NS ns.example.",), rcode=3)[1].rcode == 3


@pytest.mark.parametrize(
    ("answer", "authority", "rcode", "lifetime"),
    [
        ((f"www.example 60 A {GOOD}",), (), 0, 60),
        (CHAIN, (), 0, 40),
        ((f"www.example 86400 A {GOOD}",), (), 0, MAX_LIFETIME),
        ((f"www.example 0 A {GOOD}",), (), 0, 0),
        ((), (SOA,), 0, 60),
        ((), (SOA,), 3, 60),
        ((), ("example 30 SOA ns.example. root.example. 1 2 3 4 60",), 3, 30),
        (
            (),
            ("example 86400 SOA ns.example. root.example. 1 2 3 4 86400",),
            3,
            MAX_NEGATIVE_LIFETIME,
        ),
        ((), (), 3, 5),
        ((), (), 0, 5),
        (CHAIN[:1], (), 3, 5),
        (CHAIN[:1], (), 0, 0),  # a CNAME is never cached without its target
        (("www.example 3 CNAME a.example.",), (SOA,), 0, 3),
        ((), (), 9, 0),
    ],
)
def test_a_reply_is_cached_as_long_as_its_records_allow(
    answer: tuple[str, ...], authority: tuple[str, ...], rcode: int, lifetime: int
) -> None:
    assert reply(A, *answer, authority=authority, rcode=rcode)[1].lifetime == lifetime


def test_a_ttl_with_its_highest_bit_is_zero() -> None:
    asked = read_query(query("www.example", A))
    assert isinstance(asked, Query)
    for before in (
        b"",
        b"\1x\xc0\x0c" + pack("!HHIH", A, 1, 9, 4) + bytes(4),
    ):  # as received, and rebuilt
        record = b"\xc0\x0c" + pack("!HHIH", A, 1, 1 << 31, 4) + bytes(4)
        counts = pack("!5H", 0x8180, 1, 1 + bool(before), 0, 0)
        checked = check_reply(
            b"\0\0" + counts + asked.question + before + record,
            b"\0\0",
            asked.question,
            ZONES,
            None,
        )
        relayed = scrub(checked, asked.name, A, dnssec_ok=False)
        assert relayed.lifetime == 0
        assert [line.split()[1] for line in shown(asked, relayed)] == ["0"]


def test_ttls_fall_by_the_second_and_never_below_zero() -> None:
    asked, relayed = reply(A, *CHAIN)
    ttls = [[line.split()[1] for line in shown(asked, relayed, age)] for age in (0, 1, 39, 45, 100)]
    assert ttls == [
        ["60", "50", "40"],
        ["59", "49", "39"],
        ["21", "11", "1"],
        ["15", "5", "0"],
        ["0", "0", "0"],
    ]
    assert [line.split()[1] for line in shown(asked, relayed, None)] == [
        "30",
        "30",
        "30",
    ]


def test_records_of_another_class_are_not_kept() -> None:
    asked = read_query(query("www.example", A))
    assert isinstance(asked, Query)
    record = b"\xc0\x0c" + pack("!HHIH", A, 3, 60, 4) + bytes(4)
    octets = b"\0\0" + pack("!5H", 0x8180, 1, 1, 0, 0) + asked.question + record
    checked = check_reply(octets, b"\0\0", asked.question, ZONES, None)
    assert scrub(checked, asked.name, A, dnssec_ok=False).counts == (0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_rebuilt_records_equal_those_of_the_upstream(seed: int) -> None:
    """Shuffled and mixed with strays, every record of the chain keeps its rdata and TTL."""
    rng = random.Random(seed)
    types = ("MX 10 mail.example.", "MX 20 b.mail.example.", "MX 5 www.example.")
    wanted = [*aliases(3), *(f"n2.example {60 + n} {text}" for n, text in enumerate(types))]
    strays = [f"s{n}.example 60 MX 1 n{n}.example." for n in range(5)]
    mixed = wanted + strays
    rng.shuffle(mixed)
    asked, relayed = reply(15, *mixed)
    expected = {
        " ".join((line.split()[0] + ".", line.split()[1], "IN", *line.split()[2:]))
        for line in wanted
    }
    assert set(shown(asked, relayed)) == expected


def partly(
    limit: int, qtype: int, *answer: str, age: int | None = 0, **more: Any
) -> dns.message.Message:
    """Return the reply to a client with the given *limit*; it is never larger."""
    asked, relayed = reply(qtype, *answer, **more)
    octets = relay(relayed, asked, ReplyOptions(limit=limit), age)
    assert len(octets) <= limit
    return dns.message.from_wire(octets, one_rr_per_rrset=True)


MANY = tuple(f"www.example 60 AAAA 2001:db8::{n:x}" for n in range(1, 60))


def test_a_reply_too_large_for_the_client_has_tc_and_the_whole_records_that_fit() -> None:
    message = partly(512, AAAA, *MANY)
    assert message.flags & dns.flags.TC
    # 12 of header, 17 of question, 11 of OPT, 28 each
    assert [rr[0].to_text() for rr in message.answer] == [f"2001:db8::{n:x}" for n in range(1, 17)]
    assert not message.authority
    whole = partly(65_535, AAAA, *MANY)
    assert not whole.flags & dns.flags.TC
    assert len(whole.answer) == 59


@pytest.mark.slow
def test_a_chain_is_sent_whole_with_some_of_its_end_or_not_at_all() -> None:
    links = [f"www.example 60 CNAME {'a' * 60}.example.", f"{'a' * 60}.example 60 CNAME b.example."]
    ends = [f"b.example 60 AAAA 2001:db8::{n:x}" for n in range(1, 60)]
    whole = partly(65_535, AAAA, *links, *ends)
    for limit in range(40, 1_400, 7):
        message = partly(limit, AAAA, *links, *ends)
        assert message.flags & dns.flags.TC
        assert message.answer == whole.answer[: len(message.answer)]
        assert len(message.answer) not in (1, 2)
    assert len(message.answer) > 20


def test_a_negative_reply_that_is_too_large_has_no_records() -> None:
    links = [f"www.example 60 CNAME {'a' * 60}.example."]
    message = partly(130, A, *links, authority=(SOA,))
    assert message.flags & dns.flags.TC
    assert not message.answer
    assert not message.authority


def test_owners_in_the_letter_case_of_our_query_take_the_clients() -> None:
    sent = b"\3wWw\7eXaMpLe\0"
    rdata = b"\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2"
    octets = b"\0\0" + pack("!5H", 0x8180, 1, 2, 0, 0) + sent + pack("!2H", A, 1)
    octets += sent + rdata + b"\1" + sent + rdata + b"\2"
    checked = check_reply(octets, b"\0\0", sent + pack("!2H", A, 1), ZONES, b"\xfd\xaa")
    relayed = scrub(checked, sent.lower(), A, dnssec_ok=False)
    asked = read_query(query("WWW.Example", A, opt()))
    assert isinstance(asked, Query)
    found = relay(relayed, asked, ReplyOptions(limit=512))
    assert found.count(b"\3WWW\7Example\0") == 1  # the question; the owners point to it
    assert b"wWw" not in found
    assert [rr.to_text().split()[0] for rr in dns.message.from_wire(found).answer] == [
        "WWW.Example."
    ]


@pytest.mark.parametrize(
    ("ttl", "minimum", "expected"), [(600, 60, 60), (30, 60, 30), (86_400, 86_400, 86_400)]
)
def test_a_negative_ttl_is_the_least_of_the_soas_ttl_and_minimum(
    ttl: int, minimum: int, expected: int
) -> None:
    soa = f"example {ttl} SOA ns.example. root.example. 1 2 3 4 {minimum}"
    nsec = "a.example 7200 NSEC z.example. A"
    asked, relayed = reply(A, authority=(soa, f"example {ttl} RRSIG SOA {SIG}", nsec), do=True)
    assert [int(line.split()[1]) for line in shown(asked, relayed)] == [
        min(expected, each) for each in (ttl, ttl, 7_200)
    ]
    assert relayed.lifetime == min(expected, MAX_NEGATIVE_LIFETIME)


def test_an_age_is_subtracted() -> None:
    asked, relayed = reply(A, f"www.example 60 A {GOOD}")
    old = relayed.after(20)
    assert old.lifetime == 40
    assert [int(line.split()[1]) for line in shown(asked, old)] == [40]
    assert relayed.after(100).lifetime == 0


def test_a_chain_into_one_of_our_names_is_incomplete() -> None:
    """Only the chain of the upstream's reply is relayed, whatever it has at its end."""
    links = ("www.example 60 CNAME a.example.", "a.example 50 CNAME web.internal.")
    for rcode, authority in ((0, ()), (3, (". 600 SOA a.root. b.root. 1 2 3 4 5",))):
        _, relayed = reply(A, *links, authority=authority, rcode=rcode)
        assert relayed.target == b"\3web\x08internal\0"
        assert (relayed.counts, relayed.lifetime, relayed.ad) == ((2, 0), 50, False)


def test_a_cname_to_a_name_of_ours_is_relayed_to_a_query_for_it() -> None:
    for qtype in (5, ANY):
        asked, relayed = reply(qtype, "www.example 60 CNAME web.internal.")
        assert not relayed.target
        assert shown(asked, relayed) == ["www.example. 60 IN CNAME web.internal."]


@pytest.mark.parametrize(
    "answer",
    [
        (f"www.example 60 A {GOOD}", "x.example 60 CNAME web.internal."),
        ("www.example 60 CNAME web.internal.", f"web.internal 60 A {GOOD}"),
        ("www.example 60 CNAME web.internal.", "www.example 60 CNAME a.example.",
         f"a.example 60 A {GOOD}"),
        ("www.example 60 DNAME web.internal.",),
    ],
    ids="stray record two-targets dname".split(),
)  # fmt: skip
def test_any_other_record_about_a_name_of_ours_is_an_injection(answer: tuple[str, ...]) -> None:
    with pytest.raises(BadReply) as caught:
        reply(A, *answer)
    assert caught.value.injected


def test_a_chain_to_a_delegated_name_is_no_referral() -> None:
    asked, relayed = reply(
        A, "www.example 60 CNAME sub.example.", authority=("sub.example 60 NS ns.sub.example.",)
    )
    assert shown(asked, relayed) == ["www.example. 60 IN CNAME sub.example."]
    assert relayed.lifetime == 0


@pytest.mark.parametrize(("age", "ttl"), [(0, 60), (7, 53), (None, 30)])
def test_the_part_of_a_large_reply_that_is_sent_is_aged(age: int | None, ttl: int) -> None:
    message = partly(512, AAAA, *MANY, age=age)
    assert [rr.ttl for rr in message.answer] == [ttl] * 16


def test_ttls_of_records_that_do_not_fit_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, relayed = reply(AAAA, *MANY)
    changed: list[int] = []

    def change(reply: Relayed, _: Callable[[int], int]) -> bytes:
        changed.append(len(reply.ttls))
        return reply.records

    monkeypatch.setattr(Relayed, "_with_ttls", change)
    for age in (7, None):
        relay(relayed, asked, ReplyOptions(limit=512), age)
    assert changed == [16, 16]
    relay(relayed, asked, ReplyOptions(limit=65_535), 7)
    assert changed == [16, 16, 59]


def test_a_large_reply_is_relayed_in_order_only() -> None:
    """Sorting a thousand records would take milliseconds, and no honest upstream needs it."""
    many = [f"www.example 60 A 192.0.{n // 250}.{n % 250}" for n in range(1_001)]
    _, relayed = reply(A, *many, f"stray.example 60 A {GOOD}")
    assert relayed.counts == (1_001, 0)
    with pytest.raises(BadReply, match="not in order"):
        reply(A, f"stray.example 60 A {GOOD}", *many)
    _, relayed = reply(A, f"stray.example 60 A {GOOD}", *many[:1_000])
    assert relayed.counts == (1_000, 0)
