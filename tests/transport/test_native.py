"""The C core against its oracles: the journey for names that are not there, plain arithmetic for
relayed answers.

What the Python table repeats, the C core repeats to the octet: that is in test_answers.py, whose
Twins ask both.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core import names
from internal_dns.core.catalog import App, Catalog, Network, NetworkId
from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.core.relayed import Relayed
from internal_dns.core.wire import MAX_MESSAGE, MAX_QUERY, SILENT_PORTS
from internal_dns.metrics import Metrics
from internal_dns.transport import native
from internal_dns.transport.native.mirror import Mirror
from internal_dns.transport.table.table import AnswerTable
from tests.core.catalogs import Rows, natural_type, random_name, random_rows, random_source
from tests.core.messages import (
    AA,
    AAAA,
    AD,
    AXFR,
    CD,
    IXFR,
    OPT,
    QR,
    RA,
    RD,
    SERVER,
    TXT,
    A,
    Name,
    header,
    ip,
    labels,
    loaded,
    opened,
    opt,
    query,
    rr,
    wire,
)
from tests.fuzz.mutation import mutated
from tests.laws import examples
from tests.tools import requires_native
from tests.transport.test_answers import (
    IN_GLOBEX,
    IN_INITECH,
    INITECH,
    LOOPBACK,
    MACHINE,
    MAPS,
    OPTIONS,
    OUTSIDER,
    RULES,
    SOURCES,
    STRANGER,
    TEN,
    WALL,
    Oracle,
    Twins,
    demo,
    in_other_case,
)

if not native.MISSING:
    from internal_dns.transport.native import fast

pytestmark = requires_native()


def serving(catalog: Catalog, rules: Rules = RULES) -> tuple[Mirror, AnswerTable]:
    """An empty table for *catalog*."""
    mirror = Mirror(rules, Metrics())
    table = AnswerTable(rules, mirror=mirror)
    table.change(catalog)
    return mirror, table


def native_answer(
    mirror: Mirror, octets: bytes, source: bytes = MACHINE, **how: Any
) -> bytes | None:
    return mirror.table.answer_one(octets, source, SERVER, how.pop("rotation", 0), **how)


# ── names that are not there ──────────────────────────────────────────────────────────────────────

LABELS = (*names.RESERVED, *names.APEX_WORDS, b"x", b"nosuch", b"web", b"db", b"internal", b"flycast", b"_http", b"1",
          b"top1", b"ams", b"iad", b"a.b", b"\0", b"\xff", b"X" * 63, b"1" * 11)  # fmt: skip


def maybe_unknown(rng: Random, rows: Rows, source: bytes) -> Name:
    """A name below `internal`, of random labels or of the grammar's."""
    if rng.random() < 0.4:
        return random_name(rng, rows, source)
    return (*rng.choices(LABELS, k=rng.choice((1, 1, 1, 2, 2, 3, 4, 8))), b"internal")


def compare(mirror: Mirror, catalog: Catalog, octets: bytes, source: bytes) -> bytes | None:
    """What the C core says of its own accord; fails unless the journey says the same."""
    said = native_answer(mirror, octets, source)
    if said is not None:
        decided = respond(octets, source, SERVER, catalog, RULES)
        assert isinstance(decided, Reply)
        assert said == decided.octets, (octets, source)
    return said


@given(st.integers(0, 1 << 32))
@examples(60)
@pytest.mark.slow
def test_a_name_that_is_certainly_not_there_gets_what_the_journey_says(seed: int) -> None:
    rng = Random(seed)
    rows = random_rows(rng)
    catalog = loaded(rows=rows).catalog
    mirror, _ = serving(catalog)
    for _ in range(150):
        source = random_source(rng, rows)
        name = maybe_unknown(rng, rows, source)
        qtype = rng.choice((natural_type(labels(name), rng, rows), AXFR, IXFR, 0, 41, 65_535))
        additional = rng.choice(((), (opt(),), (opt(do=True, size=rng.choice((0, 512, 4_096))),)))
        octets = in_other_case(
            rng, query(name, qtype, *additional, flags=rng.choice((RD, 0, RD | CD, RD | AD)))
        )
        compare(mirror, catalog, octets, source)


def test_random_names_do_not_reach_python() -> None:
    mirror, _ = serving(demo())
    rng, natively = Random(5), 0
    for _ in range(2_000):
        name = ".".join(f"{rng.getrandbits(40):x}" for _ in range(rng.randint(1, 4))) + ".internal"
        natively += (
            compare(mirror, demo(), query(name, rng.choice((AAAA, A, TXT)), opt()), MACHINE)
            is not None
        )
    assert natively > 1_800  # the set of first labels lets one in seventy of them up
    assert mirror.table.kept() == []


@pytest.mark.parametrize("source", [STRANGER, OUTSIDER, ip("fdaa::1")])
def test_a_network_that_is_not_in_the_catalog_has_no_unknown_names(source: bytes) -> None:
    mirror, _ = serving(demo())
    assert native_answer(mirror, query("nosuch.internal"), source) is None


def network(*apps: str, number: int = 0x18) -> Catalog:
    found = {app.encode(): App(app.encode()) for app in apps}
    return Catalog(
        {
            NetworkId(number): Network(
                NetworkId(number), b"\xfd\xaa" + number.to_bytes(4, "big"), apps=found
            )
        }
    )


@pytest.mark.slow
def test_an_app_goes_up_from_the_moment_it_is_in_the_catalog() -> None:
    mirror, table = serving(network())
    known: list[str] = []
    before = 0
    for number in range(700):  # past the room that the set of labels has at first
        new = f"app-{number}"
        before += native_answer(mirror, query(f"{new}.internal")) is not None
        known.append(new)
        table.change(network(*known))
        assert native_answer(mirror, query(f"{new}.internal")) is None
        assert native_answer(mirror, query(f"iad.{known[0]}.internal")) is None
    natively = sum(
        native_answer(mirror, query(f"other-{number}.internal")) is not None
        for number in range(700)
    )
    # One in seventy goes up without need, more when the set is about to be made anew.
    assert before > 600
    assert natively > 600


def test_an_app_that_is_gone_is_answered_rightly() -> None:
    mirror, table = serving(network("web"))
    table.change(catalog := network())
    compare(mirror, catalog, query("web.internal"), MACHINE)
    table.change(Catalog())
    assert native_answer(mirror, query("web.internal")) is None


@given(st.integers(0, 1 << 32))
@examples(40)
@pytest.mark.slow
def test_unknown_names_follow_every_change(seed: int) -> None:
    rng = Random(seed)
    rows = random_rows(rng)
    catalog = loaded(rows=rows).catalog
    mirror, table = serving(catalog)
    for _ in range(4):
        other = random_rows(rng)
        rows = {name: other[name] if rng.random() < 0.4 else of for name, of in rows.items()}
        table.change(catalog := loaded(rows=rows).catalog)
        for _ in range(40):
            source = random_source(rng, rows)
            octets = query(maybe_unknown(rng, rows, source), AAAA, opt())
            said = compare(mirror, catalog, octets, source)
            assert said is None or said[3] & 15 == 3


# ── any octets ────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(0, 1 << 32))
@examples(30)
@pytest.mark.slow
def test_both_paths_say_the_same_to_mutated_queries_whatever_the_table_holds(seed: int) -> None:
    rng = Random(seed)
    rows = random_rows(rng)
    connection = opened(rows=rows)
    connection.close()
    twins = Twins(loaded(rows=rows).catalog)
    good = []
    for _ in range(40):
        name = maybe_unknown(rng, rows, MACHINE) if rng.random() < 0.5 else random_name(rng, rows)
        options = rng.choices(OPTIONS, k=rng.randint(0, 3))
        additional = rng.choice(((), (opt(),), (opt(*options, size=rng.choice((0, 900))),)))
        octets = query(name, natural_type(labels(name), rng, rows), *additional)
        good.append(octets)
        if rng.random() < 0.6:
            twins.decide(octets, random_source(rng, rows), SERVER, rotation=rng.getrandbits(32))
    for _ in range(300):
        octets = rng.choice(good)
        for _ in range(rng.choice((0, 1, 1, 2))):
            octets = mutated(octets, rng, good)
        source = random_source(rng, rows) if rng.random() < 0.8 else rng.choice(SOURCES)
        destination = rng.choice(
            (SERVER, SERVER, source[:6] + bytes(9) + b"\3", ip("fdaa:0:19::3"), ip("::1"))
        )
        twins.ask(octets, source, destination, rng.getrandbits(32))


def test_silence_is_for_runts_and_responses() -> None:
    mirror, _ = serving(demo())
    for octets in (
        b"",
        b"\0",
        bytes(11),
        query("web.internal", flags=QR),
        query("web.internal", flags=QR | RD),
    ):
        assert native_answer(mirror, octets) == b""
        assert native_answer(mirror, octets, OUTSIDER) == b""


def test_ports_that_answer_anything_are_left_to_python() -> None:
    mirror, _ = serving(demo())
    left = {
        port
        for port in range(65_536)
        if native_answer(mirror, query("nosuch.internal"), port=port) is None
    }
    assert left == SILENT_PORTS


def test_the_c_core_and_python_have_the_same_limits() -> None:
    assert fast.FAIR_QUEUES == native.QUEUES
    assert fast.MAX_WORKERS >= 8  # the most that the setting takes
    twins = Twins(demo())
    octets = twins.learn("web.internal")
    for size in (MAX_QUERY, MAX_QUERY + 1):
        twins.ask(octets + bytes(size - len(octets)))
    for advertised in (0, 1, 511, 512, 513, 65_535):
        assert twins.ask(query("render.internal", AAAA, opt(size=advertised)), IN_INITECH) is None
        twins.decide(query("render.internal"), IN_INITECH, SERVER)
        said = twins.ask(query("render.internal", AAAA, opt(size=advertised)), IN_INITECH)
        assert said is not None
        assert bool(said[2] & 2) == (advertised < 1_700)
        twins.table.forget(NetworkId(INITECH), None)


def test_the_longest_map_wins_natively_too() -> None:
    twins = Twins(demo())
    for source in (LOOPBACK, TEN, IN_GLOBEX, ip("10.9.9.9")):
        twins.decide(query("web.internal"), source, SERVER)
        assert twins.ask(query("web.internal"), source) is not None
    before = twins.repeated_natively
    assert before == 4
    assert twins.ask(query("web.internal"), ip("11.0.0.1")) is None
    assert MAPS[1].covers(TEN)


def test_a_reply_with_no_room_goes_up() -> None:
    twins = Twins(demo())
    octets = twins.learn("web.internal")
    assert twins.mirror is not None
    whole = native_answer(twins.mirror, octets)
    assert whole is not None
    assert native_answer(twins.mirror, octets, room=len(whole)) == whole
    assert native_answer(twins.mirror, octets, room=len(whole) - 1) is None


def test_each_address_is_first_equally_often_natively() -> None:
    twins = Twins(demo())
    octets = twins.learn("web.internal")
    assert twins.mirror is not None
    firsts = Counter(
        (native_answer(twins.mirror, octets, rotation=rotation) or b"")[-28:]
        for rotation in range(1_000)
    )
    assert sorted(firsts.values()) == [200] * 5


def test_both_tables_tell_which_names_are_busiest() -> None:
    twins = Twins(demo())
    web, nearest = twins.learn("web.internal"), twins.learn("top1.nearest.of.web.internal")
    for _ in range(7):
        twins.ask(web)
    for _ in range(3):
        twins.ask(nearest)
    assert twins.table.native is not None
    for table in (twins.table, twins.table.native):
        # `learn` asks once more, and `answer_one`, which asked natively, counts nothing.
        assert table.busiest(2) == [
            (0x18, wire("web.internal"), AAAA, 8),
            (0x18, wire("top1.nearest.of.web.internal"), AAAA, 4),
        ]


# ── relayed answers ───────────────────────────────────────────────────────────────────────────────

STORED, REFRESH, EXPIRES = 1_000_000, 1_270_000, 1_300_000
NAME = wire("example.com")
HEAD = b"\xc0\x0c"
ANSWER = rr(HEAD, A, b"\xc0\0\2\1", ttl=300) + rr(HEAD, A, b"\xc0\0\2\2", ttl=20)
TTLS = (6, 6 + len(ANSWER) // 2)


def relaying(**said: Any) -> Mirror:
    """A table with one relayed answer."""
    mirror, _ = serving(demo())
    how: dict[str, Any] = {
        "dnssec_ok": False, "checking_disabled": False, "flags": QR | RA | AD, "extended": 0, "counts": (2, 0, 0),
        "records": ANSWER, "options": b"", "ttls": TTLS, "stored": STORED, "refresh": REFRESH, "expires": EXPIRES,
        "cell": 9,
    }  # fmt: skip
    assert mirror.table.put_relayed(
        said.pop("name", NAME), said.pop("qtype", A), **{**how, **said}
    ) > len(ANSWER)
    return mirror


ASKED = query("Example.com", A)


def relayed(flags: int = QR | RD | RA, age: int = 0, additional: bytes = b"") -> bytes:
    records = rr(HEAD, A, b"\xc0\0\2\1", ttl=max(0, 300 - age)) + rr(
        HEAD, A, b"\xc0\0\2\2", ttl=max(0, 20 - age)
    )
    return header(flags, an=2, ar=bool(additional)) + ASKED[12:] + records + additional


@pytest.mark.parametrize("age", [0, 1, 5, 20, 21, 269])
def test_ttls_fall_with_the_seconds(age: int) -> None:
    mirror = relaying()
    for milliseconds in (0, 1, 999):
        said = native_answer(mirror, ASKED, now=STORED + age * 1_000 + milliseconds)
        assert said == relayed(age=age)


def test_a_clock_before_the_storing_does_not_raise_ttls() -> None:
    assert native_answer(relaying(), ASKED, now=STORED - 5_000) == relayed()


def test_a_relayed_answer_is_everybodys_who_may_ask() -> None:
    mirror = relaying()
    ask = partial(native_answer, mirror, now=STORED)
    for source in (MACHINE, IN_GLOBEX, STRANGER, LOOPBACK, TEN):
        assert ask(ASKED, source) == relayed()
    for source in (
        OUTSIDER,
        ip("fdaa::1"),
    ):  # nobody, and network 0, under which these answers are kept
        assert ask(ASKED, source) is None
    assert mirror.table.answer_one(ASKED, MACHINE, ip("fdaa:0:19::3"), 0, STORED) is None


def test_without_rd_nothing_relayed_is_told() -> None:
    assert native_answer(relaying(), query("example.com", A, flags=0), now=STORED) is None


@pytest.mark.parametrize("dnssec_ok", [False, True])
@pytest.mark.parametrize("checking_disabled", [False, True])
def test_do_and_cd_have_answers_of_their_own(dnssec_ok: bool, checking_disabled: bool) -> None:
    mirror = relaying(dnssec_ok=dnssec_ok, checking_disabled=checking_disabled)
    for with_do in (False, True):
        for flags in (RD, RD | CD):
            asked = query("example.com", A, opt(do=with_do), flags=flags)
            said = native_answer(mirror, asked, now=STORED)
            assert (said is not None) == (
                (with_do, flags == RD | CD) == (dnssec_ok, checking_disabled)
            )
            assert said is None or said[2:4] == (QR | flags | RA | AD * with_do).to_bytes(2, "big")


def test_ad_is_for_who_asks_with_ad_or_do() -> None:
    mirror = relaying()
    asked = query("Example.com", A, flags=RD | AD)
    assert native_answer(mirror, asked, now=STORED) == relayed(QR | RD | RA | AD)
    assert native_answer(mirror, ASKED, now=STORED) == relayed(QR | RD | RA)
    assert native_answer(relaying(flags=QR | RA), asked, now=STORED) == relayed(QR | RD | RA)


def test_the_first_after_the_refresh_time_goes_up_and_the_others_are_answered() -> None:
    mirror = relaying()
    ask = partial(native_answer, mirror, ASKED)
    assert ask(now=REFRESH - 1) is not None
    assert ask(now=REFRESH) is None
    assert [ask(now=at) is None for at in (REFRESH, REFRESH + 1, EXPIRES - 1)] == [False] * 3
    assert [ask(now=at) for at in (EXPIRES, EXPIRES + 1)] == [None, None]


def test_a_refreshed_answer_takes_the_place_of_the_old_one() -> None:
    mirror = relaying()
    assert native_answer(mirror, ASKED, now=REFRESH) is None
    later = EXPIRES
    mirror.table.put_relayed(
        NAME,
        A,
        False,
        False,
        QR | RA,
        0,
        (1, 0, 0),
        ANSWER[: TTLS[1] - 6],
        b"",
        TTLS[:1],
        later,
        later + 9_000,
        later + 10_000,
        9,
    )
    assert len(mirror.table.kept()) == 1
    said = native_answer(mirror, ASKED, now=later + 2_000)
    assert said is not None
    assert said[-10:-6] == (298).to_bytes(4, "big")
    assert native_answer(mirror, ASKED, now=later + 9_000) is None  # and is asked again in its turn


def test_the_extended_rcode_and_options_are_in_the_opt() -> None:
    options = b"\0\x0f\0\2\0\3"
    mirror = relaying(extended=1, options=options, flags=QR | RA | 3)
    said = native_answer(mirror, query("Example.com", A, opt()), now=STORED)
    assert said == relayed(
        QR | RD | RA | 3, additional=rr(b"\0", OPT, options, rclass=4_096, ttl=1 << 24)
    )
    assert native_answer(mirror, ASKED, now=STORED) == relayed(QR | RD | RA | 3)


def test_a_networks_own_answer_comes_first() -> None:
    mirror = relaying(name=wire("web.internal"), qtype=AAAA)
    # A relayed answer under our zone never is; if one were, nobody would see it.
    assert native_answer(mirror, query("web.internal"), now=STORED) is None
    mirror.table.put(0x18, NAME, A, QR | AA, (0, 0, 0), 0, 0, b"", (0, 0, 0), b"", 0)
    assert native_answer(mirror, ASKED, now=STORED) == header(QR | AA | RD) + ASKED[12:]


def test_a_relayed_answer_can_be_forgotten() -> None:
    mirror = relaying()
    assert not mirror.table.drop_relayed(NAME, A, True, False)
    assert not mirror.table.drop(0, NAME, A)
    assert mirror.table.drop_relayed(NAME, A, False, False)
    assert native_answer(mirror, ASKED, now=STORED) is None


def test_both_tables_relay_the_same_at_any_time() -> None:
    assert sum(relayed_alike(seed) for seed in range(60)) > 300


def relayed_alike(seed: int) -> int:
    """Fail unless both tables say the same in a random life; return how often they said
    something."""
    rng, now = Random(seed), [1_000.0]
    mirror = Mirror(RULES, Metrics())
    clocks: dict[str, Any] = {"clock": lambda: now[0], "wall": lambda: WALL}
    beside = AnswerTable(RULES, mirror=mirror, **clocks)
    table = Oracle(RULES, native=beside, **clocks)
    asked = [
        query(name, qtype) for name in ("example.com", "a.example.com", ".") for qtype in (A, AAAA)
    ]
    repeated = 0
    for _ in range(150):
        now[0] += rng.choice((0, 0, 0.25, 1, 1, 5, 40))
        octets = rng.choice(asked)
        if rng.random() < 0.2:
            some = [
                rr(
                    HEAD,
                    A,
                    rng.randbytes(rng.choice((4, 4, 300, 300, 5_000))),
                    ttl=rng.choice((0, 1, 30, 1 << 31)),
                )
                for _ in range(rng.randrange(1, 8))
            ]
            answers = rng.randrange(len(some) + 1)
            reply = Relayed(
                rng.choice((0, 3, 16, 23)),
                rng.random() < 0.5,
                (answers, len(some) - answers),
                b"".join(some),
                tuple(6 + len(b"".join(some[:before])) for before in range(len(some))),
                60,
                rng.choice((0, 0, 1, 2)),
            )
            refresh_at = now[0] + rng.choice((1, 10, 50))
            table.remember_relayed(
                octets[12:-4],
                octets[-3],
                rng.randrange(4),
                reply,
                now[0],
                refresh_at,
                refresh_at + rng.choice((0, 5)),
            )
        elif rng.random() < 0.02:
            table.forget_relayed()
        plain = (b"", opt(), opt(do=True), opt(size=512, do=True))
        some = rng.choices(OPTIONS, k=rng.randint(1, 3))
        additional = rng.choice((*plain, opt(*some, size=rng.choice((512, 700, 1_232)))))
        octets = (
            header(rng.choice((RD, RD, RD | AD, RD | CD, RD | CD | AD, 0)), ar=bool(additional))
            + octets[12:]
        )
        source = rng.choice((MACHINE, STRANGER, TEN, OUTSIDER))
        expected = table.repeat(octets + additional, source, SERVER, 0)
        said = mirror.table.answer_one(
            octets + additional, source, SERVER, 0, int(now[0] * 1_000), unix_time=WALL
        )
        assert said == expected
        assert beside.repeat(octets + additional, source, SERVER, 0) == expected
        by_tcp = (octets + additional, source, SERVER, 0, MAX_MESSAGE)
        assert beside.repeat(*by_tcp) == table.repeat(*by_tcp)
        repeated += said is not None
    assert {number for number, *_ in mirror.table.kept()} <= {0}
    assert len(mirror.table.kept()) == table.entries
    return repeated


@pytest.mark.parametrize(
    "said",
    [
        {"ttls": (len(ANSWER) - 3,)},
        {"name": b""},
        {"name": bytes(256)},
        {"cell": 1_024},
        {"counts": (1, 2)},
    ],
)
def test_the_table_takes_no_nonsense(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        relaying(**said)


def test_what_turns_must_be_there() -> None:
    mirror, _ = serving(demo())
    with pytest.raises(ValueError, match="fewer records"):
        mirror.table.put(0x18, NAME, A, QR, (2, 0, 0), 16, 3, bytes(47), (47, 0, 47), b"", 0)
