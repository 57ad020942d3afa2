"""The status page: how the server does, as plots of the last minutes and a table of its
upstreams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from internal_dns.admin.console.plot import Plot, bars, lines
from internal_dns.admin.console.samples import KEPT, Sample, in_buckets, per_second

_RCODES: Final = ("NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED")
_KINDS: Final = ("internal", "flycast", "reverse", "forward", "refused")
UPSTREAMS_DRAWN: Final = 5  # a plot of more lines is none


def status(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the figures of this moment and the plots."""
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
    """Return the plots, the most asked-for first."""
    responses = "internal_dns_responses_total"
    delays = [sample.delay * 1000 for sample in samples[1:]]
    return [
        lines("Queries", "per second", "Messages received, by transport.",
              per_second(samples, "internal_dns_requests_total", 0), KEPT),
        lines("Responses by RCODE", "per second", "What the replies said.",
              _in_order(per_second(samples, responses, 0), _RCODES), KEPT),
        lines("Responses by kind", "per second", "Our three zones, from the catalog; forwarded; "
                                               "refused.",
              _in_order(per_second(samples, responses, 1), _KINDS), KEPT),
        lines("Latency: wait for the loop", "ms", "The longest that a query had to wait for its "
                                                  "turn in each second.",
              {"longest wait": delays} if delays else {}, KEPT),
        bars("Propagation", "commits", "From a commit to its first answer: in so many milliseconds "
                                       "at most.",
             [(_milliseconds(bound), count)
              for bound, count in in_buckets(samples, "internal_dns_propagation_seconds_bucket")]),
        lines("Latency: upstreams", "ms", "What an upstream takes to answer, as the forwarder "
                                          "reckons it.",
              _latencies(samples), KEPT),
    ]  # fmt: skip


def _milliseconds(bound: str) -> str:
    if bound == "+Inf":
        return "more"
    seconds = float(bound)
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g}"


def _now(last: Sequence[Sample], name: str) -> float:
    return sum(values[-1] for values in per_second(last, name).values() if values)


def _in_order(found: Mapping[str, list[float]], known: Sequence[str]) -> dict[str, list[float]]:
    """The known series in their order, so that a colour keeps its meaning; then whatever else there
    is, as one."""
    ordered = {name: found.get(name, []) for name in known}
    if rest := [values for name, values in found.items() if name not in known]:
        ordered["other"] = [sum(column) for column in zip(*rest, strict=True)]
    return ordered


def _latencies(samples: Sequence[Sample]) -> dict[str, list[float | None]]:
    urls = dict.fromkeys(u.to for sample in samples[-1:] for u in sample.upstreams)
    found: dict[str, list[float | None]] = {}
    for url in list(urls)[:UPSTREAMS_DRAWN]:
        # 0 is what an upstream has before its first reply.
        seen = [
            next((u.latency_seconds or None for u in s.upstreams if u.to == url), None)
            for s in samples[1:]
        ]
        if any(value is not None for value in seen):
            found[url] = [None if value is None else value * 1000 for value in seen]
    return found
