"""`python -m bench` measures, prints a table, and writes JSON. `python -m bench table FILE` prints
that JSON in Markdown."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench import (
    answers,
    attack,
    cold,
    flood,
    forms,
    forward,
    living,
    load,
    machine,
    markdown,
    profile,
    replicate,
    restart,
    tcp,
    udp,
)
from bench.results import DISTURBED, Case, table
from bench.tools import Missing, Skipped, say, versions

PARTS: Final = (
    "cold",
    "forms",
    "answers",
    "udp",
    "workers",
    "tcp",
    "load",
    "forward",
    "flood",
    "attack",
    "restart",
    "living",
    "replicate",
    "profile",
)
SHORT: Final = ("cold", "udp", "forward")
RESULTS: Final = Path(__file__).with_name("results")


def main() -> None:
    """Run the benchmarks of the command line, or print the tables of an earlier run."""
    if sys.argv[1:2] == ["table"]:
        if len(sys.argv) != 3:
            sys.exit("usage: python -m bench table FILE")
        print(markdown.tables(json.loads(Path(sys.argv[2]).read_text())))
        return
    words = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    words.add_argument(
        "--short",
        action="store_true",
        help=f"only {', '.join(SHORT)}, less precise, in under three minutes",
    )
    words.add_argument("--only", metavar="PART,…", help=f"only these parts: {', '.join(PARTS)}")
    words.add_argument(
        "--json", metavar="FILE", type=Path, help="file for the results [default: bench/results/…]"
    )
    given = words.parse_args()
    chosen = given.only.split(",") if given.only else SHORT if given.short else PARTS
    if unknown := set(chosen) - set(PARTS):
        words.error(f"no part is called {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")

    facts, started = machine.facts(), time.monotonic()
    cases: list[Case] = []
    skipped = Skipped()
    with tempfile.TemporaryDirectory(prefix="internal-dns-bench-") as directory:
        for part in (part for part in PARTS if part in chosen):
            say(f"{part}:")
            try:
                cases += _measure(part, Path(directory), given.short, skipped)
            except Missing as reason:
                skipped.add(part, reason)
    facts["tools"] = versions()
    facts["seconds"] = round(time.monotonic() - started)
    _report(facts, cases, skipped)
    now = datetime.now(UTC)
    path = (
        given.json
        or RESULTS
        / f"{now:%Y-%m-%d-%H%M%S}-{facts['commit']}{'-dirty' if facts['dirty'] else ''}.json"
    )
    results = {
        "machine": facts,
        "short": given.short,
        "skipped": skipped,
        "results": [case.as_json() for case in cases],
    }
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    say(f"written: {path}")


def _measure(part: str, directory: Path, short: bool, skipped: Skipped) -> list[Case]:
    """Measure one part. A short run has shorter repetitions, not fewer."""
    seconds, repetitions = (1.0, 3) if short else (5.0, 3)
    match part:
        case "cold":
            return cold.run(directory, questions=1_000 if short else 10_000)
        case "forms":
            return forms.run(directory)
        case "answers":
            return answers.run(directory, seconds=seconds, short=short, skipped=skipped)
        case "udp":
            return udp.run(
                directory,
                seconds=1.0 if short else 3.0,
                repetitions=repetitions,
                short=short,
                skipped=skipped,
            )
        case "workers":
            return udp.workers(directory, seconds=seconds, repetitions=repetitions, skipped=skipped)
        case "tcp":
            return tcp.run(
                directory, seconds=seconds, repetitions=repetitions, short=short, skipped=skipped
            )
        case "load":
            return load.run(
                directory, seconds=seconds, repetitions=repetitions, short=short, skipped=skipped
            )
        case "forward":
            return forward.run(
                directory, seconds=seconds, repetitions=repetitions, short=short, skipped=skipped
            )
        case "flood":
            return flood.run(directory, seconds=seconds, repetitions=repetitions, skipped=skipped)
        case "attack":
            return attack.run(
                directory,
                seconds=2.0 if short else 5.0,
                repetitions=1,
                short=short,
                skipped=skipped,
            )
        case "restart":
            return restart.run(directory, repetitions=1, short=short, skipped=skipped)
        case "living":
            return living.run(directory, seconds=seconds, repetitions=repetitions, short=short)
        case "replicate":
            return replicate.run(directory, repetitions=repetitions, short=short)
        case _:
            return profile.run(directory, seconds=seconds, skipped=skipped)


def _report(facts: dict[str, Any], cases: list[Case], skipped: Skipped) -> None:
    say("")
    say(table(cases))
    say("")
    say(
        f"{facts['cpu']}, {facts['cores']} cores{' (virtual)' if facts['virtual'] else ''} · "
        f"{facts['system']}, "
        f"Linux {facts['kernel']} · Python {facts['python']}, uvloop {facts['uvloop']} · commit "
        f"{facts['commit']}"
        f"{' with changes' if facts['dirty'] else ''} · load before "
        f"{facts['load average before'][0]:.2f} · "
        f"{facts['seconds']} s"
    )
    if any(r.get("others", 0) > DISTURBED for case in cases for r in case.repetitions):
        say(
            "Other programs used these cores during the run: latencies and queries per second are "
            "worse than on an idle machine."
        )
    for skip in skipped:
        say(f"NOT MEASURED: {skip['what']}: {skip['reason']}")


if __name__ == "__main__":
    main()
