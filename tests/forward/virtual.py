"""An event loop whose clock stands still while anything happens, and jumps when nothing does.

Sockets are real. On loopback what was sent is there at once; a stream may take a moment, for which
`GRACE` is waited in real time before the clock jumps to the next timer. So a day passes in
milliseconds, and a wait of 1.8 s is 1.8 s sharp.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, Final

GRACE: Final = 0.002  # seconds


class _Selector(selectors.DefaultSelector):
    """Asks the real one without waiting, and passes the time instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or timeout == 0:
            return found
        found = super().select(GRACE if timeout is not None else None)
        if not found and timeout is not None:
            self.now += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `time()` is virtual."""

    def __init__(self) -> None:
        self.passing = _Selector()
        super().__init__(self.passing)

    def time(self) -> float:
        return self.passing.now


def run(story: Coroutine[Any, Any, None]) -> None:
    """Run *story* in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story)
