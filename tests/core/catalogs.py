"""Random small catalogs with hostile names, and random queries to them.

Names are drawn from few words, most of which have a meaning in the grammar, so that they collide
and shadow each other.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address
from random import Random
from typing import Any

from tests.core.messages import AAAA, ANY, AXFR, MX, NS, PTR, SOA, SRV, TXT, A, ip, labels

Rows = dict[str, list[tuple[Any, ...]]]

NETWORKS = (0x18, 0x19, 0x1A, 0xFFFF_FFFF)
HOSTS = (0x0A7B_007D, 0x0A7B_0091, 1)
APPS = (
    "web web web db WEB a-b vms vm _apps _page _instances _peer global all internal kv of 7 top1 "
    "ams _api"
).split()
REGIONS = "ams ams iad iad nrt AMS global vms _page kv lax".split()
GROUPS = "app app worker Worker vm process _page all ams web".split()
IDS = [
    *(f"m{i}" for i in range(8)),
    "M1",
    "m1x",
    "vm",
    "all",
    "_page",
    "3d8d9",
    "AB",
    "Ab",
    "aB",
    "ab",
    "1",
]
NAMES = "blue blue Blue m1 _page vm web AB".split()
STATES = "started started started started started stopped created destroyed Started".split()
KEYS = ["role", "Role", "a.b", "", "_page", "kv", "1", "k é"]
VALUES = [
    "leader",
    "LEADER",
    "iad.leader",
    "",
    "_page",
    "1._page",
    "x..y",
    "é",
    "leader.role",
    "a" * 70,
    "7",
]
SERVICES = ["http", "http", "http", "HTTP", "_http", "", "x" * 62, "x" * 63, "a b", "_tcp"]
PEERS = "laptop Laptop _apps _page interactive-1 Interactive-2 web _peer all 1 internal".split()
BAD_NAMES = ["", "a b", "a.b", "x" * 64, "é", "x\0", "*", "web.", None]
BAD_ADDRESSES = [
    "",
    "fdaa::1",
    "fdaa:0:77::1",
    "::1",
    "192.0.2.1",
    "fdaa:0:18::1%eth0",
    "web",
    "fdaa:0:18:1:1:1:1:1 ",
]
# Words of the grammar, and others that stand for data.
WORDS = (
    "vm vms all regions global process of nearest kv _metadata _instances _page _tcp _udp _apps "
    "_peer _api _dns "
    "_whoami top1 top2 top3 top99999 top100000 top0 top01 topx 1 2 0 01 9 nosuch"
).split()


def named(rng: Random, pool: list[str]) -> Any:
    return rng.choice(BAD_NAMES if rng.random() < 0.02 else pool)


def address(rng: Random, network: int) -> str:
    """Return an address in *network*, often one that another row has."""
    if rng.random() < 0.02:
        return rng.choice(BAD_ADDRESSES)
    host, number, free = (
        rng.choice(HOSTS),
        rng.randint(1, 3),
        rng.choice((2, 2, 2, 3, 0x102, 0x103, 0x202)),
    )
    if rng.random() < 0.02:
        host, number, free = 0, 0, 3  # the network's server address
    text = IPv6Address(
        0xFDAA << 112 | (network & 0xFFFF_FFFF) << 80 | host << 48 | number << 16 | free
    )
    return str(text) if rng.random() < 0.8 else text.exploded.upper()


def marks(rng: Random) -> tuple[Any, ...]:
    """Return readiness and name of a machine, as far as the row has them."""
    ready = rng.choice((1, 1, 0, 0, 2))
    name = rng.choice(["", "", *NAMES, *(bad for bad in BAD_NAMES if bad is not None)])
    return rng.choice(((), (ready,), (ready, name), (ready, name)))


def random_rows(rng: Random) -> Rows:
    """Return a random catalog, by table."""
    networks = [*NETWORKS[: rng.randint(1, 4)]]
    anywhere = [*networks, *networks, *networks, *networks, 0, -1, 1 << 32, None]

    def in_network() -> Any:
        return rng.choice(networks if rng.random() < 0.95 else anywhere)

    rows: Rows = {
        "networks": [
            (n, rng.choice(["acme", "Acme", "", "a b", "acme.x"]), "")
            for n in networks
            if rng.random() < 0.7
        ],
        "apps": [(in_network(), named(rng, APPS)) for _ in range(rng.randint(0, 4))],
        "machines": [],
    }
    ids = rng.sample(IDS, rng.randint(0, len(IDS)))
    for ident in ids:
        network = in_network()
        rows["machines"].append((
            named(rng, [ident]), network, named(rng, APPS[: rng.choice((3, 6, 20))]),
            address(rng, network or 0x18),
            named(rng, REGIONS), named(rng, GROUPS), rng.choice(STATES), int(rng.random() < 0.1), 0,
            *marks(rng),
        ))  # fmt: skip
    rows["machine_metadata"] = [
        (rng.choice(ids), rng.choice(KEYS), rng.choice(VALUES))
        for _ in range(rng.randint(0, 10))
        if ids
    ]
    rows["machine_services"] = [
        (
            rng.choice(ids),
            named(rng, SERVICES),
            rng.choice(("tcp", "tcp", "udp", "sctp", "TCP")),
            rng.choice((80, 80, 81, 0, 65_536, 65_535)),
            *rng.choice(((), (), (0, 1), (10, 5), (10, 0), (65_535, 65_535), (-1, 1), (0, 65_536))),
        )
        for _ in range(rng.randint(0, 12))
        if ids
    ]
    rows["peers"] = []
    for _ in range(rng.randint(0, 4)):
        network = in_network()
        region = rng.choice(["", "", "iad", "AMS", "a b"])
        rows["peers"].append((network, named(rng, PEERS), address(rng, network or 0x18), region))
    rows["flycasts"] = []
    for _ in range(rng.randint(0, 4)):
        network = in_network()
        rows["flycasts"].append((network, named(rng, APPS), address(rng, network or 0x18)))
    rows["regions"] = [
        (code, "", *place, 1)
        for code, place in (
            ("ams", (52.3, 4.9)), ("iad", (39.0, -77.5)), ("nrt", (35.7, 140.0)),
            ("Lax", (None, None)),
            ("global", (1, 1)),
        )
        if rng.random() < 0.5
    ]  # fmt: skip
    rows["region_latency"] = [
        (rng.choice(REGIONS), rng.choice(REGIONS), rng.choice((0, 1, 1.5, 2.5, 80.4)))
        for _ in range(rng.randint(0, 4))
    ]
    rows["hosts"] = [(host, "", named(rng, REGIONS)) for host in HOSTS if rng.random() < 0.4]
    add_records(rng, rows, in_network)
    return deduplicated(rows)


def add_records(rng: Random, rows: Rows, in_network: Callable[[], Any]) -> None:
    """Add records and zones, of most catalogs."""
    rows["zones"], rows["records"] = [], []
    if rng.random() < 0.2:
        return
    for _ in range(rng.randint(0, 5)):
        rows["zones"].append((in_network(), rng.choice(ZONES if rng.random() < 0.9 else BAD_ZONES)))
    owners = [owner_name(rng, rows) for _ in range(rng.randint(1, 24))]
    most = in_network()  # has most of them
    for _ in range(rng.randint(1, 40)):
        owner, network = rng.choice(owners), rng.choice((most, most, in_network()))
        rtype = rng.choice(RECORD_TYPES)
        value = rng.choice(RECORD_VALUES.get(rtype, ["x"]))
        if rtype in ("CNAME", "ALIAS"):
            value = target_name(rng, rows, owners)
        elif rtype in ("MX", "SRV"):
            value = f"{value} {target_name(rng, rows, owners)}"
        elif rtype == "AAAA" and rng.random() < 0.7:
            value = address(rng, network or 0x18)
        ttl = rng.choice((5, 5, 5, 0, 1, 3, 60, 300, 86_400, 86_401, -1))
        rows["records"].append((network, owner, rtype, value, ttl))


ZONES = """corp.example corp.example lan in.corp.example a.b.corp.example example b.corp.example
10.in-addr.arpa x.test x.localhost home.arpa c.lan""".split()
BAD_ZONES = ["", "internal", "x.internal", "flycast", "arpa", "ip6.arpa", "local", "localhost", "Lan",
             "corp.example.", "a..b", "resolver.arpa", "x" * 64, "a b"]  # fmt: skip
RECORD_TYPES = "A A AAAA AAAA CNAME CNAME CNAME CNAME ALIAS ALIAS ALIAS TXT MX SRV CAA HTTPS SVCB PTR NS a".split()
RECORD_VALUES = {
    "A": ["10.0.0.1", "10.0.0.2", "010.0.0.1", "10.0.0"],
    "AAAA": ["2001:db8::1", "fdaa:0:18::7", "fdaa:0:19::7", "::g"],
    "TXT": ['"a" "b"', "ac", '"' + "x" * 255 + '"', '"' + "x" * 256 + '"'],
    "MX": ["10", "5", "65536"],
    "SRV": ["0 1 80", "1 1 81", "0 0"],
    "CAA": ['0 issue "ca.example"', "0 issue"],
    "HTTPS": ["1 . alpn=h2", "1 Web.internal port=1"],
    "SVCB": ["1 web.internal port=53", "0 x.y"],
    "PTR": ["web.internal", "Db.internal."],
    "NS": ["a.b"],
    "a": ["10.0.0.1"],
}
OWN_LABELS = "pg web db nosuch www mail a b x * * vm ams _http _tcp 7 _peer internal".split()


def owner_name(rng: Random, rows: Rows) -> str:
    """The owner of a record: in .internal, in a zone or, seldom, nowhere."""
    zones = [str(name) for _, name in rows["zones"]] or ["corp.example"]
    zone = rng.choice(("internal", "internal", rng.choice(zones), rng.choice(ZONES)))
    drawn = rng.random()
    if zone == "internal" and drawn < 0.3:
        name = ".".join(our_name(rng, rows, rng.choice(NETWORKS))).lower()
        name = name if name.isascii() and name.replace(".", "a").isprintable() else "pg.internal"
        name = name if not set(name) & set(' "@;()\\$') else "pg.internal"
        if rng.random() < 0.5:
            name = f"{rng.choice(OWN_LABELS)}.{name}"
        return name
    depth = rng.choice((0, 1, 1, 1, 2, 2, 3))
    name = ".".join((*(rng.choice(OWN_LABELS) for _ in range(depth)), zone))
    if drawn > 0.97:
        return name.upper() if drawn > 0.985 else f"{name}."
    return name


def target_name(rng: Random, rows: Rows, owners: list[str]) -> str:
    """What an alias leads to."""
    drawn = rng.random()
    apps = [row[2] for row in rows["machines"] if row[6] == "started" and row[2] in APPS]
    if drawn < 0.25 and apps:
        return f"{rng.choice(('', '', f'{rng.choice(REGIONS)}.', 'top2.nearest.of.'))}{rng.choice(apps)}.internal"
    if drawn < 0.5:
        name = rng.choice(owners).lower()
        return name.replace("*", rng.choice(("*", "any")))
    if drawn < 0.8:
        name = ".".join(our_name(rng, rows, rng.choice(NETWORKS)))
        fine = name.isascii() and name.replace(".", "a").isprintable()
        return name if fine and not set(name) & set(' "@;()\\$') else "web.internal"
    return rng.choice(("_whoami.internal", "out.example.com", "localhost", "a.home.arpa", "host", "a..b",
                       "top1.nearest.of.web.internal", "www.corp.example.", "corp.example", "x.lan"))  # fmt: skip


PRIMARY_KEYS = {"networks": 1, "apps": 2, "machines": 1, "machine_metadata": 2,
                "machine_services": 3, "peers": 2,
                "flycasts": 3, "regions": 1, "region_latency": 2, "hosts": 1, "zones": 2,
                "records": 4}  # fmt: skip
NOT_NULL = {
    "networks",
    "apps",
    "machines",
    "peers",
    "flycasts",
    "machine_metadata",
    "machine_services",
    "hosts",
    "zones",
    "records",
}


def deduplicated(rows: Rows) -> Rows:
    """Return the rows that SQLite accepts: one per primary key, NULL only where allowed."""
    taken: Rows = {}
    for table, of_table in rows.items():
        kept: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for row in of_table:
            if table not in NOT_NULL or None not in row:
                kept.setdefault(row[: PRIMARY_KEYS[table]], row)
        taken[table] = [*kept.values()]
    return taken


def random_source(rng: Random, rows: Rows) -> bytes:
    """Return the address of a machine, a peer or a stranger."""
    drawn = rng.random()
    owners = [row[3] for row in rows["machines"]] + [row[2] for row in rows["peers"]] * 2
    if drawn < 0.6 and owners:
        try:
            found = bytearray(ip(rng.choice(owners)))
        except ValueError:
            return ip("fdaa:0:18::1")
        if rng.random() < 0.3:
            found[15] ^= rng.choice((1, 4))
        return bytes(found)
    if drawn < 0.9:
        network, host = rng.choice((*NETWORKS, 0x18, 0x77)), rng.choice((*HOSTS, 5))
        return IPv6Address(
            0xFDAA << 112 | network << 80 | host << 48 | rng.randint(1, 4) << 16 | 2
        ).packed
    return ip(
        rng.choice(
            ["::1", "127.0.0.1", "2001:db8::1", "fdaa::3", "fdaa::1", "fdab:0:18::1", "10.0.0.1"]
        )
    )


def random_name(rng: Random, rows: Rows, source: bytes = b"") -> tuple[bytes, ...]:
    """Return a name built from the grammar, sometimes bent.

    More often than not it exists in the network of *source*.
    """
    drawn = rng.random()
    if drawn < 0.08:
        name = reverse_name(rng, rows)
    elif drawn < 0.11:
        name = labels(rng.choice(ELSEWHERE))
    elif drawn < 0.55 and (rows["records"] or rows["zones"]):
        name = own_name(rng, rows, int.from_bytes(source[2:6], "big"))
    else:
        name = tuple(
            part.encode() for part in our_name(rng, rows, int.from_bytes(source[2:6], "big"))
        )
    if rng.random() < 0.15:
        name = bent(rng, name)
    while sum(len(label) + 1 for label in name) > 254:
        name = name[1:]
    return name


def own_name(rng: Random, rows: Rows, network: int) -> tuple[bytes, ...]:
    """Return a name of a record or zone, or one beside it, mostly of this network."""
    every = [str(row[1]) for table in ("records", "zones") for row in rows[table]]
    near = [
        str(row[1]) for table in ("records", "zones") for row in rows[table] if row[0] == network
    ]
    name = rng.choice(near if near and rng.random() < 0.95 else every).strip(".")
    parts = [part.encode()[:63] for part in name.split(".") if part]
    match rng.randrange(14):
        case 0:
            parts.insert(0, rng.choice(OWN_LABELS).encode())
        case 1:
            del parts[:1]
        case 2:
            parts[:1] = [rng.choice(OWN_LABELS).encode()]
    return tuple(part if part != b"*" or rng.random() < 0.3 else b"any" for part in parts)


# Labels with names below them and no records.
BETWEEN = ("vm", "process", "of", "nearest.of", "kv._metadata", "_metadata", "_tcp", "_udp")
ELSEWHERE = """. example.com www.example.com localhost a.localhost test x.test home.arpa invalid
onion fly-local-6pn com 1.0.0.10.in-addr.arpa 10.in-addr.arpa 32.172.in-addr.arpa
16.172.in-addr.arpa x.31.172.in-addr.arpa d.f.ip6.arpa b.a.d.f.ip6.arpa f.ip6.arpa ip6.arpa arpa
internal.example xinternal local internal.com 1.127.in-addr.arpa 8.e.f.ip6.arpa
8.b.d.0.1.0.0.2.ip6.arpa 254.169.in-addr.arpa 255.255.255.255.in-addr.arpa""".split()


def reverse_name(rng: Random, rows: Rows) -> tuple[bytes, ...]:
    known = [row[3] for row in rows["machines"]] + [
        row[2] for row in (*rows["peers"], *rows["flycasts"])
    ]
    known += ["fdaa::3", "fdaa:0:18::3", "fdaa:0:19::3", "fdaa:0:77::3", "fdaa:0:18::9", "fdaa::"]
    try:
        nibbles = [*ip(rng.choice(known)).hex()][::-1]
    except ValueError:
        nibbles = [*bytes(16).hex()]
    cut = rng.choice((0, 0, 0, 1, rng.randint(0, 28), rng.randint(0, 32)))
    return (*(nibble.encode() for nibble in nibbles[cut:]), b"ip6", b"arpa")


def our_name(rng: Random, rows: Rows, network: int) -> list[str]:
    """Return the labels of a name in a zone of ours."""
    near = [row for row in rows["machines"] if row[1] == network] or rows["machines"]
    whole = rng.choice(near) if near and rng.random() < 0.8 else None
    published = [(m, row) for row in rows["machine_services"] for m in near if m[0] == row[0]]
    if published and rng.random() < 0.05:
        m, row = rng.choice(published)
        return [f"_{row[1]}"[:63], f"_{row[2]}", str(m[2])[:63] or "x", "internal"]

    def of(at: int, others: list[str]) -> str:
        return str(whole[at]) if whole and rng.random() < 0.9 else rng.choice(others)

    if rng.random() < 0.3 and (named := [m[10] for m in near if len(m) > 10 and m[10]]):
        ident = str(rng.choice(named))[:63]

    def beside(table: str, at: int, others: list[str]) -> str:
        """Return a cell of a row that belongs to the machine, or of any row."""
        near = [row for row in rows[table] if whole and row[0] == whole[0]] or rows[table]
        return str(rng.choice(near)[at]) if near and rng.random() < 0.8 else rng.choice(others)

    app, group, region, ident = of(2, APPS), of(5, GROUPS), of(4, REGIONS), of(0, IDS)
    top = f"top{rng.choice((1, 2, 3, 5, 99_999))}.nearest.of"
    key, value = beside("machine_metadata", 1, KEYS), beside("machine_metadata", 2, VALUES)
    service = f"_{beside('machine_services', 1, SERVICES)}.{rng.choice(('_tcp', '_tcp', '_udp'))}"
    every, page = rng.choice(("", "all.")), f"{rng.choice(('1', '1', '2', '0', '01', 'x'))}._page."
    paging = rng.choice(("", "", "", page, "_page."))
    form = rng.choice((
        f"{app}", f"{app}", f"global.{app}", f"{region}.{app}", f"{region}.{app}",
        f"{top}.{app}", f"{top}.{app}",
        f"{ident}.vm.{app}", f"{group}.process.{app}", f"{value}.{key}.kv._metadata.{app}",
        f"{value}.{key}.kv._metadata.{app}", f"{key}.kv._metadata.{app}",
        f"{every}regions.{app}", f"{every}vms.{app}", f"{every}_instances.{app}",
        f"{service}.{app}", f"{service}.{app}", f"{service}.{region}.{app}",
        f"{service}.{group}.process.{app}", f"{service}.{region}.{group}.process.{app}",
        f"{service}.global.{app}",
        f"{region}.{group}.process.{app}",
        f"{top}.{group}.process.{app}",
        f"global.{group}.process.{app}", f"{every}regions.{group}.process.{app}",
        f"{every}vms.{group}.process.{app}",
        "_apps", f"{every}_instances", "_peer", f"{beside('peers', 1, PEERS)}._peer", "_api",
        "_dns", "_whoami", "all", "",
        f"{rng.choice(BETWEEN)}.{app}",
        f"{rng.choice(('of', 'nearest.of', '_tcp', '_udp'))}.{group}.process.{app}",
        f"{rng.choice(('_tcp', '_udp'))}.{rng.choice((region, 'global'))}.{app}",
        f"_tcp.{region}.{group}.process.{app}",
        ".".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4))) + f".{app}",
        ".".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4))),
    ))  # fmt: skip
    zone = "internal"
    if rng.random() < 0.1:
        zone, form = (
            "flycast",
            rng.choice(("", "a.", "a.b.", "_page.x.")) + beside("flycasts", 1, APPS),
        )
    return [part[:63] for part in f"{paging}{form}.{zone}".split(".") if part]


def bent(rng: Random, name: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return *name* with a label added, removed, moved or joined, capitals or odd octets."""
    bent = [*name]
    at = rng.randrange(len(bent) + 1)
    match rng.randrange(8):
        case 0:
            bent.insert(at, rng.choice(WORDS).encode())
        case 1 if len(bent) > 1:
            del bent[at % len(bent)]
        case 2:
            bent = [label.upper() for label in bent]
        case 3 if len(bent) > 2:
            rng.shuffle(bent)
        case 4 if len(bent) > 1:
            at %= len(bent) - 1
            bent[at : at + 2] = [(bent[at] + b"." + bent[at + 1])[:63]]
        case 5:
            bent.insert(
                at, rng.choice((b"\0", b"\xff", b"\xc3\xa9", b"a.b", b'"', b" ", b"\xc3\x89"))
            )
        case 6 if bent:
            at %= len(bent)
            bent[at] = (bent[at] + rng.choice((b"\0", b".", b"x", b"\n")))[:63]
        case 7:
            bent.insert(0, rng.choice((b"x", b"1", b"global", b"_page")))
    return tuple(bent)


def random_type(rng: Random) -> int:
    return rng.choice(
        (AAAA, AAAA, AAAA, AAAA, TXT, TXT, TXT, SRV, PTR, ANY, A, SOA, NS, MX, 0, 65_535, 65, AXFR)
    )


# Of ALIAS, what it stands for.
NUMBERS = {"A": (A,), "AAAA": (AAAA,), "CNAME": (5, A, AAAA, AAAA, TXT), "ALIAS": (AAAA, AAAA, A, SRV),
           "TXT": (TXT,), "MX": (MX,), "SRV": (SRV,), "CAA": (257,), "HTTPS": (65,), "SVCB": (64,),
           "PTR": (PTR,)}  # fmt: skip


def natural_type(name: tuple[bytes, ...], rng: Random, rows: Rows | None = None) -> int:
    """Return a type that the name is likely to have."""
    if rng.random() < 0.3:
        return random_type(rng)
    if rows and rows["records"] and rng.random() < 0.9:
        written = b".".join(name).decode("latin-1").lower()
        own = [row[2] for row in rows["records"] if row[1] == written]
        own = own or [
            row[2]
            for row in rows["records"]
            if str(row[1])[:1] == "*" and written.endswith(str(row[1])[1:])
        ]
        if own:
            return rng.choice(NUMBERS.get(rng.choice(own), (A,)))
    lowered = [label.lower() for label in name]
    if lowered[-1:] == [b"arpa"]:
        return PTR
    if b"_tcp" in lowered or b"_udp" in lowered:
        return SRV
    texts = {b"regions", b"vms", b"_instances", b"_apps", b"_whoami"}
    is_text = bool(texts.intersection(lowered)) or lowered[-2:] == [b"_peer", b"internal"]
    return TXT if is_text or (b"nearest" in lowered and rng.random() < 0.5) else AAAA
