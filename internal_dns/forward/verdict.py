"""What the reply of an upstream is worth: a reply to relay, or why it is rejected. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from internal_dns.core.relayed import Relayed, scrub
from internal_dns.core.wire import TC, BadReply, Rcode, check_reply
from internal_dns.forward.question import Question

# RCODEs after which another upstream may know better.
TRY_ANOTHER: Final = frozenset({Rcode.FORMERR, Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED})
_NO_EDNS: Final = frozenset({Rcode.FORMERR, Rcode.NOTIMP})


class Rejection(Enum):
    """Why a reply is not relayed."""

    TRUNCATED = "TC is set: the whole reply is to be had over TCP"
    NO_EDNS = "the upstream does not know EDNS"
    REFUSED = "another upstream should be queried"
    INJECTED = "it speaks for names or addresses of ours"
    FORGED = "it is broken where somebody who guessed id and letter case may have broken it"
    MALFORMED = "it is broken"


class Sent(NamedTuple):
    """The query that a reply belongs to, as we sent it."""

    ident: bytes
    section: bytes  # letter case included
    edns: bool
    over_udp: bool
    probe: bool  # any reply to it is good unless it is broken


def judge(
    octets: bytes,
    sent: Sent,
    question: Question,
    zones: frozenset[bytes],
    prefix: bytes | None,
) -> tuple[int | None, Relayed | Rejection]:
    """Return the RCODE to count, and what the reply is worth.

    *zones* are our apexes, *prefix* is that of our addresses, None if the upstream may tell them.
    """
    rcode: int | None = None
    try:
        checked = check_reply(octets, sent.ident, sent.section, zones, prefix)
        truncated = bool(checked.flags & TC)
        if truncated and sent.over_udp:
            return None, Rejection.TRUNCATED
        rcode = checked.rcode
        if not sent.probe:
            if sent.edns and rcode in _NO_EDNS and not checked.edns:
                return rcode, Rejection.NO_EDNS
            if rcode >= 16 or rcode in TRY_ANOTHER or truncated:
                return rcode, Rejection.REFUSED
        return rcode, scrub(checked, question.name, question.qtype, dnssec_ok=question.dnssec_ok)
    except BadReply as bad:
        if bad.injected:
            return rcode, Rejection.INJECTED
        if sent.over_udp and not bad.final:
            return rcode, Rejection.FORGED
        return rcode, Rejection.MALFORMED
