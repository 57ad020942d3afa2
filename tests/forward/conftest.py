"""Tests that `use` the fixture *udp_path* run over both implementations of UDP to upstreams."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from internal_dns.forward.native import MISSING
from tests.forward import paths


@pytest.fixture(params=paths.BOTH)
def udp_path(request: pytest.FixtureRequest) -> Iterator[str]:
    path: str = request.param
    if path == "native" and MISSING:
        pytest.skip(f"the native path is unavailable: {MISSING}")
    paths.choose(path)
    yield path
    paths.choose("python")
