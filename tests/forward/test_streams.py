"""Persistent connections: when one is left for another, and how often a query is sent."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from internal_dns.forward.channel import NoReply, tls_context
from internal_dns.forward.streams import StreamChannel
from internal_dns.forward.times import TIMES, Times
from internal_dns.forward.upstreams import Upstream
from tests.forward import virtual
from tests.forward.channels import given_up, query, run
from tests.forward.scripted import good, reply, scripted


def test_a_question_too_many_for_one_connection_goes_onto_another() -> None:
    async def story() -> None:
        async with scripted(lambda octets, _: []) as (upstream,):
            channel = StreamChannel(upstream.tcp, None, at_once=2)
            asking = [asyncio.create_task(channel.ask(query(n), lambda: True)) for n in range(3)]
            while len(upstream.asked) < 3:
                await asyncio.sleep(0.001)
            assert upstream.connections == 2
            await channel.close()
            found = await asyncio.gather(*asking, return_exceptions=True)
            assert {type(each) for each in found} <= {NoReply, ConnectionError}

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


def test_an_upstream_that_ends_a_connection_at_the_second_query_answers_all_of_them() -> None:
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


class Misbehaving:
    """A server that answers, stays silent, answers twice, says nonsense, closes or resets, at
    random, until it is told to behave."""

    def __init__(self, seed: int) -> None:
        self.draw, self.behaves = random.Random(seed), False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while self.behaves or self.draw.random() < 0.9:  # else it closes, perhaps unread
                size = int.from_bytes(await reader.readexactly(2), "big")
                answer = reply(await reader.readexactly(size))
                kind = 7 if self.behaves else self.draw.randrange(8)
                if kind == 0:
                    writer.transport.abort()
                    break
                if kind == 1:
                    continue
                if kind == 2:
                    answer = self.draw.randbytes(2) + answer[2:]
                for _ in range(2 if kind == 3 else 1):
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                if kind == 4:
                    break
                if kind == 5:
                    await asyncio.sleep(self.draw.random())
        writer.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_whatever_an_upstream_does_every_query_ends_and_the_books_agree(seed: int) -> None:
    async def story() -> None:
        peer = Misbehaving(seed)
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        # With an even seed, what is learned about the limit is forgotten at once.
        times = TIMES if seed % 2 else Times(limited=0.0)
        channel = StreamChannel(Upstream.parse(f"tcp://127.0.0.1:{port}"), None, times)
        draw = random.Random(seed)

        async def ask(number: int) -> bool:
            await asyncio.sleep(draw.random())
            messages = 1

            def may_resend() -> bool:
                nonlocal messages
                messages += 1
                return messages <= 4

            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(draw.choice((0.01, 1.0, 4.4))):
                    answer, _ = await channel.ask(query(number), may_resend)
                    assert answer[12:18] == query(number)[10:16]
                    return True
            return False

        for _ in range(4):
            tasks = [asyncio.create_task(ask(number)) for number in range(60)]
            while not all(task.done() for task in tasks):
                await asyncio.sleep(0.1)
                channel.check_books()
            for task in tasks:
                task.result()
            assert all(each.room == each.total for each in channel.connections if not each.limited)
        await asyncio.sleep(20)  # what was silent is given up, what is idle is closed
        peer.behaves = True
        await channel.ask(query(0), lambda: True)
        channel.check_books()
        await channel.close()
        assert not channel.connections
        server.close()
        await asyncio.sleep(0.1)

    virtual.run(story())


def test_an_upstream_that_never_answers_on_a_connection_is_asked_twice() -> None:
    async def story() -> None:
        async with scripted(lambda octets, _: []) as (upstream,):
            upstream.takes = 1
            channel = StreamChannel(upstream.tcp, None)
            for may, connections in ((False, 1), (True, 3)):
                with pytest.raises(NoReply):
                    await channel.ask(query(0), lambda may=may: may)  # type: ignore[misc]
                assert upstream.connections == connections
            await channel.close()

    run(story())


def test_a_second_attempt_opens_a_new_connection_when_the_first_is_silent() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            channel = StreamChannel(upstream.tcp, None, Times(hedge=0.02))
            await channel.ask(query(0), lambda: True)
            upstream.script = lambda octets, _: (
                [] if upstream.by_connection[-1] == 1 else [reply(octets)]
            )
            first = asyncio.create_task(channel.ask(query(1), lambda: True))
            await asyncio.sleep(0.03)
            assert await channel.ask(query(1), lambda: True, retry=True)
            assert upstream.connections == 2
            assert not first.done()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await channel.close()

    run(story())


def test_a_silent_connection_is_left_though_no_query_waits_long() -> None:
    deaf = True

    async def story() -> None:
        nonlocal deaf
        async with scripted(lambda octets, _: [] if deaf else [reply(octets)]) as (upstream,):
            channel = StreamChannel(upstream.tcp, None)
            while channel.opened < 2:
                await given_up(channel, after=0.5)
            deaf = False
            assert await channel.ask(query(1), lambda: True)
            assert channel.opened == 2
            await channel.close()

    virtual.run(story())


def test_a_connection_that_cannot_be_established_gives_way_to_another() -> None:
    async def story() -> None:
        async with scripted(lambda octets, _: []) as (
            upstream,
        ):  # it says nothing, so TLS never begins
            channel = StreamChannel(
                Upstream.parse(f"tls://127.0.0.1:{upstream.port}"),
                tls_context(None),
                Times(connect=0.05),
            )
            for opened in (1, 2):
                with pytest.raises(TimeoutError):
                    await channel.ask(query(0), lambda: True)
                assert channel.opened == opened
            await channel.close()

    run(story())


def test_an_idle_connection_is_closed() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            channel = StreamChannel(upstream.tcp, None, Times(idle=0.02))
            await channel.ask(query(0), lambda: True)
            while channel.connections:
                await asyncio.sleep(0.001)

    run(story())
