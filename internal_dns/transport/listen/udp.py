"""UDP in pure Python: read what has come, answer, send from the address that was asked.

asyncio's datagram transport hides packet info, so the sockets are read here, when the loop says
they are readable.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from time import perf_counter
from typing import Any, Final

from internal_dns.core.wire import MAX_QUERY
from internal_dns.metrics import Metrics
from internal_dns.transport.answer import Exchange
from internal_dns.transport.late import Late
from internal_dns.transport.listen.sockets import packed

# Datagrams a turn: enough to keep system calls on the way, few enough for others to have their
# turn.
BATCH: Final = 64
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
        self.pending: set[asyncio.Future[bytes]] = set()
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(sock, self._readable if self.destination else self._readable_wildcard)

    def stop_reading(self) -> None:
        self.loop.remove_reader(self.sock)

    def close(self) -> None:
        """Leave the socket alone from now on: it may be closed."""
        self.stop_reading()
        for reply in tuple(self.pending):
            reply.cancel()

    # Hot path: both loops are written out; a shared inner function costs half a microsecond a
    # query.
    def _readable(self) -> None:
        receive, send, handle, destination = (
            self.sock.recvfrom,
            self.sock.sendto,
            self.exchange.handle,
            self.destination,
        )
        assert destination is not None
        begin = perf_counter()
        for _ in range(BATCH):
            try:
                octets, address = receive(MAX_QUERY + 1)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an ICMP error of an earlier reply
                continue
            self.received[0] += 1
            reply = handle(octets, packed(address[0]), destination, address[1])
            if reply.__class__ is bytes:
                try:
                    send(reply, address)
                except OSError:
                    self.metrics.drop("send")
            elif isinstance(reply, Late):
                self._later(reply, address, [])
        self.exchange.end_batch(begin)

    def _readable_wildcard(self) -> None:
        receive, send, handle = self.sock.recvmsg, self.sock.sendmsg, self.exchange.handle
        begin = perf_counter()
        for _ in range(BATCH):
            try:
                octets, ancillary, _, address = receive(MAX_QUERY + 1, _ANCILLARY)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue
            self.received[0] += 1
            if not ancillary:
                self.metrics.drop("packet info")
                continue
            # The same control message sends the reply from the address that was asked, over the way
            # it came.
            reply = handle(octets, packed(address[0]), ancillary[0][2][:16], address[1])
            if reply.__class__ is bytes:
                try:
                    send((reply,), ancillary, 0, address)
                except OSError:
                    self.metrics.drop("send")
            elif isinstance(reply, Late):
                self._later(reply, address, ancillary)
        self.exchange.end_batch(begin)

    def _later(self, reply: asyncio.Future[bytes], address: Any, ancillary: list[Any]) -> None:
        """Send *reply* when it is there."""
        self.pending.add(reply)
        reply.add_done_callback(partial(self._send, address, ancillary))

    def _send(self, address: Any, ancillary: list[Any], reply: asyncio.Future[bytes]) -> None:
        self.pending.discard(reply)
        if not reply.cancelled():
            try:
                self.sock.sendmsg((reply.result(),), ancillary, 0, address)
            except OSError:
                self.metrics.drop("send")
