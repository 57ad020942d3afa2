"""Find which addresses are local to this host: those that the kernel delivers to its sockets."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from internal_dns.service.routes import is_local as route_is_local

ROUTES: Final = Path("/proc/net/ipv6_route")
RTF_LOCAL: Final = 0x8000_0000  # linux/ipv6_route.h

Route = tuple[int, int]  # network, prefix length


def local_routes(table: str) -> list[Route]:
    """Return the local routes in *table*, the text of /proc/net/ipv6_route."""
    local = []
    for words in map(str.split, table.splitlines()):
        if len(words) == 10 and int(words[8], 16) & RTF_LOCAL:
            local.append((int(words[0], 16), int(words[1], 16)))
    return local


def covers(route: Route, address: bytes) -> bool:
    """Return whether *route* contains *address* (16 octets)."""
    network, length = route
    return not (network ^ int.from_bytes(address, "big")) >> (128 - length)


def is_local(host: IPv4Address | IPv6Address) -> bool:
    """Return whether *host* is local; True if the kernel cannot be asked."""
    try:
        return route_is_local(host)
    except OSError:
        return True
