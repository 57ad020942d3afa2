"""Print the tables of a stored run in Markdown, for the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.budgets import FLOOR_INFO, NotMeasured, Run, judged

UDP = (
    ("20,000 per second, µs", "20,000 per second", "cpu_us", 1),
    ("60,000 per second, µs", "60,000 per second", "cpu_us", 1),
    ("saturated, µs", "saturated by sendmmsg", "cpu_us", 2),
    ("saturated by dnsperf, µs", "saturated by dnsperf", "cpu_us", 2),
    ("queries per second", "saturated by sendmmsg", "qps", 0),
    ("p50 at 20,000, µs", "20,000 per second", "p50_us", 0),
    ("p99 at 20,000, µs", "20,000 per second", "p99_us", 0),
    ("p99 at 60,000, µs", "60,000 per second", "p99_us", 0),
    ("mixed, µs", "mixed, saturated by sendmmsg", "cpu_us", 2),
    ("mixed, queries per second", "mixed, saturated by sendmmsg", "qps", 0),
)
FORWARD = (
    ("cached, µs", "cached, saturated by sendmmsg", "cpu_us", 2),
    ("cached, queries per second", "cached, saturated by sendmmsg", "qps", 0),
    ("uncached, µs", "uncached, saturated by sendmmsg", "cpu_us", 1),
    ("uncached, queries per second", "uncached, saturated by sendmmsg", "qps", 0),
    ("added to 20 ms, ms", "uncached, 20 ms, 500 per second", "added_ms", 2),
    ("20 ms away, queries per second", "uncached, 20 ms, saturated", "qps", 0),
)
FLOOD = (
    ("known names, another queue: lost %", "known names, another queue", "loss", 2),
    ("known names, the same queue: lost %", "known names, the same queue", "loss", 2),
    ("random names, another queue: lost %", "random names, another queue", "loss", 2),
    ("random names, the same queue: lost %", "random names, the same queue", "loss", 2),
)
Columns = Sequence[tuple[str, str, str, int]]


def tables(stored: Mapping[str, Any]) -> str:
    """Return the tables that the README shows."""
    run = Run(stored)
    parts = [
        (
            "UDP, one worker on one core: CPU per query, medians",
            _matrix(run, "udp", UDP, floor=True),
        ),
        ("Forwarding", _matrix(run, "forward", FORWARD)),
        ("TCP on persistent connections", _tcp(run)),
        ("Floods: losses of a victim with 1,000 queries per second", _matrix(run, "flood", FLOOD)),
        ("Targets", markdown_table(("figure", "target", "measured", ""), judged(run))),
    ]
    shown = [f"**{title}**\n\n{body}" for title, body in parts if body]
    return "\n\n".join([*shown, _machine(stored)])


def _matrix(run: Run, part: str, columns: Columns, *, floor: bool = False) -> str:
    """Return a table with one row per subject and one column per figure.

    *floor* adds a column: CPU at saturation relative to the floor.
    """
    names = {column[1] for column in columns}
    subjects = dict.fromkeys(s for p, s, load in run.cases if p == part and s and load in names)
    shown = [c for c in columns if any(_cell(run, part, s, c) != "–" for s in subjects)]
    heads = ["", *(head for head, *_ in shown), *(["÷ floor with packet info"] if floor else [])]
    rows = [
        [
            subject,
            *(_cell(run, part, subject, c) for c in shown),
            *([_over_floor(run, subject)] if floor else []),
        ]
        for subject in subjects
    ]
    return markdown_table(heads, rows) if rows else ""


def _cell(run: Run, part: str, subject: str, column: tuple[str, str, str, int]) -> str:
    _, load, figure, decimals = column
    try:
        return f"{run.median(part, subject, load, figure):,.{decimals}f}"
    except NotMeasured:
        return "–"


def _over_floor(run: Run, subject: str) -> str:
    try:
        load = "saturated by sendmmsg"
        return f"{run.cpu(subject, load) / run.cpu(FLOOR_INFO, load):.2f}"
    except NotMeasured:
        return "–"


def _tcp(run: Run) -> str:
    loads = dict.fromkeys(load for part, _, load in run.cases if part == "tcp")
    columns = [
        column
        for load in loads
        for column in ((f"{load}, µs", load, "cpu_us", 1), ("queries per second", load, "qps", 0))
    ]
    return _matrix(run, "tcp", columns)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. Columns of numbers are aligned right, except the first."""
    body = [tuple(row) for row in rows]
    numbers = [
        i > 0 and bool(body) and all(row[i][:1] in "–-0123456789" for row in body)
        for i in range(len(heads))
    ]
    lines = [heads, ["---:" if number else "---" for number in numbers], *body]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _machine(stored: Mapping[str, Any]) -> str:
    facts = stored["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("tools", {}).items())
    lines = [
        f"{facts['cpu']}, {facts['cores']} cores{' (virtual)' if facts['virtual'] else ''}, "
        f"{facts['system']}, "
        f"Linux {facts['kernel']}, Python {facts['python']}, commit {facts['commit']}"
        f"{' with changes' if facts['dirty'] else ''}, {facts['date']}. {versions}.",
        *(f"Not measured: {skip['what']}: {skip['reason']}." for skip in stored["skipped"]),
        *_disturbances(stored),
    ]
    return "\n".join(lines)


def _disturbances(stored: Mapping[str, Any]) -> list[str]:
    repetitions = [r for case in stored["results"] for r in case["repetitions"]]
    void = sum(bool(r.get("void")) for r in repetitions)
    disturbed = sum(r.get("others", 0) > 0.05 for r in repetitions)
    words = f"{len(repetitions)} repetitions, {void} void"
    return [f"{words}, {disturbed} disturbed by other programs (more than 5 % of these cores)."]
