"""One message in, at most one reply out: where the listeners meet the core.

    as it is read   known  ─► the answer table                                repeat
    in its turn     handle ─► the answer table ─► the journey ─► the forwarder
                              repeat, else decide, else forward

A listener calls `known` as it reads. A message that is not known waits for its network's turn
(schedule.py) and is then given to `handle`. A query for our names that arrives before the first
catalog is loaded waits for that as well (loading.py).

The server's one broad `except` is here: a fault of ours costs one SERVFAIL and a log line, not the
server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from enum import Enum
from random import getrandbits
from struct import pack
from time import perf_counter

from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.journey import NO_CATALOG, Drop, Forward, Reply, Rules, respond
from internal_dns.core.wire import IN, MAX_MESSAGE, RD, SILENT_PORTS, Rcode
from internal_dns.late import Late
from internal_dns.metrics import Metrics
from internal_dns.transport.ahead import Ahead
from internal_dns.transport.counting import Counting
from internal_dns.transport.fairness import OURSELVES, OUTSIDERS
from internal_dns.transport.faults import Faults
from internal_dns.transport.leaks import leaks
from internal_dns.transport.loading import Again, FirstLoad
from internal_dns.transport.payer import Payers
from internal_dns.transport.refusals import Refusals
from internal_dns.transport.relaying import Forwarder, Relaying
from internal_dns.transport.schedule import Scheduler
from internal_dns.transport.table.table import AnswerTable, Mirror
from internal_dns.transport.tap import How, Taps


class Later(Enum):
    """A message that is answered another time."""

    PARKED = "until the first catalog is loaded"


Outcome = bytes | None | Late | Later


class Exchange:
    """Answers messages from the catalog that is current."""

    def __init__(
        self,
        rules: Rules,
        metrics: Metrics,
        forwarder: Forwarder | None = None,
        mirror: Mirror | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        timer: Callable[[], float] = perf_counter,
    ) -> None:
        """*clock* is for what waits and for log lines, *timer* for durations."""
        self.metrics, self.forwarder, self.timer = metrics, forwarder, timer
        self.answers = AnswerTable(
            rules,
            lambda reply, qtype: metrics.response(reply.kind, reply.rcode, qtype),
            count_partial=metrics.partial,
            count_relayed=lambda rcode, qtype: metrics.response("forward", rcode & 15, qtype),
            mirror=mirror,
        )
        self.work = Scheduler(metrics, clock=clock)
        self.loading = FirstLoad(self.work)
        self.ahead = Ahead(self.decide_ahead, self.work, clock=clock)
        self.payers = Payers(self.answers)
        self.counting = Counting(metrics, self.answers, timer)
        self.taps = Taps(self._watch_native)
        self.refusals, self.faults = Refusals(clock), Faults(metrics, clock)
        if forwarder is not None:
            self.relaying = Relaying(
                forwarder, self.answers, self.payers, self.work, self.counting, self.loading,
                self.faults,
            )  # fmt: skip
        self._missed = 0  # of the last message that was not known: whether the table counts it

    # ── messages ──────────────────────────────────────────────────────────────────────────────────

    # Hot path: called for each message as it is read.
    def known(
        self, octets: bytes, source: bytes, destination: bytes, port: int, limit: int = 0
    ) -> bytes | None:
        """Return the reply if it can be repeated; None: give the message to `handle`, in its turn.

        *limit* 0 is UDP's.
        """
        if port in SILENT_PORTS:
            return None
        answers = self.answers
        misses = answers.misses
        try:
            reply = answers.repeat(octets, source, destination, getrandbits(32), limit)
        except Exception:
            return None  # `handle` meets the fault again, and reports it
        if reply is None:
            # Counted by `handle`, which may find it in the table by then.
            self._missed, answers.misses = answers.misses - misses, misses
        elif self.taps.open:
            self.taps.show("repeated", octets, source, destination, reply, stream=limit > 0)
        return reply

    def handle(
        self,
        octets: bytes,
        source: bytes,
        destination: bytes,
        port: int,
        *,
        stream: bool = False,
        payer: bytes | None = None,
        again: Again | None = None,
        missed: bool = False,
    ) -> Outcome:
        """Return the reply, None for silence, or what will hold the reply of an upstream.

        *payer* is who pays for it (Payers), if the caller knows. With *again* a query may wait for
        the first catalog (PARKED): *again* is then called in its turn, and should not be given a
        second time. *missed*: `known` has just returned None.
        """
        how: How = "decided"
        outcome: Outcome = None
        try:
            if port in SILENT_PORTS:
                self.metrics.drop("port")
            elif missed:
                self.answers.misses += self._missed
                outcome = self._decide(octets, source, destination, stream, payer, again)
            else:
                limit = MAX_MESSAGE if stream else 0
                outcome = self.answers.repeat(octets, source, destination, getrandbits(32), limit)
                if outcome:
                    how = "repeated"
                else:
                    outcome = self._decide(octets, source, destination, stream, payer, again)
        except Exception:
            outcome = self.faults.reply(octets, forwarding=self.rules.forwarding)
        if self.taps.open:
            self._show(how, octets, source, destination, outcome, stream)
        return outcome

    def _decide(
        self,
        octets: bytes,
        source: bytes,
        destination: bytes,
        stream: bool,
        payer: bytes | None,
        again: Again | None,
    ) -> Outcome:
        """Go the whole way, for a message that cannot be repeated."""
        begin, catalog, rules = self.timer(), self.answers.catalog_for(source), self.rules
        decision = respond(
            octets,
            source,
            destination,
            catalog,
            rules,
            rotation=getrandbits(32),
            stream=stream,
            now=int(time.time()),
        )
        if payer is None:
            payer = self.payers.of_source(source)
        if again and catalog is None and self.loading.expecting and _needs_catalog(decision):
            if self.loading.park(payer, again):
                return Later.PARKED
        self.counting.decided[payer if catalog and payer is not OURSELVES else OUTSIDERS] += 1
        match decision:
            case Drop(reason=reason):
                self.metrics.drop(reason)
                return None
            case Forward():
                return self.relaying.ask(decision, source, begin)
        if leaks(decision):
            self.metrics.leaks += 1
            reason = "a reply held addresses of another network"
            return self.faults.reply(octets, reason, forwarding=rules.forwarding)
        self.answers.remember(decision)
        if decision.rcode == Rcode.REFUSED:
            self.refusals.note(octets, source, destination, catalog or NO_CATALOG, rules)
        self.counting.reply(decision, octets, begin)
        return decision.octets

    def decide_ahead(self, network: NetworkId, name: bytes, qtype: int) -> bool:
        """Store the answer that any client of *network* would get; return whether it was stored.

        It is not if it is there already, is not ours, or depends on the client's place.
        """
        rules, octets = self.rules, network.to_bytes(4, "big")
        source = rules.prefix + octets + bytes(10)
        catalog = self.answers.catalog_for(source)
        if catalog is None or self.answers.has(octets, name, qtype):
            return False
        query = pack("!6H", 0, RD, 1, 0, 0, 0) + name + pack("!2H", qtype, IN)
        try:
            decision = respond(query, source, bytes(16), catalog, rules)
            if not isinstance(decision, Reply) or not (cacheable := decision.cacheable):
                return False
            if cacheable.place is not None or leaks(decision):
                return False
            self.answers.remember(decision)
        except Exception:
            # A client that queries it meets the fault again, and gets SERVFAIL.
            self.faults.note(query)
            return False
        return True

    def _show(
        self,
        how: How,
        octets: bytes,
        source: bytes,
        destination: bytes,
        outcome: Outcome,
        stream: bool,
    ) -> None:
        if isinstance(outcome, Late):
            self.taps.show_late(octets, source, destination, outcome, stream=stream)
        elif not isinstance(outcome, Later):  # a parked message is shown when it is decided
            how = how if outcome else "dropped"
            self.taps.show(how, octets, source, destination, outcome, stream=stream)

    # ── catalogs and rules ────────────────────────────────────────────────────────────────────────

    @property
    def catalog(self) -> Catalog | None:
        return self.answers.catalog

    @property
    def rules(self) -> Rules:
        return self.answers.rules

    def use(self, catalog: Catalog) -> None:
        """Answer from *catalog* from now on."""
        for _ in self.steps(catalog):
            pass

    def steps(self, catalog: Catalog) -> Iterator[None]:
        """Answer from *catalog*, network by network, in short steps; messages may be answered
        between them (AnswerTable.steps)."""
        yield from self.answers.steps(catalog)
        self.counting.forget_removed(catalog)
        if self.loading.room:
            self.loading.release()

    def use_rules(self, rules: Rules, mirror: Mirror | None = None) -> Iterator[None]:
        """Answer by *rules* from now on and forget what was decided by the previous ones. Return
        the steps that remain (AnswerTable.use_rules)."""
        if rules == self.rules:
            return iter(())
        remaining = self.answers.use_rules(rules, mirror)
        self.taps.watch()
        return remaining

    def _watch_native(self, every: int) -> None:
        if self.answers.mirror:
            self.answers.mirror.watch(every)


def _needs_catalog(decision: Reply | Forward | Drop) -> bool:
    """Whether a message failed only because there is no catalog."""
    return isinstance(decision, Reply) and decision.rcode == Rcode.SERVFAIL
