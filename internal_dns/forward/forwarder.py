"""Answer external names: from the cache or from upstreams, with one outstanding query for all
clients that ask the same.

    cached and fresh ─► reply
    cached and stale ─► query; after 1.8 s, or failure, the stale reply
    failed just now  ─► SERVFAIL
    not cached       ─► query, or wait with those that asked before
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from internal_dns.core import names
from internal_dns.core.catalog import NetworkId
from internal_dns.core.journey import Forward
from internal_dns.core.names import Labels
from internal_dns.core.relayed import Relayed, relay
from internal_dns.core.wire import Ede, Query, Rcode
from internal_dns.forward import explaining
from internal_dns.forward.accounts import PER_NETWORK, Accounts
from internal_dns.forward.cache import Cache, CacheEntry, Freshness
from internal_dns.forward.health import preferred
from internal_dns.forward.hooks import (
    CheckInTurn,
    Complete,
    Cut,
    Keep,
    RelayInTurn,
    check_at_once,
    complete_nothing,
    cut_nothing,
    keep_nothing,
    relay_at_once,
    servfail,
)
from internal_dns.forward.native.sockets import NativeSockets
from internal_dns.forward.outcome import ALIAS, BUSY, FAULT, LOOP, Failure, Outcome
from internal_dns.forward.outstanding import OutstandingQuery
from internal_dns.forward.plan import Plan
from internal_dns.forward.probing import Prober
from internal_dns.forward.question import Question, question_of
from internal_dns.forward.routes import LIMIT, Routes
from internal_dns.forward.simple import SimpleReplies
from internal_dns.forward.times import TIMES, Times
from internal_dns.forward.upstream_state import UpstreamState
from internal_dns.forward.upstreams import Rule, Upstream
from internal_dns.forward.waiter import Waiter
from internal_dns.late import Late
from internal_dns.metrics import Metrics, UpstreamFigures
from internal_dns.net import packed

_STALE: Final = (Ede.STALE, "no upstream answered; this reply is from the cache and has expired")
_STALE_NXDOMAIN: Final = (Ede.STALE_NXDOMAIN, _STALE[1])
_log: Final = logging.getLogger("internal_dns")


class Forwarder:
    """Forwards questions; one per server. *clock* is in seconds, finer than the event loop's own
    clock may be. *native*: UDP goes over native sockets, which must be there (native/)."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        metrics: Metrics,
        prefix: bytes,
        *,
        rules: Mapping[Labels, Rule] | None = None,
        limit: int = LIMIT,
        ca: Path | None = None,
        cache: Cache | None = None,
        outside_aliases: bool = True,
        sockets: str = "auto",
        native: bool = False,
        times: Times = TIMES,
        clock: Callable[[], float] = time.monotonic,
        per_network: int = PER_NETWORK,
    ) -> None:
        self.metrics, self.prefix, self.outside_aliases = metrics, prefix, outside_aliases
        self.times, self.clock = times, clock
        apexes = (names.INTERNAL, names.FLYCAST, names.reverse_zone(prefix))
        self.zones = frozenset(map(names.wire, apexes))
        self.cache = Cache(failure=times.failure) if cache is None else cache
        self.accounts = Accounts(limit, per_network)
        self.outstanding: dict[bytes, OutstandingQuery] = {}  # by question; without probes
        self.simple = SimpleReplies(self)
        self.native: NativeSockets | None = None
        if native:
            self.native = NativeSockets(self.zones, prefix, times, self.simple.queue)
        self.routes = Routes(ca, times, limit, sockets, self.native)
        self.prober = Prober(self, self.routes)
        self.keep: Keep = keep_nothing
        self.forget: Callable[[], None] = keep_nothing
        self.complete: Complete = complete_nothing
        self.cut: Cut = cut_nothing
        self.relay: RelayInTurn = relay_at_once
        self.check: CheckInTurn = check_at_once
        self._closing: set[asyncio.Task[None]] = set()
        self._loop_silent_until = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.use(upstreams, rules or {})

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that runs."""
        if self._loop is None:  # Hot path: finding it out takes a system call in Python 3.11
            self._loop = asyncio.get_running_loop()
        return self._loop

    # ── settings ──────────────────────────────────────────────────────────────────────────────────

    def use(self, upstreams: Sequence[Upstream], rules: Mapping[Labels, Rule]) -> None:
        """Query these upstreams from now on. The cache is cleared; upstreams that stay keep their
        health and connections.

        Outstanding queries are answered for the clients that wait already, and not cached.
        """
        unused = self.routes.use(upstreams, rules)
        self.cache.clear()
        self.forget()
        self.outstanding.clear()
        for state in unused:
            task = asyncio.get_running_loop().create_task(self._leave(state))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def configure(self, *, outside_aliases: bool, sockets: str) -> None:
        """Apply the settings `outside_aliases` and `upstream_sockets`."""
        self.outside_aliases = outside_aliases
        if sockets != self.routes.mode:
            self.routes.share_sockets(sockets)

    @property
    def pooled(self) -> int:
        """How many sockets the pools may have in all."""
        return self.routes.pooled

    @property
    def sockets(self) -> int:
        """How many UDP attempts hold a socket or a share of one."""
        return self.accounts.sockets

    @property
    def closing(self) -> bool:
        """Whether connections to upstreams that are no longer used are still open."""
        return bool(self._closing)

    async def _leave(self, state: UpstreamState) -> None:
        """Close the connections to an upstream after its last reply."""
        queries = [query for query in self.accounts.outstanding() if state in query.states]
        await asyncio.gather(*(query.ended() for query in queries))
        state.close_sockets()
        await state.channel.close()

    async def close(self) -> None:
        """End all outstanding queries, and close all connections."""
        for query in tuple(self.accounts.outstanding()):
            query.end(BUSY)
        states = self.routes.states.values()
        for state in states:
            if state.probe_timer:
                state.probe_timer.cancel()
            state.close_sockets()
        await asyncio.gather(*(state.channel.close() for state in states), *self._closing)
        if self.native:
            self.native.close()

    # ── clients ───────────────────────────────────────────────────────────────────────────────────

    def answer(self, forward: Forward, source: bytes) -> bytes | Late:
        """Return the reply, or what will hold it when upstreams have answered. Never raises."""
        query, now = forward.query, self.loop.time()
        question = question_of(query)
        key = question.key
        stale: CacheEntry | None = None
        if (cached := self.cache.find(key, now, forward.network)) is not None:
            entry, freshness = cached
            if freshness is not Freshness.STALE:
                if freshness is Freshness.DUE:
                    self._start(question, query.labels, forward.network)
                return self._from_cache(forward, question, entry, now)
            stale = entry
        if (why := self.cache.failure(key, now)) is not None:
            return self._concluded(forward, Failure("failed before", why), stale)
        outstanding = None if stale else self.outstanding.get(key)
        if outstanding is not None and self._is_upstream(source, outstanding):
            outstanding.looping = True
            if outstanding.is_own(query.id, query.question):
                return self._fail(forward, LOOP)
        return self._wait(forward, question, stale)

    def _from_cache(
        self, forward: Forward, question: Question, entry: CacheEntry, now: float
    ) -> bytes | Late:
        if not entry.reply.target:  # what is incomplete is completed for each client
            self.keep(
                question.name,
                question.qtype,
                question.variant,
                entry.reply,
                entry.since,
                entry.refresh_at if entry.due else entry.until,
                entry.until,
            )
        return self._relayed(forward, entry.reply, int(now - entry.since), "cached")

    def _wait(self, forward: Forward, question: Question, stale: CacheEntry | None) -> bytes | Late:
        """Wait for the outstanding query for *question*, or for a new one."""
        network, query = forward.network, None
        if self.accounts.may_wait(network):
            query = self._start(question, forward.query.labels, network)
        if query is None:
            return self._concluded(forward, BUSY, stale)
        if query.outcome is not None:
            return self._concluded(forward, query.outcome, stale)
        self.accounts.add_client(network)
        waiter = Waiter(self, forward, query, stale)
        query.waiters[waiter] = network
        return waiter

    def relay_in_turn(self, waiter: Waiter, outcome: Outcome) -> None:
        self.relay(waiter.forward.network, partial(waiter.take, outcome))

    def conclude(self, waiter: Waiter, outcome: Outcome) -> bytes | Late:
        """Return the reply for a client that waited, or what will hold it. Never raises."""
        try:
            return self._concluded(waiter.forward, outcome, waiter.stale)
        except Exception:
            self.log_fault()
            return self._fail(waiter.forward, FAULT)

    def _concluded(
        self, forward: Forward, outcome: Outcome, stale: CacheEntry | None
    ) -> bytes | Late:
        if isinstance(outcome, Relayed):
            return self._relayed(forward, outcome, 0, "answered")
        if stale is not None and outcome.ede[0] is not Ede.BLOCKED:
            ede = _STALE_NXDOMAIN if stale.reply.rcode == Rcode.NXDOMAIN else _STALE
            return self._relayed(forward, stale.reply, None, "stale", ede)
        return self._fail(forward, outcome)

    def _relayed(
        self,
        forward: Forward,
        relayed: Relayed,
        age: int | None,
        outcome: str,
        ede: tuple[Ede, str] | None = None,
    ) -> bytes | Late:
        """Return the reply with *relayed*, which is *age* seconds old, None when it is stale."""
        relayed = self.cut(forward, relayed)
        if not relayed.target:
            self.metrics.forwards[outcome] += 1
            return relay(relayed, forward.query, forward.reply_options, age, ede)
        if not self.outside_aliases:
            return self._fail(forward, ALIAS)
        self.metrics.forwards[outcome] += 1
        chain = relayed.stale() if age is None else relayed.aged(age)
        return self.complete(forward, relayed, chain, ede)

    def _fail(self, forward: Forward, failure: Failure) -> bytes:
        self.metrics.forwards[failure.outcome] += 1
        return servfail(forward, failure.ede)

    # ── outstanding queries ───────────────────────────────────────────────────────────────────────

    def _start(
        self, question: Question, labels: Labels, network: NetworkId
    ) -> OutstandingQuery | None:
        """Return the outstanding query for *question*, sent now for *network* if there is none;
        None when there is no room."""
        if (already := self.outstanding.get(question.key)) is not None:
            return already
        accounts = self.accounts
        if accounts.sockets >= accounts.limit:
            victim = accounts.victim(network)
            if victim is None:
                return None
            victim.end(BUSY)
        rule = self.routes.rule_for(labels, question.qtype)[1]
        states = self.routes.states_of(rule)
        health = [state.health for state in states]
        now = self.loop.time()
        order = preferred(health, now)
        # Hot path: the first one is up, unless all are down.
        patience = None if not order or health[order[0]].up else self.times.hopeless
        plan = Plan(order, now, self.times, patience=patience)
        query = OutstandingQuery(
            question,
            states,
            plan,
            self,
            self._ended,
            network=network,
            allow_prefix=rule.allow_prefix,
        )
        self.outstanding[question.key] = query
        accounts.add(query)
        query.go_on()
        return query

    def _ended(
        self, query: OutstandingQuery, outcome: Outcome, state: UpstreamState | None
    ) -> None:
        """Cache the outcome, before the clients have it."""
        key, now = query.question.key, self.loop.time()
        self.accounts.remove(query)
        self.metrics.forward_seconds.observe(self.clock() - query.started_at)
        if self.outstanding.get(key) is not query:
            return  # the upstreams have changed meanwhile
        del self.outstanding[key]
        if isinstance(outcome, Relayed):
            self.cache.store(key, outcome, now, state.name if state else "", query.network)
        elif outcome not in (BUSY, FAULT):
            self.cache.store_failure(key, outcome.ede, now)
            if query.looping:
                self._count_loop()

    def count_timeout(self, state: UpstreamState, name: bytes) -> None:
        self.prober.count_timeout(state, name)

    def log_fault(self) -> None:
        _log.exception("forwarding failed on a query; its clients get SERVFAIL")
        self.metrics.errors += 1

    # ── loops ─────────────────────────────────────────────────────────────────────────────────────

    def _is_upstream(self, source: bytes, query: OutstandingQuery) -> bool:
        return any(packed(str(state.upstream.endpoint.host)) == source for state in query.states)

    def _count_loop(self) -> None:
        self.metrics.forwards["loop"] += 1
        now = self.loop.time()
        if now >= self._loop_silent_until:
            self._loop_silent_until = now + self.times.loop_again
            _log.warning(
                "forwarding loop: an upstream sends us the queries that we send it, and gets "
                "SERVFAIL; remove this server from the upstream's own upstreams"
            )

    # ── what operators see ────────────────────────────────────────────────────────────────────────

    def describe(self, query: Query) -> list[tuple[str, str]]:
        """Return what would become of *query* now, in steps of (title, sentence)."""
        return explaining.explain(self, query)

    def status(self) -> list[UpstreamFigures]:
        """Return the figures of each upstream, the default ones first."""
        return [explaining.figures(state) for state in self.routes.states.values()]

    def check_books(self) -> None:
        """Raise AssertionError unless the accounts and the cache agree with what is there."""
        self.accounts.check_books()
        self.cache.check_books()
        for key, query in self.outstanding.items():
            assert query.question.key == key
            assert query in self.accounts.queries[query.network]
        for state in self.routes.states.values():
            assert state.outstanding >= 0
            if state.pool:
                state.pool.check_books()
