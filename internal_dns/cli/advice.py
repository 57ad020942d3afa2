"""Advice that `dig` prints after a reply without an answer: the reason, and what to do next."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from internal_dns.core.wire import Ede, Rcode

if TYPE_CHECKING:
    import dns.message

    from internal_dns.cli.servers import Asked, NoReply


def about_reply(asked: Asked, name: str, who: str | None) -> str:
    """Return one line of advice, empty when the reply needs none."""
    import dns.flags

    reply = asked.reply
    ours = bool(reply.flags & dns.flags.AA)
    match reply.rcode():
        case Rcode.REFUSED:
            return _refused(asked, _ede_codes(reply), who)
        case Rcode.NXDOMAIN if ours:
            # `explain` cannot name a mapped source; without --as it takes the first network.
            whom = who or (str(asked.source) if str(asked.source).startswith("fd") else "")
            whom = f" --as {whom}" if whom else ""
            return f"no such name in this network; internal-dns explain{whom} {name}"
        case Rcode.NXDOMAIN:
            return f"an upstream answered that there is no such name; internal-dns explain {name}"
        case Rcode.SERVFAIL:
            return "see the reason above, if any; internal-dns doctor looks for the cause"
        case Rcode.NOERROR if not reply.answer and len(reply.question[0].name.labels) == 2:
            label = name.rstrip(".")
            return f"a name of one label is not forwarded; try {label}.internal"
    return ""


def _refused(asked: Asked, codes: list[int], who: str | None) -> str:
    if Ede.NOT_AUTHORITATIVE in codes:
        return "this server does not forward; start it with `serve --upstream ADDRESS`"
    if who:
        return f"the catalog has no network {who}; see internal-dns network list"
    # A reply to an outsider is not longer than the query, so it often has no EDE.
    source = asked.source
    return (
        f"{source} is in no network of the catalog; query from an address of a network with "
        f"-b ADDRESS, or map it: serve --map-source {source}/{source.max_prefixlen}=NETWORK"
    )


def _ede_codes(reply: dns.message.Message) -> list[int]:
    return [int(getattr(option, "code", 0)) for option in reply.options if option.otype == 15]


def about_silence(error: NoReply, *, timeout: float, tcp: bool) -> tuple[str, str]:
    """Return why there was no reply, and what to do."""
    transport = "TCP" if tcp else "UDP"
    start = "Start a server with `internal-dns dev`, or name another with --server"
    if isinstance(error.error, ConnectionRefusedError):
        return f"nothing listens on that {transport} port", start
    if isinstance(error.error, OSError) and not isinstance(error.error, TimeoutError):
        return error.error.strerror or str(error), start
    return (
        f"neither a reply nor an error arrived over {transport} within {timeout:g} s",
        "The query or the reply is lost on the way (a firewall, a missing route back), or the "
        "server drops the query: internal_dns_drops_total counts the reasons. "
        "`internal-dns doctor` checks the host",
    )


def about_source(error: OSError) -> tuple[str, str]:
    """Return why an address cannot be used as source, and what to do."""
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            "it is not an address of this host",
            "Query on the machine itself, or in `internal-dns dev --netns`. A server in dev mode "
            "also accepts --as ADDRESS",
        )
    return error.strerror or str(error), "Use an address of the same family as the server's"
