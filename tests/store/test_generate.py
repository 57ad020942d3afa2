"""The demo has the rows it documents; catalogs of any size are repeatable and never
half-written."""

import os
import re
import sqlite3
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv6Address
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from internal_dns.store.generate import Row, Rows, create_catalog, demo_rows, sized_rows
from internal_dns.store.schema import TABLES
from internal_dns.store.writer import Writer

ACME, GLOBEX, INITECH = 0x18, 0x19, 0x1A
DOCUMENTS_MACHINE = "fdaa:0:18:a7b:7d:f066:b83b:2"
DOCUMENTS_PEER = "fdaa:0:18:a7b:7d:f066:b83b:102"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("demo") / "demo.db"
    create_catalog(path, demo_rows())
    connection = sqlite3.connect(path)
    yield connection
    connection.close()


def column(connection: sqlite3.Connection, query: str, *parameters: Any) -> list[Any]:
    return [row[0] for row in connection.execute(query, parameters)]


def bits(address: str, start: int, length: int) -> int:
    return int(IPv6Address(address)) >> (128 - start - length) & ((1 << length) - 1)


# -- the demo
# --------------------------------------------------------------------------------------------


def test_the_demo_has_three_networks_each_with_an_organization(demo: sqlite3.Connection) -> None:
    networks = demo.execute(
        "SELECT id, networks.name FROM networks JOIN organizations ON slug = organization"
    )
    assert sorted(networks) == [(ACME, "acme"), (GLOBEX, "globex"), (INITECH, "initech")]


def test_the_demo_has_seven_apps_and_two_tenants_with_a_web(demo: sqlite3.Connection) -> None:
    assert sorted(demo.execute("SELECT network_id, name FROM apps")) == [
        (ACME, "batch"),
        (ACME, "blog"),
        (ACME, "db"),
        (ACME, "web"),
        (GLOBEX, "resolver"),
        (GLOBEX, "web"),
        (INITECH, "render"),
    ]
    assert set(demo.execute("SELECT network_id, app FROM machines")) < set(
        demo.execute("SELECT network_id, name FROM apps")
    )


def test_the_demo_has_the_documents_own_machine_and_their_peer_in_its_112(
    demo: sqlite3.Connection,
) -> None:
    machines = demo.execute(
        "SELECT network_id, app FROM machines WHERE address = ?", (DOCUMENTS_MACHINE,)
    )
    assert machines.fetchall() == [(ACME, "web")]
    assert column(demo, "SELECT network_id FROM peers WHERE address = ?", DOCUMENTS_PEER) == [ACME]
    assert bits(DOCUMENTS_PEER, 0, 112) == bits(DOCUMENTS_MACHINE, 0, 112)
    assert bits(DOCUMENTS_PEER, 0, 120) != bits(DOCUMENTS_MACHINE, 0, 120)


def test_every_demo_machine_lies_in_its_48_on_a_host_of_its_region(
    demo: sqlite3.Connection,
) -> None:
    hosts = dict(demo.execute("SELECT id, region FROM hosts"))
    assert hosts[0x0A7B007D] == "iad"
    for network, address, region in demo.execute(
        "SELECT network_id, address, region FROM machines"
    ):
        assert str(IPv6Address(address)) == address
        assert (bits(address, 0, 16), bits(address, 16, 32)) == (0xFDAA, network)
        assert hosts[bits(address, 48, 32)] == region


def test_every_demo_machine_has_a_112_of_its_own_and_every_peer_a_120(
    demo: sqlite3.Connection,
) -> None:
    machines, peers = (
        column(demo, "SELECT address FROM machines"),
        column(demo, "SELECT address FROM peers"),
    )
    assert len({bits(address, 0, 112) for address in machines}) == len(machines)
    assert len({bits(address, 0, 120) for address in machines + peers}) == len(machines + peers)


def test_demo_machine_ids_look_like_the_originals(demo: sqlite3.Connection) -> None:
    ids = column(demo, "SELECT id FROM machines")
    assert len(ids) == 80
    assert all(re.fullmatch("[0-9a-f]{14}", machine) for machine in ids)


def test_the_demo_has_a_stopped_app_and_an_empty_one(demo: sqlite3.Connection) -> None:
    assert set(column(demo, "SELECT state FROM machines WHERE app = 'batch'")) == {"stopped"}
    assert column(demo, "SELECT id FROM machines WHERE app = 'blog'") == []


def test_the_demo_has_an_app_of_sixty_started_machines_in_six_regions(
    demo: sqlite3.Connection,
) -> None:
    states = column(
        demo, "SELECT state FROM machines WHERE network_id = ? AND app = 'render'", INITECH
    )
    assert states == ["started"] * 60
    assert len(set(column(demo, "SELECT region FROM machines WHERE app = 'render'"))) == 6


def test_the_demo_has_every_state_and_one_machine_that_skips_registration(
    demo: sqlite3.Connection,
) -> None:
    states = set(
        column(demo, "SELECT state FROM machines WHERE network_id = ? AND app = 'web'", ACME)
    )
    assert states == {"created", "started", "stopped", "suspended", "destroyed"}
    assert column(demo, "SELECT state FROM machines WHERE skip_registration") == ["started"]


def test_the_demo_has_process_groups(demo: sqlite3.Connection) -> None:
    visible = column(
        demo,
        "SELECT process_group FROM machines WHERE network_id = ? AND app = 'web'"
        " AND state = 'started' AND NOT skip_registration",
        ACME,
    )
    assert Counter(visible) == {"web": 4, "worker": 1}


def test_the_demo_has_metadata_with_dots_and_capitals(demo: sqlite3.Connection) -> None:
    metadata = Counter(
        demo.execute(
            "SELECT key, value FROM machine_metadata JOIN machines ON id = machine_id WHERE state "
            "= 'started'"
        )
    )
    assert metadata["role", "Leader"] == 1
    assert metadata["version", "1.2.3"] == 3


def test_the_demo_has_services_over_tcp_and_udp(demo: sqlite3.Connection) -> None:
    services = set(
        demo.execute(
            "SELECT app, machine_services.name, protocol, port FROM machine_services JOIN "
            "machines ON id = "
            "machine_id"
        )
    )
    assert services >= {("web", "http", "tcp", 8080), ("resolver", "dns", "udp", 53)}


def test_every_demo_metadata_and_service_row_is_of_a_machine(demo: sqlite3.Connection) -> None:
    for table in "machine_metadata", "machine_services":
        strays = f"SELECT machine_id FROM {table} WHERE machine_id NOT IN (SELECT id FROM machines)"
        assert column(demo, strays) == []


def test_the_demo_has_five_peers_some_named_some_interactive(demo: sqlite3.Connection) -> None:
    peers = demo.execute("SELECT network_id, name, address FROM peers").fetchall()
    assert all(bits(address, 16, 32) == network for network, _, address in peers)
    assert Counter((network, name.startswith("interactive-")) for network, name, _ in peers) == {
        (ACME, False): 2,
        (ACME, True): 1,
        (GLOBEX, False): 1,
        (GLOBEX, True): 1,
    }


def test_some_demo_peers_have_a_region_and_some_take_that_of_their_host(
    demo: sqlite3.Connection,
) -> None:
    hosts = dict(demo.execute("SELECT id, region FROM hosts"))
    regions = column(demo, "SELECT region FROM peers")
    assert "" in regions
    assert any(regions)
    assert all(
        bits(address, 48, 32) in hosts for address in column(demo, "SELECT address FROM peers")
    )


def test_a_demo_flycast_answers_on_another_network_than_its_app_lives_on(
    demo: sqlite3.Connection,
) -> None:
    flycasts = demo.execute("SELECT network_id, app, address FROM flycasts").fetchall()
    assert all(bits(address, 0, 48) == 0xFDAA << 32 | network for network, _, address in flycasts)
    assert all(str(IPv6Address(address)) == address for _, _, address in flycasts)
    apps = set(demo.execute("SELECT network_id, name FROM apps"))
    assert [(network, app) for network, app, _ in flycasts if (network, app) not in apps] == [
        (GLOBEX, "db")
    ]
    assert (ACME, "batch") in {(network, app) for network, app, _ in flycasts}


def test_demo_regions_have_names_and_coordinates_and_none_is_missing(
    demo: sqlite3.Connection,
) -> None:
    found = demo.execute("SELECT code, name, latitude, longitude FROM regions")
    regions = {code: rest for code, *rest in found}
    assert set(regions) >= {"iad", "ord", "ams", "nrt", "syd", "gru"}
    for name, latitude, longitude in regions.values():
        assert name
        assert -90 <= latitude <= 90
        assert -180 <= longitude <= 180
    used = column(demo, "SELECT region FROM machines UNION SELECT region FROM hosts")
    used += column(
        demo, "SELECT from_region FROM region_latency UNION SELECT to_region FROM region_latency"
    )
    assert set(used) <= set(regions)
    assert set(column(demo, "SELECT gateway FROM regions")) == {0, 1}


def test_demo_latencies_name_a_pair_once_and_leave_some_to_the_great_circle(
    demo: sqlite3.Connection,
) -> None:
    pairs = [
        frozenset(pair)
        for pair in demo.execute("SELECT from_region, to_region FROM region_latency")
    ]
    assert len(set(pairs)) == len(pairs)
    assert 0 < len(pairs) < 7 * 6 / 2


# -- any size
# --------------------------------------------------------------------------------------------


def everything(rows: Rows) -> dict[str, list[Row]]:
    return {table: list(of_table) for table, of_table in rows.items()}


def test_the_same_seed_makes_the_same_rows_and_another_seed_others() -> None:
    assert everything(sized_rows(500, 7)) == everything(sized_rows(500, 7))
    assert everything(demo_rows()) == everything(demo_rows())
    one, other = everything(sized_rows(500, 7)), everything(sized_rows(500, 8))
    assert not {row[0] for row in one["machines"]} & {row[0] for row in other["machines"]}
    assert [row[4:7] for row in one["machines"]] != [row[4:7] for row in other["machines"]]


def test_a_table_has_the_same_rows_whether_or_not_others_were_read_before() -> None:
    rows = everything(sized_rows(500))
    for table, of_table in sized_rows(500).items():
        assert list(sized_rows(500)[table]) == rows[table] == list(of_table)


@pytest.mark.parametrize("machines", [0, 1, 3, 4, 300, 301, 1000])
def test_a_catalog_has_as_many_machines_as_asked_for(tmp_path: Path, machines: int) -> None:
    counts = create_catalog(tmp_path / "catalog.db", sized_rows(machines))
    assert counts["machines"] == machines
    assert counts["apps"] == -(-machines // 3)
    assert counts["networks"] == -(-counts["apps"] // 100)


def test_sized_machines_are_of_a_known_app_on_a_known_host_in_their_48() -> None:
    rows = everything(sized_rows(2_000, apps_per_network=50))
    apps, hosts = set(rows["apps"]), {host: region for host, _, region in rows["hosts"]}
    assert len({row[0] for row in rows["machines"]}) == 2_000
    assert len({bits(str(row[3]), 0, 112) for row in rows["machines"]}) == 2_000
    for _, network, app, address, region, *_ in rows["machines"]:
        assert (network, app) in apps
        assert str(IPv6Address(str(address))) == address
        assert bits(str(address), 0, 48) == 0xFDAA << 32 | int(str(network))
        assert hosts[bits(str(address), 48, 32)] == region
    ids = {row[0] for row in rows["machines"]}
    assert {row[0] for row in rows["machine_metadata"] + rows["machine_services"]} < ids


def test_a_sized_catalog_mixes_states_regions_and_groups_and_most_are_started() -> None:
    machines = list(sized_rows(3_000)["machines"])
    states = Counter(row[6] for row in machines)
    assert set(states) == {"created", "started", "stopped", "suspended", "destroyed"}
    assert 0.85 < sum(row[6:8] == ("started", 0) for row in machines) / 3_000 < 0.95
    assert any(row[7] for row in machines)
    assert len({row[4] for row in machines}) == 7
    assert {row[5] for row in machines} == {"app", "web", "worker"}


def test_the_bench_zone_is_one_network_of_apps_with_three_addresses_each() -> None:
    rows = everything(sized_rows(3_000, apps_per_network=1_000, machines_per_app=3, started=1))
    assert len(rows["networks"]) == 1
    assert rows["apps"] == [(ACME, f"app-{n}") for n in range(1_000)]
    visible = Counter(row[2] for row in rows["machines"] if row[6:8] == ("started", 0))
    assert visible == {f"app-{n}": 3 for n in range(1_000)}


def test_rows_of_a_huge_catalog_come_at_once_and_in_constant_memory() -> None:
    tracemalloc.start()
    rows = sized_rows(10**9)
    assert all(len(list(islice(of_table, 1_000))) > 0 for of_table in rows.values())
    assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "wrong", [{"machines": -1}, {"apps_per_network": 0}, {"machines_per_app": 0}]
)
def test_an_impossible_size_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        sized_rows(**{"machines": 1} | wrong)


# -- the file
# --------------------------------------------------------------------------------------------


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def broken_rows() -> Rows:
    def machines() -> Iterator[Row]:
        yield from islice(sized_rows(100_000)["machines"], 25_000)
        raise RuntimeError("in the middle")

    return demo_rows() | {"machines": machines()}


def test_a_catalog_is_one_file_in_wal_mode_with_the_rows_given(tmp_path: Path) -> None:
    path = tmp_path / "demo.db"
    counts = create_catalog(path, demo_rows())
    assert names_in(tmp_path) == ["demo.db"]
    connection = sqlite3.connect(path)
    assert column(connection, "PRAGMA journal_mode") == ["wal"]
    assert column(connection, "PRAGMA integrity_check") == ["ok"]
    for table, rows in everything(demo_rows()).items():
        assert counts[table] == len(rows)
        columns = ", ".join(TABLES[table][: len(rows[0])])
        assert sorted(connection.execute(f"SELECT {columns} FROM {table}")) == sorted(rows)
    connection.close()


def test_tables_without_rows_are_there_and_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    assert create_catalog(path, {"apps": []}) == {"apps": 0}
    connection = sqlite3.connect(path)
    assert column(connection, "SELECT count(*) FROM machines UNION SELECT count(*) FROM apps") == [
        0
    ]
    connection.close()


def test_an_existing_file_is_rejected_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_bytes(b"not yours")
    with pytest.raises(FileExistsError, match=re.escape(str(path))):
        create_catalog(path, demo_rows())
    assert names_in(tmp_path) == ["catalog.db"]
    assert path.read_bytes() == b"not yours"


def test_a_file_that_appears_while_rows_are_written_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"

    def hosts() -> Iterator[Row]:
        path.write_bytes(b"not yours")
        yield 1, "host", "iad"

    with pytest.raises(FileExistsError):
        create_catalog(path, {"hosts": hosts()})
    assert names_in(tmp_path) == ["catalog.db"]
    assert path.read_bytes() == b"not yours"


def test_an_existing_file_is_replaced_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    create_catalog(path, sized_rows(10))
    create_catalog(path, demo_rows(), replace=True)
    assert names_in(tmp_path) == ["catalog.db"]
    connection = sqlite3.connect(path)
    assert column(connection, "SELECT value FROM meta") == ["demo"]
    connection.close()


@pytest.mark.parametrize("removed", [False, True])
def test_a_wal_left_by_another_file_is_not_replayed(tmp_path: Path, removed: bool) -> None:
    path = tmp_path / "catalog.db"
    create_catalog(path, sized_rows(10))
    old = sqlite3.connect(path)
    old.execute("UPDATE machines SET app = 'old'")
    old.commit()
    assert (tmp_path / "catalog.db-wal").stat().st_size > 0
    if removed:  # rm catalog.db, and the rest forgotten
        path.unlink()
    create_catalog(path, demo_rows(), replace=not removed)
    new = sqlite3.connect(path)
    assert column(new, "PRAGMA integrity_check") == ["ok"]
    assert column(new, "SELECT count(*) FROM machines WHERE app = 'old'") == [0]
    assert column(new, "SELECT count(*) FROM machines") == [80]
    new.close()
    old.close()


def test_an_exception_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    seen: list[str] = []

    def progress(table: str, rows: int) -> None:
        seen.extend(names_in(tmp_path))

    with pytest.raises(RuntimeError, match="in the middle"):
        create_catalog(tmp_path / "catalog.db", broken_rows(), progress)
    assert seen  # it was being written, under another name
    assert "catalog.db" not in seen
    assert names_in(tmp_path) == []


def test_an_exception_in_the_middle_leaves_the_file_that_was_to_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    create_catalog(path, demo_rows())
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="in the middle"):
        create_catalog(path, broken_rows(), replace=True)
    assert names_in(tmp_path) == ["catalog.db"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ({"gateways": [(1,)]}, ValueError),
        ({"apps": [(1, "web", "too many")]}, sqlite3.Error),
        ({"apps": [(1, "web"), (1, "web")]}, sqlite3.IntegrityError),
    ],
)
def test_rows_that_the_schema_does_not_take_leave_nothing(
    tmp_path: Path, rows: Rows, error: type[Exception]
) -> None:
    with pytest.raises(error):
        create_catalog(tmp_path / "catalog.db", rows)
    assert names_in(tmp_path) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        create_catalog(tmp_path / "nowhere" / "catalog.db", demo_rows())


def test_progress_counts_the_rows_of_each_table(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []
    counts = create_catalog(
        tmp_path / "catalog.db", sized_rows(25_000), lambda *call: calls.append(call)
    )
    assert [rows for table, rows in calls if table == "machines"] == [10_000, 20_000, 25_000]
    assert dict(calls) == counts


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o277])
def test_a_new_catalog_is_readable_by_its_owner_only_whatever_the_umask(
    tmp_path: Path, mask: int
) -> None:
    path = tmp_path / "catalog.db"
    before = os.umask(mask)
    try:
        create_catalog(path, demo_rows())
        with Writer(path) as writer:
            writer.write([("apps", {"network_id": 24, "name": "new"})])
            modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in names_in(tmp_path)}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(
        ("catalog.db", "catalog.db-shm", "catalog.db-wal", "catalog.db.lock"), 0o600
    )
