"""With another prefix or other hidden peers in the environment, every command judges a catalog as
`serve` would."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from internal_dns import config
from internal_dns.cli import cli
from internal_dns.cli.common import CONFIGURATION, FINDING
from internal_dns.errors import OperatorError
from internal_dns.store.generate import create_catalog

ADDRESS = "fdab:0:18:a7b:7d:1:1:2"
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "regions": [("iad", "Ashburn", 39.02, -77.54, 1)],
    "networks": [(24, "acme", "")],
    "machines": [("3d8d99", 24, "web", ADDRESS, "iad", "app", "started", 0, 0)],
    "peers": [
        (24, "alice", "fdab:0:18:a7b:9::2", "iad"),
        (24, "tmp-1", "fdab:0:18:a7b:9::102", "iad"),
    ],
}


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog of fdab::/16, and nothing configured but the prefix."""
    for variable in [name for name in os.environ if name.startswith(config.ENVIRONMENT)]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("INTERNAL_DNS_PREFIX", "fdab::/16")
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "absent.toml")
    create_catalog(tmp_path / "catalog.db", ROWS)
    return tmp_path / "catalog.db"


def run(catalog: Path, *words: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, words), "--catalog", str(catalog)])


def said(catalog: Path, *words: object) -> str:
    """What a command that ends well prints."""
    result = run(catalog, *words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_a_catalog_of_another_prefix_goes_out_and_in_and_is_served(
    catalog: Path, tmp_path: Path
) -> None:
    document, copy = tmp_path / "acme.toml", tmp_path / "copy.db"
    create_catalog(copy, {})
    document.write_text(said(catalog, "export"))
    assert 'id = "fdab:0:18::/48"' in document.read_text()
    said(copy, "apply", document, "--offline")
    assert said(copy, "diff", document) == "nothing to change\n"
    assert said(copy, "check") == f"{copy}: no findings\n"
    assert ADDRESS in said(copy, "explain", "web.internal")
    assert "web.internal" in said(copy, "explain", ADDRESS, "--as", "acme")


def test_the_default_prefix_serves_nothing_of_it(
    catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INTERNAL_DNS_PREFIX")
    assert run(catalog, "check").exit_code == FINDING


def test_objects_are_named_and_shown_by_the_prefix(catalog: Path) -> None:
    assert (
        json.loads(said(catalog, "network", "show", "fdab:0:18::/48", "--json"))["prefix"]
        == "fdab:0:18::/48"
    )
    assert "fdab:0:18::3/128" in said(catalog, "network", "list", "--routes")
    assert "resolvectl dns %i fdab:0:18::3" in said(
        catalog, "peer", "show", "acme/alice", "--wireguard"
    )
    said(catalog, "machine", "set", "3d8d99", "--address", "fdab:0:18:a7b:7d:1:1:3", "--offline")
    said(catalog, "network", "add", "beta", "--id", "fdab:0:19::/48", "--offline")


def test_a_48_of_another_prefix_is_nobodys(catalog: Path) -> None:
    assert isinstance(run(catalog, "network", "show", "fdaa:0:18::/48").exception, OperatorError)
    refused = run(catalog, "network", "add", "beta", "--id", "fdaa:0:19::/48", "--offline")
    assert refused.exit_code == 2
    assert "of fdab::/16" in refused.stderr


def test_an_import_takes_addresses_of_the_prefix(catalog: Path, tmp_path: Path) -> None:
    csv = tmp_path / "machines.csv"
    csv.write_text(f"id,app,address,region,state\n3d8d99,web,{ADDRESS},iad,started\n")
    named = ("--network", "fdab:0:18::/48=acme")
    document = json.loads(said(catalog, "import", "csv", csv, *named, "--json"))
    assert document["networks"]["acme"]["id"] == "fdab:0:18::/48"


def test_hidden_peers_are_those_of_the_settings(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two peers may share an address when one of them is hidden."""
    document = tmp_path / "acme.toml"
    document.write_text(
        said(catalog, "export").replace("fdab:0:18:a7b:9::102", "fdab:0:18:a7b:9::2")
    )
    assert isinstance(run(catalog, "diff", document).exception, OperatorError)
    assert isinstance(run(catalog, "apply", document, "--offline").exception, OperatorError)
    monkeypatch.setenv("INTERNAL_DNS_HIDDEN_PEERS", "tmp-")
    said(catalog, "apply", document, "--offline")
    assert said(catalog, "diff", document) == "nothing to change\n"
    assert "tmp-1" not in said(catalog, "explain", "_peer.internal", "--quiet")


def test_a_setting_that_cannot_be_used_is_told(
    catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERNAL_DNS_PREFIX", "2001:db8::/32")
    for words in (["check"], ["export"], ["explain", "web.internal"], ["network", "show", "acme"]):
        error = run(catalog, *words).exception
        assert isinstance(error, OperatorError)
        assert error.code == CONFIGURATION
        assert "INTERNAL_DNS_PREFIX" in error.why
