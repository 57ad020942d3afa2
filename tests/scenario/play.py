"""Play a scenario: ask what it asks, and say in words what is wrong with the replies."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

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

from tests.scenario.judge import judge, rr_texts, shown, wanted
from tests.scenario.language import Ask, Faults, Question, Scenario, records
from tests.scenario.runner import Runner


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
    for rotation in range(len(everything)):
        runner.prepare(replace(step.setting, rotation=rotation))
        octets = runner.exchange(
            query.octets, step.setting.source, step.setting.destination, stream=query.stream
        )
        complaints = judge(step.expected, query, step.setting.server, octets, runner.why)
        if complaints or octets is None:
            return [f"with turn {rotation}: {complaint}" for complaint in complaints]
        answer = rr_texts(dns.message.from_wire(octets, one_rr_per_rrset=True).answer)
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
