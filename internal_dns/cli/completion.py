"""completion: a script that lets a shell complete commands, options and what they take."""

from __future__ import annotations

import click

PROGRAM = "internal-dns"
VARIABLE = "_INTERNAL_DNS_COMPLETE"  # click looks for it when the program is started
SHELLS = ("bash", "zsh", "fish")
WHERE = {
    "bash": "internal-dns completion bash > /etc/bash_completion.d/internal-dns",
    "zsh": "internal-dns completion zsh > /usr/share/zsh/vendor-completions/_internal-dns",
    "fish": "internal-dns completion fish > /etc/fish/completions/internal-dns.fish",
}


@click.command(epilog="\b\nFor all users:\n" + "\n".join(f"  {line}" for line in WHERE.values()))
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL. Now and here: eval "$(internal-dns completion
    bash)"."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None  # click has these three
    click.echo(made(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
