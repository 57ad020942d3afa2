"""What is remembered of upstreams' replies, for how long, and who shares it. Lifetimes are a second
or two."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import pytest

from tests.live.conftest import catalog_file
from tests.live.forwarding import GOOD, Got, ask_all
from tests.live.hosts import Served, addresses, ask, client_socket, outcome, query, serving
from tests.live.upstream import Asked, Said, Upstream, after, answering

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalog_file(tmp_path_factory.mktemp("cache") / "catalog.db", "acme.sql")


def soa(ttl: int, minimum: int) -> str:
    return f"cache.example. {ttl} IN SOA ns.cache.example. root.cache.example. 1 2 3 4 {minimum}"


# Names by their first label: what the upstream says each time. `@` is the name asked.
SAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    "long": ((f"@ 300 IN A {GOOD}",), (), 0),
    "short": ((f"@ 1 IN A {GOOD}",), (), 0),
    "zero": ((f"@ 0 IN A {GOOD}",), (), 0),
    # The chain lives as long as its shortest link.
    "shortest-last": (
        ("@ 300 IN CNAME t1.cache.example.", f"t1.cache.example. 1 IN A {GOOD}"),
        (),
        0,
    ),
    "shortest-first": (
        ("@ 1 IN CNAME t2.cache.example.", f"t2.cache.example. 300 IN A {GOOD}"),
        (),
        0,
    ),
    "nxdomain": ((), (soa(300, 300),), 3),
    "nxdomain-short": ((), (soa(300, 1),), 3),
    "nxdomain-ttl": ((), (soa(1, 300),), 3),
    "nodata": ((), (soa(300, 300),), 0),
    "nodata-short": ((), (soa(300, 1),), 0),
    "nodata-ttl": ((), (soa(1, 300),), 0),
    "no-soa": ((), (), 3),
    "chain-denied": (("@ 300 IN CNAME gone.cache.example.",), (soa(300, 1),), 3),
    "week": ((f"@ 604800 IN A {GOOD}",), (), 0),
    "denied-week": ((), (soa(604800, 604800),), 3),
}
KEPT = ("long", "nxdomain", "nodata", "week", "denied-week")
AGAIN = ("short", "zero", "shortest-last", "shortest-first", "nxdomain-short", "nxdomain-ttl",
         "nodata-short", "nodata-ttl", "chain-denied")  # fmt: skip


def scripted(asked: Asked) -> Iterable[Said]:
    answer, authority, rcode = SAYS[asked.first]
    yield asked.reply(*answer, authority=authority, rcode=rcode)


@dataclass(slots=True)
class Story:
    """The same questions at some times after the start: replies, and packets to the upstream until
    then."""

    times: list[float] = field(default_factory=list)
    replies: list[dict[str, Got]] = field(default_factory=list)
    packets: list[Counter[str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def story(catalog: Path) -> Iterator[Story]:
    """Ask everything at 0, 0.1 and 2.2 s."""
    told = Story()
    with Upstream(scripted) as upstream, serving(catalog, upstream=upstream.url) as server:
        begin = time.monotonic()
        for at, names in ((0, list(SAYS)), (0.1, list(SAYS)), (2.2, list(SAYS))):
            time.sleep(max(0, begin + at - time.monotonic()))
            got = ask_all(server, [query(f"{name}.cache.example", "A") for name in names])
            told.times.append(time.monotonic() - begin)
            told.replies.append(dict(zip(names, got, strict=True)))
            told.packets.append(Counter(asked.first for asked in upstream.asked))
        yield told


@pytest.mark.parametrize("name", sorted(set(SAYS) - {"zero"}))
def test_a_reply_is_repeated_from_the_cache(name: str, story: Story) -> None:
    if story.times[1] < 0.9:  # before the shortest lifetime is over: a machine may be that busy
        assert story.packets[1][name] == 1
    first, second = (replies[name].reply for replies in story.replies[:2])
    assert first
    assert second
    assert first.rcode() == second.rcode() == SAYS[name][2]
    assert [rrset.to_text().split()[3:] for rrset in first.answer] == [
        rrset.to_text().split()[3:] for rrset in second.answer
    ]
    assert [rrset.rdtype for rrset in first.authority] == [
        rrset.rdtype for rrset in second.authority
    ]


@pytest.mark.parametrize("name", KEPT)
def test_an_entry_is_used_until_it_expires(name: str, story: Story) -> None:
    assert story.packets[2][name] == 1


@pytest.mark.parametrize("name", AGAIN)
def test_an_expired_entry_is_queried_again(name: str, story: Story) -> None:
    assert story.packets[2][name] > story.packets[0][name]


def test_a_reply_with_ttl_0_is_queried_each_time(story: Story) -> None:
    assert [packets["zero"] for packets in story.packets[:3]] == [1, 2, 3]


@pytest.mark.parametrize("name", KEPT)
def test_ttls_only_fall(name: str, story: Story) -> None:
    def ttls(at: int) -> list[int]:
        reply = story.replies[at][name].reply
        assert reply
        return [rrset.ttl for rrset in (*reply.answer, *reply.authority)]

    assert all(later <= earlier for earlier, later in zip(ttls(0), ttls(1), strict=True))
    assert all(later < earlier for earlier, later in zip(ttls(0), ttls(2), strict=True))
    assert all(ttl > 0 for ttl in ttls(2))


@pytest.mark.parametrize("name", ["shortest-last", "shortest-first"])
def test_a_cname_always_has_its_target(name: str, story: Story) -> None:
    for replies in story.replies[:3]:
        assert replies[name].addresses == [GOOD]
        reply = replies[name].reply
        assert reply
        assert [rrset.rdtype for rrset in reply.answer] == [dns.rdatatype.CNAME, dns.rdatatype.A]


# ── under what it is kept ─────────────────────────────────────────────────────────────────────────


def test_a_cached_cname_is_no_answer_for_another_type(catalog: Path) -> None:
    def script(asked: Asked) -> Iterable[Said]:
        cname = "@ 300 IN CNAME target.example."
        yield (
            asked.reply(cname)
            if asked.rdtype == dns.rdatatype.CNAME
            else asked.reply(cname, f"target.example. 300 IN A {GOOD}")
        )

    with Upstream(script) as upstream, serving(catalog, upstream=upstream.url) as server:
        assert [rrset.rdtype for rrset in ask(server, query("www.example", "CNAME")).answer] == [5]
        assert addresses(ask(server, query("www.example", "A"))) == [GOOD]
        assert addresses(ask(server, query("www.example", "A"))) == [GOOD]
        assert len(upstream.asked) == 2


def test_do_and_cd_have_entries_of_their_own_and_letter_case_has_not(catalog: Path) -> None:
    signature = "@ 300 IN RRSIG A 8 2 300 20300101000000 20200101000000 1 example. AAAA"

    def script(asked: Asked) -> Iterable[Said]:
        signed = bool(asked.message.ednsflags & dns.flags.DO)
        yield asked.reply(f"@ 300 IN A {GOOD}", *(signature,) * signed)

    with Upstream(script) as upstream, serving(catalog, upstream=upstream.url) as server:
        for _ in range(2):
            for do in (False, True):
                for cd in (0, dns.flags.CD):
                    asked = query("www.example", "A", want_dnssec=do)
                    asked.flags |= cd
                    reply = ask(server, asked)
                    assert [rrset.rdtype for rrset in reply.answer] == [1, 46][: 1 + do]
                    assert reply.flags & dns.flags.CD == cd
        assert len(upstream.asked) == 4
        reply = ask(server, query("WwW.eXaMpLe", "A"))
        assert reply.question[0].name.to_text() == reply.answer[0].name.to_text() == "WwW.eXaMpLe."
        assert len(upstream.asked) == 4
        without = ask(server, query("www.example", "A", use_edns=-1))
        assert [rrset.rdtype for rrset in without.answer] == [1]
        assert without.edns == -1
        assert len(upstream.asked) == 4


def test_without_rd_the_cache_is_closed(catalog: Path) -> None:
    with (
        Upstream(answering(f"@ 300 IN A {GOOD}")) as upstream,
        serving(catalog, upstream=upstream.url) as server,
    ):
        ask(server, query("www.example", "A"))
        for name in ("www.example", "other.example"):
            reply = ask(server, query(name, "A", flags=0))
            assert outcome(reply).split()[0] == "REFUSED"
            assert not reply.answer


def test_a_failed_name_is_not_queried_again_at_once(catalog: Path) -> None:
    """RFC 9520. That it is after 2 s, tests/scenarios/forward tells."""

    def script(asked: Asked) -> Iterable[Said]:
        yield (
            asked.reply("@ 60 IN AAAA fdaa::1")
            if asked.first == "injected"
            else asked.reply(rcode=2)
        )

    with Upstream(script) as upstream, serving(catalog, upstream=upstream.url) as server:
        messages = [query("failed.example"), query("injected.example")]
        begin = time.monotonic()
        assert [got.outcome for got in ask_all(server, messages)] == ["SERVFAIL 23", "SERVFAIL 15"]
        before = len(upstream.asked)
        for _ in range(5):
            assert [got.outcome for got in ask_all(server, messages)] == [
                "SERVFAIL 23",
                "SERVFAIL 15",
            ]
        assert len(upstream.asked) == before or time.monotonic() - begin > 1.9


# ── shared ────────────────────────────────────────────────────────────────────────────────────────


def test_a_thousand_clients_with_the_same_question_cost_one_packet(catalog: Path) -> None:
    with (
        Upstream(after(0.1, answering(f"@ 300 IN A {GOOD}"))) as upstream,
        serving(catalog, upstream=upstream.url) as server,
    ):
        got = ask_all(
            server,
            [
                query("WWW.shared.example" if n % 2 else "www.shared.example", "A")
                for n in range(900)
            ],
        )
        assert all(each.addresses == [GOOD] for each in got)
        assert len(upstream.asked) == 1
        got = ask_all(server, [query("www.shared.example", "A") for n in range(100)])
        assert all(each.addresses == [GOOD] for each in got)
        assert len(upstream.asked) == 1


def test_all_clients_that_wait_get_the_failure(catalog: Path) -> None:
    with (
        Upstream(after(0.3, answering(rcode=2))) as upstream,
        serving(catalog, upstream=upstream.url) as server,
    ):
        got = ask_all(server, [query("www.shared.example", "A") for _ in range(200)])
        assert {each.outcome for each in got} == {"SERVFAIL 23"}
        assert len(upstream.asked) <= 4


def test_a_client_that_leaves_does_not_end_the_query_for_the_others(catalog: Path) -> None:
    with (
        Upstream(after(0.5, answering(f"@ 300 IN A {GOOD}"))) as upstream,
        serving(catalog, upstream=upstream.url) as server,
        client_socket(socket.SOCK_STREAM) as first,
    ):
        first.connect(("::1", server.port))
        octets = query("www.example", "A").to_wire()
        first.sendall(len(octets).to_bytes(2, "big") + octets)
        while not upstream.asked:
            time.sleep(0.01)
        first.close()  # the one who asked first
        assert addresses(ask(server, query("www.example", "A"))) == [GOOD]
        assert len(upstream.asked) == 1


# ── stale ─────────────────────────────────────────────────────────────────────────────────────────


def stale(reply: dns.message.Message) -> bool:
    """Whether it says so: Stale Answer, or Stale NXDOMAIN Answer (RFC 8914)."""
    return any(
        isinstance(option, dns.edns.EDEOption) and option.code in (3, 19)
        for option in reply.options
    )


@dataclass(slots=True)
class Outage:
    """The same names before and while their upstream is gone."""

    before: list[Got]
    during: list[Got]
    without_edns: Got
    unknown: Got
    after: list[Got]


NAMES = ("www.example", "chain.example", "none.example")


def one_second(asked: Asked) -> Iterable[Said]:
    if asked.first == "chain":
        yield asked.reply("@ 1 IN CNAME t.example.", f"t.example. 1 IN A {GOOD}")
    elif asked.first == "none":
        yield asked.reply(
            rcode=3, authority=["example. 1 IN SOA ns.example. root.example. 1 2 3 4 1"]
        )
    else:
        yield asked.reply(f"@ 1 IN A {GOOD}")


def suffer(catalog: Path, kind: str) -> Outage:
    """Let the upstream fail in a way, and recover."""
    failing = threading.Event()

    def script(asked: Asked) -> Iterable[Said]:
        if not failing.is_set():
            yield from one_second(asked)
        elif kind == "servfail":
            yield asked.reply(rcode=2)

    with Upstream(script) as upstream, serving(catalog, upstream=upstream.url) as server:
        messages = [query(name, "A") for name in NAMES]
        plain, new = query(NAMES[0], "A", use_edns=-1), query("unknown.example", "A")
        before = ask_all(server, messages)
        failing.set()
        if kind == "gone":
            port = upstream.port
            upstream.close()
        time.sleep(1.3)
        *during, without_edns, unknown = ask_all(server, [*messages, plain, new])
        failing.clear()
        if kind == "gone":
            with Upstream(script, port=port):
                recovered = _recovered(server, messages)
        else:
            recovered = _recovered(server, messages)
        return Outage(before, during, without_edns, unknown, recovered)


def _recovered(server: Served, messages: list[dns.message.QueryMessage]) -> list[Got]:
    """Ask until nothing is stale any more: the upstream is back, a failed name is remembered for 2
    s."""
    end = time.monotonic() + 6
    while True:
        got = ask_all(server, messages)
        fresh = all(
            each.reply and not stale(each.reply) and each.reply.rcode() != 2 for each in got
        )
        if fresh or time.monotonic() > end:
            return got
        time.sleep(0.2)


@pytest.fixture(scope="module")
def outages(catalog: Path) -> dict[str, Outage]:
    """All three at once."""
    found: dict[str, Outage] = {}
    faults: list[BaseException] = []

    def run(kind: str) -> None:
        try:
            found[kind] = suffer(catalog, kind)
        except BaseException as error:
            faults.append(error)

    threads = [
        threading.Thread(target=run, args=(kind,)) for kind in ("silent", "servfail", "gone")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults, faults
    return found


@pytest.mark.parametrize("kind", ["silent", "servfail", "gone"])
def test_a_stale_reply_is_sent_when_the_upstream_fails(
    kind: str, outages: dict[str, Outage]
) -> None:
    outage = outages[kind]
    for before, during in zip(outage.before, outage.during, strict=True):
        assert during.reply
        assert before.reply
        assert not stale(before.reply)
        assert during.reply.rcode() == before.reply.rcode()
        assert during.addresses == before.addresses
        assert stale(during.reply), during.outcome
        assert all(0 < ttl <= 30 for ttl in during.ttls)
        assert during.seconds < 2.9  # 1.8 promised
    plain = outage.without_edns
    assert plain.reply
    assert plain.addresses == [GOOD]
    assert plain.reply.edns == -1
    assert outage.unknown.outcome in ("SERVFAIL 22", "SERVFAIL 23")


@pytest.mark.parametrize("kind", ["silent", "servfail", "gone"])
def test_a_stale_entry_is_refreshed_when_the_upstream_is_back(
    kind: str, outages: dict[str, Outage]
) -> None:
    for got in outages[kind].after:
        assert got.reply
        assert not stale(got.reply)
        assert all(ttl <= 1 for ttl in got.ttls)
