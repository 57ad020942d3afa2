"""What others wrote never reaches a terminal as it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.text import printable_json, printable_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web-1 ü 中", "web-1 ü 中"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),  # C1: the same in one character
        ("a\nb\tc\x7f", "a\\x0ab\\x09c\\x7f"),
        ("user\u202etxt.exe", "user\\u202etxt.exe"),
        ("\U000e0041", "\\U000e0041"),
        ("\udc9b", "\\udc9b"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable_text(text) == shown


@given(st.text())
def test_text_becomes_printable_whatever_it_is(text: str) -> None:
    assert printable_text(text).isprintable()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_stays_the_same_value_and_becomes_printable(text: str) -> None:
    raw = json.dumps({"key": [text]}, ensure_ascii=False, indent=2)
    safe = printable_json(raw)
    assert json.loads(safe) == {"key": [text]}
    assert safe.replace("\n", "").isprintable()
