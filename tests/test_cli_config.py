"""config show and config check, and the variables that are nearly a setting."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from internal_dns import config
from internal_dns.config import find_misspelled, load_settings, shown, table
from tests.commands import run

TEXT = """
catalog = "/srv/c.db"
listen = ["[::1]:5300", "127.0.0.1:5300"]
upstream = ["udp://192.0.2.53", "tcp://[2001:db8::1]:5353"]
region = "iad"
map_source = ["::1/128=fdaa:0:18::/48"]
admin = "none"
udp_limit = 4096
hidden_peers = []
nsid = 'a "quoted" name'

[forward]
"corp.example" = ["udp://198.51.100.53"]
"lab.example" = { upstreams = ["tls://198.51.100.54#dns.example"], allow_prefix = true }
"""


@pytest.fixture(autouse=True)
def _only_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "absent.toml")
    for row in table():
        monkeypatch.delenv(f"INTERNAL_DNS_{row.name.upper()}", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(TEXT)
    return path


def test_what_is_shown_is_a_file_that_means_the_same(file: Path, tmp_path: Path) -> None:
    said = run("config", "show", "--config", file)
    assert (said.code, said.err) == (0, "")
    again = tmp_path / "again.toml"
    again.write_text(said.out)
    before, after = load_settings({}, {}, file), load_settings({}, {}, again)
    for row in table():
        assert getattr(before, row.name) == getattr(after, row.name), row.name


def test_the_defaults_are_shown_too() -> None:
    said = tomllib.loads(run("config", "show").out)
    assert said["listen"] == ["[fdaa::3]:53"]
    assert said["prefix"] == "fdaa::/16"
    assert "region" not in said


def test_the_origin_of_each(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNAL_DNS_NSID", "from the environment")
    said = run("config", "show", "--origin", "--config", file, "--region", "nrt").out
    for line in ('region = "nrt"  # --region', 'nsid = "from the environment"  # INTERNAL_DNS_NSID',
                 f"udp_limit = 4096  # {file}, udp_limit",
                 'prefix = "fdaa::/16"  # default'):  # fmt: skip
        assert line in said.splitlines()


def test_json_has_every_setting(file: Path) -> None:
    found = run("config", "show", "--json", "--config", file).json
    assert found.keys() == {row.name for row in table()}
    assert found["forward"] == {
        "corp.example": ["udp://198.51.100.53:53"],
        "lab.example": {"upstreams": ["tls://198.51.100.54:853#dns.example"], "allow_prefix": True},
    }
    assert found["upstream"] == ["udp://192.0.2.53:53", "tcp://[2001:db8::1]:5353"]
    told = run("config", "show", "--json", "--origin", "--config", file).json
    assert told["region"] == {"value": "iad", "origin": f"{file}, region"}


def test_a_secret_is_not_shown() -> None:
    for words in ((), ("--json",), ("--origin",)):
        said = run("config", "show", "--cookie-secret", "ab" * 16, *words)
        assert "abab" not in said.out + said.err
        assert "set, not shown" in said.out


def test_upstream_none_is_shown_as_it_is_written() -> None:
    assert shown("upstream", load_settings({"upstream": ("none",)}, {}).upstream) == ["none"]


def test_check_tells_programs_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run("config", "check", "--json", "--config", file)
    assert (said.code, said.json) == (0, {"file": str(file), "warnings": []})
    monkeypatch.setenv("INTERNAL_DNS_REGOIN", "iad")
    said = run("config", "check", "--json", "--config", file)
    assert said.code == 1
    assert "INTERNAL_DNS_REGION" in said.json["warnings"][0]


def test_check_says_all_that_is_wrong(file: Path) -> None:
    assert run("config", "check", "--config", file).code == 0
    file.write_text('regio = "iad"\nudp_limit = 1\n')
    said = run("config", "check", "--config", file)
    assert said.code == 78
    assert "did you mean 'region'?" in said.err
    assert "1' is not a number from 512" in said.err


def test_a_variable_that_is_nearly_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNAL_DNS_UPSTREEM", "none")
    words = "INTERNAL_DNS_UPSTREEM is set but is not a setting, did you mean INTERNAL_DNS_UPSTREAM?"
    said = run("config", "check")
    assert said.code == 1
    assert words in said.err
    assert words in run("config", "show").err
    found = [s for s in run("doctor", "--json").json if s["what"] == "environment"]
    assert [(s["level"], s["says"]) for s in found] == [("warn", words)]


def test_variables_of_others_and_right_ones_are_not_told() -> None:
    variables = {
        f"INTERNAL_DNS_{row.name.upper()}": "x" for row in table() if row.name != "forward"
    }
    assert (
        find_misspelled({"PATH": "/bin", "INTERNAL_DNS": "x", "DNS_REGIN": "x", **variables}) == []
    )
    assert find_misspelled({"INTERNAL_DNS_QQQQ": "x"}) == [
        "INTERNAL_DNS_QQQQ is set but is not a setting"
    ]


@pytest.mark.parametrize("command", [["serve"], ["config", "show"], ["network", "list"]])
@pytest.mark.parametrize(
    "octets", [b"x = " + b"[" * 100_000, b"workers = " + b"9" * 5_000, b"nsid = \xff", b"\0"]
)
def test_a_file_that_nobody_means_is_exit_78_and_no_traceback(
    command: list[str], octets: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(octets)
    monkeypatch.setattr(config, "DEFAULT_FILE", file)
    said = run(*command)
    assert said.code == 78
    assert "  why  " in said.err
    assert "  do   " in said.err
