"""The messages to a service manager, and when its watchdog is on."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from internal_dns.service.notify import ServiceManager


def test_a_message_is_one_datagram(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        manager.ready("ready")
        assert listening.recv(4_096) == b"READY=1\nSTATUS=ready"
        manager.status("two\nlines")  # a second line would be another assignment
        assert listening.recv(4_096) == b"STATUS=two lines"
        manager.alive()
        assert listening.recv(4_096) == b"WATCHDOG=1"
        before = time.monotonic_ns() // 1_000
        manager.reloading()
        first, second = listening.recv(4_096).split(b"\n")
        assert first == b"RELOADING=1"
        assert (
            before <= int(second.removeprefix(b"MONOTONIC_USEC=")) <= time.monotonic_ns() // 1_000
        )
        manager.stopping()
        assert listening.recv(4_096).startswith(b"STOPPING=1\n")


def test_without_a_service_manager_nothing_is_sent() -> None:
    manager = ServiceManager({})
    manager.ready("ready")
    manager.alive()
    assert manager.watchdog is None


OURS = str(os.getpid())


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": OURS}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_a_watchdog_is_on_when_it_names_this_process(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert ServiceManager({"NOTIFY_SOCKET": "@nobody", **environment}).watchdog == seconds


def test_a_watchdog_without_a_socket_is_off() -> None:
    assert ServiceManager({"WATCHDOG_USEC": "500000"}).watchdog is None
