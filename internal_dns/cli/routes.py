"""Which addresses are local to this host: what the kernel delivers to a listening socket."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from internal_dns.service.routes import is_local as route_is_local

ROUTES: Final = Path("/proc/net/ipv6_route")
RTF_LOCAL: Final = 0x8000_0000  # linux/ipv6_route.h

Route = tuple[int, int]  # network, prefix length


def local_routes(table: str) -> list[Route]:
    """Read /proc/net/ipv6_route: (network, prefix length) of what is delivered to this host
    itself."""
    found = []
    for words in map(str.split, table.splitlines()):
        if len(words) == 10 and int(words[8], 16) & RTF_LOCAL:
            found.append((int(words[0], 16), int(words[1], 16)))
    return found


def covers(route: Route, address: bytes) -> bool:
    """Whether *address* (16 octets) lies in *route*."""
    network, length = route
    return not (network ^ int.from_bytes(address, "big")) >> (128 - length)


def is_local(host: IPv4Address | IPv6Address) -> bool:
    """Whether *host* is delivered here; True when the kernel does not say."""
    try:
        return route_is_local(host)
    except OSError:
        return True
