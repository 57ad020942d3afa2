"""Start a server on one core and loopback, know what it costs, end it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from bench.machine import ROOT, SERVER_CORE
from bench.tools import Missing
from bench.zones import NETWORK, query

START_TIMEOUT: Final = 60
TICK: Final = os.sysconf("SC_CLK_TCK")


class Server:
    """One running server process with all its children, pinned to SERVER_CORE."""

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        directory: Path,
        *,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.port = name, port
        self.log = directory / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["taskset", "--cpu-list", str(SERVER_CORE), *words],
                cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """Wait until the server's output matches. Raises Missing when it ends before, or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(pattern, self.log.read_text(errors="replace")):
                return found
            time.sleep(0.02)
        raise self._did_not_start()

    def wait_for_answer(self, name: str, count: int) -> None:
        """Wait until AAAA of *name* has *count* records, so that nobody measures a server that answers nothing."""
        deadline = time.monotonic() + START_TIMEOUT
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.2)
            sock.connect(("::1", self.port))
            while time.monotonic() < deadline and self.process.poll() is None:
                try:
                    sock.send(query(name, "AAAA", 0x1D05))
                    reply = sock.recv(4096)
                except OSError:  # not there yet
                    time.sleep(0.05)
                    continue
                if reply[:2] == b"\x1d\x05" and not reply[3] & 15 and int.from_bytes(reply[6:8], "big") == count:
                    return
                time.sleep(0.05)
        raise self._did_not_start()

    def _did_not_start(self) -> Missing:
        self.stop()
        lines = self.log.read_text(errors="replace").strip().splitlines() or ["no output"]
        return Missing(f"{self.name} did not start to answer: {' / '.join(lines[-3:])}")

    def cpu_seconds(self) -> float:
        """User and system time of all threads of the process and its children so far."""
        stats = _all_stats()
        family, grown = {self.process.pid}, True
        while grown:
            more = {pid for pid, (parent, _) in stats.items() if parent in family} - family
            family |= more
            grown = bool(more)
        return sum(stats[pid][1] for pid in family if pid in stats) / TICK

    def status_mib(self, field: str) -> float:
        """A size of the process from /proc/PID/status, such as VmRSS."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024  # in kB

    def stop(self) -> None:
        """End it: SIGTERM, and after 10 s SIGKILL."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _all_stats() -> dict[int, tuple[int, int]]:
    """Every process's parent and ticks of CPU, by process id."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                # The second field is the name in brackets, which may hold anything.
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            found[int(entry)] = int(fields[1]), int(fields[11]) + int(fields[12])
    return found


def ours(
    catalog: Path,
    directory: Path,
    *,
    wildcard: bool = False,
    name: str = "",
    port: int = 0,
    wait: bool = True,
    answering: bool = True,
) -> Server:
    """Start internal-dns on *port*, or one of the system's choice; loopback asks as the first network.

    It is waited for (*wait*) until it is ready, and until it answers, unless its catalog has nothing (*answering*).
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("INTERNAL_DNS_")}
    environment["PYTHONPATH"] = str(ROOT)
    nothing = directory / "nothing.toml"  # or else a file in /etc would count
    nothing.write_text("")
    host = "[::]" if wildcard else "[::1]"
    words = (
        sys.executable, "-m", "internal_dns", "serve", "--config", str(nothing), "--catalog", str(catalog),
        "--listen", f"{host}:{port}", "--upstream", "none", "--admin", "none", "--map-source", f"::1/128={NETWORK}",
    )  # fmt: skip
    server = Server(name or f"internal-dns {host}", words, directory, port=port, environment=environment)
    if wait:
        server.port = int(server.wait_for_line(rf"(?m)^ready .*?{re.escape(host)}:(\d+)")[1])
        if answering:
            server.wait_for_answer("app-1.internal", 3)
    return server


def free_port() -> int:
    """A port of ::1 that is free for UDP and TCP at the moment."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as tcp:
        tcp.bind(("::1", 0))
        port: int = tcp.getsockname()[1]
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
            udp.bind(("::1", port))
        return port
