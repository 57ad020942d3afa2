"""A name to what is there, through aliases, in one network's eyes.

    name ─► its zone ─► ours: the grammar (lookup.py); where it says NXDOMAIN, the network's records
                   └──► one of the network's: its records

    CNAME    the walk goes on at its target, at most MAX_ALIASES times; a target in no zone is Outside
    ALIAS    stands for the addresses or services of its target, under the owner's name

An existing name is never covered by a wildcard, and names exist by grammar and records together: the
closest encloser (RFC 4592 section 3.3.1) is the first name above that either of them knows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple, assert_never

from internal_dns.core import names
from internal_dns.core.catalog import Network
from internal_dns.core.lookup import (
    LookupResult,
    Node,
    NoSuchName,
    View,
    find,
    is_there,
    server_address,
)
from internal_dns.core.names import Asked, Labels, wire
from internal_dns.core.own import ALIAS, INTERNAL, part_of, unpack_sets, wildcard_part
from internal_dns.core.records import NS, SOA, TTL, Extra, RRset, TextList
from internal_dns.core.requester import Place, place
from internal_dns.core.wire import Type

MAX_ALIASES: Final = 8
ANY_LABEL: Final = wildcard_part(INTERNAL)
_THROUGH_ALIAS: Final = (Type.AAAA, Type.A, Type.SRV)
_ROTATED: Final = frozenset({int(Type.AAAA), int(Type.A)})
# What ANY chooses from, in this order; SOA and NS of an apex come after.
_ANY_ORDER: Final = (
    Type.AAAA, Type.A, Type.CNAME, Type.TXT, Type.SRV, Type.MX, Type.HTTPS, Type.SVCB, Type.CAA,
    Type.PTR,
)  # fmt: skip


class Hop(NamedTuple):
    """A CNAME that was followed."""

    owner: Labels
    target: Labels
    ttl: int


class Outside(NamedTuple):
    """The walk ends at a name that is in no zone of ours or of the network."""


class TooLong(NamedTuple):
    """More aliases than MAX_ALIASES, perhaps a loop."""


class Step(NamedTuple):
    """One name on the way, for `explain`: *by* says what holds it."""

    labels: Labels
    by: str


class Resolved(NamedTuple):
    """What a walk found at its last name, and what that depends on."""

    found: LookupResult | Outside | TooLong
    labels: Labels  # the last name
    zone: Labels  # its zone; empty when it has none
    chain: tuple[Hop, ...]
    aliases: int  # how many were followed, CNAME and ALIAS
    parts: frozenset[bytes] | None  # of the network (own.py); None: all of it
    place: Place | None  # where the asker is, when that matters
    lasting: bool  # whether the answer may be stored
    all_types: bool  # whether `found` is also what a question for another type finds, of addresses
    steps: tuple[Step, ...] = ()


# ── zones ─────────────────────────────────────────────────────────────────────────────────────────


def our_zone(labels: Labels, prefix: bytes) -> Labels | None:
    """Return the apex of our zone that *labels* are in, or None."""
    match labels:
        case (*_, b"internal"):
            return names.INTERNAL
        case (*_, b"flycast"):
            return names.FLYCAST
        case (*_, b"ip6", b"arpa"):
            zone = names.reverse_zone(prefix)
            return zone if labels[-len(zone) :] == zone else None
    return None


def zone_for(labels: Labels, network: Network, prefix: bytes) -> Labels | None:
    """Return the apex of the zone that *labels* are in: ours, else the longest of the network's."""
    zone = our_zone(labels, prefix)
    if zone is None and network.zones:
        name = wire(labels)
        for at in range(len(labels)):
            if name in network.zones:
                return labels[at:]
            name = name[1 + name[0] :]
    return zone


def asked_in(zone: Labels, labels: Labels, prefix: bytes) -> Asked:
    """Return what *labels* in *zone*, which is ours, ask for."""
    rest = labels[: -len(zone)]
    if zone == names.INTERNAL:
        return names.internal(rest)
    return names.flycast(rest) if zone == names.FLYCAST else names.reverse(rest, prefix)


def depends_on(asked: Asked) -> bytes | None:
    """Return the app (or flycast) label that alone decides the answer, or None: it depends on the
    whole network."""
    match asked:
        case names.Page(of=of) | names.EmptyNonTerminal(of=of):
            return depends_on(of)
        case names.Addresses():
            app, _region, _group = asked
            return app
        case (
            names.Nearest(app=app)
            | names.MachineAddress(app=app)
            | names.Metadata(app=app)
            | names.Regions(app=app)
            | names.Machines(app=app)
            | names.Instances(app=app)
            | names.Services(app=app)
            | names.Flycast(app=app)
        ):
            return app
        case (
            names.Apex() | names.Apps() | names.Peers() | names.PeerAddress() | names.ServerAddress()
            | names.ApiAddress() | names.WhoAmI() | names.Reverse() | names.NoSuchForm()
        ):  # fmt: skip
            return None
        case _:
            assert_never(asked)


# ── the walk ──────────────────────────────────────────────────────────────────────────────────────


def resolve(labels: Labels, zone: Labels, view: View, prefix: bytes, aliases: int = 0) -> Resolved:
    """Return what *labels* in *zone*, which is ours or of the network, lead to. *aliases* were
    followed before."""
    # Hot path: most names are of the grammar, which has no aliases.
    if zone is names.INTERNAL or our_zone(zone, prefix) is not None:
        asked, here = asked_in(zone, labels, prefix), None
        if isinstance(asked, names.Nearest | names.WhoAmI):
            here = place(view.who, view.catalog, view.server_region)
            view = replace(view, here=here)
        found, label = find(asked, view), depends_on(asked)
        parts = None if label is None else frozenset((label,))
        if isinstance(found, Node):
            answer = found.of_type(view.qtype)
            lasting = answer is None or answer.stored
            return Resolved(found, labels, zone, (), aliases, parts, here, lasting, True)
        network = view.who.network
        if zone != names.INTERNAL or not network.known:
            return Resolved(found, labels, zone, (), aliases, parts, here, True, True)
        if not network.records:
            if label is not None and label not in network.apps:
                parts = frozenset((label, ANY_LABEL))
            return Resolved(found, labels, zone, (), aliases, parts, here, True, True)
    return walk(labels, view, prefix, aliases)


def walk(labels: Labels, view: View, prefix: bytes, aliases: int = 0) -> Resolved:
    """Return what `resolve` does, and each step."""
    return _Walk(view, prefix, aliases).resolved(labels)


class _Walk:
    """One question's way; what its answer depends on is gathered as it goes."""

    def __init__(self, view: View, prefix: bytes, aliases: int) -> None:
        self.view, self.prefix, self.aliases = view, prefix, aliases
        self.network = view.who.network
        self.parts: set[bytes] = set()
        self.whole = False  # it depends on the whole network
        self.place: Place | None = None
        self.lasting = True
        self.aliased = False  # an owner on the way has an ALIAS, which is looked through by type
        self.steps: list[Step] = []

    def resolved(self, labels: Labels) -> Resolved:
        found, last, zone, chain = self.follow(labels, self.view.qtype)
        if isinstance(found, Outside | TooLong):
            self.lasting = False
        elif isinstance(found, Node) and (answer := found.of_type(self.view.qtype)) is not None:
            self.lasting &= answer.stored
        return Resolved(
            found,
            last,
            zone,
            tuple(chain),
            self.aliases,
            None if self.whole else frozenset(self.parts),
            self.place,
            self.lasting,
            not chain and not self.aliased,
            tuple(self.steps),
        )

    def follow(
        self, labels: Labels, qtype: int
    ) -> tuple[LookupResult | Outside | TooLong, Labels, Labels, list[Hop]]:
        """Return what is at the end of the CNAMEs from *labels* on, the last name, its zone, and the
        CNAMEs."""
        chain: list[Hop] = []
        while True:
            zone = zone_for(labels, self.network, self.prefix)
            if zone is None:
                return Outside(), labels, (), chain
            found = self.at(labels, zone, qtype)
            target = None if isinstance(found, NoSuchName | TooLong) else _cname(found, qtype)
            if target is None:
                return found, labels, zone, chain
            if self.aliases >= MAX_ALIASES:
                return TooLong(), labels, zone, chain
            self.aliases += 1
            chain.append(Hop(labels, labels_of(target.groups[0][0]), target.ttl))
            labels = chain[-1].target

    def at(self, labels: Labels, zone: Labels, qtype: int) -> LookupResult | TooLong:
        """Return what is at one name."""
        if our_zone(zone, self.prefix) is None:
            return self.in_zone(labels, zone, qtype)
        view, asked = self.view, asked_in(zone, labels, self.prefix)
        if isinstance(asked, names.Nearest | names.WhoAmI):
            self.place = place(view.who, view.catalog, view.server_region)
            view = replace(view, here=self.place)
        label = depends_on(asked)
        if label is None:
            self.whole = True
        else:
            self.parts.add(label)
        found = find(asked, view if view.qtype == qtype else replace(view, qtype=qtype))
        if isinstance(found, NoSuchName) and zone == names.INTERNAL and self.network.known:
            own = self.own(labels, zone, qtype)
            if own is not None:
                self.steps.append(Step(labels, "by a record of this network"))
                return own
        self.steps.append(Step(labels, ""))
        return found

    def in_zone(self, labels: Labels, zone: Labels, qtype: int) -> LookupResult | TooLong:
        """Return what is at a name in a zone of the network."""
        name, apex = wire(labels), wire(zone)
        self.parts |= {apex, part_of(name, apex)}
        self.steps.append(Step(labels, "by its zone"))
        found = self.own(labels, zone, qtype)
        if name != apex:
            return NoSuchName("the zone has no such name") if found is None else found
        dns = Extra(b"_dns", (b"internal",), server_address(self.network))
        soa, ns = RRset(Type.SOA, ((SOA,),)), RRset(Type.NS, ((NS,),), extra=(dns,))
        if not isinstance(found, Node):
            return found if isinstance(found, TooLong) else Node((soa, ns))
        return replace(found, sets=(*found.sets, soa, ns))

    def own(self, labels: Labels, zone: Labels, qtype: int) -> Node | TooLong | None:
        """Return what the network's records have at a name, a wildcard included; None: no such
        name."""
        name, apex = wire(labels), wire(zone)
        records, below = self.network.records, self.network.below
        if name in records:
            return self.node(records[name], labels, qtype)
        if name in below or name == apex:
            return Node(())
        above = name
        for at in range(1, len(labels)):
            above = above[1 + above[0] :]
            if above == apex:
                self.parts.add(wildcard_part(apex))
                break
            if above in records or above in below or self.in_grammar(labels[at:], zone):
                break
        wildcard = b"\1*" + above
        if wildcard in records:
            return self.node(records[wildcard], labels, qtype)
        return Node(()) if wildcard in below else None

    def in_grammar(self, labels: Labels, zone: Labels) -> bool:
        return zone == names.INTERNAL and is_there(asked_in(zone, labels, self.prefix), self.view)

    def node(self, packed: bytes, labels: Labels, qtype: int) -> Node | TooLong:
        """Return the sets of one owner, with what its ALIAS stands for."""
        sets: list[RRset | TextList] = []
        alias: tuple[Labels, int] | None = None
        for one in unpack_sets(packed):
            if one.type == ALIAS:
                alias = labels_of(one.rdata[0]), one.ttl
                self.aliased = True
                continue
            # Of several addresses each is first equally often; all else keeps its order.
            groups = (one.rdata,) if one.type in _ROTATED else tuple((r,) for r in one.rdata)
            sets.append(RRset(Type(one.type), groups, ttl=one.ttl))
        if alias is None or qtype not in (*_THROUGH_ALIAS, Type.ANY):
            return Node(tuple(sets), "" if sets or alias is None else "an alias of addresses only")
        if qtype != Type.ANY:
            if any(one.type == qtype for one in sets):
                return Node(tuple(sets))
            return self.through(*alias, qtype, sets)
        before, lacking = self.aliases, ""
        for rtype in _ANY_ORDER:
            if any(one.type == rtype for one in sets):
                return Node(tuple(one for one in sets if one.type == rtype))
            if rtype in _THROUGH_ALIAS:
                self.aliases = before
                node = self.through(*alias, rtype, [])
                if isinstance(node, TooLong) or node.sets:
                    return node
                lacking = lacking or node.reason
        return Node((), lacking)

    def through(
        self, target: Labels, ttl: int, rtype: int, sets: list[RRset | TextList]
    ) -> Node | TooLong:
        """Return *sets* with the set of one type that an ALIAS finds at its target."""
        if self.aliases >= MAX_ALIASES:
            return TooLong()
        self.aliases += 1
        found, _, _, chain = self.follow(target, rtype)
        match found:
            case TooLong():
                return found
            case Outside():
                # A zone may come that it lies in: no part of the network says so.
                self.lasting = False
                return Node(tuple(sets), "the alias leads to a name outside")
            case NoSuchName(reason=reason):
                return Node(tuple(sets), f"the alias leads nowhere: {reason}")
        there = found.of_type(rtype)
        if not isinstance(there, RRset):
            return Node(tuple(sets), f"the target of the alias: {found.lack}")
        least = min(ttl, TTL, there.ttl, *(hop.ttl for hop in chain))
        self.lasting &= there.stored
        return Node((*sets, replace(there, ttl=least, pageable=False)), note=found.note)


def _cname(found: Node, qtype: int) -> RRset | None:
    """Return the CNAME that a question for *qtype* goes on through, or None."""
    if qtype in (Type.CNAME, Type.ANY):
        return None
    for one in found.sets:
        if one.type == Type.CNAME and isinstance(one, RRset):
            return one
    return None


def labels_of(name: bytes) -> Labels:
    """Return the labels of a name in wire form."""
    labels, at = [], 0
    while name[at]:
        labels.append(name[at + 1 : at + 1 + name[at]])
        at += 1 + name[at]
    return tuple(labels)
