"""The operations that the command line requests: one function each, JSON in and JSON out.

The running server performs them for any client of its UNIX socket (admin/api.py); `--offline`
performs the same ones without a server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from internal_dns.store import owned
from internal_dns.store.json_rows import BadRequest, read_rows
from internal_dns.store.schema import NAME, TABLES
from internal_dns.store.writer import RejectedChange, Writer

Request = Mapping[str, Any]
Reply = dict[str, Any]

MAX_LISTED: Final = 1_000  # changes and answers that a reply lists
MAX_FAULTS_LISTED: Final = 20


def perform(request: Request, writer: Writer) -> Reply:
    """Perform *request* and return the reply. Raises BadRequest, RejectedChange, sqlite3.Error."""
    operation = OPERATIONS.get(str(request.get("op")))
    if operation is None:
        raise BadRequest(f"there is no operation {request.get('op')!r}")
    writer.reopen_if_replaced()  # plan against the file that is served
    return operation(request, writer)


def write(request: Request, writer: Writer) -> Reply:
    """Put and delete rows in one transaction.

    Rows listed in `new` must not exist yet, rows listed in `old` must exist. Rows of a live source
    are written with `force` only.
    """
    puts = [(str(table), dict(row)) for table, row in request.get("puts", ())]
    deletes = [(str(table), dict(key)) for table, key in request.get("deletes", ())]
    for table, row in [*puts, *deletes]:
        if table not in TABLES or not row:
            raise BadRequest(f"{table!r} is not a table, or no row is given")
    for wanted, word in (("new", "already exists"), ("old", "does not exist")):
        for table, key in request.get(wanted, ()):
            if bool(read_rows(writer.connection, str(table), key)) == (wanted == "new"):
                raise RejectedChange([f"{' '.join(map(str, key.values()))} {word} (table {table})"])
    if not request.get("force"):
        _refuse_sourced(writer, [*puts, *deletes])
    written = writer.write(puts, deletes)
    return {"revision": written.revision, "rows": written.rows}


def _refuse_sourced(writer: Writer, rows: list[tuple[str, dict[str, Any]]]) -> None:
    """Raise RejectedChange when a change touches a row of a live source."""
    faults = [
        f"{noun} {' '.join(map(str, key))} belongs to the live source {owner}, which would undo "
        "the change: make it there, or write with --force"
        for noun, key, owner in owned.owners(writer.connection, rows)
    ]
    if faults:
        raise RejectedChange(_shorten(faults))


def apply(request: Request, writer: Writer) -> Reply:
    """Make the catalog match a declarative document.

    `dry_run` only reports what would change, answers included. `limit` bounds the listed changes
    and answers; their counts are always complete. `move` allows machines to change their network.
    """
    limit = request.get("limit", MAX_LISTED)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise BadRequest("`limit` must be a whole number, 0 or more")
    text = request.get("text")
    if not isinstance(text, str) or request.get("kind") not in (None, "toml", "json"):
        raise BadRequest("`text` must hold the document; `kind` must be toml, json or absent")
    # Late: a server starts without it, and the thread of the writer bears the time.
    from internal_dns.store import declare

    try:
        document = declare.parse(
            text,
            name=str(request.get("name", "document")),
            kind=request.get("kind"),
            rules=writer.rules,
        )
    except declare.InvalidDocument as error:
        raise RejectedChange([str(fault) for fault in error.faults]) from error
    if request.get("prune") and not document.rows()["networks"]:
        raise RejectedChange(
            ["the document names no network: with prune, every network would be deleted"]
        )
    plan = declare.plan(writer.connection, document, prune=bool(request.get("prune")))
    if plan.claims:
        do = "only `internal-dns follow` writes it; leave it out, or see `internal-dns source list`"
        raise RejectedChange(_shorten([f"{claim}: {do}" for claim in plan.claims]))
    if plan.moves and not request.get("move"):
        raise RejectedChange(_explain_moves(plan.moves))
    reply: Reply = {
        "summary": plan.summary(),
        "lines": [str(change) for change in plan.changes[:limit]],
        "changes": len(plan.changes),
        "warnings": [*plan.warnings, *plan.notes],
    }
    if request.get("dry_run"):
        from internal_dns.store.preview import find_changed_answers

        preview = find_changed_answers(writer, plan.puts, plan.deletes, limit)
        reply["warnings"] += preview.notes
        return {**reply, "answers": preview.answers, "answers_changed": preview.count}
    written = writer.write(plan.puts, plan.deletes)
    return {**reply, "revision": written.revision, "rows": written.rows}


def _explain_moves(moves: list[str]) -> list[str]:
    """Return one line per machine that would move, and what to do."""
    do = "give it another id if it is a different machine, or allow the move with --move"
    return _shorten([f"{move}: {do}" for move in moves])


def _shorten(lines: list[str]) -> list[str]:
    more = len(lines) - MAX_FAULTS_LISTED
    return lines[:MAX_FAULTS_LISTED] + ([f"and {more:,} more"] if more > 0 else [])


def source_rows(request: Request, writer: Writer) -> Reply:
    """Return the rows of a live source, as `source apply` takes them."""
    return {"rows": owned.rows(writer.connection, _source(request))}


def source_apply(request: Request, writer: Writer) -> Reply:
    """Put whole objects of a live source, and delete keys of its rows.

    What cannot be written, or belongs to another, is left out: `faults` lists [key, why].
    """
    puts, deletes = request.get("puts", []), request.get("deletes", [])
    if not isinstance(puts, list) or not isinstance(deletes, list):
        raise BadRequest("`puts` and `deletes` must be lists")
    return owned.apply(writer, _source(request), puts, deletes)


def source_rm(request: Request, writer: Writer) -> Reply:
    """Delete all rows of a live source."""
    written = owned.remove(writer, _source(request))
    return {"revision": written.revision, "rows": written.rows}


def _source(request: Request) -> str:
    source = request.get("source")
    if not isinstance(source, str) or not re.fullmatch(NAME.pattern, source):
        raise BadRequest("`source` must be the name of a live source: letters, digits, - and _")
    return source


OPERATIONS: Final[Mapping[str, Callable[[Request, Writer], Reply]]] = {
    "write": write,
    "apply": apply,
    "source rows": source_rows,
    "source apply": source_apply,
    "source rm": source_rm,
}  # fmt: skip
