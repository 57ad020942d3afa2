"""The image, built once; the server of deploy/compose.yaml, running; and hosts of its two
tenants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.container.compose import address, compose, flags
from tests.container.podman import IMAGE, Podman, new_store, remove_left_over
from tests.live import hosts
from tests.live.hosts import Host, join, until
from tests.live.upstream import Upstream, answering

# podman would ask for higher limits than a small machine allows, and log to a journal that may not
# run.
MACHINE = ("--ulimit=nproc=4096:4096", "--log-driver=k8s-file")
NO_FILES = "--ulimit=nofile=4096:4096"  # for what the compose file sets no limit
ACME_WEB = (
    "fdaa:0:18:a7b:7e:1:2:2"  # another machine of acme's web in the demo, on the same host here
)
ACME_DB = "fdaa:0:18:a7b:7d:2:1:2"
EXTERNAL = "2001:db8::80"


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Remove the namespaces of this run, whatever happens, and all that earlier ones left that were
    killed."""
    remove_left_over()
    hosts.remove_left_over()
    yield
    left = [host.name for host in hosts.made_hosts]
    for host in tuple(hosts.made_hosts):
        host.close()
    assert not left, f"left behind: {', '.join(left)}"


@dataclass(frozen=True, slots=True)
class Built:
    podman: Podman
    said: str  # by the build


@pytest.fixture(scope="session")
def built() -> Iterator[Built]:
    podman = new_store()
    try:
        yield Built(podman, podman.build())
    finally:
        podman.close()


@dataclass(frozen=True, slots=True)
class Site:
    """The compose file's server, running; `acme` and `globex` are where its clients would be."""

    podman: Podman
    file: dict[str, Any]
    server: Host
    acme: Host
    globex: Host
    upstream: Upstream
    name: str = "internal-dns-server"

    def internal_dns(self, *words: str) -> str:
        """Run a command in the container."""
        return self.podman.run("exec", self.name, "internal-dns", *words)

    def pid(self) -> int:
        pid: int = self.podman.inspect(self.name)["State"]["Pid"]
        return pid

    def ready(self) -> str:
        """Wait for the ready line, and return it: the last one, if the container was started
        again."""
        until(lambda: "ready " in self.logs(), 20, "the server did not get ready")
        return self.logs().strip().splitlines()[-1]

    def logs(self) -> str:
        return self.podman.run("logs", self.name)


def lay_out(podman: Podman, file: dict[str, Any], stack: list[Any]) -> Site:
    """Make the hosts and start the server. What must be closed is put on *stack* as it is made."""
    server, acme, globex = (Host(role) for role in ("box", "acme", "globex"))
    stack += [server.close, acme.close, globex.close]
    at = address(file, "server")
    server.ip(f"-6 addr add {at}/128 dev lo")
    for name, value in file["services"]["server"]["sysctls"].items():
        server.run("sysctl", "-q", "-w", f"{name}={value}")
    join(server, acme, "acme", ("fdaa:0:18",), (address(file, "acme"), ACME_WEB, ACME_DB))
    join(server, globex, "globex", ("fdaa:0:19",), (address(file, "globex"),))
    for tenant in (acme, globex):
        tenant.nameserver(at)
    upstream = Upstream(answering(f"@ 300 IN AAAA {EXTERNAL}"), server)
    stack.append(upstream.close)
    site = Site(podman, file, server, acme, globex, upstream)
    make_catalog(podman, file)
    where = f"--network=ns:/var/run/netns/{server.name}"
    service = file["services"]["server"]
    upstreams = ("--upstream", upstream.url)
    stack.append(lambda: podman.run("rm", "--force", "--time=0", "--volumes", site.name))
    podman.run("run", "--detach", f"--name={site.name}", where, *MACHINE, *command_of(service),
               IMAGE,
               *service["command"], *upstreams)  # fmt: skip
    site.ready()
    return site


def make_catalog(podman: Podman, file: dict[str, Any]) -> None:
    """Run the compose file's service that makes the demo catalog; each `up` does."""
    service = file["services"]["catalog"]
    options = command_of(service)
    podman.run(
        "run", "--rm", "--network=none", *MACHINE, NO_FILES, *options, IMAGE, *service["command"]
    )


def command_of(service: dict[str, Any]) -> tuple[str, ...]:
    """A service's flags; podman takes the first word of an entrypoint there, the rest as the
    command."""
    one = (
        {**service, "entrypoint": service["entrypoint"][:1]} if "entrypoint" in service else service
    )
    return tuple(flags(one))


@pytest.fixture(scope="session")
def site(built: Built) -> Iterator[Site]:
    stack: list[Any] = []
    try:
        yield lay_out(built.podman, compose(), stack)
    finally:
        for close in reversed(stack):
            close()
