"""Watch queries as they are answered. Nothing is recorded while nobody watches, or ever written.

Exchange, native workers ─► Taps ─► Tap.queue ─► `watch --queries`, the console
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from random import random
from typing import Final, Literal, NamedTuple

from internal_dns.core.wire import HEADER
from internal_dns.late import Late

QUEUE: Final = 1_000  # samples that wait for a slow reader; more are counted and discarded

How = Literal["repeated", "decided", "forwarded", "dropped"]


class Sample(NamedTuple):
    """One message and how it was answered."""

    time: float  # Unix seconds at which the reply was ready
    octets: bytes
    source: bytes
    destination: bytes
    stream: bool
    how: How
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
        """Whether to take the present message, which is itself one in *one_in* by chance."""
        return self.every <= one_in or self.draw() * self.every < one_in

    def put(self, sample: Sample) -> None:
        try:
            self.queue.put_nowait(sample)
        except asyncio.QueueFull:
            self.skipped += 1


class Taps:
    """All open taps. `open` is tested for each message, and costs nothing else while it is
    empty."""

    def __init__(self, watch_native: Callable[[int], None]) -> None:
        """*watch_native* is called with how many messages the native path shows one of; 0: none."""
        self.open: list[Tap] = []
        self.watch_native = watch_native
        self._one_in = 0  # as `watch_native` was last told

    def __iter__(self) -> Iterator[Tap]:
        return iter(self.open)

    def __len__(self) -> int:
        return len(self.open)

    def add(self, tap: Tap) -> None:
        """Show messages to *tap* until `remove`."""
        self.open.append(tap)
        self.watch()

    def remove(self, tap: Tap) -> None:
        self.open.remove(tap)
        self.watch()

    def watch(self) -> None:
        """Have the native path show as many of its messages as the taps want."""
        self._one_in = min((tap.every for tap in self.open), default=0)
        self.watch_native(self._one_in)

    def show(
        self,
        how: How,
        octets: bytes,
        source: bytes,
        destination: bytes,
        reply: bytes | None,
        *,
        stream: bool = False,
        one_in: int = 1,
    ) -> None:
        """Show a message, one in *one_in*, and its reply to the taps that want it."""
        if taps := [tap for tap in self.open if tap.wants(one_in)]:
            _put(taps, how, octets, source, destination, reply, stream)

    def show_late(
        self, octets: bytes, source: bytes, destination: bytes, reply: Late, *, stream: bool
    ) -> None:
        """Show a forwarded message when its reply is ready."""
        if taps := [tap for tap in self.open if tap.wants()]:
            reply.when_there(
                lambda made: _put(taps, "forwarded", octets, source, destination, made, stream)
            )

    def show_native(
        self, octets: bytes, source: bytes, destination: bytes, header: bytes | None
    ) -> None:
        """Show what the native path repeated, with the reply's header, or dropped, with None."""
        how: How = "dropped" if header is None else "repeated"
        self.show(how, octets, source, destination, header, one_in=self._one_in)

    def skip_native(self, count: int) -> None:
        """Count *count* messages that the native path was to show and had no room for."""
        for tap in self.open:
            tap.skipped += count * self._one_in // tap.every


def _put(
    taps: list[Tap],
    how: How,
    octets: bytes,
    source: bytes,
    destination: bytes,
    reply: bytes | None,
    stream: bool,
) -> None:
    # The header says enough; a thousand whole replies waiting to be shown could be 64 MiB.
    header = reply and reply[:HEADER]
    sample = Sample(time.time(), octets, source, destination, stream, how, header)
    for tap in taps:
        tap.put(sample)
