"""The NATS client, hardened against servers without TLS and messages that the library cannot parse.

Imported on first use, because it needs the client library.
"""

from __future__ import annotations

from typing import Any

import nats.errors
from nats.aio.client import Client


class SafeClient(Client):  # type: ignore[misc, unused-ignore]
    """One connection. *tls*: send nothing, credentials included, without TLS. *certificate*: the
    address names a client certificate.

    The library offers no other hook for these three changes than its private methods.
    tests/live/test_replicate.py checks that the library still calls them.
    """

    def __init__(self, tls: bool, certificate: bool) -> None:
        super().__init__()
        self.tls, self.certificate = tls, certificate

    def _connect_command(self) -> bytes:
        # The library has started TLS only if the server asked for it; a man in the middle could
        # remove that request.
        if self.tls and not self._server_info.get("tls_required"):
            raise nats.errors.Error(
                "the server does not offer TLS, which the address requires; nothing was sent"
            )
        # With TLS 1.3 the client's handshake ends before the server rejects it, and the reset that
        # follows may lose the server's reason. So the client states the reason itself.
        if self.tls and self._server_info.get("tls_verify") and not self.certificate:
            raise nats.errors.Error(
                "the server requires a client certificate and the address names none; add "
                "?cert=FILE&key=FILE"
            )
        return super()._connect_command()

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        # An exception ends the library's read loop silently: one such message would stop every
        # host.
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError):
            return None

    def _build_message(self, sid: int, subject: bytes, *rest: Any) -> Any:
        # A subject may hold any octets.
        return super()._build_message(
            sid, subject.decode("utf-8", "backslashreplace").encode(), *rest
        )
