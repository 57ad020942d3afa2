"""The console's port: uvicorn in the server's event loop, closed when the server stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import uvicorn

from internal_dns.admin.console.app import App, Sources
from internal_dns.admin.console.samples import Sampler
from internal_dns.net import Endpoint
from internal_dns.transport.listen.sockets import bind

CONNECTIONS: Final = 32  # a browser opens six
MAX_HEAD: Final = 8_192  # octets of request line and headers
CLOSE_TIMEOUT: Final = 2  # seconds for open requests to finish

_log = logging.getLogger("internal_dns")


class _Uvicorn(uvicorn.Server):
    """A uvicorn server that leaves signals to the DNS server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Console:
    """A running console. `url` is its address, with the token if the token was generated."""

    def __init__(
        self, endpoint: Endpoint, token: str | None, sources: Sources, sampler: Sampler
    ) -> None:
        """Listen. Raises OSError."""
        self.sock = bind(endpoint, socket.SOCK_STREAM)
        self.address = self.sock.getsockname()
        at = Endpoint(endpoint.host, self.address[1])
        made = token or secrets.token_urlsafe(24)
        self.url = f"http://{at}/" if token else f"http://{at}/login?token={made}"
        self.sampler = sampler
        self.thread = ThreadPoolExecutor(1, "console")
        app = App(sources, sampler, made, self.thread).asgi()
        self.uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                lifespan="off",
                http="h11",
                ws="none",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS,
                h11_max_incomplete_event_size=MAX_HEAD,
                timeout_graceful_shutdown=CLOSE_TIMEOUT,
            )
        )
        self.tasks: list[asyncio.Task[None]] = []
        if not endpoint.host.is_loopback:
            _log.warning(
                "console: %s is not a loopback address, so the token and all pages travel "
                "unencrypted. Listen on 127.0.0.1 and use ssh -L instead",
                endpoint,
            )

    def start(self) -> None:
        """Start serving in the running event loop."""
        loop = asyncio.get_running_loop()
        self.tasks = [
            loop.create_task(self.uvicorn.serve([self.sock])),
            loop.create_task(self.sampler.run()),
        ]

    async def close(self) -> None:
        """Finish open requests, then stop."""
        self.uvicorn.should_exit = True
        for task in self.tasks[1:]:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.sock.close()
        self.thread.shutdown(cancel_futures=True)
