"""How the command line reaches a catalog: through the server that has it, or with --offline by
itself.

Reads open the file read-only, so they work beside any server and on files that another engine
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

from internal_dns.cli.words import CONFIGURATION, FINDING, UNREACHABLE, USAGE, settings
from internal_dns.errors import OperatorError

F = TypeVar("F", bound=Callable[..., Any])


def write_options(command: F) -> F:
    """The options of every command that writes."""
    command = click.option(
        "--wait", is_flag=True, help="Return when the server answers from the change."
    )(command)
    return click.option(
        "--offline", is_flag=True, help="Write the file without a server, under its lock."
    )(command)


def perform(
    catalog: str, request: dict[str, Any], *, offline: bool, wait: bool = False
) -> dict[str, Any]:
    """Have an operation performed and return its reply. Raises OperatorError."""
    return (
        _by_itself(Path(catalog), request)
        if offline
        else _by_server(Path(catalog), request | {"wait": wait})
    )


def _by_itself(catalog: Path, request: dict[str, Any]) -> dict[str, Any]:
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
        raise _refused(error.faults) from error
    except (BadRequest, UnusableCatalog, sqlite3.Error, OSError) as error:
        raise OperatorError(
            f"cannot write {catalog}", str(error), "Nothing was changed", CONFIGURATION
        ) from error


_NOT_OURS = "Stop that process, leave out --offline to go through it, or write with the engine that maintains the file"


def _by_server(catalog: Path, request: dict[str, Any]) -> dict[str, Any]:
    with connected(catalog) as server:
        server.sendall(json.dumps(request).encode() + b"\n")
        line = server.makefile("rb").readline()
    if not line:
        why = "it closed the connection"
        raise OperatorError(
            "the server did not answer",
            why,
            "See its log; the change may have been made",
            UNREACHABLE,
        )
    reply: dict[str, Any] = json.loads(line)
    faults = reply.get("faults", [])
    match reply.get("error"):
        case None:
            return reply
        case "refused":
            raise _refused(faults)
        case "not ours":
            raise OperatorError(
                f"cannot write {catalog}", ", ".join(faults), reply.get("do") or _NOT_OURS, USAGE
            )
        case error:
            raise OperatorError(
                f"cannot write {catalog}",
                f"{error}: {', '.join(faults)}",
                "Nothing was changed",
                CONFIGURATION,
            )


@contextmanager
def connected(catalog: Path, *, offline: bool = True) -> Iterator[socket.socket]:
    """A connection to the server that has *catalog*. *offline*: the command could do without one.
    Raises OperatorError."""
    from internal_dns.net import socket_path

    path = socket_path(catalog)
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(str(path))
        except OSError as error:
            do = f"Start one: internal-dns serve --catalog {shlex.quote(str(catalog))}"
            do += "; or write the file by yourself with --offline" * offline
            raise OperatorError(
                f"no server at {path}", error.strerror or str(error), do, UNREACHABLE
            ) from error
        yield server


def visibility(reply: dict[str, Any]) -> str:
    """Say whether the server answers from a change, when that was waited for."""
    return (
        ""
        if "visible" not in reply
        else ", visible"
        if reply["visible"]
        else ", but not visible yet"
    )


def read_rows(
    catalog: str, table: str, where: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return rows of the file. Raises OperatorError."""
    from internal_dns.store.json_rows import read_rows as rows

    with opened(catalog) as connection:
        return rows(connection, table, where or {})


@contextmanager
def opened(catalog: str) -> Iterator[sqlite3.Connection]:
    """The file, read-only. Raises OperatorError."""
    from internal_dns.store.sqlite import UnusableCatalog, check_schema, connect

    try:
        connection = connect(catalog)
    except FileNotFoundError as error:
        raise _missing(Path(catalog)) from error
    except UnusableCatalog as error:
        raise OperatorError(
            f"catalog {catalog}", str(error), "Name a usable file with --catalog", CONFIGURATION
        ) from error
    try:
        check_schema(connection)
        yield connection
    except (UnicodeEncodeError, OverflowError) as error:
        raise click.UsageError(
            f"an argument is no text or number that a catalog can hold: {error}"
        ) from error
    except (UnusableCatalog, sqlite3.Error) as error:
        raise OperatorError(
            f"catalog {catalog}", str(error), "Name a usable file with --catalog", CONFIGURATION
        ) from error
    finally:
        connection.close()


def _missing(catalog: Path) -> OperatorError:
    do = f"Name the file with --catalog, or make one: internal-dns init {shlex.quote(str(catalog))}"
    return OperatorError(f"catalog {catalog}", "there is no such file", do, CONFIGURATION)


def _refused(faults: list[str]) -> OperatorError:
    why = "\n".join(faults)
    return OperatorError(
        "the change was refused; nothing was written", why, "Correct it and try again", FINDING
    )
