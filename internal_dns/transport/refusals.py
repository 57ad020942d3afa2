"""Log sources that are refused, at most one line per minute.

Otherwise a new host that is refused looks the same as one that sends no queries.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from internal_dns.core.catalog import Catalog
from internal_dns.core.journey import Rules, identify
from internal_dns.core.requester import Outsider
from internal_dns.core.wire import Query, Silent, read_query

INTERVAL: Final = 60  # seconds between two lines
_PROBE: Final = (b"localhost",)  # the watchdog's QNAME; its address is often refused

_log = logging.getLogger("internal_dns")


class Refusals:
    """Counts refused outsiders between two log lines."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._count = 0  # since the last line
        self._silent_until = 0.0

    def note(
        self, octets: bytes, source: bytes, destination: bytes, catalog: Catalog, rules: Rules
    ) -> None:
        """Log that *source* was refused, and which option would map it.

        The address may be forged; nothing else of the query is logged.
        """
        query = read_query(octets)
        if isinstance(query, Silent) or (isinstance(query, Query) and query.labels == _PROBE):
            return
        who = identify(query, source, destination, catalog, rules)
        if not isinstance(who, Outsider):
            return
        self._count += 1
        if (now := self.clock()) < self._silent_until:
            return
        _log.warning("%s", refusal(source, who.reason, self._count, rules.prefix))
        self._count, self._silent_until = 0, now + INTERVAL


def refusal(source: bytes, reason: str, count: int, prefix: bytes) -> str:
    """Return the log line about *source*, the last of *count* refused since the line before."""
    address: IPv4Address | IPv6Address = IPv6Address(source)
    assert isinstance(address, IPv6Address)
    address = address.ipv4_mapped or address
    line = f"refused a query from {address}: {reason}"
    if not source.startswith(prefix):
        line += f"; to serve it: --map-source {address}/{address.max_prefixlen}=NETWORK"
    if count > 1:
        line += f" ({count - 1:,} more were refused since the last such line)"
    return line
