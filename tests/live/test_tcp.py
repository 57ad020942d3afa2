"""TCP: frames however they arrive, answers out of order, and limits that no client can talk the
server out of."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import pack

import dns.message
import pytest

from tests.live.conftest import catalog_file
from tests.live.hosts import (
    Host,
    Served,
    addresses,
    ask,
    client_socket,
    outcome,
    query,
    serving,
    until,
)
from tests.live.upstream import Asked, Upstream
from tests.tools import requires_root, requires_tool

pytestmark = pytest.mark.live

SLOW = "slow.example"
SLOW_SECONDS = 0.5
MIB = 1 << 20


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tenants, and an app of 1,000 machines whose list is large."""
    return catalog_file(tmp_path_factory.mktemp("tcp") / "catalog.db", "acme.sql", "services.sql")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app of 2,000 machines: `vms.big.internal` is 36 KB."""
    return catalog_file(tmp_path_factory.mktemp("tcp") / "large.db", "sized:2000")


def upstream_script(asked: Asked) -> Iterable[bytes | float]:
    if asked.name.startswith("slow"):
        yield SLOW_SECONDS
    yield asked.reply("@ 60 IN A 192.0.2.1")


@pytest.fixture(scope="module")
def server(catalog: Path) -> Iterator[Served]:
    with Upstream(upstream_script) as upstream, serving(catalog, upstream=upstream.url) as served:
        yield served


def connected(server: Served) -> socket.socket:
    sock = client_socket(socket.SOCK_STREAM)
    sock.connect(("::1", server.port))
    return sock


def frame(message: dns.message.Message | bytes) -> bytes:
    octets = message if isinstance(message, bytes) else message.to_wire()
    return len(octets).to_bytes(2, "big") + octets


def frames(sock: socket.socket, count: int = 1 << 30) -> list[dns.message.Message]:
    """Read *count* replies, or all there are until the server closes."""
    found: list[dns.message.Message] = []
    received = bytearray()
    while len(found) < count:
        piece = sock.recv(1 << 20)
        if not piece:
            assert not received, "half a frame before the end"
            break
        received += piece
        while len(received) >= 2 and len(received) >= 2 + (
            length := int.from_bytes(received[:2], "big")
        ):
            found.append(dns.message.from_wire(bytes(received[2 : 2 + length])))
            del received[: 2 + length]
    return found


def closed_after(sock: socket.socket, seconds: float) -> float:
    """Wait until the server closes; return after how many seconds."""
    begin = time.monotonic()
    sock.settimeout(seconds)
    with contextlib.suppress(ConnectionResetError):
        assert sock.recv(1) == b"", "octets where an end was expected"
    return time.monotonic() - begin


def is_open(sock: socket.socket) -> bool:
    """Whether the connection still answers."""
    try:
        sock.sendall(frame(query("_dns.internal", id=99)))
        return [reply.id for reply in frames(sock, 1)] == [99]
    except (ConnectionResetError, BrokenPipeError):
        return False


# ── frames ────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_may_arrive_octet_by_octet(server: Served) -> None:
    with connected(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in frame(query("db.internal")):
            sock.sendall(bytes([octet]))
            time.sleep(0.001)
        assert len(addresses(frames(sock, 1)[0])) == 3


def test_a_thousand_questions_at_once_are_all_answered(server: Served) -> None:
    names = ["db.internal", "web.internal", "nobody.internal", "www.example.com", "_dns.internal"]
    asked = [
        query(names[n % len(names)], "A" if n % 5 == 3 else "AAAA", id=n) for n in range(1_000)
    ]
    with connected(server) as sock:
        sock.sendall(b"".join(map(frame, asked)))
        replies = frames(sock, 1_000)
        assert is_open(sock)
    assert sorted(reply.id for reply in replies) == list(range(1_000))
    assert all(asked[reply.id].is_response(reply) for reply in replies)
    assert {outcome(reply).split()[0] for reply in replies} == {"NOERROR", "NXDOMAIN"}


def test_a_slow_upstream_does_not_hold_up_what_is_behind(server: Served) -> None:
    with connected(server) as sock:
        begin = time.monotonic()
        sock.sendall(
            frame(query(SLOW, "A", id=1))
            + b"".join(frame(query("db.internal", id=n)) for n in range(2, 12))
        )
        first = frames(sock, 10)
        took = time.monotonic() - begin
        assert sorted(reply.id for reply in first) == list(range(2, 12))
        assert took < SLOW_SECONDS
        assert [reply.id for reply in frames(sock, 1)] == [1]


def test_more_slow_questions_than_may_be_in_flight_are_answered_too(server: Served) -> None:
    with connected(server) as sock:
        sock.sendall(b"".join(frame(query(f"slow-{n}.example", "A", id=n)) for n in range(150)))
        sock.sendall(frame(query("db.internal", id=150)))
        assert sorted(reply.id for reply in frames(sock, 151)) == list(range(151))


@pytest.mark.parametrize(
    "octets",
    [b"\0\0", b"\0\1x", b"\0\x0b" + bytes(11)],
    ids=["empty", "one octet", "eleven octets"],
)
def test_a_frame_too_short_for_a_query_closes(server: Served, octets: bytes) -> None:
    with connected(server) as sock:
        sock.sendall(octets)
        assert closed_after(sock, 5) < 1


def test_a_reply_instead_of_a_query_closes(server: Served) -> None:
    with connected(server) as sock:
        message = query("db.internal")
        message.flags |= dns.flags.QR
        sock.sendall(frame(message))
        assert closed_after(sock, 5) < 1


def test_questions_before_a_bad_frame_are_answered(server: Served) -> None:
    with connected(server) as sock:
        sock.sendall(frame(query("db.internal", id=1)) + b"\0\0")
        with contextlib.suppress(ConnectionResetError):
            assert [reply.id for reply in frames(sock)] == [1]


def test_a_malformed_message_does_not_close(server: Served) -> None:
    with connected(server) as sock:
        sock.sendall(frame(b"\x12\x34\1\0" + b"\0\2" + bytes(6) + b"\3web"))
        assert outcome(frames(sock, 1)[0]) == "FORMERR"
        assert is_open(sock)


def test_a_client_that_has_asked_all_it_wants_is_still_answered(server: Served) -> None:
    with connected(server) as sock:
        sock.sendall(
            b"".join(
                frame(query(name, "A", id=n))
                for n, name in enumerate(["db.internal", SLOW, "x.example"])
            )
        )
        sock.shutdown(socket.SHUT_WR)
        assert sorted(reply.id for reply in frames(sock)) == [0, 1, 2]


def test_one_that_has_asked_more_than_may_be_in_flight_is_still_answered(server: Served) -> None:
    with connected(server) as sock:
        sock.sendall(b"".join(frame(query(f"slow-{n}.example.net", "A", id=n)) for n in range(250)))
        sock.shutdown(socket.SHUT_WR)
        assert sorted(reply.id for reply in frames(sock)) == list(range(250))


def test_a_client_that_goes_away_leaves_nothing(server: Served) -> None:
    """No socket towards an upstream outlives the client that it was for."""
    before = server.descriptors()
    for number in range(50):
        with connected(server) as sock:
            slow = [frame(query(f"slow-{number}-{n}.example", "A")) for n in range(50)]
            sock.sendall(b"".join([*slow, frame(query("db.internal"))]))
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0)
            )  # a reset, not an end
    assert len(addresses(ask(server, "db.internal"))) == 3
    until(lambda: server.descriptors() <= before, 5, "descriptors were not closed")


def test_length_and_message_leave_in_one_segment(server: Served) -> None:
    """Clients that read the length alone and stop at a segment's end exist."""
    with connected(server) as sock:
        sock.sendall(frame(query("db.internal")))
        octets = sock.recv(65_535)
        assert len(octets) == 2 + int.from_bytes(octets[:2], "big")


ASKED = frame(query("db.internal"))


# ── limits ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_who_says_nothing_more_is_let_go(server: Served) -> None:
    """Half a message may take 2 s, and 10 s may pass without a question; four connections at
    once."""
    says = {
        "half a length": b"\0",
        "half a message": b"\0\x40\x12\x34",
        "nothing": b"",
        "one question": ASKED,
    }
    begin, took = time.monotonic(), dict.fromkeys(says, 0.0)
    with contextlib.ExitStack() as stack:
        waiting = {stack.enter_context(connected(server)): words for words in says}
        for sock, words in waiting.items():
            sock.sendall(says[words])
            if words == "one question":
                assert len(frames(sock, 1)) == 1
        while waiting and time.monotonic() - begin < 15:
            for sock in select.select(list(waiting), [], [], 1)[0]:
                closed_after(sock, 1)
                took[waiting.pop(sock)] = time.monotonic() - begin
    assert 1.8 < took["half a length"] < 5, took
    assert 1.8 < took["half a message"] < 5, took
    assert 9.5 < took["nothing"] < 13, took
    assert 9.5 < took["one question"] < 13, took


@pytest.mark.slow
def test_a_message_that_trickles_in_is_let_go(server: Served) -> None:
    """An octet a second must not hold a connection open."""
    octets, begin = frame(query("db.internal")), time.monotonic()
    with connected(server) as sock:
        for octet in octets:
            try:
                sock.sendall(bytes([octet]))
            except (BrokenPipeError, ConnectionResetError):
                break
            if select.select([sock], [], [], 0.3)[0]:
                break
        assert time.monotonic() - begin < 5


@pytest.mark.slow
def test_a_client_that_never_reads_costs_little_and_is_let_go(
    large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(large) as server:
        with connected(
            server
        ) as warm:  # the reply is in the answer table, memory has its working size
            warm.sendall(frame(query("vms.big.internal", "TXT")) * 50)
            assert len(frames(warm, 50)) == 50
        before, most = server.rss(), 0
        asked, begin, sent = frame(query("vms.big.internal", "TXT")) * 20, time.monotonic(), 0
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sock.connect(("::1", server.port))
            sock.setblocking(False)
            while time.monotonic() - begin < 20:
                most = max(most, server.rss())
                try:
                    sent += sock.send(asked)
                except BlockingIOError:
                    time.sleep(0.02)
                except (BrokenPipeError, ConnectionResetError):
                    break
        took = time.monotonic() - begin
        assert len(ask(server, query("big.internal", payload=8_192)).answer) == 1
        with capsys.disabled():
            grown = (most - before) / MIB
            print(
                f"\n  {sent} octets of questions, {grown:.1f} MiB more memory, closed after "
                f"{took:.1f} s"
            )
        assert most - before < 8 * MIB
        assert 9.5 < took < 14


@pytest.mark.slow
def test_many_clients_that_never_read_stay_within_the_bound(
    large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All buffers together are at most 64 MiB; 200 clients would like to have 36 KB times 500
    each."""
    asked = frame(query("vms.big.internal", "TXT")) * 500
    with serving(large) as server, contextlib.ExitStack() as stack:
        before, most = server.rss(), 0
        for _ in range(200):
            sock = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sock.connect(("::1", server.port))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                sock.send(asked)
            most = max(most, server.rss())
        end = time.monotonic() + 3
        while time.monotonic() < end:
            most = max(most, server.rss())
            time.sleep(0.05)
        assert len(ask(server, query("big.internal", payload=8_192)).answer) == 1
        with capsys.disabled():
            print(f"\n  200 clients that never read: {(most - before) / MIB:.0f} MiB more memory")
        assert most - before < 128 * MIB


@requires_root()
@requires_tool("ip")
def test_a_network_has_256_connections_and_others_are_not_touched(catalog: Path) -> None:
    host = Host("connections")
    try:
        host.ip("-6 route add local default dev lo")
        with serving(catalog, host=host) as server, contextlib.ExitStack() as stack:

            def connect(source: str) -> socket.socket:
                sock = stack.enter_context(host.socket(socket.SOCK_STREAM, source))
                sock.connect(("fdaa::3", server.port))
                return sock

            open_ones = [connect(f"fdaa:0:18:a7b:7d:1:{n:x}:2") for n in range(1, 257)]
            assert all(map(is_open, open_ones))
            for _ in range(5):
                assert not is_open(connect("fdaa:0:18:a7b:7d:f066:b83b:2"))
            assert is_open(connect("fdaa:0:19:a7b:7d:1:1:2"))
            assert is_open(connect("2001:db8::1"))  # outsiders are one network of their own
            assert all(map(is_open, open_ones))
            open_ones[0].close()
            deadline = time.monotonic() + 5
            while not is_open(connect("fdaa:0:18:a7b:7d:f066:b83b:2")):
                assert time.monotonic() < deadline, "a place that became free was not given away"
    finally:
        host.close()
