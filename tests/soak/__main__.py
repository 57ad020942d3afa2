"""`make soak`: random writes, kills, freezes and purges for ten minutes; then the file and the
bucket must have the same rows.

Two hosts follow one bucket. One is never killed and must answer every query; the other is killed
repeatedly. The seed determines the operations and their order, but not their timing.
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random

from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.replicate.codec import (
    FLOOR,
    InvalidEntry,
    bucket_key,
    file_values,
    read_key,
    read_value,
)
from internal_dns.replicate.logic import Message
from internal_dns.replicate.publishing import find_changes
from internal_dns.replicate.source import Source
from internal_dns.store.rows import Values
from internal_dns.store.sqlite import connect
from tests import nats_servers
from tests.live.hosts import Served, addresses, ask
from tests.nats_servers import NatsServer, contents, create, nats_server, publish, purge, put
from tests.replicate.values import machine, network

MACHINES = 3_000
STATES = ("started", "started", "stopped", "suspended", "destroyed")
CAUGHT_UP = 90.0  # seconds: the longest wait to reconnect is 30, and this machine may be busy
# The operations with their relative frequencies.
OPERATIONS = {
    "write": 60, "burst": 8, "delete": 20, "bad value": 6,
    "purge above the floor": 3, "purge without a floor": 1, "kill the follower": 3,
    "freeze the server": 1, "restart the server": 2, "kill the server": 1, "recreate": 1,
}  # fmt: skip


class Soak:
    """One run."""

    def __init__(self, folder: Path, seed: int, server: NatsServer) -> None:
        self.folder, self.random, self.server = folder, Random(seed), server
        self.source: Source = nats_servers.source(server)
        self.wanted: dict[str, bytes] = {}
        self.bad: set[str] = set()
        self.done: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.slowest = 0.0
        self.end = threading.Event()
        self.hosts: dict[str, Served] = {}

    def path(self, name: str) -> Path:
        return self.folder / name / "catalog.db"

    def begin(self) -> None:
        """Fill the bucket and start both hosts."""
        create(self.source)
        self.wanted = dict([network(), *(machine(f"m{n}", n + 1) for n in range(MACHINES))])
        self.wanted |= dict([machine("fixed", 0xFFFF, app="fixed")])
        publish(self.source, self.wanted)
        for name in ("steady", "killed"):
            self.path(name).parent.mkdir()
            self.serve(name)
            self.caught_up(name)

    def serve(self, name: str) -> None:
        self.hosts[name] = Served(
            "--catalog",
            str(self.path(name)),
            "--listen",
            "[::1]:0",
            "--map-source",
            "::1/128=fdaa:0:18::/48",
            "--upstream",
            "none",
            "--admin",
            "none",
            "--source",
            str(self.source),
            "--host-name",
            name,
        )

    def asking(self) -> None:
        """Query the steady host for a machine that never changes."""
        while not self.end.is_set():
            began = time.monotonic()
            try:
                found = addresses(ask(self.hosts["steady"], "fixed.internal", timeout=5))
                self.answers[
                    "right" if found == ["fdaa:0:18:a7b:7d:1:ffff:2"] else f"wrong: {found}"
                ] += 1
            except (TimeoutError, OSError) as error:
                self.answers[type(error).__name__] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            time.sleep(0.01)

    def step(self) -> None:
        (operation,) = self.random.choices(list(OPERATIONS), list(OPERATIONS.values()))
        getattr(self, operation.replace(" ", "_"))()
        self.done[operation] += 1

    # ── operations ──────────────────────────────────────────────────────────────────────────────

    def a_machine(self) -> tuple[str, bytes]:
        n = self.random.randrange(MACHINES)
        more = (
            {"metadata": {"role": self.random.choice("abc")}} if self.random.random() < 0.3 else {}
        )
        return machine(
            f"m{n}", n + 1, state=self.random.choice(STATES), app=f"app-{n % 50}", **more
        )

    def keep(self, *values: tuple[str, bytes]) -> None:
        put(self.source, *values)
        self.wanted |= dict(values)
        self.bad -= dict(values).keys()

    def write(self) -> None:
        self.keep(self.a_machine())

    def burst(self) -> None:
        self.keep(*dict(self.a_machine() for _ in range(500)).items())

    def some(self) -> list[str]:
        keys = [key for key in self.wanted if key != machine("fixed")[0] and key not in self.bad]
        return self.random.sample(keys, min(self.random.randint(1, 20), len(keys)))

    def delete(self) -> None:
        keys = self.some()
        put(self.source, *((key, None) for key in keys))
        for key in keys:
            del self.wanted[key]

    def bad_value(self) -> None:
        key = self.random.choice(
            ["nonsense", bucket_key("machines", (f"bad{self.random.randrange(50)}",))]
        )
        put(self.source, (key, self.random.choice([b"", b"{}", b'{"version": 2}', b"\xff" * 40])))
        self.bad.add(key)

    def purge_above_the_floor(self) -> None:
        self.delete()
        gone = {
            key: message for key, message in contents(self.source).items() if message.value is None
        }
        floor = max(message.revision for message in gone.values())
        for key in gone:
            purge(self.source, key, floor=floor)

    def purge_without_a_floor(self) -> None:
        key = self.some()[0]
        purge(self.source, key)
        del self.wanted[key]

    def kill_the_follower(self) -> None:
        self.hosts["killed"].process.send_signal(signal.SIGKILL)
        self.hosts["killed"].process.wait(10)
        self.hosts["killed"].kill()
        for _ in range(self.random.randint(1, 5)):
            self.burst()
        self.serve("killed")

    def freeze_the_server(self) -> None:
        self.server.send(signal.SIGSTOP)
        time.sleep(self.random.choice([2, 8]))
        self.server.send(signal.SIGCONT)

    def restart_the_server(self) -> None:
        self.server.stop()
        self.server.start()

    def kill_the_server(self) -> None:
        self.server.stop(signal.SIGKILL)
        self.server.start()

    def recreate(self) -> None:
        nats_servers.asked(self.source, "STREAM.DELETE.KV_catalog")
        create(self.source)
        self.bad.clear()
        publish(self.source, self.wanted)

    # ── checks ──────────────────────────────────────────────────────────────────────────────

    def differences(self, name: str, present: dict[str, Message]) -> list[str]:
        """Compare the rows of the file with those of the bucket, in both directions."""
        values, good = Values(CatalogRules(hidden=())), dict[str, bytes]()
        for key, message in present.items():
            try:
                if key == FLOOR or message.value is None:
                    continue
                read_value(read_key(key), message.value, values)
                good[key] = message.value
            except InvalidEntry:
                continue
        with closing(connect(self.path(name))) as connection:
            here = {key: value for _, key, value in file_values(connection)}
        as_messages = {key: Message(key, 1, value) for key, value in here.items()}
        found = find_changes(as_messages, good)
        return [key for key, _, _ in (*found.puts, *found.deletes)]

    def caught_up(self, name: str) -> float:
        """Wait until the file has the bucket's last revision; return the seconds."""
        began, last = (
            time.monotonic(),
            nats_servers.using(self.source, lambda bucket: bucket.facts()).last,
        )
        while time.monotonic() - began < CAUGHT_UP:
            try:
                with closing(
                    sqlite3.connect(f"file:{self.path(name)}?mode=ro", uri=True)
                ) as connection:
                    stream = connection.execute("SELECT revision FROM replica").fetchone()
                    if stream and stream[0] == last:
                        return time.monotonic() - began
            except sqlite3.Error:
                pass
            time.sleep(0.1)
        raise AssertionError(
            f"{name} has not caught up in {CAUGHT_UP} s: {self.hosts[name].stderr()[-2000:]}"
        )

    def judged(self) -> int:
        """Wait until both hosts are up to date; return how many rows differ."""
        # A host detects keys purged without a floor when it compares numbers: with its next
        # consumer, or after a minute.
        self.restart_the_server()
        found = 0
        for name in self.hosts:
            took = self.caught_up(name)
            present, deadline = contents(self.source), time.monotonic() + CAUGHT_UP
            while (differing := self.differences(name, present)) and time.monotonic() < deadline:
                time.sleep(0.5)
            found += len(differing)
            print(
                f"{name}: caught up in {took:.1f} s, {len(differing)} differences {differing[:5]}",
                flush=True,
            )
        bucket = {k for k, m in present.items() if m.value is not None and k != FLOOR} - self.bad
        if bucket != self.wanted.keys():
            print(
                f"the bucket lacks or has too many keys: {sorted(bucket ^ self.wanted.keys())[:5]}"
            )
            found += len(bucket ^ self.wanted.keys())
        return found


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    words.add_argument("--seconds", type=float, default=600)
    words.add_argument("--seed", type=int, default=1)
    given = words.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="idns-soak-") as folder,
        nats_server(Path(folder) / "nats") as server,
    ):
        soak = Soak(Path(folder), given.seed, server)
        try:
            soak.begin()
            asking = threading.Thread(target=soak.asking)
            asking.start()
            began, differences = time.monotonic(), 0
            while time.monotonic() - began < given.seconds:
                for _ in range(200):
                    soak.step()
                    if time.monotonic() - began > given.seconds:
                        break
                differences += soak.judged()
            soak.end.set()
            asking.join(10)
        finally:
            soak.end.set()
            for host in soak.hosts.values():
                host.kill()
    result = {
        "seed": given.seed, "seconds": round(time.monotonic() - began), "done": dict(soak.done),
        "differences": differences, "answers": dict(soak.answers),
        "slowest answer, ms": round(soak.slowest * 1e3),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    sys.exit(0 if differences == 0 and soak.answers.keys() == {"right"} else 1)


if __name__ == "__main__":
    main()
