"""Plots as values for a template: SVG paths in a box of 300 × 100, round scales, and text.

The box is stretched to the width of the page, so text stands beside it and not inside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Final

WIDTH: Final = 300
HEIGHT: Final = 100
HOVER: Final = 5  # values per column with a tooltip; fewer would make the page large

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot, in the color of its number; `now` is its last value."""

    number: int
    name: str
    path: str
    area: str
    now: str
    highest: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; a height of 100 fills the box."""

    name: str
    count: int
    height: float


@dataclass(frozen=True, slots=True)
class Hover:
    """A column of a plot that shows its values as a tooltip."""

    x: float
    width: float
    words: str


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot; `note` says what is measured and how."""

    title: str
    unit: str
    note: str
    top: str
    middle: str
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    hovers: tuple[Hover, ...] = ()

    @property
    def empty(self) -> bool:
        """Return whether there is nothing to draw."""
        return not self.lines and not any(bar.count for bar in self.bars)


def lines(title: str, unit: str, note: str, series: Mapping[str, Values], room: int) -> Plot:
    """Draw *series*, *room* values wide, with the newest value at the right edge.

    None is a gap. A series without values is omitted, but its color stays reserved.
    """
    highest = max((v for values in series.values() for v in values if v is not None), default=0.0)
    top = round_above(highest)
    drawn = []
    for number, (name, values) in enumerate(series.items(), 1):
        known = [v for v in values if v is not None]
        if known:
            path, area = _draw_paths(values, top, room)
            drawn.append(Line(number, name, path, area, figure(values[-1]), figure(max(known))))
    columns = _hovers(series, room, unit) if drawn else ()
    return Plot(title, unit, note, figure(top), figure(top / 2), tuple(drawn), hovers=columns)


def _hovers(series: Mapping[str, Values], room: int, unit: str) -> tuple[Hover, ...]:
    """Return columns of HOVER values each, with their age and the maximum of each series."""
    length = max((len(values) for values in series.values()), default=0)
    step = WIDTH / max(1, room - 1)
    found = []
    for end in range(length, 0, -HOVER):
        start = max(0, end - HOVER)
        tops = []
        for name, values in series.items():
            known = [v for v in values[start:end] if v is not None]
            if known and max(known) > 0:
                tops.append(f"{name} {figure(max(known))}".strip())
        left = max(0.0, WIDTH - step * (length - 1 - start))
        width = min(WIDTH - left, step * (end - start))
        words = f"{length - end} s ago: {', '.join(tops) or '0'} {unit}"
        found.append(Hover(round(left, 1), round(width, 1), words))
    return tuple(found)


def bars(title: str, unit: str, note: str, counts: Sequence[tuple[str, float]]) -> Plot:
    """Draw *counts* side by side."""
    top = round_above(max((count for _, count in counts), default=0.0))
    drawn = tuple(Bar(name, int(count), round(100 * count / top, 1)) for name, count in counts)
    return Plot(title, unit, note, figure(top), figure(top / 2), bars=drawn)


def _draw_paths(values: Values, top: float, room: int) -> tuple[str, str]:
    """Return the path of the line, and that of the area below it."""
    step = WIDTH / max(1, room - 1)
    left = WIDTH - step * (len(values) - 1)
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(
                (round(left + at * step, 1), round(HEIGHT * (1 - min(value, top) / top), 1))
            )
    runs = [run for run in runs if run]
    line = [
        " ".join(f"{'L' if at else 'M'}{x:g} {y:g}" for at, (x, y) in enumerate(run))
        for run in runs
    ]
    area = [
        f"{path} L{run[-1][0]:g} {HEIGHT} L{run[0][0]:g} {HEIGHT} Z"
        for path, run in zip(line, runs, strict=True)
    ]
    return " ".join(line), " ".join(area)


def round_above(value: float) -> float:
    """Return the smallest of 1, 2, 3, 4, 6, 8 × 10ⁿ that is not below *value*; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(
        power * step for step in (1, 2, 3, 4, 6, 8, 10) if power * step >= value * (1 - 1e-9)
    )


def figure(value: float | None) -> str:
    """Return a number with up to three significant digits, and with thousands separators."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return (
        f"{value:.1f}".removesuffix(".0") if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")
    )
