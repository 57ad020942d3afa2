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
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
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
from internal_dns.core.wire import CD, Ede, Query, Rcode
from internal_dns.forward.asking import (
    BUSY,
    FAULT,
    LOOP,
    PROBE,
    Asking,
    Failure,
    Outcome,
    Question,
    State,
)
from internal_dns.forward.cache import FAILED, Age, Cache, Kept
from internal_dns.forward.policy import PATIENCE, PROBE_TIMEOUT, Plan, preferred
from internal_dns.forward.streams import channel
from internal_dns.forward.upstreams import Rule, Upstream
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
    ) -> None:
        self.metrics, self.prefix, self.limit, self.ca = metrics, prefix, limit, ca
        self.zones = frozenset(
            map(names.wire, (names.INTERNAL, names.FLYCAST, names.reverse_zone(prefix)))
        )
        self.cache = cache or Cache()
        self.sockets = 0
        self.waiting: Counter[NetworkId] = Counter()
        self.asking: dict[bytes, Asking] = {}
        self.of_network: dict[
            NetworkId, dict[Asking, None]
        ] = {}  # the oldest first; those of before `use` too
        self.states: dict[Upstream, State] = {}
        # The answer table's, so that what is asked for again is repeated without us.
        self.keep: Callable[[bytes, int, int, Relayed, float, float, float], None] = lambda *kept: (
            None
        )
        self.forget: Callable[[], None] = lambda: None
        # The fair queue's, so that checking and relaying replies has its turn.
        self.relay: Callable[[NetworkId, Callable[[], bytes]], Awaitable[bytes]] = _relay_at_once
        self.check: Callable[[Iterable[NetworkId], Callable[[], None]], None] = (
            lambda networks, check: check()
        )
        self._probes: set[Asking] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self.use(upstreams, rules or {})

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
        self.states = {u: before.get(u) or State(u, channel(u, self.ca)) for u in every}
        self.cache.clear()
        self.forget()
        self.asking.clear()
        for gone in before.keys() - self.states.keys():
            task = asyncio.get_running_loop().create_task(self._leave(before[gone]))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _leave(self, state: State) -> None:
        """Close the connections to an upstream when all that it has been asked is over."""
        over = [
            asking.wait(asking.network, None)
            for asking in self._on_their_way()
            if state in asking.states
        ]
        await asyncio.gather(*over)
        await state.channel.close()

    def _on_their_way(self) -> Iterator[Asking]:
        return chain(self._probes, *self.of_network.values())

    async def close(self) -> None:
        """End what is on its way, and all connections."""
        for asking in tuple(self._on_their_way()):
            asking.end(BUSY)
        for state in self.states.values():
            if state.probe_timer:
                state.probe_timer.cancel()
        await asyncio.gather(
            *(state.channel.close() for state in self.states.values()), *self._closing
        )

    # ── clients ───────────────────────────────────────────────────────────────────────────────────

    def answer(self, forward: Forward, source: bytes) -> bytes | Coroutine[Any, Any, bytes]:
        """Return the reply, or what will return it when upstreams have been asked."""
        query, now = forward.query, asyncio.get_running_loop().time()
        question = question_of(query)
        key = question.key
        stale: Kept | None = None
        if (found := self.cache.find(key, now, forward.network)) is not None:
            kept, age = found
            if age is Age.STALE:
                stale = kept
            else:
                if age is Age.DUE:
                    self._start(question, query.labels, forward.network)
                refresh_at = kept.refresh_at if kept.due else kept.until
                self.keep(
                    question.name,
                    question.qtype,
                    question.variant,
                    kept.reply,
                    kept.since,
                    refresh_at,
                    kept.until,
                )
                self.metrics.forwards["cached"] += 1
                return relay(kept.reply, query, forward.manner, int(now - kept.since))
        if (why := self.cache.failure(key, now)) is not None:
            return self._concluded(forward, Failure("failed before", why), stale)
        asking = None if stale else self.asking.get(key)
        if asking is not None and self._is_upstream(source, asking):
            asking.looping = True
            if asking.is_own(query.id, query.question):
                return self._fail(forward, LOOP)
        return self._ask(forward, question, stale)

    def _ask(
        self, forward: Forward, question: Question, stale: Kept | None
    ) -> bytes | Coroutine[Any, Any, bytes]:
        """Join those who ask this, or ask it."""
        number, asking = forward.network, None
        if self.waiting[number] < PER_NETWORK:
            # At once: were it done by the coroutine, a reply could come before that runs, and be
            # asked for again.
            asking = self._start(question, forward.query.labels, number)
        if asking is None:
            return self._concluded(forward, BUSY, stale)
        return self._wait(forward, asking, stale)

    async def _wait(self, forward: Forward, asking: Asking, stale: Kept | None) -> bytes:
        """Wait with all who ask this; never raises."""
        number = forward.network
        outcome: Outcome = BUSY
        if self.waiting[number] < PER_NETWORK:
            self.waiting[number] += 1
            try:
                outcome = await asking.wait(number, CLIENT_PATIENCE if stale else None)
            except TimeoutError:
                pass  # the question goes on; this client has waited long enough
            finally:
                self.waiting[number] -= 1
                if not self.waiting[number]:
                    del self.waiting[number]
        return await self.relay(number, partial(self._concluded, forward, outcome, stale))

    def _concluded(self, forward: Forward, outcome: Outcome, stale: Kept | None) -> bytes:
        if isinstance(outcome, Relayed):
            self.metrics.forwards["answered"] += 1
            return relay(outcome, forward.query, forward.manner)
        if stale is not None and outcome.ede[0] is not Ede.BLOCKED:
            return self._stale(forward, stale)
        return self._fail(forward, outcome)

    def _stale(self, forward: Forward, kept: Kept) -> bytes:
        self.metrics.forwards["stale"] += 1
        ede = _STALE_NXDOMAIN if kept.reply.rcode == Rcode.NXDOMAIN else _STALE
        return relay(kept.reply, forward.query, forward.manner, None, ede)

    def _fail(self, forward: Forward, failure: Failure) -> bytes:
        self.metrics.forwards[failure.outcome] += 1
        return message(
            Body(Rcode.SERVFAIL, aa=False, ede=failure.ede), forward.query, forward.manner
        )

    # ── questions ─────────────────────────────────────────────────────────────────────────────────

    def _start(self, question: Question, labels: Labels, number: NetworkId) -> Asking | None:
        """Send a question on its way for *number*; None when there is no room for it."""
        if (already := self.asking.get(question.key)) is not None:
            return already
        if self.sockets >= self.limit and not self._make_room(number):
            return None
        rule = self.rule_for(labels)[1]
        states = [self.states[upstream] for upstream in rule.upstreams]
        health = [state.health for state in states]
        patience = PATIENCE if any(each.up for each in health) else HOPELESS
        now = asyncio.get_running_loop().time()
        plan = Plan(preferred(health, now), now, patience)
        asking = Asking(
            question, states, plan, self, self._done, network=number, allow_prefix=rule.allow_prefix
        )
        self.asking[question.key] = asking
        self.of_network.setdefault(number, {})[asking] = None
        asking.go_on()
        return asking

    def _done(self, asking: Asking, outcome: Outcome, state: State | None) -> None:
        """Keep what came of a question, before those who wait are told."""
        key, now = asking.question.key, asyncio.get_running_loop().time()
        of_network = self.of_network[asking.network]
        del of_network[asking]
        if not of_network:
            del self.of_network[asking.network]
        self.metrics.forward_seconds.observe(time.monotonic() - asking.started_at)
        if self.asking.get(key) is not asking:
            return  # other upstreams are asked since
        del self.asking[key]
        if isinstance(outcome, Relayed):
            self.cache.keep(key, outcome, now, str(state.upstream) if state else "", asking.network)
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

    def rule_for(self, labels: Labels) -> tuple[Labels, Rule]:
        """Return the longest suffix with a rule, and the rule; else the root and the default
        upstreams."""
        for at in range(len(labels)):
            if found := self.rules.get(labels[at:]):
                return labels[at:], found
        return (), self.default

    def told(self, query: Query) -> list[tuple[str, str]]:
        """Return what would become of *query* now, in steps of (title, sentence), without asking or
        counting it."""
        now, question = asyncio.get_running_loop().time(), question_of(query)
        key = question.key
        steps = [
            ("rule", self._rule_in_words(query.labels)),
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
        states = [self.states[upstream] for upstream in self.rule_for(query.labels)[1].upstreams]
        order = preferred([state.health for state in states], now)
        steps += [
            ("upstream", f"{number}. {_in_words(states[at])}") for number, at in enumerate(order, 1)
        ]
        return steps

    def _rule_in_words(self, labels: Labels) -> str:
        suffix, rule = self.rule_for(labels)
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
        if now < kept.until:
            return f"{what}, good for {kept.until - now:.0f} s more: repeated without asking"
        return f"{what}, past its time: sent only if no upstream answers within {CLIENT_PATIENCE} s"

    def status(self) -> list[UpstreamFigures]:
        """Return how each upstream is doing, the default ones first."""
        return [
            UpstreamFigures(
                to=str(state.upstream),
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
        loop, health = asyncio.get_running_loop(), state.health
        state.failures["timeout"] += 1
        probing = health.probing
        health.silent(name, loop.time())
        if health.probing and not probing:
            self._probe_at(state, loop.time())

    def failed_on(self, asking: Asking) -> None:
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
        loop, health = asyncio.get_running_loop(), state.health
        if not health.probing or self.states.get(state.upstream) is not state:
            return

        def done(asking: Asking, outcome: Outcome, by: State | None) -> None:
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

        asking = Asking(
            PROBE, [state], Plan((0,), loop.time(), PROBE_TIMEOUT, tries=1), self, done, probe=True
        )
        self._probes.add(asking)
        asking.go_on()

    def _is_upstream(self, source: bytes, asking: Asking) -> bool:
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


async def _relay_at_once(network: NetworkId, make: Callable[[], bytes]) -> bytes:
    return make()


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
