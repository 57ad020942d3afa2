"""Register the metrics of the server's parts. docs/metrics.md repeats each HELP text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from internal_dns.forward.forwarder import Forwarder
from internal_dns.metrics import Metrics
from internal_dns.store.watch import Watcher
from internal_dns.transport.answer import Exchange
from internal_dns.transport.listen.sockets import Bound, kernel_drops
from internal_dns.transport.listen.tcp import Connections

if TYPE_CHECKING:
    from internal_dns.replicate.follower import Follower


def register_answers(
    metrics: Metrics, exchange: Exchange, connections: Connections, groups: Sequence[Bound]
) -> None:
    """Register the metrics of the answer table and the sockets."""
    answers = exchange.answers
    metrics.gauges += [
        (
            "internal_dns_answer_table_entries",
            "Number of replies in the answer table.",
            lambda: answers.entries,
        ),
        (
            "internal_dns_answer_table_octets",
            "Approximate memory used by the answer table, in octets.",
            lambda: answers.octets,
        ),
        (
            "internal_dns_tcp_connections",
            "Number of open TCP connections from clients.",
            lambda: len(connections.open),
        ),
    ]
    register_waiting(metrics, exchange)
    metrics.counters += [
        (
            "internal_dns_answer_table_hits",
            "Number of replies repeated from the answer table.",
            lambda: answers.hits,
        ),
        (
            "internal_dns_answer_table_misses",
            "Number of plain queries that were not in the answer table.",
            lambda: answers.misses,
        ),
        (
            "internal_dns_answer_table_evictions",
            "Number of replies removed from the answer table to make room.",
            lambda: answers.evictions,
        ),
        (
            "internal_dns_answers_ahead",
            "Number of replies decided before a query for them: after a commit or a start, for "
            "names that were queried before it.",
            lambda: exchange.ahead.decided,
        ),
        (
            "internal_dns_receive_buffer_drops",
            "Number of datagrams dropped by the kernel because a receive buffer was full.",
            lambda: sum(kernel_drops(udp) for group in groups for udp in group.udp),
        ),
    ]


def register_waiting(metrics: Metrics, exchange: Exchange) -> None:
    """Register the metrics of the queues: per network, and before the first catalog."""
    queue, room = exchange.work.queue, exchange.loading.room
    metrics.gauges += [
        (
            "internal_dns_waiting",
            "Number of messages waiting in the queues of their networks.",
            lambda: len(queue),
        ),
        (
            "internal_dns_waiting_octets",
            "Approximate memory used by waiting messages, in octets.",
            lambda: queue.octets,
        ),
        (
            "internal_dns_waiting_for_catalog",
            "Number of queries waiting for the first catalog.",
            lambda: len(room),
        ),
    ]
    metrics.counters.append(
        (
            "internal_dns_waiting_for_catalog_overflows",
            "Number of queries that found no room to wait for the first catalog.",
            lambda: room.overflows,
        )
    )


def register_catalog(
    metrics: Metrics, exchange: Exchange, watcher: Watcher, configured: Callable[[], bool]
) -> None:
    """Register the metrics of catalog and configuration.

    *configured* returns whether the last reload succeeded.
    """
    metrics.gauges += [
        (
            "internal_dns_catalog_revision",
            "Revision of the catalog in use.",
            lambda: exchange.catalog.revision if exchange.catalog else 0,
        ),
        (
            "internal_dns_catalog_age_seconds",
            "Seconds since the catalog was last loaded.",
            watcher.age,
        ),
        (
            "internal_dns_catalog_readable",
            "1 while the catalog file can be read, else 0.",
            lambda: float(not watcher.problem),
        ),
        (
            "internal_dns_catalog_faults",
            "Number of invalid rows, which are skipped or served in part.",
            watcher.faults,
        ),
        (
            "internal_dns_configuration_readable",
            "0 if the last reload failed, else 1.",
            configured,
        ),
    ]


def register_forwarder(metrics: Metrics, forwarder: Forwarder) -> None:
    """Register the metrics of the upstreams and the forwarder's cache."""
    cache = forwarder.cache
    metrics.upstreams = forwarder.status
    metrics.cache_hits = lambda: {age.name.lower(): count for age, count in cache.hits.items()}
    metrics.gauges += [
        (
            "internal_dns_forward_outstanding",
            "Number of queries waiting for a reply from an upstream.",
            lambda: len(forwarder.outstanding),
        ),
        (
            "internal_dns_forward_sockets",
            "Number of open sockets to upstreams, except persistent connections.",
            lambda: forwarder.sockets,
        ),
        (
            "internal_dns_cache_entries",
            "Number of replies in the forwarder's cache.",
            lambda: len(cache),
        ),
        (
            "internal_dns_cache_octets",
            "Approximate memory used by the forwarder's cache, in octets.",
            lambda: cache.octets,
        ),
    ]
    metrics.counters += [
        (
            "internal_dns_cache_misses",
            "Number of forwarded queries whose reply was not cached.",
            lambda: cache.misses,
        ),
        (
            "internal_dns_cache_evictions",
            "Number of replies removed from the forwarder's cache to make room.",
            lambda: cache.evictions,
        ),
    ]


def register_follower(metrics: Metrics, follower: Follower) -> None:
    """Register the metrics of the replication."""
    status, start = follower.status, "internal_dns_replication"
    metrics.gauges += [
        (
            f"{start}_lag_revisions",
            "Number of revisions by which the file is behind the bucket.",
            lambda: status.lag.revisions,
        ),
        (
            f"{start}_lag_seconds",
            "Seconds since the file was last known to be up to date; 0 while it is.",
            lambda: status.lag.seconds(time.monotonic()),
        ),
        (
            f"{start}_connected",
            "1 while the follower is connected to the bucket, else 0.",
            lambda: float(not status.problem),
        ),
        (
            f"{start}_revision",
            "Revision of the bucket that the file has reached.",
            lambda: status.revision,
        ),
        (
            f"{start}_quarantined",
            "Number of keys that are not in the file because their value is invalid.",
            lambda: status.quarantined,
        ),
    ]
    metrics.counters += [
        (
            f"{start}_messages",
            "Number of messages from the bucket that were applied.",
            lambda: status.messages,
        ),
        (
            f"{start}_connections",
            "Number of connections made to the bucket.",
            lambda: status.connections,
        ),
        (
            f"{start}_resyncs",
            "Number of full resyncs, in which the whole bucket is read.",
            lambda: status.resyncs,
        ),
    ]
