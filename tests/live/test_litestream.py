"""A catalog that a real Litestream replicates while it is written, restored and served again.

`make litestream` builds the program and runs this file; it needs Go and its module proxy.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from internal_dns.replicate.codec import file_values
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import connect, load
from tests.live.hosts import Served, addresses, ask, change, serving, until
from tests.live.test_file_mode import asked, put_in_place

pytestmark = [pytest.mark.engines, pytest.mark.slow]

PROGRAM = os.environ.get("LITESTREAM") or shutil.which("litestream") or "litestream"
SOON = 20.0


def address(number: int) -> str:
    return f"fdaa:0:18:a7b:7d:1:{number:x}:2"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A catalog of ours in which only one machine answers for `web`."""
    made = tmp_path / "catalog.db"
    create_catalog(made, demo_rows())
    change(made, "DELETE FROM machines WHERE app = 'web' AND id <> '3d8d9930b03989'")
    write(made, 1)
    return made


def write(path: Path, number: int) -> None:
    change(path, f"UPDATE machines SET address = '{address(number)}' WHERE id = '3d8d9930b03989'")


def shows(server: Served, number: int) -> bool:
    return addresses(ask(server, "web.internal")) == [address(number)]


def values(path: Path) -> dict[str, bytes]:
    with closing(connect(path)) as connection:
        return {key: value for _, key, value in file_values(connection)}


class Litestream:
    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.replica = path, folder / "replica"
        self.config, self.log = folder / "litestream.yml", folder / "litestream.log"
        self.config.write_text(
            f"dbs:\n  - path: {path}\n    replicas:\n      - type: file\n"
            f"        path: {self.replica}\n        sync-interval: 50ms\n"
        )

    @contextmanager
    def replicating(self, end: signal.Signals = signal.SIGTERM) -> Iterator[None]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [PROGRAM, "replicate", "-config", str(self.config)], stdout=log, stderr=log
            )
        try:
            yield
            assert process.poll() is None, self.log.read_text()
        finally:
            process.send_signal(end)
            process.wait(20)

    def restored(self, to: Path) -> Path:
        to.unlink(missing_ok=True)
        done = subprocess.run(
            [PROGRAM, "restore", "-config", str(self.config), "-o", str(to), str(self.path)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return to

    def has(self, expected: dict[str, bytes], folder: Path) -> bool:
        """Whether what a restore gives now is *expected*."""
        if not self.replica.exists():
            return False
        try:
            return values(self.restored(folder / "probe.db")) == expected
        except AssertionError:
            return False  # no snapshot yet


def test_what_is_restored_is_what_was_written_and_is_served(path: Path, tmp_path: Path) -> None:
    stream = Litestream(path, tmp_path)
    with serving(path) as server, asked(server) as seen:
        until(lambda: shows(server, 1), SOON)
        with stream.replicating():
            for number in range(2, 42):
                write(path, number)
            until(lambda: shows(server, 41), SOON)
            until(lambda: stream.has(values(path), tmp_path), SOON)
        # Killed in the middle, it goes on where it was.
        with stream.replicating(signal.SIGKILL):
            for number in range(42, 60):
                write(path, number)
        write(path, 60)
        with stream.replicating():
            until(lambda: stream.has(values(path), tmp_path), SOON)
        before = values(path)
        write(path, 99)  # is lost with the disk
        until(lambda: shows(server, 99), SOON)
        put_in_place(stream.restored(tmp_path / "new.db"), path)
        until(lambda: shows(server, 60), SOON)
        assert values(path) == before
        loaded = load(path)
        assert (loaded.owned, loaded.fault_count) == (True, 0)
        write(path, 7)  # the restored file is ours to write
        until(lambda: shows(server, 7), SOON)
    assert seen.keys() == {"NOERROR"}
