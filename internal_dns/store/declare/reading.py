"""Read a document: from a text to its rows, with every fault of it at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from socket import AF_INET6, inet_ntop
from typing import Any, Literal

from internal_dns.core.catalog_rules import USUAL, CatalogRules
from internal_dns.core.names import APEX_WORDS, RESERVED
from internal_dns.store.declare import form
from internal_dns.store.declare.document import Document, DocumentFault, Faulty
from internal_dns.store.declare.file import KEYS, Row
from internal_dns.store.declare.lines import Lines, Path, Syntax
from internal_dns.store.declare.text import toml_key
from internal_dns.store.declare.values import (
    ADDRESS,
    HOST_ID,
    NAME,
    SOME_TEXT,
    TEXT,
    Kind,
    Wrong,
    array_of,
    host_id,
    octets,
    quoted,
    read_table,
    slash_48,
)


def parse(
    text: str,
    *,
    name: str,
    kind: Literal["toml", "json"] | None = None,
    rules: CatalogRules = USUAL,
) -> Document:
    """Return the document in *text*, or raise Faulty with every fault of it.

    *name* is the file's, for faults; without *kind* its suffix says what it is, else the first
    character. A syntax error is the only fault told, since nothing after it can be trusted. Every
    other fault has the line of the very key or array element it is about; a key that is missing has
    the line of the table that lacks it.
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
        reading.document(value)
    except Syntax as error:
        raise Faulty(
            [DocumentFault(name, error.line, "", error.what, f"Correct the {kind.upper()}")]
        ) from error
    except RecursionError as error:
        what = "tables or arrays are nested too deeply"
        raise Faulty(
            [DocumentFault(name, 1, "", what, "Write it as docs/declarative.md says")]
        ) from error
    return reading.result()


class _Reading:
    """Turns a document's plain value into rows, collecting faults and warnings on the way."""

    def __init__(self, name: str, rules: CatalogRules, lines: Lines) -> None:
        self.name, self.prefix, self.lines = name, rules.prefix, lines
        self.hidden = tuple(start.lower() for start in rules.hidden)
        self.faults: list[DocumentFault] = []
        self.warnings: list[DocumentFault] = []
        self.unknown_regions: dict[str, DocumentFault] = {}
        self.rows: dict[str, list[Row]] = {table: [] for table in KEYS}
        self.taken: dict[
            tuple[Any, ...], Path
        ] = {}  # what there may be only one of, and where it stands
        self.regions: dict[str, Path] = {}  # every region by its first mention

    def result(self) -> Document:
        """Return the document. Raises Faulty."""
        if self.faults:
            raise Faulty(sorted(self.faults, key=lambda fault: fault.line))
        warnings = tuple(sorted(self.warnings, key=lambda warning: warning.line))
        return Document(self.name, self.rows, warnings, self.unknown_regions)

    def document(self, value: Any) -> None:
        for path, what in self.lines.twice:
            self.fault(path, what, "Keep one of them")
        found = self.fields((), value, form.DOCUMENT)
        for slug, item, path in self.keyed(found, (), "organizations", SOME_TEXT):
            self.row("organizations", self.fields(path, item, form.ORGANIZATION), slug=slug)
        for code, item, path in self.keyed(found, (), "regions", NAME):
            self.region(code, item, path)
        for item, path in self.listed(found, (), "latency"):
            row = self.row("region_latency", self.fields(path, item, form.LATENCY))
            self.once(
                path,
                "latency",
                (row.get("from_region"), row.get("to_region")),
                "this pair of regions",
            )
            for key, column in ("from", "from_region"), ("to", "to_region"):
                self.mention(row.get(column), (*path, key))
        for text, item, path in self.keyed(found, (), "hosts", HOST_ID):
            number = HOST_ID.read(text) if _is_host(text) else None
            row = self.row("hosts", self.fields(path, item, form.HOST), id=number)
            self.once(path, "host", (row["id"],), "this host")
            self.mention(row.get("region"), (*path, "region"))
        for name, item, path in self.keyed(found, (), "networks", NAME):
            self.network(name, item, path)
        self.judge_regions()

    def region(self, code: str, item: Any, path: Path) -> None:
        row = self.row("regions", self.fields(path, item, form.REGION), code=code)
        if isinstance(item, dict) and ("latitude" in item) != ("longitude" in item):
            self.fault(
                path,
                "one coordinate alone says nothing",
                "Write latitude and longitude, or neither",
            )
        self.same_but_for_case(path, ("region",), str(row["code"]))
        self.regions[code.lower()] = path

    def network(self, name: str, item: Any, path: Path) -> None:
        found = self.fields(path, item, form.NETWORK)
        number = self.number(found.get("id"), (*path, "id"))
        self.row("networks", found, id=number, name=name)
        self.same_but_for_case(path, ("network",), name)
        if number is not None:
            server = self.prefix + number.to_bytes(4, "big") + bytes(9) + b"\3"
            self.taken["address", server] = ()
        for app, of_app, at in self.keyed(found, path, "apps", NAME):
            self.app(number, name, app, of_app, at)
        for peer, of_peer, at in self.keyed(found, path, "peers", NAME):
            self.peer(number, name, peer, of_peer, at)
        for app, addresses, at in self.keyed(found, path, "flycasts", NAME):
            for position, text in enumerate(self.read(array_of({}), addresses, at) or ()):
                here = (*at, position)
                address = self.read(ADDRESS, text, here)
                self.inside(address, number, here)
                self.once(here, "flycast", (name, app, address), "this address")
                self.row("flycasts", {}, network_id=number, app=app, address=address)

    def number(self, found: int | bytes | None, path: Path) -> int | None:
        """Return the network's id, when it is one and the only one."""
        if isinstance(found, bytes):
            if not found.startswith(self.prefix):
                start = f"{self.prefix.hex()}::/16"
                self.fault(
                    path,
                    f"the network is not in {start}",
                    f"Write a /48 of {start}, or the integer",
                )
                return None
            found = int.from_bytes(found[2:], "big")
        self.once(path, "network", (found,), "this id")
        return found

    def app(self, number: int | None, network: str, name: str, item: Any, path: Path) -> None:
        self.row("apps", {}, network_id=number, name=name)
        self.same_but_for_case(path, ("app", network), name)
        if name.lower().encode() in APEX_WORDS:
            do = "Rename the app; its machines stay reachable by <id>.vm and in lists"
            self.warn(path, f"{name.lower()}.internal is a name of the grammar, not this app", do)
        found = self.fields(path, item, form.APP)
        for machine, at in self.listed(found, path, "machines"):
            self.machine(number, name, machine, at)

    def machine(self, number: int | None, app: str, item: Any, path: Path) -> None:
        found = self.fields(path, item, form.MACHINE)
        row = self.row("machines", found, network_id=number, app=app)
        ident, address, state = found.get("id"), found.get("address"), found.get("state")
        if self.once((*path, "id"), "machine", (ident,), "this machine id"):
            what = "this machine id, but for letter case, of the same app"
            self.once(
                (*path, "id"), "machine of", (number, app.lower(), ident and ident.lower()), what
            )
        self.inside(address, number, (*path, "address"))
        if state == "started" and not row.get("skip_registration"):
            self.alone(address, (*path, "address"))
        if state is not None and state not in form.STATES:
            near = get_close_matches(state, form.STATES, 1)
            do = f"Did you mean {near[0]}?" if near else "Only started machines are answered"
            self.warn((*path, "state"), f"{quoted(state)} is no known state", do)
        self.mention(found.get("region"), (*path, "region"))
        for key, value in found.get("metadata", {}).items():
            text = self.read(TEXT, value, (*path, "metadata", key))
            self.row("machine_metadata", {}, machine_id=ident, key=key, value=text)
        for service, at in self.listed(found, path, "services"):
            of_service = self.fields(at, service, form.SERVICE)
            self.row("machine_services", of_service, machine_id=ident)
            name, protocol = of_service.get("name"), of_service.get("protocol")
            named = (path, name and name.lower(), protocol)
            self.once(
                at, "service", named, "this service of the machine, whatever its letter case,"
            )

    def peer(self, number: int | None, network: str, name: str, item: Any, path: Path) -> None:
        row = self.row("peers", self.fields(path, item, form.PEER), network_id=number, name=name)
        self.once(path, "peer", (network, name.lower()), "this peer, but for letter case,")
        self.inside(row.get("address"), number, (*path, "address"))
        if not name.lower().startswith(self.hidden):
            self.alone(row.get("address"), (*path, "address"))
        if name.lower() == "_page":
            self.warn(path, "the grammar reads _page as a page, not as this peer", "Rename it")
        self.mention(row.get("region") or None, (*path, "region"))

    # What several of them need.

    def fields(self, path: Path, value: Any, known: Mapping[str, form.Field]) -> Row:
        """Return what stands in the table *value*, by column; what is at fault is left out."""
        found: Row = {}
        if self.read(Kind(read_table, {}), value, path) is None:
            return found
        for key in value:
            if key not in known:
                near = get_close_matches(key, known, 1)
                do = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}"
                self.fault((*path, key), "unknown key", do)
        for key, known_field in known.items():
            if key in value:
                made = self.read(known_field.kind, value[key], (*path, key))
                if made is not None:
                    found[known_field.column] = made
            elif known_field.default is form.REQUIRED:
                self.fault(path, f"{key} is missing", f"Add it: {known_field.words}")
            else:
                found[known_field.column] = known_field.default
        return found

    def read(self, kind: Kind, value: Any, path: Path) -> Any:
        """Return what *kind* makes of *value*, or None and a fault."""
        try:
            return kind.read(value)
        except Wrong as wrong:
            self.fault(path, *wrong.args)
            return None

    def keyed(
        self, found: Row, path: Path, key: str, names: Kind
    ) -> Iterator[tuple[str, Any, Path]]:
        """Yield name, value and path of each member of a table of tables."""
        for name, value in found.get(key, {}).items():
            at = (*path, key, name)
            self.read(names, name, at)
            yield name, value, at

    @staticmethod
    def listed(found: Row, path: Path, key: str) -> Iterator[tuple[Any, Path]]:
        return (
            (value, (*path, key, position)) for position, value in enumerate(found.get(key, ()))
        )

    def row(self, table: str, found: Row, **given: Any) -> Row:
        made = {**found, **given}
        self.rows[table].append(made)
        return made

    def once(self, path: Path, kind: str, key: tuple[Any, ...], what: str) -> bool:
        """Say whether nothing before has this key; a key with a part at fault is no key."""
        if None in key:
            return True
        first = self.taken.setdefault((kind, *key), path)
        if first != path:
            self.fault(
                path,
                f"{what} stands in line {self.lines.line(first)} already",
                "Remove or change one",
            )
        return first == path

    def alone(self, address: str | None, path: Path) -> None:
        """A visible machine or peer has this address, so no other has."""
        packed = octets(address)
        if (
            packed is not None
            and (first := self.taken.setdefault(("address", packed), path)) != path
        ):
            owner = (
                f"{_pointed(first[:-1])} in line {self.lines.line(first)} too"
                if first
                else "the server itself"
            )
            self.fault(path, f"{address} is that of {owner}", "Give each an address of its own")

    def inside(self, address: str | None, number: int | None, path: Path) -> None:
        """An address must be of its network."""
        packed = octets(address)
        if packed is None or number is None:
            return
        network = self.prefix + number.to_bytes(4, "big")
        if not packed.startswith(network):
            do = f"Write an address that starts like {inet_ntop(AF_INET6, network + bytes(10))}"
            self.fault(
                path, f"{address} is not in {slash_48(number, self.prefix)}, the network's own", do
            )

    def mention(self, region: str | None, path: Path) -> None:
        if region is not None:
            self.regions.setdefault(region.lower(), path)

    def judge_regions(self) -> None:
        known = {str(row["code"]).lower() for row in self.rows["regions"]}
        for region, path in self.regions.items():
            if region.encode("utf-8", "replace") in RESERVED:
                self.warn(
                    path,
                    f"{region} is a word of the grammar: no name asks for this region",
                    "Rename it",
                )
            if region not in known:
                what = f"region {quoted(region)} is not in this document"
                do = "Add it with its coordinates, unless the catalog has it: else it is far from everywhere"
                self.warn(path, what, do)
                self.unknown_regions[region] = self.warnings[-1]

    def same_but_for_case(self, path: Path, kind: tuple[str, ...], name: str) -> None:
        first = self.taken.setdefault(("case", *kind, name.lower()), path)
        if first != path:
            what = f"{name} and {first[-1]} in line {self.lines.line(first)} are one name: letter case is ignored"
            self.warn(path, what, "Spell it one way")

    def fault(self, path: Path, what: str, do: str) -> None:
        self.faults.append(
            DocumentFault(self.name, self.lines.line(path), _pointed(path), what, do)
        )

    def warn(self, path: Path, what: str, do: str) -> None:
        self.warnings.append(
            DocumentFault(self.name, self.lines.line(path), _pointed(path), what, do)
        )


def _is_host(text: str) -> bool:
    try:
        return host_id(text) >= 0
    except Wrong:
        return False


def _pointed(path: Path) -> str:
    """Write a path for people: networks.acme.apps.web.machines[0].id."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{toml_key(_cut(part))}" for part in path)
    return "".join(parts).removeprefix(".")


def _cut(text: str) -> str:
    return text if len(text) <= 63 else text[:60] + "…"
