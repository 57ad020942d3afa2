"""Read an RFC 1035 master file: a private zone and its records, by dnspython's reader.

The zone is that of the SOA, else the origin that the operator names, else the first $ORIGIN. What has
no place here is noted with its line: SOA and NS (the server has its own, and nothing is delegated),
DNSSEC, other types, names outside the zone. $INCLUDE is refused, and so is the whole file when a line
of it cannot be read.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple, NoReturn

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.tokenizer
import dns.zonefile

from internal_dns.core.own import zone_of
from internal_dns.sources import (
    Draft,
    Imported,
    Options,
    SourceError,
    decode_text,
    network_of_records,
)
from internal_dns.store.presentation import Zone, canonical, read_name, read_zone, wire_of
from internal_dns.store.rows import shown
from internal_dns.store.schema import RECORD_TYPE, TTL

WHAT: Final = "master file"
MAX_RECORDS: Final = 1_000_000  # $GENERATE makes as many as it is told
_DIRECTIVES: Final = ("$ORIGIN", "$TTL", "$GENERATE")
_DNSSEC: Final = frozenset(
    "RRSIG NSEC NSEC3 NSEC3PARAM DNSKEY DS CDS CDNSKEY KEY SIG NXT DLV".split()
)
_MAX_TTL: Final = int(TTL.high or 0)
_INTERNAL: Final = frozenset({b"\x08internal\0"})
_WHERE: Final = re.compile(r"\Afile:(\d+): ", re.DOTALL)


class _Entry(NamedTuple):
    """One record of the file."""

    line: int
    name: dns.name.Name
    ttl: int
    rdata: dns.rdata.Rdata

    @property
    def type(self) -> str:
        return dns.rdatatype.to_text(self.rdata.rdtype)

    @property
    def subject(self) -> str:
        return f"line {self.line} ({shown(canonical(self.name) or '.')} {self.type})"


def read(source: str | bytes, options: Options | None = None, *, origin: str = "") -> Imported:
    """Return the zone of a master file; *origin* completes its relative names.

    Raises SourceError, with the line, for a file that cannot be read, and when its zone or network is
    not known.
    """
    draft = Draft(options or Options())
    start = _origin(origin)
    reader = _Reader(decode_text(source, WHAT), start)
    reader.read_all()
    zone = _zone(reader, draft.options.prefix)
    if not reader.entries:
        draft.note("the file has no records")
        return draft.finish()
    addresses = (entry.rdata.to_wire() or b"" for entry in reader.entries if entry.type == "AAAA")
    number = network_of_records(addresses, draft.options, WHAT)
    if zone is not None:
        draft.add_zone(number, zone)
    for entry in reader.entries:
        if why := _why_no_place(entry, zone):
            draft.note(f"left out, {why}", entry.subject)
            continue
        if entry.ttl > _MAX_TTL:
            draft.note(f"TTL lowered to {_MAX_TTL:,} seconds, the most there is", entry.subject)
        draft.add_record(
            number,
            canonical(entry.name),
            entry.type,
            entry.rdata.to_text(relativize=False),
            min(entry.ttl, _MAX_TTL),
            entry.subject,
        )
    return draft.finish()


def _origin(text: str) -> dns.name.Name | None:
    if not text:
        return None
    name = read_name(text)
    if isinstance(name, str):
        raise SourceError(f"the origin {shown(text)}", name, "Correct --origin")
    return name


def _zone(reader: _Reader, prefix: bytes) -> Zone | None:
    """Return the zone that the file is of; None for one of `.internal`, which is ours. Raises
    SourceError."""
    apex = next((e.name for e in reader.entries if e.type == "SOA"), reader.origin)
    if apex is None:  # dnspython reads no record before there is an origin
        return None
    if zone_of(wire_of(apex.canonicalize()), _INTERNAL) is not None:
        return None
    zone = read_zone(apex.to_text(), prefix)
    if isinstance(zone, str):
        do = "Import records of .internal with --origin internal; no other zone can be that"
        raise SourceError(f"the zone {shown(apex.to_text())}", zone, do)
    return zone


def _why_no_place(entry: _Entry, zone: Zone | None) -> str:
    """Return why the records of a network have no place for this one; empty: they may have."""
    kind = entry.type
    if kind == "SOA" or (kind == "NS" and zone is not None and wire_of(entry.name) == zone.apex):
        return "the server has SOA and NS of its own"
    if kind == "NS":
        return "nothing is delegated from here"
    if kind in _DNSSEC:
        return "DNSSEC: answers of this server are not signed"
    if kind not in RECORD_TYPE.choices:
        return f"there are no records of type {kind}"
    owner = wire_of(entry.name)
    apexes = {zone.apex} if zone is not None else set()
    if zone_of(owner, apexes) is None and zone_of(owner, _INTERNAL) is None:
        return f"not in {zone.name}" if zone is not None else "not in internal"
    return ""


class _Reader(dns.zonefile.Reader):
    """Gathers the records of a text, whatever zone they are in, with their lines."""

    def __init__(self, text: str, origin: dns.name.Name | None) -> None:
        self.entries: list[_Entry] = []
        self.line, self.inside = 1, False  # of the record that is being read
        self.origin = origin
        tokenizer = dns.tokenizer.Tokenizer(text, filename="file")
        transaction: Any = _Transaction(self)
        super().__init__(tokenizer, dns.rdataclass.IN, transaction, allow_directives=_DIRECTIVES)
        # dnspython would skip what is outside the zone, and say nothing.
        self.zone_origin, self.current_origin = dns.name.root, origin

    def read_all(self) -> None:
        """Raises SourceError."""
        try:
            self.read()
        except dns.zonefile.UnknownOrigin:
            why = "names may be relative, and neither $ORIGIN nor --origin is given"
            self.fail(self.line, why, "Say what to: --origin corp.example")
        except (dns.exception.DNSException, ValueError, LookupError, ArithmeticError) as error:
            words = str(error) or type(error).__name__
            where = _WHERE.match(words)
            # dnspython names the line it has come to, which may be the next one.
            line = self.line if self.inside or not where else int(where[1])
            words = words[where.end() :] if where else words
            if "$INCLUDE" in words.upper():
                self.fail(line, "$INCLUDE is not followed", "Put the other file in its place")
            if "default TTL" in words:
                self.fail(line, "no TTL is given", "Put $TTL 300 before the first record")
            self.fail(line, shown(words).rstrip("."), "Correct the line, or delete it")

    def fail(self, line: int, why: str, do: str) -> NoReturn:
        raise SourceError(f"no {WHAT}", f"line {line}: {why}", do)

    def add(self, name: dns.name.Name, ttl: int, rdata: dns.rdata.Rdata) -> None:
        if len(self.entries) >= MAX_RECORDS:
            why, do = f"it has more than {MAX_RECORDS:,} records", "Import it in parts"
            self.fail(self.line, why, do)
        self.entries.append(_Entry(self.line, name.canonicalize(), ttl, rdata))

    def _rr_line(self) -> None:
        self.line, self.inside = self.tok.line_number, True
        super()._rr_line()
        self.inside = False

    def _generate_line(self) -> None:
        self.line, self.inside = self.tok.line_number, True
        super()._generate_line()  # type: ignore[no-untyped-call]
        self.inside = False


class _Transaction:
    """What dnspython's reader writes to."""

    def __init__(self, reader: _Reader) -> None:
        self.reader, self.manager = reader, self

    def origin_information(self) -> tuple[dns.name.Name | None, bool, dns.name.Name | None]:
        return self.reader.origin, False, self.reader.origin

    def check_put_rdataset(self, check: object) -> None:
        """Records that cannot stand beside others are noted, with all others."""

    def add(self, name: dns.name.Name, ttl: int, rdata: dns.rdata.Rdata) -> None:
        self.reader.add(name, ttl, rdata)

    def _set_origin(self, origin: dns.name.Name) -> None:
        if self.reader.origin is None:
            self.reader.origin = origin
