"""How long the largest replies of upstreams take until they are relayed: `python -m bench.replies`.

Each reply is the worst of its kind: 64 KiB, or what the limits of core/wire.check_reply allow.
Prints the least CPU time of several runs, or "refused" where the server rejects the reply.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from struct import pack
from typing import Final

from internal_dns.core.relayed import Relayed, scrub
from internal_dns.core.wire import MAX_MESSAGE, BadReply, Type, check_reply

NAME: Final = b"\3www\7example\3com\0"
QNAME: Final = b"\xc0\x0c"
ZONES: Final = frozenset({b"\x08internal\0", b"\7flycast\0", b"\1a\1a\1d\1f\3ip6\4arpa\0"})
PREFIX: Final = b"\xfd\xaa"
RUNS: Final = 7


def rr(owner: bytes, rtype: int, rdata: bytes, ttl: int = 60) -> bytes:
    return owner + pack("!HHIH", rtype, 1, ttl, len(rdata)) + rdata


def reply(qtype: int, *records: bytes, authorities: int = 0, additionals: int = 0) -> bytes:
    """Return a reply with as many of *records* as fit."""
    question = NAME + pack("!HH", qtype, 1)
    kept, room = [], MAX_MESSAGE - 12 - len(question)
    for record in records:
        if (room := room - len(record)) < 0:
            break
        kept.append(record)
    counts = len(kept) - authorities - additionals, authorities, additionals
    return b"\x12\x34" + pack("!5H", 0x8180, 1, *counts) + question + b"".join(kept)


def label(number: int) -> bytes:
    return b"\4" + number.to_bytes(4, "big")


def deep(number: int, labels: int) -> bytes:
    """Return a name with a unique first label and many one-octet labels."""
    return label(number) + b"\1a" * labels + b"\0"


def cases() -> Iterator[tuple[str, int, bytes]]:
    """Yield description, QTYPE and reply."""
    many = range(5_000)
    yield "addresses, AAAA", 28, reply(28, *(rr(QNAME, 28, n.to_bytes(16, "big")) for n in many))
    yield "addresses, A", 1, reply(1, *(rr(QNAME, 1, n.to_bytes(4, "big")) for n in many))
    short = [rr(QNAME, 65_280, b"") for _ in many]
    yield "empty records", 65_280, reply(65_280, *short)
    yield (
        "records of one owner out of order",
        65_280,
        reply(65_280, rr(label(1) + b"\0", 1, bytes(4)), *short),
    )
    strays = [rr(label(n) + b"\0", 1, bytes(4)) for n in many]
    yield "an owner each", 1, reply(1, *strays)
    yield (
        "an owner of many labels each",
        1,
        reply(1, *(rr(deep(n, 120), 1, bytes(4)) for n in many)),
    )
    targets = [rr(QNAME, Type.MX, b"\0\1" + label(n) + b"\0") for n in many]
    yield "targets", 15, reply(15, *targets)
    srv = [rr(QNAME, Type.SRV, bytes(6) + label(n) + b"\7example\3com\0") for n in many]
    yield "targets of one zone", 33, reply(33, *srv)
    yield "targets out of order", 33, reply(33, rr(label(1) + b"\0", 1, bytes(4)), *srv[:999])
    yield (
        "targets of many labels",
        33,
        reply(33, *(rr(QNAME, Type.SRV, bytes(6) + deep(n, 120)) for n in many)),
    )
    soas = [rr(QNAME, Type.SOA, deep(n, 20) + deep(n, 20) + bytes(20)) for n in many]
    yield "two names each", 6, reply(6, *soas)
    param = pack("!HH", 9, 0)
    yield (
        "one service of many parameters",
        65,
        reply(65, rr(QNAME, Type.HTTPS, b"\0\1\0" + param * 16_300)),
    )
    hint = pack("!HH", 6, 16) + bytes(16)
    yield (
        "one service of many hints",
        65,
        reply(65, rr(QNAME, Type.HTTPS, b"\0\1\0" + hint * 3_200)),
    )
    yield (
        "one service of one hint",
        65,
        reply(65, rr(QNAME, Type.HTTPS, b"\0\1\0" + pack("!HH", 6, 65_440) + bytes(65_440))),
    )
    services = [rr(QNAME, Type.HTTPS, b"\0\1\0" + param * 60) for _ in many]
    yield "services of many parameters", 65, reply(65, *services)
    chain, at = [], QNAME
    for number in range(16):
        chain.append(rr(at, Type.CNAME, deep(number, 110)))
        at = deep(number, 110)
    yield "a chain, and strays", 1, reply(1, *chain, rr(at, 1, bytes(4)), *strays)
    dnames = [rr(b"\7example\3com\0", Type.DNAME, label(n) + b"\0") for n in many]
    yield "DNAMEs of one owner", 1, reply(1, *dnames)
    yield (
        "NSEC3 in the authority section",
        1,
        reply(
            1,
            *(rr(label(n) + b"\0", Type.NSEC3, bytes(4)) for n in range(3_000)),
            authorities=2_900,
        ),
    )
    hops = b"".join(rr(QNAME, 65_280, b"\xc0" + bytes((12,))) for _ in range(10))
    yield "pointers", 65_280, reply(65_280, hops, *short)
    mixed = [*targets[:2_700], *(rr(QNAME, 1, n.to_bytes(4, "big")) for n in many)]
    yield "as many names and records as are taken", 255, reply(255, *mixed)
    yield (
        "as many owners as are taken",
        1,
        reply(1, *(rr(label(n) + b"\0", 1, bytes(4)) for n in range(2_700))),
    )
    yield (
        "the same in the authority section",
        1,
        reply(
            1,
            *(rr(label(n) + b"\0", Type.NSEC3, bytes(4)) for n in range(2_700)),
            authorities=2_700,
        ),
    )
    yield (
        "as many deep owners as are taken",
        1,
        reply(1, *(rr(deep(n, 120), 1, bytes(4)) for n in range(66))),
    )
    yield (
        "as many deep targets as are taken",
        33,
        reply(33, *(rr(QNAME, Type.SRV, bytes(6) + deep(n, 120)) for n in range(66))),
    )
    far = len(reply(15, rr(QNAME, Type.MX, b"\0\1")))
    long = rr(QNAME, Type.MX, b"\0\1" + deep(0, 120))
    same = rr(QNAME, Type.MX, b"\0\1" + pack("!H", 0xC000 | far))
    yield "targets that lead to one", 15, reply(15, long, *(same for _ in many))
    yield (
        "the same out of order",
        15,
        reply(15, rr(label(1) + b"\0", 1, bytes(4)), long, *(same for _ in range(240))),
    )
    yield (
        "additional records",
        1,
        reply(1, rr(QNAME, 1, bytes(4)), *strays[:3_000], additionals=3_000),
    )


def seconds(work: Callable[[], object]) -> float:
    """Return the least CPU time of RUNS runs."""
    best = float("inf")
    for _ in range(RUNS):
        begin = time.thread_time()
        work()
        best = min(best, time.thread_time() - begin)
    return best


def relayed(octets: bytes, qtype: int) -> Relayed | str:
    try:
        checked = check_reply(octets, octets[:2], NAME + pack("!HH", qtype, 1), ZONES, PREFIX)
        return scrub(checked, NAME, qtype, dnssec_ok=True)
    except BadReply as refused:
        return f"refused: {refused}"


def main() -> None:
    for what, qtype, octets in cases():
        took = seconds(lambda octets=octets, qtype=qtype: relayed(octets, qtype))  # type: ignore[misc]
        said = relayed(octets, qtype)
        told = said if isinstance(said, str) else f"{sum(said.counts)} records"
        print(f"{took * 1e3:6.2f} ms  {what:36} {len(octets):6} octets  {told}")


if __name__ == "__main__":
    main()
