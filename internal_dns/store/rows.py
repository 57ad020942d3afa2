"""Turn rows into values: names, addresses, machines. A row that breaks a rule of docs/names.md
becomes a Fault.

Text arrives as octets: a row with broken UTF-8 must not stop a load.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from socket import AF_INET6, inet_pton
from typing import Any, Final, Literal

from internal_dns.core.catalog import MARKS, Machine, Marks, Peer, Region, Service
from internal_dns.core.catalog_rules import CatalogRules
from internal_dns.core.names import printable
from internal_dns.store.presentation import (
    Place,
    Record,
    Zone,
    read_record,
    read_record_of_any_zone,
    read_zone,
    written_otherwise,
)
from internal_dns.store.schema import (
    LATITUDE,
    LONGITUDE,
    MILLISECONDS,
    NAME,
    NETWORK_ID,
    PORT,
    PROTOCOL,
    RECORDS,
    SERVICE_NAME,
    SRV_NUMBER,
)

# Faults are all counted; the texts of this many are kept.
KEPT_FAULTS: Final = 1_000
_NAME: Final = re.compile(NAME.pattern.encode() + rb"\Z")
_PLAIN: Final = re.compile(NAME.pattern.replace("A-Z", "").encode() + rb"\Z")
_SERVICE_NAME: Final = re.compile(SERVICE_NAME.pattern.encode() + rb"\Z")
_PROTOCOLS: Final = tuple(choice.encode() for choice in PROTOCOL.choices)

# The columns that the methods of Values unpack, in this order.
READ: Final[Mapping[str, tuple[str, ...]]] = {
    "networks": ("id", "name"),
    "apps": ("network_id", "name"),
    "machines": (
        "id", "network_id", "app", "address", "region", "process_group", "state",
        "skip_registration",
        "ready", "name",
    ),
    "machine_metadata": ("machine_id", "key", "value"),
    "machine_services": ("machine_id", "name", "protocol", "port", "priority", "weight"),
    "peers": ("network_id", "name", "address", "region"),
    "flycasts": ("network_id", "app", "address"),
    "zones": ("network_id", "name"),
    "records": ("network_id", "name", "type", "value", "ttl"),
    "regions": ("code", "latitude", "longitude"),
    "region_latency": ("from_region", "to_region", "milliseconds"),
    "hosts": ("id", "region"),
}  # fmt: skip

Row = tuple[Any, ...]
Level = Literal["error", "warning"]
# The part of the catalog a fault belongs to: ("app", 24, b"web"), ("peers", 24), ("places",).
Scope = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that was not loaded as written. *level*: error (not loaded) or warning (loaded in
    part)."""

    table: str
    row: str
    reason: str
    level: Level = "error"

    def __str__(self) -> str:
        return f"{self.table} {self.row}: {self.reason}"


class Faults:
    """Rows that were not loaded, by the part of the catalog they belong to."""

    def __init__(self) -> None:
        self.worded: dict[Scope, list[Fault]] = {}
        self.counts: dict[Scope, int] = {}
        self.total = 0

    def add(
        self, scope: Scope, table: str, row: object, reason: str, level: Level = "error"
    ) -> None:
        self.counts[scope] = self.counts.get(scope, 0) + 1
        self.total += 1
        if self.total <= KEPT_FAULTS:
            self.worded.setdefault(scope, []).append(Fault(table, shown(row), reason, level))

    def forget(self, scope: Scope) -> None:
        """Forget the faults of a part that is about to be read again."""
        self.total -= self.counts.pop(scope, 0)
        self.worded.pop(scope, None)

    def forget_all(self, kind: str, number: object) -> None:
        """Forget the faults of all parts of one kind in network *number*."""
        for scope in [scope for scope in self.counts if scope[:2] == (kind, number)]:
            self.forget(scope)

    def all(self) -> list[Fault]:
        return [fault for faults in self.worded.values() for fault in faults]


class Values:
    """Makes values of rows, one object for each name, state, metadata pair and service however
    often it occurs."""

    def __init__(self, rules: CatalogRules) -> None:
        self.prefix = rules.prefix
        self.hidden = tuple(start.lower().encode() for start in rules.hidden)
        self.faults = Faults()
        self.names: dict[object, bytes] = {}  # valid names by how they are written
        self.states: dict[object, bytes] = {}
        self.pairs: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}
        self.published: dict[Service, Service] = {}
        self.prefixes: dict[object, bytes] = {}  # the first six octets of a network's addresses
        # By id() of a machine: its id as written, when that has capitals.
        self.capitals: dict[int, bytes] = {}

    def name(self, raw: object) -> bytes | None:
        """Return *raw* as a lower-cased label, the same object each time, or None."""
        known = self.names.get(raw)
        if known is None and isinstance(raw, bytes) and _NAME.match(raw):
            lower = raw.lower()
            known = self.names[raw] = self.names.setdefault(lower, lower)
        return known

    def scope(self, kind: str, number: object, raw: object) -> Scope:
        """Return the scope of a row's faults. All spellings of a valid name share one; any other
        text has its own."""
        return kind, number, self.name(raw) or raw

    def network(self, number: object) -> bytes | None:
        """Return the first six octets of the addresses of network *number*, or None."""
        known = self.prefixes.get(number)
        if known is None and isinstance(number, int) and NETWORK_ID.holds(number):
            known = self.prefixes[number] = self.prefix + number.to_bytes(4, "big")
        return known

    def address(self, text: object, number: object) -> bytes | None:
        """Return the 16 octets of *text* when they are an address of network *number*."""
        start = self.network(number)
        if start is None or not isinstance(text, bytes):
            return None
        try:
            packed = inet_pton(AF_INET6, text.decode("ascii"))
        except (OSError, ValueError):
            return None
        return packed if packed.startswith(start) else None

    # Hot path: a large server makes a million of these at its start. Every name is looked up; few
    # are validated.
    def machine(
        self,
        row: Row,
        metadata: Mapping[object, list[tuple[bytes, bytes]]],
        services: Mapping[object, list[Service]],
    ) -> Machine | None:
        """Return the machine of a row, or None and a fault."""
        raw, number, raw_app, text, raw_region, raw_group, state, skip, ready, raw_name = row
        names = self.names
        app = names.get(raw_app) or self.name(raw_app)
        region = names.get(raw_region) or self.name(raw_region)
        group = names.get(raw_group) or self.name(raw_group)
        plain = isinstance(raw, bytes) and _PLAIN.match(raw)
        ident = (
            raw if plain else raw.lower() if isinstance(raw, bytes) and _NAME.match(raw) else None
        )
        address = self.address(text, number)
        if ident is None or app is None or region is None or group is None or address is None:
            why = (
                "no valid id"
                if ident is None
                else "no valid app"
                if app is None
                else "no valid region"
                if region is None
                else "no valid process_group"
                if group is None
                else self.why_not(text, number)
            )
            self.faults.add(self.scope("app", number, raw_app), "machines", raw, why)
            return None
        made = Machine(
            ident,
            app,
            address,
            region,
            group,
            self.states.get(state) or self._state(state),
            MARKS[bool(skip), ready != 0] if not raw_name else self._marks(row),
            tuple(metadata[raw]) if raw in metadata else (),
            tuple(services[raw]) if raw in services else (),
        )
        if not plain:
            self.capitals[id(made)] = raw
        return made

    def _marks(self, row: Row) -> Marks:
        """Return the marks of a machine that has a name; a faulty one is ignored and a fault."""
        raw, number, raw_app, *_, skip, ready, raw_name = row
        name = self.name(raw_name)
        if name is None:
            why = f"loaded, but without its name {shown(raw_name)}: letters, digits, - and _ only"
            scope = self.scope("app", number, raw_app)
            self.faults.add(scope, "machines", raw, why, "warning")
            return MARKS[bool(skip), ready != 0]
        return Marks(bool(skip), ready != 0, name)

    def _state(self, state: object) -> bytes:
        return self.states.setdefault(state, state if isinstance(state, bytes) else b"")

    def distinct(self, machines: list[Machine], scope: Scope) -> tuple[Machine, ...]:
        """Return the machines of an app, sorted by id; of ids that differ only in letter case, the
        first as written."""
        capitals = self.capitals
        if len(machines) > 1:
            machines.sort(key=lambda m: (m[0], capitals.get(id(m), m[0])) if capitals else m[0])
            if len({m[0] for m in machines}) < len(machines):
                kept: list[Machine] = []
                for machine in machines:
                    if kept and kept[-1].id == machine.id:
                        why = "another machine of the app has this id but for letter case"
                        self.faults.add(
                            scope, "machines", capitals.get(id(machine), machine.id), why
                        )
                    else:
                        kept.append(machine)
                return tuple(kept)
        return tuple(machines)

    def pair(self, row: Row) -> tuple[bytes, bytes] | str:
        """Return key and value of a row, or what is wrong with it."""
        machine, key, value = row
        if not isinstance(machine, bytes) or not isinstance(key, bytes):
            return "machine_id and key must be text"
        made = (key, octets(value))
        return self.pairs.setdefault(made, made)

    def service(self, row: Row, taken: Iterable[Service]) -> Service | str:
        """Return the service of a row, or what is wrong with it."""
        machine, raw, protocol, port, priority, weight = row
        # NULL, which a foreign file may have, is the default.
        priority = 0 if priority is None else priority
        weight = 1 if weight is None else weight
        name = self.name(raw)
        if not isinstance(machine, bytes):
            return "machine_id must be text"
        if name is None or not _SERVICE_NAME.match(name):
            return "no valid name: 1 to 62 of letters, digits, - and _"
        if protocol not in _PROTOCOLS:
            return "the protocol is tcp or udp"
        if not isinstance(port, int) or not PORT.holds(port):
            return "the port is 1 to 65535"
        if not all(isinstance(n, int) and SRV_NUMBER.holds(n) for n in (priority, weight)):
            return "priority and weight are 0 to 65535"
        if any((name, protocol) == (other.name, other.protocol) for other in taken):
            return "the machine has a service of this name but for letter case"
        made = Service(name, protocol, port, priority, weight)
        return self.published.setdefault(made, made)

    def peer(self, row: Row, taken: Mapping[bytes, Peer]) -> Peer | None:
        """Return the peer of a row, or None and a fault."""
        number, raw, text, raw_region = row
        name, address = self.name(raw), self.address(text, number)
        region = b"" if raw_region == b"" else self.name(raw_region)
        if name is None or region is None:
            why = "no valid name" if name is None else "no valid region"
        elif address is None:
            why = self.why_not(text, number)
        elif name in taken:
            why = "another peer of the network has this name but for letter case"
        else:
            return Peer(name, address, region, not name.startswith(self.hidden))
        self.faults.add(("peers", number), "peers", raw, why)
        return None

    def flycast(self, row: Row) -> tuple[bytes, bytes] | None:
        """Return app and address of a row, or None and a fault."""
        number, raw, text = row
        name, address = self.name(raw), self.address(text, number)
        if name is not None and address is not None:
            return name, address
        why = "no valid app" if name is None else self.why_not(text, number)
        self.faults.add(self.scope("flycast", number, raw), "flycasts", raw, why)
        return None

    def zone(self, row: Row) -> Zone | None:
        """Return the private zone of a row, or None and a fault."""
        number, raw = row
        if self.network(number) is None:
            made: Zone | str = "no valid network_id"
        else:
            made = read_zone(raw, self.prefix)
        if isinstance(made, Zone) and made.name.encode() != raw:
            made = f"the name is written {made.name}"
        if isinstance(made, Zone):
            return made
        self.faults.add(("zones", number), "zones", raw, made)
        return None

    def record(self, row: Row, zones: Collection[bytes] | None) -> Record | None:
        """Return the record of a row, or None and a fault. *zones* are those of its network; None:
        they are not known."""
        number, raw, rtype, value, ttl = row
        start = self.network(number)
        if start is None:
            made: Record | str = "no valid network_id"
        else:
            # NULL, which a foreign file may have, is the default.
            ttl = RECORDS.column("ttl").default if ttl is None else ttl
            made = (
                read_record_of_any_zone(raw, rtype, value, ttl, start)
                if zones is None
                else read_record(raw, rtype, value, ttl, Place(start, zones))
            )
        if isinstance(made, Record) and (other := written_otherwise(made, raw)):
            made = other
        if isinstance(made, Record):
            return made
        self.no_record(row, made)
        return None

    def no_record(self, row: Row, why: str) -> None:
        """Add the fault of a row that is no record, or cannot stand beside others."""
        number, raw, rtype, value, _ = row
        words = b" ".join(octets(cell)[:256] for cell in (raw, rtype, value))
        self.faults.add(("record", number, raw), "records", words, why)

    def region(self, row: Row) -> tuple[bytes, Region] | None:
        """Return code and coordinates of a row, or None and add a fault."""
        raw, latitude, longitude = row
        code = self.name(raw)
        if code is None:
            self.faults.add(("places",), "regions", raw, "no valid code")
            return None
        placed = LATITUDE.holds(latitude) and LONGITUDE.holds(longitude)
        if not placed and (latitude, longitude) != (None, None):
            why = "loaded, but without coordinates: degrees, or both NULL"
            self.faults.add(("places",), "regions", raw, why, "warning")
        return code, Region(float(latitude), float(longitude)) if placed else Region(None, None)

    def latency(self, row: Row) -> tuple[tuple[bytes, bytes], float] | None:
        """Return the regions and ms of a row, or None and a fault."""
        raw_from, raw_to, milliseconds = row
        here, there = self.name(raw_from), self.name(raw_to)
        if here is None or there is None:
            why = "no valid region"
        elif not MILLISECONDS.holds(milliseconds):
            why = "milliseconds must be 0 or more"
        else:
            return (here, there), float(milliseconds)
        self.faults.add(("places",), "region_latency", raw_from, why)
        return None

    def host(self, row: Row) -> tuple[int, bytes] | None:
        """Return id and region of a row, or None and a fault."""
        number, raw = row
        region = self.name(raw)
        if region is not None and isinstance(number, int) and 0 <= number < 1 << 32:
            return number, region
        why = "no valid region" if region is None else "the id must fit 32 bits"
        self.faults.add(("places",), "hosts", number, why)
        return None

    def why_not(self, text: object, number: object) -> str:
        """Return what is wrong with an address that is not in network *number*."""
        if self.network(number) is None or not isinstance(number, int):
            return "network_id must be 1 to 4294967295"
        network = f"{self.prefix.hex()}:{number >> 16:x}:{number & 0xFFFF:x}::/48"
        return f"the address {shown(text)} is not one of {network}"


def octets(value: object) -> bytes:
    """Return a cell as octets; numbers and NULL as SQLite would convert them."""
    return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()


def shown(value: object) -> str:
    """Return a cell as at most 80 printable characters, for messages to the operator."""
    return (
        printable(
            value if isinstance(value, bytes) else str(value).encode("utf-8", "backslashreplace")
        )[:80]
        or "''"
    )
