"""The answer table and its plain twin: what is repeated is, to the octet, what `respond` would say
again."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import ip_network
from itertools import product, zip_longest
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.journey import Cacheable, Drop, Reply, Rules, respond
from internal_dns.core.requester import SourceMap
from internal_dns.core.wire import MAX_QUERY
from internal_dns.metrics import Metrics
from internal_dns.store.generate import demo_rows
from internal_dns.store.sqlite import read
from internal_dns.transport import native
from internal_dns.transport.native.mirror import Mirror
from internal_dns.transport.table.entries import Entry
from internal_dns.transport.table.table import AnswerTable
from tests.books import check_books
from tests.core.catalogs import Rows, natural_type, random_name, random_rows, random_source
from tests.core.messages import (
    AA,
    AAAA,
    AD,
    ANY,
    CD,
    CH,
    COOKIE,
    KEEPALIVE,
    MX,
    NS,
    NSID,
    PTR,
    QR,
    RA,
    RD,
    SERVER,
    SOA,
    SRV,
    TC,
    TSIG,
    TXT,
    A,
    Name,
    Z,
    header,
    insert,
    ip,
    loaded,
    opened,
    opt,
    option,
    query,
    question,
    rr,
    wire,
)
from tests.laws import examples

NXDOMAIN = 3
ACME, GLOBEX, INITECH, NOBODY = 0x18, 0x19, 0x1A, 0x77
MACHINE = ip("fdaa:0:18:a7b:7d:f066:b83b:2")  # acme, iad-1
NEIGHBOUR = ip("fdaa:0:18:a7b:7d:1:5:2")  # the same network and host
PEER = ip("fdaa:0:18:a7b:91:9:1:102")
IN_GLOBEX = ip("fdaa:0:19:a7b:c1:1:2:2")
IN_INITECH = ip("fdaa:0:1a:a7b:7e:1:1:2")
STRANGER = ip("fdaa:0:77:1::2")
LOOPBACK, TEN, OUTSIDER = ip("::1"), ip("10.1.2.3"), ip("2001:db8::1")
MAPS = (
    SourceMap.of(ip_network("::1/128"), NetworkId(ACME)),
    SourceMap.of(ip_network("10.0.0.0/8"), NetworkId(INITECH)),
    SourceMap.of(ip_network("10.1.0.0/16"), NetworkId(GLOBEX)),
)
RULES = Rules(region=b"ams", maps=MAPS, nsid=b"here", secret=bytes(range(16)))
WALL = 1_700_000_000  # the time stamp of cookies
SOURCES = (MACHINE, NEIGHBOUR, PEER, IN_GLOBEX, IN_INITECH, STRANGER, LOOPBACK, TEN, OUTSIDER)
NAMES = """
internal flycast a.a.d.f.ip6.arpa _apps.internal _instances.internal all._instances.internal _peer.internal
alice-laptop._peer.internal interactive-alice-7f3a._peer.internal _api.internal _dns.internal _whoami.internal
web.internal global.web.internal iad.web.internal lhr.web.internal xxx.web.internal render.internal batch.internal
blog.internal resolver.internal nosuch.internal 3d8d9930b03989.vm.web.internal 287444ec026748.vm.web.internal
worker.process.web.internal iad.worker.process.web.internal leader.role.kv._metadata.db.internal
role.kv._metadata.db.internal regions.web.internal all.regions.web.internal vms.web.internal all.vms.web.internal
_instances.web.internal _http._tcp.web.internal _dns._udp.resolver.internal top1.nearest.of.web.internal
top3.nearest.of.web.internal top99999.nearest.of.render.internal top2.nearest.of.worker.process.web.internal
top0.nearest.of.web.internal vm.web.internal of.web.internal _page.web.internal 1._page.render.internal
1._page._apps.internal 2._page.web.internal web.flycast a.b.web.flycast db.flycast x.vm.web.internal
vms.render.internal
3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa 8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa
2.0.0.0.b.3.8.b.6.6.0.f.d.7.0.0.b.7.a.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa
""".split()
TYPES = (AAAA, TXT, SRV, PTR, ANY, A, SOA, NS)
# (flags, records beside the question): the shapes a plain query may have
PLAIN = [
    (flags, additional)
    for flags, additional in product(
        (0, RD, RD | CD, CD, RD | AD | RA | Z),
        (
            (),
            *((opt(size=size, do=do),) for size in (0, 600, 1232, 65_535) for do in (False, True)),
        ),
    )
]
PADDING, CLIENT_SUBNET = 12, 8
# EDNS options in any order and number; each is answered, or ignored
OPTIONS = (
    option(COOKIE, b"\1\2\3\4\5\6\7\x08"), option(COOKIE, bytes(24)), option(COOKIE, bytes(40)), option(NSID),
    option(NSID, b"asked"), option(KEEPALIVE), option(KEEPALIVE, b"\0\1"), option(PADDING, bytes(100)),
    option(CLIENT_SUBNET, b"\0\1\x18\0\xc0\0\2"), option(65_535, b"x"), option(0), option(100, bytes(300)),
)  # fmt: skip


@cache
def demo() -> Catalog:
    return loaded(rows=demo_rows()).catalog


def opened_demo() -> sqlite3.Connection:
    return opened(rows=demo_rows())


class Oracle(AnswerTable):
    """The table in Python, with one beside it that has a native table and is told the same."""

    def __init__(self, *args: Any, native: AnswerTable | None = None, **how: Any) -> None:
        super().__init__(*args, **how)
        self.native = native

    def remember(self, reply: Reply) -> None:
        super().remember(reply)
        if self.native is not None:
            self.native.remember(reply)

    def remember_relayed(self, *what: Any) -> None:
        super().remember_relayed(*what)
        if self.native is not None:
            self.native.remember_relayed(*what)

    def forget(self, number: NetworkId, labels: frozenset[bytes] | None) -> None:
        super().forget(number, labels)
        if self.native is not None:
            self.native.forget(number, labels)

    def steps(self, catalog: Catalog) -> Iterator[None]:
        mine = super().steps(catalog)
        if self.native is None:
            return mine
        return (None for _ in zip_longest(mine, self.native.steps(catalog)))


@dataclass(slots=True)
class Twins:
    """Both tables and the journey behind them."""

    catalog: Catalog
    rules: Rules = RULES
    table: Oracle = field(init=False)
    mirror: Mirror | None = field(init=False)
    repeated: int = 0
    repeated_natively: int = 0

    def __post_init__(self) -> None:
        metrics = Metrics()
        how: dict[str, Any] = {
            "count_into": lambda reply, qtype: metrics.response(reply.kind, reply.rcode, qtype),
            "wall": lambda: WALL,
        }
        self.mirror = None if native.MISSING else Mirror(self.rules, metrics)
        beside = AnswerTable(self.rules, mirror=self.mirror, **how) if self.mirror else None
        self.table = Oracle(self.rules, native=beside, **how)
        self.table.change(self.catalog)

    def decide(self, octets: bytes, source: bytes, destination: bytes, **how: Any) -> bytes | None:
        """What the journey says, remembered when it may be."""
        said = respond(octets, source, destination, self.catalog, self.rules, **how)
        if not isinstance(said, Reply):
            return None
        self.table.remember(said)
        return said.octets

    def ask(
        self,
        octets: bytes,
        source: bytes = MACHINE,
        destination: bytes = SERVER,
        rotation: int = 0,
        *,
        stream: bool = False,
    ) -> bytes | None:
        """What the table says; fails unless the journey agrees."""
        found = self.table.repeat(octets, source, destination, rotation, 65_535 if stream else 0)
        if found is not None:
            said = respond(
                octets,
                source,
                destination,
                self.catalog,
                self.rules,
                rotation=rotation,
                stream=stream,
                now=WALL,
            )
            assert isinstance(said, Reply), (octets, source)
            assert found == said.octets, (octets, source, rotation)
            self.repeated += 1
        if self.table.native is not None:
            again = self.table.native.repeat(
                octets, source, destination, rotation, 65_535 if stream else 0
            )
            unknown = again is not None and again[3] & 15 == NXDOMAIN
            assert again == found or (found is None and unknown), (octets, source, rotation)
        if self.mirror is not None and not stream:
            self.ask_natively(self.mirror, found, octets, source, destination, rotation)
        return found

    def ask_natively(
        self,
        mirror: Mirror,
        found: bytes | None,
        octets: bytes,
        source: bytes,
        destination: bytes,
        rotation: int,
    ) -> None:
        """Fail unless the C core says what Python's table said (*found*), or what the journey says,
        or leaves it."""
        said = mirror.table.answer_one(octets, source, destination, rotation, unix_time=WALL)
        if said:
            decided = respond(
                octets, source, destination, self.catalog, self.rules, rotation=rotation, now=WALL
            )
            assert isinstance(decided, Reply), (octets, source)
            assert said == decided.octets, (octets, source, rotation)
            assert found is not None or said[3] & 15 == NXDOMAIN
            self.repeated_natively += 1
        elif said is None:
            decided = respond(octets, source, destination, self.catalog, self.rules)
            cacheable = decided.cacheable if isinstance(decided, Reply) else None
            by_place = cacheable is not None and cacheable.place is not None
            assert found is None or by_place or len(found) > 8_192, (octets, source, rotation)
        else:
            assert isinstance(
                respond(octets, source, destination, self.catalog, self.rules), Drop
            ), octets

    def learn(self, name: Name, qtype: int = AAAA, source: bytes = MACHINE) -> bytes:
        """Ask, so that it is known from now on; fails when it is not."""
        octets = query(name, qtype)
        assert self.decide(octets, source, SERVER) is not None
        assert self.ask(octets, source, stream=True) is not None, name
        return octets


PATHS = ("python", *(() if native.MISSING else ("native",)))


def only(path: str, catalog: Catalog | None = None) -> Twins:
    """Twins that have one table only, in Python or native."""
    twins = Twins(catalog or demo())
    twins.mirror = Mirror(RULES, Metrics()) if path == "native" else None
    twins.table = Oracle(RULES, mirror=twins.mirror, wall=lambda: WALL)
    twins.table.change(twins.catalog)
    return twins


def held(table: AnswerTable) -> dict[tuple[bytes, bytes, Any], Entry]:
    """Every entry by network, key and place."""
    return {
        (network, *key): entry for network, key, entry in table.held() if isinstance(entry, Entry)
    }


def audit(table: AnswerTable) -> None:
    """Fail unless all books agree, those of the native table too."""
    check_books(table)
    if isinstance(table, Oracle) and table.native is not None:
        audit(table.native)
        entries, mirror = held(table), table.native.mirror
        assert isinstance(mirror, Mirror)
        kept = {
            (number.to_bytes(4, "big"), name + qtype.to_bytes(2, "big") + b"\0\1")
            for number, name, qtype, _ in mirror.table.kept()
        }
        small_enough = {
            (network, key)
            for (network, key, where), entry in entries.items()
            if not where and small(entry)
        }
        assert kept == small_enough
        assert {(n, key, None) for n, key in kept} | held(table.native).keys() == entries.keys()


def small(entry: Entry) -> bool:
    """Whether the C core has room for it."""
    return all(count == 1 for _, count in entry.rings)


def in_other_case(rng: Random, octets: bytes) -> bytes:
    """*octets* with the question's letters in random case (0x20)."""
    end = octets.index(0, 12)
    name = bytes(
        c ^ 0x20 if chr(c).isalpha() and c < 128 and rng.random() < 0.5 else c
        for c in octets[12:end]
    )
    return octets[:12] + name + octets[end:]


# ── the twin law ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_what_is_repeated_is_what_would_be_answered(name: str) -> None:
    twins, rng = Twins(demo()), Random(name)
    for qtype in TYPES:
        for source in SOURCES:
            twins.decide(query(name, qtype), source, SERVER)
        for flags, additional in PLAIN:
            octets = in_other_case(
                rng, query(name, qtype, *additional, flags=flags, ident=rng.getrandbits(16))
            )
            for source in rng.sample(SOURCES, 3):
                twins.ask(octets, source, rotation=rng.getrandbits(32), stream=rng.random() < 0.5)
    audit(twins.table)
    assert twins.repeated > (300 if name != "_whoami.internal" else 80)
    assert (
        native.MISSING
        or "nearest" in name
        or name == "_whoami.internal"
        or twins.repeated_natively > twins.repeated // 4
    )


def test_what_was_learned_by_tcp_with_options_is_repeated_to_plain_clients_by_udp() -> None:
    twins = Twins(demo(), Rules(nsid=b"me", maps=MAPS))
    loud = query(
        "WEB.internal", AAAA, opt(option(COOKIE, bytes(8)), option(NSID), size=512), flags=RD | CD
    )
    twins.decide(loud, MACHINE, SERVER, stream=True, rotation=3, now=99)
    for flags, additional in PLAIN:
        assert (
            twins.ask(query("web.internal", AAAA, *additional, flags=flags), NEIGHBOUR, rotation=5)
            is not None
        )


@pytest.mark.parametrize(
    "rules", [Rules(forwarding=False), Rules(udp_limit=512), Rules(udp_limit=1_000, dev=True)]
)
@pytest.mark.slow
def test_the_twins_agree_under_other_rules(rules: Rules) -> None:
    twins = Twins(demo(), rules)
    for name, qtype in product(NAMES, TYPES):
        twins.decide(query(name, qtype), MACHINE, SERVER)
        for size in (512, 900, 1232, 8192):
            twins.ask(query(name, qtype, opt(size=size)), MACHINE, rotation=size)
        twins.ask(query(name, qtype), MACHINE, rotation=7)
    assert twins.repeated > 1_000


def questions(rng: Random, rows: Rows, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Random plain queries and their sources."""
    for _ in range(count):
        name = random_name(rng, rows)
        flags, additional = rng.choice(PLAIN)
        if additional and rng.random() < 0.5:
            size = rng.choice((0, 512, 600, 1232, 4_096))
            additional = (opt(*rng.choices(OPTIONS, k=rng.randint(1, 3)), size=size),)
        yield (
            query(name, natural_type(name, rng, rows), *additional, flags=flags),
            random_source(rng, rows),
        )


@given(st.integers(0, 1 << 32))
@examples(60)
@pytest.mark.slow
def test_the_twins_agree_for_every_catalog(seed: int) -> None:
    rng = Random(seed)
    rows = random_rows(rng)
    twins = Twins(loaded(rows=rows).catalog)
    asked = list(questions(rng, rows, 60))
    for octets, source in asked:
        twins.decide(
            octets, source, SERVER, rotation=rng.getrandbits(32), stream=rng.random() < 0.5
        )
    audit(twins.table)
    sources = [source for _, source in asked]
    for octets, source in asked:
        for who in (source, *rng.sample(sources, 4)):
            destination = rng.choice(
                (SERVER, who[:6] + bytes(9) + b"\3", ip("fdaa:0:19::3"), ip("::1"))
            )
            twins.ask(
                in_other_case(rng, octets),
                who,
                destination,
                rng.getrandbits(32),
                stream=rng.random() < 0.5,
            )
    assert twins.repeated or not twins.table.entries


@given(st.integers(0, 1 << 32))
@examples(60)
@pytest.mark.slow
def test_the_twins_agree_after_any_change(seed: int) -> None:
    rng = Random(seed)
    before, after = random_rows(rng), random_rows(rng)
    changed = {
        table: after[table] if rng.random() < 0.3 else of_table
        for table, of_table in before.items()
    }
    for table, of_table in changed.items():
        if of_table and rng.random() < 0.2:
            changed[table] = [row for row in of_table if rng.random() < 0.8]
    connection = opened(rows=before)
    twins = Twins(read(connection).catalog)
    asked = list(questions(rng, before, 80))
    for octets, source in asked:
        twins.decide(octets, source, SERVER)
    for table, of_table in changed.items():
        connection.execute(f"DELETE FROM {table}")
        insert(connection, table, of_table)
    twins.catalog = read(connection, previous=twins.catalog).catalog
    connection.close()
    twins.table.change(twins.catalog)
    audit(twins.table)
    for octets, source in asked:
        twins.ask(octets, source, rotation=rng.getrandbits(32), stream=True)


# ── what is not repeated ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "octets",
    [
        *(query("web.internal", AAAA, opt(option(COOKIE, bytes(n)))) for n in (0, 7, 9, 15, 41)),
        query("web.internal", AAAA, opt(option(COOKIE, bytes(7)), option(COOKIE, bytes(8)))),
        query("web.internal", AAAA, opt(option(NSID, length=1))),
        query("web.internal", AAAA, opt(option(NSID) + b"\0")),
        query("web.internal", AAAA, opt(option(NSID), version=1)),
        query("web.internal", AAAA, opt(option(NSID), owner=b"\1x\0")),
        query("web.internal", AAAA, opt(option(NSID), rdlen=3)),
        query("web.internal", AAAA, opt(option(NSID), rdlen=5)),
        query("web.internal", AAAA, opt(option(NSID)), opt()),
        query("web.internal", AAAA, rr(b"\0", TSIG, option(NSID), rclass=1232, ttl=0)),
        query("web.internal", qclass=CH) + opt(option(NSID)),
        query("web.internal", AAAA, opt(option(NSID)), qclass=CH),
        query("web.internal", AAAA, opt(option(NSID)) + b"\0"),
        query("web.internal", AAAA, opt(option(65_001, b"globex"))),
        query("web.internal", AAAA, opt(version=1)),
        query("web.internal", AAAA, opt(owner=b"\1x\0")),
        query("web.internal", AAAA, opt(rdlen=1)),
        query("web.internal", AAAA, rr(b"\0", TSIG, rclass=1232, ttl=0)),
        query("web.internal", AAAA, opt(), opt()),
        query("web.internal", flags=RD | AA),
        query("web.internal", flags=RD | TC),
        query("web.internal", flags=RD | QR),
        query("web.internal", opcode=4),
        query("web.internal", opcode=5),
        query("web.internal", qclass=CH),
        query("web.internal", MX),
        query("web.internal") + b"\0",
        query("web.internal", AAAA, opt()) + b"\0",
        header(RD, ar=1) + question("web.internal"),
        header(RD) + question("web.internal") + opt(),
        header(RD, qd=2) + question("web.internal"),
        header(RD, qd=2) + question("web.internal") * 2,
        header(RD, qd=0) + question("web.internal"),
        header(RD, an=1) + question("web.internal"),
        header(RD, ns=1) + question("web.internal"),
        header(RD, ar=2) + question("web.internal") + opt(),
        header(RD) + wire("web.internal")[:-1] + b"\0\x1c\0\1",
        header(RD) + b"\3web\x08internal\xc0\x0c" + b"\0\x1c\0\1",
        header(RD) + question("web.internal")[:-1],
        header(RD) + question("web.internal")[:-2],
        header(RD) + b"\0\x1c\0\1",
        header(RD),
        header(RD, ar=1) + opt(),
        header(RD)[:11],
        b"",
    ],
)
def test_an_unusual_message_is_never_repeated(octets: bytes) -> None:
    twins = Twins(demo())
    for name in ("web.internal", "internal", ""):
        twins.decide(query(name), MACHINE, SERVER)
    assert twins.ask(octets) is None
    assert twins.ask(octets, stream=True) is None


@pytest.mark.parametrize(
    "additional",
    [(), (opt(size=1232),), (opt(OPTIONS[0], OPTIONS[3], OPTIONS[5], option(PADDING, b"\0\0")),)],
)
@pytest.mark.slow
def test_a_query_with_any_one_octet_changed_is_repeated_rightly_or_not_at_all(
    additional: tuple[bytes, ...],
) -> None:
    twins = Twins(demo())
    for name, qtype in product(("web.internal", "db.internal", "internal"), (AAAA, TXT, SOA, A)):
        twins.learn(name, qtype)
    octets = query("web.internal", AAAA, *additional)
    for at in range(len(octets)):
        for value in range(256):
            twins.ask(octets[:at] + bytes((value,)) + octets[at + 1 :])
        twins.ask(octets[:at])
        twins.ask(octets[:at] + octets[at + 1 :])
        twins.ask(octets[:at] + b"\0" + octets[at:])
    assert twins.repeated > 800


def test_types_that_look_like_letters_are_not_confused() -> None:
    twins = Twins(demo())
    for upper in range(65, 91):
        for qtype, other in (
            (upper, upper + 32),
            (upper + 32, upper),
            (upper << 8, upper + 32 << 8),
        ):
            octets = twins.learn(f"x{qtype}.internal", qtype)
            assert twins.ask(octets) is not None
            assert twins.ask(query(f"X{qtype}.internal", qtype)) is not None
            assert twins.ask(query(f"x{qtype}.internal", other)) is None


def test_an_asker_at_another_networks_address_gets_nothing_from_the_table() -> None:
    twins = Twins(demo())
    octets = twins.learn("web.internal")
    assert twins.ask(octets, MACHINE, ip("fdaa:0:18::3")) is not None
    assert twins.ask(octets, MACHINE, ip("2001:db8::53")) is not None
    assert twins.ask(octets, MACHINE, ip("fdaa:0:19::3")) is None
    assert twins.ask(octets, LOOPBACK, ip("fdaa:0:19::3")) is None
    assert twins.ask(octets, LOOPBACK, ip("fdaa:0:18::3")) is not None


def test_one_networks_answer_is_never_another_networks() -> None:
    twins = Twins(demo())
    octets = twins.learn("web.internal")
    for source in (
        IN_GLOBEX,
        IN_INITECH,
        STRANGER,
        OUTSIDER,
        TEN,
        ip("fdaa::3"),
        ip("fdaa::18:0:0:0"),
    ):
        assert twins.ask(octets, source) is None


def test_a_mapped_source_shares_the_answers_of_its_network() -> None:
    twins = Twins(demo())
    acme, globex = twins.learn("db.internal"), twins.learn("web.internal", source=IN_GLOBEX)
    assert twins.ask(acme, LOOPBACK) is not None
    assert twins.ask(globex, TEN) is not None  # the longest prefix wins
    assert twins.ask(acme, TEN) is None
    assert twins.ask(acme, ip("10.2.0.1")) is None
    assert twins.ask(acme, ip("192.0.2.1")) is None


def test_the_sources_that_are_remembered_have_a_bound() -> None:
    twins = Twins(demo())
    octets = twins.learn("web.internal")
    for number in range(10_000):
        twins.table.repeat(octets, ip("10.1.0.0")[:14] + number.to_bytes(2, "big"), SERVER, 0)
        twins.table.repeat(octets, ip("2001:db8::")[:14] + number.to_bytes(2, "big"), SERVER, 0)
    check_books(twins.table)  # at most 4,096 sources


def test_two_machines_of_one_host_do_not_share_self() -> None:
    twins = Twins(demo())
    octets = query("top2.nearest.of.web.internal")
    first = twins.decide(octets, MACHINE, SERVER)
    assert twins.ask(octets, MACHINE) == first
    assert twins.ask(octets, NEIGHBOUR) is None
    second = twins.decide(octets, NEIGHBOUR, SERVER)
    assert second is not None
    assert second != first
    assert twins.ask(octets, NEIGHBOUR) == second
    assert twins.ask(octets, MACHINE) == first
    assert twins.table.entries == 2


def test_askers_of_one_place_share_the_order_by_distance() -> None:
    twins = Twins(demo())
    octets = twins.learn("top2.nearest.of.db.internal", source=ip("fdaa:0:18:a7b:a1:5:5:2"))
    assert (
        twins.ask(octets, ip("fdaa:0:18:a7b:a1:5:6:2"), rotation=1) is not None
    )  # nobody's, on host nrt-1
    assert twins.ask(octets, ip("fdaa:0:18:a7b:b1:5:6:2")) is None  # on syd-1
    assert twins.ask(octets, PEER) is None


@pytest.mark.parametrize("qtype", [TXT, ANY])
def test_what_depends_on_more_than_the_key_is_never_stored(qtype: int) -> None:
    twins = Twins(demo())
    for name in ("_whoami.internal", "top2.nearest.of.web.internal"):
        for source in (MACHINE, NEIGHBOUR, LOOPBACK):
            twins.decide(query(name, TXT), source, SERVER)
    twins.decide(query("_whoami.internal", qtype), MACHINE, SERVER)
    assert twins.table.entries == 0


def test_nothing_is_stored_for_a_network_that_is_not_in_the_catalog() -> None:
    twins = Twins(demo())
    for name, qtype in product(NAMES, TYPES):
        for source in (STRANGER, OUTSIDER, ip("fdaa::3")):
            assert twins.decide(query(name, qtype), source, SERVER) is not None
            assert twins.ask(query(name, qtype), source) is None
    assert twins.table.entries == 0
    check_books(twins.table)


@pytest.mark.parametrize(
    "name", ["localhost", "10.in-addr.arpa", "test", "hostname", "example.com", "x.invalid"]
)
def test_names_that_are_not_ours_are_not_stored(name: str) -> None:
    twins = Twins(demo())
    twins.decide(query(name, A), MACHINE, SERVER)
    assert twins.table.entries == 0


def test_an_answer_that_does_not_fit_is_repeated_in_part() -> None:
    twins = Twins(demo())
    octets = twins.learn("render.internal", source=IN_INITECH)  # 60 RRs of 28 octets
    for size, count in (
        (0, 17),
        (512, 16),
        (600, 19),
        (1232, 42),
        (1723, 59),
        (1724, 60),
        (4096, 60),
    ):
        asked = query("render.internal", AAAA, opt(size=size)) if size else octets
        for rotation in range(60):
            said = twins.ask(asked, IN_INITECH, rotation=rotation)
            assert said is not None
            assert said[6:8] == count.to_bytes(2, "big")
            assert bool(said[2] & 2) == (count < 60)
    assert twins.ask(octets, IN_INITECH, stream=True) is not None
    assert twins.repeated_natively in (0, 7 * 60)


SIZES = (
    0,
    511,
    512,
    513,
    530,
    560,
    600,
    700,
    900,
    1_100,
    1_232,
    1_500,
    2_000,
    4_096,
    8_192,
    65_535,
)


@pytest.mark.parametrize(
    ("name", "qtype"),
    [
        ("render.internal", AAAA), ("render.internal", ANY), ("vms.render.internal", TXT),
        ("_instances.render.internal", TXT), ("_http._tcp.render.internal", SRV), ("internal", NS),
        ("1._page.render.internal", AAAA), ("all._instances.internal", TXT), ("_apps.internal", TXT),
        ("top60.nearest.of.render.internal", AAAA), ("nosuch.internal", A), (f"{'x' * 60}.internal", A),
        (".".join(("y" * 60,) * 3) + ".internal", AAAA), (".".join(("y" * 60,) * 3) + ".render.internal", A),
    ],
)  # fmt: skip
def test_what_is_repeated_fits_as_the_journey_makes_it_fit(name: str, qtype: int) -> None:
    rng, nsid = Random(f"{name}{qtype}"), b"n" * 64
    twins = Twins(demo(), Rules(maps=MAPS, nsid=nsid, udp_limit=65_535))
    twins.decide(query(name, qtype), IN_INITECH, SERVER, stream=True)
    for size in SIZES:
        for options in ((), (OPTIONS[0],), (option(NSID),), (OPTIONS[0], option(NSID))):
            octets = query(name, qtype, opt(*options, size=size, do=rng.random() < 0.5))
            assert twins.ask(octets, IN_INITECH, rotation=rng.getrandbits(32)) is not None
        assert twins.ask(query(name, qtype), IN_INITECH, rotation=rng.getrandbits(32)) is not None


@pytest.mark.parametrize("name", ["_instances.render.internal", "all._instances.internal"])
def test_a_list_that_was_not_built_is_repeated_to_whom_it_is_too_long_for(name: str) -> None:
    twins = Twins(demo(), Rules(maps=MAPS, udp_limit=65_535))
    whole = len(twins.decide(query(name, TXT), IN_INITECH, SERVER, stream=True) or b"")
    for first in (512, 700):
        twins.table.forget(NetworkId(INITECH), None)
        twins.decide(query(name, TXT, opt(size=first)), IN_INITECH, SERVER)
        for size in range(512, whole + 100, 61):
            octets = query(name, TXT, opt(OPTIONS[0], size=size))
            said = twins.ask(octets, IN_INITECH)
            if size == 512:
                assert said is not None
            if said is None:  # it may fit: who asks first has it built
                twins.decide(octets, IN_INITECH, SERVER)
                assert twins.ask(octets, IN_INITECH) is not None, size
        assert twins.ask(query(name, TXT), IN_INITECH, stream=True) is not None


def large(machines: int) -> Catalog:
    """One app in the network ACME, of so many machines."""
    return loaded(
        rows={
            "networks": [(ACME, "acme", "")],
            "apps": [(ACME, "many")],
            "machines": [
                (
                    f"{n:014x}",
                    ACME,
                    "many",
                    f"fdaa:0:18:1:1:{n >> 16:x}:{n & 0xFFFF:x}:2",
                    "iad",
                    "app",
                    "started",
                    0,
                    0,
                )
                for n in range(machines)
            ],
        }
    ).catalog


LISTS = (("vms.many.internal", TXT), ("_instances.internal", TXT))


@pytest.mark.parametrize(
    ("machines", "lists"), [(300, LISTS), (2_400, LISTS), (10_000, LISTS), (70_000, ())]
)
@pytest.mark.slow
def test_an_app_of_any_size_is_repeated_to_udp_clients(
    machines: int, lists: tuple[tuple[str, int], ...]
) -> None:
    twins = Twins(large(machines), Rules(udp_limit=65_535))
    for name, qtype in (("many.internal", AAAA), *lists):
        twins.decide(query(name, qtype), MACHINE, SERVER, stream=True)
        for size in (0, 512, 1_232, 4_096, 8_192):
            asked = query(name, qtype, opt(OPTIONS[0], size=size))
            for rotation in (0, machines - 1, machines):
                said = twins.ask(asked, MACHINE, rotation=rotation)
                assert said is not None, (name, size)
                assert said[2] & 2 or size == 8_192, (name, size)
    audit(twins.table)


@pytest.mark.parametrize(("name", "qtype"), LISTS)
def test_a_list_that_did_not_fit_who_asked_first_is_not_told_to_be_too_large_for_all(
    name: str, qtype: int
) -> None:
    """The first one's reply is TC, and made without the list."""
    twins = Twins(large(300), Rules(udp_limit=65_535))
    said = twins.decide(query(name, qtype), MACHINE, SERVER)
    assert said is not None
    assert said[2] & 2
    octets = query(name, qtype, opt(size=512))
    said = twins.ask(octets, MACHINE)
    assert said is not None
    assert said[2] & 2
    octets = query(name, qtype, opt(size=65_535))
    assert twins.ask(octets, MACHINE) is None
    whole = twins.decide(octets, MACHINE, SERVER)
    assert whole is not None
    assert not whole[2] & 2
    assert twins.ask(octets, MACHINE) == whole
    assert twins.repeated_natively or native.MISSING
    audit(twins.table)


@pytest.mark.parametrize("name", ["many.internal", "many.flycast", "iad.many.internal"])
@pytest.mark.parametrize("count", [2_336, 2_340, 2_341, 5_000])
@pytest.mark.slow
def test_the_part_of_a_set_past_a_tcp_message_is_repeated(name: str, count: int) -> None:
    catalog = large(count)
    network = catalog.networks[NetworkId(ACME)]
    addresses = tuple(machine.address for machine in network.apps[b"many"].machines)
    flying = replace(network, flycasts={b"many": addresses})
    counted = [0]
    twins = Twins(Catalog({network.id: flying}), Rules(nsid=b"here", maps=MAPS))
    twins.table.count_partial = counted
    twins.decide(query(name), MACHINE, SERVER)
    told = asked = 0
    for additional in ((), (opt(),), (opt(option(NSID)),), (opt(option(KEEPALIVE), do=True),)):
        for rotation in (0, 1, count - 1, count, 1 << 31):
            octets = query(name, AAAA, *additional)
            said = twins.ask(octets, MACHINE, rotation=rotation, stream=True)
            assert said is not None
            assert not said[2] & 2
            shown = int.from_bytes(said[6:8], "big")
            asked += shown < count
            told += b"; pages 1._page to" in said
    assert counted == [asked]
    assert (told > 0) == (count > 2_336)
    assert asked >= told


def test_each_address_of_a_set_past_any_message_is_first_equally_often() -> None:
    twins = Twins(large(2_500), Rules(udp_limit=1_232))
    octets = query("many.internal", AAAA, opt(size=1_232))
    twins.decide(octets, MACHINE, SERVER)
    bare = query("many.internal")
    first = Counter(
        first_address(twins.table.repeat(octets, MACHINE, SERVER, rotation) or b"", bare)
        for rotation in range(5_000)
    )
    assert len(first) == 2_500
    assert set(first.values()) == {2}


# ── options ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["web.internal", "nosuch.internal", "_apps.internal", "web.flycast", "internal"]
)
@pytest.mark.slow
def test_options_are_answered_from_the_table(name: str) -> None:
    rng = Random(name)
    for rules in (RULES, Rules(maps=MAPS), Rules(nsid=b"x" * 64, forwarding=False)):
        twins = Twins(demo(), rules)
        twins.decide(query(name, AAAA), MACHINE, SERVER)
        sources = (MACHINE, NEIGHBOUR, *((LOOPBACK,) if rules.maps else ()))
        for source, stream in product(sources, (False, True)):
            for _ in range(150):
                options = rng.choices(OPTIONS, k=rng.randint(0, 5))
                additional = opt(*options, do=rng.random() < 0.5, size=rng.choice((512, 1232)))
                flags = rng.choice((RD, 0, RD | CD, RD | AD))
                octets = in_other_case(rng, query(name, AAAA, additional, flags=flags))
                assert (
                    twins.ask(octets, source, rotation=rng.getrandbits(32), stream=stream)
                    is not None
                )
        assert twins.repeated_natively in (0, len(sources) * 150)


def test_the_cookie_of_a_client_that_came_by_ipv4_is_made_of_its_four_octets() -> None:
    twins = Twins(demo())
    twins.learn("web.internal", source=IN_GLOBEX)
    octets = query("web.internal", AAAA, opt(OPTIONS[0]))
    assert twins.ask(octets, TEN) is not None
    assert twins.ask(octets, ip("10.1.2.4"), rotation=0) != twins.ask(octets, TEN, rotation=0)
    assert twins.repeated_natively in (0, 3)


def test_the_clock_is_read_for_cookies_only() -> None:
    twins = Twins(demo())
    octets = twins.learn("web.internal")

    def no_clock() -> float:
        raise AssertionError

    twins.table.wall = no_clock
    assert twins.table.repeat(octets, MACHINE, SERVER, 0) is not None
    loud = query("web.internal", AAAA, opt(*OPTIONS[3:]))
    assert twins.table.repeat(loud, MACHINE, SERVER, 0) is not None
    with pytest.raises(AssertionError):
        twins.table.repeat(query("web.internal", AAAA, opt(OPTIONS[0])), MACHINE, SERVER, 0)


def test_many_options_are_read_once() -> None:
    twins = Twins(demo())
    octets = twins.learn("web.internal")
    room = (MAX_QUERY - len(octets) - 11) // 4
    assert (
        twins.ask(query("web.internal", AAAA, opt(*(option(9) for _ in range(room))))) is not None
    )
    longer = query("web.internal", AAAA, opt(*(option(9) for _ in range(room + 1))))
    assert len(longer) > MAX_QUERY
    assert twins.ask(longer) is None


def test_nothing_is_known_before_the_first_catalog() -> None:
    table = AnswerTable(RULES)
    said = respond(query("web.internal"), MACHINE, SERVER, demo(), RULES)
    assert isinstance(said, Reply)
    table.remember(said)
    assert table.entries == 0
    assert table.repeat(query("web.internal"), MACHINE, SERVER, 0) is None
    assert table.repeat(query("web.internal"), LOOPBACK, SERVER, 0) is None


def test_hits_and_misses_are_counted() -> None:
    counted: list[tuple[str, int]] = []
    cell = [0]

    def count_into(reply: Reply, qtype: int) -> list[int]:
        counted.append((reply.kind, qtype))
        return cell

    table = AnswerTable(RULES, count_into)
    table.change(demo())
    octets = query("web.flycast")
    assert table.repeat(octets, MACHINE, SERVER, 0) is None
    said = respond(octets, MACHINE, SERVER, demo(), RULES)
    assert isinstance(said, Reply)
    table.remember(said)
    for _ in range(3):
        assert table.repeat(octets, MACHINE, SERVER, 0) is not None
    assert table.repeat(query("db.flycast"), MACHINE, SERVER, 0) is None
    assert counted == [("flycast", AAAA), ("flycast", A)]
    assert (cell, table.hits, table.misses) == ([3], 3, 2)
    assert [entry.hits for entry in held(table).values()] == [3, 0]  # AAAA and A


# ── changes ───────────────────────────────────────────────────────────────────────────────────────

OF_APP = {
    "web": "web global.web iad.web lhr.web 3d8d9930b03989.vm.web worker.process.web "
    "1.2.3.version.kv._metadata.web "
    "regions.web vms.web _instances.web _http._tcp.web vm.web of.web _page.web 1._page.web "
    "top2.nearest.of.web",
    "db": "db iad.db role.kv._metadata.db all.vms.db leader.role.kv._metadata.db 2._page.db "
    "top1.nearest.of.db",
    "blog": "blog vms.blog process.blog",
    "later": "later iad.later x.vm.later",
}
OF_NETWORK = "_apps all._instances _instances _peer alice-laptop._peer nosuch._peer _api _dns 1._page._apps all x.all"


def asked_of(network: int) -> dict[tuple[str, int], bytes]:
    """Questions (name and type) about everything in a network, and who asks them."""
    source = {ACME: MACHINE, GLOBEX: IN_GLOBEX}[network]
    found = {("internal", SOA): source}
    for names in (*OF_APP.values(), OF_NETWORK):
        for name in names.split():
            found[f"{name}.internal", AAAA] = source
            found[f"{name}.internal", A] = source
    found["web.flycast", AAAA] = found["x.db.flycast", AAAA] = source
    found["2.0.0.0.b.3.8.b.6.6.0.f.d.7.0.0.b.7.a.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa", PTR] = source
    return found


def label_of(name: str) -> str:
    """The app or flycast label that a name of `asked_of` depends on; empty: the whole network."""
    words = name.split(".")
    if words[-1] == "flycast":
        return words[-2]
    if (
        words[-1] == "arpa"
        or len(words) == 1
        or name.removesuffix(".internal") in OF_NETWORK.split()
    ):
        return ""
    return words[-2]


def filled() -> tuple[
    sqlite3.Connection, Twins, dict[tuple[int, str], list[tuple[bytes, bytes, Any]]]
]:
    """A table with every kind of name of two networks, and which entries belong to (network,
    label)."""
    connection = opened_demo()
    twins = Twins(read(connection).catalog)
    owners: dict[tuple[int, str], list[tuple[bytes, bytes, Any]]] = {}
    for network in (ACME, GLOBEX):
        for (name, qtype), source in asked_of(network).items():
            before = held(twins.table).keys()
            twins.learn(name, qtype, source)
            owners.setdefault((network, label_of(name)), []).extend(
                held(twins.table).keys() - before
            )
    audit(twins.table)
    return connection, twins, owners


EVERYTHING = {(network, label) for network in (ACME, GLOBEX) for label in (*OF_APP, "")}


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        (
            "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'",
            {(ACME, "web"), (ACME, "")},
        ),
        (
            "UPDATE machines SET region = 'xxx' WHERE id = '148e306c77e789'",
            {(ACME, "db"), (ACME, "")},
        ),
        (
            "UPDATE machines SET state = 'stopped' WHERE id = '784e469c461d38'",
            {(GLOBEX, "web"), (GLOBEX, "")},
        ),
        ("INSERT INTO apps VALUES (24, 'later')", {(ACME, "later"), (ACME, "")}),
        ("DELETE FROM apps WHERE name = 'blog'", {(ACME, "blog"), (ACME, "")}),
        (
            "UPDATE machine_metadata SET value = 'x' WHERE value = 'Leader'",
            {(ACME, "db"), (ACME, "")},
        ),
        (
            "UPDATE machine_services SET port = 81 WHERE machine_id = '3d8d9930b03989'",
            {(ACME, "web"), (ACME, "")},
        ),
        (
            "INSERT INTO flycasts VALUES (24, 'later', 'fdaa:0:18:0:1::9')",
            {(ACME, "later"), (ACME, "")},
        ),
        ("DELETE FROM flycasts WHERE network_id = 25", {(GLOBEX, "db"), (GLOBEX, "")}),
        ("DELETE FROM peers WHERE name = 'alice-laptop'", {(ACME, "")}),
        ("UPDATE networks SET name = 'other' WHERE id = 24", {(ACME, "")}),
        ("INSERT INTO networks VALUES (99, 'new', '')", set()),
        ("DELETE FROM machines WHERE network_id = 26", set()),
        ("UPDATE machines SET updated_at = 7", set()),
        ("UPDATE meta SET value = 'x'", set()),
        ("UPDATE organizations SET name = 'x'", set()),
        ("UPDATE region_latency SET milliseconds = 1", EVERYTHING),
        ("DELETE FROM regions WHERE code = 'lhr'", EVERYTHING),
        ("UPDATE hosts SET region = 'nrt'", EVERYTHING),
    ],
)
@pytest.mark.slow
def test_a_change_makes_exactly_what_depends_on_it_forgotten(
    change: str, gone: set[tuple[int, str]]
) -> None:
    connection, twins, owners = filled()
    assert owners.keys() == EVERYTHING
    before = held(twins.table)
    assert connection.execute(change).rowcount
    twins.catalog = read(connection, previous=twins.catalog).catalog
    connection.close()
    twins.table.change(twins.catalog)
    audit(twins.table)
    lost = {key for owner in gone for key in owners[owner]}
    after = held(twins.table)
    assert after.keys() == before.keys() - lost
    assert all(before[key] is entry for key, entry in after.items())
    for network in (ACME, GLOBEX):
        for (name, qtype), source in asked_of(network).items():
            twins.ask(query(name, qtype), source, stream=True)


def test_a_network_that_leaves_the_catalog_takes_its_answers_along() -> None:
    connection, twins, owners = filled()
    before = held(twins.table)
    for table in (
        "networks WHERE id",
        *(f"{t} WHERE network_id" for t in ("apps", "machines", "peers", "flycasts")),
    ):
        connection.execute(f"DELETE FROM {table} = 25")
    twins.catalog = read(connection, previous=twins.catalog).catalog
    connection.close()
    twins.table.change(twins.catalog)
    audit(twins.table)
    stays = {key for (network, _), keys in owners.items() if network == ACME for key in keys}
    assert held(twins.table) == {key: before[key] for key in stays}
    assert twins.ask(query("web.internal"), IN_GLOBEX) is None


def remembered(octets: bytes, source: bytes, catalog: Catalog) -> Reply:
    said = respond(octets, source, SERVER, catalog, RULES)
    assert isinstance(said, Reply)
    assert isinstance(said.cacheable, Cacheable)
    return said


@pytest.mark.parametrize(
    "name", ["web.internal", "_apps.internal", "top1.nearest.of.web.internal", "nosuch.internal"]
)
def test_a_reply_from_before_a_change_is_not_remembered_after_it(name: str) -> None:
    connection = opened_demo()
    old = read(connection).catalog
    stale = remembered(query(name, ANY), MACHINE, old)
    other = remembered(query("web.internal"), IN_GLOBEX, old)
    connection.execute("UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")
    twins = Twins(old)
    twins.catalog = read(connection, previous=old).catalog
    connection.close()
    twins.table.change(twins.catalog)
    twins.table.remember(stale)
    assert twins.table.entries == 0
    twins.table.remember(other)  # of a network that did not change
    assert twins.table.entries == 2  # A and AAAA


def test_the_same_question_is_held_once() -> None:
    twins = Twins(demo())
    for _ in range(3):
        for source in (MACHINE, NEIGHBOUR):
            twins.decide(query("web.internal"), source, SERVER)
            twins.decide(query("top1.nearest.of.db.internal"), source, SERVER)
        audit(twins.table)
    assert twins.table.entries == 4  # A and AAAA, and one for each place


def test_what_answers_aaaa_answers_a_too_and_the_other_way_round() -> None:
    for asked, other in ((AAAA, A), (A, AAAA)):
        for name in ("web.internal", "iad.web.internal", "web.flycast", "render.internal"):
            twins = Twins(demo())
            source = IN_INITECH if name.startswith("render") else MACHINE
            twins.decide(query(name, asked), source, SERVER)
            assert twins.ask(query(name, other), source, stream=True) is not None
            audit(twins.table)
    for name in ("nosuch.internal", "top1.nearest.of.web.internal"):  # one entry each
        twins = Twins(demo())
        twins.decide(query(name), MACHINE, SERVER)
        assert twins.table.entries == 1


def test_a_pair_does_not_replace_an_answer_that_is_there() -> None:
    twins = Twins(demo())
    twins.decide(query("web.internal", A), MACHINE, SERVER)
    assert twins.ask(query("web.internal", AAAA)) is not None
    twins.decide(query("web.internal", A), MACHINE, SERVER)
    hits = {(name, qtype): hits for _, name, qtype, hits in twins.table.busiest(9)}
    assert hits[wire("web.internal"), AAAA] == 1


# ── bounds ────────────────────────────────────────────────────────────────────────────────────────


def bounded(max_octets: int = 1 << 30) -> Twins:
    """Twins whose table in Python is bounded, and which have no other: test_native_table.py."""
    twins = Twins(demo())
    twins.table, twins.mirror = Oracle(RULES, max_octets=max_octets), None
    twins.table.change(demo())
    return twins


@pytest.mark.parametrize("max_octets", [14_000, 50_000])
@pytest.mark.slow
def test_the_bound_holds_and_a_flood_pushes_out_its_own_answers(max_octets: int) -> None:
    twins = bounded(max_octets)
    table = twins.table
    victims = [
        twins.learn(name, source=IN_GLOBEX)
        for name in ("web.internal", "resolver.internal", "_dns.internal")
    ]
    kept = held(table)
    for number in range(1_000):
        twins.decide(query(f"x{number}.internal"), MACHINE, SERVER)
        twins.decide(query(f"top{number + 1}.nearest.of.web.internal"), MACHINE, SERVER)
        assert table.octets <= max_octets
    audit(table)
    assert {key: held(table)[key] for key in kept} == kept
    assert all(twins.ask(octets, IN_GLOBEX) is not None for octets in victims)
    assert (
        twins.ask(query("top1000.nearest.of.web.internal"), MACHINE) is not None
    )  # the newest stays
    assert table.evictions == 2_000 + len(kept) - table.entries


def test_two_floods_share_the_room() -> None:
    twins = bounded(100_000)
    for number in range(500):
        for source in (MACHINE, IN_GLOBEX):
            twins.decide(query(f"x{number}.internal"), source, SERVER)
    sizes = twins.table.octets_by_network
    assert len(sizes) == 2
    assert max(sizes.values()) < 1.1 * min(sizes.values())


def test_a_flood_takes_no_more_than_its_share_even_from_a_larger_network() -> None:
    twins = bounded(100_000)
    twins.learn("render.internal", source=IN_INITECH)
    for number in range(60):
        twins.learn(f"x{number}.internal")
    quiet = {key: entry for key, entry in held(twins.table).items() if key[0] != IN_GLOBEX[2:6]}
    for number in range(500):
        twins.decide(query(f"x{number}.internal"), IN_GLOBEX, SERVER)
    after = held(twins.table)
    assert {key: after[key] for key in quiet} == quiet
    assert 90_000 < twins.table.octets <= 100_000


def test_many_networks_with_one_answer_each_stay_within_the_bound() -> None:
    rows = {"networks": [(number, f"n{number}", "") for number in range(1, 501)]}
    twins = Twins(loaded(rows=rows).catalog)
    twins.table.native, twins.table.max_octets = None, 40_000
    for number in range(1, 501):
        source = b"\xfd\xaa" + number.to_bytes(4, "big") + bytes(9) + b"\2"
        twins.decide(query("_apps.internal", TXT), source, SERVER)
        assert twins.table.octets <= 40_000
    audit(twins.table)


def test_an_answer_larger_than_all_room_is_not_kept() -> None:
    twins = bounded(1_000)
    twins.decide(query("render.internal"), IN_INITECH, SERVER)
    assert twins.table.octets <= 1_000  # the pair, which says that there is no A
    audit(twins.table)


@given(st.integers(0, 1 << 32))
@examples(40)
@pytest.mark.slow
def test_the_books_are_empty_when_everything_is_forgotten(seed: int) -> None:
    rng = Random(seed)
    twins = bounded(rng.choice((3_000, 9_000, 1 << 20)))
    numbers = [*demo().networks]
    for _ in range(150):
        name, source = rng.choice(NAMES), rng.choice(SOURCES)
        twins.decide(query(name, rng.choice(TYPES)), source, SERVER)
        if rng.random() < 0.1:
            labels = (
                frozenset(rng.sample([b"web", b"db", b"render", b"nosuch"], 2))
                if rng.random() < 0.8
                else None
            )
            twins.table.forget(rng.choice(numbers), labels)
    audit(twins.table)
    if rng.random() < 0.5:
        twins.table.change(Catalog())
    else:
        for number in numbers:
            twins.table.forget(number, None)
    assert twins.table.entries == twins.table.octets == 0
    check_books(twins.table)


# ── turns ─────────────────────────────────────────────────────────────────────────────────────────


def first_address(octets: bytes, asked: bytes) -> bytes:
    """The rdata of the first answer, an AAAA RR whose owner is a pointer."""
    at = len(asked)  # an asked message without OPT ends with its question
    assert octets[at : at + 2] == b"\xc0\x0c"
    return octets[at + 12 : at + 28]


@pytest.mark.parametrize(
    ("name", "source", "count"),
    [
        ("web.internal", MACHINE, 5),
        ("render.internal", IN_INITECH, 60),
        (
            "top99999.nearest.of.render.internal",
            ip("fdaa:0:1a:9:9:9:9:2"),
            60,
        ),  # nobody, nowhere: all are equal
    ],
)
@pytest.mark.slow
def test_each_address_is_first_equally_often(name: str, source: bytes, count: int) -> None:
    rng = Random(name)
    twins = Twins(demo(), Rules())
    octets = twins.learn(name, source=source)
    in_turn = Counter(
        first_address(twins.ask(octets, source, rotation=rotation, stream=True) or b"", octets)
        for rotation in range(3 * count)
    )
    assert set(in_turn.values()) == {3}
    assert len(in_turn) == count
    drawn = Counter(
        first_address(
            twins.table.repeat(octets, source, SERVER, rng.getrandbits(32), 65_535) or b"", octets
        )
        for _ in range(1_000 * count)
    )
    assert drawn.keys() == in_turn.keys()
    chi_square = sum((seen - 1_000) ** 2 / 1_000 for seen in drawn.values())
    assert chi_square < count - 1 + 5 * (2 * count) ** 0.5  # five standard deviations


def test_each_address_is_first_equally_often_in_truncated_replies_too() -> None:
    twins = Twins(demo())
    octets = twins.learn("render.internal", source=IN_INITECH)
    first: Counter[bytes] = Counter()
    for rotation in range(120):
        said = twins.ask(octets, IN_INITECH, rotation=rotation)
        assert said is not None
        assert said[2] & 2  # TC
        first[first_address(said, octets)] += 1
    assert len(first) == 60
    assert set(first.values()) == {2}


def test_nearest_turns_within_each_tie_group_only() -> None:
    twins = Twins(demo())
    octets = twins.learn("top3.nearest.of.web.internal")
    seen = {twins.ask(octets, rotation=rotation) for rotation in range(12)}
    assert {first_address(reply or b"", octets) for reply in seen} == {MACHINE}
