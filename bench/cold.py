"""CPU per query in process, without a socket: computing the first reply, and repeating it.

The queries are encoded in advance, each from a machine in the network it is about. Indexes are warm
unless the case says otherwise: every query is sent once before the clock starts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import IPv6Address
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bench.machine import SERVER_CORE
from bench.results import Case
from bench.tools import say
from bench.zones import SEED, query
from internal_dns.core.catalog import Catalog, Machine, Network
from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.metrics import Metrics
from internal_dns.store.generate import create_catalog, sized_rows
from internal_dns.store.sqlite import load
from internal_dns.transport.answer import Exchange
from internal_dns.transport.table.table import AnswerTable

ROUNDS = 5
MACHINES = 30_000  # 100 networks of 100 apps of 3 machines
RULES = Rules(region=b"iad")
SERVER = IPv6Address("fdaa::3").packed


class Asked(NamedTuple):
    """A query and its source."""

    octets: bytes
    source: bytes


class Name(NamedTuple):
    """A kind of name: its form for one app and machine, its type, and the RCODE of the reply."""

    words: str
    make: Callable[[Network, str, Machine], str]
    type: str = "AAAA"
    rcode: int = 0


NAMES = (
    Name("<app>.internal", lambda n, app, m: f"{app}.internal"),
    Name("<region>.<app>.internal", lambda n, app, m: f"{m.region.decode()}.{app}.internal"),
    Name("top3.nearest.of.<app>.internal", lambda n, app, m: f"top3.nearest.of.{app}.internal"),
    Name("<id>.vm.<app>.internal", lambda n, app, m: f"{m.id.decode()}.vm.{app}.internal"),
    Name(
        "<group>.process.<app>.internal",
        lambda n, app, m: f"{m.group.decode()}.process.{app}.internal",
    ),
    Name(
        "leader.role.kv._metadata.<app>.internal",
        lambda n, app, m: f"leader.role.kv._metadata.{app}.internal",
    ),
    Name("TXT regions.<app>.internal", lambda n, app, m: f"regions.{app}.internal", "TXT"),
    Name("TXT vms.<app>.internal", lambda n, app, m: f"vms.{app}.internal", "TXT"),
    Name("TXT _instances.<app>.internal", lambda n, app, m: f"_instances.{app}.internal", "TXT"),
    Name("PTR of a machine", lambda n, app, m: IPv6Address(m.address).reverse_pointer, "PTR"),
    Name("SRV _http._tcp.<app>.internal", lambda n, app, m: f"_http._tcp.{app}.internal", "SRV"),
    Name("NXDOMAIN", lambda n, app, m: f"no-{app}.internal", rcode=3),
    Name("NODATA (A of an app)", lambda n, app, m: f"{app}.internal", "A"),
    Name("TXT _whoami.internal", lambda n, app, m: "_whoami.internal", "TXT"),
)


def run(directory: Path, *, questions: int) -> list[Case]:
    """Measure *questions* distinct queries of each kind, ROUNDS times, on the server's core."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    try:
        return _run(directory / "cold.db", questions)
    finally:
        os.sched_setaffinity(0, everywhere)


def _run(path: Path, questions: int) -> list[Case]:
    create_catalog(path, sized_rows(MACHINES, SEED, started=1), replace=True)
    catalog = load(path).catalog
    cases = []
    for name in NAMES:
        asked = asked_of(catalog, name, questions)
        _check(asked, catalog, name)
        cases.append(_case(name.words, partial(_respond, asked, catalog)))
    whole = [
        Asked(query("_apps.internal", "TXT"), _asker(network))
        for network in catalog.networks.values()
    ]
    _check(whole, catalog, Name("_apps", lambda n, app, m: "", "TXT"), stream=True)
    cases.append(
        _case(
            "TXT _apps.internal, 100 apps, over TCP", lambda: _respond(whole, catalog, stream=True)
        )
    )
    asked = asked_of(catalog, NAMES[0], questions)
    cases.append(
        _case(
            "<app>.internal, first question of an app", lambda: _respond(asked, load(path).catalog)
        )
    )
    reverse = asked_of(catalog, next(name for name in NAMES if name.type == "PTR"), 30_000)
    firsts = list(
        {question.source[:6]: question for question in reverse}.values()
    )  # one per network
    cases.append(
        _case(
            "PTR, first of a network of 300 machines", lambda: _respond(firsts, load(path).catalog)
        )
    )
    cases.append(
        _case("<app>.internal, whole exchange, not in the table", lambda: _exchange(asked, catalog))
    )
    table = AnswerTable(RULES)
    table.change(catalog)
    for question in asked:
        said = respond(question.octets, question.source, SERVER, catalog, RULES)
        assert isinstance(said, Reply)
        table.remember(said)
    cases.append(_case("<app>.internal, repeated by the table", lambda: _repeat(asked, table)))
    return cases


def _case(words: str, measured: Callable[[], dict[str, Any]]) -> Case:
    case = Case("cold", words, [measured() for _ in range(ROUNDS)])
    spread = case.spread("cpu_us")
    say(f"  cold {words}: {spread[0]:.2f} µs" if spread else f"  cold {words}: {case.remark}")
    return case


def asked_of(catalog: Catalog, name: Name, count: int) -> list[Asked]:
    """Return *count* distinct queries of this kind, each from a machine of the app."""

    def every() -> Iterable[Asked]:
        for network in catalog.networks.values():
            for app in network.apps.values():
                leader = next((m for m in app.machines if m.metadata), None)
                if leader is None or (name.type == "SRV" and not leader.services):
                    continue
                octets = query(name.make(network, app.name.decode(), leader), name.type)
                yield Asked(octets, leader.address)

    return list(islice(every(), count))


def _asker(network: Network) -> bytes:
    return next(machine.address for app in network.apps.values() for machine in app.machines)


def _check(asked: Sequence[Asked], catalog: Catalog, name: Name, *, stream: bool = False) -> None:
    """Send every query once. This warms the indexes and checks the RCODEs."""
    for question in asked:
        said = respond(question.octets, question.source, SERVER, catalog, RULES, stream=stream)
        answers = int.from_bytes(said.octets[6:8], "big") if isinstance(said, Reply) else 0
        good = isinstance(said, Reply) and said.rcode == name.rcode
        if not good or bool(answers) != (name.rcode == 0 and name.type != "A"):
            raise RuntimeError(f"{name.words}: {question.octets!r} was answered {said!r}")


# In each of these, only the loop runs between the two clock readings.


def _respond(asked: Sequence[Asked], catalog: Catalog, *, stream: bool = False) -> dict[str, Any]:
    started = time.process_time()
    for rotation, (octets, source) in enumerate(asked):
        respond(octets, source, SERVER, catalog, RULES, rotation=rotation, stream=stream)
    return _told(time.process_time() - started, len(asked))


def _exchange(asked: Sequence[Asked], catalog: Catalog) -> dict[str, Any]:
    exchange = Exchange(RULES, Metrics())
    exchange.use(catalog)
    started = time.process_time()
    for octets, source in asked:
        exchange.handle(octets, source, SERVER, 40_000)
    return _told(time.process_time() - started, len(asked))


def _repeat(asked: Sequence[Asked], table: AnswerTable) -> dict[str, Any]:
    before, started = table.hits, time.process_time()
    for rotation, (octets, source) in enumerate(asked):
        table.repeat(octets, source, SERVER, rotation)
    told = _told(time.process_time() - started, len(asked))
    return told | {
        "void": ""
        if table.hits - before == len(asked)
        else "not every query was in the answer table"
    }


def _told(seconds: float, count: int) -> dict[str, Any]:
    return {"questions": count, "cpu_us": seconds / count * 1e6}
