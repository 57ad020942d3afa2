"""doctor: look at this host for what would keep the server from running well, and say what, why and
what to do."""

from __future__ import annotations

import asyncio
import platform
import socket
import sqlite3
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from internal_dns.cli.words import FINDING, json_option, paint, print_json
from internal_dns.store.rows import shown
from internal_dns.text import printable_text

if TYPE_CHECKING:
    from internal_dns.config import Settings
    from internal_dns.core.catalog import Catalog
    from internal_dns.errors import OperatorError
    from internal_dns.forward.upstreams import Upstream
    from internal_dns.net import Endpoint
    from internal_dns.replicate.logic import Facts
    from internal_dns.replicate.source import Source

WAL_RESET_FIXED: Final = (3, 51, 3)
ROUTES: Final = Path("/proc/net/ipv6_route")
RTF_LOCAL: Final = 0x8000_0000  # linux/ipv6_route.h
_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}
_SHOWN: Final = 3  # of many addresses, as examples
_KEPT_OUT: Final = 20  # keys of a bucket, one finding each


@dataclass(frozen=True, slots=True)
class Symptom:
    """One thing that was looked at. `level` is ok, warn or fail; the latter two say why it matters
    and what to do."""

    level: str
    what: str
    says: str
    why: str = ""
    do: str = ""


@click.command()
@click.option("--listen", multiple=True, metavar="ADDR:PORT", help="As `serve` would.")
@click.option("--upstream", multiple=True, metavar="URL", help="As `serve` would.")
@click.option("--admin", metavar="ADDR:PORT", help="As `serve` would.")
@click.option("--console", metavar="ADDR:PORT", help="As `serve` would.")
@click.option("--catalog", metavar="FILE", help="As `serve` would.")
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="As `serve` would.")
@click.option(
    "--server",
    metavar="ADDR:PORT",
    help="A running server whose answers two libraries should agree on.",
)
@json_option
def doctor(
    listen: tuple[str, ...],
    upstream: tuple[str, ...],
    admin: str | None,
    console: str | None,
    catalog: str | None,
    config: Path | None,
    server: str | None,
    as_json: bool,
) -> None:
    """Look at this host: what would keep the server from running well, and what to do about it.

    It asks each upstream once, and nothing else of the network.
    """
    ports = {"listen": listen, "upstream": upstream, "admin": admin, "console": console}
    found = list(_symptoms({**ports, "catalog": catalog or _demo()}, config, server))
    if as_json:
        print_json([{key: value or None for key, value in asdict(s).items()} for s in found])
    else:
        click.echo("\n".join(report(found)))
    raise SystemExit(FINDING if any(s.level == "fail" for s in found) else 0)


def report(found: Sequence[Symptom]) -> list[str]:
    """Return the lines for a person, a count of what is wrong last."""
    width = max(len(printable_text(s.what)) for s in found)
    lines = []
    for s in found:
        what, says = printable_text(s.what), printable_text(s.says)
        lines.append(f"{paint(f'{s.level:4}', _COLOURS[s.level])}  {what:{width}}  {says}")
        lines += [
            f"{'':6}{paint(word, 'cyan')}{'':{5 - len(word)}}{printable_text(text)}"
            for word, text in (("why", s.why), ("do", s.do))
            if text
        ]
    counts = [sum(s.level == level for s in found) for level in _COLOURS]
    words = [
        f"{n} {word}{'s' * (n != 1)}"
        for n, word in ((counts[2], "problem"), (counts[1], "warning"))
        if n
    ]
    return [
        *lines,
        "",
        f"{' and '.join(words)}, {counts[0]} checks are fine"
        if words
        else f"all {counts[0]} checks are fine",
    ]


def _demo() -> str | None:
    """The demo's catalog where there is one, as for the other commands; None: what the settings
    say."""
    return "demo/catalog.db" if Path("demo/catalog.db").exists() else None


def _symptoms(flags: dict[str, Any], config: Path | None, server: str | None) -> Iterator[Symptom]:
    from internal_dns.config import ConfigurationError, load_settings, misspelt

    yield from _programs()
    yield _ipv6()
    for words in misspelt():
        why = "a variable that is no setting is ignored"
        yield Symptom(
            "warn",
            "environment",
            words,
            why,
            "`internal-dns config show --origin` lists the settings",
        )
    try:
        settings = load_settings(flags, file=config)
    except ConfigurationError as error:
        for fault in error.faults:
            yield Symptom(
                "fail",
                "settings",
                fault,
                "`serve` exits 78 with it",
                "Correct it; docs/settings.md lists all",
            )
        return
    running = is_running(settings.catalog)
    taken = yield from _ports(settings, running)
    yield from _upstreams(settings)
    catalog = yield from _catalog(settings)
    if catalog is not None:
        yield from routes(settings.listen, catalog, settings.prefix, ROUTES)
    yield from _replica(settings)
    if server is None and taken:
        server = str(reachable(taken))
    elif server is None and running:
        yield Symptom(
            "ok",
            "server",
            "one of this catalog runs, on other addresses; --server ADDR:PORT asks it",
        )
    if server:
        yield from _cross_check(server)


# ── programs ──────────────────────────────────────────────────────────────────────────────────────


def _programs() -> Iterator[Symptom]:
    from internal_dns.service.errors import BUILD_NATIVE
    from internal_dns.transport import native

    yield Symptom("ok", "python", platform.python_version())
    if sqlite3.sqlite_version_info >= WAL_RESET_FIXED:
        yield Symptom("ok", "sqlite", sqlite3.sqlite_version)
    else:
        yield Symptom(
            "warn",
            "sqlite",
            sqlite3.sqlite_version,
            "before 3.51.3, two connections that write or checkpoint at once can corrupt a WAL "
            "file",
            "Let one program write the catalog (the server's commands do), or use a later SQLite",
        )
    try:
        yield Symptom("ok", "event loop", f"uvloop {version_of('uvloop')}")
    except PackageNotFoundError:
        yield Symptom(
            "warn",
            "event loop",
            "asyncio's own",
            "it takes twice the time of uvloop",
            "pip install uvloop",
        )
    if native.MISSING:
        yield Symptom(
            "warn", "udp path", "python", f"the native one: {native.MISSING}", BUILD_NATIVE
        )
    else:
        yield Symptom("ok", "udp path", "native")


# ── addresses ─────────────────────────────────────────────────────────────────────────────────────


def _ipv6() -> Symptom:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        why = "every address of a 6PN network is IPv6"
        return Symptom(
            "fail",
            "ipv6",
            error.strerror or str(error),
            why,
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0",
        )
    return Symptom("ok", "ipv6", "available")


def is_running(catalog: Path) -> bool:
    """Whether a server of *catalog* listens at its UNIX socket."""
    from internal_dns.admin.api import socket_path

    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(socket_path(catalog)))
        except OSError:
            return False
    return True


def _ports(settings: Settings, running: bool) -> Generator[Symptom, None, Endpoint | None]:
    """Yield whether each port of `serve` is free; return an address where the running server has
    taken it."""
    from internal_dns.service.errors import cannot_listen, cannot_open

    taken = None
    for endpoint in settings.listen:
        reason = partial(cannot_listen, endpoint)
        symptom, mine = _port(
            "listen", endpoint, (socket.SOCK_DGRAM, socket.SOCK_STREAM), running, reason
        )
        taken = taken or (endpoint if mine else None)
        yield symptom
    for setting, one in (("admin", settings.admin), ("console", settings.console)):
        if one:
            # A server that listens elsewhere is not the one these settings are for: the two would
            # meet here.
            mine = taken is not None
            yield _port(
                setting, one, (socket.SOCK_STREAM,), mine, partial(cannot_open, setting, one)
            )[0]
    return taken


def _port(
    setting: str,
    endpoint: Endpoint,
    kinds: Iterable[socket.SocketKind],
    running: bool,
    reason: Callable[[OSError], OperatorError],
) -> tuple[Symptom, bool]:
    """Whether *endpoint* is free; and whether it is not because a server of this catalog, which is
    running, has it."""
    import errno

    from internal_dns.transport.listen.sockets import bind

    what = f"{setting} {endpoint}"
    try:
        for kind in kinds:
            bind(endpoint, kind).close()
    except OSError as error:
        if running and error.errno == errno.EADDRINUSE:
            return Symptom("ok", what, "taken, and a server of this catalog is running"), True
        told = reason(error)
        return Symptom("fail", what, told.why, "`serve` could not listen there", told.do), False
    return Symptom("ok", what, "free"), False


def reachable(endpoint: Endpoint) -> Endpoint:
    """Where to ask a server that listens on *endpoint*."""
    from internal_dns.net import Endpoint as Made

    return Made(IPv6Address("::1"), endpoint.port) if endpoint.wildcard else endpoint


def routes(
    listen: Sequence[Endpoint], catalog: Catalog, prefix: bytes, table: Path
) -> Iterator[Symptom]:
    """Find addresses that machines ask the server at, and that are not local to this host."""
    inside = [e for e in listen if e.host.packed.startswith(prefix)]
    wanted = {e.host.packed: str(e.host) for e in inside}
    if any(e.wildcard for e in listen):
        everyone = prefix + bytes(13) + b"\3"
        wanted |= {everyone: str(IPv6Address(everyone))}
        wanted |= {
            n.server_address: str(IPv6Address(n.server_address)) for n in catalog.networks.values()
        }
    if not wanted:
        return
    try:
        local = local_routes(table.read_text())
    except OSError as error:
        why = "so it is not known whether the server's addresses are local"
        yield Symptom(
            "warn",
            "routes",
            f"{table}: {error.strerror or error}",
            why,
            "Look yourself: ip -6 route show table local",
        )
        return
    missing = [
        text
        for address, text in sorted(wanted.items())
        if not any(_covers(route, address) for route in local)
    ]
    if not missing:
        yield Symptom("ok", "routes", f"{len(wanted):,} addresses of the server are local")
        return
    more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
    yield Symptom(
        "warn",
        "routes",
        f"not local to this host: {', '.join(missing[:_SHOWN])}{more}",
        "questions sent there never reach the server",
        f"ip -6 route add local {missing[0]}/128 dev lo"
        + ("; all of them: internal-dns network list --routes" if len(missing) > 1 else ""),
    )


def local_routes(table: str) -> list[tuple[int, int]]:
    """Read /proc/net/ipv6_route: (network, prefix length) of what is delivered to this host
    itself."""
    found = []
    for words in map(str.split, table.splitlines()):
        if len(words) == 10 and int(words[8], 16) & RTF_LOCAL:
            found.append((int(words[0], 16), int(words[1], 16)))
    return found


def _covers(route: tuple[int, int], address: bytes) -> bool:
    network, length = route
    return not (network ^ int.from_bytes(address, "big")) >> (128 - length)


# ── upstreams ─────────────────────────────────────────────────────────────────────────────────────


def _upstreams(settings: Settings) -> Iterator[Symptom]:
    from internal_dns.forward.upstreams import PUBLIC, RESOLV_CONF, from_resolv_conf

    if settings.upstream:
        used = tuple(upstream for upstream in settings.upstream if upstream)
        yield Symptom(
            "ok", "upstreams", ", ".join(map(str, used)) or "none: external names are refused"
        )
    else:
        used, everything = (
            from_resolv_conf(settings.is_own),
            from_resolv_conf(lambda endpoint: False),
        )
        names, public = ", ".join(map(str, used)), tuple(f"{url}:53" for url in PUBLIC)
        if tuple(map(str, everything)) == public:
            yield Symptom("ok", "upstreams", f"{names}: {RESOLV_CONF} names no other")
        elif used == everything:
            yield Symptom("ok", "upstreams", f"{names}, of {RESOLV_CONF}")
        elif tuple(map(str, used)) == public:
            yield Symptom(
                "warn",
                "upstreams",
                f"{RESOLV_CONF} names this server alone",
                f"a question must not go round in a circle, so public resolvers are asked: {names}",
                "Name the upstreams you want with --upstream",
            )
        else:
            yield Symptom(
                "ok",
                "upstreams",
                f"{names}; {RESOLV_CONF} names this server too, which is left out",
            )
    every = {
        *used,
        *(upstream for rule in settings.forward.values() for upstream in rule.upstreams),
    }
    yield from asyncio.run(_probe_all(every, settings))


async def _probe_all(upstreams: set[Upstream], settings: Settings) -> list[Symptom]:
    return await asyncio.gather(
        *(_probe(upstream, settings) for upstream in sorted(upstreams, key=str))
    )


async def _probe(upstream: Upstream, settings: Settings) -> Symptom:
    """Ask an upstream for the name servers of the root, by the server's own forwarder."""
    import dns.message
    import dns.rcode

    from internal_dns.core.catalog import NetworkId
    from internal_dns.core.journey import Forward
    from internal_dns.core.message import Manner
    from internal_dns.core.wire import Query, read_query
    from internal_dns.forward.forwarder import Forwarder
    from internal_dns.metrics import Metrics

    query = read_query(dns.message.make_query(".", "NS", use_edns=0).to_wire())
    assert isinstance(query, Query)
    start = asyncio.get_running_loop().time()
    try:
        forwarder = Forwarder((upstream,), Metrics(), settings.prefix, ca=settings.upstream_ca)
    except (ImportError, OSError) as error:
        why = "`serve` exits 78 with it"
        return Symptom(
            "fail",
            f"upstream {upstream}",
            str(error),
            why,
            "pip install 'internal-dns[doh]', or upstream_ca",
        )
    try:
        octets = await _all_of(
            forwarder.answer(Forward(query, Manner(4_096, True), NetworkId(0)), bytes(16))
        )
    finally:
        await forwarder.close()
    took = (asyncio.get_running_loop().time() - start) * 1000
    reply = dns.message.from_wire(octets)
    if reply.rcode() == dns.rcode.NOERROR:
        return Symptom("ok", f"upstream {upstream}", f"answers in {took:.0f} ms")
    reasons = [str(option) for option in reply.options if option.otype == 15]
    says = ", ".join([dns.rcode.to_text(reply.rcode()), *reasons])
    return Symptom(
        "fail",
        f"upstream {upstream}",
        says,
        "external names sent there get SERVFAIL, or wait for the next upstream",
        "Is it up, and do routes and firewall let its port pass, UDP and TCP? Else name another "
        "with --upstream",
    )


async def _all_of(reply: bytes | Awaitable[bytes]) -> bytes:
    return reply if isinstance(reply, bytes) else await reply


# ── the catalog, and what a server makes of it ────────────────────────────────────────────────────


def _catalog(settings: Settings) -> Generator[Symptom, None, Catalog | None]:
    """Yield what is to say; return the catalog, or None when there is none."""
    from internal_dns.service.summary import counted
    from internal_dns.store.sqlite import UnusableCatalog, load

    try:
        loaded = load(settings.catalog, rules=settings.catalog_rules)
    except FileNotFoundError:
        why = "our names get SERVFAIL until it is there"
        yield Symptom(
            "fail",
            "catalog",
            f"{settings.catalog} is not there",
            why,
            "Make one: internal-dns init FILE --demo",
        )
    except UnusableCatalog as error:
        yield Symptom(
            "fail",
            "catalog",
            str(error),
            "`serve` exits 78 with it",
            "Restore it, or: internal-dns init FILE",
        )
    else:
        yield Symptom("ok", "catalog", counted(loaded))
        if loaded.fault_count:
            do = f"internal-dns check --catalog {settings.catalog} lists each"
            yield Symptom(
                "warn",
                "catalog rows",
                f"{loaded.fault_count:,} are left out",
                "they cannot be served",
                do,
            )
        return loaded.catalog
    return None


def _cross_check(server: str) -> Iterator[Symptom]:
    """Let dnspython and dnslib, which share no code with us or each other, read the same
    replies."""
    import dns.exception
    import dns.message
    import dns.query
    import dns.rcode
    import dnslib

    from internal_dns.net import Endpoint

    try:
        endpoint = Endpoint.parse(server, 53)
    except ValueError as error:
        yield Symptom(
            "fail",
            f"server {server}",
            str(error),
            "it is no address",
            "Write [::1]:1053 or 127.0.0.1:1053",
        )
        return
    for name, qtype in (
        ("internal.", "SOA"),
        ("_dns.internal.", "AAAA"),
        ("_apps.internal.", "TXT"),
    ):
        query = dns.message.make_query(name, qtype)
        try:
            with socket.socket(endpoint.family, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(endpoint.sockaddr)
                reply = dns.query.udp(query, str(endpoint.host), 2, endpoint.port, sock=sock)
            second = dnslib.DNSRecord.parse(reply.wire)
        except Exception as error:  # dnslib lets whatever its parser meets escape
            says = (
                "nothing listens there" if isinstance(error, ConnectionRefusedError) else str(error)
            )
            why = f"{endpoint} was asked for it by UDP"
            yield Symptom(
                "fail",
                f"answer {name}",
                says or type(error).__name__,
                why,
                "Is the server running there?",
            )
            return
        agree = second.header.rcode == reply.rcode() and len(second.rr) == sum(
            len(rrset) for rrset in reply.answer
        )
        says = f"{dns.rcode.to_text(reply.rcode())}, {len(second.rr)} records"
        if agree:
            yield Symptom("ok", f"answer {name}", f"{says}; dnspython and dnslib agree")
        else:
            why = f"dnslib reads rcode {second.header.rcode} and {len(second.rr)} records where dnspython differs"
            yield Symptom(
                "fail",
                f"answer {name}",
                says,
                why,
                f"Please report it with the reply: {(reply.wire or b'').hex()}",
            )


# ── the bucket ────────────────────────────────────────────────────────────────────────────────────


def _replica(settings: Settings) -> Iterator[Symptom]:
    """Whether the file follows a bucket, how far it is, and what is kept out of it."""
    from internal_dns.replicate.replica import followed, quarantine
    from internal_dns.store.sqlite import UnusableCatalog

    if settings.source:
        yield _bucket(settings.source)
    try:
        found = followed(settings.catalog)
        count, some = quarantine(settings.catalog, _KEPT_OUT)
    except (FileNotFoundError, UnusableCatalog):
        return
    if found:
        yield Symptom(
            "ok", "replica", f"follows {found['source']}, has revision {found['revision']}"
        )
    if found and not settings.source:
        yield Symptom(
            "warn",
            "replica",
            "no `source` is set",
            "The file is a replica that no follower keeps",
            "Set `source` again; or, to write the file by yourself for good: DELETE FROM replica",
        )
    for key, revision, why in some:
        yield Symptom(
            "warn",
            f"kept out {shown(key)}",
            f"revision {revision}",
            f"{why}; its row stays as it was",
            "Publish a value as docs/bucket.schema.json has it",
        )
    if count > len(some):
        why = "Each has a value that could not be served"
        yield Symptom(
            "warn", "kept out", f"{count - len(some):,} more keys", why, "Correct those above first"
        )


def _bucket(source: Source) -> Symptom:
    from internal_dns.replicate.bucket import Unavailable
    from internal_dns.replicate.nats import connected

    async def facts() -> Facts:
        async with connected(source) as bucket:
            return await bucket.facts()

    try:
        found = asyncio.run(facts())
    except Unavailable as error:
        why = "The file answers, as of when the bucket was last followed"
        return Symptom("fail", "bucket", str(error), why, "Start it, or correct `source`")
    if found.floor is None:
        why = "Nothing was published whole: followers wait"
        return Symptom(
            "warn",
            "bucket",
            f"{source} has no floor key",
            why,
            "Publish: internal-dns publish --to URL",
        )
    return Symptom("ok", "bucket", f"{source} has revision {found.last}, {found.keys:,} keys")
