"""DNS over HTTPS: when a client is replaced, how often a query is sent, what HTTP may not do."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from internal_dns.forward.channel import NoReply, tls_context
from internal_dns.forward.https import MAX_AGE, HttpsChannel
from internal_dns.forward.times import TIMES, Times
from internal_dns.forward.upstreams import Upstream
from tests.forward.channels import given_up, query, run
from tests.forward.doh import Doh, doh
from tests.live.certificates import Authority
from tests.tools import requires_tool

Story = Callable[[Doh, HttpsChannel], Coroutine[Any, Any, None]]


class Tell(Protocol):
    """Runs a story of a server and the channel to it."""

    def __call__(self, story: Story, times: Times = TIMES) -> None: ...


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def by_https(authority: Authority) -> Tell:
    """Run a story of a server and the way to ask it."""
    context = authority.sign("IP:127.0.0.1").context("h2")

    def tell(story: Story, times: Times = TIMES) -> None:
        async def whole() -> None:
            async with doh(context) as server:
                upstream = Upstream.parse(f"https://127.0.0.1:{server.port}")
                channel = HttpsChannel(upstream, Path(authority.pem), times)
                await story(server, channel)
                await channel.close()

        run(whole())

    return tell


needs_openssl = requires_tool("openssl")


@needs_openssl
def test_cookies_are_not_sent_back_and_bodies_are_not_compressed(by_https: Tell) -> None:
    async def story(server: Doh, channel: HttpsChannel) -> None:
        server.headers = (("set-cookie", "who=you; Path=/"),)
        for number in range(3):
            assert await channel.ask(query(number), lambda: True)
        assert {headers.get("cookie") for headers in server.asked} == {None}
        assert {headers["accept-encoding"] for headers in server.asked} == {"identity"}
        server.headers, server.body = (
            (("content-encoding", "gzip"),),
            gzip.compress(bytes(1_000_000)),
        )
        assert await channel.ask(query(0), lambda: True) == (server.body, 0)

    by_https(story)


@needs_openssl
def test_the_media_type_may_have_parameters_and_letters_of_any_case(by_https: Tell) -> None:
    async def story(server: Doh, channel: HttpsChannel) -> None:
        server.content_type = "Application/DNS-Message; charset=utf-8"
        assert await channel.ask(query(0), lambda: True)
        server.content_type = "text/html"
        with pytest.raises(ConnectionError, match="text/html"):
            await channel.ask(query(0), lambda: True)

    by_https(story)


@needs_openssl
@pytest.mark.parametrize("status", [302, 307, 404, 503])
def test_redirects_and_errors_are_no_replies(by_https: Tell, status: int) -> None:
    async def story(server: Doh, channel: HttpsChannel) -> None:
        server.status, server.headers = (
            status,
            (("location", f"https://127.0.0.1:{server.port}/elsewhere"),),
        )
        with pytest.raises(ConnectionError, match=str(status)):
            await channel.ask(query(0), lambda: True)
        assert [headers[":path"] for headers in server.asked] == ["/dns-query"]

    by_https(story)


@needs_openssl
def test_https_leaves_a_silent_connection(by_https: Tell) -> None:
    async def story(server: Doh, channel: HttpsChannel) -> None:
        assert await channel.ask(query(0), lambda: True)
        server.deaf = server.connections
        waiting = asyncio.create_task(channel.ask(query(1), lambda: True))
        client = channel.client
        while channel.client is client:
            await given_up(channel)
        assert await waiting  # asked again, over the new one
        assert server.connections == 2

    by_https(story, Times(silent=0.05))


@needs_openssl
def test_a_second_attempt_over_https_opens_a_new_connection_when_the_first_is_silent(
    by_https: Tell,
) -> None:
    async def story(server: Doh, channel: HttpsChannel) -> None:
        assert await channel.ask(query(0), lambda: True)
        server.deaf = server.connections
        first = asyncio.create_task(channel.ask(query(1), lambda: True))
        await asyncio.sleep(0.03)
        assert await channel.ask(query(1), lambda: True, retry=True)
        assert server.connections == 2
        assert not first.done()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    by_https(story, Times(hedge=0.02))


@needs_openssl
def test_a_closed_channel_is_an_error_of_the_connection(by_https: Tell) -> None:
    async def story(server: Doh, channel: HttpsChannel) -> None:
        await channel.close()
        with pytest.raises(ConnectionError):
            await channel.ask(query(0), lambda: True)

    by_https(story)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """Have both ends agree on TLS in memory. Raises ssl.SSLError when one does not like the
    other."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname=name),
        server.wrap_bio(there, back, server_side=True),
    ]
    while ends:
        for end in tuple(ends):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
                ends.remove(end)


@needs_openssl
def test_a_certificate_is_for_its_alternative_names_and_never_for_its_common_name(
    authority: Authority,
) -> None:
    """Without a DNS name there, the library would take the common name `upstream` for one."""
    pair = authority.sign("IP:127.0.0.1")
    ours = tls_context(authority.pem)
    handshake(pair.context("dot"), ours, "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError, match="upstream"):
        handshake(pair.context("dot"), ours, "upstream")
    handshake(authority.sign("DNS:upstream").context("dot"), ours, "upstream")


@needs_openssl
@pytest.mark.parametrize("goaway", [False, True])
def test_a_connection_that_https_lost_costs_a_new_one_and_never_the_question(
    by_https: Tell, goaway: bool
) -> None:
    async def story(server: Doh, channel: HttpsChannel) -> None:
        for number in range(4):
            assert await channel.ask(query(number), lambda: True)
            server.hang_up(goaway=goaway)
            await asyncio.sleep(0.01 * number)
        assert server.connections == 4

    by_https(story)


@needs_openssl
def test_https_asks_once_more_and_then_no_more(by_https: Tell) -> None:
    async def story(server: Doh, channel: HttpsChannel) -> None:
        server.ends = True
        with pytest.raises(NoReply):
            await channel.ask(query(0), lambda: True)
        assert server.connections == 2
        with pytest.raises(NoReply):
            await channel.ask(query(0), lambda: False)
        assert server.connections == 3

    by_https(story)


@needs_openssl
@pytest.mark.parametrize(
    ("header", "age"),
    [("17", 17), ("0", 0), ("-1", 0), ("x", 0), ("1.5", 0), ("9" * 15, MAX_AGE)],
)
def test_the_age_header_is_returned_with_the_reply(by_https: Tell, header: str, age: int) -> None:
    async def story(server: Doh, channel: HttpsChannel) -> None:
        server.headers = (("age", header),)
        assert (await channel.ask(query(0), lambda: True))[1] == age

    by_https(story)
