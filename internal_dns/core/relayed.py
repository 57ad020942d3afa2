"""Select the records of an upstream's reply to relay, bound its lifetime, and age its TTLs.

    answer     the chain from QNAME: CNAME, CNAME …, then the queried RRset; nothing else, as it is
               out of bailiwick; a chain that ends in a name of ours is completed by aliases.py
    authority  the SOA of a negative reply; with DO also its proof
    additional nothing: stub resolvers ignore the section, and forgers use it

A TTL only falls: it is the upstream's TTL less the seconds since the reply arrived.
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
    CheckedReply,
    Ede,
    Query,
    Rcode,
    Span,
    Type,
)

MAX_LIFETIME: Final = 3_600  # seconds
# RFC 2308 section 5 allows three hours; a name that was just created should not wait so long.
MAX_NEGATIVE_LIFETIME: Final = 900
NO_SOA_LIFETIME: Final = 5  # for a negative reply without an SOA
STALE_TTL: Final = 30  # RFC 8767 section 4
_HIGHEST_BIT: Final = b"\x80\0\0\0"  # a TTL with this bit counts as 0, RFC 2181 section 8
PER_TTL: Final = 40  # octets of memory per offset in `Relayed.ttls`
# RRs; larger honest replies are in order and need not be rebuilt.
MAX_REBUILT: Final = 1_000
# Octets; the rest of the largest message is for header, question and OPT.
MAX_RECORDS: Final = 65_000
# Octets of a chain that we complete; a pointer to its end must fit in 14 bits.
MAX_ALIASES: Final = 8_192

_QNAME: Final = b"\xc0\x0c"  # a pointer to QNAME
_IN: Final = IN.to_bytes(2, "big")
_PROOFS: Final = frozenset({Type.NSEC, Type.NSEC3})


@dataclass(frozen=True, slots=True)
class Relayed:
    """The part of a reply to relay. `ttls` are the ascending offsets of the TTLs in `records`."""

    rcode: int
    ad: bool
    counts: tuple[int, int]  # RRs of answer and authority
    records: bytes
    ttls: tuple[int, ...]
    lifetime: int  # seconds it may be cached; 0: it only answers the queries that wait for it
    chain: int = 0  # RRs of the answer before the queried RRset
    target: bytes = b""  # the name of ours that an incomplete chain ends in, in wire form
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
        """Return this reply as one that was *seconds* old on arrival (RFC 8484 section 5.1)."""
        lifetime = max(0, self.lifetime - seconds)
        return replace(self, records=self.aged(seconds), lifetime=lifetime)

    def first(self, room: int) -> Relayed:
        """Return the chain and as many whole RRs of the queried set as fit in *room* octets.

        No records when the chain and one RR of the set do not fit.
        """
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
        """Return the records *seconds* after they arrived."""
        if not seconds:
            return self.records
        return self._with_ttls(lambda ttl: max(0, ttl - seconds))

    def stale(self) -> bytes:
        """Return the records with the TTL of expired data."""
        return self._with_ttls(lambda _: STALE_TTL)

    def _with_ttls(self, change: Callable[[int], int]) -> bytes:
        # Hot path: thousands of TTLs mostly have a few values, and each value is changed once.
        records, ttls = self.records, self.ttls
        old = [records[at : at + 4] for at in ttls]
        new = {ttl: change(int.from_bytes(ttl, "big")).to_bytes(4, "big") for ttl in set(old)}
        parts = [b""] * (2 * len(ttls) + 1)
        starts, ends = [0, *(at + 4 for at in ttls)], [*ttls, len(records)]
        parts[::2] = map(records.__getitem__, map(slice, starts, ends))
        parts[1::2] = map(new.__getitem__, old)
        return b"".join(parts)


def scrub(checked: CheckedReply, name: bytes, qtype: int, *, dnssec_ok: bool) -> Relayed:
    """Return the part of *checked* that answers *name* (wire form, lower-cased) and *qtype*.

    Raises BadReply for a referral and for a chain that loops or has more than 16 CNAMEs: another
    upstream may do better.
    """
    answers, authorities = checked.counts[:2]
    aliases: list[tuple[bytes, int]] = []
    answer = checked.spans[:answers]
    chain, before, last, exists = _chain(checked, answer, name, qtype, aliases, dnssec_ok)
    target = _our_target(checked, chain, last, qtype)
    authority = checked.spans[answers : answers + authorities] if not target else ()
    soa = (
        None
        if exists
        else next((s for s in authority if s[1] == Type.SOA and _within(last, s[0])), None)
    )
    if (
        not chain  # a CNAME to a delegated name is an answer
        and soa is None
        and not checked.rcode
        and any(span[1] == Type.NS for span in authority)
    ):
        raise BadReply("a lame referral", final=True)
    selected = [*chain, *_proofs(checked, authority, soa, dnssec_ok)]
    records, ttls = _cut(checked, selected, name)
    counts = len(chain), len(selected) - len(chain)
    if soa is not None:
        records = _with_negative_ttl(records, ttls[len(chain) :], _negative_ttl(checked, soa))
    lifetime = _lifetime(
        checked, selected, soa, exists=exists or bool(target), aliased=last != name
    )
    ad = bool(checked.flags & AD) and not target
    way = tuple(aliases)
    return Relayed(checked.rcode, ad, counts, records, ttls, lifetime, before, target, way)


def _our_target(checked: CheckedReply, chain: Sequence[Span], last: bytes, qtype: int) -> bytes:
    """Return the name of ours that the chain ends in, or an empty name.

    Raises BadReply when any other CNAME leads to a name of ours, or when the chain leaves no room
    for records behind it.
    """
    if not checked.aliases:
        return b""
    if any(alias not in chain for alias in checked.aliases):
        raise BadReply("an unrelated alias to a name of ours", injected=True)
    if qtype in (Type.CNAME, Type.ANY):  # the query is for the CNAME itself
        return b""
    if checked.names[checked.aliases[0][3]][0] != last or len(checked.aliases) > 1:
        raise BadReply("an alias to a name of ours beside another alias", injected=True)
    if sum(span[4] - span[2] for span in chain) > MAX_ALIASES:
        raise BadReply("a chain too large to complete", final=True)
    return last


def _negative_ttl(checked: CheckedReply, soa: Span) -> int:
    """Return min(TTL, MINIMUM) of an SOA (RFC 2308 section 5); a TTL with its top bit is 0."""
    octets = checked.octets
    ttl = octets[soa[3] - 6 : soa[3] - 2]
    return int.from_bytes(min(ttl if ttl < _HIGHEST_BIT else bytes(4), octets[soa[4] - 4 : soa[4]]))


def _with_negative_ttl(records: bytes, ttls: Sequence[int], most: int) -> bytes:
    """Return *records* with every TTL of the authority section lowered to *most*.

    Proofs are valid no longer than the SOA (RFC 9077).
    """
    limit = most.to_bytes(4, "big")
    if all(records[at : at + 4] <= limit for at in ttls):
        return records
    changed = bytearray(records)
    for at in ttls:
        changed[at : at + 4] = min(records[at : at + 4], limit)
    return bytes(changed)


def _chain(
    checked: CheckedReply,
    answers: Sequence[Span],
    name: bytes,
    qtype: int,
    aliases: list[tuple[bytes, int]],
    dnssec_ok: bool,
) -> tuple[list[Span], int, bytes, bool]:
    """Follow the chain of CNAMEs from *name* to the queried RRset.

    Returns the RRs in order, how many precede the queried RRset, the last name of the chain, and
    whether the queried RRset exists. Adds to *aliases* the target of each CNAME and how many RRs lead
    to it.
    """
    octets = checked.octets
    # Hot path: an answer that is the queried RRset alone, which may have thousands of RRs.
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
    selected: list[Span] = []
    for _ in range(MAX_HOPS + 1):
        if dnames:
            selected += [
                span
                for owner in _above(name)
                if owner in dnames
                for span in by_owner.pop(owner, ())
                if span[1] == Type.DNAME or (dnssec_ok and span[1] == Type.RRSIG)
            ]
        before = len(selected)
        exists, target = False, None
        for span in by_owner.pop(name, ()):
            rtype = span[1]
            if qtype in (rtype, Type.ANY):
                exists = True
            elif rtype == Type.CNAME:
                target = checked.names[span[3]][0]
            elif rtype != Type.RRSIG or not dnssec_ok:
                continue
            selected.append(span)
        if exists or target is None:
            return selected, before, name, exists
        if any(span[0] == target for span in selected):
            raise BadReply("a chain of CNAMEs that loops", final=True)
        name = target
        aliases.append((name, len(selected)))
    raise BadReply("a chain of more than 16 CNAMEs", final=True)


def _proofs(
    checked: CheckedReply, authority: Sequence[Span], soa: Span | None, dnssec_ok: bool
) -> list[Span]:
    """Return the RRs of the authority section to relay, in their order."""
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
    checked: CheckedReply,
    selected: Sequence[Span],
    soa: Span | None,
    *,
    exists: bool,
    aliased: bool,
) -> int:
    """Return the seconds that a reply may be cached (RFC 2308 section 5 if it is negative)."""
    if checked.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
        return 0
    octets = checked.octets
    # Hot path: big-endian octets compare like the numbers that they encode.
    ttls = [octets[span[3] - 6 : span[3] - 2] for span in selected]
    if ttls and max(ttls) >= _HIGHEST_BIT:
        return 0
    shortest = int.from_bytes(min(ttls), "big") if ttls else MAX_LIFETIME
    if exists:
        return min(MAX_LIFETIME, shortest)
    if soa is not None:
        return min(MAX_NEGATIVE_LIFETIME, _negative_ttl(checked, soa), shortest)
    if aliased and checked.rcode == Rcode.NOERROR:
        return 0  # a CNAME is never cached without its target
    return min(NO_SOA_LIFETIME, shortest)


def _cut(
    checked: CheckedReply, selected: Sequence[Span], name: bytes
) -> tuple[bytes, tuple[int, ...]]:
    """Return the octets of the RRs *selected* and the offsets of their TTLs."""
    octets, count = checked.octets, len(selected)
    start = len(octets) if not checked.spans else checked.spans[0][2]
    in_order = list(checked.spans[:count]) == selected
    if in_order and (count > MAX_REBUILT or _owners_point(octets, selected, name)):
        # The octets as received: the targets of compression pointers do not move. More than a
        # thousand RRs may thus keep the letter case of our query: rebuilding them costs too much.
        records = octets[start : selected[-1][4]] if selected else b""
        ttls = tuple(span[3] - 6 - start for span in selected)
    elif count > MAX_REBUILT:
        raise BadReply("too many records that are not in order", final=True)
    else:
        parts: list[bytes] = []
        offsets, at = [], 0
        for span in selected:
            owner = _QNAME if span[0] == name else span[0]
            rest = (
                _written_out(checked, span)
                if span[1] in NAMES_IN
                else octets[span[3] - 10 : span[4]]
            )
            parts += (owner, rest)
            offsets.append(at + len(owner) + 4)
            at += len(owner) + len(rest)
            # Checked here: names written out can make a reply fifteen times as long.
            if at > MAX_RECORDS:
                raise BadReply("too large", final=True)
        records, ttls = b"".join(parts), tuple(offsets)
    if ttls and max(records[at] for at in ttls) & 0x80:
        changed = bytearray(records)
        for at in ttls:
            if changed[at] & 0x80:
                changed[at : at + 4] = bytes(4)
        records = bytes(changed)
    return records, ttls


def _owners_point(octets: bytes, selected: Sequence[Span], name: bytes) -> bool:
    """Whether each owner that is QNAME is a pointer to the question.

    Only then it takes the client's letter case. Some upstreams write it out in the random case
    of our query.
    """
    return all(span[0] != name or octets.startswith(_QNAME, span[2]) for span in selected)


def _written_out(checked: CheckedReply, span: Span) -> bytes:
    """Return an RR without its owner, with the names in its rdata uncompressed."""
    octets, (_, rtype, _, start, end) = checked.octets, span
    if rtype == Type.NAPTR:
        return octets[start - 10 : end]  # never compressed, RFC 3403 section 4.1
    first, count, _ = NAMES_IN[rtype]
    parts, at = [octets[start : start + first]], start + first
    for _ in range(count):
        if at not in checked.names:
            raise BadReply("compressed names in unparsed rdata", final=True)
        parts.append(checked.names[at][0])
        while 0 < octets[at] < 64:
            at += 1 + octets[at]
        at += 1 + (octets[at] >= 0xC0)
    rdata = b"".join((*parts, octets[at:end]))
    return octets[start - 10 : start - 2] + pack("!H", len(rdata)) + rdata


def _above(name: bytes) -> Iterator[bytes]:
    """Yield the names above *name* in wire form, the root last."""
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
    """Return an upstream's reply with the client's id, question and OPT.

    *age* is the seconds since it arrived, None when it is stale. Compression pointers remain
    valid, as header and question keep their length. Only a client that requests AD gets it (RFC
    6840 section 5.8). A reply that is too large gets TC and as many RRs of the queried set as fit:
    some clients use those and never retry over TCP (musl before 1.2.4).
    """
    counts, flags = relayed.counts, relayed.ad and wants_ad(query) and AD
    opt_record = opt(query, relayed.rcode, ede_option(ede) + reply_options.edns_options)
    # The size is checked first: changing thousands of TTLs takes a millisecond.
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
    """Whether the client understands AD: its query has AD or DO."""
    return bool(query.flags & AD) or bool(query.edns and query.edns.dnssec_ok)
