"""Plan what to write so that a file matches a document."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from internal_dns.store.declare.difference import Change, Difference
from internal_dns.store.declare.document import Document
from internal_dns.store.declare.file import (
    KEYS,
    OF_MACHINE,
    SOURCED,
    Row,
    cell_text,
    key_text,
    of_networks,
    select,
    select_in,
    set_aside,
    snapshot,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write so that the file matches the document.

    No row is both put and deleted, so either may come first; parents come first in `puts` and last
    in `deletes`. A put is a whole row without `updated_at`, inserted or replacing the row with its
    key. `moves` lists machines that would change their network: the same id in two networks more
    often means two machines than one that moved. `warnings` are those of the document that the file
    does not resolve, and others that need attention; `notes` list what cannot be written; `claims`
    list what the document names although a live source owns it, which is not in the plan.
    """

    puts: list[tuple[str, Row]]
    deletes: list[tuple[str, Row]]
    changes: list[Change]
    warnings: list[str]
    notes: list[str]
    moves: list[str] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not self.puts and not self.deletes

    @property
    def lines(self) -> list[str]:
        return list(map(str, self.changes))

    def summary(self) -> str:
        """Return how much changes, such as "2 machines added, 1 changed, 1 app removed"."""
        counts = Counter((change.kind, str(change.sign)) for change in self.changes)
        phrases = []
        for kind, (one, many) in _KINDS.items():
            noun = True
            for sign, verb in ("+", "added"), ("~", "changed"), ("-", "removed"):
                if count := counts[kind, sign]:
                    phrases.append(
                        f"{count:,} {(one if count == 1 else many) + ' ' if noun else ''}{verb}"
                    )
                    noun = False
        return ", ".join(phrases) or "nothing to change"


_KINDS: Final = {
    "network": ("network", "networks"),
    "app": ("app", "apps"),
    "machine": ("machine", "machines"),
    "peer": ("peer", "peers"),
    "flycast": ("flycast address", "flycast addresses"),
    "zone": ("zone", "zones"),
    "record": ("record", "records"),
    "organization": ("organization", "organizations"),
    "region": ("region", "regions"),
    "latency": ("latency pair", "latency pairs"),
    "host": ("host", "hosts"),
    "metadata": ("stray metadata row", "stray metadata rows"),
    "service": ("stray service row", "stray service rows"),
}


def plan(
    connection: sqlite3.Connection,
    document: Document,
    *,
    prune: bool = False,
    every_source: bool = False,
) -> Plan:
    """Return the difference between the file and *document*. Raises sqlite3.Error.

    *prune*: delete what the document does not name, except `meta`. Rows of live sources are not
    compared, and the networks and apps that hold such rows are not deleted. Addresses are compared by value
    and flags by truth. An app that has machines on both sides needs no row of its own. Once
    applied, the next plan is empty. *every_source*: compare the rows of live sources too, for
    people; such a plan is never applied.
    """
    wanted = document.rows()
    with snapshot(connection):
        present = (
            {table: select(connection, table) for table in KEYS}
            if prune
            else _touched(connection, wanted)
        )
    sourced = set_aside(present)
    if every_source:
        owners = _owners(sourced)
        for table in SOURCED:
            present[table] += [_without_source(row) for row in sourced[table]]
        difference = Difference(wanted, present, prune=prune, owners=owners)
        claims = []
    else:
        claims = _claims(wanted, sourced)
        difference = Difference(wanted, present, prune=prune, spared=_needed(sourced))
    difference.compute()
    known = set() if prune else {str(row["code"]).lower() for row in present["regions"]}
    settled = [warning for region, warning in document.unknown_regions.items() if region in known]
    warnings = [str(warning) for warning in document.warnings if warning not in settled]
    return Plan(
        difference.puts,
        difference.deletes[::-1],
        difference.changes(),
        warnings + difference.warnings(),
        difference.notes,
        difference.moves(),
        claims,
    )


def _claims(wanted: dict[str, list[Row]], sourced: Mapping[str, list[Row]]) -> list[str]:
    """Take the rows that live sources own out of *wanted*; return a line for each."""
    claims = []
    for table, noun in SOURCED.items():
        owners = {tuple(row[c] for c in KEYS[table]): row["source"] for row in sourced[table]}
        kept = []
        for row in wanted[table]:
            owner = owners.get(tuple(row[c] for c in KEYS[table]))
            if owner is None:
                kept.append(row)
            else:
                key = key_text(table, row)
                claims.append(f"{noun} {key} belongs to the live source {cell_text(owner)}")
        wanted[table] = kept
    if claims:
        machines = {row["id"] for row in wanted["machines"]}
        for table in OF_MACHINE:
            wanted[table] = [row for row in wanted[table] if row["machine_id"] in machines]
    return claims


def _owners(sourced: Mapping[str, list[Row]]) -> dict[tuple[Any, ...], str]:
    """Return the source of each row by table and key."""
    return {
        (table, *(row[c] for c in KEYS[table])): cell_text(row["source"])
        for table, rows in sourced.items()
        for row in rows
    }


def _without_source(row: Row) -> Row:
    return {column: cell for column, cell in row.items() if column != "source"}


def _needed(sourced: Mapping[str, list[Row]]) -> dict[str, set[tuple[Any, ...]]]:
    """Return the keys of the networks and apps that hold rows of live sources."""
    machines = sourced["machines"]
    rows = (*machines, *sourced["peers"])
    return {
        "networks": {(row["network_id"],) for row in rows},
        "apps": {(row["network_id"], row["app"]) for row in machines},
    }


def _touched(
    connection: sqlite3.Connection, wanted: Mapping[str, list[Row]]
) -> dict[str, list[Row]]:
    """Return the rows that a document can change without pruning; all networks and regions."""
    rows = of_networks(connection, [row["id"] for row in wanted["networks"]])
    for table in "networks", "organizations", "regions", "region_latency", "hosts":
        rows[table] = select(connection, table)
    here = {row["id"] for row in rows["machines"]}
    elsewhere = [row["id"] for row in wanted["machines"] if row["id"] not in here]
    rows["machines"] += select_in(connection, "machines", "id", elsewhere)
    for table in OF_MACHINE:
        rows[table] += select_in(connection, table, "machine_id", elsewhere)
    return rows
