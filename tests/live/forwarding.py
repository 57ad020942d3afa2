"""Many cases at once against one server: each has a suffix of its own, with upstreams of its own.

What takes seconds (a dead upstream, a wait for the next) then takes them once, not once a case.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dns.message

from tests.live.hosts import Served, addresses, client_socket, outcome, query, serving
from tests.live.upstream import Nobody, Script, Upstream

GOOD, EVIL = "192.0.2.80", "203.0.113.66"


@dataclass(slots=True)
class Got:
    """One reply and how long it took; None: none came in time."""

    reply: dns.message.Message | None
    seconds: float
    octets: bytes = b""

    @property
    def outcome(self) -> str:
        return outcome(self.reply) if self.reply else "silence"

    @property
    def addresses(self) -> list[str]:
        return addresses(self.reply) if self.reply else []

    @property
    def ttls(self) -> list[int]:
        return [rrset.ttl for rrset in self.reply.answer] if self.reply else []


def ask_all(
    server: Served,
    messages: Sequence[dns.message.Message],
    *,
    timeout: float = 6,
    sources: int = 8,
    at: tuple[str, int] | None = None,
    spacing: float = 0.0,
) -> list[Got]:
    """Send all of *messages* from a few sockets, then wait for the replies: by id, in the order of
    the questions.

    *at* is another address of the server.
    """
    to = at or ("::1", server.port)
    done: list[Got | None] = [None] * len(messages)
    sent: dict[tuple[int, int], tuple[int, float]] = {}
    with ExitStack() as stack, selectors.DefaultSelector() as waiting:
        sockets = []
        for _ in range(min(sources, len(messages))):
            sock = stack.enter_context(client_socket(socket.SOCK_DGRAM, to[0]))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            sock.connect(to)
            sock.setblocking(False)
            waiting.register(sock, selectors.EVENT_READ)
            sockets.append(sock)
        for number, message in enumerate(messages):
            sock = sockets[number % len(sockets)]
            ident = number // len(sockets) + 1
            message.id = ident
            sent[sock.fileno(), ident] = (number, time.monotonic())
            sock.send(message.to_wire())
            if spacing:
                time.sleep(spacing)
        deadline, left = time.monotonic() + timeout, len(messages)
        while left and (rest := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(rest):
                octets = key.fileobj.recv(65_535)  # type: ignore[union-attr]
                number, begin = sent[key.fd, int.from_bytes(octets[:2], "big")]
                assert done[number] is None, f"two replies to {messages[number].question}"
                done[number] = Got(dns.message.from_wire(octets), time.monotonic() - begin, octets)
                assert messages[number].is_response(done[number].reply), done[number].reply  # type: ignore[union-attr, arg-type]
                left -= 1
    return [got or Got(None, timeout) for got in done]


def ask_by_tcp(server: Served, message: dns.message.Message, timeout: float = 6) -> Got:
    """Ask on a connection of its own."""
    begin = time.monotonic()
    with client_socket(socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(("::1", server.port))
        octets = message.to_wire()
        sock.sendall(len(octets).to_bytes(2, "big") + octets)
        with sock.makefile("rb") as stream:
            reply = stream.read(int.from_bytes(stream.read(2), "big"))
    assert len(reply) > 12, "the server hung up"
    return Got(dns.message.from_wire(reply), time.monotonic() - begin, reply)


@dataclass(slots=True)
class Case:
    """A question below a suffix that has upstreams of its own. `None` as a script: a port where
    nobody is."""

    name: str
    scripts: tuple[Script | None, ...]
    rdtype: str = "A"
    label: str = "www"
    ask: dict[str, object] = field(default_factory=dict)
    listens: bool = True
    scheme: str = "udp"

    @property
    def question(self) -> str:
        return f"{self.label}.{self.name}.example"


@dataclass(slots=True)
class Played:
    """What came of a case."""

    got: Got
    upstreams: list[Upstream]

    @property
    def packets(self) -> int:
        """What the question cost: datagrams and connections."""
        return sum(
            sum(not asked.stream for asked in upstream.asked) + upstream.connections
            for upstream in self.upstreams
        )

    @property
    def told(self) -> tuple[str, list[str]]:
        return self.got.outcome, self.got.addresses


@contextmanager
def gallery(
    catalog: Path, cases: Iterable[Case], folder: Path, udp_path: str = "auto"
) -> Iterator[tuple[Served, dict[str, list[Upstream]]]]:
    """A server with a rule for each case, and its upstreams by the case's name."""
    with ExitStack() as stack:
        found: dict[str, list[Upstream]] = {}
        rules = ["[forward]"]
        for case in cases:
            found[case.name], urls = [], []
            for script in case.scripts:
                if script is None:
                    port = stack.enter_context(Nobody()).port
                else:
                    upstream = stack.enter_context(Upstream(script, listens=case.listens))
                    found[case.name].append(upstream)
                    port = upstream.port
                urls.append(f'"{case.scheme}://[::1]:{port}"')
            rules.append(f'"{case.name}.example" = [{", ".join(urls)}]')
        config = folder / "rules.toml"
        config.write_text("\n".join(rules))
        default = stack.enter_context(Nobody())
        yield (
            stack.enter_context(
                serving(
                    catalog,
                    "--config",
                    str(config),
                    "--udp-path",
                    udp_path,
                    upstream=default.url,
                )
            ),
            found,
        )


def play_all(
    catalog: Path, cases: Sequence[Case], folder: Path, udp_path: str = "auto"
) -> dict[str, Played]:
    """Ask the questions of all cases at once."""
    with gallery(catalog, cases, folder, udp_path) as (server, upstreams):
        messages = [query(case.question, case.rdtype, **case.ask) for case in cases]
        found = ask_all(server, messages, sources=len(cases))
        return {
            case.name: Played(got, upstreams[case.name])
            for case, got in zip(cases, found, strict=True)
        }


def until_true(what: Callable[[], bool], seconds: float = 5) -> bool:
    """Whether *what* becomes true within *seconds*."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
