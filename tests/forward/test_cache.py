"""What is kept of upstreams' replies, for how long, and what has to go."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace

import pytest

from internal_dns.core.relayed import Relayed
from internal_dns.core.wire import Ede
from internal_dns.forward.cache import FAILED, MAX_FAILED, MAX_STALE, PROTECTED, Age, Cache


def reply(lifetime: int = 100, size: int = 50) -> Relayed:
    return Relayed(0, False, (1, 0), bytes(size), (), lifetime)


def age(cache: Cache, key: bytes, now: float) -> Age | None:
    found = cache.find(key, now)
    return found[1] if found else None


def test_a_reply_is_fresh_then_due_once_then_stale_then_gone() -> None:
    cache = Cache()
    cache.keep(b"k", reply(100), 1_000)
    ages = [
        age(cache, b"k", 1_000 + at)
        for at in (0, 89.9, 90, 90, 99.9, 100, 100 + MAX_STALE - 1, 100 + MAX_STALE)
    ]
    assert ages == [Age.FRESH, Age.FRESH, Age.DUE, Age.FRESH, Age.FRESH, Age.STALE, Age.STALE, None]
    assert (cache.hits[Age.FRESH], cache.hits[Age.DUE], cache.hits[Age.STALE], cache.misses) == (
        4,
        1,
        2,
        1,
    )


def test_a_reply_without_a_lifetime_is_not_kept() -> None:
    cache = Cache()
    cache.keep(b"k", reply(0), 0)
    assert (len(cache), cache.octets, cache.find(b"k", 0)) == (0, 0, None)


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize(("rcode", "left"), [(0, 0), (3, 0), (9, 1)])
def test_what_a_newer_reply_without_a_lifetime_contradicts_is_forgotten(
    protected: bool, rcode: int, left: int
) -> None:
    cache = Cache()
    cache.keep(b"k", reply(100), 0)
    if protected:
        cache.find(b"k", 0)
    cache.keep(b"k", replace(reply(0), rcode=rcode), 50)
    assert len(cache) == left
    assert bool(cache.octets) == bool(left)
    assert bool(cache._protected_octets) == (protected and bool(left))


def test_what_a_reply_takes_is_counted_its_list_of_ttls_included() -> None:
    records, ttls, count = bytes(64_000), range(0, 64_000, 16), 20
    tracemalloc.start()
    try:
        cache = Cache()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            cache.keep(
                b"%d" % number,
                Relayed(0, False, (4_000, 0), records + bytes((number,)), tuple(ttls), 100),
                0,
            )
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken < 1.1 * cache.octets


def test_a_newer_reply_takes_the_place_of_the_older() -> None:
    cache = Cache()
    for size in (10, 500, 20):
        for asked in range(2):  # in probation, then protected
            cache.keep(b"k", reply(size=size), asked)
            found = cache.find(b"k", asked)
            assert found is not None
            assert len(found[0].reply.records) == size
    assert len(cache) == 1
    kept = cache.peek(b"k")
    assert kept is not None
    assert cache.octets == kept.octets


def test_looking_leaves_no_trace() -> None:
    cache = Cache()
    cache.keep(b"k", reply(), 0)
    for _ in range(3):
        assert cache.peek(b"k") is not None
        assert cache.peek(b"other") is None
    assert (cache.misses, sum(cache.hits.values())) == (0, 0)


@pytest.mark.parametrize("bound", [{"max_entries": 100}, {"max_octets": 100 * 600}])
def test_what_is_asked_for_once_does_not_push_out_what_is_asked_for_often(
    bound: dict[str, int],
) -> None:
    cache = Cache(**bound)
    often = [b"often%d" % n for n in range(50)]
    for key in often:
        cache.keep(key, reply(), 0)
        assert age(cache, key, 0) is Age.FRESH
    for number in range(5_000):
        cache.keep(b"once%d" % number, reply(), 0)
    assert all(cache.peek(key) for key in often)
    assert cache.evictions >= 4_900
    assert len(cache) <= 100


def test_its_bounds_hold_whatever_is_done() -> None:
    rng = random.Random(7)
    cache = Cache(max_entries=50, max_octets=60_000)
    for step in range(20_000):
        key = b"%d" % rng.randrange(120)
        if rng.random() < 0.5:
            cache.keep(key, reply(rng.randrange(3), rng.randrange(3_000)), step / 100)
        else:
            cache.find(key, step / 100)
        assert len(cache) <= 50
        assert cache.octets <= 60_000
        parts = [
            sum(kept.octets for kept in part.values())
            for part in (cache._probation, cache._protected)
        ]
        assert [cache.octets, cache._protected_octets] == [sum(parts), parts[1]]
        assert len(cache._protected) <= PROTECTED * 50
    assert cache.evictions
    cache.clear()
    assert (len(cache), cache.octets) == (0, 0)


def test_a_failure_is_remembered_two_seconds_and_an_answer_ends_it() -> None:
    cache, why = Cache(), (Ede.NETWORK_ERROR, "why")
    cache.failed(b"k", why, 10)
    assert [cache.failure(b"k", now) for now in (10, 10 + FAILED - 0.01, 10 + FAILED)] == [
        why,
        why,
        None,
    ]
    cache.failed(b"k", why, 20)
    cache.keep(b"k", reply(), 20)
    assert cache.failure(b"k", 20) is None


def test_failures_are_bounded_too() -> None:
    cache = Cache()
    for number in range(MAX_FAILED + 10):
        cache.failed(b"%d" % number, (Ede.OTHER, ""), 0)
    assert len(cache._failed) == MAX_FAILED
    assert cache.failure(b"0", 0) is None
