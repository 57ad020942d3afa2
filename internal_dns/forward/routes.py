"""The upstreams in use: which of them are queried for which names, and what is kept of each.

DS belongs to the parent zone: the DS record of a rule's own suffix is asked of the upstreams of the
zone above (RFC 4035 section 3.1.4.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from internal_dns.core.names import Labels
from internal_dns.core.wire import DS
from internal_dns.forward.channel import Channel, tls_context
from internal_dns.forward.health import Health
from internal_dns.forward.https import HttpsChannel
from internal_dns.forward.native.sockets import NativeSockets
from internal_dns.forward.sockets import SOCKETS, SocketPool
from internal_dns.forward.streams import StreamChannel
from internal_dns.forward.times import Times
from internal_dns.forward.upstream_state import UpstreamState
from internal_dns.forward.upstreams import Rule, Upstream

LIMIT: Final = 4_096  # sockets of a forwarder that is not told otherwise


class Routes:
    """The default upstreams, and those of single suffixes.

    *limit* bounds the UDP sockets in all, *mode* is the setting `upstream_sockets`. With *native*,
    UDP goes over native sockets.
    """

    def __init__(
        self,
        ca: Path | None,
        times: Times,
        limit: int,
        mode: str,
        native: NativeSockets | None = None,
    ) -> None:
        self.ca, self.times, self.limit, self.mode = ca, times, limit, mode
        self.native = native
        self.default = Rule(())
        self.rules: dict[Labels, Rule] = {}
        self.states: dict[Upstream, UpstreamState] = {}  # the default upstreams first
        self.shared = 0  # sockets of one pool
        self._states_of: dict[tuple[Upstream, ...], list[UpstreamState]] = {}
        self._default_states: list[UpstreamState] = []

    def use(
        self, upstreams: Sequence[Upstream], rules: Mapping[Labels, Rule]
    ) -> list[UpstreamState]:
        """Use these from now on, and return the states of upstreams that are no longer used.

        Upstreams that stay keep their health and connections. Raises OSError or ssl.SSLError when
        the authorities in *ca* cannot be used; then nothing has changed.
        """
        before = self.states
        named = (*upstreams, *(u for rule in rules.values() for u in rule.upstreams))
        states = {u: before.get(u) or self._state(u) for u in dict.fromkeys(named)}
        self.default, self.rules, self.states = Rule(tuple(upstreams)), dict(rules), states
        self.share_sockets(self.mode)
        self._states_of = {
            rule.upstreams: [states[upstream] for upstream in rule.upstreams]
            for rule in (self.default, *self.rules.values())
        }
        self._default_states = self._states_of[self.default.upstreams]
        return [before[upstream] for upstream in before.keys() - states.keys()]

    def uses(self, state: UpstreamState) -> bool:
        return self.states.get(state.upstream) is state

    def rule_for(self, labels: Labels, qtype: int = 0) -> tuple[Labels, Rule]:
        """Return the longest suffix with a rule, and the rule; else the root and the default
        upstreams."""
        if not self.rules:
            return (), self.default
        for at in range(qtype == DS, len(labels)):
            if rule := self.rules.get(labels[at:]):
                return labels[at:], rule
        return (), self.default

    def states_of(self, rule: Rule) -> list[UpstreamState]:
        if rule is self.default:  # Hot path: hashing upstreams takes a microsecond
            return self._default_states
        return self._states_of[rule.upstreams]

    @property
    def pooled(self) -> int:
        """How many sockets the pools may have in all."""
        if self.mode == "fresh":
            return 0
        return self.shared * sum(state.upstream.scheme == "udp" for state in self.states.values())

    def share_sockets(self, mode: str) -> None:
        """Give each UDP upstream a pool of sockets, or none, as the setting says."""
        self.mode = mode
        udp = [state for state in self.states.values() if state.upstream.scheme == "udp"]
        self.shared = min(SOCKETS, max(1, self.limit // (2 * len(udp) or 1)))
        for state in udp:
            state.close_sockets()
            endpoint = state.upstream.endpoint
            # An interface that went away and came back has another number: looked up per query.
            scoped = isinstance(endpoint.host, IPv6Address) and endpoint.host.scope_id
            if self.native is not None and not scoped:
                state.native = self.native.target(
                    endpoint.sockaddr, mode, self.shared, state.count_near_miss
                )
            elif mode != "fresh":
                state.pool = SocketPool(
                    state.upstream.endpoint.family,
                    state.sockaddr,
                    self.shared,
                    state.count_near_miss,
                    anywhere=mode == "pool",
                    times=self.times,
                )

    def _state(self, upstream: Upstream) -> UpstreamState:
        return UpstreamState(upstream, self._channel(upstream), Health(self.times))

    def _channel(self, upstream: Upstream) -> Channel:
        if upstream.scheme == "https":
            return HttpsChannel(upstream, self.ca, self.times)
        tls = tls_context(self.ca) if upstream.scheme == "tls" else None
        return StreamChannel(upstream, tls, self.times)
