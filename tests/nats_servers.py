"""nats-server processes for live tests, the soak and the bench: one, or a cluster of three, on
loopback."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from internal_dns.replicate.bucket import Unavailable
from internal_dns.replicate.codec import FLOOR, write_floor
from internal_dns.replicate.logic import Message
from internal_dns.replicate.nats import NatsBucket, connected
from internal_dns.replicate.publishing import find_changes
from internal_dns.replicate.publishing import write as written
from internal_dns.replicate.reading import read_all
from internal_dns.replicate.source import Source

PROGRAM = shutil.which("nats-server") or "/usr/sbin/nats-server"
T = TypeVar("T")


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class NatsServer:
    """One process; it keeps its port and its store when it is started again."""

    def __init__(
        self, folder: Path, name: str, port: int, address: str = "127.0.0.1", more: str = ""
    ) -> None:
        self.folder, self.name, self.port, self.address = folder, name, port, address
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "nats.conf"
        self.config.write_text(
            f'server_name: {name}\nlisten: "{address}:{port}"\njetstream {{ store_dir: '
            f'"{folder / "store"}" }}\n{more}'
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        outlived = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*outlived, PROGRAM, "-c", str(self.config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((self.address, self.port), 1).close()
                return
            except OSError:
                running = time.monotonic() < deadline and self.process.poll() is None
                assert running, (self.folder / "log").read_text()
                time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, frozen or not."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


@contextmanager
def nats_server(folder: Path, address: str = "127.0.0.1", more: str = "") -> Iterator[NatsServer]:
    """A single server; *more*: of its configuration."""
    server = NatsServer(folder, "single", free_ports(1)[0], address, more)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def nats_cluster(folder: Path) -> Iterator[list[NatsServer]]:
    """Three servers that have elected a leader."""
    ports = free_ports(6)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports[3:])
    servers = [
        NatsServer(
            folder / f"n{n}", f"n{n}", ports[n],
            more=f'cluster {{ name: c, listen: "127.0.0.1:{ports[3 + n]}", routes: [{routes}] }}\n',
        )
        for n in range(3)
    ]  # fmt: skip
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.stop(signal.SIGKILL)


def source(servers: NatsServer | Sequence[NatsServer], bucket: str = "catalog") -> Source:
    """The address of a bucket on these servers."""
    some = [servers] if isinstance(servers, NatsServer) else servers
    return Source.parse(
        f"nats://{','.join(f'{server.address}:{server.port}' for server in some)}/{bucket}"
    )


def using(where: Source, work: Callable[[NatsBucket], Awaitable[T]]) -> T:
    """Do something with a bucket, over a connection of its own."""

    async def session() -> T:
        async with connected(where) as bucket:
            return await work(bucket)

    return asyncio.run(session())


def patiently(where: Source, work: Callable[[NatsBucket], Awaitable[T]]) -> T:
    """Do it as soon as the cluster can: one that was just started, or has lost its leader, takes a
    while."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return using(where, work)
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)


def create(where: Source, replicas: int = 1) -> None:
    """Make the bucket."""
    patiently(where, lambda bucket: bucket.create(replicas))


def publish(where: Source, values: dict[str, bytes]) -> int:
    """Make the bucket hold exactly these values; return its revision."""

    async def work(bucket: NatsBucket) -> int:
        present = await read_all(bucket)
        return await written(bucket, present, find_changes(present, values))

    return using(where, work)


def put(where: Source, *values: tuple[str, bytes | None]) -> int:
    """Write keys, whatever they are now; return the bucket's revision."""
    return using(where, lambda bucket: bucket.write([(key, value, None) for key, value in values]))


def contents(where: Source) -> dict[str, Message]:
    return patiently(where, read_all)


def purge(where: Source, key: str, *, floor: int | None = None) -> None:
    """Let go of what *key* was, after raising the floor if one is given."""

    async def work(bucket: NatsBucket) -> None:
        if floor is not None:
            await bucket.write([(FLOOR, write_floor(floor), None)])
        message = await bucket.get(key)
        if message is not None:
            await bucket.purge(key, message.revision + 1)

    using(where, work)


def asked(where: Source, verb: str) -> dict[str, Any]:
    """Ask JetStream itself."""

    async def work(bucket: NatsBucket) -> dict[str, Any]:
        reply = await bucket.client.request(f"$JS.API.{verb}", b"", timeout=5)
        made: dict[str, Any] = json.loads(reply.data)
        return made

    return using(where, work)
