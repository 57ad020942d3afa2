"""The systemd units: what systemd's own judge says of them, and that the server fits into the cage
they build."""

from __future__ import annotations

import configparser
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from internal_dns.store.generate import create_catalog, demo_rows
from tests import commands
from tests.live.hosts import MAP_LOOPBACK, REPOSITORY, Served, ask, outcome, until
from tests.tools import requires_native, requires_root, requires_tool

pytestmark = [pytest.mark.live, requires_tool("systemd-analyze")]

DEPLOY = REPOSITORY / "deploy"
SERVICE, SOCKET = DEPLOY / "internal-dns.service", DEPLOY / "internal-dns.socket"
FOLLOW = DEPLOY / "internal-dns-follow@.service"


def analyzed(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def directives(unit: Path, section: str, key: str) -> list[str]:
    """All values of a directive, in order."""
    part = re.split(r"^\[(\w+)\]$", unit.read_text(), flags=re.MULTILINE)
    return re.findall(rf"^{key}=(.*)$", part[part.index(section) + 1], re.MULTILINE)


def test_what_the_service_may_do_is_rated_at_most_one_and_a_half() -> None:
    said = analyzed("security", "--offline=true", SERVICE).stdout
    found = re.search(r"Overall exposure level for internal-dns.service: ([\d.]+)", said)
    assert found, said
    assert float(found[1]) <= 1.5


def test_a_follower_is_root_with_one_capability_and_no_network() -> None:
    said = analyzed("security", "--offline=true", FOLLOW).stdout
    found = re.search(r"Overall exposure level for internal-dns-follow@\S+: ([\d.]+)", said)
    assert found, said
    assert float(found[1]) <= 1.5
    for key, value in (
        ("CapabilityBoundingSet", "CAP_DAC_OVERRIDE"),
        ("RestrictAddressFamilies", "AF_UNIX"),
        ("PrivateNetwork", "yes"),
        ("Type", "notify"),
    ):
        assert directives(FOLLOW, "Service", key) == [value], key


def test_systemd_finds_no_fault_in_the_follower(tmp_path: Path) -> None:
    """As the instance `podman`; its command is one that `follow` takes."""
    text, count = re.subn(
        r"^ExecStart=\S+ ",
        f"ExecStart={sys.executable} -m internal_dns ",
        FOLLOW.read_text(),
        flags=re.MULTILINE,
    )
    assert count == 1
    unit = tmp_path / "internal-dns-follow@podman.service"
    unit.write_text(text)
    done = analyzed("verify", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (line,) = directives(FOLLOW, "Service", "ExecStart")
    words = line.replace("%i", "podman").replace("${CATALOG}", str(tmp_path / "none.db"))
    words = words.replace("$OPTIONS", "").replace("$SOURCE", "podman").replace("$ADDRESS", "")
    said = commands.run(*words.split()[1:])
    assert (said.code, "there is no such file" in said.err) == (78, True)


def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    """Without a word: an unknown directive is a line. The program is named where it really is."""
    text, count = re.subn(
        r"^ExecStart=\S+ ",
        f"ExecStart={sys.executable} -m internal_dns ",
        SERVICE.read_text(),
        flags=re.MULTILINE,
    )
    assert count == 1
    (tmp_path / SERVICE.name).write_text(text)
    (tmp_path / SOCKET.name).write_text(SOCKET.read_text())
    done = analyzed("verify", tmp_path / SERVICE.name, tmp_path / SOCKET.name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_has_no_capability_and_no_user_of_the_host() -> None:
    for key, value in (("CapabilityBoundingSet", ""), ("AmbientCapabilities", ""),
                       ("DynamicUser", "yes"),
                       ("Type", "notify"), ("LimitNOFILE", "65536"),
                       ("StateDirectory", "internal-dns")):  # fmt: skip
        assert directives(SERVICE, "Service", key) == [value], key
    assert directives(SERVICE, "Service", "User") == []


def test_udp_and_tcp_are_of_one_address() -> None:
    (stream,) = directives(SOCKET, "Socket", "ListenStream")
    # A UDP socket per queue; TCP shares one.
    assert directives(SOCKET, "Socket", "ListenDatagram") == [stream] * 8
    assert directives(SOCKET, "Socket", "BindIPv6Only") == ["ipv6-only"]


def test_the_units_are_files_that_other_programs_read_too() -> None:
    for unit in (SERVICE, SOCKET, FOLLOW):
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        parser.read_string(unit.read_text())
        assert parser.sections()


def allowed() -> set[str]:
    """The system calls that SystemCallFilter= leaves, as this systemd expands its groups."""
    groups: dict[str, set[str]] = {}
    for block in re.split(r"\n(?=@)", analyzed("syscall-filter").stdout):
        name, *lines = block.splitlines() or [""]
        groups[name] = {
            word for line in lines if (word := line.strip()) and not word.startswith("#")
        }

    def expanded(name: str) -> set[str]:
        return set().union(*(expanded(w) if w.startswith("@") else {w} for w in groups[name]))

    left: set[str] = set()
    for value in directives(SERVICE, "Service", "SystemCallFilter"):
        named = set().union(*map(expanded, value.removeprefix("~").split()))
        left = left - named if value.startswith("~") else left | named
    return left


@requires_native()
@requires_root()
@requires_tool("strace", "unshare")
def test_the_server_makes_no_system_call_that_the_service_may_not(tmp_path: Path) -> None:
    """Started as the unit does, without a right; it answers natively, writes, starts new workers
    and ends."""
    calls, catalog, config = tmp_path / "calls", tmp_path / "catalog.db", tmp_path / "config.toml"
    config.write_text('region = "iad"\n')
    create_catalog(catalog, demo_rows())
    # In a user namespace of our own: a user without rights, who may read what we may.
    program = (
        "unshare",
        "--user",
        "--map-user=1000",
        "strace",
        "-D",
        "-f",
        "-qq",
        "-o",
        str(calls),
        sys.executable,
        "-m",
        "internal_dns",
    )
    server = Served(
        "--catalog",
        str(catalog),
        "--listen",
        "[::1]:0",
        "--map-source",
        MAP_LOOPBACK,
        "--upstream",
        "udp://[::1]:9",
        "--admin",
        "127.0.0.1:0",
        "--udp-path",
        "native",
        "--workers",
        "2",
        "--config",
        str(config),
        program=program,
    )
    for _ in range(3):  # decided, then repeated
        assert outcome(ask(server, "web.internal")) == "NOERROR"
    assert outcome(ask(server, "www.example.com")).startswith("SERVFAIL")
    config.write_text('region = "nrt"\n')
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "configuration reloaded: region iad -> nrt" in server.stderr(), 10)
    assert outcome(ask(server, "web.internal")) == "NOERROR"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "internal_dns",
            "machine",
            "start",
            "17811953f92389",
            "--wait",
            "--catalog",
            str(catalog),
        ],
        cwd=REPOSITORY,
        check=True,
        timeout=20,
        stdout=subprocess.DEVNULL,
    )
    server.stop()
    until(lambda: "exit_group" in calls.read_text(), 5)  # strace is its background process
    lines = calls.read_text().splitlines()
    made = {found[1] for line in lines if (found := re.match(r"\d+ +(\w+)\(", line))}
    assert {
        "sendto",
        "recvfrom",
        "epoll_ctl",
        "recvmmsg",
        "sendmmsg",
        "eventfd2",
        "exit_group",
    } <= made
    assert made - allowed() == set()
    # MemoryDenyWriteExecute= refuses memory to write and execute, and to make any executable later.
    denied = re.compile(
        r"\d+ +(mmap\(.*PROT_WRITE\|PROT_EXEC|mprotect\(.*PROT_EXEC|pkey_mprotect\(.*PROT_EXEC)"
    )
    assert [line for line in lines if denied.match(line)] == []
