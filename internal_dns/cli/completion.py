"""completion: print the script with which a shell completes commands, options and arguments."""

from __future__ import annotations

import click

PROGRAM = "internal-dns"
VARIABLE = "_INTERNAL_DNS_COMPLETE"  # click reads it when the program starts
SHELLS = ("bash", "zsh", "fish")
INSTALL = {
    "bash": "internal-dns completion bash > /etc/bash_completion.d/internal-dns",
    "zsh": "internal-dns completion zsh > /usr/share/zsh/vendor-completions/_internal-dns",
    "fish": "internal-dns completion fish > /etc/fish/completions/internal-dns.fish",
}


@click.command(epilog="\b\nFor all users:\n" + "\n".join(f"  {line}" for line in INSTALL.values()))
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    To use it in the current shell only: eval "$(internal-dns completion bash)"
    """
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    assert complete is not None  # click has all of SHELLS
    click.echo(complete(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
