"""What `/metrics` counts and times: few series whoever asks, durations that add up, names as
Prometheus likes them."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from internal_dns.config import load_settings
from internal_dns.core.journey import Forward, Rules
from internal_dns.core.wire import Query, Type
from internal_dns.late import Late
from internal_dns.metrics import Histogram, Metrics, registry
from internal_dns.net import Endpoint
from internal_dns.server import Server
from internal_dns.transport.answer import Exchange
from internal_dns.transport.listen.sockets import bind, kernel_drops
from internal_dns.transport.relaying import Complete, Cut, Keep
from tests.core.messages import AAAA, IN_WEB, OUTSIDER, ROWS, SERVER, TXT, ip, loaded, opt, query
from tests.tools import requires_tool

NETWORKS = 10_000


def series(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every series by name and label values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry(metrics).collect()
        for sample in family.samples
    }


def many_networks() -> dict[str, list[tuple[object, ...]]]:
    numbers = range(1, NETWORKS + 1)
    return {
        "networks": [(n, f"tenant{n}", "") for n in numbers],
        "apps": [(n, f"secret{n % 7}") for n in numbers],
        "machines": [
            (
                f"m{n}",
                n,
                f"secret{n % 7}",
                f"fdaa:{n >> 16:x}:{n & 65535:x}:1:1:1:1:2",
                "ams",
                "app",
                "started",
                0,
                0,
            )
            for n in numbers
        ],
    }


def server_of(tmp_path: Path, rows: dict[str, list[tuple[object, ...]]]) -> Server:
    flags = {
        "catalog": str(tmp_path / "c.db"),
        "listen": ("[::1]:0",),
        "upstream": ("192.0.2.1", "192.0.2.2"),
    }
    server = Server(load_settings(flags, {}, None))
    server.exchange.use(loaded(rows=rows).catalog)
    return server


def test_the_cache_knows_what_the_answer_table_repeats(tmp_path: Path) -> None:
    server = server_of(tmp_path, {})
    assert server.forwarder.cache.repeats == server.exchange.answers.relayed_hits


@pytest.mark.slow
def test_ten_thousand_networks_asking_for_everything_make_no_more_than_200_series(
    tmp_path: Path,
) -> None:
    server = server_of(tmp_path, many_networks())
    names = """{app}.internal nosuch.internal {app}.flycast _apps.internal _instances.internal
    m{n}.vm.{app}.internal _whoami.internal x{n}.internal 3.a.a.d.f.ip6.arpa internal flycast
    localhost printer 1.10.in-addr.arpa top2.nearest.of.{app}.internal _http._tcp.{app}.internal
    regions.{app}.internal {n}.role.kv._metadata.{app}.internal""".split()
    types = [*Type, 3, 13, 99, 257, 32_769, 65_280]
    for n in range(1, NETWORKS + 1):
        source = b"\xfd\xaa" + n.to_bytes(4, "big") + ip("::1:1:1:1:2")[6:]
        name, qtype = (
            names[n % len(names)].format(app=f"secret{n % 7}", n=n),
            types[n // 3 % len(types)],
        )
        reply_options = (
            query(name, qtype),
            query(name, qtype, opt()),
            query(name, qtype, flags=0),
            query(name, AAAA),
        )[n % 4]
        for octets in (reply_options, query("web.internal", AAAA))[: 1 + (n % 10 == 0)]:
            outcome = server.exchange.handle(octets, source, SERVER, 4_000)
            if isinstance(outcome, Late):
                outcome.cancel()
    server.exchange.counting.end_batch(0.0, 1)
    for octets in (
        b"",
        query("x.internal", flags=0x8000),
        query("x.internal", opcode=5),
        query("x.internal") + b"x",
    ):
        server.exchange.handle(octets, ip("fdaa:0:1::2"), SERVER, 4_000)
        server.exchange.handle(octets, OUTSIDER, SERVER, 7)
    for proto in ("udp", "tcp"):
        for family in ("4", "6"):
            server.metrics.requests[proto, family][0] += 1
    for reason in (
        "connections",
        "send",
        "tcp idle",
        "tcp partial",
        "tcp unread",
        "tcp buffers",
        "tcp frame",
    ):
        server.metrics.drop(reason)
    for rcode in (0, 2, 3, 5):
        server.metrics.response("forward", rcode, AAAA)[0] += 1
    server.metrics.durations["forward"].observe(0.01)
    found = series(server.metrics)
    assert len(found) <= 200, len(found)
    assert (
        sum(value for key, value in found.items() if key[0] == "internal_dns_questions_total")
        >= NETWORKS
    )
    kinds = {key[1] for key in found if key[0] == "internal_dns_request_duration_seconds_count"}
    assert kinds == {"internal", "flycast", "reverse", "forward", "refused", "repeat"}
    words = " ".join(value for key in found for value in key)
    for said in ("tenant", "secret", "fdaa", "nosuch", ".internal", "m1."):
        assert said not in words


@pytest.mark.live
@requires_tool("promtool")
def test_promtool_finds_nothing_wrong_with_names_types_and_words(tmp_path: Path) -> None:
    server = server_of(tmp_path, ROWS)
    for name, qtype in (("web.internal", AAAA), ("_apps.internal", TXT), ("example.com", AAAA)):
        outcome = server.exchange.handle(query(name, qtype), IN_WEB, SERVER, 4_000)
        if isinstance(outcome, Late):
            outcome.cancel()
    server.metrics.drop("send")
    server.metrics.propagation.observe(0.005)
    text = generate_latest(registry(server.metrics))
    made = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, timeout=20, check=False
    )
    assert (made.returncode, made.stdout + made.stderr) == (0, b"")


# ── durations ─────────────────────────────────────────────────────────────────────────────────────


class Clock:
    """Tells the times it was given, then the last one for ever."""

    def __init__(self, *times: float) -> None:
        self.times = list(times)

    def __call__(self) -> float:
        return self.times.pop(0) if len(self.times) > 1 else self.times[0]


class LateForwarder:
    def __init__(self) -> None:
        self.keep: Keep = lambda *kept: None
        self.forget: Callable[[], None] = lambda: None
        self.relay: Any = None
        self.check: Any = None
        self.complete: Complete = lambda *chain: b""
        self.cut: Cut = lambda forward, relayed: relayed

    def answer(self, forward: Forward, source: bytes) -> Late:
        return Late()

    def describe(self, query: Query) -> list[tuple[str, str]]:
        return []


def exchange_at(*times: float) -> Exchange:
    exchange = Exchange(Rules(), Metrics(), LateForwarder(), timer=Clock(*times))
    exchange.use(loaded(rows=ROWS).catalog)
    return exchange


def timed(exchange: Exchange) -> dict[str, tuple[int, float]]:
    """How many of each kind, and the seconds they took together."""
    return {
        kind: (sum(h.counts), round(h.total, 9))
        for kind, h in exchange.metrics.durations.items()
        if any(h.counts)
    }


def test_the_time_of_a_batch_is_shared_by_its_messages() -> None:
    exchange = exchange_at(1.0, 1.5, 2.0)  # deciding begins and ends; the batch ends
    for _ in range(5):
        exchange.handle(query("web.internal"), IN_WEB, SERVER, 4_000)
    exchange.counting.end_batch(1.5, 5)  # four repeated, and one that waits for its turn
    assert timed(exchange) == {"internal": (1, 0.5), "repeat": (4, 0.4)}


def test_a_batch_without_repeats_counts_none() -> None:
    exchange = exchange_at(1.0, 1.5)
    exchange.handle(query("web.internal"), IN_WEB, SERVER, 4_000)
    exchange.counting.end_batch(0.9, 1)
    assert timed(exchange) == {"internal": (1, 0.5)}
    exchange.handle(query("web.internal"), IN_WEB, SERVER, 4_000)
    exchange.counting.end_batch(1.2, 1)
    assert timed(exchange)["repeat"] == (1, 0.3)


def test_a_forwarded_question_is_timed_until_its_reply_is_there() -> None:
    exchange = exchange_at(1.0, 4.0)

    async def story() -> None:
        outcome = exchange.handle(query("example.com"), IN_WEB, SERVER, 4_000)
        assert isinstance(outcome, Late)
        assert not timed(exchange)
        outcome.have(b"\0\0\x81\x80" + bytes(8))

    asyncio.run(story())
    assert timed(exchange) == {"forward": (1, 3.0)}


def test_a_histogram_counts_each_observation_once() -> None:
    histogram, draw = Histogram(Histogram.REQUEST), random.Random(1)
    seen = [(draw.expovariate(1000), draw.randrange(1, 9)) for _ in range(500)]
    for seconds, times in seen:
        histogram.observe(seconds, times)
    for bound, count in histogram.buckets():
        assert count == sum(times for seconds, times in seen if seconds <= float(bound))
    assert histogram.total == pytest.approx(sum(seconds * times for seconds, times in seen))


# ── the kernel ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.live
def test_datagrams_that_a_full_receive_buffer_dropped_are_counted() -> None:
    with (
        bind(Endpoint.parse("127.0.0.1:0"), socket.SOCK_DGRAM) as full,
        socket.socket(type=socket.SOCK_DGRAM) as sender,
    ):
        assert kernel_drops(full) == 0
        full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        for _ in range(200):
            sender.sendto(b"x" * 100, full.getsockname())
        taken = 0
        while True:
            try:
                full.recv(200)
            except BlockingIOError:
                break
            taken += 1
        assert kernel_drops(full) == 200 - taken > 0
    assert kernel_drops(full) == 0
