"""Report status to systemd (sd_notify(3)): lines of text in one datagram to NOTIFY_SOCKET.

Without NOTIFY_SOCKET in the environment, nothing is sent and nothing fails.
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
STATUS_INTERVAL: Final = 1  # seconds between checks for a changed status

_log = logging.getLogger("internal_dns")


class ServiceManager:
    """The service manager that started the server, according to the environment."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.address = environment.get("NOTIFY_SOCKET", "")
        # Seconds within which it expects WATCHDOG=1; None: no watchdog.
        self.watchdog = _watchdog(environment) if self.address else None
        self._failure_logged = False

    def ready(self, status: str) -> None:
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report a reload. READY=1 must follow; the timestamp lets systemd match the two."""
        self._send(
            "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000}"
        )

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}")

    async def follow(self, status: Callable[[], str]) -> None:
        """Keep the text in `systemctl status` up to date, until cancelled."""
        sent = status()
        while True:
            await asyncio.sleep(STATUS_INTERVAL)
            if (current := status()) != sent:
                self.status(sent := current)

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=finishing the queries in flight")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        # A leading @ stands for the zero octet of an abstract socket address.
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), address)
        except OSError as error:
            # Never block and never stop over this: a watchdog without a message acts by itself.
            if not self._failure_logged:
                self._failure_logged = True
                _log.warning(
                    "cannot report status to the service manager at %s: %s",
                    self.address,
                    error.strerror or error,
                )


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Return the interval in seconds; None without a watchdog, or with one for another process."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not microseconds.isascii() or not microseconds.isdigit() or not int(microseconds):
        return None
    return int(microseconds) / MICROSECONDS
