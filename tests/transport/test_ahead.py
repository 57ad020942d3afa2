"""Answers that are decided before they are queried: which, when, and how often."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.journey import Rules
from internal_dns.metrics import Metrics
from internal_dns.store.sqlite import read
from internal_dns.transport.ahead import INTERVAL, MAX_WAITING, SLICE, Ahead
from internal_dns.transport.answer import Exchange
from internal_dns.transport.native.mirror import Mirror
from internal_dns.transport.schedule import Scheduler
from tests.core.messages import AAAA, SERVER, A, query, wire
from tests.transport.test_answers import IN_GLOBEX, MACHINE, PATHS, demo, opened_demo

ACME = NetworkId(0x18)


class Virtual:
    """A loop, a clock and a CPU clock that advance by hand."""

    def __init__(self) -> None:
        self.now = self.used = 0.0
        self.later: list[Callable[[], object]] = []

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        assert delay > 0
        self.later.append(callback)

    def call_soon(self, callback: Callable[[], object]) -> None:
        raise AssertionError("nothing is urgent")

    def run(self, seconds: float = 0.001) -> bool:
        self.now += seconds
        callbacks, self.later = self.later, []
        assert len(callbacks) <= 1
        for callback in callbacks:
            callback()
        return bool(callbacks)


def noting(done: list[Any], what: Callable[..., Any]) -> Callable[..., bool]:
    """Return a decision that notes what was decided, and stores it."""

    def decide(*key: Any) -> bool:
        done.append(what(*key))
        return True

    return decide


def waiting(
    decide: Callable[[NetworkId, bytes, int], bool],
) -> tuple[Virtual, Scheduler, Ahead]:
    virtual = Virtual()
    work = Scheduler(Metrics(), clock=lambda: virtual.now, loop=lambda: virtual)
    ahead = Ahead(
        decide, work, clock=lambda: virtual.now, cpu=lambda: virtual.used, loop=lambda: virtual
    )
    return virtual, work, ahead


def test_what_was_added_is_decided_in_order_and_once() -> None:
    done = list[Any]()
    virtual, _, ahead = waiting(noting(done, lambda *key: key))
    ahead.add(ACME, [(b"a", A), (b"b", A), (b"a", A)])
    ahead.add(ACME, [(b"b", A)])
    assert done == []
    while virtual.run():
        pass
    assert done == [(ACME, b"a", A), (ACME, b"b", A)]
    assert ahead.decided == 2


def test_a_slice_ends_after_its_time_and_others_have_the_loop() -> None:
    virtual = Virtual()

    def decide(*_: Any) -> bool:
        virtual.used += SLICE * 0.4
        return True

    work = Scheduler(Metrics(), clock=lambda: virtual.now, loop=lambda: virtual)
    ahead = Ahead(
        decide, work, clock=lambda: virtual.now, cpu=lambda: virtual.used, loop=lambda: virtual
    )
    ahead.add(ACME, [(b"%d" % number, A) for number in range(10)])
    slices = []
    while virtual.later:
        before = ahead.decided
        virtual.run()
        slices.append(ahead.decided - before)
    assert slices == [3, 3, 3, 1]


def test_nothing_is_decided_ahead_while_a_query_waits() -> None:
    virtual, work, ahead = waiting(lambda *_: True)
    ahead.add(ACME, [(b"a", A)])
    work.busy = True
    for _ in range(5):
        assert virtual.run()
    assert ahead.decided == 0
    work.busy = False
    virtual.run()
    assert ahead.decided == 1


def test_an_answer_is_decided_at_most_once_per_interval() -> None:
    done = list[float]()
    virtual, _, ahead = waiting(noting(done, lambda *_: virtual.now))
    for _ in range(1_000):  # a commit per millisecond
        ahead.add(ACME, [(b"a", A)])
        virtual.run(0.001)
    assert len(done) == 10
    assert all(b - a >= INTERVAL - 1e-9 for a, b in pairwise(done))


def test_what_is_not_due_does_not_hold_back_what_is() -> None:
    done = list[bytes]()
    virtual, _, ahead = waiting(noting(done, lambda _, name, __: name))
    ahead.add(ACME, [(b"a", A)])
    virtual.run()
    ahead.add(ACME, [(b"a", A), (b"b", A)])
    virtual.run()
    assert done == [b"a", b"b"]
    virtual.run(INTERVAL)
    virtual.run()
    assert done == [b"a", b"b", b"a"]
    assert not virtual.later


def test_no_more_than_so_many_wait() -> None:
    _, _, ahead = waiting(lambda *_: True)
    ahead.add(ACME, ((b"%d" % number, A) for number in range(MAX_WAITING + 10)))
    assert len(ahead.waiting) == MAX_WAITING


# ── a server's own ────────────────────────────────────────────────────────────────────────────────


def serving(path: str) -> Exchange:
    rules, metrics = Rules(), Metrics()
    exchange = Exchange(rules, metrics, mirror=Mirror(rules, metrics) if path == "native" else None)
    exchange.use(demo())
    return exchange


def known(exchange: Exchange, name: str, qtype: int = AAAA, source: bytes = MACHINE) -> bool:
    return exchange.known(query(name, qtype), source, SERVER, 5353) is not None


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_decided_ahead_is_what_a_client_of_the_network_gets(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("internal_dns.transport.answer.getrandbits", lambda _: 7)
    exchange = serving(path)
    for name, qtype in (("web.internal", AAAA), ("iad.web.internal", A), ("nosuch.internal", A)):
        assert exchange.decide_ahead(ACME, wire(name), qtype)
        repeated = exchange.known(query(name, qtype), MACHINE, SERVER, 5353)
        assert repeated == exchange_without_table(query(name, qtype))
        assert not exchange.decide_ahead(ACME, wire(name), qtype)  # it is there
    assert not known(exchange, "web.internal", source=IN_GLOBEX)


def exchange_without_table(octets: bytes) -> bytes | None:
    outcome = serving("python").handle(octets, MACHINE, SERVER, 5353)
    assert isinstance(outcome, bytes)
    return outcome


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (ACME, "top1.nearest.of.web.internal"),
        (ACME, "_whoami.internal"),
        (ACME, "www.example"),
        (NetworkId(0x77), "web.internal"),
    ],
)
def test_what_depends_on_the_client_or_on_others_is_not_decided_ahead(
    network: NetworkId, name: str
) -> None:
    exchange = serving("python")
    assert not exchange.decide_ahead(network, wire(name), AAAA)
    assert exchange.answers.entries == 0


def test_a_fault_is_counted_and_the_name_is_left_to_its_query(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchange = serving("python")

    def failing(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("internal_dns.transport.answer.respond", failing)
    assert not exchange.decide_ahead(ACME, wire("web.internal"), AAAA)
    assert exchange.metrics.errors == 1


@pytest.mark.parametrize("path", PATHS)
def test_the_first_query_after_a_commit_is_a_repeat_if_the_name_was_repeated(path: str) -> None:
    exchange, virtual = serving(path), Virtual()
    ahead = Ahead(
        exchange.decide_ahead,
        exchange.work,
        clock=lambda: virtual.now,
        cpu=lambda: virtual.used,
        loop=lambda: virtual,
    )
    exchange.answers.was_hot = ahead.add
    for name in ("web.internal", "blog.internal", "top1.nearest.of.web.internal"):
        exchange.handle(query(name), MACHINE, SERVER, 5353)
    assert known(exchange, "web.internal")
    assert known(exchange, "top1.nearest.of.web.internal")
    connection = opened_demo()
    old = read(connection).catalog
    connection.execute("UPDATE machines SET region = 'lhr' WHERE app IN ('web', 'blog')")
    new = read(connection, previous=old).catalog
    connection.close()
    exchange.use(new)
    assert not known(exchange, "web.internal")  # dropped, and not decided within the commit
    while virtual.run():
        pass
    assert known(exchange, "web.internal")
    assert not known(exchange, "blog.internal")  # nobody had it repeated
    assert not known(exchange, "top1.nearest.of.web.internal")
    assert ahead.decided == 1
    exchange.use(Catalog())  # the network has gone
    while virtual.run():
        pass
    assert ahead.decided == 1
