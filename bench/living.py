"""A catalog that changes while it is served: the delay until an answer changes, seen from a client,
and the effect on other queries."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from bench import servers, zones
from bench.asker import NOERROR, SERVFAIL, Asker, first_in_line, with_edns
from bench.churn import churn
from bench.loads import MAX_LOSS, busy_cores, children_cpu
from bench.machine import ROOT
from bench.results import FIGURES, Case
from bench.servers import Server
from bench.tools import say
from internal_dns.store.generate import create_catalog, sized_rows

NETWORK: Final = 0x18  # the network of zones.NETWORK, which loopback queries as
VISIBLE_WITHIN: Final = 5.0  # seconds
APPLY_WITHIN: Final = 60.0
NOT_READY: Final = 14  # extended DNS error code
CHURNS: Final = (
    ("idle", 0, 0),
    ("100 commits per second", 100, 1),
    ("10 commits of 100 rows per second", 10, 100),
)
RATE: Final = 2_000  # questions per second beside churn
NAMES: Final = 1_000  # different names, all in the answer table
DOCUMENT: Final = 10_000  # machines
JOURNAL: Final = 100_000  # rows that internal-dns keeps; other programs do not trim


def run(directory: Path, *, seconds: float, repetitions: int, short: bool) -> list[Case]:
    """Measure everything."""
    changes = 100 if short else 500
    small, large, largest = (
        (directory / f"living-{machines}.db", machines) for machines in (10_000, 100_000, 1_000_000)
    )
    cases = []
    for path, machines in (small, large):
        _make(path, machines)
        cases += _visible(path, machines, directory, changes, repetitions)
    cases += _beside(large[0], directory, max(seconds, 2.0), repetitions)
    cases.append(_long_journal(large[0], directory, changes, repetitions))
    for path, machines in (small, large):
        cases.append(_foreign(path, machines, directory, 10 if short else 30, repetitions))
    _make(*largest)
    cases += _million(largest[0], directory, 10 if short else 50, 1 if short else repetitions)
    cases += _applied(directory, repetitions)
    return cases


def _make(path: Path, machines: int) -> None:
    say(f"  living: creating a catalog of {machines:,} machines")
    zones.make_catalog(path, machines)


# ── commit to visible ─────────────────────────────────────────────────────────────────────────────


def _visible(
    path: Path, machines: int, directory: Path, changes: int, repetitions: int
) -> list[Case]:
    cases = [
        Case("living", f"commit → visible, {machines:,} machines · {words}") for words, *_ in CHURNS
    ]
    with servers.ours(path, directory) as server:
        for repetition in range(repetitions):
            for case, (_, commits, rows) in zip(cases, CHURNS, strict=True):
                _repeat(case, partial(_changes, server, path, changes, repetition, (commits, rows)))
    return cases


def _long_journal(path: Path, directory: Path, changes: int, repetitions: int) -> Case:
    """Measure with a full journal, which must not slow down other readers."""
    with closing(sqlite3.connect(path)) as connection:
        words = "INSERT INTO journal (kind, network_id, label) VALUES ('app', ?, ?)"
        connection.executemany(words, ((NETWORK, f"app-{n % 1000}") for n in range(JOURNAL)))
        connection.commit()
    case = Case(
        "living", f"commit → visible, 100,000 machines · idle, {JOURNAL:,} rows in the journal"
    )
    with servers.ours(path, directory) as server:
        for repetition in range(repetitions):
            _repeat(case, partial(_changes, server, path, changes, repetition))
    return case


def _foreign(path: Path, machines: int, directory: Path, changes: int, repetitions: int) -> Case:
    """Measure a file of another engine: without our journal, read whole after each commit."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        triggers = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for (name,) in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("DROP TABLE journal")
    case = Case("living", f"commit → visible, {machines:,} machines · no journal, idle")
    with servers.ours(path, directory) as server:
        for repetition in range(repetitions):
            _repeat(case, partial(_changes, server, path, changes, repetition))
    return case


def _changes(
    server: Server, path: Path, changes: int, repetition: int, churned: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    """Stop and start machines; after each commit, query until the answer changes."""
    random = Random(zones.SEED + repetition)
    seen, commits, late = list[float](), list[float](), 0
    with (
        _disturbance(server) as disturbed,
        churn(path, *churned) as other,
        first_in_line() as first,
        Asker(server.port) as asker,
        closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as connection,
    ):
        connection.execute("PRAGMA synchronous = NORMAL")
        # the even ones; the others are churn.py's
        ours = "SELECT id FROM machines ORDER BY id LIMIT 20000"
        even = [row[0] for row in connection.execute(ours)][::2]
        marks = ", ".join("?" * min(500, len(even)))
        rows = connection.execute(
            f"SELECT id, app FROM machines WHERE network_id = ? AND state = 'started' AND id IN "
            f"({marks})",
            (NETWORK, *random.sample(even, min(500, len(even)))),
        ).fetchall()
        for n in range(changes):
            # Each machine stops and starts, so that the next repetition finds the same catalog.
            identifier, app = rows[n // 2 % len(rows)]
            octets, count = zones.query(f"{identifier}.vm.{app}.internal", "AAAA"), n % 2
            asker.ask(octets)  # so that a stored reply must be invalidated
            connection.execute("BEGIN IMMEDIATE")
            state = "started" if count else "stopped"
            connection.execute("UPDATE machines SET state = ? WHERE id = ?", (state, identifier))
            began = time.perf_counter()
            connection.execute("COMMIT")
            ended = time.perf_counter()
            at = asker.until(octets, count, VISIBLE_WITHIN)
            late += at is None
            seen.append((at or time.perf_counter()) - ended)
            commits.append(ended - began)
            time.sleep(
                random.uniform(0, 0.02)
            )  # a random phase, as the server polls at an interval
    return {
        "changes": changes,
        **_quantiles(seen, 1e3, "ms"),
        "commit_p50_ms": _quantile(commits, 0.5) * 1e3,
        "lost_looks": asker.lost,
        "other": other,
        "first_in_line": first,
        **disturbed,
        "void": f"{late} changes were not visible within {VISIBLE_WITHIN:.0f} s"
        if late
        else other.get("late", ""),
    }


# ── effect on queries ─────────────────────────────────────────────────────────────────────


def _beside(path: Path, directory: Path, seconds: float, repetitions: int) -> list[Case]:
    """Measure the same queries on an idle catalog and during changes."""
    words = f"{RATE:,} questions per second, 100,000 machines"
    idle, busy = (
        Case("living", f"{words} · idle"),
        Case("living", f"{words} · 100 commits per second"),
    )
    ratio = Case("living", f"{words} · the second over the first")
    random, apps = Random(zones.SEED), list(zones.first_zone())
    questions = [zones.query(f"{app}.internal", "AAAA") for app in random.sample(apps, NAMES)]
    with servers.ours(path, directory) as server:
        with Asker(server.port) as asker:
            for octets in questions:
                asker.ask(octets)
        for _ in range(repetitions):
            _repeat(idle, partial(_at_rate, server, path, questions, seconds, 0))
            _repeat(busy, partial(_at_rate, server, path, questions, seconds, 100))
            before, during = idle.repetitions[-1], busy.repetitions[-1]
            void = before["void"] or during["void"]
            ratios = (
                {}
                if void
                else {f"{q}_ratio": during[f"{q}_us"] / before[f"{q}_us"] for q in ("p50", "p99")}
            )
            ratio.repetitions.append({**ratios, "void": void})
    return [idle, busy, ratio]


def _at_rate(
    server: Server, path: Path, questions: Sequence[bytes], seconds: float, commits: int
) -> dict[str, Any]:
    with (
        _disturbance(server) as disturbed,
        churn(path, commits, 1) as other,
        first_in_line() as first,
        Asker(server.port) as asker,
    ):
        told = asker.at_rate(questions, RATE, seconds)
    latencies = told.pop("latencies")
    loss = 100 * told["lost"] / told["sent"]
    void = (
        f"{loss:.1f} % lost"
        if loss > MAX_LOSS
        else "nothing was answered"
        if not latencies
        else other.get("late", "")
    )
    quantiles = _quantiles(latencies, 1e6, "us") if latencies else {}
    return {
        **told,
        "loss": loss,
        **quantiles,
        "other": other,
        "first_in_line": first,
        **disturbed,
        "void": void,
    }


# ── a million ─────────────────────────────────────────────────────────────────────────────────────


def _million(path: Path, directory: Path, changes: int, repetitions: int) -> list[Case]:
    started = Case("living", "1,000,000 machines · from exec to ready")
    visible = Case("living", "commit → visible, 1,000,000 machines · idle")
    for repetition in range(repetitions):
        port, began = servers.free_port(), time.perf_counter()
        with servers.ours(path, directory, port=port, wait=False) as server:
            _repeat(started, partial(_until_ready, server, began))
            if not started.repetitions[-1]["void"]:
                _repeat(visible, partial(_changes, server, path, changes, repetition))
    return [started, visible]


def _until_ready(server: Server, began: float) -> dict[str, Any]:
    """Query from the start: first no server, then SERVFAIL with EDE 14, then the answer."""
    octets, answer = with_edns("app-1.internal", "AAAA"), None
    absent, not_ready, otherwise, slowest, first_reply = 0, 0, list[str](), 0.0, None
    with _disturbance(server) as disturbed, first_in_line() as first, Asker(server.port) as asker:
        while time.perf_counter() < began + servers.START_TIMEOUT and server.process.poll() is None:
            asked = time.perf_counter()
            try:
                answer = asker.ask(octets, patience=5)
            except ConnectionRefusedError:
                absent += 1
                time.sleep(0.002)
                continue
            first_reply = first_reply or time.perf_counter() - began
            slowest = max(slowest, time.perf_counter() - asked)
            if answer is not None and answer.rcode == NOERROR and answer.records:
                break
            if answer is not None and answer.rcode == SERVFAIL and NOT_READY in answer.ede:
                not_ready += 1
            else:
                otherwise.append(str(answer))
            time.sleep(0.002)
        ready = time.perf_counter() - began
    good = answer is not None and answer.rcode == NOERROR
    return {
        "ready_s": ready,
        "first_reply_s": first_reply,
        "not_ready": not_ready,
        "slowest_ms": slowest * 1e3,
        "refused": absent,
        "otherwise": otherwise[:10],
        "rss_mib": server.status_mib("VmRSS"),
        "peak_mib": server.status_mib("VmHWM"),
        "first_in_line": first,
        **disturbed,
        "void": ""
        if good and not otherwise
        else f"not ready, or otherwise answered: {otherwise[:1]}",
    }


# ── apply ─────────────────────────────────────────────────────────────────────────────────────────


def _applied(directory: Path, repetitions: int) -> list[Case]:
    document = directory / "document.json"
    document.write_text(json.dumps(_document()))
    first = Case("living", f"apply a document of {DOCUMENT:,} machines")
    again = Case("living", "apply it again")
    for repetition in range(repetitions):
        path = directory / f"applied-{repetition}.db"
        create_catalog(path, {"regions": sized_rows(1)["regions"]})
        with servers.ours(path, directory, answering=False) as server:
            _repeat(first, partial(_apply, server, path, document, changing=True))
            _repeat(again, partial(_apply, server, path, document, changing=False))
    return [first, again]


def _document() -> dict[str, Any]:
    apps: dict[str, Any] = {}
    for identifier, _, app, address, region, group, state, *_ in sized_rows(
        DOCUMENT, zones.SEED, DOCUMENT
    )["machines"]:
        machine = {
            "id": identifier,
            "address": address,
            "region": region,
            "group": group,
            "state": state,
        }
        apps.setdefault(str(app), {"machines": []})["machines"].append(machine)
    return {"networks": {"acme": {"id": NETWORK, "apps": apps}}}


def _apply(server: Server, path: Path, document: Path, *, changing: bool) -> dict[str, Any]:
    """Run the command with --wait, until the server answers from the document; query meanwhile."""
    command = [
        sys.executable,
        "-m",
        "internal_dns",
        "apply",
        str(document),
        "--catalog",
        str(path),
        "--wait",
        "--json",
    ]
    slowest, octets = 0.0, zones.query("no-app.internal", "AAAA")
    with (
        _disturbance(server) as disturbed,
        Asker(server.port) as asker,
        (path.with_suffix(".out")).open("w+") as out,
    ):
        began = time.perf_counter()
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out) as process:
            while process.poll() is None and time.perf_counter() < began + APPLY_WITHIN:
                asked = time.perf_counter()
                asker.ask(octets, patience=5)
                slowest = max(slowest, time.perf_counter() - asked)
                time.sleep(0.002)
            wall = time.perf_counter() - began
            if process.poll() is None:
                process.kill()
        out.seek(0)
        said = json.loads(out.read() or "{}")
    wrong = (
        process.returncode != 0 or not said.get("visible") or (said.get("rows", 0) > 0) != changing
    )
    void = (
        f"exit {process.returncode}, {said.get('rows')} rows, visible: {said.get('visible')}"
        if wrong
        else ""
    )
    return {
        "wall_s": wall,
        "rows": said.get("rows"),
        "slowest_ms": slowest * 1e3,
        **disturbed,
        "void": void,
    }


# ── all of them ───────────────────────────────────────────────────────────────────────────────────


def _repeat(case: Case, measured: Callable[[], dict[str, Any]]) -> None:
    case.repetitions.append(measured())
    told = case.repetitions[-1]
    figures = ", ".join(
        f"{words} {told[figure]:,.{decimals}f}{unit and ' ' + unit}"
        for figure, (words, unit, decimals) in FIGURES.items()
        if told.get(figure) is not None
    )
    say(f"  {case.name}: {figures}" + (f" VOID: {told['void']}" if told["void"] else ""))


@contextmanager
def _disturbance(server: Server) -> Iterator[dict[str, float]]:
    """Measure the CPU use of other programs on the two cores during the body, as a share of one."""
    told: dict[str, float] = {}
    before, began = _busy(server), time.monotonic()
    yield told
    after, wall = _busy(server), time.monotonic() - began
    told["server_busy"] = (after[0] - before[0]) / wall
    told["others"] = max(0.0, after[1] - before[1]) / wall


def _busy(server: Server) -> tuple[float, float]:
    ours = server.cpu_seconds()
    return ours, busy_cores()["busy"] - ours - time.process_time() - children_cpu()


def _quantiles(values: Sequence[float], factor: float, unit: str) -> dict[str, float]:
    """Return p50, p99 and max; p99 only of 100 or more values."""
    found = {"p50": _quantile(values, 0.5), "max": max(values)}
    if len(values) >= 100:
        found["p99"] = _quantile(values, 0.99)
    return {f"{name}_{unit}": value * factor for name, value in found.items()}


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1]
