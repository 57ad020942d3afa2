"""A living catalog that is harmed: writers killed in the middle, files locked, broken, gone. No
client notices.

; The file goes through thirty hells. The client sees one state or the next, never a third, never a
failure.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import pytest

from internal_dns.store.generate import create_catalog, demo_rows
from tests.live.hosts import Served, addresses, ask, meanwhile, query, serving, shows, until

pytestmark = [pytest.mark.live, pytest.mark.slow]

KILLS = 200
SERVED_AGAIN = 2.0  # seconds; what is promised is 1, which a busy machine may miss
FIRST, SECOND = "('3d8d9930b03989', '5683d474b40d8e')", "('7811e63fd4de08', 'e2865013bd7d86')"
OURS = f"({FIRST[1:-1]}, {SECOND[1:-1]})"
# One transaction of many statements takes the one pair of machines out of the answer and brings the
# other in.
WRITER = f"""
import os, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
pairs = ["{FIRST}", "{SECOND}"]
print(flush=True)
while True:
    for started, stopped in (pairs, pairs[::-1]):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"UPDATE machines SET state = 'stopped' WHERE id IN {{stopped}}")
        connection.executemany("INSERT OR REPLACE INTO machine_metadata "
                               "VALUES ('3d8d9930b03989', ?, ?)",
                               [(f"k{{n}}", os.urandom(200).hex()) for n in range(20)])
        connection.execute(f"UPDATE machines SET state = 'started' WHERE id IN {{started}}")
        connection.execute("COMMIT")
        time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_catalog(tmp_path / "catalog.db", demo_rows())
    return tmp_path / "catalog.db"


def commit(path: Path, sql: str) -> None:
    """Commit *sql* as a shell would; no descriptor of ours stays open."""
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        connection.executescript(f"BEGIN IMMEDIATE; {sql}; COMMIT")


@dataclass
class Seen:
    """What a client got."""

    answers: Counter[tuple[str, ...]] = field(default_factory=Counter)
    rcodes: Counter[str] = field(default_factory=Counter)
    lost: int = 0

    def take(self, message: dns.message.Message) -> None:
        self.rcodes[dns.rcode.to_text(message.rcode())] += 1
        self.answers[tuple(addresses(message))] += 1


@contextmanager
def client(server: Served, name: str = "web.internal") -> Iterator[Seen]:
    """Ask again and again in the background, with a name whose answer may be repeated and one that
    never is."""
    seen = Seen()
    in_turn: Iterator[dict[str, Any]] = cycle(({}, {"use_edns": False}))

    def ask_once() -> None:
        try:
            seen.take(ask(server, query(name, **next(in_turn)), timeout=1))
        except TimeoutError:
            seen.lost += 1

    with meanwhile(ask_once, 0.001):
        yield seen


def admin(server: Served) -> str:
    found = re.search(r"admin (http://\S+)", server.ready)
    assert found, server.ready
    return found[1]


def get(server: Served, path: str) -> str:
    with urllib.request.urlopen(f"{admin(server)}{path}", timeout=5) as reply:
        text = reply.read()
    assert isinstance(text, bytes)
    return text.decode()


def gauge(server: Served, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", get(server, "/metrics"), re.MULTILINE)
    assert found, name
    return float(found[1])


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    assert isinstance(port, int)
    return port


def test_killed_writers_show_no_client_anything_but_the_old_or_the_new(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(path)) as connection:
        addresses_of = dict(
            connection.execute(f"SELECT id, address FROM machines WHERE id IN {OURS}")
        )
    commit(path, "DELETE FROM machines WHERE app = 'web' AND id NOT IN " + OURS)
    commit(path, f"UPDATE machines SET state = 'stopped' WHERE id IN {SECOND}")
    first, second = (
        tuple(sorted(addresses_of[ident] for ident in re.findall(r"\w+", pair)))
        for pair in (FIRST, SECOND)
    )
    begin = time.monotonic()
    with serving(path) as server:
        with client(server) as seen:
            for number in range(KILLS):
                with subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", WRITER, str(path), "0"],
                    stdout=subprocess.PIPE,
                ) as writer:
                    assert writer.stdout is not None
                    writer.stdout.readline()
                    time.sleep(0.0007 * (number % 40))
                    writer.kill()
                    writer.wait(10)
        assert seen.answers.keys() <= {first, second}, seen.answers
        assert seen.rcodes.keys() == {"NOERROR"}
        assert seen.lost == 0
        assert min(seen.answers[first], seen.answers[second]) > 0, (
            "the writers were killed before they wrote"
        )
        # What is answered in the end is what is in the file.
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute(
                "SELECT address FROM machines WHERE app = 'web' AND network_id = 24 AND state = "
                "'started'"
            )
            wanted = sorted(address for (address,) in rows)
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        until(lambda: addresses(ask(server, "web.internal")) == wanted, SERVED_AGAIN)
    with capsys.disabled():
        took = time.monotonic() - begin
        print(f"\n  {KILLS} writers killed in {took:.1f} s: {dict(seen.rcodes)}, {seen.lost} lost")


# ── damage ────────────────────────────────────────────────────────────────────────────────────────

Repair = Callable[[], None]
ONE_LESS = "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'"


def _without_wal(path: Path) -> None:
    """Have all of the catalog in its one file, in the rollback mode that other programs use."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)


def locked(path: Path, good: Path) -> Repair:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute(ONE_LESS)

    def repair() -> None:
        connection.execute("COMMIT")
        connection.close()

    return repair


def truncated(path: Path, good: Path) -> Repair:
    os.truncate(path, path.stat().st_size // 2)
    return lambda: renamed_over(path, good)


def emptied(path: Path, good: Path) -> Repair:
    os.truncate(path, 0)
    return lambda: renamed_over(path, good)


def garbage(path: Path, good: Path) -> Repair:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(os.urandom(size))
    return lambda: copied_in_place(path, good)


def deleted(path: Path, good: Path) -> Repair:
    path.unlink()
    return lambda: renamed_over(path, good)


def another_schema(path: Path, good: Path) -> Repair:
    other = path.with_name("other.db")
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    os.rename(other, path)
    return lambda: renamed_over(path, good)


def a_column_less(path: Path, good: Path) -> Repair:
    commit(path, "ALTER TABLE machines RENAME COLUMN state TO status")
    return lambda: commit(path, f"ALTER TABLE machines RENAME COLUMN status TO state; {ONE_LESS}")


def a_table_less(path: Path, good: Path) -> Repair:
    commit(path, "ALTER TABLE peers RENAME TO friends")
    # Not by another file: the -wal of this one would be taken for that of the other.
    return lambda: commit(path, f"ALTER TABLE friends RENAME TO peers; {ONE_LESS}")


def renamed_over(path: Path, good: Path) -> None:
    os.rename(good, path)


def copied_in_place(path: Path, good: Path) -> None:
    shutil.copyfile(good, path)


# What is harmed in the file of a catalog in WAL mode is noticed when it is next read from it:
# nobody is hurt till then.
HARMS = [
    *(
        (harm, "delete")
        for harm in (locked, truncated, emptied, garbage, deleted, another_schema, a_column_less)
    ),
    *((harm, "wal") for harm in (locked, deleted, another_schema, a_table_less)),
]


@pytest.mark.parametrize(
    ("harm", "mode"), HARMS, ids=[f"{harm.__name__}-{mode}" for harm, mode in HARMS]
)
def test_a_harmed_catalog_goes_on_answering_and_is_served_when_repaired(
    path: Path,
    tmp_path: Path,
    harm: Callable[[Path, Path], Repair],
    mode: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if mode == "delete":
        _without_wal(path)
    good = tmp_path / "good.db"
    create_catalog(good, demo_rows())
    commit(good, ONE_LESS)
    _without_wal(good)
    with serving(path, "--admin", f"127.0.0.1:{free_port()}") as server:
        before = tuple(addresses(ask(server, "web.internal")))
        assert get(server, "/readyz") == "ready\n"
        assert gauge(server, "internal_dns_catalog_readable") == 1
        with client(server) as seen:
            repair = harm(path, good)
            if harm is locked and mode == "wal":
                time.sleep(1)  # readers of a WAL do not wait for its writer: nothing is wrong
                assert get(server, "/readyz") == "ready\n"
            elif harm is locked:
                time.sleep(1)
            else:
                until(
                    lambda: "degraded: the last good catalog answers" in get(server, "/readyz"),
                    SERVED_AGAIN,
                )
                assert gauge(server, "internal_dns_catalog_readable") == 0
                time.sleep(0.7)
                assert "degraded" in get(server, "/readyz")
        assert {*seen.answers} == {before}
        assert ({*seen.rcodes}, seen.lost) == ({"NOERROR"}, 0)
        repair()
        took = until(
            lambda: len(addresses(ask(server, "web.internal"))) == len(before) - 1, SERVED_AGAIN
        )
        until(lambda: get(server, "/readyz") == "ready\n", SERVED_AGAIN)
        assert gauge(server, "internal_dns_catalog_readable") == 1
        # And what is committed then is followed.
        commit(path, "UPDATE machines SET state = 'started' WHERE id = '3d8d9930b03989'")
        until(lambda: tuple(addresses(ask(server, "web.internal"))) == before, SERVED_AGAIN)
        said = server.stop()
    assert sum("the last good catalog answers" in line for line in said.splitlines()) <= 3, said
    with capsys.disabled():
        print(
            f"\n  {harm.__name__} ({mode}): {seen.rcodes.total()} answers, repaired in "
            f"{took * 1000:.0f} ms"
        )


def test_a_catalog_that_is_renamed_over_again_and_again_is_followed(
    path: Path, tmp_path: Path
) -> None:
    whole = {"web.internal": 0}
    with serving(path) as server:
        whole["web.internal"] = len(addresses(ask(server, "web.internal")))
        with client(server) as seen:
            for number in range(8):
                _without_wal_files(path)
                other = tmp_path / f"other{number}.db"
                create_catalog(other, demo_rows())
                if number % 2 == 0:
                    commit(other, ONE_LESS)
                _without_wal(other)
                os.rename(other, path)
                wanted = whole["web.internal"] - (number % 2 == 0)
                until(partial(shows, server, "web.internal", wanted), SERVED_AGAIN)
        assert {len(answer) for answer in seen.answers} == {
            whole["web.internal"],
            whole["web.internal"] - 1,
        }
        assert ({*seen.rcodes}, seen.lost) == ({"NOERROR"}, 0)


def _without_wal_files(path: Path) -> None:
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def test_the_command_line_writes_on_while_writers_are_killed(path: Path) -> None:
    """Our writer and a shell's take turns; what our writer said it has written is there."""
    command = [sys.executable, "-m", "internal_dns", "machine"]
    with serving(path) as server:
        for number in range(4):
            with subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", WRITER, str(path), "0.05"],
                stdout=subprocess.PIPE,
            ) as writer:
                assert writer.stdout is not None
                writer.stdout.readline()
                verb = ("stop", "start")[number % 2]
                done = subprocess.run(
                    [*command, verb, "148e306c77e789", "--wait", "--catalog", str(path)],
                    capture_output=True,
                    text=True,
                    timeout=20,
                    check=False,
                )
                writer.kill()
                writer.wait(10)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.endswith(", visible\n")
            found = addresses(ask(server, "148e306c77e789.vm.db.internal"))
            assert len(found) == number % 2
