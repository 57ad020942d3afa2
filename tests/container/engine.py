"""Podman with two tenants' networks in a namespace of its own, its API service, a server and a
follower: what docs/follow.md sets up."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dns.message

from internal_dns.store.generate import create_catalog
from tests.container.podman import Podman, new_store
from tests.live.hosts import PROGRAM, REPOSITORY, Host, Served, addresses, query, until

SOURCE = Path(__file__).with_name("machine.c")
IMAGE = "localhost/machine"
FLAGS = ("--ulimit=nproc=4096:4096", "--ulimit=nofile=4096:4096", "--log-driver=k8s-file")
NETWORKS = {"acme": "fdaa:0:18", "globex": "fdaa:0:19"}
HOST_BITS = "a7b:7d"


class Engine:
    """Podman in a namespace, with its service."""

    def __init__(self, folder: Path, *, networks: bool = True) -> None:
        self.folder, self.host = folder, Host("engine")
        # Not `ip netns exec`: podman keeps mounts, which must outlive the command.
        self.enter = ("nsenter", f"--net=/run/netns/{self.host.name}")
        self.store: Podman = new_store()
        configured = folder / "networks"  # else they would be the machine's, and stay
        configured.mkdir()
        where = f"--network-config-dir={configured}"
        self.store.command = (*self.enter, *self.store.command, where)
        self.socket = folder / "podman.sock"
        self.service: subprocess.Popen[bytes] | None = None
        self.run, self.inspect = self.store.run, self.store.inspect
        self._import_image()
        for name, start in NETWORKS.items() if networks else ():
            subnet = f"{start}:{HOST_BITS}::/80"
            self.run("network", "create", "--ipv6", f"--subnet={subnet}", name)

    def _import_image(self) -> None:
        binary, archive = self.folder / "machine", self.folder / "machine.tar"
        subprocess.run(
            ("musl-gcc", "-O2", "-static", "-Wall", "-o", binary, SOURCE), check=True, timeout=60
        )
        subprocess.run(
            ("tar", "-C", self.folder, "-cf", archive, "machine"), check=True, timeout=60
        )
        self.run("import", "--quiet", '--change=ENTRYPOINT ["/machine"]', str(archive), IMAGE)

    def start_service(self) -> None:
        self.service = subprocess.Popen(
            (*self.store.command, "system", "service", "--time=0", f"unix://{self.socket}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers, 20, "podman's service does not answer")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def kill_service(self) -> None:
        if self.service is not None:
            self.service.kill()
            self.service.wait(10)
            self.service = None

    def start(
        self, name: str, *words: str, network: str = "acme", app: str = "web", port: int = 80
    ) -> str:
        """Run a container in the background; return its id, twelve characters."""
        label = f"--label=internal-dns.app={app}"
        where = (f"--network={network}",) if network else ()
        made = self.run(
            "run", "--detach", f"--name={name}", *FLAGS, *where, label, *words,
            IMAGE, "serve", str(port),
        )  # fmt: skip
        return made.strip()[:12]

    def address(self, name: str, network: str = "acme") -> str:
        found: dict[str, Any] = self.inspect(name)["NetworkSettings"]["Networks"][network]
        return str(found["GlobalIPv6Address"])

    def close(self) -> None:
        self.kill_service()
        try:
            self.store.close()
        finally:
            self.host.close()


class Follower:
    """A running `internal-dns follow`."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed by close
        self.process = subprocess.Popen(
            (*PROGRAM, "follow", *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=REPOSITORY,
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()

    def stderr(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> str:
        """End it as systemd would, and see that it ends well; return its standard error."""
        self.signal(signal.SIGTERM)
        code = self.process.wait(20)
        said = self.stderr()
        self.close()
        assert code == 0, said
        assert "Traceback" not in said, said
        return said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout:
            self.process.stdout.close()
        self.errors.close()


class Site:
    """Engine, server and catalog. `follow` starts a follower of the engine."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.engine, self.catalog = engine, folder / "catalog.db"
        networks = [(int(start[7:], 16), name, "") for name, start in NETWORKS.items()]
        regions = [("iad", "", 38.9, -77.0, 0)]
        create_catalog(self.catalog, {"networks": networks, "regions": regions})
        engine.host.ip("-6 route add local fdaa::3/128 dev lo")
        self.server = Served(
            "--catalog", str(self.catalog), "--listen", "[fdaa::3]:53", "--admin", "none",
            "--upstream", "none", host=engine.host,
        )  # fmt: skip
        self.followers: list[Follower] = []
        self.clients = {}
        for name, start in NETWORKS.items():
            engine.host.ip(f"-6 addr add {start}:1:1:1:1:2/128 dev lo nodad")
            self.clients[name] = self.client(name)

    def follow(self, *words: str, name: str = "podman") -> Follower:
        made = Follower(
            "podman", str(self.engine.socket), "--catalog", str(self.catalog),
            "--name", name, "--region", "iad", *words,
        )  # fmt: skip
        self.followers.append(made)
        return made

    def rows(self) -> dict[str, tuple[str, int, str]]:
        """Return state, ready and source of each machine, by its name."""
        with closing(sqlite3.connect(f"file:{self.catalog}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT name, state, ready, source FROM machines")
            return {name: (state, ready, source) for name, state, ready, source in found}

    def client(self, network: str = "acme") -> socket.socket:
        """Return a socket of a machine of *network*."""
        return self.engine.host.socket(socket.SOCK_DGRAM, f"{NETWORKS[network]}:1:1:1:1:2")

    def answers(
        self, name: str, network: str = "acme", sock: socket.socket | None = None
    ) -> set[str]:
        """Return the addresses of a name, as a machine of *network* gets them."""
        asked = query(name)
        sock = sock or self.clients[network]
        sock.sendto(asked.to_wire(), ("fdaa::3", 53))
        while (reply := dns.message.from_wire(sock.recv(65_535))).id != asked.id:
            pass  # of an earlier query that was given up
        return set(addresses(reply))

    def cli(self, *words: str) -> Any:
        done = subprocess.run(
            (*PROGRAM, *words, "--catalog", str(self.catalog), "--json"),
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def close(self) -> None:
        for follower in self.followers:
            follower.close()
        for client in self.clients.values():
            client.close()
        self.server.kill()


@contextmanager
def site() -> Iterator[Site]:
    """An engine with its service, and a server of a new catalog."""
    with tempfile.TemporaryDirectory(prefix="internal-dns-follow-") as folder:
        engine = Engine(Path(folder))
        try:
            engine.start_service()
            made = Site(Path(folder), engine)
            try:
                yield made
            finally:
                made.close()
        finally:
            engine.close()
