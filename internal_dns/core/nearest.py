"""Order an app's machines by their distance from the requester.

The key is (self, same host, same region, cost). Machines equal in all four are a tie group, in
order of address; the reply rotates each group, so that no machine is always first among equals.

Distances between regions are the same for every requester in a region, so each app stores its
machines in tie classes per region of the requester. Machines are in order of address, so the
requester itself and its host are two ranges of one class, which each query cuts out.

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
MachineRange = tuple[tuple[Machine, ...], int, int]  # machines by address and id, start, end

_ADDRESS = itemgetter(2)
_ADDRESS_AND_ID = itemgetter(2, 0)


def rank(machine: Machine, place: Place, catalog: Catalog) -> Rank:
    """Return the sort key of one machine; smaller is nearer."""
    return (
        machine.address != place.own,
        machine.address[6:10] != place.host,
        *region_rank(machine.region, place.region, catalog),
    )


def region_rank(there: bytes, here: bytes | None, catalog: Catalog) -> tuple[bool, float]:
    """Return the part of the sort key that all machines of a region share."""
    cost = catalog.cost(here, there)
    return here is None or there != here, float("inf") if cost is None else cost


@dataclass(frozen=True, slots=True)
class Distances:
    """Tie groups of machines, nearest first, each as ranges."""

    ties: tuple[tuple[MachineRange, ...], ...]
    size: int  # machines
    distinct: int  # addresses

    def groups(self, count: int) -> tuple[tuple[bytes, ...], ...]:
        """Return the addresses of the tie groups that hold the nearest *count* addresses.

        Only the first occurrence of an address counts: RRsets have no duplicates (RFC 2181).
        """
        seen: dict[bytes, None] = {}
        groups = []
        for ranges in self.ties:
            if len(seen) >= count:
                break
            before = len(seen)
            seen.update(dict.fromkeys(map(_ADDRESS, _members(ranges))))
            groups.append(tuple(islice(seen, before, None)))
        return tuple(filter(None, groups))

    def first(self, count: int, rotation: int) -> list[bytes]:
        """Return the nearest *count* addresses, tie groups rotated by *rotation*."""
        if self.distinct == self.size:
            return [machine[2] for machine in self.machines(count, rotation)]
        groups = (rotated(tied, rotation) for tied in self.groups(count))
        return list(islice(chain.from_iterable(groups), count))

    def machines(self, count: int, rotation: int) -> list[Machine]:
        """Return the nearest *count* machines, tie groups rotated by *rotation*."""
        nearest: list[Machine] = []
        for ranges in self.ties:
            if len(nearest) >= count:
                break
            at = rotation % sum(end - start for _, start, end in ranges)
            before, after = [], []
            for machines, start, end in ranges:
                cut = min(max(at, 0), end - start)
                before.append((machines, start, start + cut))
                after.append((machines, start + cut, end))
                at -= end - start
            for machines, start, end in (*after, *before):
                nearest += machines[start : min(end, start + count - len(nearest))]
        return nearest


def _members(ranges: tuple[MachineRange, ...]) -> Iterator[Machine]:
    return chain.from_iterable(machines[start:end] for machines, start, end in ranges)


def distances(app: App, group: bytes | None, place: Place, catalog: Catalog) -> Distances:
    """Return the machines in the answer of *app* or a process group of it, by distance."""
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
            own += _not_empty((machines, first, last))
            near.append(_not_empty((machines, start, first), (machines, last, end)))
        far.append(_not_empty((machines, 0, start), (machines, end, len(machines))))
    # Machines that share the requester's address may claim several regions and then differ in rank,
    # so each range of `own` is a tie group.
    ties = tuple(filter(None, (*((one,) for one in own), *near, *far)))
    return Distances(ties, len(chosen.machines), len(chosen.spread))


def _not_empty(*ranges: MachineRange) -> tuple[MachineRange, ...]:
    return tuple(one for one in ranges if one[1] < one[2])


def _classes(
    app: App, group: bytes | None, here: bytes | None, catalog: Catalog
) -> tuple[tuple[Machine, ...], ...]:
    """Return the machines in classes of equal distance, nearest first; the app stores them."""
    key = here, group
    order = app.orders.get(key)
    if order is None or not (order.latency is catalog.latency and order.regions is catalog.regions):
        order = Order(catalog.latency, catalog.regions, _classed(app, group, here, catalog))
        app.store_order(key, order)
    return order.classes


def _classed(
    app: App, group: bytes | None, here: bytes | None, catalog: Catalog
) -> tuple[tuple[Machine, ...], ...]:
    tied: dict[tuple[bool, float], list[tuple[Machine, ...]]] = {}
    for region, machines in app.regions_of(group).items():
        tied.setdefault(region_rank(region, here, catalog), []).append(machines)
    whole = app.selection(None, group)
    # Ids matter only where machines share an address, and tuples of both take long to make.
    key = _ADDRESS if whole.distinct else _ADDRESS_AND_ID
    return tuple(
        whole.in_order
        if len(tied) == 1
        else parts[0]
        if len(parts) == 1
        else tuple(sorted(chain.from_iterable(parts), key=key))
        for _, parts in sorted(tied.items(), key=itemgetter(0))
    )
