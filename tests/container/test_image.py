"""The image and the process in it: what it says of itself, and what it may not do."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.container.conftest import MACHINE, NO_FILES, Built, Site
from tests.container.podman import IMAGE, REPOSITORY
from tests.tools import requires_root, requires_tool

pytestmark = [pytest.mark.container, requires_root(), requires_tool("podman", "runc", "ip")]

# Each place that a server might want to write to, and the place of its own program.
WRITE_ANYWHERE = """
import json, os
found = {}
for folder in (
    "/", "/etc", "/opt/internal-dns/bin", "/usr/bin", "/var/lib", "/root", "/var/lib/internal-dns"
):
    try:
        os.open(folder + "/probe", os.O_CREAT | os.O_WRONLY)
        os.unlink(folder + "/probe")
        found[folder] = "written"
    except OSError as error:
        found[folder] = os.strerror(error.errno)
print(json.dumps(found))
"""


def test_the_image_says_what_it_is_and_how_it_runs(built: Built) -> None:
    image = built.podman.inspect(IMAGE)
    config = image["Config"]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in config["Labels"].items()
    }
    assert labels["title"] == "internal-dns"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["revision"] == commit.stdout.strip()
    assert f'version = "{labels["version"]}"' in (REPOSITORY / "pyproject.toml").read_text()
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"])
    assert (config["Entrypoint"], config["Cmd"]) == (["internal-dns"], ["serve"])
    assert list(config["Volumes"]) == ["/var/lib/internal-dns"]
    assert set(config["ExposedPorts"]) == {"53/udp", "53/tcp"}
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert image["Healthcheck"]["Test"] == ["CMD", "internal-dns", "health"]


def test_the_build_the_version_and_the_ready_line_name_the_same_udp_path(
    built: Built, site: Site
) -> None:
    """The build base has gcc: where there is an extension to compile, the native path must run."""
    version = json.loads(site.internal_dns("version", "--json"))
    path = "native" if any(Path(REPOSITORY, "internal_dns").rglob("*.pyx")) else "python"
    assert version["udp path"].split()[0] == path
    assert re.search(rf"^udp path +{re.escape(version['udp path'])}$", built.said, re.MULTILINE)
    assert f"udp path {path}" in site.ready()


def test_what_only_a_build_needs_is_not_in_it(built: Built) -> None:
    listing = (
        "import importlib.metadata as m; "
        "print(*sorted(d.metadata['Name'].lower() for d in m.distributions()))"
    )
    python = ("--entrypoint=/opt/internal-dns/bin/python", "--network=none", *MACHINE, NO_FILES)
    found = set(built.podman.run("run", "--rm", *python, IMAGE, "-c", listing).split())
    assert {"internal-dns", "uvloop", "dnspython", "nats-py", "starlette"} <= found
    assert not found & {"pip", "setuptools", "cython", "pytest", "mypy"}


def test_the_server_is_not_root_and_has_no_capability(site: Site) -> None:
    status = dict(
        re.findall(r"^(\w+):\s+(.+)$", Path(f"/proc/{site.pid()}/status").read_text(), re.MULTILINE)
    )
    assert all(int(uid) > 0 for uid in (status["Uid"] + " " + status["Gid"]).split())
    assert [
        int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    ] == [0] * 5
    assert status["NoNewPrivs"] == "1"


def test_it_can_write_to_its_volume_and_nowhere_else(site: Site) -> None:
    said = site.podman.run("exec", site.name, "/opt/internal-dns/bin/python", "-c", WRITE_ANYWHERE)
    found = json.loads(said)
    assert found.pop("/var/lib/internal-dns") == "written"
    # As nobody's user it may see "Permission denied" first; as root, here, only the read-only root
    # stops it.
    said = site.podman.run(
        "exec", "--user=0", site.name, "/opt/internal-dns/bin/python", "-c", WRITE_ANYWHERE
    )
    as_root = json.loads(said)
    as_root.pop("/var/lib/internal-dns")
    assert set(found.values()) <= {"Read-only file system", "Permission denied"}, found
    assert set(as_root.values()) <= {"Read-only file system", "Permission denied"}, as_root
    assert as_root["/etc"] == "Read-only file system"


def test_without_the_sysctl_it_ends_with_78_and_says_which(built: Built, site: Site) -> None:
    """The tenant's namespace has none: port 53 is not for everyone there."""
    where = ("--rm", f"--network=ns:/var/run/netns/{site.acme.name}", *MACHINE, NO_FILES)
    done = subprocess.run(
        (*built.podman.command, "run", *where, IMAGE), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 78
    assert b"sysctl net.ipv4.ip_unprivileged_port_start=53" in done.stderr


def test_it_is_healthy_while_it_is_ready(site: Site) -> None:
    site.podman.run("healthcheck", "run", site.name)
    assert site.podman.inspect(site.name)["State"]["Health"]["Status"] == "healthy"


def test_a_container_that_does_not_serve_is_not_healthy(built: Built) -> None:
    podman, name = built.podman, "idle"
    idle = ("--entrypoint=sleep", "--network=none", *MACHINE, NO_FILES)
    podman.run("run", "--detach", f"--name={name}", *idle, IMAGE, "60")
    try:
        done = subprocess.run(
            (*podman.command, "healthcheck", "run", name),
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1
    finally:
        podman.run("rm", "--force", "--time=0", name)
