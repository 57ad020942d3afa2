"""Questions that wait for the first catalog: bounded, each network in its own line."""

from __future__ import annotations

import asyncio
from typing import Any

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.wire import HEADER
from internal_dns.transport.answer import Exchange, Later
from internal_dns.transport.loading import WaitingRoom
from tests.books import check_books
from tests.core.messages import AAAA, A, ip, opt, query
from tests.transport.test_exchange import IN_ACME, PORT, SERVER, demo, serving


def nothing() -> None:
    pass


@given(st.lists(st.integers(0, 5), max_size=200), st.integers(1, 30))
def test_past_the_bound_the_longest_line_loses_its_latest(networks: list[int], most: int) -> None:
    room, held = WaitingRoom(most), dict[int, int]()
    for came, network in enumerate(networks):
        payer = bytes([network])
        before = len(room)
        lost = room.put(payer, nothing, float(came))
        if lost is False:
            assert before == most
            assert held.get(network, 0) + 1 >= max(held.values())
            continue
        held[network] = held.get(network, 0) + 1
        if lost is not True:
            loser = lost.payer[0]
            assert before == most
            held[loser] -= 1
            assert held[loser] + 1 >= max(held.values())
        assert len(room) == sum(held.values()) <= most
        check_books(room)
    moments = [waiting.came for waiting in room.take(1_000)]
    assert moments == sorted(moments)
    assert len(moments) == sum(held.values())
    assert room.first_came() is None


def test_what_came_before_a_moment_is_taken_and_no_more() -> None:
    room = WaitingRoom()
    for came in range(10):
        room.put(b"a", nothing, float(came))
    assert [waiting.came for waiting in room.take(3, 5.0)] == [0, 1, 2]
    assert [waiting.came for waiting in room.take(100, 5.0)] == [3, 4, 5]
    assert room.first_came() == 6


class Client:
    """Asks as a listener does, and keeps the replies."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.replies: list[bytes] = []
        self.parked = 0

    def ask(self, octets: bytes, source: bytes, last: bool = False) -> None:
        again = None if last else lambda: self.ask(octets, source, True)
        outcome: Any = self.exchange.handle(octets, source, SERVER, PORT, again=again)
        if outcome is Later.PARKED:
            self.parked += 1
        else:
            assert isinstance(outcome, bytes)
            self.replies.append(outcome)


async def until_idle(exchange: Exchange) -> None:
    while exchange.work.busy or (exchange.loading.room and exchange.catalog is not None):
        await asyncio.sleep(0)


def rcodes(client: Client) -> list[int]:
    return [reply[3] & 15 for reply in client.replies]


@pytest.mark.slow
def test_eight_thousand_questions_of_one_network_that_waited_through_a_start_are_answered() -> None:
    async def run() -> None:
        exchange = serving()
        client = Client(exchange)
        for number in range(8_000):
            client.ask(query(f"x{number}.internal", AAAA), IN_ACME)
        assert client.parked == 8_000
        assert not client.replies
        exchange.use(demo())
        await until_idle(exchange)
        assert rcodes(client) == [3] * 8_000
        assert not exchange.metrics.drops

    asyncio.run(run())


def test_external_names_and_refusals_do_not_wait() -> None:
    async def run() -> None:
        client = Client(serving())
        client.ask(query("example.com", A), IN_ACME)
        client.ask(query("localhost", AAAA), IN_ACME)
        client.ask(query("web.internal", AAAA), ip("2001:db8::1"))  # an outsider
        assert client.parked == 0
        assert rcodes(client) == [3, 0, 5]

    asyncio.run(run())


def test_after_four_seconds_it_fails_and_says_that_the_catalog_is_not_loaded() -> None:
    async def run() -> None:
        now = [100.0]
        exchange = serving(clock=lambda: now[0])
        client = Client(exchange)
        client.ask(query("web.internal", AAAA, opt()), IN_ACME)
        now[0] += 3.9
        exchange.loading.expire()
        assert len(exchange.loading.room) == 1
        now[0] += 0.1
        exchange.loading.expire()
        await until_idle(exchange)
        assert rcodes(client) == [2]
        options = dns.message.from_wire(client.replies[0]).options
        assert [int(option.code) for option in options if hasattr(option, "code")] == [14]

    asyncio.run(run())


def test_past_the_bound_the_network_that_asks_most_gets_servfail_and_others_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        exchange = serving()
        exchange.loading.room.most = 100
        greedy, modest = Client(exchange), Client(exchange)
        for number in range(150):
            greedy.ask(query(f"x{number}.internal", AAAA), IN_ACME)
        assert rcodes(greedy) == [2] * 50
        # No catalog says who exists: every network number has its own line.
        for number in range(10):
            modest.ask(query("web.internal", AAAA), ip(f"fdaa:0:{0x77 + number:x}::2"))
        assert modest.parked == 10
        while exchange.work.busy:
            await asyncio.sleep(0)
        assert len(exchange.loading.room) == 100
        assert rcodes(greedy) == [2] * 60
        assert exchange.loading.room.overflows == 60
        exchange.use(demo())
        await until_idle(exchange)
        assert rcodes(modest) == [3] * 10
        assert sorted(rcodes(greedy)) == [2] * 60 + [3] * 90

    asyncio.run(run())


def test_when_there_is_no_catalog_file_nothing_waits() -> None:
    async def run() -> None:
        exchange = serving()
        client = Client(exchange)
        client.ask(query("web.internal", AAAA), IN_ACME)
        exchange.loading.expect_none()
        await until_idle(exchange)
        client.ask(query("web.internal", AAAA), IN_ACME)
        assert rcodes(client) == [2, 2]
        assert client.parked == 1
        exchange.use(demo())
        client.ask(query("web.internal", AAAA), IN_ACME)
        assert rcodes(client)[-1] == 0
        assert len(client.replies[-1]) > HEADER

    asyncio.run(run())
