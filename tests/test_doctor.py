"""doctor: each trouble of a host, from files and sockets made for it, and the report a person
reads."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from internal_dns import config
from internal_dns.cli.doctor.command import report
from internal_dns.cli.doctor.host import check_queues, check_routes
from internal_dns.cli.doctor.result import CheckResult
from internal_dns.cli.routes import local_routes
from internal_dns.cli.servers import Running
from internal_dns.core.catalog import Catalog
from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.forward import upstreams
from internal_dns.net import Endpoint
from internal_dns.replicate.codec import FLOOR
from internal_dns.replicate.logic import Message, Position, make_batch
from internal_dns.replicate.replica import Replica
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.rows import Values
from internal_dns.store.writer import Writer
from tests.commands import run
from tests.core.messages import loaded
from tests.live.hosts import Host, Served, serving
from tests.replicate.values import machine
from tests.tools import requires_root, requires_tool

GOLDEN = Path(__file__).parent / "golden"
WILDCARD = (Endpoint.parse("[::]:53"),)
LOOPBACK = (Endpoint.parse("[::1]:53"), Endpoint.parse("127.0.0.1:53"))
PREFIX = b"\xfd\xaa"


@pytest.fixture(autouse=True)
def _a_host_without_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("INTERNAL_DNS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "absent.toml")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.db"
    create_catalog(path, demo_rows())
    return path


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return loaded(rows=demo_rows()).catalog


def found(*words: str | Path) -> dict[str, dict[str, Any]]:
    return {result["what"]: result for result in run("doctor", "--json", *words).json}


# ── the report ────────────────────────────────────────────────────────────────────────────────────


def test_the_report_reads_as_its_golden_file() -> None:
    said = [
        CheckResult("ok", "python", "3.11.7"),
        CheckResult(
            "warn",
            "routes",
            "not local to this host: fdaa:0:18::3",
            "queries sent there never reach the server",
            "Add a route: ip -6 route add local fdaa:0:18::3/128 dev lo",
        ),
        CheckResult(
            "fail",
            "listen [fdaa::3]:53",
            "Address already in use",
            "`serve` cannot listen there",
            "Another program uses it: `ss -lunp 'sport = :53'` shows which; stop it, or "
            "choose another address with --listen",
        ),
        CheckResult("ok", "catalog", "3 networks, 7 apps, 80 machines (73 started), 5 peers"),
    ]
    assert "\n".join(report(said)) + "\n" == (GOLDEN / "doctor.txt").read_text()


@pytest.mark.parametrize(
    ("levels", "last"),
    [
        ("ok", "all 1 check passed"),
        ("ok fail", "1 problem, 1 check passed"),
        ("ok ok warn warn", "2 warnings, 2 checks passed"),
        ("fail fail warn", "2 problems and 1 warning, 0 checks passed"),
    ],
)
def test_the_last_line_counts(levels: str, last: str) -> None:
    assert report([CheckResult(level, "x", "y", "z", "w") for level in levels.split()])[-1] == last


# ── routes ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("flows", "workers", "says"),
    [
        (None, 1, []),  # the Python path, or a server that is older than the question
        ((1,), 1, []),
        ((2,), 2, []),
        ((2,), 1, []),
        ((0,), 1, ["not have eight UDP sockets"]),
        ((1,), 2, ["8 UDP sockets for 2 workers"]),
    ],
)
def test_too_few_sockets_for_the_queues_are_a_warning(
    flows: tuple[int, ...] | None, workers: int, says: list[str]
) -> None:
    server = Running((Endpoint.parse("[::]:53"),), None, None, flows)
    symptoms = list(check_queues(server, workers))
    assert [symptom.level for symptom in symptoms] == ["warn"] * len(says)
    for symptom, words in zip(symptoms, says, strict=True):
        assert words in symptom.says
        assert f"{8 * workers} times" in symptom.do


def route(text: str, flags: int = 0x8020_0001) -> str:
    """A line of /proc/net/ipv6_route."""
    address, _, length = text.partition("/")
    network = socket.inet_pton(socket.AF_INET6, address).hex()
    none = "0" * 32
    counters = "00000000 00000001 00000000"
    return f"{network} {int(length):02x} {none} 00 {none} {counters} {flags:08x}       lo\n"


ALL_LOCAL = ["fdaa::3/128", "fdaa:0:18::3/128", "fdaa:0:19::3/128", "fdaa:0:1a::3/128"]


@pytest.mark.parametrize(
    ("lines", "level", "says"),
    [
        ([*map(route, ALL_LOCAL)], "ok", "all 4 server addresses are local"),
        ([route("fdaa::/16")], "ok", "all 4 server addresses are local"),
        ([route("::/0", 0x0045_0003)], "warn", "fdaa::3, fdaa:0:18::3, fdaa:0:19::3 and 1 more"),
        ([*map(route, ALL_LOCAL[:3])], "warn", "not local to this host: fdaa:0:1a::3"),
        (
            [*map(route, ALL_LOCAL[1:]), route("fdaa::3/128", 1)],
            "warn",
            "not local to this host: fdaa::3",
        ),
        (["garbage\n", "\n"], "warn", "and 1 more"),
    ],
)
def test_missing_local_routes_are_found(
    lines: list[str], level: str, says: str, catalog: Catalog, tmp_path: Path
) -> None:
    (tmp_path / "routes").write_text("".join(lines))
    (result,) = check_routes(WILDCARD, catalog, PREFIX, tmp_path / "routes")
    assert result.level == level
    assert result.says.endswith(says)
    if level == "warn":
        assert result.do.startswith("Add a route: ip -6 route add local fdaa:")


def test_who_listens_on_loopback_needs_no_route(catalog: Catalog, tmp_path: Path) -> None:
    assert not list(check_routes(LOOPBACK, catalog, PREFIX, tmp_path / "nosuch"))


def test_an_unreadable_table_is_said(catalog: Catalog, tmp_path: Path) -> None:
    (result,) = check_routes(WILDCARD, catalog, PREFIX, tmp_path / "nosuch")
    assert result.level == "warn"
    assert "No such file" in result.says


@pytest.mark.live
@requires_root()
@requires_tool("ip")
def test_the_kernel_tells_local_routes_as_we_read_them() -> None:
    host = Host("routes")
    try:
        for line in (
            "-6 route add local fdaa:0:18::3/128 dev lo",
            "-6 route add local fdab::/16 dev lo",
        ):
            host.ip(line)
        table = local_routes(host.run("cat", "/proc/net/ipv6_route"))
        for text, length in (("fdaa:0:18::3", 128), ("fdab::", 16), ("::1", 128)):
            assert (int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big"), length) in table
    finally:
        host.close()


# ── upstreams ─────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def upstream(rcode: int, root: int | None = None) -> Iterator[str]:
    """An upstream that answers everything so, the root with *root*, without records."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def serve() -> None:
            while (said := sock.recvfrom(4_096))[0] != b"stop":
                octets = said[0]
                end = octets.index(b"\0", 12) + 5
                code = rcode if root is None or octets[12] else root
                head = octets[:2] + bytes((0x81, 0x80 | code)) + octets[4:6] + bytes(6)
                sock.sendto(head + octets[12:end], said[1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"udp://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            sock.sendto(b"stop", sock.getsockname())
            thread.join()


def test_each_upstream_is_asked(demo: Path) -> None:
    with upstream(0) as good, upstream(5) as refusing:
        dead = "udp://127.0.0.1:9"
        words = [word for url in (good, refusing, dead) for word in ("--upstream", url)]
        said = found("--listen", "127.0.0.1:0", "--catalog", demo, *words)
    assert said[f"upstream {good}"]["level"] == "ok"
    assert "answers example.com. with NOERROR in" in said[f"upstream {good}"]["says"]
    for bad, code in ((refusing, "EDE 23"), (dead, "EDE 22")):
        assert said[f"upstream {bad}"]["level"] == "fail"
        assert code in said[f"upstream {bad}"]["says"]
        assert "firewall" in said[f"upstream {bad}"]["do"]


@pytest.mark.parametrize(
    ("rcode", "root", "level", "says"),
    [
        (3, 3, "ok", "with NXDOMAIN in"),  # an internal resolver: it answers
        (0, 5, "ok", "refuses `. NS` with"),
        (5, 0, "warn", "reachable, but it answers example.com. A with SERVFAIL"),
        (2, 0, "warn", "reachable, but it answers example.com. A with SERVFAIL"),
    ],
)
def test_an_upstream_is_judged_by_a_real_name_as_well_as_the_root(
    rcode: int, root: int, level: str, says: str, demo: Path
) -> None:
    with upstream(rcode, root) as url:
        said = found("--listen", "127.0.0.1:0", "--catalog", demo, "--upstream", url)
    assert (said[f"upstream {url}"]["level"], says in said[f"upstream {url}"]["says"]) == (
        level,
        True,
    ), said[f"upstream {url}"]


def test_the_upstream_of_a_suffix_is_asked_for_that_suffix(demo: Path, tmp_path: Path) -> None:
    with upstream(0, 5) as url:
        file = tmp_path / "own.toml"
        file.write_text(
            f'upstream = ["udp://127.0.0.1:9"]\n[forward]\n"corp.example" = ["{url}"]\n'
        )
        said = found("--listen", "127.0.0.1:0", "--catalog", demo, "--config", file)
    assert "answers corp.example. with NOERROR" in said[f"upstream {url}"]["says"]


@pytest.mark.parametrize(
    ("text", "listen", "level", "says"),
    [
        (
            "nameserver 192.0.2.53\n",
            "127.0.0.1:1053",
            "ok",
            "udp://192.0.2.53:53, from /etc/resolv.conf",
        ),
        (
            "nameserver 127.0.0.1\nnameserver 192.0.2.53\n",
            "127.0.0.1:53",
            "ok",
            "from /etc/resolv.conf without this server",
        ),
        ("nameserver 127.0.0.1\n", "127.0.0.1:53", "warn", "names only this server"),
        ("", "127.0.0.1:53", "ok", "udp://9.9.9.9:53: /etc/resolv.conf names none"),
    ],
)
def test_a_circle_through_resolv_conf_is_seen(
    text: str,
    listen: str,
    level: str,
    says: str,
    demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def not_asked(*_: object) -> list[CheckResult]:
        return []

    (tmp_path / "resolv.conf").write_text(text)
    read = upstreams.from_resolv_conf
    monkeypatch.setattr(
        upstreams, "from_resolv_conf", lambda own: read(own, tmp_path / "resolv.conf")
    )
    monkeypatch.setattr("internal_dns.cli.doctor.upstreams._probe_all", not_asked)
    said = found("--listen", listen, "--catalog", demo)["upstreams"]
    assert (said["level"], says in said["says"]) == (level, True), said
    if level == "warn":
        assert "forward to itself" in said["why"]


# ── admin and console ─────────────────────────────────────────────────────────────────────────────


def test_the_ports_of_admin_and_console_are_looked_at(demo: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        words = ("--admin", taken, "--console", "127.0.0.1:0", "--upstream", "none")
        said = found("--listen", "127.0.0.1:0", "--catalog", demo, *words)
    admin = said[f"admin {taken}"]
    assert (admin["level"], admin["says"]) == ("fail", "Address already in use")
    assert "--admin" in admin["do"]
    assert said["console 127.0.0.1:0"]["level"] == "ok"


# ── a running server ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.live
def test_a_running_server_is_no_port_clash_and_its_answers_are_read_twice(demo: Path) -> None:
    with serving(demo) as server:
        said = found("--listen", f"[::1]:{server.port}", "--upstream", "none", "--catalog", demo)
    assert said[f"listen [::1]:{server.port}"]["level"] == "ok"
    assert "running" in said[f"listen [::1]:{server.port}"]["says"]
    assert (
        said["answer _apps.internal."]["says"] == "NOERROR, 1 records; dnspython and dnslib agree"
    )


@pytest.mark.live
def test_a_server_that_runs_elsewhere_is_found_by_its_catalog(demo: Path) -> None:
    """As after `make demo`: the demo's server listens on [::1]:1053, not on `serve`'s default."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        admin = f"127.0.0.1:{free.getsockname()[1]}"
    with serving(demo, "--admin", admin) as server:
        words = ("--upstream", "none", "--catalog", demo, "--admin", admin)
        said = found("--listen", "127.0.0.1:0", *words)
        other = found("--listen", "127.0.0.1:0", "--upstream", "none", "--admin", admin)
    # Its own port is no clash for it; for the server of another catalog it is.
    assert said[f"admin {admin}"]["says"] == "in use by the running server of this catalog"
    assert other[f"admin {admin}"]["level"] == "fail"
    assert f"on [::1]:{server.port}" in said["server"]["says"]
    assert said["answer _apps.internal."]["level"] == "ok"


@pytest.mark.live
def test_a_refusal_is_no_proof_of_health(demo: Path) -> None:
    with serving(demo, map_loopback=False) as server:
        said = found("--listen", "127.0.0.1:0", "--upstream", "none", "--catalog", demo)
    answer = said["answer internal."]
    assert (answer["level"], answer["says"]) == ("warn", "REFUSED to ::1")
    assert "--map-source ::1/128=NETWORK" in answer["do"]
    assert "answer _apps.internal." not in said
    assert server.port


@pytest.mark.live
def test_a_server_without_its_catalog_is_not_well(tmp_path: Path) -> None:
    missing = tmp_path / "absent.db"
    with serving(missing):
        said = found("--listen", "127.0.0.1:0", "--upstream", "none", "--catalog", missing)
    assert (said["answer internal."]["level"], said["answer internal."]["says"]) == (
        "fail",
        "SERVFAIL to ::1",
    )


@pytest.mark.live
@requires_root()
@requires_tool("ip")
def test_a_host_that_holds_a_network_address_asks_from_it(demo: Path) -> None:
    host = Host("doctor")
    try:
        host.ip("-6 route add local fdaa::/16 dev lo")
        served = Served(
            "--catalog", str(demo), "--upstream", "none", "--listen", "[::]:53", host=host
        )
        words = ("doctor", "--catalog", str(demo), "--listen", "[::]:53", "--upstream", "none")
        report = host.run(sys.executable, "-m", "internal_dns", *words)
        served.stop()
    finally:
        host.close()
    assert "answer _apps.internal." in report
    assert "dnspython and dnslib agree" in report
    assert "listen [::]:53" in report


def test_a_server_that_is_not_there_is_said_at_once(demo: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{sock.getsockname()[1]}"
    words = ("--listen", "127.0.0.1:0", "--upstream", "none", "--catalog", demo, "--server", server)
    assert found(*words)["answer internal."]["says"] == "nothing listens there"


def test_what_a_bucket_or_a_file_says_does_not_steer_the_terminal() -> None:
    evil = "\x1b]0;x\x07\x9b\u202e"
    lines = report([CheckResult("fail", evil, evil, evil, evil)])
    assert all(line.isprintable() for line in lines)


# ── the bucket ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "value", "do"),
    [
        ("nonsense", b"x", "`internal-dns publish` removes it"),
        ("machines.!", b"{}", "`internal-dns publish` removes it"),
        (machine("a")[0], b'{"version": 2}', "Upgrade internal-dns on this host"),
        ("gateways.abc", b'{"version": 1}', "Upgrade internal-dns on this host"),
        (machine("a")[0], b'{"version": 1}', "Publish a value"),
        (FLOOR, b"{}", "Publish a value"),
    ],
)
def test_the_advice_for_a_key_that_is_kept_out_is_right(
    tmp_path: Path, key: str, value: bytes, do: str
) -> None:
    """No value can be published for a key that no row can have."""
    path = tmp_path / "catalog.db"
    create_catalog(path, {})
    with Writer(path, following=True) as writer:
        replica = Replica(writer, "nats://example/catalog")
        with replica.transaction():
            replica.apply(make_batch([Message(key, 7, value)], {}, Values(CatalogRules())))
            replica.set_position(Position("one", 7), 0.0)
    symptoms = found("--catalog", path, "--listen", "[::1]:0")
    assert do in symptoms[f"rejected {key}"]["do"]
