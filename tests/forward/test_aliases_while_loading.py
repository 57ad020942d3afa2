"""Aliases from outside into our names wait for the first catalog, as queries for our names do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import dns.message
import dns.rcode
import pytest

from internal_dns.core.journey import Forward, Rules, respond
from internal_dns.forward.forwarder import Forwarder
from internal_dns.late import Late
from internal_dns.metrics import Metrics
from internal_dns.transport.answer import Exchange
from tests.core.messages import AAAA, ip, query, records
from tests.forward import virtual
from tests.forward.scripted import reply, scripted
from tests.forward.test_forward_scenarios import acme

SOURCE = ip("fdaa:0:18:a7b:7d:f066:b83b:2")
OURS = ["fdaa:0:18:a7b:7d:2:1:2", "fdaa:0:18:a7b:81:2:2:2", "fdaa:0:18:a7b:91:2:3:2"]


def alias(octets: bytes, _: bool) -> list[bytes]:
    """A chain into our names."""
    return [reply(octets, "db.internal.", rdtype="CNAME")]


def play(story: Any) -> None:
    """Run *story* with a forwarder, its exchange, and its upstream."""

    async def whole() -> None:
        async with scripted(alias) as (upstream,):
            forwarder = Forwarder([upstream.udp], Metrics(), b"\xfd\xaa")
            exchange = Exchange(Rules(), Metrics(), forwarder)
            exchange.work.clock = asyncio.get_running_loop().time
            try:
                await story(exchange, forwarder)
                forwarder.check_books()
            finally:
                await forwarder.close()

    coroutine: Coroutine[Any, Any, None] = whole()
    virtual.run(coroutine)


def ask(forwarder: Forwarder) -> Late:
    forward = respond(query("alias.example", AAAA), SOURCE, ip("fdaa::3"), acme(), Rules())
    assert isinstance(forward, Forward)
    late = forwarder.answer(forward, SOURCE)
    assert isinstance(late, Late)
    return late


@pytest.mark.parametrize("cached", [False, True])
def test_an_alias_waits_for_the_first_catalog(cached: bool) -> None:
    async def story(exchange: Exchange, forwarder: Forwarder) -> None:
        if cached:
            early = ask(forwarder)
            while not len(forwarder.cache):
                await asyncio.sleep(0.001)
            early.cancel()
        late = ask(forwarder)
        await asyncio.sleep(2)
        assert not late.done()
        exchange.use(acme())
        message = dns.message.from_wire(await late)
        assert message.answer[0].to_text() == "alias.example. 60 IN CNAME db.internal."
        assert sorted(records(message, AAAA)) == OURS
        assert not forwarder.accounts.clients
        assert exchange.metrics.errors == 0

    play(story)


def test_an_alias_that_waits_in_vain_fails_after_four_seconds() -> None:
    async def story(exchange: Exchange, forwarder: Forwarder) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        message = dns.message.from_wire(await ask(forwarder))
        assert message.rcode() == dns.rcode.SERVFAIL
        assert 3.9 < loop.time() - begin < 4.5
        assert not forwarder.accounts.clients

    play(story)


def test_a_client_that_leaves_while_its_alias_waits_is_forgotten() -> None:
    async def story(exchange: Exchange, forwarder: Forwarder) -> None:
        late = ask(forwarder)
        while not len(exchange.loading.room):
            await asyncio.sleep(0.001)
        late.when_there(lambda octets: pytest.fail("it has left"))
        late.cancel()
        assert not forwarder.accounts.clients
        exchange.use(acme())
        await asyncio.sleep(1)

    play(story)


def test_without_a_catalog_file_no_alias_waits() -> None:
    async def story(exchange: Exchange, forwarder: Forwarder) -> None:
        exchange.loading.expect_none()
        begin = asyncio.get_running_loop().time()
        message = dns.message.from_wire(await ask(forwarder))
        assert message.rcode() == dns.rcode.SERVFAIL
        assert asyncio.get_running_loop().time() - begin < 0.1

    play(story)
