"""The watchdog: tell the service manager that we live, but only after having really answered.

A question is sent to each address that is served, by a socket as a client's would be. Its answer
has gone through the kernel's queue, our receiving, the loop, and the journey; a server that hangs,
or has stopped reading, says nothing more, and the service manager starts another. It does not wait
behind others' questions: a flood is no reason to be restarted.
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

# One question may be lost in a full queue without the service being at fault.
CHANCES: Final = 4
# The journey answers it each time, or refuses an outsider: it needs no catalog, and is never
# forwarded or remembered.
_QUESTION: Final = b"\x09localhost\0" + pack("!HH", Type.AAAA, IN)

# Entered with the address and port that we ask from, while we do.
AskingOurselves = Callable[[bytes, int], AbstractContextManager[None]]

_log = logging.getLogger("internal_dns")


def _nobody_knows(source: bytes, port: int) -> AbstractContextManager[None]:
    return nullcontext()


async def watch_ourselves(
    manager: ServiceManager, endpoints: Sequence[Endpoint], known_as: AskingOurselves
) -> None:
    """Ask ourselves, and tell *manager* when every address answered, until cancelled. It must have
    a watchdog on."""
    assert manager.watchdog is not None
    every, silent = manager.watchdog / CHANCES, False
    asked, loop = _on_this_host(endpoints), asyncio.get_running_loop()
    if not asked:
        _log.warning(
            "watchdog: none of our addresses is on this host yet, so that it watches the event "
            "loop alone"
        )
    while True:
        begin = loop.time()
        answered = await asyncio.gather(*(answers(endpoint, every, known_as) for endpoint in asked))
        if all(answered):
            manager.alive()
        elif not silent:
            mute = ", ".join(str(e) for e, said in zip(asked, answered, strict=True) if not said)
            _log.error(
                "watchdog: our own question to %s was not answered within %.1f s", mute, every
            )
        silent = not all(answered)
        await asyncio.sleep(begin + every - loop.time())
        asked = _on_this_host(endpoints)


def _on_this_host(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """The addresses that can be asked: FREEBIND also serves those whose route comes later, or is
    another host's."""
    found = [Endpoint(IPv6Address("::1"), e.port) if e.wildcard else e for e in endpoints]
    return [endpoint for endpoint in found if _is_local(endpoint)]


def _is_local(endpoint: Endpoint) -> bool:
    try:
        return is_local(endpoint.host)
    except OSError:  # no netlink in this sandbox: ask, and see
        return True


async def answers(
    endpoint: Endpoint, seconds: float, known_as: AskingOurselves = _nobody_knows
) -> bool:
    """Whether the server at *endpoint* answers a question by UDP within *seconds*."""
    loop = asyncio.get_running_loop()
    query = secrets.token_bytes(2) + pack("!5H", 0, 1, 0, 0, 0) + _QUESTION
    try:
        with socket.socket(endpoint.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(endpoint.sockaddr)  # replies of others do not reach it
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
