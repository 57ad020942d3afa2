"""Ask upstreams what is not ours: a fresh connected socket a try, TCP when the reply is too large, SERVFAIL in time.

A reply counts when source (the socket is connected), id and question match to the letter; anything else that arrives is
ignored and the wait goes on. What an upstream says about our names or addresses is never relayed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import Final
from urllib.parse import urlsplit

from internal_dns.core import names
from internal_dns.core.catalog import NetworkId
from internal_dns.core.journey import Forward
from internal_dns.core.message import Body, message, relay
from internal_dns.core.names import Labels
from internal_dns.core.wire import AD, CD, HEADER, RD, TC, BadReply, Checked, Ede, Query, Rcode, Type, check_reply
from internal_dns.metrics import Metrics
from internal_dns.transport.sockets import Endpoint

TRY_TIMEOUT: Final = 1.2  # seconds
HEDGE: Final = 0.4  # seconds after which the next upstream is asked too
# glibc gives up, or asks again, after 5 s: an answer must be there before.
TOTAL_TIMEOUT: Final = 4.4
TRIES: Final = 3
PACKETS: Final = 4  # UDP messages and TCP connections a question may cost: the tries and one retry by TCP
PER_NETWORK: Final = 1_000
# DNS flag day 2020: what passes every path unfragmented.
OUR_SIZE: Final = 1_232
PUBLIC: Final = ("udp://1.1.1.1", "udp://9.9.9.9")
RESOLV_CONF: Final = Path("/etc/resolv.conf")

_TRY_ANOTHER: Final = frozenset({Rcode.FORMERR, Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED})
_log = logging.getLogger("internal_dns")


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where to forward to. `stream` asks by TCP from the start."""

    endpoint: Endpoint
    stream: bool = False

    @classmethod
    def parse(cls, url: str) -> Upstream:
        """Read `udp://ADDR[:PORT]`, `tcp://…` or a bare address. Raises ValueError in words for the operator."""
        parts = urlsplit(url if "//" in url else f"udp://{_bracketed(url)}")
        if parts.scheme in ("tls", "https"):
            raise ValueError(f"{url!r}: encrypted upstreams are not built yet; udp:// and tcp:// are")
        extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if parts.scheme not in ("udp", "tcp") or extra:
            raise ValueError(f"{url!r} is no upstream: write udp://ADDR:PORT or tcp://ADDR:PORT")
        endpoint = Endpoint.parse(parts.netloc, 53)
        if not endpoint.port:
            raise ValueError(f"{url!r}: nothing can be asked at port 0")
        return cls(endpoint, parts.scheme == "tcp")

    def __str__(self) -> str:
        return f"{'tcp' if self.stream else 'udp'}://{self.endpoint}"


def _bracketed(text: str) -> str:
    return f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text


def from_resolv_conf(is_own: Callable[[Endpoint], bool], path: Path = RESOLV_CONF) -> tuple[Upstream, ...]:
    """Return the host's own upstreams without this server's addresses, else public ones."""
    found = []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for words in (line.split() for line in lines):
        if len(words) > 1 and words[0] == "nameserver":
            try:
                upstream = Upstream.parse(words[1])
            except ValueError:
                continue
            if not is_own(upstream.endpoint):
                found.append(upstream)
    return tuple(found) or tuple(map(Upstream.parse, PUBLIC))


class Forwarder:
    """Forwards questions; one per server."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        metrics: Metrics,
        prefix: bytes,
        *,
        rules: Mapping[Labels, Sequence[Upstream]] | None = None,
        limit: int = 4_096,
    ) -> None:
        self.upstreams, self.metrics, self.prefix, self.limit = tuple(upstreams), metrics, prefix, limit
        self.rules = {suffix: tuple(to) for suffix, to in (rules or {}).items()}
        self.zones = frozenset(map(names.wire, (names.INTERNAL, names.FLYCAST, names.reverse_zone(prefix))))
        self.outstanding: Counter[NetworkId] = Counter()
        self.best: dict[tuple[Upstream, ...], int] = {}  # of each set of upstreams the one that last answered

    async def ask(self, forward: Forward) -> bytes:
        """Return the reply to a question that is not ours; never raises."""
        query, number = forward.query, forward.network
        if self.outstanding[number] >= PER_NETWORK or self.outstanding.total() >= self.limit:
            return self._fail(forward, "busy", (Ede.OTHER, "too many questions are waiting for upstreams"))
        self.outstanding[number] += 1
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT):
                return await self._ask_in_turn(forward, self._upstreams_for(query.labels))
        except TimeoutError:
            return self._fail(forward, "timeout", (Ede.NO_REACHABLE_AUTHORITY, "no upstream answered in time"))
        except Exception:
            _log.exception("forwarding failed")
            self.metrics.errors += 1
            return self._fail(forward, "error", None)
        finally:
            self.outstanding[number] -= 1
            if not self.outstanding[number]:
                del self.outstanding[number]

    def _upstreams_for(self, labels: Labels) -> tuple[Upstream, ...]:
        """Return the upstreams of the longest suffix with a rule, else the default ones."""
        for at in range(len(labels)):
            if found := self.rules.get(labels[at:]):
                return found
        return self.upstreams

    async def _ask_in_turn(self, forward: Forward, upstreams: tuple[Upstream, ...]) -> bytes:
        """Ask the upstream that last answered; when it fails, or after HEDGE seconds, the next. A good reply wins."""
        reached, start = False, self.best.get(upstreams, 0)
        order = [(start + number) % len(upstreams) for number in range(TRIES)]
        running: dict[asyncio.Task[Checked], int] = {}
        packets = iter(range(PACKETS))
        try:
            while order or running:
                if order:
                    at = order.pop(0)
                    running[asyncio.create_task(self._ask_one(forward.query, upstreams[at], packets))] = at
                done, _ = await asyncio.wait(
                    running, timeout=HEDGE if order else None, return_when=asyncio.FIRST_COMPLETED
                )  # fmt: skip
                for task in done:
                    at = running.pop(task)
                    try:
                        checked = task.result()
                    except BadReply as bad:
                        reached = True
                        if bad.injected:
                            why = "the upstream spoke for internal names"
                            return self._fail(forward, "injected", (Ede.BLOCKED, why))
                    except (OSError, TimeoutError, asyncio.IncompleteReadError):
                        pass
                    else:
                        reached = True
                        if checked.rcode < 16 and checked.rcode not in _TRY_ANOTHER:
                            self.best[upstreams] = at
                            self.metrics.forwards["answered"] += 1
                            return relay(checked, forward.query, forward.manner)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if reached:
            return self._fail(forward, "failing", (Ede.NETWORK_ERROR, "every upstream that answered failed"))
        return self._fail(forward, "unreachable", (Ede.NO_REACHABLE_AUTHORITY, "no upstream could be reached"))

    async def _ask_one(self, query: Query, upstream: Upstream, packets: Iterator[int]) -> Checked:
        """Ask one upstream once, by TCP if need be. Raises BadReply, OSError, TimeoutError, IncompleteReadError."""
        async with asyncio.timeout(TRY_TIMEOUT):
            for by in (self._by_tcp,) if upstream.stream else (self._by_udp, self._by_tcp):
                if next(packets, None) is None:
                    break
                checked = await by(query, upstream)
                if not checked.flags & TC:
                    return checked
        raise ConnectionError("no whole reply in as many packets as one question may take")

    async def _by_udp(self, query: Query, upstream: Upstream) -> Checked:
        # A socket of our own, not an asyncio endpoint: one whose making is cancelled half-way would never be closed.
        ident = secrets.token_bytes(2)
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[Checked] = loop.create_future()
        with socket.socket(upstream.endpoint.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(upstream.endpoint.sockaddr)
            sock.send(question(query, ident))
            loop.add_reader(sock, self._readable, sock, arrived, ident, query)
            try:
                return await arrived
            finally:
                loop.remove_reader(sock)

    def _readable(self, sock: socket.socket, arrived: asyncio.Future[Checked], ident: bytes, query: Query) -> None:
        """Take what has come: the reply ends the wait, anything else does not."""
        if arrived.done():
            return
        try:
            arrived.set_result(self._check(sock.recv(65_535), ident, query))
        except BlockingIOError:
            pass
        except OSError as error:
            arrived.set_exception(error)
        except BadReply as bad:
            # A forged packet must not end the wait for the true one; an injecting upstream must.
            if bad.injected:
                arrived.set_exception(bad)

    async def _by_tcp(self, query: Query, upstream: Upstream) -> Checked:
        ident = secrets.token_bytes(2)
        reader, writer = await asyncio.open_connection(str(upstream.endpoint.host), upstream.endpoint.port)
        try:
            asked = question(query, ident)
            writer.write(len(asked).to_bytes(2, "big") + asked)
            length = int.from_bytes(await reader.readexactly(2), "big")
            return self._check(await reader.readexactly(length), ident, query)
        finally:
            writer.close()

    def _check(self, octets: bytes, ident: bytes, query: Query) -> Checked:
        return check_reply(octets, ident, query.question, self.zones, self.prefix)

    def _fail(self, forward: Forward, outcome: str, ede: tuple[Ede, str] | None) -> bytes:
        self.metrics.forwards[outcome] += 1
        return message(Body(Rcode.SERVFAIL, aa=False, ede=ede), forward.query, forward.manner)


def question(query: Query, ident: bytes) -> bytes:
    """Return the query to an upstream: the client's question, CD, AD and DO, and none of its options (no ECS)."""
    flags = RD | query.flags & (CD | AD)
    dnssec_ok = bool(query.edns and query.edns.dnssec_ok)
    head = ident + pack("!5H", flags, 1, 0, 0, 1)
    assert len(head) == HEADER
    return head + query.question + b"\0" + pack("!HHIH", Type.OPT, OUR_SIZE, dnssec_ok << 15, 0)
