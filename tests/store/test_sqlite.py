"""Reading a catalog file: a bad row is reported and not loaded; a bad file is reported."""

from __future__ import annotations

import gc
import os
import re
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.replicate.codec import file_values
from internal_dns.store import declare, sqlite
from internal_dns.store.check import findings
from internal_dns.store.generate import demo_rows
from internal_dns.store.json_rows import read_rows
from internal_dns.store.rows import KEPT_FAULTS, Fault
from internal_dns.store.schema import BY_NAME, CATALOG, TABLES
from internal_dns.store.sqlite import Loaded, UnusableCatalog, connect, load, read
from tests.core.messages import ACME, MANY, ROWS, SCHEMA, insert, loaded, machine, opened
from tests.laws import examples

ADDRESS = "fdaa:0:18:1:1:1:1:1"
MACHINES = len(ROWS["machines"])
STARTED = sum(row[6] == "started" for row in ROWS["machines"])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The octets of a good catalog."""
    file = tmp_path_factory.mktemp("good") / "catalog.db"
    connection = sqlite3.connect(file, isolation_level=None)
    connection.executescript(f"PRAGMA synchronous = OFF; BEGIN; {SCHEMA}")
    for table, rows in ROWS.items():
        insert(connection, table, rows)
    connection.execute("COMMIT")
    connection.close()
    return file.read_bytes()


@pytest.fixture
def path(tmp_path: Path, good: bytes) -> Path:
    """A good catalog."""
    file = tmp_path / "catalog.db"
    file.write_bytes(good)
    return file


def changed(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    for statement in statements:
        connection.execute(statement)
    connection.close()


def only(found: Loaded) -> tuple[str, str, str]:
    """The one fault."""
    assert found.fault_count == len(found.faults) == 1, found.faults
    (fault,) = found.faults
    return fault.table, fault.row, fault.reason


def with_machine(*cells: Any) -> Loaded:
    """A catalog of one machine, its cells as given."""
    return loaded(rows={"machines": [(*cells, *machine("m1", ADDRESS)[len(cells) :])]})


# ── the schema ────────────────────────────────────────────────────────────────────────────────────


def test_a_catalog_is_read_whole(path: Path) -> None:
    found = load(path)
    assert found.faults == []
    assert sorted(found.catalog.networks) == [0x18, 0x19]
    assert (found.machines, found.started, found.peers, found.apps) == (MACHINES, STARTED, 1, 6)


@pytest.mark.parametrize("table", [table.name for table in CATALOG if not table.optional])
def test_a_missing_table_is_named(path: Path, table: str) -> None:
    changed(path, f"DROP TABLE {table}")
    with pytest.raises(UnusableCatalog, match=rf"\b{table}\b"):
        load(path)


@pytest.mark.parametrize(
    ("table", "column"),
    [(table.name, c.name) for table in CATALOG for c in table.columns if c.needed],
)
def test_a_missing_column_is_named_with_its_table(path: Path, table: str, column: str) -> None:
    changed(
        path,
        f"DROP TABLE {table}",
        f"CREATE TABLE {table} (extra, {', '.join(c for c in TABLES[table] if c != column)})",
    )
    with pytest.raises(UnusableCatalog, match=rf"\b{table}\b.*\b{column}\b"):
        load(path)


OPTIONAL = [(t.name, c.name) for t in CATALOG for c in t.columns if not c.needed]


@given(st.sets(st.sampled_from(OPTIONAL), min_size=1), st.booleans())
@examples(60)
@pytest.mark.slow
def test_whatever_columns_a_file_lacks_have_their_defaults(
    lacking: set[tuple[str, str]], more: bool
) -> None:
    """An older schema, or another engine's: with the columns set to their defaults, the same is
    read."""
    bare, full = (sqlite3.connect(":memory:", isolation_level=None) for _ in range(2))
    for table, rows in demo_rows().items():
        names = TABLES[table]
        present = [name for name in names if (table, name) not in lacking]
        extra = ["newer", *present] if more else present
        bare.execute(f"CREATE TABLE {table} ({', '.join(extra)})")
        full.execute(f"CREATE TABLE {table} ({', '.join(names)})")
        for row in rows:
            cells = dict(zip(names, row, strict=False))
            cells = {c.name: c.sql_default for c in BY_NAME[table].columns} | cells
            kept = [cells[name] for name in present]
            if more:
                kept.insert(0, "of a schema to come")
            bare.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(kept))})", kept)
            cells |= {
                name: BY_NAME[table].column(name).sql_default for of, name in lacking if of == table
            }
            full.execute(
                f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})", [*cells.values()]
            )
    bare.text_factory = full.text_factory = bytes
    assert read(bare).catalog == read(full).catalog
    for table in demo_rows():
        assert read_rows(bare, table, {}) == read_rows(full, table, {})
    assert [*file_values(bare)] == [*file_values(full)]
    assert declare.export(bare) == declare.export(full)
    bare.close()
    full.close()


@pytest.mark.parametrize("table", [table.name for table in CATALOG if table.optional])
def test_a_table_that_may_be_missing_is_read_as_empty(path: Path, table: str) -> None:
    before = load(path).catalog
    changed(path, f"DROP TABLE {table}")
    assert load(path).catalog.networks == before.networks
    connection = connect(path)
    assert read_rows(connection, table, {}) == []
    assert all(of != table for of, _, _ in file_values(connection))
    connection.close()


def test_a_table_may_have_more_columns_and_none_of_our_types(path: Path) -> None:
    for table, columns in TABLES.items():
        changed(
            path,
            f"ALTER TABLE {table} RENAME TO old",
            f"CREATE TABLE {table} (extra, {', '.join(reversed(columns))})",
        )
        names = ", ".join(columns)
        changed(path, f"INSERT INTO {table} ({names}) SELECT {names} FROM old", "DROP TABLE old")
    found = load(path)
    assert found.faults == []
    assert found.machines == MACHINES


def test_every_table_of_the_schema_is_checked() -> None:
    assert set(re.findall(r"^CREATE TABLE (\w+)", SCHEMA, re.MULTILINE)) == set(TABLES)


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────

BAD_NAMES = {
    "empty": "",
    "a dot": "a.b",
    "a blank": "a b",
    "a blank behind": "web ",
    "a newline behind": "web\n",
    "NUL": "we\0b",
    "64 octets": "x" * 64,
    "300 octets": "x" * 300,
    "a comma": "a,b",
    "an equals sign": "a=b",
    "a semicolon": "web;ip=fdaa::1",
    "injection": "x'; DROP TABLE machines; --",
    "an umlaut": "wéb",
    "broken UTF-8": b"w\xe9b",
    "a wildcard": "*",
    "a line": "web\r\nSet-Cookie: x",
    "a terminal's escape": "\x1b[2J",
}
bad_names = pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())


@bad_names
@pytest.mark.parametrize(
    ("at", "what"), [(0, "id"), (2, "app"), (4, "region"), (5, "process_group")]
)
def test_a_machine_with_an_invalid_name_is_not_loaded(name: Any, at: int, what: str) -> None:
    cells = [*machine("m1", ADDRESS)]
    cells[at] = name
    found = with_machine(*cells)
    table, row, reason = only(found)
    assert (table, reason) == ("machines", f"no valid {what}")
    assert row.isprintable()
    assert 0 < len(row) <= 400
    assert found.catalog.networks == {}


@bad_names
@pytest.mark.slow
def test_any_other_row_with_an_invalid_name_is_not_loaded(name: Any) -> None:
    for table, row in (
        ("apps", (ACME, name)),
        ("peers", (ACME, name, ADDRESS, "")),
        ("flycasts", (ACME, name, ADDRESS)),
        ("regions", (name, "", 1.0, 1.0, 0)),
        ("hosts", (1, "", name)),
        ("region_latency", (name, "ams", 1.0)),
        ("region_latency", ("ams", name, 1.0)),
        ("machine_services", ("m1", name, "tcp", 80)),
    ):
        if table == "machine_services":
            # A service that cannot be answered counts with its machine, which is none the worse.
            found = loaded(rows={table: [row], "machines": [machine("m1", ADDRESS)]})
            assert only(found)[0] == table
            assert found.machines == 1
            continue
        found = loaded(rows={table: [row]})
        assert only(found)[0] == table
        assert found.catalog == Catalog(revision=found.catalog.revision)
    if name:
        assert only(loaded(rows={"peers": [(ACME, "p", ADDRESS, name)]}))[2] == "no valid region"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "fdaa:0:19::1",
        "fdaa::1",
        "::1",
        "192.0.2.1",
        "fdaa:0:18::1 ",
        "fdaa:0:18::1%lo",
        "fdaa:0:18::1/48",
        "fdaa:0:18::1\0",
        "fdaa:0:18:1:1:1:1:1:1",
        b"\xfd\xaa\0\0\0\x18" + bytes(10),
        b"\xff",
        "é",
        7,
        1.5,
        "web",
        "x" * 10_000,
    ],
)
def test_a_row_with_an_address_outside_its_network_is_not_loaded(address: Any) -> None:
    for table, row in (
        ("machines", ("m1", ACME, "web", address)),
        ("peers", (ACME, "p", address, "")),
        ("flycasts", (ACME, "web", address)),
    ):
        found = with_machine(*row) if table == "machines" else loaded(rows={table: [row]})
        assert only(found)[0] == table
        assert "is not one of fdaa:0:18::/48" in only(found)[2]
        assert len(only(found)[2]) < 500
        assert found.catalog.networks == {}


@pytest.mark.parametrize(
    "network", [0, -1, 1 << 32, (1 << 63) - 1, -(1 << 63), 1.5, "x", "0x18", b"\0"]
)
def test_a_row_of_an_impossible_network_is_not_loaded(network: Any) -> None:
    for table, row in (
        ("apps", (network, "web")),
        ("machines", machine("m1", ADDRESS, network=network)),
        ("peers", (network, "p", ADDRESS, "")),
        ("flycasts", (network, "web", ADDRESS)),
    ):
        rows_ = {table: [row]} | (
            {"machines": [machine("m1", ADDRESS)]} if table == "machine_services" else {}
        )
        found = loaded(rows=rows_)
        assert only(found)[0] == table
        assert "network_id" in only(found)[2]
        assert found.catalog.networks == {}
    if isinstance(network, int):
        assert "4294967295" in only(loaded(rows={"networks": [(network, "acme", "")]}))[2]


def test_nulls_and_blobs_of_a_laxer_writer_are_faults_and_never_a_crash() -> None:
    """The columns are NOT NULL in schema.sql; another program's file may have them otherwise."""
    for odd in (None, b"", b"\xff\xfe", 1 << 62, -1, 0.5, float("inf"), "\0"):
        connection = sqlite3.connect(":memory:", isolation_level=None)
        for table, columns in TABLES.items():
            connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
            good = {
                "network_id": ACME,
                "address": ADDRESS,
                "state": "started",
                "process_group": "app",
                "region": "ams",
            }
            for column in columns:
                cells = [odd if c == column else good.get(c, "ok") for c in columns]
                connection.execute(
                    f"INSERT INTO {table} VALUES ({', '.join('?' * len(cells))})", cells
                )
            connection.execute(f"INSERT INTO {table} DEFAULT VALUES")
        connection.text_factory = bytes
        found = read(connection)
        connection.close()
        assert found.fault_count > 20
        assert all(
            fault.table in TABLES and fault.reason and fault.row.isprintable()
            for fault in found.faults
        )


def test_what_is_dropped_of_metadata_is_counted() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for table, columns in TABLES.items():
        connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
    connection.execute(
        "INSERT INTO machine_metadata VALUES (NULL, 'key', 'value'), ('m1', NULL, 'value')"
    )
    insert(connection, "machines", [machine("m1", ADDRESS)])
    connection.text_factory = bytes
    assert read(connection).fault_count == 2
    connection.close()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("m1", "http", "sctp", 80), "protocol"),
        (("m1", "http", "TCP", 80), "protocol"),
        (("m1", "http", "tcp", 0), "port"),
        (("m1", "http", "tcp", 65_536), "port"),
        (("m1", "http", "tcp", 1 << 62), "port"),
        (("m1", "http", "tcp", "http"), "port"),
        (("m1", "x" * 63, "tcp", 80), "name"),
    ],
)
def test_a_service_that_cannot_be_answered_is_not_loaded(row: tuple[Any, ...], reason: str) -> None:
    assert (
        reason
        in only(loaded(rows={"machines": [machine("m1", ADDRESS)], "machine_services": [row]}))[2]
    )


def test_regions_hosts_and_latencies_have_bounds() -> None:
    for row in (("ams", "", 91.0, 0.0, 0), ("ams", "", 0.0, None, 0), ("ams", "", "north", 0.0, 0)):
        found = loaded(rows={"regions": [row]})
        assert "coordinates" in only(found)[2]
        assert found.catalog.regions[b"ams"] == (None, None)
    assert only(loaded(rows={"hosts": [(1 << 32, "", "ams")]}))[0] == "hosts"
    assert only(loaded(rows={"hosts": [(-1, "", "ams")]}))[0] == "hosts"
    for milliseconds in (-1.0, 1e12, "fast", float("inf")):
        assert (
            only(loaded(rows={"region_latency": [("ams", "iad", milliseconds)]}))[0]
            == "region_latency"
        )


def test_names_are_lower_cased() -> None:
    found = loaded(
        rows={"machines": [machine("M1", ADDRESS, "WEB", "AMS", group="App")]}
    ).catalog.networks
    (app,) = found[next(iter(found))].apps.values()
    (only_machine,) = app.machines
    assert (app.name, only_machine[:2], only_machine.region, only_machine.group) == (
        b"web",
        (b"m1", b"web"),
        b"ams",
        b"app",
    )


@pytest.mark.parametrize("ids", [("A1", "a1"), ("a1", "A1"), ("AB", "Ab", "aB", "ab")])
def test_of_ids_that_differ_in_letter_case_the_first_by_octets_is_loaded(
    ids: tuple[str, ...],
) -> None:
    found = loaded(
        rows={"machines": [machine(x, f"fdaa:0:18:1:1:1:1:{n}") for n, x in enumerate(ids)]}
    )
    assert found.machines == 1
    assert found.fault_count == len(ids) - 1
    assert "letter case" in found.faults[0].reason
    (network,) = found.catalog.networks.values()
    assert network.apps[b"web"].machines[0].address[-1] == ids.index(min(ids))


def test_of_peers_that_differ_in_letter_case_the_first_by_octets_is_loaded() -> None:
    rows = [(ACME, "Laptop", "fdaa:0:18::1:102", ""), (ACME, "laptop", "fdaa:0:18::1:202", "")]
    found = loaded(rows={"peers": rows})
    assert "letter case" in only(found)[2]
    (network,) = found.catalog.networks.values()
    assert [peer.address[-2] for peer in network.peers.values()] == [1]


def test_a_state_is_never_taken_for_a_name() -> None:
    for state in ("Bad name", "Web", "x" * 64):
        rows = [machine("m1", ADDRESS, state=state), machine("m2", ADDRESS, state)]
        (network,) = loaded(rows={"machines": rows}).catalog.networks.values()
        assert set(network.apps) == ({b"web"})


def test_a_network_without_a_valid_name_is_loaded_all_the_same() -> None:
    found = loaded(rows={"networks": [(ACME, "a b", "")]})
    assert "without its name" in only(found)[2]
    assert [network.label for network in found.catalog.networks.values()] == [b"24"]


def test_faults_beyond_a_thousand_are_only_counted() -> None:
    found = loaded(rows={"apps": [(ACME, f"{i}.") for i in range(1_500)]})
    assert (found.fault_count, len(found.faults)) == (1_500, KEPT_FAULTS)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_file_is_reported_as_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []  # and none was made


@pytest.mark.parametrize(
    "octets", [b"garbage" * 1_000, b"SQLite format 3\0" + b"\xff" * 5_000, b"x" * 600], ids=len
)
def test_garbage_is_not_a_catalog(tmp_path: Path, octets: bytes) -> None:
    file = tmp_path / "garbage.db"
    file.write_bytes(octets)
    with pytest.raises(UnusableCatalog, match=re.escape(str(file))):
        load(file)


def test_an_empty_file_is_not_a_catalog(tmp_path: Path) -> None:
    file = tmp_path / "empty.db"
    file.touch()
    with pytest.raises(UnusableCatalog, match="table regions is missing"):
        load(file)


def test_a_directory_is_not_a_catalog(tmp_path: Path) -> None:
    with pytest.raises(UnusableCatalog):
        load(tmp_path)


def test_a_truncated_file_is_unusable_and_never_half_a_catalog(path: Path) -> None:
    whole = path.read_bytes()
    for size in range(512, len(whole), 4_096):
        path.write_bytes(whole[:size])
        with pytest.raises(UnusableCatalog, match=r"internal-dns init|missing"):
            load(path)


def test_a_page_overwritten_with_garbage_never_raises_anything_else(path: Path) -> None:
    whole = path.read_bytes()
    page = 4_096
    for at in range(0, len(whole), page):
        path.write_bytes(whole[:at] + os.urandom(page) + whole[at + page :])
        with suppress(UnusableCatalog):
            load(path)


def test_a_locked_file_is_reported_as_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0.01}))
    writer = connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UnusableCatalog, match="locked"):
        load(path)
    writer.execute("ROLLBACK")
    assert load(path).machines == MACHINES
    writer.close()


def test_a_writer_in_wal_mode_does_not_disturb_and_what_it_has_not_committed_is_not_seen(
    path: Path,
) -> None:
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE machines SET state = 'stopped'")
    assert load(path).started == STARTED
    writer.execute("COMMIT")
    assert load(path).started == 0
    writer.close()


def test_a_catalog_is_read_as_of_one_commit(path: Path) -> None:
    changed(path, "PRAGMA journal_mode = WAL")
    writer = sqlite3.connect(path, isolation_level=None)
    done: list[object] = []

    def commit_between(table: str, count: int) -> None:
        if not done:
            done.append(writer.execute("DELETE FROM machines WHERE app = 'many'"))

    connection = sqlite.connect(path)
    rows = sqlite._PROGRESS_ROWS
    sqlite._PROGRESS_ROWS = 1  # type: ignore[misc]
    try:
        first = read(connection, progress=commit_between)
    finally:
        sqlite._PROGRESS_ROWS = rows  # type: ignore[misc]
    assert done
    assert first.machines == MACHINES
    assert read(connection).machines == MACHINES - MANY
    connection.close()
    writer.close()


def test_reading_writes_nothing(path: Path) -> None:
    before = path.read_bytes()
    connection = sqlite.connect(path)
    read(connection)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM machines")
    assert connection.execute("PRAGMA mmap_size").fetchone() in (None, (0,))
    connection.close()
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_path_with_odd_characters_is_opened(path: Path) -> None:
    for name in ("a b.db", "q?mode=rwc.db", "h#ash.db", "p%20.db", "ü.db"):
        other = path.with_name(name)
        shutil.copy(path, other)
        assert load(other).machines == MACHINES


def test_a_wal_catalog_in_a_read_only_directory_says_what_to_do(path: Path) -> None:
    changed(path, "PRAGMA journal_mode = WAL")
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    assert "make the directory writable" in sqlite.explain_error(path, error)
    if os.geteuid() == 0:
        return  # root writes anywhere: only the words can be tested
    path.parent.chmod(0o555)
    try:
        with pytest.raises(UnusableCatalog, match="make the directory writable"):
            load(path)
    finally:
        path.parent.chmod(0o755)


def test_a_row_loaded_in_part_is_a_warning_and_one_not_loaded_an_error() -> None:
    rows: dict[str, list[tuple[object, ...]]] = {
        "networks": [(24, "not a name", ""), (0, "zero", "")],
        "regions": [("iad", "", 95.0, 2.0, 0), ("no code", "", 1.0, 2.0, 0)],
    }
    found = loaded(rows=rows)
    assert sorted((fault.table, fault.row, fault.level) for fault in found.faults) == [
        ("networks", "0", "error"),
        ("networks", "24", "warning"),
        ("regions", "iad", "warning"),
        ("regions", "no code", "error"),
    ]


def test_what_kind_of_finding_a_fault_is_does_not_depend_on_its_words() -> None:
    faults = [
        Fault("regions", "iad", "any words", "warning"),
        Fault("regions", "ams", "loaded, but said to be an error", "error"),
    ]
    found = findings(replace(Loaded(), faults=faults, fault_count=2))
    assert [finding.level for finding in found] == ["warning", "error"]


def test_a_transient_error_is_known_by_its_code(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0.01}))
    holder = connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with closing(holder), pytest.raises(UnusableCatalog) as locked:
        load(path)
    assert locked.value.passing
    path.write_bytes(path.read_bytes()[:8_192])
    with pytest.raises(UnusableCatalog, match="Restore it from a backup") as damaged:
        load(path)
    assert not damaged.value.passing


def test_many_values_are_read_without_the_cycle_collector_and_never_walked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen = list[bool]()
    monkeypatch.setattr("internal_dns.store.sqlite.gc.freeze", lambda: frozen.append(True))
    for count in (10, 2 * sqlite.MANY):
        kept = []
        with sqlite.without_cycles():
            assert not gc.isenabled()
            with sqlite.without_cycles():  # of a commit that is read whole
                kept = [[number] for number in range(count)]
            assert not gc.isenabled()
        assert gc.isenabled()
        assert len(kept) == count
        assert bool(frozen) == (count > sqlite.MANY)


def test_what_a_commit_changed_in_one_app_is_freed_in_pieces() -> None:
    """And apps that it did not touch are not looked at."""
    connection = opened(
        rows={
            "networks": [(24, "acme", "")],
            "apps": [(24, "large"), (24, "small")],
            "machines": [
                (f"{n:x}", 24, "large", f"fdaa:0:18:1::{n + 1:x}", "ams", "app", "started", 0, 0)
                for n in range(2_500)
            ],
        }
    )
    old = read(connection).catalog
    connection.execute("UPDATE machines SET region = 'iad' WHERE id = '7'")
    new = read(connection, previous=old).catalog
    connection.close()
    before = old.networks[NetworkId(24)]
    pieces = sqlite.discarded_parts(old, new)
    assert [len(piece) for piece in pieces if isinstance(piece, tuple)] == [1_000, 1_000, 500]
    assert before.apps[b"large"] in pieces
    assert before.apps[b"small"] not in pieces
    touching = replace(
        new.networks[NetworkId(24)], since=before.revision, touched=frozenset({b"large", b"gone"})
    )
    assert sqlite.discarded_parts(old, replace(new, networks={NetworkId(24): touching})) == pieces
