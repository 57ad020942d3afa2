"""What decides how the rows of a catalog are read. All who read or write one file need the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class CatalogRules:
    """The settings that a catalog is read by. The defaults are those of the settings."""

    prefix: bytes = b"\xfd\xaa"  # the first two octets of every address: a ULA /16
    hidden: tuple[str, ...] = ("interactive-",)  # peers whose names start so are not listed


DEFAULT_RULES: Final = CatalogRules()
