"""Apply changed settings on SIGHUP: those marked as reloadable, either all of them or none."""

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
    """The settings in use, and the values derived from them that a reload recomputes."""

    def __init__(self, settings: Settings, *, dev: bool) -> None:
        self.settings, self.dev = settings, dev
        self.secret = settings.cookie_secret or secrets.token_bytes(16)
        self.upstreams, self.public = find_upstreams(settings)
        if self.public:
            say_public(self.upstreams)
        self.rules = make_rules(settings, self.upstreams, self.secret, dev=dev)


@dataclass(slots=True)
class Reloader:
    """Applies new settings to the parts of a running server."""

    in_use: InUse
    metrics: Metrics
    forwarder: Forwarder
    exchange: Exchange
    api: Api
    watcher: Watcher
    mirror: Mirror | None
    go_on: Callable[[Iterator[None]], None]  # takes the remaining steps in slices
    udp: list[UdpListener] | list[NativeUdp] = field(default_factory=list)  # the active listeners
    inherited: bool = False  # the inherited sockets override the setting `listen`
    succeeded: bool = True  # whether the last reload succeeded

    def reload(self, reread: Callable[[], Settings]) -> None:
        """Apply the settings that *reread* returns, as far as they can change at run time.

        If they are faulty, the previous settings stay. Raises nothing: every outcome is logged.
        """
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
                "configuration not reloaded, keeping the previous one: %s", "; ".join(error.faults)
            )
        except Exception:  # a signal handler has no caller: a bug must end here
            _log.exception("configuration not reloaded, keeping the previous one")
        else:
            self.succeeded = True
            changed, fixed = differences(before, found)
            if not (before.upstream or found.upstream) and upstreams != self.in_use.upstreams:
                lists = (" ".join(map(str, each)) for each in (upstreams, self.in_use.upstreams))
                changed.append(f"upstreams of {RESOLV_CONF} {' -> '.join(lists)}")
            _log.info("configuration reloaded: %s", "; ".join(changed) or "no changes")
            if fixed:
                _log.warning(
                    "restart to apply these settings, which are only read at start: %s",
                    ", ".join(fixed),
                )

    def _use(self, settings: Settings) -> None:
        """Switch to *settings*. Raises ConfigurationError, and then nothing has changed."""
        now = self.in_use
        upstreams, public = find_upstreams(settings)  # resolv.conf may have changed, too
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
        self.forwarder.configure(
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
        """Create native workers for *rules*, if these have changed. Raises ConfigurationError.

        A missing resource shows here, while the previous workers still serve.
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
                [f"cannot create new native workers: {str(error) or 'out of memory'}"]
            ) from error

    def _use_rules(self, rules: Rules, workers: NewWorkers | None) -> None:
        """Switch to *rules*; *workers* replace those of the previous rules."""
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
    """Return *old* with the reloadable settings of *new*."""
    rows = {row.name: getattr(new, row.name) for row in table() if row.metadata["reload"]}
    origin = {
        name: (new if name in rows else old).origin.get(name, "")
        for name in (row.name for row in table())
    }
    return replace(old, **rows, origin=origin)


def differences(old: Settings, new: Settings) -> tuple[list[str], list[str]]:
    """Return the changes of reloadable settings as text, and the names of changed fixed ones."""
    changed = [row for row in table() if getattr(old, row.name) != getattr(new, row.name)]
    words = [
        row.name if row.name in SECRETS else f"{row.name} {_said(old, row.name)} -> "
                                             f"{_said(new, row.name)}"
        for row in changed if row.metadata["reload"]
    ]  # fmt: skip
    return words, [row.name for row in changed if not row.metadata["reload"]]


def _said(settings: Settings, name: str) -> str:
    """Return a value as text for a log line."""
    value = shown(name, getattr(settings, name))
    if isinstance(value, dict):
        return " ".join(f"{suffix}={_rule(rule)}" for suffix, rule in value.items()) or "none"
    return (
        " ".join(value) or "none"
        if isinstance(value, list)
        else str(value if value not in (None, "") else "none")
    )


def _rule(rule: list[str] | dict[str, Any]) -> str:
    """Return the upstreams of a suffix as one word."""
    return (
        ",".join(rule) if isinstance(rule, list) else f"{','.join(rule['upstreams'])},allow_prefix"
    )
