"""Join a chain of CNAMEs with the answer at its end, when one of them is ours and the other from
outside.

    complete_chain  a chain from outside that ends in a name of ours: our answer at that name, as
    the asker
                    sees it, behind the chain
    join_chain      our chain that leads outside: what an upstream answers there, behind the chain

The rest is that of the last name (RFC 6604): RCODE, SOA, EDE. AA follows the first owner (RFC 1035
section 4.1.1), AD is 0. Nobody else sees the reply: it is stored nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack, unpack_from
from typing import NamedTuple

from internal_dns.core.journey import AliasedQuery, Forward
from internal_dns.core.message import ede_option, header, opt, option
from internal_dns.core.relayed import Relayed
from internal_dns.core.wire import ASK_AS, HEADER, NAMES_IN, RD, TC, Ede, Rcode, Type

_FURTHEST = 0x3FFF  # the largest offset of a compression pointer (RFC 1035 section 4.1.4)


def question_at_end(forward: Forward, relayed: Relayed) -> bytes:
    """Return the query to answer ourselves: the client's, with the chain's last name as QNAME."""
    query, edns = forward.query, forward.query.edns
    octets = pack("!HHHHHH", 0, query.flags & RD, 1, 0, 0, edns is not None)
    octets += relayed.target + pack("!HH", query.qtype, query.qclass)
    if edns is None:
        return octets
    options = b"" if edns.ask_as is None else option(ASK_AS, edns.ask_as)
    ttl = edns.dnssec_ok << 15
    return octets + b"\0" + pack("!HHIH", Type.OPT, edns.size, ttl, len(options)) + options


def complete_chain(
    forward: Forward,
    relayed: Relayed,
    chain: bytes,
    ours: bytes,
    ede: tuple[Ede, str] | None = None,
) -> bytes:
    """Return the completed reply.

    It has *chain*, the records of *relayed* with their current TTLs, then *ours*, the reply to
    `question_at_end` over TCP. If it is too large, parts are dropped as in our other replies: EDE,
    additional records, whole RRs from the end (then TC is set). The chain is sent whole or not at
    all.
    """
    query, reply_options = forward.query, forward.reply_options
    answers, authorities, additionals = unpack_from("!3H", ours, 6)
    rcode = ours[3] & 15
    at, begin = HEADER + len(relayed.target) + 4, HEADER + len(query.question) + len(chain)
    records = _Records(ours, at, relayed.target, begin)
    room = reply_options.limit - begin - len(opt(query, rcode, reply_options.edns_options))
    answer = [records.next() for _ in range(answers)]
    authority = [records.next() for _ in range(authorities)]
    ede_octets = ede_option(ede)
    additional = []
    for _ in range(additionals):
        if records.type == Type.OPT:
            ede_octets = records.rdata or ede_octets
        else:
            additional.append(records.next())
    flags = 0
    room -= sum(map(len, authority))
    if sum(map(len, answer)) > room or ours[2] & TC >> 8:
        flags, additional = TC, []
        answer = answer[: _that_fit(answer, room)]
        if room < 0 or not answer:
            answer, authority = [], []
    room -= sum(map(len, answer))
    if room < 0:  # the chain or the SOA of a negative reply does not fit
        flags, chain, count = TC, b"", 0
    else:
        count = relayed.counts[0]
    if reply_options.stream and answer:
        flags = 0  # over TCP, clients use a part only without TC (message.py, `_part`)
    error = ede_octets if query.edns and not flags and len(ede_octets) <= room else b""
    additional = additional[: _that_fit(additional, room - len(error))]
    return b"".join((
        header(query, rcode, aa=False, ra=True, flags=flags),
        pack("!4H", 1, count + len(answer), len(authority), len(additional) + bool(query.edns)),
        query.question,
        chain,
        *answer,
        *authority,
        *additional,
        opt(query, rcode, error + reply_options.edns_options),
    ))  # fmt: skip


def join_chain(aliased: AliasedQuery, octets: bytes) -> bytes:
    """Return the reply to the client whose aliases lead outside: its aliases, then *octets*, the
    reply to a question for the last of them, which leaves out nothing for its size.

    What does not fit goes as in `complete_chain`, but no alias stays when nothing behind it does.
    """
    query, reply_options, chain = aliased.query, aliased.reply_options, b"".join(aliased.chain)
    inner = _Message(octets)
    rcode = inner.rcode
    has_end = rcode in (Rcode.NOERROR, Rcode.NXDOMAIN)
    answer = list(inner.section(0)) if has_end else []
    authority = list(inner.section(1)) if has_end else []
    leading = aliased.chain if has_end else ()
    said = inner.options
    room = reply_options.limit - HEADER - len(query.question) - len(chain) * bool(leading)
    room -= len(opt(query, rcode, reply_options.edns_options))
    size, flags = sum(map(len, answer)), 0
    if size + sum(map(len, authority)) > room:
        flags = 0 if reply_options.stream else TC
        answer = answer[: _that_fit(answer, room)]
        authority, said = [], b""
        if not answer:
            leading, flags = (), TC
            room += len(chain)
    room -= sum(map(len, answer)) + sum(map(len, authority))
    error = said if query.edns and len(said) <= room else b""
    return b"".join((
        header(query, rcode, aa=has_end, ra=reply_options.ra, flags=flags),
        pack("!4H", 1, len(leading) + len(answer), len(authority), bool(query.edns)),
        query.question,
        *leading,
        *answer,
        *authority,
        opt(query, rcode, error + reply_options.edns_options),
    ))  # fmt: skip


class _Rr(NamedTuple):
    """Where a record stands: its owner, its type, its rdata's begin and end."""

    owner: int
    type: int
    begin: int
    end: int


class _Message:
    """One of our own replies, whose records are wanted for another message: with all names written
    out."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        at = self._after_name(HEADER) + 4
        self.sections: list[list[_Rr]] = []
        for count in unpack_from("!3H", octets, 6):
            section = []
            for _ in range(count):
                begin = self._after_name(at) + 10
                rtype, length = unpack_from("!H6xH", octets, begin - 10)
                section.append(_Rr(at, rtype, begin, begin + length))
                at = begin + length
            self.sections.append(section)

    @property
    def rcode(self) -> int:
        return self.octets[3] & 15 | self._opt_ttl()[0] << 4

    @property
    def options(self) -> bytes:
        """Those of its OPT."""
        return next(
            (self.octets[r.begin : r.end] for r in self.sections[2] if r.type == Type.OPT), b""
        )

    def _opt_ttl(self) -> bytes:
        found = (
            self.octets[r.begin - 6 : r.begin - 2] for r in self.sections[2] if r.type == Type.OPT
        )
        return next(found, bytes(4))

    def section(self, number: int) -> Iterator[bytes]:
        """Yield the records of a section."""
        octets = self.octets
        for owner, rtype, begin, end in self.sections[number]:
            rdata = octets[begin:end]
            if rtype in NAMES_IN and rtype != Type.NAPTR:  # never compressed, RFC 3403 section 4.1
                first, count, _ = NAMES_IN[rtype]
                at, parts = begin + first, [octets[begin : begin + first]]
                for _ in range(count):
                    parts.append(self._name(at))
                    at = self._after_name(at)
                rdata = b"".join((*parts, octets[at:end]))
            yield b"".join((
                self._name(owner), octets[begin - 10 : begin - 2], pack("!H", len(rdata)), rdata
            ))  # fmt: skip

    def _after_name(self, at: int) -> int:
        octets = self.octets
        while 0 < octets[at] < 64:
            at += 1 + octets[at]
        return at + (2 if octets[at] else 1)

    def _name(self, at: int) -> bytes:
        """Return the name at *at*, written out."""
        octets, start, parts = self.octets, at, list[bytes]()
        while octets[at]:
            if octets[at] >= 0xC0:
                parts.append(octets[start:at])
                # Names were read before, and each pointer leads backwards (wire.check_reply).
                at = start = (octets[at] & 0x3F) << 8 | octets[at + 1]
            else:
                at += 1 + octets[at]
        return b"".join((*parts, octets[start : at + 1]))


def _that_fit(records: list[bytes], room: int) -> int:
    """Return how many of the first *records* fit in *room* octets."""
    for count, record in enumerate(records):
        room -= len(record)
        if room < 0:
            return count
    return len(records)


class _Records:
    """The records of one of our replies in order, rewritten for another message.

    Pointers to the reply's question become pointers to *name* in that message.
    """

    def __init__(self, octets: bytes, at: int, name: bytes, begin: int) -> None:
        self.octets, self.at, self.name = octets, at, name
        self.written = begin  # the offset of the next record in the other message
        self.name_at: int | None = None  # the offset of the uncompressed name there

    @property
    def type(self) -> int:
        """The type of the next record, if its owner is the root."""
        return int.from_bytes(self.octets[self.at + 1 : self.at + 3], "big")

    @property
    def rdata(self) -> bytes:
        """The rdata of the next record, if its owner is the root and it is the last."""
        return self.octets[self.at + 11 :]

    def next(self) -> bytes:
        """Return the next record."""
        octets, start = self.octets, self.at
        at = start
        while 0 < octets[at] < 64:
            at += 1 + octets[at]
        owner = octets[start:at]
        if octets[at] >= 0xC0:
            owner += self._end((octets[at] & 0x3F) << 8 | octets[at + 1], bare=not owner)
            at += 2
        else:
            owner += b"\0"
            at += 1
        self.at = at + 10 + int.from_bytes(octets[at + 8 : at + 10], "big")
        record = owner + octets[at : self.at]
        self.written += len(record)
        return record

    def _end(self, pointer: int, *, bare: bool) -> bytes:
        """Return the end of an owner that is a pointer into our question."""
        skip = pointer - HEADER
        if self.name_at is not None and self.name_at + skip <= _FURTHEST:
            return (0xC000 | self.name_at + skip).to_bytes(2, "big")
        if bare and not skip:
            self.name_at = self.written
        return self.name[skip:]
