"""Tables as spreadsheets write them; a line that does not fit is named."""

import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest

from internal_dns.sources import Imported, Options, SourceError
from internal_dns.sources.csv import read

FIXTURES = Path(__file__).parent / "fixtures"
HEADER = "id,app,address,network,region,state\n"


def rows(*lines: str, **options: Any) -> Imported:
    return read(HEADER + "\n".join(lines), Options(**options))


@pytest.mark.parametrize("kind", ["machines", "peers"])
def test_the_document_is_the_golden_one(kind: Literal["machines", "peers"]) -> None:
    golden = tomllib.loads((FIXTURES / f"{kind}.csv.toml").read_text())
    assert read((FIXTURES / f"{kind}.csv").read_bytes(), kind=kind).document == golden


def test_what_a_table_of_machines_cannot_give_is_noted() -> None:
    assert read((FIXTURES / "machines.csv").read_bytes()).notes == [
        "columns not read: owner",
        "state started assumed, because none is given: db_1",
        "left out, an earlier machine has this id: web-1 (fdaa:0:18:1:1:0:4:2)",
        "network name changed, a name has at most 63 letters, digits, - and _: "
        "line 8 (Globex Corp is now "
        "globex-corp)",
        "region local assumed, because the source names none: far",
        "left out, the address is in another network: line 9 (fdaa:0:19:1:1:0:2:2, not acme)",
        "left out, not an IPv6 address: line 10 (192.0.2.1)",
        "left out, the address is not in fdaa::/16: line 11 (2001:db8::1)",
        "left out, no id: '' (fdaa:0:18:1:1:0:5:2)",
        "left out, no app: no-app (fdaa:0:18:1:1:0:6:2)",
        "`apply` makes a network exactly as written, so first add what this source "
        "lacks: acme, globex-corp",
    ]


def test_what_a_table_of_peers_cannot_give_is_noted() -> None:
    assert read((FIXTURES / "peers.csv").read_bytes(), kind="peers").notes[:-1] == [
        "left out, an earlier peer has this name: Bob (fdaa:0:18:a7b:7d:f066:b83b:302)",
        "share a /120: the server cannot tell them apart: bob and carol",
        "left out, no name: '' (fdaa:0:18:a7b:7d:f066:b83b:502)",
        "left out, <network>::3 is the server's own address: line 7 (fdaa:0:18::3)",
        "left out, network 0 is reserved: nobody (fdaa:0:0:a7b:7d:0:a:2)",
    ]


@pytest.mark.parametrize(
    ("network", "called"),
    [
        ("", "net-18"),
        ("acme", "acme"),
        ("24", "net-18"),
        ("fdaa:0:18::/48", "net-18"),
        ("net-18", "net-18"),
        ("net-19", "net-18"),
        ("///", "net-18"),
        ("25", None),
        ("fdbb:0:18::/48", None),
        ("fdaa:0:19::/48", None),
    ],
)
def test_a_network_is_named_or_numbered_and_its_address_decides(
    network: str, called: str | None
) -> None:
    found = rows(f"a,web,fdaa:0:18:1:1:0:1:2,{network},iad,started").document["networks"]
    assert list(found) == ([called] if called else [])


def test_the_operators_name_of_a_network_wins() -> None:
    imported = rows("a,web,fdaa:0:18:1:1:0:1:2,tenant,iad,started", networks={0x18: "acme"})
    assert list(imported.document["networks"]) == ["acme"]
    assert (
        imported.notes[0]
        == "network name not used, the network is already called acme: line 2 (tenant)"
    )


def test_the_app_given_needs_no_column() -> None:
    imported = read("id,address\na,fdaa:0:18:1:1:0:1:2\n", Options(app="web", region="ams"))
    assert imported.document["networks"]["net-18"]["apps"]["web"]["machines"] == [
        {
            "id": "a",
            "address": "fdaa:0:18:1:1:0:1:2",
            "region": "ams",
            "group": "app",
            "state": "started",
        }
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "line 1, the header, lacks id, app, address"),
        ('{"id": 1}', "line 1, the header, lacks"),
        ("id;name\n1;2\n", "line 1, the header, lacks app, address"),
        ("id,app,address,ID\n", "line 1, the header, has id twice"),
        (
            HEADER + "a,web,fdaa:0:18:1:1:0:1:2,,iad,started\n\nb,we",
            "line 4 has 2 fields; the header has 6",
        ),
        (HEADER + "a\n" * 12, "line 11 has 1 fields and 2 more; the header has 6"),
        (HEADER + 'a,web,"fdaa:0:18:1', "line 2: unexpected end of data"),
        (HEADER + "a," + "x" * 200_000, "line 2: field larger than field limit"),
        (HEADER + "a,web\0", "line 2 has a NUL"),
        (HEADER.encode() + b"a,\xe9", "octet 39 is not UTF-8; it is probably Latin-1"),
        (HEADER.encode() + b"a,\x80", "octet 39 is not UTF-8; it is probably Windows-1252"),
        (b"\x89PNG\r\n\x1a\n\0\0", "octet 1 is not UTF-8, and there are control characters"),
        ('sep="\nid"app\n', "line 1, the header, lacks id"),
        ("sep=\r\nid,app\n", "line 1, the header, lacks id"),
        ("sep=;\nid;name\n", "line 2, the header, lacks app"),
    ],
)
def test_an_incomplete_table_is_rejected(text: str | bytes, why: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(text)
    assert why in caught.value.why
    assert caught.value.do


TABLE = "id,app,address,region,state\nm7,cache,fdaa:0:18:1:1:0:7:2,ams,started\n"


@pytest.mark.parametrize(
    "text",
    [
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        TABLE.replace(",", "|"),
        "sep=,\n" + TABLE,
        "sep=;\r\n" + TABLE.replace(",", ";").replace("\n", "\r\n"),
        "SEP=^\n" + TABLE.replace(",", "^"),
        TABLE.replace("\n", ",,,\n"),
        TABLE.replace("\n", ",,,\n", 1),
        TABLE + ",,,,\n" * 3,
        "\ufeff" + TABLE,
        '"id";"app";"address";"region";"state";"metadata.a, b, c, d, e, f"\n'
        "m7;cache;fdaa:0:18:1:1:0:7:2;ams;started;\n",
    ],
)
def test_a_table_is_read_whatever_program_wrote_it(text: str) -> None:
    for source in (text, text.encode("utf-16"), text.encode()):
        assert read(source) == read(TABLE)


def test_cells_past_the_last_column_are_a_fault() -> None:
    with pytest.raises(SourceError) as caught:
        read("sep=,\n" + TABLE.replace("started\n", "started,,lost\n"))
    assert "line 3 has 7 fields; the header has 5" in caught.value.why


def test_a_table_of_peers_is_known_by_its_header() -> None:
    table = "Name;Address;region\nerin;fdaa:0:18:1:1:0:7:102;ams\n"
    imported = read(table)
    assert imported.document == read(table, kind="peers").document
    assert imported.notes[0] == "read as peers, because the header has `name` and no `id`"
    with pytest.raises(SourceError, match="lacks id"):
        read(table, Options(app="web"))
    with pytest.raises(SourceError, match="lacks id"):
        read(table, kind="machines")


def test_latin_1_is_refused_with_the_command_that_converts_it() -> None:
    with pytest.raises(SourceError) as caught:
        read(TABLE.replace("cache", "caf\xe9").encode("latin-1"))
    assert caught.value.do == "Convert it: iconv -f ISO-8859-1 -t UTF-8 FILE > FILE.utf8"
