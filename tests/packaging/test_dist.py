"""What a release holds, and that anybody can make the same octets of the same commit."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from hashlib import sha256
from pathlib import Path

import pytest

from tests.tools import requires_tool

pytestmark = [pytest.mark.live, pytest.mark.slow, requires_tool("git")]

REPOSITORY = Path(__file__).parents[2]
COMPILED = {
    ".pyx",
    ".pxd",
    ".h",
    ".c",
}  # sources of the native path: for who builds, not for who runs
# Beside the package: what a build reads, and what goes with a release.
ADDED = {
    "CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "SECURITY.md", "pyproject.toml",
    "requirements.lock",
    "requirements-extras.lock", "schema.sql",
}  # fmt: skip
GENERATED = {"PKG-INFO", "setup.cfg"}


@dataclass(frozen=True, slots=True)
class Dist:
    sdist: Path
    wheel: Path

    def digests(self) -> list[str]:
        return [sha256(path.read_bytes()).hexdigest() for path in (self.sdist, self.wheel)]


def build(folder: Path, cwd: Path, umask: int, **environment: str) -> Dist:
    """Run tools/dist somewhere, as somebody."""
    subprocess.run(
        [sys.executable, str(REPOSITORY / "tools/dist"), str(folder)],
        cwd=cwd,
        umask=umask,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        timeout=120,
    )
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Dist(sdist, wheel)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Dist:
    return build(tmp_path_factory.mktemp("dist"), REPOSITORY, 0o022)


def tracked(folder: str = ".") -> set[str]:
    said = subprocess.run(
        ["git", "ls-files", "-z", folder],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(said.stdout.split("\0")[:-1])


def test_two_builds_of_one_commit_have_the_same_octets(dist: Dist, tmp_path: Path) -> None:
    """Somewhere else, by someone else, in another zone; and a stray file lies about."""
    stray = REPOSITORY / "internal_dns/stray-file-of-a-test.sql"
    stray.write_text("-- not tracked")
    try:
        again = build(
            tmp_path / "again", tmp_path, 0o077, TZ="Asia/Tokyo", PYTHONHASHSEED="1", LC_ALL="C"
        )
    finally:
        stray.unlink()
    assert again.digests() == dist.digests()


def test_the_wheel_is_the_package_and_nothing_else(dist: Dist) -> None:
    with zipfile.ZipFile(dist.wheel) as archive:
        names = set(archive.namelist())
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - metadata == {
        name for name in tracked("internal_dns") if Path(name).suffix not in COMPILED
    }
    assert {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "LICENSE"} <= {
        Path(name).name for name in metadata
    }


def test_the_wheel_suits_every_machine_and_says_what_it_needs(dist: Dist) -> None:
    with zipfile.ZipFile(dist.wheel) as archive:
        named = {
            Path(name).name: archive.read(name)
            for name in archive.namelist()
            if ".dist-info/" in name
        }
        assert archive.read("internal_dns/schema.sql") == (REPOSITORY / "schema.sql").read_bytes()
    assert dist.wheel.name.endswith("-py3-none-any.whl")
    assert b"Root-Is-Purelib: true" in named["WHEEL"]
    metadata = message_from_bytes(named["METADATA"])
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"console", "doh", "nats", "postgres"} <= set(metadata.get_all("Provides-Extra", []))


def test_the_sdist_has_all_that_a_build_needs_and_nothing_that_is_not_tracked(dist: Dist) -> None:
    """That it is enough is shown by the wheel: tools/dist builds it from the sdist."""
    with tarfile.open(dist.sdist) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        names = {member.name.partition("/")[2] for member in members}
        assert not [
            member for member in archive.getmembers() if not (member.isfile() or member.isdir())
        ]
    plain = {name for name in names if ".egg-info/" not in name} - GENERATED
    setup = {"setup.py"} & tracked()
    assert plain == tracked("internal_dns") | ADDED | setup
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {
        (0, 0, "", "")
    }
    assert {member.mode for member in members} == {0o644}
