"""The NATS client, made safe against servers that want no TLS and against messages that it cannot
read.

Imported when it is used: it needs the client library.
"""

from __future__ import annotations

from typing import Any

import nats.errors
from nats.aio.client import Client


class SafeClient(Client):  # type: ignore[misc, unused-ignore]
    """One connection. *tls*: no credentials and no question are sent without it. *certificate*: we
    have one of our own.

    The library has no other place for these three than methods of its own:
    tests/live/test_replicate.py sees that they are still called.
    """

    def __init__(self, tls: bool, certificate: bool) -> None:
        super().__init__()
        self.tls, self.certificate = tls, certificate

    def _connect_command(self) -> bytes:
        # Called when TLS is there if the server has asked for it; whoever is between could leave
        # that out.
        if self.tls and not self._server_info.get("tls_required"):
            raise nats.errors.Error(
                "the server does not offer TLS, and the address asks for it: nothing was sent"
            )
        # By TLS 1.3 the handshake is over for us before the server refuses it, and its reason may
        # be lost in the reset that follows. So we say it ourselves.
        if self.tls and self._server_info.get("tls_verify") and not self.certificate:
            raise nats.errors.Error(
                "the server asks for a client's certificate, and the address names none: "
                "?cert=FILE&key=FILE"
            )
        return super()._connect_command()

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        # An exception ends the library's reading without a word: one such message would stop every
        # host.
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError):
            return None

    def _build_message(self, sid: int, subject: bytes, *rest: Any) -> Any:
        # A subject may be any octets.
        return super()._build_message(
            sid, subject.decode("utf-8", "backslashreplace").encode(), *rest
        )
