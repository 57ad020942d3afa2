"""One message in, at most one out: the place where transports meet the core.

Knows the current catalog, asks the answer table first, then the journey, and hands questions that
are not ours to the forwarder. The server's one broad `except` is here: a fault of ours costs one
SERVFAIL and a log line, not the server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import getrandbits
from time import perf_counter
from typing import Final, Protocol

from internal_dns.core.aliases import completed, question_at_end
from internal_dns.core.catalog import Catalog, Network
from internal_dns.core.journey import Drop, Forward, Reply, Rules, respond
from internal_dns.core.message import Body, Manner, message
from internal_dns.core.relayed import Relayed
from internal_dns.core.wire import (
    HEADER,
    MAX_MESSAGE,
    SILENT_PORTS,
    Ede,
    Query,
    Rcode,
    Silent,
    Type,
    read_query,
)
from internal_dns.metrics import Metrics
from internal_dns.transport.late import Late
from internal_dns.transport.shares import Shares
from internal_dns.transport.table.table import AnswerTable, Mirror
from internal_dns.transport.tap import Sample, Tap, show, show_reply

Outcome = bytes | None | Late

_AAAA: Final = int(Type.AAAA).to_bytes(2, "big")
_log = logging.getLogger("internal_dns")


Keep = Callable[
    [bytes, int, int, Relayed, float, float, float], None
]  # AnswerTable.remember_relayed


Complete = Callable[[Forward, Relayed, bytes, tuple[Ede, str] | None], bytes]  # Exchange.complete


class Forwarder(Protocol):
    """What is asked for names that are not ours."""

    keep: Keep  # called with what is known and asked for again
    forget: Callable[[], None]  # called when what was kept holds no more
    complete: Complete  # called with a chain that ends in one of our names

    def answer(self, forward: Forward, source: bytes) -> bytes | Late:
        """Return the reply's octets, or what will hold them; never raises."""

    def told(self, query: Query) -> list[tuple[str, str]]:
        """Return what would become of *query* now, in words."""


class Exchange:
    """Answers messages from the catalog that is current."""

    def __init__(
        self,
        rules: Rules,
        metrics: Metrics,
        forwarder: Forwarder | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        self.rules, self.metrics, self.forwarder = rules, metrics, forwarder
        self.catalog: Catalog | None = None
        self.answers = AnswerTable(
            rules,
            lambda reply, qtype: metrics.response(reply.kind, reply.rcode, qtype),
            count_relayed=lambda rcode, qtype: metrics.response("forward", rcode & 15, qtype),
            mirror=mirror,
        )
        self.shares = Shares()
        self.taps: list[Tap] = []
        self._one_in = 0  # so many messages the native path shows one; 0: nobody watches
        self._silent_until = 0.0
        if forwarder is not None:
            forwarder.keep, forwarder.forget = (
                self.answers.remember_relayed,
                self.answers.forget_relayed,
            )
            forwarder.complete = self.complete
        self._deciding = 0.0  # seconds of the present batch that went into deciding
        self._repeats = metrics.durations["repeat"]
        self._timed_hits = 0  # repeated replies whose time is counted

    def use(self, catalog: Catalog) -> None:
        """Answer from *catalog* from now on."""
        self.catalog = catalog
        self.answers.change(catalog)

    def use_rules(self, rules: Rules, mirror: Mirror | None = None) -> None:
        """Answer by *rules* from now on; what was decided by others is forgotten."""
        if rules != self.rules:
            self.rules = rules
            self.answers.use_rules(rules, mirror)
            self._watch()

    def handle(
        self, octets: bytes, source: bytes, destination: bytes, port: int, *, stream: bool = False
    ) -> Outcome:
        """Return the reply, None for silence, or a coroutine that returns either when an upstream
        must be asked."""
        if port in SILENT_PORTS:
            self.metrics.drop("port")
            return None
        try:
            turn = getrandbits(32)
            known = self.answers.repeat(
                octets, source, destination, turn, MAX_MESSAGE if stream else 0
            )
            return known or self._decide_in_turn(octets, source, destination, turn, stream)
        except Exception:
            return self._failed(octets)

    def _decide_in_turn(
        self, octets: bytes, source: bytes, destination: bytes, turn: int, stream: bool
    ) -> Outcome:
        """Decide, unless the network of *source* takes more than its share of that; by TCP it is
        slowed down anyway."""
        begin, network = perf_counter(), self._share_of(source)
        if not stream and not self.shares.may(network, begin):
            self.metrics.drop("share")
            return None
        try:
            return self._decide(octets, source, destination, turn, stream, begin)
        finally:
            took = perf_counter() - begin
            self._deciding += took
            self.shares.spend(network, took)

    def _share_of(self, source: bytes) -> bytes:
        """Return the network that pays for a question of *source*; all that are not in the catalog
        pay together."""
        network = (
            source[2:6] if source[:2] == self.rules.prefix else self.answers.mapped(source) or b""
        )
        known = self.catalog is not None and int.from_bytes(network, "big") in self.catalog.networks
        return network if known else b""

    def _decide(
        self,
        octets: bytes,
        source: bytes,
        destination: bytes,
        turn: int,
        stream: bool,
        begin: float,
    ) -> Outcome:
        """Go the whole way, for a message that is not simply repeated."""
        said = respond(
            octets,
            source,
            destination,
            self.catalog,
            self.rules,
            turn=turn,
            stream=stream,
            now=int(time.time()),
        )
        match said:
            case Drop(reason):
                self.metrics.drop(reason)
                return None
            case Forward():
                return self._forward(said, source, begin)
        if said.remember is not None:
            if leaks(said.remember.body, said.remember.network):
                self.metrics.leaks += 1
                return self._failed(octets, "a reply held addresses of another network")
            self.answers.remember(said)
        self.metrics.response(said.kind, said.rcode, _qtype(octets))[0] += 1
        self.metrics.durations[said.kind].observe(perf_counter() - begin)
        return said.octets

    def end_batch(self, begin: float) -> None:
        """Count how long the replies repeated since *begin* (of perf_counter) took, system calls
        included.

        Two looks at the clock for each reply would cost it 2 %. So the batch is measured: its time,
        less that of what was decided in it, in equal parts.
        """
        hits = self.answers.hits
        if repeated := hits - self._timed_hits:
            self._timed_hits = hits
            self._repeats.observe((perf_counter() - begin - self._deciding) / repeated, repeated)
        self._deciding = 0.0

    def repeated_elsewhere(self, count: int) -> None:
        """Count replies that the native path repeated: their time is not measured."""
        self.answers.hits += count
        self._timed_hits += count

    def tap(self, tap: Tap) -> None:
        """Show messages to *tap* until `untap`. While there is none, this costs nothing: `handle`
        is what it was."""
        self.taps.append(tap)
        vars(self)["handle"] = self._handle_tapped
        self._watch()

    def untap(self, tap: Tap) -> None:
        self.taps.remove(tap)
        if not self.taps:
            del vars(self)["handle"]
        self._watch()

    def _watch(self) -> None:
        """Have the native path show as much of what it does as the taps want."""
        self._one_in = min((tap.every for tap in self.taps), default=0)
        if self.answers.mirror:
            self.answers.mirror.watch(self._one_in)

    def show_elsewhere(
        self, octets: bytes, source: bytes, destination: bytes, *, dropped: bool
    ) -> None:
        """Show what the native path has dropped, or has answered: *octets* then end with the
        reply's header."""
        taps = [tap for tap in self.taps if tap.wants(self._one_in)]
        how, reply = ("dropped", None) if dropped else ("repeated", octets[-HEADER:])
        octets = octets if dropped else octets[:-HEADER]
        show(taps, Sample(0.0, octets, source, destination, False, how, reply))

    def not_shown(self, count: int) -> None:
        """*count* messages were to be shown by `show_elsewhere`, and could not be: they came too
        fast."""
        for tap in self.taps:
            tap.skipped += count * self._one_in // tap.every

    def _handle_tapped(
        self, octets: bytes, source: bytes, destination: bytes, port: int, *, stream: bool = False
    ) -> Outcome:
        before = self.answers.hits
        outcome = Exchange.handle(self, octets, source, destination, port, stream=stream)
        taps = [tap for tap in self.taps if tap.wants()]
        if not taps:
            return outcome

        def sample(reply: bytes | None, how: str) -> Sample:
            # The header says enough; a thousand whole replies waiting to be shown could be 64 MiB.
            return Sample(0.0, octets, source, destination, stream, how, reply and reply[:HEADER])

        if outcome is None or isinstance(outcome, bytes):
            how = (
                "dropped"
                if outcome is None
                else "repeated"
                if self.answers.hits > before
                else "decided"
            )
            show(taps, sample(outcome, how))
            return outcome
        outcome.add_done_callback(partial(show_reply, taps, sample))
        return outcome

    def answer_for_watch(self, octets: bytes, source: bytes) -> bytes:
        """Return the reply to one query as it would be by TCP now, without counting it; empty when
        there is none."""
        said = respond(
            octets, source, bytes(16), self.catalog, replace(self.rules, dev=True), stream=True
        )
        return said.octets if isinstance(said, Reply) else b""

    def _forward(self, forward: Forward, source: bytes, begin: float) -> Outcome:
        assert self.forwarder is not None  # rules.forwarding is off without one
        reply = self.forwarder.answer(forward, source)
        if isinstance(reply, bytes):
            self._count_forwarded(forward, begin, reply)
        else:
            reply.first = partial(self._count_forwarded, forward, begin)
        return reply

    def complete(
        self, forward: Forward, relayed: Relayed, chain: bytes, ede: tuple[Ede, str] | None
    ) -> bytes:
        """Return the reply to a question whose answer is a chain from outside into one of our
        names: what we answer there, to this asker, now. It is stored nowhere."""
        ours = respond(
            question_at_end(forward, relayed),
            forward.source,
            forward.destination,
            self.catalog,
            self.rules,
            turn=forward.manner.turn,
            stream=True,
        )
        if isinstance(ours, Reply):
            said = ours.remember
            if said is None or not leaks(said.body, said.network):
                return completed(forward, relayed, chain, ours.octets, ede)
            self.metrics.leaks += 1
        body = Body(Rcode.SERVFAIL, aa=False, ede=(Ede.OTHER, "the alias leads to no answer"))
        return message(body, forward.query, forward.manner)

    def _count_forwarded(self, forward: Forward, begin: float, reply: bytes) -> None:
        self.metrics.durations["forward"].observe(perf_counter() - begin)
        self.metrics.response("forward", reply[3] & 15, forward.query.qtype)[0] += 1

    def _failed(self, octets: bytes, reason: str = "") -> bytes | None:
        """Our trouble: SERVFAIL that names the question, a counter, and at most one log line a
        second."""
        self.metrics.errors += 1
        if (now := time.monotonic()) >= self._silent_until:
            self._silent_until = now + 1
            _log.error(
                "failed on a message: %s", reason or octets[:HEADER].hex(), exc_info=not reason
            )
        query = read_query(octets)
        if isinstance(query, Silent):
            return None
        self.metrics.response("internal", Rcode.SERVFAIL, _qtype(octets))[0] += 1
        body = Body(Rcode.SERVFAIL, aa=False, ede=(Ede.OTHER, "the server failed on this question"))
        return message(body, query, Manner(ra=self.rules.forwarding))


def leaks(body: Body, network: Network) -> bool:
    """Whether *body* holds an address of our prefix that is neither the asker's network's nor
    everyone's."""
    prefix, own = network.prefix[:2], network.prefix[2:]
    return any(
        record[-16:-14] == prefix and record[-14:-10] not in (own, b"\0\0\0\0")
        for records in (*body.answer, body.additional)
        for record in records
        if record[-26:-24] == _AAAA and len(record) > 26
    )


def _qtype(octets: bytes) -> int:
    """The QTYPE of a message that was answered, for the counters; 0 when it has no whole
    question."""
    at = HEADER
    if octets[4:6] == b"\0\0":
        return 0
    while at < len(octets) and 0 < octets[at] < 64:
        at += 1 + octets[at]
    return int.from_bytes(octets[at + 1 : at + 3], "big") if at + 4 < len(octets) else 0
