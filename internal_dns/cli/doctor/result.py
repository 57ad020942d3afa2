"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. `level` is ok, warn or fail; the latter two have `why` and `do`."""

    level: str
    what: str
    says: str
    why: str = ""
    do: str = ""
