"""What must hold for any octets. Each target takes some and raises AssertionError when its
invariant does not hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import pack, unpack
from typing import Final

import dns.message
import dns.name

from internal_dns.core import wire
from internal_dns.core.journey import Drop, Forward, Reply, Rules
from internal_dns.core.journey import respond as journey
from internal_dns.core.wire import BadReply, Malformed, Query, Silent
from tests.core.messages import CATALOG, GLOBEX, IN_WEB, OUTSIDER, SERVER, question, rcode
from tests.core.messages import wire as wire_name
from tests.transport.test_answers import Twins

IDENT: Final = b"\x12\x34"
ASKED: Final = question("ExAmple.com", 1)
ZONES: Final = frozenset(wire_name(zone) for zone in ("internal", "flycast", "a.a.d.f.ip6.arpa"))
PREFIX: Final = b"\xfd\xaa"
NEIGHBOUR: Final = IN_WEB[:14] + b"\1\2"
RULES: Final = Rules(nsid=b"here", region=b"ams", dev=True)
OUR_NAMES: Final = tuple(map(dns.name.from_text, ("internal.", "flycast.", "a.a.d.f.ip6.arpa.")))
RCODES: Final = frozenset(map(int, wire.Rcode))
IN_DEV: Final = bytes(15) + b"\1"
TWINS: Final = Twins(CATALOG, RULES)
TABLE_OCTETS: Final = 2 << 20


def read_query(octets: bytes) -> None:
    """Any octets are Silent, Malformed or a Query, never an exception; a Query puts together what
    was sent."""
    found = wire.read_query(octets)
    if len(octets) < 12 or octets[2] & 0x80:
        assert isinstance(found, Silent)
        return
    assert isinstance(found, Query | Malformed), found
    assert (found.id, found.flags) == (octets[:2], unpack("!H", octets[2:4])[0])
    assert octets[12:].startswith(found.question)
    if isinstance(found, Malformed):
        assert found.reason
        return
    assert len(octets) <= 4_096
    assert bool(found.question) == bool(unpack("!H", octets[4:6])[0])
    if found.question:
        assert found.name == wire_name(found.labels) == found.name.lower()
        assert len(found.name) <= 255
        assert found.question.lower()[:-4] == found.name
        assert found.question[-4:] == pack("!HH", found.qtype, found.qclass)
    assert (
        found.edns is None
        or found.edns.client_cookie is None
        or len(found.edns.client_cookie) in (8, *range(16, 41))
    )


def respond(octets: bytes) -> None:
    """Any octets get a Reply that keeps to its limit and that dnspython reads, a Forward if RD is
    set, or a Drop."""
    for source in (IN_WEB, OUTSIDER, IN_DEV):
        for stream in (False, True):
            judge(octets, source, stream)


def judge(octets: bytes, source: bytes, stream: bool) -> Reply | Forward | Drop:
    """Let the server answer, and check what can be checked without knowing what was asked."""
    found = journey(octets, source, SERVER, CATALOG, RULES, stream=stream)
    silent = len(octets) < 12 or bool(octets[2] & 0x80)
    assert isinstance(found, Drop) == silent
    if isinstance(found, Forward):
        assert octets[2] & 1
        assert found.network == GLOBEX - 1 or source == IN_DEV
        assert found.query.labels[-1:] not in ((b"internal",), (b"flycast",), (b"localhost",))
    elif isinstance(found, Reply):
        judge_reply(octets, found, stream)
        assert source != OUTSIDER or (
            found.rcode == wire.Rcode.REFUSED and len(found.octets) <= len(octets)
        )
    return found


def judge_reply(octets: bytes, found: Reply, stream: bool) -> None:
    reply = found.octets
    (asked_flags,), (flags, *counts) = unpack("!H", octets[2:4]), unpack("!5H", reply[2:12])
    assert reply[:2] == octets[:2]
    assert flags & 0xF800 == 0x8000 | asked_flags & 0x7800, "QR and the opcode"
    copied = 0 if asked_flags & 0x7800 else 0x0110
    assert flags & 0x0170 == asked_flags & copied, "QUERY's RD and CD are copied, Z and AD are not"
    assert found.rcode in RCODES
    assert rcode(reply) == found.rcode, "dnspython reads it"
    assert found.rcode in (0, 3) or counts[1:3] == [0, 0], "an error carries no records"
    assert found.rcode != wire.Rcode.NXDOMAIN or counts[1:3] == [0, 1]
    assert counts[0] <= 1
    assert len(reply) <= limit(octets, stream)
    asked = wire.read_query(octets)
    assert isinstance(asked, Query | Malformed)
    assert bool(asked.question) == bool(counts[0])
    assert reply[12:].startswith(asked.question)


def limit(octets: bytes, stream: bool) -> int:
    """The most octets that a reply may have."""
    if stream:
        return 65_535
    try:
        query = dns.message.from_wire(octets)
    except Exception:  # a message that dnspython cannot read may have an OPT that we can
        return 8_192
    return max(512, min(query.payload, 8_192)) if query.edns >= 0 else 512


def repeat(octets: bytes) -> None:
    """What an answer table repeats is what the journey says, and the native one repeats what
    Python's does."""
    TWINS.table.max_octets = TABLE_OCTETS
    for source in (IN_WEB, NEIGHBOUR, OUTSIDER):
        for destination in (SERVER, IN_WEB[:6] + SERVER[6:]):
            TWINS.ask(octets, source, destination, len(octets) * 0x9E3779B1 & 0xFFFF_FFFF)
    TWINS.decide(octets, IN_WEB, SERVER)
    TWINS.ask(octets, IN_WEB, SERVER, 7)


def check_reply(octets: bytes) -> None:
    """Any octets give BadReply, or a CheckedReply that passes again when relayed and holds nothing
    of ours but CNAMEs of the answer section that lead there, each of them named."""
    octets = IDENT + octets[2:12].ljust(10, b"\0") + ASKED + octets[12 + len(ASKED) :]
    try:
        found = wire.check_reply(octets, IDENT, ASKED, ZONES, PREFIX)
    except BadReply:
        return
    relayed = IDENT + pack("!5H", found.flags, 1, *found.counts) + ASKED + found.records
    assert wire.check_reply(relayed, IDENT, ASKED, ZONES, PREFIX).records == found.records
    try:
        message = dns.message.from_wire(relayed)
    except Exception:  # dnspython's parsers of single types raise many kinds
        return
    for rrset in (*message.answer, *message.authority, *message.additional):
        if found.aliases and rrset.rdtype == 5 and rrset in message.answer:
            continue
        names = [rrset.name]
        for rdata in rrset:
            found_in = (getattr(rdata, field, None) for field in ("target", "exchange"))
            names += [name for name in found_in if isinstance(name, dns.name.Name)]
            assert rrset.rdtype != 28 or not rdata.to_text().startswith("fdaa:")
        assert not any(name.is_subdomain(zone) for name in names for zone in OUR_NAMES)


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "read_query": read_query,
    "respond": respond,
    "repeat": repeat,
    "check_reply": check_reply,
}
