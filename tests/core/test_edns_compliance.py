"""EDNS compliance: the 34 queries that public testers send to every server of a zone.

RFC 1035, 6891, 7873 and 8906 say what the replies must be. Each query is sent twice, so that the
second reply may come from the answer table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.core.messages import (
    AA,
    AD,
    CD,
    COOKIE,
    NSID,
    RA,
    RD,
    SERVER,
    SOA,
    TC,
    TXT,
    Z,
    opt,
    option,
    query,
)
from tests.transport.test_answers import MACHINE, Twins, demo

NOERROR, NOTIMP, BADVERS = dns.rcode.NOERROR, dns.rcode.NOTIMP, dns.rcode.BADVERS
EXPIRE, CLIENT_SUBNET, PADDING, UNKNOWN = 9, 8, 12, 100
ALL_FLAGS = AA | TC | RD | RA | Z | AD | CD
COOKIE_OPTION = option(COOKIE, b"\1\2\3\4\5\6\7\x08")
SUBNET = option(CLIENT_SUBNET, b"\0\1\0\0")
LIST = (option(NSID), SUBNET, option(EXPIRE), COOKIE_OPTION)
UNKNOWN_FLAG = 0x40  # of the lower 16 bits of an OPT's TTL


def with_flags(record: bytes, flags: int) -> bytes:
    """Return an OPT with flags other than DO: the lower half of its TTL is octets 7 and 8."""
    return record[:7] + (int.from_bytes(record[7:9], "big") | flags).to_bytes(2, "big") + record[9:]


@dataclass(frozen=True)
class Row:
    """One query, and what is expected of the reply."""

    octets: bytes
    rcode: int = NOERROR
    copied: int = 0  # flags of the query that are in the reply
    edns: bool = True
    do: bool = False
    options: tuple[int, ...] = ()
    stream: bool = False
    records: bool = True


def asked(*additional: bytes, qtype: int = SOA, flags: int = 0, opcode: int = 0) -> bytes:
    return query("internal", qtype, *additional, flags=flags, opcode=opcode)


ROWS = {
    "dns": Row(asked(), edns=False),
    "aa": Row(asked(flags=AA), edns=False),
    "ad": Row(asked(flags=AD), edns=False),
    "cd": Row(asked(flags=CD), edns=False, copied=CD),
    "ra": Row(asked(flags=RA), edns=False),
    "rd": Row(asked(flags=RD), edns=False, copied=RD),
    "tc": Row(asked(flags=TC), edns=False),
    "z": Row(asked(flags=Z), edns=False),
    "opcode": Row(asked(opcode=15), NOTIMP, edns=False, records=False),
    "opcode, all flags": Row(asked(opcode=15, flags=ALL_FLAGS), NOTIMP, edns=False, records=False),
    "an unknown type": Row(asked(qtype=666), edns=False, records=False),
    "tcp": Row(asked(), edns=False, stream=True),
    "edns": Row(asked(opt(size=4096))),
    "edns over tcp": Row(asked(opt(size=4096)), stream=True),
    "edns@512": Row(asked(opt(size=512))),
    "edns@512 over tcp": Row(asked(opt(size=512)), stream=True),
    "an unknown version": Row(asked(opt(version=1)), BADVERS, records=False),
    "an unknown version over tcp": Row(asked(opt(version=1)), BADVERS, records=False, stream=True),
    "an unknown option": Row(asked(opt(option(UNKNOWN)))),
    "an unknown option of an unknown version": Row(
        asked(opt(option(UNKNOWN), version=1)), BADVERS, records=False
    ),
    "an unknown flag": Row(asked(with_flags(opt(), UNKNOWN_FLAG))),
    "an unknown flag of an unknown version": Row(
        asked(with_flags(opt(version=1), UNKNOWN_FLAG)), BADVERS, records=False
    ),
    "do": Row(asked(opt(do=True)), do=True),
    "do of an unknown version":
        Row(asked(opt(do=True, version=1)), BADVERS, do=True, records=False),
    "do over tcp": Row(asked(opt(do=True)), do=True, stream=True),
    "do and a cookie": Row(asked(opt(COOKIE_OPTION, do=True)), do=True, options=(COOKIE,)),
    "signed": Row(asked(opt(do=True, size=1232), qtype=TXT), do=True, records=False),
    "a list of options": Row(asked(opt(*LIST)), options=(COOKIE, NSID)),
    "nsid": Row(asked(opt(option(NSID))), options=(NSID,)),
    "a cookie": Row(asked(opt(COOKIE_OPTION)), options=(COOKIE,)),
    "expire": Row(asked(opt(option(EXPIRE)))),
    "client subnet": Row(asked(opt(SUBNET))),
    "padding": Row(asked(opt(option(PADDING, bytes(32))))),
    "as dig asks":
        Row(asked(opt(COOKIE_OPTION, size=1232), flags=RD | AD), copied=RD, options=(COOKIE,)),
}  # fmt: skip


def test_there_are_34_queries() -> None:
    assert len(ROWS) == 34


@cache
def twins() -> Twins:
    return Twins(demo())


@pytest.mark.parametrize("name", ROWS)
def test_edns_compliance(name: str) -> None:
    row = ROWS[name]
    first = twins().decide(row.octets, MACHINE, SERVER, stream=row.stream, now=1_700_000_000)
    assert first is not None
    assert twins().ask(row.octets, stream=row.stream) in (None, first)
    reply = dns.message.from_wire(first)
    assert reply.id == 0x1234
    assert reply.rcode() == row.rcode
    assert reply.opcode() == row.octets[2] >> 3 & 15
    flags = int(reply.flags) & 0x07F0
    assert flags & ~AA == RA | row.copied
    assert bool(flags & AA) == (row.rcode == NOERROR)
    assert bool(reply.answer) == row.records
    assert (reply.edns == 0) == row.edns, "OPT iff there was one, of version 0"
    assert bool(reply.ednsflags & dns.flags.DO) == row.do
    assert not reply.ednsflags & 0x7FFF, "no flag that is not known"
    known = {int(o.otype) for o in reply.options} - {15}
    assert known == set(row.options)
    assert len(first) <= 512 or row.stream
