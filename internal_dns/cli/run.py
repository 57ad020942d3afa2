"""serve and dev: run the server."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from internal_dns.cli.common import CONFIGURATION
from internal_dns.cli.common import settings as effective
from internal_dns.cli.routes import is_local
from internal_dns.cli.servers import specific
from internal_dns.config import Settings, find_misspelled, load_settings, table
from internal_dns.errors import OperatorError
from internal_dns.net import Endpoint
from internal_dns.text import printable_text

if TYPE_CHECKING:
    from internal_dns.core.catalog import Catalog
    from internal_dns.server import Server

DEV_PORT: Final = 1053  # 5353 is multicast DNS
DEV_CATALOG: Final = Path("demo/catalog.db")
DEV_CONSOLE: Final = Endpoint.parse("127.0.0.1:9154")

_log = logging.getLogger("internal_dns")


def setting_options(
    command: Callable[..., Any], defaults: Mapping[str, str] = {}
) -> Callable[..., Any]:
    """Add one option per row of the table of settings. Help shows *defaults* instead of the
    table's."""
    for row in reversed(table()):
        if row.name == "forward":
            continue
        default = row.metadata["default"]
        shown = ", ".join(default) if isinstance(default, tuple) else default
        shown = defaults.get(row.name, shown)
        words = row.metadata["words"] + (f"  [default: {shown}]" if shown else "")
        command = click.option(
            f"--{row.name.replace('_', '-')}", row.name, metavar=row.metadata["metavar"],
            multiple=row.metadata["many"], help=words,
        )(command)  # fmt: skip
    return click.option(
        "--config", metavar="FILE", type=click.Path(path_type=Path), help="A TOML file of settings."
    )(command)


def dev_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `dev`, whose defaults need no root."""
    loopback = f"[::1]:{DEV_PORT}, 127.0.0.1:{DEV_PORT}"
    maps = "::1/128 and 127.0.0.0/8 to the network with the lowest id"
    console = f"{DEV_CONSOLE} if installed"
    defaults = {
        "catalog": str(DEV_CATALOG),
        "listen": loopback,
        "map_source": maps,
        "console": console,
    }
    return setting_options(command, defaults)


@click.command()
@setting_options
def serve(config: Path | None, **flags: Any) -> None:
    """Serve the catalog on the addresses of --listen until SIGTERM."""
    _serve(
        effective(flags, config),
        dev=False,
        ready=_print_ready_line,
        reread=lambda: load_settings(flags, file=config),
    )


@click.command()
@click.option(
    "--netns", is_flag=True, help="Serve fdaa::3 in a separate network namespace (needs root)."
)
@dev_options
def dev(netns: bool, config: Path | None, **flags: Any) -> None:
    """Serve the demo catalog on [::1]:1053 without root; any client can be imitated there with
    `dig --as NETWORK/REGION`."""
    if netns:
        from internal_dns.cli.netns import serve_in_namespace

        serve_in_namespace(flags, config)
        return
    settings = dev_settings(flags, config)
    network = _lowest_network(settings)
    if network and not settings.map_source:
        loopbacks = (("::1/128", network), ("127.0.0.0/8", network))
        settings = replace(settings, map_source=loopbacks)
    console = ""
    if settings.origin["console"] == "default":
        console = _console_problem()
        settings = replace(settings, console=None if console else DEV_CONSOLE)
    # No reload: here SIGHUP means that the terminal was closed.
    _serve(
        settings,
        dev=True,
        ready=lambda server: _print_dev_lines(server, network, console),
        reread=None,
    )


def dev_settings(flags: dict[str, Any], config: Path | None) -> Settings:
    """Return the settings of `dev`: its own defaults apply where flags, environment and file are
    silent."""
    origin = effective(flags, config).origin
    own = {name: value for name, value in flags.items() if value}
    if origin["catalog"] == "default":
        own["catalog"] = str(demo_catalog())
    if origin["listen"] == "default":
        own["listen"] = loopback_listeners()
    settings = effective(own, config)
    kept = {name: origin[name] for name in ("catalog", "listen")}
    return replace(settings, origin={**settings.origin, **kept})


def _console_problem() -> str:
    """Return why `dev` cannot start the console that it starts by default; empty if it can."""
    import socket
    from importlib.util import find_spec

    from internal_dns.transport.listen.sockets import bind

    if not all(map(find_spec, ("jinja2", "starlette", "uvicorn"))):
        return "none: run pip install '.[console]' in the checkout to install it"
    try:
        bind(DEV_CONSOLE, socket.SOCK_STREAM).close()
    except OSError as error:
        return f"none: {DEV_CONSOLE}: {error.strerror}; choose another with --console ADDR:PORT"
    return ""


class OneLineFormatter(logging.Formatter):
    """Formats a message as one printable line, whatever foreign text it contains."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable_text(super().formatMessage(record))


def _serve(
    settings: Settings,
    *,
    dev: bool,
    ready: Callable[[Server], None],
    reread: Callable[[], Settings] | None,
) -> None:
    # Imported late: faulty settings are reported without loading the server.
    from internal_dns.server import run

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for words in find_misspelled():
        _log.warning("%s", words)
    folder = settings.catalog.parent
    if not folder.is_dir():
        _log.warning(
            "catalog %s: the directory %s does not exist; internal names get SERVFAIL until the "
            "file exists. Create it: mkdir -p %s; internal-dns init %s",
            settings.catalog, folder, folder, settings.catalog,
        )  # fmt: skip
    try:
        run(settings, ready, dev=dev, reread=reread)
    except OperatorError as error:
        if dev and error.in_use:
            error.do += f"\nTo run a second server: {_command_on_free_port()}"
        raise


def _command_on_free_port() -> str:
    """Return a command that serves the demo on a port that is free now."""
    from internal_dns.transport.listen.sockets import bind_pair

    for port in range(DEV_PORT + 1, 0xFFFF):
        try:
            for sock in bind_pair(Endpoint.parse(loopback_listeners(port)[0])):
                sock.close()
        except OSError:
            continue
        return f"{_program()} dev --listen '{loopback_listeners(port)[0]}' --admin none"
    raise AssertionError("unreachable")


def _program() -> str:
    """Return the program's name as the user wrote it, for suggested commands."""
    program = (
        sys.argv[0]
        if "/" in sys.argv[0] and not sys.argv[0].endswith("__main__.py")
        else "internal-dns"
    )
    return program.removeprefix(os.getcwd() + "/")


def _print_ready_line(server: Server) -> None:
    for endpoint in not_local(server.endpoints()):
        # The address may be added later (FREEBIND), so this is only a warning.
        _log.warning(
            "listening on %s, but %s is not an address of this host, so no query can reach it. "
            "Add it: %s",
            endpoint, endpoint.host, _how_to_make_local(endpoint),
        )  # fmt: skip
    words = server.summary()
    click.echo(
        f"ready  {words['listen']} · {words['catalog']} · upstreams {words['upstreams']} · "
        f"{words['limits']} · "
        f"admin {words['admin']}" + (f" · console {words['console']}" if server.console else "")
    )
    sys.stdout.flush()


def not_local(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Return the endpoints whose address is not local to this host."""
    return [e for e in endpoints if not e.wildcard and not is_local(e.host)]


def _how_to_make_local(endpoint: Endpoint) -> str:
    if endpoint.host.version == 6:
        return f"ip -6 route add local {endpoint.host}/128 dev lo"
    return f"ip route add local {endpoint.host}/32 dev lo"


def _print_dev_lines(server: Server, network: str, console: str) -> None:
    words = server.summary()
    number = IPv6Address(network.partition("/")[0]).packed[2:6] if network else b""
    name = ""
    if server.exchange.catalog and number:
        labels = {n.prefix[2:]: n.label.decode() for n in server.exchange.catalog.networks.values()}
        name = labels.get(number, "")
    first = server.endpoints()[0]
    port = first.port
    program = _program()
    click.echo(f"catalog  {words['catalog']}")
    click.echo(f"listen   {words['listen']} · upstreams {words['upstreams']}")
    click.echo(f"limits   {words['limits']} · admin {words['admin']}")
    click.echo(f"console  {words['console'] if server.console else console or 'none'}")
    if name:
        click.echo(f"dev      loopback belongs to network {name} ({network})")
        option = "" if port == DEV_PORT else f"--server {specific(first, b'')} "
        click.echo(f"try      {program} dig {option}--as {name}/iad web.internal")
        click.echo(f"         dig -p {port} @{server.settings.listen[0].host} aaaa web.internal")
    sys.stdout.flush()


def demo_catalog() -> Path:
    """Return the path of the demo catalog; create the file if there is none."""
    if not DEV_CATALOG.exists():
        from internal_dns.store.generate import create_catalog, demo_rows

        try:
            DEV_CATALOG.parent.mkdir(exist_ok=True)
            create_catalog(DEV_CATALOG, demo_rows())
        except OSError as error:
            raise OperatorError(
                f"cannot write {DEV_CATALOG}",
                str(error),
                "Change to a writable directory, or name a file with --catalog",
                CONFIGURATION,
            ) from error
    return DEV_CATALOG


def loopback_listeners(port: int = DEV_PORT) -> tuple[str, ...]:
    """Return [::1] and 127.0.0.1, whichever this host has, with *port*."""
    import socket

    listeners = []
    for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((address, 0))
        except OSError:
            continue
        listeners.append(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
    return tuple(listeners)


def _lowest_network(settings: Settings) -> str:
    """Return the /48 of the network with the lowest id, to which loopback belongs; else empty."""
    from internal_dns.store.sqlite import UnusableCatalog, load

    try:
        catalog: Catalog = load(settings.catalog, rules=settings.catalog_rules).catalog
    except FileNotFoundError:
        return ""
    except UnusableCatalog as error:
        raise OperatorError(
            f"cannot use catalog {settings.catalog}",
            str(error),
            "Name another file with --catalog, or create one: internal-dns init FILE --demo",
            CONFIGURATION,
        ) from error
    lowest = min(catalog.networks.values(), key=lambda n: n.id, default=None)
    return f"{IPv6Address(lowest.prefix + bytes(10))}/48" if lowest else ""
