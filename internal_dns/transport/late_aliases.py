"""Replies made of other replies, when those are there: aliases in front of what an upstream sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from internal_dns.late import Late


def after(reply: bytes | Late, make: Callable[[bytes], bytes]) -> bytes | Late:
    """Return what *make* makes of *reply*, when it is there."""
    if isinstance(reply, bytes):
        return make(reply)
    made = Made(reply, loop=reply.get_loop())
    reply.when_there(lambda octets: made.have_made(make, octets))
    return made


class Made(Late):
    """A reply that is made of another. Whoever no longer wants it does not want that one either."""

    def __init__(self, of: Late, **how: Any) -> None:
        super().__init__(**how)
        self.of = of

    def have_made(self, make: Callable[[bytes], bytes], octets: bytes) -> None:
        if not self.done():
            self.have(make(octets))

    def cancel(self, msg: Any | None = None) -> bool:
        if not self.done():
            self.of.cancel(msg)
        return super().cancel(msg)


def settle(late: Late, reply: bytes | Late) -> None:
    """Give *late* the reply when it is there, unless the client has left."""

    def give(octets: bytes) -> None:
        if not late.done():
            late.have(octets)

    if isinstance(reply, bytes):
        give(reply)
    else:
        reply.when_there(give)
