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
from internal_dns.transport.native.listener import spread_by_network

_log = logging.getLogger("internal_dns")


def bind(endpoints: Sequence[Endpoint], *, queues: bool) -> Iterator[Bound]:
    """Yield the sockets of each endpoint. Raises OperatorError.

    *queues*: bind several UDP sockets per IPv6 endpoint, one per group of networks.
    """
    for endpoint in endpoints:
        # The BPF program that chooses the queue reads an IPv6 header.
        count = native.QUEUES if queues and endpoint.host.version == 6 else 1
        try:
            udp, tcp = bind_queues(endpoint, count)
        except OSError as error:
            raise cannot_listen(endpoint, error) from error
        yield Bound(endpoint, udp, [tcp])


def spread(group: Bound) -> None:
    """Assign each network to one UDP socket of *group*, if these sockets are queues."""
    if not _are_queues(group):
        return
    try:
        spread_by_network(group.udp[0])
    except OSError as error:
        _log.warning(
            "cannot assign networks to queues (%s): a flood from one network may affect all others",
            error.strerror,
        )


def _are_queues(group: Bound) -> bool:
    """Whether the UDP sockets of *group* are queues. Those of `bind` are, inherited ones may be."""
    return (
        group.endpoint.host.version == 6
        and len(group.udp) == native.QUEUES
        and all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in group.udp)
    )


def adopt(settings: Settings, inherited: Sequence[Bound]) -> Settings:
    """Return *settings* with the addresses of the *inherited* sockets.

    Raises OperatorError when other settings contradict these.
    """
    adopted = replace(settings, listen=tuple(group.endpoint for group in inherited))
    if faults := find_contradictions(adopted):
        raise unfit_sockets(faults)
    return adopted
