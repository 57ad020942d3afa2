"""A reply that is not there yet: a future, not a task for each question that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Late(asyncio.Future[bytes]):
    """The reply to one message, when it is there. Whoever cancels it no longer wants it."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self._then: list[Callable[[bytes], object]] = []

    def when_there(self, take: Callable[[bytes], object]) -> None:
        """Have *take* called with the reply as soon as it is there: within the turn of the network
        that it is for, which so pays for sending it. A future's own callbacks come later."""
        self._then.append(take)

    def have(self, reply: bytes) -> None:
        """Let those who wait have *reply*, in the order in which they came."""
        self.set_result(reply)
        then, self._then = self._then, []
        for take in then:
            take(reply)

    def cancel(self, msg: Any | None = None) -> bool:
        self._then.clear()
        return super().cancel(msg)
