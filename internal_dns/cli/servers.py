"""Find the server that a command is meant for, and send it one query over DNS.

--server ADDR:PORT                   as given
the running server of the catalog    its socket says where it listens
the `listen` of the configuration    when it sets one
[::1]:1053, then 127.0.0.1:1053      where `internal-dns dev` listens
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from internal_dns.cli.common import USAGE
from internal_dns.cli.routes import is_local
from internal_dns.core.wire import MAX_MESSAGE, TC
from internal_dns.errors import OperatorError
from internal_dns.net import Endpoint
from internal_dns.transport.listen.sockets import IPV6_FREEBIND

if TYPE_CHECKING:
    import dns.message

    from internal_dns.config import Settings

DEV: Final = (Endpoint.parse("[::1]:1053"), Endpoint.parse("127.0.0.1:1053"))
_SOCKET_TIMEOUT: Final = 2.0  # seconds for the UNIX socket of a server on this host


@dataclass(frozen=True, slots=True)
class Running:
    """Where a running server says it listens."""

    listen: tuple[Endpoint, ...]
    admin: Endpoint | None
    console: Endpoint | None
    # UDP sockets per class of networks, of each address; None on the Python path.
    flows: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A reply, with the endpoint, source, transport and time of its query."""

    reply: dns.message.Message
    endpoint: Endpoint
    source: IPv4Address | IPv6Address
    tcp: bool
    milliseconds: float

    @property
    def rcode(self) -> int:
        return int(self.reply.rcode())


class NoReply(Exception):
    """No reply; the last endpoint tried, and the error there."""

    def __init__(self, endpoint: Endpoint, error: Exception) -> None:
        super().__init__(str(error) or type(error).__name__)
        self.endpoint, self.error = endpoint, error


def running(catalog: Path) -> Running | None:
    """Return where the server of *catalog* listens; None without a server, or for an old one."""
    from internal_dns.net import socket_path

    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(_SOCKET_TIMEOUT)
        try:
            server.connect(str(socket_path(catalog)))
            server.sendall(b'{"op": "where"}\n')
            reply: dict[str, Any] = json.loads(server.makefile("rb").readline())
            admin, console = (
                Endpoint.parse(reply[key]) if reply[key] else None for key in ("admin", "console")
            )
            flows = reply.get("flows")  # an older server does not say
            return Running(
                tuple(map(Endpoint.parse, reply["listen"])),
                admin,
                console,
                None if flows is None else tuple(flows),
            )
        except (OSError, ValueError, KeyError):
            return None


def meant_for(
    server: str | None, settings: Settings, catalog: Path, source: IPv6Address | None = None
) -> tuple[Endpoint, ...]:
    """Return the endpoints to query, in order. Raises OperatorError for an invalid *server*."""
    if server is not None:
        try:
            return (Endpoint.parse(server, 53),)
        except ValueError as error:
            do = "Write [::1]:1053 or 127.0.0.1:1053"
            raise OperatorError(f"--server {server}", str(error), do, USAGE) from error
    if found := running(catalog):
        listen: Sequence[Endpoint] = found.listen
    elif settings.origin["listen"] != "default":
        listen = settings.listen
    else:
        return DEV
    return tuple(specific(endpoint, settings.prefix, source) for endpoint in listen)


def specific(endpoint: Endpoint, prefix: bytes, source: IPv6Address | None = None) -> Endpoint:
    """Return an address that reaches *endpoint*: for a wildcard, loopback, or the server's address
    for a source of the prefix."""
    if not endpoint.wildcard:
        return endpoint
    if source is not None and source.packed.startswith(prefix):
        return replace(endpoint, host=IPv6Address(prefix + bytes(13) + b"\3"))
    return replace(endpoint, host=IPv6Address("::1"))


def ask_first(
    query: dns.message.QueryMessage,
    endpoints: Sequence[Endpoint],
    *,
    source: IPv4Address | IPv6Address | None = None,
    tcp: bool = False,
    timeout: float = 5.0,
) -> Asked:
    """Ask the endpoints in turn while nothing listens. Raises NoReply, or OSError when *source*
    cannot be used."""
    usable = [e for e in endpoints if source is None or e.host.version == source.version]
    failure: NoReply | None = None
    for endpoint in usable or endpoints:
        try:
            return ask(query, endpoint, source=source, tcp=tcp, timeout=timeout)
        except NoReply as error:
            failure = error
            if not _nothing_there(error.error):
                break
    assert failure is not None
    raise failure


def ask(
    query: dns.message.QueryMessage,
    endpoint: Endpoint,
    *,
    source: IPv4Address | IPv6Address | None = None,
    tcp: bool = False,
    timeout: float = 5.0,
) -> Asked:
    """Ask one server. Raises NoReply, or OSError when *source* is no address of this host.

    Not with `dns.query`: where the `doh` extra is installed, that module loads an HTTP client,
    which is most of the time that `dig` would take.
    """
    import dns.exception
    import dns.message

    wire = query.to_wire()
    with socket.socket(endpoint.family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
        if source is not None:
            _bind(sock, source)
        start = time.perf_counter()
        try:
            # Connected, so that "nothing listens there" (ICMP) ends the wait at once.
            sock.settimeout(timeout)
            sock.connect(endpoint.sockaddr)
            own = sock.getsockname()[0].partition("%")[0]
            sock.sendall(len(wire).to_bytes(2, "big") + wire if tcp else wire)
            while True:
                octets = _receive(sock, tcp, start + timeout)
                reply = dns.message.from_wire(octets)
                if query.is_response(reply):
                    break
            if reply.flags & TC and not tcp:  # the whole reply is had over TCP
                return ask(query, endpoint, source=source, tcp=True, timeout=timeout)
        except (OSError, dns.exception.DNSException) as error:
            raise NoReply(endpoint, error) from error
    address = IPv6Address(own) if ":" in own else IPv4Address(own)
    return Asked(reply, endpoint, address, tcp, (time.perf_counter() - start) * 1000)


def _receive(sock: socket.socket, tcp: bool, deadline: float) -> bytes:
    """Return one message. Raises OSError: TimeoutError at *deadline* (`time.perf_counter`)."""
    if not tcp:
        return _receive_part(sock, MAX_MESSAGE, deadline)
    length = int.from_bytes(_receive_exactly(sock, 2, deadline), "big")
    return _receive_exactly(sock, length, deadline)


def _receive_exactly(sock: socket.socket, count: int, deadline: float) -> bytes:
    octets = b""
    while len(octets) < count:
        part = _receive_part(sock, count - len(octets), deadline)
        if not part:
            raise ConnectionError("the server ended the connection without a whole reply")
        octets += part
    return octets


def _receive_part(sock: socket.socket, most: int, deadline: float) -> bytes:
    left = deadline - time.perf_counter()
    if left <= 0:
        raise TimeoutError("timed out")
    sock.settimeout(left)
    return sock.recv(most)


def _bind(sock: socket.socket, source: IPv4Address | IPv6Address) -> None:
    """Send from *source*, an address of this host. Raises OSError.

    One that is here by a local route alone can only be bound with FREEBIND, which would take any
    address.
    """
    if source.version == 6 and is_local(source):
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    sock.bind((str(source), 0))


def _nothing_there(error: Exception) -> bool:
    """Whether the host said at once that nobody would answer."""
    return isinstance(error, OSError) and not isinstance(error, TimeoutError)
