"""One message in, at most one out: the place where transports meet the core.

    known ─► the answer table, at once          handle ─► the answer table, the journey, the forwarder

A listener asks `known` as it reads. What is not known waits for its turn in `work`, the fair queue
(fairness.py), and is then given to `handle`. A question for our names that comes before the first
catalog is loaded waits for that as well (loading.py).

The server's one broad `except` is here: a fault of ours costs one SERVFAIL and a log line, not the
server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain
from operator import itemgetter
from random import getrandbits
from time import perf_counter
from typing import Any, Final, Protocol

from internal_dns.core.aliases import complete_chain, join_chain, question_at_end
from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.journey import TOO_LONG, Drop, Forward, Led, Reply, Rules, identify, respond
from internal_dns.core.message import Body, ReplyOptions, message
from internal_dns.core.records import ADDRESS_RR, RRset, TextList, address_text
from internal_dns.core.relayed import Relayed
from internal_dns.core.requester import Outsider
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
from internal_dns.late import Late
from internal_dns.metrics import Metrics
from internal_dns.transport.fairness import OURSELVES, OUTSIDERS
from internal_dns.transport.loading import WAIT, Again, WaitingRoom
from internal_dns.transport.schedule import Scheduler
from internal_dns.transport.table.table import AnswerTable, Mirror
from internal_dns.transport.tap import Sample, Tap, show


class Later(Enum):
    """What becomes of a message that is decided another time."""

    PARKED = "until the first catalog is loaded"


Outcome = bytes | None | Late | Later
RELEASED_AT_ONCE: Final = (
    256  # questions that waited for the catalog, in one turn of the event loop
)

REFUSED_INTERVAL: Final = 60  # seconds between two log lines about refused sources
_PROBE: Final = (b"localhost",)  # what the watchdog asks, from an address that is often refused
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


Complete = Callable[
    [Forward, Relayed, bytes, tuple[Ede, str] | None], bytes | Late
]  # Exchange.complete
Cut = Callable[[Forward, Relayed], Relayed]  # Exchange.cut
Relay = Callable[[NetworkId, Callable[[], None]], None]
Check = Callable[[Iterable[NetworkId], Callable[[], None]], None]


class Forwarder(Protocol):
    """What is asked for names that are not ours."""

    keep: Keep  # called with what is known and asked for again
    forget: Callable[[], None]  # called when what was kept holds no more
    complete: Complete  # called with a chain that ends in one of our names
    cut: Cut  # called with each chain: it may lead through a zone of the asker's
    relay: Relay  # called to have a reply made when its network has its turn
    check: Check  # called to have an upstream's reply checked when one that waits for it has

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
            count_partial=metrics.partial,
            count_relayed=lambda rcode, qtype: metrics.response("forward", rcode & 15, qtype),
            mirror=mirror,
        )
        self.work = Scheduler(metrics)
        self.room = WaitingRoom()
        self.expecting = True  # the first catalog may come any moment
        self.own: set[tuple[bytes, int]] = set()  # where our own questions come from
        self.own_changed: list[Callable[[], None]] = []
        self.decided: Counter[bytes] = Counter()  # messages by network, b"" those without one
        self.taps: list[Tap] = []
        self._one_in = 0  # so many messages the native path shows one; 0: nobody watches
        self._silent_until = 0.0
        self._outsiders = 0  # refused since the last log line about one
        self._outsiders_silent_until = 0.0
        if forwarder is not None:
            forwarder.keep, forwarder.forget = (
                self.answers.remember_relayed,
                self.answers.forget_relayed,
            )
            forwarder.complete, forwarder.cut = self.complete, self.cut
            forwarder.relay, forwarder.check = self._relay_in_turn, self._check_in_turn
        self._timer: asyncio.TimerHandle | None = None
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
        if len(self.decided) > len(catalog.networks) + 1:  # networks have gone
            known = {OUTSIDERS, *(number.to_bytes(4, "big") for number in catalog.networks)}
            self.decided = Counter({n: count for n, count in self.decided.items() if n in known})
        if self.room:
            self._release()

    def use_rules(self, rules: Rules, mirror: Mirror | None = None) -> Iterator[None]:
        """Answer by *rules* from now on; what was decided by others is forgotten. Returns the steps
        that remain (AnswerTable.use_rules)."""
        if rules == self.rules:
            return iter(())
        self.rules = rules
        left = self.answers.use_rules(rules, mirror)
        self._watch()
        return left

    # Hot path: asked for each message as it is read.
    def known(
        self, octets: bytes, source: bytes, destination: bytes, port: int, limit: int = 0
    ) -> bytes | None:
        """Return the reply when it can be repeated; None: the message is to be given to `handle`,
        in its turn. *limit* 0 is UDP's."""
        if port in SILENT_PORTS:
            return None
        answers = self.answers
        misses = answers.misses
        try:
            reply = answers.repeat(octets, source, destination, getrandbits(32), limit)
        except Exception:
            return None  # `handle` meets the fault again, and tells of it
        if reply is None:
            answers.misses = misses  # counted by `handle`
        return reply

    def handle(
        self,
        octets: bytes,
        source: bytes,
        destination: bytes,
        port: int,
        *,
        stream: bool = False,
        again: Again | None = None,
    ) -> Outcome:
        """Return the reply, None for silence, or what will hold it when upstreams have been asked.

        With *again* a question may wait for the first catalog (PARKED): *again* is then called in
        its turn, and should not be given a second time.
        """
        if port in SILENT_PORTS:
            self.metrics.drop("port")
            return None
        try:
            rotation = getrandbits(32)
            known = self.answers.repeat(
                octets, source, destination, rotation, MAX_MESSAGE if stream else 0
            )
            if known:
                return known
            begin = perf_counter()
            if again and self.catalog is None and self.expecting:
                return self._decide_or_park(
                    octets, source, destination, rotation, stream, begin, again
                )
            return self._decide(octets, source, destination, rotation, stream, begin)
        except Exception:
            return self._failed(octets)

    def payer(self, source: bytes, port: int = 0) -> bytes:
        """Return who pays for a message of *source*: its network; the sources of no network of the
        catalog together.

        Before the first catalog is loaded every network number has its own line.
        """
        if (source, port) in self.own:
            return OURSELVES
        network = source[2:6] if source[:2] == self.rules.prefix else self.answers.mapped(source)
        if network is None:
            return OUTSIDERS
        if self.catalog is None or int.from_bytes(network, "big") in self.catalog.networks:
            return network
        return OUTSIDERS

    @contextmanager
    def asking_ourselves(self, source: bytes, port: int) -> Iterator[None]:
        """Take what comes from there for a question of our own, whose turn it always is."""
        self.own.add((source, port))
        try:
            for tell in self.own_changed:
                tell()
            yield
        finally:
            self.own.discard((source, port))
            for tell in self.own_changed:
                tell()

    def _payer_of(self, network: NetworkId) -> bytes:
        """Return who pays for work for *network*; 0 is ourselves, who ask whether upstreams are
        there."""
        if not network:
            return OURSELVES
        known = self.catalog is None or network in self.catalog.networks
        return network.to_bytes(4, "big") if known else OUTSIDERS

    def _relay_in_turn(self, network: NetworkId, make: Callable[[], None]) -> None:
        self.work.must(self._payer_of(network), make)

    def _check_in_turn(self, networks: Iterable[NetworkId], check: Callable[[], None]) -> None:
        self.work.must_for_any(map(self._payer_of, networks), check)

    # ── before the first catalog ──────────────────────────────────────────────────────────────────

    def _decide_or_park(
        self,
        octets: bytes,
        source: bytes,
        destination: bytes,
        rotation: int,
        stream: bool,
        begin: float,
        again: Again,
    ) -> Outcome:
        """Let a question wait that only the catalog can answer; decide all others."""
        said = respond(
            octets, source, destination, None, self.rules, rotation=rotation, stream=stream
        )
        if not (isinstance(said, Reply) and said.rcode == Rcode.SERVFAIL):
            return self._decide(octets, source, destination, rotation, stream, begin)
        if not self._park(source, again):
            return self._decide(octets, source, destination, rotation, stream, begin)
        return Later.PARKED

    def _park(self, source: bytes, again: Again) -> bool:
        """Let a question wait for the first catalog; return whether there was room."""
        lost = self.room.put(self.payer(source), again, self.work.clock())
        if lost is False:
            return False
        if lost is not True:
            self.work.must(lost.payer, lost.again)
        self._look_again()
        return True

    def _look_again(self) -> None:
        """Set the timer for the question that waits longest."""
        came = self.room.first_came()
        if self._timer is None and came is not None:
            delay = came + WAIT - self.work.clock()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, delay), self._expire)

    def _expire(self) -> None:
        """Answer what has waited long enough, a part at a time."""
        self._timer = None
        for waiting in self.room.take(RELEASED_AT_ONCE, self.work.clock() - WAIT):
            self.work.must(waiting.payer, waiting.again)
        self._look_again()

    def _release(self) -> None:
        """Let all that waited have their turn, a part at a time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiting in self.room.take(RELEASED_AT_ONCE):
            self.work.must(waiting.payer, waiting.again)
        if self.room:
            asyncio.get_running_loop().call_soon(self._release)

    def expect_no_catalog(self) -> None:
        """Let nothing wait for the first catalog any more: there is no file, or we end."""
        self.expecting = False
        self._release()

    # ── deciding ──────────────────────────────────────────────────────────────────────────────────

    def _decide(
        self,
        octets: bytes,
        source: bytes,
        destination: bytes,
        rotation: int,
        stream: bool,
        begin: float,
    ) -> Outcome:
        """Go the whole way, for a message that is not simply repeated."""
        self.decided[self.payer(source) if self.catalog else OUTSIDERS] += 1
        said = respond(
            octets,
            source,
            destination,
            self.answers.catalog_for(source),
            self.rules,
            rotation=rotation,
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
        if said.rcode == Rcode.REFUSED:
            self._tell_refused(octets, source, destination)
        self.metrics.response(said.kind, said.rcode, _qtype(octets))[0] += 1
        self.metrics.durations[said.kind].observe(perf_counter() - begin)
        return said.octets

    def _tell_refused(self, octets: bytes, source: bytes, destination: bytes) -> None:
        """Log an outsider, with what would map it: a line per REFUSED_INTERVAL at most, which
        counts the others.

        Otherwise a new host that is refused looks the same as one that does not ask. The address
        may be forged; nothing else of the query is logged.
        """
        query = read_query(octets)
        if isinstance(query, Silent) or (isinstance(query, Query) and query.labels == _PROBE):
            return
        catalog = self.answers.catalog_for(source) or Catalog()
        who = identify(query, source, destination, catalog, self.rules)
        if not isinstance(who, Outsider):
            return
        self._outsiders += 1
        if (now := time.monotonic()) < self._outsiders_silent_until:
            return
        _log.warning("%s", refusal(source, who.reason, self._outsiders, self.rules.prefix))
        self._outsiders, self._outsiders_silent_until = 0, now + REFUSED_INTERVAL

    def end_batch(self, begin: float, messages: int) -> float:
        """Count how long the replies took that were repeated among *messages* since *begin* (of
        perf_counter), system calls included. Return the seconds since then.

        Two looks at the clock for each reply would cost it 2 %. So the batch is measured, and all
        its messages count the same.
        """
        took, hits = perf_counter() - begin, self.answers.hits
        if repeated := hits - self._timed_hits:
            self._timed_hits = hits
            self._repeats.observe(took / (messages or 1), repeated)
        return took

    def repeated_elsewhere(self, count: int) -> None:
        """Count replies that the native path repeated: their time is not measured."""
        self.answers.hits += count
        self._timed_hits += count

    def tap(self, tap: Tap) -> None:
        """Show messages to *tap* until `untap`. While there is none, this costs nothing: `handle`
        is what it was."""
        self.taps.append(tap)
        vars(self).update(handle=self._handle_tapped, known=self._known_tapped)
        self._watch()

    def untap(self, tap: Tap) -> None:
        self.taps.remove(tap)
        if not self.taps:
            del vars(self)["handle"], vars(self)["known"]
        self._watch()

    def _watch(self) -> None:
        """Have the native path show as much of what it does as the taps want."""
        self._one_in = min((tap.every for tap in self.taps), default=0)
        if self.answers.mirror:
            self.answers.mirror.watch(self._one_in)

    def tap_native(
        self, octets: bytes, source: bytes, destination: bytes, *, dropped: bool
    ) -> None:
        """Show what the native path has dropped, or has answered: *octets* then end with the
        reply's header."""
        taps = [tap for tap in self.taps if tap.wants(self._one_in)]
        how, reply = ("dropped", None) if dropped else ("repeated", octets[-HEADER:])
        octets = octets if dropped else octets[:-HEADER]
        show(taps, Sample(0.0, octets, source, destination, False, how, reply))

    def tap_skipped(self, count: int) -> None:
        """*count* messages were to be shown by `tap_native`, and could not be: they came too
        fast."""
        for tap in self.taps:
            tap.skipped += count * self._one_in // tap.every

    def _known_tapped(
        self, octets: bytes, source: bytes, destination: bytes, port: int, limit: int = 0
    ) -> bytes | None:
        reply = Exchange.known(self, octets, source, destination, port, limit)
        if reply is not None and (taps := [tap for tap in self.taps if tap.wants()]):
            stream = limit == MAX_MESSAGE
            header = reply[:HEADER]
            show(taps, Sample(0.0, octets, source, destination, stream, "repeated", header))
        return reply

    def _handle_tapped(
        self,
        octets: bytes,
        source: bytes,
        destination: bytes,
        port: int,
        *,
        stream: bool = False,
        again: Again | None = None,
    ) -> Outcome:
        before = self.answers.hits
        outcome = Exchange.handle(
            self, octets, source, destination, port, stream=stream, again=again
        )
        if isinstance(outcome, Later):  # shown when it is decided
            return outcome
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
        outcome.when_there(lambda reply: show(taps, sample(reply, "forwarded")))
        return outcome

    def answer_for_watch(self, octets: bytes, source: bytes) -> bytes:
        """Return the reply to one query as it would be by TCP now, without counting it; empty when
        there is none."""
        said = respond(
            octets,
            source,
            bytes(16),
            self.answers.catalog_for(source),
            replace(self.rules, dev=True, echo=False),
            stream=True,
        )
        return said.octets if isinstance(said, Reply) else b""

    def _forward(self, forward: Forward, source: bytes, begin: float) -> Outcome:
        reply = self._forwarded(forward, source)
        if isinstance(reply, bytes):
            self._count_forwarded(forward, begin, reply)
        else:
            reply.when_there(partial(self._count_forwarded, forward, begin))
        return reply

    def _forwarded(self, forward: Forward, source: bytes) -> bytes | Late:
        """Return the reply to a question that leads outside, behind the aliases that lead there."""
        assert self.forwarder is not None  # rules.forwarding is off without one
        reply = self.forwarder.answer(forward, source)
        if (led := forward.led) is None:
            return reply
        return after(reply, partial(self._join, led))

    def _join(self, led: Led, octets: bytes) -> bytes:
        """Return *octets* behind the client's aliases. It is called when an upstream has answered,
        where nobody else takes care of a fault of ours."""
        try:
            return join_chain(led, octets)
        except Exception:
            _log.exception("failed to join aliases with the reply to the last of them")
            self.metrics.errors += 1
            body = Body(
                Rcode.SERVFAIL, aa=False, ede=(Ede.OTHER, "the server failed on this query")
            )
            return message(body, led.query, led.reply_options)

    def cut(self, forward: Forward, relayed: Relayed) -> Relayed:
        """Return *relayed* up to the first name on its way that is in a zone of the asker's network:
        what follows is answered from there."""
        catalog = self.answers.catalog_for(forward.source)
        network = catalog.networks.get(forward.network) if catalog else None
        if network is None or not network.zones or forward.query.qtype in (Type.CNAME, Type.ANY):
            return relayed
        return relayed.cut_at(forward.query.name, network.zones)

    def complete(
        self, forward: Forward, relayed: Relayed, chain: bytes, ede: tuple[Ede, str] | None
    ) -> bytes | Late:
        """Return the reply to a question whose answer is a chain from outside into one of our
        names: what we answer there, to this asker, now. It is stored nowhere."""
        if forward.returned:
            return message(TOO_LONG, forward.query, forward.reply_options)
        if self.catalog is None and self.expecting:  # it waits, as a query for our name itself does
            late = Late(loop=asyncio.get_running_loop())

            def again() -> None:
                if late.done():
                    return  # the client has left
                try:
                    _settle(late, self._completed(forward, relayed, chain, ede))
                except Exception:
                    _log.exception("failed on an alias from outside that waited for the catalog")
                    self.metrics.errors += 1
                    late.have(_no_answer(forward))

            if self._park(forward.source, again):
                return late
        return self._completed(forward, relayed, chain, ede)

    def _completed(
        self, forward: Forward, relayed: Relayed, chain: bytes, ede: tuple[Ede, str] | None
    ) -> bytes | Late:
        ours = respond(
            question_at_end(forward, relayed),
            forward.source,
            forward.destination,
            self.answers.catalog_for(forward.source),
            self.rules,
            rotation=forward.reply_options.rotation,
            stream=True,
            now=int(time.time()),
            aliases=forward.aliases,
        )
        if isinstance(ours, Forward):
            if forward.left or ours.led is None:
                return message(TOO_LONG, forward.query, forward.reply_options)
            again = replace(ours, returned=1)
            return after(
                self._forwarded(again, forward.source),
                lambda reply: complete_chain(forward, relayed, chain, reply, ede),
            )
        if isinstance(ours, Reply):
            if not leaks(ours):
                return complete_chain(forward, relayed, chain, ours.octets, ede)
            self.metrics.leaks += 1
        return _no_answer(forward)

    def _count_forwarded(self, forward: Forward, begin: float, reply: bytes) -> None:
        kind = forward.led.kind if forward.led else "forward"
        self.metrics.durations["forward"].observe(perf_counter() - begin)
        self.metrics.response(kind, reply[3] & 15, forward.query.qtype)[0] += 1

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
        return message(body, query, ReplyOptions(ra=self.rules.forwarding))


def after(reply: bytes | Late, make: Callable[[bytes], bytes]) -> bytes | Late:
    """Return what *make* makes of *reply*, when it is there."""
    if isinstance(reply, bytes):
        return make(reply)
    made = Made(reply, loop=reply.get_loop())
    reply.when_there(lambda octets: made.have_made(make, octets))
    return made


class Made(Late):
    """A reply that is made of another. Whoever no longer wants it does not want that one either."""

    def __init__(self, of: Late, **how: Any) -> None:
        super().__init__(**how)
        self.of = of

    def have_made(self, make: Callable[[bytes], bytes], octets: bytes) -> None:
        if not self.done():
            self.have(make(octets))

    def cancel(self, msg: Any | None = None) -> bool:
        if not self.done():
            self.of.cancel(msg)
        return super().cancel(msg)


def _settle(late: Late, reply: bytes | Late) -> None:
    """Give *late* the reply when it is there, unless the client has left."""

    def give(octets: bytes) -> None:
        if not late.done():
            late.have(octets)

    if isinstance(reply, bytes):
        give(reply)
    else:
        reply.when_there(give)


def _no_answer(forward: Forward) -> bytes:
    body = Body(Rcode.SERVFAIL, aa=False, ede=(Ede.OTHER, "the alias leads to no answer"))
    return message(body, forward.query, forward.reply_options)


def refusal(source: bytes, reason: str, count: int, prefix: bytes) -> str:
    """Return the log line about a refused *source*, the last of *count* since the line before."""
    address: IPv4Address | IPv6Address = IPv6Address(source)
    assert isinstance(address, IPv6Address)
    address = address.ipv4_mapped or address
    line = f"refused a query from {address}: {reason}"
    if not source.startswith(prefix):
        line += f"; to serve it: --map-source {address}/{address.max_prefixlen}=NETWORK"
    if count > 1:
        line += f" ({count - 1:,} more were refused since the last such line)"
    return line


def leaks(reply: Reply) -> bool:
    """Whether *reply*, or what will be repeated of it, holds an address of our prefix that is neither
    the asker's network's nor everyone's.

    All that is sent comes from these sets. Only the octets that tell networks apart are looked at,
    and each value of them once.
    """
    if reply.content is None:
        return False
    body, network = reply.content
    ring = reply.cacheable.ring if reply.cacheable else b""
    # A network's own TXT may hold any octets, also those of an AAAA RR.
    of_addresses = isinstance(body.whole, RRset) and body.whole.type == Type.AAAA
    records = chain(*(body.answer if of_addresses else ()), body.additional)
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
