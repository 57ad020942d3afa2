"""Whatever a source holds: a SourceError, or a document of valid names and addresses."""

import json
import re
from contextlib import suppress
from csv import writer as csv_writer
from io import StringIO
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.sources import (
    Imported,
    Options,
    SourceError,
    consul,
    csv,
    docker,
    fly,
    hosts,
    wireguard,
    zone,
)
from internal_dns.store.declare import parse

LONG = "x" * 300
QUOTED = re.compile(r"""["\\\ud800]""")
INJECTIONS = [
    LONG, "a\0b", "a\nb", "'; DROP TABLE machines; --", '"]\n[networks.evil]\nid = 666\n#',
    "\x1b[31mred\x1b[0m",
    "../../etc", "$(reboot)", "{{7*7}}", "web.internal", "ünïcode", "\u2028", "\ud800", "\u212a",
    "-", "   ",
]  # fmt: skip
PREFIX = IPv6Network("fdaa::/16")


def check(imported: Imported) -> None:
    """Assert that `apply` could take every name and address, and that the notes can be printed."""
    ids: list[str] = []
    for name, network in imported.document["networks"].items():
        within = IPv6Network(network["id"])
        assert within.subnet_of(PREFIX)
        assert within.prefixlen == 48
        assert network["id"] != "fdaa::/48"
        assert_name(name)
        for app, members in network.get("apps", {}).items():
            assert_name(app)
            for machine in members["machines"]:
                ids.append(machine["id"])
                assert IPv6Address(machine["address"]) in within
                for field in ("id", "region", "group", "state"):
                    assert_name(machine[field])
                for service in machine.get("services", []):
                    assert_name(service["name"], 62)
                    assert 0 < service["port"] < 65_536
                    assert service["protocol"] in ("tcp", "udp")
                for key, value in machine.get("metadata", {}).items():
                    assert "\0" not in (key + value).encode().decode()
        for peer, row in network.get("peers", {}).items():
            assert_name(peer)
            assert IPv6Address(row["address"]) in within
            assert_name(row.get("region", "iad"))
    parse(json.dumps({"networks": {
        name: {key: network[key] for key in ("id", "zones", "records") if key in network}
        for name, network in imported.document["networks"].items()
    }}), name="imported.json")  # fmt: skip
    assert len(ids) == len(set(ids))
    assert all(note.isprintable() for note in imported.notes)


def assert_name(name: str, longest: int = 63) -> None:
    assert re.fullmatch(r"[a-z0-9_-]+", name)
    assert len(name) <= longest


def everywhere(text: str) -> list[Imported]:
    """Import *text* as every name that each source can give."""
    address = "fdaa:0:18:1:1:0:1:2"
    container = {
        "Id": text, "Name": f"/{text}", "State": {"Running": True},
        "Config": {"Labels": {"internal-dns.app": text, "internal-dns.region": text,
                              "internal-dns.group": text,
                              "com.docker.compose.project": text}, "ExposedPorts": {text: {}}},
        "NetworkSettings": {"Networks": {text: {"GlobalIPv6Address": address},
                                         "z": {"GlobalIPv6Address": text}}},
    }  # fmt: skip
    instance = {
        "Node": text, "Address": address, "ServiceID": text, "ServiceName": text,
        "Datacenter": text,
        "ServiceMeta": {text: text}, "ServiceTags": [text], "ServicePort": 1,
    }  # fmt: skip
    machine = {
        "id": text, "state": text, "region": text, "private_ip": address,
        "config": {"metadata": {"fly_process_group": text, text: text},
                   "services": [{"protocol": text, "internal_port": 1}]},
    }  # fmt: skip
    line = " ".join(text.replace("\0", "").split())
    table = StringIO()
    cells = (line, line, address, line, line)
    csv_writer(table).writerows([("id", "app", "address", "network", f"metadata.{line}"), cells])
    conf = f"# {line}\n[Peer]\nPublicKey = {'A' * 43}=\nAllowedIPs = {address}/128, {line}\n"
    return [
        docker.read([container]),
        consul.read([instance, instance | {"Node": f"{text}2"}]),
        fly.read({"app": text, "machines": [machine]}),
        csv.read(table.getvalue()),
        wireguard.read(conf),
        hosts.read(f"{address} {line}\n"),
        zone.read(
            f"$TTL 5\nx AAAA {address}\nx TXT \"{QUOTED.sub('', line)[:60]}\"\n", origin="corp.example"
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS)
def test_a_name_of_any_kind_becomes_valid_or_is_left_out(text: str) -> None:
    for imported in everywhere(text):
        check(imported)
        assert "evil" not in imported.document["networks"]


# No deadline: the first example also loads what the readers need.
@given(st.text(min_size=1, max_size=80))
def test_any_name_becomes_valid_or_is_left_out(text: str) -> None:
    for imported in everywhere(text):
        check(imported)


def test_a_name_of_300_octets_is_cut_with_a_note() -> None:
    for imported in everywhere(LONG)[:5]:  # the others have no names that are cut
        assert any("changed, a name has at most 63" in note for note in imported.notes)


def test_metadata_that_no_catalog_can_hold_is_left_out() -> None:
    machine = {"id": "a", "state": "started", "region": "iad", "private_ip": "fdaa:0:18:1:1:0:1:2",
               "config": {"metadata": {"nul": "a\0b", "": "no key", "half": "\ud800",
                                       "lines": "a\nb"}}}  # fmt: skip
    imported = fly.read([machine], Options(app="web"))
    (made,) = imported.document["networks"]["net-18"]["apps"]["web"]["machines"]
    assert made["metadata"] == {"lines": "a\nb"}
    assert (
        imported.notes[0]
        == "metadata left out: empty key, NUL, or not Unicode: a (''), a (half), a (nul)"
    )


scalars = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("fdaa:0:18:1:1:0:1:2")
)
keys = st.sampled_from(
    "id state region private_ip config metadata services app machines Id Name State Running Config "
    "Labels Networks "
    "NetworkSettings GlobalIPv6Address Node Address ServiceID ServiceName ServicePort Service "
    "Checks Status ID".split()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner), max_leaves=30
)


@given(st.lists(values) | values)
@pytest.mark.slow
def test_any_json_is_read_or_refused(value: Any) -> None:
    for module in (docker, consul, fly):
        for source in (value, json.dumps(value)):
            with suppress(SourceError):
                check(module.read(source, Options(app="web")))


lines = st.lists(st.text(alphabet='[]#=/:,;"\t\r aA0fdPeerPublicKey',
                         max_size=40) | st.sampled_from(
    ["[Peer]", "# alice", f"PublicKey = {'A' * 43}=", "AllowedIPs = fdaa:0:18:1:1:0:1:2/120",
     "wg0\ta\tb\t1\toff",
     f"wg0\t{'A' * 43}=\t(none)\t(none)\tfdaa:0:18:1:1:0:1:0/120\t0\t0\t0\toff",
     "id,app,address,network", "$TTL 5", "$ORIGIN corp.example.", "@ A 192.0.2.1", "10.0.0.1 a b.internal",
     "fdaa:0:18::1 c", "$GENERATE 1-3 a-$ TXT $",
     "a,web,fdaa:0:18:1:1:0:1:2,acme"]))  # fmt: skip


@given(lines.map("\n".join) | st.binary(max_size=60))
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    for read in (
        wireguard.read,
        csv.read,
        docker.read,
        consul.read,
        fly.read,
        hosts.read,
        zone.read,
    ):
        with suppress(SourceError):
            check(read(text))


# -- what the operator gives
# --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("networks", "what"),
    [
        ({0: "acme"}, "network 0"),
        ({1 << 32: "acme"}, "network 4294967296"),
        ({1: "acme", 2: "Acme"}, "network 2"),
        ({1: "net-2"}, "network 1"),
        ({1: "acme corp"}, "the name acme corp"),
        ({1: ""}, "the name ''"),
        ({1: LONG}, "the name xxx"),
    ],
)
def test_names_of_networks_are_checked(networks: dict[int, str], what: str) -> None:
    with pytest.raises(SourceError) as caught:
        Options(networks=networks)
    assert caught.value.what.startswith(what)


def test_another_prefix_can_be_imported() -> None:
    table = "id,app,address\na,web,fdbb:0:18::1:2\nb,web,fdaa:0:18::1:2\n"
    imported = csv.read(table, Options(prefix=b"\xfd\xbb"))
    assert imported.document["networks"]["net-18"]["id"] == "fdbb:0:18::/48"
    assert "left out, the address is not in fdbb::/16: b (fdaa:0:18::1:2)" in imported.notes


def test_long_lists_in_notes_are_counted() -> None:
    table = "id,app,address,region,state\n" + "".join(
        f"m{n},web,10.0.0.{n},iad,started\n" for n in range(99)
    )
    assert csv.read(table).notes[0].endswith("m9 (10.0.0.9) and 89 more")
