"""Order an app's machines by how far they are from the asker.

The key is (self, same host, same region, cost); machines equal in all four are a tie group, in
order of address. The reply rotates each group by the turn, so nobody is always first among equals.
"""

from __future__ import annotations

from collections.abc import Iterable

from internal_dns.core.catalog import Catalog, Machine
from internal_dns.core.requester import Place

Rank = tuple[bool, bool, bool, float]


def rank(machine: Machine, place: Place, catalog: Catalog) -> Rank:
    """The sort key of one machine; smaller is nearer."""
    cost = catalog.cost(place.region, machine.region)
    return (
        machine.address != place.own,
        machine.address[6:10] != place.host,
        place.region is None or machine.region != place.region,
        float("inf") if cost is None else cost,
    )


def tie_groups(
    machines: Iterable[Machine], count: int, place: Place, catalog: Catalog
) -> tuple[tuple[Machine, ...], ...]:
    """Split *machines* into tie groups, nearest first, no more than it takes to hold *count*
    addresses."""
    costs = {}  # one cost a region, not one a machine
    ranked: dict[Rank, list[Machine]] = {}
    for machine in machines:
        key = (machine.address == place.own, machine.address[6:10] == place.host, machine.region)
        if key not in costs:
            costs[key] = rank(machine, place, catalog)
        ranked.setdefault(costs[key], []).append(machine)
    groups: list[tuple[Machine, ...]] = []
    found: set[bytes] = set()
    for place_rank in sorted(ranked):
        if len(found) >= count:
            break
        groups.append(tuple(sorted(ranked[place_rank], key=lambda m: (m.address, m.id))))
        found.update(m.address for m in groups[-1])
    return tuple(groups)
