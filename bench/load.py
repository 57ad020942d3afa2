"""Load time and memory of a catalog, and the effect of its size on the CPU per query.

`python -m bench.load FILE` is the fresh process of each load: it loads once and prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import servers, zones
from bench.loads import Loads, Step, Wanted, plan
from bench.machine import ROOT, SERVER_CORE
from bench.results import Case
from bench.tools import Missing, Skipped, say
from bench.udp import alternate
from bench.zones import Questions

SIZES = (10_000, 100_000, 1_000_000)
NETWORKS = (3_334, 333_334)  # apps of the queried networks: 10,000 and 1,000,000 machines


def run(
    directory: Path, *, seconds: float, repetitions: int, short: bool, skipped: Skipped
) -> list[Case]:
    """Measure loading (*short*: the largest once), then the same queries against a small and the
    largest catalog."""
    cases, files = [], {}
    for machines in SIZES:
        files[machines] = directory / f"machines-{machines}.db"
        say(f"  load: making a catalog of {machines:,} machines")
        zones.make_catalog(files[machines], machines)
        case = Case("load", f"{machines:,} machines")
        cases.append(case)
        for _ in range(1 if short and machines == max(SIZES) else repetitions):
            case.repetitions.append(_in_a_process(files[machines]))
            said = case.repetitions[-1]
            say(f"  load {machines:,}: {said['wall_s']:.2f} s, {said['rss_mib']:.0f} MiB")
    try:
        cases += _served(directory, seconds, repetitions, skipped)
    except Missing as reason:
        skipped.add("queries against large catalogs", reason)
    return cases


def _served(directory: Path, seconds: float, repetitions: int, skipped: Skipped) -> list[Case]:
    """Query a small and a large network, each alone in its catalog: the same names, and random
    names of all machines."""
    loads = Loads(directory, seconds)
    few, many = (zones.first_zone(apps) for apps in NETWORKS)
    same, every = zones.apps(few), replace(zones.apps(many), name="of-many")
    cases = []
    with ExitStack() as stack:
        subjects = []
        for apps in NETWORKS:
            catalog, machines = directory / f"served-{apps}.db", apps * zones.MACHINES_PER_APP
            zones.make_catalog(catalog, machines, apps)
            name = f"internal-dns with {machines:,} machines"
            subjects.append(stack.enter_context(servers.ours(catalog, directory, name=name)))
        for server in subjects:
            loads.warm_up(same, server)
        cases += alternate(
            "load", subjects, _steps(loads, same, "the same names", skipped), repetitions
        )
        loads.warm_up(every, subjects[-1])
        cases += alternate(
            "load", subjects[-1:], _steps(loads, every, "names of all", skipped), repetitions
        )
        for server in subjects:
            case = Case("load", f"{server.name} · serving", [], server.name, "serving")
            case.repetitions.append({"rss_mib": server.status_mib("VmRSS"), "void": ""})
            cases.append(case)
    return cases


def _steps(loads: Loads, questions: Questions, words: str, skipped: Skipped) -> list[Step]:
    wanted: tuple[Wanted, ...] = (
        (f"{words}, saturated by sendmmsg", lambda: loads.sendmmsg(questions), questions, 0),
        (
            f"{words}, 20,000 per second",
            lambda: loads.sendmmsg(questions, 20_000),
            questions,
            20_000,
        ),
    )
    return plan(wanted, skipped)


def _in_a_process(catalog: Path) -> dict[str, Any]:
    words = [
        "taskset",
        "--cpu-list",
        str(SERVER_CORE),
        sys.executable,
        "-m",
        "bench.load",
        str(catalog),
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def _load_once(catalog: Path) -> dict[str, Any]:
    from internal_dns.store.sqlite import load

    before, wall, cpu = _status_mib("VmRSS"), time.perf_counter(), time.process_time()
    loaded = load(catalog)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "machines": loaded.machines,
        "faults": loaded.fault_count,
        "wall_s": wall,
        "cpu_s": cpu,
        "rss_before_mib": before,
        "rss_mib": _status_mib("VmRSS"),
        "peak_mib": _status_mib("VmHWM"),  # getrusage would return the parent's if that is larger
        "void": f"{loaded.fault_count} rows are invalid" if loaded.fault_count else "",
    }


def _status_mib(field: str) -> float:
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )
    return int(line.split()[1]) / 1024  # in kB


if __name__ == "__main__":
    print(json.dumps(_load_once(Path(sys.argv[1]))))
