"""The native table as Python fills it: AnswerTable knows what depends on what, this follows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import ceil
from struct import pack, unpack
from typing import Final

from internal_dns.core import names
from internal_dns.core.catalog import Catalog, Network, NetworkId
from internal_dns.core.journey import Reply, Rules, respond
from internal_dns.core.own import ANY_OF_INTERNAL, INTERNAL
from internal_dns.core.wire import AD, IN, QR, RA, RD, Rcode, Type
from internal_dns.metrics import Metrics
from internal_dns.transport.native import MISSING
from internal_dns.transport.table.changes import parts
from internal_dns.transport.table.entries import MAX_COUNT, OPT_SIZE, Cell, Entry, cut
from internal_dns.transport.table.relayed import EVERYONE, RelayedEntry, split
from internal_dns.transport.table.table import MAX_ENTRIES

if not MISSING:
    from internal_dns.transport.native import fast

_NETWORKS: Final = 16_384  # chains; more networks make them longer
# Labels that a network may gain before its set is made anew, at least.
_ROOM: Final = 64


class Mirror:
    """Keeps the native table like the AnswerTable it belongs to, and brings the workers' counts
    home."""

    def __init__(self, rules: Rules, metrics: Metrics) -> None:
        longest_first = sorted(rules.maps, key=lambda m: -m.source.prefixlen)
        maps = [
            (m.source.network_address.packed, m.source.prefixlen, m.network) for m in longest_first
        ]
        self.table = fast.Table(rules.prefix, maps, rules.udp_limit, MAX_ENTRIES, _NETWORKS)
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

    def put(self, network: bytes, key: bytes, entry: Entry) -> int:
        """Keep *entry*; return the octets it takes here, 0 when only Python can repeat it."""
        number = self._number(entry.counter)
        in_turns = any(count > 1 for _, count in entry.rings)  # by distance: group by group
        turns = entry.count if entry.count > 1 else 0
        largest = len(entry.lead) + entry.whole
        if in_turns or number >= fast.MAX_CELLS or largest > fast.LARGEST_ANSWER:
            return 0
        flags, counts, records, sizes, options = octets_of(entry)
        lead, leading = len(entry.lead), entry.leading
        if entry.indivisible and entry.whole > fast.LARGEST_REPLY:
            # It never leaves natively, but it is known that it does not fit, and what is said then.
            records, sizes = entry.tail, (0, *sizes[1:])
            lead = leading = 0
        elif counts[0] == MAX_COUNT and not turns:
            return 0
        name, qtype, _ = split(network, key)
        return self.table.put(
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
        )

    def put_relayed(self, key: bytes, entry: RelayedEntry) -> int:
        """Keep *entry* for everyone; return the octets it takes here, 0 when only Python can repeat
        it."""
        number, reply = self._number(entry.counter), entry.reply
        if number >= fast.MAX_CELLS:
            return 0
        # Of what is larger than any reply there, no more is told than what such a reply has room for.
        whole = len(reply.records)
        if whole > fast.LARGEST_REPLY:
            reply = reply.first(fast.LARGEST_REPLY)
        name, qtype, variant = split(EVERYONE, key)
        # Upwards: who is sent up to have it refreshed must find that it is time there too.
        refresh, until = ceil(entry.refresh_at * 1_000), ceil(entry.until * 1_000)
        return self.table.put_relayed(
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

    def drop(self, network: bytes, key: bytes) -> None:
        name, qtype, variant = split(network, key)
        if network == EVERYONE:
            self.table.drop_relayed(name, qtype, bool(variant & 1), bool(variant & 2))
        else:
            self.table.drop(int.from_bytes(network, "big"), name, qtype)

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
