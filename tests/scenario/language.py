"""Read `.scn` files, sessions with dig written down, and play them to a server: what is asked, and
what must come back.

    ; Comment. A file without a `scenario` line is one scenario, called as its first comment
    sentence says.
    catalog acme.sql                verbs before the first scenario are where each one starts
    asking  fdaa:0:18:a7b:7d:f066:b83b:2

    scenario A stopped machine leaves the name.
    change UPDATE machines SET state = 'stopped' WHERE id = '3d8d';
    > web.internal. AAAA +tcp
    < NOERROR qr aa rd ra
    web.internal. 5 IN AAAA fdaa:0:18:a7b:7d:1:1:2

Verbs, until the end of the scenario:
    catalog PART...     FILE.sql of tests/scenarios/catalogs, `demo`, `sized:N` (see `sized`), or
                        `none`: not loaded yet
    change SQL;         executed on the catalog's file, which the server rereads
    server RULE...      region=iad prefix=fdab upstream=none dev map=::1/128=fdaa:0:18::/48
                        udp-limit=N nsid=TEXT hidden=PREFIX,... forward=SUFFIX,...
                        (each `server` line starts from the defaults again)
    asking ADDRESS      the source, an IPv4 address too
    at ADDRESS          the destination, fdaa::3 by default
    turn N              the edge's random number
    faults N            rows that the load must have left out
    in-process only     needs what no socket can tell or set: `turn`, `faults`, `rotates`,
                        `dropped`, `catalog none`

Questions; those that follow each other directly share what is expected below them:
    > NAME TYPE [+tcp +bufsize=N +noedns +nordflag +cd +ad +do +cookie=hex +nsid +keepalive
                 +as=TEXT +opt=code:hex +class=CH +opcode=N +edns=VERSION +ednsflags=hex
                 +flags=hex]        EDNS with 1232 octets by default
    >hex OCTETS [+tcp]              a raw message: `..` repeats as in 00*12

Expected, all of it: a section that is not listed is empty.
    < RCODE flags       (`*`: any) then answer lines; `authority:`, `additional:` and `edns:` have
                        lines of their own; `additional: N` means N of those that follow
    nxdomain ZONE · nodata ZONE
                        with the flags of an authoritative reply and that zone's SOA
    refused · silent · dropped REASON · forwarded
    NAME TTL IN TYPE RDATA
                        `@` is the name asked; {1..3c} counts in hexadecimal: one line each
    NAME TTL IN TXT join "," "{1..3c} iad"
                        one TXT RR: the items joined, strings of at most 255 octets;
                        revision=* at the end of one stands for any number but 0
    soa ZONE            that zone's SOA RR as a negative reply has it
    ordered             the answer in this order; sets compare without order otherwise
    truncated [N]       TC is set; N of the answer's RRs (or items) are left and no more would
                        fit; without N: all listed
    part N              the same over TCP, where TC is clear
    rotates             asked with every turn, each address comes first equally often
    only N              N of the answer's RRs, as many as were asked for
    answer any          whatever it holds
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
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
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

FOLDER = Path(__file__).parents[1] / "scenarios"
ASK_AS = 65_001


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
    rotation: int = 0


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
    part: bool = False  # as `truncated`, and TC is clear
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
            case "part", _:
                expected.truncated, expected.part = int(rest), True
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
                self.setting = replace(setting, rotation=int(rest))
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
JOIN = re.compile(r'(\S+ \d+ IN TXT) join "(.)" "(.*)"$')


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
    return [canonical_text(text, asked) for line in lines for text in expanded(line)]


@cache  # by the name's text: dnspython's names are equal whatever their letter case
def canonical_text(text: str, name: str) -> str:
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
