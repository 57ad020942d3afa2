"""What hosts say of themselves is not trusted: one that says nonsense hides no other."""

from __future__ import annotations

import json

import pytest

from internal_dns.cli.bucket import SILENT, _judged, _report

SAID = {
    "version": 1, "host": "iad-1", "revision": 7, "lag_revisions": 0, "lag_seconds": 0.0, "quarantined": 0,
    "problem": "", "at": 1000.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"x":' + b"[" * 100_000, b'{"host": 1}']
)
def test_a_report_that_is_none_is_left_out(value: bytes) -> None:
    assert _report(value) is None


def test_nothing_of_a_report_moves_the_cursor() -> None:
    told = _report(
        json.dumps(
            SAID | {"host": "\x1b[2Jiad", "problem": "\x1b]0;x\x07" * 1000, "new": 1}
        ).encode()
    )
    assert told is not None
    assert told["host"].isprintable()
    assert told["problem"].isprintable()
    assert len(told["problem"]) <= 300


@pytest.mark.parametrize(
    ("more", "now", "ok"),
    [
        ({}, 1001.0, True),
        ({}, 1001.0 + SILENT, False),
        ({"problem": "x"}, 1001.0, False),
        ({"lag_seconds": SILENT}, 1001.0, False),
        ({"revision": 3}, 1001.0, True),
    ],
)
def test_a_host_is_in_order_while_it_speaks_and_is_not_late(
    more: dict[str, object], now: float, ok: bool
) -> None:
    told = _report(json.dumps(SAID | more).encode())
    assert told is not None
    assert _judged(told, 7, now)["ok"] == ok
