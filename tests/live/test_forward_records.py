"""What is in an upstream's reply, and what of it reaches the client: all names at once, from one
upstream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from struct import pack
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest

from tests.live.conftest import catalog_file
from tests.live.forwarding import GOOD, Got, ask_all, ask_by_tcp
from tests.live.hosts import Served, query, serving
from tests.live.upstream import Asked, Said, Upstream, must_stay

pytestmark = pytest.mark.live

SOA = "records.example. 300 IN SOA ns.records.example. root.records.example. 1 2 3 4 60"


@dataclass(slots=True)
class Says:
    """What the upstream says about one name, `@`, and the type it is asked for."""

    answer: tuple[str, ...] = ()
    authority: tuple[str, ...] = ()
    additional: tuple[str, ...] = ()
    rdtype: str = "A"
    rcode: int = 0
    flags: int = 0
    edns: bool = True
    ask: dict[str, Any] = field(default_factory=dict)

    def reply(self, asked: Asked) -> bytes:
        owner = asked.message.question[0].name.to_text()
        answer = [text.replace("@", owner) for text in self.answer]
        return asked.reply(
            *answer,
            rcode=self.rcode,
            flags=self.flags,
            edns=self.edns,
            authority=self.authority,
            additional=self.additional,
        )


@dataclass(slots=True)
class SaysMuch(Says):
    """So many addresses, as octets: building 60,000 of them from text would hold the other names
    up."""

    def reply(self, asked: Asked) -> bytes:
        kind, size = (28, 16) if self.rdtype == "AAAA" else (1, 4)
        records = b"".join(
            b"\xc0\x0c" + pack("!HHIH", kind, 1, 60, size) + ip_address(text.split()[-1]).packed
            for text in self.answer
        )
        head = asked.octets[:2] + pack("!5H", 0x8180, 1, len(self.answer), 0, 0)
        return head + asked.question + records


def chain(length: int, last: str = f"A {GOOD}") -> tuple[str, ...]:
    """*length* CNAMEs, then the target's record."""
    owners = ["@", *(f"c{n}.records.example." for n in range(1, length + 1))]
    links = [f"{owner} 60 IN CNAME {to}" for owner, to in pairwise(owners)]
    return (*links, f"{owners[-1]} 60 IN {last}")


# ── injected ──────────────────────────────────────────────────────────────────────────────────────

# Types whose rdata leads to another name.
POINTING = {
    "CNAME": "web.internal.",
    "DNAME": "web.flycast.",
    "MX": "10 mail.internal.",
    "SRV": "0 0 80 web.flycast.",
    "NS": "ns.internal.",
    "PTR": "148e306c77e789.vm.db.internal.",
    "SVCB": "1 web.internal.",
    "HTTPS": "0 WEB.InterNal. ",
    "SOA": "ns.internal. root.example. 1 2 3 4 5",
    "NAPTR": '1 1 "s" "x" "" web.internal.',
    "KX": "1 web.internal.",
    "AFSDB": "1 web.internal.",
    "RT": "1 web.internal.",
    "RP": "root.example. web.internal.",
}
# In the records that a client asked for: the whole reply is not to be believed.
IN_THE_ANSWER = {
    "aaaa": Says(("@ 60 IN AAAA fdaa:0:18:a7b:7d:f066:b83b:2",), rdtype="AAAA"),
    "aaaa-server": Says(("@ 60 IN AAAA fdaa::3",), rdtype="AAAA"),
    "aaaa-last": Says(("@ 60 IN AAAA fdaa:ffff:ffff:ffff:ffff:ffff:ffff:ffff",), rdtype="AAAA"),
    "aaaa-among": Says(("@ 60 IN AAAA 2001:db8::1", "@ 60 IN AAAA fdaa:0:19::2"), rdtype="AAAA"),
    "chain-aaaa": Says(chain(3, "AAAA fdaa:0:19::3"), rdtype="AAAA"),
    "cname-and-a": Says(("@ 60 IN CNAME web.internal.", "web.internal. 60 IN A 192.0.2.1")),
    "cname-two": Says(("@ 60 IN CNAME web.internal.", "@ 60 IN CNAME x.example.")),
    "hint": Says(("@ 60 IN SVCB 1 . ipv6hint=fdaa:0:18::1",), rdtype="SVCB"),
    "hint-second": Says(
        ("@ 60 IN HTTPS 1 . alpn=h2 ipv6hint=2001:db8::1,fdaa:0:18::1",), rdtype="HTTPS"
    ),
    **{
        f"to-{rdtype.lower()}": Says((f"@ 60 IN {rdtype} {rdata}",), rdtype=rdtype)
        for rdtype, rdata in POINTING.items()
        if rdtype != "CNAME"
    },
}
# A chain into our names: what is at its end is told here, as RCODE or as addresses.
ALIASES = {
    "to-web": (Says(("@ 60 IN CNAME web.internal.",), rdtype="AAAA"), "NOERROR", 5),
    "to-web-a": (Says(("@ 60 IN CNAME web.internal.",)), "NOERROR 0", 0),
    "chain": (
        Says((*chain(2)[:2], "c2.records.example. 60 IN CNAME db.internal."), rdtype="AAAA"),
        "NOERROR",
        3,
    ),
    "nxdomain": (
        Says(("@ 60 IN CNAME web.internal.",), (SOA,), rcode=3, rdtype="AAAA"),
        "NOERROR",
        5,
    ),
    "nobody": (Says(("@ 60 IN CNAME nobody.internal.",), rdtype="AAAA"), "NXDOMAIN 0", 0),
    "apex": (Says(("@ 60 IN CNAME internal.",)), "NOERROR 0", 0),
    "case": (Says(("@ 60 IN CNAME WeB.InTeRnAl.",), rdtype="AAAA"), "NOERROR", 5),
    "other": (Says(("@ 60 IN CNAME secret.internal.",), rdtype="AAAA"), "NXDOMAIN 0", 0),
    "itself": (Says(("@ 60 IN CNAME web.internal.",), rdtype="CNAME"), "NOERROR", 0),
}  # fmt: skip
# Beside them: refused as well, or left out.
STRAY = (
    "web.internal. 60 IN A 192.0.2.1",
    "web.flycast. 60 IN AAAA 2001:db8::1",
    "x.example. 60 IN AAAA fdaa::1",
    "3.0.a.a.d.f.ip6.arpa. 60 IN PTR www.example.",
    "internal. 60 IN NS ns.example.",
    "example. 60 IN NS ns.flycast.",
    "INTERNAL. 60 IN SOA ns.example. root.example. 1 2 3 4 60",
    "x.example. 60 IN SRV 0 0 1 web.internal.",
    "x.example. 60 IN SVCB 1 . ipv6hint=fdaa::1",
    "*.internal. 60 IN A 192.0.2.1",
    "x.internal. 60 IN TXT x",
)
BESIDE = {
    f"{section}-{number}": Says(
        (f"@ 60 IN A {GOOD}", *(stray,) * (section == "answer")),
        (stray,) * (section == "authority"), (stray,) * (section == "additional"),
    )
    for section in ("answer", "authority", "additional") for number, stray in enumerate(STRAY)
}  # fmt: skip
# What only looks like it.
HARMLESS = {
    "ula": Says(("@ 60 IN AAAA fdab::1",), rdtype="AAAA"),
    "not-first": Says(("@ 60 IN AAAA 2001:fdaa::fdaa",), rdtype="AAAA"),
    "text": Says(('@ 60 IN TXT "web.internal" "fdaa::3"',), rdtype="TXT"),
    "below": Says(("@ 60 IN CNAME web.internal.example.", f"web.internal.example. 60 IN A {GOOD}")),
    "unknown": Says(
        ("@ 60 IN TYPE65399 \\# 16 fdaa0000000000000000000000000003",), rdtype="TYPE65399"
    ),
    "hint-other": Says(("@ 60 IN HTTPS 1 . ipv6hint=fdab::1",), rdtype="HTTPS"),
}

# ── chains and strays ─────────────────────────────────────────────────────────────────────────────

EVIL = (
    "evil.example.net. 60 IN A 203.0.113.66",
    "bank.example. 60 IN A 203.0.113.66",
    ". 60 IN NS ns.evil.example.net.",
)
CHAINS = {
    **{f"chain-{n}": Says(chain(n)) for n in (1, 2, 8, 16)},
    **{f"backwards-{n}": Says(chain(n)[::-1]) for n in (1, 2, 8, 16)},
    "shuffled": Says(tuple(chain(9)[n] for n in (5, 2, 8, 0, 9, 3, 7, 1, 6, 4))),
    "stray-answer": Says((f"@ 60 IN A {GOOD}", *EVIL[:2])),
    "stray-first": Says((*EVIL[:2], f"@ 60 IN A {GOOD}")),
    "stray-authority": Says((f"@ 60 IN A {GOOD}",), EVIL),
    "stray-additional": Says((f"@ 60 IN A {GOOD}",), (), EVIL),
    "stray-chain": Says((*chain(2)[:1], *EVIL[:2], *chain(2)[1:])),
    "other-branch": Says((
        *chain(1), "x7.records.example. 60 IN CNAME x8.records.example.", "x8.records.example. 60 "
                                                                          "IN A 203.0.113.66",
    )),
    "other-type": Says((f"@ 60 IN A {GOOD}", "c9.records.example. 60 IN AAAA 2001:db8::66")),
}  # fmt: skip
LOOPS = {
    "loop-1": Says(("@ 60 IN CNAME @",)),
    "loop-2": Says(("@ 60 IN CNAME b.records.example.", "b.records.example. 60 IN CNAME @")),
    "loop-3": Says((
        "@ 60 IN CNAME b.records.example.", "b.records.example. 60 IN CNAME c.records.example.",
        "c.records.example. 60 IN CNAME b.records.example.",
    )),
    "chain-17": Says(chain(17)),
    "chain-40": Says(chain(40)),
}  # fmt: skip

# ── what passes through ───────────────────────────────────────────────────────────────────────────

RRSIG = "RRSIG A 8 3 60 20300101000000 20200101000000 1 records.example. AAAA"
PASSING = {
    "mx": Says(("@ 60 IN MX 10 mail.example.",), rdtype="MX"),
    "srv": Says(("@ 60 IN SRV 1 2 3 web.example.",), rdtype="SRV"),
    "naptr": Says(('@ 60 IN NAPTR 1 1 "s" "x" "" web.example.',), rdtype="NAPTR"),
    "type": Says(("@ 60 IN TYPE65280 \\# 5 0001020304",), rdtype="TYPE65280"),
    "type-empty": Says(("@ 60 IN TYPE65281 \\# 0",), rdtype="TYPE65281"),
    "caa": Says(('@ 60 IN CAA 0 issue "ca.example"',), rdtype="CAA"),
    "any": Says((f"@ 60 IN A {GOOD}", "@ 60 IN TXT x", "@ 60 IN MX 1 m.example."), rdtype="ANY"),
    "cname": Says(("@ 60 IN CNAME x.example.",), rdtype="CNAME"),
    "ds": Says((f"@ 60 IN DS 1 8 2 {'ab' * 32}",), rdtype="DS"),
    "no-opt": Says((f"@ 60 IN A {GOOD}",), edns=False),
    "no-opt-asked": Says((f"@ 60 IN A {GOOD}",), ask={"use_edns": -1}),
    "signed": Says(
        (f"@ 60 IN A {GOOD}", f"@ 60 IN {RRSIG}"), flags=dns.flags.AD, ask={"want_dnssec": True}
    ),
}  # fmt: skip
NEGATIVE = {
    "nodata": Says((), (SOA,)),
    "nxdomain": Says((), (SOA,), rcode=3),
    "nxdomain-chain": Says(chain(2)[:2], (SOA,), rcode=3),
    "nodata-chain": Says(chain(2)[:2], (SOA,)),
    "nxdomain-bare": Says(rcode=3),
    "denied": Says(
        (), (SOA, f"records.example. 60 IN {RRSIG.replace(' A ', ' SOA ', 1)}",
             "a.records.example. 60 IN NSEC z.records.example. A RRSIG NSEC"),
        rcode=3, ask={"want_dnssec": True},
    ),
}  # fmt: skip
TTLS = {
    "ttl-0": Says((f"@ 0 IN A {GOOD}",)),
    "ttl-day": Says((f"@ 86400 IN A {GOOD}",)),
    "ttl-most": Says((f"@ {2**31 - 1} IN A {GOOD}",)),
    "ttl-31": Says((f"@ {2**31} IN A {GOOD}",)),
    "ttl-32": Says((f"@ {2**32 - 1} IN A {GOOD}",)),
}
MANY = 1_700
LARGE = {
    "octets-1300": SaysMuch(
        tuple(f"@ 60 IN A 198.18.0.{n}" for n in range(80)), ask={"payload": 4096}
    ),
    "octets-3000": SaysMuch(
        tuple(f"@ 60 IN A 198.18.0.{n}" for n in range(180)), ask={"payload": 4096}
    ),
    "octets-60000": SaysMuch(
        tuple(f"@ 60 IN AAAA 2001:db8::{n:x}" for n in range(1, MANY + 500)), rdtype="AAAA"
    ),
}
ALL: dict[str, Says] = {
    f"{kind}-{name}": says
    for kind, group in (
        ("in", IN_THE_ANSWER), ("by", BESIDE), ("ok", HARMLESS), ("c", CHAINS), ("l", LOOPS),
        ("p", PASSING),
        ("n", NEGATIVE), ("t", TTLS), ("o", LARGE),
        ("a", {name: says for name, (says, _, _) in ALIASES.items()}),
    )
    for name, says in group.items()
}  # fmt: skip


def script(asked: Asked) -> Iterable[Said]:
    """Say what is written above; by UDP nothing larger than a datagram of 4,096 octets."""
    reply = ALL[asked.first].reply(asked)
    yield asked.reply(flags=dns.flags.TC) if len(reply) > 4_096 and not asked.stream else reply


@dataclass(slots=True)
class World:
    server: Served
    upstream: Upstream
    first: dict[str, Got]
    second: dict[str, Got]


def question(name: str) -> dns.message.QueryMessage:
    says = ALL[name]
    return query(f"{name}.records.example", says.rdtype, **says.ask)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    catalog: Path = catalog_file(tmp_path_factory.mktemp("records") / "catalog.db", "acme.sql")
    with Upstream(script) as upstream, serving(catalog, upstream=upstream.url) as server:
        first, second = (
            dict(
                zip(ALL, ask_all(server, [question(name) for name in ALL], sources=16), strict=True)
            )
            for _ in range(2)
        )
        yield World(server, upstream, first, second)


def of(kind: str, group: Iterable[str]) -> list[str]:
    return [f"{kind}-{name}" for name in group]


def both(world: World, name: str) -> tuple[dns.message.Message, dns.message.Message]:
    """The replies to the question asked first and, perhaps from the cache, a second time."""
    first, second = world.first[name].reply, world.second[name].reply
    assert first is not None
    assert second is not None
    return first, second


def written(says: Says, section: tuple[str, ...], name: str) -> list[dns.rrset.RRset]:
    """The RRs of a section as the script has them."""
    owner = f"{name}.records.example."
    return [dns.rrset.from_text(*text.replace("@", owner).split(None, 4)) for text in section]  # type: ignore[arg-type]


def texts(rrsets: Iterable[dns.rrset.RRset]) -> list[str]:
    """One line an RR, without TTL."""
    return [
        f"{r.name} {dns.rdatatype.to_text(r.rdtype)} {rr.to_text()}".lower()
        for r in rrsets
        for rr in r
    ]


def speaks_of_ours(message: dns.message.Message) -> list[str]:
    """The records that speak of our names or addresses, found by reading their text."""
    found = []
    for section in (message.answer, message.authority, message.additional):
        for rrset in section:
            for rr in rrset:
                words = [
                    rrset.name.to_text(),
                    *rr.to_text().replace(",", " ").replace("=", " ").split(),
                ]
                ours = any(
                    word.endswith(".") and must_stay(word, dns.rdatatype.NONE) for word in words
                )
                if rrset.rdtype != dns.rdatatype.TXT and (
                    ours or any(w.lower().startswith("fdaa:") for w in words)
                ):
                    found.append(f"{rrset.name} {rr}")
    return found


@pytest.mark.parametrize("name", of("in", IN_THE_ANSWER))
def test_an_answer_that_leads_to_ours_is_refused(name: str, world: World) -> None:
    for got in (world.first[name], world.second[name]):
        assert got.outcome == "SERVFAIL 15"
        assert got.reply
        assert not speaks_of_ours(got.reply)


@pytest.mark.parametrize("name", ALIASES)
def test_the_end_of_a_chain_into_our_names_is_answered_here(name: str, world: World) -> None:
    says, expected, count = ALIASES[name]
    for got in (world.first[f"a-{name}"], world.second[f"a-{name}"]):
        assert got.outcome == expected
        assert len(got.addresses) == count
        assert got.reply
        assert not got.reply.flags & dns.flags.AA
        links = [rrset for rrset in got.reply.answer if rrset.rdtype == dns.rdatatype.CNAME]
        assert len(links) == len(says.answer)
    assert sum(asked.first == f"a-{name}" for asked in tuple(world.upstream.asked)) == 1


@pytest.mark.parametrize("name", of("by", BESIDE))
def test_nothing_of_ours_passes_beside_an_answer(name: str, world: World) -> None:
    for got in (world.first[name], world.second[name]):
        assert got.reply
        assert not speaks_of_ours(got.reply)
        assert (got.outcome, got.addresses) in (("SERVFAIL 15", []), ("NOERROR", [GOOD]))


@pytest.mark.parametrize("name", of("ok", HARMLESS))
def test_names_that_only_look_internal_pass(name: str, world: World) -> None:
    for message in both(world, name):
        assert texts(message.answer) == texts(written(ALL[name], ALL[name].answer, name))


@pytest.mark.parametrize("name", of("c", CHAINS))
def test_the_chain_from_the_name_asked_is_relayed_in_order_and_nothing_else(
    name: str, world: World
) -> None:
    for message in both(world, name):
        assert message.rcode() == 0
        here = dns.name.from_text(f"{name}.records.example.")
        for rrset in message.answer:
            assert rrset.name == here, message
            if rrset.rdtype == dns.rdatatype.CNAME:
                here = rrset[0].target
        assert [rr.to_text() for rr in message.answer[-1]] == [GOOD]
        for section in (message.authority, message.additional):
            assert not texts(section)
        if "-stray-" not in name:
            links = [
                text for text in ALL[name].answer if "CNAME" in text and not text.startswith("x7.")
            ]
            assert len(message.answer) - 1 == len(links)


@pytest.mark.parametrize("name", of("l", LOOPS))
def test_a_chain_that_does_not_end_is_a_failure(name: str, world: World) -> None:
    for got in (world.first[name], world.second[name]):
        assert got.outcome.startswith("SERVFAIL")
        assert got.seconds < 5


@pytest.mark.parametrize("name", of("p", PASSING))
def test_types_and_flags_pass_through(name: str, world: World) -> None:
    says = ALL[name]
    for message in both(world, name):
        assert message.rcode() == 0
        assert sorted(texts(message.answer)) == sorted(texts(written(says, says.answer, name)))
        assert bool(message.flags & dns.flags.AD) == bool(says.flags & dns.flags.AD)
        assert message.edns == (-1 if says.ask.get("use_edns") == -1 else 0)


@pytest.mark.parametrize("name", of("n", NEGATIVE))
def test_negative_replies_keep_their_rcode_chain_and_soa(name: str, world: World) -> None:
    says = ALL[name]
    for message in both(world, name):
        assert message.rcode() == says.rcode
        assert texts(message.answer) == texts(written(says, says.answer, name))
        assert sorted(texts(message.authority)) == sorted(
            texts(written(says, says.authority, name))
        )


@pytest.mark.parametrize("name", of("t", TTLS))
def test_a_ttl_is_never_more_than_it_may_be(name: str, world: World) -> None:
    said = int(ALL[name].answer[0].split()[1])
    first, second = (message.answer[0].ttl for message in both(world, name))
    assert second <= first <= said
    assert first < 2**31  # RFC 2181 section 8


def test_a_reply_with_ttl_0_is_queried_each_time(world: World) -> None:
    assert len(world.upstream.named("t-ttl-0.")) == 2


@pytest.mark.parametrize("name", of("o", LARGE))
def test_large_replies_arrive_whole_or_with_tc(name: str, world: World) -> None:
    says = ALL[name]
    for message in both(world, name):
        fits = len(says.answer) * 16 + 60 <= (says.ask.get("payload") or 1_232)
        assert bool(message.flags & dns.flags.TC) != fits
        shown = sum(map(len, message.answer))
        assert shown == len(says.answer) if fits else 0 < shown < len(says.answer)
    whole = ask_by_tcp(world.server, question(name)).reply
    assert whole
    assert sorted(texts(whole.answer)) == sorted(texts(written(says, says.answer, name)))
    small = ask_by_tcp(
        world.server, query(f"{name}.records.example", says.rdtype, use_edns=-1)
    ).reply
    assert small
    assert sum(map(len, small.answer)) == len(says.answer)


@pytest.mark.parametrize(
    "name", ["in-aaaa", "in-cname-and-a", "by-additional-0", "c-backwards-8", "n-nxdomain"]
)
def test_over_tcp_the_reply_is_the_same(name: str, world: World) -> None:
    reply = ask_by_tcp(world.server, question(name)).reply
    first, _ = both(world, name)
    assert reply
    assert (reply.rcode(), texts(reply.answer)) == (first.rcode(), texts(first.answer))


def test_our_own_names_are_what_they_were(world: World) -> None:
    names = ["web.internal", "db.internal", "internal", "x.example"]
    for got in ask_all(world.server, [query(name, "AAAA") for name in names[:2]]):
        assert got.outcome == "NOERROR"
        assert all(address.startswith("fdaa:") for address in got.addresses)
    assert ask_all(world.server, [query("nobody.internal")])[0].outcome.startswith("NXDOMAIN")
