"""Socket addresses: address and port, the 16 octets that the core uses, and the command socket."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port; `[::]` is the IPv6 wildcard."""

    host: IPv4Address | IPv6Address
    port: int

    @classmethod
    def parse(cls, text: str, port: int | None = None) -> Endpoint:
        """Parse `ADDR:PORT`, IPv6 in brackets. Raises ValueError with a text for the operator."""
        host, colon, number = text.rpartition(":")
        if text.count(":") > 1 and (not text.startswith("[") or not host.endswith("]")):
            if port is None or not (text.startswith("[") and text.endswith("]")):
                raise ValueError(f"{text!r} is not an address and port: write IPv6 as [ADDR]:PORT")
            host, colon = text, ""
        if not colon:
            host, number = text, str(port or "")
        digits = number.isascii() and number.isdigit() and len(number.lstrip("0")) <= 5
        if not digits or not int(number) < 65_536:
            raise ValueError(f"{text!r} has no port from 0 to 65535")
        if not text.isprintable():  # ip_address accepts any text as a scope
            raise ValueError(
                f"{text!r} is not an address: it has characters that are not printable"
            )
        try:
            address = ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise ValueError(f"{host!r} is not an IP address") from None
        if address == IPv4Address(0):
            raise ValueError(
                "0.0.0.0 would hide the destination address: list the IPv4 addresses instead"
            )
        return cls(address, int(number))

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if self.host.version == 6 else socket.AF_INET

    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The address in the form of the socket module, with the scope of a link-local address."""
        if isinstance(self.host, IPv4Address):
            return str(self.host), self.port
        scope = socket.if_nametoindex(self.host.scope_id) if self.host.scope_id else 0
        return str(self.host).partition("%")[0], self.port, 0, scope

    @property
    def wildcard(self) -> bool:
        return self.host == IPv6Address(0)

    def __str__(self) -> str:
        return (
            f"[{self.host}]:{self.port}" if self.host.version == 6 else f"{self.host}:{self.port}"
        )


def packed(host: str) -> bytes:
    """Return the 16 octets of a socket's textual address.

    IPv4 becomes ::ffff:a.b.c.d; a scope (`%eth0`) is dropped.
    """
    if ":" in host:
        return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return bytes(10) + b"\xff\xff" + socket.inet_pton(socket.AF_INET, host)


def socket_path(catalog: Path) -> Path:
    """Return the path of the socket on which the server of *catalog* accepts commands."""
    return catalog.with_name(catalog.name + ".sock")
