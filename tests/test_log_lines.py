"""A log line is one line, whatever is in it."""

from __future__ import annotations

import logging
import sys

from internal_dns.cli.run import OneLineFormatter


def test_what_others_wrote_cannot_forge_a_line_or_steer_a_terminal() -> None:
    record = logging.LogRecord(
        "internal_dns",
        logging.WARNING,
        "",
        0,
        "catalog %s",
        ("x\nERROR forged \x9b31m\u202e",),
        None,
    )
    assert OneLineFormatter("%(levelname)s %(message)s").format(record) == (
        "WARNING catalog x\\x0aERROR forged \\x9b31m\\u202e"
    )


def test_a_traceback_keeps_its_lines() -> None:
    try:
        raise ValueError("x")
    except ValueError:
        record = logging.LogRecord(
            "internal_dns", logging.ERROR, "", 0, "failed", (), sys.exc_info()
        )
    assert OneLineFormatter("%(message)s").format(record).startswith("failed\nTraceback (most")
