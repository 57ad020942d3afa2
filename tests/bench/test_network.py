"""The benchmarks restore namespaces and package policies."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.network import NAMED, NAMESPACES, SERVER, one_host, own_network, separate_hosts, source
from bench.tools import _no_daemons
from tests.tools import requires_root, requires_tool


@pytest.mark.live
@requires_root()
@requires_tool("ip")
def test_addresses_of_the_namespace_disappear_with_it() -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    with own_network([0x19]), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        assert os.readlink("/proc/thread-self/ns/net") != before
        sock.bind((source(0x19), 0))
        sock.sendto(b"", (SERVER, sock.getsockname()[1]))
    assert os.readlink("/proc/thread-self/ns/net") == before


@pytest.mark.live
@requires_root()
@requires_tool("ip")
def test_clients_reach_the_server_from_namespaces_of_their_own() -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    with separate_hosts([0x18, 0x19]) as network:
        at_server = os.readlink("/proc/thread-self/ns/net")
        seen = set()
        for client in network.clients:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
                server.settimeout(5)
                server.bind((network.server, 0))
                with client.entered(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                    seen.add(os.readlink("/proc/thread-self/ns/net"))
                    sock.bind((client.source, 0))
                    sock.sendto(b"asked", (client.host, server.getsockname()[1]))
                octets, (address, *_) = server.recvfrom(100)
                assert (octets, address) == (b"asked", source(client.network))
        assert len({before, at_server, *seen}) == 4
    assert os.readlink("/proc/thread-self/ns/net") == before
    assert not list(NAMESPACES.glob(f"{NAMED}{os.getpid()}-*"))


@pytest.mark.live
@requires_root()
@requires_tool("ip")
def test_namespaces_of_a_killed_run_are_removed_by_the_next() -> None:
    code = (
        "import os, signal; from bench.network import separate_hosts\n"
        "with separate_hosts([0x18]): print(os.getpid()); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    killed.wait(60)
    left = NAMESPACES / f"{NAMED}{killed.pid}-18"
    assert left.exists()
    with separate_hosts([0x18]):
        assert not left.exists()


def test_on_one_host_every_client_has_a_source_mapped_to_its_network() -> None:
    with one_host([0x18, 0x19]) as network:
        assert network.server_words == (
            "--map-source", "127.0.0.10/32=fdaa:0:18::/48",
            "--map-source", "127.0.0.11/32=fdaa:0:19::/48",
        )  # fmt: skip
        for client in network.clients:
            with (
                client.entered(),
                socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock,
            ):
                sock.bind((client.source, 0))
                sock.connect((client.host, 53))


def test_the_temporary_policy_against_daemons_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "policy-rc.d"
    with _no_daemons(path):
        assert path.read_text().endswith("exit 101\n")
        assert os.access(path, os.X_OK)
    assert not path.exists()


def test_an_existing_policy_of_the_operator_stays_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "policy-rc.d"
    path.write_text("theirs")
    with _no_daemons(path):
        assert path.read_text() == "theirs"
    assert path.read_text() == "theirs"
