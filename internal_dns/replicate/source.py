"""The address of a bucket: `nats://HOST[:PORT][,HOST…]/BUCKET?creds=FILE`. Never prints secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

PORT: Final = 4222
BUCKET: Final = "internal-dns"
_OPTIONS: Final = ("creds", "nkey", "token_file", "ca", "cert", "key")  # each names a file
_EXAMPLE: Final = "nats://nats.example:4222/internal-dns?creds=/etc/internal-dns/nats.creds"


@dataclass(frozen=True, slots=True)
class Source:
    """The bucket that a catalog follows or is published to. `servers` are host:port, `files` pairs
    of option and path."""

    servers: tuple[str, ...]
    bucket: str = BUCKET
    tls: bool = False
    user: str = ""
    password: str = ""
    files: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{'tls' if self.tls else 'nats'}://{','.join(self.servers)}/{self.bucket}"

    def without_secrets(self) -> str:
        """Return the address with its options, without user, password and token."""
        options = urlencode(dict(self.files), safe="/")
        return f"{self}?{options}" if options else str(self)

    def __repr__(self) -> str:
        return f"Source({self})"  # neither user nor password reaches a log or a traceback

    def file(self, option: str) -> str | None:
        """Return the file that *option* of the address names."""
        return dict(self.files).get(option)

    @classmethod
    def parse(cls, text: str) -> Source:
        """Parse an address. Raises ValueError, whose text contains no possible secret."""
        try:
            url = urlsplit(text)
            options = dict(parse_qsl(url.query, strict_parsing=bool(url.query)))
        except ValueError:
            raise ValueError(f"not a valid bucket address; an example: {_EXAMPLE}") from None
        if url.scheme not in ("nats", "tls"):
            raise ValueError(
                f"a bucket address starts with nats:// or tls://, for example {_EXAMPLE}"
            )
        login, _, hosts = url.netloc.rpartition("@")
        user, _, password = login.partition(":")
        bucket = url.path.strip("/") or BUCKET
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", bucket):
            raise ValueError("a bucket name has 1 to 64 letters, digits, - or _")
        if not options.keys() <= set(_OPTIONS):  # not repeated: it may be part of a password
            raise ValueError(
                f"the address has an unknown option; known are {', '.join(_OPTIONS)}. Write ? in a "
                "user or password as %3F"
            )
        servers = tuple(_server(host) for host in hosts.split(","))
        tls = url.scheme == "tls" or bool(options.keys() & {"ca", "cert"})
        return cls(
            servers, bucket, tls, unquote(user), unquote(password), tuple(sorted(options.items()))
        )


def _server(text: str) -> str:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", text)
    if not match or int(match[2] or PORT) > 65_535:
        raise ValueError(
            f"the address has no valid HOST or HOST:PORT before the bucket; an example: {_EXAMPLE}"
        )
    return f"{match[1]}:{match[2] or PORT}"
