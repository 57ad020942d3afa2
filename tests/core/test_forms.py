"""Each form of a name is known everywhere: the type checker names the places that a new one lacks,
and what users read of it needs no docstring."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shutil import copytree
from typing import get_args

import pytest

from internal_dns.core import names
from internal_dns.core.explain import told
from internal_dns.core.forms import FORMS
from internal_dns.core.resolve import asked_in, our_zone
from internal_dns.core.wire import Type
from tests.core.messages import labels

ROOT = Path(__file__).parents[2]
PREFIX = b"\xfd\xaa"


def test_every_form_has_words() -> None:
    assert set(FORMS) == set(get_args(names.Asked))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_example_of_a_form_is_of_that_form(form: type[names.Asked]) -> None:
    name = labels(FORMS[form].example)
    zone = our_zone(name, PREFIX)
    assert zone is not None
    asked = asked_in(zone, name, PREFIX)
    assert type(asked) is form
    assert FORMS[form].words[:1].islower() or FORMS[form].words[:1] == "`"
    assert FORMS[form].words in told(asked) or form in (
        names.Page,
        names.EmptyNonTerminal,
        names.NoSuchForm,
    )
    assert FORMS[form].type in Type


def test_explain_has_its_words_without_docstrings() -> None:
    program = """
from internal_dns.core import names
from internal_dns.core.explain import told
assert names.Addresses.__doc__ is None or "machines" not in names.Addresses.__doc__
print(told(names.internal((b"ams", b"web"))))
print(told(names.internal((b"_apps",))))
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
    """A copy of the core to change."""
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
            "--cache-dir", str(root / "cache"), "--python-version", "3.11", "-p", "internal_dns.core",
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
def test_the_core_as_it_is_has_no_complaints(checked: Path) -> None:
    assert complaints(checked) == {}


@pytest.mark.slow
def test_a_new_form_is_missed_wherever_it_is_not_known(checked: Path) -> None:
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
    assert "told" in found["explain"]


@pytest.mark.slow
def test_a_new_pageable_form_is_missed_by_the_pages_too(checked: Path) -> None:
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
def test_a_new_field_of_addresses_is_missed_wherever_it_is_not_read(checked: Path) -> None:
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
    assert "told" in found["explain"]
