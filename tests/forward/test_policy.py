"""Whom to ask when, in virtual time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.forward.policy import (
    AVOID,
    HEDGE,
    PACKETS,
    PATIENCE,
    PROBES_DOWN,
    SUSPECT,
    TRIES,
    TRY_TIMEOUT,
    Ask,
    GiveUp,
    Health,
    Plan,
    Wait,
    preferred,
)


def played(
    plan: Plan, events: dict[float, Callable[[Plan], object]] | None = None
) -> list[tuple[float, int]]:
    """Run *plan* from 0 s to its end: who was asked when. *events* happen at their time."""
    events, now, asked = dict(sorted((events or {}).items())), 0.0, []
    while True:
        match plan.step(now):
            case Ask(upstream):
                asked.append((round(now, 3), upstream))
            case Wait(until):
                assert until > now
                if events and min(events) <= until:
                    now = min(events)
                    events.pop(now)(plan)
                else:
                    now = until
            case GiveUp():
                return [*asked, (round(now, 3), -1)]


def no(upstream: int, *, reached: bool = True) -> Callable[[Plan], object]:
    return lambda plan: plan.rule_out(upstream, reached=reached)


@pytest.mark.parametrize(
    ("upstreams", "expected"),
    [
        (1, [(0, 0), (1.2, 0), (2.4, 0), (4.4, -1)]),
        (2, [(0, 0), (0.4, 1), (1.2, 0), (4.4, -1)]),
        (3, [(0, 0), (0.4, 1), (0.8, 2), (4.4, -1)]),
        (5, [(0, 0), (0.4, 1), (0.8, 2), (4.4, -1)]),
    ],
)
def test_silence(upstreams: int, expected: list[tuple[float, int]]) -> None:
    assert played(Plan(range(upstreams), 0)) == expected


def test_who_says_no_is_not_asked_again_and_the_next_is_asked_at_once() -> None:
    assert played(Plan((0, 1), 0), {0.1: no(0)}) == [(0, 0), (0.1, 1), (1.3, 1), (4.4, -1)]
    assert played(Plan((0, 1), 0), {0.1: no(0), 0.2: no(1)}) == [(0, 0), (0.1, 1), (0.2, -1)]
    assert played(Plan((0,), 0), {0.1: no(0)}) == [(0, 0), (0.1, -1)]


@pytest.mark.parametrize("reached", [False, True])
def test_giving_up_says_whether_anybody_was_reached(reached: bool) -> None:
    plan = Plan((0,), 0)
    assert plan.step(0) == Ask(0)
    plan.rule_out(0, reached=reached)
    assert plan.step(0.1) == GiveUp(reached)


def test_tcp_counts_as_a_packet() -> None:
    plan = Plan((0, 1, 2), 0)
    assert plan.step(0) == Ask(0)
    assert [plan.may_send() for _ in range(4)] == [True, True, True, False]
    assert isinstance(plan.step(1), Wait)


def test_while_all_are_down_patience_is_shorter() -> None:
    assert played(Plan((0,), 0, 2.0))[-1] == (2.0, -1)


@given(
    st.integers(1, 6),
    st.dictionaries(
        st.floats(0.001, 5, allow_nan=False),
        st.one_of(
            st.integers(0, 5).map(no),
            st.just(lambda plan: plan.may_send()),
            st.integers(0, 5).map(lambda n: no(n, reached=False)),
        ),
        max_size=12,
    ),
)
def test_whatever_happens_a_question_costs_little_and_ends_in_time(
    upstreams: int, events: dict[float, Callable[[Plan], object]]
) -> None:
    plan = Plan(range(upstreams), 0)
    *asked, (end, _) = played(plan, events)
    assert len(asked) <= TRIES
    assert plan.packets <= PACKETS
    assert end <= PATIENCE
    assert all(upstream < upstreams for _, upstream in asked)


def test_the_times_keep_the_promise_of_four_and_a_half_seconds() -> None:
    assert PATIENCE < 4.5
    assert HEDGE < TRY_TIMEOUT
    assert TRIES * TRY_TIMEOUT < PATIENCE


# ── health ────────────────────────────────────────────────────────────────────────────────────────


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
    assert preferred(health, 0) == (0, 1, 2, 3)
    health[0].silent(b"x", 0)
    assert preferred(health, 0) == (1, 2, 3, 0)
    assert preferred(health, AVOID) == (0, 1, 2, 3)
    health[1].up = False
    assert preferred(health, 0) == (2, 3, 0, 1)
