"""Allocations as Nomad's API gives them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from internal_dns.sources import Options, SourceError
from internal_dns.sources.nomad import read

FIXTURES = Path(__file__).parent / "fixtures"
ACME = Options(networks={0x18: "acme"})
TEXT = (FIXTURES / "nomad.json").read_text()


def allocation(**more: Any) -> dict[str, Any]:
    return {
        "ID": "5456bd7a", "JobID": "web", "TaskGroup": "front", "ClientStatus": "running",
        "NetworkStatus": {"AddressIPv6": "fdaa:0:18:a7b:13:1:1:2"}, **more,
    }  # fmt: skip


def only(**more: Any) -> dict[str, Any]:
    document = read([allocation(**more)], ACME).document
    (machine,) = document["networks"]["acme"]["apps"]["web"]["machines"]
    made: dict[str, Any] = machine
    return made


def test_the_document_is_the_golden_one() -> None:
    expected = tomllib.loads((FIXTURES / "nomad.json.toml").read_text())
    assert read(TEXT, ACME).document == expected
    assert read(json.loads(TEXT), ACME) == read(TEXT, ACME)


def test_one_allocation_is_read_as_a_list_of_one() -> None:
    assert read(json.dumps(allocation()), ACME) == read([allocation()], ACME)


@pytest.mark.parametrize(
    ("more", "state", "ready"),
    [
        ({}, "started", True),
        ({"DeploymentID": "d"}, "started", False),
        ({"DeploymentID": "d", "DeploymentStatus": {"Healthy": None}}, "started", False),
        ({"DeploymentID": "d", "DeploymentStatus": {"Healthy": True}}, "started", True),
        ({"DeploymentStatus": {"Healthy": False}}, "started", False),
        ({"ClientStatus": "unknown"}, "started", False),
        ({"ClientStatus": "pending", "DeploymentID": "d"}, "created", True),
        ({"ClientStatus": "of a later version"}, "created", True),
    ],
)
def test_status_and_health_become_state_and_ready(
    more: dict[str, Any], state: str, ready: bool
) -> None:
    machine = only(**more)
    assert (machine["state"], machine.get("ready", True)) == (state, ready)


@pytest.mark.parametrize("status", ["complete", "failed", "lost"])
def test_an_allocation_that_has_ended_is_left_out(status: str) -> None:
    found = read([allocation(ClientStatus=status)], ACME)
    assert found.document == {"networks": {}}
    assert any("never runs again" in note for note in found.notes)


def test_the_port_inside_is_the_service() -> None:
    ports = [
        {"Label": "http", "Value": 25_000, "To": 8080},
        {"Label": "admin", "Value": 9000, "To": 0},
        {"Label": "same", "Value": 7000, "To": -1},
    ]
    machine = only(AllocatedResources={"Shared": {"Ports": ports}})
    assert [(s["name"], s["port"]) for s in machine["services"]] == [
        ("admin", 9000), ("http", 8080), ("same", 7000),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value", [3, "x", [3], [{}], [{"ID": 1, "JobID": "a"}], [{"ID": "a", "JobID": "a", "Job": []}]]
)
def test_what_is_no_allocation_is_named(value: Any) -> None:
    with pytest.raises(SourceError):
        read(json.dumps(value), ACME)
