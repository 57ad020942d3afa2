"""The command line. Each file holds a group of commands; this one names them all and loads the file
of the command that is run.

Exit status: 0 ok, 1 a finding or a negative answer, 2 usage, 3 unreachable, 78 configuration.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from internal_dns.cli.common import USAGE, AsJson, error_text
from internal_dns.cli.examples import epilog
from internal_dns.errors import OperatorError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_JSON: Final = "internal_dns.json"

# By title, each command: the file and object that it is, and the first sentence of its help, so
# that listing the commands loads none of them.
SECTIONS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Run": {
        "serve": ("run:serve", "Serve the catalog on the addresses of --listen until SIGTERM."),
        "dev": (
            "run:dev",
            "Try it without root: the demo catalog on [::1]:1053, where `dig --as NETWORK/REGION` asks as anyone.",
        ),
    },
    "Ask": {
        "dig": ("ask:dig", "Ask a server for NAME (an address asks its reverse name)."),
        "explain": (
            "ask:explain",
            "Tell why NAME is answered as it is: the server's own decision, from the catalog file, step by step.",
        ),
        "watch": (
            "watch:watch",
            "Print the answer to NAME, and again whenever it becomes another.",
        ),
        "top": (
            "top:top",
            "The busiest networks and names of the running server. q ends; --json prints one look.",
        ),
    },
    "Look up and change": {
        "network": ("objects.network:network", "The tenants' networks."),
        "app": ("objects.app:app", "Apps; named NETWORK/APP."),
        "machine": ("objects.machine:machine", "Machines; named by their id."),
        "peer": ("objects.peer:peer", "WireGuard peers; named NETWORK/PEER."),
        "region": ("objects.region:region", "Regions and where they are."),
        "flycast": (
            "objects.flycast:flycast",
            "Flycast addresses: of an app name, on the network where it answers.",
        ),
    },
    "Whole catalogs": {
        "apply": (
            "document:apply",
            "Make the catalog what FILE (TOML or JSON, - for standard input) says, all of it or nothing.",
        ),
        "diff": ("document:diff", "Tell how the catalog differs from FILE."),
        "export": ("document:export", "Print the catalog as a document that `apply` takes."),
        "import": (
            "document:import_",
            "Turn what another system knows (FILE, - for standard input) into a document for `apply`.",
        ),
        "init": ("files:init", "Make a catalog FILE: empty, the demo, or N machines for a bench."),
        "check": (
            "files:check",
            "Find rows that cannot be served, names that cannot be asked, answers that do not fit.",
        ),
    },
    "More than one host": {
        "publish": (
            "bucket:publish",
            "Make a bucket what the catalog file is: every host that follows it will answer so.",
        ),
        "fleet": ("bucket:fleet", "The hosts that follow one bucket."),
    },
    "Look after it": {
        "config": (
            "configuration:config",
            "The effective settings, as `serve` with the same flags would have them.",
        ),
        "doctor": (
            "doctor.command:doctor",
            "Look at this host: what would keep the server from running well, and what to do about it.",
        ),
        "health": (
            "host:health",
            "Ask a running server whether it is ready: for a container's healthcheck.",
        ),
    },
    "This program": {
        "completion": ("completion:completion", "Print the completion script of SHELL."),
        "version": ("host:version", "Print the versions of this program and of what it runs on."),
    },
}
_ROWS: Final = {name: row for rows in SECTIONS.values() for name, row in rows.items()}


class _Loaded(MutableMapping[str, click.Command]):
    """The commands by name, in the order of SECTIONS; each is loaded when it is looked up."""

    def __init__(self) -> None:
        self.loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self.loaded:
            file, _, attribute = _ROWS[name][0].partition(":")
            command = getattr(import_module(f"internal_dns.cli.{file}"), attribute)
            _show_examples(command, name)
            self.loaded[name] = command
        return self.loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self.loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self.loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_ROWS)

    def __len__(self) -> int:
        return len(_ROWS)


def _show_examples(command: click.Command, words: str) -> None:
    """Put the examples of a command, and of those below it, at the end of their help."""
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            _show_examples(below, f"{words} {name}")
    command.epilog = "\n\n".join(filter(None, (epilog(words), command.epilog))) or None


class _Commands(click.Group):
    """Commands in the order of SECTIONS, what runs first; with --json, errors are JSON too."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_ROWS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by what one wants to do, each with its whole first sentence."""
        for title, rows in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, words) for name, (_, words) in rows.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names of commands, without loading any."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=words)
            for name, (_, words) in _ROWS.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_JSON] = "--json" in args[: args.index("--") if "--" in args else len(args)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (OperatorError, click.UsageError) as error:
            if not ctx.meta[_JSON]:
                raise
            told = error if isinstance(error, OperatorError) else _misused(error)
            raise AsJson(told) from None


def _misused(error: click.UsageError) -> OperatorError:
    path = error.ctx.command_path if error.ctx else "internal-dns"
    return OperatorError(
        f"{path}: wrong usage", error.format_message(), f"{path} --help lists what it takes", USAGE
    )


EPILOG: Final = """\b
Reading commands have --json; NO_COLOR keeps the terminal plain.
Exit status: 0 ok, 1 a finding, 2 usage, 3 unreachable, 78 configuration."""


_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=_Commands, commands=_Loaded(), epilog=EPILOG, context_settings=_CONTEXT)
@click.version_option(package_name="internal-dns", message="%(version)s")
def cli() -> None:
    """The name server of a private IPv6 network: .internal names from a SQLite catalog."""


def main() -> None:
    """Run the command line; errors say what, why, and what to do."""
    # It warns of what libraries do, which no operator can change.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    try:
        cli(standalone_mode=True)
    except OperatorError as told:
        click.echo(error_text(told), err=True)
        sys.exit(told.code)
