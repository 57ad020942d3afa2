"""A separate network namespace with addresses of several networks and no way outside."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.tools import Missing, program

CLONE_NEWNET: Final = 0x40000000
SERVER: Final = "fdaa::3"


def source(network: int) -> str:
    """Return a source address in *network*, a number such as 0x18."""
    return f"fdaa:0:{network:x}::a"


@contextmanager
def own_network(networks: list[int]) -> Iterator[None]:
    """Run the body and its children in a new namespace with SERVER and one source per network.

    Raises Missing.
    """
    ip, libc = program("ip", "iproute2"), ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(CLONE_NEWNET):
            raise Missing(
                f"no network namespace of our own: {os.strerror(ctypes.get_errno())}; run as root"
            )
        try:
            subprocess.run([ip, "link", "set", "lo", "up"], check=True)
            for address in (SERVER, *map(source, networks)):
                subprocess.run(
                    [ip, "-6", "address", "add", f"{address}/128", "dev", "lo", "nodad"], check=True
                )
            yield
        finally:
            if libc.setns(before, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot return to the host's network namespace")
    finally:
        os.close(before)


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
