"""Tell the service manager how we are (sd_notify(3)): lines of text in one datagram to the socket
it names.

Nothing is told, and nothing fails, where no service manager asks for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

MICROSECONDS: Final = 1_000_000
STATUS_INTERVAL: Final = 1  # seconds between looks at the status

_log = logging.getLogger("internal_dns")


class ServiceManager:
    """Who started us, as the environment says."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog = (
            _watchdog(environment) if self.address else None
        )  # seconds within which it wants to hear of us
        self._told_failure = False

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """READY=1 must follow. The time stamp lets systemd match the two (Type=notify-reload)."""
        self._tell(
            "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000}"
        )

    def status(self, status: str) -> None:
        self._tell(f"STATUS={status}")

    async def follow(self, status: Callable[[], str]) -> None:
        """Keep `systemctl status` true, until cancelled."""
        told = status()
        while True:
            await asyncio.sleep(STATUS_INTERVAL)
            if (now := status()) != told:
                self.status(told := now)

    def stopping(self) -> None:
        self._tell("STOPPING=1", "STATUS=finishing what is in flight")

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self.address:
            return
        # A leading @ stands for the zero octet of an abstract socket's address.
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), address)
        except OSError as error:
            # Never wait for it, and never end over it: a watchdog that hears nothing acts by
            # itself.
            if not self._told_failure:
                self._told_failure = True
                _log.warning(
                    "cannot tell the service manager at %s: %s",
                    self.address,
                    error.strerror or error,
                )


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Return the interval in seconds, or None when no watchdog is on or it watches another
    process."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not microseconds.isascii() or not microseconds.isdigit() or not int(microseconds):
        return None
    return int(microseconds) / MICROSECONDS
