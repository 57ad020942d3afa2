"""The loop of a live source, in virtual time: when it looks, what it writes, what it never deletes.

`World` plays the edges: it performs the actions of the loop at once or after a delay, and records
every deletion together with what the snapshots had said before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from internal_dns.live.loop import (
    BACKOFF,
    CALM,
    DOUBT_SECONDS,
    DOUBT_SNAPSHOTS,
    FEW,
    FLAPS,
    FULL,
    PATIENCE,
    QUIET,
    Action,
    Applied,
    Apply,
    Changed,
    Event,
    Failed,
    Hold,
    Look,
    Loop,
    Present,
    Read,
    Refused,
    Seen,
    Tick,
)
from internal_dns.live.source import Key, Object, Snapshot, machine_key, peer_key
from tests.laws import examples


def machine(number: int, **cells: Any) -> Object:
    row = {"id": f"m{number}", "network_id": 24, "app": "web", "region": "iad", "ready": 1}
    row |= {"address": f"fdaa:0:18:1:1:1:{number:x}:2", "state": "started"}
    return {**row, "metadata": {}, "services": [], **cells}


def machines(*numbers: int) -> dict[Key, Object]:
    return {machine_key(f"m{number}"): machine(number) for number in numbers}


@dataclass
class World:
    """A source and a catalog around one loop, and a clock."""

    loop: Loop
    source: dict[Key, Object] = field(default_factory=dict)
    catalog: dict[Key, Object] = field(default_factory=dict)
    now: float = 1000.0
    away: str = ""  # why the source gives no snapshot
    catalog_away: str = ""
    faults: Mapping[Key, str] = field(default_factory=dict)
    stopped: frozenset[Key] = frozenset()
    unreadable: frozenset[Key] = frozenset()
    looks: list[float] = field(default_factory=list)
    # Of every snapshot that was taken: when, and which keys it lacked.
    snapshots: list[tuple[float, frozenset[Key]]] = field(default_factory=list)
    writes: list[Apply] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def send(self, event: Event) -> None:
        """Give the loop an event, and perform what it asks for until it waits."""
        for action in self.loop.step(event, self.now):
            if (then := self.perform(action)) is not None:
                self.send(then)

    def perform(self, action: Action) -> Event | None:
        match action:
            case Hold(why):
                self.told.append(why)
                return None
            case Read():
                if self.catalog_away:
                    return Refused(self.catalog_away)
                return Present(dict(self.catalog))
            case Look():
                self.looks.append(self.now)
                if self.away:
                    return Failed(self.away)
                had = self.source.keys() | self.stopped | self.unreadable
                self.snapshots.append((self.now, frozenset(self.catalog.keys() - had)))
                objects = {k: o for k, o in self.source.items() if k not in self.unreadable}
                return Seen(Snapshot(objects, stopped=self.stopped, unreadable=self.unreadable))
            case Apply(puts, deletes):
                if self.catalog_away:
                    return Refused(self.catalog_away)
                self.check_deletes(deletes)
                self.writes.append(action)
                for key in deletes:
                    del self.catalog[key]
                self.catalog |= {k: o for k, o in puts.items() if k not in self.faults}
                return Applied({k: w for k, w in self.faults.items() if k in puts})

    def check_deletes(self, deletes: frozenset[Key]) -> None:
        """The law: a row goes only while the latest snapshot lacks it, and when that lacked all, or
        most of many, only after three in a row over 30 s."""
        when, lacked = self.snapshots[-1]
        assert when == self.now
        assert deletes <= lacked
        count = len(self.catalog)
        taken = {object_["address"] for object_ in self.source.values()}
        if self.loop.allow_empty:
            return
        much = len(lacked) == count or (count >= FEW and 2 * len(lacked) > count)
        for key in deletes if much else ():
            if self.catalog[key]["address"] in taken:
                continue  # replaced
            row = [at for at, gone in self.snapshots[::-1] if key in gone]
            in_a_row = 0
            for _, gone in reversed(self.snapshots):
                if key not in gone:
                    break
                in_a_row += 1
            assert in_a_row >= DOUBT_SNAPSHOTS
            assert self.now - row[in_a_row - 1] >= DOUBT_SECONDS

    def run(self, seconds: float) -> None:
        """Let time pass: the loop gets its ticks when they are due."""
        end = self.now + seconds
        while self.loop.due <= end:
            assert self.loop.due > -inf
            self.now = max(self.now, self.loop.due)
            self.send(Tick())
        self.now = end

    def start(self) -> World:
        self.send(Tick())
        return self


def world(count: int = 3, **more: Any) -> World:
    """A world whose catalog is in step with a source of *count* machines."""
    found = World(Loop(**more), machines(*range(count)))
    return found.start()


# ── looking ───────────────────────────────────────────────────────────────────────────────────────


def test_it_reads_the_catalog_before_the_first_look() -> None:
    loop = Loop()
    assert loop.due == -inf
    assert loop.step(Tick(), 0) == [Read()]
    assert loop.due == inf
    assert loop.step(Present({}), 0) == [Look()]


def test_the_first_look_puts_what_runs() -> None:
    assert world(3).catalog == machines(0, 1, 2)


def test_an_equal_snapshot_writes_nothing() -> None:
    here = world()
    here.run(10 * FULL)
    assert len(here.looks) >= 10
    assert len(here.writes) == 1


def test_a_hint_looks_after_a_moment_of_quiet() -> None:
    here = world()
    here.source |= machines(7)
    at = here.now
    here.send(Changed())
    here.run(QUIET / 2)
    here.send(Changed())
    here.run(1)
    assert here.looks[1:] == [at + QUIET / 2 + QUIET]
    assert machine_key("m7") in here.catalog


def test_hints_without_end_look_every_two_seconds() -> None:
    here = world()
    for _ in range(100):
        here.send(Changed())
        here.run(QUIET / 2)
    gaps = [b - a for a, b in zip(here.looks, here.looks[1:], strict=False)]
    assert gaps
    assert max(gaps) <= PATIENCE + QUIET


def test_a_hint_that_comes_during_a_look_is_not_lost() -> None:
    loop = Loop()
    loop.step(Tick(), 0)
    loop.step(Present({}), 0)
    loop.step(Changed(), 0.1)
    assert loop.due == inf
    assert loop.step(Seen(Snapshot({})), 5) == [Look()]


def test_without_hints_it_looks_every_minute_or_so() -> None:
    for jitter in 0.0, 0.5, 1.0:
        here = world(jitter=jitter)
        here.run(20 * FULL)
        gaps = [b - a for a, b in zip(here.looks, here.looks[1:], strict=False)]
        assert all(0.9 * FULL <= gap <= 1.1 * FULL + 1e-6 for gap in gaps)


def test_a_full_look_repairs_what_another_changed() -> None:
    here = world()
    here.catalog[machine_key("m1")] = machine(1, state="stopped")
    del here.catalog[machine_key("m2")]
    here.run(2 * FULL)
    assert here.catalog == here.source


# ── the source away ───────────────────────────────────────────────────────────────────────────────


def test_rows_stay_while_the_source_is_away_and_its_age_grows() -> None:
    here = world()
    here.away = "connection refused"
    here.run(3600)
    assert here.catalog == machines(0, 1, 2)
    assert here.loop.source_problem == "connection refused"
    assert here.loop.seen_at is not None
    assert here.now - here.loop.seen_at >= 3600 - FULL


def test_it_backs_off_and_comes_back() -> None:
    here = world()
    here.away = "gone"
    here.send(Changed())
    here.run(600)
    gaps = [b - a for a, b in zip(here.looks[1:], here.looks[2:], strict=False)]
    assert gaps[:5] == pytest.approx([1, 2, 4, 8, 16])
    assert max(gaps) == pytest.approx(BACKOFF[1])
    here.away = ""
    here.run(BACKOFF[1])
    assert not here.loop.source_problem


def test_a_hint_shortens_the_back_off_to_a_second() -> None:
    here = world()
    here.away = "gone"
    here.send(Changed())
    here.run(300)
    here.away, at = "", here.now
    here.send(Changed())
    here.run(2)
    assert at <= here.looks[-1] <= at + BACKOFF[0] + QUIET
    assert not here.loop.source_problem


def test_a_catalog_that_is_away_is_read_again_and_nothing_is_lost() -> None:
    here = world()
    here.catalog_away = "no server"
    here.source |= machines(9)
    here.send(Changed())
    here.run(100)
    assert here.loop.catalog_problem == "no server"
    here.catalog_away = ""
    here.run(31)
    assert here.catalog == machines(0, 1, 2, 9)
    assert not here.loop.catalog_problem


# ── nothing is emptied by mistake ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("count", "left"), [(1, 0), (3, 0), (10, 4), (200, 0), (200, 99)])
def test_a_loss_of_all_or_most_is_held_and_then_deleted(count: int, left: int) -> None:
    here = world(count)
    here.source = machines(*range(left))
    here.send(Changed())
    here.run(1)
    assert len(here.catalog) == count
    gone = [row for key, row in here.catalog.items() if key not in here.source]
    assert {row["ready"] for row in gone} == {0}
    assert here.loop.held == count - left
    assert f"{count - left:,} of {count:,} rows are gone at once" in here.told[-1]
    here.run(DOUBT_SECONDS - 2)
    assert len(here.catalog) == count
    here.run(12)
    assert here.catalog == here.source
    assert here.told[-1] == "no row is held any more"


@pytest.mark.parametrize(("count", "left"), [(2, 1), (9, 1), (10, 5), (200, 100)])
def test_a_smaller_loss_is_deleted_at_once(count: int, left: int) -> None:
    here = world(count)
    here.source = machines(*range(left))
    here.send(Changed())
    here.run(1)
    assert here.catalog == here.source
    assert not here.told


def test_an_api_that_answers_nothing_for_a_moment_changes_nothing_for_long() -> None:
    here = world(20)
    whole, here.source = here.source, {}
    here.send(Changed())
    here.run(25)
    here.source = whole
    here.run(10)
    assert here.catalog == whole
    assert not any(write.deletes for write in here.writes)


def test_an_api_that_answers_nothing_every_other_time_never_deletes() -> None:
    here = world(20)
    whole = here.source
    for turn in range(60):
        here.source = {} if turn % 2 else whole
        here.send(Changed())
        here.run(7)
    assert not any(write.deletes for write in here.writes)


def test_a_failure_in_between_is_no_snapshot() -> None:
    here = world(20)
    here.source = {}
    here.send(Changed())
    here.run(1)
    here.away = "gone"
    here.run(120)
    assert len(here.catalog) == 20
    here.away = ""
    here.run(60)
    assert not here.catalog


def test_allow_empty_deletes_at_once() -> None:
    here = world(20, allow_empty=True)
    here.source = {}
    here.send(Changed())
    here.run(1)
    assert not here.catalog


def test_a_follower_that_starts_again_doubts_anew() -> None:
    here = world(20)
    here.source = {}
    here.send(Changed())
    here.run(29)
    again = World(Loop(), {}, here.catalog, here.now).start()
    again.run(29)
    assert len(again.catalog) == 20
    again.run(12)
    assert not again.catalog


def test_a_row_in_doubt_that_is_seen_again_is_ready_at_once() -> None:
    here = world(12)
    here.source = machines(0)
    here.send(Changed())
    here.run(5)
    here.source = machines(0, 5)
    here.send(Changed())
    here.run(1)
    assert here.catalog[machine_key("m5")]["ready"] == 1
    here.run(40)
    assert here.catalog == machines(0, 5)


def test_a_container_made_again_at_the_same_address_replaces_the_old_one() -> None:
    here = world(1)
    here.source = {machine_key("new"): machine(0, id="new")}
    here.send(Changed())
    here.run(1)
    assert here.catalog == here.source


# ── states ────────────────────────────────────────────────────────────────────────────────────────


def test_a_machine_that_exits_is_stopped_at_the_address_it_had() -> None:
    here = world(1)
    here.source, here.stopped = {}, frozenset(machines(0, 1))
    here.send(Changed())
    here.run(1)
    assert here.catalog == {machine_key("m0"): machine(0, state="stopped")}
    assert not here.told


def test_a_malformed_object_keeps_its_row() -> None:
    here = world(3)
    here.unreadable = frozenset(machines(1, 7))
    here.source = machines(0, 2)
    here.send(Changed())
    here.run(200)
    assert here.catalog == machines(0, 1, 2)
    here.unreadable = frozenset()
    here.send(Changed())
    here.run(1)
    assert here.catalog == machines(0, 2)


def test_what_another_row_rules_out_is_a_fault_and_is_tried_again_later() -> None:
    here = world(2)
    key = machine_key("m5")
    here.faults = {key: "m5 belongs to another source"}
    here.source |= machines(5)
    here.send(Changed())
    here.run(1)
    tries = len(here.writes)
    assert here.loop.faults == here.faults
    for _ in range(5):
        here.send(Changed())
        here.run(1)
    assert len(here.writes) == tries
    here.faults = {}
    here.run(2 * FULL)
    assert here.catalog == machines(0, 1, 5)
    assert not here.loop.faults


def test_a_fault_goes_with_its_object() -> None:
    here = world(2)
    here.faults = {machine_key("m5"): "taken"}
    here.source |= machines(5)
    here.send(Changed())
    here.run(1)
    here.source = machines(0, 1)
    here.send(Changed())
    here.run(1)
    assert not here.loop.faults


def test_a_flapping_machine_is_not_ready_until_it_is_calm() -> None:
    here = world(3)
    key = machine_key("m1")
    for turn in range(FLAPS + 1):
        here.source[key] = machine(1, state="stopped" if turn % 2 == 0 else "started")
        here.send(Changed())
        here.run(2)
    assert here.source[key]["state"] == "started"
    assert here.catalog[key]["ready"] == 0
    assert (here.loop.flapping, here.loop.flapped) == (1, 1)
    here.run(CALM - 5)
    assert here.catalog[key]["ready"] == 0
    here.run(6)
    assert here.catalog == here.source
    assert here.loop.flapping == 0


def test_slow_changes_are_no_flapping() -> None:
    here = world(3)
    key = machine_key("m1")
    for turn in range(40):
        here.source[key] = machine(1, state="stopped" if turn % 2 == 0 else "started")
        here.send(Changed())
        here.run(13)
        assert here.catalog == here.source
    assert here.loop.flapped == 0


def test_a_flapping_peer_has_no_mark_and_stays_as_it_is() -> None:
    here = world(3)
    key = peer_key(24, "alice")
    for turn in range(2 * FLAPS):
        here.source[key] = {
            "network_id": 24,
            "name": "alice",
            "address": f"fdaa:0:18:1:1:{turn}::2",
        }
        here.send(Changed())
        here.run(2)
    assert here.catalog[key] == here.source[key]


def test_a_clock_that_goes_back_stands_still() -> None:
    here = world(20)
    here.source = {}
    here.send(Changed())
    here.run(25)
    here.now -= 1000
    for _ in range(50):
        here.send(Tick())
        here.send(Changed())
    assert len(here.catalog) == 20
    here.now += 1000
    here.run(60)
    assert not here.catalog


# ── any course of events ──────────────────────────────────────────────────────────────────────────

NUMBERS = st.sets(st.integers(0, 29), max_size=30)
STEP = st.one_of(
    st.tuples(st.just("source"), NUMBERS),
    st.tuples(st.just("stop"), NUMBERS),
    st.tuples(st.just("break"), NUMBERS),
    st.tuples(st.just("away"), st.booleans()),
    st.tuples(st.just("catalog away"), st.booleans()),
    st.tuples(st.just("fault"), NUMBERS),
    st.tuples(st.just("meddle"), NUMBERS),
    st.tuples(st.just("hint"), st.none()),
    st.tuples(st.just("kill"), st.none()),
    st.tuples(st.just("pass"), st.floats(0, 100)),
    st.tuples(st.just("jump"), st.floats(-5000, 5000)),
)


def play(here: World, what: str, how: Any) -> World:
    """Make one thing happen; return the world, which has another loop after a kill."""
    match what:
        case "source":
            here.source = machines(*how)
        case "stop":
            for key in machines(*how).keys() & here.source.keys():
                here.source[key] = {**here.source[key], "state": "stopped"}
        case "break":
            here.unreadable = frozenset(machines(*how))
        case "away":
            here.away = "away" if how else ""
        case "catalog away":
            here.catalog_away = "away" if how else ""
        case "fault":
            here.faults = dict.fromkeys(machines(*how), "taken")
        case "meddle":
            for key in machines(*how).keys() & here.catalog.keys():
                here.catalog[key] = {**here.catalog[key], "region": "lost"}
        case "hint":
            here.send(Changed())
        case "kill":
            here.loop = Loop()
            here.snapshots = []
            here.send(Tick())
        case "pass":
            here.run(how)
        case "jump":
            here.now += how
            here.send(Tick())
    return here


@pytest.mark.slow
@examples(400)
@example([("source", set()), ("fault", {0}), ("kill", None), ("source", {0})])
@given(st.lists(STEP, max_size=40))
def test_whatever_happens_no_row_goes_by_mistake_and_calm_brings_the_truth(
    steps: list[tuple[str, Any]],
) -> None:
    """`check_deletes` holds the first law at every write; the second is liveness: once nothing is
    away, the catalog is what the source says within minutes."""
    here = World(Loop(), machines(0, 1)).start()
    for what, how in steps:
        play(here, what, how)
    here.away = here.catalog_away = ""
    here.faults, here.unreadable = {}, frozenset()
    here.now = max(here.now, here.loop.now)
    here.run(3 * FULL + DOUBT_SECONDS)
    assert here.catalog == here.source
    assert here.loop.held == 0
    assert not here.loop.faults
    writes = len(here.writes)
    here.run(5 * FULL)
    assert len(here.writes) == writes


@pytest.mark.slow
@examples(200)
@given(st.lists(STEP, max_size=30), NUMBERS)
def test_what_cannot_be_read_is_never_written(
    steps: list[tuple[str, Any]], broken: set[int]
) -> None:
    here = World(Loop(), machines(*range(30))).start()
    keys = machines(*broken).keys()
    before = {key: here.catalog[key] for key in keys}
    here.unreadable = frozenset(keys)
    for what, how in steps:
        if what not in ("break", "meddle"):
            play(here, what, how)
    assert {key: here.catalog[key] for key in keys} == before
