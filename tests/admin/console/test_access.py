"""Anyone can use the pages: labels, headings, landmarks, tables, and contrast computed from the
colours."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from internal_dns.admin import console as package
from tests.admin.console.looking import Page, console, get
from tests.admin.console.test_status import busy, upstream

CSS = (Path(package.__file__).parent / "static" / "console.css").read_text()
PATHS = (
    "/",
    "/networks/24",
    "/networks/25",
    "/networks/24/peers",
    "/networks/24/flycasts",
    "/networks/25/peers",
    "/networks/25/flycasts",
    "/networks/24/apps/web",
    "/networks/24/apps/blog",
    "/networks/24/apps/many?page=2",
    "/networks/24/apps/web/machines/m1",
    "/search",
    "/search?q=we",
    "/search?q=fdaa:0:18:a7b:7d:1:1:102",
    "/ask",
    "/ask?name=web.internal&as=acme",
    "/ask?name=top1.nearest.of.web.internal&as=acme/iad",
    "/ask?name=a..b",
    "/ask?name=_http._tcp.web.internal&as=acme",
    "/ask?name=example.com&as=acme",
    "/ask?name=nosuch.internal&as=globex",
    "/status",
    "/status?refresh=off",
    "/changes",
    "/nosuch",
    "/networks/99",
)


@pytest.fixture(scope="module")
def shown() -> dict[str, tuple[str, Page]]:
    found: dict[str, tuple[str, Page]] = {}
    with console(sampler=busy(upstreams=(upstream(),))) as client:
        for path in PATHS:
            text = client.get(path).text
            found[path] = text, Page(text)
    with console(inside=False) as client:
        for path in ("/login", "/login?token=wrong"):
            found[path] = client.get(path).text, Page(client.get(path).text)
    return found


ALL = pytest.mark.parametrize("path", [*PATHS, "/login", "/login?token=wrong"])


@ALL
@pytest.mark.slow
def test_every_field_has_a_label(path: str, shown: dict[str, tuple[str, Page]]) -> None:
    page = shown[path][1]
    labelled = {attrs["for"]: text for attrs, text in page.all("label")}
    for attrs, _ in page.all("input", "select", "textarea"):
        if attrs.get("type") != "hidden":
            assert labelled.get(attrs.get("id", "")), attrs
    assert all(
        text
        for _, text in page.all(
            "button", "label", "a", "summary", "caption", "th", "h1", "h2", "h3"
        )
    )


@ALL
def test_headings_are_in_order(path: str, shown: dict[str, tuple[str, Page]]) -> None:
    levels = [int(tag[1]) for tag, _, _ in shown[path][1].elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels


@ALL
def test_landmarks_are_there_and_told_apart(path: str, shown: dict[str, tuple[str, Page]]) -> None:
    page = shown[path][1]
    for tag in ("main", "header", "footer"):
        assert len(page.all(tag)) == 1
    named = [attrs["aria-label"] for attrs, _ in page.all("nav")]
    assert len(named) == len(set(named))
    assert page.links[0] == "#main"  # the skip link
    assert page.all("html")[0][0]["lang"] == "en"
    assert page.all("title")[0][1] not in ("", "· internal-dns")


@ALL
def test_tables_say_what_they_are(path: str, shown: dict[str, tuple[str, Page]]) -> None:
    page = shown[path][1]
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attrs.get("scope") in ("col", "row") for attrs, _ in page.all("th"))


@ALL
def test_ids_are_unique_and_what_is_referred_to_is_there(
    path: str, shown: dict[str, tuple[str, Page]]
) -> None:
    page = shown[path][1]
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs, _ in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "for", "list"):
            assert set(attrs.get(name, "").split()) <= set(ids), attrs
        if attrs.get("href", "").startswith("#"):
            assert attrs["href"][1:] in ids
        if attrs.get("tabindex") == "0":  # what can be focused has a role and a name
            assert attrs["role"]
            assert attrs["aria-labelledby"]


@ALL
def test_pictures_have_words_or_are_decoration(
    path: str, shown: dict[str, tuple[str, Page]]
) -> None:
    for attrs, _ in shown[path][1].all("svg", "img"):
        assert attrs.get("aria-hidden") == "true" or (
            attrs.get("role") == "img" and attrs["aria-label"]
        ), attrs


@ALL
def test_nothing_is_inline_and_nothing_comes_from_elsewhere(
    path: str, shown: dict[str, tuple[str, Page]]
) -> None:
    text, page = shown[path]
    assert "://" not in re.sub(r"(udp|tcp)://", "", text)
    for tag, attrs, content in page.elements:
        assert tag != "style"
        assert not [name for name in attrs if name == "style" or name.startswith("on")]
        assert tag != "script" or not "".join(content).strip()
        for name in ("src", "href", "action", "data-from"):
            assert re.match(r"[/#](?!/)", attrs.get(name, "/")), attrs


@ALL
def test_what_speaks_up_by_itself_does_so_with_reason(
    path: str, shown: dict[str, tuple[str, Page]]
) -> None:
    live = [
        attrs["id"]
        for _, attrs, _ in shown[path][1].elements
        if attrs.get("role") in ("alert", "status")
    ]
    live += [attrs["id"] for _, attrs, _ in shown[path][1].elements if "aria-live" in attrs]
    assert set(live) <= {
        "fault",
        "wrong",
        "trouble",
    }  # never the figures, which change every two seconds


@pytest.mark.parametrize(("path", "current"), [
    ("/", "Networks"), ("/networks/24", "Networks"), ("/ask", "Ask"), ("/status", "Status"),
])  # fmt: skip
def test_the_menu_says_where_one_is(
    path: str, current: str, shown: dict[str, tuple[str, Page]]
) -> None:
    assert current in [
        text for attrs, text in shown[path][1].all("a") if attrs.get("aria-current") == "page"
    ]


# ── colours ───────────────────────────────────────────────────────────────────────────────────────

TEXT = [  # what stands on what
    ("ink", "ground"), ("ink", "surface"), ("quiet", "ground"), ("quiet", "surface"),
    ("link", "ground"),
    ("link", "surface"), ("link", "soft"), ("on-button", "button"), ("good", "good-soft"),
    ("warn", "warn-soft"),
    ("bad", "bad-soft"), ("bad", "surface"), ("off", "off-soft"), ("ink", "off-soft"),
    ("off", "surface"),
]  # fmt: skip
PICTURES = [(f"s{number}", "surface") for number in range(1, 7)] + [
    ("link", "ground"),
    ("off", "ground"),
]


def schemes() -> dict[str, dict[str, str]]:
    """The colours of both schemes by name."""
    light, dark = re.split(r"@media \(prefers-color-scheme: dark\) \{", CSS, maxsplit=1)
    found = [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", part)) for part in (light, dark)]
    return dict(zip(("light", "dark"), found, strict=True))


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_reckoned_as_the_standard_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_pictures_stand_out(scheme: str) -> None:
    colours = schemes()[scheme]
    assert colours.keys() == schemes()["light"].keys()
    low = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in TEXT}
    assert not {pair: ratio for pair, ratio in low.items() if ratio < 4.5}
    pictures = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in PICTURES}
    assert not {pair: ratio for pair, ratio in pictures.items() if ratio < 3}


def test_every_colour_is_one_of_the_variables() -> None:
    rules = re.sub(r"--[a-z0-9-]+: #[0-9a-f]{6};", "", CSS)
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b(?! *[{,])|rgba?\(|hsl", rules)
    assert set(re.findall(r"var\(--([a-z0-9-]+)\)", CSS)) == schemes()["light"].keys()


def test_focus_is_visible_and_never_taken_away() -> None:
    assert ":focus-visible { outline: 3px" in CSS
    taken = re.findall(r"[^}]*\{[^}]*outline: none[^}]*\}", CSS)
    assert taken == ["\nmain:focus { outline: none; }"]  # where the skip link leads
    assert "prefers-reduced-motion" in CSS


def test_the_style_sheet_fetches_nothing() -> None:
    assert "url(" not in CSS
    assert "@import" not in CSS


def test_the_pages_work_with_nothing_but_the_files_that_are_there() -> None:
    with console(inside=False) as client:
        for path in ("/static/console.css", "/static/console.js", "/static/icon.svg"):
            assert client.get(path).status_code == 200
        get(client, "/static/nosuch.css", 404)
