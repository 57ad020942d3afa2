"""The web console in a real browser: with a mouse, with a keyboard alone, without JavaScript, in
the dark."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from internal_dns.store.generate import create_catalog, demo_rows
from tests.live.browser import ENTER, TAB, Browser, browsing
from tests.live.hosts import Served, ask, change, query, serving
from tests.tools import requires_tool

pytestmark = [pytest.mark.live, requires_tool("chromium", "chromedriver")]

MACHINE = "3d8d9930b03989"  # the documents' own, in iad


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    catalog = tmp_path_factory.mktemp("console") / "catalog.db"
    create_catalog(catalog, demo_rows())
    with serving(catalog, "--console", "127.0.0.1:0") as server:
        yield server


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def browser(started: Browser, served: Served) -> Iterator[Browser]:
    """The browser, without cookies; afterwards no page had an error, and none asked for anything
    elsewhere."""
    started.open(base(served))
    started.forget()
    yield started
    started.cdp("Emulation.setScriptExecutionDisabled", value=False)
    started.open(base(served))
    wrong = [
        entry["message"]
        for entry in started.log("browser")
        if entry["level"] in ("SEVERE", "WARNING")
    ]
    assert [line for line in wrong if "status of 401" not in line] == []
    asked = {urlsplit(url).hostname for url in started.requests() if not url.startswith("data:")}
    assert asked <= {"127.0.0.1"}


def url(served: Served) -> str:
    """What the start line tells one to open."""
    found = re.search(r"console (http://127\.0\.0\.1:\d+/login\?token=[\w-]+)", served.ready)
    assert found, served.ready
    return found[1]


def arrives(browser: Browser, title: str) -> None:
    browser.until(lambda: browser.title == title, title)


def base(served: Served) -> str:
    return url(served).partition("login")[0]


def test_from_the_start_line_to_the_question_of_a_machine(browser: Browser, served: Served) -> None:
    browser.open(url(served))
    assert browser.url == base(served)  # the token is out of the address bar
    (cookie,) = browser.cookies
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    for link, title in (("acme", "acme"), ("web", "web of acme"), (MACHINE, f"{MACHINE} of web")):
        browser.click(link)
        arrives(browser, f"{title} · internal-dns")
    browser.type("main input#name", "top1.nearest.of.web.internal")
    browser.press("main form button")
    text = browser.text()
    assert f"as machine {MACHINE} (started) owns this /112" in text
    assert "self, 0.0 ms" in text
    assert "NOERROR" in text
    asked = browser.url
    browser.open("about:blank")
    browser.open(asked)  # a link to it is enough
    assert browser.text() == text


def test_what_is_shown_is_what_is_there_now(browser: Browser, served: Served) -> None:
    browser.open(url(served))
    browser.open(base(served) + "networks/24/apps/web")
    browser.until(lambda: "10 machines, 5 visible" in browser.text(), "the page")
    catalog = re.search(r"· (\S+\.db): 3 networks", served.ready)
    assert catalog
    change(
        Path(catalog[1]),
        f"UPDATE machines SET state = 'stopped', updated_at = 4000000000 WHERE id = '{MACHINE}'",
    )
    browser.until(lambda: "10 machines, 4 visible" in reloaded(browser), "the stop is seen")
    change(Path(catalog[1]), f"UPDATE machines SET state = 'started' WHERE id = '{MACHINE}'")
    browser.until(lambda: "10 machines, 5 visible" in reloaded(browser), "the start is seen")


def reloaded(browser: Browser) -> str:
    browser.open(browser.url)
    return browser.text()


def test_with_the_keyboard_alone(browser: Browser, served: Served) -> None:
    browser.open(url(served))
    browser.keys(TAB)
    assert browser.focused == "Skip to content"
    assert browser.run("return getComputedStyle(document.activeElement).outlineWidth") == "3px"
    browser.keys(ENTER)
    assert browser.focused.startswith("Networks")  # <main>
    browser.keys(*TAB * 6)  # the filter, its button, the list, two headings, the first network
    assert browser.focused == "acme"
    browser.keys(ENTER)
    browser.until(lambda: browser.title.startswith("acme"), "the network")
    browser.keys(*TAB * 7)  # skip, home, four pages
    assert browser.focused == "find"
    browser.keys(*"287444", ENTER)
    browser.until(lambda: "287444ec026748" in browser.text(), "the machine is found")
    browser.keys(*TAB * 9)
    assert browser.focused == "287444ec026748"
    browser.keys(ENTER)
    browser.until(lambda: browser.title.startswith("287444ec026748"), "the machine")


def test_a_slash_goes_to_the_filter_and_the_list_stays_live(
    browser: Browser, served: Served
) -> None:
    browser.open(url(served))
    browser.open(base(served) + "networks/24/apps/web")
    browser.keys("/")
    browser.until(lambda: browser.run("return document.activeElement.id") == "filter", "the filter")
    browser.keys(*"nrt", ENTER)
    browser.until(lambda: "match" in browser.text(), "it is filtered")
    assert "e2865013bd7d86" in browser.text()
    assert MACHINE not in browser.text()
    browser.run("document.activeElement.blur()")
    catalog = re.search(r"· (\S+\.db): 3 networks", served.ready)
    assert catalog
    where = "WHERE id = 'e2865013bd7d86'"
    change(Path(catalog[1]), f"UPDATE machines SET state = 'stopped' {where}")
    browser.until(lambda: "stopped" in browser.text(), "the list is refreshed by itself")
    change(Path(catalog[1]), f"UPDATE machines SET state = 'started' {where}")


def test_the_live_page_shows_queries_as_they_come(browser: Browser, served: Served) -> None:
    browser.open(url(served))
    browser.open(base(served) + "live")
    browser.until(lambda: "None since this page was opened" in browser.text(), "the page")
    reply = ask(served, "leader.role.kv._metadata.db.internal")
    assert reply.answer
    browser.until(lambda: "leader.role.kv._metadata.db.internal AAAA" in browser.text(), "a query")


def test_without_javascript(browser: Browser, served: Served) -> None:
    browser.cdp("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(base(served) + "networks/24")
    browser.until(lambda: "This console shows every tenant" in browser.text(), "the page")
    assert "acme" not in browser.text()
    browser.type("#token", "wrong-wrong-wrong")
    browser.press("main button")
    browser.until(lambda: "This is not the current token." in browser.text(), "the page")
    browser.type("#token", url(served).partition("=")[2])
    browser.press("main button")
    browser.until(lambda: browser.title == "Networks · internal-dns", "the page")
    browser.click("Ask")
    browser.type("#name", "db.internal")
    browser.type("#as", "globex")
    browser.press("main button")
    browser.until(lambda: "EDE 0: no such app in this network" in browser.text(), "the page")
    browser.click("Status")
    browser.until(lambda: "Queries" in browser.text("#now"), "the page")
    assert not browser.run("return document.querySelector('#pause').checkVisibility()")
    browser.requests()
    browser.until(lambda: base(served) + "status" in browser.requests(), "it reloads by itself")
    browser.click("Stop refreshing")
    assert browser.url.endswith("refresh=off")


def test_the_status_page_refreshes_itself_until_paused(browser: Browser, served: Served) -> None:
    browser.open(url(served))
    browser.open(base(served) + "status")
    browser.run("document.body.dataset.same = 'page'")
    for _ in range(20):
        ask(served, query("nosuch.internal"))
    browser.until(lambda: "NXDOMAIN" in browser.text("#now"), "the queries are seen")
    assert browser.run("return document.body.dataset.same") == "page"  # and it was not loaded again
    browser.press("#pause")
    assert (
        browser.run("return document.querySelector('#pause').getAttribute('aria-pressed')")
        == "true"
    )


def test_it_says_when_the_server_is_gone(started: Browser, tmp_path: Path) -> None:
    create_catalog(tmp_path / "catalog.db", demo_rows())
    with serving(tmp_path / "catalog.db", "--console", "127.0.0.1:0") as server:
        started.open(url(server))
        started.open(base(server) + "status")
    started.until(lambda: "the server does not answer" in started.text("#trouble"), "it says so")
    started.forget()


def test_by_day_and_by_night(browser: Browser, served: Served, tmp_path: Path) -> None:
    browser.open(url(served))
    browser.size(1200, 800)
    seen = {}
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        for name, path in (
            ("networks", ""),
            ("ask", "ask?name=web.internal&as=acme"),
            ("status", "status"),
        ):
            browser.open(base(served) + path)
            seen[scheme, name] = browser.screenshot(tmp_path / f"{name}-{scheme}.png")
        ground = browser.run("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", ground))) / 3
        assert (brightness > 200) == (scheme == "light")
        assert (brightness < 50) == (scheme == "dark")
    assert all(png.startswith(b"\x89PNG") and len(png) > 10_000 for png in seen.values())
    assert len(set(seen.values())) == 6


@pytest.mark.parametrize("width", [320, 390, 768])
def test_no_page_is_wider_than_a_telephone(browser: Browser, served: Served, width: int) -> None:
    browser.open(url(served))
    browser.size(width, 800)
    for path in ("", "networks/24", "networks/24/apps/web",
                 f"networks/24/apps/web/machines/{MACHINE}", "status",
                 "search?q=w", "ask?name=top3.nearest.of.web.internal&as=acme/iad"):  # fmt: skip
        browser.open(base(served) + path)
        assert browser.run("return document.documentElement.scrollWidth") <= width, path
    browser.cdp("Emulation.clearDeviceMetricsOverride")


def test_the_verdicts_of_the_ask_page_fit_at_1000_pixels(browser: Browser, served: Served) -> None:
    browser.open(url(served))
    browser.size(1000, 800)
    browser.open(base(served) + "ask?name=top2.nearest.of.web.internal&as=acme/nrt")
    table = "document.querySelector('.verdicts').parentElement"
    assert browser.run(f"return {table}.scrollWidth <= {table}.clientWidth")
    browser.cdp("Emulation.clearDeviceMetricsOverride")


def test_nothing_is_shown_to_who_has_no_token(served: Served) -> None:
    for path in ("", "networks/24", "status", "status/now", "ask?name=web.internal"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(base(served) + path, timeout=5)
        assert refused.value.code == 401
        assert b"acme" not in refused.value.read()


def test_the_server_logs_no_page(served: Served) -> None:
    """After all of the above: nothing of what was looked at."""
    said = served.stderr()
    assert "acme" not in said
    assert "GET" not in said
    assert "ask?" not in said
