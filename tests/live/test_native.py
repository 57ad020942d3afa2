"""The native UDP path with real sockets: what it counts, that it needs no lock, how it stops, where
it is missing."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from pathlib import Path
from threading import Thread

import dns.edns
import dns.message
import dns.rcode
import pytest

from internal_dns.core.catalog import NetworkId
from internal_dns.core.cookies import full_cookie
from internal_dns.core.journey import Rules
from internal_dns.core.requester import SourceMap
from internal_dns.late import Late
from internal_dns.metrics import Metrics
from internal_dns.net import Endpoint
from internal_dns.transport import native
from internal_dns.transport.answer import Exchange
from internal_dns.transport.listen.sockets import IPV6_FREEBIND, bind_queues
from internal_dns.transport.native.listener import Udp, spread
from internal_dns.transport.native.mirror import Mirror
from tests.core.messages import AA, COOKIE, NSID, QR, RA, header, opt, option
from tests.core.messages import query as plain
from tests.live.hosts import (
    MAP_LOOPBACK,
    REPOSITORY,
    Host,
    Served,
    addresses,
    ask,
    change,
    client_socket,
    query,
    serving,
    until,
)
from tests.tools import requires_native, requires_root, requires_tool

if not native.MISSING:
    from internal_dns.transport.native import fast

pytestmark = [pytest.mark.live, requires_native()]

NATIVE = ("--udp-path", "native")
WEB, OTHER = plain("web.internal"), plain("other.internal")


# ── a worker by itself ────────────────────────────────────────────────────────────────────────────


@dataclass
class Alone:
    """A worker on a socket of [::1] whose table has `web.internal` alone; Python takes nothing from
    it."""

    sock: socket.socket
    mirror: Mirror = field(init=False)
    worker: fast.Worker = field(init=False)
    thread: Thread = field(init=False)

    def __post_init__(self) -> None:
        maps = (SourceMap(IPv6Network("::1/128"), NetworkId(0x18)),)
        self.mirror = Mirror(Rules(maps=maps), Metrics())
        self.mirror.table.put(
            0x18, WEB[12:-4], 28, QR | AA | RA, (0, 0, 0), 0, 0, b"", (0, 0, 0), b"", 0
        )
        self.worker = fast.Worker(self.mirror.table, [(self.sock.fileno(), True, None)])
        self.thread = Thread(target=self.worker.run)

    def counted(self, name: str) -> int:
        return self.worker.counted()[0][name]

    def stop(self) -> None:
        self.worker.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


@contextmanager
def alone() -> Iterator[tuple[Alone, socket.socket]]:
    """A worker that does not run yet, and a client connected to it."""
    with ExitStack() as stack:
        (sock,), tcp = bind_queues(Endpoint.parse("[::]:0"), 1)
        client = stack.enter_context(client_socket(socket.SOCK_DGRAM))
        for made in (sock, tcp):
            stack.enter_context(made)
        client.connect(("::1", sock.getsockname()[1]))
        client.setblocking(False)
        found = Alone(sock)
        try:
            yield found, client
        finally:
            if found.thread.is_alive():
                found.stop()


def waiting(sock: socket.socket) -> list[bytes]:
    """All datagrams that have come."""
    found = []
    while True:
        try:
            found.append(sock.recv(65_535))
        except BlockingIOError:
            return found


def received(sock: socket.socket, count: int) -> None:
    """Wait for so many datagrams."""
    found: list[bytes] = []

    def whole() -> bool:
        found.extend(waiting(sock))
        return len(found) == count

    until(whole, 5)


class _Poll(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def test_a_query_with_a_cookie_is_answered_by_the_worker() -> None:
    """Its time stamp is that of the batch."""
    with alone() as (found, client):
        found.thread.start()
        asked = plain("web.internal", 28, opt(option(COOKIE, b"client's"), option(NSID)))
        begin = int(time.time())
        client.send(asked)
        assert select.select([client], [], [], 5)[0]
        message = dns.message.from_wire(client.recv(512))
        (cookie,) = message.options
        assert cookie.otype == dns.edns.OptionType.COOKIE
        octets = cookie.to_wire()
        assert octets is not None
        stamp = int.from_bytes(octets[12:16], "big")
        assert begin - 1 <= stamp <= time.time()
        assert octets == full_cookie(b"client's", bytes(15) + b"\1", Rules().secret, stamp)
        assert found.counted("hits") == 1


def test_answers_come_while_python_holds_its_lock() -> None:
    with alone() as (server, client):
        server.thread.start()
        client.send(WEB)
        until(lambda: bool(waiting(client)), 5)
        wanted = _Poll(client.fileno(), select.POLLIN)
        held = ctypes.PyDLL(None)  # unlike CDLL, it does not let go of the lock
        client.send(WEB)
        assert held.poll(ctypes.byref(wanted), 1, 5_000) == 1
        assert waiting(client) == [header(QR | AA | RA | 0x100) + WEB[12:]]


def test_what_a_stopping_worker_has_read_is_answered_or_handed_up_the_rest_is_the_next_ones() -> (
    None
):
    with alone() as (server, client):
        for number in range(400):  # the client's buffer takes 256 replies
            client.send(number.to_bytes(2, "big") + (WEB, OTHER)[number % 2][2:])
        server.thread.start()
        server.stop()
        answered = {octets[:2] for octets in waiting(client)}
        handed_up = [message.octets[:2] for message in server.worker.take(400)]
        server.sock.setblocking(False)
        left = [octets[:2] for octets in waiting(server.sock)]
        assert len(answered) + len(handed_up) + len(left) == 400
        assert server.counted("6") == len(answered) + len(handed_up)
        # The socket is as it was: another worker, of another process perhaps, goes on with it.
        client.send(WEB)
        after = fast.Worker(server.mirror.table, [(server.sock.fileno(), True, None)])
        thread = Thread(target=after.run)
        thread.start()
        until(lambda: bool(waiting(client)), 5)
        after.stop()
        thread.join(10)


def test_a_message_handed_up_comes_whole_with_its_addresses_and_its_reply_finds_back() -> None:
    with alone() as (server, client):
        server.thread.start()
        long, longest = OTHER + bytes(4_096 - len(OTHER)), OTHER + bytes(4_097 - len(OTHER))
        for octets in (OTHER, long, longest, longest + bytes(20_000)):
            client.send(octets)
        until(lambda: server.counted("6") == 4, 5)
        taken = server.worker.take(64)
        # What is longer than any query goes up as its header: that is all FORMERR needs.
        assert [message.octets for message in taken] == [OTHER, long, OTHER[:12], OTHER[:12]]
        here = client.getsockname()
        asked = [message for message in taken if isinstance(message, fast.Asked)]
        assert len(asked) == 4
        for message in asked:
            assert (message.source, message.destination) == (LOOPBACK, LOOPBACK)
            assert message.port == here[1]
        server.worker.send([(m.reply_to, b"reply to " + m.octets[:2]) for m in asked])
        assert waiting(client) == [b"reply to \x12\x34"] * 4


def test_a_reply_that_cannot_be_sent_is_counted_and_the_others_are_sent() -> None:
    with alone() as (server, client):
        server.thread.start()
        client.send(OTHER)
        until(lambda: server.counted("6") == 1, 5)
        (asked,) = server.worker.take(1)
        assert isinstance(asked, fast.Asked)
        to = asked.reply_to
        server.worker.send([(to, b"one"), (to, bytes(65_536)), (to, b"two")])
        assert waiting(client) == [b"one", b"two"]
        assert server.counted("send") == 1


LOOPBACK = bytes(15) + b"\1"
SHOWN = header(QR | AA | RA | 0x100)


def test_who_watches_sees_what_was_repeated_and_the_client_still_gets_it() -> None:
    with alone() as (server, client):
        server.thread.start()
        for watched, seen in ((0, 0), (1, 5), (0, 0)):
            server.mirror.table.watch(watched)
            for _ in range(5):
                client.send(WEB)
            received(client, 5)
            shown = server.worker.take(64)
            assert len(shown) == seen
            for repeated in shown:
                assert isinstance(repeated, fast.Repeated)
                assert (repeated.octets, repeated.header) == (WEB, SHOWN)
                assert (repeated.source, repeated.destination) == (LOOPBACK, LOOPBACK)
        assert server.counted("hits") == 15


def test_who_watches_sees_what_was_dropped() -> None:
    with alone() as (server, client):
        server.mirror.table.watch(1)
        server.thread.start()
        dropped = [b"x", plain("web.internal", flags=QR)]
        for octets in dropped:
            client.send(octets)
        until(lambda: server.counted("6") == 2, 5)
        shown = server.worker.take(9)
        assert all(isinstance(message, fast.Dropped) for message in shown)
        assert [message.octets for message in shown] == dropped
        assert (server.counted("runt"), server.counted("qr")) == (1, 1)


def test_one_in_so_many_is_shown_by_chance() -> None:
    with alone() as (server, client):
        server.mirror.table.watch(4)
        server.thread.start()
        shown = 0
        for number in range(1, 801):
            client.send(WEB)
            until(lambda: bool(waiting(client)), 5)
            if number % 50 == 0:
                shown += len(server.worker.take(64))
        assert 120 < shown < 280  # 200, and six deviations


def test_watching_takes_no_room_from_what_must_go_up() -> None:
    """Python takes nothing: no more than a sixteenth of the ring is filled with what is only
    shown."""
    with alone() as (server, client):
        server.mirror.table.watch(1)
        server.thread.start()
        for _ in range(60):
            for _ in range(50):
                client.send(WEB)
            received(client, 50)
        assert (server.counted("hits"), server.counted("full"), server.counted("flood")) == (
            3_000,
            0,
            0,
        )
        client.send(OTHER)
        until(lambda: server.counted("6") == 3_001, 5)
        server.stop()
        shown: list[fast.Asked | fast.Repeated | fast.Dropped] = []
        while batch := server.worker.take(64):
            shown += batch
        assert isinstance(shown[-1], fast.Asked)
        assert shown[-1].octets == OTHER
        assert len(shown) - 1 + server.worker.unseen == 3_000
        assert 300 < server.worker.unseen < 2_900


class Stubborn(Late):
    """A reply that cannot be cancelled."""

    def cancel(self, msg: object = None) -> bool:
        return False


class LateExchange(Exchange):
    """An exchange whose reply is there when told."""

    def __init__(self) -> None:
        super().__init__(Rules(), Metrics())
        self.reply, self.asked = Stubborn(), 0

    def handle(self, *_: object, **__: object) -> Late:
        self.asked += 1
        return self.reply


@pytest.mark.parametrize("then", ["new workers", "closed"])
def test_a_late_reply_leaves_by_the_workers_that_are_there_or_not_at_all(then: str) -> None:
    async def story(server: Alone, client: socket.socket) -> None:
        exchange = LateExchange()
        udp = Udp([[server.sock]], exchange, Metrics(), server.mirror, 1)
        client.send(OTHER)
        async with asyncio.timeout(5):
            while not exchange.asked:
                await asyncio.sleep(0.01)
        udp.stop_reading()
        if then == "new workers":
            udp.start(server.mirror, udp.made(server.mirror))
        else:
            udp.close()
            # The number of the socket is now another's, by which the reply could leave.
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
                os.dup2(other.fileno(), server.sock.fileno())
                other.bind(client.getpeername())
        exchange.reply.have(b"late")
        assert not udp.pending
        udp.close()

    with alone() as (server, client):
        asyncio.run(story(server, client))
        assert waiting(client) == ([b"late"] if then == "new workers" else [])


@requires_root()
@requires_tool("ip")
def test_the_network_of_the_source_chooses_the_queue() -> None:
    host = Host("queues")
    try:
        host.ip("-6 route add local default dev lo")
        queues, tcp = host.inside(lambda: bind_queues(Endpoint.parse("[::]:0"), native.QUEUES))
        with ExitStack() as stack:
            for made in (*queues, tcp):
                stack.enter_context(made)
            spread(queues[3], 1)  # of any of them: it is the group's
            for network in (0x18, 0x19, 0x1A, 7, 0xFFFF_FFFF, 8):
                for machine in (1, 2, 3):
                    source = f"fdaa:{network >> 16:x}:{network & 0xFFFF:x}:5:6:7:{machine}:2"
                    client = stack.enter_context(host.socket(socket.SOCK_DGRAM, source))
                    client.sendto(b"x", ("fdaa::3", queues[0].getsockname()[1]))
                    ready = select.select(queues, [], [], 5)[0]
                    assert [queues.index(sock) for sock in ready] == [network % 8]
                    assert ready[0].recvfrom(9)[1][0] == source
    finally:
        host.close()


@requires_root()
@requires_tool("ip")
@pytest.mark.parametrize("flows", [2, 4, 8])
def test_the_ports_of_one_network_use_all_queues_of_its_class(flows: int) -> None:
    host, network, sent = Host("flows"), 0x1D, 150 * flows
    try:
        host.ip("-6 route add local default dev lo")
        wildcard = Endpoint.parse("[::]:0")
        queues, tcp = host.inside(lambda: bind_queues(wildcard, native.QUEUES * flows))
        with ExitStack() as stack:
            for made in (*queues, tcp):
                stack.enter_context(made)
            spread(queues[0], flows)
            port = queues[0].getsockname()[1]
            for number in range(sent):
                client = stack.enter_context(host.socket(socket.SOCK_DGRAM))
                client.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
                client.bind((f"fdaa:0:{network:x}:5::2", 20_000 + 2 * number))
                client.sendto(b"x", ("fdaa::3", port))
            counts = [drained(sock) for sock in queues]
            first = network % native.QUEUES * flows
            assert sum(counts) == sum(counts[first : first + flows]) == sent
            assert all(abs(count - 150) <= 0.2 * 150 for count in counts[first : first + flows])
    finally:
        host.close()


@requires_root()
@requires_tool("ip")
def test_of_an_ipv4_source_the_address_chooses_the_queue() -> None:
    host = Host("queues4")
    try:
        queues, tcp = host.inside(lambda: bind_queues(Endpoint.parse("127.0.0.1:0"), 16))
        with ExitStack() as stack:
            for made in (*queues, tcp):
                stack.enter_context(made)
            spread(queues[0], 2)
            port = queues[0].getsockname()[1]
            for last in (1, 2, 9, 16, 250):
                for _ in range(20):
                    client = stack.enter_context(host.socket(socket.SOCK_DGRAM, f"127.0.0.{last}"))
                    client.sendto(b"x", ("127.0.0.1", port))
                counts = [drained(sock) for sock in queues]
                first = (0x7F000000 + last) % 8 * 2
                assert sum(counts) == sum(counts[first : first + 2]) == 20
                assert min(counts[first : first + 2]) > 1
    finally:
        host.close()


def drained(sock: socket.socket) -> int:
    """Read all that waits; return how much it was."""
    count = 0
    while select.select([sock], [], [], 0)[0]:
        sock.recv(9)
        count += 1
    return count


# ── a server ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def served(acme: Path) -> Iterator[Served]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serving(acme, *NATIVE, "--workers", "3", "--admin", f"127.0.0.1:{port}") as server:
        yield server


def metrics(server: Served) -> dict[str, float]:
    """Every sample by its name and labels."""
    found = re.search(r"admin (http://\S+)", server.ready)
    assert found
    with urllib.request.urlopen(f"{found[1]}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


def test_the_ready_line_and_a_metric_say_that_it_is_native(served: Served) -> None:
    assert "udp path native (3 workers)" in served.ready
    assert metrics(served)['internal_dns_udp_path_info{path="native"}'] == 1


def test_every_message_is_counted_once_whoever_answers_it(served: Served) -> None:
    before = metrics(served)
    with client_socket(socket.SOCK_DGRAM) as sock:
        sock.connect(("::1", served.port))
        for octets in (
            b"",
            b"\0\1\2",
            plain("web.internal", flags=QR),
            plain("x.internal", flags=QR),
        ):
            sock.send(octets)
    for _ in range(20):
        for name, rdtype in (
            ("web.internal", "AAAA"),
            ("nosuch.internal", "A"),
            ("vms.web.internal", "TXT"),
        ):
            ask(served, query(name, rdtype, use_edns=False))
    after = metrics(served)
    grown = {
        name: after[name] - before.get(name, 0)
        for name in after
        if after[name] != before.get(name, 0)
    }
    expected = {
        'internal_dns_requests_total{family="6",proto="udp"}': 64,
        'internal_dns_drops_total{reason="runt"}': 2,
        'internal_dns_drops_total{reason="qr"}': 2,
        'internal_dns_questions_total{type="AAAA"}': 20,
        'internal_dns_questions_total{type="A"}': 20,
        'internal_dns_questions_total{type="TXT"}': 20,
        'internal_dns_responses_total{kind="internal",rcode="NOERROR"}': 40,
        'internal_dns_responses_total{kind="internal",rcode="NXDOMAIN"}': 20,
        "internal_dns_answer_table_hits_total": 58,
        "internal_dns_answer_table_misses_total": 2,
        # With the A of web.internal; what is not there at all takes no room.
        "internal_dns_answer_table_entries": 3,
    }
    assert {name: grown.get(name) for name in expected} == expected


def test_a_name_that_is_not_there_counts_under_its_own_qtype(served: Served) -> None:
    """Types that have a name, one below 256 that has none, and one beyond."""
    before = metrics(served)
    with client_socket(socket.SOCK_DGRAM) as sock:
        sock.connect(("::1", served.port))
        for qtype in (1, 16, 99, 99, 300):
            sock.send(plain("nosuch.internal", qtype))
            sock.recv(512)
    after = metrics(served)
    grown = {
        name: after[name] - before.get(name, 0) for name in after if "_questions_total" in name
    }
    assert {name.split('"')[1]: count for name, count in grown.items() if count} == {
        "A": 1,
        "TXT": 1,
        "other": 3,
    }


def test_a_change_is_seen_natively(acme: Path) -> None:
    with serving(acme, *NATIVE) as server:
        for _ in range(3):
            assert len(addresses(ask(server, "web.internal"))) == 5
            assert ask(server, "fresh.internal").rcode() == dns.rcode.NXDOMAIN
        change(acme, "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'; INSERT "
                     "INTO machines (id, "
               "network_id, app, address, region, state) VALUES ('n', 24, 'fresh', "
               "'fdaa:0:18:a7b:7d:7:7:2', 'iad', "
               "'started')")  # fmt: skip
        until(lambda: len(addresses(ask(server, "fresh.internal"))) == 1, 5)
        assert len(addresses(ask(server, "web.internal"))) == 4


def test_ipv4_is_served_natively_too(acme: Path) -> None:
    flags = (
        "--listen",
        "127.0.0.1:0",
        "--map-source",
        "127.0.0.0/8=fdaa:0:18::/48",
        *NATIVE,
        "--workers",
        "2",
    )
    with serving(acme, *flags) as server, client_socket(socket.SOCK_DGRAM, "127.0.0.1") as sock:
        sock.connect(("127.0.0.1", int(server.ready.split("127.0.0.1:")[1].split()[0].rstrip(","))))
        for name, count in (("web.internal", 5), ("web.internal", 5), ("nosuch.internal", 0)):
            sock.send(query(name).to_wire())
            assert len(addresses(dns.message.from_wire(sock.recv(65_535)))) == count


@requires_root()
@requires_tool("ip")
def test_a_network_that_floods_does_not_cost_another_one_an_answer(acme: Path) -> None:
    host = Host("flood")
    try:
        host.ip("-6 route add local default dev lo")
        with (
            serving(acme, *NATIVE, host=host) as server,
            host.socket(socket.SOCK_DGRAM, "fdaa:0:19:a7b:7d:1:1:2") as attacker,
            host.socket(socket.SOCK_DGRAM, "fdaa:0:18:a7b:7d:f066:b83b:2") as victim,
        ):
            for sock in (attacker, victim):
                sock.connect(("fdaa::3", server.port))
            attacker.setblocking(False)
            new = query(
                "web.internal", options=[dns.edns.GenericOption(dns.edns.OptionType(65_002), b"")]
            ).to_wire()
            octets = query("web.internal").to_wire()
            # 200 new questions of the one for each of the other: all that a queue and Python take,
            # and more.
            for number in range(150):
                for _ in range(200):
                    with suppress(BlockingIOError):
                        attacker.send(new)
                victim.send(number.to_bytes(2, "big") + octets[2:])
                reply = victim.recv(65_535)
                assert reply[:2] == number.to_bytes(2, "big")
                assert len(addresses(dns.message.from_wire(reply))) == 5
    finally:
        host.close()


# ── without the extension ─────────────────────────────────────────────────────────────────────────

WITHOUT = (
    "import sys; sys.modules['internal_dns.transport.native.fast'] = None; "
    "from internal_dns.cli import main; main()"
)


def test_without_the_extension_the_python_path_serves_and_says_so(acme: Path) -> None:
    program = (sys.executable, "-W", "error", "-c", WITHOUT)
    flags = ("--catalog", str(acme), "--listen", "[::1]:0", "--map-source", MAP_LOOPBACK,
             "--upstream", "none",
             "--admin", "none")  # fmt: skip
    server = Served(*flags, program=program)
    try:
        assert "udp path python" in server.ready
        assert len(addresses(ask(server, "web.internal"))) == 5
    finally:
        said = server.stop()
    assert re.search(r"native UDP path unavailable .*not built.*gcc", said)


def test_a_native_path_that_is_demanded_and_missing_is_an_error(acme: Path) -> None:
    words = [
        sys.executable,
        "-c",
        WITHOUT,
        "serve",
        "--catalog",
        str(acme),
        "--listen",
        "[::1]:0",
        *NATIVE,
    ]
    done = subprocess.run(
        words, cwd=REPOSITORY, capture_output=True, text=True, timeout=10, check=False
    )
    assert done.returncode == 78
    for words_said in (
        "error  udp path native",
        "why  it was not built",
        "do   Install a C compiler",
    ):
        assert words_said in done.stderr, done.stderr


def test_without_a_compiler_the_wheel_is_made_without_the_extension(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(
        REPOSITORY / "internal_dns",
        source / "internal_dns",
        ignore=shutil.ignore_patterns("*.so", "*.c"),
    )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(tmp_path),
            str(source),
        ],
        env={**os.environ, "CC": str(tmp_path / "no-compiler")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = {name.rpartition("/")[2] for name in zipfile.ZipFile(wheel).namelist()}
    assert {"fast.pyi", "mirror.py"} <= names
    assert not any(name.endswith((".so", ".c")) for name in names)
