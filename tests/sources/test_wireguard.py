"""Peers of WireGuard: a dump and a .conf file become the same kind of document, and no key
leaks."""

import tomllib
from pathlib import Path

import pytest

from internal_dns.sources import Options, SourceError
from internal_dns.sources.wireguard import read

FIXTURES = Path(__file__).parent / "fixtures"
ACME = Options(networks={0x18: "acme"})
KEY = "YSBwdWJsaWMga2V5LCBmb3IgdGhpcyB0ZXN0IG9ubHk="
SECRET = "dGVzdC1vbmx5LCBubyBwcml2YXRlIGtleS4uLi4uLi4="


def names(conf: str) -> list[str]:
    return [
        name for network in read(conf).document["networks"].values() for name in network["peers"]
    ]


def peer(above: str = "", inside: str = "", address: str = "fdaa:0:18:1:1:0:1:2/128") -> str:
    return f"{above}[Peer]\n{inside}PublicKey = {KEY}\nAllowedIPs = {address}\n"


@pytest.mark.parametrize("file", ["wireguard.dump", "wireguard.conf"])
def test_the_document_is_the_golden_one(file: str) -> None:
    golden = tomllib.loads((FIXTURES / f"{file}.toml").read_text())
    assert read((FIXTURES / file).read_bytes(), ACME).document == golden


def test_what_a_conf_file_does_not_give_is_noted() -> None:
    assert read((FIXTURES / "wireguard.conf").read_bytes(), ACME).notes == [
        "peer name changed, a name has at most 63 letters, digits, - and _: "
        "Bob's phone (Bob's phone is "
        "now bobs-phone)",
        "allowed IPs left out, not in fdaa::/16: carol (10.9.0.4/32)",
        "named after the public key, because no comment names it: peer-zxjpbidzihb1ymxp, "
        "peer-c2l0zsdzihb1ymxp",
        "address assumed: 2 in a /120 that does not show the peer's own: peer-zxjpbidzihb1ymxp",
        "allowed IPs left out: a route, not one peer's /120 or /128: peer-c2l0zsdzihb1ymxp "
        "(fdaa:0:18::/48)",
        "left out, <network>::3 is the server's own address: peer-c2l0zsdzihb1ymxp (fdaa:0:18::3)",
        "`apply` makes a network exactly as written, so first add what this source "
        "lacks: acme, net-19",
    ]


def test_a_dump_of_one_interface_lacks_the_first_field_only() -> None:
    whole = (FIXTURES / "wireguard.dump").read_text()
    one = "".join(
        line.partition("\t")[2] + "\n" for line in whole.splitlines() if line.startswith("wg0")
    )
    assert (
        read(one, ACME).document["networks"]["acme"]
        == read(whole, ACME).document["networks"]["acme"]
    )


@pytest.mark.parametrize(
    ("conf", "name"),
    [
        (peer("# alice\n"), "alice"),
        (peer("# kept by hand\n# alice\n"), "alice"),
        (peer("# alice\n", "# bob\n"), "alice"),
        (peer("# alice\n", "# Name = bob\n"), "bob"),
        (peer("# friendly_name=alice\n"), "alice"),
        (peer("### Client alice ###\n"), "alice"),
        (peer("### begin alice ###\n"), "alice"),
        (peer("", "#alice\n"), "alice"),
        (peer("# alice\r\n").replace("]\n", "]\r\n"), "alice"),
        (peer("# BEGIN_PEER erin\n") + "# END_PEER erin\n", "erin"),
        (peer("# Client: erin (0f0e0d0c-1111-2222-3333-445566778899)\n"), "erin"),
        (peer("# Client: erin (12)\n"), "erin"),
        (peer("# Client: Erin's tablet (home) (7)\n"), "erins-tablet--home-"),
        (peer("# erin start\n") + "# erin end\n", "erin"),
        (peer("# front end\n"), "front-end"),
        (peer("# cold start\n"), "cold-start"),
        (peer("", "#Name# = erin\n"), "erin"),
        (
            peer("# ID:  7\n# Name:  erin\n# Email:  erin@example.org\n# Created at:  2026\n"),
            "erin",
        ),
        (peer("", "# -WGP- Display name: erin\n# -WGP- PrivateKey: x\n"), "erin"),
        (peer("# erin / erin@example.org / Updated: 2026-02-03 / Created: 2026-02-03\n"), "erin"),
        (peer("# a/b / erin@example.org / Updated: 2026-02-03 / Created: 2026-02-03\n"), "a-b"),
        (peer("# erin <erin@example.org>\n"), "erin"),
        (peer("# Name = erin@example.org\n# frank\n"), "frank"),
        (peer("# erin@example.org\n"), "peer-ysbwdwjsawmga2v5"),
        (peer("#  / erin@example.org / Updated: 2026 / Created: 2026\n"), "peer-ysbwdwjsawmga2v5"),
        (peer("# Updated: 2026 / Created: 2026\n"), "peer-ysbwdwjsawmga2v5"),
        (peer(f"# Name = {SECRET}\n"), "peer-ysbwdwjsawmga2v5"),
        (peer(f"# {'erin ' * 300}\n"), "peer-ysbwdwjsawmga2v5"),
        (peer("# alice\n\n"), "peer-ysbwdwjsawmga2v5"),
        (peer("", "# Endpoint = 192.0.2.1:51820\n"), "peer-ysbwdwjsawmga2v5"),
        (peer("", f"# {SECRET}\n"), "peer-ysbwdwjsawmga2v5"),
        (peer("# ###\n"), "peer-ysbwdwjsawmga2v5"),
    ],
)
def test_a_comment_at_the_peer_names_it(conf: str, name: str) -> None:
    assert names(conf) == [name]


def test_a_comment_between_two_peers_names_the_one_it_stands_above() -> None:
    other = peer("# bob\n", address="fdaa:0:18:1:1:0:2:2/128")
    assert names(peer() + other) == ["bob", "peer-ysbwdwjsawmga2v5"]
    assert names(f"{peer()}\n{other}") == ["bob", "peer-ysbwdwjsawmga2v5"]


def test_peers_of_one_name_are_numbered() -> None:
    conf = "".join(peer("# phone\n", address=f"fdaa:0:18:1:1:0:{n}:2/128") for n in (1, 2, 3))
    assert names(conf) == ["phone", "phone-2", "phone-3"]
    assert "named with a number" in read(conf).notes[0]


def test_the_region_given_is_that_of_every_peer() -> None:
    assert read(peer("# alice\n"), Options(region="ams")).document["networks"]["net-18"][
        "peers"
    ] == {"alice": {"address": "fdaa:0:18:1:1:0:1:2", "region": "ams"}}


@pytest.mark.parametrize("file", ["wireguard.dump", "wireguard.conf"])
def test_no_key_is_stored_or_shown(file: str) -> None:
    text = (FIXTURES / file).read_text()
    assert SECRET in text
    assert SECRET not in repr(read(text))
    for end in range(0, len(text), 7):
        try:
            told = repr(read(text[:end]))
        except SourceError as error:
            told = str(error)
        assert SECRET[:20] not in told


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "its first line does not have 4 or 5 fields"),
        ("[]", "its first line does not have 4 or 5 fields"),
        ('[{"id": 1}]', "its first line does not have 4 or 5 fields"),
        ("interface: wg0\n  public key: …\n", "its first line does not have 4 or 5 fields"),
        (
            f"wg0\t{SECRET}\t{KEY}\t51820\toff\nwg0\t{KEY}\t(none)\t(no",
            "line 2 has 4 fields, not 5 or 9",
        ),
        (
            f"wg0\t{SECRET}\t{KEY}\t51820\toff\nwg0\tshort" + "\t0" * 7,
            "the peer of line 2 has no public key",
        ),
        ("[Peer]\nAllowedIPs = ::/0\n", "the peer of line 1 has no public key"),
        (f"[Peer]\nPublicKey = {KEY[:20]}", "the peer of line 1 has no public key"),
        (f"[Peer]\nPublicKey = {KEY}\nAllowedI", "line 3 is not a setting"),
        ("[Unit]\nDescription = x\n[Peer]\n", "line 1 is neither [Interface] nor [Peer]"),
        ("[Peer]\n\0", "line 2 has a NUL"),
    ],
)
def test_input_that_is_not_a_wireguard_configuration_is_rejected(text: str, why: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(text)
    assert why in caught.value.why
    assert caught.value.do


OFF = f"# PublicKey = {KEY}\n# AllowedIPs = fdaa:0:18:1:1:0:9:2/128\n"
NAMELESS = "peer-ysbwdwjsawmga2v5"


@pytest.mark.parametrize(
    ("conf", "found"),
    [
        (peer() + "# [Peer]\n# # erin, has left\n" + OFF, [NAMELESS]),
        (peer() + "#erin\n#[Peer]\n" + OFF, [NAMELESS]),
        (
            peer() + "\n# erin\n#[Peer]\n" + OFF + peer(address="fdaa:0:18:1:1:0:8:2"),
            [NAMELESS] * 2,
        ),
        (
            peer() + "#[Peer]\n" + OFF + "# erin\n" + peer(address="fdaa:0:18:1:1:0:8:2"),
            ["erin", NAMELESS],
        ),
        (peer() + "#[Peer]\n# Name = erin\n" + OFF, [NAMELESS]),
        (peer("# frank\n") + "# erin\n#[Peer]\n" + OFF, ["frank"]),
        ("#[Interface]\n# old\n# Address = fdaa:0:18::9/128\n" + peer(), [NAMELESS]),
    ],
)
def test_a_peer_that_is_commented_out_names_no_other_peer(conf: str, found: list[str]) -> None:
    assert [name.removesuffix("-2") for name in names(conf)] == found


GATEWAY = f"[Peer]\nPublicKey = {KEY}\nAllowedIPs = fdaa:0:18::/48\nEndpoint = gw.example:51820\n"


def client(addresses: str) -> str:
    return f"[Interface]\nPrivateKey = {SECRET}\nAddress = {addresses}\n\n{GATEWAY}"


def test_the_peer_of_a_clients_own_file_is_its_interface_named_after_the_file() -> None:
    options = Options(networks={0x18: "acme"}, file="Erin's laptop")
    imported = read(client("10.0.0.7/32, fdaa:0:18:1:1:0:7:102/120"), options)
    assert imported.document["networks"]["acme"]["peers"] == {
        "erins-laptop": {"address": "fdaa:0:18:1:1:0:7:102"}
    }
    assert imported.notes[0] == ("peer of a client's own file, named after the file: Erin's laptop")


@pytest.mark.parametrize(
    ("conf", "file", "why"),
    [
        (client("fdaa:0:18:1:1:0:7:102/120"), "", "standard input has no name"),
        (client("10.0.0.7/32"), "erin", "its [Interface] has no Address in fdaa::/16"),
        (GATEWAY, "erin", "its [Interface] has no Address in fdaa::/16"),
    ],
)
def test_a_clients_own_file_is_never_read_as_nothing(conf: str, file: str, why: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(conf, Options(file=file))
    assert why in caught.value.why
    assert caught.value.what == "this is a WireGuard client's own file"


def test_a_gateway_with_an_endpoint_and_peers_is_not_a_clients_file() -> None:
    assert names(client("fdaa:0:18:1:1:0:7:2/112") + peer("# erin\n")) == ["erin"]
