"""A reply that is not there yet: a future, not a task for each question that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Late(asyncio.Future[bytes]):
    """The reply to one message, when it is there. Whoever cancels it no longer wants it."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        # Called with the reply before anybody else has it: it may count, and must not raise.
        self.first: Callable[[bytes], object] | None = None

    def have(self, reply: bytes) -> None:
        """Let those who wait have *reply*."""
        if self.first is not None:
            self.first(reply)
        self.set_result(reply)
