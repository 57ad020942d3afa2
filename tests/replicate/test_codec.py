"""A row has exactly one key, and a value that cannot be served is rejected with the reason."""

from __future__ import annotations

import json
from base64 import b32hexencode
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.replicate.codec import (
    FLOOR,
    FORMS,
    VERSION,
    DecodedValue,
    InvalidEntry,
    bucket_key,
    file_values,
    is_newer,
    json_schema,
    read_floor,
    read_key,
    read_value,
    same_value,
    write_floor,
)
from internal_dns.replicate.logic import Message, make_batch
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.rows import Values
from internal_dns.store.schema import KEYS, TABLES
from internal_dns.store.sqlite import connect
from tests.replicate.values import machine

REPOSITORY = Path(__file__).parents[2]


def read(key: str, value: bytes) -> DecodedValue:
    return read_value(read_key(key), value, Values(CatalogRules(hidden=())))


def test_a_key_is_the_table_and_the_key_columns_in_base32hex() -> None:
    assert (
        bucket_key("networks", (24,))
        == "networks." + b32hexencode(b"24").decode().rstrip("=").lower()
    )
    assert bucket_key("meta", ("",)) == "meta.-"
    assert read_key(bucket_key("flycasts", (24, "db", "fdaa:0:18::3"))) == (
        "flycasts",
        ("24", "db", "fdaa:0:18::3"),
    )


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    assert read_key(bucket_key("meta", (text,))) == ("meta", (text,))


@given(st.text(alphabet="0123456789abcdefghijklmnopqrstuv-", max_size=12))
def test_only_the_canonical_key_of_a_row_is_accepted(part: str) -> None:
    try:
        table, parts = read_key(f"meta.{part}")
    except InvalidEntry:
        return
    assert bucket_key(table, parts) == f"meta.{part}"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "floor",
        "machines",
        "machines.",
        "machines.a.b",
        "apps.68",
        "rows.68",
        "machines.CPJ6",
        "machines.cpj6====",
        "machines.w",
        "machines.0",
        "machines.1_0",
        "machines. 1",
        "machines.v\n",
        "machines.+1",
        "meta.vvvvvvv",
        "x.y.z",
        *(
            bucket_key("networks", (n,))
            for n in ("024", "2.4e1", " 24", "+24", "-1", "", "\u0662\u0664", "9" * 19)
        ),
        bucket_key("apps", ("024", "web")),
        bucket_key("machines", ("a\0b",)),
    ],
)
def test_malformed_keys_are_rejected(key: str) -> None:
    with pytest.raises(InvalidEntry):
        read_key(key)


def test_the_value_of_a_machine_includes_its_metadata_and_services() -> None:
    key, value = machine(
        "3d8d",
        skip_registration=True,
        metadata={"role": "leader"},
        services=[{"name": "http", "port": 80}, {"name": "dns", "protocol": "udp", "port": 53}],
    )
    stored = read(key, value)
    assert stored.row == (
        "3d8d",
        24,
        "web",
        "fdaa:0:18:a7b:7d:1:1:2",
        "iad",
        "app",
        "started",
        1,
        0,
        1,
        "",
        "",
    )
    assert stored.metadata == (("3d8d", "role", "leader"),)
    assert stored.services == (
        ("3d8d", "http", "tcp", 80, 0, 1),
        ("3d8d", "dns", "udp", 53, 0, 1),
    )


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"version": 2}, "version 2 is unknown"),
    ({"version": None}, "version"),
    ({"id": "other"}, "the key says 3d8d, the value other"),
    ({"address": "fdaa:0:19::2"}, "is not one of fdaa:0:18::/48"),
    ({"address": "192.0.2.1"}, "is not one of"),
    ({"network_id": 0}, "network_id"),
    ({"network_id": "24"}, "network_id"),
    ({"network_id": 1 << 32}, "network_id"),
    ({"app": "a.b"}, "app"),
    ({"app": "web\n"}, "no valid app"),
    ({"region": ""}, "region"),
    ({"skip_registration": 1}, "skip_registration"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"services": [{"name": "http", "port": 0}]}, "port"),
    ({"services": [{"name": "a", "port": 1}, {"name": "A", "port": 2}]}, "letter case"),
    ({"updated_at": -1}, "updated_at"),
]


@pytest.mark.parametrize(("more", "why"), WRONG)
def test_values_that_check_would_report_are_rejected_with_the_reason(
    more: dict[str, Any], why: str
) -> None:
    key, value = machine("3d8d", **more)
    with pytest.raises(InvalidEntry, match=why.replace("[", r"\[")):
        read(key, value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b"\xff\xfe",
        b'{"version": 1}',
        b"{}" * 2,
        b"[" * 100_000,
        b'{"version":1,"x":' + b"[" * 100_000,
    ],
)
def test_invalid_json_is_rejected(value: bytes) -> None:
    for table in FORMS:
        with pytest.raises(InvalidEntry):
            read(bucket_key(table, tuple("1" for _ in KEYS[table])), value)


@given(st.binary(max_size=200), st.sampled_from(sorted(FORMS)))
def test_arbitrary_octets_raise_nothing_but_invalid_entry(value: bytes, table: str) -> None:
    with pytest.raises(InvalidEntry):
        read_value((table, tuple("1" for _ in KEYS[table])), value, Values(CatalogRules(hidden=())))


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3)
    ),
)
MEMBERS = sorted({name for form in FORMS.values() for name in form.__struct_fields__})


@given(
    st.sampled_from(sorted(FORMS)),
    st.dictionaries(
        st.sampled_from(MEMBERS),
        ANY_JSON | st.sampled_from(["a", "24", 24, "fdaa:0:18::1", {"a": "b"}]),
    ),
)
@pytest.mark.slow
def test_every_message_is_a_row_or_is_quarantined(table: str, more: dict[str, Any]) -> None:
    """For any value in a bucket: never an exception, and never both."""
    value = {**json.loads(machine("a")[1]), **more}
    value = {name: value[name] for name in FORMS[table].__struct_fields__ if name in value}
    key = bucket_key(
        table, tuple(str(value.get(c, "a")).encode("utf-8", "replace") for c in KEYS[table])
    )
    batch = make_batch(
        [Message(key, 5, json.dumps(value).encode())], {}, Values(CatalogRules(hidden=()))
    )
    assert [state for _, _, state in batch.revisions] == (["bad"] if batch.quarantined else ["row"])
    assert len(batch.quarantined) + sum(map(len, batch.puts.values())) == 1


@given(st.text(st.characters()), st.none() | st.binary(max_size=50))
def test_every_key_is_classified(key: str, value: bytes | None) -> None:
    ((_, _, state),) = make_batch(
        [Message(key, 5, value)], {}, Values(CatalogRules(hidden=()))
    ).revisions
    assert state in ("row", "bad", "gone")


def test_the_reason_of_one_rejection_does_not_leak_into_the_next() -> None:
    values = Values(CatalogRules(hidden=()))
    for _ in range(3):
        key, value = machine("3d8d", address="::1")
        with pytest.raises(InvalidEntry, match="::1"):
            read_value(read_key(key), value, values)
    code = {"version": 1, "code": "iad", "latitude": 38.9, "longitude": -77.4, "gateway": True}
    stored = read_value(
        read_key(bucket_key("regions", ("iad",))), json.dumps(code).encode(), values
    )
    assert stored.row == ("iad", "", 38.9, -77.4, 1)
    half = {"version": 1, "code": "iad", "latitude": 38.9}
    with pytest.raises(InvalidEntry, match="without coordinates"):
        read_value(read_key(bucket_key("regions", ("iad",))), json.dumps(half).encode(), values)


def test_every_row_of_a_file_survives_encoding_and_decoding(tmp_path: Path) -> None:
    create_catalog(tmp_path / "catalog.db", demo_rows())
    connection = connect(tmp_path / "catalog.db")
    found: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
    for table, key, value in file_values(connection):
        stored = read(key, value)
        found[table].append(stored.row)
        found["machine_metadata"] += stored.metadata
        found["machine_services"] += stored.services
    connection.text_factory = str
    for table, columns in TABLES.items():
        rows = connection.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
        assert sorted(rows, key=str) == sorted(found[table], key=str), table
    connection.close()


def test_formatting_does_not_make_two_values_differ() -> None:
    _, value = machine("3d8d")
    spaced = json.dumps(json.loads(value), indent=2, sort_keys=True).encode()
    assert same_value("machines", value, spaced)
    assert not same_value("machines", value, machine("3d8d", state="stopped")[1])
    assert not same_value("machines", b"{", value)


def test_a_floor_holds_a_revision() -> None:
    assert read_floor(write_floor(17)) == 17
    for wrong in (
        b"",
        b"17",
        b'{"version": 1}',
        b'{"version": 2, "floor": 1}',
        b'{"version": 1, "floor": -1}',
    ):
        with pytest.raises(InvalidEntry):
            read_floor(wrong)


def test_the_published_schema_is_the_one_in_use() -> None:
    written = json.loads((REPOSITORY / "docs" / "bucket.schema.json").read_text())
    made = msgspec.json.decode(msgspec.json.encode(json_schema()))
    assert written == made, "python -m internal_dns.replicate.codec > docs/bucket.schema.json"


VERSION_1_TABLES = {
    "organizations", "regions", "region_latency", "hosts", "networks", "apps", "machines", "peers",
    "flycasts", "meta",
}  # fmt: skip


def test_a_new_member_has_a_default_or_makes_version_2() -> None:
    """Version 1 has exactly these required members: readers of it reject a value without them,
    and a publisher of it leaves out all later ones."""
    required = {
        table: {
            field.encode_name for field in msgspec.structs.fields(form) if field.required
        } - {"version"}
        for table, form in FORMS.items()
    }  # fmt: skip
    assert VERSION > 1 or required == {
        "organizations": {"slug"},
        "regions": {"code"},
        "region_latency": {"from_region", "to_region", "milliseconds"},
        "hosts": {"id", "region"},
        "networks": {"id", "name"},
        "apps": {"network_id", "name"},
        "machines": {"id", "network_id", "app", "address", "region"},
        "peers": {"network_id", "name", "address"},
        "flycasts": {"network_id", "app", "address"},
        "meta": {"key"},
    } | {table: required[table] for table in required.keys() - VERSION_1_TABLES}


def test_members_that_a_reader_does_not_know_are_ignored() -> None:
    key, value = machine("3d8d", later={"a": [1]})
    assert read(key, value) == read(*machine("3d8d"))


@pytest.mark.parametrize(
    ("key", "value", "newer"),
    [
        (machine("a")[0], b'{"version": 2}', True),
        (machine("a")[0], b'{"version": 1}', False),
        (machine("a")[0], b'{"version": 0}', False),
        (machine("a")[0], b'{"version": true}', False),
        (machine("a")[0], b'{"version": "2"}', False),
        (machine("a")[0], b"[" * 100_000, False),
        ("gateways.abc", b'{"version": 1}', True),
        ("gateways.abc", b"{}", False),
        ("nonsense", b"x", False),
        (FLOOR, b'{"version": 1, "floor": -1}', False),
        (FLOOR, b'{"version": 3}', True),
    ],
)
def test_what_a_later_version_wrote_is_told_from_what_is_broken(
    key: str, value: bytes, newer: bool
) -> None:
    assert is_newer(key, value) == newer
