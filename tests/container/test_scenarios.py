"""A subset of the scenarios, played to the server in a container; tests/live plays all of them to
one outside."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.conftest import MACHINE, NO_FILES, Built
from tests.container.podman import IMAGE, Podman
from tests.live.conftest import catalog_file
from tests.live.hosts import Host, Served, until
from tests.live.test_scenarios_live import IPV4, Living, Sockets
from tests.scenario.language import Scenario, Server, Setting, all_scenarios
from tests.scenario.play import play
from tests.tools import requires_root, requires_tool

pytestmark = [pytest.mark.container, requires_root(), requires_tool("podman", "runc", "ip")]

USER = 10_053  # of the image
WHERE = "/var/lib/internal-dns"


class Contained(Served):
    """The image's `serve` in a namespace of the test, on a catalog in a folder of the host."""

    def __init__(
        self, podman: Podman, host: Host, folder: Path, name: str, flags: list[str]
    ) -> None:
        self.podman, self.name = podman, name
        podman.run(
            "run",
            "--detach",
            f"--name={name}",
            f"--network=ns:/var/run/netns/{host.name}",
            "--read-only",
            "--cap-drop=ALL",
            f"--volume={folder}:{WHERE}",
            *MACHINE,
            NO_FILES,
            IMAGE,
            "serve",
            *flags,
        )
        until(lambda: "ready " in podman.run("logs", name), 20, "the server did not get ready")
        self.ready = podman.run("logs", name)
        self.port = int(re.findall(r"udp\+tcp \S+:(\d+)", self.ready)[0])

    def stop(self) -> str:
        self.podman.run("stop", "--time=20", self.name)
        code = self.podman.inspect(self.name)["State"]["ExitCode"]
        self.podman.run("rm", "--force", "--time=0", self.name)
        assert code == 0
        return ""


class Containers(Sockets):
    """The runner of tests/live, with its servers in containers. Changes are committed from outside,
    as root."""

    def __init__(self, podman: Podman, folder: Path) -> None:
        super().__init__(folder, "auto")
        self.podman = podman

    def _start(self, setting: Setting) -> Living:
        number = len(self.servers)
        folder = self.folder / f"served-{number}"
        folder.mkdir()
        pristine = catalog_file(self.folder / f"catalog-{number}.db", *setting.catalog)
        file = Path(shutil.copy(pristine, folder / "catalog.db"))
        for path in (folder, file):
            os.chown(path, USER, USER)
        listen = ["--listen", "[::]:0", "--listen", f"{IPV4}:0", "--admin", "none"]
        served = Contained(
            self.podman, self.host, folder, f"scenarios-{number}", [*listen, *self._flags(setting)]
        )
        return Living(served, file, pristine)


def plain(scenario: Scenario) -> bool:
    """Whether one server with the tenants' catalog and no flags can play it."""
    settings = [step.setting for step in scenario.steps]
    return not scenario.in_process_only and all(
        s.catalog == ("acme.sql",) and s.server == Server() for s in settings
    )


SCENARIOS = [scenario for scenario in all_scenarios() if plain(scenario)]


@pytest.fixture(scope="module")
def runner(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sockets]:
    found = Containers(built.podman, tmp_path_factory.mktemp("scenarios"))
    try:
        yield found
    finally:
        found.close()


def test_the_subset_is_worth_its_name() -> None:
    """Names, outcomes, reverse zones, flycast, hostile messages: most files of the corpus have a
    part in it."""
    assert len(SCENARIOS) >= 60
    assert len({scenario.file for scenario in SCENARIOS}) >= 8


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s.file.name}:{s.title}")
def test_scenario_in_a_container(scenario: Scenario, runner: Sockets) -> None:
    play(scenario, runner, times=2)
