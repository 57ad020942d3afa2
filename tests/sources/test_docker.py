"""Containers: labels say what Docker does not know, and what is no machine of a network is
noted."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from internal_dns.sources import Options, SourceError
from internal_dns.sources.docker import read

FIXTURES = Path(__file__).parent / "fixtures"
ACME = Options(networks={0x18: "acme"})
TEXT = (FIXTURES / "docker.json").read_text()


def container(**parts: Any) -> dict[str, Any]:
    networks = {"net": {"GlobalIPv6Address": "fdaa:0:18:1:1:0:1:2"}}
    return {
        "Id": "ab" * 32, "Name": "/web", "State": {"Running": True}, "Config": {"Labels": {}},
        "NetworkSettings": {"Networks": networks},
    } | parts  # fmt: skip


def test_the_document_is_the_golden_one() -> None:
    golden = tomllib.loads((FIXTURES / "docker.json.toml").read_text())
    assert read(TEXT, ACME).document == golden
    assert read(json.loads(TEXT), ACME) == read(TEXT, ACME)


def test_what_docker_does_not_give_is_noted() -> None:
    assert read(TEXT, ACME).notes == [
        "other addresses left out, a machine has one: "
        "shop-web-1 (2001:db8:1::2 of shop_front), shop-web-1 (fdaa:0:19:1:1:0:a:2 of shop_zeta)",
        "exposed ports left out, neither tcp nor udp: shop-web-1 (9999/sctp)",
        "app changed, it may have 63 letters, digits, - and _: 3d3d3d3d3d3d (Batch Jobs is now "
        "batch-jobs)",
        "region local guessed, because none is named: 4c4c4c4c4c4c, 5b5b5b5b5b5b",
        "left out, a one-off `docker compose run`: shop-web-run-1a2b",
        "left out, no IPv6 address in fdaa::/16 (a stopped one keeps only a fixed one): "
        "old (none), hostly (none), v4only (2001:db8::7)",
        "compose projects became one app: web of blog, shop",
        "`apply` makes a network exactly as written, so add first what this source does not tell "
        "of: acme, net-19",
    ]


def test_the_app_given_stands_in_for_the_name_of_a_container() -> None:
    found = read([container()], Options(app="shop")).document["networks"]["net-18"]
    assert list(found["apps"]) == ["shop"]


def test_fields_that_are_null_are_as_good_as_absent() -> None:
    config = {"Labels": None, "ExposedPorts": None}
    assert list(read([container(Config=config)]).document["networks"]["net-18"]["apps"]) == ["web"]
    assert read([container(NetworkSettings={"Networks": None})]).document == {"networks": {}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TEXT[: len(TEXT) // 2], "it is not JSON"),
        ("", "it is not JSON"),
        ("{}", "it is not a list"),
        ('"fdaa::2"', "it is not a list"),
        ("[1]", "at `$[0]`"),
        ('[{"Id": "sha256:1", "RepoTags": []}]', "missing required field `Name`"),
        (json.dumps([container(Name=7)]), "Expected `str`, got `int` - at `$[0].Name`"),
        (json.dumps([container(), container(Config={"Labels": []})]), "at `$[1].Config.Labels`"),
        ("[" * 100_000, "it is nested too deeply"),
        (b"\xff\xfe[\0]\0", "octet 1 is not UTF-8"),
    ],
)
def test_what_is_no_list_of_containers_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(text)
    assert why in caught.value.why
    assert caught.value.do
