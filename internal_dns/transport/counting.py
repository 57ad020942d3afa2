"""Count replies and measure how long they took, at little cost per message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import perf_counter

from internal_dns.core.catalog import Catalog
from internal_dns.core.journey import Reply
from internal_dns.core.wire import HEADER
from internal_dns.metrics import Metrics
from internal_dns.transport.fairness import OUTSIDERS
from internal_dns.transport.table.table import AnswerTable


class Counting:
    """The counters of replies. `decided` counts messages by payer, except repeated ones."""

    def __init__(
        self, metrics: Metrics, answers: AnswerTable, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.metrics, self.answers, self.clock = metrics, answers, clock
        self.decided: Counter[bytes] = Counter()
        self._repeats = metrics.durations["repeat"]
        self._timed_hits = 0  # repeated replies whose time is counted

    def reply(self, reply: Reply, octets: bytes, begin: float) -> None:
        """Count a reply to *octets* whose making began at *begin* of `clock`."""
        metrics = self.metrics
        metrics.partial[0] += reply.partial
        metrics.response(reply.kind, reply.rcode, qtype_of(octets))[0] += 1
        metrics.durations[reply.kind].observe(self.clock() - begin)

    def forwarded(self, kind: str, qtype: int, begin: float, octets: bytes) -> None:
        """Count a reply that an upstream or the forwarder's cache gave. *kind* is that of the name
        the client queried: "forward", or the zone whose aliases led outside."""
        self.metrics.durations["forward"].observe(self.clock() - begin)
        self.metrics.response(kind, octets[3] & 15, qtype)[0] += 1

    def end_batch(self, begin: float, messages: int) -> float:
        """Count how long the repeated ones of *messages* took, system calls included, since *begin*
        of `clock`. Return the seconds since then.

        Two looks at the clock for each reply would cost it 2 %. So the batch is measured, and all
        its messages count the same.
        """
        took, hits = self.clock() - begin, self.answers.hits
        if repeated := hits - self._timed_hits:
            self._timed_hits = hits
            self._repeats.observe(took / (messages or 1), repeated)
        return took

    def repeated_natively(self, count: int) -> None:
        """Count replies that the native path repeated: their time is not measured."""
        self.answers.hits += count
        self._timed_hits += count

    def forget_removed(self, catalog: Catalog) -> None:
        """Forget what was decided for networks that *catalog* does not have."""
        if len(self.decided) > len(catalog.networks) + 1:
            known = {OUTSIDERS, *(number.to_bytes(4, "big") for number in catalog.networks)}
            self.decided = Counter({n: count for n, count in self.decided.items() if n in known})


def qtype_of(octets: bytes) -> int:
    """Return the QTYPE of a message that was answered, 0 when it has no whole question."""
    at = HEADER
    if octets[4:6] == b"\0\0":
        return 0
    while at < len(octets) and 0 < octets[at] < 64:
        at += 1 + octets[at]
    return int.from_bytes(octets[at + 1 : at + 3], "big") if at + 4 < len(octets) else 0
