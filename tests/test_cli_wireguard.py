"""The WireGuard configuration of a peer, by its parts."""

from __future__ import annotations

import dns.reversename

from internal_dns.cli.wireguard import split_dns

ADDRESS = "fdaa:0:18:a7b:7d:0:7:102"


def test_the_domains_are_our_zones_and_the_reverse_zone_of_the_network_alone() -> None:
    found = split_dns(ADDRESS, 0x18, b"\xfd\xaa", ("corp.example",))
    assert found.domains == (
        "internal", "flycast", "8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa", "corp.example",
    )  # fmt: skip
    own, other = (str(dns.reversename.from_address(a)) for a in (ADDRESS, "fdaa:0:19::1"))
    assert own.endswith(f".{found.domains[2]}.")
    assert not other.endswith(f".{found.domains[2]}.")


def test_another_prefix_is_obeyed() -> None:
    found = split_dns("fd12:0:18::102", 0x18, b"\xfd\x12")
    assert found.server == "fd12:0:18::3"
    assert found.routes == ("fd12:0:18::/48", "fd12::3/128")


def test_the_file_reads_as_wg_quick_does() -> None:
    lines = split_dns(ADDRESS, 0x18, b"\xfd\xaa").lines()
    kept = [line for line in lines if line and not line.startswith("#")]
    assert [line.partition(" ")[0] for line in kept] == [
        "[Interface]", "Address", "PostUp", "[Peer]", "AllowedIPs",
    ]  # fmt: skip
