"""What a commit changes, found in steps that are short whatever the catalog's size.

The answer table, and what follows it, yield between their steps; their driver may answer queries
then.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

from internal_dns.core.catalog import Catalog, Network, NetworkId
from internal_dns.core.own import changed_parts

PART: Final = 1_024  # things looked at in one step, a fraction of a millisecond

T = TypeVar("T")
Labels = frozenset[bytes] | None
Change = tuple[NetworkId, Labels]


def parts(of: Iterable[T]) -> Iterator[list[T]]:
    """Yield *of* in lists of at most PART."""
    left = iter(of)
    while part := list(islice(left, PART)):
        yield part


def differences(old: Catalog, new: Catalog) -> Iterator[Change | None]:
    """Yield what core.catalog.changed does, and None between the steps."""
    places = (old.regions, old.latency, old.hosts) != (new.regions, new.latency, new.hosts)
    for numbers in parts(new.networks):
        for number in numbers:
            before, after = old.networks.get(number), new.networks[number]
            if before is after and not places:
                continue
            if places or before is None:
                yield number, None
            elif after.since == before.revision:
                yield number, after.touched  # found without a walk over apps that are the same
            else:
                yield number, (yield from _changed_labels(before, after))
        yield None
    for numbers in parts(old.networks):
        for number in numbers:
            if number not in new.networks:
                yield number, None
        yield None


def _changed_labels(before: Network, after: Network) -> Generator[None, None, frozenset[bytes]]:
    """Return the parts that differ: labels of apps and flycasts, and parts of records and zones."""
    found: set[bytes] = set()
    for one, other in ((before, after), (after, before)):
        for apps in parts(one.apps):
            found.update(app for app in apps if one.apps[app] is not other.apps.get(app))
            yield
        for flycasts in parts(one.flycasts):
            found.update(f for f in flycasts if one.flycasts[f] != other.flycasts.get(f))
            yield
        own = (one.records, one.zones), (other.records, other.zones)
        for owners in parts(one.records):
            found.update(changed_parts(*own, owners))
            yield
    found.update(changed_parts((before.records, before.zones), (after.records, after.zones), ()))
    return frozenset(found)
