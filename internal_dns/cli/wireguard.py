"""The WireGuard configuration of a peer, such as a laptop, with split DNS.

`DNS =` of wg-quick would send every query to this server. Instead, the resolver of the host is
configured to send only queries for internal names; how depends on the resolver.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Final

_PLAIN: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class SplitDns:
    """The configuration of one peer: its address, the server, and the domains to query there."""

    address: str
    server: str
    domains: tuple[str, ...]
    routes: tuple[str, ...]  # prefixes reached through the tunnel

    def value(self) -> dict[str, Any]:
        """Return the configuration as JSON has it."""
        return {
            "Address": f"{self.address}/120",
            "AllowedIPs": list(self.routes),
            "DNS": self.server,
            "domains": list(self.domains),
        }

    def lines(self) -> list[str]:
        """Return a wg-quick file without keys, with comments for other resolvers."""
        routing = " ".join(f"'~{domain}'" for domain in self.domains)
        search = ",".join(f"~{domain}" for domain in self.domains)
        namespaces = ",".join(f"'.{domain}'" for domain in self.domains)
        return [
            "[Interface]",
            "# PrivateKey = (of this peer)",
            f"Address = {self.address}/120",
            "# systemd-resolved: send only queries for these domains to the network's server.",
            f"PostUp = resolvectl dns %i {self.server} && resolvectl domain %i {routing} && "
            "resolvectl dnssec %i no",
            "",
            "[Peer]",
            "# PublicKey, Endpoint = (of the gateway)",
            f"AllowedIPs = {', '.join(self.routes)}",
            "",
            "# Other resolvers, instead of PostUp (docs/operating.md, Laptops):",
            "# NetworkManager (CONNECTION as in `nmcli connection`, with dns=systemd-resolved or "
            "dns=dnsmasq):",
            f"#   nmcli connection modify CONNECTION ipv6.dns {self.server} ipv6.dns-search "
            f"'{search}'",
            "# macOS:",
            "#   sudo mkdir -p /etc/resolver",
            f"#   for zone in {' '.join(self.domains)}; do",
            f'#     echo "nameserver {self.server}" | sudo tee /etc/resolver/$zone; done',
            "# Windows, PowerShell as administrator:",
            f"#   Add-DnsClientNrptRule -Namespace {namespaces} -NameServers '{self.server}'",
        ]


def is_plain_zone(name: object, prefix: bytes) -> bool:
    """Whether a row of a zone, which another engine may have written, is served and has a name that
    shells and resolvers take as it is."""
    from internal_dns.store.presentation import Zone, read_zone

    zone = read_zone(name, prefix)
    return isinstance(zone, Zone) and zone.name == name and _PLAIN.fullmatch(zone.name) is not None


def split_dns(address: str, number: int, prefix: bytes, zones: tuple[str, ...] = ()) -> SplitDns:
    """Return the configuration of the peer at *address* in network *number*.

    *zones* are the private zones of that network.
    """
    network = prefix + number.to_bytes(4, "big")
    shared_server = IPv6Address(prefix + bytes(13) + b"\3")
    nibbles = ".".join(reversed(network.hex()))
    return SplitDns(
        address,
        str(IPv6Address(network + bytes(9) + b"\3")),
        ("internal", "flycast", f"{nibbles}.ip6.arpa", *zones),
        (f"{IPv6Address(network + bytes(10))}/48", f"{shared_server}/128"),
    )
