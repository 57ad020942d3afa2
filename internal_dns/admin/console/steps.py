"""One question, asked as anyone, and its journey: what the page draws. Nothing leaves the
process."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv6Address
from struct import pack, unpack_from
from typing import Any, Final

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from internal_dns.admin.asking import ADVERTISED, NotAQuestion, query_for
from internal_dns.core import names
from internal_dns.core.catalog import Catalog
from internal_dns.core.explain import Explanation, Verdict, explain
from internal_dns.core.journey import Forward, Rules, identify
from internal_dns.core.requester import Requester
from internal_dns.core.resolve import asked_in, depends_on, our_zone
from internal_dns.core.wire import HEADER, MAX_MESSAGE, Query, read_query

# machines a question may concern: sorting more holds the interpreter, and so the answers
LARGEST: Final = 20_000
JUDGED: Final = 2_000  # of them, those a page tells the reasons of
SHOWN: Final = 200  # of them, and of the reply's records
TYPES: Final = ("AAAA", "TXT", "SRV", "PTR", "SOA", "NS", "A", "MX", "ANY")
TRANSPORTS: Final = {"udp": "UDP, 1,232 octets", "udp8192": "UDP, 8,192 octets", "tcp": "TCP"}
_LOOPBACK: Final = bytes(15) + b"\1"
_EVERYONES: Final = bytes(16)  # no address of the prefix: every network may ask there


@dataclass(frozen=True, slots=True)
class Question:
    """What was typed in. An empty type is the one that the name usually has."""

    name: str
    type: str = ""
    who: str = ""
    by: str = "udp"
    rotation: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the reply."""

    name: str
    ttl: int
    type: str
    data: str


def journey(question: Question, catalog: Catalog, rules: Rules) -> dict[str, Any]:
    """Return what happens to *question*, step by step. Raises NotAQuestion, also where it would
    take too long."""
    size = 8_192 if question.by == "udp8192" else ADVERTISED
    tcp, source, said = question.by == "tcp", _LOOPBACK, question.who or None
    with suppress(AddressValueError):
        source, said = IPv6Address(question.who).packed, None
    query = query_for(question.name, question.type or None, said, rules.prefix, size)
    # Whom to ask as travels in the option of dev mode, as with `internal-dns explain`; an address
    # simply asks.
    octets, rules = query.to_wire(), replace(rules, dev=True, echo=False)
    if (machines := concerned(octets, source, catalog, rules)) > LARGEST:
        raise NotAQuestion(
            f"{question.name} is not explained here",
            f"it concerns {machines:,} machines, and more than {LARGEST:,} would hold up answers",
            "Run `internal-dns explain`, which is a process of its own",
        )
    story = explain(
        octets,
        source,
        _EVERYONES,
        catalog,
        rules,
        rotation=question.rotation,
        stream=tcp,
        at_most=JUDGED,
    )
    asked = query.question[0]
    labels = [names.printable(label) for label in asked.name.labels[:-1]]
    limit = MAX_MESSAGE if tcp else min(size, rules.udp_limit)
    return {
        "steps": {title: _sentence(says) for title, says in story.steps},
        "suggested": suggested(story),
        "labels": labels,
        "type": dns.rdatatype.to_text(asked.rdtype),
        "forwarded": isinstance(story.outcome, Forward),
        "machines": _machines(story),
        "reply": _reply(story.octets, limit) if story.octets else None,
    }


def concerned(octets: bytes, source: bytes, catalog: Catalog, rules: Rules) -> int:
    """Return how many machines the answer to a question is made from, at most."""
    query = read_query(octets)
    zone = our_zone(query.labels, rules.prefix) if isinstance(query, Query) else None
    if not isinstance(query, Query) or zone is None:
        return 0
    who = identify(query, source, _EVERYONES, catalog, rules)
    if not isinstance(who, Requester):
        return 0
    asked = asked_in(zone, query.labels, rules.prefix)
    if (label := depends_on(asked)) is not None:
        found = who.network.apps.get(label)
        return len(found.machines) if found else 0
    if isinstance(
        asked.of if isinstance(asked, names.Page) else asked, names.Instances | names.Reverse
    ):
        return sum(len(app.machines) for app in who.network.apps.values())
    return 0


def suggested(story: Explanation) -> list[str]:
    """The names that a step recommends instead of one without an answer."""
    steps = dict(story.steps)
    names = re.findall(r"try (\S+)$", steps.get("hint", ""))
    _, _, near = steps.get("apps", "").partition("similar: ")
    return names or [f"{app}.internal" for app in near.split(", ") if app]


def _sentence(says: str) -> str:
    """A step's words for a page: no Markdown, and no loopback that only stands for whom one asks
    as."""
    says = re.sub(r"^::1 is (.*), by dev mode: .*", r"\1, as asked", says).replace("`", "")
    return says[:1].upper() + says[1:]


def _machines(story: Explanation) -> dict[str, Any]:
    """The machines that were considered, those of the answer first."""
    found = sorted(
        story.machines, key=lambda verdict: bool(verdict.why)
    )  # stable: nearest stay nearest first
    inside = sum(not verdict.why for verdict in found)
    reasons: dict[str, int] = {}
    for verdict in found[inside:]:
        reasons[verdict.why] = reasons.get(verdict.why, 0) + 1
    return {
        "shown": _both(found, inside),
        "inside": inside,
        "outside": len(found) - inside,
        "judged": len(found),
        "of": story.total,
        "reasons": sorted(reasons.items(), key=lambda item: (-item[1], item[0])),
        "distances": any(verdict.distance for verdict in found),
    }


def _both(found: list[Verdict], inside: int) -> list[Verdict]:
    """Return at most SHOWN: of those in and of those out at least a quarter, if there are as
    many."""
    first = min(inside, max(SHOWN - (len(found) - inside), SHOWN * 3 // 4))
    return [*found[:first], *found[inside : inside + SHOWN - first]]


def _reply(octets: bytes, limit: int) -> dict[str, Any]:
    shown, answers = with_few_answers(octets, SHOWN)
    reply = dns.message.from_wire(shown, one_rr_per_rrset=True)
    sections = (
        ("Answer", reply.answer, answers),
        ("Authority", reply.authority, len(reply.authority)),
        ("Additional", reply.additional, len(reply.additional)),
    )
    return {
        "rcode": dns.rcode.to_text(reply.rcode()),
        "flags": dns.flags.to_text(reply.flags).lower().split(),
        "truncated": bool(reply.flags & dns.flags.TC),
        "octets": len(octets),
        "limit": limit,
        "share": round(100 * len(octets) / limit, 1),
        "ttl": min((rrset.ttl for rrset in reply.answer), default=None),
        "answers": answers,
        "reasons": [
            (int(option.code), option.text or "")
            for option in reply.options
            if isinstance(option, dns.edns.EDEOption)
        ],
        "sections": [
            (
                title,
                [
                    Record(
                        str(rrset.name),
                        rrset.ttl,
                        dns.rdatatype.to_text(rrset.rdtype),
                        rrset[0].to_text(),
                    )
                    for rrset in rrsets[:SHOWN]
                ],
                total,
            )
            for title, rrsets, total in sections
            if rrsets
        ],
    }


def with_few_answers(octets: bytes, count: int) -> tuple[bytes, int]:
    """Return the reply with its first *count* answers only, and how many it has: reading all takes
    dnspython 50 µs each.

    It is our own: names are compressed to the question, or not at all (core/message.py).
    """
    total, at = unpack_from("!H", octets, 6)[0], HEADER
    if total <= count:
        return octets, total
    at = _after_name(octets, at) + 4
    kept = at
    for number in range(total):
        if number == count:
            kept = at
        at = _after_name(octets, at)
        at += 10 + unpack_from("!H", octets, at + 8)[0]
    return octets[:6] + pack("!H", count) + octets[8:kept] + octets[at:], total


def _after_name(octets: bytes, at: int) -> int:
    """Return where a name that begins at *at* ends."""
    while 0 < octets[at] < 0xC0:
        at += 1 + octets[at]
    return at + (2 if octets[at] else 1)
