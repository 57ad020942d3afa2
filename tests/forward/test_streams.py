"""Kept connections: when one is left for another, how often a question is sent, and what HTTPS may
not do."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from internal_dns.forward import streams
from internal_dns.forward.outstanding import Question
from internal_dns.forward.streams import Channel, HttpsChannel, StreamChannel
from internal_dns.forward.upstreams import Upstream
from tests.forward.doh import Doh, doh
from tests.forward.scripted import good, reply, scripted
from tests.live.certificates import Authority
from tests.tools import requires_tool


def run(story: Coroutine[Any, Any, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(20):
            await story

    asyncio.run(in_time())


def query(number: int) -> bytes:
    question = Question(b"\x06n%05d\0" % number, 1, False, False)
    return question.query(question.section(mixed=False))


async def given_up(channel: Channel, number: int = 0, after: float = 0.02) -> None:
    """Ask, and leave when there is no reply in time."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(after):
            await channel.ask(query(number), lambda: True)


def test_a_question_too_many_for_one_connection_goes_onto_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "MOST", 2)

    async def story() -> None:
        async with scripted(lambda octets, _: []) as (upstream,):
            channel = StreamChannel(upstream.tcp, None)
            asking = [asyncio.create_task(channel.ask(query(n), lambda: True)) for n in range(3)]
            while len(upstream.asked) < 3:
                await asyncio.sleep(0.001)
            assert upstream.connections == 2
            await channel.close()
            found = await asyncio.gather(*asking, return_exceptions=True)
            assert {type(each) for each in found} <= {streams.NoReply, ConnectionError}

    run(story())


@pytest.mark.parametrize("takes", [1, 2, 7])
def test_an_upstream_that_takes_few_questions_per_connection_answers_all_of_them(
    takes: int,
) -> None:
    """What it did not answer it did not read: that costs none of the question's messages."""

    async def story() -> None:
        async with scripted(good()) as (upstream,):
            upstream.takes = takes
            channel = StreamChannel(upstream.tcp, None)
            for _ in range(2):
                replies = await asyncio.gather(
                    *(channel.ask(query(n), lambda: False) for n in range(20))
                )
                assert len(replies) == 20
            most = [list(upstream.by_connection).count(n) for n in range(2, upstream.connections)]
            assert max(most) <= takes  # of those that were read, not thrown away
            assert upstream.connections <= 2 * 20 // takes + 6
            await channel.close()

    run(story())


def test_an_upstream_that_ends_a_connection_because_of_the_second_question_answers_all_of_them() -> (
    None
):
    """As dnsdist does, when its own upstream has not answered the first one yet."""

    async def story() -> None:
        async with scripted(lambda octets, _: []) as (upstream,):

            def answer(octets: bytes, stream: bool) -> list[bytes]:
                number = upstream.by_connection[-1]
                writer, said = upstream.writers[number - 1], reply(octets)
                if upstream.by_connection.count(number) > 1:
                    writer.transport.abort()
                else:
                    whole = len(said).to_bytes(2, "big") + said
                    asyncio.get_running_loop().call_later(0.02, writer.write, whole)
                return []

            upstream.script = answer
            channel = StreamChannel(upstream.tcp, None)
            replies = await asyncio.gather(
                *(channel.ask(query(n), lambda: True) for n in range(20))
            )
            assert len(replies) == 20
            await channel.close()

    run(story())


def test_questions_asked_while_a_write_fails_go_onto_a_new_connection() -> None:
    """asyncio reports a failed write one round later: until then the connection looks alive."""

    async def story() -> None:
        async with scripted(good()) as (upstream,):
            channel = StreamChannel(upstream.tcp, None)
            await channel.ask(query(0), lambda: False)
            upstream.writers[0].close()  # in this round; the first write gets a reset, others fail
            replies = await asyncio.gather(
                *(channel.ask(query(n), lambda: False) for n in range(1, 21))
            )
            assert len(replies) == 20
            assert upstream.connections == 2
            await channel.close()

    run(story())


def test_an_upstream_that_never_answers_on_a_connection_is_asked_twice() -> None:
    async def story() -> None:
        async with scripted(lambda octets, _: []) as (upstream,):
            upstream.takes = 1
            channel = StreamChannel(upstream.tcp, None)
            for may, connections in ((False, 1), (True, 3)):
                with pytest.raises(streams.NoReply):
                    await channel.ask(query(0), lambda may=may: may)  # type: ignore[misc]
                assert upstream.connections == connections
            await channel.close()

    run(story())


def test_a_second_try_opens_a_new_connection_when_the_first_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "SECOND", 0.02)

    async def story() -> None:
        async with scripted(good()) as (upstream,):
            channel = StreamChannel(upstream.tcp, None)
            await channel.ask(query(0), lambda: True)
            upstream.script = lambda octets, _: (
                [] if upstream.by_connection[-1] == 1 else [reply(octets)]
            )
            first = asyncio.create_task(channel.ask(query(1), lambda: True))
            await asyncio.sleep(0.03)
            assert await channel.ask(query(1), lambda: True, second=True)
            assert upstream.connections == 2
            assert not first.done()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await channel.close()

    run(story())


def test_a_connection_on_which_nothing_comes_is_left_though_no_question_waits_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "SILENT", 0.05)
    deaf = True

    async def story() -> None:
        nonlocal deaf
        async with scripted(lambda octets, _: [] if deaf else [reply(octets)]) as (upstream,):
            channel = StreamChannel(upstream.tcp, None)
            while channel.opened < 2:
                await given_up(channel)
            deaf = False
            assert await channel.ask(query(1), lambda: True)
            assert channel.opened == 2
            await channel.close()

    run(story())


def test_a_connection_that_does_not_come_about_gives_way_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "CONNECT", 0.05)

    async def story() -> None:
        async with scripted(lambda octets, _: []) as (
            upstream,
        ):  # it says nothing, so TLS never begins
            channel = StreamChannel(
                Upstream.parse(f"tls://127.0.0.1:{upstream.port}"), streams.context(None)
            )
            for opened in (1, 2):
                with pytest.raises(TimeoutError):
                    await channel.ask(query(0), lambda: True)
                assert channel.opened == opened
            await channel.close()

    run(story())


def test_a_connection_nobody_uses_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IDLE", 0.02)

    async def story() -> None:
        async with scripted(good()) as (upstream,):
            channel = StreamChannel(upstream.tcp, None)
            await channel.ask(query(0), lambda: True)
            while channel._open:
                await asyncio.sleep(0.001)

    run(story())


# ── HTTPS ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def by_https(
    authority: Authority,
) -> Callable[[Callable[[Doh, HttpsChannel], Coroutine[Any, Any, None]]], None]:
    """Run a story of a server and the way to ask it."""
    context = authority.sign("IP:127.0.0.1").context("h2")

    def tell(story: Callable[[Doh, HttpsChannel], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            async with doh(context) as server:
                channel = HttpsChannel(
                    Upstream.parse(f"https://127.0.0.1:{server.port}"), Path(authority.pem)
                )
                await story(server, channel)
                await channel.close()

        run(whole())

    return tell


Tell = Callable[[Callable[[Doh, HttpsChannel], Coroutine[Any, Any, None]]], None]
needs_openssl = requires_tool("openssl")


@needs_openssl
def test_cookies_are_not_sent_back_and_nothing_is_packed(by_https: Tell) -> None:
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
def test_https_leaves_a_connection_on_which_nothing_comes(
    by_https: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SILENT", 0.05)

    async def story(server: Doh, channel: HttpsChannel) -> None:
        assert await channel.ask(query(0), lambda: True)
        server.deaf = server.connections
        waiting = asyncio.create_task(channel.ask(query(1), lambda: True))
        line = channel.line
        while channel.line is line:
            await given_up(channel)
        assert await waiting  # asked again, over the new one
        assert server.connections == 2

    by_https(story)


@needs_openssl
def test_a_second_try_by_https_opens_a_new_connection_when_the_first_is_silent(
    by_https: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SECOND", 0.02)

    async def story(server: Doh, channel: HttpsChannel) -> None:
        assert await channel.ask(query(0), lambda: True)
        server.deaf = server.connections
        first = asyncio.create_task(channel.ask(query(1), lambda: True))
        await asyncio.sleep(0.03)
        assert await channel.ask(query(1), lambda: True, second=True)
        assert server.connections == 2
        assert not first.done()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    by_https(story)


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
    ours = streams.context(authority.pem)
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
        with pytest.raises(streams.NoReply):
            await channel.ask(query(0), lambda: True)
        assert server.connections == 2
        with pytest.raises(streams.NoReply):
            await channel.ask(query(0), lambda: False)
        assert server.connections == 3

    by_https(story)


@needs_openssl
@pytest.mark.parametrize(
    ("header", "age"),
    [("17", 17), ("0", 0), ("-1", 0), ("x", 0), ("1.5", 0), ("9" * 15, streams.MAX_AGE)],
)
def test_the_age_of_a_reply_is_told(by_https: Tell, header: str, age: int) -> None:
    async def story(server: Doh, channel: HttpsChannel) -> None:
        server.headers = (("age", header),)
        assert (await channel.ask(query(0), lambda: True))[1] == age

    by_https(story)
