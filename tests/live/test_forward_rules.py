"""Who may tell what: suffixes with upstreams of their own, the prefix's addresses, the cache and
other clients."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import pytest

from tests.live.conftest import catalog_file
from tests.live.forwarding import GOOD, ask_all, ask_by_tcp
from tests.live.hosts import addresses, ask, outcome, query, serving
from tests.live.upstream import Asked, Said, Upstream, answering

pytestmark = pytest.mark.live

OURS = "fdaa:0:18:a7b:7d:2:1:2"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalog_file(tmp_path_factory.mktemp("rules") / "catalog.db", "acme.sql")


def say(asked: Asked) -> Iterable[Said]:
    """An address of the prefix, in several ways, by the first label of the name."""
    yield {
        "cname": lambda: asked.reply(
            "@ 60 IN CNAME www.corp.example.", f"www.corp.example. 60 IN AAAA {OURS}"
        ),
        "out": lambda: asked.reply(
            "@ 60 IN CNAME www.other.example.", f"www.other.example. 60 IN AAAA {OURS}"
        ),
        "hint": lambda: asked.reply(f"@ 60 IN HTTPS 1 . ipv6hint={OURS}"),
        "leads": lambda: asked.reply("@ 60 IN CNAME web.internal."),
        "owns": lambda: asked.reply(
            "@ 60 IN CNAME web.internal.", "web.internal. 60 IN AAAA 2001:db8::1"
        ),
        "flycast": lambda: asked.reply("@ 60 IN SRV 0 0 1 web.flycast."),
    }.get(asked.first, lambda: asked.reply(f"@ 60 IN AAAA {OURS}"))()


def test_a_rule_may_allow_addresses_of_the_prefix_from_its_own_upstream(
    catalog: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        default, corp, lan = (
            stack.enter_context(Upstream(say, overridden=("home.arpa",))) for _ in range(3)
        )
        config = tmp_path / "rules.toml"
        config.write_text(
            f'[forward]\n"corp.example" = {{ upstreams = ["{corp.url}"], allow_prefix = true }}\n'
            f'"home.arpa" = ["{lan.url}"]\n"strict.corp.example" = ["{lan.url}"]\n'
        )
        server = stack.enter_context(
            serving(catalog, "--config", str(config), upstream=default.url)
        )
        allowed = [
            ("www.corp.example", "AAAA"),
            ("cname.corp.example", "AAAA"),
            ("corp.example", "AAAA"),
        ]
        refused = [
            ("www.example", "AAAA"), ("cname.example", "AAAA"), ("hint.example", "HTTPS"),
            ("www.xcorp.example", "AAAA"),
            ("www.corp.example.net", "AAAA"), ("printer.home.arpa", "AAAA"),
            ("x.strict.corp.example", "AAAA"),
            # Our names are ours, whatever an upstream may tell.
            ("owns.corp.example", "AAAA"), ("flycast.corp.example", "SRV"),
        ]  # fmt: skip
        for _ in range(3):  # asked, cached, repeated
            got = ask_all(server, [query(*question) for question in allowed])
            assert [(each.outcome, each.addresses) for each in got] == [("NOERROR", [OURS])] * len(
                allowed
            )
            got = ask_all(server, [query(*question) for question in refused])
            assert [each.outcome for each in got] == ["SERVFAIL 15"] * len(refused)
            # A chain that leads to a name of ours is completed here.
            assert len(addresses(ask(server, query("leads.corp.example", "AAAA")))) == 5
            (hint,) = ask_all(server, [query("hint.corp.example", "HTTPS")])
            assert hint.reply
            assert OURS in hint.reply.answer[0].to_text()
        assert {asked.name for asked in corp.asked} == {
            "www.corp.example.", "cname.corp.example.", "corp.example.", "hint.corp.example.",
            "leads.corp.example.",
            "owns.corp.example.", "flycast.corp.example.",
        }  # fmt: skip
        assert {asked.name for asked in lan.asked} == {
            "printer.home.arpa.",
            "x.strict.corp.example.",
        }
        assert not [asked.name for asked in default.asked if asked.name.endswith(".corp.example.")]


def test_another_prefix_is_watched_instead(catalog: Path) -> None:
    def script(asked: Asked) -> Iterable[Said]:
        yield asked.reply(f"@ 60 IN AAAA {'fdab' if asked.first == 'ours' else 'fdaa'}:0:18::1")

    with Upstream(script) as upstream, serving(
        catalog, "--prefix", "fdab::/16", "--map-source", "::1/128=fdab:0:18::/48",
        upstream=upstream.url,
        map_loopback=False,
    ) as server:  # fmt: skip
        assert outcome(ask(server, "ours.example")) == "SERVFAIL 15"
        assert addresses(ask(server, "theirs.example")) == ["fdaa:0:18::1"]


# ── a repeated answer is each client's own ────────────────────────────────────────────────────────


def test_a_repeated_answer_is_made_for_each_client(catalog: Path) -> None:
    many = [f"@ 300 IN A 198.18.0.{n}" for n in range(60)]
    flags = (
        "--listen",
        "127.0.0.1:0",
        "--nsid",
        "here",
        "--listen",
        "127.0.0.2:0",
        "--map-source",
        "127.0.0.2/32=fdaa:0:19::/48",
    )
    with (
        Upstream(lambda asked: [asked.reply(*many, flags=dns.flags.AD)]) as upstream,
        serving(catalog, *flags, upstream=upstream.url) as server,
    ):
        outside, other = (
            (host, int(port))
            for host, port in re.findall(r"(127\.0\.0\.[12]):(\d+)", server.ready.split("\n")[0])
        )
        for rotation in range(3):
            whole = ask(server, query("www.example", "A", payload=4_096))
            assert len(addresses(whole)) == 60
            assert not whole.flags & (dns.flags.AA | dns.flags.TC | dns.flags.AD)
            short = ask(server, query("www.example", "A", use_edns=-1))
            assert short.flags & dns.flags.TC
            assert len(short.to_wire()) <= 512
            assert len(ask_by_tcp(server, query("www.example", "A", use_edns=-1)).addresses) == 60
            spelled = ask(server, query("wWw.EXample", "A", payload=4_096))
            assert spelled.question[0].name.to_text() == "wWw.EXample."
            assert len(addresses(spelled)) == 60
            with_ad = query("www.example", "A", payload=4_096)
            with_ad.flags |= dns.flags.AD
            assert ask(server, with_ad).flags & dns.flags.AD
            contents = {10: bytes(8), 3: b""}  # COOKIE, NSID
            options = [
                dns.edns.GenericOption(dns.edns.OptionType(code), data)
                for code, data in contents.items()
            ]
            found = {
                int(o.otype)
                for o in ask(server, query("www.example", "A", options=options)).options
            }
            assert found == {10, 3}
            refused = ask(server, query("www.example", "A", flags=0))
            assert outcome(refused).startswith("REFUSED")
            assert not refused.answer
            # Another network shares what is forwarded, an outsider nothing.
            (shared,) = ask_all(server, [query("www.example", "A", payload=4_096)], at=other)
            assert len(shared.addresses) == 60
            (turned_away,) = ask_all(server, [query("www.example", "A", payload=4_096)], at=outside)
            assert turned_away.outcome.startswith("REFUSED")
            assert not turned_away.addresses
            assert len(upstream.asked) == 1, rotation
        ttls = ask(server, query("www.example", "A", payload=4_096)).answer[0].ttl
        assert 0 < ttls <= 300


# ── noise ─────────────────────────────────────────────────────────────────────────────────────────


def mutated(octets: bytes, draw: random.Random) -> bytes:
    """A reply with some octets changed, taken out, put in or cut off; id and question are mostly
    left alone."""
    found = bytearray(octets)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        at = draw.randrange(2 if draw.random() < 0.1 else 12, max(13, len(found)))
        match draw.randrange(4):
            case 0:
                found[at : at + 1] = draw.randbytes(1)
            case 1:
                found[at : at + draw.randrange(9)] = b""
            case 2:
                found[at:at] = draw.choice((b"\xc0\x0c", b"\xff\xff", b"\0", draw.randbytes(4)))
            case _:
                found[6:12] = draw.randbytes(6) if draw.random() < 0.3 else found[6:12]
                found = (
                    found[: draw.randrange(12, len(found) + 1)] if draw.random() < 0.3 else found
                )
        if len(found) < 13:
            break
    return bytes(found)


def test_noise_from_an_upstream_ends_in_an_answer_or_a_failure_in_time(catalog: Path) -> None:
    """900 replies with octets changed, by UDP, then by TCP: what comes through is well formed and
    about the name."""
    said = (
        "@ 60 IN CNAME a.noise.example.",
        "a.noise.example. 60 IN CNAME b.noise.example.",
        f"b.noise.example. 60 IN A {GOOD}",
    )
    soa = "noise.example. 60 IN SOA ns.noise.example. root.noise.example. 1 2 3 4 5"

    def script(asked: Asked) -> Iterable[Said]:
        if asked.name == ".":  # a probe
            yield asked.denied()
            return
        odd = int(asked.first.removeprefix("x")) % 3
        reply = (
            asked.reply(rcode=3, authority=[soa])
            if odd == 2
            else asked.reply(*said, authority=[soa] * odd)
        )
        # By the name, so that the order in which queries arrive does not matter.
        yield mutated(reply, random.Random(asked.first))

    with Upstream(script) as upstream, serving(catalog, upstream=upstream.url) as server:
        names = [f"x{n}.noise.example" for n in range(900)]
        asked = [query(name, "A", want_dnssec=bool(n % 2)) for n, name in enumerate(names)]
        found = list(zip(names, ask_all(server, asked, timeout=8), strict=True))
        kinds = {got.outcome.split()[0] for _, got in found}
        assert "silence" not in kinds
        assert {"NOERROR", "SERVFAIL"} <= kinds
        assert max(got.seconds for _, got in found) < 6
        for name, got in found:
            assert got.reply
            if got.reply.answer and got.reply.answer[0].rdtype != dns.rdatatype.DNAME:
                assert got.reply.answer[0].name.to_text().lower() == f"{name}."
        # It is all there still.
        assert len(addresses(ask(server, "web.internal"))) == 5
        upstream.script = answering(f"@ 60 IN A {GOOD}")
        assert addresses(ask(server, query("good.example", "A"))) == [GOOD]
