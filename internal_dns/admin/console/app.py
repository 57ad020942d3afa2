"""Paths and pages. The console's one thread builds all pages, so that they do not delay answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from internal_dns import __version__
from internal_dns.admin.console import pages
from internal_dns.admin.console.guard import Guard, cookie_name, cookie_value, same
from internal_dns.admin.console.live import Live
from internal_dns.admin.console.plot import figure
from internal_dns.admin.console.samples import Sampler, per_second
from internal_dns.admin.console.status import status
from internal_dns.admin.console.steps import TRANSPORTS, TYPES, Question, journey
from internal_dns.admin.presentation import InvalidQuestion
from internal_dns.admin.reading import NoJournal, read_changes
from internal_dns.core.catalog import Catalog
from internal_dns.core.journey import Rules
from internal_dns.core.names import printable
from internal_dns.core.records import address_text
from internal_dns.core.requester import hex48
from internal_dns.lock import short_turns
from internal_dns.store.sqlite import Loaded, UnusableCatalog
from internal_dns.transport.answer import Exchange

HERE: Final = Path(__file__).parent
MAX_FIELD: Final = 300  # characters per form field; a name has at most 255
MAX_FORM: Final = 1_024  # octets of the login form, the only one that is posted
CHANGES: Final = 100  # changes that a page lists
REFRESH: Final = 2  # seconds between refreshes by JavaScript

_log = logging.getLogger("internal_dns")


@dataclass(frozen=True, slots=True)
class Sources:
    """The parts of the running server from which pages are built."""

    catalog: Callable[[], Catalog | None]
    loaded: Callable[[], Loaded | None]
    ready: Callable[[], tuple[bool, str]]
    rules: Callable[[], Rules]
    file: Path
    upstreams: Callable[[], Sequence[str]]  # as configured
    about: Callable[[], Mapping[str, str]] = dict  # host, region, addresses, … for the page header
    exchange: Exchange | None = None  # the source of the live page


Values = dict[str, Any]
Build = Callable[[Request, Catalog], tuple[str, Values]]


class App:
    """The pages of one console."""

    def __init__(self, sources: Sources, sampler: Sampler, token: str, thread: Executor) -> None:
        self.sources, self.sampler, self.token, self.thread = sources, sampler, token, thread
        self.templates = templates()
        self.live = Live(sources.exchange) if sources.exchange else None

    def asgi(self) -> ASGIApp:
        routes = [
            Route("/", self.page(_networks)),
            Route("/networks/{network:int}", self.page(_network)),
            Route("/networks/{network:int}/peers", self.page(_peers)),
            Route("/networks/{network:int}/flycasts", self.page(_flycasts)),
            Route("/networks/{network:int}/records", self.page(_records)),
            Route("/networks/{network:int}/apps/{app}", self.page(self._app)),
            Route(
                "/networks/{network:int}/apps/{app}/machines/{machine}", self.page(self._machine)
            ),
            Route("/search", self.page(_search)),
            Route("/ask", self.page(self._ask)),
            Route("/live", self._live),
            Route("/changes", self._changes),
            Route("/status", self.page(self._status)),
            Route("/status/now", self.page(self._status_now)),
            Route("/login", self.login, methods=["GET", "POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: self.show_error})
        return Guard(app, self.token, self.ask_for_token)

    # ── building a page ───────────────────────────────────────────────────────────────────────────

    def page(self, build: Build) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await self.build_in_thread(build, request)

        return endpoint

    async def build_in_thread(self, build: Build, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.thread, self.build, build, request)

    def build(self, build: Build, request: Request) -> Response:
        """Return a page. An error costs this page only.

        Pages are built one at a time, and the event loop has the interpreter back after a
        millisecond.
        """
        with short_turns():
            return self._build(build, request)

    def _build(self, build: Build, request: Request) -> Response:
        catalog = self.sources.catalog()
        try:
            if any(len(value) > MAX_FIELD for value in request.query_params.values()):
                return self.render(
                    "message.html",
                    400,
                    title="Too long",
                    text=f"A field holds at most {MAX_FIELD} characters.",
                )
            template, values = build(request, catalog or Catalog())
            return self.render(
                template,
                path=request.url.path,
                ready=self.sources.ready(),
                about=self.sources.about(),
                **values,
            )
        except pages.NotFound as error:
            return self.render(
                "message.html",
                404,
                title="Not found",
                text=f"The catalog has no {error.args[0]}.",
            )
        except Exception as error:
            # The path and the text of the error name tenants, so they are not logged.
            _log.error("console: a page failed with %s at %s", type(error).__name__, _where(error))
            return self.render(
                "message.html",
                500,
                title="This page failed",
                text="The server's log names the place in the code.",
            )

    def render(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        shared = {"path": "", "ready": (True, "ready"), "q": "", "now": time.time(), "about": {}}
        return HTMLResponse(self.templates.get_template(template).render(shared | values), status)

    async def show_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = {
            404: "The console has no such page.",
            405: "The console is read only and accepts only GET.",
        }.get(error.status_code, error.detail)
        return self.render("message.html", error.status_code, title="No such page", text=text)

    # ── login ─────────────────────────────────────────────────────────────────────────────────────

    async def ask_for_token(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Show the login page. It is the same for every path, so that it reveals nothing."""
        await self.render("login.html", 401, wrong=False)(scope, receive, send)

    async def login(self, request: Request) -> Response:
        """Exchange the token for a cookie, and redirect so that the address bar loses it."""
        given = request.query_params.get("token", "")
        if request.method == "POST":
            given = await _posted(request, "token")
        if not same(given.strip(), self.token):
            return self.render("login.html", 401, wrong=bool(given))
        response = RedirectResponse("/", 303)
        response.set_cookie(
            cookie_name(request.headers.get("host", "")),
            cookie_value(self.token),
            httponly=True,
            samesite="strict",
        )
        return response

    # ── pages that need more than the catalog ─────────────────────────────────────────────────────

    def _app(self, request: Request, catalog: Catalog) -> tuple[str, Values]:
        number, name = request.path_params["network"], request.path_params["app"]
        return "app.html", pages.app(catalog, number, name, self.sources.file, _choice(request))

    def _machine(self, request: Request, catalog: Catalog) -> tuple[str, Values]:
        given = request.path_params
        return "machine.html", pages.machine(
            catalog, given["network"], given["app"], given["machine"], self.sources.file
        )

    def _ask(self, request: Request, catalog: Catalog) -> tuple[str, Values]:
        given = request.query_params
        first = min(catalog.networks.values(), key=lambda network: network.id, default=None)
        by = given.get("by", "udp")
        question = Question(
            name=given.get("name", "").strip(),
            type=given.get("type", "").strip().upper(),
            who=given.get("as", "").strip() or (pages.asks_as(first) if first else ""),
            by=by if by in TRANSPORTS else "udp",
            rotation=_number(given.get("turn", "0")),
        )
        values: Values = {
            "question": question,
            "types": TYPES,
            "transports": TRANSPORTS,
            "fault": None,
            "story": None,
            "suggested": [
                pages.asks_as(catalog.networks[number])
                for number in sorted(catalog.networks)[: pages.FOUND]
            ],
            "upstreams": self.sources.upstreams(),
        }
        if question.name:
            try:
                values["story"] = journey(question, catalog, self.sources.rules())
            except InvalidQuestion as fault:
                values["fault"] = fault
        return "ask.html", values

    async def _live(self, request: Request) -> Response:
        """Read counts and sampled queries in the event loop, then build the page in the thread."""
        last = tuple(self.sampler.kept)[-2:]
        rate = sum(v[-1] for v in per_second(last, "internal_dns_requests_total").values() if v)
        live = await self.live.look(rate) if self.live else None
        build: Build = lambda request, catalog: ("live.html", {"live": live})  # noqa: E731
        return await self.build_in_thread(build, request)

    async def _changes(self, request: Request) -> Response:
        """Read the journal beside the event loop, then build the page in the thread."""
        text = request.query_params.get("network", "")
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0
        values: Values = {"fault": "", "changes": (), "network": number}
        try:
            values["changes"] = await read_changes(self.sources.file, CHANGES, number or None)
        except (NoJournal, UnusableCatalog, OSError) as error:
            values["fault"] = str(error)
        build: Build = lambda request, catalog: ("changes.html", values)  # noqa: E731
        return await self.build_in_thread(build, request)

    def _status(self, request: Request, catalog: Catalog) -> tuple[str, Values]:
        paused = request.query_params.get("refresh") == "off"
        return "status.html", {"paused": paused, **self._status_values(catalog)}

    def _status_now(self, request: Request, catalog: Catalog) -> tuple[str, Values]:
        return "status_now.html", self._status_values(catalog)

    def _status_values(self, catalog: Catalog) -> Values:
        # tuple() copies the deque atomically: the event loop cannot add a sample meanwhile.
        values = status(tuple(self.sampler.kept))
        values["configured"] = self.sources.upstreams()
        return {**values, "loaded": self.sources.loaded(), "revision": catalog.revision}


def _networks(request: Request, catalog: Catalog) -> tuple[str, Values]:
    return "networks.html", pages.networks(catalog, _choice(request))


def _network(request: Request, catalog: Catalog) -> tuple[str, Values]:
    return "network.html", pages.network(catalog, request.path_params["network"], _choice(request))


def _peers(request: Request, catalog: Catalog) -> tuple[str, Values]:
    return "peers.html", pages.peers(catalog, request.path_params["network"], _choice(request))


def _flycasts(request: Request, catalog: Catalog) -> tuple[str, Values]:
    return "flycasts.html", pages.flycasts(
        catalog, request.path_params["network"], _choice(request)
    )


def _records(request: Request, catalog: Catalog) -> tuple[str, Values]:
    return "records.html", pages.records(catalog, request.path_params["network"], _choice(request))


def _search(request: Request, catalog: Catalog) -> tuple[str, Values]:
    text = request.query_params.get("q", "").strip()
    results = pages.search(catalog, text)
    similar = [] if results.total or not text else pages.find_similar(catalog, text)
    return "search.html", {"q": text, "results": results, "similar": similar}


def _choice(request: Request) -> pages.Choice:
    given = request.query_params
    return pages.Choice(
        given.get("filter", "").strip(), given.get("sort", ""), _number(given.get("page", "1"))
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


async def _posted(request: Request, field: str) -> str:
    """Return one field of a posted form, empty when the form is too long."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM:
            return ""
    return parse_qs(body.decode("utf-8", "replace")).get(field, [""])[0]


def _where(error: Exception) -> str:
    """Return the file and line in which an exception was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (
        f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        if trace
        else "an unknown place"
    )


# ── formats of values ─────────────────────────────────────────────────────────────────────────────


def age(at: int | None, now: float) -> str:
    """Return how long ago *at* (Unix seconds) was, in the largest unit with a value of 2 or up."""
    if at is None:
        return "–"
    seconds = max(0, int(now) - at)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def moment(at: int) -> str:
    """Return a time in full, in UTC."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    except (OverflowError, ValueError, OSError):
        return str(at)


@cache
def templates() -> jinja2.Environment:
    """Return the compiled templates. Compiling them while the server runs would delay answers."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals |= {"version": __version__, "asks_as": pages.asks_as, "refresh": REFRESH}
    for name in environment.list_templates():
        environment.get_template(name)
    return environment


FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "text": printable,
    "address": lambda octets: address_text(octets).decode(),
    "subnet": hex48,
    "figure": figure,
    "count": lambda number: f"{number:,}",
    "percent": lambda share: f"{100 * share:.0f} %",
    "age": age,
    "moment": moment,
    "clock": lambda at: time.strftime("%H:%M:%S", time.localtime(at)),
}
