"""Shutdown: accept nothing new, finish the work in flight, then close."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from internal_dns.transport.listen.tcp import Connections
from internal_dns.transport.listen.udp import UdpListener
from internal_dns.transport.native.listener import Udp as NativeUdp

DRAIN_TIMEOUT: Final = 5  # seconds to finish the work in flight after SIGTERM
INTERVAL: Final = 0.02  # seconds between checks for remaining work


async def drain(
    udp: Sequence[UdpListener | NativeUdp],
    servers: Sequence[asyncio.Server],
    connections: Connections,
    timeout: float = DRAIN_TIMEOUT,
) -> None:
    """Return when every reply is sent. After *timeout* seconds, drop the remaining work."""
    for listener in udp:
        listener.stop_reading()
    for server in servers:
        server.close()
    connections.exchange.loading.expect_none()  # answers the queries that wait for one
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        for connection in tuple(connections.open):
            connection.finish()
        left = (
            connections.open
            or connections.exchange.work.busy
            or any(listener.pending for listener in udp)
        )
        if not left or loop.time() >= deadline:
            break
        await asyncio.sleep(INTERVAL)
    # A client that has not read its replies by now never will.
    for connection in tuple(connections.open):
        connection.transport.abort()
    for listener in udp:
        for reply in listener.pending:
            reply.cancel()
    await asyncio.sleep(0)
