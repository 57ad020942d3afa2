"""Upstreams as operators write them, as URLs, and the rules that say which serve which suffix.

    udp://ADDR[:53]                       UDP; TCP after a truncated or a forged reply
    tcp://ADDR[:53]                       a persistent TCP connection
    tls://ADDR[:853][#NAME]               DNS over TLS, RFC 7858: a persistent connection
    https://ADDR[:443][/dns-query][#NAME] DNS over HTTPS, RFC 8484

The certificate must be for NAME; without NAME, for the address.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from internal_dns.net import Endpoint

PUBLIC: Final = ("udp://1.1.1.1", "udp://9.9.9.9")
RESOLV_CONF: Final = Path("/etc/resolv.conf")
PORTS: Final = {"udp": 53, "tcp": 53, "tls": 853, "https": 443}
# How sockets to upstreams are used (forward/sockets.py).
MODES: Final = ("auto", "fresh", "pool")
DOH_PATH: Final = "/dns-query"  # as in the examples of RFC 8484, and on most servers


@dataclass(frozen=True, slots=True)
class Upstream:
    """One upstream: its address and how to query it."""

    endpoint: Endpoint
    scheme: str = "udp"
    name: str = ""  # of the certificate
    path: str = ""  # of https

    @classmethod
    def parse(cls, url: str) -> Upstream:
        """Parse a URL as above, or a bare address. Raises ValueError with a text for operators."""
        if "@" in url or "?" in url:
            raise ValueError(
                f"{_without_secrets(url)!r} is not an upstream: write udp://, tcp://, tls:// or "
                "https://ADDR:PORT, without a user, a password or a query"
            )
        try:
            parts = urlsplit(url if "//" in url else f"udp://{_bracketed(url)}")
        except ValueError:
            parts = SplitResult("", "", "", "", "")
        if parts.scheme not in PORTS:
            raise ValueError(
                f"{url!r} is not an upstream: write udp://, tcp://, tls:// or https://ADDR:PORT"
            )
        try:
            endpoint = Endpoint.parse(parts.netloc, PORTS[parts.scheme])
        except ValueError as error:
            raise ValueError(_in_words(url, parts, error)) from None
        if not endpoint.port:
            raise ValueError(f"{url!r} is not an upstream: no server listens on port 0")
        encrypted = parts.scheme in ("tls", "https")
        if (parts.fragment and not encrypted) or (
            parts.path.strip("/") and parts.scheme != "https"
        ):
            raise ValueError(
                f"{url!r} is not an upstream: write {parts.scheme}://ADDR:PORT and nothing behind "
                f"it"
            )
        path = (parts.path.rstrip("/") or DOH_PATH) if parts.scheme == "https" else ""
        return cls(endpoint, parts.scheme, parts.fragment.lower(), path)

    @property
    def encrypted(self) -> bool:
        return self.scheme in ("tls", "https")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.endpoint}{self.path}{'#' * bool(self.name)}{self.name}"


def _without_secrets(url: str) -> str:
    """Return *url* without the parts that may be secret: all before the last @, and the query."""
    scheme = next((f"{known}://" for known in PORTS if url.startswith(f"{known}://")), "")
    user, at, rest = url.removeprefix(scheme).rpartition("@")
    host, mark, _ = rest.partition("?")
    return f"{scheme}{'…' if user else ''}{at}{host}{mark}{'…' if mark else ''}"


def _in_words(url: str, parts: SplitResult, error: ValueError) -> str:
    """Return what is wrong with the address. The usual mistake is a name in its place."""
    if (
        parts.hostname
        and parts.scheme in ("tls", "https")
        and not parts.hostname.replace(".", "").isdigit()
    ):
        return (
            f"{url!r}: a name cannot be looked up before there is an upstream: write "
            f"{parts.scheme}://ADDR#NAME"
        )
    return str(error)


def _bracketed(text: str) -> str:
    return f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text


@dataclass(frozen=True, slots=True)
class Rule:
    """The upstreams of one suffix. *allow_prefix*: they may return addresses of our own prefix."""

    upstreams: tuple[Upstream, ...]
    allow_prefix: bool = False


def public() -> tuple[Upstream, ...]:
    """Return the public upstreams, for a host that has none of its own."""
    return tuple(map(Upstream.parse, PUBLIC))


def from_resolv_conf(
    is_own: Callable[[Endpoint], bool], path: Path = RESOLV_CONF
) -> tuple[Upstream, ...]:
    """Return the host's own upstreams without this server's addresses, else public ones."""
    return named_in_resolv_conf(is_own, path) or public()


def named_in_resolv_conf(
    is_own: Callable[[Endpoint], bool], path: Path = RESOLV_CONF
) -> tuple[Upstream, ...]:
    """Return the host's own upstreams without this server's addresses; there may be none."""
    upstreams = []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for words in (line.split() for line in lines):
        if len(words) > 1 and words[0] == "nameserver":
            try:
                upstream = Upstream.parse(words[1])
            except ValueError:
                continue
            if not is_own(upstream.endpoint):
                upstreams.append(upstream)
    return tuple(upstreams)
