"""Network namespaces with addresses of several networks and no way outside."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from bench.tools import Missing, program, say

CLONE_NEWNET: Final = 0x40000000
SERVER: Final = "fdaa::3"
NAMESPACES: Final = Path("/var/run/netns")
NAMED: Final = "idns-bench-"

_libc = ctypes.CDLL(None, use_errno=True)


def source(network: int) -> str:
    """Return a source address in *network*, a number such as 0x18."""
    return f"fdaa:0:{network:x}::a"


class Client(NamedTuple):
    """A client of the measured server: the network that it asks as, and where it runs."""

    network: int
    source: str
    host: str  # the server's address for it
    namespace: str = ""

    def within(self) -> tuple[str, ...]:
        """Return the command prefix that runs a program in its namespace."""
        return ("ip", "netns", "exec", self.namespace) if self.namespace else ()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run the body with this thread in its namespace."""
        if not self.namespace:
            yield
            return
        with _returning(), (NAMESPACES / self.namespace).open() as there:
            _enter(there.fileno())
            yield


class Network(NamedTuple):
    """The network of a benchmark: where the server listens, and its clients."""

    server: str
    clients: tuple[Client, ...]
    server_words: tuple[str, ...] = ()


@contextmanager
def own_network(networks: list[int]) -> Iterator[None]:
    """Run the body and its children in a new namespace with SERVER and one source per network.

    Raises Missing.
    """
    ip = program("ip", "iproute2")
    with _returning():
        if _libc.unshare(CLONE_NEWNET):
            raise Missing(
                f"no network namespace of our own: {os.strerror(ctypes.get_errno())}; run as root"
            )
        subprocess.run([ip, "link", "set", "lo", "up"], check=True)
        for address in (SERVER, *map(source, networks)):
            subprocess.run(
                [ip, "-6", "address", "add", f"{address}/128", "dev", "lo", "nodad"], check=True
            )
        yield


@contextmanager
def separate_hosts(networks: list[int]) -> Iterator[Network]:
    """Run the body in a new namespace, the server's, with one more namespace per client.

        server                      one per client
        SERVER    fe80::1 ── veth ── fe80::2   an address of the client's network

    The namespaces of the clients are called `idns-bench-<pid>-<network>`. They are removed at the
    end; those of a run that was killed are removed by the next one. Raises Missing.
    """
    program("ip", "iproute2")
    remove_left_over()
    with own_network([]):
        clients = [
            Client(number, source(number), SERVER, f"{NAMED}{os.getpid()}-{number:x}")
            for number in networks
        ]
        try:
            for client in clients:
                _connect(client)
            yield Network(SERVER, tuple(clients))
        finally:
            for client in clients:
                if (NAMESPACES / client.namespace).exists():
                    _ip("netns", "del", client.namespace)


@contextmanager
def one_host(networks: list[int]) -> Iterator[Network]:
    """Run the body where we are: the clients are addresses of 127.0.0.0/8, each mapped to its
    network. Needs no root."""
    sources = [f"127.0.0.{10 + place}" for place in range(len(networks))]
    words = [
        word
        for number, address in zip(networks, sources, strict=True)
        for word in ("--map-source", f"{address}/32=fdaa:0:{number:x}::/48")
    ]
    clients = [
        Client(number, f"::ffff:{address}", "::ffff:127.0.0.3")
        for number, address in zip(networks, sources, strict=True)
    ]
    yield Network("127.0.0.3", tuple(clients), tuple(words))


@contextmanager
def tenants(networks: list[int]) -> Iterator[Network]:
    """Run the body with separate hosts if possible, else on one host, and say which."""
    with separate_hosts(networks) if _can_separate() else one_host(networks) as network:
        say(
            "  server, attacker and neighbor: a network namespace each, joined by veth"
            if network.clients[0].namespace
            else "  server, attacker and neighbor share one network namespace, over its loopback:"
            " separate ones need root and ip netns"
        )
        yield network


def remove_left_over() -> None:
    """Remove the namespaces of earlier runs that were killed."""
    for path in NAMESPACES.glob(f"{NAMED}*"):
        if not Path("/proc", path.name.removeprefix(NAMED).partition("-")[0]).exists():
            _ip("netns", "del", path.name)


def _can_separate() -> bool:
    """Whether this process may make named namespaces joined by veth: it tries."""
    try:
        with separate_hosts([0x18]):
            return True
    except (Missing, OSError):
        return False


def _connect(client: Client) -> None:
    """Make the namespace of *client* and a veth pair between it and the present namespace."""
    name, link = client.namespace, f"to-{client.network:x}"
    _ip("netns", "add", name)
    _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
    for where, device, address in (((), link, "fe80::1"), (("-n", name), "eth0", "fe80::2")):
        _ip(*where, "-6", "address", "add", f"{address}/64", "dev", device, "nodad")
        _ip(*where, "link", "set", device, "up")
    _ip("-n", name, "link", "set", "lo", "up")
    _ip("-n", name, "-6", "address", "add", f"{client.source}/128", "dev", "eth0", "nodad")
    _ip("-n", name, "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0",
        "src", client.source)  # fmt: skip
    _ip("-6", "route", "add", f"{client.source}/128", "via", "fe80::2", "dev", link)


def _ip(*words: str) -> None:
    """Run one `ip` command. Raises Missing."""
    done = subprocess.run(
        [program("ip", "iproute2"), *words], capture_output=True, text=True, check=False, timeout=20
    )
    if done.returncode:
        raise Missing(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def _returning() -> Iterator[None]:
    """Bring this thread back to its namespace after the body."""
    with open("/proc/thread-self/ns/net") as before:
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")


def kernel_drops() -> dict[str, int]:
    """Return the datagrams dropped in full socket buffers of this namespace, and in full backlog
    queues of the machine."""
    buffers = 0
    for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines():
        if line.startswith("Udp6RcvbufErrors"):
            buffers = int(line.split()[1])
    backlog = sum(
        int(line.split()[1], 16) for line in Path("/proc/net/softnet_stat").read_text().splitlines()
    )
    return {"socket_drops": buffers, "backlog_drops": backlog}
