"""Rows of live sources: a source writes its own rows only, `apply` and people the others."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.store.generate import create_catalog
from internal_dns.store.operations import perform
from internal_dns.store.sqlite import load
from internal_dns.store.writer import RejectedChange, Writer
from tests.laws import examples

DOCUMENT = """
[networks.acme]
id = "fdaa:0:18::/48"
[[networks.acme.apps.web.machines]]
id = "own"
address = "fdaa:0:18:1:1:0:1:2"
region = "iad"
state = "started"
"""


def machine(ident: str, number: int = 9, **cells: Any) -> list[Any]:
    row = {"id": ident, "network_id": 24, "app": "web", "region": "iad", "process_group": "app"}
    row |= {"address": f"fdaa:0:18:1:1:0:{number:x}:2", "state": "started", "ready": 1, "name": ""}
    row |= {"skip_registration": 0}
    return [["machines", ident], {**row, "metadata": {}, "services": [], **cells}]


def peer(name: str, number: int = 9) -> list[Any]:
    address = f"fdaa:0:18:1:1:0:{number:x}:102"
    cells = {"network_id": 24, "name": name, "address": address, "region": ""}
    return [["peers", 24, name], cells]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    path = tmp_path / "catalog.db"
    networks = [(24, "acme", ""), (25, "globex", "")]
    create_catalog(path, {"networks": networks, "regions": [("iad", "", None, None, 0)]})
    with Writer(path) as writer:
        perform({"op": "apply", "text": DOCUMENT}, writer)
        yield writer


def put(writer: Writer, *objects: list[Any], source: str = "podman", deletes: Any = ()) -> Any:
    request = {"op": "source apply", "source": source, "puts": [*objects], "deletes": [*deletes]}
    return perform(json.loads(json.dumps(request)), writer)


def rows(writer: Writer, source: str = "podman") -> list[Any]:
    found: list[Any] = perform({"op": "source rows", "source": source}, writer)["rows"]
    return found


def idents(writer: Writer) -> dict[str, str]:
    found = writer.connection.execute("SELECT id, source FROM machines ORDER BY id")
    return {ident.decode(): source.decode() for ident, source in found}


def test_what_is_written_is_read_back(writer: Writer) -> None:
    full = machine(
        "c1",
        metadata={"role": "leader"},
        services=[{"name": "http", "protocol": "tcp", "port": 80, "priority": 0, "weight": 1}],
    )
    reply = put(writer, full, peer("alice", 7))
    assert reply["faults"] == []
    assert rows(writer) == [full, peer("alice", 7)]
    assert rows(writer, "other") == []


def test_an_equal_change_writes_nothing(writer: Writer) -> None:
    before = put(writer, machine("c1", metadata={"a": "b"}))["revision"]
    again = put(writer, machine("c1", metadata={"a": "b"}))
    assert (again["revision"], again["rows"]) == (before, 0)


def test_metadata_and_services_that_are_gone_are_deleted(writer: Writer) -> None:
    service = {"name": "http", "protocol": "tcp", "port": 80, "priority": 0, "weight": 1}
    put(writer, machine("c1", metadata={"a": "1", "b": "2"}, services=[service]))
    put(writer, machine("c1", metadata={"b": "3"}))
    assert rows(writer) == [machine("c1", metadata={"b": "3"})]


@pytest.mark.parametrize(
    ("object_", "why"),
    [
        (machine("own"), "belongs to no live source"),
        (machine("theirs"), "belongs to the live source other"),
        (machine("c2", 1), "machine own already has address fdaa:0:18:1:1:0:1:2"),
        (machine("OWN", 5), "differs from it only in letter case"),
        (machine("c2", network_id=77), "network 77 is not in the catalog"),
        (machine("c2", address="fdaa:0:19:1:1:0:9:2"), "is not one of fdaa:0:18::/48"),
        (machine("c2", region="no region"), "region"),
        (machine("c2", metadata={"a": 1}), "machine_metadata.value"),
    ],
)
def test_an_object_at_fault_keeps_no_other_out(
    writer: Writer, object_: list[Any], why: str
) -> None:
    put(writer, machine("theirs", 3), source="other")
    before = idents(writer)
    others = [machine(f"m{n}", 16 + n) for n in range(9)]
    reply = put(writer, *others[:4], object_, *others[4:])
    ((key, told),) = reply["faults"]
    assert key == object_[0]
    assert why in told
    assert idents(writer) == before | {f"m{n}": "podman" for n in range(9)}


def test_two_objects_with_one_address_are_one_fault(writer: Writer) -> None:
    reply = put(writer, machine("a", 5), machine("b", 5), machine("c", 6))
    assert len(reply["faults"]) == 1
    assert len(rows(writer)) == 2


def test_addresses_may_be_swapped(writer: Writer) -> None:
    put(writer, machine("a", 5), machine("b", 6))
    assert put(writer, machine("a", 6), machine("b", 5))["faults"] == []
    assert rows(writer) == [machine("a", 6), machine("b", 5)]


def test_an_address_moves_from_a_deleted_row(writer: Writer) -> None:
    put(writer, machine("a", 5))
    reply = put(writer, machine("b", 5), deletes=[["machines", "a"]])
    assert reply["faults"] == []
    assert rows(writer) == [machine("b", 5)]


def test_only_own_rows_are_deleted(writer: Writer) -> None:
    put(writer, machine("theirs", 3), source="other")
    reply = put(writer, deletes=[["machines", "theirs"], ["machines", "own"], ["machines", "no"]])
    assert len(reply["faults"]) == 2
    assert idents(writer) == {"own": "", "theirs": "other"}


@pytest.mark.parametrize(
    "request_",
    [
        {"source": "a b"},
        {"source": ""},
        {"source": 7},
        {},
        {"source": "p", "puts": 7},
        {"source": "p", "puts": [7]},
        {"source": "p", "puts": [[["networks", 24], {}]]},
        {"source": "p", "puts": [[["machines", "x"], {"id": "y"}]]},
        {"source": "p", "puts": [[["machines"], {}]]},
        {"source": "p", "deletes": [["peers", "24", "x"]]},
        {"source": "p", "deletes": ["machines"]},
    ],
)
def test_a_request_of_another_form_is_refused(writer: Writer, request_: dict[str, Any]) -> None:
    from internal_dns.store.json_rows import BadRequest

    with pytest.raises(BadRequest):
        perform({"op": "source apply", **request_}, writer)


def test_rm_leaves_no_row_behind(writer: Writer) -> None:
    put(writer, machine("c1", metadata={"a": "b"}), peer("alice", 7))
    put(writer, machine("theirs", 3), source="other")
    perform({"op": "source rm", "source": "podman"}, writer)
    assert rows(writer) == []
    assert idents(writer) == {"own": "", "theirs": "other"}
    left = writer.connection.execute("SELECT count(*) FROM machine_metadata").fetchone()
    assert left == (0,)


# ── apply beside a source ─────────────────────────────────────────────────────────────────────────


def test_apply_leaves_rows_of_sources_alone(writer: Writer) -> None:
    put(writer, machine("c1", metadata={"a": "b"}), peer("alice", 7))
    reply = perform({"op": "apply", "text": DOCUMENT}, writer)
    assert (reply["summary"], reply["rows"]) == ("nothing to change", 0)
    perform({"op": "apply", "text": '[networks.acme]\nid = "fdaa:0:18::/48"\n'}, writer)
    assert idents(writer) == {"c1": "podman"}
    assert len(rows(writer)) == 2


@pytest.mark.parametrize("claimed", ["machine c1", "peer 24 alice"])
def test_a_document_that_names_a_row_of_a_source_is_refused(writer: Writer, claimed: str) -> None:
    put(writer, machine("c1"), peer("alice", 7))
    text = DOCUMENT + (
        DOCUMENT.partition("48")[2].removeprefix('"').replace("own", "c1").replace(":1:2", ":b:2")
        if claimed == "machine c1"
        else '[networks.acme.peers.alice]\naddress = "fdaa:0:18:1:1:0:b:102"\n'
    )
    for more in {}, {"prune": True}, {"dry_run": True}:
        with pytest.raises(RejectedChange) as caught:
            perform({"op": "apply", "text": text, **more}, writer)
        assert f"{claimed} belongs to the live source podman" in str(caught.value)
    assert idents(writer) == {"c1": "podman", "own": ""}


def test_prune_spares_sources_and_what_holds_their_rows(writer: Writer) -> None:
    globex = machine("g1", network_id=25, address="fdaa:0:19:1:1:0:1:2", app="api")
    assert put(writer, machine("c1"), globex)["faults"] == []
    text = DOCUMENT.replace('"own"', '"kept"') + "[regions.iad]\n"
    reply = perform({"op": "apply", "text": text, "prune": True}, writer)
    assert not [line for line in reply["lines"] if "globex" in line or "c1" in line]
    networks = writer.connection.execute("SELECT id FROM networks ORDER BY id").fetchall()
    assert networks == [(24,), (25,)]
    assert idents(writer) == {"c1": "podman", "g1": "podman", "kept": ""}
    perform({"op": "source rm", "source": "podman"}, writer)
    perform({"op": "apply", "text": text, "prune": True}, writer)
    assert writer.connection.execute("SELECT id FROM networks").fetchall() == [(24,)]


def test_an_app_that_sources_hold_is_neither_added_nor_removed(writer: Writer) -> None:
    put(writer, machine("c1", app="api"))
    text = DOCUMENT + "[networks.acme.apps.api]\n"
    assert perform({"op": "apply", "text": text}, writer)["lines"] == []
    assert perform({"op": "apply", "text": DOCUMENT}, writer)["lines"] == []
    assert perform({"op": "apply", "text": text}, writer)["rows"] == 0


def test_export_has_own_rows_and_all_on_request(writer: Writer) -> None:
    from internal_dns.store import declare

    put(writer, machine("c1", metadata={"a": "b"}), peer("alice", 7))
    exported = declare.export(writer.connection)
    acme = exported.document["networks"]["acme"]
    assert [m["id"] for m in acme["apps"]["web"]["machines"]] == ["own"]
    assert "peers" not in acme
    assert exported.notes == ["source podman: 2 rows not exported, `follow` writes them"]
    again = declare.parse(declare.to_toml(exported.document), name="x.toml")
    assert declare.plan(writer.connection, again, prune=True).empty
    everything = declare.export(writer.connection, every_source=True).document["networks"]["acme"]
    sources = {m["id"]: m.get("source") for m in everything["apps"]["web"]["machines"]}
    assert sources == {"c1": "podman", "own": None}
    assert everything["peers"]["alice"]["source"] == "podman"
    assert everything["apps"]["web"]["machines"][0]["metadata"] == {"a": "b"}


def test_diff_of_everything_names_the_source(writer: Writer) -> None:
    from internal_dns.store import declare

    put(writer, machine("c1"), peer("alice", 7))
    document = declare.parse(DOCUMENT, name="x.toml")
    assert declare.plan(writer.connection, document).lines == []
    lines = declare.plan(writer.connection, document, every_source=True).lines
    assert lines == [
        "- machine c1 of acme/web (source podman)",
        "- peer acme/alice (source podman)",
    ]


# ── people beside a source ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "change",
    [
        {"puts": [["machines", {"id": "c1", "state": "stopped"}]]},
        {"puts": [["machine_metadata", {"machine_id": "c1", "key": "k", "value": "v"}]]},
        {"deletes": [["machines", {"id": "c1"}]]},
        {"deletes": [["machine_services", {"machine_id": "c1", "name": "http"}]]},
        {"deletes": [["machines", {"network_id": 24}]]},
        {"deletes": [["machines", {"network_id": 24, "app": "web"}]]},
        {"puts": [["peers", {"network_id": 24, "name": "alice", "region": "iad"}]]},
        {"deletes": [["peers", {"network_id": 24}]]},
    ],
)
def test_a_row_of_a_source_is_written_with_force_only(
    writer: Writer, change: dict[str, Any]
) -> None:
    put(writer, machine("c1"), peer("alice", 7))
    with pytest.raises(RejectedChange, match="belongs to the live source podman"):
        perform({"op": "write", **change}, writer)
    perform({"op": "write", "force": True, **change}, writer)


def test_other_rows_need_no_force(writer: Writer) -> None:
    put(writer, machine("c1"), peer("alice", 7))
    stop = ["machines", {"id": "own", "state": "stopped"}]
    assert perform({"op": "write", "puts": [stop]}, writer)["rows"] == 1
    perform({"op": "write", "deletes": [["machines", {"id": "own"}]]}, writer)
    perform({"op": "write", "deletes": [["peers", {"network_id": 24, "name": "bob"}]]}, writer)


def test_a_foreign_file_without_the_column_has_no_rows_of_sources(tmp_path: Path) -> None:
    from internal_dns.store.owned import sources

    path = tmp_path / "old.db"
    create_catalog(path, {"networks": [(24, "acme", "")]})
    with closing(sqlite3.connect(path)) as connection:
        for table in "machines", "peers":
            connection.execute(f"ALTER TABLE {table} DROP COLUMN source")
        connection.commit()
        assert sources(connection) == {}
    assert {"machines.source", "peers.source"} <= set(load(path).missing)


# ── both at once ──────────────────────────────────────────────────────────────────────────────────

EDITS = st.lists(
    st.tuples(
        st.sampled_from(("apply", "prune", "podman", "git", "delete")),
        st.sets(st.integers(1, 12), max_size=6),
    ),
    max_size=12,
)


@pytest.mark.slow
@examples()
@given(EDITS)
def test_apply_and_sources_touch_their_own_rows_only(edits: list[tuple[str, set[int]]]) -> None:
    """Whatever the order: an edit changes rows of its own source only, whatever ids it names."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "catalog.db")
        create_catalog(path, {"networks": [(24, "acme", "")]})
        with Writer(path) as writer:
            for who, numbers in edits:
                before = idents(writer)
                own = "" if who in ("apply", "prune") else "podman" if who == "delete" else who
                edit(writer, who, numbers)
                after = idents(writer)
                others = {ident for ident, source in before.items() if source != own}
                assert {i: after.get(i) for i in others} == {i: before[i] for i in others}
                assert all(after[i] == own for i in after.keys() - before.keys())


def edit(writer: Writer, who: str, numbers: set[int]) -> None:
    objects = [machine(f"m{n}", n) for n in sorted(numbers)]
    if who == "delete":
        put(writer, deletes=[key for key, _ in objects])
    elif who in ("podman", "git"):
        put(writer, *objects, source=who)
    else:
        machines = [{k: o[k] for k in ("id", "address", "region", "state")} for _, o in objects]
        acme = {"id": 24, "apps": {"web": {"machines": machines}}}
        text = json.dumps({"networks": {"acme": acme}})
        try:
            perform({"op": "apply", "text": text, "prune": who == "prune"}, writer)
        except RejectedChange:
            assert set(idents(writer).values()) - {""}
