"""The times of forwarding, in one value: tests pass their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Times:
    """How long the forwarder waits, in seconds."""

    # One query (plan.py).
    hedge: float = 0.4  # silence after which the next upstream is queried, too
    retry: float = 1.2  # silence after which the same upstream is queried again
    # glibc gives up, or queries again, after 5 s: the reply must be there before.
    patience: float = 4.4
    hopeless: float = 2.0  # patience while all upstreams of a query are known to be down

    # The cache.
    stale_after: float = 1.8  # when a stale reply is better than a late one (RFC 8767 section 5)
    failure: float = 2.0  # how long a failure is cached (RFC 9520 section 3.2)

    # The health of an upstream (health.py).
    avoid: float = 5.0  # how long another upstream is preferred to one that was silent
    probe: float = 1.0  # patience of a probe
    probe_again: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0)  # between probes: the last one repeats
    without_edns: float = 300.0  # how long an upstream that knows no EDNS is queried without

    # Shared UDP sockets (sockets.py).
    socket: float = 2.0  # life of a shared socket; how long an upstream is taken to be elsewhere

    # Persistent connections (streams.py, https.py).
    connect: float = 4.0  # to connect, TLS included: SYNs leave at 0, 1 and 3 s
    idle: float = 10.0  # without a query, after which a connection is closed
    silent: float = 1.2  # without any reply, after which a connection is given up
    busy: float = 1.0  # after a reply in which no connection is idle
    limited: float = 60.0  # how long an upstream is taken to limit the queries per connection
    goodbye: float = 0.5  # for the close_notify of TLS

    # Log lines.
    loop_again: float = 60.0  # between two warnings about a loop


TIMES: Final = Times()
