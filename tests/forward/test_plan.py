"""Which upstream is queried when, in virtual time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.forward.plan import PACKETS, TRIES, Ask, GiveUp, Plan, Wait
from internal_dns.forward.times import TIMES


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


def test_an_upstream_that_says_no_is_ruled_out_and_the_next_is_queried_at_once() -> None:
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


def test_while_all_upstreams_are_down_patience_is_shorter() -> None:
    assert played(Plan((0,), 0, patience=2.0))[-1] == (2.0, -1)


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
    assert end <= TIMES.patience
    assert all(upstream < upstreams for _, upstream in asked)


def test_the_times_keep_the_promise_of_four_and_a_half_seconds() -> None:
    assert TIMES.patience < 4.5
    assert TIMES.hedge < TIMES.retry
    assert TRIES * TIMES.retry < TIMES.patience
