"""The lists of permissions in docs/replication.md are exact, and what is missing is told."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from internal_dns.store.generate import create_catalog
from tests import commands
from tests.live.hosts import addresses, ask, until
from tests.live.test_replicate import SOON, following, readyz, shows
from tests.nats_servers import NatsServer, nats_server
from tests.tools import requires_tool

pytestmark = [pytest.mark.live, pytest.mark.slow, requires_tool("nats-server")]

DOCS = Path(__file__).parents[2] / "docs" / "replication.md"
USERS = ("publisher", "follower", "operator", "source")
FIRST = "$JS.API.STREAM.CREATE.KV_prod-fleet"
# More than the first window of flow control takes.
MACHINES = 30_000


def configuration(*without: str) -> str:
    """The users of docs/replication.md, each with its name as password; *without* these
    subjects."""
    text = re.sub(r" *#.*", "", DOCS.read_text().partition("```conf\n")[2].partition("```")[0])
    for user in USERS:
        text = text.replace(f'user: {user}, password: "…"', f"user: {user}, password: {user}")
    for subject in without:
        assert f'"{subject}"' in text
        text = text.replace(f'"{subject}"', '"nothing"')
    return text


def allowed() -> dict[str, set[str]]:
    """What each user may publish."""
    found = {}
    for user, block in re.findall(
        r"user: (\w+),.*?publish: \{ allow: \[(.*?)\]", configuration(), re.S
    ):
        found[user] = set(re.findall(r'"([^"]+)"', block))
    return found


@contextmanager
def server(folder: Path, *without: str, trace: bool = False) -> Iterator[NatsServer]:
    more = "trace: true\n" * trace + configuration(*without)
    with nats_server(folder, more=more) as nats:
        yield nats


def url(nats: NatsServer, user: str) -> str:
    return f"nats://{user}:{user}@127.0.0.1:{nats.port}/prod"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one machine of app `web`, and many others."""
    path = tmp_path_factory.mktemp("catalog") / "catalog.db"
    machines = [
        (f"m{n}", 24, "web" if n == 1 else f"app-{n % 100}", f"fdaa:0:18:a7b:7d:1:{n:x}:2", "iad",
         "app", "started", 0, 0, 1, "")
        for n in range(1, MACHINES + 1)
    ]  # fmt: skip
    create_catalog(path, {"networks": [(24, "acme", "")], "machines": machines})
    return path


def published(nats: NatsServer, catalog: Path, *flags: str) -> commands.Said:
    return commands.run("publish", "--to", url(nats, "publisher"), "--catalog", catalog, *flags)


def traced(nats: NatsServer) -> dict[str, set[str]]:
    """What each user published, and the subjects that were refused."""
    users, found = dict[str, str](), defaultdict[str, set[str]](set)
    with (nats.folder / "log").open(errors="replace") as log:
        for line in log:
            if match := re.search(r"cid:(\d+) .*<<- \[CONNECT .*\"user\": ?\"(\w+)\"", line):
                users[match[1]] = match[2]
            elif match := re.search(r"cid:(\d+) .*<<- \[H?PUB (\S+)", line):
                found[users[match[1]]].add(match[2])
            elif match := re.search(r"(Publish|Subscription) Violation .*", line):
                found["refused"].add(match[0])
    return found


@contextmanager
def followed(*words: object) -> Iterator[None]:
    """Run `follow` with these words."""
    command = [sys.executable, "-m", "internal_dns", "follow", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        yield
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    finally:
        process.kill()
        process.communicate()


def covers(pattern: str, subject: str) -> bool:
    """Whether a subject with wildcards covers another."""
    wanted: Sequence[str] = pattern.split(".")
    tokens = subject.split(".")
    if wanted[-1] == ">":
        wanted, tokens = (
            wanted[:-1],
            tokens[: len(wanted) - 1] if len(tokens) >= len(wanted) else [],
        )
    return len(wanted) == len(tokens) and all(
        one in ("*", other) for one, other in zip(wanted, tokens, strict=True)
    )


def test_the_documented_permissions_are_enough_and_none_is_too_many(
    catalog: Path, tmp_path: Path
) -> None:
    """On a bucket with more rows than one window of flow control."""
    with server(tmp_path / "nats", trace=True) as nats:
        assert published(nats, catalog).code == 0
        with following(
            tmp_path / "a.db", url(nats, "follower"), "--host-name", "iad-1", "--admin", "none"
        ) as host:
            until(lambda: shows(host, 1), 3 * SOON)
            operator = url(nats, "operator")
            until(
                lambda: (
                    commands.run("fleet", "status", "--source", operator).code == 0
                    and "iad-1" in commands.run("fleet", "status", "--source", operator).out
                ),
                SOON,
            )
            document = tmp_path / "one.json"
            document.write_text(
                '{"networks": {"acme": {"id": 24, "apps": {"more": {"machines": [{"id": "extra", '
                '"address": "fdaa:0:18:a7b:7d:2:1:2", "region": "iad", "state": "started"}]}}}}}'
            )
            said = commands.run("apply", document, "--to", url(nats, "publisher"))
            assert said.code == 0, said.err
            documents = tmp_path / "documents"
            documents.mkdir()
            (documents / "one.json").write_text(
                document.read_text().replace("extra", "live").replace("2:1:2", "3:1:2")
            )
            with followed("directory", documents, "--to", url(nats, "source")):
                until(lambda: addresses(ask(host, "live.vm.more.internal")) != [], SOON)
        assert published(nats, catalog, "--compact").code == 0  # which deletes `extra`
        assert commands.run("fleet", "forget", "iad-1", "--source", operator).code == 0
        found = traced(nats)
    assert found.pop("refused", set()) == set()
    for user, patterns in allowed().items():
        # Only a fleet of thousands outgrows the window, and only one can be the first to report.
        needed = patterns - {"$JS.FC.KV_prod-fleet.>"}
        if FIRST not in found[user]:
            assert FIRST in found["follower"]
            needed -= {FIRST}
        unused = {p for p in needed if not any(covers(p, subject) for subject in found[user])}
        assert unused == set(), user
    assert set(allowed()) == set(USERS)


def test_a_host_without_flow_control_says_what_it_lacks(catalog: Path, tmp_path: Path) -> None:
    """It hung without a word, once the catalog had outgrown the first window."""
    with server(tmp_path / "nats") as nats:
        assert published(nats, catalog).code == 0
        nats.stop()
        nats.config.write_text(nats.config.read_text().replace('"$JS.FC.KV_prod.>"', '"nothing"'))
        nats.start()
        with following(tmp_path / "a.db", url(nats, "follower")) as host:
            until(lambda: "delivers nothing more" in readyz(host), 2 * SOON)
            assert 'Permissions Violation for Publish to "$JS.FC.KV_prod.' in readyz(host)
            assert "delivers nothing more" in host.stderr()
        said = published(nats, catalog)
        assert said.code == 3
        assert "delivers nothing more" in said.err
        assert 'Permissions Violation for Publish to "$JS.FC.KV_prod.' in said.err


@pytest.mark.parametrize(
    ("subject", "user"),
    [
        ("$JS.API.STREAM.INFO.KV_prod", "operator"),
        ("$JS.API.STREAM.CREATE.KV_prod", "publisher"),
        ("$KV.prod.>", "publisher"),
        ("_INBOX.>", "publisher"),
    ],
)
def test_what_the_server_refuses_is_in_our_error(tmp_path: Path, subject: str, user: str) -> None:
    create_catalog(tmp_path / "one.db", {"networks": [(24, "acme", "")]})
    with server(tmp_path / "nats", subject) as nats:
        words = (
            ("fleet", "status", "--source", url(nats, user))
            if user == "operator"
            else ("publish", "--to", url(nats, user), "--catalog", tmp_path / "one.db")
        )
        said = commands.run(*words)
    assert said.code == 3
    assert "Permissions Violation for" in said.err
    assert subject.rstrip(">") in said.err


def test_a_host_that_may_not_report_says_so_and_answers(tmp_path: Path) -> None:
    create_catalog(
        tmp_path / "one.db",
        {"networks": [(24, "acme", "")],
         "machines": [("m", 24, "web", "fdaa:0:18:a7b:7d:1:1:2", "iad", "app", "started", 0, 0, 1,
                       "")]},
    )  # fmt: skip
    without = ("$KV.prod-fleet.*",)
    with server(tmp_path / "nats", *without) as nats:
        assert published(nats, tmp_path / "one.db").code == 0
        with following(tmp_path / "a.db", url(nats, "follower")) as host:
            until(lambda: shows(host, 1), SOON)
            until(lambda: "not in `fleet status`" in host.stderr(), SOON)
            assert 'Permissions Violation for Publish to "$KV.prod-fleet.' in host.stderr()
