"""health and version: is the server ready, and what does it consist of."""

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
    help="The admin port to query.  [default: the setting `admin`]",
)
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="As `serve` would.")
@json_option
def health(admin: str | None, config: Path | None, as_json: bool) -> None:
    """Check whether a running server is ready, for the health check of a container.

    Exits 0 if it is ready, 1 if it is not, and 3 if it cannot be reached. The default port is the
    one that `serve` uses with the same environment and configuration file.
    """
    admin = _admin(config) if admin is None else admin
    host, _, port = admin.rpartition(":")
    try:
        # Not urllib: it would send a request for loopback to a proxy named in the environment.
        with closing(
            http.client.HTTPConnection(host.strip("[]"), int(port), timeout=3)
        ) as connection:
            connection.request("GET", "/readyz")
            with connection.getresponse() as response:
                ready = response.status == 200
                text = response.read(4096).decode("utf-8", "replace").strip()
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise OperatorError(
            f"cannot get http://{admin}/readyz",
            why,
            "Check that the server is running, with this --admin",
            UNREACHABLE,
        ) from error
    if as_json:
        print_json({"ready": ready, "says": text})
    else:
        click.echo(text)
    raise SystemExit(0 if ready else FINDING)


def _admin(config: Path | None) -> str:
    """Return the admin port that `serve` uses. Faults in other settings do not matter here."""
    from internal_dns.config import ConfigurationError, load_setting

    try:
        admin, origin = load_setting("admin", {}, file=config)
    except ConfigurationError as error:
        raise OperatorError(
            "the setting `admin` is invalid",
            "\n       ".join(error.faults),
            "Correct it, or name the port with --admin",
            CONFIGURATION,
        ) from error
    if admin is None:
        raise OperatorError(
            "the server has no admin port",
            f"the setting `admin` is none ({origin})",
            "Set it, or check over DNS: internal-dns dig --server ADDR:PORT _dns.internal",
            CONFIGURATION,
        ) from None
    return str(admin)


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the versions of this program and of its components."""
    from internal_dns import __version__
    from internal_dns.transport import native

    versions = {
        "internal-dns": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "udp path": "python" if native.MISSING else "native",
    }
    if as_json:
        print_json(versions)
    else:
        click.echo("\n".join(f"{name:13}{value}" for name, value in versions.items()))
