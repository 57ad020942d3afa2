"""Replies that are derived from other replies: our aliases in front of what an upstream sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from internal_dns.late import Late


def derive_reply(reply: bytes | Late, make: Callable[[bytes], bytes]) -> bytes | Late:
    """Return what *make* returns for *reply*, as soon as that is there."""
    if isinstance(reply, bytes):
        return make(reply)
    derived = DerivedReply(reply, loop=reply.get_loop())
    reply.when_there(lambda octets: derived.derive(make, octets))
    return derived


class DerivedReply(Late):
    """A reply that is derived from another. Canceling it cancels the other."""

    def __init__(self, of: Late, **how: Any) -> None:
        super().__init__(**how)
        self.of = of

    def derive(self, make: Callable[[bytes], bytes], octets: bytes) -> None:
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
