"""Tests of the container run by `make container` alone.

Where INTERNAL_DNS_FORBID_SKIPS=1 (`make test SKIPS=forbid`), a test that skips or xfails fails the
run.
"""

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

from tests.laws import load_profile

load_profile()
FORBID_SKIPS = os.environ.get("INTERNAL_DNS_FORBID_SKIPS") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of the container, and of engines that are built for them, unless `-m`
    names them: they need the preparations of `make container` and `make litestream`."""
    unnamed = [m for m in ("container", "engines") if m not in config.getoption("markexpr")]
    left_out = [item for item in items if any(map(item.get_closest_marker, unnamed))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


# tryfirst: outermost, so that what pytest's own skipping and xfailing made of the outcome is known.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return forbid_skip((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return forbid_skip((yield))


def forbid_skip(report: Report) -> Report:
    """Return *report*, but failed if it was a skip (an xfail is one too) and skips are
    forbidden."""
    if FORBID_SKIPS and report.skipped:
        # A skip's longrepr is (path, line, reason); an xfail's is its traceback, the reason is in
        # wasxfail.
        reason = (
            report.longrepr[2]
            if isinstance(report.longrepr, tuple)
            else getattr(report, "wasxfail", "")
        )
        report.outcome = "failed"
        report.longrepr = f"skips are forbidden: {reason}"
        vars(report).pop("wasxfail", None)
    return report
