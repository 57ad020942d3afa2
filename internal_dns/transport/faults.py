"""Answer SERVFAIL when the server itself failed on a message."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from internal_dns.core.message import Body, ReplyOptions, message
from internal_dns.core.wire import HEADER, Ede, Rcode, Silent, read_query
from internal_dns.metrics import Metrics
from internal_dns.transport.counting import qtype_of

INTERVAL: Final = 1  # seconds between two log lines

_log = logging.getLogger("internal_dns")


class Faults:
    """Counts every fault and logs at most one per second, with its traceback."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.metrics, self.clock = metrics, clock
        self._silent_until = 0.0

    def reply(self, octets: bytes, reason: str = "", *, forwarding: bool) -> bytes | None:
        """Return SERVFAIL for *octets*, or None if they must not be answered. *reason* is as for
        `note`."""
        self.note(octets, reason)
        query = read_query(octets)
        if isinstance(query, Silent):
            return None
        self.metrics.response("internal", Rcode.SERVFAIL, qtype_of(octets))[0] += 1
        body = Body(Rcode.SERVFAIL, aa=False, ede=(Ede.OTHER, "the server failed on this question"))
        return message(body, query, ReplyOptions(ra=forwarding))

    def note(self, octets: bytes, reason: str = "") -> None:
        """Count a fault, and log it if none was logged in the last second.

        Without *reason*, this is called while an exception is handled, which is logged.
        """
        self.metrics.errors += 1
        if (now := self.clock()) >= self._silent_until:
            self._silent_until = now + INTERVAL
            _log.error(
                "failed on a message: %s", reason or octets[:HEADER].hex(), exc_info=not reason
            )
