"""UDP by native workers: threads that repeat what is known, and hand the rest up to the event loop.

    worker ─► ring ─► _readable ─► the fair queue ─► _answer ─► worker.send

What is handed up goes from the ring into the fair queue at once, so that no network's flood fills
the ring; each reply leaves as soon as it is made.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from functools import partial
from threading import Thread
from time import monotonic, perf_counter
from typing import Final, assert_never

from internal_dns.late import Late
from internal_dns.metrics import Metrics
from internal_dns.net import packed
from internal_dns.transport.answer import Exchange
from internal_dns.transport.listen.udp import LATE
from internal_dns.transport.native import MISSING
from internal_dns.transport.native.mirror import Mirror

if not MISSING:
    from internal_dns.transport.native import fast

# Messages taken from the ring at a time: about a millisecond.
AT_ONCE: Final = 512


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
        self.pending: set[Late] = set()
        # With as many flows as workers, each worker has one queue of each class of networks.
        self.shares = [
            [sock for group in groups for sock in group[n::workers]] for n in range(workers)
        ]
        metrics.before_collecting.append(self.count)
        exchange.payers.own_changed.append(self._pass_own)
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
        self._unseen, self._bounded = 0, False
        self._pass_own()
        self.threads = [
            Thread(target=_run, args=(w,), name=f"udp-{n}", daemon=True)
            for n, w in enumerate(self.workers)
        ]
        for number, worker in enumerate(self.workers):
            self.loop.add_reader(worker.up, self._readable, number)
        for thread in self.threads:
            thread.start()

    def stop_reading(self) -> None:
        """Read nothing more; all that was read waits in the fair queue. What the sockets still hold
        is the next process's."""
        for worker in self.workers:
            worker.stop()
        for thread in self.threads:
            thread.join()
        self.threads = []
        for number, worker in enumerate(self.workers):
            self.loop.remove_reader(worker.up)
            while self._take(number):
                pass
        self.count()

    def close(self) -> None:
        """Leave the sockets alone from now on: they may be closed, and their numbers those of other
        files."""
        self.stop_reading()
        self.workers, self._counted = [], []
        for reply in self.pending:
            reply.cancel()
        self.pending.clear()

    def _readable(self, number: int) -> None:
        up = self.workers[number].up
        os.eventfd_read(up)
        if self._take(number):
            os.eventfd_write(up, 1)  # when others of the event loop had their turn

    def _take(self, number: int) -> bool:
        """Let what was handed up wait for its turn; return whether there may be more."""
        exchange, until = self.exchange, monotonic() + LATE
        if not self._bounded and exchange.catalog is not None:
            self._bounded = True
            for worker in self.workers:
                worker.bound()
        payer_of, put = exchange.payers.of_source, exchange.work.put
        taken = self.workers[number].take(AT_ONCE)
        for message in taken:
            match message:
                case fast.Asked(octets=octets, source=source, port=port):
                    payer = payer_of(source, port)
                    put(
                        payer, self._answer, number, payer, message,
                        size=len(octets), until=until,
                    )  # fmt: skip
                case fast.Repeated(octets=octets, source=source, destination=to, header=header):
                    exchange.taps.show_native(octets, source, to, header)
                case fast.Dropped(octets=octets, source=source, destination=to):
                    exchange.taps.show_native(octets, source, to, None)
                case _:
                    assert_never(message)
        if exchange.taps.open:
            self._tell_unseen()
        return len(taken) == AT_ONCE

    def _answer(self, number: int, payer: bytes, message: fast.Asked, last: bool = False) -> None:
        """Answer a message whose turn it is. It waits for the first catalog, unless that was its
        *last* chance."""
        exchange, again, begin = self.exchange, None, perf_counter()
        if exchange.catalog is None and not last:
            again = partial(self._answer, number, payer, message, True)
        reply = exchange.handle(
            message.octets, message.source, message.destination, message.port,
            payer=payer, again=again,
        )  # fmt: skip
        if isinstance(reply, bytes):
            self._send(number, message.reply_to, reply)
        elif isinstance(reply, Late):
            self._later(reply, number, message.reply_to)
        exchange.counting.end_batch(begin, 1)

    def _send(self, number: int, reply_to: bytes, reply: bytes) -> None:
        """Send by the worker that has the sockets now."""
        if self.workers:
            self.workers[number].send(((reply_to, reply),))

    def _pass_own(self) -> None:
        """Let the workers know from which ports we ask ourselves."""
        for worker in self.workers:
            worker.own([port for _, port in self.exchange.payers.own])

    def _tell_unseen(self) -> None:
        before, self._unseen = self._unseen, sum(worker.unseen for worker in self.workers)
        self.exchange.taps.skip_native(self._unseen - before)

    def _later(self, reply: Late, number: int, reply_to: bytes) -> None:
        """Send *reply* when it is there."""
        self.pending.add(reply)
        reply.when_there(partial(self._send_late, reply, number, reply_to))

    def _send_late(self, reply: Late, number: int, reply_to: bytes, octets: bytes) -> None:
        self.pending.discard(reply)
        self._send(number, reply_to, octets)

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
                    self.exchange.counting.repeated_natively(new)
                elif new:
                    self.metrics.drops[name] += new


def _run(worker: fast.Worker) -> None:
    # A signal is the main thread's, also while this thread ends, which `join` does not wait for.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    worker.run()


def _served(sock: socket.socket) -> tuple[int, bool, bytes | None]:
    """A socket as fast.Worker takes it."""
    host = sock.getsockname()[0]
    return sock.fileno(), sock.family == socket.AF_INET6, None if host == "::" else packed(host)


def spread(sock: socket.socket, flows: int) -> None:
    """Let the source choose the queue in the group of QUEUES * *flows* sockets that *sock* belongs
    to. Raises OSError.

    The queue is network % QUEUES * flows + port % flows; of an IPv4 source the address stands for
    the network.
    """
    fast.spread(sock.fileno(), flows, sock.family == socket.AF_INET6)
