"""As a service: what systemd hears of us, when it hears nothing more, and what a SIGHUP changes."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.edns
import pytest

from tests.live.hosts import MAP_LOOPBACK, Host, Served, addresses, ask, change, client_socket, outcome, query, until
from tests.live.upstream import Upstream, answering
from tests.tools import requires_root, requires_tool

pytestmark = pytest.mark.live

WATCHDOG = 0.8  # seconds; asked every 0.2


class Manager:
    """The socket that systemd listens on."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.address = address
        self.heard: list[dict[str, str]] = []

    def hears(self, key: str, value: str | None = None, seconds: float = 15) -> dict[str, str]:
        """Wait for a message with this line; return all its lines."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and select.select([self.sock], [], [], left)[0]:
            lines = dict(line.split("=", 1) for line in self.sock.recv(4_096).decode().split("\n"))
            self.heard.append(lines)
            if key in lines and value in (None, lines[key]):
                return lines
        raise AssertionError(f"never heard {key}={value or '…'}: {self.heard}")

    def flush(self) -> None:
        """Forget what was said up to now."""
        while select.select([self.sock], [], [], 0)[0]:
            self.sock.recv(4_096)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@idns-{os.getpid()}-{time.monotonic_ns()}"
    made = Manager(address)
    with made.sock:
        yield made


@contextmanager
def service(
    catalog: Path, manager: Manager, *flags: str, watchdog: float = 0, upstream: str = "none", host: Host | None = None
) -> Iterator[Served]:
    environment = {"NOTIFY_SOCKET": manager.address}
    if watchdog:
        environment["WATCHDOG_USEC"] = str(int(watchdog * 1_000_000))
    where = () if host else ("--listen", "[::1]:0", "--map-source", MAP_LOOPBACK)
    server = Served(
        "--catalog", str(catalog), *where, "--upstream", upstream, "--admin", "none", *flags,
        environment=environment, host=host,
    )  # fmt: skip
    try:
        yield server
    except BaseException:
        server.kill()
        raise
    server.stop()


def test_systemd_hears_when_we_are_ready_re_read_and_stop(acme: Path, manager: Manager) -> None:
    with service(acme, manager) as server:
        assert manager.hears("READY", "1")["STATUS"] == "ready"
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        server.process.send_signal(signal.SIGHUP)
        assert int(manager.hears("RELOADING", "1")["MONOTONIC_USEC"]) >= before
        manager.hears("READY", "1")
        acme.rename(acme.with_name("elsewhere.db"))
        assert "the last good catalog answers" in manager.hears("STATUS")["STATUS"]
    manager.hears("STOPPING", "1")
    assert not any("WATCHDOG" in lines for lines in manager.heard)  # nobody asked for it


def test_the_watchdog_hears_of_a_server_that_answers(acme: Path, manager: Manager) -> None:
    with service(acme, manager, watchdog=WATCHDOG) as server:
        for _ in range(3):
            manager.hears("WATCHDOG", "1")
        # It asks as a client would: the questions are counted.
        assert outcome(ask(server, "web.internal")) == "NOERROR"


def test_the_watchdog_hears_nothing_of_a_stopped_process(acme: Path, manager: Manager) -> None:
    with service(acme, manager, watchdog=WATCHDOG) as server:
        manager.hears("WATCHDOG", "1")
        server.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: "T (stopped)" in Path(f"/proc/{server.pid}/status").read_text(), 5)
            manager.flush()
            assert not select.select([manager.sock], [], [], 2 * WATCHDOG)[0]
        finally:
            server.process.send_signal(signal.SIGCONT)
        manager.hears("WATCHDOG", "1")


@requires_tool("gdb")
def test_the_watchdog_is_not_fooled_by_a_loop_that_runs_without_answering(acme: Path, manager: Manager) -> None:
    """The socket is read by someone else: our loop goes on, our answers do not."""
    raise AssertionError("replaced below")


@requires_root()
@requires_tool("ip")
def test_an_address_that_is_on_no_interface_yet_is_no_reason_to_be_killed(acme: Path, tmp_path: Path) -> None:
    host, manager = Host("watchdog"), Manager(str(tmp_path / "notify"))
    try:
        with manager.sock, service(acme, manager, watchdog=WATCHDOG, host=host) as server:
            manager.hears("WATCHDOG", "1")
            assert "none of our addresses is on this host yet" in server.stderr()
            # Once it can be asked it is, and by its own address.
            host.ip("-6 route add local fdaa::3/128 dev lo")
            manager.flush()
            for _ in range(3):
                manager.hears("WATCHDOG", "1")
    finally:
        host.close()


def test_a_service_manager_that_is_gone_is_told_of_once(acme: Path, tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    with service(acme, manager, watchdog=WATCHDOG) as server:
        manager.hears("WATCHDOG", "1")
        manager.sock.close()
        until(lambda: "cannot tell the service manager" in server.stderr(), 5)
        time.sleep(3 * WATCHDOG / 4)
        assert server.stderr().count("cannot tell the service manager") == 1
        assert outcome(ask(server, "web.internal")) == "NOERROR"
