"""The metrics of the last minutes, one sample per second in memory, for the plots of the status
page.

A longer history belongs in a monitoring system such as Prometheus (docs/metrics.md).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from internal_dns.metrics import Metrics, UpstreamFigures

INTERVAL: Final = 1.0
KEPT: Final = 300  # samples kept: five minutes
TICKS: Final = 10  # measurements of the event loop's delay per second

Key = tuple[str, ...]

_WANTED: Final = frozenset(
    {
        "internal_dns_requests_total",
        "internal_dns_responses_total",
        "internal_dns_drops_total",
        "internal_dns_answer_table_hits_total",
        "internal_dns_propagation_seconds_bucket",
    }
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters at one moment. `delay` is the longest delay of the event loop since the previous
    sample."""

    at: float
    counts: Mapping[Key, float]
    delay: float = 0.0
    upstreams: tuple[UpstreamFigures, ...] = ()


@dataclass(slots=True, eq=False)
class Sampler:
    """Takes samples and keeps the newest ones."""

    metrics: Metrics
    upstreams: Callable[[], Sequence[UpstreamFigures]] = tuple
    kept: deque[Sample] = field(default_factory=lambda: deque(maxlen=KEPT + 1))
    keys: dict[Key, Key] = field(default_factory=dict)  # so that all samples share their keys

    def take(self, now: float, delay: float = 0.0) -> None:
        """Take a sample at *now*."""
        counts = {
            self.keys.setdefault(key, key): sample.value
            for family in self.metrics.collect()
            for sample in family.samples
            if sample.name in _WANTED
            for key in [(sample.name, *sample.labels.values())]
        }
        self.kept.append(Sample(now, counts, delay, tuple(self.upstreams())))

    async def run(self) -> None:
        """Take a sample every second until cancelled."""
        loop = asyncio.get_running_loop()
        self.take(loop.time())
        while True:
            longest, begin = 0.0, loop.time()
            for tick in range(1, TICKS + 1):
                due = begin + tick * INTERVAL / TICKS
                await asyncio.sleep(max(0.0, due - loop.time()))
                longest = max(longest, loop.time() - due)
            self.take(loop.time(), longest)


def per_second(
    samples: Sequence[Sample], name: str, label: int | None = None
) -> dict[str, list[float]]:
    """Return the rates of counter *name* between consecutive samples.

    They are keyed by the value of label number *label*; without one, the key is "".
    """
    found: dict[str, list[float]] = defaultdict(lambda: [0.0] * max(0, len(samples) - 1))
    for at, (before, after) in enumerate(pairwise(samples)):
        seconds = max(after.at - before.at, 1e-9)
        for key, value in after.counts.items():
            if key[0] == name:
                of = "" if label is None else key[1 + label]
                found[of][at] += (value - before.counts.get(key, 0.0)) / seconds
    return dict(found)


def in_buckets(samples: Sequence[Sample], name: str) -> list[tuple[str, float]]:
    """Return (bound, count) per bucket of histogram *name*, between the first and last sample."""
    if not samples:
        return []
    first, last = samples[0].counts, samples[-1].counts
    buckets, below = [], 0.0
    for key, value in last.items():  # in ascending order; each bucket includes the previous ones
        if key[0] == name:
            cumulative = value - first.get(key, 0.0)
            buckets.append((key[1], cumulative - below))
            below = cumulative
    return buckets
