"""One message in, at most one out: faults of ours cost one SERVFAIL, nothing goes uncounted, no
address leaks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import ip_network
from random import Random
from typing import Any

import dns.message
import dns.rcode
import pytest

from internal_dns.core.catalog import App, Catalog, Machine, Network, NetworkId, Service
from internal_dns.core.journey import Forward, Rules
from internal_dns.core.requester import SourceMap
from internal_dns.core.wire import Query
from internal_dns.late import Late
from internal_dns.metrics import Metrics
from internal_dns.store.generate import demo_rows
from internal_dns.transport import answer as exchange
from internal_dns.transport.answer import Exchange, Later
from internal_dns.transport.refusals import INTERVAL
from tests.core.messages import (
    AAAA,
    COOKIE,
    QR,
    RD,
    SRV,
    TXT,
    A,
    header,
    ip,
    loaded,
    machine,
    opt,
    option,
    options,
    query,
    records,
)

IN_ACME = ip("fdaa:0:18:a7b:7d:f066:b83b:2")
IN_GLOBEX = ip("fdaa:0:19:a7b:c1:1:2:2")
SERVER = ip("fdaa::3")
PORT = 40_000


@cache
def demo() -> Catalog:
    return loaded(rows=demo_rows()).catalog


@dataclass
class Upstreams:
    """A forwarder that answers at once."""

    said: bytes = header(QR | 3)
    asked: list[Forward] = field(default_factory=list)

    keep: Any = None
    forget: Any = None
    complete: Any = None
    cut: Any = None
    relay: Any = None
    check: Any = None

    def describe(self, query: Query) -> list[tuple[str, str]]:
        return []

    def answer(self, forward: Forward, source: bytes) -> bytes:
        self.asked.append(forward)
        return forward.query.id + self.said[2:]


def serving(
    catalog: Catalog | None = None, *, clock: Callable[[], float] = time.monotonic, **rules: Any
) -> Exchange:
    made = Exchange(Rules(**rules), Metrics(), Upstreams(), clock=clock)
    if catalog is not None:
        made.use(catalog)
    return made


def ask(
    server: Exchange, octets: bytes, source: bytes = IN_ACME, *, stream: bool = False
) -> bytes | None:
    """What a client gets."""
    said = server.handle(octets, source, SERVER, PORT, stream=stream)
    assert not isinstance(said, Late | Later)
    return said


def responses(metrics: Metrics) -> dict[tuple[str, int, int], int]:
    """Replies by (kind, RCODE, QTYPE)."""
    return {key: cell[0] for key, cell in metrics.responses.items() if cell[0]}


def answered(metrics: Metrics) -> int:
    return sum(responses(metrics).values())


# ── a fault of ours ───────────────────────────────────────────────────────────────────────────────


def planted(*_: object, **__: object) -> None:
    raise ZeroDivisionError("planted")


@pytest.mark.parametrize("where", ["exchange.respond", "answers.remember", "answers.repeat"])
def test_a_bug_costs_one_servfail_and_is_counted(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    server = serving(demo())
    with monkeypatch.context() as patch:
        owner, name = where.split(".")
        patch.setattr(exchange if owner == "exchange" else server.answers, name, planted)
        octets = ask(server, query("web.internal", AAAA, opt()))
    assert octets is not None
    reply = dns.message.from_wire(octets)
    assert (reply.id, reply.rcode()) == (0x1234, dns.rcode.SERVFAIL)
    assert not reply.answer
    assert server.metrics.errors == 1
    assert answered(server.metrics) == 1
    assert server.metrics.leaks == 0
    after = ask(server, query("web.internal", AAAA, opt()))  # the next one is served
    assert after is not None
    assert dns.message.from_wire(after).rcode() == 0
    assert server.metrics.errors == 1


def test_the_servfail_for_a_bug_is_one_that_stub_resolvers_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """glibc drops a reply whose question is not its own, and would wait for 5 s."""
    server = serving(demo())
    monkeypatch.setattr(exchange, "respond", planted)
    asked = query("Web.internal", AAAA, opt())
    octets = ask(server, asked)
    assert octets is not None
    reply = dns.message.from_wire(octets)
    assert octets[12:30] == asked[12:30]
    assert reply.edns == 0
    plain = ask(server, query("web.internal"))
    assert plain is not None
    assert dns.message.from_wire(plain).edns == -1


@pytest.mark.parametrize("octets", [b"", b"\x12", bytes(11), query("web.internal", flags=QR | RD)])
def test_not_even_a_bug_makes_the_server_answer_a_response_or_a_runt(
    monkeypatch: pytest.MonkeyPatch, octets: bytes
) -> None:
    server = serving(demo())
    monkeypatch.setattr(server.answers, "repeat", planted)
    assert ask(server, octets) is None
    assert server.metrics.errors == 1


def test_a_bug_is_logged_once_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    server = serving(demo(), clock=lambda: now[0])
    monkeypatch.setattr(exchange, "respond", planted)
    with caplog.at_level(logging.ERROR, "internal_dns"):
        for _ in range(50):
            ask(server, query("secret-app.internal"))
        assert len(caplog.records) == 1
        assert "ZeroDivisionError" in caplog.text
        assert "secret" not in caplog.text  # no query name in a log at the default level
        now[0] += 1
        ask(server, query("web.internal"))
        assert len(caplog.records) == 2
    assert server.metrics.errors == 51


def test_a_bug_in_joining_aliases_is_logged_once_a_second_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows: dict[str, list[tuple[Any, ...]]] = {
        "networks": [(0x18, "acme", "")],
        "records": [(0x18, "secret.internal", "CNAME", "db.provider.example", 30)],
    }
    # The forwarder's reply lacks its question, which no forwarder of ours sends.
    server = serving(loaded(rows=rows).catalog, clock=lambda: 100.0)
    with caplog.at_level(logging.ERROR, "internal_dns"):
        for _ in range(50):
            octets = ask(server, query("secret.internal", A), IN_ACME)
            assert octets is not None
            assert octets[3] & 15 == dns.rcode.SERVFAIL
    assert len(caplog.records) == 1
    assert "IndexError" in caplog.text
    assert "secret" not in caplog.text
    assert b"secret".hex() not in caplog.text
    assert server.metrics.errors == 50


@pytest.mark.parametrize(("count", "partial"), [(2_339, 0), (2_340, 1)])
def test_a_reply_that_holds_a_part_only_is_counted(count: int, partial: int) -> None:
    rows = {
        "machines": [machine(f"m{i}", f"fdaa:0:18:1:1:1:{i + 1:x}:2", "web") for i in range(count)]
    }
    server = serving(loaded(rows=rows).catalog)
    ask(server, query("web.internal"), stream=False)  # TC says so
    assert server.metrics.partial[0] == 0
    for asked in (1, 2):
        ask(server, query("web.internal"), stream=True)
        assert server.metrics.partial[0] == asked * partial


# ── the last check of isolation ───────────────────────────────────────────────────────────────────

FOREIGN = ip("fdaa:0:19:a7b:7d:1:1:2")


def crossed(address: bytes = FOREIGN) -> Catalog:
    """A catalog that no loader makes: acme's app has a machine, acme a flycast address, of
    globex."""
    machine = Machine(
        b"m1",
        b"web",
        address,
        b"ams",
        b"app",
        b"started",
        metadata=((b"role", b"leader"),),
        services=(Service(b"http", b"tcp", 80),),
    )
    good = machine._replace(id=b"m2", address=IN_ACME)
    acme = Network(
        NetworkId(0x18),
        b"\xfd\xaa\0\0\0\x18",
        b"acme",
        {b"web": App(b"web", (machine, good))},
        flycasts={b"web": (address,)},
    )
    return Catalog({acme.id: acme})


@pytest.mark.parametrize(
    ("name", "qtype"),
    [
        ("web.internal", AAAA),
        ("ams.web.internal", AAAA),
        ("m1.vm.web.internal", AAAA),
        ("top1.nearest.of.web.internal", AAAA),
        ("leader.role.kv._metadata.web.internal", AAAA),
        ("1._page.web.internal", AAAA),
        ("web.flycast", AAAA),
        ("_http._tcp.web.internal", SRV),  # in the additional section
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_address_of_another_network_is_held_back(name: str, qtype: int, stream: bool) -> None:
    server = serving(crossed())
    for count in (1, 2):
        octets = ask(server, query(name, qtype, opt()), ip("fdaa:0:18:a7b:7d:8:8:2"), stream=stream)
        assert octets is not None
        reply = dns.message.from_wire(octets)
        assert reply.rcode() == dns.rcode.SERVFAIL
        assert not reply.answer
        assert not reply.additional
        assert FOREIGN[2:6] not in octets[12 + len(name) + 6 :]
        assert server.metrics.leaks == count
    assert server.answers.entries == 0
    assert answered(server.metrics) == 2


@pytest.mark.parametrize(
    ("name", "qtype", "stream"),
    [
        *(
            (f"{name}web.{zone}", AAAA, stream)
            for stream in (False, True)
            for zone, name in (
                ("internal", ""), ("flycast", ""), ("internal", "ams."),
                ("internal", "leader.role.kv._metadata."),
            )
        ),
        ("_instances.web.internal", TXT, True),
    ],
)  # fmt: skip
def test_one_foreign_address_among_thousands_is_held_back(
    name: str, qtype: int, stream: bool
) -> None:
    """Whether it is among those that this reply shows or not: it would be in another."""
    few = crossed().networks[NetworkId(0x18)]
    foreign, good = few.apps[b"web"].machines
    machines = tuple(
        good._replace(id=b"m%04d" % n, address=IN_ACME[:12] + (n + 1).to_bytes(2, "big") + b"\0\2")
        if n != 20
        else foreign._replace(id=b"m0020")
        for n in range(5_000)
    )
    flying = {b"web": tuple(machine.address for machine in machines)}
    acme = replace(few, apps={b"web": App(b"web", machines)}, flycasts=flying)
    server = serving(Catalog({acme.id: acme}))
    for count in (1, 2):
        octets = ask(server, query(name, qtype, opt()), IN_ACME, stream=stream)
        assert octets is not None
        assert octets[3] & 15 == dns.rcode.SERVFAIL
        assert octets[6:8] == b"\0\0"
        assert server.metrics.leaks == count
    assert server.answers.entries == 0


@pytest.mark.parametrize(
    ("name", "qtype"),
    [
        ("_http._tcp.web.internal", SRV),
        ("top9999.nearest.of.web.internal", AAAA),
        ("all._instances.internal", TXT),
        ("_instances.web.internal", TXT),
    ],
)
def test_what_is_not_stored_is_checked_too(name: str, qtype: int) -> None:
    server = serving(crossed())
    octets = ask(server, query(name, qtype, opt()), ip("fdaa:0:18:a7b:7d:8:8:2"), stream=True)
    assert octets is not None
    assert octets[3] & 15 == dns.rcode.SERVFAIL
    assert server.metrics.leaks == 1


def test_a_foreign_address_that_only_the_other_type_has_is_held_back() -> None:
    """A query of A would store the AAAA records too."""
    server = serving(crossed())
    octets = ask(server, query("web.internal", A), IN_ACME)
    assert octets is not None
    assert octets[3] & 15 == dns.rcode.SERVFAIL
    assert server.metrics.leaks == 1
    assert server.answers.entries == 0


def test_an_item_with_ones_own_or_everyones_address_is_no_leak() -> None:
    server = serving(crossed(ip("fdaa::7")))
    octets = ask(server, query("_instances.web.internal", TXT), stream=True)
    assert octets is not None
    assert octets[3] & 15 == 0
    assert b"ip=fdaa::7," in octets
    assert server.metrics.leaks == 0


@pytest.mark.parametrize(
    ("name", "qtype"),
    [
        ("m2.vm.web.internal", AAAA),
        ("_dns.internal", AAAA),
        ("internal", 2),
        ("_api.internal", AAAA),
    ],
)
def test_addresses_of_ones_own_and_of_everyone_are_no_leak(name: str, qtype: int) -> None:
    server = serving(crossed())
    octets = ask(server, query(name, qtype))
    assert octets is not None
    assert dns.message.from_wire(octets).rcode() == 0
    assert server.metrics.leaks == 0
    assert server.answers.entries in (1, 2)  # A and AAAA


def test_no_leak_is_seen_in_an_honest_catalog() -> None:
    server = serving(demo())
    for source in (IN_ACME, IN_GLOBEX):
        for name in (
            "web",
            "top9.nearest.of.web",
            "_http._tcp.web",
            "resolver",
            "_dns._udp.resolver",
            "db",
            "_apps",
        ):
            for qtype in (AAAA, TXT, SRV, 255):
                ask(server, query(f"{name}.internal", qtype), source)
        ask(server, query("db.flycast"), source)
    assert server.metrics.leaks == server.metrics.errors == 0


# ── silence ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("port", [0, 7, 13, 19, 37])
def test_ports_that_answer_anything_are_not_answered(port: int) -> None:
    server = serving(demo())
    ask(server, query("web.internal"))
    assert server.handle(query("web.internal"), IN_ACME, SERVER, port) is None
    assert server.metrics.drops == {"port": 1}
    assert answered(server.metrics) == 1


@pytest.mark.parametrize("port", [1, 8, 53, 1024, 65_535])
def test_other_ports_are_answered(port: int) -> None:
    server = serving(demo())
    assert server.handle(query("web.internal"), IN_ACME, SERVER, port) is not None
    assert not server.metrics.drops


@pytest.mark.parametrize(
    ("octets", "reason"),
    [(b"", "runt"), (bytes(11), "runt"), (query("web.internal", flags=QR), "qr")],
)
def test_what_must_not_be_answered_is_counted(octets: bytes, reason: str) -> None:
    server = serving(demo())
    assert ask(server, octets) is None
    assert server.metrics.drops == {reason: 1}
    assert not responses(server.metrics)


# ── counting ──────────────────────────────────────────────────────────────────────────────────────


def test_a_repeated_answer_counts_like_a_decided_one() -> None:
    server = serving(demo())
    for _ in range(5):
        for name, qtype in (
            ("web.internal", AAAA),
            ("nosuch.internal", TXT),
            ("web.flycast", A),
            ("web.internal", 99),
        ):
            ask(server, query(name, qtype))
    assert responses(server.metrics) == {
        ("internal", 0, AAAA): 5,
        ("internal", 3, TXT): 5,
        ("flycast", 0, A): 5,
        ("internal", 0, 0): 5,
    }
    assert server.answers.hits == 16


def test_every_message_is_counted_as_a_reply_or_a_drop() -> None:
    rng, server = Random(7), serving(demo())
    names = (
        "web.internal db.internal nosuch.internal web.flycast example.com localhost a.test "
        "1.0.10.in-addr.arpa"
    ).split()
    total = 3_000
    for number in range(total):
        octets = bytearray(
            query(
                rng.choice(names),
                rng.choice((AAAA, TXT, 255, 99)),
                opt() if rng.random() < 0.5 else b"",
            )
        )
        if rng.random() < 0.5:
            octets[rng.randrange(len(octets))] = rng.randrange(256)
        source = rng.choice((IN_ACME, IN_GLOBEX, ip("fdaa:0:77::2"), ip("2001:db8::1")))
        ask(server, bytes(octets), source, stream=number % 2 == 0)
    metrics = server.metrics
    assert answered(metrics) + sum(metrics.drops.values()) == total
    assert metrics.errors == metrics.leaks == 0
    families = {family.name: family for family in metrics.collect()}
    for family in ("internal_dns_responses", "internal_dns_questions"):
        assert sum(sample.value for sample in families[family].samples) == answered(metrics)


@pytest.mark.parametrize(
    "octets",
    [
        header(RD, qd=0, ar=1) + opt(option(COOKIE, bytes(8))),
        header(RD, qd=0),
        header(RD, qd=1) + b"\3web",
        header(RD, qd=1) + b"\xc0\x0c\0\x1c\0\1",
    ],
)
def test_a_message_without_a_whole_question_has_no_type_in_the_counts(octets: bytes) -> None:
    server = serving(demo())
    assert ask(server, octets) is not None
    assert {qtype for _, _, qtype in responses(server.metrics)} == {0}


# ── the catalog, and what is not ours ─────────────────────────────────────────────────────────────


def test_before_the_first_catalog_our_names_fail_with_the_reason_and_others_are_forwarded() -> None:
    server = serving()
    octets = ask(server, query("web.internal", AAAA, opt()))
    assert octets is not None
    reply = dns.message.from_wire(octets)
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert options(reply)[15][:2] == b"\0\x0e"
    assert ask(server, query("example.com")) is not None
    assert server.answers.entries == 0
    server.use(demo())
    after = ask(server, query("web.internal", AAAA, opt()))
    assert after is not None
    assert len(records(dns.message.from_wire(after), AAAA)) == 5


def test_a_new_catalog_is_answered_from_at_once() -> None:
    server = serving(demo())
    for _ in range(2):
        first = ask(server, query("web.internal"))
    server.use(Catalog({NetworkId(0x18): Network(NetworkId(0x18), b"\xfd\xaa\0\0\0\x18", b"acme")}))
    second = ask(server, query("web.internal"))
    assert first is not None
    assert second is not None
    assert (first[3] & 15, second[3] & 15) == (0, 3)


def test_a_forwarded_reply_is_relayed_and_counted() -> None:
    server = serving(demo())
    octets = ask(server, query("example.com", A))
    assert octets == b"\x12\x34" + header(QR | 3)[2:]
    assert responses(server.metrics) == {("forward", 3, A): 1}
    forwarder = server.forwarder
    assert isinstance(forwarder, Upstreams)
    assert [(f.query.labels, f.network) for f in forwarder.asked] == [((b"example", b"com"), 0x18)]


def test_names_of_ours_are_never_forwarded() -> None:
    server = serving(demo())
    for name in (
        "web.internal nosuch.internal x.flycast internal 3.a.a.d.f.ip6.arpa localhost x.test "
        "1.10.in-addr.arpa"
    ).split():
        for qtype in (A, AAAA, TXT, 99):
            for source in (IN_ACME, ip("fdaa:0:77::2"), ip("2001:db8::1")):
                ask(server, query(name, qtype), source)
    starting = serving()
    ask(starting, query("web.internal", TXT))
    for forwarder in (server.forwarder, starting.forwarder):
        assert isinstance(forwarder, Upstreams)
        assert not forwarder.asked


def test_a_truncated_reply_is_repeated_as_a_whole_one_is() -> None:
    server = serving(demo())
    asker = ip("fdaa:0:1a:a7b:7e:1:1:2")
    for _ in range(3):
        octets = ask(server, query("render.internal"), asker)
        assert octets is not None
        assert octets[2] & 2
        whole = ask(server, query("render.internal"), asker, stream=True)
        assert whole is not None
        assert len(records(dns.message.from_wire(whole), AAAA)) == 60
    assert server.answers.hits == 5
    assert responses(server.metrics) == {("internal", 0, AAAA): 6}


# ── who is refused ────────────────────────────────────────────────────────────────────────────────


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("refused")]


def test_an_outsider_is_one_log_line_with_what_would_map_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 1_000.0
    server = serving(demo(), clock=lambda: now)
    for source in ("::ffff:192.0.2.9", "2001:db8::1", "2001:db8::1", "2001:db8::2"):
        ask(server, query("web.internal"), ip(source))
    first = (
        "refused a query from 192.0.2.9: no rule maps this source to a network; to serve it: "
        "--map-source 192.0.2.9/32=NETWORK"
    )
    assert refusals(caplog) == [first]
    now += INTERVAL
    ask(server, query("web.internal"), ip("2001:db8::3"))
    assert refusals(caplog)[1:] == [
        "refused a query from 2001:db8::3: no rule maps this source to a network; to serve it: "
        "--map-source 2001:db8::3/128=NETWORK (3 more were refused since the last such line)"
    ]


def test_a_source_without_a_network_is_told_without_a_map(caplog: pytest.LogCaptureFixture) -> None:
    server = serving(demo())
    ask(server, query("web.internal"), ip("fdaa::99"))
    assert refusals(caplog) == [
        "refused a query from fdaa::99: the source is in network 0, which is reserved"
    ]


@pytest.mark.parametrize(
    ("name", "source"),
    [("localhost", "2001:db8::1"), ("example.com", "fdaa:0:18::9"), ("web.internal", "::1")],
)
def test_neither_the_watchdog_nor_other_refusals_are_logged(
    name: str, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Off: what `forwarding` refuses. Mapped: who is no outsider."""
    server = serving(
        demo(), forwarding=False, maps=(SourceMap.of(ip_network("::1/128"), NetworkId(0x18)),)
    )
    ask(server, query(name), ip(source))
    assert not refusals(caplog)
