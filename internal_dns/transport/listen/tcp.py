"""TCP: frames in, frames out (RFC 7766), and limits so that no client can hold what others need.

A reply leaves when it is ready, so a slow upstream never blocks the questions behind it. A
connection ends when a message stays half sent for 2 s, nothing is asked for 10 s, or replies stay
unread for 10 s.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from time import perf_counter
from typing import Final, cast

from internal_dns.core.journey import IDLE_TIMEOUT
from internal_dns.core.wire import HEADER, QR
from internal_dns.metrics import Metrics
from internal_dns.transport.answer import Exchange
from internal_dns.transport.listen.sockets import packed

PARTIAL_TIMEOUT: Final = 2
UNREAD_TIMEOUT: Final = 10
MAX_IN_FLIGHT: Final = 100
PER_NETWORK: Final = 256
# Replies to one client may wait in 256 KiB; the mark leaves room for the largest reply.
HIGH_WATER: Final = (256 << 10) - 65_537
ALL_BUFFERS: Final = 64 << 20
_OUTSIDERS: Final = b"outsiders"


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
        self.waiting: set[asyncio.Future[bytes]] = set()
        self.loop = asyncio.get_running_loop()
        self.since = self.loop.time()  # when the present wait began
        self.timer: asyncio.TimerHandle | None = None

    # ── asyncio.Protocol ──────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if not peer or not own:  # it is gone already
            self.network = _OUTSIDERS
            self.transport.abort()
            return
        self.source, self.destination, self.port = packed(peer[0]), packed(own[0]), peer[1]
        inside = self.source[:2] == self.exchange.rules.prefix
        self.network = self.source[2:6] if inside else _OUTSIDERS
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
        self._read()

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
        self._read()

    def connection_lost(self, error: Exception | None) -> None:
        self.all.leave(self)
        if self.timer:
            self.timer.cancel()
        for reply in tuple(self.waiting):
            reply.cancel()

    # ── frames ────────────────────────────────────────────────────────────────────────────────────

    def _read(self) -> None:
        """Answer the whole messages that have come, as many as may be in flight; replies leave
        together."""
        received, at, replies, held, wrong, begin = (
            self.received,
            0,
            bytearray(),
            0,
            "",
            perf_counter(),
        )
        while (
            len(received) - at >= 2
            and self.in_flight < MAX_IN_FLIGHT
            and not self.blocked
            and held < HIGH_WATER
        ):
            length = received[at] << 8 | received[at + 1]
            if length < HEADER:
                wrong = "frame"
                break
            if len(received) - at < 2 + length:
                break
            message = bytes(received[at + 2 : at + 2 + length])
            at += 2 + length
            self.counted[0] += 1
            reply = self.exchange.handle(
                message, self.source, self.destination, self.port, stream=True
            )
            if reply is None:
                if message[2] << 8 & QR:
                    wrong = "qr"
                    break
            elif isinstance(reply, bytes):
                replies += len(reply).to_bytes(2, "big") + reply
                held = len(replies)
            else:
                self._later(reply)
        if at:
            del received[:at]
            self.since = self.loop.time()
        if replies:
            self.transport.write(bytes(replies))
        self.exchange.end_batch(begin)
        if wrong:
            self.end(wrong)  # what was asked before is answered
        else:
            self._pace()

    def _pace(self) -> None:
        """Read on only while another message may be answered, and come back for those already
        here."""
        if self.transport.is_closing():
            return
        whole = len(self.received) >= 2 and len(self.received) >= 2 + (
            self.received[0] << 8 | self.received[1]
        )
        if self.blocked or self.in_flight >= MAX_IN_FLIGHT:
            self.transport.pause_reading()
        elif whole:
            self.transport.pause_reading()
            self.loop.call_soon(self._again)
        elif self.closing:
            if not self.in_flight:
                self.transport.close()
        else:
            self.transport.resume_reading()

    def _again(self) -> None:
        if not self.transport.is_closing() and not self.blocked:
            self._read()

    def _later(self, reply: asyncio.Future[bytes]) -> None:
        self.in_flight += 1
        self.waiting.add(reply)
        reply.add_done_callback(self._send)

    def _send(self, reply: asyncio.Future[bytes]) -> None:
        self.waiting.discard(reply)
        self.in_flight -= 1
        self.since = self.loop.time()
        if reply.cancelled():
            return
        octets = reply.result()
        if not self.transport.is_closing():
            self.transport.write(len(octets).to_bytes(2, "big") + octets)
        if not self.blocked:
            self._read()

    # ── ends ──────────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        """End the connection when what it waits for took too long; else look again when it may
        have."""
        if self.blocked:
            limit, reason = UNREAD_TIMEOUT, "unread"
        elif self.in_flight:
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
