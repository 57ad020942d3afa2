"""CPU per question by form of a name, in networks of 200 to 50,000 machines: first and warm.

Half of the machines are in one app, the others in apps of three. `first` is the first query to a
new catalog; `warm` is the median of many, each with another rotation.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.machine import SERVER_CORE
from bench.results import Case
from bench.tools import say
from bench.zones import query
from internal_dns.core.catalog import Catalog, Network
from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.store.generate import create_catalog
from internal_dns.store.sqlite import load

SIZES = (200, 4_000, 50_000)
WARM = 100
RULES = Rules(region=b"ams")
SERVER = IPv6Address("fdaa::3").packed
REGIONS = {
    "ams": (52.3, 4.9),
    "fra": (50.1, 8.7),
    "iad": (39.0, -77.5),
    "lax": (33.9, -118.4),
    "nrt": (35.7, 140.4),
    "xyz": (None, None),
    "zzz": (None, None),
}
EDNS = b"\0\0\x29\x20\0\0\0\0\0\0\0"  # an OPT record with a UDP size of 8192 octets

# {m} is a machine of `big`; {last} is the last page of its list.
FORMS = """
AAAA big.internal                           AAAA ams.big.internal
AAAA app.process.big.internal               AAAA worker.process.big.internal
AAAA iad.worker.process.big.internal        AAAA {m}.vm.big.internal
AAAA leader.role.kv._metadata.big.internal  AAAA role.kv._metadata.big.internal
AAAA nosuch.role.kv._metadata.big.internal  AAAA {m}.serial.kv._metadata.big.internal
AAAA top3.nearest.of.big.internal           AAAA top99999.nearest.of.big.internal
AAAA top3.nearest.of.worker.process.big.internal
TXT top3.nearest.of.big.internal            TXT top99999.nearest.of.big.internal
TXT regions.big.internal                    TXT all.regions.big.internal
TXT vms.big.internal                        TXT all.vms.big.internal
TXT all.vms.worker.process.big.internal     TXT _instances.big.internal
TXT all._instances.big.internal             TXT _instances.internal
TXT all._instances.internal                 TXT _apps.internal
TXT _peer.internal                          AAAA peer-7._peer.internal
SRV _http._tcp.big.internal                 AAAA big.flycast
PTR {reverse}                               PTR {ancestor}
AAAA 1._page.big.internal                   AAAA 1000._page.big.internal
AAAA 2._page.role.kv._metadata.big.internal TXT 3._page.vms.big.internal
TXT 1._page._instances.internal             TXT {last}._page._instances.internal
TXT 1000._page._instances.internal          TXT 1._page._apps.internal
TXT _whoami.internal                        AAAA nosuch.internal
A big.internal                              AAAA stopped.internal
AAAA vm.big.internal                        AAAA web-7.internal
TXT _instances.web-7.internal               SRV _http._tcp.web-7.internal
"""


class Question(NamedTuple):
    """A name form with an encoded query: over UDP with EDNS, over TCP without."""

    words: str
    octets: bytes
    stream: bool


def run(directory: Path) -> list[Case]:
    """Measure each form at each size, over UDP and TCP, on the server's core."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    try:
        return [case for size in SIZES for case in _of_size(directory / f"forms-{size}.db", size)]
    finally:
        os.sched_setaffinity(0, everywhere)


def _of_size(path: Path, size: int) -> Iterator[Case]:
    create_catalog(path, rows(size), replace=True)
    catalog = load(path).catalog
    (network,) = catalog.networks.values()
    machines = network.apps[b"big"].machines
    asker = machines[len(machines) // 2].address
    for question in _questions(network, machines[7].id.decode(), machines[9].address, size):
        where = "TCP" if question.stream else "UDP"
        case = Case("forms", f"{question.words} · {size:,} machines · {where}")
        first = _seconds(question, asker, load(path).catalog, 0)
        for rotation in range(3):
            _seconds(question, asker, catalog, rotation)
        warm = [_seconds(question, asker, catalog, rotation * 7_919) for rotation in range(WARM)]
        case.repetitions.append({
            "first_us": first * 1e6, "cpu_us": median(warm) * 1e6, "void": "",
        })  # fmt: skip
        say(f"  {case.name}: first {first * 1e6:,.0f} µs, warm {median(warm) * 1e6:,.1f} µs")
        yield case


def _questions(network: Network, ident: str, address: bytes, size: int) -> Iterator[Question]:
    pointer = IPv6Address(address).reverse_pointer
    words = FORMS.split()
    for qtype, form in zip(words[::2], words[1::2], strict=True):
        name = form.format(
            m=ident,
            reverse=pointer,
            ancestor=pointer.split(".", 8)[-1],
            last=-(-size * 9 // 10 // 250),
        )
        octets = query(name, qtype)
        for stream in (False, True):
            sent = octets if stream else octets[:11] + b"\1" + octets[12:] + EDNS
            yield Question(f"{qtype} {form}", sent, stream)


def _seconds(question: Question, source: bytes, catalog: Catalog, rotation: int) -> float:
    gc.disable()
    started = time.process_time()
    said = respond(
        question.octets, source, SERVER, catalog, RULES, rotation=rotation, stream=question.stream
    )
    seconds = time.process_time() - started
    gc.enable()
    assert isinstance(said, Reply), said
    return seconds


def rows(size: int) -> dict[str, Any]:
    """Return one network: `big` with half of the machines, apps of three, peers and flycasts.

    One machine in ten is stopped.
    """
    machines, metadata, services, apps = [], [], [], []
    regions = [*REGIONS]
    for number in range(size):
        big = number < size // 2
        app = "big" if big else f"web-{number // 3}"
        ident = f"{number * 2_654_435_761 % (1 << 56):014x}"
        machines.append((
            ident, 0x18, app,
            f"fdaa:0:18:a7b:{number // 40 + 1:x}:{number % 7 + 1:x}:{number % 40 + 1:x}:2",
            regions[number % len(regions)], "worker" if number % 3 else "app",
            "stopped" if number % 10 == 9 else "started", 0, 0,
        ))  # fmt: skip
        metadata.append((ident, "role", "leader" if number % 40 == 0 else "replica"))
        metadata.append((ident, "serial", ident))
        services.append((ident, "http", "tcp", 8_080))
        if not big and not number % 3:
            apps.append((0x18, app))
    return {
        "networks": [(0x18, "acme", "")],
        "apps": [*apps, (0x18, "stopped")],
        "machines": machines,
        "machine_metadata": metadata,
        "machine_services": services,
        "peers": [
            (0x18, f"peer-{n}", f"fdaa:0:18:a7b:fff0:{n // 250 + 1:x}:{n % 250:x}:102", "")
            for n in range(size // 20)
        ],
        "flycasts": [(0x18, "big", f"fdaa:0:18:0:1::{n + 3:x}") for n in range(4)],
        "regions": [(code, "", *place, 1) for code, place in REGIONS.items()],
    }
