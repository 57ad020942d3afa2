"""Do the work of clients on the event loop: now if nothing waits, else in slices of the fair queue.

What each piece costs is measured, and paid by its network. A slice ends after a millisecond of CPU
time, or after the piece that goes beyond it. The next slice is a callback of its own, so that
sockets, timers and the admin port have their turn between two. The cost is the thread's CPU time:
nobody pays for waiting for Python's lock or for another process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from internal_dns.metrics import Metrics
from internal_dns.transport.fairness import OUTSIDERS, FairQueue

SLICE: Final = 0.001  # seconds after which no further piece is begun
# Seconds in one turn of the event loop after which nothing is decided without waiting, and after
# which nothing is repeated over TCP either. What then waits is read in smaller parts, by more
# system calls: with 2 ms for both, a repeated answer over TCP costs 9 to 12 % more (20 connections
# with 50 queries each).
AT_ONCE: Final = 0.002
REPEATED_AT_ONCE: Final = 0.004

Work = Callable[..., object]
Piece = tuple[Work, tuple[Any, ...], float]  # what to do, and until when it is worth doing
FOREVER: Final = float("inf")


class Loop(Protocol):
    """What is needed of an event loop."""

    def call_soon(self, callback: Callable[[], object], /) -> object: ...


class Scheduler:
    """The one place where work for clients is done or waits."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        queue: FairQueue[Piece] | None = None,
        cpu: Callable[[], float] = time.thread_time,
        clock: Callable[[], float] = time.monotonic,
        loop: Callable[[], Loop] = asyncio.get_running_loop,
    ) -> None:
        self.metrics, self.cpu, self.clock, self.loop = metrics, cpu, clock, loop
        self.queue: FairQueue[Piece] = queue or FairQueue()
        self.busy = False  # something waits, and a slice will come
        self.free = True  # nothing waits, and this turn of the event loop is not too long yet
        self._rested_since = clock()
        self._at_once = 0.0  # seconds of work done at once in this turn of the event loop
        self._resets = False
        self._turn_began = cpu()  # of `cpu`, in this turn or an earlier one

    # ── what waits ────────────────────────────────────────────────────────────────────────────────

    def put(
        self, payer: bytes, work: Work, *args: Any, size: int = 0, until: float = FOREVER
    ) -> bool:
        """Let *work* wait for its turn; False, and counted, when too much waits already.

        After *until* (of the clock) it is no longer done, which is counted too.
        """
        lost = self.queue.put(payer, (work, args, until), size)
        self._begin()
        if lost is None:
            self.metrics.drop("line")
            return False
        for _ in lost:
            self.metrics.drop("line")
        return True

    def must(self, payer: bytes, work: Work, *args: Any, size: int = 0) -> None:
        """Let *work* wait for its turn; there is always room for it, because the caller bounds how
        much there can be."""
        self.queue.put(payer, (work, args, FOREVER), size, must=True)
        self._begin()

    def must_for_any(self, payers: Iterable[bytes], work: Work, *args: Any) -> None:
        """Let *work* wait in the line of each of *payers*. The first whose turn it is pays for
        it."""
        once = _Once(work, args)
        for payer in dict.fromkeys(payers) or (OUTSIDERS,):
            self.must(payer, once)

    def must_wait(self, payer: bytes) -> bool:
        """Whether *payer* waits already, or has to wait for others."""
        queue = self.queue
        return self.busy and (payer in queue.lines.of or queue.balance(payer) <= 0)

    def charge(self, counts: Mapping[bytes, int], seconds: float) -> None:
        """Let the payers share the cost of work that was done at once."""
        each = seconds / sum(counts.values())
        for payer, count in counts.items():
            self.queue.spend(payer, each * count)

    # ── what need not wait ────────────────────────────────────────────────────────────────────────

    def try_now(self, payer: bytes, work: Work, *args: Any) -> bool:
        """Do *work* now if we are `free` and *payer* has credit; return whether it was done.

        The order is that of the queue, where a payer with credit is served as it comes, and the
        cost is charged as there. Only the queue's machinery is saved, several microseconds.
        """
        if not self.free or self._at_once >= AT_ONCE:
            return False
        queue, now = self.queue, self.clock()
        queue.rest(now - self._rested_since)
        self._rested_since = now
        if queue.balance(payer) <= 0:
            return False
        begin = self.cpu()
        try:
            work(*args)
        finally:
            took = self.cpu() - begin
            queue.spend(payer, took)
            self.metrics.slice(took)
            self.did_at_once(took)
            self._rested_since = self.clock()
        return True

    def did_at_once(self, seconds: float) -> None:
        """Count work that was done without waiting, in this turn of the event loop or shortly
        before it.

        *seconds* may be elapsed time, which costs no system call. On a busy machine it includes
        time in which others had the processor, so a turn is only called too long by its CPU time.
        """
        self._at_once += seconds
        if self._at_once < AT_ONCE:
            return
        if not self._resets:
            self._at_once = min(self._at_once, self.cpu() - self._turn_began)
            if self._at_once < AT_ONCE:
                return
            self._resets = True
            self.loop().call_soon(self._begin_turn)
        if self._at_once >= REPEATED_AT_ONCE:
            self._at_once = min(self._at_once, self.cpu() - self._turn_began)
            self.free = self.free and self._at_once < REPEATED_AT_ONCE

    def _begin_turn(self) -> None:
        self._resets, self._at_once, self._turn_began = False, 0.0, self.cpu()
        self.free = not self.busy

    # ── slices ────────────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        if not self.busy:
            self.busy, self.free = True, False
            self.queue.rest(self.clock() - self._rested_since)
            self.loop().call_soon(self.run)

    def run(self) -> None:
        """Work for one slice."""
        queue, cpu, now = self.queue, self.cpu, self.clock()
        begin = last = cpu()
        try:
            while last - begin < SLICE and (taken := queue.take()) is not None:
                payer, (work, args, until) = taken
                try:
                    if now <= until:
                        work(*args)
                    else:
                        self.metrics.drop("late")
                finally:
                    at = cpu()
                    queue.spend(payer, at - last)
                    last = at
        finally:
            self.metrics.slice(last - begin)
            if queue:
                self.loop().call_soon(self.run)
            else:
                self.busy, self.free = False, self._at_once < REPEATED_AT_ONCE
                self._rested_since = self.clock()


class _Once:
    """Work that waits in several lines."""

    __slots__ = ("args", "work")

    def __init__(self, work: Work, args: tuple[Any, ...]) -> None:
        self.work: Work | None = work
        self.args = args

    def __call__(self) -> None:
        if self.work is not None:
            work, self.work = self.work, None
            work(*self.args)
