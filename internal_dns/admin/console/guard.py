"""The door: who may come in, and what every response says to the browser.

Without the token nothing of any tenant is shown. A page of another site can neither read ours (the
cookie is SameSite=Strict, and DNS rebinding fails at the Host header) nor frame it; and there is
nothing to change.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src "
        "'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # a referrer would hold the names of tenants
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
OPEN: Final = ("/login", "/static/")  # what may be seen without the token: nothing of any tenant


class Guard:
    """Stands before the app. *refused* is what those see who have no token yet."""

    def __init__(self, app: ASGIApp, token: str, refused: ASGIApp) -> None:
        self.app, self.ask_for_token = app, refused
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets
        headers = Headers(scope=scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    sent[name] = value
            await send(message)

        await self._choose(scope["path"], headers)(scope, receive, with_headers)

    def _choose(self, path: str, headers: Headers) -> ASGIApp:
        if not is_own_host(headers.get("host", "")):
            return PlainTextResponse(
                "This is the console of a DNS server. It answers to its address, or to localhost, "
                "and to no other "
                "name:\na name can be pointed here by a page you visit. Open it by the address of "
                "its start line.\n",
                421,
            )
        if path.startswith(OPEN) or self.knows(headers):
            return self.app
        return self.ask_for_token

    def knows(self, headers: Headers) -> bool:
        """Whether a request brings the cookie that the token was exchanged for."""
        brought = cookie_parser(headers.get("cookie", "")).get(
            cookie_name(headers.get("host", "")), ""
        )
        return same(brought, cookie_value(self.token))


def is_own_host(host: str) -> bool:
    """Whether a Host header is an address or localhost: a page that rebinds its own name to us is
    neither."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, ""
    if port and not (port.isascii() and port.isdigit()):
        return False
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name[1:-1] if name[:1] + name[-1:] == "[]" else name).version == (
            6 if "[" in name else 4
        )
    except ValueError:
        return False


def cookie_name(host: str) -> str:
    """Cookies know no ports: each console of a host has one of its own."""
    port = host.rpartition(":")[2]
    return f"internal_dns_console_{port if port.isdigit() else 80}"


def cookie_value(token: str) -> str:
    """What the token is exchanged for: who sees the cookie does not learn the token, and it
    outlives a restart."""
    return hmac.new(token.encode(), b"internal-dns console cookie", hashlib.sha256).hexdigest()


def same(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
