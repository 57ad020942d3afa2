"""The journey of a message: octets in; a reply, a query to forward or a drop out. Start here.

    octets ─► wire.read_query ─► requester ─► names ─► lookup ─► message ─► Reply
                   │                 │           └── external name ───────► Forward
                   └─ Silent ────────┴── outsider: REFUSED                  Drop

`respond` is pure: the time and the random number are arguments (`now`, `rotation`). `explain` calls
it with the same arguments, so it shows what the server does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, assert_never

from internal_dns.core import names
from internal_dns.core.ask_as import BadAskAs, ask_as
from internal_dns.core.catalog import Catalog, Network, NetworkId
from internal_dns.core.cookies import full_cookie
from internal_dns.core.local import EMPTY_ZONES, LOCALHOST, is_bare, local_zone
from internal_dns.core.lookup import LookupResult, Node, NoSuchName, View
from internal_dns.core.message import (
    PLAIN_UDP_SIZE,
    QNAME,
    RR_HEAD,
    Body,
    ReplyOptions,
    assemble,
    body_of,
    message,
    option,
    ring_of,
)
from internal_dns.core.names import Labels, our_zone, wire
from internal_dns.core.records import SOA, SOA_TTL, RRset, TextList, compressed, rr
from internal_dns.core.requester import (
    LOOPBACK,
    NOWHERE,
    V4_MAPPED,
    Outsider,
    Place,
    Requester,
    SourceMap,
    requester,
)
from internal_dns.core.resolve import (
    MAX_ALIASES,
    Hop,
    Outside,
    Resolved,
    TooLong,
    resolve,
    zone_for,
)
from internal_dns.core.wire import (
    ASK_AS,
    COOKIE,
    DS,
    HEADER,
    IN,
    KEEPALIVE,
    MAX_MESSAGE,
    NSID,
    Ede,
    Edns,
    Malformed,
    Query,
    Rcode,
    Silent,
    Type,
    is_cookie,
    read_query,
)

# Seconds that a TCP connection may be idle; sent in the keepalive option (RFC 7828).
IDLE_TIMEOUT: Final = 10


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that change answers."""

    prefix: bytes = b"\xfd\xaa"  # the first two octets of every 6PN address
    region: bytes | None = None  # where the server is
    maps: tuple[SourceMap, ...] = ()
    forwarding: bool = True
    # HAProxy's recipe for PostgreSQL announces 8192 octets, queries over UDP only, and fails with
    # fewer.
    udp_limit: int = 8_192
    dev: bool = False  # a query from loopback may name the requester to answer as
    echo: bool = True  # in dev mode the reply repeats that option; `explain` leaves it out
    nsid: bytes = b""
    secret: bytes = bytes(16)  # for server cookies
    # Suffixes with upstreams of their own; they take precedence over local zones.
    forwarded: tuple[Labels, ...] = ()


@dataclass(frozen=True, slots=True)
class Cacheable:
    """A reply that the answer table may repeat: its key, and the values it was computed from."""

    network: Network
    qtype: int
    name: bytes  # wire form, lower-cased
    place: Place | None  # None: the reply is the same for every place
    body: Body
    # Of the network it depends on these (own.py): labels of apps and flycasts, records, zones.
    # None: on all of it.
    parts: frozenset[bytes] | None
    # For a TXT list that `body.answer` lacks because it fits no TCP message or was not built: a UDP
    # query with a limit below this many octets gets TC and no answer. 0: `body.answer` is whole.
    truncated_below: int = 0
    # All RRs of an address set too large for any message, each of ADDRESS_RR octets, before
    # rotation. `body` has those that one rotation selected.
    ring: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """Octets to send.

    `kind` is the metric's label: internal, flycast, reverse, zone, forward or refused. `partial`: a
    TCP message holds only part of the set, which a metric counts. `content` is the body that our
    zones gave, and the network it is for. `pair` is the same for the other type of address: stub
    resolvers query A and AAAA of a name together.
    """

    octets: bytes
    rcode: Rcode
    kind: str
    cacheable: Cacheable | None = None
    partial: bool = False
    content: tuple[Body, Network] | None = None
    pair: Cacheable | None = None


@dataclass(frozen=True, slots=True)
class AliasedQuery:
    """A client's query whose aliases lead outside, how to reply to it, and the aliases."""

    query: Query
    reply_options: ReplyOptions
    chain: tuple[bytes, ...]
    kind: str


class QueryOrigin(NamedTuple):
    """Where a query came from and went to, and how many of our aliases led to it."""

    source: bytes
    destination: bytes
    aliases: int


@dataclass(slots=True)  # not frozen: one is made per query, and freezing triples its cost
class Forward:
    """A query for an external name, and how to relay the reply."""

    query: Query
    reply_options: ReplyOptions
    network: NetworkId
    # Both addresses are needed when a CNAME chain leads back to a name of ours (aliases.py).
    source: bytes = bytes(16)
    destination: bytes = bytes(16)
    aliased: AliasedQuery | None = None  # the client's query, whose aliases lead here
    # Of the whole chain: aliases of ours, how often it left to the outside, and came back.
    aliases: int = 0
    left: int = 0
    returned: int = 0


@dataclass(frozen=True, slots=True)
class Drop:
    """A message that gets no reply. `reason` is the metric's label."""

    reason: str


NO_CATALOG: Final = Catalog()
_PAIRED: Final = {int(Type.A): int(Type.AAAA), int(Type.AAAA): int(Type.A)}


def respond(
    octets: bytes,
    source: bytes,
    destination: bytes,
    catalog: Catalog | None,
    rules: Rules,
    *,
    rotation: int = 0,
    stream: bool = False,
    now: int = 0,
    aliases: int = 0,
) -> Reply | Forward | Drop:
    """Decide what to do with *octets* that *source* sent to *destination*.

    Addresses have 16 octets, IPv4 as ::ffff:a.b.c.d. *catalog* is None until the first one is
    loaded. *rotation* is a random number from the caller, *stream* means TCP, *now* is in Unix
    seconds and used for cookies only. *aliases* of ours have led to this question. Never raises.
    """
    query = read_query(octets)
    if isinstance(query, Silent):
        return Drop(query.reason)
    who = identify(query, source, destination, catalog or NO_CATALOG, rules)
    if isinstance(who, Outsider):
        return _turn_away(query, source, octets, rules)
    reply_options = _reply_options(query, source, rules, rotation, stream, now)
    if query.opcode:
        return _refuse(query, reply_options, Rcode.NOTIMP)
    if isinstance(query, Malformed):
        return _refuse(query, reply_options, Rcode.FORMERR)
    if isinstance(who, BadAskAs):
        return _refuse(
            query, reply_options, who.rcode, (Ede.PROHIBITED, who.reason) if who.reason else None
        )
    if query.edns and query.edns.version:
        return _refuse(query, reply_options, Rcode.BADVERS)
    if not query.question:  # the client only wants a cookie, RFC 7873 section 5.4
        return _refuse(query, reply_options, Rcode.NOERROR)
    if query.qclass != IN or query.qtype in (Type.AXFR, Type.IXFR):
        return _refuse(query, reply_options, Rcode.REFUSED)
    if (zone := zone_for(query.labels, who.network, rules.prefix)) is not None:
        origin = QueryOrigin(source, destination, aliases)
        return _ours(query, who, zone, catalog, rules, reply_options, origin)
    if (local := _local(query.labels, query.qtype, rules)) is not None:
        body = local.body(query)
        return Reply(message(body, query, reply_options), body.rcode, "internal")
    if not query.rd:  # a reply from the cache would show what other clients have queried
        return _refuse(
            query,
            reply_options,
            Rcode.REFUSED,
            (Ede.NOT_AUTHORITATIVE, "recursion was not desired"),
        )
    if not rules.forwarding:
        return _refuse(
            query, reply_options, Rcode.REFUSED, (Ede.NOT_AUTHORITATIVE, "forwarding is off")
        )
    return Forward(query, reply_options, who.network.id, source, destination)


def identify(
    query: Query | Malformed, source: bytes, destination: bytes, catalog: Catalog, rules: Rules
) -> Requester | Outsider | BadAskAs:
    """Return the requester: by address or, in dev mode and from loopback, by the query's option."""
    value = _asked_as(query.edns, source, rules)
    if value is not None:
        return ask_as(value, source, destination, catalog, rules.prefix)
    return requester(source, destination, catalog, rules.prefix, rules.maps)


def _asked_as(edns: Edns | None, source: bytes, rules: Rules) -> bytes | None:
    """Return the value of the dev-mode option if it applies to this source, else None."""
    return edns.ask_as if edns and rules.dev and source.startswith(LOOPBACK) else None


def _reply_options(
    query: Query | Malformed, source: bytes, rules: Rules, rotation: int, stream: bool, now: int
) -> ReplyOptions:
    """Return how to send the reply: the size limit of the transport, and the EDNS options."""
    edns = query.edns
    if edns is None:
        return ReplyOptions(
            MAX_MESSAGE if stream else PLAIN_UDP_SIZE, rules.forwarding, rotation, b"", stream
        )
    options = edns_options(edns, source, rules, stream=stream, now=now)
    limit = MAX_MESSAGE if stream else max(PLAIN_UDP_SIZE, min(edns.size, rules.udp_limit))
    return ReplyOptions(limit, rules.forwarding, rotation, options, stream)


def edns_options(edns: Edns, source: bytes, rules: Rules, *, stream: bool, now: int) -> bytes:
    """Return the EDNS options of the reply, except EDE.

    Padding is for encrypted transports only (RFC 7830 section 6). Other options are ignored.
    """
    options = b""
    if edns.client_cookie is not None and is_cookie(edns.client_cookie):
        address = source[12:] if source.startswith(V4_MAPPED) else source
        options += option(COOKIE, full_cookie(edns.client_cookie, address, rules.secret, now))
    if edns.nsid and rules.nsid:
        options += option(NSID, rules.nsid)
    options += _echo(edns, source, rules)
    if edns.keepalive and stream:
        options += option(KEEPALIVE, (IDLE_TIMEOUT * 10).to_bytes(2, "big"))
    return options


def _echo(edns: Edns | None, source: bytes, rules: Rules) -> bytes:
    """Return the dev-mode option for the reply: it shows the client that the option took effect."""
    value = _asked_as(edns, source, rules) if rules.echo else None
    return b"" if value is None else option(ASK_AS, value)


def _turn_away(query: Query | Malformed, source: bytes, octets: bytes, rules: Rules) -> Reply:
    """Refuse an outsider with no more octets than it sent.

    The source address may be forged; its owner must not receive an amplified reply.
    """
    reply_options = ReplyOptions(
        len(octets), rules.forwarding, edns_options=_echo(query.edns, source, rules)
    )
    ede = (Ede.PROHIBITED, "")
    return Reply(
        message(Body(Rcode.REFUSED, aa=False, ede=ede), query, reply_options),
        Rcode.REFUSED,
        "refused",
    )


def _refuse(
    query: Query | Malformed,
    reply_options: ReplyOptions,
    rcode: Rcode,
    ede: tuple[Ede, str] | None = None,
) -> Reply:
    """Reply with *rcode* and no records."""
    return Reply(message(Body(rcode, aa=False, ede=ede), query, reply_options), rcode, "refused")


# ── our names ─────────────────────────────────────────────────────────────────────────────────────


def _ours(
    query: Query,
    who: Requester,
    zone: Labels,
    catalog: Catalog | None,
    rules: Rules,
    reply_options: ReplyOptions,
    origin: QueryOrigin,
) -> Reply | Forward:
    """Answer for one of our zones or of the network's, from the catalog alone; or say what is to be
    asked outside to complete the answer."""
    kind = _KINDS.get(zone) or ("reverse" if our_zone(zone, rules.prefix) else "zone")
    if catalog is None:
        body = Body(Rcode.SERVFAIL, aa=False, ede=(Ede.NOT_READY, "the catalog is not loaded yet"))
        return Reply(message(body, query, reply_options), body.rcode, kind)
    view = View(
        who,
        catalog,
        NOWHERE,
        rules.region,
        reply_options.rotation,
        query.qtype,
        reply_options.limit,
    )
    resolved = resolve(query.labels, zone, view, rules.prefix, origin.aliases)
    if isinstance(resolved.found, Outside):
        return _outside(query, who, resolved, rules, reply_options, origin, kind)
    body = conclude(resolved, query)
    cacheable = pair = None
    if resolved.lasting and who.network.known and not (body.chain and _is_long(body)):
        cacheable = _cacheable(query, who, resolved, body)
        if query.qtype in _PAIRED:
            pair = _pair(query, cacheable, resolved)
    octets, partial = assemble(body, query, reply_options)
    return Reply(octets, body.rcode, kind, cacheable, partial, (body, who.network), pair)


def _pair(query: Query, cacheable: Cacheable, resolved: Resolved) -> Cacheable | None:
    """Return what the answer table may store for the other type of address."""
    other, found = _PAIRED[query.qtype], resolved.found
    # A name that does not exist has none: who invents names would store two replies for each.
    if not isinstance(found, Node) or not resolved.all_types or resolved.place is not None:
        return None
    answer = found.of_type(other)
    if answer is not None and not answer.stored:
        return None
    body = conclude(resolved, query, other)
    parts, name = cacheable.parts, query.name
    return Cacheable(cacheable.network, other, name, None, body, parts, ring=ring_of(body))


_KINDS: Final[dict[Labels, str]] = {names.INTERNAL: "internal", names.FLYCAST: "flycast"}
TOO_LONG: Final = Body(
    Rcode.SERVFAIL, aa=False, ede=(Ede.OTHER, f"a chain of more than {MAX_ALIASES} aliases")
)


def conclude(resolved: Resolved, query: Query, qtype: int | None = None) -> Body:
    """Return the reply to *query* given what its name leads to. *qtype* replaces that of the
    query."""
    found, labels = resolved.found, query.labels
    chain: tuple[bytes, ...] = ()
    owner = QNAME
    if resolved.chain:
        chain, owner = chain_of(resolved.chain, labels), compressed(resolved.labels, labels)
    match found:
        case TooLong() | Outside():
            return TOO_LONG
        case NoSuchName(reason=reason):
            return negative(Rcode.NXDOMAIN, reason, query, resolved.zone, chain)
        case Node():
            answer = found.of_type(query.qtype if qtype is None else qtype)
            if answer is None:
                return negative(Rcode.NOERROR, found.lack, query, resolved.zone, chain)
            ede = (Ede.OTHER, found.note) if found.note else None
            return body_of(answer, labels, ede, chain, owner)
        case _:
            assert_never(found)


def chain_of(hops: Sequence[Hop], labels: Labels) -> tuple[bytes, ...]:
    """Return the CNAME RRs of *hops* in a reply to a question for *labels*."""
    return tuple(
        rr(compressed(hop.owner, labels), Type.CNAME, wire(hop.target), hop.ttl) for hop in hops
    )


def _is_long(body: Body) -> bool:
    """Whether the answer is larger than any message, or was not built."""
    return body.whole is not None and not body.answer


def _outside(
    query: Query,
    who: Requester,
    resolved: Resolved,
    rules: Rules,
    reply_options: ReplyOptions,
    origin: QueryOrigin,
    kind: str,
) -> Reply | Forward:
    """Say what to ask outside when our aliases lead there. What must not be asked, or not now, is
    our part alone."""
    target = resolved.labels
    chain = chain_of(resolved.chain, query.labels)
    if (local := _local(target, query.qtype, rules)) is not None:
        body = local.body(query, chain, compressed(target, query.labels))
    elif not query.rd or not rules.forwarding:
        body = Body(chain=chain)
    else:
        name = wire(target)
        question = name + query.question[-4:]
        inner = replace(query, question=question, name=name, labels=target)
        # Nothing of it may be left out here: the client's limit counts for the whole reply.
        whole = replace(reply_options, limit=MAX_MESSAGE, stream=True, edns_options=b"")
        aliased = AliasedQuery(query, reply_options, chain, kind)
        aliases = resolved.aliases
        return Forward(
            inner, whole, who.network.id, origin.source, origin.destination, aliased, aliases, 1
        )
    octets, partial = assemble(body, query, reply_options)
    return Reply(octets, body.rcode, kind, None, partial, (body, who.network))


def negative(
    rcode: Rcode, reason: str, query: Query, zone: Labels, chain: tuple[bytes, ...] = ()
) -> Body:
    """Return NXDOMAIN or NODATA: the zone's SOA in the authority section (RFC 2308), the reason as
    an EDE. Behind a *chain*, they are those of its last name (RFC 6604)."""
    soa = rr(compressed(zone, query.labels), Type.SOA, SOA, SOA_TTL)
    return Body(rcode, chain=chain, authority=soa, ede=(Ede.OTHER, reason))


def _cacheable(query: Query, who: Requester, resolved: Resolved, body: Body) -> Cacheable:
    """Return the key of the answer table for *body*, and what *body* depends on."""
    below = _truncated_below(body, query)
    return Cacheable(
        who.network,
        query.qtype,
        query.name,
        resolved.place,
        body,
        resolved.parts,
        below,
        ring_of(body),
    )


def _truncated_below(body: Body, query: Query) -> int:
    """Return the limit below which a UDP reply is TC without an answer; 0 if *body* is whole."""
    if not isinstance(body.whole, TextList) or body.answer:
        return 0
    if not body.whole.text.sizes:
        return HEADER + len(query.question) + RR_HEAD + body.whole.least
    return MAX_MESSAGE + 1


# ── names that never leave, whoever they belong to ────────────────────────────────────────────────


class Local(NamedTuple):
    """What a name gets that is answered here without a catalog; without a zone, nothing at all."""

    result: LookupResult
    zone: Labels = ()

    def body(self, query: Query, chain: tuple[bytes, ...] = (), owner: bytes = QNAME) -> Body:
        """Return the reply to *query*, whose aliases *chain* lead to the name, which is *owner*."""
        if isinstance(self.result, NoSuchName):
            return negative(Rcode.NXDOMAIN, self.result.reason, query, self.zone, chain)
        answer = self.result.of_type(query.qtype)
        if answer is not None:
            return body_of(answer, query.labels, None, chain, owner)
        if not self.zone:
            return Body(aa=bool(chain), chain=chain)
        return negative(Rcode.NOERROR, self.result.lack, query, self.zone, chain)


def _local(labels: Labels, qtype: int, rules: Rules) -> Local | None:
    """Answer localhost, local zones and bare host names; None if the query may be forwarded."""
    if labels[-1:] == (b"localhost",):
        address = LOCALHOST.get(Type.AAAA if qtype == Type.ANY else qtype)
        sets = () if address is None else (RRset(address.type, ((address.rdata,),)),)
        return Local(Node(sets, "this name has A and AAAA records only"), (b"localhost",))
    if _has_rule(labels, qtype, rules):
        return None
    if (zone := local_zone(labels)) is not None:
        if zone in EMPTY_ZONES:
            return Local(Node((), "this server designates no resolver"), zone)
        if labels in rules.forwarded:  # DS at a name that exists
            return Local(Node((), "the parent zone is served here"), zone)
        return Local(NoSuchName("this zone is served here and is empty"), zone)
    return Local(Node(())) if is_bare(labels, qtype) else None


def _has_rule(labels: Labels, qtype: int, rules: Rules) -> bool:
    """Whether a forwarding rule covers this name; it takes precedence over local zones."""
    if qtype == DS and labels in rules.forwarded:
        # The parent zone has the DS RRset (RFC 4035 section 3.1.4.1), and may itself be local.
        return local_zone(labels[1:]) is None or _has_rule(labels[1:], 0, rules)
    return any(labels[-len(suffix) :] == suffix for suffix in rules.forwarded)
