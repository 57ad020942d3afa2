"""Text of others, made safe for a terminal, a log or a page: what is not printable is escaped.

A catalog, a document or an upstream may hold escape sequences, C1 controls, or characters that
change the direction of writing. At the edge none of them leaves as it is.
"""

from __future__ import annotations

import re
from typing import Final

# A superset of what is not printable: most text has none of it, and is found so at once.
_UNUSUAL: Final = re.compile(r"[^ -~]")


def printable_text(text: str) -> str:
    """Return *text* with every character that is not printable as \\xNN, \\uNNNN or \\UNNNNNNNN:
    line ends too."""
    return _UNUSUAL.sub(_escaped, text)


def printable_json(text: str) -> str:
    """Return the same JSON with every character that is not printable as \\uNNNN; line ends
    between values stay."""
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
