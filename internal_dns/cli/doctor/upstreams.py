"""Checks of the upstreams: which are used and why, and whether each answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from internal_dns.cli.doctor.result import CheckResult
from internal_dns.core.wire import Rcode

if TYPE_CHECKING:
    from internal_dns.config import Settings
    from internal_dns.forward.forwarder import Forwarder
    from internal_dns.forward.upstreams import Upstream

_REAL_NAME: Final = "example.com."  # RFC 2606: it is there, and nobody's
_FAILURES: Final = (Rcode.SERVFAIL, Rcode.REFUSED)


def check_upstreams(settings: Settings) -> Iterator[CheckResult]:
    from internal_dns.forward.upstreams import PUBLIC, RESOLV_CONF, from_resolv_conf

    if settings.upstream:
        used = tuple(upstream for upstream in settings.upstream if upstream)
        yield CheckResult(
            "ok", "upstreams", ", ".join(map(str, used)) or "none: external names are refused"
        )
    else:
        used, everything = (
            from_resolv_conf(settings.is_own),
            from_resolv_conf(lambda endpoint: False),
        )
        names, public = ", ".join(map(str, used)), tuple(f"{url}:53" for url in PUBLIC)
        if tuple(map(str, everything)) == public:
            yield CheckResult("ok", "upstreams", f"{names}: {RESOLV_CONF} names no other")
        elif used == everything:
            yield CheckResult("ok", "upstreams", f"{names}, of {RESOLV_CONF}")
        elif tuple(map(str, used)) == public:
            yield CheckResult(
                "warn",
                "upstreams",
                f"{RESOLV_CONF} names this server alone",
                f"a question must not go round in a circle, so public resolvers are asked: {names}",
                "Name the upstreams you want with --upstream",
            )
        else:
            yield CheckResult(
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


async def _probe_all(names: Mapping[Upstream, str], settings: Settings) -> list[CheckResult]:
    return await asyncio.gather(
        *(_probe(upstream, names[upstream], settings) for upstream in sorted(names, key=str))
    )


async def _probe(upstream: Upstream, name: str, settings: Settings) -> CheckResult:
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
        return CheckResult(
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
    if real not in _FAILURES:
        refused = "" if root not in _FAILURES else f"; it refuses `. NS` ({Rcode(root).name})"
        return CheckResult("ok", what, f"answers {name} with {says} in {took:.0f} ms{refused}")
    if root not in _FAILURES:
        return CheckResult(
            "warn",
            what,
            f"reachable, but {name} {qtype} gets {says}",
            "it answers `. NS`, which it may have built in",
            f"Can it reach others? dig @{upstream.endpoint.host} {name} {qtype}",
        )
    return CheckResult(
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
