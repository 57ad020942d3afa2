"""The native sockets to an upstream, in virtual time: what they match, and when they close."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import pytest

from internal_dns.core.relayed import Relayed
from internal_dns.forward.native import MISSING
from internal_dns.forward.native.sockets import NativeSockets, NativeTarget
from internal_dns.forward.times import TIMES
from tests.forward.scripted import reply
from tests.forward.virtual import run

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

WWW = b"\3www\7example\3com\0"
PREFIX = b"\xfd\xaa"


class Recipient:
    """Notes what comes for one question."""

    def __init__(self, target: NativeTarget, name: bytes = WWW, **how: Any) -> None:
        self.simple: list[Relayed] = []
        self.octets: list[bytes] = []
        self.near_misses = self.times_unreachable = 0
        now = asyncio.get_running_loop().time()
        how = {"edns": True, "probe": False, **how}
        self.asked = target.ask(name, 1, how.pop("variant", 0), now=now, **how)
        self.asked.recipient = self

    def take(self, octets: bytes) -> None:
        self.octets.append(octets)

    def take_simple(self, relayed: Relayed) -> None:
        self.simple.append(relayed)

    def count_near_miss(self) -> None:
        self.near_misses += 1

    def unreachable(self) -> None:
        self.times_unreachable += 1


class Upstream:
    """A bound socket, and native sockets to it."""

    def __init__(self, mode: str = "pool", size: int = 1) -> None:
        self.strays = 0
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.sockets = NativeSockets((b"\x08internal\0",), PREFIX, TIMES, lambda: None)
        self.target = self.sockets.target(self.sock.getsockname(), mode, size, self._stray)

    def _stray(self) -> None:
        self.strays += 1

    def read(self) -> tuple[bytes, Any]:
        return self.sock.recvfrom(4096)

    def answer(self, change: Callable[[bytes], bytes] = lambda octets: octets) -> None:
        octets, source = self.read()
        self.sock.sendto(change(reply(octets)), source)

    def close(self) -> None:
        self.sockets.close()
        self.sock.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("mode", ["fresh", "pool", "auto"])
def test_a_simple_reply_comes_with_what_is_relayed(mode: str) -> None:
    async def story() -> None:
        upstream = Upstream(mode, 64)
        question = Recipient(upstream.target)
        upstream.answer()
        await settle()
        (relayed,) = question.simple
        assert (relayed.rcode, relayed.counts, relayed.lifetime) == (0, (1, 0), 60)
        assert question.octets == []
        question.asked.close()
        upstream.close()

    run(story())


@pytest.mark.parametrize("variant", range(4))
@pytest.mark.parametrize("edns", [True, False])
def test_the_query_is_the_same_as_pythons(variant: int, edns: bool) -> None:
    from internal_dns.forward.question import Question

    async def story() -> None:
        upstream = Upstream()
        question = Recipient(upstream.target, variant=variant, edns=edns)
        octets, _ = upstream.read()
        twin = Question(WWW, 1, bool(variant & 1), bool(variant & 2))
        assert octets[:2] == question.asked.ident
        assert octets[2:] == twin.query(question.asked.section, edns=edns)
        assert question.asked.section[:-4].lower() == WWW
        question.asked.close()
        upstream.close()

    run(story())


def test_ids_and_letter_case_are_random() -> None:
    async def story() -> None:
        upstream = Upstream(size=64)
        name = b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\0"
        questions = [Recipient(upstream.target, name) for _ in range(400)]
        sections = {question.asked.section for question in questions}
        assert len(sections) == 400
        assert len({question.asked.ident for question in questions}) > 380
        for at in range(1, 64):  # each letter is both, and neither far more often
            capitals = sum(section[at] == ord("A") for section in sections)
            assert 100 < capitals < 300
        for question in questions:
            question.asked.close()
        upstream.close()

    run(story())


def test_fresh_sockets_have_ports_of_their_own() -> None:
    async def story() -> None:
        upstream = Upstream("fresh")
        questions = [Recipient(upstream.target) for _ in range(200)]
        assert len({upstream.read()[1] for _ in questions}) == 200
        before = descriptors()
        for question in questions:
            question.asked.close()
        assert descriptors() == before - 200
        upstream.close()

    run(story())


@pytest.mark.parametrize(
    ("change", "simple", "octets", "near_misses", "strays"),
    [
        (lambda o: o, 1, 0, 0, 0),
        (lambda o: bytes((o[0] ^ 1,)) + o[1:], 0, 0, 1, 0),  # another id
        (lambda o: o[:13] + bytes((o[13] ^ 0x20,)) + o[14:], 0, 1, 0, 0),  # another letter case
        (lambda o: o[:2] + b"\x83" + o[3:], 0, 1, 0, 0),  # TC
        (lambda o: o[:3] + b"\x82" + o[4:], 0, 1, 0, 0),  # SERVFAIL
        (lambda o: o[:3], 0, 1, 0, 0),
        (lambda o: b"\xff\xff\xff" if o[:2] != b"\xff\xff" else b"\0\0\0", 0, 0, 0, 1),
        (lambda o: b"", 0, 0, 0, 1),
    ],
)
def test_what_is_not_the_reply_goes_to_python(
    change: Callable[[bytes], bytes], simple: int, octets: int, near_misses: int, strays: int
) -> None:
    async def story() -> None:
        upstream = Upstream()
        question = Recipient(upstream.target)
        upstream.answer(change)
        await settle()
        assert len(question.simple) == simple
        assert len(question.octets) == octets
        assert question.near_misses == near_misses
        assert upstream.strays == strays
        question.asked.close()
        upstream.close()

    run(story())


def test_on_a_socket_of_its_own_anything_else_is_a_guess() -> None:
    async def story() -> None:
        upstream = Upstream("fresh")
        question = Recipient(upstream.target)
        upstream.answer(lambda _: b"\xff\xff\xff")
        await settle()
        assert question.near_misses + len(question.octets) == 1  # the id may be right by chance
        assert upstream.strays == 0
        question.asked.close()
        upstream.close()

    run(story())


def test_after_the_reply_nothing_more_is_read_for_a_question() -> None:
    async def story() -> None:
        upstream = Upstream()
        question = Recipient(upstream.target)
        octets, source = upstream.read()
        for _ in range(3):
            upstream.sock.sendto(reply(octets), source)
        await settle()
        assert len(question.simple) == 1
        assert not question.octets
        question.asked.close()
        await settle()
        assert upstream.strays == 0  # they were read before
        upstream.close()

    run(story())


def test_what_is_behind_a_paused_reply_is_read_after_it() -> None:
    async def story() -> None:
        upstream = Upstream("fresh")
        question = Recipient(upstream.target)
        octets, source = upstream.read()
        bad = reply(octets, flags=int(dns.flags.TC))
        question.asked.pause()
        upstream.sock.sendto(bad, source)
        upstream.sock.sendto(reply(octets), source)
        await settle()
        assert not question.octets
        question.asked.resume()
        await settle()
        assert question.octets == [bad]
        assert len(question.simple) == 1
        question.asked.close()
        upstream.close()

    run(story())


def test_a_probes_reply_is_never_simple() -> None:
    async def story() -> None:
        upstream = Upstream()
        question = Recipient(upstream.target, probe=True)
        upstream.answer()
        await settle()
        assert (len(question.simple), len(question.octets)) == (0, 1)
        question.asked.close()
        upstream.close()

    run(story())


@pytest.mark.parametrize("mode", ["fresh", "pool"])
def test_nobody_listens(mode: str) -> None:
    async def story() -> None:
        upstream = Upstream(mode)
        upstream.sock.close()
        questions = [Recipient(upstream.target)]
        await settle()
        assert [question.times_unreachable for question in questions] == [1]
        questions[0].asked.close()
        questions[0].asked.close()  # a second time does nothing
        upstream.close()

    run(story())


def test_an_upstream_without_queries_holds_no_descriptor() -> None:
    async def story() -> None:
        upstream = Upstream(size=8)
        questions = [Recipient(upstream.target) for _ in range(100)]
        for question in questions:
            question.asked.close()
        assert upstream.target.of.pooled > 1
        before = descriptors()
        held = upstream.target.of.pooled
        await asyncio.sleep(2.5 * TIMES.socket)
        assert upstream.target.of.pooled == 0
        assert descriptors() == before - held
        again = Recipient(upstream.target)
        assert upstream.target.of.pooled == 1
        again.asked.close()
        upstream.close()

    run(story())


def test_a_socket_serves_256_queries() -> None:
    async def story() -> None:
        upstream = Upstream()
        ports = []
        for _ in range(257):
            question = Recipient(upstream.target)
            ports.append(upstream.read()[1])
            question.asked.close()
        assert len(set(ports[:256])) == 1
        assert ports[256] != ports[255]
        upstream.close()

    run(story())


def test_a_retired_socket_waits_for_its_last_reply() -> None:
    async def story() -> None:
        upstream = Upstream()
        question = Recipient(upstream.target)
        upstream.target.close()
        upstream.answer()
        await settle()
        assert len(question.simple) == 1
        before = descriptors()
        question.asked.close()
        assert descriptors() == before - 1
        upstream.close()

    run(story())


def test_closing_leaves_no_descriptor() -> None:
    before = descriptors()

    async def story() -> None:
        upstream = Upstream(size=64)
        for _ in range(300):
            Recipient(upstream.target).asked.close()
        upstream.close()

    run(story())
    assert descriptors() <= before


def test_a_shared_socket_looks_closed_to_any_other_address() -> None:
    async def story() -> None:
        upstream = Upstream()
        question = Recipient(upstream.target)
        _, source = upstream.read()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as scanner:
            scanner.connect(source)
            scanner.send(b"is there anybody?")
            with pytest.raises(ConnectionRefusedError):
                scanner.send(b"again")
        question.asked.close()
        upstream.close()

    run(story())


def test_wrong_arguments_are_refused() -> None:
    from internal_dns.forward.native.upstream import Hub, Target

    with pytest.raises(ValueError):
        Hub((b"",), PREFIX, Relayed, 2.0)
    with pytest.raises(ValueError):
        Hub((b"\0",) * 9, PREFIX, Relayed, 2.0)
    with pytest.raises(ValueError):
        Hub((), b"", Relayed, 2.0)
    hub = Hub((), PREFIX, Relayed, 2.0)
    for size in (0, 65):
        with pytest.raises(ValueError):
            Target(hub, socket.AF_INET, "127.0.0.1", 53, "pool", size, lambda: None)
    target = Target(hub, socket.AF_INET, "127.0.0.1", 53, "fresh", 1, lambda: None)
    for name in (b"", b"a" * 256):
        with pytest.raises(ValueError):
            target.ask(name, 1, False, False, True, 0.0)
    hub.close()
    hub.close()
    assert hub.fileno() == -1
    with pytest.raises(OSError):
        target.ask(WWW, 1, False, False, True, 0.0)
