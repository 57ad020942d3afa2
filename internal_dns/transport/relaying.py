"""External names: ask the forwarder, relay its replies in turn, join aliases of ours with what they
lead to outside, complete aliases that lead here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Protocol

from internal_dns.core.aliases import complete_chain, join_chain, question_at_end
from internal_dns.core.catalog import NetworkId
from internal_dns.core.journey import TOO_LONG, AliasedQuery, Forward, Reply, respond
from internal_dns.core.message import Body, message
from internal_dns.core.relayed import Relayed
from internal_dns.core.wire import Ede, Query, Rcode, Type
from internal_dns.late import Late
from internal_dns.transport.counting import Counting
from internal_dns.transport.faults import Faults
from internal_dns.transport.late_aliases import derive_reply, settle
from internal_dns.transport.leaks import leaks
from internal_dns.transport.loading import FirstLoad
from internal_dns.transport.payer import Payers
from internal_dns.transport.schedule import Scheduler
from internal_dns.transport.table.table import AnswerTable

# AnswerTable.remember_relayed
Keep = Callable[[bytes, int, int, Relayed, float, float, float], None]
Complete = Callable[[Forward, Relayed, bytes, tuple[Ede, str] | None], bytes | Late]
Cut = Callable[[Forward, Relayed], Relayed]
Relay = Callable[[NetworkId, Callable[[], None]], None]
Check = Callable[[Iterable[NetworkId], Callable[[], None]], None]


class Forwarder(Protocol):
    """What answers external names. Its attributes are set by `Relaying`."""

    keep: Keep  # called with a reply that the answer table may repeat
    forget: Callable[[], None]  # called when cached replies are no longer valid
    complete: Complete  # called with an alias chain that ends in one of our names
    cut: Cut  # called with each chain: it may lead through a zone of the client's network
    relay: Relay  # called to have a reply made in its network's turn
    check: Check  # called to have a reply checked in the turn of a network that waits for it

    def answer(self, forward: Forward, source: bytes) -> bytes | Late:
        """Return the reply's octets, or what will hold them; never raises."""

    def describe(self, query: Query) -> list[tuple[str, str]]:
        """Return what would become of *query* now, in words."""


class Relaying:
    """Connects a forwarder with the answer table and the fair queue."""

    def __init__(
        self,
        forwarder: Forwarder,
        answers: AnswerTable,
        payers: Payers,
        work: Scheduler,
        counting: Counting,
        loading: FirstLoad,
        faults: Faults,
    ) -> None:
        self.forwarder, self.answers, self.counting = forwarder, answers, counting
        self.payers, self.loading, self.faults = payers, loading, faults
        forwarder.keep, forwarder.forget = answers.remember_relayed, answers.forget_relayed
        forwarder.complete, forwarder.cut = self.complete, self.cut
        forwarder.relay = lambda network, make: work.must(payers.of_network(network), make)
        forwarder.check = lambda networks, check: work.must_for_any(
            map(payers.of_network, networks), check
        )

    def ask(self, forward: Forward, source: bytes, begin: float) -> bytes | Late:
        """Return the reply or what will hold it. Its making began at *begin* (of Counting)."""
        reply = self._answer(forward, source)
        kind = forward.aliased.kind if forward.aliased else "forward"
        counted = partial(self.counting.forwarded, kind, forward.query.qtype, begin)
        if isinstance(reply, bytes):
            counted(reply)
        else:
            reply.when_there(counted)
        return reply

    def _answer(self, forward: Forward, source: bytes) -> bytes | Late:
        """Return the reply, behind the aliases of ours that lead outside."""
        reply = self.forwarder.answer(forward, source)
        if (aliased := forward.aliased) is None:
            return reply
        return derive_reply(reply, partial(self._join, aliased))

    def _join(self, aliased: AliasedQuery, octets: bytes) -> bytes:
        """Return *octets* behind the client's aliases. It is called when an upstream has answered,
        where nobody else takes care of a fault of ours."""
        try:
            return join_chain(aliased, octets)
        except Exception:
            self.faults.note(aliased.query.id)
            ede = (Ede.OTHER, "the server failed on this query")
            return message(
                Body(Rcode.SERVFAIL, aa=False, ede=ede), aliased.query, aliased.reply_options
            )

    def cut(self, forward: Forward, relayed: Relayed) -> Relayed:
        """Return *relayed* up to the first name on its way that is in a zone of the client's
        network: what follows is answered from there."""
        catalog = self.answers.catalog_for(forward.source)
        network = catalog.networks.get(forward.network) if catalog else None
        if network is None or not network.zones or forward.query.qtype in (Type.CNAME, Type.ANY):
            return relayed
        return relayed.cut_at(forward.query.name, network.zones)

    def complete(
        self, forward: Forward, relayed: Relayed, chain: bytes, ede: tuple[Ede, str] | None
    ) -> bytes | Late:
        """Return the reply to a query whose answer is an alias chain from outside to one of our
        names: the chain and what we answer there, to this client, now. It is stored nowhere.

        Before the first catalog is loaded it waits, as a query for our name itself does.
        """
        if forward.returned:
            return message(TOO_LONG, forward.query, forward.reply_options)
        if self.answers.catalog is None and self.loading.expecting:
            late = Late(loop=asyncio.get_running_loop())

            def again() -> None:
                if late.done():
                    return  # the client has left
                try:
                    settle(late, self._completed(forward, relayed, chain, ede))
                except Exception:
                    self.faults.note(forward.query.id)
                    late.have(_no_answer(forward))

            if self.loading.park(self.payers.of_source(forward.source), again):
                return late
        return self._completed(forward, relayed, chain, ede)

    def _completed(
        self, forward: Forward, relayed: Relayed, chain: bytes, ede: tuple[Ede, str] | None
    ) -> bytes | Late:
        rules = self.answers.rules
        ours = respond(
            question_at_end(forward, relayed),
            forward.source,
            forward.destination,
            self.answers.catalog_for(forward.source),
            rules,
            rotation=forward.reply_options.rotation,
            stream=True,
            now=int(time.time()),
            aliases=forward.aliases,
        )
        if isinstance(ours, Forward):
            if forward.left or ours.aliased is None:
                return message(TOO_LONG, forward.query, forward.reply_options)
            return derive_reply(
                self._answer(replace(ours, returned=1), forward.source),
                lambda reply: complete_chain(forward, relayed, chain, reply, ede),
            )
        if isinstance(ours, Reply):
            if not leaks(ours):
                return complete_chain(forward, relayed, chain, ours.octets, ede)
            self.counting.metrics.leaks += 1
        return _no_answer(forward)


def _no_answer(forward: Forward) -> bytes:
    body = Body(Rcode.SERVFAIL, aa=False, ede=(Ede.OTHER, "the alias leads to no answer"))
    return message(body, forward.query, forward.reply_options)
