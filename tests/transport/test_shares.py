"""Who is heard while the server is busy, in virtual time."""

from __future__ import annotations

from random import Random

import pytest

from internal_dns.transport.shares import BUSY, SLICE, Shares


def played(seconds: float, rates: dict[bytes, float], cost: float = 0.0001, seed: int = 1) -> dict[bytes, float]:
    """Let networks ask at *rates* a second, each question costing *cost*: which part of each one's was heard."""
    rng, shares, now = Random(seed), Shares(), 0.0
    asked, heard = dict.fromkeys(rates, 0), dict.fromkeys(rates, 0)
    networks, weights = list(rates), list(rates.values())
    while now < seconds:
        now += rng.expovariate(sum(weights))
        (network,) = rng.choices(networks, weights)
        asked[network] += 1
        if shares.may(network, now):
            heard[network] += 1
            shares.spend(network, cost)
    return {network: heard[network] / asked[network] for network in rates}


def test_a_network_alone_is_always_heard() -> None:
    assert played(1, {b"a": 20_000}) == {b"a": 1}


def test_a_flood_leaves_its_neighbours_alone() -> None:
    heard = played(5, {b"flood": 20_000, b"one": 200, b"two": 500})
    assert heard[b"one"] == heard[b"two"] == 1
    assert heard[b"flood"] < 0.5


@pytest.mark.parametrize("count", [2, 10])
def test_networks_that_ask_alike_are_all_heard_whatever_they_ask(count: int) -> None:
    heard = played(2, {b"%d" % n: 8_000 / count for n in range(count)})
    assert min(heard.values()) > 0.93


def test_while_there_is_time_nobody_is_held_back() -> None:
    heard = played(2, {b"busy": 1_500, b"quiet": 10})
    assert heard == {b"busy": 1, b"quiet": 1}
    assert BUSY > 3_000 * 0.0001


def test_who_asked_a_moment_ago_is_still_counted() -> None:
    """The neighbour's next question may come in this slice: the flood must not have filled it by then."""
    shares = Shares()
    assert shares.may(b"quiet", 0)
    shares.spend(b"quiet", 0.0001)
    now = SLICE
    assert shares.may(b"flood", now)
    shares.spend(b"flood", SLICE)
    assert not shares.may(b"flood", now)
    assert shares.may(b"quiet", now)
    now += SLICE
    assert shares.may(b"flood", now)
