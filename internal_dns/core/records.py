"""What a name holds, and its octets: RRsets and TXT lists, and the rdata of each type this server
makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from struct import Struct, pack
from typing import Final, NamedTuple, TypeVar

from internal_dns.core.names import Labels, wire
from internal_dns.core.text import Text
from internal_dns.core.wire import IN, MAX_MESSAGE, Type

# 5 s: as long as a stopped machine may linger in a stub's cache, and what clients of the original
# have seen for years.
TTL: Final = 5
# RFC 2308 section 5: the smaller of the SOA's own TTL and its MINIMUM. A new machine must not stay
# unknown.
SOA_TTL: Final = 1

T = TypeVar("T")

# Items on a page: 250 AAAA RRs are 7 KiB, and a page of a TXT list stays inside one message.
PAGE: Final = 250

ADDRESS_RR: Final = 28  # octets of an AAAA RR whose owner is the question
SRV_RR: Final = 19  # octets of an SRV RR without its target's labels, but one length octet
MOST_ADDRESSES: Final = MAX_MESSAGE // ADDRESS_RR  # more than any message holds

_DNS: Final = (b"_dns", b"internal")
# The serial is constant: nothing is transferred, and a moving one would tell tenants of each other.
SOA: Final = wire(_DNS) + wire((b"hostmaster", b"internal")) + pack("!5I", 1, 5, 5, 5, 1)
NS: Final = wire(_DNS)


class Extra(NamedTuple):
    """A record for the additional section: an address the answer leads to. Its owner is `first`
    below `rest`, which the records of a reply mostly share."""

    first: bytes
    rest: Labels
    address: bytes


@dataclass(frozen=True, slots=True)
class RRset:
    """Rdata of one type in tie groups: each is rotated by the turn, their order stays. `at_most` 0
    is no limit.

    A set past any message is not written out: then `groups` holds as many as a message can take,
    those that the turn chose and in its order, and `total` says how many there are. `every` returns
    the rdata of all, in the order that is rotated, when they may be kept.
    """

    type: Type
    groups: tuple[tuple[bytes, ...], ...]
    at_most: int = 0
    pageable: bool = False
    extra: tuple[Extra, ...] = ()
    stored: bool = True
    total: int = 0
    ttl: int = TTL
    every: Callable[[], Iterable[bytes]] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class TextList:
    """One TXT RR: a list of `count` items, of which `text` has as many as a message can take.

    `text` is empty when the list is known not to fit the reply, whose rdata would have `least`
    octets or more.
    """

    text: Text
    count: int
    pageable: bool = False
    stored: bool = True  # False: depends on more than the answer table's key
    least: int = 0
    type: Type = Type.TXT

    @classmethod
    def of(
        cls, items: Sequence[bytes], separator: bytes = b",", *, stored: bool = True
    ) -> TextList:
        """A list of few items."""
        return cls(Text.of(items, separator), len(items), stored=stored)


def rotated(tied: tuple[T, ...], rotation: int) -> tuple[T, ...]:
    """Turn a tie group round so that each member is first equally often."""
    at = rotation % len(tied) if tied else 0
    return tied[at:] + tied[:at]


def addresses(found: tuple[bytes, ...], *, pageable: bool = False) -> RRset:
    """An AAAA RRset of distinct addresses, one tie group."""
    return RRset(Type.AAAA, (found,), pageable=pageable)


def srv(port: int, priority: int, weight: int) -> bytes:
    """SRV rdata before its target, which follows in wire form, uncompressed (RFC 2782)."""
    return pack("!3H", priority, weight, port)


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


# An address without it has no two groups of zeros beside each other, so that nothing is shortened.
TWO_ZEROS: Final = bytes(4)
ADDRESS_FORMAT: Final = b"%x:%x:%x:%x:%x:%x:%x:%x"
address_groups: Final = Struct("!8H").unpack


def address_text(address: bytes) -> bytes:
    """An address as RFC 5952 writes it; one that maps an IPv4 address in mixed notation (its
    section 5)."""
    if TWO_ZEROS not in address:
        return ADDRESS_FORMAT % address_groups(address)
    found = IPv6Address(address)
    return (f"::ffff:{found.ipv4_mapped}" if found.ipv4_mapped else str(found)).encode()
