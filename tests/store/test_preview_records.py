"""`apply --dry-run` shows what a change of records, zones, readiness and services does to answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from internal_dns.store.generate import create_catalog
from internal_dns.store.operations import perform
from internal_dns.store.writer import Writer

WEB = "fdaa:0:18:1:1:0:1:2"
WEB2 = "fdaa:0:18:1:1:0:2:2"
OUTSIDE = "a name outside"
Answers = dict[tuple[str, str], tuple[str, str]]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    create_catalog(tmp_path / "catalog.db", {})
    with Writer(tmp_path / "catalog.db") as opened:
        yield opened


def machine(ident: str, address: str, **more: Any) -> dict[str, Any]:
    return {"id": ident, "address": address, "region": "iad", "state": "started", **more}


def document(
    records: list[tuple[Any, ...]] = [],  # noqa: B006
    zones: list[str] | None = None,
    machines: list[dict[str, Any]] | None = None,
) -> str:
    rows = [dict(zip(("name", "type", "value", "ttl"), record, strict=False)) for record in records]
    apps = {"web": {"machines": machines or [machine("m1", WEB)]}}
    network = {"id": 24, "zones": zones or [], "records": rows, "apps": apps}
    return json.dumps({"networks": {"acme": network}})


def changed(writer: Writer, before: str, after: str) -> Answers:
    perform({"op": "apply", "text": before}, writer)
    reply = perform({"op": "apply", "text": after, "dry_run": True}, writer)
    assert reply["answers_changed"] == len(reply["answers"])
    return {(a["name"], a["type"]): (a["before"], a["after"]) for a in reply["answers"]}


def test_records_of_every_type_are_shown_in_presentation_form(writer: Writer) -> None:
    records = [
        ("x.internal", "A", "192.0.2.1"),
        ("x.internal", "TXT", '"a b" "c"'),
        ("x.internal", "MX", "10 mail.example."),
        ("x.internal", "SRV", "1 2 3 web.internal."),
        ("x.internal", "CAA", '0 issue "ca.example"'),
        ("x.internal", "HTTPS", '1 . alpn="h2"'),
        ("c.internal", "CNAME", "db.example."),
    ]
    gone = "NXDOMAIN (there is no app x)"
    found = changed(writer, document(), document(records))
    assert {key: after for key, (_, after) in found.items()} == {
        (name, rtype): value for name, rtype, value in records
    }
    assert found["x.internal", "A"][0].startswith("NXDOMAIN"), gone


def test_a_ttl_that_changes_is_shown(writer: Writer) -> None:
    before, after = ([("x.internal", "A", "192.0.2.1", ttl)] for ttl in (5, 60))
    assert changed(writer, document(before), document(after)) == {
        ("x.internal", "A"): ("192.0.2.1 (TTL 5)", "192.0.2.1 (TTL 60)")
    }


def test_aliases_change_with_what_they_lead_to(writer: Writer) -> None:
    records = [
        ("db.internal", "ALIAS", "web.internal."),
        ("www.internal", "CNAME", "web.internal."),
        ("old.internal", "CNAME", "www.internal."),
        ("other.internal", "A", "192.0.2.1"),
    ]
    two = [machine("m1", WEB), machine("m2", WEB2)]
    found = changed(writer, document(records), document(records, machines=two))
    both = f"{WEB}, {WEB2}"
    for name in "web.internal", "db.internal", "www.internal", "old.internal":
        assert found.pop((name, "AAAA")) == (WEB, both)
    assert not {name for name, _ in found} & {"other.internal", "www.internal", "old.internal"}


def test_a_wildcard_is_one_name_and_a_new_name_is_no_longer_covered(writer: Writer) -> None:
    wildcard = ("*.apps.internal", "A", "192.0.2.1")
    found = changed(writer, document(), document([wildcard]))
    assert set(found) == {("*.apps.internal", "A"), ("apps.internal", "-")}
    assert found["apps.internal", "-"][0].startswith("NXDOMAIN")
    assert found["apps.internal", "-"][1].startswith("no data")
    more = [wildcard, ("a.b.apps.internal", "TXT", '"x"')]
    found = changed(writer, document([wildcard]), document(more))
    assert found["a.b.apps.internal", "A"] == ("192.0.2.1", "no data")
    assert found["b.apps.internal", "A"][1].startswith("no data")


def test_a_new_zone_takes_names_from_the_outside(writer: Writer) -> None:
    records = [("a.corp.example", "A", "192.0.2.1")]
    found = changed(writer, document(), document(records, ["corp.example"]))
    assert found == {
        ("corp.example", "-"): (OUTSIDE, "no data"),
        ("a.corp.example", "A"): (OUTSIDE, "192.0.2.1"),
    }
    back = changed(writer, document(records, ["corp.example"]), document())
    assert back["a.corp.example", "A"] == ("192.0.2.1", OUTSIDE)


def test_an_app_and_a_record_of_one_name_take_turns(writer: Writer) -> None:
    records = [("web.internal", "A", "192.0.2.1")]
    perform({"op": "apply", "text": document(records)}, writer)
    gone = json.dumps(
        {
            "networks": {
                "acme": {
                    "id": 24,
                    "records": [{"name": "web.internal", "type": "A", "value": "192.0.2.1"}],
                }
            }
        }
    )
    found = changed(writer, document(records), gone)
    assert found["web.internal", "AAAA"][0] == WEB
    assert found["web.internal", "A"] == ("no data", "192.0.2.1")


def test_an_alias_loop_is_told(writer: Writer) -> None:
    records = [("a.internal", "CNAME", "b.internal."), ("b.internal", "CNAME", "a.internal.")]
    found = changed(writer, document(), document(records))
    assert found["a.internal", "-"][1] == "SERVFAIL (a chain of more than 8 aliases)"


def test_readiness_takes_a_machine_out_of_sets(writer: Writer) -> None:
    services = [{"name": "http", "port": 80}]
    two = [machine("m1", WEB, services=services), machine("m2", WEB2, services=services)]
    unready = [two[0], two[1] | {"ready": False}]
    found = changed(writer, document(machines=two), document(machines=unready))
    both, srv = f"{WEB}, {WEB2}", "0 1 80 m1.vm.web.internal."
    assert found["web.internal", "AAAA"] == (both, WEB)
    for name in "_http._tcp.web.internal", "_http._tcp.iad.web.internal":
        assert found[name, "SRV"][1] == srv
    assert ("m2.vm.web.internal", "AAAA") not in found
    assert ("vms.web.internal", "TXT") not in found


def test_priorities_and_names_of_machines_are_answers_too(writer: Writer) -> None:
    before = [machine("m1", WEB, services=[{"name": "http", "port": 80}])]
    service = {"name": "http", "port": 80, "priority": 10, "weight": 5}
    after = [machine("m1", WEB, name="blue", services=[service])]
    found = changed(writer, document(machines=before), document(machines=after))
    assert found["_http._tcp.web.internal", "SRV"][1] == "10 5 80 m1.vm.web.internal."
    assert found["blue.vm.web.internal", "AAAA"][1] == WEB
