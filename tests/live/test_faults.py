"""Catalogs that are missing, replaced or broken while they are served, and servers that cannot
start."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from statistics import median

import dns.message
import pytest

from tests.live.conftest import catalog_file
from tests.live.hosts import (
    MAP_LOOPBACK,
    REPOSITORY,
    Host,
    Served,
    addresses,
    ask,
    change,
    client_socket,
    command,
    outcome,
    query,
    serving,
    shows,
    until,
)
from tests.live.upstream import Asked, Upstream
from tests.scenario.runner import make_catalog
from tests.tools import requires_root, requires_tool

pytestmark = pytest.mark.live

VISIBLE = 2.0  # seconds; what is promised is 1, which a busy machine may miss


def web(server: Served) -> int:
    """How many addresses `web.internal` has."""
    return len(addresses(ask(server, "web.internal")))


def good(server: Served) -> bool:
    reply = ask(server, "web.internal")
    return outcome(reply) == "NOERROR" and len(addresses(reply)) == 5


def refuses(*flags: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Start a server that should not start; return its exit status and what it says."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "internal_dns", "serve", *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


# ── the catalog's file ────────────────────────────────────────────────────────────────────────────


def test_without_a_catalog_our_names_fail_and_it_is_served_when_it_comes(
    tmp_path: Path, acme: Path
) -> None:
    later = tmp_path / "later.db"
    with serving(later) as server:
        assert "the file does not exist" in server.ready
        for name in ("web.internal", "nobody.internal", "web.flycast"):
            reply = ask(server, name)
            assert (outcome(reply), reply.answer) == ("SERVFAIL 14", [])
        assert addresses(ask(server, "localhost")) == ["::1"]
        change(acme, "PRAGMA user_version")
        shutil.copy(acme, tmp_path / "new.db")
        os.rename(tmp_path / "new.db", later)
        until(lambda: good(server), VISIBLE)


def test_a_catalog_that_is_made_in_place_is_served(tmp_path: Path) -> None:
    """Someone makes the file with a shell, step by step: an empty file and a half-made one must not
    end the server."""
    later = tmp_path / "later.db"
    with serving(later) as server:
        later.touch()
        time.sleep(0.8)
        assert outcome(ask(server, "web.internal")) == "SERVFAIL 14"
        later.unlink()
        make_catalog(tmp_path / "made.db", ("acme.sql",))
        os.rename(tmp_path / "made.db", later)
        until(lambda: good(server), VISIBLE)


def test_a_file_renamed_over_the_catalog_is_served(
    tmp_path: Path, acme: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(acme) as server:
        assert good(server)
        other = catalog_file(tmp_path / "other.db", "acme.sql")
        change(other, "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")
        os.rename(other, acme)
        took = until(lambda: web(server) == 4, VISIBLE)
        # And the new file is followed from then on.
        change(acme, "UPDATE machines SET state = 'started' WHERE id = '3d8d9930b03989'")
        until(lambda: good(server), VISIBLE)
    with capsys.disabled():
        print(f"\n  a file renamed over the catalog was served after {took * 1000:.0f} ms")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def garbage(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(os.urandom(size))


def garbage_behind_the_header(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(size - 100))


def deleted(path: Path) -> None:
    path.unlink()


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def another_schema(path: Path) -> None:
    other = path.with_name("other.db")
    connection = sqlite3.connect(other)
    connection.executescript("CREATE TABLE notes (text TEXT)")
    connection.close()
    os.rename(other, path)


@pytest.mark.parametrize(
    "harm",
    [truncated, emptied, garbage, garbage_behind_the_header, deleted, a_directory, another_schema],
    ids=lambda f: str(f.__name__),
)
def test_the_last_good_catalog_answers_when_the_file_is_harmed(
    tmp_path: Path, acme: Path, harm: Callable[[Path], None]
) -> None:
    repaired = tmp_path / "repaired.db"
    make_catalog(
        acme_plain := tmp_path / "plain.db", ("acme.sql",)
    )  # one file: no WAL holds what is harmed
    shutil.copy(acme_plain, repaired)
    with serving(acme_plain) as server:
        assert good(server)
        harm(acme_plain)
        end = time.monotonic() + 0.7  # longer than it takes to look again
        while time.monotonic() < end:
            assert good(server)
            assert outcome(ask(server, "nobody.internal")).startswith("NXDOMAIN")
            time.sleep(0.01)
        if acme_plain.is_dir():
            acme_plain.rmdir()
        change(repaired, "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")
        os.rename(repaired, acme_plain)
        until(lambda: web(server) == 4, VISIBLE)
        said = server.stop()
    troubles = [line for line in said.splitlines() if "the last good catalog answers" in line]
    # SQLite looks at the header for changes: what is harmed behind it is noticed with the next
    # commit.
    assert (harm is not garbage_behind_the_header) <= len(troubles) <= 3, said
    assert len(said.splitlines()) <= 8, said


def test_a_locked_catalog_still_answers(tmp_path: Path) -> None:
    make_catalog(path := tmp_path / "plain.db", ("acme.sql",))
    with serving(path) as server:
        writer = sqlite3.connect(path, isolation_level=None)
        try:
            writer.execute("BEGIN EXCLUSIVE")
            writer.execute("UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")
            end = time.monotonic() + 1
            while time.monotonic() < end:
                assert good(server)
            writer.execute("COMMIT")
            until(lambda: web(server) == 4, VISIBLE + 5)
        finally:
            writer.close()


def test_a_rolled_back_change_is_never_seen(acme: Path) -> None:
    with serving(acme) as server:
        writer = sqlite3.connect(acme, isolation_level=None)
        try:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("UPDATE machines SET state = 'stopped'")
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                assert good(server)
            writer.execute("ROLLBACK")
        finally:
            writer.close()
        assert good(server)


def test_commits_become_visible(acme: Path, capsys: pytest.CaptureFixture[str]) -> None:
    took = []
    with serving(acme) as server:
        for number in range(20):
            address = IPv6Address(f"fdaa:0:18:a7b:7d:77:{number + 1:x}:2")
            change(
                acme,
                "INSERT INTO machines (id, network_id, app, address, region, state) VALUES"
                f" ('new{number}', 24, 'fresh', '{address}', 'iad', 'started')",
            )
            took.append(until(partial(shows, server, "fresh.internal", number + 1), VISIBLE))
    with capsys.disabled():
        print(
            f"\n  20 commits were visible after {median(took) * 1000:.0f} ms (p50), "
            f"{max(took) * 1000:.0f} ms (most)"
        )


def test_a_writer_that_is_killed_does_no_harm(acme: Path) -> None:
    started = (
        "('3d8d9930b03989', '5683d474b40d8e', '7811e63fd4de08', 'e2865013bd7d86', '4d89696a2e7508')"
    )
    program = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5)
while True:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE machines SET state = 'stopped' WHERE app = 'web'")
    print(flush=True)
    connection.execute(f"UPDATE machines SET state = 'started' WHERE id IN {sys.argv[2]}")
    connection.execute("COMMIT")
"""
    with serving(acme) as server:
        for number in range(8):
            writer = subprocess.Popen(
                [sys.executable, "-c", program, str(acme), started], stdout=subprocess.PIPE
            )
            assert writer.stdout is not None
            for _ in range(3 + number):
                writer.stdout.readline()
            writer.kill()
            writer.wait(10)
            writer.stdout.close()
            for _ in range(20):
                assert good(server)


# ── starting and stopping ─────────────────────────────────────────────────────────────────────────


def test_sigterm_finishes_what_is_in_flight(acme: Path) -> None:
    def script(asked: Asked) -> tuple[float, bytes]:
        return 0.5, asked.reply("@ 60 IN A 192.0.2.1")

    with (
        Upstream(script) as upstream,
        serving(acme, upstream=upstream.url) as server,
        client_socket(socket.SOCK_DGRAM) as udp,
        client_socket(socket.SOCK_STREAM) as tcp,
    ):
        udp.connect(("::1", server.port))
        tcp.connect(("::1", server.port))
        octets = query("slow.example", "A").to_wire()
        udp.send(octets)
        tcp.sendall(len(octets).to_bytes(2, "big") + octets)
        until(lambda: len(upstream.asked) >= 1, 5)
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        assert udp.recv(65_535)[:2] == octets[:2]
        assert tcp.recv(65_535)[2:4] == octets[:2]
        assert server.process.wait(5) == 0


def test_a_silent_client_does_not_hold_up_the_end(acme: Path) -> None:
    with serving(acme) as server, client_socket(socket.SOCK_STREAM) as idle:
        idle.connect(("::1", server.port))
        idle.sendall(b"\0")
        begin = time.monotonic()
        server.stop()
        assert time.monotonic() - begin < 3


def test_a_client_that_does_not_read_does_not_hold_up_the_end(tmp_path: Path) -> None:
    catalog = catalog_file(tmp_path / "large.db", "sized:2000")
    asked = query("vms.big.internal", "TXT").to_wire()
    with serving(catalog) as server, socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.connect(("::1", server.port))
        sock.sendall((len(asked).to_bytes(2, "big") + asked) * 500)
        time.sleep(0.3)
        begin = time.monotonic()
        server.stop()
        assert time.monotonic() - begin < 7


def test_a_server_starts_again_at_once_on_its_port(acme: Path) -> None:
    with serving(acme) as server:
        port = server.port
        with client_socket(socket.SOCK_STREAM) as tcp:
            tcp.connect(("::1", port))
            tcp.sendall(b"\0\0")  # the server closes first: its end stays in TIME_WAIT
            assert tcp.recv(1) == b""
    with serving(acme, port=port) as server:
        assert server.port == port
        assert good(server)


@requires_tool("prlimit")
def test_few_descriptors_do_not_stop_udp(acme: Path) -> None:
    with serving(acme) as server, ExitStack() as stack:
        command("prlimit", "--pid", str(server.pid), "--nofile=64:64")
        for _ in range(100):
            sock = stack.enter_context(client_socket(socket.SOCK_STREAM))
            sock.connect(("::1", server.port))
        begin = time.monotonic()
        for _ in range(200):
            assert good(server)
        assert time.monotonic() - begin < 5
        stack.close()

        def by_tcp() -> bool:
            octets = query("web.internal").to_wire()
            with client_socket(socket.SOCK_STREAM) as tcp:
                tcp.settimeout(1)
                tcp.connect(("::1", server.port))
                tcp.sendall(len(octets).to_bytes(2, "big") + octets)
                with suppress(OSError):
                    return len(tcp.recv(65_535)) > 100
            return False

        until(by_tcp, 3)
        took = time.monotonic() - begin
        assert len(server.stop().splitlines()) <= 5 + took


@requires_root()
@requires_tool("ip")
def test_the_default_address_need_not_be_there_yet(acme: Path) -> None:
    host = Host("default")
    try:
        server = Served("--catalog", str(acme), "--upstream", "none", "--admin", "none", host=host)
        assert server.port == 53
        host.ip("-6 route add local fdaa::/16 dev lo")
        with host.socket(socket.SOCK_DGRAM, "fdaa:0:18:a7b:7d:f066:b83b:2") as sock:
            sock.sendto(query("web.internal").to_wire(), ("fdaa::3", 53))
            octets, peer = sock.recvfrom(65_535)
        assert peer[0] == "fdaa::3"
        assert len(addresses(dns.message.from_wire(octets))) == 5
        server.stop()
    finally:
        host.close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_a_port_that_is_taken(acme: Path, kind: socket.SocketKind) -> None:
    with client_socket(kind, "::1") as taken:
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        code, said = refuses(
            "--catalog",
            str(acme),
            "--listen",
            f"[::1]:{port}",
            "--upstream",
            "none",
            "--admin",
            "none",
        )
    assert code == 78
    assert re.search(rf"^error  cannot listen on \[::1\]:{port}$", said, re.MULTILINE)
    assert re.search(r"^  why  .*in use", said, re.MULTILINE)
    assert re.search(rf"^  do   .*{port}.*--listen", said, re.MULTILINE)


@pytest.mark.parametrize(
    "harm",
    [emptied, garbage, garbage_behind_the_header, another_schema],
    ids=lambda f: str(f.__name__),
)
def test_a_catalog_that_cannot_be_used(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    make_catalog(path := tmp_path / "plain.db", ("acme.sql",))
    harm(path)
    code, said = refuses(
        "--catalog", str(path), "--listen", "[::1]:0", "--upstream", "none", "--admin", "none"
    )
    assert code == 78
    assert said.startswith("error  ")
    assert str(path) in said
    assert "\n  why  " in said
    assert "\n  do   " in said


def test_all_bad_flags_are_told_at_once(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('lisen = ["[::1]:53"]\n')
    code, said = refuses(
        "--config",
        str(config),
        "--listen",
        "nonsense",
        "--listen",
        "fdaa::3:53",
        "--udp-limit",
        "5",
        "--prefix",
        "10.0.0.0/8",
        "--map-source",
        "::1/128",
        "--upstream",
        "ftp://192.0.2.1",
        "--region",
        "a b",
        environment={"INTERNAL_DNS_COOKIE_SECRET": "short"},
    )
    assert code == 78
    assert said.count("error  ") == 1
    for fault in ("--listen: 'nonsense'", "--listen: 'fdaa::3:53'", "--udp-limit: '5'",
                  "--prefix: '10.0.0.0/8'",
                  "--map-source: '::1/128'", "--upstream: 'ftp://192.0.2.1'", "--region: 'a b'",
                  "INTERNAL_DNS_COOKIE_SECRET: ",
                  "unknown key 'lisen', did you mean 'listen'?"):  # fmt: skip
        assert fault in said, said


def test_settings_that_contradict_each_other(acme: Path) -> None:
    code, said = refuses(
        "--catalog",
        str(acme),
        "--listen",
        "[::1]:0",
        "--upstream",
        "none",
        "--upstream",
        "udp://192.0.2.1",
        "--map-source",
        "fdaa:0:18::1/128=fdaa:0:19::/48",
        "--map-source",
        "::1/128=fdaa::/48",
    )
    assert code == 78
    for words in ("none cannot be combined", "is in the prefix", "network 0"):
        assert words in said, said


def test_two_addresses_one_of_them_taken(acme: Path) -> None:
    """Nothing is served half."""
    with client_socket(socket.SOCK_DGRAM, "::1") as taken:
        port = taken.getsockname()[1]
        code, said = refuses(
            "--catalog",
            str(acme),
            "--listen",
            "[::1]:0",
            "--listen",
            f"[::1]:{port}",
            "--upstream",
            "none",
            "--admin",
            "none",
        )
    assert code == 78
    assert f"[::1]:{port}" in said


def test_the_admin_port_says_whether_it_is_ready(tmp_path: Path, acme: Path) -> None:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    later = tmp_path / "later.db"

    def status(path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as page:
                return page.status, page.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    served = Served("--catalog", str(later), "--listen", "[::1]:0", "--map-source", MAP_LOOPBACK,
                    "--upstream", "none",
                    "--admin", f"127.0.0.1:{port}")  # fmt: skip
    try:
        assert status("/healthz")[0] == 200
        code, words = status("/readyz")
        assert code == 503
        assert "not ready" in words
        shutil.copy(acme, tmp_path / "new.db")
        os.rename(tmp_path / "new.db", later)
        until(lambda: status("/readyz")[0] == 200, VISIBLE)
        assert good(served)
        later.unlink()
        until(lambda: "degraded" in status("/readyz")[1], VISIBLE)
        assert status("/readyz")[0] == 200
        metrics = status("/metrics")[1]
        assert 'internal_dns_requests_total{family="6",proto="udp"}' in metrics
        assert "internal_dns_catalog_readable 0.0" in metrics
        for tenant in ("acme", "globex", "web", "secret"):
            assert not re.search(rf'"[^"]*\b{tenant}\b', metrics)
        assert status("/")[0] == 404
    finally:
        served.stop()


def test_the_ready_line_says_what_runs(acme: Path) -> None:
    with serving(acme) as server:
        line = server.ready
        assert line.count("\n") == 1
        for words in (r"udp\+tcp \[::1\]:\d+", r"3 networks, \d+ apps, 19 machines \(\d+ "
                                               r"started\), 5 peers",
                      "upstreams none", "admin none"):  # fmt: skip
            assert re.search(words, line), line
