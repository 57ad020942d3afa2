"""Parse messages from outside: queries in full, upstreams' replies as far as they are relayed.

                  1  1  1  1  1  1
    0  1  2  3  4  5  6  7  8  9  0  1  2  3  4  5
  |                      ID                       |   RFC 1035 section 4.1.1
  |QR|  OPCODE   |AA|TC|RD|RA| Z|AD|CD|   RCODE   |   RFC 4035 for AD and CD
  |  QDCOUNT  |  ANCOUNT  |  NSCOUNT  |  ARCOUNT  |   16 bits each
  QNAME · QTYPE · QCLASS, then for EDNS one OPT RR   RFC 6891

No library parses a client's octets: a crafted message can keep a general parser busy for hundreds
of milliseconds. Here every loop is bounded by the 4,096 octets of a query and by MAX_ADDITIONAL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import Final


class Type(IntEnum):
    """RR types that this server knows by name; it passes on any other number (RFC 3597)."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    MX = 15
    TXT = 16
    AAAA = 28
    SRV = 33
    NAPTR = 35
    DNAME = 39
    OPT = 41
    RRSIG = 46
    NSEC = 47
    NSEC3 = 50
    SVCB = 64
    HTTPS = 65
    IXFR = 251
    AXFR = 252
    ANY = 255
    CAA = 257


class Rcode(IntEnum):
    """RCODEs that this server sends, RFC 6895 section 2.3."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Ede(IntEnum):
    """Extended DNS error codes that this server sends, RFC 8914 section 4."""

    OTHER = 0
    STALE = 3
    NOT_READY = 14
    BLOCKED = 15
    PROHIBITED = 18
    STALE_NXDOMAIN = 19
    NOT_AUTHORITATIVE = 20
    NO_REACHABLE_AUTHORITY = 22
    NETWORK_ERROR = 23


# Flags in the 16-bit word of header octets 2 and 3.
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010

IN: Final = 1
DS: Final = 43  # the one type that the parent zone is authoritative for, RFC 4035 section 3.1.4.1
HEADER: Final = 12
MAX_MESSAGE: Final = 65_535
# A query is a header, a name and a few options; a longer one only costs time.
MAX_QUERY: Final = 4_096
# A legal query carries OPT, and TSIG or SIG(0) beside it.
MAX_ADDITIONAL: Final = 32
# Ports of services that answer any datagram (echo, daytime, quote, chargen, time): a reply could
# start a loop.
SILENT_PORTS: Final = frozenset({0, 7, 13, 19, 37})

# EDNS option codes.
NSID: Final = 3  # RFC 5001
COOKIE: Final = 10  # RFC 7873
KEEPALIVE: Final = 11  # RFC 7828
EXTENDED_ERROR: Final = 15  # RFC 8914
# Local use (RFC 6891 section 9): names the requester to answer as, in dev mode.
ASK_AS: Final = 65_001
MAX_ASK_AS: Final = 127

_SIX = Struct("!6H")
_RR = Struct("!HHIH")
_TWO = Struct("!HH")


@dataclass(frozen=True, slots=True)
class Edns:
    """The contents of a query's OPT RR. `client_cookie` is the whole option; `size` is as sent."""

    size: int
    version: int
    dnssec_ok: bool
    client_cookie: bytes | None = None
    nsid: bool = False
    keepalive: bool = False
    ask_as: bytes | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A well-formed query. `question` is as sent, `name` (wire form) and `labels` lower-cased."""

    id: bytes
    flags: int
    question: bytes
    name: bytes
    labels: tuple[bytes, ...]
    qtype: int
    qclass: int
    edns: Edns | None

    @property
    def opcode(self) -> int:
        return self.flags >> 11 & 15

    @property
    def rd(self) -> bool:
        return bool(self.flags & RD)


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that breaks the protocol. `question` and `edns` were parsed before the fault."""

    id: bytes
    flags: int
    reason: str
    question: bytes = b""
    edns: Edns | None = None

    @property
    def opcode(self) -> int:
        return self.flags >> 11 & 15


@dataclass(frozen=True, slots=True)
class Silent:
    """A message that must not be answered (RFC 5625 section 6.2, RFC 1035 section 7.3)."""

    reason: str


class _Fault(Exception):
    """A message breaks a rule of the protocol; the text says which."""


def read_query(octets: bytes) -> Query | Malformed | Silent:
    """Parse one query. Never raises."""
    if len(octets) < HEADER:
        return Silent("runt")
    _, flags, questions, answers, authorities, additionals = _SIX.unpack_from(octets)
    id_octets = octets[:2]
    if flags & QR:
        return Silent("qr")
    question, edns, opts = b"", None, list[Edns]()
    try:
        if len(octets) > MAX_QUERY:
            raise _Fault("longer than 4096 octets")
        if questions > 1:
            raise _Fault("more than one question")  # RFC 9619
        at, name, qtype, qclass = HEADER, b"", 0, 0
        labels: tuple[bytes, ...] = ()
        if questions:
            at, name, labels, qtype, qclass = _question(octets)
            question = octets[HEADER:at]
        if answers:
            raise _Fault("a query carries no answer")
        if authorities:
            at = _ixfr_serial(octets, at, qtype, authorities, flags)
        if additionals:
            at = _additional(octets, at, additionals, opts)
            edns = opts[0] if opts else None
        if at != len(octets):
            raise _Fault("octets after the last record")
        _check_options(edns)
        if not questions and (edns is None or edns.client_cookie is None) and not flags >> 11 & 15:
            raise _Fault("no question")  # RFC 7873 section 5.4 allows it with a cookie only
    except _Fault as fault:
        return Malformed(id_octets, flags, str(fault), question, opts[0] if opts else None)
    return Query(id_octets, flags, question, name, labels, qtype, qclass, edns)


def read_edns(octets: bytes) -> tuple[int, Edns] | None:
    """Return the end of the question and the EDNS data of a query that has only these two.

    Returns None for any other message and for a malformed one. Of the name only the lengths of the
    labels are checked.
    """
    at, size = HEADER, len(octets)
    while at < size and 0 < octets[at] < 64:
        at += 1 + octets[at]
    end = at + 5  # the root label, QTYPE, QCLASS
    if end + 11 > size or size > MAX_QUERY or octets[at]:
        return None
    rtype, rclass, ttl, length = _RR.unpack_from(octets, end + 1)
    if octets[end] or rtype != Type.OPT or end + 11 + length != size:
        return None
    try:
        edns = _edns(octets[end + 11 :], rclass, ttl)
        _check_options(edns)
    except _Fault:
        return None
    return end, edns


def _question(octets: bytes) -> tuple[int, bytes, tuple[bytes, ...], int, int]:
    """Parse the question.

    Returns its end, QNAME (wire form, lower-cased), labels, QTYPE and QCLASS.
    """
    at, size = HEADER, len(octets)
    labels: list[bytes] = []
    while True:
        if at >= size:
            raise _Fault("the question is cut off")
        length = octets[at]
        at += 1
        if not length:
            break
        if length > 63:
            raise _Fault("a compressed or unknown label in QNAME")
        labels.append(octets[at : at + length].lower())
        at += length
        if at - HEADER > 254:
            raise _Fault("QNAME is longer than 255 octets")
    if at + 4 > size:
        raise _Fault("the question is cut off")
    qtype, qclass = _TWO.unpack_from(octets, at)
    # Length octets are at most 63, below "A": lower-casing the wire form changes letters only.
    return at + 4, octets[HEADER:at].lower(), tuple(labels), qtype, qclass


def _ixfr_serial(octets: bytes, at: int, qtype: int, authorities: int, flags: int) -> int:
    """Skip the SOA of an IXFR query (RFC 1995 section 3), or the records of UPDATE and NOTIFY."""
    if not flags >> 11 & 15 and (qtype != Type.IXFR or authorities > 1):
        raise _Fault("a query carries no authority records")
    if authorities > MAX_ADDITIONAL:
        raise _Fault("too many records")
    for _ in range(authorities):
        at, rtype, _, _, length = _record(octets, at)
        if qtype == Type.IXFR and rtype != Type.SOA:
            raise _Fault("the authority record of IXFR is an SOA")
        at += length
    return at


def _record(octets: bytes, at: int) -> tuple[int, int, int, int, int]:
    """Parse the RR at *at* up to its rdata.

    Returns the start of the rdata, type, class, TTL and rdata length, which is inside the message.
    """
    size = len(octets)
    while True:
        if at >= size:
            raise _Fault("a record is cut off")
        length = octets[at]
        if length >= 0xC0:
            at += 2
            break
        if length > 63:
            raise _Fault("an unknown label type")
        at += 1 + length
        if not length:
            break
    if at + 10 > size:
        raise _Fault("a record is cut off")
    rtype, rclass, ttl, rdlength = _RR.unpack_from(octets, at)
    if at + 10 + rdlength > size:
        raise _Fault("rdata past the end")
    return at + 10, rtype, rclass, ttl, rdlength


def _additional(octets: bytes, at: int, count: int, opts: list[Edns]) -> int:
    """Skip the additional section and put its OPT into *opts*, even if its options are faulty."""
    if count > MAX_ADDITIONAL:
        raise _Fault("too many additional records")
    for _ in range(count):
        owner = at
        at, rtype, rclass, ttl, length = _record(octets, at)
        if rtype == Type.OPT:
            if opts:
                raise _Fault("more than one OPT")  # RFC 6891 section 6.1.1
            # RFC 6891 section 7: the FORMERR for a faulty OPT has an OPT itself.
            opts.append(Edns(rclass, ttl >> 16 & 255, bool(ttl & 0x8000)))
            if octets[owner]:
                raise _Fault("OPT with an owner other than the root")
            opts[0] = _edns(octets[at : at + length], rclass, ttl)
        at += length
    return at


def _edns(options: bytes, size: int, ttl: int) -> Edns:
    """Parse an OPT RR: its class is the UDP size, its TTL extended RCODE, version and flags."""
    version, dnssec_ok = ttl >> 16 & 255, bool(ttl & 0x8000)
    if version:  # BADVERS: the options of a later version may have another format
        return Edns(size, version, dnssec_ok)
    cookie = ask_as = None
    nsid = keepalive = False
    at, end = 0, len(options)
    while at < end:
        if at + 4 > end:
            raise _Fault("an EDNS option is cut off")
        code, length = _TWO.unpack_from(options, at)
        value = options[at + 4 : at + 4 + length]
        at += 4 + length
        if at > end:
            raise _Fault("an EDNS option runs past its end")
        if code == COOKIE and cookie is None:
            cookie = value
        elif code == NSID:
            nsid = True
        elif code == KEEPALIVE:
            keepalive = True
        elif code == ASK_AS:
            ask_as = value
    return Edns(size, version, dnssec_ok, cookie, nsid, keepalive, ask_as)


def _check_options(edns: Edns | None) -> None:
    if edns and edns.client_cookie is not None and not is_cookie(edns.client_cookie):
        raise _Fault("a malformed cookie")


def is_cookie(value: bytes) -> bool:
    """Whether *value* has the length of a cookie (RFC 7873 section 5.2.2).

    8 octets from a client that has no server cookie yet, else 16 to 40.
    """
    return len(value) == 8 or 16 <= len(value) <= 40


# ── upstreams' replies ────────────────────────────────────────────────────────────────────────────


class BadReply(Exception):
    """An upstream's message that cannot be relayed.

    `injected`: it has records for names or addresses of ours. `final`: it is well-formed but
    unusable.
    """

    def __init__(self, reason: str, *, injected: bool = False, final: bool = False) -> None:
        super().__init__(reason)
        self.injected, self.final = injected, final


# An RR in a message: owner (wire form, lower-cased), type, and the offsets of the RR, of its rdata
# and of its end.
Span = tuple[bytes, int, int, int, int]


@dataclass(frozen=True, slots=True)
class CheckedReply:
    """A reply that holds no data of our zones, without its OPT."""

    flags: int  # the header's second word
    counts: tuple[int, int, int]  # RRs of answer, authority and additional section
    records: bytes
    extended: int = 0  # the upper eight bits of the RCODE, from the OPT
    # The whole message, which spans and names refer to.
    octets: bytes = field(default=b"", compare=False)
    spans: Sequence[Span] = ()  # the RRs of answer and authority section
    # Names by offset: the lower-cased wire form, and whether the name is in a zone of ours.
    names: Mapping[int, tuple[bytes, bool]] = field(default_factory=dict, compare=False)
    # CNAMEs of the answer section with a target of ours: only the chain from QNAME may have one.
    aliases: Sequence[Span] = ()
    edns: bool = field(default=False, compare=False)  # whether the reply had an OPT

    @property
    def rcode(self) -> int:
        return self.extended << 4 | self.flags & 15


# The names in the rdata of a type: octets before the first, how many names, octets after the last
# (-1: service parameters). These are the types of RFC 1035 and of RFC 3597 section 4, whose names
# may be compressed, and later ones with a target name.
NAMES_IN: Final = {
    Type.NS: (0, 1, 0), 3: (0, 1, 0), 4: (0, 1, 0), Type.CNAME: (0, 1, 0), Type.SOA: (0, 2, 20),
    7: (0, 1, 0), 8: (0, 1, 0), 9: (0, 1, 0), Type.PTR: (0, 1, 0), 14: (0, 2, 0),
    Type.MX: (2, 1, 0), 17: (0, 2, 0), 18: (2, 1, 0), 21: (2, 1, 0), 26: (2, 2, 0),
    Type.SRV: (6, 1, 0), Type.NAPTR: (4, 1, 0), 36: (2, 1, 0), Type.DNAME: (0, 1, 0),
    58: (0, 2, 0), Type.SVCB: (2, 1, -1), Type.HTTPS: (2, 1, -1),
}  # fmt: skip
# The work that the names of one reply may take, counted in labels, pointers and names. A reply of
# 64 KB with 2,500 SRV RRs for hosts of one zone takes 7,500; a crafted one costs milliseconds.
MAX_LABELS: Final = 8_192
# The longest message holds fewer A RRs than this, and no shorter RR is common.
MAX_RRS: Final = 4_096
# A record costs as much as two labels: 2,500 SRV RRs with as many hosts take 12,500. The more
# records, the less work is left for names, so that no reply takes 5 ms (bench/replies.py).
MAX_WORK: Final = 12_544
MAX_HOPS: Final = 16
_IPV6HINT: Final = 6  # RFC 9460 section 7.3
# Hot path: plain integers; members of an enumeration take longer to look up and compare.
_AAAA, _NAPTR, _OPT = int(Type.AAAA), int(Type.NAPTR), int(Type.OPT)
_CNAME: Final = int(Type.CNAME)
_ADDRESS_SIZE: Final = {int(Type.A): 4, _AAAA: 16}
_NAMES_IN: Final = {int(rtype): where for rtype, where in NAMES_IN.items()}
# By type, the offset of the name in rdata that has only one, at the end.
_LAST_NAME: Final = {
    rtype: skip
    for rtype, (skip, count, tail) in _NAMES_IN.items()
    if (count, tail) == (1, 0) and rtype != _NAPTR
}


def is_reply_to(octets: bytes, ident: bytes, question: bytes) -> bool:
    """Whether *octets* are a reply with id *ident* to *question*.

    *question* is as it was sent, including letter case.
    """
    size = HEADER + len(question)
    return (
        len(octets) >= size
        and octets[:2] == ident
        and octets[2] & 0xF8 == QR >> 8  # QR, and OPCODE is QUERY
        and octets[4:6] == b"\0\1"
        and octets[HEADER:size] == question
    )


def is_bare_refusal(octets: bytes, ident: bytes) -> bool:
    """Whether *octets* are only a header with FORMERR or NOTIMP.

    A server without EDNS may reply so (RFC 6891 section 7).
    """
    return (
        len(octets) == HEADER
        and octets[:2] == ident
        and octets[2] & 0xF8 == QR >> 8
        and octets[3] & 15 in (Rcode.FORMERR, Rcode.NOTIMP)
        and octets[4:] == bytes(8)
    )


def check_reply(
    octets: bytes, ident: bytes, question: bytes, zones: frozenset[bytes], prefix: bytes | None
) -> CheckedReply:
    """Check that *octets* answer *question* with id *ident* and hold no data of our zones.

    *question* is as it was sent, including letter case. *zones* are our apexes in lower-cased wire
    form. *prefix* is the first octets of our addresses, None where a reply may hold them. Raises
    BadReply and nothing else. The cost is linear in the octets.
    """
    if not is_reply_to(octets, ident, question):
        raise BadReply("not the reply to this query")
    size = HEADER + len(question)
    _, flags, _, answers, authorities, additionals = _SIX.unpack_from(octets)
    spans: list[Span] = []
    aliases: list[Span] = []
    if (count := answers + authorities + additionals) > MAX_RRS:
        raise BadReply("too many records")  # not final: the counts may be wrong
    names = _Names(octets, zones, min(MAX_LABELS, MAX_WORK - 2 * count))
    try:
        at, end, seen = _check_records(
            octets, size, answers + authorities, names, prefix, spans, aliases
        )
        if seen < answers + authorities:
            raise _Fault("OPT outside the additional section")
        # A record after OPT (a TSIG, which is not for the client) is dropped along with it.
        after, end, before_opt = _check_records(octets, at, additionals, names, prefix, None, None)
    except _Fault as fault:
        raise BadReply(str(fault)) from None
    extended = octets[end + 5] if before_opt < additionals else 0
    if before_opt == additionals and after != len(octets):
        raise BadReply("octets after the last record")
    if aliases and any(span in aliases for span in spans[answers:]):
        raise BadReply("an alias to a name of ours outside the answer section", injected=True)
    counts = (answers, authorities, before_opt)
    return CheckedReply(
        flags,
        counts,
        octets[size:end],
        extended,
        octets,
        spans,
        names.known,
        aliases,
        before_opt < additionals,
    )


# Hot path: one call for all records of a section. A call per record doubles the time for a reply of
# 64 KB.
def _check_records(
    octets: bytes,
    at: int,
    count: int,
    names: _Names,
    prefix: bytes | None,
    spans: list[Span] | None,
    aliases: list[Span] | None,
) -> tuple[int, int, int]:
    """Check *count* RRs, or those before an OPT.

    Returns where the next RR starts, where the last one ends, and how many there are. Appends the
    RRs to *spans*, and CNAMEs to a name of ours to *aliases*.
    """
    size, known, unpack = len(octets), names.known, _RR.unpack_from
    for number in range(count):
        start = at
        if (
            at + 12 <= size
            and octets[at] >= 0xC0
            and (found := known.get((octets[at] & 0x3F) << 8 | octets[at + 1]))
        ):
            at += 2
            owner, ours = found
        else:
            at, ours = names.read(at)
            owner = known[start][0]
        if at + 10 > size:
            raise _Fault("a record is cut off")
        rtype, _, _, length = unpack(octets, at)
        rdata = at + 10
        at = rdata + length
        if at > size:
            raise _Fault("rdata past the end")
        leads_here = False
        if rtype in _ADDRESS_SIZE:
            if length != _ADDRESS_SIZE[rtype]:
                raise _Fault("an address of the wrong length")
            if rtype == _AAAA and prefix is not None and octets.startswith(prefix, rdata):
                raise BadReply("an address of ours", injected=True)
        elif (
            _LAST_NAME.get(rtype) == length - 2
            and octets[at - 2] >= 0xC0
            and (found := known.get((octets[at - 2] & 0x3F) << 8 | octets[at - 1]))
        ):  # without a call, for a pointer to a name already read, as most targets are
            known[at - 2] = found
            leads_here = found[1]
        elif rtype in _NAMES_IN:
            leads_here = _check_targets(octets, rtype, rdata, at, names, prefix)
        elif rtype == _OPT:
            if octets[start]:
                raise _Fault("OPT with an owner other than the root")
            return at, start, number
        if leads_here and not ours:
            ours = aliases is None or rtype != _CNAME
            if not ours and aliases is not None:
                aliases.append((owner, rtype, start, rdata, at))
        if ours:
            raise BadReply("a record for a name of ours", injected=True)
        if spans is not None:
            spans.append((owner, rtype, start, rdata, at))
    return at, at, count


def _check_targets(
    octets: bytes, rtype: int, rdata: int, end: int, names: _Names, prefix: bytes | None
) -> bool:
    """Check rdata that holds names. Returns whether one of them is ours."""
    skip, count, tail = NAMES_IN[rtype]
    at, ours, known = rdata + skip, False, names.known
    if rtype == Type.NAPTR:
        # Flags, services and a regular expression come first, RFC 3403 section 4.1.
        for _ in range(3):
            at += 1 + octets[at] if at < end else 1
    for _ in range(count):
        if at >= end:
            raise _Fault("rdata without its name")
        # Hot path: without a call, for a pointer to a name already read, as most targets are.
        if (
            octets[at] >= 0xC0
            and at + 1 < end
            and (found := known.get((octets[at] & 0x3F) << 8 | octets[at + 1]))
        ):
            known[at] = found
            at, one = at + 2, found[1]
        else:
            at, one = names.read(at)
        ours = ours or one
    if at > end or (tail >= 0 and at + tail != end):
        raise _Fault("names that do not fit their rdata")
    if tail >= 0:
        return ours
    while at < end:  # service parameters, RFC 9460 section 2.2
        if at + 4 > end:
            raise _Fault("a parameter is cut off")
        key, length = _TWO.unpack_from(octets, at)
        at += 4
        if at + length > end:
            raise _Fault("a parameter runs past its rdata")
        if (
            key == _IPV6HINT
            and prefix is not None
            and any(octets.startswith(prefix, hint) for hint in range(at, at + length, 16))
        ):
            raise BadReply("an address of ours", injected=True)
        at += length
    return ours


class _Names:
    """The names of one message.

    Each label and pointer is read once, so that nested pointers take linear time.
    """

    def __init__(self, octets: bytes, zones: frozenset[bytes], labels: int) -> None:
        self.octets, self.zones, self.left = octets, zones, labels
        # By offset: the lower-cased wire form, and whether the name is in a zone of ours.
        self.known: dict[int, tuple[bytes, bool]] = {}

    def read(self, at: int) -> tuple[int, bool]:
        """Parse the name at *at*, compressed or not. Returns its end, and whether it is ours."""
        octets, known, size = self.octets, self.known, len(self.octets)
        passed: list[int] = []  # offsets of the labels and pointers on the way to the root
        name, ours, end, hops, start = b"\0", False, 0, 0, at
        while at not in known:
            # A pointer must lead to before the labels that it ends (RFC 1035 section 4.1.4), so
            # `start` falls and the loop ends.
            if at >= size or (octets[at] >= 0xC0 and at + 2 > size):
                raise _Fault("a name is cut off")
            length = octets[at]
            passed.append(at)
            if length >= 0xC0:
                end, hops, size = end or at + 2, hops + 1, at
                at = (length & 0x3F) << 8 | octets[at + 1]
                if at >= start or at < HEADER or hops > MAX_HOPS:
                    raise _Fault("a compression loop")
                start = at
            elif length > 63:
                raise _Fault("an unknown label type")
            elif length:
                at += 1 + length
            else:
                end = end or at + 1
                break
        else:
            name, ours = known[at]
            end = end or self._end(at)
        self.left -= len(passed) + 1  # the call costs as much as a label
        if self.left < 0:
            raise _Fault("too many labels")
        for offset in reversed(passed):
            if 0 < octets[offset] < 64:
                name = octets[offset : offset + 1 + octets[offset]].lower() + name
                if len(name) > 255:
                    raise _Fault("a name is longer than 255 octets")
                ours = ours or name in self.zones
            known[offset] = name, ours
        return end, ours

    def _end(self, at: int) -> int:
        """Return the end of the name at *at*, which was read before."""
        octets = self.octets
        while 0 < octets[at] < 64:
            at += 1 + octets[at]
        return at + 1 + (octets[at] >= 0xC0)
