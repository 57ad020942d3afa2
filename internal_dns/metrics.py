"""All metrics. The hot path increments plain integers; prometheus-client reads them when scraped.

No network, app or query name is ever a label: readers of `/metrics` must not learn who the tenants
are.
"""

from __future__ import annotations

import platform
import sqlite3
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from internal_dns import __version__
from internal_dns.core.wire import Rcode, Type

Cell = list[int]

_NAMED_TYPES: Final = frozenset(int(t) for t in Type)
_NAMED_RCODES: Final = frozenset(int(r) for r in Rcode)
MAX_UPSTREAMS: Final = 8
_INFO: Final = {"udp_path": "The UDP path in use."}
LONG_SLICE: Final = 0.002  # seconds of CPU time after which a callback should have returned


def rcode_name(rcode: int) -> str:
    """Return the name of an RCODE, for a label."""
    return Rcode(rcode).name if rcode in _NAMED_RCODES else str(rcode)


class Histogram:
    """Durations in seconds, counted in buckets."""

    PROPAGATION: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
    # From a repeated reply (about 5 µs) through a computed one (about 30 µs) to one from an
    # upstream. Few bounds, because each is one series per kind.
    REQUEST: Final = (0.00001, 0.00002, 0.00005, 0.0002, 0.001, 0.01, 0.1, 1.0)
    # A slice should end after 2 ms.
    SLICE: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0)

    def __init__(self, bounds: tuple[float, ...] = PROPAGATION) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count *times* durations of *seconds* each. A negative duration (a clock set back) adds
        nothing to the sum."""
        self.counts[bisect_left(self.bounds, seconds)] += times
        if seconds > 0:
            self.total += seconds * times

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative buckets: upper bound and count."""
        bounds = (*map(floatToGoString, self.bounds), "+Inf")
        return [(bound, float(sum(self.counts[: at + 1]))) for at, bound in enumerate(bounds)]


def _versions() -> dict[str, str]:
    return {
        "version": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


@dataclass(slots=True, eq=False)
class Metrics:
    """The counters of one server, and callables that read values held elsewhere."""

    # By protocol and address family.
    requests: dict[tuple[str, str], Cell] = field(default_factory=lambda: defaultdict(lambda: [0]))
    # By kind, RCODE and QTYPE.
    responses: dict[tuple[str, int, int], Cell] = field(
        default_factory=lambda: defaultdict(lambda: [0])
    )
    drops: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    forwards: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by outcome
    forward_seconds: Histogram = field(default_factory=Histogram)
    upstreams: Callable[[], Sequence[UpstreamFigures]] | None = None
    cache_hits: Callable[[], dict[str, int]] = dict
    propagation: Histogram = field(default_factory=Histogram)
    durations: dict[str, Histogram] = field(
        default_factory=lambda: defaultdict(lambda: Histogram(Histogram.REQUEST))
    )
    slices: Histogram = field(default_factory=lambda: Histogram(Histogram.SLICE))
    longest_slice: float = 0.0
    long_slices: int = 0
    leaks: int = 0
    partial: Cell = field(default_factory=lambda: [0])
    errors: int = 0
    gauges: list[tuple[str, str, Callable[[], float]]] = field(default_factory=list)
    counters: list[tuple[str, str, Callable[[], float]]] = field(default_factory=list)
    # Whole families, with labels of their own.
    families: list[Callable[[], Iterable[Metric]]] = field(default_factory=list)
    info: dict[str, str] = field(default_factory=dict)
    build: dict[str, str] = field(default_factory=_versions)
    # Called before each scrape, to add counts held elsewhere.
    before_collecting: list[Callable[[], None]] = field(default_factory=list)

    def response(self, kind: str, rcode: int, qtype: int) -> Cell:
        """Return the counter of replies with these properties."""
        return self.responses[kind, rcode, qtype if qtype in _NAMED_TYPES else 0]

    def drop(self, reason: str) -> None:
        self.drops[reason] += 1

    def slice(self, seconds: float) -> None:
        """Record that one callback held the event loop for *seconds* of CPU time."""
        self.slices.observe(seconds)
        if seconds > LONG_SLICE:
            self.long_slices += 1
            self.longest_slice = max(self.longest_slice, seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield all metric families; the collector interface of prometheus-client."""
        for update in self.before_collecting:
            update()
        received = CounterMetricFamily(
            "internal_dns_requests",
            "Number of messages received from clients, answered or not.",
            labels=["proto", "family"],
        )
        for (proto, family), cell in self.requests.items():
            received.add_metric([proto, family], cell[0])
        yield received
        by_type: dict[str, int] = defaultdict(int)
        by_rcode: dict[tuple[str, str], int] = defaultdict(int)
        for (kind, rcode, qtype), cell in self.responses.items():
            by_type[Type(qtype).name if qtype else "other"] += cell[0]
            by_rcode[rcode_name(rcode), kind] += cell[0]
        yield _family(
            "internal_dns_questions", "Number of queries answered, by QTYPE.", ["type"], by_type
        )
        yield _family(
            "internal_dns_responses",
            "Number of responses sent, by RCODE and kind.",
            ["rcode", "kind"],
            by_rcode,
        )
        words = "Seconds from reading a message to its reply, by kind."
        took = HistogramMetricFamily(
            "internal_dns_request_duration_seconds", words, labels=["kind"]
        )
        for kind, histogram in sorted(self.durations.items()):
            took.add_metric([kind], histogram.buckets(), histogram.total)
        yield took
        yield _family(
            "internal_dns_drops",
            "Number of messages without a reply and of connections closed early, by reason.",
            ["reason"],
            self.drops,
        )
        yield _family(
            "internal_dns_forward_outcomes",
            "Number of forwarded queries, by outcome.",
            ["outcome"],
            self.forwards,
        )
        if self.upstreams is not None:
            yield from _upstream_families(self.upstreams())
        seconds = self.forward_seconds
        words = (
            "Seconds from the first message to an upstream to the outcome, for uncached queries."
        )
        yield HistogramMetricFamily(
            "internal_dns_forward_duration_seconds", words, seconds.buckets(), seconds.total
        )
        yield _family(
            "internal_dns_cache_hits",
            "Number of replies found in the forwarder's cache, by age.",
            ["age"],
            self.cache_hits(),
        )
        words = "CPU seconds for which one slice of work for clients held the event loop."
        yield HistogramMetricFamily(
            "internal_dns_event_loop_slice_seconds",
            words,
            self.slices.buckets(),
            self.slices.total,
        )
        words = "Number of slices that held the event loop for more than 2 ms."
        yield CounterMetricFamily(
            "internal_dns_event_loop_long_slices", words, value=self.long_slices
        )
        words = "CPU seconds of the longest slice over 2 ms."
        yield GaugeMetricFamily(
            "internal_dns_event_loop_longest_slice_seconds", words, value=self.longest_slice
        )
        words = "Number of replies withheld because they held an address of another network."
        yield CounterMetricFamily("internal_dns_isolation_failures", words, value=self.leaks)
        words = "Number of TCP replies with only part of a set or list, too large for a message."
        yield CounterMetricFamily("internal_dns_partial_replies", words, value=self.partial[0])
        yield CounterMetricFamily(
            "internal_dns_errors",
            "Number of unexpected exceptions while answering.",
            value=self.errors,
        )
        for name, words, read in self.counters:
            yield CounterMetricFamily(name, words, value=read())
        for name, words, read in self.gauges:
            yield GaugeMetricFamily(name, words, value=read())
        for read_all in self.families:
            yield from read_all()
        words = "Seconds from a commit in an owned catalog until answers reflect it."
        yield HistogramMetricFamily(
            "internal_dns_propagation_seconds",
            words,
            self.propagation.buckets(),
            self.propagation.total,
        )
        for key, value in self.info.items():
            yield InfoMetricFamily(f"internal_dns_{key}", _INFO[key], {"path": value})
        yield InfoMetricFamily(
            "internal_dns_build", "Versions of the running programs.", self.build
        )


@dataclass(frozen=True, slots=True)
class UpstreamFigures:
    """One upstream as `/metrics`, the API and the console show it. `to` is its URL."""

    to: str
    up: bool
    success_ratio: float  # of the last 64 names
    latency_seconds: float  # smoothed; 0 before the first reply
    outstanding: int
    queries: dict[str, int]  # by protocol
    replies: dict[str, int]  # by RCODE
    failures: dict[str, int]  # by reason


def _upstream_families(found: Sequence[UpstreamFigures]) -> Iterator[Metric]:
    """Yield the families with the label `to`, for the first eight upstreams to limit the series."""
    queries, replies, failures = (defaultdict[tuple[str, str], int](int) for _ in range(3))
    up = GaugeMetricFamily(
        "internal_dns_forward_healthy", "1 while an upstream answers, else 0.", labels=["to"]
    )
    latency = GaugeMetricFamily(
        "internal_dns_forward_latency_seconds",
        "Smoothed seconds from a message to an upstream to its reply.",
        labels=["to"],
    )
    for figures in found[:MAX_UPSTREAMS]:
        up.add_metric([figures.to], float(figures.up))
        latency.add_metric([figures.to], figures.latency_seconds)
        for counts, into in (
            (figures.queries, queries),
            (figures.replies, replies),
            (figures.failures, failures),
        ):
            for label, count in counts.items():
                into[figures.to, label] += count
    yield _family(
        "internal_dns_forward_queries",
        "Number of messages sent to upstreams, by protocol.",
        ["to", "proto"],
        queries,
    )
    yield _family(
        "internal_dns_forward_replies",
        "Number of replies from upstreams that matched a query, by RCODE.",
        ["to", "rcode"],
        replies,
    )
    yield _family(
        "internal_dns_forward_failures",
        "Number of attempts without a usable reply, by reason.",
        ["to", "reason"],
        failures,
    )
    yield up
    yield latency


def _family(
    name: str, words: str, labels: list[str], counts: dict[str, int] | dict[tuple[str, str], int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, words, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric([values] if isinstance(values, str) else list(values), count)
    return family


def registry(metrics: Metrics) -> CollectorRegistry:
    """Return the registry of *metrics* and of the process's CPU, memory, descriptors and start."""
    collectors = CollectorRegistry()
    collectors.register(metrics)
    ProcessCollector(registry=collectors)
    return collectors
