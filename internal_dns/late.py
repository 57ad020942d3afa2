"""A reply that is still being computed: a future, instead of a task per waiting query."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Late(asyncio.Future[bytes]):
    """The future reply to one message. A receiver that no longer needs it cancels it."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self._receivers: list[Callable[[bytes], object]] = []

    def when_there(self, take: Callable[[bytes], object]) -> None:
        """Call *take* with the reply as soon as it is set.

        That happens while the network of the reply has the CPU, so it pays for sending. The
        callbacks of a future would run later.
        """
        self._receivers.append(take)

    def have(self, reply: bytes) -> None:
        """Set the reply and pass it to the receivers, in the order of their registration."""
        self.set_result(reply)
        receivers, self._receivers = self._receivers, []
        for take in receivers:
            take(reply)

    def cancel(self, msg: Any | None = None) -> bool:
        self._receivers.clear()
        return super().cancel(msg)
