"""doctor, health and version: the state of this host and of a running server."""

from __future__ import annotations

import http.client
import platform
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final

import click

from internal_dns.cli.words import FINDING, UNREACHABLE, Told, json_option, paint, print_json

WAL_RESET_FIXED: Final = (3, 51, 3)
_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Symptom:
    """One thing that was looked at. `level` is ok, warn or fail."""

    level: str
    what: str
    says: str
    do: str = ""


@click.command()
@click.option("--listen", multiple=True, metavar="ADDR:PORT", help="As `serve` would.")
@click.option("--catalog", metavar="FILE", help="As `serve` would.")
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="As `serve` would.")
@click.option("--server", metavar="ADDR:PORT", help="A running server whose answers two libraries should agree on.")
@json_option
def doctor(
    listen: tuple[str, ...], catalog: str | None, config: Path | None, server: str | None, as_json: bool
) -> None:
    """Look at this host: what would keep the server from running well, and what to do about it."""
    found = list(_symptoms({"listen": listen, "catalog": catalog or _demo()}, config, server))
    if as_json:
        print_json([{"level": s.level, "what": s.what, "says": s.says, "do": s.do or None} for s in found])
    else:
        for s in found:
            click.echo(f"{paint(f'{s.level:5}', _COLOURS[s.level])} {s.what}: {s.says}")
            if s.do:
                click.echo(f"      {s.do}")
    raise SystemExit(FINDING if any(s.level == "fail" for s in found) else 0)


def _demo() -> str | None:
    """The demo's catalog where there is one, as for the other commands; None: what the settings say."""
    return "demo/catalog.db" if Path("demo/catalog.db").exists() else None


def _symptoms(flags: dict[str, Any], config: Path | None, server: str | None) -> Iterator[Symptom]:
    from internal_dns.config import ConfigurationError, load_settings
    from internal_dns.server import UDP_PATH

    yield Symptom("ok" if sys.version_info >= (3, 11) else "fail", "python", platform.python_version())
    yield _sqlite()
    yield _event_loop()
    yield Symptom("ok", "udp path", f"{UDP_PATH} (the native one is not built yet)")
    yield _ipv6()
    try:
        settings = load_settings(flags, file=config)
    except ConfigurationError as error:
        for fault in error.faults:
            yield Symptom("fail", "settings", fault, "Correct it")
        return
    yield from _ports(settings.listen)
    yield from _resolv_conf(settings)
    yield from _catalog(settings)
    if server:
        yield from _cross_check(server)


def _sqlite() -> Symptom:
    if sqlite3.sqlite_version_info >= WAL_RESET_FIXED:
        return Symptom("ok", "sqlite", sqlite3.sqlite_version)
    return Symptom(
        "warn", "sqlite", f"{sqlite3.sqlite_version} can corrupt a WAL file that two connections write or checkpoint",
        "Let one program write the catalog, or use SQLite 3.51.3 or later; the server only reads",
    )  # fmt: skip


def _event_loop() -> Symptom:
    try:
        version_of("uvloop")
    except PackageNotFoundError:
        return Symptom(
            "warn", "event loop", "uvloop is missing; asyncio's own takes twice the time", "pip install uvloop"
        )
    return Symptom("ok", "event loop", f"uvloop {version_of('uvloop')}")


def _ipv6() -> Symptom:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return Symptom("fail", "ipv6", str(error), "Enable it: sysctl net.ipv6.conf.all.disable_ipv6=0")
    return Symptom("ok", "ipv6", "available")


def _ports(listen: tuple[Any, ...]) -> Iterator[Symptom]:
    from internal_dns.server import cannot_listen
    from internal_dns.transport.sockets import bind

    for endpoint in listen:
        try:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                bind(endpoint, kind).close()
        except OSError as error:
            reason = cannot_listen(endpoint, error)
            yield Symptom("fail", f"listen {endpoint}", reason.why, reason.do)
        else:
            yield Symptom("ok", f"listen {endpoint}", "free")


def _resolv_conf(settings: Any) -> Iterator[Symptom]:
    from internal_dns.forward.upstreams import RESOLV_CONF, from_resolv_conf

    with_us = from_resolv_conf(lambda endpoint: False)
    without = from_resolv_conf(settings.is_own)
    if settings.upstream:
        yield Symptom("ok", "upstreams", ", ".join(str(u) if u else "none" for u in settings.upstream))
    elif with_us != without:
        yield Symptom(
            "ok", "upstreams", f"{RESOLV_CONF} names this server, which is left out: {', '.join(map(str, without))}"
        )  # fmt: skip
    else:
        yield Symptom("ok", "upstreams", ", ".join(map(str, without)))


def _catalog(settings: Any) -> Iterator[Symptom]:
    from internal_dns.server import counted
    from internal_dns.store.sqlite import UnusableCatalog, load

    try:
        loaded = load(settings.catalog, prefix=settings.prefix, hidden=settings.hidden_peers)
    except FileNotFoundError:
        yield Symptom("fail", "catalog", f"{settings.catalog} is not there", "Make one: internal-dns init FILE --demo")
    except UnusableCatalog as error:
        yield Symptom("fail", "catalog", str(error), "Restore it, or make a new one: internal-dns init FILE")
    else:
        yield Symptom("ok", "catalog", counted(loaded))
        if loaded.fault_count:
            do = f"internal-dns check --catalog {settings.catalog}"
            yield Symptom("warn", "catalog rows", f"{loaded.fault_count:,} were left out", do)


def _cross_check(server: str) -> Iterator[Symptom]:
    """Let dnspython and dnslib, which share no code with us or each other, read the same replies."""
    import dns.exception
    import dns.message
    import dns.query
    import dnslib

    from internal_dns.transport.sockets import Endpoint

    try:
        endpoint = Endpoint.parse(server, 53)
    except ValueError as error:
        yield Symptom("fail", f"server {server}", str(error), "Write [::1]:1053 or 127.0.0.1:1053")
        return
    for name, qtype in (("internal.", "SOA"), ("_dns.internal.", "AAAA"), ("_apps.internal.", "TXT")):
        query = dns.message.make_query(name, qtype)
        try:
            reply = dns.query.udp(query, str(endpoint.host), 2, endpoint.port)
            second = dnslib.DNSRecord.parse(reply.wire)
        except Exception as error:  # dnslib lets whatever its parser meets escape
            why = str(error) or type(error).__name__
            yield Symptom("fail", f"answer {name}", why, f"Is the server running at {endpoint}?")
            return
        agree = second.header.rcode == reply.rcode() and len(second.rr) == sum(len(rrset) for rrset in reply.answer)
        says = f"rcode {reply.rcode()}, {len(second.rr)} records; dnspython and dnslib {'agree' if agree else 'differ'}"
        yield Symptom("ok" if agree else "fail", f"answer {name}", says)


@click.command()
@click.option(
    "--admin", default="127.0.0.1:9153", show_default=True, metavar="ADDR:PORT", help="The admin port to ask."
)
@json_option
def health(admin: str, as_json: bool) -> None:
    """Exit 0 when the server is ready, 1 when it is not, 3 when it cannot be reached. For a container's healthcheck."""
    host, _, port = admin.rpartition(":")
    try:
        # Not urllib: it would ask a proxy of the environment for our own loopback address.
        with closing(http.client.HTTPConnection(host.strip("[]"), int(port), timeout=3)) as connection:
            connection.request("GET", "/readyz")
            with connection.getresponse() as answer:
                ready, words = answer.status == 200, answer.read(4096).decode("utf-8", "replace").strip()
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        raise Told(f"cannot ask http://{admin}/readyz", why, "Is it running, and with this --admin?",
                   UNREACHABLE) from error  # fmt: skip
    if as_json:
        print_json({"ready": ready, "says": words})
    else:
        click.echo(words)
    raise SystemExit(0 if ready else FINDING)


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the versions of this program and of what it runs on."""
    from internal_dns import __version__
    from internal_dns.server import UDP_PATH

    found = {
        "internal-dns": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "udp path": UDP_PATH,
    }
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(f"{name:13}{value}" for name, value in found.items()))
