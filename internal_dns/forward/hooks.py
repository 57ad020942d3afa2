"""What the rest of the server hooks into the forwarder, and the defaults without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from internal_dns.core.catalog import NetworkId
from internal_dns.core.journey import Forward
from internal_dns.core.message import Body, message
from internal_dns.core.relayed import Relayed
from internal_dns.core.wire import Ede, Rcode
from internal_dns.late import Late

# The answer table takes a reply, which it repeats until the second of three times: since, refresh,
# until.
Keep = Callable[[bytes, int, int, Relayed, float, float, float], None]
# The exchange returns the reply to a question whose answer is a chain into one of our names, or
# what will hold it when the first catalog is there.
Complete = Callable[[Forward, Relayed, bytes, tuple[Ede, str] | None], bytes | Late]
# The exchange ends a chain where it leads into a zone of the client's network.
Cut = Callable[[Forward, Relayed], Relayed]
# The fair queue does the work in the turn of the network, or of one of them.
RelayInTurn = Callable[[NetworkId, Callable[[], None]], None]
CheckInTurn = Callable[[Iterable[NetworkId], Callable[[], None]], None]


def keep_nothing(*_: object) -> None:
    """Do nothing: there is no answer table."""


def complete_nothing(
    forward: Forward, relayed: Relayed, chain: bytes, ede: tuple[Ede, str] | None
) -> bytes:
    """Return SERVFAIL: there is no exchange that answers internal names."""
    return servfail(forward, (Ede.NOT_READY, "no name of ours is answered here"))


def cut_nothing(forward: Forward, relayed: Relayed) -> Relayed:
    return relayed


def relay_at_once(network: NetworkId, make: Callable[[], None]) -> None:
    make()


def check_at_once(networks: Iterable[NetworkId], check: Callable[[], None]) -> None:
    check()


def servfail(forward: Forward, ede: tuple[Ede, str]) -> bytes:
    body = Body(Rcode.SERVFAIL, aa=False, ede=ede)
    return message(body, forward.query, forward.reply_options)
