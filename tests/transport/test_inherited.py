"""Sockets that are passed to us: which are ours, what is set on them, and what is refused in which
words."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from internal_dns.errors import OperatorError
from internal_dns.transport.listen.inherited import inherited
from internal_dns.transport.listen.sockets import (
    IPV6_FREEBIND,
    RECEIVE_BUFFER,
    SO_RCVBUFFORCE,
    Bound,
)

FIRST = 200  # out of the way of what pytest has open
V6, V4, UDP, TCP = socket.AF_INET6, socket.AF_INET, socket.SOCK_DGRAM, socket.SOCK_STREAM


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as closing:
        yield closing


def bound(
    stack: ExitStack,
    family: socket.AddressFamily,
    kind: socket.SocketKind,
    host: str,
    port: int = 0,
    *,
    only_v6: bool = True,
    listens: bool = True,
) -> socket.socket:
    sock = stack.enter_context(socket.socket(family, kind))
    if family == V6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
    if host or port:
        sock.bind((host, port))
    if kind == TCP and listens:
        sock.listen()
    return sock


def pair(
    stack: ExitStack, family: socket.AddressFamily, host: str
) -> tuple[socket.socket, socket.socket]:
    tcp = bound(stack, family, TCP, host)
    return bound(stack, family, UDP, host, tcp.getsockname()[1]), tcp


def taken(stack: ExitStack, *sockets: socket.socket, **environment: str) -> list[Bound]:
    """What is found when *sockets* are passed. The copies are ours to close, the sockets stay
    open."""
    for number, sock in enumerate(sockets, FIRST):
        os.dup2(sock.fileno(), number)
        stack.callback(closed, number)
    variables = {"LISTEN_FDS": str(len(sockets)), "LISTEN_PID": str(os.getpid()), **environment}
    found = inherited(variables, FIRST)
    assert not variables.keys() & {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
    for group in found:
        for sock in (*group.udp, *group.tcp):
            stack.enter_context(sock)
    return found


def closed(number: int) -> None:
    with suppress(OSError):
        os.close(number)


@pytest.mark.parametrize(("family", "host"), [(V6, "::1"), (V4, "127.0.0.1"), (V6, "::")])
def test_udp_and_tcp_of_one_address_belong_together(
    stack: ExitStack, family: socket.AddressFamily, host: str
) -> None:
    udp, tcp = pair(stack, family, host)
    (group,) = taken(stack, udp, tcp)
    assert (str(group.endpoint.host), group.endpoint.port) == (host, udp.getsockname()[1])
    assert [s.type for s in group.udp] == [UDP]
    assert [s.type for s in group.tcp] == [TCP]
    assert not any(s.get_inheritable() or s.getblocking() for s in (*group.udp, *group.tcp))


def test_addresses_are_told_apart_in_any_order(stack: ExitStack) -> None:
    one, two = pair(stack, V6, "::1"), pair(stack, V4, "127.0.0.1")
    found = taken(stack, two[1], one[0], two[0], one[1])
    assert [str(group.endpoint.host) for group in found] == ["127.0.0.1", "::1"]
    assert all(len(group.udp) == len(group.tcp) == 1 for group in found)


def test_what_can_still_be_set_is_set(stack: ExitStack) -> None:
    (group,) = taken(stack, *pair(stack, V6, "::"))
    for option in (socket.IPV6_RECVPKTINFO, IPV6_FREEBIND):
        assert group.udp[0].getsockopt(socket.IPPROTO_IPV6, option) == 1


@pytest.mark.parametrize("option", [29, 35])  # SO_TIMESTAMP, SO_TIMESTAMPNS: Timestamping=us, =ns
def test_packet_info_is_all_that_comes_with_a_datagram(stack: ExitStack, option: int) -> None:
    udp, tcp = pair(stack, V6, "::")
    udp.setsockopt(socket.SOL_SOCKET, option, 1)
    (group,) = taken(stack, udp, tcp)
    client = bound(stack, V6, UDP, "::1")
    client.sendto(b"x", ("::1", group.endpoint.port))
    _, ancillary, _, _ = udp.recvmsg(1, 200)
    assert [(level, kind) for level, kind, _ in ancillary] == [
        (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
    ]


def test_a_buffer_is_never_made_smaller(stack: ExitStack) -> None:
    udp, tcp = pair(stack, V6, "::1")
    before = udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    with suppress(PermissionError):
        udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        before = 2 * RECEIVE_BUFFER  # the kernel tells the double
    taken(stack, udp, tcp)
    assert udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= before


def test_what_is_meant_for_another_process_is_not_ours(stack: ExitStack) -> None:
    assert inherited({}, FIRST) == []
    assert inherited({"LISTEN_FDS": "2"}, FIRST) == []
    assert inherited({"LISTEN_FDS": "2", "LISTEN_PID": "1"}, FIRST) == []
    assert taken(stack) == []


@pytest.mark.parametrize("number", ["two", "-1", "٢"])
def test_a_count_that_is_none(stack: ExitStack, number: str) -> None:
    with pytest.raises(OperatorError, match="is not a number"):
        taken(stack, LISTEN_FDS=number)


def test_a_descriptor_that_is_not_open(stack: ExitStack) -> None:
    with pytest.raises(OperatorError, match=r"descriptor 200 \(dns\): it is not open"):
        taken(stack, LISTEN_FDS="1", LISTEN_FDNAMES="dns")


@pytest.mark.parametrize(
    ("family", "kind", "host", "says"),
    [
        (V4, UDP, "0.0.0.0", "would not know which address was asked. Name the IPv4 addresses"),
        (V6, UDP, "", "is bound to no port"),
        (socket.AF_UNIX, UDP, "", "is an AF_UNIX socket"),
    ],
)
def test_sockets_that_cannot_serve(
    stack: ExitStack, family: socket.AddressFamily, kind: socket.SocketKind, host: str, says: str
) -> None:
    with pytest.raises(OperatorError, match=says):
        taken(stack, bound(stack, family, kind, host))


def test_tcp_must_listen(stack: ExitStack) -> None:
    with pytest.raises(OperatorError, match="is not listening"):
        taken(stack, bound(stack, V6, TCP, "::1", listens=False))


def test_a_wildcard_must_be_ipv6_only(stack: ExitStack) -> None:
    with pytest.raises(OperatorError, match="BindIPv6Only=ipv6-only"):
        taken(stack, bound(stack, V6, UDP, "::", only_v6=False))


@pytest.mark.parametrize(("at", "lacks"), [(0, "TCP"), (1, "UDP")])
def test_both_transports_are_needed(stack: ExitStack, at: int, lacks: str) -> None:
    with pytest.raises(OperatorError, match=f"{lacks} is missing"):
        taken(stack, pair(stack, V6, "::1")[at])


def test_what_was_refused_is_closed_but_lives_on_elsewhere(stack: ExitStack) -> None:
    udp, _ = pair(stack, V6, "::1")
    with pytest.raises(OperatorError):
        taken(stack, udp)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(FIRST)
    with socket.socket(V6, UDP) as client:
        client.sendto(b"still here", udp.getsockname())
        udp.settimeout(5)
        assert udp.recv(100) == b"still here"
