"""Who waits for upstreams, what is outstanding for whom, and how many sockets it holds.

A network may have 1,000 clients waiting. Sockets are bounded in all; when they run out, the network
with most outstanding queries loses its oldest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from internal_dns.core.catalog import NetworkId

if TYPE_CHECKING:
    from internal_dns.forward.outstanding import OutstandingQuery

PER_NETWORK: Final = 1_000  # clients waiting
LOOK_AT: Final = 16  # of the queries that may have to make room


class Accounts:
    """The books of a forwarder."""

    def __init__(self, limit: int, per_network: int = PER_NETWORK) -> None:
        self.limit, self.per_network = limit, per_network
        self.sockets = 0  # UDP attempts, those of probes included
        self.clients: Counter[NetworkId] = Counter()  # that wait
        # The oldest first; those that began before `Forwarder.use` included.
        self.queries: dict[NetworkId, dict[OutstandingQuery, None]] = {}
        self.probes: set[OutstandingQuery] = set()

    def outstanding(self) -> Iterator[OutstandingQuery]:
        """Yield all queries that are outstanding, probes first."""
        return chain(self.probes, *self.queries.values())

    def may_wait(self, network: NetworkId) -> bool:
        """Return whether one more client of *network* may wait."""
        return self.clients[network] < self.per_network

    def add_client(self, network: NetworkId) -> None:
        self.clients[network] += 1

    def remove_client(self, network: NetworkId) -> None:
        self.clients[network] -= 1
        if not self.clients[network]:
            del self.clients[network]

    def add(self, query: OutstandingQuery) -> None:
        self.queries.setdefault(query.network, {})[query] = None

    def remove(self, query: OutstandingQuery) -> None:
        of_network = self.queries[query.network]
        del of_network[query]
        if not of_network:
            del self.queries[query.network]

    def victim(self, network: NetworkId) -> OutstandingQuery | None:
        """Return the query that must end to make room for one of *network*: the oldest of the
        network that has most, if that has more than *network*."""
        queries = self.queries
        greedy = max(queries, key=lambda each: len(queries[each]), default=network)
        if greedy == network or len(queries[greedy]) <= len(queries.get(network, ())) + 1:
            return None
        for query in islice(queries[greedy], LOOK_AT):
            if all(waiting == greedy for waiting in query.waiters.values()):
                return query
        return None

    def check_books(self) -> None:
        """Raise AssertionError unless all counts agree with what is there."""
        assert self.sockets == sum(query.sockets for query in self.outstanding())
        waiting: Counter[NetworkId] = Counter()
        for network, queries in self.queries.items():
            assert queries, f"an empty account of network {network}"
            for query in queries:
                assert query.network == network
                assert query.outcome is None, "a query that has ended"
                waiting.update(query.waiters.values())
        # A client whose reply awaits the turn of its network still counts, but waits for no query.
        assert waiting <= self.clients, f"{waiting} wait, {self.clients} are counted"
        assert all(self.clients.values()), "a network without clients"
