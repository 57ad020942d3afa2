"""What a SIGHUP changes: the rows of the table of settings that may change while we serve, and no
others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from internal_dns.config import SECRETS, Settings, shown, table


def merged(old: Settings, new: Settings) -> Settings:
    """Return *old* with what of *new* may change at run time."""
    rows = {row.name: getattr(new, row.name) for row in table() if row.metadata["reload"]}
    origin = {
        name: (new if name in rows else old).origin.get(name, "")
        for name in (row.name for row in table())
    }
    return replace(old, **rows, origin=origin)


def differences(old: Settings, new: Settings) -> tuple[list[str], list[str]]:
    """Return in words what changes at run time, and the names of what would need another start."""
    changed = [row for row in table() if getattr(old, row.name) != getattr(new, row.name)]
    words = [
        row.name if row.name in SECRETS else f"{row.name} {_said(old, row.name)} -> "
                                             f"{_said(new, row.name)}"
        for row in changed if row.metadata["reload"]
    ]  # fmt: skip
    return words, [row.name for row in changed if not row.metadata["reload"]]


def _said(settings: Settings, name: str) -> str:
    """A value in one line of a log."""
    value = shown(name, getattr(settings, name))
    if isinstance(value, dict):
        return " ".join(f"{suffix}={_rule(rule)}" for suffix, rule in value.items()) or "none"
    return (
        " ".join(value) or "none"
        if isinstance(value, list)
        else str(value if value not in (None, "") else "none")
    )


def _rule(rule: list[str] | dict[str, Any]) -> str:
    """The upstreams of a suffix, in one word."""
    return (
        ",".join(rule) if isinstance(rule, list) else f"{','.join(rule['upstreams'])},allow_prefix"
    )
