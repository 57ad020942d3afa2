"""Prove what can be proved about the C core: `python -m tests.native.proof`, or `make prove`.

chains.pml   Spin searches every interleaving of one writer and its readers on a chain of the table
             (publish, replace, unlink, generations, free): no node is freed while a reader is at
             it, and no reader waits for the writer. The bounds are those of RUNS.
query.c      Frama-C's Eva, by abstract interpretation: no message of any octets makes read_query
unknown.c    (or find_unknown, or build_reply for answers of some shapes) read or write outside of
build.c      an object, or do undefined arithmetic.

What was proved on 27 November 2026, in 5 min 49 s on a busy machine of two cores, of the core as
it was before networks had records and zones of their own:

    Spin     no use after free: 3 readers of 1 walk, 3 changes of 2 keys, 4 nodes (13,560,867
             states); 2 readers of 2 walks, 4 changes (18,012,941). A reader ends its walk although
             the writer stops at any step: 1 reader, 2 changes (11,494). Without the look at the
             generations the search finds the fault, as it must (536).
    Frama-C  no access outside of an object, no undefined arithmetic. read_query: messages of 0 to
             4,097 octets; of 70 sizes from 0 to 300, messages that end where their object does.
             find_unknown: names of 10 to 255 octets. build_reply: answers of 2, 3 and 20 addresses,
             and of 60 octets of authority alone. Nothing is claimed beyond these sizes and shapes.

Both need Debian's packages spin and frama-c-base. Exit 1 when a claim fails, 2 without the tools.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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
        ("-DREADERS=1", "-DWALKS=2", "-DCHANGES=2", "-DSTOPS"),
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
        errors, states = (
            int(found[1]) if (found := re.search(pattern, done.stdout)) else -1
            for pattern in (r"errors: (\d+)", r"(\d+) states, stored")
        )
        if errors < 0 or (errors == 0 and "Search not completed" in done.stdout + done.stderr):
            raise RuntimeError(f"the search did not end:\n{done.stdout}{done.stderr}")
        return errors, states


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


# What Frama-C 25 does not read, and where it is to keep values apart that belong together. Nothing
# else is changed.
REWRITTEN: Final = (
    (r"_Atomic\(([^()]*)\)", r"\1"),
    (r"_Atomic ", ""),
    (r"_Alignas\(\d+\) ", ""),
    (
        r"(?m)^(    at = put\(at, octets \+ first, ring - first\);)",
        "    //@ split first;\n    ;\n\\1",
    ),
    (
        r"(?m)^    (/\* From the first in turn to the end)",
        "    //@ split first;\n    ;\n    //@ split shown;\n    ;\n    \\1",
    ),
)
FOUND: Final = (
    r"(static inline struct network \*)find_network\(",
    "struct network *the_network;\n"
    "\\1find_network(const struct table *table, uint32_t network)\n"
    "{ return Frama_C_interval(0, 1) ? the_network : NULL; }\n\\1chained_network(",
)
# A plain query has at most 282 octets; longer ones have EDNS options.
SIZES: Final = (*range(41), *range(41, 300, 10), 282, 283, 300)
QUICK: Final = ("-eva-precision", "2")
CAREFUL: Final = ("-eva-precision", "4", "-eva-slevel", "400", "-eva-split-limit", "300")
# Addresses that take turns, octets behind them. Answers that leave in part RR by RR (`fitting`) are
# not among them: that each RR ends inside is what is_section has checked when they were stored.
ANSWERS: Final = ((2, 0), (3, 0), (20, 0), (0, 60))


def analyze(folder: Path, program: str, *flags: str, how: Sequence[str] = CAREFUL) -> bool:
    """Have Eva look at *program*; return whether it proved all that it had to."""
    command = [
        "frama-c", "-c11", "-machdep", "gcc_x86_64", "-eva", *how,
        f"-cpp-extra-args=-I{folder} {' '.join(flags)}", str(HERE / program),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1_800)
    right = "0 alarms generated" in done.stdout and "100% of the logical prop" in done.stdout
    if not right:
        print(*re.findall(r"(?m)^\[eva:alarm\].*\n.*", done.stdout), sep="\n")
    return right


def octets() -> bool:
    """Make all analyses; return whether each proved what is claimed."""
    right = True
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        text = (NATIVE / "repeat.h").read_text()
        for pattern, instead in REWRITTEN:
            text, count = re.subn(pattern, instead, text)
            assert count, pattern
        (folder / "repeat.h").write_text(text)
        shutil.copy(HERE / "stdatomic.h", folder)
        found = folder / "found"
        found.mkdir()
        shutil.copy(HERE / "stdatomic.h", found)
        (found / "repeat.h").write_text(re.sub(*FOUND, text, count=1))
        claims: list[tuple[str, Callable[[], bool]]] = [
            (
                "read_query, messages of 0 to 4,097 octets",
                lambda: analyze(folder, "query.c", how=QUICK),
            ),
            (
                "read_query, messages that end where their object does, of "
                f"{len(SIZES)} sizes from 0 to {SIZES[-1]} octets",
                lambda: all(
                    analyze(folder, "query.c", f"-DSIZE={size}", how=QUICK) for size in SIZES
                ),
            ),
            (
                "find_unknown, names of 10 to 255 octets",
                lambda: analyze(found, "unknown.c"),
            ),
            (
                f"build_reply, answers of {ANSWERS} (addresses, octets of authority)",
                lambda: all(
                    analyze(folder, "build.c", f"-DTURNS={turns}", f"-DAUTHORITY={authority}")
                    for turns, authority in ANSWERS
                ),
            ),
        ]
        for claim, prove in claims:
            begin = time.monotonic()
            proved = prove()
            right &= proved
            print(
                f"frama-c: no access outside of an object, no undefined arithmetic: {claim}: "
                f"{'yes' if proved else 'NO'} ({time.monotonic() - begin:.0f} s)",
                flush=True,
            )
    return right


def main() -> int:
    missing = [tool for tool in ("spin", "gcc", "frama-c") if not shutil.which(tool)]
    if missing:
        print(f"missing: {', '.join(missing)}; apt-get install spin frama-c-base", file=sys.stderr)
        return 2
    proved = [chains(), octets()]
    return 0 if all(proved) else 1


if __name__ == "__main__":
    sys.exit(main())
