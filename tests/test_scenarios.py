"""Play every scenario in process, and show that the judge of the replies is not satisfied by a
wrong one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rrset
import pytest

from tests.scenario.language import FOLDER, Ask, Broken, Scenario, Setting, all_scenarios, parsed
from tests.scenario.play import play
from tests.scenario.runner import InProcess, Runner

CORPUS = all_scenarios()
DOCUMENT = Path(__file__).parents[1] / "docs" / "names.md"
Edit = Callable[[bytes], bytes | None]


@pytest.fixture(scope="module")
def runner() -> Iterator[InProcess]:
    found = InProcess()
    yield found
    found.close()


@pytest.mark.parametrize("scenario", CORPUS, ids=lambda s: f"{s.file.name}:{s.title}")
def test_scenario(scenario: Scenario, runner: InProcess) -> None:
    play(scenario, runner)


def test_every_catalog_is_used_and_every_title_is_told_apart() -> None:
    used = {
        part
        for s in CORPUS
        for step in s.steps
        for part in step.setting.catalog
        if part.endswith(".sql")
    }
    assert used == {path.name for path in FOLDER.joinpath("catalogs").glob("*.sql")}
    titles = [(s.file.name, s.title) for s in CORPUS]
    assert len(titles) == len(set(titles))


def test_most_of_the_corpus_can_be_played_over_sockets() -> None:
    assert sum(not s.in_process_only for s in CORPUS) > 0.8 * len(CORPUS)


def documented() -> Iterator[tuple[str, str]]:
    """The name forms and types of the tables of docs/names.md: `regions.` `vms.` before
    `<app>.internal` is two."""
    for line in DOCUMENT.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[2] in ("AAAA", "TXT", "SRV", "PTR"):
            words = re.findall(r"`([^`]+)`", cells[1])
            before = (
                [word for word in words if word.endswith(".")] if " before " in cells[1] else [""]
            )
            forms = [word for word in words if word.endswith((".internal", ".flycast", ".arpa"))]
            assert forms, line
            yield from ((prefix + form, cells[2]) for prefix in before for form in forms)


def pattern(form: str) -> str:
    """Return a regular expression for the names of *form*."""
    several = {
        "<value>": r".+",
        "<anything>": r".+",
        "<nibbles>": r"([0-9a-f]\.){31}[0-9a-f]",
        "<N>": r"[1-9]\d*",
    }
    parts = re.split(r"(<\w+>)", form)
    return (
        "".join(
            several.get(part, r"[^.]+") if part.startswith("<") else re.escape(part)
            for part in parts
        )
        + r"\."
    )


@pytest.mark.parametrize(("form", "rdtype"), sorted(set(documented())))
def test_every_documented_name_has_a_scenario_in_which_it_answers(form: str, rdtype: str) -> None:
    wanted = re.compile(rf"> {pattern(form)} {rdtype}( .*)?")
    asks = [step for scenario in CORPUS for step in scenario.steps if isinstance(step, Ask)]
    answered = [question.text for ask in asks for question in ask.questions if ask.expected.answer]
    assert any(wanted.fullmatch(text) for text in answered)


def test_every_rule_of_records_and_zones_has_its_scenarios() -> None:
    listed: dict[str, str] = {}
    for line in FOLDER.joinpath("RECORDS.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 5 and cells[2].endswith(".scn"):
            listed[cells[2]] = f"{listed.get(cells[2], '')} {cells[3]}"
    assert len(listed) == 3
    for file, named in listed.items():
        words = named
        titles = re.findall(r"^scenario (.+)$", FOLDER.joinpath(file).read_text(), re.MULTILINE)
        assert [title for title in titles if title not in words] == []
        for title in titles:
            words = words.replace(title, "")
        assert words.split() == [], file


# ── the judge ─────────────────────────────────────────────────────────────────────────────────────


class Tampering(Runner):
    """Answers right, then changes the reply: into None for silence, `why` saying what became of
    it."""

    def __init__(self, inner: InProcess, edit: Edit, why: str = "") -> None:
        self.inner, self.edit, self.reason = inner, edit, why

    def begin(self, scenario: Scenario) -> None:
        self.inner.begin(scenario)

    def prepare(self, setting: Setting) -> None:
        self.inner.prepare(setting)

    def exchange(
        self, octets: bytes, source: str, destination: str, *, stream: bool
    ) -> bytes | None:
        reply = self.inner.exchange(octets, source, destination, stream=stream)
        changed = self.edit(reply or b"")
        self.why = self.reason if changed is None else ""
        return changed


def header(at: int, bits: int) -> Edit:
    """Flip *bits* of octet *at*."""
    return lambda octets: octets[:at] + bytes([octets[at] ^ bits]) + octets[at + 1 :]


def replaced(old: bytes, new: bytes) -> Edit:
    """Replace octets that must be there."""

    def edit(octets: bytes) -> bytes:
        assert old in octets
        return octets.replace(old, new, 1)

    return edit


def rewritten(change: Callable[[dns.message.Message], object]) -> Edit:
    """Change the message as dnspython has it."""

    def edit(octets: bytes) -> bytes:
        message = dns.message.from_wire(octets, one_rr_per_rrset=True)
        change(message)
        return message.to_wire()

    return edit


def spelled_out(octets: bytes) -> bytes:
    """Write the owner of the first answer without compression: `db.internal.` in 13 octets, for
    `c00c`."""
    return octets[:29] + octets[12:25] + octets[31:]


SET = """
catalog acme.sql
> db.internal. AAAA +bufsize=512
< NOERROR qr aa rd ra
db.internal. 5 IN AAAA fdaa:0:18:a7b:7d:2:1:2
db.internal. 5 IN AAAA fdaa:0:18:a7b:81:2:2:2
db.internal. 5 IN AAAA fdaa:0:18:a7b:91:2:3:2
"""
ORDERED = """
catalog acme.sql
> top3.nearest.of.db.internal. AAAA
< NOERROR qr aa rd ra
@ 5 IN AAAA fdaa:0:18:a7b:7d:2:1:2
@ 5 IN AAAA fdaa:0:18:a7b:81:2:2:2
@ 5 IN AAAA fdaa:0:18:a7b:91:2:3:2
ordered
"""
NEGATIVE = """
catalog acme.sql
> nobody.internal. AAAA
< NXDOMAIN qr aa rd ra
authority:
internal. 1 IN SOA _dns.internal. hostmaster.internal. 1 5 5 5 1
edns:
ede 0 "no such app in this network"
"""
LIST = """
catalog acme.sql
> vms.db.internal. TXT +noedns
< NOERROR qr aa rd ra
@ 5 IN TXT "148e306c77e789 iad,32874445f04218 ord,d891256b604e78 ams"
"""
NAME_SERVER = """
catalog acme.sql
> internal. NS
< NOERROR qr aa rd ra
internal. 5 IN NS _dns.internal.
additional:
_dns.internal. 5 IN AAAA fdaa::3
"""
CUT = """
catalog sized:60
> big.internal. AAAA +noedns
< NOERROR qr aa tc rd ra
@ 5 IN AAAA fdaa:0:18:a7b:7d:1:{1..3c}:2
truncated 17
"""
JOINED = """
catalog sized:60
> vms.big.internal. TXT
< NOERROR qr aa rd ra
@ 5 IN TXT join "," "{00000000000001..0000000000003c} iad"
"""
OPTIONS = """
catalog acme.sql
server nsid=dns-7
> _dns.internal. AAAA +nsid +cookie=0102030405060708
< NOERROR qr aa rd ra
_dns.internal. 5 IN AAAA fdaa::3
edns:
nsid dns-7
cookie
"""
NO_OPT = """
catalog acme.sql
> _dns.internal. AAAA +noedns
< NOERROR qr aa rd ra
_dns.internal. 5 IN AAAA fdaa::3
"""
SILENT = """
catalog acme.sql
>hex 1234 8100 0000 0000 0000 0000
silent
"""
FORWARDED = """
catalog acme.sql
> example.com. A
forwarded
"""
ROUND = """
in-process only
catalog acme.sql
> db.internal. AAAA
< NOERROR qr aa rd ra
@ 5 IN AAAA fdaa:0:18:a7b:7d:2:1:2
@ 5 IN AAAA fdaa:0:18:a7b:81:2:2:2
@ 5 IN AAAA fdaa:0:18:a7b:91:2:3:2
rotates
"""
ALIKE = """
catalog acme.sql
> nobody.internal. AAAA
> secret.internal. AAAA
nxdomain internal.
alike
"""
EXACT = SET + "size 124"


def with_extra(message: dns.message.Message) -> None:
    message.answer.append(
        dns.rrset.from_text(message.answer[0].name, 5, "IN", "AAAA", "fdaa:0:18:a7b:91:2:4:2")
    )


def unlike(octets: bytes) -> bytes:
    """Answer as a server whose EDE tells a name that another network has from one that is
    nobody's."""
    return octets.replace(b"this network", b"your network") if b"secret" in octets else octets


def one_spelling(octets: bytes) -> bytes:
    """Answer as a server that forgets the asker's letter case."""
    return octets[:12] + octets[12:].replace(b"\x02dB\x08InTeRnAl", b"\x02db\x08internal")


WRONG: list[tuple[str, str, Edit, str]] = [
    ("a wrong rcode", SET, header(3, 3), "rcode: expected NOERROR, got NXDOMAIN"),
    ("NODATA for NXDOMAIN", NEGATIVE, header(3, 3), "rcode: expected NXDOMAIN, got NOERROR"),
    ("another id", SET, header(0, 1), "another id"),
    ("no AA", SET, header(2, 4), "flags: expected qr aa rd ra, got qr rd ra"),
    ("no RA", SET, header(3, 0x80), "flags: "),
    ("no RD", SET, header(2, 1), "flags: "),
    ("AD", SET, header(3, 0x20), "flags: "),
    ("CD", SET, header(3, 0x10), "flags: "),
    ("Z", SET, header(3, 0x40), "flags: .* z"),
    ("TC where nothing is cut", SET, header(2, 2), "flags: .* got .*tc"),
    ("no TC where something is cut", CUT, header(2, 2), "flags: expected qr aa tc rd ra"),
    ("another opcode", NO_OPT, header(2, 0x20), "opcode"),
    ("no QR", SET, header(2, 0x80), "flags: "),
    ("a missing RR", SET, rewritten(lambda m: m.answer.pop()), "answer: missing db"),
    ("an RR too many", SET, rewritten(with_extra), "answer: not expected db.*:91:2:4:2"),
    ("an RR twice", SET, rewritten(lambda m: m.answer.append(m.answer[0])), "answer: not expected"),
    (
        "another address",
        SET,
        replaced(b"\x00\x02\x00\x03\x00\x02", b"\x00\x02\x00\x04\x00\x02"),
        "answer: missing",
    ),
    ("another TTL", SET, replaced(b"\0\0\0\x05\0\x10", b"\0\0\0\x06\0\x10"), "answer: missing"),
    ("another class", SET, replaced(b"\0\x1c\0\x01\0\0", b"\0\x1c\0\x03\0\0"), "answer: missing"),
    (
        "another type",
        NO_OPT,
        replaced(b"\0\x1c\0\x01\0\0", b"\0\x1d\0\x01\0\0"),
        "answer: missing|rejects",
    ),
    (
        "another order",
        ORDERED,
        rewritten(lambda m: m.answer.reverse()),
        "answer: not in this order",
    ),
    ("an owner spelled out", SET, spelled_out, "takes 13 octets, 2 when compressed"),
    (
        "compressed rdata",
        NAME_SERVER,
        rewritten(lambda m: None),
        "names inside the rdata of internal. are compressed",
    ),
    (
        "no SOA",
        NEGATIVE,
        rewritten(lambda m: m.authority.clear()),
        "authority: missing internal. 1 IN SOA",
    ),
    (
        "an SOA of TTL 5",
        NEGATIVE,
        replaced(b"\0\x06\0\x01\0\0\0\x01", b"\0\x06\0\x01\0\0\0\x05"),
        "authority: missing",
    ),
    (
        "an SOA beside an answer",
        SET,
        rewritten(lambda m: m.authority.append(m.answer[0])),
        "authority: not expected",
    ),
    (
        "no address of the name server",
        NAME_SERVER,
        rewritten(lambda m: m.additional.clear()),
        "additional: missing",
    ),
    (
        "an RR beside an answer",
        SET,
        rewritten(lambda m: m.additional.append(m.answer[0])),
        "additional: not expected",
    ),
    ("no OPT", SET, rewritten(lambda m: m.use_edns(False)), "no OPT, the query had one"),
    (
        "an OPT",
        NO_OPT,
        rewritten(lambda m: m.use_edns(0, 0, 4096)),
        "an OPT that the query did not have",
    ),
    (
        "another OPT size",
        SET,
        rewritten(lambda m: m.use_edns(0, 0, 1232)),
        "OPT: version 0, size 1232",
    ),
    ("another OPT version", SET, rewritten(lambda m: m.use_edns(1, 0, 4096)), "OPT: version 1"),
    ("DO", SET, rewritten(lambda m: m.use_edns(0, dns.flags.DO, 4096)), "OPT: flags 0x8000"),
    ("no EDE", NEGATIVE, rewritten(lambda m: m.use_edns(0, 0, 4096)), "no EDE, expected"),
    ("another EDE", NEGATIVE, replaced(b"no such app in", b"no such app at"), "expected ede 0"),
    (
        "an EDE that says the name",
        NEGATIVE,
        replaced(b"app in this net", b"nobody.internal"),
        "EDE: says the name",
    ),
    (
        "no NSID",
        OPTIONS,
        replaced(b"\0\x03\0\x05dns-7", b"\xfe\x00\0\x05dns-7"),
        "no nsid in the reply",
    ),
    ("another NSID", OPTIONS, replaced(b"dns-7", b"dns-8"), "nsid: expected dns-7"),
    (
        "another client cookie",
        OPTIONS,
        replaced(b"\x07\x08\x01", b"\x07\x09\x01"),
        "cookie: expected",
    ),
    ("an option", NEGATIVE, replaced(b"\0\x0f\0", b"\xfe\0\0"), "EDNS options not expected: 65024"),
    ("a blank after the comma", LIST, replaced(b"iad,328", b"iad, 32"), "answer: missing"),
    ("an item less", LIST, replaced(b",d891256b604e78 ams", b"d" * 19), "answer: missing"),
    (
        "fewer RRs than fit",
        CUT,
        rewritten(lambda m: m.answer.pop()),
        "expected 17 RRs of 60, got 16(.|\n)*would fit",
    ),
    (
        "an RR twice among those left",
        CUT,
        rewritten(lambda m: m.answer.__setitem__(0, m.answer[1])),
        "an RR twice",
    ),
    (
        "a stranger among those left",
        CUT,
        replaced(b"\0\x7d\0\x01", b"\0\x7d\0\x02"),
        "answer: not expected",
    ),
    (
        "a list without its last item",
        JOINED,
        replaced(b" iad,0000000000003c iad", b" iad" * 5 + b" ia"),
        "items joined",
    ),
    (
        "a list cut inside an item",
        JOINED,
        replaced(b"d iad,\xf7", b"d iad\xf7,"),
        "items joined|rejects",
    ),
    (
        "octets behind the end",
        SET,
        lambda octets: octets + b"\0",
        "rejects the reply: TrailingJunk",
    ),
    ("half a reply", SET, lambda octets: octets[:60], "dnspython rejects"),
    ("no octets", SET, lambda octets: b"", "dnspython rejects"),
    (
        "another letter case",
        SET.replace("db.internal", "dB.InTeRnAl"),
        one_spelling,
        "the question is not echoed",
    ),
    ("silence", SET, lambda octets: None, "expected a reply, got silence"),
    (
        "a reply instead of silence",
        SILENT,
        lambda octets: bytes(12),
        "expected silent, got a reply",
    ),
    (
        "a reply instead of forwarding",
        FORWARDED,
        lambda octets: bytes(12),
        "expected forwarded, got a reply",
    ),
    (
        "silence instead of forwarding",
        FORWARDED,
        lambda octets: None,
        "expected forwarded, got silence",
    ),
    ("always the same order", ROUND, rewritten(lambda m: m.answer.sort(key=str)), "first 3 times"),
    ("a difference between names", ALIKE, unlike, "differ beyond id and QNAME"),
    ("another size", EXACT, rewritten(lambda m: m.answer.pop()), "size: expected 124"),
]


@pytest.mark.parametrize(
    ("what", "text", "edit", "complaint"), WRONG, ids=[row[0] for row in WRONG]
)
def test_the_judge_sees(
    what: str, text: str, edit: Edit, complaint: str, runner: InProcess
) -> None:
    (scenario,) = parsed(f"; {what}\n{text}")
    play(scenario, runner)  # right before it was tampered with
    with pytest.raises(AssertionError, match=complaint):
        play(scenario, Tampering(runner, edit))


def test_the_judge_holds_a_reply_to_the_limit_of_its_transport(runner: InProcess) -> None:
    (scenario,) = parsed(CUT.replace("aa tc", "aa").replace("truncated 17", ""))

    class Boundless(Tampering):
        def exchange(
            self, octets: bytes, source: str, destination: str, *, stream: bool
        ) -> bytes | None:
            return super().exchange(octets, source, destination, stream=True)

    with pytest.raises(AssertionError, match="1710 octets, 512 may be sent"):
        play(scenario, Boundless(runner, lambda octets: octets))


def test_the_judge_tells_what_was_dropped_from_what_was_forwarded(runner: InProcess) -> None:
    (scenario,) = parsed(SILENT)
    with pytest.raises(AssertionError, match="expected silence, got forwarded"):
        play(scenario, Tampering(runner, lambda octets: None, "forwarded"))
    (scenario,) = parsed("in-process only\n" + SILENT.replace("silent", "dropped runt"))
    with pytest.raises(AssertionError, match="expected dropped runt, got dropped qr"):
        play(scenario, runner)


def test_rows_that_should_have_been_left_out_are_counted(runner: InProcess) -> None:
    (scenario,) = parsed("in-process only\ncatalog acme.sql\nfaults 1\n")
    with pytest.raises(AssertionError, match="expected 1 rows left out, got 0"):
        play(scenario, runner)


def test_a_failure_says_where_what_and_both_sides(runner: InProcess) -> None:
    (scenario,) = parsed("; A title.\n" + SET.replace(":7d:2:1:2", ":7d:2:1:3"))
    with pytest.raises(AssertionError) as failure:
        play(scenario, runner)
    words = str(failure.value)
    for part in (
        "text.scn:8: asking fdaa:0:18:a7b:7d:f066:b83b:2 at fdaa::3\n> db.internal. AAAA "
        "+bufsize=512",
        "! answer: missing db.internal. 5 IN AAAA fdaa:0:18:a7b:7d:2:1:3",
        "! answer: not expected db.internal. 5 IN AAAA fdaa:0:18:a7b:7d:2:1:2",
        "expected\n    < NOERROR qr aa rd ra\n",
        "got\n    < NOERROR qr aa rd ra\n",
    ):
        assert part in words


# ── the reader ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("; nothing", "asks nothing"),
        ("> a. A\n", "nothing is expected"),
        ("> a. A\nsomething\n", "not what may follow a question"),
        ("> a. A +tpc\nrefused\n", "an unknown \\+option"),
        ("> a. A tcp\nrefused\n", "an unknown \\+option"),
        ("> a. NOTYPE\nrefused\n", "NOTYPE"),
        ("turn 1\n", "in-process only"),
        ("catalog none\n", "in-process only"),
        ("> a. A\ndropped qr\n", "in-process only"),
        ("server colour=red\n", "no rule"),
        ("asking nobody\n", "nobody"),
        ("fetch a. A\n", "no such verb"),
        ("scenario without a stop\n", "a title is a sentence"),
        ("> a. A\nrefused\nat fdaa::3\n", "an empty line is missing"),
        ("change DELETE FROM apps\n> a. A\nrefused\n", "without its `;`"),
        ("> a. A\nrefused\n\nscenario Late.\n> a. A\nrefused\n", "before the first scenario"),
        ("scenario One.\nscenario Two.\n> a. A\nrefused\n", "asks nothing"),
    ],
)
def test_a_mistake_in_a_scenario_is_reported_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(Broken, match=complaint) as error:
        parsed(text)
    assert str(error.value).startswith("text.scn:")


def test_a_scenario_starts_where_the_lines_before_the_first_one_lead() -> None:
    first, second = parsed(
        "catalog acme.sql\nasking ::1\n"
        "scenario One.\nasking ::2\nchange DELETE FROM apps;\n> a. A\nrefused\n\n"
        "scenario Two.\n> b. A\n> c. A +tcp\nrefused\n"
    )
    assert [step.setting.source for step in (*first.steps, *second.steps)] == ["::2", "::1"]
    assert [step.setting.changes for step in (*first.steps, *second.steps)] == [
        ("DELETE FROM apps;",),
        (),
    ]
    assert (first.title, second.title) == ("One.", "Two.")
