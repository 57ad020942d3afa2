"""Real upstreams: Debian's Unbound by UDP, TCP, TLS and HTTPS, and our answers against its own,
name by name."""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.certificates import Authority
from tests.live.conftest import catalog_file
from tests.live.forwarding import GOOD, Got, ask_all
from tests.live.hosts import Served, query, serving
from tests.live.unbound import Counting, Unbound
from tests.live.upstream import Asked, Said, Upstream
from tests.tools import requires_tool

pytestmark = [pytest.mark.live, requires_tool("unbound", "openssl")]

TYPES = ("A", "AAAA", "MX", "TXT", "SRV", "CNAME", "NS", "SOA", "CAA", "HTTPS")
NAMES = int(os.environ.get("COMPARED_NAMES", "100"))  # `make compare` takes 1,000
NAME = "dns.upstream.example"  # in the upstream's certificate


@dataclass(slots=True)
class World:
    unbound: Unbound
    authority: Authority
    catalog: Path
    folder: Path

    def trusting(self) -> tuple[str, ...]:
        """The flags of a server that trusts the authority."""
        config = self.folder / "config.toml"
        config.write_text(f'upstream_ca = "{self.authority.pem}"\n')
        return ("--config", str(config))


def zone(seed: int, names: int) -> str:
    """*names* names with records of every kind: chains, wildcards, empty non-terminals, large sets,
    8-bit octets."""
    draw = random.Random(seed)
    lines = [
        "$ORIGIN example.",
        "$TTL 300",
        "@ IN SOA ns.example. root.example. 1 3600 600 86400 60",
        "@ IN NS ns.example.",
        "@ IN MX 10 n0",
        "ns IN AAAA 2001:db8::53",
        f"upstream IN A {GOOD}",
        "*.wild IN A 198.18.9.9",
        '*.wild IN TXT "star"',
        "deep.a.b.c IN A 198.18.9.8",
        "odd\\\\000\\\\255\\\\.x IN A 198.18.9.7",
    ]
    for n in range(names):
        kind = draw.randrange(8)
        if kind == 0:
            lines.append(
                f"n{n} IN CNAME n{draw.randrange(n + 1, n + 9)}"
            )  # to one that may be a CNAME or be missing
            continue
        if kind == 1:
            continue  # this one does not exist
        for _ in range(draw.choice((1, 1, 2, 5, 40))):
            lines.append(
                f"n{n} {draw.choice((1, 60, 86400))} IN A "
                f"198.18.{draw.randrange(256)}.{draw.randrange(256)}"
            )
        if kind > 2:
            lines.append(f"n{n} IN AAAA 2001:db8::{draw.randrange(1, 65536):x}")
        if kind > 3:
            lines += [f"n{n} IN MX {p} n{draw.randrange(names)}" for p in (10, 20)]
            text = "".join(draw.choice("abcdef \\;,") for _ in range(200))
            lines += [f'n{n} IN TXT "{text}" "{n}"']
        if kind > 4:
            lines.append(f"n{n} IN SRV 0 1 {n} n{draw.randrange(names)}")
            lines.append(f'n{n} IN CAA 0 issue "ca{n}.example"')
            lines.append(f"n{n} IN HTTPS 1 . alpn=h2,h3 ipv6hint=2001:db8::{n:x}")
    return "\n".join(_one_ttl(lines)) + "\n"


def _one_ttl(lines: list[str]) -> list[str]:
    """An RRset has one TTL (RFC 2181 section 5.2): the first one written."""
    ttls: dict[str, str] = {}
    found = []
    for line in lines:
        words = line.split(" ", 2)
        if len(words) == 3 and words[1].isdigit():
            line = f"{words[0]} {ttls.setdefault(words[0], words[1])} {words[2]}"  # noqa: PLW2901
        found.append(line)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("real")
    file = folder / "example.zone"
    file.write_text(zone(5, NAMES))
    authority = Authority(folder)
    unbound = Unbound(folder, {"example.": file}, authority.sign("IP:::1", f"DNS:{NAME}"))
    try:
        yield World(unbound, authority, catalog_file(folder / "catalog.db", "acme.sql"), folder)
    finally:
        unbound.close()


QUESTIONS = [
    *((f"n{n}.example", rdtype) for n in range(NAMES) for rdtype in TYPES),
    *(
        (name, rdtype)
        for name in ("example", "x.wild.example", "a.b.c.example", "b.c.example",
                     "deep.a.b.c.example", "wild.example",
                     r"odd\000\255\.x.example", "N5.EXAMPLE", "ns.example", "x.ns.example",
                     "nobody.example")
        for rdtype in (*TYPES, "ANY", "TYPE65280")
        if name != "example" or rdtype not in ("A", "AAAA")  # a bare name's addresses stay here
    ),
]  # fmt: skip


def essence(got: Got) -> tuple[str, list[str]]:
    """RCODE and answer RRs, in order by owner and set; TTLs are compared by themselves."""
    assert got.reply, "silence"
    lines = [
        " ".join(sorted(rr.to_text() for rr in rrset)) + f" {rrset.name} {rrset.rdtype}".lower()
        for rrset in got.reply.answer
    ]
    return got.outcome.split()[0], lines


def straight(world: World) -> Served:
    """Unbound in the place of a server, for `ask_all`."""
    made = object.__new__(Served)
    made.port = world.unbound.port
    return made


def asked_of(server: Served, questions: list[tuple[str, str]]) -> list[Got]:
    """Ask with EDNS and 4,096 octets, 200 at a time."""
    found: list[Got] = []
    for at in range(0, len(questions), 200):
        part = [query(name, rdtype, payload=4_096) for name, rdtype in questions[at : at + 200]]
        found += ask_all(server, part)
    return found


def test_through_us_and_straight_there_is_no_difference(world: World) -> None:
    """0 differences in RCODE and answer RRs, with 10 types a name; and again, from the cache."""
    expected = asked_of(straight(world), QUESTIONS)
    kinds: Counter[str] = Counter(essence(got)[0] for got in expected)
    assert kinds["NOERROR"] > 5 * NAMES
    assert kinds["NXDOMAIN"] > NAMES / 2
    with serving(world.catalog, upstream=world.unbound.url) as server:
        for _ in range(2):
            differences = []
            for (name, rdtype), theirs, ours in zip(
                QUESTIONS, expected, asked_of(server, QUESTIONS), strict=True
            ):
                if essence(theirs) != essence(ours):
                    differences.append(f"{name} {rdtype}: {essence(theirs)} became {essence(ours)}")
            assert not differences, "\n".join(
                [f"{len(differences)} differences", *differences[:10]]
            )
    print(f"\n  {2 * len(QUESTIONS)} answers compared with Unbound's: 0 differences")


@pytest.mark.parametrize("kind", ["udp", "tcp", "tls", "tls-name", "https", "https-name"])
def test_unbound_over_every_transport(kind: str, world: World) -> None:
    """50 questions one after another, the rest at once."""
    unbound = world.unbound
    url = {
        "udp": unbound.url, "tcp": unbound.tcp_url, "tls": unbound.tls_url,
        "tls-name": f"{unbound.tls_url}#{NAME}",
        "https": unbound.https_url, "https-name": f"{unbound.https_url}#{NAME}",
    }[kind]  # fmt: skip
    existing = [(f"n{n}.example", "A") for n in range(NAMES)]
    theirs = asked_of(straight(world), existing)
    with (
        Counting(url) as counting,
        serving(
            world.catalog, *world.trusting(), upstream=counting.url if kind != "udp" else url
        ) as server,
    ):
        ours = [ask_all(server, [query(*question)])[0] for question in existing[:50]]
        ours += asked_of(server, existing[50:])
        assert [essence(got) for got in ours] == [essence(got) for got in theirs]
        assert max(got.seconds for got in ours) < 3
        assert counting.connections <= 5
        assert bool(counting.connections) == (kind != "udp")


# ── certificates ──────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Trust:
    """A certificate for *names*, what the URL adds, and whether the upstream may be believed."""

    names: tuple[str, ...]
    fragment: str
    believed: bool
    days: int = 2
    stranger: bool = False  # signed by an authority that is not trusted


TRUST = {
    "address": Trust(("IP:::1",), "", True),
    "name": Trust((f"DNS:{NAME}",), f"#{NAME}", True),
    "wildcard": Trust(("DNS:*.upstream.example",), f"#{NAME}", True),
    "no-address": Trust((f"DNS:{NAME}",), "", False),
    "other-address": Trust(("IP:::2",), "", False),
    "other-name": Trust(("DNS:other.upstream.example",), f"#{NAME}", False),
    "address-for-name": Trust(("IP:::1",), f"#{NAME}", False),
    "expired": Trust(("IP:::1",), "", False, days=-1),
    "stranger": Trust(("IP:::1",), "", False, stranger=True),
}


@pytest.fixture(scope="module")
def trusted(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Got, Upstream]]:
    """Each asked once, all at once, of one server with a rule for each."""
    folder = tmp_path_factory.mktemp("trust")
    stranger = Authority(folder, "stranger")
    with ExitStack() as stack:
        upstreams, rules = {}, [f'upstream_ca = "{world.authority.pem}"', "[forward]"]
        for name, trust in TRUST.items():
            pair = (stranger if trust.stranger else world.authority).sign(
                *trust.names, days=trust.days
            )
            upstream = stack.enter_context(Upstream(_good, tls=pair.context("dot")))
            upstreams[name] = upstream
            rules.append(f'"{name}.example" = ["{upstream.tls_url}{trust.fragment}"]')
        config = folder / "config.toml"
        config.write_text("\n".join(rules))
        server = stack.enter_context(
            serving(world.catalog, "--config", str(config), upstream=world.unbound.url)
        )
        got = ask_all(server, [query(f"www.{name}.example", "A") for name in TRUST])
        for name, trust in TRUST.items():
            if trust.believed:  # kept connections, by TLS too
                for n in range(30):
                    ask_all(server, [query(f"x{n}.{name}.example", "A")])
        return {name: (each, upstreams[name]) for name, each in zip(TRUST, got, strict=True)}


def _good(asked: Asked) -> Iterable[Said]:
    yield asked.reply(f"@ 60 IN A {GOOD}")


@pytest.mark.parametrize("name", TRUST)
def test_an_upstream_is_used_if_its_certificate_is_valid(
    name: str, trusted: dict[str, tuple[Got, Upstream]]
) -> None:
    got, upstream = trusted[name]
    if TRUST[name].believed:
        assert got.addresses == [GOOD]
        assert upstream.connections <= 5
        assert len(upstream.asked) >= 31
    else:
        assert got.outcome in ("SERVFAIL 22", "SERVFAIL 23")
        assert not got.addresses
        assert upstream.asked == []  # no question leaves for a stranger


# ── a client of another make ──────────────────────────────────────────────────────────────────────


KDIG = ("", "+tcp", "+dnssec", "+noedns", "+cookie +nsid", "+bufsize=4096 +ednsopt=65001:00")


@requires_tool("kdig")
def test_kdig_gets_what_unbound_says(world: World) -> None:
    names = ["upstream.example", "x.wild.example", "n3.example", "nobody.example"]

    def kdig(port: int) -> list[str]:
        """What it says about each name, with each of the options: lines, sorted, since the order
        may turn."""
        words = ["kdig", "@::1", "-p", str(port), "+short", "+timeout=5"]
        for options in KDIG:
            for name in names:
                words += [name, "A", *options.split()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        return sorted(done.stdout.split())

    expected = kdig(world.unbound.port)
    assert expected.count(GOOD) == len(KDIG)
    with serving(world.catalog, upstream=world.unbound.url) as server:
        assert kdig(server.port) == expected
