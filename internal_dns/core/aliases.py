"""Complete a CNAME chain of an upstream that ends in a name of ours with our own answer.

    answer      the upstream's chain, then our answer for its last name, as the requester sees it
    the rest    RCODE, SOA and EDE are those of the last name (RFC 6604); AA and AD are clear

The upstream decides the chain only. The completed reply is never stored, so no other requester
gets it.
"""

from __future__ import annotations

from struct import pack, unpack_from

from internal_dns.core.journey import Forward
from internal_dns.core.message import ede_option, header, opt, option
from internal_dns.core.relayed import Relayed
from internal_dns.core.wire import ASK_AS, HEADER, RD, TC, Ede, Type

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
