"""What a name holds, and its octets: RRsets and TXT lists, and the rdata of each type this server
makes."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from struct import pack
from typing import Final, TypeVar

from internal_dns.core.names import Labels, wire
from internal_dns.core.wire import IN, Type

# 5 s: as long as a stopped machine may linger in a stub's cache, and what clients of the original
# have seen for years.
TTL: Final = 5
# RFC 2308 section 5: the smaller of the SOA's own TTL and its MINIMUM. A new machine must not stay
# unknown.
SOA_TTL: Final = 1

T = TypeVar("T")

# Items on a page: 250 AAAA RRs are 7 KiB, and a page of a TXT list stays inside one message.
PAGE: Final = 250

_DNS: Final = (b"_dns", b"internal")
# The serial is constant: nothing is transferred, and a moving one would tell tenants of each other.
SOA: Final = wire(_DNS) + wire((b"hostmaster", b"internal")) + pack("!5I", 1, 5, 5, 5, 1)
NS: Final = wire(_DNS)


@dataclass(frozen=True, slots=True)
class Extra:
    """A record for the additional section: an address the answer leads to."""

    owner: Labels
    address: bytes


@dataclass(frozen=True, slots=True)
class RRset:
    """Rdata of one type in tie groups: each is rotated by the turn, their order stays. `at_most` 0
    is no limit."""

    type: Type
    groups: tuple[tuple[bytes, ...], ...]
    at_most: int = 0
    pageable: bool = False
    extra: tuple[Extra, ...] = ()
    stored: bool = True


@dataclass(frozen=True, slots=True)
class TextList:
    """One TXT RR: items joined by a separator, cut into strings of at most 255 octets behind a
    separator only."""

    items: tuple[bytes, ...]
    separator: bytes = b","
    pageable: bool = False
    stored: bool = True  # False: depends on more than the answer table's key
    type: Type = Type.TXT


def rotated(tied: tuple[T, ...], turn: int) -> tuple[T, ...]:
    """Turn a tie group round so that each member is first equally often."""
    at = turn % len(tied) if tied else 0
    return tied[at:] + tied[:at]


def addresses(found: tuple[bytes, ...], *, pageable: bool = False, at_most: int = 0) -> RRset:
    """An AAAA RRset of distinct addresses, one tie group."""
    return RRset(Type.AAAA, (tuple(dict.fromkeys(found)),), at_most, pageable)


def text(items: tuple[bytes, ...], separator: bytes) -> bytes:
    """TXT rdata. An empty list is one empty string: known clients crash on no string at all."""
    strings, current = [], b""
    for item in (*(item + separator for item in items[:-1]), *items[-1:]):
        # An item is never cut: the longest, of _instances, has 255 octets with its separator.
        if len(current) + len(item) > 255:
            strings.append(current)
            current = b""
        current += item
    return b"".join(bytes((len(string),)) + string for string in (*strings, current))


def items_that_fit(items: tuple[bytes, ...], separator: bytes, room: int) -> int:
    """Return how many of the first *items* make TXT rdata of at most *room* octets."""
    closed = current = 0  # octets of the strings that are full, and of the text in the last one
    for count, item in enumerate(items):
        cut = 1 + current if current + len(item) > 255 else 0
        if closed + 1 + (current + len(item) if not cut else cut + len(item)) > room:
            return count
        if current + len(item) + len(separator) > 255:
            closed += 1 + current
            current = 0
        current += len(item) + len(separator)
    return len(items)


def srv(port: int, target: Labels) -> bytes:
    """SRV rdata: priority 0, weight 1, the target uncompressed (RFC 2782)."""
    return pack("!3H", 0, 1, port) + wire(target)


def rr(owner: bytes, rtype: int, rdata: bytes, ttl: int = TTL) -> bytes:
    """A whole record; *owner* is in wire form, compressed or not."""
    return owner + pack("!HHIH", rtype, IN, ttl, len(rdata)) + rdata


def compressed(owner: Labels, qname: Labels) -> bytes:
    """*owner* in wire form, its common end with the question as a pointer into the question (which
    starts at 12)."""
    common = 0
    while common < min(len(owner), len(qname)) and owner[-1 - common] == qname[-1 - common]:
        common += 1
    if not common:
        return wire(owner)
    at = 12 + sum(len(label) + 1 for label in qname[: len(qname) - common])
    return wire(owner[: len(owner) - common])[:-1] + (0xC000 | at).to_bytes(2, "big")


def address_text(address: bytes) -> bytes:
    """An address as RFC 5952 writes it; one that maps an IPv4 address in mixed notation (its
    section 5)."""
    found = IPv6Address(address)
    return (f"::ffff:{found.ipv4_mapped}" if found.ipv4_mapped else str(found)).encode()
