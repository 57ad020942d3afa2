"""The page that explains one query from any client, step by step. Nothing leaves the process."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from ipaddress import AddressValueError, IPv6Address
from itertools import islice
from struct import pack, unpack_from
from typing import Any, Final

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from internal_dns.admin.presentation import ADVERTISED, InvalidQuestion, query_for
from internal_dns.core import names
from internal_dns.core.catalog import Catalog
from internal_dns.core.explain import Explanation, Verdict, explain
from internal_dns.core.journey import Forward, Rules, identify
from internal_dns.core.lookup import NoSuchName, View
from internal_dns.core.requester import Requester
from internal_dns.core.resolve import asked_in, depends_on, our_zone, walk, zone_for
from internal_dns.core.wire import HEADER, MAX_MESSAGE, Query, Type, read_query
from internal_dns.store.presentation import name_text

# Machines that an explained answer may be made from. Sorting more would hold the interpreter, and
# thereby delay answers.
MAX_MACHINES: Final = 20_000
MAX_JUDGED: Final = 2_000  # machines that get a reason each
COMPARED: Final = 5_000  # names of records that are compared with a misspelled one
SHOWN: Final = 200  # machines shown, and records of the reply
TYPES: Final = tuple("AAAA TXT SRV PTR SOA NS A CNAME MX HTTPS SVCB CAA ANY".split())
TRANSPORTS: Final = {"udp": "UDP, 1,232 octets", "udp8192": "UDP, 8,192 octets", "tcp": "TCP"}
_LOOPBACK: Final = bytes(15) + b"\1"
_DESTINATION: Final = bytes(16)  # outside the prefix, so every network may query it


@dataclass(frozen=True, slots=True)
class Question:
    """The form as submitted. An empty type stands for the usual type of the name."""

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
    """Return how the server answers *question*, step by step.

    Raises InvalidQuestion, also if the explanation would take too long.
    """
    size = 8_192 if question.by == "udp8192" else ADVERTISED
    tcp, source, ask_as = question.by == "tcp", _LOOPBACK, question.who or None
    with suppress(AddressValueError):
        source, ask_as = IPv6Address(question.who).packed, None
    query = query_for(question.name, question.type or None, ask_as, rules.prefix, size)
    # A network goes into the EDNS option of dev mode, as with `internal-dns explain`; an address
    # becomes the source.
    octets, rules = query.to_wire(), replace(rules, dev=True, echo=False)
    if (machines := count_machines(octets, source, catalog, rules)) > MAX_MACHINES:
        raise InvalidQuestion(
            f"{question.name} cannot be explained here",
            f"its answer is made from {machines:,} machines; more than {MAX_MACHINES:,} would "
            "delay other answers",
            "Run `internal-dns explain`, which runs in a separate process",
        )
    story = explain(
        octets,
        source,
        _DESTINATION,
        catalog,
        rules,
        rotation=question.rotation,
        stream=tcp,
        at_most=MAX_JUDGED,
    )
    asked = query.question[0]
    labels = [names.printable(label) for label in asked.name.labels[:-1]]
    limit = MAX_MESSAGE if tcp else min(size, rules.udp_limit)
    return {
        "steps": {title: _sentence(says) for title, says in story.steps},
        "aliases": [f"An alias {says}" for title, says in story.steps if title == "alias"],
        "suggested": suggest_names(story) or _similar_records(octets, source, catalog, rules),
        "labels": labels,
        "type": dns.rdatatype.to_text(asked.rdtype),
        "forwarded": isinstance(story.outcome, Forward),
        "machines": _machines(story),
        "reply": _reply(story.octets, limit) if story.octets else None,
    }


def count_machines(octets: bytes, source: bytes, catalog: Catalog, rules: Rules) -> int:
    """Return the number of machines, at most, from which the answer is made."""
    query = read_query(octets)
    if not isinstance(query, Query):
        return 0
    who = identify(query, source, _DESTINATION, catalog, rules)
    if not isinstance(who, Requester):
        return 0
    labels = _last_name(query, who, catalog, rules)
    zone = our_zone(labels, rules.prefix)
    if zone is None:
        return 0
    asked = asked_in(zone, labels, rules.prefix)
    if (label := depends_on(asked)) is not None:
        found = who.network.apps.get(label)
        return len(found.machines) if found else 0
    if isinstance(
        asked.of if isinstance(asked, names.Page) else asked, names.Instances | names.Reverse
    ):
        return sum(len(app.machines) for app in who.network.apps.values())
    return 0


def _last_name(query: Query, who: Requester, catalog: Catalog, rules: Rules) -> names.Labels:
    """Return the name that aliases lead to; the name itself when it is none."""
    network = who.network
    if not network.records or zone_for(query.labels, network, rules.prefix) is None:
        return query.labels
    way = walk(query.labels, View(who, catalog, qtype=Type.CNAME), rules.prefix)
    if way.steps and not way.steps[0].by:
        return query.labels
    return walk(query.labels, View(who, catalog, qtype=query.qtype), rules.prefix).steps[-1].labels


def suggest_names(story: Explanation) -> list[str]:
    """Return the names that the explanation suggests instead of a name without an answer."""
    steps = dict(story.steps)
    names = re.findall(r"try (\S+)$", steps.get("hint", ""))
    _, _, near = steps.get("apps", "").partition("similar: ")
    return names or [f"{app}.internal" for app in near.split(", ") if app]


def _similar_records(octets: bytes, source: bytes, catalog: Catalog, rules: Rules) -> list[str]:
    """Return the names of records that are most similar to one that does not exist."""
    query = read_query(octets)
    who = (
        identify(query, source, _DESTINATION, catalog, rules) if isinstance(query, Query) else None
    )
    if not isinstance(query, Query) or not isinstance(who, Requester) or not who.network.records:
        return []
    network = who.network
    if zone_for(query.labels, network, rules.prefix) is None:
        return []
    way = walk(query.labels, View(who, catalog, qtype=query.qtype), rules.prefix)
    if not isinstance(way.found, NoSuchName) or way.chain:
        return []
    wanted, length = name_text(names.wire(query.labels)), len(names.wire(query.labels))
    near = [each for each in islice(network.records, COMPARED) if abs(len(each) - length) <= 2]
    return get_close_matches(wanted, [name_text(each) for each in near], 3, 0.8)


def _sentence(says: str) -> str:
    """Return a step's text for a page, without Markdown and without the stand-in source ::1."""
    says = re.sub(r"^::1 is (.*), by dev mode: .*", r"\1, as requested", says).replace("`", "")
    return says[:1].upper() + says[1:]


def _machines(story: Explanation) -> dict[str, Any]:
    """Return the machines that were considered, those in the answer first."""
    # sorted() is stable, so the nearest machines stay first.
    found = sorted(story.machines, key=lambda verdict: bool(verdict.why))
    inside = sum(not verdict.why for verdict in found)
    reasons: dict[str, int] = {}
    for verdict in found[inside:]:
        reasons[verdict.why] = reasons.get(verdict.why, 0) + 1
    return {
        "shown": _select_verdicts(found, inside),
        "inside": inside,
        "outside": len(found) - inside,
        "judged": len(found),
        "of": story.total,
        "reasons": sorted(reasons.items(), key=lambda item: (-item[1], item[0])),
        "distances": any(verdict.distance for verdict in found),
    }


def _select_verdicts(found: list[Verdict], inside: int) -> list[Verdict]:
    """Return at most SHOWN machines; included and excluded ones get at least a quarter each."""
    first = min(inside, max(SHOWN - (len(found) - inside), SHOWN * 3 // 4))
    return [*found[:first], *found[inside : inside + SHOWN - first]]


def _reply(octets: bytes, limit: int) -> dict[str, Any]:
    shown, answers = limit_answers(octets, SHOWN)
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


def limit_answers(octets: bytes, count: int) -> tuple[bytes, int]:
    """Return a reply with only its first *count* answers, and the number of all its answers.

    dnspython needs 50 µs per record. The server made the reply itself: its names are compressed to
    the question only (core/message.py).
    """
    total, at = unpack_from("!H", octets, 6)[0], HEADER
    if total <= count:
        return octets, total
    at = _after_name(octets, at) + 4
    end = at
    for number in range(total):
        if number == count:
            end = at
        at = _after_name(octets, at)
        at += 10 + unpack_from("!H", octets, at + 8)[0]
    return octets[:6] + pack("!H", count) + octets[8:end] + octets[at:], total


def _after_name(octets: bytes, at: int) -> int:
    """Return the offset after the name that begins at *at*."""
    while 0 < octets[at] < 0xC0:
        at += 1 + octets[at]
    return at + (2 if octets[at] else 1)
