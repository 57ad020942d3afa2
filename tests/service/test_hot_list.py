"""The list of queried names that one process leaves to the next."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.catalog import NetworkId
from internal_dns.core.journey import Rules
from internal_dns.metrics import Metrics
from internal_dns.service import hot_list
from internal_dns.service.hot_list import HotList, parse, path_of
from internal_dns.transport.answer import Exchange
from internal_dns.transport.native.mirror import Mirror
from internal_dns.transport.table.table import Busy
from tests.core.messages import AAAA, SERVER, TXT, A, query, wire
from tests.laws import examples
from tests.transport.test_answers import IN_GLOBEX, MACHINE, PATHS, demo

ACME, GLOBEX = NetworkId(0x18), NetworkId(0x19)


def serving(path: str = "python") -> Exchange:
    rules, metrics = Rules(), Metrics()
    exchange = Exchange(rules, metrics, mirror=Mirror(rules, metrics) if path == "native" else None)
    exchange.use(demo())
    return exchange


def ask(exchange: Exchange, name: str, qtype: int = AAAA, source: bytes = MACHINE) -> None:
    exchange.handle(query(name, qtype), source, SERVER, 5353)


def read(path: Path, exchange: Exchange | None = None) -> list[Any]:
    hot = HotList(path, exchange or serving())
    asyncio.run(hot.read())
    return hot.inherited


def write(path: Path, exchange: Exchange) -> None:
    asyncio.run(HotList(path, exchange).write())


def test_the_list_is_in_the_state_directory_if_there_is_one() -> None:
    assert path_of({}) is None
    assert path_of({"STATE_DIRECTORY": ""}) is None
    assert path_of({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}) == Path("/var/lib/a/hot-names")


@pytest.mark.parametrize("served", PATHS)
def test_what_was_repeated_is_in_the_list_of_its_network(served: str, tmp_path: Path) -> None:
    exchange, path = serving(served), tmp_path / "hot"
    for _ in range(2):
        ask(exchange, "web.internal")
        ask(exchange, "_apps.internal", TXT, IN_GLOBEX)
        ask(exchange, "top1.nearest.of.web.internal")  # depends on the place
    ask(exchange, "blog.internal")  # once
    write(path, exchange)
    assert sorted(read(path)) == [
        (ACME, wire("web.internal"), AAAA),
        (GLOBEX, wire("_apps.internal"), TXT),
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["hot"]


@pytest.mark.parametrize("served", PATHS)
def test_the_next_process_decides_them_ahead(served: str, tmp_path: Path) -> None:
    path = tmp_path / "hot"
    before, after = serving(served), serving(served)
    for _ in range(2):
        ask(before, "web.internal")
    write(path, before)

    async def story() -> None:
        following = asyncio.ensure_future(HotList(path, after).follow())
        while not after.ahead.decided or after.ahead.waiting:
            await asyncio.sleep(0)
            after.ahead.run()
        following.cancel()

    asyncio.run(story())
    assert after.known(query("web.internal"), MACHINE, SERVER, 5353) is not None


def test_a_process_that_ends_early_leaves_what_it_inherited(tmp_path: Path) -> None:
    path = tmp_path / "hot"
    first, second = serving(), serving()
    for _ in range(2):
        ask(first, "web.internal")
    write(path, first)

    async def short_life() -> None:
        hot = HotList(path, second)
        await hot.read()
        for _ in range(2):
            ask(second, "blog.internal")
        await hot.write()

    asyncio.run(short_life())
    assert [name for _, name, _ in read(path)] == [wire("blog.internal"), wire("web.internal")]


def damaged() -> Iterator[bytes]:
    good = hot_list.VERSION + b"fdaa\n18 1c " + wire("web.internal").hex().encode() + b"\n"
    yield b""
    yield b"\n" * 100
    yield good.replace(b"names 1", b"names 2")
    yield good.replace(b"fdaa\n", b"fdab\n")
    yield good + b"18 1c\n"
    yield good + b"18 1c zz\n"
    yield good + b"0 1c 00\n"
    yield good + b"100000000 1c 00\n"
    yield good + b"18 0 00\n"
    yield good + b"18 10000 00\n"
    yield good + b"18 1c " + b"3f" * 300 + b"\n"
    yield good + b"18 1c 0357454200\n"  # an upper-case letter
    yield good + b"18 1c 03616263\n"  # no root label
    yield good + b"18 1c c00c\n"
    yield bytes(range(256)) * 100


@pytest.mark.parametrize("octets", tuple(damaged()))
def test_a_damaged_or_foreign_list_is_as_none(octets: bytes, tmp_path: Path) -> None:
    path = tmp_path / "hot"
    path.write_bytes(octets)
    assert read(path) == []


def test_a_missing_list_and_one_that_is_no_file_are_as_none(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("missing", "directory", "fifo", "link"):
        assert read(tmp_path / name) == []


def test_a_list_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hot"
    exchange = serving()
    for _ in range(2):
        ask(exchange, "web.internal")
    write(path, exchange)
    assert len(read(path)) == 1
    monkeypatch.setattr(hot_list, "MAX_OCTETS", path.stat().st_size - 1)
    assert read(path) == []


def test_a_directory_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hot = HotList(tmp_path / "missing" / "hot", serving())
    for _ in range(3):
        asyncio.run(hot.write())
    assert len(caplog.records) == 1
    assert "cannot write the list" in caplog.text


@given(st.binary(max_size=80))
@examples()
def test_any_line_is_a_key_or_damaged(line: bytes) -> None:
    key = parse(line)
    if key is not None:
        network, name, qtype = key
        assert parse(b"%x %x %s" % (network, qtype, name.hex().encode())) == key


def test_each_network_has_a_fair_share_of_a_list_that_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hot_list, "MAX_KEYS", 100)
    rng = Random(1)
    sizes = {1: 1_000, 2: 10, 3: 500, 4: 1}
    by_network = {
        NetworkId(n): [
            Busy(NetworkId(n), b"%d" % k, A, rng.randrange(1, 1_000)) for k in range(size)
        ]
        for n, size in sizes.items()
    }
    busiest = sorted((busy.hits for busy in by_network[NetworkId(1)]), reverse=True)
    assert hot_list._shorten(by_network) == 100
    assert {n: len(found) for n, found in by_network.items()} == {1: 45, 2: 10, 3: 44, 4: 1}
    assert [busy.hits for busy in by_network[NetworkId(1)]] == busiest[:45]
