"""One message in, at most one out: the place where transports meet the core.

Knows the current catalog, asks the answer table first, then the journey, and hands questions that
are not ours to the forwarder. The server's one broad `except` is here: a fault of ours costs one
SERVFAIL and a log line, not the server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from ipaddress import ip_address
from itertools import chain
from operator import itemgetter
from random import getrandbits
from time import perf_counter
from typing import Any, Final, Protocol

from internal_dns.core.catalog import Catalog
from internal_dns.core.journey import Drop, Forward, Reply, Rules, respond
from internal_dns.core.message import Body, Manner, message
from internal_dns.core.records import ADDRESS_RR, RRset, TextList, address_text
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
from internal_dns.transport.shares import Shares
from internal_dns.transport.table.table import AnswerTable, Mirror
from internal_dns.transport.tap import Sample, Tap, show, tapped

Outcome = bytes | None | Coroutine[Any, Any, bytes | None]

_AAAA: Final = int(Type.AAAA).to_bytes(2, "big")
# Of an RR: from its type to the octets that tell networks apart, if it is AAAA. Of an address: these.
_HEAD: Final = itemgetter(slice(-26, -10))
_NETWORK: Final = itemgetter(slice(6))
_EVERYONES: Final = bytes(4)  # the network of addresses that are the same for all
_IP: Final = b",ip="  # before the address in an item of `_instances`
_log = logging.getLogger("internal_dns")


Keep = Callable[
    [bytes, int, int, Relayed, float, float, float], None
]  # AnswerTable.remember_relayed


class Forwarder(Protocol):
    """What is asked for names that are not ours."""

    keep: Keep  # called with what is known and asked for again
    forget: Callable[[], None]  # called when what was kept holds no more

    def answer(self, forward: Forward, source: bytes) -> bytes | Coroutine[Any, Any, bytes]:
        """Return the reply's octets, or what will return them; never raises."""

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
            count_partial=metrics.partial,
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
        self._deciding = 0.0  # seconds of the present batch that went into deciding
        self._repeats = metrics.durations["repeat"]
        self._timed_hits = 0  # repeated replies whose time is counted

    def use(self, catalog: Catalog) -> None:
        """Answer from *catalog* from now on."""
        for _ in self.steps(catalog):
            pass

    def steps(self, catalog: Catalog) -> Iterator[None]:
        """Answer from *catalog*, network by network, in short steps; messages may be answered between
        them (AnswerTable.steps)."""
        try:
            for _ in self.answers.steps(catalog):
                self.catalog = self.answers.catalog
                yield
        finally:
            self.catalog = self.answers.catalog

    def use_rules(self, rules: Rules, mirror: Mirror | None = None) -> Iterator[None]:
        """Answer by *rules* from now on; what was decided by others is forgotten. Returns the steps
        that remain (AnswerTable.use_rules)."""
        if rules == self.rules:
            return iter(())
        self.rules = rules
        left = self.answers.use_rules(rules, mirror)
        self._watch()
        return left

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
            self.answers.catalog_for(source),
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
        if leaks(said):
            self.metrics.leaks += 1
            return self._failed(octets, "a reply held addresses of another network")
        self.answers.remember(said)
        self.metrics.partial[0] += said.partial
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
        return tapped(outcome, taps, sample)

    def answer_for_watch(self, octets: bytes, source: bytes) -> bytes:
        """Return the reply to one query as it would be by TCP now, without counting it; empty when
        there is none."""
        said = respond(
            octets,
            source,
            bytes(16),
            self.answers.catalog_for(source),
            replace(self.rules, dev=True),
            stream=True,
        )
        return said.octets if isinstance(said, Reply) else b""

    def _forward(self, forward: Forward, source: bytes, begin: float) -> Outcome:
        assert self.forwarder is not None  # rules.forwarding is off without one
        reply = self.forwarder.answer(forward, source)
        if isinstance(reply, bytes):
            self._count_forwarded(forward, reply, begin)
            return reply
        return self._forwarded(forward, reply, begin)

    async def _forwarded(
        self, forward: Forward, asked: Coroutine[Any, Any, bytes], begin: float
    ) -> bytes:
        reply = await asked
        self._count_forwarded(forward, reply, begin)
        return reply

    def _count_forwarded(self, forward: Forward, reply: bytes, begin: float) -> None:
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


def leaks(reply: Reply) -> bool:
    """Whether *reply*, or what will be repeated of it, holds an address of our prefix that is neither
    the asker's network's nor everyone's.

    All that is sent comes from these sets. Only the octets that tell networks apart are looked at,
    and each value of them once.
    """
    if reply.said is None:
        return False
    body, network = reply.said
    ring = reply.remember.ring if reply.remember else b""
    records = chain(*body.answer, body.additional)
    seen = {head[10:] for head in set(map(_HEAD, records)) if head[:2] == _AAAA and len(head) == 16}
    if isinstance(body.whole, RRset):
        seen.update(extra.address[:6] for extra in body.whole.extra)
        if body.whole.type == Type.AAAA:
            seen.update(map(_NETWORK, chain(*body.whole.groups)))
    prefix, own = network.prefix[:2], network.prefix[2:]
    if any(one[:2] == prefix and one[2:] not in (own, _EVERYONES) for one in seen):
        return True
    if ring and not _all_begin_with(network.prefix, ring):
        return True
    return isinstance(body.whole, TextList) and _tells(body.whole.text.octets, network.prefix)


def _all_begin_with(prefix: bytes, ring: bytes) -> bool:
    """Whether the address of each RR in *ring* begins with *prefix*: octet by octet, which takes a
    microsecond per hundred RRs."""
    count = len(ring) // ADDRESS_RR
    first = ADDRESS_RR - 16
    return all(
        ring[first + at :: ADDRESS_RR].count(octet) == count for at, octet in enumerate(prefix)
    )


def _tells(text: bytes, network: bytes) -> bool:
    """Whether an item of a list has an address of our prefix that is of another *network* (six
    octets)."""
    found = text.count(_IP)
    if not found or found == text.count(_IP + address_text(network + b"\xff" * 10)[:-24]):
        return False
    addresses = (
        ip_address(part.partition(b",")[0].decode()).packed for part in text.split(_IP)[1:]
    )
    return any(
        address[:2] == network[:2] and address[2:6] not in (network[2:], _EVERYONES)
        for address in addresses
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
