"""The native table's books: what is stored, what goes when an app changes, and who makes room.

test_answers.py shows that it forgets and repeats what the table in Python does.
"""

from __future__ import annotations

from random import Random

import pytest

from internal_dns.core.catalog import NetworkId
from internal_dns.core.journey import Reply, respond
from internal_dns.core.relayed import Relayed
from internal_dns.core.wire import QR
from internal_dns.metrics import Metrics
from internal_dns.transport import native
from internal_dns.transport.native.mirror import Mirror
from internal_dns.transport.table.table import AnswerTable
from tests.core.messages import AAAA, SERVER, TXT, A, query, wire
from tests.core.messages import loaded as loaded_rows
from tests.tools import requires_native
from tests.transport.test_answers import IN_GLOBEX, MACHINE, RULES, demo

if not native.MISSING:
    from internal_dns.transport.native import fast

pytestmark = requires_native()

RECORDS = b"\xc0\x0c\x00\x1c\x00\x01\x00\x00\x00\x05\x00\x10" + bytes(16)


def empty(bound: int = 1 << 30) -> fast.Table:
    return fast.Table(b"\xfd\xaa", [], 1_232, bound)


def put(
    table: fast.Table, name: str, network: int = 1, part: bytes | None = b"web", qtype: int = AAAA,
    others: tuple[bytes, ...] = (),
) -> int:  # fmt: skip
    sizes, parts = (len(RECORDS), 0, len(RECORDS)), None if part is None else (part, *others)
    return table.put(
        network, wire(name), qtype, QR, (1, 0, 0), 0, 0, RECORDS, sizes, b"", 0, parts=parts
    )


def names(table: fast.Table) -> set[tuple[int, bytes]]:
    return {(network, name) for network, name, *_ in table.kept()}


def ask(table: fast.Table, name: str, network: int = 1, qtype: int = AAAA) -> bytes | None:
    source = b"\xfd\xaa" + network.to_bytes(4, "big") + bytes(10)
    found = table.repeat(query(name, qtype), source, SERVER, 0, 0, 0)
    return found and found[0]


def test_an_answer_goes_with_its_part_and_no_other_does() -> None:
    table = empty()
    for number in range(3_000):
        put(table, f"n{number}.internal", 1 + number % 2, b"app%d" % (number % 7))
    assert table.answers == 3_000
    assert table.forget(1, b"app3", 10) == 10
    while table.forget(1, b"app3", 10):
        pass
    gone = {(1, wire(f"n{n}.internal")) for n in range(3_000) if n % 7 == 3 and n % 2 == 0}
    assert len(gone) > 200
    every = {(1 + n % 2, wire(f"n{n}.internal")) for n in range(3_000)}
    assert names(table) == every - gone
    assert table.forget(1, None, 10) == 0


def test_an_answer_of_several_parts_goes_with_the_first_that_changes() -> None:
    table, zone = empty(), wire("x" * 63 + "." + "corp.example")
    others = (zone, b"*", *(b"p%d" % n for n in range(fast.MOST_PARTS - 3)))
    for name in ("a.internal", "b.internal"):
        put(table, name, others=others)
    put(table, "c.internal")
    put(table, "d.internal", part=zone)
    assert table.forget(2, zone, 10) == 0
    assert table.forget(1, b"\1" + zone, 10) == 0
    assert table.forget(1, zone, 1) == 1
    assert table.forget(1, zone, 10) == 2
    assert names(table) == {(1, wire("c.internal"))}
    for gone in (zone, *others):
        assert table.forget(1, gone, 10) == 0
    put(table, "a.internal", others=others)
    put(table, "a.internal", part=b"db")  # in place of that one
    assert table.forget(1, b"web", 10) == 1
    assert table.forget(1, b"p0", 10) == 0
    assert table.forget(1, b"db", 10) == 1
    assert table.answers == 0


@pytest.mark.parametrize("parts", [(), (b"",), (b"x" * 256,), (b"x",) * 65])
def test_parts_that_cannot_be_are_refused(parts: tuple[bytes, ...]) -> None:
    sizes = (len(RECORDS), 0, len(RECORDS))
    with pytest.raises(ValueError):
        empty().put(1, wire("a"), AAAA, QR, (1, 0, 0), 0, 0, RECORDS, sizes, b"", 0, parts=parts)


def test_an_answer_without_a_part_goes_with_the_network() -> None:
    table = empty()
    put(table, "_apps.internal", 1, None, TXT)
    put(table, "_apps.internal", 2, None, TXT)
    put(table, "web.internal", 1)
    assert table.forget(1, None, 10) == 1
    assert names(table) == {(2, wire("_apps.internal")), (1, wire("web.internal"))}
    assert table.forget_all(1, 10) == 1
    assert names(table) == {(2, wire("_apps.internal"))}


def test_what_was_repeated_of_what_is_forgotten_is_told() -> None:
    table, hot = empty(), list[tuple[bytes, int]]()
    for name in ("a.internal", "b.internal"):
        put(table, name)
    assert ask(table, "b.internal") is not None
    assert table.forget(1, b"web", 10, hot) == 2
    assert hot == [(wire("b.internal"), AAAA)]
    assert table.gone() == {1: 1}
    put(table, "b.internal")
    assert table.forget(1, b"web", 10, hot) == 1
    assert len(hot) == 1  # nobody has asked since it was stored again


def test_the_chains_grow_and_everything_is_found_meanwhile() -> None:
    table, rng = empty(), Random(1)
    for number in range(20_000):
        put(table, f"n{number}.internal", part=b"l%d" % (number % 997))
        if number % 50 == 0:
            other = rng.randrange(number + 1)
            assert ask(table, f"n{other}.internal") is not None
    assert table.answers == len(table.kept()) == 20_000
    assert len(names(table)) == 20_000


def test_a_walk_finds_all_that_stays_while_the_table_grows() -> None:
    table = empty()
    for number in range(1_500):
        put(table, f"n{number}.internal")
    cursor, found, more = 0, set[bytes](), 1_500
    while True:
        cursor, part = table.scan(cursor, 200)
        found.update(name for _, name, *_ in part)
        for _ in range(400 if more < 8_000 else 0):
            put(table, f"n{more}.internal")
            more += 1
        if not cursor:
            break
    assert more >= 5_000
    assert found >= {wire(f"n{number}.internal") for number in range(1_500)}


def test_the_bound_holds_and_a_flood_pushes_out_its_own_answers() -> None:
    table = empty(50_000)
    for name in ("a", "b", "c"):
        put(table, f"{name}.internal", 2)
    for number in range(2_000):
        put(table, f"n{number}.internal", 1)
        assert table.answer_octets <= 50_000
    assert {name for network, name in names(table) if network == 2} == {
        wire(f"{name}.internal") for name in ("a", "b", "c")
    }
    assert (1, wire("n1999.internal")) in names(table)
    assert table.evictions == 2_003 - table.answers


def test_two_floods_share_the_room_natively() -> None:
    table = empty(50_000)
    for number in range(1_000):
        put(table, f"n{number}.internal", 1 + number % 2)
    by_network = [network for network, _ in names(table)]
    assert abs(by_network.count(1) - by_network.count(2)) <= 2


def test_many_networks_with_one_answer_each_stay_within_the_bound() -> None:
    table = empty(20_000)
    for number in range(1, 1_000):
        put(table, "a.internal", number, None)
        assert table.answer_octets <= 20_000
    assert table.answers > 50


def test_what_is_repeated_outlasts_what_is_not() -> None:
    table = empty(50_000)
    put(table, "often.internal")
    for number in range(1_000):
        put(table, f"n{number}.internal")
        assert ask(table, "often.internal") is not None
    for number in range(1_000):
        put(table, f"m{number}.internal")
    assert ask(table, "often.internal") is None


def test_an_answer_larger_than_all_room_is_not_stored() -> None:
    table = empty(100)
    put(table, "a.internal")
    assert (table.answers, table.answer_octets) == (0, 0)


def test_a_smaller_bound_holds_from_the_next_answer_on() -> None:
    table = empty()
    for number in range(1_000):
        put(table, f"n{number}.internal")
    table.bound = 10_000
    put(table, "last.internal")
    assert table.answer_octets <= 10_000
    assert ask(table, "last.internal") is not None


def test_an_answer_that_is_stored_again_is_there_once_and_its_hits_stay_in_the_sum() -> None:
    table = empty()
    for number in range(5):
        put(table, "a.internal")
        for _ in range(number):
            assert ask(table, "a.internal") is not None
    assert table.answers == 1
    assert table.gone() == {1: 0 + 1 + 2 + 3}
    assert table.hits_of(1, wire("a.internal"), AAAA) == 4
    table.drop_account(1)  # it has an answer
    assert table.gone() == {1: 6}
    table.forget_all(1, 10)
    table.drop_account(1)
    assert table.gone() == {}


def test_an_ordinary_answer_takes_at_most_320_octets() -> None:
    mirror = Mirror(RULES, Metrics())
    table = AnswerTable(RULES, mirror=mirror)
    table.change(demo())
    for name in ("web.internal", "iad.web.internal", "blog.internal"):
        for qtype in (AAAA, A):
            said = respond(query(name, qtype), MACHINE, SERVER, demo(), RULES)
            assert isinstance(said, Reply)
            table.remember(said)
    assert table.entries == 6
    assert table._entries == 0  # no object in Python
    assert mirror.table.answer_octets / 6 <= 320


def test_what_a_query_over_tcp_needs_is_kept_in_python_too_when_it_is_large() -> None:
    mirror = Mirror(RULES, Metrics())
    table = AnswerTable(RULES, mirror=mirror)
    rr = b"\0\0\1\0\1\0\0\0\5\0\4abcd"
    for count, python in ((10, 0), (1_000, 1)):
        reply = Relayed(0, False, (count, 0), rr * count, tuple(range(5, 15 * count, 15)), 5, 0)
        table.remember_relayed(wire("example.com"), count, 0, reply, 0, 1e12, 1e12)
        assert table._entries == python
        octets = query("example.com", count)
        table.clock = lambda: 1.0
        whole = table.repeat(octets, IN_GLOBEX, SERVER, 0, 65_535)
        assert whole is not None
        assert whole.count(b"abcd") == count


def test_hits_of_both_tables_are_in_the_sums_of_networks_that_are_gone() -> None:
    mirror = Mirror(RULES, Metrics())
    table = AnswerTable(RULES, mirror=mirror)
    table.change(demo())
    for name in ("web.internal", "top1.nearest.of.web.internal"):
        said = respond(query(name), MACHINE, SERVER, demo(), RULES)
        assert isinstance(said, Reply)
        table.remember(said)
        assert table.repeat(query(name), MACHINE, SERVER, 0) is not None
    table.forget(NetworkId(0x18), None)
    assert table.forgotten_hits == {0x18: 2}
    table.change(loaded_rows(rows={}).catalog)
    assert table.forgotten_hits == {}
