"""The event loop: uvloop if it is installed, else asyncio's own; and the end of its signals."""

from __future__ import annotations

import asyncio
import logging
import signal
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


def ignore_signals(*numbers: signal.Signals) -> None:
    """Ignore *numbers*, which the running loop handled, until the process ends.

    A loop that closes restores the default actions. A second SIGTERM, or a SIGHUP, would then kill
    the process before its exit, and the service manager would see a failure.
    """
    loop = asyncio.get_running_loop()
    # The default action is in force between the two calls below.
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
