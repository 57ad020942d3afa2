"""Start a server on one core and loopback, measure its cost, and stop it."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final

from bench.machine import CORES, ROOT, SERVER_CORE
from bench.programs import built
from bench.tools import Missing
from bench.zones import NETWORK, query

START_TIMEOUT: Final = 60
TICK: Final = os.sysconf("SC_CLK_TCK")


class Server:
    """One running server process with all its children, pinned to one core."""

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        directory: Path,
        *,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        core: int = SERVER_CORE,
        fixed: bool = False,
        host: str = "::1",
        close_fds: bool = True,
    ) -> None:
        self.name, self.port, self.host = name, port, host
        self.fixed = fixed  # the same reply to every query: its RCODEs mean nothing
        self.log = directory / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *words],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                close_fds=close_fds,
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """Wait until the server's output matches. Raises Missing when it ends or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(pattern, self.log.read_text(errors="replace")):
                return found
            time.sleep(0.02)
        raise self._did_not_start()

    def wait_for_answer(self, name: str, count: int, source: str = "") -> None:
        """Wait until the AAAA query for *name* returns *count* records."""
        deadline = time.monotonic() + START_TIMEOUT
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.2)
            if source:
                sock.bind((source, 0))
            sock.connect((self.host, self.port))
            while time.monotonic() < deadline and self.process.poll() is None:
                try:
                    sock.send(query(name, "AAAA", 0x1D05))
                    reply = sock.recv(4096)
                except OSError:  # not there yet
                    time.sleep(0.05)
                    continue
                if (
                    reply[:2] == b"\x1d\x05"
                    and not reply[3] & 15
                    and int.from_bytes(reply[6:8], "big") == count
                ):
                    return
                time.sleep(0.05)
        raise self._did_not_start()

    def _did_not_start(self) -> Missing:
        self.stop()
        lines = self.log.read_text(errors="replace").strip().splitlines() or ["no output"]
        return Missing(f"{self.name} did not start to answer: {' / '.join(lines[-3:])}")

    def pin(self, cores: Sequence[int]) -> None:
        """Allow the server and its children to use these cores: for several workers."""
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), set(cores))

    def cpu_seconds(self) -> float:
        """Return user plus system time of the process and its children, with all threads."""
        stats = _all_stats()
        return sum(stats[pid][1] for pid in self._family(stats) if pid in stats) / TICK

    def exact_cpu_seconds(self) -> float:
        """Return the same from the scheduler, to the microsecond: for loads that are short.

        It lacks threads that have ended.
        """
        return sum(
            int(task.read_text().split()[0])
            for pid in self._family(_all_stats())
            for task in Path(f"/proc/{pid}/task").glob("*/schedstat")
        ) / 1e9  # fmt: skip

    def _family(self, stats: Mapping[int, tuple[int, int]]) -> set[int]:
        """Return the process and all that descend from it."""
        family, grown = {self.process.pid}, True
        while grown:
            more = {pid for pid, (parent, _) in stats.items() if parent in family} - family
            family |= more
            grown = bool(more)
        return family

    def status_mib(self, field: str) -> float:
        """Return a size from /proc/PID/status, such as VmRSS."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return (
            int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024
        )  # in kB

    def stop(self) -> None:
        """Stop the server: SIGTERM, and after 10 s SIGKILL."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _all_stats() -> dict[int, tuple[int, int]]:
    """Return parent and CPU ticks of every process, by process ID."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                # The second field is the name in parentheses, which may contain anything.
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            found[int(entry)] = int(fields[1]), int(fields[11]) + int(fields[12])
    return found


PATHS: Final = ("native", "python")


@cache
def option(words: str) -> bool:
    """Whether `serve` has the option *words* (--udp-path, --workers)."""
    said = subprocess.run(
        [sys.executable, "-m", "internal_dns", "serve", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return words in said.stdout


def best_path() -> str:
    """Return the UDP path to measure where one is enough: native if it is built and starts."""
    return "native" if _has_native() else "python"


@cache
def _has_native() -> bool:
    return (
        option("--udp-path")
        and importlib.util.find_spec("internal_dns.transport.native.fast") is not None
    )


def path_words(path: str) -> tuple[str, ...]:
    """Return the option for a UDP path. Raises Missing when it is not built."""
    if path == "native" and not _has_native():
        raise Missing("not built: internal_dns.transport.native.fast is not there")
    return ("--udp-path", path) if option("--udp-path") else ()


def ours(
    catalog: Path,
    directory: Path,
    *,
    wildcard: bool = False,
    host: str = "::1",
    name: str = "",
    port: int = 0,
    wait: bool = True,
    answering: bool = True,
    source: str = "",
    path: str = "",
    workers: int = 0,
    upstreams: Sequence[str] = ("none",),
    admin: str = "none",
    more: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Start internal-dns on *port*, or one of the system's choice; loopback asks as the first
    network.

    It is waited for (*wait*) until it is ready, and until it answers *source*, unless its catalog
    has nothing (*answering*). *path* "": the best that is built. Raises Missing.
    """
    path = path or best_path()
    variables = {
        key: value for key, value in os.environ.items() if not key.startswith("INTERNAL_DNS_")
    }
    variables |= {"PYTHONPATH": str(ROOT), **(environment or {})}
    nothing = directory / "nothing.toml"  # else a file in /etc would apply
    nothing.write_text("")
    listen = "[::]" if wildcard else f"[{host}]"
    words = (
        sys.executable,
        "-m",
        "internal_dns",
        "serve",
        "--config",
        str(nothing),
        "--catalog",
        str(catalog),
        "--listen",
        f"{listen}:{port}",
        "--admin",
        admin,
        "--map-source",
        f"::1/128={NETWORK}",
        *(word for upstream in upstreams for word in ("--upstream", upstream)),
        *path_words(path),
        *(("--workers", str(workers)) if workers else ()),
        *more,
    )
    name = name or f"internal-dns, {path} path, {listen}"
    server = Server(name, words, directory, port=port, environment=variables, host=host)
    if wait:
        server.port = int(server.wait_for_line(rf"(?m)^ready .*?{re.escape(listen)}:(\d+)")[1])
        if answering:
            server.wait_for_answer("app-1.internal", 3, source)
    return server


def upstream(directory: Path, delay_ms: int) -> Server:
    """Start upstream.c on a core without a server. `asked` of the result counts queries. Raises
    Missing."""
    port, count = free_port(), directory / f"upstream-{delay_ms}.count"
    words = [built("upstream", directory), str(port), str(delay_ms), str(count)]
    # A due reply must not wait for a generator on the same core.
    words = [*in_front(1), *words]
    server = Server(
        f"upstream of {delay_ms} ms", words, directory, port=port, core=CORES[1 % len(CORES)]
    )
    server.wait_for_answer("upstream.test", 1)
    return server


def asked(directory: Path, delay_ms: int) -> int:
    """Return how many queries the upstream has received."""
    return int.from_bytes((directory / f"upstream-{delay_ms}.count").read_bytes(), "little")


def floor(directory: Path, *, pktinfo: bool) -> Server:
    """Start floor.c. Raises Missing without a compiler."""
    port = free_port()
    words = [built("floor", directory), str(port), *(["pktinfo"] if pktinfo else [])]
    server = Server(
        "floor, packet info" if pktinfo else "floor", words, directory, port=port, fixed=True
    )
    server.wait_for_answer("app-1.internal", 3)
    return server


def in_front(priority: int) -> list[str]:
    """Return the command prefix that, as root, gives a program priority on its core."""
    return ["chrt", "--fifo", str(priority)] if os.geteuid() == 0 else []


def undisturbed(niceness: int) -> list[str]:
    """Return the command prefix that, as root, keeps other programs of the machine off the core.

    Where the kernel groups programs by session (autogroup), only the group's niceness counts.
    """
    if os.geteuid() != 0:
        return []
    group = "/proc/self/autogroup"
    said = f'[ ! -w {group} ] || echo {niceness} > {group}; exec nice -n {niceness} "$@"'
    return ["setsid", "sh", "-c", said, "sh"]


def more_descriptors(wanted: int = 65_536) -> None:
    """Raise the descriptor limit of child processes to that of the systemd unit, if allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = hard == resource.RLIM_INFINITY
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(soft, wanted if infinite else min(wanted, hard)), hard)
    )


def free_port() -> int:
    """Return a port of ::1 that is free for UDP and TCP."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as tcp:
        tcp.bind(("::1", 0))
        port: int = tcp.getsockname()[1]
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
            udp.bind(("::1", port))
        return port
