"""The difference between the rows a document wants and those of a file, as rows and in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from socket import AF_INET6, inet_ntop
from typing import Any, Literal

from internal_dns.store.declare.file import (
    FLAGS,
    KEYS,
    OF_MACHINE,
    OF_NETWORK,
    ORDER,
    Row,
    bindable,
    cell_text,
    host_text,
    key_text,
)
from internal_dns.store.declare.values import octets
from internal_dns.store.presentation import canonical_value
from internal_dns.store.schema import RECORDS

Sign = Literal["+", "~", "-"]


@dataclass(frozen=True, slots=True)
class Change:
    """One addition, change or removal, in words."""

    sign: Sign
    kind: str
    words: str

    def __str__(self) -> str:
        return f"{self.sign} {self.kind} {self.words}"


class Difference:
    """Compares wanted with present rows, table by table."""

    def __init__(
        self,
        wanted: Mapping[str, list[Row]],
        present: Mapping[str, list[Row]],
        *,
        prune: bool,
        spared: Mapping[str, Set[tuple[Any, ...]]] | None = None,
        owners: Mapping[tuple[Any, ...], str] | None = None,
    ) -> None:
        """*spared*: keys of rows that are not deleted, because rows of live sources need them.
        *owners*: the live sources of present rows, by table and key, for the words."""
        self.prune, self.present = prune, present
        self.spared, self.owners = spared or {}, owners or {}
        self.puts: list[tuple[str, Row]] = []
        self.deletes: list[tuple[str, Row]] = []
        self.notes: list[str] = []
        self.wanted = {
            table: {_key(table, row): row for row in rows} for table, rows in wanted.items()
        }
        # Present rows by key, without those that no statement can address.
        self.before: dict[str, dict[tuple[Any, ...], Row]] = {}
        self.named = {row["id"] for row in wanted["networks"]}
        self.old_apps = {(row["network_id"], row["app"]) for row in present["machines"]}
        self.new_apps = {(row["network_id"], row["app"]) for row in wanted["machines"]}

    def compute(self) -> None:
        for table in KEYS:
            # Of one address in two spellings, the canonical one stays.
            rows = sorted(
                self.present[table],
                key=lambda row: row.get("address") != _canonical(row.get("address")),
            )
            before = self.before[table] = {}
            for row in rows:
                if not all(bindable(row[column]) for column in KEYS[table]):
                    self.notes.append(
                        f"{table} {key_text(table, row)}: not changed: "
                        "no statement can address its key"
                    )
                elif (key := self.key_of_present(table, row)) in before:
                    self.delete(table, row)
                else:
                    before[key] = row
                    unwanted = key not in self.wanted[table] and self.is_unwanted(table, row)
                    if unwanted and key not in self.spared.get(table, ()):
                        self.delete(table, row)
            for key, row in self.wanted[table].items():
                old = before.get(key)
                if old is None and table == "apps" and key in self.old_apps & self.new_apps:
                    continue
                if old is None or _compared(table, old) != _compared(table, row):
                    self.puts.append((table, row))
                    if table == "records" and old is not None and old["value"] != row["value"]:
                        self.delete(table, old)  # its key has another spelling of the value
        self.deletes.sort(key=lambda pair: (ORDER.index(pair[0]), _in_order(pair[1].values())))

    def key_of_present(self, table: str, row: Row) -> tuple[Any, ...]:
        """Return the key of a present row: of a record with its value as documents write it."""
        key = _key(table, row)
        if table != "records" or key in self.wanted[table]:  # reading a value takes its time
            return key
        return (*key[:-1], canonical_value(row["type"], row["value"]))

    def delete(self, table: str, row: Row) -> None:
        self.deletes.append((table, {column: row[column] for column in KEYS[table]}))

    def is_unwanted(self, table: str, row: Row) -> bool:
        """Whether a present row that the document does not want is to be deleted."""
        if self.prune or table in OF_MACHINE:  # only rows of machines in question were read
            return True
        return table in OF_NETWORK and row["network_id"] in self.named

    # ── in words ──────────────────────────────────────────────────────────────────────────────────

    def changes(self) -> list[Change]:
        changes = [
            *self.row_changes("networks", "network", lambda row: self.network_name(row["id"])),
            *self.app_changes(),
            *self.machine_changes(),
            *self.row_changes(
                "peers",
                "peer",
                lambda row: f"{self.network_name(row['network_id'])}/{cell_text(row['name'])}",
            ),
            *self.row_changes(
                "flycasts",
                "flycast",
                lambda row: f"{self.app_name(row)} {cell_text(row['address'])}",
            ),
            *self.row_changes(
                "zones",
                "zone",
                lambda row: f"{self.network_name(row['network_id'])}/{cell_text(row['name'])}",
            ),
            *self.row_changes("records", "record", self.record_name),
            *self.row_changes("organizations", "organization", lambda row: cell_text(row["slug"])),
            *self.row_changes("regions", "region", lambda row: cell_text(row["code"])),
            *self.row_changes("region_latency", "latency", _pair),
            *self.row_changes("hosts", "host", lambda row: host_text(row["id"])),
        ]
        strays = [
            (table, key)
            for table, key in self.deletes
            if table in OF_MACHINE and not self.is_known(key)
        ]
        for table, key in strays:
            kind, name = ("metadata", "key") if table == "machine_metadata" else ("service", "name")
            machine = cell_text(key["machine_id"])
            words = f"{cell_text(key[name])} of machine {machine}, which does not exist"
            changes.append(Change("-", kind, words))
        return changes

    def is_known(self, key: Row) -> bool:
        return any(
            (key["machine_id"],) in machines
            for machines in (self.before["machines"], self.wanted["machines"])
        )

    def row_changes(self, table: str, kind: str, name: Callable[[Row], str]) -> Iterator[Change]:
        for _, row in sorted(
            self.keyed_rows(table, self.deletes), key=lambda pair: _in_order(pair[0])
        ):
            yield Change("-", kind, name(row) + self.of_source(table, row))
        for key, row in sorted(
            self.keyed_rows(table, self.puts), key=lambda pair: _in_order(pair[0])
        ):
            old = self.before[table].get(key)
            if old is None:
                yield Change("+", kind, name(row))
            else:
                words = name(row) + self.of_source(table, row)
                yield Change("~", kind, f"{words}: {', '.join(_fields_changed(old, row))}")

    @staticmethod
    def keyed_rows(
        table: str, rows: list[tuple[str, Row]]
    ) -> Iterator[tuple[tuple[Any, ...], Row]]:
        return ((_key(table, row), row) for of_table, row in rows if of_table == table)

    def app_changes(self) -> Iterator[Change]:
        """Yield apps that are added or removed. An app exists if it has a row or a machine."""
        old = {
            key
            for key in {*self.before["apps"], *self.old_apps}
            if self.prune or key[0] in self.named
        }
        new = {*self.wanted["apps"], *self.new_apps}
        held = self.spared.get("apps", frozenset())  # they exist through machines of sources
        for sign, apps in ("-", old - new - held), ("+", new - old - held):
            for number, app in sorted(apps, key=_in_order):
                yield Change(sign, "app", f"{self.network_name(number)}/{cell_text(app)}")  # type: ignore[arg-type]

    def machine_changes(self) -> Iterator[Change]:
        """Yield changed machines, each with the changes of its metadata and services."""
        parts: dict[object, list[str]] = defaultdict(list)
        for table, kind in ("machine_metadata", "metadata"), ("machine_services", "service"):
            for _, row in self.keyed_rows(table, self.deletes):
                parts[row["machine_id"]].append(f"{kind} {_part(row)} removed")
            for key, row in self.keyed_rows(table, self.puts):
                old = self.before[table].get(key)
                how = _belonging_changed(old, row) if old else "added"
                parts[row["machine_id"]].append(f"{kind} {_part(row)} {how}")
        old_rows, new_rows = self.before["machines"], self.wanted["machines"]
        for key, row in sorted(
            self.keyed_rows("machines", self.deletes), key=lambda pair: _in_order(pair[0])
        ):
            words = f"{cell_text(row['id'])} of {self.app_name(old_rows[key])}"
            yield Change("-", "machine", words + self.of_source("machines", row))
        for key, row in new_rows.items():
            words = f"{cell_text(row['id'])} of {self.app_name(row)}"
            if (old := old_rows.get(key)) is None:
                yield Change("+", "machine", words)
                continue
            words += self.of_source("machines", row)
            moved = [
                f"network {self.network_name(old['network_id'])} -> "
                f"{self.network_name(row['network_id'])}"
            ]
            changed = moved if old["network_id"] != row["network_id"] else []
            changed = changed + _fields_changed(old, row) + parts.get(row["id"], [])
            if changed:
                yield Change("~", "machine", f"{words}: {', '.join(changed)}")

    def of_source(self, table: str, row: Row) -> str:
        """Return the words for the live source of a row, empty for a row of no source."""
        owner = self.owners.get((table, *(row[c] for c in KEYS[table])))
        return f" (source {owner})" if owner else ""

    def app_name(self, row: Row) -> str:
        return f"{self.network_name(row['network_id'])}/{cell_text(row['app'])}"

    def record_name(self, row: Row) -> str:
        words = " ".join(cell_text(row[column]) for column in ("name", "type", "value"))
        return f"{self.network_name(row['network_id'])}/{words}"

    def network_name(self, number: object) -> str:
        """Return the name of a network in the document, else in the file, else its number."""
        row = self.wanted["networks"].get((number,)) or self.before["networks"].get((number,)) or {}
        return cell_text(row.get("name") or number)

    def moves(self) -> list[str]:
        """Return the machines that would change their network, with both networks."""
        moves = []
        for key, new in self.wanted["machines"].items():
            old = self.before["machines"].get(key)
            if old is not None and old["network_id"] != new["network_id"]:
                networks = (
                    f"from network {self.network_name(old['network_id'])} to "
                    f"{self.network_name(new['network_id'])}"
                )
                moves.append(f"machine {cell_text(new['id'])} would move {networks}")
        return moves

    def warnings(self) -> list[str]:
        warnings = []
        untouched = (
            []
            if self.prune
            else [row for row in self.present["networks"] if row["id"] not in self.named]
        )
        names = {str(row["name"]).lower(): row for row in self.wanted["networks"].values()}
        for row in untouched:
            if (new := names.get(str(row["name"]).lower())) is not None:
                warnings.append(
                    f"network {row['id']} of the catalog has the same name as {new['id']}: "
                    f"{cell_text(new['name'])}"
                )
        for key, new in self.wanted["machines"].items():
            old = self.before["machines"].get(key)
            if old is not None and old["network_id"] not in self.named:
                name = self.network_name(old["network_id"])
                origin = f"network {name}, which the document does not name"
                warnings.append(f"machine {cell_text(new['id'])} moves away from {origin}")
        return warnings


def _key(table: str, row: Row) -> tuple[Any, ...]:
    return tuple(_canonical(row[c]) if c == "address" else row[c] for c in KEYS[table])


def _canonical(address: Any) -> Any:
    packed = octets(address)
    return address if packed is None else inet_ntop(AF_INET6, packed)


def _compared(table: str, row: Row) -> Row:
    """Return a row's cells as the reader of the catalog interprets them. Those of the key of a
    record were compared before."""
    if table == "records":
        ttl = row["ttl"]
        return {"ttl": RECORDS.column("ttl").default if ttl is None else ttl}
    return {column: _meant(column, value) for column, value in row.items()}


def _meant(column: str, value: Any) -> Any:
    if column in FLAGS:
        return FLAGS[column].flag(value)
    return _canonical(value) if column == "address" else value


def _fields_changed(old: Row, new: Row) -> list[str]:
    return [
        f"{column.removeprefix('process_')} {_meaning(column, old[column])} -> "
        f"{_meaning(column, value)}"
        for column, value in new.items()
        if column != "network_id" and _meant(column, old[column]) != _meant(column, value)
    ]


def _belonging_changed(old: Row, new: Row) -> str:
    """Say what changed of metadata or a service: without the column where it has one only, or its
    port alone."""
    changed = [c for c, value in new.items() if old[c] != value]
    if len(changed) == 1 and changed[0] in ("value", "port"):
        return f"{cell_text(old[changed[0]])} -> {cell_text(new[changed[0]])}"
    return ", ".join(f"{c} {cell_text(old[c])} -> {cell_text(new[c])}" for c in changed)


def _meaning(column: str, value: Any) -> str:
    if column in FLAGS:
        return str(FLAGS[column].flag(value)).lower()
    return "unknown" if value is None else cell_text(value)


def _part(row: Row) -> str:
    return (
        cell_text(row["key"])
        if "key" in row
        else f"{cell_text(row['name'])}/{cell_text(row['protocol'])}"
    )


def _pair(row: Row) -> str:
    return f"{cell_text(row['from_region'])} to {cell_text(row['to_region'])}"


def _in_order(cells: Iterable[Any]) -> list[tuple[str, Any]]:
    """Return a sort key that works whatever types the cells have."""
    return [(type(cell).__name__, cell) for cell in cells]
