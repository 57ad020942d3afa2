"""How an outstanding query ends: a reply to relay, or the failure that the client is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from internal_dns.core.relayed import Relayed
from internal_dns.core.wire import Ede


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer. `outcome` is the label of the metric."""

    outcome: str
    ede: tuple[Ede, str]


Outcome = Relayed | Failure

BUSY: Final = Failure("busy", (Ede.OTHER, "too many queries are waiting for upstreams"))
TIMEOUT: Final = Failure("timeout", (Ede.NO_REACHABLE_AUTHORITY, "no upstream answered in time"))
UNREACHABLE: Final = Failure(
    "unreachable", (Ede.NO_REACHABLE_AUTHORITY, "no upstream could be reached")
)
FAILING: Final = Failure("failing", (Ede.NETWORK_ERROR, "every upstream that was reached failed"))
INJECTED: Final = Failure(
    "injected", (Ede.BLOCKED, "the upstream spoke for internal names or addresses")
)
ALIAS: Final = Failure(
    "alias", (Ede.BLOCKED, "an alias from outside leads to an internal name: outside_aliases")
)
FAULT: Final = Failure("error", (Ede.OTHER, "the server failed on this query"))
LOOP: Final = Failure("loop", (Ede.OTHER, "an upstream leads back to this server"))
