"""`follow directory` and `apply` beside each other, with random edits of both; then sources that
are away.

    python -m tests.soak.beside [--seconds 60] [--away 60] [--seed 1]

A real server on loopback. A directory of real files is edited at random (rows and files come,
change and go, files are renamed, the symbolic link to the directory is swapped) while documents are
applied that change machines of their own, and, every fifth time, name a row of the source: those
must be refused. After each of them the rows without a source must be what was applied, and rows of
the source that had time to be written must be what the files say. The last edit takes away more
than half of the rows: two seconds later the answers must be right, and when the hold is over the
catalog, too.

Then a directory, a Consul API (a server of our own) and, where it is installed, PostgreSQL are all
away at once: answers stay, and the age is told. Prints one JSON object; exit 1 when anything else
was seen.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any, Final

from internal_dns.live.loop import DOUBT_SECONDS, FLAP_WINDOW, FLAPS
from internal_dns.store.generate import create_catalog
from tests import commands
from tests.container.engine import Follower
from tests.following.databases import BIN, Database, database
from tests.following.scripted import Answer, Asked, scripted
from tests.live.hosts import MAP_LOOPBACK, Served, addresses, ask, query, until
from tests.nats_servers import free_ports

SETTLED: Final = 2.0  # seconds after the last edit until answers must be right
WRITTEN: Final = 8.0  # seconds after which a row of the files must be in the catalog
PATIENCE: Final = 90.0
APPS: Final = tuple(f"app-{number}" for number in range(10))
MOST_OWN, MOST_FILED, MOST_FILES = 100, 160, 12
OWN, FILED = 2, 1  # the part of an address that says whose it is
PREFIX: Final = {whose: f"fdaa:0:18:a7b:7d:{whose}:" for whose in (OWN, FILED)}
PLANT = "own-pin-0"  # a machine of `apply` that a file names, too

Machine = dict[str, Any]
Machines = dict[str, Machine]


def address(whose: int, number: int) -> str:
    return f"fdaa:0:18:a7b:7d:{whose}:{number:x}:2"


def machine(name: str, app: str, where: str, **more: Any) -> Machine:
    return {"id": name, "app": app, "address": where, "region": "iad", "state": "started",
            "ready": True, "metadata": {"v": "0"}} | more  # fmt: skip


def document(machines: Mapping[str, Machine]) -> str:
    apps: dict[str, dict[str, list[Machine]]] = {}
    for one in machines.values():
        listed = apps.setdefault(one["app"], {"machines": []})["machines"]
        listed.append({key: value for key, value in one.items() if key != "app"})
    return json.dumps({"networks": {"acme": {"id": 24, "apps": apps}}})


def rows(catalog: Path) -> tuple[Machines, Machines]:
    """Return the machines of the catalog without a source, and those of sources."""
    sql = (
        "SELECT id, app, address, region, state, ready, source, "
        "(SELECT value FROM machine_metadata WHERE machine_id = id AND key = 'v') FROM machines"
    )
    found: tuple[Machines, Machines] = {}, {}
    with closing(sqlite3.connect(f"file:{catalog}?mode=ro", uri=True, timeout=10)) as connection:
        for name, app, where, region, state, ready, source, v in connection.execute(sql):
            found[source != ""][name] = machine(
                name, app, where, region=region, state=state, ready=bool(ready), metadata={"v": v}
            )
    return found


def vary(random: Random, one: Machine, *, ready: bool) -> Machine:
    """Return *one* with a change."""
    match random.choice(("region", "state", "metadata", "ready" if ready else "metadata")):
        case "region":
            return one | {"region": "ams" if one["region"] == "iad" else "iad"}
        case "state":
            return one | {"state": "stopped" if one["state"] == "started" else "started"}
        case "ready":
            return one | {"ready": not one["ready"]}
        case _:
            return one | {"metadata": {"v": str(int(one["metadata"]["v"]) + 1)}}


class Files:
    """The directory that is followed, and what its files say."""

    def __init__(self, folder: Path, random: Random) -> None:
        self.folder, self.random = folder, random
        self.path, self.release, self.number = folder / "current", 0, 0
        self.files: dict[str, Machines] = {}
        self.changed: dict[str, list[float]] = {}  # when, for each machine
        self.lock, self.end = threading.Lock(), threading.Event()
        self.done: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self.swap()
        while len(self.files) < 8:
            self.add_file()

    def machines(self) -> Machines:
        return {name: one for file in self.files.values() for name, one in file.items()}

    def settled(self) -> Machines:
        """Return the machines that have been what they are for long enough."""
        with self.lock:
            now = time.monotonic()
            return {
                name: one
                for name, one in self.machines().items()
                if now - self.changed[name][-1] > WRITTEN
            }

    def edit(self) -> None:
        """Edit at random until the end."""
        try:
            while not self.end.wait(self.random.uniform(0.05, 0.4)):
                (operation,) = self.random.choices(
                    ["change", "add_rows", "remove_rows", "add_file", "remove_file", "rename",
                     "swap"], [8, 4, 3, 1, 1, 2, 1],
                )  # fmt: skip
                with self.lock:
                    getattr(self, operation)()
                self.done[operation] += 1
        except BaseException as error:
            self.failure = error
            raise

    # ── operations ────────────────────────────────────────────────────────────────────────────────

    def new(self) -> Machine:
        self.number += 1
        name = f"filed-{self.number}"
        self.changed[name] = [time.monotonic()]
        return machine(name, self.random.choice(APPS), address(FILED, self.number))

    def calm(self, name: str) -> bool:
        """Whether a machine may change once more without flapping."""
        now = time.monotonic()
        return sum(now - at < 2 * FLAP_WINDOW for at in self.changed[name]) < FLAPS - 1

    def write(self, name: str) -> None:
        hidden = self.path / ".new"
        hidden.write_text(document(self.files[name]))
        hidden.replace(self.path / name)

    def a_file(self) -> str:
        return self.random.choice(sorted(self.files))

    def change(self) -> None:
        name = self.a_file()
        file = self.files[name]
        for key in self.random.sample(sorted(file), min(3, len(file))):
            if self.calm(key):
                file[key] = vary(self.random, file[key], ready=False)
                self.changed[key].append(time.monotonic())
        self.write(name)

    def add_rows(self) -> None:
        name = self.a_file()
        for _ in range(self.random.randint(1, 5)):
            if len(self.machines()) < MOST_FILED:
                one = self.new()
                self.files[name][one["id"]] = one
        self.write(name)

    def remove_rows(self) -> None:
        name = self.a_file()
        file = self.files[name]
        for key in self.random.sample(sorted(file), min(3, len(file))):
            del file[key]
        self.write(name)

    def add_file(self) -> None:
        if len(self.files) < MOST_FILES:
            made = [self.new() for _ in range(self.random.randint(5, 15))]
            name = f"f{self.number}.json"
            self.files[name] = {one["id"]: one for one in made}
            self.write(name)

    def remove_file(self) -> None:
        if len(self.files) > 4:
            name = self.a_file()
            (self.path / name).unlink()
            del self.files[name]

    def rename(self) -> None:
        name = self.a_file()
        self.number += 1
        other = f"f{self.number}.json"
        (self.path / name).rename(self.path / other)
        self.files[other] = self.files.pop(name)

    def swap(self) -> None:
        """Let the symbolic link point to a new directory with the same files, or their
        successors."""
        self.release += 1
        made = self.folder / f"release-{self.release}"
        made.mkdir()
        for name, file in self.files.items():
            (made / name).write_text(document(file))
        plant = machine(PLANT, "planted", address(FILED, 0xFFFF))
        (made / "planted.json").write_text(document({PLANT: plant}))
        (self.folder / "next").symlink_to(made.name)
        (self.folder / "next").replace(self.path)

    def lose_most(self) -> int:
        """Swap to a directory with two files, and return how many rows that takes away."""
        with self.lock:
            before = len(self.machines())
            kept = sorted(self.files, key=lambda name: len(self.files[name]))[:2]
            self.files = {name: self.files[name] for name in kept}
            self.swap()
            return before - len(self.machines())


class Applied:
    """The machines of `apply`."""

    def __init__(self, catalog: Path, files: Files, server: Served, random: Random) -> None:
        self.catalog, self.files, self.server, self.random = catalog, files, server, random
        self.document, self.number = catalog.parent / "own.json", 0
        self.done: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        # One in each app is always there, so that a machine that is not ready is never answered.
        self.machines: Machines = {}
        for app in APPS:
            self.number += 1
            name = f"own-pin-{self.number - 1}"
            self.machines[name] = machine(name, app, address(OWN, self.number))

    def apply(self, machines: Machines) -> commands.Said:
        self.document.write_text(document(machines))
        return commands.run("apply", self.document, "--catalog", self.catalog, "--wait")

    def step(self, turn: int) -> None:
        if turn % 5 == 4:
            self.trespass()
        else:
            self.change()
        self.judge()

    def change(self) -> None:
        wanted = dict(self.machines)
        loose = sorted(name for name in wanted if "pin" not in name)
        for _ in range(self.random.randint(1, 10)):
            if len(wanted) < MOST_OWN:
                self.number += 1
                name = f"own-{self.number}"
                where = address(OWN, self.number)
                wanted[name] = machine(name, self.random.choice(APPS), where)
        for name in self.random.sample(loose, min(len(loose), 8)):
            if self.random.random() < 0.5:
                del wanted[name]
            else:
                wanted[name] = vary(self.random, wanted[name], ready=True)
        said = self.apply(wanted)
        if said.code == 0:
            self.machines = wanted
            self.done["applied"] += 1
        else:
            self.wrong[f"apply: {said.err[:200]}"] += 1

    def trespass(self) -> None:
        """Apply a document that names a row of the source, by its id or by its address."""
        names = sorted(self.files.settled().items())
        if not names:
            return
        name, theirs = self.random.choice(names)
        # Two machines may have one address while one of them is not started.
        if theirs["state"] != "started" or self.random.random() < 0.5:
            wanted = self.machines | {name: theirs | {"region": "ams"}}
            words = "belongs to the live source files"
        else:
            wanted = self.machines | {"thief": machine("thief", "app-0", theirs["address"])}
            words = theirs["address"]
        if name not in self.files.settled():
            return
        said = self.apply(wanted)
        if said.code == 1 and words in said.err:
            self.done["refused"] += 1
        elif name in self.files.settled():
            self.wrong[f"trespass: exit {said.code}: {said.err[:200]}"] += 1
        else:  # the files let go of it meanwhile
            self.done["refused too late to tell"] += 1
            if said.code == 0:
                self.apply(self.machines)

    def judge(self) -> None:
        settled = self.files.settled()
        own, filed = rows(self.catalog)
        still = self.files.settled()
        for name, one in settled.items():
            if still.get(name) == one and filed.get(name) != one:
                self.wrong[f"of the source: {name}: {filed.get(name)}, files say {one}"] += 1
        self.done["rows of the source compared"] += len(settled)
        if own != self.machines:
            names = {n for n in own.keys() | self.machines if own.get(n) != self.machines.get(n)}
            self.wrong[f"of apply: {sorted(names)[:5]}"] += 1
        self.done["rows of apply compared"] += len(own)
        app = self.random.choice(APPS)
        answered = {one for one in answers(self.server, app) if one.startswith(PREFIX[OWN])}
        if answered != expected(self.machines)[app]:
            self.wrong[f"answer: {app}"] += 1
        self.done["answers compared"] += 1


def answers(server: Served, app: str) -> set[str]:
    return set(addresses(ask(server, query(f"{app}.internal", payload=8192))))


def expected(*sets: Machines) -> dict[str, set[str]]:
    """Return what must be answered, by app."""
    found: dict[str, set[str]] = {app: set() for app in APPS}
    for one in (one for machines in sets for one in machines.values()):
        if one["state"] == "started" and one["ready"]:
            found[one["app"]].add(one["address"])
    return found


@contextmanager
def serving(catalog: Path, *flags: str) -> Iterator[Served]:
    server = Served(
        "--catalog", str(catalog), "--listen", "[::1]:0", "--map-source", MAP_LOOPBACK,
        "--upstream", "none", *flags,
    )  # fmt: skip
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def following(catalog: Path, *words: object) -> Iterator[Follower]:
    follower = Follower(*map(str, words), "--catalog", str(catalog))
    try:
        yield follower
        follower.stop()
    finally:
        if follower.process.poll() is None:
            follower.close()


def beside(folder: Path, seconds: float, random: Random) -> dict[str, Any]:
    """Edit both sides for *seconds*; return what was seen."""
    catalog = folder / "catalog.db"
    regions = [("iad", "", 1.0, 1.0, 0), ("ams", "", 2.0, 2.0, 0)]
    create_catalog(catalog, {"networks": [(24, "acme", "")], "regions": regions})
    files = Files(folder, Random(random.random()))
    words = ("directory", files.path, "--name", "files")
    with serving(catalog, "--admin", "none") as server:
        applied = Applied(catalog, files, server, random)
        assert applied.apply(applied.machines).code == 0
        with following(catalog, *words):
            until(lambda: rows(catalog)[1] == files.machines(), PATIENCE)
            editing = threading.Thread(target=files.edit)
            editing.start()
            began, turn = time.monotonic(), 0
            try:
                while time.monotonic() - began < seconds and files.failure is None:
                    applied.step(turn)
                    turn += 1
                    time.sleep(0.1)
            finally:
                files.end.set()
                editing.join()
            if files.failure is not None:
                raise files.failure
            took_away = files.lose_most()
            finish = time.monotonic()
            wanted = expected(applied.machines, files.machines())
            equal_after = None
            while time.monotonic() < finish + SETTLED:
                if equal_after is None and {a: answers(server, a) for a in APPS} == wanted:
                    equal_after = round(time.monotonic() - finish, 2)
                time.sleep(0.02)
            equal = {app: answers(server, app) for app in APPS} == wanted
            own, filed = rows(catalog)
            extra = {name: one for name, one in filed.items() if name not in files.machines()}
            listed = commands.run("source", "list", "--catalog", catalog, "--json").json
            told = until(
                lambda: rows(catalog) == (applied.machines, files.machines()),
                DOUBT_SECONDS + PATIENCE,
            )
            after = {app: answers(server, app) for app in APPS} == wanted
    return {
        "seconds": seconds, "edits of files": dict(files.done), "apply": dict(applied.done),
        "wrong": dict(applied.wrong), "answers equal": equal and after,
        "answers equal after seconds": equal_after,
        "machines": {"of apply": len(own), "of files": len(files.machines())},
        "taken away at the end": took_away, "held after 2 s": len(extra),
        "held, and ready": sum(one["ready"] for one in extra.values()),
        "rows of apply equal": own == applied.machines,
        "rows equal after the hold, seconds": round(told + SETTLED, 1), "status": listed,
    }  # fmt: skip


# ── away ──────────────────────────────────────────────────────────────────────────────────────────


class Consul:
    """A scripted API with a service `consul` of machines by number, which can be closed."""

    def __init__(self) -> None:
        self.numbers, self.index = [1], 1

    def __call__(self, asked: Asked) -> Answer:
        if asked.query.get("index") == str(self.index):
            time.sleep(1)  # a blocking query whose wait has passed
        value: Any = []
        if asked.path == "/v1/catalog/services":
            value = {"consul": []}
        elif asked.path == "/v1/health/service/consul":
            value = [
                {"Node": {"Node": f"n{n}", "Address": "10.0.0.1", "Datacenter": "iad"},
                 "Service": {"ID": f"c{n}", "Service": "consul", "Address": address(3, n)},
                 "Checks": [{"Status": "passing"}]}
                for n in self.numbers
            ]  # fmt: skip
        return Answer(value, headers={"X-Consul-Index": str(self.index)})


def metrics(port: int) -> dict[tuple[str, str], float]:
    """Return `up` and `age_seconds` of each source."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    pattern = r'^internal_dns_source_(up|age_seconds)\{source="(\w+)"\} (\S+)$'
    return {(s, what): float(v) for what, s, v in re.findall(pattern, text, re.MULTILINE)}


def do(db: Database, *statements: str) -> None:
    import psycopg

    with psycopg.connect(db.address(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def away(folder: Path, seconds: float) -> dict[str, Any]:
    """Take all sources away for *seconds*; return what was told and answered."""
    catalog, directory, absent = folder / "catalog.db", folder / "files", folder / "absent"
    create_catalog(catalog, {"networks": [(24, "acme", "")], "regions": [("iad", "", 1.0, 1.0, 0)]})
    directory.mkdir()

    def write(*numbers: int) -> None:
        made = {f"d{n}": machine(f"d{n}", "directory", address(4, n)) for n in numbers}
        (directory / "a.json").write_text(document(made))

    write(1)
    (port,) = free_ports(1)
    consul, apps = Consul(), {"directory": 4, "consul": 3}
    with ExitStack() as stack, ExitStack() as closing_api:
        api = closing_api.enter_context(scripted(consul))
        server = stack.enter_context(serving(catalog, "--admin", f"127.0.0.1:{port}"))
        stack.enter_context(following(catalog, "directory", directory))
        stack.enter_context(following(catalog, "consul", api.url))
        db = None
        if find_spec("psycopg") and (BIN / "initdb").exists():
            import psycopg

            db = stack.enter_context(database())
            with psycopg.connect(
                db.address().replace("/app", "/postgres"), autocommit=True
            ) as connection:
                connection.execute("CREATE DATABASE app")
            do(db, "CREATE TABLE machines (id text, address inet)",
               f"INSERT INTO machines VALUES ('p1', '{address(5, 1)}')")  # fmt: skip
            asked = folder / "query.sql"
            asked.write_text("SELECT id, 'postgres' AS app, address, 'iad' AS region FROM machines")
            stack.enter_context(following(catalog, db.address(), "--query", asked))
            apps["postgres"] = 5

        def right(*numbers: int) -> bool:
            return all(
                answers(server, app) == {address(whose, n) for n in numbers}
                for app, whose in apps.items()
            )

        until(lambda: right(1), PATIENCE)
        until(lambda: all(metrics(port).get((app, "up")) == 1 for app in apps), PATIENCE)
        directory.rename(absent)
        closing_api.close()
        if db is not None:
            db.stop()
        began, down = time.monotonic(), dict[str, float]()
        answered: Counter[bool] = Counter()
        while True:
            told, spent = metrics(port), time.monotonic() - began
            answered[right(1)] += 1
            for app in apps:
                if told[app, "up"] == 0:
                    down.setdefault(app, round(spent, 1))
            ages = {app: round(told[app, "age_seconds"], 1) for app in apps}
            if spent > seconds and down.keys() == apps.keys() and min(ages.values()) > seconds:
                break
            if spent > seconds + PATIENCE:
                break
            time.sleep(0.1)
        spent = round(spent, 1)
        absent.rename(directory)
        write(1, 2)
        consul.numbers, consul.index = [1, 2], 2
        closing_api.enter_context(scripted(consul, port=int(api.url.rsplit(":", 1)[1])))
        if db is not None:
            db.start()
            do(db, f"INSERT INTO machines VALUES ('p2', '{address(5, 2)}')")
        back = until(lambda: right(1, 2), PATIENCE)
        until(
            lambda: (
                all(metrics(port)[app, "up"] == 1 for app in apps)
                and all(metrics(port)[app, "age_seconds"] < seconds for app in apps)
            ),
            PATIENCE,
        )
        found = {
            "away, seconds": spent, "up is 0 after seconds": down, "age at the end": ages,
            "looks with right answers": answered[True], "with wrong ones": answered[False],
            "answers right after the return, seconds": round(back, 1),
        }  # fmt: skip
        found["as it must"] = (
            not answered[False]
            and down.keys() == apps.keys()
            and min(ages.values()) > min(seconds, spent)
        )
        # The followers end before what they follow.
        stack.close()
    return found


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.soak.beside", description=__doc__)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--away", type=float, default=60)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    result: dict[str, Any] = {"seed": given.seed}
    good = True
    folder = Path(tempfile.mkdtemp(prefix="idns-beside-"))
    try:
        for part in ("beside", "away"):
            (folder / part).mkdir()
        if given.seconds:
            found = beside(folder / "beside", given.seconds, Random(given.seed))
            result["beside"] = found
            good = (
                not found["wrong"] and found["answers equal"] and found["rows of apply equal"]
                and found["held after 2 s"] > 0 and not found["held, and ready"]
                and found["apply"].get("refused", 0) > 0
            )  # fmt: skip
        if given.away:
            result["away"] = away(folder / "away", given.away)
            good = good and result["away"]["as it must"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        print(json.dumps(result, indent=1), flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
