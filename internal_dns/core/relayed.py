"""What of an upstream's reply is relayed, how long it may be kept, and how it ages.

    answer     the chain from QNAME: CNAME, CNAME …, then the RRset that was asked for; nothing else (out of bailiwick);
               a chain that ends in a name of ours is incomplete: aliases.py adds what we answer there
    authority  the SOA of a negative reply; with DO what proves it
    additional nothing: stub resolvers do not look there, and forgers do

A TTL only falls: it is what the upstream said, less the seconds it has been here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from struct import pack
from typing import Final

from internal_dns.core.message import ReplyOptions, ede_option, header, opt
from internal_dns.core.own import zone_of
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

MAX_ALIASES: Final = (
    8_192  # octets of a chain that we complete: a pointer to its end must fit in 14 bits
)

_QNAME: Final = b"\xc0\x0c"  # a pointer to the question's name
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
    chain: int = 0  # RRs of the answer before the set that was asked for
    target: bytes = b""  # a name of ours that the chain ends in (wire form): incomplete
    # Where each alias of the chain leads (wire form), and how many RRs have led there.
    aliases: tuple[tuple[bytes, int], ...] = ()

    def leads_into(self, name: bytes, zones: Collection[bytes]) -> bool:
        """Whether *name*, which this answers, or an alias on the way is in one of *zones*."""
        return zone_of(name, zones) is not None or any(
            zone_of(target, zones) is not None for target, _ in self.aliases
        )

    def cut_at(self, name: bytes, zones: Collection[bytes]) -> Relayed:
        """Return the chain up to the first name that is in one of *zones*, incomplete: this itself
        when there is none. *name* is what this answers."""
        for target, count in ((name, 0), *self.aliases):
            if zone_of(target, zones) is not None:
                at = self.ttls[count - 1] if count else 0
                length = int.from_bytes(self.records[at + 4 : at + 6], "big")
                return replace(
                    self,
                    rcode=0,
                    ad=False,
                    counts=(count, 0),
                    records=self.records[: at + 6 + length] if count else b"",
                    ttls=self.ttls[:count],
                    chain=count,
                    target=target,
                    aliases=(),
                )
        return self

    def after(self, seconds: int) -> Relayed:
        """Return what this is when it was *seconds* old when it came (RFC 8484 section 5.1)."""
        lifetime = max(0, self.lifetime - seconds)
        return replace(self, records=self.aged(seconds), lifetime=lifetime)

    def first(self, room: int) -> Relayed:
        """Return the chain and as many whole RRs of the set behind it as fit in *room* octets; nothing
        when the chain does not fit, or not one RR of the set."""
        records, end, count = self.records, 0, 0
        for at in self.ttls[: self.counts[0]]:
            after = at + 6 + int.from_bytes(records[at + 4 : at + 6], "big")
            if after > room:
                break
            end, count = after, count + 1
        if count <= self.chain:
            end = count = 0
        return replace(self, counts=(count, 0), records=records[:end], ttls=self.ttls[:count])

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
    aliases: list[tuple[bytes, int]] = []
    answer = checked.spans[:answers]
    chain, before, last, found = _chain(checked, answer, name, qtype, aliases, dnssec_ok)
    target = _our_target(checked, chain, last, qtype)
    authority = checked.spans[answers : answers + authorities] if not target else ()
    soa = (
        None
        if found
        else next((s for s in authority if s[1] == Type.SOA and _within(last, s[0])), None)
    )
    if (
        not chain  # a CNAME to what is delegated elsewhere is an answer
        and soa is None
        and not checked.rcode
        and any(span[1] == Type.NS for span in authority)
    ):
        raise BadReply("a lame referral", final=True)
    kept = [*chain, *_proofs(checked, authority, soa, dnssec_ok)]
    records, ttls = _cut(checked, kept, name)
    counts = len(chain), len(kept) - len(chain)
    if soa is not None:
        records = _with_negative_ttl(records, ttls[len(chain) :], _negative_ttl(checked, soa))
    lifetime = _lifetime(checked, kept, soa, found=found or bool(target), aliased=last != name)
    ad = bool(checked.flags & AD) and not target
    way = tuple(aliases)
    return Relayed(checked.rcode, ad, counts, records, ttls, lifetime, before, target, way)


def _our_target(checked: Checked, chain: Sequence[Span], last: bytes, qtype: int) -> bytes:
    """Return the name of ours that the chain ends in, or nothing.

    Raises BadReply when another CNAME leads to a name of ours, or the chain takes so much room that
    nothing could be added to it.
    """
    if not checked.aliases:
        return b""
    if any(alias not in chain for alias in checked.aliases):
        raise BadReply("an alias of ours that nobody asked for", injected=True)
    if qtype in (Type.CNAME, Type.ANY):  # the CNAME itself was asked for
        return b""
    if checked.names[checked.aliases[0][3]][0] != last or len(checked.aliases) > 1:
        raise BadReply("an alias of ours beside another alias", injected=True)
    if sum(span[4] - span[2] for span in chain) > MAX_ALIASES:
        raise BadReply("a chain too large to complete", final=True)
    return last


def _negative_ttl(checked: Checked, soa: Span) -> int:
    """Return min(TTL, MINIMUM) of an SOA (RFC 2308 section 5); a TTL with its highest bit is 0."""
    octets = checked.octets
    ttl = octets[soa[3] - 6 : soa[3] - 2]
    return int.from_bytes(min(ttl if ttl < _HIGHEST_BIT else bytes(4), octets[soa[4] - 4 : soa[4]]))


def _with_negative_ttl(records: bytes, ttls: Sequence[int], most: int) -> bytes:
    """Return *records* with no TTL in these places above *most*: the SOA, and proofs, which hold no
    longer (RFC 9077)."""
    limit = most.to_bytes(4, "big")
    if all(records[at : at + 4] <= limit for at in ttls):
        return records
    changed = bytearray(records)
    for at in ttls:
        changed[at : at + 4] = min(records[at : at + 4], limit)
    return bytes(changed)


def _chain(
    checked: Checked,
    answers: Sequence[Span],
    name: bytes,
    qtype: int,
    aliases: list[tuple[bytes, int]],
    dnssec_ok: bool,
) -> tuple[list[Span], int, bytes, bool]:
    """Return the RRs that lead from *name* to what was asked, in this order; how many come before
    what was asked; the last name; whether it has any. Add to *aliases* where each leads, and how many RRs
    have led there."""
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
        return asked, 0, name, True
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
        before = len(kept)
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
            return kept, before, name, found
        if any(span[0] == target for span in kept):
            raise BadReply("a chain of CNAMEs that loops", final=True)
        name = target
        aliases.append((name, len(kept)))
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
        return min(MAX_NEGATIVE, _negative_ttl(checked, soa), shortest)
    if aliased and checked.rcode == Rcode.NOERROR:
        return 0  # a CNAME is never kept without its target
    return min(WITHOUT_SOA, shortest)


def _cut(checked: Checked, kept: Sequence[Span], name: bytes) -> tuple[bytes, tuple[int, ...]]:
    """Return the octets of these RRs and where their TTLs are."""
    octets, count = checked.octets, len(kept)
    start = len(octets) if not checked.spans else checked.spans[0][2]
    in_order = list(checked.spans[:count]) == kept
    if in_order and (count > MAX_REBUILT or _owners_point(octets, kept, name)):
        # The beginning as it came: what its pointers lead to keeps its place. (More than a thousand
        # RRs may keep our letter case, if they have it written out: to rebuild them is too dear.)
        records = octets[start : kept[-1][4]] if kept else b""
        ttls = tuple(span[3] - 6 - start for span in kept)
    elif count > MAX_REBUILT:
        raise BadReply("too many records that are not in order", final=True)
    else:
        parts: list[bytes] = []
        places, at = [], 0
        for span in kept:
            owner = _QNAME if span[0] == name else span[0]
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


def _owners_point(octets: bytes, kept: Sequence[Span], name: bytes) -> bool:
    """Whether each owner that is QNAME points to the question, and so takes the client's letter
    case; some upstreams write it out as we sent it, in random case."""
    return all(span[0] != name or octets.startswith(_QNAME, span[2]) for span in kept)


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
    reply_options: ReplyOptions,
    age: int | None = 0,
    ede: tuple[Ede, str] | None = None,
) -> bytes:
    """Return an upstream's reply as ours: records, AD and RCODE, under the client's id, question and
    OPT. *age* is the seconds it has been here, None when it is stale.

    The records' compression pointers stay right: header and question have the length they had. AD
    is for who asked for it (RFC 6840 section 5.8). What is too large for the client leaves with TC
    and as many RRs of the set that was asked for as fit: some clients use those and never ask over
    TCP (musl before 1.2.4).
    """
    counts, flags = relayed.counts, relayed.ad and wants_ad(query) and AD
    opt_record = opt(query, relayed.rcode, ede_option(ede) + reply_options.edns_options)
    # Its size decides first: to change thousands of TTLs takes a millisecond.
    if HEADER + len(query.question) + len(relayed.records) + len(opt_record) > reply_options.limit:
        opt_record = opt(query, relayed.rcode, reply_options.edns_options)
        relayed = relayed.first(
            reply_options.limit - HEADER - len(query.question) - len(opt_record)
        )
        counts, flags = relayed.counts, TC
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
