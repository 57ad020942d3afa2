"""The effect on a neighbor when one tenant attacks with few but expensive queries.

Server, attacker and neighbor have a network namespace each, joined by veth, with real addresses:
the attacker queries as network 0x18, the neighbor as 0x19. The upstream and the program that polls
`/readyz` are in the server's namespace. The neighbor queries new names over UDP and TCP, and
external names, each at a fixed rate; first without an attack, then under each one. The server has
its own core; all others share another. As root, both cores are kept from other programs (nice),
without which the neighbor's wait is theirs. Without root, all runs on one host, over loopback.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import servers, zones
from bench.machine import LOAD_CORE, ROOT
from bench.network import Client, Network, tenants
from bench.results import Case
from bench.servers import Server
from bench.tools import Missing, Skipped, say

ATTACKER, NEIGHBOR = 0x18, 0x19
P99_TIMES: Final = 6  # limit of the neighbor's p99 under attack, relative to that without
P99_MS: Final = 60.0
READY_MS: Final = 100.0
AFTER: Final = 1.0  # seconds that the neighbor continues after the attack
READY_TIMEOUT: Final = 60


class Attack(NamedTuple):
    """One attack: its name, its keyword for bench.attacker, and the number of machines."""

    words: str
    kind: str
    machines: int


ATTACKS: Final = (
    Attack("1,000 pipelined pages past the end over TCP", "pages", 4_000),
    Attack("1,000 pipelined pages past the end over TCP", "pages", 50_000),
    Attack("_instances with a COOKIE over UDP, 400 per second", "cookie", 4_000),
    Attack("_instances with a COOKIE over UDP, 400 per second", "cookie", 50_000),
    Attack("new names over 8 TCP connections, 1 MB per second", "streams", 4_000),
    Attack("new names over UDP, 20,000 per second", "new", 4_000),
    Attack("a cached reply of 64 KB that does not fit, 400 per second", "large", 4_000),
    Attack("PTR after a change of the network, twice per second", "reverse", 50_000),
    Attack("100,000 machines changed in one commit", "commit", 100_000),
)


def run(
    directory: Path, *, seconds: float, repetitions: int, short: bool, skipped: Skipped
) -> list[Case]:
    """Measure every attack on both UDP paths."""
    cases: list[Case] = []
    sizes = sorted({attack.machines for attack in ATTACKS})
    for machines in sizes[:1] if short else sizes:
        catalog = directory / f"attack-{machines}.db"
        zones.make_catalog(catalog, 2 * machines, -(-machines // zones.MACHINES_PER_APP))
        attacks = [attack for attack in ATTACKS if attack.machines == machines]
        with tenants([ATTACKER, NEIGHBOR]) as network, _upstream(directory) as upstream:
            for path in servers.PATHS:
                cases += _path(
                    path, catalog, directory, attacks, network, upstream, seconds, repetitions,
                    skipped,
                )  # fmt: skip
    return cases


def _path(
    path: str,
    catalog: Path,
    directory: Path,
    attacks: list[Attack],
    network: Network,
    upstream: str,
    seconds: float,
    repetitions: int,
    skipped: Skipped,
) -> list[Case]:
    """Measure *attacks* on one UDP path, each on its own server."""
    attacker, neighbor = network.clients
    cases = []
    for attack in attacks:
        name = f"{path} path, {attack.machines:,} machines · {attack.words}"
        case = Case("attack", name, [], f"{path} path", f"{attack.words}, {attack.machines:,}")
        for _ in range(repetitions):
            try:
                server, admin = _server(path, catalog, directory, network, upstream)
            except Missing as reason:
                skipped.add(name, reason)
                break
            with server:
                quiet = _neighbor(neighbor, server, admin, seconds)
                with _attacker(attack.kind, attacker, server, catalog, seconds):
                    attacked = _neighbor(neighbor, server, admin, seconds + AFTER)
                figures = _figures(quiet, attacked, _slices(admin))
                case.repetitions.append(figures)
                say(f"  {name}: {_in_words(figures)}")
        cases.append(case)
    return cases


def _figures(
    quiet: dict[str, Any], attacked: dict[str, Any], slices: dict[str, float]
) -> dict[str, Any]:
    """Return the worst of the three kinds of query, and the figures of each."""
    kinds = quiet["kinds"].keys()
    p99 = {kind: attacked["kinds"][kind]["p99_ms"] for kind in kinds}
    before = {kind: quiet["kinds"][kind]["p99_ms"] for kind in kinds}
    ratio = max(p99[kind] / before[kind] for kind in kinds)
    lost = sum(attacked["kinds"][kind]["lost"] for kind in kinds)
    sent = sum(attacked["kinds"][kind]["sent"] for kind in kinds)
    missed = [
        f"{lost} lost" * bool(lost),
        f"p99 {ratio:.1f} × quiet" * (ratio > P99_TIMES),
        f"p99 {max(p99.values()):.0f} ms" * (max(p99.values()) > P99_MS),
        f"/readyz {attacked['readyz_ms']:.0f} ms" * (attacked["readyz_ms"] > READY_MS),
    ]
    return {
        "quiet": quiet,
        "attacked": attacked,
        "slices": slices,
        "loss": 100 * lost / sent,
        "lost": lost,
        "p99_ms": max(p99.values()),
        "p99_ratio": ratio,
        "max_ms": max(attacked["kinds"][kind]["max_ms"] for kind in kinds),
        "readyz_ms": attacked["readyz_ms"],
        "note": "; ".join(filter(None, missed)),
    }


def _in_words(figures: dict[str, Any]) -> str:
    kinds = "; ".join(
        f"{kind} p99 {figures['quiet']['kinds'][kind]['p99_ms']:.1f} → {after['p99_ms']:.1f} ms, "
        f"{after['lost']} of {after['sent']} lost"
        for kind, after in figures["attacked"]["kinds"].items()
    )
    return (
        f"{kinds}; /readyz {figures['readyz_ms']:.0f} ms; longest slice "
        f"{1000 * figures['slices'].get('longest', 0):.1f} ms"
        + (f" · MISSED: {figures['note']}" if figures["note"] else "")
    )


# ── participants ────────────────────────────────────────────────────────────────────────────────


def _server(
    path: str, catalog: Path, directory: Path, network: Network, upstream: str
) -> tuple[Server, str]:
    """Start internal-dns with an admin port; return it and the URL. Raises Missing."""
    nothing = directory / "nothing.toml"
    nothing.write_text("")
    port, neighbor = servers.free_port(), network.clients[1]
    listen = f"[{network.server}]" if ":" in network.server else network.server
    environment = {k: v for k, v in os.environ.items() if not k.startswith("INTERNAL_DNS_")}
    words = (
        *servers.undisturbed(-20), sys.executable, "-m", "internal_dns", "serve",
        "--config", str(nothing),
        "--catalog", str(catalog), "--listen", f"{listen}:0", "--upstream", upstream,
        "--admin", f"[::1]:{port}", *network.server_words, *servers.path_words(path),
    )  # fmt: skip
    server = Server(
        f"internal-dns, {path} path",
        words,
        directory,
        environment=environment | {"PYTHONPATH": str(ROOT)},
        host=neighbor.host,
    )
    server.port = int(server.wait_for_line(rf"(?m)^ready .*?{re.escape(listen)}:(\d+)")[1])
    with neighbor.entered():
        server.wait_for_answer("app-1.internal", zones.MACHINES_PER_APP, neighbor.source)
    return server, f"http://[::1]:{port}"


def _slices(admin: str) -> dict[str, float]:
    """Return the server's event-loop metrics; nothing when it has none."""
    with (
        suppress(OSError),
        urllib.request.urlopen(f"{admin}/metrics", timeout=READY_TIMEOUT) as got,
    ):
        text = got.read().decode()
        found = re.findall(r"(?m)^internal_dns_event_loop_(\w+?)(?:_total)? (\S+)$", text)
        figures = {key: float(value) for key, value in found}
        longest = figures.get("longest_slice_seconds", 0.0)
        return {"longest": longest, "long": figures.get("long_slices", 0.0)}
    return {}


def _words(module: str, *words: object) -> list[str]:
    core = ["taskset", "--cpu-list", str(LOAD_CORE)]
    return [*core, sys.executable, "-m", module, *map(str, words)]


def _neighbor(neighbor: Client, server: Server, admin: str, seconds: float) -> dict[str, Any]:
    """Run the neighbor and the poller of `/readyz` for *seconds*; return their figures."""
    asked = _words("bench.neighbor", neighbor.source, server.host, server.port, seconds)
    polled = _words("bench.neighbor", "readyz", admin, seconds)
    # Real-time priority: their own delays must not count, nor that one of them starts.
    with (
        _started([*servers.in_front(2), *neighbor.within(), *asked]) as asking,
        _started([*servers.in_front(1), *polled]) as polling,
    ):
        return _said(asking, seconds) | _said(polling, seconds)


def _started(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _said(process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    """Return the figures that *process* prints within its time. Raises Missing."""
    try:
        out, errors = process.communicate(timeout=seconds + 2 * READY_TIMEOUT)
    finally:
        process.kill()
    if process.returncode:
        raise Missing(f"the neighbor ended with {process.returncode}: {errors[-300:]}")
    figures: dict[str, Any] = json.loads(out)
    return figures


@contextmanager
def _attacker(
    kind: str, attacker: Client, server: Server, catalog: Path, seconds: float
) -> Iterator[None]:
    """Run the attack during the body."""
    words = [
        *servers.undisturbed(-15),
        *attacker.within(),
        *_words(
            "bench.attacker", kind, attacker.source, attacker.network, server.host, server.port,
            catalog, seconds,
        ),
    ]  # fmt: skip
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL) as process:
        try:
            time.sleep(0.2)  # for the start of its interpreter
            yield
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _upstream(directory: Path) -> Iterator[str]:
    """Run the upstream of bench.attacker; yield its address."""
    port = servers.free_port()
    with Server(
        # In front of all who use the same core: its own delays must not count.
        "upstream", [*servers.in_front(3), *_words("bench.attacker", "upstream", port)[3:]],
        directory, port=port,
        environment=dict(os.environ) | {"PYTHONPATH": str(ROOT)}, core=LOAD_CORE, fixed=True,
    ) as server:  # fmt: skip
        server.wait_for_answer("upstream.test", 1)
        yield f"[::1]:{port}"
