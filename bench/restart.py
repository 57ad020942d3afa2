"""Failed and lost queries while a server with a large catalog restarts on inherited sockets.

    400,000 machines, 1,000 queries per second, three restarts, each a second after the
    previous server became ready

A query counts as failed when its reply is SERVFAIL, and as lost when none arrives within 5 s, after
which a resolver retries.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from bench import servers, zones
from bench.machine import ROOT
from bench.results import Case
from bench.servers import Server
from bench.tools import Skipped, say
from bench.zones import query
from internal_dns.net import Endpoint
from internal_dns.transport.listen.sockets import bind_pair

MACHINES: Final = 400_000
APPS: Final = 10_000  # per network
RATE: Final = 1_000
RESTARTS: Final = 3
BETWEEN: Final = 1.0  # seconds of quiet service before the next restart
PATIENCE: Final = 5.0
LAUNCHER: Final = ROOT / "tests" / "live" / "launcher.py"
SERVFAIL: Final = 2


class Asker(threading.Thread):
    """Asks RATE questions per second until `ended` is set, then waits for the last replies."""

    def __init__(self, address: tuple[Any, ...]) -> None:
        super().__init__(daemon=True)
        self.sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.sock.connect(address)
        self.sock.settimeout(0.001)
        self.ended = threading.Event()
        self.sent_at: list[float] = []
        self.replies: dict[int, tuple[float, int]] = {}  # seconds, RCODE

    def run(self) -> None:
        begin, end = time.perf_counter(), 0.0
        while not end or time.perf_counter() < end:
            while not end and len(self.sent_at) < (time.perf_counter() - begin) * RATE:
                number = len(self.sent_at)
                self.sock.send(query(f"app-{number % APPS}.internal", "AAAA", number & 0xFFFF))
                self.sent_at.append(time.perf_counter())
            if self.ended.is_set() and not end:
                end = time.perf_counter() + PATIENCE
            self._receive()

    def _receive(self) -> None:
        try:
            reply = self.sock.recv(4_096)
        except (TimeoutError, ConnectionRefusedError):
            return
        # Fewer than 65,536 are in flight, so the latest query with this ID is the one.
        number = int.from_bytes(reply[:2], "big")
        number += (len(self.sent_at) - 1 - number) // 65_536 * 65_536
        self.replies[number] = time.perf_counter() - self.sent_at[number], reply[3] & 15


def run(directory: Path, *, repetitions: int, short: bool, skipped: Skipped) -> list[Case]:
    """Measure both UDP paths."""
    catalog = directory / "restart.db"
    zones.make_catalog(catalog, MACHINES // 10 if short else MACHINES, APPS)
    cases = []
    for path in servers.PATHS:
        case = Case("restart", f"{path} path · {RESTARTS} restarts, {RATE:,} questions per second")
        for _ in range(repetitions):
            figures = _measure(path, catalog, directory)
            case.repetitions.append(figures)
            say(
                f"  {case.name}: {figures['servfail']} SERVFAIL and {figures['lost']} lost of "
                f"{figures['sent']}; slowest {figures['max_ms']:,.0f} ms, "
                f"loads {', '.join(f'{s:.1f}' for s in figures['ready_seconds'])} s"
            )
        cases.append(case)
    return cases


def _measure(path: str, catalog: Path, directory: Path) -> dict[str, Any]:
    udp, tcp = bind_pair(Endpoint.parse("[::1]:0"))
    with udp, tcp:
        server, _ = _start(path, catalog, directory, (udp, tcp))
        asker = Asker(udp.getsockname())
        asker.start()
        took = []
        for _ in range(RESTARTS):
            time.sleep(BETWEEN)
            server.stop()
            server, seconds = _start(path, catalog, directory, (udp, tcp))
            took.append(seconds)
        time.sleep(BETWEEN)
        asker.ended.set()
        asker.join()
        server.stop()
    sent, replies = len(asker.sent_at), asker.replies.values()
    in_time = [rcode for seconds, rcode in replies if seconds <= PATIENCE]
    return {
        "sent": sent,
        "servfail": in_time.count(SERVFAIL),
        "lost": sent - len(in_time),
        "loss": 100 * (sent - len(in_time)) / sent,
        "not_ready": in_time.count(SERVFAIL),
        "max_ms": 1000 * max(seconds for seconds, _ in replies),
        "ready_seconds": took,
        "ready_s": max(took),
    }


def _start(
    path: str, catalog: Path, directory: Path, sockets: tuple[socket.socket, ...]
) -> tuple[Server, float]:
    """Start a server on *sockets*; return it once it is ready, and how long that took."""
    nothing = directory / "nothing.toml"
    nothing.write_text("")
    begin = time.monotonic()
    numbers = [sock.fileno() for sock in sockets]
    for number in numbers:
        os.set_inheritable(number, True)
    words = (
        sys.executable, str(LAUNCHER), ",".join(map(str, numbers)),
        sys.executable, "-m", "internal_dns", "serve", "--config", str(nothing),
        "--catalog", str(catalog), "--admin", "none", "--upstream", "none",
        "--map-source", f"::1/128={zones.NETWORK}", *servers.path_words(path),
    )  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("INTERNAL_DNS_")}
    server = Server(
        f"internal-dns, {path} path",
        words,
        directory,
        environment=environment | {"PYTHONPATH": str(ROOT)},
        close_fds=False,
    )
    server.wait_for_line(re.escape("ready "))
    return server, time.monotonic() - begin
