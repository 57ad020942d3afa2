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
from internal_dns.replicate.codec import FLOOR, bucket_key, read_floor, write_floor
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
    create_catalog(tmp_path / "b.db", decode_rows(present(*values.items()), CatalogRules()))
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
