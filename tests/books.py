"""One call for the invariants of any table, queue or pool that keeps books of its own."""

from __future__ import annotations

from typing import Protocol


class HasBooks(Protocol):
    """What keeps counts and indexes beside the values that they are about."""

    def check_books(self) -> None:
        """Check that they agree with the values. Raises AssertionError that says which do not."""


def check_books(*of: HasBooks) -> None:
    """Fail unless the books of all of them agree."""
    for one in of:
        one.check_books()
