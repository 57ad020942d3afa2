"""What of an upstream's reply is relayed, how long it may be kept, and how it ages.

    answer     the chain from QNAME: CNAME, CNAME …, then the RRset that was asked for; nothing else (out of bailiwick)
    authority  the SOA of a negative reply; with DO what proves it
    additional nothing: stub resolvers do not look there, and forgers do

A TTL only falls: it is what the upstream said, less the seconds it has been here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from struct import pack
from typing import Final

from internal_dns.core.message import Manner, ede_option, header, opt
from internal_dns.core.wire import (
    AD,
    HEADER,
    IN,
    MAX_HOPS,
    NAMES_IN,
    TC,
    BadReply,
    Checked,
    Ede,
    Query,
    Rcode,
    Span,
    Type,
)

MAX_LIFETIME: Final = 3_600  # seconds
MAX_NEGATIVE: Final = (
    900  # RFC 2308 section 5 allows three hours; a name that was just made should not wait for them
)
WITHOUT_SOA: Final = 5  # a negative reply that does not say how long it holds
STALE_TTL: Final = 30  # RFC 8767 section 4
_HIGHEST_BIT: Final = b"\x80\0\0\0"  # a TTL that has it counts as 0, RFC 2181 section 8
PER_TTL: Final = 40  # octets that the place of one TTL takes: a number, and where it is
MAX_REBUILT: Final = (
    1_000  # RRs: honest replies as large as that are in order, and need not be written anew
)
MAX_RECORDS: Final = (
    65_000  # octets; what is left for header, question and OPT of the largest message
)

_IN: Final = IN.to_bytes(2, "big")
_PROOFS: Final = frozenset({Type.NSEC, Type.NSEC3})


@dataclass(frozen=True, slots=True)
class Relayed:
    """What is relayed of a reply. `ttls` are offsets of the TTL fields in `records`,
    ascending."""

    rcode: int
    ad: bool
    counts: tuple[int, int]  # RRs of answer and authority
    records: bytes
    ttls: tuple[int, ...]
    lifetime: int  # seconds it may be kept; 0: it answers those who wait for it, and is forgotten

    def aged(self, seconds: int) -> bytes:
        """Return the records after *seconds* here."""
        if not seconds:
            return self.records
        return self._with_ttls(lambda ttl: max(0, ttl - seconds))

    def stale(self) -> bytes:
        """Return the records with the TTL of what has run out."""
        return self._with_ttls(lambda _: STALE_TTL)

    def _with_ttls(self, change: Callable[[int], int]) -> bytes:
        # Hot path: thousands of TTLs are mostly a few values, and each is changed once.
        records, ttls = self.records, self.ttls
        old = [records[at : at + 4] for at in ttls]
        new = {ttl: change(int.from_bytes(ttl, "big")).to_bytes(4, "big") for ttl in set(old)}
        parts = [b""] * (2 * len(ttls) + 1)
        starts, ends = [0, *(at + 4 for at in ttls)], [*ttls, len(records)]
        parts[::2] = map(records.__getitem__, map(slice, starts, ends))
        parts[1::2] = map(new.__getitem__, old)
        return b"".join(parts)


def scrub(checked: Checked, name: bytes, qtype: int, *, dnssec_ok: bool) -> Relayed:
    """Return what of *checked* answers *name* (wire form, lower-cased) and *qtype*.

    Raises BadReply for a referral, a chain that loops or is longer than 16: another upstream may do
    better.
    """
    answers, authorities = checked.counts[:2]
    chain, last, found = _chain(checked, checked.spans[:answers], name, qtype, dnssec_ok)
    authority = checked.spans[answers : answers + authorities]
    soa = (
        None
        if found
        else next((s for s in authority if s[1] == Type.SOA and _within(last, s[0])), None)
    )
    if (
        not found
        and soa is None
        and not checked.rcode
        and any(span[1] == Type.NS for span in authority)
    ):
        raise BadReply("a lame referral", final=True)
    kept = [*chain, *_proofs(checked, authority, soa, dnssec_ok)]
    records, ttls = _cut(checked, kept, name)
    lifetime = _lifetime(checked, kept, soa, found=found, aliased=last != name)
    counts = len(chain), len(kept) - len(chain)
    return Relayed(checked.rcode, bool(checked.flags & AD), counts, records, ttls, lifetime)


def _chain(
    checked: Checked, answers: Sequence[Span], name: bytes, qtype: int, dnssec_ok: bool
) -> tuple[list[Span], bytes, bool]:
    """Return the RRs that lead from *name* to what was asked, in this order, the last name, whether
    it has any."""
    octets = checked.octets
    # Hot path: the one RRset that was asked for, as thousands of RRs are in honest replies.
    asked = [
        span
        for span in answers
        if span[0] == name
        and (span[1] == qtype or qtype == Type.ANY)
        and octets[span[3] - 8 : span[3] - 6] == _IN
    ]
    if asked and len(asked) == len(answers):
        return asked, name, True
    by_owner: dict[bytes, list[Span]] = {}
    for span in answers:
        if octets[span[3] - 8 : span[3] - 6] == _IN:
            by_owner.setdefault(span[0], []).append(span)
    dnames = (
        {span[0] for span in answers if span[1] == Type.DNAME} if qtype != Type.DNAME else set()
    )
    kept: list[Span] = []
    for _ in range(MAX_HOPS + 1):
        if dnames:
            kept += [
                span
                for owner in _above(name)
                if owner in dnames
                for span in by_owner.pop(owner, ())
                if span[1] == Type.DNAME or (dnssec_ok and span[1] == Type.RRSIG)
            ]
        found, target = False, None
        for span in by_owner.pop(name, ()):
            rtype = span[1]
            if qtype in (rtype, Type.ANY):
                found = True
            elif rtype == Type.CNAME:
                target = checked.names[span[3]][0]
            elif rtype != Type.RRSIG or not dnssec_ok:
                continue
            kept.append(span)
        if found or target is None:
            return kept, name, found
        if any(span[0] == target for span in kept):
            raise BadReply("a chain of CNAMEs that loops", final=True)
        name = target
    raise BadReply("a chain of more than 16 CNAMEs", final=True)


def _proofs(
    checked: Checked, authority: Sequence[Span], soa: Span | None, dnssec_ok: bool
) -> list[Span]:
    """Return what is kept of the authority section, in its order."""
    if not dnssec_ok:
        return [soa] if soa else []
    octets, covered = checked.octets, {int(Type.SOA), *map(int, _PROOFS)}
    return [
        span
        for span in authority
        if span is soa
        or span[1] in _PROOFS
        or (
            span[1] == Type.RRSIG
            and int.from_bytes(octets[span[3] : span[3] + 2], "big") in covered
        )
    ]


def _lifetime(
    checked: Checked, kept: Sequence[Span], soa: Span | None, *, found: bool, aliased: bool
) -> int:
    """Return the seconds a reply may be kept (RFC 2308 section 5 for negative ones)."""
    if checked.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
        return 0
    octets = checked.octets
    # Hot path: octets compare like the numbers they are.
    ttls = [octets[span[3] - 6 : span[3] - 2] for span in kept]
    if ttls and max(ttls) >= _HIGHEST_BIT:
        return 0
    shortest = int.from_bytes(min(ttls), "big") if ttls else MAX_LIFETIME
    if found:
        return min(MAX_LIFETIME, shortest)
    if soa is not None:
        return min(MAX_NEGATIVE, int.from_bytes(octets[soa[4] - 4 : soa[4]], "big"), shortest)
    if aliased and checked.rcode == Rcode.NOERROR:
        return 0  # a CNAME is never kept without its target
    return min(WITHOUT_SOA, shortest)


def _cut(checked: Checked, kept: Sequence[Span], name: bytes) -> tuple[bytes, tuple[int, ...]]:
    """Return the octets of these RRs and where their TTLs are."""
    octets, count = checked.octets, len(kept)
    start = len(octets) if not checked.spans else checked.spans[0][2]
    if list(checked.spans[:count]) == kept:
        # The beginning as it came: what its pointers lead to keeps its place.
        records = octets[start : kept[-1][4]] if kept else b""
        ttls = tuple(span[3] - 6 - start for span in kept)
    elif count > MAX_REBUILT:
        raise BadReply("too many records that are not in order", final=True)
    else:
        parts: list[bytes] = []
        places, at = [], 0
        for span in kept:
            owner = b"\xc0\x0c" if span[0] == name else span[0]
            rest = (
                _written_out(checked, span)
                if span[1] in NAMES_IN
                else octets[span[3] - 10 : span[4]]
            )
            parts += (owner, rest)
            places.append(at + len(owner) + 4)
            at += len(owner) + len(rest)
            if (
                at > MAX_RECORDS
            ):  # at once: written out it could be fifteen times as long as it came
                raise BadReply("too large", final=True)
        records, ttls = b"".join(parts), tuple(places)
    if ttls and max(records[at] for at in ttls) & 0x80:
        changed = bytearray(records)
        for at in ttls:
            if changed[at] & 0x80:
                changed[at : at + 4] = bytes(4)
        records = bytes(changed)
    return records, ttls


def _written_out(checked: Checked, span: Span) -> bytes:
    """Return an RR without its owner, the names in its rdata written out."""
    octets, (_, rtype, _, start, end) = checked.octets, span
    if rtype == Type.NAPTR:
        return octets[start - 10 : end]  # never compressed, RFC 3403 section 4.1
    first, count, _ = NAMES_IN[rtype]
    parts, at = [octets[start : start + first]], start + first
    for _ in range(count):
        if at not in checked.names:
            raise BadReply("compressed names in rdata that was not read", final=True)
        parts.append(checked.names[at][0])
        while 0 < octets[at] < 64:
            at += 1 + octets[at]
        at += 1 + (octets[at] >= 0xC0)
    rdata = b"".join((*parts, octets[at:end]))
    return octets[start - 10 : start - 2] + pack("!H", len(rdata)) + rdata


def _above(name: bytes) -> Iterator[bytes]:
    """Yield the names that *name* is below, in wire form, the root last."""
    while name[0]:
        name = name[1 + name[0] :]
        yield name


def _within(name: bytes, zone: bytes) -> bool:
    """Whether *name* is *zone* or below it, both in lower-cased wire form."""
    at = 0
    while len(name) - at > len(zone):
        at += 1 + name[at]
    return name[at:] == zone


def relay(
    relayed: Relayed,
    query: Query,
    manner: Manner,
    age: int | None = 0,
    ede: tuple[Ede, str] | None = None,
) -> bytes:
    """Return an upstream's reply as ours: records, AD and RCODE, under the client's id, question and
    OPT. *age* is the seconds it has been here, None when it is stale.

    The records' compression pointers stay right: header and question have the length they had. AD
    is for who asked for it (RFC 6840 section 5.8). What is too large for the client leaves as an
    empty reply with TC; it will ask by TCP.
    """
    counts, flags = relayed.counts, relayed.ad and wants_ad(query) and AD
    opt_record = opt(query, relayed.rcode, ede_option(ede) + manner.options)
    # Its size decides first: to change thousands of TTLs takes a millisecond.
    if HEADER + len(query.question) + len(relayed.records) + len(opt_record) > manner.limit:
        records, counts, flags = b"", (0, 0), TC
        opt_record = opt(query, relayed.rcode, manner.options)
    else:
        records = relayed.stale() if age is None else relayed.aged(age)
    return b"".join((
        header(query, relayed.rcode, aa=False, ra=True, flags=int(flags)),
        pack("!4H", 1, *counts, bool(opt_record)),
        query.question,
        records,
        opt_record,
    ))  # fmt: skip


def wants_ad(query: Query) -> bool:
    """Whether the client understands AD: it set it, or DO."""
    return bool(query.flags & AD) or bool(query.edns and query.edns.dnssec_ok)
