"""The kernel's routing table decides whether an address is local."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from internal_dns.service.routes import is_local
from tests.live.hosts import Host
from tests.tools import requires_root, requires_tool


@pytest.mark.parametrize("address", ["::1", "127.0.0.1", "127.1.2.3"])
def test_loopback_addresses_are_local(address: str) -> None:
    assert is_local(ip_address(address))


@pytest.mark.parametrize("address", ["2001:db8::1", "192.0.2.1", "fdaa:ffff:ffff::3"])
def test_addresses_of_other_hosts_are_not_local(address: str) -> None:
    assert not is_local(ip_address(address))


@pytest.mark.live
@requires_root()
@requires_tool("ip")
def test_a_local_route_makes_an_address_local() -> None:
    host = Host("routes")
    try:
        address = ip_address("fdaa:0:18::3")
        assert not host.inside(lambda: is_local(address))
        host.ip("-6 route add local fdaa:0:18::/64 dev lo")
        assert host.inside(lambda: is_local(address))
        assert not host.inside(lambda: is_local(ip_address("fdaa:0:18:1::3")))
    finally:
        host.close()
