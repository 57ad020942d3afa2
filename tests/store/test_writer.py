"""The only writer: whole changes or none, checked before they commit."""

from __future__ import annotations

import hashlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from internal_dns.core.catalog import NetworkId
from internal_dns.store import writer as writing
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.schema import KEYS
from internal_dns.store.sqlite import Reader, UnusableCatalog, load
from internal_dns.store.writer import Delete, NotOurs, Put, RejectedChange, Writer

ACME = NetworkId(0x18)
ALICE = "fdaa:0:18:a7b:7d:f066:b83b:102"
NEW = {
    "id": "new",
    "network_id": 0x18,
    "app": "web",
    "address": "fdaa:0:18:a7b:7d:7:7:2",
    "region": "iad",
}
STARTED = {**NEW, "state": "started"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_catalog(tmp_path / "catalog.db", demo_rows())
    return tmp_path / "catalog.db"


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    with Writer(path) as found:
        yield found


def content(path: Path) -> list[str]:
    """Everything in the file, the journal too."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.text_factory = lambda octets: octets.decode("utf-8", "surrogateescape")
        return [
            *connection.iterdump(),
            str(connection.execute("SELECT * FROM sqlite_sequence").fetchall()),
        ]


def journal(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT kind, network_id, label FROM journal ORDER BY revision"
        ).fetchall()


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def sound(path: Path) -> None:
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def refused(writer: Writer, *puts: Put, deletes: tuple[Delete, ...] = ()) -> list[str]:
    """The faults of a change that must be refused and leave everything as it was."""
    before, octets = content(writer.path), digest(writer.path)
    with pytest.raises(RejectedChange) as caught:
        writer.write(puts, deletes)
    assert content(writer.path) == before
    assert digest(writer.path) == octets
    assert not writer.connection.in_transaction
    assert all(fault.isprintable() and len(fault) < 400 for fault in caught.value.faults), (
        caught.value.faults
    )
    return caught.value.faults


def digest(path: Path) -> list[str]:
    """Of the file and its -wal."""
    files = (path, path.with_name(path.name + "-wal"))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.exists()]


# ── who writes ────────────────────────────────────────────────────────────────────────────────────


def test_a_second_writer_is_rejected_until_the_first_has_closed(path: Path) -> None:
    with Writer(path), pytest.raises(NotOurs, match="another internal-dns process is writing"):
        Writer(path)
    with Writer(path) as again:
        assert again.write([("apps", {"network_id": ACME, "name": "x"})]).rows == 1


def test_a_second_writer_of_another_process_is_refused(path: Path) -> None:
    program = f"from internal_dns.store.writer import Writer\nWriter({str(path)!r})"
    with Writer(path):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=20
        )
    assert done.returncode == 1
    assert "NotOurs: another internal-dns process is writing" in done.stderr


def test_the_lock_of_a_killed_writer_is_free(path: Path) -> None:
    program = (
        "from internal_dns.store.writer import Writer\n"
        f"w = Writer({str(path)!r})\nprint(flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(NotOurs):
            Writer(path)
        process.kill()
        process.wait(10)
        Writer(path).close()


def test_the_file_of_another_engine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(resources.files("internal_dns").joinpath("schema.sql").read_text())
    before = path.read_bytes()
    for _ in range(2):  # the lock is given back
        with pytest.raises(NotOurs, match="has no journal: another engine maintains"):
            Writer(path)
    assert path.read_bytes() == before


def test_a_file_that_is_not_a_catalog_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Writer(tmp_path / "absent.db")
    assert not (tmp_path / "absent.db").exists()
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE journal (x)")
    with pytest.raises(UnusableCatalog, match="is missing"):
        Writer(tmp_path / "other.db")
    (tmp_path / "text.db").write_text(
        "this is a text of more than a hundred octets, which no database begins with" * 9
    )
    for _ in range(2):
        with pytest.raises(sqlite3.Error, match="not a database"):
            Writer(tmp_path / "text.db")


def test_a_file_name_with_uri_characters_is_written(tmp_path: Path) -> None:
    path = tmp_path / "50%#?mode=memory&x=1 ü.db"
    create_catalog(path, demo_rows())
    with Writer(path) as writer:
        writer.write([("machines", STARTED)])
    assert load(path).catalog.networks[ACME].apps[b"web"].by_id[b"new"]


# ── what is refused ───────────────────────────────────────────────────────────────────────────────

EVIL = (
    "'; DROP TABLE machines; --",
    '" OR 1=1',
    "a\0b",
    "\0",
    "",
    " ",
    "a b",
    "a.b",
    "ü",
    "x" * 64,
    "y" * 300,
    "*",
    "a\nb",
    "\x1b[2J",
    "\u202e",
    "%s{0}",
    "a/b",
)


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
@pytest.mark.parametrize("column", ["id", "app", "region", "process_group", "address"])
@pytest.mark.slow
def test_a_machine_with_a_name_that_cannot_be_is_refused(
    writer: Writer, column: str, text: str
) -> None:
    faults = refused(writer, ("machines", {**STARTED, column: text}))
    assert len(faults) == 1
    assert faults[0].startswith("machines ")


NOT_NAMES: list[Put] = [
    ("networks", {"id": 99, "name": "NAME"}),
    ("apps", {"network_id": ACME, "name": "NAME"}),
    ("peers", {"network_id": ACME, "name": "NAME", "address": ALICE[:-3] + "202"}),
    ("peers", {"network_id": ACME, "name": "x", "address": "NAME"}),
    ("flycasts", {"network_id": ACME, "app": "NAME", "address": "fdaa:0:18:0:1::9"}),
    ("flycasts", {"network_id": ACME, "app": "x", "address": "NAME"}),
    (
        "machine_services",
        {"machine_id": "3d8d9930b03989", "name": "NAME", "protocol": "tcp", "port": 1},
    ),
    (
        "machine_services",
        {"machine_id": "3d8d9930b03989", "name": "x", "protocol": "NAME", "port": 1},
    ),
    ("regions", {"code": "NAME"}),
    ("region_latency", {"from_region": "NAME", "to_region": "iad", "milliseconds": 1}),
    ("region_latency", {"from_region": "iad", "to_region": "NAME", "milliseconds": 1}),
    ("hosts", {"id": 1, "region": "NAME"}),
]


@pytest.mark.parametrize(
    "put", NOT_NAMES, ids=lambda put: f"{put[0]}.{list(put[1].values()).index('NAME')}"
)
@pytest.mark.slow
def test_a_row_of_any_table_with_a_name_that_cannot_be_is_refused(writer: Writer, put: Put) -> None:
    for text in EVIL:
        faults = refused(
            writer, (put[0], {c: text if v == "NAME" else v for c, v in put[1].items()})
        )
        assert len(faults) == 1
        assert faults[0].startswith(f"{put[0]} ")


NOT_VALUES: list[Put] = [
    ("machines", {**STARTED, "address": "fdaa:0:19:a7b:7d:7:7:2"}),
    ("machines", {**STARTED, "address": "fe80::1%lo"}),
    ("machines", {**STARTED, "network_id": 0}),
    ("machines", {**STARTED, "network_id": 1 << 32}),
    ("machines", {**STARTED, "network_id": "x"}),
    ("machines", {"id": "new"}),
    ("networks", {"id": 0, "name": "x"}),
    ("networks", {"id": -1, "name": "x"}),
    ("networks", {"id": 1 << 32, "name": "x"}),
    ("networks", {"id": 99}),
    ("apps", {"network_id": 0, "name": "x"}),
    ("peers", {"network_id": 0, "name": "x", "address": ALICE}),
    ("peers", {"network_id": ACME, "name": "x", "address": ALICE, "region": "no region"}),
    ("flycasts", {"network_id": 0, "app": "x", "address": "fdaa:0:18:0:1::9"}),
    ("flycasts", {"network_id": ACME, "app": "x", "address": "fdaa:0:19:0:1::9"}),
    *(("machine_services",
       {"machine_id": "3d8d9930b03989", "name": "x", "protocol": "tcp", "port": port}) for port in (
        0, -1, 65_536, "http", 80.5, None)),
    ("machine_services",
     {"machine_id": "3d8d9930b03989", "name": "x" * 63, "protocol": "tcp", "port": 1}),
    ("regions", {"code": "xyz", "latitude": 91, "longitude": 0}),
    ("regions", {"code": "xyz", "latitude": 1}),
    ("regions", {"code": "xyz", "latitude": "north", "longitude": 0}),
    *(("region_latency",
       {"from_region": "iad", "to_region": "lhr", "milliseconds": ms}) for ms in (-1, 1e9, "x")),
    ("hosts", {"id": -1, "region": "iad"}),
    ("hosts", {"id": 1 << 32, "region": "iad"}),
]  # fmt: skip


@pytest.mark.parametrize("put", NOT_VALUES, ids=str)
@pytest.mark.slow
def test_a_value_that_cannot_be_served_is_refused(writer: Writer, put: Put) -> None:
    before = content(writer.path)
    with pytest.raises((RejectedChange, sqlite3.IntegrityError)) as caught:
        writer.write([put])
    assert put[0] in str(caught.value)
    assert content(writer.path) == before


def test_every_fault_of_a_change_is_reported(writer: Writer) -> None:
    faults = refused(
        writer,
        ("machines", {**NEW, "id": "bad id"}),
        ("machines", {**NEW, "id": "far", "address": "fdaa:0:19::1"}),
        ("apps", {"network_id": ACME, "name": "fine"}),
        ("peers", {"network_id": ACME, "name": "bad name", "address": ALICE}),
        ("hosts", {"id": -1, "region": "iad"}),
        (
            "machine_services",
            {"machine_id": "3d8d9930b03989", "name": "x", "protocol": "tcp", "port": 0},
        ),
    )
    assert len(faults) == 5
    for part in ("bad id", "far", "bad name", "hosts -1", "the port"):
        assert [fault for fault in faults if part in fault], (part, faults)


def test_an_unknown_table_or_column_is_rejected(writer: Writer) -> None:
    assert refused(writer, ("sqlite_master", {"name": "x"})) == [
        "'sqlite_master' is not a table of a catalog"
    ]
    assert refused(writer, ("journal", {"revision": 1})) == [
        "'journal' is not a table of a catalog"
    ]
    assert refused(writer, ("machines; DROP TABLE apps", {"id": "x"}))[0].endswith(
        "is not a table of a catalog"
    )
    assert refused(writer, ("machines", {"id": "x", "rowid": 1})) == [
        "machines: 'rowid' is not a column"
    ]
    assert refused(writer, ("machines", {"id": "x", "state = 'x' --": 1}))[0].endswith(
        "is not a column"
    )
    assert refused(writer, ("apps", {"name": "x"})) == ["apps: network_id is missing"]
    assert refused(writer, deletes=(("apps", {}),)) == [
        "apps: the request does not say which row to delete"
    ]
    assert refused(writer, deletes=(("journal", {"revision": 1}),)) == [
        "'journal' is not a table of a catalog"
    ]
    assert refused(writer, deletes=(("apps", {"1 OR 1": 1}),))[0].endswith("is not a column")


def test_names_that_look_like_sql_harm_no_table(writer: Writer) -> None:
    for table, keys in KEYS.items():
        with suppress(RejectedChange):  # where numbers belong
            assert (
                writer.write(
                    [], [(table, dict.fromkeys(keys, "' OR 1=1; DROP TABLE machines; --"))]
                ).rows
                == 0
            )
    writer.write(
        [
            (
                "machine_metadata",
                {"machine_id": "3d8d9930b03989", "key": "'", "value": "'); DELETE FROM apps;--"},
            )
        ]
    )
    assert query(writer.path, "SELECT count(*) FROM machines") == [(80,)]
    assert ("'", "'); DELETE FROM apps;--") in query(
        writer.path, "SELECT key, value FROM machine_metadata"
    )


def test_the_rows_of_a_refused_change_are_not_deleted_either(writer: Writer) -> None:
    refused(
        writer,
        ("apps", {"network_id": ACME, "name": "bad name"}),
        deletes=(("machines", {"network_id": ACME}),),
    )
    assert len(load(writer.path).catalog.networks[ACME].apps[b"web"].machines) > 5


@pytest.mark.parametrize(
    "spelling",
    [
        "fdaa:0:18:a7b:7d:f066:b83b:2",
        "FDAA:0:18:A7B:7D:F066:B83B:2",
        "fdaa:0000:0018:0a7b:007d:f066:b83b:0002",
        "fdaa::18:a7b:7d:f066:b83b:2",
        "fdaa:0:18:a7b:7d:f066:184.59.0.2",
    ],
)
def test_an_address_that_a_live_machine_has_is_refused_however_it_is_written(
    writer: Writer, spelling: str
) -> None:
    faults = refused(writer, ("machines", {**STARTED, "address": spelling}))
    assert len(faults) == 1
    assert "machine new" in faults[0]
    assert "3d8d9930b03989" in faults[0]


@pytest.mark.parametrize("spelling", [ALICE, ALICE.upper(), "fdaa:0000:18:a7b:7d:f066:b83b:0102"])
def test_an_address_that_a_peer_has_is_refused_however_it_is_written(
    writer: Writer, spelling: str
) -> None:
    assert "alice-laptop" in refused(writer, ("machines", {**STARTED, "address": spelling}))[0]
    assert (
        "alice-laptop"
        in refused(writer, ("peers", {"network_id": ACME, "name": "x", "address": spelling}))[0]
    )


def test_two_rows_of_one_change_may_not_have_one_address(writer: Writer) -> None:
    other = {**STARTED, "id": "other", "address": "fdaa:0:18:a7b:7d:7:7:0002"}
    faults = refused(writer, ("machines", STARTED), ("machines", other))
    assert {fault.partition(":")[0] for fault in faults} == {"machine new", "machine other"}


def test_a_stopped_machine_may_keep_an_address_until_it_starts(writer: Writer) -> None:
    taken = {**NEW, "address": "fdaa:0:18:a7b:7d:f066:b83b:2", "state": "stopped"}
    writer.write([("machines", taken)])
    assert "has address" in refused(writer, ("machines", {"id": "new", "state": "started"}))[0]
    writer.write(
        [("machines", {"id": "new", "state": "started", "address": "fdaa:0:18:a7b:7d:7:7:3"})]
    )


def test_addresses_may_be_swapped_within_one_change(writer: Writer) -> None:
    a, b = "3d8d9930b03989", "5683d474b40d8e"
    had = dict(query(writer.path, f"SELECT id, address FROM machines WHERE id IN ('{a}', '{b}')"))
    writer.write(
        [("machines", {"id": a, "address": had[b]}), ("machines", {"id": b, "address": had[a]})]
    )
    assert (
        dict(query(writer.path, f"SELECT id, address FROM machines WHERE id IN ('{a}', '{b}')"))[a]
        == had[b]
    )


@pytest.mark.parametrize(
    "put",
    [
        ("machines", {**STARTED, "id": "3D8D9930B03989"}),
        ("peers", {"network_id": ACME, "name": "Alice-Laptop", "address": ALICE[:-3] + "202"}),
        (
            "machine_services",
            {"machine_id": "3d8d9930b03989", "name": "HTTP", "protocol": "tcp", "port": 1},
        ),
    ],
    ids=lambda put: str(put[0]),
)
def test_a_name_that_differs_from_another_in_letter_case_only_is_refused(
    writer: Writer, put: Put
) -> None:
    """Only one of the two could be served: `a change is refused whole when any row of it could not
    be served`."""
    assert "letter case" in refused(writer, put)[0]


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("machine_metadata", {"key": "k", "value": "v"}),
        ("machine_services", {"name": "x", "protocol": "tcp", "port": 1}),
    ],
)
def test_metadata_and_services_of_a_missing_machine_are_rejected(
    writer: Writer, table: str, row: dict[str, Any]
) -> None:
    assert "nobody" in refused(writer, (table, {"machine_id": "nobody", **row}))[0]


def test_what_was_faulty_before_does_not_hinder_other_changes(writer: Writer) -> None:
    with closing(sqlite3.connect(writer.path, isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO machines (id, network_id, app) VALUES ('bad id', 24, 'web')"
        )
    assert writer.write([("machines", STARTED)]).rows == 1


def test_any_state_is_taken(writer: Writer) -> None:
    """The original's states may become more; the reader takes any text."""
    for state in ("created", "suspended", "launch_failed", "somehow"):
        assert writer.write([("machines", {**NEW, "state": state})]).rows == 1
    assert load(writer.path).fault_count == 0


# ── what is written ───────────────────────────────────────────────────────────────────────────────


def test_an_unchanged_row_leaves_no_journal_entry(writer: Writer) -> None:
    puts: list[Put] = [
        ("machines", STARTED),
        ("machine_metadata", {"machine_id": "new", "key": "k", "value": "v"}),
        ("machine_services", {"machine_id": "new", "name": "x", "protocol": "tcp", "port": 1}),
        ("apps", {"network_id": ACME, "name": "fresh"}),
        ("peers",
         {"network_id": ACME, "name": "p", "address": "fdaa:0:18:a7b:7d:7:8:102", "region": ""}),
        ("flycasts", {"network_id": ACME, "app": "fresh", "address": "fdaa:0:18:0:1::9"}),
        ("networks", {"id": 99, "name": "n", "organization": "o"}),
        ("organizations", {"slug": "o", "name": "O"}),
        ("regions", {"code": "xyz", "latitude": None, "longitude": None}),
        ("region_latency", {"from_region": "iad", "to_region": "xyz", "milliseconds": 1}),
        ("hosts", {"id": 5, "name": "h", "region": "iad"}),
    ]  # fmt: skip
    first = writer.write(puts)
    assert first.rows == len(puts)
    before = content(writer.path)
    second = writer.write(puts)
    assert (second.rows, second.revision) == (0, first.revision)
    assert content(writer.path) == before
    third = writer.write([("machines", {"id": "new", "state": "stopped"})])
    assert (third.rows, third.revision) == (1, first.revision + 1)


def test_what_is_not_named_stays_or_has_its_default(writer: Writer) -> None:
    begin = int(time.time())
    writer.write([("machines", NEW)])
    writer.write([("machines", {"id": "new", "region": "ams"})])
    row = query(writer.path, "SELECT app, region, process_group, state, skip_registration, "
                             "updated_at FROM machines"
                " WHERE id = 'new'")[0]  # fmt: skip
    assert row[:-1] == ("web", "ams", "app", "created", 0)
    assert begin <= row[-1] <= time.time()


def test_a_change_returns_the_revision_that_a_reader_reaches(writer: Writer) -> None:
    with Reader(writer.path) as reader:
        loaded = reader.read()
        for number in range(5):
            written = writer.write([("machines", {**STARTED, "region": f"r{number}"})])
            loaded = reader.update(loaded)
            assert loaded.catalog.revision == written.revision == writer.revision()
            assert (
                loaded.catalog.networks[ACME].apps[b"web"].by_id[b"new"].region
                == f"r{number}".encode()
            )


def test_deleting_a_machine_deletes_its_metadata_and_services(writer: Writer) -> None:
    written = writer.write([], [("machines", {"id": "3d8d9930b03989"})])
    assert written.rows == 1
    for table in ("machine_metadata", "machine_services"):
        assert (
            query(writer.path, f"SELECT * FROM {table} WHERE machine_id = '3d8d9930b03989'") == []
        )
        assert query(writer.path, f"SELECT count(*) FROM {table}")[0][0] > 3
    writer.write([], [("machines", {"network_id": 0x19})])
    left = "SELECT count(*) FROM {} WHERE machine_id NOT IN (SELECT id FROM machines)"
    assert query(writer.path, left.format("machine_services")) == [(0,)]


def test_a_row_may_be_deleted_and_put_in_one_change(writer: Writer) -> None:
    """Deletes come first."""
    writer.write(
        [("machines", {**STARTED, "id": "3d8d9930b03989"})],
        [("machines", {"id": "3d8d9930b03989"})],
    )
    found = load(writer.path).catalog.networks[ACME].apps[b"web"].by_id[b"3d8d9930b03989"]
    assert (found.metadata, found.services, found.region) == ((), (), b"iad")


def test_a_trial_change_is_rolled_back(writer: Writer) -> None:
    before = content(writer.path)
    tried = writer.write([("machines", STARTED)], [("apps", {"name": "blog"})], keep=False)
    assert tried.rows == 2
    assert content(writer.path) == before


def test_the_journal_is_trimmed(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "JOURNAL_LIMIT", 10)
    with Reader(writer.path) as often, Reader(writer.path) as seldom:
        loaded, before = often.read(), seldom.read()
        for number in range(40):
            writer.write([("machines", {**STARTED, "region": f"r{number}"})])
            loaded = often.update(loaded)
            assert loaded.parts == 1
        assert len(journal(writer.path)) == 10
        assert query(writer.path, "SELECT max(revision) FROM journal") == [(writer.revision(),)]
        after = seldom.update(before)
        assert after.parts == 0  # it missed some, and read everything
        assert after.catalog.networks[ACME].apps == loaded.catalog.networks[ACME].apps
        assert after.catalog.revision == loaded.catalog.revision
    monkeypatch.setattr(writing, "JOURNAL_LIMIT", 0)
    writer.write([("machines", {**STARTED, "region": "last"})])
    assert journal(writer.path) == []
    revision = writer.revision()
    assert writer.write([("machines", {**STARTED, "region": "again"})]).revision == revision + 1


# ── harm ──────────────────────────────────────────────────────────────────────────────────────────

LARGE_WRITE = """
import sys
from internal_dns.store.writer import Writer
with Writer(sys.argv[1]) as writer:
    for turn in range(int(sys.argv[2]), 1_000_000):
        puts = [("machines", {"id": f"k{n}", "network_id": 24, "app": "killed",
                              "state": f"s{turn}", "region": "iad",
                              "address": f"fdaa:0:18:a7b:7d:9:{n + 1:x}:2"}) for n in range(2_000)]
        print(turn, flush=True)
        writer.write(puts)
"""


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_all_of_a_change_or_nothing(path: Path) -> None:
    seen = set()
    with Reader(path) as reader:
        loaded = reader.read()
        for number in range(8):
            process = subprocess.Popen(
                [sys.executable, "-c", LARGE_WRITE, str(path), str(number * 1_000)],
                stdout=subprocess.PIPE,
            )
            with process:
                assert process.stdout is not None
                for _ in range(1 + number % 3):  # so many changes were begun
                    process.stdout.readline()
                time.sleep(0.01 * number)
                process.send_signal(signal.SIGKILL)
                process.wait(10)
            loaded = reader.update(loaded)
            app = loaded.catalog.networks[ACME].apps.get(b"killed")
            states = {m.state for m in app.machines} if app else set()
            assert len(states) <= 1
            assert not app or len(app.machines) == 2_000
            assert loaded.catalog.networks[ACME].apps == load(path).catalog.networks[ACME].apps
            seen |= states
            sound(path)
    with Writer(path) as writer:
        assert writer.write([("machines", STARTED)]).rows == 1
    assert seen, "every writer was killed before its first commit"


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BUSY_TIMEOUT", 0.3)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.slow
def test_a_writer_waits_for_a_shell_that_holds_the_file_then_reports_it(path: Path) -> None:
    with Writer(path) as writer, closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        begin = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            writer.write([("machines", STARTED)])
        assert 0.2 < time.monotonic() - begin < 3
        shell.execute("ROLLBACK")
        assert writer.write([("machines", STARTED)]).rows == 1


@pytest.mark.slow
def test_a_shell_that_ends_its_transaction_in_time_is_waited_for(path: Path) -> None:
    with (
        Writer(path) as writer,
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as shell,
    ):
        shell.execute("BEGIN IMMEDIATE")
        shell.execute("UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")
        timer = threading.Timer(0.2, shell.execute, ["COMMIT"])
        timer.start()
        assert writer.write([("machines", STARTED)]).rows == 1
        timer.join()
    assert query(path, "SELECT state FROM machines WHERE id IN ('3d8d9930b03989', 'new') ORDER BY "
                       "1") == [
        ("started",), ("stopped",),
    ]  # fmt: skip


def test_a_full_disk_changes_nothing(path: Path) -> None:
    with Writer(path) as writer:
        pages = writer.connection.execute("PRAGMA page_count").fetchone()[0]
        writer.connection.execute(f"PRAGMA max_page_count = {pages}")
        before = content(path)
        puts = [("apps", {"network_id": ACME, "name": f"app-{n:050}"}) for n in range(2_000)]
        with pytest.raises(sqlite3.Error, match="full"):
            writer.write(puts)
        assert content(path) == before
        assert not writer.connection.in_transaction
        writer.connection.execute(f"PRAGMA max_page_count = {pages * 100}")
        assert writer.write(puts).rows == 2_000
    sound(path)


def test_a_file_that_took_the_place_of_ours_is_not_written_past(path: Path) -> None:
    """A catalog that is renamed over ours is the catalog now; a write to the one without a name
    would be lost."""
    with Writer(path) as writer:
        writer.write([("machines", {**STARTED, "id": "first"})])
        create_catalog(path, demo_rows(), replace=True)
        try:
            writer.write(
                [("machines", {**STARTED, "id": "second", "address": "fdaa:0:18:a7b:7d:7:8:2"})]
            )
        except (NotOurs, sqlite3.Error, OSError):
            return  # reported, not lost
    assert query(path, "SELECT id FROM machines WHERE id = 'second'") == [("second",)]


def test_a_file_that_could_not_be_opened_anew_at_first_is_written_later(
    path: Path, tmp_path: Path
) -> None:
    """What took its place was no catalog yet; the next write finds one."""
    with Writer(path) as writer:
        (tmp_path / "other").write_bytes(b"no catalog" * 500)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        (tmp_path / "other").replace(path)
        for _ in range(2):
            with pytest.raises(
                (NotOurs, UnusableCatalog, sqlite3.DatabaseError), match="not a database"
            ):
                writer.write([("machines", STARTED)])
        create_catalog(path, demo_rows(), replace=True)
        assert writer.write([("machines", STARTED)]).rows == 1
    assert query(path, "SELECT id FROM machines WHERE id = 'new'") == [("new",)]


def interrupted(after: int) -> Callable[[], int]:
    left = [after]

    def progress() -> int:
        left[0] -= 1
        return left[0] < 0

    return progress


@pytest.mark.parametrize("after", range(0, 60, 7))
def test_a_change_that_breaks_off_anywhere_changes_nothing(writer: Writer, after: int) -> None:
    before = content(writer.path)
    writer.connection.set_progress_handler(interrupted(after), 50)
    try:
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            writer.write([("machines", {**STARTED, "id": f"m{n}"}) for n in range(500)])
    finally:
        writer.connection.set_progress_handler(None, 0)
    assert not writer.connection.in_transaction
    assert content(writer.path) == before


# ── records and zones ─────────────────────────────────────────────────────────────────────────────


def own_record(name: str, rtype: str, value: str, ttl: int = 5) -> Put:
    row = {"network_id": ACME, "name": name, "type": rtype, "value": value, "ttl": ttl}
    return "records", row


@pytest.mark.parametrize(
    ("puts", "why"),
    [
        ([own_record("pg.internal", "A", "10.0.0")], "no valid A"),
        ([own_record("PG.internal", "A", "10.0.0.1")], "the name is written pg.internal"),
        ([own_record("pg.internal", "A", "10.0.0.1", 86_401)], "the TTL is 0 to 86400"),
        ([own_record("pg.internal", "AAAA", "fdaa:0:19::1")], "belongs to another network"),
        ([own_record("pg.corp.example", "A", "10.0.0.1")], "nor in a zone of the network"),
        (
            [own_record("a.internal", "CNAME", "b.c"), own_record("a.internal", "TXT", "x")],
            "cannot stand beside",
        ),
        (
            [own_record("a.internal", "CNAME", "b.c"), own_record("a.internal", "CNAME", "b.d")],
            "a name has one CNAME",
        ),
        ([("zones", {"network_id": ACME, "name": "internal"})], "answered here already"),
        ([("zones", {"network_id": ACME, "name": "Lan"})], "the name is written lan"),
    ],
)
def test_a_record_or_zone_that_would_not_be_served_is_refused(
    writer: Writer, puts: list[Put], why: str
) -> None:
    assert any(why in fault for fault in refused(writer, *puts))


def test_a_zone_and_its_records_are_put_at_once(writer: Writer, path: Path) -> None:
    writer.write(
        [
            own_record("www.corp.example", "A", "10.0.0.1"),
            ("zones", {"network_id": ACME, "name": "corp.example"}),
            own_record("a.internal", "CNAME", "B.c"),
            own_record("a.internal", "CNAME", "b.c."),  # the same
        ]
    )
    network = load(path).catalog.networks[ACME]
    assert network.zones == {b"\4corp\7example\0"}
    assert network.records.keys() == {b"\3www\4corp\7example\0", b"\1a\x08internal\0"}
