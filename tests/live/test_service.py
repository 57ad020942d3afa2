"""As a service: what systemd hears of us, when it hears nothing more, and what a SIGHUP changes."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.edns
import pytest

from tests.live.hosts import (
    MAP_LOOPBACK,
    Host,
    Served,
    addresses,
    ask,
    change,
    outcome,
    query,
    until,
)
from tests.live.upstream import Upstream, answering
from tests.tools import requires_native, requires_root, requires_tool

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
        while (left := deadline - time.monotonic()) > 0 and select.select(
            [self.sock], [], [], left
        )[0]:
            lines = dict(line.split("=", 1) for line in self.sock.recv(4_096).decode().split("\n"))
            self.heard.append(lines)
            if key in lines and value in (None, lines[key]):
                return lines
        raise AssertionError(f"never heard {key}={value or '…'}: {self.heard}")

    def flush(self) -> None:
        """Forget what was said up to now."""
        while select.select([self.sock], [], [], 0)[0]:
            self.sock.recv(4_096)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    with made.sock:
        yield made


@pytest.fixture
def abstract() -> Iterator[Manager]:
    made = Manager(f"@idns-{os.getpid()}-notify")
    with made.sock:
        yield made


@contextmanager
def service(
    catalog: Path,
    manager: Manager,
    *flags: str,
    watchdog: float = 0,
    upstream: str = "none",
    host: Host | None = None,
) -> Iterator[Served]:
    environment = {"NOTIFY_SOCKET": manager.address}
    if watchdog:
        environment["WATCHDOG_USEC"] = str(int(watchdog * 1_000_000))
    where = () if host else ("--listen", "[::1]:0", "--map-source", MAP_LOOPBACK)
    server = Served(
        "--catalog",
        str(catalog),
        *where,
        "--upstream",
        upstream,
        "--admin",
        "none",
        *flags,
        environment=environment,
        host=host,
    )
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


@requires_root()
@requires_tool("ip")
def test_an_address_that_is_on_no_interface_yet_is_no_reason_to_be_killed(
    acme: Path, tmp_path: Path
) -> None:
    host, manager = Host("watchdog"), Manager(str(tmp_path / "notify"))
    try:
        with manager.sock, service(acme, manager, watchdog=WATCHDOG, host=host) as server:
            manager.hears("WATCHDOG", "1")
            assert "no address of the server is on this host yet" in server.stderr()
            # Once it can be asked it is, and by its own address.
            host.ip("-6 route add local fdaa::3/128 dev lo")
            manager.flush()
            for _ in range(3):
                manager.hears("WATCHDOG", "1")
    finally:
        host.close()


def test_a_service_manager_may_have_an_abstract_address(acme: Path, abstract: Manager) -> None:
    with service(acme, abstract):
        abstract.hears("READY", "1")
    abstract.hears("STOPPING", "1")


def test_a_service_manager_that_is_gone_is_told_of_once(acme: Path, tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    with service(acme, manager, watchdog=WATCHDOG) as server:
        manager.hears("WATCHDOG", "1")
        manager.sock.close()
        until(lambda: "cannot report status to the service manager" in server.stderr(), 5)
        time.sleep(3 * WATCHDOG / 4)
        assert server.stderr().count("cannot report status to the service manager") == 1
        assert outcome(ask(server, "web.internal")) == "NOERROR"


# ── SIGHUP ────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def configured(catalog: Path, file: Path, text: str) -> Iterator[Served]:
    """A server whose settings are in *file*."""
    file.write_text(text)
    server = Served(
        "--catalog", str(catalog), "--config", str(file), "--listen", "[::1]:0", "--admin", "none"
    )
    try:
        yield server
    except BaseException:
        server.kill()
        raise
    server.stop()


def reread(server: Served) -> str:
    """Send SIGHUP; return the lines it brought about."""
    before = server.stderr()
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "configuration " in server.stderr()[len(before) :], 5)
    return server.stderr()[len(before) :]


ACME, GLOBEX = "::1/128=fdaa:0:18::/48", "::1/128=fdaa:0:19::/48"


def test_what_can_change_at_run_time_changes(acme: Path, tmp_path: Path) -> None:
    change(acme, "INSERT INTO peers (network_id, name, address, region) VALUES "
                 "(24, 'build-7', 'fdaa:0:18:a7b:7d:0:7:2', 'iad')")  # fmt: skip
    file = tmp_path / "config.toml"
    with (
        Upstream(answering("@ 60 IN A 192.0.2.1")) as one,
        Upstream(answering("@ 60 IN A 192.0.2.2")) as two,
        configured(
            acme, file, f'upstream = "{one.url}"\nmap_source = "{ACME}"\nnsid = "first"\n'
        ) as server,
    ):
        assert len(addresses(ask(server, "web.internal"))) == 5
        assert addresses(ask(server, query("www.example.com", "A"))) == ["192.0.2.1"]
        assert addresses(ask(server, "build-7._peer.internal")) != []
        assert nsid(server) == "first"
        file.write_text(
            f'upstream = "none"\nmap_source = "{GLOBEX}"\nnsid = "second"\nudp_limit = 512\nregion '
            f'= "nrt"\n'
        )
        said = reread(server)
        assert f"upstream {one.url} -> none" in said
        assert "region none -> nrt" in said
        assert len(addresses(ask(server, "web.internal"))) == 2
        assert outcome(ask(server, query("www.example.com", "A"))).startswith("REFUSED")
        assert nsid(server) == "second"
        file.write_text(
            f'upstream = "{two.url}"\nmap_source = "{ACME}"\nhidden_peers = ["build-"]\n'
            f'[forward]\n"corp.example" = ["{one.url}"]\n'
        )
        said = reread(server)
        assert f"forward none -> corp.example={one.url}" in said
        assert addresses(ask(server, query("www.example.com", "A"))) == ["192.0.2.2"]
        assert addresses(ask(server, query("www.corp.example", "A"))) == ["192.0.2.1"]
        until(lambda: outcome(ask(server, "build-7._peer.internal")).startswith("NXDOMAIN"), 5)


def nsid(server: Served) -> str:
    reply = ask(server, query("web.internal", options=[dns.edns.GenericOption(dns.edns.NSID, b"")]))
    return next(
        str(o.to_text()).removeprefix("NSID ") for o in reply.options if o.otype == dns.edns.NSID
    )


def test_what_cannot_is_said_in_one_line(acme: Path, tmp_path: Path) -> None:
    with configured(
        acme, file := tmp_path / "config.toml", f'upstream = "none"\nmap_source = "{ACME}"\n'
    ) as server:
        file.write_text('upstream = "none"\nprefix = "fdab::/16"\nregion = "iad"\n')
        assert "region none -> iad" in reread(server)
        until(lambda: "restart to apply" in server.stderr(), 5)
        assert re.findall(r"only read at start: (.*)", server.stderr()) == ["prefix"]


@requires_native()
def test_a_reload_that_finds_no_descriptors_leaves_the_workers_that_read(
    acme: Path, tmp_path: Path
) -> None:
    file, text = (
        tmp_path / "config.toml",
        f'upstream = "none"\nmap_source = "{ACME}"\nudp_path = "native"\n',
    )
    with configured(acme, file, text) as server:
        file.write_text(text + 'region = "iad"\n')
        before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        # One more can be opened, which reads the file; a worker needs three.
        taken = {int(entry.name) for entry in Path(f"/proc/{server.pid}/fd").iterdir()}
        second_free = [number for number in range(len(taken) + 2) if number not in taken][1]
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (second_free, before[1]))
        said = reread(server)
        assert (
            "configuration not reloaded, keeping the previous one: cannot create new native workers"
            in said
        )
        assert len(addresses(ask(server, "web.internal"))) == 5
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)
        assert "region none -> iad" in reread(server)
        assert len(addresses(ask(server, "web.internal"))) == 5


def test_a_faulty_configuration_leaves_the_one_before(acme: Path, tmp_path: Path) -> None:
    with configured(
        acme, file := tmp_path / "config.toml", f'upstream = "none"\nmap_source = "{ACME}"\n'
    ) as server:
        for text, why in (
            ("upstream = \n", "is not TOML"),
            ('upstreem = "none"\n', "did you mean 'upstream'?"),
            ('region = "a b"\nudp_limit = 1\n', "is not a region code"),
            (
                'listen = "[::1]:0"\nupstream = ["none", "udp://192.0.2.1"]\n',
                "none cannot be combined",
            ),
            (f"x = {'[' * 100_000}", "nested too deeply"),
            (f"workers = {'9' * 5_000}", "too many digits"),
            ('cookie_secret = "hunter2"\n', "is 32 hexadecimal digits"),
        ):
            file.write_text(text)
            said = reread(server)
            assert said.count("\n") == 1
            assert "not reloaded, keeping the previous one" in said
            assert why in said
            assert "hunter2" not in said
            assert len(addresses(ask(server, "web.internal"))) == 5
        file.unlink()
        assert "not reloaded" in reread(server)
        file.write_text(f'upstream = "none"\nmap_source = "{GLOBEX}"\n')
        assert "configuration reloaded" in reread(server)
        assert len(addresses(ask(server, "web.internal"))) == 2


def test_a_misspelt_variable_is_told_at_the_start(acme: Path) -> None:
    server = Served("--catalog", str(acme), "--listen", "[::1]:0", "--upstream", "none", "--admin",
                    "none",
                    environment={"INTERNAL_DNS_REGIN": "iad"})  # fmt: skip
    said = server.stop()
    assert (
        "INTERNAL_DNS_REGIN is set but is not a setting, did you mean INTERNAL_DNS_REGION?" in said
    )


def test_a_terminal_that_is_closed_ends_the_demo(acme: Path) -> None:
    server = Served(
        "--catalog",
        str(acme),
        "--listen",
        "[::1]:0",
        "--admin",
        "none",
        "--upstream",
        "none",
        verb="dev",
    )
    server.process.send_signal(signal.SIGHUP)
    assert server.process.wait(10) == 0
    server.stop()
