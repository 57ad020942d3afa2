"""`dev --netns`: the real thing on one machine, and nothing of it left afterwards."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import requires_root, requires_tool

pytestmark = [pytest.mark.live, requires_root(), requires_tool("ip", "dig")]

DEV = (sys.executable, "-m", "internal_dns", "dev", "--netns")
WHERE = ("ip", "netns", "exec", "internal-dns")


def namespaces() -> str:
    return subprocess.run(
        ["ip", "netns", "list"], check=True, capture_output=True, text=True
    ).stdout


def dig(*words: str) -> list[str]:
    found = subprocess.run(
        [*WHERE, "dig", "+short", "+time=2", *words], check=True, capture_output=True, text=True
    )
    return sorted(found.stdout.split())


def within_resolv_conf(tmp_path: Path, *words: str) -> tuple[str, ...]:
    """A command that sees, it alone, fdaa::3 as the only nameserver of the namespace."""
    (tmp_path / "netns/internal-dns").mkdir(parents=True)
    (tmp_path / "netns/internal-dns/resolv.conf").write_text("nameserver fdaa::3\n")
    mount = f'mkdir -p /etc/netns && mount --bind {tmp_path}/netns /etc/netns && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", mount, "sh", *words)


def test_another_catalog_is_told_with_a_machine_of_its_own(tmp_path: Path) -> None:
    made = (sys.executable, "-m", "internal_dns", "init", "--machines", "40", tmp_path / "own.db")
    subprocess.run(made, check=True, capture_output=True)
    server = subprocess.Popen(
        (*DEV, "--catalog", tmp_path / "own.db"), stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("ready")
        words = server.stdout.readline().split()
        found = dig(*words[words.index("dig") + 1 :])
        assert words[words.index("-b") + 1] in found
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=15)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_every_network_asks_by_its_address_and_a_signal_leaves_nothing(
    tmp_path: Path, end: signal.Signals
) -> None:
    server = subprocess.Popen(
        DEV, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("ready")
        assert server.stdout.readline().startswith(
            "try    ip netns exec internal-dns dig @fdaa::3 -b fdaa:0:18:"
        )
        folder, resolve = server.stdout.readline(), server.stdout.readline()
        assert (
            folder.split("echo ")[1] == "nameserver fdaa::3 > /etc/netns/internal-dns/resolv.conf\n"
        )
        # The address is on lo: who names no source asks as a machine of acme, as the last line to
        # try does.
        assert len(dig("@fdaa::3", "web.internal", "aaaa")) == 5
        assert dig("@fdaa::3", "_whoami.internal", "txt")[0].startswith('"network=acme,')
        assert resolve.split() == [*WHERE, "getent", "ahostsv6", "web.internal"]
        resolved = within_resolv_conf(tmp_path, *resolve.split())
        found = subprocess.run(resolved, capture_output=True, text=True, check=False)
        assert len({line.split()[0] for line in found.stdout.splitlines()}) == 5, found.stderr
        globex = dig("@fdaa::3", "-b", "fdaa:0:19:a7b:7d:1:1:2", "web.internal", "aaaa")
        assert globex == ["fdaa:0:19:a7b:7d:1:1:2", "fdaa:0:19:a7b:c1:1:2:2"]
        assert (
            len(dig("@fdaa:0:18::3", "-b", "fdaa:0:18:a7b:7d:f066:b83b:2", "web.internal", "aaaa"))
            == 5
        )
    finally:
        server.send_signal(end)
        _, errors = server.communicate(timeout=15)
    assert (server.returncode, errors) == (0, "")
    assert "internal-dns" not in namespaces().split()


def test_a_catalog_that_cannot_be_served_ends_it_with_78_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "no.db").write_text("this is no catalog, however long it may be " * 100)
    ended = subprocess.run(
        [*DEV, "--catalog", "no.db"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 78
    assert "not a database" in ended.stderr
    assert "try" not in ended.stdout
    assert "internal-dns" not in namespaces().split()
