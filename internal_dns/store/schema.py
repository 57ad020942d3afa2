"""The shape of the catalog: a table is one value, a column one row.

    loader, writer        TABLES, KEYS, `source` (store/sqlite.py), `Domain.sql` (store/writer.py)
    documents             store/declare/fields.py, docs/catalog.schema.json
    bucket                replicate/codec.py, docs/bucket.schema.json
    command line          cli/columns.py
    older files           store/upgrade.py

`schema.sql` stays the file people read; tests/store/test_schema.py holds the two together. What a
column means is documented where it is read: store/rows.py and core/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

REQUIRED: Final[Any] = object()  # the default of a column that must be given


@dataclass(frozen=True, slots=True)
class Domain:
    """The values that a cell may hold, and still be served."""

    sql: Literal["TEXT", "INTEGER", "REAL"]
    words: str  # what it is, for an operator: "a port"
    pattern: str = ""  # of the whole text, as `re` and JSON Schema know it
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    optional: bool = False  # NULL means: unknown

    @property
    def zero(self) -> Any:
        """The default in SQL of a column that documents must give."""
        return None if self.optional else "" if self.sql == "TEXT" else 0

    def holds(self, number: object) -> bool:
        """Whether *number* is a number within the bounds."""
        return (
            isinstance(number, int if self.sql == "INTEGER" else int | float)
            and (self.low is None or self.low <= number)
            and (self.high is None or number <= self.high)
        )


_LETTERS: Final = "[A-Za-z0-9_-]"

TEXT: Final = Domain("TEXT", "a text")
NAME: Final = Domain("TEXT", "a name", pattern=f"{_LETTERS}{{1,63}}")  # a DNS label
# A `_` is put before it, and the two are one label.
SERVICE_NAME: Final = Domain("TEXT", "a name", pattern=f"{_LETTERS}{{1,62}}")
NAME_OR_NONE: Final = Domain("TEXT", "a name, or empty", pattern=f"{_LETTERS}{{0,63}}")
ADDRESS: Final = Domain("TEXT", "an IPv6 address of the network's /48, as RFC 5952 writes it")
PROTOCOL: Final = Domain("TEXT", "tcp or udp", choices=("tcp", "udp"))
NETWORK_ID: Final = Domain(
    "INTEGER", "the 32 bits after the prefix, as an integer", low=1, high=0xFFFF_FFFF
)
HOST_ID: Final = Domain("INTEGER", "the 32 host bits, as an integer", low=0, high=0xFFFF_FFFF)
DOMAIN_NAME: Final = Domain("TEXT", "a domain name, lower-case, without the last dot")
RECORD_TYPE: Final = Domain(
    "TEXT",
    "a type of record",
    choices=tuple("A AAAA ALIAS CAA CNAME HTTPS MX PTR SRV SVCB TXT".split()),
)
TTL: Final = Domain("INTEGER", "seconds, 0 to 86400", low=0, high=86_400)
PORT: Final = Domain("INTEGER", "a port", low=1, high=65_535)
SRV_NUMBER: Final = Domain("INTEGER", "a whole number of 16 bits", low=0, high=65_535)
FLAG: Final = Domain("INTEGER", "0 or 1", low=0, high=1)
# JSON numbers are exact up to 2**53.
TIME: Final = Domain("INTEGER", "Unix seconds", low=0, high=1 << 53)
LATITUDE: Final = Domain("REAL", "degrees", low=-90, high=90, optional=True)
LONGITUDE: Final = Domain("REAL", "degrees", low=-180, high=180, optional=True)
MILLISECONDS: Final = Domain("REAL", "milliseconds", low=0, high=999_999_999)


@dataclass(frozen=True, slots=True)
class Column:
    """One column. Without a default, a document or a value of a bucket must give it."""

    name: str
    domain: Domain
    words: str  # for people: help of an option, description in a JSON Schema
    default: Any = REQUIRED
    key: bool = False
    # A file without it cannot be served: its default would take names away.
    essential: bool = False
    document: str | None = ""  # its key in documents, when that is another; None: not in them
    off: str = ""  # of a flag: the word of its option that says no, where `no-…` would mislead
    # NULL is its default, and a row with a faulty text is served without it: neither keeps the row
    # out of a document or bucket.
    lenient: bool = False
    # Of a key column whose text may be long: in the key of a bucket stands its SHA-256.
    hashed: bool = False

    @property
    def document_name(self) -> str:
        """Its name in documents and on the command line."""
        return self.document or self.name

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def needed(self) -> bool:
        """Whether a file without this column is no catalog; of any other the default is read."""
        return self.required or self.key or self.essential

    def flag(self, cell: object) -> bool:
        """What the cell of a flag means. One that is set by default is unset by exactly 0."""
        return cell != 0 if self.default else bool(cell)

    @property
    def sql_default(self) -> Any:
        return self.domain.zero if self.required else self.default

    @property
    def declaration(self) -> str:
        """The column as ALTER TABLE … ADD COLUMN takes it."""
        if self.domain.optional:
            return f"{self.name} {self.domain.sql}"
        return f"{self.name} {self.domain.sql} NOT NULL DEFAULT {literal(self.sql_default)}"


@dataclass(frozen=True, slots=True)
class Table:
    """One table. `optional`: a file without it is served, as if it were empty."""

    name: str
    noun: str  # of a row
    columns: tuple[Column, ...]
    optional: bool = False

    @property
    def keys(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.key)

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


def literal(value: object) -> str:
    """Return *value* as SQL writes it."""
    if value is None:
        return "NULL"
    return f"'{value}'" if isinstance(value, str) else str(value)


# Not in documents: `apply` writes rows of no source only.
SOURCE: Final = Column(
    "source", NAME_OR_NONE, "The live source that owns the row; empty for rows of no source.", "",
    document=None, lenient=True,
)  # fmt: skip
_NETWORK: Final = Column("network_id", NETWORK_ID, "Its network.", key=True)
_MACHINE: Final = Column("machine_id", TEXT, "The machine it belongs to.", key=True)

ORGANIZATIONS: Final = Table("organizations", "organization", (
    Column("slug", TEXT, "Its short name.", key=True),
    Column("name", TEXT, "Its display name.", ""),
), optional=True)  # fmt: skip
REGIONS: Final = Table("regions", "region", (
    Column("code", NAME, "Its code.", key=True),
    Column("name", TEXT, "Its display name.", ""),
    Column("latitude", LATITUDE, "Degrees north; requires longitude.", None),
    Column("longitude", LONGITUDE, "Degrees east; requires latitude.", None),
    Column("gateway", FLAG, "WireGuard peers may connect there.", 0),
))  # fmt: skip
REGION_LATENCY: Final = Table("region_latency", "latency", (
    Column("from_region", NAME, "The code of one region.", key=True, document="from"),
    Column("to_region", NAME, "The code of the other region.", key=True, document="to"),
    Column("milliseconds", MILLISECONDS, "A measured round trip."),
))  # fmt: skip
HOSTS: Final = Table("hosts", "host", (
    Column("id", HOST_ID, "Its 32 bits in an address.", key=True),
    Column("name", TEXT, "Its display name.", ""),
    Column("region", NAME, "The code of its region."),
))  # fmt: skip
NETWORKS: Final = Table("networks", "network", (
    Column("id", NETWORK_ID, "Its /48, or the 32 bits after the prefix as an integer.", key=True),
    Column("name", NAME, "Its name."),
    Column("organization", TEXT, "The slug of the organization that owns it.", ""),
))  # fmt: skip
APPS: Final = Table("apps", "app", (
    _NETWORK,
    Column("name", NAME, "Its name, unique in the network.", key=True),
))  # fmt: skip
MACHINES: Final = Table("machines", "machine", (
    Column("id", NAME, "Its id, unique in the catalog.", key=True),
    Column("network_id", NETWORK_ID, "The network it is on."),
    Column("app", NAME, "Its app."),
    Column("address", ADDRESS, "Its address in this network."),
    Column("region", NAME, "The code of its region."),
    Column("process_group", NAME, "Its process group.", "app", document="group"),
    Column("state", TEXT, "Only started machines are answered.", "created", essential=True),
    Column("skip_registration", FLAG, "Omit it from all names and lists.", 0, off="register"),
    Column("updated_at", TIME, "When the row was last written.", 0, document=None),
    Column("ready", FLAG, "No: left out of sets of addresses while another of the set is ready.",
           1),
    Column("name", NAME_OR_NONE, "Answers at <name>.vm too; several may share it.", "",
           lenient=True),
    SOURCE,
))  # fmt: skip
MACHINE_METADATA: Final = Table("machine_metadata", "metadata", (
    _MACHINE,
    Column("key", TEXT, "Its key.", key=True),
    Column("value", TEXT, "Its text.", ""),
))  # fmt: skip
MACHINE_SERVICES: Final = Table("machine_services", "service", (
    _MACHINE,
    Column("name", SERVICE_NAME,
           "Its name, without the underscore: http for _http._tcp.", key=True),
    Column("protocol", PROTOCOL, "tcp or udp.", "tcp", key=True),
    Column("port", PORT, "Where it listens."),
    Column("priority", SRV_NUMBER, "Of its SRV record: lower ones are tried first.", 0,
           lenient=True),
    Column("weight", SRV_NUMBER, "Of its SRV record: its share among those of one priority.", 1,
           lenient=True),
))  # fmt: skip
PEERS: Final = Table("peers", "peer", (
    _NETWORK,
    Column("name", NAME, "Its name.", key=True),
    Column("address", ADDRESS, "Its address in this network; it owns the /120."),
    Column("region", NAME_OR_NONE, "The code of its region; empty for the region of its host.", ""),
    SOURCE,
))  # fmt: skip
FLYCASTS: Final = Table("flycasts", "flycast", (
    Column("network_id", NETWORK_ID, "The network of its address.", key=True),
    Column("app", NAME, "The app it belongs to.", key=True),
    Column("address", ADDRESS, "Its address in this network.", key=True),
))  # fmt: skip
ZONES: Final = Table("zones", "zone", (
    _NETWORK,
    Column("name", DOMAIN_NAME, "Its apex; all names in it are answered here.", key=True),
), optional=True)  # fmt: skip
RECORDS: Final = Table("records", "record", (
    _NETWORK,
    Column("name", DOMAIN_NAME, "Its owner: in .internal, or in a zone of the network.", key=True),
    Column("type", RECORD_TYPE, "Its type; PTR in zones only.", key=True),
    Column("value", TEXT, "Its value in presentation form.", key=True, hashed=True),
    Column("ttl", TTL, "Seconds that a client may keep it.", 5, lenient=True),
), optional=True)  # fmt: skip
META: Final = Table("meta", "entry", (
    Column("key", TEXT, "Its name.", key=True),
    Column("value", TEXT, "Its text.", ""),
), optional=True)  # fmt: skip

# Parents first: the order in which rows are put and published; deletes take it backwards.
CATALOG: Final = (
    ORGANIZATIONS, REGIONS, REGION_LATENCY, HOSTS, NETWORKS, APPS, MACHINES, MACHINE_METADATA,
    MACHINE_SERVICES,
    PEERS, FLYCASTS, ZONES, RECORDS, META,
)  # fmt: skip
BY_NAME: Final[Mapping[str, Table]] = {table.name: table for table in CATALOG}
TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    table.name: tuple(column.name for column in table.columns) for table in CATALOG
}
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    table.name: tuple(column.name for column in table.keys) for table in CATALOG
}
# Tables whose rows live inside a machine: its document, its value in a bucket.
OF_MACHINE: Final = (MACHINE_METADATA.name, MACHINE_SERVICES.name)
