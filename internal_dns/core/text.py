"""The octets of a TXT list: items joined by a separator, cut into strings of at most 255 octets.

A Text keeps the items as one piece of octets and the size of each, so that it is joined, cut into
pages and cut into strings without touching every item. It never holds more than a message can take:
what comes later in the list is counted, not encoded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, TypeVar

from internal_dns.core.wire import MAX_MESSAGE

T = TypeVar("T")

STRING: Final = 255  # octets of one character-string at most, RFC 1035 section 3.3
_BLOCK: Final = 64  # items encoded at once, before it is seen whether more can be of use


@dataclass(frozen=True, slots=True)
class Text:
    """The first items of a list: `octets` has each with a separator behind it, `sizes` one octet per
    item, which counts the separator; an item with its separator is one string at most."""

    octets: bytes = b""
    sizes: bytes = b""

    @classmethod
    def of(cls, items: Sequence[bytes], separator: bytes = b",") -> Text:
        if not items:
            return cls()
        return cls(separator.join(items) + separator, bytes([len(item) + 1 for item in items]))

    @classmethod
    def joined(cls, parts: Iterable[Text]) -> Text:
        """The items of *parts*, until there are more than a message can hold."""
        octets, sizes, size = [], [], 0
        for part in parts:
            octets.append(part.octets)
            sizes.append(part.sizes)
            size += len(part.octets)
            if size > MAX_MESSAGE:
                break
        return cls(b"".join(octets), b"".join(sizes))

    def is_over(self, room: int) -> bool:
        """Whether the items certainly take more than *room* octets: a look at the size only."""
        return len(self.octets) - 1 + len(self.octets) // (STRING + 1) > room

    def strings(self, room: int = MAX_MESSAGE) -> tuple[bytes, int]:
        """Return TXT rdata of at most *room* octets, and how many items are in it.

        Strings are cut greedily, behind a separator only; the final item has none. An empty list is
        one empty string: known clients crash on no string at all.
        """
        if not self.sizes:
            return b"\0", 0
        ends = list(accumulate(self.sizes))
        starts: list[int] = []  # of the strings
        start = first = 0  # the next string: where it starts, and its first item
        shown = used = 0  # items that fit so far, and the strings they take
        while first < len(ends):
            starts.append(start)
            follows = bisect_right(ends, start + STRING, first)
            # Without a separator the final item may have room where one with it would not.
            final = follows < len(ends) and ends[follows] == start + STRING + 1
            fits = follows + final
            if ends[fits - 1] - 1 + len(starts) > room:
                fits = bisect_right(ends, room + 1 - len(starts), first, fits)
            if fits > shown:
                shown, used = fits, len(starts)
            if fits < follows or shown == len(ends):
                break
            start, first = ends[follows - 1], follows
        if not shown:
            return b"", 0
        stops = [*starts[1:used], ends[shown - 1] - 1]
        return b"".join(
            bytes((stop - at,)) + self.octets[at:stop]
            for at, stop in zip(starts[:used], stops, strict=True)
        ), shown


def encoded(items: Sequence[T], encode: Callable[[Sequence[T]], Text]) -> Text:
    """Encode as many of *items* as a message can hold, a block at a time."""
    parts, size = [], 0
    for at in range(0, len(items), _BLOCK):
        parts.append(encode(items[at : at + _BLOCK]))
        size += len(parts[-1].octets)
        if size > MAX_MESSAGE:
            break
    return parts[0] if len(parts) == 1 else Text.joined(parts)
