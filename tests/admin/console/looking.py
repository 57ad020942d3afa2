"""A console over a catalog of the test's, without a server: what a browser would get, and how it is
read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

from starlette.testclient import TestClient

from internal_dns.admin.console.app import App, Sources
from internal_dns.admin.console.samples import Sampler
from internal_dns.core.catalog import Catalog
from internal_dns.core.journey import Rules
from internal_dns.metrics import Metrics
from internal_dns.store.sqlite import Loaded
from internal_dns.transport.answer import Exchange
from tests.core.messages import CATALOG

TOKEN: Final = "a-token-of-the-tests"
NOWHERE: Final = Path("/nosuch/catalog.db")


@contextmanager
def console(
    catalog: Catalog | None = CATALOG,
    *,
    file: Path = NOWHERE,
    ready: tuple[bool, str] = (True, "ready"),
    sampler: Sampler | None = None,
    upstreams: tuple[str, ...] = ("udp://192.0.2.1:53",),
    inside: bool = True,
    base: str = "http://127.0.0.1:9154",
    rules: Rules = Rules(),  # noqa: B008 - frozen
    about: Mapping[str, str] = {},
    exchange: Exchange | None = None,
) -> Iterator[TestClient]:
    """A client of the console, logged in unless told otherwise."""
    loaded = Loaded(catalog=catalog) if catalog else None
    sources = Sources(
        lambda: catalog, lambda: loaded, lambda: ready, lambda: rules, file, lambda: upstreams,
        lambda: about, exchange,
    )  # fmt: skip
    with ThreadPoolExecutor(1) as thread:
        app = App(sources, sampler or Sampler(Metrics()), TOKEN, thread).asgi()
        with TestClient(app, base_url=base, follow_redirects=False) as client:
            if inside:
                assert client.get(f"/login?token={TOKEN}").status_code == 303
            yield client


class Page(HTMLParser):
    """A page as its elements, in order: (name, attributes, text inside without that of its
    children's)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))
        if tag not in ("meta", "link", "input", "br", "path", "circle"):
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        while self._open:
            if self.elements[self._open.pop()][0] == tag:
                return
        raise AssertionError(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        for at in self._open:
            self.elements[at][2].append(data)

    def all(self, *tags: str) -> list[tuple[dict[str, str], str]]:
        """Attributes and text of the elements of these names."""
        return [
            (attrs, " ".join("".join(text).split()))
            for tag, attrs, text in self.elements
            if tag in tags
        ]

    def rows(self, table: int = 0) -> list[list[str]]:
        """The cells of the rows of the body of one table."""
        found: list[list[str]] = []
        number, body = -1, False
        for tag, _, text in self.elements:
            number += tag == "table"
            body = tag == "tbody" or (body and tag != "table")
            if number == table and body and tag == "tr":
                found.append([])
            elif number == table and body and tag in ("td", "th"):
                found[-1].append(" ".join("".join(text).split()))
        return found

    @property
    def links(self) -> list[str]:
        return [attrs["href"] for attrs, _ in self.all("a")]


def get(client: TestClient, path: str, status: int = 200, **how: Any) -> Page:
    response = client.get(path, **how)
    assert response.status_code == status, (path, response.status_code, response.text)
    return Page(response.text)
