"""The command line: one file per group of commands. Only the file of the command given is loaded.

    main ─► SECTIONS names the command's file ─► the command ─► exit status

    serve, dev            run.py, netns.py            import the server and run it
    dig, explain, watch   ask.py, watch.py            servers.py finds the server and queries it;
                                                      advice.py says what to do about the reply
    top, health, version  top.py, host.py
    network … zone        objects/                    columns.py: one option per column
    apply, diff, export,
    import, init, check   document.py, files.py
    publish, fleet        bucket.py                   work on a bucket of NATS
    config, doctor        configuration.py, doctor/   routes.py: which addresses are local

Write commands go through backend.py: over the server's UNIX socket (admin/api.py), or with
--offline to the file itself. common.py has the exit statuses, errors and shared options; suggest.py
completes names for shells and finds "did you mean"; wireguard.py writes a peer's configuration;
examples.py holds the examples of `--help`, completion.py the completion scripts.

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

# By section, each command: its file and object, and the first sentence of its help. The list of
# commands is printed from here, so that it loads none of their files.
SECTIONS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Run": {
        "serve": ("run:serve", "Serve the catalog on the addresses of --listen until SIGTERM."),
        "dev": (
            "run:dev",
            "Serve the demo catalog on [::1]:1053 without root; any client can be imitated there "
            "with `dig --as NETWORK/REGION`.",
        ),
    },
    "Query": {
        "dig": ("ask:dig", "Query a server for NAME; an address stands for its reverse name."),
        "explain": (
            "ask:explain",
            "Explain, step by step and from the catalog file, how the server answers NAME.",
        ),
        "watch": ("watch:watch", "Print the answer to NAME now and after each change."),
        "top": ("top:top", "Show the busiest networks and names of the running server."),
    },
    "Show and change": {
        "network": ("objects.network:network", "Show and change networks."),
        "app": ("objects.app:app", "Show and change apps, named NETWORK/APP."),
        "machine": ("objects.machine:machine", "Show and change machines, named by ID."),
        "peer": ("objects.peer:peer", "Show and change WireGuard peers, named NETWORK/PEER."),
        "region": ("objects.region:region", "Show and change regions and their coordinates."),
        "flycast": (
            "objects.flycast:flycast",
            "Show and change the flycast addresses of an app on a network.",
        ),
        "record": (
            "objects.record:record",
            "Show and change the records of a network's own, named NETWORK/NAME.",
        ),
        "zone": ("objects.zone:zone", "Show and change the private zones of a network."),
        "changes": (
            "changes:changes",
            "Show what changed last in the catalog, the latest change first.",
        ),
        "address": (
            "follow:address",
            "Print a free address for NAME on a host; the same name gets the same address.",
        ),
    },
    "Whole catalogs": {
        "apply": (
            "document:apply",
            "Make the catalog match FILE (TOML or JSON; - is standard input), completely or not at "
            "all.",
        ),
        "diff": ("document:diff", "Show how the catalog differs from FILE."),
        "export": ("document:export", "Print the catalog as a document that `apply` accepts."),
        "import": (
            "document:import_",
            "Convert the data of another system (FILE; - is standard input) to a document for "
            "`apply`.",
        ),
        "init": (
            "files:init",
            "Create a catalog FILE: empty, with the demo, or with N generated machines.",
        ),
        "follow": (
            "follow:follow",
            "Keep machines and peers in step with what runs, until SIGTERM.",
        ),
        "source": ("follow:source", "Show and remove live sources, and the rows they own."),
        "check": (
            "files:check",
            "Find rows that cannot be served, names that cannot be queried, and answers that do "
            "not fit.",
        ),
    },
    "Many hosts": {
        "publish": (
            "bucket:publish",
            "Make a bucket match the catalog file, for every host that follows the bucket.",
        ),
        "fleet": ("bucket:fleet", "Show the hosts that follow a bucket."),
    },
    "Maintain": {
        "config": (
            "configuration:config",
            "Show and check the settings that `serve` would use with the same flags.",
        ),
        "doctor": (
            "doctor.command:doctor",
            "Check this host for whatever would keep the server from running well, and say what "
            "to do.",
        ),
        "health": (
            "host:health",
            "Check whether a running server is ready, for the health check of a container.",
        ),
    },
    "This program": {
        "completion": ("completion:completion", "Print the completion script for SHELL."),
        "version": ("host:version", "Print the versions of this program and of its components."),
    },
}
_ROWS: Final = {name: row for rows in SECTIONS.values() for name, row in rows.items()}


class _LazyCommands(MutableMapping[str, click.Command]):
    """The commands by name, in the order of SECTIONS. Looking one up loads its file."""

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
    """Append the examples of a command and of its subcommands to their help."""
    if isinstance(command, click.Group):
        for name, subcommand in command.commands.items():
            _show_examples(subcommand, f"{words} {name}")
    command.epilog = "\n\n".join(filter(None, (epilog(words), command.epilog))) or None


class _Commands(click.Group):
    """The root group: commands in the order of SECTIONS. With --json, errors are JSON too."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_ROWS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, each command with its whole first sentence."""
        for title, rows in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, words) for name, (_, words) in rows.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of commands without loading any."""
        from click.shell_completion import CompletionItem

        commands = [
            CompletionItem(name, help=words)
            for name, (_, words) in _ROWS.items()
            if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_JSON] = "--json" in args[: args.index("--") if "--" in args else len(args)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (OperatorError, click.UsageError) as error:
            if not ctx.meta[_JSON]:
                raise
            operator_error = error if isinstance(error, OperatorError) else _usage_error(error)
            raise AsJson(operator_error) from None


def _usage_error(error: click.UsageError) -> OperatorError:
    path = error.ctx.command_path if error.ctx else "internal-dns"
    return OperatorError(
        f"{path}: wrong usage",
        error.format_message(),
        f"Run {path} --help for its arguments and options",
        USAGE,
    )


EPILOG: Final = """\b
Most commands have --json. NO_COLOR turns colors off.
Exit status: 0 ok, 1 a finding, 2 usage, 3 unreachable, 78 configuration."""


_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=_Commands, commands=_LazyCommands(), epilog=EPILOG, context_settings=_CONTEXT)
@click.version_option(package_name="internal-dns", message="%(version)s")
def cli() -> None:
    """A name server for private IPv6 networks: .internal names from a SQLite catalog."""


def main() -> None:
    """Run the command line. Print an OperatorError as what, why and what to do."""
    # asyncio warns about the internals of libraries, which no operator can change.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    try:
        cli(standalone_mode=True)
    except OperatorError as error:
        click.echo(error_text(error), err=True)
        sys.exit(error.code)
