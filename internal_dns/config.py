"""The settings: one table, from which flags, environment, file, documentation and tests derive.

A flag overrides INTERNAL_DNS_*, which overrides the TOML file, which overrides the default. All
faults are reported at once, each with its place and what to write instead; an unknown key is an
error that names the nearest known one.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, Set
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from ipaddress import IPv6Network, ip_network
from pathlib import Path
from string import hexdigits
from typing import Any, Final

from internal_dns.core.catalog import NetworkId
from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.core.names import Labels
from internal_dns.core.requester import SourceMap
from internal_dns.errors import OperatorError
from internal_dns.forward.upstreams import MODES, Rule, Upstream
from internal_dns.net import Endpoint
from internal_dns.replicate.source import Source

DEFAULT_FILE: Final = Path("/etc/internal-dns/config.toml")
ENVIRONMENT: Final = "INTERNAL_DNS_"
SECRETS: Final = frozenset({"cookie_secret", "console_token"})  # never shown, never in a log
NOT_SETTINGS: Final = frozenset({"INTERNAL_DNS_FORBID_SKIPS"})  # used by the tests
UDP_PATHS: Final = ("auto", "native", "python")
MAX_FILE_OCTETS: Final = 1 << 20  # of a file: room for a hundred thousand forwarding rules
# Characters of a fault. The middle is cut, because the end says what is wrong.
MAX_FAULT_LENGTH: Final = 300
OUTSIDE_ALIASES: Final = ("answer", "refuse")


class ConfigurationError(OperatorError):
    """The settings cannot be used; `faults` has one line per fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(
            "the configuration cannot be used",
            "\n".join(faults),
            "Correct it; `internal-dns serve --help` lists every setting",
        )
        self.faults = faults


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not a file name")
    return Path(text)


def _region(text: str) -> bytes:
    if not text.replace("-", "").replace("_", "").isalnum() or not text.isascii() or len(text) > 63:
        raise ValueError(f"{text!r} is not a region code: up to 63 letters, digits, - and _")
    return text.lower().encode()


def _prefix(text: str) -> bytes:
    network = ip_network(text)
    if (
        not isinstance(network, IPv6Network)
        or network.prefixlen != 16
        or network.network_address.packed[0] != 0xFD
    ):
        raise ValueError(f"{text!r} is not a ULA /16, such as fdaa::/16")
    return network.network_address.packed[:2]


def _source_map(text: str) -> tuple[str, str]:
    source, equals, network = text.partition("=")
    if not equals:
        raise ValueError(
            f"{text!r} is not a mapping: write PREFIX=NETWORK, such as ::1/128=fdaa:0:18::/48"
        )
    ip_network(source)
    if not isinstance(target := ip_network(network), IPv6Network) or target.prefixlen != 48:
        raise ValueError(f"{network!r} is not a network: write its /48, such as fdaa:0:18::/48")
    return source, network


def _network(text: str) -> NetworkId:
    """Return the network id of a /48 in text."""
    return NetworkId(int.from_bytes(ip_network(text).network_address.packed[2:6], "big"))


def _admin(text: str) -> Endpoint | None:
    return None if text == "none" else Endpoint.parse(text)


def _token(text: str) -> str:
    """Check a token: it is part of a URL, and sixteen characters cannot be guessed."""
    if len(text) < 16 or not text.isascii() or not text.replace("-", "").replace("_", "").isalnum():
        raise ValueError("a token is at least 16 letters, digits, - and _: python3 -c "
                         "'import secrets; print(secrets.token_urlsafe())' prints one")  # fmt: skip
    return text


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # Python limits the digits that int() takes; 20 are too many for any setting.
        digits = text.isascii() and text.isdigit() and len(text) <= 20
        if not digits or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a number from {low} to {high}")
        return int(text)

    return parse


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def _udp_path(text: str) -> str:
    if text not in UDP_PATHS:
        raise ValueError(f"{text!r} is not a UDP path: {', '.join(UDP_PATHS)}")
    return text


def _one_of(name: str, values: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"{text!r} is no {name}: {', '.join(values)}")
        return text

    return parse


def _secret(text: str) -> bytes:
    if len(text) != 32 or any(c not in hexdigits for c in text):
        raise ValueError("a cookie secret is 32 hexadecimal digits")
    return bytes.fromhex(text)


def _nsid(text: str) -> bytes:
    if len(text.encode()) > 64:
        raise ValueError("an NSID is at most 64 octets")
    return text.encode()


def setting(
    default: Any,
    words: str,
    parse: Callable[[str], Any],
    metavar: str,
    *,
    many: bool = False,
    reload: bool = False,
) -> Any:
    """Return one row of the table.

    *default* is written as an operator would write it; *many* settings may be repeated. With
    *reload*, a running server takes a new value on SIGHUP; other settings need a restart.
    """
    return field(
        metadata={
            "default": default,
            "words": words,
            "parse": parse,
            "metavar": metavar,
            "many": many,
            "reload": reload,
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, parsed. The metadata of each field is its row of the table."""

    catalog: Path = setting(
        "/var/lib/internal-dns/catalog.db", "The catalog file (SQLite).", _path, "FILE"
    )
    listen: tuple[Endpoint, ...] = setting(
        ("[fdaa::3]:53",),
        "Address for DNS over UDP and TCP; [::]:PORT serves every local address.",
        Endpoint.parse,
        "ADDR:PORT",
        many=True,
    )
    upstream: tuple[Upstream | None, ...] = setting(
        (),
        "Servers for all other names: udp://, tcp://, tls:// or https://ADDR, or none. Default: "
        "those in resolv.conf.",
        lambda text: None if text == "none" else Upstream.parse(text),
        "URL",
        many=True,
        reload=True,
    )
    upstream_ca: Path | None = setting(
        None,
        "CA certificates (PEM) to verify encrypted upstreams. Default: the system's.",
        _path,
        "FILE",
    )
    upstream_sockets: str = setting(
        "auto",
        "Sockets for udp:// upstreams: fresh (one per query), pool (64 shared ones) or auto (a "
        "pool "
        "only for upstreams on this host).",
        _one_of("upstream_sockets", MODES),
        "MODE",
        reload=True,
    )
    outside_aliases: str = setting(
        "answer",
        "How to treat an external CNAME to an internal name: answer (as for the client's own "
        "query) "
        "or refuse.",
        _one_of("outside_aliases", OUTSIDE_ALIASES),
        "MODE",
        reload=True,
    )
    region: bytes | None = setting(
        None, "The region this server is in.", _region, "CODE", reload=True
    )
    map_source: tuple[tuple[str, str], ...] = setting(
        (),
        "Clients in PREFIX, outside the ULA prefix, belong to NETWORK: PREFIX=NETWORK.",
        _source_map,
        "PREFIX=NETWORK",
        many=True,
        reload=True,
    )
    admin: Endpoint | None = setting(
        "127.0.0.1:9153",
        "Address for /metrics, /healthz and /readyz, or none.",
        _admin,
        "ADDR:PORT",
    )
    console: Endpoint | None = setting(
        "none",
        "Address for the web console, such as 127.0.0.1:9154; needs the extra [console].",
        _admin,
        "ADDR:PORT",
    )
    console_token: str | None = setting(
        None,
        "Token for the web console. Default: a new one at each start, printed in the start line.",
        _token,
        "TEXT",
    )
    prefix: bytes = setting("fdaa::/16", "The ULA /16 of all 6PN addresses.", _prefix, "PREFIX")
    udp_limit: int = setting(
        "8192",
        "Largest UDP reply in octets, if the client accepts it.",
        _number(512, 65_507),
        "N",
        reload=True,
    )
    answer_octets: int = setting(
        "268435456",
        "Largest size of the answer table in octets: replies that are repeated without deciding them "
        "again. A reply takes about 300.",
        _number(1 << 20, 1 << 40),
        "N",
    )
    hot_list: bool = setting(
        "true",
        "Whether to write the names that were queried lately to the state directory, for the next "
        "process: true or false. It needs $STATE_DIRECTORY, which systemd sets.",
        _boolean,
        "BOOL",
    )
    udp_path: str = setting(
        "auto",
        "UDP implementation: native, python, or auto (native if it was built at installation).",
        _udp_path,
        "PATH",
    )
    workers: int = setting(
        "1",
        "Threads of the native UDP path. Every network is served by all of them.",
        _number(1, 16),
        "N",
    )
    hidden_peers: tuple[str, ...] = setting(
        ("interactive-",),
        "Hide peers whose names start with START.",
        str,
        "START",
        many=True,
        reload=True,
    )
    nsid: bytes = setting(
        "",
        "Server identifier for the NSID option (RFC 5001).",
        _nsid,
        "TEXT",
        reload=True,
    )
    cookie_secret: bytes | None = setting(
        None,
        "Secret for DNS cookies, the same on all servers (RFC 9018). Default: a new one at each "
        "start.",
        _secret,
        "HEX",
        reload=True,
    )
    source: Source | None = setting(
        None,
        "Bucket to replicate the catalog from: nats:// or tls://HOST[,HOST…]/BUCKET?creds=FILE.",
        Source.parse,
        "URL",
    )
    host_name: str = setting(
        "", "Name of this host in the fleet. Default: the system's host name.", str, "NAME"
    )
    forward: Mapping[Labels, Rule] = setting(
        {},
        "Upstreams per suffix, in the file only: a table of suffix = [URL, …], or { upstreams = "
        "[URL, …], allow_prefix = true } if their answers may contain addresses of the prefix.",
        Upstream.parse,
        "TABLE",
        reload=True,
    )
    origin: Mapping[str, str] = field(default_factory=dict)

    def is_own(self, endpoint: Endpoint) -> bool:
        """Whether this server itself listens on *endpoint*. A wildcard includes loopback and every
        address of the prefix."""
        host = endpoint.host
        local = host.is_loopback or host.is_unspecified or host.packed.startswith(self.prefix)
        return any(
            own.port == endpoint.port
            and (
                own.host == host
                or host.is_unspecified
                or (own.wildcard and host.version == 6 and local)
            )
            for own in self.listen
        )

    @property
    def catalog_rules(self) -> CatalogRules:
        """The rules by which the catalog is read."""
        return CatalogRules(self.prefix, self.hidden_peers)

    @property
    def maps(self) -> tuple[SourceMap, ...]:
        """`map_source` as the core takes it."""
        return tuple(
            SourceMap.of(ip_network(source), _network(network))
            for source, network in self.map_source
        )


def table() -> tuple[Field[Any], ...]:
    """Return the rows of the table of settings."""
    return tuple(f for f in fields(Settings) if f.name != "origin")


def shown(name: str, value: Any) -> Any:
    """Return a parsed value as an operator would write it: text, a number, a list, or the table
    `forward`."""
    match name:
        case "forward":
            return {
                b".".join(suffix).decode("utf-8", "replace"): _shown_rule(rule)
                for suffix, rule in value.items()
            }
        case "map_source":
            return [f"{source}={network}" for source, network in value]
        case "prefix":
            return f"{IPv6Network((value + bytes(14), 16))}"
        case secret if secret in SECRETS:
            return "set, not shown" if value else None
        case "admin" | "console":
            return str(value or "none")
        case "source":
            return value and value.without_secrets()
    match value:
        case tuple():
            return [str(one or "none") for one in value]
        case bytes():
            return value.decode()
        case int() | None:
            return value
    return str(value)


def _shown_rule(rule: Rule) -> list[str] | dict[str, Any]:
    urls = list(map(str, rule.upstreams))
    return {"upstreams": urls, "allow_prefix": True} if rule.allow_prefix else urls


def find_misspelled(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return a line for each environment variable that looks like a setting and is none.

    This is not an error: it may be a setting of a newer release.
    """
    known = {ENVIRONMENT + row.name.upper() for row in table()} | NOT_SETTINGS
    misspelled = []
    for variable in sorted(environment):
        if variable.startswith(ENVIRONMENT) and variable not in known:
            near = get_close_matches(
                variable.removeprefix(ENVIRONMENT), [k.removeprefix(ENVIRONMENT) for k in known]
            )
            hint = f", did you mean {ENVIRONMENT}{near[0]}?" if near else ""
            misspelled.append(f"{variable} is set but is not a setting{hint}")
    return misspelled


def load_setting(
    name: str,
    flags: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
    file: Path | None = None,
) -> tuple[Any, str]:
    """Return the value of one setting and its origin, whatever is wrong with the others.

    Raises ConfigurationError when its own value is faulty, or the file that may have it cannot be
    read.
    """
    (row,) = (row for row in table() if row.name == name)
    faults: list[str] = []
    raw, where = _raw(row, flags, environment, _toml_of(file, faults), file)
    if where != "default":
        faults = []  # an unreadable file does not matter
    value = _parse(row, raw, where, faults)
    if faults:
        raise ConfigurationError(faults)
    return value, where


def load_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ, file: Path | None = None
) -> Settings:
    """Return the effective settings. *flags* maps names to text, or tuples of text; None and ()
    mean: not given.

    Raises ConfigurationError with every fault.
    """
    faults: list[str] = []
    from_file = _read_file(file, faults)
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for row in table():
        raw, where = _raw(row, flags, environment, from_file, file)
        origin[row.name] = where
        values[row.name] = _parse(row, raw, where, faults)
    if not faults:
        settings = Settings(**values, origin=origin)
        faults = find_contradictions(settings)
        if not faults:
            return settings
    raise ConfigurationError(faults)


def _raw(
    row: Field[Any],
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    from_file: Mapping[str, Any],
    file: Path | None,
) -> tuple[Any, str]:
    """Return the value as written and its origin: a flag, a variable, the file, or else the
    default."""
    variable = ENVIRONMENT + row.name.upper()
    if flags.get(row.name) not in (None, ()):
        return flags[row.name], f"--{row.name.replace('_', '-')}"
    if environment.get(variable):
        text = environment[variable]
        return (tuple(text.replace(",", " ").split()) if row.metadata["many"] else text), variable
    if row.name in from_file:
        return from_file[row.name], f"{file or DEFAULT_FILE}, {row.name}"
    return row.metadata["default"], "default"


def _parse(row: Field[Any], raw: Any, where: str, faults: list[str]) -> Any:
    if row.name == "forward":
        return _forward(raw, where, faults)
    parse, many = row.metadata["parse"], row.metadata["many"]
    numeric = isinstance(row.metadata["default"], str) and row.metadata["default"].isdigit()
    values = []
    for value in raw if isinstance(raw, tuple | list) else (raw,):
        try:
            if isinstance(value, bool) and row.metadata["default"] in ("true", "false"):
                value = str(value).lower()  # noqa: PLW2901
            if isinstance(value, int) and not isinstance(value, bool):
                if abs(value) >= 1 << 63:
                    raise ValueError("the number is beyond 64 bits")
                value = str(value) if numeric else value  # noqa: PLW2901
            if value is not None and not isinstance(value, str | Path):
                shown_value = "the value" if row.name in SECRETS else repr(value)
                raise ValueError(f"{shown_value} is not text: write it in quotes")
            values.append(None if value is None else parse(str(value)))
        except ValueError as error:
            faults.append(f"{where}: {_short(error)}")
    if not many and isinstance(raw, tuple | list):
        faults.append(f"{where}: takes one value")
    return tuple(values) if many else (values or [None])[0]


def _forward(raw: Any, where: str, faults: list[str]) -> dict[Labels, Rule]:
    if not isinstance(raw, Mapping):
        faults.append(
            f'{where}: must be a table, such as [forward] "corp.example" = ["udp://192.0.2.1"]'
        )
        return {}
    rules = {}
    for suffix, value in raw.items():
        labels = tuple(suffix.lower().removesuffix(".").encode().split(b"."))
        written = value if isinstance(value, Mapping) else {"upstreams": value}
        urls, allow = written.get("upstreams"), written.get("allow_prefix", False)
        urls = [urls] if isinstance(urls, str) else urls
        try:
            if not all(0 < len(label) < 64 for label in labels):
                raise ValueError("is not a domain name")
            if (
                not isinstance(urls, list)
                or not urls
                or not all(isinstance(url, str) for url in urls)
            ):
                raise ValueError('needs upstreams, such as ["udp://192.0.2.1"]')
            if (strange := written.keys() - {"upstreams", "allow_prefix"}) or not isinstance(
                allow, bool
            ):
                raise ValueError(
                    f"takes only upstreams and allow_prefix (true or false){_named(strange)}"
                )
            rules[labels] = Rule(tuple(map(Upstream.parse, urls)), allow)
        except ValueError as error:
            faults.append(f"{where}.{_short(suffix) or '(empty)'}: {_short(error)}")
    return rules


def _named(keys: Set[str]) -> str:
    return f", not {', '.join(map(repr, sorted(keys)))}" if keys else ""


def _short(words: object) -> str:
    """Return a fault, or a part of one, in a bounded number of characters."""
    text = str(words)
    return (
        text
        if len(text) <= MAX_FAULT_LENGTH
        else f"{text[: MAX_FAULT_LENGTH // 2]} … {text[-MAX_FAULT_LENGTH // 2 :]}"
    )


def _toml_of(file: Path | None, faults: list[str]) -> dict[str, Any]:
    path = file or DEFAULT_FILE
    try:
        with path.open("rb") as opened:
            octets = opened.read(MAX_FILE_OCTETS + 1)
        if len(octets) > MAX_FILE_OCTETS:
            faults.append(f"{path}: cannot be used: it is larger than {MAX_FILE_OCTETS:,} octets")
            return {}
        return tomllib.loads(octets.decode())
    except OSError as error:
        if file is None and isinstance(error, FileNotFoundError):
            return {}
        faults.append(
            f"{path}: {error.strerror or error}. Name a file that can be read with --config"
        )
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{path}: is not TOML: {_short(error)}")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        faults.append(f"{path}: is not TOML: line {line} is not UTF-8")
    except ValueError:  # from int(), which limits the number of digits
        faults.append(f"{path}: cannot be used: a number has too many digits")
    except RecursionError:
        faults.append(f"{path}: cannot be used: tables or arrays are nested too deeply")
    return {}


def _read_file(file: Path | None, faults: list[str]) -> dict[str, Any]:
    path, values = file or DEFAULT_FILE, _toml_of(file, faults)
    known = [row.name for row in table()]
    for key in sorted(values.keys() - set(known)):
        near = get_close_matches(key[:MAX_FAULT_LENGTH], known, 1, 0.5)
        faults.append(
            f"{path}: unknown key {_short(repr(key))}"
            + (f", did you mean {near[0]!r}?" if near else "")
        )
    return values


def find_contradictions(settings: Settings) -> list[str]:
    """Return the contradictions between settings."""
    faults = []
    if None in settings.upstream and len(settings.upstream) > 1:
        faults.append(
            f"{settings.origin['upstream']}: none cannot be combined with other upstreams"
        )
    if not settings.listen:
        faults.append(f"{settings.origin['listen']}: name at least one address to listen on")
    if settings.forward:
        # Imported late: commands read the settings, and this loads most of the server.
        from internal_dns.core.resolve import our_zone
    for suffix in settings.forward:
        if our_zone(suffix, settings.prefix):
            name = b".".join(suffix).decode("utf-8", "replace")
            faults.append(
                f"{settings.origin['forward']}.{name}: this server answers it and never forwards it"
            )
    if None in settings.upstream and settings.forward:
        faults.append(
            f"{settings.origin['forward']}: has no effect while upstream is none; remove one"
        )
    for key, upstreams in (
        ("upstream", settings.upstream),
        *(("forward", rule.upstreams) for rule in settings.forward.values()),
    ):
        for upstream in upstreams:
            if upstream and settings.is_own(upstream.endpoint):
                faults.append(
                    f"{settings.origin[key]}: {upstream} is this server itself; name another"
                )
    for source, network in settings.map_source:
        if ip_network(source).version == 6 and ip_network(source).network_address.packed.startswith(
            settings.prefix
        ):
            faults.append(
                f"{settings.origin['map_source']}: {source} is in the prefix and cannot be mapped"
            )
        if not ip_network(network).network_address.packed.startswith(settings.prefix):
            faults.append(f"{settings.origin['map_source']}: {network} is not a /48 of the prefix")
        elif not _network(network):
            faults.append(
                f"{settings.origin['map_source']}: {network} is network 0, which is reserved"
            )
    return faults
