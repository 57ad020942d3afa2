"""One question on its way to upstreams, for all who wait for it.

The Plan (policy.py) says whom to ask when; here are the sockets. A try by UDP has a socket, port,
id and letter case of its own (0x20). What is not the reply is ignored, and once such a thing came
the question goes on by TCP.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from struct import pack
from typing import Any, Final, Protocol

from internal_dns.core.catalog import NetworkId
from internal_dns.core.relayed import Relayed, scrub
from internal_dns.core.wire import (
    AD,
    CD,
    MAX_MESSAGE,
    RD,
    TC,
    BadReply,
    Checked,
    Ede,
    Rcode,
    Type,
    check_reply,
    is_reply_to,
)
from internal_dns.forward.policy import HEDGE, Ask, GiveUp, Health, Plan, Wait
from internal_dns.forward.streams import Channel
from internal_dns.forward.upstreams import Upstream

# DNS flag day 2020: what passes every path unfragmented.
OUR_SIZE: Final = 1_232
PADDED: Final = 128  # RFC 8467: encrypted queries are a multiple of this long
_PADDING: Final = 12  # RFC 7830
_TRY_ANOTHER: Final = frozenset({Rcode.FORMERR, Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED})
_CASE_BIT: Final = bytes(
    0x20 if chr(octet).isascii() and chr(octet).isalpha() else 0 for octet in range(256)
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: QNAME (wire form, lower-cased), QTYPE, and the two bits that change a
    reply."""

    name: bytes
    qtype: int
    dnssec_ok: bool
    checking_disabled: bool

    @property
    def variant(self) -> int:
        """DO + 2 CD."""
        return self.dnssec_ok | self.checking_disabled << 1

    @property
    def key(self) -> bytes:
        """Under which a reply is kept, and asked for once however many ask."""
        return self.name + pack("!HB", self.qtype, self.variant)

    def section(self, *, mixed: bool) -> bytes:
        """Return the question section; *mixed*: in random letter case, which the reply must
        repeat."""
        name = mixed_case(self.name) if mixed else self.name
        return name + pack("!HH", self.qtype, 1)

    def query(self, section: bytes, *, padded: bool = False) -> bytes:
        """Return the query without its id: RD, AD, CD, DO, and no option of any client (so no ECS).

        AD asks for the upstream's verdict (RFC 6840 section 5.7); who gets it is decided when the
        reply is relayed.
        """
        head = pack("!5H", RD | AD | self.checking_disabled * CD, 1, 0, 0, 1) + section
        room = -(2 + len(head) + 11 + 4) % PADDED if padded else -4
        padding = pack("!HH", _PADDING, room) + bytes(room) if padded else b""
        return (
            head
            + b"\0"
            + pack("!HHIH", Type.OPT, OUR_SIZE, self.dnssec_ok << 15, len(padding))
            + padding
        )


NOBODY: Final = NetworkId(0)
PROBE: Final = Question(b"\0", Type.NS, False, False)


def mixed_case(name: bytes) -> bytes:
    """Return *name* with each letter in a case of its own (draft-vixie-dnsext-dns0x20)."""
    size = len(name)
    # Length octets are below 'A', so the wire form's letters are letters only. All octets at once:
    # 1 µs, not 10.
    letters = int.from_bytes(name.translate(_CASE_BIT), "big")
    chosen = int.from_bytes(secrets.token_bytes(size), "big") & letters
    return (int.from_bytes(name, "big") ^ chosen).to_bytes(size, "big")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer. `outcome` is the metric's label."""

    outcome: str
    ede: tuple[Ede, str]


BUSY: Final = Failure("busy", (Ede.OTHER, "too many questions are waiting for upstreams"))
_DEAD: Final = Failure("timeout", (Ede.NO_REACHABLE_AUTHORITY, "no upstream answered in time"))
_NOBODY: Final = Failure(
    "unreachable", (Ede.NO_REACHABLE_AUTHORITY, "no upstream could be reached")
)
_FAILING: Final = Failure("failing", (Ede.NETWORK_ERROR, "every upstream that answered failed"))
_INJECTED: Final = Failure("injected", (Ede.BLOCKED, "the upstream spoke for internal names"))
FAULT: Final = Failure("error", (Ede.OTHER, "the server failed on this question"))
LOOP: Final = Failure("loop", (Ede.OTHER, "an upstream leads back to this server"))
Outcome = Relayed | Failure


@dataclass(slots=True, eq=False)
class State:
    """One upstream as it has been: its health, its kept connections, its counters."""

    upstream: Upstream
    channel: Channel
    health: Health = field(default_factory=Health)
    queries: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by protocol
    replies: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # by RCODE
    failures: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by reason
    outstanding: int = 0  # tries
    probe_timer: asyncio.TimerHandle | None = None
    _sockaddr: Any = None

    @property
    def sockaddr(self) -> Any:
        """The address as sockets take it. Raises OSError while an interface in it does not
        exist."""
        if self._sockaddr is None:
            found = self.upstream.endpoint.sockaddr
            if any(found[3:]):
                return found  # an interface that went away and came back has another number
            self._sockaddr = found
        return self._sockaddr


class Guard(Protocol):
    """What all questions share: the room for sockets, and what is ours."""

    sockets: int
    limit: int
    zones: frozenset[bytes]
    prefix: bytes
    check: Callable[[Iterable[NetworkId], Callable[[], None]], None]

    def unheard(self, state: State, name: bytes) -> None:
        """An upstream did not answer for *name* in time."""

    def failed_on(self, asking: Asking) -> None:
        """An exception that nobody expected is being handled."""


@dataclass(slots=True, eq=False)
class Try:
    """One UDP message to an upstream, and the socket its reply comes to."""

    at: int
    sock: socket.socket
    ident: bytes
    section: bytes
    sent_at: float
    near_miss: bool = False


class Asking:
    """A question on its way. *done* is called once, with the outcome and the upstream's state if
    one answered."""

    def __init__(
        self,
        question: Question,
        states: Sequence[State],
        plan: Plan,
        guard: Guard,
        done: Callable[[Asking, Outcome, State | None], None],
        *,
        network: NetworkId = NOBODY,
        allow_prefix: bool = False,
        probe: bool = False,
    ) -> None:
        self.question, self.states, self.plan, self.guard, self.done = (
            question,
            states,
            plan,
            guard,
            done,
        )
        self.prefix = None if allow_prefix else guard.prefix
        self.network, self.probe = network, probe
        self.loop = asyncio.get_running_loop()
        self.waiters: dict[asyncio.Future[Outcome], NetworkId] = {}
        self.started_at = time.monotonic()  # the loop's own clock may count in milliseconds
        self.looping = False  # an upstream has asked us this meanwhile
        self.outcome: Outcome | None = None  # when it has ended
        self._tries: list[Try] = []
        self._streams: dict[asyncio.Task[None], tuple[int, float]] = {}
        self._answered: set[int] = set()  # upstreams that said anything, even no
        self._timer: asyncio.TimerHandle | None = None
        # Upstreams whose reply has come, and waits for its check's turn.
        self._unchecked: list[int] = []

    def go_on(self) -> None:
        """Do what the plan says, now and when it is time."""
        with self._fault_ends_it():
            if not self._unchecked:  # a reply that waits to be checked is no silence
                self._go_on()

    def _go_on(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self.outcome is None:
            match self.plan.step(self.loop.time()):
                case Ask(at) if self.states[at].upstream.scheme == "udp":
                    self._by_udp(at)
                case Ask(at):
                    self._by_stream(at, must=True)
                case Wait(until):
                    self._timer = self.loop.call_at(until, self.go_on)
                    return
                case GiveUp(reached):
                    late = self.loop.time() >= self.plan.end
                    self.end(_FAILING if reached else _DEAD if late else _NOBODY)

    async def wait(self, network: NetworkId, patience: float | None) -> Outcome:
        """Return the outcome for a client of *network*. Raises TimeoutError after *patience*
        seconds."""
        if self.outcome is not None:
            return self.outcome
        waiter: asyncio.Future[Outcome] = self.loop.create_future()
        self.waiters[waiter] = network
        try:
            return await (asyncio.wait_for(waiter, patience) if patience else waiter)
        finally:
            del self.waiters[waiter]

    def is_own(self, ident: bytes, section: bytes) -> bool:
        """Whether a query with this id and question, letter case included, is one of our own tries
        come back."""
        return any(each.ident == ident and each.section == section for each in self._tries)

    def end(self, outcome: Outcome, state: State | None = None) -> None:
        """Stop, and tell all who wait."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        if self._timer is not None:
            self._timer.cancel()
        self._count_silence(time.monotonic())
        for each in tuple(self._tries):
            self._close(each)
        for task in self._streams:
            task.cancel()
        try:
            self.done(self, outcome, state)
        finally:  # whatever went wrong in keeping it
            for waiter in self.waiters:
                if not waiter.done():
                    waiter.set_result(outcome)

    @contextmanager
    def _fault_ends_it(self) -> Iterator[None]:
        """A fault of ours costs this question, and those who wait for it are told."""
        try:
            yield
        except Exception:
            self.guard.failed_on(self)
            self.end(FAULT)

    def _count_silence(self, now: float) -> None:
        """Tell the health of upstreams that had time to answer, and did not."""
        waited = {each.at: each.sent_at for each in reversed(self._tries)}
        waited |= {at: since for at, since in self._streams.values()}
        for at, since in waited.items():
            if now - since >= HEDGE / 2 and at not in self._answered and at not in self._unchecked:
                self.guard.unheard(self.states[at], self.question.name)

    # ── by UDP ────────────────────────────────────────────────────────────────────────────────────

    def _by_udp(self, at: int) -> None:
        state = self.states[at]
        endpoint = state.upstream.endpoint
        section = self.question.section(mixed=True)
        ident = secrets.token_bytes(2)
        try:
            # A socket of our own, not an asyncio endpoint: connected, so that only the upstream can
            # speak, in one step.
            sock = socket.socket(endpoint.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                sock.connect(state.sockaddr)
                sock.send(ident + self.question.query(section))
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            state.failures["no socket" if error.errno in _NO_SOCKET else "unreachable"] += 1
            self.plan.unsent(at)
            return
        state.queries["udp"] += 1
        state.outstanding += 1
        self.guard.sockets += 1
        made = Try(at, sock, ident, section, time.monotonic())
        self._tries.append(made)
        self.loop.add_reader(sock, self._readable, made)

    def _readable(self, made: Try) -> None:
        """Take what has come: the reply ends the try, anything else does not."""
        with self._fault_ends_it():
            self._receive(made)

    def _receive(self, made: Try) -> None:
        try:
            octets = made.sock.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            self.states[made.at].failures["unreachable"] += 1
            self._close(made)
            self.plan.refused(made.at, reached=False)
            self.go_on()
            return
        if not is_reply_to(octets, made.ident, made.section):
            self._missed(made)
            return
        self.loop.remove_reader(made.sock)
        self._check_in_turn(made.at, octets, made.ident, made.section, made.sent_at, made)

    def _missed(self, made: Try) -> None:
        """Something that is not the reply came from the upstream's address: somebody may be
        guessing."""
        self.states[made.at].failures["near miss"] += 1
        if not made.near_miss and self.plan.by_stream():
            self._by_stream(made.at, must=False)
        made.near_miss = True

    def _close(self, made: Try) -> None:
        self._tries.remove(made)
        self.loop.remove_reader(made.sock)
        made.sock.close()
        self.states[made.at].outstanding -= 1
        self.guard.sockets -= 1

    # ── by TCP, TLS, HTTPS ────────────────────────────────────────────────────────────────────────

    def _by_stream(self, at: int, *, must: bool) -> None:
        """Ask over the kept connection. Unless it *must* answer, a reply by UDP is still awaited
        beside it."""
        task = self.loop.create_task(self._ask_stream(at, must))
        self._streams[task] = at, time.monotonic()
        task.add_done_callback(lambda done: self._streams.pop(done, None))

    async def _ask_stream(self, at: int, must: bool) -> None:
        with self._fault_ends_it():
            await self._ask_channel(at, must)

    async def _ask_channel(self, at: int, must: bool) -> None:
        state, sent_at = self.states[at], time.monotonic()
        section = self.question.section(mixed=False)
        state.queries["tcp" if state.upstream.scheme == "udp" else state.upstream.scheme] += 1
        state.outstanding += 1
        try:
            query = self.question.query(section, padded=state.upstream.encrypted)
            octets = await state.channel.ask(query, self.plan.by_stream)
        except OSError as error:
            if self.outcome is None:
                state.failures[_reason(error)] += 1
                if must:
                    self.plan.refused(at, reached=False)
                    self.go_on()
            return
        finally:
            state.outstanding -= 1
        if self.outcome is None:
            self._check_in_turn(at, octets, b"\0\0", section, sent_at, None)

    # ── what came ─────────────────────────────────────────────────────────────────────────────────

    def _check_in_turn(
        self, at: int, octets: bytes, ident: bytes, section: bytes, sent_at: float, made: Try | None
    ) -> None:
        """Have a reply checked when one of the networks that wait for it has its turn. The plan
        rests meanwhile: the time that this takes is not the upstream's."""
        took = time.monotonic() - sent_at
        self._unchecked.append(at)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        judge = partial(self._judge_now, at, octets, ident, section, took, made)
        networks = set(self.waiters.values()) or {self.network}
        self.guard.check(networks, judge)

    def _judge_now(
        self, at: int, octets: bytes, ident: bytes, section: bytes, took: float, made: Try | None
    ) -> None:
        self._unchecked.remove(at)
        if self.outcome is not None:
            return
        with self._fault_ends_it():
            self._judge(at, octets, ident, section, took, made)
            if self.outcome is None:
                if made is not None and made in self._tries:
                    self.loop.add_reader(made.sock, self._readable, made)
                if self._timer is None:
                    self.go_on()

    def _judge(
        self, at: int, octets: bytes, ident: bytes, section: bytes, took: float, made: Try | None
    ) -> None:
        """Take a reply that came after *took* seconds, and decide whether it ends the question."""
        state = self.states[at]
        try:
            checked = check_reply(octets, ident, section, self.guard.zones, self.prefix)
            if checked.flags & TC and made is not None:
                self._too_large(at, made)
                return
            if self._says_no(at, checked):
                relayed = None
            else:
                question = self.question
                relayed = scrub(
                    checked, question.name, question.qtype, dnssec_ok=question.dnssec_ok
                )
        except BadReply as bad:
            if bad.injected:
                state.failures["injected"] += 1
                self._answered.add(at)
                self.end(_INJECTED)
                return
            if made is not None and not bad.final:
                self._missed(
                    made
                )  # who guessed id and letter case may still have got the rest wrong
                return
            state.failures["malformed"] += 1
            relayed = None
        if relayed is not None:
            self._answered.add(at)
            state.health.answered(self.question.name, took)
            self.end(relayed, state)
            return
        self._answered.add(at)
        if made is not None:
            self._close(made)
        self.plan.refused(at, reached=True)
        self.go_on()

    def _says_no(self, at: int, checked: Checked) -> bool:
        """Count the reply; whether another upstream should be asked."""
        state = self.states[at]
        state.replies[checked.rcode] += 1
        if self.probe or (
            checked.rcode < 16 and checked.rcode not in _TRY_ANOTHER and not checked.flags & TC
        ):
            return False
        state.health.refused(self.question.name)
        return True

    def _too_large(self, at: int, made: Try) -> None:
        """TC is set: the whole of it is to be had by TCP."""
        self._answered.add(at)
        self._close(made)
        if self.plan.by_stream():
            self._by_stream(at, must=True)
        else:
            self.plan.refused(at, reached=True)
            self.go_on()


_NO_SOCKET: Final = frozenset(
    {23, 24, 105, 12}
)  # ENFILE, EMFILE, ENOBUFS, ENOMEM: ours, not the upstream's fault


def _reason(error: OSError) -> str:
    """Say what kept a connection from working, as the metric's label."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate"
    return "closed" if isinstance(error, ConnectionResetError) else "unreachable"
