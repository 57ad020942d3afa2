"""The replication logic, without a bucket, a file or a clock."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.replicate.codec import FLOOR, write_floor
from internal_dns.replicate.logic import (
    RETRY_MAX,
    RETRY_MIN,
    SILENCE_TIMEOUT,
    Facts,
    FullResync,
    Lag,
    Message,
    NotPublished,
    Position,
    Replay,
    Resume,
    backoff,
    choose_start,
    make_batch,
)
from internal_dns.store.rows import Values
from tests.replicate.values import machine, network

FACTS = Facts("first", last=100, keys=50, floor=10)


def values() -> Values:
    return Values(CatalogRules(hidden=()))


@pytest.mark.parametrize(
    ("position", "facts", "decided", "why"),
    [
        (Position("first", 40), FACTS, Resume, ""),
        (Position("first", 100), FACTS, Resume, ""),
        (Position("first", 10), FACTS, Resume, ""),
        (Position("first", 9), FACTS, FullResync, "deletes up to 10 may be purged"),
        (Position("first", 101), FACTS, FullResync, "restored"),
        (Position("second", 40), FACTS, FullResync, "recreated"),
        (None, FACTS, FullResync, "not followed"),
        (None, Facts("first", 100, 50, None), NotPublished, "no floor key"),
        (Position("first", 40), Facts("second", 3, 3, None), NotPublished, "no floor key"),
    ],
)
def test_a_follower_starts_where_position_and_bucket_allow(
    position: Position | None, facts: Facts, decided: type, why: str
) -> None:
    found = choose_start(position, facts)
    assert isinstance(found, decided)
    assert why in getattr(found, "why", "")


def test_a_follower_resumes_after_its_position_and_replays_to_the_end_of_the_bucket() -> None:
    assert choose_start(Position("first", 40), FACTS) == Resume(40, bound=100)


def test_the_last_message_of_a_key_wins_in_any_order() -> None:
    key, started = machine("a")
    stopped = machine("a", state="stopped")[1]
    for order in ([(5, started), (6, stopped)], [(6, stopped), (5, started)]):
        batch = make_batch(
            [Message(key, revision, value) for revision, value in order], {}, values()
        )
        assert [stored.row[6] for stored in batch.puts["machines"]] == ["stopped"]
        assert batch.revisions == [(key, 6, "row")]
        assert batch.stale == 1 - (order[0][0] == 5)


def test_messages_older_than_the_applied_revision_are_ignored() -> None:
    key, value = machine("a")
    for revision in (4, 5):
        batch = make_batch(
            [Message(key, revision, value), Message(key, revision, None)], {key: 5}, values()
        )
        assert (batch.puts, batch.deletes, batch.revisions, batch.stale) == ({}, {}, [], 2)


@given(st.permutations(range(1, 9)), st.randoms(use_true_random=False))
def test_no_order_of_delivery_regresses_a_row(order: list[int], random: Random) -> None:
    """For any order and any cut into batches, every key ends at its highest revision."""
    keys = [machine(ident)[0] for ident in "ab"]
    messages = {
        r: Message(keys[r % 2], r, None if r in (3, 6) else machine("ba"[r % 2 == 0])[1])
        for r in order
    }
    known: dict[str, int] = {}
    rest = [messages[r] for r in order]
    while rest:
        cut = random.randint(1, len(rest))
        batch = make_batch(rest[:cut], known, values())
        for key, revision, _ in batch.revisions:
            assert revision > known.get(key, 0)
            known[key] = revision
        del rest[:cut]
    assert known == {keys[0]: 8, keys[1]: 7}


def test_an_invalid_value_is_quarantined_and_the_others_are_applied() -> None:
    good, value = machine("a")
    batch = make_batch(
        [
            Message("nonsense", 1, b"{}"),
            Message(good, 2, value),
            Message(network()[0], 3, b'{"version": 9}'),
            Message("also.nonsense", 4, None),
        ],
        {},
        values(),
    )
    assert [(q.key, q.revision) for q in batch.quarantined] == [("nonsense", 1), (network()[0], 3)]
    assert "version 9" in batch.quarantined[1].why
    assert list(batch.puts) == ["machines"]
    assert not batch.deletes
    assert dict((key, state) for key, _, state in batch.revisions) == {
        "nonsense": "bad", good: "row", network()[0]: "bad", "also.nonsense": "gone",
    }  # fmt: skip


def test_a_tombstone_deletes_its_row() -> None:
    batch = make_batch(
        [Message(network()[0], 3, None), Message(FLOOR, 4, write_floor(3))], {}, values()
    )
    assert batch.deletes == {"networks": [("24",)]}
    assert batch.floor == 3


def test_a_pending_count_of_zero_does_not_complete_a_replay() -> None:
    replay = Replay(0, bound=10)
    assert replay.message(1, 9)
    assert not replay.complete  # whatever pending count the consumer reports
    assert replay.message(2, 12)
    assert replay.complete


def test_a_replay_whose_last_message_was_purged_completes_when_the_bucket_has_no_more() -> None:
    replay = Replay(0, bound=10)
    assert replay.message(1, 7)
    replay.finish()
    assert (replay.complete, replay.revision) == (True, 10)


def test_a_follower_that_missed_nothing_is_complete_at_once() -> None:
    assert Replay(10, bound=10).complete
    assert not Replay(9, bound=10).complete


def test_a_lost_delivery_is_detected_by_the_next_delivery_or_heartbeat() -> None:
    replay = Replay(0, bound=10)
    assert replay.message(1, 3)
    assert not replay.message(3, 5)
    assert replay.heartbeat(1)
    assert not replay.heartbeat(2)


def test_the_lag_grows_while_the_bucket_is_silent() -> None:
    lag = Lag(since=0.0)
    assert lag.seconds(4.0) == 4.0
    lag.pending(7, now=5.0)
    lag.applied(now=5.0)
    assert (lag.revisions, lag.seconds(6.0)) == (7, 6.0)
    lag.pending(0, now=7.0)
    lag.applied(now=7.0)
    assert lag.seconds(8.0) == 0.0
    assert lag.seconds(7.0 + SILENCE_TIMEOUT) == SILENCE_TIMEOUT
    lag.lost()
    assert lag.seconds(8.0) == 1.0
    lag.applied(now=20.0)
    assert (lag.revisions, lag.seconds(21.0)) == (0, 0.0)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_every_wait_is_between_one_second_and_thirty(attempt: int, chance: float) -> None:
    assert RETRY_MIN <= backoff(attempt, chance) <= RETRY_MAX


def test_hosts_that_lose_a_bucket_together_do_not_reconnect_together() -> None:
    random = Random(1)
    waits = sorted(backoff(6, random.random()) for _ in range(1000))
    assert waits[100] < 6
    assert waits[900] > 25
    assert backoff(1, 1.0) == 2.0
