"""Rows in Corrosion: one atomic request, own rows only, nothing written that is there already."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from internal_dns.cli.apis import corrosion
from internal_dns.live.corrosion import CorrosionTarget
from internal_dns.live.loop import Loop
from internal_dns.live.run import Runner
from internal_dns.live.source import Key, Object, Snapshot, machine_key, peer_key
from internal_dns.live.target import OtherFollower, TargetAway
from internal_dns.store.sqlite import load
from tests.following.agents import Agent, agent
from tests.following.scripted import Answer, Scripted, scripted

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file as Corrosion makes it: our schema, no journal, more tables and columns of its own."""
    file = tmp_path / "corrosion.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript((ROOT / "schema.sql").read_text())
        connection.executescript(
            "CREATE TABLE crsql_site_id (site_id BLOB); CREATE TABLE __corro_state (k, v);"
            "INSERT INTO networks VALUES (24, 'acme', '');"
            "INSERT INTO machines (id, network_id, app, address, region, state) "
            "VALUES ('theirs', 24, 'web', 'fdaa:0:18:1:1:1:9:2', 'iad', 'started');"
        )
    return file


@pytest.fixture
def served(path: Path) -> Iterator[tuple[Agent, Scripted]]:
    with agent(path) as made:
        yield made


def target(server: Scripted, source: str = "pods") -> CorrosionTarget:
    return CorrosionTarget(server.api(), source, lambda: 1000.0)


def machine(ident: str, host: int = 1, **more: Any) -> tuple[Key, Object]:
    row = {
        "id": ident, "network_id": 24, "app": "web", "address": f"fdaa:0:18:1:1:1:{host:x}:2",
        "region": "iad", "process_group": "app", "state": "started", "skip_registration": 0,
        "ready": 1, "name": "", "metadata": {}, "services": [],
    }  # fmt: skip
    return ("machines", ident), row | more


def service(name: str, port: int) -> dict[str, Any]:
    return {"name": name, "protocol": "tcp", "port": port, "priority": 0, "weight": 1}


def put(server: Scripted, *objects: tuple[Any, Object], deletes: frozenset[Any] = frozenset(),
        source: str = "pods") -> dict[Any, str]:  # fmt: skip
    return asyncio.run(target(server, source).apply(dict(objects), deletes))


def rows(server: Scripted, source: str = "pods") -> dict[Any, Any]:
    return dict(asyncio.run(target(server, source).rows()))


A = machine("a", 1, metadata={"role": "leader", "n": "1"}, services=[service("http", 80)])
PEER = (
    ("peers", 24, "ann"),
    {"network_id": 24, "name": "ann", "address": "fdaa:0:18:1:1:1:ff00:2", "region": "iad"},
)


def test_what_was_written_is_read_back_and_served(
    path: Path, served: tuple[Agent, Scripted]
) -> None:
    made, server = served
    assert put(server, A, machine("b", 2), PEER) == {}
    assert rows(server) == dict([A, machine("b", 2), PEER])
    assert len(made.writes) == 1, "one atomic request"
    loaded = load(path)
    assert (loaded.machines, loaded.peers, loaded.fault_count) == (3, 1, 0)
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT source, updated_at FROM machines WHERE id = 'a'"
        assert connection.execute(query).fetchone() == ("pods", 1000)


def test_only_what_differs_of_a_machines_parts_is_written(
    path: Path, served: tuple[Agent, Scripted]
) -> None:
    """Every row that is written is gossiped to every host."""
    _, server = served
    put(server, A)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(
            "CREATE TABLE changed (what TEXT);" + "".join(
                f"CREATE TRIGGER {table}_{verb} AFTER {verb} ON {table} BEGIN "
                f"INSERT INTO changed VALUES ('{verb} ' || {row}.{key}); END;"
                for table, key in (("machine_metadata", "key"), ("machine_services", "name"))
                for verb, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD"))
            )
        )  # fmt: skip
    changed = machine(
        "a", 1, metadata={"role": "leader", "n": "2", "new": "x"}, services=[service("dns", 53)]
    )
    put(server, changed)
    assert rows(server) == dict([changed])
    with closing(sqlite3.connect(path)) as connection:
        told = {what for (what,) in connection.execute("SELECT what FROM changed")}
    assert told == {"UPDATE n", "INSERT new", "INSERT dns", "DELETE http"}


def test_a_row_of_another_is_neither_adopted_nor_changed_nor_deleted(
    path: Path, served: tuple[Agent, Scripted]
) -> None:
    _, server = served
    put(server, machine("b", 2, metadata={"k": "v"}), source="other")
    before = load(path).catalog.networks
    faults = put(
        server, machine("theirs", 3), machine("b", 4, metadata={"k": "mine"}), machine("c", 5),
        deletes=frozenset({machine_key("b"), machine_key("theirs"), peer_key(24, "x")}),
    )  # fmt: skip
    assert faults == {
        machine_key("theirs"): "the row is there and belongs to no live source",
        machine_key("b"): "the row is there and belongs to the live source other",
    }
    assert set(rows(server)) == {machine_key("c")}
    put(server, deletes=frozenset({machine_key("c")}))
    assert load(path).catalog.networks == before


def test_the_statements_themselves_spare_a_row_that_another_took_meanwhile(
    path: Path, served: tuple[Agent, Scripted]
) -> None:
    """Between our question and our transaction another host's row may arrive."""
    _, server = served
    mine = target(server)

    async def session() -> None:
        statements = [*mine._put(*machine("theirs", 3, metadata={"k": "v"}))]
        statements += [*mine._delete(machine_key("theirs"))]
        await mine._write(statements)

    before = load(path).catalog.networks
    asyncio.run(session())
    assert load(path).catalog.networks == before
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM machine_metadata").fetchone() == (0,)


def test_an_unknown_network_is_a_fault_of_the_object(served: tuple[Agent, Scripted]) -> None:
    _, server = served
    stranger = machine("s", 1, network_id=99, address="fdaa:0:63:1:1:1:1:2")
    faults = put(server, stranger, A)
    assert faults == {machine_key("s"): "network 99 is not in the catalog"}
    assert set(rows(server)) == {machine_key("a")}


def test_a_transaction_that_fails_leaves_nothing(
    path: Path, served: tuple[Agent, Scripted]
) -> None:
    _, server = served
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE machine_services")
    before = load_ids(path)
    with pytest.raises(TargetAway, match="no such table: machine_services"):
        put(server, A, machine("b", 2))
    assert load_ids(path) == before


def load_ids(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {ident for (ident,) in connection.execute("SELECT id FROM machines")}


def test_nothing_to_write_is_no_request(served: tuple[Agent, Scripted]) -> None:
    made, server = served
    put(server)
    assert made.writes == []


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"", 503),
        Answer(b"{"),
        Answer([]),
        Answer({"columns": ["id"]}),  # no end: half a result
        Answer(b'{"columns":["id"]}\n{"row":[1,[24]]}\n{"error":"interrupted"}\n'),
        Answer(b'{"columns":["id"]}\n{"row":[1,'),
    ],
)
def test_half_a_result_is_none(answer: Answer) -> None:
    with scripted(lambda asked: answer) as server, pytest.raises(TargetAway):
        asyncio.run(target(server).rows())


@pytest.mark.parametrize(
    "reply", [{}, [], {"results": []}, {"results": [3]}, {"results": [{"error": "no"}]}]
)
def test_a_transaction_without_a_result_for_each_statement_is_no_success(
    path: Path, reply: Any
) -> None:
    made = Agent(path)

    def respond(asked: Any) -> Answer:
        return Answer(reply) if asked.path == "/v1/transactions" else made(asked)

    with scripted(respond) as server, pytest.raises(TargetAway):
        asyncio.run(target(server).apply({}, frozenset({machine_key("a")})))


def test_a_second_follower_on_this_host_is_refused(served: tuple[Agent, Scripted]) -> None:
    _, server = served
    with target(server).only_here():
        with pytest.raises(OtherFollower), target(server).only_here():
            pass
        with target(server, "another").only_here():
            pass
    with target(server).only_here():
        pass


def test_the_loop_runs_on_it(path: Path, served: tuple[Agent, Scripted]) -> None:
    """A machine comes, changes and goes; the rows of others stay."""
    _, server = served

    class Pods:
        def __init__(self) -> None:
            self.objects: dict[Key, Object] = dict([A, machine("b", 2)])
            self.hint = asyncio.Event()

        async def snapshot(self) -> Snapshot:
            return Snapshot(dict(self.objects))

        async def changes(self) -> Any:
            while True:
                await self.hint.wait()
                self.hint.clear()
                yield

    async def until(what: Any) -> None:
        async with asyncio.timeout(20):
            while not await asyncio.to_thread(what):
                await asyncio.sleep(0.01)

    async def session() -> None:
        pods = Pods()
        runner = Runner(pods, target(server), Loop(), source="pods", kind="test")
        task = asyncio.ensure_future(runner.run())
        await until(lambda: load_ids(path) == {"theirs", "a", "b"})
        del pods.objects["machines", "b"]
        pods.objects |= dict([machine("c", 3), machine("a", 1, state="stopped")])
        pods.hint.set()
        await until(lambda: load_ids(path) == {"theirs", "a", "c"})
        await until(lambda: rows(server)["machines", "a"]["state"] == "stopped")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(session())


# ── the address ───────────────────────────────────────────────────────────────────────────────────


def test_the_address_of_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORROSION_TOKEN", raising=False)
    (tmp_path / "token").write_text("hunter2\n")
    assert corrosion("corrosion://h/").url == "http://h:8080"
    assert corrosion("corrosion://[::1]:9000").url == "http://[::1]:9000"
    api = corrosion(f"corrosion://h/?token_file={tmp_path / 'token'}")
    assert api.headers == {"Authorization": "Bearer hunter2"}
    assert "hunter2" not in f"{api} {api!r}"


@pytest.mark.parametrize(
    "address",
    ["corrosion://", "corrosion://h/db", "corrosion://u:hunter2@h/", "corrosion://h/?token=hunter2",
     "corrosion://h:x/", "corrosion://h/?x"],
)  # fmt: skip
def test_what_is_no_address_is_rejected_and_not_repeated(address: str) -> None:
    with pytest.raises(ValueError, match="address") as raised:
        corrosion(address)
    assert "hunter2" not in str(raised.value)


def test_statements_are_what_the_api_takes(served: tuple[Agent, Scripted]) -> None:
    """A list of [SQL, values]: no text of ours is pasted into SQL."""
    made, server = served
    put(server, machine("a'; DROP TABLE machines; --", 1, metadata={"'": '"); --'}))
    for sql, values in made.writes[0]:
        assert "DROP" not in sql
        assert sql.count("?") == len(values)
        json.dumps(values)
