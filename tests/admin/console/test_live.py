"""The live page: rates since the last look, and queries while it is open."""

from __future__ import annotations

import asyncio

from internal_dns.admin.console import live as module
from internal_dns.admin.console.live import Live
from internal_dns.core.journey import Rules
from internal_dns.metrics import Metrics
from internal_dns.transport.answer import Exchange
from tests.admin.console.looking import console, get
from tests.core.messages import CATALOG, ip, query

MACHINE, SERVER = ip("fdaa:0:18:a7b:7d:1:1:2"), ip("fdaa::3")


def exchange() -> Exchange:
    made = Exchange(Rules(), Metrics())
    made.use(CATALOG)
    return made


def ask(server: Exchange, name: str, times: int = 1) -> None:
    for _ in range(times):
        server.handle(query(name), MACHINE, SERVER, 40_000)


def test_queries_are_shown_while_the_page_is_open_and_forgotten_after() -> None:
    async def look() -> None:
        server = exchange()
        page = Live(server)
        ask(server, "web.internal")
        assert (await page.look(0))["queries"] == []  # before it was opened: nothing is kept
        ask(server, "web.internal")
        ask(server, "nosuch.internal")
        seen = (await page.look(0))["queries"]
        assert [(q["name"], q["rcode"], q["network"]) for q in seen] == [
            ("nosuch.internal", "NXDOMAIN", "acme"),
            ("web.internal", "NOERROR", "acme"),
        ]
        assert len(server.taps) == 1  # however often one looks
        page.end()
        assert not server.taps
        assert not page.queries

    asyncio.run(look())


def test_left_alone_it_stops_watching() -> None:
    async def look() -> None:
        page = Live(exchange())
        await page.look(0)
        assert page.ending is not None
        assert page.ending.when() - asyncio.get_running_loop().time() <= module.LEFT_ALONE
        page.ending._run()  # as the loop would
        assert not page.exchange.taps

    asyncio.run(look())


def test_of_many_queries_a_sample_is_shown() -> None:
    async def look() -> None:
        page = Live(exchange())
        for rate, every in ((0, 1), (20, 1), (20_000, 1_000), (0, 1)):
            assert (await page.look(rate))["every"] == every
            assert [tap.every for tap in page.exchange.taps] == [every]
        page.end()

    asyncio.run(look())


def test_names_are_busiest_first() -> None:
    async def look() -> None:
        server = exchange()
        page = Live(server)
        ask(server, "web.internal", 3)
        ask(server, "batch.internal", 9)
        found = await page.look(0)
        assert [row["name"] for row in found["top"]] == ["batch.internal", "web.internal"]
        page.end()

    asyncio.run(look())


def test_the_page_shows_them() -> None:
    server = exchange()
    with console(exchange=server) as client:
        assert "None since this page was opened" in get(client, "/live").all("main")[0][1]
        ask(server, "web.internal", 2)
        text = get(client, "/live").all("main")[0][1]
        assert "web.internal AAAA" in text
        assert "fdaa:0:18:a7b:7d:1:1:2" in text


def test_without_a_server_or_a_token_there_is_nothing() -> None:
    with console() as client:
        assert "No data" in get(client, "/live").all("main")[0][1]
    server = exchange()
    with console(exchange=server, inside=False) as client:
        assert client.get("/live").status_code == 401
    assert not server.taps
