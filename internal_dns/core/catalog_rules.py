"""The settings that decide how the rows of a catalog are read.

All processes that read or write the same file need the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class CatalogRules:
    """The settings that a catalog is read by, with their defaults."""

    prefix: bytes = b"\xfd\xaa"  # the first two octets of every address: a ULA /16
    hidden: tuple[str, ...] = ("interactive-",)  # prefixes of the names of peers that are hidden


DEFAULT_RULES: Final = CatalogRules()
