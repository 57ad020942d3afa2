"""Lines of hosts files become records; what has no place is told with its line."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from internal_dns.sources import Imported, Options, SourceError
from internal_dns.sources.hosts import read
from internal_dns.store.declare import parse, to_toml

FIXTURES = Path(__file__).parent / "fixtures"
WEB = "fdaa:0:18:a7b:7d:1:1:2"
ADVICE = "`apply` makes a network exactly as written"


def records(imported: Imported, network: str = "net-18") -> set[tuple[str, str, str]]:
    rows = imported.document["networks"].get(network, {}).get("records", [])
    return {(row["name"], row["type"], row["value"]) for row in rows}


def imported(*lines: str, zones: tuple[str, ...] = (), **options: Any) -> Imported:
    made = read("\n".join(lines), Options(**options), zones=zones)
    parse(to_toml(made.document), name="hosts.toml")  # `apply` takes it
    return made


def notes(made: Imported) -> list[str]:
    return [note for note in made.notes if not note.startswith(ADVICE)]


def test_the_document_is_the_golden_one() -> None:
    made = read((FIXTURES / "hosts").read_bytes())
    assert made.document == tomllib.loads((FIXTURES / "hosts.toml").read_text())
    assert notes(made) == [
        "left out, an address of the host itself: line 1 (127.0.0.1), line 2 (::1)"
    ]


def test_a_short_name_is_below_internal_and_one_that_is_there_is_not_another() -> None:
    made = imported(f"{WEB} web-1.internal web-1 Web-1.Internal.", f"{WEB}\twww")
    assert records(made) == {("web-1.internal", "AAAA", WEB), ("www.internal", "AAAA", WEB)}
    assert not notes(made)


def test_a_name_in_a_zone_needs_the_zone() -> None:
    lines = (f"{WEB} web.corp.example", "10.0.0.5 nas.lan nas", "10.0.0.6 x.example")
    made = imported(*lines, zones=("corp.example", "lan"))
    assert made.document["networks"]["net-18"]["zones"] == ["corp.example", "lan"]
    assert records(made) == {
        ("web.corp.example", "AAAA", WEB),
        ("nas.lan", "A", "10.0.0.5"),
        ("nas.internal", "A", "10.0.0.5"),
    }
    assert notes(made) == [
        "left out, in no zone of the network (name it with --zone): line 3 (x.example)"
    ]


def test_an_address_of_the_prefix_goes_to_its_own_network() -> None:
    made = imported(f"{WEB} web", "fdaa:0:19::5 web", "10.0.0.1 gw", network=25)
    assert records(made) == {("web.internal", "AAAA", WEB)}
    assert records(made, "net-19") == {
        ("web.internal", "AAAA", "fdaa:0:19::5"),
        ("gw.internal", "A", "10.0.0.1"),
    }


def test_the_only_network_of_a_file_takes_the_other_addresses() -> None:
    assert ("gw.internal", "A", "10.0.0.1") in records(imported(f"{WEB} web", "10.0.0.1 gw"))


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["10.0.0.1 gw"], "none of its addresses says which network it is for"),
        ([f"{WEB} a", "fdaa:0:19::5 b", "10.0.0.1 gw"], "its addresses are of 2 networks"),
    ],
)
def test_a_network_that_is_not_known_is_asked_for(lines: list[str], why: str) -> None:
    with pytest.raises(SourceError) as raised:
        imported(*lines)
    assert (raised.value.why, raised.value.do) == (why, "Say which: --network 24=acme")


def test_what_has_no_place_is_told_with_its_line() -> None:
    made = imported(
        f"{WEB} a..b",
        f"{WEB} web.flycast",
        "0.0.0.0 ads.example",
        "ff02::1 ip6-allnodes",
        "fe80::1%lo0 link",
        "255.255.255.255 broadcasthost",
        "10.0.0.9",
        "nonsense here",
        f"{WEB} localhost",
        network=24,
    )
    assert not records(made)
    assert sorted(notes(made)) == [
        "left out, an address of many hosts: line 4 (ff02::1)",
        "left out, an address of one link: line 5 (fe80::1%lo0)",
        "left out, in no zone of the network (name it with --zone): line 2 (web.flycast)",
        "left out, no valid name: a DNS label is empty: line 1 (a..b)",
        "left out, the address has no name: line 7",
        "left out, the address says that there is none: line 3 (0.0.0.0)",
        "left out, the line does not begin with an address: line 8",
        "nothing to import",
    ]


def test_several_addresses_of_a_name_are_one_set() -> None:
    made = imported("10.0.0.1 gw", "10.0.0.2 gw", "2001:db8::1 gw", network=24)
    assert records(made) == {
        ("gw.internal", "A", "10.0.0.1"),
        ("gw.internal", "A", "10.0.0.2"),
        ("gw.internal", "AAAA", "2001:db8::1"),
    }


@pytest.mark.parametrize("text", ["<html>\n", "a,b\n1,2\n"])
def test_a_text_that_is_no_hosts_file_is_rejected(text: str) -> None:
    with pytest.raises(SourceError, match="no line begins with an address"):
        read(text)


@pytest.mark.parametrize("text", ["", "# nothing\n\n", "127.0.0.1 localhost\n"])
def test_a_file_without_names_of_others_gives_nothing(text: str) -> None:
    assert read(text).document == {"networks": {}}


def test_a_zone_that_cannot_be_is_rejected() -> None:
    with pytest.raises(SourceError, match="internal is answered here already"):
        imported(f"{WEB} a", zones=("x.internal",))


def test_files_of_windows_and_powershell_are_read() -> None:
    text = f"# C:\\Windows\\System32\\drivers\\etc\\hosts\r\n{WEB}\t web \r\n"
    for encoding in "utf-8-sig", "utf-16":
        assert records(read(text.encode(encoding))) == {("web.internal", "AAAA", WEB)}
