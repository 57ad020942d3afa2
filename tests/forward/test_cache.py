"""What is kept of upstreams' replies, for how long, and what has to go."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest

from internal_dns.core.catalog import NetworkId
from internal_dns.core.relayed import Relayed
from internal_dns.core.wire import Ede
from internal_dns.forward.cache import MAX_FAILED, MAX_STALE, Cache, Freshness
from internal_dns.forward.times import TIMES


def reply(lifetime: int = 100, size: int = 50) -> Relayed:
    return Relayed(0, False, (1, 0), bytes(size), (), lifetime)


def age(cache: Cache, key: bytes, now: float) -> Freshness | None:
    found = cache.find(key, now)
    return found[1] if found else None


def test_a_reply_is_fresh_then_due_once_then_stale_then_gone() -> None:
    cache = Cache()
    cache.store(b"k", reply(100), 1_000)
    ages = [
        age(cache, b"k", 1_000 + at)
        for at in (0, 89.9, 90, 90, 99.9, 100, 100 + MAX_STALE - 1, 100 + MAX_STALE)
    ]
    assert ages == [
        Freshness.FRESH,
        Freshness.FRESH,
        Freshness.DUE,
        Freshness.FRESH,
        Freshness.FRESH,
        Freshness.STALE,
        Freshness.STALE,
        None,
    ]
    assert (
        cache.hits[Freshness.FRESH],
        cache.hits[Freshness.DUE],
        cache.hits[Freshness.STALE],
        cache.misses,
    ) == (
        4,
        1,
        2,
        1,
    )


def test_a_reply_without_a_lifetime_is_not_cached() -> None:
    cache = Cache()
    cache.store(b"k", reply(0), 0)
    assert (len(cache), cache.octets, cache.find(b"k", 0)) == (0, 0, None)


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize(("rcode", "left"), [(0, 0), (3, 0), (9, 1)])
def test_a_newer_reply_without_a_lifetime_drops_the_entry(
    protected: bool, rcode: int, left: int
) -> None:
    cache = Cache()
    cache.store(b"k", reply(100), 0)
    if protected:
        cache.find(b"k", 0)
    cache.store(b"k", replace(reply(0), rcode=rcode), 50)
    assert len(cache) == left
    assert bool(cache.octets) == bool(left)
    cache.check_books()


def test_the_memory_of_a_reply_is_counted_with_its_list_of_ttls() -> None:
    records, ttls, count = bytes(64_000), range(0, 64_000, 16), 20
    tracemalloc.start()
    try:
        cache = Cache()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            cache.store(
                b"%d" % number,
                Relayed(0, False, (4_000, 0), records + bytes((number,)), tuple(ttls), 100),
                0,
            )
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken < 1.1 * cache.octets


def test_a_newer_reply_replaces_the_older() -> None:
    cache = Cache()
    for size in (10, 500, 20):
        for asked in range(2):  # in probation, then protected
            cache.store(b"k", reply(size=size), asked)
            found = cache.find(b"k", asked)
            assert found is not None
            assert len(found[0].reply.records) == size
    assert len(cache) == 1
    kept = cache.peek(b"k")
    assert kept is not None
    assert cache.octets == kept.octets


def test_peeking_counts_nothing() -> None:
    cache = Cache()
    cache.store(b"k", reply(), 0)
    for _ in range(3):
        assert cache.peek(b"k") is not None
        assert cache.peek(b"other") is None
    assert (cache.misses, sum(cache.hits.values())) == (0, 0)


@pytest.mark.parametrize("bound", [{"max_entries": 100}, {"max_octets": 100 * 600}])
def test_entries_queried_once_do_not_evict_those_queried_often(
    bound: dict[str, int],
) -> None:
    cache = Cache(**bound)
    often = [b"often%d" % n for n in range(50)]
    for key in often:
        cache.store(key, reply(), 0)
        assert age(cache, key, 0) is Freshness.FRESH
    for number in range(5_000):
        cache.store(b"once%d" % number, reply(), 0)
    assert all(cache.peek(key) for key in often)
    assert cache.evictions >= 4_900
    assert len(cache) <= 100


@pytest.mark.slow
def test_its_bounds_hold_whatever_happens() -> None:
    rng = random.Random(7)
    cache = Cache(max_entries=50, max_octets=60_000)
    cache.repeats = lambda key: rng.randrange(3)
    for step in range(20_000):
        key = b"%d" % rng.randrange(120)
        if rng.random() < 0.5:
            lifetime, size = rng.randrange(3), rng.randrange(3_000)
            cache.store(key, reply(lifetime, size), step / 100, network=rng.choice(NETWORKS))
        else:
            cache.find(key, step / 100, rng.choice(NETWORKS))
        assert len(cache) <= 50
        assert cache.octets <= 60_000
        cache.check_books()
    assert cache.evictions
    cache.clear()
    assert (len(cache), cache.octets) == (0, 0)


NETWORKS = tuple(map(NetworkId, range(4)))
QUIET, GREEDY = NetworkId(7), NetworkId(8)


@pytest.mark.parametrize("bound", [{"max_entries": 1_000}, {"max_octets": 1_000 * 700}])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_network_evicts_its_own_entries_however_often_it_queries(
    bound: dict[str, int], times: int
) -> None:
    cache = Cache(**bound)
    others = [b"other%d" % n for n in range(200)]
    for key in others:
        cache.store(key, reply(), 0, network=QUIET)
    for number in range(10_000):
        for rotation in range(times):
            if not rotation:
                cache.store(b"%d" % number, reply(), 0, network=GREEDY)
            else:
                assert cache.find(b"%d" % number, 0, GREEDY) is not None
    cache.check_books()
    assert all(cache.peek(key) for key in others)
    assert len(cache) > 900  # all room is used


def test_among_many_networks_each_keeps_its_entries() -> None:
    cache = Cache(max_entries=1_000)
    for number in range(500):
        cache.store(b"%d" % number, reply(), 0, network=NetworkId(number))
    for number in range(20_000):
        cache.store(b"greedy%d" % number, reply(), 0, network=NetworkId(1_000 + number % 3))
    cache.check_books()
    assert all(cache.peek(b"%d" % number) for number in range(500))
    for number in range(5_000):  # more networks than there is room for
        cache.store(b"many%d" % number, reply(), 0, network=NetworkId(2_000 + number))
    cache.check_books()
    assert len(cache) == 1_000


def test_the_network_with_less_pays_for_an_entry_that_two_query() -> None:
    cache = Cache(max_entries=1_000)
    for number in range(900):
        cache.store(b"%d" % number, reply(), 0, network=GREEDY)
    shared = [b"%d" % number for number in range(100)]
    for key in shared:
        assert cache.find(key, 0, QUIET) is not None
        assert cache.find(key, 0, GREEDY) is not None
    for number in range(900, 10_000):
        cache.store(b"%d" % number, reply(), 0, network=GREEDY)
        cache.find(b"%d" % number, 0, GREEDY)
    cache.check_books()
    assert all(cache.peek(key) for key in shared)
    cache.store(shared[0], reply(size=9), 1, network=GREEDY)  # asked for again, by the other one
    kept = cache.peek(shared[0])
    assert kept is not None
    assert (kept.network, len(kept.reply.records)) == (QUIET, 9)


def test_an_entry_that_the_answer_table_repeats_is_in_use() -> None:
    cache, repeated = Cache(max_entries=100), Counter[bytes]()
    cache.repeats = repeated.__getitem__
    for number in range(100):
        cache.store(b"%d" % number, reply(), 0)
    often = [b"%d" % number for number in range(5)]
    for number in range(100, 2_000):
        repeated.update(often)
        cache.store(b"%d" % number, reply(), 0)
    assert all(cache.peek(key) for key in often)
    for number in range(2_000, 3_000):  # nobody asks for them any more
        cache.store(b"%d" % number, reply(), 0)
        cache.find(b"%d" % number, 0)
    assert not any(cache.peek(key) for key in often)


def test_an_entry_takes_no_more_than_it_is_charged() -> None:
    tracemalloc.start()
    try:
        cache = Cache()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(5_000):
            key = b"\7example%d" % number
            cache.store(
                key, reply(size=40 + number % 9), float(number), network=NETWORKS[number % 4]
            )
            cache.find(key, float(number), NETWORKS[number % 4])
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.5 * cache.octets < taken < cache.octets


def test_a_failure_is_cached_for_two_seconds_and_an_answer_ends_it() -> None:
    cache, why = Cache(), (Ede.NETWORK_ERROR, "why")
    cache.store_failure(b"k", why, 10)
    assert [
        cache.failure(b"k", now) for now in (10, 10 + TIMES.failure - 0.01, 10 + TIMES.failure)
    ] == [
        why,
        why,
        None,
    ]
    cache.store_failure(b"k", why, 20)
    cache.store(b"k", reply(), 20)
    assert cache.failure(b"k", 20) is None


def test_failures_are_bounded_too() -> None:
    cache = Cache()
    for number in range(MAX_FAILED + 10):
        cache.store_failure(b"%d" % number, (Ede.OTHER, ""), 0)
    cache.check_books()
    assert cache.failure(b"0", 0) is None
