"""The watchdog queries the server's own sockets, and is silent when any part of the path fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from internal_dns.core.journey import Rules
from internal_dns.metrics import Metrics
from internal_dns.net import Endpoint
from internal_dns.service.notify import ServiceManager
from internal_dns.service.watchdog import CHANCES, answers, watch_ourselves
from internal_dns.transport.answer import Exchange
from internal_dns.transport.listen.sockets import bind_pair
from internal_dns.transport.listen.udp import UdpListener

INTERVAL = 0.4


class CountingManager(ServiceManager):
    """Counts the WATCHDOG=1 messages."""

    def __init__(self) -> None:
        super().__init__({})
        self.watchdog = INTERVAL
        self.pings = 0

    def alive(self) -> None:
        self.pings += 1


def watched(
    play: Callable[[CountingManager, UdpListener, Endpoint], Awaitable[None]],
    where: str = "[::1]:0",
    exchange: Exchange | None = None,
) -> None:
    """Serve *where*, run the watchdog, and run *play*."""

    async def run() -> None:
        udp, tcp = bind_pair(Endpoint.parse(where))
        with udp, tcp:
            metrics = Metrics()
            serving = exchange or Exchange(Rules(forwarding=False), metrics)
            listener = UdpListener(udp, serving, metrics)
            endpoint, manager = (
                Endpoint(Endpoint.parse(where).host, udp.getsockname()[1]),
                CountingManager(),
            )
            watching = asyncio.create_task(
                watch_ourselves(manager, [endpoint], serving.payers.asking_ourselves)
            )
            try:
                await play(manager, listener, endpoint)
            finally:
                watching.cancel()
                listener.stop_reading()

    asyncio.run(run())


async def pinged(manager: CountingManager, pings: int) -> None:
    async with asyncio.timeout(20):
        while manager.pings < pings:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("where", ["[::1]:0", "127.0.0.1:0", "[::]:0"])
@pytest.mark.slow
def test_a_server_that_answers_is_alive(where: str) -> None:
    async def play(manager: CountingManager, listener: UdpListener, endpoint: Endpoint) -> None:
        await pinged(manager, 2)
        assert listener.received[0] >= 2

    watched(play, where)


@pytest.mark.slow
def test_a_server_that_does_not_read_is_not_alive() -> None:
    async def play(manager: CountingManager, listener: UdpListener, endpoint: Endpoint) -> None:
        await pinged(manager, 1)
        listener.stop_reading()
        await asyncio.sleep(INTERVAL / CHANCES)  # one answer may be in flight
        before = manager.pings
        assert not await answers(endpoint, INTERVAL)
        assert manager.pings == before

    watched(play)


@pytest.mark.slow
def test_a_server_that_fails_on_every_query_is_not_alive() -> None:
    class Broken(Exchange):
        def handle(self, *args: object, **options: object) -> None:
            return None

    async def play(manager: CountingManager, listener: UdpListener, endpoint: Endpoint) -> None:
        assert not await answers(endpoint, INTERVAL)
        assert manager.pings == 0

    watched(play, exchange=Broken(Rules(forwarding=False), Metrics()))


@pytest.mark.slow
def test_a_server_with_a_blocked_event_loop_is_not_alive() -> None:
    async def play(manager: CountingManager, listener: UdpListener, endpoint: Endpoint) -> None:
        await pinged(manager, 1)
        before = manager.pings
        time.sleep(2 * INTERVAL)
        assert manager.pings == before
        await pinged(manager, before + 1)

    watched(play)


def test_a_closed_port_gives_no_answer() -> None:
    udp, tcp = bind_pair(Endpoint.parse("[::1]:0"))
    port = udp.getsockname()[1]
    udp.close()
    tcp.close()
    assert not asyncio.run(answers(Endpoint.parse(f"[::1]:{port}"), 0.2))
