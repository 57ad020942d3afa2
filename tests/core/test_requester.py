"""Source and destination address → network, machine, peer and place of the requester."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from internal_dns.core.catalog import NetworkId
from internal_dns.core.journey import Rules
from internal_dns.core.requester import Outsider, Place, Requester, SourceMap, place, requester
from tests.core.messages import (
    AAAA,
    ACME,
    EDE,
    TXT,
    dig,
    ip,
    loaded,
    machine,
    opt,
    option,
    options,
    query,
    records,
)

PREFIX = b"\xfd\xaa"
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "networks": [(ACME, "acme", ""), (0x19, "globex", ""), (0x1A, "", "")],
    "machines": [
        machine("m1", "fdaa:0:18:a7b:7d:f066:b83b:2", region="ord"),
        machine("m3", "fdaa:0:18:a7b:7d:f066:b83c:2", region="lax", state="stopped"),
        machine("m4", "fdaa:0:18:a7b:7d:f066:b83c:3", region="sea"),
        machine("m2", "fdaa:0:18:a7b:7d:f066:b83c:4", region="nrt"),
        machine("m5", "fdaa:0:18:a7b:7d:f066:b83d:2", region="syd", state="destroyed", skip=1),
    ],
    "peers": [
        (ACME, "laptop", "fdaa:0:18:a7b:7d:f066:b83b:102", ""),
        (ACME, "desk", "fdaa:0:18:a7b:7d:f066:b83b:202", "waw"),
        (ACME, "zeta", "fdaa:0:18:a7b:7d:f066:b83b:302", "yyz"),
        (ACME, "alpha", "fdaa:0:18:a7b:7d:f066:b83b:303", "gru"),
        (ACME, "interactive-1", "fdaa:0:18:1:1:1:1:102", "otp"),
        (ACME, "far", "fdaa:0:18:2:2:1:1:102", ""),
    ],
    "hosts": [(0x0A7B_007D, "", "iad")],
}
CATALOG = loaded(rows=ROWS).catalog


def asking(
    source: str, *, maps: tuple[SourceMap, ...] = (), destination: str = "fdaa::3"
) -> Requester:
    found = requester(ip(source), ip(destination), CATALOG, PREFIX, maps)
    assert isinstance(found, Requester)
    return found


def placed(
    source: str, *, server: bytes | None = b"srv", maps: tuple[SourceMap, ...] = ()
) -> Place:
    return place(asking(source, maps=maps), CATALOG, server)


HOST = bytes.fromhex("0a7b007d")


@pytest.mark.parametrize(
    ("source", "region", "host", "own"),
    [
        # the machine of its /112: its region and host bits, and it knows itself
        ("fdaa:0:18:a7b:7d:f066:b83b:2", b"ord", HOST, "fdaa:0:18:a7b:7d:f066:b83b:2"),
        ("fdaa:0:18:a7b:7d:f066:b83b:7", b"ord", HOST, "fdaa:0:18:a7b:7d:f066:b83b:2"),
        # several on one /112: started first, then the lowest id
        ("fdaa:0:18:a7b:7d:f066:b83c:2", b"nrt", HOST, "fdaa:0:18:a7b:7d:f066:b83c:4"),
        # in any state
        ("fdaa:0:18:a7b:7d:f066:b83d:2", b"syd", HOST, "fdaa:0:18:a7b:7d:f066:b83d:2"),
        # a peer's /120 is longer: its region, else that of its host, else the server's; no host, no
        # self
        ("fdaa:0:18:a7b:7d:f066:b83b:102", b"iad", None, None),
        ("fdaa:0:18:a7b:7d:f066:b83b:1ff", b"iad", None, None),
        ("fdaa:0:18:a7b:7d:f066:b83b:202", b"waw", None, None),
        ("fdaa:0:18:2:2:1:1:102", b"srv", None, None),
        # several on one /120: the lowest name
        ("fdaa:0:18:a7b:7d:f066:b83b:302", b"gru", None, None),
        # hidden peers are requesters too
        ("fdaa:0:18:1:1:1:1:102", b"otp", None, None),
        # a known host
        ("fdaa:0:18:a7b:7d:9:9:9", b"iad", HOST, None),
        # nothing is known: the server's region
        ("fdaa:0:18:9:9:9:9:9", b"srv", None, None),
        # machines and peers of another network do not count
        ("fdaa:0:19:a7b:7d:f066:b83b:2", b"iad", HOST, None),
        ("fdaa:0:19:a7b:7d:f066:b83b:202", b"iad", HOST, None),
        ("fdaa:0:77:a7b:7d:f066:b83b:2", b"iad", HOST, None),
    ],
)
def test_a_requester_is_placed_by_peer_machine_host_or_server(
    source: str, region: bytes, host: bytes | None, own: str | None
) -> None:
    found = placed(source)
    assert (found.region, found.host, found.own) == (region, host, ip(own) if own else None)


def test_a_server_without_a_region_places_nobody() -> None:
    assert placed("fdaa:0:18:9:9:9:9:9", server=None) == Place()
    assert placed("fdaa:0:18:2:2:1:1:102", server=None).region is None
    assert placed("fdaa:0:18:a7b:7d:f066:b83b:202", server=None).region == b"waw"


def source_map(text: str, network: int) -> SourceMap:
    return SourceMap.of(ip_network(text), NetworkId(network))


def test_the_longest_map_wins_and_ipv4_is_mapped() -> None:
    maps = (
        source_map("0.0.0.0/0", 0x18),
        source_map("10.0.0.0/8", 0x19),
        source_map("10.1.0.0/16", 0x1A),
    )
    assert asking("192.0.2.1", maps=maps).network.id == 0x18
    assert asking("10.2.0.1", maps=maps).network.id == 0x19
    assert asking("10.1.255.255", maps=maps).network.id == 0x1A
    assert isinstance(requester(ip("::1"), ip("::1"), CATALOG, PREFIX, maps), Outsider)


def test_a_mapped_source_is_in_the_servers_region_and_on_no_host() -> None:
    found = placed("::1", maps=(source_map("::/0", 0x18),))
    assert found == Place(b"srv")


def test_a_source_of_the_prefix_is_never_remapped() -> None:
    everything = (source_map("::/0", 0x19),)
    assert asking("fdaa:0:18::1", maps=everything).network.id == 0x18
    assert isinstance(
        requester(ip("fdaa::1"), ip("fdaa::3"), CATALOG, PREFIX, everything), Outsider
    )


def test_a_network_that_is_not_in_the_catalog_is_empty_and_unknown() -> None:
    found = asking("fdaa:0:77::1").network
    assert (found.known, found.id, found.prefix) == (False, 0x77, ip("fdaa:0:77::")[:6])
    assert asking("fdaa:ffff:ffff::1").network.id == 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("destination", "allowed"),
    [
        ("fdaa::3", True),
        ("fdaa::4", True),
        ("fdaa:0:18::3", True),
        ("fdaa:0:18:1::5", True),
        ("::1", True),
        ("192.0.2.1", True),
        ("fdab:0:19::3", True),
        ("fdaa:0:19::3", False),
        ("fdaa:1:18::3", False),
        ("fdaa:0:77::3", False),
    ],
)
def test_a_server_address_of_another_network_is_refused(destination: str, allowed: bool) -> None:
    for source in ("fdaa:0:18::1", "::1"):
        found = requester(
            ip(source), ip(destination), CATALOG, PREFIX, (source_map("::1/128", 0x18),)
        )
        assert isinstance(found, Requester) == allowed


def test_whoami_says_how_the_server_identifies_the_requester() -> None:
    for source, expected in (
        (
            "fdaa:0:18:a7b:7d:f066:b83b:2",
            "network=acme,region=ord,address=fdaa:0:18:a7b:7d:f066:b83b:2,server=ams",
        ),
        ("fdaa:0:1a::1", "network=26,region=ams,address=fdaa:0:1a::1,server=ams"),
        ("fdaa:0:77::1", "network=,region=ams,address=fdaa:0:77::1,server=ams"),
    ):
        found = dig(
            query("_whoami.internal", TXT),
            source=ip(source),
            catalog=CATALOG,
            rules=Rules(region=b"ams"),
        )
        (text,) = records(found, TXT)
        assert text.strip('"').rpartition(",")[0] == expected


# ── dev mode ──────────────────────────────────────────────────────────────────────────────────────

DEV = Rules(dev=True, region=b"ams")


def whoami(said: bytes, source: str = "::1", rules: Rules = DEV) -> Any:
    octets = query("_whoami.internal", TXT, opt(option(65_001, said)))
    return dig(octets, source=ip(source), destination=ip("::1"), catalog=CATALOG, rules=rules)


@pytest.mark.parametrize(
    ("said", "network", "region"),
    [
        (b"acme", "acme", "ams"),
        (b"ACME", "acme", "ams"),
        (b"globex/nrt", "globex", "nrt"),
        (b"fdaa:0:18:a7b:7d:f066:b83b:2", "acme", "ord"),
        (b"fdaa:0:77::1", "", "ams"),
    ],
)
@pytest.mark.parametrize("source", ["::1", "127.0.0.1", "127.9.9.9"])
def test_in_dev_mode_a_query_from_loopback_names_the_requester(
    said: bytes, network: str, region: str, source: str
) -> None:
    (text,) = records(whoami(said, source), TXT)
    assert text.startswith(f'"network={network},region={region},')


@pytest.mark.parametrize(
    ("said", "rcode"),
    [
        (b"", 1),
        (b"/ams", 1),
        (b"acme/", 1),
        (b"\xff", 1),
        (b"a\0b", 1),
        (b"x" * 128, 1),
        (b"fdaa::zz", 1),
        (b"1:2", 1),
        (b"nosuch", 5),
        (b"2001:db8::1", 5),
        (b"fdaa::1", 5),
    ],
)
def test_a_senseless_dev_mode_option_is_refused(said: bytes, rcode: int) -> None:
    assert whoami(said).rcode() == rcode


@pytest.mark.parametrize("said", [b"acme", b"nosuch", b"acme/", b"2001:db8::1", b"fdaa:0:18::9"])
def test_dev_mode_echoes_the_option_that_it_applies(said: bytes) -> None:
    assert options(whoami(said))[65_001] == said


def test_a_dev_mode_option_that_is_ignored_is_not_echoed() -> None:
    mapped = replace(DEV, dev=False, maps=(source_map("::/0", 0x19),))
    for found in (
        whoami(b"acme", rules=mapped),
        whoami(b"acme", "fdaa:0:19::1"),
        whoami(b"acme", "2001:db8::1"),
        whoami(b"acme", rules=replace(DEV, echo=False)),
    ):
        assert 65_001 not in options(found)


def test_outside_dev_mode_and_from_elsewhere_the_option_is_unknown() -> None:
    mapped = replace(DEV, dev=False, maps=(source_map("::/0", 0x19),))
    (text,) = records(whoami(b"acme", rules=mapped), TXT)
    assert text.startswith('"network=globex,')
    elsewhere = whoami(b"acme", "fdaa:0:19::1")
    assert records(elsewhere, TXT)[0].startswith('"network=globex,')
    assert whoami(b"acme", "2001:db8::1").rcode() == 5
    outsider = dig(
        query("web.internal", AAAA, opt(option(65_001, b"acme"))),
        source=ip("::1"),
        rules=replace(DEV, dev=False),
    )
    assert options(outsider)[EDE] == b"\0\x12"
