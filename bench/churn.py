"""`python -m bench.churn FILE COMMITS ROWS`: write to a catalog from another process, COMMITS per
second with ROWS changed rows each.

It ends with its standard input and prints JSON: the number of commits and the largest delay. It
writes as any program may: with Python's sqlite3 module and `synchronous = NORMAL`, usual with WAL.
"""

from __future__ import annotations

import json
import os
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

from bench.machine import CORES, LOAD_CORE, ROOT

AT_MOST: Final = 120  # seconds after which it ends by itself


@contextmanager
def churn(catalog: Path, commits: int, rows: int) -> Iterator[dict[str, Any]]:
    """Let another process write during the body. The dictionary then has its result; `late` if it
    was too slow."""
    told: dict[str, Any] = {}
    if not commits:
        yield told
        return
    core = CORES[1] if len(CORES) > 2 else LOAD_CORE
    words = [
        "taskset",
        "--cpu-list",
        str(core),
        sys.executable,
        "-m",
        "bench.churn",
        str(catalog),
        str(commits),
        str(rows),
    ]
    with subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # the process has started writing
            yield told
            told.update(json.loads(process.communicate(timeout=10)[0]))
        finally:
            if process.poll() is None:
                process.kill()
    kept = told["commits"] / told["seconds"] / commits
    told["late"] = (
        f"the other process made only {kept:.0%} of {commits} commits per second"
        if kept < 0.95
        else ""
    )


def _write(catalog: str, commits: int, rows: int) -> dict[str, Any]:
    connection = sqlite3.connect(catalog, isolation_level=None, timeout=5)
    connection.execute("PRAGMA synchronous = NORMAL")
    machines = [
        row[0] for row in connection.execute("SELECT id FROM machines ORDER BY id LIMIT 20000")
    ]
    # The measurement of commit → visible uses the even machines.
    random, machines = Random(2), machines[1::2]
    print("begun", flush=True)
    start, made, latest = time.monotonic(), 0, 0.0
    while (now := time.monotonic()) < start + AT_MOST:
        due = start + made / commits
        if select.select([sys.stdin], [], [], max(0.0, due - now))[0] and not os.read(0, 1):
            break
        if time.monotonic() < due:
            continue
        latest = max(latest, time.monotonic() - due)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "UPDATE machines SET state = CASE state WHEN 'started' THEN 'stopped' ELSE 'started' "
            "END WHERE id = ?",
            [(identifier,) for identifier in random.sample(machines, rows)],
        )
        connection.execute("COMMIT")
        made += 1
    return {
        "commits": made,
        "rows": made * rows,
        "seconds": time.monotonic() - start,
        "latest_ms": latest * 1e3,
    }


if __name__ == "__main__":
    print(json.dumps(_write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
