"""Assemble a reply from a Body, which is the same for all equal queries, and the query.

    header · question as sent · answer · authority · additional · OPT

The answer table stores Bodies; id, RD, CD, letter case, OPT, size limit and rotation are applied
here for each query. When a reply is too large, parts are dropped in this order: EDE, additional
records, whole RRs from the end. The reply then has TC over UDP; over TCP an EDE says how to get the
rest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from itertools import chain as flat
from struct import pack
from typing import Final

from internal_dns.core.records import (
    PAGE,
    TTL,
    Extra,
    RRset,
    TextList,
    compressed,
    rotated,
    rr,
)
from internal_dns.core.wire import (
    AA,
    CD,
    EXTENDED_ERROR,
    HEADER,
    IN,
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

# The size in our OPT: what we accept. Replies are limited by the client's (RFC 6891 section 6.2.3).
OUR_UDP_SIZE: Final = 4_096
PLAIN_UDP_SIZE: Final = 512  # RFC 1035 section 4.2.1
MAX_EDE_TEXT: Final = 120  # octets
QNAME: Final = b"\xc0\x0c"  # a pointer to QNAME
RR_HEAD: Final = 12  # octets of an RR before its rdata, when its owner is such a pointer
_AAAA_HEAD: Final = QNAME + pack("!HHIH", Type.AAAA, IN, TTL, 16)


@dataclass(frozen=True, slots=True)
class Body:
    """The part of a reply that does not depend on the individual query."""

    rcode: Rcode = Rcode.NOERROR
    aa: bool = True
    chain: tuple[bytes, ...] = ()  # the CNAME RRs that lead to what was asked for
    answer: tuple[tuple[bytes, ...], ...] = ()  # tie groups of whole RRs
    at_most: int = 0
    authority: bytes = b""  # one RR or none
    additional: tuple[bytes, ...] = ()
    ede: tuple[Ede, str] | None = None
    # The set that `answer` was made from. If it is too large for any message, `answer` is empty.
    whole: RRset | TextList | None = None
    owner: bytes = QNAME  # of the answer's RRs, in wire form


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """How to send a reply: size limit, RA, rotation, EDNS options except EDE, and transport."""

    limit: int = PLAIN_UDP_SIZE
    ra: bool = True
    rotation: int = 0
    edns_options: bytes = b""
    stream: bool = False


def body_of(
    whole: RRset | TextList,
    qname: tuple[bytes, ...],
    ede: tuple[Ede, str] | None = None,
    chain: tuple[bytes, ...] = (),
    owner: bytes = QNAME,
) -> Body:
    """Return the positive reply that holds *whole*, whose RRs are *owner*'s, behind *chain*."""
    if isinstance(whole, TextList):
        most = MAX_MESSAGE - RR_HEAD
        if len(whole.text.sizes) < whole.count or whole.text.is_over(most):
            return Body(chain=chain, ede=ede, whole=whole, owner=owner)
        rdata, shown = whole.text.strings(most)
        if shown < whole.count:
            return Body(chain=chain, ede=ede, whole=whole, owner=owner)
        text = ((rr(owner, Type.TXT, rdata),),)
        return Body(chain=chain, answer=text, ede=ede, whole=whole, owner=owner)
    if whole.total:
        return Body(chain=chain, at_most=whole.at_most, ede=ede, whole=whole, owner=owner)
    answer = tuple(tuple(_rrs(whole, tied, owner)) for tied in whole.groups)
    return Body(
        chain=chain,
        owner=owner,
        answer=answer,
        at_most=whole.at_most,
        additional=_additional(whole.extra, qname, MAX_MESSAGE - sum(map(len, flat(*answer)))),
        ede=ede,
        whole=whole,
    )


def ring_of(body: Body) -> bytes:
    """Return all RRs of an address set too large for any message, before rotation.

    Empty for any other body, whose `answer` has the RRs.
    """
    if not isinstance(body.whole, RRset) or body.whole.all_rdata is None:
        return b""
    head = rr(QNAME, Type.AAAA, bytes(16), body.whole.ttl)[:RR_HEAD]
    return head.join(flat((b"",), body.whole.all_rdata()))


def _rrs(found: RRset, rdata: Iterable[bytes], owner: bytes) -> Iterator[bytes]:
    """Yield RRs of *owner*.

    Hot path: RRs with rdata of equal length share the octets before the rdata.
    """
    if found.type == Type.AAAA and owner == QNAME and found.ttl == TTL:
        yield from map(_AAAA_HEAD.__add__, rdata)
        return
    heads: dict[int, bytes] = {}
    for octets in rdata:
        size = len(octets)
        if size not in heads:
            heads[size] = rr(owner, found.type, octets, found.ttl)[: -size or None]
        yield heads[size] + octets


def _additional(extra: tuple[Extra, ...], qname: tuple[bytes, ...], room: int) -> tuple[bytes, ...]:
    """Return the AAAA RRs of the additional section, until they exceed *room* octets."""
    rest: dict[tuple[bytes, ...], bytes] = {}
    records: list[bytes] = []
    for one in extra:
        if one.rest not in rest:
            rest[one.rest] = compressed(one.rest, qname) + _AAAA_HEAD[2:]
        records.append(bytes((len(one.first),)) + one.first + rest[one.rest] + one.address)
        room -= len(records[-1])
        if room < 0:
            break
    return tuple(records)


def message(body: Body, query: Query | Malformed, reply_options: ReplyOptions) -> bytes:
    """Return the reply to *query* in at most `reply_options.limit` octets."""
    return assemble(body, query, reply_options)[0]


def assemble(
    body: Body, query: Query | Malformed, reply_options: ReplyOptions
) -> tuple[bytes, bool]:
    """Return the octets of the reply, and whether it is incomplete although TC is clear."""
    whole = body.whole
    if isinstance(whole, RRset) and whole.total:
        records = list(_rrs(whole, flat.from_iterable(whole.groups), body.owner))
        total = whole.total
    else:
        records = [
            record for tied in body.answer for record in rotated(tied, reply_options.rotation)
        ]
        if body.at_most:
            records = records[: body.at_most]
        total = len(records)
    opt_size = 11 + len(reply_options.edns_options) if query.edns else 0
    room = reply_options.limit - HEADER - len(query.question) - opt_size - len(body.authority)
    if leading := body.chain:
        room -= sum(map(len, leading))
    flags, ede, extra = 0, body.ede, body.additional
    too_long = isinstance(whole, TextList) and not records
    partial = False
    if room < 0 and leading:  # not even the chain fits
        flags, ede, extra, records, leading = TC, None, (), [], ()
        room = reply_options.limit - HEADER - len(query.question) - opt_size - len(body.authority)
    elif too_long or len(records) < total or sum(map(len, records)) > room:
        extra = ()
        if reply_options.stream:
            partial = True
            has_opt = query.edns is not None
            records, ede = _part(whole, records, total, room, body.owner, has_opt=has_opt)
        else:
            flags, ede = TC, None
            # Part of a TXT RR would look like a complete, shorter list. Some of the addresses are
            # still useful.
            records = [] if isinstance(whole, TextList) else records[: _fitting(records, room)]
            if not records:  # aliases alone look like NODATA to who does not look at TC
                room += sum(map(len, leading))
                leading = ()
    room -= sum(map(len, records))
    error = ede_option(ede) if query.edns else b""
    if len(error) > room:  # EDE is dropped first
        error = b""
    room -= len(error)
    additional = []
    for record in extra:
        if len(record) > room:
            break
        additional.append(record)
        room -= len(record)
    answers, additionals = len(leading) + len(records), len(additional) + bool(query.edns)
    return b"".join((
        header(query, body.rcode, aa=body.aa, ra=reply_options.ra, flags=flags),
        pack("!4H", bool(query.question), answers, bool(body.authority), additionals),
        query.question,
        *leading,
        *records,
        body.authority,
        *additional,
        opt(query, body.rcode, error + reply_options.edns_options),
    )), partial  # fmt: skip


def header(query: Query | Malformed, rcode: int, *, aa: bool, ra: bool, flags: int = 0) -> bytes:
    """Return id and flags. Only opcode, RD and CD are copied from the query (RFC 6895 section 2.1).

    RD and CD are defined for QUERY only.
    """
    copied = query.flags & (0x7800 if query.opcode else RD | CD)
    return query.id + pack("!H", QR | copied | aa * AA | ra * RA | flags | rcode & 15)


def opt(query: Query | Malformed, rcode: int, options: bytes) -> bytes:
    """Return our OPT RR, empty when the query has none (RFC 6891 section 6.1.1).

    DO is copied (RFC 3225).
    """
    if query.edns is None:
        return b""
    ttl = rcode >> 4 << 24 | query.edns.dnssec_ok << 15
    return b"\0" + pack("!HHIH", Type.OPT, OUR_UDP_SIZE, ttl, len(options)) + options


def option(code: int, value: bytes) -> bytes:
    """Return one EDNS option."""
    return pack("!HH", code, len(value)) + value


def ede_option(ede: tuple[Ede, str] | None) -> bytes:
    """Return the EDE option (RFC 8914), empty for None."""
    return (
        b""
        if ede is None
        else option(EXTENDED_ERROR, pack("!H", ede[0]) + ede[1].encode()[:MAX_EDE_TEXT])
    )


def _part(
    whole: RRset | TextList | None,
    records: list[bytes],
    total: int,
    room: int,
    owner: bytes,
    *,
    has_opt: bool,
) -> tuple[list[bytes], tuple[Ede, str]]:
    """Return as many whole RRs as fit a TCP message, and an EDE that says how to get the rest.

    Of a TXT list these are whole items. TC stays clear, since a client has no transport left for a
    retry. If it is set, Go's resolver fails, and all others but dig use the part silently.
    """
    pageable = whole is not None and whole.pageable
    if not isinstance(whole, TextList):
        fitting = partial(_fitting, records)
        shown, ede = fit_part(
            fitting, len(records), total, room, pageable=pageable, has_opt=has_opt
        )
        return records[:shown], ede
    text = whole.text
    rdata = b""

    def items_in(left: int) -> int:
        nonlocal rdata
        rdata, items = text.strings(left - RR_HEAD + len(QNAME) - len(owner))
        return items

    most = len(text.sizes)
    _, ede = fit_part(items_in, most, whole.count, room, pageable=pageable, has_opt=has_opt)
    return [rr(owner, Type.TXT, rdata)], ede


def fit_part(
    fitting: Callable[[int], int],
    at_most: int,
    total: int,
    room: int,
    *,
    pageable: bool,
    has_opt: bool,
) -> tuple[int, tuple[Ede, str]]:
    """Return how many of *total* items fit a TCP message with *room*, and the EDE that says so.

    *fitting* returns how many of the first *at_most* items fit a given room.
    """
    pages = f"; pages 1._page to {-(-total // PAGE)}._page" if pageable else ""
    digits = len(str(at_most))
    while True:  # the EDE contains the count, whose digits take room that the count depends on
        shown = fitting(room - (6 + digits + len(f" of {total}{pages}")) * has_opt)
        if len(str(shown)) >= digits:
            return shown, (Ede.OTHER, f"{shown} of {total}{pages}")
        digits = len(str(shown))


def _fitting(records: list[bytes], room: int) -> int:
    """Return how many of the first records fit in *room* octets."""
    return bisect_right(list(accumulate(map(len, records))), room)
