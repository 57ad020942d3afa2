"""health and version: the state of a running server."""

from __future__ import annotations

import http.client
import platform
import sqlite3
from contextlib import closing
from pathlib import Path

import click

from internal_dns.cli.common import CONFIGURATION, FINDING, UNREACHABLE, json_option, print_json
from internal_dns.errors import OperatorError


@click.command()
@click.option(
    "--admin",
    metavar="ADDR:PORT",
    help="The admin port to ask.  [default: the setting `admin` of serve]",
)
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="As `serve` would.")
@json_option
def health(admin: str | None, config: Path | None, as_json: bool) -> None:
    """Ask a running server whether it is ready: for a container's healthcheck.

    Exits 0 when it is, 1 when it is not, 3 when it cannot be reached. The port is that of `serve`
    with the same environment and configuration file.
    """
    admin = _admin(config) if admin is None else admin
    host, _, port = admin.rpartition(":")
    try:
        # Not urllib: it would ask a proxy of the environment for our own loopback address.
        with closing(
            http.client.HTTPConnection(host.strip("[]"), int(port), timeout=3)
        ) as connection:
            connection.request("GET", "/readyz")
            with connection.getresponse() as answer:
                ready, words = (
                    answer.status == 200,
                    answer.read(4096).decode("utf-8", "replace").strip(),
                )
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise OperatorError(f"cannot ask http://{admin}/readyz", why, "Is it running, and with this "
                                                             "--admin?",
                   UNREACHABLE) from error  # fmt: skip
    if as_json:
        print_json({"ready": ready, "says": words})
    else:
        click.echo(words)
    raise SystemExit(0 if ready else FINDING)


def _admin(config: Path | None) -> str:
    """The admin port that `serve` has; a fault in another setting is no reason to call a running
    server ill."""
    from internal_dns.config import ConfigurationError, load_setting

    try:
        admin, where = load_setting("admin", {}, file=config)
    except ConfigurationError as error:
        raise OperatorError("it is not known where to ask", "\n       ".join(error.faults), "Correct it, or "
                                                                                   "name the port "
                   "with --admin", CONFIGURATION) from error  # fmt: skip
    if admin is None:
        raise OperatorError("there is no admin port to ask", f"it is none, by {where}", "Give `serve` one, "
                                                                               "or ask by DNS: "
                   "internal-dns dig --server ADDR:PORT _dns.internal", CONFIGURATION) from None  # fmt: skip
    return str(admin)


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the versions of this program and of what it runs on."""
    from internal_dns import __version__
    from internal_dns.transport import native

    found = {
        "internal-dns": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "udp path": "python" if native.MISSING else "native",
    }
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(f"{name:13}{value}" for name, value in found.items()))
