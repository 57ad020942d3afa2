"""The fair queue: laws in virtual time, for any mix of costs."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.metrics import Metrics
from internal_dns.transport import fairness
from internal_dns.transport.fairness import MEMORY, OURSELVES, OVERHEAD, PART, QUANTUM, FairQueue
from internal_dns.transport.schedule import AT_ONCE, REPEATED_AT_ONCE, Scheduler
from tests.books import check_books
from tests.laws import examples

LITTLE, BUSY = b"little", [b"net%d" % number for number in range(5)]
# From a repeated answer to a list that takes 50 ms.
COSTS = st.floats(0.000005, 0.05)


def work(queue: FairQueue[int], costs: dict[bytes, list[float]], seconds: float) -> Counter[bytes]:
    """Keep every line filled for so many seconds of work; return how much of it each payer had."""
    spent: Counter[bytes] = Counter()
    turn = dict.fromkeys(costs, 0)
    for payer in costs:
        queue.put(payer, 0)
        queue.put(payer, 0)
    while sum(spent.values()) < seconds:
        taken = queue.take()
        assert taken is not None
        payer = taken[0]
        cost = costs[payer][turn[payer] % len(costs[payer])]
        turn[payer] += 1
        queue.put(payer, 0)
        spent[payer] += cost  # type: ignore[assignment]
        queue.spend(payer, cost)
    return spent


@examples(60)
@given(st.lists(st.lists(COSTS, min_size=1, max_size=4), min_size=1, max_size=5))
@pytest.mark.slow
def test_each_busy_network_has_nine_tenths_of_its_part(mixes: list[list[float]]) -> None:
    costs = dict(zip(BUSY, mixes, strict=False))
    # Long enough for what one piece may go beyond a quantum not to matter.
    longest = max(map(max, mixes))
    seconds = 40 * len(costs) * (longest + QUANTUM)
    spent = work(FairQueue(), costs, seconds)
    for payer in costs:
        assert spent[payer] >= 0.9 / len(costs) * seconds - longest


@examples(100)
@given(
    st.lists(st.lists(COSTS, min_size=1, max_size=4), min_size=1, max_size=5),
    st.floats(0.00001, QUANTUM),
    st.floats(0.01, 0.5),
)
@pytest.mark.slow
def test_a_network_that_asks_little_waits_for_a_round_and_the_longest_piece_at_most(
    mixes: list[list[float]], cost: float, warm: float
) -> None:
    queue: FairQueue[int] = FairQueue()
    costs = dict(zip(BUSY, mixes, strict=False))
    longest = max(map(max, mixes))
    # All of them have had a piece, so that they are known to be busy.
    work(queue, costs, warm + len(costs) * (longest + QUANTUM))
    # It comes while a piece is being worked on, at that piece's very beginning.
    for _ in range(5):
        taken = queue.take()
        assert taken is not None
        queue.put(LITTLE, 1)
        busy, waited = taken[0], 0.0
        while busy != LITTLE:
            queue.put(busy, 0)
            waited += costs[busy][0]
            queue.spend(busy, costs[busy][0])
            taken = queue.take()
            assert taken is not None
            busy = taken[0]
        assert waited <= QUANTUM * len(costs) + longest
        queue.spend(LITTLE, cost)
        # Its part of the time goes by before it asks again.
        work(queue, costs, (len(costs) + 1) * (longest + QUANTUM))


@examples(100)
@given(st.lists(st.tuples(st.sampled_from(BUSY), COSTS), max_size=200), st.randoms())
def test_nothing_is_lost_and_each_payers_order_is_kept(
    pieces: list[tuple[bytes, float]], random: object
) -> None:
    queue: FairQueue[int] = FairQueue()
    numbers, cost_of = count(), {}
    waiting: dict[bytes, list[int]] = {payer: [] for payer in BUSY}
    for payer, cost in pieces:
        number = next(numbers)
        cost_of[number] = cost
        assert queue.put(payer, number) == []
        waiting[payer].append(number)
        if random.random() < 0.4:  # type: ignore[attr-defined]
            _take_one(queue, waiting, cost_of)
    while queue:
        _take_one(queue, waiting, cost_of)
    assert not any(waiting.values())
    assert queue.take() is None
    assert queue.octets == 0


def _take_one(
    queue: FairQueue[int], waiting: dict[bytes, list[int]], cost_of: dict[int, float]
) -> None:
    taken = queue.take()
    assert taken is not None  # work-conserving: whatever is owed
    payer, number = taken
    assert waiting[payer].pop(0) == number
    queue.spend(payer, cost_of[number])
    check_books(queue)


def test_alone_a_network_has_all_the_time_and_any_number_waits() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(10_000):
        assert queue.put(b"alone", number) == []
    for number in range(10_000):
        assert queue.take() == (b"alone", number)
        queue.spend(b"alone", 0.03)
    # Rounds went by for it alone: what it has used so is not owed to one who comes later.
    queue.put(b"alone", 1)
    queue.put(b"other", 2)
    assert queue.take() is not None
    assert queue.balance(b"alone") > -0.03 - QUANTUM


def test_a_part_bounds_a_line_only_while_others_wait() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(PART + 100):
        assert queue.put(b"busy", number) == []
    assert queue.put(b"other", 0) == []
    assert queue.put(b"busy", 0) is None
    assert queue.put(b"busy", 0, must=True) == []
    assert len(queue) == PART + 102


def test_a_burst_of_150_ms_is_kept() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put(b"other", 0)
    for number in range(int(0.15 / 0.00003)):  # names of ours, 30 µs each
        assert queue.put(b"starts", number) == []


def test_past_the_memory_the_longest_line_loses_its_latest() -> None:
    queue: FairQueue[str] = FairQueue(memory=10 * OVERHEAD)
    for number in range(7):
        assert queue.put(b"long", f"l{number}") == []
    for number in range(3):
        assert queue.put(b"short", f"s{number}") == []
    assert queue.put(b"long", "l7") is None
    assert queue.put(b"short", "s3") == ["l6"]
    assert queue.put(b"new", "n0") == ["l5"]
    check_books(queue)
    assert queue.octets == 10 * OVERHEAD
    order = []
    while (taken := queue.take()) is not None:
        order.append(taken[1])
        queue.spend(taken[0], 0.0001)
    assert sorted(order) == sorted(
        [f"l{n}" for n in range(5)] + [f"s{n}" for n in range(4)] + ["n0"]
    )


def test_what_must_wait_is_never_dropped_for_room() -> None:
    queue: FairQueue[str] = FairQueue(memory=3 * OVERHEAD)
    for number in range(5):
        assert queue.put(b"tcp", f"t{number}", must=True) == []
    assert queue.put(b"udp", "u0") is None
    assert len(queue) == 5


def test_credit_never_exceeds_one_quantum() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.rest(1_000.0)
    assert queue.balance(b"any") == QUANTUM
    queue.spend(b"any", QUANTUM / 2)
    queue.rest(1_000.0)
    assert queue.balance(b"any") == QUANTUM
    work(queue, {b"other": [0.01]}, 10.0)
    assert queue.balance(b"any") == QUANTUM


def test_a_debt_falls_with_idle_time_and_is_not_forgotten_before() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put(b"heavy", 0)
    queue.take()
    queue.spend(b"heavy", 0.5)
    assert queue.balance(b"heavy") == pytest.approx(QUANTUM - 0.5)
    queue.rest(0.3)
    assert queue.balance(b"heavy") == pytest.approx(QUANTUM - 0.2)
    queue.put(b"heavy", 1)
    for number in range(20):  # a neighbour's 20 ms go first
        queue.put(b"light", number)
    order = []
    while (taken := queue.take()) is not None:
        order.append(taken[0])
        queue.spend(taken[0], 0.001)
    assert order == [b"light"] * 20 + [b"heavy"]


def test_ten_thousand_payers_without_debt_leave_no_accounts() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(10_000):
        payer = number.to_bytes(4, "big")
        queue.put(payer, number)
        assert queue.take() == (payer, number)
        queue.spend(payer, 0.00005)
        queue.rest(0.001)
    assert queue.accounts <= fairness.FORGET_FROM


def test_our_own_questions_have_credit_whatever_waits() -> None:
    queue: FairQueue[int] = FairQueue()
    work(queue, {payer: [0.02] for payer in BUSY}, 1.0)
    for _ in range(50):
        queue.put(OURSELVES, 7)
        assert queue.take() == (OURSELVES, 7)
        queue.spend(OURSELVES, 0.01)


def test_more_waits_than_memory_never() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(200_000):
        queue.put(number.to_bytes(4, "big"), number, 60)
    assert queue.octets <= MEMORY


# ── slices ────────────────────────────────────────────────────────────────────────────────────────


class Virtual:
    """A CPU clock, a wall clock and an event loop of our own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: list[object] = []
        self.metrics = Metrics()
        self.done: list[object] = []
        self.scheduler = Scheduler(
            self.metrics, cpu=lambda: self.now, clock=lambda: self.now, loop=lambda: self
        )

    def call_soon(self, callback: object) -> None:
        self.soon.append(callback)

    def work(self, what: object, cost: float) -> None:
        self.now += cost
        self.done.append(what)

    def free(self) -> bool:
        return self.scheduler.free

    def turn(self) -> float:
        """Run what was to be called soon; return how long that took."""
        begin, soon, self.soon = self.now, self.soon, []
        for callback in soon:
            callback()  # type: ignore[operator]
        return self.now - begin


def test_the_loop_is_left_after_two_milliseconds_and_entered_again() -> None:
    virtual = Virtual()
    for number in range(1_000):
        virtual.scheduler.put(b"busy", virtual.work, number, 0.0001)
    assert len(virtual.soon) == 1
    turns = 0
    while virtual.soon:
        assert virtual.turn() <= 0.002
        turns += 1
    assert virtual.done == list(range(1_000))
    assert turns >= 1_000 * 0.0001 / 0.002
    assert sum(virtual.metrics.slices.counts) == turns
    assert virtual.metrics.long_slices == 0


def test_a_piece_that_is_long_is_the_last_of_its_slice_and_counted() -> None:
    virtual = Virtual()
    virtual.scheduler.put(b"a", virtual.work, "long", 0.046)
    virtual.scheduler.put(b"b", virtual.work, "short", 0.0001)
    assert virtual.turn() == pytest.approx(0.046)
    assert virtual.done == ["long"]
    virtual.turn()
    assert virtual.done == ["long", "short"]
    assert virtual.metrics.long_slices == 1
    assert virtual.metrics.longest_slice == pytest.approx(0.046)
    assert not virtual.scheduler.busy


def test_a_neighbour_is_next_after_the_piece_at_work() -> None:
    virtual = Virtual()
    for number in range(1_000):
        virtual.scheduler.must(b"attacker", virtual.work, number, 0.04)
    virtual.turn()
    virtual.scheduler.put(b"victim", virtual.work, "victim", 0.00005)
    virtual.turn()
    assert virtual.done.index("victim") <= 2


def test_what_is_late_is_dropped_and_counted() -> None:
    virtual = Virtual()
    virtual.scheduler.put(b"a", virtual.work, "first", 5.0, until=4.0)
    virtual.scheduler.put(b"a", virtual.work, "second", 0.1, until=4.0)
    while virtual.soon:
        virtual.turn()
    assert virtual.done == ["first"]
    assert virtual.metrics.drops == {"late": 1}


def test_work_for_several_is_done_once_and_paid_by_the_first_whose_turn_comes() -> None:
    virtual = Virtual()
    queue = virtual.scheduler.queue
    queue.put(b"debtor", (lambda: None, (), 9.0))
    queue.take()
    queue.spend(b"debtor", 0.5)
    virtual.scheduler.must(b"debtor", virtual.work, "own", 0.001)
    virtual.scheduler.must(b"other", virtual.work, "other", 0.0001)
    virtual.scheduler.must_for_any([b"debtor", b"other"], virtual.work, "check", 0.02)
    virtual.turn()
    assert virtual.done == ["other", "check"]
    assert queue.balance(b"other") == pytest.approx(QUANTUM - 0.0201)
    while virtual.soon:
        virtual.turn()
    assert virtual.done == ["other", "check", "own"]


def test_a_fault_in_one_piece_does_not_end_the_others() -> None:
    virtual = Virtual()
    virtual.scheduler.put(b"a", lambda: 1 / 0)
    virtual.scheduler.put(b"b", virtual.work, "after", 0.0001)
    with pytest.raises(ZeroDivisionError):
        virtual.turn()
    virtual.turn()
    assert virtual.done == ["after"]
    assert not virtual.scheduler.busy


def test_idle_time_between_slices_pays_debts() -> None:
    virtual = Virtual()
    virtual.scheduler.put(b"a", virtual.work, 1, 0.5)
    virtual.turn()
    virtual.now += 0.2
    virtual.scheduler.put(b"b", virtual.work, 2, 0.0)
    assert virtual.scheduler.queue.balance(b"a") == pytest.approx(QUANTUM - 0.3)


def test_tcp_may_repeat_at_once_for_a_while_in_each_turn_and_never_before_what_waits() -> None:
    virtual = Virtual()
    for _ in range(4):
        assert virtual.free()
        virtual.now += REPEATED_AT_ONCE / 4
        virtual.scheduler.did_at_once(REPEATED_AT_ONCE / 4)
    assert not virtual.free()
    assert len(virtual.soon) == 1
    virtual.turn()
    assert virtual.free()
    virtual.scheduler.put(b"a", virtual.work, 1, 0.0)
    assert not virtual.free()


def test_time_in_which_others_had_the_processor_does_not_make_a_turn_long() -> None:
    virtual = Virtual()
    for _ in range(20):
        virtual.now += 0.0001
        virtual.scheduler.did_at_once(10 * REPEATED_AT_ONCE)
        assert virtual.free()
        assert not virtual.soon or virtual.now >= AT_ONCE
    virtual.now += REPEATED_AT_ONCE
    virtual.scheduler.did_at_once(10 * REPEATED_AT_ONCE)
    assert not virtual.free()
    virtual.turn()
    virtual.now += 0.0001
    virtual.scheduler.did_at_once(10 * REPEATED_AT_ONCE)  # a turn of its own
    assert virtual.free()
    assert not virtual.soon


def test_a_payer_with_credit_is_served_at_once_only_while_nothing_waits() -> None:
    virtual = Virtual()
    scheduler = virtual.scheduler
    assert scheduler.try_now(b"a", virtual.work, "costly", QUANTUM + 0.0004)
    assert scheduler.queue.balance(b"a") == pytest.approx(-0.0004)
    assert not scheduler.try_now(b"a", virtual.work, "again", 0.0)  # its debt waits
    assert scheduler.try_now(b"b", virtual.work, "other", 0.0001)
    scheduler.put(b"c", virtual.work, "waits", 0.0)
    assert not scheduler.try_now(b"b", virtual.work, "other", 0.0)  # somebody waits
    while virtual.soon:
        virtual.turn()
    virtual.now += 0.0005  # idle time pays
    assert scheduler.try_now(b"a", virtual.work, "again", 0.0)
    assert virtual.done == ["costly", "other", "waits", "again"]


def test_work_done_at_once_in_one_turn_of_the_loop_is_bounded() -> None:
    virtual, payer = Virtual(), 0
    while virtual.scheduler.try_now(payer.to_bytes(4, "big"), virtual.work, payer, QUANTUM):
        payer += 1
    assert AT_ONCE <= virtual.now <= AT_ONCE + QUANTUM
    virtual.turn()
    assert virtual.scheduler.try_now(b"next", virtual.work, "next", QUANTUM)


def test_work_done_at_once_is_in_the_histogram_of_slices() -> None:
    virtual = Virtual()
    assert virtual.scheduler.try_now(b"a", virtual.work, "costly", 0.03)
    assert sum(virtual.metrics.slices.counts) == 1
    assert virtual.metrics.longest_slice == pytest.approx(0.03)


def test_a_fault_in_work_done_at_once_is_paid_for_too() -> None:
    virtual = Virtual()

    def fail() -> None:
        virtual.now += 0.3
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        virtual.scheduler.try_now(b"a", fail)
    assert virtual.scheduler.queue.balance(b"a") == pytest.approx(QUANTUM - 0.3)


@examples(60)
@given(st.lists(st.lists(COSTS, min_size=1, max_size=4), min_size=2, max_size=5))
@pytest.mark.slow
def test_busy_networks_share_the_time_when_work_may_be_done_at_once(
    mixes: list[list[float]],
) -> None:
    """Every client sends its next message when the one before was answered."""
    virtual, spent = Virtual(), dict.fromkeys(BUSY[: len(mixes)], 0.0)
    costs = dict(zip(spent, mixes, strict=True))
    turn = dict.fromkeys(spent, 0)
    longest = max(map(max, mixes))
    seconds = 40 * len(costs) * (longest + QUANTUM)
    # As many clients as need more than a quantum together.
    answered = [payer for payer in spent for _ in range(2 + int(2 * QUANTUM / min(costs[payer])))]

    def serve(payer: bytes) -> None:
        cost = costs[payer][turn[payer] % len(costs[payer])]
        turn[payer] += 1
        virtual.now += cost
        spent[payer] += cost
        answered.append(payer)

    while virtual.now < seconds:
        asking, answered[:] = list(answered), []
        for payer in asking:
            if not virtual.scheduler.try_now(payer, serve, payer):
                virtual.scheduler.put(payer, serve, payer)
        virtual.turn()
    for payer in spent:
        assert spent[payer] >= 0.9 / len(costs) * seconds - 2 * longest
