"""A commit applied in steps: whatever is asked between them, no answer is of a value that is no
longer the catalog's, and no step is long."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.catalog import App, Catalog, Network, NetworkId, changed
from internal_dns.core.journey import Reply, respond
from internal_dns.metrics import Metrics
from internal_dns.service.applying import Applying
from internal_dns.store.sqlite import read
from internal_dns.transport import native
from internal_dns.transport.native.mirror import Mirror
from internal_dns.transport.table.changes import PART, differences
from internal_dns.transport.table.table import AnswerTable
from tests.core.catalogs import random_rows
from tests.core.messages import AAAA, SERVER, insert, opened, query
from tests.laws import examples
from tests.transport.test_answers import (
    MACHINE,
    PATHS,
    RULES,
    WALL,
    Twins,
    audit,
    demo,
    only,
    questions,
)


def changed_rows(rng: Random) -> tuple[Any, Any]:
    """A random catalog, and what it becomes."""
    before, after = random_rows(rng), random_rows(rng)
    return before, {
        table: after[table] if rng.random() < 0.4 else rows for table, rows in before.items()
    }


def read_both(rng: Random) -> tuple[Any, Catalog, Catalog]:
    """The rows of a random catalog, it, and what it becomes."""
    before, after = changed_rows(rng)
    connection = opened(rows=before)
    old = read(connection).catalog
    for table, rows in after.items():
        connection.execute(f"DELETE FROM {table}")
        insert(connection, table, rows)
    new = read(connection, previous=old).catalog
    connection.close()
    return before, old, new


@given(st.integers(0, 1 << 32))
@examples(60)
def test_the_differences_are_those_of_the_core(seed: int) -> None:
    _, old, new = read_both(Random(seed))
    for one, other in ((old, new), (Catalog(), new), (old, Catalog()), (new, new)):
        found = [change for change in differences(one, other) if change is not None]
        assert dict(found) == dict(changed(one, other))
        assert len(found) == len(dict(found))


@given(st.integers(0, 1 << 32), st.sampled_from(PATHS))
@examples(60)
@pytest.mark.slow
def test_between_the_steps_every_answer_is_of_the_networks_catalog(seed: int, path: str) -> None:
    rng = Random(seed)
    rows, old, new = read_both(rng)
    twins = only(path, old)
    asked = list(questions(rng, rows, 120))
    for octets, source in asked:
        twins.decide(octets, source, SERVER)
    for _ in twins.table.steps(new):
        for octets, source in rng.sample(asked, 10):
            catalog = twins.table.catalog_for(source)
            assert catalog is not None
            twins.catalog = catalog
            twins.ask(octets, source, rotation=rng.getrandbits(32), stream=rng.random() < 0.5)
            if rng.random() < 0.7:
                twins.decide(octets, source, SERVER)
    assert twins.table.catalog is new
    twins.catalog = new
    audit(twins.table)
    for octets, source in asked:
        assert twins.table.catalog_for(source) is new
        twins.ask(octets, source, rotation=rng.getrandbits(32), stream=True)


def large(apps: int, revision: int, *, tag: bytes = b"") -> Catalog:
    """One network of so many apps, each another object than in any other catalog."""
    number = NetworkId(0x18)
    found = {b"app-%d%s" % (n, tag): App(b"app-%d%s" % (n, tag)) for n in range(apps)}
    network = Network(number, MACHINE[:6], apps=found, revision=revision)
    return Catalog({number: network}, revision=revision)


def test_no_step_does_more_than_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    done = [0]
    before = AnswerTable._drop

    def counted(table: AnswerTable, *of: Any) -> None:
        done[0] += 1
        before(table, *of)

    monkeypatch.setattr(AnswerTable, "_drop", counted)
    table = AnswerTable(RULES, mirror=None if native.MISSING else Mirror(RULES, Metrics()))
    table.change(old := large(5_000, 1))
    for number in range(2_000):
        for qtype in (AAAA, 1):
            said = respond(query(f"app-{number}.internal", qtype), MACHINE, SERVER, old, RULES)
            assert isinstance(said, Reply)
            table.remember(said)
    assert table.entries == 4_000
    steps = most = done[0] = 0
    for _ in table.steps(large(5_000, 2)):
        most, steps, done[0] = max(most, done[0]), steps + 1, 0
    assert table.entries == 0
    assert 0 < most <= 64
    assert steps > 4_000 // 64


@pytest.mark.skipif(bool(native.MISSING), reason="needs the extension")
def test_no_step_looks_for_the_native_answers_of_many_apps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = [0]
    before = Mirror.forget_part

    def counted(mirror: Mirror, *of: Any) -> int:
        looked[0] += 1
        return before(mirror, *of)

    monkeypatch.setattr(Mirror, "forget_part", counted)
    table = AnswerTable(RULES, mirror=Mirror(RULES, Metrics()))
    table.change(large(5 * PART, 1))
    counts = [0]
    for _ in table.steps(large(5 * PART, 2)):  # nothing is remembered
        counts.append(looked[0] - sum(counts))
    assert sum(counts) > 5 * PART
    assert max(counts) <= PART


@pytest.mark.skipif(bool(native.MISSING), reason="needs the extension")
def test_the_names_of_new_apps_go_up_before_they_can_be_asked_for() -> None:
    mirror = Mirror(RULES, Metrics())
    table = AnswerTable(RULES, mirror=mirror)
    table.change(large(10, 1))
    new = large(3 * PART, 2, tag=b"x")
    octets = query(f"app-{3 * PART - 1}x.internal")
    assert mirror.table.answer_one(octets, MACHINE, SERVER, 0) is not None
    steps = 0
    for _ in table.steps(new):
        steps += 1
        if table.catalog_for(MACHINE) is new:
            assert mirror.table.answer_one(octets, MACHINE, SERVER, 0) is None
    assert steps > 6
    assert mirror.table.answer_one(octets, MACHINE, SERVER, 0) is None


def test_a_reply_that_was_decided_from_what_is_leaving_is_not_remembered() -> None:
    twins = Twins(demo())
    twins.learn("web.internal")
    steps = twins.table.steps(Catalog())
    while twins.table.leaving is None:
        next(steps)
    number = NetworkId(int.from_bytes(twins.table.leaving, "big"))
    source = twins.table.prefix + number.to_bytes(4, "big") + MACHINE[6:]
    said = respond(query("other.internal"), source, SERVER, demo(), RULES, now=WALL)
    assert isinstance(said, Reply)
    entries = twins.table.entries
    twins.table.remember(said)
    assert twins.table.entries == entries


def test_one_catalog_is_applied_at_a_time() -> None:
    table = AnswerTable(RULES)
    steps = table.steps(demo())
    next(steps)
    with pytest.raises(RuntimeError):
        table.steps(Catalog())
    for _ in steps:
        pass
    assert table.catalog is demo()
    table.change(Catalog())


@pytest.mark.parametrize("path", PATHS)
def test_other_rules_in_the_middle_of_a_commit_let_it_go_on(path: str) -> None:
    twins = only(path)
    new = Catalog(
        {NetworkId(0x18): Network(NetworkId(0x18), MACHINE[:6], apps={b"new": App(b"new")})}
    )
    steps = twins.table.steps(new)
    next(steps)
    mirror = Mirror(RULES, Metrics()) if path == "native" else None
    twins.learn("web.internal")
    left = twins.table.use_rules(RULES, mirror)
    assert twins.table.entries == 0
    assert twins.table.repeat(query("web.internal"), MACHINE, SERVER, 0) is None
    assert (
        mirror is None or mirror.table.answer_one(query("x.internal"), MACHINE, SERVER, 0) is None
    )
    for _ in left:
        pass
    assert list(steps) == []
    assert twins.table.catalog is new
    if mirror is not None:  # it is filled: what is not there, it knows
        assert mirror.table.answer_one(query("x.internal"), MACHINE, SERVER, 0) is not None
    twins.mirror, twins.catalog = mirror, new
    octets = query("new.internal")
    assert mirror is None or mirror.table.answer_one(octets, MACHINE, SERVER, 0) is None
    twins.decide(octets, MACHINE, SERVER)
    assert twins.ask(octets) is not None


def test_a_long_commit_lets_the_event_loop_go_on() -> None:
    now, soon, done = [0.0], list[Any](), list[Catalog]()
    catalogs = [Catalog(revision=number) for number in range(3)]

    def steps(catalog: Catalog) -> Any:
        for _ in range(10):
            now[0] += 0.0007
            yield

    applying = Applying(steps, soon.append, lambda: now[0])
    for one in catalogs:
        applying.apply(one, partial(done.append, one))
    turns = 1
    assert done == []
    while soon:
        assert len(soon) == 1
        begin = now[0]
        soon.pop()()
        assert now[0] - begin < 0.003
        turns += 1
    assert turns == 11
    assert done == catalogs
    applying.apply(catalogs[0], partial(done.append, catalogs[0]))
    assert len(soon) == 1


@pytest.mark.parametrize("at", [0, 1, 4, 9])
@pytest.mark.parametrize("path", PATHS)
def test_a_commit_that_fails_half_way_is_in_use_and_the_next_one_is_applied(
    at: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = only(path)
    twins.learn("web.internal")
    new = Catalog(
        {NetworkId(0x18): Network(NetworkId(0x18), MACHINE[:6], apps={b"new": App(b"new")})}
    )
    calls = [0]
    before = AnswerTable._forget

    def failing(table: AnswerTable, *of: Any) -> Any:
        calls[0] += 1
        if calls[0] == at + 1:
            raise MemoryError
        return before(table, *of)

    monkeypatch.setattr(AnswerTable, "_forget", failing)
    assert len(demo().networks) < 10
    if at < len(demo().networks):
        with pytest.raises(MemoryError):
            twins.table.change(new)
    else:
        twins.table.change(new)
    monkeypatch.undo()
    assert twins.table.catalog is new
    twins.catalog = new
    for name in ("web", "new", "x"):
        twins.ask(query(f"{name}.internal"))
        twins.decide(query(f"{name}.internal"), MACHINE, SERVER)
        assert twins.ask(query(f"{name}.internal")) is not None
    twins.catalog = demo()
    twins.table.change(demo())
    twins.ask(query("web.internal"))
    twins.learn("web.internal")
    audit(twins.table)


def test_applying_goes_on_after_a_commit_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    soon, done, begun = list[Any](), list[int](), list[int]()

    def steps(catalog: Catalog) -> Any:
        begun.append(catalog.revision)
        yield
        if catalog.revision == 1:
            raise MemoryError
        yield

    now = [0.0]

    def clock() -> float:
        now[0] += 0.0015
        return now[0]

    applying = Applying(steps, soon.append, clock)
    for number in (1, 2):
        applying.apply(Catalog(revision=number), partial(done.append, number))
    applying.go_on_with(steps(Catalog(revision=3)))
    while soon:
        soon.pop()()
    assert begun == [1, 2, 3]
    assert done == [1, 2]
    assert "failed on applying" in caplog.text


def test_new_rules_free_what_was_step_by_step() -> None:
    table = AnswerTable(RULES, mirror=None if native.MISSING else Mirror(RULES, Metrics()))
    table.change(old := large(1_000, 1))
    for number in range(1_000):
        said = respond(query(f"app-{number}.internal"), MACHINE, SERVER, old, RULES)
        assert isinstance(said, Reply)
        table.remember(said)
    asked = query("app-7.internal")
    assert table.repeat(asked, MACHINE, SERVER, 0) is not None
    mirror = None if native.MISSING else Mirror(RULES, Metrics())
    former = table.mirror
    left = table.use_rules(RULES, mirror)
    assert (table.entries, table.octets) == (0, 0)
    assert table.repeat(asked, MACHINE, SERVER, 0) is None
    next(left)
    if mirror is not None:
        with pytest.raises(RuntimeError):
            table.steps(Catalog())
    assert sum(1 for _ in left) > 1_000 // (64 if mirror is None else 512)
    assert table.forgotten_hits == {0x18: 1}
    assert former is None or former.table.entries == 0  # type: ignore[attr-defined]
    table.change(Catalog())
