"""Access control: the Host header, the token, and the security headers of every response.

Without the token, no page shows anything of a tenant. A page of another site can neither read a
page of the console (the cookie is SameSite=Strict, and the Host check defeats DNS rebinding) nor
frame it. No page changes anything.
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
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # a referrer would contain names of tenants
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
OPEN: Final = ("/login", "/static/")  # paths that need no token; they show nothing of a tenant


class Guard:
    """Wraps *app*. Requests without the token go to *ask_for_token* instead."""

    def __init__(self, app: ASGIApp, token: str, ask_for_token: ASGIApp) -> None:
        self.app, self.ask_for_token = app, ask_for_token
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
                "This is the console of a DNS server. It accepts only its IP address or localhost "
                "as Host,\nbecause a page you visit could point any other name here. Use the "
                "address in the server's start line.\n",
                421,
            )
        if path.startswith(OPEN) or self.is_logged_in(headers):
            return self.app
        return self.ask_for_token

    def is_logged_in(self, headers: Headers) -> bool:
        """Return whether a request has the cookie for which the token was exchanged."""
        cookies = cookie_parser(headers.get("cookie", ""))
        cookie = cookies.get(cookie_name(headers.get("host", "")), "")
        return same(cookie, cookie_value(self.token))


def is_own_host(host: str) -> bool:
    """Return whether a Host header is an address or localhost. A rebound name is neither."""
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
    """Return the name of the cookie, with the port: cookies are shared by all ports of a host."""
    port = host.rpartition(":")[2]
    return f"internal_dns_console_{port if port.isdigit() else 80}"


def cookie_value(token: str) -> str:
    """Return the cookie for a token. It does not reveal the token, and it outlives a restart."""
    return hmac.new(token.encode(), b"internal-dns console cookie", hashlib.sha256).hexdigest()


def same(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
