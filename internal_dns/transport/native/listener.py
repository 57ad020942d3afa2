"""UDP by native workers: threads that repeat what is known, and hand the rest up to the event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from functools import partial
from threading import Thread
from time import perf_counter
from typing import Final

from internal_dns.metrics import Metrics
from internal_dns.transport.answer import Exchange
from internal_dns.transport.late import Late
from internal_dns.transport.listen.sockets import packed
from internal_dns.transport.native import MISSING
from internal_dns.transport.native.mirror import Mirror
from internal_dns.transport.turns import Turns

if not MISSING:
    from internal_dns.transport.native import fast

# Octets, source, destination, port, the way back.
Handed = tuple[bytes, bytes, bytes, int, bytes | None]
# Messages taken from the ring in one turn, so that no network's flood fills it.
AT_ONCE: Final = 1_024
# Messages answered in one turn of the event loop, and in one system call: what a reply waits for.
BATCH: Final = 16


class Udp:
    """Serves groups of UDP sockets with native workers; a group is the queues of one address."""

    def __init__(
        self,
        groups: Sequence[Sequence[socket.socket]],
        exchange: Exchange,
        metrics: Metrics,
        mirror: Mirror,
        workers: int,
    ) -> None:
        self.groups, self.exchange, self.metrics = groups, exchange, metrics
        self.loop = asyncio.get_running_loop()
        self.pending: set[asyncio.Future[bytes]] = set()
        self.shares = [
            [sock for group in groups for sock in group[n::workers]] for n in range(workers)
        ]
        metrics.before_collecting.append(self.count)
        self.start(mirror, self.made(mirror))

    def made(self, mirror: Mirror) -> list[fast.Worker]:
        """Return workers that answer from *mirror*, for `start`. Raises OSError."""
        return [
            fast.Worker(mirror.table, [_served(s) for s in share]) for share in self.shares if share
        ]

    def start(self, mirror: Mirror, workers: list[fast.Worker]) -> None:
        """Begin to read, or go on after `stop_reading`, with *workers* that were `made`."""
        self.mirror, self.workers = mirror, workers
        self._counted = [worker.counted() for worker in self.workers]
        self._unseen = 0
        self.turns = [Turns[Handed]() for _ in workers]
        self.threads = [
            Thread(target=w.run, name=f"udp-{n}", daemon=True) for n, w in enumerate(self.workers)
        ]
        for number, worker in enumerate(self.workers):
            self.loop.add_reader(worker.up, self._readable, number)
        for thread in self.threads:
            thread.start()

    def stop_reading(self) -> None:
        """Read nothing more, and answer all that was read. What the sockets still hold is the next
        process's."""
        for worker in self.workers:
            worker.stop()
        for thread in self.threads:
            thread.join()
        self.threads = []
        for number, worker in enumerate(self.workers):
            self.loop.remove_reader(worker.up)
            while self._answer(number):
                pass
        self.count()

    def close(self) -> None:
        """Leave the sockets alone from now on: they may be closed, and their numbers those of other
        files."""
        self.stop_reading()
        self.workers, self._counted = [], []
        for reply in tuple(self.pending):
            reply.cancel()

    def _readable(self, number: int) -> None:
        up = self.workers[number].up
        os.eventfd_read(up)
        if self._answer(number):
            os.eventfd_write(up, 1)  # when others of the event loop had their turn

    def _answer(self, number: int) -> bool:
        """Take what was handed up, and answer one batch of what waits; return whether there may be
        more."""
        handle, replies, worker, waiting = (
            self.exchange.handle,
            [],
            self.workers[number],
            self.turns[number],
        )
        begin, prefix = perf_counter(), self.mirror.prefix
        taken = worker.take(AT_ONCE)
        for message in taken:
            octets, source, destination, _, back = message
            if not back:
                self.exchange.show_elsewhere(octets, source, destination, dropped=back is None)
            elif not waiting.put(
                source[:6] if source[:2] == prefix else b"", message
            ):  # those of no network together
                self.metrics.drop("turn")
        for _ in range(min(BATCH, len(waiting))):
            octets, source, destination, port, back = waiting.take()
            assert back
            reply = handle(octets, source, destination, port)
            if reply.__class__ is bytes:
                replies.append((back, reply))
            elif isinstance(reply, Late):
                self._later(reply, number, back)
        worker.send(replies)
        self.exchange.end_batch(begin)
        if self.exchange.taps:
            self._tell_unseen()
        return len(waiting) > 0 or len(taken) == AT_ONCE

    def _tell_unseen(self) -> None:
        before, self._unseen = self._unseen, sum(worker.unseen for worker in self.workers)
        self.exchange.not_shown(self._unseen - before)

    def _later(self, reply: asyncio.Future[bytes], number: int, back: bytes) -> None:
        """Send *reply* when it is there, by the worker that then has the sockets."""
        self.pending.add(reply)
        reply.add_done_callback(partial(self._send, number, back))

    def _send(self, number: int, back: bytes, reply: asyncio.Future[bytes]) -> None:
        self.pending.discard(reply)
        if self.workers and not reply.cancelled():
            self.workers[number].send([(back, reply.result())])

    def count(self) -> None:
        """Add what the workers have counted since the last time to the metrics."""
        before, self._counted = self._counted, [worker.counted() for worker in self.workers]
        for (named, cells), (named_before, cells_before) in zip(self._counted, before, strict=True):
            self.mirror.bring_home(cells, cells_before)
            for name, count in named.items():
                new = count - named_before[name]
                if name in ("4", "6"):
                    self.metrics.requests["udp", name][0] += new
                elif name == "hits":
                    self.exchange.repeated_elsewhere(new)
                elif new:
                    self.metrics.drops[name] += new


def _served(sock: socket.socket) -> tuple[int, bool, bytes | None]:
    """A socket as fast.Worker takes it."""
    host = sock.getsockname()[0]
    return sock.fileno(), sock.family == socket.AF_INET6, None if host == "::" else packed(host)


def spread_by_network(sock: socket.socket) -> None:
    """Let the source's network choose the queue, in the group that *sock* belongs to. Raises
    OSError."""
    fast.spread_by_network(sock.fileno())
