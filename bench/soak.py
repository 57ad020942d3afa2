"""`python -m bench.soak`: query names that were never queried before, and check that the
server's memory does not grow.

    names         RSS  per second
    250,000  98.1 MiB    20,000

Exit 1 if it grew by more than 320 MiB, or still grows in the second half.
"""

from __future__ import annotations

import argparse
import re
import socket
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from struct import pack
from typing import Final

from bench.machine import facts
from bench.servers import Server
from bench.tools import say
from internal_dns.store.generate import create_catalog, demo_rows

NAMES: Final = 5_000_000
BOUND: Final = 320 << 20  # the default of `answer_octets`, and what the allocator adds
# Allowance in the second half for the allocator.
FLAT: Final = 8 << 20
OUTSTANDING: Final = 200  # less than the smallest receive buffer holds
ROWS: Final = 20
# Names that do not exist: an app, a machine, an app in another zone, and an external name (refused
# without an upstream).
FORMS: Final = (
    ((b"internal",), 28),
    ((b"vm", b"web", b"internal"), 28),
    ((b"flycast",), 28),
    ((b"example", b"com"), 1),
)


def main() -> None:
    """Run the soak test, print its figures, and return the exit status."""
    words = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__.partition("\n")[0]
    )
    words.add_argument(
        "--names",
        metavar="N",
        type=int,
        default=NAMES,
        help=f"number of names [default: {NAMES:,}]",
    )
    names = words.parse_args().names
    with (
        tempfile.TemporaryDirectory(prefix="internal-dns-soak-") as folder,
        Soak(Path(folder)) as soak,
    ):
        sizes = soak.run(names)
    half = sizes[len(sizes) // 2]
    grown, late = sizes[-1] - sizes[0], max(sizes[len(sizes) // 2 :]) - half
    known = facts()
    say(f"{known['cpu']}, {known['system']}, Python {known['python']}, commit {known['commit']}")
    say(f"{names:,} names: {_mib(grown)} more than at the start, {_mib(late)} of them in the "
        f"second half; "
        f"{soak.lost:,} not answered")  # fmt: skip
    sys.exit(grown > BOUND or late > FLAT or soak.lost > names // 1_000)


class Soak:
    """A server, and a client that never repeats a query."""

    def __init__(self, folder: Path) -> None:
        catalog = folder / "catalog.db"
        create_catalog(catalog, demo_rows())
        with sqlite3.connect(catalog) as connection:
            number = connection.execute("SELECT min(id) FROM networks").fetchone()[0]
        network = f"fdaa:{number >> 16:x}:{number & 0xFFFF:x}::/48"
        self.server = Server(
            "soak",
            [
                sys.executable,
                "-m",
                "internal_dns",
                "serve",
                "--catalog",
                str(catalog),
                "--listen",
                "[::1]:0",
                "--map-source",
                f"::1/128={network}",
                "--upstream",
                "none",
                "--admin",
                "127.0.0.1:0",
            ],
            folder,
        )
        self.sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.lost = 0

    def __enter__(self) -> Soak:
        self.sock.connect(("::1", int(self.server.wait_for_line(r"udp\+tcp \S+:(\d+)")[1])))
        self.sock.settimeout(1)
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
        self.server.stop()

    def run(self, names: int) -> list[int]:
        """Send the queries; return the memory sizes along the way."""
        self._ask(0, 10_000)  # code and the first table entries belong to the baseline
        sizes, step, begin = [self.rss()], max(1, names // ROWS), time.monotonic()
        say(f"{'names':>12} {'RSS':>9} {'per second':>10}")
        for at in range(0, names, step):
            self._ask(10_000 + at, min(step, names - at))
            sizes.append(self.rss())
            done = min(names, at + step)
            say(f"{done:>12,} {_mib(sizes[-1]):>9} {done / (time.monotonic() - begin):>10,.0f}")
        return sizes

    def _ask(self, start: int, count: int) -> None:
        """Send *count* queries, OUTSTANDING at a time, and read the replies."""
        send, receive = self.sock.send, self.sock.recv
        for first in range(start, start + count, OUTSTANDING):
            last = min(start + count, first + OUTSTANDING)
            for number in range(first, last):
                send(question(number))
            for left in range(last - first, 0, -1):
                try:
                    receive(4_096)
                except TimeoutError:
                    self.lost += left
                    break

    def rss(self) -> int:
        """The resident memory of the server, in octets."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found, status
        return int(found[1]) << 10


def question(number: int) -> bytes:
    """Return the query for the *number*-th name."""
    labels, qtype = FORMS[number % len(FORMS)]
    octets = b"".join(
        pack("!B", len(label)) + label for label in (b"n%x" % (number * 2_654_435_761), *labels)
    )
    return pack("!6H", number & 0xFFFF, 0x0100, 1, 0, 0, 0) + octets + b"\0" + pack("!2H", qtype, 1)


def _mib(octets: int) -> str:
    return f"{octets / (1 << 20):.1f} MiB"


if __name__ == "__main__":
    main()
