"""The answer table and its native twin with a network's own records and zones: what is repeated,
what is forgotten, and what upstreams said that a zone wins over."""

from __future__ import annotations

import sqlite3
from itertools import chain, product

import pytest

from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.journey import Forward, Reply, Rules, respond
from internal_dns.core.records import rr as record
from internal_dns.core.relayed import Relayed
from internal_dns.core.resolve import labels_of
from internal_dns.metrics import Metrics
from internal_dns.store.sqlite import read
from internal_dns.transport import native
from internal_dns.transport.native.mirror import Mirror
from internal_dns.transport.table.table import AnswerTable
from tests.core.messages import (
    AAAA,
    ANY,
    MX,
    RD,
    SERVER,
    SOA,
    SRV,
    TXT,
    A,
    ip,
    opt,
    query,
    wire,
)
from tests.scenario.language import FOLDER
from tests.tools import requires_native
from tests.transport.test_answers import RULES, Twins, audit, held

ACME, GLOBEX, VACANT = (
    ip("fdaa:0:18:a7b:7d:f066:b83b:2"), ip("fdaa:0:19:a7b:c1:1:2:2"), ip("fdaa:0:1a:a7b:7d:1:1:2"),
)  # fmt: skip
CNAME = 5
# The questions whose answers are kept, with all that each of them depends on.
ASKED = {
    ("pg.internal", A): {"pg"},
    ("nosuch.internal", A): {"nosuch", "*"},
    ("a.nosuch.internal", A): {"nosuch", "*"},
    ("x.apps.internal", A): {"apps"},
    ("y.web.internal", TXT): {"web"},
    ("older.internal", AAAA): {"older", "old", "web"},
    ("rds.internal", A): {"rds", "pg"},
    ("nearest.internal", AAAA): {"nearest", "web"},
    ("cast.internal", AAAA): {"cast", "web"},
    ("corp.example", AAAA): {"corp.example", "@.corp.example", "web"},
    ("corp.example", SOA): {"corp.example", "@.corp.example"},
    ("db.corp.example", AAAA): {"corp.example", "db.corp.example", "db"},
    ("nosuch.corp.example", A): {"corp.example", "nosuch.corp.example", "*.corp.example"},
    ("a.wild.corp.example", A): {"corp.example", "wild.corp.example"},
    ("router.lan", A): {"lan", "router.lan", "*.lan"},
    ("www.deep.in.corp.example", A): {"deep.in.corp.example", "www.deep.in.corp.example"},
    ("web.internal", AAAA): {"web"},
    ("_apps.internal", TXT): set(),
}


def opened() -> sqlite3.Connection:
    schema = (FOLDER.parents[1] / "schema.sql").read_text()
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for text in (
        schema,
        *((FOLDER / "catalogs" / f"{name}.sql").read_text() for name in ("acme", "records")),
    ):
        connection.executescript(text)
    connection.text_factory = bytes
    return connection


def named(parts: frozenset[bytes] | None) -> set[str]:
    """Parts in words: labels, and names of zones."""
    words = set()
    for part in parts or ():
        labels, at = [], 0
        while part.endswith(b"\0") and part[at]:
            labels.append(part[at + 1 : at + 1 + part[at]])
            at += 1 + part[at]
        words.add(b".".join(labels or [part]).decode())
    return words


@pytest.mark.parametrize(("name", "qtype"), ASKED)
def test_an_answer_depends_on_what_was_passed_on_the_way(name: str, qtype: int) -> None:
    said = respond(query(name, qtype), ACME, SERVER, read(opened()).catalog, RULES)
    assert isinstance(said, Reply)
    assert said.cacheable is not None
    assert named(said.cacheable.parts) == ASKED[name, qtype]
    assert (said.cacheable.parts is None) == (not ASKED[name, qtype])


@pytest.mark.parametrize(
    "name", ["out.internal", "me.internal", "c9.internal", "home.internal", "away.internal"]
)
def test_what_depends_on_more_than_the_network_is_not_kept(name: str) -> None:
    twins = Twins(read(opened()).catalog)
    for qtype in (A, TXT) if name != "me.internal" else (TXT,):
        twins.decide(query(name, qtype, flags=0), ACME, SERVER)
        twins.decide(query(name, qtype, flags=RD), ACME, SERVER)
    kept = {key for _, key, _ in held(twins.table)}
    assert kept <= {query(name, TXT)[12:] for name in ("away.internal",)}


def test_what_is_repeated_is_what_would_be_answered_at_every_size() -> None:
    twins = Twins(read(opened()).catalog)
    for (name, qtype), source in product(ASKED, (ACME, GLOBEX)):
        twins.decide(query(name, qtype), source, SERVER)
    for (name, qtype), source in product(ASKED, (ACME, GLOBEX)):
        for size, rotation in product((0, 512, 1_232), (0, 1, 3, 77)):
            twins.ask(query(name.upper(), qtype, opt(size=size)), source, rotation=rotation)
            twins.ask(query(name, qtype), source, rotation=rotation, stream=True)
    audit(twins.table)
    assert twins.repeated > 400
    assert native.MISSING or twins.repeated_natively > 200


@pytest.mark.parametrize("machines", [2, 15, 16, 17, 18, 19, 20, 60, 400])
def test_behind_an_alias_addresses_take_turns_and_go_from_the_end(machines: int) -> None:
    connection = opened()
    connection.executemany(
        "INSERT INTO machines (id, network_id, app, address, region, state) "
        "VALUES (?, 24, 'big', ?, 'iad', 'started')",
        [(f"big{n}", f"fdaa:0:18:a7b:7d:b16:{n:x}:2") for n in range(machines)],
    )
    connection.execute("INSERT INTO records VALUES (24, 'to.internal', 'CNAME', 'big.internal', 5)")
    connection.execute("INSERT INTO records VALUES (24, 'as.internal', 'ALIAS', 'big.internal', 3)")
    connection.execute(
        "INSERT INTO records VALUES (24, 'ids.internal', 'CNAME', 'vms.big.internal', 5)"
    )
    twins = Twins(read(connection).catalog)
    for name in ("to.internal", "as.internal", "ids.internal"):
        qtype = TXT if name == "ids.internal" else AAAA
        twins.decide(query(name, qtype), ACME, SERVER, stream=True)
        for size in (0, 512, 540, 568, 600, 1_232, 2_000, 8_192):
            for rotation in (0, 1, 7, 1_000_003):
                twins.ask(query(name, qtype, opt(size=size)), ACME, rotation=rotation)
                twins.ask(query(name, qtype), ACME, rotation=rotation)
        twins.ask(query(name, qtype), ACME, rotation=5, stream=True)
    audit(twins.table)
    assert twins.repeated > 100
    assert native.MISSING or twins.repeated_natively > 100


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ("UPDATE records SET ttl = 9 WHERE name = 'pg.internal'", {"pg"}),
        ("INSERT INTO records VALUES (24, 'x.nosuch.internal', 'A', '10.0.0.1', 5)", {"nosuch"}),
        ("INSERT INTO records VALUES (24, '*.internal', 'MX', '1 a.b', 5)", {"*"}),
        ("DELETE FROM records WHERE name = 'old.internal'", {"old"}),
        ("UPDATE machines SET state = 'stopped' WHERE app = 'db'", {"db"}),
        ("INSERT INTO records VALUES (24, '*.corp.example', 'A', '10.0.0.1', 5)", {"*.corp.example"}),
        ("INSERT INTO records VALUES (24, 'corp.example', 'TXT', 'x', 5)", {"@.corp.example"}),
        ("INSERT INTO records VALUES (24, 'new.corp.example', 'A', '10.0.0.1', 5)", {"new.corp.example"}),
        ("DELETE FROM zones WHERE name = 'lan'", {"lan", "*.lan"}),
        ("INSERT INTO zones VALUES (24, 'wild.corp.example')", {"wild.corp.example"}),
        ("INSERT INTO zones VALUES (24, 'other.example')", {"other.example"}),
        ("DELETE FROM zones WHERE name = 'corp.example' AND network_id = 25", set()),
        ("UPDATE records SET value = '10.9.9.9' WHERE network_id = 25", set()),
    ],
)  # fmt: skip
def test_a_change_makes_exactly_what_depends_on_it_forgotten(change: str, gone: set[str]) -> None:
    connection = opened()
    twins = Twins(read(connection).catalog)
    for name, qtype in ASKED:
        twins.decide(query(name, qtype), ACME, SERVER)
    depends = {query(name, qtype)[12:]: parts for (name, qtype), parts in ASKED.items()}
    for (name, qtype), parts in ASKED.items():  # A and AAAA are decided together
        if qtype in (A, AAAA):
            depends.setdefault(query(name, A + AAAA - qtype)[12:], parts)
    before = {key for _, key, _ in held(twins.table)}
    assert {query(name, qtype)[12:] for name, qtype in ASKED} < before <= depends.keys()
    assert connection.execute(change).rowcount
    twins.catalog = read(connection, previous=twins.catalog).catalog
    twins.table.change(twins.catalog)
    audit(twins.table)
    # What depends on the whole network goes with any change of it.
    lost = {key for key in before if gone and (depends[key] & gone or not depends[key])}
    assert before - {key for _, key, _ in held(twins.table)} == lost
    for name, qtype in ASKED:
        twins.ask(query(name, qtype), ACME)


# ── what upstreams said ───────────────────────────────────────────────────────────────────────────


def relayed(name: str, *targets: str) -> Relayed:
    """An A RR behind aliases, each owner written out."""
    records, ttls, aliases, owner = b"", [], [], name
    for target in targets:
        ttls.append(len(records) + len(wire(owner)) + 4)
        records += record(wire(owner), CNAME, wire(target), 60)
        aliases.append((wire(target), len(ttls)))
        owner = target
    ttls.append(len(records) + len(wire(owner)) + 4)
    records += record(wire(owner), A, b"\xc0\0\2\1", 60)
    count = len(ttls)
    return Relayed(0, False, (count, 0), records, tuple(ttls), 60, count - 1, b"", tuple(aliases))


UPSTREAM = {
    "www.example": relayed("www.example"),
    "www.corp.example": relayed("www.corp.example"),
    "xcorp.example": relayed("xcorp.example"),
    "lan.example": relayed("lan.example"),
    "through.example": relayed("through.example", "mail.corp.example", "public.example"),
    "past.example": relayed("past.example", "public.example"),
}
WINS = {"www.corp.example", "through.example"}


def serving(catalog: Catalog) -> tuple[AnswerTable, Mirror | None]:
    mirror = None if native.MISSING else Mirror(RULES, Metrics())
    table = AnswerTable(RULES, clock=lambda: 1_000.0, mirror=mirror)
    table.change(catalog)
    for name, reply in UPSTREAM.items():
        table.remember_relayed(wire(name), A, 0, reply, 1_000, 1_054, 1_060)
    return table, mirror


# Natively a name in no zone goes up too with a chance of some 1 in 100, by the table's secret: of
# several tables not all let it go up.
TABLES = 6


@pytest.mark.parametrize("name", UPSTREAM)
def test_a_zone_wins_over_what_an_upstream_said_for_its_network_alone(name: str) -> None:
    catalog, octets = read(opened()).catalog, query(name.upper(), A)
    served = [serving(catalog) for _ in range(TABLES)]
    for source, has_zone in ((ACME, True), (VACANT, False)):
        wins = has_zone and name in WINS
        said = {table.repeat(octets, source, SERVER, 0) is None for table, _ in served}
        assert said == {True} if wins else False in said
        natively = {
            mirror.table.answer_one(octets, source, SERVER, 0, now=1_000_000) is None
            for _, mirror in served
            if mirror is not None
        }
        # Each alias goes up where there are zones: Python looks where it leads.
        goes_up = wins or (has_zone and bool(UPSTREAM[name].chain))
        assert native.MISSING or (natively == {True} if goes_up else False in natively)


def test_a_zone_wins_from_the_commit_on_and_no_longer() -> None:
    connection = opened()
    catalog = read(connection).catalog
    served = [serving(catalog) for _ in range(TABLES)]
    octets = query("www.example", A)

    def repeated(table: AnswerTable, mirror: Mirror | None) -> set[bool]:
        said = {table.repeat(octets, ACME, SERVER, 0) is not None}
        if mirror is not None:
            said.add(mirror.table.answer_one(octets, ACME, SERVER, 0, now=1_000_000) is not None)
        return said

    def agree(*, known: bool) -> bool:
        found = [repeated(*one) for one in served]
        return {True} in found if known else all(one == {False} for one in found)

    assert agree(known=True)
    for change, known in (
        ("INSERT INTO zones VALUES (24, 'example')", False),
        ("DELETE FROM zones WHERE name = 'example'", True),
        ("DELETE FROM zones", True),
        ("INSERT INTO zones VALUES (24, 'www.example')", False),
    ):
        connection.execute(change)
        catalog = read(connection, previous=catalog).catalog
        for table, _ in served:
            table.change(catalog)
        assert agree(known=known)


def test_after_a_failed_change_zones_win_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = opened()
    catalog = read(connection).catalog
    table, mirror = serving(catalog)
    connection.execute("INSERT INTO zones VALUES (24, 'example')")

    def fail(*_: object) -> None:
        raise MemoryError

    if mirror is not None:
        monkeypatch.setattr(mirror, "steps", fail)
    else:
        monkeypatch.setattr(table, "_forget", fail)
    with pytest.raises(MemoryError):
        table.change(read(connection, previous=catalog).catalog)
    for name in ("www.example", "www.corp.example"):
        assert table.repeat(query(name, A), ACME, SERVER, 0) is None
        if mirror is not None:
            assert mirror.table.answer_one(query(name, A), ACME, SERVER, 0, now=1_000_000) is None


@pytest.mark.skipif(bool(native.MISSING), reason="not built")
def test_with_a_wildcard_at_the_apex_every_name_goes_up() -> None:
    connection = opened()
    catalog = read(connection).catalog
    table, mirror = serving(catalog)
    assert mirror is not None
    for change, unknown in (
        ("INSERT INTO records VALUES (24, 'a.*.internal', 'A', '10.0.0.1', 5)", False),
        ("DELETE FROM records WHERE name = 'a.*.internal'", True),
        ("INSERT INTO records VALUES (24, '*.internal', 'A', '10.0.0.1', 5)", False),
        ("DELETE FROM records WHERE name = '*.internal'", True),
        ("INSERT INTO records VALUES (24, 'a.zz9.internal', 'A', '10.0.0.1', 5)", False),
    ):
        assert connection.execute(change).rowcount
        catalog = read(connection, previous=catalog).catalog
        table.change(catalog)
        for name in ("zz9.internal", "b.c.zz9.internal"):
            said = mirror.table.answer_one(query(name, AAAA), ACME, SERVER, 0)
            assert (said is not None) == unknown, (change, name)
            if said is not None:
                decided = respond(query(name, AAAA), ACME, SERVER, catalog, RULES)
                assert isinstance(decided, Reply)
                assert decided.octets == said


@pytest.mark.parametrize("qtype", [A, AAAA, CNAME, ANY, MX, SRV, 43])
def test_a_name_of_a_zone_is_never_forwarded(qtype: int) -> None:
    catalog = read(opened()).catalog
    for name in ("corp.example", "x.y.corp.example", "www.deep.in.corp.example", "a.lan", "LAN"):
        said = respond(query(name, qtype), ACME, SERVER, catalog, RULES)
        assert isinstance(said, Reply)
        assert (said.kind, said.octets[2] & 4) == ("zone", 4)
        if name.lower() != "lan" or qtype not in (A, AAAA):
            assert isinstance(respond(query(name, qtype), VACANT, SERVER, catalog, RULES), Forward)


@pytest.mark.parametrize("machines", [800, 1_000])
def test_a_list_past_a_message_is_never_truncated_over_tcp(machines: int) -> None:
    connection = opened()
    connection.executemany(
        "INSERT INTO machines (id, network_id, app, address, region, state) "
        "VALUES (?, 26, 'big', ?, 'iad', 'started')",
        [(f"{n:014x}", f"fdaa:0:1a:a7b:7d:1:{n:x}:2") for n in range(machines)],
    )
    twins = Twins(read(connection).catalog)
    for octets in (query("_instances.internal", TXT, opt(size=size)) for size in (512, 4_096)):
        for stream in (False, True):
            twins.decide(octets, VACANT, SERVER, stream=stream)
            assert twins.ask(octets, VACANT) is not None
            twins.ask(octets, VACANT, stream=True)  # fails unless both tables say the same


@requires_native()
@pytest.mark.parametrize("before", range(12))
@pytest.mark.parametrize("had_zones", [True, False])
def test_a_zone_wins_while_rules_and_catalog_change_together(had_zones: bool, before: int) -> None:
    """Whatever is in whichever table by then."""
    connection = opened()
    if not had_zones:
        connection.execute("DELETE FROM zones")
    catalog = read(connection).catalog
    table, _ = serving(catalog)
    connection.execute("INSERT INTO zones VALUES (24, 'example')")
    commit = table.steps(read(connection, previous=catalog).catalog)
    for _ in range(before):
        next(commit, None)
    mirror = Mirror(RULES, Metrics())
    remaining = table.use_rules(Rules(prefix=RULES.prefix, udp_limit=1_000), mirror)
    for name, reply in UPSTREAM.items():
        table.remember_relayed(wire(name), A, 0, reply, 1_000, 1_054, 1_060)
    wins = set[frozenset[str]]()
    for _ in chain((None,), commit, remaining):
        current = table.catalog_for(ACME)
        assert current is not None
        zones = current.networks[NetworkId(24)].zones
        in_zone = frozenset(n for n, r in UPSTREAM.items() if r.leads_into(wire(n), zones))
        wins.add(in_zone)
        for name in UPSTREAM:
            octets = query(name, A)
            said = table.repeat(octets, ACME, SERVER, 0)
            natively = mirror.table.answer_one(octets, ACME, SERVER, 0, now=1_000_000)
            assert (said, natively) == (None, None) or name not in in_zone
    assert frozenset(UPSTREAM) in wins


# ── A and AAAA together ───────────────────────────────────────────────────────────────────────────


def test_the_pair_of_an_answer_is_what_the_other_type_gets() -> None:
    catalog, paired, alone = read(opened()).catalog, set[str](), set[str]()
    own = [
        ".".join(label.decode() for label in labels_of(owner)).replace("*", "any")
        for owner in (*catalog.networks[NetworkId(24)].records, *catalog.networks[NetworkId(24)].zones)
    ]  # fmt: skip
    for name, qtype in product({*own, *(name for name, _ in ASKED)}, (A, AAAA)):
        said, other = (
            respond(query(name, one, flags=RD), ACME, SERVER, catalog, RULES)
            for one in (qtype, A + AAAA - qtype)
        )
        pair = said.pair if isinstance(said, Reply) else None
        if pair is None:
            alone.add(name)
            continue
        paired.add(name)
        assert isinstance(other, Reply)
        assert other.cacheable == pair, (name, qtype)
    # What an alias is looked through for, or leads to, is decided for the type that was queried.
    assert {
        "older.internal",
        "rds.internal",
        "both.internal",
        "nosuch.internal",
        "corp.example",
    } <= alone
    assert not paired & {
        "older.internal",
        "rds.internal",
        "both.internal",
        "cast.internal",
        "out.internal",
    }
    assert {"pg.internal", "web.internal", "router.lan"} <= paired
