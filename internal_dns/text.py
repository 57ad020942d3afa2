"""Escape foreign text for a terminal, a log or a page.

A catalog, a document or an upstream may contain escape sequences, C1 controls, or characters that
change the writing direction. None of them leaves the server unescaped.
"""

from __future__ import annotations

import re
from typing import Final

# A superset of the unprintable characters. Most text has none of them, which one search shows.
_UNUSUAL: Final = re.compile(r"[^ -~]")


def printable_text(text: str) -> str:
    """Return *text* with unprintable characters, including line ends, escaped.

    The forms are \\xNN, \\uNNNN and \\UNNNNNNNN.
    """
    return _UNUSUAL.sub(_escaped, text)


def printable_json(text: str) -> str:
    """Return *text*, which is JSON, with unprintable characters as \\uNNNN; line ends stay."""
    return _UNUSUAL.sub(_escaped_in_json, text)


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escaped_in_json(found: re.Match[str]) -> str:
    char = found[0]
    if char.isprintable() or char == "\n":
        return char
    octets = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{octets[at : at + 2].hex()}" for at in range(0, len(octets), 2))
