"""Send queries over UDP from this process, which sleeps between them: until an answer changes, or
at a low fixed rate.

sendmmsg.c is for high rates: it never sleeps, and would delay a second process on its core.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from struct import pack, unpack_from
from types import TracebackType
from typing import Any, Final, NamedTuple

from bench.machine import LOAD_CORE
from bench.zones import query

PAUSE: Final = 0.0002  # seconds between queries: the resolution; about 3,000 queries per second
PATIENCE: Final = 0.5  # seconds for one reply
_OPT: Final = b"\0" + pack("!HHIH", 41, 1232, 0, 0)
_EDE: Final = 15
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3


class Answer(NamedTuple):
    """The parts of a reply that a benchmark needs."""

    rcode: int
    records: int
    ede: tuple[int, ...]


def with_edns(name: str, qtype: str) -> bytes:
    """Return a query with EDNS, so that its reply may carry an extended error."""
    plain = query(name, qtype)
    return plain[:10] + b"\0\1" + plain[12:] + _OPT


class Asker:
    """A UDP socket to one server."""

    def __init__(self, port: int) -> None:
        self.lost, self._id = 0, 0
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._socket.connect(("::1", port))

    def __enter__(self) -> Asker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def ask(self, octets: bytes, patience: float = PATIENCE) -> Answer | None:
        """Send one query. Count a timeout and return None. Raises ConnectionRefusedError."""
        self._id = (self._id + 1) & 0xFFFF
        deadline, identifier = time.perf_counter() + patience, pack("!H", self._id)
        self._socket.send(identifier + octets[2:])
        while (left := deadline - time.perf_counter()) > 0:
            self._socket.settimeout(left)
            try:
                reply = self._socket.recv(4096)
            except TimeoutError:
                break
            if reply[:2] == identifier:  # not a late reply to an earlier query
                return _read(reply, len(octets))
        self.lost += 1
        return None

    def until(self, octets: bytes, count: int, limit: float) -> float | None:
        """Query until the answer has *count* records.

        Return the time (time.perf_counter), or None after *limit* seconds.
        """
        deadline = time.perf_counter() + limit
        while (now := time.perf_counter()) < deadline:
            answer = self.ask(octets)
            if (
                answer is not None
                and answer.rcode in (NOERROR, NXDOMAIN)
                and answer.records == count
            ):
                return time.perf_counter()
            time.sleep(max(0.0, now + PAUSE - time.perf_counter()))
        return None

    def at_rate(self, questions: Sequence[bytes], rate: int, seconds: float) -> dict[str, Any]:
        """Send *rate* queries per second. Latency counts from the time a query is due."""
        self._socket.setblocking(False)
        due, latencies, rcodes = dict[bytes, float](), list[float](), dict[int, int]()
        start, sent, total = time.perf_counter(), 0, int(rate * seconds)
        while (sent < total or due) and (now := time.perf_counter()) < start + seconds + PATIENCE:
            while sent < total and start + sent / rate <= now:
                identifier = pack("!H", sent & 0xFFFF)
                due[identifier] = start + sent / rate
                self._socket.send(identifier + questions[sent % len(questions)][2:])
                sent += 1
            left = start + sent / rate - time.perf_counter() if sent < total else PATIENCE
            select.select([self._socket], [], [], max(0.0, left))
            with suppress(BlockingIOError):
                while True:
                    reply = self._socket.recv(4096)
                    if (since := due.pop(reply[:2], None)) is not None:
                        latencies.append(time.perf_counter() - since)
                        rcodes[reply[3] & 15] = rcodes.get(reply[3] & 15, 0) + 1
        return {
            "sent": sent,
            "answered": len(latencies),
            "lost": len(due),
            "rcodes": rcodes,
            "latencies": latencies,
        }


def _read(reply: bytes, asked: int) -> Answer:
    """Parse a reply. Reads the extended error only if there are no records, because then the OPT
    record is where it was in the query."""
    counts = unpack_from("!4H", reply, 4)
    found, at = [], asked
    if counts[1:] == (0, 0, 1) and reply[asked - len(_OPT) : asked - len(_OPT) + 3] == _OPT[:3]:
        while at + 6 <= len(reply):
            code, length, info = unpack_from("!3H", reply, at)
            if code == _EDE:
                found.append(info)
            at += 4 + length
    return Answer(reply[3] & 15, counts[1], tuple(found))


@contextmanager
def first_in_line() -> Iterator[bool]:
    """Pin this process to LOAD_CORE; as root, give it real-time priority and return True."""
    everywhere, policy = os.sched_getaffinity(0), os.sched_getscheduler(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        first = True
    except PermissionError:
        first = False
    try:
        yield first
    finally:
        if first:
            os.sched_setscheduler(0, policy, os.sched_param(0))
        os.sched_setaffinity(0, everywhere)
