"""Encode a TXT list: items joined by a separator, split into strings of at most 255 octets.

A Text stores all items in one bytes object and the size of each. Lists are joined and split into
strings without a step per item. A Text holds little more than a message can: later items of the
list are counted, not encoded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, TypeVar

from internal_dns.core.wire import MAX_MESSAGE

T = TypeVar("T")

STRING: Final = 255  # the most octets of a character-string, RFC 1035 section 3.3
_BLOCK: Final = 64  # items to encode before checking whether a message can hold more


@dataclass(frozen=True, slots=True)
class Text:
    """The first items of a list.

    `octets` has each item followed by a separator; `sizes` has one octet per item, its size with
    the separator. An item with its separator fits one string.
    """

    octets: bytes = b""
    sizes: bytes = b""

    @classmethod
    def of(cls, items: Sequence[bytes], separator: bytes = b",") -> Text:
        if not items:
            return cls()
        return cls(separator.join(items) + separator, bytes([len(item) + 1 for item in items]))

    @classmethod
    def joined(cls, parts: Iterable[Text]) -> Text:
        """Join *parts* until there are more items than a message can hold."""
        octets, sizes, size = [], [], 0
        for part in parts:
            octets.append(part.octets)
            sizes.append(part.sizes)
            size += len(part.octets)
            if size > MAX_MESSAGE:
                break
        return cls(b"".join(octets), b"".join(sizes))

    def is_over(self, room: int) -> bool:
        """Whether the items certainly take more than *room* octets, judged by the size alone."""
        return len(self.octets) - 1 + len(self.octets) // (STRING + 1) > room

    def strings(self, room: int = MAX_MESSAGE) -> tuple[bytes, int]:
        """Return TXT rdata of at most *room* octets, and how many items it holds.

        Strings are split greedily and only after a separator; the final item has none. An empty
        list is one empty string: known clients crash on rdata without a string.
        """
        if not self.sizes:
            return b"\0", 0
        ends = list(accumulate(self.sizes))
        starts: list[int] = []  # offsets of the strings
        start = first = 0  # the next string: its offset and its first item
        shown = used = 0  # items that fit so far, and the strings that they take
        while first < len(ends):
            starts.append(start)
            follows = bisect_right(ends, start + STRING, first)
            # The final item may fit because it has no separator.
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
