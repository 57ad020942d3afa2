"""The last minutes of the metrics, a sample a second, in memory: what the plots of the status page
are drawn from.

A DNS server has no use for a database of its own past; Prometheus has one (docs/metrics.md).
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
KEPT: Final = 300  # five minutes: what one looks at while one looks
TICKS: Final = 10  # how often a second the loop's delay is measured

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
    """The counters at one moment. `delay` is the longest that the loop kept anyone waiting since
    the sample before."""

    at: float
    counts: Mapping[Key, float]
    delay: float = 0.0
    upstreams: tuple[UpstreamFigures, ...] = ()


@dataclass(slots=True, eq=False)
class Sampler:
    """Takes the samples and keeps the newest."""

    metrics: Metrics
    upstreams: Callable[[], Sequence[UpstreamFigures]] = tuple
    kept: deque[Sample] = field(default_factory=lambda: deque(maxlen=KEPT + 1))
    keys: dict[Key, Key] = field(default_factory=dict)  # one object a key, however many samples

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
    """Return the rate of counter *name* between each two samples, by its label number *label*, or
    in all as ""."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0] * max(0, len(samples) - 1))
    for at, (before, after) in enumerate(pairwise(samples)):
        seconds = max(after.at - before.at, 1e-9)
        for key, value in after.counts.items():
            if key[0] == name:
                of = "" if label is None else key[1 + label]
                found[of][at] += (value - before.counts.get(key, 0.0)) / seconds
    return dict(found)


def in_buckets(samples: Sequence[Sample], name: str) -> list[tuple[str, float]]:
    """Return how many each bucket of histogram *name* got between the first and the last sample:
    (bound, count)."""
    if not samples:
        return []
    first, last = samples[0].counts, samples[-1].counts
    found, below = [], 0.0
    for key, value in last.items():  # in the histogram's order, each bucket holds those before
        if key[0] == name:
            here = value - first.get(key, 0.0)
            found.append((key[1], here - below))
            below = here
    return found
