"""The examples of `--help`: every command has one, and takes it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest

from internal_dns.cli import cli
from internal_dns.cli.examples import EXAMPLES
from tests.commands import run

LINES = [(words, line) for words, lines in EXAMPLES.items() for line in lines]


def leaves(group: click.Group, *path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, *path, name)
        else:
            yield " ".join((*path, name))


def test_every_command_has_an_example_and_no_other_has() -> None:
    assert {*leaves(cli)} == EXAMPLES.keys()


def arguments(line: str) -> list[str]:
    """What the shell gives `internal-dns` in a line."""
    words = shlex.split(line.removeprefix('eval "$(').removesuffix(')"'))
    words = words[words.index("internal-dns") + 1 :]
    return words[: words.index(">")] if ">" in words else words


@pytest.mark.parametrize(("words", "line"), LINES, ids=[line for _, line in LINES])
def test_an_example_is_taken_by_its_command(words: str, line: str) -> None:
    given = arguments(line)
    command: click.Command = cli
    context = click.Context(cli, info_name="internal-dns")
    for word in words.split():
        assert given.pop(0) == word
        assert isinstance(command, click.Group)
        command = command.commands[word]
    context = command.make_context(words, given, parent=context)  # raises UsageError
    assert context.params
    assert all("[" not in word and "?" not in word for word in line.split() if "'" not in word)


@pytest.mark.parametrize("words", EXAMPLES)
def test_help_shows_the_examples_as_they_are_typed(words: str) -> None:
    said = run(*words.split(), "--help").out
    for line in EXAMPLES[words]:
        assert f"  {line}\n" in said
