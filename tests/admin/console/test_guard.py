"""The door of the console: nothing of any tenant without the token, and no way in through another
site's page."""

from __future__ import annotations

import logging

import pytest
from starlette.testclient import TestClient

from internal_dns.admin.console import app as console_app
from internal_dns.admin.console import pages
from internal_dns.admin.console.guard import cookie_value, is_own_host
from tests.admin.console.looking import TOKEN, console, get

PATHS = (
    "/",
    "/networks/24",
    "/networks/24/peers",
    "/networks/24/flycasts",
    "/networks/24/apps/web",
    "/networks/24/apps/web/machines/m1",
    "/search?q=web",
    "/ask?name=web.internal&as=acme",
    "/status",
    "/status/now",
    "/changes",
    "/nosuch",
    "/networks/99",
)


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "internal_dns_console_9154=",
        f"internal_dns_console_9154={TOKEN}",
        f"internal_dns_console_1={cookie_value(TOKEN)}",
        f"internal_dns_console_9154={cookie_value('another-token-entirely')}",
    ],
)
@pytest.mark.slow
def test_without_the_cookie_every_path_says_the_same(cookie: str) -> None:
    with console(inside=False) as client:
        same = client.get("/").text
        assert "token" in same
        for tenant in ("acme", "globex", "web.internal", "fdaa", "m1"):
            assert tenant not in same
        for path in PATHS:
            response = client.get(path, headers={"Cookie": cookie} if cookie else {})
            assert (response.status_code, response.text) == (401, same)


def test_the_token_is_exchanged_for_a_cookie_that_scripts_and_other_sites_do_not_get() -> None:
    with console(inside=False) as client:
        response = client.get(f"/login?token={TOKEN}")
        assert (response.status_code, response.headers["location"]) == (303, "/")
        name, *rest = response.headers["set-cookie"].split("; ")
        assert name == f"internal_dns_console_9154={cookie_value(TOKEN)}"
        assert {"HttpOnly", "SameSite=strict", "Path=/"} == set(rest)
        assert TOKEN not in response.headers["set-cookie"]
        assert client.get("/").status_code == 200


def test_the_form_does_the_same_without_the_token_in_an_address() -> None:
    with console(inside=False) as client:
        response = client.post("/login", data={"token": f" {TOKEN} "})
        assert response.status_code == 303
        assert client.get("/networks/24").status_code == 200


@pytest.mark.parametrize(
    "given", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ä" * 20, "x" * 2000]
)
def test_a_wrong_token_is_no_way_in(given: str) -> None:
    with console(inside=False) as client:
        for response in (
            client.get("/login", params={"token": given}),
            client.post("/login", data={"token": given}),
        ):
            assert response.status_code == 401
            assert "set-cookie" not in response.headers
        assert client.get("/").status_code == 401


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1:9154", True),
        ("localhost:9154", True),
        ("LOCALHOST", True),
        ("[::1]:9154", True),
        ("[::1]", True),
        ("127.0.0.1:1", True),  # through ssh -L
        ("192.0.2.7:9154", True),  # an address cannot be rebound
        ("evil.example:9154", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
        ("127.0.0.1.evil.example", False),
        ("::1", False),
        ("[127.0.0.1]", False),
        ("127.0.0.1:9154:1", False),
        ("127.0.0.1:evil", False),
        ("localhost:", True),
        ("[::1", False),
        ("2130706433:80", False),
    ],
)
def test_only_addresses_and_localhost_are_our_names(host: str, ours: bool) -> None:
    assert is_own_host(host) == ours


@pytest.mark.parametrize("path", ["/", "/login", "/static/console.css"])
def test_a_rebound_name_gets_nothing_even_with_the_cookie(path: str) -> None:
    with console() as client:
        response = client.get(
            path, headers={"Host": "evil.example:9154", "Cookie": f"x={cookie_value(TOKEN)}"}
        )
        assert response.status_code == 421
        assert "acme" not in response.text


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_every_response_tells_the_browser_what_it_must_not_do(method: str) -> None:
    with console() as client:
        for path in (*PATHS, "/login", "/static/console.css", "/static/nosuch"):
            sent = client.request(method, path).headers
            policy = dict(
                part.strip().split(" ", 1) for part in sent["content-security-policy"].split(";")
            )
            assert policy["default-src"] == "'none'"
            assert {value for name, value in policy.items() if name != "default-src"} == {
                "'self'",
                "'none'",
            }
            assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert sent["x-content-type-options"] == "nosniff"
            assert sent["referrer-policy"] == "no-referrer"
            assert sent["cache-control"] == "no-store"
            assert "server" not in sent


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_there_is_nothing_to_change(method: str) -> None:
    with console() as client:
        for path in PATHS:
            assert client.request(method, path).status_code in (404, 405)


def test_static_files_are_those_of_the_folder_only() -> None:
    with console(inside=False) as client:
        assert client.get("/static/console.css").headers["content-type"].startswith("text/css")
        for path in (
            "/static/../app.py",
            "/static/%2e%2e/app.py",
            "/static/%2e%2e%2fapp.py",
            "/static/",
            "/static",
        ):
            assert client.get(path).status_code in (307, 401, 404, 405)


def test_a_page_that_fails_costs_that_page_and_names_nobody_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("acme is in these words")

    with console() as client:
        monkeypatch.setattr(pages, "network", fails)
        with caplog.at_level(logging.DEBUG):
            get(client, "/networks/24", 500)
        monkeypatch.undo()
        get(client, "/networks/24")
    ours = [record.getMessage() for record in caplog.records if record.name == "internal_dns"]
    assert len(ours) == 1
    assert ours[0].startswith("console: a page failed with RuntimeError at test_guard.py:")
    assert "acme" not in caplog.text


def test_nothing_else_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "internal_dns"), console() as client:
        for path in (*PATHS, "/login?token=wrong"):
            client.get(path)
    assert [record for record in caplog.records if record.name == "internal_dns"] == []


def test_what_is_typed_in_is_bounded_and_never_markup() -> None:
    with console() as client:
        assert (
            client.get("/search", params={"q": "x" * (console_app.MAX_FIELD + 1)}).status_code
            == 400
        )
        attack = "<script>alert(1)</script>\"'><b>"
        for path, field in (("/search", "q"), ("/ask", "name"), ("/ask", "as"), ("/ask", "type")):
            shown = client.get(path, params={"name": "web.internal", field: attack}).text
            assert "<b>" not in shown
            assert "<script>alert" not in shown


def test_the_posted_form_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_app, "MAX_FORM", 10)
    with console(inside=False) as client:
        assert client.post("/login", data={"token": TOKEN}).status_code == 401


def test_websockets_are_not_spoken() -> None:
    with console() as client:
        assert isinstance(client, TestClient)
        assert (
            client.get("/", headers={"Connection": "upgrade", "Upgrade": "websocket"}).status_code
            == 200
        )
