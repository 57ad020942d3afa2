"""What shells and man know of the command line: completion by the real shells, a man page that is
up to date."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from internal_dns.cli import cli
from internal_dns.cli.completion import SHELLS
from tests.commands import run
from tests.tools import requires_tool

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "internal-dns.1"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which `internal-dns` is this program, and a shell finds no settings."""
    program = tmp_path / "bin" / "internal-dns"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.argv[0] = 'internal-dns'\n"
        "from internal_dns.cli import main\nmain()\n"
    )
    program.chmod(0o755)
    (tmp_path / "a-catalog.db").touch()
    return {
        "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb",
        "PYTHONPATH": str(REPOSITORY), "LANG": "C.UTF-8",
    }  # fmt: skip


def shell(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        words,
        env=environment,
        cwd=environment["HOME"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


# ── completion ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", SHELLS)
def test_a_script_is_printed_for_each_shell(name: str) -> None:
    said = run("completion", name)
    assert said.code == 0
    assert "_INTERNAL_DNS_COMPLETE" in said.out
    assert "Told" not in said.out


def test_an_unknown_shell_is_wrong_usage() -> None:
    assert run("completion", "csh").code == 2


BASH = """
eval "$(internal-dns completion bash)"
complete -p internal-dns >/dev/null || exit 9
for typed in "mach" "machine st" "dig --tc" "check --catalog ."; do
    COMP_WORDS=(internal-dns $typed)
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    compopt() { COMPREPLY+=("(files)"); }
    _internal_dns_completion internal-dns
    echo "$typed:" "${COMPREPLY[@]}"
done
"""


@pytest.mark.live
@requires_tool("bash")
def test_bash_completes(environment: dict[str, str]) -> None:
    assert shell(environment, "bash", "--norc", "-c", BASH).splitlines() == [
        "mach: machine",
        "machine st: start stop",
        "dig --tc: --tcp",
        "check --catalog .: (files)",
    ]


@pytest.mark.live
@requires_tool("fish")
def test_fish_completes(environment: dict[str, str]) -> None:
    def completed(typed: str) -> list[str]:
        script = f"internal-dns completion fish | source; complete -C 'internal-dns {typed}'"
        return [
            line.partition("\t")[0]
            for line in shell(environment, "fish", "--no-config", "-c", script).splitlines()
        ]

    assert completed("mach") == ["machine"]
    assert completed("machine st") == ["start", "stop"]
    assert completed("dig --tc") == ["--tcp"]


@pytest.mark.live
@requires_tool("zsh")
def test_zsh_completes(environment: dict[str, str]) -> None:
    """At a terminal: `versi`, Tab and Enter run `version`."""
    primary, secondary = pty.openpty()
    with subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=secondary, stdout=secondary, stderr=secondary,
        start_new_session=True,
        env={**environment, "PS1": "% ", "ZDOTDIR": environment["HOME"]}, cwd=environment["HOME"],
    ) as zsh:  # fmt: skip
        try:
            os.close(secondary)
            os.write(primary, b"autoload -Uz compinit; compinit -u -D\n")
            os.write(primary, b'eval "$(internal-dns completion zsh)"; print -r -- "re""ady"\n')
            read_until(primary, b"ready")
            os.write(primary, b"internal-dns versi\t\n")
            seen = read_until(primary, b"sqlite ")
            assert b"No such command" not in seen
        finally:
            zsh.kill()
            os.close(primary)


def read_until(terminal: int, words: bytes) -> bytes:
    seen, deadline = b"", time.monotonic() + 20
    while words not in seen:
        left = deadline - time.monotonic()
        assert left > 0, seen
        assert select.select([terminal], [], [], left)[0], seen
        seen += os.read(terminal, 65_536)
    return seen


# ── the man page ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_the_man_page_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / "man-page"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert PAGE.read_text() == made.stdout, "docs/internal-dns.1 is not up to date: make docs"


def test_the_man_page_has_every_command_and_option() -> None:
    text = PAGE.read_text().replace("\\-", "-")

    def check(command: click.Command, words: str) -> None:
        assert f'.SS "{words} ' in text or not words
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert all(option in text for option in parameter.opts)
        if isinstance(command, click.Group):
            for name, below in command.commands.items():
                check(below, f"{words} {name}".strip())

    check(cli, "")


@pytest.mark.live
@requires_tool("groff")
def test_groff_has_nothing_to_say_about_the_man_page() -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-z", str(PAGE)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
