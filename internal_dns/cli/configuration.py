"""config show and config check: print the effective settings and their origin; find faults."""

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
    """Show and check the settings that `serve` would use with the same flags."""


@config.command()
@click.option("--origin", is_flag=True, help="Print where each setting comes from.")
@json_option
@setting_options
def show(config: Path | None, origin: bool, as_json: bool, **flags: Any) -> None:
    """Print the effective settings as a file for --config, or as JSON."""
    from internal_dns.config import shown, table

    settings = effective(flags, config)
    origins = settings.origin
    values = {row.name: shown(row.name, getattr(settings, row.name)) for row in table()}
    if as_json and origin:
        print_json({name: {"value": values[name], "origin": origins[name]} for name in values})
    elif as_json:
        print_json(values)
    else:
        lines = _lines(values, lambda name: f"  # {origins[name]}" if origin else "")
        click.echo("\n".join(lines))
    _warn()


def _lines(values: dict[str, Any], comment: Callable[[str], str]) -> list[str]:
    """Return the settings as TOML, tables last. Unset settings and secrets become comments."""
    from internal_dns.config import SECRETS

    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            continue
        if value is None or name in SECRETS:
            lines.append(f"# {name}: {value or 'not set'}{comment(name)}")
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
    """Return a value as TOML, which writes strings and lists as JSON does."""
    import json

    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _warn() -> bool:
    """Warn of environment variables that are probably misspelled; return whether there are any."""
    from internal_dns.config import find_misspelled

    warnings = find_misspelled()
    for words in warnings:
        click.echo(f"{paint('warning', 'yellow', err=True)}  {words}", err=True)
    return bool(warnings)


@config.command()
@json_option
@setting_options
def check(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Find faults of the settings.

    Exit 78 if `serve` would not start or reload, 1 if a variable is probably misspelled.
    """
    from internal_dns.config import DEFAULT_FILE, find_misspelled

    effective(flags, config)
    file = config or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    if as_json:
        warnings = find_misspelled()
        print_json({"file": file and str(file), "warnings": warnings})
        raise SystemExit(FINDING if warnings else 0)
    if _warn():
        raise SystemExit(FINDING)
    click.echo(f"{file or 'flags, environment and defaults'}: no findings")
