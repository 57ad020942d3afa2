"""The check of the books finds what does not agree."""

from __future__ import annotations

from typing import Any, cast

import pytest

from internal_dns.metrics import Metrics
from internal_dns.transport.fairness import FairQueue
from internal_dns.transport.listen.tcp import Connections
from internal_dns.transport.loading import WaitingRoom
from tests.books import check_books
from tests.transport.test_exchange import serving


def test_a_queue_whose_octets_are_wrong_is_found() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put(b"a", 1, 60)
    check_books(queue)
    queue.octets += 1
    with pytest.raises(AssertionError, match="octets"):
        check_books(queue)


def test_a_line_that_is_not_listed_under_its_length_is_found() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put(b"a", 1)
    queue.lines.of[b"a"].append((2, 0))
    queue.lines.count += 1
    with pytest.raises(AssertionError, match="length"):
        check_books(queue)


def test_a_query_that_is_in_no_order_is_found() -> None:
    room = WaitingRoom()
    room.put(b"a", lambda: None, 1.0)
    room.lines.pop(b"a")
    with pytest.raises(AssertionError, match="in order"):
        check_books(room)


def test_a_connection_that_is_not_counted_is_found() -> None:
    connections = Connections(serving(), Metrics())
    check_books(connections)
    connections.open.add(cast("Any", type("Lost", (), {"network": b"a"})()))
    with pytest.raises(AssertionError, match="counted"):
        check_books(connections)
