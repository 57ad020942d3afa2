"""A document that was read, and the faults of one that cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from internal_dns.store.declare.file import COLUMNS, KEYS, Row


@dataclass(frozen=True, slots=True)
class DocumentFault:
    """What is wrong where, and what to do. Lines count from 1."""

    file: str
    line: int
    where: str
    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.where + ': ' if self.where else ''}{self.what}. {self.do}"


class InvalidDocument(Exception):
    """A document that cannot be used; `faults` has all that is wrong with it, by line."""

    def __init__(self, faults: list[DocumentFault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Document:
    """A document without faults. `unknown_regions`: the warnings that a catalog's own regions may
    settle."""

    name: str
    tables: Mapping[str, Sequence[Row]]
    warnings: tuple[DocumentFault, ...] = ()
    unknown_regions: Mapping[str, DocumentFault] = field(default_factory=dict)

    def rows(self) -> dict[str, list[Row]]:
        """Return the rows of every table in schema.sql's columns without `updated_at`, sorted by
        primary key."""
        rows = {}
        for table, key in KEYS.items():
            of_table = [
                {column: row[column] for column in COLUMNS[table]}
                for row in self.tables.get(table, ())
            ]
            rows[table] = sorted(of_table, key=itemgetter(*key))
        return rows
