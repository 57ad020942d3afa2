"""Who asks: source and destination address → the network, and on demand the place in it.

    fdaa · network (32) · host (32) · machine (32) · free (16)
    |------- /48: the network -------|
    |---------------- /112: a machine ---------------|
    |---------------- /120: a WireGuard peer, looked for first ----|

The source address is trusted: on a 6PN network nobody can send from another's. An outsider is one
whom no rule maps.
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
    """Sources inside *source* ask as *network*: for development, and for hosts that cannot have a
    6PN address."""

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
    """Who asks. `mapped` sources are nowhere in the network; `region` is what dev mode's
    `NETWORK/REGION` says."""

    network: Network
    source: bytes
    mapped: bool = False
    region: bytes | None = None
    by: SourceMap | str = ""  # the map that led to the network, or words; empty: the address itself

    @property
    def rule(self) -> str:
        """By which rule this network, in words."""
        match self.by:
            case SourceMap(source=source):
                return f"the configured map {source}={hex48(self.network.prefix)}"
            case "":
                return f"the /48 of its address, {hex48(self.source)}"
            case words:
                return words


@dataclass(frozen=True, slots=True)
class Outsider:
    """A source that must be refused; `reason` is for `explain`, never for the wire."""

    reason: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where the asker is, for `nearest`: None is unknown; `own` is the address of the machine that
    asks."""

    region: bytes | None = None
    host: bytes | None = None  # the four host octets
    own: bytes | None = None
    machine: Machine | None = None
    peer: Peer | None = None

    @property
    def key(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """All that an order by distance depends on."""
        return self.region, self.host, self.own


NOWHERE: Final = Place()


def requester(
    source: bytes,
    destination: bytes,
    catalog: Catalog,
    prefix: bytes,
    maps: tuple[SourceMap, ...] = (),
) -> Requester | Outsider:
    """Return who *source* is to the server at *destination* (both 16 octets), or why it is
    refused."""
    if source[:2] == prefix:
        number = NetworkId(int.from_bytes(source[2:6], "big"))
        if not number:
            return Outsider("the source has network 0, which is nobody's")
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
        else Outsider("it asked at another network's address")
    )


def may_ask_at(destination: bytes, network: Network, prefix: bytes) -> bool:
    """Whether *network* may use the server's address *destination*: `fdaa::3` is everyone's, `<network>::3` its own."""
    return destination[:2] != prefix or destination[2:6] in (b"\0\0\0\0", network.prefix[2:])


def network_of(catalog: Catalog, number: NetworkId, prefix: bytes) -> Network:
    """Return network *number*, or an empty one that is marked as not known."""
    known = catalog.networks.get(number)
    return known or Network(number, prefix + number.to_bytes(4, "big"), known=False)


def hex48(address: bytes) -> str:
    """The /48 of *address* as text."""
    return f"{IPv6Address(address[:6] + bytes(10))}/48"


def place(who: Requester, catalog: Catalog, server_region: bytes | None) -> Place:
    """Return where *who* is: peer by /120, machine by /112, `hosts` by the host bits, else the
    server's region."""
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
