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

_REAL_NAME: Final = "example.com."  # RFC 2606: it exists, and is reserved for such use
_FAILURES: Final = (Rcode.SERVFAIL, Rcode.REFUSED)


def check_upstreams(settings: Settings) -> Iterator[CheckResult]:
    """Say which upstreams are used and why, and check that each of them answers."""
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
            yield CheckResult("ok", "upstreams", f"{names}: {RESOLV_CONF} names none")
        elif used == everything:
            yield CheckResult("ok", "upstreams", f"{names}, from {RESOLV_CONF}")
        elif tuple(map(str, used)) == public:
            yield CheckResult(
                "warn",
                "upstreams",
                f"{RESOLV_CONF} names only this server",
                f"the server cannot forward to itself, so it uses public resolvers: {names}",
                "Choose upstreams with --upstream",
            )
        else:
            used_text = f"{names}, from {RESOLV_CONF} without this server"
            yield CheckResult("ok", "upstreams", used_text)
    names_to_query = {
        upstream: ".".join(label.decode() for label in suffix) + "."
        for suffix, rule in settings.forward.items()
        for upstream in rule.upstreams
    } | dict.fromkeys(used, _REAL_NAME)
    yield from asyncio.run(_probe_all(names_to_query, settings))


async def _probe_all(names: Mapping[Upstream, str], settings: Settings) -> list[CheckResult]:
    return await asyncio.gather(
        *(_probe(upstream, names[upstream], settings) for upstream in sorted(names, key=str))
    )


async def _probe(upstream: Upstream, name: str, settings: Settings) -> CheckResult:
    """Query an upstream for *name* and for the NS records of the root, with the server's forwarder.

    Any RCODE except SERVFAIL and REFUSED shows that the upstream answers. The root alone does not:
    some resolvers refuse it, and some have it built in and reach no other server.
    """
    from internal_dns.forward.forwarder import Forwarder
    from internal_dns.metrics import Metrics

    what = f"upstream {upstream}"
    try:
        forwarder = Forwarder((upstream,), Metrics(), settings.prefix, ca=settings.upstream_ca)
    except (ImportError, OSError) as error:
        return CheckResult(
            "fail",
            what,
            str(error),
            "`serve` would exit with status 78",
            "Run pip install '.[doh]' in the checkout, or correct `upstream_ca`",
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
        refused = "" if root not in _FAILURES else f"; refuses `. NS` with {Rcode(root).name}"
        return CheckResult("ok", what, f"answers {name} with {says} in {took:.0f} ms{refused}")
    if root not in _FAILURES:
        return CheckResult(
            "warn",
            what,
            f"reachable, but it answers {name} {qtype} with {says}",
            "it answers `. NS`, which it may have built in, so it may not reach other servers",
            f"Check whether it does: dig @{upstream.endpoint.host} {name} {qtype}",
        )
    return CheckResult(
        "fail",
        what,
        says,
        "queries forwarded there fail, or wait for the next upstream",
        "Check that it runs, and that routes and firewalls pass its port over UDP and TCP; or "
        "name another with --upstream",
    )


async def _rcode_of(forwarder: Forwarder, name: str, qtype: str) -> tuple[int, str]:
    """Query once. Return the RCODE, and its text with the reasons in the reply."""
    import dns.message
    import dns.rcode

    from internal_dns.core.catalog import NetworkId
    from internal_dns.core.journey import Forward
    from internal_dns.core.message import ReplyOptions
    from internal_dns.core.wire import Query, read_query

    query = read_query(dns.message.make_query(name, qtype, use_edns=0).to_wire())
    assert isinstance(query, Query)
    decision = Forward(query, ReplyOptions(4_096, True), NetworkId(0))
    reply = dns.message.from_wire(await _all_of(forwarder.answer(decision, bytes(16))))
    reasons = [str(option) for option in reply.options if option.otype == 15]
    return int(reply.rcode()), ", ".join([dns.rcode.to_text(reply.rcode()), *reasons])


async def _all_of(reply: bytes | Awaitable[bytes]) -> bytes:
    return reply if isinstance(reply, bytes) else await reply
