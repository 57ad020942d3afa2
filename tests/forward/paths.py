"""Which implementation of UDP to upstreams a test's forwarders use: conftest.py sets it."""

from __future__ import annotations

from typing import Final

BOTH: Final = ("python", "native")
_chosen = ["python"]


def choose(path: str) -> None:
    _chosen[:] = [path]


def is_native() -> bool:
    return _chosen[0] == "native"
