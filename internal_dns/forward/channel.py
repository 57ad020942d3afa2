"""Ways to query an upstream other than by single UDP messages, and how they fail.

`streams.py` implements DNS over TCP and TLS, `https.py` DNS over HTTPS. A lost connection costs a
new one, never the query.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class NoReply(ConnectionError):
    """The upstream was reached and did not answer: it closed the connection, or sent something
    else."""


class NotSent(NoReply):
    """The connection had ended before the query was written to it."""


class Channel(Protocol):
    """A way to query one upstream."""

    async def ask(
        self, query: bytes, may_resend: Callable[[], bool], *, retry: bool = False
    ) -> tuple[bytes, int]:
        """Return the reply to *query*, which lacks its id, with the id 0, and the reply's age in
        seconds. Raises OSError; NoReply when the upstream was reached.

        *may_resend* is called before the query, which the upstream may have read, is sent again on
        another connection. *retry*: an attempt before this one is still without a reply.
        """

    async def close(self) -> None:
        """Close all connections."""


class Silence:
    """How long a connection has been silent since a query was sent on it.

    A single query does not wait long enough to tell: another upstream's reply ends it, and a probe
    is short. So the first of perhaps many queries starts the silence, and only a reply ends it.
    """

    def __init__(self) -> None:
        self.since: float | None = None

    def start(self, now: float) -> None:
        if self.since is None:
            self.since = now

    def end(self) -> None:
        self.since = None

    def lasts(self, now: float, seconds: float) -> bool:
        """Return whether it has lasted for *seconds*."""
        return self.since is not None and now - self.since >= seconds


def never() -> bool:
    """Return False: a query that was sent again is not sent a third time."""
    return False


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Return a context that verifies certificates by the authorities in *ca* (PEM), or by the
    system's. Raises OSError or ssl.SSLError when *ca* cannot be used."""
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The names of a certificate are its subjectAltName: the common name is only words (RFC 8310
    # section 8.1, RFC 9525).
    context.hostname_checks_common_name = False
    return context
