"""Build the C core alone and try it under sanitizers: `python -m tests.native [--seconds 30]
[--changes 1000000]`.

fuzz.c feeds mutated queries of tests/fuzz/corpus under AddressSanitizer and
UndefinedBehaviorSanitizer. stress.c lets readers and the writer of the table meet, datagrams.c
workers with real sockets, the writer and what answers in Python's place: as it is, under
AddressSanitizer and under ThreadSanitizer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom
from typing import Final

HERE: Final = Path(__file__).parent
CORPUS: Final = sorted((HERE.parent / "fuzz" / "corpus").glob("query-*.hex"))
STRICT: Final = (
    "-std=c11 -D_GNU_SOURCE -g -pthread -Wall -Wextra -Werror -Wshadow -Wconversion".split()
)
ADDRESS: Final = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREAD: Final = ("-O1", "-fsanitize=thread")
READERS: Final = 2


def build(folder: Path, name: str, *flags: str) -> Path:
    """Compile *name*.c with *flags* and every warning; return the program. Raises
    CalledProcessError."""
    program = folder / f"{name}{len(list(folder.iterdir()))}"
    subprocess.run(
        ["gcc", *STRICT, *flags, str(HERE / f"{name}.c"), "-o", str(program)],
        check=True,
        timeout=120,
    )
    return program


def run(program: Path, *words: str, timeout: float = 600) -> str:
    """Run one; return what it counted. Raises CalledProcessError when an invariant or a sanitizer
    fails."""
    # ThreadSanitizer wants its memory where more random layouts put other things.
    command = ["setarch", "--addr-no-randomize", str(program), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=timeout)
    return done.stdout.strip()


def fuzz(folder: Path, seconds: int, seed: int) -> str:
    return run(
        build(folder, "fuzz", "-DDRIVER", *ADDRESS), str(seconds), str(seed), *map(str, CORPUS)
    )


def stress(folder: Path, changes: int, *flags: str) -> str:
    return run(build(folder, "stress", *flags), str(READERS), str(changes))


def datagrams(folder: Path, queries: int, *flags: str) -> str:
    return run(build(folder, "datagrams", *flags), str(queries))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.native", description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help="of fuzzing (default: 30)")
    parser.add_argument(
        "--changes", type=int, default=1_000_000, help="of the table, each time (default: 1000000)"
    )
    parser.add_argument("--seed", type=int, help="repeat a run")
    options = parser.parse_args(arguments)
    seed = SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        print(f"fuzz, seed {seed}: {fuzz(folder, options.seconds, seed)}", flush=True)
        for words, flags in (
            ("as it is", ("-O2",)),
            ("address sanitizer", ADDRESS),
            ("thread sanitizer", THREAD),
        ):
            print(f"stress, {words}: {stress(folder, options.changes, *flags)}", flush=True)
            queries = max(1_000, options.changes // 20)
            print(f"datagrams, {words}: {datagrams(folder, queries, *flags)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
