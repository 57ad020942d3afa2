"""`apply --dry-run`: every answer that would change, in presentation form."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.name
import pytest

from internal_dns.core.records import MAX_ADDRESSES
from internal_dns.store.generate import create_catalog
from internal_dns.store.json_rows import BadRequest
from internal_dns.store.operations import perform
from internal_dns.store.preview import _name_text
from internal_dns.store.writer import RejectedChange, Writer

MACHINE = """
[[networks.acme.apps.web.machines]]
id = "m1"
address = "fdaa:0:18:1:1:0:1:2"
region = "iad"
state = "started"
metadata = { Role = "leader", "no.label" = "x", place = "New York.east" }
services = [{ name = "http", port = 80 }]
"""
DOCUMENT = f"""
[networks.acme]
id = 24
[networks.acme.peers.erin]
address = "fdaa:0:18:1:1:0:7:102"
[networks.acme.flycasts]
web = ["fdaa:0:18:0:1::2"]
{MACHINE}
"""
ADDRESS = "fdaa:0:18:1:1:0:1:2"
PTR = "2.0.0.0.1.0.0.0.0.0.0.0.1.0.0.0.1.0.0.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa"
STOPPED = "no data (1 machine, none started)"
SRV = "0 1 80 m1.vm.web.internal."
NO_SERVICE = "no data (no started machine publishes this service)"
NO_SERVICE_HERE = "no data (no started machine publishes this service here)"


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    create_catalog(tmp_path / "catalog.db", {})
    with Writer(tmp_path / "catalog.db") as opened:
        perform({"op": "apply", "text": DOCUMENT}, opened)
        yield opened


def tried(writer: Writer, text: str, **more: Any) -> dict[str, Any]:
    return perform({"op": "apply", "text": text, "dry_run": True, **more}, writer)


def answers(writer: Writer, text: str) -> dict[tuple[str, str], tuple[str, str]]:
    reply = tried(writer, text)
    assert reply["answers_changed"] == len(reply["answers"])
    return {(a["name"], a["type"]): (a["before"], a["after"]) for a in reply["answers"]}


def test_every_answer_that_a_stopped_machine_changes_is_listed(writer: Writer) -> None:
    found = answers(writer, DOCUMENT.replace('"started"', '"stopped"'))
    instance = f"instance=m1,app=web,ip={ADDRESS},region=iad"
    assert found == {
        ("_instances.internal", "TXT"): (instance, "(empty)"),
        ("_instances.web.internal", "TXT"): (instance, "(empty)"),
        ("web.internal", "AAAA"): (ADDRESS, STOPPED),
        ("iad.web.internal", "AAAA"): (ADDRESS, STOPPED),
        ("app.process.web.internal", "AAAA"): (ADDRESS, STOPPED),
        ("iad.app.process.web.internal", "AAAA"): (ADDRESS, STOPPED),
        ("regions.web.internal", "TXT"): ("iad", "(empty)"),
        ("vms.web.internal", "TXT"): ("m1 iad", "(empty)"),
        ("regions.app.process.web.internal", "TXT"): ("iad", "(empty)"),
        ("vms.app.process.web.internal", "TXT"): ("m1 iad", "(empty)"),
        ("role.kv._metadata.web.internal", "AAAA"): (ADDRESS, STOPPED),
        ("leader.role.kv._metadata.web.internal", "AAAA"): (ADDRESS, STOPPED),
        ("place.kv._metadata.web.internal", "AAAA"): (ADDRESS, STOPPED),
        (r"new\032york.east.place.kv._metadata.web.internal", "AAAA"): (ADDRESS, STOPPED),
        ("_http._tcp.web.internal", "SRV"): (SRV, NO_SERVICE),
        ("_http._tcp.iad.web.internal", "SRV"): (SRV, NO_SERVICE_HERE),
        ("_http._tcp.app.process.web.internal", "SRV"): (SRV, NO_SERVICE_HERE),
        ("_http._tcp.iad.app.process.web.internal", "SRV"): (SRV, NO_SERVICE_HERE),
        ("m1.vm.web.internal", "AAAA"): (ADDRESS, "no data (the machine is not started)"),
        (PTR, "PTR"): (
            "m1.vm.web.internal.",
            "NXDOMAIN (no name in this network has this address)",
        ),
    }


def test_reverse_names_follow_peers_flycasts_and_new_networks(writer: Writer) -> None:
    text = DOCUMENT.replace(":7:102", ":8:102").replace(":1::2", ":1::4")
    found = answers(writer, text + "[networks.new]\nid = 25\n")
    owners = {name[:4]: change for (name, qtype), change in found.items() if qtype == "PTR"}
    gone = "NXDOMAIN (no name in this network has this address)"
    assert sorted(change for (_, qtype), change in found.items() if qtype == "PTR") == [
        (gone, "erin._peer.internal."),
        (gone, "web.flycast."),
        ("NXDOMAIN (this network is not in the catalog)", "_api.internal."),
        ("erin._peer.internal.", gone),
        ("web.flycast.", gone),
    ]
    assert owners
    assert found["erin._peer.internal", "AAAA"] == (
        "fdaa:0:18:1:1:0:7:102", "fdaa:0:18:1:1:0:8:102",
    )  # fmt: skip
    assert found["web.flycast", "AAAA"] == ("fdaa:0:18:0:1::2", "fdaa:0:18:0:1::4")
    assert found["_apps.internal", "TXT"] == (
        "NXDOMAIN (this network is not in the catalog)", "(empty)",
    )  # fmt: skip


def test_unchanged_names_are_not_listed(writer: Writer) -> None:
    second = MACHINE.replace("m1", "m2").replace("0:1:2", "0:2:2").replace('"http"', '"https"')
    found = answers(writer, DOCUMENT + second)
    assert found["web.internal", "AAAA"] == (ADDRESS, f"{ADDRESS}, fdaa:0:18:1:1:0:2:2")
    assert not {name for name, _ in found} & {
        "m1.vm.web.internal", "web.flycast", "_peer.internal", "_apps.internal", PTR,
        "_http._tcp.web.internal",
    }  # fmt: skip


def test_a_region_of_its_own_makes_names_of_every_app_exist(writer: Writer) -> None:
    reply = tried(writer, "[regions.ams]\n")
    assert [(a["name"], a["before"], a["after"]) for a in reply["answers"]] == [
        ("ams.web.internal", "NXDOMAIN (no such region)", "no data (no machine matches)"),
        ("ams.app.process.web.internal", "NXDOMAIN (no such region)",
         "no data (no machine matches)"),
        ("_http._tcp.ams.web.internal", "NXDOMAIN (no such region)", NO_SERVICE_HERE),
        ("_http._tcp.ams.app.process.web.internal", "NXDOMAIN (no such region)", NO_SERVICE_HERE),
    ]  # fmt: skip
    assert reply["warnings"] == [
        "regions, latency or hosts change: `nearest` names may order their answers differently"
    ]


def test_the_listed_answers_are_bounded_and_all_are_counted(writer: Writer) -> None:
    stopped = DOCUMENT.replace('"started"', '"stopped"')
    whole, some, none = (tried(writer, stopped, limit=limit) for limit in (1_000, 3, 0))
    assert some["answers"] == whole["answers"][:3]
    assert (none["answers"], none["lines"]) == ([], [])
    for reply in (whole, some, none):
        assert (reply["answers_changed"], reply["changes"]) == (20, 1)
    for limit in (-1, True, "9", 1.5):
        with pytest.raises(BadRequest, match="limit"):
            tried(writer, stopped, limit=limit)


def test_a_machine_changes_its_network_only_when_that_is_allowed(writer: Writer) -> None:
    text = "[networks.globex]\nid = 25\n" + MACHINE.replace("acme", "globex").replace(
        ":18:", ":19:"
    )
    for request in (False, True):
        with pytest.raises(RejectedChange) as caught:
            perform({"op": "apply", "text": text, "dry_run": request}, writer)
        assert caught.value.faults == [
            "machine m1 would move from network acme to globex: give it another id if it is a "
            "different machine, or allow the move with --move"
        ]
    assert perform({"op": "apply", "text": text, "move": True}, writer)["changes"] == 3
    assert perform({"op": "apply", "text": text}, writer)["changes"] == 0


def test_many_machines_that_would_move_are_counted(writer: Writer) -> None:
    member = '{{ id = "x{0}", address = "fdaa:0:{1}:1:1:0:{0}:2", region = "iad" }}'
    text = "[networks.n{0}]\nid = {0}\napps.a.machines = [{1}]\n"
    for network in (0x30, 0x31):
        members = ", ".join(member.format(n, f"{network:x}") for n in range(1, 26))
        document = text.format(network, members)
        if network == 0x30:
            perform({"op": "apply", "text": document}, writer)
    with pytest.raises(RejectedChange) as caught:
        perform({"op": "apply", "text": document}, writer)
    assert len(caught.value.faults) == 21
    assert caught.value.faults[-1] == "and 5 more"


def test_of_many_members_those_that_differ_are_shown_and_the_others_counted(writer: Writer) -> None:
    member = (
        '{{ id = "w{0}", address = "fdaa:0:40:1:1:0:{0}:2", region = "iad", state = "started" }}'
    )
    document = "[networks.many]\nid = 0x40\napps.w.machines = [{}]\n"
    few, more, most = (
        document.format(", ".join(member.format(n) for n in range(10, 10 + count)))
        for count in (30, 31, 60)
    )
    perform({"op": "apply", "text": few}, writer)
    assert answers(writer, more)["w.internal", "AAAA"] == (
        "30 unchanged",
        "fdaa:0:40:1:1:0:40:2 and 30 unchanged",
    )
    before, after = answers(writer, most)["vms.w.internal", "TXT"]
    assert before == "30 unchanged"
    assert after.startswith("w40 iad,w41 iad,")
    assert after.endswith(",w59 iad and 10 more and 30 unchanged")
    before, after = answers(writer, document.format(""))["w.internal", "AAAA"]
    assert before.endswith(":29:2 and 10 more")
    assert after == "no data (no machine matches)"


@pytest.mark.slow
def test_sets_and_lists_past_any_message_are_compared_whole(writer: Writer) -> None:
    member = (
        'id = "w{0:04}", address = "fdaa:0:40:1:1:0:{0:x}:2", region = "iad", state = "{1}", '
        'metadata = {{ role = "r" }}, services = [{{ name = "http", port = 80 }}]'
    )
    count, stopped = MAX_ADDRESSES + 60, 60

    def document(off: int) -> str:
        members = (
            f"{{ {member.format(n, 'stopped' if n < off else 'started')} }}" for n in range(count)
        )
        return (
            f"[networks.many]\nid = 0x40\napps.w.machines = [{', '.join(members)}]\n"
            'flycasts.w = ["fdaa:0:40:0:1::2"]\n'
        )

    perform({"op": "apply", "text": document(0)}, writer)
    found = answers(writer, document(stopped))
    same = f"{count - stopped:,} unchanged"
    for name, qtype, first in (
        ("w.internal", "AAAA", "fdaa:0:40:1:1::2, fdaa:0:40:1:1:0:1:2, "),
        ("r.role.kv._metadata.w.internal", "AAAA", "fdaa:0:40:1:1::2, "),
        ("_http._tcp.w.internal", "SRV", "0 1 80 w0000.vm.w.internal., "),
        ("vms.w.internal", "TXT", "w0000 iad,w0001 iad,"),
        ("_instances.w.internal", "TXT", "instance=w0000,app=w,ip=fdaa:0:40:1:1::2,region=iad;"),
        ("_instances.internal", "TXT", "instance=w0000,app=w,"),
    ):
        before, after = found[name, qtype]
        assert before.startswith(first), name
        assert before.endswith(f" and {stopped - 20} more and {same}"), name
        assert after == same, name


@pytest.mark.parametrize("octet", range(256))
def test_a_label_is_written_as_other_programs_write_it(octet: int) -> None:
    label = b"a" + bytes([octet])
    assert _name_text(bytes([2]) + label + b"\1b\0") == dns.name.Name((label, b"b", b"")).to_text()
