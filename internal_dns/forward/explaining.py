"""The forwarder in words and figures: what would become of a query now, how upstreams are doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from internal_dns.core import names
from internal_dns.core.names import Labels
from internal_dns.core.wire import Query
from internal_dns.forward.health import preferred
from internal_dns.forward.question import question_of
from internal_dns.forward.routes import Routes
from internal_dns.forward.upstream_state import UpstreamState
from internal_dns.metrics import UpstreamFigures, rcode_name

if TYPE_CHECKING:
    from internal_dns.forward.forwarder import Forwarder


def explain(forwarder: Forwarder, query: Query) -> list[tuple[str, str]]:
    """Return what would become of *query* now, in steps of (title, sentence), without sending or
    counting it."""
    now, key = forwarder.loop.time(), question_of(query).key
    routes = forwarder.routes
    steps = [
        ("rule", _rule(routes, query.labels, query.qtype)),
        ("cache", _cached(forwarder, key, now)),
    ]
    if (outstanding := forwarder.outstanding.get(key)) is not None:
        age, count = forwarder.clock() - outstanding.started_at, len(outstanding.waiters)
        steps.append(("outstanding", f"sent {age:.1f} s ago; {count} clients wait for the reply"))
    states = routes.states_of(routes.rule_for(query.labels, query.qtype)[1])
    order = preferred([state.health for state in states], now)
    steps += [
        ("upstream", f"{number}. {_upstream(states[at])}") for number, at in enumerate(order, 1)
    ]
    return steps


def _rule(routes: Routes, labels: Labels, qtype: int) -> str:
    suffix, rule = routes.rule_for(labels, qtype)
    allowed = ", which may return addresses of the prefix" * rule.allow_prefix
    if not suffix:
        return "no rule matches: the default upstreams"
    return f"suffix {names.printable(b'.'.join(suffix))} has its own upstreams{allowed}"


def _cached(forwarder: Forwarder, key: bytes, now: float) -> str:
    times = forwarder.times
    if (why := forwarder.cache.failure(key, now)) is not None:
        return f"failed less than {times.failure:g} s ago, not queried again until then: {why[1]}"
    if (entry := forwarder.cache.peek(key)) is None:
        return "no entry: an upstream would be queried"
    rcode, count = rcode_name(entry.reply.rcode), sum(entry.reply.counts)
    what = f"{rcode}, {count} RRs from {entry.upstream} {now - entry.since:.0f} s ago"
    if entry.reply.target:
        what += ", a chain that ends in an internal name, which is answered for each client"
    if now < entry.until:
        return f"{what}, fresh for {entry.until - now:.0f} s more: sent from the cache"
    return f"{what}, expired: sent only if no upstream answers within {times.stale_after} s"


def _upstream(state: UpstreamState) -> str:
    health = state.health
    if not state.queries:
        return f"{state.name}, not queried so far"
    latency = f", {health.latency * 1000:.1f} ms" if health.latency else ""
    ratio = (
        f", {health.success_ratio:.0%} of the latest names answered"
        if health.success_ratio < 1
        else ""
    )
    return f"{state.name} {'answers' if health.up else 'does not answer'}{latency}{ratio}"


def figures(state: UpstreamState) -> UpstreamFigures:
    """Return the metrics of one upstream."""
    return UpstreamFigures(
        to=state.name,
        up=state.health.up,
        success_ratio=state.health.success_ratio,
        latency_seconds=state.health.latency,
        outstanding=state.outstanding,
        queries=dict(state.queries),
        replies={rcode_name(rcode): count for rcode, count in state.replies.items()},
        failures=dict(state.failures),
    )
