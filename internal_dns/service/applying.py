"""Apply commits on the event loop in slices, so that no commit blocks the loop for long."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter, thread_time
from typing import Any, Final

from internal_dns.core.catalog import Catalog

SLICE: Final = 0.002  # seconds until control returns to the event loop

_log = logging.getLogger("internal_dns")

Steps = Callable[[Catalog], Iterator[None]]  # Exchange.steps


class Applying:
    """The queue of new catalogs; the server switches to one after the other."""

    def __init__(
        self,
        steps: Steps,
        call_soon: Callable[[Callable[[], None]], Any],
        clock: Callable[[], float] = perf_counter,
        held: Callable[[float], None] | None = None,
    ) -> None:
        """*held* is called with the CPU seconds of each slice."""
        self._steps_of, self._call_soon, self._clock = steps, call_soon, clock
        self._held = held
        self._waiting: deque[tuple[Callable[[], Iterator[None]], Callable[[], None]]] = deque()
        self._steps: Iterator[None] | None = None

    def apply(self, catalog: Catalog, done: Callable[[], None]) -> None:
        """Switch to *catalog*, then call *done*: at once if that takes one slice, else later."""
        self._wait(lambda: self._steps_of(catalog), done)

    def go_on_with(self, steps: Iterator[None]) -> None:
        """Take *steps* in slices too, after everything that waits already."""
        self._wait(lambda: steps, lambda: None)

    def _wait(self, steps: Callable[[], Iterator[None]], done: Callable[[], None]) -> None:
        self._waiting.append((steps, done))
        if len(self._waiting) == 1:
            self._go_on()

    def _go_on(self) -> None:
        begin = thread_time()
        try:
            self._take_steps()
        finally:
            if self._held:
                self._held(thread_time() - begin)

    def _take_steps(self) -> None:
        end = self._clock() + SLICE
        while self._waiting:
            begin, done = self._waiting[0]
            try:
                self._steps = self._steps or begin()
                for _ in self._steps:
                    if self._clock() >= end:
                        self._call_soon(self._go_on)
                        return
            except Exception:
                # The catalog is in use all the same (AnswerTable.steps), and the next one must not
                # wait for ever.
                _log.exception("failed on applying a catalog; what was remembered is forgotten")
            self._steps = None
            try:
                done()
            except Exception:
                _log.exception("failed on telling that a catalog is applied")
            self._waiting.popleft()
