"""Convert what another system knows about machines and peers into a declarative document.

    octets ─ decode_text, parse_json ─► one reader ─► Draft ─► Imported(document, notes)

    wireguard.py       `wg show all dump`, or a wg-quick .conf file: peers
    docker.py          `docker inspect`: machines
    consul.py          the instances of a service from Consul's API: machines
    nomad.py           allocations from Nomad's API: machines
    fly.py             Fly.io's Machines API: machines
    csv.py             a table with a header: machines or peers
    hosts.py           a hosts file: records of a network
    zone.py            an RFC 1035 master file: a private zone and its records
    __init__.py        what they share: Options, Draft, decoding of the input

Each reader is pure: `read(source, options)` opens no file and no connection. `internal-dns apply`
takes the document (docs/import.md). Notes list everything that was omitted, changed or guessed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from socket import AF_INET6, inet_pton
from typing import Any, Final, TypeVar

import msgspec

from internal_dns.core.catalog_rules import DEFAULT_RULES
from internal_dns.core.records import address_text
from internal_dns.store.presentation import Place, Record, Zone, losers, read_record
from internal_dns.store.rows import shown
from internal_dns.store.schema import RECORDS

T = TypeVar("T")
Services = Iterable[tuple[str, str, int]]  # (name, protocol, port)

MAX_EXAMPLES: Final = 10  # named in a note, before "and N more"
UNKNOWN_REGION: Final = "local"  # a machine without a region would not be served
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}\Z")
_DEFAULT: Final = re.compile(r"net-[0-9a-f]{1,8}\Z")
_SERVER: Final = bytes(9) + b"\x03"  # the free bits of <network>::3


class SourceError(Exception):
    """The input is not what it should be; the arguments are what, why, and what to do.

    It never quotes a line of the input, which may hold keys.
    """

    def __init__(self, what: str, why: str, do: str) -> None:
        super().__init__(f"{what}: {why}. {do}")
        self.what, self.why, self.do = what, why, do


@dataclass(frozen=True, slots=True)
class Imported:
    """A declarative document, and notes of what was omitted, changed or guessed, with the
    reason."""

    document: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Options:
    """Values from the command line. `app` and `region` are used where the source names none; `file`
    is the name of the input without directory and suffix, empty for standard input."""

    # Names by network id; the other networks are called net-<hex>.
    networks: Mapping[int, str] = field(default_factory=dict)
    app: str = ""
    region: str = ""
    prefix: bytes = DEFAULT_RULES.prefix
    file: str = ""
    network: int | None = None  # of records whose addresses do not say it

    def __post_init__(self) -> None:
        """Raise SourceError for names that cannot stand in a document."""
        named: dict[str, int] = {}
        for number, name in self.networks.items():
            if not 0 < number < 1 << 32:
                raise SourceError(
                    f"network {number}", "a network id is 1 to 4294967295", "Correct --network"
                )
            if named.setdefault(name.lower(), number) != number or not is_free_name(
                number, name.lower()
            ):
                why = f"another network has the name {shown(name)}"
                raise SourceError(
                    f"network {number} ({number:x} in addresses)", why, "Correct --network"
                )
        for name in (*self.networks.values(), *filter(None, (self.app, self.region))):
            if not _NAME.match(name):
                why = "a name has 1 to 63 letters, digits, - and _"
                raise SourceError(
                    f"the name {shown(name)}", why, "Correct --network, --app or --region"
                )


def is_free_name(number: int, name: str) -> bool:
    """Whether *name* is not the default name of another network."""
    return not _DEFAULT.match(name) or name == default_name(number)


def default_name(number: int) -> str:
    return f"net-{number:x}"


class Draft:
    """A document being built: names are made valid, addresses checked, duplicates rejected, all
    with a note."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.names = {number: name.lower() for number, name in options.networks.items()}
        self.numbers = {name: number for number, name in self.names.items()}
        self.machines: dict[str, dict[str, Any]] = {}  # by id: unique in the whole catalog
        self.locations: dict[str, tuple[int, str]] = {}  # by id: network and app
        self.peers: dict[tuple[int, str], dict[str, Any]] = {}
        self.owners: dict[bytes, str] = {}  # machines' addresses and peers' /120s
        self.blocks: dict[bytes, str] = {}  # machines' /112s
        self.zones: dict[int, dict[bytes, str]] = {}  # names by apex
        # Records by network and owner, each with what the source calls it.
        self.records: dict[tuple[int, bytes], dict[Record, str]] = {}
        # The original spellings of each name, by kind, the scope where it must be unique, and name.
        self.spellings: dict[tuple[str, object, str], set[str]] = {}
        self.notes: dict[str, list[str]] = {}

    def note(self, reason: str, *subjects: str) -> None:
        self.notes.setdefault(reason, []).extend(subjects)

    # ── values ────────────────────────────────────────────────────────────────────────────────────

    def make_name(self, raw: str, kind: str, subject: str, longest: int = 63) -> str:
        """Return *raw* as a valid lower-case name, empty when it has no letter or digit; note any
        change."""
        name = re.sub(r"[^A-Za-z0-9_-]", "-", re.sub("['\u2019]", "", raw)[:longest]).lower()
        if not re.search(r"[a-z0-9]", name):
            if raw:
                self.note(
                    f"{kind} not used, it has no letter or digit", f"{subject} ({shown(raw)})"
                )
            return ""
        if name != raw.lower():
            why = f"{kind} changed, a name has at most {longest} letters, digits, - and _"
            self.note(why, f"{subject} ({shown(raw)} is now {name})")
        return name

    def make_unique_name(self, raw: str, kind: str, subject: str, within: object = None) -> str:
        """Return the name for *raw*, and record its spelling: two that become one name are
        noted."""
        name = self.make_name(raw, kind, subject)
        if name:
            self.spellings.setdefault((kind, within, name), set()).add(raw.lower())
        return name

    def parse_address(self, text: str, subject: str) -> tuple[int, bytes] | None:
        """Return network and 16 octets of the address *text*, or None and add a note."""
        prefix, subject_and_text = self.options.prefix, f"{subject} ({shown(text)})"
        address = octets(text)
        if address is None:
            self.note("left out, not an IPv6 address", subject_and_text)
        elif not address.startswith(prefix):
            self.note(f"left out, the address is not in {prefix.hex()}::/16", subject_and_text)
        elif not any(address[2:6]):
            self.note("left out, network 0 is reserved", subject_and_text)
        elif address[6:16] == _SERVER:
            self.note("left out, <network>::3 is the server's own address", subject_and_text)
        else:
            return int.from_bytes(address[2:6], "big"), address
        return None

    def network_name(self, number: int) -> str:
        return self.names.get(number) or default_name(number)

    def name_network(self, number: int, raw: str, subject: str) -> None:
        """Use *raw* as the name of a network, unless the operator or an earlier record named it."""
        name = self.make_name(raw, "network name", subject)
        if name and (self.numbers.get(name, number) != number or not is_free_name(number, name)):
            self.note("network name not used, another network has it", f"{subject} ({shown(raw)})")
        elif name and self.names.setdefault(number, name) != name:
            self.note(
                f"network name not used, the network is already called {self.names[number]}",
                f"{subject} ({shown(raw)})",
            )
        elif name:
            self.numbers[name] = number

    # ── rows ──────────────────────────────────────────────────────────────────────────────────────

    def add_machine(
        self,
        raw_id: str,
        app: str,
        address: str,
        *,
        state: str,
        region: str = "",
        group: str = "",
        unready: str = "",
        name: str = "",
        skip_registration: bool = False,
        metadata: Mapping[str, str] | None = None,
        services: Services = (),
    ) -> None:
        """Add a machine, or note why not. *unready*: why it should get no traffic although it is
        started."""
        subject = shown(raw_id)
        parsed = self.parse_address(address, subject)
        if parsed is None:
            return
        number, packed = parsed
        ident = self.make_name(raw_id, "id", subject)
        app = self.make_unique_name(app or self.options.app, "app", subject, number)
        if not ident or not app:
            self.note(f"left out, no {'app' if ident else 'id'}", f"{subject} ({shown(address)})")
        elif ident in self.machines:
            self.note("left out, an earlier machine has this id", f"{subject} ({shown(address)})")
        else:
            other = self.owners.setdefault(packed, ident)
            if other != ident:
                self.note(
                    "share an address, which `apply` rejects while both are started",
                    f"{other} and {ident}",
                )
            neighbor = self.blocks.setdefault(packed[:14], ident)
            if neighbor != ident and other == ident:
                self.note(
                    "share a /112, which belongs to one machine: the server cannot tell them apart",
                    f"{neighbor} and {ident}",
                )
            self.locations[ident] = number, app
            machine = {"id": ident, "address": address_text(packed).decode(),
                       "region": self._region(region, subject),
                    "group": self.make_unique_name(group, "group", subject, (number, app)) or "app",
                    "state": self.make_name(state, "state", subject) or "created"}  # fmt: skip
            optional = {"skip_registration": skip_registration,
                        "metadata": self._metadata(metadata or {}, subject),
                    "services": self._services(services, subject)}  # fmt: skip
            self.machines[ident] = machine | {
                key: value for key, value in optional.items() if value
            }
            if unready:
                self._unready(ident, unready)
            if name := self.make_name(name, "name", subject):
                self.machines[ident]["name"] = name

    def _unready(self, ident: str, why: str) -> None:
        """Record that a started machine should get no traffic."""
        self.machines[ident]["ready"] = False
        self.note(f"started but not ready, {why}", ident)

    def add_peer(self, raw: str, address: str, *, region: str = "", rename: bool = False) -> None:
        """Add a WireGuard peer, or note why not; with *rename*, a name that is taken gets a number
        appended."""
        subject = shown(raw)
        parsed = self.parse_address(address, subject)
        if parsed is None:
            return
        number, packed = parsed
        name = self.make_name(raw, "peer name", subject)
        if not name:
            self.note("left out, no name", f"{subject} ({shown(address)})")
            return
        if (number, name) in self.peers:
            if not rename:
                self.note(
                    "left out, an earlier peer has this name", f"{subject} ({shown(address)})"
                )
                return
            name = self._free(number, name)
            self.note(
                "named with a number, because the name was taken", f"{name} ({shown(address)})"
            )
        other = self.owners.setdefault(packed[:15], name)
        if other != name:
            self.note("share a /120: the server cannot tell them apart", f"{other} and {name}")
        peer = {"address": address_text(packed).decode()}
        if region := self.make_name(region or self.options.region, "region", subject):
            peer["region"] = region
        self.peers[number, name] = peer

    def add_zone(self, number: int, zone: Zone) -> None:
        """Add a private zone, which must come before its records."""
        self.zones.setdefault(number, {})[zone.apex] = zone.name

    def add_record(
        self, number: int, name: str, rtype: str, value: str, ttl: int, subject: str
    ) -> None:
        """Add a record, or note why not; one that is there already is not another."""
        place = Place(
            self.options.prefix + number.to_bytes(4, "big"), self.zones.get(number, {}).keys()
        )
        record = read_record(name, rtype, value, ttl, place)
        if isinstance(record, str):
            self.note(f"left out, {record}", subject)
        else:
            self.records.setdefault((number, record.owner), {}).setdefault(record, subject)

    def _kept_records(self) -> dict[int, list[dict[str, Any]]]:
        """Return the records of each network, without those that cannot stand beside others."""
        kept: dict[int, list[dict[str, Any]]] = {}
        for (number, _), records in sorted(self.records.items()):
            for record, why in losers(list(records)):
                self.note(f"left out, {why}", records.pop(record))
            for record in sorted(records, key=lambda record: (record.type, record.rdata)):
                row: dict[str, Any] = {"name": record.name, "type": record.type}
                row["value"] = record.value
                if record.ttl != RECORDS.column("ttl").default:
                    row["ttl"] = record.ttl
                kept.setdefault(number, []).append(row)
        return kept

    def _free(self, number: int, name: str) -> str:
        count = 2
        while (number, f"{name[: 62 - len(str(count))]}-{count}") in self.peers:
            count += 1
        return f"{name[: 62 - len(str(count))]}-{count}"

    def _region(self, raw: str, subject: str) -> str:
        region = self.make_unique_name(raw or self.options.region, "region", subject)
        if not region:
            self.note(f"region {UNKNOWN_REGION} assumed, because the source names none", subject)
        return region or UNKNOWN_REGION

    def _metadata(self, pairs: Mapping[str, str], subject: str) -> dict[str, str]:
        metadata = {
            key: value
            for key, value in sorted(pairs.items())
            if key and storable(key) and storable(value)
        }
        for key in sorted(pairs.keys() - metadata.keys()):
            self.note(
                "metadata left out: empty key, NUL, or not Unicode", f"{subject} ({shown(key)})"
            )
        return metadata

    def _services(self, services: Services, subject: str) -> list[dict[str, Any]]:
        unique: dict[tuple[str, str], dict[str, Any]] = {}
        for raw, protocol, port in services:
            # One octet of the label is for the _ before the name.
            name = self.make_name(raw, "service", subject, 62)
            service = {"name": name, "protocol": protocol, "port": port}
            if (name, protocol) in unique and unique[name, protocol] != service:
                self.note(
                    "services left out, an earlier one has this name", f"{subject} ({shown(raw)})"
                )
            elif name and protocol in ("tcp", "udp") and 0 < port < 65_536:
                unique[name, protocol] = service
            else:
                self.note(
                    "services left out: only tcp or udp, and ports 1 to 65535",
                    f"{subject} ({shown(raw)})",
                )
        return [unique[key] for key in sorted(unique)]

    # ── the result ────────────────────────────────────────────────────────────────────────────────

    def finish(self, *, advice: bool = True) -> Imported:
        """Return the document and the notes, with *advice* for those who will `apply` it. The order
        is fixed, so that two imports can be compared."""
        networks: dict[int, dict[str, Any]] = {}
        records = self._kept_records()
        numbers = {number for number, _ in (*self.locations.values(), *self.peers)}
        for number in sorted({*numbers, *self.zones, *records}):
            address = address_text(
                self.options.prefix + number.to_bytes(4, "big") + bytes(10)
            ).decode()
            networks[number] = {"id": f"{address}/48"}
        for ident, (number, app) in sorted(
            self.locations.items(), key=lambda item: (item[1], item[0])
        ):
            apps = networks[number].setdefault("apps", {})
            machine = self.machines[ident]
            apps.setdefault(app, {"machines": []})["machines"].append(machine)
        for (number, name), peer in sorted(self.peers.items()):
            networks[number].setdefault("peers", {})[name] = peer
        for number, zones in self.zones.items():
            networks[number]["zones"] = sorted(zones.values())
        for number, rows in records.items():
            networks[number]["records"] = rows
        for (kind, _, name), raws in self.spellings.items():
            if len(raws) > 1:
                raw = ", ".join(map(shown, sorted(raws)))
                self.note(f"{kind} names became one", f"{name} from {raw}")
        named = {self.network_name(number): network for number, network in networks.items()}
        if advice and named:
            self.note(
                "`apply` makes a network exactly as written, so first add what this source lacks",
                *named,
            )
        elif advice:
            self.note("nothing to import")
        notes = [
            f"{reason}: {_join_examples(subjects)}" if subjects else reason
            for reason, subjects in self.notes.items()
        ]
        return Imported({"networks": named}, notes)


def network_of_records(addresses: Iterable[bytes], options: Options, what: str) -> int:
    """Return the network that records are of: as the operator says, else that of those of their
    *addresses* that are of the prefix. Raises SourceError."""
    if options.network is not None:
        return options.network
    numbers = {
        int.from_bytes(address[2:6], "big")
        for address in addresses
        if address.startswith(options.prefix) and len(address) == 16
    } - {0}
    if len(numbers) == 1:
        return numbers.pop()
    why = (
        f"its addresses are of {len(numbers)} networks"
        if numbers
        else "none of its addresses says which network it is for"
    )
    raise SourceError(f"no network for the {what}", why, "Say which: --network 24=acme")


def _join_examples(subjects: list[str]) -> str:
    unique = list(dict.fromkeys(subjects))
    more = len(unique) - MAX_EXAMPLES
    return ", ".join(unique[:MAX_EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")


# ── input ─────────────────────────────────────────────────────────────────────────────────────────


def octets(address: str) -> bytes | None:
    """Return the 16 octets of an IPv6 address in text, or None."""
    try:
        return inet_pton(AF_INET6, address)
    except (OSError, ValueError):
        return None


def storable(text: str) -> bool:
    """Whether *text* can be stored in a catalog: no NUL, no lone surrogate."""
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


# Octets that occur in no text, whatever its encoding, except UTF-16 and UTF-32.
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
# The longer mark first: that of UTF-32 begins like that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode_text(source: str | bytes, what: str) -> str:
    """Return the text of *source* without its byte order mark.

    The encoding is UTF-8, or what the mark says (PowerShell's `>` writes UTF-16). Raises
    SourceError for anything else: a guessed encoding would silently change names.
    """
    text = source if isinstance(source, str) else _decoded(source, what)
    text = text.removeprefix("\ufeff")
    if isinstance(source, bytes) and "\0" in text and source.count(0) * 4 > len(source):
        name, code = _probable(source)
        do = f"Convert it: iconv -f {code} -t UTF-8 FILE > FILE.utf8"
        raise SourceError(f"no {what}", f"it is probably {name}", do)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise SourceError(
            f"no {what}", f"line {line} has a NUL", "Give the text itself, saved as UTF-8"
        )
    return text


def _decoded(source: bytes, what: str) -> str:
    encoding = next((name for mark, name in _MARKS if source.startswith(mark)), "")
    try:
        return source.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding:
            why = f"its byte order mark says {encoding.upper()}, and octet {error.start + 1} is not"
            raise SourceError(f"no {what}", why, "Give the whole file, saved as UTF-8") from error
        if _CONTROLS.search(source) and source.count(0) * 4 <= len(source):
            why = f"octet {error.start + 1} is not UTF-8, and there are control characters"
            raise SourceError(f"no {what}", why, "Give the text itself, saved as UTF-8") from error
        name, code = _probable(source)
        why = f"octet {error.start + 1} is not UTF-8; it is probably {name}"
        do = f"Convert it: iconv -f {code} -t UTF-8 FILE > FILE.utf8"
        raise SourceError(f"no {what}", why, do) from error


def _probable(source: bytes) -> tuple[str, str]:
    """Return the probable encoding of text that is not UTF-8, for people and for iconv."""
    if source.count(0) * 4 > len(source):  # ASCII in UTF-16: every second octet
        order = "LE" if source[1::2].count(0) >= source[::2].count(0) else "BE"
        return f"UTF-16{order} without a byte order mark", f"UTF-16{order}"
    if any(0x80 <= octet < 0xA0 for octet in source):  # controls in Latin-1, letters in this
        return "Windows-1252", "WINDOWS-1252"
    return "Latin-1 (ISO 8859-1)", "ISO-8859-1"


def parse_json(source: object, what: str) -> object:
    """Return *source*, parsed if it is text; one object per line makes a list.

    Raises SourceError for text that is not JSON.
    """
    if not isinstance(source, str | bytes):
        return source
    text = decode_text(source, what)
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        if (listed := _by_line(text)) is not None:
            return listed
        why = (
            "it is nested too deeply"
            if isinstance(error, RecursionError)
            else f"it is not JSON: {error}"
        )
        raise SourceError(f"no {what}", why, "Give the whole output, as it was printed") from error


def _by_line(text: str) -> list[object] | None:
    """Return the objects of NDJSON, or None for other text."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or not all(line.lstrip().startswith("{") for line in lines):
        return None
    try:
        return [msgspec.json.decode(line) for line in lines]
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def convert_list(value: object, shape: type[T], what: str, do: str) -> T:
    """Return parsed JSON as *shape*. Raises SourceError naming the first value that does not
    fit."""
    try:
        return msgspec.convert(value, shape)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SourceError(f"no {what}", why, do) from error
