"""The shared sockets of an upstream, in virtual time."""

from __future__ import annotations

import asyncio
import socket

import pytest

from internal_dns.forward.sockets import SharedSocket, SocketPool
from internal_dns.forward.times import TIMES
from tests.forward.virtual import run


class NeverAnswered:
    """A question that is still without a reply."""

    def take(self, octets: bytes) -> None:
        raise AssertionError("nothing was sent to it")

    def concerns(self, octets: bytes) -> bool:
        raise AssertionError("nothing was sent to it")

    def count_near_miss(self) -> None:
        raise AssertionError("nobody guesses")

    def unreachable(self) -> None:
        raise AssertionError("somebody is there")


def shared(pool: SocketPool, now: float = 0.0) -> SharedSocket:
    taken = pool.take(now)
    assert taken is not None
    return taken


def upstream() -> socket.socket:
    """A bound socket that never replies."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def pool_of_one(sock: socket.socket) -> SocketPool:
    return SocketPool(socket.AF_INET, sock.getsockname, 1, lambda: None, anywhere=True)


def test_an_upstream_without_queries_holds_no_descriptor() -> None:
    async def story() -> None:
        with upstream() as sock:
            first = shared(pool_of_one(sock))
            await asyncio.sleep(TIMES.socket / 2)
            assert first.sock.fileno() >= 0
            await asyncio.sleep(TIMES.socket)
            assert first.sock.fileno() < 0

    run(story())


def test_an_expired_socket_waits_for_the_last_question_on_it() -> None:
    async def story() -> None:
        with upstream() as sock:
            pool = pool_of_one(sock)
            first = shared(pool)
            ident = first.free_ident()
            first.send(ident, bytes(10), NeverAnswered())
            await asyncio.sleep(2 * TIMES.socket)
            assert first.sock.fileno() >= 0
            second = shared(pool, 2 * TIMES.socket)
            assert second is not first
            first.release(ident)
            assert first.sock.fileno() < 0
            assert second.sock.fileno() >= 0
            pool.close()
            await asyncio.sleep(
                2 * TIMES.socket
            )  # the timer of a pool that was closed does nothing
            assert second.sock.fileno() < 0

    run(story())


def test_the_timer_of_a_replaced_socket_spares_its_successor() -> None:
    async def story() -> None:
        with upstream() as sock:
            pool = pool_of_one(sock)
            first = shared(pool)
            first.sent = 256
            await asyncio.sleep(TIMES.socket / 2)
            second = shared(pool, TIMES.socket / 2)
            assert second is not first
            await asyncio.sleep(TIMES.socket * 0.75)
            assert first.sock.fileno() < 0
            assert second.sock.fileno() >= 0
            pool.close()

    run(story())


def test_a_shared_socket_looks_closed_to_any_other_address() -> None:
    async def story() -> None:
        with upstream() as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as scanner:
            pool = pool_of_one(sock)
            first = shared(pool)
            scanner.connect(first.sock.getsockname())
            scanner.send(b"is there anybody?")
            with pytest.raises(ConnectionRefusedError):
                scanner.send(b"again")
            pool.close()

    run(story())
