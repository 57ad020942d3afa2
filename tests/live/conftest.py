"""Every live test is marked so, and a live run leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import hosts
from tests.scenario.runner import make_catalog


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail the run if a server or a namespace of ours outlives it."""
    if os.geteuid() == 0:
        hosts.remove_left_over()
    yield
    left = [*(server.ready for server in hosts.started), *(host.name for host in hosts.made_hosts)]
    for server in tuple(hosts.started):
        server.kill()
    for host in tuple(hosts.made_hosts):
        host.close()
    ours = f"idns-{os.getpid()}-*"
    left += [
        str(path) for folder in ("/var/run/netns", "/etc/netns") for path in Path(folder).glob(ours)
    ]
    assert not left, f"left behind: {', '.join(left)}"


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """A catalog file of two tenants, as the scenarios have it, in WAL mode like one that others
    write to."""
    return catalog_file(tmp_path / "catalog.db", "acme.sql")


def catalog_file(path: Path, *parts: str) -> Path:
    """Write a catalog of these parts, in WAL mode."""
    make_catalog(path, parts)
    hosts.change_mode(path)
    return path
