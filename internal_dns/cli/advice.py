"""What `dig` says after a reply that is no answer: why in a few words, and what to do next."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from internal_dns.core.wire import Ede, Rcode

if TYPE_CHECKING:
    import dns.message

    from internal_dns.cli.servers import Asked, NoReply


def about_reply(asked: Asked, name: str, who: str | None) -> str:
    """Return one line for the person who asked, empty when the reply needs none."""
    import dns.flags

    reply = asked.reply
    ours = bool(reply.flags & dns.flags.AA)
    match reply.rcode():
        case Rcode.REFUSED:
            return _refused(asked, _ede_codes(reply), who)
        case Rcode.NXDOMAIN if ours:
            # A mapped source has no name that `explain` would take; it answers as the first network.
            whom = who or (str(asked.source) if str(asked.source).startswith("fd") else "")
            whom = f" --as {whom}" if whom else ""
            return f"no such name in this network; internal-dns explain{whom} {name}"
        case Rcode.NXDOMAIN:
            return f"an upstream says that there is no such name; internal-dns explain {name}"
        case Rcode.SERVFAIL:
            return "the reason is above, if the server gave one; internal-dns doctor looks for it"
        case Rcode.NOERROR if not reply.answer and len(reply.question[0].name.labels) == 2:
            label = name.rstrip(".")
            return f"a name of one label is not forwarded; try {label}.internal"
    return ""


def _refused(asked: Asked, codes: list[int], who: str | None) -> str:
    if Ede.NOT_AUTHORITATIVE in codes:
        return "this server does not forward; `serve --upstream ADDRESS` makes it"
    if who:
        return f"{who} is no network of this catalog; internal-dns network list"
    # An outsider's reply is no longer than its query, so the EDE is often left out.
    source = asked.source
    return (
        f"{source} is in no network of the catalog; ask from an address of one with -b ADDRESS, "
        f"or map it: serve --map-source {source}/{source.max_prefixlen}=NETWORK"
    )


def _ede_codes(reply: dns.message.Message) -> list[int]:
    return [int(getattr(option, "code", 0)) for option in reply.options if option.otype == 15]


def about_silence(error: NoReply, *, timeout: float, tcp: bool) -> tuple[str, str]:
    """Return why nobody answered, and what to do."""
    transport = "TCP" if tcp else "UDP"
    start = "Start it with `internal-dns dev`, or name another with --server"
    if isinstance(error.error, ConnectionRefusedError):
        return f"nothing listens on that {transport} port", start
    if isinstance(error.error, OSError) and not isinstance(error.error, TimeoutError):
        return error.error.strerror or str(error), start
    return (
        f"nothing came back over {transport} within {timeout:g} s, and no error either",
        "The query or its reply is dropped on the way (a firewall, a missing route back), or the "
        "server drops it: internal_dns_drops_total says why; `internal-dns doctor` looks at the "
        "host",
    )


def about_source(error: OSError) -> tuple[str, str]:
    """Return why an address cannot be asked from, and what to do."""
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            "it is no address of this host",
            "Ask on the machine itself, or in `internal-dns dev --netns`; a server in dev mode "
            "also takes --as ADDRESS",
        )
    return error.strerror or str(error), "Name an address of the same family as the server's"
