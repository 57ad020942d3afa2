"""An upstream that does as a test says: answers, lies, stays silent, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from tests.live.hosts import Host, client_socket


@dataclass(frozen=True, slots=True)
class Asked:
    """One query that reached the upstream."""

    octets: bytes
    stream: bool
    port: int = 0  # it came from

    @property
    def message(self) -> dns.message.Message:
        return dns.message.from_wire(self.octets)

    @property
    def name(self) -> str:
        return self.message.question[0].name.to_text().lower()

    @property
    def question(self) -> bytes:
        return self.octets[12 : len(self.octets) - 11]

    def reply(self, *records: str, rcode: int = 0, flags: int = 0, authority: Iterable[str] = ()) -> bytes:
        """A reply with these records (`@` is the name asked) in the question's own letter case."""
        message = dns.message.make_response(self.message, recursion_available=True)
        message.flags |= dns.flags.Flag(flags)
        message.set_rcode(dns.rcode.Rcode(rcode))
        asked = self.message.question[0].name.to_text()
        for section, texts in ((message.answer, records), (message.authority, authority)):
            for text in texts:
                owner, ttl, rdclass, rdtype, rdata = text.split(None, 4)
                owner = asked if owner == "@" else owner
                section.append(dns.rrset.from_text(owner, int(ttl), rdclass, rdtype, rdata))
        return message.to_wire(max_size=65_535)


# What is sent back, in order; a number is a wait in seconds.
Script = Callable[[Asked], Iterable[bytes | float]]


def silent(_: Asked) -> Iterable[bytes | float]:
    """Receive, and never answer."""
    return ()


def answering(*records: str, rcode: int = 0) -> Script:
    """Always answer so."""
    return lambda asked: [asked.reply(*records, rcode=rcode)]


class Upstream:
    """Serves UDP and TCP on one port of ::1, of *host* or of the machine itself."""

    def __init__(self, script: Script, host: Host | None = None) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.udp, self.tcp = host.inside(_bound) if host else _bound()
        self.port = self.udp.getsockname()[1]
        self.url, self.tcp_url = f"udp://[::1]:{self.port}", f"tcp://[::1]:{self.port}"
        self.ended = False
        self.thread = threading.Thread(target=self._serve)
        self.workers: list[threading.Thread] = []
        self.faults: list[BaseException] = []
        self.thread.start()

    def __enter__(self) -> Upstream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None and self.faults:
            raise self.faults[0]

    def close(self) -> None:
        self.ended = True
        for thread in (self.thread, *self.workers):
            thread.join(10)
            assert not thread.is_alive()
        self.udp.close()
        self.tcp.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.udp, selectors.EVENT_READ)
            waiting.register(self.tcp, selectors.EVENT_READ)
            while not self.ended:
                for key, _ in waiting.select(0.02):
                    if key.fd == self.udp.fileno():
                        octets, peer = self.udp.recvfrom(65_535)
                        self._work(self._by_udp, octets, peer)
                    else:
                        connection, _ = self.tcp.accept()
                        self._work(self._by_tcp, connection)

    def _work(self, task: Callable[..., None], *about: Any) -> None:
        def run() -> None:
            try:
                task(*about)
            except (OSError, ValueError):
                pass  # the server may go away at any time
            except BaseException as error:
                self.faults.append(error)

        worker = threading.Thread(target=run)
        self.workers = [thread for thread in self.workers if thread.is_alive()] + [worker]
        worker.start()

    def _by_udp(self, octets: bytes, peer: tuple[Any, ...]) -> None:
        self._answer(Asked(octets, False, peer[1]), lambda reply: self.udp.sendto(reply, peer))

    def _by_tcp(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(5)
            stream = connection.makefile("rb")
            with contextlib.closing(stream):
                octets = stream.read(int.from_bytes(stream.read(2), "big"))
            if octets:
                self._answer(
                    Asked(octets, True), lambda reply: connection.sendall(len(reply).to_bytes(2, "big") + reply)
                )

    def _answer(self, asked: Asked, send: Callable[[bytes], object]) -> None:
        self.asked.append(asked)
        for said in self.script(asked):
            if isinstance(said, bytes):
                send(said)
                continue
            end = time.monotonic() + said
            while time.monotonic() < end and not self.ended:
                time.sleep(0.01)


def _bound() -> tuple[socket.socket, socket.socket]:
    while True:
        udp = client_socket(socket.SOCK_DGRAM, "::1")
        tcp = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind(("::1", udp.getsockname()[1]))
        except OSError:  # another's port; the next one
            udp.close()
            tcp.close()
            continue
        tcp.listen(64)
        return udp, tcp
