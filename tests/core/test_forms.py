"""Every match on the forms of a name is exhaustive, and the texts for users need no docstrings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shutil import copytree
from typing import get_args

import pytest

from internal_dns.core import names
from internal_dns.core.explain import describe
from internal_dns.core.forms import FORMS
from internal_dns.core.resolve import asked_in, our_zone
from internal_dns.core.wire import Type
from tests.core.messages import labels

ROOT = Path(__file__).parents[2]
PREFIX = b"\xfd\xaa"


def test_every_form_has_words() -> None:
    assert set(FORMS) == set(get_args(names.Asked))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_example_of_a_form_has_that_form(form: type[names.Asked]) -> None:
    name = labels(FORMS[form].example)
    zone = our_zone(name, PREFIX)
    assert zone is not None
    asked = asked_in(zone, name, PREFIX)
    assert type(asked) is form
    words = FORMS[form].words.format(count=getattr(asked, "count", None))
    assert words[:1].islower()
    assert words in describe(asked) or form in (
        names.Page,
        names.EmptyNonTerminal,
        names.NoSuchForm,
    )
    assert FORMS[form].type in Type


def test_a_field_in_the_words_of_a_form_is_not_repeated_behind_them() -> None:
    asked = names.internal((b"top2", b"nearest", b"of", b"web"))
    assert describe(asked) == "at most 2 visible machines, nearest first (app web)"


def test_a_list_that_includes_stopped_machines_is_described_as_such() -> None:
    asked = names.internal((b"all", b"regions", b"web"))
    words = "the regions that an app or process group runs in"
    assert describe(asked) == f"{words} (app web, stopped machines included)"


def test_explain_needs_no_docstrings() -> None:
    program = """
from internal_dns.core import names
from internal_dns.core.explain import describe
assert names.Addresses.__doc__ is None or "machines" not in names.Addresses.__doc__
print(describe(names.internal((b"ams", b"web"))))
print(describe(names.internal((b"_apps",))))
"""
    done = subprocess.run(
        [sys.executable, "-OO", "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "an app's visible machines, narrowed by region, by group, or both (app web, region ams)",
        "every app of the network",
    ]


# ── the type checker ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def checked(tmp_path: Path) -> Path:
    """A copy of the core that a test may change."""
    copytree(ROOT / "internal_dns" / "core", tmp_path / "internal_dns" / "core")
    for source in ("__init__.py", "py.typed"):
        if (ROOT / "internal_dns" / source).exists():
            (tmp_path / "internal_dns" / source).write_text("")
    return tmp_path


def complaints(root: Path) -> dict[str, set[str]]:
    """Return the functions that mypy complains about, by file."""
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--warn-unreachable", "--no-error-summary",
            "--cache-dir", str(root / "cache"), "--python-version", "3.11",
            "-p", "internal_dns.core",
        ],
        cwd=root, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        path, number, kind, _ = line.split(":", 3)
        if kind.strip() == "error":
            lines = (root / path).read_text().splitlines()[: int(number)]
            function = next(text for text in reversed(lines) if text.startswith("def "))
            found.setdefault(Path(path).stem, set()).add(function[4:].partition("(")[0])
    return found


@pytest.mark.slow
def test_the_type_checker_accepts_the_core(checked: Path) -> None:
    assert complaints(checked) == {}


@pytest.mark.slow
def test_the_type_checker_reports_every_match_that_lacks_a_new_form(checked: Path) -> None:
    source = checked / "internal_dns" / "core" / "names.py"
    text = source.read_text()
    assert text.count("class Apps:") == text.count("    | Apex\n") == 1
    text = text.replace("    | Apex\n", "    | Apex\n    | Weather\n")
    text = text.replace(
        "@dataclass(frozen=True, slots=True)\nclass Apps:",
        "@dataclass(frozen=True, slots=True)\nclass Weather:\n    app: bytes\n\n\n"
        "@dataclass(frozen=True, slots=True)\nclass Apps:",
    )
    source.write_text(text)
    found = complaints(checked)
    assert {"find", "mismatch"} <= found["lookup"]
    assert "depends_on" in found["resolve"]
    assert "describe" in found["explain"]


@pytest.mark.slow
def test_the_type_checker_reports_that_pages_lack_a_new_pageable_form(checked: Path) -> None:
    source = checked / "internal_dns" / "core" / "names.py"
    text = source.read_text()
    assert text.count("Pageable = Apps |") == 1
    text = text.replace("Pageable = Apps |", "Pageable = Weather | Apps |")
    text = text.replace(
        "@dataclass(frozen=True, slots=True)\nclass Apps:",
        "@dataclass(frozen=True, slots=True)\nclass Weather:\n    app: bytes\n\n\n"
        "@dataclass(frozen=True, slots=True)\nclass Apps:",
    )
    source.write_text(text)
    assert {"find", "exists", "_page", "mismatch"} <= complaints(checked)["lookup"]


@pytest.mark.slow
def test_the_type_checker_reports_code_that_ignores_a_new_field_of_addresses(checked: Path) -> None:
    source = checked / "internal_dns" / "core" / "names.py"
    text = source.read_text()
    field = "    group: bytes | None = None\n"
    before, _, after = text.partition("class Addresses(NamedTuple):")
    assert field in after
    after = after.replace(field, field + "    color: bytes | None = None\n", 1)
    source.write_text(f"{before}class Addresses(NamedTuple):{after}")
    found = complaints(checked)
    assert {"_lacking", "selected", "mismatch"} <= found["lookup"]
    assert "depends_on" in found["resolve"]
    assert "describe" in found["explain"]
