"""deploy/compose.yaml, as docker-compose reads it; the other tests here run its server and ask from
its addresses."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from internal_dns.store.generate import demo_rows
from tests.container.compose import FILE, address, compose
from tests.tools import requires_root, requires_tool

pytestmark = [pytest.mark.container, requires_root(), requires_tool("docker-compose")]


@pytest.fixture(scope="module")
def file() -> dict[str, Any]:
    return compose()


def test_the_server_is_at_the_address_of_the_documents_on_the_prefix_of_all_networks(
    file: dict[str, Any],
) -> None:
    (pool,) = file["networks"]["sixpn"]["ipam"]["config"]
    assert file["networks"]["sixpn"]["enable_ipv6"] is True
    assert ip_network(pool["subnet"]) == ip_network("fdaa::/16")
    assert address(file, "server") == "fdaa::3" != pool["gateway"]


def test_the_clients_are_machines_of_two_networks_of_the_demo(file: dict[str, Any]) -> None:
    machines = {str(row[3]): row[1] for row in demo_rows()["machines"]}
    found = [machines[address(file, client)] for client in ("acme", "globex")]
    assert found == [0x18, 0x19]
    assert all(
        ip_address(address(file, client)) in ip_network("fdaa::/16")
        for client in ("acme", "globex")
    )


def test_nothing_in_it_has_a_capability_or_a_writable_root(file: dict[str, Any]) -> None:
    for name, service in file["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.keys() & {"privileged", "cap_add", "user", "pid", "ipc"}, name


def test_the_clients_know_the_server_as_their_only_nameserver(file: dict[str, Any]) -> None:
    resolv_conf = FILE.parent / "compose/resolv.conf"
    for client in ("acme", "globex"):
        assert file["services"][client]["volumes"] == [f"{resolv_conf}:/etc/resolv.conf:ro"]
    words = [line.split() for line in resolv_conf.read_text().splitlines()]
    assert [line[1] for line in words if line[0] == "nameserver"] == [address(file, "server")]
