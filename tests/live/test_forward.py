"""Names that are not ours, with an upstream that does as each test says."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from tests.live.conftest import catalog_file
from tests.live.hosts import Served, addresses, ask, client_socket, outcome, query, serving
from tests.live.upstream import Asked, Script, Upstream, answering, silent

pytestmark = pytest.mark.live

GOOD = "192.0.2.80"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalog_file(tmp_path_factory.mktemp("forward") / "catalog.db", "acme.sql")


@contextmanager
def forwarding(
    catalog: Path, *scripts: Script, flags: Iterable[str] = ()
) -> Iterator[tuple[Served, list[Upstream]]]:
    """A server with one upstream for each of *scripts*."""
    with ExitStack() as stack:
        upstreams = [stack.enter_context(Upstream(script)) for script in scripts]
        urls = " ".join(upstream.url for upstream in upstreams)
        yield stack.enter_context(serving(catalog, *flags, upstream=urls)), upstreams


@pytest.fixture(scope="module")
def good(catalog: Path) -> Iterator[tuple[Served, Upstream]]:
    """A server with an upstream that answers."""
    with forwarding(catalog, answering(f"@ 300 IN A {GOOD}")) as (server, upstreams):
        yield server, upstreams[0]


def timed(
    server: Served, name: str = "example.com", rdtype: str = "A"
) -> tuple[str, list[str], float]:
    """Ask as glibc does, which waits 5 s: what came, and after how many seconds."""
    begin = time.monotonic()
    reply = ask(server, query(name, rdtype))
    return outcome(reply), addresses(reply), time.monotonic() - begin


# ── good upstreams ────────────────────────────────────────────────────────────────────────────────


def test_an_answer_is_relayed(good: tuple[Served, Upstream]) -> None:
    server, upstream = good
    reply = ask(server, query("WWW.exAMPle.com", "A"))
    assert (outcome(reply), addresses(reply)) == ("NOERROR", [GOOD])
    assert dns.flags.to_text(reply.flags) == "QR RD RA"
    assert reply.question[0].name.to_text() == "WWW.exAMPle.com."
    assert reply.answer[0].name.to_text() == "WWW.exAMPle.com."
    assert upstream.asked[-1].name == "www.example.com."


def test_each_attempt_has_its_own_id_and_port(catalog: Path) -> None:
    with (
        Upstream(answering(f"@ 60 IN A {GOOD}")) as upstream,
        serving(catalog, "--upstream-sockets", "fresh", upstream=upstream.url) as server,
    ):
        for number in range(200):
            ask(server, query(f"{number}.example.net", "A", id=7))
    asked = upstream.asked
    assert len(asked) == 200
    # Of 65,536 ids two are rarely the same among 200, of 28,232 ports one or two.
    assert len({each.octets[:2] for each in asked}) > 190
    assert len({each.port for each in asked}) > 185


def test_an_answer_is_relayed_over_tcp_too(good: tuple[Served, Upstream]) -> None:
    server, _ = good
    with client_socket(socket.SOCK_STREAM) as sock:
        sock.connect(("::1", server.port))
        octets = query("tcp.example.com", "A").to_wire()
        sock.sendall(len(octets).to_bytes(2, "big") + octets)
        assert addresses(dns.message.from_wire(sock.recv(65_535)[2:])) == [GOOD]


@pytest.mark.parametrize("cd", [False, True])
@pytest.mark.parametrize("do", [False, True])
def test_do_and_cd_pass(good: tuple[Served, Upstream], do: bool, cd: bool) -> None:
    server, upstream = good
    asked = query(f"{do}-{cd}.example.com", "A", want_dnssec=do)
    asked.flags |= dns.flags.CD * cd
    reply = ask(server, asked)
    said = upstream.asked[-1].message
    assert bool(said.ednsflags & dns.flags.DO) == bool(reply.ednsflags & dns.flags.DO) == do
    assert bool(said.flags & dns.flags.CD) == bool(reply.flags & dns.flags.CD) == cd
    assert said.flags & dns.flags.RD


def test_ad_passes_back(catalog: Path) -> None:
    with forwarding(
        catalog, lambda asked: [asked.reply(f"@ 5 IN A {GOOD}", flags=dns.flags.AD)]
    ) as (server, _):
        asked = query("example.com", "A", want_dnssec=True)
        assert ask(server, asked).flags & dns.flags.AD


def test_no_option_of_a_client_is_copied(good: tuple[Served, Upstream]) -> None:
    server, upstream = good
    contents = {
        3: b"",
        10: b"\1" * 8,
        12: bytes(20),
        65_001: b"globex",
    }  # NSID, COOKIE, padding, and dev mode's own
    options: list[dns.edns.Option] = [dns.edns.ECSOption("192.0.2.1", 24)]
    options += [
        dns.edns.GenericOption(dns.edns.OptionType(code), value) for code, value in contents.items()
    ]
    reply = ask(server, query("options.example.com", "A", options=options))
    assert addresses(reply) == [GOOD]
    said = upstream.asked[-1].message
    assert not said.options
    assert said.payload <= 1_232
    with_cookie = [option for option in reply.options if option.otype == 10]
    assert len(with_cookie) == 1  # ours, made for this client


@pytest.mark.parametrize("rdtype", ["TXT", "HTTPS", "TYPE65399", "NS"])
def test_types_pass_through(catalog: Path, rdtype: str) -> None:
    rdata = {
        "TXT": '"a" "b"',
        "HTTPS": "1 . alpn=h2",
        "TYPE65399": r"\# 3 010203",
        "NS": "ns.example.",
    }[rdtype]
    with forwarding(catalog, answering(f"@ 60 IN {rdtype} {rdata}")) as (server, _):
        reply = ask(server, query("example.com", rdtype))
        assert outcome(reply) == "NOERROR"
        assert reply.answer == [dns.rrset.from_text("example.com.", 60, "IN", rdtype, rdata)]


def test_nxdomain_with_and_without_soa(catalog: Path) -> None:
    soa = "example. 300 IN SOA ns.example. root.example. 1 2 3 4 60"

    def script(asked: Asked) -> Iterable[bytes]:
        yield asked.reply(rcode=3, authority=[soa] if asked.name.startswith("with.") else [])

    with forwarding(catalog, script) as (server, _):
        assert [
            rrset.name.to_text() for rrset in ask(server, query("with.example", "A")).authority
        ] == ["example."]
        assert outcome(ask(server, query("without.example", "A"))) == "NXDOMAIN"


def test_a_chain_of_cnames_is_relayed_in_order(catalog: Path) -> None:
    chain = [
        "@ 60 IN CNAME a.example.",
        "a.example. 60 IN CNAME b.example.",
        f"b.example. 60 IN A {GOOD}",
    ]
    with forwarding(catalog, answering(*chain)) as (server, _):
        reply = ask(server, query("www.example", "A"))
        assert [rrset.name.to_text() for rrset in reply.answer] == [
            "www.example.",
            "a.example.",
            "b.example.",
        ]


def test_a_reply_too_large_for_the_client_is_tc(catalog: Path) -> None:
    many = [f"@ 60 IN A 192.0.2.{n}" for n in range(60)]
    with forwarding(catalog, answering(*many)) as (server, _):
        reply = ask(server, query("many.example", "A", use_edns=-1))
        assert reply.flags & dns.flags.TC
        assert len(reply.to_wire()) <= 512
        with client_socket(socket.SOCK_STREAM) as sock:
            sock.connect(("::1", server.port))
            octets = query("many.example", "A", use_edns=-1).to_wire()
            sock.sendall(len(octets).to_bytes(2, "big") + octets)
            received = sock.recv(65_535)
        assert len(addresses(dns.message.from_wire(received[2:]))) == 60


# ── replies that are not to be believed ───────────────────────────────────────────────────────────


def other_id(asked: Asked) -> bytes:
    return bytes([asked.octets[0] ^ 0xFF]) + asked.reply("@ 60 IN A 203.0.113.66")[1:]


def other_question(asked: Asked) -> bytes:
    forged = Asked(
        query("evil.example", "A", id=int.from_bytes(asked.octets[:2], "big")).to_wire(), False
    )
    return forged.reply("@ 60 IN A 203.0.113.66")


def other_type(asked: Asked) -> bytes:
    forged = query(asked.name, "AAAA", id=int.from_bytes(asked.octets[:2], "big"))
    return dns.message.make_response(forged).to_wire()


def a_query(asked: Asked) -> bytes:
    return asked.octets


def short(asked: Asked) -> bytes:
    return asked.octets[:2] + b"\x81\x80"


def garbage(asked: Asked) -> bytes:
    return asked.octets[:2] + b"\x81\x80" + b"\xff" * 300


def cut_off(asked: Asked) -> bytes:
    return asked.reply(f"@ 60 IN A {GOOD}")[:-20]


@pytest.mark.parametrize(
    "forged",
    [other_id, other_question, other_type, a_query, short, garbage, cut_off],
    ids=lambda f: str(f.__name__),
)
def test_a_forged_packet_before_the_reply_changes_nothing(
    catalog: Path, forged: Callable[[Asked], bytes]
) -> None:
    def script(asked: Asked) -> Iterable[bytes | float]:
        if not asked.stream:
            yield forged(asked)
            yield forged(asked)
            yield 0.05
        yield asked.reply(f"@ 60 IN A {GOOD}")

    with forwarding(catalog, script) as (server, _):
        what, found, took = timed(server)
        assert (what, found) == ("NOERROR", [GOOD])
        assert took < 3


@pytest.mark.parametrize(
    "records",
    [
        ["@ 60 IN CNAME web.internal.", "web.internal. 60 IN A 192.0.2.1"],
        ["@ 60 IN DNAME web.internal."],
        ["@ 60 IN AAAA 2001:db8::1", "x.example. 60 IN CNAME web.internal."],
        ["@ 60 IN AAAA fdaa:0:18:a7b:7d:f066:b83b:2"],
        ["@ 60 IN AAAA fdaa::3"],
        ["@ 60 IN CNAME a.example.", "a.example. 60 IN AAAA fdaa:0:19::3"],
        ["@ 60 IN AAAA 2001:db8::1", "web.internal. 60 IN AAAA 2001:db8::1"],
    ],
    ids=" / ".join,
)
def test_an_upstream_does_not_speak_for_our_names_and_addresses(
    catalog: Path, records: list[str]
) -> None:
    with forwarding(catalog, answering(*records)) as (server, upstreams):
        what, found, took = timed(server, rdtype="AAAA")
        assert (what, found) == ("SERVFAIL 15", [])
        assert took < 1
        assert upstreams[0].asked
        # Nor is it remembered.
        assert len(addresses(ask(server, "web.internal"))) == 5


# ── upstreams that fail ───────────────────────────────────────────────────────────────────────────


def test_a_truncated_udp_reply_is_queried_again_over_tcp(catalog: Path) -> None:
    def script(asked: Asked) -> Iterable[bytes]:
        yield asked.reply(f"@ 60 IN A {GOOD}") if asked.stream else asked.reply(flags=dns.flags.TC)

    with forwarding(catalog, script) as (server, upstreams):
        assert timed(server)[:2] == ("NOERROR", [GOOD])
        assert [asked.stream for asked in upstreams[0].asked] == [False, True]


def test_a_tcp_upstream_is_queried_over_tcp_only(catalog: Path) -> None:
    with (
        Upstream(answering(f"@ 60 IN A {GOOD}")) as upstream,
        serving(catalog, upstream=upstream.tcp_url) as server,
    ):
        assert timed(server)[:2] == ("NOERROR", [GOOD])
        assert [asked.stream for asked in upstream.asked] == [True]


@pytest.mark.parametrize("rcode", [1, 2, 4, 5], ids=["FORMERR", "SERVFAIL", "NOTIMP", "REFUSED"])
def test_the_next_upstream_is_queried_when_one_fails(catalog: Path, rcode: int) -> None:
    with forwarding(catalog, answering(rcode=rcode), answering(f"@ 60 IN A {GOOD}")) as (
        server,
        upstreams,
    ):
        what, found, took = timed(server)
        assert (what, found) == ("NOERROR", [GOOD])
        assert took < 1
        assert [len(upstream.asked) for upstream in upstreams] == [1, 1]


def test_the_next_upstream_is_queried_when_one_is_silent(catalog: Path) -> None:
    with forwarding(catalog, silent, answering(f"@ 60 IN A {GOOD}")) as (server, _):
        what, found, took = timed(server)
        assert (what, found) == ("NOERROR", [GOOD])
        assert took <= 1


def test_servfail_in_time_when_every_upstream_is_silent(catalog: Path) -> None:
    with forwarding(catalog, silent, silent) as (server, upstreams):
        what, _, took = timed(server)
        assert what == "SERVFAIL 22"
        assert took <= 4.5
        assert sum(len(upstream.asked) for upstream in upstreams) <= 4
        # Our own names do not notice.
        begin = time.monotonic()
        assert len(addresses(ask(server, "web.internal"))) == 5
        assert time.monotonic() - begin < 0.5


def test_servfail_at_once_when_nobody_listens_there(catalog: Path) -> None:
    with serving(catalog, upstream="udp://[::1]:9") as server:
        what, _, took = timed(server)
        assert what == "SERVFAIL 22"
        assert took <= 4.5


def test_servfail_when_every_upstream_fails(catalog: Path) -> None:
    with forwarding(catalog, answering(rcode=2), answering(rcode=5)) as (server, upstreams):
        what, _, took = timed(server)
        assert what == "SERVFAIL 23"
        assert took <= 4.5
        assert sum(len(upstream.asked) for upstream in upstreams) <= 4


def test_a_query_costs_four_packets_at_most(catalog: Path) -> None:
    def always_truncated(asked: Asked) -> Iterable[bytes]:
        yield asked.reply(flags=dns.flags.TC)

    with forwarding(catalog, always_truncated, always_truncated, silent) as (server, upstreams):
        timed(server)
        assert sum(len(upstream.asked) for upstream in upstreams) <= 4


# ── what is never forwarded ───────────────────────────────────────────────────────────────────────

OURS = [
    ("web.internal", "AAAA"), ("web.internal", "A"), ("nobody.internal", "AAAA"),
    ("internal", "NS"),
    ("internal", "ANY"), ("INTERNAL", "SOA"), ("a.b.c.d.internal", "TXT"),
    ("x._tcp.web.internal", "SRV"),
    (r"my-app\.internal.internal", "AAAA"), ("web.flycast", "AAAA"), ("flycast", "A"),
    ("nobody.FlyCast", "MX"),
    ("3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa", "PTR"),
    ("a.a.d.f.ip6.arpa", "SOA"),
    ("localhost", "A"), ("www.localhost", "AAAA"), ("localhost", "MX"),
    ("home.arpa", "A"), ("printer.home.arpa", "AAAA"), ("x.test", "A"), ("x.invalid", "A"),
    ("x.onion", "A"),
    ("1.0.0.10.in-addr.arpa", "PTR"), ("1.1.168.192.in-addr.arpa", "PTR"),
    ("1.0.0.127.in-addr.arpa", "PTR"),
    ("0.0.0.0.d.f.ip6.arpa", "PTR"), ("0.8.e.f.ip6.arpa", "PTR"),
    ("fly-local-6pn", "A"), ("fly-local-6pn", "AAAA"), ("db", "AAAA"), ("com", "A"),
]  # fmt: skip


def test_our_names_never_leave(good: tuple[Served, Upstream]) -> None:
    server, upstream = good
    before = len(upstream.asked)
    for name, rdtype in OURS:
        for options in ({}, {"use_edns": -1}, {"flags": 0}, {"flags": dns.flags.RD | dns.flags.CD}):
            ask(server, query(name, rdtype, **options))
    assert [asked.message.question[0].to_text() for asked in upstream.asked[before:]] == []


def test_our_names_never_leave_before_there_is_a_catalog(tmp_path: Path) -> None:
    with forwarding(tmp_path / "missing.db", answering(f"@ 60 IN A {GOOD}")) as (server, upstreams):
        for name, rdtype in OURS:
            reply = ask(server, query(name, rdtype))
            if ".internal" in name or ".flycast" in name.lower():
                assert outcome(reply) == "SERVFAIL 14"
        assert [asked.name for asked in upstreams[0].asked] == []
        # Everything else is as usual.
        assert timed(server)[:2] == ("NOERROR", [GOOD])


@pytest.mark.parametrize(
    ("name", "rdtype"), [(".", "NS"), ("com", "NS"), ("com", "DS"), ("internal.example", "A")]
)
def test_names_that_only_look_internal_are_forwarded(
    good: tuple[Served, Upstream], name: str, rdtype: str
) -> None:
    server, upstream = good
    ask(server, query(name, rdtype))
    said = upstream.asked[-1].message.question[0]
    assert (said.name.to_text().rstrip(".").lower(), dns.rdatatype.to_text(said.rdtype)) == (
        name.rstrip("."),
        rdtype,
    )


def test_without_rd_nothing_is_forwarded(good: tuple[Served, Upstream]) -> None:
    server, upstream = good
    before = len(upstream.asked)
    assert outcome(ask(server, query("www.example.com", "A", flags=0))).startswith("REFUSED")
    assert len(upstream.asked) == before


def test_without_forwarding_other_names_are_refused(catalog: Path) -> None:
    with serving(catalog, upstream="none") as server:
        reply = ask(server, query("example.com", "A"))
        assert outcome(reply) == "REFUSED 20"
        assert not reply.flags & dns.flags.RA
        assert len(addresses(ask(server, "web.internal"))) == 5


def test_a_suffix_may_have_its_own_upstream(catalog: Path, tmp_path: Path) -> None:
    with Upstream(answering("@ 60 IN A 198.51.100.1"), overridden=("home.arpa",)) as corporate:
        config = tmp_path / "config.toml"
        config.write_text(
            f'[forward]\n"corp.example" = ["{corporate.url}"]\n"home.arpa" = ["{corporate.url}"]\n'
        )
        with forwarding(
            catalog, answering(f"@ 60 IN A {GOOD}"), flags=["--config", str(config)]
        ) as (
            server,
            upstreams,
        ):
            for name in (
                "corp.example",
                "www.corp.example",
                "WWW.Corp.Example",
                "printer.home.arpa",
            ):
                assert timed(server, name)[:2] == ("NOERROR", ["198.51.100.1"])
            for name in ("example", "xcorp.example", "corp.example.com"):
                if "." in name:
                    assert timed(server, name)[:2] == ("NOERROR", [GOOD])
            assert len(upstreams[0].asked) == 2


def test_waiting_queries_do_not_delay_others(catalog: Path) -> None:
    """Many names of an upstream that is silent, and meanwhile our own."""
    with forwarding(catalog, silent) as (server, _), client_socket(socket.SOCK_DGRAM) as sock:
        sock.connect(("::1", server.port))
        for number in range(200):
            sock.send(query(f"{number}.example.com", "A").to_wire())
        slowest = 0.0
        for _ in range(100):
            begin = time.monotonic()
            assert len(addresses(ask(server, "web.internal"))) == 5
            slowest = max(slowest, time.monotonic() - begin)
        assert slowest < 1
        sock.settimeout(6)
        codes = {outcome(dns.message.from_wire(sock.recv(65_535))) for _ in range(200)}
        assert codes == {"SERVFAIL 22"}
