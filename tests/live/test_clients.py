"""Real clients, on hosts of two tenants whose /etc/resolv.conf names only fdaa::3."""

from __future__ import annotations

import re
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.message
import pytest

from tests.live.conftest import catalog_file
from tests.live.hosts import (
    Host,
    Served,
    addresses,
    change,
    command,
    join,
    outcome,
    query,
    serving,
    until,
)
from tests.tools import requires_root, requires_tool

pytestmark = [pytest.mark.live, requires_root(), requires_tool("ip")]

MACHINE = "fdaa:0:18:a7b:7d:f066:b83b:2"  # acme's, of app web
PEER = "fdaa:0:18:a7b:7d:f066:b83b:102"
VACANT = "fdaa:0:1a:a7b:7d:1:1:2"  # acme's other network
OTHER = "fdaa:0:19:a7b:7d:1:1:2"  # globex's machine, of app web too
OUTSIDER = "2001:db8::2"
WEB = sorted([
    "fdaa:0:18:a7b:7d:1:5:2", MACHINE, "fdaa:0:18:a7b:7e:1:2:2", "fdaa:0:18:a7b:91:1:3:2",
    "fdaa:0:18:a7b:a1:1:4:2",
])  # fmt: skip
DB = ["fdaa:0:18:a7b:7d:2:1:2", "fdaa:0:18:a7b:81:2:2:2", "fdaa:0:18:a7b:91:2:3:2"]
GLOBEX_WEB = [OTHER, "fdaa:0:19:a7b:c1:1:2:2"]
# 0x18 in full, as `-x` and nslookup ask for it.
REVERSE = "2.0.0.0.b.3.8.b.6.6.0.f.d.7.0.0.b.7.a.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa."

# Everything that dig and kdig print when something about a reply displeases them.
COMPLAINT = re.compile(
    r"(?im)^.*(warn|\berror|unexpected|mismatch|malformed|\bbad\b|not available|timed out).*$"
)


@dataclass(frozen=True, slots=True)
class Hosts:
    server: Host
    acme: Host
    globex: Host
    served: Served
    catalog: Path


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    catalog = catalog_file(tmp_path_factory.mktemp("clients") / "catalog.db", "acme.sql")
    change(catalog, "UPDATE networks SET organization = 'acme' WHERE id = 26")
    server, acme, globex = Host("server"), Host("acme"), Host("globex")
    try:
        server.ip("-6 route add local fdaa::3/128 dev lo")
        join(server, acme, "acme", ("fdaa:0:18", "fdaa:0:1a"), (MACHINE, PEER, VACANT, OUTSIDER))
        join(server, globex, "globex", ("fdaa:0:19",), (OTHER,))
        acme.nameserver("fdaa::3")
        globex.nameserver("fdaa::3")
        # An upstream that is not there: without forwarding (RA 0) dig warns.
        with serving(catalog, "--region", "iad", host=server, upstream="udp://[::1]:9") as served:
            yield Hosts(server, acme, globex, served, catalog)
    finally:
        for host in (acme, globex, server):
            host.close()


@pytest.fixture(scope="module")
def resolve(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of resolve.c, compiled against musl."""
    program = tmp_path_factory.mktemp("musl") / "resolve"
    command(
        "musl-gcc",
        "-static",
        "-O1",
        "-Wall",
        "-Werror",
        "-o",
        str(program),
        str(Path(__file__).with_name("resolve.c")),
    )
    return str(program)


def dig(host: Host, *words: str, program: str = "dig") -> str:
    """Run dig and return what it prints, which must not hold any complaint."""
    said = host.run(program, *words)
    assert not COMPLAINT.search(said), said
    return said


def short(host: Host, *words: str, program: str = "dig") -> list[str]:
    """The rdata that dig prints, sorted."""
    return sorted(dig(host, *words, "+short", program=program).split("\n")[:-1])


def exchange(
    host: Host, message: dns.message.Message, source: str, destination: str
) -> tuple[dns.message.Message, str]:
    """Ask from *source* at *destination*; return the reply and the address it came from."""
    with host.socket(socket.SOCK_DGRAM, source) as sock:
        sock.sendto(message.to_wire(), (destination, 53))
        octets, peer = sock.recvfrom(65_535)
    return dns.message.from_wire(octets), peer[0]


# ── dig and kdig ──────────────────────────────────────────────────────────────────────────────────


@requires_tool("dig")
class TestDig:
    def test_it_finds_the_addresses_of_an_app(self, hosts: Hosts) -> None:
        said = dig(hosts.acme, "web.internal", "AAAA")
        assert "status: NOERROR" in said
        assert ";; flags: qr aa rd ra; QUERY: 1, ANSWER: 5" in said
        assert "SERVER: fdaa::3#53(fdaa::3) (UDP)" in said
        assert sorted(re.findall(r"AAAA\s(fdaa:\S+)", said)) == WEB

    @pytest.mark.parametrize(
        "words",
        [
            [],
            ["+noedns"],
            ["+tcp"],
            ["+tcp", "+noedns"],
            ["+bufsize=512"],
            ["+nocookie"],
            ["+nsid"],
            ["+dnssec"],
            ["+norecurse"],
            ["+cdflag"],
            ["+keepalive", "+tcp"],
            ["+padding=64"],
            ["+subnet=192.0.2.0/24"],
        ],
        ids=" ".join,
    )
    def test_no_option_of_the_query_changes_the_answer(
        self, hosts: Hosts, words: list[str]
    ) -> None:
        assert short(hosts.acme, *words, "db.internal", "AAAA") == DB
        assert "status: NXDOMAIN" in dig(hosts.acme, *words, "nobody.internal", "AAAA")

    def test_reverse_look_up(self, hosts: Hosts) -> None:
        assert short(hosts.acme, "-x", MACHINE) == ["3d8d9930b03989.vm.web.internal."]
        assert short(hosts.acme, "-x", "fdaa::3") == ["_dns.internal."]
        assert "status: NXDOMAIN" in dig(hosts.acme, "-x", OTHER)

    def test_the_letter_case_of_the_question_comes_back(self, hosts: Hosts) -> None:
        for _ in range(2):  # decided, then repeated
            said = dig(hosts.acme, "dB.iNTerNAl", "AAAA")
            assert ";dB.iNTerNAl.\t" in said
            assert len(re.findall(r"(?m)^dB\.iNTerNAl\.\s+5\s+IN\s+AAAA", said)) == 3

    def test_the_source_decides_who_asks(self, hosts: Hosts) -> None:
        said = dig(hosts.acme, "-b", PEER, "_whoami.internal", "TXT")
        assert f"network=acme,region=iad,address={PEER},server=iad,revision=" in said
        assert short(hosts.acme, "-b", VACANT, "_apps.internal", "TXT") == ['""']

    def test_what_does_not_fit_is_asked_again_by_tcp(self, hosts: Hosts) -> None:
        said = hosts.acme.run("dig", "+bufsize=512", "_instances.internal", "TXT")
        assert ";; Truncated, retrying in TCP mode." in said
        assert "(TCP)" in said
        assert len(re.findall("instance=", said)) == 9
        assert "flags: qr aa tc" in dig(
            hosts.acme, "+bufsize=512", "+ignore", "_instances.internal", "TXT"
        )

    def test_empty_lists_are_one_empty_string(self, hosts: Hosts) -> None:
        assert short(hosts.acme, "vms.blog.internal", "TXT") == ['""']

    def test_srv_has_its_addresses_with_it(self, hosts: Hosts) -> None:
        said = dig(hosts.acme, "_postgres._tcp.db.internal", "SRV")
        assert "0 1 5432 148e306c77e789.vm.db.internal." in said
        assert re.search(
            r"148e306c77e789\.vm\.db\.internal\.\s+5\s+IN\s+AAAA\s+fdaa:0:18:a7b:7d:2:1:2", said
        )


@requires_tool("kdig")
@pytest.mark.parametrize(
    "words", [[], ["+tcp"], ["+edns"], ["+cookie"], ["+nsid"], ["+tcp", "+keepopen"]], ids=" ".join
)
def test_kdig_finds_the_same(hosts: Hosts, words: list[str]) -> None:
    asked = [*words, "@fdaa::3", "db.internal", "AAAA"]
    assert short(hosts.acme, *asked, program="kdig") == DB
    assert "Flags: qr aa" in dig(hosts.acme, *asked, program="kdig")
    assert "status: NXDOMAIN" in dig(
        hosts.acme, *words, "@fdaa::3", "nobody.internal", "AAAA", program="kdig"
    )


# ── resolvers of C libraries ──────────────────────────────────────────────────────────────────────


@requires_tool("getent")
def test_glibc_finds_addresses_although_there_is_no_a(hosts: Hosts) -> None:
    for database in ("ahostsv6", "ahosts"):
        said = hosts.acme.run("getent", database, "db.internal")
        assert sorted(re.findall(r"(?m)^(\S+)\s+STREAM", said)) == DB
    assert hosts.acme.run("getent", "ahosts", "nobody.internal", fails=True) == ""
    assert "3d8d9930b03989.vm.web.internal" in hosts.acme.run("getent", "hosts", MACHINE)


@requires_tool("getent")
@pytest.mark.parametrize(
    "options", ["use-vc", "edns0", "edns0 trust-ad", "single-request", "single-request-reopen"]
)
def test_glibc_finds_addresses_with_its_options_set(hosts: Hosts, options: str) -> None:
    hosts.acme.nameserver("fdaa::3", options)
    try:
        said = hosts.acme.run("getent", "ahosts", "db.internal")
        assert sorted(re.findall(r"(?m)^(\S+)\s+STREAM", said)) == DB
        assert hosts.acme.run("getent", "ahosts", "nobody.internal", fails=True) == ""
    finally:
        hosts.acme.nameserver("fdaa::3")


def test_python_finds_addresses_although_there_is_no_a(hosts: Hosts) -> None:
    program = """
import socket
found = socket.getaddrinfo("db.internal", 5432, type=socket.SOCK_STREAM)
print(*sorted({each[4][0] for each in found}))
try:
    socket.getaddrinfo("nobody.internal", 80)
except socket.gaierror as error:
    print(error.errno == socket.EAI_NONAME)
"""
    assert hosts.acme.run(sys.executable, "-c", program).split() == [*DB, "True"]


@requires_tool("musl-gcc")
def test_musl_finds_addresses_although_there_is_no_a(hosts: Hosts, resolve: str) -> None:
    said = hosts.acme.run(resolve, "db.internal", "web.flycast", "nobody.internal", "blog.internal")
    found = {words[0]: sorted(words[1:]) for words in map(str.split, said.splitlines())}
    assert found["db.internal"] == DB
    assert found["web.flycast"] == ["fdaa:0:18:0:1::2", "fdaa:0:18:0:1::5"]
    assert found["nobody.internal"] == ["EAI_NONAME"]
    assert found["blog.internal"] != [
        "EAI_AGAIN"
    ]  # there is such an app, without a machine: no reason to try again


@requires_tool("musl-gcc")
def test_musl_uses_what_a_truncated_reply_holds(hosts: Hosts, resolve: str) -> None:
    # 30 addresses are 30 * 28 octets: too many for 512, and musl before 1.2.4 asks neither by EDNS
    # nor by TCP.
    rows = ",".join(
        f"('m{n}', 24, 'many', 'fdaa:0:18:a7b:7d:9:{n:x}:2', 'iad', 'started')"
        for n in range(1, 31)
    )
    change(
        hosts.catalog,
        f"INSERT INTO machines (id, network_id, app, address, region, state) VALUES {rows}",
    )
    until(lambda: "NOERROR" in hosts.acme.run("dig", "many.internal", "AAAA"), 5)
    found = hosts.acme.run(resolve, "many.internal").split()[1:]
    assert len(set(found)) >= 15
    change(hosts.catalog, "DELETE FROM machines WHERE app = 'many'")


@requires_tool("busybox")
def test_busybox_nslookup_finds_addresses(hosts: Hosts) -> None:
    said = hosts.acme.run("busybox", "nslookup", "db.internal")
    assert sorted(re.findall(r"(?m)^Address(?: \d+)?:\s+(fdaa:0:\S+)", said)) == DB
    assert "NXDOMAIN" in hosts.acme.run("busybox", "nslookup", "nobody.internal", fails=True)
    assert "vms.db" in hosts.acme.run("busybox", "nslookup", "-type=txt", "vms.db.internal")


# ── tenants ───────────────────────────────────────────────────────────────────────────────────────


@requires_tool("dig")
def test_two_tenants_with_an_app_of_one_name_see_their_own_only(hosts: Hosts) -> None:
    assert short(hosts.acme, "web.internal", "AAAA") == WEB
    assert short(hosts.globex, "web.internal", "AAAA") == GLOBEX_WEB
    assert short(hosts.globex, "_apps.internal", "TXT") == ['"secret,web"']
    assert "status: NXDOMAIN" in dig(hosts.globex, "db.internal", "AAAA")
    assert "status: NXDOMAIN" in dig(hosts.acme, "secret.internal", "AAAA")


@requires_tool("dig")
def test_hidden_peers_are_in_no_name_and_no_list(hosts: Hosts) -> None:
    assert short(hosts.acme, "_peer.internal", "TXT") == ['"alice-laptop,bob-desktop,nomad"']
    assert "status: NXDOMAIN" in dig(hosts.acme, "interactive-alice-7f3a._peer.internal", "AAAA")
    assert short(hosts.acme, "alice-laptop._peer.internal", "AAAA") == [PEER]


@pytest.mark.parametrize(
    ("source", "own"), [(MACHINE, "fdaa:0:18::3"), (PEER, "fdaa:0:18::3"), (VACANT, "fdaa:0:1a::3")]
)
def test_the_reply_comes_from_the_address_that_was_asked(
    hosts: Hosts, source: str, own: str
) -> None:
    for asked in ("fdaa::3", own, "fdaa::3"):
        reply, peer = exchange(hosts.acme, query("_api.internal"), source, asked)
        assert (peer, addresses(reply)) == (asked, [own])
        with hosts.acme.socket(socket.SOCK_STREAM, source) as stream:
            stream.connect((asked, 53))
            octets = query("_api.internal").to_wire()
            stream.sendall(len(octets).to_bytes(2, "big") + octets)
            assert addresses(dns.message.from_wire(stream.recv(65_535)[2:])) == [own]


def test_another_networks_address_is_refused(hosts: Hosts) -> None:
    for name in ("web.internal", "nobody.internal", "_api.internal"):
        for source, asked in (
            (VACANT, "fdaa:0:18::3"),
            (MACHINE, "fdaa:0:1a::3"),
            (MACHINE, "fdaa:0:19::3"),
        ):
            for _ in range(2):
                reply, peer = exchange(hosts.acme, query(name), source, asked)
                assert peer == asked
                assert outcome(reply).startswith("REFUSED")
                assert not reply.answer
    # The same at the right address, before and after.
    assert addresses(exchange(hosts.acme, query("web.internal"), MACHINE, "fdaa:0:18::3")[0]) == WEB


def test_an_outsider_is_refused_without_a_larger_reply(hosts: Hosts) -> None:
    for edns in (0, -1):
        for name in ("web.internal", "_dns.internal", "example.com", "localhost"):
            asked = query(name, use_edns=edns)
            reply, _ = exchange(hosts.acme, asked, OUTSIDER, "fdaa::3")
            assert outcome(reply).startswith("REFUSED")
            assert (reply.edns >= 0) == (asked.edns >= 0)
            assert len(reply.to_wire()) <= len(asked.to_wire())


def test_a_link_local_source_is_an_outsider(hosts: Hosts) -> None:
    with hosts.acme.socket(socket.SOCK_DGRAM) as sock:
        index = hosts.acme.inside(lambda: socket.if_nametoindex("eth0"))
        sock.sendto(query("web.internal").to_wire(), ("fe80::1", 53, 0, index))
        octets, peer = sock.recvfrom(65_535)
    assert peer[0].partition("%")[0] == "fe80::1"
    assert outcome(dns.message.from_wire(octets)).startswith("REFUSED")


def test_every_address_comes_first_equally_often(hosts: Hosts) -> None:
    first: Counter[str] = Counter()
    with hosts.acme.socket(socket.SOCK_DGRAM, MACHINE) as sock:
        sock.connect(("fdaa::3", 53))
        for _ in range(1_000):
            sock.send(query("web.internal").to_wire())
            first[
                dns.message.from_wire(sock.recv(4_096), one_rr_per_rrset=True)
                .answer[0][0]
                .to_text()
            ] += 1
    assert sorted(first) == WEB
    # 200 each are expected, and one in 10^7 runs has one below 130 (binomial, n = 1000, p = 1/5).
    assert min(first.values()) > 130, first


@requires_tool("dig")
def test_a_machine_that_stops_leaves_the_answer(
    hosts: Hosts, capsys: pytest.CaptureFixture[str]
) -> None:
    machine, address = "32874445f04218", "fdaa:0:18:a7b:81:2:2:2"

    def seen() -> list[str]:
        return addresses(exchange(hosts.acme, query("db.internal"), MACHINE, "fdaa::3")[0])

    assert seen() == DB
    change(hosts.catalog, f"UPDATE machines SET state = 'stopped' WHERE id = '{machine}'")
    took = until(lambda: address not in seen(), 5)
    assert short(hosts.acme, "db.internal", "AAAA") == [DB[0], DB[2]]
    change(hosts.catalog, f"UPDATE machines SET state = 'started' WHERE id = '{machine}'")
    back = until(lambda: seen() == DB, 5)
    with capsys.disabled():
        print(
            f"\n  a stopped machine left the answer after {took * 1000:.0f} ms, and was back after "
            f"{back * 1000:.0f} ms"
        )


def test_the_same_question_on_one_socket_is_answered_for_the_one_who_asks(hosts: Hosts) -> None:
    """Repeated replies are kept by network: ask in turns, so that what one got is there when the
    other asks."""
    for _ in range(3):
        assert addresses(exchange(hosts.acme, query("web.internal"), MACHINE, "fdaa::3")[0]) == WEB
        assert (
            addresses(exchange(hosts.globex, query("web.internal"), OTHER, "fdaa::3")[0])
            == GLOBEX_WEB
        )
        assert outcome(
            exchange(hosts.acme, query("web.internal"), VACANT, "fdaa::3")[0]
        ).startswith("NXDOMAIN")
