"""The native UDP path: what goes into the C core's table and comes out of its workers.

    socket ─► fast.Worker, a thread ─► known? repeat it ─► socket          Exchange.handle ─► AnswerTable
                     └── else ─► ring ─► Udp._readable ─► Exchange.handle       │ Mirror.put, drop, change
                                                              └─► socket        └─► fast.Table, which workers read

`transport/udp.py` and `answers.py` do the same in Python; they are what runs without the extension,
and the oracle of the tests. AnswerTable knows what depends on what and when an answer must go; the
table here only follows it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Sequence
from math import ceil
from struct import pack, unpack
from threading import Thread
from time import perf_counter
from typing import Any, Final

from internal_dns.core import names
from internal_dns.core.catalog import Catalog, Network, NetworkId
from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.core.wire import AD, IN, QR, RA, RD, Rcode, Type
from internal_dns.metrics import Metrics
from internal_dns.transport.answers import (
    EVERYONE,
    MAX_ENTRIES,
    Cell,
    Entry,
    RelayedEntry,
    cut,
    split,
)
from internal_dns.transport.exchange import Exchange
from internal_dns.transport.sockets import packed
from internal_dns.transport.turns import Turns

try:
    from internal_dns.transport import fast

    MISSING = ""
except ImportError as error:
    MISSING = f"it was not built at installation ({error})"

Handed = tuple[
    bytes, bytes, bytes, int, bytes | None
]  # octets, source, destination, port, the way back
QUEUES: Final = 8  # as repeat.h; here it must be known without the extension too
AT_ONCE: Final = (
    1_024  # messages taken from the ring in one turn, so that no network's flood fills it
)
# messages answered in one turn of the event loop, and in one system call: what a reply waits for
BATCH: Final = 16
_OPT_SIZE: Final = 11
_NETWORKS: Final = 16_384  # chains; more networks make them longer
_ROOM: Final = 64  # labels that a network may gain before its set is made anew, at least


class Mirror:
    """Keeps the native table like the AnswerTable it belongs to, and brings the workers' counts
    home."""

    def __init__(self, rules: Rules, metrics: Metrics) -> None:
        longest_first = sorted(rules.maps, key=lambda m: -m.source.prefixlen)
        maps = [
            (m.source.network_address.packed, m.source.prefixlen, m.network) for m in longest_first
        ]
        self.table = fast.Table(rules.prefix, maps, rules.udp_limit, MAX_ENTRIES, _NETWORKS)
        self.prefix = rules.prefix
        self._cells: list[Cell] = []
        self._numbers: dict[int, int] = {}  # by the id of a cell, which _cells keeps alive
        self._room: dict[NetworkId, int] = {}
        self._set_unknown(rules, metrics)

    def _number(self, cell: Cell) -> int:
        """The number that *cell* has natively."""
        number = self._numbers.get(id(cell))
        if number is None:
            number = self._numbers[id(cell)] = len(self._cells)
            self._cells.append(cell)
        return number

    def _set_unknown(self, rules: Rules, metrics: Metrics) -> None:
        """Tell the table what names get that are certainly not there, and which labels make a name
        uncertain."""
        for depth, entry in enumerate(unknown(rules, fast.UNKNOWN_DEPTHS), 1):
            flags, counts, records, options = octets_of(entry)
            self.table.set_unknown(depth, flags, counts, records, options)
        self.table.set_words(names.RESERVED)
        for qtype in range(fast.OTHER_TYPE + 1):
            cell = metrics.response("internal", Rcode.NXDOMAIN, qtype)
            self.table.set_unknown_cell(qtype, self._number(cell))

    # ── what AnswerTable tells ────────────────────────────────────────────────────────────────────

    def put(self, network: bytes, key: bytes, entry: Entry) -> int:
        """Keep *entry*; return the octets it takes here, 0 when only Python can repeat it."""
        number = self._number(entry.counter)
        in_turns = any(count > 1 for _, count in entry.rings)  # by distance: group by group
        if (
            in_turns
            or number >= fast.MAX_CELLS
            or entry.shown + len(entry.tail) > fast.LARGEST_REPLY
        ):
            return 0
        flags, counts, records, options = octets_of(entry)
        turns = entry.count if entry.count > 1 else 0
        name, qtype, _ = split(network, key)
        return self.table.put(
            int.from_bytes(network, "big"),
            name,
            qtype,
            flags,
            counts,
            entry.unit,
            turns,
            records,
            options,
            number,
        )

    def put_relayed(self, key: bytes, entry: RelayedEntry) -> int:
        """Keep *entry* for everyone; return the octets it takes here, 0 when only Python can repeat
        it."""
        number, reply = self._number(entry.counter), entry.reply
        if number >= fast.MAX_CELLS or len(reply.records) > fast.LARGEST_REPLY:
            return 0
        name, qtype, variant = split(EVERYONE, key)
        # Upwards: who is sent up to have it refreshed must find that it is time there too.
        refresh, until = ceil(entry.refresh_at * 1_000), ceil(entry.until * 1_000)
        return self.table.put_relayed(
            name,
            qtype,
            bool(variant & 1),
            bool(variant & 2),
            QR | RA | reply.ad * AD | reply.rcode & 15,
            reply.rcode >> 4,
            (*reply.counts, 0),
            reply.records,
            b"",
            reply.ttls,
            int(entry.since * 1_000),
            refresh,
            until,
            number,
        )

    def drop(self, network: bytes, key: bytes) -> None:
        name, qtype, variant = split(network, key)
        if network == EVERYONE:
            self.table.drop_relayed(name, qtype, bool(variant & 1), bool(variant & 2))
        else:
            self.table.drop(int.from_bytes(network, "big"), name, qtype)

    def change(
        self,
        number: NetworkId,
        before: Network | None,
        after: Network | None,
        labels: frozenset[bytes] | None,
    ) -> None:
        """Let names under the apps of *after* go up to Python from now on."""
        if after is None:
            self.table.unknow(number)
            self._room.pop(number, None)
        elif before is None:
            self._know(after)
        elif before.apps is not after.apps:
            # A name may stay in the set when its app is gone: then it goes up, and is remembered
            # there.
            maybe = after.apps if labels is None else labels
            new = [app for app in maybe if app in after.apps and app not in before.apps]
            self._room[number] -= len(new)
            if self._room[number] < 0:
                self._know(after)
            else:
                self.table.see(number, new)

    def watch(self, every: int) -> None:
        self.table.watch(every)

    def _know(self, network: Network) -> None:
        room = max(_ROOM, len(network.apps))
        self.table.know(
            network.id, names.APEX_WORDS | network.apps.keys(), len(network.apps) + room
        )
        self._room[network.id] = room

    def hits(self, network: bytes, key: bytes) -> int:
        name, qtype, variant = split(network, key)
        if network == EVERYONE:
            return self.table.relayed_hits(name, qtype, bool(variant & 1), bool(variant & 2))
        return self.table.hits_of(int.from_bytes(network, "big"), name, qtype)

    def bring_home(self, counts: Sequence[int], before: Sequence[int]) -> None:
        """Add what a worker has counted since *before*, by cell."""
        for cell, now, then in zip(self._cells, counts, before, strict=False):
            cell[0] += now - then


def octets_of(entry: Entry) -> tuple[int, tuple[int, int, int], bytes, bytes]:
    """Flags without RD and CD, counts without OPT, records, and EDNS options of an entry."""
    flags, _, answers, authorities, additionals = unpack("!5H", entry.heads[0])
    answer = entry.by_groups(0) if entry.rings else entry.ring[: entry.shown]
    return (
        flags,
        (answers, authorities, additionals),
        answer + entry.tail,
        entry.opts[0][_OPT_SIZE:],
    )


def unknown(rules: Rules, depths: int) -> Iterator[Entry]:
    """Yield what core says to names without a telling label, with one label below `internal`, with
    two, and so on."""
    network = Network(NetworkId(1), rules.prefix + (1).to_bytes(4, "big"))
    for depth in range(1, depths + 1):
        question = names.wire((b"x",) * depth + names.INTERNAL) + pack("!2H", Type.AAAA, IN)
        octets = pack("!6H", 0, RD, 1, 0, 0, 0) + question
        said = respond(
            octets, network.prefix + bytes(10), bytes(16), Catalog({network.id: network}), rules
        )
        assert isinstance(said, Reply)
        assert said.rcode == Rcode.NXDOMAIN
        assert said.remember is not None
        entry = cut(said.remember, rules, [0])
        assert entry is not None
        # Its owner is where the C core puts the pointer of the question at hand.
        assert entry.tail[:2] == pack(
            "!H", 0xC000 | len(octets) - 4 - len(names.wire(names.INTERNAL))
        )
        yield entry


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
        self.pending: set[asyncio.Task[None]] = set()
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
        for task in self.pending:
            task.cancel()

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
            elif reply is not None:
                self._later(reply, number, back)
        worker.send(replies)
        self.exchange.end_batch(begin)
        if self.exchange.taps:
            self._tell_unseen()
        return len(waiting) > 0 or len(taken) == AT_ONCE

    def _tell_unseen(self) -> None:
        before, self._unseen = self._unseen, sum(worker.unseen for worker in self.workers)
        self.exchange.not_shown(self._unseen - before)

    def _later(self, reply: Any, number: int, back: bytes) -> None:
        """Send what a coroutine returns, when it does, by the worker that then has the sockets."""

        async def send() -> None:
            if (octets := await reply) is not None and self.workers:
                self.workers[number].send([(back, octets)])

        task = self.loop.create_task(send())
        self.pending.add(task)
        task.add_done_callback(self.pending.discard)

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
