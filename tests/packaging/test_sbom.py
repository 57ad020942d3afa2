"""The bill of materials says what the lock says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom

REPOSITORY = Path(__file__).parents[2]
LOCK = REPOSITORY / "requirements-extras.lock"
BUILD_TOOLS = {"setuptools", "cython"}


def written(folder: Path) -> Path:
    words = [sys.executable, str(REPOSITORY / "tools/sbom"), str(folder)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    said = subprocess.run(
        words, check=True, capture_output=True, text=True, timeout=60, env=environment
    )
    return Path(said.stdout.strip())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sbom"))


@pytest.fixture(scope="module")
def bill(file: Path) -> Any:
    return json.loads(file.read_text())


def test_it_names_every_release_of_the_lock_that_is_installed_and_its_hashes(bill: Any) -> None:
    lock = LOCK.read_text()
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", lock, re.MULTILINE))
    assert {c["name"]: c["version"] for c in bill["components"]} == {
        name: version for name, version in pinned.items() if name not in BUILD_TOOLS
    }
    for component in bill["components"]:
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
        entry = lock.split(f"{component['name']}=={component['version']}")[1].partition("# via")[0]
        assert {p["value"] for p in component["properties"]} == set(
            re.findall(r"sha256:([0-9a-f]{64})", entry)
        )


def test_it_is_about_this_release_and_says_what_needs_what(bill: Any) -> None:
    ours = bill["metadata"]["component"]
    assert (ours["name"], ours["type"]) == ("internal-dns", "application")
    assert ours["licenses"] == [{"expression": "Apache-2.0"}]
    names = {c["bom-ref"]: c["name"] for c in (ours, *bill["components"])}
    needs = {
        names[d["ref"]]: {names[ref] for ref in d.get("dependsOn", ())}
        for d in bill["dependencies"]
    }
    assert needs.keys() == set(names.values())
    assert {"dnspython", "uvloop", "click"} <= needs["internal-dns"]
    assert needs["jinja2"] == {"markupsafe"}
    # Everything there is reached from us: nothing is installed that nobody needs.
    reached, pending = set(), {"internal-dns"}
    while pending:
        reached.add(name := pending.pop())
        pending |= needs[name] - reached
    assert reached == needs.keys()


def test_equal_locks_give_equal_octets(file: Path, tmp_path: Path) -> None:
    assert written(tmp_path).read_bytes() == file.read_bytes()


def test_a_reader_of_the_format_understands_it(bill: Any) -> None:
    assert bill["specVersion"] == "1.6"
    read = Bom.from_json(bill)  # type: ignore[attr-defined]
    assert {component.name for component in read.components} == {
        c["name"] for c in bill["components"]
    }
    assert read.validate()
