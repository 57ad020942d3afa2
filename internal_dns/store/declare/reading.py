"""Read a document: text to rows, reporting every fault at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from socket import AF_INET6, inet_ntop
from typing import Any, Final, Literal

from internal_dns.core.catalog_rules import DEFAULT_RULES, CatalogRules
from internal_dns.core.names import APEX_WORDS, RESERVED
from internal_dns.store.declare import fields
from internal_dns.store.declare.document import Document, DocumentFault, InvalidDocument
from internal_dns.store.declare.file import KEYS, Row
from internal_dns.store.declare.lines import Lines, MalformedText, Path
from internal_dns.store.declare.text import toml_key
from internal_dns.store.declare.values import (
    ADDRESS,
    HOST_ID,
    NAME,
    SOME_TEXT,
    TEXT,
    InvalidValue,
    Kind,
    array_of,
    host_id,
    octets,
    quoted,
    read_table,
    slash_48,
)
from internal_dns.store.presentation import (
    Place,
    Record,
    is_public_tld,
    losers,
    read_record,
    read_zone,
)

_RECORD_DO: Final = "Write it as docs/records.md says"


def parse(
    text: str,
    *,
    name: str,
    kind: Literal["toml", "json"] | None = None,
    rules: CatalogRules = DEFAULT_RULES,
) -> Document:
    """Return the document in *text*. Raises InvalidDocument with every fault.

    *name* is the file name, for faults. Without *kind*, its suffix decides, else the first
    character. A syntax error is the only fault reported, since nothing after it can be trusted.
    Every other fault has the line of its key or array element; a missing key has the line of the
    table that lacks it.
    """
    text = text.removeprefix("\ufeff")
    if kind is None:
        suffix = name.lower().rpartition(".")[2]
        kind = (
            "json"
            if suffix == "json" or (suffix != "toml" and text.lstrip()[:1] == "{")
            else "toml"
        )
    lines = Lines(text, kind)
    try:
        value = lines.value()
        reading = _Reading(name, rules, lines)
        reading.read_document(value)
    except MalformedText as error:
        raise InvalidDocument(
            [DocumentFault(name, error.line, "", error.what, f"Correct the {kind.upper()}")]
        ) from error
    except RecursionError as error:
        what = "tables or arrays are nested too deeply"
        raise InvalidDocument(
            [DocumentFault(name, 1, "", what, "Write it as docs/declarative.md says")]
        ) from error
    return reading.result()


class _Reading:
    """Turns a document's plain value into rows, collecting faults and warnings."""

    def __init__(self, name: str, rules: CatalogRules, lines: Lines) -> None:
        self.name, self.prefix, self.lines = name, rules.prefix, lines
        self.hidden = tuple(start.lower() for start in rules.hidden)
        self.faults: list[DocumentFault] = []
        self.warnings: list[DocumentFault] = []
        self.unknown_regions: dict[str, DocumentFault] = {}
        self.rows: dict[str, list[Row]] = {table: [] for table in KEYS}
        # Where each value that must be unique stands first.
        self.first_paths: dict[tuple[Any, ...], Path] = {}
        self.regions: dict[str, Path] = {}  # where each region is mentioned first

    def result(self) -> Document:
        """Return the document. Raises InvalidDocument."""
        if self.faults:
            raise InvalidDocument(sorted(self.faults, key=lambda fault: fault.line))
        warnings = tuple(sorted(self.warnings, key=lambda warning: warning.line))
        return Document(self.name, self.rows, warnings, self.unknown_regions)

    def read_document(self, value: Any) -> None:
        for path, what in self.lines.duplicates:
            self.add_fault(path, what, "Keep one of them")
        values = self.read_fields((), value, fields.DOCUMENT)
        for slug, item, path in self.members(values, (), "organizations", SOME_TEXT):
            self.add_row(
                "organizations", self.read_fields(path, item, fields.ORGANIZATION), slug=slug
            )
        for code, item, path in self.members(values, (), "regions", NAME):
            self.read_region(code, item, path)
        for item, path in self.elements(values, (), "latency"):
            row = self.add_row("region_latency", self.read_fields(path, item, fields.LATENCY))
            self.check_unique(
                path,
                "latency",
                (row.get("from_region"), row.get("to_region")),
                "this pair of regions",
            )
            for key, column in ("from", "from_region"), ("to", "to_region"):
                self.mention_region(row.get(column), (*path, key))
        for text, item, path in self.members(values, (), "hosts", HOST_ID):
            number = HOST_ID.read(text) if _is_host(text) else None
            row = self.add_row("hosts", self.read_fields(path, item, fields.HOST), id=number)
            self.check_unique(path, "host", (row["id"],), "this host")
            self.mention_region(row.get("region"), (*path, "region"))
        for name, item, path in self.members(values, (), "networks", NAME):
            self.read_network(name, item, path)
        self.check_regions()

    def read_region(self, code: str, item: Any, path: Path) -> None:
        row = self.add_row("regions", self.read_fields(path, item, fields.REGION), code=code)
        if isinstance(item, dict) and ("latitude" in item) != ("longitude" in item):
            self.add_fault(
                path,
                "one coordinate is missing",
                "Write latitude and longitude, or neither",
            )
        self.check_spelling(path, ("region",), str(row["code"]))
        self.regions[code.lower()] = path

    def read_network(self, name: str, item: Any, path: Path) -> None:
        values = self.read_fields(path, item, fields.NETWORK)
        number = self.network_id(values.get("id"), (*path, "id"))
        self.add_row("networks", values, id=number, name=name)
        self.check_spelling(path, ("network",), name)
        if number is not None:
            server = self.prefix + number.to_bytes(4, "big") + bytes(9) + b"\3"
            self.first_paths["address", server] = ()
        for app, of_app, at in self.members(values, path, "apps", NAME):
            self.read_app(number, name, app, of_app, at)
        for peer, of_peer, at in self.members(values, path, "peers", NAME):
            self.read_peer(number, name, peer, of_peer, at)
        for app, addresses, at in self.members(values, path, "flycasts", NAME):
            for position, text in enumerate(self.read_value(array_of({}), addresses, at) or ()):
                here = (*at, position)
                address = self.read_value(ADDRESS, text, here)
                self.check_network(address, number, here)
                self.check_unique(here, "flycast", (name, app, address), "this address")
                self.add_row("flycasts", {}, network_id=number, app=app, address=address)
        zones = frozenset(self.read_zones(number, name, values, path))
        self.read_records(number, name, values, path, zones)

    def network_id(self, number: int | bytes | None, path: Path) -> int | None:
        """Return the network's id, or None and add a fault."""
        if isinstance(number, bytes):
            if not number.startswith(self.prefix):
                start = f"{self.prefix.hex()}::/16"
                self.add_fault(
                    path,
                    f"the network is not in {start}",
                    f"Write a /48 of {start}, or the integer",
                )
                return None
            number = int.from_bytes(number[2:], "big")
        self.check_unique(path, "network", (number,), "this id")
        return number

    def read_app(self, number: int | None, network: str, name: str, item: Any, path: Path) -> None:
        self.add_row("apps", {}, network_id=number, name=name)
        self.check_spelling(path, ("app", network), name)
        if name.lower().encode() in APEX_WORDS:
            do = "Rename the app; its machines stay reachable by <id>.vm and in lists"
            self.add_warning(path, f"{name.lower()}.internal is a reserved name, not this app", do)
        values = self.read_fields(path, item, fields.APP)
        for machine, at in self.elements(values, path, "machines"):
            self.read_machine(number, name, machine, at)

    def read_machine(self, number: int | None, app: str, item: Any, path: Path) -> None:
        values = self.read_fields(path, item, fields.MACHINE)
        row = self.add_row("machines", values, network_id=number, app=app)
        ident, address, state = values.get("id"), values.get("address"), values.get("state")
        if self.check_unique((*path, "id"), "machine", (ident,), "this machine id"):
            what = "this machine id of the same app, ignoring letter case,"
            self.check_unique(
                (*path, "id"), "machine of", (number, app.lower(), ident and ident.lower()), what
            )
        self.check_network(address, number, (*path, "address"))
        if state == "started" and not row.get("skip_registration"):
            self.claim_address(address, (*path, "address"))
        if state is not None and state not in fields.STATES:
            near = get_close_matches(state, fields.STATES, 1)
            do = f"Did you mean {near[0]}?" if near else "Only started machines are answered"
            self.add_warning((*path, "state"), f"{quoted(state)} is not a known state", do)
        self.mention_region(values.get("region"), (*path, "region"))
        for key, value in values.get("metadata", {}).items():
            text = self.read_value(TEXT, value, (*path, "metadata", key))
            self.add_row("machine_metadata", {}, machine_id=ident, key=key, value=text)
        for service, at in self.elements(values, path, "services"):
            of_service = self.read_fields(at, service, fields.SERVICE)
            self.add_row("machine_services", of_service, machine_id=ident)
            name, protocol = of_service.get("name"), of_service.get("protocol")
            named = (path, name and name.lower(), protocol)
            self.check_unique(
                at, "service", named, "this service of the machine, ignoring letter case,"
            )

    def read_peer(self, number: int | None, network: str, name: str, item: Any, path: Path) -> None:
        row = self.add_row(
            "peers", self.read_fields(path, item, fields.PEER), network_id=number, name=name
        )
        self.check_unique(path, "peer", (network, name.lower()), "this peer, ignoring letter case,")
        self.check_network(row.get("address"), number, (*path, "address"))
        if not name.lower().startswith(self.hidden):
            self.claim_address(row.get("address"), (*path, "address"))
        if name.lower() == "_page":
            self.add_warning(path, "_page is reserved for pages of lists", "Rename it")
        self.mention_region(row.get("region") or None, (*path, "region"))

    def read_zones(
        self, number: int | None, network: str, values: Row, path: Path
    ) -> Iterator[bytes]:
        """Yield the apexes of a network's private zones."""
        for text, at in self.elements(values, path, "zones"):
            if self.read_value(SOME_TEXT, text, at) is None:
                continue
            zone = read_zone(text, self.prefix)
            if isinstance(zone, str):
                self.add_fault(at, f"{quoted(text)} cannot be a zone: {zone}", "Use another name")
                continue
            self.check_unique(at, "zone", (network, zone.name), "this zone")
            self.add_row("zones", {}, network_id=number, name=zone.name)
            if is_public_tld(zone.apex):
                what = f"{zone.name} is a top-level domain of the Internet"
                do = "Its names there are out of reach for this network: make zones of the names you need"
                self.add_warning(at, what, do)
            yield zone.apex

    def read_records(
        self,
        number: int | None,
        network: str,
        values: Row,
        path: Path,
        zones: Collection[bytes],
    ) -> None:
        owners: dict[bytes, dict[Record, Path]] = defaultdict(dict)
        for item, at in self.elements(values, path, "records"):
            cells = self.read_fields(at, item, fields.RECORD)
            if number is None or len(cells) < len(fields.RECORD):
                continue
            place = Place(self.prefix + number.to_bytes(4, "big"), zones)
            record = read_record(cells["name"], cells["type"], cells["value"], cells["ttl"], place)
            if isinstance(record, str):
                self.add_fault(at, f"{quoted(cells['name'])} {cells['type']}: {record}", _RECORD_DO)
                continue
            key = network, record.name, record.type, record.value
            if self.check_unique(at, "record", key, "this record"):
                owners[record.owner][record] = at
            written = {"name": record.name, "value": record.value}
            self.add_row("records", cells | written, network_id=number)
        for records in owners.values():
            for record, why in losers(list(records)):
                self.add_fault(
                    records[record], f"{quoted(record.name)} {record.type}: {why}", "Remove one"
                )

    # ── shared by the methods above ───────────────────────────────────────────────────────────────

    def read_fields(self, path: Path, value: Any, known: Mapping[str, fields.Field]) -> Row:
        """Return the table *value* by column, without what is at fault."""
        cells: Row = {}
        if self.read_value(Kind(read_table, {}), value, path) is None:
            return cells
        for key in value:
            if key not in known:
                near = get_close_matches(key, known, 1)
                do = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}"
                self.add_fault((*path, key), "unknown key", do)
        for key, known_field in known.items():
            if key in value:
                cell = self.read_value(known_field.kind, value[key], (*path, key))
                if cell is not None:
                    cells[known_field.column] = cell
            elif known_field.default is fields.REQUIRED:
                self.add_fault(path, f"{key} is missing", f"Add it: {known_field.words}")
            else:
                cells[known_field.column] = known_field.default
        return cells

    def read_value(self, kind: Kind, value: Any, path: Path) -> Any:
        """Return *value* as *kind* reads it, or None and add a fault."""
        try:
            return kind.read(value)
        except InvalidValue as wrong:
            self.add_fault(path, *wrong.args)
            return None

    def members(
        self, values: Row, path: Path, key: str, names: Kind
    ) -> Iterator[tuple[str, Any, Path]]:
        """Yield name, value and path of each member of a table of tables."""
        for name, value in values.get(key, {}).items():
            at = (*path, key, name)
            self.read_value(names, name, at)
            yield name, value, at

    @staticmethod
    def elements(values: Row, path: Path, key: str) -> Iterator[tuple[Any, Path]]:
        return (
            (value, (*path, key, position)) for position, value in enumerate(values.get(key, ()))
        )

    def add_row(self, table: str, cells: Row, **given: Any) -> Row:
        row = {**cells, **given}
        self.rows[table].append(row)
        return row

    def check_unique(self, path: Path, kind: str, key: tuple[Any, ...], what: str) -> bool:
        """Whether this key is new; add a fault if not. A key with a part at fault is not
        compared."""
        if None in key:
            return True
        first = self.first_paths.setdefault((kind, *key), path)
        if first != path:
            self.add_fault(
                path,
                f"{what} already stands in line {self.lines.line(first)}",
                "Remove or change one",
            )
        return first == path

    def claim_address(self, address: str | None, path: Path) -> None:
        """Add a fault if another visible machine or peer has this address."""
        packed = octets(address)
        if (
            packed is not None
            and (first := self.first_paths.setdefault(("address", packed), path)) != path
        ):
            owner = (
                f"{_pointed(first[:-1])} in line {self.lines.line(first)} too"
                if first
                else "the server itself"
            )
            self.add_fault(path, f"{address} is that of {owner}", "Give each an address of its own")

    def check_network(self, address: str | None, number: int | None, path: Path) -> None:
        """Add a fault if an address is not in its network."""
        packed = octets(address)
        if packed is None or number is None:
            return
        network = self.prefix + number.to_bytes(4, "big")
        if not packed.startswith(network):
            do = f"Write an address that starts like {inet_ntop(AF_INET6, network + bytes(10))}"
            self.add_fault(
                path, f"{address} is not in {slash_48(number, self.prefix)}, the network's own", do
            )

    def mention_region(self, region: str | None, path: Path) -> None:
        if region is not None:
            self.regions.setdefault(region.lower(), path)

    def check_regions(self) -> None:
        known = {str(row["code"]).lower() for row in self.rows["regions"]}
        for region, path in self.regions.items():
            if region.encode("utf-8", "replace") in RESERVED:
                self.add_warning(
                    path,
                    f"{region} is a reserved word: no name can query this region",
                    "Rename it",
                )
            if region not in known:
                what = f"region {quoted(region)} is not in this document"
                do = (
                    "Add it with its coordinates unless the catalog has it, "
                    "or `nearest` sorts it last"
                )
                self.add_warning(path, what, do)
                self.unknown_regions[region] = self.warnings[-1]

    def check_spelling(self, path: Path, kind: tuple[str, ...], name: str) -> None:
        first = self.first_paths.setdefault(("case", *kind, name.lower()), path)
        if first != path:
            what = (
                f"{name} and {first[-1]} in line {self.lines.line(first)} are the same name: "
                "letter case is ignored"
            )
            self.add_warning(path, what, "Spell it one way")

    def add_fault(self, path: Path, what: str, do: str) -> None:
        self.faults.append(
            DocumentFault(self.name, self.lines.line(path), _pointed(path), what, do)
        )

    def add_warning(self, path: Path, what: str, do: str) -> None:
        self.warnings.append(
            DocumentFault(self.name, self.lines.line(path), _pointed(path), what, do)
        )


def _is_host(text: str) -> bool:
    try:
        return host_id(text) >= 0
    except InvalidValue:
        return False


def _pointed(path: Path) -> str:
    """Return a path in printable form: networks.acme.apps.web.machines[0].id."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{toml_key(_cut(part))}" for part in path)
    return "".join(parts).removeprefix(".")


def _cut(text: str) -> str:
    return text if len(text) <= 63 else text[:60] + "…"
