"""What `serve` warns about when it starts, what `dev` takes from the configuration, and how `dig`
and `doctor` find a server by its catalog."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from internal_dns.store.generate import create_catalog, demo_rows
from tests.commands import run
from tests.live.hosts import Host, Served, serving
from tests.tools import requires_root, requires_tool

pytestmark = pytest.mark.live
LISTEN = ("--listen", "[fdaa::3]:53", "--admin", "none", "--upstream", "none")


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    create_catalog(tmp_path / "demo.db", demo_rows())
    return tmp_path / "demo.db"


@requires_root()
@requires_tool("ip")
def test_serve_warns_of_an_address_that_is_not_local_until_it_is(demo: Path) -> None:
    host = Host("start")
    try:
        for there in (False, True):
            if there:
                host.ip("-6 route add local fdaa::3/128 dev lo")
            served = Served("--catalog", str(demo), *LISTEN, host=host)
            said = served.stderr()
            served.stop()
            assert (
                "no query can reach it. Add it: ip -6 route add local fdaa::3/128 dev lo" in said
            ) != there
    finally:
        host.close()


def test_serve_warns_of_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    missing = tmp_path / "nosuch" / "catalog.db"
    with serving(missing) as served:
        said = served.stderr()
    assert f"the directory {missing.parent} does not exist" in said
    assert f"mkdir -p {missing.parent}; internal-dns init {missing}" in said


def test_serve_does_not_warn_where_all_is_well(demo: Path) -> None:
    with serving(demo) as served:
        said = served.stderr()
    assert "does not exist" not in said
    assert "not an address of this host" not in said


def port_of(listen: str) -> int:
    return int(listen.rpartition(":")[2])


@pytest.mark.parametrize("by", ["file", "environment"])
def test_dev_obeys_the_configuration(by: str, demo: Path, tmp_path: Path) -> None:
    environment, flags = {}, []
    if by == "file":
        (tmp_path / "own.toml").write_text(
            f'catalog = "{demo}"\nlisten = ["127.0.0.1:0"]\nadmin = "none"\nconsole = "none"\n'
            'upstream = ["none"]\n'
        )
        flags = ["--config", str(tmp_path / "own.toml")]
    else:
        environment = {
            "INTERNAL_DNS_CATALOG": str(demo),
            "INTERNAL_DNS_LISTEN": "127.0.0.1:0",
            "INTERNAL_DNS_ADMIN": "none",
            "INTERNAL_DNS_CONSOLE": "none",
            "INTERNAL_DNS_UPSTREAM": "none",
        }
    (tmp_path / "empty").mkdir()
    served = Served(*flags, verb="dev", folder=tmp_path / "empty", environment=environment)
    try:
        assert f"catalog  {demo}:" in served.ready
        assert f"udp+tcp 127.0.0.1:{served.port} ·" in served.ready
        assert "admin none" in served.ready
        # Its own advice works as printed.
        (words,) = [
            line.split()[2:] for line in served.ready.splitlines() if line.startswith("try")
        ]
        said = run(*words)
        assert said.code == 0, said
        assert not (tmp_path / "empty/demo").exists()
    finally:
        served.stop()


def test_dig_finds_the_server_of_a_catalog(demo: Path) -> None:
    with serving(demo) as served:
        said = run("dig", "--catalog", demo, "web.internal")
    assert said.code == 0
    assert f"; [::1]:{served.port} ·" in said.out


@pytest.mark.parametrize("by", ["file", "environment"])
def test_dig_and_doctor_take_a_configured_catalog_before_the_demo(
    by: str, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    (folder / "demo").mkdir(parents=True)
    create_catalog(folder / "demo/catalog.db", demo_rows())
    monkeypatch.chdir(folder)
    words = []
    if by == "file":
        (folder / "own.toml").write_text(f'catalog = "{demo}"\n')
        words = ["--config", folder / "own.toml"]
    else:
        monkeypatch.setenv("INTERNAL_DNS_CATALOG", str(demo))
    with serving(demo) as served:
        assert f"; [::1]:{served.port} ·" in run("dig", *words, "web.internal").out
        said = run("doctor", *words, "--listen", "127.0.0.1:0", "--upstream", "none").out
    assert f"a server of this catalog listens on [::1]:{served.port}" in said


@requires_root()
@requires_tool("ip")
def test_dig_asks_a_wildcard_server_as_any_machine(demo: Path) -> None:
    host = Host("asks")
    try:
        host.ip("-6 route add local fdaa::/16 dev lo")
        with serving(demo, host=host):
            words = ("dig", "--catalog", str(demo), "-b", "fdaa:0:18:a7b:7d:f066:b83b:2")
            for more in ((), ("--tcp",)):
                command = (sys.executable, "-m", "internal_dns", *words, *more, "_whoami.internal")
                said = host.run(*command)
                assert "network=acme" in said
                assert "address=fdaa:0:18:a7b:7d:f066:b83b:2" in said
                assert "; [fdaa::3]:53 ·" in said
            refused = subprocess.run(
                host.within(sys.executable, "-m", "internal_dns", *words[:3], "_whoami.internal"),
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert refused.returncode == 1
            assert "::1 is in no network of the catalog" in refused.stdout
    finally:
        host.close()
