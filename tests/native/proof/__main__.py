"""Prove what can be proved about the C core: `python -m tests.native.proof`, or `make prove`.

chains.pml   Spin searches every interleaving of one writer and its readers on a chain of the table
             (publish, replace, unlink, generations, free): no node is freed while a reader is at
             it, and no reader waits for the writer. The bounds are those of RUNS.
query.c      Frama-C's Eva, by abstract interpretation: no query of any octets makes the reader
             read or write outside of an object, or overflow.

Both need Debian's packages spin and frama-c-base. Exit 1 when a claim fails, 2 without the tools.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
NATIVE: Final = HERE.parents[2] / "internal_dns" / "transport" / "native"
MEMORY: Final = 6_000  # MiB that one search may take
# What is claimed, Spin's bounds, and flags of the search.
RUNS: Final[tuple[tuple[str, Sequence[str], Sequence[str], Sequence[str]], ...]] = (
    (
        "no use after free: 3 readers of 1 walk, 3 changes of 2 keys, 4 nodes",
        ("-DREADERS=3", "-DWALKS=1", "-DCHANGES=3"),
        ("-DSAFETY",),
        (),
    ),
    (
        "no use after free: 2 readers of 2 walks, 4 changes of 2 keys, 4 nodes",
        ("-DREADERS=2", "-DWALKS=2", "-DCHANGES=4"),
        ("-DSAFETY",),
        (),
    ),
    (
        "a reader ends its walk although the writer stops at any step: 1 reader, 2 changes",
        ("-DREADERS=1", "-DCHANGES=2", "-DSTOPS"),
        (),
        ("-a", "-f", "-N", "walks_end"),
    ),
    (
        "the search finds the fault when generations are not looked at",
        ("-DREADERS=1", "-DWALKS=1", "-DCHANGES=2", "-DFAULTY"),
        ("-DSAFETY",),
        (),
    ),
)


def search(bounds: Sequence[str], flags: Sequence[str], how: Sequence[str]) -> tuple[int, int]:
    """Search one model to its end; return the errors and the states."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(HERE / "chains.pml", folder)
        commands = (
            ["spin", "-a", *bounds, "chains.pml"],
            ["gcc", "-O2", "-w", *flags, "-DCOLLAPSE", f"-DMEMLIM={MEMORY}", "-o", "pan", "pan.c"],
            ["./pan", "-m1000000", *how],
        )
        for command in commands:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, check=True, timeout=1_800
            )
        errors = re.search(r"errors: (\d+)", done.stdout)
        states = re.search(r"(\d+) states, stored", done.stdout)
        if not errors or not states or "Search not completed" in done.stdout + done.stderr:
            if not errors or not int(errors[1]):
                raise RuntimeError(f"the search did not end:\n{done.stdout}{done.stderr}")
        assert errors
        return int(errors[1]), int(states[1]) if states else 0


def chains() -> bool:
    """Make all searches; return whether each has the result that is claimed."""
    right = True
    for claim, bounds, flags, how in RUNS:
        begin = time.monotonic()
        errors, states = search(bounds, flags, how)
        as_claimed = (errors > 0) == ("-DFAULTY" in bounds)
        right &= as_claimed
        print(
            f"spin: {claim}: {'yes' if as_claimed else 'NO'} "
            f"({states:,} states, {time.monotonic() - begin:.0f} s)",
            flush=True,
        )
    return right


def main() -> int:
    missing = [tool for tool in ("spin", "gcc") if not shutil.which(tool)]
    if missing:
        print(f"missing: {', '.join(missing)}; apt-get install spin frama-c-base", file=sys.stderr)
        return 2
    return 0 if chains() else 1


if __name__ == "__main__":
    sys.exit(main())
