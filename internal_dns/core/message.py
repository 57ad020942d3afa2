"""Assemble a reply: what it says (a Body, the same for all who ask the same) and to which query.

    header · question as sent · answer · authority · additional · OPT

The answer table keeps Bodies; id, RD, CD, letter case, OPT, size limit and rotation are applied
here, each time. What does not fit goes in this order: EDE, additional records, whole RRs from the
end (then TC is set).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack
from typing import Final

from internal_dns.core.records import (
    PAGE,
    RRset,
    TextList,
    compressed,
    items_that_fit,
    rotated,
    rr,
    text,
)
from internal_dns.core.wire import (
    AA,
    CD,
    EXTENDED_ERROR,
    HEADER,
    MAX_MESSAGE,
    QR,
    RA,
    RD,
    TC,
    Ede,
    Malformed,
    Query,
    Rcode,
    Type,
)

OUR_UDP_SIZE: Final = (
    4_096  # what our OPT says we take; the replies' limit is the client's (RFC 6891 section 6.2.3)
)
PLAIN_UDP_SIZE: Final = 512  # RFC 1035 section 4.2.1
MAX_EDE_TEXT: Final = 120  # octets
_QNAME: Final = b"\xc0\x0c"  # a pointer to the question's name
_RR_HEAD: Final = 12  # octets of an RR before its rdata, with such a pointer


@dataclass(frozen=True, slots=True)
class Body:
    """What a reply says, without what depends on the single query."""

    rcode: Rcode = Rcode.NOERROR
    aa: bool = True
    answer: tuple[tuple[bytes, ...], ...] = ()  # tie groups of whole RRs
    at_most: int = 0
    authority: bytes = b""  # one RR or none
    additional: tuple[bytes, ...] = ()
    ede: tuple[Ede, str] | None = None
    whole: RRset | TextList | None = (
        None  # what the answer was made from, for a set too large for any message
    )


@dataclass(frozen=True, slots=True)
class Manner:
    """How a reply is to be sent: limit in octets, RA, turn of rotation, our EDNS options but
    EDE."""

    limit: int = PLAIN_UDP_SIZE
    ra: bool = True
    turn: int = 0
    options: bytes = b""
    stream: bool = False


def body_of(
    found: RRset | TextList, qname: tuple[bytes, ...], ede: tuple[Ede, str] | None = None
) -> Body:
    """Return the positive reply that holds *found*."""
    if isinstance(found, TextList):
        fits = items_that_fit(found.items, found.separator, MAX_MESSAGE - _RR_HEAD) == len(
            found.items
        )
        records = (rr(_QNAME, Type.TXT, text(found.items, found.separator)),) if fits else ()
        return Body(answer=(records,), ede=ede, whole=found)
    answer = tuple(tuple(rr(_QNAME, found.type, rdata) for rdata in tied) for tied in found.groups)
    extra = tuple(rr(compressed(e.owner, qname), Type.AAAA, e.address) for e in found.extra)
    return Body(answer=answer, at_most=found.at_most, additional=extra, ede=ede, whole=found)


def message(body: Body, query: Query | Malformed, manner: Manner) -> bytes:
    """Return the octets of the reply to *query*, at most `manner.limit` of them."""
    records = [record for tied in body.answer for record in rotated(tied, manner.turn)]
    if body.at_most:
        records = records[: body.at_most]
    opt_size = 11 + len(manner.options) if query.edns else 0
    room = manner.limit - HEADER - len(query.question) - opt_size - len(body.authority)
    flags, ede, extra = 0, body.ede, body.additional
    if sum(map(len, records)) > room or (
        not records and body.whole
    ):  # no records: a TXT list past 65,535 octets
        flags, extra = TC, ()
        records, ede = _what_fits(body, records, room, manner, has_opt=query.edns is not None)
    room -= sum(map(len, records))
    error = ede_option(ede) if query.edns else b""
    if len(error) > room:  # the first to go
        error = b""
    room -= len(error)
    additional = []
    for record in extra:
        if len(record) > room:
            break
        additional.append(record)
        room -= len(record)
    return b"".join((
        header(query, body.rcode, aa=body.aa, ra=manner.ra, flags=flags),
        pack("!4H", bool(query.question), len(records), bool(body.authority), len(additional) + bool(query.edns)),
        query.question,
        *records,
        body.authority,
        *additional,
        opt(query, body.rcode, error + manner.options),
    ))  # fmt: skip


def header(query: Query | Malformed, rcode: int, *, aa: bool, ra: bool, flags: int = 0) -> bytes:
    """Return id and flags: opcode, RD and CD are the query's, nothing else of it is (RFC 6895
    section 2.1). RD and CD mean something in QUERY only."""
    copied = query.flags & (0x7800 if query.opcode else RD | CD)
    return query.id + pack("!H", QR | copied | aa * AA | ra * RA | flags | rcode & 15)


def opt(query: Query | Malformed, rcode: int, options: bytes) -> bytes:
    """Return our OPT RR, empty when the query had none (RFC 6891 section 6.1.1). DO is copied (RFC
    3225)."""
    if query.edns is None:
        return b""
    ttl = rcode >> 4 << 24 | query.edns.dnssec_ok << 15
    return b"\0" + pack("!HHIH", Type.OPT, OUR_UDP_SIZE, ttl, len(options)) + options


def option(code: int, value: bytes) -> bytes:
    """Return one EDNS option."""
    return pack("!HH", code, len(value)) + value


def ede_option(ede: tuple[Ede, str] | None) -> bytes:
    """Return the EDE option (RFC 8914), nothing for None."""
    return (
        b""
        if ede is None
        else option(EXTENDED_ERROR, pack("!H", ede[0]) + ede[1].encode()[:MAX_EDE_TEXT])
    )


def _what_fits(
    body: Body, records: list[bytes], room: int, manner: Manner, *, has_opt: bool
) -> tuple[list[bytes], tuple[Ede, str] | None]:
    """Return as many whole RRs (by TCP: whole items of a TXT list) as fit, and by TCP how to ask
    for the rest."""
    whole = body.whole
    if not manner.stream:
        # Part of a TXT RR would be a shorter list that looks complete; some addresses are still of
        # use.
        return ([] if isinstance(whole, TextList) else _first(records, room)), None
    total = len(whole.items) if isinstance(whole, TextList) else len(records)
    pages = f"; pages 1._page to {-(-total // PAGE)}._page" if whole and whole.pageable else ""
    shown = total
    for _ in range(2):  # the EDE takes room by the digits of a number that depends on the room
        left = room - (6 + len(f"{shown} of {total}{pages}")) * has_opt
        if isinstance(whole, TextList):
            shown = items_that_fit(whole.items, whole.separator, left - _RR_HEAD)
        else:
            shown = len(_first(records, left))
    if isinstance(whole, TextList):
        records = [rr(_QNAME, Type.TXT, text(whole.items[:shown], whole.separator))]
    return records[:shown], (Ede.OTHER, f"{shown} of {total}{pages}")


def _first(records: list[bytes], room: int) -> list[bytes]:
    """Return the first records that fit in *room* octets."""
    kept = []
    for record in records:
        room -= len(record)
        if room < 0:
            break
        kept.append(record)
    return kept
