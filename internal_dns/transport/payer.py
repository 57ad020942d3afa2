"""Who pays for work on the event loop: a network of the catalog, all others together, or we."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from internal_dns.core.catalog import NetworkId
from internal_dns.transport.fairness import OURSELVES, OUTSIDERS
from internal_dns.transport.table.table import AnswerTable


class Payers:
    """Names the payer of each message. `own` are the addresses and ports of our own queries."""

    def __init__(self, answers: AnswerTable) -> None:
        self.answers = answers
        self.own: set[tuple[bytes, int]] = set()
        self.own_changed: list[Callable[[], None]] = []

    def of_source(self, source: bytes, port: int = 0) -> bytes:
        """Return who pays for a message from *source*: its network, or the outsiders."""
        if (source, port) in self.own:
            return OURSELVES
        network = self.answers.network_of(source)
        return OUTSIDERS if network is None else self._in_catalog(network)

    def of_network(self, number: NetworkId) -> bytes:
        """Return who pays for work for network *number*; 0 is ours: the checks of upstreams."""
        return self._in_catalog(number.to_bytes(4, "big")) if number else OURSELVES

    def _in_catalog(self, network: bytes) -> bytes:
        """Return *network* if it has a line of its own.

        Before the first catalog is loaded every network number has one.
        """
        catalog = self.answers.catalog
        known = catalog is None or int.from_bytes(network, "big") in catalog.networks
        return network if known else OUTSIDERS

    @contextmanager
    def asking_ourselves(self, source: bytes, port: int) -> Iterator[None]:
        """Treat messages from this address and port as our own, which always have credit."""
        self.own.add((source, port))
        try:
            self._tell()
            yield
        finally:
            self.own.discard((source, port))
            self._tell()

    def _tell(self) -> None:
        for changed in self.own_changed:
            changed()
