"""Check of a running server: dnspython and dnslib read its replies alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from internal_dns.cli.doctor.result import CheckResult
from internal_dns.cli.routes import is_local
from internal_dns.cli.servers import Asked, NoReply, ask
from internal_dns.core.wire import Rcode

if TYPE_CHECKING:
    import dns.message

    from internal_dns.config import Settings
    from internal_dns.core.catalog import Catalog
    from internal_dns.net import Endpoint


def check_answers(
    endpoint: Endpoint, settings: Settings, catalog: Catalog | None
) -> Iterator[CheckResult]:
    """Query a running server; dnspython and dnslib must read its replies alike.

    The two libraries share no code with the server or with each other.
    """
    where, source = endpoint, None
    for name, qtype in (
        ("internal.", "SOA"),
        ("_dns.internal.", "AAAA"),
        ("_apps.internal.", "TXT"),
    ):
        asked = _query(where, source, name, qtype)
        if isinstance(asked, Asked) and asked.rcode == Rcode.REFUSED and source is None:
            source = _own_source(catalog)
            if source is not None:
                where = _inside(endpoint, settings.prefix)
                asked = _query(where, source, name, qtype)
        if not isinstance(asked, Asked):
            why = f"{where} did not answer a query over UDP"
            do = "Check that the server runs there"
            yield CheckResult("fail", f"answer {name}", asked, why, do)
            return
        yield _assess(asked, name)
        if asked.rcode == Rcode.REFUSED:
            return  # the other queries would be refused too


def _query(endpoint: Endpoint, source: IPv6Address | None, name: str, qtype: str) -> Asked | str:
    """Query for *name*. Return the reply, or the text of the error."""
    import dns.message

    try:
        query = dns.message.make_query(name, qtype, use_edns=0)
        return ask(query, endpoint, source=source, timeout=2)
    except NoReply as error:
        refused = isinstance(error.error, ConnectionRefusedError)
        return "nothing listens there" if refused else str(error)
    except OSError as error:
        return error.strerror or str(error)


def _assess(asked: Asked, name: str) -> CheckResult:
    """Judge a reply by its RCODE, and by whether dnslib reads it as dnspython does."""
    import dns.rcode
    import dnslib

    reply, what = asked.reply, f"answer {name}"
    rcode = dns.rcode.to_text(reply.rcode())
    if asked.rcode == Rcode.REFUSED:
        source = asked.source
        return CheckResult(
            "warn",
            what,
            f"REFUSED to {source}",
            "that address is in no network, so the reply shows only that a server listens",
            "Query from the address of a machine or peer: internal-dns dig -b ADDRESS "
            "_apps.internal; or map this host: "
            f"serve --map-source {source}/{source.max_prefixlen}=NETWORK",
        )
    if asked.rcode != Rcode.NOERROR:
        why = "a server with a catalog answers this name with NOERROR"
        do = "See the server's log, and run internal-dns health"
        return CheckResult("fail", what, f"{rcode} to {asked.source}", why, do)
    try:
        second = dnslib.DNSRecord.parse(reply.wire)
    except Exception as error:  # The parser of dnslib raises any kind of exception.
        says = str(error) or type(error).__name__
        return CheckResult("fail", what, says, "dnslib cannot read the reply", _report(reply))
    if second.header.rcode == reply.rcode() and len(second.rr) == sum(map(len, reply.answer)):
        says = f"{rcode}, {len(second.rr)} records; dnspython and dnslib agree"
        return CheckResult("ok", what, says)
    answers = sum(map(len, reply.answer))
    why = f"dnslib reads RCODE {second.header.rcode} and {len(second.rr)} records"
    return CheckResult("fail", what, f"{rcode}, {answers} records", why, _report(reply))


def _report(reply: dns.message.Message) -> str:
    return f"Please report this with the reply: {(reply.wire or b'').hex()}"


def _own_source(catalog: Catalog | None) -> IPv6Address | None:
    """Return the server's own address in a network of the catalog, if it is local to this host."""
    for network in catalog.networks.values() if catalog else ():
        address = IPv6Address(network.server_address)
        if is_local(address):
            return address
    return None


def _inside(endpoint: Endpoint, prefix: bytes) -> Endpoint:
    """Return the address at which a source in the prefix reaches the server on *endpoint*."""
    shared = IPv6Address(prefix + bytes(13) + b"\3")
    reached_by_wildcard = endpoint.host == IPv6Address("::1") and is_local(shared)
    return replace(endpoint, host=shared) if reached_by_wildcard else endpoint
