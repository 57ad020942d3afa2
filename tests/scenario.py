"""Read `.scn` files, sessions with dig written down, and play them to a server: what is asked, and
what must come back.

    ; Comment. A file without a `scenario` line is one scenario, called as its first comment
    sentence says.
    catalog acme.sql                         verbs before the first scenario are where each scenario starts
    asking  fdaa:0:18:a7b:7d:f066:b83b:2

    scenario A stopped machine leaves the name.
    change UPDATE machines SET state = 'stopped' WHERE id = '3d8d';
    > web.internal. AAAA +tcp
    < NOERROR qr aa rd ra
    web.internal. 5 IN AAAA fdaa:0:18:a7b:7d:1:1:2

Verbs, until the end of the scenario:
    catalog PART...     FILE.sql of tests/scenarios/catalogs, `demo`, `sized:N` (see `sized`), or `none`: not loaded yet
    change SQL;         executed on the catalog's file, which the server rereads
    server RULE...      region=iad prefix=fdab upstream=none dev map=::1/128=fdaa:0:18::/48 udp-limit=N nsid=TEXT
                        hidden=PREFIX,... forward=SUFFIX,...    (each `server` line starts from the defaults again)
    asking ADDRESS      the source, an IPv4 address too         at ADDRESS      the destination, fdaa::3 by default
    turn N              the edge's random number                faults N        rows that the load must have left out
    in-process only     needs what no socket can tell or set: `turn`, `faults`, `rotates`, `dropped`, `catalog none`

Questions; those that follow each other directly share what is expected below them:
    > NAME TYPE [+tcp +bufsize=N +noedns +nordflag +cd +ad +do +cookie=hex +nsid +keepalive +as=TEXT +opt=code:hex
                 +class=CH +opcode=N +edns=VERSION +ednsflags=hex +flags=hex]      EDNS with 1232 octets by default
    >hex OCTETS [+tcp]                       a raw message: `..` repeats as in 00*12

Expected, all of it: a section that is not listed is empty.
    < RCODE flags       (`*`: any) then answer lines, `authority:`, `additional:` and `edns:` with lines of their own;
                        `additional: N` means N of those that follow
    nxdomain ZONE · nodata ZONE              with the flags of an authoritative reply and that zone's SOA
    refused · silent · dropped REASON · forwarded
    NAME TTL IN TYPE RDATA                   `@` is the name asked; {1..3c} counts in hexadecimal: one line each
    NAME TTL IN TXT join "," "{1..3c} iad"   one TXT RR: the items joined, strings of at most 255 octets
                        revision=* at the end of one stands for any number but 0
    soa ZONE            that zone's SOA RR as a negative reply has it
    ordered             the answer in this order; sets compare without order otherwise
    truncated [N]       TC is set; N of the answer's RRs (or items) are left, no more would fit; without N: all listed
    rotates             asked with every turn, each address comes first equally often
    only N              N of the answer's RRs, as many as were asked for        answer any      whatever it holds
    alike               the replies to the questions above have the same octets but for id and QNAME
    size N · size <= N · size <= query
    ede CODE|* ["TEXT"] · no ede · cookie [HEX] · nsid TEXT · keepalive N · options any
                        under `edns:`; an EDE is compared if one is listed, other options must be

A Runner moves octets; `play` builds queries and judges replies. dnspython is the judge, dnslib the
second one, and a short walk over the octets sees what both hide: compression, sizes. None of them
shares code with the server.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from struct import unpack_from
from zlib import crc32

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dnslib
from dns.rdtypes.ANY.TXT import TXT

from internal_dns.core.catalog import Catalog, NetworkId
from internal_dns.core.journey import Drop, Forward, Rules, respond
from internal_dns.core.requester import SourceMap
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import Loaded, load

FOLDER = Path(__file__).with_name("scenarios")
ASK_AS, OUR_UDP_SIZE = 65_001, 4_096


# ── what a scenario says ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Server:
    """The rules of the server that is asked."""

    region: str = ""
    prefix: str = "fdaa"
    upstream: bool = True
    dev: bool = False
    maps: tuple[tuple[str, int], ...] = ()  # (source network, network id)
    udp_limit: int = 8_192
    nsid: str = ""
    hidden: tuple[str, ...] = ("interactive-",)
    forward: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """All that a reply depends on besides the query. `changes` are SQL, in order, on the catalog of
    these parts."""

    catalog: tuple[str, ...] = ("none",)
    changes: tuple[str, ...] = ()
    server: Server = Server()
    source: str = "fdaa:0:18:a7b:7d:f066:b83b:2"
    destination: str = "fdaa::3"
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """One `>` line, as octets, with what the judge must know of it."""

    text: str
    octets: bytes
    stream: bool = False
    name: dns.name.Name | None = None  # None: a raw message
    edns_size: int | None = None
    dnssec_ok: bool = False
    cookie: bytes = b""
    ask_as: bytes | None = None  # the option of dev mode

    def limit(self, server: Server) -> int:
        """Octets the reply may have: names.md, "Size"."""
        if self.stream:
            return 65_535
        return 512 if self.edns_size is None else max(512, min(self.edns_size, server.udp_limit))


@dataclass(slots=True)
class Expected:
    """What must come back. `rcode` is empty when nothing must; `unheard` says what becomes of the
    message then."""

    unheard: str = ""  # "silent", "forwarded" or "dropped REASON"
    rcode: str = ""
    flags: str | None = (
        None  # None: those of a plain reply, as the shorthand's `aa` and the query's bits make them
    )
    aa: bool = False
    answer: list[str] = field(default_factory=list)
    authority: list[str] = field(default_factory=list)
    additional: list[str] = field(default_factory=list)
    extra: int = -1  # so many of the additional records; -1: all
    edns: list[str] | None = None
    ordered: bool = False
    truncated: int | None = None  # -1: all that is listed is left
    only: int = 0  # so many of the answer's records; 0: all
    any_answer: bool = False
    rotates: bool = False
    alike: bool = False
    sizes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ask:
    """Questions, and what each of them must get."""

    line: int
    setting: Setting
    questions: tuple[Question, ...]
    expected: Expected


@dataclass(frozen=True, slots=True)
class Faults:
    """How many rows the load must have left out."""

    line: int
    setting: Setting
    count: int


@dataclass(frozen=True, slots=True)
class Scenario:
    file: Path
    line: int
    title: str
    in_process_only: bool
    steps: tuple[Ask | Faults, ...]


class Broken(Exception):
    """A scenario file that cannot be read; the text says where and why."""


# ── reading a file ────────────────────────────────────────────────────────────────────────────────


def read(path: Path) -> list[Scenario]:
    """Return the scenarios of *path*. Raises Broken."""
    return _Reader(path, path.read_text("utf-8")).scenarios()


def parsed(text: str, name: str = "text.scn") -> list[Scenario]:
    """Return the scenarios of *text*. Raises Broken."""
    return _Reader(Path(name), text).scenarios()


def all_scenarios() -> list[Scenario]:
    """Return the whole corpus."""
    return [scenario for path in sorted(FOLDER.glob("*.scn")) for scenario in read(path)]


class _Reader:
    """Goes through the lines once; `setting` is where the verbs have led so far."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.number, self.lines = path, 0, text.splitlines()
        self.setting, self.preamble = Setting(), (Setting(), False)
        self.in_process = False
        self.title, self.start, self.first_comment = "", 0, ""
        self.steps: list[Ask | Faults] = []
        self.questions: list[Question] = []
        self.expected: Expected | None = None
        self.section: list[str] = []
        self.done: list[Scenario] = []

    def scenarios(self) -> list[Scenario]:
        pending = ""
        for number, raw in enumerate(self.lines, 1):
            self.number = number
            line = re.sub(r"\s{2,};\s.*$", "", raw).strip()
            if line.startswith(";"):
                self.first_comment = self.first_comment or line.lstrip("; ")
                continue
            if pending or line.startswith("change "):  # SQL may take several lines
                self.end_questions()
                pending = f"{pending} {line}".strip()
                if pending.endswith(";"):
                    self.verb("change", pending.removeprefix("change "))
                    pending = ""
                continue
            try:
                self.take(line)
            except (ValueError, dns.exception.DNSException, KeyError) as error:
                raise Broken(f"{self.path}:{number}: {line}: {error}") from error
        if pending:
            raise Broken(f"{self.path}:{self.number}: `change` without its `;`")
        try:
            self.end_scenario()
        except ValueError as error:
            raise Broken(f"{self.path}:{self.number}: {error}") from error
        return self.done

    def take(self, line: str) -> None:
        """Take one line that is no comment and no SQL."""
        word, _, rest = line.partition(" ")
        if not line:
            self.end_questions()
        elif line.startswith(">"):
            if self.expected is not None:
                self.end_questions()
            ident = crc32(f"{self.path.name}:{self.number}".encode()) & 0xFFFF
            self.questions.append(raw(line) if line.startswith(">hex ") else question(line, ident))
        elif self.questions and self.expected is None:
            self.expected = self.begin(word, rest.strip())
            self.section = self.expected.answer
        elif self.expected is not None and not self.modifier(word, rest.strip()):
            if word in VERBS or word == "scenario":
                raise ValueError("an empty line is missing before this verb")
            self.section.append(line)
        elif self.expected is None:
            self.end_questions()
            self.verb(word, rest.strip())

    def begin(self, word: str, rest: str) -> Expected:
        """Return what the first line below questions expects."""
        match word, rest.split():
            case "<", [rcode, *flags]:
                return Expected(rcode=rcode, flags=" ".join(flags))
            case "nxdomain" | "nodata", [zone]:
                rcode = "NXDOMAIN" if word == "nxdomain" else "NOERROR"
                return Expected(rcode=rcode, aa=True, authority=[f"soa {zone}"])
            case "refused", []:
                return Expected(rcode="REFUSED")
            case "silent" | "forwarded", []:
                return Expected(unheard=word)
            case "dropped", _ if rest:
                self.needs_process()
                return Expected(unheard=f"dropped {rest}")
        raise ValueError("not what may follow a question")

    def modifier(self, word: str, rest: str) -> bool:
        """Take a line that is no record: whether it was one."""
        expected = self.expected
        assert expected is not None
        match word, rest:
            case "authority:", "":
                self.section = expected.authority
            case "additional:", _:
                self.section = expected.additional
                expected.extra = int(rest or -1)
            case "edns:", "":
                self.section = expected.edns = []
            case "ordered", "":
                expected.ordered = True
            case "truncated", _:
                expected.truncated = int(rest or -1)
            case "rotates", "":
                self.needs_process()
                expected.rotates = True
            case "only", _:
                expected.only = int(rest)
            case "answer", "any":
                expected.any_answer = True
            case "alike", "":
                expected.alike = True
            case "size", _:
                expected.sizes.append(rest)
            case _:
                return False
        return True

    def verb(self, word: str, rest: str) -> None:
        """Take a line that changes the setting."""
        setting = self.setting
        match word:
            case "scenario":
                self.begin_scenario(rest)
            case "catalog":
                if rest == "none":
                    self.needs_process()
                self.setting = replace(setting, catalog=tuple(rest.split()), changes=())
            case "change":
                self.setting = replace(setting, changes=(*setting.changes, rest))
            case "server":
                self.setting = replace(setting, server=server(rest.split()))
            case "asking":
                self.setting = replace(setting, source=str(ip_address(rest)))
            case "at":
                self.setting = replace(setting, destination=str(ip_address(rest)))
            case "turn":
                self.needs_process()
                self.setting = replace(setting, turn=int(rest))
            case "faults":
                self.needs_process()
                self.steps.append(Faults(self.number, setting, int(rest)))
            case "in-process" if rest == "only":
                self.in_process = True
            case _:
                raise ValueError("no such verb")

    def needs_process(self) -> None:
        if not self.in_process:
            raise ValueError("this needs `in-process only` above it")

    def begin_scenario(self, title: str) -> None:
        if not title.endswith("."):
            raise ValueError("a title is a sentence")
        if not self.title:
            if self.steps:
                raise ValueError("questions before the first scenario")
            self.preamble = (self.setting, self.in_process)
        else:
            self.end_scenario()
        self.title, self.start = title, self.number
        self.setting, self.in_process = self.preamble

    def end_questions(self) -> None:
        if self.questions:
            if self.expected is None:
                raise ValueError("nothing is expected of this question")
            if not self.expected.rcode and not self.expected.unheard:
                raise ValueError("no RCODE")
            self.steps.append(Ask(self.number, self.setting, tuple(self.questions), self.expected))
        self.questions, self.expected = [], None

    def end_scenario(self) -> None:
        self.end_questions()
        title, line = self.title or self.first_comment.split(". ")[0], self.start or 1
        if not self.steps:
            raise Broken(f"{self.path}:{line}: {title}: asks nothing")
        self.done.append(Scenario(self.path, line, title, self.in_process, tuple(self.steps)))
        self.steps = []


VERBS = frozenset("catalog change server asking at turn faults in-process".split())


def server(rules: list[str]) -> Server:
    """Read the words of a `server` line."""
    found: dict[str, object] = {}
    maps: list[tuple[str, int]] = []
    for rule in rules:
        name, _, value = rule.partition("=")
        match name:
            case "region" | "prefix" | "nsid":
                found[name] = value
            case "upstream":
                found[name] = {"none": False, "some": True}[value]
            case "dev":
                found[name] = True
            case "udp-limit":
                found["udp_limit"] = int(value)
            case "hidden" | "forward":
                found[name] = tuple(value.split(","))
            case "map":
                source, _, network = value.partition("=")
                number = int.from_bytes(
                    IPv6Address(network.removesuffix("::/48") + "::").packed[2:6], "big"
                )
                maps.append((str(ip_network(source)), number))
            case _:
                raise ValueError(f"no rule {rule!r}")
    return Server(**found, maps=tuple(maps))  # type: ignore[arg-type]  # each was read with its own type


# ── questions ─────────────────────────────────────────────────────────────────────────────────────


def question(line: str, ident: int) -> Question:
    """Build the query of a `> NAME TYPE [+option...]` line."""
    name_text, type_text, *words = line[1:].split()
    name = dns.name.from_text(name_text)
    said = dict(word.removeprefix("+").partition("=")[::2] for word in words)
    if any(not word.startswith("+") for word in words) or said.keys() - OPTIONS:
        raise ValueError("an unknown +option")
    options = [
        dns.edns.GenericOption(dns.edns.OptionType(code), value) for code, value in _options(said)
    ]
    rdclass = dns.rdataclass.from_text(said.get("class", "IN"))
    size = None if "noedns" in said else int(said.get("bufsize", 1232))
    edns_flags = int(said.get("ednsflags", "0"), 16) | (dns.flags.DO if "do" in said else 0)
    message = dns.message.QueryMessage(id=ident)
    message.flags = dns.flags.Flag(int(said.get("flags", "0"), 16))
    for word, bit in (("cd", dns.flags.CD), ("ad", dns.flags.AD)):
        message.flags |= bit * (word in said)
    message.flags |= dns.flags.RD * ("nordflag" not in said)
    message.set_opcode(dns.opcode.Opcode(int(said.get("opcode", "0"))))
    rdtype = dns.rdatatype.from_text(type_text)
    message.question = [dns.rrset.RRset(name, rdclass, rdtype)]
    if size is not None:
        message.use_edns(int(said.get("edns", "0")), edns_flags, size, options=list(options))
    cookie = bytes.fromhex(said.get("cookie", ""))[:8]
    return Question(
        line, message.to_wire(), "tcp" in said, name, size, bool(edns_flags & dns.flags.DO), cookie,
        dict(_options(said)).get(ASK_AS),
    )  # fmt: skip


OPTIONS = frozenset(
    "tcp bufsize noedns nordflag cd ad do cookie nsid keepalive as opt class opcode edns ednsflags "
    "flags".split()
)


def _options(said: dict[str, str]) -> Iterator[tuple[int, bytes]]:
    """The EDNS options of a question line."""
    if "cookie" in said:
        yield 10, bytes.fromhex(said["cookie"])
    if "nsid" in said:
        yield 3, b""
    if "keepalive" in said:
        yield 11, b""
    if "as" in said:
        yield ASK_AS, said["as"].encode()
    if "opt" in said:
        code, _, value = said["opt"].partition(":")
        yield int(code), bytes.fromhex(value)


def raw(line: str) -> Question:
    """Read a `>hex` line; `00*12` is twelve times 00."""
    octets, stream = b"", False
    for word in line.removeprefix(">hex").split():
        if word == "+tcp":
            stream = True
            continue
        digits, _, times = word.partition("*")
        octets += bytes.fromhex(digits) * int(times or 1)
    return Question(line, octets, stream)


# ── expected records ──────────────────────────────────────────────────────────────────────────────

_RANGE = re.compile(r"\{([0-9a-f]+)\.\.([0-9a-f]+)\}")
_JOIN = re.compile(r'(\S+ \d+ IN TXT) join "(.)" "(.*)"$')


def expanded(text: str) -> list[str]:
    """Write {1..3c} out: hexadecimal, zero-padded to the width of the first. Several ranges of a
    line go in step."""
    ranges = [(int(low, 16), int(high, 16), len(low)) for low, high in _RANGE.findall(text)]
    if not ranges:
        return [text]
    counts = {high - low + 1 for low, high, _ in ranges}
    if len(counts) != 1:
        raise ValueError(f"ranges of different lengths: {text}")
    plain = _RANGE.split(text)[::3]
    return [
        "".join(
            [
                plain[0],
                *(
                    f"{low + n:0{width}x}{rest}"
                    for (low, _, width), rest in zip(ranges, plain[1:], strict=True)
                ),
            ]
        )
        for n in range(counts.pop())
    ]


def records(lines: list[str], name: dns.name.Name | None) -> list[str]:
    """Return the records that *lines* say, each as `canonical` writes one that came."""
    asked = (name or dns.name.root).to_text()
    return [_canonical_text(text, asked) for line in lines for text in expanded(line)]


@cache  # by the name's text: dnspython's names are equal whatever their letter case
def _canonical_text(text: str, name: str) -> str:
    if text.startswith("soa "):
        text = f"{text[4:]} 1 IN SOA _dns.internal. hostmaster.internal. 1 5 5 5 1"
    owner, ttl, rdclass, rdtype, rdata = text.split(None, 4)
    shown = name if owner == "@" else dns.name.from_text(owner).to_text()
    value = dns.rdata.from_text(rdclass, rdtype, rdata)
    return f"{shown} {ttl} {rdclass} {rdtype} {value.to_text()}"


def chunked(items: list[str], separator: str) -> list[str]:
    """Cut joined *items* greedily into strings of at most 255 octets, only after a separator."""
    strings = [""]
    for number, item in enumerate(items):
        piece = item + (separator if number < len(items) - 1 else "")
        if len(strings[-1]) + len(piece) > 255:
            strings.append("")
        strings[-1] += piece
    return strings


# ── how octets travel ─────────────────────────────────────────────────────────────────────────────


class Runner(ABC):
    """A server to play scenarios to. `why` says what became of a message without a reply, if the
    runner can know: "forwarded" or "dropped REASON"; a runner over sockets knows the first from its
    stub upstream.
    """

    in_process = False
    why = ""

    def begin(self, scenario: Scenario) -> None:  # noqa: B027 -- a runner may keep nothing
        """A scenario starts; nothing of the one before must be seen in it."""

    @abstractmethod
    def prepare(self, setting: Setting) -> None:
        """Have a server with this catalog and these rules; called before every exchange, so compare
        first."""

    @abstractmethod
    def exchange(
        self, octets: bytes, source: str, destination: str, *, stream: bool
    ) -> bytes | None:
        """Send one message and return the reply, without the two length octets of TCP; None: there
        was none."""

    def faults(self) -> int:
        """Return how many rows the load left out."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 -- most have nothing to close
        """Let go of files and processes."""


class Files:
    """Catalog files by their parts: each made once, and copied when it is to be changed."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="scenarios-"))
        self.made: dict[tuple[str, ...], Path] = {}

    def file(self, setting: Setting) -> Path:
        """Return the file with the catalog of *setting*, its changes executed."""
        path = self.made.get(setting.catalog)
        if path is None:
            path = self.made[setting.catalog] = self.folder / f"{len(self.made)}.db"
            make_catalog(path, setting.catalog)
        if setting.changes:
            path = Path(shutil.copy(path, self.folder / "changed.db"))
            for sql in setting.changes:
                execute(path, sql)
        return path

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def make_catalog(path: Path, parts: tuple[str, ...]) -> None:
    """Write the catalog that a `catalog` line names."""
    if "demo" in parts:
        create_catalog(path, demo_rows())
    else:
        execute(path, resources.files("internal_dns").joinpath("schema.sql").read_text("utf-8"))
    for part in parts:
        if part.startswith("sized:"):
            execute(path, sized(int(part.removeprefix("sized:"))))
        elif part != "demo":
            execute(path, FOLDER.joinpath("catalogs", part).read_text("utf-8"))


def execute(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # Nothing here must survive a crash.
        connection.executescript(
            f"PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY; BEGIN; {sql}; COMMIT"
        )
    finally:
        connection.close()


def sized(count: int) -> str:
    """Return SQL for network 0x18 with one app, `big`, of *count* started machines.

    Machine n (hexadecimal, from 1) is `000000000000n` of 14 digits at fdaa:0:18:a7b:7d:1:n:2 in
    iad, in group `app`. Every one has metadata role=member. Flycast `big` has as many addresses,
    fdaa:0:18:0:1:1:n:2, and each machine has a peer beside it: `peer-n` of four digits.
    """
    rows = range(1, count + 1)
    machines = ",".join(
        f"('{n:014x}', 24, 'big', 'fdaa:0:18:a7b:7d:1:{n:x}:2', 'iad', 'started')" for n in rows
    )
    metadata = ",".join(f"('{n:014x}', 'role', 'member')" for n in rows)
    flycasts = ",".join(f"(24, 'big', 'fdaa:0:18:0:1:1:{n:x}:2')" for n in rows)
    peers = ",".join(f"(24, 'peer-{n:04x}', 'fdaa:0:18:a7b:7d:2:{n:x}:102')" for n in rows)
    return f"""
        INSERT INTO networks (id, name) VALUES (24, 'acme');
        INSERT INTO machines (id, network_id, app, address, region, state) VALUES {machines};
        INSERT INTO machine_metadata VALUES {metadata};
        INSERT INTO flycasts VALUES {flycasts};
        INSERT INTO peers (network_id, name, address) VALUES {peers};
    """


class InProcess(Runner):
    """Calls `respond` itself: no socket, no clock."""

    in_process = True

    def __init__(self) -> None:
        self.files = Files()
        self.kept: dict[tuple[tuple[str, ...], str, tuple[str, ...]], Loaded] = {}
        self.setting: Setting | None = None
        self.loaded = Loaded()
        self.catalog: Catalog | None = None

    def begin(self, scenario: Scenario) -> None:
        self.setting = None

    def prepare(self, setting: Setting) -> None:
        before, self.setting = self.setting, setting
        key = (setting.catalog, setting.server.prefix, setting.server.hidden)
        if (
            before is not None
            and (before.catalog, before.server.prefix, before.server.hidden) == key
        ):
            if before.changes == setting.changes:
                return
        if setting.catalog == ("none",):
            self.loaded, self.catalog = Loaded(), None
            return
        if setting.changes or key not in self.kept:
            grown = before is not None and before.catalog == setting.catalog
            self.loaded = load(
                self.files.file(setting),
                prefix=bytes.fromhex(setting.server.prefix),
                hidden=setting.server.hidden,
                previous=self.loaded.catalog
                if grown and before and before.server == setting.server
                else None,
            )
            if not setting.changes:
                self.kept[key] = self.loaded
        else:
            self.loaded = self.kept[key]
        self.catalog = self.loaded.catalog

    def exchange(
        self, octets: bytes, source: str, destination: str, *, stream: bool
    ) -> bytes | None:
        assert self.setting is not None
        outcome = respond(
            octets,
            packed(source),
            packed(destination),
            self.catalog,
            self.rules(self.setting.server),
            turn=self.setting.turn,
            stream=stream,
            now=1_767_225_600,
        )
        match outcome:
            case Drop(reason):
                self.why = f"dropped {reason}"
                return None
            case Forward():
                self.why = "forwarded"
                return None
        self.why = ""
        return outcome.octets

    @staticmethod
    @cache
    def rules(said: Server) -> Rules:
        return Rules(
            prefix=bytes.fromhex(said.prefix),
            region=said.region.encode() or None,
            maps=tuple(
                SourceMap.of(ip_network(source), NetworkId(number)) for source, number in said.maps
            ),
            forwarding=said.upstream,
            udp_limit=said.udp_limit,
            dev=said.dev,
            nsid=said.nsid.encode(),
            forwarded=tuple(tuple(suffix.encode().split(b".")) for suffix in said.forward),
        )

    def faults(self) -> int:
        return self.loaded.fault_count

    def close(self) -> None:
        self.files.close()


def packed(address: str) -> bytes:
    """The 16 octets the edge passes on: IPv4 is ::ffff:a.b.c.d."""
    found = ip_address(address)
    return found.packed if found.version == 6 else bytes(10) + b"\xff\xff" + found.packed


# ── playing ───────────────────────────────────────────────────────────────────────────────────────


def play(scenario: Scenario, runner: Runner, *, times: int = 1) -> int:
    """Play *scenario*, each question *times* over (a server may repeat what it remembers); return
    the questions asked.

    Raises AssertionError with all that is wrong.
    """
    failures, asked = [], 0
    runner.begin(scenario)
    for step in scenario.steps:
        runner.prepare(step.setting)
        if isinstance(step, Faults):
            if runner.faults() != step.count:
                where = f"{_shown(scenario.file)}:{step.line}"
                failures.append(
                    f"{where}: expected {step.count} rows left out, got {runner.faults()}"
                )
            continue
        forms = set()
        for query in step.questions:
            for _ in range(times):
                complaints, octets = _ask(scenario, step, query, runner)
                failures += complaints
                forms.add(_form(octets or b"", query))
                asked += 1
        if step.expected.alike and len(forms) != 1:
            failures.append(
                f"{_shown(scenario.file)}:{step.line}: the replies differ beyond id and QNAME"
            )
    assert not failures, f"{scenario.title}\n\n" + "\n\n".join(failures)
    return asked


def _form(octets: bytes, query: Question) -> bytes:
    """A reply without its id and QNAME."""
    name = query.name.to_wire() if query.name is not None else None
    return octets[2:12] + octets[12 + len(name or b"") :]


def _ask(
    scenario: Scenario, step: Ask, query: Question, runner: Runner
) -> tuple[list[str], bytes | None]:
    """Ask one question once: what is wrong, in words, and the reply."""
    setting = step.setting
    octets = runner.exchange(query.octets, setting.source, setting.destination, stream=query.stream)
    complaints = judge(step.expected, query, setting.server, octets, runner.why)
    if step.expected.rotates and not complaints:
        complaints = _rotation(step, query, runner)
        runner.prepare(setting)
    if not complaints:
        return [], octets
    where = f"{_shown(scenario.file)}:{step.line}: asking {setting.source} at {setting.destination}"
    return ["\n".join([
        where, query.text, *(f"  ! {complaint}" for complaint in complaints[:12]),
        "expected", *_indented(wanted(step.expected, query, setting.server)),
        "got", *_indented(_got(octets, runner.why)),
    ])], octets  # fmt: skip


def _rotation(step: Ask, query: Question, runner: Runner) -> list[str]:
    """Ask with every turn of one round: each record comes first once and is seen equally often."""
    everything = records(step.expected.answer, query.name)
    first: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for turn in range(len(everything)):
        runner.prepare(replace(step.setting, turn=turn))
        octets = runner.exchange(
            query.octets, step.setting.source, step.setting.destination, stream=query.stream
        )
        complaints = judge(step.expected, query, step.setting.server, octets, runner.why)
        if complaints or octets is None:
            return [f"with turn {turn}: {complaint}" for complaint in complaints]
        answer = _rrs(dns.message.from_wire(octets, one_rr_per_rrset=True).answer)
        first[answer[0]] += 1
        seen.update(answer)
    uneven = [
        f"{rr}: first {first[rr]} times, seen {seen[rr]} times"
        for rr in everything
        if first[rr] != 1
    ]
    if len(set(seen.values())) != 1:
        uneven.append(f"not seen equally often: {sorted(set(seen.values()))}")
    return uneven


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _indented(text: str) -> list[str]:
    lines = text.splitlines()
    if len(lines) > 40:
        lines = [*lines[:20], f"... {len(lines) - 30} lines ...", *lines[-10:]]
    return [f"    {line}" for line in lines]


def _got(octets: bytes | None, why: str) -> str:
    if octets is None:
        return why or "silent"
    try:
        return shown(dns.message.from_wire(octets, one_rr_per_rrset=True), len(octets))
    except dns.exception.DNSException as error:
        return f"{octets.hex()}\n{type(error).__name__}: {error}"


# ── judging ───────────────────────────────────────────────────────────────────────────────────────


def judge(
    expected: Expected, query: Question, said: Server, octets: bytes | None, why: str
) -> list[str]:
    """Return all that is wrong with the reply *octets*, or with there being none."""
    if octets is None or expected.unheard:
        got = "a reply" if octets is not None else why or "silence"
        if octets is not None or not expected.unheard:
            return [f"expected {expected.unheard or 'a reply'}, got {got}"]
        if expected.unheard == "silent":
            return [f"expected silence, got {got}"] * (why == "forwarded")
        return [f"expected {expected.unheard}, got {got}"] * (why != expected.unheard)
    try:
        reply = dns.message.from_wire(octets, one_rr_per_rrset=True)
    except dns.exception.DNSException as error:
        return [f"dnspython rejects the reply: {type(error).__name__}: {error}"]
    checks: list[Callable[[], Iterator[str]]] = [
        lambda: _judge_header(expected, query, said, reply, octets),
        lambda: _judge_sections(expected, query, said, reply, octets),
        lambda: _judge_edns(expected, query, said, reply),
        lambda: _judge_octets(query, said, octets),
        lambda: _second_judge(query, reply, octets),
    ]
    return [complaint for check in checks for complaint in check()]


def wanted_flags(expected: Expected, query: Question, said: Server) -> list[str]:
    """The header bits, as `dig` spells and orders them."""
    if expected.flags == "*":
        return ["*"]
    if expected.flags is not None:
        found = expected.flags.split()
    else:
        word = unpack_from("!H", query.octets, 2)[0]
        bits = {
            "qr": True,
            "aa": expected.aa,
            "rd": word & dns.flags.RD,
            "ra": said.upstream,
            "cd": word & dns.flags.CD,
        }
        found = [name for name, on in bits.items() if on]
    if expected.truncated is not None and "tc" not in found:
        found.append("tc")
    return sorted(found, key=FLAGS.index)


FLAGS = ["qr", "aa", "tc", "rd", "ra", "ad", "cd"]


def _judge_header(
    expected: Expected, query: Question, said: Server, reply: dns.message.Message, octets: bytes
) -> Iterator[str]:
    if octets[:2] != query.octets[:2]:
        yield "another id"
    if expected.rcode not in ("*", dns.rcode.to_text(reply.rcode())):
        yield f"rcode: expected {expected.rcode}, got {dns.rcode.to_text(reply.rcode())}"
    wants, got = wanted_flags(expected, query, said), dns.flags.to_text(reply.flags).lower().split()
    if (expected.flags != "*" and sorted(wants) != sorted(got)) or octets[3] & 0x40:
        yield f"flags: expected {' '.join(wants)}, got {' '.join(got)}{' z' * bool(octets[3] & 0x40)}"
    if (octets[2] ^ query.octets[2]) & 0x78:
        yield "the opcode is not the query's"
    end = 12 + len(query.name.to_wire() or b"") + 4 if query.name is not None else 12
    asked = query.octets[12:end]
    if query.name is not None and octets[12:end] != asked:
        yield f"the question is not echoed: {octets[12:end]!r}"
    if (
        query.name is None
        and reply.question
        and not query.octets[12:].startswith(octets[12 : _question_end(octets)])
    ):
        yield "the question is not the one of the query"
    for size in expected.sizes:
        most = size.removeprefix("<=").strip()
        bound = len(query.octets) if most == "query" else int(most)
        if len(octets) > bound or (len(octets) != bound and not size.startswith("<=")):
            yield f"size: expected {size}, got {len(octets)}"
    if len(octets) > query.limit(said) and query.name is not None:
        yield f"{len(octets)} octets, {query.limit(said)} may be sent"


def _judge_sections(
    expected: Expected, query: Question, said: Server, reply: dns.message.Message, octets: bytes
) -> Iterator[str]:
    got = _rrs(reply.answer)
    if any("revision=*" in line for line in expected.answer):
        got = [re.sub(r'revision=[1-9]\d*"$', 'revision=*"', record) for record in got]
    if expected.any_answer:
        if not got:
            yield "answer: empty"
    elif (joined := _JOIN.match(expected.answer[0]) if expected.answer else None) is not None:
        yield from _judge_joined(expected, query, joined, got)
    else:
        wants = records(expected.answer, query.name)
        left = expected.truncated if expected.truncated is not None else -1
        if expected.only:
            yield from _judge_part(expected, wants, got, expected.only)
        elif left < 0:
            yield from _compared("answer", wants, got, ordered=expected.ordered)
        else:
            yield from _judge_part(expected, wants, got, left)
            size = 12 + len(reply.answer[0][0].to_wire() or b"") if reply.answer else 28
            if len(octets) + size <= query.limit(said):
                yield f"one more RR would fit: {len(octets)} octets"
    yield from _compared(
        "authority", records(expected.authority, query.name), _rrs(reply.authority)
    )
    wants, got = records(expected.additional, query.name), _rrs(reply.additional)
    if expected.extra < 0:
        yield from _compared("additional", wants, got)
    elif len(got) != expected.extra or Counter(got) - Counter(wants):
        yield f"additional: expected {expected.extra} of those listed, got {len(got)}"


def _judge_part(expected: Expected, wants: list[str], got: list[str], left: int) -> Iterator[str]:
    """Judge what is left of a truncated answer."""
    if len(got) != left:
        yield f"answer: expected {left} RRs of {len(wants)}, got {len(got)}"
    if len(set(got)) != len(got):
        yield "answer: an RR twice"
    if strange := sorted(set(got) - set(wants)):
        yield f"answer: not expected: {strange[0]}"
    if expected.ordered and got != wants[: len(got)]:
        yield "answer: not the first ones in order"


def _judge_joined(
    expected: Expected, query: Question, joined: re.Match[str], got: list[str]
) -> Iterator[str]:
    """Judge one TXT RR that holds a list."""
    head, separator, pattern = joined.groups()
    items = expanded(pattern)
    if expected.truncated is not None and expected.truncated >= 0:
        items = items[: expected.truncated]
    text = " ".join(f'"{string}"' for string in chunked(items, separator))
    wants = [_canonical_text(f"{head} {text}", (query.name or dns.name.root).to_text())]
    if wants != got:
        count = got[0].count(separator) + 1 if got else 0
        yield f"answer: expected {len(items)} items joined, got {len(got)} RRs, {count} items in the first"


def _compared(
    section: str, wants: list[str], got: list[str], *, ordered: bool = False
) -> Iterator[str]:
    missing, extra = Counter(wants) - Counter(got), Counter(got) - Counter(wants)
    yield from (f"{section}: missing {rr}" for rr in missing.elements())
    yield from (f"{section}: not expected {rr}" for rr in extra.elements())
    if ordered and not missing and not extra and wants != got:
        yield f"{section}: not in this order"


def _judge_edns(
    expected: Expected, query: Question, said: Server, reply: dns.message.Message
) -> Iterator[str]:
    has = reply.edns >= 0
    if query.name is not None and has != (query.edns_size is not None):
        yield "an OPT that the query did not have" if has else "no OPT, the query had one"
    if query.name is None and has != (expected.edns is not None):
        yield "OPT: expected one iff `edns:` is listed"
    if has and (reply.edns != 0 or reply.payload != OUR_UDP_SIZE):
        yield f"OPT: version {reply.edns}, size {reply.payload}"
    if has and reply.ednsflags & 0xFFFF & ~(dns.flags.DO * query.dnssec_ok):
        yield f"OPT: flags {reply.ednsflags & 0xFFFF:#x}"
    errors = [option for option in reply.options if isinstance(option, dns.edns.EDEOption)]
    others = [option for option in reply.options if not isinstance(option, dns.edns.EDEOption)]
    echoes = [_value(option) for option in others if option.otype == ASK_AS]
    others = [option for option in others if option.otype != ASK_AS]
    if echoes and (not said.dev or echoes != [query.ask_as]):
        yield f"an echo of what was not asked: {echoes}"
    if len(errors) > 1:
        yield "more than one EDE"
    for error in errors:
        yield from _judge_ede(error, query)
    for line in expected.edns or ():
        word, _, rest = line.partition(" ")
        if line == "no ede":
            if errors:
                yield f"expected no EDE, got {_ede(errors[0])}"
        elif word == "ede":
            yield from _compare_ede(rest, errors)
        elif line == "options any":
            others = []
        else:
            yield from _compare_option(word, rest, query, others)
    if others:
        yield f"EDNS options not expected: {', '.join(map(_option, others))}"


def _judge_ede(error: dns.edns.EDEOption, query: Question) -> Iterator[str]:
    """The laws of every EDE: short, UTF-8 (dnspython has decoded it), never the asked name."""
    text = error.text or ""
    if len(text.encode()) > 120:
        yield f"EDE: {len(text.encode())} octets"
    asked = query.name.to_text(omit_final_dot=True).lower() if query.name is not None else ""
    if len(asked) > 3 and asked in text.lower():
        yield f"EDE: says the name asked: {text}"


def _compare_ede(line: str, errors: list[dns.edns.EDEOption]) -> Iterator[str]:
    code, _, text = line.partition(" ")
    if not errors:
        yield f"no EDE, expected {line}"
    elif code not in ("*", str(int(errors[0].code))) or (
        text and (errors[0].text or "") != text[1:-1]
    ):
        yield f"expected ede {line}, got ede {_ede(errors[0])}"
    elif not text and not errors[0].text:
        yield f"expected ede {code} with some text"


def _compare_option(
    word: str, rest: str, query: Question, others: list[dns.edns.Option]
) -> Iterator[str]:
    """Take the option that *word* names out of *others* and compare it."""
    code = {"cookie": 10, "nsid": 3, "keepalive": 11}[word]
    found = next((option for option in others if option.otype == code), None)
    if found is None:
        yield f"no {word} in the reply"
        return
    others.remove(found)
    value = _value(found)
    if word == "cookie":
        good = (
            len(value) == 24
            and value.startswith(query.cookie)
            and (not rest or value == bytes.fromhex(rest))
        )
    elif word == "nsid":
        good = value == rest.encode()
    else:
        good = value == int(rest).to_bytes(2, "big")
    if not good:
        yield f"{word}: expected {rest or 'the client cookie and 16 octets'}, got {value.hex()}"


def _judge_octets(query: Question, said: Server, octets: bytes) -> Iterator[str]:
    """What a library hides: owners are compressed to the question, names inside rdata are not
    compressed."""
    if query.name is None or unpack_from("!H", octets, 4)[0] != 1:
        return
    labels = [label.lower() for label in query.name.labels]
    at = 12 + len(query.name.to_wire() or b"") + 4
    for _ in range(sum(unpack_from("!3H", octets, 6))):
        owner, end = _owner(octets, at)
        rdtype, rdlength = unpack_from("!H", octets, end)[0], unpack_from("!H", octets, end + 8)[0]
        common = 0
        low = [label.lower() for label in owner.labels]
        while common < min(len(low), len(labels)) and low[-1 - common] == labels[-1 - common]:
            common += 1
        least = sum(len(label) + 1 for label in low[: len(low) - common]) + (2 if common > 1 else 1)
        if end - at != least:
            yield f"the owner {owner} takes {end - at} octets, {least} when compressed to the question"
        start, at = end + 10, end + 10 + rdlength
        if rdtype != dns.rdatatype.OPT:
            rdata = dns.rdata.from_wire(
                "IN", dns.rdatatype.RdataType(rdtype), octets, start, rdlength
            )
            if len(rdata.to_wire() or b"") != rdlength:
                yield f"names inside the rdata of {owner} are compressed"
    if at != len(octets):
        yield "octets behind the last record"


def _owner(octets: bytes, at: int) -> tuple[dns.name.Name, int]:
    name, used = dns.name.from_wire(octets, at)
    return name, at + used


def _question_end(octets: bytes) -> int:
    return _owner(octets, 12)[1] + 4


def _second_judge(query: Question, reply: dns.message.Message, octets: bytes) -> Iterator[str]:
    """dnslib must read the same. It rejects some legal labels with octets beyond ASCII; those only
    are excused."""
    legal_but_not_for_dnslib = any(
        octet > 0x7E for label in (query.name or dns.name.root).labels for octet in label
    )
    try:
        second = dnslib.DNSRecord.parse(octets)
    except Exception as error:  # it leaks IndexError and more besides its own
        if not legal_but_not_for_dnslib:
            yield f"dnslib rejects the reply: {type(error).__name__}: {error}"
        return
    sections = (
        (reply.answer, second.rr),
        (reply.authority, second.auth),
        (_with_opt(reply), second.ar),
    )
    for of_first, of_second in sections:
        one = [(int(rrset.rdtype), _plain(rrset[0])) for rrset in of_first]
        other = [(int(rr.rtype), _plain_second(rr)) for rr in of_second]
        if one != other:
            yield f"dnslib reads {other}, dnspython {one}"
    if second.header.rcode != int(reply.rcode()) & 15 or second.header.tc != bool(
        reply.flags & dns.flags.TC
    ):
        yield "dnslib reads another header"


def _with_opt(reply: dns.message.Message) -> list[dns.rrset.RRset]:
    return [*reply.additional, *([reply.opt] if reply.opt is not None else [])]


def _plain(rdata: dns.rdata.Rdata) -> str:
    """Rdata of the types both judges spell alike; others count only."""
    if rdata.rdtype in (dns.rdatatype.AAAA, dns.rdatatype.A) and rdata.rdclass == dns.rdataclass.IN:
        return str(ip_address(rdata.to_text()))
    return "|".join(s.hex() for s in rdata.strings) if isinstance(rdata, TXT) else ""


def _plain_second(rr: dnslib.RR) -> str:
    if rr.rtype in (1, 28) and rr.rclass == 1:
        return str(ip_address(str(rr.rdata)))
    return "|".join(s.hex() for s in rr.rdata.data) if rr.rtype == 16 else ""


# ── words ─────────────────────────────────────────────────────────────────────────────────────────


def _rrs(section: list[dns.rrset.RRset]) -> list[str]:
    return [canonical(rrset) for rrset in section]


def canonical(rrset: dns.rrset.RRset) -> str:
    """One record as expectations are compared: letter case kept."""
    types = dns.rdataclass.to_text(rrset.rdclass), dns.rdatatype.to_text(rrset.rdtype)
    return f"{rrset.name} {rrset.ttl} {types[0]} {types[1]} {rrset[0].to_text() if rrset else ''}"


def shown(reply: dns.message.Message, size: int) -> str:
    """A reply as a scenario would expect it."""
    lines = [
        f"< {dns.rcode.to_text(reply.rcode())} {dns.flags.to_text(reply.flags).lower()}",
        *_rrs(reply.answer),
    ]
    for title, section in (("authority:", reply.authority), ("additional:", reply.additional)):
        if section:
            lines += [title, *_rrs(section)]
    if reply.options:
        lines += ["edns:", *map(_option, reply.options)]
    return "\n".join([*lines, f"size {size}"])


def wanted(expected: Expected, query: Question, said: Server) -> str:
    """An expectation written out in full."""
    if expected.unheard:
        return expected.unheard
    lines = [f"< {expected.rcode} {' '.join(wanted_flags(expected, query, said))}"]
    joined = bool(expected.answer) and _JOIN.match(expected.answer[0]) is not None
    lines += expected.answer if joined else records(expected.answer, query.name)
    for title, section in (
        ("authority:", expected.authority),
        ("additional:", expected.additional),
    ):
        if section:
            lines += [title, *records(section, query.name)]
    if expected.edns:
        lines += ["edns:", *expected.edns]
    if expected.truncated is not None and expected.truncated >= 0:
        lines.append(f"truncated {expected.truncated}")
    lines += ["ordered"] * expected.ordered + [f"size {size}" for size in expected.sizes]
    return "\n".join(lines)


def _option(option: dns.edns.Option) -> str:
    if isinstance(option, dns.edns.EDEOption):
        return f"ede {_ede(option)}"
    names = {3: "nsid", 10: "cookie", 11: "keepalive"}
    return f"{names.get(int(option.otype), int(option.otype))} {_value(option).hex()}"


def _value(option: dns.edns.Option) -> bytes:
    return option.to_wire() or b""


def _ede(option: dns.edns.EDEOption) -> str:
    return f'{int(option.code)} "{option.text or ""}"'
