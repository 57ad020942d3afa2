"""How long a commit holds the event loop: `python -m bench.commit_steps [--native]`.

The commit changes every app of a catalog, while the answer table holds at least one reply per app.
Prints the CPU time of the longest step of AnswerTable.steps, and their sum.
"""

from __future__ import annotations

import argparse
import gc
import time
from struct import pack
from typing import Final

from internal_dns.core.catalog import App, Catalog, Machine, Network, NetworkId
from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.metrics import Metrics
from internal_dns.transport.native.mirror import Mirror
from internal_dns.transport.table.table import AnswerTable

RULES: Final = Rules()
SERVER: Final = b"\xfd\xaa" + bytes(13) + b"\3"


def catalog(networks: int, apps: int, machines: int, revision: int) -> Catalog:
    """Return a catalog with that many networks, apps per network, and machines per app."""
    found = {}
    for number in range(1, networks + 1):
        prefix = b"\xfd\xaa" + pack("!I", number)
        by_name = {}
        for a in range(apps):
            name = b"app-%d" % a
            group = tuple(
                Machine(
                    id=b"%014x" % (a * machines + m),
                    app=name,
                    address=prefix + pack("!IHHH", a, m, revision, 2),
                    region=b"iad",
                    group=b"app",
                    state=b"started",
                )
                for m in range(machines)
            )
            by_name[name] = App(name, machines=group)
        found[NetworkId(number)] = Network(
            NetworkId(number),
            prefix,
            apps=by_name,
            revision=revision,
            since=revision - 1,
            touched=frozenset(by_name),
        )
    return Catalog(found, revision=revision)


def fill(table: AnswerTable, of: Catalog, per_network: int) -> None:
    """Put the AAAA and A replies of the first apps of each network into the answer table."""
    for network in of.networks.values():
        source = network.prefix + bytes(9) + b"\2"
        for name in list(network.apps)[:per_network]:
            for qtype in (28, 1):
                question = bytes((len(name),)) + name + b"\x08internal\0" + pack("!HH", qtype, 1)
                octets = b"\0\1\1\0\0\1\0\0\0\0\0\0" + question
                said = respond(octets, source, SERVER, of, RULES)
                assert isinstance(said, Reply)
                table.remember(said)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.commit_steps", description=__doc__)
    parser.add_argument("--native", action="store_true", help="include the native answer table")
    native = parser.parse_args().native
    gc.disable()
    for networks, apps, machines in ((1, 50_000, 2), (10_000, 5, 2), (100_000, 1, 1)):
        table = AnswerTable(RULES, mirror=Mirror(RULES, Metrics()) if native else None)
        old = catalog(networks, apps, machines, 1)
        table.change(old)
        fill(table, old, apps)
        new = catalog(networks, apps, machines, 2)
        entries, took = table.entries, list[float]()
        del old
        begin = time.thread_time()
        for _ in table.steps(new):
            now = time.thread_time()
            took.append(now - begin)
            begin = time.thread_time()
        took.append(time.thread_time() - begin)
        print(
            f"{networks} networks of {apps} apps of {machines}: "
            f"{entries} replies before, {table.entries} after; {len(took)} steps, "
            f"the longest {max(took) * 1e3:.2f} ms, in total {sum(took) * 1e3:.0f} ms"
        )


if __name__ == "__main__":
    main()
