"""README.md, docs/tour.md and docs/records.md tell the truth: their transcripts are typed in, and what comes back is
what they show. So do the blocks that set up a server, in README.md and docs/operating.md.

In a block fenced as `console`, a line that begins with `$ ` is a command, and what follows is its
output: `…` (or `...`) stands for anything within a line, and alone on a line for any number of
lines. `make` commands are not run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.hosts import REPOSITORY, Host, Served
from tests.tools import requires_root, requires_tool

pytestmark = [pytest.mark.live, requires_root(), requires_tool("ip", "dig")]

README, TOUR = REPOSITORY / "README.md", REPOSITORY / "docs/tour.md"
RECORDS = REPOSITORY / "docs/records.md"  # goes on with the catalog that the others leave
OPERATING = REPOSITORY / "docs/operating.md"
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fenced(kind: str, *files: Path) -> list[str]:
    """The blocks of *files* that are fenced as *kind*."""
    texts = (file.read_text("utf-8") for file in files)
    return [text for whole in texts for word, text in FENCED.findall(whole) if word == kind]


def transcript(block: str) -> Iterator[tuple[str, str]]:
    """The commands of a block, each with the output shown below it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        typed, output = "", part
        while True:  # a backslash at its end continues a command
            line, _, output = output.partition("\n")
            typed += line
            if not line.endswith("\\"):
                break
            typed += "\n"
        yield typed, output


def pattern(shown: str) -> re.Pattern[str]:
    """What output may be that is shown as *shown*; blanks count as one."""
    made = ""
    for line in shown.splitlines():
        if line.strip() in ("…", "..."):
            made += r"(?:.*\n)*?"
            continue
        words = [
            re.escape(word) for word in re.split(r"…|\.\.\.", re.sub(r"\s+", " ", line.rstrip()))
        ]
        made += ".*?".join(words) + r"\n"
    return re.compile(made + r"\Z")


def plain(output: str) -> str:
    """Output as patterns expect it."""
    return "".join(re.sub(r"\s+", " ", line.rstrip()) + "\n" for line in output.splitlines())


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Path, Served]]:
    """A directory like the repository after `make demo`, and the demo, in a namespace where its
    ports are free."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".venv").symlink_to(REPOSITORY / ".venv")
    host = Host("readme")
    try:
        served = Served(
            "--upstream",
            "udp://192.0.2.53",
            host=host,
            verb="dev",
            folder=folder,
            program=(".venv/bin/internal-dns",),
        )
        yield host, folder, served
        served.stop()
    finally:
        host.close()


def test_make_demo_prints_what_is_shown(terminal: tuple[Host, Path, Served]) -> None:
    _, _, served = terminal
    said = plain(served.ready).splitlines()
    shown = [block for block in fenced("text", TOUR) if block.startswith("catalog ")]
    assert shown, "docs/tour.md does not show what `make demo` prints"
    for line in plain(shown[0]).splitlines():
        # Versions and limits are the machine's own.
        found = re.sub(
            r"sqlite\\ [\d\\.]+|\d+(?=\\ tcp|\\ forwarded)", lambda m: r"[\w .]+", re.escape(line)
        )
        assert any(re.fullmatch(found, other) for other in said), (
            f"{line}\nis not in\n{served.ready}"
        )


def test_transcripts_are_what_happens(terminal: tuple[Host, Path, Served]) -> None:
    host, folder, _ = terminal
    run, wrong = 0, []
    environment = {**os.environ, "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}"}
    for block in fenced("console", README, TOUR, RECORDS):
        for typed, shown in transcript(block):
            if typed.startswith("make"):
                continue
            done = subprocess.run(
                host.within("bash", "-c", typed),
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=30,
                check=False,
                env=environment,
            )
            run += 1
            if not pattern(shown).match(plain(done.stdout)):
                wrong.append(f"$ {typed}\nshown:\n{shown}\ngot:\n{done.stdout}")
    assert run, "there is no transcript"
    assert not wrong, "\n".join(wrong)


def as_printed(block: str, role: str) -> str:
    """Run *block* as root in a namespace of its own, with an empty /var/lib; what it printed."""
    host = Host(role)
    try:
        script = f"mount -t tmpfs tmpfs /var/lib\ntrap 'kill $!; wait $!' EXIT\n{block}"
        environment = {**os.environ, "PATH": f"{REPOSITORY}/.venv/bin:{os.environ['PATH']}"}
        done = subprocess.run(
            host.within("bash", "-ec", script),
            cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
            env=environment,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout
    finally:
        host.close()


def test_the_ten_lines_of_production_end_in_an_answer() -> None:
    (block,) = [text for text in fenced("sh", README) if "init $INTERNAL_DNS_CATALOG" in text]
    install, *lines = block.splitlines()
    assert "pip install ." in install
    assert len(lines) < 10
    assert as_printed("\n".join(lines), "ten").splitlines()[-1] == "fdaa:0:18:1:1:0:1:2"


def test_the_first_block_of_operating_works_as_printed() -> None:
    block = fenced("sh", OPERATING)[0]
    said = as_printed(block, "operating").splitlines()
    assert said.count("web.internal. 5 IN AAAA fdaa:0:18:a7b:7d:1:1:2") == 2


def test_every_document_is_in_the_index_and_every_link_leads_somewhere() -> None:
    folder = REPOSITORY / "docs"
    index = (folder / "README.md").read_text("utf-8")
    named = set(re.findall(r"\]\(([\w.-]+)\)", index))
    assert named == {file.name for file in folder.iterdir() if file.is_file()} - {"README.md"}
    for file in (README, *folder.glob("*.md")):
        for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text("utf-8")):
            target, _, anchor = link.partition("#")
            if target.startswith(("http:", "https:")):
                continue
            there = (file.parent / target) if target else file
            assert there.exists(), f"{file.name}: {link}"
            if anchor and there.suffix == ".md":
                heads = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
                made = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in made, f"{file.name}: {link}"


@pytest.mark.parametrize("picture", sorted((REPOSITORY / "docs/images").iterdir()), ids=str)
def test_pictures_are_small(picture: Path) -> None:
    assert 1_000 < picture.stat().st_size < 150_000


def test_a_second_demo_names_a_command_that_works(terminal: tuple[Host, Path, Served]) -> None:
    host, folder, _ = terminal
    second = subprocess.run(
        host.within(".venv/bin/internal-dns", "dev"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert second.returncode == 78
    assert "Address already in use" in second.stderr
    command = shlex.split(second.stderr.partition("To run a second server: ")[2])
    assert command[:2] == [".venv/bin/internal-dns", "dev"]
    beside = Served(*command[2:], host=host, verb="dev", folder=folder, program=(command[0],))
    assert beside.port != 1053
    beside.stop()


@pytest.mark.parametrize(
    ("shown", "output", "matches"),
    [
        ("a 1 b\n", "a 1\tb\n", True),
        ("a … b\n", "a 1 2 b\n", True),
        ("a … b\n", "a 1\nb\n", False),
        ("a\n…\nb\n", "a\nx\ny\nb\n", True),
        ("a\n", "a\nb\n", False),
        ("", "", True),
        ("", "error\n", False),
    ],
)
def test_wildcards(shown: str, output: str, matches: bool) -> None:
    assert bool(pattern(shown).match(plain(output))) == matches
