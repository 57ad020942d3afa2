"""One query that is outstanding at upstreams, for all clients that wait for it.

    Plan (plan.py) ─► UdpAttempt or StreamAttempt (attempts.py) ─► upstream
                              │ a reply that matches: health is updated at once, the plan rests
                              ▼
              judge (verdict.py), in the turn of a network that waits ─► relay, or go on

What is not the reply is ignored, and once such a message came the query goes on over TCP. An
upstream that does not know EDNS is queried once more without, and for five minutes only so (RFC
6891 section 7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from internal_dns.core.catalog import NetworkId
from internal_dns.core.relayed import Relayed
from internal_dns.core.wire import HEADER, TC
from internal_dns.forward.attempts import NO_SOCKET, Attempt, StreamAttempt, UdpAttempt
from internal_dns.forward.context import NOBODY, Client, Context
from internal_dns.forward.outcome import (
    BUSY,
    FAILING,
    FAULT,
    INJECTED,
    TIMEOUT,
    UNREACHABLE,
    Failure,
    Outcome,
)
from internal_dns.forward.plan import Ask, Plan, Wait
from internal_dns.forward.question import Question
from internal_dns.forward.upstream_state import UpstreamState
from internal_dns.forward.verdict import TRY_ANOTHER, Rejection, Sent, judge

# Called once, with the outcome and the state of the upstream that answered, if one did.
OnEnd = Callable[["OutstandingQuery", Outcome, UpstreamState | None], None]


class OutstandingQuery:
    """A query on its way."""

    __slots__ = (
        *("context", "loop", "looping", "network", "on_end", "outcome", "plan", "prefix", "probe"),
        *("question", "started_at", "states", "waiters", "_answered", "_ends", "_no_socket"),
        *("_streams", "_timer", "_turn", "_udp", "_unchecked", "_without_edns"),
    )

    def __init__(
        self,
        question: Question,
        states: Sequence[UpstreamState],
        plan: Plan,
        context: Context,
        on_end: OnEnd,
        *,
        network: NetworkId = NOBODY,
        allow_prefix: bool = False,
        probe: bool = False,
    ) -> None:
        self.question, self.states, self.plan = question, states, plan
        self.context, self.on_end = context, on_end
        self.prefix = None if allow_prefix else context.prefix
        self.network, self.probe, self.loop = network, probe, context.loop
        self.waiters: dict[Client, NetworkId] = {}
        self.started_at = context.clock()
        self.looping = False  # an upstream has sent us the same question meanwhile
        self.outcome: Outcome | None = None  # set when it ends
        self._ends: list[asyncio.Future[None]] = []
        self._udp: list[UdpAttempt] = []
        self._streams: list[StreamAttempt] = []
        self._answered: set[int] = set()  # upstreams with any reply, even no
        self._without_edns: set[int] = set()  # upstreams that turned out not to know EDNS
        self._no_socket = False
        self._timer: asyncio.TimerHandle | None = None
        self._unchecked = 0  # replies that await their check
        self._turn: NetworkId | None = None  # the only network that pays for the present work

    # ── the plan ──────────────────────────────────────────────────────────────────────────────────

    def go_on(self) -> None:
        """Do what the plan says, now and when it is time."""
        try:
            self._go_on()
        except Exception:
            self.fault()

    def _go_on(self) -> None:
        self._rest()
        if self._unchecked:
            return  # a reply that awaits its check is no silence
        while self.outcome is None:
            step = self.plan.step(self.loop.time())
            if isinstance(step, Ask):
                if self.states[step.upstream].upstream.scheme == "udp":
                    self._send_udp(step.upstream)
                else:
                    self._send_stream(step.upstream, required=True)
            elif isinstance(step, Wait):
                self._timer = self.loop.call_at(step.until, self.go_on)
                return
            else:
                self.end(self._failure(step.reached))

    def _rest(self) -> None:
        """Do nothing until `go_on`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _failure(self, reached: bool) -> Failure:
        if reached:
            return FAILING
        if self.loop.time() >= self.plan.end:
            return TIMEOUT
        return BUSY if self._no_socket else UNREACHABLE

    def _rule_out(self, at: int, *, reached: bool) -> None:
        self.plan.rule_out(at, reached=reached)
        self._go_on()

    # ── the end ───────────────────────────────────────────────────────────────────────────────────

    async def ended(self) -> None:
        """Wait until this has ended."""
        if self.outcome is None:
            end: asyncio.Future[None] = self.loop.create_future()
            self._ends.append(end)
            await end

    def end(self, outcome: Outcome, state: UpstreamState | None = None) -> None:
        """Stop, and deliver *outcome* to all that wait."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self._rest()
        self._count_silence()
        for attempt in tuple(self._udp):
            self._close(attempt)
        for stream in self._streams:
            stream.cancel()
        try:
            self.on_end(self, outcome, state)
        finally:  # whatever went wrong there
            waiters, self.waiters = self.waiters, {}
            alone = len(waiters) == 1  # as most are: then no other turn is waited for
            for waiter, network in waiters.items():
                waiter.deliver(outcome, at_once=alone and network == self._turn)
            for end in self._ends:
                if not end.done():
                    end.set_result(None)

    def fault(self) -> None:
        """End with SERVFAIL: a fault of ours costs this query only."""
        self.context.log_fault()
        self.end(FAULT)

    def _count_silence(self) -> None:
        """Count a timeout for upstreams that had time to answer, and did not."""
        if len(self._udp) == 1 and not self._streams and self._udp[0].at in self._answered:
            return  # Hot path: one attempt, answered
        now, patience = self.context.clock(), self.context.times.hedge / 2
        attempts: list[Attempt] = [*reversed(self._udp), *self._streams]
        sent_at = {attempt.at: attempt.sent_at for attempt in attempts}
        for at, since in sent_at.items():
            if now - since >= patience and at not in self._answered:
                self.context.count_timeout(self.states[at], self.question.name)

    # ── attempts ──────────────────────────────────────────────────────────────────────────────────

    @property
    def sockets(self) -> int:
        """How many UDP attempts hold a socket or a share of one."""
        return len(self._udp)

    @property
    def unchecked(self) -> bool:
        """Whether a reply has come that awaits its check."""
        return self._unchecked > 0

    def is_own(self, ident: bytes, section: bytes) -> bool:
        """Return whether a query with this id and question, letter case included, is one of our own
        attempts come back."""
        return any(each.ident == ident and each.section == section for each in self._udp)

    def _edns(self, at: int) -> bool:
        """Return whether to query this upstream with EDNS."""
        until = self.states[at].without_edns_until
        return at not in self._without_edns and (not until or self.loop.time() >= until)

    def _send_udp(self, at: int) -> None:
        state, edns = self.states[at], self._edns(at)
        try:
            attempt = UdpAttempt.send(self, at, state, self.context.clock(), edns=edns)
        except OSError as error:
            ours = error.errno in NO_SOCKET
            self._no_socket |= ours
            state.failures["no socket" if ours else "unreachable"] += 1
            self.plan.unsent(at)
            return
        self.context.accounts.sockets += 1
        self._udp.append(attempt)

    def _close(self, attempt: UdpAttempt) -> None:
        self._udp.remove(attempt)
        attempt.close()
        self.context.accounts.sockets -= 1

    def _send_stream(self, at: int, *, required: bool) -> None:
        state, now, edns = self.states[at], self.context.clock(), self._edns(at)
        # A second attempt does not wait for a connection on which the first got nothing.
        retry = any(each.at == at for each in self._streams)
        attempt = StreamAttempt(self, at, state, now, edns=edns, required=required, retry=retry)
        self._streams.append(attempt)
        attempt.task.add_done_callback(lambda _: self._streams.remove(attempt))

    def lost(self, attempt: Attempt, reason: str, *, reached: bool) -> None:
        try:
            if isinstance(attempt, UdpAttempt):
                if attempt not in self._udp:
                    return
                self._close(attempt)
            self.states[attempt.at].failures[reason] += 1
            if isinstance(attempt, UdpAttempt) or attempt.required:
                self._rule_out(attempt.at, reached=reached or attempt.at in self._answered)
        except Exception:
            self.fault()

    # ── what arrives ──────────────────────────────────────────────────────────────────────────────

    def received_other(self, attempt: UdpAttempt) -> None:
        try:
            self.states[attempt.at].count_near_miss()
            if not attempt.near_miss and self.plan.may_send():
                self._send_stream(attempt.at, required=False)
            attempt.near_miss = True
        except Exception:
            self.fault()

    def received_bare(self, attempt: Attempt, rcode: int) -> None:
        try:
            self._answered.add(attempt.at)
            self.states[attempt.at].replies[rcode] += 1
            self._retry_without_edns(attempt)
        except Exception:
            self.fault()

    def received(self, attempt: Attempt, octets: bytes, age: int = 0) -> None:
        """Take a reply: the upstream is there, whatever it says. What it says is judged in the turn
        of a network that waits. The plan rests meanwhile: that time is not the upstream's."""
        try:
            self._answered.add(attempt.at)
            if len(octets) > HEADER and not self.probe:
                health = self.states[attempt.at].health
                if octets[3] & 15 in TRY_ANOTHER:
                    health.refused(self.question.name)
                elif not octets[2] & TC >> 8:
                    health.answered(self.question.name, self.context.clock() - attempt.sent_at)
            if isinstance(attempt, UdpAttempt):
                attempt.pause()
            self._unchecked += 1
            self._rest()
            networks = set(self.waiters.values()) or {self.network}
            turn = next(iter(networks)) if len(networks) == 1 else None
            self.context.check(networks, partial(self._check, attempt, octets, age, turn))
        except Exception:
            self.fault()

    def received_simple(self, attempt: UdpAttempt, relayed: Relayed) -> None:
        """Take a reply that needs no more check. It is relayed in the turn of a network that
        waits."""
        try:
            state = self.states[attempt.at]
            self._answered.add(attempt.at)
            state.health.answered(self.question.name, self.context.clock() - attempt.sent_at)
            attempt.unchecked = True
            self._unchecked += 1
            self._rest()
            waiters = self.waiters
            # Hot path: one client waits. Replies for one network share a turn (simple.py).
            networks = set(waiters.values()) if len(waiters) > 1 else waiters.values()
            if len(networks) > 1:
                self.context.check(networks, partial(self.relay_simple, attempt, relayed, None))
            else:
                turn = next(iter(networks), self.network)
                self.context.simple.add(turn, self, attempt, relayed)
        except Exception:
            self.fault()

    def relay_simple(self, attempt: UdpAttempt, relayed: Relayed, turn: NetworkId | None) -> None:
        """Relay a reply now; *turn*: the network that pays for it, if it is only one."""
        self._unchecked -= 1
        if self.outcome is not None:
            return
        self._turn = turn
        try:
            self.states[attempt.at].replies[relayed.rcode] += 1
            self._act(attempt, relayed, 0)
        except Exception:
            self.fault()
        finally:
            self._turn = None

    def _check(self, attempt: Attempt, octets: bytes, age: int, turn: NetworkId | None) -> None:
        """Judge a reply now; *turn*: the network that pays for it, if it is only one."""
        self._unchecked -= 1
        if over_udp := isinstance(attempt, UdpAttempt):
            attempt.unchecked = False
        if self.outcome is not None:
            return
        self._turn = turn
        try:
            sent = Sent(attempt.ident, attempt.section, attempt.edns, over_udp, self.probe)
            rcode, verdict = judge(octets, sent, self.question, self.context.zones, self.prefix)
            if rcode is not None:
                self.states[attempt.at].replies[rcode] += 1
            self._act(attempt, verdict, age)
            if self.outcome is None:
                if isinstance(attempt, UdpAttempt) and attempt in self._udp:
                    attempt.resume()
                if self._timer is None:
                    self._go_on()
        except Exception:
            self.fault()
        finally:
            self._turn = None

    def _act(self, attempt: Attempt, verdict: Relayed | Rejection, age: int) -> None:
        """Relay the reply, or do what its rejection demands."""
        state = self.states[attempt.at]
        if isinstance(verdict, Relayed):
            if attempt.at in self._without_edns:  # EDNS was all that it did not know
                state.without_edns_until = self.loop.time() + self.context.times.without_edns
            self.end(verdict.after(age) if age else verdict, state)
            return
        match verdict:
            case Rejection.INJECTED:
                state.failures["injected"] += 1
                self.end(INJECTED)
            case Rejection.FORGED:
                assert isinstance(attempt, UdpAttempt)
                self.received_other(attempt)
            case Rejection.TRUNCATED:
                assert isinstance(attempt, UdpAttempt)
                self._retry_over_tcp(attempt)
            case Rejection.NO_EDNS:
                self._retry_without_edns(attempt)
            case Rejection.REFUSED:
                self._give_up_on(attempt)
            case Rejection.MALFORMED:
                state.failures["malformed"] += 1
                state.health.refused(self.question.name)
                self._give_up_on(attempt)

    def _give_up_on(self, attempt: Attempt) -> None:
        """Rule out the upstream that has answered *attempt*."""
        if isinstance(attempt, UdpAttempt):
            self._close(attempt)
        self._rule_out(attempt.at, reached=True)

    def _retry_without_edns(self, attempt: Attempt) -> None:
        at = attempt.at
        if self.probe or at in self._without_edns or not self.plan.may_send():
            if self.probe:
                self.end(FAILING, self.states[at])
            else:
                self._give_up_on(attempt)
            return
        self._without_edns.add(at)
        if isinstance(attempt, UdpAttempt):
            self._close(attempt)
            self._send_udp(at)
            self._go_on()
        else:
            self._send_stream(at, required=True)

    def _retry_over_tcp(self, attempt: UdpAttempt) -> None:
        if self.plan.may_send():
            self._close(attempt)
            self._send_stream(attempt.at, required=True)
        else:
            self._give_up_on(attempt)
