"""The watchdog: send WATCHDOG=1 to the service manager, but only after real answers.

It sends a query to each served address through a socket like a client's. The reply has passed the
kernel's queue, the listener, the event loop, and the journey. A server that hangs or no longer
reads sends no WATCHDOG=1, and the service manager restarts it. These queries skip the queues of
other clients: a flood is no reason for a restart.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from ipaddress import IPv6Address
from struct import pack
from typing import Final

from internal_dns.core.wire import IN, QR, Type
from internal_dns.net import Endpoint, packed
from internal_dns.service.notify import ServiceManager
from internal_dns.service.routes import is_local

# Queries per watchdog interval: one may be lost in a full queue.
CHANCES: Final = 4
# The journey answers this query, or refuses an outsider. It needs no catalog, and is never
# forwarded or stored in the answer table.
_QUESTION: Final = b"\x09localhost\0" + pack("!HH", Type.AAAA, IN)

# A context manager that marks queries from an address and port as the watchdog's.
AskingOurselves = Callable[[bytes, int], AbstractContextManager[None]]

_log = logging.getLogger("internal_dns")


def _unmarked(source: bytes, port: int) -> AbstractContextManager[None]:
    return nullcontext()


async def watch_ourselves(
    manager: ServiceManager, endpoints: Sequence[Endpoint], known_as: AskingOurselves
) -> None:
    """Query all served addresses and notify *manager* when each has answered, until cancelled.

    *manager* must have a watchdog.
    """
    assert manager.watchdog is not None
    every, failing = manager.watchdog / CHANCES, False
    local, loop = _on_this_host(endpoints), asyncio.get_running_loop()
    if not local:
        _log.warning(
            "watchdog: no address of the server is on this host yet; checking only the event loop"
        )
    while True:
        begin = loop.time()
        answered = await asyncio.gather(*(answers(endpoint, every, known_as) for endpoint in local))
        if all(answered):
            manager.alive()
        elif not failing:
            failed = ", ".join(str(e) for e, ok in zip(local, answered, strict=True) if not ok)
            _log.error("watchdog: no answer from %s within %.1f s", failed, every)
        failing = not all(answered)
        await asyncio.sleep(begin + every - loop.time())
        local = _on_this_host(endpoints)


def _on_this_host(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the addresses that can be queried.

    With FREEBIND the server also has addresses without a route yet, or with a route elsewhere.
    """
    candidates = [Endpoint(IPv6Address("::1"), e.port) if e.wildcard else e for e in endpoints]
    return [endpoint for endpoint in candidates if _is_local(endpoint)]


def _is_local(endpoint: Endpoint) -> bool:
    try:
        return is_local(endpoint.host)
    except OSError:  # this sandbox has no netlink: query the address anyway
        return True


async def answers(
    endpoint: Endpoint, seconds: float, known_as: AskingOurselves = _unmarked
) -> bool:
    """Whether the server at *endpoint* answers a query over UDP within *seconds*."""
    loop = asyncio.get_running_loop()
    query = secrets.token_bytes(2) + pack("!5H", 0, 1, 0, 0, 0) + _QUESTION
    try:
        with socket.socket(endpoint.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(
                endpoint.sockaddr
            )  # a connected socket receives only replies of this server
            host, port = sock.getsockname()[:2]
            with known_as(packed(host), port):
                sock.send(query)
                async with asyncio.timeout(seconds):
                    while True:
                        reply = await loop.sock_recv(sock, 512)
                        if reply[:2] == query[:2] and len(reply) > 2 and reply[2] << 8 & QR:
                            return True
    except OSError:  # TimeoutError is one
        return False
