"""Fuzz what reads octets from outside: `python -m tests.fuzz [--seconds 60] [--seed N] [--target
NAME]`.

Mutation over a small kept corpus (corpus/*.hex) and what it finds on its way: no coverage feedback,
only volume. Exits 1 with the octets that break an invariant.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random, SystemRandom

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
BATCH = 200  # inputs between two looks at the clock
POOL = 400  # mutants kept to be mutated again


def seeds(target: str) -> list[bytes]:
    """The corpus of a target: `query-*.hex` or `reply-*.hex`; `#` starts a comment."""
    kind = "reply" if target == "check_reply" else "query"
    found = [from_hex(path.read_text()) for path in sorted(CORPUS.glob(f"{kind}-*.hex"))]
    assert found, f"no {kind}-*.hex in {CORPUS}"
    return found


def from_hex(text: str) -> bytes:
    return bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))


def fuzz(target: str, seconds: float, rng: Random) -> int:
    """Run one target; return how many inputs it took. Raises what the target raises, with the
    octets as a note."""
    check, corpus = TARGETS[target], seeds(target)
    pool, count, end = [*corpus], 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(BATCH):
            octets = (
                rng.randbytes(rng.randint(0, 80))
                if not rng.randrange(50)
                else mutated(rng.choice(pool), rng, corpus)
            )
            try:
                check(octets)
            except BaseException as error:
                error.add_note(f"target: {target}\noctets: {octets.hex()}")
                raise
            if len(pool) < POOL + len(corpus):
                pool.append(octets)
            elif not rng.randrange(20):
                pool[rng.randrange(len(corpus), len(pool))] = octets
        count += BATCH
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="in all (default: 60)")
    parser.add_argument("--seed", type=int, help="repeat a run")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one")
    options = parser.parse_args(arguments)
    seed = SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    targets = options.target or [*TARGETS]
    print(f"seed {seed}; {', '.join(targets)}; {options.seconds:g} s", flush=True)
    rng, slice_of = Random(seed), min(10.0, options.seconds / len(targets))
    total, done = dict.fromkeys(targets, 0), 0.0
    while done < options.seconds - 0.01:
        for target in targets:
            try:
                count = fuzz(target, slice_of, rng)
            except Exception as error:
                print(
                    f"\nthe invariant of {target} does not hold: {TARGETS[target].__doc__}",
                    file=sys.stderr,
                )
                print(
                    f"{type(error).__name__}: {error}",
                    *getattr(error, "__notes__", ()),
                    sep="\n",
                    file=sys.stderr,
                )
                return 1
            total[target] += count
            done += slice_of
            print(
                f"{done:5.0f} s  {target:<12} {total[target]:>10,} inputs  "
                f"{count / slice_of:>8,.0f}/s",
                flush=True,
            )
    print(f"no violation in {sum(total.values()):,} inputs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
