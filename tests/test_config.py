"""The settings: where each comes from, what is refused and in which words, and that each is
documented."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal_dns import config
from internal_dns.cli.common import error_text
from internal_dns.config import ConfigurationError, Settings, load_settings, table
from internal_dns.core.catalog_rules import DEFAULT_RULES
from internal_dns.core.requester import SourceMap
from internal_dns.forward.upstreams import Rule, Upstream
from internal_dns.net import Endpoint
from internal_dns.store.declare import to_toml

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(autouse=True)
def _no_file_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "absent.toml")


def settings(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    return load_settings(flags or {}, environment or {}, file)


def refused(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> list[str]:
    """The faults; fails when there are none."""
    with pytest.raises(ConfigurationError) as error:
        settings(flags, environment, file)
    assert error.value.why == "\n".join(error.value.faults)
    return error.value.faults


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


# ── where a setting comes from ────────────────────────────────────────────────────────────────────


def test_without_anything_the_defaults_hold() -> None:
    found = settings()
    assert found.catalog_rules == DEFAULT_RULES
    assert found.listen == (Endpoint.parse("[fdaa::3]:53"),)
    assert found.admin == Endpoint.parse("127.0.0.1:9153")
    assert found.catalog == Path("/var/lib/internal-dns/catalog.db")
    assert (found.prefix, found.udp_limit, found.hidden_peers) == (
        b"\xfd\xaa",
        8_192,
        ("interactive-",),
    )
    assert (found.upstream, found.region, found.map_source, found.nsid) == ((), None, (), b"")
    assert (found.cookie_secret, found.forward) == (None, {})
    assert set(found.origin.values()) == {"default"}
    assert found.origin.keys() == {row.name for row in table()}


EXAMPLES: dict[str, tuple[str, str, str, str]] = {  # by flag, environment, file, default
    "catalog": ("/1", "/2", "/3", "/var/lib/internal-dns/catalog.db"),
    "upstream_ca": ("/1.pem", "/2.pem", "/3.pem", ""),
    "region": ("iad", "ams", "nrt", ""),
    "udp_limit": ("1000", "2000", "3000", "8192"),
    "answer_octets": ("2000000", "3000000", "4000000", "268435456"),
    "hot_list": ("false", "true", "false", "true"),
    "nsid": ("one", "two", "three", ""),
    "prefix": ("fdab::/16", "fdac::/16", "fdad::/16", "fdaa::/16"),
    "admin": ("127.0.0.1:1", "127.0.0.1:2", "none", "127.0.0.1:9153"),
    "console": ("127.0.0.1:1", "[::1]:2", "127.0.0.1:3", "none"),
    "console_token": ("a" * 16, "B-c_" * 4, "0" * 64, ""),
    "cookie_secret": ("01" * 16, "02" * 16, "03" * 16, ""),
    "listen": ("[::1]:1", "[::1]:2", "[::1]:3", "[fdaa::3]:53"),
    "upstream": ("udp://192.0.2.1", "udp://192.0.2.2", "none", ""),
    "map_source": ("::1/128=fdaa:0:1::/48", "::2/128=fdaa:0:1::/48", "::3/128=fdaa:0:1::/48", ""),
    "upstream_sockets": ("fresh", "pool", "auto", "auto"),
    "outside_aliases": ("refuse", "answer", "refuse", "answer"),
    "udp_path": ("native", "python", "auto", "auto"),
    "workers": ("8", "4", "2", "1"),
    "hidden_peers": ("a-", "b-", "c-", "interactive-"),
    "source": ("nats://192.0.2.1/a", "nats://192.0.2.1/b", "tls://192.0.2.1/c", ""),
    "host_name": ("one", "two", "three", ""),
}
ROWS = {row.name: row for row in table()}


def parsed(name: str, text: str) -> Any:
    row = ROWS[name]
    value = row.metadata["parse"](text) if text else row.metadata["default"]
    return (value,) if row.metadata["many"] and text else value


@pytest.mark.parametrize("name", EXAMPLES)
def test_flags_win_over_the_environment_over_the_file_over_the_default(
    name: str, tmp_path: Path
) -> None:
    by_flag, by_environment, in_file, _ = EXAMPLES[name]
    other = {"map_source": {}, "prefix": {"listen": "[::1]:53"}}.get(name, {})
    many = ROWS[name].metadata["many"]
    variable = f"INTERNAL_DNS_{name.upper()}"
    file = written(
        tmp_path, f'{name} = "{in_file}"\n' + "".join(f'{k} = "{v}"\n' for k, v in other.items())
    )
    flags: dict[str, Any] = {name: (by_flag,) if many else by_flag}
    dashed = f"--{name.replace('_', '-')}"

    found = settings(flags, {variable: by_environment}, file)
    assert (getattr(found, name), found.origin[name]) == (parsed(name, by_flag), dashed)
    for nothing in ({}, {name: None}, {name: ()}):
        found = settings(nothing, {variable: by_environment}, file)
        assert (getattr(found, name), found.origin[name]) == (
            parsed(name, by_environment),
            variable,
        )
    found = settings({}, {variable: ""}, file)
    assert (getattr(found, name), found.origin[name]) == (parsed(name, in_file), f"{file}, {name}")


def test_every_setting_has_an_example_here() -> None:
    assert {*EXAMPLES, "forward"} == ROWS.keys()


def test_the_default_file_is_read_when_no_other_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, 'region = "iad"')
    monkeypatch.setattr(config, "DEFAULT_FILE", file)
    assert settings().region == b"iad"
    assert settings().origin["region"] == f"{file}, region"
    other = tmp_path / "other.toml"
    other.write_text("")
    assert settings(file=other).region is None


def test_lists_are_repeated_flags_words_in_the_environment_and_arrays_in_the_file(
    tmp_path: Path,
) -> None:
    expected = (Endpoint.parse("[::1]:53"), Endpoint.parse("127.0.0.1:53"))
    assert settings({"listen": ("[::1]:53", "127.0.0.1:53")}).listen == expected
    for words in ("[::1]:53 127.0.0.1:53", "[::1]:53,127.0.0.1:53", " [::1]:53 ,\t127.0.0.1:53 "):
        assert settings({}, {"INTERNAL_DNS_LISTEN": words}).listen == expected
    assert (
        settings(file=written(tmp_path, 'listen = ["[::1]:53", "127.0.0.1:53"]')).listen == expected
    )
    assert settings(file=written(tmp_path, "hidden_peers = []")).hidden_peers == ()


def test_a_number_may_be_written_as_one_in_the_file(tmp_path: Path) -> None:
    assert settings(file=written(tmp_path, "udp_limit = 4096")).udp_limit == 4_096
    assert settings(file=written(tmp_path, 'udp_limit = "4096"')).udp_limit == 4_096


# ── what is refused ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("listen", "127.0.0.1", "no port"),
        ("listen", "127.0.0.1:", "no port"),
        ("listen", "127.0.0.1:-1", "no port"),
        ("listen", "127.0.0.1:65536", "no port"),
        ("listen", "127.0.0.1:5３", "no port"),
        ("listen", "127.0.0.1:" + "9" * 5_000, ""),
        ("listen", "::1", "[ADDR]:PORT"),
        ("listen", "::1:53", "[ADDR]:PORT"),
        ("listen", "[::1]", "[ADDR]:PORT"),
        ("listen", "[::1:53", "[ADDR]:PORT"),
        ("listen", "localhost:53", "not an IP address"),
        ("listen", ":53", "not an IP address"),
        ("listen", "300.0.0.1:53", "not an IP address"),
        ("listen", "0.0.0.0:53", "list the IPv4 addresses"),
        ("admin", "9153", ""),
        ("admin", "NONE", ""),
        ("admin", "127.0.0.1:99999", "no port"),
        ("upstream", "1.2.3.4:x", ""),
        ("upstream", "example.com", "not an IP address"),
        ("upstream", "http://1.1.1.1", "https://ADDR:PORT"),
        ("upstream", "https://dns.example/dns-query", "https://ADDR#NAME"),
        ("upstream", "tls://dns.example", "tls://ADDR#NAME"),
        ("upstream", "udp://", ""),
        ("upstream", "udp://1.1.1.1/path", "udp://ADDR:PORT"),
        ("upstream", "udp://1.1.1.1?x", "https://ADDR:PORT"),
        ("upstream", "udp://1.1.1.1#x", "udp://ADDR:PORT"),
        ("upstream", "udp://me@1.1.1.1", "https://ADDR:PORT"),
        ("upstream", "udp://[::1", ""),
        ("upstream", "udp://1.1.1.1:0", "port 0"),
        ("upstream", "udp://0.0.0.0", ""),
        ("region", "", ""),
        ("region", "a b", "region code"),
        ("region", "é", "region code"),
        ("region", "a.b", "region code"),
        ("region", "x" * 64, "region code"),
        ("map_source", "::1/128", "PREFIX=NETWORK"),
        ("map_source", "::1/128=", ""),
        ("map_source", "=fdaa:0:18::/48", ""),
        ("map_source", "::1/128=fdaa:0:18::/64", "/48"),
        ("map_source", "::1/128=fdaa:0:18::1", "/48"),
        ("map_source", "::1/128=10.0.0.0/8", "/48"),
        ("map_source", "127.0.0.1/8=fdaa:0:18::/48", "host bits"),
        ("map_source", "::1/128=acme", ""),
        ("prefix", "fdaa::/15", ""),
        ("prefix", "fdaa::/17", "ULA /16"),
        ("prefix", "fcaa::/16", "ULA /16"),
        ("prefix", "2001::/16", "ULA /16"),
        ("prefix", "10.0.0.0/16", "ULA /16"),
        ("prefix", "fdaa", ""),
        ("udp_limit", "511", "512 to 65507"),
        ("udp_limit", "65508", "512 to 65507"),
        ("udp_limit", "-1", "512 to 65507"),
        ("udp_limit", "1e3", "512 to 65507"),
        ("udp_limit", "²", "512 to 65507"),
        ("udp_limit", "lots", "512 to 65507"),
        ("nsid", "x" * 65, "64 octets"),
        ("nsid", "é" * 33, "64 octets"),
        ("cookie_secret", "00" * 15, "32 hexadecimal digits"),
        ("cookie_secret", "00" * 17, "32 hexadecimal digits"),
        ("cookie_secret", "secret", ""),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(name: str, text: str, says: str) -> None:
    many = ROWS[name].metadata["many"]
    if text:
        (fault,) = refused({}, {f"INTERNAL_DNS_{name.upper()}": text})
        assert fault.startswith(f"INTERNAL_DNS_{name.upper()}: ")
    (fault,) = refused({name: (text,) if many else text})
    assert fault.startswith(f"--{name.replace('_', '-')}: ")
    assert says in fault
    assert len(fault) > len(name) + 8


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("listen", "[::]:53", (Endpoint(ip_address("::"), 53),)),
        ("listen", "[::1]:0", (Endpoint(ip_address("::1"), 0),)),
        ("listen", "192.0.2.1:65535", (Endpoint(ip_address("192.0.2.1"), 65_535),)),
        ("admin", "none", None),
        ("admin", "[::1]:9153", Endpoint(ip_address("::1"), 9_153)),
        ("upstream", "1.1.1.1", (Upstream(Endpoint(ip_address("1.1.1.1"), 53)),)),
        ("upstream", "2606:4700::1111", (Upstream(Endpoint(ip_address("2606:4700::1111"), 53)),)),
        ("upstream", "tcp://[::1]:5353", (Upstream(Endpoint(ip_address("::1"), 5_353), "tcp"),)),
        ("upstream", "none", (None,)),
        ("region", "IAD", b"iad"),
        ("region", "us-east_1", b"us-east_1"),
        ("prefix", "FDAB::/16", b"\xfd\xab"),
        ("udp_limit", "512", 512),
        ("udp_limit", "65507", 65_507),
        ("nsid", "é", "é".encode()),
        ("nsid", "x" * 64, b"x" * 64),
        ("cookie_secret", "0A" * 16, b"\x0a" * 16),
    ],
)
def test_a_value_at_its_bounds_is_taken(name: str, text: str, value: Any) -> None:
    flags = {name: (text,) if ROWS[name].metadata["many"] else text}
    assert getattr(settings(flags), name) == value


def test_all_faults_are_reported_at_once_each_with_its_place(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        'regoin = "iad"\nudp_limit = 3\nlisten = ["[::1]:53", "nowhere", "0.0.0.0:53"]\ncatalog = '
        '["a", "b"]\n'
        '[forward]\n"corp.example" = ["ftp://192.0.2.1"]\n',
    )
    faults = refused({"region": "a b"}, {"INTERNAL_DNS_COOKIE_SECRET": "no"}, file)
    for start in (
        f"{file}: unknown key 'regoin', did you mean 'region'?",
        f"{file}, udp_limit: ",
        f"{file}, listen: 'nowhere'",
        f"{file}, listen: 0.0.0.0",
        f"{file}, catalog: takes one value",
        f"{file}, forward.corp.example: ",
        "--region: ",
        "INTERNAL_DNS_COOKIE_SECRET: ",
    ):
        assert sum(fault.startswith(start) for fault in faults) == 1, (start, faults)
    assert len(faults) == 8


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("udp-limit", "udp_limit"),
        ("upstreams", "upstream"),
        ("Catalog", "catalog"),
        ("listener", "listen"),
        ("hidden", "hidden_peers"),
        ("secret", "cookie_secret"),
        ("forwards", "forward"),
        ("zzzzzz", ""),
        ("origin", "region"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(key: str, near: str, tmp_path: Path) -> None:
    (fault,) = refused(file=written(tmp_path, f'{key} = "x"'))
    assert f"unknown key {key!r}" in fault
    if near:
        assert fault.endswith(f"did you mean {near!r}?")
    else:
        assert "did you mean" not in fault


@pytest.mark.parametrize(
    "text",
    [
        "catalog = false",
        "region = true",
        "catalog = 5",
        "[catalog]\na = 1",
        "listen = [53]",
        "udp_limit = 4096.0",
        "udp_limit = true",
        "nsid = 2024-01-01",
        'region = ["iad"]',
    ],
)
def test_a_value_of_the_wrong_type_is_refused(text: str, tmp_path: Path) -> None:
    faults = refused(file=written(tmp_path, text))
    name = text.partition(" ")[0].partition("\n")[0].strip("[]")
    assert all(f", {name}: " in fault for fault in faults)


def test_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    (fault,) = refused(file=tmp_path / "nosuch.toml")
    assert "No such file" in fault
    assert "--config" in fault
    (fault,) = refused(file=tmp_path)
    assert "directory" in fault
    (fault,) = refused(file=written(tmp_path, "region = "))
    assert "is not TOML" in fault
    (tmp_path / "config.toml").write_bytes(b'region = "\xff"')
    (fault,) = refused(file=tmp_path / "config.toml")
    assert "is not TOML" in fault


# ── what cannot stand together ────────────────────────────────────────────────────────────────────


def test_none_excludes_other_upstreams() -> None:
    (fault,) = refused({"upstream": ("none", "udp://192.0.2.1")})
    assert fault == "--upstream: none cannot be combined with other upstreams"
    assert settings({"upstream": ("none",)}).upstream == (None,)


@pytest.mark.parametrize(
    ("listen", "upstream", "loop"),
    [
        ("[::1]:53", "udp://[::1]", True),
        ("[::1]:53", "tcp://[::1]:53", True),
        ("127.0.0.1:1053", "127.0.0.1:1053", True),
        ("[::]:53", "udp://[::1]", True),
        ("[::]:53", "udp://[fdaa::3]", True),
        ("[::]:53", "udp://[fdaa:0:18::3]", True),
        ("[::]:53", "udp://[::]", True),
        ("[fdaa::3]:53", "udp://[fdaa::3]", True),
        ("[::1]:53", "udp://[::1]:5353", False),
        ("[::1]:53", "udp://127.0.0.1", False),
        ("[::]:53", "udp://127.0.0.53", False),
        ("[::]:53", "udp://[2001:db8::53]", False),
        ("[::]:1053", "udp://[::1]", False),
    ],
)
def test_an_upstream_that_is_this_server_is_refused(
    listen: str, upstream: str, loop: bool, tmp_path: Path
) -> None:
    flags = {"listen": (listen,)}
    by_rule = written(tmp_path, f'[forward]\n"corp.example" = ["{upstream}"]')
    if not loop:
        assert settings({**flags, "upstream": (upstream,)}).upstream
        assert settings(flags, {}, by_rule).forward
        return
    (fault,) = refused({**flags, "upstream": ("udp://192.0.2.1", upstream)})
    assert fault.startswith("--upstream: ")
    assert "this server itself" in fault
    (fault,) = refused(flags, {}, by_rule)
    assert fault.startswith(f"{by_rule}, forward")
    assert "this server itself" in fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fdaa:0:19::/48=fdaa:0:18::/48", "is in the prefix"),
        ("fdaa::/16=fdaa:0:18::/48", "is in the prefix"),
        ("::1/128=fdab:0:18::/48", "not a /48 of the prefix"),
        ("::1/128=2001:db8:1::/48", "not a /48 of the prefix"),
        ("::1/128=fdaa::/48", "network 0"),
    ],
)
def test_a_map_that_cannot_work_is_refused(text: str, says: str) -> None:
    (fault,) = refused({"map_source": ("::2/128=fdaa:0:18::/48", text)})
    assert says in fault
    assert fault.startswith("--map-source: ")


def test_maps_reach_the_core_with_their_network_id() -> None:
    found = settings({"map_source": ("::1/128=fdaa:0:18::/48", "127.0.0.0/8=fdaa:1:2::/48")})
    assert [m.network for m in found.maps] == [0x18, 0x1_0002]
    assert found.maps[1] == SourceMap.of(ip_network("127.0.0.0/8"), found.maps[1].network)
    assert found.maps[1].source == ip_network("::ffff:127.0.0.0/104")


def test_maps_follow_another_prefix() -> None:
    assert settings({"prefix": "fdab::/16", "map_source": ("fdaa:0:1::1/128=fdab:0:18::/48",)}).maps
    (fault,) = refused({"prefix": "fdab::/16", "map_source": ("::1/128=fdaa:0:18::/48",)})
    assert "not a /48 of the prefix" in fault


def test_a_server_listens_somewhere(tmp_path: Path) -> None:
    (fault,) = refused(file=written(tmp_path, "listen = []"))
    assert "listen" in fault


# ── the table of forward rules ────────────────────────────────────────────────────────────────────


def test_forward_rules_have_suffixes_and_upstreams(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        '[forward]\n"Corp.Example." = ["udp://192.0.2.1", "tcp://192.0.2.2:54"]\nlan = '
        '"192.0.2.3"\n',
    )
    found = settings(file=file)
    assert found.forward == {
        (b"corp", b"example"): Rule(
            (Upstream.parse("udp://192.0.2.1"), Upstream.parse("tcp://192.0.2.2:54"))
        ),
        (b"lan",): Rule((Upstream.parse("udp://192.0.2.3"),)),
    }
    assert found.origin["forward"] == f"{file}, forward"


def test_a_forward_rule_may_allow_addresses_of_the_prefix(tmp_path: Path) -> None:
    file = written(tmp_path, '[forward.lan]\nupstreams = ["192.0.2.1"]\nallow_prefix = true\n')
    assert settings(file=file).forward == {
        (b"lan",): Rule((Upstream.parse("192.0.2.1"),), allow_prefix=True)
    }


@pytest.mark.parametrize(
    "rule",
    [
        '"10.in-addr.arpa" = []',
        '"" = "192.0.2.1"',
        '"." = "192.0.2.1"',
        '"a..b" = "192.0.2.1"',
        '".a" = "192.0.2.1"',
        f'"{"x" * 64}" = "192.0.2.1"',
        'lan = { upstreams = ["192.0.2.1"], allow = true }',
        'lan = { upstreams = ["192.0.2.1"], allow_prefix = "yes" }',
        "lan = { allow_prefix = true }",
        '"internal" = "192.0.2.1"',
        '"corp.internal" = "192.0.2.1"',
        '"x.flycast" = "192.0.2.1"',
        '"a.a.d.f.ip6.arpa" = "192.0.2.1"',
        '"8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa" = "192.0.2.1"',
        "x = 5",
        "x = [5]",
        'x = "none"',
        'x = ["udp://192.0.2.1", "nowhere"]',
        "x = { y = 1 }",
    ],
)
def test_a_forward_rule_that_cannot_work_is_refused(rule: str, tmp_path: Path) -> None:
    file = written(tmp_path, f"[forward]\n{rule}\n")
    (fault,) = refused(file=file)
    assert fault.startswith(f"{file}, forward")


def test_forward_rules_contradict_upstream_none(tmp_path: Path) -> None:
    (fault,) = refused(
        {"upstream": ("none",)}, {}, written(tmp_path, '[forward]\nlan = "192.0.2.3"')
    )
    assert "forward" in fault


@pytest.mark.parametrize("where", ["file", "environment"])
def test_forward_is_a_table(where: str, tmp_path: Path) -> None:
    if where == "file":
        (fault,) = refused(file=written(tmp_path, 'forward = "192.0.2.1"'))
    else:
        (fault,) = refused({}, {"INTERNAL_DNS_FORWARD": "192.0.2.1"})
    assert "table" in fault


# ── documents ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ROWS)
def test_every_setting_is_documented(name: str) -> None:
    lines = [
        line
        for line in (DOCS / "settings.md").read_text().splitlines()
        if line.startswith(f"| `{name}` |")
    ]
    assert len(lines) == 1, f"docs/settings.md lacks {name}"
    metadata = ROWS[name].metadata
    assert metadata["words"] in lines[0]
    if name != "forward":
        assert f"`--{name.replace('_', '-')} {metadata['metavar']}`" in lines[0]
        assert f"`INTERNAL_DNS_{name.upper()}`" in lines[0]
    default = metadata["default"]
    for text in default if isinstance(default, tuple) else [default]:
        if text:
            assert f"`{text}`" in lines[0]


def test_no_setting_is_documented_that_does_not_exist() -> None:
    lines = (DOCS / "settings.md").read_text().splitlines()
    rows = [line.split("`")[1] for line in lines if line.startswith("| `")]
    assert rows == [row.name for row in table()]


def test_the_documented_file_is_a_good_one(tmp_path: Path) -> None:
    text = (DOCS / "settings.md").read_text()
    example = text.partition("```toml\n")[2].partition("```")[0]
    assert example
    assert settings(file=written(tmp_path, example)).origin["region"].endswith("region")


def test_each_setting_has_a_sentence() -> None:
    for row in table():
        assert row.metadata["words"][0].isupper()
        assert len(row.metadata["words"]) > 15


# ── what no operator means to write ───────────────────────────────────────────────────────────────

SECRET = "hunter2hunter2hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f'cookie_secret = "{SECRET}"',
        f'cookie_secret = "{SECRET}hunter2hunte"',
        f'cookie_secret = ["{SECRET}"]',
        f'cookie_secret = {{ x = "{SECRET}" }}',
        f'console_token = "{SECRET} "',
        f'console_token = ["{SECRET}!", "{SECRET}?"]',
        f'console_token = [["{SECRET}"]]',
        f'upstream = "tls://user:{SECRET}@192.0.2.1"',
        f'upstream = "tls://:{SECRET}@192.0.2.1"',
        f'upstream = "tls://{SECRET}@"',
        f'upstream = "tls://a:{SECRET}/@192.0.2.1/x"',
        f'upstream = "tls://a:{SECRET}://@192.0.2.1"',
        f'upstream = "a:{SECRET}@192.0.2.1"',
        f'upstream = "https://192.0.2.1/dns-query?token={SECRET}"',
        f'upstream = "https://user:{SECRET}@[::1/dns-query"',
        f'upstream = "https://user:{SECRET}@\u2100/dns-query"',
        f'forward = {{ "corp" = "tls://user:{SECRET}@192.0.2.1" }}',
        f'source = "nats://user:{SECRET}@/bucket/x"',
        f'source = "nats://user:a?{SECRET}=b@h/bucket"',
        f'source = ["nats://{SECRET}@a/b", "nats://{SECRET}@a/b"]',
    ],
)
def test_a_secret_is_not_repeated_by_what_is_wrong_with_it(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        settings(file=written(tmp_path, text))
    told = "".join(traceback.format_exception(error.value)) + error_text(error.value)
    assert "hunter2" not in told


def test_a_number_as_secret_is_not_repeated_either(tmp_path: Path) -> None:
    for name in ("cookie_secret", "console_token"):
        file = written(tmp_path, f"{name} = 12345678901234567\n")
        assert refused(file=file) == [f"{file}, {name}: the value is not text: write it in quotes"]


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        (b"x = " + b"[" * 100_000, "nested too deeply"),
        (b"x = " + b"{a=" * 100_000, "nested too deeply"),
        (b"workers = " + b"9" * 5_000, "too many digits"),
        (b"workers = 0x" + b"f" * 5_000, "beyond 64 bits"),
        (b"workers = -99999999999999999999", "beyond 64 bits"),
        (b'workers = "' + b"9" * 5_000 + b'"', "not a number from 1 to 16"),
        (b"workers = 1.5", "not text"),
        (b"workers = inf", "not text"),
        (b"workers = true", "not text"),
        (b"workers = 2026-01-01", "not text"),
        (b'nsid = "\xff"', "line 1 is not UTF-8"),
        (b'\n\nnsid = "\xff"', "line 3 is not UTF-8"),
        (b"\xff\xfen\x00s\x00", "line 1 is not UTF-8"),
        (b"\x00", "is not TOML"),
        (b'catalog = "a\\u0000b"', "not a file name"),
        (b'catalog = ""', "not a file name"),
        (b'upstream_ca = "\\u0000"', "not a file name"),
        (b'listen = "[fe80::1%a\\u0000]:53"', "not printable"),
        (b'listen = "[::1]:' + b"9" * 5_000 + b'"', "no port from 0 to 65535"),
        (b"region = " + b'"' + b"x" * 100_000 + b'"', "not a region code"),
        (b"x" * 100_000 + b" = 1", "unknown key"),
        (b"#" * (1 << 20) + b"\n", "larger than 1,048,576 octets"),
    ],
)
def test_a_nonsensical_file_is_reported_in_bounded_length(
    octets: bytes, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(octets)
    faults = refused(file=file)
    assert any(says in fault for fault in faults), faults
    assert all(len(fault) < 600 for fault in faults)


@given(
    st.binary(max_size=200)
    | st.text(alphabet="ab=[]{}\"'.,\n 019-ex#", max_size=80).map(str.encode)
)
def test_any_file_is_settings_or_faults(octets: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.toml")
        file.write_bytes(octets)
        with suppress(ConfigurationError):
            settings(file=file)


@given(st.sampled_from(sorted(ROWS)), st.recursive(
    st.text(max_size=40) | st.integers() | st.floats() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner,
                                                                max_size=3),
    max_leaves=6,
))  # fmt: skip
def test_any_value_of_any_setting_is_settings_or_faults(name: str, value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, suppress(ConfigurationError):
        file = Path(folder, "config.toml")
        file.write_text(to_toml({name: value}), "utf-8")
        found = settings(file=file)
        for endpoint in found.listen:
            with suppress(OSError):
                assert endpoint.sockaddr


def test_a_missing_default_file_is_not_a_fault_but_an_unreadable_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "absent.toml")
    assert settings().workers == 1
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path)
    assert "Is a directory" in refused()[0]
