"""Check of a running server: dnspython and dnslib read the same in its replies."""

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
    from internal_dns.config import Settings
    from internal_dns.core.catalog import Catalog
    from internal_dns.net import Endpoint


def check_answers(
    endpoint: Endpoint, settings: Settings, catalog: Catalog | None
) -> Iterator[CheckResult]:
    """Let dnspython and dnslib, which share no code with us or each other, read the same
    replies."""
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
            why = f"{where} was asked for it over UDP"
            yield CheckResult("fail", f"answer {name}", asked, why, "Is the server running there?")
            return
        yield _assess(asked, name)
        if asked.rcode == Rcode.REFUSED:
            return  # and so are the others


def _query(endpoint: Endpoint, source: IPv6Address | None, name: str, qtype: str) -> Asked | str:
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


def _assess(asked: Asked, name: str) -> CheckResult:
    """Say whether a reply is sound: its RCODE, and whether a second library reads the same."""
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
            "that address is in no network: the reply shows that something listens, not that it "
            "answers",
            "Ask from a machine or peer: internal-dns dig -b ADDRESS _apps.internal; or map this "
            f"host: serve --map-source {source}/{source.max_prefixlen}=NETWORK",
        )
    if asked.rcode != Rcode.NOERROR:
        why = "this name is answered by every server that has its catalog"
        do = "See the server's log, and `internal-dns health`"
        return CheckResult("fail", what, f"{rcode} to {asked.source}", why, do)
    try:
        second = dnslib.DNSRecord.parse(reply.wire)
    except Exception as error:  # dnslib lets whatever its parser meets escape
        do = f"Please report it with the reply: {(reply.wire or b'').hex()}"
        return CheckResult(
            "fail", what, str(error) or type(error).__name__, "dnslib cannot read it", do
        )
    if second.header.rcode == reply.rcode() and len(second.rr) == sum(map(len, reply.answer)):
        says = f"{rcode}, {len(second.rr)} records; dnspython and dnslib agree"
        return CheckResult("ok", what, says)
    why = f"dnslib reads rcode {second.header.rcode} and {len(second.rr)} records where dnspython differs"
    do = f"Please report it with the reply: {(reply.wire or b'').hex()}"
    return CheckResult("fail", what, f"{rcode}, {len(second.rr)} records", why, do)


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
