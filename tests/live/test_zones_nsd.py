"""A private zone of records, and the same zone in Debian's NSD: wildcards, empty non-terminals,
chains of CNAMEs, ANY and truncation.

What may differ is stated in `differences`, and nothing else does:
    ANY      each sends one set (RFC 8482), we the first of our order: it is what NSD says of that type
    TC       NSD compresses names in rdata: a reply may fit there that does not fit here
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from internal_dns.core.catalog import Catalog
from internal_dns.core.journey import Reply, Rules, respond
from tests.core.messages import ip, loaded
from tests.live.unbound import free_ports
from tests.tools import requires_tool

pytestmark = [pytest.mark.live, pytest.mark.slow, requires_tool("nsd")]

ZONE = "corp.example"
SOURCE, SERVER = ip("fdaa:0:18::2"), ip("fdaa::3")
LABELS = "a b c www * * mail deep".split()
TYPES = "A A AAAA TXT MX SRV CAA HTTPS CNAME CNAME CNAME".split()
ASKED = ("A", "AAAA", "TXT", "MX", "SRV", "CAA", "HTTPS", "CNAME", "NS", "SOA", "DS", "ANY")
QUERIES = 4_000

Record = tuple[str, str, str, int]


def owners(rng: Random) -> list[str]:
    """Names of the zone: some deep, so that nothing is at the names between."""
    found = {ZONE}
    for _ in range(40):
        labels = [rng.choice(LABELS) for _ in range(rng.choice((1, 1, 2, 2, 3, 4)))]
        found.add(".".join((*labels, ZONE)))
    return sorted(found)


def records(rng: Random) -> list[Record]:
    """A zone without loops, as an alias leads to a later owner or to a name that is not there."""
    names, found = owners(rng), list[Record]()
    for number, owner in enumerate(names):
        later = [name for name in names[number + 1 : number + 12]] or [f"nosuch.{ZONE}"]
        if rng.random() < 0.35 and owner != ZONE:
            # At most eight follow each other, as owners are in order: MAX_ALIASES.
            target = rng.choice((*later, f"x.{rng.choice(later)}", f"nosuch.{ZONE}"))
            found.append((owner, "CNAME", f"{target}.", 60))
            continue
        for rtype in {rng.choice(TYPES[:8]) for _ in range(rng.choice((1, 1, 2, 3)))}:
            count = rng.choice((1, 1, 2, 3, 40)) if rtype != "CNAME" else 1
            for n in range(count):
                value = {
                    "A": f"10.0.{number}.{n}",
                    "AAAA": f"2001:db8::{number:x}:{n:x}",
                    "TXT": f'"{"t" * rng.choice((3, 60, 200))}{n}"',
                    "MX": f"{n} mail{n}.{ZONE}.",
                    "SRV": f"0 {n} 80 host{n}.{ZONE}.",
                    "CAA": f'0 issue "ca{n}.example"',
                    "HTTPS": f"{n + 1} . alpn=h2",
                }[rtype]
                found.append((owner, rtype, value, 60))
    return found


@dataclass(frozen=True, slots=True)
class Pair:
    """Our catalog, and NSD on a port of ::1."""

    catalog: Catalog
    port: int
    names: list[str]


@pytest.fixture(scope="module", params=range(4))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    zone = records(Random(request.param))
    folder = tmp_path_factory.mktemp("nsd")
    lines = [
        f"{ZONE}. 5 IN SOA _dns.internal. hostmaster.internal. 1 5 5 5 1",
        f"{ZONE}. 5 IN NS _dns.internal.",
        *(f"{owner}. {ttl} IN {rtype} {value}" for owner, rtype, value, ttl in zone),
    ]
    (folder / "zone").write_text("\n".join(lines) + "\n")
    (port,) = free_ports(1)
    (folder / "nsd.conf").write_text(
        f"""server:
    ip-address: ::1@{port}
    username: ""
    database: ""
    zonesdir: "{folder}"
    zonelistfile: "{folder}/list"
    xfrdfile: "{folder}/xfrd"
    xfrdir: "{folder}"
    pidfile: "{folder}/pid"
    minimal-responses: yes
    refuse-any: no
    rrl-ratelimit: 0
    ipv6-edns-size: 4096
    round-robin: no
remote-control:
    control-enable: no
zone:
    name: {ZONE}
    zonefile: "{folder}/zone"
"""
    )
    catalog = loaded(rows={
        "networks": [(24, "acme", "")],
        "zones": [(24, ZONE)],
        "records": [(24, *record) for record in zone],
    })  # fmt: skip
    assert catalog.fault_count == 0, catalog.faults[:3]
    with (folder / "log").open("wb") as log:
        nsd = subprocess.Popen(
            ["nsd", "-d", "-c", str(folder / "nsd.conf")],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            wait_for(port, folder / "log")
            yield Pair(catalog.catalog, port, sorted({owner for owner, *_ in zone}))
        finally:
            os.killpg(nsd.pid, signal.SIGTERM)
            nsd.wait(10)


def wait_for(port: int, log: Path) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sock:
            sock.settimeout(0.2)
            sock.connect(("::1", port))
            try:
                sock.send(dns.message.make_query(ZONE, "SOA").to_wire())
                if sock.recv(4_096)[3] & 15 == 0:
                    return
            except OSError:
                time.sleep(0.05)
    raise RuntimeError(f"NSD did not start: {log.read_text()[-500:]}")


def asked(rng: Random, pair: Pair) -> Iterator[dns.message.QueryMessage]:
    for _ in range(QUERIES):
        name = rng.choice(pair.names)
        match rng.randrange(6):
            case 0:
                name = f"{rng.choice(('x', 'y.x', 'a', '*'))}.{name}"
            case 1:
                name = name.partition(".")[2] if name != ZONE else name
            case 2:
                name = name.replace("*", "any")
        size = rng.choice((None, 512, 700, 1_232, 4_096))
        options = {} if size is None else {"use_edns": 0, "payload": size}
        query = dns.message.make_query(name, rng.choice(ASKED), **options)  # type: ignore[arg-type]
        query.flags = 0  # RD 0: an alias to the outside is ours to answer no further
        yield query


def sections(reply: dns.message.Message) -> tuple[set[str], set[str]]:
    """Answer and authority, one RR each; of the authority section the SOA alone counts."""
    answer = {line.lower() for rrset in reply.answer for line in rrset.to_text().split("\n")}
    authority = {
        line.lower()
        for rrset in reply.authority
        if rrset.rdtype == dns.rdatatype.SOA
        for line in rrset.to_text().split("\n")
    }
    return answer, authority


def differences(query: dns.message.Message, ours: bytes, theirs: bytes) -> Iterator[str]:
    own, other = dns.message.from_wire(ours), dns.message.from_wire(theirs)
    if own.rcode() != other.rcode():
        yield f"RCODE {dns.rcode.to_text(own.rcode())}, NSD {dns.rcode.to_text(other.rcode())}"
    for flag in (dns.flags.QR, dns.flags.AA):
        if own.flags & flag != other.flags & flag:
            yield f"flag {dns.flags.Flag(flag).name}"
    limit = max(512, query.payload) if query.edns >= 0 else 512
    truncated = bool(own.flags & dns.flags.TC), bool(other.flags & dns.flags.TC)
    is_any = query.question[0].rdtype == dns.rdatatype.ANY
    if truncated[0] != truncated[1] and not is_any:
        longest = len(own.to_wire()) if not truncated[0] else None
        # It fitted there by compression alone: written out it is longer than the limit.
        uncompressed = sum(
            len(rrset.name.to_wire() or b"") + 10 + len(rdata.to_wire() or b"")
            for rrset in other.answer
            for rdata in rrset
        )
        if not (truncated == (True, False) and len(theirs) <= limit < uncompressed + 100):
            yield f"TC {truncated}, {longest} octets, NSD {len(theirs)}, limit {limit}"
    if any(truncated):
        return
    (answer, authority), (theirs_answer, theirs_authority) = sections(own), sections(other)
    if is_any:
        if len({rrset.rdtype for rrset in own.answer}) > 1 or bool(answer) != bool(theirs_answer):
            yield "ANY is one set that exists"
    elif answer != theirs_answer:
        yield f"answer {answer ^ theirs_answer}"
    if authority != theirs_authority and not is_any:
        yield f"authority {authority}, NSD {theirs_authority}"


def test_nsd_answers_the_same(pair: Pair) -> None:
    rng, outcomes = Random(7), dict[str, int]()
    with closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(5)
        sock.connect(("::1", pair.port))
        for query in asked(rng, pair):
            octets = query.to_wire()
            sock.send(octets)
            theirs = sock.recv(65_535)
            ours = respond(octets, SOURCE, SERVER, pair.catalog, Rules())
            assert isinstance(ours, Reply)
            found = list(differences(query, ours.octets, theirs))
            own = dns.message.from_wire(ours.octets)
            if (
                query.question[0].rdtype == dns.rdatatype.ANY
                and own.answer
                and not ours.octets[2] & 2
            ):
                one = dns.message.make_query(query.question[0].name, own.answer[0].rdtype)
                one.flags, one.id = 0, query.id
                said = dns.query.tcp(one, "::1", port=pair.port, timeout=5)
                found += differences(one, ours.octets, said.to_wire())
            assert not found, (query.question[0].to_text(), query.payload, found)
            aliased = (
                b"\0\5\0\1" in ours.octets[12 + len(query.question[0].name.to_wire() or b"") :]
            )
            kind = "truncated" if ours.octets[2] & 2 else f"{ours.rcode.name}{' aliased' * aliased}"
            outcomes[kind] = outcomes.get(kind, 0) + 1
    assert sum(outcomes.values()) == QUERIES
    assert {
        "NOERROR",
        "NOERROR aliased",
        "NXDOMAIN",
        "NXDOMAIN aliased",
        "truncated",
    } <= outcomes.keys()
    print(outcomes)
