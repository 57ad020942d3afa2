"""The question section of a query, and the queries we send for it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from struct import pack
from typing import Final

from internal_dns.core.wire import AD, CD, RD, Query, Type

# DNS flag day 2020: what passes every path unfragmented.
OUR_SIZE: Final = 1_232
PADDED: Final = 128  # RFC 8467: the length of an encrypted query is a multiple of this
_PADDING: Final = 12  # RFC 7830
_CASE_BIT: Final = bytes(
    0x20 if chr(octet).isascii() and chr(octet).isalpha() else 0 for octet in range(256)
)


@dataclass(slots=True)  # not frozen: one is made per query, and freezing triples its cost
class Question:
    """QNAME (wire form, lower-cased), QTYPE, and the two bits that change a reply."""

    name: bytes
    qtype: int
    dnssec_ok: bool
    checking_disabled: bool
    key: bytes = field(init=False)  # of the cache and of outstanding queries

    def __post_init__(self) -> None:
        self.key = self.name + pack("!HB", self.qtype, self.variant)

    @property
    def variant(self) -> int:
        """DO + 2 CD."""
        return self.dnssec_ok | self.checking_disabled << 1

    def section(self, *, mixed: bool) -> bytes:
        """Return the question section; *mixed*: in random letter case, which the reply must
        repeat."""
        name = mixed_case(self.name) if mixed else self.name
        return name + pack("!HH", self.qtype, 1)

    def query(self, section: bytes, *, padded: bool = False, edns: bool = True) -> bytes:
        """Return the query without its id: RD, AD, CD, DO, and no option of any client (so no ECS).

        AD asks for the upstream's verdict (RFC 6840 section 5.7); relaying decides who gets it.
        """
        head = pack("!5H", RD | AD | self.checking_disabled * CD, 1, 0, 0, edns) + section
        if not edns:
            return head
        room = -(2 + len(head) + 11 + 4) % PADDED if padded else -4
        padding = pack("!HH", _PADDING, room) + bytes(room) if padded else b""
        return (
            head
            + b"\0"
            + pack("!HHIH", Type.OPT, OUR_SIZE, self.dnssec_ok << 15, len(padding))
            + padding
        )


# What probes ask: every resolver knows the name servers of the root.
ROOT_NS: Final = Question(b"\0", Type.NS, False, False)


def question_of(query: Query) -> Question:
    """Return the part of a client's *query* that decides the reply."""
    dnssec_ok = bool(query.edns and query.edns.dnssec_ok)
    return Question(query.name, query.qtype, dnssec_ok, bool(query.flags & CD))


def mixed_case(name: bytes) -> bytes:
    """Return *name* with each letter in random case (draft-vixie-dnsext-dns0x20)."""
    size = len(name)
    # Length octets are below 'A', so the wire form's letters are letters only. All octets at once:
    # 1 µs, not 10.
    letters = int.from_bytes(name.translate(_CASE_BIT), "big")
    chosen = int.from_bytes(secrets.token_bytes(size), "big") & letters
    return (int.from_bytes(name, "big") ^ chosen).to_bytes(size, "big")
