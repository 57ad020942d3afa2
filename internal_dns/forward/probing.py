"""Probes: whether an upstream that was silent for several names is there at all."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from internal_dns.forward.context import Context
from internal_dns.forward.outcome import Outcome
from internal_dns.forward.outstanding import OutstandingQuery
from internal_dns.forward.plan import Plan
from internal_dns.forward.question import ROOT_NS
from internal_dns.forward.routes import Routes
from internal_dns.forward.upstream_state import UpstreamState

_log: Final = logging.getLogger("internal_dns")


class Prober:
    """Sends probes to silent upstreams until they answer."""

    def __init__(self, context: Context, routes: Routes) -> None:
        self.context, self.routes = context, routes

    def count_timeout(self, state: UpstreamState, name: bytes) -> None:
        """Count that *state* did not answer for *name*, and probe it if need be."""
        now, health = asyncio.get_running_loop().time(), state.health
        state.failures["timeout"] += 1
        was_probing = health.probing
        health.silent(name, now)
        if health.probing and not was_probing:
            self._probe_at(state, now)

    def _probe_at(self, state: UpstreamState, when: float) -> None:
        """Probe *state* then. A probe that is due already would be one too many."""
        if state.probe_timer:
            state.probe_timer.cancel()
        state.probe_timer = asyncio.get_running_loop().call_at(when, self._probe, state)

    def _probe(self, state: UpstreamState) -> None:
        if not state.health.probing or not self.routes.uses(state):
            return
        context = self.context
        now, times = asyncio.get_running_loop().time(), context.times
        plan = Plan((0,), now, times, patience=times.probe, tries=1)
        probe = OutstandingQuery(ROOT_NS, [state], plan, context, self._ended, probe=True)
        context.accounts.probes.add(probe)
        probe.go_on()

    def _ended(self, probe: OutstandingQuery, _: Outcome, answered: UpstreamState | None) -> None:
        self.context.accounts.probes.discard(probe)
        (state,) = probe.states
        health, was_up = state.health, state.health.up
        if answered is not None:
            health.probe_answered()
        elif health.probing:
            health.probe_missed(probe.loop.time())
            self._probe_at(state, health.probe_at)
        if was_up and not health.up:
            _log.warning(
                "upstream %s does not answer; queries go to other upstreams first", state.name
            )
