"""Forwarding: which upstream is asked, what counts as its reply, and how little an upstream can spoil."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from struct import pack
from typing import Any, cast

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from internal_dns.config import load_settings
from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.journey import Forward, Rules, respond
from internal_dns.forward import upstreams
from internal_dns.forward.upstreams import PUBLIC, Forwarder, Upstream, from_resolv_conf
from internal_dns.metrics import Metrics
from internal_dns.transport.sockets import Endpoint
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

PREFIX = b"\xfd\xaa"
ECS = 8


def asked(
    name: str = "www.example.com", qtype: int = A, *additional: bytes, flags: int = RD, network: int = 0x18,
    stream: bool = False,
) -> Forward:  # fmt: skip
    """What the journey hands over for a query; EDNS with 1232 octets unless told."""
    octets = query(name, qtype, *(additional or (opt(),)), flags=flags)
    source = b"\xfd\xaa" + network.to_bytes(4, "big") + bytes(9) + b"\2"
    found = respond(octets, source, ip("fdaa::3"), Catalog(), Rules(forwarded=((b"lan",),)), stream=stream)
    assert isinstance(found, Forward)
    return found


# ── which upstreams there are ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("1.1.1.1", "udp://1.1.1.1:53"),
        ("1.1.1.1:5353", "udp://1.1.1.1:5353"),
        ("udp://1.1.1.1", "udp://1.1.1.1:53"),
        ("UDP://1.1.1.1", "udp://1.1.1.1:53"),
        ("udp://1.1.1.1/", "udp://1.1.1.1:53"),
        ("tcp://192.0.2.1:54", "tcp://192.0.2.1:54"),
        ("2001:db8::1", "udp://[2001:db8::1]:53"),
        ("[2001:db8::1]:54", "udp://[2001:db8::1]:54"),
        ("udp://[2001:db8::1]", "udp://[2001:db8::1]:53"),
        ("tcp://[::1]:1", "tcp://[::1]:1"),
    ],
)
def test_an_upstream_is_an_address_with_a_transport(url: str, text: str) -> None:
    found = Upstream.parse(url)
    assert str(found) == text
    assert Upstream.parse(text) == found
    assert found.stream == text.startswith("tcp")


def test_a_link_local_upstream_keeps_its_interface() -> None:
    assert Upstream.parse("udp://[fe80::1%eth0]").endpoint.host == ip_address("fe80::1%eth0")


@pytest.mark.parametrize(
    "url", ["", "udp://", "dns.google", "tls://1.1.1.1", "quic://1.1.1.1", "udp://1.1.1.1:0", "[::1"]
)
def test_what_is_no_upstream_is_refused_in_words(url: str) -> None:
    with pytest.raises(ValueError) as error:
        Upstream.parse(url)
    assert len(str(error.value)) > 10


def resolv_conf(tmp_path: Path, text: str, is_own: Callable[[Endpoint], bool] = lambda endpoint: False) -> list[str]:
    path = tmp_path / "resolv.conf"
    path.write_bytes(text.encode("latin-1"))
    return [str(upstream) for upstream in from_resolv_conf(is_own, path)]


def test_the_upstreams_of_the_host_are_those_of_its_resolv_conf(tmp_path: Path) -> None:
    text = "# made by hand\nsearch lan\nnameserver 192.0.2.1\n  nameserver\t2001:db8::1  \nnameserver 192.0.2.2 # x\n"
    assert resolv_conf(tmp_path, text) == ["udp://192.0.2.1:53", "udp://[2001:db8::1]:53", "udp://192.0.2.2:53"]


def test_an_interface_in_resolv_conf_is_kept(tmp_path: Path) -> None:
    assert resolv_conf(tmp_path, "nameserver fe80::1%eth0\n") == ["udp://[fe80::1%eth0]:53"]


def test_lines_of_resolv_conf_that_make_no_sense_are_skipped(tmp_path: Path) -> None:
    lines = ["nameserver", "nameserver nowhere", "nameserver 0.0.0.0", "nameservers 192.0.2.9", "\xff\xfe"]
    lines += [";nameserver 192.0.2.8", "nameserver 192.0.2.1"]
    assert resolv_conf(tmp_path, "\n".join(lines)) == ["udp://192.0.2.1:53"]


@pytest.mark.parametrize("text", ["", "nameserver\n", "search lan\n", "nameserver fdaa::3\n"])
def test_without_any_upstream_of_the_host_public_ones_are_asked(text: str, tmp_path: Path) -> None:
    own = load_settings({}, {}, None).is_own
    assert resolv_conf(tmp_path, text, own) == [f"{url}:53" for url in PUBLIC]
    assert [str(u) for u in from_resolv_conf(own, tmp_path / "nosuch")] == [f"{url}:53" for url in PUBLIC]
    assert [str(u) for u in from_resolv_conf(own, tmp_path)] == [f"{url}:53" for url in PUBLIC]


@pytest.mark.parametrize(
    ("listen", "own"),
    [
        ("[fdaa::3]:53", ["fdaa::3"]),
        ("127.0.0.1:53", ["127.0.0.1"]),
        ("[::]:53", ["::1", "fdaa::3", "fdaa:0:18::3"]),
        ("[::1]:1053", []),
    ],
)
def test_this_server_is_not_its_own_upstream(listen: str, own: list[str], tmp_path: Path) -> None:
    every = ["::1", "fdaa::3", "fdaa:0:18::3", "127.0.0.1", "192.0.2.1"]
    text = "".join(f"nameserver {address}\n" for address in every)
    found = resolv_conf(tmp_path, text, load_settings({"listen": (listen,)}, {}, None).is_own)
    assert found == [str(Upstream.parse(address)) for address in every if address not in own]


def test_the_longest_suffix_with_a_rule_decides() -> None:
    default, corp, deep, top = (Upstream.parse(f"192.0.2.{n}") for n in range(4))
    rules = {(b"corp", b"example"): [corp], (b"deep", b"corp", b"example"): [deep], (b"lan",): [top]}
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
        assert forwarder._upstreams_for(labels) == (expected,), name


# ── what an upstream is asked ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("do", [False, True])
@pytest.mark.parametrize("flags", [RD, RD | CD, RD | AD])
def test_the_question_goes_on_with_do_cd_and_ad_and_without_any_option(do: bool, flags: int) -> None:
    loud = opt(
        option(COOKIE, bytes(8)), option(ECS, b"\0\1\x18\0\xc0\0\2"), option(NSID), option(65_001, b"acme"), do=do,
        size=4_096,
    )  # fmt: skip
    octets = upstreams.question(asked("wWw.eXample.com", TXT, loud, flags=flags).query, b"\xab\xcd")
    message = dns.message.from_wire(octets)
    assert message.id == 0xABCD
    assert message.question[0].to_text() == "wWw.eXample.com. IN TXT"
    assert message.flags == flags
    assert (message.edns, message.options, message.payload) == (0, (), 1_232)
    assert bool(message.ednsflags & dns.flags.DO) == do
    assert not message.answer
    assert not message.authority
    assert b"acme" not in octets


def test_a_question_without_edns_still_allows_a_large_reply() -> None:
    octets = query("www.example.com", A)
    found = respond(octets, b"\xfd\xaa\0\0\0\x18" + bytes(10), ip("fdaa::3"), Catalog(), Rules())
    assert isinstance(found, Forward)
    message = dns.message.from_wire(upstreams.question(found.query, bytes(2)))
    assert (message.edns, message.payload, message.ednsflags) == (0, 1_232, 0)


# ── upstreams that do as they are told ────────────────────────────────────────────────────────────────────────

Script = Callable[[bytes, bool], Iterable[bytes]]  # (query, whether by TCP) → what is sent back, in order


def good(text: str = "192.0.2.80", **how: Any) -> Script:
    return lambda octets, _: [reply(octets, text, **how)]


def reply(octets: bytes, text: str = "192.0.2.80", *, rcode: int = 0, flags: int = 0, owner: str = "") -> bytes:
    """A reply to *octets* with one address."""
    message = dns.message.from_wire(octets)
    made = dns.message.make_response(message, recursion_available=True)
    made.flags |= dns.flags.Flag(flags)
    made.set_rcode(dns.rcode.Rcode(rcode))
    if text:
        kind = "AAAA" if ":" in text else "A"
        made.answer.append(dns.rrset.from_text(owner or str(message.question[0].name), 60, "IN", kind, text))
    return made.to_wire(max_size=65_535)


@dataclass
class Scripted:
    """An upstream on loopback, UDP and TCP."""

    script: Script
    port: int = 0
    asked: list[tuple[bytes, bool]] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)  # the askers'

    @property
    def udp(self) -> Upstream:
        return Upstream.parse(f"udp://127.0.0.1:{self.port}")

    @property
    def tcp(self) -> Upstream:
        return Upstream.parse(f"tcp://127.0.0.1:{self.port}")

    def answers(self, octets: bytes, stream: bool) -> list[bytes]:
        self.asked.append((octets, stream))
        return list(self.script(octets, stream))

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            octets = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            for answer in self.answers(octets, True):
                writer.write(pack("!H", len(answer)) + answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, owner: Scripted) -> None:
        self.owner = owner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.owner.ports.add(addr[1])
        for answer in self.owner.answers(data, False):
            self.transport.sendto(answer, addr)


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[list[Scripted]]:
    """Upstreams that follow *scripts*."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        found = []
        for script in scripts:
            made = Scripted(script)
            server = await asyncio.start_server(made.serve_tcp, "127.0.0.1", 0)
            made.port = server.sockets[0].getsockname()[1]
            transport, _ = await loop.create_datagram_endpoint(
                lambda made=made: _Datagrams(made),  # type: ignore[misc]
                local_addr=("127.0.0.1", made.port),
            )
            stack.callback(server.close)
            stack.callback(transport.close)
            found.append(made)
        yield found
        await asyncio.sleep(0)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


@pytest.fixture(autouse=True)
def _in_a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRY_TIMEOUT", "HEDGE", "TOTAL_TIMEOUT"):
        monkeypatch.setattr(upstreams, name, getattr(upstreams, name) / 10)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times so long that what happens within half a second was not waited for, even on a busy machine."""
    for name, seconds in (("HEDGE", 1.0), ("TRY_TIMEOUT", 2.0), ("TOTAL_TIMEOUT", 4.0)):
        monkeypatch.setattr(upstreams, name, seconds)


async def ask(forwarder: Forwarder, forward: Forward | None = None) -> dns.message.Message:
    forward = forward or asked()
    octets = await forwarder.ask(forward)
    assert octets[:2] == forward.query.id
    assert not forwarder.outstanding
    return dns.message.from_wire(octets)


def ede(message: dns.message.Message) -> int:
    return int.from_bytes(options(message)[EDE][:2], "big")


def test_a_reply_is_relayed_under_the_clients_id_and_question() -> None:
    async def story() -> None:
        async with scripted(good(flags=int(dns.flags.AD))) as (upstream,):
            metrics = Metrics()
            message = await ask(Forwarder([upstream.udp], metrics, PREFIX), asked("wWw.Example.com", A, opt(do=True)))
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
            forwarder = Forwarder([upstream.udp], Metrics(), PREFIX)
            for _ in range(100):
                await ask(forwarder)
            assert len({octets[:2] for octets, _ in upstream.asked}) > 90
            assert len(upstream.ports) > 80

    run(story())


def wrong_id(octets: bytes) -> bytes:
    return bytes((octets[0] ^ 1,)) + reply(octets, "192.0.2.66")[1:]


def wrong_name(octets: bytes) -> bytes:
    return reply(octets.replace(b"\3www", b"\3wwv"), "192.0.2.66")


def wrong_case(octets: bytes) -> bytes:
    return reply(octets.replace(b"\3www", b"\3WWW"), "192.0.2.66")


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
def test_a_forged_or_broken_packet_does_not_end_the_wait_for_the_true_one(bad: Callable[[bytes], bytes]) -> None:
    async def story() -> None:
        async with scripted(lambda octets, _: [bad(octets), bad(octets), reply(octets)]) as (upstream,):
            message = await ask(Forwarder([upstream.udp], Metrics(), PREFIX))
            assert message.rcode() == 0
            assert records(message, A) == ["192.0.2.80"]

    run(story())


def test_a_truncated_reply_is_asked_again_by_tcp() -> None:
    def script(octets: bytes, stream: bool) -> list[bytes]:
        return [reply(octets)] if stream else [reply(octets, "", flags=int(dns.flags.TC))]

    async def story() -> None:
        async with scripted(script) as (upstream,):
            message = await ask(Forwarder([upstream.udp], Metrics(), PREFIX))
            assert records(message, A) == ["192.0.2.80"]
            assert not message.flags & dns.flags.TC
            assert [stream for _, stream in upstream.asked] == [False, True]
            assert upstream.asked[0][0][2:] == upstream.asked[1][0][2:]

    run(story())


def test_a_tcp_upstream_is_asked_by_tcp_only() -> None:
    async def story() -> None:
        async with scripted(good()) as (upstream,):
            assert records(await ask(Forwarder([upstream.tcp], Metrics(), PREFIX)), A) == ["192.0.2.80"]
            assert [stream for _, stream in upstream.asked] == [True]

    run(story())


def test_a_reply_too_large_for_the_client_leaves_truncated() -> None:
    def script(octets: bytes, _: bool) -> list[bytes]:
        made = dns.message.make_response(dns.message.from_wire(octets))
        name = str(made.question[0].name)
        made.answer.append(dns.rrset.from_text_list(name, 60, "IN", "A", [f"192.0.2.{n}" for n in range(60)]))
        return [made.to_wire()]

    async def story() -> None:
        async with scripted(script) as (upstream,):
            forwarder = Forwarder([upstream.udp], Metrics(), PREFIX)
            message = await ask(forwarder, asked("www.example.com", A, opt(size=512)))
            assert message.flags & dns.flags.TC
            assert not message.answer
            whole = await ask(forwarder, asked("www.example.com", A, opt(size=512), stream=True))
            assert len(records(whole, A)) == 60

    run(story())


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("rcode", [1, 2, 4, 5])
def test_a_failing_upstream_is_passed_over_at_once(rcode: int) -> None:
    async def story() -> None:
        async with scripted(good("", rcode=rcode), good()) as (failing, other):
            loop, metrics = asyncio.get_running_loop(), Metrics()
            start = loop.time()
            message = await ask(Forwarder([failing.udp, other.udp], metrics, PREFIX))
            assert loop.time() - start < upstreams.HEDGE / 2
            assert records(message, A) == ["192.0.2.80"]
            assert (len(failing.asked), len(other.asked)) == (1, 1)
            assert metrics.forwards == {"answered": 1}

    run(story())


@pytest.mark.parametrize("rcode", [0, 3, 6, 9])
def test_an_answer_that_is_no_failure_is_relayed_as_it_is(rcode: int) -> None:
    async def story() -> None:
        async with scripted(good("", rcode=rcode), good()) as (first, other):
            message = await ask(Forwarder([first.udp, other.udp], Metrics(), PREFIX))
            assert message.rcode() == rcode
            assert not other.asked

    run(story())


def test_when_every_upstream_fails_the_reply_says_so() -> None:
    async def story() -> None:
        async with scripted(good("", rcode=2), good("", rcode=5)) as found:
            metrics = Metrics()
            message = await ask(Forwarder([upstream.udp for upstream in found], metrics, PREFIX))
            assert message.rcode() == dns.rcode.SERVFAIL
            assert ede(message) == 23
            assert metrics.forwards == {"failing": 1}
            assert sum(len(upstream.asked) for upstream in found) <= 4

    run(story())


def closed_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_port_that_refuses_costs_no_time(scheme: str) -> None:
    refusing = Upstream.parse(f"{scheme}://127.0.0.1:{closed_port()}")

    async def story() -> None:
        async with scripted(good()) as (upstream,):
            loop = asyncio.get_running_loop()
            start = loop.time()
            message = await ask(Forwarder([refusing, upstream.udp], Metrics(), PREFIX))
            assert loop.time() - start < upstreams.HEDGE / 2
            assert records(message, A) == ["192.0.2.80"]

    run(story())


def test_when_no_upstream_can_be_reached_the_reply_says_so() -> None:
    async def story() -> None:
        metrics = Metrics()
        refusing = [Upstream.parse(f"127.0.0.1:{closed_port()}") for _ in range(2)]
        message = await ask(Forwarder(refusing, metrics, PREFIX))
        assert message.rcode() == dns.rcode.SERVFAIL
        assert ede(message) == 22
        assert metrics.forwards == {"unreachable": 1}

    run(story())


def test_a_silent_upstream_delays_the_answer_until_the_next_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "TRY_TIMEOUT", 2.0)
    monkeypatch.setattr(upstreams, "TOTAL_TIMEOUT", 4.0)

    async def story() -> None:
        async with scripted(lambda *_: [], good()) as (silent, other):
            loop = asyncio.get_running_loop()
            forwarder = Forwarder([silent.udp, other.udp], Metrics(), PREFIX)
            start = loop.time()
            assert records(await ask(forwarder), A) == ["192.0.2.80"]
            assert upstreams.HEDGE * 0.9 < loop.time() - start < upstreams.TRY_TIMEOUT / 2
            silent.asked.clear()
            monkeypatch.setattr(upstreams, "HEDGE", 1.0)
            assert records(await ask(forwarder), A) == ["192.0.2.80"]
            assert not silent.asked  # the one that answered is asked first now

    run(story())


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_silence_of_all_ends_in_time_with_few_packets(count: int) -> None:
    async def story() -> None:
        async with scripted(*[lambda *_: []] * count) as found:
            loop, metrics = asyncio.get_running_loop(), Metrics()
            start = loop.time()
            message = await ask(Forwarder([upstream.udp for upstream in found], metrics, PREFIX))
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
            message = await ask(Forwarder([upstream.udp for upstream in found], Metrics(), PREFIX))
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
def test_an_upstream_that_speaks_for_us_is_not_believed_nor_is_another_asked(script: Script, stream: bool) -> None:
    async def story() -> None:
        async with scripted(script, good("2001:db8::80")) as (injecting, other):
            metrics = Metrics()
            first = injecting.tcp if stream else injecting.udp
            message = await ask(Forwarder([first, other.udp], metrics, PREFIX), asked("www.example.com", AAAA))
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
def test_garbage_by_tcp_ends_that_try_only(answer: bytes) -> None:
    async def story() -> None:
        async with scripted(lambda *_: [answer], good()) as (broken, other):
            message = await ask(Forwarder([broken.tcp, other.udp], Metrics(), PREFIX))
            assert records(message, A) == ["192.0.2.80"]

    run(story())


def test_a_suffix_with_a_rule_asks_its_own_upstream_only() -> None:
    async def story() -> None:
        async with scripted(good("192.0.2.1"), good("192.0.2.2")) as (default, own):
            forwarder = Forwarder([default.udp], Metrics(), PREFIX, rules={(b"lan",): [own.udp]})
            assert records(await ask(forwarder, asked("printer.lan")), A) == ["192.0.2.2"]
            assert not default.asked
            assert records(await ask(forwarder, asked("printer.lan.example")), A) == ["192.0.2.1"]
            assert len(own.asked) == 1

    run(story())


# ── how much at a time ────────────────────────────────────────────────────────────────────────────────────────


def test_one_network_cannot_take_what_others_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "PER_NETWORK", 20)

    async def story() -> None:
        async with scripted(lambda *_: []) as (silent,):
            metrics = Metrics()
            forwarder = Forwarder([silent.udp], metrics, PREFIX, limit=30)
            waiting = [asyncio.create_task(forwarder.ask(asked(f"x{n}.example", network=0x18))) for n in range(20)]
            await asyncio.sleep(0.01)
            assert forwarder.outstanding == {NetworkId(0x18): 20}
            refused = dns.message.from_wire(await forwarder.ask(asked("one.more.example", network=0x18)))
            assert refused.rcode() == dns.rcode.SERVFAIL
            assert ede(refused) == 0
            assert metrics.forwards == {"busy": 1}
            waiting += [asyncio.create_task(forwarder.ask(asked(f"y{n}.example", network=0x19))) for n in range(10)]
            await asyncio.sleep(0.01)
            assert forwarder.outstanding.total() == 30
            await forwarder.ask(asked("too.many.example", network=0x1A))
            assert metrics.forwards["busy"] == 2
            await asyncio.gather(*waiting)
            assert not forwarder.outstanding
            assert sum(metrics.forwards.values()) == 32

    run(story())


def test_a_bug_while_forwarding_is_one_servfail(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    async def story() -> None:
        async with scripted(good()) as (upstream,):
            metrics = Metrics()
            forwarder = Forwarder([upstream.udp], metrics, PREFIX)
            with monkeypatch.context() as patch:
                patch.setattr(upstreams, "question", planted)
                assert (await ask(forwarder)).rcode() == dns.rcode.SERVFAIL
            assert (metrics.errors, dict(metrics.forwards)) == (1, {"error": 1})
            assert (await ask(forwarder)).rcode() == 0

    run(story())


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    async def story() -> None:
        async with scripted(lambda *_: []) as (silent,):
            forwarder = Forwarder([silent.udp], Metrics(), PREFIX)
            task = asyncio.create_task(forwarder.ask(asked()))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert not forwarder.outstanding
            assert len(asyncio.all_tasks()) == 1

    run(story())
