"""`follow podman` beside real containers: what starts is answered, what ends is not, and nothing
that dies on the way empties a catalog."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.container.engine import FLAGS, IMAGE, Engine, Site, site
from tests.live.hosts import PROGRAM, REPOSITORY, meanwhile, until

pytestmark = pytest.mark.container

SOON = 20.0  # seconds: podman alone takes some on a busy machine


@pytest.fixture(scope="module")
def here() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_runs(here: Site) -> Iterator[None]:
    """End what a test started, and forget its rows."""
    yield
    for follower in here.followers:
        follower.close()
    here.followers.clear()
    here.engine.run("rm", "--all", "--force", "--time=0")
    if here.engine.service is None:
        here.engine.start_service()
    for found in here.cli("source", "list"):
        here.cli("source", "rm", found["source"])


def test_a_container_is_answered_while_it_runs(here: Site) -> None:
    follower = here.follow()
    assert follower.ready.startswith("following  podman (podman)")
    here.engine.start("base")
    here.engine.start("web-1", app="shop")
    address = here.engine.address("web-1")
    until(lambda: here.answers("shop.internal") == {address}, SOON)
    assert here.answers("shop.internal", "globex") == set()
    assert here.answers("web-1.vm.shop.internal") == {address}
    here.engine.run("pause", "web-1")
    until(lambda: here.answers("shop.internal") == set(), SOON)
    assert here.rows()["web-1"][0] == "stopped"
    here.engine.run("unpause", "web-1")
    until(lambda: here.answers("shop.internal") == {address}, SOON)
    here.engine.run("stop", "--time=1", "web-1")
    until(lambda: here.answers("shop.internal") == set(), SOON)
    assert here.rows()["web-1"] == ("stopped", 1, "podman")
    here.engine.run("start", "web-1")
    until(lambda: here.answers("shop.internal") == {here.engine.address("web-1")}, SOON)
    here.engine.run("kill", "--signal=KILL", "web-1")
    until(lambda: here.answers("shop.internal") == set(), SOON)
    here.engine.run("rm", "web-1")
    until(lambda: "web-1" not in here.rows(), SOON)
    assert "base" in here.rows()
    follower.stop()


def test_a_container_on_two_networks_is_a_machine_on_each(here: Site) -> None:
    here.follow()
    here.engine.start("both", "--network=globex", app="both")
    for network in "acme", "globex":
        expected = {here.engine.address("both", network)}
        until(lambda n=network, e=expected: here.answers("both.internal", n) == e, SOON)  # type: ignore[misc]


def test_the_host_network_and_none_are_skipped_and_counted(here: Site) -> None:
    here.follow()
    here.engine.start("hostly", network="host", port=8123)
    here.engine.start("lonely", network="none")
    here.engine.start("web-1")
    until(lambda: set(here.rows()) == {"web-1"}, SOON)

    def counted() -> bool:
        (status,) = [one["status"] for one in here.cli("source", "list")]
        return bool(status) and status["figures"] == {"skipped": 2}

    until(counted, SOON)


def test_health_decides_who_is_ready(here: Site) -> None:
    here.follow()
    check = ('--health-cmd=["/machine", "exists", "/ok"]', "--health-interval=disable")
    here.engine.start("sound")
    here.engine.start("sick", *check, "--health-retries=1")
    here.engine.start("ignored", *check, "--health-retries=1", "--label=internal-dns.health=ignore")
    sound, ignored = here.engine.address("sound"), here.engine.address("ignored")
    for name in "sick", "ignored":
        here.engine.run("healthcheck", "run", name, fails=True)
    until(lambda: here.answers("web.internal") == {sound, ignored}, SOON)
    assert here.rows()["sick"] == ("started", 0, "podman")


def test_no_label_claims_another_tenant(here: Site) -> None:
    here.follow()
    labels = ("--label=internal-dns.network=globex", "--label=internal-dns.source=")
    here.engine.start("thief", *labels, app="globex-web")
    address = here.engine.address("thief")
    until(lambda: here.answers("globex-web.internal") == {address}, SOON)
    assert here.answers("globex-web.internal", "globex") == set()


def test_rows_stay_while_follower_and_service_are_killed(here: Site) -> None:
    follower = here.follow()
    here.engine.start("web-1")
    here.engine.start("web-2")
    expected = {here.engine.address("web-1"), here.engine.address("web-2")}
    until(lambda: here.answers("web.internal") == expected, SOON)
    follower.kill()
    assert here.answers("web.internal") == expected
    here.engine.kill_service()
    again = here.follow()
    until(lambda: "source: " in again.stderr(), SOON, "nothing was said of the service")
    assert here.answers("web.internal") == expected
    here.engine.run("stop", "--time=0", "web-2")
    here.engine.start_service()
    until(lambda: here.answers("web.internal") == {here.engine.address("web-1")}, 2 * SOON)
    until(lambda: "source: all is well again" in again.stderr(), SOON)


def test_the_last_container_that_vanishes_is_held(here: Site) -> None:
    """`podman rm --force` of all there is looks like an engine that answers nothing."""
    follower = here.follow()
    here.engine.start("only")
    address = here.engine.address("only")
    until(lambda: here.answers("web.internal") == {address}, SOON)
    here.engine.run("rm", "--force", "--time=0", "only")
    until(lambda: here.rows()["only"][1] == 0, SOON)
    until(lambda: "rows are gone at once" in follower.stderr(), SOON)
    assert here.answers("web.internal") == {address}
    until(lambda: here.rows() == {}, 60)


def test_a_container_made_again_at_its_address_is_answered_at_once(here: Site) -> None:
    here.follow()
    addresses = []
    for _ in range(2):
        given = here.cli("address", "acme", "--host", "a7b:7d", "--for", "db-1")["address"]
        addresses.append(given)
        here.engine.start("db-1", f"--ip6={given}", app="db")
        until(lambda a=given: here.answers("db.internal") == {a}, SOON)  # type: ignore[misc]
        here.engine.run("rm", "--force", "--time=0", "db-1")
    assert len(set(addresses)) == 1


def test_a_second_follower_of_one_name_is_refused(here: Site) -> None:
    here.follow()
    second = here.follow()
    assert second.process.wait(SOON) == 1
    assert "another process follows podman" in second.stderr()
    here.follow(name="other").signal(signal.SIGTERM)


def test_source_rm_leaves_no_row_behind(here: Site) -> None:
    follower = here.follow()
    here.engine.start("web-1", "--label=internal-dns.service.http=80")
    until(lambda: "web-1" in here.rows(), SOON)
    with pytest.raises(AssertionError, match="another process follows podman"):
        here.cli("source", "rm", "podman")
    follower.stop()
    assert here.cli("source", "rm", "podman")["rows"] == 1
    assert here.rows() == {}


def test_a_container_reaches_another_by_its_name(here: Site) -> None:
    here.follow()
    here.engine.start("web-1")
    until(lambda: here.answers("web.internal") != set(), SOON)
    said = here.engine.run(
        "run", "--rm", "--name=client", "--network=acme", "--dns=fdaa::3",
        "--ulimit=nproc=4096:4096", "--ulimit=nofile=4096:4096",
        IMAGE, "get", "web.internal", "80",
    )  # fmt: skip
    assert said.endswith("hello\n")
    other = subprocess.run(
        (*here.engine.store.command, "run", "--rm", "--network=globex", "--dns=fdaa::3",
         "--ulimit=nproc=4096:4096", "--ulimit=nofile=4096:4096",
         IMAGE, "get", "web.internal", "80"),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert other.returncode == 1


MACHINES = 20


def test_a_rolling_deploy_never_shows_an_address_that_does_not_accept(
    here: Site, tmp_path: Path
) -> None:
    """Twenty machines are replaced one by one, as a deployment does: the new one is answered once
    its health check passes, the old one is ended once its check has failed and nobody gets it any
    more. A client that asks ten times a second can connect to every address that it gets."""
    here.follow()

    def check(name: str, *, sound: bool) -> None:
        """Make the next health check of *name* pass or fail."""
        (tmp_path / name).touch() if sound else (tmp_path / name).unlink()
        here.engine.run("healthcheck", "run", name, fails=not sound)

    def start(name: str) -> str:
        command = json.dumps(["/machine", "exists", f"/health/{name}"])
        here.engine.start(
            name, f"--health-cmd={command}", "--health-interval=disable", "--health-retries=1",
            f"--volume={tmp_path}:/health", app="roll",
        )  # fmt: skip
        return here.engine.address(name)

    addresses = {}
    for number in range(MACHINES):
        addresses[f"old-{number}"] = start(f"old-{number}")
        check(f"old-{number}", sound=True)
    until(lambda: here.answers("roll.internal") == set(addresses.values()), 2 * SOON)
    refused: list[str] = []
    connected: list[str] = []
    client = here.client()

    def ask_and_connect() -> None:
        for address in here.answers("roll.internal", sock=client):
            try:
                here.engine.host.inside(partial(connect, address))
                connected.append(address)
            except OSError as error:
                refused.append(f"{address}: {error}")

    with client, meanwhile(ask_and_connect, 0.1):
        for number in range(MACHINES):
            old, new = f"old-{number}", f"new-{number}"
            addresses[new] = start(new)
            assert addresses[new] not in here.answers("roll.internal")
            check(new, sound=True)
            until(lambda n=new: addresses[n] in here.answers("roll.internal"), SOON)  # type: ignore[misc]
            check(old, sound=False)
            until(lambda n=old: addresses[n] not in here.answers("roll.internal"), SOON)  # type: ignore[misc]
            here.engine.run("rm", "--force", "--time=0", old)
    assert set(connected) == set(addresses.values())
    assert refused == []


def connect(address: str) -> None:
    with socket.create_connection((address, 80), 2):
        pass


# ── the walk ──────────────────────────────────────────────────────────────────────────────────────

WALK = REPOSITORY / "docs" / "follow.md"
COMMANDS = 10


def walk() -> list[str]:
    """The commands of the document, as root types them."""
    block = WALK.read_text().partition("```console\n")[2].partition("```")[0]
    return [line.removeprefix("# ") for line in block.splitlines()]


def test_the_walk_leads_from_nothing_to_a_name(tmp_path: Path) -> None:
    """Each line of docs/follow.md as it is written, in one shell. What it names on PATH is ours:
    podman with a store of this run and an image that is here, the service instead of systemd's."""
    assert len(walk()) == COMMANDS
    engine = Engine(tmp_path, networks=False)
    try:
        bin_ = tmp_path / "bin"
        bin_.mkdir()
        # By its path: on PATH, ours comes first.
        real = shutil.which("podman") or "podman"
        podman = " ".join(real if word == "podman" else word for word in engine.store.command)
        limits = " ".join(FLAGS)
        scripts = {
            "podman": f'''
words=()
for word in "$@"; do
    case "$word" in
        docker.io/library/nginx) words+=({IMAGE} serve 80) ;;
        docker.io/curlimages/curl) words+=({IMAGE} get) ;;
        http://*) words+=("${{word#http://}}" 80) ;;
        run) words+=(run {limits}) ;;
        *) words+=("$word") ;;
    esac
done
exec {podman} "${{words[@]}}"''',
            "internal-dns": f"exec nsenter --net=/run/netns/{engine.host.name} "
            f'{" ".join(PROGRAM)} "$@"',
            "ip": f'exec {shutil.which("ip")} -n {engine.host.name} "$@"',
            "systemctl": f"{podman} system service --time=0 unix://{engine.socket} "
            ">/dev/null 2>&1 & sleep 1",
        }
        for name, body in scripts.items():
            (bin_ / name).write_text(f"#!/bin/bash\n{body}\n")
            (bin_ / name).chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "DOCKER_HOST": f"unix://{engine.socket}",
            "INTERNAL_DNS_ADMIN": "none",
        }
        *setup, last = walk()
        # A person waits for each line to say what it did; the last needs the name to be there.
        script = "\n".join(
            [
                "set -e",
                *(line + ("\nsleep 2" if line.endswith("&") else "") for line in setup),
                f"for try in $(seq 40); do {last} && break; sleep 0.5; done",
                "kill $(jobs -p)",
            ]
        )
        # To a file: what goes on in the background would hold a pipe open.
        with (tmp_path / "said").open("wb") as said:
            subprocess.run(
                ("bash", "-c", script), cwd=tmp_path, env=environment, stdout=said, stderr=said,
                stdin=subprocess.DEVNULL, timeout=120, check=False,
            )  # fmt: skip
        assert "hello\n" in (tmp_path / "said").read_text(), (tmp_path / "said").read_text()
    finally:
        for process in left_over(tmp_path):
            os.kill(process, signal.SIGKILL)
        engine.close()


def left_over(folder: Path) -> list[int]:
    """Return the processes of the walk that are still there: they name its folder, or work in
    it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes()
            here = Path(os.readlink(path / "cwd"))
            ours = f"{folder}/podman.sock".encode() in words or here == folder
            if ours and int(path.name) != os.getpid():
                found.append(int(path.name))
    return found
