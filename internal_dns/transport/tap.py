"""Watch questions as they are answered, on request only: nothing is kept while nobody looks, or
ever written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from random import random
from typing import NamedTuple

QUEUE = 1_000  # samples that wait for a slow reader; what comes then is counted, not kept


class Sample(NamedTuple):
    """One message and what became of it."""

    time: float  # Unix seconds at which the reply was there
    octets: bytes
    source: bytes
    destination: bytes
    stream: bool
    how: str  # repeated, decided, forwarded or dropped
    reply: bytes | None  # its header


class Tap:
    """Takes one in *every* messages, by chance, into `queue`."""

    def __init__(
        self, every: int = 1, *, size: int = QUEUE, draw: Callable[[], float] = random
    ) -> None:
        self.every, self.draw = every, draw
        self.queue: asyncio.Queue[Sample] = asyncio.Queue(size)
        self.skipped = 0

    def wants(self, one_in: int = 1) -> bool:
        """Whether the present message, itself *one_in* so many by chance, is one of those to
        show."""
        return self.every <= one_in or self.draw() * self.every < one_in

    def put(self, sample: Sample) -> None:
        try:
            self.queue.put_nowait(sample)
        except asyncio.QueueFull:
            self.skipped += 1


def show(taps: list[Tap], sample: Sample) -> None:
    for tap in taps:
        tap.put(sample._replace(time=time.time()))
