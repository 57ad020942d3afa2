"""What a SIGHUP changes: the rows of the table of settings that may change while we serve, and no
others. The running parts take all of them, or none."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from internal_dns.admin.api import Api
from internal_dns.config import (
    SECRETS,
    ConfigurationError,
    Settings,
    find_contradictions,
    shown,
    table,
)
from internal_dns.core.journey import Rules
from internal_dns.forward.forwarder import Forwarder
from internal_dns.forward.upstreams import RESOLV_CONF
from internal_dns.metrics import Metrics
from internal_dns.service.errors import cannot_forward
from internal_dns.service.parts import find_upstreams, make_rules, say_public
from internal_dns.store.watch import Watcher
from internal_dns.transport.answer import Exchange
from internal_dns.transport.listen.udp import UdpListener
from internal_dns.transport.native.listener import Udp as NativeUdp
from internal_dns.transport.native.mirror import Mirror

if TYPE_CHECKING:
    from internal_dns.transport.native import fast

NewWorkers = tuple[Mirror, list[tuple[NativeUdp, "list[fast.Worker]"]]]

_log = logging.getLogger("internal_dns")


class InUse:
    """The settings in use, and what was made from them that a reload makes anew."""

    def __init__(self, settings: Settings, *, dev: bool) -> None:
        self.settings, self.dev = settings, dev
        self.secret = settings.cookie_secret or secrets.token_bytes(16)
        self.upstreams, self.public = find_upstreams(settings)
        if self.public:
            say_public(self.upstreams)
        self.rules = make_rules(settings, self.upstreams, self.secret, dev=dev)


@dataclass(slots=True)
class Reloader:
    """Takes new settings into the parts of a running server."""

    in_use: InUse
    metrics: Metrics
    forwarder: Forwarder
    exchange: Exchange
    api: Api
    watcher: Watcher
    mirror: Mirror | None
    go_on: Callable[[Iterator[None]], None]  # with what is left to do, in slices
    udp: list[UdpListener] | list[NativeUdp] = field(default_factory=list)  # those that read
    inherited: bool = False  # the sockets say where to listen, whatever the file says
    succeeded: bool = True  # the last time

    def reload(self, reread: Callable[[], Settings]) -> None:
        """Go on with what *reread* returns, as far as it can change at run time; with the settings
        before, if it is faulty. Raises nothing: whatever happens is logged."""
        before, upstreams, self.succeeded = self.in_use.settings, self.in_use.upstreams, False
        try:
            found = reread()
            if self.inherited:
                found = replace(found, listen=before.listen)
            use = merged(before, found)
            if faults := find_contradictions(use):
                raise ConfigurationError(faults)
            self._use(use)
        except ConfigurationError as error:
            _log.error(
                "configuration not reloaded, the one before stays: %s", "; ".join(error.faults)
            )
        except Exception:  # a signal handler has no caller: a fault of ours ends here
            _log.exception("configuration not reloaded, the one before stays")
        else:
            self.succeeded = True
            changed, fixed = differences(before, found)
            if not (before.upstream or found.upstream) and upstreams != self.in_use.upstreams:
                told = (" ".join(map(str, each)) for each in (upstreams, self.in_use.upstreams))
                changed.append(f"upstreams of {RESOLV_CONF} {' -> '.join(told)}")
            _log.info("configuration reloaded: %s", "; ".join(changed) or "nothing changed")
            if fixed:
                _log.warning(
                    "not changed, because they are taken at the start only: %s; restart",
                    ", ".join(fixed),
                )

    def _use(self, settings: Settings) -> None:
        """Raises ConfigurationError, and then nothing has changed."""
        now = self.in_use
        upstreams, public = find_upstreams(settings)  # the host's resolv.conf may be another, too
        secret = settings.cookie_secret or now.secret
        rules = make_rules(settings, upstreams, secret, dev=now.dev)
        workers = self._workers(rules)
        if (upstreams, settings.forward) != (now.upstreams, now.settings.forward):
            try:
                self.forwarder.use(upstreams, settings.forward)
            except (ImportError, OSError) as error:
                self.forwarder.use(now.upstreams, now.settings.forward)
                raise ConfigurationError(
                    [str(cannot_forward(settings.upstream_ca, error))]
                ) from error
        self.forwarder.use_manners(
            outside_aliases=settings.outside_aliases == "answer", sockets=settings.upstream_sockets
        )
        if public and not now.public:
            say_public(upstreams)
        now.settings, now.upstreams, now.secret, now.rules = settings, upstreams, secret, rules
        now.public = public
        self._use_rules(rules, workers)
        self.api.use(settings.catalog_rules)
        self.watcher.use(settings.catalog_rules)

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
            self.go_on(self.exchange.use_rules(rules))
            return
        self.mirror, new = workers
        for udp, _ in new:
            udp.stop_reading()
        left = self.exchange.use_rules(rules, self.mirror)
        for udp, made in new:
            udp.start(self.mirror, made)
        self.go_on(left)


def merged(old: Settings, new: Settings) -> Settings:
    """Return *old* with what of *new* may change at run time."""
    rows = {row.name: getattr(new, row.name) for row in table() if row.metadata["reload"]}
    origin = {
        name: (new if name in rows else old).origin.get(name, "")
        for name in (row.name for row in table())
    }
    return replace(old, **rows, origin=origin)


def differences(old: Settings, new: Settings) -> tuple[list[str], list[str]]:
    """Return in words what changes at run time, and the names of what would need another start."""
    changed = [row for row in table() if getattr(old, row.name) != getattr(new, row.name)]
    words = [
        row.name if row.name in SECRETS else f"{row.name} {_said(old, row.name)} -> "
                                             f"{_said(new, row.name)}"
        for row in changed if row.metadata["reload"]
    ]  # fmt: skip
    return words, [row.name for row in changed if not row.metadata["reload"]]


def _said(settings: Settings, name: str) -> str:
    """A value in one line of a log."""
    value = shown(name, getattr(settings, name))
    if isinstance(value, dict):
        return " ".join(f"{suffix}={_rule(rule)}" for suffix, rule in value.items()) or "none"
    return (
        " ".join(value) or "none"
        if isinstance(value, list)
        else str(value if value not in (None, "") else "none")
    )


def _rule(rule: list[str] | dict[str, Any]) -> str:
    """The upstreams of a suffix, in one word."""
    return (
        ",".join(rule) if isinstance(rule, list) else f"{','.join(rule['upstreams'])},allow_prefix"
    )
