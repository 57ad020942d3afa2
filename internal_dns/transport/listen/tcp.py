"""TCP: frames in, frames out (RFC 7766), and limits so that no client can hold what others need.

What is known is repeated at once. The first message that is not is decided at once while nobody
waits, else in its network's turn in the fair queue, one of each connection, and at most READ_AHEAD
octets more are read meanwhile. A reply leaves when it is ready, so a slow upstream never blocks the
questions behind it. A connection ends when a message stays half sent for 2 s, nothing is asked for
10 s, or replies stay unread for 10 s; time during which we do not read does not count.
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
from internal_dns.late import Late
from internal_dns.metrics import Metrics
from internal_dns.net import packed
from internal_dns.transport.answer import Exchange, Later
from internal_dns.transport.fairness import OUTSIDERS

PARTIAL_TIMEOUT: Final = 2
UNREAD_TIMEOUT: Final = 10
MAX_IN_FLIGHT: Final = 100
PER_NETWORK: Final = 256
# Replies to one client may wait in 256 KiB; the mark leaves room for the largest reply.
HIGH_WATER: Final = (256 << 10) - 65_537
ALL_BUFFERS: Final = 64 << 20
# Octets of questions kept while one of the connection waits for its turn; then it is not read.
READ_AHEAD: Final = 16 << 10
# Messages answered in one piece of work: when known, half a millisecond. Fewer would be sent by
# more system calls.
MESSAGES: Final = 256


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

    def check_books(self) -> None:
        """Check that the connections of each network are counted. Raises AssertionError."""
        counted = Counter(connection.network for connection in self.open)
        assert self.by_network == counted, "a network has other connections than are counted"
        assert len(self.open) <= self.limit, "more connections are open than may be"

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
        self.network = self.exchange.payers.of_source(self.source, self.port)
        self.counted = self.all.metrics.requests["tcp", "6" if ":" in peer[0] else "4"]
        if not self.all.admit(self):
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        self.timer = self.loop.call_later(PARTIAL_TIMEOUT, self._watch)

    def data_received(self, data: bytes) -> None:
        if not self.received:
            if (
                self.exchange.work.free
                and not self.queued
                and not self.blocked
                and self.in_flight < MAX_IN_FLIGHT
            ):
                self._read(data)
                return
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
        """Answer what has come: now, unless others wait for the event loop."""
        may = self.received and self.exchange.work.free and not self.queued and not self.blocked
        if may and self.in_flight < MAX_IN_FLIGHT:
            self._read(self.received)
        else:
            self._pace()

    def _serve(self) -> None:
        """Answer in our network's turn: decide one message, repeat the known ones behind it."""
        self.queued = False
        if not self.transport.is_closing() and not self.blocked:
            self._read(self.received, in_turn=True)

    def _has_whole(self) -> bool:
        """Whether the next message is complete, or what is there cannot become one."""
        received = self.received
        if len(received) < 2:
            return False
        length = received[0] << 8 | received[1]
        return length < HEADER or len(received) >= 2 + length

    # Hot path: what arrives complete and known is repeated without being stored first.
    def _read(self, data: bytes | bytearray, *, in_turn: bool = False) -> None:
        """Answer the messages in *data*, at most MESSAGES, up to the first that has to wait.

        *data* is `received`, or has just arrived while that was empty. *in_turn*: the first message
        that is not known need not wait.
        """
        exchange, work, begin = self.exchange, self.exchange.work, perf_counter()
        known, source, destination, port = (
            exchange.known,
            self.source,
            self.destination,
            self.port,
        )
        at, size, messages, held, may_decide = 0, len(data), 0, 0, in_turn
        parts: list[bytes] = []
        malformed, stored = False, data is self.received
        while size - at >= 2 and messages < MESSAGES and held < HIGH_WATER:
            length = data[at] << 8 | data[at + 1]
            end = at + 2 + length
            if length < HEADER:
                malformed = True
                break
            if size < end:
                break
            message: bytes = data[at + 2 : end]  # type: ignore[assignment]
            if stored:
                message = bytes(message)  # of a bytearray
            reply = known(message, source, destination, port, MAX_MESSAGE)
            if reply is not None:
                parts += (len(reply).to_bytes(2, "big"), reply)
                held += len(reply)
                messages += 1
                at = end
                continue
            paused = perf_counter()
            if parts:  # before what may take long
                self.transport.write(b"".join(parts))
                parts, held = [], 0
            if may_decide:
                may_decide = False
                self._decide(message)
            elif not work.try_now(self.network, self._decide, message):
                break
            begin += perf_counter() - paused
            messages += 1
            at = end
            if self.blocked or self.in_flight >= MAX_IN_FLIGHT or self.transport.is_closing():
                break
        if at or not stored:
            self.counted[0] += messages
            self.since = self.loop.time()
            if stored:
                del self.received[:at]
            elif at < size:
                self.received += data[at:]
        if parts:
            self.transport.write(b"".join(parts))
        took = exchange.counting.end_batch(begin, messages)
        if not in_turn:  # in turn the queue measures it
            work.did_at_once(took)
        if malformed:
            self.end("frame")  # what was asked before is answered
        elif stored or self.received or self.closing or self.in_flight >= MAX_IN_FLIGHT:
            self._pace()

    def _decide(self, message: bytes) -> None:
        """Answer a message that is not in the answer table."""
        exchange = self.exchange
        again = partial(self._decide_parked, message) if exchange.catalog is None else None
        reply = exchange.handle(
            message, self.source, self.destination, self.port,
            stream=True, payer=self.network, again=again, missed=True,
        )  # fmt: skip
        if isinstance(reply, bytes):
            self._write(len(reply).to_bytes(2, "big") + reply)
        elif isinstance(reply, Later):
            self.in_flight += 1
        elif reply is not None:
            self._later(reply)
        elif message[2] << 8 & QR:
            self.end("qr")  # what was asked before is answered

    def _decide_parked(self, message: bytes) -> None:
        """Answer a message that waited for the first catalog."""
        self.in_flight -= 1
        self.since = self.loop.time()
        if self.transport.is_closing():
            return
        reply = self.exchange.handle(
            message, self.source, self.destination, self.port, stream=True, payer=self.network
        )
        if isinstance(reply, bytes):
            self._write(len(reply).to_bytes(2, "big") + reply)
        elif isinstance(reply, Late):
            self._later(reply)
        self._go_on()

    def _write(self, octets: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(octets)

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
        elif self._has_whole():  # it waits for our network's turn
            self.queued = True
            self.exchange.work.must(self.network, self._serve)
            if len(self.received) >= READ_AHEAD:
                self.transport.pause_reading()
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
