"""Messages octet by octet, and catalogs from SQL, for the tests of the core.

Queries are built without `core/wire.py`; dnspython parses the replies.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from struct import pack, unpack
from typing import Any

import dns.message
import dns.rdatatype

from internal_dns.core.catalog import Catalog
from internal_dns.core.journey import Drop, Forward, Reply, Rules, respond
from internal_dns.store.schema import TABLES
from internal_dns.store.sqlite import Loaded, read

SCHEMA = (Path(__file__).parents[2] / "schema.sql").read_text()

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, DNAME, OPT = 1, 2, 5, 6, 12, 15, 16, 28, 33, 39, 41
SVCB, HTTPS, TSIG, IXFR, AXFR, ANY = 64, 65, 250, 251, 252, 255
IN, CH, NONE, ANY_CLASS = 1, 3, 254, 255
QR, AA, TC, RD, RA, Z, AD, CD = 0x8000, 0x400, 0x200, 0x100, 0x80, 0x40, 0x20, 0x10
QUERY, NOTIFY, UPDATE = 0, 4, 5
NSID, COOKIE, KEEPALIVE, EDE = 3, 10, 11, 15

Name = str | tuple[bytes, ...]
TableRows = Mapping[str, Iterable[tuple[Any, ...]]]


def ip(text: str) -> bytes:
    """Return an address as 16 octets, IPv4 mapped."""
    packed = ip_address(text).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def labels(name: Name) -> tuple[bytes, ...]:
    return (
        name
        if isinstance(name, tuple)
        else tuple(part.encode() for part in name.split(".") if part)
    )


def wire(name: Name) -> bytes:
    return b"".join(bytes((len(label),)) + label for label in labels(name)) + b"\0"


def question(name: Name, qtype: int = AAAA, qclass: int = IN) -> bytes:
    return wire(name) + pack("!HH", qtype, qclass)


def header(
    flags: int = RD,
    qd: int = 1,
    an: int = 0,
    ns: int = 0,
    ar: int = 0,
    *,
    opcode: int = 0,
    ident: int = 0x1234,
) -> bytes:
    return pack("!6H", ident, flags | opcode << 11, qd, an, ns, ar)


def rr(
    owner: bytes,
    rtype: int,
    rdata: bytes = b"",
    *,
    rclass: int = IN,
    ttl: int = 60,
    rdlen: int = -1,
) -> bytes:
    return owner + pack("!HHIH", rtype, rclass, ttl, len(rdata) if rdlen < 0 else rdlen) + rdata


def option(code: int, value: bytes = b"", *, length: int = -1) -> bytes:
    return pack("!HH", code, len(value) if length < 0 else length) + value


def opt(
    *options: bytes,
    size: int = 1232,
    version: int = 0,
    do: bool = False,
    owner: bytes = b"\0",
    rdlen: int = -1,
) -> bytes:
    return rr(owner, OPT, b"".join(options), rclass=size, ttl=version << 16 | do << 15, rdlen=rdlen)


def query(
    name: Name,
    qtype: int = AAAA,
    *additional: bytes,
    qclass: int = IN,
    flags: int = RD,
    opcode: int = 0,
    ident: int = 0x1234,
) -> bytes:
    """Return a whole query; *additional* are records such as `opt()`."""
    head = header(flags, ar=len(additional), opcode=opcode, ident=ident)
    return head + question(name, qtype, qclass) + b"".join(additional)


# ── catalogs ──────────────────────────────────────────────────────────────────────────────────────


def opened(*statements: str, rows: TableRows | None = None) -> sqlite3.Connection:
    """Return a catalog in memory, ready for `store.sqlite.read`."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    for statement in statements:
        connection.execute(statement)
    for table, of_table in (rows or {}).items():
        insert(connection, table, of_table)
    connection.text_factory = bytes
    return connection


def insert(connection: sqlite3.Connection, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert *rows*; missing columns at the end get their defaults."""
    for row in rows:
        columns = TABLES[table][: len(row)]
        connection.execute(
            f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) "
            f"VALUES ({','.join('?' * len(row))})",
            row,
        )


def loaded(*statements: str, rows: TableRows | None = None) -> Loaded:
    connection = opened(*statements, rows=rows)
    try:
        return read(connection)
    finally:
        connection.close()


ACME, GLOBEX = 0x18, 0x19
SERVER = ip("fdaa::3")
IN_WEB = ip("fdaa:0:18:a7b:7d:1:1:2")  # a machine of acme
IN_GLOBEX = ip("fdaa:0:19:a7b:7d:1:1:2")
OUTSIDER = ip("2001:db8::1")
MANY = 100  # machines of the app `many`: 2,800 octets of AAAA RRs


def machine(
    ident: str,
    address: str,
    app: str = "web",
    region: str = "ams",
    *,
    network: int = ACME,
    group: str = "app",
    state: str = "started",
    skip: int = 0,
) -> tuple[Any, ...]:
    return (ident, network, app, address, region, group, state, skip, 0)


ROWS: dict[str, list[tuple[Any, ...]]] = {
    "networks": [(ACME, "acme", ""), (GLOBEX, "globex", "")],
    "apps": [(ACME, "blog"), (GLOBEX, "secret")],
    "machines": [
        machine("m1", "fdaa:0:18:a7b:7d:1:1:2"),
        machine("m2", "fdaa:0:18:a7b:7d:1:2:2"),
        machine("m3", "fdaa:0:18:a7b:91:1:3:2", region="iad", group="worker"),
        machine("m4", "fdaa:0:18:a7b:91:1:4:2", region="iad", state="stopped"),
        machine("b1", "fdaa:0:18:a7b:91:2:1:2", "batch", state="stopped"),
        *(machine(f"n{i:03}", f"fdaa:0:18:a7b:7d:9:{i + 1:x}:2", "many") for i in range(MANY)),
        machine("g1", "fdaa:0:19:a7b:7d:1:1:2", network=GLOBEX),
    ],
    "machine_metadata": [("m1", "role", "leader"), ("m2", "role", "replica")],
    "machine_services": [("m1", "http", "tcp", 8080), ("m2", "http", "tcp", 8080)],
    "peers": [(ACME, "laptop", "fdaa:0:18:a7b:7d:1:1:102", "")],
    "flycasts": [(ACME, "web", "fdaa:0:18:0:1::9")],
    "regions":
        [("ams", "", 52.3, 4.9, 1), ("iad", "", 39.0, -77.5, 1), ("nrt", "", 35.7, 140.0, 0)],
}  # fmt: skip
CATALOG = loaded(rows=ROWS).catalog


# ── asking ────────────────────────────────────────────────────────────────────────────────────────


def outcome(
    octets: bytes,
    *,
    source: bytes = IN_WEB,
    destination: bytes = SERVER,
    catalog: Catalog | None = CATALOG,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    rotation: int = 0,
    stream: bool = False,
    now: int = 0,
) -> Reply | Forward | Drop:
    return respond(
        octets, source, destination, catalog, rules, rotation=rotation, stream=stream, now=now
    )


def reply(octets: bytes, **how: Any) -> bytes:
    """Return the octets of the reply; fail when there is none."""
    found = outcome(octets, **how)
    assert isinstance(found, Reply), found
    assert found.octets[:2] == octets[:2]
    return found.octets


def dig(octets: bytes, **how: Any) -> dns.message.Message:
    """Return the reply as dnspython parses it."""
    return dns.message.from_wire(reply(octets, **how))


def counts(octets: bytes) -> tuple[int, ...]:
    """Return QDCOUNT, ANCOUNT, NSCOUNT and ARCOUNT."""
    return unpack("!4H", octets[4:12])


def rcode(octets: bytes) -> int:
    """Return the extended RCODE, parsed as if the opcode were QUERY.

    dnspython interprets the RCODEs of UPDATE differently.
    """
    return int(dns.message.from_wire(octets[:2] + bytes((octets[2] & 0x87,)) + octets[3:]).rcode())


def records(message: dns.message.Message, rtype: int) -> list[str]:
    """Return the rdata of that type in the answer section, in order."""
    found = dns.message.from_wire(message.wire or b"", one_rr_per_rrset=True)
    return [rdata.to_text() for rrset in found.answer if rrset.rdtype == rtype for rdata in rrset]


def options(message: dns.message.Message) -> dict[int, bytes]:
    """Return the EDNS options by code."""
    return {int(found.otype): found.to_wire() or b"" for found in message.options}
