"""Read deploy/compose.yaml, and say its services as podman's flags: the test runs what the file
says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "deploy/compose.yaml"
# docker-compose knows the specification and prints YAML; Debian's own Python reads it, ours has no
# reader.
TO_JSON = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"

# The keys that `flags` says, and those that a test takes care of itself. Another one would go
# untested: an error.
SAID = {"read_only", "cap_drop", "security_opt", "ulimits", "volumes", "init", "entrypoint"}
ELSEWHERE = {
    "image",
    "command",
    "restart",
    "sysctls",
    "networks",
    "depends_on",
    "network_mode",
    "healthcheck",
}


def compose() -> dict[str, Any]:
    """Return the file as docker-compose understands it. Fails where the specification does not
    allow it."""
    said = subprocess.run(
        ("docker-compose", "--file", str(FILE), "config"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    read = subprocess.run(
        ("/usr/bin/python3", "-c", TO_JSON),
        input=said.stdout,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    found: dict[str, Any] = json.loads(read.stdout)
    return found


def flags(service: dict[str, Any]) -> Iterator[str]:
    """Say a service's options as flags of `podman run`."""
    assert service.keys() <= SAID | ELSEWHERE, service.keys() - SAID - ELSEWHERE
    yield from ("--read-only",) * bool(service.get("read_only"))
    yield from ("--init",) * bool(service.get("init"))
    yield from (f"--cap-drop={name}" for name in service.get("cap_drop", ()))
    yield from (
        f"--security-opt={words.replace(':true', '')}" for words in service.get("security_opt", ())
    )
    yield from (
        f"--ulimit={name}={limit}:{limit}" for name, limit in service.get("ulimits", {}).items()
    )
    yield from (f"--volume={words.removesuffix(':rw')}" for words in service.get("volumes", ()))
    if "entrypoint" in service:
        yield f"--entrypoint={json.dumps(service['entrypoint'])}"


def address(found: dict[str, Any], service: str) -> str:
    """The address that a service has on the one network."""
    text: str = found["services"][service]["networks"]["sixpn"]["ipv6_address"]
    return text
