"""The C core, built alone: every warning is an error, and sanitizers watch. `make fuzz` does the
same for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native import __main__ as c_core
from tests.tools import requires_tool

pytestmark = [pytest.mark.live, requires_tool("gcc", "setarch")]


def test_any_octets_leave_the_c_core_whole(tmp_path: Path) -> None:
    assert "replies" in c_core.fuzz(tmp_path, seconds=2, seed=20_261)


def test_readers_see_whole_answers_while_a_million_are_replaced(tmp_path: Path) -> None:
    assert c_core.stress(tmp_path, 1_000_000, "-O2").startswith("1000000 changes")


@pytest.mark.parametrize("flags", [c_core.ADDRESS, c_core.THREAD], ids=["address", "thread"])
def test_sanitizers_find_nothing_in_the_table(tmp_path: Path, flags: tuple[str, ...]) -> None:
    assert c_core.stress(tmp_path, 50_000, *flags).startswith("50000 changes")


@pytest.mark.parametrize("flags", [c_core.ADDRESS, c_core.THREAD], ids=["address", "thread"])
def test_sanitizers_find_nothing_in_the_datagram_side(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    assert c_core.datagrams(tmp_path, 5_000, *flags).startswith("5000 queries, 5000 replies")


def test_the_token_bucket_and_the_ring(tmp_path: Path) -> None:
    assert c_core.run(c_core.build(tmp_path, "worker", *c_core.ADDRESS)) == "ok"
