"""An upstream that does as a test says: answers, lies, stays silent, and remembers what it was
asked.

Whatever the test, a query for a name that must never leave fails it: `must_stay` is written from
names.md alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.live.hosts import Host, client_socket

IDLE = 20  # seconds until a silent connection is closed

# names.md, "Never forwarded": our zones, localhost, RFC 6303 and friends.
OUR_ZONES = ("internal", "flycast", "a.a.d.f.ip6.arpa", "localhost")
LOCAL_ZONES = (
    *("home.arpa", "test", "invalid", "onion", "d.f.ip6.arpa"),
    *("local", "use-application-dns.net", "resolver.arpa"),
    *(f"{n}.100.in-addr.arpa" for n in range(64, 128)),
    *(
        "10.in-addr.arpa",
        "168.192.in-addr.arpa",
        "127.in-addr.arpa",
        "254.169.in-addr.arpa",
        "0.in-addr.arpa",
    ),
    *(f"{n}.172.in-addr.arpa" for n in range(16, 32)),
    *(
        "2.0.192.in-addr.arpa",
        "100.51.198.in-addr.arpa",
        "113.0.203.in-addr.arpa",
        "255.255.255.255.in-addr.arpa",
    ),
    *("0." * 32 + "ip6.arpa", "1." + "0." * 31 + "ip6.arpa"),
    *(f"{n}.e.f.ip6.arpa" for n in "89ab"),
    "8.b.d.0.1.0.0.2.ip6.arpa",
)


def must_stay(name: str, rdtype: int, overridden: Iterable[str] = ()) -> bool:
    """Whether this question must never reach an upstream, whatever the catalog; *overridden* zones
    have a rule."""
    name = "." + name.lower().removesuffix(".")

    def below(zones: Iterable[str]) -> bool:
        return name.endswith(tuple(f".{zone}" for zone in zones))

    if below(OUR_ZONES):
        return True
    if below(overridden):
        return False
    bare = name != "." and name.count(".") == 1
    return below(LOCAL_ZONES) or (bare and rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA))


@dataclass(frozen=True, slots=True)
class Asked:
    """One query that reached the upstream."""

    octets: bytes
    stream: bool
    port: int = 0  # it came from
    connection: int = 0  # the number of the TCP connection it came by, from 1
    at: float = 0.0  # on the monotonic clock

    @property
    def message(self) -> dns.message.Message:
        return dns.message.from_wire(self.octets)

    @property
    def spelled(self) -> str:
        """The name as it was sent, read here: a library would take most of the time of a flood."""
        labels, at = [], 12
        while length := self.octets[at]:
            labels.append(self.octets[at + 1 : at + 1 + length].decode("latin-1"))
            at += 1 + length
        return ".".join(labels) + "."

    @property
    def name(self) -> str:
        return self.spelled.lower()

    @property
    def first(self) -> str:
        """The first label of the name, lower-cased."""
        return self.name.split(".")[0]

    @property
    def rdtype(self) -> int:
        return int.from_bytes(self.question[-4:-2], "big")

    @property
    def question(self) -> bytes:
        return self.octets[12 : 12 + len(self.spelled) + (len(self.spelled) > 1) + 4]

    def denied(self) -> bytes:
        """NXDOMAIN without any record: the quickest reply."""
        return self.octets[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + self.question

    def reply(
        self,
        *records: str,
        rcode: int = 0,
        flags: int = 0,
        authority: Iterable[str] = (),
        additional: Iterable[str] = (),
        edns: bool = True,
    ) -> bytes:
        """A reply with these records (`@` is the name asked) in the question's own letter case."""
        message = dns.message.make_response(self.message, recursion_available=True)
        if not edns:
            message.use_edns(False)
        message.flags |= dns.flags.Flag(flags)
        message.set_rcode(dns.rcode.Rcode(rcode))
        asked = self.message.question[0].name.to_text()
        sections = (
            (message.answer, records),
            (message.authority, authority),
            (message.additional, additional),
        )
        for section, texts in sections:
            for text in texts:
                owner, ttl, rdclass, rdtype, rdata = text.split(None, 4)
                owner = asked if owner == "@" else owner
                section.append(dns.rrset.from_text(owner, int(ttl), rdclass, rdtype, rdata))
        return message.to_wire(max_size=65_535)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Octets that come from another port of the upstream than was asked (by UDP only)."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Raw:
    """Octets for a stream as they are, without a length, in pieces of *size* with a wait between
    them."""

    octets: bytes
    size: int = 65_537
    wait: float = 0.0

    @classmethod
    def framed(cls, reply: bytes, size: int = 65_537, wait: float = 0.0) -> Raw:
        return cls(len(reply).to_bytes(2, "big") + reply, size, wait)


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the connection; with a reset if *hard*."""

    hard: bool = False


# What is sent back, in order; a number is a wait in seconds.
Said = bytes | float | Elsewhere | Raw | HangUp
Script = Callable[[Asked], Iterable[Said]]


def silent(_: Asked) -> Iterable[Said]:
    """Receive, and never answer."""
    return ()


def answering(*records: str, rcode: int = 0) -> Script:
    """Always answer so."""
    return lambda asked: [asked.reply(*records, rcode=rcode)]


def after(seconds: float, script: Script) -> Script:
    """Wait first."""

    def waits(asked: Asked) -> Iterable[Said]:
        yield seconds
        yield from script(asked)

    return waits


def by_first_label(otherwise: Script, **scripts: Script) -> Script:
    """Let the first label of the name decide; `_` in a keyword stands for `-`."""
    table = {label.replace("_", "-"): script for label, script in scripts.items()}
    return lambda asked: table.get(asked.first, otherwise)(asked)


class _Gone(Exception):
    """The script hung up."""


class Upstream:
    """Serves UDP and TCP on one port of ::1, of *host* or of the machine itself.

    With *tls*, TCP is TLS. Without *listens*, nothing accepts by TCP: connections are refused.
    """

    def __init__(
        self,
        script: Script,
        host: Host | None = None,
        *,
        overridden: Iterable[str] = (),
        tls: ssl.SSLContext | None = None,
        listens: bool = True,
        port: int = 0,
    ) -> None:
        self.script, self.overridden, self.tls = script, tuple(overridden), tls
        self.asked: list[Asked] = []
        self.connections = 0
        self.faults: list[BaseException] = []
        self.inside = host.inside if host else _here
        self.udp, self.tcp = self.inside(lambda: _bound(port, listens))
        self.elsewhere: socket.socket | None = None
        self.port = self.udp.getsockname()[1]
        self.url, self.tcp_url = f"udp://[::1]:{self.port}", f"tcp://[::1]:{self.port}"
        self.tls_url = f"tls://[::1]:{self.port}"
        self.loop = asyncio.new_event_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.ready.wait(10)

    def __enter__(self) -> Upstream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error is None and self.faults:
            raise self.faults[0]

    def close(self) -> None:
        """End it at once: then connections to its port are refused, and datagrams answered by
        ICMP."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.ended.set)
            self.thread.join(10)
            assert not self.thread.is_alive()

    def named(self, text: str) -> list[Asked]:
        """The queries whose name has *text* in it."""
        return [asked for asked in tuple(self.asked) if text in asked.name]

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self._serve())
        except BaseException as error:
            self.faults.append(error)
            raise
        finally:
            self.loop.close()
            for sock in (self.udp, self.tcp, self.elsewhere):
                if sock:
                    sock.close()
            self.ready.set()

    async def _serve(self) -> None:
        self.ended = asyncio.Event()
        self.udp.setblocking(False)
        self.loop.add_reader(self.udp, self._readable)
        server = None
        if self.tcp:
            server = await asyncio.start_server(self._connected, sock=self.tcp, ssl=self.tls)
        self.ready.set()
        await self.ended.wait()
        self.loop.remove_reader(self.udp)
        if server:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                octets, peer = self.udp.recvfrom(65_535)
                said = self._hear(Asked(octets, False, peer[1], at=time.monotonic()))
                self._say_datagrams(said, peer)

    def _say_datagrams(self, said: Iterable[Said], peer: tuple[Any, ...]) -> None:
        """Send what can be sent at once here; from the first wait on, in a task."""

        async def send(what: Said) -> None:
            self._send_datagram(what, peer)

        todo = iter(said)
        for what in todo:
            if isinstance(what, int | float):
                self._start(self._say(todo, send, what))
                return
            self._send_datagram(what, peer)

    def _send_datagram(self, what: Said, peer: tuple[Any, ...]) -> None:
        if isinstance(what, Elsewhere):
            if not self.elsewhere:
                self.elsewhere = self.inside(lambda: client_socket(socket.SOCK_DGRAM, "::1"))
            self.elsewhere.sendto(what.octets, peer)
        elif isinstance(what, bytes):
            with contextlib.suppress(OSError):  # the asker may be gone
                self.udp.sendto(what, peer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection, port = self.connections, writer.get_extra_info("peername")[1]

        async def send(what: Said) -> None:
            if isinstance(what, HangUp):
                if what.hard:
                    writer.transport.abort()
                raise _Gone
            raw = (
                what
                if isinstance(what, Raw)
                else Raw.framed(what)
                if isinstance(what, bytes)
                else Raw(b"")
            )
            for at in range(0, len(raw.octets), raw.size):
                writer.write(raw.octets[at : at + raw.size])
                await writer.drain()
                if raw.wait:
                    await asyncio.sleep(raw.wait)

        async def serve() -> None:
            while True:
                async with asyncio.timeout(IDLE):
                    octets = await reader.readexactly(
                        int.from_bytes(await reader.readexactly(2), "big")
                    )
                said = self._hear(Asked(octets, True, port, connection, time.monotonic()))
                # Each query has a task: a slow one does not hold up those behind it.
                self._start(self._say(iter(said), send, over=writer.close))

        try:
            await serve()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            writer.close()

    def _hear(self, asked: Asked) -> Iterable[Said]:
        self.asked.append(asked)
        try:
            if must_stay(asked.name, asked.rdtype, self.overridden):
                raise AssertionError(f"this must never leave: {asked.spelled} {asked.rdtype}")
            return self.script(asked)
        except BaseException as error:
            self.faults.append(error)
            return ()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _say(
        self,
        said: Iterable[Said],
        send: Callable[[Said], Awaitable[None]],
        wait: float = 0.0,
        over: Callable[[], object] = bool,
    ) -> None:
        """Send what a script says; call *over* when it hangs up, or the asker has."""
        try:
            await asyncio.sleep(wait)
            for what in said:
                if isinstance(what, int | float):
                    await asyncio.sleep(what)
                else:
                    await send(what)
        except (OSError, _Gone):
            over()
        except Exception as error:
            self.faults.append(error)


class Nobody:
    """A port of ::1 that answers nothing: datagrams come back as ICMP errors, connections are
    refused."""

    def __init__(self) -> None:
        # A bound TCP socket that does not listen keeps the port from being given to somebody.
        self.tcp = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        self.tcp.bind(("::1", 0))
        self.port = self.tcp.getsockname()[1]
        self.url, self.tcp_url = f"udp://[::1]:{self.port}", f"tcp://[::1]:{self.port}"

    def __enter__(self) -> Nobody:
        return self

    def __exit__(self, *_: object) -> None:
        self.tcp.close()


def _here(make: Callable[[], Any]) -> Any:
    return make()


def _bound(port: int, listens: bool) -> tuple[socket.socket, socket.socket | None]:
    while True:
        udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        try:
            udp.bind(("::1", port))
            tcp.bind(("::1", udp.getsockname()[1]))
        except OSError:  # another's port; the next one
            udp.close()
            tcp.close()
            if port:
                raise
            continue
        if not listens:
            tcp.close()
            return udp, None
        tcp.listen(128)
        return udp, tcp
