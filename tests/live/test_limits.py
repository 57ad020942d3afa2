"""What one network, or the clock, may do to the others: nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.edns
import dns.message
import pytest

from tests.live.hosts import Host, addresses, ask, change, outcome, query, serving, until
from tests.tools import requires_root, requires_tool

pytestmark = pytest.mark.live

CONNECTIONS = 10_000
# Says how many connections it opened, and keeps its ends of them until its standard input is
# closed.
FLOOD = f"""
import socket, sys
FREEBIND, source, opened = 78, "fdaa:0:18:a7b:7d:f066:b83b:2", []
while len(opened) < {CONNECTIONS}:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_IPV6, FREEBIND, 1)
    sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    sock.bind((source, 0))
    opened.append(sock)
    sock.connect(("fdaa::3", 53))
print(len(opened), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host("limits")
    try:
        made.ip("-6 route add local default dev lo")
        yield made
    finally:
        made.close()


@contextmanager
def flooding(host: Host) -> Iterator[int]:
    """Ten thousand connections of network 0x18, from a process with as many descriptors; how many
    were opened."""
    words = host.within("prlimit", f"--nofile={CONNECTIONS + 100}", sys.executable, "-c", FLOOD)
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline() or 0)
            process.stdin.close()
            assert process.wait(20) == 0
        finally:
            process.kill()


@requires_root()
@requires_tool("ip", "prlimit")
@pytest.mark.slow
def test_ten_thousand_idle_connections_of_one_network_leave_the_others_theirs(
    acme: Path, host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = query("web.internal").to_wire()
    took = []
    with serving(acme, host=host) as server, flooding(host) as opened:
        assert opened == CONNECTIONS
        for _ in range(10):
            begin = time.monotonic()
            with host.socket(socket.SOCK_STREAM, "fdaa:0:19:a7b:7d:1:1:2") as sock:
                sock.connect(("fdaa::3", 53))
                sock.sendall(len(asked).to_bytes(2, "big") + asked)
                assert len(addresses(dns.message.from_wire(sock.recv(65_535)[2:]))) == 2
            took.append(time.monotonic() - begin)
        with capsys.disabled():
            print(
                f"\n  {opened:,} idle connections of another network: 10/10, slowest "
                f"{max(took) * 1000:.1f} ms"
            )
        assert server.descriptors() < 256 + 100


# ── the clock ─────────────────────────────────────────────────────────────────────────────────────

LIBRARY = next(
    iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), Path("/absent")
)
DAY = 86_400
CLIENT_COOKIE = bytes(range(8))


def cookie(server_cookie: bytes = b"") -> dns.edns.GenericOption:
    return dns.edns.GenericOption(dns.edns.COOKIE, CLIENT_COOKIE + server_cookie)


@requires_tool("faketime")
def test_a_clock_that_is_set_changes_nothing_but_the_cookies(acme: Path, tmp_path: Path) -> None:
    """RFC 9018: the server cookie holds the time at octets 4 to 8, which shows that the clock
    really was another."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = {"LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(clock),
             "FAKETIME_NO_CACHE": "1",
             "FAKETIME_DONT_FAKE_MONOTONIC": "1"}  # fmt: skip
    with serving(acme, environment=faked) as server:

        def fresh(sent: bytes = b"") -> bytes:
            reply = ask(server, query("web.internal", options=[cookie(sent)]))
            assert outcome(reply) == "NOERROR"
            assert len(addresses(reply)) in (4, 5)
            (found,) = [o for o in reply.options if isinstance(o, dns.edns.CookieOption)]
            return found.server

        before = fresh()
        for days, state, count in ((1, "stopped", 4), (-1, "started", 5), (0, "stopped", 4)):
            clock.write_text(f"{days:+d}d")
            after = fresh(before)  # from yesterday, or from tomorrow: no error, and a new one
            jumped = int.from_bytes(after[4:8], "big") - int.from_bytes(before[4:8], "big")
            assert abs(jumped) > DAY / 2
            change(acme, f"UPDATE machines SET state = '{state}' WHERE id = '3d8d9930b03989'")
            until(lambda n=count: len(addresses(ask(server, "web.internal"))) == n, 2)  # type: ignore[misc]
            before = after
        assert outcome(ask(server, "nobody.internal")).startswith("NXDOMAIN")
