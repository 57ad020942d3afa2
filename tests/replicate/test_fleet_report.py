"""Status reports of hosts are not trusted: an invalid one hides no other host."""

from __future__ import annotations

import json

import pytest

from internal_dns.cli.bucket import SILENT, _assess, _read_report

REPORT = {
    "version": 1, "host": "iad-1", "revision": 7, "lag_revisions": 0, "lag_seconds": 0.0,
    "quarantined": 0, "problem": "", "at": 1000.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"x":' + b"[" * 100_000, b'{"host": 1}']
)
def test_an_invalid_report_is_ignored(value: bytes) -> None:
    assert _read_report(value) is None


def test_a_report_cannot_move_the_terminal_cursor() -> None:
    report = _read_report(
        json.dumps(
            REPORT | {"host": "\x1b[2Jiad", "problem": "\x1b]0;x\x07" * 1000, "new": 1}
        ).encode()
    )
    assert report is not None
    assert report["host"].isprintable()
    assert report["problem"].isprintable()
    assert len(report["problem"]) <= 300


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
def test_a_host_is_ok_while_it_reports_and_does_not_lag(
    more: dict[str, object], now: float, ok: bool
) -> None:
    report = _read_report(json.dumps(REPORT | more).encode())
    assert report is not None
    assert _assess(report, 7, now)["ok"] == ok
