"""Access to a catalog: writes go through its server, or with --offline to the file itself.

Reads open the file read-only. They work beside any server, and on files that another engine
maintains.
"""

from __future__ import annotations

import json
import shlex
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from internal_dns.cli.common import CONFIGURATION, FINDING, UNREACHABLE, USAGE, settings
from internal_dns.errors import OperatorError

F = TypeVar("F", bound=Callable[..., Any])


def write_options(command: F) -> F:
    """Add the options of every command that writes."""
    command = click.option(
        "--wait", is_flag=True, help="Return once the server's answers reflect the change."
    )(command)
    return click.option(
        "--offline", is_flag=True, help="Write the file directly, without a server, under its lock."
    )(command)


def perform(
    catalog: str, request: dict[str, Any], *, offline: bool, wait: bool = False
) -> dict[str, Any]:
    """Perform an operation, through the server or offline, and return its reply.

    Raises OperatorError.
    """
    return (
        _perform_offline(Path(catalog), request)
        if offline
        else _perform_online(Path(catalog), request | {"wait": wait})
    )


def _perform_offline(catalog: Path, request: dict[str, Any]) -> dict[str, Any]:
    from internal_dns.store.json_rows import BadRequest
    from internal_dns.store.operations import perform as performed
    from internal_dns.store.sqlite import UnusableCatalog
    from internal_dns.store.writer import NotOurs, RejectedChange, Writer

    as_served = settings()
    try:
        with Writer(catalog, as_served.catalog_rules) as writer:
            return performed(request, writer)
    except FileNotFoundError as error:
        raise _missing(catalog) from error
    except NotOurs as error:
        raise OperatorError(
            f"cannot write {catalog}", str(error), error.do or _NOT_OURS, USAGE
        ) from error
    except RejectedChange as error:
        raise _rejected(error.faults) from error
    except (BadRequest, UnusableCatalog, sqlite3.Error, OSError) as error:
        raise OperatorError(
            f"cannot write {catalog}",
            str(error),
            "Nothing was changed; correct the cause and try again",
            CONFIGURATION,
        ) from error


_NOT_OURS = (
    "Stop that process, omit --offline to write through it, or write with the engine that "
    "maintains the file"
)


def _perform_online(catalog: Path, request: dict[str, Any]) -> dict[str, Any]:
    with connected(catalog) as server:
        server.sendall(json.dumps(request).encode() + b"\n")
        line = server.makefile("rb").readline()
    if not line:
        raise OperatorError(
            "the server did not answer",
            "it closed the connection",
            "See its log, and check whether the change was made before you try again",
            UNREACHABLE,
        )
    reply: dict[str, Any] = json.loads(line)
    faults = reply.get("faults", [])
    match reply.get("error"):
        case None:
            return reply
        case "refused":
            raise _rejected(faults)
        case "not ours":
            raise OperatorError(
                f"cannot write {catalog}", ", ".join(faults), reply.get("do") or _NOT_OURS, USAGE
            )
        case error:
            raise OperatorError(
                f"cannot write {catalog}",
                f"{error}: {', '.join(faults)}",
                "Nothing was changed; correct the cause and try again",
                CONFIGURATION,
            )


@contextmanager
def connected(catalog: Path, *, offline: bool = True) -> Iterator[socket.socket]:
    """Connect to the server of *catalog*. Raises OperatorError.

    *offline* says that the command has the option --offline, which the error then suggests.
    """
    from internal_dns.net import socket_path

    path = socket_path(catalog)
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(str(path))
        except OSError as error:
            do = f"Start one: internal-dns serve --catalog {shlex.quote(str(catalog))}"
            do += "; or write the file directly with --offline" * offline
            raise OperatorError(
                f"cannot reach a server at {path}", error.strerror or str(error), do, UNREACHABLE
            ) from error
        yield server


def visibility(reply: dict[str, Any]) -> str:
    """Return whether answers reflect a change, as text; empty without --wait."""
    if "visible" not in reply:
        return ""
    return ", visible" if reply["visible"] else ", but not visible yet"


def read_rows(
    catalog: str, table: str, where: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of *table* that match *where*. Raises OperatorError."""
    from internal_dns.store.json_rows import read_rows as rows

    with opened(catalog) as connection:
        return rows(connection, table, where or {})


@contextmanager
def opened(catalog: str) -> Iterator[sqlite3.Connection]:
    """Open the file read-only. Raises OperatorError."""
    from internal_dns.store.sqlite import UnusableCatalog, check_schema, connect

    try:
        connection = connect(catalog)
    except FileNotFoundError as error:
        raise _missing(Path(catalog)) from error
    except UnusableCatalog as error:
        raise OperatorError(
            f"cannot use catalog {catalog}",
            str(error),
            "Name another file with --catalog",
            CONFIGURATION,
        ) from error
    try:
        check_schema(connection)
        yield connection
    except (UnicodeEncodeError, OverflowError) as error:
        raise click.UsageError(f"a catalog cannot hold an argument: {error}") from error
    except (UnusableCatalog, sqlite3.Error) as error:
        raise OperatorError(
            f"cannot use catalog {catalog}",
            str(error),
            "Name another file with --catalog",
            CONFIGURATION,
        ) from error
    finally:
        connection.close()


def _missing(catalog: Path) -> OperatorError:
    do = f"Name another with --catalog, or create it: internal-dns init {shlex.quote(str(catalog))}"
    return OperatorError(
        f"cannot use catalog {catalog}", "there is no such file", do, CONFIGURATION
    )


def _rejected(faults: list[str]) -> OperatorError:
    why = "\n".join(faults)
    return OperatorError(
        "the change was rejected; nothing was written", why, "Correct it and try again", FINDING
    )
