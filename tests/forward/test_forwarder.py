"""Forwarding over real sockets: what counts as a reply, what is kept, and how little an upstream
can spoil."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from internal_dns.core.catalog import Catalog
from internal_dns.core.journey import Forward, Rules, respond
from internal_dns.forward.cache import Cache
from internal_dns.forward.forwarder import Forwarder
from internal_dns.forward.health import SUSPECT
from internal_dns.forward.outstanding import OutstandingQuery
from internal_dns.forward.question import Question, question_of
from internal_dns.forward.times import Times
from internal_dns.forward.upstreams import Rule, Upstream
from internal_dns.late import Late
from internal_dns.metrics import Metrics
from tests.core.messages import (
    AAAA,
    AD,
    CD,
    COOKIE,
    EDE,
    NSID,
    RD,
    TXT,
    A,
    ip,
    opt,
    option,
    options,
    query,
    records,
)
from tests.forward.paths import is_native
from tests.forward.scripted import Script, good, reply, scripted

PREFIX = b"\xfd\xaa"
pytestmark = pytest.mark.usefixtures("udp_path")
ECS = 8


def asked(
    name: str = "www.example.com",
    qtype: int = A,
    *additional: bytes,
    flags: int = RD,
    network: int = 0x18,
    stream: bool = False,
) -> Forward:
    """What the journey hands over for a query; EDNS with 1232 octets unless told."""
    octets = query(name, qtype, *(additional or (opt(),)), flags=flags)
    source = b"\xfd\xaa" + network.to_bytes(4, "big") + bytes(9) + b"\2"
    found = respond(
        octets, source, ip("fdaa::3"), Catalog(), Rules(forwarded=((b"lan",),)), stream=stream
    )
    assert isinstance(found, Forward)
    return found


_made: list[Forwarder] = []


def run(story: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        try:
            await story
        finally:
            for each in _made:
                each.check_books()
                await each.close()
            _made.clear()
            for _ in range(3):
                await asyncio.sleep(0)

    asyncio.run(whole())


# A tenth of the usual times.
SHORT = Times(hedge=0.04, retry=0.12, patience=0.44)
# What happens within half a second was not waited for, even on a busy machine.
UNHURRIED = Times(hedge=1.0, retry=2.0, patience=4.0)


async def octets_of(forwarder: Forwarder, forward: Forward) -> bytes:
    found = forwarder.answer(forward, bytes(16))
    return found if isinstance(found, bytes) else await found


async def ask(forwarder: Forwarder, forward: Forward | None = None) -> dns.message.Message:
    forward = forward or asked()
    octets = await octets_of(forwarder, forward)
    assert octets[:2] == forward.query.id
    assert_nothing_is_outstanding(forwarder)
    return dns.message.from_wire(octets)


def assert_nothing_is_outstanding(forwarder: Forwarder) -> None:
    """Except probes."""
    forwarder.check_books()
    assert not forwarder.accounts.clients
    assert not forwarder.outstanding
    assert not forwarder.accounts.queries
    assert forwarder.sockets == len(forwarder.accounts.probes)


def made(*upstreams: Upstream, metrics: Metrics | None = None, **how: Any) -> Forwarder:
    """A forwarder that `run` closes, with SHORT times unless told."""
    found = Forwarder(
        upstreams, metrics or Metrics(), PREFIX, **{"times": SHORT, "native": is_native(), **how}
    )
    _made.append(found)
    return found


def ede(message: dns.message.Message) -> int:
    return int.from_bytes(options(message)[EDE][:2], "big")


def test_a_reply_is_relayed_under_the_clients_id_and_question() -> None:
    async def story() -> None:
        async with scripted(good(flags=int(dns.flags.AD))) as (upstream,):
            metrics = Metrics()
            message = await ask(
                made(upstream.udp, metrics=metrics), asked("wWw.Example.com", A, opt(do=True))
            )
            assert (message.id, message.rcode()) == (0x1234, 0)
            assert records(message, A) == ["192.0.2.80"]
            assert message.question[0].to_text() == "wWw.Example.com. IN A"
            assert dns.flags.to_text(message.flags) == "QR RD RA AD"
            assert message.ednsflags & dns.flags.DO
            assert metrics.forwards == {"answered": 1}
            assert [stream for _, stream in upstream.asked] == [False]

    run(story())


def test_each_question_has_an_id_and_a_port_of_its_own() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            forwarder = made(upstream.udp, sockets="fresh")
            for number in range(100):
                await ask(forwarder, asked(f"{number}.example"))
            assert len({octets[:2] for octets, _ in upstream.asked}) > 90
            assert len(upstream.ports) > 80

    run(story())


def wrong_id(octets: bytes) -> bytes:
    return bytes((octets[0] ^ 1,)) + reply(octets, "192.0.2.66")[1:]


def wrong_name(octets: bytes) -> bytes:
    return reply(octets[:13] + b"x" + octets[14:], "192.0.2.66")


def wrong_case(octets: bytes) -> bytes:
    return reply(octets[:13] + bytes((octets[13] ^ 0x20,)) + octets[14:], "192.0.2.66")


def wrong_type(octets: bytes) -> bytes:
    return reply(octets.replace(b"\0\1\0\1\0\0\x29", b"\0\x1c\0\1\0\0\x29"), "2001:db8::66")


def not_a_reply(octets: bytes) -> bytes:
    return octets


@pytest.mark.parametrize(
    "bad",
    [
        wrong_id,
        wrong_name,
        wrong_case,
        wrong_type,
        not_a_reply,
        lambda octets: b"",
        lambda octets: octets[:11],
        lambda octets: b"\xff" * 600,
        lambda octets: reply(octets)[:-3],
        lambda octets: reply(octets) + b"\0",
    ],
    ids="id name case type query empty short noise cut trailing".split(),
)
def test_a_forged_or_broken_packet_does_not_end_the_wait_for_the_true_one(
    bad: Callable[[bytes], bytes],
) -> None:
    async def story() -> None:
        async with scripted(lambda octets, _: [bad(octets), bad(octets), reply(octets)]) as (
            upstream,
        ):
            message = await ask(made(upstream.udp))
            assert message.rcode() == 0
            assert records(message, A) == ["192.0.2.80"]

    run(story())


def test_a_truncated_reply_is_queried_again_over_tcp() -> None:
    def script(octets: bytes, stream: bool) -> list[bytes]:
        return [reply(octets)] if stream else [reply(octets, "", flags=int(dns.flags.TC))]

    async def story() -> None:
        async with scripted(script) as (upstream,):
            message = await ask(made(upstream.udp))
            assert records(message, A) == ["192.0.2.80"]
            assert not message.flags & dns.flags.TC
            assert [stream for _, stream in upstream.asked] == [False, True]
            assert upstream.asked[0][0][2:].lower() == upstream.asked[1][0][2:]

    run(story())


def test_a_tcp_upstream_is_queried_over_tcp_only() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            assert records(await ask(made(upstream.tcp)), A) == ["192.0.2.80"]
            assert [stream for _, stream in upstream.asked] == [True]

    run(story())


def test_a_reply_too_large_for_the_client_leaves_truncated() -> None:
    def script(octets: bytes, _: bool) -> list[bytes]:
        made = dns.message.make_response(dns.message.from_wire(octets))
        name = str(made.question[0].name)
        made.answer.append(
            dns.rrset.from_text_list(name, 60, "IN", "A", [f"192.0.2.{n}" for n in range(60)])
        )
        return [made.to_wire()]

    async def story() -> None:
        async with scripted(script) as (upstream,):
            forwarder = made(upstream.udp)
            message = await ask(forwarder, asked("www.example.com", A, opt(size=512)))
            assert message.flags & dns.flags.TC
            assert len(records(message, A)) == 29  # 16 octets each, of 512 - 12 - 21 - 11
            whole = await ask(forwarder, asked("www.example.com", A, opt(size=512), stream=True))
            assert len(records(whole, A)) == 60

    run(story())


@pytest.mark.parametrize("rcode", [1, 2, 4, 5])
def test_a_failing_upstream_is_passed_over_at_once(rcode: int) -> None:
    async def story() -> None:
        async with scripted(good("", rcode=rcode), good()) as (failing, other):
            loop, metrics = asyncio.get_running_loop(), Metrics()
            start = loop.time()
            message = await ask(made(failing.udp, other.udp, metrics=metrics, times=UNHURRIED))
            assert loop.time() - start < UNHURRIED.hedge / 2
            assert records(message, A) == ["192.0.2.80"]
            assert (len(failing.asked), len(other.asked)) == (1, 1)
            assert metrics.forwards == {"answered": 1}

    run(story())


@pytest.mark.parametrize("rcode", [0, 3, 6, 9])
def test_an_answer_that_is_no_failure_is_relayed_as_it_is(rcode: int) -> None:
    async def story() -> None:
        async with scripted(good("", rcode=rcode), good()) as (first, other):
            message = await ask(made(first.udp, other.udp))
            assert message.rcode() == rcode
            assert not other.asked

    run(story())


def test_when_every_upstream_fails_the_reply_says_so() -> None:
    async def story() -> None:
        async with scripted(good("", rcode=2), good("", rcode=5)) as found:
            metrics = Metrics()
            message = await ask(made(*[upstream.udp for upstream in found], metrics=metrics))
            assert message.rcode() == dns.rcode.SERVFAIL
            assert ede(message) == 23
            assert metrics.forwards == {"failing": 1}
            assert sum(len(upstream.asked) for upstream in found) <= 4

    run(story())


def closed_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_port_that_refuses_costs_no_time(scheme: str) -> None:
    refusing = Upstream.parse(f"{scheme}://127.0.0.1:{closed_port()}")

    async def story() -> None:
        async with scripted(good()) as (upstream,):
            loop = asyncio.get_running_loop()
            start = loop.time()
            message = await ask(made(refusing, upstream.udp, times=UNHURRIED))
            assert loop.time() - start < UNHURRIED.hedge / 2
            assert records(message, A) == ["192.0.2.80"]

    run(story())


FAILS, SILENT = "every upstream that was reached failed", "no upstream answered in time"


@pytest.mark.parametrize(
    ("kinds", "code", "text"),
    [
        (("refusing udp", "refusing tcp"), 22, "no upstream could be reached"),
        (("failing udp",), 23, FAILS),
        (("failing tcp",), 23, FAILS),
        (("ending tcp",), 23, FAILS),
        (("refusing udp", "failing udp"), 23, FAILS),
        (("failing udp", "refusing tcp"), 23, FAILS),
        (("refusing udp", "ending tcp"), 23, FAILS),
        (("silent udp",), 22, SILENT),
        (("silent tcp", "refusing udp"), 22, SILENT),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.slow
def test_the_reply_says_what_became_of_the_upstreams_and_nothing_else(
    kinds: tuple[str, ...], code: int, text: str
) -> None:
    async def story() -> None:
        async with scripted(good("", rcode=2), lambda *_: [], lambda *_: []) as found:
            failing, silent, ending = found
            ending.takes = 1
            at = {"failing": failing, "silent": silent, "ending": ending}
            upstreams = []
            for kind, scheme in map(str.split, kinds):
                port = at[kind].port if kind in at else closed_port()
                upstreams.append(Upstream.parse(f"{scheme}://127.0.0.1:{port}"))
            message = await ask(made(*upstreams))
            assert message.rcode() == dns.rcode.SERVFAIL
            assert options(message)[EDE] == code.to_bytes(2, "big") + text.encode()

    run(story())


def test_without_a_descriptor_left_the_reply_does_not_speak_of_upstreams() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            forwarder = made(upstream.udp, sockets="fresh")
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            os.close(next_free := os.dup(0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, limits[1]))
            try:
                message = await ask(forwarder)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert ede(message) == 0
            assert b"upstreams" in options(message)[EDE]

    run(story())


class Turns:
    """The fair queue's hooks: nothing is done until it is told to."""

    def __init__(self, forwarder: Forwarder) -> None:
        self.checks: list[tuple[set[int], Callable[[], None]]] = []
        self.relays: list[tuple[int, Callable[[], None]]] = []
        forwarder.check = lambda networks, check: self.checks.append((set(networks), check))
        forwarder.relay = lambda network, make: self.relays.append((network, make))


@pytest.mark.parametrize("sockets", ["fresh", "pool"])
@pytest.mark.parametrize("scheme", ["udp", "tcp"])
@pytest.mark.slow
def test_a_reply_that_waits_for_its_check_is_no_silence(scheme: str, sockets: str) -> None:
    async def story() -> None:
        async with scripted(good(), good("192.0.2.81")) as (first, second):
            forwarder = made(
                Upstream.parse(f"{scheme}://127.0.0.1:{first.port}"), second.udp, sockets=sockets
            )
            turns = Turns(forwarder)
            (reply,) = waiting(forwarder, "www.example.com")
            while not turns.checks:
                await asyncio.sleep(0.001)
            state = next(iter(forwarder.routes.states.values()))
            assert state.health.latency  # it is known to be there
            await asyncio.sleep(2 * SHORT.patience)
            assert second.asked == []
            assert not state.failures
            assert not reply.done()
            ((networks, check),) = turns.checks
            assert networks == {0x18}
            check()  # its turn: checked and relayed at once
            assert turns.relays == []
            message = dns.message.from_wire(await reply)
            assert records(message, A) == ["192.0.2.80"]

    run(story())


def test_each_network_that_waits_has_the_reply_relayed_in_its_own_turn() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            forwarder = made(upstream.udp)
            turns = Turns(forwarder)
            (first,) = waiting(forwarder, "www.example.com")
            (other,) = waiting(forwarder, "www.example.com", network=0x19)
            await asyncio.sleep(0)
            while not turns.checks:
                await asyncio.sleep(0.001)
            ((networks, check),) = turns.checks
            assert networks == {0x18, 0x19}
            check()
            assert [network for network, _ in turns.relays] == [0x18, 0x19]
            assert forwarder.accounts.clients == {
                0x18: 1,
                0x19: 1,
            }  # so what waits for a turn is bounded
            turns.relays[1][1]()
            assert await other
            assert not first.done()
            turns.relays[0][1]()
            assert await first
            assert not forwarder.accounts.clients

    run(story())


def test_a_client_that_leaves_while_its_reply_awaits_a_turn_gets_nothing() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            metrics = Metrics()
            forwarder = made(upstream.udp, metrics=metrics)
            turns = Turns(forwarder)
            late = [forwarder.answer(asked(network=n), bytes(16)) for n in (0x18, 0x19)]
            while not turns.checks:
                await asyncio.sleep(0.001)
            turns.checks[0][1]()
            assert isinstance(late[0], Late)
            late[0].when_there(lambda reply: pytest.fail("it has left"))
            late[0].cancel()
            for _, make in turns.relays:
                make()
            assert not forwarder.accounts.clients
            assert metrics.forwards == {"answered": 1}

    run(story())


def test_no_stale_reply_is_sent_while_a_newer_one_awaits_its_check() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            forwarder = made(upstream.udp, times=replace(SHORT, stale_after=0.01))
            await ask(forwarder)
            kept = forwarder.cache.peek(asked_question().key)
            assert kept is not None
            kept.since -= 60
            turns = Turns(forwarder)
            (late,) = waiting(forwarder, "www.example.com")
            while not turns.checks:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            assert turns.relays == []
            turns.checks[0][1]()
            message = dns.message.from_wire(await late)
            assert (message.answer[0].ttl, EDE in options(message)) == (60, False)

    run(story())


def test_when_no_upstream_can_be_reached_the_reply_says_so() -> None:
    async def story() -> None:
        metrics = Metrics()
        refusing = [Upstream.parse(f"127.0.0.1:{closed_port()}") for _ in range(2)]
        message = await ask(made(*refusing, metrics=metrics))
        assert message.rcode() == dns.rcode.SERVFAIL
        assert ede(message) == 22
        assert metrics.forwards == {"unreachable": 1}

    run(story())


def test_a_silent_upstream_delays_the_answer_until_the_next_is_asked() -> None:
    async def story() -> None:
        async with scripted(lambda *_: [], good()) as (silent, other):
            loop = asyncio.get_running_loop()
            forwarder = made(silent.udp, other.udp, times=replace(UNHURRIED, hedge=0.04))
            start = loop.time()
            assert records(await ask(forwarder), A) == ["192.0.2.80"]
            assert 0.04 * 0.9 < loop.time() - start < UNHURRIED.retry / 2
            silent.asked.clear()
            forwarder.times = UNHURRIED
            assert records(await ask(forwarder, asked("other.example")), A) == ["192.0.2.80"]
            assert not silent.asked  # the one that answered is asked first now

    run(story())


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.slow
def test_silence_of_all_ends_in_time_with_few_packets(count: int) -> None:
    async def story() -> None:
        async with scripted(*[lambda *_: []] * count) as found:
            loop, metrics = asyncio.get_running_loop(), Metrics()
            start = loop.time()
            message = await ask(made(*[upstream.udp for upstream in found], metrics=metrics))
            assert loop.time() - start < 0.45 + 0.1  # of 4.5 s
            assert message.rcode() == dns.rcode.SERVFAIL
            assert ede(message) == 22
            assert sum(len(upstream.asked) for upstream in found) <= 4
            assert sum(metrics.forwards.values()) == 1

    run(story())


def test_a_question_never_costs_more_than_four_packets() -> None:
    async def story() -> None:
        truncated = good("", flags=int(dns.flags.TC))
        async with scripted(truncated, truncated, truncated) as found:
            message = await ask(made(*[upstream.udp for upstream in found], metrics=Metrics()))
            assert message.rcode() == dns.rcode.SERVFAIL
            assert sum(len(upstream.asked) for upstream in found) <= 4

    run(story())


@pytest.mark.parametrize(
    "script",
    [
        good("fdaa:0:18::1"),
        good("192.0.2.66", owner="web.internal."),
        good("192.0.2.66", owner="x.flycast."),
    ],
    ids=["address", "internal", "flycast"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_speaks_for_us_is_not_believed_nor_is_another_asked(
    script: Script, stream: bool
) -> None:
    async def story() -> None:
        async with scripted(script, good("2001:db8::80")) as (injecting, other):
            metrics = Metrics()
            first = injecting.tcp if stream else injecting.udp
            message = await ask(
                made(first, other.udp, metrics=metrics), asked("www.example.com", AAAA)
            )
            assert message.rcode() == dns.rcode.SERVFAIL
            assert ede(message) == 15
            assert not message.answer
            assert metrics.forwards == {"injected": 1}
            assert not other.asked

    run(story())


@pytest.mark.parametrize(
    "answer",
    [b"", b"\0", b"\xff" * 40, query("other.example")],
)
@pytest.mark.slow
def test_garbage_over_tcp_ends_that_attempt_only(answer: bytes) -> None:
    async def story() -> None:
        async with scripted(lambda *_: [answer], good()) as (broken, other):
            message = await ask(made(broken.tcp, other.udp))
            assert records(message, A) == ["192.0.2.80"]

    run(story())


def test_a_suffix_with_a_rule_asks_its_own_upstream_only() -> None:
    async def story() -> None:
        async with scripted(good("192.0.2.1"), good("192.0.2.2")) as (default, own):
            forwarder = made(default.udp, rules={(b"lan",): Rule((own.udp,))})
            assert records(await ask(forwarder, asked("printer.lan")), A) == ["192.0.2.2"]
            assert not default.asked
            assert records(await ask(forwarder, asked("printer.lan.example")), A) == ["192.0.2.1"]
            assert len(own.asked) == 1

    run(story())


def test_the_longest_suffix_with_a_rule_decides() -> None:
    default, corp, deep, top = (Upstream.parse(f"192.0.2.{n}") for n in range(4))
    rules = {
        (b"corp", b"example"): Rule((corp,)),
        (b"deep", b"corp", b"example"): Rule((deep,)),
        (b"lan",): Rule((top,)),
    }
    forwarder = Forwarder([default], Metrics(), PREFIX, rules=rules)
    for name, expected in {
        "corp.example": corp,
        "a.b.corp.example": corp,
        "deep.corp.example": deep,
        "x.deep.corp.example": deep,
        "xcorp.example": default,
        "example": default,
        "corp.example.com": default,
        "lan": top,
        "a.lan": top,
        "": default,
    }.items():
        labels = tuple(part.encode() for part in name.split(".") if part)
        assert forwarder.routes.rule_for(labels)[1].upstreams == (expected,), name
    for name, expected in {
        "corp.example": default,
        "deep.corp.example": corp,
        "x.deep.corp.example": deep,
        "lan": default,
    }.items():  # DS belongs to the zone above
        labels = tuple(part.encode() for part in name.split("."))
        assert forwarder.routes.rule_for(labels, 43)[1].upstreams == (expected,), name


# ── how much at a time ────────────────────────────────────────────────────────────────────────────


def waiting(forwarder: Forwarder, *names: str, network: int = 0x18) -> list[asyncio.Task[bytes]]:
    return [
        asyncio.create_task(octets_of(forwarder, asked(name, network=network))) for name in names
    ]


@pytest.mark.slow
def test_a_network_may_have_so_many_clients_waiting_and_no_more() -> None:
    async def story() -> None:
        async with scripted(lambda *_: []) as (silent,):
            metrics = Metrics()
            forwarder = made(silent.udp, metrics=metrics, per_network=20)
            tasks = waiting(forwarder, *(f"x{n}.example" for n in range(20)))
            await asyncio.sleep(0.01)
            refused = dns.message.from_wire(await octets_of(forwarder, asked("one.more.example")))
            assert (refused.rcode(), ede(refused)) == (dns.rcode.SERVFAIL, 0)
            assert metrics.forwards == {"busy": 1}
            tasks += waiting(forwarder, "of.another.example", network=0x19)
            await asyncio.gather(*tasks)
            assert metrics.forwards == {"busy": 1, "timeout": 21}
            assert not forwarder.accounts.clients

    run(story())


@pytest.mark.slow
def test_when_sockets_run_out_the_network_that_has_most_makes_room() -> None:
    async def story() -> None:
        async with scripted(lambda *_: []) as (silent,):
            metrics = Metrics()
            forwarder = made(silent.udp, metrics=metrics, limit=10)
            flood = waiting(forwarder, *(f"x{n}.example" for n in range(20)))
            await asyncio.sleep(0.01)
            assert (forwarder.sockets, metrics.forwards["busy"]) == (10, 10)
            others = waiting(forwarder, *(f"y{n}.example" for n in range(5)), network=0x19)
            await asyncio.sleep(0.01)
            assert metrics.forwards["busy"] == 15
            assert {n: len(of) for n, of in forwarder.accounts.queries.items()} == {
                0x18: 5,
                0x19: 5,
            }
            assert forwarder.sockets == 10
            refused = waiting(
                forwarder, "z.example", network=0x19
            )  # both have as much: nobody has to make room
            await asyncio.sleep(0.01)
            assert metrics.forwards["busy"] == 16
            await asyncio.gather(*flood, *others, *refused)
            assert forwarder.sockets == len(forwarder.accounts.probes)

    run(story())


def test_the_cache_that_is_passed_is_used_although_it_is_empty() -> None:
    async def story() -> None:
        cache = Cache(max_entries=1)
        async with scripted(good()) as (upstream,):
            forwarder = made(upstream.udp, cache=cache)
            for name in ("a.example", "b.example"):
                await ask(forwarder, asked(name))
            assert (len(cache), cache.evictions) == (1, 1)

    run(story())


def test_a_bug_while_forwarding_is_one_servfail(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    async def story() -> None:
        async with scripted(good()) as (upstream,):
            metrics = Metrics()
            forwarder = made(upstream.udp, metrics=metrics)
            with monkeypatch.context() as patch:
                patch.setattr(OutstandingQuery, "_send_udp", planted)
                assert (await ask(forwarder)).rcode() == dns.rcode.SERVFAIL
            assert (metrics.errors, dict(metrics.forwards)) == (1, {"error": 1})
            assert (await ask(forwarder)).rcode() == 0

    run(story())


@pytest.mark.slow
def test_a_client_that_leaves_does_not_end_the_query_for_the_others() -> None:
    async def story() -> None:
        async with scripted(lambda *_: []) as (silent,):
            forwarder = made(silent.udp)
            gone, stays = waiting(forwarder, "www.example", "www.example")
            await asyncio.sleep(0.01)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            assert forwarder.accounts.clients.total() == 1
            assert dns.message.from_wire(await stays).rcode() == dns.rcode.SERVFAIL
            assert not forwarder.accounts.clients
            assert len(asyncio.all_tasks()) == 1

    run(story())


# ── one question for all who ask it, and what is kept ─────────────────────────────────────────────


def test_a_thousand_clients_with_the_same_question_cost_one_packet() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            metrics = Metrics()
            forwarder = made(upstream.udp, metrics=metrics)
            tasks = waiting(forwarder, *["wWw.example", "www.Example"] * 500)
            for task in tasks:
                assert dns.message.from_wire(await task).answer
            assert len(upstream.asked) == 1
            assert metrics.forwards == {"answered": 1_000}

    run(story())


@pytest.mark.parametrize(
    "other",
    [
        asked("www.example", AAAA),
        asked("www.example", A, opt(do=True)),
        asked("www.example", A, flags=RD | CD),
        asked("www2.example"),
    ],
    ids="qtype do cd name".split(),
)
def test_a_query_that_differs_in_do_or_cd_or_type_is_outstanding_on_its_own(other: Forward) -> None:
    async def story() -> None:
        async with scripted(lambda octets, _: [reply(octets, "")]) as (upstream,):
            forwarder = made(upstream.udp)
            await ask(forwarder, asked("www.example"))
            await ask(forwarder, other)
            assert len(upstream.asked) == 2
            await ask(forwarder, asked("www.example", flags=RD | AD))
            await ask(forwarder, other)
            assert len(upstream.asked) == 2

    run(story())


def test_a_client_that_set_neither_ad_nor_do_gets_no_ad() -> None:
    async def story() -> None:
        async with scripted(good(flags=int(dns.flags.AD))) as (upstream,):
            forwarder = made(upstream.udp)
            for _ in range(2):  # asked, then from the cache
                assert not (await ask(forwarder, asked())).flags & dns.flags.AD
                assert (await ask(forwarder, asked(flags=RD | AD))).flags & dns.flags.AD
            assert upstream.asked[0][0][3] & AD

    run(story())


def test_letter_case_is_random_over_udp_and_the_clients_own_in_the_reply() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            forwarder = made(upstream.udp)
            for number in range(30):
                message = await ask(forwarder, asked(f"a-name-to-be-mixed-{number:02}.ExAmple"))
                assert (
                    message.question[0].name.to_text() == f"a-name-to-be-mixed-{number:02}.ExAmple."
                )
                assert (
                    message.answer[0].name.to_text() == f"a-name-to-be-mixed-{number:02}.ExAmple."
                )
            spelled = {octets[13:32] for octets, _ in upstream.asked}
            assert len(spelled) > 25  # of 30, with 16 letters each
            assert len({bytes(o & 0xDF for o in spelling[:17]) for spelling in spelled}) == 1

    run(story())


def test_after_a_forged_reply_the_query_goes_on_over_tcp() -> None:
    def script(octets: bytes, stream: bool) -> list[bytes]:
        return [reply(octets)] if stream else [wrong_id(octets)] * 3

    async def story() -> None:
        async with scripted(script) as (upstream,):
            message = await ask(made(upstream.udp))
            assert records(message, A) == ["192.0.2.80"]
            assert [stream for _, stream in upstream.asked] == [False, True]

    run(story())


def test_a_persistent_connection_serves_many_queries() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            forwarder = made(upstream.tcp)
            await asyncio.gather(*waiting(forwarder, *(f"{n}.example" for n in range(50))))
            assert (upstream.connections, len(upstream.asked)) == (1, 50)

    run(story())


def test_a_connection_that_was_closed_while_idle_costs_a_new_one_not_the_question() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            upstream.close_after_each = True
            forwarder = made(upstream.tcp)
            for number in range(5):
                assert (await ask(forwarder, asked(f"{number}.example"))).rcode() == 0
                await asyncio.sleep(0.005)
            assert upstream.connections == 5

    run(story())


def test_a_loop_back_to_this_server_is_seen_at_once() -> None:
    async def story() -> None:
        metrics = Metrics()

        async def back(octets: bytes) -> bytes:
            found = respond(octets, ip("fdaa:0:18::2"), ip("fdaa::3"), Catalog(), Rules())
            assert isinstance(found, Forward)
            answer = forwarder.answer(found, ip("127.0.0.1"))
            return answer if isinstance(answer, bytes) else await answer

        class Back(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: Any) -> None:
                task = asyncio.ensure_future(back(data))
                task.add_done_callback(lambda done: self.transport.sendto(done.result(), addr))

        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Back, local_addr=("127.0.0.1", 0)
        )
        port = transport.get_extra_info("sockname")[1]
        forwarder = made(Upstream.parse(f"127.0.0.1:{port}"), metrics=metrics)
        message = dns.message.from_wire(await octets_of(forwarder, asked()))
        transport.close()
        assert message.rcode() == dns.rcode.SERVFAIL
        assert metrics.forwards == {"loop": 2, "failing": 1}

    run(story())


@pytest.mark.slow
def test_an_upstream_that_is_silent_for_many_names_is_probed_and_queried_last() -> None:
    times = replace(SHORT, probe=0.05, probe_again=(0.01,), avoid=0.0)
    alive = False

    async def story() -> None:
        nonlocal alive
        async with scripted(lambda octets, _: [reply(octets)] if alive else [], good()) as (
            first,
            other,
        ):
            forwarder = made(first.udp, other.udp, times=times)
            health = forwarder.routes.states[first.udp].health
            for number in range(SUSPECT):
                assert not health.probing
                assert (await ask(forwarder, asked(f"{number}.example"))).rcode() == 0
            async with asyncio.timeout(5):
                while forwarder.routes.states[first.udp].health.up:
                    await asyncio.sleep(0.01)
            assert any(octets[12:15] == b"\0\0\2" for octets, _ in first.asked)  # . NS
            before = len([octets for octets, _ in first.asked if octets[12]])
            forwarder.times = replace(times, hedge=5.0)
            assert (await ask(forwarder, asked("later.example"))).rcode() == 0
            assert len([octets for octets, _ in first.asked if octets[12]]) == before
            alive = True
            async with asyncio.timeout(5):
                while not forwarder.routes.states[first.udp].health.up:
                    await asyncio.sleep(0.01)
            assert (await ask(forwarder, asked("again.example"))).rcode() == 0
            assert len([octets for octets, _ in first.asked if octets[12]]) == before + 1

    run(story())


@pytest.mark.slow
def test_one_dead_name_says_nothing_about_its_upstream() -> None:
    async def story() -> None:
        async with scripted(
            lambda octets, _: [] if b"dead" in octets.lower() else [reply(octets)]
        ) as (upstream,):
            forwarder = made(upstream.udp, cache=Cache(failure=0.0))
            for _ in range(SUSPECT + 1):
                assert (await ask(forwarder, asked("dead.example"))).rcode() == dns.rcode.SERVFAIL
            assert not forwarder.routes.states[upstream.udp].health.probing

    run(story())


def test_a_failure_is_remembered_for_a_moment() -> None:
    async def story() -> None:
        async with scripted(good("", rcode=2)) as (upstream,):
            forwarder = made(upstream.udp)
            for _ in range(5):
                assert ede(await ask(forwarder)) == 23
            assert len(upstream.asked) == 1

    run(story())


@pytest.mark.slow
def test_a_stale_reply_is_sent_while_no_upstream_answers() -> None:
    alive = True

    async def story() -> None:
        nonlocal alive
        async with scripted(lambda octets, _: [reply(octets)] if alive else []) as (upstream,):
            metrics = Metrics()
            forwarder = made(upstream.udp, metrics=metrics, times=replace(SHORT, stale_after=0.05))
            await ask(forwarder)
            kept = forwarder.cache.peek(asked_question().key)
            assert kept is not None
            kept.since -= 60
            alive = False
            stale = dns.message.from_wire(await octets_of(forwarder, asked()))
            assert (stale.rcode(), ede(stale), stale.answer[0].ttl) == (0, 3, 30)
            assert forwarder.outstanding  # and the question goes on
            while forwarder.outstanding:
                await asyncio.sleep(0.01)
            before = len(upstream.asked)
            assert ede(await ask(forwarder)) == 3  # at once: it failed a moment ago
            assert len(upstream.asked) == before
            assert metrics.forwards == {"answered": 1, "stale": 2}

    run(story())


def asked_question() -> Question:
    return question_of(asked().query)


def test_the_first_query_near_the_end_of_an_entry_refreshes_it() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            told: list[tuple[Any, ...]] = []
            forwarder = made(upstream.udp)
            forwarder.keep = lambda *kept: told.append(kept)
            await ask(forwarder)
            kept = forwarder.cache.peek(asked_question().key)
            assert kept is not None
            kept.since -= 55
            answer = forwarder.answer(asked(), bytes(16))
            assert isinstance(answer, bytes)
            assert dns.message.from_wire(answer).answer[0].ttl in (4, 5)
            assert told[-1][5:] == (kept.until, kept.until)
            while forwarder.outstanding:
                await asyncio.sleep(0.01)
            assert len(upstream.asked) == 2
            assert (await ask(forwarder)).answer[0].ttl in (59, 60)

    run(story())


def test_late_replies_of_former_upstreams_reach_waiting_clients_and_are_not_cached() -> None:
    async def story() -> None:
        async with scripted(lambda octets, _: [], good("192.0.2.2")) as (before, after):
            forwarder = made(before.tcp)
            (early,) = waiting(forwarder, "www.example.com")
            while not before.asked:
                await asyncio.sleep(0.001)
            forwarder.use([after.udp], {})
            assert (await ask_beside(forwarder)).answer[0][0].to_text() == "192.0.2.2"
            answer = reply(before.asked[0][0], "192.0.2.1")
            before.writers[0].write(len(answer).to_bytes(2, "big") + answer)
            assert dns.message.from_wire(await early).answer[0][0].to_text() == "192.0.2.1"
            assert (await ask(forwarder)).answer[0][0].to_text() == "192.0.2.2"
            while forwarder.closing:  # the connection goes when its last question has been answered
                await asyncio.sleep(0.001)
            assert (before.connections, len(before.asked), len(after.asked)) == (1, 1, 1)

    run(story())


async def ask_beside(forwarder: Forwarder) -> dns.message.Message:
    """Ask while others wait."""
    return dns.message.from_wire(await octets_of(forwarder, asked()))


def test_a_server_that_stops_does_not_wait_for_former_upstreams() -> None:
    async def story() -> None:
        async with scripted(lambda octets, _: []) as (upstream,):
            forwarder = made(upstream.tcp, times=UNHURRIED)
            (early,) = waiting(forwarder, "www.example.com")
            while not upstream.asked:
                await asyncio.sleep(0.001)
            forwarder.use([], {})
            begin = asyncio.get_running_loop().time()
            await forwarder.close()
            assert dns.message.from_wire(await early).rcode() == dns.rcode.SERVFAIL
            assert asyncio.get_running_loop().time() - begin < UNHURRIED.patience / 2
            assert not forwarder.accounts.queries

    run(story())


def test_an_upstream_is_probed_once_at_a_time_however_often_it_comes_and_goes() -> None:
    times = replace(SHORT, probe=0.02, probe_again=(3_600.0,))

    async def story() -> None:
        async with scripted(lambda octets, _: []) as (upstream,):
            forwarder = made(upstream.udp, times=times)
            (state,) = forwarder.routes.states.values()
            timers = []
            for rotation in range(3):
                for number in range(SUSPECT):
                    forwarder.count_timeout(state, b"%d" % number)
                while len(upstream.asked) <= rotation or forwarder.accounts.probes:
                    await asyncio.sleep(0.001)
                timers.append(state.probe_timer)
                state.health.answered(b"", 0.01)
            assert [timer is not None and timer.cancelled() for timer in timers] == [
                True,
                True,
                False,
            ]
            await forwarder.close()
            assert timers[-1] is not None
            assert timers[-1].cancelled()

    run(story())


def test_an_address_that_nothing_can_be_sent_to_costs_no_try() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            gone = [Upstream.parse(f"udp://[fe80::{number}%gone]") for number in range(1, 6)]
            forwarder = made(*gone, upstream.udp)
            assert (await ask(forwarder)).rcode() == 0

    run(story())


def test_an_interface_that_comes_back_has_another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        forwarder = made(Upstream.parse("udp://[fe80::1%eth7]"), Upstream.parse("udp://127.0.0.1"))
        scoped, plain = forwarder.routes.states.values()
        for index in (7, 8):
            monkeypatch.setattr(socket, "if_nametoindex", lambda name, index=index: index)
            assert scoped.sockaddr() == ("fe80::1", 53, 0, index)
        assert plain.sockaddr() is plain.sockaddr()

    run(story())


def test_clients_get_the_reply_even_when_caching_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            forwarder = made(upstream.udp)

            def broken(*what: object) -> None:
                raise RuntimeError("a fault of ours")

            monkeypatch.setattr(forwarder.cache, "store", broken)
            assert (await ask(forwarder)).rcode() == 0
            assert forwarder.metrics.errors == 1

    run(story())


# ── what is sent ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("do", [False, True])
@pytest.mark.parametrize("cd", [False, True])
def test_an_upstream_gets_do_and_cd_and_no_option_of_the_client(do: bool, cd: bool) -> None:
    loud = opt(
        option(COOKIE, bytes(8)),
        option(ECS, b"\0\1\x18\0\xc0\0\2"),
        option(NSID),
        option(65_001, b"acme"),
        do=do,
        size=4_096,
    )
    question = question_of(asked("wWw.eXample.com", TXT, loud, flags=RD | CD * cd).query)
    octets = question.query(question.section(mixed=False))
    message = dns.message.from_wire(b"\0\0" + octets)
    assert message.question[0].to_text() == "www.example.com. IN TXT"
    assert message.flags == RD | AD | CD * cd
    assert (message.edns, message.options, message.payload) == (0, (), 1_232)
    assert bool(message.ednsflags & dns.flags.DO) == do
    assert not message.answer
    assert not message.authority
    assert b"acme" not in octets


@pytest.mark.parametrize("labels", range(0, 120, 7))
def test_an_encrypted_query_is_padded_to_a_multiple_of_128_octets(labels: int) -> None:
    question = Question(b"\1a" * labels + b"\0", A, False, False)
    octets = b"\0\0" + question.query(question.section(mixed=False), padded=True)
    assert len(octets) % 128 == 0
    assert dns.message.from_wire(octets).options[0].otype == 12
