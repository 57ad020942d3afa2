"""Put the parts together: bind, load, watch, serve, drain. No decision about any answer is made here."""

from __future__ import annotations

import asyncio
import logging
import resource
import secrets
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final

from internal_dns.admin.api import Api
from internal_dns.admin.http import AdminPort
from internal_dns.config import Settings
from internal_dns.core.journey import Rules
from internal_dns.forward.forwarder import Forwarder
from internal_dns.forward.upstreams import Upstream, from_resolv_conf
from internal_dns.metrics import Metrics
from internal_dns.store.sqlite import Loaded, UnusableCatalog
from internal_dns.store.watch import Watcher
from internal_dns.transport.exchange import Exchange
from internal_dns.transport.sockets import Endpoint, bind_pair, kernel_drops
from internal_dns.transport.tcp import Connections
from internal_dns.transport.udp import UdpListener

DRAIN_TIMEOUT: Final = 5  # seconds to finish what is in flight after SIGTERM
UDP_PATH: Final = "python"
PROGRESS_ROWS: Final = 250_000

_log = logging.getLogger("internal_dns")


class CannotStart(Exception):
    """The server cannot run as configured: what, why, and what to do about it."""

    def __init__(self, what: str, why: str, do: str) -> None:
        super().__init__(f"{what}: {why}. {do}")
        self.what, self.why, self.do = what, why, do


class Server:
    """One running server."""

    def __init__(self, settings: Settings, *, dev: bool = False) -> None:
        self.settings = settings
        self.metrics = Metrics(info={"udp_path": UDP_PATH})
        self.upstreams = _upstreams(settings)
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.forward_limit = max(16, descriptors // 4)
        self.forwarder = _forwarder(settings, self.upstreams, self.metrics, self.forward_limit)
        self.exchange = Exchange(_rules(settings, dev, bool(self.upstreams)), self.metrics, self.forwarder)
        self.connections = Connections(self.exchange, self.metrics)
        self.watcher = Watcher(
            settings.catalog, self._apply, prefix=settings.prefix, hidden=settings.hidden_peers, progress=_progress
        )  # fmt: skip
        self.api = Api(settings.catalog, self.exchange, settings.prefix, settings.hidden_peers)
        self.udp: list[UdpListener] = []
        self.servers: list[asyncio.Server] = []
        self.sockets: list[socket.socket] = []
        self.loaded = asyncio.Event()
        _register(self)

    async def run(self, ready: Callable[[Server], None]) -> None:
        """Serve until SIGTERM or SIGINT, then drain. *ready* is called once, when the first catalog answers."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await self._listen()
            watching = loop.create_task(self.watcher.run())
            stopping = loop.create_task(stop.wait())
            loading = loop.create_task(self._loaded_or_missing())
            await asyncio.wait({watching, stopping, loading}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done() and not watching.done():
                ready(self)
                await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            loading.cancel()
            if watching.done():
                self._raise(watching)
            watching.cancel()
            await self._drain()
        finally:
            self._close()
            await self.api.close()
            await self.forwarder.close()

    async def _loaded_or_missing(self) -> None:
        """Wait for the first catalog, or until it is clear that there is no file yet."""
        while not self.loaded.is_set() and not self.watcher.problem:
            await asyncio.sleep(0.01)

    def _raise(self, watching: asyncio.Task[None]) -> None:
        try:
            watching.result()
        except UnusableCatalog as error:
            raise CannotStart(
                f"catalog {self.settings.catalog}", str(error), "Name a usable file with --catalog, or make one: "
                "internal-dns init FILE --demo",
            ) from error  # fmt: skip

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for endpoint in self.settings.listen:
            try:
                udp, tcp = bind_pair(endpoint)
            except OSError as error:
                raise cannot_listen(endpoint, error) from error
            self.sockets += (udp, tcp)
            self.udp.append(UdpListener(udp, self.exchange, self.metrics))
            self.servers.append(await loop.create_server(self.connections.protocol, sock=tcp, backlog=1_024))
        if self.settings.admin:
            admin = self.settings.admin
            try:
                self.servers.append(await AdminPort(self.metrics, self.ready).start(str(admin.host), admin.port))
            except OSError as error:
                raise CannotStart(
                    f"admin port {admin}", error.strerror or str(error), "Choose another with --admin, or none"
                ) from error
        try:
            await self.api.start()
        except OSError as error:
            # Answers do not need it: a read-only directory is a fine place for a catalog that another engine writes.
            why = error.strerror or error
            _log.warning("no socket for write commands at %s: %s; changes by others are seen", self.api.path, why)

    def _apply(self, loaded: Loaded) -> None:
        """Answer from what was loaded; say what changed."""
        first = not self.loaded.is_set()
        if first or loaded.catalog is not self.exchange.catalog:
            self.exchange.use(loaded.catalog)
            if loaded.written_at is not None and not first:
                self.metrics.propagation.observe(time.time() - loaded.written_at)
            self.api.notify()
            if not first:
                # There may be a hundred small commits a second; a file read whole is worth a line.
                level = logging.DEBUG if loaded.parts else logging.INFO
                took = self.watcher.load_seconds * 1000
                _log.log(level, "catalog revision %d, %d parts, %.0f ms", loaded.catalog.revision, loaded.parts, took)
        if loaded.fault_count and first:
            _log.warning("%d rows were left out; `internal-dns check` lists them", loaded.fault_count)
        self.loaded.set()

    def ready(self) -> tuple[bool, str]:
        """Whether our names are answered, and what is wrong if anything is."""
        if not self.loaded.is_set():
            return False, f"not ready: {self.watcher.problem or 'the catalog is being loaded'}"
        if self.watcher.problem:
            return True, f"ready, degraded: the last good catalog answers, {self.watcher.problem}"
        return True, "ready"

    async def _drain(self) -> None:
        """Take nothing new, finish what is in flight, at most DRAIN_TIMEOUT."""
        for listener in self.udp:
            listener.stop_reading()
        for server in self.servers:
            server.close()
        for connection in tuple(self.connections.open):
            connection.finish()
        deadline = time.monotonic() + DRAIN_TIMEOUT
        while time.monotonic() < deadline and (self.connections.open or any(u.pending for u in self.udp)):
            await asyncio.sleep(0.02)
        # Who has not taken its answers by now never will.
        for connection in tuple(self.connections.open):
            connection.transport.abort()
        for listener in self.udp:
            for task in listener.pending:
                task.cancel()
        await asyncio.sleep(0)

    def _close(self) -> None:
        for server in self.servers:
            server.close()
        for listener in self.udp:
            listener.stop_reading()
        for sock in self.sockets:
            sock.close()

    def summary(self) -> dict[str, str]:
        """What a start line says."""
        loaded, settings = self.watcher.loaded, self.settings
        missing = f"{settings.catalog}: {self.watcher.problem}; our names get SERVFAIL"
        where = f"{settings.catalog}: {counted(loaded)}" if loaded else missing
        ports = [Endpoint(e.host, u.sock.getsockname()[1]) for e, u in zip(settings.listen, self.udp, strict=True)]
        return {
            "catalog": f"{where} · sqlite {sqlite3.sqlite_version}",
            "listen": f"udp+tcp {', '.join(map(str, ports))} · udp path {UDP_PATH} · {loop_name()}",
            "upstreams": ", ".join(map(str, self.upstreams)) or "none",
            "limits": f"{self.connections.limit} tcp connections, {self.forward_limit} forwarded at a time",
            "admin": f"http://{settings.admin}" if settings.admin else "none",
        }


def _progress(table: str, rows: int) -> None:
    """Tell how far a big file is read: a line a second or so, none for files that take less."""
    if not rows % PROGRESS_ROWS:
        _log.info("catalog: %s, %s rows read", table, f"{rows:,}")


def counted(loaded: Loaded) -> str:
    """The size of a catalog in words."""
    return (
        f"{len(loaded.catalog.networks)} networks, {loaded.apps} apps, {loaded.machines} machines "
        f"({loaded.started} started), {loaded.peers} peers"
    )


def loop_name() -> str:
    return "uvloop" if "uvloop" in type(asyncio.get_running_loop()).__module__ else "asyncio (uvloop is missing)"


def cannot_listen(endpoint: Endpoint, error: OSError) -> CannotStart:
    """Say why an address cannot be listened on, and what helps."""
    port = endpoint.port
    do = {
        "EADDRINUSE": f"Something else serves there: `ss -lunp 'sport = :{port}'` shows it; stop it or choose --listen",
        "EACCES": f"It needs root, CAP_NET_BIND_SERVICE, or sysctl net.ipv4.ip_unprivileged_port_start={port}",
        "EPERM": "Run with CAP_NET_BIND_SERVICE and CAP_NET_RAW, or listen on a local address",
        "EADDRNOTAVAIL": "The host has no IPv6, or the address is not valid here; choose another with --listen",
        "EAFNOSUPPORT": "The host has no IPv6; enable it, or choose an IPv4 address with --listen",
    }
    import errno

    name = errno.errorcode.get(error.errno or 0, "")
    return CannotStart(f"cannot listen on {endpoint}", error.strerror or str(error), do.get(name, "Choose --listen"))


def _forwarder(settings: Settings, upstreams: tuple[Upstream, ...], metrics: Metrics, limit: int) -> Forwarder:
    """Make the forwarder. Raises CannotStart."""
    try:
        return Forwarder(
            upstreams, metrics, settings.prefix, rules=settings.forward, limit=limit, ca=settings.upstream_ca
        )  # fmt: skip
    except ImportError as error:
        raise CannotStart(
            "an https:// upstream", f"DNS over HTTPS needs {error.name}, which is not installed",
            "pip install 'internal-dns[doh]', or use a tls:// upstream",
        ) from error  # fmt: skip
    except OSError as error:  # ssl.SSLError too
        raise CannotStart(
            f"upstream_ca {settings.upstream_ca}",
            str(error.strerror or error),
            "Name a file of certificates (PEM)",
        ) from error


def _rules(settings: Settings, dev: bool, forwarding: bool) -> Rules:
    return Rules(
        prefix=settings.prefix,
        region=settings.region,
        maps=settings.maps,
        forwarding=forwarding,
        udp_limit=settings.udp_limit,
        dev=dev,
        nsid=settings.nsid,
        secret=settings.cookie_secret or secrets.token_bytes(16),
        forwarded=tuple(settings.forward),
    )


def _upstreams(settings: Settings) -> tuple[Upstream, ...]:
    if settings.upstream:
        return tuple(upstream for upstream in settings.upstream if upstream)
    return from_resolv_conf(settings.is_own)


def _register(server: Server) -> None:
    """Let the metrics read what the parts hold."""
    answers, watcher = server.exchange.answers, server.watcher
    server.metrics.gauges += [
        ("internal_dns_catalog_revision", "Commits loaded since the start", lambda: _revision(server)),
        ("internal_dns_catalog_age_seconds", "Since the catalog last loaded", watcher.age),
        ("internal_dns_catalog_readable", "1 while the catalog file can be read", lambda: float(not watcher.problem)),
        ("internal_dns_catalog_faults", "Rows that were left out", watcher.faults),
        ("internal_dns_answer_table_entries", "Replies kept for repeating", lambda: answers.entries),
        ("internal_dns_answer_table_octets", "Memory the answer table takes, about", lambda: answers.octets),
        ("internal_dns_tcp_connections", "Open TCP connections", lambda: len(server.connections.open)),
    ]  # fmt: skip
    forwarder = server.forwarder
    cache = forwarder.cache
    server.metrics.upstreams = forwarder.status
    server.metrics.cache_hits = lambda: {age.name.lower(): count for age, count in cache.hits.items()}
    server.metrics.gauges += [
        ("internal_dns_forward_outstanding", "Questions that upstreams have been asked", lambda: len(forwarder.asking)),
        ("internal_dns_forward_sockets", "Sockets to upstreams, kept connections apart", lambda: forwarder.sockets),
        ("internal_dns_cache_entries", "Replies of upstreams that are kept", lambda: len(cache)),
        ("internal_dns_cache_octets", "Memory they take, about", lambda: cache.octets),
    ]
    server.metrics.counters += [
        ("internal_dns_cache_misses", "Forwarded questions whose reply was not kept", lambda: cache.misses),
        ("internal_dns_cache_evictions", "Replies of upstreams dropped for room", lambda: cache.evictions),
    ]
    server.metrics.counters += [
        ("internal_dns_answer_table_hits", "Replies repeated", lambda: answers.hits),
        ("internal_dns_answer_table_misses", "Plain questions that were not in the table", lambda: answers.misses),
        ("internal_dns_answer_table_evictions", "Replies dropped for room", lambda: answers.evictions),
        (
            "internal_dns_receive_buffer_drops", "Datagrams dropped by the kernel, the receive buffer being full",
            lambda: sum(kernel_drops(listener.sock) for listener in server.udp),
        ),
    ]  # fmt: skip


def _revision(server: Server) -> int:
    return server.exchange.catalog.revision if server.exchange.catalog else 0


def run(settings: Settings, ready: Callable[[Server], None], *, dev: bool = False) -> None:
    """Serve until told to stop. Raises CannotStart."""
    factory: Any = None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        _log.warning("uvloop is missing: serving on asyncio's own loop, at about half the speed")

    async def serve() -> None:
        await Server(settings, dev=dev).run(ready)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve())
