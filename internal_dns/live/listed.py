"""A list of objects from an API, of which single ones may be malformed.

One malformed object must not stop the others, and its own row must stay as it is. Which row that
is, only the object's earlier form can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from internal_dns.live.http import Api, ApiAway
from internal_dns.live.source import Key, Snapshot, SourceAway, machine_key, snapshot_of
from internal_dns.sources import Imported, Options, SourceError


@contextmanager
def source_away(api: Api) -> Iterator[None]:
    """Raise SourceAway, with the address, for whatever *api* did not give."""
    try:
        yield
    except ApiAway as error:  # its text has the address
        raise SourceAway(str(error)) from error
    except SourceAway as error:
        raise SourceAway(f"{api}: {error}") from error


class Read(Protocol):
    """A reader of `sources/`."""

    def __call__(self, source: object, options: Options, *, advice: bool) -> Imported: ...


class Listed:
    """Reads lists with one reader of `sources/`, and remembers whose rows are whose."""

    def __init__(self, read: Read, options: Options, identity: Callable[[Any], object]) -> None:
        """*identity* returns what an object is called in the API, or raises LookupError, TypeError
        or AttributeError."""
        self.read, self.options, self.identity = read, options, identity
        self.keys: dict[str, frozenset[Key]] = {}

    def snapshot(self, values: object) -> Snapshot:
        """Return *values*, a list from the API, as objects. Raises SourceAway."""
        if not isinstance(values, list):
            raise SourceAway("the reply is not a list")
        named = self._named(values)
        try:
            whole = self.read(list(named.values()), self.options, advice=False)
        except SourceError:
            whole = None
        single = {} if whole else self._readable(named)
        malformed = frozenset() if whole else frozenset(named.keys() - single.keys())
        if unknown := malformed - self.keys.keys():
            # Which rows are its own is not known, so none may be deleted.
            raise SourceAway(f"{min(unknown)} cannot be read")
        if whole is None:
            whole = self.read([named[name] for name in single], self.options, advice=False)
        found = snapshot_of(whole)
        self._remember(named, malformed, found.objects)
        notes = [f"{name} cannot be read: its row stays as it is" for name in sorted(malformed)]
        return Snapshot(
            found.objects,
            (*notes, *found.notes),
            unreadable=frozenset(key for name in malformed for key in self.keys[name]),
        )

    def _named(self, values: list[Any]) -> dict[str, Any]:
        named = {}
        for value in values:
            try:
                name = self.identity(value)
            except (LookupError, TypeError, AttributeError):
                name = None
            if not isinstance(name, str) or not name:
                raise SourceAway("the reply has an object without an id")
            named[name] = value
        return named

    def _readable(self, named: Mapping[str, Any]) -> dict[str, Imported]:
        found = {}
        for name, value in named.items():
            try:
                found[name] = self.read([value], self.options, advice=False)
            except SourceError:
                continue
        return found

    def _remember(
        self, named: Mapping[str, Any], malformed: frozenset[str], objects: Mapping[Key, object]
    ) -> None:
        """Keep the keys of every object that the API still has."""
        kept = {name: keys for name, keys in self.keys.items() if name in malformed}
        for name, value in named.items():
            if name not in malformed:
                kept[name] = self._keys(value) & objects.keys()
        self.keys = kept

    def _keys(self, value: object) -> frozenset[Key]:
        document = self.read([value], self.options, advice=False).document
        return frozenset(
            machine_key(machine["id"])
            for network in document["networks"].values()
            for app in network.get("apps", {}).values()
            for machine in app["machines"]
        )
