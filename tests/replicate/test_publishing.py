"""Publishing writes only differences, parents first, deletes last, each key only if unchanged."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.replicate.codec import (
    COLUMNS,
    FLOOR,
    bucket_key,
    host_key,
    read_floor,
    same_value,
    write_floor,
)
from internal_dns.replicate.logic import Message
from internal_dns.replicate.nats import NatsBucket
from internal_dns.replicate.publishing import (
    Changes,
    compact,
    decode_rows,
    find_changes,
    read_file_values,
    write,
)
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import connect
from internal_dns.store.writer import RejectedChange
from tests import commands
from tests.replicate.fake import SOURCE, Stream
from tests.replicate.values import machine, network


def present(*values: tuple[str, bytes | None]) -> dict[str, Message]:
    return {key: Message(key, at, value) for at, (key, value) in enumerate(values, 1)}


def test_only_differences_are_written() -> None:
    key, value = machine("a")
    spaced = json.dumps(json.loads(value), indent=3).encode()
    assert find_changes(
        present(network(), (key, spaced), (FLOOR, write_floor(0))), dict([network(), (key, value)])
    ).empty


def test_each_key_is_written_only_at_the_revision_that_was_read() -> None:
    changed, new, back = machine("a", state="stopped"), machine("b"), machine("c")
    found = find_changes(
        present(network(), machine("a"), (back[0], None)), dict([network(), changed, new, back])
    )
    assert found.puts == [(*changed, 2), (*new, 0), (*back, 3)]
    assert found.deletes == []


def test_unwanted_keys_are_deleted_children_first_and_the_floor_stays() -> None:
    app = bucket_key("apps", (24, "web"))
    there = present(
        network(),
        (app, b"{}"),
        machine("a"),
        (FLOOR, write_floor(0)),
        ("nonsense", b"x"),
        ("gone", None),
    )
    found = find_changes(there, {})
    assert [key for key, _, _ in found.deletes] == [machine("a")[0], app, network()[0], "nonsense"]
    assert all(value is None for _, value, _ in found.deletes)
    assert [key for key, _, _ in find_changes(there, {}, only={app}).deletes] == [app]


def test_a_published_file_can_be_rebuilt_from_the_bucket(tmp_path: Path) -> None:
    create_catalog(tmp_path / "a.db", demo_rows())
    with closing(connect(tmp_path / "a.db")) as connection:
        values = read_file_values(connection, CatalogRules(hidden=()))
    create_catalog(tmp_path / "b.db", decode_rows(present(*values.items()), CatalogRules())[0])
    with closing(connect(tmp_path / "b.db")) as connection:
        assert read_file_values(connection, CatalogRules(hidden=())) == values


def test_rows_that_cannot_be_served_are_refused_and_named(tmp_path: Path) -> None:
    create_catalog(tmp_path / "a.db", demo_rows())
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
        connection.execute("UPDATE machines SET address = '::1'")
        connection.execute("INSERT INTO apps VALUES (24, CAST(x'ff' AS TEXT))")
    with (
        closing(connect(tmp_path / "a.db")) as connection,
        pytest.raises(RejectedChange) as refused,
    ):
        read_file_values(connection, CatalogRules(hidden=()))
    assert len(refused.value.faults) == 21
    assert refused.value.faults[-1] == "and 61 more"


class Written:
    """Records writes and purges."""

    def __init__(self) -> None:
        self.floors: list[int] = []

    async def write(self, changes: list[tuple[str, bytes | None, int | None]]) -> int:
        self.floors += [
            read_floor(value) for key, value, _ in changes if key == FLOOR and value is not None
        ]
        return 9

    async def purge(self, key: str, before: int) -> None:
        assert self.floors, "the floor must be raised before a purge"


@pytest.mark.parametrize(
    ("there", "floor"),
    [
        ((), [0]),
        ((network(), (FLOOR, write_floor(0))), []),
        ((network(), (FLOOR, b"{}"), machine("a")), [3]),
        ((network(), (FLOOR, None)), [2]),
    ],
)
def test_a_bucket_without_a_floor_gets_one_that_hides_no_delete(
    there: tuple[tuple[str, bytes | None], ...], floor: list[int]
) -> None:
    bucket = Written()
    asyncio.run(write(cast(NatsBucket, bucket), present(*there), Changes([], [])))
    assert bucket.floors == floor


def test_compacting_never_lowers_the_floor() -> None:
    for before, after in ((0, 2), (700, 700)):
        bucket = Written()
        there = present(network(), ("gone", None), (FLOOR, write_floor(before)))
        assert asyncio.run(compact(cast(NatsBucket, bucket), there)) == 1
        assert bucket.floors == [after]


# ── what later versions wrote ─────────────────────────────────────────────────────────────────────

NEWER = ("gateways.abc", b'{"version": 1, "network_id": 24, "name": "x"}')


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    made = Stream()
    made.put(*network())
    made.put(*machine("a", 1))
    made.floor()
    monkeypatch.setattr("internal_dns.replicate.publishing.connected", made.connect)
    return made


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """One network with one machine, b."""
    machines = [{"id": "b", "address": "fdaa:0:18:a7b:7d:1:2:2", "region": "iad"}]
    acme = {"id": 24, "apps": {"web": {"machines": machines}}}
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps({"networks": {"acme": acme}}))
    return path


@pytest.fixture
def file(document: Path) -> Path:
    """A file with what *document* names."""
    path = document.with_name("catalog.db")
    create_catalog(path, {})
    assert commands.run("apply", document, "--catalog", path, "--offline").code == 0
    return path


def later(value: tuple[str, bytes]) -> tuple[str, bytes]:
    """What version 2 would write at the key of *value*."""
    key, octets = value
    return key, json.dumps(json.loads(octets) | {"version": 2}).encode()


@pytest.mark.parametrize("command", ["apply", "publish"])
def test_values_of_a_later_version_are_never_touched_and_counted_by_network(
    stream: Stream, document: Path, file: Path, command: str
) -> None:
    for ident in "bc":
        stream.put(*later(machine(ident)))
    stream.put(*later(machine("d", network_id=31)))
    stream.put(*NEWER)
    before = dict(stream.messages)
    words = ["apply", document] if command == "apply" else ["publish", "--catalog", file]
    for flag in ([], ["--dry-run"]):
        said = commands.run(*words, "--to", SOURCE, *flag)
        assert said.code == 1
        assert "network acme: 3 keys of a later version" in said.err
        assert "network 31: 1 key of a later version" in said.err
        assert "Upgrade internal-dns here" in said.err
        assert stream.messages == before
    assert commands.run(*words, "--to", SOURCE, "--force").code == (command == "apply")
    assert same_value(
        "machines", stream.messages[machine("b")[0]].value or b"", machine_of(file, "b")
    )
    # `apply` removes no row that it could not read, `publish` all that the file lacks.
    assert (stream.messages[NEWER[0]].value is None) == (command == "publish")


def machine_of(file: Path, ident: str) -> bytes:
    with closing(connect(file)) as connection:
        return read_file_values(connection, CatalogRules())[machine(ident)[0]]


def test_a_floor_of_a_later_version_stays(stream: Stream, document: Path) -> None:
    stream.put(FLOOR, b'{"version": 2, "floor": [1]}')
    said = commands.run("apply", document, "--to", SOURCE)
    assert said.code == 1
    assert "no network: 1 key of a later version" in said.err
    assert commands.run("apply", document, "--to", SOURCE, "--force").code == 0
    assert stream.messages[FLOOR].value == b'{"version": 2, "floor": [1]}'


def test_values_without_a_valid_form_are_told_and_the_rest_is_applied(
    stream: Stream, document: Path
) -> None:
    stream.put(*machine("c", address="::1"))
    stream.put("nonsense", b"x")
    said = commands.run("apply", document, "--to", SOURCE, "--json")
    assert said.code == 1
    assert said.json["unreadable"] == {"network acme": 1, "no network": 1}
    assert any("network acme: 1 key cannot be read" in line for line in said.json["warnings"])
    assert machine("b")[0] in stream.messages
    assert stream.messages["nonsense"].value == b"x"


def test_publish_removes_what_has_no_valid_form(stream: Stream, file: Path) -> None:
    stream.put("nonsense", b"x")
    stream.put("machines.\\xff", b"x")  # such a key no client can write
    said = commands.run("publish", "--to", SOURCE, "--catalog", file, "--json")
    assert said.code == 0
    assert said.json["unwritable"] == 1
    assert stream.messages["nonsense"].value is None
    assert stream.messages["machines.\\xff"].value == b"x"


def test_members_of_a_later_version_survive_an_older_publisher() -> None:
    """New columns have defaults and do not change the version: an older publisher ignores them."""
    key, octets = machine("a", zone={"x": 1})
    changed = machine("a", state="stopped")
    (put,) = find_changes(present(network(), (key, octets)), dict([network(), changed])).puts
    assert json.loads(put[1] or b"") == {**json.loads(changed[1]), "zone": {"x": 1}}
    same = find_changes(present(network(), (key, octets)), dict([network(), (key, octets)]))
    assert same.empty


@pytest.mark.parametrize("command", ["apply", "publish"])
def test_nothing_is_published_while_a_host_is_older(
    stream: Stream, document: Path, file: Path, command: str
) -> None:
    stream.fleet = Stream()
    report = {
        "host": "ams-1", "revision": 1, "lag_revisions": 0, "lag_seconds": 0, "quarantined": 0,
        "problem": "", "at": 0, "software": "0.1", "columns": COLUMNS - 1,
    }  # fmt: skip
    stream.fleet.put(host_key("ams-1"), json.dumps(report).encode())
    before = dict(stream.messages)
    words = ["apply", document] if command == "apply" else ["publish", "--catalog", file]
    said = commands.run(*words, "--to", SOURCE)
    assert said.code == 1
    assert "host ams-1 runs internal-dns 0.1" in said.err
    assert "fleet forget" in said.err
    assert stream.messages == before
    assert commands.run(*words, "--to", SOURCE, "--force").code == 0
    assert stream.messages != before


def test_force_is_for_a_bucket(document: Path) -> None:
    assert commands.run("apply", document, "--force").code == 2
