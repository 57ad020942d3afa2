"""Reading what a commit changed gives the same catalog as reading everything: the full read is the
oracle of the quick one."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib import resources
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from internal_dns.core.catalog import Catalog, NetworkId, changed
from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import Loaded, Reader, load
from internal_dns.transport.table.table import AnswerTable
from tests.core.messages import AAAA, ANY, PTR, SRV, TXT, insert, ip, query

ACME, GLOBEX, INITECH = NetworkId(0x18), NetworkId(0x19), NetworkId(0x1A)
NETWORKS = (ACME, GLOBEX, INITECH, NetworkId(0x1B), NetworkId(0))
APPS = ("web", "Web", "WEB", "db", "new", "New", "bad name", "Bad Name", "")
REGIONS = ("iad", "ams", "IAD", "xyz", "", "no region")
STATES = ("started", "started", "started", "stopped", "destroyed", "odd")
IDENTS = (
    *(f"n{i}" for i in range(8)),
    *(f"N{i}" for i in range(8)),
    "bad id",
    "3d8d9930b03989",
    "148e306c77e789",
)
TABLES = (
    "networks",
    "apps",
    "machines",
    "machine_metadata",
    "machine_services",
    "peers",
    "flycasts",
    "zones",
    "records",
    "regions",
    "region_latency",
    "hosts",
)


OWNERS = (
    "pg.internal", "web.internal", "*.internal", "*.apps.internal", "a.b.apps.internal", "x.web.internal",
    "corp.example", "www.corp.example", "*.corp.example", "www.in.corp.example", "x.y.in.corp.example",
    "PG.internal", "pg.internal.", "a..b", "", "www.elsewhere",
)  # fmt: skip
ZONES = (
    "corp.example",
    "in.corp.example",
    "y.in.corp.example",
    "lan",
    "Corp.example",
    "internal",
    "",
)
VALUES = (
    ("A", "10.0.0.1"), ("A", "10.0.0.2"), ("A", "bad"), ("AAAA", "fdaa:0:18::1"), ("CNAME", "web.internal"),
    ("CNAME", "WEB.internal."), ("CNAME", "www.corp.example"), ("ALIAS", "web.internal"),
    ("ALIAS", "www.corp.example"), ("TXT", '"x"'), ("TXT", "x"), ("NS", "a.b"), ("PTR", "a.b"),
)  # fmt: skip


def six_pn(rng: Random, number: int, free: int = 2) -> str:
    """An address, mostly of that network; some are written in full, in capitals, or are none."""
    machine = rng.randrange(40)
    if rng.random() < 0.07:
        return rng.choice(
            ("", "192.0.2.1", f"fdaa:0:99:a7b:7d:1:{machine:x}:{free:x}", "fdaa:0:18::g")
        )
    if rng.random() < 0.1:
        return f"FDAA:0:{number:04X}:0A7B:007D:0001:{machine:04x}:{free:04x}"
    return f"fdaa:0:{number:x}:a7b:7d:1:{machine:x}:{free:x}"


class Changes:
    """Random changes of a file by SQL, as a shell or another program makes them."""

    def __init__(self, path: Path, seed: object) -> None:
        self.rng = Random(str(seed))
        self.connection = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def commit(self, most: int = 4) -> list[str]:
        """Make one transaction of a few changes; return what was done."""
        self.done: list[str] = []
        self.connection.execute("BEGIN")
        for _ in range(self.rng.randint(1, most)):
            self.rng.choice(KINDS)(self)
        self.connection.execute("COMMIT")
        return self.done

    def do(self, sql: str, *bound: Any) -> None:
        self.done.append(f"{sql} {bound}")
        self.connection.execute(sql, bound)

    def ident(self) -> str:
        """The id of a machine, mostly of one that is there."""
        if self.rng.random() < 0.2:
            return self.rng.choice(IDENTS)
        found = self.connection.execute("SELECT id FROM machines ORDER BY 1").fetchall()
        return str(self.rng.choice(found)[0]) if found else "n0"

    def two(self) -> tuple[str, str]:
        return self.ident(), self.ident()

    def network(self) -> int:
        return int(self.rng.choices(NETWORKS, (8, 8, 4, 3, 1))[0])

    def app(self) -> str:
        return self.rng.choice(APPS)

    def machine(self, verb: str = "INSERT OR REPLACE") -> None:
        number = self.network()
        ident = self.rng.choice((self.ident(), self.rng.choice(IDENTS)))
        self.do(
            f"{verb} INTO machines (id, network_id, app, address, region, process_group, state, "
            f"skip_registration)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            ident,
            number,
            self.app(),
            six_pn(self.rng, number),
            self.rng.choice(REGIONS),
            self.rng.choice(("app", "Worker", "")),
            self.rng.choice(STATES),
            int(self.rng.random() < 0.1),
        )

    def insert_machine(self) -> None:
        self.machine("INSERT OR IGNORE")

    def state(self) -> None:
        self.do("UPDATE machines SET state = ? WHERE id = ?", self.rng.choice(STATES), self.ident())

    def states_of_an_app(self) -> None:
        self.do("UPDATE machines SET state = ? WHERE app = ?", self.rng.choice(STATES), self.app())

    def moved(self) -> None:
        number = self.network()
        self.do(
            "UPDATE machines SET network_id = ?, app = ?, address = ? WHERE id = ?",
            number,
            self.app(),
            six_pn(self.rng, number),
            self.ident(),
        )

    def renamed(self) -> None:
        self.do(
            "UPDATE OR IGNORE machines SET id = ? WHERE id = ?",
            self.rng.choice(IDENTS),
            self.ident(),
        )

    def renamed_over_another(self) -> None:
        self.do("UPDATE OR REPLACE machines SET id = ? WHERE id = ?", self.ident(), self.ident())

    def skipped(self) -> None:
        self.do(
            "UPDATE machines SET skip_registration = NOT skip_registration WHERE id = ?",
            self.ident(),
        )

    def deleted(self) -> None:
        self.do("DELETE FROM machines WHERE id = ?", self.ident())

    def app_deleted(self) -> None:
        self.do("DELETE FROM machines WHERE network_id = ? AND app = ?", self.network(), self.app())

    def metadata(self) -> None:
        key, value = (
            self.rng.choice(("role", "Role", "k")),
            self.rng.choice(("leader", "Leader", "v.w", "")),
        )
        self.do(
            "INSERT OR REPLACE INTO machine_metadata VALUES (?, ?, ?)", self.ident(), key, value
        )

    def metadata_moved(self) -> None:
        self.do(
            "UPDATE OR REPLACE machine_metadata SET machine_id = ? WHERE machine_id = ?",
            self.ident(),
            self.ident(),
        )

    def metadata_deleted(self) -> None:
        self.do("DELETE FROM machine_metadata WHERE machine_id = ?", self.ident())

    def service(self) -> None:
        name, protocol = (
            self.rng.choice(("http", "HTTP", "dns", "no name")),
            self.rng.choice(("tcp", "udp", "sctp")),
        )
        port = self.rng.choice((53, 8080, 0, 70_000))
        self.do(
            "INSERT OR REPLACE INTO machine_services (machine_id, name, protocol, port) VALUES "
            "(?, ?, ?, ?)",
            self.ident(),
            name,
            protocol,
            port,
        )

    def service_changed(self) -> None:
        port = self.rng.choice((53, 443, 0))
        self.do("UPDATE machine_services SET port = ? WHERE machine_id = ?", port, self.ident())

    def service_moved(self) -> None:
        self.do(
            "UPDATE OR REPLACE machine_services SET machine_id = ? WHERE machine_id = ?",
            self.ident(),
            self.ident(),
        )

    def service_deleted(self) -> None:
        self.do("DELETE FROM machine_services WHERE machine_id = ?", self.ident())

    def peer(self) -> None:
        number = self.network()
        name = self.rng.choice(("p", "P", "interactive-x", "bad name", "alice-laptop"))
        region = self.rng.choice(REGIONS)
        self.do(
            "INSERT OR REPLACE INTO peers (network_id, name, address, region) VALUES (?, ?, ?, ?)",
            number,
            name,
            six_pn(self.rng, number, 258),
            region,
        )

    def peer_moved(self) -> None:
        number = self.network()
        self.do(
            "UPDATE OR REPLACE peers SET network_id = ?, address = ? WHERE name = 'p'",
            number,
            six_pn(self.rng, number),
        )

    def peers_deleted(self) -> None:
        self.do("DELETE FROM peers WHERE network_id = ?", self.network())

    def flycast(self) -> None:
        number = self.network()
        self.do(
            "INSERT OR IGNORE INTO flycasts VALUES (?, ?, ?)",
            number,
            self.app(),
            six_pn(self.rng, number, 9),
        )

    def flycast_moved(self) -> None:
        self.do("UPDATE OR REPLACE flycasts SET app = ? WHERE app = ?", self.app(), self.app())

    def flycasts_deleted(self) -> None:
        self.do("DELETE FROM flycasts WHERE network_id = ? AND app = ?", self.network(), self.app())

    def record(self, verb: str = "INSERT OR REPLACE") -> None:
        rtype, value = self.rng.choice(VALUES)
        self.do(
            f"{verb} INTO records VALUES (?, ?, ?, ?, ?)",
            self.network(),
            self.rng.choice(OWNERS),
            rtype,
            value,
            self.rng.choice((5, 60, 0, 86_401)),
        )

    def record_again(self) -> None:
        self.record("INSERT OR IGNORE")

    def record_changed(self) -> None:
        self.do("UPDATE records SET ttl = ? WHERE name = ?", 7, self.rng.choice(OWNERS))

    def record_moved(self) -> None:
        self.do(
            "UPDATE OR REPLACE records SET network_id = ?, name = ? WHERE name = ?",
            self.network(),
            self.rng.choice(OWNERS),
            self.rng.choice(OWNERS),
        )

    def records_deleted(self) -> None:
        self.do(
            "DELETE FROM records WHERE network_id = ? AND name = ?",
            self.network(),
            self.rng.choice(OWNERS),
        )

    def zone(self) -> None:
        self.do(
            "INSERT OR REPLACE INTO zones VALUES (?, ?)", self.network(), self.rng.choice(ZONES)
        )

    def zone_renamed(self) -> None:
        self.do(
            "UPDATE OR REPLACE zones SET name = ? WHERE name = ?",
            self.rng.choice(ZONES),
            self.rng.choice(ZONES),
        )

    def zone_deleted(self) -> None:
        self.do(
            "DELETE FROM zones WHERE network_id = ? AND name = ?",
            self.network(),
            self.rng.choice(ZONES),
        )

    def network_renamed(self) -> None:
        name = self.rng.choice(("q", "Q", "bad name", ""))
        self.do("UPDATE networks SET name = ? WHERE id = ?", name, self.network())

    def network_renumbered(self) -> None:
        self.do("UPDATE OR IGNORE networks SET id = ? WHERE id = ?", self.network(), self.network())

    def network_deleted(self) -> None:
        self.do("DELETE FROM networks WHERE id = ?", self.network())

    def network_added(self) -> None:
        self.do("INSERT OR REPLACE INTO networks VALUES (?, 'back', '')", self.network())

    def app_row(self) -> None:
        self.do("INSERT OR REPLACE INTO apps VALUES (?, ?)", self.network(), self.app())

    def app_row_renamed(self) -> None:
        self.do(
            "UPDATE OR REPLACE apps SET name = ? WHERE network_id = ?", self.app(), self.network()
        )

    def app_rows_deleted(self) -> None:
        self.do("DELETE FROM apps WHERE network_id = ?", self.network())

    def region(self) -> None:
        latitude = self.rng.choice((None, 1.0, 99.0, "x"))
        self.do(
            "INSERT OR REPLACE INTO regions VALUES (?, '', ?, 2.0, 0)",
            self.rng.choice(REGIONS),
            latitude,
        )

    def region_deleted(self) -> None:
        self.do("DELETE FROM regions WHERE code = ?", self.rng.choice(REGIONS))

    def latency(self) -> None:
        here, there = self.rng.choice(REGIONS), self.rng.choice(REGIONS)
        self.do(
            "INSERT OR REPLACE INTO region_latency VALUES (?, ?, ?)",
            here,
            there,
            self.rng.choice((-1, 5, 80.5, "x")),
        )

    def host(self) -> None:
        number, region = self.rng.choice((0x0A7B_007D, 7, -1, 1 << 40)), self.rng.choice(REGIONS)
        self.do("INSERT OR REPLACE INTO hosts VALUES (?, '', ?)", number, region)

    def host_deleted(self) -> None:
        self.do("DELETE FROM hosts WHERE id = ?", self.rng.choice((0x0A7B_007D, 7)))

    def not_utf_8(self) -> None:
        sql = "INSERT OR REPLACE INTO {} VALUES (?, CAST(x'ff41' AS TEXT){})"
        table, rest = self.rng.choice(
            (
                ("apps", ""),
                ("flycasts", ", 'fdaa:0:18:0:1::3'"),
                ("peers (network_id, name, address, region)", ", '', ''"),
                ("zones", ""),
                ("records", ", 'A', '10.0.0.1', 5"),
            )
        )
        self.do(sql.format(table, rest), self.network())


KINDS: tuple[Callable[[Changes], None], ...] = (
    *((Changes.machine, Changes.insert_machine, Changes.state, Changes.moved, Changes.deleted) * 4),
    *((Changes.metadata, Changes.service, Changes.peer, Changes.flycast, Changes.app_row) * 2),
    *((Changes.record, Changes.record_again, Changes.zone) * 3),
    *(
        kind
        for name, kind in vars(Changes).items()
        if name not in ("commit", "do", "ident", "two", "network", "app", "machine", "record")
        and callable(kind)
        and not name.startswith("_")
    ),
)


def plain(catalog: Catalog) -> tuple[Any, ...]:
    """A catalog as a value, revisions apart."""
    networks = {
        number: replace(network, revision=0) for number, network in catalog.networks.items()
    }
    return networks, catalog.regions, catalog.latency, catalog.hosts


def build_indexes(catalog: Catalog) -> None:
    for network in catalog.networks.values():
        _ = (network.machine_by_112, network.owners)


def same(quick: Loaded, full: Loaded, *, faults: bool = True) -> None:
    """Fail unless a quick read gives the same as a full one."""
    assert plain(quick.catalog) == plain(full.catalog)
    assert (quick.machines, quick.started, quick.peers) == (full.machines, full.started, full.peers)
    assert quick.apps == full.apps
    assert quick.owned == full.owned
    if faults:
        assert Counter(map(str, quick.faults)) == Counter(map(str, full.faults))
        assert quick.fault_count == full.fault_count
    for number, network in quick.catalog.networks.items():
        fresh = full.catalog.networks[number]
        assert network.machine_by_112 == fresh.machine_by_112
        assert network.owners == fresh.owners
        assert network.peer_by_120 == fresh.peer_by_120
        assert all(network.owns_between(address, address) for address in fresh.owners)
        assert network.app_index == fresh.app_index
        assert network.peer_names == fresh.peer_names
        assert network.below == fresh.below
        assert Counter(network.by_address) == Counter(fresh.by_address)
        assert Counter(network.visible_by_address) == Counter(fresh.visible_by_address)
        assert network.by_address == sorted(network.by_address, key=attrgetter("address"))


def unchanged_are_the_same(before: Catalog, after: Catalog) -> None:
    """Fail if an App that equals the one before is another object, or a network that nothing
    touched."""
    for number, network in after.networks.items():
        was = before.networks.get(number)
        if was is None:
            continue
        for name, app in network.apps.items():
            assert app is was.apps.get(name) or app != was.apps.get(name), (number, name)


def made(path: Path, rows: Any = None) -> Path:
    create_catalog(path, rows if rows is not None else demo_rows())
    return path


def run(path: Path, *statements: str) -> None:
    """One transaction by another program."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"BEGIN; {'; '.join(statements)}; COMMIT")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return made(tmp_path / "catalog.db")


# ── random changes ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("faults", [False, True], ids=["values", "faults"])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.slow
def test_what_a_commit_changed_is_what_a_full_load_finds(
    path: Path, seed: int, faults: bool
) -> None:
    with Reader(path) as reader, Changes(path, seed) as changes:
        before = reader.read()
        build_indexes(before.catalog)
        for _ in range(60):
            done = changes.commit()
            after = reader.update(before)
            try:
                same(after, load(path), faults=faults)
                unchanged_are_the_same(before.catalog, after.catalog)
            except AssertionError as error:
                raise AssertionError("\n".join(["after", *done])) from error
            before = after


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.slow
def test_many_commits_may_be_read_at_once(path: Path, seed: int) -> None:
    with Reader(path) as reader, Changes(path, f"many {seed}") as changes:
        before = reader.read()
        build_indexes(before.catalog)
        for _ in range(12):
            for _ in range(changes.rng.randrange(30)):
                changes.commit()
            after = reader.update(before)
            same(after, load(path), faults=False)
            unchanged_are_the_same(before.catalog, after.catalog)
            before = after


@pytest.mark.parametrize("table", TABLES)
def test_a_change_to_each_table_is_noticed(path: Path, table: str) -> None:
    first = {
        "networks": "UPDATE networks SET name = 'x' WHERE id = 24",
        "apps": "INSERT INTO apps VALUES (24, 'x')",
        "machines": "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'",
        "machine_metadata": "INSERT INTO machine_metadata VALUES ('3d8d9930b03989', 'x', 'y')",
        "machine_services": "INSERT INTO machine_services (machine_id, name, protocol, port) "
        "VALUES ('3d8d9930b03989', 'x', 'tcp', 1)",
        "peers": "UPDATE peers SET region = 'nrt'",
        "flycasts": "INSERT INTO flycasts VALUES (24, 'x', 'fdaa:0:18:0:1::9')",
        "regions": "UPDATE regions SET latitude = 1",
        "region_latency": "UPDATE region_latency SET milliseconds = 1",
        "hosts": "UPDATE hosts SET region = 'nrt'",
        "records": "INSERT INTO records VALUES (24, 'pg.internal', 'A', '10.0.0.1', 5)",
        "zones": "INSERT INTO zones VALUES (24, 'corp.example')",
    }[table]  # fmt: skip
    with Reader(path) as reader:
        loaded = reader.read()
        for statement in (first, f"DELETE FROM {table}"):
            run(path, statement)
            after = reader.update(loaded)
            assert after.catalog is not loaded.catalog
            assert after.catalog.revision > loaded.catalog.revision
            assert after.parts > 0
            same(after, load(path))
            loaded = after


def test_a_row_that_another_renamed_row_replaces_leaves_its_app(path: Path) -> None:
    """UPDATE OR REPLACE deletes the row it collides with without any trigger, as INSERT OR REPLACE
    does."""
    with Reader(path) as reader:
        before = reader.read()
        # A machine of acme's db takes the id of one of globex's resolver.
        run(
            path, "UPDATE OR REPLACE machines SET id = '080e325c719e87' WHERE id = '148e306c77e789'"
        )
        after = reader.update(before)
        assert b"080e325c719e87" not in after.catalog.networks[GLOBEX].apps[b"resolver"].by_id
        same(after, load(path))


FAULTY = {
    "a service": ("INSERT INTO machine_services (machine_id, name, protocol, port) "
                  "VALUES ('3d8d9930b03989', 'x', 'tcp', 0)",
                  "DELETE FROM machine_services WHERE port = 0"),
    "another port": ("UPDATE machine_services SET port = 0 WHERE machine_id = '3d8d9930b03989'",
                     "UPDATE machine_services SET port = 80 WHERE port = 0"),
    "a machine's app": ("UPDATE machines SET app = 'bad name' WHERE id = '3d8d9930b03989'",
                        "UPDATE machines SET app = 'web' WHERE id = '3d8d9930b03989'"),
    "a machine's address": ("UPDATE machines SET address = 'x' WHERE id = '3d8d9930b03989'",
                            "UPDATE machines SET address = 'fdaa:0:18::9' WHERE id = "
                            "'3d8d9930b03989'"),
    "a machine's network": ("UPDATE machines SET network_id = 0 WHERE id = '3d8d9930b03989'",
                            "UPDATE machines SET network_id = 24 WHERE id = '3d8d9930b03989'"),
    "a machine's app in capitals": ("UPDATE machines SET app = 'WEB', address = '' WHERE id = "
                                    "'3d8d9930b03989'",
                                    "UPDATE machines SET state = 'stopped' WHERE app = 'web'"),
    "an app": ("INSERT INTO apps VALUES (24, 'bad name')", "DELETE FROM apps WHERE name = 'bad "
                                                           "name'"),
    "an app's network": ("INSERT INTO apps VALUES (0, 'x')", "DELETE FROM apps WHERE network_id = "
                                                             "0"),
    "a peer": ("INSERT INTO peers (network_id, name) VALUES (24, 'bad name')", "DELETE FROM peers WHERE name "
                                                                    "= 'bad name'"),
    "a peer's network": ("INSERT INTO peers (network_id, name) VALUES (0, 'x')", "DELETE FROM peers WHERE "
                                                                      "network_id = 0"),
    "a flycast's app": ("INSERT INTO flycasts VALUES (24, 'bad name', '')", "DELETE FROM flycasts "
                                                                            "WHERE address = ''"),
    "a flycast's address": ("INSERT INTO flycasts VALUES (24, 'x', '')", "DELETE FROM flycasts "
                                                                         "WHERE address = ''"),
    "a network's id": ("INSERT INTO networks VALUES (0, 'x', '')", "DELETE FROM networks WHERE id "
                                                                   "= 0"),
    "a network's name": ("UPDATE networks SET name = 'bad name' WHERE id = 24",
                         "UPDATE networks SET name = 'acme' WHERE id = 24"),
    "a region": ("INSERT INTO regions VALUES ('bad code', '', 1, 1, 0)", "DELETE FROM regions "
                                                                         "WHERE code = 'bad code'"),
    "latency": ("INSERT INTO region_latency VALUES ('a', 'b', -1)",
                "DELETE FROM region_latency WHERE from_region = 'a'"),
    "a host": ("INSERT INTO hosts VALUES (-1, '', 'iad')", "DELETE FROM hosts WHERE id = -1"),
    "a record": ("INSERT OR REPLACE INTO records VALUES (24, 'pg.internal', 'A', 'x', 5)",
                 "UPDATE OR REPLACE records SET value = '10.0.0.1'"),
    "a record's network": ("INSERT OR REPLACE INTO records VALUES (0, 'pg.internal', 'A', '10.0.0.1', 5)",
                           "DELETE FROM records"),
    "a record's name": ("INSERT OR REPLACE INTO records VALUES (24, 'PG.internal', 'A', '10.0.0.1', 5)",
                        "DELETE FROM records"),
    "a record's name that is not UTF-8": (
        "INSERT OR REPLACE INTO records VALUES (24, CAST(x'ff41' AS TEXT), 'A', '10.0.0.1', 5)",
        "DELETE FROM records"),
    "a record that has no zone": ("INSERT OR REPLACE INTO records VALUES (24, 'a.corp.example', 'A', '10.0.0.1', 5)",
                                  "DELETE FROM records"),
    "a record beside a CNAME": (
        "INSERT OR REPLACE INTO records VALUES (24, 'a.internal', 'A', '10.0.0.1', 5), "
        "(24, 'a.internal', 'CNAME', 'b.c', 5)",
        "DELETE FROM records WHERE type = 'A'"),
    "a zone": ("INSERT OR REPLACE INTO zones VALUES (24, 'internal')", "UPDATE OR REPLACE zones SET name = 'lan'"),
    "a zone's network": ("INSERT OR REPLACE INTO zones VALUES (0, 'lan')", "DELETE FROM zones"),
    "an id that differs in case": (
        "INSERT INTO machines SELECT upper(id), network_id, app, address, region, process_group, "
        "state, 0, 0, 1, '', ''"
        " FROM machines WHERE id = '3d8d9930b03989'", "DELETE FROM machines WHERE id = "
                                                      "'3D8D9930B03989'"),
    "an app that is not UTF-8": ("INSERT INTO apps VALUES (24, CAST(x'ff41' AS TEXT))",
                                 "DELETE FROM apps WHERE hex(name) = 'FF41'"),
}  # fmt: skip


@pytest.mark.parametrize("what", FAULTY)
@pytest.mark.slow
def test_faults_come_and_go_with_the_row_that_has_them(path: Path, what: str) -> None:
    wrong, right = FAULTY[what]
    with Reader(path) as reader:
        loaded = reader.read()
        assert loaded.fault_count == 0
        run(path, wrong)
        loaded = reader.update(loaded)
        fresh = load(path)
        assert fresh.fault_count == 1
        same(loaded, fresh)
        run(path, right)
        loaded = reader.update(loaded)
        same(loaded, load(path))
        # And a fault that was there when the file was first read.
        run(path, wrong)
        loaded = reader.read()
        run(path, right)
        same(reader.update(loaded), load(path))


def test_metadata_without_a_machine_is_not_a_fault(path: Path) -> None:
    """It is left out of every answer whatever it is, and the journal has no app to name for it."""
    with Reader(path) as reader:
        loaded = reader.read()
        run(
            path,
            "INSERT INTO machine_services (machine_id, name, protocol, port) VALUES ('nobody', "
            "'x', 'tcp', 0)",
        )
        for found in (reader.update(loaded), load(path)):
            assert found.fault_count == 0
            same(found, load(path))


# ── what stays ────────────────────────────────────────────────────────────────────────────────────


def test_what_a_commit_does_not_touch_stays_the_same_object(path: Path) -> None:
    with Reader(path) as reader:
        before = reader.read()
        run(path, "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")
        after = reader.update(before)
        assert after.parts == 1
        assert after.catalog.networks[GLOBEX] is before.catalog.networks[GLOBEX]
        assert after.catalog.networks[INITECH] is before.catalog.networks[INITECH]
        old, new = before.catalog.networks[ACME], after.catalog.networks[ACME]
        assert new is not old
        assert {name for name in old.apps if new.apps[name] is not old.apps[name]} == {b"web"}
        assert new.peers is old.peers
        assert list(changed(before.catalog, after.catalog)) == [(ACME, frozenset({b"web"}))]


def test_nothing_changed_is_the_same_value(path: Path) -> None:
    with Reader(path) as reader:
        before = reader.read()
        assert reader.update(before) is before
        run(path, "UPDATE machines SET state = 'x' WHERE id = 'nobody'")
        assert reader.update(before) is before
        run(path, "INSERT INTO meta VALUES ('a', 'b')", "UPDATE organizations SET name = 'x'")
        assert reader.update(before) is before


def test_a_full_read_keeps_equal_values(path: Path) -> None:
    with Reader(path) as reader:
        before = reader.read()
        run(path, "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")
        after = reader.read_after(before)
        assert after.catalog.networks[GLOBEX] is before.catalog.networks[GLOBEX]
        assert after.catalog.networks[ACME].apps[b"db"] is before.catalog.networks[ACME].apps[b"db"]
        same(after, load(path))


def test_a_reply_never_mixes_two_revisions_of_an_app(path: Path) -> None:
    """A transaction is read whole or not at all, however often the reader looks while it is
    made."""
    with Reader(path) as reader, closing(sqlite3.connect(path, isolation_level=None)) as writer:
        loaded = reader.read()
        members = [m.id.decode() for m in loaded.catalog.networks[INITECH].apps[b"render"].machines]
        for rotation in range(15):
            state = f"s{rotation}"
            writer.execute("BEGIN")
            for ident in members[:20]:
                writer.execute("UPDATE machines SET state = ? WHERE id = ?", (state, ident))
                loaded = reader.update(loaded)
                app = loaded.catalog.networks[INITECH].apps[b"render"]
                assert (
                    len({app.by_id[i.encode()].state for i in members[:20]}) == 1 or rotation == 0
                )
                assert state.encode() not in {m.state for m in app.machines}
            writer.execute("COMMIT")
            loaded = reader.update(loaded)
            app = loaded.catalog.networks[INITECH].apps[b"render"]
            assert {app.by_id[i.encode()].state for i in members[:20]} == {state.encode()}


# ── when the journal does not tell ────────────────────────────────────────────────────────────────


def test_a_trimmed_journal_loses_nothing(path: Path) -> None:
    with Reader(path) as reader:
        loaded = reader.read()
        run(
            path,
            "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'",
            "DELETE FROM journal",
        )
        after = reader.update(loaded)
        assert after.parts == 0
        same(after, load(path))
        assert after.catalog.networks[GLOBEX] is loaded.catalog.networks[GLOBEX]
        run(path, "UPDATE machines SET state = 'started' WHERE id = '3d8d9930b03989'")
        again = reader.update(after)
        assert again.parts == 1
        same(again, load(path))


def test_a_journal_trimmed_to_the_last_revision_read_does_not_force_a_full_read(path: Path) -> None:
    with Reader(path) as reader:
        loaded = reader.read()
        run(path, "UPDATE machines SET state = 'x' WHERE id = '148e306c77e789'")
        loaded = reader.update(loaded)
        trim = "DELETE FROM journal WHERE revision < (SELECT max(revision) FROM journal)"
        run(path, trim, "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")
        after = reader.update(loaded)
        assert after.parts == 1
        same(after, load(path))


def test_a_trimmed_journal_that_changed_nothing_still_moves_the_revision(path: Path) -> None:
    """Who waits for a revision (`--wait`) must see it come."""
    with Reader(path) as reader:
        loaded = reader.read()
        run(
            path,
            "UPDATE machines SET updated_at = 7 WHERE id = '3d8d9930b03989'",
            "DELETE FROM journal",
        )
        after = reader.update(loaded)
        assert after.catalog.revision == loaded.catalog.revision + 1
        same(after, load(path))


def foreign(path: Path, rows: dict[str, Any] | None = None) -> Path:
    """A catalog that another engine maintains: schema.sql and nothing else."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(resources.files("internal_dns").joinpath("schema.sql").read_text())
        for table, of_table in (rows or demo_rows()).items():
            insert(connection, table, of_table)
    return path


@pytest.mark.slow
def test_a_file_without_a_journal_is_read_whole_and_compared(tmp_path: Path) -> None:
    path = foreign(tmp_path / "foreign.db")
    with Reader(path) as reader, Changes(path, "foreign") as changes:
        before = reader.read()
        assert not before.owned
        for _ in range(25):
            changes.commit()
            after = reader.update(before)
            assert after.parts == 0
            same(after, load(path))
            unchanged_are_the_same(before.catalog, after.catalog)
            for number, network in after.catalog.networks.items():
                was = before.catalog.networks.get(number)
                assert (
                    network is was
                    or was is None
                    or replace(network, revision=0) != replace(was, revision=0)
                )
            before = after


def test_a_journal_dropped_while_watching_loses_nothing(path: Path) -> None:
    with Reader(path) as reader, Changes(path, "dropped") as changes:
        before = reader.read()
        changes.commit()
        before = reader.update(before)
        triggers = changes.connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        run(path, *(f"DROP TRIGGER {name}" for (name,) in triggers), "DROP TABLE journal",
            "DROP TABLE network_revisions",
            "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")  # fmt: skip
        after = reader.update(before)
        assert (after.owned, after.parts) == (False, 0)
        assert after.catalog.revision > before.catalog.revision
        same(after, load(path), faults=False)
        for _ in range(5):
            changes.commit()
            after = reader.update(after)
            same(after, load(path), faults=False)
        # And it may come back.
        journal = resources.files("internal_dns.store").joinpath("journal.sql").read_text()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(f"BEGIN; {journal}; COMMIT")
        for _ in range(5):
            changes.commit()
            after = reader.update(after)
            same(after, load(path), faults=False)
        assert after.owned


def restored(backup: Path, path: Path) -> None:
    """What `sqlite3 catalog.db ".restore backup.db"` does."""
    with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)


def test_a_restored_backup_is_read_whole(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    restored(path, backup)
    with Reader(path) as reader:
        first = reader.read()
        run(path, *["UPDATE machines SET state = 'stopped' WHERE app = 'web'"] * 3)
        second = reader.update(first)
        restored(backup, path)
        third = reader.update(second)
        assert third.catalog.revision < second.catalog.revision
        same(third, load(path))
        assert plain(third.catalog) == plain(first.catalog)
        run(path, "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")
        fourth = reader.update(third)
        assert fourth.parts == 1
        same(fourth, load(path))


def test_a_restored_backup_of_the_same_revision_is_noticed(path: Path, tmp_path: Path) -> None:
    """Two catalogs fresh from `init` have the same revision."""
    other = made(tmp_path / "other.db", {"networks": [(ACME, "other", "")]})
    with Reader(path) as reader:
        loaded = reader.read()
        restored(other, path)
        same(reader.update(loaded), load(path))


def test_a_restored_backup_that_has_caught_up_with_the_revision_is_noticed(
    path: Path, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    restored(path, backup)
    with Reader(path) as reader:
        loaded = reader.read()
        run(path, "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")
        loaded = reader.update(loaded)
        restored(backup, path)
        run(path, "UPDATE machines SET state = 'stopped' WHERE id = '148e306c77e789'")
        run(path, "UPDATE machines SET state = 'stopped' WHERE id = '32874445f04218'")
        same(reader.update(loaded), load(path))


# ── what was remembered ───────────────────────────────────────────────────────────────────────────

SERVER = ip("fdaa::3")
RULES = Rules()


def questions(catalog: Catalog) -> Iterator[tuple[bytes, bytes]]:
    """Plain queries that every network can ask, with the address they come from."""
    names = {
        b"_apps",
        b"_instances",
        b"all._instances",
        b"_peer",
        b"_whoami",
        b"_api",
        b"_dns",
        b"",
    }
    labels: set[bytes] = set()
    for network in catalog.networks.values():
        labels |= {*network.apps, *network.flycasts}
        names |= {peer + b"._peer" for peer in network.peers}
        names |= {
            m.id + b".vm." + app.name for app in network.apps.values() for m in app.machines[:4]
        }
    for label in labels | {b"new"}:
        names |= {
            start + label for start in (
                b"", b"iad.", b"regions.", b"all.regions.", b"vms.", b"all.vms.",
                b"top2.nearest.of.", b"global.",
                b"leader.role.kv._metadata.", b"_http._tcp.", b"app.process.", b"1._page.",
                b"_instances.",
            )
        }  # fmt: skip
    asked = [
        (tuple(filter(None, (*name.split(b"."), b"internal"))), natural(name)) for name in names
    ]
    asked += [((label, b"flycast"), AAAA) for label in labels]
    for number, network in catalog.networks.items():
        source = network.prefix + bytes.fromhex("0a7b007d000100010002")
        for name, qtype in asked:
            yield query(name, qtype), source
        for address in [*network.owners][:12]:
            nibbles = tuple(n.encode() for n in reversed(address.hex()))
            yield query((*nibbles, b"ip6", b"arpa"), PTR), source
        assert number


def natural(name: bytes) -> int:
    if b"_http" in name:
        return SRV
    words = (
        b"_apps",
        b"_instances",
        b"_peer",
        b"regions.",
        b"vms.",
        b"_whoami",
        b"all.",
        b"1._page.",
    )
    if name == b"":
        return ANY
    return TXT if name.startswith(words) and not name.endswith(b"._peer") else AAAA


def answered(catalog: Catalog, octets: bytes, source: bytes, rotation: int) -> Reply:
    found = respond(octets, source, SERVER, catalog, RULES, rotation=rotation)
    assert isinstance(found, Reply), (found, octets)
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.slow
def test_what_is_remembered_is_forgotten_when_it_changes(path: Path, seed: int) -> None:
    """The twin law over a sequence of commits: what the answer table repeats is what would be
    answered now."""
    table = AnswerTable(RULES)
    asked: dict[tuple[bytes, bytes], None] = {}
    repeated = 0
    with Reader(path) as reader, Changes(path, f"table {seed}") as changes:
        loaded = reader.read()
        table.change(loaded.catalog)
        for rotation in range(25):
            asked |= dict.fromkeys(changes.rng.sample([*questions(loaded.catalog)], 150))
            for octets, source in asked:
                if table.repeat(octets, source, SERVER, rotation) is None:
                    table.remember(answered(loaded.catalog, octets, source, rotation))
            done = changes.commit(2)
            loaded = reader.update(loaded)
            table.change(loaded.catalog)
            for octets, source in asked:
                known = table.repeat(octets, source, SERVER, rotation)
                if known is not None:
                    repeated += 1
                    assert known == answered(loaded.catalog, octets, source, rotation).octets, (
                        "\n".join(done)
                    )
    assert repeated > 2_000


def test_a_change_of_one_app_forgets_that_app_and_the_lists_only(path: Path) -> None:
    table = AnswerTable(RULES)
    source = ip("fdaa:0:18:a7b:7d:1:1:2")
    names = ("web.internal", "db.internal", "db.flycast", "_apps.internal", "regions.db.internal")
    asked = {name: query(name, TXT if name.startswith(("_", "r")) else AAAA) for name in names}
    with Reader(path) as reader:
        loaded = reader.read()
        table.change(loaded.catalog)
        for octets in asked.values():
            table.remember(answered(loaded.catalog, octets, source, 0))
        run(path, "UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")
        table.change(reader.update(loaded).catalog)
        kept = {
            name
            for name, octets in asked.items()
            if table.repeat(octets, source, SERVER, 0) is not None
        }
        assert kept == {"db.internal", "db.flycast", "regions.db.internal"}


# ── records and zones ─────────────────────────────────────────────────────────────────────────────


def touched(path: Path, *statements: str) -> frozenset[bytes]:
    """Return the parts of acme that a commit changes, by the journal and by comparison."""
    with Reader(path) as reader:
        before = reader.read()
        build_indexes(before.catalog)
        run(path, *statements)
        quick, full = reader.update(before), load(path, previous=before.catalog)
        same(quick, full)
        ((number, parts),) = changed(before.catalog, quick.catalog)
        assert number == ACME
        assert parts is not None
        assert list(changed(before.catalog, full.catalog)) == [(ACME, parts)]
        return parts


def test_a_change_of_a_record_concerns_its_first_label(path: Path) -> None:
    insert = "INSERT INTO records VALUES (24, '{}', 'A', '10.0.0.1', 5)"
    assert touched(path, insert.format("a.pg.internal")) == {b"pg"}
    assert touched(path, insert.format("*.internal")) == {b"*"}
    run(path, "INSERT INTO zones VALUES (24, 'corp.example')")
    assert touched(path, insert.format("a.www.corp.example")) == {b"\3www\4corp\7example\0"}
    assert touched(path, insert.format("corp.example")) == {b"\1@\4corp\7example\0"}
    assert touched(path, "UPDATE records SET ttl = 7 WHERE name = 'a.pg.internal'") == {b"pg"}
    assert touched(path, "DELETE FROM records WHERE name = 'a.pg.internal'") == {b"pg"}


def test_a_row_that_says_the_same_changes_nothing(path: Path) -> None:
    run(path, "INSERT INTO records VALUES (24, 'a.internal', 'CNAME', 'b.c', 5)")
    with Reader(path) as reader:
        before = reader.read()
        run(path, "INSERT INTO records VALUES (24, 'a.internal', 'CNAME', 'B.c.', 60)")
        after = reader.update(before)
        assert after.catalog.networks[ACME] is before.catalog.networks[ACME]


def test_a_change_of_a_zone_concerns_it_and_what_it_is_in(path: Path) -> None:
    corp = b"\4corp\7example\0"
    assert touched(path, "INSERT INTO zones VALUES (24, 'corp.example')") == {corp}
    inner = b"\1b\2in" + corp
    run(path, "INSERT INTO records VALUES (24, 'x.b.in.corp.example', 'A', '10.0.0.1', 5)")
    # The records below go into the new zone, and no name of `in` is what it was.
    parts = touched(path, "INSERT INTO zones VALUES (24, 'b.in.corp.example')")
    assert parts == {inner, b"\2in" + corp}
    run(path, "DELETE FROM records")
    assert touched(path, "DELETE FROM zones WHERE name = 'corp.example'") == {corp}
