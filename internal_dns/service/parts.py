"""Build the parts of the server from the settings. Every function may raise OperatorError."""

from __future__ import annotations

import logging
import resource
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from internal_dns.config import Settings
from internal_dns.core.journey import Rules
from internal_dns.forward import native as forward_native
from internal_dns.forward.forwarder import Forwarder
from internal_dns.forward.upstreams import (
    RESOLV_CONF,
    Upstream,
    named_in_resolv_conf,
    public,
)
from internal_dns.metrics import Metrics
from internal_dns.net import Endpoint
from internal_dns.service import errors
from internal_dns.store.sqlite import Loaded
from internal_dns.transport import native
from internal_dns.transport.answer import Exchange

if TYPE_CHECKING:
    from internal_dns.admin.console.serve import Console
    from internal_dns.replicate.follower import Follower

_log = logging.getLogger("internal_dns")


def make_rules(
    settings: Settings, upstreams: tuple[Upstream, ...], secret: bytes, *, dev: bool
) -> Rules:
    """Return the rules of all answers. *secret* is the secret of the DNS cookies."""
    return Rules(
        prefix=settings.prefix,
        region=settings.region,
        maps=settings.maps,
        forwarding=bool(upstreams),
        udp_limit=settings.udp_limit,
        dev=dev,
        nsid=settings.nsid,
        secret=secret,
        forwarded=tuple(settings.forward),
    )


def find_upstreams(settings: Settings) -> tuple[tuple[Upstream, ...], bool]:
    """Return the upstreams of names without a rule of their own: those of the settings, else of
    the host's resolv.conf; and whether neither names any, so that they are public ones."""
    if settings.upstream:
        return tuple(upstream for upstream in settings.upstream if upstream), False
    found = named_in_resolv_conf(settings.is_own)
    return found or public(), not found


def say_public(upstreams: tuple[Upstream, ...]) -> None:
    """Say that external names go to public resolvers, because the host has none of its own."""
    _log.warning(
        "%s names no server but this one: external names are forwarded to public resolvers, %s; "
        "name others with --upstream, or none",
        RESOLV_CONF,
        ", ".join(map(str, upstreams)),
    )


def forward_limit() -> int:
    """Return how many queries may wait for upstreams at a time: a quarter of the descriptors."""
    return max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


def make_forwarder(
    settings: Settings,
    upstreams: tuple[Upstream, ...],
    metrics: Metrics,
    limit: int,
    udp_path: str = "python",
) -> Forwarder:
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
            native=udp_path == "native",
        )
    except (ImportError, OSError) as error:
        raise errors.cannot_forward(settings.upstream_ca, error) from error


def make_follower(settings: Settings) -> Follower | None:
    """Return the follower of the bucket in the settings; None without one."""
    if settings.source is None:
        return None
    from internal_dns.replicate.follower import Follower  # most servers follow no bucket

    return Follower(
        settings.catalog,
        settings.source,
        settings.host_name or socket.gethostname(),
        rules=settings.catalog_rules,
    )


def choose_udp_path(wanted: str) -> str:
    """Return the UDP path to use, native or python, for the setting *wanted*."""
    if wanted == "python":
        return wanted
    # Both modules are built together; without either the Python path is whole.
    missing = native.MISSING or forward_native.MISSING
    if not missing:
        return "native"
    if wanted == "native":
        raise errors.no_native_path(missing)
    _log.warning(
        "native UDP path unavailable (%s); using the Python path. %s",
        missing,
        errors.BUILD_NATIVE,
    )
    return "python"


def open_console(
    endpoint: Endpoint,
    settings: Settings,
    metrics: Metrics,
    forwarder: Forwarder,
    exchange: Exchange,
    *,
    loaded: Callable[[], Loaded | None],
    ready: Callable[[], tuple[bool, str]],
    about: Callable[[], Mapping[str, str]],
    upstreams: Callable[[], Sequence[str]],
) -> Console:
    """Open the port of the web console. Only this function loads its packages."""
    try:
        from internal_dns.admin.console.app import Sources
        from internal_dns.admin.console.samples import Sampler
        from internal_dns.admin.console.serve import Console
    except ModuleNotFoundError as error:
        raise errors.no_console(endpoint, error) from error
    sources = Sources(
        catalog=lambda: exchange.catalog,
        loaded=loaded,
        ready=ready,
        rules=lambda: exchange.rules,
        file=settings.catalog,
        upstreams=upstreams,
        about=about,
        exchange=exchange,
    )
    try:
        sampler = Sampler(metrics, forwarder.status)
        return Console(endpoint, settings.console_token, sources, sampler)
    except OSError as error:
        raise errors.cannot_open("console", endpoint, error) from error
