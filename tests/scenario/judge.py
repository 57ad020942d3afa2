"""Judge a reply: dnspython first, dnslib second, then a walk over the octets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from struct import unpack_from

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

from tests.scenario.language import (
    ASK_AS,
    JOIN,
    Expected,
    Question,
    Server,
    canonical_text,
    chunked,
    expanded,
    records,
)

OUR_UDP_SIZE = 4_096

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
    if expected.truncated is not None and not expected.part and "tc" not in found:
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
        shown = " ".join([*got, "z"] if octets[3] & 0x40 else got)
        yield f"flags: expected {' '.join(wants)}, got {shown}"
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
    got = rr_texts(reply.answer)
    if any("revision=*" in line for line in expected.answer):
        got = [re.sub(r'revision=[1-9]\d*"$', 'revision=*"', record) for record in got]
    if expected.any_answer:
        if not got:
            yield "answer: empty"
    elif (joined := JOIN.match(expected.answer[0]) if expected.answer else None) is not None:
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
        "authority", records(expected.authority, query.name), rr_texts(reply.authority)
    )
    wants, got = records(expected.additional, query.name), rr_texts(reply.additional)
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
    wants = [canonical_text(f"{head} {text}", (query.name or dns.name.root).to_text())]
    if wants != got:
        count = got[0].count(separator) + 1 if got else 0
        yield (
            f"answer: expected {len(items)} items joined, got {len(got)} RRs, "
            f"{count} items in the first"
        )


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
            yield (
                f"the owner {owner} takes {end - at} octets, "
                f"{least} when compressed to the question"
            )
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


def rr_texts(section: list[dns.rrset.RRset]) -> list[str]:
    return [canonical(rrset) for rrset in section]


def canonical(rrset: dns.rrset.RRset) -> str:
    """One record as expectations are compared: letter case kept."""
    types = dns.rdataclass.to_text(rrset.rdclass), dns.rdatatype.to_text(rrset.rdtype)
    return f"{rrset.name} {rrset.ttl} {types[0]} {types[1]} {rrset[0].to_text() if rrset else ''}"


def shown(reply: dns.message.Message, size: int) -> str:
    """A reply as a scenario would expect it."""
    lines = [
        f"< {dns.rcode.to_text(reply.rcode())} {dns.flags.to_text(reply.flags).lower()}",
        *rr_texts(reply.answer),
    ]
    for title, section in (("authority:", reply.authority), ("additional:", reply.additional)):
        if section:
            lines += [title, *rr_texts(section)]
    if reply.options:
        lines += ["edns:", *map(_option, reply.options)]
    return "\n".join([*lines, f"size {size}"])


def wanted(expected: Expected, query: Question, said: Server) -> str:
    """An expectation written out in full."""
    if expected.unheard:
        return expected.unheard
    lines = [f"< {expected.rcode} {' '.join(wanted_flags(expected, query, said))}"]
    joined = bool(expected.answer) and JOIN.match(expected.answer[0]) is not None
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
        lines.append(f"{'part' if expected.part else 'truncated'} {expected.truncated}")
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
