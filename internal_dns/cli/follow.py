"""follow, source, address: live sources of machines and peers."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from internal_dns.cli import apis
from internal_dns.cli.backend import (
    connected,
    opened,
    perform,
    read_rows,
    visibility,
    write_options,
)
from internal_dns.cli.common import (
    CONFIGURATION,
    FINDING,
    UNREACHABLE,
    USAGE,
    catalog_option,
    json_option,
    print_json,
    settings,
)
from internal_dns.errors import OperatorError
from internal_dns.net import Endpoint
from internal_dns.store.schema import NAME
from internal_dns.text import printable_text

if TYPE_CHECKING:
    from internal_dns.live.http import Api
    from internal_dns.live.run import Runner
    from internal_dns.live.source import Live
    from internal_dns.live.target import Target
    from internal_dns.replicate.source import Source
    from internal_dns.sources import Options

DOCKER_SOCKETS: Final = {"docker": "/run/docker.sock", "podman": "/run/podman/podman.sock"}


class _Name(click.ParamType[str]):
    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(NAME.pattern, str(value)):
            self.fail(f"{value!r} is not 1 to 63 letters, digits, - and _", param, ctx)
        return str(value)


class _Address(click.ParamType[Endpoint]):
    name = "ADDR:PORT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Endpoint:
        if isinstance(value, Endpoint):
            return value
        try:
            return Endpoint.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Kind(click.Choice[str]):
    """The kind of a source, or the address of a database."""

    name = "SOURCE"

    def __init__(self) -> None:
        super().__init__([*KINDS, *apis.MAKERS])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if str(value).partition("://")[0] in ("postgres", "postgresql") and "://" in str(value):
            return str(value)
        return str(super().convert(value, param, ctx))


class _Target(click.ParamType["Source | Api"]):
    """The address of a bucket, or of a Corrosion agent."""

    name = "URL"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Source | Api:
        if str(value).startswith(f"{apis.CORROSION}://"):
            try:
                return apis.corrosion(str(value))
            except (OSError, ValueError) as error:
                self.fail(getattr(error, "strerror", None) or str(error), param, ctx)
        return _Url().convert(value, param, ctx)


class _Url(click.ParamType["Source"]):
    """The address of a bucket. What reads it is loaded when one is given."""

    name = "URL"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Source:
        from internal_dns.cli.bucket import URL

        return URL.convert(value, param, ctx)


# ── kinds of sources ──────────────────────────────────────────────────────────────────────────────

Make = Callable[[str, "Options"], "Live"]


def _docker(address: str, options: Options) -> Live:
    from internal_dns.live.docker import Docker

    return Docker(address, options)


def _directory(address: str, options: Options) -> Live:
    from internal_dns.live.directory import Directory

    return Directory(Path(address), settings().catalog_rules)


def _wireguard(address: str, options: Options) -> Live:
    from internal_dns.live.wireguard import WireGuard

    return WireGuard(options)


KINDS: Final[dict[str, Make]] = {
    "docker": _docker,
    "podman": _docker,
    "directory": _directory,
    "wireguard": _wireguard,
}


def _place(kind: str, address: str | None) -> str:
    """Return where the source is. Raises a usage error."""
    if kind in DOCKER_SOCKETS:
        found = address or os.environ.get("DOCKER_HOST") or DOCKER_SOCKETS[kind]
        if "://" in found and not found.startswith("unix://"):
            raise click.UsageError(f"{found}: only the UNIX socket of an engine can be followed")
        return found.removeprefix("unix://")
    if kind == "directory" and not address:
        raise click.UsageError("follow directory needs the PATH of a directory")
    if kind == "postgres" and not address:
        raise click.UsageError("follow postgres needs the ADDRESS postgres://[USER@]HOST/DATABASE")
    if kind == "wireguard" and address:
        raise click.UsageError("follow wireguard takes no ADDRESS: it runs `wg show all dump`")
    return address or ""


# ── follow ────────────────────────────────────────────────────────────────────────────────────────


@click.command()
@click.argument("kind", metavar="SOURCE", type=_Kind())
@click.argument("address", metavar="[ADDRESS]", required=False)
@click.option("--name", type=_Name(), help="What the source is called.  [default: SOURCE]")
@click.option(
    "--to",
    "bucket",
    type=_Target(),
    help="Write to this bucket, for all hosts that follow it; or to Corrosion: "
    "corrosion://HOST:8080/",
)
@apis.api_options
@click.option("--offline", is_flag=True, help="Write the file without a server, under its lock.")
@click.option("--app", "label", default="", help="The app of machines whose source names none.")
@click.option("--region", default="", help="The region of machines whose source names none.")
@click.option(
    "--allow-empty",
    is_flag=True,
    help="Delete at once even when all rows, or most of many, are gone.",
)
@click.option(
    "--metrics",
    type=_Address(),
    help="Serve /metrics, /healthz and /readyz of this source here. (The server of the catalog has "
    "them too.)",
)
@catalog_option
def follow(
    kind: str,
    address: str | None,
    name: str | None,
    bucket: Source | Api | None,
    offline: bool,
    label: str,
    region: str,
    allow_empty: bool,
    metrics: Endpoint | None,
    catalog: str,
    **of_apis: Any,
) -> None:
    """Keep machines and peers in step with what runs, until SIGTERM.

    SOURCE is docker or podman (ADDRESS: the engine's socket), directory (ADDRESS: its path),
    wireguard, postgres (ADDRESS: postgres://…, or that as SOURCE), consul, nomad or fly (ADDRESS:
    the URL of the API). Only rows of this source are written, over the socket of the server unless
    --offline or --to says otherwise.
    """
    if bucket is not None and offline:
        raise click.UsageError("--to writes a bucket, --offline a file: choose one")
    if "://" in kind:
        if address is not None:
            raise click.UsageError("the address is given twice")
        kind, address = "postgres", kind
    source = name or kind
    given = apis.ApiOptions(**of_apis)
    apis.check(kind, given)
    place = _place(kind, address)
    from internal_dns import sources

    as_served = settings()
    try:
        options = sources.Options(app=label, region=region, prefix=as_served.prefix)
    except sources.SourceError as error:
        raise OperatorError(error.what, error.why, error.do, USAGE) from error
    _log_to_stderr()
    maker = apis.MAKERS.get(kind)
    live = maker(place, options, given) if maker else KINDS[kind](place, options)
    _finish(_follow(live, source, kind, bucket, Path(catalog), offline, allow_empty, metrics))


def _log_to_stderr() -> None:
    import logging
    import sys

    from internal_dns.cli.run import OneLineFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Run *work*. Raises OperatorError."""
    from internal_dns.live.target import OtherFollower, TargetAway
    from internal_dns.replicate.bucket import Unavailable
    from internal_dns.store.sqlite import UnusableCatalog
    from internal_dns.store.writer import NotOurs

    try:
        asyncio.run(work)
    except OtherFollower as error:
        do = "Stop that one, or give this source another --name"
        raise OperatorError("the source is followed already", str(error), do, FINDING) from error
    except NotOurs as error:
        do = error.do or "Leave out --offline to write through the server that has the file"
        raise OperatorError("the catalog cannot be written", str(error), do, USAGE) from error
    except (Unavailable, TargetAway) as error:
        do = "Is the server running, and are address and credentials right?"
        raise OperatorError("the bucket cannot be used", str(error), do, UNREACHABLE) from error
    except (UnusableCatalog, sqlite3.Error, OSError) as error:
        do = "Name a usable file with --catalog"
        raise OperatorError("cannot follow", str(error), do, CONFIGURATION) from error


async def _follow(
    live: Live,
    source: str,
    kind: str,
    bucket: Source | Api | None,
    catalog: Path,
    offline: bool,
    allow_empty: bool,
    metrics: Endpoint | None,
) -> None:
    """Follow until SIGTERM or SIGINT. Raises what the targets raise when they are opened."""
    import signal

    from internal_dns.live.http import Api
    from internal_dns.live.loop import Loop
    from internal_dns.live.run import Runner
    from internal_dns.service.loop import ignore_signals
    from internal_dns.service.notify import ServiceManager

    host = socket.gethostname()
    loop = Loop(allow_empty=allow_empty, jitter=_jitter(f"{host} {source}"))
    async with AsyncExitStack() as stack:
        runner: Runner
        target: Target
        if isinstance(bucket, Api):
            from internal_dns.live.corrosion import LAST_WRITER, CorrosionTarget

            corrosion = CorrosionTarget(bucket, source)
            stack.enter_context(corrosion.only_here())
            click.echo(f"note  {LAST_WRITER}", err=True)
            target = corrosion
        elif bucket is not None:
            from internal_dns.live.bucket import BucketTarget
            from internal_dns.live.status import Status

            held = BucketTarget(bucket, settings().catalog_rules, source)
            await stack.enter_async_context(held.held(Status(source=source, kind=kind, host=host)))
            target = held
        else:
            target = await _local_target(stack, catalog, source, offline)
        runner = Runner(live, target, loop, source=source, kind=kind, host=host)
        if metrics is not None:
            await stack.enter_async_context(await _serve_metrics(runner, metrics))
        manager = ServiceManager()
        stop = asyncio.Event()
        for number in signal.SIGTERM, signal.SIGINT:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stack.callback(ignore_signals, signal.SIGTERM, signal.SIGINT)
        click.echo(f"following  {source} ({kind}) for {bucket or catalog}")
        manager.ready(f"following {source}")
        await _until(stop, runner.run())
        manager.stopping()
        await runner.stopped()


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run *work* until *stop*. Raises what it raises."""
    task = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        raise _first(error)


def _first(error: BaseException) -> BaseException:
    """Return the one exception inside of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _local_target(stack: AsyncExitStack, catalog: Path, source: str, offline: bool) -> Target:
    """Open the file's target, and hold the lock of the source."""
    from internal_dns.live.target import FileTarget, ServerTarget, only_follower

    if not catalog.exists():
        raise OperatorError(
            f"catalog {catalog}",
            "there is no such file",
            "Name the file with --catalog, or make one: internal-dns init",
            CONFIGURATION,
        )
    locks = stack.enter_context(ExitStack())
    locks.enter_context(only_follower(catalog, source))
    if offline:
        return await stack.enter_async_context(
            FileTarget.opened(catalog, settings().catalog_rules, source)
        )
    return ServerTarget(catalog, source)


async def _serve_metrics(runner: Runner, endpoint: Endpoint) -> asyncio.Server:
    from internal_dns.admin.http import AdminPort
    from internal_dns.live.status import registry

    def ready() -> tuple[bool, str]:
        status = runner.status()
        return status.up and not status.problem, status.problem or "ready"

    port = AdminPort(registry(lambda: [runner.status()]), ready)
    return await port.start(str(endpoint.host), endpoint.port)


def _jitter(text: str) -> float:
    """Return 0 to 1, the same for one source of one host."""
    from hashlib import sha256

    return int.from_bytes(sha256(text.encode()).digest()[:4], "big") / 0xFFFF_FFFF


# ── source ────────────────────────────────────────────────────────────────────────────────────────


@click.group()
def source() -> None:
    """Show and remove live sources, and the rows they own."""


@source.command(name="list")
@catalog_option
@json_option
def source_list(catalog: str, as_json: bool) -> None:
    """List the live sources of a catalog, and how they are."""
    from internal_dns.cli.objects.rows import show_table
    from internal_dns.store.owned import sources

    with opened(catalog) as connection:
        counts = sources(connection)
    reported = {status["source"]: status for status in statuses(catalog) or ()}
    rows = [
        {
            "source": name,
            "kind": reported.get(name, {}).get("kind", ""),
            "machines": counts.get(name, {}).get("machines", 0),
            "peers": counts.get(name, {}).get("peers", 0),
            "up": {True: "yes", False: "no", None: "unknown"}[reported.get(name, {}).get("up")],
            "age": _age(reported.get(name)),
            "held": reported.get(name, {}).get("held", ""),
            "faults": reported.get(name, {}).get("faults", ""),
            "problem": reported.get(name, {}).get("problem", ""),
        }
        for name in sorted({*counts, *reported})
    ]
    if as_json:
        print_json([{**row, "status": reported.get(str(row["source"]))} for row in rows])
    else:
        show_table(rows, [*rows[0]] if rows else ("source", "machines", "peers", "up"), False)


def _age(status: dict[str, Any] | None) -> str:
    if status is None or status["age_seconds"] < 0:
        return ""
    return f"{status['age_seconds']:.0f} s"


def statuses(catalog: str) -> list[dict[str, Any]] | None:
    """Return what followers reported to the server of *catalog*; None without a server."""
    import json

    try:
        with connected(Path(catalog)) as server:
            server.settimeout(5)
            server.sendall(b'{"op": "sources"}\n')
            reply = json.loads(server.makefile("rb").readline() or b"{}")
    except (OperatorError, OSError, ValueError):
        return None
    found: list[dict[str, Any]] = reply.get("sources", [])
    return found


@source.command(name="rm")
@click.argument("name", type=_Name())
@click.option("--to", "bucket", type=_Url(), help="Remove them from the catalog in this bucket.")
@write_options
@catalog_option
@json_option
def source_rm(
    name: str, bucket: Source | None, offline: bool, wait: bool, catalog: str, as_json: bool
) -> None:
    """Remove all rows of a live source whose follower has ended for good."""
    from internal_dns.live.target import OtherFollower, only_follower

    try:
        if bucket is not None:
            from internal_dns.cli.bucket import run_on_bucket
            from internal_dns.live.bucket import remove

            if offline or wait:
                raise click.UsageError(
                    "--offline and --wait apply to files, not to a bucket (--to)"
                )
            rules = settings().catalog_rules
            rows = run_on_bucket(remove(bucket, rules, name, followed=False))
            reply: dict[str, Any] = {"rows": rows}
        else:
            with only_follower(Path(catalog), name):
                reply = perform(
                    catalog, {"op": "source rm", "source": name}, offline=offline, wait=wait
                )
    except OtherFollower as error:
        do = "Stop it first, or it writes them again"
        raise OperatorError("nothing was removed", str(error), do, FINDING) from error
    except OSError as error:
        raise OperatorError(
            f"cannot lock {catalog}",
            str(error),
            "Name a usable file with --catalog",
            CONFIGURATION,
        ) from error
    if as_json:
        print_json(reply)
    else:
        rows = reply["rows"]
        click.echo(f"{rows} row{'s' * (rows != 1)} of {name} removed{visibility(reply)}")


# ── address ───────────────────────────────────────────────────────────────────────────────────────


@click.command()
@click.argument("network")
@click.option("--host", required=True, metavar="HOST", help="The 32 host bits, such as a7b:13.")
@click.option("--for", "name", required=True, metavar="NAME", help="What gets the address.")
@catalog_option
@json_option
def address(network: str, host: str, name: str, catalog: str, as_json: bool) -> None:
    """Print a free address for NAME on a host; the same name gets the same address.

    The /112 of the address is one that no other machine or peer has. Nothing is reserved: an
    address is taken once a row has it.
    """
    from ipaddress import IPv6Address

    from internal_dns.cli.objects.lookup import find_network
    from internal_dns.live.address import choose, spelled
    from internal_dns.store.declare.values import InvalidValue, host_id, octets

    number = int(find_network(catalog, network)["id"])
    if not name:
        raise click.UsageError("--for is empty: name what gets the address")
    try:
        bits = host_id(host)
    except InvalidValue as error:
        raise click.UsageError(f"--host: {error.args[0]}. {error.args[1]}") from error
    start = settings().prefix + number.to_bytes(4, "big")
    taken: dict[bytes, set[str]] = {}
    for table in ("machines", "peers", "flycasts"):
        for row in read_rows(catalog, table, {"network_id": number}):
            packed = octets(row["address"])
            if packed is not None:
                names = {str(row.get(c) or "").lower() for c in ("name", "id")} - {""}
                own = spelled(name) in names and table == "machines"
                taken.setdefault(packed[:14], set()).add(
                    name.lower() if own else f"{table} {names}"
                )
    found = str(IPv6Address(choose(start, bits, name, taken)))
    if as_json:
        print_json({"address": found})
    else:
        click.echo(printable_text(found))
