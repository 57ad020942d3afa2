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
        "services left out: tcp or udp, and port 1 to 65535: 148ed21f7d9d89 (tcp-0)",
        "left out, no IPv6 address: 0800000000dead ('')",
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
        (json.dumps(machine()), "it is neither a list nor has it `machines`"),
        ('{"error": "unauthorized"}', "it is neither a list nor has it `machines`"),
        ('{"app": 7, "machines": []}', "Expected `str`, got `int` - at `$[0].app`"),
        (json.dumps([{"app": "a", "machines": []}, machine()]), "missing required field"),
        (json.dumps([machine(private_ip=["fdaa::"])]), "at `$[0].private_ip`"),
        ("7", "it is neither a list"),
    ],
)
def test_what_is_no_list_of_machines_is_refused(text: str, why: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(text)
    assert why in caught.value.why or why in caught.value.what
    assert caught.value.do
