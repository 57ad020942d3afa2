"""Answer what is not ours: from the cache, or from upstreams, one outstanding question for all who
ask it.

    known and fresh ─► reply                       known and stale ─► ask; after 1.8 s, or failure, the stale reply
    failed just now ─► SERVFAIL                    unknown ─► ask, or wait with those who asked before

A network may have 1,000 clients waiting; sockets are bounded in all, and when they run out the
network that has most questions on their way loses its oldest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from internal_dns.core import names
from internal_dns.core.catalog import NetworkId
from internal_dns.core.journey import Forward
from internal_dns.core.message import Body, message
from internal_dns.core.names import Labels
from internal_dns.core.relayed import Relayed, relay
from internal_dns.core.wire import CD, DS, Ede, Query, Rcode
from internal_dns.forward.cache import FAILED, Age, Cache, CacheEntry
from internal_dns.forward.outstanding import (
    ALIAS,
    BUSY,
    FAULT,
    LOOP,
    PROBE,
    Failure,
    Outcome,
    OutstandingQuery,
    Question,
    State,
)
from internal_dns.forward.policy import HEDGE, PATIENCE, PROBE_TIMEOUT, Plan, preferred
from internal_dns.forward.sockets import SOCKETS, Pool
from internal_dns.forward.streams import channel
from internal_dns.forward.upstreams import Rule, Upstream
from internal_dns.late import Late
from internal_dns.metrics import Metrics, UpstreamFigures, rcode_name
from internal_dns.net import packed

PER_NETWORK: Final = 1_000  # clients waiting
CLIENT_PATIENCE: Final = (
    1.8  # seconds until a stale reply is better than a late one (RFC 8767 section 5)
)
HOPELESS: Final = 2.0  # seconds a question may take while all its upstreams are known to be down
LOOK_AT: Final = 16  # of the questions that may have to make room
_STALE: Final = (Ede.STALE, "no upstream answered; this is what one said before")
_STALE_NXDOMAIN: Final = (Ede.STALE_NXDOMAIN, _STALE[1])
_log = logging.getLogger("internal_dns")

# Returns the reply to a question whose answer is a chain into one of our names.
Complete = Callable[[Forward, Relayed, bytes, tuple[Ede, str] | None], bytes | Late]


class Forwarder:
    """Forwards questions; one per server."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        metrics: Metrics,
        prefix: bytes,
        *,
        rules: Mapping[Labels, Rule] | None = None,
        limit: int = 4_096,
        ca: Path | None = None,
        cache: Cache | None = None,
        outside_aliases: bool = True,
        sockets: str = "auto",
    ) -> None:
        self.outside_aliases, self.mode = outside_aliases, sockets
        self.metrics, self.prefix, self.limit, self.ca = metrics, prefix, limit, ca
        self.zones = frozenset(
            map(names.wire, (names.INTERNAL, names.FLYCAST, names.reverse_zone(prefix)))
        )
        self.cache = cache or Cache()
        self.sockets = 0
        self.waiting: Counter[NetworkId] = Counter()
        self.asking: dict[bytes, OutstandingQuery] = {}
        self.of_network: dict[
            NetworkId, dict[OutstandingQuery, None]
        ] = {}  # the oldest first; those of before `use` too
        self.states: dict[Upstream, State] = {}
        self._states_of: dict[tuple[Upstream, ...], list[State]] = {}
        # The answer table's, so that what is asked for again is repeated without us.
        self.keep: Callable[[bytes, int, int, Relayed, float, float, float], None] = lambda *kept: (
            None
        )
        self.complete: Complete = nothing_of_ours
        # Ends a chain where it leads into a zone of the asker's network.
        self.cut: Callable[[Forward, Relayed], Relayed] = lambda forward, relayed: relayed
        self.forget: Callable[[], None] = lambda: None
        # The fair queue's, so that checking and relaying replies has its turn.
        self.relay: Callable[[NetworkId, Callable[[], None]], None] = lambda network, make: make()
        self.check: Callable[[Iterable[NetworkId], Callable[[], None]], None] = (
            lambda networks, check: check()
        )
        self._probes: set[OutstandingQuery] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self.use(upstreams, rules or {})

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def use(self, upstreams: Sequence[Upstream], rules: Mapping[Labels, Rule]) -> None:
        """Ask these from now on. What others said is forgotten; health and connections of those
        that stay are not.

        What is on its way is answered for those who wait for it already, and not kept.
        """
        before = self.states
        self.default, self.rules = Rule(tuple(upstreams)), dict(rules)
        every = dict.fromkeys(
            (*upstreams, *(u for rule in self.rules.values() for u in rule.upstreams))
        )
        self.states = {u: before.get(u) or self._state(u) for u in every}
        self._share_sockets()
        self._states_of = {
            rule.upstreams: [self.states[upstream] for upstream in rule.upstreams]
            for rule in (self.default, *self.rules.values())
        }
        self.cache.clear()
        self.forget()
        self.asking.clear()
        for gone in before.keys() - self.states.keys():
            task = asyncio.get_running_loop().create_task(self._leave(before[gone]))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    @property
    def pooled(self) -> int:
        """How many sockets the pools may have in all."""
        return self.shared * sum(state.pool is not None for state in self.states.values())

    def use_manners(self, *, outside_aliases: bool, sockets: str) -> None:
        """From now on complete aliases from outside or not, and share sockets so."""
        self.outside_aliases = outside_aliases
        if sockets != self.mode:
            self.mode = sockets
            self._share_sockets()

    def _state(self, upstream: Upstream) -> State:
        return State(upstream, channel(upstream, self.ca))

    def _share_sockets(self) -> None:
        """Give each upstream a pool of sockets, or none, as the setting says."""
        udp = [state for state in self.states.values() if state.upstream.scheme == "udp"]
        self.shared = min(SOCKETS, max(1, self.limit // (2 * len(udp) or 1)))
        for state in udp:
            before, state.pool = state.pool, None
            if self.mode != "fresh":
                family, anywhere = state.upstream.endpoint.family, self.mode == "pool"
                state.pool = Pool(family, state.address, self.shared, state.missed, anywhere)
            if before is not None:
                before.close()

    async def _leave(self, state: State) -> None:
        """Close the connections to an upstream when all that it has been asked is over."""
        over = [asking.over() for asking in self._on_their_way() if state in asking.states]
        await asyncio.gather(*over)
        if state.pool:
            state.pool.close()
        await state.channel.close()

    def _on_their_way(self) -> Iterator[OutstandingQuery]:
        return chain(self._probes, *self.of_network.values())

    async def close(self) -> None:
        """End what is on its way, and all connections."""
        for asking in tuple(self._on_their_way()):
            asking.end(BUSY)
        for state in self.states.values():
            if state.probe_timer:
                state.probe_timer.cancel()
            if state.pool:
                state.pool.close()
        await asyncio.gather(
            *(state.channel.close() for state in self.states.values()), *self._closing
        )

    # ── clients ───────────────────────────────────────────────────────────────────────────────────

    def answer(self, forward: Forward, source: bytes) -> bytes | Late:
        """Return the reply, or what will hold it when upstreams have been asked; never raises."""
        query, now = forward.query, self.loop.time()
        question = question_of(query)
        key = question.key
        stale: CacheEntry | None = None
        if (found := self.cache.find(key, now, forward.network)) is not None:
            kept, age = found
            if age is not Age.STALE:
                if age is Age.DUE:
                    self._start(question, query.labels, forward.network)
                return self._cached(forward, question, kept, now)
            stale = kept
        if (why := self.cache.failure(key, now)) is not None:
            return self._concluded(forward, Failure("failed before", why), stale)
        asking = None if stale else self.asking.get(key)
        if asking is not None and self._is_upstream(source, asking):
            asking.looping = True
            if asking.is_own(query.id, query.question):
                return self._fail(forward, LOOP)
        return self._ask(forward, question, stale)

    def _cached(
        self, forward: Forward, question: Question, kept: CacheEntry, now: float
    ) -> bytes | Late:
        if not kept.reply.target:  # what is incomplete is completed for each who asks
            self.keep(
                question.name,
                question.qtype,
                question.variant,
                kept.reply,
                kept.since,
                kept.refresh_at if kept.due else kept.until,
                kept.until,
            )
        return self._relayed(forward, kept.reply, int(now - kept.since), "cached")

    def _ask(self, forward: Forward, question: Question, stale: CacheEntry | None) -> bytes | Late:
        """Join those who ask this, or ask it."""
        number, asking = forward.network, None
        if self.waiting[number] < PER_NETWORK:
            asking = self._start(question, forward.query.labels, number)
        if asking is None:
            return self._concluded(forward, BUSY, stale)
        if asking.outcome is not None:
            return self._concluded(forward, asking.outcome, stale)
        self.waiting[number] += 1
        waiter = Waiter(self, forward, asking, stale)
        asking.waiters[waiter] = number
        if stale is not None:
            waiter.timer = self.loop.call_later(CLIENT_PATIENCE, waiter.lose_patience)
        return waiter

    def conclude(self, waiter: Waiter, outcome: Outcome) -> bytes | Late:
        """Return the reply for a client that waited; never raises."""
        try:
            return self._concluded(waiter.forward, outcome, waiter.stale)
        except Exception:
            self.failed_on(waiter.asking)
            return self._fail(waiter.forward, FAULT)

    def no_longer_waits(self, number: NetworkId) -> None:
        """Count one client less that waits."""
        self.waiting[number] -= 1
        if not self.waiting[number]:
            del self.waiting[number]

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
        """Return the reply that holds *relayed*, which has been here for *age* seconds, None when it
        is stale."""
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
        return message(
            Body(Rcode.SERVFAIL, aa=False, ede=failure.ede), forward.query, forward.reply_options
        )

    # ── questions ─────────────────────────────────────────────────────────────────────────────────

    def _start(
        self, question: Question, labels: Labels, number: NetworkId
    ) -> OutstandingQuery | None:
        """Send a question on its way for *number*; None when there is no room for it."""
        if (already := self.asking.get(question.key)) is not None:
            return already
        if self.sockets >= self.limit and not self._make_room(number):
            return None
        rule = self.rule_for(labels, question.qtype)[1]
        states = self._states_of[rule.upstreams]
        health = [state.health for state in states]
        patience = PATIENCE if any(each.up for each in health) else HOPELESS
        now = self.loop.time()
        plan = Plan(preferred(health, now), now, patience)
        asking = OutstandingQuery(
            question, states, plan, self, self._done, network=number, allow_prefix=rule.allow_prefix
        )
        self.asking[question.key] = asking
        self.of_network.setdefault(number, {})[asking] = None
        asking.go_on()
        return asking

    def _done(self, asking: OutstandingQuery, outcome: Outcome, state: State | None) -> None:
        """Keep what came of a question, before those who wait are told."""
        key, now = asking.question.key, self.loop.time()
        of_network = self.of_network[asking.network]
        del of_network[asking]
        if not of_network:
            del self.of_network[asking.network]
        self.metrics.forward_seconds.observe(time.monotonic() - asking.started_at)
        if self.asking.get(key) is not asking:
            return  # other upstreams are asked since
        del self.asking[key]
        if isinstance(outcome, Relayed):
            self.cache.keep(key, outcome, now, state.name if state else "", asking.network)
        elif outcome not in (BUSY, FAULT):
            self.cache.failed(key, outcome.ede, now)
            if asking.looping:
                self._tell_loop()

    def _make_room(self, number: NetworkId) -> bool:
        """End the oldest question of the network that has most on their way, if it has more than
        *number*."""
        greedy = max(self.of_network, key=lambda n: len(self.of_network[n]), default=number)
        if (
            greedy == number
            or len(self.of_network[greedy]) <= len(self.of_network.get(number, ())) + 1
        ):
            return False
        for asking in tuple(islice(self.of_network[greedy], LOOK_AT)):
            if all(waiting == greedy for waiting in asking.waiters.values()):
                asking.end(BUSY)
                return True
        return False

    def rule_for(self, labels: Labels, qtype: int = 0) -> tuple[Labels, Rule]:
        """Return the longest suffix with a rule, and the rule; else the root and the default
        upstreams. DS is the parent's, whose suffix is shorter (RFC 4035 section 3.1.4.1)."""
        if not self.rules:
            return (), self.default
        for at in range(qtype == DS, len(labels)):
            if found := self.rules.get(labels[at:]):
                return labels[at:], found
        return (), self.default

    def told(self, query: Query) -> list[tuple[str, str]]:
        """Return what would become of *query* now, in steps of (title, sentence), without asking or
        counting it."""
        now, question = self.loop.time(), question_of(query)
        key = question.key
        steps = [
            ("rule", self._rule_in_words(query.labels, query.qtype)),
            ("cache", self._cache_in_words(key, now)),
        ]
        if (asking := self.asking.get(key)) is not None:
            steps.append(
                (
                    "asked",
                    f"{time.monotonic() - asking.started_at:.1f} s ago; {len(asking.waiters)} wait "
                    f"for the reply",
                )
            )
        states = [
            self.states[upstream]
            for upstream in self.rule_for(query.labels, query.qtype)[1].upstreams
        ]
        order = preferred([state.health for state in states], now)
        steps += [
            ("upstream", f"{number}. {_in_words(states[at])}") for number, at in enumerate(order, 1)
        ]
        return steps

    def _rule_in_words(self, labels: Labels, qtype: int) -> str:
        suffix, rule = self.rule_for(labels, qtype)
        allowed = ", which may tell addresses of the prefix" * rule.allow_prefix
        if not suffix:
            return "no suffix has a rule for it: the default upstreams"
        return f"suffix {names.printable(b'.'.join(suffix))} has upstreams of its own{allowed}"

    def _cache_in_words(self, key: bytes, now: float) -> str:
        if (why := self.cache.failure(key, now)) is not None:
            return f"failed a moment ago, not asked again for {FAILED} s: {why[1]}"
        if (kept := self.cache.peek(key)) is None:
            return "nothing: an upstream would be asked"
        rcode, count = rcode_name(kept.reply.rcode), sum(kept.reply.counts)
        what = f"{rcode}, {count} RRs from {kept.to} {now - kept.since:.0f} s ago"
        if kept.reply.target:
            what += ", a chain that ends in a name of ours, which is answered for each who asks"
        if now < kept.until:
            return f"{what}, good for {kept.until - now:.0f} s more: repeated without asking"
        return f"{what}, past its time: sent only if no upstream answers within {CLIENT_PATIENCE} s"

    def status(self) -> list[UpstreamFigures]:
        """Return how each upstream is doing, the default ones first."""
        return [
            UpstreamFigures(
                to=state.name,
                up=state.health.up,
                success_ratio=state.health.success_ratio,
                latency_seconds=state.health.latency,
                outstanding=state.outstanding,
                queries=dict(state.queries),
                replies={rcode_name(rcode): count for rcode, count in state.replies.items()},
                failures=dict(state.failures),
            )
            for state in self.states.values()
        ]

    # ── upstreams ─────────────────────────────────────────────────────────────────────────────────

    def unheard(self, state: State, name: bytes) -> None:
        """Count that *state* did not answer for *name*; see whether it is there at all."""
        loop, health = self.loop, state.health
        state.failures["timeout"] += 1
        probing = health.probing
        health.silent(name, loop.time())
        if health.probing and not probing:
            self._probe_at(state, loop.time())

    def failed_on(self, asking: OutstandingQuery) -> None:
        """Log a fault of ours."""
        _log.exception("forwarding failed")
        self.metrics.errors += 1

    def _probe_at(self, state: State, when: float) -> None:
        """Probe *state* then, and not also when that was due that something else has answered
        since."""
        if state.probe_timer:
            state.probe_timer.cancel()
        state.probe_timer = asyncio.get_running_loop().call_at(when, self._probe, state)

    def _probe(self, state: State) -> None:
        """Ask *state* whether it is there, until it is."""
        loop, health = self.loop, state.health
        if not health.probing or self.states.get(state.upstream) is not state:
            return

        def done(asking: OutstandingQuery, outcome: Outcome, by: State | None) -> None:
            self._probes.discard(asking)
            was_up = health.up
            if by is not None:
                health.probe_answered()
            elif health.probing:
                health.probe_missed(loop.time())
                self._probe_at(state, health.probe_at)
            if was_up and not health.up:
                _log.warning(
                    "upstream %s does not answer: the others are asked first", state.upstream
                )

        asking = OutstandingQuery(
            PROBE, [state], Plan((0,), loop.time(), PROBE_TIMEOUT, tries=1), self, done, probe=True
        )
        self._probes.add(asking)
        asking.go_on()

    def _is_upstream(self, source: bytes, asking: OutstandingQuery) -> bool:
        return any(packed(str(state.upstream.endpoint.host)) == source for state in asking.states)

    def _tell_loop(self) -> None:
        self.metrics.forwards["loop"] += 1
        now = asyncio.get_running_loop().time()
        if now >= self._loop_told_until:
            self._loop_told_until = now + 60
            _log.warning(
                "an upstream asks us what we ask it: a loop? Nothing it asks can be answered by "
                "asking it"
            )

    _loop_told_until = 0.0


class Waiter(Late):
    """A client that waits with all who ask the same: its reply, when there is one."""

    def __init__(
        self,
        forwarder: Forwarder,
        forward: Forward,
        asking: OutstandingQuery,
        stale: CacheEntry | None,
    ) -> None:
        super().__init__(loop=forwarder.loop)
        self.forwarder, self.forward, self.asking, self.stale = forwarder, forward, asking, stale
        self.timer: asyncio.TimerHandle | None = None
        self.next: Late | None = None  # what it waits for after its own question

    def tell(self, outcome: Outcome, *, at_once: bool = False) -> None:
        """Have the reply made in the turn of the client's network, which may be now."""
        if self.timer is not None:
            self.timer.cancel()
        if at_once:
            self._make(outcome)
        else:
            self.forwarder.relay(self.forward.network, partial(self._make, outcome))

    def _make(self, outcome: Outcome) -> None:
        if not self.done():  # the client has not left
            self.forwarder.no_longer_waits(self.forward.network)
            reply = self.forwarder.conclude(self, outcome)
            if isinstance(reply, bytes):
                self.have(reply)
            else:  # its aliases lead outside once more
                self.next = reply
                reply.when_there(self._have_next)

    def _have_next(self, reply: bytes) -> None:
        if not self.done():
            self.have(reply)

    def lose_patience(self) -> None:
        """Take the stale reply; the question goes on. Not while a reply waits to be checked: that
        comes sooner."""
        if self.asking.unchecked:
            self.timer = self.forwarder.loop.call_later(HEDGE, self.lose_patience)
            return
        self.asking.waiters.pop(self, None)
        self.tell(BUSY)

    def cancel(self, msg: Any | None = None) -> bool:
        """The client is gone; the question goes on for the others."""
        if not self.done():
            if self.timer is not None:
                self.timer.cancel()
            if self.next is not None:
                self.next.cancel(msg)
            else:
                self.asking.waiters.pop(self, None)
                self.forwarder.no_longer_waits(self.forward.network)
        return super().cancel(msg)


def nothing_of_ours(
    forward: Forward, relayed: Relayed, chain: bytes, ede: tuple[Ede, str] | None
) -> bytes:
    """Return SERVFAIL: nobody has said how our names are answered."""
    body = Body(Rcode.SERVFAIL, aa=False, ede=(Ede.NOT_READY, "no name of ours is answered here"))
    return message(body, forward.query, forward.reply_options)


def _in_words(state: State) -> str:
    health = state.health
    if not state.queries:
        return f"{state.upstream}, not asked so far"
    latency = f", {health.latency * 1000:.1f} ms" if health.latency else ""
    ratio = (
        f", {health.success_ratio:.0%} of the latest names answered"
        if health.success_ratio < 1
        else ""
    )
    return f"{state.upstream} {'answers' if health.up else 'does not answer'}{latency}{ratio}"


def question_of(query: Query) -> Question:
    """Return what of *query* decides its reply."""
    dnssec_ok = bool(query.edns and query.edns.dnssec_ok)
    return Question(query.name, query.qtype, dnssec_ok, bool(query.flags & CD))
