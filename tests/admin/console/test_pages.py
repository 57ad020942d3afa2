"""The pages on the catalog: what is there is shown, bounded, and found again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from internal_dns.admin.console import pages
from internal_dns.admin.console.app import age, moment
from internal_dns.core.catalog import Catalog
from internal_dns.store.generate import create_catalog, sized_rows
from internal_dns.store.sqlite import load
from tests.admin.console.looking import console, get
from tests.core.messages import ACME, ROWS, ip, loaded, machine


def test_networks_are_listed_with_what_they_hold() -> None:
    with console() as client:
        assert get(client, "/").rows() == [
            ["fdaa:0:18::/48", "acme", "4", "105", "1", "1", "as acme"],
            ["fdaa:0:19::/48", "globex", "2", "1", "0", "0", "as globex"],
        ]


def test_a_network_lists_its_apps_and_only_its_own() -> None:
    with console() as client:
        page = get(client, f"/networks/{ACME}")
        assert [row[:3] for row in page.rows()] == [
            ["batch", "1", "0"], ["blog", "0", "0"], ["many", "100", "100"], ["web", "4", "3"],
        ]  # fmt: skip
        assert not any("globex" in text for _, text in page.all("main"))


def test_peers_and_flycasts_have_pages_of_their_own() -> None:
    with console() as client:
        assert get(client, f"/networks/{ACME}/peers").rows() == [
            [
                "fdaa:0:18:a7b:7d:1:1:102",
                "laptop",
                "–",
                "shown",
                "laptop._peer.internal",
                "as laptop",
            ]
        ]
        assert get(client, f"/networks/{ACME}/flycasts").rows() == [
            ["fdaa:0:18:0:1::9", "web", "web.flycast"]
        ]


def test_an_app_lists_its_machines_as_they_are() -> None:
    with console() as client:
        rows = get(client, f"/networks/{ACME}/apps/web").rows()
        assert [row[:5] for row in rows] == [
            ["fdaa:0:18:a7b:7d:1:1:2", "m1", "started", "ams", "app"],
            ["fdaa:0:18:a7b:7d:1:2:2", "m2", "started", "ams", "app"],
            ["fdaa:0:18:a7b:91:1:3:2", "m3", "started", "iad", "worker"],
            ["fdaa:0:18:a7b:91:1:4:2", "m4", "stopped", "iad", "app"],
        ]


def test_a_machine_shows_its_facts_and_the_names_that_lead_to_it() -> None:
    with console() as client:
        page = get(client, f"/networks/{ACME}/apps/web/machines/m1")
        facts = {
            name: value
            for (_, name), (_, value) in zip(page.all("dt"), page.all("dd"), strict=True)
        }
        assert facts["State"] == "started"
        assert facts["role metadata"] == "leader"
        assert facts["http service"] == "8080/tcp"
        assert facts["laptop peer inside its /112"] == "fdaa:0:18:a7b:7d:1:1:102"
        assert (
            "/ask?name=_http._tcp.web.internal&as=fdaa%3A0%3A18%3Aa7b%3A7d%3A1%3A1%3A2"
            in page.links
        )


@pytest.mark.slow
def test_every_link_of_every_page_leads_somewhere() -> None:
    seen: set[str] = set()
    left = ["/"]
    few = {
        **ROWS,
        "machines": [row for row in ROWS["machines"] if row[0][0] != "n" or row[0] < "n002"],
    }
    with console(loaded(rows=few).catalog) as client:
        while left:
            path = left.pop()
            if path in seen or path.startswith("#") or "turn=" in path:
                continue
            seen.add(path)
            left += get(client, path).links
    assert len(seen) > 50
    assert {path.split("?")[0].split("/")[1] for path in seen} == {
        "", "networks", "ask", "live", "status", "changes",
    }  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "/networks/99",
        "/networks/24/apps/nope",
        "/networks/25/apps/batch",
        "/networks/24/apps/web/machines/m9",
        "/networks/24/apps/batch/machines/m1",
        "/nosuch",
        "/networks/x",
    ],
)
def test_what_is_not_there_is_said_so(path: str) -> None:
    with console() as client:
        get(client, path, 404)


def test_lists_are_paged_and_past_the_end_is_the_end() -> None:
    with console() as client:
        first = get(client, f"/networks/{ACME}/apps/many")
        assert [row[1] for row in first.rows()] == [f"n{i:03}" for i in range(50)]
        assert f"/networks/{ACME}/apps/many?page=2" in first.links
        second = get(client, f"/networks/{ACME}/apps/many?page=2")
        assert [row[1] for row in second.rows()] == [f"n{i:03}" for i in range(50, 100)]
        for odd in ("3", "0", "-1", "x", "9" * 30, ""):
            rows = get(client, f"/networks/{ACME}/apps/many?page={odd}").rows()
            assert rows in (first.rows(), second.rows())


@pytest.mark.parametrize(("total", "number", "expected"), [
    (0, 1, (0, 0, 1, 1)), (1, 1, (1, 1, 1, 1)), (50, 2, (1, 50, 1, 1)), (51, 2, (51, 51, 2, 2)),
    (120, 9, (101, 120, 3, 3)),
])  # fmt: skip
def test_parts(total: int, number: int, expected: tuple[int, int, int, int]) -> None:
    found = pages.part(range(total), number)
    assert (found.first, found.last, found.number, found.pages) == expected


def test_a_catalog_that_is_not_loaded_or_empty_is_said_so() -> None:
    with console(None, ready=(False, "not ready: the catalog is being loaded")) as client:
        page = get(client, "/")
        assert "not ready: the catalog is being loaded" in [text for _, text in page.all("p")]
        get(client, "/ask?name=web.internal")
        get(client, "/search?q=web")
        get(client, "/status")
    with console(Catalog()) as client:
        assert "The catalog has no network." in get(client, "/").all("main")[0][1]


# ── ages ──────────────────────────────────────────────────────────────────────────────────────────


def test_ages_come_from_the_file(tmp_path: Path) -> None:
    rows = {
        **ROWS,
        "machines": [
            (*machine("m1", "fdaa:0:18:a7b:7d:1:1:2")[:8], 1_000),
            machine("m2", "fdaa:0:18::2"),
        ],
    }
    create_catalog(tmp_path / "c.db", rows)
    assert pages.updated(tmp_path / "c.db", [b"m1", b"m2", b"m3"]) == {b"m1": 1_000}  # 0 is no time
    with console(load(tmp_path / "c.db").catalog, file=tmp_path / "c.db") as client:
        assert get(client, f"/networks/{ACME}/apps/web").rows()[0][5].endswith(" d")
        assert (
            "1970-01-01 00:16:40 UTC"
            in get(client, f"/networks/{ACME}/apps/web/machines/m1").all("dl")[0][1]
        )


def test_a_file_that_cannot_be_read_costs_the_ages_only(tmp_path: Path) -> None:
    bad = tmp_path / "bad.db"
    bad.write_bytes(b"SQLite format 3\0 and no more")
    for file in (tmp_path / "nosuch.db", bad, tmp_path):
        assert pages.updated(file, [b"m1"]) == {}
        with console(file=file) as client:
            assert get(client, f"/networks/{ACME}/apps/web").rows()[0][5] == "–"


@pytest.mark.parametrize(("ago", "words"), [
    (0, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "119 min"), (7_200, "2 h"),
    (172_799, "47 h"), (172_800, "2 d"),
    (-5, "0 s"),
])  # fmt: skip
def test_ages_in_words(ago: int, words: str) -> None:
    assert age(1_000_000 - ago, 1_000_000.9) == words


def test_moments_past_any_calendar_are_told_as_numbers() -> None:
    assert moment(0) == "1970-01-01 00:00:00 UTC"
    assert moment(10**18) == str(10**18)


# ── search ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "networks", "apps", "machines", "peers"),
    [
        ("ACME", ["acme"], [], [], []),
        ("web", [], ["web", "web"], [], []),
        ("m", ["acme"], ["many"], ["m1", "m2", "m3", "m4"], []),
        ("lap", [], [], [], ["laptop"]),
        ("fdaa:0:18:a7b:7d:1:1:2", ["acme"], [], ["m1"], []),
        ("fdaa:0:18:a7b:7d:1:1:102", ["acme"], [], ["m1"], ["laptop"]),
        ("fdaa:0:77::1", [], [], [], []),
        ("2001:db8::1", [], [], [], []),
        ("", [], [], [], []),
        ("nosuch", [], [], [], []),
    ],
)
def test_search(
    text: str, networks: list[str], apps: list[str], machines: list[str], peers: list[str]
) -> None:
    catalog = loaded(rows=ROWS).catalog
    found = pages.search(catalog, text)
    assert [net.name.decode() for net in found.networks] == networks
    assert [each.name.decode() for _, each in found.apps] == apps
    assert [each.id.decode() for _, each in found.machines] == machines
    assert [each.name.decode() for _, each in found.peers] == peers
    with console(catalog) as client:
        get(client, f"/search?q={text}")


def test_search_by_address_tells_its_names() -> None:
    found = pages.search(loaded(rows=ROWS).catalog, "fdaa:0:18:0:1::9")
    assert [name for _, name in found.owners] == ["web.flycast"]


def test_search_stops_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = loaded(rows=ROWS).catalog
    found = pages.search(catalog, "n0")
    assert len(found.machines) == pages.FOUND
    assert found.stopped
    monkeypatch.setattr(pages, "EXAMINED", 5)
    assert pages.search(catalog, "globex").stopped


# ── a large catalog ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_page_shows_as_much_of_a_large_catalog_as_of_a_small_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catalog = loaded(rows=sized_rows(30_000, apps_per_network=40, machines_per_app=250)).catalog
    big = max(catalog.networks.values(), key=lambda net: len(net.apps))
    monkeypatch.setattr(pages, "COUNTED", 100)
    with console(catalog) as client:
        assert len(get(client, f"/networks/{big.id}").rows()) == 40
        assert {row[2] for row in get(client, f"/networks/{big.id}").rows()} == {"not counted"}
        page = get(client, f"/networks/{big.id}/apps/app-0?page=5")
        assert len(page.rows()) == pages.PAGE
        assert "201–250 of 250" in page.all("nav")[-1][1]


def test_a_machine_is_found_without_an_index() -> None:
    app = loaded(rows=ROWS).catalog.networks[ACME].apps[b"many"]  # type: ignore[index]
    assert pages.machine_of(app, "N042").id == b"n042"
    assert "by_id" not in app.__dict__
    for ident in ("", "n", "n0420", "zzz"):
        with pytest.raises(pages.NotFound):
            pages.machine_of(app, ident)


def test_who_has_no_name_is_asked_as_by_address() -> None:
    catalog = loaded(rows={**ROWS, "networks": [(ACME, "", "")]}).catalog
    net = next(iter(catalog.networks.values()))
    assert pages.asks_as(net) == "fdaa:0:18::"
    with console(catalog) as client:
        page = get(client, "/ask?name=_whoami.internal")
        assert f"network={ACME},region=," in page.all("table")[-1][1]


def test_peers_take_the_region_of_their_host() -> None:
    host = int.from_bytes(ip("fdaa:0:18:a7b:7d:1:1:102")[6:10], "big")
    catalog = loaded(rows={**ROWS, "hosts": [(host, "ams-1", "ams")]}).catalog
    with console(catalog) as client:
        assert get(client, f"/networks/{ACME}/peers").rows()[0][2] == "ams"
        assert (
            "a7b:7d in ams" in get(client, f"/networks/{ACME}/apps/web/machines/m1").all("dl")[0][1]
        )


# ── filter and sort ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        ("", "m1 m2 m3 m4"),
        ("filter=worker", "m3"),
        ("filter=IAD", "m3 m4"),
        ("filter=91:1", "m3 m4"),
        ("filter=started&sort=-machine", "m3 m2 m1"),
        ("sort=region", "m1 m2 m3 m4"),
        ("sort=-region", "m4 m3 m2 m1"),
        ("sort=-address", "m4 m3 m2 m1"),
        ("sort=state", "m1 m2 m3 m4"),
        ("sort=nosuch", "m1 m2 m3 m4"),
        ("filter=nosuch", ""),
        ("filter=%00%3Cb%3E", ""),
    ],
)
def test_a_list_is_filtered_and_sorted(chosen: str, ids: str) -> None:
    with console() as client:
        page = get(client, f"/networks/{ACME}/apps/web?{chosen}")
        assert [row[1] for row in page.rows()] == ids.split()


def test_pages_and_orders_keep_the_filter() -> None:
    with console() as client:
        page = get(client, f"/networks/{ACME}/apps/many?filter=n0&sort=-machine")
        assert page.rows()[0][1] == "n099"
        own = f"/networks/{ACME}/apps/many"
        assert f"{own}?filter=n0&sort=-machine&page=2" in page.links
        assert f"{own}?filter=n0&sort=machine&page=1" in page.links  # the other way round
        sorts = [attrs.get("aria-sort") for attrs, _ in page.all("th") if "aria-sort" in attrs]
        assert sorts == ["descending"]


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("/?sort=-network", "globex"),
        ("/?filter=glob", "globex"),
        ("/?filter=0:19:", "globex"),
        (f"/networks/{ACME}?sort=-machines", "many"),
        (f"/networks/{ACME}?filter=we", "web"),
        (f"/networks/{ACME}/peers?filter=lap", "laptop"),
        (f"/networks/{ACME}/flycasts?filter=we", "web"),
    ],
)
def test_every_list_has_a_filter(path: str, first: str) -> None:
    with console() as client:
        assert first in get(client, path).rows()[0][:2]


def test_a_long_list_is_not_sorted_and_says_how_much_was_filtered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "SORTED", 60)
    monkeypatch.setattr(pages, "FILTERED", 40)
    with console() as client:
        own = f"/networks/{ACME}/apps/many"
        whole = get(client, f"{own}?sort=-machine")
        assert whole.rows()[0][1] == "n000"
        assert not any("sort=machine" in link for link in whole.links)
        part = get(client, f"{own}?filter=n0")
        assert len(part.rows()) == 40
        assert "among the first 40 of 100" in part.all("main")[0][1]


# ── the head, names that lead somewhere, and what was meant ───────────────────────────────────────


def test_the_head_says_which_server_this_is() -> None:
    about = {"host": "ns1", "region": "iad", "up": "3 min"}
    with console(about=about) as client:
        head = get(client, "/").all("header")[0][1]
        assert all(word in head for word in ("ns1", "iad", "3 min"))
    with console(about=about, inside=False) as client:
        assert "ns1" not in client.get("/").text  # nothing without the token


def test_names_are_listed_only_where_they_lead() -> None:
    with console() as client:
        stopped = get(client, f"/networks/{ACME}/apps/web/machines/m4")
        assert "answers have only visible machines" in stopped.all("main")[0][1]
        assert not [link for link in stopped.links if link.startswith("/ask?name=")]


@pytest.mark.parametrize(
    ("path", "link"),
    [
        ("/search?q=wbe", f"/networks/{ACME}/apps/web"),
        ("/ask?name=wbe.internal&as=acme", "/ask?name=web.internal&as=acme"),
        ("/ask?name=laptop.internal&as=acme", "/ask?name=laptop._peer.internal&as=acme"),
        ("/ask?name=m1.internal&as=acme", "/ask?name=m1.vm.web.internal&as=acme"),
    ],
)
def test_a_misspelled_name_is_answered_with_what_was_meant(path: str, link: str) -> None:
    with console() as client:
        page = get(client, path)
        assert link in page.links
        assert "Did you mean" in page.all("main")[0][1]


def test_another_networks_apps_are_not_meant() -> None:
    with console() as client:
        page = get(client, "/ask?name=bacth.internal&as=globex")
        assert not any("batch" in link for link in page.links)


def test_the_reasons_add_up() -> None:
    with console() as client:
        text = get(client, "/ask?name=ams.web.internal&as=acme").all("main")[0][1]
    inside, outside = (int(n) for n in re.findall(r"(\d+) (?:in|out)\b", text)[:2])
    assert sum(int(n) for n in re.findall(r"(\d+) × ", text)) == outside
    assert inside + outside == 4
