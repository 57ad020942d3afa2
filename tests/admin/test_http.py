"""The admin port: three paths, GET only, in bounded time and memory; metrics that name nobody and
are documented."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from internal_dns.admin import http
from internal_dns.admin.http import AdminPort
from internal_dns.config import load_settings
from internal_dns.core.catalog import Catalog
from internal_dns.core.wire import Rcode, Type
from internal_dns.metrics import Metrics, registry
from internal_dns.server import Server
from internal_dns.store.generate import demo_rows
from tests.core.messages import AAAA, TXT, ip, loaded, opt, query

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


@cache
def demo() -> Catalog:
    return loaded(rows=demo_rows()).catalog


@asynccontextmanager
async def admin(
    metrics: Metrics | None = None, ready: tuple[bool, str] = (True, "ready")
) -> AsyncIterator[tuple[str, int]]:
    """A served admin port: host and port."""
    server = await AdminPort(registry(metrics or Metrics()), lambda: ready).start("127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]
    await asyncio.sleep(0)


async def said(at: tuple[str, int], octets: bytes, *, half_closed: bool = False) -> bytes:
    """What comes back until the end of the connection, empty when it is reset."""
    reader, writer = await asyncio.open_connection(*at)
    try:
        writer.write(octets)
        if half_closed:
            writer.write_eof()
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def get(
    at: tuple[str, int], path: str, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a request."""
    answer = await said(
        at, f"{method} {path} HTTP/1.1\r\nHost: admin\r\nUser-Agent: test\r\n\r\n".encode()
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    assert int(headers["content-length"]) == len(body)
    assert headers["connection"] == "close"
    return int(lines[0].split()[1]), headers, body


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


# ── paths and methods ─────────────────────────────────────────────────────────────────────────────


def test_a_running_server_is_healthy_whether_ready_or_not() -> None:
    async def story() -> None:
        async with admin(ready=(False, "not ready: the file does not exist")) as at:
            assert (await get(at, "/healthz"))[0::2] == (200, b"ok\n")

    run(story())


@pytest.mark.parametrize(
    ("ready", "words", "status"),
    [
        (True, "ready", 200),
        (True, "ready, degraded: the last good catalog answers, file is not a database", 200),
        (False, "not ready: the catalog is being loaded", 503),
        (False, "nicht bereit: ö", 503),
    ],
)
def test_readiness_is_told_in_words_too(ready: bool, words: str, status: int) -> None:
    async def story() -> None:
        async with admin(ready=(ready, words)) as at:
            found = await get(at, "/readyz")
            assert found[0::2] == (status, words.encode() + b"\n")
            assert found[1]["content-type"] == "text/plain; charset=utf-8"

    run(story())


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics/",
        "/metric",
        "//metrics",
        "/../metrics",
        "/METRICS",
        "/debug",
        "/api",
        "/healthz/x",
        "*",
        "/%6detrics",
    ],
)
def test_nothing_else_is_served(path: str) -> None:
    async def story() -> None:
        async with admin() as at:
            for method in ("GET", "POST", "HEAD"):
                status, _, body = await get(at, path, method)
                assert status == 404
                assert b"/metrics, /healthz and /readyz" in body

    run(story())


@pytest.mark.parametrize(
    "method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "GETX", "CONNECT"]
)
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_only_get_is_answered(method: str, path: str) -> None:
    async def story() -> None:
        async with admin() as at:
            assert (await get(at, path, method))[0] == 405

    run(story())


def test_a_query_part_is_ignored() -> None:
    async def story() -> None:
        async with admin() as at:
            assert (await get(at, "/healthz?x=1"))[0] == 200
            assert (await get(at, "/metrics?name[]=x"))[0] == 200

    run(story())


# ── bounds ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n\r\n",
        b"\0\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET  /healthz HTTP/1.1\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"\x16\x03\x01\x02\0\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_a_refusal_or_nothing(octets: bytes) -> None:
    async def story() -> None:
        async with admin() as at:
            answer = await said(at, octets)
            assert answer == b"" or answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 405"))
            assert (await get(at, "/healthz"))[0] == 200

    run(story())


def test_a_head_within_the_bound_is_answered() -> None:
    async def story() -> None:
        async with admin() as at:
            head = b"GET /healthz HTTP/1.1\r\nX: "
            assert (
                await said(at, head + b"x" * (http.MAX_HEAD - len(head) - 8) + b"\r\n\r\n")
            ).startswith(b"HTTP/1.1 200")

    run(story())


@pytest.mark.parametrize("size", [http.MAX_HEAD + 8, http.MAX_HEAD * 3, 1 << 20])
def test_a_head_past_the_bound_ends_the_connection(size: int) -> None:
    async def story() -> None:
        async with admin() as at:
            assert b"200 OK" not in await said(
                at, b"GET /healthz HTTP/1.1\r\nX: " + b"x" * size + b"\r\n\r\n"
            )
            assert b"200 OK" not in await said(at, b"x" * size)
            assert (await get(at, "/healthz"))[0] == 200

    run(story())


@pytest.mark.parametrize(
    "octets", [b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nX: y\r\n\r"]
)
def test_a_client_that_ends_early_is_let_go(octets: bytes) -> None:
    async def story() -> None:
        async with admin() as at:
            assert await said(at, octets, half_closed=True) == b""

    run(story())


@pytest.mark.slow
def test_a_slow_client_is_cut_off_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.1)

    async def story() -> None:
        async with admin() as at:
            loop = asyncio.get_running_loop()
            start = loop.time()
            assert await said(at, b"GET /metr") == b""
            assert 0.05 < loop.time() - start < 1
            reader, writer = await asyncio.open_connection(
                *at
            )  # a letter at a time does not buy more
            start = loop.time()
            while not (reader.at_eof() or reader.exception()) and loop.time() - start < 2:
                writer.write(b"x")
                await asyncio.sleep(0.01)
            assert loop.time() - start < 1
            writer.close()

    run(story())


@pytest.mark.slow
def test_many_slow_clients_hold_up_the_others_no_longer_than_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.2)

    async def story() -> None:
        async with admin() as at:
            slow = [
                asyncio.create_task(said(at, b"GET /")) for _ in range(3 * http.MAX_CONNECTIONS)
            ]
            await asyncio.sleep(0.05)
            loop = asyncio.get_running_loop()
            start = loop.time()
            assert await asyncio.gather(*slow) == [b""] * len(slow)
            assert loop.time() - start < 0.5  # all together, not one batch after the other
            assert (await get(at, "/healthz"))[0] == 200

    run(story())


def test_as_many_fast_clients_as_like_are_served() -> None:
    async def story() -> None:
        async with admin() as at:
            answers = await asyncio.gather(*(get(at, "/healthz") for _ in range(90)))
            assert {status for status, _, _ in answers} == {200}

    run(story())


# ── metrics ───────────────────────────────────────────────────────────────────────────────────────


def families(text: str) -> dict[str, Metric]:
    """The families of a text in Prometheus' format; fails when one is there twice."""
    found: dict[str, Metric] = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in found
        found[family.name] = family
    return found


async def scraped(metrics: Metrics) -> dict[str, Metric]:
    async with admin(metrics) as at:
        status, headers, body = await get(at, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    return families(body.decode())


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A server that has not been started, with a catalog."""
    flags = {"catalog": str(tmp_path / "c.db"), "listen": ("[::1]:0",), "upstream": ("192.0.2.1",)}
    flags["source"] = "nats://192.0.2.1/catalog"
    made = Server(load_settings(flags, {}, None))
    made.exchange.use(demo())
    return made


def drive(server: Server) -> None:
    """Ask everything, of everybody."""
    names = """web.internal db.internal nosuch.internal secret-app.internal web.flycast
    _apps.internal localhost render.internal 3d8d9930b03989.vm.web.internal
    alice-laptop._peer.internal leader.role.kv._metadata.db.internal 3.a.a.d.f.ip6.arpa
    top2.nearest.of.web.internal _whoami.internal 1.10.in-addr.arpa""".split()
    sources = "fdaa:0:18:a7b:7d:f066:b83b:2 fdaa:0:19:a7b:c1:1:2:2 fdaa:0:77::2 2001:db8::1".split()
    for name in names:
        for source in sources:
            for qtype in (AAAA, TXT, 1, 255, 252, 65_280):
                for _ in range(2):
                    server.exchange.handle(
                        query(name, qtype, opt()), ip(source), ip("fdaa::3"), 4_000
                    )
    for octets in (
        b"",
        query("web.internal", flags=0x8000),
        query("web.internal", opcode=5),
        query("web.internal") + b"x",
    ):
        server.exchange.handle(octets, ip(sources[0]), ip("fdaa::3"), 4_000)
        server.exchange.handle(octets, ip(sources[0]), ip("fdaa::3"), 7)
    server.metrics.requests["udp", "6"][0] += 1


def test_metrics_are_in_prometheus_format(server: Server) -> None:
    drive(server)

    async def story() -> None:
        found = await scraped(server.metrics)
        assert len(found) > 15
        for family in found.values():
            assert family.name.startswith(("internal_dns_", "process_"))
            assert family.type in ("counter", "gauge", "histogram", "info")
            assert family.documentation
        total = sum(sample.value for sample in found["internal_dns_responses"].samples)
        assert total == sum(cell[0] for cell in server.metrics.responses.values()) > 500
        assert (
            found["internal_dns_answer_table_entries"].samples[0].value
            == server.exchange.answers.entries
            > 0
        )

    run(story())


def test_metrics_name_no_network_no_app_and_nothing_that_was_asked(server: Server) -> None:
    drive(server)

    async def story() -> None:
        found = await scraped(server.metrics)
        values = {
            value
            for family in found.values()
            for sample in family.samples
            for label, value in sample.labels.items()
            if label != "le" and family.name != "internal_dns_build_info"
        }
        known = {
            "repeat",
            "internal",
            "flycast",
            "reverse",
            "forward",
            "refused",
            "other",
            "udp",
            "tcp",
            "4",
            "6",
        }
        known |= {
            "fresh",
            "due",
            "stale",
            "udp://192.0.2.1:53",
        }  # the cache's ages, and the upstream of this server
        known |= (
            {t.name for t in Type}
            | {r.name for r in Rcode}
            | {"python", "native", "runt", "qr", "port"}
        )
        assert values <= known

    run(story())


def test_metrics_grow_with_nobodys_catalog_or_questions(server: Server) -> None:
    async def story() -> None:
        drive(server)
        before = await scraped(server.metrics)
        for number in range(300):
            source = b"\xfd\xaa" + number.to_bytes(4, "big") + bytes(9) + b"\2"
            octets = query(f"x{number}.internal", 1_000 + number, opt(size=number))
            server.exchange.handle(octets, source, ip("fdaa::3"), 1_000 + number)
        after = await scraped(server.metrics)
        assert {n: len(f.samples) for n, f in before.items()} == {
            n: len(f.samples) for n, f in after.items()
        }

    run(story())


def test_there_are_never_more_than_200_series(server: Server) -> None:
    """The worst that can be counted: every kind with every RCODE, all types, every reason there may
    be."""
    metrics = server.metrics
    for kind in ("internal", "flycast", "reverse", "refused"):
        for rcode in Rcode:
            metrics.response(kind, rcode, 0)[0] += 1
    for number in range(16):  # an upstream's
        metrics.response("forward", number, 0)[0] += 1
    for qtype in range(300):
        metrics.response("internal", 0, qtype)[0] += 1
    for number in range(15):
        metrics.drop(f"reason {number}")
    for outcome in "answered unreachable failing timeout injected busy error".split():
        metrics.forwards[outcome] += 1
    for proto in ("udp", "tcp"):
        for family in ("4", "6"):
            metrics.requests[proto, family][0] += 1

    async def story() -> None:
        found = await scraped(metrics)
        assert sum(len(family.samples) for family in found.values()) <= 200

    run(story())


def documented() -> dict[str, tuple[str, str, str]]:
    """Type, labels and words of each metric in docs/metrics.md."""
    rows = re.findall(
        r"^\| `((?:internal_dns|process)_[a-z_]+)` \| (\w+) \| ([^|]*)\| ([^|]*) \|$",
        DOCS.read_text(),
        re.MULTILINE,
    )
    return {name: (kind, labels, words) for name, kind, labels, words in rows}


def as_documented(family: Metric) -> str:
    """The name of a family as dashboards write it."""
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def test_every_metric_is_documented(server: Server) -> None:
    drive(server)
    server.metrics.forwards["answered"] += 1
    table = documented()
    for family in registry(server.metrics).collect():
        name = as_documented(family)
        assert name in table, f"docs/metrics.md lacks {name}"
        kind, labels, _ = table[name]
        assert kind == {"info": "gauge"}.get(family.type, family.type)
        for sample in family.samples:
            for label in sample.labels.keys() - {"le"}:
                assert f"`{label}`" in labels, f"docs/metrics.md: {name} lacks label {label}"


def test_help_texts_are_sentences_that_the_documentation_repeats(server: Server) -> None:
    drive(server)
    server.metrics.forwards["answered"] += 1
    table = documented()
    for family in registry(server.metrics).collect():
        name = as_documented(family)
        if name.startswith("internal_dns_"):
            assert re.fullmatch(r"(?:[A-Z]|[01] )[^.]+\.", family.documentation), name
            assert table[name][2].startswith(family.documentation), name


def test_the_revision_is_that_of_the_catalog_that_answers(server: Server) -> None:
    def revision() -> float:
        (found,) = (
            family.samples[0].value
            for family in registry(server.metrics).collect()
            if family.name == "internal_dns_catalog_revision"
        )
        return found

    server.exchange.use(Catalog(revision=41))
    assert revision() == 41


def test_no_metric_is_documented_that_does_not_exist(server: Server) -> None:
    assert documented().keys() == {
        as_documented(family) for family in registry(server.metrics).collect()
    }


def test_the_outcomes_of_forwarding_are_documented() -> None:
    (line,) = [
        line
        for line in DOCS.read_text().splitlines()
        if "`internal_dns_forward_outcomes_total`" in line
    ]
    code = "".join(
        path.read_text() for path in (Path(http.__file__).parents[1] / "forward").glob("*.py")
    )
    outcomes = set(re.findall(r'Failure\("([\w ]+)"', code)) | set(
        re.findall(r'forwards\["(\w+)"\]', code)
    )
    assert len(outcomes) > 5
    assert all(outcome in line for outcome in outcomes)
