"""The last check of a reply before it leaves: no tenant learns another one's address.

`core/` never puts one into a reply. This shares no code with it and looks at the octets.
"""

from __future__ import annotations

from ipaddress import ip_address
from itertools import chain
from operator import itemgetter
from typing import Final

from internal_dns.core.catalog import Network
from internal_dns.core.journey import Reply
from internal_dns.core.message import Body
from internal_dns.core.records import ADDRESS_RR, RRset, TextList, address_text
from internal_dns.core.wire import Type

_AAAA: Final = int(Type.AAAA).to_bytes(2, "big")
# Of an RR: from its type to the octets that tell networks apart, if it is AAAA.
_HEAD: Final = itemgetter(slice(-26, -10))
_NETWORK: Final = itemgetter(slice(6))  # of an address: the octets that tell networks apart
_EVERYONES: Final = bytes(4)  # the network of addresses that are the same for all
_IP: Final = b",ip="  # before the address in an item of `_instances`


def leaks(reply: Reply) -> bool:
    """Whether *reply*, or what will be repeated of it, holds an address that is not the client's to
    know: of our prefix, and neither of the client's network nor everyone's.

    All that is sent comes from these sets. Only the octets that tell networks apart are looked at,
    and each value of them once.
    """
    if reply.content is None:
        return False
    body, network = reply.content
    pair = reply.pair
    if pair is not None and pair.body.answer and _leaks(pair.body, network, pair.ring):
        return True
    return _leaks(body, network, reply.cacheable.ring if reply.cacheable else b"")


def _leaks(body: Body, network: Network, ring: bytes) -> bool:
    # A network's own TXT may hold any octets, also those of an AAAA RR.
    of_addresses = isinstance(body.whole, RRset) and body.whole.type == Type.AAAA
    records = chain(*(body.answer if of_addresses else ()), body.additional)
    seen = {head[10:] for head in set(map(_HEAD, records)) if head[:2] == _AAAA and len(head) == 16}
    if isinstance(body.whole, RRset):
        seen.update(extra.address[:6] for extra in body.whole.extra)
        if body.whole.type == Type.AAAA:
            seen.update(map(_NETWORK, chain(*body.whole.groups)))
    prefix, own = network.prefix[:2], network.prefix[2:]
    if any(one[:2] == prefix and one[2:] not in (own, _EVERYONES) for one in seen):
        return True
    if ring and not _all_begin_with(network.prefix, ring):
        return True
    return isinstance(body.whole, TextList) and _tells(body.whole.text.octets, network.prefix)


def _all_begin_with(prefix: bytes, ring: bytes) -> bool:
    """Whether the address of each RR in *ring* begins with *prefix*: octet by octet, which takes a
    microsecond per hundred RRs."""
    count = len(ring) // ADDRESS_RR
    first = ADDRESS_RR - 16
    return all(
        ring[first + at :: ADDRESS_RR].count(octet) == count for at, octet in enumerate(prefix)
    )


def _tells(text: bytes, network: bytes) -> bool:
    """Whether an item of a list has an address of our prefix that is of another *network* (six
    octets)."""
    found = text.count(_IP)
    if not found or found == text.count(_IP + address_text(network + b"\xff" * 10)[:-24]):
        return False
    addresses = (
        ip_address(part.partition(b",")[0].decode()).packed for part in text.split(_IP)[1:]
    )
    return any(
        address[:2] == network[:2] and address[2:6] not in (network[2:], _EVERYONES)
        for address in addresses
    )
