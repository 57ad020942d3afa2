"""A network's own records: how they are kept, and what is at a name of theirs.

There may be a hundred thousand, so all records of one owner are one octet string. A string holds
the sets in the order in which ANY chooses; a set is type, TTL, count, then each rdata with its
length. Owners are names in lower-cased wire form.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from struct import Struct
from typing import Final, NamedTuple

from internal_dns.core.wire import Type

INTERNAL: Final = b"\x08internal\0"
ANY_OF_INTERNAL: Final = b"\1*" + INTERNAL  # the wildcard at the apex

# It has no type on the wire, and no QTYPE matches it. Its rdata is the target in wire form.
ALIAS: Final = 0
# The types that a record may have, in the order in which ANY chooses (RFC 8482). ALIAS stands for
# sets of other types.
RECORD_TYPES: Final = {
    "AAAA": int(Type.AAAA),
    "A": int(Type.A),
    "CNAME": int(Type.CNAME),
    "TXT": int(Type.TXT),
    "SRV": int(Type.SRV),
    "MX": int(Type.MX),
    "HTTPS": int(Type.HTTPS),
    "SVCB": int(Type.SVCB),
    "CAA": int(Type.CAA),
    "PTR": int(Type.PTR),
    "ALIAS": ALIAS,
}
_RANK: Final = {number: rank for rank, number in enumerate(RECORD_TYPES.values())}
_SET: Final = Struct("!HIH")
_LENGTH: Final = Struct("!H")


class RecordSet(NamedTuple):
    """The records of one type at one owner, in canonical order (RFC 4034 section 6.3)."""

    type: int
    ttl: int
    rdata: tuple[bytes, ...]


def pack_sets(sets: Iterable[RecordSet]) -> bytes:
    """Return the sets of one owner as one octet string."""
    parts: list[bytes] = []
    for one in sorted(sets, key=lambda one: _RANK[one.type]):
        parts.append(_SET.pack(one.type, one.ttl, len(one.rdata)))
        for rdata in one.rdata:
            parts += (_LENGTH.pack(len(rdata)), rdata)
    return b"".join(parts)


def unpack_sets(octets: bytes) -> list[RecordSet]:
    """Return the sets that `pack_sets` made a string of."""
    sets, at = [], 0
    while at < len(octets):
        rtype, ttl, count = _SET.unpack_from(octets, at)
        at += _SET.size
        rdata = []
        for _ in range(count):
            begin = at + 2
            at = begin + (octets[at] << 8 | octets[at + 1])
            rdata.append(octets[begin:at])
        sets.append(RecordSet(rtype, ttl, tuple(rdata)))
    return sets


# ── names ─────────────────────────────────────────────────────────────────────────────────────────


def zone_of(name: bytes, zones: Collection[bytes]) -> bytes | None:
    """Return the longest of *zones* that *name* is in, or None. All are in wire form."""
    if not zones:
        return None
    for end in ends(name):
        if end in zones:
            return end
    return None


def ends(name: bytes) -> Iterator[bytes]:
    """Yield *name* and the names above it, the root last."""
    yield name
    while name[0]:
        name = name[1 + name[0] :]
        yield name


def names_above(owner: bytes, below: dict[bytes, int], step: int) -> None:
    """Count *owner* under each name above it, or with -1 no longer. A name that is in *below*
    exists, though it may have no records of its own (an empty non-terminal)."""
    for above in ends(owner):
        if above is not owner:
            count = below.get(above, 0) + step
            if count:
                below[above] = count
            else:
                below.pop(above, None)


def counted_below(owners: Iterable[bytes]) -> dict[bytes, int]:
    """Return how many of *owners* are below each name that is above one."""
    below: dict[bytes, int] = {}
    for owner in owners:
        names_above(owner, below, 1)
    return below


# ── what answers depend on ────────────────────────────────────────────────────────────────────────
#
# A part of a network is an octet string: the label of an app, which is also that of the records
# below it in `internal`; the name of a zone; a zone's name after one label for the records below.


def part_of(name: bytes, zone: bytes) -> bytes:
    """Return the part that *name*, which is in *zone*, belongs to: its label next to the apex."""
    if name == zone:
        return b"\1@" + zone
    first = name
    while len(first) - 1 - first[0] > len(zone):
        first = first[1 + first[0] :]
    return first[1 : 1 + first[0]] if zone == INTERNAL else first


def wildcard_part(zone: bytes) -> bytes:
    """Return the part of the wildcard at the apex of *zone*."""
    return b"*" if zone == INTERNAL else b"\1*" + zone


def changed_parts(
    before: tuple[Mapping[bytes, bytes], Collection[bytes]],
    after: tuple[Mapping[bytes, bytes], Collection[bytes]],
    owners: Iterable[bytes],
) -> Iterator[bytes]:
    """Yield the parts that differ between two networks, given as records and zones. *owners* are
    those whose records may differ."""
    for owner in owners:
        if before[0].get(owner) != after[0].get(owner):
            for _, zones in (before, after):
                zone = zone_of(owner, zones) or zone_of(owner, (INTERNAL,))
                if zone is not None:  # its zone has come or gone
                    yield part_of(owner, zone)
    for apex in frozenset(before[1]) ^ frozenset(after[1]):
        yield apex
        for _, zones in (before, after):
            outer = zone_of(apex[1 + apex[0] :], zones)
            if outer is not None:
                yield part_of(apex, outer)
