"""Put the parts together: bind, load, watch, serve, drain. No decision about any answer is made
here."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import secrets
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from internal_dns.admin.api import Api
from internal_dns.admin.http import AdminPort
from internal_dns.config import ConfigurationError, Settings, contradictions
from internal_dns.core.journey import Rules
from internal_dns.forward.forwarder import Forwarder
from internal_dns.forward.upstreams import RESOLV_CONF, Upstream, named_in_resolv_conf, public
from internal_dns.metrics import Metrics
from internal_dns.replicate.following import Following
from internal_dns.service.notify import ServiceManager
from internal_dns.service.reload import differences, merged
from internal_dns.service.watchdog import watch_ourselves
from internal_dns.store.sqlite import Loaded, UnusableCatalog
from internal_dns.store.watch import Watcher
from internal_dns.transport import native
from internal_dns.transport.answer import Exchange
from internal_dns.transport.listen.inherited import Unfit, inherited
from internal_dns.transport.listen.sockets import (
    BACKLOG,
    Bound,
    Endpoint,
    bind_queues,
    kernel_drops,
)
from internal_dns.transport.listen.tcp import Connections
from internal_dns.transport.listen.udp import UdpListener
from internal_dns.transport.native.listener import Udp as NativeUdp
from internal_dns.transport.native.listener import spread_by_network
from internal_dns.transport.native.mirror import Mirror

if TYPE_CHECKING:
    from internal_dns.admin.console.serve import Console
    from internal_dns.transport.native import fast

DRAIN_TIMEOUT: Final = 5  # seconds to finish what is in flight after SIGTERM
BUILD_NATIVE: Final = (
    "Install a C compiler and Python's headers (apt-get install gcc python3-dev) and install again"
)
FIRST_LOAD: Final = 1  # seconds questions wait for the first catalog; a resolver asks again after 5
STATUS_INTERVAL: Final = 1
PROGRESS_ROWS: Final = 250_000

_log = logging.getLogger("internal_dns")


NewWorkers = tuple[Mirror, list[tuple[NativeUdp, "list[fast.Worker]"]]]


class CannotStart(Exception):
    """The server cannot run as configured: what, why, and what to do about it."""

    def __init__(self, what: str, why: str, do: str, *, busy: bool = False) -> None:
        super().__init__(f"{what}: {why}. {do}")
        self.what, self.why, self.do = what, why, do
        self.busy = busy  # another program has the port


class Server:
    """One running server."""

    def __init__(
        self, settings: Settings, *, dev: bool = False, passed: Sequence[Bound] = ()
    ) -> None:
        self.settings, self.dev, self.passed = settings, dev, passed
        self.manager = ServiceManager()
        self.secret = settings.cookie_secret or secrets.token_bytes(16)
        self.announced = (
            False  # the service manager knows that we are ready, and not yet that we stop
        )
        self.reread_ok = True  # what the last SIGHUP found could be used
        self.udp_path = udp_path(settings.udp_path)
        self.metrics = Metrics(info={"udp_path": self.udp_path})
        self.fell_back = False  # resolv.conf named nobody: public upstreams are used
        self.upstreams = self._find_upstreams(settings)
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.forward_limit = max(16, descriptors // 4)
        self.forwarder = _forwarder(settings, self.upstreams, self.metrics, self.forward_limit)
        rules = self._rules(settings, self.upstreams)
        self.mirror = Mirror(rules, self.metrics) if self.udp_path == "native" else None
        self.exchange = Exchange(rules, self.metrics, self.forwarder, self.mirror)
        self.connections = Connections(self.exchange, self.metrics)
        self.watcher = Watcher(
            settings.catalog,
            self._apply,
            prefix=settings.prefix,
            hidden=settings.hidden_peers,
            progress=_progress,
        )
        self.api = Api(
            settings.catalog, self.exchange, settings.prefix, settings.hidden_peers, settings.source
        )
        self.following = _following(settings)
        self.udp: list[UdpListener] | list[NativeUdp] = []
        self.servers: list[asyncio.Server] = []
        self.groups: list[Bound] = []
        self.loaded = asyncio.Event()
        self.console: Console | None = None
        _register(self)

    async def run(
        self, ready: Callable[[Server], None], reread: Callable[[], Settings] | None = None
    ) -> None:
        """Serve until SIGTERM or SIGINT, then drain. *ready* is called once, when the first catalog
        answers.

        SIGHUP calls *reread*, which may raise ConfigurationError; without one it ends the server
        too.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if reread:
            loop.add_signal_handler(signal.SIGHUP, self.reload, reread)
        else:
            loop.add_signal_handler(signal.SIGHUP, stop.set)
        try:
            await self._open()
            if self.following:
                self.following.begin()
            watching, stopping = loop.create_task(self.watcher.run()), loop.create_task(stop.wait())
            loading = loop.create_task(self._loaded_or_missing())
            beside: list[asyncio.Task[None]] = []
            first = {watching, stopping, loading}
            # What came during a restart waits in the kernel: better answered a moment later than
            # with SERVFAIL.
            await asyncio.wait(first, timeout=FIRST_LOAD, return_when=asyncio.FIRST_COMPLETED)
            if not (watching.done() or stopping.done()):
                await self._answer()
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if loading.done() and not watching.done():
                ready(self)
                self.announced = True
                self.manager.ready(self.status())
                beside = [loop.create_task(work) for work in self._beside()]
                await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            self.announced = False
            self.manager.stopping()
            if watching.done():
                self._raise(watching)
            for task in (loading, watching, *beside):
                task.cancel()
            await self._drain()
        finally:
            self._close()
            if self.console is not None:
                await self.console.close()
            await self.api.close()
            await self.forwarder.close()
            if self.following:
                await loop.run_in_executor(None, self.following.end)

    def _beside(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What goes on beside the answers, until the end."""
        if self.manager.watchdog:
            yield watch_ourselves(self.manager, self.endpoints())
        if self.manager.address:
            yield self._tell_status()
        if self.api.server is None:
            yield self._take_over_writing()

    async def _take_over_writing(self) -> None:
        """Serve write commands as soon as the server that does, on the same catalog, has left."""
        while self.api.server is None:
            await asyncio.sleep(STATUS_INTERVAL)
            with suppress(OSError):
                await self.api.start()
        _log.info("write commands are taken at %s", self.api.path)

    async def _tell_status(self) -> None:
        """Keep `systemctl status` true."""
        told = self.status()
        while True:
            await asyncio.sleep(STATUS_INTERVAL)
            if (status := self.status()) != told:
                self.manager.status(told := status)

    async def _loaded_or_missing(self) -> None:
        """Wait for the first catalog, or until it is clear that there is no file yet."""
        while not self.loaded.is_set() and not self.watcher.problem:
            await asyncio.sleep(0.01)

    def _raise(self, watching: asyncio.Task[None]) -> None:
        try:
            watching.result()
        except UnusableCatalog as error:
            raise CannotStart(
                f"catalog {self.settings.catalog}", str(error), "Name a usable file with "
                                                                "--catalog, or make one: "
                "internal-dns init FILE --demo",
            ) from error  # fmt: skip

    async def _answer(self) -> None:
        """Begin to read questions."""
        loop = asyncio.get_running_loop()
        udp = [group.udp for group in self.groups]
        if self.mirror:
            self.udp = [
                NativeUdp(udp, self.exchange, self.metrics, self.mirror, self.settings.workers)
            ]
        else:
            self.udp = [
                UdpListener(sock, self.exchange, self.metrics) for queues in udp for sock in queues
            ]
        for group in self.groups:
            for tcp in group.tcp:
                self.servers.append(
                    await loop.create_server(self.connections.protocol, sock=tcp, backlog=BACKLOG)
                )

    async def _open(self) -> None:
        """Open all that may be in use by others; nothing is answered half."""
        for group in self.passed or self._bind():
            self.groups.append(group)
            if self.mirror and _are_queues(group):
                _spread(group.udp[0])
        if self.settings.admin:
            admin = self.settings.admin
            try:
                self.servers.append(
                    await AdminPort(self.metrics, self.ready).start(str(admin.host), admin.port)
                )
            except OSError as error:
                raise cannot_open("admin", admin, error) from error
        if self.settings.console:
            self.console = _console(self, self.settings.console)
            self.console.start()
        try:
            await self.api.start()
        except OSError as error:
            # Answers do not need it: a read-only directory is a fine place for a catalog that
            # another engine writes.
            why = error.strerror or error
            _log.warning(
                "no socket for write commands at %s: %s; changes by others are seen",
                self.api.path,
                why,
            )

    def _bind(self) -> Iterator[Bound]:
        for endpoint in self.settings.listen:
            # What chooses the queue reads an IPv6 header.
            queues = native.QUEUES if self.mirror and endpoint.host.version == 6 else 1
            try:
                udp, tcp = bind_queues(endpoint, queues)
            except OSError as error:
                raise cannot_listen(endpoint, error) from error
            yield Bound(endpoint, udp, [tcp])

    def endpoints(self) -> list[Endpoint]:
        """Where we serve, with the ports that port 0 became."""
        return [
            Endpoint(group.endpoint.host, group.udp[0].getsockname()[1]) for group in self.groups
        ]

    def reload(self, reread: Callable[[], Settings]) -> None:
        """Go on with what *reread* returns, as far as it can change at run time; with what was, if
        it is faulty."""
        if self.announced:
            self.manager.reloading()
        before, upstreams = self.settings, self.upstreams
        try:
            found = reread()
            if self.passed:
                found = replace(found, listen=before.listen)
            use = merged(before, found)
            if faults := contradictions(use):
                raise ConfigurationError(faults)
            self._use(use)
        except ConfigurationError as error:
            self.reread_ok = False
            _log.error(
                "configuration not reloaded, the one before stays: %s", "; ".join(error.faults)
            )
        else:
            self.reread_ok = True
            changed, fixed = differences(before, found)
            if not (before.upstream or found.upstream) and upstreams != self.upstreams:
                said = (" ".join(map(str, each)) for each in (upstreams, self.upstreams))
                changed.append(f"upstreams of {RESOLV_CONF} {' -> '.join(said)}")
            _log.info("configuration reloaded: %s", "; ".join(changed) or "nothing changed")
            if fixed:
                _log.warning(
                    "not changed, because they are taken at the start only: %s; restart",
                    ", ".join(fixed),
                )
        if self.announced:
            self.manager.ready(self.status())

    def _use(self, settings: Settings) -> None:
        """Raises ConfigurationError, and then nothing has changed."""
        upstreams = self._find_upstreams(settings)  # the host's resolv.conf may be another, too
        rules = self._rules(settings, upstreams)
        workers = self._workers(rules)
        if (upstreams, settings.forward) != (self.upstreams, self.settings.forward):
            try:
                self.forwarder.use(upstreams, settings.forward)
            except (ImportError, OSError) as error:
                self.forwarder.use(self.upstreams, self.settings.forward)
                raise ConfigurationError([str(_cannot_forward(settings, error))]) from error
        self.forwarder.use_manners(
            outside_aliases=settings.outside_aliases == "answer", sockets=settings.upstream_sockets
        )
        self.settings, self.upstreams = settings, upstreams
        self.secret = settings.cookie_secret or self.secret
        self._use_rules(rules, workers)
        self.api.hide(settings.hidden_peers)
        self.watcher.hide(settings.hidden_peers)

    def _find_upstreams(self, settings: Settings) -> tuple[Upstream, ...]:
        """Return the default upstreams. Says so, once, when only public ones are left."""
        if settings.upstream:
            self.fell_back = False
            return tuple(upstream for upstream in settings.upstream if upstream)
        found = named_in_resolv_conf(settings.is_own)
        before, self.fell_back = self.fell_back, not found
        if found:
            return found
        others = public()
        if not before:
            _log.warning(
                "%s names no server but this one: external names are forwarded to public "
                "resolvers, %s; name others with --upstream, or none",
                RESOLV_CONF,
                ", ".join(map(str, others)),
            )
        return others

    def _workers(self, rules: Rules) -> NewWorkers | None:
        """Make the native workers that answer by *rules*, if those are new. Raises
        ConfigurationError.

        Whatever they need and cannot have is missed here, while the ones before still read.
        """
        if not self.mirror or rules == self.exchange.rules:
            return None
        try:
            mirror = Mirror(rules, self.metrics)
            return mirror, [
                (udp, udp.made(mirror)) for udp in self.udp if isinstance(udp, NativeUdp)
            ]
        except (OSError, MemoryError) as error:
            raise ConfigurationError(
                [f"no new native workers could be made: {str(error) or 'no memory'}"]
            ) from error

    def _use_rules(self, rules: Rules, workers: NewWorkers | None) -> None:
        """Answer by *rules*; *workers* take over from those that answer by the rules before."""
        if workers is None:
            self.exchange.use_rules(rules)
            return
        self.mirror, new = workers
        for udp, _ in new:
            udp.stop_reading()
        self.exchange.use_rules(rules, self.mirror)
        for udp, made in new:
            udp.start(self.mirror, made)

    def _rules(self, settings: Settings, upstreams: tuple[Upstream, ...]) -> Rules:
        return Rules(
            prefix=settings.prefix,
            region=settings.region,
            maps=settings.maps,
            forwarding=bool(upstreams),
            udp_limit=settings.udp_limit,
            dev=self.dev,
            nsid=settings.nsid,
            secret=settings.cookie_secret or self.secret,
            forwarded=tuple(settings.forward),
        )

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
                _log.log(
                    level,
                    "catalog revision %d, %d parts, %.0f ms",
                    loaded.catalog.revision,
                    loaded.parts,
                    took,
                )
        if loaded.fault_count and first:
            _log.warning(
                "%d rows were left out; `internal-dns check` lists them", loaded.fault_count
            )
        self.loaded.set()

    def ready(self) -> tuple[bool, str]:
        """Whether our names are answered, and what is wrong if anything is."""
        stale = self.following.status.stale(time.monotonic()) if self.following else ""
        if not self.loaded.is_set():
            return (
                False,
                f"not ready: {stale or self.watcher.problem or 'the catalog is being loaded'}",
            )
        if problem := self.watcher.problem or stale:
            return True, f"ready, degraded: the last good catalog answers, {problem}"
        return True, "ready"

    async def _drain(self) -> None:
        """Take nothing new, finish what is in flight, at most DRAIN_TIMEOUT."""
        for listener in self.udp:
            listener.stop_reading()
        for server in self.servers:
            server.close()
        deadline = time.monotonic() + DRAIN_TIMEOUT
        while True:
            for connection in tuple(self.connections.open):
                connection.finish()
            if time.monotonic() >= deadline or not (
                self.connections.open or any(u.pending for u in self.udp)
            ):
                break
            await asyncio.sleep(0.02)
        # Who has not taken its answers by now never will.
        for connection in tuple(self.connections.open):
            connection.transport.abort()
        for listener in self.udp:
            for reply in tuple(listener.pending):
                reply.cancel()
        await asyncio.sleep(0)

    def _close(self) -> None:
        for server in self.servers:
            server.close()
        for listener in self.udp:
            listener.close()
        for group in self.groups:
            for sock in (*group.udp, *group.tcp):
                sock.close()  # never shutdown: inherited sockets live on

    def _path(self) -> str:
        """The UDP path in words."""
        workers = self.settings.workers
        return f"native ({workers} worker{'s' * (workers > 1)})" if self.mirror else "python"

    def status(self) -> str:
        """How we are, in a line that does not change with every commit."""
        state = self.ready()[1]
        return (
            state
            if self.reread_ok
            else f"{state}; the last reload found a faulty configuration, see the log"
        )

    def summary(self) -> dict[str, str]:
        """What a start line says."""
        loaded, settings = self.watcher.loaded, self.settings
        missing = f"{settings.catalog}: {self.watcher.problem}; our names get SERVFAIL"
        where = f"{settings.catalog}: {counted(loaded)}" if loaded else missing
        listen = (
            f"udp+tcp {', '.join(map(str, self.endpoints()))}{' inherited' if self.passed else ''}"
        )
        return {
            "catalog": f"{where} · sqlite {sqlite3.sqlite_version}",
            "listen": f"{listen} · udp path {self._path()} · {loop_name()}",
            "upstreams": ", ".join(map(str, self.upstreams)) or "none",
            "limits": f"{self.connections.limit} tcp connections, {self.forward_limit} forwarded "
            f"at a time, at most {self.forwarder.pooled} shared sockets",
            "admin": f"http://{settings.admin}" if settings.admin else "none",
            "console": self.console.url if self.console else "none",
        }


def _console(server: Server, endpoint: Endpoint) -> Console:
    """Open the web console, whose packages are only loaded here. Raises CannotStart."""
    try:
        from internal_dns.admin.console.app import Sources
        from internal_dns.admin.console.samples import Sampler
        from internal_dns.admin.console.serve import Console
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"console {endpoint}", f"the module {error.name} is not installed",
            "Install it: pip install 'internal-dns[console]'; or leave the console out: --console "
            "none",
        ) from error  # fmt: skip
    sources = Sources(
        catalog=lambda: server.exchange.catalog,
        loaded=lambda: server.watcher.loaded,
        ready=server.ready,
        rules=lambda: server.exchange.rules,
        file=server.settings.catalog,
        upstreams=lambda: tuple(map(str, server.upstreams)),
    )
    try:
        return Console(
            endpoint,
            server.settings.console_token,
            sources,
            Sampler(server.metrics, server.forwarder.status),
        )
    except OSError as error:
        raise cannot_open("console", endpoint, error) from error


def udp_path(wanted: str) -> str:
    """Which UDP path runs when *wanted* is set: native or python. Raises CannotStart."""
    if wanted == "python":
        return wanted
    if not native.MISSING:
        return "native"
    if wanted == "native":
        raise CannotStart(
            "udp path native", native.MISSING, f"{BUILD_NATIVE}, or set --udp-path auto"
        )
    _log.warning(
        "the native udp path %s: serving with the python one. %s for it",
        native.MISSING,
        BUILD_NATIVE,
    )
    return "python"


def _are_queues(group: Bound) -> bool:
    """Whether *group* can be a queue for each eighth of the networks: ours are, inherited ones may
    be."""
    return (
        group.endpoint.host.version == 6
        and len(group.udp) == native.QUEUES
        and all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in group.udp)
    )


def _spread(queue: socket.socket) -> None:
    """Give each network its queue, in the group of *queue*."""
    try:
        spread_by_network(queue)
    except OSError as error:
        _log.warning(
            "no filter for the queues (%s): one network's flood may hurt any other", error.strerror
        )


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
    return (
        "uvloop"
        if "uvloop" in type(asyncio.get_running_loop()).__module__
        else "asyncio (uvloop is missing)"
    )


def cannot_listen(endpoint: Endpoint, error: OSError) -> CannotStart:
    """Say why an address cannot be listened on, and what helps."""
    port = endpoint.port
    do = {
        "EADDRINUSE": f"Something else serves there: `ss -lunp 'sport = :{port}'` shows it; stop "
        f"it or choose --listen",
        "EACCES": f"It needs root, CAP_NET_BIND_SERVICE, or sysctl "
        f"net.ipv4.ip_unprivileged_port_start={port}",
        "EPERM": "Run with CAP_NET_BIND_SERVICE and CAP_NET_RAW, or listen on a local address",
        "EADDRNOTAVAIL": "The host has no IPv6, or the address is not valid here; choose another "
        "with --listen",
        "EAFNOSUPPORT": "The host has no IPv6; enable it, or choose an IPv4 address with --listen",
    }
    import errno

    name = errno.errorcode.get(error.errno or 0, "")
    why = error.strerror or str(error)
    busy = name == "EADDRINUSE"
    return CannotStart(
        f"cannot listen on {endpoint}", why, do.get(name, "Choose --listen"), busy=busy
    )


def cannot_open(setting: str, endpoint: Endpoint, error: OSError) -> CannotStart:
    """Say why the port of *setting*, admin or console, cannot be opened, and what helps."""
    import errno

    do, busy = (
        f"Choose another with --{setting} ADDR:PORT, or none",
        error.errno == errno.EADDRINUSE,
    )
    if busy:
        do = f"Another server's? `ss -ltnp 'sport = :{endpoint.port}'` shows it. {do}"
    # Not strerror: asyncio puts a sentence of its own there.
    why = os.strerror(error.errno) if error.errno else str(error)
    return CannotStart(f"cannot open {setting} {endpoint}", why, do, busy=busy)


def _forwarder(
    settings: Settings, upstreams: tuple[Upstream, ...], metrics: Metrics, limit: int
) -> Forwarder:
    """Make the forwarder. Raises CannotStart."""
    try:
        return Forwarder(
            upstreams,
            metrics,
            settings.prefix,
            rules=settings.forward,
            limit=limit,
            ca=settings.upstream_ca,
            outside_aliases=settings.outside_aliases == "answer",
            sockets=settings.upstream_sockets,
        )
    except (ImportError, OSError) as error:
        raise _cannot_forward(settings, error) from error


def _cannot_forward(settings: Settings, error: ImportError | OSError) -> CannotStart:
    """Say why encrypted upstreams cannot be asked, and what helps."""
    if isinstance(error, ImportError):
        why = f"DNS over HTTPS needs {error.name}, which is not installed"
        return CannotStart(
            "an https:// upstream", why, "pip install 'internal-dns[doh]', or use a tls:// upstream"
        )
    what = f"upstream_ca {settings.upstream_ca}"  # ssl.SSLError is an OSError
    return CannotStart(what, str(error.strerror or error), "Name a file of certificates (PEM)")


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
        ("internal_dns_configuration_readable", "1 unless the last reload found it faulty", lambda: server.reread_ok),
        ("internal_dns_tcp_connections", "Open TCP connections", lambda: len(server.connections.open)),
    ]  # fmt: skip
    forwarder = server.forwarder
    cache = forwarder.cache
    server.metrics.upstreams = forwarder.status
    server.metrics.cache_hits = lambda: {
        age.name.lower(): count for age, count in cache.hits.items()
    }
    server.metrics.gauges += [
        (
            "internal_dns_forward_outstanding",
            "Questions that upstreams have been asked",
            lambda: len(forwarder.asking),
        ),
        (
            "internal_dns_forward_sockets",
            "Sockets to upstreams, kept connections apart",
            lambda: forwarder.sockets,
        ),
        ("internal_dns_cache_entries", "Replies of upstreams that are kept", lambda: len(cache)),
        ("internal_dns_cache_octets", "Memory they take, about", lambda: cache.octets),
    ]
    server.metrics.counters += [
        (
            "internal_dns_cache_misses",
            "Forwarded questions whose reply was not kept",
            lambda: cache.misses,
        ),
        (
            "internal_dns_cache_evictions",
            "Replies of upstreams dropped for room",
            lambda: cache.evictions,
        ),
    ]
    server.metrics.counters += [
        ("internal_dns_answer_table_hits", "Replies repeated", lambda: answers.hits),
        ("internal_dns_answer_table_misses", "Plain questions that were not in the table", lambda: answers.misses),
        ("internal_dns_answer_table_evictions", "Replies dropped for room", lambda: answers.evictions),
        (
            "internal_dns_receive_buffer_drops", "Datagrams dropped by the kernel, the receive "
                                                 "buffer being full",
            lambda: sum(kernel_drops(udp) for group in server.groups for udp in group.udp),
        ),
    ]  # fmt: skip
    if server.following:
        _register_following(server.metrics, server.following)


def _following(settings: Settings) -> Following | None:
    if settings.source is None:
        return None
    host = settings.host_name or socket.gethostname()
    return Following(
        settings.catalog,
        settings.source,
        host,
        prefix=settings.prefix,
        hidden=settings.hidden_peers,
    )


def _register_following(metrics: Metrics, following: Following) -> None:
    status, start = following.status, "internal_dns_replication"
    metrics.gauges += [
        (
            f"{start}_lag_revisions",
            "Revisions the bucket has beyond the file",
            lambda: status.lag.revisions,
        ),
        (
            f"{start}_lag_seconds",
            "Since the file was up to date",
            lambda: status.lag.seconds(time.monotonic()),
        ),
        (f"{start}_connected", "1 while the bucket is followed", lambda: float(not status.problem)),
        (f"{start}_revision", "The bucket's revision that the file has", lambda: status.revision),
        (
            f"{start}_quarantined",
            "Keys whose value is kept out of the file",
            lambda: status.quarantined,
        ),
    ]
    metrics.counters += [
        (f"{start}_messages", "Messages of the bucket applied", lambda: status.messages),
        (f"{start}_connections", "Connections made to the bucket", lambda: status.connections),
        (f"{start}_resyncs", "Times that everything was taken again", lambda: status.full),
    ]


def _revision(server: Server) -> int:
    return server.exchange.catalog.revision if server.exchange.catalog else 0


def run(
    settings: Settings,
    ready: Callable[[Server], None],
    *,
    dev: bool = False,
    reread: Callable[[], Settings] | None = None,
) -> None:
    """Serve until told to stop, on inherited sockets if there are any. Raises CannotStart."""
    factory: Any = None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        _log.warning("uvloop is missing: serving on asyncio's own loop, at about half the speed")
    passed = _passed()
    if passed:
        settings = replace(settings, listen=tuple(group.endpoint for group in passed))
        if faults := contradictions(settings):
            raise CannotStart(
                "the inherited sockets and the configuration", "; ".join(faults), "Correct either"
            )

    async def serve() -> None:
        await Server(settings, dev=dev, passed=passed).run(ready, reread)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve())


def _passed() -> list[Bound]:
    try:
        return inherited()
    except Unfit as error:
        raise CannotStart(error.what, error.why, error.do) from error
