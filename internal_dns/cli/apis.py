"""What `follow` needs for sources that are asked over the network: their options, and how each is
made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

import click

from internal_dns.cli.common import USAGE
from internal_dns.errors import OperatorError

if TYPE_CHECKING:
    from internal_dns.live.http import Api
    from internal_dns.live.source import Live
    from internal_dns.sources import Options

F = TypeVar("F", bound=Callable[..., Any])

CONSUL: Final = "http://127.0.0.1:8500"
NOMAD: Final = "http://127.0.0.1:4646"
CORROSION: Final = "corrosion"
CORROSION_PORT: Final = 8080
CORROSION_VARIABLE: Final = "CORROSION_TOKEN"
_EXAMPLE: Final = "corrosion://127.0.0.1:8080/?token_file=FILE"


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """The options of `follow` that only some kinds of sources have."""

    query: str | None = None
    channel: str = ""
    services: tuple[str, ...] = ()
    namespace: str = ""
    organization: str = ""
    apps: tuple[str, ...] = ()
    token_file: str | None = None
    ca: str | None = None


# Which kind each option is for; `token_file` and `ca` are of several.
_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "query": ("postgres",),
    "channel": ("postgres",),
    "services": ("consul",),
    "namespace": ("nomad",),
    "organization": ("fly",),
    "apps": ("fly",),
    "token_file": ("consul", "nomad", "fly"),
    "ca": ("consul", "nomad", "fly"),
}


_ASKED: Final = "consul, nomad, fly"
_OPTIONS: Final = (
    click.option("--query", metavar="FILE", help="postgres: a file with the query for the rows."),
    click.option(
        "--channel", default="", metavar="NAME", help="postgres: look at each NOTIFY of it."
    ),
    click.option(
        "--service", "services", multiple=True, metavar="NAME",
        help="consul: only this service; repeatable.",
    ),
    click.option("--namespace", default="", metavar="NAME", help="nomad: only this namespace."),
    click.option(
        "--org", "organization", default="", metavar="NAME",
        help="fly: the machines of this organization.",
    ),
    click.option(
        "--of-app", "apps", multiple=True, metavar="NAME",
        help="fly: the machines of this app; repeatable.",
    ),
    click.option(
        "--token-file", metavar="FILE",
        help=f"{_ASKED}: a file with the token, else CONSUL_HTTP_TOKEN, NOMAD_TOKEN, "
        "FLY_API_TOKEN.",
    ),
    click.option(
        "--ca", metavar="FILE", help=f"{_ASKED}: certificates to trust, not the system's."
    ),
)  # fmt: skip


def api_options(command: F) -> F:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check(kind: str, given: ApiOptions) -> None:
    """Raise a usage error for an option of another kind."""
    for name, kinds in _OF.items():
        if getattr(given, name) and kind not in kinds:
            flag = {"services": "service", "organization": "org", "apps": "of-app"}.get(name, name)
            raise click.UsageError(
                f"--{flag.replace('_', '-')} is of {', '.join(kinds)}, not of {kind}"
            )


# ── sources ───────────────────────────────────────────────────────────────────────────────────────


def postgres(address: str, options: Options, given: ApiOptions) -> Live:
    """Return the source. Raises a usage error, OperatorError."""
    from internal_dns.live.postgres import Postgres

    if given.query is None:
        raise click.UsageError("follow postgres needs --query FILE")
    try:
        query = Path(given.query).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise OperatorError(
            f"cannot read {given.query}", why, "Name a file with one query", USAGE
        ) from error
    try:
        return Postgres(address, query, options, channel=given.channel)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def consul(address: str, options: Options, given: ApiOptions) -> Live:
    """Return the source. Raises a usage error."""
    from internal_dns.live.consul import TOKEN, TOKEN_VARIABLE, Consul

    api = _api(address or CONSUL, given, TOKEN_VARIABLE, TOKEN)
    return Consul(api, options, given.services)


def nomad(address: str, options: Options, given: ApiOptions) -> Live:
    """Return the source. Raises a usage error."""
    from internal_dns.live.nomad import NAMESPACE, TOKEN, TOKEN_VARIABLE, Nomad

    api = _api(address or NOMAD, given, TOKEN_VARIABLE, TOKEN)
    return Nomad(api, options, given.namespace or NAMESPACE)


def fly(address: str, options: Options, given: ApiOptions) -> Live:
    """Return the source. Raises a usage error."""
    from internal_dns.live.fly import ADDRESS, TOKEN_VARIABLE, Fly

    if bool(given.organization) == bool(given.apps):
        raise click.UsageError("follow fly needs --org NAME or --of-app NAME, one of the two")
    api = _api(address or ADDRESS, given, TOKEN_VARIABLE, "Authorization", "Bearer ")
    return Fly(api, options, given.organization, given.apps)


def _api(address: str, given: ApiOptions, variable: str, header: str, before: str = "") -> Api:
    from internal_dns.live.http import Api, token_of

    try:
        token = token_of(given.token_file, variable)
        return Api(address, {header: f"{before}{token}"} if token else {}, given.ca)
    except (OSError, ValueError) as error:
        raise click.UsageError(getattr(error, "strerror", None) or str(error)) from error


MAKERS: Final[Mapping[str, Callable[[str, Options, ApiOptions], Live]]] = {
    "postgres": postgres,
    "consul": consul,
    "nomad": nomad,
    "fly": fly,
}


# ── Corrosion ─────────────────────────────────────────────────────────────────────────────────────


def corrosion(address: str) -> Api:
    """Return the API at `corrosion://HOST[:PORT]/[?token_file=FILE]`. Raises ValueError without a
    secret."""
    from internal_dns.live.http import Api, token_of

    try:
        parts = urlsplit(address)
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        port = parts.port or CORROSION_PORT
    except ValueError:
        raise ValueError(f"not an address such as {_EXAMPLE}") from None
    if not parts.hostname or parts.username is not None or parts.path.strip("/"):
        raise ValueError(f"not an address such as {_EXAMPLE}")
    if options.keys() - {"token_file"}:
        raise ValueError("the only option of a corrosion:// address is token_file")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    token = token_of(options.get("token_file"), CORROSION_VARIABLE)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Api(f"http://{host}:{port}", headers)
