"""Read a hosts file: each name of an address becomes a record of a network.

    fdaa:0:18:a7b:7d:1:1:2   web-1.internal web-1   # comment
    10.0.0.5                 nas.lan

A name in `.internal` or in a zone that the operator names is taken as it is; a name of one label is put
below `internal`. An address of the prefix goes to its own network, any other to the network that the
operator names, or the only one that the file knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

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
from internal_dns.store.schema import RECORDS

WHAT: Final = "hosts file"
_TTL: Final = RECORDS.column("ttl").default
# Names that every host has for itself, whatever their address.
_LOCAL: Final = frozenset("localhost ip6-localhost ip6-loopback broadcasthost".split())


class _Entry(NamedTuple):
    """One name of one line."""

    line: int
    address: IPv4Address | IPv6Address
    name: str

    @property
    def subject(self) -> str:
        return f"line {self.line} ({shown(self.name)})"


def read(
    source: str | bytes, options: Options | None = None, *, zones: Sequence[str] = ()
) -> Imported:
    """Return the records of a hosts file; *zones* are the private zones that its names may be in.

    Raises SourceError for a text that is no hosts file, for a zone that cannot be, and when the
    network is not known.
    """
    draft = Draft(options or Options())
    private = [_read_zone(zone, draft.options.prefix) for zone in zones]
    entries = list(_entries(decode_text(source, WHAT), draft))
    if not entries:
        return draft.finish()
    prefix = draft.options.prefix
    networks = [_network(entry.address, prefix) for entry in entries]
    usual = None
    if None in networks:
        packed = (entry.address.packed for entry in entries)
        usual = network_of_records(packed, draft.options, WHAT)
    for entry, own in zip(entries, networks, strict=True):
        number = own if own is not None else usual
        assert number is not None
        _add(draft, entry, number, private)
    return draft.finish()


def _read_zone(text: str, prefix: bytes) -> Zone:
    zone = read_zone(text, prefix)
    if isinstance(zone, str):
        raise SourceError(f"the zone {shown(text)}", zone, "Correct --zone")
    return zone


def _entries(text: str, draft: Draft) -> Iterator[_Entry]:
    """Yield the names of each line that gives some an address that others can reach. Raises
    SourceError."""
    lines = wrong = 0
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        subject = f"line {number}"
        try:
            address = ip_address(fields[0])
        except ValueError:
            wrong += 1
            draft.note("left out, the line does not begin with an address", subject)
            continue
        lines += 1
        names = [name for name in fields[1:] if name.lower().rstrip(".") not in _LOCAL]
        if len(fields) == 1:
            draft.note("left out, the address has no name", subject)
        elif why := _why_local(address):
            draft.note(f"left out, {why}", f"{subject} ({shown(fields[0])})")
        else:
            yield from (_Entry(number, address, name) for name in names)
    if wrong and not lines:
        raise SourceError(
            f"no {WHAT}",
            "no line begins with an address",
            "Give the file itself, such as /etc/hosts",
        )


def _why_local(address: IPv4Address | IPv6Address) -> str:
    """Return why an address means something on its own host only; empty: it does not."""
    if address.is_loopback:
        return "an address of the host itself"
    if address.is_unspecified:
        return "the address says that there is none"
    if address.is_multicast:
        return "an address of many hosts"
    return "an address of one link" if address.is_link_local else ""


def _network(address: IPv4Address | IPv6Address, prefix: bytes) -> int | None:
    """Return the network whose address it is."""
    packed = address.packed
    if len(packed) != 16 or not packed.startswith(prefix):
        return None
    return int.from_bytes(packed[2:6], "big") or None


def _add(draft: Draft, entry: _Entry, number: int, private: Sequence[Zone]) -> None:
    name = read_name(entry.name)
    if isinstance(name, str):
        draft.note(f"left out, {name}", entry.subject)
        return
    labels, text = tuple(name.labels[:-1]), canonical(name)
    zone = zone_of(wire_of(name), {zone.apex for zone in private})
    if len(labels) == 1 and zone is None:
        text += ".internal"
    elif labels[-1:] != (b"internal",) and zone is None:
        outside = f"{entry.subject}"
        draft.note("left out, in no zone of the network (name it with --zone)", outside)
        return
    for one in private:
        if one.apex == zone:
            draft.add_zone(number, one)
    kind = "A" if entry.address.version == 4 else "AAAA"
    draft.add_record(number, text, kind, str(entry.address), _TTL, entry.subject)
