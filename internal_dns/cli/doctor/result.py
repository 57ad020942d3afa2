"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was looked at. `level` is ok, warn or fail; the latter two say why it matters
    and what to do."""

    level: str
    what: str
    says: str
    why: str = ""
    do: str = ""
