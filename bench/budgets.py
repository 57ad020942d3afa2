"""The performance targets, most of them ratios within one run, and the verdict of a run on each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.results import DISTURBED

OURS: Final = "internal-dns, native path, [::1]"
OURS_INFO: Final = "internal-dns, native path, [::]"
PURE_INFO: Final = "internal-dns, python path, [::]"
FLOOR_INFO: Final = "floor, packet info"
BEST_OF: Final = ("gdnsd", "Knot", "NSD", "PowerDNS")
SATURATED: Final = "saturated by sendmmsg"


class NotMeasured(Exception):
    """The run does not have this figure."""


class Run:
    """A stored run, indexed by part, subject and load."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        # Whether other programs disturbed any figure read since this was last cleared.
        self.disturbed = False
        self.cases = {
            (c["part"], c.get("subject") or "", c.get("load") or c["case"]): c
            for c in stored["results"]
        }

    def median(self, part: str, subject: str, load: str, figure: str) -> float:
        """Return a median. Raises NotMeasured."""
        case = self.cases.get((part, subject, load))
        if case is None or figure not in case["median"]:
            raise NotMeasured(f"{subject or part}: {load}")
        counted = [r for r in case["repetitions"] if not r.get("void")]
        self.disturbed |= any(r.get("others", 0) > DISTURBED for r in counted)
        return float(case["median"][figure])

    def worst(self, part: str, subject: str, load: str, figure: str) -> float:
        """Return the largest repetition, for events that must never happen. Raises NotMeasured."""
        self.median(part, subject, load, figure)
        return float(self.cases[part, subject, load]["max"][figure])

    def cpu(self, subject: str, load: str, part: str = "udp") -> float:
        return self.median(part, subject, load, "cpu_us")

    def qps(self, subject: str, load: str = SATURATED, part: str = "udp") -> float:
        return self.median(part, subject, load, "qps")

    def best_cpu(self, load: str) -> float:
        """Return the least CPU per query of any peer. Raises NotMeasured without one."""
        found = []
        for peer in BEST_OF:
            try:
                found.append(self.cpu(peer, load))
            except NotMeasured:  # it lost too many queries at this rate
                continue
        if not found:
            raise NotMeasured(f"{', '.join(BEST_OF)}: {load}")
        return min(found)


@dataclass(frozen=True, slots=True)
class Budget:
    """A target: its name, the figure of a run, and the bounds of that figure."""

    what: str
    unit: str
    figure: Callable[[Run], float]
    at_most: float | None = None
    at_least: float | None = None
    beyond: float | None = None  # a stricter target in the same direction
    decimals: int = 2

    @property
    def bar(self) -> str:
        sign, bound = ("≤", self.at_most) if self.at_most is not None else ("≥", self.at_least)
        return f"{sign} {bound:,g} {self.unit}".strip()

    def verdict(self, value: float) -> str:
        """Return `met`, `beyond` if the stricter target is met too, or `missed`."""
        if not self._reached(value, self.at_most if self.at_most is not None else self.at_least):
            return "**missed**"
        return "beyond" if self.beyond is not None and self._reached(value, self.beyond) else "met"

    def _reached(self, value: float, bound: float | None) -> bool:
        assert bound is not None
        return value <= bound if self.at_most is not None else value >= bound


def judged(run: Run) -> Iterable[tuple[str, str, str, str]]:
    """Return name, bound, measured figure and verdict of each target."""
    for budget in BUDGETS:
        run.disturbed = False
        try:
            value = budget.figure(run)
        except NotMeasured as missing:
            yield budget.what, budget.bar, "–", f"not measured ({missing})"
            continue
        verdict = budget.verdict(value) + (", disturbed" if run.disturbed else "")
        yield (
            budget.what,
            budget.bar,
            f"{value:,.{budget.decimals}f} {budget.unit}".strip(),
            verdict,
        )


def _over_best(load: str) -> Callable[[Run], float]:
    return lambda run: run.cpu(OURS, load) / run.best_cpu(load)


def _over_floor(load: str) -> Callable[[Run], float]:
    return lambda run: run.cpu(OURS_INFO, load) / run.cpu(FLOOR_INFO, load)


def _over_peer(peer: str, load: str = SATURATED) -> Callable[[Run], float]:
    return lambda run: run.qps(OURS, load) / run.qps(peer, load)


def _slowest_cold(run: Run) -> float:
    """Return the CPU of the slowest kind of name, except those that grow with the network."""
    found = [
        case["median"]["cpu_us"]
        for (part, _, name), case in run.cases.items()
        if part == "cold"
        and "cpu_us" in case["median"]
        and "first" not in name
        and "_apps" not in name
    ]
    if not found:
        raise NotMeasured("cold")
    return float(max(found))


def _two_workers(run: Run) -> float:
    one, two = (f"internal-dns, {words}" for words in ("1 worker", "2 workers"))
    return run.qps(two, part="workers") / run.qps(one, part="workers")


def _ours_over(peer: str, load: str, part: str, figure: str = "cpu_us") -> Callable[[Run], float]:
    return lambda run: (
        run.median(part, "internal-dns", load, figure) / run.median(part, peer, load, figure)
    )


def _of(
    part: str, subject: str, load: str, figure: str, factor: float = 1
) -> Callable[[Run], float]:
    return lambda run: factor * run.median(part, subject, load, figure)


def _worst(part: str, subject: str, load: str, figure: str) -> Callable[[Run], float]:
    return lambda run: run.worst(part, subject, load, figure)


def _a_core(run: Run) -> float:
    """Return queries per second per core, computed from the CPU per query: on two cores, upstream
    and generator share the other core."""
    return 1e6 / run.median("forward", "internal-dns", "uncached, 20 ms, saturated", "cpu_us")


_60K, _MIXED = "60,000 per second", "mixed, saturated by sendmmsg"
_SMALL, _LARGE = "internal-dns with 10,002 machines", "internal-dns with 1,000,002 machines"
_SAME = "the same names, saturated by sendmmsg"
_ALL = "names of all, saturated by sendmmsg"
_TCP = "100 connections, about 1 in flight on each"
_BEST: Final = "the best of gdnsd, Knot, NSD, PowerDNS"
BUDGETS: Final = (
    Budget(
        f"native path, CPU per query saturated ÷ {_BEST}",
        "×",
        _over_best(SATURATED),
        at_most=1,
        beyond=0.9,
    ),
    Budget(
        f"native path, CPU per query at 60,000 per second ÷ {_BEST}",
        "×",
        _over_best(_60K),
        at_most=1,
        beyond=0.9,
    ),
    Budget(
        "native path with packet info, CPU per query saturated ÷ the floor's",
        "×",
        _over_floor(SATURATED),
        at_most=1.25,
    ),
    Budget(
        "native path with packet info, CPU per query at 60,000 per second ÷ the floor's",
        "×",
        _over_floor(_60K),
        at_most=1.25,
    ),
    Budget("native path, queries per second ÷ NSD's", "×", _over_peer("NSD"), at_least=1.3),
    Budget("native path, queries per second ÷ Knot's", "×", _over_peer("Knot"), at_least=1.2),
    Budget("native path, queries per second ÷ gdnsd's", "×", _over_peer("gdnsd"), at_least=1),
    Budget(
        f"mixed, CPU per query saturated ÷ {_BEST}", "×", _over_best(_MIXED), at_most=1, beyond=0.9
    ),
    Budget(
        f"mixed, CPU per query at 60,000 per second ÷ {_BEST}",
        "×",
        _over_best(f"mixed, {_60K}"),
        at_most=1,
        beyond=0.9,
    ),
    Budget(
        "mixed, CPU per query with packet info saturated ÷ the floor's",
        "×",
        _over_floor(_MIXED),
        at_most=1.25,
    ),
    Budget("mixed, queries per second ÷ NSD's", "×", _over_peer("NSD", _MIXED), at_least=1.3),
    Budget("mixed, queries per second ÷ Knot's", "×", _over_peer("Knot", _MIXED), at_least=1.2),
    Budget("mixed, queries per second ÷ gdnsd's", "×", _over_peer("gdnsd", _MIXED), at_least=1),
    Budget(
        "p99 latency at 20,000 per second ÷ NSD's",
        "×",
        lambda run: (
            run.median("udp", OURS, "20,000 per second", "p99_us")
            / run.median("udp", "NSD", "20,000 per second", "p99_us")
        ),
        at_most=1,
    ),
    Budget(
        "pure-Python path with packet info, queries per second",
        "",
        _of("udp", PURE_INFO, SATURATED, "qps"),
        at_least=50_000,
        decimals=0,
    ),
    Budget(
        "pure-Python path with packet info, CPU per query saturated",
        "µs",
        _of("udp", PURE_INFO, SATURATED, "cpu_us"),
        at_most=13,
    ),
    Budget("cold path, the slowest kind of name", "µs", _slowest_cold, at_most=60, beyond=35),
    Budget(
        "forwarded from the cache, CPU per query ÷ Unbound's",
        "×",
        _ours_over("Unbound", "cached, saturated by sendmmsg", "forward"),
        at_most=1.2,
        beyond=1,
    ),
    Budget(
        "forwarded, upstream of 20 ms, added",
        "ms",
        _of("forward", "internal-dns", "uncached, 20 ms, 500 per second", "added_ms"),
        at_most=1,
    ),
    Budget(
        "forwarded, upstream of 20 ms, queries per second per core",
        "",
        _a_core,
        at_least=5_000,
        decimals=0,
    ),
    Budget(
        "internal names' p99 with every upstream dead and 5,000 waiting ÷ idle",
        "×",
        _of("forward", "internal names, every upstream dead", "busy over idle", "p99_ratio"),
        at_most=1.5,
    ),
    Budget(
        "external names' p99 while another network floods ÷ idle",
        "×",
        _of("forward", "external names, another network floods", "busy over idle", "p99_ratio"),
        at_most=2,
    ),
    Budget(
        "TCP, kept connections, queries per second",
        "",
        _of("tcp", "internal-dns", _TCP, "qps"),
        at_least=20_000,
        decimals=0,
    ),
    Budget(
        "TCP, kept connections, queries per second ÷ Knot's (beyond)",
        "×",
        _ours_over("Knot", _TCP, "tcp", "qps"),
        at_least=1,
    ),
    Budget("two workers ÷ one", "×", _two_workers, at_least=1.8),
    Budget(
        "1,000,000 machines, load", "s", _of("load", "", "1,000,000 machines", "wall_s"), at_most=5
    ),
    Budget(
        "1,000,000 machines, memory of the server",
        "MiB",
        _of("load", _LARGE, "serving", "rss_mib"),
        at_most=1024,
        beyond=600,
        decimals=0,
    ),
    Budget(
        "1,000,000 machines, CPU per query ÷ 10,000's, the same names",
        "×",
        lambda run: run.cpu(_LARGE, _SAME, "load") / run.cpu(_SMALL, _SAME, "load"),
        at_most=1.3,
    ),
    Budget(
        "1,000,000 machines, CPU per query ÷ 10,000's, names of all",
        "×",
        lambda run: run.cpu(_LARGE, _ALL, "load") / run.cpu(_SMALL, _SAME, "load"),
        at_most=1.3,
    ),
    Budget(
        "commit → visible, p99, 100,000 machines and 100 commits per second",
        "ms",
        _of("living", "", "commit → visible, 100,000 machines · 100 commits per second", "p99_ms"),
        at_most=50,
        beyond=20,
        decimals=1,
    ),
    Budget(
        "flood of known names, another queue: lost, worst of all repetitions",
        "%",
        _worst("flood", "internal-dns, native path", "known names, another queue", "loss"),
        at_most=0.1,
    ),
    Budget(
        "flood of random names, another queue: lost, worst of all repetitions",
        "%",
        _worst("flood", "internal-dns, native path", "random names, another queue", "loss"),
        at_most=0.1,
    ),
)
