"""The benchmarks restore namespaces and package policies."""

import os
import socket
from pathlib import Path

import pytest

from bench.network import SERVER, own_network, source
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
