"""Read machines or peers from a CSV file with a header.

    machines   id, app, address            needed (app: or --app)
               network                     name, or number or /48 of the address's network
               region, group, state        state: `started` where none is given
               ready                       0, f, false, n or no: not ready
               metadata.<key>              any number of them
    peers      name, address               needed
               network, region

The delimiter is the one of comma, semicolon, tab and bar that gives the most known columns, or the
one in a first line `sep=;`. Quotes, CRLF, a byte order mark and empty trailing columns are
accepted, as spreadsheets write them. A table with `name` and `address` but no `id` is one of peers.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from io import StringIO
from ipaddress import IPv6Network
from typing import Final, Literal

from internal_dns.sources import Draft, Imported, Options, SourceError, decode_text
from internal_dns.store.rows import shown

WHAT: Final = "CSV of machines or peers"
NEEDED: Final = {"machines": ("id", "app", "address"), "peers": ("name", "address")}
READ: Final = {
    "machines": ("network", "region", "group", "state", "ready"),
    "peers": ("network", "region"),
}
NO: Final = ("0", "f", "false", "n", "no")
METADATA: Final = "metadata."
DELIMITERS: Final = ",;\t|"
_SEPARATOR: Final = re.compile(r"sep=([^\w\r\n\" ])\r?\n", re.IGNORECASE)  # Excel's own first line

Record = dict[str, str]


def read(
    source: str | bytes,
    options: Options | None = None,
    *,
    kind: Literal["machines", "peers"] | None = None,
    advice: bool = True,
) -> Imported:
    """Return the machines or peers of a table; without *kind*, its header decides.

    Raises SourceError, naming the lines, for a table with broken lines.
    """
    draft = Draft(options or Options())
    text = decode_text(source, WHAT)
    start = 0
    if separator := _SEPARATOR.match(text):
        start, delimiter = 1, separator[1]
        text = text[separator.end() :]
    else:
        delimiter = _delimiter(text)
    rows = _rows(text, delimiter, start)
    _, header = next(rows, (1, []))
    columns = [_column(cell) for cell in header]
    while columns and not columns[-1]:
        columns.pop()
    if kind is None:
        kind = _kind(draft, columns)
    _check_columns(draft, columns, kind, start + 1)
    for line, record in _records(columns, rows):
        address, subject = record["address"], f"line {line}"
        if not _network_fits(draft, record.get("network", ""), address, subject):
            continue
        if kind == "peers":
            draft.add_peer(record["name"], address, region=record.get("region", ""))
            continue
        state = record.get("state", "")
        if not state:
            draft.note(
                "state started assumed, because none is given", shown(record["id"]) or subject
            )
        draft.add_machine(
            record["id"],
            record.get("app", ""),
            address,
            region=record.get("region", ""),
            group=record.get("group", ""),
            state=state or "started",
            unready="the table says so" if record.get("ready", "").lower() in NO else "",
            metadata={
                c.removeprefix(METADATA): v
                for c, v in record.items()
                if c.startswith(METADATA) and v
            },
        )
    return draft.finish(advice=advice)


def _delimiter(text: str) -> str:
    """Return the delimiter that gives the most known columns; a quoted cell may contain any of
    them."""
    known = {name for table in (NEEDED, READ) for names in table.values() for name in names}

    def count(delimiter: str) -> int:
        try:
            header = next(csv.reader(StringIO(text, newline=""), delimiter=delimiter), [])
        except csv.Error:
            return 0
        return sum(_column(cell) in known for cell in header)

    return max(DELIMITERS, key=count)


def _kind(draft: Draft, columns: list[str]) -> Literal["machines", "peers"]:
    """Return what a table holds when the caller does not say."""
    peers = {*NEEDED["peers"]} <= {*columns} and not {"id", "app"} & {*columns}
    if not peers or draft.options.app:
        return "machines"
    draft.note("read as peers, because the header has `name` and no `id`")
    return "peers"


def _rows(text: str, delimiter: str, start: int) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not empty, with the number of its last line. Raises SourceError."""
    rows = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in rows:
            if any(row):
                yield start + rows.line_num, row
    except csv.Error as error:
        why = f"line {start + rows.line_num}: {error}"
        raise SourceError(
            f"no {WHAT}", why, "Give the whole file, with its quotes closed"
        ) from error


def _records(
    columns: list[str], rows: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, Record]]:
    """Yield line number and cells by column. Raises SourceError for a row of another length, apart
    from empty trailing cells."""
    broken = []
    for line, row in rows:
        if len(row) >= len(columns) and not any(row[len(columns) :]):
            cells = row[: len(columns)]
            yield (
                line,
                {name: cell.strip() for name, cell in zip(columns, cells, strict=True) if name},
            )
        else:
            broken.append(f"line {line} has {len(row)} fields")
    if broken:
        more = f" and {len(broken) - 10:,} more" if len(broken) > 10 else ""
        why = f"{', '.join(broken[:10])}{more}; the header has {len(columns)}"
        raise SourceError(f"no {WHAT}", why, "Give every line one field per column, empty ones too")


def _column(cell: str) -> str:
    """Return a column's name: lower-cased, but for a metadata key."""
    name = cell.strip()
    return METADATA + name[len(METADATA) :] if name.lower().startswith(METADATA) else name.lower()


def _check_columns(draft: Draft, columns: list[str], kind: str, line: int) -> None:
    needed = [name for name in NEEDED[kind] if not (name == "app" and draft.options.app)]
    missing = [name for name in needed if name not in columns]
    if missing:
        why = f"line {line}, the header, lacks {', '.join(missing)}"
        raise SourceError(
            f"no {WHAT}", why, f"A header of {kind} is {','.join((*NEEDED[kind], *READ[kind]))}"
        )
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        why = f"line {line}, the header, has {', '.join(map(shown, twice))} twice"
        raise SourceError(f"no {WHAT}", why, "Name each column once")
    for name in columns:
        metadata = kind == "machines" and name.startswith(METADATA)
        if name not in (*NEEDED[kind], *READ[kind]) and not metadata:
            draft.note("columns not read", shown(name))


def _network_fits(draft: Draft, written: str, address: str, subject: str) -> bool:
    """Whether *written* fits the network of *address*; a new name is used as its name."""
    number = _number(written, draft.options.prefix)
    if not written:
        return True
    parsed = draft.parse_address(address, subject)
    if parsed is None:
        return False
    if number is None and (number := draft.numbers.get(written.lower())) is None:
        draft.name_network(parsed[0], written, subject)
    elif number != parsed[0]:
        draft.note(
            "left out, the address is in another network",
            f"{subject} ({shown(address)}, not {shown(written)})",
        )
        return False
    return True


def _number(written: str, prefix: bytes) -> int | None:
    """Return the network id in *written*, decimal or a /48; 0, which is reserved, for a /48 outside
    the prefix."""
    if written.isascii() and written.isdecimal():
        return int(written[:20])
    try:
        network = IPv6Network(written)
    except ValueError:
        return None
    if network.prefixlen != 48:
        return None
    octets = network.network_address.packed
    return int.from_bytes(octets[2:6], "big") if octets.startswith(prefix) else 0
