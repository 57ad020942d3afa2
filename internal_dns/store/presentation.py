"""Records and zones of a network's own, from presentation form (RFC 1035 section 5, RFC 9460) to
octets. The only parser of it: the loader, the writer, documents, `check` and the importers use it.

    read_record   name, type, value and TTL ─► Record, or why there is none
    read_zone     a name ─► Zone, or why it can be none
    losers        the records of one owner that cannot stand beside the others
    sets_of       the records of one owner ─► what core/own.py keeps of them

dnspython does the parsing. What is plain (addresses, names of letters and digits) is read here,
as it is much faster; tests/store/test_presentation.py holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from internal_dns.core.names import FLYCAST, INTERNAL, printable, reverse_zone, wire
from internal_dns.core.own import ALIAS, RECORD_TYPES, RecordSet, zone_of
from internal_dns.store.schema import TTL

if TYPE_CHECKING:
    import dns.name

# dnspython is imported where it is used: most commands, and most catalogs, read no record.

# Octets of the rdata of a set: what is left of the largest message for header, question, owners
# and OPT.
MAX_SET: Final = 65_000
_MAX_TEXT: Final = 4 * 65_535 + 1_024  # characters; every octet may be written as \DDD
_PLAIN_NAME: Final = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?\Z", re.IGNORECASE)
_DOTTED: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}\Z")
_HEX: Final = re.compile(r"[0-9a-fA-F:]{2,39}\Z")
_CONTROL: Final = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")
# A `;` outside quotes, which begins a comment; a `@` alone, which would be a zone's apex.
_COMMENT: Final = re.compile(r'(?:[^";\\]|\\.|"(?:[^"\\]|\\.)*")*;', re.DOTALL)
_AT: Final = re.compile(r"(?:\A|\s)@(?:\s|\Z)")
_NAME_TYPES: Final = frozenset({"CNAME", "ALIAS", "PTR"})
_ADDRESS_TYPES: Final = frozenset({"A", "AAAA"})
# One label that no zone may be: RFC 6761, 6762, 7686.
_RESERVED: Final = frozenset(
    (label.encode(),) for label in "local localhost test invalid onion".split()
)
# Names that tell clients which resolver to use stay ours (RFC 9462, and browsers').
_RESOLVER_NAMES: Final = ((b"resolver", b"arpa"), (b"use-application-dns", b"net"))
# Top-level domains that everybody knows; two letters are a country's.
_PUBLIC: Final = frozenset(
    b"""
    aero app arpa art asia bank biz blog cat cloud club com company coop design dev digital edu
    email example global gov group guru info int io jobs life link live media mil mobi museum name
    net network news online org page post pro shop site software solutions space store studio
    systems tech tel today top travel vip wiki work world xxx xyz zone
    """.split()
) - {b"example"}  # fmt: skip

Labels = tuple[bytes, ...]


class Zone(NamedTuple):
    """A private zone: its name as it is written, and its apex in lower-cased wire form."""

    name: str
    apex: bytes


class Record(NamedTuple):
    """A record as it is written canonically, and its octets. *targets* are the names in its rdata,
    in wire form; an ALIAS has its target as rdata."""

    name: str
    type: str
    value: str
    ttl: int
    owner: bytes
    rdata: bytes
    targets: tuple[bytes, ...] = ()


class Place(NamedTuple):
    """What decides whether a record has a place in a network."""

    network: bytes  # the first six octets of its addresses
    zones: Collection[bytes] = ()  # apexes in wire form


# ── names ─────────────────────────────────────────────────────────────────────────────────────────


def read_name(text: object) -> dns.name.Name | str:
    """Return the name that *text* is in presentation form, lower-case and absolute, or what is wrong
    with it."""
    import dns.exception
    import dns.name

    written = _text(text)
    if written is None or not written.isascii():
        return "a name is ASCII text; write other letters as xn-- labels"
    if not written or _CONTROL.search(written) or any(c in written for c in ' \t@";()'):
        return "no valid name: labels of 1 to 63 octets between dots, other octets as \\DDD"
    try:
        return dns.name.from_text(written, dns.name.root).canonicalize()
    except dns.exception.DNSException as error:
        return f"no valid name: {_lower(error)}"


@lru_cache(4_096)
def canonical(name: dns.name.Name) -> str:
    """Return a name as rows have it: lower-case, without the last dot."""
    return name.to_text(omit_final_dot=True)


def wire_of(name: dns.name.Name) -> bytes:
    """Return an absolute name in wire form."""
    return wire(name.labels[:-1])


def read_zone(text: object, prefix: bytes) -> Zone | str:
    """Return the zone called *text*, or why there can be none of that name."""
    name = read_name(text)
    if isinstance(name, str):
        return name
    labels = tuple(name.labels[:-1])
    if not labels:
        return "the root cannot be a private zone"
    if labels in _RESERVED:
        return f"{canonical(name)} is reserved (RFC 6761)"
    for ours in (INTERNAL, FLYCAST, reverse_zone(prefix)):
        if _ends_with(labels, ours):
            return f"{_dotted(ours)} is answered here already"
        if _ends_with(ours, labels):
            return f"{_dotted(ours)}, which is answered here, lies in it"
    for special in _RESOLVER_NAMES:
        if _ends_with(labels, special):
            return f"{_dotted(special)} tells clients which resolver to use"
    if b"*" in labels:
        return "a zone is no wildcard"
    return Zone(canonical(name), wire(labels))


def is_public_tld(apex: bytes) -> bool:
    """Whether a zone hides a whole top-level domain of the Internet: two letters, or one that
    everybody knows."""
    label = apex[1 : 1 + apex[0]]
    if len(apex) != len(label) + 2:
        return False
    return label in _PUBLIC or label.startswith(b"xn--") or (len(label) == 2 and label.isalpha())


# ── records ───────────────────────────────────────────────────────────────────────────────────────


def read_record(
    name: object, rtype: object, value: object, ttl: object, place: Place
) -> Record | str:
    """Return the record that these cells are in a network, or why they are none."""
    if isinstance(owner := _owner(_text(name) or ""), str):
        return owner
    if isinstance(kind := _text(rtype), str) and kind not in RECORD_TYPES:
        known = ", ".join(sorted(RECORD_TYPES))
        return (
            f"the type is written {kind.upper()}"
            if kind.upper() in RECORD_TYPES
            else f"the type is one of {known}"
        )
    if kind is None:
        return "the type must be text"
    if not isinstance(ttl, int) or not TTL.holds(ttl):
        return "the TTL is 0 to 86400"
    zone = zone_of(owner.wire, place.zones)
    if zone is None and zone_of(owner.wire, _INTERNAL) is None:
        return "it is neither in .internal nor in a zone of the network"
    if kind == "PTR" and zone is None:
        return "PTR is for zones only"
    if kind == "CNAME" and owner.wire in place.zones:
        return "the apex of a zone takes no CNAME; ALIAS does the same for addresses"
    made = _rdata(kind, value)
    if isinstance(made, str):
        return made
    text, rdata, targets, addresses = made
    for address in addresses:
        if address[:2] == place.network[:2] and address[:6] != place.network:
            return f"the address {inet_ntop(AF_INET6, address)} belongs to another network"
    if kind == "ALIAS" and not _is_ours(rdata, place):
        return "an ALIAS leads to a name in .internal, .flycast or a zone of the network"
    return Record(owner.name, kind, text, ttl, owner.wire, rdata, targets)


class UnknownZones(Collection[bytes]):
    """Stands for the zones of a network where they are not known: any name may be one, but ours and
    *owner*, which has a CNAME."""

    def __init__(self, owner: bytes = b"") -> None:
        self.owner = owner

    def __contains__(self, name: object) -> bool:
        assert isinstance(name, bytes)
        return name not in (b"\0", self.owner) and zone_of(name, _OURS) is None

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def __len__(self) -> int:
        return 1


def read_record_of_any_zone(
    name: object, rtype: object, value: object, ttl: object, network: bytes
) -> Record | str:
    """Return the record that these cells are in a network that has a zone for it, or why they are
    none in any."""
    owner = _owner(_text(name) or "")
    if isinstance(owner, str):
        return owner
    zones = UnknownZones(owner.wire if _text(rtype) == "CNAME" else b"")
    return read_record(name, rtype, value, ttl, Place(network, zones))


def canonical_value(rtype: str, value: str) -> str:
    """Return a value as it is written canonically, one that is not valid as it is."""
    made = _rdata(rtype, value)
    return value if isinstance(made, str) else made[0]


def rdata_text(rtype: int, rdata: bytes) -> str:
    """Return rdata, whose names are not compressed, in presentation form; of an ALIAS its target."""
    import dns.name
    import dns.rdata
    import dns.rdatatype

    if rtype in (ALIAS, RECORD_TYPES["CNAME"], RECORD_TYPES["PTR"]):
        return dns.name.from_wire(rdata, 0)[0].to_text()
    text = dns.rdata.from_wire(
        "IN", dns.rdatatype.RdataType.make(rtype), rdata, 0, len(rdata)
    ).to_text()
    return printable(text.encode())


def name_text(name: bytes) -> str:
    """Return a name in wire form as rows have it."""
    import dns.name

    return dns.name.from_wire(name, 0)[0].to_text(omit_final_dot=True)


def written_otherwise(record: Record, name: object) -> str:
    """Return what is wrong with how a row writes the owner of *record*; empty when nothing is. One
    spelling per owner lets a change find its rows by their key."""
    return "" if _text(name) == record.name else f"the name is written {record.name}"


def losers(records: Sequence[Record]) -> list[tuple[Record, str]]:
    """Return the records of one owner that cannot stand beside the others, each with why. Equal
    ones do not lose: they are one."""
    lost: list[tuple[Record, str]] = []
    aliases = sorted((r for r in records if r.type == "CNAME"), key=_by_rdata)
    others = [record for record in records if record.type != "CNAME"]
    first = aliases[0].rdata if aliases and not others else None
    for record in aliases:
        if others:
            lost.append((record, "a CNAME cannot stand beside other records"))
        elif record.rdata != first:
            lost.append((record, "a name has one CNAME"))
    for rtype in dict.fromkeys(record.type for record in others):
        of_type = sorted((r for r in others if r.type == rtype), key=_by_rdata)
        if rtype == "ALIAS":
            lost += [(r, "a name has one ALIAS") for r in of_type if r.rdata != of_type[0].rdata]
            continue
        size, seen = 0, b""
        for number, record in enumerate(of_type):
            if number and record.rdata == seen:
                continue
            seen = record.rdata
            size += 12 + len(record.rdata)
            if size > MAX_SET:
                lost.append((record, f"its set is larger than {MAX_SET:,} octets"))
    return lost


def sets_of(records: Iterable[Record]) -> list[RecordSet]:
    """Return the sets of one owner's records, of which none is a loser. The least TTL is that of the
    set (RFC 2181 section 5.2)."""
    by_type: dict[str, list[Record]] = {}
    for record in records:
        by_type.setdefault(record.type, []).append(record)
    return [
        RecordSet(
            RECORD_TYPES[rtype],
            min(record.ttl for record in of_type),
            tuple(sorted({record.rdata for record in of_type})),
        )
        for rtype, of_type in by_type.items()
    ]


# ── parts ─────────────────────────────────────────────────────────────────────────────────────────


class _Owner(NamedTuple):
    name: str
    wire: bytes


# Of one owner a network often has several records, and they come one after the other.
@lru_cache(1_024)
def _owner(text: str) -> _Owner | str:
    if _PLAIN_NAME.match(text) and len(text) <= 253:
        name = text.lower().removesuffix(".")
        return _Owner(name, wire(tuple(name.encode().split(b"."))))
    read = read_name(text)
    return read if isinstance(read, str) else _Owner(canonical(read), wire_of(read))


_Rdata = tuple[str, bytes, tuple[bytes, ...], tuple[bytes, ...]]


def _rdata(kind: str, value: object) -> _Rdata | str:
    """Return canonical text, octets, names and addresses of a value, or what is wrong with it."""
    text = _text(value)
    if text is None:
        return "the value must be text"
    if len(text) > _MAX_TEXT:
        return "the value is larger than a message"
    if (plain := _plain(kind, text)) is not None:
        return plain
    if _CONTROL.search(text):
        return "the value must be one line without control characters"
    if _COMMENT.match(text):
        return "a ; outside quotes begins a comment: write the text in quotes"
    if kind not in _ADDRESS_TYPES and kind != "TXT" and _AT.search(text):
        return "@ has no meaning here: write the name"
    import dns.exception
    import dns.name
    import dns.rdata
    import dns.rdataclass

    try:
        rdata = dns.rdata.from_text(
            dns.rdataclass.IN,
            "CNAME" if kind == "ALIAS" else kind,
            text,
            origin=dns.name.root,
            relativize=False,
        )
        rdata = _lowered(rdata)
        octets = rdata.to_wire(origin=dns.name.root)
        canonical_text = rdata.to_text(origin=dns.name.root, relativize=False)
    except (dns.exception.DNSException, ValueError, ArithmeticError, LookupError) as error:
        return f"no valid {kind}: {_lower(error)}"
    assert octets is not None
    if len(octets) > MAX_SET - 12:
        return f"the value is larger than {MAX_SET:,} octets"
    return canonical_text, octets, _targets(rdata), _addresses(kind, rdata, octets)


# Hot path: most of a hundred thousand records are these; dnspython takes ten times as long.
def _plain(kind: str, text: str) -> _Rdata | None:
    """Return what `_rdata` does of an address or a plain name; None: another form, or a fault."""
    if kind == "A" and _DOTTED.match(text):
        try:
            octets = inet_pton(AF_INET, text)
        except OSError:
            return None
        return text, octets, (), ()
    if kind == "AAAA" and _HEX.match(text):
        try:
            octets = inet_pton(AF_INET6, text)
        except OSError:
            return None
        return inet_ntop(AF_INET6, octets), octets, (), (octets,)
    if kind in _NAME_TYPES and len(text) <= 253 and _PLAIN_NAME.match(text):
        name = text.lower().removesuffix(".")
        octets = wire(tuple(name.encode().split(b".")))
        return f"{name}.", octets, (octets,), ()
    return None


def _lowered(rdata: Any) -> Any:
    """Return *rdata* with its names in lower case."""
    import dns.name

    names = {
        slot: value.canonicalize()
        for slot in rdata._get_all_slots()
        if isinstance(value := getattr(rdata, slot, None), dns.name.Name)
    }
    return rdata.replace(**names) if names else rdata


def _targets(rdata: Any) -> tuple[bytes, ...]:
    import dns.name

    return tuple(
        wire_of(value)
        for slot in rdata._get_all_slots()
        if isinstance(value := getattr(rdata, slot, None), dns.name.Name)
    )


def _addresses(kind: str, rdata: Any, octets: bytes) -> tuple[bytes, ...]:
    """Return the IPv6 addresses in a value."""
    if kind == "AAAA":
        return (octets,)
    if kind in ("SVCB", "HTTPS"):
        from dns.rdtypes.svcbbase import ParamKey

        hints = rdata.params.get(ParamKey.IPV6HINT)
        if hints is not None:
            return tuple(inet_pton(AF_INET6, address) for address in hints.addresses)
    return ()


_INTERNAL: Final = frozenset({wire(INTERNAL)})
_OURS: Final = _INTERNAL | {wire(FLYCAST)}


def _is_ours(name: bytes, place: Place) -> bool:
    """Whether an ALIAS may lead to *name*."""
    return zone_of(name, place.zones) is not None or zone_of(name, _OURS) is not None


def _ends_with(labels: Labels, end: Labels) -> bool:
    return labels[-len(end) :] == end


def _dotted(labels: Labels) -> str:
    return b".".join(labels).decode()


def _by_rdata(record: Record) -> bytes:
    return record.rdata


def _text(cell: object) -> str | None:
    """Return a cell as text; None when it is none."""
    if isinstance(cell, bytes):
        try:
            return cell.decode()
        except UnicodeDecodeError:
            return None
    return cell if isinstance(cell, str) else None


def _lower(error: Exception) -> str:
    """Return the words of an exception as part of a sentence: printable, and not long."""
    words = str(error).strip().rstrip(".") or type(error).__name__
    printable = "".join(c if c.isprintable() else "?" for c in words)[:120]
    return printable[:1].lower() + printable[1:]
