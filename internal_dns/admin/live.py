"""JSON objects for `top` and `watch --queries`, from a running server. Nothing is stored."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from heapq import nlargest
from ipaddress import IPv6Address
from typing import Any, Final

from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.journey import NO_CATALOG, Reply, Rules, identify, respond
from internal_dns.core.names import printable
from internal_dns.core.requester import Requester
from internal_dns.core.wire import Query, Rcode, Silent, Type, read_query
from internal_dns.transport.answer import Exchange
from internal_dns.transport.table.table import Busy, hits_of
from internal_dns.transport.tap import Sample

MAX_NAMES: Final = 10_000
FORWARDED: Final = "(forwarded)"  # replies of upstreams, which all networks share
OUTSIDE: Final = "(outside)"  # clients in no network of the catalog


async def busiest(exchange: Exchange, count: int) -> dict[str, Any]:
    """Return counts of repeated and computed answers, per network, and the *count* busiest names.

    Counts start with the server; the count of a name starts when its answer is computed. The loop
    answers queries between the parts of a large table.
    """
    answers, catalog = exchange.answers, exchange.catalog or NO_CATALOG
    names: list[Busy] = []
    networks: Counter[NetworkId] = Counter(answers.forgotten_hits)
    for part in answers.parts():
        names = nlargest(count, [*names, *part], key=hits_of)
        for busy in part:
            networks[busy.network] += busy.hits
        await asyncio.sleep(0)
    decided = Counter[str]()
    for octets, messages in exchange.counting.decided.items():
        number = NetworkId(int.from_bytes(octets, "big"))
        decided[network_name(number, catalog) if number else OUTSIDE] += messages
    hits = Counter[str]()
    for number, repeated in networks.items():
        hits[network_name(number, catalog)] += repeated
    # Replies of upstreams have one entry for each DO and CD: add them up.
    totals: Counter[tuple[str, str, str]] = Counter()
    for b in names:
        totals[network_name(b.network, catalog), name_text(b.name), type_text(b.qtype)] += b.hits
    return {
        "at": time.monotonic(),
        "requests": sum(cell[0] for cell in exchange.metrics.requests.values()),
        "repeated": answers.hits,
        "decided": exchange.counting.decided.total(),
        "entries": answers.entries,
        "networks": [
            {"network": network, "hits": hits[network], "decided": decided[network]}
            for network, messages in (hits + decided).most_common() if messages
        ],
        "names": [
            {"network": network, "name": name, "type": qtype, "hits": hits}
            for (network, name, qtype), hits in totals.most_common() if hits
        ],
    }  # fmt: skip


def reply_now(exchange: Exchange, query: bytes, source: bytes) -> bytes:
    """Return the reply to *query* over TCP as it is now, without counting it; empty when there is
    none."""
    decision = respond(
        query,
        source,
        bytes(16),
        exchange.answers.catalog_for(source),
        replace(exchange.rules, dev=True, echo=False),
        stream=True,
    )
    return decision.octets if isinstance(decision, Reply) else b""


def describe_sample(sample: Sample, catalog: Catalog | None, rules: Rules) -> dict[str, Any]:
    """Return a sampled query as JSON has it: time, client, question, RCODE, number of answers."""
    query, networks = read_query(sample.octets), catalog or NO_CATALOG
    value: dict[str, Any] = {
        "time": sample.time,
        "proto": "tcp" if sample.stream else "udp",
        "source": address_text(sample.source),
        "network": None,
        "name": None,
        "type": None,
        "how": sample.how,
        "rcode": rcode_text(sample.reply),
        "answers": int.from_bytes(sample.reply[6:8], "big") if sample.reply else 0,
    }
    if isinstance(query, Silent):
        return value
    requester = identify(query, sample.source, sample.destination, networks, rules)
    if isinstance(requester, Requester):
        value["network"] = network_name(requester.network.id, networks)
    if value["rcode"] == "NOERROR" and query.edns and query.edns.version:
        value["rcode"] = Rcode.BADVERS.name  # its upper bits are in the reply's OPT
    if isinstance(query, Query) and query.question:
        value |= {"name": name_text(query.name), "type": type_text(query.qtype)}
    return value


def network_name(number: NetworkId, catalog: Catalog) -> str:
    """Return the name of a network, or its number if the catalog does not have it."""
    if not number:
        return FORWARDED
    network = catalog.networks.get(number)
    return printable(network.label) if network else str(number)


def name_text(wire: bytes) -> str:
    """Return an uncompressed name as text for a terminal.

    Unprintable octets, and dots within a label, become \\xNN.
    """
    labels, at = [], 0
    while wire[at]:
        labels.append(printable(wire[at + 1 : at + 1 + wire[at]]).replace(".", "\\x2e"))
        at += 1 + wire[at]
    return ".".join(labels) or "."


def type_text(qtype: int) -> str:
    return Type(qtype).name if qtype in _NAMED else f"TYPE{qtype}"


def rcode_text(reply: bytes | None) -> str | None:
    if reply is None:
        return None
    rcode = reply[3] & 15
    return Rcode(rcode).name if rcode in _RCODES else str(rcode)


def address_text(address: bytes) -> str:
    ipv6 = IPv6Address(address)
    return str(ipv6.ipv4_mapped or ipv6)


def parse_count(request: Mapping[str, Any], key: str, default: int, most: int) -> int:
    """Return the positive integer *key* of a request. Raises ValueError."""
    value = request.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"`{key}` must be a whole number from 1 to {most:,}")
    return value


def _codes(names: Iterable[int]) -> frozenset[int]:
    return frozenset(int(name) for name in names)


_NAMED: Final = _codes(Type)
_RCODES: Final = _codes(Rcode)
