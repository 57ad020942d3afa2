"""RRsets and TXT lists, and the wire form of the records that this server makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from struct import Struct, pack
from typing import Final, NamedTuple, TypeVar

from internal_dns.core.names import Labels, wire
from internal_dns.core.text import Text
from internal_dns.core.wire import IN, MAX_MESSAGE, Type

# A stopped machine stays in a stub resolver's cache for 5 s at most. Clients of the original have
# seen this TTL for years.
TTL: Final = 5
# Negative replies are cached for the smaller of the SOA's TTL and MINIMUM (RFC 2308 section 5); a
# new machine should be found soon.
SOA_TTL: Final = 1

T = TypeVar("T")

# Items per page: 250 AAAA RRs take 7 KiB, and a page of a TXT list fits one message.
PAGE: Final = 250

ADDRESS_RR: Final = 28  # octets of an AAAA RR whose owner is a pointer to QNAME
SRV_RR: Final = 19  # octets of an SRV RR with the first length octet of its target, no labels
MAX_ADDRESSES: Final = MAX_MESSAGE // ADDRESS_RR  # more than any message holds

_DNS: Final = (b"_dns", b"internal")
# The serial is constant: no zone is transferred, and a changing one would reveal other tenants'
# changes.
SOA: Final = wire(_DNS) + wire((b"hostmaster", b"internal")) + pack("!5I", 1, 5, 5, 5, 1)
NS: Final = wire(_DNS)


class Extra(NamedTuple):
    """An address record for the additional section.

    Its owner is `first` followed by `rest`, which the records of a reply usually share.
    """

    first: bytes
    rest: Labels
    address: bytes


@dataclass(frozen=True, slots=True)
class RRset:
    """The rdata of one type in tie groups: each group is rotated, their order is fixed.

    `at_most` 0 means no limit. If the set is too large for any message, `groups` has only as many
    RRs as a message can hold, selected and ordered by the rotation, and `total` counts all. If the
    answer table may store such a set, `all_rdata` returns the rdata of all, before rotation.
    """

    type: Type
    groups: tuple[tuple[bytes, ...], ...]
    at_most: int = 0
    pageable: bool = False
    extra: tuple[Extra, ...] = ()
    stored: bool = True
    total: int = 0
    ttl: int = TTL
    all_rdata: Callable[[], Iterable[bytes]] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class TextList:
    """One TXT RR with a list of `count` items; `text` has as many as a message can hold.

    `text` is empty when the list is known not to fit the reply: its rdata would have at least
    `least` octets.
    """

    text: Text
    count: int
    pageable: bool = False
    stored: bool = True  # False: it depends on more than the key of the answer table
    least: int = 0
    type: Type = Type.TXT

    @classmethod
    def of(
        cls, items: Sequence[bytes], separator: bytes = b",", *, stored: bool = True
    ) -> TextList:
        """Make a list of few items."""
        return cls(Text.of(items, separator), len(items), stored=stored)


def rotated(tied: tuple[T, ...], rotation: int) -> tuple[T, ...]:
    """Rotate a tie group, so that over all rotations each member is first equally often."""
    at = rotation % len(tied) if tied else 0
    return tied[at:] + tied[:at]


def addresses(tied: tuple[bytes, ...], *, pageable: bool = False) -> RRset:
    """Return an AAAA RRset of distinct addresses in one tie group."""
    return RRset(Type.AAAA, (tied,), pageable=pageable)


def srv(port: int, priority: int, weight: int) -> bytes:
    """Return SRV rdata up to its target, which follows in wire form, uncompressed (RFC 2782)."""
    return pack("!3H", priority, weight, port)


def rr(owner: bytes, rtype: int, rdata: bytes, ttl: int = TTL) -> bytes:
    """Return a whole RR; *owner* is in wire form, compressed or not."""
    return owner + pack("!HHIH", rtype, IN, ttl, len(rdata)) + rdata


def compressed(owner: Labels, qname: Labels) -> bytes:
    """Return *owner* in wire form; the labels that it shares with QNAME become a pointer."""
    common = 0
    while common < min(len(owner), len(qname)) and owner[-1 - common] == qname[-1 - common]:
        common += 1
    if not common:
        return wire(owner)
    # The question starts at offset 12.
    at = 12 + sum(len(label) + 1 for label in qname[: len(qname) - common])
    return wire(owner[: len(owner) - common])[:-1] + (0xC000 | at).to_bytes(2, "big")


# An address without these octets has no two adjacent groups of zeros, so "::" does not occur in it.
TWO_ZEROS: Final = bytes(4)
ADDRESS_FORMAT: Final = b"%x:%x:%x:%x:%x:%x:%x:%x"
address_groups: Final = Struct("!8H").unpack


def address_text(address: bytes) -> bytes:
    """Return an address as text (RFC 5952); an IPv4-mapped one has mixed notation (section 5)."""
    if TWO_ZEROS not in address:
        return ADDRESS_FORMAT % address_groups(address)
    parsed = IPv6Address(address)
    return (f"::ffff:{parsed.ipv4_mapped}" if parsed.ipv4_mapped else str(parsed)).encode()
