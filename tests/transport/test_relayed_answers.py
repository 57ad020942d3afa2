"""What upstreams said, repeated by the answer table: for all networks, with TTLs that fall, until
it runs out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest

from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.journey import Forward, Rules, respond
from internal_dns.core.relayed import Relayed, relay
from internal_dns.transport.table.table import AnswerTable, Busy
from tests.books import check_books
from tests.core.messages import AAAA, AD, CD, COOKIE, NSID, RD, A, ip, opt, option, query, rr, wire

SERVER, SOURCE = ip("fdaa::3"), ip("fdaa:0:18:a7b::2")
NAME = wire("www.example")
RECORD = rr(b"\xc0\x0c", A, b"\xc0\0\2\x50", ttl=60)
REPLY = Relayed(0, True, (2, 0), RECORD * 2, (6, 6 + len(RECORD)), 60)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def filled(
    reply: Relayed = REPLY, variants: tuple[int, ...] = (0, 1, 2, 3)
) -> tuple[AnswerTable, Clock]:
    clock = Clock()
    table = AnswerTable(RULES, clock=clock, wall=lambda: WALL)
    for variant in variants:
        table.remember_relayed(NAME, A, variant, reply, 1_000, 1_054, 1_060)
    return table, clock


ADDITIONAL = {
    "no edns": (), "edns": (opt(),), "do": (opt(do=True),), "small": (opt(size=512),),
    "cookie": (opt(option(COOKIE, bytes(8))),), "nsid": (opt(option(NSID), do=True),),
    "others": (opt(option(12, bytes(50)), option(NSID), option(11), option(COOKIE, bytes(24))),),
}  # fmt: skip
RULES = Rules(nsid=b"here", secret=b"0123456789abcdef")
WALL = 1_700_000_000


@pytest.mark.parametrize(
    ("additional", "flags"), [*product(ADDITIONAL.values(), (RD, RD | CD, RD | AD, RD | AD | CD))]
)
@pytest.mark.parametrize("stream", [False, True])
def test_it_repeats_what_would_be_relayed(
    additional: tuple[bytes, ...], flags: int, stream: bool
) -> None:
    table, clock = filled()
    octets = query("wWw.eXample", A, *additional, flags=flags)
    said = respond(octets, SOURCE, SERVER, Catalog(), RULES, stream=stream, now=WALL)
    assert isinstance(said, Forward)
    for age in (0, 0.9, 1, 53.9):
        clock.now = 1_000 + age
        expected = relay(REPLY, said.query, said.reply_options, int(age))
        assert table.repeat(octets, SOURCE, SERVER, 0, 65_535 if stream else 0) == expected
    assert (table.hits, table.misses) == (4, 0)


def test_near_its_end_one_question_goes_the_whole_way_and_at_its_end_all_do() -> None:
    table, clock = filled()
    octets = query("www.example", A)
    clock.now = 1_054
    assert [bool(table.repeat(octets, SOURCE, SERVER, 0)) for _ in range(4)] == [
        False,
        True,
        True,
        True,
    ]
    clock.now = 1_060
    assert not any(table.repeat(octets, SOURCE, SERVER, 0) for _ in range(4))
    table.remember_relayed(NAME, A, 0, REPLY, 1_060, 1_114, 1_120)
    found = table.repeat(octets, SOURCE, SERVER, 0)
    assert found is not None
    assert found.endswith(RECORD)


@pytest.mark.parametrize(
    "octets",
    [
        query("www.example", A, flags=0),  # RD = 0: no looking into what others asked
        query("www.example", AAAA),
        query("ww.example", A),
        query("www.example", A, opt(option(COOKIE, bytes(7)))),
        query("www.example", A)[:-1] + b"\3",
    ],
    ids="rd qtype name option class".split(),
)
def test_what_differs_goes_the_whole_way(octets: bytes) -> None:
    table, _ = filled()
    assert table.repeat(octets, SOURCE, SERVER, 0) is None


@pytest.mark.parametrize("source", ["2001:db8::1", "fdaa::1", "::1", "::ffff:192.0.2.1"])
def test_outsiders_are_told_nothing(source: str) -> None:
    table, _ = filled()
    assert table.repeat(query("www.example", A), ip(source), SERVER, 0) is None


def test_do_and_cd_have_replies_of_their_own() -> None:
    table, _ = filled(variants=(1,))
    assert table.repeat(query("www.example", A), SOURCE, SERVER, 0) is None
    assert (
        table.repeat(query("www.example", A, opt(do=True), flags=RD | CD), SOURCE, SERVER, 0)
        is None
    )
    assert table.repeat(query("www.example", A, opt(do=True)), SOURCE, SERVER, 0) is not None


@pytest.mark.parametrize("additional", ADDITIONAL.values())
def test_of_what_is_too_large_only_the_ttls_that_fit_are_reduced(
    additional: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    big = Relayed(0, False, (40, 0), RECORD * 40, tuple(6 + n * len(RECORD) for n in range(40)), 60)
    big = replace(big, ad=True)
    table, clock = filled(big)
    aged = Counter[int]()
    before = Relayed.aged

    def counted(reply: Relayed, seconds: int) -> bytes:
        aged[len(reply.ttls)] += 1
        return before(reply, seconds)

    monkeypatch.setattr(Relayed, "aged", counted)
    for seconds, flags in enumerate((RD, RD | CD, RD | AD), 1):
        clock.now += 1
        octets = query("www.exAmple", A, *additional, flags=flags)
        octets = octets.replace(b"\x04\xd0", b"\x02\x60")  # a size of 608
        said = respond(octets, SOURCE, SERVER, Catalog(), RULES, now=WALL)
        assert isinstance(said, Forward)
        expected = relay(big, said.query, said.reply_options, seconds)
        assert table.repeat(octets, SOURCE, SERVER, 0) == expected
        assert expected[2] & 2
        assert 20 < expected[7] < 40
    assert sum(aged.values()) == 6
    assert max(aged) < 40
    octets = query("www.example", A, opt(size=1_232))
    whole = table.repeat(octets, SOURCE, SERVER, 0)
    assert whole is not None
    assert len(whole) > len(big.records)
    assert aged[40] == 1


def test_what_is_repeated_outlasts_what_is_not() -> None:
    clock = Clock()
    table = AnswerTable(Rules(), max_octets=100_000, clock=clock)
    often = [f"often{number}.example" for number in range(5)]
    for name in often:
        table.remember_relayed(wire(name), A, 0, REPLY, 1_000, 1_054, 1_060)
    for number in range(1_000):
        if number < 900:
            assert all(table.repeat(query(name, A), SOURCE, SERVER, 0) for name in often)
        table.remember_relayed(wire(f"n{number}.example"), A, 0, REPLY, 1_000, 1_054, 1_060)
        assert table.octets <= 100_000
    key = wire("often0.example") + b"\0\1\0"
    assert table.relayed_hits(key) == 900
    assert table.relayed_hits(wire("often0.example") + b"\0\1\1") == 0
    for number in range(300):  # nobody asks for them any more
        table.remember_relayed(wire(f"m{number}.example"), A, 0, REPLY, 1_000, 1_054, 1_060)
    assert not any(table.repeat(query(name, A), SOURCE, SERVER, 0) for name in often)
    assert table.relayed_hits(key) == 0


def test_its_room_is_shared_and_the_greedy_lose_first() -> None:
    clock = Clock()
    table = AnswerTable(Rules(), max_octets=100_000, clock=clock)
    for number in range(1_000):
        table.remember_relayed(wire(f"n{number}.example"), A, 0, REPLY, 1_000, 1_054, 1_060)
    assert 90_000 < table.octets <= 100_000
    assert table.evictions == 1_000 - table.entries
    assert table.repeat(query("n999.example", A), SOURCE, SERVER, 0) is not None
    assert table.repeat(query("n1.example", A), SOURCE, SERVER, 0) is None
    table.forget_relayed()
    assert (table.entries, table.octets) == (0, 0)
    check_books(table)


def test_replies_are_counted_by_rcode_and_type() -> None:
    cell = [0]
    table = AnswerTable(
        Rules(), count_relayed=lambda rcode, qtype: cell if (rcode, qtype) == (0, A) else [0]
    )
    table.clock = Clock()
    table.remember_relayed(NAME, A, 0, REPLY, 1_000, 1_054, 1_060)
    for _ in range(3):
        table.repeat(query("www.example", A), SOURCE, SERVER, 0)
    assert cell == [3]


def test_who_is_busy_counts_what_upstreams_said_under_network_0() -> None:
    table, _ = filled(variants=(0, 1))
    for octets in (
        query("www.example", A),
        query("WWW.example", A),
        query("www.example", A, opt(do=True)),
    ):
        assert table.repeat(octets, SOURCE, SERVER, 0)
    assert table.busiest(5) == [Busy(NetworkId(0), NAME, A, 2), Busy(NetworkId(0), NAME, A, 1)]
    table.forget_relayed()
    assert table.busiest(5) == []
    assert table.forgotten_hits == {0: 3}
