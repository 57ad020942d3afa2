"""Faults of a document carry their lines; an export parses back; a plan, once applied, leaves
nothing to do."""

import json
import re
import sqlite3
import tomllib
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.store.declare import (
    Document,
    DocumentFault,
    InvalidDocument,
    Plan,
    export,
    json_schema,
    parse,
    plan,
    to_json,
    to_toml,
)
from internal_dns.store.declare.file import COLUMNS, KEYS
from internal_dns.store.declare.lines import Lines
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import read
from internal_dns.store.writer import Writer
from internal_dns.text import printable_json

ROOT = Path(__file__).parents[2]
SCHEMA = (ROOT / "schema.sql").read_text()
WRITERS: dict[str, Callable[[Any], str]] = {"toml": to_toml, "json": to_json}

ACME = """\
[networks.acme]
id = "fdaa:0:18::/48"
organization = "acme"

[networks.acme.apps.blog]

[[networks.acme.apps.web.machines]]
id = "3d8d9930b03989"
address = "fdaa:0:18:a7b:7d:f066:b83b:2"
region = "iad"
group = "web"
state = "started"
metadata = { role = "leader", version = "1.2.3" }
services = [{ name = "http", port = 8080 }]

[[networks.acme.apps.web.machines]]
id = "5683d474b40d8e"
address = "fdaa:0:18:a7b:7e:1:2:2"
region = "iad"

[networks.acme.peers.alice-laptop]
address = "fdaa:0:18:a7b:7d:f066:b83b:102"

[networks.acme.flycasts]
db = ["fdaa:0:18:0:1::3"]

[organizations.acme]
name = "Acme Corporation"

[regions.iad]
name = "Ashburn"
latitude = 38.9
longitude = -77.4
gateway = true

[regions.ams]

[[latency]]
from = "iad"
to = "ams"
milliseconds = 82

[hosts."a7b:7d"]
name = "iad-1"
region = "iad"
"""


@pytest.fixture
def empty() -> Iterator[sqlite3.Connection]:
    connection = catalog()
    yield connection
    connection.close()


@pytest.fixture
def acme(empty: sqlite3.Connection) -> sqlite3.Connection:
    carry_out(empty, plan(empty, document(ACME)))
    return empty


def catalog(rows: Mapping[str, list[dict[str, Any]]] | None = None) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    for table, of_table in (rows or {}).items():
        for row in of_table:
            insert(connection, table, row)
    return connection


def insert(connection: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    columns, places = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(
        f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({places})", tuple(row.values())
    )


def document(text: str, **options: Any) -> Document:
    return parse(text, name="catalog.toml", **options)


def carry_out(connection: sqlite3.Connection, planned: Plan) -> None:
    for table, key in planned.deletes:
        where = " AND ".join(f"{column} = ?" for column in key)
        assert (
            connection.execute(f"DELETE FROM {table} WHERE {where}", tuple(key.values())).rowcount
            == 1
        ), (table, key)
    for table, row in planned.puts:
        insert(connection, table, row)


def faults(text: str, **options: Any) -> list[str]:
    with pytest.raises(InvalidDocument) as caught:
        document(text, **options)
    assert caught.value.faults
    return [str(fault) for fault in caught.value.faults]


# ── what a document means ─────────────────────────────────────────────────────────────────────────


def test_a_document_is_rows_of_the_schemas_columns_with_defaults() -> None:
    rows = document(ACME).rows()
    assert rows == {
        "organizations": [{"slug": "acme", "name": "Acme Corporation"}],
        "regions": [
            {"code": "ams", "name": "", "latitude": None, "longitude": None, "gateway": 0},
            {"code": "iad", "name": "Ashburn", "latitude": 38.9, "longitude": -77.4, "gateway": 1},
        ],
        "region_latency": [{"from_region": "iad", "to_region": "ams", "milliseconds": 82.0}],
        "hosts": [{"id": 0x0A7B007D, "name": "iad-1", "region": "iad"}],
        "networks": [{"id": 24, "name": "acme", "organization": "acme"}],
        "apps": [{"network_id": 24, "name": "blog"}, {"network_id": 24, "name": "web"}],
        "zones": [],
        "records": [],
        "machines": [
            {
                "id": "3d8d9930b03989", "network_id": 24, "app": "web",
                "address": "fdaa:0:18:a7b:7d:f066:b83b:2",
                "region": "iad", "process_group": "web", "state": "started", "skip_registration": 0,
                "ready": 1, "name": "",
            },
            {
                "id": "5683d474b40d8e", "network_id": 24, "app": "web",
                "address": "fdaa:0:18:a7b:7e:1:2:2",
                "region": "iad", "process_group": "app", "state": "created", "skip_registration": 0,
                "ready": 1, "name": "",
            },
        ],
        "machine_metadata": [
            {"machine_id": "3d8d9930b03989", "key": "role", "value": "leader"},
            {"machine_id": "3d8d9930b03989", "key": "version", "value": "1.2.3"},
        ],
        "machine_services": [{"machine_id": "3d8d9930b03989", "name": "http", "protocol": "tcp",
                              "port": 8080,
                              "priority": 0, "weight": 1}],
        "peers": [
            {"network_id": 24, "name": "alice-laptop", "address": "fdaa:0:18:a7b:7d:f066:b83b:102",
             "region": ""}
        ],
        "flycasts": [{"network_id": 24, "app": "db", "address": "fdaa:0:18:0:1::3"}],
    }  # fmt: skip


def test_the_same_document_in_json_means_the_same() -> None:
    as_json = json.dumps(tomllib.loads(ACME))
    for options in {"name": "a.json"}, {"name": "-"}, {"name": "a.toml", "kind": "json"}:
        assert parse(as_json, **options).rows() == document(ACME).rows()  # type: ignore[arg-type]


def test_rows_come_in_the_same_order_however_the_document_is_ordered() -> None:
    value = tomllib.loads(ACME)
    backwards = dict(reversed(list(value.items())))
    backwards["networks"]["acme"]["apps"]["web"]["machines"].reverse()
    assert document(to_toml(backwards)).rows() == document(ACME).rows()


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("24", 24),
        ('"fdaa:0:18::/48"', 24),
        ('"FDAA:0:0018:0::/48"', 24),
        ('"fdaa:ffff:ffff::/48"', 0xFFFFFFFF),
    ],
)
def test_a_network_id_is_a_48_or_an_integer(written: str, number: int) -> None:
    assert document(f"[networks.a]\nid = {written}").rows()["networks"][0]["id"] == number


@pytest.mark.parametrize(
    ("written", "number"), [("a7b:7d", 0x0A7B007D), ("0A7B:007d", 0x0A7B007D), ("24", 24)]
)
def test_a_host_is_its_32_bits_or_the_integer(written: str, number: int) -> None:
    assert document(f'[hosts."{written}"]\nregion = "iad"').rows()["hosts"][0]["id"] == number


def test_addresses_are_rendered_as_rfc_5952_and_names_keep_their_case() -> None:
    text = (
        "[networks.A]\nid = 24\n"
        '[networks.A.peers.Bob]\naddress = "FDAA:0:18:0:0:0:0:0A"\nregion = "IAD"'
    )
    (peer,) = document(text).rows()["peers"]
    assert peer == {"network_id": 24, "name": "Bob", "address": "fdaa:0:18::a", "region": "IAD"}


def test_another_prefix_can_be_asked_for() -> None:
    text = '[networks.a]\nid = "fd12:0:18::/48"\n[networks.a.flycasts]\nb = ["fd12:0:18::9"]'
    assert (
        document(text, rules=CatalogRules(b"\xfd\x12")).rows()["flycasts"][0]["address"]
        == "fd12:0:18::9"
    )
    assert len(faults(text)) == 1
    connection = catalog(document(text, rules=CatalogRules(b"\xfd\x12")).rows())
    assert export(connection, rules=CatalogRules(b"\xfd\x12")).document == tomllib.loads(text)
    connection.close()


def test_an_empty_document_is_no_fault() -> None:
    for text in "", "{}", "\ufeff# nothing\n":
        assert not any(parse(text, name="-").rows().values())


# ── faults ────────────────────────────────────────────────────────────────────────────────────────

BROKEN_TOML = """\
# badly broken
[network.acme]
[networks.acme]
id = "fdab:0:18::/48"
organisation = "x"

[networks."a b"]
id = 0
apps.web.machines = [
  { id = "m1", address = "nope", region = "iad" },
  { id = "m1", adress = "fdaa::", region = 5, services = [
    { name = "http", protocol = "sctp", port = 0 },
    { port = "x" },
    { name = "a", port = 1 }, { name = "A", port = 2 },
  ] },
]

[networks.b]
id = 7
[[networks.b.apps.w.machines]]
id = "M2"
address = "fdaa:0:8::1"
region = "iad"
metadata = { a = 1, "b.c\\u0000" = 1979-05-27 07:32:00 }
skip_registration = 1

[[networks.b.apps.w.machines]]   # the same app
id = "m2"
address = "fdaa:0:7::3"
region = "iad"
state = "started"
[[networks.b.apps.w.machines]]
id = '''
Robert'); DROP TABLE machines;--'''
address = "fdaa:0:7::99"
region = "iad"
state = "started"
[networks.b.peers]
x.address = "fdaa:0:7:0::99"
y.address = "fdaa:0:7:0::98"
Y.address = "fdaa:0:7:0::97"
interactive-z.address = "fdaa:0:7:0::98"
[networks.b.flycasts]
w = ["fdaa:0:7::5", "fdaa:0:7::5",
     "fdaa:0:7::5:0:0", "fdaa:0:9::1"]
v = "fdaa:0:7::6"
[networks.c]
id = "fdaa:0:7::/48"
peers = []

[hosts."z"]
region = "q r"
[hosts."7:7"]
region = "iad"
[hosts."0007:7"]
region = "iad"
[regions.iad]
latitude = 91
longitude = nan
[regions.ams]
latitude = 52
[organizations]
"" = {}
[[latency]]
from = "iad"
to = "iad"
milliseconds = -1
[[latency]]
from = "iad"
to = "iad"
milliseconds = inf
"""

BROKEN_TOML_FAULTS = """\
2: network: unknown key. Did you mean networks?
4: networks.acme.id: the network is not in fdaa::/16. Write a /48 of fdaa::/16, or the integer
5: networks.acme.organisation: unknown key. Did you mean organization?
7: networks."a b": 'a b' is not a valid name. Use 1 to 63 of letters, digits, - and _
8: networks."a b".id: 0 is not a network id. Use 1 to 4294967295: the 32 bits after the prefix
10: networks."a b".apps.web.machines[0].address: 'nope' is not an IPv6 address. Write one, such as fdaa:0:18:a7b:7d:f066:b83b:2
11: networks."a b".apps.web.machines[1].adress: unknown key. Did you mean address?
11: networks."a b".apps.web.machines[1]: address is missing. Add it: Its address in this network.
11: networks."a b".apps.web.machines[1].region: an integer stands where a string belongs. Write it in quotes
11: networks."a b".apps.web.machines[1].id: this machine id already stands in line 10. Remove or change one
12: networks."a b".apps.web.machines[1].services[0].protocol: 'sctp' is not tcp or udp. Write tcp or udp
12: networks."a b".apps.web.machines[1].services[0].port: 0 is not a port. Write one from 1 to 65535
13: networks."a b".apps.web.machines[1].services[1]: name is missing. Add it: Its name, without the underscore: http for _http._tcp.
13: networks."a b".apps.web.machines[1].services[1].port: a string stands where an integer belongs. Write a port, 1 to 65535, without quotes
14: networks."a b".apps.web.machines[1].services[3]: this service of the machine, ignoring letter case, already stands in line 14. Remove or change one
22: networks.b.apps.w.machines[0].address: fdaa:0:8::1 is not in fdaa:0:7::/48, the network's own. Write an address that starts like fdaa:0:7::
24: networks.b.apps.w.machines[0].metadata.a: an integer stands where a string belongs. Write it in quotes
24: networks.b.apps.w.machines[0].metadata."b.c\\u0000": a date or time stands where a string belongs. Write it in quotes
25: networks.b.apps.w.machines[0].skip_registration: an integer stands where a boolean belongs. Write true or false
28: networks.b.apps.w.machines[1].id: this machine id of the same app, ignoring letter case, already stands in line 21. Remove or change one
29: networks.b.apps.w.machines[1].address: fdaa:0:7::3 is that of the server itself. Give each an address of its own
33: networks.b.apps.w.machines[2].id: 'Robert'); DROP TABLE machines;--' is not a valid name. Use 1 to 63 of letters, digits, - and _
39: networks.b.peers.x.address: fdaa:0:7::99 is that of networks.b.apps.w.machines[2] in line 35 too. Give each an address of its own
41: networks.b.peers.Y: this peer, ignoring letter case, already stands in line 40. Remove or change one
44: networks.b.flycasts.w[1]: this address already stands in line 44. Remove or change one
45: networks.b.flycasts.w[3]: fdaa:0:9::1 is not in fdaa:0:7::/48, the network's own. Write an address that starts like fdaa:0:7::
46: networks.b.flycasts.v: a string stands where an array belongs. Put it in [ ]
48: networks.c.id: this id already stands in line 19. Remove or change one
49: networks.c.peers: an array stands where a table belongs. Write it as docs/declarative.md says
51: hosts.z: 'z' is not a host. Write its 32 bits as in an address, such as a7b:7d, or the integer
52: hosts.z.region: 'q r' is not a valid name. Use 1 to 63 of letters, digits, - and _
55: hosts."0007:7": this host already stands in line 53. Remove or change one
58: regions.iad.latitude: 91 is out of range. Write degrees, -90 to 90
59: regions.iad.longitude: nan is out of range. Write degrees, -180 to 180
60: regions.ams: one coordinate is missing. Write latitude and longitude, or neither
63: organizations."": the name is empty. Give it one
67: latency[0].milliseconds: -1 is out of range. Write milliseconds, 0 to 999,999,999
68: latency[1]: this pair of regions already stands in line 64. Remove or change one
71: latency[1].milliseconds: inf is out of range. Write milliseconds, 0 to 999,999,999
"""  # noqa: E501

BROKEN_JSON = """\
{
  "networks": {
    "acme": {"id": "fdaa:0:18::/49", "apps": {
      "web": {"machines": [
        {"id": "m1", "address": "fdaa:0:18::1", "region": "iad", "state": "started"},
        {"id": "m2", "address": null, "region": "iad",
         "servces": [], "services": [{
            "name": "http", "port": 80.5}]}
      ]},
      "web": {"machines": {}}
    }},
    "acme\\u0000": 5
  },
  "latency": [
    {"from": "iad", "to": "ams"},
    "x"
  ], "hosts": {"4294967296": {"region":
    ["iad"]}}
}
"""

BROKEN_JSON_FAULTS = """\
3: networks.acme.id: 'fdaa:0:18::/49' is not a network. \
Write its /48, such as fdaa:0:18::/48, or the integer
10: networks.acme.apps.web: the key stands twice, first in line 4. Keep one of them
10: networks.acme.apps.web.machines: a table stands where an array belongs. Put it in [ ]
12: networks."acme\\u0000": 'acme\\x00' is not a valid name. Use 1 to 63 of letters, digits, - and _
12: networks."acme\\u0000": an integer stands where a table belongs. \
Write it as docs/declarative.md says
15: latency[0]: milliseconds is missing. Add it: A measured round trip.
16: latency[1]: a string stands where a table belongs. Write it as docs/declarative.md says
17: hosts.4294967296: '4294967296' is not a host. \
Write its 32 bits as in an address, such as a7b:7d, or the integer
17: hosts.4294967296.region: an array stands where a string belongs. Write it in quotes
"""


def numbered(found: list[str]) -> str:
    return "".join(fault.removeprefix("catalog.toml:") + "\n" for fault in found)


def test_every_fault_of_a_toml_document_is_reported_with_its_line() -> None:
    assert numbered(faults(BROKEN_TOML)) == BROKEN_TOML_FAULTS


def test_every_fault_of_a_json_document_is_reported_with_its_line() -> None:
    assert numbered(faults(BROKEN_JSON, kind="json")) == BROKEN_JSON_FAULTS


def test_lines_are_the_same_with_the_line_ends_of_dos() -> None:
    assert numbered(faults(BROKEN_TOML.replace("\n", "\r\n"))) == BROKEN_TOML_FAULTS
    assert numbered(faults(BROKEN_JSON.replace("\n", "\r\n"), kind="json")) == BROKEN_JSON_FAULTS


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("a = 1\nb = = 2\n", "toml", "2: Invalid value. Correct the TOML"),
        ("a = 1\na = 2\n", "toml", "2: Cannot overwrite a value. Correct the TOML"),
        ('\na = "', "toml", "2: Unterminated string. Correct the TOML"),
        ("\na = 'x\0'", "toml", "2: Found invalid character '\\x00'. Correct the TOML"),
        ("a = " + "9" * 5_000, "toml", "1: Exceeds the limit"),
        ("a = " + "[" * 100_000, "toml", "1: tables or arrays are nested too deeply"),
        ('{\n\n"a": nope}', "json", "3: invalid character. Correct the JSON"),
        ('{"a":\n', "json", "1: Input data was truncated. Correct the JSON"),
        ('{\n"a": "\0"}', "json", "2: invalid character. Correct the JSON"),
        ('{"a":' * 100_000, "json", "1: tables or arrays are nested too deeply"),
        ('{"a":\n"\\ud800"}', "json", "2: "),
        ('{"a":\n"\udcff"}', "json", "2: an octet that is not UTF-8. Correct the JSON"),
        ("# a\n# \udcff", "toml", "2: an octet that is not UTF-8. Correct the TOML"),
        ("[\n]", "json", "1: an array stands where a table belongs"),
    ],
)
def test_a_syntax_error_is_reported_with_its_line(text: str, kind: str, told: str) -> None:
    (fault,) = faults(text, kind=kind)
    assert fault.startswith(f"catalog.toml:{told}")


def test_a_label_of_300_octets_is_shortened_in_a_fault() -> None:
    label = "x" * 300
    (fault,) = faults(f"[networks.a]\nid = 1\n\n[networks.a.apps.{label}]")
    assert fault == (
        f"catalog.toml:4: networks.a.apps.{json.dumps('x' * 60 + '…', ensure_ascii=False)}: "
        f"'{'x' * 80}' … (300 characters) is not a valid name. "
        "Use 1 to 63 of letters, digits, - and _"
    )


def test_what_stands_twice_is_a_fault_only_where_it_collides() -> None:
    text = """\
[networks.a]
id = 1
apps.web.machines = [
  { id = "x", address = "fdaa:0:1::1", region = "r", state = "started" },
  { id = "y", address = "fdaa:0:1::1", region = "r", state = "stopped" },
  { id = "z", address = "fdaa:0:1::1", region = "r", state = "started", skip_registration = true },
]
apps.db.machines = [{ id = "X", address = "fdaa:0:1::2", region = "r", state = "started" }]
peers.interactive-p.address = "fdaa:0:1::1"
flycasts = { web = ["fdaa:0:1::1"], db = ["fdaa:0:1::1"] }
[regions.r]
"""
    assert not document(text).warnings
    assert numbered(faults(text, rules=CatalogRules(hidden=("x-",)))) == (
        "9: networks.a.peers.interactive-p.address: fdaa:0:1::1 is that of "
        "networks.a.apps.web.machines[0] "
        "in line 4 too. Give each an address of its own\n"
    )


def test_a_probable_mistake_that_is_served_is_a_warning_with_its_line() -> None:
    text = """\
[networks.a]
id = 1
[networks.a.apps.all]
[networks.a.apps.ALL]
[[networks.a.apps.web.machines]]
id = "x"
address = "fdaa:0:1::1"
region = "global"
state = "startd"
[[networks.a.apps.web.machines]]
id = "y"
address = "fdaa:0:1::2"
region = "global"
[networks.a.peers._page]
address = "fdaa:0:1::9"
region = "AMS"
[networks.A]
id = 2
[regions.ams]
"""
    assert [str(warning).removeprefix("catalog.toml:") for warning in document(text).warnings] == [
        "3: networks.a.apps.all: all.internal is a reserved name, not this app. "
        "Rename the app; its machines stay reachable by <id>.vm and in lists",
        "4: networks.a.apps.ALL: ALL and all in line 3 are the same name: letter case is ignored. "
        "Spell it one way",
        "4: networks.a.apps.ALL: all.internal is a reserved name, not this app. "
        "Rename the app; its machines stay reachable by <id>.vm and in lists",
        "8: networks.a.apps.web.machines[0].region: global is a reserved word: no name can query "
        "this region. "
        "Rename it",
        "8: networks.a.apps.web.machines[0].region: region 'global' is not in this document. "
        "Add it with its coordinates unless the catalog has it, or `nearest` sorts it last",
        "9: networks.a.apps.web.machines[0].state: 'startd' is not a known state. Did you mean "
        "started?",
        "14: networks.a.peers._page: _page is reserved for pages of lists. Rename it",
        "17: networks.A: A and a in line 1 are the same name: letter case is ignored. "
        "Spell it one way",
    ]


# A property of the walk: whatever the writers write, the line of a path is that of its key.

keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.one_of(
    keys,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)
tables = st.dictionaries(keys, values, max_size=4)


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    for key, inner in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield (*path, key)
        yield from paths(inner, (*path, key))


@given(tables)
@pytest.mark.slow
def test_whatever_is_written_as_toml_is_read_back(value: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(value)) == value


@given(tables)
@pytest.mark.slow
def test_whatever_is_written_as_json_is_read_back(value: dict[str, Any]) -> None:
    assert json.loads(to_json(value)) == value


@pytest.mark.parametrize("kind", ["toml", "json"])
@given(value=tables)
@pytest.mark.slow
def test_the_line_of_a_path_has_its_last_key(kind: str, value: dict[str, Any]) -> None:
    text = WRITERS[kind](value)
    lines, told = Lines(text, kind), text.split("\n")
    for path in paths(value):
        if isinstance(path[-1], str):
            key = (
                printable_json(msgspec.json.encode(path[-1]).decode())
                if kind == "json"
                else to_toml({path[-1]: 0}).split(" = 0\n")[0]
            )
            assert key in told[lines.line(path) - 1]


@given(st.text(), st.sampled_from(["toml", "json"]))
def test_any_text_is_a_document_or_faulty(text: str, kind: Any) -> None:
    told = faults_or_none(lambda: parse(text, name="x", kind=kind))
    assert all(fault.line >= 1 and fault.what and fault.do for fault in told)


@given(
    st.dictionaries(
        st.sampled_from(["networks", "regions", "hosts", "latency", "organizations"]), values
    )
)
@pytest.mark.slow
def test_any_value_is_a_document_or_faulty(value: dict[str, Any]) -> None:
    for fault in faults_or_none(lambda: document(to_toml(value))):
        assert str(fault).startswith(f"catalog.toml:{fault.line}: {fault.where}")


def faults_or_none(work: Callable[[], Document]) -> list[DocumentFault]:
    try:
        work()
    except InvalidDocument as faulty:
        return faulty.faults
    return []


# ── catalogs ──────────────────────────────────────────────────────────────────────────────────────

names = st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True)
few_names = st.sampled_from(["web", "db", "Web", "all", "iad", "x"])
lower_names = st.sampled_from(["web", "DB", "x"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
degrees = st.floats(-90, 90)


few_records = st.tuples(
    st.sampled_from(["db.internal", "*.apps.internal"]),
    st.just("TXT"),
    st.sampled_from(['"a"', '"b;" "c"', '"\\" "']),
) | st.just(("www.internal", "CNAME", "web.internal."))


@st.composite
def catalogs(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    """Rows of a catalog that is loaded whole: over few names, so that two of them have much in
    common."""
    numbers = draw(st.lists(st.sampled_from([1, 24, 0x10000, 0xFFFFFFFF]), unique=True, max_size=3))
    called = draw(st.lists(names, unique=True, min_size=len(numbers), max_size=len(numbers)))
    free = iter(draw(st.permutations(range(4, 60))))
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in KEYS}

    def address(number: int) -> str:
        text = f"fdaa:{number >> 16:x}:{number & 0xFFFF:x}::{next(free):x}"
        return draw(st.sampled_from([text, text, text.upper(), text.replace("::", ":0:0:0:0000:")]))

    idents = draw(st.lists(st.sampled_from([f"m{n}" for n in range(8)]), unique=True, max_size=8))
    for number, name in zip(numbers, called, strict=True):
        rows["networks"].append({"id": number, "name": name, "organization": draw(texts)})
        for app in draw(st.sets(few_names, max_size=2)):
            rows["apps"].append({"network_id": number, "name": app})
        for peer in draw(st.sets(st.sampled_from(["bob", "alice", "interactive-z"]), max_size=3)):
            region = draw(st.just("") | names)
            rows["peers"].append(
                {"network_id": number, "name": peer, "address": address(number), "region": region}
            )
        for app in draw(st.sets(few_names, max_size=2)):
            rows["flycasts"].append({"network_id": number, "app": app, "address": address(number)})
        for zone in draw(st.sets(st.just("lan"), max_size=1)):
            rows["zones"].append({"network_id": number, "name": zone})
        for owner, rtype, value in draw(st.sets(few_records, max_size=4)):
            ttl = draw(st.sampled_from([5, 5, 60]))
            row = {"name": owner, "type": rtype, "value": value, "ttl": ttl}
            rows["records"].append({"network_id": number, **row})
    for ident in idents if numbers else ():
        number = draw(st.sampled_from(numbers))
        rows["machines"].append(
            {
                "id": ident,
                "network_id": number,
                "app": draw(few_names),
                "address": address(number),
                "region": draw(names),
                "process_group": draw(st.just("app") | names),
                "state": draw(st.sampled_from(["started", "stopped", "created"]) | texts),
                "skip_registration": draw(st.integers(0, 2)),
                "updated_at": 7,
            }
        )
        for key, value in draw(st.dictionaries(texts, texts, max_size=3)).items():
            rows["machine_metadata"].append({"machine_id": ident, "key": key, "value": value})
        for name, protocol in draw(
            st.sets(st.tuples(lower_names, st.sampled_from(["tcp", "udp"])), max_size=2)
        ):
            port = draw(st.integers(1, 65_535))
            rows["machine_services"].append(
                {"machine_id": ident, "name": name, "protocol": protocol, "port": port}
            )
    for slug, name in draw(st.dictionaries(texts.filter(bool), texts, max_size=2)).items():
        rows["organizations"].append({"slug": slug, "name": name})
    for code in draw(st.sets(few_names, max_size=3)):
        place = draw(st.tuples(degrees, degrees) | st.just((None, None)))
        gateway = draw(st.integers(0, 1))
        rows["regions"].append(
            {
                "code": code,
                "name": draw(texts),
                "latitude": place[0],
                "longitude": place[1],
                "gateway": gateway,
            }
        )
    for here, there in draw(st.sets(st.tuples(few_names, few_names), max_size=2)):
        milliseconds = draw(st.floats(0, 1e6))
        rows["region_latency"].append(
            {"from_region": here, "to_region": there, "milliseconds": milliseconds}
        )
    for host in draw(st.sets(st.integers(0, 2**32 - 1), max_size=2)):
        rows["hosts"].append({"id": host, "name": draw(texts), "region": draw(names)})
    return rows


@pytest.mark.parametrize("kind", ["toml", "json"])
@given(rows=catalogs())
@pytest.mark.slow
def test_applying_what_was_exported_changes_nothing(
    kind: Any, rows: dict[str, list[dict[str, Any]]]
) -> None:
    connection = catalog(rows)
    assert not read_faults(connection)
    value, notes = export(connection)
    assert notes == []
    wanted = parse(WRITERS[kind](value), name="x", kind=kind)
    for prune in False, True:
        planned = plan(connection, wanted, prune=prune)
        assert (planned.puts, planned.deletes, planned.lines, planned.notes) == ([], [], [], [])
        assert planned.summary() == "nothing to change"
    connection.close()


@given(catalogs(), catalogs(), st.booleans())
@pytest.mark.slow
def test_once_carried_out_a_plan_is_empty(before: Any, after: Any, prune: bool) -> None:
    connection, other = catalog(before), catalog(after)
    insert(connection, "machine_metadata", {"machine_id": "m0", "key": "of old", "value": ""})
    value, _ = export(other)
    wanted = document(to_toml(value))
    planned = plan(connection, wanted, prune=prune)
    assert planned.empty == (not planned.lines) == (planned.summary() == "nothing to change")
    put_keys = {(table, *(row[key] for key in KEYS[table])) for table, row in planned.puts}
    assert put_keys.isdisjoint((table, *key.values()) for table, key in planned.deletes)
    carry_out(connection, planned)
    again = plan(connection, wanted, prune=prune)
    assert (again.puts, again.deletes, again.lines) == ([], [], [])
    if prune:
        assert canonical(export(connection).document) == canonical(value)
    else:
        numbers = [row["id"] for row in wanted.rows()["networks"]]
        mine = export(connection, numbers).document.get("networks", {})
        assert canonical(mine) == canonical(value.get("networks", {}))
    connection.close()
    other.close()


def canonical(value: Any) -> Any:
    """A document with its addresses as RFC 5952 has them: those that mean the same are left as they
    are written."""
    text = re.sub(r"(?i)fdaa:[0-9a-f:]+", lambda found: str(IPv6Address(found[0])), to_json(value))
    return json.loads(text)


def read_faults(connection: sqlite3.Connection) -> int:
    connection.text_factory = bytes
    try:
        return read(connection).fault_count
    finally:
        connection.text_factory = str


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_the_demo_exported_is_the_demo(tmp_path: Path, kind: Any) -> None:
    create_catalog(tmp_path / "demo.db", demo_rows())
    connection = sqlite3.connect(tmp_path / "demo.db")
    value, notes = export(connection)
    assert notes == []
    wanted = parse(WRITERS[kind](value), name="demo", kind=kind)
    assert not wanted.warnings
    assert plan(connection, wanted, prune=True).empty
    assert export(connection, [24, 25, 26]).document["networks"] == value["networks"]
    new = catalog()
    planned = plan(new, wanted)
    assert planned.summary() == (
        "3 networks added, 7 apps added, 80 machines added, 5 peers added, 4 flycast addresses "
        "added, "
        "3 organizations added, 7 regions added, 7 latency pairs added, 7 hosts added"
    )
    carry_out(new, planned)
    for table, key in KEYS.items():
        columns = ", ".join(COLUMNS[table])
        query = f"SELECT {columns} FROM {table} ORDER BY {', '.join(key)}"
        assert new.execute(query).fetchall() == connection.execute(query).fetchall()
    new.close()
    connection.close()


@pytest.mark.parametrize("factory", [str, bytes])
def test_export_reads_over_any_connection_and_leaves_it_as_it_was(
    acme: sqlite3.Connection, factory: Any
) -> None:
    acme.text_factory = factory
    acme.row_factory = sqlite3.Row
    assert export(acme).document == tomllib.loads(ACME)
    assert plan(acme, document(ACME)).empty
    assert (acme.text_factory, acme.row_factory, acme.in_transaction) == (
        factory,
        sqlite3.Row,
        False,
    )


def test_export_is_readable_and_the_same_each_time(acme: sqlite3.Connection) -> None:
    text = to_toml(export(acme).document)
    assert text == to_toml(export(acme).document)
    assert text.startswith(ACME[:300])


METADATA = {
    "a.b": "dots.and.more", "Role": "Leader", "": "empty key", "empty": "", "nul\0": "\0",
    "quotes\"'": "\"\"\"'''\\",
    "line\n\r\t": "\x7f\x85\u2028\ufeff", "snow ☃ 🦊": "=#[]{},",
    "'); DROP TABLE machines; --": "x" * 70_000,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_metadata_is_carried_whatever_is_in_it(acme: sqlite3.Connection, kind: Any) -> None:
    for key, value in METADATA.items():
        insert(
            acme, "machine_metadata", {"machine_id": "5683d474b40d8e", "key": key, "value": value}
        )
    wanted = parse(WRITERS[kind](export(acme).document), name="x", kind=kind)
    assert plan(acme, wanted, prune=True).empty
    new = catalog()
    carry_out(new, plan(new, wanted))
    found = new.execute(
        "SELECT key, value FROM machine_metadata WHERE machine_id = '5683d474b40d8e'"
    )
    assert dict(found.fetchall()) == METADATA
    new.close()


def test_rows_that_are_not_served_are_exported_and_rejected_by_parse(
    empty: sqlite3.Connection,
) -> None:
    rows: list[tuple[str, dict[str, Any]]] = [
        ("networks", {"id": 0, "name": "zero"}),
        ("networks", {"id": 24, "name": "my net"}),
        ("machines", {"id": "a b", "network_id": 24, "app": "", "address": "::1", "region": ""}),
        ("machine_services", {"machine_id": "a b", "name": "", "protocol": "sctp", "port": "http"}),
        ("regions", {"code": "iad", "latitude": 38.9}),
        ("hosts", {"id": -1}),
    ]
    for table, row in rows:
        insert(empty, table, row)
    value, notes = export(empty)
    assert notes == []
    assert value == {
        "networks": {
            "zero": {"id": 0},
            "my net": {
                "id": "fdaa:0:18::/48",
                "apps": {
                    "": {
                        "machines": [
                            {
                                "id": "a b", "address": "::1", "region": "",
                                "services": [{"name": "", "protocol": "sctp", "port": "http"}],
                            }
                        ]
                    }
                },
            },
        },
        "regions": {"iad": {"latitude": 38.9}},
        "hosts": {"-1": {"region": ""}},
    }  # fmt: skip
    assert tomllib.loads(to_toml(value)) == json.loads(to_json(value)) == value
    assert len(faults(to_toml(value))) == 12


def test_what_no_document_can_represent_is_omitted_with_a_note(acme: sqlite3.Connection) -> None:
    value = export(acme).document
    acme.executescript("""
        INSERT INTO machine_metadata VALUES ('3d8d9930b03989', 'blob', x'00'),
            ('3d8d9930b03989', CAST(x'6bff' AS TEXT), ''), ('gone', 'k', 'v');
        INSERT INTO machine_services (machine_id, name, protocol, port)
            VALUES ('gone', 'http', 'tcp', 80);
        INSERT INTO apps VALUES ('x', 'web'), (24.5, 'web');
        INSERT INTO region_latency VALUES ('a', 'b', 9e999);
        INSERT INTO meta VALUES ('name', 'not part of a document');
    """)
    found, notes = export(acme)
    assert found == value
    assert sorted(notes) == [
        "apps 24.5 web: not exported: network_id is not an integer",
        "apps x web: not exported: network_id is not an integer",
        "machine_metadata 3d8d9930b03989 blob: not exported: value is a blob",
        "machine_metadata 3d8d9930b03989 k\\xff: not exported: key is not UTF-8",
        "metadata and services of machine gone: not exported: the document has no such machine",
        "region_latency a b: not exported: milliseconds is infinite",
    ]
    planned = plan(acme, document(to_toml(found)), prune=True)
    assert planned.notes == [
        "machine_metadata 3d8d9930b03989 k\\xff: not changed: no statement can address its key",
    ]
    assert planned.lines == [
        "- app 24.5/web",
        "- app x/web",
        "~ machine 3d8d9930b03989 of acme/web: metadata blob removed",
        "- latency a to b",
        "- metadata k of machine gone, which does not exist",
        "- service http of machine gone, which does not exist",
    ]
    carry_out(acme, planned)
    assert plan(acme, document(to_toml(found)), prune=True).empty


def test_a_network_without_a_name_of_its_own_goes_by_its_number(empty: sqlite3.Connection) -> None:
    insert(empty, "apps", {"network_id": 7, "name": "web"})
    insert(empty, "networks", {"id": 8, "name": "7"})
    insert(empty, "networks", {"id": 9, "name": "7"})
    insert(empty, "networks", {"id": 10})
    value, notes = export(empty)
    assert {name: network["id"] for name, network in value["networks"].items()} == {
        "network-7": "fdaa:0:7::/48",
        "7": "fdaa:0:8::/48",
        "9": "fdaa:0:9::/48",
        "10": "fdaa:0:a::/48",
    }
    assert notes == [
        "networks 7: has no row in networks, so it is exported as network-7",
        "networks 9: has the name of another, so it is exported as 9",
        "networks 10: has no name, so it is exported as 10",
    ]
    wanted = document(to_toml(value))
    assert plan(empty, wanted).lines == [
        "+ network network-7",
        "~ network 9: name 7 -> 9",
        "~ network 10: name '' -> 10",
    ]


def test_an_export_of_some_networks_includes_only_their_organizations(
    acme: sqlite3.Connection,
) -> None:
    insert(acme, "networks", {"id": 25, "name": "globex", "organization": "globex"})
    insert(acme, "organizations", {"slug": "globex", "name": "Globex"})
    value, notes = export(acme, [25, 99])
    assert value == {
        "networks": {"globex": {"id": "fdaa:0:19::/48", "organization": "globex"}},
        "organizations": {"globex": {"name": "Globex"}},
    }
    assert notes == ["networks 99: no such network"]
    assert export(acme, [24]).document["networks"] == tomllib.loads(ACME)["networks"]
    assert export(acme, []).document == {}


# ── plans ─────────────────────────────────────────────────────────────────────────────────────────


def edited(*changes: tuple[str, str]) -> Document:
    text = ACME
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return document(text)


def test_a_plan_lists_its_changes_in_words(acme: sqlite3.Connection) -> None:
    planned = plan(
        acme,
        edited(
            ('state = "started"', 'state = "stopped"'),
            ('role = "leader", version', 'role = "Replica", "new.one" = "", Version'),
            ("port = 8080 }", 'port = 8081 }, { name = "dns", protocol = "udp", port = 53 }'),
            ('id = "5683d474b40d8e"', 'id = "0000"'),
            ("[networks.acme.apps.blog]", "[networks.acme.apps.news]"),
            ("alice-laptop", "bob"),
            ("db = [", 'db = ["fdaa:0:18:0:1::4", '),
            ('id = "fdaa:0:18::/48"\norganization = "acme"', "id = 24"),
            ("latitude = 38.9\nlongitude = -77.4\ngateway = true\n", ""),
            ('name = "iad-1"', 'name = "iad-one"'),
            ("milliseconds = 82", "milliseconds = 82.5"),
            ('name = "Acme Corporation"', 'name = "Acme\\u001b[31m"'),
        ),
    )
    assert planned.lines == [
        "~ network acme: organization acme -> ''",
        "- app acme/blog",
        "+ app acme/news",
        "- machine 5683d474b40d8e of acme/web",
        "+ machine 0000 of acme/web",
        "~ machine 3d8d9930b03989 of acme/web: state started -> stopped, metadata version removed, "
        "metadata Version added, metadata new.one added, metadata role leader -> Replica, "
        "service dns/udp added, service http/tcp 8080 -> 8081",
        "- peer acme/alice-laptop",
        "+ peer acme/bob",
        "+ flycast acme/db fdaa:0:18:0:1::4",
        "~ organization acme: name Acme Corporation -> Acme\\x1b[31m",
        "~ region iad: latitude 38.9 -> unknown, longitude -77.4 -> unknown, gateway true -> false",
        "~ latency iad to ams: milliseconds 82.0 -> 82.5",
        "~ host a7b:7d: name iad-1 -> iad-one",
    ]
    assert planned.summary() == (
        "1 network changed, 1 app added, 1 removed, 1 machine added, 1 changed, 1 removed, 1 peer "
        "added, 1 removed, "
        "1 flycast address added, 1 organization changed, 1 region changed, 1 latency pair "
        "changed, 1 host changed"
    )
    assert [table for table, _ in planned.puts] == sorted(
        (t for t, _ in planned.puts), key=list(KEYS).index
    )
    assert planned.deletes == [
        ("peers", {"network_id": 24, "name": "alice-laptop"}),
        ("machine_metadata", {"machine_id": "3d8d9930b03989", "key": "version"}),
        ("machines", {"id": "5683d474b40d8e"}),
        ("apps", {"network_id": 24, "name": "blog"}),
    ]


def test_what_a_document_does_not_name_stays_unless_pruned(acme: sqlite3.Connection) -> None:
    small = document('[networks.globex]\nid = 25\n[regions.iad]\nname = "Ashburn"\n')
    planned = plan(acme, small)
    assert planned.summary() == "1 network added, 1 region changed"
    assert planned.deletes == []
    pruned = plan(acme, small, prune=True)
    assert pruned.summary() == (
        "1 network added, 1 removed, 2 apps removed, 2 machines removed, 1 peer removed, 1 flycast "
        "address removed, "
        "1 organization removed, 1 region changed, 1 removed, 1 latency pair removed, 1 host "
        "removed"
    )
    insert(acme, "meta", {"key": "name", "value": "stays"})
    carry_out(acme, pruned)
    assert export(acme).document == {
        "networks": {"globex": {"id": "fdaa:0:19::/48"}},
        "regions": {"iad": {"name": "Ashburn"}},
    }
    assert acme.execute("SELECT count(*) FROM machine_metadata").fetchone() == (0,)
    assert acme.execute("SELECT value FROM meta").fetchall() == [("stays",)]


def test_a_machine_that_moves_keeps_its_id_with_a_warning(acme: sqlite3.Connection) -> None:
    insert(acme, "networks", {"id": 25, "name": "Acme"})
    text = """\
[networks.globex]
id = 26
apps.api.machines = [
  { id = "3d8d9930b03989", address = "fdaa:0:1a::1", region = "iad", state = "started" }
]
[networks.acme]
id = 27
"""
    planned = plan(acme, document(text))
    assert planned.lines == [
        "+ network globex",
        "+ network acme",
        "+ app globex/api",
        "~ machine 3d8d9930b03989 of globex/api: network acme -> globex, app web -> api, "
        "address fdaa:0:18:a7b:7d:f066:b83b:2 -> fdaa:0:1a::1, group web -> app, "
        "metadata role removed, metadata version removed, service http/tcp removed",
    ]
    assert planned.warnings == [
        "network 24 of the catalog has the same name as 27: acme",
        "network 25 of the catalog has the same name as 27: acme",
        "machine 3d8d9930b03989 moves away from network acme, which the document does not name",
    ]
    carry_out(acme, planned)
    assert plan(acme, document(text)).empty


def test_an_app_stays_when_its_last_machine_goes(empty: sqlite3.Connection) -> None:
    machine = {
        "id": "m",
        "network_id": 24,
        "app": "web",
        "address": "fdaa:0:18::9",
        "region": "iad",
    }
    insert(empty, "networks", {"id": 24, "name": "acme"})
    insert(empty, "machines", machine)
    planned = plan(empty, document("[networks.acme]\nid = 24\napps.web = {}"))
    assert planned.lines == ["- machine m of acme/web"]
    carry_out(empty, planned)
    assert empty.execute("SELECT * FROM apps").fetchall() == [(24, "web")]


def test_regions_that_the_catalog_knows_need_no_warning(acme: sqlite3.Connection) -> None:
    text = '[networks.b]\nid = 9\npeers = { x = { address = "fdaa:0:9::1", region = "IAD" } }\n'
    wanted = document(text)
    assert len(wanted.warnings) == 1
    assert plan(acme, wanted).warnings == []
    assert plan(acme, wanted, prune=True).warnings == [str(wanted.warnings[0])]


def test_stray_rows_of_an_old_machine_do_not_join_a_new_one(
    empty: sqlite3.Connection,
) -> None:
    insert(
        empty, "machine_metadata", {"machine_id": "3d8d9930b03989", "key": "ghost", "value": "boo"}
    )
    carry_out(empty, plan(empty, document(ACME)))
    found = empty.execute("SELECT key FROM machine_metadata ORDER BY key").fetchall()
    assert found == [("role",), ("version",)]


def test_the_writer_carries_out_a_plan(tmp_path: Path) -> None:
    create_catalog(tmp_path / "demo.db", demo_rows())
    with Writer(tmp_path / "demo.db") as writer:
        for prune in False, True:
            planned = plan(writer.connection, document(ACME), prune=prune)
            assert not planned.empty
            writer.write(planned.puts, planned.deletes)
            assert plan(writer.connection, document(ACME), prune=prune).empty
        assert export(writer.connection).document == tomllib.loads(ACME)


def test_planning_and_exporting_write_nothing(acme: sqlite3.Connection) -> None:
    before = acme.total_changes
    acme.execute("PRAGMA query_only = 1")
    export(acme)
    plan(acme, document(""), prune=True)
    assert acme.total_changes == before


# ── the schema ────────────────────────────────────────────────────────────────────────────────────


def test_the_schema_in_docs_is_the_one_in_the_code() -> None:
    """To regenerate it: python -c 'from internal_dns.store.declare import *;
    print(to_json(json_schema()), end="")'"""
    assert (ROOT / "docs/catalog.schema.json").read_text() == to_json(json_schema())


JSON_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def violations(schema: Mapping[str, Any], value: Any, at: str = "") -> Iterator[str]:
    """As much of JSON Schema as ours uses. `format` only annotates."""
    known = (
        "$schema title description default format type properties additionalProperties required "
        "propertyNames "
        "items anyOf enum pattern minLength minimum maximum"
    ).split()
    assert set(known).issuperset(schema), schema
    if "anyOf" in schema and all(any(violations(one, value)) for one in schema["anyOf"]):
        yield f"{at}: anyOf"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: enum"
    if "type" in schema:
        wanted: Any = JSON_TYPES[schema["type"]]
        if not isinstance(value, wanted) or (
            isinstance(value, bool) and schema["type"] != "boolean"
        ):
            yield f"{at}: no {schema['type']}"
            return
    match value:
        case str():
            if len(value) < schema.get("minLength", 0) or not re.search(
                schema.get("pattern", ""), value
            ):
                yield f"{at}: pattern"
        case int() | float():
            if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
                yield f"{at}: range"
        case list():
            for position, item in enumerate(value):
                yield from violations(schema.get("items", {}), item, f"{at}[{position}]")
        case dict():
            yield from (
                f"{at}: {key} missing" for key in schema.get("required", ()) if key not in value
            )
            for key, item in value.items():
                yield from violations(schema.get("propertyNames", {}), key, f"{at}.{key}")
                inner = schema.get("properties", {}).get(
                    key, schema.get("additionalProperties", True)
                )
                if inner is False:
                    yield f"{at}.{key}: unknown"
                elif inner is not True:
                    yield from violations(inner, item, f"{at}.{key}")


@given(catalogs())
@pytest.mark.slow
def test_an_export_matches_the_json_schema(rows: dict[str, list[dict[str, Any]]]) -> None:
    connection = catalog(rows)
    value = json.loads(to_json(export(connection).document))
    assert list(violations(json_schema(), value)) == []
    connection.close()


def test_the_schema_refuses_what_parse_refuses_of_one_value() -> None:
    broken = json.loads(BROKEN_JSON)
    assert sorted(violations(json_schema(), broken)) == [
        ".hosts.4294967296.region: no string",
        ".latency[0]: milliseconds missing",
        ".latency[1]: no object",
        ".networks.acme\0: no object",
        ".networks.acme\0: pattern",
        ".networks.acme.apps.web.machines: no array",
        ".networks.acme.id: anyOf",
    ]
    assert list(violations(json_schema(), json.loads(json.dumps(tomllib.loads(ACME))))) == []


def test_the_examples_in_docs_are_documents() -> None:
    text = (ROOT / "docs/declarative.md").read_text()
    examples = re.findall(r"^```(toml|json)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(examples) >= 2
    for kind, example in examples:
        wanted = parse(example, name="docs/declarative.md", kind=kind)
        assert any(wanted.rows().values())
        assert (
            list(
                violations(
                    json_schema(), tomllib.loads(example) if kind == "toml" else json.loads(example)
                )
            )
            == []
        )
