"""The native table as Python fills it: what is stored there, and forgotten, as AnswerTable says.

An answer that the C core can repeat in every case is stored there alone, and Python has no object for
it. One that is too large for a UDP reply is stored in both, because TCP has room for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import ceil
from struct import pack, unpack
from typing import Final

from internal_dns.core import names
from internal_dns.core.catalog import Catalog, Network, NetworkId
from internal_dns.core.journey import Cacheable, Reply, Rules, respond
from internal_dns.core.message import ede_option
from internal_dns.core.own import ANY_OF_INTERNAL, INTERNAL
from internal_dns.core.records import TextList
from internal_dns.core.wire import AA, AD, IN, QR, RA, RD, Rcode, Type
from internal_dns.metrics import Metrics
from internal_dns.transport.native import MISSING
from internal_dns.transport.table.changes import parts
from internal_dns.transport.table.entries import MAX_COUNT, OPT_SIZE, Cell, Entry, cut
from internal_dns.transport.table.relayed import EVERYONE, RelayedEntry, split
from internal_dns.transport.table.table import MAX_OCTETS, Hot

if not MISSING:
    from internal_dns.transport.native import fast

# Octets of a reply that its question, OPT and the options of the query may take.
_BESIDE: Final = 1_024
# Labels that a network may gain before its set is made anew, at least.
_ROOM: Final = 64


class Mirror:
    """Fills the native table of an AnswerTable, and adds the workers' counts to the metrics."""

    def __init__(self, rules: Rules, metrics: Metrics, bound: int = MAX_OCTETS) -> None:
        longest_first = sorted(rules.maps, key=lambda m: -m.source.prefixlen)
        maps = [
            (m.source.network_address.packed, m.source.prefixlen, m.network) for m in longest_first
        ]
        self.table = fast.Table(rules.prefix, maps, rules.udp_limit, bound)
        self.table.set_options(rules.secret, rules.nsid)
        self.prefix = rules.prefix
        self._cells: list[Cell] = []
        self._numbers: dict[int, int] = {}  # by the id of a cell, which _cells keeps alive
        self._room: dict[NetworkId, int] = {}
        self._set_unknown(rules, metrics)

    def _number(self, cell: Cell) -> int:
        """The number that *cell* has natively."""
        number = self._numbers.get(id(cell))
        if number is None:
            number = self._numbers[id(cell)] = len(self._cells)
            self._cells.append(cell)
        return number

    def _set_unknown(self, rules: Rules, metrics: Metrics) -> None:
        """Tell the table what names get that are certainly not there, and which labels make a name
        uncertain."""
        for depth, entry in enumerate(unknown(rules, fast.UNKNOWN_DEPTHS), 1):
            flags, counts, records, sizes, options = octets_of(entry)
            self.table.set_unknown(depth, flags, counts, records, sizes, options)
        self.table.set_words(names.RESERVED)
        for qtype in range(fast.OTHER_TYPE + 1):
            cell = metrics.response("internal", Rcode.NXDOMAIN, qtype)
            self.table.set_unknown_cell(qtype, self._number(cell))

    # ── what AnswerTable tells ────────────────────────────────────────────────────────────────────

    def put(self, network: bytes, key: bytes, entry: Entry) -> bool:
        """Store *entry*; return whether it can be repeated here in every case."""
        number = self._number(entry.counter)
        in_turns = any(count > 1 for _, count in entry.rings)  # by distance: group by group
        turns = entry.count if entry.count > 1 else 0
        largest = len(entry.lead) + entry.whole
        if (
            in_turns
            or number >= fast.MAX_CELLS
            or largest > fast.LARGEST_ANSWER
            or (turns and entry.unit > MAX_COUNT)
            or len(entry.lead) > MAX_COUNT
        ):
            self.drop(network, key)
            return False
        flags, counts, records, sizes, options = octets_of(entry)
        lead, leading = len(entry.lead), entry.leading
        if entry.indivisible and entry.whole > fast.LARGEST_REPLY:
            # It never leaves natively, but it is known that it does not fit, and what is said then.
            records, sizes = entry.tail, (0, *sizes[1:])
            lead = leading = 0
        elif counts[0] == MAX_COUNT and not turns:
            self.drop(network, key)
            return False
        name, qtype, _ = split(network, key)
        self.table.put(
            int.from_bytes(network, "big"),
            name,
            qtype,
            flags,
            counts,
            entry.unit if turns else 0,
            turns,
            records,
            sizes,
            options,
            number,
            entry.indivisible,
            lead,
            leading,
            # With more it goes sooner than it must.
            entry.parts if entry.parts and len(entry.parts) <= fast.MOST_PARTS else None,
        )
        return sizes[2] + len(options) + _BESIDE <= fast.LARGEST_REPLY

    # Hot path: most replies have one set or none; cut into an Entry first, they would take twice as
    # long.
    def put_reply(self, network: bytes, reply: Cacheable, rules: Rules, counter: Cell) -> bool:
        """Store a *reply* that can be repeated here in every case; False, and nothing is done, when
        `put` must decide what becomes of it."""
        body = reply.body
        if (
            len(body.answer) > 1
            or body.at_most
            or body.chain
            or reply.ring
            or reply.truncated_below
            or isinstance(body.whole, TextList)
        ):
            return False
        records = body.answer[0] if body.answer else ()
        count, answer, additional = len(records), b"".join(records), b"".join(body.additional)
        unit = len(records[0]) if count else 0
        if unit * count != len(answer) or (count > 1 and set(map(len, records)) != {unit}):
            return False
        sections = answer + body.authority + additional
        options, number = ede_option(body.ede), self._number(counter)
        if len(sections) + len(options) + _BESIDE > fast.LARGEST_REPLY or number >= fast.MAX_CELLS:
            return False
        self.table.put(
            int.from_bytes(network, "big"),
            reply.name,
            reply.qtype,
            QR | body.aa * AA | rules.forwarding * RA | body.rcode,
            (count, 1 if body.authority else 0, len(body.additional)),
            unit if count > 1 else 0,
            count if count > 1 else 0,
            sections,
            (len(answer), len(body.authority), len(sections)),
            options,
            number,
            False,
            0,
            0,
            reply.parts if reply.parts and len(reply.parts) <= fast.MOST_PARTS else None,
        )
        return True

    def put_relayed(self, key: bytes, entry: RelayedEntry) -> bool:
        """Store *entry* for everyone; return whether it can be repeated here in every case."""
        number, reply = self._number(entry.counter), entry.reply
        if number >= fast.MAX_CELLS:
            self.drop(EVERYONE, key)
            return False
        # Of what is larger than any reply there, no more is stored than such a reply has room for.
        whole = len(reply.records)
        if whole > fast.LARGEST_REPLY:
            reply = reply.first(fast.LARGEST_REPLY)
        name, qtype, variant = split(EVERYONE, key)
        # Upwards: who is sent up to have it refreshed must find that it is time there too.
        refresh, until = ceil(entry.refresh_at * 1_000), ceil(entry.until * 1_000)
        self.table.put_relayed(
            name,
            qtype,
            bool(variant & 1),
            bool(variant & 2),
            QR | RA | reply.ad * AD | reply.rcode & 15,
            reply.rcode >> 4,
            (*reply.counts, 0),
            reply.records,
            b"",
            reply.ttls,
            int(entry.since * 1_000),
            refresh,
            until,
            number,
            whole,
            reply.chain,
        )
        return whole + _BESIDE <= fast.LARGEST_REPLY

    # Hot path: over TCP, and for what a worker has handed up before its answer was stored.
    def repeat(
        self, octets: bytes, source: bytes, destination: bytes, rotation: int, stream: bool,
        now: float, wall: float,
    ) -> bytes | None:  # fmt: skip
        """Return the reply to *octets* and count it; None when Python must see them."""
        found = self.table.repeat(
            octets, source, destination, rotation, int(now * 1_000), int(wall), stream
        )
        if found is None:
            return None
        self._cells[found[1]][0] += 1
        return found[0]

    def drop(self, network: bytes, key: bytes) -> None:
        """Forget the answer of *key*, if there is one."""
        name, qtype, variant = split(network, key)
        if network == EVERYONE:
            self.table.drop_relayed(name, qtype, bool(variant & 1), bool(variant & 2))
        else:
            self.table.drop(int.from_bytes(network, "big"), name, qtype)

    def forget_part(self, network: bytes, part: bytes | None, most: int, hot: Hot | None) -> int:
        """Forget at most *most* answers that depend on *part* of *network*, with None on the whole
        network; return how many. What was repeated of them is appended to *hot*."""
        return self.table.forget(int.from_bytes(network, "big"), part, most, hot)

    def forget_all(self, network: bytes, most: int, hot: Hot | None) -> int:
        """Forget at most *most* answers of *network*; return how many. *hot* is as above."""
        return self.table.forget_all(int.from_bytes(network, "big"), most, hot)

    def steps(
        self,
        number: NetworkId,
        before: Network | None,
        after: Network | None,
        labels: frozenset[bytes] | None,
    ) -> Iterator[None]:
        """Let names under the apps of *after* go up to Python, under its own records, and in its
        zones. A name may go up before it is in the catalog, and when it is gone: Python knows."""
        if after is None:
            self.forget(number)
        elif before is None or number not in self._room or _is_known_anew(before, after):
            yield from self._know(after)
        elif before.apps is not after.apps or before.records is not after.records:
            new: list[bytes] = []
            for part in parts(_labels(after) if labels is None else labels):
                new += [one for one in part if _has(after, one) and not _has(before, one)]
                yield
            self._room[number] -= len(new)
            if self._room[number] < 0:
                yield from self._know(after)
            else:
                for part in parts(new):
                    self.table.add_labels(number, part)
                    yield

    def forget(self, number: NetworkId) -> None:
        """Free what is known of network *number*: the names of `.internal` go up."""
        self.table.remove_network(number)
        self.table.drop_account(number)
        self._room.pop(number, None)

    def send_up(self, number: NetworkId) -> None:
        """Let all names of network *number* go up, until it is told of again."""
        made = fast.Network(self.table, number, 0, (b"\0",))
        made.add_everything(outside=True)
        made.publish()
        self._room.pop(number, None)

    def watch(self, every: int) -> None:
        self.table.watch(every)

    def _know(self, network: Network) -> Iterator[None]:
        labels = len(network.apps) + len(network.records) + len(network.below)
        room = max(_ROOM, len(network.apps))
        made = fast.Network(self.table, network.id, labels + room, network.zones)
        made.add(names.APEX_WORDS)
        if _has_any(network):
            made.add_everything()
        else:
            for part in parts(_labels(network)):
                made.add(part)
                yield
        made.publish()
        self._room[network.id] = room

    def hits(self, network: bytes, key: bytes) -> int:
        name, qtype, variant = split(network, key)
        if network == EVERYONE:
            return self.table.relayed_hits(name, qtype, bool(variant & 1), bool(variant & 2))
        return self.table.hits_of(int.from_bytes(network, "big"), name, qtype)

    def bring_home(self, counts: Sequence[int], before: Sequence[int]) -> None:
        """Add what a worker has counted since *before*, by cell."""
        for cell, now, then in zip(self._cells, counts, before, strict=False):
            cell[0] += now - then


def _labels(network: Network) -> Iterator[bytes]:
    """Yield the labels next to `internal` that names of *network* have."""
    yield from network.apps
    for name in chain(network.records, network.below):
        if name[1 + name[0] :] == INTERNAL:
            yield name[1 : 1 + name[0]]


def _has(network: Network, label: bytes) -> bool:
    """Whether names of *network* have this label next to `internal`; of other parts: no."""
    if not 0 < len(label) < 64:
        return False
    name = bytes((len(label),)) + label + INTERNAL
    return label in network.apps or name in network.records or name in network.below


def _has_any(network: Network) -> bool:
    """Whether any label may be one: by a wildcard at the apex."""
    return ANY_OF_INTERNAL in network.records or ANY_OF_INTERNAL in network.below


def _is_known_anew(before: Network, after: Network) -> bool:
    """Whether a set must be made anew that no label can be added to."""
    return before.zones != after.zones or _has_any(before) != _has_any(after)


def octets_of(
    entry: Entry,
) -> tuple[int, tuple[int, int, int], bytes, tuple[int, int, int], bytes]:
    """Flags without RD and CD, counts without OPT, records, octets of answer, of authority and of
    all sections as whole as they are, and EDNS options of an entry."""
    flags, _, answers, authorities, additionals = unpack("!5H", entry.heads[0])
    answer = entry.answer(0)
    return (
        flags,
        (answers, authorities, additionals),
        entry.lead + answer + entry.tail,
        (
            len(entry.lead) + len(answer),
            entry.authority,
            len(entry.lead) + entry.whole + len(entry.tail),
        ),
        entry.opts[0][OPT_SIZE:],
    )


def unknown(rules: Rules, depths: int) -> Iterator[Entry]:
    """Yield what core says to names without a telling label, with one label below `internal`, with
    two, and so on."""
    network = Network(NetworkId(1), rules.prefix + (1).to_bytes(4, "big"))
    for depth in range(1, depths + 1):
        question = names.wire((b"x",) * depth + names.INTERNAL) + pack("!2H", Type.AAAA, IN)
        octets = pack("!6H", 0, RD, 1, 0, 0, 0) + question
        said = respond(
            octets, network.prefix + bytes(10), bytes(16), Catalog({network.id: network}), rules
        )
        assert isinstance(said, Reply)
        assert said.rcode == Rcode.NXDOMAIN
        assert said.cacheable is not None
        entry = cut(said.cacheable, rules, [0])
        assert entry is not None
        # Its owner is where the C core puts the pointer of the question at hand.
        assert entry.tail[:2] == pack(
            "!H", 0xC000 | len(octets) - 4 - len(names.wire(names.INTERNAL))
        )
        yield entry
