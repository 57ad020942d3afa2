"""Dev mode: an EDNS option by which a query from loopback names the requester to answer as.

A demo thus needs neither root nor an fdaa:: address. The option's value is ASCII: an IPv6 address,
or `NETWORK[/REGION]` with the network's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from internal_dns.core.catalog import Catalog
from internal_dns.core.requester import Outsider, Requester, requester
from internal_dns.core.wire import MAX_ASK_AS, Rcode


@dataclass(frozen=True, slots=True)
class BadAskAs:
    """The option is malformed (FORMERR) or names an unknown network (REFUSED, with a reason)."""

    rcode: Rcode
    reason: str = ""


def ask_as(
    value: bytes, source: bytes, destination: bytes, catalog: Catalog, prefix: bytes
) -> Requester | Outsider | BadAskAs:
    """Return the requester that the option's *value* names."""
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        return BadAskAs(Rcode.FORMERR)
    name, slash, region = text.partition("/")
    if len(value) > MAX_ASK_AS or not name or (slash and not region) or not text.isprintable():
        return BadAskAs(Rcode.FORMERR)
    if ":" in text:
        try:
            return requester(IPv6Address(text).packed, destination, catalog, prefix)
        except AddressValueError:
            return BadAskAs(Rcode.FORMERR)
    wanted = name.lower().encode()
    for _, network in sorted(catalog.networks.items()):
        if network.name.lower() == wanted:
            place = region.lower().encode() or None
            return Requester(
                network, source, mapped=True, region=place, by=f"dev mode: asked as {text}"
            )
    return BadAskAs(Rcode.REFUSED, "no network has this name")
