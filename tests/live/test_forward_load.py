"""Much at once: what is random, what has a cap, who may not spoil it for whom, and questions that
go in circles."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import dns.message
import pytest

from tests.live.conftest import catalog_file
from tests.live.forwarding import GOOD, Got, ask_all, ask_by_tcp
from tests.live.hosts import Served, addresses, ask, client_socket, outcome, query, serving
from tests.live.upstream import Asked, HangUp, Said, Upstream, answering
from tests.tools import requires_tool

pytestmark = pytest.mark.live

OTHERS = ("--listen", "127.0.0.1:0", "--map-source", "127.0.0.1/32=fdaa:0:19::/48")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalog_file(tmp_path_factory.mktemp("load") / "catalog.db", "acme.sql")


def other_network(server: Served) -> tuple[str, int]:
    """Where 127.0.0.1, which is network 0x19, asks the server."""
    found = re.search(r"127\.0\.0\.1:(\d+)", server.ready)
    assert found, server.ready
    return "127.0.0.1", int(found[1])


# ── random ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["native", "python"])
def test_ports_ids_and_letter_case_are_random(catalog: Path, path: str) -> None:
    """10,000 queries leave from at least 8,000 distinct source ports."""
    questions = 10_000
    with (
        Upstream(lambda asked: [asked.denied()]) as upstream,
        serving(
            catalog, "--udp-path", path, "--upstream-sockets", "fresh", upstream=upstream.url
        ) as server,
    ):
        _ask_quickly(server, questions)
        asked = tuple(upstream.asked)
    # A busy machine may ask again here and there.
    assert questions <= len(asked) < questions * 1.1
    asked = asked[:questions]
    assert len({each.port for each in asked}) >= 8_000
    ids = [int.from_bytes(each.octets[:2], "big") for each in asked]
    assert len(set(ids)) >= 9_000  # 9,275 expected of 65,536
    for bit in range(16):
        assert 4_700 < sum(ident >> bit & 1 for ident in ids) < 5_300  # 6 standard deviations
    # The next port or id does not follow from the last.
    for values in (ids, [each.port for each in asked]):
        steps = Counter((b - a) & 0xFFFF for a, b in pairwise(values))
        assert steps.most_common(1)[0][1] < 20
    for at in (-17, -12, -8, -2):  # letters of the common part of the names, from the end
        upper = sum(each.spelled[at].isupper() for each in asked)
        assert 4_700 < upper < 5_300, at
    assert (
        len({"".join("10"[c.islower()] for c in each.spelled if c.isalpha()) for each in asked})
        > 9_000
    )


def _ask_quickly(server: Served, questions: int, window: int = 200) -> None:
    """Ask for n0.abcdefgh.example and so on, a window at a time; every reply must be NXDOMAIN."""
    octets = query("n00000.abcdefgh.example", "A").to_wire()
    with client_socket(socket.SOCK_DGRAM) as sock:
        sock.connect(("::1", server.port))
        for begin in range(0, questions, window):
            for number in range(begin, begin + window):
                sock.send(number.to_bytes(2, "big") + octets[2:14] + b"%05d" % number + octets[19:])
            replies = [sock.recv(512) for _ in range(window)]
            assert len({reply[:2] for reply in replies}) == window
            assert {reply[3] & 15 for reply in replies} == {3}


# ── caps ──────────────────────────────────────────────────────────────────────────────────────────


def a_network_has_a_thousand_questions_outstanding_at_most(catalog: Path) -> None:
    def script(asked: Asked) -> Iterable[Said]:
        return () if asked.first.startswith("x") else [asked.reply(f"@ 60 IN A {GOOD}")]

    with (
        Upstream(script) as upstream,
        serving(catalog, *OTHERS, upstream=upstream.url) as server,
        client_socket(socket.SOCK_DGRAM) as sock,
    ):
        _need(server, 1_300)
        sock.connect(("::1", server.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.setblocking(False)
        begin = time.monotonic()
        for number in range(1_300):
            sock.send(query(f"x{number}.example", "A", id=number).to_wire())
            if number % 50 == 49:
                time.sleep(0.02)  # so that no socket buffer is what limits
        # Another network is served, from outside and inside.
        (outside,) = ask_all(server, [query("good.example", "A")], at=other_network(server))
        assert outside.addresses == [GOOD]
        assert len(addresses(ask(server, "web.internal"))) == 5
        time.sleep(max(0, begin + 2.2 - time.monotonic()))
        early = _drain(sock)
        assert len({asked.name for asked in upstream.asked if asked.first.startswith("x")}) <= 1_000
        assert len(early) >= 300
        assert set(early.values()) <= {"SERVFAIL 0", "SERVFAIL 22", "SERVFAIL 23", "SERVFAIL"}
        late: dict[int, str] = {}
        while len(early) + len(late) < 1_300 and time.monotonic() < begin + 8:
            time.sleep(0.05)
            late |= _drain(sock)
        assert len(early) + len(late) == 1_300
        assert time.monotonic() - begin < 6
        # And when they are gone, this network is served again.
        assert addresses(ask(server, query("good2.example", "A"))) == [GOOD]


def _need(server: Served, outstanding: int) -> None:
    found = re.search(r"(\d+) forwarded at a time", server.ready)
    assert found, server.ready
    if int(found[1]) < outstanding:
        raise AssertionError(
            f"RLIMIT_NOFILE allows {found[1]} questions at a time only: the cap of a network is "
            f"not reached"
        )


def _drain(sock: socket.socket) -> dict[int, str]:
    """The replies that have come: the outcome by id."""
    found: dict[int, str] = {}
    while True:
        try:
            reply = dns.message.from_wire(sock.recv(65_535))
        except BlockingIOError:
            return found
        found[reply.id] = outcome(reply)


def all_networks_together_leave_descriptors_for_the_rest(catalog: Path) -> None:
    limit = 240

    def script(asked: Asked) -> Iterable[Said]:
        return () if asked.first.startswith("x") else [asked.reply(f"@ 60 IN A {GOOD}")]

    with (
        Upstream(script) as upstream,
        serving(
            catalog, *OTHERS, upstream=upstream.url, wrapped=("prlimit", f"--nofile={limit}")
        ) as server,
    ):
        halves = [[query(f"x{network}-{n}.example", "A") for n in range(100)] for network in "ab"]
        most, results = [0], list[list[Got]]()
        threads = [
            threading.Thread(
                target=lambda half=half, at=at: results.append(ask_all(server, half, at=at))
            )
            for half, at in zip(halves, (None, other_network(server)), strict=True)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        while any(thread.is_alive() for thread in threads):
            most.append(server.descriptors())
            assert len(addresses(ask(server, "web.internal"))) == 5
            assert ask_by_tcp(server, query("web.internal")).addresses
            time.sleep(0.2)
        got = [each for half in results for each in half]
        assert len(got) == 200
        assert all(each.outcome.startswith("SERVFAIL") for each in got)
        assert max(most) <= limit - 16
        assert addresses(ask(server, query("good.example", "A"))) == [GOOD]
        assert "Too many open files" not in server.stderr()


# ── dead names, and upstreams that come and go ────────────────────────────────────────────────────


def names_that_nobody_answers_do_not_black_out_the_upstream(catalog: Path) -> None:
    """0 of 100 good names fail while another network asks 1,000 dead ones of the same upstream."""

    def script(asked: Asked) -> Iterable[Said]:
        return () if asked.first.startswith("dead") else [asked.reply(f"@ 60 IN A {GOOD}")]

    with Upstream(script) as upstream, serving(catalog, *OTHERS, upstream=upstream.url) as server:
        dead = [query(f"dead{n}.example", "A") for n in range(1_000)]
        results: list[Got] = []

        def flood() -> None:
            results.extend(
                ask_all(server, dead, at=other_network(server), spacing=0.002, timeout=5)
            )

        thread = threading.Thread(target=flood)
        thread.start()
        time.sleep(0.5)
        good = []
        for n in range(100):
            good.append(ask_all(server, [query(f"good{n}.example", "A")])[0])
            time.sleep(0.02)
        thread.join(20)
        assert [each.outcome for each in good if each.addresses != [GOOD]] == []
        assert len(results) == 1_000
        assert all(each.outcome.startswith("SERVFAIL") for each in results)
        # And right after them.
        more = ask_all(server, [query(f"more{n}.example", "A") for n in range(50)])
        assert [each.outcome for each in more if each.addresses != [GOOD]] == []


def one_upstream_that_comes_and_goes_costs_no_answer(catalog: Path) -> None:
    begin = time.monotonic()

    def script(asked: Asked) -> Iterable[Said]:
        return () if (time.monotonic() - begin) % 2 < 1 else [asked.reply(f"@ 60 IN A {GOOD}")]

    with (
        Upstream(script) as flapping,
        Upstream(answering(f"@ 60 IN A {GOOD}")) as steady,
        serving(catalog, upstream=f"{flapping.url} {steady.url}") as server,
    ):
        for n in range(30):
            (got,) = ask_all(server, [query(f"x{n}.example", "A")])
            assert got.addresses == [GOOD], got.outcome
            assert got.seconds < 2.5
            time.sleep(0.08)


# ── circles ───────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def relaying() -> Iterator[tuple[Upstream, list[tuple[str, int]]]]:
    """An upstream that hands each query to the address that is put into the list, and says what
    that says."""
    to: list[tuple[str, int]] = []

    def script(asked: Asked) -> Iterable[Said]:
        if (
            len(upstream.asked) > 400
        ):  # a hundred times its due: enough to tell, and two processes must not spin for ever
            return
        with client_socket(socket.SOCK_DGRAM) as sock:
            sock.connect(to[0])
            sock.setblocking(False)
            sock.send(asked.octets)
            for _ in range(250):
                try:
                    yield sock.recv(65_535)
                except BlockingIOError:
                    yield 0.02

    with Upstream(script) as upstream:
        yield upstream, to


def an_upstream_that_is_this_server_by_another_address_is_a_failure_and_no_storm(
    catalog: Path,
) -> None:
    with relaying() as (relay, to), serving(catalog, upstream=relay.url) as server:
        to.append(("::1", server.port))
        got = ask_all(
            server, [query("www.example", "A"), query("other.example", "AAAA", want_dnssec=True)]
        )
        for each in got:
            assert each.outcome.split()[0] == "SERVFAIL"
            assert each.seconds < 5
        assert 2 <= len(relay.asked) <= 8
        assert len(addresses(ask(server, "web.internal"))) == 5


def two_servers_that_forward_to_each_other_fail_and_make_no_storm(catalog: Path) -> None:
    with (
        relaying() as (relay, to),
        serving(catalog, upstream=relay.url) as one,
        serving(catalog, upstream=f"udp://[::1]:{one.port}") as two,
    ):
        to.append(("::1", two.port))
        got = ask_all(one, [query("www.example", "A")])[0]
        assert got.outcome.split()[0] == "SERVFAIL"
        assert got.seconds < 5
        # Each of them may ask 4 times.
        assert 1 <= len(relay.asked) <= 8


# ── all of these at once: each waits for seconds, on servers of its own ───────────────────────────

STORIES: dict[str, Callable[[Path], None]] = {
    story.__name__: story
    for story in (
        a_network_has_a_thousand_questions_outstanding_at_most,
        all_networks_together_leave_descriptors_for_the_rest,
        names_that_nobody_answers_do_not_black_out_the_upstream,
        one_upstream_that_comes_and_goes_costs_no_answer,
        an_upstream_that_is_this_server_by_another_address_is_a_failure_and_no_storm,
        two_servers_that_forward_to_each_other_fail_and_make_no_storm,
    )
}


@pytest.fixture(scope="module")
def told(catalog: Path) -> dict[str, BaseException | None]:
    """How each story ended."""
    with ThreadPoolExecutor(len(STORIES)) as pool:
        running = {name: pool.submit(story, catalog) for name, story in STORIES.items()}
        return {name: future.exception() for name, future in running.items()}


@requires_tool("prlimit")
@pytest.mark.parametrize("name", STORIES)
def test_many_queries_at_once(name: str, told: dict[str, BaseException | None]) -> None:
    if (error := told[name]) is not None:
        raise error


# ── streams ───────────────────────────────────────────────────────────────────────────────────────


def test_a_stream_upstream_is_queried_over_few_connections(catalog: Path) -> None:
    with (
        Upstream(lambda asked: [asked.reply(f"@ 60 IN A {GOOD}")]) as upstream,
        serving(catalog, upstream=upstream.tcp_url) as server,
    ):
        for n in range(100):
            assert addresses(ask(server, query(f"x{n}.example", "A"))) == [GOOD]
        assert upstream.connections <= 5
        got = ask_all(server, [query(f"y{n}.example", "A") for n in range(100)])
        assert [each.outcome for each in got if each.addresses != [GOOD]] == []
        assert upstream.connections <= 20
        assert len({asked.octets[:2] for asked in upstream.asked}) > 150


@pytest.mark.parametrize("hard", [False, True], ids=["closed", "reset"])
def test_a_connection_that_ends_between_questions_costs_no_answer(
    catalog: Path, hard: bool
) -> None:
    def script(asked: Asked) -> Iterable[Said]:
        yield asked.reply(f"@ 60 IN A {GOOD}")
        yield 0.05
        yield HangUp(hard)

    with Upstream(script) as upstream, serving(catalog, upstream=upstream.tcp_url) as server:
        for n in range(12):
            (got,) = ask_all(server, [query(f"x{n}.example", "A")])
            assert got.addresses == [GOOD], (n, got.outcome)
            assert got.seconds < 1
            time.sleep((0, 0.045, 0.05, 0.055, 0.1)[n % 5])  # before, while and after it closes


def test_a_connection_that_ends_instead_of_an_answer_is_made_again(catalog: Path) -> None:
    """A kept connection may have been closed just then: RFC 7766 section 6.2.4 asks to try
    again."""

    def script(asked: Asked) -> Iterable[Said]:
        if (
            asked.connection % 2
            and sum(each.connection == asked.connection for each in upstream.asked) > 1
        ):
            yield HangUp()  # the second question on an odd connection
        else:
            yield asked.reply(f"@ 60 IN A {GOOD}")

    with Upstream(script) as upstream, serving(catalog, upstream=upstream.tcp_url) as server:
        for n in range(6):
            (got,) = ask_all(server, [query(f"x{n}.example", "A")])
            assert got.addresses == [GOOD], (n, got.outcome)
