"""How octets travel to a server and back: runners, and the catalogs they play with."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from functools import cache
from importlib import resources
from ipaddress import ip_address, ip_network
from pathlib import Path

from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.core.journey import Drop, Forward, Rules, respond
from internal_dns.core.requester import SourceMap
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import Loaded, load
from tests.scenario.language import FOLDER, Scenario, Server, Setting


class Runner(ABC):
    """A server to play scenarios to. `why` says what became of a message without a reply, if the
    runner can know: "forwarded" or "dropped REASON"; a runner over sockets knows the first from its
    stub upstream.
    """

    in_process = False
    why = ""

    def begin(self, scenario: Scenario) -> None:  # noqa: B027 -- a runner may keep nothing
        """A scenario starts; nothing of the one before must be seen in it."""

    @abstractmethod
    def prepare(self, setting: Setting) -> None:
        """Have a server with this catalog and these rules; called before every exchange, so compare
        first."""

    @abstractmethod
    def exchange(
        self, octets: bytes, source: str, destination: str, *, stream: bool
    ) -> bytes | None:
        """Send one message and return the reply, without the two length octets of TCP; None: there
        was none."""

    def faults(self) -> int:
        """Return how many rows the load left out."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 -- most have nothing to close
        """Let go of files and processes."""


class Files:
    """Catalog files by their parts: each made once, and copied when it is to be changed."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="scenarios-"))
        self.made: dict[tuple[str, ...], Path] = {}

    def file(self, setting: Setting) -> Path:
        """Return the file with the catalog of *setting*, its changes executed."""
        path = self.made.get(setting.catalog)
        if path is None:
            path = self.made[setting.catalog] = self.folder / f"{len(self.made)}.db"
            make_catalog(path, setting.catalog)
        if setting.changes:
            path = Path(shutil.copy(path, self.folder / "changed.db"))
            for sql in setting.changes:
                execute(path, sql)
        return path

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def make_catalog(path: Path, parts: tuple[str, ...]) -> None:
    """Write the catalog that a `catalog` line names."""
    if "demo" in parts:
        create_catalog(path, demo_rows())
    else:
        execute(path, resources.files("internal_dns").joinpath("schema.sql").read_text("utf-8"))
    for part in parts:
        if part.startswith("sized:"):
            execute(path, sized(int(part.removeprefix("sized:"))))
        elif part != "demo":
            execute(path, FOLDER.joinpath("catalogs", part).read_text("utf-8"))


def execute(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # Nothing here must survive a crash.
        connection.executescript(
            f"PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY; BEGIN; {sql}; COMMIT"
        )
    finally:
        connection.close()


def sized(count: int) -> str:
    """Return SQL for network 0x18 with one app, `big`, of *count* started machines.

    Machine n (hexadecimal, from 1) is `000000000000n` of 14 digits at fdaa:0:18:a7b:7d:1:n:2 in
    iad, in group `app`. Every one has metadata role=member. Flycast `big` has as many addresses,
    fdaa:0:18:0:1:1:n:2, and each machine has a peer beside it: `peer-n` of four digits.
    """
    rows = range(1, count + 1)
    machines = ",".join(
        f"('{n:014x}', 24, 'big', 'fdaa:0:18:a7b:7d:1:{n:x}:2', 'iad', 'started')" for n in rows
    )
    metadata = ",".join(f"('{n:014x}', 'role', 'member')" for n in rows)
    flycasts = ",".join(f"(24, 'big', 'fdaa:0:18:0:1:1:{n:x}:2')" for n in rows)
    peers = ",".join(f"(24, 'peer-{n:04x}', 'fdaa:0:18:a7b:7d:2:{n:x}:102')" for n in rows)
    return f"""
        INSERT INTO networks (id, name) VALUES (24, 'acme');
        INSERT INTO machines (id, network_id, app, address, region, state) VALUES {machines};
        INSERT INTO machine_metadata VALUES {metadata};
        INSERT INTO flycasts VALUES {flycasts};
        INSERT INTO peers (network_id, name, address) VALUES {peers};
    """


class InProcess(Runner):
    """Calls `respond` itself: no socket, no clock."""

    in_process = True

    def __init__(self) -> None:
        self.files = Files()
        self.kept: dict[tuple[tuple[str, ...], str, tuple[str, ...]], Loaded] = {}
        self.setting: Setting | None = None
        self.loaded = Loaded()
        self.catalog: Catalog | None = None

    def begin(self, scenario: Scenario) -> None:
        self.setting = None

    def prepare(self, setting: Setting) -> None:
        before, self.setting = self.setting, setting
        key = (setting.catalog, setting.server.prefix, setting.server.hidden)
        if (
            before is not None
            and (before.catalog, before.server.prefix, before.server.hidden) == key
        ):
            if before.changes == setting.changes:
                return
        if setting.catalog == ("none",):
            self.loaded, self.catalog = Loaded(), None
            return
        if setting.changes or key not in self.kept:
            grown = before is not None and before.catalog == setting.catalog
            self.loaded = load(
                self.files.file(setting),
                counting=True,
                rules=CatalogRules(bytes.fromhex(setting.server.prefix), setting.server.hidden),
                previous=self.loaded.catalog
                if grown and before and before.server == setting.server
                else None,
            )
            if not setting.changes:
                self.kept[key] = self.loaded
        else:
            self.loaded = self.kept[key]
        self.catalog = self.loaded.catalog

    def exchange(
        self, octets: bytes, source: str, destination: str, *, stream: bool
    ) -> bytes | None:
        assert self.setting is not None
        outcome = respond(
            octets,
            packed(source),
            packed(destination),
            self.catalog,
            self.rules(self.setting.server),
            rotation=self.setting.rotation,
            stream=stream,
            now=1_767_225_600,
        )
        match outcome:
            case Drop(reason):
                self.why = f"dropped {reason}"
                return None
            case Forward():
                self.why = "forwarded"
                return None
        self.why = ""
        return outcome.octets

    @staticmethod
    @cache
    def rules(said: Server) -> Rules:
        return Rules(
            prefix=bytes.fromhex(said.prefix),
            region=said.region.encode() or None,
            maps=tuple(
                SourceMap.of(ip_network(source), NetworkId(number)) for source, number in said.maps
            ),
            forwarding=said.upstream,
            udp_limit=said.udp_limit,
            dev=said.dev,
            nsid=said.nsid.encode(),
            forwarded=tuple(tuple(suffix.encode().split(b".")) for suffix in said.forward),
        )

    def faults(self) -> int:
        return self.loaded.fault_count

    def close(self) -> None:
        self.files.close()


def packed(address: str) -> bytes:
    """The 16 octets the edge passes on: IPv4 is ::ffff:a.b.c.d."""
    found = ip_address(address)
    return found.packed if found.version == 6 else bytes(10) + b"\xff\xff" + found.packed
