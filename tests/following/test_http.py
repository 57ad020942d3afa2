"""JSON over HTTP: a reply is whole and within limits, or it is none; no secret is told; a blocking
query ends when it is cancelled."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from internal_dns.live import http
from internal_dns.live.blocking import WAIT, merged, next_index, watch
from internal_dns.live.http import Api, ApiAway, token_of
from tests.following.scripted import Answer, Asked, scripted


def fetched(answer: Answer, **more: Any) -> Any:
    with scripted(lambda asked: answer) as server:
        return asyncio.run(server.api(**more).fetch("/x", {"a": "b c"})).json()


def test_a_reply_is_parsed_and_the_query_is_encoded() -> None:
    with scripted(lambda asked: Answer([asked.path, asked.query])) as server:
        reply = asyncio.run(server.api().fetch("/x", {"a": "b c&d"}))
    assert reply.json() == ["/x", {"a": "b c&d"}]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer({}, 500), "HTTP 500"),
        (Answer(b"ACL not found\nmore", 403), "HTTP 403: ACL not found"),
        (Answer(b"x", 302, {"Location": "http://127.0.0.1:1/"}), "HTTP 302"),
        (Answer(b"{"), "not JSON"),
        (Answer(b"[" * 100_000), "not JSON"),
        (Answer(b"\xff"), "not JSON"),
        (Answer(b"[]", length=50), "ends early"),
        (Answer(b"\x1b[2J", 500), "HTTP 500"),
    ],
)
def test_anything_but_a_whole_reply_is_none(answer: Answer, why: str) -> None:
    with pytest.raises(ApiAway, match=why) as raised:
        fetched(answer)
    assert str(raised.value).isprintable()


def test_a_reply_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_REPLY", 10)
    with pytest.raises(ApiAway, match="more than 10 octets"):
        fetched(Answer(b"[" + b" " * 20 + b"]"))


def test_nobody_there_is_told_without_the_token() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    api = Api(f"http://127.0.0.1:{port}", {"X-Consul-Token": "hunter2"})
    with pytest.raises(ApiAway) as raised:
        asyncio.run(api.fetch("/x"))
    assert "refused" in str(raised.value)
    assert "hunter2" not in f"{raised.value} {api!r} {api}"


def test_404_is_gone_where_that_is_an_answer() -> None:
    with scripted(lambda asked: Answer("no", 404)) as server:
        assert asyncio.run(server.api().get("/x", gone=True)) is None
        with pytest.raises(ApiAway):
            asyncio.run(server.api().get("/x"))


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://a", "http://", "http://u:hunter2@h", "http://h:0", "http://h:99999",
     "http://h:x", "http://h/?token=hunter2", "http://[::1"],
)  # fmt: skip
def test_what_is_no_address_is_rejected_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="address") as raised:
        Api(url)
    assert "hunter2" not in str(raised.value)


def test_a_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("abc\n")
    monkeypatch.setenv("SOME_TOKEN", "def")
    assert token_of(str(file), "SOME_TOKEN") == "abc"
    assert token_of(None, "SOME_TOKEN") == "def"
    for bad in ("", "a\nb", "caf\u00e9"):
        file.write_text(bad)
        with pytest.raises(ValueError, match="no token") as raised:
            token_of(str(file), "SOME_TOKEN")
        assert not bad or bad not in str(raised.value)


def test_a_cancelled_query_leaves_no_thread_behind() -> None:
    """One that blocks for a minute would keep the process from ending."""
    came = threading.Event()

    def respond(asked: Asked) -> Answer:
        came.set()
        server.stopping.wait(60)
        return Answer([])

    async def session() -> None:
        task = asyncio.ensure_future(server.api().fetch("/x", timeout=60))
        await asyncio.to_thread(came.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with scripted(respond) as server:
        # asyncio.run waits for the threads of its executor.
        thread = threading.Thread(target=lambda: asyncio.run(session()))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()


# ── blocking queries ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("seen", "header", "expected"),
    [
        (0, "7", 7), (7, "7", 7), (7, "9", 9),
        (9, "7", 0),  # another server, or a restored state: ask anew
        (5, "0", 1), (5, None, 1), (5, "-3", 1), (5, "x", 1), (5, "9" * 30, int("9" * 30)),
    ],
)  # fmt: skip
def test_the_next_index(seen: int, header: str | None, expected: int) -> None:
    assert next_index(seen, header) == expected


class Clock:
    def __init__(self) -> None:
        self.time, self.pauses = 100.0, list[float]()

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


def test_a_watch_asks_with_the_index_hints_at_changes_and_is_never_fast() -> None:
    replies = iter(["5", "5", "8", "3", "4"])
    clock, hints = Clock(), 0

    def respond(asked: Asked) -> Answer:
        index = next(replies, None)
        return Answer([], 500) if index is None else Answer([], headers={"X-Consul-Index": index})

    async def session() -> int:
        return sum(
            [
                1
                async for _ in watch(
                    server.api(), "/v1/x", "x-consul-index", {"ns": "a"},
                    clock=clock.now, sleep=clock.sleep,
                )
            ]
        )  # fmt: skip

    with scripted(respond) as server:
        hints = asyncio.run(session())  # which ends when the API is away
        asked = [one.query for one in server.asked]
    assert [one["index"] for one in asked] == ["0", "5", "5", "8", "0", "4"]
    assert {(one["wait"], one["ns"]) for one in asked} == {(f"{WAIT}s", "a")}
    assert hints == 4  # 5, 8, the fall to 3, 4
    assert clock.pauses == [1.0] * 5


def test_hints_of_several_watches_are_merged_and_end_with_the_first() -> None:
    async def some(count: int, forever: bool) -> Any:
        for _ in range(count):
            yield
            await asyncio.sleep(0)
        if forever:
            await asyncio.sleep(3600)

    async def session() -> int:
        count = 0
        async for _ in merged(some(1, True), some(3, False)):
            count += 1
        return count

    assert 1 <= asyncio.run(asyncio.wait_for(session(), 10)) <= 4
