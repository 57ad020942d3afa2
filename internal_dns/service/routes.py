"""Query the kernel's routing table for whether an address is local (rtnetlink(7)).

Binding would not show this: with FREEBIND every address can be bound, and without it an address
that has only a local route cannot.

    nlmsghdr: length 32 · type 16 · flags 16 · sequence 32 · port 32
    rtmsg:    family 8 · destination bits 8 · source bits 8 · TOS 8
              table 8 · protocol 8 · scope 8 · type 8 · flags 32
    rtattr:   length 16 · type 16 · address
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address
from struct import pack, unpack_from
from typing import Final

RTM_NEWROUTE: Final = 24
RTM_GETROUTE: Final = 26
NLM_F_REQUEST: Final = 1
RTA_DST: Final = 1
RTN_LOCAL: Final = 2
_HEADER: Final = 16
_TIMEOUT: Final = 1


def is_local(address: IPv4Address | IPv6Address) -> bool:
    """Whether packets to *address* stay on this host. Raises OSError."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    destination = pack("=HH", 4 + len(address.packed), RTA_DST) + address.packed
    body = pack("=8BI", family, 8 * len(address.packed), 0, 0, 0, 0, 0, 0, 0) + destination
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as kernel:
        kernel.settimeout(_TIMEOUT)
        kernel.sendto(
            pack("=IHHII", _HEADER + len(body), RTM_GETROUTE, NLM_F_REQUEST, 1, 0) + body, (0, 0)
        )
        reply = kernel.recv(4_096)
    # Any other type is an error message: there is no route.
    return unpack_from("=H", reply, 4)[0] == RTM_NEWROUTE and reply[_HEADER + 7] == RTN_LOCAL
