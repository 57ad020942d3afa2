"""Who is heard while the server is busy, in virtual time."""

from __future__ import annotations

from random import Random

import pytest

from internal_dns.transport.shares import BURST, SLICE, Shares


def played(
    seconds: float, rates: dict[bytes, float], cost: float = 0.0001, seed: int = 1
) -> dict[bytes, float]:
    """Let networks ask at *rates* a second, each question costing *cost*: which part of each one's
    was heard."""
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


@pytest.mark.slow
def test_a_flood_leaves_its_neighbours_alone() -> None:
    heard = played(10, {b"flood": 20_000, b"one": 200, b"two": 500})
    assert heard[b"one"] == heard[b"two"] == 1
    assert heard[b"flood"] < 0.4


@pytest.mark.parametrize("count", [2, 10])
def test_networks_that_ask_alike_are_all_heard_whatever_they_ask(count: int) -> None:
    heard = played(3, {b"%d" % n: 8_000 / count for n in range(count)})
    assert min(heard.values()) == 1


def test_while_there_is_time_nobody_is_held_back() -> None:
    assert played(3, {b"busy": 2_000, b"quiet": 10}) == {b"busy": 1, b"quiet": 1}


def test_a_burst_is_no_flood() -> None:
    """A fleet that starts asks two thousand new names at once, beside a network that goes on
    asking."""
    shares, now = Shares(), 0.0
    for number in range(2_500):
        now += 0.0001
        assert shares.may(b"starts", now)
        shares.spend(b"starts", 0.0001)
        if number % 10 == 0:
            assert shares.may(b"goes on", now)
            shares.spend(b"goes on", 0.0001)


def test_a_debt_is_paid_back_by_silence_and_forgotten() -> None:
    shares, now = Shares(), 0.0
    for _ in range(1_000):
        now += SLICE / 10
        for network in (b"flood", b"other"):
            shares.may(network, now)
            shares.spend(network, 0.004 if network == b"flood" else 0.0001)
    assert shares.debts == {b"flood": 2 * BURST}
    shares.may(b"other", now + 0.5)
    assert 0 < shares.debts[b"flood"] < 2 * BURST
    shares.may(b"other", now + 5)
    assert shares.debts == {}
