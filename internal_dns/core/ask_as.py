"""Dev mode: an EDNS option in which loopback says whom to answer as: a demo needs no root and no fdaa:: address.

The option's value is ASCII: an IPv6 address, or `NETWORK[/REGION]` with the network's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from internal_dns.core.catalog import Catalog
from internal_dns.core.requester import Outsider, Requester, requester
from internal_dns.core.wire import MAX_ASK_AS, Rcode


@dataclass(frozen=True, slots=True)
class BadAskAs:
    """The option makes no sense (FORMERR), or names a network that is not there (REFUSED, with a
    reason)."""

    rcode: Rcode
    reason: str = ""


def ask_as(
    said: bytes, source: bytes, destination: bytes, catalog: Catalog, prefix: bytes
) -> Requester | Outsider | BadAskAs:
    """Return who the option's value *said* stands for."""
    try:
        words = said.decode("ascii")
    except UnicodeDecodeError:
        return BadAskAs(Rcode.FORMERR)
    name, slash, region = words.partition("/")
    if len(said) > MAX_ASK_AS or not name or (slash and not region) or not words.isprintable():
        return BadAskAs(Rcode.FORMERR)
    if ":" in words:
        try:
            return requester(IPv6Address(words).packed, destination, catalog, prefix)
        except AddressValueError:
            return BadAskAs(Rcode.FORMERR)
    wanted = name.lower().encode()
    for _, network in sorted(catalog.networks.items()):
        if network.name.lower() == wanted:
            place = region.lower().encode() or None
            return Requester(
                network, source, mapped=True, region=place, by=f"dev mode: asked as {words}"
            )
    return BadAskAs(Rcode.REFUSED, "no network of this name")
