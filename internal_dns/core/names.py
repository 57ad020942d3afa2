"""The grammar of our names: labels → what the name stands for. docs/names.md is the contract.

Names are read from right to left: the zone, the app, then reserved labels before data. <x> stands
for any label, [x] for an optional part.

    internal
      _apps                                     Apps
      [all.]_instances                          Instances
      _peer                                     Peers
      <peer>._peer                              PeerAddress
      _api · _dns · _whoami                     ApiAddress · ServerAddress · WhoAmI
      <id or name>.vm.<app>                     MachineAddress
      [global. | <region>.]<app>                Addresses
      [global. | <region>.]<group>.process.<app>
      top<N>.nearest.of.[<group>.process.]<app> Nearest
      [all.]regions.[<group>.process.]<app>     Regions
      [all.]vms.[<group>.process.]<app>         Machines
      [all.]_instances.<app>                    Instances
      [<value>.]<key>.kv._metadata.<app>        Metadata
      _<service>._tcp|_udp.[global. | <region>.]<app>
      _<service>._tcp|_udp.[<region>.]<group>.process.<app>
                                                Services
    flycast
      [<any>.]<app>                             Flycast
    <prefix>.ip6.arpa
      <nibbles>                                 Reverse
    <k>._page.<most of the above>               Page

A name that only has names below it is an EmptyNonTerminal (RFC 9499). Any other name is NoSuchForm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

Labels = tuple[bytes, ...]  # leftmost first, lower-cased, without the root

INTERNAL: Final = (b"internal",)
FLYCAST: Final = (b"flycast",)
# Labels that are never read as a region.
RESERVED: Final = frozenset(
    b"vm vms all regions global process of nearest kv _metadata _instances _page _tcp _udp".split()
)
APEX_WORDS: Final = frozenset(b"_apps _instances _peer _api _dns _whoami all".split())
_TOP: Final = re.compile(rb"top([1-9][0-9]{0,4})\Z")
_PAGE: Final = re.compile(rb"[1-9][0-9]*\Z")
_NIBBLES: Final = frozenset(b"0123456789abcdef"[i : i + 1] for i in range(16))


@dataclass(frozen=True, slots=True)
class Apex:
    """A zone's apex."""


@dataclass(frozen=True, slots=True)
class Apps:
    """The apps of the network."""


@dataclass(frozen=True, slots=True)
class Instances:
    """Machines with address and region, of one app or all; `every` includes stopped ones."""

    app: bytes | None
    every: bool = False


@dataclass(frozen=True, slots=True)
class Peers:
    """The names of the visible peers."""


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """The address of a peer."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """`fdaa::3`, the server address that all networks share."""


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """`<network>::3`, the server address in the requester's network."""


@dataclass(frozen=True, slots=True)
class WhoAmI:
    """How the server identifies the requester."""


class Addresses(NamedTuple):
    """The visible machines of an app, or of a region or process group of it, or of both.

    A tuple, so that code unpacks it whole: when it gets a new field, the type checker reports all
    code that ignores the field.
    """

    app: bytes
    region: bytes | None = None
    group: bytes | None = None


@dataclass(frozen=True, slots=True)
class Nearest:
    """At most `count` visible machines, nearest first."""

    app: bytes
    count: int
    group: bytes | None = None


@dataclass(frozen=True, slots=True)
class MachineAddress:
    """The machine with this id, or the machines with this name."""

    app: bytes
    id: bytes


@dataclass(frozen=True, slots=True)
class Metadata:
    """Visible machines with a metadata key, or with a key and value. A key of None matches none."""

    app: bytes
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Regions:
    """The regions that an app or process group runs in."""

    app: bytes
    group: bytes | None
    every: bool


@dataclass(frozen=True, slots=True)
class Machines:
    """The ids and regions of the machines of an app or process group."""

    app: bytes
    group: bytes | None
    every: bool


@dataclass(frozen=True, slots=True)
class Services:
    """The machines that publish a service of an app, or of a region or process group of it."""

    app: bytes
    service: bytes
    protocol: bytes
    region: bytes | None = None
    group: bytes | None = None


@dataclass(frozen=True, slots=True)
class Flycast:
    """The flycast addresses of an app in the requester's network."""

    app: bytes


@dataclass(frozen=True, slots=True)
class Reverse:
    """The reverse name of an address (32 nibbles, most significant first), or a name above it."""

    nibbles: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list or set; `number` starts at 1."""

    of: Pageable
    number: int


@dataclass(frozen=True, slots=True)
class EmptyNonTerminal:
    """A name that exists because names below it may; it exists as long as `of` does."""

    of: Pageable


@dataclass(frozen=True, slots=True)
class NoSuchForm:
    """A name that no row of the grammar matches. Clients get `reason`; it never quotes the name."""

    reason: str


Pageable = Apps | Instances | Peers | Addresses | Metadata | Regions | Machines | Flycast
Asked = (
    Pageable
    | Apex
    | PeerAddress
    | ServerAddress
    | ApiAddress
    | WhoAmI
    | Nearest
    | MachineAddress
    | Services
    | Reverse
    | Page
    | EmptyNonTerminal
    | NoSuchForm
)

_BELOW: Final = NoSuchForm("nothing is below this name")
_FORM: Final = NoSuchForm("no name has this form")


def internal(rest: Labels) -> Asked:
    """Parse the labels left of `internal`."""
    match rest:
        case ():
            return Apex()
        case (*more, b"_apps"):
            return _paged(Apps(), more)
        case (*more, b"all", b"_instances"):
            return _paged(Instances(None, every=True), more)
        case (*more, b"_instances"):
            return _paged(Instances(None), more)
        case (b"_peer",) | (b"_page", b"_peer") | (_, b"_page", b"_peer"):
            return _paged(Peers(), rest[:-1])
        case (peer, b"_peer"):
            return PeerAddress(peer)
        case (b"_api",):
            return ApiAddress()
        case (b"_dns",):
            return ServerAddress()
        case (b"_whoami",):
            return WhoAmI()
        case (*_, last) if last in APEX_WORDS:
            return _BELOW if last != b"all" else _FORM
        case (*more, app):
            return _of_app(app, tuple(more))
    raise AssertionError("unreachable")


def _of_app(app: bytes, rest: Labels) -> Asked:
    """Parse the labels left of `<app>.internal`."""
    match rest:
        case () | (*_, b"_page"):
            return _paged(Addresses(app), rest)
        case (b"vm",) | (b"process",) | (b"_metadata",) | (b"kv", b"_metadata"):
            return EmptyNonTerminal(Addresses(app))
        case (machine, b"vm"):
            return MachineAddress(app, machine)
        case (*more, group, b"process"):
            return _selected(app, group, tuple(more))
        case (*more, key, b"kv", b"_metadata"):
            return _metadata(app, key, tuple(more))
        case (*more, b"all", b"_instances"):
            return _paged(Instances(app, every=True), more)
        case (*more, b"_instances"):
            return _paged(Instances(app), more)
        case _:
            return _selected(app, None, rest)


def _selected(app: bytes, group: bytes | None, rest: Labels) -> Asked:
    """Parse the labels left of `<app>` or `<group>.process.<app>`: the forms that both have."""
    match rest:
        case () | (*_, b"_page"):
            return _paged(Addresses(app, group=group), rest)
        case (b"_tcp" | b"_udp",) | (_, b"_tcp" | b"_udp"):
            return _published(Addresses(app, group=group), rest)
        case (*more, b"global"):
            of = Addresses(app, group=group)
            return _published(of, tuple(more)) if group is None else _paged(of, more)
        case (b"of",) | (b"nearest", b"of"):
            return EmptyNonTerminal(Addresses(app, group=group))
        case (top, b"nearest", b"of"):
            found = _TOP.match(top)
            return Nearest(app, int(found[1]), group) if found else _FORM
        case (*more, b"all", b"regions"):
            return _paged(Regions(app, group, every=True), more)
        case (*more, b"regions"):
            return _paged(Regions(app, group, every=False), more)
        case (*more, b"all", b"vms"):
            return _paged(Machines(app, group, every=True), more)
        case (*more, b"vms"):
            return _paged(Machines(app, group, every=False), more)
        case (*more, region) if region not in RESERVED:
            return _published(Addresses(app, region, group), tuple(more))
        case _:
            return _FORM


def _published(of: Addresses, rest: Labels) -> Asked:
    """Parse the labels left of *of*: a service of these machines, or a page."""
    app, region, group = of
    match rest:
        case (b"_tcp" | b"_udp",):
            return EmptyNonTerminal(of)
        case (service, b"_tcp" | b"_udp" as protocol) if service[:1] == b"_":
            return Services(app, service[1:], protocol[1:], region, group)
        case (_, b"_tcp" | b"_udp"):
            return _FORM
        case _:
            return _paged(of, rest)


def _metadata(app: bytes, key: bytes, rest: Labels) -> Asked:
    """Parse `<rest>.<key>.kv._metadata.<app>`. A value with dots takes several labels."""
    value, page = _split_page(rest)
    whole = key if not any(b"." in label for label in (key, *value)) else None
    return _paged(Metadata(app, whole, b".".join(value) if value else None), page)


def flycast(rest: Labels) -> Asked:
    """Parse the labels left of `flycast`."""
    if not rest:
        return Apex()
    _, page = _split_page(rest[:-1])
    return _paged(Flycast(rest[-1]), page)


def _split_page(rest: Labels) -> tuple[Labels, Labels]:
    """Split at the rightmost `_page`: the labels right of it, and those up to and including it."""
    for at in range(len(rest), 0, -1):
        if rest[at - 1] == b"_page":
            return rest[at:], rest[:at]
    return rest, ()


def _paged(of: Pageable, rest: Labels | list[bytes]) -> Asked:
    """Return *of* itself, a page of it, or the empty non-terminal `_page` below it."""
    match tuple(rest):
        case ():
            return of
        case (b"_page",):
            return EmptyNonTerminal(of)
        case (number, b"_page") if _PAGE.match(number):
            return Page(of, int(number))
        case (_, b"_page"):
            return NoSuchForm("page numbers start at 1 and have no leading zeros")
        case _:
            return _BELOW


def reverse(rest: Labels, prefix: bytes) -> Asked:
    """Parse the labels left of the reverse zone of *prefix*."""
    if not rest:
        return Apex()
    if len(rest) > 32 - 2 * len(prefix) or not _NIBBLES.issuperset(rest):
        return NoSuchForm("not the reverse name of an address")
    return Reverse(prefix.hex().encode() + b"".join(reversed(rest)))


def reverse_zone(prefix: bytes) -> Labels:
    """Return the apex of the reverse zone of *prefix*: a.a.d.f.ip6.arpa for fdaa::/16."""
    return (*(digit.encode() for digit in reversed(prefix.hex())), b"ip6", b"arpa")


def our_zone(labels: Labels, prefix: bytes) -> Labels | None:
    """Return the apex of our zone that *labels* are in, or None."""
    match labels:
        case (*_, b"internal"):
            return INTERNAL
        case (*_, b"flycast"):
            return FLYCAST
        case (*_, b"ip6", b"arpa"):
            zone = reverse_zone(prefix)
            return zone if labels[-len(zone) :] == zone else None
    return None


def asked_in(zone: Labels, labels: Labels, prefix: bytes) -> Asked:
    """Return what *labels* in *zone*, which is ours, ask for."""
    rest = labels[: -len(zone)]
    if zone == INTERNAL:
        return internal(rest)
    return flycast(rest) if zone == FLYCAST else reverse(rest, prefix)


def printable(octets: bytes) -> str:
    """Return octets as text for people, with unprintable characters as \\xNN.

    The terminal's escape character is the most important of them.
    """
    text = octets.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def wire(labels: Labels) -> bytes:
    """Return the uncompressed wire form of a name."""
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
