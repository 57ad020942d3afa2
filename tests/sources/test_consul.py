"""Instances of a Consul service, with checks and without."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from internal_dns.sources import Options, SourceError
from internal_dns.sources.consul import read

FIXTURES = Path(__file__).parent / "fixtures"
ACME = Options(networks={0x18: "acme"})
HEALTH = (FIXTURES / "consul-health.json").read_text()


@pytest.mark.parametrize("file", ["consul-health.json", "consul-catalog.json"])
def test_the_document_is_the_golden_one(file: str) -> None:
    text = (FIXTURES / file).read_text()
    assert read(text, ACME).document == tomllib.loads((FIXTURES / f"{file}.toml").read_text())
    assert read(json.loads(text), ACME) == read(text, ACME)


def test_what_the_catalog_does_not_give_is_noted() -> None:
    assert read((FIXTURES / "consul-catalog.json").read_bytes(), ACME).notes == [
        "all imported as started: /v1/catalog has no checks, /v1/health/service/NAME has",
        "tags left out, they are not key-value pairs: node-a/db (primary)",
        "left out, no address in fdaa::/16: node-d/db-d (10.0.0.4, 10.0.0.4)",
        "`apply` makes a network exactly as written, so first add what this source lacks: acme",
    ]


def test_doubts_about_checks_and_addresses_are_noted() -> None:
    assert read(HEALTH, ACME).notes[:-1] == [
        "started but not ready, a check fails: "
        "node-b-resolver-2-21a0e4ba45, node-e-resolver-5-b60635ebc2",
        "started but not ready, a check warns: node-c-resolver-3-12238c6efc",
        "share an address, which `apply` rejects while both are started: "
        "node-a-resolver-1-25abd89673 and node-e-resolver-5-b60635ebc2",
    ]


def instance(node: str, ident: str, address: str, datacenter: str = "dc1") -> dict[str, Any]:
    return {
        "Node": node, "Address": address, "ServiceID": ident, "ServiceName": "cache",
        "Datacenter": datacenter,
    }  # fmt: skip


def ids(*instances: dict[str, Any]) -> list[str]:
    return [
        machine["id"]
        for network in read([*instances]).document["networks"].values()
        for app in network["apps"].values()
        for machine in app["machines"]
    ]


def test_an_id_stays_the_same_whichever_nodes_come_and_go() -> None:
    one = instance("node-a", "cache", "fdaa:0:18:1:1:0:1:2")
    other = instance("node-b", "cache", "fdaa:0:18:1:1:0:2:2")
    assert ids(one) + ids(other) == ids(one, other)
    assert ids(other, one) == ids(one, other)
    assert ids(one | {"Address": "fdaa:0:18:1:1:0:9:2"}) == ids(one)


def test_ids_of_two_tenants_nodes_or_datacenters_never_meet() -> None:
    here = instance("node-a", "cache", "fdaa:0:18:1:1:0:1:2")
    others = [
        instance("node-a", "cache", "fdaa:0:19:1:1:0:1:2"),
        instance("node-a", "cache", "fdaa:0:18:1:1:0:2:2", "dc2"),
        instance("node", "a-cache", "fdaa:0:18:1:1:0:3:2"),
        instance("node.a", "cache", "fdaa:0:18:1:1:0:4:2"),
        instance("n" * 80, "cache-1", "fdaa:0:18:1:1:0:5:2"),
        instance("n" * 80, "cache-2", "fdaa:0:18:1:1:0:6:2"),
        instance("…", "…", "fdaa:0:18:1:1:0:7:2"),
    ]
    found = ids(here, *others)
    assert len(set(found)) == 1 + len(others)
    assert all(len(ident) <= 63 for ident in found)


def test_an_instance_whose_checks_fail_is_started_but_not_ready() -> None:
    machines = read(HEALTH, ACME).document["networks"]["acme"]["apps"]["resolver"]["machines"]
    assert [(m["state"], m.get("ready", True)) for m in machines] == [
        ("started", True), ("started", False), ("started", False), ("started", True),
        ("started", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HEALTH[: len(HEALTH) // 2], "it is not JSON"),
        ('{"web": ["primary"], "consul": []}', "it is not a list"),
        ('[{"Node": "a", "Address": "fdaa:0:18::1"}]', "missing required field `ServiceID`"),
        (
            '[{"Node": {"Node": "a", "Address": ""}, "Service": {"ID": "a"}}]',
            "missing required field",
        ),
        ('[{"Node": {}, "Service": []}]', "at `$[0]"),
        (json.dumps([*json.loads(HEALTH), 7]), "at `$[5]`"),
        ("null", "it is not a list"),
    ],
)
def test_input_that_is_not_a_list_of_instances_is_rejected(text: str, why: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(text)
    assert why in caught.value.why
    assert caught.value.do
