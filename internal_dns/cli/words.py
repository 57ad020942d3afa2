"""What commands share: errors with an addressee, and printing for people or programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from internal_dns.config import Settings

FINDING: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
CONFIGURATION: Final = 78  # EX_CONFIG of sysexits.h

F = TypeVar("F", bound=Callable[..., Any])


class Told(Exception):
    """An error for the operator: what went wrong, why, and what to do."""

    def __init__(self, what: str, why: str, do: str, code: int) -> None:
        super().__init__(what)
        self.what, self.why, self.do, self.code = what, why, do, code

    as_json = False  # set when the command was told --json

    def text(self) -> str:
        """For people in three lines, for programs as JSON: {"error": {"what": …, "why": …, "do":
        …}}."""
        if self.as_json:
            return msgspec.json.encode(
                {"error": {"what": self.what, "why": self.why, "do": self.do}}
            ).decode()
        lines = [f"{paint('error', 'red', err=True)}  {self.what}"]
        if self.why:
            lines += [f"  why  {self.why}"]
        if self.do:
            lines += [f"  do   {self.do}"]
        return "\n".join(lines)


def paint(text: str, colour: str, *, err: bool = False) -> str:
    """Colour *text* for a terminal; NO_COLOR (no-color.org) and pipes get it plain."""
    stream = sys.stderr if err else sys.stdout
    return (
        click.style(text, fg=colour) if stream.isatty() and not os.environ.get("NO_COLOR") else text
    )


def print_json(value: Any) -> None:
    """Print *value* as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def settings(flags: Mapping[str, Any] | None = None, file: Path | None = None) -> Settings:
    """The settings of `serve`: a catalog means the same, prefix and hidden peers, to all who read
    it. Raises Told."""
    from internal_dns.config import ConfigurationError, load_settings

    try:
        return load_settings(flags or {}, file=file)
    except ConfigurationError as error:
        raise Told("the configuration cannot be used", "\n       ".join(error.faults), "Correct it; `internal-dns "
                   "serve --help` lists every setting", CONFIGURATION) from error  # fmt: skip


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def default_catalog() -> str:
    """The demo's catalog where there is one, else that of `serve`."""
    demo = Path("demo/catalog.db")
    return str(demo if demo.exists() else settings({}).catalog)


def catalog_option(command: F) -> F:
    return click.option(
        "--catalog", metavar="FILE", type=click.Path(), envvar="INTERNAL_DNS_CATALOG", default=default_catalog,
        help="The catalog file.  [default: demo/catalog.db where it exists, else that of serve]",
    )(command)  # fmt: skip
