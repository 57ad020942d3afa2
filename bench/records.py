"""What a network's own records cost: `python -m bench.records [--records N]`.

Loads a catalog with N records in one network and as many apps as the demo has; prints load time,
memory, the time to read one changed record, and CPU per query, first and repeated, beside an app's.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.cold import RULES, SERVER
from bench.zones import query
from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.journey import Reply, respond
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import Reader
from internal_dns.transport.table.table import AnswerTable

ROUNDS: Final = 7
QUERIES: Final = 3_000
ACME: Final = NetworkId(24)
SOURCE: Final = bytes.fromhex("fdaa00000018") + bytes(9) + b"\2"


def rows(count: int) -> Iterator[tuple[Any, ...]]:
    """Yield *count* records: of ten, five addresses, two aliases, and a TXT, an SRV and an MX."""
    kinds: tuple[Callable[[int], tuple[str, str]], ...] = (
        *(lambda n: ("A", f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"),) * 3,
        *(lambda n: ("AAAA", f"fdaa:0:18::{n >> 16:x}:{n & 0xFFFF:x}"),) * 2,
        *(lambda n: ("CNAME", "web.internal"),) * 2,
        lambda n: ("TXT", f'"v=spf1 include:h{n}.example -all"'),
        lambda n: ("SRV", f"0 5 {n % 65_535} h{n}.corp.example"),
        lambda n: ("MX", f"10 mail{n % 7}.corp.example"),
    )
    for number in range(count):
        rtype, value = kinds[number % 10](number)
        yield (
            ACME,
            f"h{number}.{'corp.example' if number % 2 else 'hosts.internal'}",
            rtype,
            value,
            60,
        )


def resident() -> float:
    """Return the resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


NAMES: Final = {
    "an app's AAAA": ("web.internal", "AAAA"),
    "a record's A": ("h0.hosts.internal", "A"),
    "an A in a zone": ("h1.corp.example", "A"),
    "an A of a wildcard": ("x.wild.corp.example", "A"),
    "CNAME to an app, AAAA": ("to.internal", "AAAA"),
    "ALIAS of an app, AAAA": ("as.internal", "AAAA"),
    "eight CNAMEs to an app": ("c8.internal", "AAAA"),
    "NXDOMAIN of an app": ("nosuch.internal", "AAAA"),
    "NXDOMAIN in a zone": ("nosuch.corp.example", "AAAA"),
}


def microseconds(work: Callable[[], object], times: int) -> float:
    """Return the CPU time of *work*, which does *times* things, per thing: the median of ROUNDS."""
    taken = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        taken.append((time.process_time() - begin) / times * 1e6)
    return median(taken)


def first(octets: bytes, catalog: Catalog) -> float:
    def work() -> None:
        for rotation in range(QUERIES):
            respond(octets, SOURCE, SERVER, catalog, RULES, rotation=rotation)

    return microseconds(work, QUERIES)


def repeated(octets: bytes, table: AnswerTable) -> float:
    def work() -> None:
        for rotation in range(QUERIES):
            assert table.repeat(octets, SOURCE, SERVER, rotation) is not None

    return microseconds(work, QUERIES)


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m bench.records", description=__doc__)
    words.add_argument("--records", type=int, default=100_000)
    count = words.parse_args().records
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "catalog.db")
        create_catalog(path, demo_rows())
        put = "INSERT INTO records VALUES (?, ?, ?, ?, ?)"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("INSERT INTO zones VALUES (24, 'corp.example')")
            aliases = [
                (f"c{n}.internal", f"c{n - 1}.internal" if n > 1 else "web.internal")
                for n in range(1, 9)
            ]
            connection.executemany(put, [
                (ACME, "*.wild.corp.example", "A", "10.0.0.1", 5), (ACME, "to.internal", "CNAME", "web.internal", 5),
                (ACME, "as.internal", "ALIAS", "web.internal", 5),
                *((ACME, name, "CNAME", to, 5) for name, to in aliases),
            ])  # fmt: skip
            connection.commit()
        with Reader(path) as reader:
            before = reader.read()
        with closing(sqlite3.connect(path)) as connection:
            connection.executemany(put, rows(count))
            connection.commit()
        start, memory = time.perf_counter(), resident()
        with Reader(path) as reader:
            loaded = reader.read()
            took, more = time.perf_counter() - start, resident() - memory
            assert loaded.fault_count == 0 and before.fault_count == 0  # noqa: PT018
            print(
                f"{count:,} records: loaded in {took:.2f} s, {more:.0f} MiB more, of Python {sys.version.split()[0]}"
            )
            changes = []
            for number in range(ROUNDS):
                with closing(sqlite3.connect(path)) as connection:
                    connection.execute(
                        "UPDATE records SET ttl = ? WHERE name = 'h0.hosts.internal'", (number,)
                    )
                    connection.commit()
                start = time.perf_counter()
                loaded = reader.update(loaded)
                changes.append((time.perf_counter() - start) * 1e3)
            print(f"one changed record: read in {median(changes):.1f} ms")
        catalog = loaded.catalog
        table = AnswerTable(RULES)
        table.change(catalog)
        for title, (name, rtype) in NAMES.items():
            octets = query(name, rtype)
            said = respond(octets, SOURCE, SERVER, catalog, RULES)
            assert isinstance(said, Reply), title
            table.remember(said)
            cold, again = first(octets, catalog), repeated(octets, table)
            print(f"{title:24} first {cold:6.1f} µs   repeated {again:5.2f} µs")


if __name__ == "__main__":
    main()
