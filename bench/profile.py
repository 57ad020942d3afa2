"""The CPU profile of a saturated server from perf: kernel and user space, and the hottest
functions."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

from bench import servers, zones
from bench.loads import Loads, measure
from bench.results import Case
from bench.servers import Server
from bench.tools import Missing, Skipped, program, say

HOTTEST: Final = 25
RATE: Final = 999  # samples per second, out of step with any timer


def run(directory: Path, *, seconds: float, skipped: Skipped) -> list[Case]:
    """Profile internal-dns on both paths. Raises Missing where perf cannot sample."""
    perf = program("perf", "linux-perf")
    _try(perf, directory)
    catalog, apps = directory / "profile.db", zones.apps(zones.first_zone())
    zones.make_catalog(catalog, zones.APPS * zones.MACHINES_PER_APP)
    cases = []
    for path in servers.PATHS:
        try:
            made = servers.ours(catalog, directory, path=path, wildcard=True)
        except Missing as reason:
            skipped.add(f"profile of the {path} path", reason)
            continue
        with made as server:
            loads = Loads(directory, max(seconds, 2.0))
            loads.warm_up(apps, server)
            cases.append(_profile(perf, server, loads, apps, directory))
    return cases


def _try(perf: str, directory: Path) -> None:
    words = [perf, "record", "-e", "cpu-clock", "-o", str(directory / "try.perf"), "true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise Missing(
            f"perf cannot sample here: "
            f"{(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        )


def _profile(
    perf: str, server: Server, loads: Loads, apps: zones.Questions, directory: Path
) -> Case:
    path = directory / "perf.data"
    # The CPU clock: virtual machines often lack hardware counters.
    words = [
        perf,
        "record",
        "-e",
        "cpu-clock",
        "-F",
        str(RATE),
        "-p",
        str(server.process.pid),
        "-o",
        str(path),
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recording:
        result = measure(server, loads.sendmmsg(apps), apps)
        recording.terminate()
    report = subprocess.run(
        [perf, "report", "-i", str(path), "--stdio", "--no-children", "--sort", "dso,symbol"],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    functions = read_report(report)
    kernel = sum(share for share, _, _, where in functions if where == "k")
    hottest = [
        f"{share:6.2f} %  {where}  {dso}  {name}" for share, dso, name, where in functions[:HOTTEST]
    ]
    say(
        f"  {server.name}: kernel {kernel:.1f} %, user space {100 - kernel:.1f} % of "
        f"{result['cpu_us']:.2f} µs"
    )
    for line in hottest:
        say(f"    {line}")
    told = result | {
        "kernel_share": kernel,
        "user_us": result["cpu_us"] * (100 - kernel) / 100,
        "hottest": hottest,
    }
    return Case(
        "profile",
        f"{server.name} · saturated by sendmmsg",
        [told],
        server.name,
        "saturated by sendmmsg",
    )


def read_report(report: str) -> list[tuple[float, str, str, str]]:
    """Parse `perf report --sort dso,symbol`: percentage, object, function, and `k` for the kernel
    or `.`."""
    lines = re.findall(r"(?m)^\s+([\d.]+)%\s+(\S+)\s+\[(.)\]\s+(.*?)(?:\s+-\s+-)?\s*$", report)
    return [(float(share), dso, name, where) for share, dso, where, name in lines]
