"""The settings that a SIGHUP changes, and what is logged about them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from internal_dns import config
from internal_dns.config import ConfigurationError, Settings, load_settings, table
from internal_dns.forward.upstreams import PUBLIC, RESOLV_CONF, named_in_resolv_conf
from internal_dns.server import Server
from internal_dns.service.reload import differences, merged

DOCS = Path(__file__).parents[2] / "docs"
FIXED = {
    "catalog",
    "source",
    "host_name",
    "listen",
    "admin",
    "prefix",
    "upstream_ca",
    "console",
    "console_token",
    "udp_path",
    "workers",
    "answer_octets",
    "hot_list",
}  # opened at start, or already applied to all loaded data


@pytest.fixture(autouse=True)
def _no_file_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "absent.toml")


def settings(**flags: str | tuple[str, ...]) -> Settings:
    return load_settings(flags, {})


def test_settings_opened_at_start_are_fixed() -> None:
    assert {row.name for row in table() if not row.metadata["reload"]} == FIXED


def test_only_reloadable_settings_change() -> None:
    old = settings(region="iad", admin="none", nsid="old")
    new = settings(region="nrt", admin="127.0.0.1:1", listen=("[::1]:1",), udp_limit="600")
    found = merged(old, new)
    assert (found.region, found.udp_limit, found.nsid) == (b"nrt", 600, b"")
    assert (found.admin, found.listen) == (None, old.listen)
    assert found.origin["region"] == "--region"
    assert found.origin["listen"] == "default"
    assert differences(old, new) == (["region iad -> nrt", "udp_limit 8192 -> 600", "nsid old -> "
                                                                                    "none"],
                                     ["listen", "admin"])  # fmt: skip


def test_an_identical_configuration_changes_nothing() -> None:
    assert differences(settings(region="iad"), settings(region="iad")) == ([], [])


def test_a_secret_is_never_in_the_log() -> None:
    words, fixed = differences(settings(), settings(cookie_secret="ab" * 16))
    assert (words, fixed) == (["cookie_secret"], [])


def test_the_documentation_marks_reloadable_settings() -> None:
    lines = (DOCS / "settings.md").read_text().splitlines()
    for row in table():
        line = next(line for line in lines if line.startswith(f"| `{row.name}` "))
        assert line.split(" | ")[4] == ("no" if row.name in FIXED else "yes"), line


class RecordingManager:
    """A service manager that records its messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def reloading(self) -> None:
        self.lines.append("RELOADING")

    def ready(self, status: str) -> None:
        self.lines.append(f"READY {status}")


def raising(error: Exception) -> Callable[[], Settings]:
    def reread() -> Settings:
        raise error

    return reread


def running(tmp_path: Path) -> tuple[Server, RecordingManager]:
    server = Server(settings(catalog=str(tmp_path / "c.db"), upstream="none", udp_path="python"))
    manager: Any = RecordingManager()
    server.manager, server.announced = manager, True
    return server, manager


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (ConfigurationError(["x: is wrong"]), "keeping the previous one: x: is wrong"),
        (RecursionError("maximum recursion depth exceeded"), "keeping the previous one"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "keeping the previous one"),
        (MemoryError(), "keeping the previous one"),
    ],
)
def test_every_reload_ends_with_ready_whatever_the_error(
    error: Exception, logged: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """systemd waits for READY=1 after RELOADING=1, and ends a service that does not send it."""
    server, manager = running(tmp_path)
    before = server.settings
    server.reload(raising(error))
    assert manager.lines[0] == "RELOADING"
    assert manager.lines[1].startswith("READY ")
    assert "the last reload" in manager.lines[1]
    assert server.settings is before
    assert logged in caplog.text
    server.reload(lambda: settings(catalog=str(tmp_path / "c.db"), upstream="none", region="iad"))
    assert server.settings.region == b"iad"
    assert "the last reload" not in manager.lines[3]


def test_a_reload_that_fails_while_settings_are_applied_ends_with_ready_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, manager = running(tmp_path)
    monkeypatch.setattr(server.api, "use", lambda rules: 1 / 0)
    server.reload(lambda: settings(upstream="none", region="iad"))
    assert [line.partition(" ")[0] for line in manager.lines] == ["RELOADING", "READY"]


def test_what_resolv_conf_names_is_told_when_it_changes_and_that_it_names_nobody_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "resolv.conf"
    monkeypatch.setattr(
        "internal_dns.service.parts.named_in_resolv_conf",
        lambda own: named_in_resolv_conf(own, file),
    )
    public = " ".join(f"{url}:53" for url in PUBLIC)
    caplog.set_level("INFO", "internal_dns")

    def said() -> list[str]:
        found = [r.getMessage() for r in caplog.records if r.name == "internal_dns"]
        caplog.clear()
        return [line for line in found if "resolv.conf" in line or "reloaded" in line]

    async def story() -> None:
        own: dict[str, Any] = {"catalog": str(tmp_path / "c.db"), "udp_path": "python"}
        server = Server(settings(**own))
        (warned,) = said()
        assert warned.startswith(f"{RESOLV_CONF} names no server but this one: external names")
        assert ", ".join(f"{url}:53" for url in PUBLIC) in warned
        server.reload(lambda: settings(**own))
        assert said() == ["configuration reloaded: no changes"]
        file.write_text("nameserver 192.0.2.1\nnameserver 192.0.2.2\n")
        server.reload(lambda: settings(**own))
        named = "udp://192.0.2.1:53 udp://192.0.2.2:53"
        assert said() == [f"configuration reloaded: upstreams of {RESOLV_CONF} {public} -> {named}"]
        file.unlink()
        server.reload(lambda: settings(**own))
        assert said() == [
            warned,
            f"configuration reloaded: upstreams of {RESOLV_CONF} {named} -> {public}",
        ]
        server.reload(lambda: settings(**own, upstream="192.0.2.9"))
        assert said() == ["configuration reloaded: upstream none -> udp://192.0.2.9:53"]
        server.reload(lambda: settings(**own))
        assert said() == [warned, "configuration reloaded: upstream udp://192.0.2.9:53 -> none"]
        await server.forwarder.close()

    asyncio.run(story())
