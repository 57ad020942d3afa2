# fmt: off
# ruff: noqa: E701 -- One thought, one line: short enough to be read in one sitting.
"""Say what the server must answer: names.md read once more, naively, as the oracle of the property
tests.

The names a network can ask for are written down as in a zone file: `iad.web.internal` to its
*node*, RRsets by type ({}: empty non-terminal). An RRset is a tuple where its order is prescribed,
else a frozenset; empty, it is NODATA. Names are lower-case text; a network is the first six octets
of its addresses.
"""
import re
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from itertools import groupby
from math import asin, cos, inf, radians, sin, sqrt
from socket import AF_INET6, inet_ntop, inet_pton
from typing import Any

import dns.exception
import dns.name
import dns.rdata

A, NS, SOA, PTR, TXT, AAAA, SRV, ANY, TRANSFERS = 1, 2, 6, 12, 16, 28, 33, 255, (251, 252)
NAME = re.compile("[A-Za-z0-9_-]{1,63}")
HIDDEN, APEX_FORMS = "interactive-", {"_apps", "_instances", "_peer", "_api", "_dns", "_whoami", "all"}
RESERVED = set("vm vms all regions global process of nearest kv _metadata _instances _page _tcp "
               "_udp".split())
# RFC 6303
PRIVATE_V4 = "0 10 127 254.169 168.192 2.0.192 100.51.198 113.0.203 255.255.255.255".split()
PRIVATE_V6 = ["d.f", "8.e.f", "9.e.f", "a.e.f", "b.e.f", "8.b.d.0.1.0.0.2", "0" + ".0" * 31, "1" + ".0" * 31]
EMPTY_ZONES = ["home.arpa", "test", "invalid", "onion", "local", "use-application-dns.net"]
EMPTY_ZONES += [*(f"{zone}.ip6.arpa" for zone in PRIVATE_V6)]
EMPTY_ZONES += [f"{zone}.in-addr.arpa" for zone in PRIVATE_V4 + [f"{n}.172" for n in range(16, 32)]]
EMPTY_ZONES += [f"{n}.100.in-addr.arpa" for n in range(64, 128)]  # RFC 7793
CNAME = 5
TYPES = {"AAAA": 28, "A": 1, "CNAME": 5, "TXT": 16, "SRV": 33, "MX": 15, "HTTPS": 65, "SVCB": 64, "CAA": 257, "PTR": 12,
         "ALIAS": -1}
ANY_ORDER = (*[*TYPES.values()][:-1], SOA)
Labels = tuple[bytes, ...]
Node = dict[int, tuple[Any, ...] | frozenset[Any]]
# Sources, id of the network they ask as, their region if given.
Map = tuple[IPv6Network, int, str | None]
Machine = namedtuple("Machine", "app id address region group state skip written_id "
                     "ready name")

@dataclass(frozen=True, slots=True)
class Expected:
    rcode: str
    type: int | None = None
    rdata: tuple[Any, ...] = ()
    ordered: bool = False
    soa: Labels | None = None  # of a negative reply; what is asked outside when aliases lead there
    chain: tuple[tuple[Labels, Labels, int], ...] = ()  # owner, target, TTL of each CNAME
    ttl: int = 5

class Catalog:
    def __init__(self, rows: dict[str, list[tuple[Any, ...]]], prefix: int = 0xFDAA) -> None:
        self.rows, self.prefix, self.zones = rows, prefix.to_bytes(2), dict[bytes, Zone]()

def resolve(catalog: Catalog, source: bytes, labels: Labels, qtype: int, *, region: str | None = None,
            rotation: int = 0, revision: int = 0, prefix: int = 0xFDAA, maps: tuple[Map, ...] = ()) -> Expected:
    if prefix.to_bytes(2) != catalog.prefix: catalog = Catalog(catalog.rows, prefix)
    network, server, elsewhere = source[:6], region or "", region or ""
    if source[:2] != catalog.prefix and (fitting := [m for m in maps if IPv6Address(source) in m[0]]):
        _, number, its_region = max(fitting, key=lambda m: m[0].prefixlen)
        network, elsewhere = catalog.prefix + number.to_bytes(4), its_region or server
    if network[:2] != catalog.prefix or not any(network[2:]) or qtype in TRANSFERS: return Expected("REFUSED")
    # A dot within a label becomes a character that no octet decodes to.
    name = ".".join(label.lower().decode("latin-1").replace(".", "\u2022") for label in labels)
    zone = catalog.zones.get(network) or catalog.zones.setdefault(network, Zone(catalog.rows, network))
    own, host, here = zone.place(source, elsewhere)
    who = f"network={zone.title},region={here},address={inet_ntop(AF_INET6, source)},server={server}"
    whoami = rrset([f"{who},revision={revision if zone.title else 0}"], ",")
    def find(name: str) -> Node | None:
        return whoami if name == "_whoami.internal" else zone.find(name, rotation, own, host, here)
    return Chase(zone, find).answer(name, qtype)

class TooLong(Exception): pass

class Chase:
    """The way from a name to an answer, in one network's eyes."""
    def __init__(self, zone: "Zone", find: Callable[[str], Node | None]) -> None:
        self.zone, self.find, self.left = zone, find, 8
    def answer(self, name: str, qtype: int) -> Expected:
        try: chain, last, apex, node, ttls = self.walk(name, qtype)
        except TooLong: return Expected("SERVFAIL")
        hops = tuple((octets_of(one), octets_of(other), ttl) for one, other, ttl in chain)
        if apex is None:
            if last.count(".") or not last or qtype not in (A, AAAA):
                return Expected("FORWARD", soa=octets_of(last) if chain else None, chain=hops)
            return Expected("NOERROR", chain=hops)
        for kind in ANY_ORDER if qtype == ANY else (qtype,):
            if rdata := (node or {}).get(kind):
                ordered = isinstance(rdata, tuple)
                found = tuple(rdata if ordered else sorted(rdata))
                return Expected("NOERROR", kind, found, ordered, chain=hops, ttl=ttls.get(kind, 5))
        return Expected("NXDOMAIN" if node is None else "NOERROR", soa=octets_of(apex), chain=hops)
    def walk(self, name: str, qtype: int) -> tuple[list[Any], str, str | None, Node | None, dict[int, int]]:
        """Return the CNAMEs, the last name, its zone, its node and the TTLs of what records hold."""
        apex, node, ttls = self.at(name, qtype)
        if node and (target := node.get(CNAME)) and qtype not in (CNAME, ANY):
            self.spend()
            (to,) = target
            chain, last, zone, end, least = self.walk(to, qtype)
            return [(name, to, ttls[CNAME]), *chain], last, zone, end, least
        return [], name, apex, node, ttls
    def spend(self) -> None:
        self.left -= 1
        if self.left < 0: raise TooLong
    def at(self, name: str, qtype: int) -> tuple[str | None, Node | None, dict[int, int]]:
        apexes = ("internal", "flycast", reverse(self.zone.network[:2]))
        apex = next((apex for apex in apexes if f".{name}".endswith(f".{apex}")), None)
        mine = max((z for z in self.zone.own_zones if f".{name}".endswith(f".{z}")), key=len, default=None)
        if apex is None and mine is None:
            local = ("localhost", "resolver.arpa", *EMPTY_ZONES)
            apex = next((apex for apex in local if f".{name}".endswith(f".{apex}")), None)
            return apex, self.find("localhost") if apex == "localhost" else {} if apex == "resolver.arpa" else None, {}
        node = self.find(name) if apex else None
        if node is not None or apex in apexes[1:]: return apex, node, {}
        sets = self.records_at(name, apex or mine or "")
        if mine and not apex and name == mine: sets = sets or {}
        if sets is None: return apex or mine, None, {}
        node, ttls = {}, {}
        alias = sets.get("ALIAS")
        for kind, (ttl, rdata) in sets.items():
            if kind != "ALIAS": node[TYPES[kind]], ttls[TYPES[kind]] = frozenset(rdata), ttl
        before = self.left
        for through in (AAAA, A, SRV):
            # ANY looks no further than the first type that there is.
            order = ANY_ORDER[:ANY_ORDER.index(through)]
            wanted = qtype == through or (qtype == ANY and not any(map(node.get, order)))
            if alias and through not in node and wanted:
                self.left = before
                self.spend()
                chain, _, there, found, least = self.walk(next(iter(alias[1])), through)
                if there and found and found.get(through):
                    node[through] = found[through]
                    ttls[through] = min(5, alias[0], least.get(through, 5), *(hop[2] for hop in chain))
        if mine and not apex and name == mine: node |= {SOA: frozenset([b"SOA"]), NS: frozenset([b"NS"])}
        return apex or mine, node, ttls
    def records_at(self, name: str, apex: str) -> dict[str, tuple[int, set[Any]]] | None:
        """Return the record sets at a name, {} for an empty non-terminal, None where nothing is."""
        def exists(one: str) -> bool:
            return one == apex or one in self.zone.existing or (apex == "internal" and self.find(one) is not None)
        if name in self.zone.existing: return self.zone.own.get(name, {})
        if not self.zone.title: return None
        encloser = name
        while not exists(encloser): encloser = encloser.partition(".")[2]
        star = f"*.{encloser}"
        return self.zone.own.get(star, {} if star in self.zone.existing else None)

Sets = dict[str, tuple[int, set[Any]]]
def record_sets(zones: set[str], rows: Iterable[tuple[Any, ...]], network: bytes) -> dict[str, Sets]:
    """Return the records of a network by owner and type: TTL and values."""
    raw: dict[str, dict[str, list[tuple[bytes, int, Any]]]] = {}
    for number, name, kind, text, ttl in rows:
        try:
            must(number.to_bytes(4) == network[2:] and kind in TYPES and 0 <= ttl <= 86400, 0)
            mine = any(f".{name}".endswith(f".{zone}") for zone in zones)
            must(name == name.lower() and not name.endswith(".") and (mine or f".{name}".endswith(".internal")), 0)
            must(kind != "PTR" or mine, 0)
            must(kind != "CNAME" or name not in zones, 0)
            must(all(1 <= len(label) <= 63 for label in name.split(".")) and len(name) <= 253, 0)
            plain = "CNAME" if kind == "ALIAS" else kind
            rdata: Any = dns.rdata.from_text("IN", plain, text, origin=dns.name.root, relativize=False)
            if kind in ("SVCB", "HTTPS"): rdata = rdata.replace(target=rdata.target.canonicalize())
            octets = rdata.to_digestable(dns.name.root)
            must(kind != "AAAA" or octets[:2] != network[:2] or octets[:6] == network, 0)
        except (ValueError, TypeError, AttributeError, OverflowError, dns.exception.DNSException): continue
        value: Any = octets
        if kind in ("CNAME", "ALIAS"): value = rdata.target.to_text(omit_final_dot=True).lower()
        if kind == "PTR": value = octets_of(rdata.target.to_text(omit_final_dot=True).lower())
        if kind == "TXT": value = b"".join(rdata.strings)
        if kind == "SRV":
            target = octets_of(rdata.target.to_text(omit_final_dot=True).lower())
            value = (rdata.priority, rdata.weight, rdata.port, target)
        if kind == "ALIAS" and not any(f".{value}".endswith(f".{z}") for z in (*zones, "internal", "flycast")): continue
        raw.setdefault(name, {}).setdefault(kind, []).append((octets, ttl, value))
    for sets in raw.values():
        if len(sets) > 1: sets.pop("CNAME", None)
        for single in "CNAME", "ALIAS":
            if single in sets: sets[single] = [one for one in sets[single] if one[0] == min(sets[single])[0]]
    return {name: {kind: (min(ttl for _, ttl, _ in some), {value for _, _, value in some})
                   for kind, some in sets.items()} for name, sets in raw.items()}

def zone_names(rows: Iterable[tuple[Any, ...]], network: bytes) -> set[str]:
    """Return the private zones of a network."""
    ours, found = ("internal", "flycast", reverse(network[:2])), set()
    for number, name in rows:
        if not isinstance(name, str) or not re.fullmatch(r"([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}", name): continue
        above = any(f".{zone}".endswith(f".{name}") or f".{name}".endswith(f".{zone}") for zone in ours)
        resolver = any(f".{name}".endswith(f".{zone}") for zone in ("resolver.arpa", "use-application-dns.net"))
        if above or resolver or name in ("local", "localhost", "test", "invalid", "onion"): continue
        if isinstance(number, int) and 0 < number < 1 << 32 and number.to_bytes(4) == network[2:]: found.add(name)
    return found

class Zone:
    """All that one network can ask for; no row of another network gets in here."""
    def __init__(self, rows: dict[str, list[tuple[Any, ...]]], network: bytes) -> None:
        def load(table: str, make: Callable[..., Any]) -> Iterator[Any]:
            # A dict keeps "A", not "a".
            for row in sorted(rows.get(table, ()), key=repr, reverse=True):
                try: yield make(*row)
                except (ValueError, OSError, TypeError, AttributeError, OverflowError): continue
        def here(id: int, value: Any) -> Any: return must(id.to_bytes(4) == network[2:], value)
        def own(id: int, text: str) -> Any:
            return here(id, must(inet_pton(AF_INET6, text)[:6] == network, inet_pton(AF_INET6, text)))
        machines = load("machines", lambda id, of, app, at, region, group, state, skip, _, ready=1, name="":
            Machine(valid(app), valid(id), own(of, at), valid(region), valid(group), state, skip, id,
                    ready != 0, name.lower() if NAME.fullmatch(name) else ""))
        self.machines: list[Machine] = sorted({m[:2]: m for m in machines}.values())
        peers = load("peers", lambda of, id, at, region: (valid(id), own(of, at), region and valid(region)))
        self.peers = sorted({peer[0]: peer for peer in peers}.values())
        flycasts = [*load("flycasts", lambda of, app, at: (own(of, at), f"{valid(app)}.flycast"))]
        apps = {m.app for m in self.machines} | {*load("apps", lambda of, app: here(of, valid(app)))}
        titles = [*load("networks", lambda id, text, _: here(id, text if NAME.fullmatch(text) else str(id)))]
        self.own_zones = zone_names(rows.get("zones", ()), network)
        self.own = record_sets(self.own_zones, rows.get("records", ()), network)
        # Owners, apexes, and what is above them.
        self.existing = {".".join(parts[at:]) for name in (*self.own, *self.own_zones)
                         for parts in [name.split(".")] for at in range(len(parts))}
        others = apps or self.peers or flycasts or self.own_zones or self.own
        titles += [str(int.from_bytes(network[2:]))] if others else []
        self.network, self.title = network, next(iter(titles), "")  # "": not in the catalog.
        self.metadata = [*load("machine_metadata", lambda id, key, value: (id, folded(key), folded(value)))]
        self.services = dict(load("machine_services", lambda id, name, by, port, priority=0, weight=1: must(
            name and by in ("tcp", "udp") and 0 < port < 65536 and {priority, weight} <= set(range(65536)),
            ((id, f"{valid('_' + name)}._{by}"), (priority, weight, port)))))
        self.regions = dict(load("regions", lambda code, _, *at: (valid(code), at[:2])))
        self.latency = dict(load("region_latency", lambda a, b, ms: ((valid(a), valid(b)), float(ms))))
        self.hosts = dict(load("hosts", lambda id, _, region: (id.to_bytes(4), valid(region))))
        # Pageable: items, and a separator if they are text.
        self.sets: dict[str, tuple[list[Any], str]] = {}
        # The visible machines of an app or of a process group.
        self.scopes: dict[str, list[Machine]] = {}
        self.nodes = dict[str, Node](localhost={A: frozenset([b"\x7f\0\0\1"]), **rrset([bytes(15) + b"\1"])})
        for apex in ("internal", "flycast", reverse(network[:2])):
            self.nodes[apex] = {SOA: frozenset([b"SOA"]), NS: frozenset([b"NS"])}
        owners = [(three(network[:2]), "_dns.internal"), (three(network), "_api.internal")]
        owners += [(at, f"{peer}._peer.internal") for peer, at, _ in self.peers if peer[:12] != HIDDEN]
        self.nodes |= {name: rrset([at]) for at, name in owners}
        if not self.title: return
        self.add("_peer.internal", sorted(name.split(".")[0] for _, name in owners[2:]), ",")
        self.add("_apps.internal", sorted(apps), ",")
        self.add_list("_instances.internal", self.machines, instance, ";")
        for app in apps - APEX_FORMS: self.add_app(app, f"{app}.internal")
        for _, name in flycasts: self.add(name, sorted({at for at, owner in flycasts if owner == name}))
        owners += flycasts + [(m.address, f"{m.id}.vm.{m.app}.internal") for m in self.machines if visible(m)]
        for address, _ in owners:
            targets = {labels_of(name) for at, name in owners if at == address}
            self.nodes |= {reverse(address, nibbles): {} for nibbles in range(5, 32)}
            self.nodes[reverse(address)] = {PTR: tuple(sorted(targets, key=wire))}
    def add_app(self, label: str, app: str) -> None:
        machines = [m for m in self.machines if m.app == label]
        self.nodes |= {f"{form}.{app}": {} for form in "vm process _metadata kv._metadata".split()}
        for name in {m.name for m in machines} - {""}:
            some = {m.address for m in machines if m.name == name and visible(m)}
            self.nodes[f"{name}.vm.{app}"] = rrset(sorted(some))
        self.nodes |= {f"{m.id}.vm.{app}": rrset(addresses([m])) for m in machines}
        self.add_list(f"_instances.{app}", machines, instance, ";")
        groups = {f"{group}.process.{app}": group for group in {m.group for m in machines}}
        for scope in (app, *groups):
            members = [m for m in machines if scope == app or m.group == groups[scope]]
            self.scopes[scope] = [m for m in members if visible(m)]
            self.nodes |= {f"of.{scope}": {}, f"nearest.of.{scope}": {}}
            for first in ("", "global."): self.add(first + scope, addresses(members))
            for name in (scope, f"global.{scope}") if scope == app else (scope,):
                self.add_services(name, app, members, machines)
            for code in {*self.regions, *(m.region for m in machines)} - RESERVED:
                there = [m for m in members if m.region == code]
                self.add(f"{code}.{scope}", addresses(there))
                self.add_services(f"{code}.{scope}", app, there, machines)
            self.add_list(f"vms.{scope}", members, lambda m: f"{m.id} {m.region}")
            self.add_list(f"regions.{scope}", sorted(members, key=lambda m: m.region), lambda m: m.region)
    def add_services(self, at: str, app: str, members: list[Machine], every: list[Machine]) -> None:
        self.nodes |= {f"_tcp.{at}": {}, f"_udp.{at}": {}}
        for name in {name for id, name in self.services if id in [m.written_id for m in every]}:
            those = [m for m in members if (m.written_id, name) in self.services]
            rdata = [(*self.services[m.written_id, name], labels_of(f"{m.id}.vm.{app}")) for m in answered(those)]
            self.nodes[f"{name}.{at}"] = {SRV: frozenset(rdata)}
    def add_list(self, name: str, ms: list[Machine], item: Callable[[Machine], str], end: str = ",") -> None:
        for form, shown in (name, visible), (f"all.{name}", lambda m: m.state != "destroyed" and not m.skip):
            self.add(form, [*dict.fromkeys(item(m) for m in ms if shown(m))], end)
    def add(self, name: str, items: list[Any], separator: str = "") -> None:
        self.sets[name], self.nodes[name] = (items, separator), rrset(items, separator)
        self.nodes[f"_page.{name}"] = {}
    def find(self, name: str, rotation: int, own: bytes, host: bytes, here: str) -> Node | None:
        if name in self.nodes: return self.nodes[name]
        form = re.fullmatch(r"top([1-9][0-9]{0,4})\.nearest\.of\.(.+)", name)
        if form and form[2] in self.scopes: return self.nearest(form[2], int(form[1]), rotation, own, host, here)
        for pattern in r"(?s)([^.]+\._page\.)(.+)", r"(?s)(.+\.)([^.]+\.flycast)":
            form = re.fullmatch(pattern, name)
            if form and form[2] in self.sets: return page(form[1], *self.sets[form[2]])
        form = re.fullmatch(r"(?s)(|.+\.)([^.]+)\.kv\._metadata\.([^.]+\.internal)", name)
        if form is None or form[3] not in self.scopes: return None
        value = f".{form[1]}".rpartition("._page.")[2].strip(".")
        having = [id for id, key, text in self.metadata if key == form[2] and value in ("", text)]
        return page(form[1], addresses(m for m in self.scopes[form[3]] if m.written_id in having))
    def nearest(self, scope: str, limit: int, rotation: int, own: bytes, host: bytes, here: str) -> Node:
        key = {m: (m.address != own, m.address[6:10] != host, m.region != here, self.cost(here, m.region))
                for m in answered(self.scopes[scope])}
        best, at = list[Machine](), list[bytes]()
        for _, group in groupby(sorted(key, key=lambda m: (key[m], m.address, m.id)), key.__getitem__):
            tied = list(group)
            best += tied[rotation % len(tied):] + tied[:rotation % len(tied)]
            fresh = list(dict.fromkeys(m.address for m in tied if m.address not in at)) or [b""]
            at += fresh[rotation % len(fresh):] + fresh[:rotation % len(fresh)]
        why = [f"{m.id} {m.region} {'-' if key[m][3] == inf else int(key[m][3] + 0.5)}" for m in best[:limit]]
        node: Node = {AAAA: tuple([address for address in at if address][:limit])}
        return node | rrset(why, ",") if scope.count(".") == 1 else node
    def cost(self, a: str, b: str) -> float:  # Milliseconds, infinite when unknown.
        for pair in ((a, b), (b, a)):
            if pair in self.latency: return float(self.latency[pair])
        ends = [*self.regions.get(a, [None]), *self.regions.get(b, [None])]
        if a == b or None in ends: return 0.0 if a == b else inf
        lat1, lon1, lat2, lon2 = map(radians, ends)
        h = sin((lat2 - lat1) / 2) ** 2 + cos(lat1) * cos(lat2) * sin((lon2 - lon1) / 2) ** 2
        return 2 * 6371.0 * asin(sqrt(min(1.0, h))) / 100
    def place(self, source: bytes, elsewhere: str) -> tuple[bytes, bytes, str]:
        if source[:6] != self.network: return b"", b"", elsewhere  # It came by a map.
        host, of_host = source[6:10], self.hosts.get(source[6:10], "")
        for _, at, region in self.peers:
            if at[:15] == source[:15]: return b"", b"", region or of_host or elsewhere
        for m in sorted(self.machines, key=lambda m: (m.state != "started", m.id)):
            if m.address[:14] == source[:14]: return m.address, host, m.region
        return b"", host if of_host else b"", of_host or elsewhere

def page(prefix: str, items: list[Any], separator: str = "") -> Node | None:
    """Return what *prefix* asks of a set: all of it, or, left of the rightmost `_page`, a page."""
    left, marker, _ = f".{prefix}".rpartition("._page.")
    if not (marker and left): return {} if marker else rrset(items, separator)
    k = re.fullmatch(r"\.([1-9][0-9]*)", left)
    return rrset(items[250 * (int(k[1]) - 1):][:250], separator) if k else None
def rrset(items: list[Any], separator: str = "") -> Node:
    return {TXT: (separator.join(items).encode(),)} if separator else {AAAA: frozenset(items)}
def instance(m: Machine) -> str:
    return f"instance={m.id},app={m.app},ip={inet_ntop(AF_INET6, m.address)},region={m.region}"
def visible(m: Machine) -> bool: return m.state == "started" and not m.skip
def answered(some: Iterable[Machine]) -> list[Machine]:
    shown = [m for m in some if visible(m)]
    return [m for m in shown if m.ready] or shown
def addresses(some: Iterable[Machine]) -> list[bytes]: return sorted({m.address for m in answered(some)})
def three(network: bytes) -> bytes: return network.ljust(15, b"\0") + b"\3"
def reverse(octets: bytes, depth: int = 32) -> str: return ".".join(octets.hex()[:depth][::-1]) + ".ip6.arpa"
def labels_of(name: str) -> Labels: return tuple(name.encode().split(b"."))
def wire(name: Labels) -> bytes: return b"".join(bytes([len(label)]) + label for label in name)
def octets_of(name: str) -> Labels:
    return tuple(label.replace("\u2022", ".").encode("latin-1") for label in name.split(".") if label)
def folded(text: str) -> str: return text.encode("utf-8", "surrogateescape").lower().decode("latin-1")
def valid(text: str) -> str: return str(must(NAME.fullmatch(text), text)).lower()
def must(holds: object, value: Any) -> Any:
    if not holds: raise ValueError(value)
    return value
