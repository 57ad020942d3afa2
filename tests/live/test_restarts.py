"""Restarts on inherited sockets: what nobody has read yet waits in the kernel for the next
process."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import pytest

from internal_dns.net import Endpoint
from internal_dns.transport import native
from internal_dns.transport.listen.sockets import SO_RCVBUFFORCE, bind_pair, bind_queues
from tests.live.hosts import (
    LAUNCHER,
    MAP_LOOPBACK,
    REPOSITORY,
    Served,
    addresses,
    ask,
    client_socket,
    outcome,
    query,
    until,
)
from tests.live.upstream import Asked, Upstream
from tests.tools import requires_native, requires_root

pytestmark = pytest.mark.live

RATE = 1_000
QUERIES = 12_000
RESTARTS = 8


@contextmanager
def bound(text: str = "[::1]:0") -> Iterator[tuple[socket.socket, socket.socket]]:
    """A UDP and a TCP socket as a service manager binds them."""
    udp, tcp = bind_pair(Endpoint.parse(text))
    with udp, tcp:
        yield udp, tcp


def activated(
    catalog: Path, sockets: tuple[socket.socket, ...], *flags: str, upstream: str = "none"
) -> Served:
    """A server on inherited sockets."""
    return Served(
        "--catalog",
        str(catalog),
        "--map-source",
        MAP_LOOPBACK,
        "--upstream",
        upstream,
        "--admin",
        "none",
        *flags,
        sockets=sockets,
    )


class Asker(threading.Thread):
    """Asks QUERIES questions, RATE a second, whatever becomes of the answers."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.sock = client_socket(socket.SOCK_DGRAM)
        # The answers to all that waited come at once, perhaps while this thread has no turn.
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self.sock.connect(("::1", port))
        self.sock.setblocking(False)
        self.asked = query("web.internal").to_wire()[2:]
        self.answers: dict[int, bytes] = {}
        self.sent = 0
        self.refused = 0

    def run(self) -> None:
        begin = time.monotonic()
        while self.sent < QUERIES:
            due = min(QUERIES, int((time.monotonic() - begin) * RATE))
            while self.sent < due:
                try:
                    self.sock.send(self.sent.to_bytes(2, "big") + self.asked)
                except (
                    ConnectionRefusedError
                ):  # nobody holds the socket: that question, or one before, is lost
                    self.refused += 1
                self.sent += 1
            self.collect()
            time.sleep(0.002)

    def collect(self) -> None:
        while True:
            try:
                reply = self.sock.recv(4_096)
            except (BlockingIOError, ConnectionRefusedError):
                return
            self.answers[int.from_bytes(reply[:2], "big")] = reply

    def all_answered(self) -> bool:
        self.collect()
        return len(self.answers) == QUERIES


@requires_root()  # a queue of 4 MiB holds what comes while nobody reads
@pytest.mark.slow
def test_no_question_is_lost_in_eight_restarts(
    acme: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bound() as sockets:
        server = activated(acme, sockets)
        asker = Asker(server.port)
        with asker.sock:
            asker.start()
            begin, restarts = time.monotonic(), 0
            while restarts < RESTARTS:
                until(lambda: asker.sent >= QUERIES * (restarts + 1) // (RESTARTS + 1), 30)  # noqa: B023
                server.stop()
                server = activated(acme, sockets)
                restarts += 1
            asker.join(60)
            lost = 0
            try:
                until(asker.all_answered, 10)
            except AssertionError:
                lost = QUERIES - len(asker.answers)
            with capsys.disabled():
                took = time.monotonic() - begin
                print(
                    f"\n  {restarts} restarts under {RATE} qps: {lost} of {QUERIES} lost, "
                    f"{took:.1f} s"
                )
        server.stop()
    assert (lost, asker.refused, asker.sent) == (0, 0, QUERIES)
    assert {reply[3] & 15 for reply in asker.answers.values()} == {0}
    assert all(
        len(addresses(dns.message.from_wire(reply))) == 5
        for reply in list(asker.answers.values())[::997]
    )


def test_two_servers_hand_over_without_a_gap(acme: Path) -> None:
    """The next one answers before the one before ends; write commands go to whoever is there."""
    socket_path = acme.with_name(acme.name + ".sock")
    with bound() as sockets:
        before = activated(acme, sockets)
        assert f"[::1]:{before.port} inherited" in before.ready
        after = activated(acme, sockets)
        stopper = threading.Thread(target=before.stop)
        stopper.start()
        for _ in range(300):
            assert outcome(ask(after, "web.internal")) == "NOERROR"
        stopper.join()
        for _ in range(50):
            assert outcome(ask(after, "web.internal")) == "NOERROR"
        until(socket_path.exists, 10, "nobody took the write commands")
        after.stop()


def test_what_nobody_has_read_is_answered_by_the_next(acme: Path) -> None:
    asked = query("web.internal").to_wire()
    with (
        bound() as sockets,
        client_socket(socket.SOCK_DGRAM) as udp,
        client_socket(socket.SOCK_STREAM) as tcp,
    ):
        server = activated(acme, sockets)
        port = server.port
        server.stop()
        udp.connect(("::1", port))
        tcp.connect(("::1", port))
        udp.send(asked)
        tcp.sendall(len(asked).to_bytes(2, "big") + asked)
        server = activated(acme, sockets)
        assert udp.recv(4_096)[:2] == asked[:2]
        assert tcp.recv(4_096)[2:4] == asked[:2]
        server.stop()


def test_a_question_waits_for_the_catalog_rather_than_fail(acme: Path) -> None:
    """It was sent before the server started: the first answer is a good one."""
    for _ in range(3):
        with bound() as sockets, client_socket(socket.SOCK_DGRAM) as udp:
            udp.connect(sockets[0].getsockname())
            udp.send(query("web.internal").to_wire())
            server = activated(acme, sockets)
            assert len(addresses(dns.message.from_wire(udp.recv(4_096)))) == 5
            server.stop()


def test_sigterm_answers_what_was_read_and_leaves_the_rest(acme: Path) -> None:
    """An external question in flight is finished; one that comes meanwhile is the next server's."""

    def script(asked: Asked) -> tuple[float, bytes]:
        return 1.0, asked.reply("@ 60 IN A 192.0.2.1")

    with (
        Upstream(script) as upstream,
        bound() as sockets,
        client_socket(socket.SOCK_DGRAM) as early,
        client_socket(socket.SOCK_DGRAM) as late,
    ):
        server = activated(acme, sockets, upstream=upstream.url)
        for client in (early, late):
            client.connect(("::1", server.port))
        early.send(query("slow.example", "A").to_wire())
        until(lambda: len(upstream.asked) >= 1, 5)
        server.process.send_signal(signal.SIGTERM)
        assert addresses(dns.message.from_wire(early.recv(4_096))) == ["192.0.2.1"]
        late.send(query("web.internal").to_wire())
        assert server.stop() is not None
        server = activated(acme, sockets)
        assert len(addresses(dns.message.from_wire(late.recv(4_096)))) == 5
        server.stop()


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_after_the_first_change_nothing(acme: Path, again: signal.Signals) -> None:
    """They come all the time until the process has ended: also after its loop has closed."""
    with bound() as sockets:
        server = activated(acme, sockets)
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        while server.process.poll() is None and time.monotonic() < deadline:
            server.process.send_signal(again)
            time.sleep(0.0005)
        assert server.process.returncode == 0
        server.stop()


def test_a_tcp_question_that_came_before_the_end_is_answered(acme: Path) -> None:
    """The server finds the signal and the question at the same time."""
    asked = query("web.internal").to_wire()
    with bound() as sockets, contextlib.ExitStack() as stack:
        server = activated(acme, sockets)
        clients = [stack.enter_context(client_socket(socket.SOCK_STREAM)) for _ in range(20)]
        for client in clients:
            client.connect(("::1", server.port))
            client.sendall(len(asked).to_bytes(2, "big") + asked)
            assert len(client.recv(4_096)) > 100
        server.process.send_signal(signal.SIGSTOP)
        until(lambda: "T (stopped)" in Path(f"/proc/{server.pid}/status").read_text(), 5)
        for client in clients:
            client.sendall(len(asked).to_bytes(2, "big") + asked)
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGCONT)
        for client in clients:
            assert client.recv(4_096)[2:4] == asked[:2]
            assert client.recv(1) == b""
        server.stop()


def test_several_addresses_in_any_order(acme: Path) -> None:
    with bound() as one, bound("127.0.0.1:0") as two:
        server = activated(
            acme, (one[1], two[0], one[0], two[1]), "--map-source", "127.0.0.0/8=fdaa:0:19::/48"
        )
        assert len(addresses(asked_at(one[0].getsockname()))) == 5
        assert len(addresses(asked_at(two[0].getsockname()))) == 2
        server.stop()


def test_several_udp_sockets_of_one_address_are_all_read(acme: Path) -> None:
    """A group that the kernel spreads clients over (SO_REUSEPORT)."""
    with contextlib.ExitStack() as stack:
        group = [
            stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) for _ in range(4)
        ]
        for sock in group:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("::1", group[0].getsockname()[1]))
        tcp = stack.enter_context(
            socket.create_server(group[0].getsockname()[:2], family=socket.AF_INET6)
        )
        server = activated(acme, (*group, tcp))
        for _ in range(
            40
        ):  # each from a port of its own: one socket in four would be missed with 1 in 100,000
            assert len(addresses(asked_at(group[0].getsockname()))) == 5
        server.stop()


@requires_native()
def test_eight_inherited_udp_sockets_become_fair_queues(acme: Path) -> None:
    """The network of ::1 is 0, so after the server's filter all its questions wait in the first
    queue."""
    (*group,), tcp = bind_queues(Endpoint.parse("[::1]:0"), native.QUEUES)
    with contextlib.ExitStack() as stack:
        for sock in (*group, tcp):
            stack.enter_context(sock)
        activated(acme, (*group, tcp), "--udp-path", "native").stop()
        for _ in range(40):
            client = stack.enter_context(client_socket(socket.SOCK_DGRAM))
            client.sendto(b"x", group[0].getsockname())
        assert [waiting(sock) for sock in group] == [40] + [0] * 7


def waiting(sock: socket.socket) -> int:
    """How many datagrams have come."""
    sock.setblocking(False)
    for count in range(1_000):
        try:
            sock.recv(9)
        except BlockingIOError:
            return count
    raise AssertionError("too many")


def asked_at(where: tuple[str, int]) -> dns.message.Message:
    with client_socket(socket.SOCK_DGRAM, "127.0.0.1" if "." in where[0] else "::1") as client:
        client.connect(where)
        client.send(query("web.internal").to_wire())
        return dns.message.from_wire(client.recv(4_096))


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        ("u", "TCP is missing"),
        ("t", "UDP is missing"),
        ("uf", "it is not a socket"),
        ("x", "it is an AF_UNIX socket"),
    ],
    ids=["udp alone", "tcp alone", "a file", "a unix socket"],
)
def test_sockets_that_do_not_fit_end_the_start(acme: Path, kinds: str, says: str) -> None:
    with bound() as (udp, tcp), open("/dev/null") as file, socket.socket(socket.AF_UNIX) as local:
        known = {"u": udp.fileno(), "t": tcp.fileno(), "f": file.fileno(), "x": local.fileno()}
        numbers = [known[kind] for kind in kinds]
        done = subprocess.run(
            [
                sys.executable,
                str(LAUNCHER),
                ",".join(map(str, numbers)),
                sys.executable,
                "-m",
                "internal_dns",
                "serve",
                "--catalog",
                str(acme),
                "--upstream",
                "none",
                "--admin",
                "none",
            ],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            pass_fds=numbers,
        )
    assert done.returncode == 78
    assert re.search(r"^error  inherited", done.stderr, re.MULTILINE)
    assert f"  why  {says}" in done.stderr
    assert "\n  do   " in done.stderr
