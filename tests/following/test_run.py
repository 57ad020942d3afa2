"""The runner with real targets: a server's socket and a file, in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from internal_dns.admin.api import Api
from internal_dns.admin.sources import MAX_SOURCES, Sources
from internal_dns.core.catalog_rules import DEFAULT_RULES
from internal_dns.core.journey import Rules
from internal_dns.live import loop, run, target
from internal_dns.live.loop import Loop
from internal_dns.live.run import Runner
from internal_dns.live.source import (
    Key,
    Object,
    Objects,
    Snapshot,
    SourceAway,
    machine_key,
)
from internal_dns.live.status import SILENT, Status, as_json
from internal_dns.live.target import (
    FileTarget,
    Lost,
    OtherFollower,
    ServerTarget,
    Target,
    TargetAway,
    lock_path,
    only_follower,
)
from internal_dns.metrics import Metrics
from internal_dns.store.generate import create_catalog
from internal_dns.store.sqlite import load
from internal_dns.transport.answer import Exchange


def machine(number: int, **cells: Any) -> Object:
    row = {"id": f"m{number}", "network_id": 24, "app": "web", "region": "iad", "ready": 1}
    row |= {"address": f"fdaa:0:18:1:1:0:{number:x}:2", "state": "started", "name": ""}
    row |= {"process_group": "app", "skip_registration": 0}
    return {**row, "metadata": {}, "services": [], **cells}


class Scripted:
    """A source whose snapshot a test sets; `hint` makes it look."""

    def __init__(self, *numbers: int) -> None:
        self.objects: dict[Key, Object] = {}
        self.now(*numbers)
        self.error: Exception | None = None
        self.hints: asyncio.Queue[None] = asyncio.Queue()

    def now(self, *numbers: int) -> None:
        self.objects = {machine_key(f"m{n}"): machine(n) for n in numbers}

    async def snapshot(self) -> Snapshot:
        if self.error is not None:
            raise self.error
        return Snapshot(dict(self.objects), ("a note",))

    async def changes(self) -> AsyncGenerator[None, None]:
        while True:
            await self.hints.get()
            yield

    def hint(self) -> None:
        self.hints.put_nowait(None)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the pauses of failures and reports short: how long they are is not what is tested."""
    monkeypatch.setattr(loop, "BACKOFF", (0.01, 0.02))
    monkeypatch.setattr(loop, "QUIET", 0.01)
    monkeypatch.setattr(run, "SOON", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "catalog.db"
    create_catalog(found, {"networks": [(24, "acme", "")]})
    return found


@asynccontextmanager
async def serving(path: Path) -> AsyncGenerator[Api, None]:
    exchange = Exchange(Rules(), Metrics())
    exchange.use(load(path).catalog)
    api = Api(path, exchange, DEFAULT_RULES)
    await api.start()
    try:
        yield api
    finally:
        await api.close()


@asynccontextmanager
async def running(live: Scripted, target: Target, **more: Any) -> AsyncGenerator[Runner, None]:
    runner = Runner(live, target, Loop(**more), source="test", kind="scripted", host="h")
    task = asyncio.ensure_future(runner.run())
    try:
        yield runner
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(what: Callable[[], bool | Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(20):
        while True:
            found = what()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


def test_the_runner_writes_through_the_server_and_tells_it_its_status(path: Path) -> None:
    async def follow() -> None:
        live = Scripted(1, 2)
        async with serving(path) as api, running(live, ServerTarget(path, "test")):
            await until(lambda: [one.rows for one in api.sources.current()] == [2])
            assert api.sources.current()[0].up
            assert dict(await ServerTarget(path, "test").rows()) == live.objects
            live.now(2, 3)
            live.hint()
            await until(lambda: api.sources.current()[0].applies == 2)
            assert dict(await ServerTarget(path, "test").rows()) == live.objects
            assert api.sources.current()[0].notes == ("a note",)

    asyncio.run(follow())


def test_rows_are_written_when_the_server_comes(path: Path) -> None:
    async def follow() -> None:
        live = Scripted(1)
        async with running(live, ServerTarget(path, "test")) as runner:
            await until(lambda: "no server at" in runner.loop.catalog_problem)
            async with serving(path):
                live.hint()
                await until(lambda: runner.loop.applies == 1)
                assert not runner.loop.catalog_problem

    asyncio.run(follow())


def test_a_file_is_written_without_a_server(path: Path) -> None:
    async def follow() -> None:
        live = Scripted(1)
        async with FileTarget.opened(path, DEFAULT_RULES, "test") as target:
            async with running(live, target) as runner:
                await until(lambda: runner.loop.applies == 1)
            assert dict(await target.rows()) == live.objects

    asyncio.run(follow())
    assert {m.id for m in load(path).catalog.networks[24].apps[b"web"].machines} == {b"m1"}  # type: ignore[index]


@pytest.mark.parametrize("error", [SourceAway("the engine is away"), RuntimeError("a mistake")])
def test_an_error_of_the_source_keeps_the_rows(path: Path, error: Exception) -> None:
    async def follow() -> None:
        live = Scripted(1)
        async with (
            FileTarget.opened(path, DEFAULT_RULES, "test") as target,
            running(live, target) as runner,
        ):
            await until(lambda: runner.loop.applies == 1)
            live.error = error
            live.hint()
            await until(lambda: str(error) in runner.loop.source_problem)
            status = runner.status()
            assert (status.up, status.rows) == (False, 1)
            live.error = None
            live.hint()
            await until(lambda: runner.status().up)
            assert dict(await target.rows()) == live.objects

    asyncio.run(follow())


class Broken:
    """A target that raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def rows(self) -> Objects:
        raise self.error

    async def apply(self, puts: Objects, deletes: frozenset[Key]) -> dict[Key, str]:
        raise self.error

    async def report(self, status: Status) -> None:
        raise self.error


def test_a_follower_that_lost_its_lease_ends() -> None:
    async def follow() -> None:
        runner = Runner(Scripted(), Broken(Lost("x")), Loop(), source="test", kind="scripted")
        with pytest.raises(ExceptionGroup) as caught:
            await runner.run()
        assert caught.group_contains(Lost)

    asyncio.run(follow())


@pytest.mark.parametrize("error", [TargetAway("away"), ValueError("a mistake")])
def test_an_error_of_the_target_is_a_problem_of_the_catalog(error: Exception) -> None:
    async def follow() -> None:
        async with running(Scripted(), Broken(error)) as runner:
            await until(lambda: str(error) in runner.loop.catalog_problem)

    asyncio.run(follow())


def test_a_source_without_hints_is_looked_at_all_the_same(path: Path) -> None:
    class Silent(Scripted):
        async def changes(self) -> AsyncGenerator[None, None]:
            hints: tuple[None, ...] = ()
            for hint in hints:
                yield hint

    async def follow() -> None:
        async with (
            FileTarget.opened(path, DEFAULT_RULES, "test") as target,
            running(Silent(1), target) as runner,
        ):
            await until(lambda: runner.loop.applies == 1)

    asyncio.run(follow())


def test_a_second_follower_of_a_name_is_refused(path: Path) -> None:
    with (
        only_follower(path, "podman"),
        only_follower(path, "git"),
        pytest.raises(OtherFollower, match="another process follows podman"),
        only_follower(path, "podman"),
    ):
        pass
    with only_follower(path, "podman"):
        assert lock_path(path, "podman").stat().st_mode & 0o777 == 0o600


def test_many_objects_are_written_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "PART", 3)

    async def follow() -> None:
        live = Scripted(*range(1, 9))
        async with serving(path):
            server = ServerTarget(path, "test")
            assert await server.apply(live.objects, frozenset()) == {}
            assert dict(await server.rows()) == live.objects
            stolen = {machine_key("m9"): machine(1, id="m9"), **live.objects}
            faults = await server.apply(stolen, frozenset({machine_key("m8")}))
            assert list(faults) == [machine_key("m9")]
            assert dict(await server.rows()) == live.objects
            assert await server.apply({}, frozenset(live.objects)) == {}
            assert dict(await server.rows()) == {}

    asyncio.run(follow())


def test_a_server_that_refuses_says_why(path: Path) -> None:
    async def follow() -> None:
        async with serving(path):
            with pytest.raises(TargetAway, match="bad request: `source` must be"):
                await ServerTarget(path, "a b").rows()

    asyncio.run(follow())


# ── what the server knows of sources ──────────────────────────────────────────────────────────────


def report(sources: Sources, **members: Any) -> None:
    given = {"source": "podman", "kind": "podman", "up": True, "age_seconds": 1.0, **members}
    sources.report({"status": given})


def test_a_follower_that_says_nothing_any_more_is_down() -> None:
    now = [100.0]
    sources = Sources(lambda: now[0])
    report(sources, rows=7)
    now[0] += SILENT - 1
    (status,) = sources.current()
    assert (status.up, status.age_seconds, status.rows) == (True, SILENT, 7)
    now[0] += 1
    (status,) = sources.current()
    assert not status.up
    assert status.problem == f"its follower has said nothing for {SILENT:.0f} s"
    report(sources)
    assert sources.current()[0].up


def test_a_follower_that_was_stopped_says_so() -> None:
    sources = Sources()
    report(sources, stopped=True)
    (status,) = sources.current()
    assert (status.up, status.problem) == (False, "its follower was stopped")
    sources.forget("podman")
    assert sources.current() == []


@pytest.mark.parametrize("status", [None, {}, {"source": 7, "kind": "x"}, "up"])
def test_what_is_no_status_is_refused(status: object) -> None:
    with pytest.raises(ValueError, match="not that of a source"):
        Sources().report({"status": status})


def test_the_number_of_sources_is_bounded() -> None:
    sources = Sources()
    for number in range(MAX_SOURCES):
        report(sources, source=f"s{number}")
    with pytest.raises(ValueError, match="sources already"):
        report(sources, source="more")
    report(sources, source="s0")


def test_a_status_is_json_and_back() -> None:
    status = Status(source="podman", kind="podman", figures={"skipped": 2}, notes=("n",))
    sources = Sources()
    sources.report({"status": json.loads(json.dumps(as_json(status)))})
    assert sources.reports["podman"][0] == status


def test_metrics_have_a_series_for_each_source() -> None:
    sources = Sources(lambda: 0.0)
    assert sum(len(family.samples) for family in sources.families()) == 0
    report(sources, rows=3, applies=4, held=1)
    values = {s.name: (s.labels["source"], s.value) for f in sources.families() for s in f.samples}
    assert values == {
        "internal_dns_source_up": ("podman", 1.0),
        "internal_dns_source_age_seconds": ("podman", 1.0),
        "internal_dns_source_rows": ("podman", 3.0),
        "internal_dns_source_applies_total": ("podman", 4.0),
        "internal_dns_source_held": ("podman", 1.0),
    }
