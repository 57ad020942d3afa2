"""Choose the address of a machine by its name, so that a container keeps it when it is made again.

    fdaa : network (32) : host (32) : machine (32) : 2
    └──────── /80 of network and host ──────┘
    └──────────────── /112: one machine ────┘

The 32 bits are a hash of the name. Where another name has this /112 already, the next free one is
taken. Nothing is reserved: an address is taken once a row has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from hashlib import sha256
from typing import Final

FREE_BITS: Final = 2  # what Fly.io gives a machine in its /112


def choose(network: bytes, host: int, name: str, taken: Mapping[bytes, Set[str]]) -> bytes:
    """Return the 16 octets of an address for *name*.

    *network*: the six octets of its /48. *taken*: the names that have each /112 (14 octets); one
    that *name* has alone is still its own. Names that are spelled alike are one name.
    """
    start, own = network + host.to_bytes(4, "big"), spelled(name)
    number = int.from_bytes(sha256(own.encode()).digest()[:4], "big")
    while True:
        # 0 holds the gateway and what an engine assigns by itself: ::1, ::2, ::3.
        block = start + (number or 1).to_bytes(4, "big")
        if taken.get(block, set()) <= {own}:
            return block + FREE_BITS.to_bytes(2, "big")
        number = (number + 1) & 0xFFFF_FFFF


def spelled(name: str) -> str:
    """Return *name* as the readers of `sources/` spell the name of a machine."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:63].lower()
