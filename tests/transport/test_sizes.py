"""Sizes that the C core and Python both state are the same number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from internal_dns.config import load_settings
from internal_dns.core.journey import Rules
from internal_dns.transport import native
from internal_dns.transport.table import entries

HEADERS = Path(native.__file__).parent


def stated(header: str, name: str) -> int:
    """The value of a constant of the C core, read from its source: the extension need not be
    built."""
    (found,) = re.findall(rf"\b{name} = (\d+),", (HEADERS / header).read_text())
    return int(found)


def test_there_are_as_many_queues_as_the_filter_tells_apart() -> None:
    assert stated("worker.h", "QUEUES") == native.QUEUES


def test_the_largest_repeated_reply_is_the_usual_udp_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("internal_dns.config.DEFAULT_FILE", tmp_path / "absent.toml")
    assert stated("worker.h", "OUT_SIZE") == load_settings({}, {}).udp_limit == Rules().udp_limit


def test_an_opt_without_options_has_one_size() -> None:
    assert stated("repeat.h", "OPT_SIZE") == entries.OPT_SIZE
