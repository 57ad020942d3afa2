"""The event loop: uvloop where it is installed, else asyncio's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

_log = logging.getLogger("internal_dns")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the loop; None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        _log.warning("uvloop is missing: serving on asyncio's own loop, at about half the speed")
        return None
    return uvloop.new_event_loop


def loop_name() -> str:
    """Name the loop that runs."""
    module = type(asyncio.get_running_loop()).__module__
    return "uvloop" if "uvloop" in module else "asyncio (uvloop is missing)"
