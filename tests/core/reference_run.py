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
from internal_dns.core.journey import Drop, Forward, Rules, respond
from internal_dns.core.requester import SourceMap
from tests import reference
from tests.core.catalogs import Rows, natural_type, random_name, random_rows, random_source
from tests.core.messages import AAAA, NS, PTR, SERVER, SOA, SRV, TXT, A, loaded, query

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
            qtype = natural_type(name, rng)
            found = respond(
                query(name, qtype), source, SERVER, catalog, rules, rotation=rotation, stream=True
            )
            said = (
                in_words(found.octets) if not isinstance(found, Forward | Drop) else Said("FORWARD")
            )
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
            counter[f"{said.rcode} {said.type}"] += 1
            if not agree(expected, said):
                yield Disagreement(rows, source, name, qtype, region, rotation, expected, said)
        yield None


def covers(network: IPv6Network, address: bytes) -> bool:
    return int.from_bytes(address, "big") & int(network.netmask) == int(network.network_address)


def agree(expected: reference.Expected, said: Said) -> bool:
    rdata = said.rdata if expected.ordered else tuple(sorted(said.rdata))
    wanted = expected.rdata if expected.ordered else tuple(sorted(expected.rdata))
    return (expected.rcode, expected.type, wanted, expected.soa) == (
        said.rcode,
        said.type,
        rdata,
        said.soa,
    )


def in_words(octets: bytes) -> Said:
    """Parse a reply of ours.

    Owners in the answer section are QNAME, names in rdata are not compressed.
    """
    flags, _, answers, authorities = unpack("!4H", octets[2:10])
    rcode = RCODES[flags & 15]
    at = name_at(octets, 12)[1] + 4
    rtype, rdata = None, []
    for _ in range(answers):
        assert octets[at : at + 2] == b"\xc0\x0c"
        rtype, rclass, ttl, length = unpack_from("!HHIH", octets, at + 2)
        assert (rclass, ttl) == (1, 5)
        rdata.append(rdata_in_words(rtype, octets[at + 12 : at + 12 + length]))
        at += 12 + length
    soa = None
    if authorities:
        soa, at = name_at(octets, at)
        assert unpack_from("!HHI", octets, at) == (SOA, 1, 1)
        soa = tuple(label.lower() for label in soa)
    return Said(rcode, rtype, tuple(rdata), soa)


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
        case _:
            return {SOA: b"SOA", NS: b"NS"}[rtype]


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
