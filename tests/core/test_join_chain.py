"""Aliases of ours before what an upstream answered, in messages of dnspython's making."""

from __future__ import annotations

from random import Random

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.aliases import join_chain
from internal_dns.core.journey import AliasedQuery, Forward, Rules, respond
from tests.core.messages import AAAA, ANY, RD, A, ip, loaded, opt, query

SOURCE, SERVER = ip("fdaa:0:18::2"), ip("fdaa::3")
CATALOG = loaded(
    rows={
        "networks": [(24, "acme", "")],
        "records": [
            (24, "out.internal", "CNAME", "db.provider.example", 30),
            (24, "two.internal", "CNAME", "out.internal", 60),
        ],
    }
).catalog
VALUES = {
    "A": "192.0.2.1", "AAAA": "2001:db8::1", "MX": "10 mail.provider.example.", "TXT": '"x"',
    "SRV": "0 1 80 a.provider.example.", "NS": "ns.provider.example.", "PTR": "x.provider.example.",
    "SOA": "ns.provider.example. m.provider.example. 1 2 3 4 5",
    "HTTPS": "1 h.provider.example. alpn=h2",
    "NAPTR": '1 1 "s" "x" "" n.provider.example.', "CAA": '0 issue "x"',
    "DNAME": "d.provider.example.",
}  # fmt: skip


def led_by(name: str, *additional: bytes, flags: int = RD, stream: bool = False) -> AliasedQuery:
    octets = query(name, A, *additional, flags=flags)
    forward = respond(octets, SOURCE, SERVER, CATALOG, Rules(), stream=stream)
    assert isinstance(forward, Forward)
    assert forward.aliased is not None
    return forward.aliased


def upstream_reply(rng: Random, has_opt: bool) -> dns.message.Message:
    asked = dns.message.make_query("db.provider.example", "A", use_edns=0 if has_opt else False)
    reply = dns.message.make_response(asked, recursion_available=True)
    reply.set_rcode(dns.rcode.Rcode(rng.choice((0, 0, 0, 3, 2))))
    for section in (reply.answer, reply.authority):
        for number in range(rng.randint(0, 4)):
            rtype = rng.choice([*VALUES])
            owner = rng.choice(("db.provider.example.", "provider.example.", f"x{number}.example."))
            section.append(
                dns.rrset.from_text(owner, rng.randint(0, 99), "IN", rtype, VALUES[rtype])
            )
    return reply


def lines(section: list[dns.rrset.RRset]) -> list[str]:
    return sorted(line for rrset in section for line in rrset.to_text().split("\n"))


@given(st.integers(0, 1 << 32), st.booleans(), st.booleans())
def test_all_records_come_behind_the_aliases_as_they_were(
    seed: int, has_opt: bool, stream: bool
) -> None:
    rng = Random(seed)
    reply = upstream_reply(rng, has_opt)
    led = led_by("tWo.internal", *((opt(),) if has_opt else ()), stream=stream)
    got = dns.message.from_wire(join_chain(led, reply.to_wire()), one_rr_per_rrset=True)
    assert got.rcode() == reply.rcode()
    assert got.question[0].name == dns.name.from_text("two.internal")
    assert not got.flags & dns.flags.AD
    if reply.rcode() == 2:
        assert not got.answer
        assert not got.authority
        return
    chain = [
        "out.internal. 30 IN CNAME db.provider.example.",
        "two.internal. 60 IN CNAME out.internal.",
    ]
    assert got.flags & dns.flags.AA
    if got.flags & dns.flags.TC:  # what follows the aliases is written without pointers
        written = sum(
            len(rrset.name.to_wire() or b"") + 10 + len(rdata.to_wire() or b"")
            for rrset in [*reply.answer, *reply.authority]
            for rdata in rrset
        )
        assert not stream
        assert written > (1_232 if has_opt else 512) - 200
        assert not got.authority
        return
    assert sorted(map(str.lower, lines(got.answer))) == sorted(
        map(str.lower, [*chain, *lines(reply.answer)])
    )
    assert lines(got.authority) == lines(reply.authority)


@given(st.integers(1, 60), st.sampled_from((None, 512, 700, 1_232)))
def test_what_does_not_fit_goes_from_the_end_and_no_alias_stays_alone(
    count: int, size: int | None
) -> None:
    asked = dns.message.make_query("db.provider.example", "TXT")
    reply = dns.message.make_response(asked)
    texts = [f'"{"x" * 100}{number}"' for number in range(count)]
    reply.answer.append(dns.rrset.from_text("db.provider.example.", 5, "IN", "TXT", *texts))
    led = led_by("two.internal", *((opt(size=size),) if size else ()))
    octets = join_chain(led, reply.to_wire(max_size=65_535))
    got = dns.message.from_wire(octets)
    limit = size or 512
    assert len(octets) <= limit
    shown = sum(len(rrset) for rrset in got.answer)
    if got.flags & dns.flags.TC:
        assert shown != 2
        assert shown < count + 2
    else:
        assert shown == count + 2


def test_a_type_that_is_the_alias_itself_is_not_led_outside() -> None:
    for qtype in (5, ANY):
        said = respond(query("out.internal", qtype), SOURCE, SERVER, CATALOG, Rules())
        assert not isinstance(said, Forward)
    assert isinstance(
        respond(query("out.internal", AAAA), SOURCE, SERVER, CATALOG, Rules()), Forward
    )
