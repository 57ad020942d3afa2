"""Checks of this host: programs, IPv6, the ports of `serve`, routes to the server's addresses."""

from __future__ import annotations

import errno
import platform
import socket
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from internal_dns.cli.doctor.result import CheckResult
from internal_dns.cli.routes import covers, local_routes

if TYPE_CHECKING:
    from internal_dns.cli.servers import Running
    from internal_dns.config import Settings
    from internal_dns.core.catalog import Catalog
    from internal_dns.errors import OperatorError
    from internal_dns.net import Endpoint

WAL_RESET_FIXED: Final = (3, 51, 3)
_MAX_SHOWN: Final = 3  # addresses shown of a longer list


def check_programs() -> Iterator[CheckResult]:
    from internal_dns.service.errors import BUILD_NATIVE
    from internal_dns.transport import native

    yield CheckResult("ok", "python", platform.python_version())
    if sqlite3.sqlite_version_info >= WAL_RESET_FIXED:
        yield CheckResult("ok", "sqlite", sqlite3.sqlite_version)
    else:
        yield CheckResult(
            "warn",
            "sqlite",
            sqlite3.sqlite_version,
            "before 3.51.3, two connections that write or checkpoint at the same time can corrupt "
            "a WAL file",
            "Write the catalog through the server only, or install a later SQLite",
        )
    try:
        yield CheckResult("ok", "event loop", f"uvloop {version_of('uvloop')}")
    except PackageNotFoundError:
        yield CheckResult(
            "warn",
            "event loop",
            "asyncio",
            "it takes twice the time of uvloop",
            "Install uvloop: pip install uvloop",
        )
    if native.MISSING:
        yield CheckResult(
            "warn",
            "udp path",
            "python",
            f"the native path is unavailable: {native.MISSING}",
            BUILD_NATIVE,
        )
    else:
        yield CheckResult("ok", "udp path", "native")


def check_ipv6() -> CheckResult:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return CheckResult(
            "fail",
            "ipv6",
            error.strerror or str(error),
            "the addresses of every 6PN network are IPv6",
            "Enable IPv6: sysctl -w net.ipv6.conf.all.disable_ipv6=0",
        )
    return CheckResult("ok", "ipv6", "available")


def check_ports(settings: Settings, found: Running | None) -> Iterator[CheckResult]:
    """Check that each port of `serve` is free, or in use by the running server of this catalog."""
    from internal_dns.service.errors import cannot_listen, cannot_open

    both = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
    for endpoint in settings.listen:
        yield _check_port(
            "listen", endpoint, both, _listens_on(found, endpoint), partial(cannot_listen, endpoint)
        )
    for setting, one in (("admin", settings.admin), ("console", settings.console)):
        if one:
            mine = found is not None and getattr(found, setting) == one
            reason = partial(cannot_open, setting, one)
            yield _check_port(setting, one, (socket.SOCK_STREAM,), mine, reason)


def _listens_on(found: Running | None, endpoint: Endpoint) -> bool:
    """Return whether the running server already listens on *endpoint*."""
    return found is not None and any(
        e.port == endpoint.port and (e == endpoint or e.wildcard or endpoint.wildcard)
        for e in found.listen
    )


def _check_port(
    setting: str,
    endpoint: Endpoint,
    kinds: Iterable[socket.SocketKind],
    mine: bool,
    reason: Callable[[OSError], OperatorError],
) -> CheckResult:
    """Check that *endpoint* is free. With *mine*, the running server of this catalog may use it."""
    from internal_dns.transport.listen.sockets import bind

    what = f"{setting} {endpoint}"
    try:
        for kind in kinds:
            bind(endpoint, kind).close()
    except OSError as error:
        if mine and error.errno == errno.EADDRINUSE:
            return CheckResult("ok", what, "in use by the running server of this catalog")
        failure = reason(error)
        return CheckResult("fail", what, failure.why, "`serve` cannot listen there", failure.do)
    return CheckResult("ok", what, "free")


def check_routes(
    listen: Sequence[Endpoint], catalog: Catalog, prefix: bytes, table: Path
) -> Iterator[CheckResult]:
    """Check that the addresses at which machines query the server are local to this host."""
    inside = [e for e in listen if e.host.packed.startswith(prefix)]
    wanted = {e.host.packed: str(e.host) for e in inside}
    if any(e.wildcard for e in listen):
        shared = prefix + bytes(13) + b"\3"
        wanted |= {shared: str(IPv6Address(shared))}
        wanted |= {
            n.server_address: str(IPv6Address(n.server_address)) for n in catalog.networks.values()
        }
    if not wanted:
        return
    try:
        local = local_routes(table.read_text())
    except OSError as error:
        yield CheckResult(
            "warn",
            "routes",
            f"cannot read {table}: {error.strerror or error}",
            "the server's addresses may not be local to this host",
            "Check the routes: ip -6 route show table local",
        )
        return
    missing = [
        text
        for address, text in sorted(wanted.items())
        if not any(covers(route, address) for route in local)
    ]
    if not missing:
        yield CheckResult("ok", "routes", f"all {len(wanted):,} server addresses are local")
        return
    more = f" and {len(missing) - _MAX_SHOWN:,} more" if len(missing) > _MAX_SHOWN else ""
    yield CheckResult(
        "warn",
        "routes",
        f"not local to this host: {', '.join(missing[:_MAX_SHOWN])}{more}",
        "queries sent there never reach the server",
        f"Add a route: ip -6 route add local {missing[0]}/128 dev lo"
        + ("; for all of them: internal-dns network list --routes" if len(missing) > 1 else ""),
    )


def check_queues(server: Running, workers: int) -> Iterator[CheckResult]:
    """Report the addresses that have fewer UDP sockets than the native path needs."""
    for endpoint, flows in zip(server.listen, server.flows or (), strict=False):
        if flows == 0:
            yield CheckResult(
                "warn",
                "queues",
                f"{endpoint} does not have eight UDP sockets with SO_REUSEPORT",
                "a network that floods the server crowds out the queries of all others",
                f"Write ListenDatagram={endpoint} {8 * workers} times and ReusePort=yes in the "
                ".socket unit (deploy/internal-dns.socket), then restart it",
            )
        elif flows < workers:
            yield CheckResult(
                "warn",
                "queues",
                f"{endpoint} has {8 * flows} UDP sockets for {workers} workers",
                f"one network has at most {flows} of the workers",
                f"Write ListenDatagram={endpoint} {8 * workers} times in the .socket unit, then "
                "restart it",
            )
