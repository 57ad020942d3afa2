"""Queries as people write them, and replies as people and programs read them."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Final

from internal_dns.core import names
from internal_dns.core.catalog_rules import DEFAULT_RULES
from internal_dns.core.wire import ASK_AS, MAX_ASK_AS

if TYPE_CHECKING:
    import dns.message

PREFIX: Final = DEFAULT_RULES.prefix  # the default, for a server with unknown settings
ADVERTISED: Final = 1_232


class InvalidQuestion(ValueError):
    """A question that cannot be asked: what is wrong, why, and what to do."""

    def __init__(self, what: str, why: str, do: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what, self.why, self.do = what, why, do


def usual_type(name: str, prefix: bytes = PREFIX) -> str:
    """Return the usual type of a name: TXT for lists, SRV for services, PTR for reverse names, SOA
    for apexes, else AAAA."""
    # Imported late: it is most of the server's logic, and a given TYPE needs none of it.
    from internal_dns.core.resolve import asked_in, our_zone

    labels = tuple(label.lower().encode() for label in name.rstrip(".").split(".") if label)
    zone = our_zone(labels, prefix)
    match asked_in(zone, labels, prefix) if zone else None:
        case (
            names.Apps()
            | names.Instances()
            | names.Peers()
            | names.Regions()
            | names.Machines()
            | names.WhoAmI()
        ):
            return "TXT"
        case names.Page(
            names.Apps() | names.Instances() | names.Peers() | names.Regions() | names.Machines()
        ):
            return "TXT"
        case names.Services():
            return "SRV"
        case names.Reverse():
            return "PTR"
        case names.Apex():
            return "SOA"
    return "AAAA"


def query_for(
    name: str, qtype: str | None, who: str | None, prefix: bytes = PREFIX, size: int = ADVERTISED
) -> dns.message.QueryMessage:
    """Return a query for *name* from the client *who*, with *size* as its UDP payload size.

    Raises InvalidQuestion.
    """
    import dns.edns
    import dns.exception
    import dns.message
    import dns.rdatatype
    import dns.reversename

    if who is not None and (not who.isascii() or not 0 < len(who) <= MAX_ASK_AS):
        raise InvalidQuestion(
            f"--as {who!r}",
            f"it is not 1 to {MAX_ASK_AS} ASCII characters",
            "Use NETWORK, NETWORK/REGION or an address",
        )
    options: list[dns.edns.Option] = []
    if who:
        options.append(dns.edns.GenericOption(dns.edns.OptionType.make(ASK_AS), who.encode()))
    try:
        if qtype is None and (":" in name or _is_ipv4(name)):
            name, qtype = dns.reversename.from_address(name).to_text(), "PTR"
        rdtype = dns.rdatatype.from_text(qtype or usual_type(name, prefix))
        return dns.message.make_query(name, rdtype, use_edns=0, payload=size, options=options)
    except (dns.exception.DNSException, ValueError) as error:
        what = f"cannot query {name} {qtype or ''}".rstrip()
        raise InvalidQuestion(what, str(error), "Check the spelling of name and type") from error


def _is_ipv4(name: str) -> bool:
    try:
        IPv4Address(name)
    except ValueError:
        return False
    return True


def reply_value(reply: dns.message.Message) -> dict[str, Any]:
    """Return a reply as JSON has it."""
    import dns.flags
    import dns.rcode

    sections = {
        "answer": reply.answer,
        "authority": reply.authority,
        "additional": reply.additional,
    }
    return {
        "rcode": dns.rcode.to_text(reply.rcode()),
        "flags": dns.flags.to_text(reply.flags).lower().split(),
        **{
            name: [line for rrset in rrsets for line in rrset.to_text().splitlines()]
            for name, rrsets in sections.items()
        },
        "reasons": [str(option) for option in reply.options if option.otype == 15],
    }
