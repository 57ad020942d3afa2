"""Bind the sockets of the settings, or adopt inherited ones."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace

from internal_dns.config import Settings, find_contradictions
from internal_dns.net import Endpoint
from internal_dns.service.errors import cannot_listen, unfit_sockets
from internal_dns.transport import native
from internal_dns.transport.listen.sockets import Bound, bind_queues
from internal_dns.transport.native.listener import spread as assign_queues

_log = logging.getLogger("internal_dns")


def bind(endpoints: Sequence[Endpoint], *, flows: int) -> Iterator[Bound]:
    """Yield the sockets of each endpoint. Raises OperatorError.

    Each endpoint has *flows* UDP sockets per class of networks; with none it has one socket.
    """
    for endpoint in endpoints:
        try:
            udp, tcp = bind_queues(endpoint, native.QUEUES * flows or 1)
        except OSError as error:
            raise cannot_listen(endpoint, error) from error
        yield Bound(endpoint, udp, [tcp])


def spread(group: Bound) -> None:
    """Assign each network to UDP sockets of *group*, if these sockets are queues."""
    if not (flows := flows_of(group)):
        return
    try:
        assign_queues(group.udp[0], flows)
    except OSError as error:
        _log.warning(
            "cannot assign networks to queues (%s): a flood from one network may affect all others",
            error.strerror,
        )


def flows_of(group: Bound) -> int:
    """Return how many UDP sockets of *group* serve each class of networks; 0: they are no queues.

    Those of `bind` are queues, inherited ones may be: a multiple of QUEUES with ReusePort=yes.
    """
    flows, others = divmod(len(group.udp), native.QUEUES)
    if others or not all(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in group.udp
    ):
        return 0
    return flows


def adopt(settings: Settings, inherited: Sequence[Bound]) -> Settings:
    """Return *settings* with the addresses of the *inherited* sockets.

    Raises OperatorError when other settings contradict these.
    """
    adopted = replace(settings, listen=tuple(group.endpoint for group in inherited))
    if faults := find_contradictions(adopted):
        raise unfit_sockets(faults)
    return adopted
