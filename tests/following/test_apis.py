"""Consul, Nomad and Fly.io over HTTP: whole snapshots, or none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from internal_dns.live.consul import Consul
from internal_dns.live.fly import Fly
from internal_dns.live.http import Api
from internal_dns.live.nomad import Nomad
from internal_dns.live.source import Snapshot, SourceAway, machine_key
from internal_dns.sources import Options
from tests.following.scripted import Answer, Asked, scripted

FIXTURES = Path(__file__).parents[1] / "sources" / "fixtures"
HEALTH: list[Any] = json.loads((FIXTURES / "consul-health.json").read_text())
ALLOCATIONS: list[Any] = json.loads((FIXTURES / "nomad.json").read_text())
FLY: dict[str, Any] = json.loads((FIXTURES / "fly.json").read_text())
OPTIONS = Options()


def look(live: Any) -> Snapshot:
    made: Snapshot = asyncio.run(live.snapshot())
    return made


def idents(snapshot: Snapshot) -> set[str]:
    return {str(key[1]) for key in snapshot.objects}


class Paths:
    """Replies by path; a missing one is 404. Any may be changed between two looks."""

    def __init__(self, **replies: Any) -> None:
        self.replies: dict[str, Any] = replies

    def __call__(self, asked: Asked) -> Answer:
        if asked.path not in self.replies:
            return Answer("no such thing", 404)
        found = self.replies[asked.path]
        made = found(asked) if callable(found) else found
        return made if isinstance(made, Answer) else Answer(made)


# ── Consul ────────────────────────────────────────────────────────────────────────────────────────


def consul_paths() -> Paths:
    paths = Paths()
    paths.replies = {
        "/v1/catalog/services": {"Resolver": ["udp"], "web/1": [], "consul": []},
        "/v1/health/service/Resolver": HEALTH,
        "/v1/health/service/web%2F1": [],
        "/v1/health/service/consul": [],
    }
    return paths


def test_every_service_of_a_datacenter_is_followed() -> None:
    with scripted(consul_paths()) as server:
        found = look(Consul(server.api(), OPTIONS))
        only = look(Consul(server.api(), OPTIONS, ["Resolver"]))
    assert idents(found) == idents(only)
    assert len(found.objects) >= 3
    assert not any("exactly as written" in note for note in found.notes)
    ready = {object_["ready"] for object_ in found.objects.values()}
    assert ready == {0, 1}


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        ("/v1/catalog/services", Answer("no leader", 500)),
        ("/v1/catalog/services", []),
        ("/v1/health/service/consul", Answer("no leader", 500)),
        ("/v1/health/service/Resolver", {}),
        ("/v1/health/service/Resolver", [{}]),
        ("/v1/health/service/Resolver", [None]),
        ("/v1/health/service/Resolver", [{"Node": "x", "Service": {}}]),
    ],
)
def test_part_of_the_services_is_no_snapshot(path: str, reply: Any) -> None:
    paths = consul_paths()
    paths.replies[path] = reply
    with scripted(paths) as server, pytest.raises(SourceAway):
        look(Consul(server.api(), OPTIONS))


def test_a_malformed_instance_keeps_its_row_and_the_others_go_on() -> None:
    paths = consul_paths()
    with scripted(paths) as server:
        consul = Consul(server.api(), OPTIONS)
        before = look(consul)
        broken = json.loads(json.dumps(HEALTH))
        broken[0]["Checks"] = "nonsense"
        paths.replies["/v1/health/service/Resolver"] = broken
        after = look(consul)
        unknown = Consul(server.api(), OPTIONS)
        with pytest.raises(SourceAway, match="cannot be read"):
            look(unknown)  # which row is its own?
    (kept,) = after.unreadable
    assert kept in before.objects
    assert after.objects.keys() == before.objects.keys() - {kept}
    assert any("its row stays" in note for note in after.notes)


def test_hints_of_consul_are_blocking_queries() -> None:
    paths = consul_paths()

    def indexed(asked: Asked) -> Answer:
        if asked.query["index"] != "0":
            server.stopping.wait(30)
        return Answer([], headers={"X-Consul-Index": "9"})

    paths.replies |= {"/v1/health/state/any": indexed, "/v1/catalog/services": indexed}

    async def first() -> None:
        async for _ in Consul(server.api(), OPTIONS).changes():
            return

    with scripted(paths) as server:
        asyncio.run(asyncio.wait_for(first(), 20))
        assert {one.path for one in server.asked} >= {"/v1/health/state/any"}


def test_the_token_is_sent_as_a_header() -> None:
    with scripted(consul_paths()) as server:
        look(Consul(server.api(headers={"X-Consul-Token": "abc"}), OPTIONS))
        assert {one.headers.get("x-consul-token") for one in server.asked} == {"abc"}


# ── Nomad ─────────────────────────────────────────────────────────────────────────────────────────


def nomad_paths() -> Paths:
    paths = Paths()
    stubs = [
        {k: one[k] for k in ("ID", "ClientStatus", "ModifyIndex", "JobID")} for one in ALLOCATIONS
    ]
    paths.replies = {"/v1/allocations": stubs}
    paths.replies |= {f"/v1/allocation/{one['ID']}": one for one in ALLOCATIONS}
    return paths


RUNNING = {
    one["ID"] for one in ALLOCATIONS if one["ClientStatus"] in ("running", "pending", "unknown")
}


def test_allocations_that_may_run_are_followed() -> None:
    with scripted(nomad_paths()) as server:
        found = look(Nomad(server.api(), OPTIONS))
        assert server.asked[0].query == {"namespace": "*"}
        ended = {one["ID"] for one in ALLOCATIONS} - RUNNING
        assert ended
        assert not any(ident in one.path for one in server.asked for ident in ended)
    assert idents(found) == RUNNING


def test_an_allocation_that_did_not_change_is_not_fetched_again() -> None:
    paths = nomad_paths()
    with scripted(paths) as server:
        nomad = Nomad(server.api(), OPTIONS)
        first = look(nomad)
        count = len(server.asked)
        assert look(nomad).objects == first.objects
        assert len(server.asked) == count + 1
        changed = min(RUNNING)
        for stub in paths.replies["/v1/allocations"]:
            if stub["ID"] == changed:
                stub["ModifyIndex"] += 1
        look(nomad)
        assert [one.path for one in server.asked[count + 2 :]] == [f"/v1/allocation/{changed}"]


def test_an_allocation_that_vanishes_between_list_and_look_is_gone() -> None:
    paths = nomad_paths()
    gone = min(RUNNING)
    del paths.replies[f"/v1/allocation/{gone}"]
    with scripted(paths) as server:
        assert idents(look(Nomad(server.api(), OPTIONS))) == RUNNING - {gone}


@pytest.mark.parametrize("stubs", [{}, [None], [{}], [{"ID": 3}], Answer("no leader", 500)])
def test_a_list_that_is_none_is_no_snapshot(stubs: Any) -> None:
    paths = nomad_paths()
    paths.replies["/v1/allocations"] = stubs
    with scripted(paths) as server, pytest.raises(SourceAway):
        look(Nomad(server.api(), OPTIONS))


def test_a_failure_in_the_middle_is_no_snapshot() -> None:
    paths = nomad_paths()
    paths.replies[f"/v1/allocation/{max(RUNNING)}"] = Answer("rpc error", 500)
    with scripted(paths) as server, pytest.raises(SourceAway, match="rpc error"):
        look(Nomad(server.api(), OPTIONS))


# ── Fly.io ────────────────────────────────────────────────────────────────────────────────────────

MACHINES: list[dict[str, Any]] = [{"app_name": "shop", **one} for one in FLY["machines"]]


def pages(*some: dict[str, Any]) -> Callable[[Asked], Any]:
    def respond(asked: Asked) -> Any:
        return some[int(asked.query.get("cursor", "0"))]

    return respond


def fly(server: Any, **more: Any) -> Fly:
    return Fly(server.api(), OPTIONS, **(more or {"organization": "personal"}))


def test_an_organization_is_read_page_by_page() -> None:
    first = {"machines": MACHINES[:1], "next_cursor": "1"}
    respond = pages(first, {"machines": MACHINES[1:], "next_cursor": ""})
    with scripted(Paths(**{"/v1/orgs/personal/machines": respond})) as server:
        found = look(fly(server))
        assert [one.query for one in server.asked] == [{}, {"cursor": "1"}]
    assert idents(found) == {one["id"] for one in MACHINES if one.get("private_ip")}


@pytest.mark.parametrize(
    "page",
    [
        {"machines": MACHINES, "error_regions": ["ams"]},
        {"machines": MACHINES, "next_cursor": "1"},  # the next page is this one
        {"machines": None},
        [],
        {"machines": [{"id": ""}]},
        {"machines": [{}]},
    ],
)
def test_half_a_listing_is_no_snapshot(page: Any) -> None:
    respond = pages({"machines": [], "next_cursor": "1"}, page)
    with scripted(Paths(**{"/v1/orgs/personal/machines": respond})) as server:
        with pytest.raises(SourceAway):
            look(fly(server))
        assert len(server.asked) < 4


def test_the_machines_of_apps_are_read_app_by_app() -> None:
    listed = [{k: v for k, v in one.items() if k != "app_name"} for one in MACHINES]
    paths = Paths(**{"/v1/apps/shop/machines": listed, "/v1/apps/db/machines": []})
    with scripted(paths) as server:
        found = look(fly(server, apps=["shop", "db"]))
        with pytest.raises(SourceAway, match="404"):
            look(fly(server, apps=["shop", "other"]))
    assert {object_["app"] for object_ in found.objects.values()} == {"shop"}


def test_an_organization_or_apps_must_be_named() -> None:
    wrong: list[dict[str, Any]] = [{}, {"organization": "a", "apps": ["b"]}]
    for more in wrong:
        with pytest.raises(ValueError, match="one of the two"):
            Fly(Api("http://h"), OPTIONS, **more)


def test_nobody_there_is_away_and_says_where() -> None:
    api = Api("http://127.0.0.1:1")
    for live in (Consul(api, OPTIONS), Nomad(api, OPTIONS), Fly(api, OPTIONS, "x")):
        with pytest.raises(SourceAway, match=r"http://127.0.0.1:1: "):
            look(live)


def test_the_keys_are_those_of_machines() -> None:
    with scripted(nomad_paths()) as server:
        found = look(Nomad(server.api(), OPTIONS))
    assert set(found.objects) == set(map(machine_key, RUNNING))
