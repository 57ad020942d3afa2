"""Nobody can take the event loop: each listener lets neighbours have their turn, on real sockets.

Every piece of work costs a millisecond here, by a clock of our own: so it is known who is next.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network
from typing import Any

import pytest

from internal_dns.core.catalog import NetworkId
from internal_dns.core.journey import Rules
from internal_dns.core.requester import SourceMap
from internal_dns.metrics import Metrics
from internal_dns.net import packed
from internal_dns.transport import native
from internal_dns.transport.answer import Exchange
from internal_dns.transport.fairness import OURSELVES, OUTSIDERS, PART
from internal_dns.transport.listen.tcp import READ_AHEAD, Connection, Connections
from internal_dns.transport.listen.udp import UdpListener
from internal_dns.transport.native.listener import Udp
from internal_dns.transport.native.mirror import Mirror
from tests.core.messages import AAAA, A
from tests.core.messages import query as plain
from tests.transport.test_exchange import Upstreams, demo

ACME, GLOBEX, OUTSIDE = "127.0.0.2", "127.0.0.3", "127.0.0.4"
PIECE = 0.001
FLOOD = 400
PATHS = [
    "python",
    pytest.param("native", marks=pytest.mark.skipif(bool(native.MISSING), reason="not built")),
]


def query(name: str, qtype: int, number: int = 0) -> bytes:
    """A query whose id is *number*."""
    return number.to_bytes(2, "big") + plain(name, qtype)[2:]


def rules() -> Rules:
    return Rules(
        maps=tuple(
            SourceMap.of(IPv4Network(f"{host}/32"), NetworkId(network))
            for host, network in ((ACME, 0x18), (GLOBEX, 0x19))
        )
    )


def bound(kind: socket.SocketKind, host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((host, 0))
    sock.setblocking(False)
    return sock


class Server:
    """An exchange whose pieces of work cost a millisecond each, and its listeners."""

    def __init__(self, path: str) -> None:
        self.metrics, self.spent = Metrics(), 0.0
        self.mirror = Mirror(rules(), self.metrics) if path == "native" else None
        self.exchange = Exchange(rules(), self.metrics, Upstreams(), self.mirror)
        self.exchange.use(demo())
        self.exchange.work.cpu = self._look
        self.udp_socket = bound(socket.SOCK_DGRAM)
        self.udp: UdpListener | Udp
        if self.mirror:
            self.udp = Udp([[self.udp_socket]], self.exchange, self.metrics, self.mirror, 1)
        else:
            self.udp = UdpListener(self.udp_socket, self.exchange, self.metrics)
        self.connections = Connections(self.exchange, self.metrics)

    def _look(self) -> float:
        self.spent += PIECE
        return self.spent

    def client(self, host: str) -> socket.socket:
        sock = bound(socket.SOCK_DGRAM, host)
        sock.connect(self.udp_socket.getsockname())
        return sock

    @property
    def waiting(self) -> int:
        return len(self.exchange.work.queue)


def story(path: str, play: Callable[[Server], Awaitable[None]]) -> None:
    async def run() -> None:
        server = Server(path)
        try:
            async with asyncio.timeout(20):
                await play(server)
        finally:
            server.udp.close()
            server.udp_socket.close()

    asyncio.run(run())


def flood(client: socket.socket, count: int = FLOOD, name: str = "x{}.internal") -> None:
    for number in range(count):
        client.send(query(name.format(number), AAAA, number))


async def seen(server: Server) -> None:
    """Wait until the flood has been read."""
    while server.waiting < FLOOD // 2:
        await asyncio.sleep(0)


def takes_from_the_first_put(server: Server, of: socket.socket) -> list[bytes]:
    """Return a list that fills with who has a turn from now on, from when a message of *of* waits
    to when it has its own."""
    queue, passed = server.exchange.work.queue, list[bytes]()
    payer = server.exchange.payers.of_source(packed(of.getsockname()[0]))
    put, take, waits = queue.put, queue.take, [False]

    def put_and_see(who: bytes, item: Any, size: int = 0, *, must: bool = False) -> Any:
        waits[0] = waits[0] or who == payer
        return put(who, item, size, must=must)

    def take_and_see() -> Any:
        taken = take()
        if waits[0] and taken is not None:
            waits[0] = taken[0] != payer
            passed.append(taken[0])
        return taken

    vars(queue).update(put=put_and_see, take=take_and_see)
    return passed


async def reply(client: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(client, 4_096)


def new_name(number: int = 0) -> bytes:
    """One that the native path cannot answer alone either: below an app that is there."""
    return query(f"m{number}.vm.web.internal", AAAA, number)


@pytest.mark.parametrize("path", PATHS)
def test_a_neighbour_behind_a_flood_is_next(path: str) -> None:
    async def play(server: Server) -> None:
        with server.client(ACME) as attacker, server.client(GLOBEX) as neighbour:
            flood(attacker, name="m{}.vm.web.internal")
            await seen(server)
            passed = takes_from_the_first_put(server, of=neighbour)
            neighbour.send(new_name(7))
            assert (await reply(neighbour))[:2] == b"\0\x07"
            # Once it waits, it is next but for the debt that one piece of the flood leaves.
            assert 1 <= len(passed) <= 3
            assert server.waiting > FLOOD // 3

    story(path, play)


@pytest.mark.parametrize("path", PATHS)
def test_alone_a_network_gets_all_its_answers_in_order(path: str) -> None:
    async def play(server: Server) -> None:
        with server.client(ACME) as client:
            flood(client, name="m{}.vm.web.internal")
            came = [int.from_bytes((await reply(client))[:2], "big") for _ in range(FLOOD)]
            assert came == list(range(FLOOD))
            assert not server.metrics.drops

    story(path, play)


@pytest.mark.parametrize("path", PATHS)
def test_while_others_wait_a_line_is_bounded_and_what_is_dropped_is_counted(path: str) -> None:
    async def play(server: Server) -> None:
        work = server.exchange.work
        acme = b"\0\0\0\x18"
        work.queue.spend(acme, 10.0)  # so that the other one is next

        def wait_again() -> None:  # until the datagram is here, whatever the machine does meanwhile
            if not server.metrics.drops:
                work.must(b"\0\0\0\x19", wait_again)

        wait_again()
        for _ in range(PART):
            work.put(acme, lambda: None)
        with server.client(ACME) as attacker:
            attacker.send(new_name())
            while not server.metrics.drops:
                await asyncio.sleep(0)
            assert server.metrics.drops == {"line": 1}

    story(path, play)


@pytest.mark.parametrize("path", PATHS)
def test_the_watchdogs_question_passes_a_flood_of_outsiders(path: str) -> None:
    async def play(server: Server) -> None:
        with server.client(OUTSIDE) as attacker, server.client(OUTSIDE) as own:
            flood(attacker)
            await seen(server)
            host, port = own.getsockname()
            with server.exchange.payers.asking_ourselves(packed(host), port):
                assert server.exchange.payers.of_source(packed(host), port) == OURSELVES
                own.send(query("localhost", AAAA, 9))
                assert (await reply(own))[:2] == b"\0\x09"
            assert server.waiting > FLOOD // 3
            assert server.exchange.payers.of_source(packed(host), port) == OUTSIDERS

    story(path, play)


def test_a_known_answer_is_repeated_at_once_unless_its_network_is_in_debt() -> None:
    async def play(server: Server) -> None:
        work, acme = server.exchange.work, b"\0\0\0\x18"
        with server.client(ACME) as debtor, server.client(GLOBEX) as neighbour:
            for client in (debtor, neighbour):  # both know the answer now
                client.send(query("web.internal", AAAA))
                await reply(client)
            flood(neighbour, name="m{}.vm.web.internal")
            await seen(server)
            work.queue.spend(acme, 10.0)
            before, hits = server.waiting, server.exchange.answers.hits
            debtor.send(query("web.internal", AAAA, 1))
            while server.waiting:
                if acme in work.queue.lines.of:
                    break
                await asyncio.sleep(0)
            assert acme in work.queue.lines.of
            assert server.exchange.answers.hits == hits
            # It is work-conserving: the debtor is served when nobody else waits.
            assert (await reply(debtor))[:2] == b"\0\x01"
            assert server.waiting < before / 2

    story("python", play)


class Stream:
    """A client over TCP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *messages: bytes) -> None:
        self.writer.write(b"".join(len(m).to_bytes(2, "big") + m for m in messages))

    async def reply(self) -> bytes:
        length = int.from_bytes(await self.reader.readexactly(2), "big")
        return await self.reader.readexactly(length)


async def stream(server: Server, host: str, listening: asyncio.Server) -> Stream:
    address = listening.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address[:2], local_addr=(host, 0))
    return Stream(reader, writer)


async def listen(server: Server) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(
        server.connections.protocol, "127.0.0.1", 0
    )


def test_a_thousand_pipelined_messages_are_answered_in_order_and_neighbours_between() -> None:
    async def play(server: Server) -> None:
        async with await listen(server) as listening:
            attacker = await stream(server, ACME, listening)
            attacker.send(*(new_name(number) for number in range(1_000)))
            assert (await attacker.reply())[:2] == b"\0\0"
            with server.client(GLOBEX) as neighbour:
                neighbour.send(new_name(7))
                await reply(neighbour)
            connection = next(iter(server.connections.open))
            # The rest waits in the connection: one message of it in the queue.
            assert len(connection.received) > 100 * len(new_name())
            assert server.waiting <= 1
            came = [int.from_bytes((await attacker.reply())[:2], "big") for _ in range(999)]
            assert came == list(range(1, 1_000))
            attacker.writer.close()

    story("python", play)


def test_a_connection_is_not_read_and_its_timers_rest_while_it_waits_for_its_turn() -> None:
    async def play(server: Server) -> None:
        async with await listen(server) as listening:
            attacker = await stream(server, ACME, listening)
            count = 2 * READ_AHEAD // len(new_name())
            attacker.send(*(new_name(number) for number in range(count)))
            while not any(connection.queued for connection in server.connections.open):
                await asyncio.sleep(0)
            connection: Connection = next(iter(server.connections.open))
            connection.since -= 60
            while connection.transport.is_reading():
                await asyncio.sleep(0)
            assert len(connection.received) < READ_AHEAD + 262_144  # one read more
            connection.since -= 60
            connection._watch()
            assert not connection.transport.is_closing()
            for number in range(count):
                assert (await attacker.reply())[:2] == number.to_bytes(2, "big")
            while not connection.transport.is_reading():
                await asyncio.sleep(0)
            attacker.writer.close()

    story("python", play)


def test_a_connection_counts_for_its_network_as_its_work_does() -> None:
    async def play(server: Server) -> None:
        async with await listen(server) as listening:
            clients = [await stream(server, host, listening) for host in (ACME, GLOBEX, OUTSIDE)]
            for client in clients:
                client.send(query("web.internal", AAAA))
                await client.reply()
            assert dict(server.connections.by_network) == {
                b"\0\0\0\x18": 1,
                b"\0\0\0\x19": 1,
                OUTSIDERS: 1,
            }
            for client in clients:
                client.writer.close()

    story("python", play)


def test_known_answers_over_tcp_take_turns_when_others_wait() -> None:
    async def play(server: Server) -> None:
        async with await listen(server) as listening:
            client = await stream(server, ACME, listening)
            client.send(query("web.internal", AAAA))
            await client.reply()
            work = server.exchange.work
            order: list[Any] = []
            work.must(b"\0\0\0\x19", order.append, "waits")
            work.queue.spend(b"\0\0\0\x18", 1.0)
            connection = next(iter(server.connections.open))
            message = query("web.internal", AAAA)
            connection.data_received(len(message).to_bytes(2, "big") + message)
            assert connection.queued
            work.must(b"\0\0\0\x19", order.append, "too")
            await client.reply()
            assert order == ["waits", "too"]
            client.writer.close()

    story("python", play)


def test_replies_of_upstreams_are_relayed_in_the_turn_of_their_network() -> None:
    async def play(server: Server) -> None:
        exchange = server.exchange
        forwarder = exchange.forwarder
        assert forwarder is not None
        order: list[Any] = []
        exchange.work.queue.spend(b"\0\0\0\x18", 1.0)
        forwarder.relay(NetworkId(0x18), lambda: order.append("relayed"))
        forwarder.check([NetworkId(0x18), NetworkId(0x19)], lambda: order.append("checked"))
        assert order == []  # nothing is done before its turn
        while exchange.work.busy:
            await asyncio.sleep(0)
        assert order == ["checked", "relayed"]

    story("python", play)


def test_external_names_go_through_the_queue_too() -> None:
    async def play(server: Server) -> None:
        with server.client(ACME) as attacker, server.client(GLOBEX) as neighbour:
            flood(attacker, name="n{}.example")
            await seen(server)
            neighbour.send(query("example.com", A, 5))
            assert (await reply(neighbour))[:2] == b"\0\x05"
            assert server.waiting > FLOOD // 3

    story("python", play)
