"""Upstreams as operators write them."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from internal_dns.config import load_settings
from internal_dns.forward.upstreams import PUBLIC, Upstream, from_resolv_conf
from internal_dns.net import Endpoint

# ── which upstreams there are ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("1.1.1.1", "udp://1.1.1.1:53"),
        ("1.1.1.1:5353", "udp://1.1.1.1:5353"),
        ("udp://1.1.1.1", "udp://1.1.1.1:53"),
        ("UDP://1.1.1.1", "udp://1.1.1.1:53"),
        ("udp://1.1.1.1/", "udp://1.1.1.1:53"),
        ("tcp://192.0.2.1:54", "tcp://192.0.2.1:54"),
        ("2001:db8::1", "udp://[2001:db8::1]:53"),
        ("[2001:db8::1]:54", "udp://[2001:db8::1]:54"),
        ("udp://[2001:db8::1]", "udp://[2001:db8::1]:53"),
        ("tcp://[::1]:1", "tcp://[::1]:1"),
        ("tls://9.9.9.9", "tls://9.9.9.9:853"),
        ("tls://9.9.9.9:8853#DNS.Quad9.net", "tls://9.9.9.9:8853#dns.quad9.net"),
        ("tls://[2620:fe::fe]#dns.quad9.net", "tls://[2620:fe::fe]:853#dns.quad9.net"),
        ("https://9.9.9.9", "https://9.9.9.9:443/dns-query"),
        ("https://9.9.9.9/", "https://9.9.9.9:443/dns-query"),
        (
            "https://[2620:fe::fe]:8443/q#dns.quad9.net",
            "https://[2620:fe::fe]:8443/q#dns.quad9.net",
        ),
    ],
)
def test_an_upstream_is_an_address_with_a_transport(url: str, text: str) -> None:
    found = Upstream.parse(url)
    assert str(found) == text
    assert Upstream.parse(text) == found
    assert found.scheme == text.partition(":")[0]


def test_a_link_local_upstream_keeps_its_interface() -> None:
    assert Upstream.parse("udp://[fe80::1%eth0]").endpoint.host == ip_address("fe80::1%eth0")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "udp://",
        "dns.google",
        "tls://dns.google",
        "https://dns.google/dns-query",
        "quic://1.1.1.1",
        "[::1",
        "udp://1.1.1.1:0",
        "udp://1.1.1.1#name",
        "tls://1.1.1.1/path",
        "https://1.1.1.1/?x",
        "https://u@1.1.1.1/",
    ],
)
def test_what_is_no_upstream_is_refused_in_words(url: str) -> None:
    with pytest.raises(ValueError) as error:
        Upstream.parse(url)
    assert len(str(error.value)) > 10


def test_an_encrypted_upstream_by_name_is_an_error_that_says_how_to_write_it() -> None:
    with pytest.raises(ValueError, match="tls://ADDR#NAME"):
        Upstream.parse("tls://dns.example")


def resolv_conf(
    tmp_path: Path, text: str, is_own: Callable[[Endpoint], bool] = lambda endpoint: False
) -> list[str]:
    path = tmp_path / "resolv.conf"
    path.write_bytes(text.encode("latin-1"))
    return [str(upstream) for upstream in from_resolv_conf(is_own, path)]


def test_the_upstreams_of_the_host_are_those_of_its_resolv_conf(tmp_path: Path) -> None:
    text = (
        "# made by hand\nsearch lan\nnameserver 192.0.2.1\n"
        "  nameserver\t2001:db8::1  \nnameserver 192.0.2.2 # x\n"
    )
    assert resolv_conf(tmp_path, text) == [
        "udp://192.0.2.1:53",
        "udp://[2001:db8::1]:53",
        "udp://192.0.2.2:53",
    ]


def test_an_interface_in_resolv_conf_is_kept(tmp_path: Path) -> None:
    assert resolv_conf(tmp_path, "nameserver fe80::1%eth0\n") == ["udp://[fe80::1%eth0]:53"]


def test_lines_of_resolv_conf_that_make_no_sense_are_skipped(tmp_path: Path) -> None:
    lines = [
        "nameserver",
        "nameserver nowhere",
        "nameserver 0.0.0.0",
        "nameservers 192.0.2.9",
        "\xff\xfe",
    ]
    lines += [";nameserver 192.0.2.8", "nameserver 192.0.2.1"]
    assert resolv_conf(tmp_path, "\n".join(lines)) == ["udp://192.0.2.1:53"]


@pytest.mark.parametrize("text", ["", "nameserver\n", "search lan\n", "nameserver fdaa::3\n"])
def test_without_any_upstream_of_the_host_public_ones_are_asked(text: str, tmp_path: Path) -> None:
    own = load_settings({}, {}, None).is_own
    assert resolv_conf(tmp_path, text, own) == [f"{url}:53" for url in PUBLIC]
    assert [str(u) for u in from_resolv_conf(own, tmp_path / "nosuch")] == [
        f"{url}:53" for url in PUBLIC
    ]
    assert [str(u) for u in from_resolv_conf(own, tmp_path)] == [f"{url}:53" for url in PUBLIC]


@pytest.mark.parametrize(
    ("listen", "own"),
    [
        ("[fdaa::3]:53", ["fdaa::3"]),
        ("127.0.0.1:53", ["127.0.0.1"]),
        ("[::]:53", ["::1", "fdaa::3", "fdaa:0:18::3"]),
        ("[::1]:1053", []),
    ],
)
def test_this_server_is_not_its_own_upstream(listen: str, own: list[str], tmp_path: Path) -> None:
    every = ["::1", "fdaa::3", "fdaa:0:18::3", "127.0.0.1", "192.0.2.1"]
    text = "".join(f"nameserver {address}\n" for address in every)
    found = resolv_conf(tmp_path, text, load_settings({"listen": (listen,)}, {}, None).is_own)
    assert found == [str(Upstream.parse(address)) for address in every if address not in own]
