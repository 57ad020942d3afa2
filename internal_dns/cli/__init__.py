"""The command line. Each file holds a group of commands; this one gathers them.

Exit status: 0 ok, 1 a finding or a negative answer, 2 usage, 3 unreachable, 78 configuration.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import click

from internal_dns.cli.ask import dig, explain
from internal_dns.cli.bucket import fleet, publish
from internal_dns.cli.completion import completion
from internal_dns.cli.configuration import config
from internal_dns.cli.doctor import doctor
from internal_dns.cli.document import apply, diff, export, import_
from internal_dns.cli.files import check, init
from internal_dns.cli.host import health, version
from internal_dns.cli.objects import GROUPS
from internal_dns.cli.run import dev, serve
from internal_dns.cli.top import top
from internal_dns.cli.watch import watch
from internal_dns.cli.words import USAGE, AsJson, Told, error_text

_JSON: Final = "internal_dns.json"


class _Commands(click.Group):
    """Commands in the order they were added, what runs first; with --json, errors are JSON too."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by what one wants to do, each with its whole first sentence."""
        for title, group in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(c.name or "", c.get_short_help_str(limit=200)) for c in group])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_JSON] = "--json" in args[: args.index("--") if "--" in args else len(args)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Told, click.UsageError) as error:
            if not ctx.meta[_JSON]:
                raise
            told = error if isinstance(error, Told) else _misused(error)
            raise AsJson(told) from None


def _misused(error: click.UsageError) -> Told:
    path = error.ctx.command_path if error.ctx else "internal-dns"
    return Told(
        f"{path}: wrong usage", error.format_message(), f"{path} --help lists what it takes", USAGE
    )


EPILOG: Final = """\b
Reading commands have --json; NO_COLOR keeps the terminal plain.
Exit status: 0 ok, 1 a finding, 2 usage, 3 unreachable, 78 configuration."""


_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=_Commands, epilog=EPILOG, context_settings=_CONTEXT)
@click.version_option(package_name="internal-dns", message="%(version)s")
def cli() -> None:
    """The name server of a private IPv6 network: .internal names from a SQLite catalog."""


SECTIONS: Final[dict[str, tuple[click.Command, ...]]] = {
    "Run": (serve, dev),
    "Ask": (dig, explain, watch, top),
    "Look up and change": tuple(GROUPS),
    "Whole catalogs": (apply, diff, export, import_, init, check),
    "More than one host": (publish, fleet),
    "Look after it": (config, doctor, health),
    "This program": (completion, version),
}
COMMANDS = tuple(command for group in SECTIONS.values() for command in group)
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line; errors say what, why, and what to do."""
    # It warns of what libraries do, which no operator can change.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    try:
        cli(standalone_mode=True)
    except Told as told:
        click.echo(error_text(told), err=True)
        sys.exit(told.code)
