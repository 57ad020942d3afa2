"""The status page: current figures, plots of the last minutes, and a table of the upstreams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from internal_dns.admin.console.plot import Plot, bars, lines
from internal_dns.admin.console.samples import KEPT, Sample, in_buckets, per_second

_RCODES: Final = ("NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED")
_KINDS: Final = ("internal", "flycast", "reverse", "forward", "refused")
UPSTREAMS_DRAWN: Final = 5  # more lines would make the plot unreadable


def status(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the current figures and the plots."""
    last = samples[-2:]
    responses, hits = (
        _now(last, f"internal_dns_{name}_total") for name in ("responses", "answer_table_hits")
    )
    return {
        "queries": _now(last, "internal_dns_requests_total"),
        "drops": _now(last, "internal_dns_drops_total"),
        "repeated": hits / responses if responses else None,
        "plots": plots(samples),
        "upstreams": samples[-1].upstreams if samples else (),
        "seconds": round(samples[-1].at - samples[0].at) if samples else 0,
    }


def plots(samples: Sequence[Sample]) -> list[Plot]:
    """Return the plots, in the order of the page."""
    responses = "internal_dns_responses_total"
    delays = [sample.delay * 1000 for sample in samples[1:]]
    propagation = in_buckets(samples, "internal_dns_propagation_seconds_bucket")
    return [
        lines(
            "Queries",
            "per second",
            "Messages received, by transport.",
            per_second(samples, "internal_dns_requests_total", 0),
            KEPT,
        ),
        lines(
            "Responses by RCODE",
            "per second",
            "Replies sent, by RCODE.",
            _in_order(per_second(samples, responses, 0), _RCODES),
            KEPT,
        ),
        lines(
            "Responses by kind",
            "per second",
            "Answered from the catalog in one of three zones; forwarded; refused.",
            _in_order(per_second(samples, responses, 1), _KINDS),
            KEPT,
        ),
        lines(
            "Event loop delay",
            "ms",
            "The longest time that a message waited for the event loop, per second.",
            {"longest wait": delays} if delays else {},
            KEPT,
        ),
        bars(
            "Propagation",
            "commits",
            "Time from a commit until answers reflect it: milliseconds, at most.",
            [(_milliseconds(bound), count) for bound, count in propagation],
        ),
        lines(
            "Upstream latency",
            "ms",
            "Time until an upstream replies, smoothed by the forwarder.",
            _latencies(samples),
            KEPT,
        ),
    ]


def _milliseconds(bound: str) -> str:
    if bound == "+Inf":
        return "more"
    seconds = float(bound)
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g}"


def _now(last: Sequence[Sample], name: str) -> float:
    return sum(values[-1] for values in per_second(last, name).values() if values)


def _in_order(found: Mapping[str, list[float]], known: Sequence[str]) -> dict[str, list[float]]:
    """Return the known series in a fixed order, so that colors keep their meaning; then the sum of
    all others."""
    ordered = {name: found.get(name, []) for name in known}
    if rest := [values for name, values in found.items() if name not in known]:
        ordered["other"] = [sum(column) for column in zip(*rest, strict=True)]
    return ordered


def _latencies(samples: Sequence[Sample]) -> dict[str, list[float | None]]:
    urls = dict.fromkeys(u.to for sample in samples[-1:] for u in sample.upstreams)
    latencies: dict[str, list[float | None]] = {}
    for url in list(urls)[:UPSTREAMS_DRAWN]:
        # The latency is 0 before the first reply.
        series = [
            next((u.latency_seconds or None for u in s.upstreams if u.to == url), None)
            for s in samples[1:]
        ]
        if any(value is not None for value in series):
            latencies[url] = [None if value is None else value * 1000 for value in series]
    return latencies
