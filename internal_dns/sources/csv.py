"""Machines or peers, from a CSV file with a header.

    machines   id, app, address            needed (app: or --app)
               network                     name, or number or /48 of the address's network
               region, group, state        state: `started` where none is given
               metadata.<key>              any number of them
    peers      name, address               needed
               network, region

Commas, or semicolons when the header has no comma; quotes, CRLF and a byte order mark are as
spreadsheets write them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO
from ipaddress import IPv6Network
from typing import Final, Literal

from internal_dns.sources import Draft, Imported, Options, SourceError, text_of
from internal_dns.store.rows import shown

WHAT: Final = "CSV of machines or peers"
NEEDED: Final = {"machines": ("id", "app", "address"), "peers": ("name", "address")}
READ: Final = {"machines": ("network", "region", "group", "state"), "peers": ("network", "region")}
METADATA: Final = "metadata."

Record = dict[str, str]


def read(
    source: str | bytes,
    options: Options | None = None,
    *,
    kind: Literal["machines", "peers"] = "machines",
) -> Imported:
    """Return the machines or peers of a table. Raises SourceError, naming the lines, for a table
    that is not whole."""
    draft = Draft(options or Options())
    for line, record in _records(draft, text_of(source, WHAT), kind):
        address, who = record["address"], f"line {line}"
        if not _network_fits(draft, record.get("network", ""), address, who):
            continue
        if kind == "peers":
            draft.peer(record["name"], address, region=record.get("region", ""))
            continue
        state = record.get("state", "")
        if not state:
            draft.note("state started guessed, because none is given", shown(record["id"]) or who)
        draft.machine(
            record["id"],
            record.get("app", ""),
            address,
            region=record.get("region", ""),
            group=record.get("group", ""),
            state=state or "started",
            metadata={
                c.removeprefix(METADATA): v
                for c, v in record.items()
                if c.startswith(METADATA) and v
            },
        )
    return draft.done()


def _records(draft: Draft, text: str, kind: str) -> Iterator[tuple[int, Record]]:
    """Yield line number and cells by column."""
    first = text.partition("\n")[0]
    rows = csv.reader(StringIO(text, newline=""), delimiter=";" if ";" in first and "," not in first else ",",
                      strict=True)  # fmt: skip
    try:
        columns = [_column(cell) for cell in next(rows, [])]
        _check_columns(draft, columns, kind)
        broken = []
        for row in rows:
            if len(row) == len(columns):
                yield (
                    rows.line_num,
                    {column: cell.strip() for column, cell in zip(columns, row, strict=True)},
                )
            elif row:
                broken.append(f"line {rows.line_num} has {len(row)} fields")
    except csv.Error as error:
        why = f"line {rows.line_num}: {error}"
        raise SourceError(
            f"no {WHAT}", why, "Give the whole file, with its quotes closed"
        ) from error
    if broken:
        more = f" and {len(broken) - 10:,} more" if len(broken) > 10 else ""
        why = f"{', '.join(broken[:10])}{more}; the header has {len(columns)}"
        raise SourceError(
            f"no {WHAT}", why, "Give every line a field for each column, empty ones too"
        )


def _column(cell: str) -> str:
    """Return a column's name: lower-cased, but for a metadata key."""
    name = cell.strip()
    return METADATA + name[len(METADATA) :] if name.lower().startswith(METADATA) else name.lower()


def _check_columns(draft: Draft, columns: list[str], kind: str) -> None:
    needed = [name for name in NEEDED[kind] if not (name == "app" and draft.options.app)]
    missing = [name for name in needed if name not in columns]
    if missing:
        why = f"line 1, the header, has no column {' and no '.join(missing)}"
        raise SourceError(
            f"no {WHAT}", why, f"A header of {kind} is {','.join((*NEEDED[kind], *READ[kind]))}"
        )
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        why = f"line 1, the header, has {', '.join(map(shown, twice))} twice"
        raise SourceError(f"no {WHAT}", why, "Name each column once")
    for name in columns:
        metadata = kind == "machines" and name.startswith(METADATA)
        if name not in (*NEEDED[kind], *READ[kind]) and not metadata:
            draft.note("columns not read", shown(name))


def _network_fits(draft: Draft, written: str, address: str, who: str) -> bool:
    """Whether *written* may be the network of *address*; a name is what it will be called."""
    number = _number(written, draft.options.prefix)
    if not written:
        return True
    placed = draft.place(address, who)
    if placed is None:
        return False
    if number is None and (number := draft.numbers.get(written.lower())) is None:
        draft.call_network(placed[0], written, who)
    elif number != placed[0]:
        draft.note(
            "left out, the address is of another network",
            f"{who} ({shown(address)}, not {shown(written)})",
        )
        return False
    return True


def _number(written: str, prefix: bytes) -> int | None:
    """Return the id that *written* is, decimal or a /48: 0, which no network has, for one of
    another prefix."""
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
