"""Status reports of hosts are not trusted: neither an invalid one nor a host's clock hides
anything."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from internal_dns.replicate.codec import COLUMNS, host_key
from internal_dns.replicate.fleet import (
    SILENT,
    Host,
    forget,
    hosts,
    older_hosts,
    read_report,
)
from internal_dns.replicate.nats import NatsBucket
from tests import commands
from tests.replicate.fake import SOURCE, FakeBucket, Stream

REPORT = {
    "version": 1, "host": "iad-1", "revision": 7, "lag_revisions": 0, "lag_seconds": 0.0,
    "quarantined": 0, "problem": "", "at": 1000.0, "software": "0.2.0", "columns": COLUMNS,
}  # fmt: skip


def encoded(**more: Any) -> bytes:
    return json.dumps(REPORT | more).encode()


def read(stored: float = 1000.0, now: float = 1001.0, **more: Any) -> Host:
    host = read_report(encoded(**more), stored, now)
    assert host is not None
    return host


def fleet(*reports: tuple[bytes, float], now: float = 1001.0) -> NatsBucket:
    """A bucket whose hosts reported these, each at a time of its clock."""
    stream = Stream(fleet=Stream(now=now))
    assert stream.fleet is not None
    for value, at in reports:
        key = host_key(json.loads(value)["host"])
        stream.fleet.put(key, value)
        stream.fleet.times[key] = at
    return cast(NatsBucket, FakeBucket(stream))


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"x":' + b"[" * 100_000, b'{"host": 1}']
)
def test_an_invalid_report_is_ignored(value: bytes) -> None:
    assert read_report(value, 0.0, 0.0) is None


def test_a_report_cannot_move_the_terminal_cursor() -> None:
    host = read(host="\x1b[2Jiad", problem="\x1b]0;x\x07" * 1000, software="\x1b[1m", new=1)
    told = host.as_json(7)
    assert all(told[name].isprintable() for name in ("host", "problem", "software", "says"))
    assert len(told["problem"]) <= 300


@pytest.mark.parametrize(
    ("more", "now", "ok"),
    [
        ({}, 1001.0, True),
        ({}, 1001.0 + SILENT, False),
        ({"problem": "x"}, 1001.0, False),
        ({"lag_seconds": SILENT}, 1001.0, False),
        ({"revision": 3}, 1001.0, True),
        ({"quarantined": 1}, 1001.0, False),
    ],
)
def test_a_host_is_ok_while_it_reports_does_not_lag_and_keeps_nothing_out(
    more: dict[str, Any], now: float, ok: bool
) -> None:
    assert read(now=now, **more).ok == ok


def test_a_killed_host_whose_clock_is_fast_is_silent() -> None:
    host = read(1000.0, 1100.0, at=4600.0)
    assert not host.ok
    assert host.words() == ["silent for 100 s", "its clock is 3,600 s ahead"]
    assert host.as_json(7)["said_seconds_ago"] == 100


def test_a_healthy_host_whose_clock_is_slow_is_fine_and_the_skew_is_shown() -> None:
    host = read(1000.0, 1001.0, at=880.0)
    assert host.ok
    assert host.words() == ["its clock is 120 s behind"]
    assert read(1000.0, 1001.0, at=999.0).words() == []


def test_the_times_are_those_of_the_deliveries() -> None:
    bucket = fleet((encoded(host="b"), 990.0), (encoded(host="a"), 1000.0), now=1002.0)
    assert [(h.name, h.ago) for h in asyncio.run(hosts(bucket))] == [("a", 2.0), ("b", 12.0)]


def test_a_bucket_that_nobody_follows_has_no_hosts() -> None:
    assert asyncio.run(hosts(cast(NatsBucket, FakeBucket(Stream())))) == []


def test_a_key_that_is_not_of_a_host_is_no_host() -> None:
    bucket = fleet((encoded(), 1000.0))
    stream = cast(FakeBucket, bucket).stream.fleet
    assert stream is not None
    stream.put("source.compose", encoded(host="x"))
    assert [h.name for h in asyncio.run(hosts(bucket))] == ["iad-1"]


@pytest.mark.parametrize("columns", [COLUMNS - 1, None])
def test_a_host_that_knows_fewer_columns_is_an_older_one(columns: int | None) -> None:
    """Hosts of the versions that did not report it are older, too."""
    older = encoded(host="old", columns=columns) if columns else encoded(host="old")
    if columns is None:
        older = json.dumps(
            {k: v for k, v in REPORT.items() if k != "columns"} | {"host": "old"}
        ).encode()
    bucket = fleet(
        (encoded(), 1000.0), (encoded(host="new", columns=COLUMNS + 3), 1000.0), (older, 1000.0)
    )
    assert [host.name for host in asyncio.run(older_hosts(bucket))] == ["old"]


def test_a_retired_host_is_forgotten_and_the_others_stay() -> None:
    bucket = fleet((encoded(host="old"), 1.0), (encoded(), 1000.0))
    assert asyncio.run(forget(bucket, "old"))
    assert [h.name for h in asyncio.run(hosts(bucket))] == ["iad-1"]
    assert not asyncio.run(forget(bucket, "old"))
    assert not asyncio.run(forget(cast(NatsBucket, FakeBucket(Stream())), "old"))


# ── the commands ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    made = Stream(fleet=Stream(now=1001.0))
    monkeypatch.setattr("internal_dns.replicate.nats.connected", made.connect)
    return made


def put(stream: Stream, stored: float, **more: Any) -> None:
    assert stream.fleet is not None
    key = host_key(more.get("host", "iad-1"))
    stream.fleet.put(key, encoded(**more))
    stream.fleet.times[key] = stored


def test_fleet_status_exits_1_while_a_host_keeps_keys_out(stream: Stream) -> None:
    put(stream, 1000.0)
    assert commands.run("fleet", "status", "--source", SOURCE).code == 0
    put(stream, 1000.0, quarantined=2, at=1900.0)
    said = commands.run("fleet", "status", "--source", SOURCE)
    assert said.code == 1
    assert "2 keys kept out; its clock is 900 s ahead" in said.out


def test_fleet_forget_ends_the_complaint_about_a_retired_host(stream: Stream) -> None:
    put(stream, 1000.0)
    put(stream, 1.0, host="gone", at=1.0)
    assert commands.run("fleet", "status", "--source", SOURCE).code == 1
    said = commands.run("fleet", "forget", "gone", "--source", SOURCE, "--json")
    assert (said.code, said.json["forgotten"]) == (0, True)
    assert commands.run("fleet", "status", "--source", SOURCE).code == 0
    again = commands.run("fleet", "forget", "gone", "--source", SOURCE)
    assert again.code == 1
    assert "no host gone" in again.err
