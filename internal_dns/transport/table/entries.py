"""One answer of the table, cut into what is sent as it is and what depends on the query."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from struct import pack, unpack
from typing import Final

from internal_dns.core.journey import Cacheable, Rules
from internal_dns.core.message import OUR_UDP_SIZE, ede_option, fit_part
from internal_dns.core.records import ADDRESS_RR, TextList
from internal_dns.core.wire import AA, CD, HEADER, MAX_MESSAGE, QR, RA, RD, TC, Type

Cell = list[int]  # a counter of one element, shared by the entries that count into it

OPT_HEAD: Final = b"\0" + pack("!H", Type.OPT)
OPT_SIZE: Final = (
    11  # an OPT without options: root, type, size, extended RCODE, version, flags, length
)
OVERHEAD: Final = 730  # octets an entry takes beside its records, measured with tracemalloc
# Of RRs in a section. An app may have more machines; then no message has them all.
MAX_COUNT: Final = 65_535


@dataclass(slots=True)
class Entry:
    """One reply, cut into what is sent as it is and what depends on the query."""

    heads: tuple[bytes, ...]  # flags and counts, by RD + 2 CD + 4 OPT
    # CNAME RRs that lead to the rest of the answer section, and how many: they stay in front.
    lead: bytes
    leading: int
    # The answer section behind them and its beginning again, so that every rotation is one slice: as much as it
    # has, or of a set past any message as much as a message takes.
    ring: bytes
    unit: int  # octets of one RR
    count: int  # RRs that take turns in being first
    rings: tuple[tuple[bytes, int], ...]  # `nearest` only: ring and count of each tie group
    shown: int  # octets of the answer section, as far as it is here
    total: int  # RRs of the answer section
    pageable: bool
    tail: bytes  # authority and additional
    opts: tuple[bytes, ...]  # by DO
    authority: int  # octets, which `tail` begins with
    # Octets of the whole answer section. More than `shown` when it is not here: then the least that
    # it has.
    whole: int
    indivisible: bool  # one RR of a list: part of it would look like the whole list
    counter: Cell
    parts: frozenset[bytes] | None
    size: int
    hits: int = 0
    seen: int = 0  # hits, when it was about to be dropped and was not

    def by_groups(self, rotation: int) -> bytes:
        """The answer section when there are several tie groups, each rotated by itself."""
        parts = (
            ring[(at := rotation % count * self.unit) : at + count * self.unit]
            for ring, count in self.rings
        )
        return b"".join(parts)[: self.shown]

    def answer(self, rotation: int) -> bytes:
        """The answer section, its RRs turned round."""
        if self.rings:
            return self.by_groups(rotation)
        at = rotation % self.count * self.unit if self.count > 1 else 0
        return self.ring[at : at + self.shown]

    def first(self, rotation: int, size: int) -> bytes:
        """The first *size* octets of `answer`."""
        if self.rings:
            return self.by_groups(rotation)[:size]
        at = rotation % self.count * self.unit if self.count > 1 else 0
        return self.ring[at : at + size]

    def fitting(self, rotation: int, room: int, count: int) -> tuple[int, int]:
        """How many of the first *count* RRs of the answer section fit into *room*, and their
        octets."""
        if self.total * self.unit == self.whole:
            fit = min(count, max(room, 0) // self.unit)
            return fit, fit * self.unit
        return fitting(self.first(rotation, self.shown), count, room)

    def part(
        self,
        octets: bytes,
        end: int,
        rotation: int,
        opt: bytes,
        options: bytes,
        limit: int,
        *,
        stream: bool = False,
    ) -> tuple[bytes, bool] | None:
        """The reply when the whole one exceeds the limit, and whether it holds a part only and TC
        does not say so: the same goes as in core/message.assemble. *opt* is empty without EDNS,
        *options* are beside EDE. None when the question alone leaves no room, or what would be said
        is not here."""
        room = limit - end - len(opt and opt[:OPT_SIZE]) - len(options) - self.authority
        lead, leading = self.lead, self.leading
        room -= len(lead)
        if room < 0:
            return None
        head, counts = int.from_bytes(self.heads[0][:2], "big"), unpack("!4H", self.heads[0][2:])
        head |= int.from_bytes(octets[2:4], "big") & (RD | CD)
        answers, additionals, size = counts[1] - leading, counts[3], self.shown
        error = opt[OPT_SIZE:]
        too_long = self.whole > room
        if self.indivisible and too_long and not stream:
            answers = size = 0
        elif self.whole > self.shown or (self.indivisible and too_long):
            return None
        elif too_long and stream:
            answers, ede = fit_part(
                lambda left: self.fitting(rotation, left, self.total)[0],
                self.total if self.whole <= MAX_MESSAGE else MAX_MESSAGE // self.unit,
                self.total,
                room,
                pageable=self.pageable,
                has_opt=bool(opt),
            )
            error = ede_option(ede) if opt else b""
            answers, size = self.fitting(rotation, room, answers)
        elif too_long:
            answers, size = self.fitting(rotation, room, self.total)
        if too_long:
            additionals = 0
            if not stream:
                head |= TC
                error = b""
            if not answers:  # aliases alone look like NODATA to who does not look at TC
                room += len(lead)
                lead, leading = b"", 0
        answer = self.first(rotation, size)
        room -= len(answer)
        if len(error) > room:
            error = b""
        room -= len(error)
        rest = self.tail[self.authority :]
        additionals, size = fitting(rest, additionals, room)
        return b"".join((
            octets[:2],
            pack("!5H", head, 1, leading + answers, counts[2], additionals + bool(opt)),
            octets[HEADER:end],
            lead,
            answer,
            self.tail[: self.authority],
            rest[:size],
            with_options(opt[:OPT_SIZE] + error, options) if opt else b"",
        )), too_long and stream  # fmt: skip


def cut(said: Cacheable, rules: Rules, counter: Cell) -> Entry | None:
    """Cut a reply into an Entry; None when it does not fit the scheme (RRs of several lengths that
    rotate)."""
    body = said.body
    if said.ring:
        return _cut_ring(said, rules, counter)
    groups = [tied for tied in body.answer if tied]
    records = [record for tied in groups for record in tied]
    indivisible = isinstance(body.whole, TextList)
    rr_count = min(body.at_most or len(records), len(records))
    units = {len(record) for record in records}
    if len(units) > 1:
        if max(map(len, groups)) > 1 or rr_count < len(records):
            return None
        groups = [(b"".join(records),)]  # several owners of an address: nothing takes turns
        units = {len(groups[0][0])}
    unit = max(units, default=0)
    rings = tuple((b"".join(tied) * (1 + (len(tied) > 1)), len(tied)) for tied in groups)
    several = len(groups) > 1 or bool(body.at_most)
    lead = b"".join(body.chain)
    counts = (1, min(len(body.chain) + rr_count, MAX_COUNT), bool(body.authority))
    base = QR | body.aa * AA | rules.forwarding * RA | body.rcode
    heads, opts = _heads(base, *counts, len(body.additional)), _opts(ede_option(body.ede))
    tail = body.authority + b"".join(body.additional)
    shown = sum(map(len, records[:rr_count]))
    return Entry(
        heads=heads,
        lead=lead,
        leading=len(body.chain),
        ring=rings[0][0] if rings else b"",
        unit=unit,
        count=rings[0][1] if rings else 0,
        rings=rings if several else (),
        shown=shown,
        total=rr_count,
        pageable=body.whole is not None and body.whole.pageable,
        tail=tail,
        opts=opts,
        authority=len(body.authority),
        # Of a list that no message holds, or that was not built, it is known when it does not fit.
        whole=said.truncated_below - HEADER - len(said.name) - 4 if said.truncated_below else shown,
        indivisible=indivisible,
        counter=counter,
        parts=said.parts,
        size=OVERHEAD
        + sum(len(ring) for ring, _ in rings)
        + len(lead)
        + len(tail)
        + len(said.name),
    )


def _cut_ring(said: Cacheable, rules: Rules, counter: Cell) -> Entry:
    """Cut a reply with an address set past any message."""
    body, total = said.body, len(said.ring) // ADDRESS_RR
    base = QR | body.aa * AA | rules.forwarding * RA | body.rcode
    ring = said.ring + said.ring[:MAX_MESSAGE]
    return Entry(
        heads=_heads(base, 1, min(total, MAX_COUNT), 0, 0),
        lead=b"",
        leading=0,
        ring=ring,
        unit=ADDRESS_RR,
        count=total,
        rings=(),
        shown=len(said.ring),
        total=total,
        pageable=body.whole is not None and body.whole.pageable,
        tail=b"",
        opts=_opts(ede_option(body.ede)),
        authority=0,
        whole=len(said.ring),
        indivisible=False,
        counter=counter,
        parts=said.parts,
        size=OVERHEAD + len(ring) + len(said.name),
    )


@lru_cache(4_096)
def _heads(
    base: int, questions: int, answers: int, authorities: int, additionals: int
) -> tuple[bytes, ...]:
    """Return flags and counts by RD + 2 CD + 4 OPT; most replies have the same."""
    return tuple(
        pack("!5H", base | rd * RD | cd * CD, questions, answers, authorities, additionals + opt)
        for opt in (0, 1)
        for cd in (0, 1)
        for rd in (0, 1)
    )


@lru_cache(4_096)
def _opts(options: bytes) -> tuple[bytes, ...]:
    """Return our OPT RR by DO."""
    return tuple(
        OPT_HEAD + pack("!HIH", OUR_UDP_SIZE, dnssec_ok << 15, len(options)) + options
        for dnssec_ok in (0, 1)
    )


def with_options(opt: bytes, options: bytes) -> bytes:
    """Return an OPT RR with more options."""
    size = len(opt) - OPT_SIZE + len(options)
    return opt[: OPT_SIZE - 2] + pack("!H", size) + opt[OPT_SIZE:] + options


def fitting(records: bytes, count: int, room: int) -> tuple[int, int]:
    """Return how many of the *count* RRs of a section fit into *room*, and their octets."""
    size = 0
    for fit in range(count):
        at = size
        while 0 < records[at] < 0xC0:
            at += 1 + records[at]
        at += 2 if records[at] else 1
        at += 10 + int.from_bytes(records[at + 8 : at + 10], "big")
        if at > room:
            return fit, size
        size = at
    return count, size
