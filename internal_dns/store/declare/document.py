"""A parsed document, and the faults of one that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from internal_dns.store.declare.file import COLUMNS, KEYS, Row


@dataclass(frozen=True, slots=True)
class DocumentFault:
    """One fault: where it is, what is wrong, and what to do. Lines count from 1."""

    file: str
    line: int
    where: str
    what: str
    do: str

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        return f"{self.file}:{self.line}: {where}{self.what}. {self.do}"


class InvalidDocument(Exception):
    """The document cannot be used; `faults` has all its faults, by line."""

    def __init__(self, faults: list[DocumentFault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Document:
    """A document without faults. `unknown_regions`: warnings that the catalog's own regions may
    resolve."""

    name: str
    tables: Mapping[str, Sequence[Row]]
    warnings: tuple[DocumentFault, ...] = ()
    unknown_regions: Mapping[str, DocumentFault] = field(default_factory=dict)

    def rows(self) -> dict[str, list[Row]]:
        """Return the rows of every table, without `updated_at`, sorted by primary key."""
        rows = {}
        for table, key in KEYS.items():
            of_table = [
                {column: row[column] for column in COLUMNS[table]}
                for row in self.tables.get(table, ())
            ]
            rows[table] = sorted(of_table, key=itemgetter(*key))
        return rows
