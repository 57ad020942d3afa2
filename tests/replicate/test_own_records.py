"""Records and zones in a bucket: one key per row, whatever its value; followed, deleted,
published."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from base64 import b32hexencode
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.core.names import wire
from internal_dns.replicate.codec import (
    DecodedValue,
    InvalidEntry,
    bucket_key,
    file_values,
    read_key,
    read_value,
)
from internal_dns.replicate.follower import Follower
from internal_dns.replicate.publishing import decode_rows, find_changes, read_file_values
from internal_dns.replicate.replica import quarantine
from internal_dns.store.generate import create_catalog
from internal_dns.store.operations import perform
from internal_dns.store.rows import Values
from internal_dns.store.sqlite import connect, load
from internal_dns.store.writer import Writer
from tests.replicate.fake import Stream
from tests.replicate.test_follower import Host
from tests.replicate.values import network

LONG = " ".join(f'"{n:0255}"' for n in range(200))


def record(
    name: str = "db.internal", rtype: str = "A", value: str = "192.0.2.1", **more: Any
) -> tuple[str, bytes]:
    members = {"version": 1, "network_id": 24, "name": name, "type": rtype, "value": value}
    key = bucket_key("records", (24, name, rtype, value))
    return key, json.dumps(members | more).encode()


def zone(name: str = "corp.example") -> tuple[str, bytes]:
    value = {"version": 1, "network_id": 24, "name": name}
    return bucket_key("zones", (24, name)), json.dumps(value).encode()


def read(key: str, value: bytes) -> DecodedValue:
    return read_value(read_key(key), value, Values(CatalogRules()))


def test_the_fourth_part_of_a_records_key_is_the_sha_256_of_its_value() -> None:
    key, value = record(rtype="TXT", value=LONG)
    encoded = b32hexencode(sha256(LONG.encode()).digest()).decode().rstrip("=").lower()
    assert key.split(".")[4] == encoded
    assert len(encoded) == 52
    assert read_key(key)[1][3] == sha256(LONG.encode()).hexdigest()
    assert read(key, value).row == (24, "db.internal", "TXT", LONG, 5)


def test_the_longest_name_and_value_make_a_key_that_is_read() -> None:
    name = ".".join(["\\000" * 63] * 3 + ["\\000" * 52]) + ".internal"
    key, value = record(name, "TXT", LONG)
    assert len(key) < 2_000
    assert read(key, value).row[1] == name


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (record("db.example", "PTR", "nothing valid..."), "no valid PTR"),
        (record("db.flycast"), "neither in .internal nor in a zone"),
        (record("x.internal", "PTR", "y.internal."), "PTR is for zones only"),
        (record("DB.internal"), "the name is written db.internal"),
        (record(value="192.0.2"), "no valid A"),
        (record(rtype="AAAA", value="fdaa:0:19::1"), "belongs to another network"),
        (record(rtype="NS", value="x.internal."), "Invalid enum value"),
        (record(ttl=86_401), "86400"),
        (zone("internal"), "answered here already"),
        (zone("Lan"), "the name is written lan"),
    ],
)
def test_what_no_server_would_answer_is_rejected(entry: tuple[str, bytes], why: str) -> None:
    with pytest.raises(InvalidEntry, match=why):
        read(*entry)


@pytest.mark.parametrize(
    "entry",
    [
        record("a.corp.example"),
        record("lan", "ALIAS", "web.internal."),
        record("lan", "MX", "10 mail.lan."),
        record("a.lan", "ALIAS", "b.corp.example."),
        record("1.lan", "PTR", "a.lan."),
    ],
)
def test_whether_there_is_a_zone_for_a_record_other_keys_say(entry: tuple[str, bytes]) -> None:
    assert read(*entry)


def test_the_apex_of_any_zone_takes_no_cname() -> None:
    # A name of one label is in a zone only as its apex.
    with pytest.raises(InvalidEntry, match="neither in"):
        read(*record("lan", "CNAME", "x.internal."))


def test_a_key_of_another_value_is_rejected() -> None:
    key, _ = record(value="192.0.2.1")
    _, value = record(value="192.0.2.2")
    with pytest.raises(InvalidEntry, match="the key says"):
        read(key, value)
    for part in "-", "00", key.split(".")[4] + "00", "!":
        with pytest.raises(InvalidEntry):
            read_key(".".join([*key.split(".")[:4], part]))


@pytest.fixture
def stream() -> Stream:
    made = Stream()
    for entry in network(), zone(), record(), record("a.corp.example", "TXT", LONG, ttl=60):
        made.put(*entry)
    made.floor()
    return made


def catalog_of(path: Path) -> Catalog:
    loaded = load(path)
    assert not loaded.faults
    return loaded.catalog


def test_a_follower_gets_and_loses_records_and_zones(tmp_path: Path, stream: Stream) -> None:
    host = Host(tmp_path / "catalog.db", stream)
    name = wire((b"db", b"internal"))

    async def session() -> None:
        async with host.running():
            await host.caught_up()
            own = catalog_of(host.path).networks[NetworkId(24)]
            assert (len(own.records), len(own.zones)) == (2, 1)
            stream.put(record(value="192.0.2.1")[0], None)
            stream.put(*record(value="192.0.2.2"))
            await host.caught_up()
            own = catalog_of(host.path).networks[NetworkId(24)]
            assert own.records[name].endswith(bytes((192, 0, 2, 2)))
            assert bytes((192, 0, 2, 1)) not in own.records[name]
            stream.put(record("a.corp.example", "TXT", LONG)[0], None)
            stream.put(zone()[0], None)
            await host.caught_up()
            own = catalog_of(host.path).networks[NetworkId(24)]
            assert (set(own.records), own.zones) == ({name}, frozenset())

    asyncio.run(session())
    assert host.is_up_to_date()
    assert host.follower.status.resyncs == 1


def test_a_full_resync_removes_records_that_the_bucket_has_not(
    tmp_path: Path, stream: Stream
) -> None:
    host = Host(tmp_path / "catalog.db", stream)
    asyncio.run(host.follow())
    key, _ = record()
    deleted = stream.put(key, None)
    stream.purge(key)
    stream.floor(deleted)
    again = Host(host.path, stream)
    asyncio.run(again.follow())
    assert again.is_up_to_date()
    assert key not in again.values()


def test_a_record_before_its_zone_waits_in_the_file(tmp_path: Path, stream: Stream) -> None:
    stream.put(*record("a.lan"))
    host = Host(tmp_path / "catalog.db", stream)
    asyncio.run(host.follow())
    assert [fault.reason for fault in load(host.path).faults] == [
        "it is neither in .internal nor in a zone of the network"
    ]
    stream.put(*zone("lan"))
    again = Host(host.path, stream)
    asyncio.run(again.follow())
    assert not load(host.path).faults


def test_a_file_is_published_and_an_unchanged_one_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    create_catalog(path, {})
    document = {
        "networks": {
            "acme": {
                "id": 24,
                "zones": ["lan"],
                "records": [
                    {"name": "a.lan", "type": "TXT", "value": LONG},
                    {"name": "db.internal", "type": "ALIAS", "value": "a.lan."},
                ],
            }
        }
    }
    with Writer(path) as writer:
        perform({"op": "apply", "text": json.dumps(document)}, writer)
    with closing(connect(path)) as connection:
        values = read_file_values(connection, CatalogRules())
        assert {key.partition(".")[0] for key in values} == {"networks", "zones", "records"}
    stream = Stream()
    for key, value in values.items():
        stream.put(key, value)
    assert find_changes(stream.messages, values).empty
    other = tmp_path / "other.db"
    create_catalog(other, decode_rows(stream.messages, CatalogRules())[0])
    with closing(connect(path)) as one, closing(connect(other)) as two:
        assert list(file_values(one)) == list(file_values(two))


def test_a_bucket_without_records_is_served_as_before(tmp_path: Path) -> None:
    stream = Stream()
    stream.put(*network())
    stream.floor()
    host = Host(tmp_path / "catalog.db", stream)
    asyncio.run(host.follow())
    own = catalog_of(host.path).networks[NetworkId(24)]
    assert (own.records, own.zones) == ({}, frozenset())
    assert isinstance(host.follower, Follower)


def test_a_replica_of_an_older_schema_gets_its_records_once_it_is_upgraded(
    tmp_path: Path, stream: Stream
) -> None:
    """The older follower quarantined every key of a table that it did not know."""
    path = tmp_path / "catalog.db"
    asyncio.run(Host(path, stream).follow())
    whole = Host(path, stream).values()
    with closing(sqlite3.connect(path)) as older, older:
        older.execute("DROP TABLE records")
        older.execute("DROP TABLE zones")
        newer = "key LIKE 'records.%' OR key LIKE 'zones.%'"
        older.execute(
            "INSERT INTO replica_quarantine SELECT key, revision, 'records is not a table' "
            f"FROM replica_rows WHERE {newer}"
        )
        older.execute(f"UPDATE replica_rows SET state = 'bad' WHERE {newer}")
    assert quarantine(path, 0)[0] == 3
    after_upgrade = Host(path, stream)  # the bucket did not change
    asyncio.run(after_upgrade.follow())
    assert after_upgrade.follower.status.resyncs == 1
    assert quarantine(path, 0)[0] == 0
    assert after_upgrade.follower.status.quarantined == 0
    assert after_upgrade.values() == whole
    own = catalog_of(path).networks[NetworkId(24)]
    assert (len(own.records), len(own.zones)) == (2, 1)
    # A change of a record is in the journal again, so a running server learns of it.
    with closing(connect(path)) as connection:
        (before,) = connection.execute("SELECT max(revision) FROM journal").fetchone()
    stream.put(*record(value="192.0.2.7"))
    once_more = Host(path, stream)
    asyncio.run(once_more.follow())
    assert once_more.follower.status.resyncs == 0
    with closing(connect(path)) as connection:
        rows = "SELECT count(*) FROM journal WHERE revision > ? AND network_id = 24"
        assert connection.execute(rows, (before,)).fetchone()[0] > 0
