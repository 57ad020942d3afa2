"""`explain` is truthful: its reply is the server's, and the verdicts agree with the answer."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from functools import cache
from ipaddress import ip_network
from itertools import product
from pathlib import Path
from random import Random

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.explain import Explanation, explain
from internal_dns.core.journey import Drop, Forward, Reply, Rules, respond
from internal_dns.core.records import address_text
from internal_dns.core.requester import SourceMap
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import read
from tests.core.catalogs import natural_type, random_name, random_rows, random_source
from tests.core.messages import (
    AAAA,
    ANY,
    PTR,
    QR,
    RD,
    ROWS,
    SOA,
    SRV,
    TXT,
    A,
    ip,
    loaded,
    machine,
    opened,
    opt,
    option,
    query,
    records,
)
from tests.laws import examples

SERVER = ip("fdaa::3")
MACHINE = ip("fdaa:0:18:a7b:7d:f066:b83b:2")
IN_GLOBEX = ip("fdaa:0:19:a7b:c1:1:2:2")
IN_INITECH = ip("fdaa:0:1a:a7b:7e:1:1:2")
RULES = Rules(
    region=b"ams", dev=True, maps=(SourceMap.of(ip_network("10.0.0.0/8"), NetworkId(0x18)),)
)
SOURCES = (
    MACHINE,
    ip("fdaa:0:18:a7b:7d:f066:b83b:102"),  # the peer in its /112
    ip("fdaa:0:18:a7b:7d:9:2:102"),  # a hidden peer
    ip("fdaa:0:18:a7b:b1:1:6:2"),  # a stopped machine
    ip("fdaa:0:18:a7b:a1:7:7:2"),  # no machine, but a known host
    IN_GLOBEX,
    IN_INITECH,
    ip("fdaa:0:77::2"),  # a network that the catalog does not have
    ip("10.0.0.1"),  # mapped
    ip("2001:db8::1"),  # an outsider
    ip("fdaa::3"),
)
NAMES = """
internal flycast a.a.d.f.ip6.arpa _apps.internal _instances.internal all._instances.internal
_peer.internal alice-laptop._peer.internal _api.internal _dns.internal _whoami.internal web.internal
global.web.internal iad.web.internal lhr.web.internal xxx.web.internal batch.internal blog.internal
nosuch.internal render.internal 3d8d9930b03989.vm.web.internal 287444ec026748.vm.web.internal
nosuch.vm.web.internal worker.process.web.internal iad.worker.process.web.internal
leader.role.kv._metadata.db.internal role.kv._metadata.db.internal x.role.kv._metadata.db.internal
regions.web.internal all.regions.web.internal vms.web.internal all.vms.web.internal
vms.worker.process.web.internal _instances.web.internal all._instances.web.internal
_http._tcp.web.internal _dns._udp.resolver.internal _nosuch._tcp.web.internal
top1.nearest.of.web.internal top3.nearest.of.web.internal top99999.nearest.of.render.internal
top2.nearest.of.worker.process.web.internal top0.nearest.of.web.internal vm.web.internal
of.web.internal _page.web.internal 1._page.web.internal 2._page.web.internal 01._page.web.internal
1._page.render.internal web.flycast a.b.web.flycast nosuch.flycast x.vm.web.internal
all.web.internal 2.0.0.0.b.3.8.b.6.6.0.f.d.7.0.0.b.7.a.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa
8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa x.a.a.d.f.ip6.arpa example.com localhost x.test hostname
1.0.10.in-addr.arpa
""".split()


@cache
def demo() -> Catalog:
    return loaded(rows=demo_rows()).catalog


def both(
    octets: bytes,
    source: bytes,
    catalog: Catalog | None,
    *,
    rules: Rules = RULES,
    rotation: int = 0,
    stream: bool = False,
) -> Explanation:
    """Return the explanation; fail unless its outcome is that of the server."""
    said = respond(octets, source, SERVER, catalog, rules, rotation=rotation, stream=stream, now=7)
    story = explain(octets, source, SERVER, catalog, rules, rotation=rotation, stream=stream, now=7)
    assert story.outcome == said
    assert story.octets == (said.octets if isinstance(said, Reply) else b"")
    assert story.steps
    assert all(title and says and says.isprintable() for title, says in story.steps)
    return story


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_explain_gives_the_reply_of_the_server(name: str) -> None:
    for source, qtype, stream in product(
        SOURCES, (AAAA, TXT, SRV, PTR, SOA, ANY, A), (False, True)
    ):
        both(query(name, qtype), source, demo(), rotation=qtype * 7, stream=stream)
        both(
            query(name.upper(), qtype, opt(option(10, bytes(8)), size=600)),
            source,
            demo(),
            stream=stream,
        )
        if qtype == AAAA:
            both(
                query(name, qtype, flags=0),
                source,
                demo(),
                rules=Rules(forwarding=False),
                stream=stream,
            )
    both(query(name), MACHINE, None)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        bytes(11),
        query("web.internal", flags=QR),
        query("web.internal") + b"\0",
        query("web.internal", opcode=5),
        query("web.internal", qclass=3),
        query("web.internal", 252),
        query("web.internal", AAAA, opt(version=1)),
        query("web.internal", AAAA, opt(option(65_001, b"globex/gru"))),
        query("", 2),
    ],
)
def test_odd_messages_are_explained_too(octets: bytes) -> None:
    for source in (*SOURCES, ip("::1")):
        both(octets, source, demo())
        both(octets, source, None)


@pytest.mark.parametrize(
    "said", [b"acme", b"globex/gru", b"nosuch", b"", b"\xff", b"fdaa:0:19::1", b"a:b", b"x" * 200]
)
def test_the_requester_named_in_dev_mode_is_explained(said: bytes) -> None:
    story = both(query("web.internal", AAAA, opt(option(65_001, said))), ip("::1"), demo())
    assert story.steps[0][0] == "asks"


@given(st.integers(0, 1 << 32))
@examples(60)
@pytest.mark.slow
def test_every_catalog_is_explained_as_it_is_answered(seed: int) -> None:
    rng = Random(seed)
    rows = random_rows(rng)
    catalog = loaded(rows=rows).catalog
    for _ in range(30):
        name = random_name(rng, rows)
        octets = query(
            name, natural_type(name, rng, rows), opt(size=4096), flags=rng.choice((0, RD))
        )
        both(
            octets,
            random_source(rng, rows),
            catalog,
            rotation=rng.getrandbits(32),
            stream=rng.random() < 0.5,
        )


def test_a_state_of_broken_utf_8_is_explained() -> None:
    connection = opened(rows=demo_rows())
    connection.execute(
        "UPDATE machines SET state = CAST(x'ff' AS TEXT) WHERE id = '3d8d9930b03989'"
    )
    catalog = read(connection).catalog
    connection.close()
    story = both(query("web.internal"), MACHINE, catalog)
    assert [v.why for v in story.machines if v.machine.id == b"3d8d9930b03989"] == ["\\xff"]


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────────


def included(story: Explanation) -> list[bytes]:
    """Return the ids of the machines in the answer."""
    return sorted(v.machine.id for v in story.machines if not v.why)


def answer(story: Explanation, rtype: int) -> list[str]:
    return records(dns.message.from_wire(story.octets), rtype)


APPS = {
    MACHINE: ("web", "db", "batch", "blog"),
    IN_GLOBEX: ("web", "resolver"),
    IN_INITECH: ("render",),
}
ADDRESS_FORMS = """
{} global.{} iad.{} ams.{} lhr.{} web.process.{} worker.process.{} app.process.{}
iad.worker.process.{} global.app.process.{} version.kv._metadata.{} 1.2.3.version.kv._metadata.{}
leader.role.kv._metadata.{} role.kv._metadata.{} nosuch.kv._metadata.{} top1.nearest.of.{}
top2.nearest.of.{} top99999.nearest.of.{} top2.nearest.of.worker.process.{}
top1.nearest.of.app.process.{}
""".split()


@pytest.mark.parametrize("form", ADDRESS_FORMS)
@pytest.mark.slow
def test_a_machine_is_marked_as_in_when_its_address_is_in_the_set(form: str) -> None:
    for source, apps in APPS.items():
        for app, rotation in product(apps, (0, 1, 5)):
            story = both(
                query(f"{form.format(app)}.internal", AAAA),
                source,
                demo(),
                stream=True,
                rotation=rotation,
            )
            marked = {address_text(v.machine.address).decode() for v in story.machines if not v.why}
            assert marked == set(answer(story, AAAA))


def test_every_machine_of_the_app_has_one_verdict() -> None:
    for source, apps in APPS.items():
        for app in apps:
            found = (
                demo().networks[NetworkId(int.from_bytes(source[2:6], "big"))].apps[app.encode()]
            )
            for form in ADDRESS_FORMS:
                story = both(query(f"{form.format(app)}.internal"), source, demo())
                assert sorted(v.machine.id for v in story.machines) == sorted(
                    m.id for m in found.machines
                )
                assert all(v.why.isprintable() for v in story.machines)


@pytest.mark.parametrize(
    "ident", ["3d8d9930b03989", "287444ec026748", "6e82dd75b4e987", "148e306c77e789", "nosuch"]
)
def test_the_machine_of_a_vm_name_is_in_when_it_is_answered(ident: str) -> None:
    story = both(query(f"{ident}.vm.web.internal"), MACHINE, demo())
    assert included(story) == ([ident.encode()] if answer(story, AAAA) else [])


@pytest.mark.parametrize(
    "name", ["_http._tcp.web", "_http._udp.web", "_postgres._tcp.db", "_nosuch._tcp.db"]
)
def test_a_machine_of_a_service_is_in_when_it_is_a_target(name: str) -> None:
    story = both(query(f"{name}.internal", SRV), MACHINE, demo(), stream=True)
    targets = [text.split()[-1].split(".")[0].encode() for text in answer(story, SRV)]
    assert included(story) == sorted(targets)


@pytest.mark.parametrize(
    "name", ["vms.web", "all.vms.web", "vms.worker.process.web", "all.vms.batch", "vms.blog"]
)
def test_a_machine_of_a_list_is_in_when_it_is_listed(name: str) -> None:
    story = both(query(f"{name}.internal", TXT), MACHINE, demo(), stream=True)
    listed = "".join(answer(story, TXT)).replace('" "', "").strip('"')
    assert included(story) == sorted(item.split()[0].encode() for item in listed.split(",") if item)


@pytest.mark.parametrize(
    "name", ["_instances.web", "all._instances.web", "_instances.batch", "all._instances.batch"]
)
def test_a_machine_of_instances_is_in_when_it_is_listed(name: str) -> None:
    story = both(query(f"{name}.internal", TXT), MACHINE, demo(), stream=True)
    listed = "".join(answer(story, TXT)).replace('" "', "").strip('"')
    fields = [item.split(",")[0] for item in listed.replace("\\;", ";").split(";") if item]
    assert included(story) == sorted(field.removeprefix("instance=").encode() for field in fields)


@pytest.mark.parametrize(
    "name", ["regions.web", "all.regions.web", "regions.worker.process.web", "regions.batch"]
)
def test_the_regions_listed_are_those_of_the_machines_that_are_in(name: str) -> None:
    story = both(query(f"{name}.internal", TXT), MACHINE, demo(), stream=True)
    listed = "".join(answer(story, TXT)).strip('"')
    regions = {v.machine.region.decode() for v in story.machines if not v.why}
    assert set(filter(None, listed.split(","))) == regions


@pytest.mark.parametrize(
    "name",
    [
        "web.flycast",
        "vm.web.internal",
        "of.web.internal",
        "_tcp.web.internal",
        "_apps.internal",
        "internal",
    ],
)
def test_no_machine_is_judged_where_none_decides(name: str) -> None:
    assert both(query(name), MACHINE, demo()).machines == ()


def test_machines_are_shown_to_their_own_network_only() -> None:
    for source in SOURCES:
        for name in ("web.internal", "top9.nearest.of.web.internal", "resolver.internal"):
            for verdict in both(query(name), source, demo()).machines:
                own = (
                    NetworkId(0x18)
                    if source == ip("10.0.0.1")
                    else NetworkId(int.from_bytes(source[2:6], "big"))
                )
                assert verdict.machine.address[2:6] == own.to_bytes(4, "big")


def test_nearest_lists_machines_in_the_order_of_the_answer() -> None:
    for rotation in range(6):
        story = both(query("top4.nearest.of.web.internal"), MACHINE, demo(), rotation=rotation)
        marked = [address_text(v.machine.address).decode() for v in story.machines if not v.why]
        assert marked == answer(story, AAAA)
        assert story.machines[0].distance.startswith("self")


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("web.internal", {"m1"}),
        ("ams.web.internal", {"m1"}),
        ("1._page.web.internal", {"m1"}),
        ("top9.nearest.of.web.internal", {"m1"}),
        ("_http._tcp.web.internal", {"m1"}),
        ("_http._tcp.ams.web.internal", {"m1"}),
        ("vms.web.internal", set()),
        ("m1.vm.web.internal", set()),
        ("blue.vm.web.internal", set()),
        ("worker.process.web.internal", set()),
        ("_http._tcp.worker.process.web.internal", set()),
    ],
)
def test_a_machine_that_is_not_ready_is_marked_so(name: str, left_out: set[str]) -> None:
    rows = [
        (*machine("m1", "fdaa:0:18:a7b:7d:1:1:2"), 0, "blue"),
        machine("m2", "fdaa:0:18:a7b:7d:1:2:2"),
        (*machine("m3", "fdaa:0:18:a7b:91:1:3:2", region="iad", group="worker"), 0),
    ]
    services = [(ident, "http", "tcp", 80) for ident in ("m1", "m2", "m3")]
    catalog = loaded(rows={**ROWS, "machines": rows, "machine_services": services}).catalog
    source = ip("fdaa:0:18:a7b:7d:1:1:2")
    story = both(query(name, SRV if "_tcp" in name else AAAA), source, catalog)
    told = {v.machine.id.decode() for v in story.machines if v.why == "not ready"} - {"m3"}
    assert told == left_out
    shown = "all are shown: none is ready"
    assert (shown in dict(story.steps).values()) == ("worker" in name)
    inside = sorted(address_text(v.machine.address).decode() for v in story.machines if not v.why)
    if "_tcp" not in name and "vms" not in name:
        assert sorted(answer(story, AAAA)) == inside


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        (
            "iad.web.internal",
            {
                "287444ec026748": "region is syd",
                "1857705c2ee4e8": "destroyed",
                "6e82dd75b4e987": "skip_registration is set",
                "3d8d9930b03989": "",
            },
        ),
        (
            "worker.process.web.internal",
            {"3d8d9930b03989": "process group is web", "683d920b195638": "suspended"},
        ),
        (
            "3d8d9930b03989.vm.web.internal",
            {"3d8d9930b03989": "", "5683d474b40d8e": "has a different id"},
        ),
        ("1.2.3.version.kv._metadata.web.internal", {"4d89696a2e7508": "metadata lacks the key"}),
        (
            "1.2.3.version.kv._metadata.web.internal",
            {"7811e63fd4de08": "metadata has a different value"},
        ),
        ("_http._tcp.web.internal", {"4d89696a2e7508": "does not publish the service"}),
    ],
)
def test_a_machine_that_is_not_in_the_answer_has_a_reason(
    name: str, reasons: dict[str, str]
) -> None:
    story = both(query(name), MACHINE, demo())
    told = {v.machine.id.decode(): v.why for v in story.machines}
    assert {ident: told[ident] for ident in reasons} == reasons


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (MACHINE, "region iad, as machine 3d8d9930b03989 (started) owns this /112"),
        (ip("fdaa:0:18:a7b:7d:f066:b83b:102"), "region iad, as peer alice-laptop owns this /120"),
        (
            ip("fdaa:0:18:a7b:7d:9:2:102"),
            "region iad, as peer interactive-alice-7f3a owns this /120",
        ),
        (
            ip("fdaa:0:18:a7b:b1:1:6:2"),
            "region syd, as machine 287444ec026748 (stopped) owns this /112",
        ),
        (ip("fdaa:0:18:a7b:a1:7:7:2"), "region nrt, by the host bits of the address"),
        (ip("fdaa:0:18:5:5:7:7:2"), "region ams, that of this server"),
        (ip("10.0.0.1"), "region ams, that of this server"),
    ],
)
def test_the_place_of_the_requester_is_shown_with_its_rule(source: bytes, says: str) -> None:
    assert dict(both(query("web.internal"), source, demo()).steps)["place"] == says


@pytest.mark.parametrize(
    ("name", "source", "outcome"),
    [
        ("example.com", MACHINE, Forward),
        ("web.internal", ip("2001:db8::1"), Reply),
        ("web.internal", MACHINE, Reply),
    ],
)
def test_the_outcome_comes_last_but_for_the_revision(
    name: str, source: bytes, outcome: type
) -> None:
    story = both(query(name), source, demo())
    assert isinstance(story.outcome, outcome)
    assert [title for title, _ in story.steps][-1] in ("outcome", "revision")
    assert isinstance(both(b"", source, demo()).outcome, Drop)


# ── the command ───────────────────────────────────────────────────────────────────────────────────

GOLDEN = {
    "iad.web.internal --as acme/iad": """\
asks     ::1 is in network acme, by dev mode: asked as acme/iad
place    region iad, as asked
name     an app's visible machines, narrowed by region, by group, or both (app web, region iad)
outcome  NOERROR, 129 octets over UDP, TTL 5, kind internal
revision 1 of this network
  - 1857705c2ee4e8  iad  web      fdaa:0:18:a7b:7e:1:9:2        destroyed
  - 287444ec026748  syd  worker   fdaa:0:18:a7b:b1:1:6:2        region is syd
  + 3d8d9930b03989  iad  web      fdaa:0:18:a7b:7d:f066:b83b:2
  + 4d89696a2e7508  iad  worker   fdaa:0:18:a7b:7d:1:5:2
  + 5683d474b40d8e  iad  web      fdaa:0:18:a7b:7e:1:2:2
  - 683d920b195638  ams  worker   fdaa:0:18:a7b:91:1:7:2        region is ams
  - 6e82dd75b4e987  iad  release  fdaa:0:18:a7b:7e:1:a:2        skip_registration is set
  - 7811e63fd4de08  ams  web      fdaa:0:18:a7b:91:1:3:2        region is ams
  - 9080524f610e87  ord  web      fdaa:0:18:a7b:81:1:8:2        region is ord
  - e2865013bd7d86  nrt  web      fdaa:0:18:a7b:a1:1:4:2        region is nrt
; NOERROR qr aa rd ra
iad.web.internal. 5 IN AAAA fdaa:0:18:a7b:7d:1:5:2
iad.web.internal. 5 IN AAAA fdaa:0:18:a7b:7d:f066:b83b:2
iad.web.internal. 5 IN AAAA fdaa:0:18:a7b:7e:1:2:2
""",
    "top2.nearest.of.db.internal --as fdaa:0:18:a7b:91:2:3:2": """\
asks     fdaa:0:18:a7b:91:2:3:2 is in network acme, by the /48 of its address, fdaa:0:18::/48
place    region ams, as machine d891256b604e78 (started) owns this /112
name     at most 2 visible machines, nearest first (app db)
outcome  NOERROR, 112 octets over UDP, TTL 5, kind internal
revision 1 of this network
  + d891256b604e78  ams  app  fdaa:0:18:a7b:91:2:3:2  self, 0.0 ms
  + 32874445f04218  ord  app  fdaa:0:18:a7b:81:2:2:2  66.1 ms
  - 148e306c77e789  iad  app  fdaa:0:18:a7b:7d:2:1:2  not among the 2 nearest
; NOERROR qr aa rd ra
top2.nearest.of.db.internal. 5 IN AAAA fdaa:0:18:a7b:91:2:3:2
top2.nearest.of.db.internal. 5 IN AAAA fdaa:0:18:a7b:81:2:2:2
""",
    "leader.role.kv._metadata.db.internal --as acme --quiet": """\
leader.role.kv._metadata.db.internal. 5 IN AAAA fdaa:0:18:a7b:7d:2:1:2
""",
    "resolver.internal --as acme": """\
asks     ::1 is in network acme, by dev mode: asked as acme
place    region unknown: all machines are equally near
name     an app's visible machines, narrowed by region, by group, or both (app resolver)
apps     no app resolver in this network; it has batch, blog, db, web
outcome  NXDOMAIN, 147 octets over UDP, kind internal
revision 1 of this network
; NXDOMAIN qr aa rd ra
; EDE 0 (Other): no such app in this network
; authority
internal. 1 IN SOA _dns.internal. hostmaster.internal. 1 5 5 5 1
""",
}


@pytest.fixture(scope="module")
def catalog_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "catalog.db"
    create_catalog(path, demo_rows())
    return path


@pytest.mark.parametrize("words", GOLDEN)
@pytest.mark.slow
def test_the_command_prints_the_explanation(words: str, catalog_file: Path) -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "internal_dns",
            "explain",
            "--catalog",
            str(catalog_file),
            *words.split(),
        ],
        env={k: v for k, v in os.environ.items() if not k.startswith("INTERNAL_DNS_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stderr == ""
    assert told.stdout == GOLDEN[words]
    assert told.returncode == ("NXDOMAIN" in told.stdout)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("wbe", "no app wbe in this network; similar: web"),
        ("bacth", "no app bacth in this network; similar: batch"),
        ("top2.nearest.of.webb", "no app webb in this network; similar: web"),
        ("zzz", "no app zzz in this network; it has batch, blog, db, web"),
    ],
)
def test_similar_apps_are_named_for_a_misspelled_app(label: str, says: str) -> None:
    story = both(query(f"{label}.internal"), MACHINE, demo())
    assert dict(story.steps)["apps"] == says


def test_another_networks_apps_are_never_named() -> None:
    story = both(query("resolvr.internal"), MACHINE, demo())
    assert "resolver" not in dict(story.steps)["apps"].removeprefix("no resolvr")


def test_a_change_in_the_catalog_changes_the_explanation(
    catalog_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "changed.db"
    with sqlite3.connect(catalog_file) as old, sqlite3.connect(path) as new:
        old.backup(new)
        new.execute("UPDATE machines SET state = 'stopped' WHERE id = '3d8d9930b03989'")
    for connection in (old, new):
        connection.close()
    from internal_dns.store.sqlite import load

    story = both(query("web.internal"), MACHINE, load(path).catalog)
    assert [v.why for v in story.machines if v.machine.id == b"3d8d9930b03989"] == ["stopped"]


# ── records and zones ─────────────────────────────────────────────────────────────────────────────


@cache
def with_records() -> Catalog:
    rows = {
        **demo_rows(),
        "zones": [(24, "corp.example")],
        "records": [
            (24, "pg.internal", "A", "10.0.0.1", 5),
            (24, "*.apps.internal", "CNAME", "www.corp.example", 5),
            (24, "www.corp.example", "ALIAS", "web.internal", 5),
            (24, "out.internal", "CNAME", "db.provider.example", 5),
            (24, "loop.internal", "CNAME", "loop.internal", 5),
        ],
    }
    return loaded(rows=rows).catalog


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pg.internal", [("name", "answered by a record of this network")]),
        ("nosuch.corp.example", [("name", "answered by its zone")]),
        (
            "x.apps.internal",
            [
                ("name", "answered by a record of this network"),
                ("alias", "to www.corp.example: answered by its zone"),
                (
                    "alias",
                    "to web.internal: an app's visible machines, narrowed by region, by group, or both (app web)",
                ),
            ],
        ),
        (
            "out.internal",
            [
                ("name", "answered by a record of this network"),
                ("alias", "to db.provider.example: a name outside"),
            ],
        ),
    ],
)
def test_each_alias_is_told_and_by_what_its_name_is_answered(
    name: str, told: list[tuple[str, str]]
) -> None:
    found = explain(query(name, AAAA), MACHINE, SERVER, with_records(), RULES)
    assert [step for step in found.steps if step[0] in ("name", "alias")] == told


def test_the_machines_of_an_alias_are_those_of_its_last_name() -> None:
    found = explain(query("x.apps.internal", AAAA), MACHINE, SERVER, with_records(), RULES)
    assert {verdict.machine.app for verdict in found.machines} == {b"web"}
    assert isinstance(found.outcome, Reply)
    assert found.outcome.octets[7] == 1 + sum(not verdict.why for verdict in found.machines)


def test_a_loop_of_aliases_is_told() -> None:
    found = explain(query("loop.internal", AAAA), MACHINE, SERVER, with_records(), RULES)
    assert ("alias", "more aliases than are followed: a loop?") in found.steps
