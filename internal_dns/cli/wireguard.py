"""The WireGuard configuration of a peer: a laptop that asks us for our names, and for nothing else.

`DNS =` of wg-quick would send us every name. So the resolver of the host is told instead which
domains are ours ("split DNS"); how depends on the resolver.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any


@dataclass(frozen=True, slots=True)
class SplitDns:
    """What a peer of one network needs: its address, the server, the domains to ask there."""

    address: str
    server: str
    domains: tuple[str, ...]
    routes: tuple[str, ...]  # that lead into the tunnel

    def value(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "Address": f"{self.address}/120",
            "AllowedIPs": list(self.routes),
            "DNS": self.server,
            "domains": list(self.domains),
        }

    def lines(self) -> list[str]:
        """A wg-quick file without the keys, and how other resolvers are told."""
        routing = " ".join(f"'~{domain}'" for domain in self.domains)
        searched = ",".join(f"~{domain}" for domain in self.domains)
        spaces = ",".join(f"'.{domain}'" for domain in self.domains)
        return [
            "[Interface]",
            "# PrivateKey = (this peer's)",
            f"Address = {self.address}/120",
            "# systemd-resolved: only these domains are asked of the network's server.",
            f"PostUp = resolvectl dns %i {self.server} && resolvectl domain %i {routing} && "
            "resolvectl dnssec %i no",
            "",
            "[Peer]",
            "# PublicKey, Endpoint = (the gateway's)",
            f"AllowedIPs = {', '.join(self.routes)}",
            "",
            "# Other resolvers, instead of PostUp (docs/operating.md, Laptops):",
            "# NetworkManager (CONNECTION as in `nmcli connection`, with dns=systemd-resolved or "
            "dns=dnsmasq):",
            f"#   nmcli connection modify CONNECTION ipv6.dns {self.server} ipv6.dns-search "
            f"'{searched}'",
            "# macOS:",
            "#   sudo mkdir -p /etc/resolver",
            f"#   for zone in {' '.join(self.domains)}; do",
            f'#     echo "nameserver {self.server}" | sudo tee /etc/resolver/$zone; done',
            "# Windows, PowerShell as administrator:",
            f"#   Add-DnsClientNrptRule -Namespace {spaces} -NameServers '{self.server}'",
        ]


def split_dns(address: str, number: int, prefix: bytes, zones: tuple[str, ...] = ()) -> SplitDns:
    """Return what the peer at *address* of network *number* needs; *zones* are private zones of
    that network."""
    network = prefix + number.to_bytes(4, "big")
    everyones = IPv6Address(prefix + bytes(13) + b"\3")
    nibbles = ".".join(reversed(network.hex()))
    return SplitDns(
        address,
        str(IPv6Address(network + bytes(9) + b"\3")),
        ("internal", "flycast", f"{nibbles}.ip6.arpa", *zones),
        (f"{IPv6Address(network + bytes(10))}/48", f"{everyones}/128"),
    )
