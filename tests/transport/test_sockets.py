"""Listening sockets come in pairs."""

import socket

import pytest

from internal_dns.net import Endpoint
from internal_dns.transport.listen import sockets
from internal_dns.transport.listen.sockets import bind_pair


def test_a_port_that_tcp_has_already_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    bind, taken = sockets.bind, list[socket.socket]()

    def first_port_is_taken(
        endpoint: Endpoint, kind: socket.SocketKind, **how: bool
    ) -> socket.socket:
        made = bind(endpoint, kind, **how)
        if kind == socket.SOCK_DGRAM and not taken:
            taken.append(bind(Endpoint(endpoint.host, made.getsockname()[1]), socket.SOCK_STREAM))
        return made

    monkeypatch.setattr(sockets, "bind", first_port_is_taken)
    udp, tcp = bind_pair(Endpoint.parse("[::1]:0"))
    with udp, tcp, taken[0]:
        assert udp.getsockname()[1] == tcp.getsockname()[1] != taken[0].getsockname()[1]


def test_a_port_that_was_named_and_is_taken_is_an_error() -> None:
    with bind_holder() as held, pytest.raises(OSError, match="in use"):
        bind_pair(Endpoint.parse(f"[::1]:{held.getsockname()[1]}"))


def bind_holder() -> socket.socket:
    return sockets.bind(Endpoint.parse("[::1]:0"), socket.SOCK_STREAM)
