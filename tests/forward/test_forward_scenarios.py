"""Play `tests/scenarios/forward/*.scn`: a forwarder and its upstreams in virtual time, sharp to a
tenth of a second.

    ; Comment.
    scenario A title is a sentence.
    upstream one                         what it says from now on; further ones are asked after it
        > www.example. A                 `*` is any name and type; the first pair that fits counts
        < NOERROR [after 0.5s]           or `silent`
        no-edns FORMERR                  to a query with EDNS; NOTIMP: a header alone
        www.example. 60 IN A 192.0.2.80  `@` is the name asked; `authority:` begins the next section
    > www.example. A [+do +network=19]   a client asks
    < SERVFAIL
    ede 22                               none is listed: none may be there
    after 4.4s                           how long it took; not listed: no time at all
    asked one 3, two 0                   messages since the last such line; not listed: any number
    pass 5s
    outside_aliases refuse               the setting, from now on

Our own names are those of catalogs/acme.sql and records.sql. Answer and authority are compared whole, with TTLs.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dns.edns
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from internal_dns.core.catalog import Catalog
from internal_dns.core.journey import Rules
from internal_dns.forward.forwarder import Forwarder
from internal_dns.forward.upstreams import Upstream
from internal_dns.late import Late
from internal_dns.metrics import Metrics
from internal_dns.store.sqlite import load
from internal_dns.transport.answer import Exchange
from tests.forward.virtual import run
from tests.scenario.runner import make_catalog

FOLDER = Path(__file__).parents[1] / "scenarios" / "forward"


@dataclass(slots=True)
class Pair:
    """A question, and what is said to it. `after` is None for silence."""

    line: int
    words: list[str]
    rcode: str = ""
    after: float | None = 0.0
    sections: dict[str, list[str]] = field(default_factory=lambda: {"answer": [], "authority": []})
    ede: list[str] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)
    no_edns: str = ""  # what is said to a query with OPT


@dataclass(slots=True)
class Scenario:
    """What happens in turn: an upstream's new pairs, a client's pair, seconds that pass."""

    file: Path
    title: str
    steps: list[tuple[str, list[Pair]] | Pair | float | bool] = field(default_factory=list)

    @property
    def upstreams(self) -> list[str]:
        return list(dict.fromkeys(step[0] for step in self.steps if isinstance(step, tuple)))


def read(path: Path) -> list[Scenario]:
    """Return the scenarios of *path*. Raises ValueError with the line."""
    found: list[Scenario] = []
    pair: Pair | None = None
    for number, raw in enumerate(path.read_text("utf-8").splitlines(), 1):
        line = raw.split("  ;")[0].strip()
        if not line or line.startswith(";"):
            continue
        word, _, rest = line.partition(" ")
        try:
            if word == "scenario":
                assert rest.endswith("."), "a title is a sentence"
                found.append(Scenario(path, rest))
                pair = None
            elif word == "upstream":
                found[-1].steps.append((rest, []))
            elif word == "pass":
                found[-1].steps.append(seconds(rest))
            elif word == "outside_aliases":
                found[-1].steps.append(rest == "answer")
            elif word == ">":
                pair = Pair(number, rest.split())
                steps = found[-1].steps
                if raw[0].isspace():
                    assert isinstance(steps[-1], tuple), "no upstream says this"
                    steps[-1][1].append(pair)
                else:
                    steps.append(pair)
                section = pair.sections["answer"]
            else:
                assert pair is not None
                if word == "authority:":
                    section = pair.sections["authority"]
                elif not _about(pair, word, rest):
                    section.append(line)
        except (AssertionError, ValueError, IndexError) as error:
            raise ValueError(f"{path}:{number}: {raw}: {error}") from error
    return found


def _about(pair: Pair, word: str, rest: str) -> bool:
    """Take a line that is no record: whether it was one."""
    match word:
        case "<":
            rcode, *words = rest.split()
            pair.rcode = rcode
            if words:
                assert words[0] == "after"
                pair.after = seconds(words[1])
        case "silent":
            pair.after = None
        case "no-edns":
            pair.no_edns = rest
        case "after":
            pair.after = seconds(rest)
        case "ede":
            pair.ede.append(rest)
        case "asked":
            pair.asked = {
                name: int(count) for name, count in (each.split() for each in rest.split(","))
            }
        case _:
            return False
    return True


def seconds(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)(s|m|h)", text)
    assert found, f"{text} is no time"
    return float(found[1]) * {"s": 1, "m": 60, "h": 3_600}[found[2]]


# ── upstreams ─────────────────────────────────────────────────────────────────────────────────────


class Speaker(asyncio.DatagramProtocol):
    """An upstream by UDP."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self.asked = 0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        if question.name == dns.name.root:  # whether we are there
            there = any(pair.after is not None for pair in self.pairs)
            self.say(query, Pair(0, [], "NOERROR", 0.0 if there else None), addr)
            return
        self.asked += 1
        words = [question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)]
        self.say(query, next(pair for pair in self.pairs if pair.words in (["*"], words)), addr)

    def say(self, query: dns.message.Message, pair: Pair, addr: Any) -> None:
        if pair.after is None:
            return
        reply = dns.message.make_response(query, recursion_available=True)
        if pair.no_edns:
            reply.use_edns(False)
            if query.edns >= 0:
                pair = Pair(0, [], pair.no_edns, pair.after)
        reply.set_rcode(dns.rcode.from_text(pair.rcode))
        owner = query.question[0].name.to_text()
        for section, lines in ((reply.answer, "answer"), (reply.authority, "authority")):
            section += [
                dns.rrset.from_text(*_fields(line.replace("@", owner)))
                for line in pair.sections[lines]
            ]
        octets = reply.to_wire()
        if not pair.words and pair.rcode == "NOTIMP":  # and says so in a header alone
            octets = octets[:4] + bytes(8)
        asyncio.get_running_loop().call_later(pair.after or 0.0, self._send, octets, addr)

    def _send(self, octets: bytes, addr: Any) -> None:
        if not self.transport.is_closing():
            self.transport.sendto(octets, addr)


def _fields(line: str) -> tuple[str, int, str, str, str]:
    owner, ttl, rdclass, rdtype, rdata = line.split(None, 4)
    return owner, int(ttl), rdclass, rdtype, rdata


# ── playing ───────────────────────────────────────────────────────────────────────────────────────


async def play(scenario: Scenario) -> None:
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        speakers: dict[str, Speaker] = {}
        for name in scenario.upstreams:
            transport, speaker = await loop.create_datagram_endpoint(Speaker, local_addr=("::1", 0))
            stack.callback(transport.close)
            speakers[name] = speaker
        urls = [
            f"udp://[::1]:{speaker.transport.get_extra_info('sockname')[1]}"
            for speaker in speakers.values()
        ]
        forwarder = Forwarder(
            [Upstream.parse(url) for url in urls], Metrics(), b"\xfd\xaa", clock=loop.time
        )
        exchange = Exchange(Rules(), Metrics(), forwarder)
        exchange.use(acme())
        try:
            for step in scenario.steps:
                if isinstance(step, bool):
                    forwarder.configure(outside_aliases=step, sockets="auto")
                elif isinstance(step, tuple):
                    speakers[step[0]].pairs = step[1]
                elif isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    await judge(scenario, step, exchange, speakers)
                    forwarder.check_books()
        finally:
            await forwarder.close()
    await asyncio.sleep(0)


@cache
def acme() -> Catalog:
    with TemporaryDirectory() as folder:
        file = Path(folder, "catalog.db")
        make_catalog(file, ("acme.sql", "records.sql"))
        return load(file).catalog


async def judge(
    scenario: Scenario, pair: Pair, exchange: Exchange, speakers: dict[str, Speaker]
) -> None:
    name, rdtype, *options = pair.words
    said = dict(option.lstrip("+").partition("=")[::2] for option in options)
    network = int(said.pop("network", "18"), 16)
    query = dns.message.make_query(
        name, rdtype, use_edns=0, payload=4_096, want_dnssec="do" in said
    )
    source = b"\xfd\xaa" + network.to_bytes(4, "big") + bytes(9) + b"\2"
    destination = b"\xfd\xaa" + bytes(13) + b"\3"
    begin = asyncio.get_running_loop().time()
    # As `handle` does, but without the answer table, whose clock is another one.
    found = exchange._decide(query.to_wire(), source, destination, False, None, None)
    assert isinstance(found, bytes | Late)
    reply = dns.message.from_wire(found if isinstance(found, bytes) else await found)
    took = asyncio.get_running_loop().time() - begin
    got = {
        "rcode": dns.rcode.to_text(reply.rcode()),
        "answer": lines(reply.answer), "authority": lines(reply.authority),
        "ede": [str(int(o.code)) for o in reply.options if isinstance(o, dns.edns.EDEOption)],
        "asked": {name: speakers[name].asked for name in pair.asked},
    }  # fmt: skip
    sections = {
        part: [line.replace("@", name) for line in expected_lines]
        for part, expected_lines in pair.sections.items()
    }
    expected = {"rcode": pair.rcode, **sections, "ede": pair.ede, "asked": pair.asked}
    where = f"{scenario.file.name}:{pair.line}"
    assert got == expected, where
    assert pair.after is not None
    assert abs(took - pair.after) < 0.1, f"{where}: after {took:.2f} s"
    if pair.asked:
        for speaker in speakers.values():
            speaker.asked = 0


def lines(section: list[dns.rrset.RRset]) -> list[str]:
    """The records; those of one set, whose order turns, in order of their text."""
    return [line for rrset in section for line in sorted(rrset.to_text().split("\n"))]


SCENARIOS = [scenario for path in sorted(FOLDER.glob("*.scn")) for scenario in read(path)]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s.file.stem}:{s.title}")
def test_forwarding_in_virtual_time(scenario: Scenario) -> None:
    run(play(scenario))


def test_the_player_sees_what_is_wrong(tmp_path: Path) -> None:
    upstream = "upstream one\n  > *\n  < NOERROR\n  @ 60 IN A 192.0.2.1\n"
    right = f"scenario S.\n{upstream}> a.example. A\n< NOERROR\n{{}}"
    good = "@ 60 IN A 192.0.2.1\nasked one 1\n"
    cases = {
        good: True,
        good.replace("60", "59"): False,
        good.replace("one 1", "one 2"): False,
        good + "ede 3\n": False,
        good + "after 1s\n": False,
        "asked one 1\n": False,
    }
    for text, well in cases.items():
        file = tmp_path / "case.scn"
        file.write_text(right.format(text))
        (scenario,) = read(file)
        if well:
            run(play(scenario))
        else:
            with pytest.raises(AssertionError):
                run(play(scenario))
