"""What an upstream said, as the answer table repeats it: for all networks, with TTLs that fall."""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack
from typing import Final

from internal_dns.core.message import OUR_UDP_SIZE
from internal_dns.core.relayed import PER_TTL, Relayed
from internal_dns.core.wire import AD, CD, HEADER, QR, RA, RD, TC
from internal_dns.transport.table.entries import OPT_HEAD, OVERHEAD, Cell, with_options

# What upstreams said is the same for all networks; network 0 is nobody's.
EVERYONE: Final = b"\0\0\0\0"
VARIANTS: Final = (b"\0", b"\1", b"\2", b"\3")


@dataclass(slots=True)
class RelayedEntry:
    """What an upstream said, and how old the copy is whose TTLs are right now."""

    reply: Relayed
    heads: tuple[bytes, ...]  # flags and counts, by whether AD may be told + 2 OPT
    opt: bytes
    since: float
    refresh_at: float
    until: float
    counter: Cell
    size: int
    records: bytes
    age: int = 0
    parts: None = None
    hits: int = 0
    seen: int = 0

    def repeat(self, octets: bytes, end: int, limit: int, options: bytes, now: float) -> bytes:
        """The reply to *octets*, whose question ends at *end*; *options* are for OPT, if there is
        one."""
        dnssec_ok = octets[end + 7] >> 7 if end < len(octets) else 0
        opt = with_options(self.opt, options) if end < len(octets) else b""
        # Its size decides first: to reduce thousands of TTLs takes a millisecond.
        if end + len(self.records) + len(opt) > limit:
            part = self.reply.first(limit - end - len(opt))
            head = truncated(self.heads[0], part.counts, has_opt=end < len(octets))
            records = part.aged(int(now - self.since))
        else:
            if (age := int(now - self.since)) != self.age:
                self.age, self.records = age, self.reply.aged(age)
            head = self.heads[(dnssec_ok or octets[3] >> 5 & 1) | (end < len(octets)) << 1]
            records = self.records
        return b"".join((octets[:2], head, octets[HEADER:end], records, opt))


def split(network: bytes, key: bytes) -> tuple[bytes, int, int]:
    """The QNAME, QTYPE and variant (DO + 2 CD, of relayed answers) that are in *key*."""
    end = len(key) - (5 if network == EVERYONE else 4)
    return (
        key[:end],
        int.from_bytes(key[end : end + 2], "big"),
        int.from_bytes(key[end + 4 :], "big"),
    )


def truncated(head: bytes, counts: tuple[int, int], *, has_opt: bool) -> bytes:
    """Return flags and counts of the reply that has TC and a part of the records; *head* is without
    AD."""
    return pack("!5H", int.from_bytes(head[:2], "big") | TC, 1, *counts, has_opt)


def relayed_entry(
    reply: Relayed,
    variant: int,
    since: float,
    refresh_at: float,
    until: float,
    counter: Cell,
) -> RelayedEntry:
    """Prepare *reply* for being repeated. *variant* is DO + 2 CD."""
    dnssec_ok, checking_disabled = variant & 1, variant >> 1
    base = QR | RD | RA | checking_disabled * CD | reply.rcode & 15
    heads = tuple(
        pack("!5H", base | ad * reply.ad * AD, 1, *reply.counts, has_opt)
        for has_opt in (0, 1)
        for ad in (0, 1)
    )
    size = OVERHEAD + 2 * len(reply.records) + PER_TTL * len(reply.ttls)
    ttl = reply.rcode >> 4 << 24 | dnssec_ok << 15
    opt = OPT_HEAD + pack("!HIH", OUR_UDP_SIZE, ttl, 0)
    return RelayedEntry(reply, heads, opt, since, refresh_at, until, counter, size, reply.records)
