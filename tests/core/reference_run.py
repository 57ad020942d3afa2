"""The server against tests/reference.py on random catalogs.

    python -m tests.core.reference_run --triples N --seed N

A triple is (catalog, source, query). Replies must agree in RCODE, answer RRset (in order where it
has one) and the owner of the SOA.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_network
from random import Random
from struct import unpack, unpack_from
from typing import Any

from internal_dns.core.catalog import NetworkId
from internal_dns.core.journey import Drop, Forward, Reply, Rules, respond
from internal_dns.core.requester import SourceMap
from tests import reference
from tests.core.catalogs import Rows, natural_type, random_name, random_rows, random_source
from tests.core.messages import AAAA, ANY, NS, PTR, SERVER, SOA, SRV, TXT, A, loaded, query

CNAME = 5
QUESTIONS = 300  # per catalog
MAPS = (("127.0.0.0/8", 0x18), ("::1/128", 0x19), ("10.0.0.0/8", 0x77))
SERVER_MAPS = tuple(SourceMap.of(ip_network(text), NetworkId(number)) for text, number in MAPS)
REFERENCE_MAPS = tuple((found.source, int(found.network), None) for found in SERVER_MAPS)
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}


@dataclass(frozen=True, slots=True)
class Said:
    """A reply in the terms of the reference."""

    rcode: str
    type: int | None = None
    rdata: tuple[Any, ...] = ()
    soa: tuple[bytes, ...] | None = None
    chain: tuple[tuple[Any, ...], ...] = ()
    ttl: int = 5


@dataclass(frozen=True, slots=True)
class Disagreement:
    rows: Rows
    source: bytes
    name: tuple[bytes, ...]
    qtype: int
    region: str | None
    rotation: int
    expected: reference.Expected
    said: Said

    def __str__(self) -> str:
        source = ":".join(self.source.hex()[at : at + 4] for at in range(0, 32, 4))
        tables = "\n".join(f"    {table}: {rows}" for table, rows in self.rows.items() if rows)
        return (
            f"{b'.'.join(self.name)!r} type {self.qtype} from {source} region {self.region} turn "
            f"{self.rotation}\n"
            f"  reference: {self.expected}\n  server:    {self.said}\n{tables}"
        )


def disagreements(
    seed: int, triples: int, asked: Counter[str] | None = None
) -> Iterator[Disagreement | None]:
    """Yield after each catalog: None, or what the two disagree about.

    *asked* counts the outcomes.
    """
    rng, counter = Random(seed), Counter[str]() if asked is None else asked
    while counter.total() < triples:
        rows = random_rows(rng)
        catalog, oracle = loaded(rows=rows).catalog, reference.Catalog(dict(rows))
        region = rng.choice((None, None, "ams", "iad", "xyz"))
        rules = Rules(region=region.encode() if region else None, maps=SERVER_MAPS)
        for _ in range(QUESTIONS):
            source, rotation = random_source(rng, rows), rng.choice((0, 1, 2, rng.getrandbits(32)))
            name = random_name(rng, rows, source)
            qtype = natural_type(name, rng, rows)
            found = respond(
                query(name, qtype), source, SERVER, catalog, rules, rotation=rotation, stream=True
            )
            said = outcome_in_words(found, qtype)
            asker = catalog.networks.get(NetworkId(int.from_bytes(source[2:6], "big")))
            mapped = [n for network, n, _ in REFERENCE_MAPS if covers(network, source)]
            if mapped:
                asker = catalog.networks.get(NetworkId(mapped[0]))
            expected = reference.resolve(
                oracle,
                source,
                name,
                qtype,
                region=region,
                rotation=rotation,
                maps=REFERENCE_MAPS,
                revision=asker.revision if asker else 0,
            )
            counter[f"{said.rcode} {said.type}{' aliased' if said.chain else ''}"] += 1
            if not agree(expected, said):
                yield Disagreement(rows, source, name, qtype, region, rotation, expected, said)
        yield None


def covers(network: IPv6Network, address: bytes) -> bool:
    return int.from_bytes(address, "big") & int(network.netmask) == int(network.network_address)


def agree(expected: reference.Expected, said: Said) -> bool:
    rdata = said.rdata if expected.ordered else tuple(sorted(said.rdata))
    wanted = expected.rdata if expected.ordered else tuple(sorted(expected.rdata))
    return (
        expected.rcode, expected.type, wanted, expected.soa, expected.chain, expected.ttl
    ) == (said.rcode, said.type, rdata, said.soa, said.chain, said.ttl)  # fmt: skip


def outcome_in_words(outcome: Reply | Forward | Drop, qtype: int) -> Said:
    if isinstance(outcome, Forward):
        if outcome.aliased is None:
            return Said("FORWARD")
        reply = b"".join(outcome.aliased.chain)
        octets = bytes(12) + outcome.aliased.query.question + reply
        at, chain = 12 + len(outcome.aliased.query.question), list[tuple[Any, ...]]()
        for _ in outcome.aliased.chain:
            hop, at = hop_at(octets, at)
            chain.append(hop)
        return Said("FORWARD", soa=outcome.query.labels, chain=tuple(chain))
    if isinstance(outcome, Drop):
        return Said("DROP")
    return in_words(outcome.octets, qtype)


def in_words(octets: bytes, qtype: int = 0) -> Said:
    """Read a reply of ours: aliases first, then RRs of one owner and type, names in rdata are not
    compressed."""
    flags, _, answers, authorities = unpack("!4H", octets[2:10])
    rcode = RCODES[flags & 15]
    qname, at = name_at(octets, 12)
    at += 4
    last = lowered(qname)
    rtype, ttl = None, 5
    rdata, chain = list[Any](), list[tuple[Any, ...]]()
    for _ in range(answers):
        owner, begin = name_at(octets, at)
        assert lowered(owner) == last
        kind, rclass, seconds, length = unpack_from("!HHIH", octets, begin)
        assert rclass == 1
        if kind == CNAME and qtype not in (CNAME, ANY):
            hop, at = hop_at(octets, at)
            chain.append(hop)
            last = hop[1]
            continue
        assert rtype in (None, kind)
        assert not rdata or ttl == seconds
        rtype, ttl = kind, seconds
        rdata.append(rdata_in_words(rtype, octets[begin + 10 : begin + 10 + length]))
        at = begin + 10 + length
    soa = None
    if authorities:
        soa, at = name_at(octets, at)
        assert unpack_from("!HHI", octets, at) == (SOA, 1, 1)
        soa = lowered(soa)
    return Said(rcode, rtype, tuple(rdata), soa, tuple(chain), ttl)


def hop_at(octets: bytes, at: int) -> tuple[tuple[Any, ...], int]:
    """Read a CNAME RR: owner, target and TTL, and where it ends."""
    owner, at = name_at(octets, at)
    _, _, ttl, length = unpack_from("!HHIH", octets, at)
    target, end = name_at(octets, at + 10)
    assert end == at + 10 + length  # names in rdata are not compressed
    return (lowered(owner), target, ttl), end


def lowered(name: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(label.lower() for label in name)


def name_at(octets: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    """Return the labels of the name at *at*, and where it ends."""
    found: list[bytes] = []
    while octets[at]:
        if octets[at] >= 0xC0:
            return (*found, *name_at(octets, unpack_from("!H", octets, at)[0] & 0x3FFF)[0]), at + 2
        found.append(octets[at + 1 : at + 1 + octets[at]])
        at += 1 + octets[at]
    return tuple(found), at + 1


def rdata_in_words(rtype: int, rdata: bytes) -> Any:
    match rtype:
        case _ if rtype in (A, AAAA):
            return rdata
        case _ if rtype == TXT:
            strings, at = [], 0
            while at < len(rdata):
                strings.append(rdata[at + 1 : at + 1 + rdata[at]])
                at += 1 + rdata[at]
            return b"".join(strings)
        case _ if rtype == PTR:
            return name_at(rdata, 0)[0]
        case _ if rtype == SRV:
            target = name_at(rdata, 6)[0]
            return (*unpack("!3H", rdata[:6]), target)
        case _ if rtype == CNAME:
            return b".".join(name_at(rdata, 0)[0]).decode()
        case _:
            return {SOA: b"SOA", NS: b"NS"}.get(rtype, rdata)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.core.reference_run", description=__doc__)
    parser.add_argument("--triples", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=3, help="disagreements to print (default: 3)")
    options = parser.parse_args(arguments)
    asked, wrong, start, printed = Counter[str](), 0, time.monotonic(), 0.0
    for found in disagreements(options.seed, options.triples, asked):
        if found is not None:
            wrong += 1
            if wrong <= options.show:
                print(found, flush=True)
        passed = time.monotonic() - start
        if passed > printed + 5:
            printed = passed
            print(
                f"{passed:6.0f} s  {asked.total():>10,} triples  {wrong} disagreements", flush=True
            )
    print(*(f"{count:>10,}  {words}" for words, count in asked.most_common()), sep="\n")
    print(f"{asked.total():,} triples, {wrong} disagreements, seed {options.seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
