"""health and version: the state of a running server."""

from __future__ import annotations

import http.client
import platform
import sqlite3
from contextlib import closing

import click

from internal_dns.cli.words import FINDING, UNREACHABLE, Told, json_option, print_json


@click.command()
@click.option(
    "--admin", default="127.0.0.1:9153", show_default=True, metavar="ADDR:PORT", help="The admin port to ask."
)
@json_option
def health(admin: str, as_json: bool) -> None:
    """Exit 0 when the server is ready, 1 when it is not, 3 when it cannot be reached. For a container's healthcheck."""
    host, _, port = admin.rpartition(":")
    try:
        # Not urllib: it would ask a proxy of the environment for our own loopback address.
        with closing(http.client.HTTPConnection(host.strip("[]"), int(port), timeout=3)) as connection:
            connection.request("GET", "/readyz")
            with connection.getresponse() as answer:
                ready, words = answer.status == 200, answer.read(4096).decode("utf-8", "replace").strip()
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        raise Told(f"cannot ask http://{admin}/readyz", why, "Is it running, and with this --admin?",
                   UNREACHABLE) from error  # fmt: skip
    if as_json:
        print_json({"ready": ready, "says": words})
    else:
        click.echo(words)
    raise SystemExit(0 if ready else FINDING)


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
