"""doctor: look at this host for what would keep the server from running well, and say what, why and
what to do."""

from __future__ import annotations

import asyncio
import platform
import socket
import sqlite3
from collections.abc import (
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from internal_dns.cli.routes import ROUTES, covers, is_local, local_routes
from internal_dns.cli.servers import Asked, NoReply, Running, ask, meant_for, running
from internal_dns.cli.words import FINDING, json_option, paint, print_json
from internal_dns.core.wire import Rcode
from internal_dns.errors import OperatorError
from internal_dns.store.rows import shown
from internal_dns.text import printable_text

if TYPE_CHECKING:
    from internal_dns.config import Settings
    from internal_dns.core.catalog import Catalog
    from internal_dns.errors import OperatorError
    from internal_dns.forward.forwarder import Forwarder
    from internal_dns.forward.upstreams import Upstream
    from internal_dns.net import Endpoint
    from internal_dns.replicate.logic import Facts
    from internal_dns.replicate.source import Source

WAL_RESET_FIXED: Final = (3, 51, 3)
_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}
_REAL_NAME: Final = "example.com."  # RFC 2606: it is there, and nobody's
_UNWELL: Final = (Rcode.SERVFAIL, Rcode.REFUSED)
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

    It asks each upstream two names, and nothing else of the network.
    """
    ports = {"listen": listen, "upstream": upstream, "admin": admin, "console": console}
    found = list(_symptoms({**ports, "catalog": catalog}, config, server))
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


def queues(server: Running, workers: int) -> Iterator[Symptom]:
    """Say which addresses have fewer UDP sockets than the native path needs."""
    for endpoint, flows in zip(server.listen, server.flows or (), strict=False):
        if flows == 0:
            yield Symptom(
                "warn",
                "queues",
                f"{endpoint} has no eight UDP sockets with SO_REUSEPORT",
                "a network that floods the server crowds out the queries of all others",
                f"Write ListenDatagram={endpoint} {8 * workers} times and ReusePort=yes in the "
                ".socket unit (deploy/internal-dns.socket), then restart it",
            )
        elif flows < workers:
            yield Symptom(
                "warn",
                "queues",
                f"{endpoint} has {8 * flows} UDP sockets for {workers} workers",
                f"one network has at most {flows} of the workers",
                f"Write ListenDatagram={endpoint} {8 * workers} times in the .socket unit, then "
                "restart it",
            )


def _demo() -> str | None:
    """The demo's catalog where there is one, as for the other commands; None: what the settings
    say."""
    return "demo/catalog.db" if Path("demo/catalog.db").exists() else None


def _symptoms(flags: dict[str, Any], config: Path | None, server: str | None) -> Iterator[Symptom]:
    from internal_dns.config import ConfigurationError, find_misspelled, load_settings

    yield from _programs()
    yield _ipv6()
    for words in find_misspelled():
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
        if settings.origin["catalog"] == "default" and (demo := _demo()):
            settings = load_settings({**flags, "catalog": demo}, file=config)
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
    found = running(settings.catalog)
    yield from _ports(settings, found)
    yield from _upstreams(settings)
    catalog = yield from _catalog(settings)
    if catalog is not None:
        yield from routes(settings.listen, catalog, settings.prefix, ROUTES)
    yield from _replica(settings)
    if found:
        where = ", ".join(map(str, found.listen))
        yield Symptom("ok", "server", f"one of this catalog runs, on {where}")
        yield from queues(found, settings.workers)
    if server or found:
        try:
            endpoint = meant_for(server, settings, settings.catalog)[0]
        except OperatorError as error:
            yield Symptom("fail", error.what, error.why, "it is no address", error.do)
            return
        yield from _cross_check(endpoint, settings, catalog)


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


def _ports(settings: Settings, found: Running | None) -> Iterator[Symptom]:
    """Yield whether each port of `serve` is free, or taken by the running server of this
    catalog."""
    from internal_dns.service.errors import cannot_listen, cannot_open

    both = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
    for endpoint in settings.listen:
        yield _port(
            "listen", endpoint, both, _has(found, endpoint), partial(cannot_listen, endpoint)
        )
    for setting, one in (("admin", settings.admin), ("console", settings.console)):
        if one:
            mine = found is not None and getattr(found, setting) == one
            reason = partial(cannot_open, setting, one)
            yield _port(setting, one, (socket.SOCK_STREAM,), mine, reason)


def _has(found: Running | None, endpoint: Endpoint) -> bool:
    """Whether the running server listens where *endpoint* would."""
    return found is not None and any(
        e.port == endpoint.port and (e == endpoint or e.wildcard or endpoint.wildcard)
        for e in found.listen
    )


def _port(
    setting: str,
    endpoint: Endpoint,
    kinds: Iterable[socket.SocketKind],
    mine: bool,
    reason: Callable[[OSError], OperatorError],
) -> Symptom:
    """Whether *endpoint* is free; *mine*: the running server of this catalog has it."""
    import errno

    from internal_dns.transport.listen.sockets import bind

    what = f"{setting} {endpoint}"
    try:
        for kind in kinds:
            bind(endpoint, kind).close()
    except OSError as error:
        if mine and error.errno == errno.EADDRINUSE:
            return Symptom("ok", what, "taken by the running server of this catalog")
        told = reason(error)
        return Symptom("fail", what, told.why, "`serve` could not listen there", told.do)
    return Symptom("ok", what, "free")


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
        if not any(covers(route, address) for route in local)
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
    questions = {
        upstream: ".".join(label.decode() for label in suffix) + "."
        for suffix, rule in settings.forward.items()
        for upstream in rule.upstreams
    } | dict.fromkeys(used, _REAL_NAME)
    yield from asyncio.run(_probe_all(questions, settings))


async def _probe_all(names: Mapping[Upstream, str], settings: Settings) -> list[Symptom]:
    return await asyncio.gather(
        *(_probe(upstream, names[upstream], settings) for upstream in sorted(names, key=str))
    )


async def _probe(upstream: Upstream, name: str, settings: Settings) -> Symptom:
    """Ask an upstream for the name servers of the root and for a real name, by the server's own
    forwarder.

    Any RCODE but SERVFAIL and REFUSED shows that it answers. The root alone does not: some resolvers
    refuse it, and some that reach nobody have it built in.
    """
    from internal_dns.forward.forwarder import Forwarder
    from internal_dns.metrics import Metrics

    what = f"upstream {upstream}"
    try:
        forwarder = Forwarder((upstream,), Metrics(), settings.prefix, ca=settings.upstream_ca)
    except (ImportError, OSError) as error:
        why = "`serve` exits 78 with it"
        return Symptom(
            "fail", what, str(error), why, "In the checkout: pip install '.[doh]'; or upstream_ca"
        )
    start = asyncio.get_running_loop().time()
    qtype = "A" if name == _REAL_NAME else "SOA"
    try:
        real, says = await _rcode_of(forwarder, name, qtype)
        took = (asyncio.get_running_loop().time() - start) * 1000
        root, _ = await _rcode_of(forwarder, ".", "NS")
    finally:
        await forwarder.close()
    if real not in _UNWELL:
        refused = "" if root not in _UNWELL else f"; it refuses `. NS` ({Rcode(root).name})"
        return Symptom("ok", what, f"answers {name} with {says} in {took:.0f} ms{refused}")
    if root not in _UNWELL:
        return Symptom(
            "warn",
            what,
            f"reachable, but {name} {qtype} gets {says}",
            "it answers `. NS`, which it may have built in",
            f"Can it reach others? dig @{upstream.endpoint.host} {name} {qtype}",
        )
    return Symptom(
        "fail",
        what,
        says,
        "external names sent there get SERVFAIL, or wait for the next upstream",
        "Is it up, and do routes and firewall let its port pass, UDP and TCP? Else name another "
        "with --upstream",
    )


async def _rcode_of(forwarder: Forwarder, name: str, qtype: str) -> tuple[int, str]:
    """Ask, and return the RCODE and its words, with the reasons that came."""
    import dns.message
    import dns.rcode

    from internal_dns.core.catalog import NetworkId
    from internal_dns.core.journey import Forward
    from internal_dns.core.message import ReplyOptions
    from internal_dns.core.wire import Query, read_query

    query = read_query(dns.message.make_query(name, qtype, use_edns=0).to_wire())
    assert isinstance(query, Query)
    asked = Forward(query, ReplyOptions(4_096, True), NetworkId(0))
    reply = dns.message.from_wire(await _all_of(forwarder.answer(asked, bytes(16))))
    reasons = [str(option) for option in reply.options if option.otype == 15]
    return int(reply.rcode()), ", ".join([dns.rcode.to_text(reply.rcode()), *reasons])


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


def _cross_check(
    endpoint: Endpoint, settings: Settings, catalog: Catalog | None
) -> Iterator[Symptom]:
    """Let dnspython and dnslib, which share no code with us or each other, read the same
    replies."""
    where, source = endpoint, None
    for name, qtype in (
        ("internal.", "SOA"),
        ("_dns.internal.", "AAAA"),
        ("_apps.internal.", "TXT"),
    ):
        asked = _asked(where, source, name, qtype)
        if isinstance(asked, Asked) and asked.rcode == Rcode.REFUSED and source is None:
            source = _own_source(catalog)
            if source is not None:
                where = _inside(endpoint, settings.prefix)
                asked = _asked(where, source, name, qtype)
        if not isinstance(asked, Asked):
            why = f"{where} was asked for it over UDP"
            yield Symptom("fail", f"answer {name}", asked, why, "Is the server running there?")
            return
        yield _judged(asked, name)
        if asked.rcode == Rcode.REFUSED:
            return  # and so are the others


def _asked(endpoint: Endpoint, source: IPv6Address | None, name: str, qtype: str) -> Asked | str:
    """Ask for *name*; the error's words when there is no reply."""
    import dns.message

    try:
        query = dns.message.make_query(name, qtype, use_edns=0)
        return ask(query, endpoint, source=source, timeout=2)
    except NoReply as error:
        refused = isinstance(error.error, ConnectionRefusedError)
        return "nothing listens there" if refused else str(error)
    except OSError as error:
        return error.strerror or str(error)


def _judged(asked: Asked, name: str) -> Symptom:
    """Say whether a reply is sound: its RCODE, and whether a second library reads the same."""
    import dns.rcode
    import dnslib

    reply, what = asked.reply, f"answer {name}"
    rcode = dns.rcode.to_text(reply.rcode())
    if asked.rcode == Rcode.REFUSED:
        source = asked.source
        return Symptom(
            "warn",
            what,
            f"REFUSED to {source}",
            "that address is in no network: the reply shows that something listens, not that it "
            "answers",
            "Ask from a machine or peer: internal-dns dig -b ADDRESS _apps.internal; or map this "
            f"host: serve --map-source {source}/{source.max_prefixlen}=NETWORK",
        )
    if asked.rcode != Rcode.NOERROR:
        why = "this name is answered by every server that has its catalog"
        do = "See the server's log, and `internal-dns health`"
        return Symptom("fail", what, f"{rcode} to {asked.source}", why, do)
    try:
        second = dnslib.DNSRecord.parse(reply.wire)
    except Exception as error:  # dnslib lets whatever its parser meets escape
        do = f"Please report it with the reply: {(reply.wire or b'').hex()}"
        return Symptom(
            "fail", what, str(error) or type(error).__name__, "dnslib cannot read it", do
        )
    if second.header.rcode == reply.rcode() and len(second.rr) == sum(map(len, reply.answer)):
        says = f"{rcode}, {len(second.rr)} records; dnspython and dnslib agree"
        return Symptom("ok", what, says)
    why = f"dnslib reads rcode {second.header.rcode} and {len(second.rr)} records where dnspython differs"
    do = f"Please report it with the reply: {(reply.wire or b'').hex()}"
    return Symptom("fail", what, f"{rcode}, {len(second.rr)} records", why, do)


def _own_source(catalog: Catalog | None) -> IPv6Address | None:
    """An address of this host that is in a network of the catalog: the server's own in it."""
    for network in catalog.networks.values() if catalog else ():
        address = IPv6Address(network.server_address)
        if is_local(address):
            return address
    return None


def _inside(endpoint: Endpoint, prefix: bytes) -> Endpoint:
    """Where a source of the prefix asks the server that listens on *endpoint*."""
    everyone = IPv6Address(prefix + bytes(13) + b"\3")
    reached_by_wildcard = endpoint.host == IPv6Address("::1") and is_local(everyone)
    return replace(endpoint, host=everyone) if reached_by_wildcard else endpoint


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
