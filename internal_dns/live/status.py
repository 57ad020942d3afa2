"""The status of a source: as JSON for the server and the fleet, and as metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:  # the server needs none of what a loop needs
    from internal_dns.live.loop import Loop

INTERVAL: Final = 5.0  # seconds between two reports
SILENT: Final = 4 * INTERVAL  # seconds without a report after which a follower counts as dead
MAX_LINES: Final = 20  # of faults and of notes


class Status(Struct, frozen=True, kw_only=True):
    """What a follower says of its source."""

    source: str
    kind: str  # docker, directory, …
    host: str = ""
    up: bool = False
    age_seconds: float = -1.0  # of the last whole snapshot; -1 before the first
    rows: int = 0
    applies: int = 0
    held: int = 0
    flapped: int = 0
    faults: int = 0
    problem: str = ""  # why it is not up, or why the catalog cannot be written
    fault_lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    figures: Mapping[str, int | float] = {}
    stopped: bool = False  # it ended as it was asked to


def status_of(loop: Loop, now: float, *, source: str, kind: str, host: str = "") -> Status:
    """Return the status of *loop* at *now*."""
    faults = [f"{' '.join(map(str, key[1:]))}: {why}" for key, why in sorted_faults(loop)]
    return Status(
        source=source,
        kind=kind,
        host=host,
        up=loop.seen_at is not None and not loop.source_problem,
        age_seconds=-1.0 if loop.seen_at is None else round(now - loop.seen_at, 1),
        rows=len(loop.rows or ()),
        applies=loop.applies,
        held=loop.held,
        flapped=loop.flapped,
        faults=len(loop.faults),
        problem=loop.source_problem or loop.catalog_problem,
        fault_lines=tuple(faults[:MAX_LINES]),
        notes=loop.snapshot.notes[:MAX_LINES] if loop.snapshot else (),
        figures=dict(loop.snapshot.figures) if loop.snapshot else {},
    )


def sorted_faults(loop: Loop) -> list[tuple[tuple[str | int, ...], str]]:
    return sorted(loop.faults.items(), key=lambda item: tuple(map(str, item[0])))


def families(statuses: Iterable[Status]) -> Iterable[Metric]:
    """Yield the metrics of sources. docs/metrics.md repeats each HELP text."""
    up = GaugeMetricFamily(
        "internal_dns_source_up", "1 while the live source can be read, else 0.", labels=["source"]
    )
    age = GaugeMetricFamily(
        "internal_dns_source_age_seconds",
        "Seconds since the last whole snapshot of the live source; -1 before the first.",
        labels=["source"],
    )
    rows = GaugeMetricFamily(
        "internal_dns_source_rows",
        "Number of rows of the live source in the catalog.",
        labels=["source"],
    )
    applies = CounterMetricFamily(
        "internal_dns_source_applies",
        "Number of changes that the live source has written to the catalog.",
        labels=["source"],
    )
    held = GaugeMetricFamily(
        "internal_dns_source_held",
        "Number of rows that are held as not ready: they vanished together, or change all the "
        "time.",
        labels=["source"],
    )
    for status in statuses:
        up.add_metric([status.source], float(status.up))
        age.add_metric([status.source], status.age_seconds)
        rows.add_metric([status.source], status.rows)
        applies.add_metric([status.source], status.applies)
        held.add_metric([status.source], status.held)
    return up, age, rows, applies, held


class _Collector(Collector):
    def __init__(self, read: Callable[[], Iterable[Status]]) -> None:
        self.read = read

    def collect(self) -> Iterable[Metric]:
        return families(self.read())


def registry(read: Callable[[], Iterable[Status]]) -> CollectorRegistry:
    """Return a registry of the metrics of the sources that *read* returns."""
    found = CollectorRegistry()
    found.register(_Collector(read))
    return found


def as_json(status: Status) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(status)
    return found
