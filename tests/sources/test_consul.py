"""Instances of a Consul service, with checks and without."""

import json
import tomllib
from pathlib import Path

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
        "all taken as started: the catalog has no checks, /v1/health/service/NAME has",
        "node put before the id, because nodes share it: node-a-db, node-b-db",
        "tags left out, metadata has keys and values: node-a-db (primary)",
        "left out, no address in fdaa::/16: db-d (10.0.0.4, 10.0.0.4)",
        "`apply` makes a network exactly as written, so add first what this source does not tell "
        "of: acme",
    ]


def test_doubts_about_checks_and_addresses_are_noted() -> None:
    assert read(HEALTH, ACME).notes[:-1] == [
        "taken as stopped: a check warns (Consul's own DNS answers these): resolver-3",
        "share an address, which `apply` refuses while both are started: resolver-1 and resolver-5",
    ]


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
def test_what_is_no_list_of_instances_is_refused(text: str, why: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(text)
    assert why in caught.value.why
    assert caught.value.do
