"""machines.ready, machines.name, and priority and weight of a service: read, kept, and told."""

import json
import re
import sqlite3
from random import Random
from typing import Any

import msgspec
import pytest

from internal_dns.core.catalog import NO_MARKS, NO_NAMES, SMALL, App, Catalog, Machine, NetworkId
from internal_dns.core.catalog_rules import DEFAULT_RULES
from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.replicate.codec import VERSION, file_values, read_key, read_value
from internal_dns.store.check import findings
from internal_dns.store.declare import InvalidDocument, export, parse
from internal_dns.store.rows import Values
from internal_dns.store.schema import MACHINES
from internal_dns.store.sqlite import Loaded, read
from tests.core.catalogs import Rows, natural_type, random_name, random_rows, random_source
from tests.core.messages import ACME, SCHEMA, SERVER, insert, ip, loaded, machine, opened, query

NEW = ("ready", "name", "priority", "weight")
OLD_WIDTH = {"machines": 9, "machine_services": 4}


def web(loaded: Loaded) -> App:
    return loaded.catalog.networks[NetworkId(ACME)].apps[b"web"]


def app_of(*machines: tuple[Any, ...], services: Rows | None = None) -> Loaded:
    return loaded(
        rows={"networks": [(ACME, "acme", "")], "machines": [*machines], **(services or {})}
    )


def m(number: int, *marks: Any, **more: Any) -> tuple[Any, ...]:
    return (*machine(f"m{number}", f"fdaa:0:18:1:1:{number:x}:1:2", **more), *marks)


# ── the file ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cell", "ready"),
    [(0, False), (1, True), (2, True), (-1, True), (None, True), ("", True), ("no", True)],
)
def test_exactly_zero_is_unready(cell: Any, ready: bool) -> None:
    """A foreign file may hold anything there."""
    connection = opened()
    connection.execute("ALTER TABLE machines DROP COLUMN ready")
    connection.execute("ALTER TABLE machines ADD COLUMN ready")
    insert(connection, "networks", [(ACME, "acme", "")])
    insert(connection, "machines", [m(1)])
    connection.execute("UPDATE machines SET ready = ?", (cell,))
    found = read(connection)
    assert web(found).machines[0].ready is ready
    assert not found.faults
    (value,) = (value for table, _, value in file_values(connection) if table == "machines")
    assert json.loads(value)["ready"] is ready
    exported = export(connection).document["networks"]["acme"]["apps"]["web"]["machines"][0]
    assert exported.get("ready", True) is ready
    connection.close()


@pytest.mark.parametrize("name", ["a b", "x" * 64, "a.b", "é", " "])
def test_a_faulty_name_is_ignored_and_counted_and_its_machine_stays(name: str) -> None:
    found = app_of(m(1, 0, name), m(2, 1, "Blue"))
    assert [(one.name, one.ready) for one in web(found).machines] == [(b"", False), (b"blue", True)]
    (fault,) = found.faults
    assert (fault.table, fault.row, fault.level) == ("machines", "m1", "warning")
    assert "without its name" in fault.reason
    assert found.fault_count == 1


def test_null_is_the_default() -> None:
    connection = opened()
    for table, columns in (("machines", ("name",)), ("machine_services", ("priority", "weight"))):
        for column in columns:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    insert(connection, "networks", [(ACME, "acme", "")])
    insert(connection, "machines", [m(1)])
    insert(connection, "machine_services", [("m1", "http", "tcp", 80)])
    found = read(connection)
    assert not found.faults
    (one,) = web(found).machines
    assert (one.name, one.services[0][2:]) == (b"", (80, 0, 1))
    values = Values(DEFAULT_RULES)
    for table, key, value in file_values(connection):
        if table == "machines":
            stored = read_value(read_key(key), value, values)
            assert stored.services == (("m1", "http", "tcp", 80, 0, 1),)
    exported = export(connection)
    assert not exported.notes
    assert "name" not in exported.document["networks"]["acme"]["apps"]["web"]["machines"][0]
    connection.close()


@pytest.mark.parametrize(("priority", "weight"), [(-1, 1), (65_536, 1), (0, -1), (0, 65_536)])
def test_a_service_with_a_faulty_number_is_left_out(priority: int, weight: int) -> None:
    rows = {"machine_services": [("m1", "http", "tcp", 80, priority, weight)]}
    found = app_of(m(1), services=rows)
    assert web(found).machines[0].services == ()
    assert [fault.reason for fault in found.faults] == ["priority and weight are 0 to 65535"]


def older_schema() -> str:
    """schema.sql as it was before these columns."""
    lines = [line for line in SCHEMA.splitlines() if not re.match(rf" +({'|'.join(NEW)}) "
                                                                  rf"+(INT|TEXT)", line)
             or re.match(r" +name +TEXT", line)]  # fmt: skip
    text = "\n".join(lines)
    body = re.search(r"CREATE TABLE machines \((.*?)\);", text, re.DOTALL)
    assert body is not None
    kept = re.sub(r",\n +name +TEXT NOT NULL DEFAULT ''", "", body[1].rstrip().rstrip(","))
    return text.replace(body[1], f"{kept.rstrip().rstrip(',')}\n")


@pytest.mark.slow
def test_a_file_of_the_older_schema_answers_byte_for_byte_as_one_that_has_the_defaults() -> None:
    rng = Random(7)
    asked = 0
    for _ in range(40):
        rows = random_rows(rng)
        rows = {t: [row[: OLD_WIDTH.get(t, 99)] for row in of] for t, of in rows.items()}
        old = sqlite3.connect(":memory:", isolation_level=None)
        old.executescript(older_schema())
        for table, of_table in rows.items():
            insert(old, table, of_table)
        old.text_factory = bytes
        before, after = read(old), loaded(rows=rows)
        old.close()
        assert set(before.missing) == {
            "machines.ready", "machines.name", "machine_services.priority",
            "machine_services.weight",
        }  # fmt: skip
        for _ in range(100):
            source = random_source(rng, rows)
            name = random_name(rng, rows, source)
            octets = query(name, natural_type(name, rng, rows))
            rotation = rng.getrandbits(32)
            said = [
                respond(octets, source, SERVER, one.catalog, Rules(), rotation=rotation)
                for one in (before, after)
            ]
            asked += isinstance(said[0], Reply)
            assert getattr(said[0], "octets", said[0]) == getattr(said[1], "octets", said[1])
    assert asked > 1_000


# ── memory and indexes ────────────────────────────────────────────────────────────────────────────


def test_a_machine_with_the_defaults_takes_no_octet_more_for_them() -> None:
    found = app_of(m(1), m(2, 1, ""), m(3, skip=1), m(4, 0), m(5, 0))
    assert len(Machine._fields) == 9
    marks = [one.marks for one in web(found).machines]
    assert marks[0] is marks[1] is NO_MARKS
    assert marks[3] is marks[4]


def test_equal_services_are_one_object() -> None:
    rows = {"machine_services": [(f"m{n}", "http", "tcp", 80, 3, 4) for n in (1, 2)]}
    one, other = web(app_of(m(1), m(2), services=rows)).machines
    assert one.services[0] is other.services[0]


def test_an_app_without_names_keeps_no_index_of_them() -> None:
    assert web(app_of(m(1), m(2))).by_name is NO_NAMES


def test_no_question_to_a_large_app_builds_an_index() -> None:
    count = SMALL + 100
    rows: Rows = {
        "machine_services": [(f"m{n}", "http", "tcp", 80) for n in range(count)],
        "machine_metadata": [(f"m{n}", "role", "x") for n in range(count)],
    }
    machines = [
        m(n, n % 3 > 0, f"name{n % 7}", region=("ams", "iad")[n % 2], group=("a", "b")[n % 5 > 1])
        for n in range(count)
    ]
    found = app_of(*machines, services=rows)
    app = web(found)
    assert app.mixed
    built = {*vars(app)}
    catalog = Catalog(found.catalog.networks, found.catalog.regions)
    for name in (
        "web.internal", "ams.web.internal", "a.process.web.internal", "ams.a.process.web.internal",
        "x.role.kv._metadata.web.internal", "role.kv._metadata.web.internal",
        "name3.vm.web.internal",
        "nosuch.vm.web.internal", "_http._tcp.web.internal", "_http._tcp.ams.web.internal",
        "_http._tcp.ams.a.process.web.internal", "_http._tcp.b.process.web.internal",
        "top3.nearest.of.web.internal", "top3.nearest.of.a.process.web.internal",
        "1._page.web.internal",
    ):  # fmt: skip
        for qtype in (28, 33):
            respond(
                query(name, qtype), ip("fdaa:0:18:1:1:9:9:9"), SERVER, catalog, Rules(region=b"ams")
            )
    assert {*vars(app)} - built <= {"orders", "lists", "by_id"}


# ── check ─────────────────────────────────────────────────────────────────────────────────────────


def told(found: Loaded) -> list[tuple[str, str]]:
    return [
        (one.where.removeprefix("network acme "), one.what)
        for one in findings(found)
        if "ready" in one.what or "name" in one.what
    ]


def test_check_tells_of_sets_without_a_ready_machine() -> None:
    all_unready = app_of(m(1, 0), m(2, 0), m(3, state="stopped"))
    assert told(all_unready) == [("app web", "none of 2 is ready; all are answered")]
    rows = {"machine_services": [("m1", "http", "tcp", 80), ("m2", "http", "tcp", 80)]}
    some = app_of(m(1, 0, region="iad"), m(2, 0, region="iad", group="b"), m(3), services=rows)
    assert told(some) == [
        ("app web", "process group b: none of 1 is ready; all are answered"),
        ("app web", "region iad: none of 2 is ready; all are answered"),
        ("app web", "service http/tcp: none of 2 is ready; all are answered"),
    ]
    assert told(app_of(m(1, 0), m(2))) == []
    assert told(app_of(m(1, 0, state="stopped"), m(2, state="stopped"))) == []


def test_check_tells_of_faulty_names_and_of_names_that_are_ids() -> None:
    found = app_of(m(1, 1, "m2"), m(2, 1, "a b"), m(3, 1, "same"), m(4, 1, "same"))
    assert [(one.level, one.where) for one in findings(found) if "name" in one.what] == [
        ("warning", "machines m2"),
        ("warning", "network acme app web machine m1"),
    ]


# ── documents and buckets ─────────────────────────────────────────────────────────────────────────

DOCUMENT = """
[networks.acme]
id = 24
[[networks.acme.apps.web.machines]]
id = "m1"
address = "fdaa:0:18:1:1:1:1:2"
region = "ams"
ready = false
name = "Blue"
services = [
    { name = "http", port = 80, priority = 10, weight = 5 },
    { name = "dns", protocol = "udp", port = 53 },
]
"""


def test_a_document_says_it_and_an_export_says_it_again() -> None:
    document = parse(DOCUMENT, name="a.toml")
    rows = document.rows()
    connection = opened()
    for table, of_table in rows.items():
        for row in of_table:
            places = ", ".join("?" * len(row))
            connection.execute(
                f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", [*row.values()]
            )
    (one,) = web(read(connection)).machines
    assert (one.ready, one.name) == (False, b"blue")
    assert [service[2:] for service in one.services] == [(53, 0, 1), (80, 10, 5)]
    exported = export(connection).document
    connection.close()
    assert parse(json.dumps(exported), name="a.json").rows() == rows
    machine = exported["networks"]["acme"]["apps"]["web"]["machines"][0]
    assert (machine["ready"], machine["name"]) == (False, "Blue")
    assert {"name": "http", "port": 80, "priority": 10, "weight": 5} in machine["services"]
    assert {"name": "dns", "protocol": "udp", "port": 53} in machine["services"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "Blue"', 'name = "a b"', "'a b' is not a valid name"),
        ("ready = false", "ready = 0", "an integer stands where a boolean belongs"),
        ("priority = 10", "priority = 65536", "65536 is not a whole number of 16 bits"),
        ("weight = 5", 'weight = "5"', "a string stands where an integer belongs"),
    ],
)
def test_a_document_with_a_faulty_value_is_refused(old: str, new: str, words: str) -> None:
    with pytest.raises(InvalidDocument, match=re.escape(words)):
        parse(DOCUMENT.replace(old, new), name="a.toml")


def test_a_value_of_before_has_the_defaults_and_the_version_stays() -> None:
    value = {"version": 1, "id": "m1", "network_id": 24, "app": "web", "region": "ams",
             "address": "fdaa:0:18:1:1:1:1:2",
             "services": [{"name": "http", "port": 80}]}  # fmt: skip
    stored = read_value(("machines", ("m1",)), json.dumps(value).encode(), Values(DEFAULT_RULES))
    row = dict(zip((column.name for column in MACHINES.columns), stored.row, strict=True))
    assert (row["ready"], row["name"], stored.services[0][4:]) == (1, "", (0, 1))
    assert VERSION == 1


def test_a_faulty_name_does_not_keep_a_machine_out_of_a_bucket() -> None:
    connection = opened()
    insert(connection, "networks", [(ACME, "acme", "")])
    insert(connection, "machines", [m(1, 0, "a b"), m(2, 0, "b")])
    values = Values(DEFAULT_RULES)
    for table, key, value in file_values(connection):
        if table == "machines":
            stored = read_value(read_key(key), value, values)
            assert stored.row[-3:] in ((0, "a b", ""), (0, "b", ""))
            assert msgspec.json.decode(value)["version"] == 1
            assert not values.faults.total
    connection.close()
