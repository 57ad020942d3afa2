"""The address of a bucket: `nats://HOST[:PORT][,HOST…]/BUCKET?creds=FILE`. Its secrets are never
printed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

PORT: Final = 4222
BUCKET: Final = "internal-dns"
_OPTIONS: Final = ("creds", "nkey", "token_file", "ca", "cert", "key")  # each a file
_EXAMPLE: Final = "nats://nats.example:4222/internal-dns?creds=/etc/internal-dns/nats.creds"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a catalog is followed from, or published to. `servers` are host:port; `files` by
    option."""

    servers: tuple[str, ...]
    bucket: str = BUCKET
    tls: bool = False
    user: str = ""
    password: str = ""
    files: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{'tls' if self.tls else 'nats'}://{','.join(self.servers)}/{self.bucket}"

    def without_secrets(self) -> str:
        """Return the address with its options, which are names of files; user, password and token
        left out."""
        options = urlencode(dict(self.files), safe="/")
        return f"{self}?{options}" if options else str(self)

    def __repr__(self) -> str:
        return f"Source({self})"  # neither user nor password reaches a log or a traceback

    def file(self, option: str) -> str | None:
        """Return the file of an option of the address."""
        return dict(self.files).get(option)

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read an address. Raises ValueError, whose words never hold what may be a secret."""
        try:
            url = urlsplit(text)
            options = dict(parse_qsl(url.query, strict_parsing=bool(url.query)))
        except ValueError:
            raise ValueError(f"that is no address of a bucket: write {_EXAMPLE}") from None
        if url.scheme not in ("nats", "tls"):
            raise ValueError(
                f"the address of a bucket starts with nats:// or tls://, such as {_EXAMPLE}"
            )
        login, _, hosts = url.netloc.rpartition("@")
        user, _, password = login.partition(":")
        bucket = url.path.strip("/") or BUCKET
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", bucket):
            raise ValueError("a bucket's name is 1 to 64 of letters, digits, - and _")
        if not options.keys() <= set(_OPTIONS):  # unnamed: it may be a part of a password
            raise ValueError(
                f"the address has an option that is none of {', '.join(_OPTIONS)}; in a user or "
                "password write ? as %3F"
            )
        servers = tuple(_server(host) for host in hosts.split(","))
        tls = url.scheme == "tls" or bool(options.keys() & {"ca", "cert"})
        return cls(
            servers, bucket, tls, unquote(user), unquote(password), tuple(sorted(options.items()))
        )


def _server(text: str) -> str:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", text)
    if not found or int(found[2] or PORT) > 65_535:
        raise ValueError(
            f"the address names no HOST or HOST:PORT before the bucket: write {_EXAMPLE}"
        )
    return f"{found[1]}:{found[2] or PORT}"
