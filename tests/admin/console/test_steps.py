"""Ask as anyone: the page draws what the server would do, to the octet."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import dns.message
import pytest

from internal_dns.admin.console import steps as module
from internal_dns.admin.console.steps import Question, journey, limit_answers
from internal_dns.admin.presentation import InvalidQuestion, query_for
from internal_dns.core.catalog import NetworkId
from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.core.requester import SourceMap
from tests.admin.console.looking import console, get
from tests.core.messages import AAAA, CATALOG, IN_WEB, SERVER, SRV, ip, opt, query

RULES = Rules(region=b"ams")
NAMES = (
    "web.internal",
    "top2.nearest.of.web.internal",
    "_instances.internal",
    "_apps.internal",
    "laptop._peer.internal",
    "web.flycast",
    "many.internal",
    "m1.vm.web.internal",
    "_http._tcp.web.internal",
    "nosuch.internal",
    "batch.internal",
    "2.1.kv._metadata.web.internal",
    "localhost",
    "printer",
    "internal",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", ["udp", "udp8192", "tcp"])
def test_a_machine_is_shown_the_reply_that_it_would_get(name: str, by: str) -> None:
    source = "fdaa:0:18:a7b:7d:1:1:2"
    shown = journey(Question(name, who=source, by=by, rotation=7), CATALOG, RULES)
    query = query_for(name, None, None, size=8_192 if by == "udp8192" else 1_232)
    said = respond(query.to_wire(), IN_WEB, SERVER, CATALOG, RULES, rotation=7, stream=by == "tcp")
    assert isinstance(said, Reply)
    reply = dns.message.from_wire(said.octets, one_rr_per_rrset=True)
    assert (shown["reply"]["rcode"], shown["reply"]["octets"]) == (
        said.rcode.name,
        len(said.octets),
    )
    records = [record for _, records, _ in shown["reply"]["sections"] for record in records]
    expected = [
        rrset
        for section in (reply.answer, reply.authority, reply.additional)
        for rrset in section[:200]
    ]
    assert [(r.name, r.ttl, r.data) for r in records] == [
        (str(e.name), e.ttl, e[0].to_text()) for e in expected
    ]


def test_each_machine_is_in_or_out_with_a_reason() -> None:
    shown = journey(Question("iad.web.internal", who="acme"), CATALOG, RULES)["machines"]
    assert [(v.machine.id, v.why) for v in shown["shown"]] == [
        (b"m3", ""), (b"m1", "region is ams"), (b"m2", "region is ams"), (b"m4", "stopped"),
    ]  # fmt: skip
    assert shown["reasons"] == [("region is ams", 2), ("stopped", 1)]
    assert (shown["inside"], shown["outside"], shown["judged"], shown["of"]) == (1, 3, 4, 4)


def test_the_page_draws_the_steps_in_order() -> None:
    with console() as client:
        page = get(
            client, "/ask?name=top1.nearest.of.web.internal&as=fdaa:0:18:a7b:91:1:3:2&type=AAAA"
        )
        titles = [text for _, text in page.all("h3")]
        assert titles == [
            "Client",
            "Location",
            "Meaning of the name",
            "Machines",
            "Reply",
        ]
        text = page.all("main")[0][1]
        assert "as machine m3 (started) owns this /112" in text
        assert "1 in 3 out" in text
        assert "self, 0.0 ms" in text
        assert page.rows(1) == [
            ["top1.nearest.of.web.internal.", "5", "AAAA", "fdaa:0:18:a7b:91:1:3:2"]
        ]


def test_reasons_of_negative_answers_are_shown() -> None:
    with console() as client:
        text = get(client, "/ask?name=batch.internal&as=acme").all("main")[0][1]
        assert "NOERROR" in text
        assert "EDE 0: 1 machine, none started" in text
        text = get(client, "/ask?name=secret.internal&as=acme").all("main")[0][1]
        assert "NXDOMAIN" in text
        assert "EDE 0: no such app in this network" in text


def test_one_tenant_is_never_told_of_another() -> None:
    shown = journey(Question("_instances.internal", who="globex", by="tcp"), CATALOG, RULES)
    assert "fdaa:0:18" not in str(shown)
    assert "fdaa:0:19:a7b:7d:1:1:2" in str(shown)


def test_turns_are_linked_and_change_who_is_first() -> None:
    first = [
        journey(Question("web.internal", who="acme", rotation=rotation), CATALOG, RULES)["reply"][
            "sections"
        ][0][1][0].data
        for rotation in range(3)
    ]
    assert len(set(first)) == 3
    with console() as client:
        links = get(client, "/ask?name=web.internal&as=acme&turn=4").links
        assert "/ask?name=web.internal&type=&as=acme&by=udp&turn=5" in links


def test_what_does_not_fit_is_marked() -> None:
    with console() as client:
        text = get(client, "/ask?name=many.internal&as=acme").all("main")[0][1]
        assert "truncated" in text
        text = get(client, "/ask?name=many.internal&as=acme&by=tcp").all("main")[0][1]
        assert "truncated" not in text
        assert "Answer, 100 records" in text


@pytest.mark.parametrize(("who", "words"), [
    ("nobody", "REFUSED"), ("2001:db8::1", "REFUSED"), ("fdaa:0:77::1", "NXDOMAIN"),
    ("acme/", "FORMERR"),
    ("acme/nrt", "NOERROR"), ("fdaa:0:0::1", "REFUSED"),
])  # fmt: skip
def test_whoever_asks_is_told_what_they_would_be(who: str, words: str) -> None:
    with console() as client:
        page = get(client, f"/ask?name=web.internal&as={who}")
        assert words in [
            text for attrs, text in page.all("span") if "badge" in attrs.get("class", "")
        ]


def test_a_mapped_source_asks_by_its_map() -> None:
    mapped = replace(RULES, maps=(SourceMap.of(ip_network("2001:db8::/64"), NetworkId(0x18)),))
    shown = journey(Question("web.internal", who="2001:db8::1"), CATALOG, mapped)
    assert shown["reply"]["rcode"] == "NOERROR"
    assert "by the configured map" in shown["steps"]["asks"]


def test_names_of_others_are_told_and_not_asked() -> None:
    with console(upstreams=("udp://192.0.2.53:53",)) as client:
        text = get(client, "/ask?name=example.com&as=acme").all("main")[0][1]
        assert "forwarded The server would forward the query to udp://192.0.2.53:53." in text
    with console(rules=Rules(forwarding=False), upstreams=()) as client:
        assert (
            "EDE 20: forwarding is off"
            in get(client, "/ask?name=example.com&as=acme").all("main")[0][1]
        )


@pytest.mark.parametrize(("field", "value"), [
    ("name", "a..b"), ("name", "x" * 64 + ".internal"), ("type", "NOSUCH"), ("as", "ä"),
    ("as", "x" * 128),
    ("name", "\\"), ("type", "TYPE99999"),
])  # fmt: skip
def test_what_cannot_be_asked_is_told_what_why_do(field: str, value: str) -> None:
    with console() as client:
        page = get(client, "/ask", params={"name": "web.internal", "as": "acme", field: value})
        told = [text for attrs, text in page.all("p") if attrs.get("id") == "fault"]
        assert len(told) == 1
        assert len(told[0]) > 40
    question = Question(**{"name": "web.internal", "who" if field == "as" else field: value})  # type: ignore[arg-type]
    with pytest.raises(InvalidQuestion):
        journey(question, CATALOG, RULES)


@pytest.mark.parametrize(
    "name",
    [
        "WEB.internal",
        "web.internal.",
        ".",
        "fdaa:0:18:a7b:7d:1:1:2",
        "\\000.internal",
        "*.internal",
    ],
)
@pytest.mark.slow
def test_odd_questions_have_a_page(name: str) -> None:
    with console() as client:
        for qtype in ("", "A", "TYPE65280", "OPT", "AXFR", "any"):
            get(
                client,
                "/ask",
                params={"name": name, "type": qtype, "as": "acme", "by": "pigeon", "turn": "x"},
            )


def test_of_a_large_app_only_so_many_machines_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_JUDGED", 10)
    monkeypatch.setattr(module, "SHOWN", 8)
    shown = journey(Question("many.internal", who="acme", by="tcp"), CATALOG, RULES)
    assert (
        shown["machines"]["judged"],
        shown["machines"]["of"],
        len(shown["machines"]["shown"]),
    ) == (10, 100, 8)
    assert shown["reply"]["answers"] == 100
    with console() as client:
        text = get(client, "/ask?name=many.internal&as=acme").all("main")[0][1]
        assert "The app has 100 machines; this page explains 10" in text


def test_the_nearest_are_judged_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_JUDGED", 3)
    own = "fdaa:0:18:a7b:7d:9:64:2"
    shown = journey(Question("top1.nearest.of.many.internal", who=own), CATALOG, RULES)["machines"]
    assert [v.machine.id for v in shown["shown"]] == [b"n099", b"n000", b"n001"]
    assert (shown["inside"], shown["shown"][0].machine.address) == (1, ip(own))


def test_a_long_list_of_machines_shows_both_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOWN", 20)
    shown = journey(
        Question("top50.nearest.of.many.internal", who="acme", by="tcp"), CATALOG, RULES
    )["machines"]
    assert (shown["inside"], shown["outside"]) == (50, 50)
    assert [bool(v.why) for v in shown["shown"]] == [False] * 15 + [True] * 5


@pytest.mark.parametrize(("name", "who", "machines"), [
    ("web.internal", "acme", 4), ("many.internal", "acme", 100),
    ("top3.nearest.of.many.internal", "acme/iad", 100),
    ("1._page.many.internal", "acme", 100), ("many.internal", "globex", 0),
    ("_instances.internal", "acme", 105),
    ("1._page.all._instances.internal", "acme", 105), ("fdaa:0:18:a7b:7d:1:1:2", "acme", 105),
    ("_apps.internal", "acme", 0), ("example.com", "acme", 0), ("many.internal", "nobody", 0),
    ("many.internal", "fdaa:0:18:a7b:7d:1:1:2", 100), ("many.internal", "2001:db8::1", 0),
])  # fmt: skip
def test_what_would_hold_up_answers_is_not_explained(
    name: str, who: str, machines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_MACHINES", machines)
    journey(Question(name, who=who), CATALOG, RULES)
    monkeypatch.setattr(module, "MAX_MACHINES", machines - 1)
    with pytest.raises(InvalidQuestion, match=f"made from {machines} machines") as refused:
        journey(Question(name, who=who), CATALOG, RULES)
    assert "`internal-dns explain`" in refused.value.do


@pytest.mark.parametrize("count", [1, 7, 99, 100, 200])
@pytest.mark.parametrize("name", ["many.internal", "_http._tcp.web.internal", "nosuch.internal"])
def test_a_reply_is_cut_to_its_first_answers_and_stays_a_message(name: str, count: int) -> None:
    qtype = SRV if "_tcp" in name else AAAA
    said = respond(
        query(name, qtype, opt()), ip("fdaa:0:18::9"), ip("fdaa::3"), CATALOG, Rules(), stream=True
    )
    assert isinstance(said, Reply)
    whole = dns.message.from_wire(said.octets, one_rr_per_rrset=True)
    octets, total = limit_answers(said.octets, count)
    cut = dns.message.from_wire(octets, one_rr_per_rrset=True)
    assert total == len(whole.answer)
    assert cut.answer == whole.answer[:count]
    assert (cut.authority, cut.additional, cut.options) == (
        whole.authority, whole.additional, whole.options,
    )  # fmt: skip
