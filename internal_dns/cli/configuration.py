"""config show and config check: the effective settings, where each came from, and what is wrong
with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from internal_dns.cli.common import FINDING, json_option, paint, print_json
from internal_dns.cli.common import settings as effective
from internal_dns.cli.run import setting_options


@click.group()
def config() -> None:
    """The effective settings, as `serve` with the same flags would have them."""


@config.command()
@click.option("--origin", is_flag=True, help="Say of each setting where it comes from.")
@json_option
@setting_options
def show(config: Path | None, origin: bool, as_json: bool, **flags: Any) -> None:
    """Print the effective settings: a file for --config, or JSON."""
    from internal_dns.config import shown, table

    found = effective(flags, config)
    values = {row.name: shown(row.name, getattr(found, row.name)) for row in table()}
    if as_json:
        told = {
            name: {"value": value, "origin": found.origin[name]} for name, value in values.items()
        }
        print_json(told if origin else values)
    else:
        click.echo(
            "\n".join(_lines(values, lambda name: f"  # {found.origin[name]}" if origin else ""))
        )
    _warn()


def _lines(values: dict[str, Any], comment: Callable[[str], str]) -> list[str]:
    """TOML; what has no value is a comment, as are secrets. Tables come last."""
    from internal_dns.config import SECRETS

    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            continue
        if value is None or name in SECRETS:
            said = value or "not set"
            lines.append(f"# {name}: {said}{comment(name)}")
        else:
            lines.append(f"{name} = {_toml(value)}{comment(name)}")
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [
                "",
                f"[{name}]{comment(name)}",
                *(f"{_toml(key)} = {_toml(one)}" for key, one in value.items()),
            ]
    return lines


def _toml(value: Any) -> str:
    """A value in TOML, whose texts and lists are JSON's."""
    import json

    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _warn() -> bool:
    """Tell of variables that are nearly a setting; whether there were any."""
    from internal_dns.config import find_misspelled

    found = find_misspelled()
    for words in found:
        click.echo(f"{paint('warning', 'yellow', err=True)}  {words}", err=True)
    return bool(found)


@config.command()
@json_option
@setting_options
def check(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Say what is wrong with the settings: exit 78 if `serve` would not start or reload, 1 for a
    doubtful variable."""
    from internal_dns.config import DEFAULT_FILE, find_misspelled

    effective(flags, config)
    file = config or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    if as_json:
        doubtful = find_misspelled()
        print_json({"file": file and str(file), "warnings": doubtful})
        raise SystemExit(FINDING if doubtful else 0)
    if _warn():
        raise SystemExit(FINDING)
    click.echo(f"{file or 'flags, environment and defaults'}: no findings")
