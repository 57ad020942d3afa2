"""TCP: frames in, frames out (RFC 7766), and limits so that no client can hold what others need.

What is known is repeated at once. The first message that is not waits for its network's turn in the
fair queue, one of each connection, and at most READ_AHEAD octets more are read meanwhile. A
reply leaves when it is ready, so a slow upstream never blocks the questions behind it. A connection
ends when a message stays half sent for 2 s, nothing is asked for 10 s, or replies stay unread for
10 s; time during which we do not read does not count.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from functools import partial
from time import perf_counter
from typing import Final, cast

from internal_dns.core.journey import IDLE_TIMEOUT
from internal_dns.core.wire import HEADER, MAX_MESSAGE, QR
from internal_dns.metrics import Metrics
from internal_dns.net import packed
from internal_dns.transport.answer import Exchange, Later
from internal_dns.transport.fairness import OUTSIDERS
from internal_dns.transport.late import Late

PARTIAL_TIMEOUT: Final = 2
UNREAD_TIMEOUT: Final = 10
MAX_IN_FLIGHT: Final = 100
PER_NETWORK: Final = 256
# Replies to one client may wait in 256 KiB; the mark leaves room for the largest reply.
HIGH_WATER: Final = (256 << 10) - 65_537
ALL_BUFFERS: Final = 64 << 20
# Octets of questions kept while one of the connection waits for its turn; then it is not read.
READ_AHEAD: Final = 16 << 10
AT_ONCE: Final = 64  # known answers repeated in one piece of work: about half a millisecond


class Connections:
    """All open connections: who may have one more, and whose goes when memory runs short."""

    def __init__(self, exchange: Exchange, metrics: Metrics) -> None:
        self.exchange, self.metrics = exchange, metrics
        self.open: set[Connection] = set()
        self.by_network: Counter[bytes] = Counter()
        self.limit = max(8, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)

    def protocol(self) -> Connection:
        return Connection(self)

    def admit(self, connection: Connection) -> bool:
        """Take *connection* in unless its network, or everybody, has too many."""
        if len(self.open) >= self.limit or self.by_network[connection.network] >= PER_NETWORK:
            self.metrics.drop("connections")
            return False
        self.open.add(connection)
        self.by_network[connection.network] += 1
        return True

    def leave(self, connection: Connection) -> None:
        if connection in self.open:
            self.open.discard(connection)
            self.by_network[connection.network] -= 1
            if not self.by_network[connection.network]:
                del self.by_network[connection.network]

    def relieve(self) -> None:
        """Close the fullest connections until all buffers together are within their bound."""
        held = {
            connection: connection.transport.get_write_buffer_size() for connection in self.open
        }
        while sum(held.values()) > ALL_BUFFERS:
            fullest = max(held, key=held.__getitem__)
            del held[fullest]
            fullest.end("buffers")


class Connection(asyncio.Protocol):
    """One client's connection."""

    transport: asyncio.Transport
    network: bytes

    def __init__(self, connections: Connections) -> None:
        self.all, self.exchange = connections, connections.exchange
        self.received = bytearray()
        self.in_flight = 0
        self.blocked = False  # the client does not read its replies
        self.closing = False
        self.queued = False  # a message waits for its turn
        self.waiting: set[Late] = set()
        self.loop = asyncio.get_running_loop()
        self.since = self.loop.time()  # when the present wait began
        self.timer: asyncio.TimerHandle | None = None

    # ── asyncio.Protocol ──────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if not peer or not own:  # it is gone already
            self.network = OUTSIDERS
            self.transport.abort()
            return
        self.source, self.destination, self.port = packed(peer[0]), packed(own[0]), peer[1]
        self.network = self.exchange.payer(self.source, self.port)
        self.counted = self.all.metrics.requests["tcp", "6" if ":" in peer[0] else "4"]
        if not self.all.admit(self):
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        self.timer = self.loop.call_later(PARTIAL_TIMEOUT, self._watch)

    def data_received(self, data: bytes) -> None:
        if not self.received:
            self.since = self.loop.time()
        self.received += data
        self._go_on()

    def eof_received(self) -> bool:
        """The client has asked all it wants; what has come is still answered."""
        self.closing = True
        self._pace()
        return True

    def pause_writing(self) -> None:
        self.blocked = True
        self.since = self.loop.time()
        self.transport.pause_reading()
        self.all.relieve()

    def resume_writing(self) -> None:
        self.blocked = False
        self.since = self.loop.time()
        self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self.all.leave(self)
        if self.timer:
            self.timer.cancel()
        for reply in self.waiting:
            reply.cancel()
        self.waiting.clear()

    # ── frames ────────────────────────────────────────────────────────────────────────────────────

    def _go_on(self) -> None:
        """Repeat what is known at once, unless others wait for the event loop."""
        work = self.exchange.work
        if not self.queued and work.may_at_once():
            work.did_at_once(self._read(may_decide=False))
        else:
            self._pace()

    def _queue(self) -> None:
        """Wait for our network's turn."""
        self.queued = True
        self.exchange.work.must(self.network, self._serve)
        self._pace()

    def _serve(self) -> None:
        """It is our turn: one message is decided."""
        self.queued = False
        if not self.transport.is_closing() and not self.blocked:
            self._read(may_decide=True)

    def _has_whole(self) -> bool:
        """Whether the next message is there, or what is there cannot be one."""
        received = self.received
        if len(received) < 2:
            return False
        length = received[0] << 8 | received[1]
        return length < HEADER or len(received) >= 2 + length

    def _read(self, *, may_decide: bool) -> float:
        """Repeat what is known, at most AT_ONCE messages, up to the first that is not. *may_decide*:
        that one is decided as well. Return how long that took."""
        received, at, replies, wrong, begin, messages = (
            self.received,
            0,
            bytearray(),
            "",
            perf_counter(),
            0,
        )
        known, size = self.exchange.known, len(received)
        may = not self.blocked and self.in_flight < MAX_IN_FLIGHT
        while may and size - at >= 2 and len(replies) < HIGH_WATER and messages < AT_ONCE:
            length = received[at] << 8 | received[at + 1]
            if length < HEADER:
                wrong = "frame"
                break
            if size - at < 2 + length:
                break
            message = bytes(received[at + 2 : at + 2 + length])
            reply = known(message, self.source, self.destination, self.port, MAX_MESSAGE)
            if reply is None:
                if not may_decide:
                    break
                may_decide = False
                self._write(replies)  # before what may take long
                replies = bytearray()
                wrong = self._decide(message)
                may = not self.blocked and self.in_flight < MAX_IN_FLIGHT
            else:
                replies += len(reply).to_bytes(2, "big") + reply
            messages += 1
            at += 2 + length
            if wrong:
                break
        if at:
            self.counted[0] += messages
            del received[:at]
            self.since = self.loop.time()
            self._write(replies)
        took = self.exchange.end_batch(begin, messages)
        if wrong:
            self.end(wrong)  # what was asked before is answered
        else:
            self._pace()
        return took

    def _decide(self, message: bytes) -> str:
        """Answer a message; return why the connection must end, or an empty string."""
        exchange = self.exchange
        again = partial(self._decide_parked, message) if exchange.catalog is None else None
        reply = exchange.handle(
            message, self.source, self.destination, self.port, stream=True, again=again
        )
        if reply is None:
            return "qr" if message[2] << 8 & QR else ""
        if isinstance(reply, bytes):
            self._write(len(reply).to_bytes(2, "big") + reply)
        elif isinstance(reply, Later):
            self.in_flight += 1
        else:
            self._later(reply)
        return ""

    def _decide_parked(self, message: bytes) -> None:
        """Answer a message that waited for the first catalog."""
        self.in_flight -= 1
        self.since = self.loop.time()
        if self.transport.is_closing():
            return
        reply = self.exchange.handle(message, self.source, self.destination, self.port, stream=True)
        if isinstance(reply, bytes):
            self._write(len(reply).to_bytes(2, "big") + reply)
        elif isinstance(reply, Late):
            self._later(reply)
        self._go_on()

    def _write(self, octets: bytes | bytearray) -> None:
        if octets and not self.transport.is_closing():
            self.transport.write(bytes(octets))

    def _pace(self) -> None:
        """Read on only while another message may be answered; those already here wait for their
        turn."""
        if self.transport.is_closing():
            return
        if self.queued:
            if len(self.received) >= READ_AHEAD:
                self.transport.pause_reading()
        elif self.blocked or self.in_flight >= MAX_IN_FLIGHT:
            self.transport.pause_reading()
        elif self._has_whole():
            self._queue()
        elif self.closing:
            if not self.in_flight:
                self.transport.close()
        else:
            self.transport.resume_reading()

    def _later(self, reply: Late) -> None:
        self.in_flight += 1
        self.waiting.add(reply)
        reply.when_there(partial(self._send_late, reply))

    def _send_late(self, reply: Late, octets: bytes) -> None:
        self.waiting.discard(reply)
        self.in_flight -= 1
        self.since = self.loop.time()
        self._write(len(octets).to_bytes(2, "big") + octets)
        if not self.blocked:
            self._go_on()

    # ── ends ──────────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        """End the connection when what it waits for took too long; else look again when it may
        have."""
        if self.blocked:
            limit, reason = UNREAD_TIMEOUT, "unread"
        elif self.in_flight or self.queued:
            limit, reason, self.since = IDLE_TIMEOUT, "idle", self.loop.time()
        elif self.received:
            limit, reason = PARTIAL_TIMEOUT, "partial"
        else:
            limit, reason = IDLE_TIMEOUT, "idle"
        left = self.since + limit - self.loop.time()
        if left <= 0:
            self.end(reason)
        else:
            # A message may be half sent at any time, so never look away for longer than that may
            # take.
            self.timer = self.loop.call_later(min(left, PARTIAL_TIMEOUT), self._watch)

    def end(self, reason: str) -> None:
        """Close at once; *reason* is counted."""
        if not self.transport.is_closing():
            self.all.metrics.drop(f"tcp {reason}")
            self.transport.abort() if self.blocked else self.transport.close()

    def finish(self) -> None:
        """Receive no more questions; close when all that were received are answered."""
        self.closing = True
        self.transport.pause_reading()
        self._pace()
