"""Whether an upstream is there, and which goes first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from internal_dns.forward.health import PROBES_DOWN, SUSPECT, Health, preferred
from internal_dns.forward.times import TIMES


def name(number: int) -> bytes:
    return b"n%d" % number


def test_one_name_however_often_it_fails_starts_no_probe() -> None:
    health = Health()
    for _ in range(1_000):
        health.silent(b"dead", 0)
    assert [health.up, health.probing, health.success_ratio] == [True, False, 0.0]


def test_many_names_in_a_row_start_a_probe_and_only_probes_decide() -> None:
    health = Health()
    for number in range(SUSPECT):
        assert not health.probing
        health.silent(name(number), 1)
    assert [health.up, health.probing, health.probe_at] == [True, True, 1]
    for number in range(1_000):
        health.silent(name(number), 2)
    waits = []
    for _ in range(6):
        health.probe_missed(10)
        waits.append(health.probe_at - 10)
    assert not health.up
    assert waits == [0.5, 1, 2, 5, 5, 5]
    health.probe_answered()
    assert [health.up, health.probing, health.missed] == [True, False, 0]


@pytest.mark.parametrize("sign", [lambda h: h.answered(b"x", 0.01), lambda h: h.refused(b"x")])
def test_any_reply_between_shows_that_it_is_there(sign: Callable[[Health], None]) -> None:
    health = Health()
    for number in range(100):
        health.silent(name(number), 0)
        if number % (SUSPECT - 1) == 0:
            sign(health)
    assert not health.probing
    for number in range(SUSPECT):
        health.silent(name(number), 0)
    for _ in range(PROBES_DOWN):
        health.probe_missed(0)
    assert not health.up
    sign(health)
    assert health.up


def test_the_success_ratio_counts_each_of_the_latest_names_once() -> None:
    health = Health()
    assert health.success_ratio == 1
    for number in range(200):
        health.answered(name(number), 0.01)
    assert health.success_ratio == 1
    for _ in range(10):
        for number in range(16):
            health.silent(name(1_000 + number), 0)
    assert health.success_ratio == 0.75
    for number in range(16):
        health.answered(name(1_000 + number), 0.01)
    assert health.success_ratio == 1


def test_latency_is_smoothed() -> None:
    health = Health()
    health.answered(b"a", 0.08)
    assert health.latency == 0.08
    health.answered(b"b", 0.16)
    assert health.latency == pytest.approx(0.09)


def test_the_order_is_as_configured_but_for_the_silent_and_the_down() -> None:
    health = [Health() for _ in range(4)]
    assert list(preferred(health, 0)) == [0, 1, 2, 3]
    health[0].silent(b"x", 0)
    assert list(preferred(health, 0)) == [1, 2, 3, 0]
    assert list(preferred(health, TIMES.avoid)) == [0, 1, 2, 3]
    health[1].up = False
    assert list(preferred(health, 0)) == [2, 3, 0, 1]
