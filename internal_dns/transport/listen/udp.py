"""UDP in pure Python: read what has come, answer, send from the address that was asked.

    readable ─► known? ─► reply                    what is known is repeated at once
                  ├────► decide ─► reply           the rest too, while nothing waits
                  └────► the fair queue ─► reply   else in its network's turn

asyncio's datagram transport hides packet info, so the sockets are read here, when the loop says
they are readable. They are read faster than what is new can be answered: behind one network's flood
in the kernel's buffer are the others.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import defaultdict
from functools import partial
from time import perf_counter
from typing import Any, Final

from internal_dns.core.wire import MAX_QUERY
from internal_dns.late import Late
from internal_dns.metrics import Metrics
from internal_dns.net import packed
from internal_dns.transport.answer import Exchange

BATCH: Final = 64  # datagrams read at a time: about half a millisecond
# While work waits, the slices of the fair queue come between: so more are read at a time, most of
# them only to wait, and neighbours behind 80,000 datagrams per second are still seen.
CONTENDED_BATCH: Final = 192
LATE: Final = 4.0  # seconds after which the client has given up, or asked again
_ANCILLARY: Final = socket.CMSG_SPACE(
    20
)  # struct in6_pktinfo: 16 octets of address, 4 of interface


class UdpListener:
    """Serves one UDP socket."""

    def __init__(self, sock: socket.socket, exchange: Exchange, metrics: Metrics) -> None:
        self.sock, self.exchange, self.metrics = sock, exchange, metrics
        host = sock.getsockname()[0]
        self.destination = None if host == "::" else packed(host)  # None: packet info says it
        self.received = metrics.requests["udp", "6" if sock.family == socket.AF_INET6 else "4"]
        self.pending: set[Late] = set()
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(sock, self._readable if self.destination else self._readable_wildcard)

    def stop_reading(self) -> None:
        self.loop.remove_reader(self.sock)

    def close(self) -> None:
        """Leave the socket alone from now on: it may be closed."""
        self.stop_reading()
        for reply in self.pending:
            reply.cancel()
        self.pending.clear()

    # Hot path: both loops are written out; a shared inner function costs half a microsecond a
    # query.
    def _readable(self) -> None:
        if self.exchange.work.busy:
            self._read_contended()
            return
        receive, send, known, destination = (
            self.sock.recvfrom,
            self.sock.sendto,
            self.exchange.known,
            self.destination,
        )
        assert destination is not None
        begin, messages = perf_counter(), 0
        for _ in range(BATCH):
            try:
                octets, address = receive(MAX_QUERY + 1)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an ICMP error of an earlier reply
                continue
            messages += 1
            reply = known(octets, packed(address[0]), destination, address[1])
            if reply is None:
                paused = perf_counter()
                self._decide_or_wait(octets, destination, address, [])
                begin += perf_counter() - paused
                continue
            try:
                send(reply, address)
            except OSError:
                self.metrics.drop("send")
        self.received[0] += messages
        self.exchange.counting.end_batch(begin, messages)

    def _readable_wildcard(self) -> None:
        if self.exchange.work.busy:
            self._read_contended()
            return
        receive, send, known = self.sock.recvmsg, self.sock.sendmsg, self.exchange.known
        begin, messages = perf_counter(), 0
        for _ in range(BATCH):
            try:
                octets, ancillary, _, address = receive(MAX_QUERY + 1, _ANCILLARY)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue
            messages += 1
            if not ancillary:
                self.metrics.drop("packet info")
                continue
            # The same control message sends the reply from the address that was asked, over the way
            # it came.
            destination = ancillary[0][2][:16]
            reply = known(octets, packed(address[0]), destination, address[1])
            if reply is None:
                paused = perf_counter()
                self._decide_or_wait(octets, destination, address, ancillary)
                begin += perf_counter() - paused
                continue
            try:
                send((reply,), ancillary, 0, address)
            except OSError:
                self.metrics.drop("send")
        self.received[0] += messages
        self.exchange.counting.end_batch(begin, messages)

    def _read_contended(self) -> None:
        """Read while work waits: reading and repeating are paid for too. Who waits or is in debt
        waits even for what is known."""
        exchange, work, payers = self.exchange, self.exchange.work, defaultdict[bytes, int](int)
        start, begin, messages = work.cpu(), perf_counter(), 0
        for _ in range(CONTENDED_BATCH):
            try:
                octets, ancillary, _, address = self.sock.recvmsg(MAX_QUERY + 1, _ANCILLARY)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue
            messages += 1
            source, destination = packed(address[0]), self.destination
            if destination is None:
                if not ancillary:
                    self.metrics.drop("packet info")
                    continue
                destination = ancillary[0][2][:16]
            payer = exchange.payers.of_source(source, address[1])
            payers[payer] += 1
            if not work.must_wait(payer):
                reply = exchange.known(octets, source, destination, address[1])
                if reply is not None:
                    self._send(reply, ancillary, address)
                    continue
            self._wait(payer, octets, source, destination, address, ancillary)
        self.received[0] += messages
        exchange.counting.end_batch(begin, messages)
        if payers:
            work.charge(payers, work.cpu() - start)

    def _decide_or_wait(
        self, octets: bytes, destination: bytes, address: Any, ancillary: list[Any]
    ) -> None:
        """Answer a message that is not known: at once, or in its network's turn."""
        exchange, source = self.exchange, packed(address[0])
        payer = exchange.payers.of_source(source, address[1])
        if not exchange.work.try_now(
            payer, self._decide, payer, octets, source, destination, address, ancillary
        ):
            self._wait(payer, octets, source, destination, address, ancillary)

    def _wait(
        self,
        payer: bytes,
        octets: bytes,
        source: bytes,
        destination: bytes,
        address: Any,
        ancillary: list[Any],
    ) -> None:
        """Let a message wait for its network's turn."""
        self.exchange.work.put(
            payer,
            self._answer, payer, octets, source, destination, address, ancillary,
            size=len(octets), until=time.monotonic() + LATE,
        )  # fmt: skip

    def _answer(
        self,
        payer: bytes,
        octets: bytes,
        source: bytes,
        destination: bytes,
        address: Any,
        ancillary: list[Any],
    ) -> None:
        """Answer a message that waited for its turn: it may be known by now."""
        begin = perf_counter()
        self._decide(payer, octets, source, destination, address, ancillary, missed=False)
        self.exchange.counting.end_batch(begin, 1)

    def _decide(
        self,
        payer: bytes,
        octets: bytes,
        source: bytes,
        destination: bytes,
        address: Any,
        ancillary: list[Any],
        *,
        missed: bool = True,
        last: bool = False,
    ) -> None:
        """Answer a message. It waits for the first catalog, unless that was its *last* chance.
        *missed*: it is not in the answer table."""
        exchange, again = self.exchange, None
        if exchange.catalog is None and not last:
            again = partial(
                self._decide, payer, octets, source, destination, address, ancillary,
                missed=False, last=True,
            )  # fmt: skip
        reply = exchange.handle(
            octets, source, destination, address[1], payer=payer, again=again, missed=missed
        )
        if isinstance(reply, bytes):
            self._send(reply, ancillary, address)
        elif isinstance(reply, Late):
            self._later(reply, ancillary, address)

    def _send(self, reply: bytes, ancillary: list[Any], address: Any) -> None:
        try:
            self.sock.sendmsg((reply,), ancillary, 0, address)
        except OSError:
            self.metrics.drop("send")

    def _later(self, reply: Late, ancillary: list[Any], address: Any) -> None:
        """Send *reply* when it is there."""
        self.pending.add(reply)
        reply.when_there(partial(self._send_late, reply, ancillary, address))

    def _send_late(self, reply: Late, ancillary: list[Any], address: Any, octets: bytes) -> None:
        self.pending.discard(reply)
        self._send(octets, ancillary, address)
