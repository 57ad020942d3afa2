"""Machines of the Machines API: as they are, with the app from around the list, the operator or the
metadata."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from internal_dns.sources import Options, SourceError
from internal_dns.sources.fly import read

FIXTURES = Path(__file__).parent / "fixtures"
ACME = Options(networks={0x18: "acme"})
TEXT = (FIXTURES / "fly.json").read_text()


def machine(**parts: Any) -> dict[str, Any]:
    return {
        "id": "a1",
        "state": "started",
        "region": "iad",
        "private_ip": "fdaa:0:18:1:1:0:1:2",
    } | parts


def apps(source: object, app: str = "") -> list[str]:
    return list(read(source, Options(app=app)).document["networks"]["net-18"]["apps"])


@pytest.mark.parametrize("file", ["fly.json", "fly-apps.json"])
def test_the_document_is_the_golden_one(file: str) -> None:
    text = (FIXTURES / file).read_text()
    assert read(text, ACME).document == tomllib.loads((FIXTURES / f"{file}.toml").read_text())
    assert read(json.loads(text), ACME) == read(text, ACME)


def test_what_cannot_be_asked_for_is_noted() -> None:
    assert read(TEXT, ACME).notes[:-1] == [
        "services left out: only tcp or udp, and ports 1 to 65535: 148ed21f7d9d89 (tcp-0)",
        "configuration unknown, and with it group, metadata and services: 0800000000dead",
        "left out, not an IPv6 address: 0800000000dead ('')",
    ]


def test_the_app_around_the_list_wins_then_the_one_given_then_metadata() -> None:
    named = machine(config={"metadata": {"app": "front"}})
    assert apps({"app": "shop", "machines": [named]}, "given") == ["shop"]
    assert apps([named], "given") == ["given"]
    assert apps([named]) == ["front"]
    assert read([named]).notes[0] == "app guessed from metadata app: a1 (front)"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TEXT[: len(TEXT) // 2], "it is not JSON"),
        (json.dumps([machine()]), "machine a1 has no app"),
        (json.dumps(machine()), "machine a1 has no app"),
        ('{"error": "unauthorized"}', "it is neither a list nor an object with `machines`"),
        ('{"app": 7, "machines": []}', "Expected `str`, got `int` - at `$[0].app`"),
        (json.dumps([{"app": "a", "machines": []}, machine()]), "missing required field"),
        (json.dumps([machine(private_ip=["fdaa::"])]), "at `$[0].private_ip`"),
        ("7", "it is neither a list"),
    ],
)
def test_input_that_is_not_a_list_of_machines_is_rejected(text: str, why: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(text)
    assert why in caught.value.why or why in caught.value.what
    assert caught.value.do


def test_one_machine_is_a_list_of_one() -> None:
    assert read(json.dumps(machine()), Options(app="shop")) == read(
        [machine()], Options(app="shop")
    )


def test_the_incomplete_configuration_is_used_when_the_host_is_unreachable() -> None:
    part = {"metadata": {"fly_process_group": "worker", "tier": "gold"}}
    away = machine(config=None, incomplete_config=part, host_status="unreachable")
    imported = read([away], Options(app="shop"))
    (made,) = imported.document["networks"]["net-18"]["apps"]["shop"]["machines"]
    assert (made["group"], made["metadata"]["tier"]) == ("worker", "gold")
    assert imported.notes[:-1] == [
        "configuration incomplete, the known part was read: a1",
        "its host is unreachable, so the state is the last one known: a1",
    ]
    unknown = read([machine(config=None)], Options(app="shop"))
    assert "configuration unknown, and with it group, metadata and services: a1" in unknown.notes


@pytest.mark.parametrize(
    ("checks", "ready"),
    [
        (None, True),
        ([], True),
        ([{"status": "passing"}], True),
        ([{"status": "passing"}, {"status": "critical"}], False),
        ([{"status": "warning"}], False),
    ],
)
def test_a_machine_whose_check_fails_is_not_ready(checks: object, ready: bool) -> None:
    for state in ("started", "stopped"):
        source = [machine(checks=checks, state=state, config={})]
        imported = read(source, Options(app="shop"))
        (made,) = imported.document["networks"]["net-18"]["apps"]["shop"]["machines"]
        assert made["state"] == state
        assert made.get("ready", True) == (ready or state == "stopped")


def listing(*machines: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {"machines": [*machines], "next_cursor": "", "error_regions": []} | parts


def test_the_listing_of_an_organization_names_the_app_of_each_machine() -> None:
    one = machine(app_name="shop", config={})
    two = machine(id="b2", private_ip="fdaa:0:18:1:1:0:2:2", app_name="blog", config={})
    imported = read(listing(one, two))
    assert list(imported.document["networks"]["net-18"]["apps"]) == ["blog", "shop"]
    assert len(imported.notes) == 1
    assert read([listing(one, next_cursor="b"), listing(two)]) == imported


def test_an_incomplete_listing_is_noted() -> None:
    part = "the listing is incomplete, and `apply` would remove the missing machines"
    imported = read(
        listing(machine(app_name="shop", config={}), next_cursor="abc", error_regions=["sin"])
    )
    assert imported.notes[:2] == [
        f"{part}: regions that could not be reached: sin",
        f"{part}: it continues at a next_cursor: abc",
    ]
    assert read(listing(next_cursor="abc", machines=None)).notes[0].startswith(part)
