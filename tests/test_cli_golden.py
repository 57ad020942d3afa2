"""What explain prints, to the letter: tests/golden has what a person reads (more examples:
tests/core/test_explain.py).

`python -m tests.test_cli_golden` writes the files anew; read the difference before you commit it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import dns.edns
import dns.message
import pytest

from internal_dns.cli.ask import reply_lines
from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.store.generate import create_catalog, demo_rows
from tests.commands import run
from tests.core.messages import AAAA, ip, loaded, opt, query

GOLDEN = Path(__file__).parent / "golden"
EXPLAINED = {
    "explain-none-started": ["batch.internal", "--as", "fdaa:0:18:a7b:7d:f066:b83b:2"],
    "explain-forwarded": ["example.com", "--as", "acme"],
    "explain-outsider": ["web.internal", "--as", "2001:db8::1"],
    "explain-shadow": ["all.web.internal", "--as", "acme"],
}


def explained(catalog: Path, words: list[str]) -> str:
    return run("explain", "--catalog", catalog, *words).out


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.db"
    create_catalog(path, demo_rows())
    return path


@pytest.mark.parametrize("name", EXPLAINED)
def test_explain_prints_its_golden_file(name: str, demo: Path) -> None:
    assert explained(demo, EXPLAINED[name]) == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", EXPLAINED)
def test_no_line_is_too_long_to_read_or_ends_in_blanks(name: str) -> None:
    for line in (GOLDEN / f"{name}.txt").read_text().splitlines():
        assert len(line) <= 110
        assert line == line.rstrip()


def test_whoever_is_named_by_address_asks_from_there(demo: Path) -> None:
    address = "fdaa:0:18:a7b:7d:f066:b83b:2"
    assert run("explain", "--catalog", demo, "web.internal", "--as", address).out.startswith(
        f"asks     {address} is in"
    )


def test_explain_and_the_server_print_the_same_reply(demo: Path) -> None:
    said = respond(
        query("batch.internal", AAAA, opt()),
        ip("fdaa:0:18:a7b:7d:f066:b83b:2"),
        ip("fdaa::3"),
        loaded(rows=demo_rows()).catalog,
        Rules(),
    )
    assert isinstance(said, Reply)
    printed = "\n".join(reply_lines(dns.message.from_wire(said.octets))) + "\n"
    assert explained(demo, EXPLAINED["explain-none-started"]).endswith(printed)


def test_the_reason_of_a_reply_cannot_command_the_terminal() -> None:
    reply = dns.message.make_response(dns.message.make_query("example.com", "AAAA", use_edns=0))
    reply.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode.OTHER, "late\x9b31m\u202e")])
    lines = reply_lines(dns.message.from_wire(reply.to_wire()))
    assert lines[1] == "; EDE 0 (Other): late\\15531m\\u202e"


def _write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.db"
        create_catalog(path, demo_rows())
        for name, words in EXPLAINED.items():
            (GOLDEN / f"{name}.txt").write_text(explained(path, words))


if __name__ == "__main__":
    _write()
