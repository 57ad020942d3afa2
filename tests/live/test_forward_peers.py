"""Real peers: dnsdist that ends connections, a validating Unbound behind us, and races against
forged replies."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dns.exception
import dns.flags
import dns.rdatatype
import pytest

from tests.live.conftest import catalog_file
from tests.live.forwarding import GOOD, ask_all
from tests.live.hosts import Served, addresses, ask, outcome, query, serving
from tests.live.unbound import free_ports
from tests.live.upstream import Asked, Said, Upstream, after, answering
from tests.tools import requires_tool

pytestmark = pytest.mark.live

RACES, PACKETS = 60, 1_000
EVIL = "203.0.113.66"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalog_file(tmp_path_factory.mktemp("peers") / "catalog.db", "acme.sql")


# ── forged replies ────────────────────────────────────────────────────────────────────────────────


def forged(asked: Asked) -> Iterable[Said]:
    """A thousand guesses of the id, none of them right, all with the question as it was asked; then
    the reply. By TCP the reply alone: nobody off the path can speak there."""
    if not asked.stream:
        evil = asked.reply(f"@ 60 IN A {EVIL}")
        own = int.from_bytes(asked.octets[:2], "big")
        for guess in range(1, PACKETS + 1):
            yield ((own + guess * 65) & 0xFFFF).to_bytes(2, "big") + evil[2:]
    yield asked.reply(f"@ 60 IN A {GOOD}")


@pytest.mark.parametrize("sockets", ["fresh", "pool"])
def test_no_forged_reply_wins_and_every_question_is_answered(catalog: Path, sockets: str) -> None:
    with (
        Upstream(forged) as upstream,
        serving(catalog, "--upstream-sockets", sockets, upstream=upstream.url) as server,
    ):
        for number in range(RACES):
            (got,) = ask_all(server, [query(f"race{number}.example", "A")])
            assert (got.outcome, got.addresses) == ("NOERROR", [GOOD]), number
        names = {asked.name for asked in tuple(upstream.asked)}
        assert len(names) == RACES


# ── dnsdist that takes few questions per connection ───────────────────────────────────────────────


class Dnsdist:
    """Debian's dnsdist before *behind*: TCP connections end after *takes* questions."""

    def __init__(self, folder: Path, behind: int, takes: int) -> None:
        (self.port,) = free_ports(1)
        config = folder / "dnsdist.conf"
        config.write_text(
            f'setLocal("[::1]:{self.port}")\nsetACL({{"::1/128"}})\n'
            f'newServer({{address="[::1]:{behind}", checkInterval=3600}})\ngetServer(0):setUp()\n'
            f"setMaxTCPQueriesPerConnection({takes})\nsetSecurityPollSuffix('')\n"
        )
        self.process = subprocess.Popen(
            ["dnsdist", "--supervised", "--disable-syslog", "-C", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


@requires_tool("dnsdist")
@pytest.mark.parametrize("wait", [0.0, 0.1], ids=["at once", "slow"])
@pytest.mark.parametrize("takes", [1, 2])
def test_dnsdist_that_ends_connections_after_few_questions_answers_all(
    catalog: Path, tmp_path: Path, takes: int, wait: float
) -> None:
    with Upstream(after(wait, answering(f"@ 60 IN A {GOOD}"))) as behind:
        peer = Dnsdist(tmp_path, behind.port, takes)
        try:
            with serving(catalog, upstream=f"tcp://[::1]:{peer.port}") as server:
                _until_answered(server)
                got = ask_all(server, [query(f"x{n}.example", "A") for n in range(20)])
                assert [each.outcome for each in got if each.addresses != [GOOD]] == []
        finally:
            peer.close()


def _until_answered(server: Served) -> None:
    end = time.monotonic() + 20
    while ask(server, query(f"up{time.monotonic_ns()}.example", "A")).rcode():
        assert time.monotonic() < end
        time.sleep(0.1)


# ── a validating client ───────────────────────────────────────────────────────────────────────────

ORIGIN = "signed.example"
ZONE = """$TTL 300
@ IN SOA ns.signed.example. root.signed.example. 1 3600 600 86400 60
@ IN NS ns.signed.example.
ns IN AAAA 2001:db8::53
www IN A 192.0.2.80
alias IN CNAME www
*.wild IN A 192.0.2.81
corp IN NS ns.corp
ns.corp IN AAAA 2001:db8::54
safe IN NS ns.safe
ns.safe IN AAAA 2001:db8::55
"""
SAFE = """$TTL 300
@ IN SOA ns.safe.signed.example. root.signed.example. 1 3600 600 86400 60
@ IN NS ns
ns IN AAAA 2001:db8::55
www IN A 192.0.2.82
"""


class Resolver:
    """An Unbound with this configuration."""

    def __init__(self, folder: Path, name: str, config: str) -> None:
        (self.port,) = free_ports(1)
        file = folder / f"{name}.conf"
        file.write_text(
            f'server:\n  interface: "::1@{self.port}"\n  access-control: ::1/128 allow\n'
            f"  do-daemonize: no\n  username: ''\n  chroot: ''\n  directory: '{folder}'\n"
            f"  pidfile: ''\n  use-syslog: no\n  do-not-query-localhost: no\n  num-threads: 1\n"
            f"  qname-minimisation: no\n  do-ip4: no\n{config}\nremote-control:\n"
            f"  control-enable: no\n"
        )
        self.log = (folder / f"{name}.log").open("w+")
        self.process = subprocess.Popen(
            ["unbound", "-d", "-p", "-c", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.log.close()


def signed_zone(folder: Path, *, nsec3: bool, origin: str = ORIGIN, text: str = ZONE) -> Path:
    """Sign the zone; its DS is then in `dsset-ORIGIN.` beside it."""
    (folder / f"{origin}.zone").write_text(text)
    keygen = ["dnssec-keygen", "-q", "-K", str(folder), "-a", "ECDSAP256SHA256"]
    for kind in (["-f", "KSK"], []):
        subprocess.run([*keygen, *kind, origin], check=True, capture_output=True, timeout=30)
    subprocess.run(
        ["dnssec-signzone", "-S", "-K", str(folder), *(["-3", "beef"] if nsec3 else []), "-g",
         "-o", origin, "-f", f"{origin}.signed", f"{origin}.zone"],
        cwd=folder, check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return folder / f"{origin}.signed"


def authority(folder: Path, origin: str, zone: Path) -> Resolver:
    """An Unbound that answers from a signed zone and validates nothing."""
    return Resolver(
        folder,
        f"authority-{origin}",
        f"  module-config: 'iterator'\nauth-zone:\n  name: '{origin}.'\n  zonefile: '{zone}'\n"
        f"  for-downstream: no\n  for-upstream: yes\n  fallback-enabled: no",
    )


@contextmanager
def validating(
    folder: Path, catalog: Path, *flags: str, nsec3: bool = False
) -> Iterator[tuple[Served, Served]]:
    """A validating Unbound that asks us, and us; we ask one that has the signed zone."""
    behind = authority(folder, ORIGIN, signed_zone(folder, nsec3=nsec3))
    try:
        with serving(catalog, *flags, upstream=f"udp://[::1]:{behind.port}") as server:
            anchor = " ".join((folder / f"dsset-{ORIGIN}.").read_text().splitlines()[0].split())
            client = Resolver(
                folder,
                "client",
                f"  module-config: 'validator iterator'\n  trust-anchor: '{anchor}'\n"
                f"forward-zone:\n  name: '.'\n  forward-addr: ::1@{server.port}",
            )
            try:
                straight = object.__new__(Served)
                straight.port = client.port
                _until_validating(straight)
                yield straight, server
            finally:
                client.close()
    finally:
        behind.close()


def _until_validating(client: Served) -> None:
    end = time.monotonic() + 20
    while True:
        with suppress(OSError, dns.exception.DNSException):
            if not ask(client, query("www.signed.example", "A", want_dnssec=True)).rcode():
                break
        assert time.monotonic() < end
        time.sleep(0.1)


@requires_tool("unbound", "dnssec-signzone", "dnssec-keygen")
@pytest.mark.parametrize("nsec3", [False, True], ids=["nsec", "nsec3"])
def test_a_validating_client_behind_us_validates(
    catalog: Path, tmp_path: Path, nsec3: bool
) -> None:
    with validating(tmp_path, catalog, nsec3=nsec3) as (client, _):
        for name, rdtype, rcode in (
            ("www.signed.example", "A", 0),
            ("alias.signed.example", "A", 0),
            ("x.wild.signed.example", "A", 0),
            ("www.signed.example", "AAAA", 0),
            ("nobody.signed.example", "A", 3),
            ("signed.example", "DNSKEY", 0),
        ):
            for _ in range(2):  # the second time from caches
                reply = ask(client, query(name, rdtype, want_dnssec=True))
                assert reply.rcode() == rcode, (name, rdtype)
                assert reply.flags & dns.flags.AD, (name, rdtype)


@requires_tool("unbound", "dnssec-signzone", "dnssec-keygen")
@pytest.mark.parametrize("nsec3", [False, True], ids=["nsec", "nsec3"])
def test_a_validating_client_learns_from_the_zone_above_that_a_rules_suffix_is_unsigned(
    catalog: Path, tmp_path: Path, nsec3: bool
) -> None:
    with Upstream(answering(f"@ 60 IN A {GOOD}")) as corporate:
        config = tmp_path / "config.toml"
        config.write_text(f'[forward]\n"corp.signed.example" = ["{corporate.url}"]\n')
        flags = ("--config", str(config))
        with validating(tmp_path, catalog, *flags, nsec3=nsec3) as (client, server):
            for _ in range(2):
                reply = ask(client, query("www.corp.signed.example", "A", want_dnssec=True))
                assert (outcome(reply), addresses(reply)) == ("NOERROR", [GOOD])
                assert not reply.flags & dns.flags.AD
            proof = ask(server, query("corp.signed.example", "DS", want_dnssec=True))
            assert proof.rcode() == 0
            assert not proof.answer
            assert dns.rdatatype.RRSIG in {rrset.rdtype for rrset in proof.authority}
        asked = {(each.name, each.rdtype) for each in corporate.asked}
        assert ("www.corp.signed.example.", dns.rdatatype.A) in asked
        assert ("corp.signed.example.", dns.rdatatype.DS) not in asked


@requires_tool("unbound", "dnssec-signzone", "dnssec-keygen")
@pytest.mark.parametrize("nsec3", [False, True], ids=["nsec", "nsec3"])
def test_a_validating_client_trusts_a_rules_suffix_by_the_ds_in_the_zone_above(
    catalog: Path, tmp_path: Path, nsec3: bool
) -> None:
    """The zone of the suffix knows no DS of its own: its upstream would deny it without proof."""
    safe = f"safe.{ORIGIN}"
    own = authority(tmp_path, safe, signed_zone(tmp_path, nsec3=nsec3, origin=safe, text=SAFE))
    try:
        config = tmp_path / "config.toml"
        config.write_text(f'[forward]\n"{safe}" = ["udp://[::1]:{own.port}"]\n')
        flags = ("--config", str(config))
        with validating(tmp_path, catalog, *flags, nsec3=nsec3) as (client, server):
            for name, rdtype, rcode in (
                (f"www.{safe}", "A", 0),
                (f"www.{safe}", "AAAA", 0),
                (f"nobody.{safe}", "A", 3),
                (safe, "DNSKEY", 0),
                (safe, "DS", 0),
            ):
                for _ in range(2):  # the second time from caches
                    reply = ask(client, query(name, rdtype, want_dnssec=True))
                    assert reply.rcode() == rcode, (name, rdtype)
                    assert reply.flags & dns.flags.AD, (name, rdtype)
            ds = ask(server, query(safe, "DS", want_dnssec=True))
            assert dns.rdatatype.DS in {rrset.rdtype for rrset in ds.answer}
    finally:
        own.close()


# ── chains from outside into our names ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["native", "python"])
def test_a_chain_from_outside_into_our_names_is_completed_each_time_by_both_paths(
    catalog: Path, path: str
) -> None:
    ours = ["fdaa:0:18:a7b:7d:2:1:2", "fdaa:0:18:a7b:81:2:2:2", "fdaa:0:18:a7b:91:2:3:2"]
    with (
        Upstream(answering("@ 300 IN CNAME db.internal.")) as upstream,
        serving(catalog, "--udp-path", path, upstream=upstream.url) as server,
    ):
        assert f"udp path {path}" in server.ready
        firsts = set()
        for _ in range(30):
            reply = ask(server, query("alias.example"))
            assert (outcome(reply), addresses(reply)) == ("NOERROR", ours)
            assert not reply.flags & (dns.flags.AA | dns.flags.AD)
            chain, end = reply.answer
            assert chain.to_text() == f"alias.example. {chain.ttl} IN CNAME db.internal."
            assert (end.name.to_text(), end.ttl) == ("db.internal.", 5)
            firsts.add(end[0].to_text())
        assert len(upstream.asked) == 1  # the chain is kept
        assert firsts == set(ours)  # and its end is not
        nothing = ask(server, query("alias.example", "TXT"))
        assert (nothing.rcode(), len(nothing.answer)) == (0, 1)
        assert [rrset.rdtype for rrset in nothing.authority] == [dns.rdatatype.SOA]
