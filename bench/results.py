"""The results: every repetition, and median, minimum and maximum of the valid ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

# Name in the table, unit, and decimals of each figure.
FIGURES: Final = {
    "cpu_us": ("CPU per query", "µs", 2),
    "first_us": ("CPU of the first", "µs", 1),
    "repeat_us": ("CPU of the same query repeated", "µs", 2),
    "first_times": ("CPU of the first relative to a repeated one", "×", 2),
    "repeated": ("answered from the table the second time", "%", 2),
    "entry_octets": ("octets per entry", "", 0),
    "networks_times": ("CPU per query relative to one network", "×", 2),
    "qps": ("queries per second", "", 0),
    "p50_us": ("latency, median", "µs", 0),
    "p99_us": ("latency, p99", "µs", 0),
    "max_us": ("latency, max", "µs", 0),
    "p50_ratio": ("latency, median", "×", 2),
    "p99_ratio": ("latency, p99", "×", 2),
    "p50_ms": ("delay, median", "ms", 1),
    "p99_ms": ("delay, p99", "ms", 1),
    "max_ms": ("delay, max", "ms", 1),
    "readyz_ms": ("/readyz, max", "ms", 1),
    "ready_s": ("exec → first answer", "s", 2),
    "not_ready": ("SERVFAIL, EDE 14 until then", "", 0),
    "slowest_ms": ("slowest reply during it", "ms", 1),
    "loss": ("lost", "%", 2),
    "flood_qps": ("sent by the flood per second", "", 0),
    "flood_times": ("flood relative to the server's capacity", "×", 1),
    "added_ms": ("added to the upstream's delay, median", "ms", 2),
    "added_p99_ms": ("added to the upstream's delay, p99", "ms", 2),
    "pending": ("external queries outstanding", "", 0),
    "kernel_share": ("CPU in the kernel", "%", 1),
    "user_us": ("CPU in user space per query", "µs", 2),
    "wall_s": ("time", "s", 2),
    "rows_s": ("rows per second", "", 0),
    "cpu_s": ("CPU", "s", 2),
    "rss_mib": ("RSS after", "MiB", 0),
    "peak_mib": ("RSS, maximum", "MiB", 0),
}

DISTURBED: Final = 0.05  # of a core, used by other programs


@dataclass(slots=True)
class Case:
    """One measurement, repeated. A repetition with a text in `void` is stored but not counted."""

    part: str
    name: str
    repetitions: list[dict[str, Any]] = field(default_factory=list)
    subject: str = ""  # the server; with `load`, the key for comparisons between servers
    load: str = ""

    def spread(self, figure: str) -> tuple[float, float, float] | None:
        """Return median, min and max of *figure*; None if no valid repetition has it."""
        values = [
            r[figure] for r in self.repetitions if not r.get("void") and r.get(figure) is not None
        ]
        return (median(values), min(values), max(values)) if values else None

    @property
    def remark(self) -> str:
        """The reservations about this case, for the reader."""
        void = [r["void"] for r in self.repetitions if r.get("void")]
        words = [f"{len(void)} of {len(self.repetitions)} void: {void[0]}"] if void else []
        counted = [r for r in self.repetitions if not r.get("void")] or self.repetitions
        words += _saturated([r for r in counted if r.get("saturated")])
        words += sorted({r["note"] for r in counted if r.get("note")})
        others = max((r.get("others", 0.0) for r in counted), default=0.0)
        if others > DISTURBED:
            words.append(f"other programs took up to {others:.0%} of a core")
        return "; ".join(words)

    def as_json(self) -> dict[str, Any]:
        spreads = {figure: self.spread(figure) for figure in FIGURES}
        return {
            "part": self.part,
            "case": self.name,
            "subject": self.subject,
            "load": self.load,
            **{
                name: {figure: s[i] for figure, s in spreads.items() if s}
                for i, name in enumerate(("median", "min", "max"))
            },
            "remark": self.remark,
            "repetitions": self.repetitions,
        }


def _saturated(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return which side was saturated and, unless it was always the server, how busy both were."""
    sides = {r["saturated"] for r in runs}
    if not runs or sides == {"server"}:
        return ["server saturated"] if runs else []
    busy = (
        f"{side} {min(values):.0%} to {max(values):.0%} of a core"
        for side in ("server", "load")
        if (values := [r[f"{side}_busy"] for r in runs])
    )
    return [f"saturated: {' or '.join(sorted(sides))} ({', '.join(busy)})"]


def table(cases: Sequence[Case]) -> str:
    """Return all cases as a text table with one line per figure."""
    rows: list[tuple[str, ...]] = [("part", "case", "figure", "median", "min", "max", "", "remark")]
    for case in cases:
        heads = [(case.part, case.name, case.remark)]
        found = [(figure, spread) for figure in FIGURES if (spread := case.spread(figure))]
        for figure, spread in found:
            part, name, remark = heads.pop() if heads else ("", "", "")
            words, unit, decimals = FIGURES[figure]
            rows.append(
                (part, name, words, *(f"{value:,.{decimals}f}" for value in spread), unit, remark)
            )
        if not found:
            rows.append((case.part, case.name, "no valid repetition", "", "", "", "", case.remark))
    widths = [max(len(row[i]) for row in rows) for i in range(7)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 3 <= i <= 5 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join((*cells, row[7])).rstrip())
    lines.insert(1, "─" * min(150, max(map(len, lines))))
    return "\n".join(lines)
