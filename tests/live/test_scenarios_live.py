"""Play the scenarios over real sockets to servers that were really started, from real source
addresses."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

import dns.edns
import dns.rcode
import pytest

from tests.live.conftest import catalog_file
from tests.live.hosts import Host, Served, change, query, until
from tests.live.upstream import Asked, Upstream
from tests.scenario.language import Scenario, Setting, all_scenarios
from tests.scenario.play import play
from tests.scenario.runner import Runner
from tests.tools import requires_native, requires_root, requires_tool

pytestmark = [pytest.mark.live, requires_root(), requires_tool("ip")]

IPV4 = "192.0.2.53"  # where IPv4 sources ask: what they are told does not depend on it
DUMMY_MAP = "203.0.113.1/32=fdaa:0:18::/48"  # `dev` without any map makes its own
# A network that no scenario has. Its name changes with each commit, so `_whoami.internal` tells
# when it is served.
WITNESS = 0xFFFF_FFFE
# The option makes Python answer: the native path would overtake what it handed up before.
PROBE = query(
    "_dns.internal", id=0x5EE5, options=[dns.edns.GenericOption(dns.edns.OptionType(65_002), b"")]
).to_wire()


@dataclass(slots=True)
class Living:
    """A server, and the file that it serves."""

    served: Served
    file: Path
    pristine: Path
    changes: tuple[str, ...] = ()
    commits: int = 0


class Sockets(Runner):
    """One server for each catalog and set of rules; changes are committed to its file."""

    def __init__(self, folder: Path, udp_path: str) -> None:
        self.folder, self.udp_path = folder, udp_path
        self.host = Host("scenarios")
        # Every address is local: any machine may ask, any server address may be asked.
        self.host.ip("-6 route add local default dev lo")
        self.host.ip("route add local default dev lo")
        self.upstream = Upstream(forwarded, self.host, overridden=OVERRIDDEN)
        self.servers: dict[Setting, Living] = {}
        self.pristine: dict[tuple[str, ...], Path] = {}
        self.now: Living | None = None
        self.slowest = 0.0  # commit until visible

    # ── servers ───────────────────────────────────────────────────────────────────────────────────

    def prepare(self, setting: Setting) -> None:
        key = Setting(catalog=setting.catalog, server=setting.server)
        living = self.servers.get(key)
        if living is None:
            living = self.servers[key] = self._start(setting)
        if living.changes != setting.changes:
            self._change(living, setting)
        self.now = living

    def _start(self, setting: Setting) -> Living:
        pristine = self.pristine.get(setting.catalog)
        if pristine is None:
            pristine = catalog_file(
                self.folder / f"catalog-{len(self.pristine)}.db", *setting.catalog
            )
            self.pristine[setting.catalog] = pristine
        file = Path(shutil.copy(pristine, self.folder / f"served-{len(self.servers)}.db"))
        flags = ["--catalog", str(file), "--listen", "[::]:0", "--listen", f"{IPV4}:0", "--admin",
                 "none",
                 *self._flags(setting)]  # fmt: skip
        return Living(
            Served(*flags, host=self.host, verb="dev" if setting.server.dev else "serve"),
            file,
            pristine,
        )

    def _flags(self, setting: Setting) -> Iterable[str]:
        said = setting.server
        yield from ("--udp-path", self.udp_path, "--workers", "2")
        yield from (
            "--prefix",
            f"{said.prefix}::/16",
            "--udp-limit",
            str(said.udp_limit),
            "--cookie-secret",
            "00" * 16,
        )
        if said.region:
            yield from ("--region", said.region)
        if said.nsid:
            yield from ("--nsid", said.nsid)
        for start in said.hidden:
            yield from ("--hidden-peers", start)
        for source, number in said.maps:
            network = IPv6Address(
                bytes.fromhex(said.prefix) + number.to_bytes(4, "big") + bytes(10)
            )
            yield from ("--map-source", f"{source}={network}/48")
        if said.dev and not said.maps:
            yield from ("--map-source", DUMMY_MAP)
        yield from ("--upstream", self.upstream.url if said.upstream else "none")
        if said.forward:
            config = self.folder / f"config-{len(self.servers)}.toml"
            # What is answered here in any case, the configuration refuses to forward.
            ours = ("internal", "flycast", "a.a.d.f.ip6.arpa")
            suffixes = [
                suffix
                for suffix in said.forward
                if not f".{suffix}".endswith(tuple(f".{o}" for o in ours))
            ]
            rules = (f'"{suffix}" = ["{self.upstream.url}"]\n' for suffix in suffixes)
            config.write_text("[forward]\n" + "".join(rules))
            yield from ("--config", str(config))

    def _change(self, living: Living, setting: Setting) -> None:
        """Bring the file to the changes of *setting* in one commit, and wait until that is
        served."""
        done, wanted = living.changes, setting.changes
        sql = [] if wanted[: len(done)] == done else _restored(living.pristine)
        sql += wanted[len(done) :] if not sql else wanted
        living.commits += 1
        name = f"commit-{living.commits}"
        sql.append(f"INSERT OR REPLACE INTO networks (id, name) VALUES ({WITNESS}, '{name}')")
        change(living.file, ";".join(statement.rstrip("; \n") for statement in sql))
        living.changes = wanted
        self.now = living
        source = str(
            IPv6Address(
                bytes.fromhex(setting.server.prefix) + WITNESS.to_bytes(4, "big") + bytes(9) + b"\2"
            )
        )
        at = str(IPv6Address(bytes.fromhex(setting.server.prefix) + bytes(13) + b"\3"))
        whoami = query("_whoami.internal", "TXT").to_wire()

        def served() -> bool:
            return f"network={name},".encode() in (
                self.exchange(whoami, source, at, stream=False) or b""
            )

        self.slowest = max(self.slowest, until(served, 2, "the commit was not served"))

    def close(self) -> None:
        failures = []
        for living in self.servers.values():
            try:
                living.served.stop()
            except AssertionError as error:
                failures.append(str(error))
        self.upstream.close()
        failures += map(str, self.upstream.faults)
        self.host.close()
        assert not failures, "\n".join(failures)

    # ── octets ────────────────────────────────────────────────────────────────────────────────────

    def exchange(
        self, octets: bytes, source: str, destination: str, *, stream: bool
    ) -> bytes | None:
        assert self.now is not None
        if ":" in source and (mapped := IPv6Address(source).ipv4_mapped):
            source = str(mapped)  # the edge passes IPv4 on so
        server = (IPV4 if "." in source else destination, self._port(source))
        reply = (
            self._by_tcp(octets, source, server) if stream else self._by_udp(octets, source, server)
        )
        self.why = "forwarded" if reply is not None and reply[3] & 15 == MARK else ""
        return None if self.why else reply

    def _port(self, source: str) -> int:
        """The port of the server: each address that it listens on has its own."""
        assert self.now is not None
        served = self.now.served
        if "." not in source:
            return served.port
        return int(served.ready.split(f"{IPV4}:")[1].split()[0].rstrip(","))

    def _by_udp(self, octets: bytes, source: str, server: tuple[str, int]) -> bytes | None:
        """Ask by UDP. Silence is believed when a question that was sent later has its reply."""
        with self.host.socket(socket.SOCK_DGRAM, source) as sock:
            sock.sendto(octets, server)
            probed = False
            for seconds in (0.1, 3, 0.1):
                sock.settimeout(seconds)
                try:
                    reply, peer = sock.recvfrom(65_535)
                except TimeoutError:
                    assert not probed or seconds < 1, "the server is gone"
                    if probed:
                        return None
                    sock.sendto(PROBE, server)
                    probed = True
                    continue
                assert peer[:2] == server, f"asked {server}, {peer} replied"
                if not probed or reply[:2] != PROBE[:2]:
                    return reply
        return None

    def _by_tcp(self, octets: bytes, source: str, server: tuple[str, int]) -> bytes | None:
        """Ask by TCP. None when the server closes without a reply, or says nothing."""
        with self.host.socket(socket.SOCK_STREAM, source) as sock:
            sock.connect(server)
            sock.sendall(len(octets).to_bytes(2, "big") + octets)
            received = b""
            while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
                try:
                    piece = sock.recv(65_537)
                except ConnectionResetError:
                    piece = b""
                if not piece:
                    assert not received, "half a frame"
                    return None
                received += piece
            assert len(received) == 2 + int.from_bytes(received[:2], "big"), (
                "octets behind the reply"
            )
            return received[2:]


# Local zones for which never-forwarded.scn has a rule.
OVERRIDDEN = ("home.arpa", "168.192.in-addr.arpa", "corp.test")
MARK = int(dns.rcode.NOTAUTH)  # an RCODE that no scenario has, and that is not kept


def forwarded(asked: Asked) -> Iterable[bytes]:
    """The upstream's only answer."""
    yield asked.reply(rcode=MARK)


def _restored(pristine: Path) -> list[str]:
    """SQL that makes the catalog what it was, for one transaction: SQLite attaches no file within
    one."""
    connection = sqlite3.connect(f"file:{pristine}?mode=ro", uri=True)
    try:
        dump = [line for line in connection.iterdump() if line.startswith("INSERT INTO")]
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
    finally:
        connection.close()
    return [*(f"DELETE FROM {table}" for table in tables), *dump]


SCENARIOS = [scenario for scenario in all_scenarios() if not scenario.in_process_only]


@pytest.fixture(scope="module", params=[pytest.param("native", marks=requires_native()), "python"])
def runner(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sockets]:
    found = Sockets(tmp_path_factory.mktemp("scenarios"), request.param)
    yield found
    found.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s.file.name}:{s.title}")
def test_scenario_over_sockets(scenario: Scenario, runner: Sockets) -> None:
    # Each question twice: decided, then repeated from the answer table.
    play(scenario, runner, times=2)
