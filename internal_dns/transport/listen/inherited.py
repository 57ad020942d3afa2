"""Sockets that were bound before us: by systemd, or by whatever else speaks its protocol
(sd_listen_fds(3)).

    LISTEN_FDS=4  LISTEN_PID=<ours>  LISTEN_FDNAMES=dns:dns:dns:dns      descriptors 3, 4, 5, 6

They are taken as they are, several UDP sockets of one address too, and closed at the end, never
shut down: who passed them keeps them, and with them the questions that nobody has read yet. So a
restart loses none.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import MutableMapping
from ipaddress import ip_address
from typing import Final

from internal_dns.errors import OperatorError
from internal_dns.net import Endpoint
from internal_dns.transport.listen.sockets import (
    IP_FREEBIND,
    IPV6_FREEBIND,
    SO_TIMESTAMP,
    Bound,
    widen,
)

FIRST: Final = 3  # SD_LISTEN_FDS_START: the descriptors follow standard error
_VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def inherited(
    environment: MutableMapping[str, str] = os.environ, first: int = FIRST
) -> list[Bound]:
    """Return the sockets passed to this process by address, none if none were. Raises
    OperatorError.

    The variables are removed: a child of ours is not meant.
    """
    count, names = _passed(environment)
    found: dict[Endpoint, Bound] = {}
    made: list[socket.socket] = []
    try:
        for number in range(first, first + count):
            what = f"inherited descriptor {number}" + (
                f" ({names[number - first]})" if names[number - first :] else ""
            )
            sock = _adopted(number, what)
            made.append(sock)
            endpoint = _endpoint(sock, what)
            group = found.setdefault(endpoint, Bound(endpoint))
            (group.udp if sock.type == socket.SOCK_DGRAM else group.tcp).append(sock)
            _prepare(sock, endpoint, what)
        for group in found.values():
            _whole(group)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return list(found.values())


def _passed(environment: MutableMapping[str, str]) -> tuple[int, list[str]]:
    """Return how many descriptors are meant for us, and their names."""
    count, pid, names = (environment.get(name, "") for name in _VARIABLES)
    if not count or pid != str(os.getpid()):
        return 0, []
    for name in _VARIABLES:
        environment.pop(name, None)
    if not count.isascii() or not count.isdigit():
        raise OperatorError(
            f"LISTEN_FDS={count}",
            "it is not a number",
            "Let systemd set it, or unset LISTEN_FDS to use --listen",
        )
    return int(count), names.split(":") if names else []


def _adopted(number: int, what: str) -> socket.socket:
    """Return descriptor *number* as a socket that children do not inherit."""
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            raise OperatorError(
                what,
                "it is not a socket",
                "Pass only the DNS sockets: ListenDatagram= and ListenStream=",
            )
    except OSError as error:
        raise OperatorError(
            what,
            f"it is not open ({error.strerror})",
            "LISTEN_FDS says how many follow 2; pass as many",
        ) from None
    os.set_inheritable(number, False)
    return socket.socket(fileno=number)


def _endpoint(sock: socket.socket, what: str) -> Endpoint:
    """Return where *sock* is bound, after a look whether DNS can be served there."""
    do = (
        "Use ListenDatagram=[ADDR]:53 and ListenStream=[ADDR]:53 with Accept=no "
        "(deploy/internal-dns.socket)"
    )
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise OperatorError(what, f"it is an {sock.family.name} socket, not IPv6 or IPv4", do)
    if sock.type not in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        raise OperatorError(what, f"it is a {sock.type.name} socket, neither UDP nor TCP", do)
    if sock.type == socket.SOCK_STREAM and not sock.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        raise OperatorError(what, "it is a TCP socket that is not listening", do)
    name = sock.getsockname()
    scope = f"%{socket.if_indextoname(name[3])}" if len(name) == 4 and name[3] else ""
    endpoint = Endpoint(ip_address(name[0].partition("%")[0] + scope), name[1])
    if not endpoint.port:
        raise OperatorError(what, "it is bound to no port", do)
    if endpoint.host.is_unspecified and endpoint.host.version == 4:
        raise OperatorError(
            what,
            f"{endpoint} would not know which address was asked",
            "Name the IPv4 addresses one by one",
        )
    if endpoint.wildcard and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        why = f"{endpoint} takes IPv4 too, which would not know which address was asked"
        raise OperatorError(
            what,
            why,
            "Set BindIPv6Only=ipv6-only in the .socket unit; it cannot be changed once bound",
        )
    return endpoint


def _prepare(sock: socket.socket, endpoint: Endpoint, what: str) -> None:
    """Set what can still be set: packet info, replies from addresses that are not on the host, the
    buffer."""
    try:
        if endpoint.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            if endpoint.wildcard:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    except OSError as error:
        raise OperatorError(
            what,
            f"an option cannot be set: {error.strerror}",
            "Set FreeBind=yes in the .socket unit",
        ) from error
    if sock.type == socket.SOCK_DGRAM:
        # A time stamp (Timestamping= in the unit) would stand before packet info, and a reply
        # cannot take it back.
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 0)
        widen(sock)
    sock.setblocking(False)


def _whole(group: Bound) -> None:
    """See that an address has both transports: a query truncated over UDP is repeated over TCP."""
    for sockets, lacks, line in (
        (group.udp, "UDP", "ListenDatagram"),
        (group.tcp, "TCP", "ListenStream"),
    ):
        if not sockets:
            do = f"Add {line}={group.endpoint} to the .socket unit"
            raise OperatorError(f"inherited sockets of {group.endpoint}", f"{lacks} is missing", do)
