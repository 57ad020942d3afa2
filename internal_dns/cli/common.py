"""What commands share: exit statuses, errors, options, and printing for people or programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from internal_dns import errors
from internal_dns.errors import OperatorError
from internal_dns.text import printable_json, printable_text

if TYPE_CHECKING:
    from internal_dns.config import Settings

FINDING: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
CONFIGURATION: Final = errors.CONFIGURATION

F = TypeVar("F", bound=Callable[..., Any])


class AsJson(OperatorError):
    """The error of a command that was given --json."""

    def __init__(self, error: OperatorError) -> None:
        super().__init__(error.what, error.why, error.do, error.code)


def error_text(error: OperatorError) -> str:
    """Return an error as text: three lines for people, JSON for programs (AsJson).

    The JSON is {"error": {"what": …, "why": …, "do": …}}.
    """
    if isinstance(error, AsJson):
        value = {"error": {"what": error.what, "why": error.why, "do": error.do}}
        return printable_json(msgspec.json.encode(value).decode())
    lines = [f"{paint('error', 'red', err=True)}  {printable_text(error.what)}"]
    if error.why:
        lines += [f"  why  {_indented(error.why)}"]
    if error.do:
        lines += [f"  do   {_indented(error.do)}"]
    return "\n".join(lines)


def _indented(text: str) -> str:
    """Align all lines after the first with it."""
    return "\n       ".join(printable_text(line.strip()) for line in text.split("\n"))


def paint(text: str, color: str, *, err: bool = False) -> str:
    """Color *text* if the stream is a terminal and NO_COLOR (no-color.org) is unset."""
    stream = sys.stderr if err else sys.stdout
    colored = stream.isatty() and not os.environ.get("NO_COLOR")
    return click.style(text, fg=color) if colored else text


def print_json(value: Any) -> None:
    """Print *value* as indented JSON."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    click.echo(printable_json(text))


def settings(flags: Mapping[str, Any] | None = None, file: Path | None = None) -> Settings:
    """Return the settings that `serve` would use. Raises ConfigurationError.

    Every command reads a catalog by the same settings, such as `prefix` and `hidden_peers`.
    """
    from internal_dns.config import load_settings

    return load_settings(flags or {}, file=file)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def default_catalog() -> str:
    """Return the demo catalog if it exists, else the catalog of `serve`."""
    demo = Path("demo/catalog.db")
    return str(demo if demo.exists() else settings({}).catalog)


def catalog_option(command: F) -> F:
    return click.option(
        "--catalog",
        metavar="FILE",
        type=click.Path(),
        envvar="INTERNAL_DNS_CATALOG",
        default=default_catalog,
        help="The catalog file.  [default: demo/catalog.db if it exists, else the setting "
        "`catalog`]",
    )(command)
