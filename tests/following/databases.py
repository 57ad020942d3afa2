"""A PostgreSQL server of the test's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.nats_servers import free_ports

# Debian keeps the programs of each version apart.
BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nonexistent"))
PASSWORD = "right-one"

requires_postgres = pytest.mark.skipif(
    not (BIN / "initdb").exists(), reason="postgresql not installed (tests/debian-packages.txt)"
)


class Database:
    """One server on a loopback port, with a superuser `admin` and a database `app`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        (self.port,) = free_ports(1)
        folder.mkdir(parents=True)
        password = folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:  # the server refuses to run as root
            for path in (folder, password):
                shutil.chown(path, "postgres", "postgres")
        self._run(
            BIN / "initdb", "-D", self.data, "-U", "admin", "-A", "scram-sha-256",
            "--pwfile", password, "--no-sync", "-E", "UTF8", "--locale", "C",
        )  # fmt: skip

    def _run(self, *words: object) -> None:
        done = subprocess.run(
            [*_as_owner(), *map(str, words)], capture_output=True, text=True, check=False,
            cwd="/", timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= "
            "-c fsync=off -c max_connections=20"
        )
        self._run(BIN / "pg_ctl", "-D", self.data, "-l", self.folder / "log", "-w", "-o", options,
                  "start")  # fmt: skip

    def stop(self, mode: str = "fast") -> None:
        if (self.data / "postmaster.pid").exists():
            self._run(BIN / "pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def kill(self) -> None:
        """Kill it at once, as a crash would."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)

    def address(self, user: str = "admin", password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/app"


def _as_owner() -> Sequence[str]:
    if os.geteuid():
        return ()
    return ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")


@contextmanager
def database() -> Iterator[Database]:
    # Not below pytest's own directory: that is its user's alone.
    with tempfile.TemporaryDirectory(prefix="internal-dns-postgres-") as folder:
        os.chmod(folder, 0o711)
        made = Database(Path(folder, "server"))
        made.start()
        try:
            yield made
        finally:
            made.stop("immediate")
