"""Find the requester: source and destination address → its network, and its place there.

    fdaa · network (32) · host (32) · machine (32) · free (16)
    |------- /48: the network -------|
    |---------------- /112: a machine ---------------|
    |---------------- /120: a WireGuard peer, looked for first ----|

The source address is trusted: on a 6PN network nobody can send from another tenant's address. An
outsider is a source that no rule maps to a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Final

from internal_dns.core.catalog import Catalog, Machine, Network, NetworkId, Peer

V4_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291 section 2.5.5.2
LOOPBACK: Final = (bytes(15) + b"\x01", V4_MAPPED + b"\x7f")


@dataclass(frozen=True, slots=True)
class SourceMap:
    """A rule that sources inside `source` belong to `network`.

    For development, and for hosts that cannot have a 6PN address.
    """

    source: IPv6Network
    network: NetworkId

    @classmethod
    def of(cls, source: IPv4Network | IPv6Network, network: NetworkId) -> SourceMap:
        if isinstance(source, IPv4Network):
            packed = V4_MAPPED + source.network_address.packed
            source = IPv6Network((packed, 96 + source.prefixlen))
        return cls(source, network)

    def covers(self, address: bytes) -> bool:
        return IPv6Address(address) in self.source


@dataclass(frozen=True, slots=True)
class Requester:
    """The network that a query comes from, and how it was found.

    A `mapped` source has no place in the network. `region` is that of dev mode's `NETWORK/REGION`.
    """

    network: Network
    source: bytes
    mapped: bool = False
    region: bytes | None = None
    by: SourceMap | str = ""  # the rule, or a description of it; empty: the source address

    @property
    def rule(self) -> str:
        """The rule that led to the network, in words."""
        match self.by:
            case SourceMap(source=source):
                return f"the configured map {source}={hex48(self.network.prefix)}"
            case "":
                return f"the /48 of its address, {hex48(self.source)}"
            case words:
                return words


@dataclass(frozen=True, slots=True)
class Outsider:
    """A source that is refused; `reason` is for `explain` and never sent in a reply."""

    reason: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where the requester is, for `nearest`; None is unknown.

    `own` is the address of the machine that sent the query.
    """

    region: bytes | None = None
    host: bytes | None = None  # the four host octets
    own: bytes | None = None
    machine: Machine | None = None
    peer: Peer | None = None

    @property
    def key(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The values that an order by distance depends on."""
        return self.region, self.host, self.own


NOWHERE: Final = Place()


def requester(
    source: bytes,
    destination: bytes,
    catalog: Catalog,
    prefix: bytes,
    maps: tuple[SourceMap, ...] = (),
) -> Requester | Outsider:
    """Return the requester at *source*, or why it is refused. Both addresses have 16 octets."""
    if source[:2] == prefix:
        number = NetworkId(int.from_bytes(source[2:6], "big"))
        if not number:
            return Outsider("the source is in network 0, which is reserved")
        who = Requester(network_of(catalog, number, prefix), source)
    else:
        best = max(
            (m for m in maps if m.covers(source)), key=lambda m: m.source.prefixlen, default=None
        )
        if best is None:
            return Outsider("no rule maps this source to a network")
        network = network_of(catalog, best.network, prefix)
        who = Requester(network, source, mapped=True, by=best)
    return (
        who
        if may_ask_at(destination, who.network, prefix)
        else Outsider("the query was sent to another network's address")
    )


def may_ask_at(destination: bytes, network: Network, prefix: bytes) -> bool:
    """Whether *network* may query the server address *destination*.

    Every network may use `fdaa::3` and its own `<network>::3`.
    """
    return destination[:2] != prefix or destination[2:6] in (b"\0\0\0\0", network.prefix[2:])


def network_of(catalog: Catalog, number: NetworkId, prefix: bytes) -> Network:
    """Return network *number*, or an empty one that is marked as unknown."""
    known = catalog.networks.get(number)
    return known or Network(number, prefix + number.to_bytes(4, "big"), known=False)


def hex48(address: bytes) -> str:
    """The /48 of *address* as text."""
    return f"{IPv6Address(address[:6] + bytes(10))}/48"


def place(who: Requester, catalog: Catalog, server_region: bytes | None) -> Place:
    """Return where *who* is.

    The first match decides: a peer's /120, a machine's /112, `hosts` by the host bits, the server's
    region.
    """
    if who.mapped:
        return Place(who.region or server_region)
    host = who.source[6:10]
    on_host = catalog.hosts.get(int.from_bytes(host, "big"))
    if peer := who.network.peer_by_120.get(who.source[:15]):
        return Place(peer.region or on_host or server_region, peer=peer)
    if machine := who.network.machine_by_112.get(who.source[:14]):
        return Place(machine.region, host, machine.address, machine)
    if on_host is not None:
        return Place(on_host, host)
    return Place(server_region)
