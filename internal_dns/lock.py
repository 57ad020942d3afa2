"""Python's own lock: let the event loop have it soon while another thread works."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

# Seconds that a working thread may hold the interpreter while the event loop wants it. With
# Python's default, 5 ms, every wake-up of the loop would wait that long.
SWITCH: Final = 0.001


class _Turns:
    """Who needs short turns now, and the interval before the first of them."""

    def __init__(self) -> None:
        self.guard, self.users, self.usual = Lock(), 0, 0.0


_TURNS: Final = _Turns()


@contextmanager
def short_turns() -> Iterator[None]:
    """Limit turns to SWITCH during the body. Several threads may be in here at the same time."""
    with _TURNS.guard:
        if not _TURNS.users:
            _TURNS.usual = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH)
        _TURNS.users += 1
    try:
        yield
    finally:
        with _TURNS.guard:
            _TURNS.users -= 1
            if not _TURNS.users:
                sys.setswitchinterval(_TURNS.usual)
