"""What the documents list is all there is."""

import re
from pathlib import Path

import click

from internal_dns.cli import cli
from tests.commands import run

REPOSITORY = Path(__file__).parents[1]


def test_contributing_lists_every_target_of_make() -> None:
    phony = re.search(
        r"^\.PHONY:((?:.*\\\n)*.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE
    )
    assert phony
    targets = set(phony[1].replace("\\\n", " ").split()) - {"help", "build-deps", "test-deps"}
    said = (REPOSITORY / "CONTRIBUTING.md").read_text()
    assert len(targets) > 15
    assert not {target for target in targets if f"make {target}" not in said}


def test_help_has_every_command_with_a_whole_sentence() -> None:
    said = run("--help").out
    for name in cli.commands:
        assert re.search(rf"^  {name} +\S", said, re.MULTILINE), name
    assert "..." not in said.partition("\n")[2]
    assert "Exit status: 0 ok" in said


def reading(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    """The commands that print what they read, or did, as a path of words."""
    found = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += reading(command, *path, name)
        elif name not in (
            "serve",
            "dev",
            "follow",
            "completion",
        ):  # they run, or print what a shell reads
            found.append((*path, name))
    return found


def test_every_command_that_tells_something_tells_programs_too() -> None:
    commands = reading(cli)
    assert ("fleet", "status") in commands
    assert [words for words in commands if "--json" not in run(*words, "--help").out] == []
