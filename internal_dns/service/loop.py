"""The event loop: uvloop if it is installed, else asyncio's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

_log = logging.getLogger("internal_dns")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of the event loop; None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        _log.warning(
            "uvloop is not installed: using asyncio's own event loop, at about half the speed"
        )
        return None
    return uvloop.new_event_loop


def loop_name() -> str:
    """Return the name of the running loop."""
    module = type(asyncio.get_running_loop()).__module__
    return "uvloop" if "uvloop" in module else "asyncio (uvloop is not installed)"
