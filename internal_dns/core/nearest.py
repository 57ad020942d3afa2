"""Order an app's machines by how far they are from the asker.

The key is (self, same host, same region, cost); machines equal in all four are a tie group, in
order of address. The reply rotates each group by the turn, so nobody is always first among equals.

What is far is the same for everyone in a region, so each app keeps its machines by the asker's
region, as tie classes. The asker itself and its host are two ranges of one class, as machines are in
order of address: they are cut out for each question.

    class 0                            class 1
    |.....| host: |..|self|...| |....| |.........................|
    self · host without self · class 0 without host · class 1
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter

from internal_dns.core.catalog import App, Catalog, Machine, Order
from internal_dns.core.records import rotated
from internal_dns.core.requester import Place

Rank = tuple[bool, bool, bool, float]
MachineRange = tuple[tuple[Machine, ...], int, int]  # machines in order of address and id, from, to

_ADDRESS = itemgetter(2)
_ADDRESS_AND_ID = itemgetter(2, 0)


def rank(machine: Machine, place: Place, catalog: Catalog) -> Rank:
    """The sort key of one machine; smaller is nearer."""
    return (
        machine.address != place.own,
        machine.address[6:10] != place.host,
        *region_rank(machine.region, place.region, catalog),
    )


def region_rank(there: bytes, here: bytes | None, catalog: Catalog) -> tuple[bool, float]:
    """The part of the sort key that all machines of a region share."""
    cost = catalog.cost(here, there)
    return here is None or there != here, float("inf") if cost is None else cost


@dataclass(frozen=True, slots=True)
class Distances:
    """Tie groups, nearest first, each as spans of machines; `distinct` counts addresses."""

    ties: tuple[tuple[MachineRange, ...], ...]
    size: int
    distinct: int

    def groups(self, count: int) -> tuple[tuple[bytes, ...], ...]:
        """Return the addresses of the tie groups that hold the nearest *count* addresses, each
        address only where it first stands: RRsets have no duplicates (RFC 2181)."""
        seen: dict[bytes, None] = {}
        groups = []
        for spans in self.ties:
            if len(seen) >= count:
                break
            before = len(seen)
            seen.update(dict.fromkeys(map(_ADDRESS, _members(spans))))
            groups.append(tuple(islice(seen, before, None)))
        return tuple(filter(None, groups))

    def first(self, count: int, rotation: int) -> list[bytes]:
        """Return the nearest *count* addresses, tie groups rotated by *rotation*."""
        if self.distinct == self.size:
            return [machine[2] for machine in self.machines(count, rotation)]
        turned = (rotated(tied, rotation) for tied in self.groups(count))
        return list(islice(chain.from_iterable(turned), count))

    def machines(self, count: int, rotation: int) -> list[Machine]:
        """Return the nearest *count* machines, tie groups rotated by *rotation*."""
        found: list[Machine] = []
        for spans in self.ties:
            if len(found) >= count:
                break
            at = rotation % sum(end - start for _, start, end in spans)
            before, after = [], []
            for machines, start, end in spans:
                cut = min(max(at, 0), end - start)
                before.append((machines, start, start + cut))
                after.append((machines, start + cut, end))
                at -= end - start
            for machines, start, end in (*after, *before):
                found += machines[start : min(end, start + count - len(found))]
        return found


def _members(spans: tuple[MachineRange, ...]) -> Iterator[Machine]:
    return chain.from_iterable(machines[start:end] for machines, start, end in spans)


def distances(app: App, group: bytes | None, place: Place, catalog: Catalog) -> Distances:
    """Return the machines that *app*, or one process group of it, answers, by distance from
    *place*."""
    chosen = app.selection(None, group)
    own: list[MachineRange] = []
    near: list[tuple[MachineRange, ...]] = []
    far: list[tuple[MachineRange, ...]] = []
    for machines in _classes(app, group, place.region, catalog):
        start = end = 0
        if place.host is not None:
            prefix = machines[0].address[:6] + place.host
            start = bisect_left(machines, prefix, key=_ADDRESS)
            end = bisect_left(machines, prefix + b"\xff" * 7, key=_ADDRESS)
            first, last = start, start
            if place.own is not None and place.own[6:10] == place.host:
                first = bisect_left(machines, place.own, start, end, key=_ADDRESS)
                last = first
                while last < end and machines[last].address == place.own:
                    last += 1
            own += _spans((machines, first, last))
            near.append(_spans((machines, start, first), (machines, last, end)))
        far.append(_spans((machines, 0, start), (machines, end, len(machines))))
    # One address is one place, whatever regions its machines claim: they differ in rank then.
    ties = tuple(filter(None, (*((span,) for span in own), *near, *far)))
    return Distances(ties, len(chosen.machines), len(chosen.spread))


def _spans(*spans: MachineRange) -> tuple[MachineRange, ...]:
    return tuple(span for span in spans if span[1] < span[2])


def _classes(
    app: App, group: bytes | None, here: bytes | None, catalog: Catalog
) -> tuple[tuple[Machine, ...], ...]:
    """Return the machines in classes of equally far regions, nearest first; the app keeps them."""
    key = here, group
    kept = app.orders.get(key)
    if kept is None or not (kept.latency is catalog.latency and kept.regions is catalog.regions):
        classes = _classed(app, group, here, catalog)
        kept = Order(catalog.latency, catalog.regions, classes)
        app.store_order(key, kept)
    return kept.classes


def _classed(
    app: App, group: bytes | None, here: bytes | None, catalog: Catalog
) -> tuple[tuple[Machine, ...], ...]:
    tied: dict[tuple[bool, float], list[tuple[Machine, ...]]] = {}
    for region, machines in app.regions_of(group).items():
        tied.setdefault(region_rank(region, here, catalog), []).append(machines)
    whole = app.selection(None, group)
    # Tuples of address and id take long to make, and only where addresses are shared ids matter.
    key = _ADDRESS if whole.distinct else _ADDRESS_AND_ID
    return tuple(
        whole.in_order
        if len(tied) == 1
        else parts[0]
        if len(parts) == 1
        else tuple(sorted(chain.from_iterable(parts), key=key))
        for _, parts in sorted(tied.items(), key=itemgetter(0))
    )
