"""Attempts of an outstanding query: one message over UDP, or one query over a channel.

    UdpAttempt     a socket of its own, or a shared one (sockets.py); a port, an id and letter case
                   (0x20) at random, all of which the reply must match; native/ does the same in C
    StreamAttempt  a channel: TCP and TLS (streams.py), HTTPS (https.py)

An attempt matches what arrives; what the reply says, the outstanding query decides.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from internal_dns.core.relayed import Relayed
from internal_dns.core.wire import HEADER, MAX_MESSAGE, is_bare_refusal, is_reply_to
from internal_dns.forward.channel import NoReply
from internal_dns.forward.plan import Plan
from internal_dns.forward.question import Question
from internal_dns.forward.sockets import SharedSocket
from internal_dns.forward.upstream_state import UpstreamState

if TYPE_CHECKING:
    from internal_dns.forward.native.upstream import Asked

# ENFILE, EMFILE, ENOBUFS, ENOMEM: our fault, not the upstream's.
NO_SOCKET: Final = frozenset({23, 24, 105, 12})
_NO_IDENT: Final = b"\0\0"  # channels set the id of a reply to 0


class Owner(Protocol):
    """The outstanding query of an attempt. No method raises, so that a fault costs one query."""

    question: Question
    plan: Plan
    probe: bool
    loop: asyncio.AbstractEventLoop

    def received(self, attempt: Attempt, octets: bytes, age: int = 0) -> None:
        """Take a reply that matches the attempt, and its age in seconds."""

    def received_simple(self, attempt: UdpAttempt, relayed: Relayed) -> None:
        """Take a reply that matches the attempt and was found to be simple, natively."""

    def received_bare(self, attempt: Attempt, rcode: int) -> None:
        """Take a header alone: the upstream may not know EDNS."""

    def received_other(self, attempt: UdpAttempt) -> None:
        """Take note that something else than the reply came: somebody may be guessing."""

    def lost(self, attempt: Attempt, reason: str, *, reached: bool) -> None:
        """Take note that the attempt has failed without a reply."""

    def fault(self) -> None:
        """End the query on the exception that is being handled."""


@dataclass(slots=True, eq=False)
class UdpAttempt:
    """One UDP message to an upstream, and the socket of its reply."""

    owner: Owner
    at: int  # the upstream's place in the query's list
    state: UpstreamState
    sock: socket.socket | SharedSocket | Asked
    edns: bool
    sent_at: float
    _ident: bytes = b""  # as sent; native sockets know it themselves
    _section: bytes = b""  # the question in random letter case
    near_miss: bool = False  # something else than the reply has come
    unchecked: bool = False  # its reply has come and awaits its check

    @classmethod
    def send(
        cls, owner: Owner, at: int, state: UpstreamState, now: float, *, edns: bool
    ) -> UdpAttempt:
        """Send the query of *owner* to the upstream of *state*. Raises OSError."""
        if (target := state.native) is not None:
            question = owner.question
            asked = target.ask(
                question.name,
                question.qtype,
                question.variant,
                edns=edns,
                now=owner.loop.time(),
                probe=owner.probe,
            )
            attempt = asked.recipient = cls(owner, at, state, asked, edns, now)
            state.queries["udp"] += 1
            state.outstanding += 1
            return attempt
        section = owner.question.section(mixed=True)
        query = owner.question.query(section, edns=edns)
        shared = state.pool.take(owner.loop.time()) if state.pool else None
        if shared is not None:
            ident = shared.free_ident()
            attempt = cls(owner, at, state, shared, edns, now, ident, section)
            shared.send(ident, query, attempt)
        else:
            ident = secrets.token_bytes(2)
            sock = _send_from_own_socket(state, ident + query)
            attempt = cls(owner, at, state, sock, edns, now, ident, section)
            owner.loop.add_reader(sock, attempt.read)
        state.queries["udp"] += 1
        state.outstanding += 1
        return attempt

    @property
    def ident(self) -> bytes:
        """The id that was sent."""
        if isinstance(self.sock, socket.socket | SharedSocket):
            return self._ident
        return self.sock.ident

    @property
    def section(self) -> bytes:
        """The question that was sent, in random letter case."""
        if isinstance(self.sock, socket.socket | SharedSocket):
            return self._section
        return self.sock.section

    def read(self) -> None:
        """Read from a socket of its own."""
        assert isinstance(self.sock, socket.socket)
        try:
            octets = self.sock.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            self.unreachable()
            return
        self.take(octets)

    def take(self, octets: bytes) -> None:
        """Match *octets*: only the reply ends the attempt."""
        if self.unchecked:
            return  # another reply on a shared socket; if the first one is bad, TCP will tell
        if is_reply_to(octets, self.ident, self.section):
            self.owner.received(self, octets)
        elif self.edns and is_bare_refusal(octets, self.ident):
            self.owner.received_bare(self, octets[3] & 15)
        else:
            self.owner.received_other(self)

    def take_simple(self, relayed: Relayed) -> None:
        """Take a reply that native code has matched and found to be simple."""
        self.owner.received_simple(self, relayed)

    def concerns(self, octets: bytes) -> bool:
        """Return whether *octets* have this question, in any letter case."""
        return octets[HEADER : HEADER + len(self.section)].lower() == self.section.lower()

    def count_near_miss(self) -> None:
        if not self.unchecked:
            self.owner.received_other(self)

    def unreachable(self) -> None:
        if not self.unchecked:
            self.owner.lost(self, "unreachable", reached=False)

    def pause(self) -> None:
        """Stop reading while the reply awaits its check: what is behind it may be the reply after
        all. A shared socket goes on for its other queries."""
        self.unchecked = True
        if isinstance(self.sock, socket.socket):
            self.owner.loop.remove_reader(self.sock)
        elif not isinstance(self.sock, SharedSocket):
            self.sock.pause()

    def resume(self) -> None:
        """Read again: it was not the reply."""
        if isinstance(self.sock, socket.socket):
            self.owner.loop.add_reader(self.sock, self.read)
        elif not isinstance(self.sock, SharedSocket):
            self.sock.resume()

    def close(self) -> None:
        if isinstance(self.sock, SharedSocket):
            self.sock.release(self.ident)
        else:
            if isinstance(self.sock, socket.socket):
                self.owner.loop.remove_reader(self.sock)
            self.sock.close()
        self.state.outstanding -= 1


def _send_from_own_socket(state: UpstreamState, octets: bytes) -> socket.socket:
    """Send from a new socket. It is connected, so that only the upstream's address can reply."""
    sock = socket.socket(state.upstream.endpoint.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(state.sockaddr())
        sock.send(octets)
    except BaseException:
        sock.close()
        raise
    return sock


class StreamAttempt:
    """One query over the channel of an upstream. *required*: without a reply the upstream is ruled
    out; else a reply over UDP is still awaited beside it."""

    ident: Final = _NO_IDENT

    def __init__(
        self,
        owner: Owner,
        at: int,
        state: UpstreamState,
        now: float,
        *,
        edns: bool,
        required: bool,
        retry: bool,
    ) -> None:
        self.owner, self.at, self.state, self.sent_at = owner, at, state, now
        self.edns, self.required, self.retry = edns, required, retry
        self.section = owner.question.section(mixed=False)
        self.over = False  # the owner has the reply, or needs none
        self.task = owner.loop.create_task(self._run())

    def cancel(self) -> None:
        self.over = True
        self.task.cancel()

    async def _run(self) -> None:
        try:
            await self._ask()
        except Exception:
            self.owner.fault()

    async def _ask(self) -> None:
        state, upstream = self.state, self.state.upstream
        query = self.owner.question.query(self.section, padded=upstream.encrypted, edns=self.edns)
        state.queries["tcp" if upstream.scheme == "udp" else upstream.scheme] += 1
        state.outstanding += 1
        try:
            octets, age = await state.channel.ask(query, self.owner.plan.may_send, retry=self.retry)
        except OSError as error:
            if not self.over:
                self.owner.lost(self, _reason(error), reached=_was_reached(error))
            return
        finally:
            state.outstanding -= 1
        if self.over:
            return
        if self.edns and is_bare_refusal(octets, _NO_IDENT):
            self.owner.received_bare(self, octets[3] & 15)
        else:
            self.owner.received(self, octets, age)


Attempt = UdpAttempt | StreamAttempt


def _was_reached(error: OSError) -> bool:
    """Return whether the upstream was there, and did not do what it should."""
    import ssl

    return isinstance(error, NoReply | ssl.SSLCertVerificationError)


def _reason(error: OSError) -> str:
    """Return the label of the metric for a channel that failed."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate"
    return "closed" if isinstance(error, NoReply) else "unreachable"
