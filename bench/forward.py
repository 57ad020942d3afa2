"""External names: the cost of a forwarded answer beside other forwarders, and what dead upstreams
and floods do.

The upstream is bench/upstream.c on loopback, which answers at once or after 20 ms. With only two
cores it shares the generator's, with priority.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import peers, servers, zones
from bench.loads import Loads, Step, measure
from bench.network import SERVER, own_network, source
from bench.results import FIGURES, Case
from bench.servers import Server
from bench.tools import Missing, Skipped, say
from bench.udp import alternate

CACHED: Final = 2_000  # names; the smallest of the caches holds 10,000
DELAY: Final = 20  # ms
WINDOW: Final = 900  # outstanding at saturation with DELAY; internal-dns allows 1,000 per network
RATE: Final = 500  # questions per second where latency is measured
NETWORKS: Final = [0x18 + n for n in range(8)]  # the last one is measured, the others disturb it
PENDING: Final = 5_000  # waiting queries of the performance target
WAITING: Final = 200  # per second from each of six networks: 5,200 outstanding after 4.4 s
DEAD_SECONDS: Final = 6  # until that many are outstanding
SETTLED: Final = 0.1  # seconds without an upstream query
SETTLED_WITHIN: Final = 10
FLOOD: Final = 20_000  # random external names per second of one network


def run(
    directory: Path, *, seconds: float, repetitions: int, short: bool, skipped: Skipped
) -> list[Case]:
    """Measure everything; *short*: cached answers only. Raises Missing without a compiler."""
    servers.more_descriptors()
    catalog = directory / "forward.db"
    zones.make_catalog(catalog, 9_000, 1_000 // 3)
    loads = Loads(directory, seconds)
    with servers.upstream(directory, 0) as near:
        cases = _beside_others(near, catalog, directory, loads, repetitions, short, skipped)
    if short:
        return cases
    with servers.upstream(directory, DELAY) as far:
        cases += _far(far, catalog, directory, loads, repetitions, skipped)
    for measured in (_dead, _flooded):
        try:
            with own_network(NETWORKS):
                cases += measured(
                    catalog, directory, Loads(directory, max(seconds, 2.0)), repetitions
                )
        except Missing as reason:
            skipped.add(f"forward, {measured.__name__.strip('_')}", reason)
    return cases


# ── cached and uncached, beside other forwarders ──────────────────────────────────────────────────


def _beside_others(
    upstream: Server,
    catalog: Path,
    directory: Path,
    loads: Loads,
    repetitions: int,
    short: bool,
    skipped: Skipped,
) -> list[Case]:
    known, new = zones.external(CACHED), zones.external_new()
    steps: list[Step] = [
        ("cached, saturated by sendmmsg", loads.sendmmsg(known), known, 0),
        ("cached, 20,000 per second", loads.sendmmsg(known, 20_000), known, 20_000),
        ("uncached, saturated by sendmmsg", loads.sendmmsg(new, unique=True), new, 0),
        ("uncached, 2,000 per second", loads.sendmmsg(new, 2_000, unique=True), new, 2_000),
    ]
    with ExitStack() as stack:
        subjects = [stack.enter_context(_ours(catalog, directory, [upstream.port]))]
        subjects += peers.forwarders(directory, upstream.port, stack, skipped)
        for server in subjects:
            for _ in range(2):  # the second time from the cache, into what may stand before that
                loads.warm_up(known, server)
        cases = alternate(
            "forward",
            subjects,
            steps[:2] if short else steps,
            repetitions,
            partial(_counted, directory, 0),
        )
    _mark_misses(cases)
    return cases


@contextmanager
def _counted(directory: Path, delay: int) -> Iterator[dict[str, Any]]:
    """Tell afterwards how often the upstream was asked; begin when it has been left alone for a
    while.

    A forwarder that had more to do than it could goes on asking after its load has ended.
    """
    told: dict[str, Any] = {}
    before, deadline = -1, time.monotonic() + SETTLED_WITHIN
    while before != (before := servers.asked(directory, delay)) and time.monotonic() < deadline:
        time.sleep(SETTLED)
    yield told
    told["upstream_queries"] = servers.asked(directory, delay) - before


def _mark_misses(cases: Sequence[Case]) -> None:
    """Add a note where an answer did not come from the cache although it should have."""
    for case in cases:
        for said in case.repetitions:
            asked = said.get("upstream_queries", 0)
            if (
                case.load.startswith("cached")
                and not said["void"]
                and asked > 0.01 * said["answered"]
            ):
                said["note"] = (
                    f"NOT FROM A CACHE: the upstream was asked {asked / said['answered']:.1f} "
                    f"times an answer"
                )


def _far(
    upstream: Server,
    catalog: Path,
    directory: Path,
    loads: Loads,
    repetitions: int,
    skipped: Skipped,
) -> list[Case]:
    """Measure an upstream 20 ms away: the added delay, and the queries per second per core."""
    new, counted = zones.external_new(), partial(_counted, directory, DELAY)
    slow: list[Step] = [
        (
            f"uncached, {DELAY} ms, {RATE} per second",
            loads.sendmmsg(new, RATE, asleep=True, unique=True),
            new,
            RATE,
        )
    ]
    steps = [
        *slow,
        (
            f"uncached, {DELAY} ms, saturated",
            loads.sendmmsg(new, window=WINDOW, unique=True),
            new,
            0,
        ),
    ]
    with ExitStack() as stack:
        subjects = [upstream, stack.enter_context(_ours(catalog, directory, [upstream.port]))]
        subjects += peers.forwarders(directory / "far", upstream.port, stack, skipped)
        direct, *forwarded = alternate("forward", subjects[:1], slow, repetitions, counted)
        forwarded += alternate("forward", subjects[1:], steps, repetitions, counted)
    for case in forwarded:
        for of_direct, of_case in zip(direct.repetitions, case.repetitions, strict=True):
            if of_case["rate"]:
                of_case["added_ms"] = (of_case["p50_us"] - of_direct["p50_us"]) / 1e3
                of_case["added_p99_ms"] = (of_case["p99_us"] - of_direct["p99_us"]) / 1e3
                of_case["void"] = of_case["void"] or of_direct["void"]
    return [direct, *forwarded]


def _ours(catalog: Path, directory: Path, ports: Sequence[int], host: str = "::1") -> Server:
    urls = [f"udp://[::1]:{port}" for port in ports]
    asker = source(NETWORKS[-1]) if host != "::1" else ""
    return servers.ours(
        catalog, directory, name="internal-dns", upstreams=urls, host=host, source=asker
    )


# ── interference ────────────────────────────────────────────────────────────────


def _dead(catalog: Path, directory: Path, loads: Loads, repetitions: int) -> list[Case]:
    """Measure internal names while every upstream is silent and six networks have as many queries
    waiting as allowed."""
    known, new = zones.apps(zones.first_zone(300)), zones.external_new()
    ask = loads.sendmmsg(known, 1_000, asleep=True, sources=[source(NETWORKS[-1])])
    others = [source(network) for network in NETWORKS[:6]]
    with (
        _silent() as first,
        _silent() as second,
        _ours(catalog, directory, [first, second], SERVER) as server,
    ):
        measure(server, ask, known, 1_000)  # fills the answer table

        def pending() -> dict[str, Any]:
            seconds = DEAD_SECONDS + loads.seconds + 1
            words = loads.generator(asleep=True, unique=True, sources=others)
            with loads.beside(words, new, server, WAITING * len(others), seconds) as said:
                time.sleep(DEAD_SECONDS)
                result = measure(server, ask, known, 1_000)
            few = said["most"] < PENDING
            note = f"the server kept fewer than {PENDING:,} questions waiting" if few else ""
            return result | {"cpu_us": None, "pending": said["most"], "note": note}

        return _ratio(
            "internal names, every upstream dead",
            lambda: measure(server, ask, known, 1_000),
            pending,
            repetitions,
        )


def _flooded(catalog: Path, directory: Path, loads: Loads, repetitions: int) -> list[Case]:
    """Measure external names of one network while another floods with random ones; the upstream is
    20 ms away."""
    new = zones.external_new()
    ask = loads.sendmmsg(new, RATE, asleep=True, unique=True, sources=[source(NETWORKS[-1])])
    with (
        servers.upstream(directory, DELAY) as upstream,
        _ours(catalog, directory, [upstream.port], SERVER) as server,
    ):
        measure(server, ask, new, RATE)

        def flooded() -> dict[str, Any]:
            words = loads.generator(
                asleep=True, unique=True, deaf=True, sources=[source(NETWORKS[0])]
            )
            with loads.beside(words, new, server, FLOOD, loads.seconds + 2) as said:
                time.sleep(1)
                result = measure(server, ask, new, RATE, max_loss=100)
            return result | {"cpu_us": None, "flood_qps": said["sent"] / said["seconds"]}

        return _ratio(
            "external names, another network floods",
            lambda: measure(server, ask, new, RATE),
            flooded,
            repetitions,
        )


def _ratio(
    words: str,
    idle: Callable[[], dict[str, Any]],
    busy: Callable[[], dict[str, Any]],
    repetitions: int,
) -> list[Case]:
    """Measure both in turn, and divide adjacent results."""
    cases = [
        Case("forward", f"{words} · {state}", [], words, state)
        for state in ("idle", "busy", "busy over idle")
    ]
    for _ in range(repetitions):
        before, during = idle(), busy()
        void = before["void"] or during["void"]
        ratios = (
            {}
            if void
            else {f"{q}_ratio": during[f"{q}_us"] / before[f"{q}_us"] for q in ("p50", "p99")}
        )
        for case, result in zip(cases, (before, during, {**ratios, "void": void}), strict=True):
            case.repetitions.append(result)
            figures = (
                f"{FIGURES[f][0]} {result[f]:,.2f}" for f in FIGURES if result.get(f) is not None
            )
            say(
                f"  {case.name}: {', '.join(figures)}"
                + (f" VOID: {result['void']}" if result["void"] else "")
            )
    return cases


@contextmanager
def _silent() -> Iterator[int]:
    """Open a socket that nobody reads: a silent upstream."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        yield sock.getsockname()[1]
