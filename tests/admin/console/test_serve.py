"""The console's port: in the server's loop, ended with it, and its packages loaded only when it is
on."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from internal_dns.admin.console import pages
from internal_dns.admin.console.app import Sources
from internal_dns.admin.console.guard import cookie_name, cookie_value
from internal_dns.admin.console.samples import Sampler
from internal_dns.admin.console.serve import CONNECTIONS, Console
from internal_dns.cli import run as cli_run
from internal_dns.config import ConfigurationError, load_settings
from internal_dns.core.journey import Rules
from internal_dns.errors import OperatorError
from internal_dns.metrics import Metrics
from internal_dns.net import Endpoint
from internal_dns.server import Server
from internal_dns.store.sqlite import Loaded
from tests.core.messages import CATALOG

TOKEN = "a-token-of-the-tests"


@asynccontextmanager
async def running(token: str | None = TOKEN, host: str = "127.0.0.1") -> AsyncIterator[Console]:
    sources = Sources(
        lambda: CATALOG,
        lambda: Loaded(catalog=CATALOG),
        lambda: (True, "ready"),
        Rules,
        Path("/nosuch"),
        tuple,
    )
    console = Console(Endpoint.parse(f"{host}:0"), token, sources, Sampler(Metrics()))
    console.start()
    try:
        yield console
    finally:
        async with asyncio.timeout(10):
            await console.close()


async def get(console: Console, path: str, *headers: str) -> str:
    """The whole response to a request."""
    head = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    return await said(console, "\r\n".join(head).encode())


async def said(console: Console, octets: bytes) -> str:
    """What comes back until the end of the connection."""
    reader, writer = await asyncio.open_connection(*console.address[:2])
    try:
        writer.write(octets)
        async with asyncio.timeout(10):
            return (await reader.read()).decode()
    finally:
        writer.close()


def story(told: Coroutine[Any, Any, None]) -> None:
    asyncio.run(told)


@pytest.mark.slow
def test_it_serves_in_the_loop_and_ends_with_it() -> None:
    async def told() -> None:
        async with running() as console:
            assert (await get(console, "/")).startswith("HTTP/1.1 401 ")
            assert (await get(console, f"/login?token={TOKEN}")).startswith("HTTP/1.1 303 ")
            at = console.address[:2]
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(*at)
        assert len(asyncio.all_tasks()) == 1

    story(told())


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@pytest.mark.slow
def test_a_token_of_its_own_is_in_the_address_that_is_told_and_a_configured_one_is_not(
    host: str,
) -> None:
    async def told() -> None:
        async with running(None, host) as console:
            found = re.fullmatch(
                rf"http://{re.escape(host)}:\d+(/login\?token=[\w-]{{32}})", console.url
            )
            assert found, console.url
            assert (await get(console, found[1])).startswith("HTTP/1.1 303 ")
            other = console.url
        async with running(None, host) as console:
            assert console.url.partition("=")[2] != other.partition("=")[2]
        async with running(TOKEN, host) as console:
            assert re.fullmatch(rf"http://{re.escape(host)}:\d+/", console.url)

    story(told())


@pytest.mark.slow
def test_the_signals_stay_those_of_the_server() -> None:
    async def told() -> None:
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        async with running() as console:
            await get(console, "/")
            assert [
                signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
            ] == before

    story(told())


@pytest.mark.slow
def test_a_connection_that_is_kept_does_not_hold_up_the_end() -> None:
    async def told() -> None:
        async with running() as console:
            reader, writer = await asyncio.open_connection(*console.address[:2])
            writer.write(b"GET /login HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"</html>")
        assert await reader.read() in (b"", b"\n")
        writer.close()

    story(told())


@pytest.mark.slow
def test_connections_and_heads_are_bounded() -> None:
    async def told() -> None:
        async with running() as console:
            assert (await said(console, b"GET / HTTP/1.1\r\nX: " + b"x" * 65_536)).startswith(
                "HTTP/1.1 400 "
            )
            held = [await asyncio.open_connection(*console.address[:2]) for _ in range(CONNECTIONS)]
            assert "HTTP/1.1 503 " in await get(console, "/login")
            for _, writer in held:
                writer.close()

    story(told())


def test_samples_are_taken_while_it_runs() -> None:
    async def told() -> None:
        async with running() as console:
            async with asyncio.timeout(10):
                while not console.sampler.kept:
                    await asyncio.sleep(0)
            assert console.sampler.kept[0].delay == 0

    story(told())


@pytest.mark.slow
def test_an_address_that_others_reach_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def told() -> None:
        async with running(host="[::]"):
            pass

    story(told())
    assert "not a loopback address" in caplog.text
    caplog.clear()

    async def at_home() -> None:
        async with running():
            pass

    story(at_home())
    assert caplog.text == ""


@pytest.mark.slow
def test_nothing_is_logged_by_uvicorn(caplog: pytest.LogCaptureFixture) -> None:
    async def told() -> None:
        async with running() as console:
            await get(console, "/networks/24")
            await said(console, b"\0" * 65_536)

    with caplog.at_level(logging.INFO):
        story(told())
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


# ── with the server ───────────────────────────────────────────────────────────────────────────────


def settings(tmp_path: Path, **flags: str) -> Any:
    return load_settings(
        {"catalog": str(tmp_path / "c.db"), "listen": ("[::1]:0",), "admin": "none", **flags}, {}
    )


@pytest.mark.parametrize("missing", ["jinja2", "starlette.applications", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("internal_dns.admin.console.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)

    async def told() -> None:
        server = Server(settings(tmp_path, console="127.0.0.1:0", upstream="none"))
        with pytest.raises(OperatorError) as error:
            await server.run(lambda _: None)
        assert error.value.what == "console 127.0.0.1:0"
        assert error.value.why == f"the module {missing} is not installed"
        assert "pip install '.[console]'" in error.value.do

    story(told())


@pytest.mark.slow
def test_a_taken_port_is_told_what_why_do(tmp_path: Path) -> None:
    async def told() -> None:
        async with running() as console:
            taken = f"127.0.0.1:{console.address[1]}"
            server = Server(settings(tmp_path, console=taken, upstream="none"))
            with pytest.raises(OperatorError) as error:
                await server.run(lambda _: None)
            assert (error.value.what, error.value.why) == (
                f"cannot open console {taken}",
                "Address already in use",
            )

    story(told())


@pytest.mark.slow
def test_nothing_of_it_is_loaded_while_it_is_off() -> None:
    program = (
        "import sys, internal_dns.server, internal_dns.cli.run\n"
        "print(sorted({'starlette', 'uvicorn', 'jinja2', 'internal_dns.admin.console'} & "
        "sys.modules.keys()))"
    )
    made = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20
    )
    assert made.stdout == "[]\n"


def test_dev_says_why_there_is_no_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_run, "DEV_CONSOLE", Endpoint.parse("127.0.0.1:0"))
    assert cli_run._console_problem() == ""
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "uvicorn" else object()
    )
    assert (
        cli_run._console_problem()
        == "none: run pip install '.[console]' in the checkout to install it"
    )
    monkeypatch.undo()

    async def told() -> None:
        async with running() as console:
            monkeypatch.setattr(
                cli_run, "DEV_CONSOLE", at := Endpoint.parse(f"127.0.0.1:{console.address[1]}")
            )
            said = cli_run._console_problem()
            assert (
                said
                == f"none: {at}: Address already in use; choose another with --console ADDR:PORT"
            )

    story(told())


@pytest.mark.parametrize(
    "text", ["short", "x" * 15, "with blank in it", "ümlaut-ümlaut-ümlaut", "a/b/c/d/e/f/g/h/i"]
)
def test_tokens_that_could_be_guessed_or_do_not_fit_an_address_are_refused(
    text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as error:
        settings(tmp_path, console_token=text)
    assert "a token is at least 16 letters, digits, - and _" in error.value.faults[0]
    assert text not in error.value.faults[0]  # it may be nearly right


@pytest.mark.slow
def test_a_page_is_not_built_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a page takes its time, the loop goes on."""
    turns = 0
    real = pages.networks

    def slow(*given: Any) -> Any:
        begin, seen = time.monotonic(), turns
        while (
            turns < seen + 3
        ):  # waits for the loop: would wait for ever if it were the loop's thread
            assert time.monotonic() < begin + 10
            time.sleep(0.001)
        return real(*given)

    monkeypatch.setattr(pages, "networks", slow)

    async def turning() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def told() -> None:
        async with running() as console:
            task = asyncio.create_task(turning())
            cookie = f"Cookie: {cookie_name('localhost')}={cookie_value(TOKEN)}"
            assert "HTTP/1.1 200 OK" in await get(console, "/", cookie)
            task.cancel()

    story(told())
