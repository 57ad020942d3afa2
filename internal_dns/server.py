"""Connect the parts: bind, load, watch, serve, drain. Nothing here decides an answer."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from internal_dns.admin.api import Api
from internal_dns.admin.http import AdminPort
from internal_dns.config import Settings
from internal_dns.core.catalog import Catalog
from internal_dns.metrics import Metrics, registry
from internal_dns.net import Endpoint
from internal_dns.service import errors, parts, registration, sockets
from internal_dns.service.applying import Applying
from internal_dns.service.drain import drain
from internal_dns.service.hot_list import HotList, path_of
from internal_dns.service.loop import ignore_signals, loop_factory, loop_name
from internal_dns.service.notify import ServiceManager
from internal_dns.service.reload import InUse, Reloader
from internal_dns.service.summary import counted, duration, log_loaded, log_progress, path_in_words
from internal_dns.service.watchdog import watch_ourselves
from internal_dns.store.sqlite import Loaded, UnusableCatalog
from internal_dns.store.watch import Watcher
from internal_dns.transport.answer import Exchange
from internal_dns.transport.listen.inherited import inherited
from internal_dns.transport.listen.sockets import BACKLOG, Bound
from internal_dns.transport.listen.tcp import Connections
from internal_dns.transport.listen.udp import UdpListener
from internal_dns.transport.native.listener import Udp as NativeUdp
from internal_dns.transport.native.mirror import Mirror

if TYPE_CHECKING:
    from internal_dns.admin.console.serve import Console


_log = logging.getLogger("internal_dns")


class Server:
    """One running server."""

    def __init__(
        self, settings: Settings, *, dev: bool = False, passed: Sequence[Bound] = ()
    ) -> None:
        self.passed = passed  # inherited sockets
        self.manager = ServiceManager()
        self.announced = False  # systemd has received READY=1, and not STOPPING=1
        self.loaded = asyncio.Event()
        path = parts.choose_udp_path(settings.udp_path)
        self.in_use = InUse(settings, dev=dev)
        rules = self.in_use.rules
        self.metrics = Metrics(info={"udp_path": path})
        self.forward_limit = parts.forward_limit()
        self.forwarder = parts.make_forwarder(
            settings, self.in_use.upstreams, self.metrics, self.forward_limit, path
        )
        mirror = Mirror(rules, self.metrics) if path == "native" else None
        self.exchange = Exchange(rules, self.metrics, self.forwarder, mirror)
        self.exchange.answers.set_bound(settings.answer_octets)
        self.exchange.answers.was_hot = self.exchange.ahead.add
        hot_names = path_of(os.environ) if settings.hot_list else None
        self.hot_list = HotList(hot_names, self.exchange) if hot_names else None
        self.forwarder.cache.repeats = self.exchange.answers.relayed_hits
        self.newest: Catalog | None = None  # the catalog in use, or the next one
        self.applying = Applying(
            self.exchange.steps,
            lambda go_on: asyncio.get_running_loop().call_soon(go_on),
            held=self.metrics.slice,
        )
        self.connections = Connections(self.exchange, self.metrics)
        self.watcher = Watcher(
            settings.catalog,
            self._apply,
            rules=settings.catalog_rules,
            progress=log_progress,
        )
        self.api = Api(settings.catalog, self.exchange, settings.catalog_rules, settings.source)
        self.follower = parts.make_follower(settings)
        self.udp: list[UdpListener] | list[NativeUdp] = []
        self.servers: list[asyncio.Server] = []
        self.groups: list[Bound] = []
        self.console: Console | None = None
        self.began = time.monotonic()
        self.reloader = Reloader(
            self.in_use, self.metrics, self.forwarder, self.exchange, self.api, self.watcher,
            mirror, self.applying.go_on_with, inherited=bool(passed),
        )  # fmt: skip
        self._register()

    @property
    def settings(self) -> Settings:
        return self.in_use.settings

    def _register(self) -> None:
        """Register the metrics of the parts."""
        metrics = self.metrics
        registration.register_answers(metrics, self.exchange, self.connections, self.groups)
        registration.register_catalog(
            metrics, self.exchange, self.watcher, lambda: self.reloader.succeeded
        )
        registration.register_forwarder(metrics, self.forwarder)
        if self.follower:
            registration.register_follower(metrics, self.follower)
        metrics.families.append(self.api.sources.families)

    async def run(
        self, ready: Callable[[Server], None], reread: Callable[[], Settings] | None = None
    ) -> None:
        """Serve until SIGTERM or SIGINT, then drain.

        *ready* is called once, when the first catalog is in use. SIGHUP calls *reread*, which may
        raise ConfigurationError; without *reread*, SIGHUP stops the server too.
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
            if self.follower:
                self.follower.start()
            watching, stopping = loop.create_task(self.watcher.run()), loop.create_task(stop.wait())
            loading = loop.create_task(self._loaded_or_missing())
            beside: list[asyncio.Task[None]] = []
            first = {watching, stopping, loading}
            # Queries that arrived during a restart are read at once. External names are forwarded;
            # the others wait for the catalog, in one queue per network.
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
            await drain(self.udp, self.servers, self.connections)
            if self.hot_list and self.loaded.is_set():
                await self.hot_list.write()
        finally:
            self._close()
            if self.console is not None:
                await self.console.close()
            await self.api.close()
            await self.forwarder.close()
            if self.follower:
                await loop.run_in_executor(None, self.follower.stop)

    def _beside(self) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield the background tasks, which run until shutdown."""
        if self.manager.watchdog:
            yield watch_ourselves(
                self.manager, self.endpoints(), self.exchange.payers.asking_ourselves
            )
        if self.manager.address:
            yield self.manager.follow(self.status)
        if self.hot_list:
            yield self.hot_list.follow()
        if self.api.server is None:
            yield self.api.take_over()

    async def _loaded_or_missing(self) -> None:
        """Wait for the first catalog, or until it is clear that there is no file yet."""
        while not self.loaded.is_set() and not self.watcher.problem:
            await asyncio.sleep(0.01)
        if not self.loaded.is_set():
            self.exchange.loading.expect_none()

    def _raise(self, watching: asyncio.Task[None]) -> None:
        try:
            watching.result()
        except UnusableCatalog as error:
            raise errors.unusable_catalog(self.settings.catalog, error) from error

    async def _answer(self) -> None:
        """Start the listeners."""
        loop = asyncio.get_running_loop()
        udp = [group.udp for group in self.groups]
        if mirror := self.reloader.mirror:
            self.udp = [NativeUdp(udp, self.exchange, self.metrics, mirror, self.settings.workers)]
        else:
            self.udp = [
                UdpListener(sock, self.exchange, self.metrics) for queues in udp for sock in queues
            ]
        self.reloader.udp = self.udp
        for group in self.groups:
            for tcp in group.tcp:
                self.servers.append(
                    await loop.create_server(self.connections.protocol, sock=tcp, backlog=BACKLOG)
                )

    async def _open(self) -> None:
        """Open every port before the first answer: any of them may be in use."""
        native = self.reloader.mirror is not None
        flows = self.settings.workers if native else 0
        for group in self.passed or sockets.bind(self.settings.listen, flows=flows):
            self.groups.append(group)
            if native:
                sockets.spread(group)
        if self.settings.admin:
            admin = self.settings.admin
            try:
                self.servers.append(
                    await AdminPort(registry(self.metrics), self.ready).start(
                        str(admin.host), admin.port
                    )
                )
            except OSError as error:
                raise errors.cannot_open("admin", admin, error) from error
        if self.settings.console:
            self.console = parts.open_console(
                self.settings.console,
                self.settings,
                self.metrics,
                self.forwarder,
                self.exchange,
                loaded=lambda: self.watcher.loaded,
                ready=self.ready,
                about=self.about,
                upstreams=lambda: tuple(map(str, self.in_use.upstreams)),
            )
            self.console.start()
        self.api.where = self.where
        try:
            await self.api.start()
        except OSError as error:
            # Answers do not need it: a catalog that another engine writes may be in a read-only
            # directory.
            why = error.strerror or error
            _log.warning(
                "cannot open the socket for write commands at %s: %s; "
                "the server still notices changes by other programs",
                self.api.path,
                why,
            )

    def endpoints(self) -> list[Endpoint]:
        """Return the served addresses, with the actual port in place of port 0."""
        return [
            Endpoint(group.endpoint.host, group.udp[0].getsockname()[1]) for group in self.groups
        ]

    def about(self) -> dict[str, str]:
        """What tells this server from others, for the head of the console."""
        region = self.settings.region
        return {
            "host": socket.gethostname(),
            "region": region.decode() if region else "none",
            "catalog": str(self.settings.catalog),
            "listens on": ", ".join(map(str, self.endpoints())),
            "up": duration(time.monotonic() - self.began),
        }

    def where(self) -> dict[str, Any]:
        """Where this server can be reached, for the commands of its host."""
        admin, console = self.settings.admin, self.settings.console
        return {
            "listen": [str(endpoint) for endpoint in self.endpoints()],
            # Of each address: UDP sockets per class of networks; null on the Python path.
            "flows": [sockets.flows_of(group) for group in self.groups]
            if self.reloader.mirror
            else None,
            "admin": str(admin) if admin else None,
            "console": str(console) if console else None,
        }

    def reload(self, reread: Callable[[], Settings]) -> None:
        """Apply the settings that *reread* returns, as far as they can change at run time."""
        if self.announced:
            self.manager.reloading()
        try:
            self.reloader.reload(reread)
        finally:  # without READY=1 systemd would stop the server
            if self.announced:
                self.manager.ready(self.status())

    def _apply(self, loaded: Loaded) -> asyncio.Future[None] | None:
        """Switch to the loaded catalog and log the change.

        The future that this returns is done when the previous catalog is no longer needed.
        """
        if loaded.catalog is self.newest:
            self._applied(loaded, changed=False)
            return None
        self.newest = loaded.catalog
        applied = asyncio.get_running_loop().create_future()

        def done() -> None:
            if not applied.done():  # cancelled: the server ends
                applied.set_result(None)
            self._applied(loaded, changed=True)

        self.applying.apply(loaded.catalog, done)
        return applied

    def _applied(self, loaded: Loaded, *, changed: bool) -> None:
        first = not self.loaded.is_set()
        if changed:
            if loaded.written_at is not None and not first:
                self.metrics.propagation.observe(time.time() - loaded.written_at)
            self.api.notify()
        log_loaded(loaded, self.watcher.load_seconds, first=first, changed=changed)
        self.loaded.set()

    def ready(self) -> tuple[bool, str]:
        """Return whether internal names are answered, and the status as text."""
        stale = self.follower.status.describe_problem(time.monotonic()) if self.follower else ""
        if not self.loaded.is_set():
            return (
                False,
                f"not ready: {stale or self.watcher.problem or 'the catalog is being loaded'}",
            )
        if problem := self.watcher.problem or stale:
            return True, f"ready, degraded: the last good catalog answers, {problem}"
        return True, "ready"

    def _close(self) -> None:
        for server in self.servers:
            server.close()
        for listener in self.udp:
            listener.close()
        for group in self.groups:
            for sock in (*group.udp, *group.tcp):
                sock.close()  # never shutdown: inherited sockets live on

    def status(self) -> str:
        """Return the status in one line that does not change with every commit."""
        state = self.ready()[1]
        return state if self.reloader.succeeded else f"{state}; the last reload failed, see the log"

    def summary(self) -> dict[str, str]:
        """Return the values of the start line."""
        loaded, settings = self.watcher.loaded, self.settings
        missing = f"{settings.catalog}: {self.watcher.problem}; our names get SERVFAIL"
        where = f"{settings.catalog}: {counted(loaded)}" if loaded else missing
        path = path_in_words(self.reloader.mirror is not None, settings.workers)
        listen = ", ".join(map(str, self.endpoints())) + " inherited" * bool(self.passed)
        return {
            "catalog": f"{where} · sqlite {sqlite3.sqlite_version}",
            "listen": f"udp+tcp {listen} · udp path {path} · {loop_name()}",
            "upstreams": ", ".join(map(str, self.in_use.upstreams)) or "none",
            "limits": f"{self.connections.limit} tcp connections, {self.forward_limit} forwarded "
            f"at a time, at most {self.forwarder.pooled} shared sockets",
            "admin": f"http://{settings.admin}" if settings.admin else "none",
            "console": self.console.url if self.console else "none",
        }


def run(
    settings: Settings,
    ready: Callable[[Server], None],
    *,
    dev: bool = False,
    reread: Callable[[], Settings] | None = None,
) -> None:
    """Serve until a signal, on inherited sockets if there are any. Raises OperatorError."""
    passed = inherited()
    if passed:
        settings = sockets.adopt(settings, passed)
    # The objects of a query form no cycles. With Python's own thresholds (700, 10, 10) looking for
    # cycles among them takes 10 % of the time of a forwarded query, and walks the whole cache.
    gc.set_threshold(10_000, 20, 20)

    async def serve() -> None:
        try:
            await Server(settings, dev=dev, passed=passed).run(ready, reread)
        finally:
            ignore_signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve())
